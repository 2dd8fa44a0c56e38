//! KDFS as a user runs it: a dense teacher, a search and a fine-tuning; interrupted in either, resumed, with another run as teacher, and
//! refused where something does not fit.

use std::path::Path;

use dcff_tests::program::{
    dcff, evaluated, json, refused, rows, run, same_files, short_run, succeeded, workshop,
};
use serde_json::Value;

/// The arguments of a short run by KDFS, unless `more` says another method.
fn train(images: &Path, out: &Path, more: &[&str]) -> Vec<String> {
    let kdfs = match more.contains(&"--method") {
        true => &[][..],
        false => &["--method", "kdfs"],
    };
    short_run(images, out, &[kdfs, more].concat())
}

const STAGES: [&str; 6] = [
    "--dense-epochs",
    "1",
    "--search-epochs",
    "2",
    "--finetune-epochs",
    "1",
];

#[test]
fn searches_lands_fine_tunes_and_exports() {
    let (dir, images) = workshop();
    let out = dir.path().join("run");
    let more = [&STAGES[..], &["--target-macs", "40%", "--land", "exactly"]].concat();
    succeeded(run(train(&images, &out, &more)));

    let metrics = rows(&out.join("metrics.jsonl"));
    let stages: Vec<&str> = metrics
        .iter()
        .map(|row| row["stage"].as_str().unwrap())
        .collect();
    assert_eq!(stages, ["dense", "search", "search", "finetune"]);
    let search = &metrics[1]["method"];
    for term in ["cross_entropy", "distillation", "reconstruction", "cost"] {
        let value = search[format!("loss_{term}")].as_f64().unwrap();
        assert!(value.is_finite() && value >= 0.0, "{term}: {value}");
    }
    // 1 to 0.1 by equal factors, in two epochs.
    assert!((search["temperature"].as_f64().unwrap() - 0.1f64.sqrt()).abs() < 1e-12);
    for share in ["macs_sampled", "macs_likeliest"] {
        let share = search[share].as_f64().unwrap();
        assert!(share > 0.2 && share < 0.6, "{share}");
    }
    let total: f64 = ["cross_entropy", "distillation", "reconstruction", "cost"]
        .map(|term| search[format!("loss_{term}")].as_f64().unwrap())
        .iter()
        .sum();
    assert!((metrics[1]["train"]["loss"].as_f64().unwrap() / total - 1.0).abs() < 1e-9);

    // As many filters as meet the target to one in a hundred, and the compact network has them.
    let landed = metrics[3]["method"]["macs_likeliest"].as_f64().unwrap();
    assert!((landed / 0.4 - 1.0).abs() < 0.01, "{landed}");
    let summary = json(&out.join("summary.json"));
    let number = |value: &Value| value.as_u64().unwrap() as f64;
    let (full, compact) = (
        number(&summary["macs"]["full"]),
        number(&summary["macs"]["compact"]),
    );
    assert!(
        (compact / full - landed).abs() < 1e-9,
        "{compact} of {full}"
    );
    // Border maps of what was removed: 9 numbers for a channel of a 3x3 convolution, one behind a block.
    let (constants, params) = (
        number(&summary["constants"]),
        number(&summary["params"]["compact"]),
    );
    assert!(
        constants > 100.0 && constants < 0.1 * params,
        "{constants} of {params}"
    );
    let selection = rows(&out.join("selection.jsonl"));
    assert_eq!((selection.len(), &selection[0]["epoch"]), (1, &4.into()));
    assert_eq!(selection[0]["layers"].as_array().unwrap().len(), 18);

    // The teacher and the decoders are counted: a forward pass, and three of 16x16 filters over 32x32 pixels and so on.
    let stage = |i: usize, field: &str| number(&summary["stages"][i][field]);
    let decoders = 3.0 * (16.0 * 16.0 * 1024.0 + 32.0 * 32.0 * 256.0 + 64.0 * 64.0 * 64.0);
    assert_eq!(stage(1, "training_macs"), 3.0 * 2.0 * 48.0 * full);
    assert_eq!(stage(1, "scoring_macs"), 2.0 * 48.0 * (full + decoders));

    // What was evaluated is what is written.
    let eval = evaluated(&out, &images, &[]);
    assert_eq!(eval["accuracy"], summary["chosen"]["test"]["accuracy"]);
    assert_eq!(
        summary["chosen"]["test"]["accuracy"],
        summary["last"]["test"]["accuracy"]
    );
}

/// Ends a run while epoch `epoch` is trained, continues it, and compares with a run that was not ended.
#[cfg(unix)]
fn interrupted(epoch: usize) {
    use std::process::Stdio;
    let (dir, images) = workshop();
    let (whole, broken) = (dir.path().join("whole"), dir.path().join("broken"));
    let more = [&STAGES[..], &["--threads", "1"]].concat();
    succeeded(run(train(&images, &whole, &more)));
    let mut child = dcff();
    child
        .args(train(&images, &broken, &more))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = child.spawn().unwrap();
    // The checkpoint of the epochs before is there.
    let metrics = broken.join("metrics.jsonl");
    loop {
        let done = std::fs::read_to_string(&metrics).map_or(0, |text| text.lines().count());
        if done >= epoch - 1 || child.try_wait().unwrap().is_some() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    succeeded(run([
        "train".as_ref(),
        "--resume".as_ref(),
        broken.as_os_str(),
        "--threads".as_ref(),
        "2".as_ref(),
    ]));
    let files = [
        "metrics.jsonl",
        "selection.jsonl",
        "compact/model.safetensors",
        "compact/config.json",
    ];
    same_files(&whole, &broken, &files);
}

#[cfg(unix)]
#[test]
fn a_search_that_was_killed_ends_the_same() {
    interrupted(3);
}

#[cfg(unix)]
#[test]
fn a_fine_tuning_that_was_killed_ends_the_same() {
    interrupted(4);
}

/// Makes the first number of `tensor` in a file of safetensors so large that its square is infinite.
fn too_large(file: &Path, tensor: &str) {
    let mut bytes = std::fs::read(file).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let first = header[tensor]["data_offsets"][0].as_u64().unwrap() as usize;
    let at = 8 + length + first;
    bytes[at..at + 4].copy_from_slice(&1e30f32.to_le_bytes());
    std::fs::write(file, bytes).unwrap();
}

#[test]
fn another_run_teaches_and_plain_slicing_collects_statistics() {
    let (dir, images) = workshop();
    let (dense, taught) = (dir.path().join("dense"), dir.path().join("taught"));
    succeeded(run(train(
        &images,
        &dense,
        &["--method", "dense", "--epochs", "1"],
    )));
    let teacher = dense.display().to_string();
    let stages = [
        "--search-epochs",
        "1",
        "--finetune-epochs",
        "1",
        "--teacher",
        &teacher,
    ];
    let more = [&stages[..], &["--export", "slice", "--target-macs", "50%"]].concat();
    succeeded(run(train(&images, &taught, &more)));
    let stages: Vec<Value> = rows(&taught.join("metrics.jsonl"))
        .into_iter()
        .map(|row| row["stage"].clone())
        .collect();
    assert_eq!(stages, ["search", "finetune"]);
    let config = json(&taught.join("compact/config.json"));
    let layers = config["architecture"]["layers"].as_array().unwrap();
    let count = |kind: &str| layers.iter().filter(|layer| layer["type"] == kind).count();
    assert!(count("scatter") > 0 && count("offset") == 0);

    // A missing teacher, one of another network, and one that has changed.
    let failed = |out: &str, teacher: &str, more: &[&str]| {
        let out = dir.path().join(out);
        let base = [
            "--search-epochs",
            "1",
            "--finetune-epochs",
            "1",
            "--teacher",
            teacher,
        ];
        let outcome = run(train(&images, &out, &[&base[..], more].concat()));
        assert!(!out.exists(), "something was written");
        refused(outcome)
    };
    let nowhere = dir.path().join("nowhere").display().to_string();
    let message = failed("a", &nowhere, &[]);
    assert!(
        message.contains("--teacher: ") && message.contains("no such file"),
        "{message}"
    );
    let message = failed("b", &teacher, &["--arch", "resnet32"]);
    assert!(
        message.contains("expected the whole resnet32") && message.contains("got resnet20"),
        "{message}"
    );
    let message = failed("c", &teacher, &["--dense-epochs", "1"]);
    assert!(
        message.contains("--dense-epochs: expected 0 beside a teacher, got 1"),
        "{message}"
    );
    let narrow = taught.display().to_string();
    let message = failed("d", &narrow, &[]);
    assert!(message.contains("another form of it"), "{message}");

    // A term that is not finite is named.
    too_large(&dense.join("dense/model.safetensors"), "layer3.2.bn2.bias");
    let out = dir.path().join("nan");
    let more = [
        "--search-epochs",
        "1",
        "--finetune-epochs",
        "1",
        "--teacher",
        &teacher,
    ];
    let outcome = run(train(&images, &out, &more));
    assert_eq!(outcome.code, Some(2), "{}", outcome.stderr);
    let expected =
        "the loss's term reconstruction is NaN at epoch 1, step 1: there is no checkpoint yet";
    assert!(outcome.stderr.contains(expected), "{}", outcome.stderr);
}

#[test]
fn what_cannot_be_is_said_in_a_line() {
    let (dir, images) = workshop();
    let out = dir.path().join("run");
    for (more, expected) in [
        (
            &["--target-macs", "0%"][..],
            "--target-macs: expected a share such as 25% or a whole number, got '0%'",
        ),
        (
            &["--target-macs", "120%"],
            "--target-macs: expected a share such as 25% or a whole number, got '120%'",
        ),
        (
            &["--target-macs", "0.5%"],
            "--target-macs: expected more than the ",
        ),
        (
            &["--set", "taps=[\"layer9\"]"],
            "method.taps: resnet20 has no layer 'layer9'",
        ),
        (
            &["--land", "softly"],
            "--land: unknown variant `softly`, expected `likeliest` or `exactly`",
        ),
        (&["--rates", "0.5"], "--rates: belongs to --method "),
        (
            &[
                "--epochs",
                "3",
                "--dense-epochs",
                "2",
                "--finetune-epochs",
                "1",
            ],
            "--epochs: expected at least 4, 2 of them dense, 1 of search and 1 of fine-tuning, got 3",
        ),
    ] {
        let outcome = run(train(&images, &out, more));
        assert_eq!(outcome.code, Some(2), "{more:?}: {}", outcome.stderr);
        assert!(
            outcome.stderr.contains(expected),
            "{more:?}: {}",
            outcome.stderr
        );
        assert_eq!(outcome.stderr.lines().count(), 1, "{}", outcome.stderr);
        assert!(!out.exists());
    }
}
