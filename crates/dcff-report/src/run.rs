//! What a run folder says.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use dcff_train::{
    CHECKPOINT, CONFIG, Checkpoint, METRICS, MethodConfig, Metrics, RunConfig, RunFolder,
    SELECTION, SelectionRow, Summary, read_selection,
};
use serde_json::Value;

use crate::{Error, Result};

/// In a run folder: why the run failed, in one line; written by who started it.
pub const ERROR: &str = "error.txt";

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
}

impl Run {
    /// Reads the folder, whether the run has finished, is under way or has failed.
    ///
    /// # Errors
    /// When it is no run folder, or a file in it is unsound.
    pub fn read(folder: &Path) -> Result<Self> {
        let error = std::fs::read_to_string(folder.join(ERROR)).ok();
        let error = error.map(|text| text.lines().next().unwrap_or("unknown").to_owned());
        let mut run = Self {
            folder: folder.to_owned(),
            name: folder.display().to_string(),
            config: None,
            settings: BTreeMap::new(),
            status: Status::Unfinished,
            metrics: Vec::new(),
            selection: Vec::new(),
            training_macs: None,
        };
        let summary = if error.is_some() && !folder.join(CONFIG).exists() {
            None
        } else {
            let (opened, config) = RunFolder::open(folder)?;
            flatten(
                "",
                &serde_json::to_value(&config).unwrap_or_default(),
                &mut run.settings,
            );
            run.config = Some(config);
            run.metrics = lines(&folder.join(METRICS))?;
            run.selection = read_selection(&folder.join(SELECTION))?;
            // Those of long runs are large, and no figure shows them.
            for layer in run.selection.iter_mut().flat_map(|row| &mut row.layers) {
                layer.scores = Vec::new();
            }
            opened.summary()?
        };
        run.status = match (summary, error) {
            (Some(summary), _) => {
                run.training_macs = Some(summary.training_macs).filter(|&macs| macs > 0);
                Status::Finished(Box::new(summary))
            }
            (None, Some(error)) => Status::Failed(error),
            (None, None) => Status::Unfinished,
        };
        Ok(run)
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

    /// `scratch`, `prune`, or nothing for the dense network.
    pub fn pipeline(&self) -> Option<&'static str> {
        match self.config.as_ref()?.method {
            MethodConfig::Dense => None,
            MethodConfig::Dcff(_) => Some("scratch"),
            MethodConfig::Prune(_) => Some("prune"),
        }
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
        let Some(checkpoint) = Checkpoint::load(&self.folder.join(CHECKPOINT), config)? else {
            return Ok(None);
        };
        checkpoint
            .coefficients(layer)
            .map(|p| p.to_vec2::<f32>())
            .transpose()
            .map_err(|error| Error::file(&self.folder.join(CHECKPOINT), error))
    }
}

/// The rows of a file of JSON lines; none when there is no file.
fn lines<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::file(path, error)),
    };
    let mut rows = Vec::new();
    for (index, line) in BufReader::new(file).lines().enumerate() {
        let line = line.map_err(|error| Error::file(path, error))?;
        let row = serde_json::from_str(&line)
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
