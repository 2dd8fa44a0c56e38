//! Downloads into the Hub's cache, with hf-hub.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hf_hub::HFRepositorySync;
use hf_hub::progress::{DownloadEvent, Progress, ProgressEvent, ProgressHandler};
use hf_hub::repository::{RepoTreeEntry, RepoType};

use crate::client::{Client, Pulse};
use crate::{Error, HubConfig, RepoId, RepoKind, Result, cached_snapshot, hash};

/// A file to fetch, and what is known about its bytes beforehand.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RemoteFile {
    /// Path inside the repository.
    pub path: String,
    /// Size in bytes, if known.
    pub size: Option<u64>,
    /// SHA-256 in lower-case hex, if known.
    pub sha256: Option<String>,
    /// A larger file is refused before it is fetched.
    pub max_size: Option<u64>,
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

/// What is called with the progress of a download, from another thread.
pub type OnProgress = Arc<dyn Fn(&DownloadProgress) + Send + Sync>;

/// Fetches `files` of a repository into the Hub's cache and returns the snapshot folder that holds all of them.
///
/// What is in the cache already is not fetched again. Every file is checked: against the size and SHA-256 in `files` where given, and
/// against what the Hub itself states, the SHA-256 of large files and git's SHA-1 of the others. A file that fails is
/// removed from the cache.
///
/// # Errors
/// If `config.offline` and a file is not cached; if the Hub cannot be reached (the message says how to use local files) or refuses;
/// if a check fails.
pub fn download(
    config: &HubConfig,
    kind: RepoKind,
    repo: &RepoId,
    revision: &str,
    files: &[RemoteFile],
    progress: OnProgress,
) -> Result<PathBuf> {
    if config.offline {
        return from_cache(config, kind, repo, revision, files);
    }
    let client = Client::new(config, kind, repo)?;
    match kind {
        RepoKind::Dataset => {
            let repository = client.hub.dataset(repo.owner(), repo.name());
            fetch(&client, repository, revision, files, progress)
        }
        RepoKind::Model => {
            let repository = client.hub.model(repo.owner(), repo.name());
            fetch(&client, repository, revision, files, progress)
        }
    }
}

fn fetch<T: RepoType>(
    client: &Client,
    repository: HFRepositorySync<T>,
    revision: &str,
    files: &[RemoteFile],
    progress: OnProgress,
) -> Result<PathBuf> {
    refuse_large(client, &repository, revision, files)?;
    let mut snapshot: Option<PathBuf> = None;
    for file in files {
        let path = client.retry(&file.path, |pulse| {
            let (repository, file, revision) =
                (repository.clone(), file.path.clone(), revision.to_owned());
            let reporter = Progress::new(Reporter {
                file: file.clone(),
                progress: progress.clone(),
                pulse,
            });
            move || {
                let request = repository.download_file().filename(file);
                request.revision(revision).progress(reporter).send()
            }
        })?;
        check(&path, file)?;
        let folder = snapshot_of(&path, &file.path);
        if snapshot.as_ref().is_some_and(|earlier| *earlier != folder) {
            let changed = "the repository changed during the download: download again";
            return Err(client.refused(&file.path, changed.to_owned()));
        }
        snapshot = Some(folder);
    }
    snapshot.ok_or_else(|| {
        let detail = "expected at least 1 file to download, got 0".to_owned();
        client.refused("no file", detail)
    })
}

/// Asks for the sizes of files that must not be larger than they may be.
fn refuse_large<T: RepoType>(
    client: &Client,
    repository: &HFRepositorySync<T>,
    revision: &str,
    files: &[RemoteFile],
) -> Result<()> {
    let limited: Vec<&RemoteFile> = files.iter().filter(|f| f.max_size.is_some()).collect();
    let Some(first) = limited.first() else {
        return Ok(());
    };
    let paths: Vec<String> = limited.iter().map(|file| file.path.clone()).collect();
    let answer = client.once(&first.path, |_| {
        let (repository, revision) = (repository.clone(), revision.to_owned());
        move || {
            let request = repository.get_paths_info().paths(paths);
            request.revision(revision).send()
        }
    });
    let entries = match answer {
        Ok(entries) => entries,
        // What is cached may do without the Hub: the download below decides.
        Err(Error::NoNetwork { .. } | Error::Stalled { .. }) => return Ok(()),
        Err(other) => return Err(other),
    };
    for entry in entries {
        let RepoTreeEntry::File { path, size, .. } = entry else {
            continue;
        };
        let limit = limited.iter().find(|f| f.path == path);
        if let Some(limit) = limit.and_then(|file| file.max_size)
            && size > limit
        {
            let detail = format!("expected at most {limit} bytes, got {size}");
            return Err(client.refused(&path, detail));
        }
    }
    Ok(())
}

fn from_cache(
    config: &HubConfig,
    kind: RepoKind,
    repo: &RepoId,
    revision: &str,
    files: &[RemoteFile],
) -> Result<PathBuf> {
    let cached = |paths: &[&str]| cached_snapshot(config, kind, repo, revision, paths);
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
    let missing = missing.copied().unwrap_or("no file");
    Err(Error::Offline {
        kind,
        repo: repo.to_string(),
        file: match kind {
            RepoKind::Dataset => missing.to_owned(),
            // Another revision of it may be there.
            RepoKind::Model => format!("{missing} of revision {revision}"),
        },
        cache: config.cache.clone(),
    })
}

/// The snapshot folder: the path of a file in it less the path inside the repository.
fn snapshot_of(path: &Path, inside: &str) -> PathBuf {
    let depth = Path::new(inside).components().count();
    path.ancestors().nth(depth).unwrap_or(path).to_owned()
}

/// Compares the bytes with what is known about them; removes the file if they differ.
///
/// hf-hub stores whatever the answer to its `GET` was, an error's text too: this is what notices.
fn check(path: &Path, file: &RemoteFile) -> Result<()> {
    let io = |reason| Error::Io {
        path: path.to_owned(),
        reason,
    };
    // A snapshot's files are links to `blobs/ETAG`. The ETag of a large file is its SHA-256, that of others git's name for it.
    let blob = path.canonicalize().map_err(io)?;
    let etag = blob
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .to_lowercase();
    let hex = etag.bytes().all(|b| b.is_ascii_hexdigit());

    let size = std::fs::metadata(&blob).map_err(io)?.len();
    let mut known: Vec<(&str, String, String)> = Vec::new();
    if let Some(expected) = file.size {
        known.push(("size", expected.to_string(), size.to_string()));
    }
    if known.iter().all(|(_, expected, got)| expected == got) {
        let etag_sha256 = (hex && etag.len() == 64).then_some(&etag);
        let sha256 = file.sha256.iter().chain(etag_sha256);
        for expected in sha256 {
            let got = hash::sha256(&blob).map_err(io)?;
            known.push(("sha256", expected.to_lowercase(), got));
        }
        if hex && etag.len() == 40 {
            let got = hash::git_blob(&blob).map_err(io)?;
            known.push(("git's sha1", etag, got));
        }
    }
    let mismatch = known.into_iter().find(|(_, expected, got)| expected != got);
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

/// Passes hf-hub's events of one file on.
struct Reporter {
    file: String,
    progress: OnProgress,
    pulse: Pulse,
}

impl Reporter {
    fn report(&self, bytes: u64, total: u64) {
        self.pulse.beat();
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

#[cfg(test)]
mod tests;
