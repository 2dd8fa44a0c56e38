//! Maps side by side along the channels.

use dcff_nn::Features;
use dcff_nn::inference::{self, Channels};

use super::operation::{Backward, Forward, Operation, Ready, Readying};
use super::rule::{KeptChannels, Planner, Rule};
use crate::Result;
use crate::shape::Shape;
use crate::spaces::Spaces;
use crate::trace::Saved;

#[derive(Debug)]
pub(crate) struct Concat;

impl Rule for Concat {
    fn inputs(&self) -> Option<usize> {
        None
    }

    fn shape(&self, _: Spaces<'_>, inputs: &[Shape]) -> Result<Shape, String> {
        let x = inputs[0];
        let fits = |input: &Shape| (input.height, input.width) == (x.height, x.width);
        match inputs.iter().all(fits) {
            true => Ok(Shape {
                channels: inputs.iter().map(|input| input.channels).sum(),
                ..x
            }),
            false => Err("expected inputs of one height and width".into()),
        }
    }

    fn space<'a>(&'a self, _: Option<&'a str>) -> Option<&'a str> {
        None
    }

    fn kept(&self, channels: &KeptChannels<'_>) -> Result<Vec<usize>, String> {
        let (mut all, mut offset) = (Vec::new(), 0);
        for (read, wide) in channels.read.iter().zip(channels.inputs) {
            all.extend(read.iter().map(|channel| channel + offset));
            offset += wide.channels;
        }
        Ok(all)
    }

    fn joined(&self, _: bool) -> bool {
        true
    }

    fn plan(&self, _: &mut dyn Planner) -> Result<Option<Box<dyn Operation>>> {
        Ok(Some(Box::new(Concat)))
    }
}

impl Operation for Concat {
    fn forward(&self, at: Forward<'_>) -> Result<(Features, Saved)> {
        let inputs = (0..at.step.inputs.len())
            .map(|i| at.x(i))
            .collect::<Result<Vec<_>>>()?;
        Ok((dcff_nn::concat(&inputs)?, Saved::Nothing))
    }

    fn backward(&self, at: Backward<'_, '_>) -> Result<Vec<Option<Features>>> {
        let channels: Vec<_> = (0..at.step.inputs.len())
            .map(|i| at.input_dims(i).1)
            .collect();
        let parts = dcff_nn::split_channels(&at.dy, &channels)?;
        Ok(parts.into_iter().map(Some).collect())
    }

    fn ready(&self, at: Readying<'_>) -> Result<Ready> {
        let parts = (0..at.inputs.len())
            .map(|i| at.lies(i))
            .collect::<Result<Vec<_>>>()?;
        Ok(Ready::layer(Channels::joined(&parts), |x| {
            inference::concat(x)
        }))
    }
}
