//! No compression: the dense network, as a reference.

use dcff_models::Architecture;

use crate::stage::{DENSE, Stage};
use crate::{EpochStart, EpochViews, Method, Recipe, Result};

/// Trains the network as it is.
#[derive(Debug, Default)]
pub struct Dense;

impl Method for Dense {
    fn compact(&self, full: &Architecture) -> Result<Architecture> {
        Ok(full.clone())
    }

    fn stages(&self, recipe: &Recipe) -> Vec<Stage> {
        vec![Stage {
            name: DENSE,
            ..Stage::whole(recipe)
        }]
    }

    fn repeats(&self) -> bool {
        true
    }

    fn epoch_start(&mut self, _: &EpochStart<'_>) -> Result<EpochViews> {
        Ok(EpochViews::default())
    }
}
