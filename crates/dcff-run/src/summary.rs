//! `summary.json`: the outcome of a run, complete enough for a table row.

use serde::{Deserialize, Serialize};

use crate::config::RunConfig;
use crate::description::Description;
use crate::error::{Error, Result};
use crate::rows::Score;
use crate::stage::StageCost;

/// The outcome of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The run's configuration.
    pub config: RunConfig,
    /// What the method says of itself; where earlier versions did not write it, [`RunFolder::summary`](crate::RunFolder::summary)
    /// asks for it.
    #[serde(default)]
    pub method: Option<Description>,
    /// After the last epoch.
    pub last: Outcome,
    /// After the chosen epoch, whose weights are the artefact.
    pub chosen: Outcome,
    /// How the epoch was chosen: `validation`, `test` (as published) or `last`.
    pub chosen_by: String,
    /// Kept and all channels of each space.
    pub widths: Vec<Width>,
    /// Under the `macs` convention.
    pub macs: Cost,
    /// Under the `published` convention.
    pub published_ops: Cost,
    /// Trained parameters.
    pub params: Cost,
    /// Parameters of the compact network, counted in `params`, that stand for what removed filters contributed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub constants: u64,
    /// Multiply-accumulates of the whole training, all stages and the collection of evidence included; 0 in the
    /// summaries of versions that did not count them. [`StageCost`] says what counts.
    #[serde(default)]
    pub training_macs: u64,
    /// The stages and what each cost.
    #[serde(default)]
    pub stages: Vec<StageCost>,
    /// Training images, held-out ones not counted.
    pub train_images: usize,
    /// Seconds spent in training, evaluation included, over all sittings.
    pub seconds: f64,
    /// Training images per second, the median of the epochs.
    pub images_per_second: f64,
    /// `cpu` and its vector instructions, on which the last bits of all numbers depend; or the GPU's name.
    pub device: String,
    /// Threads used on the CPU.
    pub threads: usize,
    /// The version of this library.
    pub dcff_version: String,
    /// The networks of a run that ends with several, beside the one that the figures above are of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub products: Vec<ProductSummary>,
}

/// One of several networks that a run ends with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProductSummary {
    /// The name of its folder in `products`.
    pub label: String,
    /// On the test images.
    pub test: Score,
    /// Under the `macs` convention.
    pub macs: Cost,
    /// Trained parameters.
    pub params: Cost,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Summary {
    /// What reports and model cards say of the method.
    pub fn method(&self) -> Description {
        self.method.clone().unwrap_or_default()
    }

    /// Checks that the accuracies are shares.
    ///
    /// # Errors
    /// The first that is not, with what was expected and what came.
    pub fn check_accuracies(&self) -> Result<()> {
        for (name, outcome) in [("last", self.last), ("chosen", self.chosen)] {
            let scores = [
                ("test", Some(outcome.test)),
                ("validation", outcome.validation),
            ];
            for (images, score) in scores {
                let accuracy = score.map_or(0.0, |score| score.accuracy);
                if !(0.0..=1.0).contains(&accuracy) {
                    return Err(Error::setting(
                        format!("{name}.{images}.accuracy"),
                        format!("expected 0 to 1, got {accuracy}"),
                    ));
                }
            }
        }
        Ok(())
    }
}

/// Accuracy after an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Counted from 1.
    pub epoch: usize,
    /// On the test images.
    pub test: Score,
    /// On the held-out training images, where there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<Score>,
}

/// The kept channels of a space.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Width {
    /// The space's name.
    pub space: String,
    /// Kept channels.
    pub kept: usize,
    /// All channels.
    pub of: usize,
}

/// A count in the full and in the compact network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// Before compression.
    pub full: u64,
    /// After compression.
    pub compact: u64,
}

/// The share of `full` that is gone in `compact`, in percent: 76.8 for a network with 23.2 % of the operations.
pub fn reduction_percent(full: u64, compact: u64) -> f64 {
    100.0 * (1.0 - compact as f64 / full as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lin et al., TPAMI 2023, table 1: VGG-16.
    #[test]
    fn a_reduction_is_a_share_of_the_whole() {
        assert!((reduction_percent(314_031_616, 72_771_956) - 76.83).abs() < 0.005);
    }
}
