//! Softmax cross-entropy with label smoothing.
//!
//! ```text
//! q[k] = (1 - ε) 1[k = label] + ε / K
//! L    = 1/N Σ_n -Σ_k q[k] log softmax(z_n)[k],   dL/dz = (softmax(z) - q) / N
//! ```
//!
//! PyTorch's definition of smoothing: Szegedy et al., *Rethinking the Inception Architecture*, CVPR
//! 2016, <https://arxiv.org/abs/1512.00567>, section 7.

use std::sync::Arc;

use candle_core::{DType, Result, Tensor, bail};

use crate::args;
use crate::gpu::{self, Gpu};

/// A loss and its gradient.
#[derive(Clone, Debug)]
pub struct Loss {
    /// What it came to.
    pub value: LossValue,
    /// The gradient of the mean loss with respect to the logits, `[N, K]`.
    pub grad: Tensor,
}

/// What a loss came to: known at once on the CPU, on a GPU only when everything launched before it is done. A training
/// loop that reads it some steps later keeps the GPU supplied with work.
#[derive(Clone, Debug)]
pub struct LossValue(Held);

#[derive(Clone, Debug)]
enum Held {
    Known(LossNumbers),
    OnGpu(Arc<gpu::GpuLoss>),
}

/// The numbers of a loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossNumbers {
    /// The mean over the batch, in nats. NaN if a logit is.
    pub mean: f64,
    /// Rows whose largest logit (the first of equal ones) is the label's.
    pub correct: usize,
}

impl LossValue {
    pub(crate) fn on_gpu(loss: gpu::GpuLoss) -> Self {
        Self(Held::OnGpu(Arc::new(loss)))
    }

    /// The loss on a GPU, where it is on one.
    pub(crate) fn gpu(&self) -> Option<&gpu::GpuLoss> {
        match &self.0 {
            Held::OnGpu(loss) => Some(loss),
            Held::Known(_) => None,
        }
    }

    /// Whether [`LossValue::read`] returns at once.
    pub fn is_known(&self) -> bool {
        matches!(self.0, Held::Known(_))
    }

    /// The numbers; waits for a GPU.
    ///
    /// # Errors
    ///
    /// Those of what was launched on the GPU.
    pub fn read(&self) -> Result<LossNumbers> {
        match &self.0 {
            Held::Known(numbers) => Ok(*numbers),
            Held::OnGpu(loss) => {
                let (mean, correct) = loss.read()?;
                Ok(LossNumbers { mean, correct })
            }
        }
    }
}

impl From<LossNumbers> for LossValue {
    fn from(numbers: LossNumbers) -> Self {
        Self(Held::Known(numbers))
    }
}

/// Cross-entropy of `logits` `[N, K]` and class indices `labels` `[N]` (`u32`) with label smoothing
/// `smoothing` in 0 to 1.
///
/// # Errors
///
/// Shapes or types that do not fit, no rows, a label that is not a class, smoothing outside 0 to 1.
pub fn cross_entropy(logits: &Tensor, labels: &Tensor, smoothing: f64) -> Result<Loss> {
    const OP: &str = "cross_entropy";
    let Ok((n, k)) = logits.dims2() else {
        bail!(
            "{OP}: expected logits of shape [N, K], got {:?}",
            logits.dims()
        );
    };
    if n == 0 || k == 0 {
        bail!("{OP}: expected at least one row and one class, got {n} and {k}");
    }
    if !(0.0..=1.0).contains(&smoothing) {
        bail!("{OP}: expected smoothing from 0 to 1, got {smoothing}");
    }
    if labels.dtype() != DType::U32 || labels.dims() != [n] {
        bail!(
            "{OP}: expected {n} labels of type u32, got {:?} of type {}",
            labels.dims(),
            labels.dtype().as_str()
        );
    }
    if let Some(gpu) = Gpu::of(logits.device())? {
        let (loss, grad) = gpu::cross_entropy(&gpu, logits, labels, smoothing)?;
        let value = LossValue::on_gpu(loss);
        return Ok(Loss { value, grad });
    }
    let labels = labels.to_vec1::<u32>()?;
    if let Some(label) = labels.iter().find(|&&label| label as usize >= k) {
        bail!("{OP}: expected labels below {k}, got {label}");
    }
    args::with_any(OP, "logits", logits, |logits| {
        let mut grad = vec![0f32; n * k];
        let (mut value, mut correct) = (0f64, 0);
        let even = smoothing / k as f64;
        for ((z, grad), &label) in logits
            .chunks_exact(k)
            .zip(grad.chunks_exact_mut(k))
            .zip(&labels)
        {
            let label = label as usize;
            let mut best = 0;
            for (i, &logit) in z.iter().enumerate() {
                if logit > z[best] {
                    best = i;
                }
            }
            correct += usize::from(best == label && !z[label].is_nan());
            let top = f64::from(z[best]);
            let sum: f64 = z.iter().map(|&z| (f64::from(z) - top).exp()).sum();
            let log_sum = top + sum.ln();
            let mean = z.iter().map(|&z| f64::from(z)).sum::<f64>() / k as f64;
            value += log_sum - (1.0 - smoothing) * f64::from(z[label]) - smoothing * mean;
            for (i, (grad, &z)) in grad.iter_mut().zip(z).enumerate() {
                let target = even + if i == label { 1.0 - smoothing } else { 0.0 };
                *grad = (((f64::from(z) - log_sum).exp() - target) / n as f64) as f32;
            }
        }
        Ok(Loss {
            value: LossNumbers {
                mean: value / n as f64,
                correct,
            }
            .into(),
            grad: args::tensor(grad, &[n, k])?,
        })
    })?
}
