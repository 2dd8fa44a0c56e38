//! Convolution with 1x1 kernels: matrix products over channels.
//!
//! The planes of neighbouring channels are often a power of two apart, so that one pixel of all
//! channels falls into one set of the cache. A task therefore copies a block of channels of a few
//! pixels (every `stride`-th, as the tables say) into scratch first, with rows of uneven length.

use super::direct::{Shape, Weights};
use super::kernel::{Correlations, FILTERS, LaneSums, Products, Start};
use crate::buffer;
use crate::cpu::Isa;
use crate::element::{self, Element};
use crate::features::{Features, LANES};
use crate::threads::{self, Out};

/// Channels of a block: eight pixels of them stay in the first-level cache.
const CHANNELS: usize = 64;

/// Vectors of the target, over pixels and filters, that wait for the next block of channels in the
/// second-level cache, beside the block.
const TARGET: usize = 8 * 1024;

/// Pixels, channels and filters of a block of the weight gradient: both sides and the sums stay in the second-level
/// cache, and some channels of the source and filters of the target in the first.
const GRADIENT: (usize, usize, usize) = (48, 72, 128);

/// Vectors between rows of scratch beyond their length.
const SKEW: usize = 8;

/// Whether the pixels follow each other.
fn adjacent(pixels: &[u32]) -> bool {
    pixels.last().map_or(0, |last| last - pixels[0]) as usize + 1 == pixels.len()
}

/// Copies some pixels of one channel, one after the other.
fn collect<E: Element>(isa: Isa, plane: &[E], pixels: &[u32], to: &mut [f32]) {
    if adjacent(pixels) {
        let first = pixels[0] as usize * LANES;
        let len = pixels.len() * LANES;
        element::widen(isa, &plane[first..][..len], &mut to[..len]);
    } else {
        for (to, &pixel) in to.chunks_exact_mut(LANES).zip(pixels) {
            element::widen(isa, &plane[pixel as usize * LANES..][..LANES], to);
        }
    }
}

/// Rounds vectors that follow each other into some pixels of the channel at `plane`.
///
/// # Safety
///
/// The channel has the pixels, and no other task reads or writes them.
unsafe fn distribute<E: Element>(isa: Isa, from: &[f32], plane: *mut E, pixels: &[u32]) {
    // SAFETY: the caller's: the pixels lie in the channel, which this task alone writes.
    let to = |first: u32, len| unsafe {
        std::slice::from_raw_parts_mut(plane.add(first as usize * LANES), len)
    };
    if adjacent(pixels) {
        let len = pixels.len() * LANES;
        element::convert(isa, &from[..len], to(pixels[0], len));
    } else {
        for (from, &pixel) in from.chunks_exact(LANES).zip(pixels) {
            element::convert(isa, from, to(pixel, LANES));
        }
    }
}

/// `target[pixel_y] = Σ weights(to, from) source[pixel_x]`, for pairs of pixels; the rest of the
/// target is left alone. `weights[part]` are `[to, from]`.
pub(crate) fn gather<E: Element>(
    source: &Features,
    target: &mut Features,
    (pixel_x, pixel_y): (&[u32], &[u32]),
    shape: &Shape,
    bias: Option<&[f32]>,
    weights: &[&Weights<'_>],
) {
    let isa = Isa::current();
    let (from, to) = (shape.from, shape.to);
    let size = (TARGET / to).clamp(16, 128) / 16 * 16;
    let bands = pixel_x.len().div_ceil(size);
    let row = size + SKEW;
    let near: Vec<u32> = (0..size as u32).collect();
    let taps: Vec<u32> = (0..CHANNELS.min(from)).map(|c| (c * row) as u32).collect();
    let (plane, group) = (source.plane(), source.group_len());
    let (target_plane, target_group) = (target.plane(), target.group_len());
    let x = source.cpu::<E>();
    // Where there are several blocks of channels, sums wait for the next in scratch: in the target they would be rounded,
    // and lie as far apart as the source's channels.
    let waits = E::as_f32(x).is_none() || from > CHANNELS;
    let out = Out::new(target.cpu_mut::<E>());
    threads::each(source.groups() * shape.groups * bands, |task| {
        let (g, rest) = (task / (shape.groups * bands), task % (shape.groups * bands));
        let (part, band) = (rest / bands, rest % bands);
        let pixels = band * size..pixel_x.len().min((band + 1) * size);
        let first_plane = g * target_group + part * to * target_plane;
        let (pixel_x, pixel_y) = (&pixel_x[pixels.clone()], &pixel_y[pixels]);
        let scratch_len = CHANNELS.min(from) * row * LANES;
        let sums_len = if waits { to * row * LANES } else { 0 };
        buffer::scratch(scratch_len + sums_len, |scratch| {
            let (scratch, sums) = scratch.split_at_mut(scratch_len);
            let (y, y_stride) = if waits {
                (sums.as_mut_ptr(), row * LANES)
            } else {
                // SAFETY: a task writes its own group, part and pixels; `E` is `f32`.
                (unsafe { out.at(first_plane) }.cast(), target_plane)
            };
            for first in (0..from).step_by(CHANNELS) {
                let depth = CHANNELS.min(from - first);
                for (c, scratch) in scratch
                    .chunks_exact_mut(row * LANES)
                    .take(depth)
                    .enumerate()
                {
                    let at = g * group + (part * from + first + c) * plane;
                    collect(isa, &x[at..][..plane], pixel_x, scratch);
                }
                isa.run(Products {
                    x: scratch.as_ptr(),
                    taps: &taps[..depth],
                    pixel_x: &near[..pixel_x.len()],
                    pixel_y: if waits {
                        &near[..pixel_y.len()]
                    } else {
                        pixel_y
                    },
                    w: &weights[part][first..],
                    w_stride: from,
                    filters: to,
                    start: match bias {
                        _ if first > 0 => Start::Output,
                        Some(bias) => Start::Bias(&bias[part * to..]),
                        None => Start::Zero,
                    },
                    y,
                    y_stride,
                });
            }
            for (f, sums) in sums.chunks_exact(row * LANES).enumerate() {
                // SAFETY: a task writes its own group, part and pixels.
                unsafe { distribute(isa, sums, out.at(first_plane + f * target_plane), pixel_y) };
            }
        });
    });
}

/// The weight gradient `[C_out, C_in / groups]`; output pixel `i` met input pixel `pixel_x[i]`.
pub(crate) fn weight_gradient<E: Element>(
    x: &Features,
    dy: &Features,
    pixel_x: &[u32],
    shape: &Shape,
) -> Vec<f32> {
    let isa = Isa::current();
    let (from, to) = (shape.from, shape.to);
    let (size, block, most) = GRADIENT;
    let blocks = from.div_ceil(block);
    let splits = threads::parts(shape.groups * blocks, to.div_ceil(FILTERS)).max(to.div_ceil(most));
    let per_split = to.div_ceil(FILTERS).div_ceil(splits) * FILTERS;
    let row = size + SKEW;
    let near: Vec<u32> = (0..size as u32).collect();
    let taps: Vec<u32> = (0..block).map(|c| (c * row) as u32).collect();
    let (xs, gs) = (x.cpu::<E>(), dy.cpu::<E>());
    let mut gradient = vec![0f32; shape.groups * to * from];
    let out = Out::new(&mut gradient);
    threads::each(shape.groups * blocks * splits, |task| {
        let (part, rest) = (task / (blocks * splits), task % (blocks * splits));
        let (first, first_to) = (rest / splits * block, rest % splits * per_split);
        if first_to >= to {
            return;
        }
        let filters = per_split.min(to - first_to);
        let depth = block.min(from - first);
        let rows = (depth + filters) * row * LANES;
        buffer::scratch(rows + filters * depth * LANES, |scratch| {
            let (scratch, sums) = scratch.split_at_mut(rows);
            let (x_rows, dy_rows) = scratch.split_at_mut(depth * row * LANES);
            sums.fill(0.0);
            for g in 0..x.groups() {
                let at = g * x.group_len() + (part * from + first) * x.plane();
                let dy_at = g * dy.group_len() + (part * to + first_to) * dy.plane();
                for (band, pixels) in pixel_x.chunks(size).enumerate() {
                    for (c, to) in x_rows.chunks_exact_mut(row * LANES).enumerate() {
                        let plane = &xs[at + c * x.plane()..][..x.plane()];
                        collect(isa, plane, pixels, to);
                    }
                    let len = pixels.len() * LANES;
                    for (f, to) in dy_rows.chunks_exact_mut(row * LANES).enumerate() {
                        let at = dy_at + f * dy.plane() + band * size * LANES;
                        element::widen(isa, &gs[at..][..len], &mut to[..len]);
                    }
                    isa.run(Correlations {
                        x: x_rows.as_ptr(),
                        taps: &taps[..depth],
                        pixel_x: &near[..pixels.len()],
                        dy: dy_rows.as_ptr(),
                        dy_stride: row * LANES,
                        filters,
                        sums: sums.as_mut_ptr(),
                    });
                }
            }
            for f in 0..filters {
                isa.run(LaneSums {
                    x: &sums[f * depth * LANES..][..depth * LANES],
                    // SAFETY: a task writes its own filters and channels.
                    out: unsafe {
                        let at = (part * to + first_to + f) * from + first;
                        std::slice::from_raw_parts_mut(out.at(at), depth)
                    },
                });
            }
        });
    });
    gradient
}
