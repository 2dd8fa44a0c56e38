//! Downloads into the Hub's cache, with hf-hub.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hf_hub::HFError;
use hf_hub::progress::{DownloadEvent, Progress, ProgressEvent, ProgressHandler};
use sha2::{Digest, Sha256};

use crate::{Error, HubConfig, RepoId, RepoKind, Result, cached_snapshot};

/// A file to fetch, and what is known about its bytes beforehand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteFile {
    /// Path inside the repository.
    pub path: String,
    /// Size in bytes, if known.
    pub size: Option<u64>,
    /// SHA-256 in lower-case hex, if known.
    pub sha256: Option<String>,
}

/// How far a download is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DownloadProgress {
    /// Path inside the repository.
    pub file: String,
    /// Bytes received of this file.
    pub bytes: u64,
    /// Size of this file in bytes; 0 while unknown.
    pub total: u64,
}

/// Fetches `files` of a dataset repository into the Hub's cache and returns the snapshot folder that holds all of them.
///
/// What is in the cache already is not fetched again. Every file is checked: against the size and SHA-256 in `files` where given, and
/// against the SHA-256 that the Hub itself states for large files. A file that fails is removed from the cache.
///
/// `progress` is called from another thread.
///
/// # Errors
/// If `config.offline` and a file is not cached; if the Hub cannot be reached (the message says how to use local files) or refuses;
/// if a check fails.
pub fn download(
    config: &HubConfig,
    repo: &RepoId,
    revision: &str,
    files: &[RemoteFile],
    progress: Arc<dyn Fn(&DownloadProgress) + Send + Sync>,
) -> Result<PathBuf> {
    if config.offline {
        return from_cache(config, repo, revision, files);
    }
    let failed = |file: &str, error: HFError| explain(config, repo, file, &error);
    let mut builder = hf_hub::HFClient::builder()
        .endpoint(&config.endpoint)
        .cache_dir(&config.cache);
    if let Some(token) = &config.token {
        builder = builder.token(token.reveal());
    }
    let client = builder
        .build_sync()
        .map_err(|error| failed("client", error))?;
    let repository = client.dataset(repo.owner(), repo.name());

    let mut snapshot: Option<PathBuf> = None;
    for file in files {
        let reporter = Reporter {
            file: file.path.clone(),
            progress: progress.clone(),
        };
        let path = repository
            .download_file()
            .filename(&file.path)
            .revision(revision)
            .progress(Progress::new(reporter))
            .send()
            .map_err(|error| failed(&file.path, error))?;
        check(&path, file)?;
        let folder = snapshot_of(&path, &file.path);
        if snapshot.as_ref().is_some_and(|earlier| *earlier != folder) {
            return Err(Error::Refused {
                repo: repo.to_string(),
                file: file.path.clone(),
                detail: "the repository changed during the download: download again".to_owned(),
            });
        }
        snapshot = Some(folder);
    }
    snapshot.ok_or_else(|| Error::Refused {
        repo: repo.to_string(),
        file: "no file".to_owned(),
        detail: "expected at least 1 file to download, got 0".to_owned(),
    })
}

fn from_cache(
    config: &HubConfig,
    repo: &RepoId,
    revision: &str,
    files: &[RemoteFile],
) -> Result<PathBuf> {
    let cached = |paths: &[&str]| cached_snapshot(config, RepoKind::Dataset, repo, revision, paths);
    let paths: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
    if let Some(snapshot) = cached(&paths) {
        for file in files {
            check(&snapshot.join(&file.path), file)?;
        }
        return Ok(snapshot);
    }
    let missing = paths
        .iter()
        .find(|path| cached(&[path]).is_none())
        .or(paths.first());
    Err(Error::Offline {
        repo: repo.to_string(),
        file: missing.copied().unwrap_or("no file").to_owned(),
        cache: config.cache.clone(),
    })
}

/// The snapshot folder: the path of a file in it less the path inside the repository.
fn snapshot_of(path: &Path, inside: &str) -> PathBuf {
    let depth = Path::new(inside).components().count();
    path.ancestors().nth(depth).unwrap_or(path).to_owned()
}

/// Compares the bytes with what is known about them; removes the file if they differ.
fn check(path: &Path, file: &RemoteFile) -> Result<()> {
    let io = |source| Error::Io {
        path: path.to_owned(),
        source,
    };
    // A snapshot's files are links to `blobs/ETAG`, and the ETag of a large file is its SHA-256.
    let blob = path.canonicalize().map_err(io)?;
    let etag = blob
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let is_sha256 = etag.len() == 64 && etag.bytes().all(|b| b.is_ascii_hexdigit());

    let size = std::fs::metadata(&blob).map_err(io)?.len();
    let mut mismatch = None;
    if let Some(expected) = file.size.filter(|&expected| expected != size) {
        mismatch = Some(("size", expected.to_string(), size.to_string()));
    } else {
        let known: Vec<&String> = file
            .sha256
            .iter()
            .chain(is_sha256.then_some(&etag))
            .collect();
        if !known.is_empty() {
            let got = sha256(&blob).map_err(io)?;
            mismatch = known
                .into_iter()
                .find(|expected| !expected.eq_ignore_ascii_case(&got))
                .map(|expected| ("sha256", expected.clone(), got));
        }
    }
    let Some((what, expected, got)) = mismatch else {
        return Ok(());
    };
    // Both names go, so that the next download starts afresh; the error to report is the mismatch.
    let _ = std::fs::remove_file(path);
    let _ = std::fs::remove_file(&blob);
    Err(Error::Checksum {
        path: path.to_owned(),
        what,
        expected,
        got,
    })
}

fn sha256(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            count => hash.update(&buffer[..count]),
        }
    }
    Ok(hash
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

/// Passes hf-hub's events of one file on.
struct Reporter {
    file: String,
    progress: Arc<dyn Fn(&DownloadProgress) + Send + Sync>,
}

impl Reporter {
    fn report(&self, bytes: u64, total: u64) {
        (self.progress)(&DownloadProgress {
            file: self.file.clone(),
            bytes,
            total,
        });
    }
}

impl ProgressHandler for Reporter {
    fn on_progress(&self, event: &ProgressEvent) {
        let ProgressEvent::Download(event) = event else {
            return;
        };
        match event {
            DownloadEvent::Start { total_bytes, .. } => self.report(0, *total_bytes),
            DownloadEvent::Progress { files } => {
                for file in files {
                    self.report(file.bytes_completed, file.total_bytes);
                }
            }
            DownloadEvent::AggregateProgress {
                bytes_completed,
                total_bytes,
                ..
            } => self.report(*bytes_completed, *total_bytes),
            DownloadEvent::Complete => {}
        }
    }
}

/// hf-hub's error as one line that says what to do and holds no token.
fn explain(config: &HubConfig, repo: &RepoId, file: &str, error: &HFError) -> Error {
    let detail = match error {
        // The chain's end says why (no such host, connection refused); the rest repeats the address.
        HFError::Request { source, .. } => innermost(source),
        HFError::Http { context }
        | HFError::Forbidden { context }
        | HFError::AuthRequired { context } => {
            let message = context.server_message.as_deref().unwrap_or_default();
            format!("the Hub answered {} {message}", context.status)
        }
        other => other.to_string(),
    };
    let mut detail = detail.lines().next().unwrap_or_default().trim().to_owned();
    let mut endpoint = config.endpoint.clone();
    if let Some(token) = &config.token {
        detail = token.redact(&detail);
        endpoint = token.redact(&endpoint);
    }
    match error {
        HFError::Request { .. } => Error::NoNetwork {
            repo: repo.to_string(),
            endpoint,
            detail,
        },
        _ => Error::Refused {
            repo: repo.to_string(),
            file: file.to_owned(),
            detail,
        },
    }
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[cfg(test)]
mod tests;
