//! Prepared 3x3 convolution of stride 1 with Winograd's transforms.
//!
//! The transforms are those of training, whose lanes are images: here a block of channels takes
//! the place of a channel, and an image that of a group.

use super::Channels;
use super::direct::zeros;
use super::kernel::{Pixels, Products};
use super::maps::Blocks;
use crate::buffer::{self, Buffer};
use crate::conv::Sizes;
use crate::conv::epilogue::Epilogue;
use crate::conv::winograd::{Grid, Input, Output, Position, SKEW, Weight};
use crate::cpu::Isa;
use crate::element::LANES;
use crate::threads::{self, Out};

/// Tiles of a task at most, and bytes of their transforms that the second-level cache keeps.
const TILES: usize = 64;
const NEAR: usize = 1024 * 1024;

/// Weights `[point, blocks, C_in, 16]` for tiles of `M x M` outputs.
pub(super) struct Winograd<const M: usize> {
    sizes: Sizes,
    padding: usize,
    channels: Channels,
    weights: Buffer,
    point_stride: usize,
}

impl<const M: usize> Winograd<M> {
    const POINTS: usize = (M + 2) * (M + 2);

    /// Transforms `w` `[C_out, C_in, 3, 3]` for inputs that lie as `channels` says.
    pub(super) fn new(sizes: Sizes, padding: usize, channels: &Channels, w: &[f32]) -> Self {
        let (isa, from, to) = (Isa::current(), sizes.c_in, sizes.c_out);
        let blocks = to.div_ceil(LANES);
        let point_stride = blocks * from * LANES;
        let mut weights = zeros(Self::POINTS * point_stride);
        let out = Out::new(&mut weights);
        for b in 0..blocks {
            for c in 0..from {
                let mut kernels = [0f32; 9 * LANES];
                for (lane, o) in (b * LANES..to.min((b + 1) * LANES)).enumerate() {
                    for i in 0..9 {
                        kernels[i * LANES + lane] = w[(o * from + c) * 9 + i];
                    }
                }
                isa.run(Weight::<M> {
                    w: kernels,
                    // SAFETY: room for every point of every block and channel.
                    out: unsafe { out.at((b * from + c) * LANES) },
                    point_stride,
                });
            }
        }
        Self {
            sizes,
            padding,
            channels: channels.clone(),
            weights,
            point_stride,
        }
    }

    /// Computes all of `y`.
    pub(super) fn run(&self, x: &Blocks, y: &mut Blocks, epilogue: Epilogue<'_>) {
        let isa = Isa::current();
        let (from, to) = (self.channels.blocks(), self.sizes.c_out.div_ceil(LANES));
        let grid = Grid {
            source: self.sizes.input,
            target: self.sizes.output,
            padding: self.padding,
            m: M,
        };
        let tiles = grid.tiles() * x.batch();
        let bytes = Self::POINTS * (from + to) * LANES * size_of::<f32>();
        let size = (NEAR / bytes)
            .clamp(8, TILES)
            .min(tiles.div_ceil(threads::count()))
            .next_multiple_of(8)
            .min(tiles.next_multiple_of(2));
        let taps: Vec<u32> = self
            .channels
            .places()
            .map(|(block, lane)| (block * size * LANES + lane) as u32)
            .collect();
        let near: [u32; TILES] = std::array::from_fn(|i| i as u32);
        let (y_plane, y_image) = y.strides();
        let (x_plane, x_image) = x.strides();
        let out = Out::new(y.numbers_mut());
        let (in_stride, out_stride) = (from * size * LANES + SKEW, to * size * LANES + SKEW);
        threads::each(tiles.div_ceil(size), |task| {
            let first = task * size;
            let count = size.min(tiles - first);
            let positions: [Position; TILES] =
                std::array::from_fn(|t| grid.position((first + t).min(tiles - 1)));
            buffer::scratch(Self::POINTS * (in_stride + out_stride), |scratch| {
                let (v, m) = scratch.split_at_mut(Self::POINTS * in_stride);
                isa.run(Input::<f32, M, 0> {
                    x: x.numbers().as_ptr(),
                    strides: (x_plane, x_image),
                    channels: from,
                    grid,
                    tiles: &positions[..count],
                    out: v.as_mut_ptr(),
                    channel_stride: size * LANES,
                    point_stride: in_stride,
                });
                for point in 0..Self::POINTS {
                    isa.run(Products {
                        x: v[point * in_stride..].as_ptr(),
                        taps: &taps,
                        pixels: Pixels {
                            source: &near[..size],
                            images: (0, 0),
                        },
                        range: 0..count,
                        w: &self.weights[point * self.point_stride..][..self.point_stride],
                        blocks: to,
                        epilogue: Epilogue::NOTHING,
                        y: m[point * out_stride..].as_mut_ptr(),
                        y_stride: size * LANES,
                    });
                }
                isa.run(Output::<f32, M> {
                    m: m.as_ptr(),
                    channel_stride: size * LANES,
                    point_stride: out_stride,
                    channels: to,
                    epilogue,
                    grid,
                    tiles: &positions[..count],
                    // SAFETY: a task writes its own tiles.
                    y: unsafe { out.at(0) },
                    strides: (y_plane, y_image),
                    stream: false,
                });
            });
        });
    }
}
