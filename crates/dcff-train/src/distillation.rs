//! What a network learns from another one's logits.
//!
//! ```text
//! L = T² mean_n Σ_k p_t (log p_t - log p_s),   p = softmax(z / T)          dL/dz_s = T (p_s - p_t) / N
//! ```
//!
//! Hinton, Vinyals and Dean, *Distilling the Knowledge in a Neural Network*, 2015, <https://arxiv.org/abs/1503.02531>.

use candle_core::Tensor;
use dcff_models::{Architecture, Mode, Network, Views};
use dcff_run::Distil;

use crate::costs::macs;
use crate::dense;
use crate::error::{Error, Result};

/// A loss and the gradient of what it is a function of.
#[derive(Clone, Debug)]
pub struct Term {
    /// What it came to.
    pub value: f64,
    /// Of the student's logits `[N, K]`, or of whatever else the loss is a function of.
    pub gradient: Tensor,
}

/// A trained network that teaches another one, whatever its architecture: of the same images and classes.
#[derive(Debug)]
pub struct Teacher {
    network: Network,
    distil: Distil,
    macs: u64,
}

impl Teacher {
    /// The teacher that `distil` names, for a run of `full` on images of `classes`, computing as `student` does.
    ///
    /// # Errors
    /// When it is not there, is not the recorded one, or is of other images or classes.
    pub(crate) fn new(
        distil: &Distil,
        full: &Architecture,
        classes: &[String],
        student: &Network,
    ) -> Result<Self> {
        let teacher = dense::teacher(&distil.teacher, full, classes)?;
        let mut network = teacher.network(student.device())?;
        network.set_precision(student.precision());
        network.set_convolution(student.convolution());
        Ok(Self {
            macs: macs(network.compact())?,
            network,
            distil: distil.clone(),
        })
    }

    /// Multiply-accumulates of its answer to one image.
    pub fn macs(&self) -> u64 {
        self.macs
    }

    /// What is added to the gradient of the student's `logits` `[N, K]` for `images` `[N, C, H, W]`.
    pub(crate) fn pull(&self, images: &Tensor, logits: &Tensor) -> Result<Tensor> {
        let (told, _) = self.network.forward(images, &Views::dense(), Mode::Eval)?;
        let term = distillation(logits, &told, self.distil.temperature)?;
        if !term.value.is_finite() {
            return Err(Error::Term {
                term: "distillation",
                value: term.value,
            });
        }
        Ok((term.gradient * self.distil.weight)?)
    }
}

/// Distillation of the logits `teacher` `[N, K]` into `student` `[N, K]` at `temperature`; computed on the processor.
///
/// # Errors
/// Other shapes, and those of the device.
pub fn distillation(student: &Tensor, teacher: &Tensor, temperature: f64) -> Result<Term> {
    let (n, k) = student.dims2()?;
    let [own, told] = [student.to_vec2::<f32>()?, teacher.to_vec2::<f32>()?];
    let (mut value, mut gradient) = (0.0, Vec::with_capacity(n * k));
    for (own, told) in own.iter().zip(&told) {
        let [own, told] = [own, told].map(|row| log_softmax(row, temperature));
        for (own, told) in own.iter().zip(&told) {
            let share = told.exp();
            if share > 0.0 {
                value += share * (told - own);
            }
            gradient.push((temperature * (own.exp() - share) / n as f64) as f32);
        }
    }
    // A logit that is not finite must not pass for a perfect match.
    let sound = gradient.iter().all(|g| g.is_finite());
    let mean = temperature * temperature * value / n as f64;
    Ok(Term {
        value: if sound { mean } else { f64::NAN },
        gradient: Tensor::from_vec(gradient, (n, k), student.device())?,
    })
}

/// Logarithms of the softmax of `row / temperature`.
fn log_softmax(row: &[f32], temperature: f64) -> Vec<f64> {
    let scaled = row.iter().map(|&z| f64::from(z) / temperature);
    let top = scaled.clone().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = scaled.clone().map(|z| (z - top).exp()).sum();
    scaled.map(|z| z - top - sum.ln()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn by_hand_and_by_differences() {
        let tensor = |rows: [[f32; 3]; 2]| Tensor::new(&rows, &Device::Cpu).unwrap();
        let teacher = tensor([[1.0, 2.0, 3.0], [0.0, -1.0, 2.0]]);
        let student = [[3.0f32, 0.0, 1.0], [0.5, 0.5, -0.5]];
        let value = |student: [[f32; 3]; 2], t: f64| {
            distillation(&tensor(student), &teacher, t).unwrap().value
        };
        // Computed with torch.nn.functional.kl_div.
        assert!((value(student, 3.0) - 1.605_423).abs() < 1e-5);
        assert!((value(student, 1.0) - 1.291_820).abs() < 1e-5);
        assert!(value([[f32::NAN, 0.0, 1.0], [0.0; 3]], 3.0).is_nan());
        let gradient = distillation(&tensor(student), &teacher, 3.0)
            .unwrap()
            .gradient;
        let gradient = gradient.to_vec2::<f32>().unwrap();
        for n in 0..2 {
            for k in 0..3 {
                let moved = |by: f32| {
                    let mut moved = student;
                    moved[n][k] += by;
                    value(moved, 3.0)
                };
                let slope = (moved(0.01) - moved(-0.01)) / 0.02;
                assert!((slope - f64::from(gradient[n][k])).abs() < 1e-4);
            }
        }
    }
}
