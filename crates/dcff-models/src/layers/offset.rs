//! A constant added to maps: one number for each channel and place relative to the border.

use dcff_nn::inference::{self, Places};
use dcff_nn::{Border, Features};
use serde::{Deserialize, Serialize};

use super::operation::{Backward, Forward, Operation, Ready, Readying};
use super::rule::{Planner, Rule, Selection, take};
use crate::Result;
use crate::parameter::ParameterKind;
use crate::shape::Shape;
use crate::spaces::Spaces;
use crate::trace::Saved;

/// `y[c, i, j] = x[c, i, j] + bias[c, row(i), column(j)]` with `bias` `[C, R, S]`.
///
/// The first and last rows have numbers of their own, all others share one: what a constant channel contributes to a convolution
/// with zeros around its input depends on how much of the window lies outside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offset {
    /// Rows at the top and at the bottom that have numbers of their own.
    #[serde(default)]
    pub rows: [usize; 2],
    /// Columns at the left and at the right that do.
    #[serde(default)]
    pub columns: [usize; 2],
}

impl Offset {
    /// The rows and columns that have numbers of their own.
    pub fn border(&self) -> Border {
        Border {
            rows: self.rows,
            columns: self.columns,
        }
    }
}

impl Rule for Offset {
    fn shape(&self, _: Spaces<'_>, inputs: &[Shape]) -> Result<Shape, String> {
        let Shape { height, width, .. } = inputs[0];
        match self.border().fits(height, width) {
            true => Ok(inputs[0]),
            false => Err(format!(
                "expected at most {height} rows and {width} columns with numbers of their own, got {:?} and {:?}",
                self.rows, self.columns
            )),
        }
    }

    fn parameters(&self, _: [Spaces<'_>; 2], input: Shape) -> Vec<(ParameterKind, Vec<usize>)> {
        let [rows, columns] = self.border().places();
        vec![(ParameterKind::Offset, vec![input.channels, rows, columns])]
    }

    fn select(&self, selection: &mut Selection<'_>) -> Result<()> {
        let kept = selection.input;
        (selection.change)("bias", &|bias| take(bias, kept, 0))
    }

    fn leads(&self, _: [Shape; 2], _: [Shape; 2]) -> Result<bool, String> {
        Ok(true)
    }

    fn plan(&self, planner: &mut dyn Planner) -> Result<Option<Box<dyn Operation>>> {
        Ok(Some(Box::new(Step {
            bias: planner.find(ParameterKind::Offset)?,
            border: self.border(),
        })))
    }
}

#[derive(Clone, Copy, Debug)]
struct Step {
    bias: usize,
    border: Border,
}

impl Operation for Step {
    fn forward(&self, at: Forward<'_>) -> Result<(Features, Saved)> {
        let y = dcff_nn::offset(at.x(0)?, &at.part(self.bias)?, self.border)?;
        Ok((y, Saved::Nothing))
    }

    fn backward(&self, at: Backward<'_, '_>) -> Result<Vec<Option<Features>>> {
        let bias = dcff_nn::offset_backward(&at.dy, self.border)?;
        at.sweep.parameters.push((self.bias, bias));
        Ok(vec![Some(at.dy)])
    }

    fn ready(&self, at: Readying<'_>) -> Result<Ready> {
        let lie = at.lies(0)?;
        let places = Places::new(at.within.whole(self.bias), self.border, &lie)?;
        Ok(Ready::layer(lie, move |x| inference::offset(x[0], &places)))
    }
}
