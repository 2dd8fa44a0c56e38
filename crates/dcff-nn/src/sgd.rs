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

use std::cell::RefCell;

use candle_core::{CpuStorage, InplaceOp1, InplaceOp2, Layout, Result, Tensor, bail};

use crate::args;
use crate::gpu::{self, Gpu};
use crate::threads::{self, Out};

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

const OP: &str = "sgd_step";

/// Numbers that one thread updates at a time; with velocity and gradient they fit its second-level cache.
const CHUNK: usize = 1 << 15;

/// The step as a change of the velocity, which reaches for the parameter on its way: candle lends one storage at a time.
struct ChangeBoth<'a> {
    param: &'a Tensor,
    grad: &'a Tensor,
    cfg: &'a SgdConfig,
}

/// The step as a change of the parameter, with the velocity in hand.
struct ChangeParameter<'a> {
    velocity: RefCell<&'a mut [f32]>,
    cfg: &'a SgdConfig,
}

impl InplaceOp1 for ChangeBoth<'_> {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(&self, velocity: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let velocity = args::slice_mut(OP, "velocity", velocity, layout)?;
        self.param.inplace_op2(
            self.grad,
            &ChangeParameter {
                velocity: RefCell::new(velocity),
                cfg: self.cfg,
            },
        )
    }
}

impl InplaceOp2 for ChangeParameter<'_> {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(
        &self,
        param: &mut CpuStorage,
        param_layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> Result<()> {
        let p = args::slice_mut(OP, "parameter", param, param_layout)?;
        let g = args::slice(OP, "gradient", grad, grad_layout)?;
        sweep(p, &mut self.velocity.borrow_mut(), g, self.cfg);
        Ok(())
    }
}

/// One pass over slices of one length.
fn sweep(p: &mut [f32], v: &mut [f32], g: &[f32], cfg: &SgdConfig) {
    let (all_p, all_v) = (Out::new(p), Out::new(v));
    threads::each(g.len().div_ceil(CHUNK), |chunk| {
        let start = chunk * CHUNK;
        let g = &g[start..g.len().min(start + CHUNK)];
        // SAFETY: a task changes its own chunk.
        let (p, v) = unsafe {
            (
                std::slice::from_raw_parts_mut(all_p.at(start), g.len()),
                std::slice::from_raw_parts_mut(all_v.at(start), g.len()),
            )
        };
        let (rate, momentum) = (cfg.lr as f32, cfg.momentum as f32);
        let decay = cfg.weight_decay as f32;
        for ((p, v), g) in p.iter_mut().zip(v).zip(g) {
            let g = g + decay * *p;
            *v = momentum * *v + g;
            *p -= rate * if cfg.nesterov { g + momentum * *v } else { *v };
        }
    });
}

/// One step: changes `param` and `velocity` in place. All three have one shape; start with a
/// velocity of zeros.
///
/// # Errors
///
/// Different shapes, a tensor that is not contiguous or not `f32`, or tensors that share memory.
pub fn sgd_step(param: &Tensor, velocity: &Tensor, grad: &Tensor, cfg: &SgdConfig) -> Result<()> {
    sgd_steps(&[[param, velocity, grad]], cfg)
}

/// [`sgd_step`] for any number of parameters, each `[parameter, velocity, gradient]`; on cards in as few launches as
/// possible.
///
/// # Errors
///
/// Those of [`sgd_step`].
pub fn sgd_steps(triples: &[[&Tensor; 3]], cfg: &SgdConfig) -> Result<()> {
    for [param, velocity, grad] in triples {
        check(param, velocity, grad)?;
    }
    if let Some([first, ..]) = triples.first()
        && let Some(gpu) = Gpu::of(first.device())?
    {
        return gpu::sgd(&gpu, triples, cfg);
    }
    for [param, velocity, grad] in triples {
        let grad = grad.contiguous()?;
        let grad = &grad;
        velocity.inplace_op1(&ChangeBoth { param, grad, cfg })?;
    }
    Ok(())
}

fn check(param: &Tensor, velocity: &Tensor, grad: &Tensor) -> Result<()> {
    crate::args::same(OP, "a velocity of shape", param.dims(), velocity.dims())?;
    if storage(param) == storage(velocity) {
        bail!("{OP}: expected a velocity with memory of its own, got the parameter's");
    }
    crate::args::same(OP, "a gradient of shape", param.dims(), grad.dims())
}

/// Where a tensor's storage lives.
fn storage(tensor: &Tensor) -> *const candle_core::Storage {
    &raw const *tensor.storage_and_layout().0
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

    #[test]
    fn refuses_shared_memory_and_other_shapes() -> Result<()> {
        let cfg = SgdConfig {
            lr: 0.1,
            momentum: 0.0,
            weight_decay: 0.0,
            nesterov: false,
        };
        let p = Tensor::new(&[1f32, -2.0], &Device::Cpu)?;
        assert!(sgd_step(&p, &p, &p.copy()?, &cfg).is_err());
        let other = Tensor::new(&[1f32], &Device::Cpu)?;
        assert!(sgd_step(&p, &p.zeros_like()?, &other, &cfg).is_err());
        Ok(())
    }
}
