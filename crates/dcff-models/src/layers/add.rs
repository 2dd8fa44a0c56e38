//! The sum of two inputs of one shape; the batch norm before it and the activation behind it are computed together with it.

use dcff_nn::{Activation, Features, inference};

use super::operation::{Backward, Forward, Joins, Operation, Plain, Ready, Readying};
use super::rule::{KeptChannels, Planner, Rule};
use crate::Result;
use crate::shape::Shape;
use crate::spaces::Spaces;
use crate::trace::Saved;

pub(crate) struct Add;

impl Rule for Add {
    fn inputs(&self) -> Option<usize> {
        Some(2)
    }

    fn shape(&self, _: Spaces<'_>, inputs: &[Shape]) -> Result<Shape, String> {
        let show = |s: Shape| format!("[{}, {}, {}]", s.channels, s.height, s.width);
        match inputs[0] == inputs[1] {
            true => Ok(inputs[0]),
            false => Err(format!(
                "expected two inputs of one shape, got {} and {}",
                show(inputs[0]),
                show(inputs[1])
            )),
        }
    }

    fn kept(&self, channels: &KeptChannels<'_>) -> Result<Vec<usize>, String> {
        match channels.read[0] == channels.read[1] {
            true => Ok(channels.read[0].clone()),
            false => Err("adds maps that keep different channels".into()),
        }
    }

    fn plan(&self, planner: &mut dyn Planner) -> Result<Option<Box<dyn Operation>>> {
        let activation = planner.activation();
        Ok(Some(match planner.waiting_norm(activation)? {
            Some(norm) => norm,
            None => Box::new(Step { activation }),
        }))
    }
}

#[derive(Debug)]
struct Step {
    activation: Activation,
}

impl Operation for Step {
    fn forward(&self, at: Forward<'_>) -> Result<(Features, Saved)> {
        let sum = dcff_nn::add(at.x(0)?, at.x(1)?, self.activation)?;
        Ok((sum, Saved::Nothing))
    }

    fn backward(&self, at: Backward<'_, '_>) -> Result<Vec<Option<Features>>> {
        let gradient = dcff_nn::activation_backward(at.y()?, self.activation, &at.dy)?;
        Ok(vec![Some(gradient.clone()), Some(gradient)])
    }

    fn joins(&self) -> Joins {
        Joins::Any
    }

    fn ready(&self, at: Readying<'_>) -> Result<Ready> {
        let activation = self.activation;
        Ok(match at.folded {
            Some(plain) => Ready::Conv(Plain {
                activation,
                ..plain
            }),
            None => Ready::layer(at.lies(0)?, move |x| inference::add(x[0], x[1], activation)),
        })
    }
}
