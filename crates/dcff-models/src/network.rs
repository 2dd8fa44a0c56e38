//! A network as most callers want it: weights, one program over them, and how its passes run.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use candle_core::{Device, Tensor};
use dcff_nn::{Convolution, Features, Precision};

use crate::architecture::{Architecture, Layer};
use crate::layers::{FilterTensors, Step};
use crate::parameter::Parameter;
use crate::profile::Profile;
use crate::program::{Blend, Program};
use crate::shapes::Shapes;
use crate::trace::{Gradients, How, Mode, Seeds, Trace};
use crate::view::{View, Views};
use crate::weights::Weights;
use crate::{Error, Result};

/// A network with its parameters on a device.
///
/// It keeps the filters of one architecture (`full`) and computes the widths of another (`compact`, the same
/// narrowed); views say how the one becomes the other. With equal architectures it is a plain network.
///
/// It is [`Weights`] and a [`Program`] with the settings of its passes; who runs several programs over the same weights takes
/// the parts ([`Network::weights`], [`Network::program`]).
#[derive(Debug)]
pub struct Network {
    weights: Weights,
    program: Program,
    /// Of feature maps in training passes.
    precision: Precision,
    convolution: Convolution,
    profile: Option<Arc<Profile>>,
}

impl Network {
    /// A network that keeps the filters of `full` and computes the widths of `compact`, with initial weights drawn
    /// from `seed`.
    ///
    /// # Errors
    /// When `compact` is not `full` narrowed, or the device fails.
    pub fn new(
        full: &Architecture,
        compact: &Architecture,
        seed: u64,
        device: &Device,
    ) -> Result<Self> {
        let weights = Weights::new(full, compact, seed, device)?;
        Ok(Self {
            program: Program::new(compact, &weights)?,
            weights,
            precision: Precision::F32,
            convolution: Convolution::Fast,
            profile: None,
        })
    }

    /// The same network with weights of its own: training one leaves the other as it is.
    ///
    /// # Errors
    /// Those of allocating a tensor.
    pub fn deep_copy(&self) -> Result<Self> {
        Ok(Self {
            weights: self.weights.deep_copy()?,
            program: self.program.clone(),
            precision: self.precision,
            convolution: self.convolution,
            profile: self.profile.clone(),
        })
    }

    /// Its weights.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// Its weights, to be moved by a step of gradient descent or [`Program::update_statistics`].
    pub fn weights_mut(&mut self) -> &mut Weights {
        &mut self.weights
    }

    /// Its program, of the widths of [`Network::compact`].
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// How its passes run in `mode`.
    pub fn how(&self, mode: Mode) -> How<'_> {
        How {
            mode,
            precision: match mode {
                Mode::Train => self.precision,
                Mode::Eval | Mode::Frozen => Precision::F32,
            },
            taps: &[],
            profile: self.profile.as_ref(),
            convolution: self.convolution,
        }
    }

    /// What feature maps and their gradients are stored in during training; at first [`Precision::F32`].
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Sets what feature maps and their gradients are stored in during training. Parameters, their gradients, statistics
    /// and logits stay `f32`, and so does everything in [`Mode::Eval`]: a network is evaluated as it will be used.
    pub fn set_precision(&mut self, precision: Precision) {
        self.precision = precision;
    }

    /// Which algorithms convolutions may use on the CPU; at first [`Convolution::Fast`].
    pub fn convolution(&self) -> Convolution {
        self.convolution
    }

    /// Sets which algorithms convolutions may use on the CPU, here and in the networks that are made from this one.
    pub fn set_convolution(&mut self, convolution: Convolution) {
        self.convolution = convolution;
    }

    /// Books the time of every layer of the passes to come in `profile`; `None` stops that.
    pub fn set_profile(&mut self, profile: Option<Arc<Profile>>) {
        self.profile = profile;
    }

    /// The architecture whose filters are kept.
    pub fn full(&self) -> &Architecture {
        self.weights.full()
    }

    /// The architecture whose widths are computed.
    pub fn compact(&self) -> &Architecture {
        self.program.architecture()
    }

    /// The device of the parameters.
    pub fn device(&self) -> &Device {
        self.weights.device()
    }

    /// The order of work.
    pub(crate) fn steps(&self) -> &[Step] {
        self.program.steps()
    }

    /// The shapes of all maps.
    pub(crate) fn shapes(&self) -> &Shapes {
        self.program.shapes()
    }

    /// All tensors' names, kinds and shapes.
    pub fn parameters(&self) -> &[Parameter] {
        self.weights.parameters()
    }

    /// The tensor at `index` of [`Network::parameters`].
    pub fn tensor(&self, index: usize) -> &Tensor {
        self.weights.tensor(index)
    }

    /// The tensor called `name`, for example `conv1.weight`.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.weights.get(name)
    }

    /// All tensors under PyTorch's state-dict keys; see [`Weights::state`].
    ///
    /// # Errors
    /// Those of allocating a tensor.
    pub fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        self.weights.state()
    }

    /// Replaces all tensors by copies of those in `state`; see [`Weights::load`].
    ///
    /// # Errors
    /// On a missing, unknown or wrongly shaped tensor; the network is then unchanged.
    pub fn load(&mut self, state: &HashMap<String, Tensor>) -> Result<()> {
        self.weights.load(state)
    }

    /// Training batches seen, PyTorch's `num_batches_tracked`.
    pub fn batches_tracked(&self) -> i64 {
        self.weights.batches_tracked()
    }

    /// Sets [`Network::batches_tracked`], for steps that a GPU repeats without [`Network::update_statistics`].
    pub fn set_batches_tracked(&mut self, batches: i64) {
        self.weights.set_batches_tracked(batches);
    }

    /// Logits `[N, classes]` of normalised images `[N, C, H, W]`.
    ///
    /// # Errors
    /// When the images' size is not the architecture's, a view's width not that of the compact architecture, or the device fails.
    pub fn forward(&self, images: &Tensor, views: &Views, mode: Mode) -> Result<(Tensor, Trace)> {
        self.forward_observed(images, views, mode, |_, _| Ok(()))
    }

    /// As [`Network::forward`]; before each layer is computed, `observe` is shown it and the maps it reads (of several, the
    /// first), even those that evaluation drops later.
    ///
    /// # Errors
    /// As [`Network::forward`], and those of `observe`.
    pub fn forward_observed<E: From<Error>>(
        &self,
        images: &Tensor,
        views: &Views,
        mode: Mode,
        observe: impl FnMut(&Layer, &Features) -> Result<(), E>,
    ) -> Result<(Tensor, Trace), E> {
        self.check_views(views)?;
        let how = self.how(mode);
        let trace = self
            .program
            .forward_observed(&self.weights, views, images, &how, observe)?;
        Ok((trace.logits().clone(), trace))
    }

    /// Fails where a view is missing: a program would take the first filters, and here that is a mistake.
    ///
    /// # Errors
    /// The first convolution that keeps more filters than it computes and has no view.
    pub fn check_views(&self, views: &Views) -> Result<()> {
        for step in self.steps() {
            let Some(FilterTensors { weight, .. }) = step.operation.filters() else {
                continue;
            };
            let name = &self.compact().layers[step.layer].name;
            let (expected, filters) = (
                self.shapes().output(step.layer).channels,
                self.parameters()[weight].shape[0],
            );
            if matches!(views.get(name), View::Dense) && filters != expected {
                return Err(Error::layer(
                    name,
                    format!("expected a view of {expected} filters, got {filters}"),
                ));
            }
        }
        Ok(())
    }

    /// Moves the running statistics towards those of a training pass.
    ///
    /// # Errors
    /// Those of the tensor operations.
    pub fn update_statistics(&mut self, trace: &Trace) -> Result<()> {
        self.move_statistics(trace, Blend::Momentum)
    }

    /// As [`Network::update_statistics`], moved as `blend` says.
    ///
    /// # Errors
    /// Those of the tensor operations.
    pub fn move_statistics(&mut self, trace: &Trace, blend: Blend) -> Result<()> {
        self.program
            .update_statistics(&mut self.weights, trace, blend)
    }

    /// The gradients of all trained parameters from that of the logits, `[N, classes]`.
    ///
    /// # Errors
    /// When the trace is of an evaluation, or the device fails.
    pub fn backward(&self, trace: Trace, views: &Views, logits: &Tensor) -> Result<Gradients> {
        let mut gradients = Gradients::new(self.parameters());
        let seeds = Seeds::from(logits.clone());
        self.program
            .backward(&self.weights, views, trace, seeds, &mut gradients)?;
        Ok(gradients)
    }

    /// The plain compact network that computes what this one computes through `views`.
    ///
    /// # Errors
    /// When a view's width is not that of the compact architecture.
    pub fn collapse(&self, views: &Views) -> Result<Self> {
        self.check_views(views)?;
        let mut plain = self.program.extract(&self.weights, views)?;
        plain.convolution = self.convolution;
        Ok(plain)
    }
}

impl Program {
    /// The plain network of this program's widths and input size that computes what the program computes over `weights` through
    /// `views`, with tensors of its own.
    ///
    /// # Errors
    /// When a view's width is not that of its layer, or the device fails.
    pub fn extract(&self, weights: &Weights, views: &Views) -> Result<Network> {
        let architecture = self.architecture();
        let mut plain = Network::new(architecture, architecture, 0, weights.device())?;
        let mut set = |index: usize, tensor: Tensor| -> Result<()> {
            // A copy: gradient descent goes on in place.
            plain.weights.replace(index, tensor.copy()?);
            Ok(())
        };
        for (index, parameter) in weights.parameters().iter().enumerate() {
            if !parameter.kind.is_filters() {
                set(index, self.part(weights, index)?)?;
            }
        }
        for step in self.steps() {
            if let Some(FilterTensors { weight, bias }) = step.operation.filters() {
                let (w, b) = self.effective(weights, step.layer, weight, bias, views)?;
                set(weight, w)?;
                if let (Some(bias), Some(b)) = (bias, b) {
                    set(bias, b)?;
                }
            }
        }
        plain.weights.set_batches_tracked(weights.batches_tracked());
        Ok(plain)
    }
}
