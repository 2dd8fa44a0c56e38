//! Classical pruning as a user runs it: dense stage, pruning, fine-tuning; interrupted, resumed, from another run's dense
//! network; and budgets.

use std::path::Path;
use std::process::Stdio;

use dcff_tests::program::{
    dcff, evaluated, json, read, rows, run, same_files, short_run, succeeded, workshop,
};
use serde_json::Value;

/// The arguments of a short run.
fn train(images: &Path, out: &Path, more: &[&str]) -> Vec<String> {
    short_run(images, out, &[&["--batch-size", "10"], more].concat())
}

const PRUNE: [&str; 8] = [
    "--pipeline",
    "prune",
    "--rates",
    "0.5",
    "--dense-epochs",
    "2",
    "--finetune-epochs",
    "2",
];

fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&PRUNE, more].concat()
}

#[test]
fn trains_dense_prunes_and_fine_tunes() {
    let (dir, images) = workshop();
    let out = dir.path().join("run");
    succeeded(run(train(
        &images,
        &out,
        &with(&["--criterion", "taylor-weight"]),
    )));

    let stages: Vec<Value> = rows(&out.join("metrics.jsonl"))
        .into_iter()
        .map(|row| row["stage"].clone())
        .collect();
    assert_eq!(stages, ["dense", "dense", "finetune", "finetune"]);
    let rates: Vec<f64> = rows(&out.join("metrics.jsonl"))
        .iter()
        .map(|row| row["learning_rate"].as_f64().unwrap())
        .collect();
    // Half a cosine over each stage, the second from a tenth.
    assert!(rates[1] < 0.002 && rates[2] > 0.001 && rates[2] <= 0.002 && rates[3] < 0.0002);

    let selection = rows(&out.join("selection.jsonl"));
    assert_eq!(selection.len(), 1);
    assert_eq!(selection[0]["epoch"], 3);
    let kept = |layer: usize| {
        let ids = selection[0]["layers"][layer]["kept"].as_array().unwrap();
        ids.iter()
            .map(|id| id.as_u64().unwrap())
            .collect::<Vec<_>>()
    };
    // All convolutions that write to a stage keep the same channels.
    assert_eq!(kept(0), kept(2));
    assert_eq!(kept(0).len(), 8);

    let summary = json(&out.join("summary.json"));
    let number = |value: &Value| value.as_u64().unwrap();
    let (full, compact) = (
        number(&summary["macs"]["full"]),
        number(&summary["macs"]["compact"]),
    );
    let cost = |stage: usize, field: &str| number(&summary["stages"][stage][field]);
    assert_eq!(cost(0, "training_macs"), 3 * 2 * 48 * full);
    assert_eq!(cost(1, "training_macs"), 3 * 2 * 48 * compact);
    // All 48 images, as there are fewer than 256.
    assert_eq!(cost(1, "scoring_macs"), 3 * 48 * full);
    assert_eq!(
        number(&summary["training_macs"]),
        (288 + 144) * full + 288 * compact
    );
    assert!(out.join("dense/model.safetensors").exists());

    let eval = evaluated(&out, &images, &[]);
    assert_eq!(eval["accuracy"], summary["chosen"]["test"]["accuracy"]);
    let config = json(&out.join("compact/config.json"));
    assert_eq!(config["architecture"]["spaces"][0]["width"], 8);
}

/// Ends a run once `file` is there, continues it, and compares with a run that was not ended.
#[cfg(unix)]
fn interrupted(file: &str, more: &[&str]) {
    let (dir, images) = workshop();
    let (whole, broken) = (dir.path().join("whole"), dir.path().join("broken"));
    let more = [
        &["--threads", "1", "--pipeline", "prune", "--rates", "0.5"],
        more,
    ]
    .concat();
    succeeded(run(train(&images, &whole, &more)));
    let mut child = dcff()
        .args(train(&images, &broken, &more))
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    while !broken.join(file).exists() {
        assert!(child.try_wait().unwrap().is_none(), "the run ended early");
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!broken.join("summary.json").exists());
    succeeded(run([
        "train".as_ref(),
        "--resume".as_ref(),
        broken.as_os_str(),
    ]));
    let files = [
        "config.toml",
        "metrics.jsonl",
        "selection.jsonl",
        "dense/model.safetensors",
        "compact/model.safetensors",
    ];
    same_files(&whole, &broken, &files);
}

#[cfg(unix)]
#[test]
fn killed_in_the_dense_stage_it_prunes_alike() {
    let stages = ["--dense-epochs", "8", "--finetune-epochs", "2"];
    interrupted(
        "timing.jsonl",
        &[&stages[..], &["--criterion", "chip"]].concat(),
    );
}

#[cfg(unix)]
#[test]
fn killed_between_two_prunings_it_prunes_alike() {
    let stages = ["--dense-epochs", "1", "--finetune-epochs", "10"];
    let more = ["--prune-steps", "2", "--criterion", "bn-scale"];
    interrupted("selection.jsonl", &[&stages[..], &more].concat());
}

#[test]
fn a_dense_network_serves_several_runs() {
    let (dir, images) = workshop();
    let folder = |name: &str| dir.path().join(name);
    let (own, dense) = (folder("own"), folder("dense"));
    succeeded(run(train(&images, &own, &with(&["--criterion", "fpgm"]))));
    succeeded(run(train(
        &images,
        &dense,
        &["--method", "dense", "--epochs", "2"],
    )));
    assert!(read(&own.join("dense/model.safetensors")).len() > 1_000_000);
    for source in [&own, &dense] {
        let taken = folder(&format!("from-{}", source.file_name().unwrap().display()));
        let from = source.display().to_string();
        let more = with(&["--criterion", "fpgm", "--dense-from", &from]);
        succeeded(run(train(&images, &taken, &more)));
        // As if it had trained the dense network itself.
        for row in 0..4 {
            let [a, b] = [&own, &taken].map(|run| rows(&run.join("metrics.jsonl"))[row].clone());
            assert_eq!((&a["train"], &a["epoch"]), (&b["train"], &b["epoch"]));
        }
        assert!(read(&own.join("selection.jsonl")) == read(&taken.join("selection.jsonl")));
        let [a, b] = [&own, &taken].map(|run| json(&run.join("summary.json")));
        assert_eq!(a["last"], b["last"]);
        assert_eq!(a["training_macs"], b["training_macs"]);
        assert_eq!(b["stages"][0]["reused"], true);
        assert_eq!(a["stages"][0]["reused"], false);
    }
    let refused = |more: &[&str]| {
        let from = own.display().to_string();
        let more = with(&[more, &["--dense-from", &from]].concat());
        let out = folder("refused");
        let outcome = run(train(&images, &out, &more));
        assert_eq!(outcome.code, Some(2), "{}", outcome.stderr);
        assert!(!out.exists());
        outcome.stderr
    };
    assert!(
        refused(&["--seed", "2"])
            .contains("another dense stage than this run's: seed: expected 2, got 1")
    );
    assert!(refused(&["--momentum", "0.5"]).contains("recipe.momentum: expected 0.5, got 0.9"));
    assert!(
        refused(&["--criterion", "bn-scale"]).contains("scale_penalty: expected 0.0001, got 0.0")
    );
}

#[test]
fn a_budget_sets_the_widths() {
    let count = |more: &[&str]| {
        let args = [&["flops", "--arch", "resnet56", "--json"], more].concat();
        let outcome = succeeded(run(args));
        let object: Value = serde_json::from_str(&outcome.stdout).unwrap();
        let of = |side: &str, what: &str| object[side][what].as_f64().unwrap();
        (
            of("compact", "ops") / of("full", "ops"),
            of("compact", "params") / of("full", "params"),
        )
    };
    let (macs, _) = count(&["--target-macs", "25%"]);
    assert!((0.2475..=0.25).contains(&macs), "{macs}");
    let (_, params) = count(&["--target-params", "10%"]);
    assert!((0.099..=0.1).contains(&params), "{params}");

    let (dir, images) = workshop();
    let out = dir.path().join("run");
    let more = [
        "--pipeline",
        "prune",
        "--epochs",
        "2",
        "--target-macs",
        "30%",
        "--allocation",
        "global",
        "--criterion",
        "l2-norm",
    ];
    succeeded(run(train(&images, &out, &more)));
    let summary = json(&out.join("summary.json"));
    let [full, compact] = ["full", "compact"].map(|side| summary["macs"][side].as_f64().unwrap());
    assert!(
        (0.297..=0.3).contains(&(compact / full)),
        "{compact} of {full}"
    );
}

#[test]
fn refuses_what_does_not_fit_together() {
    let (dir, images) = workshop();
    let out = dir.path().join("run");
    for (more, expected) in [
        (
            &["--rates", "0.5", "--allocation", "global"][..],
            "--allocation",
        ),
        (
            &["--target-macs", "30%", "--allocation", "global"],
            "expected --method prune",
        ),
        (
            &["--target-macs", "30%", "--allocation", "bogus"],
            "'bogus' for '--allocation <NAME>' [possible values: uniform, global]",
        ),
        (
            &["--rates", "0.5", "--allocation", "uniform"],
            "--allocation: expected --target-macs or --target-params beside it, got --rates",
        ),
        (
            &["--rates", "0.5", "--min-keep", "0.9"],
            "--min-keep: expected --target-macs or --target-params beside it, got --rates",
        ),
        (
            &["--method", "dense", "--min-keep", "0.5"],
            "--min-keep: belongs to --method dcff, select or prune, got --method dense",
        ),
        (
            &["--method", "dense", "--allocation", "uniform"],
            "--allocation: belongs to --method dcff, select or prune, got --method dense",
        ),
        (
            &["--target-macs", "30%", "--min-keep", "1.5"],
            "--min-keep: expected 0 to 1, got 1.5",
        ),
        (
            &["--target-macs", "30%", "--round-to", "0"],
            "--round-to: expected at least 1, got 0",
        ),
        (&["--target-macs", "1%"], "--target-macs: expected at least"),
        (
            &["--target-macs", "much"],
            "expected a share such as 25% or a whole number, got 'much'",
        ),
        (
            &["--rates", "0.5", "--round-to", "0"],
            "--round-to: expected at least 1, got 0",
        ),
        (
            &["--rates", "0.5", "--prune-steps", "2"],
            "--prune-steps: belongs to --method prune, got --method dcff",
        ),
        (
            &["--pipeline", "both"],
            "--pipeline: expected dcff, select, prune, kdfs, pss-net or dense, got 'both'",
        ),
        (
            &["--method", "dense", "--rates", "0.5"],
            "--rates: belongs to --method dcff, select or prune, got --method dense",
        ),
        (
            &["--pipeline", "prune", "--rates", "0.5", "--epochs", "1"],
            "method.dense_epochs: expected 1 to 0",
        ),
        (
            &[
                "--pipeline",
                "prune",
                "--rates",
                "0.5",
                "--epochs",
                "4",
                "--prune-steps",
                "9",
            ],
            "--prune-steps: expected 1 to 2, the epochs of fine-tuning, got 9",
        ),
        (
            &[
                "--pipeline",
                "prune",
                "--rates",
                "0.5",
                "--epochs",
                "4",
                "--dense-from",
                "nowhere",
            ],
            "expected a run whose dense stage is done",
        ),
        (
            &[
                "--pipeline",
                "prune",
                "--rates",
                "[0.5]*9+[0.9]+[0.1]*2",
                "--epochs",
                "4",
            ],
            "layer2 cannot be pruned to 28 of 32 channels",
        ),
        (
            &[
                "--pipeline",
                "prune",
                "--epochs",
                "4",
                "--reselect",
                "once",
                "--rates",
                "0.5",
            ],
            "--reselect: belongs to --method dcff or select, got --method prune",
        ),
    ] {
        let outcome = run(train(&images, &out, more));
        assert_eq!(outcome.code, Some(2), "{more:?}: {}", outcome.stderr);
        assert!(
            outcome.stderr.contains(expected),
            "{more:?}: {}",
            outcome.stderr
        );
        assert_eq!(
            outcome.stderr.lines().count(),
            1,
            "{more:?}: {}",
            outcome.stderr
        );
        assert!(!out.exists(), "{more:?} wrote {}", out.display());
    }
    for (more, expected) in [
        (
            &["--rates", "0.5", "--min-keep", "0.3"][..],
            "--min-keep: expected --target-macs or --target-params beside it, got --rates",
        ),
        (
            &["--rates", "0.5", "--allocation", "uniform"],
            "--allocation: expected --target-macs or --target-params beside it, got --rates",
        ),
        (
            &["--target-macs", "20%", "--allocation", "global"],
            "--allocation global needs the scores of a trained network: expected uniform",
        ),
    ] {
        let outcome = run([&["flops", "--arch", "vgg16"], more].concat());
        assert_eq!(
            (outcome.code, outcome.stderr),
            (Some(2), format!("error: {expected}\n"))
        );
    }
}
