//! Convolution of every channel with a kernel of its own.

#![expect(
    clippy::needless_range_loop,
    reason = "the loops unroll over the registers of a tile"
)]

use crate::conv::epilogue::Epilogue;
use crate::cpu::{Kernel, Simd};
use crate::element::LANES;

/// Pixels of a tile.
const PIXELS: usize = 4;

/// `y[p] = epilogue(Σ_k w[k] x[source[p] + tap[k]])` for one block of one image, lane by lane.
pub(super) struct Depthwise<'a> {
    pub(super) x: *const f32,
    /// In vectors.
    pub(super) taps: &'a [u32],
    pub(super) source: &'a [u32],
    /// `[taps, 16]`.
    pub(super) w: &'a [f32],
    pub(super) epilogue: Epilogue<'a>,
    pub(super) y: *mut f32,
}

impl Kernel for Depthwise<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        // SAFETY: the caller made the tables for `x` and `y`.
        unsafe {
            let pixels = self.source.len();
            let start = self.epilogue.bias.load::<S>(0);
            for first in (0..pixels).step_by(PIXELS) {
                let mut x = [self.x; PIXELS];
                for p in 0..PIXELS {
                    let pixel = (first + p).min(pixels - 1);
                    x[p] = self.x.add(self.source[pixel] as usize * LANES);
                }
                let mut acc = [start; PIXELS];
                for (k, &tap) in self.taps.iter().enumerate() {
                    let w = S::load(self.w.as_ptr().add(k * LANES));
                    for p in 0..PIXELS {
                        let v = S::load(x[p].add(tap as usize * LANES));
                        acc[p] = S::mul_add(v, w, acc[p]);
                    }
                }
                for p in 0..PIXELS.min(pixels - first) {
                    let offset = (first + p) * LANES;
                    let v = self.epilogue.finish::<S>(acc[p], offset);
                    S::store(self.y.add(offset), v);
                }
            }
        }
    }
}
