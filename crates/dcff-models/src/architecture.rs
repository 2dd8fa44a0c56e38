//! An architecture as data: layers, wiring, channel spaces.

use std::collections::HashMap;

use dcff_nn::Activation;
use serde::{Deserialize, Serialize};

use crate::layers::{AvgPool, Conv, Groups, LayerKind, Linear, Norm, Pool};
use crate::spaces::{Space, Spaces};
use crate::{Error, Result};

/// The name of the image batch in [`Layer::inputs`].
pub const INPUT: &str = "input";

/// More layers than this are a mistake or an attack.
const MAX_LAYERS: usize = 1 << 14;

/// A convolutional network, described completely.
///
/// Layers stand in the order of computation; the last one yields the logits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Architecture {
    /// For example `vgg16`.
    pub name: String,
    /// Channels, height and width of an input image.
    pub input: [usize; 3],
    /// How weights are drawn before training.
    pub initialisation: Initialisation,
    /// The channel spaces in the order in which compression rates are listed.
    pub spaces: Vec<Space>,
    /// The layers in the order of computation.
    pub layers: Vec<Layer>,
}

/// One named layer. Names are PyTorch module paths; parameters are called `name.weight` and so on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Layer {
    /// The module path, unique in its architecture.
    pub name: String,
    /// What it computes.
    #[serde(flatten)]
    pub kind: LayerKind,
    /// The layers it reads, or [`INPUT`].
    pub inputs: Vec<String>,
}

/// How weights are drawn before training (He et al., ICCV 2015; PyTorch's `torch.nn.init`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Initialisation {
    /// PyTorch's defaults: uniform in `±1/sqrt(fan_in)`, weights and biases.
    Uniform,
    /// Convolution and linear weights normal with variance `2/fan_in`.
    KaimingNormalFanIn,
    /// Convolution weights normal with variance `2/fan_out`, fan-out counted on all filters; linear layers uniform.
    KaimingNormalFanOut,
    /// Convolution weights as with [`Initialisation::KaimingNormalFanOut`], linear weights normal with deviation 0.01, biases 0 (torchvision's
    /// and PSS-Net's MobileNets).
    MobileNet,
}

impl Architecture {
    /// The space called `name`.
    pub fn space(&self, name: &str) -> Option<&Space> {
        Spaces(&self.spaces).find(name)
    }

    /// The channels of the space called `name`; 0 when there is none.
    pub fn width(&self, name: &str) -> usize {
        Spaces(&self.spaces).width(name)
    }

    /// The position of the layer called `name`.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.layers.iter().position(|layer| layer.name == name)
    }

    /// All convolutions in the order of computation.
    pub fn convs(&self) -> impl Iterator<Item = (&Layer, &Conv)> {
        self.layers.iter().filter_map(|layer| match &layer.kind {
            LayerKind::Conv(conv) => Some((layer, conv)),
            _ => None,
        })
    }

    /// The convolutions whose filters are scored.
    pub fn scored_convs(&self) -> impl Iterator<Item = (&Layer, &Conv)> {
        self.convs().filter(|(_, conv)| conv.scored)
    }

    /// The batch norm that reads the convolution called `conv`.
    pub fn norm_after(&self, conv: &str) -> Option<&Layer> {
        self.layers.iter().find(|layer| {
            matches!(layer.kind, LayerKind::Norm(_)) && layer.inputs.iter().any(|i| i == conv)
        })
    }

    /// The function that is next applied to the maps of the layer called `name`, behind norms and sums; the identity where another layer
    /// with weights comes first.
    pub fn activation_after(&self, name: &str) -> Activation {
        let mut name = name;
        while let Some(reader) = self
            .layers
            .iter()
            .find(|layer| layer.inputs.iter().any(|input| input == name))
        {
            match &reader.kind {
                LayerKind::Activation { function } => return *function,
                LayerKind::Norm(_) | LayerKind::Add => name = &reader.name,
                _ => break,
            }
        }
        Activation::Identity
    }

    /// The widths of all spaces.
    pub fn widths(&self) -> Vec<usize> {
        self.spaces.iter().map(|space| space.width).collect()
    }

    /// The same network with other widths, one per space.
    ///
    /// # Errors
    /// When the number of widths differs from the number of spaces, or a width is 0 or larger than the space.
    pub fn narrowed(&self, widths: &[usize]) -> Result<Self> {
        let fail = |message: String| Error::Widths {
            architecture: self.name.clone(),
            message,
        };
        if widths.len() != self.spaces.len() {
            return Err(fail(format!(
                "expected {} widths, got {}",
                self.spaces.len(),
                widths.len()
            )));
        }
        let mut narrowed = self.clone();
        for (space, &width) in narrowed.spaces.iter_mut().zip(widths) {
            if width == 0 || width > space.width {
                return Err(fail(format!(
                    "{}: expected 1 to {} channels, got {width}",
                    space.name, space.width
                )));
            }
            space.width = width;
        }
        narrowed.shapes()?;
        Ok(narrowed)
    }

    /// The same network for another number of classes: the last linear layer gets that many outputs.
    pub fn with_classes(mut self, classes: usize) -> Self {
        if let Some(linear) = self
            .layers
            .iter_mut()
            .rev()
            .find_map(|layer| match &mut layer.kind {
                LayerKind::Linear(linear) => Some(linear),
                _ => None,
            })
        {
            linear.features = classes;
        }
        self
    }

    /// The same network for images of another size.
    pub fn with_input(mut self, input: [usize; 3]) -> Self {
        self.input = input;
        self
    }

    /// For each layer, the positions of its inputs; `None` stands for the images.
    ///
    /// # Errors
    /// When a layer reads a name that no earlier layer has, two layers share a name, a name is no module path, or there are no
    /// layers or too many.
    pub fn wiring(&self) -> Result<Vec<Vec<Option<usize>>>> {
        let mut seen: HashMap<&str, usize> = HashMap::new();
        let mut wiring = Vec::with_capacity(self.layers.len());
        if self.layers.is_empty() {
            return Err(Error::layer(&self.name, "the architecture has no layers"));
        }
        let (layers, spaces) = (self.layers.len(), self.spaces.len());
        if layers.max(spaces) > MAX_LAYERS {
            let message = format!(
                "expected at most {MAX_LAYERS} layers and spaces, got {layers} and {spaces}"
            );
            return Err(Error::layer(&self.name, message));
        }
        for (position, layer) in self.layers.iter().enumerate() {
            let inputs = layer
                .inputs
                .iter()
                .map(|input| match (input.as_str(), seen.get(input.as_str())) {
                    (INPUT, _) => Ok(None),
                    (_, Some(&found)) => Ok(Some(found)),
                    (_, None) => Err(Error::layer(
                        &layer.name,
                        format!("reads '{input}', which no earlier layer is called"),
                    )),
                })
                .collect::<Result<Vec<_>>>()?;
            let part = |part: &str| {
                let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
                !part.is_empty() && part.chars().all(allowed)
            };
            if !layer.name.split('.').all(part) {
                let message = "expected a name of letters, digits, '_' and '-' with dots between";
                return Err(Error::layer(&layer.name, message));
            }
            if layer.name == INPUT || seen.insert(&layer.name, position).is_some() {
                return Err(Error::layer(&layer.name, "the name is used twice"));
            }
            wiring.push(inputs);
        }
        Ok(wiring)
    }
}

/// Writes an [`Architecture`] down layer by layer; each call returns the new layer's name.
#[derive(Debug)]
pub struct Builder {
    architecture: Architecture,
}

impl Builder {
    /// Starts with the images.
    pub fn new(name: &str, input: [usize; 3], initialisation: Initialisation) -> Self {
        Self {
            architecture: Architecture {
                name: name.to_owned(),
                input,
                initialisation,
                spaces: Vec::new(),
                layers: Vec::new(),
            },
        }
    }

    /// Declares a channel space; the order of the calls is the order of the compression rates.
    pub fn space(&mut self, name: &str, width: usize) {
        self.architecture.spaces.push(Space {
            name: name.to_owned(),
            width,
        });
    }

    /// Appends a layer that reads `inputs`.
    pub fn layer(&mut self, name: impl Into<String>, kind: LayerKind, inputs: &[&str]) -> String {
        let name = name.into();
        let inputs = inputs.iter().map(|&input| input.to_owned()).collect();
        self.architecture.layers.push(Layer {
            name: name.clone(),
            kind,
            inputs,
        });
        name
    }

    /// The channels of the space called `name`, declared before; 0 when there is none.
    pub fn width(&self, name: &str) -> usize {
        self.architecture.width(name)
    }

    /// Appends a convolution that writes to `space`, with a bias or not.
    pub fn conv(
        &mut self,
        name: impl Into<String>,
        space: &str,
        [kernel, stride, padding]: [usize; 3],
        bias: bool,
        input: &str,
    ) -> String {
        let groups = Groups::Fixed(1);
        self.convolution(
            name,
            space,
            [kernel, stride, padding],
            (groups, bias),
            input,
        )
    }

    /// Appends a convolution of every channel apart, without bias; `space` is the one that `input` was written to.
    pub fn depthwise(
        &mut self,
        name: impl Into<String>,
        space: &str,
        [kernel, stride, padding]: [usize; 3],
        input: &str,
    ) -> String {
        let groups = Groups::Depthwise;
        self.convolution(
            name,
            space,
            [kernel, stride, padding],
            (groups, false),
            input,
        )
    }

    /// A convolution whose filters mix channels is scored, one of every channel apart takes what its input keeps.
    fn convolution(
        &mut self,
        name: impl Into<String>,
        space: &str,
        [kernel, stride, padding]: [usize; 3],
        (groups, bias): (Groups, bool),
        input: &str,
    ) -> String {
        let conv = Conv {
            space: space.to_owned(),
            kernel,
            stride,
            padding,
            groups,
            bias,
            scored: groups != Groups::Depthwise,
        };
        self.layer(name, LayerKind::Conv(conv), &[input])
    }

    /// Appends batch normalisation with PyTorch's defaults.
    pub fn norm(&mut self, name: impl Into<String>, input: &str) -> String {
        self.layer(name, LayerKind::Norm(Norm::default()), &[input])
    }

    /// Appends a rectified linear unit.
    pub fn relu(&mut self, name: impl Into<String>, input: &str) -> String {
        self.activation(name, Activation::Relu, input)
    }

    /// Appends an element-wise function.
    pub fn activation(
        &mut self,
        name: impl Into<String>,
        function: Activation,
        input: &str,
    ) -> String {
        self.layer(name, LayerKind::Activation { function }, &[input])
    }

    /// Appends max pooling.
    pub fn max_pool(
        &mut self,
        name: impl Into<String>,
        [kernel, stride, padding]: [usize; 3],
        input: &str,
    ) -> String {
        self.layer(
            name,
            LayerKind::MaxPool(Pool {
                kernel,
                stride,
                padding,
            }),
            &[input],
        )
    }

    /// Appends average pooling without padding.
    pub fn avg_pool(
        &mut self,
        name: impl Into<String>,
        kernel: usize,
        stride: usize,
        input: &str,
    ) -> String {
        self.layer(
            name,
            LayerKind::AvgPool(AvgPool(Pool {
                kernel,
                stride,
                padding: 0,
            })),
            &[input],
        )
    }

    /// Appends a linear layer with bias.
    pub fn linear(&mut self, name: impl Into<String>, features: usize, input: &str) -> String {
        self.layer(
            name,
            LayerKind::Linear(Linear {
                features,
                bias: true,
            }),
            &[input],
        )
    }

    /// The finished architecture.
    pub fn finish(self) -> Architecture {
        self.architecture
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiny() -> Architecture {
        let mut b = Builder::new("tiny", [3, 4, 4], Initialisation::Uniform);
        b.space("a", 8);
        let x = b.conv("a", "a", [3, 1, 1], true, INPUT);
        let x = b.relu("relu", &x);
        b.linear("fc", 10, &x);
        b.finish()
    }

    #[test]
    fn serialises_to_readable_json_and_back() {
        let text = serde_json::to_string(&tiny()).unwrap();
        assert!(
            text.contains(r#"{"name":"a","type":"conv","space":"a","kernel":3,"stride":1"#),
            "{text}"
        );
        assert_eq!(serde_json::from_str::<Architecture>(&text).unwrap(), tiny());
    }

    #[test]
    fn refuses_widths_that_do_not_fit() {
        assert_eq!(
            tiny().narrowed(&[]).unwrap_err().to_string(),
            "tiny: expected 1 widths, got 0"
        );
        assert_eq!(
            tiny().narrowed(&[0]).unwrap_err().to_string(),
            "tiny: a: expected 1 to 8 channels, got 0"
        );
        assert_eq!(
            tiny().narrowed(&[9]).unwrap_err().to_string(),
            "tiny: a: expected 1 to 8 channels, got 9"
        );
        assert_eq!(tiny().narrowed(&[5]).unwrap().widths(), [5]);
    }

    #[test]
    fn finds_the_next_activation() {
        let mut b = Builder::new("tiny", [3, 4, 4], Initialisation::Uniform);
        b.space("a", 8);
        let x = b.conv("a", "a", [3, 1, 1], true, INPUT);
        let y = b.norm("norm", &x);
        let y = b.layer("add", LayerKind::Add, &[&y, &x]);
        let y = b.activation("relu6", Activation::Relu6, &y);
        let y = b.conv("linear", "a", [1, 1, 0], true, &y);
        b.linear("fc", 10, &y);
        let tiny = b.finish();
        assert_eq!(tiny.activation_after("norm"), Activation::Relu6);
        assert_eq!(tiny.activation_after("linear"), Activation::Identity);
    }

    #[test]
    fn refuses_unknown_inputs_and_repeated_names() {
        let mut architecture = tiny();
        architecture.layers[1].inputs = vec!["b".into()];
        assert_eq!(
            architecture.wiring().unwrap_err().to_string(),
            "relu: reads 'b', which no earlier layer is called"
        );
        let mut architecture = tiny();
        architecture.layers[1].name = "a".into();
        assert_eq!(
            architecture.wiring().unwrap_err().to_string(),
            "a: the name is used twice"
        );
    }
}
