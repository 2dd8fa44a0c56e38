//! The one error type of this crate: every message names the file (and row), what was expected and what came.

use std::path::{Path, PathBuf};

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong with data: missing files, damaged files, images or labels that do not fit.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused a file or folder.
    #[error("{}: {reason}", path.display())]
    Io {
        /// File or folder.
        path: PathBuf,
        /// The operating system's reason: a part of the message, and therefore not also its source.
        reason: std::io::Error,
    },
    /// A file could not be read, or is larger than any of its kind.
    #[error(transparent)]
    File(#[from] dcff_file::Error),
    /// A dataset name that is neither listed nor a folder.
    #[error("unknown dataset `{name}`: known are {known}, `folder:PATH`, or a path to a folder")]
    UnknownDataset {
        /// The name as given.
        name: String,
        /// The known names, comma-separated.
        known: String,
    },
    /// No candidate folder holds the dataset.
    #[error("{name}: no data in {dirs}; looked for {looked_for}")]
    NotFound {
        /// Name of the dataset.
        name: String,
        /// The folders searched, comma-separated, in order.
        dirs: String,
        /// The files looked for in each of them, comma-separated.
        looked_for: String,
    },
    /// Some files of a dataset are there and others are not.
    #[error("{name}: {} is incomplete: missing {missing}", dir.display())]
    Incomplete {
        /// Name of the dataset.
        name: String,
        /// The folder that holds some of the files.
        dir: PathBuf,
        /// The files that are missing, comma-separated.
        missing: String,
    },
    /// A file that cannot be what its name says: truncated, damaged, or of another layout.
    #[error("{}: {detail}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Expected and got.
        detail: String,
    },
    /// One image or label of a file does not fit.
    #[error("{}: {unit} {row}: {detail}", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// What the file counts in: `row` or `record`.
        unit: &'static str,
        /// Position in the file, from 0.
        row: usize,
        /// Expected and got.
        detail: String,
    },
    /// An image file that does not fit with the others of its dataset.
    #[error("{}: {detail}", path.display())]
    Image {
        /// The image file.
        path: PathBuf,
        /// Expected and got.
        detail: String,
    },
    /// Values handed to a constructor that contradict each other.
    #[error("{what}: {detail}")]
    Invalid {
        /// The dataset or option.
        what: String,
        /// Expected and got.
        detail: String,
    },
    /// The background thread that assembles batches could not start or ended early.
    #[error("batch thread: {0}")]
    Thread(String),
    /// candle could not build a tensor.
    #[error(transparent)]
    Candle(candle_core::Error),
}

impl From<candle_core::Error> for Error {
    /// Without the backtrace that candle may add, and that its message would print.
    fn from(error: candle_core::Error) -> Self {
        match error {
            candle_core::Error::WithBacktrace { inner, .. } => Self::from(*inner),
            error => Self::Candle(error),
        }
    }
}

impl Error {
    pub(crate) fn io(path: &Path, reason: std::io::Error) -> Self {
        Self::Io {
            path: path.to_owned(),
            reason,
        }
    }

    pub(crate) fn damaged(path: &Path, detail: impl Into<String>) -> Self {
        Self::Damaged {
            path: path.to_owned(),
            detail: detail.into(),
        }
    }

    pub(crate) fn record(
        path: &Path,
        unit: &'static str,
        row: usize,
        detail: impl Into<String>,
    ) -> Self {
        Self::Record {
            path: path.to_owned(),
            unit,
            row,
            detail: detail.into(),
        }
    }

    pub(crate) fn image(path: &Path, detail: impl Into<String>) -> Self {
        Self::Image {
            path: path.to_owned(),
            detail: detail.into(),
        }
    }

    pub(crate) fn invalid(what: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Invalid {
            what: what.into(),
            detail: detail.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_told_once() {
        let error = Error::io(Path::new("a"), std::io::Error::other("full"));
        assert_eq!(error.to_string(), "a: full");
        assert!(std::error::Error::source(&error).is_none());
    }
}
