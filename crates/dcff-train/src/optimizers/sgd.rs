//! Stochastic gradient descent with momentum.

use candle_core::Tensor;
use dcff_nn::SgdConfig;
use serde::{Deserialize, Serialize};

use super::{Descent, Pace, rows};
use crate::error::{Error, Result};

/// SGD in PyTorch's form: `g += wd*p; v = m*v + g; p -= lr*v`, or `p -= lr*(g + m*v)` with Nesterov's momentum.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sgd {
    /// How much of the velocity stays, 0 to 1.
    pub momentum: f64,
    /// Nesterov's form.
    pub nesterov: bool,
}

impl Default for Sgd {
    fn default() -> Self {
        Self {
            momentum: 0.9,
            nesterov: false,
        }
    }
}

impl Sgd {
    fn config(&self, pace: &Pace) -> SgdConfig {
        SgdConfig {
            lr: pace.lr,
            momentum: self.momentum,
            weight_decay: pace.decay,
            nesterov: self.nesterov,
        }
    }
}

impl Descent for Sgd {
    fn slots(&self) -> &'static [&'static str] {
        &["velocity"]
    }

    fn counts(&self) -> bool {
        false
    }

    fn rates(&self, pace: &Pace) -> Vec<f64> {
        self.config(pace).rates().into()
    }

    fn sweep(&self, all: &[Vec<&Tensor>], pace: &Pace, cell: usize) -> Result<()> {
        Ok(dcff_nn::sgd_steps(&rows(all)?, &self.config(pace), cell)?)
    }

    fn validate(&self) -> Result<()> {
        match (0.0..=1.0).contains(&self.momentum) {
            true => Ok(()),
            false => Err(Error::setting(
                "optimizer.momentum",
                format!("expected 0 to 1, got {}", self.momentum),
            )),
        }
    }
}
