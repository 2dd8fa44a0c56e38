//! CHIP: how much of a layer's information a channel holds that no other channel holds.
//!
//! ```text
//! s[j] = mean over images of ‖A‖_* − ‖A without row j‖_*
//! ```
//!
//! with the feature maps `A [C, H·W]` after normalisation and activation, one row per channel, and the nuclear norm
//! `‖·‖_*`, the sum of singular values.
//! Sui et al., *CHIP: CHannel Independence-based Pruning for Compact Neural Networks*, NeurIPS 2021,
//! <https://arxiv.org/abs/2110.13981>, equation 4.
//!
//! One decomposition `A·Aᵀ = U·Λ·Uᵀ` (or of `Aᵀ·A`, whichever is smaller) serves all rows: without row `j` the squared
//! singular values `μ` are the roots of
//!
//! ```text
//! f(μ) = 1 − Σ_k λ[k] · U[j, k]² / (λ[k] − μ)
//! ```
//!
//! with exactly one between two neighbouring `λ` (Golub, *Some Modified Matrix Eigenvalue Problems*, SIAM Review 1973,
//! section 5), found by regula falsi: `O(C · n²)` per image with `n = min(C, H·W)`, instead of one singular
//! value decomposition per channel.
//! It is the slowest criterion by far: on one core about 8 ms per image for 64 channels of 8x8 pixels, 90 ms for 128 of
//! 16x16.

use crate::symmetric::{Vectors, eigen};
use crate::{Criterion, Evidence, LayerEvidence, Maps, Result};

/// Reads feature maps.
pub(crate) struct Chip;

impl Criterion for Chip {
    fn name(&self) -> &'static str {
        "chip"
    }

    fn about(&self) -> &'static str {
        "channel independence: what the nuclear norm of the layer's maps loses without the channel"
    }

    fn source(&self) -> &'static str {
        "Sui et al., CHIP: CHannel Independence-based Pruning for Compact Neural Networks, NeurIPS 2021, \
         https://arxiv.org/abs/2110.13981"
    }

    fn evidence(&self) -> Evidence {
        Evidence::FeatureMaps
    }

    fn scale_degree(&self) -> Option<i32> {
        Some(1)
    }

    fn observe(&self, maps: &Maps<'_>) -> Vec<f64> {
        let [channels, height, width] = maps.dims();
        losses(maps.values(), channels, height * width)
    }

    fn score(&self, layer: &LayerEvidence<'_>) -> Result<Vec<f64>> {
        Ok(layer.observed()?.to_vec())
    }
}

/// `‖A‖_* − ‖A without row j‖_*` for every row `j` of `a`, `[rows, columns]`.
fn losses(a: &[f32], rows: usize, columns: usize) -> Vec<f64> {
    let row = |j: usize| &a[j * columns..][..columns];
    let n = rows.min(columns);
    let mut gram = vec![0.0; n * n];
    if rows <= columns {
        for i in 0..n {
            for j in 0..=i {
                let products = row(i).iter().zip(row(j));
                let dot = products.map(|(&x, &y)| f64::from(x) * f64::from(y)).sum();
                gram[i * n + j] = dot;
                gram[j * n + i] = dot;
            }
        }
    } else {
        for j in 0..rows {
            for (i, &x) in row(j).iter().enumerate() {
                let products = gram[i * n..][..n].iter_mut().zip(row(j));
                products.for_each(|(sum, &y)| *sum += f64::from(x) * f64::from(y));
            }
        }
    }
    let decomposition = eigen(gram, n, Vectors::Yes);
    let lambda: Vec<f64> = decomposition.values.iter().map(|&v| v.max(0.0)).collect();
    let norm: f64 = lambda.iter().map(|v| v.sqrt()).sum();
    (0..rows)
        .map(|j| {
            // The squared coordinates of row j along the right singular vectors: λ[k] · U[j, k]².
            let weights: Vec<f64> = (0..n)
                .map(|k| {
                    let vector = &decomposition.vectors[k * n..][..n];
                    if rows <= columns {
                        lambda[k] * vector[j] * vector[j]
                    } else {
                        let products = vector.iter().zip(row(j));
                        let z: f64 = products.map(|(v, &x)| v * f64::from(x)).sum();
                        z * z
                    }
                })
                .collect();
            if weights.iter().all(|&w| w == 0.0) {
                return 0.0;
            }
            norm - nuclear_norm_without(&lambda, &weights)
        })
        .collect()
}

/// `Σ √μ` over the eigenvalues `μ` of `diag(λ) − z·zᵀ`, `λ` ascending and at least 0, `weights` the squares of `z`.
fn nuclear_norm_without(lambda: &[f64], weights: &[f64]) -> f64 {
    let resolution = 1e-15 * lambda.last().copied().unwrap_or(0.0);
    let mut sum = 0.0;
    let mut below = 0.0;
    for &above in lambda {
        sum += root(lambda, weights, below, above, resolution).sqrt();
        below = above;
    }
    sum
}

/// The root of `f` between the neighbours `below` and `above`; where an end has no weight, possibly that end.
fn root(lambda: &[f64], weights: &[f64], below: f64, above: f64, resolution: f64) -> f64 {
    let (mut low, mut high) = (below, above);
    if high - low <= resolution {
        return high;
    }
    let f = |mu: f64| {
        let terms = lambda.iter().zip(weights);
        1.0 - terms
            .map(|(l, w)| if *w == 0.0 { 0.0 } else { w / (l - mu) })
            .sum::<f64>()
    };
    // f falls over the interval. Times the distances to both ends it is smooth and finite, so regula falsi (in the
    // Illinois form: an end that stays counts half) needs a few steps; only the signs of f decide, and when it dawdles the
    // interval is halved.
    let smooth = |mu: f64, f: f64| f * (above - mu) * (mu - below);
    let (mut at_low, mut at_high): (Option<f64>, Option<f64>) = (None, None);
    for step in 0..200 {
        if high - low <= resolution {
            break;
        }
        let middle = 0.5 * (low + high);
        let mu = match (at_low, at_high) {
            (Some(a), Some(b)) if step < 40 => {
                let secant = (low * b - high * a) / (b - a);
                if secant > low && secant < high {
                    secant
                } else {
                    middle
                }
            }
            _ => middle,
        };
        let value = f(mu);
        if value > 0.0 {
            (low, at_low) = (mu, Some(smooth(mu, value)));
            at_high = at_high.map(|b| 0.5 * b);
        } else if value < 0.0 {
            (high, at_high) = (mu, Some(smooth(mu, value)));
            at_low = at_low.map(|a| 0.5 * a);
        } else {
            return mu;
        }
    }
    0.5 * (low + high)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(losses: &[f64], expected: &[f64]) {
        assert_eq!(losses.len(), expected.len());
        for (j, (loss, expected)) in losses.iter().zip(expected).enumerate() {
            assert!(
                (loss - expected).abs() < 2e-7,
                "row {j}: {loss}, expected {expected}"
            );
        }
    }

    fn waves(count: usize, step: f64) -> Vec<f32> {
        (0..count)
            .map(|i| (i as f64 * step).sin().max(0.0) as f32)
            .collect()
    }

    #[test]
    fn equals_torch_with_fewer_channels_than_pixels() {
        // def chip(a):
        //     n = torch.linalg.matrix_norm
        //     without = lambda i: torch.stack([r if k != i else 0 * r for k, r in enumerate(a)])
        //     return torch.stack([n(a, 'nuc') - n(without(i), 'nuc') for i in range(len(a))])
        // g = (torch.arange(90, dtype=torch.float64) * .37).sin().clamp(min=0).reshape(2, 5, 9)
        // (chip(g[0]) + chip(g[1])) / 2
        let expected = [
            0.7631156755624775,
            0.5797033385158272,
            0.6461200952814554,
            0.63433775438943,
            1.0175758840271827,
        ];
        let maps = waves(90, 0.37);
        let mut observed = crate::Observed::new(5);
        observed.add(&Chip, &maps, [2, 5, 3, 3]).unwrap();
        close(&observed.mean(), &expected);
    }

    #[test]
    fn equals_torch_with_more_channels_than_pixels() {
        // chip((torch.arange(24, dtype=torch.float64) * .61).sin().clamp(min=0).reshape(6, 4))
        let expected = [
            0.6001475729603367,
            0.3454172090168792,
            0.22420703840474054,
            0.9825869425716922,
            0.0,
            0.5243093731121373,
        ];
        close(&losses(&waves(24, 0.61), 6, 4), &expected);
    }

    #[test]
    fn orthogonal_rows_lose_their_length_and_a_copy_all_but_the_square_root_of_two() {
        let maps = [2.0, 0.0, 0.0, 0.0, 3.0, 0.0, 0.0, 0.0, 0.5];
        close(&losses(&maps, 3, 3), &[2.0, 3.0, 0.5]);
        // Rows 0 and 1 alike: together √2 long, apart 1.
        let copied = [1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 3.0, 0.0];
        let duplicate = 2.0_f64.sqrt() - 1.0;
        close(&losses(&copied, 3, 3), &[duplicate, duplicate, 3.0]);
    }

    #[test]
    fn a_dead_channel_loses_nothing() {
        let mut maps = waves(60, 0.61);
        maps[10..20].fill(0.0);
        let losses = losses(&maps, 6, 10);
        assert!(losses[1].abs() < 1e-12, "{}", losses[1]);
        assert!(
            losses
                .iter()
                .enumerate()
                .all(|(j, &loss)| j == 1 || loss > 1e-3)
        );
    }
}
