//! Checkpoints: the state from which a run continues bit for bit.
//!
//! A checkpoint is a folder that appears whole or not at all: `state.safetensors` holds the parameters, the
//! running statistics, what the optimiser remembers, the epoch's views and the chosen epoch's compact weights; `state.json`
//! the position, the tallies, the method's memory and the configuration; `SHA256SUMS` the hashes of both, as
//! `sha256sum --check` reads them.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{Device, Tensor};
use dcff_compact::{Artefact, Preprocessing};
use dcff_models::{Architecture, Network, View, Views};
use dcff_run::{CONFIG, Metrics, Outcome, RunConfig, Score, StageCost, Timing};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::evaluate::Tally;
use crate::hash::{sha256, sha256_of};
use crate::method::{Filters, Saved};
use crate::methods;
use crate::places::forget_places;

const STATE: &str = "state.json";
const TENSORS: &str = "state.safetensors";
const SUMS: &str = "SHA256SUMS";
/// More than any network here needs; keeps a broken file from taking all memory.
const MAX_BYTES: u64 = 16 << 30;
const MAX_STATE_BYTES: u64 = 256 << 20;
const MAX_SUMS_BYTES: u64 = 4096;
/// Checkpoints from this layout on have [`SUMS`]; those before, of layout 0, only the hash of the tensors.
const LAYOUT: u32 = 1;

/// Where a run stands: `step` steps of `epoch` are done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Counted from 0; equal to the number of epochs when all are done.
    pub epoch: usize,
    /// Steps done in it.
    pub step: usize,
}

/// The best epoch so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Best {
    /// Counted from 1.
    pub(crate) epoch: usize,
    /// What it was chosen by.
    pub(crate) accuracy: f64,
    pub(crate) validation: Option<Score>,
}

/// Seconds spent so far on an epoch that is not done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct OpenEpoch {
    pub(crate) method_seconds: f64,
    pub(crate) train_seconds: f64,
}

/// `state.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) config: RunConfig,
    pub(crate) position: Position,
    pub(crate) tally: Tally,
    pub(crate) method: serde_json::Value,
    pub(crate) diagnostics: BTreeMap<String, f64>,
    pub(crate) best: Option<Best>,
    pub(crate) metrics: Vec<Metrics>,
    pub(crate) timing: Vec<Timing>,
    pub(crate) last: Option<Outcome>,
    /// Seconds of all sittings.
    pub(crate) seconds: f64,
    #[serde(default)]
    pub(crate) open: OpenEpoch,
    /// How an image becomes the network's input, so that the compact network can be written without the data.
    pub(crate) preprocessing: Preprocessing,
    /// The widths that the network computes; none in the first version, whose networks kept those they began with.
    #[serde(default)]
    pub(crate) widths: Vec<usize>,
    /// Epochs before the first row of the tables: those of a dense network that was trained elsewhere.
    #[serde(default)]
    pub(crate) untold: usize,
    /// The stages so far.
    #[serde(default)]
    pub(crate) stages: Vec<StageCost>,
    /// SHA-256 of `state.safetensors`.
    pub(crate) tensors_sha256: String,
    /// Of the checkpoint's folder.
    #[serde(default)]
    pub(crate) layout: u32,
}

impl State {
    /// Checks the position and the tallies against the configuration and each other.
    fn check(&self) -> Result<(), String> {
        let (Position { epoch, step }, epochs) = (self.position, self.config.recipe.epochs);
        if epoch > epochs || (epoch == epochs && step > 0) {
            return Err(format!(
                "position: expected at most {epochs} epochs, got epoch {epoch} and step {step}"
            ));
        }
        // Steps before an epoch's last are whole batches.
        let trained = step.checked_mul(self.config.recipe.batch_size);
        if step > 0 && trained != Some(self.tally.images) {
            let images = self.tally.images;
            return Err(format!(
                "position: expected {images} images in its steps, got step {step}"
            ));
        }
        if self.tally.correct > self.tally.images {
            let Tally {
                correct, images, ..
            } = self.tally;
            return Err(format!(
                "tally: expected at most {images} correct, got {correct}"
            ));
        }
        let rows = [
            (
                "metrics",
                epochs_of(&self.metrics, self.untold, |row| row.epoch),
            ),
            (
                "timing",
                epochs_of(&self.timing, self.untold, |row| row.epoch),
            ),
        ];
        for (table, (count, in_order)) in rows {
            if count + self.untold != epoch || !in_order {
                return Err(format!(
                    "{table}: expected a row for each of {} epochs, got {count}{}",
                    epoch - self.untold.min(epoch),
                    if in_order { "" } else { " of other epochs" }
                ));
            }
        }
        let of_epochs = self.metrics.iter().flat_map(|row| {
            let scores = [Some(row.train), row.validation, row.test];
            scores.map(|score| ("metrics", row.epoch, score))
        });
        let of_last = self.last.iter().flat_map(|last| {
            [Some(last.test), last.validation].map(|score| ("last", last.epoch, score))
        });
        let of_best = self.best.iter().flat_map(|best| {
            let score = Score {
                loss: 0.0,
                accuracy: best.accuracy,
            };
            [Some(score), best.validation].map(|score| ("best", best.epoch, score))
        });
        for (what, of, score) in of_epochs.chain(of_last).chain(of_best) {
            if !(1..=epoch).contains(&of) {
                return Err(format!(
                    "{what}: expected an epoch of 1 to {epoch}, got {of}"
                ));
            }
            let Some(Score { loss, accuracy }) = score else {
                continue;
            };
            if !(0.0..=1.0).contains(&accuracy) || !loss.is_finite() {
                return Err(format!(
                    "{what}: expected a finite loss and an accuracy of 0 to 1, got {loss} and {accuracy}"
                ));
            }
        }
        Ok(())
    }

    /// A network of the architecture that the tensors of this state belong to, with initial weights drawn from `seed`.
    pub(crate) fn network(
        &self,
        filters: Filters,
        full: &Architecture,
        seed: u64,
        device: &Device,
    ) -> Result<Network> {
        let compact = full.narrowed(&self.widths)?;
        let keeps = match filters {
            Filters::All => full,
            Filters::Computed => &compact,
        };
        Ok(Network::new(keeps, &compact, seed, device)?)
    }
}

/// A checkpoint in memory.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    pub(crate) state: State,
    tensors: HashMap<String, Tensor>,
}

impl Checkpoint {
    /// Writes the folder `path`, replacing an older checkpoint. `tensors` are named by [`tensor_name`].
    pub(crate) fn save(
        path: &Path,
        mut state: State,
        tensors: &BTreeMap<String, Tensor>,
    ) -> Result<()> {
        let bytes = dcff_compact::tensors_to_bytes(tensors, &BTreeMap::new())?;
        state.tensors_sha256 = sha256(&bytes);
        state.layout = LAYOUT;
        let text =
            serde_json::to_vec(&state).map_err(|error| Error::file(&path.join(STATE), error))?;
        let sums = format!(
            "{}  {STATE}\n{}  {TENSORS}\n",
            sha256(&text),
            state.tensors_sha256
        );
        dcff_file::write_folder::<dcff_file::Error>(path, |folder| {
            dcff_file::write(&folder.join(TENSORS), &bytes)?;
            dcff_file::write(&folder.join(STATE), &text)?;
            dcff_file::write(&folder.join(SUMS), sums.as_bytes())
        })?;
        Ok(())
    }

    /// Reads the checkpoint `path` of a run with `config`, which may have more epochs than it had then; `None` when there is none.
    ///
    /// # Errors
    /// When it is truncated or damaged, or was written under another configuration.
    pub fn load(path: &Path, config: &RunConfig) -> Result<Option<Self>> {
        if !path.exists() {
            return Ok(None);
        }
        let state_path = path.join(STATE);
        let text = dcff_file::read(&state_path, MAX_STATE_BYTES)?;
        let sums_path = path.join(SUMS);
        let sums = dcff_file::read_text_if_any(&sums_path, MAX_SUMS_BYTES)?;
        if let Some(sums) = &sums {
            let expected = sums
                .lines()
                .find_map(|line| line.strip_suffix(STATE)?.strip_suffix("  "))
                .ok_or_else(|| Error::file(&sums_path, format!("expected a line for {STATE}")))?;
            same_hash(&state_path, expected, &sha256(&text))?;
        }
        let mut state: State = serde_json::from_slice(&text)
            .map_err(|error| Error::file(&state_path, format!("damaged: {error}")))?;
        if state.layout > 0 && sums.is_none() {
            return Err(Error::file(&sums_path, "damaged: no such file"));
        }
        state.config = methods::complete(state.config)?;
        // A run may be trained on; nothing that is done depended on its end.
        let epochs = &mut state.config.recipe.epochs;
        *epochs = config.recipe.epochs.max(*epochs);
        if let Some(difference) = state.config.difference(config) {
            let message =
                format!("the configuration has changed since the checkpoint: {difference}");
            return Err(Error::file(&path.with_file_name(CONFIG), message));
        }
        state
            .check()
            .map_err(|message| Error::file(&state_path, format!("damaged: {message}")))?;
        let tensors_path = path.join(TENSORS);
        // Before memory is taken for it.
        let found = sha256_of(&tensors_path, MAX_BYTES)?
            .ok_or_else(|| Error::file(&tensors_path, "damaged: no such file"))?;
        same_hash(&tensors_path, &state.tensors_sha256, &found)?;
        let bytes = dcff_file::read(&tensors_path, MAX_BYTES)?;
        let (tensors, _) = dcff_compact::tensors_from_bytes(&tensors_path, &bytes)?;
        Ok(Some(Self { state, tensors }))
    }

    /// Where the run stands.
    pub fn position(&self) -> Position {
        self.state.position
    }

    /// Checks that the position lies within epochs of `steps` steps.
    pub(crate) fn check_steps(&self, folder: &Path, steps: usize) -> Result<()> {
        let Position { step, .. } = self.state.position;
        if step >= steps {
            let message = format!(
                "damaged: position: expected a step below the {steps} of an epoch, got {step}"
            );
            return Err(Error::file(&folder.join(STATE), message));
        }
        Ok(())
    }

    /// The compact network as it stands at this checkpoint, of a run of `full`.
    ///
    /// # Errors
    /// When the checkpoint does not fit the architecture, or was written before the first step.
    pub fn collapse(&self, full: &Architecture, device: &Device) -> Result<Artefact> {
        let state = &self.state;
        let full = full.clone().with_classes(state.preprocessing.num_classes);
        let full = &full.with_input(state.preprocessing.input_size);
        let tensors = self.section(NETWORK);
        // All filters are kept where there are more of them than the widths ask for.
        let compact = full.narrowed(&state.widths)?;
        let more = compact.scored_convs().any(|(layer, conv)| {
            let filters = tensors.get(&format!("{}.weight", layer.name));
            filters.is_some_and(|t| t.dim(0).is_ok_and(|n| n > compact.width(&conv.space)))
        });
        let filters = if more {
            Filters::All
        } else {
            Filters::Computed
        };
        let mut network = state.network(filters, full, 0, device)?;
        network.load(&tensors)?;
        let mut provenance = BTreeMap::new();
        let values = [
            ("config", serde_json::to_value(&state.config)),
            ("position", serde_json::to_value(state.position)),
        ];
        for (key, value) in values {
            provenance.insert(
                key.to_owned(),
                value.map_err(|error| Error::file(Path::new(STATE), error))?,
            );
        }
        forget_places(&mut provenance);
        Ok(Artefact::new(
            &network,
            &self.views(device)?,
            state.preprocessing.clone(),
            provenance,
        )?)
    }

    /// The coefficients `P [M, C_out]` with which the convolution `layer` is fused; `None` where it is not.
    pub fn coefficients(&self, layer: &str) -> Option<&Tensor> {
        self.tensors.get(&tensor_name(MIX, layer))
    }

    /// The tensor of this name in `state.safetensors`.
    pub(crate) fn tensor(&self, name: &str) -> Option<Tensor> {
        self.tensors.get(name).cloned()
    }

    /// The tensors of `section`, named as they were given.
    pub(crate) fn section(&self, section: &str) -> HashMap<String, Tensor> {
        let named = self.tensors.iter();
        named
            .filter_map(|(name, tensor)| {
                Some((
                    name.strip_prefix(section)?.strip_prefix('/')?.to_owned(),
                    tensor.clone(),
                ))
            })
            .collect()
    }

    /// What the method saved.
    pub(crate) fn saved(&self) -> Saved {
        Saved {
            values: self.state.method.clone(),
            tensors: self.section(METHOD).into_iter().collect(),
        }
    }

    /// The epoch's views.
    pub(crate) fn views(&self, device: &Device) -> Result<Views> {
        let mut views = Views::dense();
        for kind in View::KINDS {
            for (layer, tensor) in self.section(kind) {
                views.insert(layer, View::from_parts(kind, &tensor, device)?);
            }
        }
        Ok(views)
    }
}

pub(crate) const NETWORK: &str = "network";
pub(crate) const CHOSEN: &str = "chosen";
pub(crate) const METHOD: &str = "method";
/// The section of the coefficients that mix filters: what [`View::parts`] calls them.
const MIX: &str = "mix";

/// The name under which a tensor stands in `state.safetensors`.
pub(crate) fn tensor_name(section: &str, name: &str) -> String {
    format!("{section}/{name}")
}

/// The tensors of views, named for a checkpoint.
pub(crate) fn view_tensors(views: &Views) -> Result<Vec<(String, Tensor)>> {
    let mut tensors = Vec::new();
    for (layer, view) in views.iter() {
        if let Some((kind, tensor)) = view.parts()? {
            tensors.push((tensor_name(kind, layer), tensor));
        }
    }
    Ok(tensors)
}

/// How many rows there are, and whether they are those of the epochs from 1 on.
fn epochs_of<T>(rows: &[T], untold: usize, epoch: impl Fn(&T) -> usize) -> (usize, bool) {
    let in_order = rows
        .iter()
        .zip(untold + 1..)
        .all(|(row, wanted)| epoch(row) == wanted);
    (rows.len(), in_order)
}

fn same_hash(path: &Path, expected: &str, found: &str) -> Result<()> {
    if found != expected {
        let message = format!("damaged: expected SHA-256 {expected}, got {found}");
        return Err(Error::file(path, message));
    }
    Ok(())
}
