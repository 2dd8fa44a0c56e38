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
mod collect;
mod config;
mod dense;
mod error;
mod evaluate;
mod event;
mod method;
pub mod methods;
mod on_card;
mod optimizer;
mod run;
mod schedule;
mod seed;
mod selection;
mod stage;
mod summary;
mod tensorboard;
pub mod toml_file;
mod trainer;

pub use checkpoint::{CHECKPOINT, Checkpoint, Position};
pub use collect::{Collected, Probe};
pub use config::{Augment, DataConfig, MethodConfig, Recipe, RunConfig, forget_places};
/// What feature maps are stored in; [`Recipe::precision`].
pub use dcff_nn::Precision;
pub use dense::DenseFrom;
pub use error::{Error, Place, Result};
pub use evaluate::{Score, evaluate, evaluate_finished};
pub use event::{Event, Metrics, Observer, Timing};
pub use method::{EpochStart, EpochViews, Method, StepOutput, cross_entropy_step};
pub use optimizer::Sgd;
pub use run::{CONFIG, METRICS, RunFolder, SUMMARY, TIMING};
pub use schedule::Schedule;
pub use seed::{Purpose, derive_seed};
pub use selection::{LayerSelection, SELECTION, SelectionRow, read_selection};
pub use stage::{DENSE, FINETUNE, Stage, StageCost, TRAIN};
pub use summary::{Cost, Outcome, Summary, Width};
pub use tensorboard::EVENTS;
pub use trainer::{COMPACT, Data, Ending, Trainer};
