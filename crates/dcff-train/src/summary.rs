//! `summary.json`: the outcome of a run, complete enough for a table row.

use dcff_flops::{Convention, Network, cost};
use dcff_models::Architecture;
use serde::{Deserialize, Serialize};

use crate::stage::StageCost;
use crate::{Result, RunConfig, Score};

/// The outcome of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The run's configuration.
    pub config: RunConfig,
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
    /// `cpu`, or the card's name.
    pub device: String,
    /// Threads used on the CPU.
    pub threads: usize,
    /// The version of this library.
    pub dcff_version: String,
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

/// Multiply-accumulates of `architecture` for one image.
pub(crate) fn macs(architecture: &Architecture) -> Result<u64> {
    Ok(cost(architecture, Convention::Macs, Network::Compact)?.ops())
}

/// The widths and costs of a pair of architectures: `(widths, macs, published operations, parameters)`.
pub(crate) fn costs(
    full: &Architecture,
    compact: &Architecture,
) -> Result<(Vec<Width>, Cost, Cost, Cost)> {
    let pairs = full.spaces.iter().zip(&compact.spaces);
    let widths = pairs
        .map(|(f, c)| Width {
            space: f.name.clone(),
            kept: c.width,
            of: f.width,
        })
        .collect();
    let [full_macs, compact_macs] = dcff_flops::costs(full, compact, Convention::Macs)?;
    let [full_published, compact_published] =
        dcff_flops::costs(full, compact, Convention::Published)?;
    Ok((
        widths,
        Cost {
            full: full_macs.ops(),
            compact: compact_macs.ops(),
        },
        Cost {
            full: full_published.ops(),
            compact: compact_published.ops(),
        },
        Cost {
            full: full_macs.params(),
            compact: compact_macs.params(),
        },
    ))
}
