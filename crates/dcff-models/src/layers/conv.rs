//! Two-dimensional convolution, in groups or not; what views choose from.

use candle_core::Tensor;
use dcff_nn::{Activation, ConvConfig, Features, InputGradient};
use serde::de::{self, Deserializer};
use serde::{Deserialize, Serialize, Serializer};

use super::operation::{Backward, FilterTensors, Forward, Operation, Plain, Ready, Readying};
use super::rule::{KeptChannels, Planner, Rule, Selection, take};
use crate::parameter::ParameterKind;
use crate::profile::{Pass, timed};
use crate::shape::{Shape, window};
use crate::spaces::Spaces;
use crate::trace::Saved;
use crate::{Error, Result, internal};

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
    #[serde(default)]
    pub groups: Groups,
    /// Whether a bias is added.
    pub bias: bool,
    /// Whether its filters are scored, fused or selected. A convolution that is not keeps as many filters as its
    /// space is wide from the start (the downsampling convolutions of ResNet-50, depthwise convolutions).
    #[serde(default = "yes")]
    pub scored: bool,
}

/// Groups of channels that are convolved apart; as JSON a number, or `"depthwise"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Groups {
    /// So many, whatever the widths; 1 is an ordinary convolution.
    Fixed(usize),
    /// One for every channel, which is written to the space that it is read from: narrowed with it.
    Depthwise,
}

impl Groups {
    /// How many there are where `channels` channels are read.
    pub fn of(self, channels: usize) -> usize {
        match self {
            Self::Fixed(groups) => groups,
            Self::Depthwise => channels,
        }
    }
}

impl Default for Groups {
    fn default() -> Self {
        Self::Fixed(1)
    }
}

const DEPTHWISE: &str = "depthwise";

impl Serialize for Groups {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Fixed(groups) => groups.serialize(serializer),
            Self::Depthwise => DEPTHWISE.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Groups {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a number of groups or \"depthwise\"")]
        enum Written {
            Number(usize),
            Word(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Number(groups) => Ok(Self::Fixed(groups)),
            Written::Word(word) if word == DEPTHWISE => Ok(Self::Depthwise),
            Written::Word(word) => Err(de::Error::custom(format!(
                "expected a number of groups or \"{DEPTHWISE}\", got \"{word}\""
            ))),
        }
    }
}

fn yes() -> bool {
    true
}

impl Rule for Conv {
    fn shape(&self, spaces: Spaces<'_>, inputs: &[Shape]) -> Result<Shape, String> {
        let (x, filters) = (inputs[0], spaces.declared(&self.space)?);
        match self.groups {
            Groups::Depthwise if filters != x.channels => {
                return Err(format!(
                    "expected a space as wide as the {} channels that the depthwise convolution reads, got {filters}",
                    x.channels
                ));
            }
            Groups::Depthwise if self.scored => {
                return Err(
                    "expected a depthwise convolution not to be scored: its filters go with the channels it reads".into(),
                );
            }
            Groups::Fixed(groups)
                if groups == 0
                    || !x.channels.is_multiple_of(groups)
                    || !filters.is_multiple_of(groups) =>
            {
                return Err(format!(
                    "expected {groups} groups to divide {} and {filters} channels",
                    x.channels
                ));
            }
            Groups::Fixed(_) | Groups::Depthwise => {}
        }
        window(x, filters, self.kernel, self.stride, self.padding)
    }

    fn parameters(
        &self,
        [full, compact]: [Spaces<'_>; 2],
        input: Shape,
    ) -> Vec<(ParameterKind, Vec<usize>)> {
        let owner = if self.scored { full } else { compact };
        let filters = owner.width(&self.space);
        let depth = input.channels / self.groups.of(input.channels);
        let weight = vec![filters, depth, self.kernel, self.kernel];
        let mut all = vec![(ParameterKind::ConvWeight, weight)];
        if self.bias {
            all.push((ParameterKind::ConvBias, vec![filters]));
        }
        all
    }

    fn space<'a>(&'a self, _: Option<&'a str>) -> Option<&'a str> {
        Some(&self.space)
    }

    fn kept(&self, channels: &KeptChannels<'_>) -> Result<Vec<usize>, String> {
        let kept = channels.of(&self.space)?;
        match self.groups {
            Groups::Fixed(1) => Ok(kept),
            Groups::Depthwise if kept == channels.read[0] => Ok(kept),
            Groups::Depthwise => {
                Err("keeps other channels than it reads, and it convolves each alone".into())
            }
            Groups::Fixed(_) => {
                Err("expected one group: grouped convolutions are not pruned".into())
            }
        }
    }

    fn select(&self, selection: &mut Selection<'_>) -> Result<()> {
        let (view, input, output) = (selection.view, selection.input, selection.output);
        let rows = |tensor: Tensor| match view.chooses() {
            true => Ok(tensor),
            false => take(&tensor, output, 0),
        };
        (selection.change)("weight", &|weight| {
            let weight = rows(view.weight(weight)?)?;
            match self.groups {
                Groups::Depthwise => Ok(weight),
                Groups::Fixed(_) => take(&weight, input, 1),
            }
        })?;
        (selection.change)("bias", &|bias| rows(view.bias(bias)?))
    }

    fn leads(&self, input: [Shape; 2], output: [Shape; 2]) -> Result<bool, String> {
        let narrower = input[0].channels < input[1].channels || output[0] != output[1];
        match self.groups {
            Groups::Fixed(groups) if groups > 1 && narrower => Err(format!(
                "{groups} groups of fewer channels are not the first part of the wide layer's"
            )),
            Groups::Fixed(_) | Groups::Depthwise => Ok(true),
        }
    }

    fn joined(&self, reads_joined: bool) -> bool {
        reads_joined && self.groups == Groups::Depthwise
    }

    fn plan(&self, planner: &mut dyn Planner) -> Result<Option<Box<dyn Operation>>> {
        let bias = self.bias.then(|| planner.find(ParameterKind::ConvBias));
        let channels = planner.input_shape().channels;
        Ok(Some(Box::new(Step {
            tensors: FilterTensors {
                weight: planner.find(ParameterKind::ConvWeight)?,
                bias: bias.transpose()?,
            },
            config: ConvConfig {
                stride: self.stride,
                padding: self.padding,
                groups: self.groups.of(channels),
                ..ConvConfig::default()
            },
        })))
    }
}

#[derive(Debug)]
struct Step {
    tensors: FilterTensors,
    config: ConvConfig,
}

impl Operation for Step {
    fn forward(&self, mut at: Forward<'_>) -> Result<(Features, Saved)> {
        let (filters, bias) = at
            .filters
            .take()
            .ok_or_else(|| internal("a convolution has no filters"))?;
        let config = ConvConfig {
            algorithm: at.how.convolution,
            ..self.config
        };
        let y = dcff_nn::conv2d_prepared(at.x(0)?, &filters, bias.as_ref(), config)?;
        Ok((y, at.if_kept(Saved::Filters(filters))))
    }

    fn backward(&self, mut at: Backward<'_, '_>) -> Result<Vec<Option<Features>>> {
        let Saved::Filters(filters) = at.saved() else {
            return Err(at.untraced());
        };
        let input = match (at.step.inputs[0], at.sum.take()) {
            // The images need no gradient.
            (None, _) => InputGradient::Skip,
            (Some(_), None) => InputGradient::Compute,
            (Some(_), Some(sum)) => InputGradient::AddTo(sum),
        };
        let config = ConvConfig {
            algorithm: at.sweep.convolution,
            ..self.config
        };
        let FilterTensors { weight, bias } = self.tensors;
        let grads = dcff_nn::conv2d_backward_prepared(
            at.x()?,
            &filters,
            bias.is_some(),
            config,
            &at.dy,
            input,
        )?;
        let name = at.layer();
        let sweep = at.sweep;
        let view = sweep.views.get(name);
        timed(sweep.profile.as_ref(), at.step.layer, Pass::Fusion, || {
            let (gradient, of_view) = view.pull_back_source(filters.source(), grads.weight)?;
            sweep.parameters.push((weight, gradient));
            if let Some(gradient) = of_view {
                sweep.of_views.insert(name, gradient);
            }
            if let (Some(bias), Some(gradient)) = (bias, grads.bias) {
                let count = at.within.whole(bias).dim(0)?;
                let gradient = view.bias_gradient(count, gradient)?;
                sweep.parameters.push((bias, gradient));
            }
            Ok::<_, Error>(())
        })?;
        Ok(vec![grads.input])
    }

    fn filters(&self) -> Option<FilterTensors> {
        Some(self.tensors)
    }

    fn ready(&self, at: Readying<'_>) -> Result<Ready> {
        let FilterTensors { weight, bias } = self.tensors;
        Ok(Ready::Conv(Plain {
            weight: at.within.whole(weight).clone(),
            bias: bias.map(|bias| at.within.whole(bias).clone()),
            config: self.config,
            activation: Activation::Identity,
        }))
    }
}
