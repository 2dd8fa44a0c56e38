//! Statistics of batch norm measured anew, for a network that shares its weights with others.

use dcff_models::{Blend, Mode, Network, Views};

use super::Trainer;
use crate::error::Result;
use crate::seed::{Purpose, derive_seed};

impl Trainer {
    /// The plain network as it is evaluated, where the method measures its statistics anew.
    ///
    /// # Errors
    /// Those of reading batches and of the device.
    pub fn recalibrated(&self) -> Result<Option<Network>> {
        let Some(batches) = self.method.recalibration() else {
            return Ok(None);
        };
        let mut plain = self.network.collapse(&self.evaluation_views()?)?;
        self.recalibrate(&mut plain, batches)?;
        Ok(Some(plain))
    }

    /// Measures the statistics of `plain`, a network with tensors of its own, anew: each becomes the mean over the first `batches` of an
    /// augmented epoch, resized to the network's images; of the variances the unbiased ones. The same images for every network.
    ///
    /// # Errors
    /// Those of reading batches and of the device.
    pub(super) fn recalibrate(&self, plain: &mut Network, batches: usize) -> Result<()> {
        let seed = |purpose| derive_seed(self.config.seed, purpose, RECALIBRATION);
        let side = plain.compact().input[1];
        let epoch = self
            .train
            .epoch(Some(seed(Purpose::Order)), seed(Purpose::Augmentation));
        let counted = plain.batches_tracked();
        for (seen, batch) in epoch.take(batches).enumerate() {
            let images = batch?.images.to_device(plain.device())?;
            let images = dcff_nn::resize(&images, side)?;
            let (_, trace) = plain.forward(&images, &Views::dense(), Mode::Train)?;
            plain.move_statistics(&trace, Blend::Cumulative(seen as u64))?;
        }
        plain.set_batches_tracked(counted);
        Ok(())
    }
}

/// The number of the epoch that gives the images: one that no run reaches.
const RECALIBRATION: u64 = u64::MAX;
