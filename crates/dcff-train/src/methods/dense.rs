//! No compression: the dense network, as a reference.

use dcff_models::{Architecture, Network};

use crate::{EpochViews, Method, Result};

/// Trains the network as it is.
#[derive(Debug, Default)]
pub struct Dense;

impl Method for Dense {
    fn compact(&self, full: &Architecture) -> Result<Architecture> {
        Ok(full.clone())
    }

    fn epoch_start(&mut self, _: usize, _: usize, _: &Network) -> Result<EpochViews> {
        Ok(EpochViews::default())
    }
}
