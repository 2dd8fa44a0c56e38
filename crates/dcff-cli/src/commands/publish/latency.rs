//! Latency for the card: measured once, kept in the run's folder.

use std::path::Path;
use std::time::Instant;

use anyhow::Context;
use candle_core::{Device, Tensor};
use dcff_compact::Artefact;
use dcff_models::{Architecture, InferenceNetwork, Network, Views};
use serde::{Deserialize, Serialize};

/// The file in the run's folder.
const FILE: &str = "latency.json";
/// Images per pass.
const BATCHES: [usize; 2] = [1, 32];
/// Passes that are measured, after one that is not.
const ROUNDS: usize = 15;

/// Time of forward passes, full and compact in turns.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Latency {
    pub(super) device: String,
    pub(super) threads: usize,
    pub(super) rounds: usize,
    pub(super) rows: Vec<Row>,
}

/// Medians of one batch size, in milliseconds a pass.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) batch: usize,
    pub(super) full_ms: f64,
    pub(super) compact_ms: f64,
}

/// What an earlier measurement left in the folder `run`.
pub(super) fn read(run: &Path) -> anyhow::Result<Option<Latency>> {
    let path = run.join(FILE);
    let text = dcff_file::read_if_any(&path, dcff_compact::MAX_CONFIG_BYTES)?;
    let rows = text.map(|text| serde_json::from_slice(&text)).transpose();
    rows.with_context(|| path.display().to_string())
}

/// Measures the network beside its `full` form and keeps the result in the folder `run`.
pub(super) fn measure(run: &Path, artefact: &Artefact, full: &Architecture) -> anyhow::Result<()> {
    let prepared = |network: Network| InferenceNetwork::new(&network, &Views::dense());
    // Speed does not depend on what the weights are.
    let full = prepared(Network::new(full, full, 0, &Device::Cpu)?)?;
    let compact = prepared(artefact.network(&Device::Cpu)?)?;
    let [c, h, w] = artefact.config.architecture.input;
    let mut rows = Vec::new();
    for batch in BATCHES {
        let images = Tensor::zeros((batch, c, h, w), candle_core::DType::F32, &Device::Cpu)?;
        let mut times = [Vec::new(), Vec::new()];
        for round in 0..=ROUNDS {
            // The two take turns, so that a busy moment of the machine meets both.
            for (network, times) in [&full, &compact].into_iter().zip(&mut times) {
                let start = Instant::now();
                network.forward(&images)?;
                if round > 0 {
                    times.push(1e3 * start.elapsed().as_secs_f64());
                }
            }
        }
        let [full_ms, compact_ms] = times.map(|mut times| {
            times.sort_by(f64::total_cmp);
            times[ROUNDS / 2]
        });
        rows.push(Row {
            batch,
            full_ms,
            compact_ms,
        });
    }
    let latency = Latency {
        device: "cpu".into(),
        threads: rayon::current_num_threads(),
        rounds: ROUNDS,
        rows,
    };
    let text = serde_json::to_string_pretty(&latency)?;
    Ok(dcff_file::write(
        &run.join(FILE),
        format!("{text}\n").as_bytes(),
    )?)
}
