//! The settings of the method, and how the command line sets them.

use dcff_models::Architecture;
use serde::{Deserialize, Serialize};

use super::map::{Drawing, even_step, targets};
use super::space::Space;
use crate::error::{Error, Result};

/// The settings of [`PssNet`](super::PssNet); unless said otherwise the authors'.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PssNetConfig {
    /// The narrowest share of a channel space.
    #[serde(default = "three_quarters")]
    pub narrowest: f64,
    /// Widths are multiples of it.
    #[serde(default = "eight")]
    pub divisor: usize,
    /// Height and width of the smallest images; unless given 4/7 of the network's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub smallest_side: Option<usize>,
    /// Multiply-accumulates from one target to the next; unless given about 24 targets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_step: Option<u64>,
    /// How subnets are drawn before training.
    #[serde(default = "stratified")]
    pub map: Drawing,
    /// Subnets that are drawn for each target.
    #[serde(default = "hundred")]
    pub observations: usize,
    /// Subnets that a target remembers.
    #[serde(default = "fifty")]
    pub capacity: usize,
    /// The weight of a subnet's old score.
    #[serde(default = "nine_tenths")]
    pub decay: f64,
    /// How often a new subnet is tried, in the first epoch and behind the last; `[1, 1]` is uniform sampling.
    #[serde(default = "from_one")]
    pub exploration: [f64; 2],
    /// The temperature of draws from a pool, in the first epoch and behind the last.
    #[serde(default = "from_one")]
    pub temperature: [f64; 2],
    /// Training batches over which batch norm's statistics are measured for each network.
    #[serde(default = "nine")]
    pub recalibration: usize,
}

fn three_quarters() -> f64 {
    0.75
}

fn eight() -> usize {
    8
}

fn stratified() -> Drawing {
    Drawing::Stratified
}

fn hundred() -> usize {
    100
}

fn fifty() -> usize {
    50
}

fn nine_tenths() -> f64 {
    0.9
}

fn from_one() -> [f64; 2] {
    [1.0, 0.01]
}

fn nine() -> usize {
    9
}

/// The targets that a run has unless told otherwise.
pub(super) const TARGETS: u64 = 24;
/// Each has a pool of its own.
const MOST_TARGETS: u64 = 1000;

impl Default for PssNetConfig {
    fn default() -> Self {
        Self {
            narrowest: three_quarters(),
            divisor: eight(),
            smallest_side: None,
            target_step: None,
            map: stratified(),
            observations: hundred(),
            capacity: fifty(),
            decay: nine_tenths(),
            exploration: from_one(),
            temperature: from_one(),
            recalibration: nine(),
        }
    }
}

impl PssNetConfig {
    /// The subnets of `full`.
    ///
    /// # Errors
    /// When the network cannot be sliced, or not be run on the smallest images.
    pub fn space(&self, full: &Architecture) -> Result<Space> {
        let side = full.input[1];
        // 8 for 224 pixels, as in the authors' program.
        let step = match side {
            128.. => 8,
            32.. => 4,
            16.. => 2,
            _ => 1,
        };
        let smallest = self
            .smallest_side
            .unwrap_or_else(|| (side * 4 / 7).next_multiple_of(step));
        if smallest == 0 || smallest > side {
            return Err(Error::setting(
                "method.smallest_side",
                format!("expected 1 to {side} pixels, got {smallest}"),
            ));
        }
        let space = Space::new(full, self.narrowest, self.divisor, smallest, step)?;
        // A linear layer that reads more than one pixel has weights for one size.
        let of = |side: usize| full.clone().with_input([full.input[0], side, side]);
        for layer in &full.layers {
            if let (dcff_models::LayerKind::Linear(_), Some(at)) =
                (&layer.kind, full.position(&layer.name))
            {
                let [own, small] = [side, smallest].map(|side| of(side).shapes());
                let small = small.map_err(|error| {
                    let message = format!("expected images that the network takes, {side} pixels, got {smallest}: {error}");
                    Error::setting("method.smallest_side", message)
                })?;
                if own?.inputs(at) != small.inputs(at) {
                    return Err(Error::setting(
                        "method.smallest_side",
                        format!(
                            "{} reads maps whose size follows the images': expected {side}, got {smallest}",
                            layer.name
                        ),
                    ));
                }
            }
        }
        Ok(space)
    }

    /// Multiply-accumulates from one target to the next.
    ///
    /// # Errors
    /// When no target lies between the smallest and the largest subnet.
    pub fn target_step(&self, space: &Space) -> Result<u64> {
        let [low, high] = space.ends()?;
        let step = self
            .target_step
            .unwrap_or_else(|| even_step(low, high, TARGETS));
        let count = (high - low) / step.max(1);
        if step == 0 || count > MOST_TARGETS || targets(low, high, step).is_empty() {
            return Err(Error::setting(
                "method.target_step",
                format!(
                    "expected steps that leave 1 to {MOST_TARGETS} targets between the smallest subnet's {low} and the whole network's {high} multiply-accumulates, got {step}"
                ),
            ));
        }
        Ok(step)
    }

    /// Checks the settings that hold for any network.
    pub(super) fn validate(&self) -> Result<()> {
        let check = |holds: bool, field: &str, message: String| match holds {
            true => Ok(()),
            false => Err(Error::setting(format!("method.{field}"), message)),
        };
        let share = |value: f64| value > 0.0 && value <= 1.0;
        check(
            share(self.narrowest),
            "narrowest",
            format!("expected more than 0 and up to 1, got {}", self.narrowest),
        )?;
        check(
            (0.0..1.0).contains(&self.decay),
            "decay",
            format!("expected 0 to less than 1, got {}", self.decay),
        )?;
        for (field, values) in [
            ("exploration", self.exploration),
            ("temperature", self.temperature),
        ] {
            check(
                values.into_iter().all(share),
                field,
                format!("expected two numbers of more than 0 and up to 1, got {values:?}"),
            )?;
        }
        for (field, value) in [
            ("divisor", self.divisor),
            ("observations", self.observations),
            ("capacity", self.capacity),
            ("recalibration", self.recalibration),
        ] {
            check(
                (1..=1_000_000).contains(&value),
                field,
                format!("expected 1 to 1000000, got {value}"),
            )?;
        }
        Ok(())
    }
}
