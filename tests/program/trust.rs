//! What must not be lost: runs beside each other, killed ones, damaged and hostile files, full disks; through the built program.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use dcff_tests::program::{
    Outcome, copy_folder, dcff, dcff_within, outcome, run, succeeded, workshop,
};
use serde_json::{Value, json};

/// Address space for a command that is handed a hostile file, in KiB.
const MEMORY: u64 = 1_000_000;
/// A file of this many bytes, all of them a hole, takes no space on the disk.
const HOLE: u64 = 3 << 30;

/// The arguments of a run of two epochs that takes a moment.
fn train(images: &Path, out: &Path) -> Vec<String> {
    let fixed = "train --arch resnet20 --rates 0.5 --epochs 2 --batch-size 16 --lr 0.02 --hold-out 0 --seed 3";
    let mut args: Vec<String> = fixed.split(' ').map(str::to_owned).collect();
    for (flag, path) in [("--data", images), ("--out", out)] {
        args.extend([flag.to_owned(), path.display().to_string()]);
    }
    args
}

fn resume(out: &Path) -> Vec<String> {
    ["train", "--resume", &out.display().to_string()]
        .map(str::to_owned)
        .to_vec()
}

/// The command was refused with one short line that holds all of `expected`.
#[track_caller]
fn refused(said: &Outcome, expected: &[&str]) {
    let line = &said.stderr;
    assert_eq!(said.code, Some(2), "{line}");
    assert_eq!(line.lines().count(), 1, "{line}");
    assert!(line.chars().count() < 1200, "{line}");
    for part in expected {
        assert!(line.contains(part), "expected '{part}' in: {line}");
    }
}

#[test]
fn of_runs_that_start_in_one_folder_at_once_one_trains() {
    let (dir, images) = workshop();
    let out = dir.path().join("run");
    let children: Vec<Child> = (0..8)
        .map(|_| {
            dcff()
                .args(train(&images, &out))
                .args(["--threads", "1"])
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    let mut finished = 0;
    for child in children {
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        match output.status.code() {
            Some(0) => finished += 1,
            Some(2) => assert!(
                text.contains("holds a run already") || text.contains("another program trains"),
                "{text}"
            ),
            other => panic!("{other:?}: {text}"),
        }
    }
    assert_eq!(finished, 1, "runs in one folder");
    let rows = std::fs::read_to_string(out.join("selection.jsonl")).unwrap();
    assert_eq!(rows.lines().count(), 2, "a row per epoch");
}

#[test]
fn what_a_kill_before_the_first_file_leaves_is_no_run() {
    let (dir, images) = workshop();
    let out = dir.path().join("run");
    std::fs::create_dir_all(out.join(".writing-checkpoint-123456")).unwrap();
    // Of this version and of earlier ones.
    for name in [".writing-config.toml-abcdef", ".tmp123456", ".lock"] {
        std::fs::write(out.join(name), "version = 1").unwrap();
    }
    succeeded(run(train(&images, &out)));
    let left: Vec<String> = std::fs::read_dir(&out)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with(".writing") || name.starts_with(".tmp"))
        .collect();
    assert!(left.is_empty(), "{left:?}");

    // Beside what other commands write, too.
    let run_folder = out.display().to_string();
    let compact = dir.path().join("compact");
    let left = dir.path().join(".writing-compact-123456");
    std::fs::create_dir(&left).unwrap();
    let target = compact.display().to_string();
    succeeded(run(["compact", &run_folder, "--out", &target]));
    assert!(!left.exists());
    let left = dir.path().join("onnx/.writing-model.onnx-123456");
    std::fs::create_dir(dir.path().join("onnx")).unwrap();
    std::fs::write(&left, "half").unwrap();
    let onnx = dir.path().join("onnx").display().to_string();
    succeeded(run(["export", &target, "--format", "onnx", "--out", &onnx]));
    assert!(!left.exists());
}

/// A finished run, and the folder that holds it and its `images`.
fn finished() -> (tempfile::TempDir, std::path::PathBuf) {
    let (dir, images) = workshop();
    let out = dir.path().join("run");
    succeeded(run(train(&images, &out)));
    (dir, out)
}

/// `SHA256SUMS` for what the checkpoint's folder holds, as its maker would write it.
fn sign(checkpoint: &Path) {
    let mut names: Vec<String> = std::fs::read_dir(checkpoint)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("state."))
        .collect();
    names.sort();
    let sums = Command::new("sha256sum")
        .args(names)
        .current_dir(checkpoint)
        .output()
        .unwrap();
    assert!(sums.status.success());
    std::fs::write(checkpoint.join("SHA256SUMS"), sums.stdout).unwrap();
}

#[test]
fn a_checkpoint_that_was_edited_is_refused() {
    let (dir, out) = finished();
    std::fs::remove_file(out.join("summary.json")).unwrap();
    let file = out.join("checkpoint/state.json");
    let sound: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let sums = std::fs::read(out.join("checkpoint/SHA256SUMS")).unwrap();
    let edits: [(&str, Value, &str); 9] = [
        (
            "/position/epoch",
            json!(1),
            "metrics: expected a row for each of 1 epochs, got 2",
        ),
        (
            "/position/epoch",
            json!(10u64.pow(18)),
            "position: expected at most 2 epochs",
        ),
        (
            "/position/step",
            json!(10u64.pow(18)),
            "position: expected at most 2 epochs",
        ),
        (
            "/best/accuracy",
            json!(7),
            "best: expected a finite loss and an accuracy of 0 to 1",
        ),
        (
            "/last/test/accuracy",
            json!(-1),
            "last: expected a finite loss",
        ),
        (
            "/metrics/1/epoch",
            json!(1),
            "metrics: expected a row for each of 2 epochs, got 2 of other epochs",
        ),
        (
            "/metrics/0/train/accuracy",
            json!(2),
            "metrics: expected a finite loss",
        ),
        (
            "/timing",
            json!([]),
            "timing: expected a row for each of 2 epochs, got 0",
        ),
        (
            "/best/epoch",
            json!(9),
            "best: expected an epoch of 1 to 2, got 9",
        ),
    ];
    for (place, value, expected) in edits {
        let mut state = sound.clone();
        *state.pointer_mut(place).unwrap() = value;
        std::fs::write(&file, state.to_string()).unwrap();
        std::fs::write(out.join("checkpoint/SHA256SUMS"), &sums).unwrap();
        refused(
            &run(resume(&out)),
            &["state.json: damaged: expected SHA-256"],
        );
        // By hand and signed: what cannot be is refused all the same.
        sign(&out.join("checkpoint"));
        refused(&run(resume(&out)), &["state.json: damaged: ", expected]);
    }
    // A step beyond the epoch's, with the images it would have taken.
    let mut state = sound.clone();
    state["position"] = json!({"epoch": 1, "step": 1000});
    state["tally"]["images"] = json!(16_000);
    for table in ["metrics", "timing"] {
        state[table].as_array_mut().unwrap().pop();
    }
    for field in ["best", "last"] {
        state[field]["epoch"] = json!(1);
    }
    std::fs::write(&file, state.to_string()).unwrap();
    sign(&out.join("checkpoint"));
    refused(
        &run(resume(&out)),
        &["state.json: damaged: position: expected a step below the 3 of an epoch, got 1000"],
    );

    std::fs::write(&file, sound.to_string()).unwrap();
    std::fs::remove_file(out.join("checkpoint/SHA256SUMS")).unwrap();
    refused(&run(resume(&out)), &["SHA256SUMS: damaged: no such file"]);
    // Checkpoints of earlier versions have no such file, and say so.
    let mut earlier = sound;
    earlier.as_object_mut().unwrap().remove("layout");
    std::fs::write(&file, earlier.to_string()).unwrap();
    succeeded(run(resume(&out)));
    assert!(out.join("summary.json").exists());
    drop(dir);
}

#[test]
fn no_file_is_read_without_a_limit() {
    let (dir, out) = finished();
    let target = dir.path().join("victim");
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (victim, new, matrix) = (path("victim"), path("new"), path("matrix.toml"));
    let config = path("victim/config.toml");
    let resumed = ["train", "--resume", &victim];
    let reported = ["report", &victim, "--out", &new];
    let published = ["publish", &victim, "a/b", "--dry-run", "--out", &new];
    let cases: [(&str, &[&str]); 13] = [
        ("config.toml", &resumed),
        (
            "config.toml",
            &["train", "--config", &config, "--out", &new],
        ),
        ("config.toml", &["compact", &victim, "--out", &new]),
        ("summary.json", &resumed),
        ("summary.json", &published),
        ("selection.jsonl", &resumed),
        ("selection.jsonl", &reported),
        ("events.out.tfevents.dcff", &resumed),
        ("checkpoint/state.json", &resumed),
        ("checkpoint/SHA256SUMS", &resumed),
        ("checkpoint/state.safetensors", &resumed),
        ("metrics.jsonl", &reported),
        ("metrics.jsonl", &published),
    ];
    for (name, args) in cases {
        let _ = std::fs::remove_dir_all(&target);
        copy_folder(&out, &target);
        if args == resumed && name != "summary.json" {
            std::fs::remove_file(target.join("summary.json")).unwrap();
        }
        enlarge(&target.join(name));
        let said = outcome(dcff_within(MEMORY).args(args));
        refused(&said, &[name.rsplit('/').next().unwrap()]);
        assert!(!dir.path().join("new").exists(), "{name}: {args:?}");
    }
    std::fs::write(&matrix, "").unwrap();
    enlarge(Path::new(&matrix));
    let said = outcome(dcff_within(MEMORY).args(["compare", &matrix, "--out", &new]));
    refused(&said, &["matrix.toml: expected at most "]);

    // CIFAR's batches, as bytes and pickled.
    for extension in [".bin", ""] {
        let folder = dir.path().join(format!("cifar{extension}"));
        std::fs::create_dir(&folder).unwrap();
        let stems = (1..=5).map(|i| format!("data_batch_{i}"));
        for stem in stems.chain(["test_batch".to_owned()]) {
            let file = folder.join(format!("{stem}{extension}"));
            std::fs::write(&file, "").unwrap();
            enlarge(&file);
        }
        let folder = folder.display().to_string();
        let said = outcome(dcff_within(MEMORY).args(["data", "cifar10", "--data-dir", &folder]));
        refused(
            &said,
            &["data_batch_1", ": expected at most 67108864 bytes"],
        );
    }
}

fn enlarge(file: &Path) {
    let file = OpenOptions::new().write(true).open(file).unwrap();
    file.set_len(HOLE).unwrap();
}

#[test]
fn an_estimate_does_not_count_the_epochs_one_by_one() {
    let (dir, images) = workshop();
    let mut args = train(&images, &dir.path().join("run"));
    let at = args.iter().position(|arg| arg == "--epochs").unwrap();
    args[at + 1] = "1000000000000".into();
    // An estimate writes nothing.
    args.truncate(args.len() - 2);
    args.push("--estimate".into());
    let said = succeeded(run(args));
    let seconds: f64 = said.stdout.trim().parse().unwrap();
    assert!(seconds > 1e9, "{seconds}");
}

#[test]
fn more_threads_than_processors_train_the_same_network() {
    let (dir, images) = workshop();
    let weights: Vec<Vec<u8>> = ["1", "200"]
        .iter()
        .map(|threads| {
            let out = dir.path().join(threads);
            let mut args = train(&images, &out);
            args.extend(["--threads".to_owned(), (*threads).to_owned()]);
            succeeded(run(args));
            std::fs::read(out.join("compact/model.safetensors")).unwrap()
        })
        .collect();
    assert!(weights[0] == weights[1]);
}

#[test]
fn long_values_are_cut_out_of_messages() {
    let long = "x".repeat(5000);
    let train = ["train", "--rates", "0.5", "--out", "o"];
    for args in [
        [&train[..], &["--arch", &long, "--data", "synthetic"]].concat(),
        [&train[..], &["--arch", "vgg16", "--data", &long]].concat(),
        vec!["flops", &long],
        vec!["eval", &long, "--data", "synthetic"],
        vec!["train", "--epochs", &long],
        vec![&long],
    ] {
        refused(&run(args), &["x…(", " more)…x"]);
    }
}

#[cfg(unix)]
#[test]
fn a_file_that_may_not_grow_is_an_error_with_a_name() {
    let (dir, images) = workshop();
    let out = dir.path().join("run");
    // In blocks of 512 or 1,024 bytes: the configuration fits, the checkpoint does not.
    let program = dcff().get_program().to_owned();
    let said = outcome(
        Command::new("sh")
            .args(["-c", "ulimit -f 64 && exec \"$0\" \"$@\""])
            .arg(program)
            .args(train(&images, &out)),
    );
    assert_eq!(said.code, Some(2), "{}", said.stderr);
    let last = said.stderr.lines().last().unwrap();
    assert!(
        last.contains("checkpoint") && last.contains("too large"),
        "{last}"
    );
    // And the run goes on where files may grow.
    succeeded(run(resume(&out)));
    let names: BTreeMap<_, _> = std::fs::read_dir(&out)
        .unwrap()
        .map(|entry| (entry.unwrap().file_name(), ()))
        .collect();
    assert!(
        names
            .keys()
            .all(|name| !name.to_string_lossy().starts_with(".writing"))
    );
}
