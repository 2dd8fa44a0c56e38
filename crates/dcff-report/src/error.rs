//! What can go wrong while reporting.

use std::path::{Path, PathBuf};

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of this crate. Messages name the file, what was expected and what came.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file of a run folder is missing or unsound.
    #[error("{path}: {message}")]
    File {
        /// The file.
        path: PathBuf,
        /// What was expected and what came.
        message: String,
    },
    /// There is nothing to report on.
    #[error("expected at least one finished run, got none of {runs}{}", failure.as_ref().map_or(String::new(), |text| format!("; {text}")))]
    Nothing {
        /// How many runs there are.
        runs: usize,
        /// What the first that failed says.
        failure: Option<String>,
    },
    /// The layer asked for is in none of the runs.
    #[error("layer {layer}: no run has it; known: {known}")]
    UnknownLayer {
        /// The layer asked for.
        layer: String,
        /// The layers there are.
        known: String,
    },
    /// A configuration or checkpoint is unsound.
    #[error(transparent)]
    Run(#[from] dcff_run::Error),
    /// A file cannot be written or read.
    #[error(transparent)]
    Disk(#[from] dcff_file::Error),
}

impl Error {
    pub(crate) fn file(path: &Path, message: impl std::fmt::Display) -> Self {
        Self::File {
            path: path.to_owned(),
            message: message.to_string(),
        }
    }
}
