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

use candle_core::{CpuStorage, InplaceOp3, Layout, Result, Tensor, bail};

use crate::gpu::{self, Gpu};

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

/// `v <- m v + (g + λ p)`.
struct Velocity(SgdConfig);

/// `p <- p - η (g + λ p + m v)` or `p <- p - η v`.
struct Parameter(SgdConfig);

fn slice<'a>(op: &str, name: &str, s: &'a CpuStorage, l: &Layout) -> Result<&'a [f32]> {
    let (CpuStorage::F32(data), Some((start, end))) = (s, l.contiguous_offsets()) else {
        bail!("{op}: expected a contiguous {name} of type f32");
    };
    Ok(&data[start..end])
}

fn slice_mut<'a>(op: &str, name: &str, s: &'a mut CpuStorage, l: &Layout) -> Result<&'a mut [f32]> {
    let (CpuStorage::F32(data), Some((start, end))) = (s, l.contiguous_offsets()) else {
        bail!("{op}: expected a contiguous {name} of type f32");
    };
    Ok(&mut data[start..end])
}

impl InplaceOp3 for Velocity {
    fn name(&self) -> &'static str {
        "sgd_step"
    }

    fn cpu_fwd(
        &self,
        v: &mut CpuStorage,
        v_layout: &Layout,
        g: &CpuStorage,
        g_layout: &Layout,
        p: &CpuStorage,
        p_layout: &Layout,
    ) -> Result<()> {
        let v = slice_mut(self.name(), "velocity", v, v_layout)?;
        let g = slice(self.name(), "gradient", g, g_layout)?;
        let p = slice(self.name(), "parameter", p, p_layout)?;
        let (momentum, decay) = (self.0.momentum as f32, self.0.weight_decay as f32);
        for ((v, g), p) in v.iter_mut().zip(g).zip(p) {
            *v = momentum * *v + (g + decay * p);
        }
        Ok(())
    }
}

impl InplaceOp3 for Parameter {
    fn name(&self) -> &'static str {
        "sgd_step"
    }

    fn cpu_fwd(
        &self,
        p: &mut CpuStorage,
        p_layout: &Layout,
        v: &CpuStorage,
        v_layout: &Layout,
        g: &CpuStorage,
        g_layout: &Layout,
    ) -> Result<()> {
        let p = slice_mut(self.name(), "parameter", p, p_layout)?;
        let v = slice(self.name(), "velocity", v, v_layout)?;
        let g = slice(self.name(), "gradient", g, g_layout)?;
        let (rate, momentum) = (self.0.lr as f32, self.0.momentum as f32);
        let decay = self.0.weight_decay as f32;
        if self.0.nesterov {
            for ((p, v), g) in p.iter_mut().zip(v).zip(g) {
                *p -= rate * ((g + decay * *p) + momentum * v);
            }
        } else {
            for (p, v) in p.iter_mut().zip(v) {
                *p -= rate * v;
            }
        }
        Ok(())
    }
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
        velocity.inplace_op3(&grad, param, &Velocity(*cfg))?;
        param.inplace_op3(velocity, &grad, &Parameter(*cfg))?;
    }
    Ok(())
}

fn check(param: &Tensor, velocity: &Tensor, grad: &Tensor) -> Result<()> {
    const OP: &str = "sgd_step";
    crate::args::same(OP, "a velocity of shape", param.dims(), velocity.dims())?;
    crate::args::same(OP, "a gradient of shape", param.dims(), grad.dims())
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
