//! What can go wrong while describing, building or running a network.

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of this crate. Messages start with the layer or parameter they speak of.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No built-in network has this name.
    #[error("unknown architecture '{name}': known are {known}")]
    UnknownArchitecture {
        /// The name asked for.
        name: String,
        /// All known names, comma-separated.
        known: String,
    },
    /// A layer's description does not fit its inputs.
    #[error("{layer}: {message}")]
    Layer {
        /// The layer's name.
        layer: String,
        /// What was expected and what came.
        message: String,
    },
    /// The widths handed in do not fit the architecture's channel spaces.
    #[error("{architecture}: {message}")]
    Widths {
        /// The architecture's name.
        architecture: String,
        /// What was expected and what came.
        message: String,
    },
    /// A tensor's shape differs from what the architecture asks for.
    #[error("{name}: expected shape {expected:?}, got {got:?}")]
    Shape {
        /// The parameter or input.
        name: String,
        /// The shape that the architecture asks for.
        expected: Vec<usize>,
        /// The shape that came.
        got: Vec<usize>,
    },
    /// A parameter that the network needs was not given.
    #[error("{0}: parameter is missing")]
    MissingParameter(String),
    /// A tensor was given that the network has no place for.
    #[error("{0}: no such parameter in this network")]
    UnknownParameter(String),
    /// Candle failed.
    #[error(transparent)]
    Candle(candle_core::Error),
}

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        Self::Candle(dcff_nn::without_backtrace(error))
    }
}

impl Error {
    pub(crate) fn layer(layer: &str, message: impl Into<String>) -> Self {
        Self::Layer {
            layer: layer.to_owned(),
            message: message.into(),
        }
    }
}

pub(crate) fn internal(message: &str) -> Error {
    Error::Candle(candle_core::Error::Msg(message.to_owned()))
}
