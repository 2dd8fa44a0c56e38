//! What can go wrong between scores and coefficients.

/// An error of this crate; those of `dcff-criteria` and of candle pass through.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A compression rate outside `[0, 1)`.
    #[error("expected a compression rate of at least 0 and below 1, got {rate}")]
    Rate {
        /// The rate that came.
        rate: f64,
    },
    /// A list of rates that cannot be read.
    #[error("rates, column {column}: {message}")]
    Rates {
        /// Where, counted in characters from 1.
        column: usize,
        /// What was expected and what came.
        message: String,
    },
    /// A name that stands for nothing in one of this crate's lists.
    #[error("unknown {what} '{name}'; known: {known}")]
    Unknown {
        /// What was looked for.
        what: &'static str,
        /// The name that was asked for.
        name: String,
        /// The known names, separated by commas.
        known: String,
    },
    /// Published rates for an architecture that has none, or several.
    #[error("{message}")]
    Setting {
        /// What was asked for and which settings there are.
        message: String,
    },
    /// A temperature schedule with a parameter out of range.
    #[error("temperature schedule: {message}")]
    Schedule {
        /// What was expected and what came.
        message: String,
    },
    /// A criterion returned scores for another number of filters.
    #[error("{layer}: {criterion} returned {scores} scores for {filters} filters")]
    ScoreCount {
        /// The layer's name.
        layer: String,
        /// The criterion's name.
        criterion: String,
        /// Scores returned.
        scores: usize,
        /// Filters of the layer.
        filters: usize,
    },
    /// A criterion returned NaN or an infinity.
    #[error("{layer}: {criterion} returned a non-finite score for filter {filter}{}", first_pass(*.keeps_last))]
    NonFiniteScore {
        /// The layer's name.
        layer: String,
        /// The criterion's name.
        criterion: String,
        /// The first such filter.
        filter: usize,
        /// Whether the criterion would have kept earlier scores, had there been any.
        keeps_last: bool,
    },
    /// More filters to keep than there are, or none.
    #[error("{layer}: keeps {kept} of {filters} filters")]
    KeptCount {
        /// The layer's name.
        layer: String,
        /// Filters to keep.
        kept: usize,
        /// Filters of the layer.
        filters: usize,
    },
    /// A recorded criterion vector that cannot be compared with.
    #[error("{file}: {message}")]
    Recorded {
        /// The file.
        file: String,
        /// What is missing or of the wrong shape.
        message: String,
    },
    /// Scoring failed.
    #[error(transparent)]
    Criterion(#[from] dcff_criteria::Error),
    /// A tensor operation failed.
    #[error(transparent)]
    Candle(candle_core::Error),
}

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        Self::Candle(dcff_nn::without_backtrace(error))
    }
}

fn first_pass(keeps_last: bool) -> &'static str {
    if keeps_last {
        ", and there are no earlier scores to keep"
    } else {
        ""
    }
}

/// A result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;
