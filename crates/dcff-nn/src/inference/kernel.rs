//! Register tiles of the prepared convolution: blocks of sixteen filters times pixels.
//!
//! The counterpart of [`crate::conv::kernel`] for channels side by side: here the weights are
//! vectors and the inputs single numbers. Again two tables, an offset per pixel and one per tap,
//! say where a pixel's inputs lie.

#![expect(
    clippy::needless_range_loop,
    reason = "the loops unroll over the registers of a tile"
)]

use std::ops::Range;

use crate::conv::epilogue::Epilogue;
use crate::cpu::{Kernel, Simd};
use crate::element::LANES;

/// Blocks of filters and pixels of the largest tiles: many pixels, or up to four of them.
const BLOCKS: usize = 3;
const PIXELS: usize = 8;
const BLOCKS_OF_FEW: usize = 6;
const FEW: usize = 4;
/// Pixels of a tile of one block, where registers are few or narrow.
const NARROW: usize = 6;

/// Where pixels lie that follow each other through all images.
#[derive(Clone, Copy)]
pub(super) struct Pixels<'a> {
    /// Offset of every output pixel's inputs in an image of the source, in vectors.
    pub(super) source: &'a [u32],
    /// Numbers of an image of the source and of the target.
    pub(super) images: (usize, usize),
}

/// `y[p][o] = epilogue(Σ_k w[o][k] x[source[p] + tap[k]])` for blocks `o` and pixels `p`.
pub(super) struct Products<'a> {
    pub(super) x: *const f32,
    /// In numbers.
    pub(super) taps: &'a [u32],
    pub(super) pixels: Pixels<'a>,
    /// Those to compute, counted through all images.
    pub(super) range: Range<usize>,
    /// `[blocks, taps, 16]`.
    pub(super) w: &'a [f32],
    pub(super) blocks: usize,
    pub(super) epilogue: Epilogue<'a>,
    pub(super) y: *mut f32,
    /// Numbers of a block of the target; its pixels follow each other.
    pub(super) y_stride: usize,
}

impl Kernel for Products<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        debug_assert!(self.w.len() >= self.blocks * self.taps.len() * LANES);
        // SAFETY: the caller made the tables for `x` and `y`.
        unsafe {
            let (wide, most) = match (S::WIDE, self.range.len() <= FEW) {
                (true, false) => (true, BLOCKS),
                (true, true) => (true, BLOCKS_OF_FEW),
                (false, _) => (false, 1),
            };
            let groups = self.blocks.div_ceil(most);
            for group in 0..groups {
                // Groups of nearly the same size.
                let first = group * self.blocks / groups;
                let count = (group + 1) * self.blocks / groups - first;
                match (wide, count) {
                    (true, 1) => self.group::<S, 1, PIXELS>(first),
                    (true, 2) => self.group::<S, 2, PIXELS>(first),
                    (true, 3) => self.group::<S, 3, PIXELS>(first),
                    (true, 4) => self.group::<S, 4, FEW>(first),
                    (true, 5) => self.group::<S, 5, FEW>(first),
                    (true, _) => self.group::<S, 6, FEW>(first),
                    (false, _) => self.group::<S, 1, NARROW>(first),
                }
            }
        }
    }
}

impl Products<'_> {
    #[inline(always)]
    unsafe fn group<S: Simd, const B: usize, const P: usize>(&self, first: usize) {
        // SAFETY: the caller's: blocks and pixels lie within the maps.
        unsafe {
            let mut at = self.range.start;
            while at < self.range.end {
                let left = self.range.end - at;
                if left > FEW && P > FEW {
                    self.tile::<S, B, P>(first, at, left.min(P));
                    at += P;
                } else if left > 2 {
                    self.tile::<S, B, FEW>(first, at, left.min(FEW));
                    at += FEW;
                } else {
                    self.tile::<S, B, 2>(first, at, left);
                    at += 2;
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn tile<S: Simd, const B: usize, const P: usize>(
        &self,
        first: usize,
        at: usize,
        valid: usize,
    ) {
        // SAFETY: the caller's: blocks and pixels lie within the maps.
        unsafe {
            let mut x = [self.x; P];
            let mut y = [0; P];
            let of_image = self.pixels.source.len();
            let (mut image, mut pixel) = (at / of_image, at % of_image);
            for p in 0..P {
                let source = *self.pixels.source.get_unchecked(pixel) as usize * LANES;
                x[p] = self.x.add(image * self.pixels.images.0 + source);
                y[p] = image * self.pixels.images.1 + pixel * LANES;
                // The last pixel stands in for those that are missing.
                if p + 1 < valid {
                    pixel += 1;
                    if pixel == of_image {
                        (image, pixel) = (image + 1, 0);
                    }
                }
            }
            let mut acc = [[S::splat(0.0); P]; B];
            for b in 0..B {
                acc[b] = [self.epilogue.bias.load::<S>(first + b); P];
            }
            let row = self.taps.len() * LANES;
            let w: [*const f32; B] =
                std::array::from_fn(|b| self.w.as_ptr().add((first + b) * row));
            for (k, &tap) in self.taps.iter().enumerate() {
                let mut weights = [S::splat(0.0); B];
                for b in 0..B {
                    weights[b] = S::load(w[b].add(k * LANES));
                }
                for p in 0..P {
                    let v = S::splat(*x[p].add(tap as usize));
                    for b in 0..B {
                        acc[b][p] = S::mul_add(v, weights[b], acc[b][p]);
                    }
                }
            }
            for p in 0..P {
                if p >= valid {
                    continue;
                }
                for b in 0..B {
                    let offset = (first + b) * self.y_stride + y[p];
                    let v = self.epilogue.finish::<S>(acc[b][p], offset);
                    S::store(self.y.add(offset), v);
                }
            }
        }
    }
}
