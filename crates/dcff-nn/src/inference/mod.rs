//! Layers of a finished network: channels side by side, weights packed once, batch norm folded away.
//!
//! Training works on sixteen images at a time; a program that classifies has one, or a few. Here
//! the sixteen lanes are channels instead: [`Maps`] are `[N, ceil(C / 16), H, W, 16]`, the layout
//! that oneDNN calls `nChw16c`. A pixel's inputs are broadcast one by one and meet the weights of
//! sixteen filters,
//!
//! ```text
//! y[p, o..o+16] = act(b[o..o+16] + r[p, o..o+16] + Σ_k x[pixel p, tap k] w[k, o..o+16])
//! ```
//!
//! so one register tile serves every kernel, stride and number of images, and the products of
//! Winograd's transforms. Bias, residual and activation cost no pass of their own. [`Conv`] holds
//! the weights in that order; a linear layer is a convolution whose kernel is as large as its map.
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
pub use maps::{Maps, activation, add, avg_pool2d, concat, global_avg_pool, max_pool2d, shortcut};
