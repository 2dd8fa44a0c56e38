//! Distances between the filters of a layer, which criteria and fusion coefficients are made of.
//!
//! ```text
//! D[j, k] = ‖w_j − w_k‖₂         filters as rows of C_in · K_h · K_w weights
//! ```
//!
//! Lin et al., *Training Compact CNNs for Image Classification using Dynamic-coded Filter Fusion*,
//! TPAMI 2023, <https://arxiv.org/abs/2107.06916>, equation 5.
//!
//! They come from differences, not from the Gram matrix (`‖a‖² + ‖b‖² − 2a·b`): its rounding leaves noise where two
//! filters agree, and a temperature of 10⁴ amplifies it. Sums run in `f64` over eight interleaved partial sums in a fixed
//! order, on a GPU as on the CPU, so the result depends neither on the number of threads, nor on the width of the
//! processor's vectors, nor on the device.

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use crate::args;
use crate::gpu::{self, Gpu};

/// Partial sums per pair of filters: two 256-bit or one 512-bit vector of `f64`.
const SUMS: usize = 8;

/// `D` `[C, C]` of filters `w` `[C, ...]`, on their device: symmetric, each entry the `f64` distance rounded to `f32`.
///
/// The diagonal is exactly 0, but for filters with a weight that is not finite, whose row is NaN there.
///
/// # Errors
///
/// No filter or no weight, or a tensor that is not `f32`.
pub fn filter_distances(w: &Tensor) -> Result<Tensor> {
    const OP: &str = "filter_distances";
    let &[filters, ..] = w.dims() else {
        bail!("{OP}: expected filters [C, ...], got a single number");
    };
    if w.elem_count() == 0 {
        bail!(
            "{OP}: expected at least one weight, got filters {:?}",
            w.dims()
        );
    }
    if let Some(gpu) = Gpu::of(w.device())? {
        return gpu::filter_distances(&gpu, OP, w, filters, w.elem_count() / filters);
    }
    let distances = args::with_any(OP, "filters", w, |w| distances(OP, w, filters))??;
    args::tensor(distances, &[filters, filters])
}

fn distances(op: &str, rows: &[f32], filters: usize) -> Result<Vec<f32>> {
    let length = rows.len() / filters;
    // Rows padded with zeros to whole lanes: a difference of two zeros adds exactly nothing.
    let padded = length.next_multiple_of(SUMS);
    let mut wide = args::zeros::<f64>(op, &[filters, padded])?;
    for (to, from) in wide
        .chunks_exact_mut(padded.max(1))
        .zip(rows.chunks_exact(length.max(1)))
    {
        for (to, &from) in to.iter_mut().zip(from) {
            *to = f64::from(from);
        }
    }
    let row = |j: usize| &wide[j * padded..][..padded];

    let mut distances = args::zeros::<f32>(op, &[filters, filters])?;
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
    Ok(distances)
}

/// `[‖a−c‖², ‖a−d‖², ‖b−c‖², ‖b−d‖²]` of rows of equal length, a multiple of [`SUMS`].
fn squared_distances(a: &[f64], b: &[f64], c: &[f64], d: &[f64]) -> [f64; 4] {
    let mut sums = [[0.0_f64; SUMS]; 4];
    let (a, _) = a.as_chunks::<SUMS>();
    let (b, _) = b.as_chunks::<SUMS>();
    let (c, _) = c.as_chunks::<SUMS>();
    let (d, _) = d.as_chunks::<SUMS>();
    for (((a, b), c), d) in a.iter().zip(b).zip(c).zip(d) {
        for lane in 0..SUMS {
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

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn of(rows: &[f32], filters: usize) -> Vec<f32> {
        let w = Tensor::from_slice(rows, (filters, rows.len() / filters), &Device::Cpu).unwrap();
        let distances = filter_distances(&w).unwrap();
        assert_eq!(distances.dims(), [filters, filters]);
        distances.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn measures_a_triangle() {
        // Three points of a 3-4-5 triangle.
        let rows = [0.0, 0.0, 3.0, 0.0, 3.0, 4.0];
        assert_eq!(of(&rows, 3), [0.0, 3.0, 5.0, 3.0, 0.0, 4.0, 5.0, 4.0, 0.0]);
    }

    #[test]
    fn is_exact_for_near_duplicates_of_large_filters() {
        // One unit in the last place apart; the Gram matrix would lose this distance entirely in f32.
        let a = 1000.0_f32;
        let b = f32::from_bits(a.to_bits() + 1);
        let mut rows = vec![a; 9];
        rows.extend([a; 9]);
        rows.extend([b; 9]);
        assert_eq!(of(&rows, 3)[..3], [0.0, 0.0, 3.0 * (b - a)]);
    }

    #[test]
    fn a_weight_that_is_not_finite_shows_on_the_diagonal() {
        for odd in [f32::NAN, f32::INFINITY] {
            let distances = of(&[1.0, 2.0, 3.0, odd, 5.0, 6.0], 3);
            assert!(distances[4].is_nan());
            assert_eq!([distances[0], distances[8]], [0.0, 0.0]);
        }
    }

    #[test]
    fn refuses_what_are_not_filters() {
        let zeros = |shape: &[usize]| Tensor::zeros(shape, candle_core::DType::F32, &Device::Cpu);
        assert!(filter_distances(&zeros(&[]).unwrap()).is_err());
        assert!(filter_distances(&zeros(&[0, 3]).unwrap()).is_err());
        assert!(filter_distances(&zeros(&[3, 0]).unwrap()).is_err());
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
            pool.install(|| of(&rows, filters))
        };
        let one = with_threads(1);
        assert_eq!(one, with_threads(3));
        for j in 0..filters {
            assert_eq!(one[j * filters + j], 0.0);
            for k in 0..filters {
                let (a, b) = (&rows[j * 13..][..13], &rows[k * 13..][..13]);
                let direct: f64 = a
                    .iter()
                    .zip(b)
                    .map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2))
                    .sum();
                let distance = one[j * filters + k];
                assert_eq!(distance, one[k * filters + j]);
                assert!((f64::from(distance) - direct.sqrt()).abs() <= 6e-8 * direct.sqrt());
            }
        }
    }
}
