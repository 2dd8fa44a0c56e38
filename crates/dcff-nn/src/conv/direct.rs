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
pub(crate) fn gather(
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
    let in_place = plan.in_place();
    let channel = if in_place {
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
    let rows = if blocks == 1 {
        target.height()
    } else {
        (TARGET / row_bytes).max(1)
    };
    let bands = plan.bands(target.height(), width, rows);
    let (x, plane) = (source.cpu(), source.plane());
    let (target_group, target_plane) = (target.group_len(), target.plane());
    let source_group = source.group_len();
    let out = Out::new(target.cpu_mut());
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
        let scratch_len = if in_place {
            0
        } else {
            block * plan.padded_len()
        };
        buffer::scratch(scratch_len, |scratch| {
            for (band, b) in bands
                .iter()
                .flat_map(|band| (0..blocks).map(move |b| (band, b)))
            {
                let first = b * block;
                let depth = block.min(shape.from - first);
                let at = g * source_group + (part * shape.from + first) * plane;
                let from = if in_place {
                    x[at..].as_ptr()
                } else {
                    for c in 0..depth {
                        plan.pad(
                            band.rows.clone(),
                            &x[at + c * plane..][..plane],
                            &mut scratch[c * plan.padded_len()..][..plan.padded_len()],
                        );
                    }
                    scratch.as_ptr()
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
                        // SAFETY: a task writes its own group and filters.
                        y: unsafe {
                            out.at(g * target_group + (part * shape.to + first_to) * target_plane)
                        },
                        y_stride: target_plane,
                    });
                }
            }
        });
    });
}

/// The weight gradient `[C_out, C_in / groups, K_h, K_w]` of the convolution with `plan` (forward).
pub(crate) fn weight_gradient(x: &Features, dy: &Features, plan: &Plan, shape: &Shape) -> Vec<f32> {
    let isa = Isa::current();
    let phase = &plan.phases[0];
    // A few channels at a time, so that their pixels stay in the nearest caches.
    let block = (4 * 9 / shape.kernel).clamp(1, shape.from);
    let blocks = shape.from.div_ceil(block);
    let in_place = plan.in_place();
    let channel = if in_place {
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
    let (xs, gs) = (x.cpu(), dy.cpu());
    threads::each(shape.groups * blocks * splits, |task| {
        let (part, rest) = (task / (blocks * splits), task % (blocks * splits));
        let (first, first_to) = (rest / splits * block, rest % splits * per_split);
        if first_to >= shape.to {
            return;
        }
        let filters = per_split.min(shape.to - first_to);
        let depth = block.min(shape.from - first);
        let k = depth * shape.kernel;
        let scratch_len = if in_place {
            0
        } else {
            block * plan.padded_len()
        };
        buffer::scratch(scratch_len + filters * k * LANES, |scratch| {
            let (scratch, sums) = scratch.split_at_mut(scratch_len);
            sums.fill(0.0);
            for g in 0..x.groups() {
                let at = g * x.group_len() + (part * shape.from + first) * x.plane();
                let from = if in_place {
                    xs[at..].as_ptr()
                } else {
                    for c in 0..depth {
                        plan.pad(
                            0..plan.padded.0,
                            &xs[at + c * x.plane()..][..x.plane()],
                            &mut scratch[c * plan.padded_len()..][..plan.padded_len()],
                        );
                    }
                    scratch.as_ptr()
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
pub(crate) fn bias_gradient(dy: &Features) -> Vec<f32> {
    let isa = Isa::current();
    let data = dy.cpu();
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

struct Sum<'a>(&'a [f32]);

impl crate::cpu::Kernel for Sum<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: crate::cpu::Simd>(self) -> f32 {
        // SAFETY: chunks hold sixteen numbers.
        unsafe {
            let mut sum = S::splat(0.0);
            for v in self.0.chunks_exact(LANES) {
                sum = S::add(sum, S::load(v.as_ptr()));
            }
            S::sum(sum)
        }
    }
}
