//! Shape inference: the channels, height and width of every layer's output.

use crate::architecture::Architecture;
use crate::layers::LayerKind;
pub use crate::shape::Shape;
use crate::spaces::Spaces;
use crate::{Error, Result};

/// The most elements one image and all its maps may have, 4 GiB as `f32`; a larger description is a mistake or an attack.
const MAX_NUMEL: usize = 1 << 30;

/// Input and output shapes of every layer of an architecture, in its layers' order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shapes {
    names: Vec<String>,
    inputs: Vec<Vec<Shape>>,
    outputs: Vec<Shape>,
    total: usize,
}

impl Shapes {
    /// The number of elements of one image and all its maps.
    pub fn total(&self) -> usize {
        self.total
    }

    /// The shapes that layer `position` reads.
    pub fn inputs(&self, position: usize) -> &[Shape] {
        &self.inputs[position]
    }

    /// The shape that layer `position` writes.
    pub fn output(&self, position: usize) -> Shape {
        self.outputs[position]
    }

    /// The shape that the layer called `name` writes.
    pub fn output_of(&self, name: &str) -> Option<Shape> {
        self.names
            .iter()
            .position(|n| n == name)
            .map(|position| self.outputs[position])
    }

    /// The number of logits.
    pub fn classes(&self) -> usize {
        self.outputs.last().map_or(0, Shape::numel)
    }
}

impl Architecture {
    /// Infers all shapes, checking the whole description on the way.
    ///
    /// # Errors
    /// The first layer whose inputs do not fit, with what was expected and what came.
    pub fn shapes(&self) -> Result<Shapes> {
        let wiring = self.wiring()?;
        let [channels, height, width] = self.input;
        let image = Shape {
            channels,
            height,
            width,
        };
        let mut total = match image.checked_numel() {
            Some(n) if (1..=MAX_NUMEL).contains(&n) => n,
            _ => {
                let input = self.input;
                let message =
                    format!("expected an input of 1 to {MAX_NUMEL} elements, got {input:?}");
                return Err(Error::layer(&self.name, message));
            }
        };
        let mut shapes = Shapes {
            names: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            total: 0,
        };
        for (layer, inputs) in self.layers.iter().zip(&wiring) {
            let inputs: Vec<Shape> = inputs
                .iter()
                .map(|input| input.map_or(image, |i| shapes.outputs[i]))
                .collect();
            let output = self
                .output_shape(&layer.kind, &inputs)
                .map_err(|message| Error::layer(&layer.name, message))?;
            match output.checked_numel().and_then(|n| total.checked_add(n)) {
                Some(sum) if sum <= MAX_NUMEL => total = sum,
                _ => {
                    let message = format!(
                        "expected maps of at most {MAX_NUMEL} elements in all layers, got {} x {} x {} here",
                        output.channels, output.height, output.width
                    );
                    return Err(Error::layer(&layer.name, message));
                }
            }
            shapes.names.push(layer.name.clone());
            shapes.inputs.push(inputs);
            shapes.outputs.push(output);
        }
        shapes.total = total;
        Ok(shapes)
    }

    fn output_shape(&self, kind: &LayerKind, inputs: &[Shape]) -> Result<Shape, String> {
        let rule = kind.rule();
        match (rule.inputs(), inputs) {
            (_, []) => Err("expected an input, got none".into()),
            (Some(n), _) if inputs.len() != n => {
                Err(format!("expected {n} inputs, got {}", inputs.len()))
            }
            _ => rule.shape(Spaces(&self.spaces), inputs),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ALL, by_name};

    fn output(name: &str, layer: &str) -> [usize; 3] {
        let Shape {
            channels,
            height,
            width,
        } = by_name(name)
            .unwrap()
            .shapes()
            .unwrap()
            .output_of(layer)
            .unwrap();
        [channels, height, width]
    }

    #[test]
    fn every_listed_network_is_sound() {
        for entry in ALL {
            let architecture = entry.build();
            assert_eq!(architecture.name, entry.name);
            let classes = architecture.shapes().unwrap().classes();
            assert_eq!(
                classes,
                if architecture.input[1] == 224 {
                    1000
                } else {
                    10
                },
                "{}",
                entry.name
            );
        }
    }

    #[test]
    fn follows_strides_pools_and_concatenations() {
        assert_eq!(output("vgg16", "features.44"), [512, 1, 1]);
        assert_eq!(output("resnet56", "layer3.8.relu2"), [64, 8, 8]);
        assert_eq!(output("googlenet", "a3.concat"), [256, 32, 32]);
        assert_eq!(output("googlenet", "b5.concat"), [1024, 8, 8]);
        assert_eq!(output("resnet50", "maxpool"), [64, 56, 56]);
        assert_eq!(output("resnet50", "layer4.2.relu3"), [2048, 7, 7]);
    }

    #[test]
    fn absurd_sizes_are_refused_before_anything_is_multiplied() {
        let refused = |change: &dyn Fn(&mut Architecture)| {
            let mut architecture = by_name("resnet20").unwrap();
            change(&mut architecture);
            architecture.shapes().unwrap_err().to_string()
        };
        assert_eq!(
            refused(&|a| a.input = [3, 1 << 40, 1 << 40]),
            "resnet20: expected an input of 1 to 1073741824 elements, got [3, 1099511627776, 1099511627776]"
        );
        // Every map alone is allowed, all of them are not.
        let text = refused(&|a| a.input = [3, 4096, 4096]);
        assert!(
            text.contains("elements in all layers, got 16 x 4096 x 4096 here"),
            "{text}"
        );
        let wide = refused(&|a| a.spaces[0].width = usize::MAX);
        assert!(
            wide.contains("elements in all layers, got 18446744073709551615 x"),
            "{wide}"
        );
        for (kernel, stride, padding) in [(usize::MAX, 1, usize::MAX - 1), (1, usize::MAX, 0)] {
            let text = refused(&|a| {
                if let LayerKind::Conv(conv) = &mut a.layers[0].kind {
                    (conv.kernel, conv.stride, conv.padding) = (kernel, stride, padding);
                }
            });
            let expected = "expected kernel, stride and padding of at most 65536, got";
            assert!(text.contains(expected), "{text}");
        }
    }

    #[test]
    fn names_the_layer_that_does_not_fit() {
        let mut vgg = by_name("vgg16").unwrap();
        vgg.input = [3, 16, 16];
        assert_eq!(
            vgg.shapes().unwrap_err().to_string(),
            "features.43: a window of 2 with padding 0 does not fit maps of 1 x 1"
        );
    }
}
