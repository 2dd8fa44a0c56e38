//! Reports from run folders: tables with intervals, figures, and a reading in words.
//!
//! ```text
//! run folders --read--> Run --Report::new--> sections, one per network and data set
//!     each: groups (runs that differ only in their seed), comparisons with `random`, figures, words
//!     --write--> report.html, report.md, report.tex, groups.csv, runs.csv, times.csv, figures/*.svg
//! ```
//!
//! A run that failed or is unfinished is a marked row. Accuracies are those on the test images; the difference of two
//! groups is the mean of the differences of runs with the same seed, with a Student interval ([`statistics`]).
//! Everything but times repeats exactly when the runs are repeated; times stand in `times.csv` and in a section at the end
//! of `report.html` and `report.md` that is marked with [`TIMES_BEGIN`] and [`TIMES_END`].
//!
//! The plots are drawn here ([`svg`]): they take their colours from the page, which is light, dark or printed, and each
//! mark knows its run folder; the plotting crates at hand set fixed colours and bring far more than these few kinds of plot.
//!
//! This crate deliberately knows no network's insides and trains nothing: it reads what runs left behind.
//!
//! # Example
//! ```
//! use dcff_report::{Run, Status};
//! use dcff_run::{DataConfig, MethodConfig, Recipe, RunConfig, RunFolder};
//!
//! let data = DataConfig::named("synthetic", 0.0);
//! let config = RunConfig::new("resnet20", 1, data, MethodConfig::named("dense"), Recipe::quick(15));
//! let scratch = tempfile::tempdir()?;
//! let folder = RunFolder::create(&scratch.path().join("run"), &config)?;
//!
//! // What the names in a record stand for is handed in; here it is what the program knows.
//! let run = Run::read(folder.path(), &dcff_train::Known)?;
//! assert!(matches!(run.status, Status::Unfinished));
//! assert_eq!(run.setting("recipe.epochs"), Some("15"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod cells;
mod comparison;
mod contents;
mod error;
mod figures;
#[cfg(test)]
mod fixtures;
mod group;
mod html;
mod published;
mod reading;
mod report;
mod run;
pub mod statistics;
pub mod svg;
pub mod table;
mod text;

pub use cells::Cells;
pub use contents::{TIMES_BEGIN, TIMES_END};
pub use error::{Error, Result};
pub use published::PublishedTable;
pub use report::{Options, Report};
pub use run::{ERROR, Run, Status};
