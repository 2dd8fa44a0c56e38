//! Taylor importance of weights: the squared first-order change of the loss when a filter is set to zero.
//!
//! ```text
//! s[j] = (Σ_{c,u,v} ∂L/∂W[j, c, u, v] · W[j, c, u, v])²
//! ```
//!
//! Molchanov et al., *Importance Estimation for Neural Network Pruning*, CVPR 2019, <https://arxiv.org/abs/1906.10771>,
//! equation 8 with the sum inside the square (a filter is removed as a whole).
//!
//! The gradient has to be taken with batch norm's statistics as constants: with those of the batch the loss does not
//! depend on a filter's length, and every score is 0.
//!
//! Departure: the gradient is that of the mean loss over all sampled images, where the authors average the squares of
//! many small batches during training.

use crate::{Criterion, Evidence, LayerEvidence, Result};

/// Reads the weights and their gradients.
pub(crate) struct TaylorWeight;

impl Criterion for TaylorWeight {
    fn name(&self) -> &'static str {
        "taylor-weight"
    }

    fn about(&self) -> &'static str {
        "squared first-order change of the loss when the filter becomes zero"
    }

    fn source(&self) -> &'static str {
        "Molchanov et al., Importance Estimation for Neural Network Pruning, CVPR 2019, https://arxiv.org/abs/1906.10771"
    }

    fn evidence(&self) -> Evidence {
        Evidence::Gradients
    }

    fn scale_degree(&self) -> Option<i32> {
        Some(2)
    }

    fn score(&self, layer: &LayerEvidence<'_>) -> Result<Vec<f64>> {
        let (rows, gradients) = (layer.rows()?, &layer.gradients()?.filters);
        let length = rows.len() / layer.filter_count();
        Ok(rows
            .chunks_exact(length)
            .zip(gradients.chunks_exact(length))
            .map(|(weights, gradients)| {
                let products = weights.iter().zip(gradients);
                let change: f64 = products.map(|(&w, &g)| f64::from(w) * f64::from(g)).sum();
                change * change
            })
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;
    use crate::testing::{Example, planted};
    use crate::{GradientEvidence, NormEvidence};

    #[test]
    fn equals_torch() {
        // W = torch.tensor([[1., -2.], [0., 4.], [.5, .5], [3., 0.]])
        // G = torch.tensor([[.5, .25], [-1., 2.], [4., -3.], [0., 7.]]); (W * G).sum(1) ** 2
        let filters = Tensor::new(&[1_f32, -2.0, 0.0, 4.0, 0.5, 0.5, 3.0, 0.0], &Device::Cpu)
            .unwrap()
            .reshape((4, 2, 1, 1))
            .unwrap();
        let gradients = GradientEvidence {
            filters: vec![0.5, 0.25, -1.0, 2.0, 4.0, -3.0, 0.0, 7.0],
            norm: NormEvidence {
                scale: vec![0.0; 4],
                shift: vec![0.0; 4],
            },
        };
        let evidence = LayerEvidence::new("layer", &filters, 1.0).unwrap();
        let evidence = evidence.with_gradients(gradients).unwrap();
        assert_eq!(
            TaylorWeight.score(&evidence).unwrap(),
            [0.0, 64.0, 0.25, 0.0]
        );
    }

    #[test]
    fn an_empty_filter_goes_first() {
        planted(&TaylorWeight, Example::without_filter);
    }
}
