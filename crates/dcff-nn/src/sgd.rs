//! Stochastic gradient descent with momentum, in PyTorch's form.
//!
//! ```text
//! g <- g + λ p
//! v <- m v + g
//! p <- p - η (g + m v)      nesterov
//! p <- p - η v              otherwise
//! ```
//!
//! with the learning rate `η` outside the velocity. PyTorch's first step, `v = g`, is what a
//! velocity of zero gives.

use candle_core::{Result, Tensor};

use crate::gpu::{self, Gpu};
use crate::sweep;

/// Settings of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SgdConfig {
    /// Learning rate `η`.
    pub lr: f64,
    /// Momentum `m`, 0 to 1.
    pub momentum: f64,
    /// Weight decay `λ`, added to the gradient.
    pub weight_decay: f64,
    /// Nesterov's form.
    pub nesterov: bool,
}

impl SgdConfig {
    /// What may change from one step to the next while a recorded step stays good, see [`crate::RepeatedStep::run`]: `[η]`.
    pub fn rates(&self) -> [f64; 1] {
        [self.lr]
    }
}

const OP: &str = "sgd_step";
const NAMES: [&str; 3] = ["parameter", "velocity", "gradient"];

/// One step: changes `param` and `velocity` in place. All three have one shape; start with a
/// velocity of zeros.
///
/// # Errors
///
/// Different shapes, a tensor that is not contiguous or not `f32`, or tensors that share memory.
pub fn sgd_step(param: &Tensor, velocity: &Tensor, grad: &Tensor, cfg: &SgdConfig) -> Result<()> {
    sgd_steps(&[[param, velocity, grad]], cfg, 0)
}

/// [`sgd_step`] for any number of parameters, each `[parameter, velocity, gradient]`; on GPUs in as few launches as
/// possible, which read [`SgdConfig::rates`] in the device's cell `cell`.
///
/// # Errors
///
/// Those of [`sgd_step`], and a cell that the device does not have.
pub fn sgd_steps(triples: &[[&Tensor; 3]], cfg: &SgdConfig, cell: usize) -> Result<()> {
    sweep::check(OP, NAMES, triples)?;
    if let Some([first, ..]) = triples.first()
        && let Some(gpu) = Gpu::of(first.device())?
    {
        let numbers = gpu::SgdNumbers {
            momentum: cfg.momentum as f32,
            decay: cfg.weight_decay as f32,
            nesterov: cfg.nesterov,
        };
        return gpu::sgd(&gpu, triples, numbers, &cfg.rates(), cell);
    }
    let rows = triples.iter().map(|&[p, v, g]| ([p, v], g));
    let (rate, momentum) = (cfg.lr as f32, cfg.momentum as f32);
    let (decay, nesterov) = (cfg.weight_decay as f32, cfg.nesterov);
    sweep::on_cpu(OP, &NAMES, rows, |[p, v], g| {
        for ((p, v), g) in p.iter_mut().zip(v).zip(g) {
            let g = g + decay * *p;
            *v = momentum * *v + g;
            *p -= rate * if nesterov { g + momentum * *v } else { *v };
        }
    })
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    /// ```python
    /// p = torch.tensor([1.0, -2.0], requires_grad=True)
    /// opt = torch.optim.SGD([p], lr=0.1, momentum=0.5, weight_decay=0.25, nesterov=nesterov)
    /// for g in ([1.0, 2.0], [0.5, -1.0]): p.grad = torch.tensor(g); opt.step(); print(p)
    /// ```
    #[test]
    fn two_steps_as_in_pytorch() -> Result<()> {
        for (nesterov, expected) in [
            (false, [[0.875, -2.15], [0.740625, -2.07125]]),
            (true, [[0.8125, -2.225], [0.67578125, -2.0290625]]),
        ] {
            let cfg = SgdConfig {
                lr: 0.1,
                momentum: 0.5,
                weight_decay: 0.25,
                nesterov,
            };
            let p = Tensor::new(&[1f32, -2.0], &Device::Cpu)?;
            let v = p.zeros_like()?;
            for (grad, expected) in [[1f32, 2.0], [0.5, -1.0]].into_iter().zip(expected) {
                sgd_step(&p, &v, &Tensor::new(&grad, &Device::Cpu)?, &cfg)?;
                for (got, expected) in p.to_vec1::<f32>()?.into_iter().zip(expected) {
                    assert!((got - expected).abs() < 1e-6, "{got} is not {expected}");
                }
            }
        }
        Ok(())
    }
}
