//! PSS-Net as a user runs it: a network and its slices are trained, slices are taken out and bundled, and what does not fit is refused.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use dcff_tests::program::{
    Outcome, copy_folder, evaluated, json, refused, run, short_run, succeeded, workshop,
};
use serde_json::Value;

/// Trains a small supernet in `out`.
fn train(images: &Path, out: &Path) -> Outcome {
    let words = "--method pss-net --epochs 2 --set observations=6 --set capacity=2 --set recalibration=3 --set narrowest=0.5";
    run(short_run(
        images,
        out,
        &words.split(' ').collect::<Vec<_>>(),
    ))
}

/// `dcff COMMAND PLACE ...`.
fn on(command: &str, place: &Path, more: &[&str]) -> Outcome {
    let first = [OsStr::new(command), place.as_os_str()];
    run(first.into_iter().chain(more.iter().map(OsStr::new)))
}

/// Loss and accuracy of a network on the test images.
fn score(network: &Path, images: &Path, more: &[&str]) -> (f64, f64) {
    let told = evaluated(network, images, more);
    (
        told["loss"].as_f64().unwrap(),
        told["accuracy"].as_f64().unwrap(),
    )
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn a_supernet_is_trained_sliced_and_bundled() {
    let (dir, images) = workshop();
    let supernet = dir.path().join("run");
    let told = succeeded(train(&images, &supernet)).stderr;
    assert!(told.contains("targets from"), "{told}");
    let rows = std::fs::read_to_string(supernet.join("metrics.jsonl")).unwrap();
    let first: Value = serde_json::from_str(rows.lines().next().unwrap()).unwrap();
    let method = first["method"].as_object().unwrap();
    let covered = method.keys().filter(|key| key.starts_with("subnets_at_"));
    assert_eq!(covered.count() as f64, method["targets"].as_f64().unwrap());
    let summary = json(&supernet.join("summary.json"));
    assert!(summary["products"].as_array().unwrap().len() > 2);
    let full = summary["macs"]["full"].as_u64().unwrap();

    let told = succeeded(on("report", &supernet, &[])).stdout;
    assert!(told.contains("the networks that a run ends with"), "{told}");

    // Within the budget, with statistics of its own, and like any other artefact.
    let before = files(&supernet);
    let half = dir.path().join("half");
    let place = half.display().to_string();
    let told = succeeded(on(
        "extract",
        &supernet,
        &["--target", "60%", "--out", &place],
    ))
    .stdout;
    assert!(told.contains("statistics of 36 training images"), "{told}");
    assert_eq!(files(&supernet), before);
    let config = json(&half.join("config.json"));
    let slice = &config["provenance"]["slice"];
    let macs = slice["macs"].as_u64().unwrap();
    assert!(macs <= full * 6 / 10, "{macs} of {full}");
    assert!(slice["score"].as_f64().is_some());
    assert_eq!(config["provenance"]["statistics_images"], 36);
    succeeded(on("export", &half, &["--format", "onnx"]));

    // The same slice by its name.
    let named = dir.path().join("named");
    let name = slice["config"].as_str().unwrap();
    let place = named.display().to_string();
    succeeded(on(
        "extract",
        &supernet,
        &["--config", name, "--out", &place],
    ));
    let weights = |folder: &Path| std::fs::read(folder.join("model.safetensors")).unwrap();
    assert_eq!(weights(&half), weights(&named));

    // Every slice of the bundle is the network that is taken out alone.
    let told = succeeded(on("bundle", &supernet, &[])).stdout;
    assert!(told.contains("changing over takes"), "{told}");
    let bundle = supernet.join("bundle");
    let slices = json(&bundle.join("slices.json"));
    let slices = slices.as_array().unwrap();
    assert!(slices.len() > 2);
    let middle = &slices[slices.len() / 2];
    let alone = dir.path().join("alone");
    let place = alone.display().to_string();
    let name = middle["config"].as_str().unwrap();
    succeeded(on(
        "extract",
        &supernet,
        &["--config", name, "--out", &place],
    ));
    let budget = middle["macs"].to_string();
    assert_eq!(
        score(&bundle, &images, &["--budget", &budget]),
        score(&alone, &images, &[])
    );
    let least = slices[0]["macs"].as_u64().unwrap();
    // Without a budget it is the whole network.
    let whole = score(&bundle, &images, &[]);
    assert_eq!(score(&bundle, &images, &["--budget", "100%"]), whole);
    let image = images.join("test/down/000.png").display().to_string();
    let told = succeeded(on(
        "predict",
        &bundle,
        &[&image, "--budget", &least.to_string()],
    ));
    assert!(
        told.stderr.contains("multiply-accumulates"),
        "{}",
        told.stderr
    );

    // What does not fit is refused in a line, and nothing is written.
    let new = dir.path().join("new");
    let out = new.display().to_string();
    let too_little = (least - 1).to_string();
    for (args, expected) in [
        (
            ["--target", &too_little],
            format!("--target: expected at least the {least} multiply-accumulates"),
        ),
        (
            ["--target", "much"],
            "--target: expected a share".to_owned(),
        ),
        (
            ["--config", "32:1"],
            "--config: expected a side and".to_owned(),
        ),
    ] {
        let line = refused(on(
            "extract",
            &supernet,
            &[&args[..], &["--out", &out]].concat(),
        ));
        assert!(line.contains(&expected), "{line}");
    }
    let none = ["--target", "60%", "--recalibrate", "0", "--out", &out];
    let line = refused(on("extract", &supernet, &none));
    assert!(
        line.contains("--recalibrate: expected at least 1 batch"),
        "{line}"
    );
    let taken = half.display().to_string();
    let line = refused(on(
        "extract",
        &supernet,
        &["--target", "60%", "--out", &taken],
    ));
    assert!(line.contains("exists already"), "{line}");
    assert!(refused(on("bundle", &supernet, &[])).contains("exists already"));
    let folder = images.display().to_string();
    let eval = |network: &Path, budget: &str| {
        refused(on(
            "eval",
            network,
            &["--data", &folder, "--budget", budget],
        ))
    };
    assert!(eval(&half, "60%").contains("--budget: expected a bundle"));
    let line = eval(&bundle, &too_little);
    assert!(
        line.contains(&format!("--budget: expected at least the {least} multiply")),
        "{line}"
    );
    let broken = dir.path().join("broken");
    copy_folder(&bundle, &broken);
    let mut longer = slices.clone();
    longer.push(longer[slices.len() - 1].clone());
    std::fs::write(broken.join("slices.json"), Value::from(longer).to_string()).unwrap();
    let line = eval(&broken, "60%");
    assert!(
        line.contains("statistics.safetensors") && line.contains("missing"),
        "{line}"
    );
    std::fs::remove_file(broken.join("statistics.safetensors")).unwrap();
    assert!(eval(&broken, "60%").contains("statistics.safetensors"));
    assert!(!new.exists());
}

#[test]
fn a_run_without_slices_is_refused() {
    let (dir, images) = workshop();
    let out = dir.path().join("run");
    let more = ["--method", "dense", "--epochs", "1", "--batch-size", "24"];
    succeeded(run(short_run(&images, &out, &more)));
    for (command, args) in [("extract", &["--target", "60%"][..]), ("bundle", &[])] {
        let line = refused(on(command, &out, args));
        assert!(
            line.contains(
                "expected a run of a method that trains slices, got one of --method dense"
            ),
            "{line}"
        );
    }
    assert!(!out.join("bundle").exists() && !out.join("extracted").exists());
    let line = refused(on("extract", dir.path(), &["--target", "60%"]));
    assert!(line.contains("config.toml"), "{line}");
}
