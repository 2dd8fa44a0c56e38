//! From what a user names — a folder, a run, a repository on the Hub — to the folder of a compact network.

use std::path::{Path, PathBuf};

use anyhow::{anyhow, ensure};
use dcff_compact::{Artefact, Bundle, SLICES, Slice};
use dcff_flops::Target;

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
    ensure!(
        inner.exists(),
        "{0}: the run is not finished; continue it with `dcff train --resume {0}`, or take its compact network as it \
         stands with `dcff compact {0} --out DIR`",
        path.display()
    );
    Ok(inner)
}

/// The network at `path`, a folder that [`folder`] found: of a bundle the slice within `budget`, where one is asked for; and which it is.
///
/// # Errors
/// When the artefact is unsound, the budget is none, or the artefact no bundle.
pub(crate) fn load(path: &Path, budget: Option<&str>) -> anyhow::Result<(Artefact, Option<Slice>)> {
    let Some(text) = budget else {
        return Ok((Artefact::load(path)?, None));
    };
    let target: Target = text.parse().map_err(|error| anyhow!("--budget: {error}"))?;
    ensure!(
        Bundle::is_at(path),
        "--budget: expected a bundle, which has a {SLICES}; {} is one network",
        path.display()
    );
    let bundle = Bundle::load(path)?;
    let whole = bundle.slices().iter().map(|slice| slice.macs).max();
    let number = bundle.within(target.of(whole.unwrap_or(0)));
    let number = number.map_err(|message| anyhow!("--budget: {message}"))?;
    let slice = bundle.slices()[number].clone();
    Ok((bundle.artefact(number)?, Some(slice)))
}

/// Says which slice was taken, where one was.
pub(crate) fn tell(path: &Path, slice: Option<&Slice>) {
    if let Some(slice) = slice {
        eprintln!(
            "{}: {}, {} multiply-accumulates",
            path.display(),
            slice.config,
            slice.macs
        );
    }
}

/// Whether `path` names a repository on the Hub.
pub(crate) fn is_on_hub(path: &Path) -> bool {
    path.to_str().is_some_and(|text| text.starts_with(HUB))
}
