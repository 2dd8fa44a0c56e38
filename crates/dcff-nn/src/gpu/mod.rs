//! The layers on GPUs: the same operations by kernels of our own, compiled when the program runs.
//!
//! Maps lie channels-last, `[N, H, W, C]`, in single precision or in bfloat16, in memory that waits between steps to
//! be used again. Parameters, statistics, gradients of parameters and the loss are candle tensors in single precision.
//!
//! The kernels' text (`kernels/*.cu`) is one for GPUs and for tests: the feature `cuda` compiles it for the GPU
//! through NVRTC, the feature `emulator` with a C++ compiler for the processor. What runs kernels is a [`Machine`];
//! everything else here, sizes of launches included, knows none in particular, so that it can be tested without a
//! GPU. All launches of a device go to one stream, one after the other.

mod conv;
#[cfg(feature = "cuda")]
mod cuda;
mod descent;
mod distances;
#[cfg(feature = "emulator")]
pub mod emulator;
mod filters;
mod handle;
mod kernel;
mod machine;
mod maps;
mod memory;
mod norm;
mod offset;
mod open;
mod parameters;
mod pool;
mod settings;
mod sizes;
mod train;

pub(crate) use conv::{conv2d, conv2d_backward};
#[cfg(feature = "cuda")]
pub(crate) use cuda::open as open_cuda;
pub(crate) use descent::{AdamNumbers, SgdNumbers, adamax, adamw, sgd};
pub(crate) use distances::filter_distances;
pub(crate) use filters::{GpuFilters, prepare_filters};
pub(crate) use handle::Gpu;
pub(crate) use machine::Recorded;
pub(crate) use maps::{
    Maps, Rule, accumulate, concat, elementwise, shortcut, shortcut_backward, split_channels,
};
pub(crate) use memory::Reserved;
pub(crate) use norm::{batch_norm, batch_norm_backward, batch_norm_inference};
pub(crate) use offset::{offset, offset_backward, scatter, scatter_backward};
pub use open::{configure, device_name, launches, synchronize};
pub(crate) use pool::{
    Taps, avg_pool2d, avg_pool2d_backward, global_avg_pool, global_avg_pool_backward, max_pool2d,
    max_pool2d_backward,
};
pub use settings::DeviceSettings;
pub use train::{ByteImages, Change};
pub(crate) use train::{GpuLoss, blend, cross_entropy};
