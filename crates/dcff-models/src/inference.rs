//! A network made ready for inference: its weights are settled, nothing is kept for a backward sweep.

use candle_core::Tensor;

use crate::Result;
use crate::network::{Mode, Network};
use crate::view::Views;

/// A finished network as a function from images to logits.
///
/// It has its own copy of the weights: later changes of the network that it was made from do not reach it.
#[derive(Clone, Debug)]
pub struct InferenceNetwork {
    plain: Network,
}

impl InferenceNetwork {
    /// Prepares what `network` computes through `views` in [`Mode::Eval`].
    ///
    /// # Errors
    /// When a view's width is not that of the compact architecture.
    pub fn new(network: &Network, views: &Views) -> Result<Self> {
        Ok(Self {
            plain: network.collapse(views)?,
        })
    }

    /// Logits `[N, classes]` of normalised images `[N, C, H, W]`.
    ///
    /// # Errors
    /// When the images' size is not the architecture's, or the device fails.
    pub fn forward(&self, images: &Tensor) -> Result<Tensor> {
        let (logits, _) = self.plain.forward(images, &Views::dense(), Mode::Eval)?;
        Ok(logits)
    }
}
