//! Layers of a finished network: weights packed once, batch norm folded away, no pass of its own
//! for bias, residual and activation.
//!
//! Training works on sixteen images at a time, and so does this module where there are sixteen. A
//! program that classifies often has one, or a few. For those the sixteen lanes are channels:
//! maps lie as `[N, ceil(C / 16), H, W, 16]`, which oneDNN calls `nChw16c`. A pixel's inputs are
//! broadcast one by one and meet the weights of sixteen filters,
//!
//! ```text
//! y[p, o..o+16] = act(b[o..o+16] + r[p, o..o+16] + Σ_k x[pixel p, tap k] w[k, o..o+16])
//! ```
//!
//! so one register tile serves every kernel, stride and number of images, and the products of
//! Winograd's transforms. [`Conv`] holds the weights in that order; a linear layer is a convolution
//! whose kernel is as large as its map.
//!
//! What does not mix channels (pooling, sums, transforms) uses the kernels of training as they are:
//! to them `[N, C / 16, H, W, 16]` is a batch of `16 N` images with `C / 16` channels.

mod channels;
mod chunks;
mod conv;
mod depthwise;
mod direct;
mod kernel;
mod maps;
mod winograd;

pub use channels::Channels;
pub use chunks::{Load, in_chunks};
pub use conv::Conv;
pub use maps::{
    Maps, Places, activation, add, avg_pool2d, concat, global_avg_pool, max_pool2d, offset,
    scatter, shortcut,
};
