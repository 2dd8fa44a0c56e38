//! A network made ready for inference: weights settled and packed, batch norm folded into convolutions.
//!
//! ```text
//! act(norm(conv(x, w) + b) + r) = act(conv(x, w') + b' + r)
//! w'[o] = w[o] γ[o] / √(σ²[o] + ε)          b'[o] = β[o] + (b[o] - μ[o]) γ[o] / √(σ²[o] + ε)
//! ```
//!
//! computed in `f64`, for a convolution that only its norm reads. A norm of other maps is a convolution with one weight
//! per channel, and a linear layer one whose kernel covers its map.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use dcff_nn::ConvConfig;
use dcff_nn::inference::{self, Channels, Conv, Load, Maps};

use crate::layers::{Joins, Plain, Ready, Readying, RunLayer, Step, lies};
use crate::network::Network;
use crate::program::Bound;
use crate::trace::{Mode, Value};
use crate::view::Views;
use crate::{Error, Result};

/// A finished network as a function from images to logits.
///
/// It has its own copy of the weights: later changes of the network that it was made from do not reach it. Its logits
/// are those of [`Network::forward`] up to rounding, about 1e-5 of the largest, and do not depend on the number of
/// threads. How an image is computed, and thus how its logits round, depends on the number of images: groups of
/// sixteen, eight and more, or fewer.
#[derive(Clone, Debug)]
pub struct InferenceNetwork {
    input: [usize; 3],
    runs: Runs,
}

#[derive(Clone, Debug)]
enum Runs {
    /// Prepared layers, on the CPU.
    Prepared(Arc<Prepared>),
    /// The layers of training, on other devices.
    Plain(Arc<Network>),
}

impl InferenceNetwork {
    /// Prepares what `network` computes through `views` in [`Mode::Eval`].
    ///
    /// # Errors
    /// When a view's width is not that of the compact architecture.
    pub fn new(network: &Network, views: &Views) -> Result<Self> {
        let plain = network.collapse(views)?;
        Ok(Self {
            input: plain.compact().input,
            runs: match plain.device() {
                Device::Cpu => Runs::Prepared(Arc::new(Prepared::new(&plain)?)),
                _ => Runs::Plain(Arc::new(plain)),
            },
        })
    }

    /// Logits `[N, classes]` of normalised images `[N, C, H, W]`.
    ///
    /// # Errors
    /// When the images' size is not the architecture's, or the device fails.
    pub fn forward(&self, images: &Tensor) -> Result<Tensor> {
        if images.dims().get(1..) != Some(&self.input[..]) {
            return Err(Error::Shape {
                name: "images".into(),
                expected: self.input.to_vec(),
                got: images.dims().get(1..).unwrap_or_default().to_vec(),
            });
        }
        match &self.runs {
            Runs::Prepared(prepared) => Ok(dcff_nn::awake(images.device(), || {
                inference::in_chunks(images, |images, load| prepared.forward(images, load))
            })?),
            Runs::Plain(network) => {
                let (logits, _) = network.forward(images, &Views::dense(), Mode::Eval)?;
                Ok(logits)
            }
        }
    }
}

/// The steps of a finished network; values are numbered as the layers that yield them.
#[derive(Debug)]
struct Prepared {
    steps: Vec<PreparedStep>,
    /// Values that nobody reads after a step, per step.
    done: Vec<Vec<usize>>,
    values: usize,
    output: usize,
}

struct PreparedStep {
    run: Run,
    inputs: Vec<Value>,
    output: usize,
}

impl std::fmt::Debug for PreparedStep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let run = match &self.run {
            Run::Conv(conv) => format!("{conv:?}"),
            Run::Layer(_) => "a layer".into(),
        };
        f.debug_struct("PreparedStep")
            .field("run", &run)
            .field("inputs", &self.inputs)
            .field("output", &self.output)
            .finish()
    }
}

enum Run {
    /// Inputs are the maps and, where there are two, what is added before the activation.
    Conv(Box<Conv>),
    Layer(Box<RunLayer>),
}

impl Prepared {
    fn new(network: &Network) -> Result<Self> {
        let steps = network.steps();
        let within = Bound {
            program: network.program(),
            weights: network.weights(),
        };
        let layers = network.compact().layers.len();
        let mut readers = vec![0; layers];
        steps
            .iter()
            .flat_map(|step| step.inputs.iter().flatten())
            .for_each(|&input| readers[input] += 1);
        // Where the channels of each value lie.
        let mut channels: Vec<Option<Channels>> = vec![None; layers];
        let images = Channels::new(network.compact().input[0]);
        // Convolutions that wait for the norm, activation or addition that alone reads them.
        let mut waiting: Vec<Option<(Plain, Value)>> = (0..layers).map(|_| None).collect();
        let mut prepared = Vec::with_capacity(steps.len());
        for (i, step) in steps.iter().enumerate() {
            let mut inputs = step.inputs.clone();
            let waits = |value: &Value| value.is_some_and(|value| waiting[value].is_some());
            // An addition finds its convolution on either side; the other side is the residual.
            if let Some(at) = inputs.iter().position(waits) {
                inputs.swap(0, at);
            }
            let folded = inputs.first().and_then(|&input| waiting[input?].take());
            let folded = folded.map(|(plain, input)| {
                inputs[0] = input;
                plain
            });
            let ready = step.operation.ready(Readying {
                within: &within,
                step,
                folded,
                inputs: &inputs,
                images: &images,
                channels: &channels,
            })?;
            let (run, lie) = match ready {
                Ready::Layer(run, lie) => (Run::Layer(run), lie),
                Ready::Conv(plain) => {
                    let joins = step.operation.filters().is_some()
                        && readers[step.output] == 1
                        && reader(&steps[i + 1..], step.output).is_some_and(|reader| {
                            // Of two convolutions that are added, the first waits for the second.
                            let mut other = reader.inputs.iter().flatten();
                            joint(reader, step.output) && other.all(|&v| waiting[v].is_none())
                        });
                    if joins {
                        waiting[step.output] = Some((plain, step.inputs[0]));
                        continue;
                    }
                    let lie = lies(&images, &channels, inputs[0])?;
                    let size = match inputs[0] {
                        None => (network.compact().input[1], network.compact().input[2]),
                        Some(position) => {
                            let shape = network.shapes().output(position);
                            (shape.height, shape.width)
                        }
                    };
                    let config = ConvConfig {
                        algorithm: network.convolution(),
                        ..plain.config
                    };
                    let conv = Conv::new(
                        &plain.weight,
                        plain.bias.as_ref(),
                        config,
                        &lie,
                        size,
                        plain.activation,
                    )?;
                    let lie = conv.channels();
                    (Run::Conv(Box::new(conv)), lie)
                }
            };
            channels[step.output] = Some(lie);
            prepared.push(PreparedStep {
                run,
                inputs,
                output: step.output,
            });
        }
        let output = steps.last().map_or(0, |step| step.output);
        let mut last = vec![None; layers];
        for (i, step) in prepared.iter().enumerate() {
            step.inputs
                .iter()
                .flatten()
                .for_each(|&input| last[input] = Some(i));
        }
        let mut done = vec![Vec::new(); prepared.len()];
        for (value, last) in last.into_iter().enumerate() {
            if let (Some(last), true) = (last, value != output) {
                done[last].push(value);
            }
        }
        Ok(Self {
            steps: prepared,
            done,
            values: layers,
            output,
        })
    }

    fn forward(&self, images: &Tensor, load: Load) -> candle_core::Result<Tensor> {
        let images = Maps::from_nchw(images, load)?;
        let mut values: Vec<Option<Maps>> = vec![None; self.values];
        for (step, done) in self.steps.iter().zip(&self.done) {
            let inputs = step
                .inputs
                .iter()
                .map(|&input| match input {
                    None => Ok(&images),
                    Some(input) => values[input].as_ref().ok_or_else(|| missing(input)),
                })
                .collect::<candle_core::Result<Vec<_>>>()?;
            let y = match &step.run {
                Run::Conv(conv) => conv.forward(inputs[0], inputs.get(1).copied(), load),
                Run::Layer(layer) => layer(&inputs),
            }?;
            values[step.output] = Some(y);
            done.iter().for_each(|&value| values[value] = None);
        }
        let logits = values[self.output]
            .as_ref()
            .ok_or_else(|| missing(self.output))?;
        logits.to_nchw()?.flatten_from(1)
    }
}

fn missing(value: usize) -> candle_core::Error {
    candle_core::Error::Msg(format!("inference: value {value} is not there"))
}

/// The first of the `later` steps that reads `value`.
fn reader(later: &[Step], value: usize) -> Option<&Step> {
    later.iter().find(|step| step.inputs.contains(&Some(value)))
}

/// Whether `reader` does its work together with the convolution that yields `value`.
fn joint(reader: &Step, value: usize) -> bool {
    match reader.operation.joins() {
        Joins::Nothing => false,
        Joins::First => reader.inputs[0] == Some(value),
        Joins::Any => true,
    }
}
