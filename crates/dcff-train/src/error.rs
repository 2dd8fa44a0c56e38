//! What can go wrong while training.

use std::path::{Path, PathBuf};

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of this crate. Messages name the file or field, what was expected and what came.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting is out of its range.
    #[error("{field}: {message}")]
    Setting {
        /// The setting's path in `config.toml`.
        field: String,
        /// What was expected and what came.
        message: String,
    },
    /// No method has this name.
    #[error("expected {known}, got '{name}'")]
    UnknownMethod {
        /// The name.
        name: String,
        /// Those that there are.
        known: String,
    },
    /// A file of the run folder is missing or unsound.
    #[error("{path}: {message}")]
    File {
        /// The file.
        path: PathBuf,
        /// What was expected and what came.
        message: String,
    },
    /// The loss stopped being a number.
    #[error(
        "{what} is {loss} at epoch {epoch}, {place}: {kept}; a lower learning rate or a warm-up may help"
    )]
    Diverged {
        /// The loss, or its term.
        what: String,
        /// The loss.
        loss: f64,
        /// The epoch, counted from 1.
        epoch: usize,
        /// Where in the epoch.
        place: Place,
        /// Which checkpoint is left.
        kept: String,
    },
    /// A term of a method's loss stopped being a number.
    #[error("{term} is {value}")]
    Term {
        /// Which one.
        term: &'static str,
        /// What it is.
        value: f64,
    },
    /// A training step failed on a GPU.
    #[error("a step of {images} images, {precision}, on {device}: {error}")]
    Gpu {
        /// The batch's.
        images: usize,
        /// What feature maps are stored in.
        precision: dcff_run::Precision,
        /// The GPU's number and name.
        device: String,
        /// What it said.
        error: Box<Error>,
    },
    /// Reading data failed.
    #[error(transparent)]
    Data(#[from] dcff_data::Error),
    /// Building or running the network failed.
    #[error(transparent)]
    Model(#[from] dcff_models::Error),
    /// Scoring filters failed.
    #[error(transparent)]
    Criterion(#[from] dcff_criteria::Error),
    /// Rates, temperatures or selection failed.
    #[error(transparent)]
    Fusion(#[from] dcff_fusion::Error),
    /// A budget cannot be met.
    #[error(transparent)]
    Budget(#[from] dcff_flops::BudgetError),
    /// Writing or reading a file failed.
    #[error(transparent)]
    Disk(#[from] dcff_file::Error),
    /// Writing or reading weights failed.
    #[error(transparent)]
    Compact(#[from] dcff_compact::Error),
    /// The record is unsound in another way.
    #[error(transparent)]
    Run(dcff_run::Error),
    /// Candle failed.
    #[error(transparent)]
    Candle(candle_core::Error),
}

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        Self::Candle(dcff_nn::without_backtrace(error))
    }
}

impl From<dcff_run::Error> for Error {
    fn from(error: dcff_run::Error) -> Self {
        match error {
            dcff_run::Error::Setting { field, message } => Self::Setting { field, message },
            dcff_run::Error::File { path, message } => Self::File { path, message },
            dcff_run::Error::Disk(error) => Self::Disk(error),
            dcff_run::Error::Other(error) => match error.downcast() {
                Ok(own) => *own,
                Err(error) => Self::Run(dcff_run::Error::Other(error)),
            },
            error => Self::Run(error),
        }
    }
}

impl From<Error> for dcff_run::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Setting { field, message } => Self::Setting { field, message },
            Error::File { path, message } => Self::File { path, message },
            Error::Disk(error) => Self::Disk(error),
            Error::Run(error) => error,
            error => Self::Other(Box::new(error)),
        }
    }
}

/// A place in an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A step of training, counted from 1.
    Step(usize),
    /// The evaluation on these images, `validation` or `test`.
    Images(&'static str),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Step(step) => write!(f, "step {step}"),
            Self::Images(images) => write!(f, "{images} images"),
        }
    }
}

impl Error {
    pub(crate) fn setting(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Setting {
            field: field.into(),
            message: message.into(),
        }
    }

    pub(crate) fn file(path: &Path, message: impl std::fmt::Display) -> Self {
        Self::File {
            path: path.to_owned(),
            message: message.to_string(),
        }
    }
}
