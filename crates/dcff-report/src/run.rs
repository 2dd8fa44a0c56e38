//! What a run folder says.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use dcff_run::{
    CONFIG, Description, MAX_TABLE_BYTES, METRICS, Metrics, Published, Registry, RunConfig,
    RunFolder, SELECTION, SUMMARY, ScoredLayer, SelectionRow, Summary, read_selection,
};
use serde_json::Value;

use crate::{Error, Result};

/// In a run folder: why the run failed, in one line; written by who started it.
pub const ERROR: &str = "error.txt";
const MAX_ERROR_BYTES: u64 = 1 << 20;

/// How far a run came.
#[derive(Clone, Debug)]
pub enum Status {
    /// To its end.
    Finished(Box<Summary>),
    /// It is under way or was interrupted.
    Unfinished,
    /// It ended with an error.
    Failed(String),
}

/// A run, as its folder tells of it.
#[derive(Clone, Debug)]
pub struct Run {
    /// The folder.
    pub folder: PathBuf,
    /// The folder as reports name it.
    pub name: String,
    /// The configuration; `None` when the run failed before it had one.
    pub config: Option<RunConfig>,
    /// What its method says of itself; nothing when the run failed before it had a configuration.
    pub method: Description,
    /// Every setting by its path in the configuration, as text.
    pub settings: BTreeMap<String, String>,
    /// How far it came.
    pub status: Status,
    /// A row per epoch.
    pub metrics: Vec<Metrics>,
    /// What was selected, a row per epoch that selected, without the scores; empty where it was not recorded.
    pub selection: Vec<SelectionRow>,
    /// Multiply-accumulates of the whole training, where they were counted.
    pub training_macs: Option<u64>,
    /// What the names in it stand for.
    pub(crate) known: &'static dyn Registry,
}

impl Run {
    /// Reads the folder, whether the run has finished, is under way or has failed; `known` says what the names in it stand for.
    ///
    /// # Errors
    /// When it is no run folder, or a file in it is unsound.
    pub fn read(folder: &Path, known: &'static dyn Registry) -> Result<Self> {
        let mut run = Self::nothing(folder, known);
        run.fill()?;
        Ok(run)
    }

    /// As [`Run::read`], but a run with an unsound file counts as failed, with what is wrong with it: others that are
    /// reported with it are none the worse.
    ///
    /// # Errors
    /// When it is no run folder.
    pub fn read_or_mark(folder: &Path, known: &'static dyn Registry) -> Result<Self> {
        let mut run = Self::nothing(folder, known);
        match run.fill() {
            Err(error) if folder.join(CONFIG).exists() => {
                let text = error.to_string();
                let line = text.lines().next().unwrap_or("unknown");
                run.status = Status::Failed(line.to_owned());
                Ok(run)
            }
            done => done.map(|()| run),
        }
    }

    fn nothing(folder: &Path, known: &'static dyn Registry) -> Self {
        Self {
            folder: folder.to_owned(),
            name: folder.display().to_string(),
            config: None,
            method: Description::default(),
            settings: BTreeMap::new(),
            status: Status::Unfinished,
            metrics: Vec::new(),
            selection: Vec::new(),
            training_macs: None,
            known,
        }
    }

    /// Reads everything; what was read before an error stays.
    fn fill(&mut self) -> Result<()> {
        let failure = dcff_file::read_if_any(&self.folder.join(ERROR), MAX_ERROR_BYTES);
        let failure = failure.unwrap_or_default().map(|text| {
            let text = String::from_utf8_lossy(&text);
            text.lines().next().unwrap_or("unknown").to_owned()
        });
        self.status = match (self.files(), failure) {
            (Ok(Some(summary)), _) => {
                self.training_macs = Some(summary.training_macs).filter(|&macs| macs > 0);
                Status::Finished(Box::new(summary))
            }
            // It may have failed before it had all files, or over one of them.
            (_, Some(failure)) => Status::Failed(failure),
            (Ok(None), None) => Status::Unfinished,
            (Err(error), None) => return Err(error),
        };
        Ok(())
    }

    /// Reads the files of the run; its outcome, if it has ended.
    fn files(&mut self) -> Result<Option<Summary>> {
        let (opened, mut config) = RunFolder::open(&self.folder, self.known)?;
        config.data = self.known.without_place(&config.data);
        flatten(
            "",
            &serde_json::to_value(&config).unwrap_or_default(),
            &mut self.settings,
        );
        self.method = self.known.describe(&config.method);
        self.config = Some(config);
        self.metrics = lines(&self.folder.join(METRICS))?;
        self.selection = read_selection(&self.folder.join(SELECTION))?;
        // Those of long runs are large, and no figure shows them.
        for layer in self.selection.iter_mut().flat_map(|row| &mut row.layers) {
            layer.scores = Vec::new();
        }
        let mut summary = opened.summary(self.known)?;
        if let Some(summary) = &mut summary {
            summary.config.data = self.known.without_place(&summary.config.data);
            summary
                .check_accuracies()
                .map_err(|error| Error::file(&self.folder.join(SUMMARY), error))?;
            self.known.check(&self.folder, summary)?;
            self.method = summary.method();
        }
        Ok(summary)
    }

    /// The outcome of a finished run.
    pub fn summary(&self) -> Option<&Summary> {
        match &self.status {
            Status::Finished(summary) => Some(summary),
            _ => None,
        }
    }

    /// The setting at `path`, for instance `method.criterion`.
    pub fn setting(&self, path: &str) -> Option<&str> {
        self.settings.get(path).map(String::as_str)
    }

    /// The seed.
    pub fn seed(&self) -> Option<u64> {
        self.config.as_ref().map(|config| config.seed)
    }

    /// What runs are compared within, for instance `scratch` or `prune`; nothing for the dense network.
    pub fn pipeline(&self) -> Option<&str> {
        self.method.pipeline.as_deref()
    }

    /// The command that repeats the run.
    pub fn command(&self) -> String {
        format!("dcff train --config {}/{CONFIG} --out NEW", self.name)
    }

    /// `P [M, C_out]` of `layer` as of the last checkpoint, row by row; `None` where the layer is not fused.
    ///
    /// # Errors
    /// When the checkpoint is damaged.
    pub fn coefficients(&self, layer: &str) -> Result<Option<Vec<Vec<f32>>>> {
        let Some(config) = &self.config else {
            return Ok(None);
        };
        Ok(self.known.coefficients(&self.folder, config, layer)?)
    }

    /// The convolutions whose filters are scored, where the network is known.
    pub(crate) fn scored_layers(&self) -> Option<Vec<ScoredLayer>> {
        self.known.scored_layers(&self.config.as_ref()?.arch)
    }

    /// The figures in print for a finished run's setting.
    pub(crate) fn published(&self) -> Option<Published> {
        self.known.published(self.summary()?)
    }
}

/// The rows of a file of JSON lines; none when there is no file.
fn lines<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let text = dcff_file::read_text_if_any(path, MAX_TABLE_BYTES)?.unwrap_or_default();
    let mut rows = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let row = serde_json::from_str(line)
            .map_err(|error| Error::file(path, format!("line {}: {error}", index + 1)))?;
        rows.push(row);
    }
    Ok(rows)
}

fn flatten(path: &str, value: &Value, into: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                let path = match path.is_empty() {
                    true => key.clone(),
                    false => format!("{path}.{key}"),
                };
                flatten(&path, value, into);
            }
        }
        Value::Null => {}
        Value::String(text) => {
            into.insert(path.to_owned(), text.clone());
        }
        other => {
            into.insert(path.to_owned(), other.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{KNOWN, config, finished};

    fn failure(run: &Run) -> &str {
        match &run.status {
            Status::Failed(failure) => failure,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_unsound_file_fails_its_run_and_names_itself() {
        for (file, text) in [
            (CONFIG, "version ="),
            (METRICS, "{\"epoch\": 1\n"),
            (SELECTION, "no JSON\n"),
            (SUMMARY, "{}"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let folder = finished(dir.path(), config("kl", "fuse", "stretched", 1), 50.0).folder;
            std::fs::write(folder.join(file), text).unwrap();
            let strict = Run::read(&folder, KNOWN).unwrap_err().to_string();
            assert!(strict.contains(file), "{strict}");
            let marked = Run::read_or_mark(&folder, KNOWN).unwrap();
            assert_eq!(failure(&marked), strict);
            assert_eq!(marked.config.is_some(), file != CONFIG);
        }
    }

    #[test]
    fn a_run_that_is_known_to_have_failed_says_why_whatever_its_files() {
        let dir = tempfile::tempdir().unwrap();
        let folder = finished(dir.path(), config("kl", "fuse", "stretched", 1), 50.0).folder;
        std::fs::write(folder.join(ERROR), "the disk is full\n").unwrap();
        assert!(Run::read(&folder, KNOWN).unwrap().summary().is_some());
        std::fs::write(folder.join(SUMMARY), "").unwrap();
        assert_eq!(
            failure(&Run::read(&folder, KNOWN).unwrap()),
            "the disk is full"
        );
        std::fs::write(folder.join(CONFIG), "").unwrap();
        assert_eq!(
            failure(&Run::read(&folder, KNOWN).unwrap()),
            "the disk is full"
        );
    }

    #[test]
    fn an_accuracy_beyond_all_images_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let run = finished(dir.path(), config("kl", "fuse", "stretched", 1), 50.0);
        let file = run.folder.join(SUMMARY);
        let mut summary = run.summary().unwrap().clone();
        summary.chosen.test.accuracy = 1.7;
        std::fs::write(&file, serde_json::to_string(&summary).unwrap()).unwrap();
        assert_eq!(
            failure(&Run::read_or_mark(&run.folder, KNOWN).unwrap()),
            format!(
                "{}: chosen.test.accuracy: expected 0 to 1, got 1.7",
                file.display()
            )
        );
    }

    #[test]
    fn a_folder_without_a_run_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let message = Run::read_or_mark(&dir.path().join("typo"), KNOWN).unwrap_err();
        assert!(message.to_string().contains("config.toml"), "{message}");
    }
}
