//! Stages of a run: stretches of epochs with a recipe of their own.

use std::collections::BTreeMap;
use std::ops::Range;

use dcff_run::Recipe;

/// A stretch of epochs.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// `train`, `dense`, `search` or `finetune`.
    pub name: &'static str,
    /// Its epochs, counted from 0.
    pub epochs: Range<usize>,
    /// How it is trained: the schedule runs over the recipe's epochs,
    pub recipe: Recipe,
    /// which begin at this epoch of the run.
    pub schedule_from: usize,
    /// Whether the network has its final widths, so that its epochs may be chosen as the best.
    pub compact: bool,
    /// What decides its weights beside the recipe, by name: runs share a dense stage only where this agrees, too.
    pub settings: BTreeMap<&'static str, f64>,
}

impl Stage {
    /// The only stage of a run that has no others.
    pub fn whole(recipe: &Recipe) -> Self {
        Self {
            name: TRAIN,
            epochs: 0..recipe.epochs,
            recipe: recipe.clone(),
            schedule_from: 0,
            compact: true,
            settings: BTreeMap::new(),
        }
    }
}

/// The stage of a run that has no others.
pub const TRAIN: &str = "train";
/// The stage in which all filters are trained. At its end the network is written to the folder of the same name.
pub const DENSE: &str = "dense";
/// The stage in which the filters that stay are searched for.
pub const SEARCH: &str = "search";
/// The stage after pruning.
pub const FINETUNE: &str = "finetune";
