//! Convolution of any shape by direct summation, blocked for registers and caches.
//!
//! No image is unrolled: a task copies a few channels of one group of sixteen images into a padded
//! scratch block and gathers from there, so a channel block is read from the nearest cache once
//! per filter block.

use std::borrow::Cow;

use super::kernel::{Correlations, FILTERS, LaneSums, Products, Start};
use super::plan::Plan;
use crate::buffer;
use crate::cpu::Isa;
use crate::element::{self, Element};
use crate::features::{Features, LANES};
use crate::threads::{self, Out};

/// Products per output that one pass over a block of input channels adds, and the most channels in
/// a block: what 8 pixels of that many taps meet stays in the first-level cache.
const DEPTH: usize = 160;
const CHANNELS: usize = 64;

/// Filters whose gradients and sums wait in the second-level cache for the next channel.
const GRADIENT_FILTERS: usize = 128;

/// Sizes that forward and input gradient share; `from` and `to` are the channels of the source and
/// the target of one of `groups` independent parts.
pub(crate) struct Shape {
    pub(crate) groups: usize,
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) kernel: usize,
}

/// Bytes of the target that one pass over all blocks of source channels works on: they wait in the
/// second-level cache for the next block.
const TARGET: usize = 512 * 1024;

/// Weights of one part and phase, `[to, from, taps of the phase]`.
pub(crate) type Weights<'a> = Cow<'a, [f32]>;

/// Gathers `target = Σ weights(to, from, tap) source` by `plan`.
///
/// `weights[part][phase]` are those of a phase; `bias` has a number for every target channel.
pub(crate) fn gather<E: Element>(
    source: &Features,
    target: &mut Features,
    plan: &Plan,
    shape: &Shape,
    bias: Option<&[f32]>,
    weights: &[Vec<Weights<'_>>],
) {
    let isa = Isa::current();
    let block = (DEPTH / shape.kernel).clamp(1, CHANNELS).min(shape.from);
    let blocks = shape.from.div_ceil(block);
    // taps[phase]: offsets for a whole block of channels; a shorter last block uses their start.
    let (x, plane) = (source.cpu::<E>(), source.plane());
    // What can be read where it is.
    let as_is = E::as_f32(x).filter(|_| plan.in_place());
    let channel = if as_is.is_some() {
        source.plane() / LANES
    } else {
        plan.padded_len() / LANES
    };
    let taps: Vec<Vec<u32>> = plan
        .phases
        .iter()
        .map(|phase| {
            (0..block)
                .flat_map(|c| {
                    phase
                        .taps
                        .iter()
                        .map(move |tap| (c * channel) as u32 + tap.0)
                })
                .collect()
        })
        .collect();

    let groups = source.groups();
    let splits = threads::parts(groups * shape.groups, shape.to.div_ceil(FILTERS));
    let per_split = shape.to.div_ceil(FILTERS).div_ceil(splits) * FILTERS;
    let width = target.width();
    let row_bytes = per_split.min(shape.to) * width * LANES * size_of::<f32>();
    // Sums of rounded numbers would round at every block: they wait in scratch.
    let rounds = E::as_f32(x).is_none();
    let rows = if blocks == 1 && !rounds {
        target.height()
    } else {
        (TARGET / row_bytes).clamp(1, target.height())
    };
    let bands = plan.bands(target.height(), width, rows);
    let (target_group, target_plane) = (target.group_len(), target.plane());
    let source_group = source.group_len();
    let out = Out::new(target.cpu_mut::<E>());
    threads::each(groups * shape.groups * splits, |task| {
        let (g, rest) = (
            task / (shape.groups * splits),
            task % (shape.groups * splits),
        );
        let (part, split) = (rest / splits, rest % splits);
        let first_to = split * per_split;
        if first_to >= shape.to {
            return;
        }
        let filters = per_split.min(shape.to - first_to);
        let scratch_len = match as_is {
            Some(_) => 0,
            None => block * plan.padded_len(),
        };
        let band_len = rows * width * LANES;
        let sums_len = if rounds { filters * band_len } else { 0 };
        let first_plane = g * target_group + (part * shape.to + first_to) * target_plane;
        buffer::scratch(scratch_len + sums_len, |scratch| {
            let (scratch, sums) = scratch.split_at_mut(scratch_len);
            for (row, band) in (0..).step_by(rows).zip(&bands) {
                let row = row * width * LANES;
                // The first filter's first pixel of the map: in scratch it would lie before the band.
                let (y, y_stride) = if rounds {
                    (sums.as_mut_ptr().wrapping_sub(row), band_len)
                } else {
                    // SAFETY: a task writes its own group and filters; `E` is `f32`.
                    (unsafe { out.at(first_plane) }.cast(), target_plane)
                };
                for b in 0..blocks {
                    let first = b * block;
                    let depth = block.min(shape.from - first);
                    let at = g * source_group + (part * shape.from + first) * plane;
                    let from = match as_is {
                        Some(x) => x[at..].as_ptr(),
                        None => {
                            for c in 0..depth {
                                plan.pad(
                                    isa,
                                    band.rows.clone(),
                                    &x[at + c * plane..][..plane],
                                    &mut scratch[c * plan.padded_len()..][..plan.padded_len()],
                                );
                            }
                            scratch.as_ptr()
                        }
                    };
                    for (i, phase) in plan.phases.iter().enumerate() {
                        let row = shape.from * phase.taps.len();
                        let pixels = band.pixels[i].clone();
                        isa.run(Products {
                            x: from,
                            taps: &taps[i][..depth * phase.taps.len()],
                            pixel_x: &phase.pixel_x[pixels.clone()],
                            pixel_y: &phase.pixel_y[pixels],
                            w: &weights[part][i][first_to * row + first * phase.taps.len()..],
                            w_stride: row,
                            filters,
                            start: match bias {
                                _ if b > 0 => Start::Output,
                                Some(bias) => Start::Bias(&bias[part * shape.to + first_to..]),
                                None => Start::Zero,
                            },
                            y,
                            y_stride,
                        });
                    }
                }
                for (f, sums) in sums.chunks_exact(band_len).enumerate() {
                    let len = band_len.min(target_plane - row);
                    // SAFETY: a task writes its own group and filters.
                    let to = unsafe {
                        let at = first_plane + f * target_plane + row;
                        std::slice::from_raw_parts_mut(out.at(at), len)
                    };
                    element::convert(isa, &sums[..len], to);
                }
            }
        });
    });
}

/// The weight gradient `[C_out, C_in / groups, K_h, K_w]` of the convolution with `plan` (forward).
pub(crate) fn weight_gradient<E: Element>(
    x: &Features,
    dy: &Features,
    plan: &Plan,
    shape: &Shape,
) -> Vec<f32> {
    let isa = Isa::current();
    let phase = &plan.phases[0];
    // A few channels at a time, so that their pixels stay in the nearest caches.
    let block = (4 * 9 / shape.kernel).clamp(1, shape.from);
    let blocks = shape.from.div_ceil(block);
    let (xs, gs) = (x.cpu::<E>(), dy.cpu::<E>());
    let as_is = E::as_f32(xs).filter(|_| plan.in_place());
    let channel = if as_is.is_some() {
        x.plane() / LANES
    } else {
        plan.padded_len() / LANES
    };
    let taps: Vec<u32> = (0..block)
        .flat_map(|c| {
            phase
                .taps
                .iter()
                .map(move |tap| (c * channel) as u32 + tap.0)
        })
        .collect();
    let pixels = phase.pixel_x.len();
    // Pixels of a pass: nine taps of so many, which mostly share them, stay in the first-level
    // cache while all filters meet them.
    let band = 128;

    let splits = threads::parts(shape.groups * blocks, shape.to.div_ceil(FILTERS))
        .max(shape.to.div_ceil(GRADIENT_FILTERS));
    let per_split = shape.to.div_ceil(FILTERS).div_ceil(splits) * FILTERS;
    let mut gradient = vec![0f32; shape.groups * shape.to * shape.from * shape.kernel];
    let out = Out::new(&mut gradient);
    threads::each(shape.groups * blocks * splits, |task| {
        let (part, rest) = (task / (blocks * splits), task % (blocks * splits));
        let (first, first_to) = (rest / splits * block, rest % splits * per_split);
        if first_to >= shape.to {
            return;
        }
        let filters = per_split.min(shape.to - first_to);
        let depth = block.min(shape.from - first);
        let k = depth * shape.kernel;
        let scratch_len = match as_is {
            Some(_) => 0,
            None => block * plan.padded_len(),
        };
        buffer::scratch(scratch_len + filters * k * LANES, |scratch| {
            let (scratch, sums) = scratch.split_at_mut(scratch_len);
            sums.fill(0.0);
            for g in 0..x.groups() {
                let at = g * x.group_len() + (part * shape.from + first) * x.plane();
                let from = match as_is {
                    Some(xs) => xs[at..].as_ptr(),
                    None => {
                        for c in 0..depth {
                            plan.pad(
                                isa,
                                0..plan.padded.0,
                                &xs[at + c * x.plane()..][..x.plane()],
                                &mut scratch[c * plan.padded_len()..][..plan.padded_len()],
                            );
                        }
                        scratch.as_ptr()
                    }
                };
                let dy_at = g * dy.group_len() + (part * shape.to + first_to) * dy.plane();
                for pixel in (0..pixels).step_by(band) {
                    isa.run(Correlations {
                        x: from,
                        taps: &taps[..k],
                        pixel_x: &phase.pixel_x[pixel..(pixel + band).min(pixels)],
                        dy: gs[dy_at + pixel * LANES..].as_ptr(),
                        dy_stride: dy.plane(),
                        filters,
                        sums: sums.as_mut_ptr(),
                    });
                }
            }
            for f in 0..filters {
                let at = ((part * shape.to + first_to + f) * shape.from + first) * shape.kernel;
                isa.run(LaneSums {
                    x: &sums[f * k * LANES..][..k * LANES],
                    // SAFETY: a task writes its own filters and channels.
                    out: unsafe { std::slice::from_raw_parts_mut(out.at(at), k) },
                });
            }
        });
    });
    gradient
}

/// The bias gradient: the sum of `dy` over images and pixels, per channel.
pub(crate) fn bias_gradient<E: Element>(dy: &Features) -> Vec<f32> {
    let isa = Isa::current();
    let data = dy.cpu::<E>();
    threads::map(dy.channels(), |c| {
        let mut sum = 0f64;
        for g in 0..dy.groups() {
            let plane = &data[g * dy.group_len() + c * dy.plane()..][..dy.plane()];
            // A few hundred terms in single precision, then double.
            for chunk in plane.chunks(256 * LANES) {
                sum += f64::from(isa.run(Sum(chunk)));
            }
        }
        sum as f32
    })
}

struct Sum<'a, E>(&'a [E]);

impl<E: Element> crate::cpu::Kernel for Sum<'_, E> {
    type Output = f32;

    #[inline(always)]
    fn run<S: crate::cpu::Simd>(self) -> f32 {
        // SAFETY: chunks hold sixteen numbers.
        unsafe {
            let mut sum = S::splat(0.0);
            for v in self.0.chunks_exact(LANES) {
                sum = S::add(sum, E::load::<S>(v.as_ptr()));
            }
            S::sum(sum)
        }
    }
}
