//! Downloads from the Hugging Face Hub, and uploads to it.
//!
//! ```text
//! environment --HubConfig::from_env_map--> HubConfig --cached_snapshot--> folder that is already there
//!                                                    --download---------> folder in the Hub's cache
//!                                                    --publish----------> one commit on the Hub
//! ```
//!
//! Without the feature `client` this crate knows repository names, settings and the layout of the Hub's cache, and opens no socket.
//! With it, `download` fetches files and `publish` commits them with hf-hub. No other crate of the workspace opens sockets.
//!
//! This crate deliberately knows neither datasets nor networks: files are names and bytes. It does not read the environment: the
//! program hands in what it read. A token never appears in an error or in `Debug`.
//!
//! # Example
//! ```
//! use dcff_hub::{HubConfig, RepoId, RepoKind, repo_folder};
//!
//! let variables = |name: &str| (name == "HF_HOME").then(|| "/cache".to_owned());
//! let config = HubConfig::from_env_map(variables);
//! let repo: RepoId = "me/tiny".parse()?;
//! let folder = repo_folder(&config, RepoKind::Model, &repo);
//! assert!(folder.ends_with("hub/models--me--tiny"));
//! # Ok::<(), dcff_hub::Error>(())
//! ```

mod cache;
#[cfg(feature = "client")]
mod client;
mod config;
#[cfg(feature = "client")]
mod download;
mod error;
#[cfg(feature = "client")]
mod hash;
#[cfg(feature = "client")]
mod publish;
mod repo_id;
mod repo_kind;

pub use cache::{cached_snapshot, repo_folder};
pub use config::{HubConfig, Token};
#[cfg(feature = "client")]
pub use download::{DownloadProgress, OnProgress, RemoteFile, download};
pub use error::{Error, Result};
#[cfg(feature = "client")]
pub use publish::{OnUpload, PublishOptions, Published, publish};
pub use repo_id::{RepoId, RepoRevision, check_revision};
pub use repo_kind::RepoKind;
