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

/// Characters that a shortened commit has at least, as git shortens them.
const SHORT_COMMIT: usize = 7;

/// The folder of a cached snapshot that holds all of `files` (paths inside the repository), if there is one.
///
/// Of a model it is the snapshot that `revision` names, and no other: a branch or tag as it was last seen, or a commit, also
/// shortened to at least 7 characters that only one cached commit begins with.
/// Data sets are known by their fingerprints, so any snapshot will do: the one that `revision` names comes first, then the others
/// by commit. An interrupted download leaves no file at its final name, so what is found is whole.
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
        .ok()
        .or_else(|| full_commit(&commits, revision));
    let named = |path: &PathBuf| {
        let current = current.as_deref();
        current.is_some_and(|current| path.file_name() == Some(current.as_ref()))
    };
    match kind {
        RepoKind::Model => commits.retain(named),
        // A stable sort: the current one first, the rest stays in order.
        RepoKind::Dataset => commits.sort_by_key(|path| !named(path)),
    }
    commits
        .into_iter()
        .find(|snapshot| holds_all(snapshot, files))
}

/// The only one of the cached `commits` that `revision` is or begins.
fn full_commit(commits: &[PathBuf], revision: &str) -> Option<String> {
    let names = commits.iter().filter_map(|path| path.file_name()?.to_str());
    let hex = revision.bytes().all(|b| b.is_ascii_hexdigit());
    let short = hex && revision.len() >= SHORT_COMMIT;
    let lower = revision.to_ascii_lowercase();
    let mut found: Vec<&str> = names
        .filter(|&name| name == revision || (short && name.starts_with(&lower)))
        .collect();
    // Nothing is shortened about a whole name.
    if found.contains(&revision) {
        found = vec![revision];
    }
    match found.as_slice() {
        [one] => Some((*one).to_owned()),
        _ => None,
    }
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

    #[test]
    fn a_model_comes_from_the_revision_asked_for_and_from_no_other() {
        let root = tempfile::tempdir().unwrap();
        let config = HubConfig {
            cache: root.path().to_owned(),
            ..HubConfig::from_env_map(|_| None)
        };
        let repo: RepoId = "user/net".parse().unwrap();
        let found = |revision: &str| {
            cached_snapshot(&config, RepoKind::Model, &repo, revision, &["config.json"])
                .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
        };
        let [first, second] = ["abcdef01", "abcdef02"].map(|start| start.repeat(5));
        for commit in [&first, &second] {
            let file = format!("models--user--net/snapshots/{commit}/config.json");
            put(root.path(), &file, "{}");
        }
        put(root.path(), "models--user--net/refs/main", &second);
        put(root.path(), "models--user--net/refs/gone", &"9".repeat(40));
        for (revision, commit) in [
            ("main", Some(&second)),
            (first.as_str(), Some(&first)),
            ("abcdef01", Some(&first)),
            ("ABCDEF02", Some(&second)),
            // Both begin so; too short; other revisions.
            ("abcdef0", None),
            ("abcdef", None),
            ("v1.0", None),
            ("gone", None),
            ("1234567", None),
        ] {
            assert_eq!(found(revision).as_ref(), commit, "{revision}");
        }
    }
}
