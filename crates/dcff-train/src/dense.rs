//! The dense network at the end of a dense stage: written by the run that trained it, taken over by runs that prune it.
//!
//! Several criteria can then be compared on one dense network, and it is trained once per seed.
//! A run takes weights over only from a dense stage that it would have trained itself: same network, seed, images, recipe
//! and penalty; its `config.toml` records where they came from and their hash.
//!
//! A folder with `config.json` and `model.safetensors`, or a run that has such a folder and no dense stage, gives its weights as
//! they are: of the same network, however they were trained. The dense stage then counts as done, at a cost that is not known.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use dcff_compact::Artefact;
use dcff_models::{Architecture, Network};
use dcff_run::{
    COMPACT, DataConfig, DenseFrom, MAX_TABLE_BYTES, METRICS, Metrics, Recipe, RunConfig, TIMING,
    Timing, first_difference,
};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::hash::sha256_of;
use crate::places::without_place;
use crate::stage::{DENSE, Stage};

/// The entry of the artefact's provenance that describes the stage.
const PROVENANCE: &str = "stage";

/// Everything that decides the weights at the end of a dense stage.
#[derive(Debug, Serialize)]
pub(crate) struct DenseStage {
    arch: String,
    seed: u64,
    data: DataConfig,
    pub(crate) recipe: Recipe,
    /// By its weights, whatever folder they are in.
    #[serde(skip_serializing_if = "Option::is_none")]
    distil: Option<(String, f64, f64)>,
    /// What else the method says of the stage.
    #[serde(flatten)]
    settings: BTreeMap<&'static str, f64>,
}

/// What is taken over.
pub(crate) struct Dense {
    pub(crate) tensors: HashMap<String, Tensor>,
    /// The rows of the stage's epochs.
    pub(crate) metrics: Vec<Metrics>,
    pub(crate) timing: Vec<Timing>,
    pub(crate) seconds: f64,
    /// Whether the rows are known: not of weights from elsewhere.
    pub(crate) metrics_known: bool,
}

impl DenseStage {
    /// The dense stage `stage` of a run with `config`.
    pub(crate) fn of(config: &RunConfig, stage: Option<&Stage>) -> Result<Self> {
        let stage = stage
            .ok_or_else(|| Error::setting("method.dense_from", "the method has no dense stage"))?;
        Ok(Self {
            arch: config.arch.clone(),
            seed: config.seed,
            data: without_place(&config.data),
            recipe: Recipe {
                // Says which epoch is chosen, not how weights change.
                select_on_test: false,
                ..stage.recipe.clone()
            },
            distil: config.distil.as_ref().map(|distil| {
                let sha256 = distil.teacher.sha256.clone();
                (sha256, distil.weight, distil.temperature)
            }),
            settings: stage.settings.clone(),
        })
    }

    /// For the artefact's `config.json`.
    pub(crate) fn provenance(&self) -> Result<BTreeMap<String, serde_json::Value>> {
        Ok(BTreeMap::from([(PROVENANCE.to_owned(), self.value()?)]))
    }

    fn value(&self) -> Result<serde_json::Value> {
        serde_json::to_value(self).map_err(|error| Error::file(Path::new(DENSE), error))
    }
}

/// The dense network of the run in the folder `run`.
///
/// # Errors
/// When it has none.
pub fn dense_of(run: &Path) -> Result<DenseFrom> {
    let Some(folder) = folder(run) else {
        let message = format!(
            "no such file: expected a run whose dense stage is done, or a folder with {} and {}",
            dcff_compact::CONFIG,
            dcff_compact::WEIGHTS
        );
        return Err(Error::file(&weights(&run.join(DENSE)), message));
    };
    let file = weights(&folder);
    let hash = sha256_of(&file, dcff_compact::MAX_WEIGHTS_BYTES)?;
    let missing = "no such file";
    Ok(DenseFrom {
        run: run.to_owned(),
        sha256: hash.ok_or_else(|| Error::file(&file, missing))?,
    })
}

/// Checks that the dense network `from` is there, is the recorded one, and is what a run of `full` with `config` would train itself
/// in one of its `stages`, or, where it comes from elsewhere, is of that network.
///
/// # Errors
/// When it is not, with the first setting that differs.
pub fn check_dense(
    from: &DenseFrom,
    config: &RunConfig,
    full: &Architecture,
    stages: &[Stage],
) -> Result<()> {
    let stage = stages.iter().find(|stage| stage.name == DENSE);
    artefact(from, &DenseStage::of(config, stage)?, full).map(drop)
}

/// Whether the weights are those of a run's dense stage, and not from elsewhere.
fn is_a_stage(from: &DenseFrom) -> bool {
    weights(&from.run.join(DENSE)).exists()
}

/// The network `from`, which must be the whole network `own`, however it was trained.
pub(crate) fn whole(from: &DenseFrom, own: &Architecture) -> Result<Artefact> {
    fitting(from, read(from)?.1, own)
}

/// The network `from`, which must answer for images of the network `own` and know its `classes`, whatever its layers.
pub(crate) fn teacher(
    from: &DenseFrom,
    own: &Architecture,
    classes: &[String],
) -> Result<Artefact> {
    let artefact = read(from)?.1;
    let theirs = &artefact.config.architecture;
    let labels = &artefact.config.pretrained_cfg.label_names;
    let other = labels.iter().zip(classes).find(|(a, b)| a != b);
    let message = match other {
        _ if own.input != theirs.input || labels.len() != classes.len() => format!(
            "expected a teacher for images of {:?} and {} classes, got {} for images of {:?} and {} classes",
            own.input,
            classes.len(),
            theirs.name,
            theirs.input,
            labels.len()
        ),
        Some((theirs, own)) => {
            format!(
                "expected a teacher of the same classes, such as '{own}', got one of '{theirs}'"
            )
        }
        None => return Ok(artefact),
    };
    Err(Error::file(&from.run, message))
}

/// The folder of `from` and what lies there, which must be what was recorded.
fn read(from: &DenseFrom) -> Result<(PathBuf, Artefact)> {
    let folder = folder(&from.run).unwrap_or_else(|| from.run.join(DENSE));
    let found = dense_of(&from.run)?.sha256;
    if found != from.sha256 {
        let message = format!("expected SHA-256 {}, got {found}", from.sha256);
        return Err(Error::file(&weights(&folder), message));
    }
    let artefact = Artefact::load(&folder)?;
    Ok((folder, artefact))
}

/// `artefact`, if it is of the network `own`.
fn fitting(from: &DenseFrom, artefact: Artefact, own: &Architecture) -> Result<Artefact> {
    let theirs = &artefact.config.architecture;
    if own.layers == theirs.layers && own.spaces == theirs.spaces && own.input == theirs.input {
        return Ok(artefact);
    }
    let message = format!(
        "expected the whole {} for images of {:?} and {} classes, got {} for images of {:?} and {} classes",
        own.name,
        own.input,
        own.shapes()?.classes(),
        match theirs.name == own.name {
            true => "another form of it",
            false => &theirs.name,
        },
        theirs.input,
        theirs.shapes()?.classes()
    );
    Err(Error::file(&from.run, message))
}

fn artefact(from: &DenseFrom, wanted: &DenseStage, own: &Architecture) -> Result<Artefact> {
    let (folder, artefact) = read(from)?;
    if !is_a_stage(from) {
        return fitting(from, artefact, own);
    }
    let stage = artefact.config.provenance.get(PROVENANCE).cloned();
    let mut stage = stage.unwrap_or(serde_json::Value::Null);
    let mut own = wanted.value()?;
    // The fingerprints say which images they are, whatever these were called and wherever they lay.
    for value in [&mut stage, &mut own] {
        if let Some(data) = value.get_mut("data").and_then(|data| data.as_object_mut()) {
            data.remove("name");
            data.remove("path");
        }
    }
    match first_difference("", &own, &stage) {
        None => Ok(artefact),
        Some(difference) => Err(Error::file(
            &folder,
            format!("another dense stage than this run's: {difference}"),
        )),
    }
}

/// Reads the weights `from` names, checking that they are the recorded ones and those of `wanted`.
pub(crate) fn load(from: &DenseFrom, wanted: &DenseStage, network: &Network) -> Result<Dense> {
    let artefact = artefact(from, wanted, network.compact())?;
    let tensors = artefact.network(network.device())?.state()?;
    if !is_a_stage(from) {
        return Ok(Dense {
            tensors: tensors.into_iter().collect(),
            metrics: Vec::new(),
            timing: Vec::new(),
            seconds: 0.0,
            metrics_known: false,
        });
    }
    let rows = from.run.join(METRICS);
    let epochs = wanted.recipe.epochs;
    let mut metrics: Vec<Metrics> = read_rows(&rows, epochs)?;
    for row in &mut metrics {
        row.stage = Some(DENSE.to_owned());
    }
    let timing: Vec<Timing> = read_rows(&from.run.join(TIMING), epochs)?;
    let spent = |row: &Timing| row.method_seconds + row.train_seconds + row.evaluation_seconds;
    Ok(Dense {
        tensors: tensors.into_iter().collect(),
        metrics,
        seconds: timing.iter().map(spent).sum(),
        timing,
        metrics_known: true,
    })
}

/// The folder with the weights of `run`: its dense stage, itself, or what it made.
fn folder(run: &Path) -> Option<PathBuf> {
    [run.join(DENSE), run.to_owned(), run.join(COMPACT)]
        .into_iter()
        .find(|folder| weights(folder).exists())
}

fn weights(folder: &Path) -> PathBuf {
    folder.join(dcff_compact::WEIGHTS)
}

/// The first `count` rows of a file of JSON lines.
fn read_rows<T: serde::de::DeserializeOwned>(file: &Path, count: usize) -> Result<Vec<T>> {
    let text = dcff_file::read_text(file, MAX_TABLE_BYTES)?;
    let rows: Vec<T> = text
        .lines()
        .take(count)
        .map(|line| serde_json::from_str(line).map_err(|error| Error::file(file, error)))
        .collect::<Result<_>>()?;
    if rows.len() < count {
        let message = format!("expected {count} rows, got {}", rows.len());
        return Err(Error::file(file, message));
    }
    Ok(rows)
}
