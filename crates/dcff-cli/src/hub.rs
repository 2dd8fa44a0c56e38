//! The Hugging Face Hub as the program uses it: settings from the environment, networks from the cache or the network, and back.

use std::path::PathBuf;

use dcff_hub::{HubConfig, RepoRevision};

#[cfg(feature = "hub")]
pub(crate) use client::{bar, publish};

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

#[cfg(not(feature = "hub"))]
mod client {
    use anyhow::Context;
    use dcff_hub::{RepoKind, cached_snapshot};

    use super::*;

    pub(super) fn pull(config: &HubConfig, source: &RepoRevision) -> anyhow::Result<PathBuf> {
        let kind = RepoKind::Model;
        cached_snapshot(config, kind, &source.repo, &source.revision, &ARTEFACT).with_context(
            || {
                format!(
                    "{source}: not in {}; build with the cargo feature 'hub' to download it",
                    config.cache.display()
                )
            },
        )
    }
}

#[cfg(feature = "hub")]
mod client {
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};

    use dcff_compact::{MAX_CONFIG_BYTES, MAX_WEIGHTS_BYTES};
    use dcff_hub::{
        DownloadProgress, OnProgress, PublishOptions, Published, RemoteFile, RepoId, RepoKind,
        download,
    };
    use indicatif::ProgressBar;

    use super::*;

    pub(super) fn pull(config: &HubConfig, source: &RepoRevision) -> anyhow::Result<PathBuf> {
        let limits = [MAX_CONFIG_BYTES, MAX_WEIGHTS_BYTES];
        let files: Vec<RemoteFile> = ARTEFACT
            .iter()
            .zip(limits)
            .map(|(path, limit)| RemoteFile {
                path: (*path).to_owned(),
                max_size: Some(limit),
                ..RemoteFile::default()
            })
            .collect();
        let kind = RepoKind::Model;
        Ok(download(
            config,
            kind,
            &source.repo,
            &source.revision,
            &files,
            bar(),
        )?)
    }

    /// Shows a download on standard error, where that is a terminal.
    pub(crate) fn bar() -> OnProgress {
        let bar = Mutex::new((String::new(), ProgressBar::hidden()));
        Arc::new(move |progress: &DownloadProgress| {
            let Ok(mut state) = bar.lock() else { return };
            if state.0 != progress.file {
                state.1.finish();
                *state = (progress.file.clone(), ProgressBar::new(progress.total));
            }
            state.1.set_position(progress.bytes);
        })
    }

    pub(crate) fn publish(
        repo: &RepoId,
        files: &BTreeMap<String, Vec<u8>>,
        options: &PublishOptions,
    ) -> anyhow::Result<Published> {
        let bar = ProgressBar::new(0);
        let shown = bar.clone();
        let progress = Arc::new(move |sent, all| {
            shown.set_length(all);
            shown.set_position(sent);
        });
        let published = dcff_hub::publish(&config(), repo, files, options, progress);
        bar.finish_and_clear();
        Ok(published?)
    }
}
