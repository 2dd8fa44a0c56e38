//! What can go wrong while scoring.

/// An error of this crate; candle's own pass through.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No criterion has this name.
    #[error("unknown criterion '{name}'; known: {known}")]
    UnknownCriterion {
        /// The name that was asked for.
        name: String,
        /// The known names, separated by commas.
        known: String,
    },
    /// The filters are not a `[C_out, C_in, K_h, K_w]` tensor with at least one weight.
    #[error("{layer}: expected filters [C_out, C_in, K_h, K_w], got a tensor of shape {shape:?}")]
    FilterShape {
        /// The layer's name.
        layer: String,
        /// The shape that came.
        shape: Vec<usize>,
    },
    /// A weight is NaN or infinite, so distances mean nothing.
    #[error("{layer}: filter {filter} holds a non-finite weight")]
    NonFiniteWeight {
        /// The layer's name.
        layer: String,
        /// The first filter with such a weight.
        filter: usize,
    },
    /// The temperature is negative, NaN or infinite.
    #[error("{layer}: expected a finite temperature of at least 0, got {temperature}")]
    Temperature {
        /// The layer's name.
        layer: String,
        /// The temperature that came.
        temperature: f64,
    },
    /// The criterion reads evidence that was not collected.
    #[error("{layer}: expected {what} as evidence, got none")]
    MissingEvidence {
        /// The layer's name.
        layer: String,
        /// What is missing.
        what: &'static str,
    },
    /// Evidence for another number of filters or weights.
    #[error("{layer}: expected {expected} numbers of {what}, got {got}")]
    EvidenceLength {
        /// The layer's name.
        layer: String,
        /// What they are.
        what: &'static str,
        /// The number that the layer has.
        expected: usize,
        /// The number that came.
        got: usize,
    },
    /// Feature maps that do not fit the layer.
    #[error("expected maps [N, {filters}, H, W], got {numbers} numbers as {dims:?}")]
    Maps {
        /// Filters of the layer.
        filters: usize,
        /// Numbers that came.
        numbers: usize,
        /// Their dimensions.
        dims: Vec<usize>,
    },
    /// Reading the filters failed.
    #[error(transparent)]
    Candle(candle_core::Error),
}

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        Self::Candle(dcff_nn::without_backtrace(error))
    }
}

/// A result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;
