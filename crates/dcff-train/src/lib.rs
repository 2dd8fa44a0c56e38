//! One training loop for every method.
//!
//! ```text
//! batches --\
//!            forward -> loss -> backward -> step        once per batch   (Trainer)
//! Network --/   ^
//!               | views                                  once per epoch   (Method)
//! ```
//!
//! A [`Method`] is a hook on the loop: at the start of an epoch it says through which views the convolutions see
//! their filters, in a step it may ask for other passes and losses, and its state travels in checkpoints. The
//! [`Trainer`] knows no method, criterion or data set by name; [`MethodConfig`] is where names become objects.
//!
//! A run is a folder: `config.toml` (complete: running it again repeats the run), `metrics.jsonl` (a row per
//! epoch, free of timings, so that two runs of one seed can be compared byte by byte), `selection.jsonl` (scores and
//! kept filters of every selection), `timing.jsonl`, `checkpoint/`, `dense/` (the network at the end of a dense stage),
//! `compact/` (the artefact), `summary.json` and, for TensorBoard, `events.out.tfevents.dcff`.
//!
//! This crate deliberately does not print, and reads neither arguments nor the environment: it reports [`Event`]s.

mod checkpoint;
mod clock;
mod collect;
mod config;
mod data;
mod dense;
mod entry;
mod error;
mod evaluate;
mod event;
mod method;
pub mod methods;
mod on_card;
mod optimizer;
pub mod optimizers;
mod recipe;
mod run;
mod schedule;
mod seed;
mod selection;
mod stage;
mod step;
mod summary;
mod tensorboard;
pub mod testing;
pub mod toml_file;
mod trainer;

pub use checkpoint::{Checkpoint, Position};
pub use collect::{Collected, Probe};
pub use config::{
    Augment, DataConfig, DenseFrom, MethodConfig, RunConfig, Settings, forget_places,
};
pub use data::Data;
/// What feature maps are stored in; [`Recipe::precision`].
pub use dcff_nn::Precision;
pub use entry::{Context, Description, Entry, Given, Typed};
pub use error::{Error, Place, Result};
pub use evaluate::{Score, evaluate, evaluate_finished};
pub use event::{Event, Metrics, Observer, Timing};
pub use method::{Decision, End, EpochStart, Filters, Method, Plan, Product, Saved, Setup};
pub use optimizer::{Group, Id, Optimizer};
pub use recipe::Recipe;
pub use run::{
    CHECKPOINT, COMPACT, CONFIG, MAX_TABLE_BYTES, METRICS, PRODUCTS, RunFolder, SUMMARY, TIMING,
};
pub use schedule::{Cosine, GeometricWarmup, Schedule, geometric};
pub use seed::{Purpose, derive_seed};
pub use selection::{LayerSelection, SELECTION, SelectionRow, read_selection};
pub use stage::{DENSE, FINETUNE, Stage, StageCost, TRAIN};
pub use step::{Pass, Progress, Step, StepGradients, StepOutput, cross_entropy_step};
pub use summary::{Cost, Outcome, ProductSummary, Summary, Width};
pub use tensorboard::EVENTS;
pub use trainer::{Builder, Ending, Trainer};
