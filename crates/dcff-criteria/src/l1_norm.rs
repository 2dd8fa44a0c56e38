//! L1-norm importance: the sum of a filter's absolute weights.
//!
//! ```text
//! s[j] = Σ_{c,u,v} |W[j, c, u, v]|
//! ```
//!
//! Li et al., *Pruning Filters for Efficient ConvNets*, ICLR 2017, <https://arxiv.org/abs/1608.08710>, section 3.1.

use crate::{Criterion, Evidence, LayerEvidence, Result};

/// Reads the weights only; ignores the temperature.
pub(crate) struct L1Norm;

impl Criterion for L1Norm {
    fn name(&self) -> &'static str {
        "l1-norm"
    }

    fn about(&self) -> &'static str {
        "sum of a filter's absolute weights"
    }

    fn source(&self) -> &'static str {
        "Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017, https://arxiv.org/abs/1608.08710"
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
        Ok(rows
            .chunks_exact(length)
            .map(|row| row.iter().map(|&weight| f64::from(weight).abs()).sum())
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Example, check, planted};

    #[test]
    fn sums_absolute_weights_per_filter() {
        let filters = [[1.0, -2.0], [0.0, 4.0], [0.5, 0.5]];
        check(&L1Norm, filters, [3.0, 4.0, 1.0]);
    }

    #[test]
    fn an_empty_filter_goes_first() {
        planted(&L1Norm, Example::without_filter);
    }
}
