//! Prepared convolution of any shape by direct summation.

use super::Channels;
use super::depthwise::Depthwise;
use super::kernel::{Pixels, Products};
use super::maps::Blocks;
use crate::buffer::{self, Buffer};
use crate::conv::epilogue::Epilogue;
use crate::conv::plan::Plan;
use crate::conv::{ConvConfig, Sizes};
use crate::cpu::Isa;
use crate::element::LANES;
use crate::threads::{self, Out};

/// Products of vectors that are worth a task of their own.
const TASK: usize = 32 * 1024;
/// Pixels that are computed together, if an image has fewer.
const PIXELS: usize = 128;
/// Up to this many pixels, threads share the filters, so that each reads its own weights only.
const FEW_PIXELS: usize = 64;

/// Weights `[blocks, taps, 16]` and the tables that go with them.
pub(super) struct Direct {
    filters: usize,
    plan: Plan,
    kind: Kind,
    weights: Buffer,
}

enum Kind {
    /// All filters meet the same inputs.
    Dense { taps: Vec<u32> },
    /// Blocks of filters meet the inputs of their groups; a block's table and its weights start at
    /// these taps.
    Grouped { taps: Vec<u32>, starts: Vec<usize> },
    /// Lane by lane.
    Depthwise { taps: Vec<u32> },
}

impl Direct {
    /// Packs `w` `[C_out, C_in / groups, K_h, K_w]` for inputs that lie as `channels` says.
    pub(super) fn new(sizes: Sizes, cfg: ConvConfig, channels: &Channels, w: &[f32]) -> Self {
        let (from, to) = (sizes.c_in, sizes.c_out);
        let plan = Plan::forward(sizes.input, sizes.output, sizes.kernel, cfg);
        let kernel = &plan.phases[0].taps;
        let in_place = plan.in_place();
        let (height, width) = if in_place { sizes.input } else { plan.padded };
        let block = height * width * LANES;
        let places: Vec<_> = channels.places().collect();
        let blocks = to.div_ceil(LANES);
        let (from_group, to_group) = (from / cfg.groups, to / cfg.groups);
        let plain = *channels == Channels::new(from);
        if cfg.groups > 1 && from_group == 1 && to_group == 1 && plain {
            let mut weights = zeros(blocks * kernel.len() * LANES);
            for o in 0..to {
                for k in 0..kernel.len() {
                    weights[(o / LANES * kernel.len() + k) * LANES + o % LANES] =
                        w[o * kernel.len() + kernel[k].1];
                }
            }
            let taps = kernel.iter().map(|tap| tap.0).collect();
            let kind = Kind::Depthwise { taps };
            return Self {
                filters: to,
                plan,
                kind,
                weights,
            };
        }
        // Inputs of every block, in the order of their addresses: block, tap, lane.
        let (mut taps, mut starts, mut rows) = (Vec::new(), vec![0], Vec::new());
        for b in 0..blocks {
            let filters = b * LANES..to.min((b + 1) * LANES);
            if b > 0 && cfg.groups == 1 {
                starts.push(starts[b] + starts[1]);
                continue;
            }
            let first = filters.start / to_group * from_group;
            let last = ((filters.end - 1) / to_group + 1) * from_group;
            let mut inputs: Vec<(usize, usize, usize)> = (first..last)
                .map(|c| (places[c].0, places[c].1, c))
                .collect();
            inputs.sort_unstable();
            for inputs in inputs.chunk_by(|a, b| a.0 == b.0) {
                for &(at, index) in kernel {
                    for &(in_block, lane, c) in inputs {
                        taps.push((in_block * block + lane) as u32 + at * LANES as u32);
                        rows.push((c, index));
                    }
                }
            }
            starts.push(taps.len());
        }
        let mut weights = zeros(starts[blocks] * LANES);
        for b in 0..blocks {
            let rows = match cfg.groups {
                1 => &rows[..],
                _ => &rows[starts[b]..starts[b + 1]],
            };
            for (k, &(c, index)) in rows.iter().enumerate() {
                let row = &mut weights[(starts[b] + k) * LANES..][..LANES];
                for (lane, o) in (b * LANES..to.min((b + 1) * LANES)).enumerate() {
                    if o / to_group == c / from_group {
                        let at = o * from_group + c % from_group;
                        row[lane] = w[at * kernel.len() + index];
                    }
                }
            }
        }
        let kind = match cfg.groups {
            1 => Kind::Dense { taps },
            _ => Kind::Grouped { taps, starts },
        };
        Self {
            filters: to,
            plan,
            kind,
            weights,
        }
    }

    /// Computes all of `y`, a few images at a time: their inputs stay near while all filters meet
    /// them.
    pub(super) fn run(&self, x: &Blocks, y: &mut Blocks, epilogue: Epilogue<'_>) {
        let isa = Isa::current();
        let (plane, image) = x.strides();
        let (_, y_image) = y.strides();
        let blocks = image / plane;
        let pixels = self.plan.phases[0].pixel_x.len();
        let together = PIXELS.div_ceil(pixels).min(x.batch());
        let in_place = self.plan.in_place();
        let len = self.plan.padded_len();
        let scratch = if in_place { 0 } else { together * blocks * len };
        buffer::scratch(scratch, |padded| {
            for first in (0..x.batch()).step_by(together) {
                let images = together.min(x.batch() - first);
                let source = &x.numbers()[first * image..][..images * image];
                let epilogue = epilogue.starting_at(0, first * y_image);
                if in_place {
                    self.gather((source, image), y, (first, images), epilogue);
                    continue;
                }
                let out = Out::new(padded);
                let planes = images * blocks;
                threads::each_worth(planes, planes * len / LANES, |i| {
                    // SAFETY: this task alone writes the plane.
                    let to = unsafe { std::slice::from_raw_parts_mut(out.at(i * len), len) };
                    let rows = 0..self.plan.padded.0;
                    self.plan.pad(isa, rows, &source[i * plane..][..plane], to);
                });
                let source = (&padded[..], blocks * len);
                self.gather(source, y, (first, images), epilogue);
            }
        });
    }

    /// Computes `images` of `y` from `first` on out of a padded source, given with the numbers of
    /// one of its images.
    fn gather(
        &self,
        (source, image): (&[f32], usize),
        y: &mut Blocks,
        (first, images): (usize, usize),
        epilogue: Epilogue<'_>,
    ) {
        let isa = Isa::current();
        let (y_plane, y_image) = y.strides();
        let blocks = self.filters.div_ceil(LANES);
        let phase = &self.plan.phases[0];
        let pixels = Pixels {
            source: &phase.pixel_x,
            images: (image, y_image),
        };
        let all = images * phase.pixel_x.len();
        let out = Out::new(&mut y.numbers_mut()[first * y_image..]);
        match &self.kind {
            Kind::Dense { taps } => {
                let work = all * blocks * taps.len();
                let (ranges, parts) = split(all, blocks, work);
                let per_range = all.div_ceil(ranges).next_multiple_of(8);
                threads::each(ranges * parts, |task| {
                    let (range, part) = (task / parts, task % parts);
                    let (first, last) = (part * blocks / parts, (part + 1) * blocks / parts);
                    let range = (range * per_range).min(all)..((range + 1) * per_range).min(all);
                    isa.run(Products {
                        x: source.as_ptr(),
                        taps,
                        pixels,
                        range,
                        w: &self.weights[first * taps.len() * LANES..],
                        blocks: last - first,
                        epilogue: epilogue.starting_at(first, first * y_plane),
                        // SAFETY: a task writes its own blocks and pixels.
                        y: unsafe { out.at(first * y_plane) },
                        y_stride: y_plane,
                    });
                });
            }
            Kind::Grouped { taps, starts } => {
                threads::each_worth(blocks, all * taps.len(), |b| {
                    let taps = &taps[starts[b]..starts[b + 1]];
                    isa.run(Products {
                        x: source.as_ptr(),
                        taps,
                        pixels,
                        range: 0..all,
                        w: &self.weights[starts[b] * LANES..],
                        blocks: 1,
                        epilogue: epilogue.starting_at(b, b * y_plane),
                        // SAFETY: a task writes its own block.
                        y: unsafe { out.at(b * y_plane) },
                        y_stride: y_plane,
                    });
                });
            }
            Kind::Depthwise { taps } => {
                let plane = image / blocks;
                threads::each_worth(images * blocks, all * blocks * taps.len(), |i| {
                    let b = i % blocks;
                    isa.run(Depthwise {
                        x: source[i * plane..].as_ptr(),
                        taps,
                        source: &phase.pixel_x,
                        w: &self.weights[b * taps.len() * LANES..],
                        epilogue: epilogue.starting_at(b, i * y_plane),
                        // SAFETY: a task writes its own block of its own image.
                        y: unsafe { out.at(i * y_plane) },
                    });
                });
            }
        }
    }
}

/// Ranges of pixels and parts of blocks to share `work` products of vectors out in.
fn split(pixels: usize, blocks: usize, work: usize) -> (usize, usize) {
    let threads = threads::count();
    if threads == 1 {
        return (1, 1);
    }
    let tasks = (work / TASK).clamp(1, 4 * threads);
    let (tiles, groups) = (pixels.div_ceil(8), blocks.div_ceil(3));
    if pixels <= FEW_PIXELS {
        let parts = tasks.min(groups);
        (tasks.div_ceil(parts).min(tiles), parts)
    } else {
        let ranges = tasks.min(tiles);
        (ranges, tasks.div_ceil(ranges).min(groups))
    }
}

/// Zeros that start on a cache line.
pub(super) fn zeros(len: usize) -> Buffer {
    let mut buffer = Buffer::new(len);
    buffer.fill(0.0);
    buffer
}
