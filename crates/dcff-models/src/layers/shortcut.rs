//! The parameter-free shortcut of CIFAR ResNets ("option A").

use dcff_nn::Features;
use dcff_nn::inference::{self, Channels};
use serde::{Deserialize, Serialize};

use super::operation::{Backward, Forward, Operation, Ready, Readying};
use super::rule::{KeptChannels, Planner, Rule};
use crate::Result;
use crate::shape::{MAX_WINDOW, Shape};
use crate::spaces::Spaces;
use crate::trace::Saved;

/// A parameter-free shortcut.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shortcut {
    /// Every `stride`-th pixel is taken, both ways.
    pub stride: usize,
    /// The channel space whose width it pads to.
    pub space: String,
}

impl Rule for Shortcut {
    fn shape(&self, spaces: Spaces<'_>, inputs: &[Shape]) -> Result<Shape, String> {
        if !(1..=MAX_WINDOW).contains(&self.stride) {
            let stride = self.stride;
            return Err(format!(
                "expected a stride of 1 to {MAX_WINDOW}, got {stride}"
            ));
        }
        Ok(Shape {
            channels: spaces.declared(&self.space)?,
            height: inputs[0].height.div_ceil(self.stride),
            width: inputs[0].width.div_ceil(self.stride),
        })
    }

    fn space<'a>(&'a self, _: Option<&'a str>) -> Option<&'a str> {
        Some(&self.space)
    }

    fn runs_on(&self) -> bool {
        true
    }

    fn kept(&self, channels: &KeptChannels<'_>) -> Result<Vec<usize>, String> {
        let (from, to) = (&channels.read[0], channels.of(&self.space)?);
        let before = |wide: usize, narrow: usize| (wide as isize - narrow as isize).div_euclid(2);
        let offset = before(channels.output.channels, channels.inputs[0].channels);
        let narrow_offset = before(to.len(), from.len());
        let moved = to.iter().enumerate().any(|(at, &channel)| {
            let arrives = usize::try_from(at as isize - narrow_offset)
                .ok()
                .and_then(|i| from.get(i));
            let should = usize::try_from(channel as isize - offset)
                .ok()
                .filter(|source| from.contains(source));
            arrives.copied() != should
        });
        match moved {
            true => Err("would move a channel: the kept ones do not line up".into()),
            false => Ok(to),
        }
    }

    fn plan(&self, planner: &mut dyn Planner) -> Result<Option<Box<dyn Operation>>> {
        Ok(Some(Box::new(Step {
            stride: self.stride,
            channels: planner.shape().channels,
        })))
    }
}

#[derive(Clone, Copy, Debug)]
struct Step {
    stride: usize,
    channels: usize,
}

impl Operation for Step {
    fn forward(&self, at: Forward<'_>) -> Result<(Features, Saved)> {
        let y = dcff_nn::shortcut(at.x(0)?, self.stride, self.channels)?;
        Ok((y, Saved::Nothing))
    }

    fn backward(&self, at: Backward<'_, '_>) -> Result<Vec<Option<Features>>> {
        let gradient = dcff_nn::shortcut_backward(at.input_dims(0), self.stride, &at.dy)?;
        Ok(vec![Some(gradient)])
    }

    fn ready(&self, _: Readying<'_>) -> Result<Ready> {
        let Self { stride, channels } = *self;
        Ok(Ready::layer(Channels::new(channels), move |x| {
            inference::shortcut(x[0], stride, channels)
        }))
    }
}
