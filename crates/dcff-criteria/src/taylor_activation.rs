//! Taylor importance of activations: the first-order change of the loss when a channel's map becomes zero.
//!
//! ```text
//! t[j] = |mean over images and pixels of a[j] · ∂L/∂a[j]|,      s[j] = t[j] / (Σ_k t[k]²)^½
//! ```
//!
//! Molchanov et al., *Pruning Convolutional Neural Networks for Resource Efficient Inference*, ICLR 2017,
//! <https://arxiv.org/abs/1611.06440>, equations 8 and 11 (the layer-wise normalisation).
//!
//! No map is stored for it. With `z = γ · x̂ + β` behind the convolution and `a = max(z, 0)`, `a · ∂L/∂a` is `z · ∂L/∂z`
//! in every pixel, and the sum of that over images and pixels is
//!
//! ```text
//! Σ z · ∂L/∂z = γ · Σ x̂ · ∂L/∂z + β · Σ ∂L/∂z = γ · ∂L/∂γ + β · ∂L/∂β
//! ```
//!
//! so the score comes from two gradients that the reverse sweep yields anyway.
//! The number of pixels is the same for all channels of a layer and cancels.
//! Where a residual is added before the activation, `z` is the layer's own part of the sum.
//!
//! Departure: the mean over images is taken before the absolute value, where the authors take the absolute value of each
//! image first.

use crate::{Criterion, Evidence, LayerEvidence, Result};

/// Reads scale and shift of the batch norm behind the convolution, and their gradients.
pub(crate) struct TaylorActivation;

impl Criterion for TaylorActivation {
    fn name(&self) -> &'static str {
        "taylor-activation"
    }

    fn about(&self) -> &'static str {
        "first-order change of the loss when the channel's map becomes zero, normalised per layer"
    }

    fn source(&self) -> &'static str {
        "Molchanov et al., Pruning Convolutional Neural Networks for Resource Efficient Inference, ICLR 2017, \
         https://arxiv.org/abs/1611.06440"
    }

    fn evidence(&self) -> Evidence {
        Evidence::Gradients
    }

    fn scale_degree(&self) -> Option<i32> {
        Some(0)
    }

    fn score(&self, layer: &LayerEvidence<'_>) -> Result<Vec<f64>> {
        let (values, gradients) = (layer.norm()?, &layer.gradients()?.norm);
        let product = |a: &[f32], b: &[f32], j: usize| f64::from(a[j]) * f64::from(b[j]);
        let changes: Vec<f64> = (0..layer.filter_count())
            .map(|j| {
                let scale = product(&values.scale, &gradients.scale, j);
                (scale + product(&values.shift, &gradients.shift, j)).abs()
            })
            .collect();
        let length = changes.iter().map(|t| t * t).sum::<f64>().sqrt();
        // Without any gradient all channels count alike, and 0/0 must not decide.
        let divisor = if length > 0.0 { length } else { 1.0 };
        Ok(changes.into_iter().map(|t| t / divisor).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Example;

    #[test]
    fn equals_the_mean_product_that_torch_finds_in_the_maps() {
        // y = (torch.arange(48, dtype=torch.float64) * .7).sin().reshape(4, 3, 2, 2)
        // bn = torch.nn.BatchNorm2d(3).double(), weight 1.5, -.5, .75, bias .2, .1, -.3
        // a = torch.relu(bn(y)); t = (torch.arange(48, dtype=torch.float64) * 1.3).cos().reshape(4, 3, 2, 2)
        // (a * t).pow(2).sum().backward(); s = (a * a.grad).mean(dim=(0, 2, 3)).abs(); s / s.norm()
        let mut layer = Example::drawn(3, 1.0, 1);
        layer.norm.scale = vec![1.5, -0.5, 0.75];
        layer.norm.shift = vec![0.2, 0.1, -0.3];
        layer.gradients.norm.scale = vec![14.018_424, -4.187_918_7, 2.387_415_6];
        layer.gradients.norm.shift = vec![13.613_308, 4.579_017_6, 2.292_983_3];
        let expected = [0.9932195733932017, 0.1067169079863998, 0.0461126943308333];
        for (score, expected) in layer.score(&TaylorActivation, 1.0).iter().zip(expected) {
            assert!(
                (score - expected).abs() < 1e-6,
                "{score}, expected {expected}"
            );
        }
    }

    #[test]
    fn without_gradients_all_channels_are_alike() {
        let mut layer = Example::drawn(3, 1.0, 1);
        layer.gradients.norm.scale = vec![0.0; 3];
        layer.gradients.norm.shift = vec![0.0; 3];
        assert_eq!(layer.score(&TaylorActivation, 1.0), [0.0; 3]);
    }
}
