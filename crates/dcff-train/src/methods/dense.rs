//! No compression: the dense network, as a reference.

use dcff_models::Architecture;
use dcff_run::{Description, MethodConfig, Recipe};
use serde::{Deserialize, Serialize};

use crate::entry::{Context, Entry, Given};
use crate::error::Result;
use crate::method::{Decision, EpochStart, Filters, Method, Plan};
use crate::stage::{DENSE, Stage};

/// The settings of [`Dense`]: none.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DenseConfig {}

/// Trains the network as it is.
#[derive(Debug, Default)]
pub struct Dense;

impl Method for Dense {
    fn plan(&self, full: &Architecture, recipe: &Recipe) -> Result<Plan> {
        let mut plan = Plan::whole(full.clone(), Filters::Computed, recipe);
        plan.stages = vec![Stage {
            name: DENSE,
            // As a stage before pruning writes it where nothing penalises its scales.
            settings: [("scale_penalty", 0.0)].into(),
            ..Stage::whole(recipe)
        }];
        Ok(plan)
    }

    fn describe(&self) -> Description {
        Description {
            label: DENSE.to_owned(),
            sentence: "It is the plain network, trained from scratch".to_owned(),
            ..Description::default()
        }
    }

    fn distils(&self) -> bool {
        true
    }

    fn repeats(&self) -> bool {
        true
    }

    fn epoch_start(&mut self, _: &EpochStart<'_>) -> Result<Decision> {
        Ok(Decision::default())
    }
}

/// The network as it is.
pub(super) struct Entrance;

impl Entry for Entrance {
    fn name(&self) -> &'static str {
        DENSE
    }

    fn about(&self) -> &'static str {
        "the network as it is, for reference"
    }

    fn keys(&self) -> &'static [&'static str] {
        &[]
    }

    fn configure(&self, _: &Given<'_>) -> Result<MethodConfig> {
        Ok(MethodConfig::new(DENSE, DenseConfig {})?)
    }

    fn complete(&self, config: &MethodConfig) -> Result<MethodConfig> {
        Ok(MethodConfig::new(DENSE, config.read::<DenseConfig>()?)?)
    }

    fn build(&self, _: &MethodConfig, _: &Context) -> Result<Box<dyn Method>> {
        Ok(Box::new(Dense))
    }
}
