//! Checkpoints: the state from which a run continues bit for bit.
//!
//! A checkpoint is a folder that appears whole or not at all: `state.safetensors` holds the parameters, the
//! running statistics, the velocities, the epoch's views and the chosen epoch's compact weights; `state.json` the position, the
//! tallies, the method's memory, the configuration and the hash of the tensors.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{Device, Tensor};
use dcff_compact::{Artefact, Preprocessing};
use dcff_models::{Architecture, Network, View, Views};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::evaluate::Tally;
use crate::stage::StageCost;
use crate::{Error, Method, Metrics, Outcome, Result, RunConfig, Timing, forget_places};

/// The checkpoint's folder in a run folder.
pub const CHECKPOINT: &str = "checkpoint";
const STATE: &str = "state.json";
const TENSORS: &str = "state.safetensors";
/// More than any network here needs; keeps a broken file from taking all memory.
const MAX_BYTES: u64 = 16 << 30;
const MAX_STATE_BYTES: u64 = 1 << 30;

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
    pub(crate) validation: Option<crate::Score>,
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
    /// The widths that the network computes; those of the method's compact architecture where they are missing.
    #[serde(default)]
    pub(crate) widths: Option<Vec<usize>>,
    /// The stages so far.
    #[serde(default)]
    pub(crate) stages: Vec<StageCost>,
    /// SHA-256 of `state.safetensors`.
    pub(crate) tensors_sha256: String,
}

impl State {
    /// A network of the architecture that the tensors of this state belong to.
    pub(crate) fn network(
        &self,
        method: &dyn Method,
        full: &Architecture,
        seed: u64,
        device: &Device,
    ) -> Result<Network> {
        let widths = match &self.widths {
            Some(widths) => widths.clone(),
            None => method.compact(full)?.widths(),
        };
        let keeps = method.keeps(full, &widths)?;
        Ok(Network::new(
            &keeps,
            &full.narrowed(&widths)?,
            seed,
            device,
        )?)
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
        let text =
            serde_json::to_vec(&state).map_err(|error| Error::file(&path.join(STATE), error))?;
        dcff_compact::file::write_folder(path, |folder| {
            dcff_compact::file::write(&folder.join(TENSORS), &bytes)?;
            dcff_compact::file::write(&folder.join(STATE), &text)
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
        let text = dcff_compact::file::read(&state_path, MAX_STATE_BYTES)?;
        let mut state: State = serde_json::from_slice(&text)
            .map_err(|error| Error::file(&state_path, format!("damaged: {error}")))?;
        // A run may be trained on; nothing that is done depended on its end.
        let epochs = &mut state.config.recipe.epochs;
        *epochs = config.recipe.epochs.max(*epochs);
        if let Some(difference) = state.config.difference(config) {
            let message =
                format!("the configuration has changed since the checkpoint: {difference}");
            return Err(Error::file(&path.with_file_name(crate::CONFIG), message));
        }
        let tensors_path = path.join(TENSORS);
        let bytes = dcff_compact::file::read(&tensors_path, MAX_BYTES)?;
        let found = sha256(&bytes);
        if found != state.tensors_sha256 {
            return Err(Error::file(
                &tensors_path,
                format!(
                    "damaged: expected SHA-256 {}, got {found}",
                    state.tensors_sha256
                ),
            ));
        }
        let (tensors, _) = dcff_compact::tensors_from_bytes(&tensors_path, &bytes)?;
        Ok(Some(Self { state, tensors }))
    }

    /// Where the run stands.
    pub fn position(&self) -> Position {
        self.state.position
    }

    /// The compact network as it stands at this checkpoint, of a run of `full`.
    ///
    /// # Errors
    /// When the checkpoint does not fit the architecture, or was written before the first step.
    pub fn collapse(&self, full: &Architecture, device: &Device) -> Result<Artefact> {
        let state = &self.state;
        let full = full.clone().with_classes(state.preprocessing.num_classes);
        let full = &full.with_input(state.preprocessing.input_size);
        let mut network = state.network(&*state.config.method.build(0)?, full, 0, device)?;
        network.load(&self.section(NETWORK))?;
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
pub(crate) const VELOCITY: &str = "velocity";
pub(crate) const CHOSEN: &str = "chosen";
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

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
