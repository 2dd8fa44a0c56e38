//! Initial weights from a seeded generator; candle's own generator cannot be seeded on the CPU.
//!
//! He et al., *Delving Deep into Rectifiers*, ICCV 2015, <https://arxiv.org/abs/1502.01852>, in the forms of
//! `torch.nn.init`; the defaults of `torch.nn.Conv2d` and `torch.nn.Linear`.

use dcff_nn::fnv1a;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use crate::architecture::Initialisation;
use crate::parameter::{Parameter, ParameterKind};

/// Draws the initial values of `parameter`; `weight_shape` is the shape of its layer's weight.
///
/// Every tensor has a stream of its own, keyed by its name, so that a change to one layer leaves the others alone.
pub(crate) fn initial_values(
    scheme: Initialisation,
    parameter: &Parameter,
    weight_shape: &[usize],
    seed: u64,
) -> Vec<f32> {
    let mut rng = Pcg64Mcg::seed_from_u64(seed ^ fnv1a(&parameter.name));
    let count: usize = parameter.shape.iter().product();
    let fan_in: usize = weight_shape.iter().skip(1).product();
    let bound = 1.0 / (fan_in as f64).sqrt();
    let mut uniform = || {
        (0..count)
            .map(|_| ((rng.random::<f64>() * 2.0 - 1.0) * bound) as f32)
            .collect()
    };
    use Initialisation::{KaimingNormalFanIn, KaimingNormalFanOut, MobileNet, Uniform};
    match (parameter.kind, scheme) {
        (ParameterKind::NormWeight | ParameterKind::RunningVar, _) => vec![1.0; count],
        (ParameterKind::NormBias | ParameterKind::RunningMean | ParameterKind::Offset, _) => {
            vec![0.0; count]
        }
        (ParameterKind::ConvBias | ParameterKind::LinearBias, MobileNet) => vec![0.0; count],
        (ParameterKind::ConvBias | ParameterKind::LinearBias, _) => uniform(),
        (ParameterKind::ConvWeight | ParameterKind::LinearWeight, Uniform) => uniform(),
        (ParameterKind::LinearWeight, KaimingNormalFanOut) => uniform(),
        (ParameterKind::ConvWeight | ParameterKind::LinearWeight, KaimingNormalFanIn) => {
            normal(&mut rng, count, deviation(fan_in))
        }
        (ParameterKind::ConvWeight, KaimingNormalFanOut | MobileNet) => {
            let fan_out = weight_shape[0] * weight_shape.iter().skip(2).product::<usize>();
            normal(&mut rng, count, deviation(fan_out))
        }
        (ParameterKind::LinearWeight, MobileNet) => normal(&mut rng, count, 0.01),
    }
}

/// That of the variance `2 / fan`.
fn deviation(fan: usize) -> f64 {
    (2.0 / fan as f64).sqrt()
}

/// Normal values with a standard deviation, by the Box-Muller transform.
fn normal(rng: &mut Pcg64Mcg, count: usize, deviation: f64) -> Vec<f32> {
    let mut values = Vec::with_capacity(count + 1);
    while values.len() < count {
        // 1 - u lies in (0, 1], so its logarithm is finite.
        let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * rng.random::<f64>()).sin_cos();
        values.push((deviation * radius * cos) as f32);
        values.push((deviation * radius * sin) as f32);
    }
    values.truncate(count);
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameter(kind: ParameterKind, shape: &[usize]) -> Parameter {
        Parameter {
            name: "a.weight".into(),
            layer: 0,
            kind,
            shape: shape.to_vec(),
        }
    }

    fn moments(values: &[f32]) -> (f64, f64) {
        let n = values.len() as f64;
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        (
            mean,
            values
                .iter()
                .map(|&v| (f64::from(v) - mean).powi(2))
                .sum::<f64>()
                / n,
        )
    }

    #[test]
    fn variances_are_those_of_the_schemes() {
        let shape = [64, 32, 3, 3];
        let p = parameter(ParameterKind::ConvWeight, &shape);
        for (scheme, variance) in [
            (Initialisation::Uniform, 1.0 / (3.0 * 288.0)),
            (Initialisation::KaimingNormalFanIn, 2.0 / 288.0),
            (Initialisation::KaimingNormalFanOut, 2.0 / 576.0),
        ] {
            let (mean, var) = moments(&initial_values(scheme, &p, &shape, 7));
            // 18,432 draws: the deviation of the variance's estimate is about 1 %.
            assert!(
                (var / variance - 1.0).abs() < 0.05,
                "{scheme:?}: {var} against {variance}"
            );
            assert!(
                mean.abs() < 4.0 * (variance / 18_432.0).sqrt(),
                "{scheme:?}: mean {mean}"
            );
        }
    }

    #[test]
    fn uniform_values_stay_in_their_bound() {
        let shape = [16, 3, 3, 3];
        let values = initial_values(
            Initialisation::Uniform,
            &parameter(ParameterKind::ConvWeight, &shape),
            &shape,
            1,
        );
        let bound = 1.0 / 27f32.sqrt();
        assert!(values.iter().all(|v| v.abs() <= bound));
        assert!(values.iter().any(|v| v.abs() > 0.9 * bound));
    }

    #[test]
    fn a_seed_and_a_name_fix_the_values() {
        let shape = [4, 3, 3, 3];
        let a = parameter(ParameterKind::ConvWeight, &shape);
        let b = Parameter {
            name: "b.weight".into(),
            ..a.clone()
        };
        let draw = |p, seed| initial_values(Initialisation::KaimingNormalFanIn, p, &shape, seed);
        assert_eq!(draw(&a, 1), draw(&a, 1));
        assert_ne!(draw(&a, 1), draw(&a, 2));
        assert_ne!(draw(&a, 1), draw(&b, 1));
    }

    #[test]
    fn batch_norm_starts_as_the_identity() {
        let draw = |kind| initial_values(Initialisation::Uniform, &parameter(kind, &[3]), &[3], 0);
        assert_eq!(draw(ParameterKind::NormWeight), [1.0; 3]);
        assert_eq!(draw(ParameterKind::NormBias), [0.0; 3]);
        assert_eq!(draw(ParameterKind::RunningMean), [0.0; 3]);
        assert_eq!(draw(ParameterKind::RunningVar), [1.0; 3]);
    }
}
