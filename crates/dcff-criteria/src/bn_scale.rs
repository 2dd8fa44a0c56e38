//! Batch-norm scale (network slimming): how strongly a channel is passed on.
//!
//! ```text
//! s[j] = |γ[j]|,      trained with the loss + λ · Σ |γ|
//! ```
//!
//! Liu et al., *Learning Efficient Convolutional Networks through Network Slimming*, ICCV 2017,
//! <https://arxiv.org/abs/1708.06519>, equation 1; `λ` is 1e-4 in their experiments on CIFAR with VGG.

use crate::{Criterion, Evidence, LayerEvidence, Result};

/// The authors' `λ`.
const PENALTY: f64 = 1e-4;

/// Reads the scale of the batch norm behind the convolution.
pub(crate) struct BnScale;

impl Criterion for BnScale {
    fn name(&self) -> &'static str {
        "bn-scale"
    }

    fn about(&self) -> &'static str {
        "absolute scale of the batch norm behind the filter, trained with an L1 penalty on all scales"
    }

    fn source(&self) -> &'static str {
        "Liu et al., Learning Efficient Convolutional Networks through Network Slimming, ICCV 2017, \
         https://arxiv.org/abs/1708.06519"
    }

    fn evidence(&self) -> Evidence {
        Evidence::Scale
    }

    fn scale_penalty(&self) -> f64 {
        PENALTY
    }

    fn scale_degree(&self) -> Option<i32> {
        Some(1)
    }

    fn score(&self, layer: &LayerEvidence<'_>) -> Result<Vec<f64>> {
        let scale = &layer.norm()?.scale;
        Ok(scale.iter().map(|&gamma| f64::from(gamma).abs()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Example, planted};

    #[test]
    fn is_the_absolute_scale() {
        let mut layer = Example::drawn(3, 1.0, 1);
        layer.norm.scale = vec![0.5, -2.0, 0.0];
        assert_eq!(layer.score(&BnScale, 1.0), [0.5, 2.0, 0.0]);
    }

    #[test]
    fn a_channel_of_scale_zero_goes_first() {
        planted(&BnScale, |layer, j| layer.norm.scale[j] = 0.0);
    }
}
