//! The rows that an epoch adds to the tables of a run.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Mean loss and accuracy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// Mean cross-entropy in nats.
    pub loss: f64,
    /// The share of images whose largest logit is the label's, 0 to 1.
    pub accuracy: f64,
}

/// One row of `metrics.jsonl`: everything measured in an epoch except time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Counted from 1.
    pub epoch: usize,
    /// The stage it belongs to, in runs of several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// The learning rate of the epoch's last step.
    pub learning_rate: f64,
    /// Loss and accuracy over the augmented training images, as they were seen.
    pub train: Score,
    /// Over the held-out training images, where there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<Score>,
    /// Over the test images, where the best epoch is chosen on them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<Score>,
    /// What the method says of itself: temperature, entropy, overlap.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub method: BTreeMap<String, f64>,
}

/// One row of `timing.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    /// Counted from 1.
    pub epoch: usize,
    /// Training images per second of the epoch's training part.
    pub images_per_second: f64,
    /// Seconds for the method's work at the start of the epoch.
    pub method_seconds: f64,
    /// Seconds for training.
    pub train_seconds: f64,
    /// Seconds for evaluation.
    pub evaluation_seconds: f64,
}
