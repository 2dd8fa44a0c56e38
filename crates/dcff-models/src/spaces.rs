//! Channel spaces: channels that are narrowed as one.

use serde::{Deserialize, Serialize};

/// A set of channels that one or more convolutions write to, and that is narrowed as one.
///
/// Convolutions of one space have the same number of output channels, because their maps are added (the
/// stages of a ResNet). The published code gives one compression rate per space.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Space {
    /// The name of its only convolution, or of the stage it belongs to.
    pub name: String,
    /// The number of channels.
    pub width: usize,
}

/// The channel spaces of an architecture.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spaces<'a>(pub(crate) &'a [Space]);

impl<'a> Spaces<'a> {
    /// The space called `name`.
    pub(crate) fn find(self, name: &str) -> Option<&'a Space> {
        self.0.iter().find(|space| space.name == name)
    }

    /// The channels of the space called `name`; 0 when there is none.
    pub(crate) fn width(self, name: &str) -> usize {
        self.find(name).map_or(0, |space| space.width)
    }

    /// The channels of the space called `name`, which must have some.
    pub(crate) fn declared(self, name: &str) -> Result<usize, String> {
        match self.find(name) {
            None => Err(format!("writes to space '{name}', which is not declared")),
            Some(space) if space.width == 0 => Err(format!("space '{name}' has no channels")),
            Some(space) => Ok(space.width),
        }
    }
}
