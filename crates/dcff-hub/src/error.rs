//! The one error type of this crate. Every message is one line and says what to do instead where that is known.

use std::path::PathBuf;

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// How to go on without the Hub.
const LOCAL_FILES: &str = "use local files with `--data-dir DIR` or DCFF_DATA_DIR";

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
        "{repo}: HF_HUB_OFFLINE is set and {file} is not in {}; unset it, or {LOCAL_FILES}",
        cache.display()
    )]
    Offline {
        /// The repository.
        repo: String,
        /// The first missing file.
        file: String,
        /// The Hub's cache folder.
        cache: PathBuf,
    },
    /// The Hub cannot be reached.
    #[error("{repo}: no connection to {endpoint} ({detail}); {LOCAL_FILES}")]
    NoNetwork {
        /// The repository.
        repo: String,
        /// Where the Hub was looked for.
        endpoint: String,
        /// The transport's reason.
        detail: String,
    },
    /// The Hub answered, but not with the file.
    #[error("{repo}: {file}: {detail}; or {LOCAL_FILES}")]
    Refused {
        /// The repository.
        repo: String,
        /// The file asked for.
        file: String,
        /// The Hub's reason.
        detail: String,
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
    #[error("{}: {source}", path.display())]
    Io {
        /// File or folder.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
}
