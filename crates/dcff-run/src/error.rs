//! What can be wrong with a record.

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
    /// A name is none of those that there are.
    #[error("{0}")]
    Name(String),
    /// A file of the run folder is missing or unsound.
    #[error("{path}: {message}")]
    File {
        /// The file.
        path: PathBuf,
        /// What was expected and what came.
        message: String,
    },
    /// Writing or reading a file failed.
    #[error(transparent)]
    Disk(#[from] dcff_file::Error),
    /// What a [`Registry`](crate::Registry) says.
    #[error(transparent)]
    Other(Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// A setting that is out of its range.
    pub fn setting(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Setting {
            field: field.into(),
            message: message.into(),
        }
    }

    /// A file that is missing or unsound.
    pub fn file(path: &Path, message: impl std::fmt::Display) -> Self {
        Self::File {
            path: path.to_owned(),
            message: message.to_string(),
        }
    }
}
