//! What every criterion must hold to, for the tests of this crate and of those that add criteria.
//!
//! The functions panic with a message that names the criterion, as a test's assertion does.

use candle_core::{Device, Tensor};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

use crate::{Criterion, Evidence, LayerEvidence};

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
    let scores = score(criterion, &filters, 1.0);
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

/// Checks what every criterion promises, on filters of several sizes and scales:
/// one finite score per filter, the same input gives the same output, reordered filters give reordered scores (unless
/// the criterion reads no evidence), the temperature enters where [`Criterion::reads_temperature`] says so, scores follow [`Criterion::scale_degree`], the name is kebab case, and help line
/// and source are one line each.
///
/// # Panics
/// If a promise is broken.
pub fn conformance(criterion: &dyn Criterion) {
    describes_itself(criterion);
    for (count, amplitude, seed) in [(1, 0.5, 1), (2, 0.5, 2), (16, 0.3, 3), (65, 1e-3, 4)] {
        let filters = drawn_filters(count, amplitude, seed);
        let scores = score(criterion, &filters, 1.0);
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
            score(criterion, &filters, 1.0),
            scores,
            "{}: the same filters get the same scores",
            criterion.name()
        );
        if criterion.evidence() != Evidence::None {
            follows_the_order(criterion, &filters, &scores);
        }
        if count > 2 {
            assert_eq!(
                score(criterion, &filters, 2.0) != scores,
                criterion.reads_temperature(),
                "{}: another temperature gives other scores just where the criterion says so",
                criterion.name()
            );
        }
        if let Some(degree) = criterion.scale_degree() {
            let scaled = score(criterion, &scaled(&filters, 3.0), 1.0);
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

fn follows_the_order(criterion: &dyn Criterion, filters: &Tensor, scores: &[f64]) {
    // Mirrored around filter 0: only that one and, for an even count, the middle one stay in place.
    let count = scores.len();
    let order: Vec<usize> = (0..count).map(|j| (2 * count - j) % count).collect();
    let ids: Vec<u32> = order.iter().map(|&id| id as u32).collect();
    let ids = Tensor::from_vec(ids, count, filters.device()).expect("ids make a tensor");
    let reordered = filters.index_select(&ids, 0).expect("ids are in range");
    let expected: Vec<f64> = order.iter().map(|&id| scores[id]).collect();
    close(
        criterion,
        "scores of reordered filters",
        &score(criterion, &reordered, 1.0),
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

fn scaled(filters: &Tensor, factor: f64) -> Tensor {
    (filters * factor).expect("a tensor can be scaled")
}

fn score(criterion: &dyn Criterion, filters: &Tensor, temperature: f64) -> Vec<f64> {
    let evidence = LayerEvidence::new("layer", filters, temperature).expect("filters are filters");
    match criterion.score(&evidence) {
        Ok(scores) => scores,
        Err(error) => panic!("{}: {error}", criterion.name()),
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
