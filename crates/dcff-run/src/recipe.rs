//! How a network is trained: epochs, batches, the optimiser and its schedule.

use serde::{Deserialize, Serialize};

use crate::precision::Precision;
use crate::schedule::Schedule;

/// How a network is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Passes over the training images.
    pub epochs: usize,
    /// Images per step.
    pub batch_size: usize,
    /// Before the schedule.
    pub learning_rate: f64,
    /// Of stochastic gradient descent.
    pub momentum: f64,
    /// Added to the gradients of all parameters.
    pub weight_decay: f64,
    /// Whether Nesterov's form of momentum is used.
    pub nesterov: bool,
    /// The share of the label's probability spread over all classes.
    pub label_smoothing: f64,
    /// Epochs of linear warm-up.
    pub warmup_epochs: usize,
    /// Whether the best epoch is chosen on the test images, as the paper does. Such a figure is not an estimate of
    /// accuracy on new images; reports say so.
    pub select_on_test: bool,
    /// Whether convolutions are plain sums of products, without Winograd's transforms: slower, rounding as elsewhere.
    #[serde(default)]
    pub direct_convolution: bool,
    /// What feature maps and their gradients are stored in during training. Weights, statistics, sums and every
    /// evaluation are single precision.
    #[serde(default)]
    pub precision: Precision,
    /// Whether a GPU may multiply the `f32` maps of convolutions in TensorFloat-32.
    #[serde(default)]
    pub tf32: bool,
    /// Whether a GPU must give the same bits every time; the CPU does anyway.
    #[serde(default)]
    pub deterministic: bool,
    /// How the learning rate falls.
    pub schedule: Schedule,
}

impl Recipe {
    /// The published CIFAR recipe: 300 epochs, batches of 256, rate 0.1 divided by 10 at epochs 150 and 225,
    /// momentum 0.9, weight decay 5e-4 (arXiv 2107.06916, section 4.1).
    pub fn published_cifar() -> Self {
        Self {
            epochs: 300,
            batch_size: 256,
            learning_rate: 0.1,
            momentum: 0.9,
            weight_decay: 5e-4,
            nesterov: false,
            label_smoothing: 0.0,
            warmup_epochs: 0,
            select_on_test: false,
            direct_convolution: false,
            precision: Precision::F32,
            tf32: false,
            deterministic: false,
            schedule: Schedule::MultiStep {
                milestones: vec![150, 225],
                gamma: 0.1,
            },
        }
    }

    /// A short recipe: batches of 128, rate 0.05 falling by half a cosine.
    pub fn quick(epochs: usize) -> Self {
        Self {
            epochs,
            batch_size: 128,
            learning_rate: 0.05,
            schedule: Schedule::cosine(),
            ..Self::published_cifar()
        }
    }

    /// The same recipe for a stage of `epochs` epochs at `learning_rate`: the schedule runs over the stage.
    pub fn for_stage(&self, epochs: usize, learning_rate: f64) -> Self {
        Self {
            epochs,
            learning_rate,
            schedule: self.schedule.scaled(self.epochs, epochs),
            ..self.clone()
        }
    }

    /// The learning rate at `step` of `steps` in `epoch`.
    pub fn rate(&self, epoch: usize, step: usize, steps: usize) -> f64 {
        self.learning_rate
            * self
                .schedule
                .factor(epoch, self.epochs, step, steps, self.warmup_epochs)
    }
}
