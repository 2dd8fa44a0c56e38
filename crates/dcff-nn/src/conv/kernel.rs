//! Register tiles of the convolution: sixteen images a vector, filters times pixels a tile.
//!
//! A pixel's inputs are found through two tables, an offset per pixel and an offset per tap
//! (channel, row and column of the kernel), so one tile serves every kernel size and stride, the
//! input gradient, and plain matrix products.

#![expect(
    clippy::needless_range_loop,
    reason = "the loops unroll over the registers of a tile"
)]

use crate::cpu::{Kernel, Simd};
use crate::element::Element;
use crate::element::LANES;

/// Filters of a full tile.
pub(crate) const FILTERS: usize = 3;

/// What a tile's sums start from.
#[derive(Clone, Copy)]
pub(crate) enum Start<'a> {
    Zero,
    /// One number per filter.
    Bias(&'a [f32]),
    /// What the output holds.
    Output,
}

/// `y[f][p] = start + Σ_k w[f][k] x[pixel_x[p] + tap[k]]` for a block of filters and pixels.
///
/// Offsets count vectors of sixteen numbers.
pub(crate) struct Products<'a> {
    pub(crate) x: *const f32,
    pub(crate) taps: &'a [u32],
    pub(crate) pixel_x: &'a [u32],
    pub(crate) pixel_y: &'a [u32],
    /// A row of numbers, one per tap, for every filter.
    pub(crate) w: &'a [f32],
    /// Numbers between the rows of neighbouring filters.
    pub(crate) w_stride: usize,
    pub(crate) filters: usize,
    pub(crate) start: Start<'a>,
    pub(crate) y: *mut f32,
    /// Numbers between the outputs of neighbouring filters.
    pub(crate) y_stride: usize,
}

impl Kernel for Products<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        // SAFETY: the caller made the tables for `x` and `y`.
        unsafe {
            let pixels = self.pixel_x.len();
            let mut p = 0;
            while p < pixels {
                let left = pixels - p;
                if S::WIDE && left > 4 {
                    self.filters::<S, 8>(p, left.min(8));
                    p += 8;
                } else if S::WIDE && left > 2 {
                    self.filters::<S, 4>(p, left);
                    p += 4;
                } else {
                    self.filters::<S, 2>(p, left.min(2));
                    p += 2;
                }
            }
        }
    }
}

impl Products<'_> {
    #[inline(always)]
    unsafe fn filters<S: Simd, const P: usize>(&self, first: usize, valid: usize) {
        // SAFETY: the caller's: offsets of pixels and taps lie within the maps and as many filters as there are.
        unsafe {
            let x: [*const f32; P] = std::array::from_fn(|p| {
                let pixel = first + p.min(valid - 1);
                self.x
                    .add(*self.pixel_x.get_unchecked(pixel) as usize * LANES)
            });
            let y: [usize; P] = std::array::from_fn(|p| {
                let pixel = first + p.min(valid - 1);
                *self.pixel_y.get_unchecked(pixel) as usize * LANES
            });
            let mut f = 0;
            while f + FILTERS <= self.filters {
                self.tile::<S, FILTERS, P>(f, &x, &y, valid);
                f += FILTERS;
            }
            match self.filters - f {
                1 => self.tile::<S, 1, P>(f, &x, &y, valid),
                2 => self.tile::<S, 2, P>(f, &x, &y, valid),
                _ => {}
            }
        }
    }

    #[inline(always)]
    unsafe fn tile<S: Simd, const F: usize, const P: usize>(
        &self,
        first: usize,
        x: &[*const f32; P],
        y: &[usize; P],
        valid: usize,
    ) {
        // SAFETY: the caller's: offsets of pixels and taps lie within the maps and as many filters as there are.
        unsafe {
            let out = self.y.add(first * self.y_stride);
            let mut acc = [[S::splat(0.0); P]; F];
            match self.start {
                Start::Zero => {}
                Start::Bias(bias) => {
                    for f in 0..F {
                        acc[f] = [S::splat(*bias.get_unchecked(first + f)); P];
                    }
                }
                Start::Output => {
                    for f in 0..F {
                        for p in 0..P {
                            acc[f][p] = S::load(out.add(f * self.y_stride + y[p]));
                        }
                    }
                }
            }
            let mut w = [self.w.as_ptr(); F];
            for f in 0..F {
                w[f] = w[f].add((first + f) * self.w_stride);
            }
            for (k, &tap) in self.taps.iter().enumerate() {
                let tap = tap as usize * LANES;
                let mut weights = [S::splat(0.0); F];
                for f in 0..F {
                    weights[f] = S::splat(*w[f].add(k));
                }
                for p in 0..P {
                    let v = S::load(x[p].add(tap));
                    for f in 0..F {
                        acc[f][p] = S::mul_add(v, weights[f], acc[f][p]);
                    }
                }
            }
            for p in 0..P {
                if p < valid {
                    for f in 0..F {
                        S::store(out.add(f * self.y_stride + y[p]), acc[f][p]);
                    }
                }
            }
        }
    }
}

/// `sums[f][t] += Σ_p dy[f][p] x[tap[t] + pixel_x[p]]`, lane by lane: the weight gradient.
pub(crate) struct Correlations<'a, E> {
    pub(crate) x: *const f32,
    pub(crate) taps: &'a [u32],
    pub(crate) pixel_x: &'a [u32],
    /// The gradient at the first of the pixels; they follow each other.
    pub(crate) dy: *const E,
    /// Numbers between neighbouring filters of `dy`.
    pub(crate) dy_stride: usize,
    pub(crate) filters: usize,
    /// `[filters, taps, 16]`.
    pub(crate) sums: *mut f32,
}

impl<E: Element> Kernel for Correlations<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        // SAFETY: the caller made the tables for `x`, and `dy` and `sums` hold what they say.
        unsafe {
            let mut t = 0;
            while S::WIDE && t + 9 <= self.taps.len() {
                self.filters::<S, 9>(t);
                t += 9;
            }
            while S::WIDE && t + 4 <= self.taps.len() {
                self.filters::<S, 4>(t);
                t += 4;
            }
            while t + 2 <= self.taps.len() {
                self.filters::<S, 2>(t);
                t += 2;
            }
            if t < self.taps.len() {
                self.filters::<S, 1>(t);
            }
        }
    }
}

impl<E: Element> Correlations<'_, E> {
    #[inline(always)]
    unsafe fn filters<S: Simd, const T: usize>(&self, t: usize) {
        // SAFETY: the caller's: offsets of pixels and taps lie within the maps and as many filters as there are.
        unsafe {
            let mut f = 0;
            while f + FILTERS <= self.filters {
                self.tile::<S, FILTERS, T>(f, t);
                f += FILTERS;
            }
            match self.filters - f {
                1 => self.tile::<S, 1, T>(f, t),
                2 => self.tile::<S, 2, T>(f, t),
                _ => {}
            }
        }
    }

    #[inline(always)]
    unsafe fn tile<S: Simd, const F: usize, const T: usize>(&self, f0: usize, t0: usize) {
        // SAFETY: the caller's: offsets of pixels and taps lie within the maps and as many filters as there are.
        unsafe {
            let x: [*const f32; T] = std::array::from_fn(|t| {
                self.x
                    .add(*self.taps.get_unchecked(t0 + t) as usize * LANES)
            });
            let mut dy = self.dy.add(f0 * self.dy_stride);
            let mut acc = [[S::splat(0.0); T]; F];
            for &pixel in self.pixel_x {
                let at = pixel as usize * LANES;
                let mut g = [S::splat(0.0); F];
                for f in 0..F {
                    g[f] = E::load::<S>(dy.add(f * self.dy_stride));
                }
                for t in 0..T {
                    let v = S::load(x[t].add(at));
                    for f in 0..F {
                        acc[f][t] = S::mul_add(v, g[f], acc[f][t]);
                    }
                }
                dy = dy.add(LANES);
            }
            for f in 0..F {
                for t in 0..T {
                    let to = self.sums.add(((f0 + f) * self.taps.len() + t0 + t) * LANES);
                    S::store(to, S::add(S::load(to), acc[f][t]));
                }
            }
        }
    }
}

/// Sums of consecutive vectors: `out[i] = Σ_lane x[i][lane]`.
pub(crate) struct LaneSums<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) out: &'a mut [f32],
}

impl Kernel for LaneSums<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        for (out, x) in self.out.iter_mut().zip(self.x.chunks_exact(LANES)) {
            // SAFETY: a chunk holds sixteen numbers.
            *out = unsafe { S::sum(S::load(x.as_ptr())) };
        }
    }
}
