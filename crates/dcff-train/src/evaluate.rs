//! Loss and accuracy of a network over a data set.

use candle_core::{Device, Tensor};
use dcff_data::Loader;
use dcff_models::{InferenceNetwork, Mode, Network, Views};
use dcff_nn::LossNumbers;
use dcff_run::Score;
use serde::{Deserialize, Serialize};

use crate::error::Result;

/// Sums over images, which become a [`Score`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Tally {
    pub(crate) loss: f64,
    pub(crate) correct: usize,
    pub(crate) images: usize,
}

impl Tally {
    /// Adds a batch of `images`.
    pub(crate) fn add(&mut self, batch: LossNumbers, images: usize) {
        self.loss += batch.mean * images as f64;
        self.correct += batch.correct;
        self.images += images;
    }

    pub(crate) fn score(&self) -> Score {
        let images = self.images.max(1) as f64;
        Score {
            loss: self.loss / images,
            accuracy: self.correct as f64 / images,
        }
    }
}

/// Evaluates `network` through `views` over all images of `loader`, in order, without augmentation.
///
/// # Errors
/// Those of reading batches and of the device.
pub fn evaluate(network: &Network, views: &Views, loader: &Loader) -> Result<Score> {
    evaluate_logits(loader, network.device(), |images| {
        Ok(network.forward(images, views, Mode::Eval)?.0)
    })
}

/// As [`evaluate`], for a plain network that may take images of another size, to which they are resized.
///
/// # Errors
/// Those of reading batches and of the device.
pub(crate) fn evaluate_at(network: &Network, loader: &Loader) -> Result<Score> {
    let side = network.compact().input[1];
    evaluate_logits(loader, network.device(), |images| {
        let images = dcff_nn::resize(images, side)?;
        Ok(network.forward(&images, &Views::dense(), Mode::Eval)?.0)
    })
}

/// As [`evaluate`], for a finished network.
///
/// # Errors
/// Those of reading batches and of the device.
pub fn evaluate_finished(
    network: &InferenceNetwork,
    device: &Device,
    loader: &Loader,
) -> Result<Score> {
    evaluate_logits(loader, device, |images| Ok(network.forward(images)?))
}

/// Compares the logits `[N, classes]` that `network` gives for images on `device` with the labels.
fn evaluate_logits(
    loader: &Loader,
    device: &Device,
    network: impl Fn(&Tensor) -> Result<Tensor>,
) -> Result<Score> {
    // Read at the end, so that a GPU need not wait between batches.
    let mut losses = Vec::with_capacity(loader.batches());
    for batch in loader.epoch(None, 0) {
        let batch = batch?;
        let labels = batch.labels.to_device(device)?;
        let logits = network(&batch.images.to_device(device)?)?;
        let loss = dcff_nn::cross_entropy(&logits, &labels, 0.0)?;
        losses.push((loss.value, labels.elem_count()));
    }
    let mut tally = Tally::default();
    for (loss, images) in losses {
        tally.add(loss.read()?, images);
    }
    Ok(tally.score())
}
