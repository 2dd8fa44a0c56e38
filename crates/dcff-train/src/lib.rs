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
//! [`Trainer`] knows no method, criterion or data set by name; [`methods`] is where names become objects.
//!
//! A run is a folder, whose record is `dcff-run`'s ([`RunConfig`], [`RunFolder`], [`Summary`]); this crate writes it, and
//! [`Known`] says what the names in it stand for.
//!
//! This crate deliberately does not print, and reads neither arguments nor the environment: it reports [`Event`]s.
//!
//! # Example
//! ```
//! use std::sync::atomic::AtomicBool;
//! use candle_core::Device;
//! use dcff_data::{SyntheticConfig, find, synthetic};
//! use dcff_train::{Data, Ending, Event, MethodConfig, Recipe, RunConfig, RunFolder, Trainer};
//!
//! let (info, sizes) = (find("synthetic")?, SyntheticConfig { train: 40, test: 20, seed: 1 });
//! let data = Data::new(synthetic(&sizes)?, info.normalisation.clone(), info.augmentation);
//! // The dense network for an epoch; `dcff`, `select` and `prune` are methods with settings.
//! let recipe = Recipe { batch_size: 20, ..Recipe::quick(1) };
//! let (source, method) = (data.config("synthetic", 0.0), MethodConfig::named("dense"));
//! let config = RunConfig::new("resnet20", 1, source, method, recipe);
//! let full = dcff_models::by_name("resnet20")?;
//! let scratch = tempfile::tempdir()?;
//! let folder = RunFolder::create(&scratch.path().join("run"), &config)?;
//! let mut trainer = Trainer::builder(folder, config, &full, &data, &Device::Cpu).build()?;
//! let ending = trainer.run(&mut |_: &Event<'_>| {}, &AtomicBool::new(false))?;
//! let Ending::Finished(summary) = ending else { unreachable!("nobody asked it to stop") };
//! assert_eq!(summary.last.epoch, 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod checkpoint;
mod clock;
mod collect;
mod costs;
mod data;
mod dense;
pub mod distillation;
mod entry;
mod error;
mod evaluate;
mod event;
mod hash;
mod known;
mod method;
pub mod methods;
mod on_gpu;
mod optimizer;
pub mod optimizers;
mod places;
mod random;
mod recalibrate;
mod recipe;
mod seed;
mod stage;
mod step;
mod tensorboard;
pub mod testing;
mod trainer;

pub use checkpoint::{Checkpoint, Position};
pub use collect::{Collected, Probe};
pub use costs::{check_costs, full_of};
pub use data::{Data, augmentation};
pub use dcff_compact::Slice;
pub use dcff_run::{
    Augment, CHECKPOINT, COMPACT, CONFIG, Cosine, Cost, DataConfig, DenseFrom, Description, Distil,
    GeometricWarmup, LayerSelection, METRICS, MethodConfig, Metrics, Outcome, PRODUCTS, Precision,
    ProductSummary, Recipe, RunConfig, RunFolder, SELECTION, SUMMARY, Schedule, Score,
    SelectionRow, Settings, StageCost, Summary, TIMING, Timing, Width, geometric, toml_file,
};
pub use dense::{check_dense, dense_of};
pub use entry::{Context, Entry, Given, Typed};
pub use error::{Error, Place, Result};
pub use evaluate::{evaluate, evaluate_finished};
pub use event::{Event, Observer};
pub use known::Known;
pub use method::{
    Decision, End, EpochEnd, EpochStart, Filters, Method, Plan, Product, Saved, Setup,
};
pub use optimizer::{Group, Id, Optimizer};
pub use places::{forget_places, without_place};
pub use recalibrate::recalibrate;
pub use recipe::{configure, full_network, quick_for, stored};
pub use seed::{Purpose, derive_seed};
pub use stage::{DENSE, FINETUNE, SEARCH, Stage, TRAIN};
pub use step::{Pass, Progress, Step, StepGradients, StepOutput, cross_entropy_step};
pub use tensorboard::EVENTS;
pub use trainer::{Builder, Ending, Extracted, Trainer};
