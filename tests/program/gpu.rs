//! The program on a GPU: `cargo test -p dcff-cli --features cudnn --test GPU` where there is one, `cargo xtask card-test`
//! where there is none.

use std::path::Path;
use std::process::Command;

use dcff_tests::program::{
    beside, dcff, ended_after_a_checkpoint, outcome, run, succeeded, workshop,
};
use serde_json::Value;

const WEIGHTS: &str = "compact/model.safetensors";

/// `dcff train` on a GPU: a few steps of a small network, so slowly that rounding stays rounding.
fn train(images: &Path, out: &Path, more: &[&str]) -> Vec<String> {
    let mut args: Vec<String> = [
        "train",
        "--arch",
        "resnet20",
        "--rates",
        "0.5",
        "--batch-size",
        "8",
        "--lr",
        "1e-4",
        "--schedule",
        "cosine",
        "--hold-out",
        "0",
        "--deterministic",
    ]
    .iter()
    .chain(more)
    .map(|&arg| arg.to_owned())
    .collect();
    for (flag, value) in [("--device", "cuda"), ("--epochs", "2")] {
        if !more.contains(&flag) {
            args.extend([flag, value].map(str::to_owned));
        }
    }
    for (flag, path) in [("--data", images), ("--out", out)] {
        args.extend([flag.to_owned(), path.display().to_string()]);
    }
    args
}

/// The rows of a table of a run.
fn metrics(run: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn a_run_on_a_gpu_is_the_run_on_the_cpu() {
    for (more, bound) in [
        (&[][..], 2e-4),
        (&["--precision", "bf16"], 2e-2),
        (&["--criterion", "l1-norm", "--keep", "select"], 2e-4),
        (&["--criterion", "bn-scale", "--pipeline", "prune"], 2e-4),
    ] {
        let (dir, images) = workshop();
        let [gpu, cpu] = ["GPU", "cpu"].map(|name| dir.path().join(name));
        succeeded(run(train(&images, &gpu, more)));
        let more = [more, &["--device", "cpu"]].concat();
        succeeded(run(train(&images, &cpu, &more)));
        let (gpu, cpu) = (metrics(&gpu), metrics(&cpu));
        assert_eq!(gpu.len(), 2);
        for (gpu, cpu) in gpu.iter().zip(&cpu) {
            for of in ["train", "test"] {
                let [a, b] = [gpu, cpu].map(|row| row[of]["loss"].as_f64());
                // Test images are not evaluated after every stage.
                let (Some(a), Some(b)) = (a, b) else {
                    assert_eq!((a, b), (None, None));
                    continue;
                };
                assert!((a - b).abs() < bound * b, "{more:?}, {of}: {a} against {b}");
            }
        }
    }
}

#[test]
fn a_run_that_was_stopped_continues_to_the_same_bytes() {
    let (dir, images) = workshop();
    let [whole, broken] = ["whole", "broken"].map(|name| dir.path().join(name));
    let arguments = |out: &Path| train(&images, out, &["--epochs", "3"]);
    succeeded(run(arguments(&whole)));
    let code = ended_after_a_checkpoint("-INT", arguments(&broken), &broken);
    assert_eq!(code, Some(130));
    succeeded(run([
        "train".as_ref(),
        "--resume".as_ref(),
        broken.as_os_str(),
    ]));
    let [whole, broken] = [whole, broken].map(|run| std::fs::read(run.join(WEIGHTS)).unwrap());
    assert!(whole == broken);
}

#[test]
fn operations_agree_with_the_cpu_and_recorded_steps_with_others() {
    let (dir, _) = workshop();
    let out = dir.path().join("gpu");
    succeeded(outcome(
        Command::new(beside("gpu_test"))
            .args(["--device", "cuda", "--parts", "parity", "--out"])
            .arg(&out),
    ));
    let text = std::fs::read(out.join("summary.json")).unwrap();
    let summary: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(summary["parity"]["all_within"], true, "{summary:#}");
    let recorded = &summary["recorded_steps"];
    assert_eq!(recorded["refused"], Value::Null);
    assert_eq!(recorded["same_weights"], true);
    assert!(recorded["nodes"].as_u64().unwrap() > 100, "{recorded}");
}

/// GPUs that are too old, too small or absent are the stand-in's to play.
#[test]
fn a_gpu_that_will_not_do_is_refused_in_one_line() {
    if std::env::var_os("GPU_HOST").is_none() {
        eprintln!("skipped: this GPU does what it does");
        return;
    }
    for (variable, value, parts) in [
        ("GPU_MIB", "0", &["--device: cuda:0: no usable driver"][..]),
        ("GPU_CAPABILITY", "75", &["8.0 or newer", "7.5"]),
        (
            "GPU_MIB",
            "6",
            &[
                "a step of 8 images, f32, on cuda:0",
                "MiB left",
                "lower the batch size",
            ],
        ),
    ] {
        let (dir, images) = workshop();
        let args = train(&images, &dir.path().join("run"), &[]);
        let refused = outcome(dcff().args(args).env(variable, value));
        assert_eq!(refused.code, Some(2), "{}", refused.stderr);
        let last = refused.stderr.lines().last().unwrap_or_default();
        assert!(last.starts_with("error: "), "{last}");
        for part in parts {
            assert!(last.contains(part), "{part}: {last}");
        }
    }
    let (dir, images) = workshop();
    let args = train(
        &images,
        &dir.path().join("run"),
        &["--device", "auto", "--epochs", "1"],
    );
    let fell_back = succeeded(outcome(dcff().args(args).env("GPU_MIB", "0")));
    assert!(
        fell_back
            .stderr
            .contains("computing on the cpu: no usable driver"),
        "{}",
        fell_back.stderr
    );
}
