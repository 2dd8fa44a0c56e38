//! `selection.jsonl`: what was selected and why, a row per epoch that selected.
//!
//! ```text
//! {"epoch":1,"layers":[{"layer":"conv1","temperature":1.0,"entropy":2.77,"overlap":null,"rank_correlation":null,
//!                       "kept":[0,3,7],"scores":[0.5,0.1,…]}]}
//! ```
//!
//! Rows are appended when the selection is made, before the epoch's first step, and hold no times.
//! Scores make the file too large to be written anew every epoch; a run that goes on from a checkpoint drops the rows of
//! epochs that it will start again, so that an interrupted run leaves the file of an uninterrupted one.

use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The file's name in a run folder.
pub const SELECTION: &str = "selection.jsonl";

/// Rows are some 50 KB; this is room for ten thousand epochs.
const MAX_BYTES: u64 = 512 << 20;

/// What was selected at the start of one epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SelectionRow {
    /// Counted from 1.
    pub epoch: usize,
    /// The scored convolutions in the order of computation.
    pub layers: Vec<LayerSelection>,
}

/// What was selected of one convolution.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerSelection {
    /// Its name.
    pub layer: String,
    /// The temperature of the softmax over distances.
    pub temperature: f64,
    /// Mean entropy of the coefficients' rows, in nats; 0 where each kept filter is itself.
    pub entropy: f64,
    /// The share of the kept filters that was kept before, 0 to 1.
    pub overlap: Option<f64>,
    /// Spearman's rank correlation with the scores before, -1 to 1.
    pub rank_correlation: Option<f64>,
    /// The kept filters, of those that the layer had: one that stays keeps its place.
    pub kept: Vec<usize>,
    /// One score per filter; high means "keep". What no `f32` can hold is its largest.
    pub scores: Vec<f32>,
}

impl LayerSelection {
    /// Scores as they are written. JSON has no infinities, and at temperatures beyond 1e36 divergences exceed `f32`.
    pub fn narrowed(scores: &[f64]) -> Vec<f32> {
        scores
            .iter()
            .map(|&score| (score as f32).clamp(f32::MIN, f32::MAX))
            .collect()
    }
}

/// Appends a row to the file `path`.
///
/// # Errors
/// When it cannot be written.
pub fn append(path: &Path, row: &SelectionRow) -> Result<()> {
    let mut line = serde_json::to_vec(row).map_err(|error| Error::file(path, error))?;
    line.push(b'\n');
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)?;
        file.write_all(&line)?;
        file.sync_data()
    };
    write().map_err(|error| Error::file(path, error))
}

/// Keeps the rows of the first `epochs` epochs: drops those that the run will write again, and a last row that was cut off.
///
/// # Errors
/// When the file cannot be read or written.
pub fn rewind(path: &Path, epochs: usize) -> Result<()> {
    let Some(text) = dcff_file::read_text_if_any(path, MAX_BYTES)? else {
        return Ok(());
    };
    let kept: String = text
        .split_inclusive('\n')
        .take_while(|line| {
            line.ends_with('\n')
                && serde_json::from_str::<SelectionRow>(line).is_ok_and(|row| row.epoch <= epochs)
        })
        .collect();
    if kept.len() < text.len() {
        dcff_file::write(path, kept.as_bytes())?;
    }
    Ok(())
}

/// The last row of the file `path`, if there is one.
///
/// # Errors
/// When it cannot be read, or is unsound.
pub fn last_selection(path: &Path) -> Result<Option<SelectionRow>> {
    let Some(text) = dcff_file::read_text_if_any(path, MAX_BYTES)? else {
        return Ok(None);
    };
    let last = text.lines().last().map(serde_json::from_str).transpose();
    last.map_err(|error| Error::file(path, error))
}

/// Reads the file `path`; without one there are no rows.
///
/// # Errors
/// When it cannot be read or a row is unsound.
pub fn read_selection(path: &Path) -> Result<Vec<SelectionRow>> {
    let Some(text) = dcff_file::read_text_if_any(path, MAX_BYTES)? else {
        return Ok(Vec::new());
    };
    let rows = text.lines().enumerate().map(|(i, line)| {
        serde_json::from_str(line)
            .map_err(|error| Error::file(path, format!("row {}: {error}", i + 1)))
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(epoch: usize) -> SelectionRow {
        SelectionRow {
            epoch,
            layers: vec![LayerSelection {
                layer: "conv1".into(),
                temperature: 1.0,
                entropy: 0.5,
                overlap: None,
                rank_correlation: Some(-0.25),
                kept: vec![0, 2],
                scores: vec![0.1, 0.0, 3.0],
            }],
        }
    }

    #[test]
    fn a_row_is_one_line() {
        assert_eq!(
            serde_json::to_string(&row(1)).unwrap(),
            r#"{"epoch":1,"layers":[{"layer":"conv1","temperature":1.0,"entropy":0.5,"overlap":null,"rank_correlation":-0.25,"kept":[0,2],"scores":[0.1,0.0,3.0]}]}"#
        );
    }

    #[test]
    fn rewinds_to_what_a_checkpoint_knows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(SELECTION);
        let epochs = || -> Vec<usize> {
            let rows = read_selection(&path).unwrap();
            rows.iter().map(|row| row.epoch).collect()
        };
        rewind(&path, 0).unwrap();
        assert!(epochs().is_empty());
        for epoch in 1..=4 {
            append(&path, &row(epoch)).unwrap();
        }
        let cut = std::fs::read_to_string(&path).unwrap() + "{\"epoch\":5,\"lay";
        std::fs::write(&path, cut).unwrap();
        rewind(&path, 4).unwrap();
        assert_eq!(epochs(), [1, 2, 3, 4]);
        rewind(&path, 3).unwrap();
        assert_eq!(epochs(), [1, 2, 3]);
        rewind(&path, 0).unwrap();
        assert!(epochs().is_empty());
    }
}
