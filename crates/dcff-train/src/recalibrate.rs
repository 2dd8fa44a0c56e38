//! Statistics of batch norm measured anew, for a network that shared its weights with others.

use candle_core::Tensor;
use dcff_models::{Blend, Mode, Network, Views};

use crate::error::Result;

/// Measures the statistics of `plain`, a network with tensors of its own, anew: each becomes the mean over `batches`, normalised images
/// `[N, C, H, W]` that are resized to the network's; of the variances the unbiased ones. The number of images comes back.
///
/// # Errors
/// Those of the batches and of the device.
pub fn recalibrate(
    plain: &mut Network,
    batches: impl IntoIterator<Item = Result<Tensor>>,
) -> Result<usize> {
    let mut images_seen = 0;
    let side = plain.compact().input[1];
    let counted = plain.batches_tracked();
    for (seen, images) in batches.into_iter().enumerate() {
        let images = images?.to_device(plain.device())?;
        images_seen += images.dim(0)?;
        let images = dcff_nn::resize(&images, side)?;
        let (_, trace) = plain.forward(&images, &Views::dense(), Mode::Train)?;
        plain.move_statistics(&trace, Blend::Cumulative(seen as u64))?;
    }
    plain.set_batches_tracked(counted);
    Ok(images_seen)
}
