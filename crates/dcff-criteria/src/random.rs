//! Random importance: the control that every comparison needs.
//!
//! ```text
//! s[j] ~ U[0, 1), drawn from PCG64 seeded by (seed, layer name)
//! ```
//!
//! Mittal et al., *Recovering from Random Pruning*, WACV 2018, <https://arxiv.org/abs/1801.10447>, show how strong this
//! baseline is.

use dcff_nn::fnv1a;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

use crate::{Criterion, Evidence, LayerEvidence, Result};

/// Reads the number of filters, the seed and the layer's name; never the weights.
pub(crate) struct Random;

impl Criterion for Random {
    fn name(&self) -> &'static str {
        "random"
    }

    fn about(&self) -> &'static str {
        "seeded uniform draw, the same in every epoch: the control"
    }

    fn source(&self) -> &'static str {
        "Mittal et al., Recovering from Random Pruning, WACV 2018, https://arxiv.org/abs/1801.10447"
    }

    fn evidence(&self) -> Evidence {
        Evidence::None
    }

    fn score(&self, layer: &LayerEvidence<'_>) -> Result<Vec<f64>> {
        let mut rng = Pcg64::seed_from_u64(layer.seed() ^ fnv1a(layer.name()));
        Ok((0..layer.filter_count()).map(|_| rng.random()).collect())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor};

    use super::*;

    fn scores(layer: &str, seed: u64) -> Vec<f64> {
        let filters = Tensor::zeros((8, 1, 1, 1), DType::F32, &Device::Cpu).unwrap();
        let evidence = LayerEvidence::new(layer, &filters, 1.0)
            .unwrap()
            .with_seed(seed);
        Random.score(&evidence).unwrap()
    }

    #[test]
    fn draws_per_seed_and_layer() {
        assert_eq!(scores("conv1", 1), scores("conv1", 1));
        assert_ne!(scores("conv1", 1), scores("conv1", 2));
        assert_ne!(scores("conv1", 1), scores("conv2", 1));
        assert!(
            scores("conv1", 1)
                .iter()
                .all(|score| (0.0..1.0).contains(score))
        );
    }
}
