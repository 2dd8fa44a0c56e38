//! What this program knows by name, for those who read records.

use std::path::Path;

use dcff_run::{
    CHECKPOINT, COMPACT, DataConfig, Description, MethodConfig, Published, Registry, RunConfig,
    SUMMARY, ScoredLayer, Summary,
};

use crate::checkpoint::Checkpoint;
use crate::costs::{check_costs, full_of};
use crate::error::{Error, Result};
use crate::{methods, places};

/// The methods, networks, criteria and data sets of this program.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known;

impl Registry for Known {
    fn complete(&self, config: RunConfig) -> dcff_run::Result<RunConfig> {
        Ok(methods::complete(config)?)
    }

    fn describe(&self, method: &MethodConfig) -> Description {
        methods::describe(method)
    }

    fn without_place(&self, data: &DataConfig) -> DataConfig {
        places::without_place(data)
    }

    fn scored_layers(&self, arch: &str) -> Option<Vec<ScoredLayer>> {
        let full = dcff_models::by_name(arch).ok()?;
        let scored = full.scored_convs().map(|(layer, conv)| ScoredLayer {
            name: layer.name.clone(),
            filters: full.width(&conv.space),
        });
        Some(scored.collect())
    }

    fn reads_temperature(&self, criterion: &str) -> bool {
        dcff_criteria::by_name(criterion).is_ok_and(|known| known.reads_temperature())
    }

    fn published(&self, summary: &Summary) -> Option<Published> {
        let entry = methods::by_name(&summary.config.method.name).ok()?;
        entry.published(summary)
    }

    fn check(&self, folder: &Path, summary: &Summary) -> dcff_run::Result<()> {
        let file = folder.join(COMPACT).join(dcff_compact::CONFIG);
        if !file.exists() {
            return Ok(());
        }
        let bytes = dcff_file::read(&file, dcff_compact::MAX_CONFIG_BYTES)?;
        let artefact: dcff_compact::Config =
            serde_json::from_slice(&bytes).map_err(|error| Error::file(&file, error))?;
        let sound = || -> Result<()> {
            let full = full_of(summary, &artefact)?;
            check_costs(summary, &full, &artefact.architecture)
        };
        sound().map_err(|error| dcff_run::Error::file(&folder.join(SUMMARY), error))
    }

    fn coefficients(
        &self,
        folder: &Path,
        config: &RunConfig,
        layer: &str,
    ) -> dcff_run::Result<Option<Vec<Vec<f32>>>> {
        let folder = folder.join(CHECKPOINT);
        let Some(checkpoint) = Checkpoint::load(&folder, config)? else {
            return Ok(None);
        };
        let rows = checkpoint
            .coefficients(layer)
            .map(|p| p.to_vec2::<f32>())
            .transpose();
        rows.map_err(|error| dcff_run::Error::file(&folder, error))
    }
}
