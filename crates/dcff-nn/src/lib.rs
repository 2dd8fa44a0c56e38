//! Training layers for Candle with their own kernels, on the CPU and on NVIDIA GPUs.
//!
//! Convolution, batch norm with activation and residual, pooling, the parameter-free shortcut,
//! linear and softmax cross-entropy, each with a forward and an explicit
//! backward function, so that a caller can run a reverse sweep over a network it knows. The same
//! layers wait in [`tape`] as candle custom operations for who uses candle's autograd.
//! The optimisers SGD with momentum, Adamax and AdamW change many tensors in one sweep.
//!
//! Feature maps travel as [`Features`], whose layout belongs to the device: on the CPU, sixteen
//! images lie side by side, `[ceil(N / 16), C, H, W, 16]`, so that every kernel works on whole
//! vectors whatever the number of channels and the size of the map, and neighbouring pixels are
//! neighbouring vectors. Parameters and statistics are plain `f32` tensors.
//!
//! Maps are stored in `f32` or, at half the memory and half the traffic, in bfloat16
//! ([`Precision`]); whatever is computed or summed is `f32` or wider, and rounded once when stored.
//!
//! 3x3 convolutions of stride 1 go through Winograd's transforms, whose error is two to five times
//! that of direct sums, about 1e-6 of the result; [`Convolution::Direct`] in a [`ConvConfig`] does without.
//!
//! On NVIDIA GPUs (feature `cuda`) the same functions work on `[N, H, W, C]`; [`DeviceChoice`] says
//! which device a user means, [`configure`] how it computes.
//!
//! The kernels use AVX-512, AVX2, NEON or portable code, chosen when the program runs ([`Isa`]),
//! and rayon's current thread pool. Results do not depend on the number of threads, to the bit.
//!
//! This crate deliberately does not know networks, parameter names, datasets or epochs.
//!
//! ```
//! use candle_core::{Device, Tensor};
//! use dcff_nn::{Activation, ConvConfig, Features};
//!
//! let images = Tensor::ones((2, 3, 8, 8), candle_core::DType::F32, &Device::Cpu)?;
//! let x = Features::from_nchw(&images)?;
//! let w = Tensor::ones((4, 3, 3, 3), candle_core::DType::F32, &Device::Cpu)?;
//! let y = dcff_nn::conv2d(&x, &w, None, ConvConfig { padding: 1, ..Default::default() })?;
//! let y = dcff_nn::activation(&y, Activation::Relu)?;
//! assert_eq!(y.dims(), (2, 4, 8, 8));
//! # Ok::<(), candle_core::Error>(())
//! ```

mod activation;
mod adam;
mod adamax;
mod adamw;
mod args;
mod bf16;
mod buffer;
mod conv;
mod cpu;
mod device;
mod distances;
mod element;
mod elementwise;
mod features;
mod filter_source;
mod filters;
mod gemm;
mod gpu;
mod hash;
pub mod inference;
mod linear;
mod loss;
mod mix;
mod norm;
mod offset;
mod pool;
mod repeat;
mod resize;
mod scatter;
mod sgd;
mod shortcut;
mod sweep;
pub mod tape;
mod threads;

pub use activation::Activation;
pub use adam::AdamConfig;
pub use adamax::{adamax_rates, adamax_steps};
pub use adamw::{adamw_rates, adamw_steps};
pub use args::without_backtrace;
pub use buffer::release_memory;
pub use conv::{
    ConvConfig, ConvGrads, Convolution, InputGradient, conv2d, conv2d_backward,
    conv2d_backward_prepared, conv2d_prepared,
};
pub use cpu::Isa;
pub use device::DeviceChoice;
pub use distances::filter_distances;
pub use element::{LANES, Precision};
pub use elementwise::{accumulate, activation, activation_backward, add, concat, split_channels};
pub use features::{Features, flatten, unflatten};
pub use filter_source::FilterSource;
pub use filters::Filters;
pub use gemm::gemm_limit;
#[cfg(feature = "emulator")]
pub use gpu::emulator;
pub use gpu::{ByteImages, Change, DeviceSettings, configure, device_name, launches, synchronize};
pub use hash::fnv1a;
pub use linear::{LinearGrads, linear, linear_backward};
pub use loss::{Loss, LossNumbers, LossValue, cross_entropy};
pub use mix::{mix, mix_backward};
pub use norm::{
    BatchStatistics, Blend, NormGrads, batch_norm, batch_norm_backward, batch_norm_inference, blend,
};
pub use offset::{Border, offset, offset_backward};
pub use pool::{
    MaxIndices, PoolConfig, avg_pool2d, avg_pool2d_backward, global_avg_pool,
    global_avg_pool_backward, max_pool2d, max_pool2d_backward,
};
pub use repeat::{Repeated, RepeatedStep};
pub use resize::resize;
pub use scatter::{scatter, scatter_backward};
pub use sgd::{SgdConfig, sgd_step, sgd_steps};
pub use shortcut::{shortcut, shortcut_backward};
pub use threads::awake;
