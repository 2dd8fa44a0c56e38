//! The step that computes a layer: what it is given, and what it leaves, forward, backward and in a finished network.

use std::fmt::Debug;
use std::sync::Arc;

use candle_core::Tensor;
use dcff_nn::inference::{Channels, Maps};
use dcff_nn::{Activation, ConvConfig, Convolution, Features, Filters};

use crate::profile::Profile;
use crate::shape::Shape;
use crate::trace::{How, Mode, Saved, Trace, Value, ViewGradients};
use crate::view::Views;
use crate::{Error, Result, internal};

/// One call of a kernel.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) operation: Arc<dyn Operation>,
    /// The layer whose parameters are used.
    pub(crate) layer: usize,
    pub(crate) inputs: Vec<Value>,
    /// The layer whose output this is: behind `layer` where several were joined.
    pub(crate) output: usize,
}

/// What a step may ask of the program that it belongs to, and of the weights.
pub(crate) trait Within {
    /// The tensor at `index` of the network's list.
    fn whole(&self, index: usize) -> &Tensor;

    /// The part of it that is read.
    ///
    /// # Errors
    /// Those of the tensor operations.
    fn part(&self, index: usize) -> Result<Tensor>;

    /// The shapes that the layer at a position reads.
    fn read(&self, layer: usize) -> &[Shape];

    /// The name of the layer at a position.
    fn name(&self, layer: usize) -> &str;
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

/// A convolution's effective filters and bias.
pub(crate) type Prepared = (Filters, Option<Tensor>);

/// What backward steps read, and where they leave the gradients of parameters and views.
pub(crate) struct Sweep<'a> {
    pub(crate) views: &'a Views,
    pub(crate) convolution: Convolution,
    pub(crate) profile: Option<Arc<Profile>>,
    pub(crate) parameters: Vec<(usize, Tensor)>,
    pub(crate) of_views: ViewGradients,
}

/// What a step's forward pass may read.
pub(crate) struct Forward<'a> {
    pub(crate) within: &'a dyn Within,
    pub(crate) step: &'a Step,
    pub(crate) trace: &'a Trace,
    pub(crate) filters: Option<Prepared>,
    pub(crate) how: &'a How<'a>,
}

impl<'a> Forward<'a> {
    /// The maps of an input.
    pub(crate) fn x(&self, input: usize) -> Result<&'a Features> {
        self.trace.value(self.step.inputs[input])
    }

    /// The part of the parameter at `index` that is read.
    pub(crate) fn part(&self, index: usize) -> Result<Tensor> {
        self.within.part(index)
    }

    /// `saved` where the backward sweep will need it.
    pub(crate) fn if_kept(&self, saved: Saved) -> Saved {
        match self.how.mode {
            Mode::Eval => Saved::Nothing,
            Mode::Train | Mode::Frozen => saved,
        }
    }
}

/// What a step's backward pass reads, and where it leaves gradients.
pub(crate) struct Backward<'a, 's> {
    pub(crate) within: &'a dyn Within,
    pub(crate) step: &'a Step,
    pub(crate) trace: &'a Trace,
    pub(crate) saved: Saved,
    /// The gradient of the output.
    pub(crate) dy: Features,
    /// What other readers of a convolution's input gave.
    pub(crate) sum: Option<Features>,
    pub(crate) sweep: &'a mut Sweep<'s>,
}

impl<'a> Backward<'a, '_> {
    /// The maps of the first input.
    pub(crate) fn x(&self) -> Result<&'a Features> {
        self.trace.value(self.step.inputs[0])
    }

    /// The output.
    pub(crate) fn y(&self) -> Result<&'a Features> {
        self.trace.value(Some(self.step.output))
    }

    /// What the forward pass saved.
    pub(crate) fn saved(&mut self) -> Saved {
        std::mem::replace(&mut self.saved, Saved::Nothing)
    }

    pub(crate) fn untraced(&self) -> Error {
        internal("the backward sweep needs the trace of a training pass")
    }

    /// `(N, C, H, W)` of an input.
    pub(crate) fn input_dims(&self, input: usize) -> (usize, usize, usize, usize) {
        let shape = self.within.read(self.step.layer)[input];
        (self.dy.batch(), shape.channels, shape.height, shape.width)
    }

    /// The part of the parameter at `index` that is read.
    pub(crate) fn part(&self, index: usize) -> Result<Tensor> {
        self.within.part(index)
    }

    /// The name of the layer whose parameters are used.
    pub(crate) fn layer(&self) -> &'a str {
        self.within.name(self.step.layer)
    }
}

/// From a step's inputs to its output.
pub(crate) type RunLayer = dyn Fn(&[&Maps]) -> candle_core::Result<Maps> + Send + Sync;

/// A convolution as it will be prepared.
pub(crate) struct Plain {
    pub(crate) weight: Tensor,
    pub(crate) bias: Option<Tensor>,
    pub(crate) config: ConvConfig,
    pub(crate) activation: Activation,
}

/// Which of a step's inputs may be a convolution that is computed together with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Joins {
    /// None.
    Nothing,
    /// The first.
    First,
    /// Any one; the other is what is added.
    Any,
}

/// What a step is in a finished network.
pub(crate) enum Ready {
    /// A convolution, perhaps with what follows.
    Conv(Plain),
    /// Something else, and where the channels of its output lie.
    Layer(Box<RunLayer>, Channels),
}

impl Ready {
    pub(crate) fn layer(
        lie: Channels,
        run: impl Fn(&[&Maps]) -> candle_core::Result<Maps> + Send + Sync + 'static,
    ) -> Self {
        Self::Layer(Box::new(run), lie)
    }
}

/// What a step may read of a finished network when it is made ready.
pub(crate) struct Readying<'a> {
    pub(crate) within: &'a dyn Within,
    pub(crate) step: &'a Step,
    /// The convolution that is computed together with it, whose input is now the first.
    pub(crate) folded: Option<Plain>,
    pub(crate) inputs: &'a [Value],
    /// Where the channels of the images lie, and of the layers' outputs.
    pub(crate) images: &'a Channels,
    pub(crate) channels: &'a [Option<Channels>],
}

impl Readying<'_> {
    /// Where the channels of an input lie.
    pub(crate) fn lies(&self, input: usize) -> Result<Channels> {
        lies(self.images, self.channels, self.inputs[input])
    }
}

/// Where the channels of `value` lie.
pub(crate) fn lies(
    images: &Channels,
    channels: &[Option<Channels>],
    value: Value,
) -> Result<Channels> {
    match value {
        None => Ok(images.clone()),
        Some(value) => channels[value]
            .clone()
            .ok_or_else(|| internal("a value is read before it is there")),
    }
}
