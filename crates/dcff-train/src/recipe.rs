//! A recipe at work: for a network, and on a device.

use candle_core::Device;
use dcff_models::{Architecture, Initialisation};
use dcff_nn::DeviceSettings;
use dcff_run::{Precision, Recipe, RunConfig};

use crate::error::{Error, Result};

/// [`Recipe::quick`] with a rate that suits the filters that `full` starts with.
///
/// Behind batch norm a step turns a filter by the rate over its squared length. PyTorch's default filters have a sixth
/// of the squared length of He's: at 0.05 the dense VGG-16 loses its first epochs, at 0.01 it learns from the first.
pub fn quick_for(full: &Architecture, epochs: usize) -> Recipe {
    let quick = Recipe::quick(epochs);
    let learning_rate = match full.initialisation {
        Initialisation::Uniform => 0.01,
        _ => quick.learning_rate,
    };
    Recipe {
        learning_rate,
        ..quick
    }
}

/// Has `device` compute as `recipe` says.
///
/// # Errors
/// When the device cannot.
pub fn configure(recipe: &Recipe, device: &Device) -> Result<()> {
    let settings = DeviceSettings {
        tf32: recipe.tf32,
        deterministic: recipe.deterministic,
    };
    dcff_nn::configure(device, settings)
        .map_err(|error| Error::setting("recipe.tf32", Error::from(error).to_string()))
}

/// The type that feature maps are stored in where a recipe asks for `precision`.
pub fn stored(precision: Precision) -> dcff_nn::Precision {
    match precision {
        Precision::F32 => dcff_nn::Precision::F32,
        Precision::Bf16 => dcff_nn::Precision::Bf16,
    }
}

/// The whole network of `config`, before anything is pruned, for images of its size.
///
/// # Errors
/// When its name is unknown.
pub fn full_network(config: &RunConfig) -> Result<Architecture> {
    let full = dcff_models::by_name(&config.arch)?;
    Ok(match config.data.input_size {
        Some(input) => full.with_input(input),
        None => full,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quick_rate_suits_the_first_filters() {
        let rate = |name| quick_for(&dcff_models::by_name(name).unwrap(), 15).learning_rate;
        let rates = ["vgg16", "googlenet", "resnet20", "resnet50"].map(rate);
        assert_eq!(rates, [0.01, 0.01, 0.05, 0.05]);
    }
}
