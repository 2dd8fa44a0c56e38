//! From a data set's name to images: where they are looked for, in which order.

use std::path::PathBuf;

use anyhow::Context;
use dcff_data::{Loaded, Located};

use crate::args::DataDir;

/// Finds, or downloads, and reads a data set.
pub(crate) fn load(name: &str, dir: &DataDir) -> anyhow::Result<Loaded> {
    let located = locate(name, dir, true)?;
    Ok(located.load()?)
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
        Err(missing @ dcff_data::Error::NotFound { .. }) => match hub::download(name, &missing)? {
            Some(folder) => dcff_data::locate(name, &[folder]).context("after the download"),
            None => Err(missing.into()),
        },
        Err(other) => Err(other.into()),
    }
}

mod hub {
    //! The Hub's cache, and downloads where the program was built with them.
    use std::path::PathBuf;

    pub(super) fn snapshots(_name: &str) -> Vec<PathBuf> {
        Vec::new()
    }

    pub(super) fn download(
        _name: &str,
        _missing: &dcff_data::Error,
    ) -> anyhow::Result<Option<PathBuf>> {
        Ok(None)
    }
}
