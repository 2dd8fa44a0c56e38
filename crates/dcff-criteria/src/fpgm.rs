//! Filter pruning via geometric median: the summed distance of a filter to all others.
//!
//! ```text
//! s[j] = Σ_k ‖W[j] − W[k]‖₂
//! ```
//!
//! The filter nearest to the geometric median of the layer, which the others can best stand in for, goes first.
//! He et al., *Filter Pruning via Geometric Median for Deep Convolutional Neural Networks Acceleration*, CVPR 2019,
//! <https://arxiv.org/abs/1811.00250>, equation 7.
//!
//! Departure from the authors' program: it first sets aside a share of filters by their norm; here the distance alone
//! decides, as in the paper's text.

use crate::{Criterion, Evidence, LayerEvidence, Result};

/// Reads the weights only; ignores the temperature.
pub(crate) struct Fpgm;

impl Criterion for Fpgm {
    fn name(&self) -> &'static str {
        "fpgm"
    }

    fn about(&self) -> &'static str {
        "summed distance to the other filters: the one nearest the geometric median goes first"
    }

    fn source(&self) -> &'static str {
        "He et al., Filter Pruning via Geometric Median for Deep Convolutional Neural Networks Acceleration, CVPR 2019, \
         https://arxiv.org/abs/1811.00250"
    }

    fn evidence(&self) -> Evidence {
        Evidence::Weights
    }

    fn scale_degree(&self) -> Option<i32> {
        Some(1)
    }

    fn score(&self, layer: &LayerEvidence<'_>) -> Result<Vec<f64>> {
        let similarity = layer.similarity()?;
        let summed = |j| {
            similarity
                .distance_row(j)
                .iter()
                .map(|&d| f64::from(d))
                .sum()
        };
        Ok((0..layer.filter_count()).map(summed).collect())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Tensor;

    use super::*;
    use crate::testing::{check, drawn_filters};

    #[test]
    fn equals_torch() {
        // W = torch.tensor([[1., -2.], [0., 4.], [.5, .5], [3., 0.]]); torch.cdist(W, W).sum(1)
        let filters = [[1.0, -2.0], [0.0, 4.0], [0.5, 0.5], [3.0, 0.0]];
        let expected = [
            11.460700035095215,
            14.61829662322998,
            8.634553909301758,
            10.377937316894531,
        ];
        check(&Fpgm, filters, expected);
    }

    #[test]
    fn a_common_shift_changes_nothing() {
        // Steps of 1/64 and a shift of 8 are exact in f32, so even the rounding stays.
        let filters =
            ((drawn_filters(20, 1.0, 3) * 64.0).unwrap().round().unwrap() / 64.0).unwrap();
        let shift = Tensor::full(8.0_f32, filters.shape(), filters.device()).unwrap();
        let scores = |filters: &Tensor| {
            let evidence = LayerEvidence::new("layer", filters, 1.0).unwrap();
            Fpgm.score(&evidence).unwrap()
        };
        assert_eq!(scores(&filters), scores(&(&filters + shift).unwrap()));
    }
}
