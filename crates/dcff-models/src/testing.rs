//! What tests of networks need: numbers without structure, and networks that are not as they began.

use std::collections::HashMap;

use candle_core::{Device, Tensor};

use crate::Result;
use crate::architecture::Architecture;
use crate::network::Network;
use crate::parameter::ParameterKind;
use crate::trace::Mode;
use crate::view::Views;

/// `count` numbers without structure in ±1 that depend on `seed` alone.
pub fn noise(count: usize, seed: usize) -> Vec<f32> {
    // Of a product in single precision no digits would be left behind the point.
    let one = |i: usize| ((i * 7919 + seed * 104_729) as f64 * 0.618_033_988_75).fract();
    (0..count).map(|i| (one(i) * 2.0 - 1.0) as f32).collect()
}

/// A network whose norms have scales, shifts and statistics that are not those of the start, as after a training.
///
/// # Errors
///
/// An architecture that cannot be built.
pub fn trained(architecture: &Architecture) -> Result<Network> {
    let mut network = Network::new(architecture, architecture, 5, &Device::Cpu)?;
    let mut state: HashMap<String, Tensor> = network.state()?.into_iter().collect();
    for (seed, parameter) in network.parameters().iter().enumerate() {
        let (centre, spread) = match parameter.kind {
            ParameterKind::NormWeight => (1.0, 0.5),
            ParameterKind::NormBias => (0.1, 0.3),
            ParameterKind::RunningMean => (0.0, 0.2),
            ParameterKind::RunningVar => (1.0, 0.4),
            _ => continue,
        };
        let values = noise(parameter.shape[0], seed).into_iter();
        let values: Vec<f32> = values.map(|x| centre + spread * x).collect();
        state.insert(parameter.name.clone(), Tensor::new(values, &Device::Cpu)?);
    }
    network.load(&state)?;
    Ok(network)
}

/// The evaluated logits of `network` for two images of noise, one after the other.
///
/// # Errors
/// Those of the device.
pub fn logits(network: &Network) -> Result<Vec<f32>> {
    let [c, h, w] = network.compact().input;
    let images = Tensor::from_vec(noise(2 * c * h * w, 3), (2, c, h, w), network.device())?;
    let (logits, _) = network.forward(&images, &Views::dense(), Mode::Eval)?;
    Ok(logits.flatten_all()?.to_vec1()?)
}

/// The largest absolute value; infinite where one is none.
pub fn largest(values: impl Iterator<Item = f32>) -> f32 {
    values.fold(0.0, |largest: f32, value| match value.is_nan() {
        true => f32::INFINITY,
        false => largest.max(value.abs()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_stays_noise_for_large_seeds() {
        for seed in [0, 1, 1000, 100_000] {
            let values = noise(10_000, seed);
            let mean = values.iter().sum::<f32>() / 1e4;
            let square = values.iter().map(|x| x * x).sum::<f32>() / 1e4;
            assert!(mean.abs() < 0.02, "{seed}: {mean}");
            assert!((square - 1.0 / 3.0).abs() < 0.01, "{seed}: {square}");
        }
    }
}
