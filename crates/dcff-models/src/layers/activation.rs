//! An element-wise function.

use dcff_nn::{Activation, Features, inference};

use super::operation::{Backward, Forward, Joins, Operation, Plain, Ready, Readying};
use super::rule::{Planner, Rule};
use crate::Result;
use crate::shape::Shape;
use crate::spaces::Spaces;
use crate::trace::Saved;

impl Rule for Activation {
    fn shape(&self, _: Spaces<'_>, inputs: &[Shape]) -> Result<Shape, String> {
        Ok(inputs[0])
    }

    fn plan(&self, _: &mut dyn Planner) -> Result<Option<Box<dyn Operation>>> {
        Ok(Some(Box::new(*self)))
    }
}

impl Operation for Activation {
    fn forward(&self, at: Forward<'_>) -> Result<(Features, Saved)> {
        Ok((dcff_nn::activation(at.x(0)?, *self)?, Saved::Nothing))
    }

    fn backward(&self, at: Backward<'_, '_>) -> Result<Vec<Option<Features>>> {
        let gradient = dcff_nn::activation_backward(at.y()?, *self, &at.dy)?;
        Ok(vec![Some(gradient)])
    }

    fn joins(&self) -> Joins {
        Joins::First
    }

    fn ready(&self, at: Readying<'_>) -> Result<Ready> {
        let activation = *self;
        Ok(match at.folded {
            Some(plain) => Ready::Conv(Plain {
                activation,
                ..plain
            }),
            None => Ready::layer(at.lies(0)?, move |x| {
                inference::activation(x[0], activation)
            }),
        })
    }
}
