//! Adamax: steps in proportion to the mean gradient over the largest recent one.

use candle_core::Tensor;
use dcff_nn::AdamConfig;
use serde::{Deserialize, Serialize};

use super::{Descent, Pace, adam, rows, validate_adam};
use crate::error::Result;

/// Adamax as `torch.optim.Adamax` computes it, weight decay added to the gradient.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Adamax {
    /// How much of the mean gradient stays in a step, 0 up to but not including 1.
    pub beta1: f64,
    /// How much of the largest gradient stays, likewise.
    pub beta2: f64,
    /// What keeps the division finite, more than 0.
    pub eps: f64,
}

impl Default for Adamax {
    fn default() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
        }
    }
}

impl Adamax {
    fn config(&self, pace: &Pace) -> AdamConfig {
        adam(pace, [self.beta1, self.beta2], self.eps)
    }
}

impl Descent for Adamax {
    fn slots(&self) -> &'static [&'static str] {
        &["exp_avg", "exp_inf"]
    }

    fn counts(&self) -> bool {
        true
    }

    fn rates(&self, pace: &Pace) -> Vec<f64> {
        dcff_nn::adamax_rates(&self.config(pace)).into()
    }

    fn sweep(&self, all: &[Vec<&Tensor>], pace: &Pace, cell: usize) -> Result<()> {
        Ok(dcff_nn::adamax_steps(&rows(all)?, &self.config(pace), cell)?)
    }

    fn validate(&self) -> Result<()> {
        validate_adam(self.beta1, self.beta2, self.eps)
    }
}
