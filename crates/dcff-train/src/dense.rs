//! The dense network at the end of a dense stage: written by the run that trained it, taken over by runs that prune it.
//!
//! Several criteria can then be compared on one dense network, and it is trained once per seed.
//! A run takes weights over only from a dense stage that it would have trained itself: same network, seed, images, recipe
//! and penalty; its `config.toml` records where they came from and their hash.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use dcff_compact::Artefact;
use dcff_models::{Architecture, Network};
use serde::Serialize;

use crate::checkpoint::sha256_of;
use crate::config::{DataConfig, DenseFrom, RunConfig, first_difference};
use crate::entry::Context;
use crate::error::{Error, Result};
use crate::event::{Metrics, Timing};
use crate::methods;
use crate::recipe::Recipe;
use crate::run::{MAX_TABLE_BYTES, METRICS, TIMING};
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
}

impl DenseStage {
    /// The dense stage `stage` of a run with `config`.
    pub(crate) fn of(config: &RunConfig, stage: Option<&Stage>) -> Result<Self> {
        let stage = stage
            .ok_or_else(|| Error::setting("method.dense_from", "the method has no dense stage"))?;
        Ok(Self {
            arch: config.arch.clone(),
            seed: config.seed,
            data: config.data.clone(),
            recipe: Recipe {
                // Says which epoch is chosen, not how weights change.
                select_on_test: false,
                ..stage.recipe.clone()
            },
            settings: stage.settings.clone(),
        })
    }

    /// For the artefact's `config.json`.
    pub(crate) fn provenance(&self) -> Result<BTreeMap<String, serde_json::Value>> {
        let value =
            serde_json::to_value(self).map_err(|error| Error::file(Path::new(DENSE), error))?;
        Ok(BTreeMap::from([(PROVENANCE.to_owned(), value)]))
    }
}

impl DenseFrom {
    /// The dense network of the run in the folder `run`.
    ///
    /// # Errors
    /// When it has none.
    pub fn of(run: &Path) -> Result<Self> {
        let file = weights(run);
        let hash = sha256_of(&file, dcff_compact::MAX_WEIGHTS_BYTES)?;
        let missing = "no such file: expected a run whose dense stage is done";
        Ok(Self {
            run: run.to_owned(),
            sha256: hash.ok_or_else(|| Error::file(&file, missing))?,
        })
    }

    /// Checks that the dense network is there, is the recorded one, and is what a run with `config` would train itself.
    ///
    /// # Errors
    /// When it is not, with the first setting that differs.
    pub fn check(&self, config: &RunConfig, full: &Architecture) -> Result<()> {
        let method = methods::build(&config.method, &Context::seeded(config.seed))?;
        let plan = method.plan(full, &config.recipe)?;
        let stage = plan.stages.iter().find(|stage| stage.name == DENSE);
        self.artefact(&DenseStage::of(config, stage)?).map(drop)
    }

    fn artefact(&self, wanted: &DenseStage) -> Result<Artefact> {
        let file = weights(&self.run);
        let found = Self::of(&self.run)?.sha256;
        if found != self.sha256 {
            let message = format!("expected SHA-256 {}, got {found}", self.sha256);
            return Err(Error::file(&file, message));
        }
        let folder = self.run.join(DENSE);
        let artefact = Artefact::load(&folder)?;
        let stage = artefact.config.provenance.get(PROVENANCE);
        let own = wanted.provenance()?;
        match first_difference(
            "",
            &own[PROVENANCE],
            stage.unwrap_or(&serde_json::Value::Null),
        ) {
            None => Ok(artefact),
            Some(difference) => Err(Error::file(
                &folder,
                format!("another dense stage than this run's: {difference}"),
            )),
        }
    }

    /// Reads the weights, checking that they are the recorded ones and those of `wanted`.
    pub(crate) fn load(&self, wanted: &DenseStage, network: &Network) -> Result<Dense> {
        let artefact = self.artefact(wanted)?;
        let tensors = artefact.network(network.device())?.state()?;
        let rows = self.run.join(METRICS);
        let epochs = wanted.recipe.epochs;
        let mut metrics: Vec<Metrics> = read_rows(&rows, epochs)?;
        for row in &mut metrics {
            row.stage = Some(DENSE.to_owned());
        }
        let timing: Vec<Timing> = read_rows(&self.run.join(TIMING), epochs)?;
        let spent = |row: &Timing| row.method_seconds + row.train_seconds + row.evaluation_seconds;
        Ok(Dense {
            tensors: tensors.into_iter().collect(),
            metrics,
            seconds: timing.iter().map(spent).sum(),
            timing,
        })
    }
}

fn weights(run: &Path) -> PathBuf {
    run.join(DENSE).join(dcff_compact::WEIGHTS)
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
