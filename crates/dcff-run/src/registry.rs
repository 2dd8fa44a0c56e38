//! What a record leaves to those who know its names: methods, networks, criteria, data sets.

use std::path::Path;

use crate::config::{DataConfig, MethodConfig, RunConfig};
use crate::description::Description;
use crate::error::Result;
use crate::summary::Summary;

/// What a record names and does not hold. `dcff_train::Known` answers with what this program knows; who reads records is handed
/// it, and so links no network and no kernel.
pub trait Registry: Sync {
    /// `config` with every setting of its method spelled out, under the name that the method has now.
    ///
    /// # Errors
    /// The first setting that is unknown, or whose value is none. A method of an unknown name stays as it is.
    fn complete(&self, config: RunConfig) -> Result<RunConfig>;

    /// What reports and model cards say of a method; no more than its name where it is unknown.
    fn describe(&self, method: &MethodConfig) -> Description;

    /// As it may be told to others: a folder of images is called by its name, its place is nobody's business.
    fn without_place(&self, data: &DataConfig) -> DataConfig;

    /// The convolutions whose filters are scored in the network `arch`, in the order of computation; `None` where it is unknown.
    fn scored_layers(&self, arch: &str) -> Option<Vec<ScoredLayer>>;

    /// Whether the temperature enters the scores of the criterion of this name.
    fn reads_temperature(&self, criterion: &str) -> bool;

    /// The figures in print for the setting of a run.
    fn published(&self, summary: &Summary) -> Option<Published>;

    /// Checks a summary's widths and costs against the compact network in the run's folder, where there is one.
    ///
    /// # Errors
    /// The first that differs, with what was expected and what came.
    fn check(&self, folder: &Path, summary: &Summary) -> Result<()>;

    /// `P [M, C_out]` of the convolution `layer` in the checkpoint of a run, row by row; `None` where it is not fused.
    ///
    /// # Errors
    /// When the checkpoint is damaged.
    fn coefficients(
        &self,
        folder: &Path,
        config: &RunConfig,
        layer: &str,
    ) -> Result<Option<Vec<Vec<f32>>>>;
}

impl std::fmt::Debug for dyn Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Registry")
    }
}

/// A convolution whose filters are scored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScoredLayer {
    /// Its name.
    pub name: String,
    /// How many filters it has.
    pub filters: usize,
}

/// Figures in print for a setting.
#[derive(Clone, Debug, PartialEq)]
pub struct Published {
    /// The setting's name on the command line.
    pub name: String,
    /// Operations of the compact network.
    pub ops: f64,
    /// How they are counted.
    pub counted: Counted,
    /// Operations saved, in percent of the full network's.
    pub ops_reduction: f64,
    /// Parameters of the compact network, and those saved in percent of the full network's; `None` where they are not in print.
    pub params: Option<(f64, f64)>,
    /// Top-1 accuracy on the test set, in percent.
    pub top1: f64,
    /// What a reader must know of that accuracy, as a sentence.
    pub note: &'static str,
}

/// How operations in print are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// With bias, batch norm and pooling, as in the paper of Dynamic-coded Filter Fusion.
    Published,
    /// Multiply-accumulates of convolutions and linear layers.
    Macs,
}
