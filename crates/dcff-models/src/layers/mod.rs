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
mod pool;
mod scatter;
mod shortcut;

use std::fmt::Debug;

use candle_core::Tensor;
use dcff_nn::{Activation, Features};
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::architecture::Architecture;
use crate::inference::{Joins, Ready, Readying};
use crate::parameters::ParameterKind;
use crate::plan::Planner;
use crate::program::{Backward, Forward};
use crate::shapes::Shape;
use crate::trace::Saved;
use crate::view::View;

pub use conv::{Conv, Groups};
pub use linear::Linear;
pub use norm::{Norm, fold_norm};
pub use offset::Offset;
pub use pool::Pool;
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
    AvgPool(Pool),
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
            Self::MaxPool(pool) | Self::AvgPool(pool) => pool,
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

/// What an architecture must know of a layer: shapes, parameters, channels, and the step that computes it.
///
/// Messages of errors need no name: whoever asks puts the layer's in front.
pub(crate) trait Rule {
    /// How many inputs it reads; `None` for one or more.
    fn inputs(&self) -> Option<usize> {
        Some(1)
    }

    /// The shape of its output.
    fn shape(&self, architecture: &Architecture, inputs: &[Shape]) -> Result<Shape, String>;

    /// Its tensors' kinds and shapes, where it reads maps of `input`, for the network that keeps the filters of `full` and computes
    /// the widths of `compact`.
    fn parameters(
        &self,
        _full: &Architecture,
        _compact: &Architecture,
        _input: Shape,
    ) -> Vec<(ParameterKind, Vec<usize>)> {
        Vec::new()
    }

    /// The channel space of its output, where that has one, from the one of its first input.
    fn space<'a>(&'a self, read: Option<&'a str>) -> Option<&'a str> {
        read
    }

    /// Whether the channels it reads run on into another space, in the middle of the wider one's.
    fn runs_on(&self) -> bool {
        false
    }

    /// The channels of its output that are left in a narrow network, as indices of the wide one.
    fn kept(&self, channels: &KeptChannels<'_>) -> Result<Vec<usize>, String> {
        Ok(channels.read[0].clone())
    }

    /// Takes what a narrow network keeps of its tensors.
    fn select(&self, _selection: &mut Selection<'_>) -> Result<()> {
        Ok(())
    }

    /// Whether it has parameters that depend on the channels it reads; an error where the first ones of a wide layer's are not those of
    /// a narrow one. Shapes are those of the input and of the output, narrow and wide.
    fn leads(&self, _input: [Shape; 2], _output: [Shape; 2]) -> Result<bool, String> {
        Ok(false)
    }

    /// Whether its output's channels lie side by side from several layers, where its input's do or not.
    fn joined(&self, reads_joined: bool) -> bool {
        reads_joined
    }

    /// The step that computes it; `None` where the addition behind it does so.
    fn plan(&self, planner: &mut Planner<'_>) -> Result<Option<Box<dyn Operation>>>;
}

/// What is left of the channels around a layer when spaces keep some of theirs.
pub(crate) struct KeptChannels<'a> {
    /// Of each of its inputs.
    pub(crate) read: Vec<Vec<usize>>,
    /// Of the spaces, by name.
    pub(crate) space: &'a dyn Fn(&str) -> Option<Vec<usize>>,
    /// The wide shapes that it reads, and that it writes.
    pub(crate) inputs: &'a [Shape],
    pub(crate) output: Shape,
}

impl KeptChannels<'_> {
    /// Those of the space called `name`.
    pub(crate) fn of(&self, name: &str) -> Result<Vec<usize>, String> {
        (self.space)(name).ok_or_else(|| "writes to a space without kept channels".to_owned())
    }
}

/// Replaces the tensor with a suffix by what a function makes of it.
type Change<'a> = dyn FnMut(&str, &dyn Fn(&Tensor) -> Result<Tensor>) -> Result<()> + 'a;

/// A layer's tensors, of which a narrow network keeps a part.
pub(crate) struct Selection<'a> {
    /// The channels that are left of what it reads and writes.
    pub(crate) input: &'a [usize],
    pub(crate) output: &'a [usize],
    /// The wide shape that it reads.
    pub(crate) shape: Shape,
    pub(crate) view: &'a View,
    /// Replaces the tensor with a suffix, where there is one.
    pub(crate) change: &'a mut Change<'a>,
}

/// The entries `ids` of `tensor` along `dim`.
pub(crate) fn take(tensor: &Tensor, ids: &[usize], dim: usize) -> Result<Tensor> {
    let ids: Vec<u32> = ids.iter().map(|&id| id as u32).collect();
    Ok(tensor.index_select(&Tensor::new(ids, tensor.device())?, dim)?)
}

/// A convolution's tensors, as positions in the network's list.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FilterTensors {
    pub(crate) weight: usize,
    pub(crate) bias: Option<usize>,
}

/// Running statistics, as positions in the network's list, and the weight of a new value.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RunningStatistics {
    pub(crate) mean: usize,
    pub(crate) var: usize,
    pub(crate) momentum: f64,
}

/// A step: one call of a kernel, its gradient, and what becomes of it in a finished network.
pub(crate) trait Operation: Debug + Send + Sync {
    /// The output, and what the gradient needs.
    fn forward(&self, at: Forward<'_>) -> Result<(Features, Saved)>;

    /// The gradients of the inputs, the first of them added to the sum that is given to a convolution.
    fn backward(&self, at: Backward<'_, '_>) -> Result<Vec<Option<Features>>>;

    /// The tensors that a view chooses from: those of a convolution.
    fn filters(&self) -> Option<FilterTensors> {
        None
    }

    /// The statistics that training passes move.
    fn statistics(&self) -> Option<RunningStatistics> {
        None
    }

    /// Which of its inputs may be a convolution that it is computed together with in a finished network.
    fn joins(&self) -> Joins {
        Joins::Nothing
    }

    /// The same for a finished network.
    fn ready(&self, at: Readying<'_>) -> Result<Ready>;
}
