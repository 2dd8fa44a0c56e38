//! Widths that meet a budget of operations or parameters.
//!
//! ```text
//! keep the channels of the highest keys, each group at least its floor, as many as  cost(widths) ≤ target  allows
//! ```
//!
//! A group of channels ([`ChannelGroup`]) gives its channels away one after another (or `round_to` at a time) in the order
//! of their keys, lowest first.
//! Without scores the key of the `j`-th of `n` channels is `(n − j) / n`, so that all groups shrink alike: a uniform rate.
//! With scores it is the score over the root mean square of the group's scores, so that the scale of a layer's weights
//! says nothing about its importance.
//!
//! The cost only grows as channels join, so bisection finds the longest prefix of the order that fits the target; then
//! each further block of channels that still fits is taken in the same order, until none does.
//! Costs are whole numbers from [`cost`].

use std::fmt;
use std::str::FromStr;

use dcff_models::{Architecture, ChannelGroup};
use serde::{Deserialize, Serialize};

use crate::{Convention, Form, cost};

/// What can go wrong with a budget.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BudgetError {
    /// A target that cannot be read.
    #[error("expected a share such as 25% or a whole number, got '{0}'")]
    Target(String),
    /// A setting out of its range.
    #[error("{field}: {message}")]
    Setting {
        /// Which one.
        field: &'static str,
        /// What was expected and what came.
        message: String,
    },
    /// The smallest widths allowed cost more than the target.
    #[error(
        "expected at least {smallest} {measure}, the cost of the smallest widths allowed, got {target}"
    )]
    Unreachable {
        /// What is counted.
        measure: Measure,
        /// The cost of the floors.
        smallest: u64,
        /// The target.
        target: u64,
    },
    /// The architecture is unsound.
    #[error(transparent)]
    Model(#[from] dcff_models::Error),
}

/// What a budget counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Measure {
    /// Multiply-accumulates of convolutions and linear layers, for one image.
    Macs,
    /// Trained parameters.
    Params,
}

impl Measure {
    /// The cost of `architecture`.
    ///
    /// # Errors
    /// When the architecture is unsound.
    pub fn of(self, architecture: &Architecture) -> dcff_models::Result<u64> {
        let table = cost(architecture, Convention::Macs, Form::Compact)?;
        Ok(match self {
            Self::Macs => table.ops(),
            Self::Params => table.params(),
        })
    }
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Macs => "MACs",
            Self::Params => "parameters",
        })
    }
}

/// How much of a cost may be left: `25%` of the full network's, or a number.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Target {
    /// A share of the full network's cost, above 0 and up to 1.
    Share(f64),
    /// A number of operations or parameters.
    Absolute(u64),
}

impl Target {
    /// The target as a number for a network whose full cost is `full`.
    pub fn of(self, full: u64) -> u64 {
        match self {
            Self::Share(share) => (full as f64 * share) as u64,
            Self::Absolute(number) => number,
        }
    }
}

impl FromStr for Target {
    type Err = BudgetError;

    /// # Errors
    /// When the text is neither a share above 0 % and up to 100 % nor a whole number above 0.
    fn from_str(text: &str) -> Result<Self, BudgetError> {
        let parsed = match text.trim().strip_suffix('%') {
            Some(percent) => percent
                .trim()
                .parse::<f64>()
                .ok()
                .filter(|percent| *percent > 0.0 && *percent <= 100.0)
                .map(|percent| Self::Share(percent / 100.0)),
            None => number(text.trim())
                .filter(|&number| number > 0)
                .map(Self::Absolute),
        };
        parsed.ok_or_else(|| BudgetError::Target(text.to_owned()))
    }
}

/// A whole number, such as `200_000_000` or `200M`; before `k`, `M` or `G` it may have decimals.
fn number(text: &str) -> Option<u64> {
    let text = text.replace('_', "");
    let units = [('k', 1e3), ('M', 1e6), ('G', 1e9)];
    let unit = units
        .iter()
        .find_map(|(letter, size)| Some((text.strip_suffix(*letter)?, size)));
    match unit {
        None => text.parse().ok(),
        Some((digits, size)) => {
            let plain = digits.bytes().all(|b| b.is_ascii_digit() || b == b'.');
            let value = digits.parse::<f64>().ok().filter(|_| plain)?;
            Some((value * size).round() as u64)
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Six digits, so that 33.3 % is not written as 33.300000000000004 %.
            Self::Share(share) => write!(f, "{}%", (share * 1e8).round() / 1e6),
            Self::Absolute(number) => number.fmt(f),
        }
    }
}

impl TryFrom<String> for Target {
    type Error = BudgetError;

    fn try_from(text: String) -> Result<Self, BudgetError> {
        text.parse()
    }
}

impl From<Target> for String {
    fn from(target: Target) -> Self {
        target.to_string()
    }
}

/// How wide a network may be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// What is counted.
    pub measure: Measure,
    /// How much of it may be left.
    pub target: Target,
    /// The share of each group's channels that stays whatever the scores, 0 to 1; one channel always stays.
    pub min_keep: f64,
    /// Widths are multiples of this, where a space has that many channels.
    pub round_to: usize,
}

impl Budget {
    /// The share that always stays unless said otherwise.
    pub const MIN_KEEP: f64 = 0.1;

    /// A budget with the default floor and no rounding.
    pub fn new(measure: Measure, target: Target) -> Self {
        Self {
            measure,
            target,
            min_keep: Self::MIN_KEEP,
            round_to: 1,
        }
    }

    /// Checks the settings' ranges.
    ///
    /// # Errors
    /// The first that is out of its range.
    pub fn validate(&self) -> Result<(), BudgetError> {
        let setting = |field, message| Err(BudgetError::Setting { field, message });
        if !(0.0..=1.0).contains(&self.min_keep) {
            return setting(
                "min_keep",
                format!("expected 0 to 1, got {}", self.min_keep),
            );
        }
        if self.round_to == 0 {
            return setting("round_to", "expected at least 1, got 0".to_owned());
        }
        Ok(())
    }

    /// The number of channels of a group of `channels` that always stay: a multiple of `round_to`, or all.
    pub fn floor(&self, channels: usize) -> usize {
        let share = (self.min_keep * channels as f64).ceil() as usize;
        share.max(1).next_multiple_of(self.round_to).min(channels)
    }

    /// The widths of `architecture` that meet the budget with the same share of every group.
    ///
    /// # Errors
    /// As [`Budget::allocate`].
    pub fn uniform(&self, architecture: &Architecture) -> Result<Vec<usize>, BudgetError> {
        self.validate()?;
        let groups = architecture.channel_groups()?;
        let lengths: Vec<usize> = groups.iter().map(ChannelGroup::len).collect();
        let floors: Vec<usize> = lengths.iter().map(|&length| self.floor(length)).collect();
        let keys: Vec<Vec<f64>> = lengths.iter().map(|&length| even_keys(length)).collect();
        let target = self.target.of(self.measure.of(architecture)?);
        let counts = self.allocate(architecture, &groups, &floors, &keys, target)?;
        Ok(architecture.widths_of(&groups, &counts))
    }

    /// How many channels of each of `architecture`'s groups stay so that the cost is at most `target`.
    ///
    /// `floors` always stay. `keys`, one list per group, are descending: the `j`-th is that of the `j`-th channel to join.
    ///
    /// # Errors
    /// When the floors cost more than the target, or a setting is out of its range.
    pub fn allocate(
        &self,
        architecture: &Architecture,
        groups: &[ChannelGroup],
        floors: &[usize],
        keys: &[Vec<f64>],
        target: u64,
    ) -> Result<Vec<usize>, BudgetError> {
        self.validate()?;
        let price = |counts: &[usize]| -> Result<u64, BudgetError> {
            let narrow = architecture.narrowed(&architecture.widths_of(groups, counts))?;
            Ok(self.measure.of(&narrow)?)
        };
        let smallest = price(floors)?;
        if smallest > target {
            return Err(BudgetError::Unreachable {
                measure: self.measure,
                smallest,
                target,
            });
        }
        // Blocks of channels above the floors as (key, group), the highest first; equal keys in the order of the groups.
        let mut order: Vec<(f64, usize)> = Vec::new();
        for (group, (keys, &floor)) in keys.iter().zip(floors).enumerate() {
            let blocks = keys.get(floor..).unwrap_or_default().chunks(self.round_to);
            let whole = blocks.filter(|block| block.len() == self.round_to);
            order
                .extend(whole.map(|block| (block.iter().sum::<f64>() / block.len() as f64, group)));
        }
        order.sort_by(|a, b| b.0.total_cmp(&a.0));
        let counts_of = |taken: usize| {
            let mut counts = floors.to_vec();
            for (_, group) in &order[..taken] {
                counts[*group] += self.round_to;
            }
            counts
        };
        let (mut fits, mut exceeds) = (0, order.len() + 1);
        while exceeds - fits > 1 {
            let middle = fits + (exceeds - fits) / 2;
            if price(&counts_of(middle))? <= target {
                fits = middle;
            } else {
                exceeds = middle;
            }
        }
        let mut counts = counts_of(fits);
        let mut full = vec![false; counts.len()];
        for &(_, group) in &order[fits..] {
            if full[group] {
                continue;
            }
            counts[group] += self.round_to;
            if price(&counts)? > target {
                // What does not fit now does not fit later, when the others are wider.
                counts[group] -= self.round_to;
                full[group] = true;
            }
        }
        Ok(counts)
    }
}

/// The keys of `channels` channels of which none is better than another.
pub fn even_keys(channels: usize) -> Vec<f64> {
    let n = channels as f64;
    (0..channels).map(|j| (n - j as f64) / n).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CIFAR: [&str; 7] = [
        "vgg16",
        "resnet20",
        "resnet32",
        "resnet44",
        "resnet56",
        "resnet110",
        "googlenet",
    ];

    fn budget(measure: Measure, target: &str) -> Budget {
        Budget::new(measure, target.parse().unwrap())
    }

    #[test]
    fn meets_the_target_within_one_percent_for_every_cifar_network() {
        for name in CIFAR {
            let full = dcff_models::by_name(name).unwrap();
            for (measure, target) in [
                (Measure::Macs, "25%"),
                (Measure::Macs, "50%"),
                (Measure::Params, "10%"),
                (Measure::Params, "40%"),
            ] {
                let budget = budget(measure, target);
                let widths = budget.uniform(&full).unwrap();
                let got = measure.of(&full.narrowed(&widths).unwrap()).unwrap();
                let aim = budget.target.of(measure.of(&full).unwrap());
                assert!(
                    got <= aim && got as f64 >= 0.99 * aim as f64,
                    "{name}, {target} of the {measure}: {got} for {aim}"
                );
                // The widths are those of some choice of channels, so the same network can be pruned to them.
                let groups = full.channel_groups().unwrap();
                full.counts_of(&groups, &widths).unwrap();
            }
        }
    }

    #[test]
    fn all_spaces_shrink_alike_without_scores() {
        let full = dcff_models::by_name("resnet56").unwrap();
        let widths = budget(Measure::Macs, "25%").uniform(&full).unwrap();
        for (space, &width) in full.spaces.iter().zip(&widths) {
            let share = width as f64 / space.width as f64;
            assert!(
                (share - 0.5).abs() < 0.07,
                "{}: {width} of {}",
                space.name,
                space.width
            );
        }
    }

    #[test]
    fn rounds_to_multiples_and_never_exceeds() {
        for name in CIFAR {
            let full = dcff_models::by_name(name).unwrap();
            let budget = Budget {
                round_to: 8,
                ..budget(Measure::Macs, "30%")
            };
            let widths = budget.uniform(&full).unwrap();
            assert!(
                widths.iter().all(|width| width.is_multiple_of(8)),
                "{name}: {widths:?}"
            );
            let got = Measure::Macs.of(&full.narrowed(&widths).unwrap()).unwrap();
            let all = Measure::Macs.of(&full).unwrap();
            assert!(
                got as f64 <= 0.3 * all as f64 && got as f64 > 0.2 * all as f64,
                "{name}: {got} of {all}"
            );
        }
    }

    #[test]
    fn the_highest_scores_stay_and_the_floor_holds() {
        let full = dcff_models::by_name("vgg16").unwrap();
        let groups = full.channel_groups().unwrap();
        let budget = budget(Measure::Macs, "25%");
        let floors: Vec<usize> = groups.iter().map(|g| budget.floor(g.len())).collect();
        // The fourth layer's channels are all worth more than any other, the fifth's less.
        let keys: Vec<Vec<f64>> = groups
            .iter()
            .enumerate()
            .map(|(i, group)| {
                let lift = [0.0, 0.0, 0.0, 9.0, -9.0].get(i).copied().unwrap_or(0.0);
                even_keys(group.len())
                    .iter()
                    .map(|key| key + lift)
                    .collect()
            })
            .collect();
        let target = budget.target.of(Measure::Macs.of(&full).unwrap());
        let counts = budget
            .allocate(&full, &groups, &floors, &keys, target)
            .unwrap();
        assert_eq!(counts[3], 128);
        // The floor is 26; a channel or two may fill up the rest of the budget.
        assert!((26..30).contains(&counts[4]), "{}", counts[4]);
        let got = Measure::Macs.of(&full.narrowed(&full.widths_of(&groups, &counts)).unwrap());
        let got = got.unwrap();
        assert!(
            got <= target && got as f64 > 0.99 * target as f64,
            "{got} for {target}"
        );
    }

    #[test]
    fn says_what_cannot_be_reached() {
        let full = dcff_models::by_name("vgg16").unwrap();
        let refused = budget(Measure::Macs, "1%")
            .uniform(&full)
            .unwrap_err()
            .to_string();
        assert!(
            refused.starts_with("expected at least ") && refused.contains("MACs"),
            "{refused}"
        );
        let bad = Budget {
            min_keep: 1.5,
            ..budget(Measure::Macs, "50%")
        };
        assert_eq!(
            bad.uniform(&full).unwrap_err().to_string(),
            "min_keep: expected 0 to 1, got 1.5"
        );
    }

    #[test]
    fn targets_round_trip() {
        assert_eq!("25%".parse::<Target>().unwrap(), Target::Share(0.25));
        assert_eq!(
            "10_000_000".parse::<Target>().unwrap(),
            Target::Absolute(10_000_000)
        );
        for text in ["25%", "12.5%", "33.3%", "1000000"] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
        for (text, number) in [
            ("200M", 200_000_000),
            ("1.5G", 1_500_000_000),
            ("12_3k", 123_000),
        ] {
            assert_eq!(text.parse::<Target>().unwrap(), Target::Absolute(number));
        }
        for text in [
            "0%", "101%", "0", "-3", "half", "", "%", "nan%", "M", "-1M", "nanM", "1e3M",
        ] {
            let error = text.parse::<Target>().unwrap_err().to_string();
            assert_eq!(
                error,
                format!("expected a share such as 25% or a whole number, got '{text}'")
            );
        }
    }
}
