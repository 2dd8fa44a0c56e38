//! What every criterion must hold to, for the tests of this crate and of those that add criteria.
//!
//! The functions panic with a message that names the criterion, as a test's assertion does.

use candle_core::{Device, Tensor};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

use crate::{Criterion, Evidence, GradientEvidence, LayerEvidence, NormEvidence, Observed};

/// Filters `[count, 3, 2, 2]` with weights drawn uniformly from `[-amplitude, amplitude)`.
///
/// # Panics
/// If the tensor cannot be made.
pub fn drawn_filters(count: usize, amplitude: f32, seed: u64) -> Tensor {
    let mut rng = Pcg64::seed_from_u64(seed);
    let weights: Vec<f32> = (0..count * 12)
        .map(|_| amplitude * (2.0 * rng.random::<f32>() - 1.0))
        .collect();
    Tensor::from_vec(weights, (count, 3, 2, 2), &Device::Cpu).expect("the shape holds the weights")
}

/// A made-up layer with every kind of evidence.
#[derive(Clone, Debug)]
pub struct Example {
    /// `[C_out, 3, 2, 2]`.
    pub filters: Tensor,
    /// Batch norm behind it.
    pub norm: NormEvidence,
    /// Gradients of both.
    pub gradients: GradientEvidence,
    /// Feature maps, [`Example::MAPS`] images of `[C_out, 4, 5]`, at least 0 as after a rectifier.
    pub maps: Vec<f32>,
}

impl Example {
    /// Images in [`Example::maps`].
    pub const MAPS: usize = 3;
    const PIXELS: usize = 4 * 5;

    /// A layer of `count` filters, its numbers drawn uniformly, weights from `[-amplitude, amplitude)`.
    pub fn drawn(count: usize, amplitude: f32, seed: u64) -> Self {
        let mut rng = Pcg64::seed_from_u64(seed ^ 0xfeed);
        let mut draw = |numbers: usize| -> Vec<f32> {
            (0..numbers)
                .map(|_| 2.0 * rng.random::<f32>() - 1.0)
                .collect()
        };
        Self {
            filters: drawn_filters(count, amplitude, seed),
            norm: NormEvidence {
                scale: draw(count),
                shift: draw(count),
            },
            gradients: GradientEvidence {
                filters: draw(count * 12),
                norm: NormEvidence {
                    scale: draw(count),
                    shift: draw(count),
                },
            },
            maps: draw(Self::MAPS * count * Self::PIXELS)
                .into_iter()
                .map(|x| x.max(0.0))
                .collect(),
        }
    }

    /// The number of filters.
    pub fn count(&self) -> usize {
        self.norm.scale.len()
    }

    /// Sets all weights of filter `j` to zero.
    ///
    /// # Panics
    /// If the tensor cannot be read.
    pub fn without_filter(&mut self, j: usize) {
        let flat = self.filters.flatten_all().expect("filters can be read");
        let mut weights = flat.to_vec1::<f32>().expect("filters can be read");
        let length = weights.len() / self.count();
        weights[j * length..][..length].fill(0.0);
        self.filters = Tensor::from_vec(weights, self.filters.shape(), self.filters.device())
            .expect("the shape holds the weights");
    }

    /// The scores of `criterion` at `temperature`.
    ///
    /// # Panics
    /// If scoring fails.
    pub fn score(&self, criterion: &dyn Criterion, temperature: f64) -> Vec<f64> {
        let scored = || {
            let mut observed = Observed::new(self.count());
            if criterion.evidence() == Evidence::FeatureMaps {
                observed.add(criterion, &self.maps, [Self::MAPS, self.count(), 4, 5])?;
            }
            let evidence = LayerEvidence::new("layer", &self.filters, temperature)?
                .with_norm(self.norm.clone())?
                .with_gradients(self.gradients.clone())?
                .with_observed(observed.mean())?;
            criterion.score(&evidence)
        };
        match scored() {
            Ok(scores) => scores,
            Err(error) => panic!("{}: {error}", criterion.name()),
        }
    }

    /// The same layer with its filters, and all that belongs to them, in the order `order`.
    fn reordered(&self, order: &[usize]) -> Self {
        let take = |numbers: &[f32], length: usize| -> Vec<f32> {
            let part = |&id: &usize| &numbers[id * length..][..length];
            order.iter().flat_map(part).copied().collect()
        };
        let norm = |norm: &NormEvidence| NormEvidence {
            scale: take(&norm.scale, 1),
            shift: take(&norm.shift, 1),
        };
        let ids: Vec<u32> = order.iter().map(|&id| id as u32).collect();
        let ids = Tensor::from_vec(ids, order.len(), self.filters.device());
        let filters = ids.and_then(|ids| self.filters.index_select(&ids, 0));
        let image = self.count() * Self::PIXELS;
        Self {
            filters: filters.expect("ids are in range"),
            norm: norm(&self.norm),
            gradients: GradientEvidence {
                filters: take(&self.gradients.filters, 12),
                norm: norm(&self.gradients.norm),
            },
            maps: self
                .maps
                .chunks_exact(image)
                .flat_map(|image| take(image, Self::PIXELS))
                .collect(),
        }
    }

    /// The same layer with all but the gradients multiplied by `factor`.
    fn scaled(&self, factor: f32) -> Self {
        let times = |numbers: &[f32]| numbers.iter().map(|x| x * factor).collect();
        Self {
            filters: (&self.filters * f64::from(factor)).expect("a tensor can be scaled"),
            norm: NormEvidence {
                scale: times(&self.norm.scale),
                shift: times(&self.norm.shift),
            },
            gradients: self.gradients.clone(),
            maps: times(&self.maps),
        }
    }
}

/// Checks that a channel made useless by `spoil` has the lowest score, and alone, wherever it stands.
///
/// # Panics
/// If it has not.
pub fn planted(criterion: &dyn Criterion, spoil: impl Fn(&mut Example, usize)) {
    for useless in [0, 7, 15] {
        let mut layer = Example::drawn(16, 0.3, 8);
        spoil(&mut layer, useless);
        let scores = layer.score(criterion, 1.0);
        for (j, score) in scores.iter().enumerate() {
            assert!(
                j == useless || scores[useless] < *score,
                "{}: filter {j} scores {score}, the useless filter {useless} {}",
                criterion.name(),
                scores[useless]
            );
        }
    }
}

/// Scores `filters`, rows of `C_in` weights of 1×1 kernels, at temperature 1 and compares within 1e-6 relative or
/// absolute, whichever is wider.
///
/// # Panics
/// If scoring fails or a score differs.
pub fn check<const FILTERS: usize, const WEIGHTS: usize>(
    criterion: &dyn Criterion,
    filters: [[f32; WEIGHTS]; FILTERS],
    expected: [f64; FILTERS],
) {
    let filters = Tensor::from_slice(
        filters.as_flattened(),
        (FILTERS, WEIGHTS, 1, 1),
        &Device::Cpu,
    )
    .expect("the shape holds the weights");
    let scores = LayerEvidence::new("layer", &filters, 1.0)
        .and_then(|evidence| criterion.score(&evidence))
        .expect("the criterion reads weights only");
    assert_eq!(
        scores.len(),
        FILTERS,
        "{}: one score per filter",
        criterion.name()
    );
    for (j, (score, expected)) in scores.iter().zip(expected).enumerate() {
        assert!(
            (score - expected).abs() <= 1e-6 * expected.abs().max(1.0),
            "{}: filter {j} scores {score}, expected {expected}",
            criterion.name()
        );
    }
}

/// Checks what every criterion promises, on layers of several sizes and scales:
/// one finite score per filter, the same input gives the same output, reordered channels give reordered scores (unless
/// the criterion reads no evidence), the temperature enters where [`Criterion::reads_temperature`] says so, scores follow
/// [`Criterion::scale_degree`], the name is kebab case, and help line and source are one line each.
///
/// # Panics
/// If a promise is broken.
pub fn conformance(criterion: &dyn Criterion) {
    describes_itself(criterion);
    for (count, amplitude, seed) in [(1, 0.5, 1), (2, 0.5, 2), (16, 0.3, 3), (65, 1e-3, 4)] {
        let layer = Example::drawn(count, amplitude, seed);
        let scores = layer.score(criterion, 1.0);
        assert_eq!(
            scores.len(),
            count,
            "{}: one score per filter",
            criterion.name()
        );
        assert!(
            scores.iter().all(|score| score.is_finite()),
            "{}: every score is finite, got {scores:?}",
            criterion.name()
        );
        assert_eq!(
            layer.score(criterion, 1.0),
            scores,
            "{}: the same layer gets the same scores",
            criterion.name()
        );
        if criterion.evidence() != Evidence::None {
            follows_the_order(criterion, &layer, &scores);
        }
        if count > 2 {
            assert_eq!(
                layer.score(criterion, 2.0) != scores,
                criterion.reads_temperature(),
                "{}: another temperature gives other scores just where the criterion says so",
                criterion.name()
            );
        }
        if let Some(degree) = criterion.scale_degree() {
            let scaled = layer.scaled(3.0).score(criterion, 1.0);
            close(
                criterion,
                "scaled scores",
                &scaled,
                &scores,
                3.0_f64.powi(degree),
            );
        }
    }
}

fn describes_itself(criterion: &dyn Criterion) {
    let name = criterion.name();
    let kebab = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    assert!(name.split('-').all(kebab), "'{name}' is kebab case");
    for text in [criterion.about(), criterion.source()] {
        assert!(
            !text.trim().is_empty(),
            "{name}: help line and source are there"
        );
        assert!(
            !text.contains('\n'),
            "{name}: help line and source are one line each"
        );
    }
}

fn follows_the_order(criterion: &dyn Criterion, layer: &Example, scores: &[f64]) {
    // Mirrored around filter 0: only that one and, for an even count, the middle one stay in place.
    let count = scores.len();
    let order: Vec<usize> = (0..count).map(|j| (2 * count - j) % count).collect();
    let expected: Vec<f64> = order.iter().map(|&id| scores[id]).collect();
    close(
        criterion,
        "scores of reordered filters",
        &layer.reordered(&order).score(criterion, 1.0),
        &expected,
        1.0,
    );
}

/// Compares with `factor · expected`: within 1e-5 of the largest, as sums run in another order and weights round.
fn close(criterion: &dyn Criterion, what: &str, scores: &[f64], expected: &[f64], factor: f64) {
    let largest = expected
        .iter()
        .fold(0.0, |largest: f64, score| largest.max(score.abs()));
    for (j, (score, expected)) in scores.iter().zip(expected).enumerate() {
        assert!(
            (score - factor * expected).abs() <= 1e-5 * factor.abs() * largest + 1e-12,
            "{}: {what}, filter {j}: {score}, expected {}",
            criterion.name(),
            factor * expected
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Result;

    /// Scores by position, which no criterion may.
    struct ByPosition;

    impl Criterion for ByPosition {
        fn name(&self) -> &'static str {
            "by-position"
        }
        fn about(&self) -> &'static str {
            "index of the filter"
        }
        fn source(&self) -> &'static str {
            "a counterexample"
        }
        fn evidence(&self) -> Evidence {
            Evidence::Weights
        }
        fn score(&self, layer: &LayerEvidence<'_>) -> Result<Vec<f64>> {
            Ok((0..layer.filter_count()).map(|j| j as f64).collect())
        }
    }

    #[test]
    #[should_panic(expected = "by-position: scores of reordered filters, filter 1")]
    fn catches_a_score_by_position() {
        conformance(&ByPosition);
    }
}
