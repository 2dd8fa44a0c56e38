//! Matrix products on the convolution's register tiles.

use std::borrow::Cow;

use candle_core::{Result, bail};

use crate::args;
use crate::buffer::Buffer;
use crate::conv::kernel::{FILTERS, Products, Start};
use crate::cpu::Isa;
use crate::element::LANES;
use crate::threads::{self, Out};

/// A matrix in memory: element `(i, j)` at `i rows + j columns`.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) rows: usize,
    pub(crate) columns: usize,
}

impl<'a> Matrix<'a> {
    /// Row-major with rows of `width`.
    pub(crate) fn new(data: &'a [f32], width: usize) -> Self {
        Self {
            data,
            rows: width,
            columns: 1,
        }
    }

    /// The transpose.
    pub(crate) fn t(self) -> Self {
        Self {
            data: self.data,
            rows: self.columns,
            columns: self.rows,
        }
    }
}

/// Terms that one pass adds before it comes back to the output: a panel of that depth stays in
/// the first-level cache.
const DEPTH: usize = 256;

/// The `m` rows of `a`, `k` numbers each, one behind the other.
fn by_rows(m: usize, k: usize, a: Matrix<'_>) -> Vec<f32> {
    /// Columns of `a` that lie side by side in memory where its rows do not.
    const BAND: usize = 16;
    let mut rows = vec![0f32; m * k];
    for (band, rows) in rows.chunks_mut(BAND * k).enumerate() {
        for j in 0..k {
            for (i, row) in rows.chunks_exact_mut(k).enumerate() {
                row[j] = a.data[(band * BAND + i) * a.rows + j * a.columns];
            }
        }
    }
    rows
}

/// `C = A B` with `A` `[m, k]`, `B` `[k, n]` and `C` `[m, n]`, row-major.
pub(crate) fn product(
    m: usize,
    n: usize,
    k: usize,
    a: Matrix<'_>,
    b: Matrix<'_>,
) -> Result<Vec<f32>> {
    const OP: &str = "product";
    let size = args::count(OP, &[m, n])?;
    if k == 0 || size == 0 {
        return args::zeros(OP, &[m, n]);
    }
    let isa = Isa::current();
    let tile = isa.tile_pixels();
    let width = tile * LANES;
    // A row by row.
    let left = if a.columns == 1 {
        Cow::Borrowed(a.data)
    } else {
        Cow::Owned(by_rows(m, k, a))
    };
    let row = if a.columns == 1 { a.rows } else { k };
    let taps: Vec<u32> = (0..k.min(DEPTH)).map(|i| (i * tile) as u32).collect();
    let pixels: Vec<u32> = (0..tile as u32).collect();
    let panels = n.div_ceil(width);
    let splits = threads::parts(panels, m.div_ceil(FILTERS));
    let per_split = m.div_ceil(FILTERS).div_ceil(splits) * FILTERS;
    let mut c = Vec::new();
    if c.try_reserve_exact(size).is_err() {
        bail!("{OP}: no memory for {m} rows of {n} numbers");
    }
    let out = Out::new(c.spare_capacity_mut());
    threads::each(panels * splits, |task| {
        let (panel, first_row) = (task / splits, task % splits * per_split);
        if first_row >= m {
            return;
        }
        let rows = per_split.min(m - first_row);
        let first = panel * width;
        let valid = width.min(n - first);
        let mut source = Buffer::new(k.min(DEPTH) * width);
        let mut target = Buffer::new(rows * width);
        for start in (0..k).step_by(DEPTH) {
            let depth = DEPTH.min(k - start);
            for (i, row) in source.chunks_exact_mut(width).take(depth).enumerate() {
                let at = (start + i) * b.rows + first * b.columns;
                if b.columns == 1 {
                    row[..valid].copy_from_slice(&b.data[at..at + valid]);
                } else {
                    for (j, to) in row[..valid].iter_mut().enumerate() {
                        *to = b.data[at + j * b.columns];
                    }
                }
                row[valid..].fill(0.0);
            }
            isa.run(Products {
                x: source.as_ptr(),
                taps: &taps[..depth],
                pixel_x: &pixels,
                pixel_y: &pixels,
                w: &left[first_row * row + start..],
                w_stride: row,
                filters: rows,
                start: if start == 0 {
                    Start::Zero
                } else {
                    Start::Output
                },
                y: target.as_mut_ptr(),
                y_stride: width,
            });
        }
        for (i, row) in target.chunks_exact(width).enumerate() {
            // SAFETY: a task writes its own rows and columns, which lie within the capacity.
            unsafe {
                let to = out.at((first_row + i) * n + first).cast::<f32>();
                to.copy_from_nonoverlapping(row.as_ptr(), valid);
            }
        }
    });
    // SAFETY: the tasks have written every row and column.
    unsafe { c.set_len(size) };
    Ok(c)
}

/// The processor's limit for plain multiplication, in operations per second: what one thread reaches in the
/// convolution's register tile with all operands in its first-level cache. A product counts as two operations.
///
/// It is measured, in some hundredths of a second, on the machine as it is at the moment.
pub fn gemm_limit() -> f64 {
    const DEPTH: usize = 64;
    const ROWS: usize = 4 * FILTERS;
    const REPEATS: usize = 500;
    const ROUNDS: usize = 20;
    let isa = Isa::current();
    let tile = isa.tile_pixels();
    let [mut x, mut y] = [DEPTH, ROWS].map(|rows| Buffer::new(rows * tile * LANES));
    x.fill(0.5);
    let w = [0.5; ROWS * DEPTH];
    let taps: Vec<u32> = (0..DEPTH).map(|k| (k * tile) as u32).collect();
    let pixels: Vec<u32> = (0..tile as u32).collect();
    let fastest = (0..ROUNDS)
        .map(|_| {
            let start = std::time::Instant::now();
            for _ in 0..REPEATS {
                isa.run(Products {
                    x: x.as_ptr(),
                    taps: &taps,
                    pixel_x: &pixels,
                    pixel_y: &pixels,
                    w: &w,
                    w_stride: DEPTH,
                    filters: ROWS,
                    start: Start::Zero,
                    y: y.as_mut_ptr(),
                    y_stride: tile * LANES,
                });
            }
            std::hint::black_box(&y);
            start.elapsed().as_secs_f64()
        })
        .fold(f64::INFINITY, f64::min);
    (2 * REPEATS * DEPTH * ROWS * tile * LANES) as f64 / fastest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multiplies_plain_and_transposed() {
        Isa::each(|_| {
            for (m, n, k) in [
                (1, 1, 1),
                (2, 3, 2),
                (4, 130, 300),
                (7, 257, 5),
                (3, 16, 513),
            ] {
                let a: Vec<f32> = (0..m * k).map(|i| (i % 7) as f32 - 3.0).collect();
                let b: Vec<f32> = (0..k * n).map(|i| (i % 5) as f32 - 2.0).collect();
                let expected: Vec<f32> = (0..m * n)
                    .map(|i| (0..k).map(|j| a[i / n * k + j] * b[j * n + i % n]).sum())
                    .collect();
                let (a_matrix, b_matrix) = (Matrix::new(&a, k), Matrix::new(&b, n));
                assert_eq!(product(m, n, k, a_matrix, b_matrix).unwrap(), expected);
                // (Bᵀ Aᵀ)ᵀ = A B; small integers are exact.
                let swapped = product(n, m, k, b_matrix.t(), a_matrix.t()).unwrap();
                let back: Vec<f32> = (0..m * n).map(|i| swapped[i % n * m + i / n]).collect();
                assert_eq!(back, expected);
            }
        });
    }
}
