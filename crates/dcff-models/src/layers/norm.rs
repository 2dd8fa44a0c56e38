//! Batch normalisation; an addition and an activation behind it are computed together with it.

use candle_core::{Device, Tensor};
use dcff_nn::{Activation, BatchStatistics, ConvConfig, Features};
use serde::{Deserialize, Serialize};

use super::operation::{
    Backward, Forward, Joins, Operation, Plain, Ready, Readying, RunningStatistics,
};
use super::rule::{Planner, Rule, Selection, take};
use crate::Result;
use crate::parameter::ParameterKind;
use crate::shape::Shape;
use crate::spaces::Spaces;
use crate::trace::{Mode, Saved};

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

impl Norm {
    /// The step of the norm that the planner stands at, with what is computed together with it.
    pub(crate) fn step(
        &self,
        planner: &dyn Planner,
        residual: bool,
        activation: Activation,
    ) -> Result<Box<dyn Operation>> {
        Ok(Box::new(Step {
            weight: planner.find(ParameterKind::NormWeight)?,
            bias: planner.find(ParameterKind::NormBias)?,
            mean: planner.find(ParameterKind::RunningMean)?,
            var: planner.find(ParameterKind::RunningVar)?,
            eps: self.eps,
            momentum: self.momentum,
            residual,
            activation,
        }))
    }
}

impl Rule for Norm {
    fn shape(&self, _: Spaces<'_>, inputs: &[Shape]) -> Result<Shape, String> {
        let Self { eps, momentum } = *self;
        match eps > 0.0 && eps.is_finite() && (0.0..=1.0).contains(&momentum) {
            true => Ok(inputs[0]),
            false => Err(format!(
                "expected eps > 0 and momentum in 0..=1, got {eps} and {momentum}"
            )),
        }
    }

    fn parameters(&self, _: [Spaces<'_>; 2], input: Shape) -> Vec<(ParameterKind, Vec<usize>)> {
        use ParameterKind::{NormBias, NormWeight, RunningMean, RunningVar};
        [NormWeight, NormBias, RunningMean, RunningVar]
            .map(|kind| (kind, vec![input.channels]))
            .into()
    }

    fn select(&self, selection: &mut Selection<'_>) -> Result<()> {
        let kept = selection.input;
        for suffix in ["weight", "bias", "running_mean", "running_var"] {
            (selection.change)(suffix, &|tensor| take(tensor, kept, 0))?;
        }
        Ok(())
    }

    fn leads(&self, _: [Shape; 2], _: [Shape; 2]) -> Result<bool, String> {
        Ok(true)
    }

    fn plan(&self, planner: &mut dyn Planner) -> Result<Option<Box<dyn Operation>>> {
        if planner.waits_for_addition() {
            return Ok(None);
        }
        let activation = planner.activation();
        self.step(planner, false, activation).map(Some)
    }
}

/// Inputs are the maps and, where `residual`, what is added before the activation.
#[derive(Clone, Debug)]
struct Step {
    weight: usize,
    bias: usize,
    mean: usize,
    var: usize,
    eps: f64,
    momentum: f64,
    residual: bool,
    activation: Activation,
}

impl Operation for Step {
    fn forward(&self, at: Forward<'_>) -> Result<(Features, Saved)> {
        let x = at.x(0)?;
        let residual = self.residual.then(|| at.x(1)).transpose()?;
        let (gamma, beta) = (at.part(self.weight)?, at.part(self.bias)?);
        if at.how.mode == Mode::Train {
            let (y, statistics) =
                dcff_nn::batch_norm(x, &gamma, &beta, self.eps, residual, self.activation)?;
            return Ok((y, Saved::Statistics(statistics)));
        }
        let (mean, var) = (at.part(self.mean)?, at.part(self.var)?);
        let y = dcff_nn::batch_norm_inference(
            x,
            &gamma,
            &beta,
            &mean,
            &var,
            self.eps,
            residual,
            self.activation,
        )?;
        let (n, _, h, w) = x.dims();
        let count = n * h * w;
        let constants = BatchStatistics { mean, var, count };
        Ok((y, at.if_kept(Saved::Constants(constants))))
    }

    fn backward(&self, mut at: Backward<'_, '_>) -> Result<Vec<Option<Features>>> {
        let (statistics, constant) = match at.saved() {
            Saved::Statistics(statistics) => (statistics, false),
            Saved::Constants(statistics) => (statistics, true),
            _ => return Err(at.untraced()),
        };
        let gamma = at.part(self.weight)?;
        let mut grads = dcff_nn::batch_norm_backward(
            at.x()?,
            at.y()?,
            &gamma,
            &statistics,
            self.eps,
            self.residual,
            self.activation,
            &at.dy,
        )?;
        if constant {
            // An affine map: the gradient of its output times the factor of its input.
            let dz = dcff_nn::activation_backward(at.y()?, self.activation, &at.dy)?;
            let zeros = gamma.zeros_like()?;
            grads.input = dcff_nn::batch_norm_inference(
                &dz,
                &gamma,
                &zeros,
                &zeros,
                &statistics.var,
                self.eps,
                None,
                Activation::Identity,
            )?;
        }
        at.sweep.parameters.push((self.weight, grads.gamma));
        at.sweep.parameters.push((self.bias, grads.beta));
        Ok(vec![Some(grads.input), grads.residual])
    }

    fn statistics(&self) -> Option<RunningStatistics> {
        Some(RunningStatistics {
            mean: self.mean,
            var: self.var,
            momentum: self.momentum,
        })
    }

    fn joins(&self) -> Joins {
        Joins::First
    }

    fn ready(&self, at: Readying<'_>) -> Result<Ready> {
        let channels = at.within.read(at.step.layer)[0].channels;
        let plain = match at.folded {
            Some(plain) => plain,
            None => identity(channels, at.within.whole(self.weight).device())?,
        };
        let numbers = |tensor: &Tensor| tensor.flatten_all()?.to_vec1::<f32>();
        let [gamma, beta, mean, var] = [self.weight, self.bias, self.mean, self.var]
            .map(|parameter| numbers(at.within.whole(parameter)));
        let norm = [gamma?, beta?, mean?, var?];
        let old = plain.bias.as_ref().map(numbers).transpose()?;
        let (weight, bias) = fold_norm(&numbers(&plain.weight)?, old.as_deref(), &norm, self.eps);
        Ok(Ready::Conv(Plain {
            bias: Some(Tensor::from_vec(bias, channels, &Device::Cpu)?),
            weight: Tensor::from_vec(weight, plain.weight.shape(), &Device::Cpu)?,
            activation: self.activation,
            ..plain
        }))
    }
}

/// A convolution that leaves every channel as it is.
fn identity(channels: usize, device: &Device) -> Result<Plain> {
    Ok(Plain {
        weight: Tensor::ones((channels, 1, 1, 1), candle_core::DType::F32, device)?,
        bias: None,
        config: ConvConfig {
            groups: channels,
            ..ConvConfig::default()
        },
        activation: Activation::Identity,
    })
}

/// Weights `[C_out, …]` and bias `[C_out]` of a convolution that does the work of the norm `[γ, β, μ, σ²]` behind it as well:
///
/// ```text
/// w'[o] = w[o] γ[o] / √(σ²[o] + ε)          b'[o] = β[o] + (b[o] - μ[o]) γ[o] / √(σ²[o] + ε)
/// ```
///
/// in `f64`, rounded once. Jacob et al., *Quantization and Training of Neural Networks for Efficient
/// Integer-Arithmetic-Only Inference*, CVPR 2018, section 3.2, <https://arxiv.org/abs/1712.05877>.
///
/// # Panics
/// If the norm's parts or the bias have other lengths than `C_out`.
pub fn fold_norm(
    weight: &[f32],
    bias: Option<&[f32]>,
    [gamma, beta, mean, var]: &[Vec<f32>; 4],
    eps: f64,
) -> (Vec<f32>, Vec<f32>) {
    let scale: Vec<f64> = gamma
        .iter()
        .zip(var)
        .map(|(&gamma, &var)| f64::from(gamma) / (f64::from(var) + eps).sqrt())
        .collect();
    let per_filter = weight.len() / scale.len().max(1);
    let weight = weight
        .iter()
        .enumerate()
        .map(|(i, &w)| (f64::from(w) * scale[i / per_filter]) as f32)
        .collect();
    let bias = (0..scale.len())
        .map(|o| {
            let bias = bias.map_or(0.0, |bias| f64::from(bias[o]));
            (f64::from(beta[o]) + (bias - f64::from(mean[o])) * scale[o]) as f32
        })
        .collect();
    (weight, bias)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folds_a_norm_by_hand() {
        // Scales: 3 / √(3 + 1) = 1.5 and -1 / √(0.25 + 0) with ε = 0 for the second: given apart.
        let norm = [vec![3.0], vec![0.5], vec![2.0], vec![3.0]];
        let (weight, bias) = fold_norm(&[1.0, -2.0], Some(&[4.0]), &norm, 1.0);
        assert_eq!((weight, bias), (vec![1.5, -3.0], vec![3.5]));
        let norm = [
            vec![-1.0, 2.0],
            vec![0.0, 1.0],
            vec![1.0, 0.0],
            vec![0.25, 4.0],
        ];
        let (weight, bias) = fold_norm(&[1.0, 2.0, 3.0, 4.0], None, &norm, 0.0);
        assert_eq!(weight, [-2.0, -4.0, 3.0, 4.0]);
        assert_eq!(bias, [2.0, 1.0]);
    }
}
