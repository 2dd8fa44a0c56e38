//! Statistics of batch norm measured anew, for a network that shares its weights with others.

use dcff_models::Network;

use super::Trainer;
use crate::error::Result;
use crate::recalibrate::recalibrate;
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

    /// As [`recalibrate`], over the first `batches` of an augmented epoch: the same images for every network.
    ///
    /// # Errors
    /// Those of reading batches and of the device.
    pub(super) fn recalibrate(&self, plain: &mut Network, batches: usize) -> Result<usize> {
        let seed = |purpose| derive_seed(self.config.seed, purpose, RECALIBRATION);
        let epoch = self
            .train
            .epoch(Some(seed(Purpose::Order)), seed(Purpose::Augmentation));
        recalibrate(plain, epoch.take(batches).map(|batch| Ok(batch?.images)))
    }
}

/// The number of the epoch that gives the images: one that no run reaches.
const RECALIBRATION: u64 = u64::MAX;
