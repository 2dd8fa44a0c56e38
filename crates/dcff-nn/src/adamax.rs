//! Adamax: Adam with the largest recent gradient in place of their mean square, in PyTorch's form.
//!
//! ```text
//! g <- g + λ p
//! m <- m + (1 - β1) (g - m)
//! u <- max(β2 u, |g| + ε)
//! p <- p - η / (1 - β1ᵗ) m / u
//! ```
//!
//! at step `t`, counted from 1. `ε` is added to the gradient's size, not to `u`: where no gradient ever comes, `u`
//! is still not 0. Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015,
//! <https://arxiv.org/abs/1412.6980>, section 7.1; `ε` as in `torch.optim.Adamax`.

use candle_core::{Result, Tensor};

use crate::adam::AdamConfig;
use crate::gpu::{self, Gpu};
use crate::sweep;

/// What may change from one step to the next while a recorded step stays good, see [`crate::RepeatedStep::run`]:
/// `[η / (1 - β1ᵗ)]`.
pub fn adamax_rates(cfg: &AdamConfig) -> [f64; 1] {
    [cfg.lr / (1.0 - cfg.beta1.powf(cfg.step as f64))]
}

const OP: &str = "adamax_steps";
const NAMES: [&str; 4] = ["parameter", "mean gradient", "largest gradient", "gradient"];

/// One step for any number of parameters, each `[parameter, mean gradient m, largest gradient u, gradient]` of one shape:
/// changes the first three in place. Start with zeros for `m` and `u`. On GPUs in as few launches as possible, which
/// read [`adamax_rates`] in the device's cell `cell`.
///
/// # Errors
///
/// Different shapes, a tensor that is not contiguous or not `f32`, tensors that share memory, or a cell that the device
/// does not have.
pub fn adamax_steps(rows: &[[&Tensor; 4]], cfg: &AdamConfig, cell: usize) -> Result<()> {
    sweep::check(OP, NAMES, rows)?;
    if let Some([first, ..]) = rows.first()
        && let Some(gpu) = Gpu::of(first.device())?
    {
        let numbers = gpu::AdamNumbers {
            take: (1.0 - cfg.beta1) as f32,
            keep: cfg.beta2 as f32,
            add: 0.0,
            eps: cfg.eps as f32,
            decay: cfg.weight_decay as f32,
        };
        return gpu::adamax(&gpu, rows, numbers, &adamax_rates(cfg), cell);
    }
    let rows = rows.iter().map(|&[p, m, u, g]| ([p, m, u], g));
    let [rate] = adamax_rates(cfg).map(|rate| rate as f32);
    let (take, keep) = ((1.0 - cfg.beta1) as f32, cfg.beta2 as f32);
    let (eps, decay) = (cfg.eps as f32, cfg.weight_decay as f32);
    sweep::on_cpu(OP, &NAMES, rows, |[p, m, u], g| {
        for (((p, m), u), g) in p.iter_mut().zip(m).zip(u).zip(g) {
            let g = g + decay * *p;
            *m += take * (g - *m);
            let (old, new) = (keep * *u, g.abs() + eps);
            // So that a gradient that is not a number shows.
            *u = if old > new { old } else { new };
            *p -= rate * (*m / *u);
        }
    })
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::Isa;

    fn tensor(numbers: &[f32]) -> Result<Tensor> {
        Tensor::new(numbers, &Device::Cpu)
    }

    /// By hand, for a parameter of 1 without decay: m = 0.1 0.2 = 0.02 and u = 0.2 give 1 - 0.01 / 0.1 * 0.1 = 0.99; then
    /// m = 0.9 0.02 = 0.018, u = 0.5 0.2 = 0.1 and 1 - 0.81 after a second gradient of -0.1 (m = 0.008, |g| = 0.1 is no less than u).
    #[test]
    fn two_steps_by_hand() -> Result<()> {
        let (p, m, u) = (tensor(&[1.0])?, tensor(&[0.0])?, tensor(&[0.0])?);
        for (step, gradient, expected) in [
            (1, 0.2f32, 0.99),
            (2, -0.1, 0.99 - 0.01 / 0.19 * 0.008 / 0.1),
        ] {
            let cfg = AdamConfig {
                lr: 0.01,
                beta1: 0.9,
                beta2: 0.5,
                eps: 0.0,
                weight_decay: 0.0,
                step,
            };
            adamax_steps(&[[&p, &m, &u, &tensor(&[gradient])?]], &cfg, 0)?;
            let got = f64::from(p.to_vec1::<f32>()?[0]);
            assert!((got - expected).abs() < 1e-7, "{got} is not {expected}");
        }
        Ok(())
    }

    /// Decay, a gradient of 0 and one that stays away, on every instruction set.
    ///
    /// ```python
    /// p = torch.tensor([1.0, -2.0, 0.5], requires_grad=True)
    /// opt = torch.optim.Adamax([p], lr=1e-2, eps=1e-7, weight_decay=1e-4)
    /// for g in ([0.1, 0.0, -0.3], [0.0, 0.0, 0.2], [-0.05, 0.01, 0.0]): p.grad = torch.tensor(g); opt.step(); print(p)
    /// ```
    #[test]
    fn three_steps_as_in_pytorch() -> Result<()> {
        let gradients = [[0.1f32, 0.0, -0.3], [0.0, 0.0, 0.2], [-0.05, 0.01, 0.0]];
        let expected = [
            [0.990_000_01, -1.990_005_02, 0.509_999_99],
            [0.985_253_21, -1.980_026_36, 0.511_227_79],
            [0.984_098_26, -1.983_587_98, 0.512_002_71],
        ];
        for isa in Isa::available() {
            isa.with(|| {
                let p = tensor(&[1.0, -2.0, 0.5])?;
                let (m, u) = (p.zeros_like()?, p.zeros_like()?);
                for (step, (gradient, expected)) in gradients.iter().zip(&expected).enumerate() {
                    let cfg = AdamConfig {
                        lr: 1e-2,
                        beta1: 0.9,
                        beta2: 0.999,
                        eps: 1e-7,
                        weight_decay: 1e-4,
                        step: step as u64 + 1,
                    };
                    adamax_steps(&[[&p, &m, &u, &tensor(gradient)?]], &cfg, 0)?;
                    for (got, expected) in p.to_vec1::<f32>()?.into_iter().zip(expected) {
                        let apart = (f64::from(got) - expected).abs();
                        assert!(
                            apart < 2.5e-7,
                            "{isa:?}, step {step}: {got} is not {expected}"
                        );
                    }
                }
                Ok::<_, candle_core::Error>(())
            })
            .transpose()?;
        }
        Ok(())
    }
}
