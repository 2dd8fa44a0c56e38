//! How long a run has taken and will take.

use std::time::Instant;

/// Time spent and expected.
pub(crate) struct Clock {
    start: Instant,
    /// Seconds of earlier sittings.
    before: f64,
    images: usize,
    /// Seconds outside training, per epoch of this sitting.
    overhead: Vec<f64>,
}

impl Clock {
    pub(crate) fn new(before: f64) -> Self {
        Self {
            start: Instant::now(),
            before,
            images: 0,
            overhead: Vec::new(),
        }
    }

    pub(crate) fn trained(&mut self, images: usize) {
        self.images += images;
    }

    pub(crate) fn evaluated(&mut self, seconds: f64) {
        self.overhead.push(seconds);
    }

    pub(crate) fn seconds(&self) -> f64 {
        self.before + self.start.elapsed().as_secs_f64()
    }

    fn training_seconds(&self) -> f64 {
        self.start.elapsed().as_secs_f64() - self.overhead.iter().sum::<f64>()
    }

    pub(crate) fn images_per_second(&self) -> f64 {
        self.images as f64 / self.training_seconds().max(1e-9)
    }

    /// Seconds for the rest: `images` from this epoch's start on, of which `done` are done, and `epochs` evaluations.
    pub(crate) fn seconds_left(&self, images: usize, done: usize, epochs: usize) -> f64 {
        let overhead = self.overhead.iter().sum::<f64>() / self.overhead.len().max(1) as f64;
        images.saturating_sub(done) as f64 / self.images_per_second().max(1e-9)
            + overhead * epochs as f64
    }
}
