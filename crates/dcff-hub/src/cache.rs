//! The cache that all Hub tools share: `datasets--OWNER--NAME/{refs/REVISION, snapshots/COMMIT/PATH, blobs/ETAG}`.
//!
//! Hugging Face, *Understand caching*, <https://huggingface.co/docs/huggingface_hub/guides/manage-cache>.

use std::path::{Path, PathBuf};

use crate::{HubConfig, RepoId, RepoKind};

/// The cache folder of one repository.
pub fn repo_folder(config: &HubConfig, kind: RepoKind, repo: &RepoId) -> PathBuf {
    let folder = format!("{}--{}--{}", kind.plural(), repo.owner(), repo.name());
    config.cache.join(folder)
}

/// The folder of a cached snapshot that holds all of `files` (paths inside the repository), if there is one.
///
/// The snapshot that `revision` (a branch, tag or commit) last pointed to comes first, then the others by commit. An interrupted
/// download leaves no file at its final name, so what is found is whole.
pub fn cached_snapshot(
    config: &HubConfig,
    kind: RepoKind,
    repo: &RepoId,
    revision: &str,
    files: &[&str],
) -> Option<PathBuf> {
    let folder = repo_folder(config, kind, repo);
    let snapshots = folder.join("snapshots");
    let mut commits: Vec<PathBuf> = std::fs::read_dir(&snapshots)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    commits.sort();

    let current = std::fs::read_to_string(folder.join("refs").join(revision))
        .map(|commit| commit.trim().to_owned())
        .unwrap_or_else(|_| revision.to_owned());
    // A stable sort: the current one first, the rest stays in order.
    commits.sort_by_key(|path| path.file_name() != Some(current.as_ref()));
    commits
        .into_iter()
        .find(|snapshot| holds_all(snapshot, files))
}

fn holds_all(snapshot: &Path, files: &[&str]) -> bool {
    files.iter().all(|file| snapshot.join(file).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(root: &Path, file: &str, text: &str) {
        let path = root.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn the_current_snapshot_comes_first_and_must_be_complete() {
        let root = tempfile::tempdir().unwrap();
        let config = HubConfig {
            cache: root.path().to_owned(),
            ..HubConfig::from_env_map(|_| None)
        };
        let repo: RepoId = "uoft-cs/cifar10".parse().unwrap();
        let files = ["plain_text/a.parquet", "plain_text/b.parquet"];
        let found = || {
            cached_snapshot(&config, RepoKind::Dataset, &repo, "main", &files)
                .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
        };
        assert_eq!(found(), None);

        let base = "datasets--uoft-cs--cifar10";
        put(
            root.path(),
            &format!("{base}/snapshots/111/plain_text/a.parquet"),
            "",
        );
        put(root.path(), &format!("{base}/refs/main"), "333\n");
        assert_eq!(found(), None);
        put(
            root.path(),
            &format!("{base}/snapshots/111/plain_text/b.parquet"),
            "",
        );
        assert_eq!(found().unwrap(), "111");
        for file in files {
            put(root.path(), &format!("{base}/snapshots/222/{file}"), "");
            put(root.path(), &format!("{base}/snapshots/333/{file}"), "");
        }
        assert_eq!(found().unwrap(), "333");
        put(root.path(), &format!("{base}/refs/main"), "222");
        assert_eq!(found().unwrap(), "222");
    }
}
