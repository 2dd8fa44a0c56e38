//! Which subnets cost what: for every target the frequencies of image sizes and widths, from which subnets of that cost are drawn.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::space::{Draw, Space, Subnet, target_of};
use crate::error::{Error, Result};
use crate::random::Random;

/// How the subnets of the map are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Drawing {
    /// For each target in turn, near it: none stays empty.
    Stratified,
    /// Every width and size evenly and apart, as the authors do: costs heap up in the middle, and the ends may stay empty.
    Public,
}

/// Draws of a subnet of a target before it is given up.
const TRIES: usize = 2_000;
/// Draws for each target of a stratified map, as a multiple of the subnets it wants.
const PATIENCE: usize = 3;

/// How often each value was seen.
pub type Counts<T> = BTreeMap<T, u32>;

/// What was seen at one target.
#[derive(Clone, Debug, Default)]
struct Seen {
    sides: Counts<usize>,
    /// For each free space how often each width was drawn.
    widths: Vec<Counts<u16>>,
    subnets: BTreeSet<Subnet>,
    observations: usize,
}

/// Targets with the frequencies of what was seen there.
#[derive(Clone, Debug)]
pub struct Map {
    step: u64,
    /// Where subnets were looked for.
    wanted: Vec<u64>,
    targets: BTreeMap<u64, Seen>,
}

/// A row of the coverage report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coverage {
    /// Multiply-accumulates.
    pub target: u64,
    /// Subnets drawn.
    pub observations: usize,
    /// Of them different ones.
    pub subnets: usize,
}

impl Map {
    /// As [`Map::new`] with steps that make about `count` targets, larger ones where a target stays empty.
    ///
    /// # Errors
    /// When no step leaves a target between the smallest and the largest subnet.
    pub fn even(
        space: &Space,
        count: u64,
        drawing: Drawing,
        wanted: usize,
        seed: u64,
    ) -> Result<Self> {
        let [low, high] = space.ends()?;
        let mut drawn = Drawn::new(seed);
        let mut step = even_step(low, high, count);
        loop {
            let map = drawn.map(space, [low, high], step, drawing, wanted);
            let next = even_step(0, step + 1, 1);
            if map.is_ok() || targets(low, high, next).is_empty() {
                return map;
            }
            step = next;
        }
    }

    /// Draws subnets of `space` by `drawing`, `wanted` for each target, and books them under their targets, multiples of `step` between
    /// those of the smallest and of the largest subnet.
    ///
    /// # Errors
    /// When there is no target in between, or one stays empty.
    pub fn new(
        space: &Space,
        step: u64,
        drawing: Drawing,
        wanted: usize,
        seed: u64,
    ) -> Result<Self> {
        Drawn::new(seed).map(space, space.ends()?, step, drawing, wanted)
    }

    /// A map of targets that are multiples of `step`, at which nothing was seen yet.
    pub fn empty(step: u64) -> Self {
        Self {
            step,
            wanted: Vec::new(),
            targets: BTreeMap::new(),
        }
    }

    /// The targets at which subnets were looked for and none was seen, ascending.
    pub fn unseen(&self) -> Vec<u64> {
        let wanted = self.wanted.iter().copied();
        wanted
            .filter(|target| !self.targets.contains_key(target))
            .collect()
    }

    /// Books a draw, which is `subnet`, under `target`.
    pub fn observe(&mut self, target: u64, draw: &Draw, subnet: Subnet) {
        let seen = self.targets.entry(target).or_default();
        seen.widths.resize(draw.thousandths.len(), BTreeMap::new());
        *seen.sides.entry(draw.side).or_default() += 1;
        for (counts, &drawn) in seen.widths.iter_mut().zip(&draw.thousandths) {
            *counts.entry(drawn).or_default() += 1;
        }
        seen.subnets.insert(subnet);
        seen.observations += 1;
    }

    /// Multiply-accumulates from one target to the next.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// The targets that subnets were seen at, ascending.
    pub fn targets(&self) -> Vec<u64> {
        self.targets.keys().copied().collect()
    }

    /// How many subnets were seen at each target.
    pub fn coverage(&self) -> Vec<Coverage> {
        let row = |(&target, seen): (&u64, &Seen)| Coverage {
            target,
            observations: seen.observations,
            subnets: seen.subnets.len(),
        };
        self.targets.iter().map(row).collect()
    }

    /// How often each size of the images was seen at `target`, and of each free space each width in thousandths.
    pub fn frequencies(&self, target: u64) -> Option<(&Counts<usize>, &[Counts<u16>])> {
        let seen = self.targets.get(&target)?;
        Some((&seen.sides, &seen.widths))
    }

    /// A size and widths, each drawn apart from what was seen at `target`: together they may count to another one.
    pub fn draw(&self, target: u64, random: &mut Random) -> Option<Draw> {
        let seen = self.targets.get(&target)?;
        Some(Draw {
            side: *pick(&seen.sides, random)?,
            thousandths: seen
                .widths
                .iter()
                .map(|counts| pick(counts, random).copied())
                .collect::<Option<_>>()?,
        })
    }

    /// A subnet that counts to `target`: size and widths drawn apart from what was seen there, until their cost fits.
    ///
    /// # Errors
    /// When the target was not seen, or no draw fits.
    pub fn sample(&self, space: &Space, target: u64, random: &mut Random) -> Result<Subnet> {
        for _ in 0..TRIES {
            let Some(draw) = self.draw(target, random) else {
                break;
            };
            let subnet = space.subnet(&draw);
            if target_of(space.macs(&subnet)?, self.step) == target {
                return Ok(subnet);
            }
        }
        // Widths that were seen together fit.
        let seen = self.targets.get(&target).map(|seen| &seen.subnets);
        let known = seen.and_then(|subnets| subnets.iter().nth(random.below(subnets.len())));
        known.cloned().ok_or_else(|| {
            Error::setting(
                "method.target_step",
                format!("no subnet of {target} multiply-accumulates is known"),
            )
        })
    }
}

/// What was drawn so far, of any target: another step books it anew.
struct Drawn {
    random: Random,
    subnets: Vec<(Draw, Subnet, u64)>,
}

impl Drawn {
    fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed),
            subnets: Vec::new(),
        }
    }

    /// Remembers a draw and books it in `map`, where it counts to one of the targets `inner`.
    fn keep(&mut self, space: &Space, map: &mut Map, inner: &[u64], draw: Draw) -> Result<()> {
        let subnet = space.subnet(&draw);
        let macs = space.macs(&subnet)?;
        book(map, inner, &draw, &subnet, macs);
        self.subnets.push((draw, subnet, macs));
        Ok(())
    }

    /// The map of what is drawn and of what it still lacks; a stratified one is given up at the first target that stays empty.
    fn map(
        &mut self,
        space: &Space,
        [low, high]: [u64; 2],
        step: u64,
        drawing: Drawing,
        wanted: usize,
    ) -> Result<Map> {
        let inner = targets(low, high, step);
        if inner.is_empty() {
            return Err(Error::setting(
                "method.target_step",
                format!(
                    "expected targets between the smallest subnet's {low} and the largest one's {high} multiply-accumulates, got steps of {step}"
                ),
            ));
        }
        let mut map = Map::empty(step);
        map.wanted.clone_from(&inner);
        for (draw, subnet, macs) in &self.subnets {
            book(&mut map, &inner, draw, subnet, *macs);
        }
        match drawing {
            Drawing::Public => {
                for _ in self.subnets.len()..wanted * inner.len() {
                    let draw = space.uniform(&mut self.random);
                    self.keep(space, &mut map, &inner, draw)?;
                }
            }
            Drawing::Stratified => {
                for &target in &inner {
                    let found = |map: &Map| {
                        let seen = map.targets.get(&target);
                        seen.map_or(0, |seen| seen.subnets.len())
                    };
                    for _ in 0..PATIENCE * wanted {
                        if found(&map) >= wanted {
                            break;
                        }
                        // Anywhere in the target's stretch, so that its edges are met, too.
                        let part = self.random.between(-0.5, 0.5) * step as f64;
                        let near = (target as f64 + part).max(1.0) as u64;
                        let draw = space.near(near, 0.05, &mut self.random)?;
                        self.keep(space, &mut map, &inner, draw)?;
                    }
                    if found(&map) == 0 {
                        return Err(Error::setting(
                            "method.target_step",
                            format!(
                                "no subnet of {target} multiply-accumulates was found: expected larger steps than {step}, or a wider space"
                            ),
                        ));
                    }
                }
            }
        }
        Ok(map)
    }
}

/// Books a draw in `map` where it counts to one of the targets `inner`.
fn book(map: &mut Map, inner: &[u64], draw: &Draw, subnet: &Subnet, macs: u64) {
    let target = target_of(macs, map.step);
    if inner.binary_search(&target).is_ok() {
        map.observe(target, draw, subnet.clone());
    }
}

fn pick<'a, T>(counts: &'a Counts<T>, random: &mut Random) -> Option<&'a T> {
    let chosen = random.weighted(counts.values().map(|&count| f64::from(count)));
    counts.keys().nth(chosen)
}

/// Multiples of `step` between the targets of `low` and `high`, without these.
pub fn targets(low: u64, high: u64, step: u64) -> Vec<u64> {
    let step = step.max(1);
    let [first, last] = [low, high].map(|cost| target_of(cost, step));
    let inner = (first / step + 1)..(last / step);
    inner.map(|i| i * step).collect()
}

/// A step of 1, 2 or 5 times a power of ten that makes about `count` targets between `low` and `high`.
pub fn even_step(low: u64, high: u64, count: u64) -> u64 {
    let wanted = (high - low) / count.max(1);
    let mut power = 1u64;
    loop {
        for step in [power, 2 * power, 5 * power] {
            if step >= wanted {
                return step;
            }
        }
        power *= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space() -> Space {
        let full = dcff_models::by_name("resnet20").unwrap();
        Space::new(&full, 0.5, 4, 20, 4).unwrap()
    }

    #[test]
    fn a_stratified_map_leaves_no_target_empty_and_every_sample_hits_its_target() {
        let space = space();
        let step = 2_000_000;
        let map = Map::new(&space, step, Drawing::Stratified, 20, 3).unwrap();
        let [low, high] = space.ends().unwrap();
        assert_eq!(map.targets(), targets(low, high, step));
        let mut random = Random::new(9);
        for row in map.coverage() {
            assert!(
                row.subnets >= 1 && row.observations >= row.subnets,
                "{row:?}"
            );
            for _ in 0..20 {
                let subnet = map.sample(&space, row.target, &mut random).unwrap();
                assert_eq!(target_of(space.macs(&subnet).unwrap(), step), row.target);
            }
        }
        // The same seed draws the same map; widths drawn evenly leave the ends empty.
        let again = Map::new(&space, step, Drawing::Stratified, 20, 3).unwrap();
        assert_eq!(again.coverage(), map.coverage());
        let public = Map::new(&space, step, Drawing::Public, 20, 3).unwrap();
        assert!(public.targets().len() < map.targets().len());
        assert!(map.unseen().is_empty());
        let all = [public.targets(), public.unseen()].concat();
        assert_eq!(all.len(), map.targets().len());
    }

    #[test]
    fn steps_grow_until_no_target_is_empty() {
        let space = space();
        // The steps of a thousand targets are finer than what two draws meet.
        let map = Map::even(&space, 1000, Drawing::Stratified, 2, 3).unwrap();
        let [low, high] = space.ends().unwrap();
        assert!(map.step > even_step(low, high, 1000));
        assert_eq!(map.targets(), targets(low, high, map.step));
    }

    #[test]
    fn steps_and_targets_by_hand() {
        // 110 to 570 in steps of 10: the ends are the smallest and the largest subnet's own.
        let all = targets(107_000_000, 569_000_000, 10_000_000);
        assert_eq!((all.len(), all[0], all[44]), (45, 120_000_000, 560_000_000));
        assert_eq!(even_step(107_000_000, 569_000_000, 46), 20_000_000);
        assert_eq!(even_step(0, 1_000, 25), 50);
        // The next larger one.
        assert_eq!(even_step(0, 51, 1), 100);
        assert!(targets(100, 120, 50).is_empty());
    }
}
