//! The order of work: layers joined into the steps that the kernels of `dcff-nn` offer.
//!
//! A batch norm whose only reader is an addition or an activation is computed together with it:
//! `act(norm(x) + residual)` is one step, so that the maps are read and written once.

use std::collections::HashMap;

use dcff_nn::{Activation, ConvConfig, PoolConfig};

use crate::architecture::{Architecture, LayerKind, Pool};
use crate::parameters::{Parameter, ParameterKind};
use crate::shapes::Shapes;
use crate::{Error, Result};

/// The images, or the output of the layer at a position.
pub(crate) type Value = Option<usize>;

/// One call of a kernel. Parameters are positions in the network's list.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Step {
    pub(crate) operation: Operation,
    /// The layer whose parameters are used.
    pub(crate) layer: usize,
    pub(crate) inputs: Vec<Value>,
    /// The layer whose output this is: behind `layer` where several were joined.
    pub(crate) output: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Operation {
    Conv {
        weight: usize,
        bias: Option<usize>,
        config: ConvConfig,
    },
    /// Inputs are the maps and, where `residual`, what is added before the activation.
    Norm {
        weight: usize,
        bias: usize,
        mean: usize,
        var: usize,
        eps: f64,
        momentum: f64,
        residual: bool,
        activation: Activation,
    },
    Activation(Activation),
    MaxPool(PoolConfig),
    AvgPool(PoolConfig),
    GlobalAvgPool,
    Linear {
        weight: usize,
        bias: Option<usize>,
    },
    Add(Activation),
    Concat,
    Shortcut {
        stride: usize,
        channels: usize,
    },
}

/// The steps of an architecture, and for each layer the last step that reads its output.
pub(crate) fn steps(
    architecture: &Architecture,
    shapes: &Shapes,
    parameters: &[Parameter],
) -> Result<Vec<Step>> {
    let wiring = architecture.wiring()?;
    let mut readers: Vec<Vec<usize>> = vec![Vec::new(); architecture.layers.len()];
    for (position, inputs) in wiring.iter().enumerate() {
        inputs
            .iter()
            .flatten()
            .for_each(|&input| readers[input].push(position));
    }
    let only_reader = |position: usize| match readers[position][..] {
        [reader] => Some(reader),
        _ => None,
    };
    let index: HashMap<(usize, ParameterKind), usize> = parameters
        .iter()
        .enumerate()
        .map(|(i, p)| ((p.layer, p.kind), i))
        .collect();
    let find = |layer: usize, kind: ParameterKind| {
        index
            .get(&(layer, kind))
            .copied()
            .ok_or_else(|| Error::MissingParameter(architecture.layers[layer].name.clone()))
    };
    let activation_of = |position: usize| match architecture.layers[position].kind {
        LayerKind::Activation { function } => Some(function),
        _ => None,
    };
    // The activation that alone reads a layer, and where the joint step's output then stands.
    let with_activation = |position: usize| match only_reader(position)
        .map(|reader| (reader, activation_of(reader)))
    {
        Some((reader, Some(function))) => (reader, function),
        _ => (position, Activation::Identity),
    };

    let mut done = vec![false; architecture.layers.len()];
    // Norms that wait for the addition that reads them.
    let mut waiting: HashMap<usize, usize> = HashMap::new();
    let mut steps = Vec::new();
    for (position, layer) in architecture.layers.iter().enumerate() {
        if done[position] {
            continue;
        }
        let inputs = wiring[position].clone();
        let mut step = Step {
            operation: Operation::Concat,
            layer: position,
            inputs,
            output: position,
        };
        step.operation = match &layer.kind {
            LayerKind::Conv(conv) => Operation::Conv {
                weight: find(position, ParameterKind::ConvWeight)?,
                bias: if conv.bias {
                    Some(find(position, ParameterKind::ConvBias)?)
                } else {
                    None
                },
                config: ConvConfig {
                    stride: conv.stride,
                    padding: conv.padding,
                    groups: conv.groups,
                    ..ConvConfig::default()
                },
            },
            LayerKind::Norm(_) => {
                // An addition joins the norm it reads first; a second one is computed on its own.
                if let Some(reader) = only_reader(position)
                    && architecture.layers[reader].kind == LayerKind::Add
                    && !waiting.contains_key(&reader)
                    && wiring[reader][0] != wiring[reader][1]
                {
                    waiting.insert(reader, position);
                    continue;
                }
                let (output, activation) = with_activation(position);
                step.output = output;
                norm(architecture, position, false, activation, find)?
            }
            LayerKind::Add => {
                let (output, activation) = with_activation(position);
                step.output = output;
                match waiting.remove(&position) {
                    Some(normed) => {
                        let residual = step
                            .inputs
                            .iter()
                            .copied()
                            .find(|&input| input != Some(normed))
                            .flatten();
                        step.layer = normed;
                        step.inputs = vec![wiring[normed][0], residual];
                        norm(architecture, normed, true, activation, find)?
                    }
                    None => Operation::Add(activation),
                }
            }
            LayerKind::Activation { function } => Operation::Activation(*function),
            LayerKind::MaxPool(pool) => Operation::MaxPool(pool_config(pool)),
            LayerKind::AvgPool(pool) => Operation::AvgPool(pool_config(pool)),
            LayerKind::GlobalAvgPool => Operation::GlobalAvgPool,
            LayerKind::Linear(linear) => Operation::Linear {
                weight: find(position, ParameterKind::LinearWeight)?,
                bias: if linear.bias {
                    Some(find(position, ParameterKind::LinearBias)?)
                } else {
                    None
                },
            },
            LayerKind::Concat => Operation::Concat,
            LayerKind::Shortcut(shortcut) => Operation::Shortcut {
                stride: shortcut.stride,
                channels: shapes.output(position).channels,
            },
        };
        done[step.output] = true;
        steps.push(step);
    }
    Ok(steps)
}

fn norm(
    architecture: &Architecture,
    layer: usize,
    residual: bool,
    activation: Activation,
    find: impl Fn(usize, ParameterKind) -> Result<usize>,
) -> Result<Operation> {
    let LayerKind::Norm(norm) = &architecture.layers[layer].kind else {
        return Err(Error::layer(
            &architecture.layers[layer].name,
            "expected a batch norm",
        ));
    };
    Ok(Operation::Norm {
        weight: find(layer, ParameterKind::NormWeight)?,
        bias: find(layer, ParameterKind::NormBias)?,
        mean: find(layer, ParameterKind::RunningMean)?,
        var: find(layer, ParameterKind::RunningVar)?,
        eps: norm.eps,
        momentum: norm.momentum,
        residual,
        activation,
    })
}

fn pool_config(pool: &Pool) -> PoolConfig {
    PoolConfig {
        kernel: pool.kernel,
        stride: pool.stride,
        padding: pool.padding,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{by_name, parameters};

    fn steps_of(name: &str) -> (Architecture, Vec<Step>) {
        let architecture = by_name(name).unwrap();
        let shapes = architecture.shapes().unwrap();
        let list = steps(
            &architecture,
            &shapes,
            &parameters(&architecture, &architecture).unwrap(),
        )
        .unwrap();
        (architecture, list)
    }

    #[test]
    fn a_residual_block_is_four_steps_and_its_shortcut() {
        let (architecture, list) = steps_of("resnet20");
        let block: Vec<_> = list
            .iter()
            .filter(|s| architecture.layers[s.output].name.starts_with("layer2.0."))
            .collect();
        let outputs: Vec<_> = block
            .iter()
            .map(|s| architecture.layers[s.output].name.as_str())
            .collect();
        assert_eq!(
            outputs,
            [
                "layer2.0.conv1",
                "layer2.0.relu1",
                "layer2.0.conv2",
                "layer2.0.shortcut",
                "layer2.0.relu2"
            ]
        );
        let Operation::Norm {
            residual,
            activation,
            ..
        } = block[4].operation
        else {
            panic!("{:?}", block[4])
        };
        assert!(residual && activation == Activation::Relu);
        let inputs: Vec<_> = block[4]
            .inputs
            .iter()
            .map(|i| architecture.layers[i.unwrap()].name.as_str())
            .collect();
        assert_eq!(inputs, ["layer2.0.conv2", "layer2.0.shortcut"]);
    }

    #[test]
    fn the_norm_of_a_downsampling_shortcut_stands_alone() {
        let (architecture, list) = steps_of("resnet50");
        let step = list
            .iter()
            .find(|s| architecture.layers[s.layer].name == "layer1.0.downsample.1")
            .unwrap();
        let Operation::Norm {
            residual,
            activation,
            ..
        } = step.operation
        else {
            panic!("{step:?}")
        };
        assert!(!residual && activation == Activation::Identity);
    }

    #[test]
    fn every_layer_is_computed_once() {
        for entry in crate::ALL {
            let (architecture, list) = steps_of(entry.name);
            let joined = |kind: fn(&LayerKind) -> bool| {
                architecture.layers.iter().filter(|l| kind(&l.kind)).count()
            };
            let norms = list
                .iter()
                .filter(|s| matches!(s.operation, Operation::Norm { .. }))
                .count();
            assert_eq!(
                norms,
                joined(|k| matches!(k, LayerKind::Norm(_))),
                "{}",
                entry.name
            );
            let convs = list
                .iter()
                .filter(|s| matches!(s.operation, Operation::Conv { .. }))
                .count();
            assert_eq!(
                convs,
                joined(|k| matches!(k, LayerKind::Conv(_))),
                "{}",
                entry.name
            );
        }
    }
}
