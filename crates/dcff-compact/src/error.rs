//! What can go wrong with an artefact on disk.

use std::path::{Path, PathBuf};

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of this crate. Messages start with the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] dcff_file::Error),
    /// A file's content is not what it should be.
    #[error("{path}: {message}")]
    Content {
        /// The file.
        path: PathBuf,
        /// The field, what was expected and what came.
        message: String,
    },
    /// The network could not be built or run.
    #[error(transparent)]
    Model(#[from] dcff_models::Error),
}

impl Error {
    pub(crate) fn content(path: &Path, message: impl Into<String>) -> Self {
        Self::Content {
            path: path.to_owned(),
            message: message.into(),
        }
    }
}
