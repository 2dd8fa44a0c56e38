//! Adam with decoupled weight decay, in PyTorch's form.
//!
//! ```text
//! p <- (1 - η λ) p
//! m <- m + (1 - β1) (g - m)
//! v <- β2 v + (1 - β2) g²
//! p <- p - η / (1 - β1ᵗ) m / (√v / √(1 - β2ᵗ) + ε)
//! ```
//!
//! at step `t`, counted from 1. Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019,
//! <https://arxiv.org/abs/1711.05101>; where `ε` stands and that the rate scales the decay as in `torch.optim.AdamW`.

use candle_core::{Result, Tensor};

use crate::adam::AdamConfig;
use crate::gpu::{self, Gpu};
use crate::sweep;

/// What may change from one step to the next while a recorded step stays good, see [`crate::RepeatedStep::run`]:
/// `[η / (1 - β1ᵗ), 1 - η λ, √(1 - β2ᵗ)]`.
pub fn adamw_rates(cfg: &AdamConfig) -> [f64; 3] {
    let step = cfg.step as f64;
    [
        cfg.lr / (1.0 - cfg.beta1.powf(step)),
        1.0 - cfg.lr * cfg.weight_decay,
        (1.0 - cfg.beta2.powf(step)).sqrt(),
    ]
}

const OP: &str = "adamw_steps";
const NAMES: [&str; 4] = ["parameter", "mean gradient", "mean square", "gradient"];

/// One step for any number of parameters, each `[parameter, mean gradient m, mean square v, gradient]` of one shape: changes
/// the first three in place. Start with zeros for `m` and `v`. On GPUs in as few launches as possible, which read
/// [`adamw_rates`] in the device's cells from `cell` on.
///
/// # Errors
///
/// Different shapes, a tensor that is not contiguous or not `f32`, tensors that share memory, or cells that the device
/// does not have.
pub fn adamw_steps(rows: &[[&Tensor; 4]], cfg: &AdamConfig, cell: usize) -> Result<()> {
    sweep::check(OP, NAMES, rows)?;
    if let Some([first, ..]) = rows.first()
        && let Some(gpu) = Gpu::of(first.device())?
    {
        let numbers = gpu::AdamNumbers {
            take: (1.0 - cfg.beta1) as f32,
            keep: cfg.beta2 as f32,
            add: (1.0 - cfg.beta2) as f32,
            eps: cfg.eps as f32,
            // It is among the rates.
            decay: 0.0,
        };
        return gpu::adamw(&gpu, rows, numbers, &adamw_rates(cfg), cell);
    }
    let rows = rows.iter().map(|&[p, m, v, g]| ([p, m, v], g));
    let [rate, shrink, root] = adamw_rates(cfg).map(|rate| rate as f32);
    let take = (1.0 - cfg.beta1) as f32;
    let (keep, add) = (cfg.beta2 as f32, (1.0 - cfg.beta2) as f32);
    let eps = cfg.eps as f32;
    sweep::on_cpu(OP, &NAMES, rows, |[p, m, v], g| {
        for (((p, m), v), g) in p.iter_mut().zip(m).zip(v).zip(g) {
            *m += take * (g - *m);
            *v = keep * *v + add * (g * g);
            *p = shrink * *p - rate * (*m / (v.sqrt() / root + eps));
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

    /// By hand, for a parameter of 1: the decay leaves 0.999. A gradient of 0.2 gives m = 0.02 and v = 0.02, corrected 0.2 and
    /// 0.04, so a step of the whole rate: 0.989. Then 0.988011; -0.1 gives m = 0.008 and v = 0.015, corrected 0.008 / 0.19 and
    /// 0.02: 0.988011 - 0.01 0.042105 / 0.141421.
    #[test]
    fn two_steps_by_hand() -> Result<()> {
        let (p, m, v) = (tensor(&[1.0])?, tensor(&[0.0])?, tensor(&[0.0])?);
        let second = 0.988_011 - 0.01 * (0.008 / 0.19) / 0.02f64.sqrt();
        for (step, gradient, expected) in [(1, 0.2f32, 0.989), (2, -0.1, second)] {
            let cfg = AdamConfig {
                lr: 0.01,
                beta1: 0.9,
                beta2: 0.5,
                eps: 0.0,
                weight_decay: 0.1,
                step,
            };
            adamw_steps(&[[&p, &m, &v, &tensor(&[gradient])?]], &cfg, 0)?;
            let got = f64::from(p.to_vec1::<f32>()?[0]);
            assert!((got - expected).abs() < 1e-7, "{got} is not {expected}");
        }
        Ok(())
    }

    /// A gradient of 0, one that comes late and one that stays away, on every instruction set; expected are the equations
    /// in double precision.
    #[test]
    fn three_steps_by_the_equations() -> Result<()> {
        let gradients = [[0.1f32, 0.0, -0.3], [0.0, 0.0, 0.2], [-0.05, 0.01, 0.0]];
        let expected = [
            [0.989_000_001, -1.998, 0.509_5],
            [0.981_310_419, -1.996_002, 0.510_435_705],
            [0.978_556_437, -2.000_394_123, 0.511_042_417],
        ];
        for isa in Isa::available() {
            isa.with(|| {
                let p = tensor(&[1.0, -2.0, 0.5])?;
                let (m, v) = (p.zeros_like()?, p.zeros_like()?);
                for (step, (gradient, expected)) in gradients.iter().zip(&expected).enumerate() {
                    let cfg = AdamConfig {
                        lr: 1e-2,
                        beta1: 0.9,
                        beta2: 0.999,
                        eps: 1e-8,
                        weight_decay: 0.1,
                        step: step as u64 + 1,
                    };
                    adamw_steps(&[[&p, &m, &v, &tensor(gradient)?]], &cfg, 0)?;
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
