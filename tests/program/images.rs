//! Images of one's own, through the built program: any size, layout and place, damaged ones, and what is handed on of them.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use dcff_tests::program::{Outcome, dcff, outcome, run, succeeded, write_images};
use serde_json::Value;

const QUICK: &str =
    "train --arch resnet20 --rates 0.7 --recipe quick --batch-size 12 --hold-out 0 --device cpu";

/// A folder with `images` and a finished `run` of one epoch on them, which was started in it with relative paths; made once.
fn workshop() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        write_images(&folder.path().join("images"), 4, 2);
        let args = QUICK
            .split(' ')
            .chain("--epochs 1 --data images --out run".split(' '));
        succeeded(outcome(dcff().args(args).current_dir(folder.path())));
        folder
    });
    folder.path()
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn train(data: &Path, out: &Path, more: &[&str]) -> Outcome {
    let (data, out) = (text(data), text(out));
    let fixed = QUICK.split(' ').chain(["--data", &data, "--out", &out]);
    run(fixed.chain(more.iter().copied()))
}

fn config(run: &Path) -> toml::Value {
    let text = std::fs::read_to_string(run.join("config.toml")).unwrap();
    toml::from_str(&text).unwrap()
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => copy(&path, &target),
            false => drop(std::fs::copy(&path, &target).unwrap()),
        }
    }
}

/// The files below `folder`.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found
}

/// A photograph-like JPEG.
fn jpeg(path: &Path, width: u32, height: u32) -> Vec<u8> {
    let image = image::RgbImage::from_fn(width, height, |x, y| {
        image::Rgb([(x * 5 + y) as u8, (y * 3) as u8, ((x ^ y) * 2) as u8])
    });
    image.save(path).unwrap();
    std::fs::read(path).unwrap()
}

#[test]
fn images_of_any_size_and_kind_are_trained_on() {
    let dir = tempfile::tempdir().unwrap();
    let images = dir.path().join("images");
    write_images(&images, 3, 1);
    // Mixed sizes and kinds: brought to the network's own size, which is said.
    jpeg(&images.join("train/down/wide.jpg"), 70, 40);
    image::GrayImage::from_fn(20, 45, |x, y| image::Luma([(x * y) as u8]))
        .save(images.join("train/down/grey.bmp"))
        .unwrap();
    let out = dir.path().join("mixed");
    let said = succeeded(train(&images, &out, &["--epochs", "1"])).stderr;
    assert!(said.contains("images of several sizes"), "{said}");
    assert!(config(&out)["data"].get("input_size").is_none());

    // As the flag says, from the files themselves, and the same whatever the number of threads.
    let more = [
        "--epochs",
        "1",
        "--input-size",
        "3,24,40",
        "--augment",
        "imagenet",
    ];
    let runs = ["1", "3"].map(|threads| {
        let out = dir.path().join(threads);
        let said = succeeded(train(
            &images,
            &out,
            &[&more[..], &["--threads", threads]].concat(),
        ));
        assert!(!said.stderr.contains("several sizes"), "{}", said.stderr);
        std::fs::read(out.join("compact/model.safetensors")).unwrap()
    });
    assert!(runs[0] == runs[1]);
    let size = &config(&dir.path().join("1"))["data"]["input_size"];
    assert_eq!(size.to_string().replace(' ', ""), "[3,24,40]");
    let artefact = std::fs::read_to_string(dir.path().join("1/compact/config.json")).unwrap();
    let artefact: Value = serde_json::from_str(&artefact).unwrap();
    assert_eq!(artefact["pretrained_cfg"]["crop_pct"], 0.875);
    assert_eq!(
        artefact["pretrained_cfg"]["input_size"],
        serde_json::json!([3, 24, 40])
    );

    // Measured on the test images alone, with the accuracy that the run reports.
    let only = dir.path().join("only");
    copy(&images.join("test"), &only.join("validation"));
    let eval = succeeded(run([
        "eval",
        &text(&dir.path().join("1")),
        "--data",
        &text(&only),
        "--json",
    ]));
    let eval: Value = serde_json::from_str(&eval.stdout).unwrap();
    let summary = std::fs::read_to_string(dir.path().join("1/summary.json")).unwrap();
    let summary: Value = serde_json::from_str(&summary).unwrap();
    assert_eq!(eval["accuracy"], summary["chosen"]["test"]["accuracy"]);
    assert_eq!(eval["images"], 3);
}

#[test]
fn grey_images_of_another_size_train_a_network_for_colours() {
    let dir = tempfile::tempdir().unwrap();
    let images = dir.path().join("digits");
    for (part, count) in [("train", 4), ("test", 1)] {
        for class in 0..2u32 {
            let folder = images.join(part).join(class.to_string());
            std::fs::create_dir_all(&folder).unwrap();
            for i in 0..count {
                image::GrayImage::from_fn(28, 28, |x, y| {
                    image::Luma([if x / 14 == class {
                        200
                    } else {
                        (x * y + i) as u8 % 50
                    }])
                })
                .save(folder.join(format!("{i}.png")))
                .unwrap();
            }
        }
    }
    let out = dir.path().join("run");
    let said = succeeded(train(
        &images,
        &out,
        &["--epochs", "1", "--augment", "crop"],
    ))
    .stderr;
    assert!(
        said.contains(
            "trained for images of 3,28,28, as these are; its own size is --input-size 3,32,32"
        ),
        "{said}"
    );
    assert_eq!(config(&out)["data"]["augment"].as_str(), Some("crop"));
    succeeded(run(["eval", &text(&out), "--data", &text(&images)]));
    // What is computed from the configuration knows the size.
    succeeded(run([
        "compact",
        &text(&out),
        "--out",
        &text(&dir.path().join("now")),
    ]));
    succeeded(run(["report", &text(&out)]));
    let flops = |size: &str| {
        let args = "flops --arch resnet20 --rates 0.5 --json --input-size";
        let json = succeeded(run(args.split(' ').chain([size]))).stdout;
        let json: Value = serde_json::from_str(&json).unwrap();
        json["full"]["ops"].as_u64().unwrap()
    };
    // Convolutions alone count: 4 times the pixels, and a linear layer that stays.
    let linear = 64 * 10;
    assert_eq!(flops("3,64,64") - linear, 4 * (flops("3,32,32") - linear));
}

#[test]
fn damaged_images_are_named_at_once_or_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let images = dir.path().join("images");
    write_images(&images, 3, 1);
    for i in 0..12 {
        let path = images.join(format!("train/down/bad{i:02}.jpg"));
        let whole = jpeg(&path, 32, 32);
        std::fs::write(&path, &whole[..whole.len() * (40 + i) / 60]).unwrap();
    }
    let out = dir.path().join("run");
    let refused = train(&images, &out, &["--epochs", "1"]);
    assert_eq!(refused.code, Some(2));
    assert_eq!(refused.stderr.lines().count(), 1, "{}", refused.stderr);
    for part in [
        "12 of 24 images cannot be read",
        "train/down/bad00.jpg: cut off",
        "bad09.jpg",
        "and 2 more",
    ] {
        assert!(refused.stderr.contains(part), "{part}: {}", refused.stderr);
    }
    assert!(!refused.stderr.contains("bad10.jpg") && !out.exists());
    let said = succeeded(train(&images, &out, &["--epochs", "1", "--skip-bad"])).stderr;
    assert!(
        said.contains("12 of 24 images cannot be read and are left out"),
        "{said}"
    );
    assert_eq!(config(&out)["data"]["skipped"].as_integer(), Some(12));
    // A run that left them out goes on without the flag.
    let more = run([
        "train",
        "--resume",
        &text(&out),
        "--epochs",
        "2",
        "--threads",
        "1",
    ]);
    succeeded(more);
}

#[test]
fn a_photograph_on_its_side_is_turned_and_a_panorama_is_read() {
    let (folder, dir) = (workshop(), tempfile::tempdir().unwrap());
    let plain = dir.path().join("plain.jpg");
    let bytes = jpeg(&plain, 48, 48);
    let turned = image::open(&plain).unwrap().rotate90();
    // Turned to the right and marked so, as cameras do it; JPEG's loss is not quite symmetric.
    let side = dir.path().join("side.jpg");
    image::DynamicImage::rotate180(&turned.rotate180())
        .save(&side)
        .unwrap();
    let stored = std::fs::read(&side).unwrap();
    let exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x08\0\0\0\0\0\0";
    let length = (exif.len() as u16 + 2).to_be_bytes();
    let marked = [&stored[..2], &[0xff, 0xe1], &length, exif, &stored[2..]].concat();
    std::fs::write(&side, marked).unwrap();
    let wide = dir.path().join("wide.jpg");
    jpeg(&wide, 8800, 240);
    assert!(!bytes.is_empty());
    let args = [
        "predict",
        &text(&folder.join("run")),
        &text(&plain),
        &text(&side),
        &text(&wide),
        "--json",
    ];
    let json = succeeded(run(args)).stdout;
    let json: Value = serde_json::from_str(&json).unwrap();
    let probabilities = |image: usize| {
        let classes = json["images"][image]["classes"].as_array().unwrap();
        let mut found: Vec<(String, f64)> = classes
            .iter()
            .map(|c| (c["label"].to_string(), c["probability"].as_f64().unwrap()))
            .collect();
        found.sort_by(|a, b| a.0.cmp(&b.0));
        found
    };
    for (a, b) in probabilities(0).iter().zip(&probabilities(1)) {
        assert!(a.0 == b.0 && (a.1 - b.1).abs() < 0.02, "{a:?} {b:?}");
    }
}

#[test]
fn a_run_goes_on_from_anywhere_and_is_trained_on() {
    let (folder, dir) = (workshop(), tempfile::tempdir().unwrap());
    let here = |name: &str| dir.path().join(name);
    copy(&folder.join("run"), &here("run"));
    let resume = |folder: &Path, more: &[&str]| {
        let run = text(&here("run"));
        let args = ["train", "--resume", &run, "--threads", "1"];
        outcome(dcff().args(args.iter().chain(more)).current_dir(folder))
    };
    // From another folder, where the name that was typed leads nowhere.
    let said = succeeded(resume(dir.path(), &["--epochs", "2"]));
    assert!(
        said.stdout.contains("after the last epoch (2)"),
        "{}",
        said.stdout
    );
    assert_eq!(
        config(&here("run"))["recipe"]["epochs"].as_integer(),
        Some(2)
    );
    // With the images in another place, whose name does not get into what the run makes.
    copy(&folder.join("images"), &here("pictures"));
    let said = succeeded(resume(dir.path(), &["--epochs", "3", "--data", "pictures"]));
    assert!(
        said.stdout.contains("after the last epoch (3)"),
        "{}",
        said.stdout
    );
    let metrics = std::fs::read_to_string(here("run/metrics.jsonl")).unwrap();
    assert_eq!(metrics.lines().count(), 3);
    // Half a cosine over all three epochs, each of one step: a quarter of the rate is left two thirds of the way.
    let last: Value = serde_json::from_str(metrics.lines().last().unwrap()).unwrap();
    let rate = last["learning_rate"].as_f64().unwrap();
    assert!((rate - 0.05 * 0.25).abs() < 1e-12, "{last}");
    // Other images are refused, under the flag that named them; so are fewer epochs.
    std::fs::remove_file(here("pictures/train/down/000.png")).unwrap();
    for (more, expected) in [
        (
            ["--epochs", "4", "--data", "pictures"],
            "--data: expected the images with SHA-256",
        ),
        (
            ["--epochs", "2", "--data", "pictures"],
            "--epochs: expected more than the 3 epochs of the run, got 2",
        ),
    ] {
        let refused = resume(dir.path(), &more);
        assert_eq!(refused.code, Some(2));
        assert!(refused.stderr.contains(expected), "{}", refused.stderr);
    }
    // Where they lay is a hint that may lead nowhere.
    let text = std::fs::read_to_string(here("run/config.toml")).unwrap();
    let gone = text.replace(&folder.display().to_string(), "/gone");
    assert_ne!(gone, text);
    std::fs::write(here("run/config.toml"), gone).unwrap();
    let refused = resume(dir.path(), &[]);
    assert!(
        refused
            .stderr
            .contains("/gone/images: the run's images are not there any more: say with --data"),
        "{}",
        refused.stderr
    );
    // Beside the run, under the name that was typed, they are found.
    copy(&folder.join("images"), &here("images"));
    succeeded(resume(&std::env::temp_dir(), &[]));
}

#[test]
fn what_is_handed_over_does_not_tell_where_the_images_lay() {
    let (folder, dir) = (workshop(), tempfile::tempdir().unwrap());
    let here = |name: &str| text(&dir.path().join(name));
    let run_folder = text(&folder.join("run"));
    succeeded(run([
        "export",
        &run_folder,
        "--format",
        "onnx",
        "--out",
        &here("onnx"),
    ]));
    succeeded(run([
        "export",
        &run_folder,
        "--format",
        "pytorch",
        "--out",
        &here("pytorch"),
    ]));
    succeeded(run(["compact", &run_folder, "--out", &here("compact")]));
    succeeded(run(["report", &run_folder, "--out", &here("report")]));
    succeeded(run([
        "publish",
        &run_folder,
        "a/b",
        "--dry-run",
        "--out",
        &here("hub"),
    ]));
    let told = files(dir.path())
        .into_iter()
        .chain(files(&folder.join("run/compact")));
    let place = text(folder);
    for file in told {
        let bytes = std::fs::read(&file).unwrap();
        let found = bytes.windows(place.len()).any(|w| w == place.as_bytes());
        assert!(!found, "{} tells {place}", file.display());
    }
    // Older versions wrote it: it is not handed on.
    let config = std::fs::read_to_string(folder.join("run/compact/config.json")).unwrap();
    let old = dir.path().join("old");
    copy(&folder.join("run/compact"), &old);
    let older = config.replace("\"folder:images\"", "\"/home/me/images\"");
    assert_ne!(older, config);
    std::fs::write(old.join("config.json"), older).unwrap();
    succeeded(run([
        "export",
        &text(&old),
        "--format",
        "onnx",
        "--out",
        &here("again"),
    ]));
    let bytes = std::fs::read(dir.path().join("again/model.onnx")).unwrap();
    assert!(!bytes.windows(8).any(|w| w == b"/home/me"));
}

#[test]
fn weights_from_elsewhere_are_pruned_and_weights_of_other_types_are_read() {
    let (folder, dir) = (workshop(), tempfile::tempdir().unwrap());
    let images = folder.join("images");
    let here = |name: &str| dir.path().join(name);
    let dense = "train --arch resnet20 --method dense --recipe quick --batch-size 12 --hold-out 0 --epochs 1 --threads 1";
    let (data, out) = (text(&images), text(&here("dense")));
    succeeded(run(dense
        .split(' ')
        .chain(["--data", &data, "--out", &out])));
    let prune = [
        "--pipeline",
        "prune",
        "--criterion",
        "l1-norm",
        "--epochs",
        "2",
        "--dense-from",
    ];
    // From a folder of weights at a cost that nobody knows, from a run's dense stage at its own.
    for (from, name, known) in [("dense/compact", "a", false), ("dense", "b", true)] {
        let from = text(&here(from));
        succeeded(train(
            &images,
            &here(name),
            &[&prune[..], &[&from]].concat(),
        ));
        let summary = std::fs::read_to_string(here(name).join("summary.json")).unwrap();
        let summary: Value = serde_json::from_str(&summary).unwrap();
        let stages = summary["stages"].as_array().unwrap();
        assert_eq!(stages[0]["reused"], true);
        assert_eq!(stages[0]["training_macs"] != 0, known);
        assert_eq!(stages[1]["epochs"], 1);
    }
    // A narrow network is not what is pruned.
    let narrow = text(&folder.join("run"));
    let refused = train(&images, &here("c"), &[&prune[..], &[&narrow]].concat());
    assert_eq!(refused.code, Some(2));
    assert!(
        refused
            .stderr
            .contains("expected the whole resnet20 for images of [3, 32, 32] and 3 classes"),
        "{}",
        refused.stderr
    );
}
