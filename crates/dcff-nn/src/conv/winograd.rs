//! 3x3 convolution of stride 1 with Winograd's transforms: a quarter of the multiplications.
//!
//! Since lanes are images, the transforms need no shuffles: a tile position of one group of
//! sixteen images is a column of vectors. A task transforms [`TILES`] positions, multiplies for
//! each of the 36 (or 16) points of the transform the weights `[C_out, C_in]` with the inputs
//! `[C_in, TILES x 16]`, and transforms back, without leaving the second-level cache.

#![expect(
    clippy::needless_range_loop,
    reason = "the loops unroll over the registers of a tile"
)]

use super::epilogue::Epilogue;
use super::kernel::{FILTERS, Products, Start};
use super::transform;
use crate::buffer::{self, Buffer};
use crate::cpu::{Isa, Kernel, Simd};
use crate::element::Element;
use crate::features::{Features, LANES};
use crate::threads::{self, Out};

/// Tile positions of a task.
const TILES: usize = 8;

/// Input channels whose transforms stay in the first-level cache while all filters meet them.
const DEPTH: usize = 96;

/// Vectors between the blocks of neighbouring points beyond their size, so that the 36 stores of a
/// transform do not fall into one set of the cache.
pub(crate) const SKEW: usize = 5 * LANES;

/// The side of an output tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Two,
    Four,
}

/// The transform to use for `from` to `to` channels and a map of `h x w` outputs, if any.
///
/// Weighs measured cycles per tile: input transform, products, output transform.
pub(crate) fn side(from: usize, to: usize, (h, w): (usize, usize)) -> Option<Side> {
    let tiles = |m| (h.div_ceil(m) * w.div_ceil(m)) as f64;
    let (from, to, both) = (from as f64, to as f64, (from * to) as f64);
    let direct = (h * w) as f64 * 4.9 * both;
    let two = tiles(2) * (40.0 * from + 25.0 * to + 8.5 * both);
    let four = tiles(4) * (110.0 * from + 90.0 * to + 19.0 * both);
    if direct <= two.min(four) {
        None
    } else if two < four {
        Some(Side::Two)
    } else {
        Some(Side::Four)
    }
}

/// Positions of tiles on a map and in a batch.
#[derive(Clone, Copy)]
pub(crate) struct Grid {
    /// Height and width of the map that patches are read from.
    pub(crate) source: (usize, usize),
    /// Height and width of the map of tiles.
    pub(crate) target: (usize, usize),
    /// Zeros around the source.
    pub(crate) padding: usize,
    /// Side of a tile.
    pub(crate) m: usize,
}

/// A tile: its group, and row and column of its first pixel in the target.
#[derive(Clone, Copy)]
pub(crate) struct Position {
    pub(crate) group: usize,
    pub(crate) row: usize,
    pub(crate) column: usize,
}

impl Grid {
    pub(crate) fn tiles(&self) -> usize {
        self.target.0.div_ceil(self.m) * self.target.1.div_ceil(self.m)
    }

    pub(crate) fn position(&self, tile: usize) -> Position {
        let columns = self.target.1.div_ceil(self.m);
        let (group, tile) = (tile / self.tiles(), tile % self.tiles());
        Position {
            group,
            row: tile / columns * self.m,
            column: tile % columns * self.m,
        }
    }
}

/// `Bᵀ x B` of some tiles for some channels: all rows of points, or those of one pass (see
/// [`transform::rows`]).
pub(crate) struct Input<'a, E, const M: usize, const PASS: usize> {
    /// The batch's first group, from the first of the channels on.
    pub(crate) x: *const E,
    /// Numbers of a channel and of a group.
    pub(crate) strides: (usize, usize),
    pub(crate) channels: usize,
    pub(crate) grid: Grid,
    pub(crate) tiles: &'a [Position],
    /// The first point of the first channel: `[point, channel, tile]`.
    pub(crate) out: *mut f32,
    pub(crate) channel_stride: usize,
    pub(crate) point_stride: usize,
}

impl<E: Element, const M: usize, const PASS: usize> Kernel for Input<'_, E, M, PASS> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let (h, w) = (self.grid.source.0 as isize, self.grid.source.1 as isize);
        let side = (M + 2) as isize;
        // Tiles of a row of the map follow each other, so that a channel's rows are read in order.
        for c in 0..self.channels {
            for (t, at) in self.tiles.iter().enumerate() {
                let row = at.row as isize - self.grid.padding as isize;
                let column = at.column as isize - self.grid.padding as isize;
                let inside = row >= 0 && column >= 0 && row + side <= h && column + side <= w;
                // SAFETY: pixels outside the map are not read.
                unsafe {
                    let x = self
                        .x
                        .add(c * self.strides.0 + at.group * self.strides.1)
                        .wrapping_offset((row * w + column) * LANES as isize);
                    let out = self.out.add(c * self.channel_stride + t * LANES);
                    if inside {
                        self.tile::<S, false>(x, out, row, column);
                    } else {
                        self.tile::<S, true>(x, out, row, column);
                    }
                }
            }
        }
    }
}

impl<E: Element, const M: usize, const PASS: usize> Input<'_, E, M, PASS> {
    #[inline(always)]
    unsafe fn tile<S: Simd, const EDGE: bool>(
        &self,
        first: *const E,
        out: *mut f32,
        row: isize,
        column: isize,
    ) {
        // SAFETY: the caller's: the tile lies on the map, but for an edge whose pixels are left out.
        unsafe {
            let (h, w) = self.grid.source;
            let side = M + 2;
            let zero = S::splat(0.0);
            let mut columns = [[zero; 6]; 6];
            for j in 0..side {
                if EDGE && (column + j as isize) as usize >= w {
                    continue;
                }
                let mut d = [zero; 6];
                for i in 0..side {
                    if !EDGE || ((row + i as isize) as usize) < h {
                        d[i] = E::load::<S>(first.wrapping_add((i * w + j) * LANES));
                    }
                }
                columns[j] = transform::input::<S, M>(d);
            }
            for n in 0..transform::rows::<M, PASS>() {
                let i = transform::row::<PASS>(n);
                let mut d = [zero; 6];
                for j in 0..side {
                    d[j] = columns[j][i];
                }
                let d = transform::input::<S, M>(d);
                for j in 0..side {
                    S::store(out.add((n * side + j) * self.point_stride), d[j]);
                }
            }
        }
    }
}

/// `epilogue(Aᵀ m A)` of some tiles for some channels.
pub(crate) struct Output<'a, E, const M: usize> {
    /// `[point, channel, tile]`.
    pub(crate) m: *const f32,
    pub(crate) channel_stride: usize,
    pub(crate) point_stride: usize,
    pub(crate) channels: usize,
    pub(crate) epilogue: Epilogue<'a, E>,
    pub(crate) grid: Grid,
    pub(crate) tiles: &'a [Position],
    /// The batch's first group, from the first of the channels on.
    pub(crate) y: *mut E,
    /// Numbers of a channel and of a group.
    pub(crate) strides: (usize, usize),
    pub(crate) stream: bool,
}

impl<E: Element, const M: usize> Kernel for Output<'_, E, M> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        for c in 0..self.channels {
            // SAFETY: as everywhere in a kernel.
            let bias = unsafe { self.epilogue.bias.load::<S>(c) };
            for (t, at) in self.tiles.iter().enumerate() {
                // SAFETY: the tiles lie on the map.
                unsafe {
                    let from = self.m.add(c * self.channel_stride + t * LANES);
                    let offset = c * self.strides.0
                        + at.group * self.strides.1
                        + (at.row * self.grid.target.1 + at.column) * LANES;
                    self.tile::<S>(from, offset, *at, bias);
                }
            }
        }
        // SAFETY: an instruction without operands.
        unsafe { S::fence() };
    }
}

impl<E: Element, const M: usize> Output<'_, E, M> {
    #[inline(always)]
    unsafe fn tile<S: Simd>(&self, from: *const f32, offset: usize, at: Position, bias: S::V) {
        // SAFETY: the caller's: the tile lies on the map, but for an edge whose pixels are left out.
        unsafe {
            let (h, w) = self.grid.target;
            let side = M + 2;
            let zero = S::splat(0.0);
            let mut half = [[zero; 4]; 6];
            for j in 0..side {
                let mut m = [zero; 6];
                for i in 0..side {
                    m[i] = S::load(from.add((i * side + j) * self.point_stride));
                }
                half[j] = transform::output::<S, M>(m);
            }
            let (rows, columns) = (M.min(h - at.row), M.min(w - at.column));
            for i in 0..M {
                let mut m = [zero; 6];
                for j in 0..side {
                    m[j] = half[j][i];
                }
                let y = transform::output::<S, M>(m);
                // Rows and columns outside the map are not written.
                if i < rows {
                    for j in 0..M {
                        if j < columns {
                            let at = offset + (i * w + j) * LANES;
                            let y = self.epilogue.finish::<S>(S::add(y[j], bias), at);
                            E::put::<S>(self.y.add(at), y, self.stream);
                        }
                    }
                }
            }
        }
    }
}

/// `G w Gᵀ` of up to sixteen kernels side by side.
pub(crate) struct Weight<const M: usize> {
    /// `[9, 16]`.
    pub(crate) w: [f32; 9 * LANES],
    pub(crate) out: *mut f32,
    pub(crate) point_stride: usize,
}

impl<const M: usize> Kernel for Weight<M> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        // SAFETY: `out` holds sixteen numbers for every point.
        unsafe {
            let side = M + 2;
            let mut columns = [[S::splat(0.0); 6]; 3];
            for j in 0..3 {
                let mut w = [S::splat(0.0); 3];
                for i in 0..3 {
                    w[i] = S::load(self.w.as_ptr().add((i * 3 + j) * LANES));
                }
                columns[j] = transform::weight::<S, M>(w);
            }
            for i in 0..side {
                let row = [columns[0][i], columns[1][i], columns[2][i]];
                let row = transform::weight::<S, M>(row);
                for j in 0..side {
                    S::store(self.out.add((i * side + j) * self.point_stride), row[j]);
                }
            }
        }
    }
}

/// Weights in the transform's domain, `[point, to, from]` with rows of `row` numbers and
/// `point_stride` numbers between points.
struct Transformed {
    data: Buffer,
    row: usize,
    point_stride: usize,
}

fn weights<const M: usize>(
    from: usize,
    to: usize,
    weight: impl Fn(usize, usize) -> [f32; 9] + Sync + Send,
) -> Transformed {
    let isa = Isa::current();
    let points = (M + 2) * (M + 2);
    let row = from.next_multiple_of(LANES);
    let point_stride = to * row + SKEW;
    let mut data = Buffer::new(points * point_stride);
    let out = Out::new(&mut data);
    threads::each(to, |o| {
        for first in (0..from).step_by(LANES) {
            let mut w = [0f32; 9 * LANES];
            for lane in 0..LANES.min(from - first) {
                for (i, w_i) in weight(o, first + lane).into_iter().enumerate() {
                    w[i * LANES + lane] = w_i;
                }
            }
            isa.run(Weight::<M> {
                w,
                // SAFETY: a task writes its own filter.
                out: unsafe { out.at(o * row + first) },
                point_stride,
            });
        }
    });
    Transformed {
        data,
        row,
        point_stride,
    }
}

/// Convolution of stride 1 of `source` with 3x3 kernels `weight(to, from)`, nine numbers row by row.
pub(crate) fn convolve<E: Element>(
    source: &Features,
    target: &mut Features,
    padding: usize,
    side: Side,
    epilogue: Epilogue<'_, E>,
    weight: impl Fn(usize, usize) -> [f32; 9] + Sync + Send,
) {
    match side {
        Side::Two => convolve_by::<E, 2>(source, target, padding, epilogue, weight),
        Side::Four => convolve_by::<E, 4>(source, target, padding, epilogue, weight),
    }
}

fn convolve_by<E: Element, const M: usize>(
    source: &Features,
    target: &mut Features,
    padding: usize,
    epilogue: Epilogue<'_, E>,
    weight: impl Fn(usize, usize) -> [f32; 9] + Sync + Send,
) {
    let isa = Isa::current();
    let points = (M + 2) * (M + 2);
    let (from, to) = (source.channels(), target.channels());
    let depth = from.div_ceil(from.div_ceil(DEPTH));
    let packed = weights::<M>(from, to, weight);
    let grid = Grid {
        source: (source.height(), source.width()),
        target: (target.height(), target.width()),
        padding,
        m: M,
    };
    let tiles = grid.tiles() * source.groups();
    let tasks = tiles.div_ceil(TILES);
    let splits = threads::parts(tasks, to.div_ceil(4 * FILTERS));
    let per_split = to.div_ceil(FILTERS).div_ceil(splits) * FILTERS;
    let taps: Vec<u32> = (0..depth).map(|c| (c * TILES) as u32).collect();
    let pixels: Vec<u32> = (0..TILES as u32).collect();
    let channel_stride = TILES * LANES;
    let stream = target.streams();
    let (target_group, target_plane) = (target.group_len(), target.plane());
    let out = Out::new(target.cpu_mut::<E>());
    let x = source.cpu::<E>();
    threads::each(tasks * splits, |task| {
        let (first, first_to) = (task / splits * TILES, task % splits * per_split);
        if first_to >= to {
            return;
        }
        let count = TILES.min(tiles - first);
        let filters = per_split.min(to - first_to);
        let in_stride = from * channel_stride + SKEW;
        let out_stride = filters * channel_stride + SKEW;
        buffer::scratch(points * (in_stride + out_stride), |scratch| {
            let (v, m) = scratch.split_at_mut(points * in_stride);
            let positions: [Position; TILES] =
                std::array::from_fn(|t| grid.position((first + t).min(tiles - 1)));
            isa.run(Input::<E, M, 0> {
                x: x.as_ptr(),
                strides: (source.plane(), source.group_len()),
                channels: from,
                grid,
                tiles: &positions[..count],
                out: v.as_mut_ptr(),
                channel_stride,
                point_stride: in_stride,
            });
            for point in 0..points {
                for start in (0..from).step_by(depth) {
                    let k = depth.min(from - start);
                    isa.run(Products {
                        x: v[point * in_stride + start * channel_stride..].as_ptr(),
                        taps: &taps[..k],
                        pixel_x: &pixels[..count],
                        pixel_y: &pixels[..count],
                        w: &packed.data
                            [point * packed.point_stride + first_to * packed.row + start..],
                        w_stride: packed.row,
                        filters,
                        start: if start == 0 {
                            Start::Zero
                        } else {
                            Start::Output
                        },
                        y: m[point * out_stride..].as_mut_ptr(),
                        y_stride: channel_stride,
                    });
                }
            }
            isa.run(Output::<E, M> {
                m: m.as_ptr(),
                channel_stride,
                point_stride: out_stride,
                channels: filters,
                epilogue: epilogue.starting_at(first_to, first_to * target_plane),
                grid,
                tiles: &positions[..count],
                // SAFETY: a task writes its own tiles and filters.
                y: unsafe { out.at(first_to * target_plane) },
                strides: (target_plane, target_group),
                stream,
            });
        });
    });
}
