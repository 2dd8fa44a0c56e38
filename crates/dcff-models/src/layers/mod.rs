//! Layer kinds, one file each: what an architecture must know of a kind ([`Rule`]), and the step that computes it
//! ([`Operation`]), forward, backward and prepared for inference.
//!
//! A new kind is a variant of [`LayerKind`] with a line in [`LayerKind::rule`] and a file here; its kernels are in `dcff-nn`.
//! Cost counting and exports match on the kinds where they are, and the compiler names them.

mod activation;
mod add;
mod concat;
mod conv;
mod linear;
mod norm;
mod offset;
mod operation;
mod pool;
mod rule;
mod scatter;
mod shortcut;

use dcff_nn::Activation;
use serde::{Deserialize, Serialize};

use rule::Rule;

pub use conv::{Conv, Groups};
pub use linear::Linear;
pub use norm::{Norm, fold_norm};
pub use offset::Offset;
pub(crate) use operation::{
    Backward, FilterTensors, Forward, Joins, Operation, Plain, Prepared, Ready, Readying, RunLayer,
    Step, Sweep, Within, lies,
};
pub use pool::{AvgPool, Pool};
pub(crate) use rule::{KeptChannels, Planner, Selection, take};
pub use scatter::Scatter;
pub use shortcut::Shortcut;

/// What a layer computes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum LayerKind {
    /// Two-dimensional convolution.
    Conv(Conv),
    /// Batch normalisation over `[N, H, W]`, one scale and shift per channel.
    Norm(Norm),
    /// An element-wise function.
    Activation {
        /// Which one.
        function: Activation,
    },
    /// The maximum of each window.
    MaxPool(Pool),
    /// The mean of each window, padding counted.
    AvgPool(AvgPool),
    /// The mean of each channel: `[N, C, H, W]` to `[N, C, 1, 1]`.
    GlobalAvgPool,
    /// An affine map of the flattened input.
    Linear(Linear),
    /// The sum of two inputs of one shape.
    Add,
    /// The inputs side by side along the channels.
    Concat,
    /// The parameter-free shortcut of CIFAR ResNets ("option A"): every `stride`-th pixel, channels padded with zeros.
    Shortcut(Shortcut),
    /// Few channels put at their places among many, the others zero: what is left of a branch, for a stream of full width.
    Scatter(Scatter),
    /// A number added to every channel, or to every pixel's place relative to the border: what removed channels contributed.
    Offset(Offset),
}

impl LayerKind {
    pub(crate) fn rule(&self) -> &dyn Rule {
        match self {
            Self::Conv(conv) => conv,
            Self::Norm(norm) => norm,
            Self::Activation { function } => function,
            Self::MaxPool(pool) => pool,
            Self::AvgPool(pool) => pool,
            Self::GlobalAvgPool => &pool::GlobalAvg,
            Self::Linear(linear) => linear,
            Self::Add => &add::Add,
            Self::Concat => &concat::Concat,
            Self::Shortcut(shortcut) => shortcut,
            Self::Scatter(scatter) => scatter,
            Self::Offset(offset) => offset,
        }
    }
}
