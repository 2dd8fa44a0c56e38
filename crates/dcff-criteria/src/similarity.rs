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
//! Distances come from differences, not from the Gram matrix (`‖a‖² + ‖b‖² − 2a·b`): its rounding leaves noise where two
//! filters agree, and a temperature of 10⁴ amplifies it.
//! Sums run in `f64` over eight interleaved partial sums in a fixed order, so the result depends neither on the number of
//! threads nor on the width of the processor's vectors.
//!
//! Every distance is at least 0 and the diagonal is exactly 0, so the largest exponent of a row is exactly 0 and the
//! softmax needs no shift against overflow.

use rayon::prelude::*;

/// Partial sums per pair of filters: two 256-bit or one 512-bit vector of `f64`.
const LANES: usize = 8;

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
    /// The similarity of `filters` rows of equal length, one after another in `rows`, at `temperature` (at least 0).
    ///
    /// # Panics
    /// If `filters` is 0 or does not divide the number of weights.
    pub fn new(rows: &[f32], filters: usize, temperature: f64) -> Self {
        assert!(
            filters > 0 && rows.len().is_multiple_of(filters),
            "{} weights are not {filters} rows",
            rows.len()
        );
        let distances = distances(rows, filters);
        let (proxies, log_partitions) = proxies(&distances, filters, temperature);
        Self {
            filters,
            temperature,
            distances,
            proxies,
            log_partitions,
        }
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

fn distances(rows: &[f32], filters: usize) -> Vec<f32> {
    let length = rows.len() / filters;
    // Rows padded with zeros to whole lanes: a difference of two zeros adds exactly nothing.
    let padded = length.next_multiple_of(LANES);
    let mut wide = vec![0.0_f64; filters * padded];
    for (to, from) in wide
        .chunks_exact_mut(padded.max(1))
        .zip(rows.chunks_exact(length.max(1)))
    {
        for (to, &from) in to.iter_mut().zip(from) {
            *to = f64::from(from);
        }
    }
    let row = |j: usize| &wide[j * padded..][..padded];

    let mut distances = vec![0.0_f32; filters * filters];
    // Two rows against two at a time, so that each loaded weight serves two differences.
    distances
        .par_chunks_mut(2 * filters)
        .enumerate()
        .for_each(|(pair, out)| {
            let j = 2 * pair;
            // A last single row is paired with itself and its second result dropped.
            let next = (j + 1).min(filters - 1);
            for k in (j..filters).step_by(2) {
                let beside = (k + 1).min(filters - 1);
                let squared = squared_distances(row(j), row(next), row(k), row(beside));
                out[k] = squared[0].sqrt() as f32;
                out[beside] = squared[1].sqrt() as f32;
                if next > j {
                    out[filters + k] = squared[2].sqrt() as f32;
                    out[filters + beside] = squared[3].sqrt() as f32;
                }
            }
        });
    for j in 0..filters {
        for k in 0..j {
            distances[j * filters + k] = distances[k * filters + j];
        }
    }
    distances
}

/// `[‖a−c‖², ‖a−d‖², ‖b−c‖², ‖b−d‖²]` of rows of equal length, a multiple of [`LANES`].
fn squared_distances(a: &[f64], b: &[f64], c: &[f64], d: &[f64]) -> [f64; 4] {
    let mut sums = [[0.0_f64; LANES]; 4];
    let (a, _) = a.as_chunks::<LANES>();
    let (b, _) = b.as_chunks::<LANES>();
    let (c, _) = c.as_chunks::<LANES>();
    let (d, _) = d.as_chunks::<LANES>();
    for (((a, b), c), d) in a.iter().zip(b).zip(c).zip(d) {
        for lane in 0..LANES {
            let differences = [
                a[lane] - c[lane],
                a[lane] - d[lane],
                b[lane] - c[lane],
                b[lane] - d[lane],
            ];
            for (sum, difference) in sums.iter_mut().zip(differences) {
                sum[lane] += difference * difference;
            }
        }
    }
    sums.map(|lanes| lanes.iter().sum())
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
    use super::*;

    #[test]
    fn measures_a_triangle() {
        // Three points of a 3-4-5 triangle.
        let rows = [0.0, 0.0, 3.0, 0.0, 3.0, 4.0];
        let similarity = Similarity::new(&rows, 3, 0.0);
        assert_eq!(
            similarity.distances(),
            [0.0, 3.0, 5.0, 3.0, 0.0, 4.0, 5.0, 4.0, 0.0]
        );
    }

    #[test]
    fn softmax_of_two_filters_by_hand() {
        // Distance ln 3 at temperature 1: weights 1 and 1/3, normalised 3/4 and 1/4.
        let similarity = Similarity::new(&[0.0, 3.0_f32.ln()], 2, 1.0);
        for (proxy, expected) in similarity.proxies().iter().zip([0.75, 0.25, 0.25, 0.75]) {
            assert!((proxy - expected).abs() < 1e-7);
        }
        // Z/C = (1 + 1/3) / 2.
        assert!((similarity.log_partitions()[0] - (2.0_f64 / 3.0).ln()).abs() < 1e-7);
    }

    #[test]
    fn temperature_zero_knows_no_difference() {
        let similarity = Similarity::new(&[0.0, 1.0, 7.0, 9.0], 4, 0.0);
        assert_eq!(similarity.proxies(), [0.25; 16]);
        assert_eq!(similarity.log_partitions(), [0.0; 4]);
    }

    #[test]
    fn underflows_to_exactly_zero_where_f32_does() {
        // The smallest f32 is 2^-149; half of it, exp(-103.97), is the last to round to zero.
        let at = |distance: f32| Similarity::new(&[0.0, distance], 2, 1.0).proxies()[1];
        assert!(at(103.9) > 0.0);
        assert_eq!(at(104.0), 0.0);
        assert_eq!(at(1e30), 0.0);
    }

    #[test]
    fn is_exact_for_near_duplicates_of_large_filters() {
        // One unit in the last place apart; the Gram matrix would lose this distance entirely in f32.
        let a = 1000.0_f32;
        let b = f32::from_bits(a.to_bits() + 1);
        let mut rows = vec![a; 9];
        rows.extend([a; 9]);
        rows.extend([b; 9]);
        let similarity = Similarity::new(&rows, 3, 1.0);
        assert_eq!(similarity.distance_row(0), [0.0, 0.0, 3.0 * (b - a)]);
    }

    #[test]
    fn is_symmetric_and_the_same_for_every_number_of_threads() {
        // Odd counts reach the unpaired last row and the padded lanes.
        let filters = 37;
        let rows: Vec<f32> = (0..filters * 13)
            .map(|i| ((i * 7919 % 1009) as f32).sin())
            .collect();
        let with_threads = |threads| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            pool.install(|| Similarity::new(&rows, filters, 3.0))
        };
        let one = with_threads(1);
        assert_eq!(one, with_threads(3));
        for j in 0..filters {
            assert_eq!(one.distance_row(j)[j], 0.0);
            for k in 0..filters {
                let (a, b) = (&rows[j * 13..][..13], &rows[k * 13..][..13]);
                let direct: f64 = a
                    .iter()
                    .zip(b)
                    .map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2))
                    .sum();
                let distance = one.distance_row(j)[k];
                assert_eq!(distance, one.distance_row(k)[j]);
                assert!((f64::from(distance) - direct.sqrt()).abs() <= 6e-8 * direct.sqrt());
            }
        }
    }
}
