//! The method: stages, the step of a search, what stands after it, and the compact network.

use std::collections::BTreeMap;

use candle_core::{Tensor, Var};
use dcff_flops::MaskedCost;
use dcff_models::{Architecture, Constants, Mode, Network, Parameter, Seeds, View, Views};
use dcff_nn::{LossNumbers, LossValue};
use dcff_run::{Description, LayerSelection, Recipe, geometric};
use serde::{Deserialize, Serialize};

use super::losses;
use super::masks::{self, Draw, Pair, ticket};
use super::settings::{Export, KdfsConfig, Landing, Start};
use super::taps::Tap;
use crate::costs::macs;
use crate::dense;
use crate::error::{Error, Result};
use crate::method::{
    Decision, End, EpochEnd, EpochStart, Filters, Method, Plan, Product, Saved, Setup,
};
use crate::optimizer::{Group, Id};
use crate::optimizers::Adamax;
use crate::random::Random;
use crate::seed::{Purpose, derive_seed};
use crate::stage::{DENSE, FINETUNE, SEARCH, Stage};
use crate::step::{Pass, Step};

/// What keeps Adamax's division finite, as the program of KDFS sets it.
const EPS: f64 = 1e-7;

/// What is added up of a search, unweighted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Terms {
    /// Cross-entropy.
    pub cross_entropy: f64,
    /// Distillation, the square of its temperature included.
    pub distillation: f64,
    /// Reconstruction, of every tap.
    pub reconstruction: Vec<f64>,
    /// The squared distance of the sampled cost from its target, in shares.
    pub cost: f64,
    /// The sampled cost.
    pub macs: u64,
}

/// What each term of the loss is multiplied by; reconstruction is the mean of the taps before.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Factors {
    /// Of cross-entropy.
    pub cross_entropy: f64,
    /// Of distillation.
    pub distillation: f64,
    /// Of reconstruction.
    pub reconstruction: f64,
    /// Of the distance from the target.
    pub cost: f64,
}

/// Noise for the filters of a layer, from the number of the step since the search began, the position of the layer among those
/// that are masked, and its number of filters.
pub type Noise = Box<dyn FnMut(usize, usize, usize) -> Vec<Pair>>;

/// Where a run stands, and the sums of its epoch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct State {
    phase: Phase,
    temperature: f64,
    /// Steps since the search began.
    steps: usize,
    /// Of this epoch.
    tally: Tally,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Phase {
    #[default]
    Dense,
    Search,
    Finetune,
}

/// Weighted terms times images, and what the further passes cost.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Tally {
    images: usize,
    cross_entropy: f64,
    distillation: f64,
    reconstruction: f64,
    cost: f64,
    /// The share of the whole network's cost that was sampled.
    sampled: f64,
    macs: u64,
}

/// A convolution whose filters are masked.
struct Masked {
    layer: String,
    /// `[C, 2]`: of being off, and of being on.
    logits: Var,
}

impl Masked {
    fn read(&self) -> Result<Vec<Pair>> {
        let rows = self.logits.as_detached_tensor().to_vec2::<f32>()?;
        Ok(rows.into_iter().map(|row| [row[0], row[1]]).collect())
    }
}

/// Searches for the filters that stay.
pub struct Kdfs {
    config: KdfsConfig,
    factors: Factors,
    seed: u64,
    /// The network before any compression, and what is counted of it.
    full: Option<Architecture>,
    cost: Option<MaskedCost>,
    masked: Vec<Masked>,
    taps: Vec<Tap>,
    teacher: Option<Network>,
    /// Multiply-accumulates that a search's step spends on an image beside the student's.
    extra: u64,
    noise: Option<Noise>,
    /// How batch norm behaves in a search.
    mode: Mode,
    state: State,
    last: Terms,
}

impl Kdfs {
    pub(super) const NAME: &'static str = "kdfs";

    /// The method with `config`.
    pub fn new(config: KdfsConfig) -> Self {
        Self {
            factors: Factors {
                cross_entropy: 1.0,
                distillation: config.distillation,
                reconstruction: config.reconstruction,
                cost: config.cost_weight,
            },
            config,
            seed: 0,
            full: None,
            cost: None,
            masked: Vec::new(),
            taps: Vec::new(),
            teacher: None,
            extra: 0,
            noise: None,
            mode: Mode::Train,
            state: State::default(),
            last: Terms::default(),
        }
    }

    /// Teaches with `teacher`, whatever the settings say.
    #[must_use]
    pub fn with_teacher(mut self, teacher: Network) -> Self {
        self.teacher = Some(teacher);
        self
    }

    /// Draws masks with `noise` in place of the run's own.
    #[must_use]
    pub fn with_noise(mut self, noise: Noise) -> Self {
        self.noise = Some(noise);
        self
    }

    /// Weighs the terms of the loss otherwise than the settings say.
    #[must_use]
    pub fn with_factors(mut self, factors: Factors) -> Self {
        self.factors = factors;
        self
    }

    /// The temperature of the masks.
    pub fn temperature(&self) -> f64 {
        self.state.temperature
    }

    /// The terms of the last step of a search.
    pub fn terms(&self) -> &Terms {
        &self.last
    }

    /// The masked convolutions with the choice that stands without chance: 1 for filters that are on, otherwise 0.
    ///
    /// # Errors
    /// Those of the device.
    pub fn tickets(&self) -> Result<Vec<(String, Vec<f32>)>> {
        let masked = self.masked.iter();
        masked
            .map(|masked| Ok((masked.layer.clone(), ticket(&masked.read()?))))
            .collect()
    }

    /// `maps` `[N, C, H, W]` of the tap at `index`, decoded.
    ///
    /// # Errors
    /// When there is none, and those of the device.
    pub fn decode(&self, index: usize, maps: &dcff_nn::Features) -> Result<dcff_nn::Features> {
        let tap = self.taps.get(index);
        let tap =
            tap.ok_or_else(|| Error::setting("method.taps", format!("there is no tap {index}")))?;
        tap.decode(maps)
    }

    fn phase(&self, epoch: usize, epochs: usize) -> Phase {
        match epoch {
            _ if epoch < self.config.dense_epochs => Phase::Dense,
            _ if epoch + self.config.finetune_epochs < epochs => Phase::Search,
            _ => Phase::Finetune,
        }
    }

    fn ticket_views(&self) -> Result<Views> {
        let tickets = self.tickets()?.into_iter();
        let views = tickets.map(|(layer, mask)| {
            let device = self.masked.first().map(|m| m.logits.device().clone());
            let mask = Tensor::new(mask, &device.unwrap_or(candle_core::Device::Cpu))?;
            Ok((layer, View::Mask(mask)))
        });
        views.collect()
    }

    /// The share of the whole network's cost that is left when the likelier choices stand.
    fn ticket_share(&self) -> Result<f64> {
        let Some(cost) = &self.cost else {
            return Ok(1.0);
        };
        let tickets = self.tickets()?;
        let kept: Vec<u64> = tickets.iter().map(|(_, mask)| masks::kept(mask)).collect();
        Ok(cost.at(&kept) as f64 / self.config.aim(cost).0)
    }

    /// What the epochs before are followed by when the search begins: the network becomes the teacher, and a new one learns, or a
    /// copy of it.
    fn begin(&mut self, start: &EpochStart<'_>) -> Result<Option<Network>> {
        if self.config.dense_epochs > 0 {
            self.teacher = Some(start.network.deep_copy()?);
        }
        let teacher = self.teacher.as_ref().ok_or_else(absent)?;
        let mut student = match self.config.start {
            Start::Teacher => teacher.deep_copy()?,
            Start::Drawn if self.config.dense_epochs == 0 => return Ok(None),
            Start::Drawn => {
                let seed = derive_seed(self.seed, Purpose::Weights, 0);
                Network::new(start.full, start.full, seed, teacher.device())?
            }
        };
        student.set_precision(start.network.precision());
        student.set_convolution(start.network.convolution());
        Ok(Some(student))
    }

    /// Decides what stands for every filter from now on, and how many choices are others than the likelier ones: filters that
    /// are on that would be off, and off that would be on.
    fn land(&mut self, full: &Architecture) -> Result<[(&'static str, usize); 2]> {
        let cost = self.cost.as_ref().ok_or_else(absent)?;
        let logits: Vec<Vec<Pair>> = self
            .masked
            .iter()
            .map(Masked::read)
            .collect::<Result<_>>()?;
        let before: Vec<Vec<bool>> = logits
            .iter()
            .map(|pairs| ticket(pairs).iter().map(|&m| m > 0.0).collect())
            .collect();
        let mut on = match self.config.land {
            Landing::Likeliest => before.clone(),
            Landing::Exactly => landed(&logits, cost, self.config.aim(cost)),
        };
        // A network that is cut in two keeps the likeliest filter where it is.
        let surest = |pairs: &[Pair]| {
            let key = |&i: &usize| pairs[i][1] - pairs[i][0];
            (0..pairs.len()).max_by(|a, b| key(a).total_cmp(&key(b)))
        };
        loop {
            let counts = on
                .iter()
                .map(|on| on.iter().filter(|&&on| on).count() as u64);
            let kept = cost.layers().iter().cloned().zip(counts).collect();
            if full.is_connected(&kept)? {
                break;
            }
            let empty = (0..on.len()).filter(|&layer| !on[layer].contains(&true));
            let keys = empty.filter_map(|layer| {
                let filter = surest(&logits[layer])?;
                Some((
                    layer,
                    filter,
                    logits[layer][filter][1] - logits[layer][filter][0],
                ))
            });
            let Some((layer, filter, _)) = keys.max_by(|a, b| a.2.total_cmp(&b.2)) else {
                break;
            };
            on[layer][filter] = true;
        }
        let (mut switched_on, mut switched_off) = (0, 0);
        for (layer, masked) in self.masked.iter().enumerate() {
            let mut pairs = logits[layer].clone();
            for (filter, pair) in pairs.iter_mut().enumerate() {
                match (before[layer][filter], on[layer][filter]) {
                    (true, false) => {
                        pair[1] = pair[0];
                        switched_off += 1;
                    }
                    (false, true) => {
                        pair[1] = pair[0].next_up();
                        switched_on += 1;
                    }
                    _ => {}
                }
            }
            let values =
                Tensor::from_vec(pairs.concat(), masked.logits.dims(), masked.logits.device())?;
            masked.logits.set(&values)?;
        }
        Ok([
            ("filters_switched_on", switched_on),
            ("filters_switched_off", switched_off),
        ])
    }

    /// What stands, layer by layer; a filter's score is how much more likely it is on than off, as the difference of its logits.
    fn selection(&self) -> Result<Vec<LayerSelection>> {
        let masked = self.masked.iter();
        masked
            .map(|masked| {
                let pairs = masked.read()?;
                let mask = ticket(&pairs);
                Ok(LayerSelection {
                    layer: masked.layer.clone(),
                    temperature: self.state.temperature,
                    entropy: 0.0,
                    overlap: None,
                    rank_correlation: None,
                    kept: (0..mask.len()).filter(|&i| mask[i] > 0.0).collect(),
                    scores: pairs.iter().map(|[off, on]| on - off).collect(),
                })
            })
            .collect()
    }

    fn search(&mut self, step: &mut Step<'_>) -> Result<LossValue> {
        let draws = self.draw(step)?;
        self.learn(step, &draws)
    }

    /// The masks of a step.
    fn draw(&mut self, step: &Step<'_>) -> Result<Vec<Draw>> {
        let mut draws = Vec::with_capacity(self.masked.len());
        for (index, masked) in self.masked.iter().enumerate() {
            let logits = masked.read()?;
            let noise = match &mut self.noise {
                Some(noise) => noise(self.state.steps, index, logits.len()),
                None => masks::noise(&mut Random::new(step.seed(index as u64)), logits.len()),
            };
            draws.push(Draw::new(&logits, &noise, self.state.temperature));
        }
        Ok(draws)
    }

    /// Passes and losses of a step with the masks that were drawn.
    fn learn(&mut self, step: &mut Step<'_>, draws: &[Draw]) -> Result<LossValue> {
        let device = step.network.device().clone();
        let temperature = self.state.temperature;
        let mut views = Views::dense();
        for (masked, draw) in self.masked.iter().zip(draws) {
            let mask = Tensor::new(draw.mask.as_slice(), &device)?;
            views.insert(&masked.layer, View::Mask(mask));
        }
        let positions: Vec<usize> = self.taps.iter().map(|tap| tap.position).collect();
        let pass = Pass {
            taps: &positions,
            mode: self.mode,
            ..Pass::train(&views)
        };
        let trace = step.forward(&pass, step.images)?;
        let teacher = self.teacher.as_ref().ok_or_else(absent)?;
        let mut how = teacher.how(Mode::Eval);
        how.taps = &positions;
        how.convolution = step.network.convolution();
        let dense = Views::dense();
        let told = teacher
            .program()
            .forward(teacher.weights(), &dense, step.images, &how)?;

        let ce = dcff_nn::cross_entropy(trace.logits(), step.labels, step.smoothing)?;
        let kd = losses::distillation(
            trace.logits(),
            told.logits(),
            self.config.distillation_temperature,
        )?;
        let numbers = ce.value.read()?;
        let factors = self.factors;
        let gradient =
            ((ce.grad * factors.cross_entropy)? + (kd.gradient * factors.distillation)?)?;
        let mut seeds = Seeds::from(gradient);
        let each = factors.reconstruction / self.taps.len().max(1) as f64;
        let mut reconstruction = Vec::with_capacity(self.taps.len());
        for tap in &self.taps {
            let kept =
                |trace: &dcff_models::Trace| trace.output(tap.position).cloned().ok_or_else(absent);
            let decoded = tap.loss(&kept(&trace)?, &kept(&told)?, each)?;
            reconstruction.push(decoded.loss);
            step.own(&format!("{DECODER}.{}.weight", tap.layer), decoded.weight)?;
            step.own(&format!("{DECODER}.{}.bias", tap.layer), decoded.bias)?;
            seeds
                .taps
                .extend(decoded.maps.map(|maps| (tap.position, maps)));
        }
        let of_masks = step.backward(trace, &pass, seeds)?;

        let cost = self.cost.as_ref().ok_or_else(absent)?;
        let (base, target) = self.config.aim(cost);
        let kept: Vec<u64> = draws.iter().map(Draw::kept).collect();
        let macs = cost.at(&kept);
        let excess = macs as f64 / base - target;
        let slopes = cost.slopes(&kept);
        for ((masked, draw), slope) in self.masked.iter().zip(draws).zip(slopes) {
            let of_cost = factors.cost * 2.0 * excess / base * slope as f64;
            let of_mask = of_masks
                .get(&masked.layer)
                .ok_or_else(absent)?
                .to_vec1::<f32>()?;
            let upstream: Vec<f32> = of_mask
                .iter()
                .map(|&g| (f64::from(g) + of_cost) as f32)
                .collect();
            let pairs: Vec<f32> = draw.pull_back(&upstream, temperature).concat();
            let gradient = Tensor::from_vec(pairs, masked.logits.dims(), &device)?;
            step.own(&format!("{MASK}.{}", masked.layer), gradient)?;
        }
        let terms = Terms {
            cross_entropy: numbers.mean,
            distillation: kd.value,
            reconstruction,
            cost: excess * excess,
            macs,
        };
        let images = step.images.dim(0)?;
        let mean = self.count(&terms, images, macs as f64 / base)?;
        self.last = terms;
        Ok(LossNumbers { mean, ..numbers }.into())
    }

    /// Adds the terms of a step to the epoch's; their weighted sum.
    fn count(&mut self, terms: &Terms, images: usize, sampled: f64) -> Result<f64> {
        let factors = self.factors;
        let taps = terms.reconstruction.len().max(1) as f64;
        let weighted = [
            ("cross-entropy", factors.cross_entropy * terms.cross_entropy),
            ("distillation", factors.distillation * terms.distillation),
            (
                "reconstruction",
                factors.reconstruction * terms.reconstruction.iter().sum::<f64>() / taps,
            ),
            ("cost", factors.cost * terms.cost),
        ];
        if let Some((term, value)) = weighted.iter().find(|(_, value)| !value.is_finite()) {
            return Err(Error::Term {
                term,
                value: *value,
            });
        }
        let tally = &mut self.state.tally;
        let sums = [
            &mut tally.cross_entropy,
            &mut tally.distillation,
            &mut tally.reconstruction,
            &mut tally.cost,
        ];
        for (sum, (_, value)) in sums.into_iter().zip(weighted) {
            *sum += value * images as f64;
        }
        tally.sampled += sampled * images as f64;
        tally.images += images;
        tally.macs += self.extra * images as u64;
        self.state.steps += 1;
        Ok(weighted.iter().map(|(_, value)| value).sum())
    }
}

fn absent() -> Error {
    Error::setting("method", "the search has not been set up")
}

/// The filters that are most likely on, as many as come closest to a share of the cost's base.
fn landed(logits: &[Vec<Pair>], cost: &MaskedCost, (base, share): (f64, f64)) -> Vec<Vec<bool>> {
    let mut order: Vec<(f32, usize, usize)> = Vec::new();
    for (layer, pairs) in logits.iter().enumerate() {
        let keys = pairs.iter().map(|[off, on]| on - off);
        order.extend(keys.enumerate().map(|(filter, key)| (key, layer, filter)));
    }
    // The likeliest first; of equals the earlier.
    order.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    let macs = |count: usize| {
        let mut kept = vec![0u64; logits.len()];
        order[..count]
            .iter()
            .for_each(|&(_, layer, _)| kept[layer] += 1);
        cost.at(&kept) as f64
    };
    let aim = share * base;
    let counts: Vec<usize> = (0..=order.len()).collect();
    let over = counts.partition_point(|&count| macs(count) <= aim);
    let closer = |a: usize, b: usize| {
        if (macs(a) - aim).abs() <= (macs(b) - aim).abs() {
            a
        } else {
            b
        }
    };
    let count = match over {
        0 => 0,
        over if over > order.len() => order.len(),
        over => closer(over - 1, over),
    };
    let mut on: Vec<Vec<bool>> = logits
        .iter()
        .map(|pairs| vec![false; pairs.len()])
        .collect();
    order[..count]
        .iter()
        .for_each(|&(_, layer, filter)| on[layer][filter] = true);
    on
}

/// How the names of the method's variables begin.
const MASK: &str = "mask";
const DECODER: &str = "decoder";
/// How the names of the teacher's tensors begin in a checkpoint.
const TEACHER: &str = "teacher";

impl Method for Kdfs {
    fn plan(&self, full: &Architecture, recipe: &Recipe) -> Result<Plan> {
        let c = &self.config;
        c.validate(full, recipe.epochs, self.teacher.is_some())?;
        let (dense, end) = (c.dense_epochs, recipe.epochs);
        let tune = end - c.finetune_epochs;
        let stage = |name, epochs: std::ops::Range<usize>, recipe: Recipe| Stage {
            name,
            schedule_from: epochs.start,
            epochs,
            recipe,
            compact: false,
            settings: BTreeMap::new(),
        };
        let mut stages = vec![
            Stage {
                // As a stage before pruning writes it where nothing penalises its scales.
                settings: [("scale_penalty", 0.0)].into(),
                ..stage(
                    DENSE,
                    0..dense,
                    recipe.for_stage(dense, recipe.learning_rate),
                )
            },
            stage(SEARCH, dense..tune, c.search(recipe)),
            Stage {
                compact: true,
                ..stage(FINETUNE, tune..end, c.finetune(recipe))
            },
        ];
        stages.retain(|stage| !stage.epochs.is_empty());
        Ok(Plan {
            stages,
            first_widths: full.widths(),
            filters: Filters::Computed,
            compact: None,
            dense_from: c.dense_from.clone(),
        })
    }

    fn check(&self, full: &Architecture) -> Result<()> {
        match &self.config.teacher {
            Some(teacher) => dense::whole(teacher, full).map(drop),
            None => Ok(()),
        }
    }

    fn describe(&self) -> Description {
        Description {
            label: format!("{}, {} MACs", Kdfs::NAME, self.config.target_macs),
            pipeline: Some(Kdfs::NAME.to_owned()),
            sentence: "Masks of its filters were drawn and learned under the guidance of a trained teacher, and what they left was fine-tuned, by the Knowledge-driven Differential Filter Sampler"
                .to_owned(),
            citation: Some(CITATION.to_owned()),
            ..Description::default()
        }
    }

    fn setup(&mut self, setup: &Setup<'_>) -> Result<()> {
        let (full, device) = (setup.full, setup.network.device());
        self.seed = setup.seed;
        self.full = Some(full.clone());
        let cost = MaskedCost::new(full, self.config.cost)?;
        self.masked.clear();
        for (index, (layer, &filters)) in cost.layers().iter().zip(cost.widths()).enumerate() {
            let seed = derive_seed(setup.seed, Purpose::Method, index as u64);
            let filters = filters as usize;
            let logits = Random::new(seed).normals(2 * filters, 1.0);
            self.masked.push(Masked {
                layer: layer.clone(),
                logits: Var::from_tensor(&Tensor::from_vec(logits, (filters, 2), device)?)?,
            });
        }
        self.cost = Some(cost);
        self.taps.clear();
        for (index, tap) in self.config.taps.iter().enumerate() {
            let position = full.position(tap).ok_or_else(|| {
                Error::setting("method.taps", format!("{} has no layer '{tap}'", full.name))
            })?;
            let seed = derive_seed(setup.seed, Purpose::Weights, 1 + index as u64);
            self.taps.push(Tap::new(full, position, seed, device)?);
        }
        let decoders: u64 = self.taps.iter().map(Tap::macs).sum();
        self.extra = macs(full)? + 3 * decoders;
        if let Some(teacher) = &self.config.teacher {
            self.teacher = Some(dense::whole(teacher, full)?.network(device)?);
        }
        Ok(())
    }

    fn variables(&self) -> Vec<(String, Var)> {
        let masks = self
            .masked
            .iter()
            .map(|masked| (format!("{MASK}.{}", masked.layer), masked.logits.clone()));
        let decoders = self.taps.iter().flat_map(|tap| {
            [("weight", &tap.weight), ("bias", &tap.bias)]
                .map(|(what, var)| (format!("{DECODER}.{}.{what}", tap.layer), var.clone()))
        });
        masks.chain(decoders).collect()
    }

    fn groups(&self, parameters: &[Parameter], stage: &Stage) -> Vec<Group> {
        let (masks, all) = (self.masked.len(), self.masked.len() + 2 * self.taps.len());
        let own = |range: std::ops::Range<usize>| range.map(Id::Own);
        let adamax = Adamax {
            eps: EPS,
            ..Adamax::default()
        };
        let decay = stage.recipe.weight_decay;
        let trained = Group::trained(parameters);
        match stage.name {
            SEARCH => vec![
                Group::new("search", trained.chain(own(masks..all)), adamax, decay),
                Group::new("masks", own(0..masks), adamax, 0.0),
            ],
            FINETUNE => vec![
                Group::new(FINETUNE, trained, adamax, decay),
                Group::frozen(own(0..all)),
            ],
            _ => {
                let mut groups = Group::all(parameters, &stage.recipe);
                groups.push(Group::frozen(own(0..all)));
                groups
            }
        }
    }

    fn epoch_start(&mut self, start: &EpochStart<'_>) -> Result<Decision> {
        let (epoch, epochs) = (start.epoch, start.epochs);
        let before = self.config.dense_epochs;
        self.state.phase = self.phase(epoch, epochs);
        self.state.tally = Tally::default();
        let mut decision = Decision::default();
        match self.state.phase {
            Phase::Dense => {}
            Phase::Search => {
                if epoch == before {
                    decision.network = self.begin(start)?;
                }
                let done = (epoch + 1 - before) as f64 / self.config.search_epochs(epochs) as f64;
                let (from, to) = (self.config.temperature_start, self.config.temperature_end);
                self.state.temperature = geometric(from, to, done);
            }
            Phase::Finetune => {
                if epoch == before + self.config.search_epochs(epochs) {
                    let changed = self.land(start.full)?;
                    decision.diagnostics = changed
                        .map(|(name, count)| (name.to_owned(), count as f64))
                        .into();
                    decision.selection = self.selection()?;
                }
                decision.views = self.ticket_views()?;
            }
        }
        Ok(decision)
    }

    fn step(&mut self, step: &mut Step<'_>) -> Result<LossValue> {
        match self.state.phase {
            Phase::Dense | Phase::Finetune => step.cross_entropy(),
            Phase::Search => self.search(step),
        }
    }

    fn epoch_end(&mut self) -> Result<EpochEnd> {
        let mut end = EpochEnd::default();
        match self.state.phase {
            Phase::Dense => {}
            Phase::Search => {
                let tally = &self.state.tally;
                let images = tally.images.max(1) as f64;
                end.macs = tally.macs;
                end.diagnostics = [
                    ("temperature", self.state.temperature),
                    ("loss_cross_entropy", tally.cross_entropy / images),
                    ("loss_distillation", tally.distillation / images),
                    ("loss_reconstruction", tally.reconstruction / images),
                    ("loss_cost", tally.cost / images),
                    ("macs_sampled", tally.sampled / images),
                    ("macs_likeliest", self.ticket_share()?),
                ]
                .map(|(name, value)| (name.to_owned(), value))
                .into();
            }
            Phase::Finetune => {
                let share = self.ticket_share()?;
                end.diagnostics = [("macs_likeliest".to_owned(), share)].into();
            }
        }
        Ok(end)
    }

    fn evaluation(&self) -> Result<Option<Views>> {
        match self.state.phase {
            Phase::Dense => Ok(None),
            Phase::Search | Phase::Finetune => Ok(Some(self.ticket_views()?)),
        }
    }

    fn finish(&mut self, end: End<'_>) -> Result<Vec<Product>> {
        let on = |mask: Vec<f32>| mask.into_iter().map(|m| m > 0.0).collect();
        let kept = self
            .tickets()?
            .into_iter()
            .map(|(layer, mask)| (layer, on(mask)))
            .collect();
        let constants = match self.config.export {
            Export::Exact => Constants::Carried,
            Export::Slice => Constants::Dropped,
        };
        let product = Product::new(String::new(), end.chosen.unmasked(&kept, constants)?);
        Ok(vec![match self.config.export {
            Export::Exact => product,
            Export::Slice => product.recalibrated(usize::MAX),
        }])
    }

    fn save(&self) -> Result<Saved> {
        let mut saved = Saved::values(&self.state)?;
        for (name, var) in self.variables() {
            saved.tensors.insert(name, var.as_detached_tensor());
        }
        // A teacher of its own is in no other file that stays as it is.
        if self.config.teacher.is_none()
            && let (Phase::Search, Some(teacher)) = (self.state.phase, &self.teacher)
        {
            for (name, tensor) in teacher.state()? {
                saved.tensors.insert(format!("{TEACHER}.{name}"), tensor);
            }
        }
        Ok(saved)
    }

    fn load(&mut self, saved: &Saved) -> Result<()> {
        self.state = saved.read()?;
        for (name, var) in self.variables() {
            let missing = || Error::setting(format!("checkpoint: {name}"), "is missing");
            let tensor = saved.tensors.get(&name).ok_or_else(missing)?;
            if tensor.dims() != var.dims() {
                let message = format!(
                    "expected the shape {:?}, got {:?}",
                    var.dims(),
                    tensor.dims()
                );
                return Err(Error::setting(format!("checkpoint: {name}"), message));
            }
            var.set(&tensor.to_device(var.device())?)?;
        }
        if let (None, Phase::Search, Some(full)) =
            (&self.config.teacher, self.state.phase, &self.full)
            && let Some(masked) = self.masked.first()
        {
            let tensors = saved.tensors.iter();
            let tensors = tensors.filter_map(|(name, tensor)| {
                let name = name.strip_prefix(TEACHER)?.strip_prefix('.')?;
                Some((name.to_owned(), tensor.clone()))
            });
            let mut teacher = Network::new(full, full, 0, masked.logits.device())?;
            teacher.load(&tensors.collect())?;
            self.teacher = Some(teacher);
        }
        Ok(())
    }
}

/// The paper.
const CITATION: &str = "@article{lin2023kdfs,\n  \
title   = {Filter Pruning for Efficient {CNN}s via Knowledge-driven Differential Filter Sampler},\n  \
author  = {Lin, Shaohui and Huang, Wenxuan and Xie, Jiao and Zhang, Baochang and Shen, Yunhang and Yu, Zhou and Han, Jungong and Doermann, David},\n  \
journal = {arXiv preprint arXiv:2307.00198},\n  \
year    = {2023}\n}\n";

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use candle_core::Device;
    use dcff_flops::Counting;
    use dcff_models::testing::noise;

    use super::*;
    use crate::step::Progress;

    /// A search of a ResNet-8 for small images.
    struct Searched {
        method: Kdfs,
        network: Network,
        images: Tensor,
        labels: Tensor,
    }

    impl Searched {
        fn new() -> Self {
            let device = Device::Cpu;
            let full = dcff_models::resnet_cifar("resnet8", [1; 3])
                .with_input([3, 8, 8])
                .with_classes(3);
            let mut config = KdfsConfig::new(&full, [0, 1, 1]).unwrap();
            config.temperature_start = 0.7;
            let teacher = Network::new(&full, &full, 3, &device).unwrap();
            let mut method = Kdfs::new(config).with_teacher(teacher);
            // Shifts: what is off would otherwise be where ReLU bends.
            let network = dcff_models::testing::trained(&full).unwrap();
            // The cost is a number of filters, and does not follow masks in between.
            method.factors.cost = 0.0;
            method.factors.distillation = 0.5;
            let recipe = Recipe::quick(2);
            let setup = Setup {
                full: &full,
                network: &network,
                recipe: &recipe,
                seed: 5,
            };
            method.setup(&setup).unwrap();
            method.state.temperature = 0.7;
            method.mode = Mode::Frozen;
            Self {
                method,
                network,
                images: Tensor::from_vec(noise(4 * 192, 1), (4, 3, 8, 8), &device).unwrap(),
                labels: Tensor::new(&[0u32, 2, 1, 1], &device).unwrap(),
            }
        }

        /// The loss with `draws`, or those of the step, and the gradients.
        fn step(&mut self, draws: Option<&[Draw]>) -> (f64, crate::step::StepGradients, Vec<Draw>) {
            let views = Views::dense();
            let batch = (&self.images, &self.labels);
            let at = Progress::default();
            let mut step = Step::new(&mut self.network, &views, batch, 0.0, at, 9);
            let draws = match draws {
                Some(draws) => draws.to_vec(),
                None => self.method.draw(&step).unwrap(),
            };
            let loss = self.method.learn(&mut step, &draws).unwrap();
            let loss = loss.read().unwrap().mean;
            (loss, step.into_gradients(), draws)
        }
    }

    fn numbers(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    /// Compares the slope of `loss` at 0 with differences. Some of the thousands of units change sides at any step, and which do
    /// moves a difference by a share of the whole gradient, of length `size`.
    fn agree(what: &str, slope: f64, size: f64, loss: &mut dyn FnMut(f32) -> f64) {
        let mut seen = Vec::new();
        for step in [1e-3, 2.5e-4] {
            let measured = (loss(step) - loss(-step)) / (2.0 * f64::from(step));
            if (slope - measured).abs() <= 2e-3 + 0.02 * size {
                return;
            }
            seen.push(measured);
        }
        panic!("{what}: {slope} of {size}, measured {seen:?}");
    }

    fn length(values: impl Iterator<Item = f64>) -> f64 {
        values.map(|v| v * v).sum::<f64>().sqrt()
    }

    /// A direction of length 1 without structure, and the slope of `gradient` along it.
    fn along(gradient: &[f32], seed: usize) -> (Vec<f32>, f64) {
        let direction = noise(gradient.len(), seed);
        let size = length(direction.iter().map(|&d| f64::from(d)));
        let direction: Vec<f32> = direction.iter().map(|d| d / size as f32).collect();
        let slope = gradient.iter().zip(&direction);
        let slope = slope.map(|(g, d)| f64::from(g * d)).sum();
        (direction, slope)
    }

    /// Masks, logits, decoders and weights, with running statistics: in training batch norm undoes what a filter's length does.
    #[test]
    fn gradients_are_those_of_finite_differences() {
        let mut searched = Searched::new();
        let (_, gradients, draws) = searched.step(None);
        // The logits of a filter get the mask's gradient times y (1 - y) / T, with opposite signs.
        let (mut seen, mut all) = (0, 0);
        let layers: Vec<String> = searched
            .method
            .masked
            .iter()
            .map(|m| m.layer.clone())
            .collect();
        for (layer, name) in layers.iter().enumerate() {
            let pairs = numbers(&gradients.own[&format!("{MASK}.{name}")]);
            let of_mask = |filter: usize| {
                let [off, on] = draws[layer].soft[filter].map(f64::from);
                f64::from(pairs[2 * filter + 1]) / (on * off / 0.7)
            };
            let size = length((0..pairs.len() / 2).map(of_mask));
            for filter in 0..4 {
                let mut moved = |by: f32| {
                    let mut draws = draws.clone();
                    draws[layer].mask[filter] += by;
                    searched.step(Some(&draws)).0
                };
                let slope = of_mask(filter);
                agree(&format!("{name}, mask {filter}"), slope, size, &mut moved);
                assert!((pairs[2 * filter] + pairs[2 * filter + 1]).abs() < 1e-7);
                seen += usize::from(slope.abs() > 1e-2);
                all += 1;
            }
        }
        assert!(2 * seen > all, "{seen} of {all} masks matter");

        let variables = searched.method.variables();
        let decoders = variables
            .iter()
            .filter(|(name, _)| name.starts_with(DECODER));
        for (name, variable) in decoders.cloned().collect::<Vec<_>>() {
            let before = variable.as_tensor().copy().unwrap();
            let gradient = numbers(&gradients.own[&name]);
            let (direction, slope) = along(&gradient, 7);
            let size = length(gradient.iter().map(|&g| f64::from(g)));
            let mut moved = |by: f32| {
                let along = Tensor::from_vec(direction.clone(), before.shape(), &Device::Cpu);
                let there = (&before + (along.unwrap() * f64::from(by)).unwrap()).unwrap();
                variable.set(&there).unwrap();
                let loss = searched.step(Some(&draws)).0;
                variable.set(&before).unwrap();
                loss
            };
            agree(&name, slope, size, &mut moved);
        }

        let state: HashMap<String, Tensor> =
            searched.network.state().unwrap().into_iter().collect();
        for (i, parameter) in searched.network.parameters().to_vec().iter().enumerate() {
            let Some(gradient) = gradients.network.get(i).map(numbers) else {
                continue;
            };
            let (direction, slope) = along(&gradient, 11);
            let size = length(gradient.iter().map(|&g| f64::from(g)));
            let mut moved = |by: f32| {
                let mut there = state.clone();
                let values = numbers(&state[&parameter.name]);
                let values = values.iter().zip(&direction).map(|(x, d)| x + by * d);
                let tensor = Tensor::from_vec(values.collect(), &parameter.shape[..], &Device::Cpu);
                there.insert(parameter.name.clone(), tensor.unwrap());
                searched.network.load(&there).unwrap();
                let loss = searched.step(Some(&draws)).0;
                searched.network.load(&state).unwrap();
                loss
            };
            agree(&parameter.name, slope, size, &mut moved);
        }
    }

    #[test]
    fn a_student_may_begin_as_its_teacher() {
        let mut searched = Searched::new();
        let full = searched.network.full().clone();
        let mut begun = |start: Start| {
            searched.method.config.start = start;
            let start = EpochStart {
                epoch: 0,
                epochs: 2,
                full: &full,
                network: &searched.network,
                views: &Views::dense(),
                probe: None,
            };
            let student = searched.method.begin(&start).unwrap();
            let teacher = searched.method.teacher.as_ref().unwrap();
            student.map(|student| {
                let tensors = student.parameters().iter().enumerate();
                tensors
                    .map(|(i, _)| numbers(student.tensor(i)) == numbers(teacher.tensor(i)))
                    .collect::<Vec<bool>>()
            })
        };
        assert_eq!(begun(Start::Drawn), None);
        assert!(begun(Start::Teacher).unwrap().into_iter().all(|same| same));
    }

    #[test]
    fn landing_meets_the_target_to_a_filter() {
        let full = dcff_models::by_name("resnet20").unwrap();
        let cost = MaskedCost::new(&full, Counting::True).unwrap();
        let widths = cost.widths().iter().enumerate();
        let logits: Vec<Vec<Pair>> = widths
            .map(|(layer, &width)| {
                let noise = Random::new(layer as u64).normals(2 * width as usize, 1.0);
                noise
                    .chunks_exact(2)
                    .map(|pair| [pair[0], pair[1]])
                    .collect()
            })
            .collect();
        for share in [0.25, 0.5, 0.8] {
            let on = landed(&logits, &cost, (cost.base(), share));
            let kept: Vec<u64> = on
                .iter()
                .map(|on| on.iter().filter(|&&on| on).count() as u64)
                .collect();
            let got = cost.at(&kept) as f64 / cost.base();
            assert!((got / share - 1.0).abs() < 0.01, "{got} for {share}");
        }
        let all = landed(&logits, &cost, (cost.base(), 1.0));
        assert!(all.iter().flatten().all(|&on| on));
    }
}
