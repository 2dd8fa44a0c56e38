//! The built program from images to a compact network, as a user runs it.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;

use dcff_tests::program::{
    Outcome, dcff, ended_after_a_checkpoint, json, rows, run, succeeded, workshop, write_images,
};
use serde_json::Value;

/// The arguments of a short run.
fn train(images: &Path, out: &Path, more: &[&str]) -> Vec<String> {
    let fixed = [
        "train",
        "--arch",
        "resnet20",
        "--rates",
        "0.5",
        "--epochs",
        "3",
        "--batch-size",
        "10",
        "--lr",
        "0.02",
        "--schedule",
        "cosine",
    ];
    let mut args: Vec<String> = fixed.iter().map(|a| (*a).to_owned()).collect();
    args.extend([
        "--data".to_owned(),
        images.display().to_string(),
        "--out".to_owned(),
        out.display().to_string(),
    ]);
    args.extend(more.iter().map(|a| (*a).to_owned()));
    args
}

/// What must be equal in two runs of one configuration.
fn bytes(run: &Path) -> [Vec<u8>; 5] {
    [
        "config.toml",
        "metrics.jsonl",
        "selection.jsonl",
        "compact/model.safetensors",
        "compact/config.json",
    ]
    .map(|file| std::fs::read(run.join(file)).unwrap())
}

#[test]
fn trains_writes_reloads_and_evaluates() {
    let (dir, images) = workshop();
    let out = dir.path().join("run");
    let outcome = succeeded(run(train(&images, &out, &["--hold-out", "0.25"])));
    assert!(
        outcome.stdout.contains("test accuracy:"),
        "{}",
        outcome.stdout
    );
    assert!(outcome.stderr.contains("epoch 3/3"), "{}", outcome.stderr);

    let summary = json(&out.join("summary.json"));
    assert_eq!(summary["chosen_by"], "validation");
    assert!(
        summary["macs"]["compact"].as_u64().unwrap() * 2
            < summary["macs"]["full"].as_u64().unwrap()
    );
    let config = json(&out.join("compact/config.json"));
    assert_eq!(config["architecture"]["spaces"][0]["width"], 8);
    assert_eq!(
        config["pretrained_cfg"]["label_names"],
        serde_json::json!(["across", "checks", "down"])
    );

    // The reloaded artefact has the accuracy and the loss that the chosen epoch had.
    let eval = succeeded(run([
        "eval".as_ref(),
        out.as_os_str(),
        "--data".as_ref(),
        images.as_os_str(),
        "--json".as_ref(),
    ]));
    let eval: Value = serde_json::from_str(&eval.stdout).unwrap();
    assert_eq!(eval["accuracy"], summary["chosen"]["test"]["accuracy"]);
    let [a, b] = [&eval["loss"], &summary["chosen"]["test"]["loss"]].map(|v| v.as_f64().unwrap());
    assert!((a - b).abs() < 1e-5, "{a} against {b}");

    // A second call finds the run finished and changes nothing.
    let before = bytes(&out);
    succeeded(run([
        "train".as_ref(),
        "--resume".as_ref(),
        out.as_os_str(),
        "--data-dir".as_ref(),
        dir.path().as_os_str(),
    ]));
    assert_eq!(before, bytes(&out));

    let report = succeeded(run(["report".as_ref(), out.as_os_str()]));
    assert!(
        report.stdout.contains("| kl, fuse, stretched(4) | 1 | "),
        "{}",
        report.stdout
    );
    let last = dir.path().join("last");
    succeeded(run([
        "compact".as_ref(),
        out.as_os_str(),
        "--out".as_ref(),
        last.as_os_str(),
    ]));
    assert!(last.join("model.safetensors").exists());
}

#[test]
fn one_seed_gives_one_result_whatever_the_number_of_threads() {
    let (dir, images) = workshop();
    let runs = ["a", "b", "c"].map(|name| dir.path().join(name));
    succeeded(run(train(&images, &runs[0], &["--threads", "1"])));
    succeeded(run(train(&images, &runs[1], &["--threads", "3"])));
    assert!(bytes(&runs[0]) == bytes(&runs[1]));
    succeeded(run(train(&images, &runs[2], &["--seed", "2"])));
    assert!(bytes(&runs[0])[3] != bytes(&runs[2])[3]);
}

#[test]
fn a_criterion_that_reads_maps_selects_once_and_its_cost_is_counted() {
    let (dir, images) = workshop();
    let out = dir.path().join("run");
    let more = [
        "--criterion",
        "hrank",
        "--keep",
        "select",
        "--reselect",
        "once",
        "--evidence-images",
        "20",
        "--hold-out",
        "0",
    ];
    succeeded(run(train(&images, &out, &more)));
    let selection = rows(&out.join("selection.jsonl"));
    assert_eq!(selection.len(), 3);
    let layers = |row: usize| selection[row]["layers"].as_array().unwrap();
    assert_eq!(layers(0).len(), 19);
    for (first, last) in layers(0).iter().zip(layers(2)) {
        assert_eq!(first["kept"], last["kept"]);
        assert_eq!(first["overlap"], Value::Null);
        assert_eq!(last["overlap"], 1.0);
        let scores = first["scores"].as_array().unwrap();
        assert_eq!(first["kept"].as_array().unwrap().len() * 2, scores.len());
        // Maps have 32, 16 or 8 rows, and the mean rank of a random filter's map is neither 0 nor more than that.
        let ranks = scores.iter().map(|score| score.as_f64().unwrap());
        assert!(ranks.clone().all(|rank| rank <= 32.0));
        assert!(ranks.fold(0.0, f64::max) > 1.0);
    }
    let summary = json(&out.join("summary.json"));
    let number = |value: &Value| value.as_u64().unwrap();
    let macs = number(&summary["macs"]["compact"]);
    let stage = &summary["stages"][0];
    assert_eq!(number(&stage["training_macs"]), 3 * 3 * 48 * macs);
    // Each image once through the network and once through both halves of every convolution's filters; the classifier
    // reads 32 channels for 3 classes.
    let scoring = 20 * (macs + 2 * (macs - 32 * 3));
    assert_eq!(number(&stage["scoring_macs"]), scoring);
    assert_eq!(number(&summary["training_macs"]), 432 * macs + scoring);

    let refused = run(train(
        &images,
        &dir.path().join("no"),
        &["--criterion", "bn-scale"],
    ));
    assert_eq!(refused.code, Some(2));
    assert!(
        refused.stderr.contains("the method prune"),
        "{}",
        refused.stderr
    );
}

#[test]
fn a_run_in_bfloat16_repeats_and_evaluates_to_what_it_reported() {
    let (dir, images) = workshop();
    let [a, b] = ["a", "b"].map(|name| dir.path().join(name));
    succeeded(run(train(
        &images,
        &a,
        &["--precision", "bf16", "--threads", "1"],
    )));
    let config = std::fs::read_to_string(a.join("config.toml")).unwrap();
    assert!(config.contains("precision = \"bf16\""), "{config}");
    // Its configuration alone repeats it.
    succeeded(run([
        "train".as_ref(),
        "--config".as_ref(),
        a.join("config.toml").as_os_str(),
        "--threads".as_ref(),
        "3".as_ref(),
        "--out".as_ref(),
        b.as_os_str(),
    ]));
    assert!(bytes(&a) == bytes(&b));

    // Evaluation was of single precision during the run, so that the artefact gives the same.
    let summary = json(&a.join("summary.json"));
    let eval = succeeded(run([
        "eval".as_ref(),
        a.as_os_str(),
        "--data".as_ref(),
        images.as_os_str(),
        "--json".as_ref(),
    ]));
    let eval: Value = serde_json::from_str(&eval.stdout).unwrap();
    assert_eq!(eval["accuracy"], summary["chosen"]["test"]["accuracy"]);
    let [x, y] = [&eval["loss"], &summary["chosen"]["test"]["loss"]].map(|v| v.as_f64().unwrap());
    assert!((x - y).abs() < 1e-5, "{x} against {y}");

    // It is another run than that of single precision.
    let single = dir.path().join("single");
    succeeded(run(train(&images, &single, &[])));
    assert!(bytes(&a)[2] != bytes(&single)[2]);
}

/// Starts a run, waits for its first checkpoint, ends it with `signal` and continues it.
fn interrupted(signal: &str, expected_code: Option<i32>) {
    let (dir, images) = workshop();
    let (whole, broken) = (dir.path().join("whole"), dir.path().join("broken"));
    let epochs = ["--epochs", "12"];
    let more = ["--threads", "1"];
    let arguments = |out: &Path| {
        let mut args = train(&images, out, &more);
        let at = args.iter().position(|a| a == "--epochs").unwrap();
        args[at + 1] = epochs[1].to_owned();
        args
    };
    succeeded(run(arguments(&whole)));

    let code = ended_after_a_checkpoint(signal, arguments(&broken), &broken);
    assert_eq!(code, expected_code);

    let resumed = succeeded(run([
        "train".as_ref(),
        "--resume".as_ref(),
        broken.as_os_str(),
    ]));
    assert!(
        resumed.stderr.contains(", from epoch "),
        "{}",
        resumed.stderr
    );
    assert!(bytes(&whole) == bytes(&broken));
}

#[cfg(unix)]
#[test]
fn a_killed_run_continues_to_the_same_bytes() {
    interrupted("-KILL", None);
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_says_how_to_go_on_and_does() {
    interrupted("-INT", Some(130));
}

/// `dcff train --resume RUN`.
fn resume(out: &Path) -> Outcome {
    run(["train".as_ref(), "--resume".as_ref(), out.as_os_str()])
}

#[test]
fn a_run_that_was_killed_before_its_tables_were_written_completes_them() {
    let (dir, images) = workshop();
    let out = dir.path().join("run");
    succeeded(run(train(&images, &out, &[])));
    let whole = bytes(&out);
    for table in ["metrics.jsonl", "timing.jsonl"] {
        let text = std::fs::read_to_string(out.join(table)).unwrap();
        let (first, _) = text.split_once('\n').unwrap();
        std::fs::write(out.join(table), format!("{first}\n")).unwrap();
    }
    std::fs::remove_file(out.join("summary.json")).unwrap();
    // What a program leaves that is killed while it writes.
    std::fs::create_dir(out.join(".writing-abc")).unwrap();
    succeeded(resume(&out));
    assert!(bytes(&out) == whole);
    assert_eq!(rows(&out.join("timing.jsonl")).len(), 3);
    assert!(!out.join(".writing-abc").exists());
}

#[test]
fn a_run_whose_checkpoint_is_gone_does_not_start_anew() {
    let (dir, images) = workshop();
    let out = dir.path().join("run");
    succeeded(run(train(&images, &out, &[])));
    std::fs::remove_file(out.join("summary.json")).unwrap();
    std::fs::remove_dir_all(out.join("checkpoint")).unwrap();
    let before = bytes(&out);
    let outcome = resume(&out);
    assert_eq!(outcome.code, Some(2), "{}", outcome.stderr);
    assert!(
        outcome
            .stderr
            .contains("checkpoint: expected the checkpoint of the 3 epochs"),
        "{}",
        outcome.stderr
    );
    assert!(bytes(&out) == before);
}

#[test]
fn two_programs_do_not_train_in_one_folder() {
    let (dir, images) = workshop();
    let out = dir.path().join("run");
    let mut args = train(&images, &out, &[]);
    let at = args.iter().position(|a| a == "--epochs").unwrap();
    args[at + 1] = "10000".into();
    let mut child = dcff()
        .args(args)
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    while !out.join("timing.jsonl").exists() {
        assert!(child.try_wait().unwrap().is_none());
        std::thread::yield_now();
    }
    let outcome = resume(&out);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(outcome.code, Some(2), "{}", outcome.stderr);
    assert!(
        outcome
            .stderr
            .contains("another program trains in this folder"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn scores_beyond_single_precision_leave_a_readable_run() {
    let (dir, images) = workshop();
    let out = dir.path().join("run");
    succeeded(run(train(&images, &out, &["--temperature", "fixed(1e39)"])));
    succeeded(run([
        "report".as_ref(),
        out.as_os_str(),
        "--out".as_ref(),
        dir.path().join("report").as_os_str(),
    ]));
}

#[test]
fn refuses_to_continue_under_another_configuration() {
    let (dir, images) = workshop();
    let out = dir.path().join("run");
    succeeded(run(train(&images, &out, &[])));
    let config = std::fs::read_to_string(out.join("config.toml")).unwrap();
    let other = config.replace("momentum = 0.9", "momentum = 0.8");
    std::fs::write(out.join("config.toml"), &other).unwrap();
    let outcome = resume(&out);
    assert_eq!(outcome.code, Some(2), "{}", outcome.stdout);
    assert!(
        outcome
            .stderr
            .contains("the finished run had other settings: recipe.momentum: expected 0.9"),
        "{}",
        outcome.stderr
    );
    std::fs::write(out.join("config.toml"), &config).unwrap();
    std::fs::remove_file(out.join("summary.json")).unwrap();
    let outcome = run([
        "train",
        "--resume",
        &out.display().to_string(),
        "--lr",
        "0.5",
    ]);
    assert_eq!(outcome.code, Some(2));
    assert!(
        outcome
            .stderr
            .contains("recipe.learning_rate: expected 0.02, got 0.5"),
        "{}",
        outcome.stderr
    );

    std::fs::write(out.join("config.toml"), other).unwrap();
    let outcome = run(["train", "--resume", &out.display().to_string()]);
    assert_eq!(outcome.code, Some(2));
    assert!(
        outcome
            .stderr
            .contains("changed since the checkpoint: recipe.momentum: expected 0.9, got 0.8"),
        "{}",
        outcome.stderr
    );

    std::fs::write(out.join("config.toml"), config).unwrap();
    let state = out.join("checkpoint/state.safetensors");
    let mut damaged = std::fs::read(&state).unwrap();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    std::fs::write(&state, damaged).unwrap();
    let outcome = run(["train", "--resume", &out.display().to_string()]);
    assert_eq!(outcome.code, Some(2));
    assert!(
        outcome
            .stderr
            .contains("state.safetensors: damaged: expected SHA-256"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn a_loss_that_is_no_number_stops_the_run_and_keeps_the_checkpoint() {
    let (dir, images) = workshop();
    let out = dir.path().join("run");
    let outcome = run(train(&images, &out, &["--weight-decay", "1e6"]));
    assert_eq!(outcome.code, Some(2), "{}", outcome.stderr);
    let line = outcome.stderr.lines().last().unwrap();
    assert!(
        line.starts_with("error: the loss is ")
            && line.contains("epoch ")
            && line.contains("step "),
        "{line}"
    );
    assert!(!out.join("compact").exists());
}

#[test]
fn hostile_artefacts_are_refused() {
    let (dir, images) = workshop();
    let out = dir.path().join("run");
    let mut args = train(&images, &out, &[]);
    let at = args.iter().position(|a| a == "--epochs").unwrap();
    args[at + 1] = "1".into();
    succeeded(run(args));
    let compact = out.join("compact");
    let config = std::fs::read_to_string(compact.join("config.json")).unwrap();
    let weights = std::fs::read(compact.join("model.safetensors")).unwrap();
    let eval = || {
        let outcome = run([
            "eval".as_ref(),
            compact.as_os_str(),
            "--data".as_ref(),
            images.as_os_str(),
        ]);
        assert_eq!(outcome.code, Some(2), "{}", outcome.stdout);
        assert_eq!(outcome.stderr.lines().count(), 1, "{}", outcome.stderr);
        outcome.stderr
    };
    let with_config = |text: String| std::fs::write(compact.join("config.json"), text).unwrap();

    with_config(config.replacen("\"width\": 8", "\"width\": 7", 1));
    assert!(eval().contains("config.json expects shape"));
    with_config(config.replacen("\"width\": 8", "\"width\": 8000000000000", 1));
    assert!(eval().contains("config.json"));
    with_config(config[..config.len() / 2].to_owned());
    assert!(eval().contains("config.json"));
    with_config(config);

    std::fs::write(
        compact.join("model.safetensors"),
        &weights[..weights.len() - 100],
    )
    .unwrap();
    assert!(eval().contains("model.safetensors: not a sound safetensors file"));
    let mut absurd = weights.clone();
    absurd[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    std::fs::write(compact.join("model.safetensors"), absurd).unwrap();
    assert!(eval().contains("model.safetensors: not a sound safetensors file"));
    let mut not_a_number = weights;
    let end = not_a_number.len();
    not_a_number[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(compact.join("model.safetensors"), not_a_number).unwrap();
    assert!(eval().contains("expected finite values, got NaN"));
}

/// CIFAR-10's binary files, the third of them cut off within an image.
fn truncated_batches(folder: &Path) {
    std::fs::create_dir(folder).unwrap();
    let files = (1..=5).map(|i| format!("data_batch_{i}.bin"));
    for name in files.chain(["test_batch.bin".to_owned()]) {
        let length = if name.contains('3') { 5000 } else { 2 * 3073 };
        std::fs::write(folder.join(name), vec![1; length]).unwrap();
    }
}

/// The Hub's layout with a file whose footer, at the end, is missing.
fn truncated_parquet(folder: &Path) {
    let files = folder.join("plain_text");
    std::fs::create_dir_all(&files).unwrap();
    for split in ["train", "test"] {
        let mut bytes = b"PAR1".to_vec();
        bytes.extend([7; 1000]);
        std::fs::write(files.join(format!("{split}-00000-of-00001.parquet")), bytes).unwrap();
    }
}

#[test]
fn bad_input_is_one_line_exit_code_2_and_nothing_written() {
    let (dir, images) = workshop();
    let out = dir.path().join("run");
    let empty = dir.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let odd = dir.path().join("odd");
    write_images(&odd, 2, 1);
    std::fs::write(odd.join("train/checks/odd.png"), "<html>").unwrap();
    let short = dir.path().join("short");
    truncated_batches(&short);
    let cut = dir.path().join("cut");
    truncated_parquet(&cut);
    let text = |path: &Path| path.display().to_string();
    let (images, empty, odd) = (text(&images), text(&empty), text(&odd));
    let (short, cut) = (text(&short), text(&cut));
    let base = |data: &str| {
        ["train", "--arch", "vgg16", "--data", data]
            .map(str::to_owned)
            .to_vec()
    };
    let with = |data: &str, more: &[&str]| {
        [base(data), more.iter().map(|a| (*a).to_owned()).collect()].concat()
    };
    let cases: Vec<(Vec<String>, &[&str])> = vec![
        (
            with("cifar10", &["--data-dir", &empty]),
            &["plain_text/{train,test}-*.parquet", "data_batch_1.bin"],
        ),
        (
            with("cifar10", &["--data-dir", "/nowhere"]),
            &["--data-dir /nowhere: no such folder"],
        ),
        (
            with("cifar11", &[]),
            &["cifar11", "cifar10, cifar10-subset, synthetic"],
        ),
        (
            with(&odd, &[]),
            &["train/checks/odd.png: expected a PNG", "got 6 bytes"],
        ),
        (
            with("cifar10", &["--data-dir", &short]),
            &["data_batch_3.bin", "3073"],
        ),
        (
            with("cifar10", &["--data-dir", &cut]),
            &["train-00000-of-00001.parquet"],
        ),
        (with(&images, &["--rates", "1.0"]), &["--rates", "got 1"]),
        (
            with(&images, &["--rates", "[0.5]*12"]),
            &["vgg16 has 13 compression rates", "got 12"],
        ),
        (
            with(&images, &["--rates", "0.995"]),
            &["features.0: rate 0.995 keeps 0 of 64 filters"],
        ),
        (with(&images, &["--rates", "[0.5"]), &["--rates", "column"]),
        (
            with(&images, &["--criterion", "l7"]),
            &["l7", "kl, kl-published, l1-norm, l2-norm, fpgm"],
        ),
        (
            with(&images, &["--precision", "f16"]),
            &["--precision: expected one of f32, bf16, tf32, got 'f16'"],
        ),
        (
            with(&images, &["--lr", "-1"]),
            &["--lr: expected 0 to 1000000, got -1"],
        ),
        (
            with(&images, &["--epochs", "-1"]),
            &["invalid value '-1' for '--epochs <N>'"],
        ),
        (
            with(&images, &["--epoch", "1"]),
            &["unexpected argument '--epoch' found; tip: a similar argument exists: '--epochs'"],
        ),
        (
            with(&images, &["--rates", "0.5", "--target-macs", "20%"]),
            &["'--rates <RATES>' cannot be used with '--target-macs <TARGET>'"],
        ),
        (
            with(
                &images,
                &[
                    "--milestones",
                    "2,4",
                    "--epochs",
                    "4",
                    "--schedule",
                    "multi-step",
                ],
            ),
            &["--milestones: expected epochs below the 4 of --epochs, got 4"],
        ),
        (
            with(&images, &["--keep", "some"]),
            &["some", "fuse, select"],
        ),
        (
            with(&images, &["--temperature", "warm"]),
            &["warm", "published, stretched"],
        ),
        (
            with(&images, &["--schedule", "linear"]),
            &["--schedule: expected multi-step, cosine or constant, got 'linear'"],
        ),
        (
            with(&images, &["--momentum", "2"]),
            &["--momentum: expected 0 to 1, got 2"],
        ),
        (
            with(&images, &["--hold-out", "0.001"]),
            &["--hold-out: ", "holding out 0.001 of", "0 to validate"],
        ),
        (
            with(&images, &["--epochs", "0"]),
            &["--epochs: expected at least 1, got 0"],
        ),
        (
            vec![
                "train".into(),
                "--arch".into(),
                "vgg17".into(),
                "--data".into(),
                images.clone(),
            ],
            &["unknown architecture 'vgg17'", "vgg16"],
        ),
        (
            with(&images, &["--input-size", "3,28,28"]),
            &[
                "--input-size: vgg16 cannot take images of 3,28,28",
                "3,32,32",
            ],
        ),
        (
            with(&images, &["--input-size", "3x0x28"]),
            &[
                "--input-size",
                "expected 1 or 3 channels and sides of 1 to 16384, got 3,0,28",
            ],
        ),
        (
            with(&images, &["--augment", "mirror"]),
            &["--augment: expected one of standard, crop, flip, imagenet, none, got 'mirror'"],
        ),
        (
            with(
                &images,
                &[
                    "--rates",
                    "0.5",
                    "--pipeline",
                    "prune",
                    "--dense-from",
                    &empty,
                ],
            ),
            &[
                "--dense-from: ",
                "expected a run whose dense stage is done, or a folder with config.json",
            ],
        ),
    ];
    for (mut args, expected) in cases {
        args.extend(["--out".to_owned(), text(&out)]);
        let outcome = run(&args);
        assert_eq!(outcome.code, Some(2), "{args:?}: {}", outcome.stderr);
        for part in expected {
            assert!(
                outcome.stderr.contains(part),
                "{args:?}: expected '{part}' in: {}",
                outcome.stderr
            );
        }
        assert!(!out.exists(), "{args:?} wrote {}", out.display());
        assert_eq!(outcome.stdout, "");
        assert!(outcome.stderr.starts_with("error: "), "{}", outcome.stderr);
        assert_eq!(
            outcome.stderr.lines().count(),
            1,
            "{args:?}: {}",
            outcome.stderr
        );
    }
    let again = dir.path().join("images");
    let outcome = run(with(&images, &["--out", &text(&again)]));
    assert_eq!(outcome.code, Some(2));
    assert!(
        outcome.stderr.contains("expected a new or empty folder"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn a_run_without_a_compact_network_says_how_to_get_one() {
    let dir = tempfile::tempdir().unwrap();
    let run_folder = dir.path().join("run");
    std::fs::create_dir(&run_folder).unwrap();
    std::fs::write(run_folder.join("config.toml"), "").unwrap();
    let path = run_folder.display().to_string();
    for args in [
        &["eval", &path, "--data", "synthetic"][..],
        &["predict", &path, "image.png"],
        &["export", &path, "--format", "onnx"],
    ] {
        let outcome = run(args);
        assert_eq!(outcome.code, Some(2));
        assert_eq!(
            outcome.stderr,
            format!(
                "error: {path}: the run is not finished; continue it with `dcff train --resume {path}`, or take its \
                 compact network as it stands with `dcff compact {path} --out DIR`\n"
            )
        );
    }
}

#[test]
fn a_missing_file_is_told_once() {
    let outcome = run(["eval", "nowhere", "--data", "synthetic"]);
    assert_eq!(outcome.code, Some(2));
    assert_eq!(
        outcome.stderr.matches("os error").count(),
        1,
        "{}",
        outcome.stderr
    );
}

#[test]
fn a_command_line_that_cannot_be_is_one_line() {
    for (args, expected) in [
        (
            &["train"][..],
            "the following required arguments were not provided: --out <DIR>",
        ),
        (
            &["trian"],
            "unrecognized subcommand 'trian'; tip: a similar subcommand exists: 'train'",
        ),
        (&["eval"], "<ARTEFACT>"),
    ] {
        let outcome = run(args);
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(2), ""));
        let line = &outcome.stderr;
        assert_eq!(line.lines().count(), 1, "{line}");
        assert!(
            line.starts_with("error: ") && line.contains(expected),
            "{line}"
        );
    }
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt;
        let odd = std::ffi::OsStr::from_bytes(b"caf\xe9");
        let args = ["train".as_ref(), "--out".as_ref(), "x".as_ref()];
        let outcome = run(args.into_iter().chain(["--data".as_ref(), odd]));
        assert_eq!(outcome.code, Some(2));
        assert_eq!(
            outcome.stderr,
            "error: expected arguments in UTF-8, got --data 'caf\u{fffd}'\n"
        );
    }
    // Help is help, also for want of a command.
    assert!(run::<&str>([]).stderr.contains("Commands:"));
    assert!(
        succeeded(run(["train", "--help"]))
            .stdout
            .contains("Usage:")
    );
}

#[test]
fn tells_whether_a_folder_holds_the_run_that_the_flags_make() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let check = |more: &[&str]| {
        let fixed = ["train", "--arch", "resnet20", "--data", "synthetic"];
        let out = out.display().to_string();
        let own = ["--recipe", "quick", "--out", &out, "--check"];
        run(fixed.into_iter().chain(own).chain(more.iter().copied()))
    };
    let made = ["--rates", "0.5", "--epochs", "2", "--lr", "0.02"];
    // No folder yet: the flags alone are checked, and nothing is made.
    succeeded(check(&made));
    assert_eq!(check(&["--epochs", "0"]).code, Some(2));
    assert!(!out.exists());

    // The run's folder as it is at its beginning.
    let config = dir.path().join("config.toml");
    let printed = r#"
        version = 1
        arch = "resnet20"
        seed = 1
        [data]
        name = "synthetic"
        train_fingerprint = "a"
        test_fingerprint = "b"
        hold_out = 0.05
        augment = "standard"
        [method]
        name = "dense"
        [recipe]
        epochs = 2
        batch_size = 128
        learning_rate = 0.02
        momentum = 0.9
        weight_decay = 0.0005
        nesterov = false
        label_smoothing = 0.0
        warmup_epochs = 0
        select_on_test = false
        schedule = { kind = "cosine" }
    "#;
    std::fs::create_dir(&out).unwrap();
    std::fs::write(&config, printed).unwrap();
    std::fs::rename(&config, out.join("config.toml")).unwrap();
    let dense = ["--method", "dense", "--epochs", "2"];
    let same = [&dense[..], &["--lr", "0.02"]].concat();
    succeeded(check(&same));
    for (flags, difference) in [
        // A flag that is left out is a difference too.
        (
            dense.to_vec(),
            "recipe.learning_rate: expected 0.02, got 0.05",
        ),
        (
            [&same[..], &["--seed", "3"]].concat(),
            "seed: expected 1, got 3",
        ),
    ] {
        let outcome = check(&flags);
        assert_eq!(outcome.code, Some(2));
        let expected = format!(
            "error: {}: holds a run of other settings: {difference}; name another folder with --out\n",
            out.display()
        );
        assert_eq!(outcome.stderr, expected);
    }
}

#[test]
fn counts_as_one_json_object() {
    let outcome = succeeded(run([
        "flops",
        "--arch",
        "vgg16",
        "--rates",
        "published",
        "--convention",
        "published",
        "--json",
    ]));
    let object: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(object["full"]["ops"], 314_031_616);
    assert_eq!(object["compact"]["ops"], 72_771_956);
    assert_eq!(object["compact"]["params"], 1_071_248);
    assert_eq!(object["convention"], "published");
    let layers = object["layers"].as_array().unwrap();
    let sum: u64 = layers
        .iter()
        .map(|l| l["compact"]["ops"].as_u64().unwrap())
        .sum();
    assert_eq!(sum, 72_771_956);
    assert_eq!(layers[0]["full"]["output"], serde_json::json!([64, 32, 32]));

    // Nothing narrowed, nothing saved and nothing added.
    let convention = ["--convention", "published"];
    let args = ["flops", "--arch", "resnet20", "--rates", "0.0"];
    let text = succeeded(run(args.into_iter().chain(convention))).stdout;
    assert_eq!(text.matches(", 0.00 %)").count(), 2, "{text}");
}

#[test]
fn lists_name_everything_that_can_be_chosen() {
    let criteria = succeeded(run(["criteria", "--json"]));
    let object: Value = serde_json::from_str(&criteria.stdout).unwrap();
    let listed: BTreeSet<&str> = object["criteria"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["name"].as_str().unwrap())
        .collect();
    let known: BTreeSet<&str> = dcff_criteria::ALL.iter().map(|c| c.name()).collect();
    assert_eq!(listed, known);
    let help = succeeded(run(["train", "--help"])).stdout;
    for name in known
        .into_iter()
        .chain(dcff_models::ALL.iter().map(|entry| entry.name))
    {
        assert!(help.contains(name), "{name} is not in the help");
    }
    assert!(succeeded(run(["data"])).stdout.contains("synthetic"));
}
