//! What a run reports while it goes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::evaluate::Score;

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

/// What happened.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The loop begins or goes on.
    Started {
        /// The epoch it starts in, counted from 0.
        epoch: usize,
        /// The step it starts at.
        step: usize,
        /// All epochs.
        epochs: usize,
        /// Steps of an epoch.
        steps: usize,
        /// Images of an epoch.
        images: usize,
    },
    /// A step is done.
    Step {
        /// Counted from 0.
        epoch: usize,
        /// Steps done in this epoch.
        step: usize,
        /// Images of this step.
        images: usize,
        /// The mean loss of the epoch so far.
        loss: f64,
        /// The accuracy of the epoch so far, 0 to 1.
        accuracy: f64,
        /// Training images per second since the loop began.
        images_per_second: f64,
        /// Expected seconds until the end of the run, evaluation included once an epoch has been timed.
        seconds_left: f64,
    },
    /// An epoch is done and its checkpoint written.
    Epoch {
        /// The row of `metrics.jsonl`.
        metrics: &'a Metrics,
        /// The row of `timing.jsonl`.
        timing: &'a Timing,
        /// All epochs.
        epochs: usize,
        /// Whether this epoch is the best so far.
        best: bool,
    },
}

/// Listens to a run.
pub trait Observer {
    /// Called on the training thread; slow listeners slow the run.
    fn event(&mut self, event: &Event<'_>);
}

impl<F: FnMut(&Event<'_>)> Observer for F {
    fn event(&mut self, event: &Event<'_>) {
        self(event);
    }
}
