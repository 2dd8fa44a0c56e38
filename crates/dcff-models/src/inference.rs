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
use dcff_nn::inference::{self, Channels, Conv, Load, Maps};
use dcff_nn::{Activation, ConvConfig, PoolConfig};

use crate::network::Network;
use crate::plan::{Operation, Step, Value};
use crate::trace::Mode;
use crate::view::Views;
use crate::{Error, Result, internal};

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

#[derive(Debug)]
struct PreparedStep {
    layer: Layer,
    inputs: Vec<Value>,
    output: usize,
}

#[derive(Debug)]
enum Layer {
    /// Inputs are the maps and, where there are two, what is added before the activation.
    Conv(Box<Conv>),
    Activation(Activation),
    MaxPool(PoolConfig),
    AvgPool(PoolConfig),
    GlobalAvgPool,
    Add(Activation),
    Concat,
    Shortcut {
        stride: usize,
        channels: usize,
    },
}

/// A convolution as it will be prepared.
struct Plain {
    weight: Tensor,
    bias: Option<Tensor>,
    config: ConvConfig,
    activation: Activation,
}

impl Prepared {
    fn new(network: &Network) -> Result<Self> {
        let steps = network.steps();
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
            let lies = |value: Value| match value {
                None => Ok(images.clone()),
                Some(value) => channels[value]
                    .clone()
                    .ok_or_else(|| internal("a value is read before it is there")),
            };
            let mut conv = None;
            let layer = match &step.operation {
                Operation::Conv {
                    weight,
                    bias,
                    config,
                } => {
                    let plain = Plain {
                        weight: network.tensor(*weight).clone(),
                        bias: bias.map(|bias| network.tensor(bias).clone()),
                        config: *config,
                        activation: Activation::Identity,
                    };
                    let joins = readers[step.output] == 1
                        && reader(&steps[i + 1..], step.output).is_some_and(|reader| {
                            // Of two convolutions that are added, the first waits for the second.
                            let mut other = reader.inputs.iter().flatten();
                            joint(reader, step.output) && other.all(|&v| waiting[v].is_none())
                        });
                    if joins {
                        waiting[step.output] = Some((plain, step.inputs[0]));
                        continue;
                    }
                    conv = Some(plain);
                    None
                }
                Operation::Norm { activation, .. } => {
                    let plain = match folded {
                        Some((plain, input)) => {
                            inputs[0] = input;
                            plain
                        }
                        None => identity(network, step)?,
                    };
                    conv = Some(Plain {
                        activation: *activation,
                        ..fold(network, step, plain)?
                    });
                    None
                }
                Operation::Activation(function) => match folded {
                    Some((plain, input)) => {
                        inputs[0] = input;
                        conv = Some(Plain {
                            activation: *function,
                            ..plain
                        });
                        None
                    }
                    None => Some((Layer::Activation(*function), lies(inputs[0])?)),
                },
                Operation::Linear { weight, bias } => {
                    let shape = network.shapes().inputs(step.layer)[0];
                    let weight = network.tensor(*weight);
                    let kernel = (weight.dim(0)?, shape.channels, shape.height, shape.width);
                    conv = Some(Plain {
                        weight: weight.reshape(kernel)?,
                        bias: bias.map(|bias| network.tensor(bias).clone()),
                        config: ConvConfig::default(),
                        activation: Activation::Identity,
                    });
                    None
                }
                Operation::MaxPool(config) => Some((Layer::MaxPool(*config), lies(inputs[0])?)),
                Operation::AvgPool(config) => Some((Layer::AvgPool(*config), lies(inputs[0])?)),
                Operation::GlobalAvgPool => Some((Layer::GlobalAvgPool, lies(inputs[0])?)),
                Operation::Add(function) => match folded {
                    Some((plain, input)) => {
                        inputs[0] = input;
                        conv = Some(Plain {
                            activation: *function,
                            ..plain
                        });
                        None
                    }
                    None => Some((Layer::Add(*function), lies(inputs[0])?)),
                },
                Operation::Concat => {
                    let parts = inputs
                        .iter()
                        .map(|&input| lies(input))
                        .collect::<Result<Vec<_>>>()?;
                    Some((Layer::Concat, Channels::joined(&parts)))
                }
                Operation::Shortcut { stride, channels } => {
                    let layer = Layer::Shortcut {
                        stride: *stride,
                        channels: *channels,
                    };
                    Some((layer, Channels::new(*channels)))
                }
            };
            let (layer, lie) = match (layer, conv) {
                (Some(found), _) => found,
                (None, Some(plain)) => {
                    let lie = lies(inputs[0])?;
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
                    (Layer::Conv(Box::new(conv)), lie)
                }
                (None, None) => return Err(internal("a step without a layer")),
            };
            channels[step.output] = Some(lie);
            prepared.push(PreparedStep {
                layer,
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
            let x = inputs[0];
            let y = match &step.layer {
                Layer::Conv(conv) => conv.forward(x, inputs.get(1).copied(), load),
                Layer::Activation(function) => inference::activation(x, *function),
                Layer::MaxPool(config) => inference::max_pool2d(x, *config),
                Layer::AvgPool(config) => inference::avg_pool2d(x, *config),
                Layer::GlobalAvgPool => inference::global_avg_pool(x),
                Layer::Add(function) => inference::add(x, inputs[1], *function),
                Layer::Concat => inference::concat(&inputs),
                Layer::Shortcut { stride, channels } => inference::shortcut(x, *stride, *channels),
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
    match reader.operation {
        Operation::Norm { .. } | Operation::Activation(_) => reader.inputs[0] == Some(value),
        Operation::Add(_) => true,
        _ => false,
    }
}

/// A convolution that leaves every channel of the step's input as it is.
fn identity(network: &Network, step: &Step) -> Result<Plain> {
    let channels = network.shapes().inputs(step.layer)[0].channels;
    let device = network.device();
    Ok(Plain {
        weight: Tensor::ones((channels, 1, 1, 1), candle_core::DType::F32, device)?,
        bias: None,
        config: ConvConfig {
            groups: channels,
            ..ConvConfig::default()
        },
        activation: Activation::Identity,
    })
}

/// `plain` followed by the norm of `step`.
fn fold(network: &Network, step: &Step, plain: Plain) -> Result<Plain> {
    let Operation::Norm {
        weight,
        bias,
        mean,
        var,
        eps,
        ..
    } = step.operation
    else {
        return Err(internal("expected a batch norm"));
    };
    let numbers = |tensor: &Tensor| tensor.flatten_all()?.to_vec1::<f32>();
    let [gamma, beta, mean, var] =
        [weight, bias, mean, var].map(|parameter| numbers(network.tensor(parameter)));
    let norm = [gamma?, beta?, mean?, var?];
    let old = plain.bias.as_ref().map(numbers).transpose()?;
    let (weight, bias) = fold_norm(&numbers(&plain.weight)?, old.as_deref(), &norm, eps);
    Ok(Plain {
        bias: Some(Tensor::from_vec(bias, norm[0].len(), &Device::Cpu)?),
        weight: Tensor::from_vec(weight, plain.weight.shape(), &Device::Cpu)?,
        ..plain
    })
}

/// Weights `[C_out, …]` and bias `[C_out]` of a convolution that does the work of the norm `[γ, β, μ, σ²]` behind it as well:
///
/// ```text
/// w'[o] = w[o] γ[o] / √(σ²[o] + ε)          b'[o] = β[o] + (b[o] - μ[o]) γ[o] / √(σ²[o] + ε)
/// ```
///
/// in `f64`, rounded once. Jacob et al., *Quantization and Training of Neural Networks for Efficient
/// Integer-Arithmetic-Only Inference*, CVPR 2018, section 3.2, <https://arxiv.org/abs/1712.05877>.
///
/// # Panics
/// If the norm's parts or the bias have other lengths than `C_out`.
pub fn fold_norm(
    weight: &[f32],
    bias: Option<&[f32]>,
    [gamma, beta, mean, var]: &[Vec<f32>; 4],
    eps: f64,
) -> (Vec<f32>, Vec<f32>) {
    let scale: Vec<f64> = gamma
        .iter()
        .zip(var)
        .map(|(&gamma, &var)| f64::from(gamma) / (f64::from(var) + eps).sqrt())
        .collect();
    let per_filter = weight.len() / scale.len().max(1);
    let weight = weight
        .iter()
        .enumerate()
        .map(|(i, &w)| (f64::from(w) * scale[i / per_filter]) as f32)
        .collect();
    let bias = (0..scale.len())
        .map(|o| {
            let bias = bias.map_or(0.0, |bias| f64::from(bias[o]));
            (f64::from(beta[o]) + (bias - f64::from(mean[o])) * scale[o]) as f32
        })
        .collect();
    (weight, bias)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folds_a_norm_by_hand() {
        // Scales: 3 / √(3 + 1) = 1.5 and -1 / √(0.25 + 0) with ε = 0 for the second: given apart.
        let norm = [vec![3.0], vec![0.5], vec![2.0], vec![3.0]];
        let (weight, bias) = fold_norm(&[1.0, -2.0], Some(&[4.0]), &norm, 1.0);
        assert_eq!((weight, bias), (vec![1.5, -3.0], vec![3.5]));
        let norm = [
            vec![-1.0, 2.0],
            vec![0.0, 1.0],
            vec![1.0, 0.0],
            vec![0.25, 4.0],
        ];
        let (weight, bias) = fold_norm(&[1.0, 2.0, 3.0, 4.0], None, &norm, 0.0);
        assert_eq!(weight, [-2.0, -4.0, 3.0, 4.0]);
        assert_eq!(bias, [2.0, 1.0]);
    }
}
