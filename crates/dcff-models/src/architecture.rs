//! An architecture as data: layers, wiring, channel spaces.

use std::collections::HashMap;

use dcff_nn::Activation;
use serde::{Deserialize, Serialize};

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

/// A set of channels that one or more convolutions write to, and that is narrowed as one.
///
/// Convolutions of one space have the same number of output channels, because their maps are added (the
/// stages of a ResNet). The published code gives one compression rate per space.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Space {
    /// The name of its only convolution, or of the stage it belongs to.
    pub name: String,
    /// The number of channels.
    pub width: usize,
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

/// What a layer computes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum LayerKind {
    /// Two-dimensional convolution.
    Conv(Conv),
    /// Batch normalisation over `[N, H, W]`, one scale and shift per channel.
    Norm(Norm),
    /// An element-wise function.
    Activation {
        /// Which one.
        function: Activation,
    },
    /// The maximum of each window.
    MaxPool(Pool),
    /// The mean of each window, padding counted.
    AvgPool(Pool),
    /// The mean of each channel: `[N, C, H, W]` to `[N, C, 1, 1]`.
    GlobalAvgPool,
    /// An affine map of the flattened input.
    Linear(Linear),
    /// The sum of two inputs of one shape.
    Add,
    /// The inputs side by side along the channels.
    Concat,
    /// The parameter-free shortcut of CIFAR ResNets ("option A"): every `stride`-th pixel, channels padded with zeros.
    Shortcut(Shortcut),
}

/// A convolution; its number of output channels is its space's width.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conv {
    /// The channel space it writes to.
    pub space: String,
    /// Height and width of the kernel.
    pub kernel: usize,
    /// Step between windows, both ways.
    pub stride: usize,
    /// Zeros on each side.
    pub padding: usize,
    /// Groups of channels convolved apart.
    #[serde(default = "one")]
    pub groups: usize,
    /// Whether a bias is added.
    pub bias: bool,
    /// Whether its filters are scored, fused or selected. A convolution that is not keeps as many filters as its
    /// space is wide from the start (the downsampling convolutions of ResNet-50).
    #[serde(default = "yes")]
    pub scored: bool,
}

/// Batch normalisation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Norm {
    /// Added to the variance.
    pub eps: f64,
    /// Weight of the *new* batch statistic in the running one, as in PyTorch.
    pub momentum: f64,
}

impl Default for Norm {
    fn default() -> Self {
        Self {
            eps: 1e-5,
            momentum: 0.1,
        }
    }
}

/// A pooling window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// Height and width of the window.
    pub kernel: usize,
    /// Step between windows.
    pub stride: usize,
    /// Border on each side.
    #[serde(default)]
    pub padding: usize,
}

/// An affine map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Linear {
    /// Number of outputs.
    pub features: usize,
    /// Whether a bias is added.
    pub bias: bool,
}

/// A parameter-free shortcut.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shortcut {
    /// Every `stride`-th pixel is taken, both ways.
    pub stride: usize,
    /// The channel space whose width it pads to.
    pub space: String,
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
}

fn one() -> usize {
    1
}

fn yes() -> bool {
    true
}

impl Architecture {
    /// The space called `name`.
    pub fn space(&self, name: &str) -> Option<&Space> {
        self.spaces.iter().find(|space| space.name == name)
    }

    /// The channels of the space called `name`; 0 when there is none.
    pub fn width(&self, name: &str) -> usize {
        self.space(name).map_or(0, |space| space.width)
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

    /// Appends a convolution without bias that writes to `space`.
    pub fn conv(
        &mut self,
        name: impl Into<String>,
        space: &str,
        [kernel, stride, padding]: [usize; 3],
        bias: bool,
        input: &str,
    ) -> String {
        let conv = Conv {
            space: space.to_owned(),
            kernel,
            stride,
            padding,
            groups: 1,
            bias,
            scored: true,
        };
        self.layer(name, LayerKind::Conv(conv), &[input])
    }

    /// Appends batch normalisation with PyTorch's defaults.
    pub fn norm(&mut self, name: impl Into<String>, input: &str) -> String {
        self.layer(name, LayerKind::Norm(Norm::default()), &[input])
    }

    /// Appends a rectified linear unit.
    pub fn relu(&mut self, name: impl Into<String>, input: &str) -> String {
        self.layer(
            name,
            LayerKind::Activation {
                function: Activation::Relu,
            },
            &[input],
        )
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
            LayerKind::AvgPool(Pool {
                kernel,
                stride,
                padding: 0,
            }),
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
