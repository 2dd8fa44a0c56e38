//! The hook of a method on the training loop.

use std::collections::BTreeMap;

use candle_core::Tensor;
use dcff_models::{Architecture, Gradients, Mode, Network, Views};

use crate::Result;

/// What a method says at the start of an epoch.
#[derive(Debug, Default)]
pub struct EpochViews {
    /// How the convolutions see their filters during the epoch.
    pub views: Views,
    /// What it has to say of itself, for `metrics.jsonl`.
    pub diagnostics: BTreeMap<String, f64>,
}

/// What a step computed.
#[derive(Debug)]
pub struct StepOutput {
    /// The mean loss of the batch.
    pub loss: f64,
    /// How many images were classified rightly.
    pub correct: usize,
    /// The gradients, unless the loss was not finite.
    pub gradients: Option<Gradients>,
}

/// A way to train a compact network: which weights a pass uses, who decides it and when.
///
/// One pass with cross-entropy per step is the default; a method with a teacher, masks or several passes overrides
/// [`Method::step`].
pub trait Method {
    /// The architecture whose widths the network computes during training, from the dense one.
    ///
    /// # Errors
    /// When the method's rates do not fit the architecture.
    fn compact(&self, full: &Architecture) -> Result<Architecture>;

    /// Called before the first step of `epoch` (counted from 0) of `epochs`.
    ///
    /// # Errors
    /// When the method cannot decide, for example because a score is not finite.
    fn epoch_start(&mut self, epoch: usize, epochs: usize, network: &Network)
    -> Result<EpochViews>;

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
    if !loss.value.is_finite() {
        return Ok(StepOutput {
            loss: loss.value,
            correct: loss.correct,
            gradients: None,
        });
    }
    network.update_statistics(&trace)?;
    let gradients = network.backward(trace, views, &loss.grad)?;
    Ok(StepOutput {
        loss: loss.value,
        correct: loss.correct,
        gradients: Some(gradients),
    })
}
