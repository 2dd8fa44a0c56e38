//! The tensors of a network, derived from its architecture.

use crate::architecture::Architecture;
use crate::parameter::Parameter;
use crate::spaces::Spaces;
use crate::{Error, Result};

/// All tensors of the network that keeps the filters of `full` and computes the widths of `compact`.
///
/// Scored convolutions keep all their filters, `[full width, compact inputs, K, K]`; everything else is as wide
/// as `compact`. With `full == compact` these are the tensors of a plain network.
///
/// # Errors
/// When one of the two is unsound, or `compact` is not `full` narrowed.
pub fn parameters(full: &Architecture, compact: &Architecture) -> Result<Vec<Parameter>> {
    let expected = full.narrowed(&compact.widths())?;
    if &expected != compact {
        let message = "the compact architecture is not this one narrowed".into();
        return Err(Error::Widths {
            architecture: full.name.clone(),
            message,
        });
    }
    let shapes = compact.shapes()?;
    let mut parameters = Vec::new();
    for (position, layer) in compact.layers.iter().enumerate() {
        let input = shapes.inputs(position)[0];
        let spaces = [full, compact].map(|network| Spaces(&network.spaces));
        for (kind, shape) in layer.kind.rule().parameters(spaces, input) {
            parameters.push(Parameter {
                name: format!("{}.{}", layer.name, kind.suffix()),
                layer: position,
                kind,
                shape,
            });
        }
    }
    Ok(parameters)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::by_name;

    fn shape_of(parameters: &[Parameter], name: &str) -> Vec<usize> {
        parameters
            .iter()
            .find(|p| p.name == name)
            .unwrap_or_else(|| panic!("{name}"))
            .shape
            .clone()
    }

    #[test]
    fn fused_convolutions_keep_all_filters_and_read_kept_channels() {
        let full = by_name("vgg16").unwrap();
        let mut widths = full.widths();
        widths[0] = 32;
        widths[12] = 76;
        let compact = full.narrowed(&widths).unwrap();
        let fused = parameters(&full, &compact).unwrap();
        assert_eq!(shape_of(&fused, "features.0.weight"), [64, 3, 3, 3]);
        assert_eq!(shape_of(&fused, "features.1.running_var"), [32]);
        assert_eq!(shape_of(&fused, "features.3.weight"), [64, 32, 3, 3]);
        assert_eq!(shape_of(&fused, "classifier.weight"), [10, 76]);
        let plain = parameters(&compact, &compact).unwrap();
        assert_eq!(shape_of(&plain, "features.0.weight"), [32, 3, 3, 3]);
        assert_eq!(shape_of(&plain, "features.0.bias"), [32]);
    }

    #[test]
    fn unscored_convolutions_are_as_wide_as_their_space() {
        let full = by_name("resnet50").unwrap();
        let mut widths = full.widths();
        let stage = full
            .spaces
            .iter()
            .position(|space| space.name == "layer1")
            .unwrap();
        widths[stage] = 140;
        let fused = parameters(&full, &full.narrowed(&widths).unwrap()).unwrap();
        assert_eq!(
            shape_of(&fused, "layer1.0.downsample.0.weight"),
            [140, 64, 1, 1]
        );
        assert_eq!(shape_of(&fused, "layer1.0.conv3.weight"), [256, 64, 1, 1]);
    }
}
