//! The one error type of this crate. Every message is one line and says what to do instead where that is known.

use std::path::PathBuf;

use crate::RepoKind;

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// How to go on without the Hub, where there is a way.
fn instead(kind: RepoKind) -> &'static str {
    match kind {
        RepoKind::Dataset => "; or use local files with `--data-dir DIR` or DCFF_DATA_DIR",
        RepoKind::Model => "",
    }
}

/// What can go wrong with names, the cache and downloads.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A repository name that the Hub would refuse.
    #[error("repository `{id}`: {detail}")]
    RepoId {
        /// The name as given.
        id: String,
        /// Expected and got.
        detail: String,
    },
    /// The name of a branch, tag or commit that git would refuse.
    #[error("revision `{revision}`: {detail}")]
    Revision {
        /// The name as given.
        revision: String,
        /// Expected and got.
        detail: String,
    },
    /// HF_HUB_OFFLINE is set and the files are not in the cache.
    #[error(
        "{repo}: HF_HUB_OFFLINE is set and {file} is not in {}; unset it{}",
        cache.display(),
        instead(*kind)
    )]
    Offline {
        /// What the repository holds.
        kind: RepoKind,
        /// The repository.
        repo: String,
        /// The first missing file.
        file: String,
        /// The Hub's cache folder.
        cache: PathBuf,
    },
    /// The Hub cannot be reached.
    #[error("{repo}: no connection to {endpoint} ({detail}){}", instead(*kind))]
    NoNetwork {
        /// What the repository holds.
        kind: RepoKind,
        /// The repository.
        repo: String,
        /// Where the Hub was looked for.
        endpoint: String,
        /// The transport's reason.
        detail: String,
    },
    /// The Hub answered, but not with the file.
    #[error("{repo}: {file}: {detail}{}", instead(*kind))]
    Refused {
        /// What the repository holds.
        kind: RepoKind,
        /// The repository.
        repo: String,
        /// The file asked for.
        file: String,
        /// The Hub's reason.
        detail: String,
    },
    /// Publishing needs an account.
    #[error("{repo}: no token: set HF_TOKEN, or run `hf auth login`")]
    NoToken {
        /// The repository.
        repo: String,
    },
    /// Publishing needs the network.
    #[error("{repo}: HF_HUB_OFFLINE is set; unset it to publish")]
    PublishOffline {
        /// The repository.
        repo: String,
    },
    /// Someone else changed the repository since its state was read; nothing of this upload is there.
    #[error(
        "{repo}: {revision} was changed by someone else during the upload, nothing was committed; run the command again"
    )]
    Conflict {
        /// The repository.
        repo: String,
        /// The branch.
        revision: String,
    },
    /// No byte moved for too long.
    #[error("{repo}: no answer from {endpoint} for {seconds} seconds")]
    Stalled {
        /// The repository.
        repo: String,
        /// Where the Hub is.
        endpoint: String,
        /// How long was waited.
        seconds: u64,
    },
    /// A file whose bytes are not those it should have.
    #[error("{}: expected {what} {expected}, got {got}; the file was removed, download it again", path.display())]
    Checksum {
        /// The file.
        path: PathBuf,
        /// `sha256` or `size`.
        what: &'static str,
        /// Value expected.
        expected: String,
        /// Value of the bytes received.
        got: String,
    },
    /// The operating system refused a file or folder.
    #[error("{}: {reason}", path.display())]
    Io {
        /// File or folder.
        path: PathBuf,
        /// The operating system's reason: a part of the message, and therefore not also its source.
        reason: std::io::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_told_once() {
        let error = Error::Io {
            path: PathBuf::from("a"),
            reason: std::io::Error::other("full"),
        };
        assert_eq!(error.to_string(), "a: full");
        assert!(std::error::Error::source(&error).is_none());
    }
}
