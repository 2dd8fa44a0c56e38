//! The weight gradient of 3x3 convolutions of stride 1 in Winograd's domain.
//!
//! ```text
//! dw = Gᵀ [Σ_tiles (A dy Aᵀ) ⊙ (Bᵀ x B)] G
//! ```
//!
//! For every point of the transform this is a product of `[C_out, tiles x 16]` with
//! `[tiles x 16, C_in]`. The rows of points are worked off in three pairs, so that the transforms of
//! enough tiles stay in the second-level cache; both outputs of a pair share their first step.

#![expect(
    clippy::needless_range_loop,
    reason = "the loops unroll over the registers of a tile"
)]

use super::transform;
use super::winograd::{Grid, Input, Position, SKEW, Side};
use crate::buffer::{self, Buffer};
use crate::cpu::{Isa, Kernel, Simd};
use crate::element::Element;
use crate::features::{Features, LANES};
use crate::threads::{self, Out};

/// Filters and channels of a register tile.
const FILTERS: usize = 3;

/// Numbers of the second-level cache that transforms may fill.
const CACHE: usize = 1536 * 1024 / size_of::<f32>();

/// The most partial sums of the batch. Their number is the same for any number of threads.
const CHUNKS: usize = 4;

/// Numbers that all partial sums together may take.
const PARTIAL: usize = 4 * 1024 * 1024;

/// `A dy Aᵀ` of some tiles for some channels; `PASS` as in [`Input`].
struct Gradient<'a, E, const M: usize, const PASS: usize> {
    /// The batch's first group, from the first of the channels on.
    dy: *const E,
    /// Numbers of a channel and of a group.
    strides: (usize, usize),
    channels: usize,
    grid: Grid,
    tiles: &'a [Position],
    out: *mut f32,
    channel_stride: usize,
    point_stride: usize,
}

impl<E: Element, const M: usize, const PASS: usize> Kernel for Gradient<'_, E, M, PASS> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let (h, w) = self.grid.target;
        for c in 0..self.channels {
            for (t, at) in self.tiles.iter().enumerate() {
                let (rows, columns) = (M.min(h - at.row), M.min(w - at.column));
                // SAFETY: pixels outside the map are not read.
                unsafe {
                    let first = self.dy.add(
                        c * self.strides.0
                            + at.group * self.strides.1
                            + (at.row * w + at.column) * LANES,
                    );
                    let zero = S::splat(0.0);
                    let mut half = [[zero; 6]; 4];
                    for j in 0..M {
                        if j < columns {
                            let mut y = [zero; 4];
                            for i in 0..M {
                                if i < rows {
                                    y[i] = E::load::<S>(first.add((i * w + j) * LANES));
                                }
                            }
                            half[j] = transform::gradient::<S, M>(y);
                        }
                    }
                    let out = self.out.add(c * self.channel_stride + t * LANES);
                    for n in 0..transform::rows::<M, PASS>() {
                        let i = transform::row::<PASS>(n);
                        let mut y = [zero; 4];
                        for j in 0..M {
                            y[j] = half[j][i];
                        }
                        let z = transform::gradient::<S, M>(y);
                        for j in 0..M + 2 {
                            S::store(out.add((n * (M + 2) + j) * self.point_stride), z[j]);
                        }
                    }
                }
            }
        }
    }
}

/// `sums[point][filter][channel] += Σ_tile Σ_lane z[point][filter][tile] v[point][channel][tile]`.
struct Accumulate {
    points: usize,
    tiles: usize,
    channel_stride: usize,
    v: *const f32,
    v_stride: usize,
    channels: usize,
    z: *const f32,
    z_stride: usize,
    filters: usize,
    sums: *mut f32,
}

impl Kernel for Accumulate {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        // SAFETY: the caller's buffers hold what they say.
        unsafe {
            for point in 0..self.points {
                let v = self.v.add(point * self.v_stride);
                let z = self.z.add(point * self.z_stride);
                let sums = self.sums.add(point * self.filters * self.channels);
                let mut c = 0;
                while S::WIDE && c + 8 <= self.channels {
                    self.filters::<S, 8>(v, z, sums, c);
                    c += 8;
                }
                while S::WIDE && c + 4 <= self.channels {
                    self.filters::<S, 4>(v, z, sums, c);
                    c += 4;
                }
                while c + 2 <= self.channels {
                    self.filters::<S, 2>(v, z, sums, c);
                    c += 2;
                }
                if c < self.channels {
                    self.filters::<S, 1>(v, z, sums, c);
                }
            }
        }
    }
}

impl Accumulate {
    #[inline(always)]
    unsafe fn filters<S: Simd, const C: usize>(
        &self,
        v: *const f32,
        z: *const f32,
        sums: *mut f32,
        c: usize,
    ) {
        // SAFETY: the caller's: channels, filters and tiles lie within the transformed maps and the sums.
        unsafe {
            let v = v.add(c * self.channel_stride);
            let sums = sums.add(c);
            let mut f = 0;
            while f + FILTERS <= self.filters {
                self.tile::<S, FILTERS, C>(v, z, sums, f);
                f += FILTERS;
            }
            match self.filters - f {
                1 => self.tile::<S, 1, C>(v, z, sums, f),
                2 => self.tile::<S, 2, C>(v, z, sums, f),
                _ => {}
            }
        }
    }

    #[inline(always)]
    unsafe fn tile<S: Simd, const F: usize, const C: usize>(
        &self,
        v: *const f32,
        z: *const f32,
        sums: *mut f32,
        f: usize,
    ) {
        // SAFETY: the caller's: channels, filters and tiles lie within the transformed maps and the sums.
        unsafe {
            let mut acc = [[S::splat(0.0); C]; F];
            let z = z.add(f * self.channel_stride);
            for t in 0..self.tiles {
                let z: [S::V; F] =
                    std::array::from_fn(|f| S::load(z.add(f * self.channel_stride + t * LANES)));
                for c in 0..C {
                    let v = S::load(v.add(c * self.channel_stride + t * LANES));
                    for f in 0..F {
                        acc[f][c] = S::mul_add(v, z[f], acc[f][c]);
                    }
                }
            }
            for (i, acc) in acc.into_iter().enumerate() {
                S::add_sums(sums.add((f + i) * self.channels), acc);
            }
        }
    }
}

/// The gradient `[C_out, C_in, 3, 3]` of a convolution of `x` that gave `dy`.
pub(crate) fn weight_gradient<E: Element>(
    x: &Features,
    dy: &Features,
    padding: usize,
    side: Side,
) -> Vec<f32> {
    match side {
        Side::Two => by::<E, 2>(x, dy, padding),
        Side::Four => by::<E, 4>(x, dy, padding),
    }
}

fn by<E: Element, const M: usize>(x: &Features, dy: &Features, padding: usize) -> Vec<f32> {
    let isa = Isa::current();
    let points = (M + 2) * (M + 2);
    // Points that are worked off together.
    let together = if M == 4 { points / 3 } else { points };
    let (from, to) = (x.channels(), dy.channels());
    let grid = Grid {
        source: (x.height(), x.width()),
        target: (dy.height(), dy.width()),
        padding,
        m: M,
    };
    let tiles = grid.tiles() * x.groups();
    let block = (CACHE / (together * LANES * (from + to))).clamp(16, 32) / 4 * 4;
    let block = block.min(tiles);

    let chunks = (PARTIAL / (points * from * to)).clamp(1, CHUNKS);
    let chunks = chunks.min(tiles.div_ceil(4 * block));
    let per_chunk = tiles.div_ceil(chunks);
    let splits = threads::parts(chunks, to.div_ceil(4 * FILTERS));
    let per_split = to.div_ceil(FILTERS).div_ceil(splits) * FILTERS;
    let mut sums = Buffer::new(chunks * points * to * from);
    let out = Out::new(&mut sums);
    threads::each(chunks * splits, |task| {
        let (chunk, first_to) = (task / splits, task % splits * per_split);
        if first_to >= to {
            return;
        }
        let filters = per_split.min(to - first_to);
        // SAFETY: a task writes its own chunk and filters, `[point, filter, channel]`.
        let sums = unsafe {
            let at = (chunk * to + first_to) * points * from;
            std::slice::from_raw_parts_mut(out.at(at), filters * points * from)
        };
        sums.fill(0.0);
        let end = ((chunk + 1) * per_chunk).min(tiles);
        for first in (chunk * per_chunk..end).step_by(block) {
            let count = block.min(end - first);
            let positions: Vec<Position> =
                (first..first + count).map(|t| grid.position(t)).collect();
            let mut part = Part {
                x,
                dy,
                grid,
                tiles: &positions,
                first_to,
                filters,
                sums: &mut *sums,
                isa,
            };
            if M == 4 {
                part.pass::<E, M, 1>();
                part.pass::<E, M, 2>();
                part.pass::<E, M, 3>();
            } else {
                part.pass::<E, M, 0>();
            }
        }
    });

    let mut gradient = vec![0f32; to * from * 9];
    let out = Out::new(&mut gradient);
    threads::each(to, |o| {
        let split = o / per_split;
        let filters = per_split.min(to - split * per_split);
        // SAFETY: a task writes its own filter.
        let out = unsafe { std::slice::from_raw_parts_mut(out.at(o * from * 9), from * 9) };
        for c in (0..from).step_by(LANES) {
            let lanes = LANES.min(from - c);
            let mut u = [0.0; 36 * LANES];
            for chunk in 0..chunks {
                let start = (chunk * to + split * per_split) * points * from;
                for index in 0..points {
                    let point = if M == 4 {
                        transform::point_of_pass(index)
                    } else {
                        index
                    };
                    let at = start + (index * filters + o - split * per_split) * from + c;
                    for (u, sum) in u[point * LANES..].iter_mut().zip(&sums[at..at + lanes]) {
                        *u += sum;
                    }
                }
            }
            let w = isa.run(Weight::<M>(&u));
            for lane in 0..lanes {
                for (tap, out) in out[(c + lane) * 9..][..9].iter_mut().enumerate() {
                    *out = w[tap * LANES + lane];
                }
            }
        }
    });
    gradient
}

/// `Gᵀ u G` of sixteen gradients side by side: `[points, 16]` to `[9, 16]`.
struct Weight<'a, const M: usize>(&'a [f32; 36 * LANES]);

impl<const M: usize> Kernel for Weight<'_, M> {
    type Output = [f32; 9 * LANES];

    #[inline(always)]
    fn run<S: Simd>(self) -> [f32; 9 * LANES] {
        let side = M + 2;
        let mut out = [0.0; 9 * LANES];
        // SAFETY: both arrays hold sixteen numbers for every index.
        unsafe {
            let mut columns = [[S::splat(0.0); 3]; 6];
            for j in 0..side {
                let mut u = [S::splat(0.0); 6];
                for i in 0..side {
                    u[i] = S::load(self.0.as_ptr().add((i * side + j) * LANES));
                }
                columns[j] = transform::weight_gradient::<S, M>(u);
            }
            for i in 0..3 {
                let mut u = [S::splat(0.0); 6];
                for j in 0..side {
                    u[j] = columns[j][i];
                }
                let row = transform::weight_gradient::<S, M>(u);
                for j in 0..3 {
                    S::store(out.as_mut_ptr().add((i * 3 + j) * LANES), row[j]);
                }
            }
        }
        out
    }
}

/// Some tiles and filters of one weight gradient.
struct Part<'a> {
    x: &'a Features,
    dy: &'a Features,
    grid: Grid,
    tiles: &'a [Position],
    first_to: usize,
    filters: usize,
    sums: &'a mut [f32],
    isa: Isa,
}

impl Part<'_> {
    fn pass<E: Element, const M: usize, const PASS: usize>(&mut self) {
        let isa = self.isa;
        let (x, dy, from) = (self.x, self.dy, self.x.channels());
        let side = M + 2;
        let points = if PASS == 0 { side * side } else { 2 * side };
        let first_point = if PASS == 0 { 0 } else { (PASS - 1) * points };
        let channel_stride = self.tiles.len() * LANES;
        let v_stride = from * channel_stride + SKEW;
        let z_stride = self.filters * channel_stride + SKEW;
        buffer::scratch(points * (v_stride + z_stride), |scratch| {
            let (v, z) = scratch.split_at_mut(points * v_stride);
            isa.run(Input::<E, M, PASS> {
                x: x.cpu::<E>().as_ptr(),
                strides: (x.plane(), x.group_len()),
                channels: from,
                grid: self.grid,
                tiles: self.tiles,
                out: v.as_mut_ptr(),
                channel_stride,
                point_stride: v_stride,
            });
            isa.run(Gradient::<E, M, PASS> {
                dy: dy.cpu::<E>()[self.first_to * dy.plane()..].as_ptr(),
                strides: (dy.plane(), dy.group_len()),
                channels: self.filters,
                grid: self.grid,
                tiles: self.tiles,
                out: z.as_mut_ptr(),
                channel_stride,
                point_stride: z_stride,
            });
            isa.run(Accumulate {
                points,
                tiles: self.tiles.len(),
                channel_stride,
                v: v.as_ptr(),
                v_stride,
                channels: from,
                z: z.as_ptr(),
                z_stride,
                filters: self.filters,
                sums: self.sums[first_point * self.filters * from..].as_mut_ptr(),
            });
        });
    }
}
