//! Few channels at their places among many.

use dcff_nn::Features;
use dcff_nn::inference::{self, Channels};
use serde::{Deserialize, Serialize};

use super::operation::{Backward, Forward, Operation, Ready, Readying};
use super::rule::{KeptChannels, Planner, Rule};
use crate::Result;
use crate::shape::Shape;
use crate::spaces::Spaces;
use crate::trace::Saved;

/// Channel `i` of the input becomes channel `channels[i]` of the output; the others are 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scatter {
    /// The channel space whose width the output has.
    pub space: String,
    /// Where the input's channels go, ascending.
    pub channels: Vec<usize>,
}

impl Rule for Scatter {
    fn shape(&self, spaces: Spaces<'_>, inputs: &[Shape]) -> Result<Shape, String> {
        let width = spaces.declared(&self.space)?;
        let ascending = self.channels.windows(2).all(|pair| pair[0] < pair[1]);
        if !ascending || self.channels.last().is_none_or(|&last| last >= width) {
            return Err(format!("expected ascending channels below {width}"));
        }
        if self.channels.len() != inputs[0].channels {
            return Err(format!(
                "expected places of {} channels, got {}",
                inputs[0].channels,
                self.channels.len()
            ));
        }
        Ok(Shape {
            channels: width,
            ..inputs[0]
        })
    }

    fn space<'a>(&'a self, _: Option<&'a str>) -> Option<&'a str> {
        Some(&self.space)
    }

    fn kept(&self, channels: &KeptChannels<'_>) -> Result<Vec<usize>, String> {
        let to = channels.of(&self.space)?;
        let all = |kept: &[usize], wide: Shape| kept.len() == wide.channels;
        match all(&to, channels.output) && all(&channels.read[0], channels.inputs[0]) {
            true => Ok(to),
            false => Err(
                "puts channels back into a stream, and such a network is not narrowed once more"
                    .into(),
            ),
        }
    }

    fn leads(&self, input: [Shape; 2], output: [Shape; 2]) -> Result<bool, String> {
        match input[0] == input[1] && output[0].channels == output[1].channels {
            true => Ok(false),
            false => Err("the places of its channels are those of the wide layer".into()),
        }
    }

    fn plan(&self, planner: &mut dyn Planner) -> Result<Option<Box<dyn Operation>>> {
        Ok(Some(Box::new(Step {
            channels: self.channels.clone(),
            width: planner.shape().channels,
        })))
    }
}

#[derive(Clone, Debug)]
struct Step {
    channels: Vec<usize>,
    width: usize,
}

impl Operation for Step {
    fn forward(&self, at: Forward<'_>) -> Result<(Features, Saved)> {
        let y = dcff_nn::scatter(at.x(0)?, &self.channels, self.width)?;
        Ok((y, Saved::Nothing))
    }

    fn backward(&self, at: Backward<'_, '_>) -> Result<Vec<Option<Features>>> {
        let gradient = dcff_nn::scatter_backward(&self.channels, &at.dy)?;
        Ok(vec![Some(gradient)])
    }

    fn ready(&self, _: Readying<'_>) -> Result<Ready> {
        let step = self.clone();
        Ok(Ready::layer(Channels::new(self.width), move |x| {
            inference::scatter(x[0], &step.channels, step.width)
        }))
    }
}
