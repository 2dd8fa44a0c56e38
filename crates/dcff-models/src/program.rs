//! A program: one set of widths and one input size, compiled; forward, and the explicit reverse sweep.
//!
//! The graph is static, so the gradient is not recorded on a tape: each step knows its inverse, intermediate
//! maps are dropped as soon as the sweep has passed them, and a value read once costs no addition.
//!
//! A layer reads the *leading part* of its parameters that the program's shapes ask for: a convolution the first filters
//! and of each the first channels, batch norm the first of its four vectors, a linear layer the first columns. Gradients have
//! the parameters' full shape and are 0 outside the part.

use std::sync::Arc;

use candle_core::Tensor;
use dcff_nn::{Features, FilterSource, Filters};

use crate::architecture::{Architecture, Layer};
use crate::layers::{Backward, FilterTensors, Forward, Prepared, Step, Sweep, Within};
use crate::parameter::Parameter;
use crate::plan::steps;
use crate::profile::{Pass, timed};
use crate::shape::Shape;
use crate::shapes::Shapes;
use crate::trace::{Gradients, How, Mode, Saved, Seeds, Trace, ViewGradients};
use crate::view::{View, Views};
use crate::weights::Weights;
use crate::{Error, Result};

/// How a training pass moves the running statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blend {
    /// By each batch norm's momentum, which weighs the new value.
    Momentum,
    /// To the mean over all batches, of which so many have been seen before this one (0: the old values are forgotten).
    Cumulative(u64),
    /// Not at all.
    Off,
}

/// One set of widths and one input size over given [`Weights`]: shapes, the order of work, last uses.
///
/// It holds no tensor and is cheap to make, so that callers keep one for each set of widths and input size.
#[derive(Clone, Debug)]
pub struct Program {
    architecture: Architecture,
    shapes: Shapes,
    steps: Vec<Step>,
    last_use: Vec<usize>,
    /// Of the weights it reads.
    parameters: Arc<[Parameter]>,
    /// The part of each parameter that is read; of a convolution's filters, which views choose, all rows.
    parts: Vec<Vec<usize>>,
}

/// A program with the weights that it runs over.
pub(crate) struct Bound<'a> {
    pub(crate) program: &'a Program,
    pub(crate) weights: &'a Weights,
}

impl Within for Bound<'_> {
    fn whole(&self, index: usize) -> &Tensor {
        self.weights.tensor(index)
    }

    fn part(&self, index: usize) -> Result<Tensor> {
        self.program.part(self.weights, index)
    }

    fn read(&self, layer: usize) -> &[Shape] {
        self.program.shapes.inputs(layer)
    }

    fn name(&self, layer: usize) -> &str {
        &self.program.architecture.layers[layer].name
    }
}

impl Program {
    /// Compiles `architecture`, which is that of `weights`, narrowed or for another input size.
    ///
    /// # Errors
    /// When it is not, or when the first part of a layer's parameters would be the wrong one: behind maps that are side by side,
    /// or in groups.
    pub fn new(architecture: &Architecture, weights: &Weights) -> Result<Self> {
        let wide = weights.compact();
        let fail = |message: String| Error::Widths {
            architecture: architecture.name.clone(),
            message,
        };
        if wide.layers != architecture.layers || wide.input[0] != architecture.input[0] {
            let message = "expected the layers and input channels of the weights' architecture";
            return Err(fail(message.into()));
        }
        let names = |a: &Architecture| a.spaces.iter().map(|s| s.name.clone()).collect::<Vec<_>>();
        if names(wide) != names(architecture) {
            return Err(fail(
                "expected the channel spaces of the weights' architecture".into(),
            ));
        }
        // Checks the widths.
        wide.narrowed(&architecture.widths())?;
        let (shapes, wide_shapes) = (architecture.shapes()?, wide.shapes()?);
        let parameters = Arc::clone(weights.shared_parameters());
        leading_parts_are_right(architecture, &shapes, &wide_shapes)?;
        let own = crate::parameters(architecture, architecture)?;
        let parts = parameters.iter().zip(own).map(|(given, own)| {
            let mut part = own.shape;
            if given.kind.is_filters() {
                part[0] = given.shape[0];
            }
            part
        });
        let parts = parts.collect();
        let steps = steps(architecture, &shapes, &parameters)?;
        let mut last_use = vec![0; architecture.layers.len()];
        for (i, step) in steps.iter().enumerate() {
            step.inputs
                .iter()
                .flatten()
                .for_each(|&input| last_use[input] = i);
        }
        if let Some(step) = steps.last() {
            last_use[step.output] = steps.len();
        }
        Ok(Self {
            architecture: architecture.clone(),
            shapes,
            steps,
            last_use,
            parameters,
            parts,
        })
    }

    /// The architecture it was compiled from: its widths and input size.
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// The order of work.
    pub(crate) fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The shapes of all maps.
    pub fn shapes(&self) -> &Shapes {
        &self.shapes
    }

    /// Logits `[N, classes]` of normalised images `[N, C, H, W]`, and what the backward sweep and probes need.
    ///
    /// # Errors
    /// When the weights are not those it was compiled for, the images' size is not the architecture's, a view's width not that of
    /// its layer, a tap no output of its own, or the device fails.
    pub fn forward(
        &self,
        weights: &Weights,
        views: &Views,
        images: &Tensor,
        how: &How<'_>,
    ) -> Result<Trace> {
        self.forward_observed(weights, views, images, how, |_, _| Ok(()))
    }

    /// As [`Program::forward`]; before each layer is computed, `observe` is shown it and the maps it reads (of several, the
    /// first), even those that evaluation drops later.
    ///
    /// # Errors
    /// As [`Program::forward`], and those of `observe`.
    pub fn forward_observed<E: From<Error>>(
        &self,
        weights: &Weights,
        views: &Views,
        images: &Tensor,
        how: &How<'_>,
        mut observe: impl FnMut(&Layer, &Features) -> Result<(), E>,
    ) -> Result<Trace, E> {
        self.check(weights)?;
        let candle = |error| E::from(Error::Candle(error));
        if images.dims().get(1..) != Some(&self.architecture.input[..]) {
            return Err(E::from(Error::Shape {
                name: "images".into(),
                expected: self.architecture.input.to_vec(),
                got: images.dims().get(1..).unwrap_or_default().to_vec(),
            }));
        }
        for &tap in how.taps {
            self.check_tap(tap)?;
        }
        let image = Features::from_nchw(images)
            .and_then(|maps| maps.to_precision(how.precision))
            .map_err(candle)?;
        let mut trace = Trace {
            image,
            values: vec![None; self.architecture.layers.len()],
            saved: Vec::with_capacity(self.steps.len()),
            logits: images.clone(),
            profile: how.profile.cloned(),
            convolution: how.convolution,
        };
        let mut filters = self.prepare(weights, views, how)?;
        for (i, step) in self.steps.iter().enumerate() {
            let layer = &self.architecture.layers[step.layer];
            observe(layer, trace.value(step.inputs[0])?)?;
            let (output, saved) = timed(how.profile, step.layer, Pass::Forward, || {
                self.step_forward(step, weights, &trace, filters[i].take(), how)
            })?;
            trace.values[step.output] = Some(output);
            trace.saved.push(saved);
            if how.mode == Mode::Eval {
                let inputs = step.inputs.iter().flatten();
                inputs
                    .filter(|&&input| self.last_use[input] == i && !how.taps.contains(&input))
                    .for_each(|&input| trace.values[input] = None);
            }
        }
        let output = self.steps.last().map(|step| step.output);
        trace.logits = dcff_nn::flatten(trace.value(output)?).map_err(candle)?;
        Ok(trace)
    }

    /// Fails unless `weights` are those it was compiled for, or copies of them.
    fn check(&self, weights: &Weights) -> Result<()> {
        let given = weights.shared_parameters();
        if Arc::ptr_eq(given, &self.parameters) || given == &self.parameters {
            return Ok(());
        }
        Err(Error::Widths {
            architecture: self.architecture.name.clone(),
            message: "expected the weights that the program was compiled for".into(),
        })
    }

    /// Fails unless the layer at `position` has an output of its own.
    fn check_tap(&self, position: usize) -> Result<()> {
        if self.steps.iter().any(|step| step.output == position) {
            return Ok(());
        }
        Err(match self.architecture.layers.get(position) {
            Some(layer) => Error::layer(
                &layer.name,
                "expected a layer with an output of its own, and this one is computed together with the layer behind it",
            ),
            None => Error::layer(
                &self.architecture.name,
                format!(
                    "expected a layer below {}, got {position}",
                    self.architecture.layers.len()
                ),
            ),
        })
    }

    /// The part of the parameter at `index` that is read.
    pub(crate) fn part(&self, weights: &Weights, index: usize) -> Result<Tensor> {
        leading(weights.tensor(index), &self.parts[index])
    }

    fn step_forward(
        &self,
        step: &Step,
        weights: &Weights,
        trace: &Trace,
        filters: Option<Prepared>,
        how: &How<'_>,
    ) -> Result<(Features, Saved)> {
        step.operation.forward(Forward {
            within: &Bound {
                program: self,
                weights,
            },
            step,
            trace,
            filters,
            how,
        })
    }

    /// The effective filters and biases of all convolutions, in the order of steps.
    fn prepare(
        &self,
        weights: &Weights,
        views: &Views,
        how: &How<'_>,
    ) -> Result<Vec<Option<Prepared>>> {
        let (mut ready, mut biases) = (Vec::new(), Vec::new());
        for step in &self.steps {
            if let Some(FilterTensors { weight, bias }) = step.operation.filters() {
                timed(how.profile, step.layer, Pass::Fusion, || {
                    let view = self.view(weights, step.layer, weight, views)?;
                    let filters = self.viewed(weights, step.layer, weight, view)?;
                    ready.push((view, view.mixed(filters)?));
                    let bias = bias.map(|b| view.bias(&self.viewed(weights, step.layer, b, view)?));
                    biases.push(bias.transpose()?);
                    Ok::<_, Error>(())
                })?;
            }
        }
        let sources: Vec<FilterSource<'_>> = ready.iter().map(|(view, w)| view.source(w)).collect();
        let mut prepared = Filters::prepare(&sources, how.precision)?
            .into_iter()
            .zip(biases);
        let of = |step: &Step| step.operation.filters().and_then(|_| prepared.next());
        Ok(self.steps.iter().map(of).collect())
    }

    /// The view of the convolution at `layer`, whose filters are the tensor at `weight`.
    fn view<'a>(
        &self,
        weights: &Weights,
        layer: usize,
        weight: usize,
        views: &'a Views,
    ) -> Result<&'a View> {
        let name = &self.architecture.layers[layer].name;
        let expected = self.shapes.output(layer).channels;
        let view = views.get(name);
        let filters = weights.tensor(weight).dim(0)?;
        let width = view.width(filters);
        let leads = matches!(view, View::Dense) && expected <= filters;
        if width != expected && !leads {
            return Err(Error::layer(
                name,
                format!("expected a view of {expected} filters, got {width}"),
            ));
        }
        Ok(view)
    }

    /// What `view` chooses from: the filters (or biases) at `index` of the convolution at `layer`, with the channels that are read,
    /// and only the leading ones where the view does not choose.
    fn viewed(&self, weights: &Weights, layer: usize, index: usize, view: &View) -> Result<Tensor> {
        let mut part = self.parts[index].clone();
        part[0] = match view.chooses() {
            true => weights.tensor(index).dim(0)?,
            false => self.shapes.output(layer).channels,
        };
        leading(weights.tensor(index), &part)
    }

    /// A convolution's effective weight and bias.
    pub(crate) fn effective(
        &self,
        weights: &Weights,
        layer: usize,
        weight: usize,
        bias: Option<usize>,
        views: &Views,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let view = self.view(weights, layer, weight, views)?;
        let viewed = |index: usize| self.viewed(weights, layer, index, view);
        let bias = bias.map(|bias| view.bias(&viewed(bias)?)).transpose()?;
        Ok((view.weight(&viewed(weight)?)?, bias))
    }

    /// Moves the running statistics, of a narrow program those of its channels, by those of a training pass.
    ///
    /// # Errors
    /// Those of the tensor operations.
    pub fn update_statistics(
        &self,
        weights: &mut Weights,
        trace: &Trace,
        blend: Blend,
    ) -> Result<()> {
        self.check(weights)?;
        if blend == Blend::Off {
            return Ok(());
        }
        let mut moves = Vec::new();
        for (step, saved) in self.steps.iter().zip(&trace.saved) {
            let (Some(running), Saved::Statistics(batch)) = (step.operation.statistics(), saved)
            else {
                continue;
            };
            // PyTorch normalises by the biased variance and remembers the unbiased one; momentum weighs the new value.
            let unbiased = batch.count as f64 / (batch.count as f64 - 1.0).max(1.0);
            let add = match blend {
                Blend::Cumulative(batches) => 1.0 / (batches as f64 + 1.0),
                Blend::Momentum | Blend::Off => running.momentum,
            };
            let places = [
                (running.mean, &batch.mean, 1.0),
                (running.var, &batch.var, unbiased),
            ];
            for (place, new, scale) in places {
                // The leading part of a vector shares its memory, so that it moves in place.
                let old = self.part(weights, place)?;
                moves.push((old, new, 1.0 - add, add * scale));
            }
        }
        let moves: Vec<_> = moves
            .iter()
            .map(|(old, new, keep, add)| dcff_nn::Blend {
                old,
                new,
                keep: *keep,
                add: *add,
            })
            .collect();
        dcff_nn::blend(&moves)?;
        weights.set_batches_tracked(weights.batches_tracked() + 1);
        Ok(())
    }

    /// Adds the gradients of all trained parameters that `seeds` reach to `into`, and returns those of the views.
    ///
    /// `weights` and `views` are those of the forward pass.
    ///
    /// # Errors
    /// When the trace is of an evaluation, a seed does not fit the output it belongs to, or the device fails.
    pub fn backward(
        &self,
        weights: &Weights,
        views: &Views,
        mut trace: Trace,
        seeds: Seeds,
        into: &mut Gradients,
    ) -> Result<ViewGradients> {
        self.check(weights)?;
        let mut pending = self.seeded(&trace, seeds)?;
        let mut sweep = Sweep {
            views,
            convolution: trace.convolution,
            profile: trace.profile.clone(),
            parameters: Vec::new(),
            of_views: ViewGradients::default(),
        };
        let profile = trace.profile.clone();
        for (i, step) in self.steps.iter().enumerate().rev() {
            let Some(gradient) = pending[step.output].take() else {
                continue;
            };
            let saved = std::mem::replace(&mut trace.saved[i], Saved::Nothing);
            // A convolution adds its input's gradient to what other readers of the same maps gave, as it stores it.
            let sum = match (step.operation.filters(), step.inputs[0]) {
                (Some(_), Some(input)) => pending[input].take(),
                _ => None,
            };
            let inputs = timed(profile.as_ref(), step.layer, Pass::Backward, || {
                self.step_backward(step, &trace, saved, (gradient, sum), weights, &mut sweep)
            })?;
            trace.values[step.output] = None;
            for (&input, gradient) in step.inputs.iter().zip(inputs) {
                if let (Some(position), Some(gradient)) = (input, gradient) {
                    join(&mut pending[position], gradient)?;
                }
            }
        }
        let Sweep {
            parameters,
            of_views,
            ..
        } = sweep;
        into.add(&self.parameters, parameters)?;
        Ok(of_views)
    }

    /// The gradients that a sweep starts from, by layer, in the precision of its maps.
    fn seeded(&self, trace: &Trace, seeds: Seeds) -> Result<Vec<Option<Features>>> {
        let mut pending: Vec<Option<Features>> = vec![None; self.architecture.layers.len()];
        if let (Some(logits), Some(last)) = (seeds.logits, self.steps.last()) {
            if logits.dims() != trace.logits.dims() {
                return Err(Error::Shape {
                    name: "the gradient of the logits".into(),
                    expected: trace.logits.dims().to_vec(),
                    got: logits.dims().to_vec(),
                });
            }
            let (n, k) = logits.dims2()?;
            let gradient = dcff_nn::unflatten(&logits, (n, k, 1, 1))?;
            // The last layer's output may be stored in another precision than the maps before it.
            let precision = trace.value(Some(last.output))?.precision();
            pending[last.output] = Some(gradient.to_precision(precision)?);
        }
        for (position, gradient) in seeds.taps {
            self.check_tap(position)?;
            let name = &self.architecture.layers[position].name;
            let Some(output) = trace.output(position) else {
                return Err(Error::layer(name, "expected an output that the pass kept"));
            };
            if output.dims() != gradient.dims() {
                let dims = |(n, c, h, w): (usize, usize, usize, usize)| vec![n, c, h, w];
                return Err(Error::Shape {
                    name: format!("the gradient of {name}"),
                    expected: dims(output.dims()),
                    got: dims(gradient.dims()),
                });
            }
            join(
                &mut pending[position],
                gradient.to_precision(output.precision())?,
            )?;
        }
        Ok(pending)
    }

    /// The gradients of a step's inputs, the first of them added to a `sum`, from that of its output; those of its
    /// parameters and view stay with the `sweep`.
    fn step_backward(
        &self,
        step: &Step,
        trace: &Trace,
        saved: Saved,
        (dy, sum): (Features, Option<Features>),
        weights: &Weights,
        sweep: &mut Sweep<'_>,
    ) -> Result<Vec<Option<Features>>> {
        step.operation.backward(Backward {
            within: &Bound {
                program: self,
                weights,
            },
            step,
            trace,
            saved,
            dy,
            sum,
            sweep,
        })
    }
}

/// Adds a gradient to what other readers of the same maps gave.
fn join(sum: &mut Option<Features>, gradient: Features) -> Result<()> {
    *sum = Some(match sum.take() {
        Some(sum) => dcff_nn::accumulate(sum, &gradient)?,
        None => gradient,
    });
    Ok(())
}

/// The first entries of `tensor` along every axis: itself where all are wanted. What is no vector is copied.
fn leading(tensor: &Tensor, part: &[usize]) -> Result<Tensor> {
    if tensor.dims() == part {
        return Ok(tensor.clone());
    }
    let mut narrow = tensor.clone();
    for (axis, &size) in part.iter().enumerate() {
        narrow = narrow.narrow(axis, 0, size)?;
    }
    Ok(narrow.contiguous()?)
}

/// Fails where a narrower layer's parameters are not the first ones of the wide layer's.
fn leading_parts_are_right(
    architecture: &Architecture,
    shapes: &Shapes,
    wide: &Shapes,
) -> Result<()> {
    let wiring = architecture.wiring()?;
    // Whether a layer's channels are side by side from several layers.
    let mut joined: Vec<bool> = Vec::with_capacity(wiring.len());
    for (position, layer) in architecture.layers.iter().enumerate() {
        let reads_joined = wiring[position].iter().flatten().any(|&i| joined[i]);
        let (own, all) = (shapes.inputs(position)[0], wide.inputs(position)[0]);
        let (rule, output) = (
            layer.kind.rule(),
            [shapes.output(position), wide.output(position)],
        );
        let fail = |message: String| Error::layer(&layer.name, message);
        let has_parameters = rule.leads([own, all], output).map_err(fail)?;
        if has_parameters && own.channels < all.channels && reads_joined {
            return Err(fail(format!(
                "reads {} of {} channels that lie side by side, which are not the first ones: it needs weights of its own",
                own.channels, all.channels
            )));
        }
        joined.push(rule.joined(reads_joined));
    }
    Ok(())
}

#[cfg(test)]
mod rounding;
