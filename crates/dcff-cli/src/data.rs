//! From a data set's name to images: where they are looked for, in which order.

use std::path::PathBuf;

use anyhow::Context;
use dcff_data::{Dataset, Loaded, Located, Wanted};

use crate::args::DataDir;

/// Finds, or downloads, and reads a data set, and says what was left out of it.
pub(crate) fn load(name: &str, dir: &DataDir, wanted: &Wanted) -> anyhow::Result<Loaded> {
    let located = locate(name, dir, true)?;
    let loaded = located.load_as(wanted)?;
    tell(&loaded.notes);
    Ok(loaded)
}

/// As [`load`], only the images to test on, for a network that knows `classes`.
pub(crate) fn load_test(
    name: &str,
    dir: &DataDir,
    classes: &[String],
    wanted: &Wanted,
) -> anyhow::Result<Dataset> {
    let located = locate(name, dir, true)?;
    let (test, notes) = located.load_test(classes, wanted)?;
    tell(&notes);
    Ok(test)
}

/// Notes go where errors go: what was left out is nobody's result.
pub(crate) fn tell(notes: &[String]) {
    for note in notes {
        eprintln!("{}", crate::text::one_line(note));
    }
}

/// Looks in `--data-dir`, `DCFF_DATA_DIR` and the Hub's cache, then, where `download`, fetches it from the Hub.
pub(crate) fn locate(name: &str, dir: &DataDir, download: bool) -> anyhow::Result<Located> {
    let mut dirs: Vec<PathBuf> = dir.data_dir.iter().cloned().collect();
    if let Some(dir) = &dir.data_dir {
        anyhow::ensure!(dir.is_dir(), "--data-dir {}: no such folder", dir.display());
    }
    dirs.extend(std::env::var_os("DCFF_DATA_DIR").map(PathBuf::from));
    let hub = hub::snapshots(name);
    dirs.extend(hub);
    match dcff_data::locate(name, &dirs) {
        Ok(located) => Ok(located),
        // A folder that the user named is the answer, even where it is the wrong one.
        Err(missing) if dir.data_dir.is_some() || !download => Err(missing.into()),
        Err(missing @ dcff_data::Error::NotFound { .. }) => match hub::download(name)? {
            Some(folder) => dcff_data::locate(name, &[folder]).context("after the download"),
            None => anyhow::bail!("{missing}{}", hub::HINT),
        },
        Err(other) => Err(other.into()),
    }
}

/// The Hub's cache, and downloads where the program was built with them.
mod hub {
    use std::path::PathBuf;

    use dcff_data::HubFiles;
    use dcff_hub::{RepoId, RepoKind, cached_snapshot};

    use crate::hub::config;

    /// The Hub's files of the data set `name`, or of the one it is a part of.
    fn files(name: &str) -> Option<HubFiles> {
        let info = dcff_data::find(name).ok()?;
        let whole = info
            .subset_of
            .as_deref()
            .and_then(|whole| dcff_data::find(whole).ok());
        info.hub.clone().or_else(|| whole?.hub.clone())
    }

    /// What to add when nothing was found and nothing could be fetched.
    pub(super) const HINT: &str = if cfg!(feature = "hub") {
        "; name a folder that has them with --data-dir or DCFF_DATA_DIR"
    } else {
        "; name a folder that has them with --data-dir or DCFF_DATA_DIR, or build with the cargo feature 'hub' to download them"
    };

    /// The folders of the cache that hold the data set.
    pub(super) fn snapshots(name: &str) -> Vec<PathBuf> {
        let Some(files) = files(name) else {
            return Vec::new();
        };
        let Ok(repo) = files.repo.parse::<RepoId>() else {
            return Vec::new();
        };
        let paths: Vec<&str> = files.files.iter().map(|file| file.path.as_str()).collect();
        cached_snapshot(&config(), RepoKind::Dataset, &repo, &files.revision, &paths)
            .into_iter()
            .collect()
    }

    /// Downloads the data set into the cache; `None` when the Hub does not have it or this program cannot download.
    #[cfg(feature = "hub")]
    pub(super) fn download(name: &str) -> anyhow::Result<Option<PathBuf>> {
        use dcff_hub::{RemoteFile, download};

        let Some(files) = files(name) else {
            return Ok(None);
        };
        let repo: RepoId = files.repo.parse()?;
        let wanted: Vec<RemoteFile> = files
            .files
            .into_iter()
            .map(|file| RemoteFile {
                path: file.path,
                size: file.size,
                sha256: file.sha256,
                max_size: None,
            })
            .collect();
        eprintln!("downloading {repo} from the Hub");
        Ok(Some(download(
            &config(),
            RepoKind::Dataset,
            &repo,
            &files.revision,
            &wanted,
            crate::hub::bar(),
        )?))
    }

    #[cfg(not(feature = "hub"))]
    pub(super) fn download(_name: &str) -> anyhow::Result<Option<PathBuf>> {
        Ok(None)
    }
}
