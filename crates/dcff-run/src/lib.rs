//! The record of a run: what was asked for, what came of every epoch, and the outcome.
//!
//! A run is a folder: `config.toml` (complete: running it again repeats the run), `metrics.jsonl` (a row per
//! epoch, free of timings, so that two runs of one seed can be compared byte by byte), `selection.jsonl` (scores and
//! kept filters of every selection), `timing.jsonl`, `checkpoint/`, `dense/` (the network at the end of a dense stage),
//! `compact/` (the artefact), `summary.json` and, for TensorBoard, `events.out.tfevents.dcff`.
//!
//! This crate deliberately knows no tensors, networks, methods or data sets: a record names them, and a [`Registry`] says what
//! the names stand for. Who reads records links no kernel.
//!
//! # Example
//! ```
//! use dcff_run::{DataConfig, MethodConfig, Recipe, RunConfig};
//!
//! let mut config = RunConfig::new(
//!     "resnet20",
//!     1,
//!     DataConfig::named("synthetic", 0.1),
//!     MethodConfig::named("dense"),
//!     Recipe::quick(15),
//! );
//! config.validate()?;
//! // Half a cosine: half the rate in the middle of the run.
//! assert!(config.recipe.rate(7, 5, 10) < 0.026);
//! config.recipe.momentum = 1.5;
//! let refused = config.validate().unwrap_err().to_string();
//! assert_eq!(refused, "recipe.momentum: expected 0 to 1, got 1.5");
//! # Ok::<(), dcff_run::Error>(())
//! ```

mod config;
mod description;
mod error;
mod precision;
mod recipe;
mod registry;
mod rows;
mod run;
mod schedule;
pub mod selection;
mod stage;
mod summary;
pub mod toml_file;

pub use config::{
    Augment, DENSE_FROM, DataConfig, DenseFrom, Distil, MethodConfig, RunConfig, Settings,
    first_difference,
};
pub use description::Description;
pub use error::{Error, Result};
pub use precision::Precision;
pub use recipe::Recipe;
pub use registry::{Counted, Published, Registry, ScoredLayer};
pub use rows::{Metrics, Score, Timing};
pub use run::{
    CHECKPOINT, COMPACT, CONFIG, MAX_TABLE_BYTES, METRICS, PRODUCTS, RunFolder, SUMMARY, TIMING,
};
pub use schedule::{Cosine, GeometricWarmup, Schedule, geometric};
pub use selection::{LayerSelection, SELECTION, SelectionRow, read_selection};
pub use stage::StageCost;
pub use summary::{Cost, Outcome, ProductSummary, Summary, Width, reduction_percent};
