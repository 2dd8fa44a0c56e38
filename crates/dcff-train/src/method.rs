//! The hook of a method on the training loop.

use std::collections::BTreeMap;

use candle_core::Tensor;
use dcff_models::{Architecture, Gradients, Mode, Network, Views};
use dcff_nn::LossValue;

use crate::collect::Probe;
use crate::selection::LayerSelection;
use crate::stage::Stage;
use crate::{Recipe, Result};

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

/// What a method says at the start of an epoch.
#[derive(Debug, Default)]
pub struct EpochViews {
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

/// What a step computed.
#[derive(Debug)]
pub struct StepOutput {
    /// The mean loss of the batch, and how many images were classified rightly.
    pub loss: LossValue,
    /// The gradients.
    pub gradients: Gradients,
}

/// A way to train a compact network: which weights a pass uses, who decides it and when.
///
/// One pass with cross-entropy per step is the default; a method with a teacher, masks or several passes overrides
/// [`Method::step`].
pub trait Method {
    /// The compact architecture that the method aims at, from the dense one.
    ///
    /// # Errors
    /// When the method's rates do not fit the architecture.
    fn compact(&self, full: &Architecture) -> Result<Architecture>;

    /// The architecture whose filters the network keeps while it computes `widths` of `full`: `full` itself for methods
    /// that decide anew in every epoch, otherwise `full` narrowed.
    ///
    /// # Errors
    /// When the widths do not fit the architecture.
    fn keeps(&self, full: &Architecture, widths: &[usize]) -> Result<Architecture> {
        Ok(full.narrowed(widths)?)
    }

    /// The widths that a new run starts with.
    ///
    /// # Errors
    /// When the method's rates do not fit the architecture.
    fn first_widths(&self, full: &Architecture) -> Result<Vec<usize>> {
        Ok(self.compact(full)?.widths())
    }

    /// The stages of a run under `recipe`, covering all its epochs.
    fn stages(&self, recipe: &Recipe) -> Vec<Stage> {
        vec![Stage::whole(recipe)]
    }

    /// Called before the first step of an epoch.
    ///
    /// # Errors
    /// When the method cannot decide, for example because a score is not finite.
    fn epoch_start(&mut self, start: &EpochStart<'_>) -> Result<EpochViews>;

    /// Passes, losses and gradients of one batch: images `[N, C, H, W]`, labels `[N]` (`u32`).
    ///
    /// # Errors
    /// Those of the device.
    fn step(
        &mut self,
        network: &mut Network,
        views: &Views,
        images: &Tensor,
        labels: &Tensor,
        smoothing: f64,
    ) -> Result<StepOutput> {
        cross_entropy_step(network, views, images, labels, smoothing)
    }

    /// Whether [`Method::step`] computes the same for every batch of an epoch and decides nothing on the processor, so
    /// that a card may launch again what it launched once ([`dcff_nn::RepeatedStep`]). True for [`cross_entropy_step`].
    fn repeats(&self) -> bool {
        false
    }

    /// What must survive an interruption.
    fn save(&self) -> serde_json::Value {
        serde_json::Value::Null
    }

    /// Takes back what [`Method::save`] gave.
    ///
    /// # Errors
    /// When the value is not one that this method saved.
    fn load(&mut self, state: &serde_json::Value) -> Result<()> {
        let _ = state;
        Ok(())
    }
}

/// One training pass with cross-entropy, and its gradients; running statistics move.
///
/// # Errors
/// Those of the device.
pub fn cross_entropy_step(
    network: &mut Network,
    views: &Views,
    images: &Tensor,
    labels: &Tensor,
    smoothing: f64,
) -> Result<StepOutput> {
    let (logits, trace) = network.forward(images, views, Mode::Train)?;
    let loss = dcff_nn::cross_entropy(&logits, labels, smoothing)?;
    network.update_statistics(&trace)?;
    let gradients = network.backward(trace, views, &loss.grad)?;
    Ok(StepOutput {
        loss: loss.value,
        gradients,
    })
}
