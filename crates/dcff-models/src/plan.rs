//! The order of work: layers joined into the steps that the kernels of `dcff-nn` offer.
//!
//! A batch norm whose only reader is an addition or an activation is computed together with it:
//! `act(norm(x) + residual)` is one step, so that the maps are read and written once.

use std::collections::HashMap;

use dcff_nn::Activation;

use crate::architecture::Architecture;
use crate::layers::{LayerKind, Operation, Planner, Step};
use crate::parameter::{Parameter, ParameterKind};
use crate::shape::Shape;
use crate::shapes::Shapes;
use crate::trace::Value;
use crate::{Error, Result};

/// Goes over an architecture's layers in their order; a layer's rule asks it for what the layer's step needs.
struct Layers<'a> {
    architecture: &'a Architecture,
    shapes: &'a Shapes,
    wiring: Vec<Vec<Value>>,
    readers: Vec<Vec<usize>>,
    /// Parameters by layer and kind, as positions in the network's list.
    index: HashMap<(usize, ParameterKind), usize>,
    /// Norms that wait for the addition that reads them.
    waiting: HashMap<usize, usize>,
    /// The layer that is planned, and what will be its step's.
    position: usize,
    layer: usize,
    inputs: Vec<Value>,
    output: usize,
}

impl Layers<'_> {
    fn only_reader(&self, position: usize) -> Option<usize> {
        match self.readers[position][..] {
            [reader] => Some(reader),
            _ => None,
        }
    }
}

impl Planner for Layers<'_> {
    fn shape(&self) -> Shape {
        self.shapes.output(self.position)
    }

    fn input_shape(&self) -> Shape {
        self.shapes.inputs(self.position)[0]
    }

    fn find(&self, kind: ParameterKind) -> Result<usize> {
        let found = self.index.get(&(self.layer, kind)).copied();
        found.ok_or_else(|| {
            Error::MissingParameter(self.architecture.layers[self.layer].name.clone())
        })
    }

    fn activation(&mut self) -> Activation {
        let reader = self.only_reader(self.position);
        match reader.map(|reader| (reader, &self.architecture.layers[reader].kind)) {
            Some((reader, LayerKind::Activation { function })) => {
                self.output = reader;
                *function
            }
            _ => Activation::Identity,
        }
    }

    fn waits_for_addition(&mut self) -> bool {
        let Some(reader) = self.only_reader(self.position) else {
            return false;
        };
        let inputs = &self.wiring[reader];
        let waits = self.architecture.layers[reader].kind == LayerKind::Add
            && !self.waiting.contains_key(&reader)
            && inputs[0] != inputs[1];
        if waits {
            self.waiting.insert(reader, self.position);
        }
        waits
    }

    fn waiting_norm(&mut self, activation: Activation) -> Result<Option<Box<dyn Operation>>> {
        let Some(normed) = self.waiting.remove(&self.position) else {
            return Ok(None);
        };
        let LayerKind::Norm(norm) = &self.architecture.layers[normed].kind else {
            return Ok(None);
        };
        let other = self.inputs.iter().copied();
        let residual = other.flatten().find(|&input| input != normed);
        self.layer = normed;
        self.inputs = vec![self.wiring[normed][0], residual];
        norm.step(self, true, activation).map(Some)
    }
}

/// The steps of an architecture.
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
    let index = parameters.iter().enumerate();
    let mut planner = Layers {
        architecture,
        shapes,
        wiring,
        readers,
        index: index.map(|(i, p)| ((p.layer, p.kind), i)).collect(),
        waiting: HashMap::new(),
        position: 0,
        layer: 0,
        inputs: Vec::new(),
        output: 0,
    };
    let mut done = vec![false; architecture.layers.len()];
    let mut steps = Vec::new();
    for (position, layer) in architecture.layers.iter().enumerate() {
        if done[position] {
            continue;
        }
        planner.position = position;
        planner.layer = position;
        planner.output = position;
        planner.inputs = planner.wiring[position].clone();
        let Some(operation) = layer.kind.rule().plan(&mut planner)? else {
            continue;
        };
        done[planner.output] = true;
        steps.push(Step {
            operation: operation.into(),
            layer: planner.layer,
            inputs: std::mem::take(&mut planner.inputs),
            output: planner.output,
        });
    }
    Ok(steps)
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
        let joined = format!("{:?}", block[4].operation);
        assert!(
            joined.contains("residual: true") && joined.contains("activation: Relu"),
            "{joined}"
        );
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
        let alone = format!("{:?}", step.operation);
        assert!(
            alone.contains("residual: false") && alone.contains("activation: Identity"),
            "{alone}"
        );
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
                .filter(|s| s.operation.statistics().is_some())
                .count();
            assert_eq!(
                norms,
                joined(|k| matches!(k, LayerKind::Norm(_))),
                "{}",
                entry.name
            );
            let convs = list
                .iter()
                .filter(|s| s.operation.filters().is_some())
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
