//! The Hugging Face Hub as the program uses it: settings from the environment, networks from the cache or the network.

use std::path::PathBuf;

use dcff_hub::{HubConfig, RepoKind, RepoRevision, cached_snapshot};

/// The settings that all Hub tools read from the environment.
pub(crate) fn config() -> HubConfig {
    HubConfig::from_env_map(|name| std::env::var(name).ok()).with_stored_token()
}

/// The cached folder of the artefact `USER/NAME[@REVISION]`, after fetching what is not there or has changed.
pub(crate) fn pull(source: &str) -> anyhow::Result<PathBuf> {
    let source: RepoRevision = source.parse()?;
    client::pull(&config(), &source)
}

const ARTEFACT: [&str; 2] = [dcff_compact::CONFIG, dcff_compact::WEIGHTS];

fn from_cache(config: &HubConfig, source: &RepoRevision) -> Option<PathBuf> {
    cached_snapshot(
        config,
        RepoKind::Model,
        &source.repo,
        &source.revision,
        &ARTEFACT,
    )
}

mod client {
    use anyhow::Context;

    use super::*;

    pub(super) fn pull(config: &HubConfig, source: &RepoRevision) -> anyhow::Result<PathBuf> {
        from_cache(config, source).with_context(|| {
            format!(
                "{source}: not in {}; build with the cargo feature 'hub' to download it",
                config.cache.display()
            )
        })
    }
}
