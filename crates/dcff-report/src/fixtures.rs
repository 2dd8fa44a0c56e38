//! Made-up runs for the tests of this crate.

use std::path::Path;

use dcff_run::{
    Cost, DataConfig, MethodConfig, Metrics, Outcome, Recipe, Registry, RunConfig, RunFolder,
    SUMMARY, Score, Summary, Width,
};
use dcff_train::methods::FilterFusionConfig;

use crate::run::Run;

/// The program's own methods and networks.
pub(crate) const KNOWN: &dyn Registry = &dcff_train::Known;

/// A configuration of ResNet-20 with `criterion`, `keep` and `temperature`.
pub(crate) fn config(criterion: &str, keep: &str, temperature: &str, seed: u64) -> RunConfig {
    let data = DataConfig {
        train_fingerprint: "a".into(),
        test_fingerprint: "b".into(),
        ..DataConfig::named("synthetic", 0.0)
    };
    let fusion: FilterFusionConfig = serde_json::from_value(serde_json::json!({
        "criterion": criterion,
        "keep": keep,
        "temperature": temperature,
        "rates": "0.5",
    }))
    .unwrap();
    RunConfig::new(
        "resnet20",
        seed,
        data,
        MethodConfig::new("dcff", fusion).unwrap(),
        Recipe::quick(2),
    )
}

/// The folder of a finished run whose accuracy is `percent`, below `root`.
pub(crate) fn finished(root: &Path, config: RunConfig, percent: f64) -> Run {
    let folder = root.join(format!("run{}", std::fs::read_dir(root).unwrap().count()));
    RunFolder::create(&folder, &config).unwrap();
    let score = Score {
        loss: 1.0,
        accuracy: percent / 100.0,
    };
    let metrics: Metrics = serde_json::from_value(serde_json::json!({
        "epoch": 1, "learning_rate": 0.1, "train": score, "method": { "entropy": 0.5 },
    }))
    .unwrap();
    let row = serde_json::to_string(&metrics).unwrap() + "\n";
    std::fs::write(folder.join(dcff_run::METRICS), row).unwrap();
    let outcome = Outcome {
        epoch: 2,
        test: score,
        validation: None,
    };
    let half = Cost {
        full: 200,
        compact: 100,
    };
    let summary = Summary {
        config,
        method: None,
        last: outcome,
        chosen: outcome,
        chosen_by: "last".into(),
        widths: vec![Width {
            space: "conv1".into(),
            kept: 8,
            of: 16,
        }],
        macs: half,
        published_ops: half,
        params: half,
        constants: 0,
        training_macs: 3_000,
        stages: Vec::new(),
        train_images: 10,
        seconds: 1.0,
        images_per_second: 20.0,
        device: "cpu".into(),
        threads: 1,
        dcff_version: "0.1.0".into(),
        products: Vec::new(),
    };
    std::fs::write(
        folder.join(SUMMARY),
        serde_json::to_string(&summary).unwrap(),
    )
    .unwrap();
    Run::read(&folder, KNOWN).unwrap()
}

/// Runs of one method, a seed from 1 on for each accuracy in percent.
pub(crate) fn seeds(
    root: &Path,
    criterion: &str,
    keep: &str,
    temperature: &str,
    percent: &[f64],
) -> Vec<Run> {
    let run = |(seed, &percent): (u64, &f64)| {
        finished(root, config(criterion, keep, temperature, seed), percent)
    };
    (1..).zip(percent).map(run).collect()
}
