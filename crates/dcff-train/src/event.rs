//! What a run reports while it goes.

use dcff_run::{Metrics, Timing};

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
    /// What the method has to say before the first step, a line each.
    Foreword(&'a [String]),
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
