//! Uploads to the Hub as one commit, with hf-hub.
//!
//! ```text
//! state of the branch --> what is missing or different --> preupload --> xet or inline --> commit on that state
//! ```
//!
//! Either the whole commit arrives or nothing. The commit names the state it was made for (`parentCommit`), so a change by
//! someone else in between is noticed and not overwritten. What is on the branch already is not sent again: an upload that
//! broke off goes on where it was, xet itself skipping the chunks it has.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hf_hub::progress::{Progress, ProgressEvent, ProgressHandler, UploadEvent};
use hf_hub::repository::{CommitInfo, CommitOperation, RepoTreeEntry, RepoTypeModel};
use hf_hub::{HFError, HFRepositorySync};

use crate::client::{Client, Pulse};
use crate::{Error, HubConfig, RepoId, RepoKind, Result, check_revision, hash};

/// The branch that every repository has.
const MAIN: &str = "main";
/// Slower uploads are given up: bytes a second of what is sent within the commit, of which hf-hub reports no progress.
const SLOWEST: u64 = 20_000;

/// How files are published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishOptions {
    /// The branch; made from `main` where it does not exist.
    pub revision: String,
    /// Whether a repository that does not exist yet is made private.
    pub private: bool,
    /// Whether the commit is proposed as a pull request.
    pub create_pr: bool,
    /// The commit's message, one line.
    pub message: String,
}

/// What became of an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Where to look at it.
    pub url: String,
    /// Whether the repository was made.
    pub created: bool,
    /// The files that were new or different; none where everything was there already and no commit was made.
    pub uploaded: Vec<String>,
}

/// Bytes sent and bytes in all.
pub type OnUpload = Arc<dyn Fn(u64, u64) + Send + Sync>;

/// Puts `files` (paths inside the repository, bytes) into a model repository by one commit. Other files there stay.
///
/// `progress` is called from another thread.
///
/// # Errors
/// Without a token, offline, when the Hub cannot be reached or refuses, or when someone else changes the branch meanwhile; the
/// branch is then as it was.
pub fn publish(
    config: &HubConfig,
    repo: &RepoId,
    files: &BTreeMap<String, Vec<u8>>,
    options: &PublishOptions,
    progress: OnUpload,
) -> Result<Published> {
    check_revision(&options.revision)?;
    let id = repo.to_string();
    if config.offline {
        return Err(Error::PublishOffline { repo: id });
    }
    if config.token.is_none() {
        return Err(Error::NoToken { repo: id });
    }
    let client = Client::new(config, RepoKind::Model, repo)?;
    let target = Target {
        repository: client.hub.model(repo.owner(), repo.name()),
        client,
        id,
        options,
    };
    let (head, created) = target.prepare()?;
    let changed = target.changed(&head, files)?;
    let place = |path: &str| format!("{}/{}{path}", config.endpoint, target.id);
    let branch = match options.revision.as_str() {
        MAIN => place(""),
        other => place(&format!("/tree/{other}")),
    };
    let published = |url, uploaded| Published {
        url,
        created,
        uploaded,
    };
    if changed.is_empty() {
        return Ok(published(branch, Vec::new()));
    }
    let url = match target.commit(&head, files, &changed, progress)? {
        Ok(info) => info.pr_url.unwrap_or(branch),
        Err(error) if is_conflict(&error) => {
            // A commit whose answer was lost is sent again and conflicts with itself.
            let (head, _) = target.prepare()?;
            if options.create_pr || !target.changed(&head, files)?.is_empty() {
                return Err(Error::Conflict {
                    repo: target.id,
                    revision: options.revision.clone(),
                });
            }
            branch
        }
        Err(error) => return Err(target.client.explain("commit", &error)),
    };
    Ok(published(url, changed))
}

/// The Hub answers 412 where the parent is not the head any more, and 409 to other conflicts.
fn is_conflict(error: &HFError) -> bool {
    match error {
        HFError::Conflict { .. } => true,
        HFError::Http { context } => context.status.as_u16() == 412,
        _ => false,
    }
}

struct Target<'a> {
    client: Client,
    repository: HFRepositorySync<RepoTypeModel>,
    id: String,
    options: &'a PublishOptions,
}

impl Target<'_> {
    /// The commit that the branch stands at, and whether the repository had to be made.
    fn prepare(&self) -> Result<(String, bool)> {
        let mut created = false;
        let main = match self.head(None)? {
            Ok(head) => head,
            Err(HFError::RepoNotFound { .. }) => {
                self.create()?;
                created = true;
                self.head(None)?
                    .map_err(|error| self.client.explain("repository", &error))?
            }
            Err(error) => return Err(self.client.explain("repository", &error)),
        };
        let revision = &self.options.revision;
        if revision == MAIN {
            return Ok((main, created));
        }
        match self.head(Some(revision))? {
            Ok(head) => Ok((head, created)),
            Err(HFError::RevisionNotFound { .. }) => {
                self.client.once("branch", |_| {
                    let (repository, branch) = (self.repository.clone(), revision.clone());
                    let from = main.clone();
                    move || {
                        repository
                            .create_branch()
                            .branch(&branch)
                            .revision(from)
                            .send()
                    }
                })?;
                Ok((main, created))
            }
            Err(error) => Err(self.client.explain("branch", &error)),
        }
    }

    fn head(&self, revision: Option<&str>) -> Result<std::result::Result<String, HFError>> {
        let answer = self.client.raw(Duration::ZERO, |_| {
            let (repository, revision) = (self.repository.clone(), revision.map(str::to_owned));
            move || repository.info().maybe_revision(revision).send()
        })?;
        match answer {
            Ok(info) => match info.sha {
                Some(sha) => Ok(Ok(sha)),
                None => Err(self
                    .client
                    .refused("repository", "the Hub named no commit".to_owned())),
            },
            Err(error) => Ok(Err(error)),
        }
    }

    fn create(&self) -> Result<()> {
        let (hub, id, private) = (
            self.client.hub.clone(),
            self.id.clone(),
            self.options.private,
        );
        self.client.once("repository", |_| {
            move || {
                let request = hub
                    .create_repository()
                    .repo_id(&id)
                    .repo_type(RepoTypeModel);
                // Someone may have been faster.
                request.private(private).exist_ok(true).send()
            }
        })?;
        Ok(())
    }

    /// The paths of `files` that are not at `commit` with the same bytes.
    fn changed(&self, commit: &str, files: &BTreeMap<String, Vec<u8>>) -> Result<Vec<String>> {
        let paths: Vec<String> = files.keys().cloned().collect();
        let entries = self.client.once("files", |_| {
            let (repository, commit) = (self.repository.clone(), commit.to_owned());
            move || {
                let request = repository.get_paths_info().paths(paths);
                request.revision(commit).send()
            }
        })?;
        let mut there: BTreeMap<String, String> = BTreeMap::new();
        for entry in entries {
            if let RepoTreeEntry::File { path, oid, lfs, .. } = entry {
                // A large file's oid is that of its pointer.
                there.insert(path, lfs.and_then(|lfs| lfs.sha256).unwrap_or(oid));
            }
        }
        let differs = |(path, bytes): (&String, &Vec<u8>)| {
            let same = there
                .get(path)
                .is_some_and(|name| hash::names(bytes).contains(name));
            (!same).then(|| path.clone())
        };
        Ok(files.iter().filter_map(differs).collect())
    }

    fn commit(
        &self,
        head: &str,
        files: &BTreeMap<String, Vec<u8>>,
        changed: &[String],
        progress: OnUpload,
    ) -> Result<std::result::Result<CommitInfo, HFError>> {
        let bytes: u64 = changed.iter().map(|path| files[path].len() as u64).sum();
        let more = Duration::from_secs(bytes / SLOWEST);
        self.client.raw(more, |pulse| {
            let (repository, head) = (self.repository.clone(), head.to_owned());
            let PublishOptions {
                revision,
                create_pr,
                message,
                ..
            } = self.options.clone();
            let operations: Vec<CommitOperation> = changed
                .iter()
                .map(|path| CommitOperation::add_bytes(path.clone(), files[path].clone()))
                .collect();
            let reporter = Progress::new(Reporter { progress, pulse });
            move || {
                let request = repository.create_commit().operations(operations);
                let request = request.commit_message(message).revision(revision);
                let request = request.create_pr(create_pr).parent_commit(head);
                request.progress(reporter).send()
            }
        })
    }
}

struct Reporter {
    progress: OnUpload,
    pulse: Pulse,
}

impl ProgressHandler for Reporter {
    fn on_progress(&self, event: &ProgressEvent) {
        self.pulse.beat();
        match event {
            ProgressEvent::Upload(UploadEvent::Start { total_bytes, .. }) => {
                (self.progress)(0, *total_bytes);
            }
            ProgressEvent::Upload(UploadEvent::Progress {
                bytes_completed,
                total_bytes,
                ..
            }) => (self.progress)(*bytes_completed, *total_bytes),
            _ => {}
        }
    }
}
