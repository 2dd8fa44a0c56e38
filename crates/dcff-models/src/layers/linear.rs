//! An affine map of the flattened input.

use dcff_nn::{Activation, ConvConfig, Features};
use serde::{Deserialize, Serialize};

use super::operation::{Backward, Forward, Operation, Plain, Ready, Readying};
use super::rule::{KeptChannels, Planner, Rule, Selection, take};
use crate::parameter::ParameterKind;
use crate::shape::Shape;
use crate::spaces::Spaces;
use crate::trace::Saved;
use crate::{Result, internal};

/// An affine map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Linear {
    /// Number of outputs.
    pub features: usize,
    /// Whether a bias is added.
    pub bias: bool,
}

impl Rule for Linear {
    fn shape(&self, _: Spaces<'_>, _: &[Shape]) -> Result<Shape, String> {
        match self.features {
            0 => Err("expected at least 1 output, got 0".into()),
            features => Ok(Shape {
                channels: features,
                height: 1,
                width: 1,
            }),
        }
    }

    fn parameters(&self, _: [Spaces<'_>; 2], input: Shape) -> Vec<(ParameterKind, Vec<usize>)> {
        let weight = vec![self.features, input.numel()];
        let mut all = vec![(ParameterKind::LinearWeight, weight)];
        if self.bias {
            all.push((ParameterKind::LinearBias, vec![self.features]));
        }
        all
    }

    fn space<'a>(&'a self, _: Option<&'a str>) -> Option<&'a str> {
        None
    }

    fn kept(&self, _: &KeptChannels<'_>) -> Result<Vec<usize>, String> {
        Ok((0..self.features).collect())
    }

    fn select(&self, selection: &mut Selection<'_>) -> Result<()> {
        let pixels = selection.shape.height * selection.shape.width;
        let columns: Vec<usize> = selection
            .input
            .iter()
            .flat_map(|channel| channel * pixels..(channel + 1) * pixels)
            .collect();
        (selection.change)("weight", &|weight| take(weight, &columns, 1))
    }

    fn leads(&self, [own, all]: [Shape; 2], _: [Shape; 2]) -> Result<bool, String> {
        match (own.height, own.width) == (all.height, all.width) {
            true => Ok(true),
            false => Err(format!(
                "expected maps of {} x {}, as its weights are for, got {} x {}",
                all.height, all.width, own.height, own.width
            )),
        }
    }

    fn joined(&self, _: bool) -> bool {
        false
    }

    fn plan(&self, planner: &mut dyn Planner) -> Result<Option<Box<dyn Operation>>> {
        let bias = self.bias.then(|| planner.find(ParameterKind::LinearBias));
        Ok(Some(Box::new(Step {
            weight: planner.find(ParameterKind::LinearWeight)?,
            bias: bias.transpose()?,
        })))
    }
}

#[derive(Debug)]
struct Step {
    weight: usize,
    bias: Option<usize>,
}

impl Operation for Step {
    fn forward(&self, at: Forward<'_>) -> Result<(Features, Saved)> {
        let rows = dcff_nn::flatten(at.x(0)?)?;
        let bias = self.bias.map(|bias| at.part(bias)).transpose()?;
        let y = dcff_nn::linear(&rows, &at.part(self.weight)?, bias.as_ref())?;
        let (n, k) = y.dims2()?;
        let y = dcff_nn::unflatten(&y, (n, k, 1, 1))?;
        Ok((y, at.if_kept(Saved::Rows(rows))))
    }

    fn backward(&self, mut at: Backward<'_, '_>) -> Result<Vec<Option<Features>>> {
        let Saved::Rows(rows) = at.saved() else {
            return Err(at.untraced());
        };
        let flat = dcff_nn::flatten(&at.dy)?;
        let grads = dcff_nn::linear_backward(&rows, &at.part(self.weight)?, &flat, true)?;
        at.sweep.parameters.push((self.weight, grads.weight));
        if let Some(bias) = self.bias {
            at.sweep.parameters.push((bias, grads.bias));
        }
        let input = grads
            .input
            .ok_or_else(|| internal("linear returned no input gradient"))?;
        let input = dcff_nn::unflatten(&input, at.input_dims(0))?;
        // The layer itself works in single precision, whatever its input was stored in.
        Ok(vec![Some(input.to_precision(at.x()?.precision())?)])
    }

    fn ready(&self, at: Readying<'_>) -> Result<Ready> {
        // A convolution whose kernel covers its map.
        let shape = at.within.read(at.step.layer)[0];
        let weight = at.within.whole(self.weight);
        let kernel = (weight.dim(0)?, shape.channels, shape.height, shape.width);
        Ok(Ready::Conv(Plain {
            weight: weight.reshape(kernel)?,
            bias: self.bias.map(|bias| at.within.whole(bias).clone()),
            config: ConvConfig::default(),
            activation: Activation::Identity,
        }))
    }
}
