//! L2-norm importance: the Euclidean length of a filter.
//!
//! ```text
//! s[j] = ‖W[j]‖₂ = (Σ_{c,u,v} W[j, c, u, v]²)^½
//! ```
//!
//! He et al., *Soft Filter Pruning for Accelerating Deep Convolutional Neural Networks*, IJCAI 2018,
//! <https://arxiv.org/abs/1808.06866>, equation 2 with `p = 2`.

use crate::{Criterion, Evidence, LayerEvidence, Result};

/// Reads the weights only; ignores the temperature.
pub(crate) struct L2Norm;

impl Criterion for L2Norm {
    fn name(&self) -> &'static str {
        "l2-norm"
    }

    fn about(&self) -> &'static str {
        "Euclidean length of a filter"
    }

    fn source(&self) -> &'static str {
        "He et al., Soft Filter Pruning for Accelerating Deep Convolutional Neural Networks, IJCAI 2018, \
         https://arxiv.org/abs/1808.06866"
    }

    fn evidence(&self) -> Evidence {
        Evidence::Weights
    }

    fn scale_degree(&self) -> Option<i32> {
        Some(1)
    }

    fn score(&self, layer: &LayerEvidence<'_>) -> Result<Vec<f64>> {
        let rows = layer.rows()?;
        let length = rows.len() / layer.filter_count();
        let squared = |row: &[f32]| row.iter().map(|&w| f64::from(w).powi(2)).sum::<f64>();
        Ok(rows
            .chunks_exact(length)
            .map(|row| squared(row).sqrt())
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Example, check, planted};

    #[test]
    fn equals_torch() {
        // W = torch.tensor([[1., -2.], [0., 4.], [.5, .5], [3., 0.]]); W.norm(dim=1)
        let filters = [[1.0, -2.0], [0.0, 4.0], [0.5, 0.5], [3.0, 0.0]];
        let expected = [2.2360680103302, 4.0, 0.7071067690849304, 3.0];
        check(&L2Norm, filters, expected);
    }

    #[test]
    fn an_empty_filter_goes_first() {
        planted(&L2Norm, Example::without_filter);
    }
}
