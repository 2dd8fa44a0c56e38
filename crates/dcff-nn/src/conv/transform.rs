//! Winograd's transforms of 3x3 kernels, stride 1: `F(4x4, 3x3)` and `F(2x2, 3x3)`.
//!
//! ```text
//! y  = Aᵀ [(G w Gᵀ) ⊙ (Bᵀ x B)] A         an m x m tile from (m + 2) x (m + 2) pixels
//! dw = Gᵀ [(A dy Aᵀ) ⊙ (Bᵀ x B)] G        summed over tiles
//! ```
//!
//! Lavin and Gray, *Fast Algorithms for Convolutional Neural Networks*, CVPR 2016,
//! <https://arxiv.org/abs/1509.09308>. For `m = 4` the points are 0, ±√½, ±√2 and ∞ instead of
//! their 0, ±1, ±2 and ∞: the same number of operations, about half the rounding error, since
//! the powers of the points spread less.
//!
//! Root mean square error over root mean square of the result, random numbers, 24 channels: 2.5e-7
//! by direct summation, 6e-7 with `m = 4`, 2.7e-7 with `m = 2`; it grows with the root of the number
//! of channels. `tests/winograd.rs` holds these numbers.
//!
//! One-dimensional transforms work on arrays of six; for `m = 2` the last two are unused.

use crate::cpu::Simd;

/// `√½` and `√2`.
const A: f32 = std::f32::consts::FRAC_1_SQRT_2;
const B: f32 = std::f32::consts::SQRT_2;

/// `Bᵀ d`.
#[inline(always)]
pub(crate) unsafe fn input<S: Simd, const M: usize>(d: [S::V; 6]) -> [S::V; 6] {
    // SAFETY: the caller's: the instructions are there.
    unsafe {
        if M == 2 {
            return [
                S::sub(d[0], d[2]),
                S::add(d[1], d[2]),
                S::sub(d[2], d[1]),
                S::sub(d[1], d[3]),
                d[0],
                d[0],
            ];
        }
        let even = S::mul_add(S::splat(-2.0), d[2], d[4]);
        let odd = S::mul_add(S::splat(-2.0), d[1], d[3]);
        let even_2 = S::mul_add(S::splat(-0.5), d[2], d[4]);
        let odd_2 = S::mul_add(S::splat(-0.5), d[1], d[3]);
        [
            S::mul_add(S::splat(-2.5), d[2], S::add(d[0], d[4])),
            S::mul_add(S::splat(A), odd, even),
            S::mul_add(S::splat(-A), odd, even),
            S::mul_add(S::splat(B), odd_2, even_2),
            S::mul_add(S::splat(-B), odd_2, even_2),
            S::mul_add(S::splat(-2.5), d[3], S::add(d[1], d[5])),
        ]
    }
}

/// `Aᵀ m`.
#[inline(always)]
pub(crate) unsafe fn output<S: Simd, const M: usize>(m: [S::V; 6]) -> [S::V; 4] {
    // SAFETY: the caller's: the instructions are there.
    unsafe {
        if M == 2 {
            return [
                S::add(S::add(m[0], m[1]), m[2]),
                S::sub(S::sub(m[1], m[2]), m[3]),
                m[0],
                m[0],
            ];
        }
        let (sum, difference) = (S::add(m[1], m[2]), S::sub(m[1], m[2]));
        let (sum_2, difference_2) = (S::add(m[3], m[4]), S::sub(m[3], m[4]));
        [
            S::add(m[0], S::add(sum, sum_2)),
            S::mul_add(S::splat(A), difference, S::mul(S::splat(B), difference_2)),
            S::mul_add(S::splat(0.5), sum, S::mul(S::splat(2.0), sum_2)),
            S::mul_add(
                S::splat(A / 2.0),
                difference,
                S::mul_add(S::splat(2.0 * B), difference_2, m[5]),
            ),
        ]
    }
}

/// `A y`, the transpose of [`output`].
#[inline(always)]
pub(crate) unsafe fn gradient<S: Simd, const M: usize>(y: [S::V; 4]) -> [S::V; 6] {
    // SAFETY: the caller's: the instructions are there.
    unsafe {
        if M == 2 {
            let minus = S::sub(S::splat(0.0), y[1]);
            return [
                y[0],
                S::add(y[0], y[1]),
                S::sub(y[0], y[1]),
                minus,
                y[0],
                y[0],
            ];
        }
        let even = S::mul_add(S::splat(0.5), y[2], y[0]);
        let odd = S::mul_add(S::splat(0.5), y[3], y[1]);
        let even_2 = S::mul_add(S::splat(2.0), y[2], y[0]);
        let odd_2 = S::mul_add(S::splat(2.0), y[3], y[1]);
        [
            y[0],
            S::mul_add(S::splat(A), odd, even),
            S::mul_add(S::splat(-A), odd, even),
            S::mul_add(S::splat(B), odd_2, even_2),
            S::mul_add(S::splat(-B), odd_2, even_2),
            y[3],
        ]
    }
}

/// `G w`.
#[inline(always)]
pub(crate) unsafe fn weight<S: Simd, const M: usize>(w: [S::V; 3]) -> [S::V; 6] {
    // SAFETY: the caller's: the instructions are there.
    unsafe {
        let half = S::splat(0.5);
        if M == 2 {
            let (ends, middle) = (S::mul(half, S::add(w[0], w[2])), S::mul(half, w[1]));
            let (sum, difference) = (S::add(ends, middle), S::sub(ends, middle));
            return [w[0], sum, difference, w[2], w[0], w[0]];
        }
        let even = S::mul(S::splat(-2.0 / 3.0), S::mul_add(half, w[2], w[0]));
        let odd = S::mul(S::splat(A * -2.0 / 3.0), w[1]);
        let even_2 = S::mul(S::splat(1.0 / 6.0), S::mul_add(S::splat(2.0), w[2], w[0]));
        let odd_2 = S::mul(S::splat(B / 6.0), w[1]);
        [
            w[0],
            S::add(even, odd),
            S::sub(even, odd),
            S::add(even_2, odd_2),
            S::sub(even_2, odd_2),
            w[2],
        ]
    }
}

/// `Gᵀ u`, the transpose of [`weight`].
#[inline(always)]
pub(crate) unsafe fn weight_gradient<S: Simd, const M: usize>(u: [S::V; 6]) -> [S::V; 3] {
    // SAFETY: the caller's: the instructions are there.
    unsafe {
        let (sum, difference) = (S::add(u[1], u[2]), S::sub(u[1], u[2]));
        if M == 2 {
            let half = S::splat(0.5);
            return [
                S::mul_add(half, sum, u[0]),
                S::mul(half, difference),
                S::mul_add(half, sum, u[3]),
            ];
        }
        let (sum_2, difference_2) = (S::add(u[3], u[4]), S::sub(u[3], u[4]));
        let sixth = S::mul_add(S::splat(1.0 / 6.0), sum_2, u[0]);
        let third = S::mul_add(S::splat(1.0 / 3.0), sum_2, u[5]);
        [
            S::mul_add(S::splat(-2.0 / 3.0), sum, sixth),
            S::mul_add(
                S::splat(B / 6.0),
                difference_2,
                S::mul(S::splat(A * -2.0 / 3.0), difference),
            ),
            S::mul_add(S::splat(-1.0 / 3.0), sum, third),
        ]
    }
}

/// Rows of points in the order in which passes work them off: a pass of `PASS` = 1, 2 or 3 has two
/// of the six rows, which share the first step of their transform; pass 0 has all rows in order.
const ROWS: [usize; 6] = [0, 5, 1, 2, 3, 4];

/// Rows of points in a pass.
#[inline(always)]
pub(crate) const fn rows<const M: usize, const PASS: usize>() -> usize {
    if PASS == 0 { M + 2 } else { 2 }
}

/// The `n`-th row of points of a pass.
#[inline(always)]
pub(crate) const fn row<const PASS: usize>(n: usize) -> usize {
    if PASS == 0 { n } else { ROWS[2 * PASS - 2 + n] }
}

/// The point of the transform, row by row, that stands at `index` when passes 1, 2 and 3 follow
/// each other.
pub(crate) fn point_of_pass(index: usize) -> usize {
    ROWS[index / 6] * 6 + index % 6
}
