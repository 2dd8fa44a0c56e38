//! The runnable network: forward through views, and the explicit reverse sweep.
//!
//! The graph is static, so the gradient is not recorded on a tape: each step knows its inverse, intermediate
//! maps are dropped as soon as the sweep has passed them, and a value read once costs no addition.

use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use candle_core::{Device, Tensor};
use dcff_nn::{
    Activation, BatchStatistics, Blend, Features, Filters, InputGradient, MaxIndices, Precision,
};

use crate::architecture::{Architecture, Layer, LayerKind};
use crate::initialisation::initial_values;
use crate::parameters::{Parameter, ParameterKind, parameters};
use crate::plan::{Operation, Step, Value, steps};
use crate::profile::{Pass, Profile};
use crate::shapes::Shapes;
use crate::view::{View, Views};
use crate::{Error, Result};

/// How batch norm behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Statistics of the batch; everything the backward sweep needs is kept.
    Train,
    /// Running statistics; maps are dropped after their last use.
    Eval,
    /// Running statistics as constants; everything the backward sweep needs is kept. The gradients are those of the
    /// network as it is evaluated. In training mode a filter's gradient is orthogonal to it, because batch norm undoes
    /// its length.
    Frozen,
}

/// A network with its parameters on a device.
///
/// It keeps the filters of one architecture (`full`) and computes the widths of another (`compact`, the same
/// narrowed); views say how the one becomes the other. With equal architectures it is a plain network.
#[derive(Clone, Debug)]
pub struct Network {
    full: Architecture,
    compact: Architecture,
    shapes: Shapes,
    steps: Vec<Step>,
    last_use: Vec<usize>,
    parameters: Vec<Parameter>,
    tensors: Vec<Tensor>,
    index: HashMap<String, usize>,
    /// Training batches seen, PyTorch's `num_batches_tracked`.
    batches_tracked: i64,
    /// Of feature maps in training passes.
    precision: Precision,
    profile: Option<Arc<Profile>>,
    device: Device,
}

/// What a forward pass leaves behind for the backward sweep and for probes.
#[derive(Debug)]
pub struct Trace {
    image: Features,
    values: Vec<Option<Features>>,
    saved: Vec<Saved>,
}

/// A convolution's effective filters and bias.
type Prepared = (Filters, Option<Tensor>);

#[derive(Debug)]
enum Saved {
    Nothing,
    Filters(Filters),
    Statistics(BatchStatistics),
    /// Running statistics, which do not depend on the batch.
    Constants(BatchStatistics),
    Indices(MaxIndices),
    Rows(Tensor),
}

/// The gradients of a network's trained parameters, in the order of [`Network::parameters`].
#[derive(Clone, Debug)]
pub struct Gradients(Vec<Option<Tensor>>);

impl Gradients {
    /// The gradient of the parameter at `index`; `None` for running statistics.
    pub fn get(&self, index: usize) -> Option<&Tensor> {
        self.0.get(index).and_then(Option::as_ref)
    }

    /// The gradient of the parameter at `index`, to add the gradient of a penalty to.
    pub fn get_mut(&mut self, index: usize) -> Option<&mut Tensor> {
        self.0.get_mut(index).and_then(Option::as_mut)
    }
}

impl Trace {
    /// The output of the layer at `position`, where the pass kept it.
    pub fn output(&self, position: usize) -> Option<&Features> {
        self.values.get(position).and_then(Option::as_ref)
    }

    fn value(&self, value: Value) -> Result<&Features> {
        match value {
            None => Ok(&self.image),
            Some(position) => self.values[position]
                .as_ref()
                .ok_or_else(|| internal("a value was dropped too early")),
        }
    }
}

pub(crate) fn internal(message: &str) -> Error {
    Error::Candle(candle_core::Error::Msg(message.to_owned()))
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
        let parameters = parameters(full, compact)?;
        let shapes = compact.shapes()?;
        let steps = steps(compact, &shapes, &parameters)?;
        let mut last_use = vec![0; compact.layers.len()];
        for (i, step) in steps.iter().enumerate() {
            step.inputs
                .iter()
                .flatten()
                .for_each(|&input| last_use[input] = i);
        }
        if let Some(step) = steps.last() {
            last_use[step.output] = steps.len();
        }
        let mut weight_shape: &[usize] = &[];
        let mut tensors = Vec::with_capacity(parameters.len());
        for parameter in &parameters {
            if matches!(
                parameter.kind,
                ParameterKind::ConvWeight | ParameterKind::LinearWeight
            ) {
                weight_shape = &parameter.shape;
            }
            let values = initial_values(full.initialisation, parameter, weight_shape, seed);
            tensors.push(Tensor::from_vec(
                values,
                parameter.shape.as_slice(),
                device,
            )?);
        }
        let index = parameters
            .iter()
            .enumerate()
            .map(|(i, p)| (p.name.clone(), i))
            .collect();
        Ok(Self {
            full: full.clone(),
            compact: compact.clone(),
            shapes,
            steps,
            last_use,
            parameters,
            tensors,
            index,
            batches_tracked: 0,
            precision: Precision::F32,
            profile: None,
            device: device.clone(),
        })
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

    /// Books the time of every layer of the passes to come in `profile`; `None` stops that.
    pub fn set_profile(&mut self, profile: Option<Arc<Profile>>) {
        self.profile = profile;
    }

    fn timed<R>(&self, layer: usize, pass: Pass, f: impl FnOnce() -> R) -> R {
        match &self.profile {
            Some(profile) => profile.measure(layer, pass, f),
            None => f(),
        }
    }

    /// The architecture whose filters are kept.
    pub fn full(&self) -> &Architecture {
        &self.full
    }

    /// The architecture whose widths are computed.
    pub fn compact(&self) -> &Architecture {
        &self.compact
    }

    /// The device of the parameters.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The order of work.
    pub(crate) fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The shapes of all maps.
    pub(crate) fn shapes(&self) -> &Shapes {
        &self.shapes
    }

    /// All tensors' names, kinds and shapes.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// The tensor at `index` of [`Network::parameters`].
    pub fn tensor(&self, index: usize) -> &Tensor {
        &self.tensors[index]
    }

    /// The tensor called `name`, for example `conv1.weight`.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.index.get(name).map(|&i| &self.tensors[i])
    }

    /// All tensors under PyTorch's state-dict keys, `num_batches_tracked` (`i64`, `[]`) included.
    ///
    /// # Errors
    /// Those of allocating a tensor.
    pub fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut state: BTreeMap<_, _> = self
            .parameters
            .iter()
            .zip(&self.tensors)
            .map(|(p, t)| (p.name.clone(), t.clone()))
            .collect();
        for layer in self
            .compact
            .layers
            .iter()
            .filter(|layer| matches!(layer.kind, LayerKind::Norm(_)))
        {
            let count = Tensor::new(self.batches_tracked, &self.device)?;
            state.insert(format!("{}.{BATCHES_TRACKED}", layer.name), count);
        }
        Ok(state)
    }

    /// Replaces all tensors by copies of those in `state`; strict, except that `num_batches_tracked` may be missing.
    ///
    /// # Errors
    /// On a missing, unknown or wrongly shaped tensor; the network is then unchanged.
    pub fn load(&mut self, state: &HashMap<String, Tensor>) -> Result<()> {
        let mut tensors = Vec::with_capacity(self.tensors.len());
        for parameter in &self.parameters {
            let given = state
                .get(&parameter.name)
                .ok_or_else(|| Error::MissingParameter(parameter.name.clone()))?;
            if given.dims() != parameter.shape {
                let (expected, got) = (parameter.shape.clone(), given.dims().to_vec());
                return Err(Error::Shape {
                    name: parameter.name.clone(),
                    expected,
                    got,
                });
            }
            tensors.push(
                given
                    .to_dtype(candle_core::DType::F32)?
                    .to_device(&self.device)?
                    .copy()?
                    .contiguous()?,
            );
        }
        let mut batches_tracked = 0;
        for (name, tensor) in state
            .iter()
            .filter(|(name, _)| !self.index.contains_key(*name))
        {
            let norm = name
                .strip_suffix(BATCHES_TRACKED)
                .and_then(|n| n.strip_suffix('.'));
            match norm
                .and_then(|norm| self.compact.position(norm))
                .map(|position| &self.compact.layers[position].kind)
            {
                Some(LayerKind::Norm(_)) if tensor.elem_count() == 1 => {
                    batches_tracked =
                        batches_tracked.max(tensor.flatten_all()?.to_vec1::<i64>()?[0]);
                }
                _ => return Err(Error::UnknownParameter(name.clone())),
            }
        }
        self.tensors = tensors;
        self.batches_tracked = batches_tracked;
        Ok(())
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
        mut observe: impl FnMut(&Layer, &Features) -> Result<(), E>,
    ) -> Result<(Tensor, Trace), E> {
        if images.dims().get(1..) != Some(&self.compact.input[..]) {
            let (expected, got) = (
                self.compact.input.to_vec(),
                images.dims().get(1..).unwrap_or_default().to_vec(),
            );
            return Err(Error::Shape {
                name: "images".into(),
                expected,
                got,
            }
            .into());
        }
        let precision = match mode {
            Mode::Train => self.precision,
            Mode::Eval | Mode::Frozen => Precision::F32,
        };
        let mut trace = Trace {
            image: Features::from_nchw(images)
                .and_then(|maps| maps.to_precision(precision))
                .map_err(Error::from)?,
            values: vec![None; self.compact.layers.len()],
            saved: Vec::with_capacity(self.steps.len()),
        };
        let mut filters = self.prepare(views, precision)?;
        for (i, step) in self.steps.iter().enumerate() {
            observe(
                &self.compact.layers[step.layer],
                trace.value(step.inputs[0])?,
            )?;
            let (output, saved) = self.timed(step.layer, Pass::Forward, || {
                self.step_forward(step, &trace, filters[i].take(), mode)
            })?;
            trace.values[step.output] = Some(output);
            trace.saved.push(saved);
            if mode == Mode::Eval {
                step.inputs
                    .iter()
                    .flatten()
                    .filter(|&&input| self.last_use[input] == i)
                    .for_each(|&input| trace.values[input] = None);
            }
        }
        let output = self.steps.last().map(|step| step.output);
        let logits = dcff_nn::flatten(trace.value(output)?).map_err(Error::from)?;
        Ok((logits, trace))
    }

    fn step_forward(
        &self,
        step: &Step,
        trace: &Trace,
        filters: Option<Prepared>,
        mode: Mode,
    ) -> Result<(Features, Saved)> {
        let x = trace.value(step.inputs[0])?;
        let train = mode != Mode::Eval;
        Ok(match &step.operation {
            Operation::Conv { config, .. } => {
                let (filters, bias) =
                    filters.ok_or_else(|| internal("a convolution has no filters"))?;
                let y = dcff_nn::conv2d_prepared(x, &filters, bias.as_ref(), *config)?;
                (
                    y,
                    if train {
                        Saved::Filters(filters)
                    } else {
                        Saved::Nothing
                    },
                )
            }
            Operation::Norm {
                weight,
                bias,
                mean,
                var,
                eps,
                residual,
                activation,
                ..
            } => {
                let residual = if *residual {
                    Some(trace.value(step.inputs[1])?)
                } else {
                    None
                };
                let (gamma, beta) = (&self.tensors[*weight], &self.tensors[*bias]);
                if mode == Mode::Train {
                    let (y, statistics) =
                        dcff_nn::batch_norm(x, gamma, beta, *eps, residual, *activation)?;
                    (y, Saved::Statistics(statistics))
                } else {
                    let (mean, var) = (&self.tensors[*mean], &self.tensors[*var]);
                    let y = dcff_nn::batch_norm_inference(
                        x,
                        gamma,
                        beta,
                        mean,
                        var,
                        *eps,
                        residual,
                        *activation,
                    )?;
                    let saved = if train {
                        let (n, _, h, w) = x.dims();
                        Saved::Constants(BatchStatistics {
                            mean: mean.clone(),
                            var: var.clone(),
                            count: n * h * w,
                        })
                    } else {
                        Saved::Nothing
                    };
                    (y, saved)
                }
            }
            Operation::Activation(function) => (dcff_nn::activation(x, *function)?, Saved::Nothing),
            Operation::MaxPool(config) => {
                let (y, indices) = dcff_nn::max_pool2d(x, *config)?;
                (
                    y,
                    if train {
                        Saved::Indices(indices)
                    } else {
                        Saved::Nothing
                    },
                )
            }
            Operation::AvgPool(config) => (dcff_nn::avg_pool2d(x, *config)?, Saved::Nothing),
            Operation::GlobalAvgPool => (dcff_nn::global_avg_pool(x)?, Saved::Nothing),
            Operation::Linear { weight, bias } => {
                let rows = dcff_nn::flatten(x)?;
                let y = dcff_nn::linear(
                    &rows,
                    &self.tensors[*weight],
                    bias.map(|b| &self.tensors[b]),
                )?;
                let (n, k) = y.dims2()?;
                (
                    dcff_nn::unflatten(&y, (n, k, 1, 1))?,
                    if train {
                        Saved::Rows(rows)
                    } else {
                        Saved::Nothing
                    },
                )
            }
            Operation::Add(function) => (
                dcff_nn::add(x, trace.value(step.inputs[1])?, *function)?,
                Saved::Nothing,
            ),
            Operation::Concat => {
                let inputs = step
                    .inputs
                    .iter()
                    .map(|&input| trace.value(input))
                    .collect::<Result<Vec<_>>>()?;
                (dcff_nn::concat(&inputs)?, Saved::Nothing)
            }
            Operation::Shortcut { stride, channels } => {
                (dcff_nn::shortcut(x, *stride, *channels)?, Saved::Nothing)
            }
        })
    }

    /// The effective filters and biases of all convolutions, in the order of steps, for maps of `precision`.
    fn prepare(&self, views: &Views, precision: Precision) -> Result<Vec<Option<Prepared>>> {
        let mixed: Vec<OnceCell<Tensor>> = vec![OnceCell::new(); self.steps.len()];
        let (mut sources, mut biases) = (Vec::new(), Vec::new());
        for (step, mixed) in self.steps.iter().zip(&mixed) {
            if let Operation::Conv { weight, bias, .. } = &step.operation {
                self.timed(step.layer, Pass::Fusion, || {
                    let view = self.view(step.layer, *weight, views)?;
                    sources.push(view.source(&self.tensors[*weight], mixed)?);
                    let bias = bias.map(|b| view.weight(&self.tensors[b]));
                    biases.push(bias.transpose()?);
                    Ok::<_, Error>(())
                })?;
            }
        }
        let prepared = Filters::prepare(&sources, precision)?;
        let mut prepared = prepared.into_iter().zip(biases);
        let of = |step: &Step| match step.operation {
            Operation::Conv { .. } => prepared.next(),
            _ => None,
        };
        Ok(self.steps.iter().map(of).collect())
    }

    /// The view of the convolution at `layer`, whose filters are the tensor at `weight`.
    fn view<'a>(&self, layer: usize, weight: usize, views: &'a Views) -> Result<&'a View> {
        let name = &self.compact.layers[layer].name;
        let expected = self.shapes.output(layer).channels;
        let view = views.get(name);
        let width = view.width(self.tensors[weight].dim(0)?);
        if width != expected {
            return Err(Error::layer(
                name,
                format!("expected a view of {expected} filters, got {width}"),
            ));
        }
        Ok(view)
    }

    /// A convolution's effective weight and bias.
    fn effective(
        &self,
        layer: usize,
        weight: usize,
        bias: Option<usize>,
        views: &Views,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let view = self.view(layer, weight, views)?;
        Ok((
            view.weight(&self.tensors[weight])?,
            bias.map(|b| view.weight(&self.tensors[b])).transpose()?,
        ))
    }

    /// Moves the running statistics towards those of a training pass.
    ///
    /// # Errors
    /// Those of the tensor operations.
    pub fn update_statistics(&mut self, trace: &Trace) -> Result<()> {
        let mut blends = Vec::new();
        for (step, saved) in self.steps.iter().zip(&trace.saved) {
            let (
                Operation::Norm {
                    mean,
                    var,
                    momentum,
                    ..
                },
                Saved::Statistics(batch),
            ) = (&step.operation, saved)
            else {
                continue;
            };
            // PyTorch normalises by the biased variance and remembers the unbiased one; momentum weighs the new value.
            let unbiased = batch.count as f64 / (batch.count as f64 - 1.0).max(1.0);
            for (place, new, scale) in [(*mean, &batch.mean, 1.0), (*var, &batch.var, unbiased)] {
                blends.push(Blend {
                    old: &self.tensors[place],
                    new,
                    keep: 1.0 - momentum,
                    add: momentum * scale,
                });
            }
        }
        dcff_nn::blend(&blends)?;
        self.batches_tracked += 1;
        Ok(())
    }

    /// Training batches seen, PyTorch's `num_batches_tracked`.
    pub fn batches_tracked(&self) -> i64 {
        self.batches_tracked
    }

    /// Sets [`Network::batches_tracked`], for steps that a card repeats without [`Network::update_statistics`].
    pub fn set_batches_tracked(&mut self, batches: i64) {
        self.batches_tracked = batches;
    }

    /// The gradients of all trained parameters from that of the logits, `[N, classes]`.
    ///
    /// # Errors
    /// When the trace is of an evaluation, or the device fails.
    pub fn backward(&self, mut trace: Trace, views: &Views, logits: &Tensor) -> Result<Gradients> {
        let mut gradients = Gradients(vec![None; self.parameters.len()]);
        let mut pending: Vec<Option<Features>> = vec![None; self.compact.layers.len()];
        let Some(last) = self.steps.last() else {
            return Ok(gradients);
        };
        let (n, k) = logits.dims2()?;
        let precision = trace.value(Some(last.output))?.precision();
        let gradient = dcff_nn::unflatten(logits, (n, k, 1, 1))?;
        pending[last.output] = Some(gradient.to_precision(precision)?);
        for (i, step) in self.steps.iter().enumerate().rev() {
            let Some(gradient) = pending[step.output].take() else {
                continue;
            };
            let saved = std::mem::replace(&mut trace.saved[i], Saved::Nothing);
            // A convolution adds its input's gradient to what other readers of the same maps gave, as it stores it.
            let sum = match (&step.operation, step.inputs[0]) {
                (Operation::Conv { .. }, Some(input)) => pending[input].take(),
                _ => None,
            };
            let inputs = self.timed(step.layer, Pass::Backward, || {
                self.step_backward(step, &trace, saved, (gradient, sum), views, &mut gradients)
            })?;
            trace.values[step.output] = None;
            for (&input, gradient) in step.inputs.iter().zip(inputs) {
                let (Some(position), Some(gradient)) = (input, gradient) else {
                    continue;
                };
                pending[position] = Some(match pending[position].take() {
                    Some(sum) => dcff_nn::accumulate(sum, &gradient)?,
                    None => gradient,
                });
            }
        }
        Ok(gradients)
    }

    /// The gradients of a step's inputs, the first of them added to a `sum`, from that of its output; those of its
    /// parameters go to `gradients`.
    fn step_backward(
        &self,
        step: &Step,
        trace: &Trace,
        saved: Saved,
        (dy, sum): (Features, Option<Features>),
        views: &Views,
        gradients: &mut Gradients,
    ) -> Result<Vec<Option<Features>>> {
        let x = || trace.value(step.inputs[0]);
        let y = || trace.value(Some(step.output));
        let untraced = || internal("the backward sweep needs the trace of a training pass");
        let input_dims = |position: usize| {
            let shape = self.shapes.inputs(step.layer)[position];
            (dy.batch(), shape.channels, shape.height, shape.width)
        };
        Ok(match &step.operation {
            Operation::Conv {
                weight,
                bias,
                config,
            } => {
                let Saved::Filters(filters) = saved else {
                    return Err(untraced());
                };
                let input = match (step.inputs[0], sum) {
                    // The images need no gradient.
                    (None, _) => InputGradient::Skip,
                    (Some(_), None) => InputGradient::Compute,
                    (Some(_), Some(sum)) => InputGradient::AddTo(sum),
                };
                let grads = dcff_nn::conv2d_backward_prepared(
                    x()?,
                    &filters,
                    bias.is_some(),
                    *config,
                    &dy,
                    input,
                )?;
                let count = self.tensors[*weight].dim(0)?;
                let view = views.get(&self.compact.layers[step.layer].name);
                self.timed(step.layer, Pass::Fusion, || {
                    gradients.0[*weight] = Some(view.source_gradient(grads.weight)?);
                    if let (Some(bias), Some(gradient)) = (bias, grads.bias) {
                        gradients.0[*bias] = Some(view.weight_gradient(count, gradient)?);
                    }
                    Ok::<_, Error>(())
                })?;
                vec![grads.input]
            }
            Operation::Norm {
                weight,
                bias,
                eps,
                residual,
                activation,
                ..
            } => {
                let (statistics, constant) = match saved {
                    Saved::Statistics(statistics) => (statistics, false),
                    Saved::Constants(statistics) => (statistics, true),
                    _ => return Err(untraced()),
                };
                let gamma = &self.tensors[*weight];
                let mut grads = dcff_nn::batch_norm_backward(
                    x()?,
                    y()?,
                    gamma,
                    &statistics,
                    *eps,
                    *residual,
                    *activation,
                    &dy,
                )?;
                if constant {
                    // An affine map: the gradient of its output times the factor of its input.
                    let dz = dcff_nn::activation_backward(y()?, *activation, &dy)?;
                    let zeros = gamma.zeros_like()?;
                    grads.input = dcff_nn::batch_norm_inference(
                        &dz,
                        gamma,
                        &zeros,
                        &zeros,
                        &statistics.var,
                        *eps,
                        None,
                        Activation::Identity,
                    )?;
                }
                gradients.0[*weight] = Some(grads.gamma);
                gradients.0[*bias] = Some(grads.beta);
                vec![Some(grads.input), grads.residual]
            }
            Operation::Activation(function) => {
                vec![Some(dcff_nn::activation_backward(y()?, *function, &dy)?)]
            }
            Operation::MaxPool(_) => {
                let Saved::Indices(indices) = saved else {
                    return Err(untraced());
                };
                vec![Some(dcff_nn::max_pool2d_backward(&indices, &dy)?)]
            }
            Operation::AvgPool(config) => {
                let (_, _, height, width) = input_dims(0);
                vec![Some(dcff_nn::avg_pool2d_backward(
                    (height, width),
                    *config,
                    &dy,
                )?)]
            }
            Operation::GlobalAvgPool => {
                let (_, _, height, width) = input_dims(0);
                vec![Some(dcff_nn::global_avg_pool_backward(
                    (height, width),
                    &dy,
                )?)]
            }
            Operation::Linear { weight, bias } => {
                let Saved::Rows(rows) = saved else {
                    return Err(untraced());
                };
                let grads = dcff_nn::linear_backward(
                    &rows,
                    &self.tensors[*weight],
                    &dcff_nn::flatten(&dy)?,
                    true,
                )?;
                gradients.0[*weight] = Some(grads.weight);
                if let Some(bias) = bias {
                    gradients.0[*bias] = Some(grads.bias);
                }
                let input = grads
                    .input
                    .ok_or_else(|| internal("linear returned no input gradient"))?;
                let input = dcff_nn::unflatten(&input, input_dims(0))?;
                // The layer itself works in single precision, whatever its input was stored in.
                vec![Some(input.to_precision(x()?.precision())?)]
            }
            Operation::Add(function) => {
                let gradient = dcff_nn::activation_backward(y()?, *function, &dy)?;
                vec![Some(gradient.clone()), Some(gradient)]
            }
            Operation::Concat => {
                let channels: Vec<_> = (0..step.inputs.len()).map(|i| input_dims(i).1).collect();
                dcff_nn::split_channels(&dy, &channels)?
                    .into_iter()
                    .map(Some)
                    .collect()
            }
            Operation::Shortcut { stride, .. } => vec![Some(dcff_nn::shortcut_backward(
                input_dims(0),
                *stride,
                &dy,
            )?)],
        })
    }

    /// The plain compact network that computes what this one computes through `views`.
    ///
    /// # Errors
    /// When a view's width is not that of the compact architecture.
    pub fn collapse(&self, views: &Views) -> Result<Self> {
        let mut plain = Self::new(&self.compact, &self.compact, 0, &self.device)?;
        // Copies: gradient descent goes on in place.
        plain.tensors = self
            .tensors
            .iter()
            .map(Tensor::copy)
            .collect::<candle_core::Result<_>>()?;
        plain.batches_tracked = self.batches_tracked;
        for step in &self.steps {
            if let Operation::Conv { weight, bias, .. } = step.operation {
                let (w, b) = self.effective(step.layer, weight, bias, views)?;
                plain.tensors[weight] = w.copy()?;
                if let (Some(bias), Some(b)) = (bias, b) {
                    plain.tensors[bias] = b.copy()?;
                }
            }
        }
        Ok(plain)
    }
}

const BATCHES_TRACKED: &str = "num_batches_tracked";
