//! One batch of a run, as a method sees it.

use candle_core::Tensor;
use dcff_models::{Gradients, Mode, Network, Views};
use dcff_nn::LossValue;

use crate::error::Result;

/// How far a run is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Counted from 0.
    pub epoch: usize,
    /// Of the run.
    pub epochs: usize,
    /// Of the epoch, counted from 0.
    pub step: usize,
    /// Of an epoch.
    pub steps: usize,
}

/// A batch, the network, and the gradients that the method's passes add up.
#[derive(Debug)]
pub struct Step<'a> {
    /// Normalised images `[N, C, H, W]`.
    pub images: &'a Tensor,
    /// Labels `[N]` (`u32`).
    pub labels: &'a Tensor,
    /// How far the run is.
    pub at: Progress,
    /// The epoch's views.
    pub views: &'a Views,
    /// The network that is trained.
    pub network: &'a mut Network,
    /// The share of a label's probability spread over all classes.
    pub smoothing: f64,
    gradients: Option<Gradients>,
}

impl<'a> Step<'a> {
    /// A step that has no gradients yet.
    pub fn new(
        network: &'a mut Network,
        views: &'a Views,
        (images, labels): (&'a Tensor, &'a Tensor),
        smoothing: f64,
        at: Progress,
    ) -> Self {
        Self {
            images,
            labels,
            at,
            views,
            network,
            smoothing,
            gradients: None,
        }
    }

    /// One training pass with cross-entropy through the epoch's views: running statistics move, gradients are the step's.
    ///
    /// # Errors
    /// Those of the device.
    pub fn cross_entropy(&mut self) -> Result<LossValue> {
        let output = cross_entropy_step(
            self.network,
            self.views,
            self.images,
            self.labels,
            self.smoothing,
        )?;
        self.gradients = Some(output.gradients);
        Ok(output.loss)
    }

    /// The network, and the gradients so far, for penalties on parameters.
    pub fn gradients_mut(&mut self) -> (&Network, Option<&mut Gradients>) {
        (self.network, self.gradients.as_mut())
    }

    /// The gradients of all passes; `None` where there was none.
    pub fn into_gradients(self) -> Option<Gradients> {
        self.gradients
    }
}

/// What a pass computed.
#[derive(Debug)]
pub struct StepOutput {
    /// The mean loss of the batch, and how many images were classified rightly.
    pub loss: LossValue,
    /// The gradients.
    pub gradients: Gradients,
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
