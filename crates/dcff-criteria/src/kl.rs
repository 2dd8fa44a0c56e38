//! Kullback-Leibler importance, exact: how differently a filter describes the layer, compared with all others.
//!
//! ```text
//! I[j] = Σ_k KL(P[j] ‖ P[k]) = Σ_k Σ_i P[j, i] · (ln P[j, i] − ln P[k, i])      in nats
//! ```
//!
//! with the proxies `P` of [`Similarity`].
//! Lin et al., *Training Compact CNNs for Image Classification using Dynamic-coded Filter Fusion*, TPAMI 2023,
//! <https://arxiv.org/abs/2107.06916>, equation 7.
//!
//! Departures from the authors' program (which is `kl-published`): a sum where it takes a mean over `C_out`, and no
//! epsilon, because everything stays in log space.
//! With `ln P[k, i] = −D[k, i] · T − ln Z[k]` the sum over `k` needs only row sums, as `D` is symmetric:
//!
//! ```text
//! I[j] = Σ_k (ln Z[k] − ln Z[j]) + T · Σ_i P[j, i] · (Σ_k D[i, k] − C_out · D[j, i])
//! ```
//!
//! So it takes `O(C_out²)` time and memory, is finite at every temperature (no logarithm of a number that underflowed),
//! and keeps its digits when all proxies are nearly alike, where the two terms nearly cancel.
//! As `T` grows, `I[j]` tends to `T · Σ_k D[j, k]`: the filter farthest from all others, the geometric-median rule of
//! FPGM (He et al., CVPR 2019, <https://arxiv.org/abs/1811.00250>).

use rayon::prelude::*;

use crate::similarity::exp_and_exp_m1;
use crate::{Criterion, Evidence, LayerEvidence, Result, Similarity};

/// Reads the weights and the temperature.
pub(crate) struct Kl;

impl Criterion for Kl {
    fn name(&self) -> &'static str {
        "kl"
    }

    fn about(&self) -> &'static str {
        "summed KL divergence of a filter's proxy from all others, exact at every temperature"
    }

    fn source(&self) -> &'static str {
        "Lin et al., Training Compact CNNs for Image Classification using Dynamic-coded Filter Fusion, TPAMI 2023, \
         https://arxiv.org/abs/2107.06916, equation 7"
    }

    fn evidence(&self) -> Evidence {
        Evidence::Weights
    }

    fn reads_temperature(&self) -> bool {
        true
    }

    fn score(&self, layer: &LayerEvidence<'_>) -> Result<Vec<f64>> {
        Ok(scores(layer.similarity()?))
    }
}

fn scores(similarity: &Similarity) -> Vec<f64> {
    let filters = similarity.filters();
    let count = filters as f64;
    let temperature = similarity.temperature();
    let summed: Vec<f64> = (0..filters)
        .into_par_iter()
        .map(|j| {
            similarity
                .distance_row(j)
                .iter()
                .map(|&distance| f64::from(distance))
                .sum()
        })
        .collect();
    let logs = similarity.log_partitions();
    let summed_logs: f64 = logs.iter().sum();

    (0..filters)
        .into_par_iter()
        .map(|j| {
            // Weights in f64, not the f32 proxies: at a low temperature the score is the small rest of two large sums,
            // and the proxies' rounding would be all that is left of it.
            let (mut total, mut expected) = (0.0, 0.0);
            for (&distance, summed) in similarity.distance_row(j).iter().zip(&summed) {
                let distance = f64::from(distance);
                let (weight, _) = exp_and_exp_m1(-distance * temperature);
                total += weight;
                expected += weight * (summed - count * distance);
            }
            (summed_logs - count * logs[j]) + temperature * (expected / total)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;
    use crate::kl_published::score_of_proxies;
    use crate::testing::{check, drawn_filters};

    /// The definition, term by term, in `f64`: `O(C_out³)`.
    fn brute_force(similarity: &Similarity) -> Vec<f64> {
        let (filters, proxies) = (similarity.filters(), proxies_f64(similarity));
        let row = |j: usize| &proxies[j * filters..][..filters];
        let divergence = |j, k| -> f64 {
            row(j)
                .iter()
                .zip(row(k))
                .map(|(p, q)| p * (p / q).ln())
                .sum()
        };
        (0..filters)
            .map(|j| (0..filters).map(|k| divergence(j, k)).sum())
            .collect()
    }

    fn proxies_f64(similarity: &Similarity) -> Vec<f64> {
        let filters = similarity.filters();
        let mut proxies = Vec::new();
        for j in 0..filters {
            let exps: Vec<f64> = similarity
                .distance_row(j)
                .iter()
                .map(|&distance| (-f64::from(distance) * similarity.temperature()).exp())
                .collect();
            let total: f64 = exps.iter().sum();
            proxies.extend(exps.iter().map(|exp| exp / total));
        }
        proxies
    }

    fn similarity(filters: &Tensor, temperature: f64) -> Similarity {
        let evidence = LayerEvidence::new("layer", filters, temperature).unwrap();
        evidence.similarity().unwrap().clone()
    }

    fn largest_relative(values: &[f64], expected: &[f64]) -> f64 {
        let relative = |(value, expected): (&f64, &f64)| ((value - expected) / expected).abs();
        values
            .iter()
            .zip(expected)
            .map(relative)
            .fold(0.0, f64::max)
    }

    #[test]
    fn two_filters_by_hand() {
        // Distance ln 3 at temperature 1: proxies (3/4, 1/4) and (1/4, 3/4), so KL = 3/4 ln 3 − 1/4 ln 3.
        let expected = 0.5 * 3.0_f64.ln();
        check(&Kl, [[0.0], [3.0_f32.ln()]], [expected, expected]);
    }

    #[test]
    fn equals_the_definition() {
        let filters = drawn_filters(24, 1.0, 5);
        for temperature in [0.3, 1.0, 4.0, 20.0] {
            let similarity = similarity(&filters, temperature);
            let worst = largest_relative(&scores(&similarity), &brute_force(&similarity));
            assert!(worst < 1e-12, "at temperature {temperature}: {worst}");
        }
    }

    #[test]
    fn keeps_its_digits_when_all_proxies_are_alike() {
        // For small x = T · D the divergence is of order x², so T a thousand times smaller makes it a million times
        // smaller; the next term is of relative size x. The definition, evaluated in f64, loses six digits here.
        let filters = drawn_filters(24, 1.0, 6);
        let (near, nearer) = (
            scores(&similarity(&filters, 1e-6)),
            scores(&similarity(&filters, 1e-9)),
        );
        let scaled: Vec<f64> = nearer.iter().map(|score| score * 1e6).collect();
        let worst = largest_relative(&near, &scaled);
        assert!(worst < 1e-4, "{worst}");
        assert!(near.iter().all(|&score| score > 0.0));
    }

    #[test]
    fn tends_to_the_summed_distance() {
        let filters = drawn_filters(32, 1.0, 7);
        let mut last = f64::INFINITY;
        for temperature in [1e1, 1e2, 1e4, 1e8] {
            let similarity = similarity(&filters, temperature);
            let summed: Vec<f64> = (0..32)
                .map(|j| {
                    temperature
                        * similarity
                            .distance_row(j)
                            .iter()
                            .map(|&d| f64::from(d))
                            .sum::<f64>()
                })
                .collect();
            let scores = scores(&similarity);
            let worst = largest_relative(&scores, &summed);
            assert!(
                worst <= last,
                "at temperature {temperature}: {worst} after {last}"
            );
            last = worst;
            if temperature >= 1e4 {
                assert!(worst < 1e-12, "at temperature {temperature}: {worst}");
                assert_eq!(ranked(&scores), ranked(&summed));
            }
        }
    }

    fn ranked(scores: &[f64]) -> Vec<usize> {
        let mut ids: Vec<_> = (0..scores.len()).collect();
        ids.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        ids
    }

    #[test]
    fn is_finite_at_every_temperature() {
        let drawn = drawn_filters(16, 1.0, 8);
        // Two equal filters, one nearly equal, one far away: the cases in which a logarithm of P fails.
        let rows = [0.0_f32, 0.0, 1e-7, 1e6, 1.0, 1.0];
        let extreme = Tensor::from_slice(&rows, (6, 1, 1, 1), &Device::Cpu).unwrap();
        for filters in [&drawn, &extreme] {
            for exponent in -12..=30 {
                let scores = scores(&similarity(filters, 10.0_f64.powi(exponent)));
                assert!(
                    scores.iter().all(|score| score.is_finite()),
                    "at 1e{exponent}: {scores:?}"
                );
            }
            assert!(
                scores(&similarity(filters, 0.0))
                    .iter()
                    .all(|&score| score == 0.0)
            );
        }
    }

    /// The published score with its epsilon as a parameter, on the same `f64` proxies, approaches the exact one.
    ///
    /// At this temperature the smallest proxy is far above the epsilons, so the difference is `Σ_k Σ_i P[j, i] · ε /
    /// P[k, i]` to first order: linear in epsilon, and nothing but rounding without it.
    #[test]
    fn is_the_limit_of_the_published_score() {
        let filters = drawn_filters(32, 1.0, 9);
        let similarity = similarity(&filters, 2.0);
        let exact = scores(&similarity);
        let proxies = proxies_f64(&similarity);
        assert!(proxies.iter().all(|&proxy| proxy > 1e-5));
        let apart = |epsilon: f64| {
            let published = score_of_proxies(&proxies, 32, epsilon);
            let summed: Vec<f64> = published.iter().map(|score| 32.0 * score).collect();
            largest_relative(&summed, &exact)
        };
        assert!(apart(1e-7) < 1e-2);
        assert!(apart(1e-7) > 1e-6);
        assert!((apart(1e-7) / apart(1e-9) - 100.0).abs() < 1.0);
        assert!(apart(1e-12) < 1e-6);
        assert!(apart(0.0) < 1e-12);
    }

    #[test]
    fn scaling_the_filters_is_scaling_the_temperature() {
        let filters = drawn_filters(12, 1.0, 10);
        // A power of two, so that the scaled weights are exact.
        let scaled = (&filters * 4.0).unwrap();
        assert_eq!(
            scores(&similarity(&scaled, 1.0)),
            scores(&similarity(&filters, 4.0))
        );
    }
}
