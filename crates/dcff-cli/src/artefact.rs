//! From what a user names — a folder, a run, a repository on the Hub — to the folder of a compact network.

use std::path::{Path, PathBuf};

use crate::hub;

/// The prefix of repositories on the Hub.
pub(crate) const HUB: &str = "hf://";

/// The folder with `model.safetensors` and `config.json`; a run's folder stands for its artefact, and `hf://USER/NAME[@REVISION]`
/// is fetched into the Hub's cache.
///
/// # Errors
/// When the run has no artefact yet, or nothing can be fetched.
pub(crate) fn folder(path: &Path) -> anyhow::Result<PathBuf> {
    if let Some(source) = path.to_str().and_then(|text| text.strip_prefix(HUB)) {
        return hub::pull(source);
    }
    let is_artefact = path.join(dcff_compact::WEIGHTS).exists();
    if is_artefact || !path.join(dcff_train::CONFIG).exists() {
        return Ok(path.to_owned());
    }
    let inner = path.join(dcff_train::COMPACT);
    anyhow::ensure!(
        inner.exists(),
        "{0}: the run is not finished; continue it with `dcff train --resume {0}`, or take its compact network as it \
         stands with `dcff compact {0} --out DIR`",
        path.display()
    );
    Ok(inner)
}

/// Whether `path` names a repository on the Hub.
pub(crate) fn is_on_hub(path: &Path) -> bool {
    path.to_str().is_some_and(|text| text.starts_with(HUB))
}
