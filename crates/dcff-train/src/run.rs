//! The run folder's text files.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::{Error, Metrics, Result, RunConfig, Summary, Timing, toml_file};

/// The configuration's file.
pub const CONFIG: &str = "config.toml";
/// A row per epoch, without times.
pub const METRICS: &str = "metrics.jsonl";
/// A row per epoch, times only.
pub const TIMING: &str = "timing.jsonl";
/// The outcome.
pub const SUMMARY: &str = "summary.json";

/// A run's folder.
#[derive(Clone, Debug)]
pub struct RunFolder {
    path: PathBuf,
}

impl RunFolder {
    /// Makes the folder `path` for a new run and writes `config.toml`.
    ///
    /// # Errors
    /// When `path` already holds anything, or cannot be written.
    pub fn create(path: &Path, config: &RunConfig) -> Result<Self> {
        config.validate()?;
        let occupied = match std::fs::read_dir(path) {
            Ok(mut entries) => entries.next().is_some(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
            Err(error) => return Err(Error::file(path, error)),
        };
        if occupied {
            let hint = if path.join(CONFIG).exists() {
                "holds a run already: continue it with --resume, or name another folder"
            } else {
                "expected a new or empty folder"
            };
            return Err(Error::file(path, hint));
        }
        std::fs::create_dir_all(path).map_err(|error| Error::file(path, error))?;
        let text =
            toml::to_string(config).map_err(|error| Error::file(&path.join(CONFIG), error))?;
        dcff_compact::file::write(&path.join(CONFIG), text.as_bytes())?;
        Ok(Self {
            path: path.to_owned(),
        })
    }

    /// Opens the folder of an earlier run and reads its configuration.
    ///
    /// # Errors
    /// When there is no `config.toml`, or it is unsound.
    pub fn open(path: &Path) -> Result<(Self, RunConfig)> {
        let file = path.join(CONFIG);
        let config: RunConfig = toml_file::read(&file)?;
        config
            .validate()
            .map_err(|error| Error::file(&file, error))?;
        Ok((
            Self {
                path: path.to_owned(),
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
        Ok(dcff_compact::file::write(&file, text.as_bytes())?)
    }

    /// A folder that is there already.
    #[cfg(test)]
    pub(crate) fn at(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
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

    /// Keeps other programs from training in this folder until the file that comes back is closed.
    ///
    /// # Errors
    /// When one does, or there is no `config.toml`.
    pub(crate) fn lock(&self) -> Result<File> {
        let path = self.join(CONFIG);
        let file = File::open(&path).map_err(|error| Error::file(&path, error))?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => Err(Error::file(
                &self.path,
                "another program trains in this folder: wait for it, or stop it",
            )),
            // Some network file systems know no locks.
            Ok(()) | Err(TryLockError::Error(_)) => Ok(file),
        }
    }

    /// Refuses a folder whose table tells of more than the `known` epochs, since its checkpoint is gone.
    ///
    /// # Errors
    /// Then, and when the table cannot be read.
    pub(crate) fn check_rows(&self, known: usize) -> Result<()> {
        let path = self.join(METRICS);
        let rows = match std::fs::read_to_string(&path) {
            Ok(text) => text.lines().count(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
            Err(error) => return Err(Error::file(&path, error)),
        };
        if rows > known {
            let message = format!(
                "expected the checkpoint of the {rows} epochs that {METRICS} tells of, got none: \
                 put it back, or start anew in another folder"
            );
            return Err(Error::file(&self.join(crate::CHECKPOINT), message));
        }
        Ok(())
    }

    /// Writes both tables, a row per epoch so far.
    pub(crate) fn write_tables(&self, metrics: &[Metrics], timing: &[Timing]) -> Result<()> {
        dcff_compact::file::write(&self.join(METRICS), &lines(metrics, &self.join(METRICS))?)?;
        Ok(dcff_compact::file::write(
            &self.join(TIMING),
            &lines(timing, &self.join(TIMING))?,
        )?)
    }

    /// Writes `summary.json`.
    pub(crate) fn write_summary(&self, summary: &Summary) -> Result<()> {
        let file = self.join(SUMMARY);
        let text =
            serde_json::to_string_pretty(summary).map_err(|error| Error::file(&file, error))?;
        Ok(dcff_compact::file::write(
            &file,
            format!("{text}\n").as_bytes(),
        )?)
    }

    /// The outcome, when the run has ended.
    ///
    /// # Errors
    /// When the file is there but unsound.
    pub fn summary(&self) -> Result<Option<Summary>> {
        let file = self.join(SUMMARY);
        match std::fs::read(&file) {
            Ok(text) => Ok(Some(
                serde_json::from_slice(&text).map_err(|error| Error::file(&file, error))?,
            )),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::file(&file, error)),
        }
    }
}

fn lines<T: Serialize>(rows: &[T], file: &Path) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    for row in rows {
        serde_json::to_writer(&mut text, row).map_err(|error| Error::file(file, error))?;
        text.push(b'\n');
    }
    Ok(text)
}
