//! What can go wrong with a file.

use std::path::{Path, PathBuf};

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of this crate. Messages start with the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error("{path}: {reason}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's answer: a part of the message, and therefore not also its source.
        reason: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{path}: {message}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What was expected and what came.
        message: String,
    },
}

impl Error {
    /// Whether there is nothing at the path.
    pub fn is_absence(&self) -> bool {
        matches!(self, Self::Io { reason, .. } if reason.kind() == std::io::ErrorKind::NotFound)
    }

    /// What is wrong, without the file.
    pub fn detail(&self) -> String {
        match self {
            Self::Io { reason, .. } => reason.to_string(),
            Self::Content { message, .. } => message.clone(),
        }
    }

    pub(crate) fn io(path: &Path, reason: std::io::Error) -> Self {
        Self::Io {
            path: path.to_owned(),
            reason,
        }
    }

    pub(crate) fn content(path: &Path, message: impl Into<String>) -> Self {
        Self::Content {
            path: path.to_owned(),
            message: message.into(),
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
