//! Distances between the filters of a layer, and the proxies (softmax rows) built on them.
//!
//! ```text
//! D[j, k] = ‖w_j − w_k‖₂                        filters as rows of C_in · K_h · K_w weights
//! P[j, k] = exp(−D[j, k] · T) / Z[j],           Z[j] = Σ_k exp(−D[j, k] · T)
//! ```
//!
//! Lin et al., *Training Compact CNNs for Image Classification using Dynamic-coded Filter Fusion*, TPAMI 2023,
//! <https://arxiv.org/abs/2107.06916>, equations 5 and 6 (there with the temperature `t = 1/T`).
//!
//! Distances are [`dcff_nn::filter_distances`], measured where the filters are; the softmax runs on the processor, in `f64`.
//!
//! Every distance is at least 0 and the diagonal is exactly 0, so the largest exponent of a row is exactly 0 and the
//! softmax needs no shift against overflow.

use candle_core::Tensor;
use rayon::prelude::*;

use crate::Result;

/// Distances `D` and proxies `P` of one layer's filters, both `[C_out, C_out]` and row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Similarity {
    filters: usize,
    temperature: f64,
    distances: Vec<f32>,
    proxies: Vec<f32>,
    log_partitions: Vec<f64>,
}

impl Similarity {
    /// The similarity of `filters` `[C_out, …]` at `temperature` (at least 0).
    ///
    /// # Errors
    /// If there is no filter, or the filters are not `f32`.
    pub fn new(filters: &Tensor, temperature: f64) -> Result<Self> {
        let distances = dcff_nn::filter_distances(filters)?;
        let filters = distances.dim(0)?;
        let distances: Vec<f32> = distances.flatten_all()?.to_vec1()?;
        let (proxies, log_partitions) = proxies(&distances, filters, temperature);
        Ok(Self {
            filters,
            temperature,
            distances,
            proxies,
            log_partitions,
        })
    }

    /// `C_out`.
    pub fn filters(&self) -> usize {
        self.filters
    }

    /// The temperature `T` of the proxies.
    pub fn temperature(&self) -> f64 {
        self.temperature
    }

    /// `D`, `[C_out, C_out]` row-major: symmetric, its diagonal exactly 0, each entry the `f64` distance rounded to `f32`.
    pub fn distances(&self) -> &[f32] {
        &self.distances
    }

    /// `P`, `[C_out, C_out]` row-major: computed in `f64`, then rounded to `f32`, so that entries below about 7e-46
    /// become exactly 0 as they do in a program that works in `f32`.
    pub fn proxies(&self) -> &[f32] {
        &self.proxies
    }

    /// Row `j` of the distances, `[C_out]`.
    pub fn distance_row(&self, j: usize) -> &[f32] {
        &self.distances[j * self.filters..][..self.filters]
    }

    /// Row `j` of the proxies, `[C_out]`; it sums to 1.
    pub fn proxy_row(&self, j: usize) -> &[f32] {
        &self.proxies[j * self.filters..][..self.filters]
    }

    /// `ln(Z[j] / C_out)` for every filter, `[C_out]`, accurate where all proxies are nearly alike: so that
    /// `ln P[j, k] = −D[j, k] · T − ln(Z[j] / C_out) − ln C_out` without a logarithm of something that underflowed.
    pub fn log_partitions(&self) -> &[f64] {
        &self.log_partitions
    }
}

/// `exp(x)` and `exp(x) − 1` for `x ≤ 0`, both to full relative accuracy.
pub(crate) fn exp_and_exp_m1(x: f64) -> (f64, f64) {
    if x > -0.5 {
        let minus_one = x.exp_m1();
        (1.0 + minus_one, minus_one)
    } else {
        let exp = x.exp();
        (exp, exp - 1.0)
    }
}

fn proxies(distances: &[f32], filters: usize, temperature: f64) -> (Vec<f32>, Vec<f64>) {
    let mut proxies = vec![0.0_f32; filters * filters];
    let mut log_partitions = vec![0.0_f64; filters];
    proxies
        .par_chunks_mut(filters)
        .zip(&mut log_partitions)
        .zip(distances.par_chunks(filters))
        .for_each_init(
            || vec![0.0_f64; filters],
            |exps, ((proxies, log_partition), distances)| {
                let mut excess = 0.0;
                for (exp, &distance) in exps.iter_mut().zip(distances) {
                    let minus_one;
                    (*exp, minus_one) = exp_and_exp_m1(-f64::from(distance) * temperature);
                    excess += minus_one;
                }
                let total: f64 = exps.iter().sum();
                // ln(Z/C) with Z = C + Σ (exp − 1): exact to the last digits where every exponent is near 0.
                *log_partition = (excess / filters as f64).ln_1p();
                for (proxy, exp) in proxies.iter_mut().zip(exps.iter()) {
                    *proxy = (exp / total) as f32;
                }
            },
        );
    (proxies, log_partitions)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    /// Filters of one weight each.
    fn similarity(weights: &[f32], temperature: f64) -> Similarity {
        let filters = Tensor::new(weights, &Device::Cpu).unwrap();
        Similarity::new(&filters, temperature).unwrap()
    }

    #[test]
    fn softmax_of_two_filters_by_hand() {
        // Distance ln 3 at temperature 1: weights 1 and 1/3, normalised 3/4 and 1/4.
        let similarity = similarity(&[0.0, 3.0_f32.ln()], 1.0);
        for (proxy, expected) in similarity.proxies().iter().zip([0.75, 0.25, 0.25, 0.75]) {
            assert!((proxy - expected).abs() < 1e-7);
        }
        // Z/C = (1 + 1/3) / 2.
        assert!((similarity.log_partitions()[0] - (2.0_f64 / 3.0).ln()).abs() < 1e-7);
    }

    #[test]
    fn temperature_zero_knows_no_difference() {
        let similarity = similarity(&[0.0, 1.0, 7.0, 9.0], 0.0);
        assert_eq!(similarity.proxies(), [0.25; 16]);
        assert_eq!(similarity.log_partitions(), [0.0; 4]);
    }

    #[test]
    fn underflows_to_exactly_zero_where_f32_does() {
        // The smallest f32 is 2^-149; half of it, exp(-103.97), is the last to round to zero.
        let at = |distance: f32| similarity(&[0.0, distance], 1.0).proxies()[1];
        assert!(at(103.9) > 0.0);
        assert_eq!(at(104.0), 0.0);
        assert_eq!(at(1e30), 0.0);
    }
}
