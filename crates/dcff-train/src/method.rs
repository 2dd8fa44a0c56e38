//! The hook of a method on the training loop.

use std::collections::BTreeMap;

use candle_core::{Tensor, Var};
use dcff_compact::Slice;
use dcff_models::{Architecture, Network, Parameter, Views};
use dcff_nn::LossValue;
use dcff_run::{DenseFrom, Description, LayerSelection, Recipe};
use serde_json::Value;

use crate::collect::Probe;
use crate::error::{Error, Result};
use crate::optimizer::Group;
use crate::stage::Stage;
use crate::step::Step;

/// What a method intends for a run: known before anything is trained.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The stages, covering all epochs of the recipe.
    pub stages: Vec<Stage>,
    /// The widths that the network computes in the first epoch, one per channel space.
    pub first_widths: Vec<usize>,
    /// Which filters the network keeps.
    pub filters: Filters,
    /// The network that comes out, where its widths are known now; `None` where training finds them.
    pub compact: Option<Architecture>,
    /// The run whose dense network is taken over in place of the stage [`DENSE`](crate::DENSE).
    pub dense_from: Option<DenseFrom>,
}

impl Plan {
    /// The plan of a method that trains `compact` in one stage, from the first epoch to the last.
    pub fn whole(compact: Architecture, filters: Filters, recipe: &Recipe) -> Self {
        Self {
            stages: vec![Stage::whole(recipe)],
            first_widths: compact.widths(),
            filters,
            compact: Some(compact),
            dense_from: None,
        }
    }
}

/// Which filters a network keeps while it computes narrower widths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filters {
    /// Those of the full network: which of them are used, and how, is decided anew.
    All,
    /// As many as it computes.
    Computed,
}

/// What a method may look at before the first epoch of a sitting.
#[derive(Clone, Copy, Debug)]
pub struct Setup<'a> {
    /// The network before any compression.
    pub full: &'a Architecture,
    /// As it stands: with initial weights, or with those of a checkpoint.
    pub network: &'a Network,
    /// How the run is trained.
    pub recipe: &'a Recipe,
    /// Seeds what the method draws for the whole run.
    pub seed: u64,
}

/// What a method may look at when an epoch starts.
#[derive(Clone, Copy, Debug)]
pub struct EpochStart<'a> {
    /// Counted from 0.
    pub epoch: usize,
    /// Of the run.
    pub epochs: usize,
    /// The network before any compression.
    pub full: &'a Architecture,
    /// As the epoch before left it.
    pub network: &'a Network,
    /// The views of the epoch before; dense before the first.
    pub views: &'a Views,
    /// Training images for criteria that ask for more than weights, where there are any.
    pub probe: Option<&'a Probe>,
}

/// What a method decides at the start of an epoch.
#[derive(Debug, Default)]
pub struct Decision {
    /// How the convolutions see their filters during the epoch.
    pub views: Views,
    /// What it has to say of itself, for `metrics.jsonl`.
    pub diagnostics: BTreeMap<String, f64>,
    /// What was selected, for `selection.jsonl`; empty when nothing was.
    pub selection: Vec<LayerSelection>,
    /// The network to go on with, where it is another one from now on; the optimiser then starts anew.
    pub network: Option<Network>,
    /// Multiply-accumulates spent on evidence.
    pub scoring_macs: u64,
}

/// What a method says at the end of an epoch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EpochEnd {
    /// What it has to say of the epoch, for `metrics.jsonl`.
    pub diagnostics: BTreeMap<String, f64>,
    /// Multiply-accumulates spent beside the network's own passes.
    pub macs: u64,
}

/// What must survive an interruption.
#[derive(Clone, Debug, Default)]
pub struct Saved {
    /// Numbers and names.
    pub values: Value,
    /// Tensors, by name.
    pub tensors: BTreeMap<String, Tensor>,
}

impl Saved {
    /// Values without tensors.
    ///
    /// # Errors
    /// When they cannot be written as JSON.
    pub fn values(values: impl serde::Serialize) -> Result<Self> {
        let values = serde_json::to_value(values).map_err(|error| unsound(&error))?;
        Ok(Self {
            values,
            tensors: BTreeMap::new(),
        })
    }

    /// The values, read as `T`.
    ///
    /// # Errors
    /// When they are not such.
    pub fn read<T: serde::de::DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_value(self.values.clone()).map_err(|error| unsound(&error))
    }
}

fn unsound(error: &serde_json::Error) -> Error {
    Error::setting("checkpoint: method", error.to_string())
}

/// What a method may look at when all epochs are done.
#[derive(Debug)]
pub struct End<'a> {
    /// As the last epoch left it.
    pub network: &'a Network,
    /// The views of the last epoch.
    pub views: &'a Views,
    /// The chosen epoch's compact network.
    pub chosen: Network,
}

impl End<'_> {
    /// The chosen epoch's compact network, as the only result.
    pub fn collapsed(self) -> Vec<Product> {
        vec![Product {
            label: String::new(),
            network: self.chosen,
            as_chosen: true,
            recalibration: None,
        }]
    }
}

/// A compact network that a run ends with.
#[derive(Debug)]
pub struct Product {
    /// Tells it from the run's other results; empty for the one that stands for the run.
    pub label: String,
    /// A plain network: what it keeps is what it computes.
    pub network: Network,
    /// Whether it is the chosen epoch's network as it was evaluated then.
    pub(crate) as_chosen: bool,
    /// Over how many training batches its statistics are measured anew.
    pub(crate) recalibration: Option<usize>,
}

impl Product {
    /// A network that is evaluated before it is written.
    pub fn new(label: impl Into<String>, network: Network) -> Self {
        Self {
            label: label.into(),
            network,
            as_chosen: false,
            recalibration: None,
        }
    }

    /// The same with batch norm's statistics measured anew over `batches` training batches, before it is evaluated.
    #[must_use]
    pub fn recalibrated(self, batches: usize) -> Self {
        Self {
            recalibration: Some(batches),
            ..self
        }
    }
}

/// A way to train a compact network: which weights a pass uses, who decides it and when.
///
/// The loop calls `plan`, `setup`, then for every epoch `epoch_start`, for every batch `step`, and `finish` in the end; `save`
/// after every epoch and when it is interrupted. One pass with cross-entropy per step is the default; a method with a
/// teacher, masks or several passes overrides [`Method::step`].
pub trait Method {
    /// What is trained when, and what comes out, for a run of `full` under `recipe`.
    ///
    /// # Errors
    /// When the method's settings do not fit the architecture or the recipe.
    fn plan(&self, full: &Architecture, recipe: &Recipe) -> Result<Plan>;

    /// Looks at what [`Method::plan`] does not, before anything is written: files that the settings name, for the network `full` of
    /// the run's images and classes.
    ///
    /// # Errors
    /// When something is missing, or does not fit.
    fn check(&self, full: &Architecture) -> Result<()> {
        let _ = full;
        Ok(())
    }

    /// What reports and model cards say of the method.
    fn describe(&self) -> Description;

    /// Training images that the method's criterion sees; 0 where it reads none.
    fn evidence_images(&self) -> usize {
        0
    }

    /// Called once in every sitting, before the first epoch and before [`Method::load`]: loads a teacher, builds maps.
    ///
    /// # Errors
    /// When what the method needs is missing.
    fn setup(&mut self, setup: &Setup<'_>) -> Result<()> {
        let _ = setup;
        Ok(())
    }

    /// What a user should know before the first step, a line each.
    fn foreword(&self) -> Vec<String> {
        Vec::new()
    }

    /// The method's own variables by name, in an order that stays.
    fn variables(&self) -> Vec<(String, Var)> {
        Vec::new()
    }

    /// How everything that is trained is moved in `stage`: each of `parameters` that is trained and each of the method's own
    /// variables is in exactly one group. Unless said otherwise one group holds the network's parameters, as the stage's recipe
    /// moves them.
    fn groups(&self, parameters: &[Parameter], stage: &Stage) -> Vec<Group> {
        Group::all(parameters, &stage.recipe)
    }

    /// Called before the first step of an epoch.
    ///
    /// # Errors
    /// When the method cannot decide, for example because a score is not finite.
    fn epoch_start(&mut self, start: &EpochStart<'_>) -> Result<Decision>;

    /// Passes, losses and gradients of one batch. What [`Step`] was given of gradients is descended with.
    ///
    /// # Errors
    /// Those of the device.
    fn step(&mut self, step: &mut Step<'_>) -> Result<LossValue> {
        step.cross_entropy()
    }

    /// Whether its steps are [`Step::cross_entropy`], so that a teacher's term can be added to the loss
    /// ([`dcff_run::Distil`]).
    fn distils(&self) -> bool {
        false
    }

    /// Called after the last step of an epoch.
    ///
    /// # Errors
    /// Those of the device.
    fn epoch_end(&mut self) -> Result<EpochEnd> {
        Ok(EpochEnd::default())
    }

    /// Whether [`Method::step`] computes the same for every batch of an epoch and decides nothing on the processor, so
    /// that a GPU may launch again what it launched once ([`dcff_nn::RepeatedStep`]).
    fn repeats(&self) -> bool {
        false
    }

    /// Other views than the epoch's, through which the network is evaluated and collapsed.
    ///
    /// # Errors
    /// Those of the device.
    fn evaluation(&self) -> Result<Option<Views>> {
        Ok(None)
    }

    /// Over how many training batches batch norm's statistics are measured anew, for a network of their own, whenever the network is
    /// evaluated or collapsed: where several networks share weights, the shared statistics are those of none.
    fn recalibration(&self) -> Option<usize> {
        None
    }

    /// The compact networks that the run ends with, the one that stands for it first.
    ///
    /// # Errors
    /// Those of the device.
    fn finish(&mut self, end: End<'_>) -> Result<Vec<Product>> {
        Ok(end.collapsed())
    }

    /// The slices of the network that the method knows to be networks: none where it trains no slices.
    ///
    /// # Errors
    /// Before [`Method::setup`].
    fn slices(&self) -> Result<Vec<Slice>> {
        Ok(Vec::new())
    }

    /// The slice that `config` asks for, in the method's own words.
    ///
    /// # Errors
    /// When there is none such.
    fn slice(&self, config: &str) -> Result<Slice> {
        Err(Error::setting(
            "method",
            format!("trains no slices, so that there is none of {config}"),
        ))
    }

    /// What must survive an interruption.
    ///
    /// # Errors
    /// When it cannot be written; the checkpoint before then stays.
    fn save(&self) -> Result<Saved> {
        Ok(Saved::default())
    }

    /// Takes back what [`Method::save`] gave.
    ///
    /// # Errors
    /// When it is not what this method saved.
    fn load(&mut self, saved: &Saved) -> Result<()> {
        let _ = saved;
        Ok(())
    }
}
