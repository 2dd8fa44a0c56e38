//! The run folder's text files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use dcff_file::FolderLock;
use serde::Serialize;

use crate::config::RunConfig;
use crate::error::{Error, Result};
use crate::registry::Registry;
use crate::rows::{Metrics, Timing};
use crate::summary::Summary;
use crate::toml_file;

/// The configuration's file.
pub const CONFIG: &str = "config.toml";
/// The checkpoint's folder.
pub const CHECKPOINT: &str = "checkpoint";
/// The artefact's folder.
pub const COMPACT: &str = "compact";
/// The folder of the further artefacts of a run that ends with several networks.
pub const PRODUCTS: &str = "products";
/// A row per epoch, without times.
pub const METRICS: &str = "metrics.jsonl";
/// A row per epoch, times only.
pub const TIMING: &str = "timing.jsonl";
/// The outcome.
pub const SUMMARY: &str = "summary.json";

/// A table of more than this tells of no run: a row is a few hundred bytes.
pub const MAX_TABLE_BYTES: u64 = 256 << 20;
/// The outcome of a run is some kilobytes.
const MAX_SUMMARY_BYTES: u64 = 16 << 20;

/// A run's folder.
#[derive(Clone, Debug)]
pub struct RunFolder {
    path: PathBuf,
    /// Held from the folder's making on, so that nobody else takes it between that and the first step.
    lock: Option<Arc<FolderLock>>,
}

impl RunFolder {
    /// Makes the folder `path` for a new run and writes `config.toml`. Nobody else can train there while the folder or a
    /// clone of it is held.
    ///
    /// # Errors
    /// When `path` already holds anything but what a killed program left half written, cannot be written, or another program
    /// makes a run there.
    pub fn create(path: &Path, config: &RunConfig) -> Result<Self> {
        config.validate()?;
        let check = || -> Result<()> {
            let hint = match (path.join(CONFIG).exists(), dcff_file::is_vacant(path)?) {
                (true, _) => {
                    "holds a run already: continue it with --resume, or name another folder"
                }
                (false, false) => "expected a new or empty folder",
                (false, true) => return Ok(()),
            };
            Err(Error::file(path, hint))
        };
        // Before the lock, which leaves a file, and under it, since another program may just have been here.
        check()?;
        std::fs::create_dir_all(path).map_err(|error| Error::file(path, error))?;
        let lock = lock(path)?;
        check()?;
        dcff_file::sweep(path)?;
        let text =
            toml::to_string(config).map_err(|error| Error::file(&path.join(CONFIG), error))?;
        dcff_file::create(&path.join(CONFIG), text.as_bytes())?;
        Ok(Self {
            path: path.to_owned(),
            lock: Some(lock),
        })
    }

    /// Opens the folder of an earlier run and reads its configuration.
    ///
    /// # Errors
    /// When there is no `config.toml`, or it is unsound.
    pub fn open(path: &Path, known: &dyn Registry) -> Result<(Self, RunConfig)> {
        let file = path.join(CONFIG);
        if !file.exists() {
            let message = format!("expected the folder of a run, and it has no {CONFIG}");
            return Err(Error::file(path, message));
        }
        let config = toml_file::read(&file)?;
        let config = known
            .complete(config)
            .and_then(|config: RunConfig| config.validate().map(|()| config))
            .map_err(|error| Error::file(&file, error))?;
        Ok((
            Self {
                path: path.to_owned(),
                lock: None,
            },
            config,
        ))
    }

    /// Has the run of this folder train on under `config`, which has more epochs: it is unfinished again.
    ///
    /// # Errors
    /// When another program trains in the folder, or it cannot be written.
    pub fn train_on(&self, config: &RunConfig) -> Result<()> {
        config.validate()?;
        let _lock = self.lock()?;
        let file = self.join(CONFIG);
        let text = toml::to_string(config).map_err(|error| Error::file(&file, error))?;
        // In this order: a run without a summary is finished anew from its checkpoint, whichever epochs it has.
        match std::fs::remove_file(self.join(SUMMARY)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::file(&self.join(SUMMARY), error));
            }
            _ => {}
        }
        Ok(dcff_file::write(&file, text.as_bytes())?)
    }

    /// A folder that is there already.
    pub fn at(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            lock: None,
        }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of an entry of the folder.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Keeps other programs from training in this folder until what comes back, and this folder, are dropped.
    ///
    /// # Errors
    /// When one does.
    pub fn lock(&self) -> Result<Arc<FolderLock>> {
        match &self.lock {
            Some(lock) => Ok(Arc::clone(lock)),
            None => lock(&self.path),
        }
    }

    /// Refuses a folder whose table tells of more than the `known` epochs, since its checkpoint is gone.
    ///
    /// # Errors
    /// Then, and when the table cannot be read.
    pub fn check_rows(&self, known: usize) -> Result<()> {
        let path = self.join(METRICS);
        let text = dcff_file::read_text_if_any(&path, MAX_TABLE_BYTES)?;
        let rows = text.map_or(0, |text| text.lines().count());
        if rows > known {
            let message = format!(
                "expected the checkpoint of the {rows} epochs that {METRICS} tells of, got none: \
                 put it back, or start anew in another folder"
            );
            return Err(Error::file(&self.join(CHECKPOINT), message));
        }
        Ok(())
    }

    /// Writes both tables, a row per epoch so far.
    pub fn write_tables(&self, metrics: &[Metrics], timing: &[Timing]) -> Result<()> {
        dcff_file::write(&self.join(METRICS), &lines(metrics, &self.join(METRICS))?)?;
        Ok(dcff_file::write(
            &self.join(TIMING),
            &lines(timing, &self.join(TIMING))?,
        )?)
    }

    /// Writes `summary.json`.
    pub fn write_summary(&self, summary: &Summary) -> Result<()> {
        let file = self.join(SUMMARY);
        let text =
            serde_json::to_string_pretty(summary).map_err(|error| Error::file(&file, error))?;
        Ok(dcff_file::write(&file, format!("{text}\n").as_bytes())?)
    }

    /// The outcome, when the run has ended.
    ///
    /// # Errors
    /// When the file is there but unsound.
    pub fn summary(&self, known: &dyn Registry) -> Result<Option<Summary>> {
        let file = self.join(SUMMARY);
        let Some(text) = dcff_file::read_if_any(&file, MAX_SUMMARY_BYTES)? else {
            return Ok(None);
        };
        let mut summary: Summary =
            serde_json::from_slice(&text).map_err(|error| Error::file(&file, error))?;
        summary.config = known
            .complete(summary.config)
            .map_err(|error| Error::file(&file, error))?;
        let described = summary.method.take();
        summary.method = Some(described.unwrap_or_else(|| known.describe(&summary.config.method)));
        Ok(Some(summary))
    }
}

/// The lock of the run folder `path`.
fn lock(path: &Path) -> Result<Arc<FolderLock>> {
    let lock = FolderLock::take(path)?.ok_or_else(|| {
        let message = "another program trains in this folder: wait for it, or stop it";
        Error::file(path, message)
    })?;
    Ok(Arc::new(lock))
}

fn lines<T: Serialize>(rows: &[T], file: &Path) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    for row in rows {
        serde_json::to_writer(&mut text, row).map_err(|error| Error::file(file, error))?;
        text.push(b'\n');
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DataConfig, Description, MethodConfig, Published, Recipe, ScoredLayer};

    fn config() -> RunConfig {
        let data = DataConfig {
            train_fingerprint: String::new(),
            test_fingerprint: String::new(),
            ..DataConfig::named("synthetic", 0.0)
        };
        RunConfig::new(
            "resnet20",
            1,
            data,
            MethodConfig::named("dense"),
            Recipe::published_cifar(),
        )
    }

    /// Knows no name.
    struct Nobody;

    impl Registry for Nobody {
        fn complete(&self, config: RunConfig) -> Result<RunConfig> {
            Ok(config)
        }

        fn describe(&self, method: &MethodConfig) -> Description {
            Description {
                label: format!("the method {}", method.name),
                ..Description::default()
            }
        }

        fn without_place(&self, data: &DataConfig) -> DataConfig {
            data.clone()
        }

        fn scored_layers(&self, _: &str) -> Option<Vec<ScoredLayer>> {
            None
        }

        fn reads_temperature(&self, _: &str) -> bool {
            false
        }

        fn published(&self, _: &Summary) -> Option<Published> {
            None
        }

        fn check(&self, _: &Path, _: &Summary) -> Result<()> {
            Ok(())
        }

        fn coefficients(&self, _: &Path, _: &RunConfig, _: &str) -> Result<Option<Vec<Vec<f32>>>> {
            Ok(None)
        }
    }

    /// Earlier versions wrote nothing of the method.
    #[test]
    fn a_summary_that_does_not_describe_its_method_is_completed() {
        let dir = tempfile::tempdir().unwrap();
        let folder = RunFolder::create(&dir.path().join("run"), &config()).unwrap();
        assert!(folder.summary(&Nobody).unwrap().is_none());
        let outcome = serde_json::json!({"epoch": 1, "test": {"loss": 1.0, "accuracy": 0.5}});
        let cost = serde_json::json!({"full": 2, "compact": 1});
        let text = serde_json::json!({
            "config": config(), "last": outcome, "chosen": outcome, "chosen_by": "last", "widths": [], "macs": cost,
            "published_ops": cost, "params": cost, "train_images": 1, "seconds": 1.0, "images_per_second": 1.0,
            "device": "cpu", "threads": 1, "dcff_version": "0.1.0",
        });
        std::fs::write(folder.join(SUMMARY), text.to_string()).unwrap();
        let summary = folder.summary(&Nobody).unwrap().unwrap();
        assert_eq!(summary.method().label, "the method dense");
    }

    #[test]
    fn of_many_that_make_a_run_in_one_folder_at_once_one_does() {
        let root = tempfile::tempdir().unwrap();
        for round in 0..10 {
            let path = root.path().join(round.to_string());
            let barrier = std::sync::Barrier::new(8);
            let make = || {
                barrier.wait();
                RunFolder::create(&path, &config())
            };
            let made: Vec<_> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..8).map(|_| scope.spawn(make)).collect();
                threads.into_iter().map(|t| t.join().unwrap()).collect()
            });
            let (made, refused): (Vec<_>, Vec<_>) = made.into_iter().partition(Result::is_ok);
            assert_eq!(made.len(), 1);
            for error in refused.into_iter().filter_map(Result::err) {
                let text = error.to_string();
                assert!(
                    text.contains("another program trains") || text.contains("holds a run"),
                    "{text}"
                );
            }
            // Held until the folder goes; also for one that was opened.
            let (opened, _) = RunFolder::open(&path, &Nobody).unwrap();
            assert!(opened.lock().is_err());
            drop(made);
            assert!(opened.lock().is_ok());
        }
    }
}
