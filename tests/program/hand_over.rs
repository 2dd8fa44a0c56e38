//! The built program from a finished run to what others load: predictions, exports, the tree for the Hub.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use dcff_tests::program::{self, dcff, outcome, run, short_run, succeeded, write_images};
use serde_json::Value;

/// A folder with `images` and a finished `run` on them; trained once for all tests, which must not change it.
fn workshop() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let images = folder.path().join("images");
        write_images(&images, 16, 8);
        let out = folder.path().join("run");
        let more = ["--rates", "0.5", "--epochs", "2"];
        succeeded(run(short_run(&images, &out, &more)));
        folder
    });
    folder.path()
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// The one line with which `args` are refused.
fn refused<const N: usize>(args: [&str; N]) -> String {
    program::refused(run(args))
}

/// All files below `folder`: paths inside it, with `/`, and bytes.
fn tree(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = text(path.strip_prefix(folder).unwrap()).replace('\\', "/");
                files.insert(name, std::fs::read(path).unwrap());
            }
        }
    }
    files
}

fn names(folder: &Path) -> Vec<String> {
    tree(folder).into_keys().collect()
}

#[test]
fn predicts_the_classes_of_images_of_any_size() {
    let (folder, scratch) = (workshop(), tempfile::tempdir().unwrap());
    let (artefact, right) = (
        text(&folder.join("run")),
        folder.join("images/test/down/003.png"),
    );
    let large = scratch.path().join("large.png");
    let image = image::open(&right).unwrap();
    image
        .resize_exact(96, 64, image::imageops::FilterType::Nearest)
        .save(&large)
        .unwrap();
    let (right, large) = (text(&right), text(&large));

    let json = succeeded(run([
        "predict", &artefact, &right, &large, "--top", "3", "--json",
    ]));
    let json: Value = serde_json::from_str(&json.stdout).unwrap();
    let images = json["images"].as_array().unwrap();
    assert_eq!(images.len(), 2);
    for image in images {
        let classes = image["classes"].as_array().unwrap();
        let sum: f64 = classes
            .iter()
            .map(|c| c["probability"].as_f64().unwrap())
            .sum();
        assert_eq!(classes.len(), 3);
        assert!((sum - 1.0).abs() < 1e-9, "{sum}");
        let first = classes[0]["probability"].as_f64().unwrap();
        assert!(first >= classes[1]["probability"].as_f64().unwrap());
    }
    // The text says the same.
    let plain = succeeded(run(["predict", &artefact, &right, "--top", "1"])).stdout;
    let class = images[0]["classes"][0]["label"].as_str().unwrap();
    assert!(
        plain.starts_with(&right) && plain.trim_end().ends_with(class),
        "{plain}"
    );
    assert_eq!(plain.lines().count(), 2, "{plain}");

    // The sound ones are answered for.
    let partly = run(["predict", &artefact, &right, "no/such.png", &right]);
    assert_eq!(partly.code, Some(1), "{}", partly.stderr);
    assert!(
        partly.stderr.starts_with("error: no/such.png: "),
        "{}",
        partly.stderr
    );
    assert_eq!(partly.stderr.lines().count(), 1, "{}", partly.stderr);
    assert_eq!(
        partly.stdout.matches(&right).count(),
        2,
        "{}",
        partly.stdout
    );
    let missing = refused(["predict", &artefact, "no/such.png"]);
    assert!(missing.contains("no/such.png"), "{missing}");
    let text = refused(["predict", &artefact, &text(&folder.join("run/config.toml"))]);
    assert!(text.contains("expected a PNG, JPEG, WebP"), "{text}");
}

#[test]
fn exports_stand_beside_the_weights_or_in_a_folder_of_their_own() {
    let (folder, scratch) = (workshop(), tempfile::tempdir().unwrap());
    let out = |name: &str| scratch.path().join(name);
    let artefact = text(&folder.join("run/compact"));
    let export = |out: &Path, more: &[&str]| {
        let out = text(out);
        let fixed = ["export", &artefact, "--out", &out];
        succeeded(run(fixed.iter().chain(more)))
    };
    let printed = export(&out("torch"), &["--format", "pytorch"]).stdout;
    assert_eq!(printed.lines().count(), 3, "{printed}");
    let expected = ["config.json", "model.safetensors", "modeling_dcff.py"];
    assert_eq!(names(&out("torch")), expected);
    for name in &expected[..2] {
        let [a, b] = [out("torch"), folder.join("run/compact")]
            .map(|f| std::fs::read(f.join(name)).unwrap());
        assert!(a == b, "{name}");
    }
    export(&out("onnx"), &["--format", "onnx"]);
    export(&out("onnx-folded"), &["--format", "onnx", "--fold-bn"]);
    assert_eq!(names(&out("onnx")), ["model.onnx"]);
    let size = |name: &str| {
        std::fs::metadata(out(name).join("model.onnx"))
            .unwrap()
            .len()
    };
    assert!(size("onnx-folded") < size("onnx"));

    // Folded weights are weights like others: the program itself reads them, and they decide alike.
    export(&out("folded"), &["--format", "pytorch", "--fold-bn"]);
    let images = text(&folder.join("images"));
    let [plain, folded] = [artefact.clone(), text(&out("folded"))].map(|artefact| {
        let outcome = succeeded(run(["eval", &artefact, "--data", &images, "--json"]));
        serde_json::from_str::<Value>(&outcome.stdout).unwrap()
    });
    assert_eq!(plain["accuracy"], folded["accuracy"]);
    let [a, b] = [plain, folded].map(|value| value["loss"].as_f64().unwrap());
    assert!((a - b).abs() < 1e-5, "{a} {b}");

    let error = refused(["export", &artefact, "--format", "torch"]);
    assert!(
        error.contains("expected pytorch or onnx, got 'torch'"),
        "{error}"
    );
    let error = refused(["export", &artefact, "--format", "pytorch", "--fold-bn"]);
    assert!(error.contains("--out"), "{error}");
    assert!(!folder.join("run/compact/modeling_dcff.py").exists());
}

#[test]
fn a_dry_run_is_the_whole_repository() {
    let (folder, scratch) = (workshop(), tempfile::tempdir().unwrap());
    let run_folder = text(&folder.join("run"));
    let out = scratch.path().join("hub");
    let publish = |out: &Path| {
        let out = text(out);
        succeeded(run([
            "publish",
            &run_folder,
            "someone/tiny",
            "--dry-run",
            "--license",
            "cc0-1.0",
            "--out",
            &out,
        ]))
    };
    let listing = publish(&out).stdout;
    let files = tree(&out);
    let expected = [
        "README.md",
        "config.json",
        "model.onnx",
        "model.safetensors",
        "modeling_dcff.py",
        "training/config.toml",
        "training/kept-channels.svg",
        "training/learning-curve.svg",
        "training/metrics.jsonl",
        "training/report.md",
        "training/summary.json",
    ];
    assert_eq!(names(&out), expected);
    for name in expected {
        assert!(listing.contains(name), "{listing}");
    }
    // The same again: the same bytes, in the old one's place.
    publish(&out);
    assert!(tree(&out) == files);

    let card = String::from_utf8(files["README.md"].clone()).unwrap();
    for line in [
        "license: \"cc0-1.0\"",
        "library_name: dcff",
        "pipeline_tag: image-classification",
        "# tiny",
        "snapshot_download(\"someone/tiny\")",
        "dcff predict hf://someone/tiny",
        "arXiv:2107.06916",
        "](training/learning-curve.svg)",
        "](training/kept-channels.svg)",
    ] {
        assert!(card.contains(line), "{line} in {card}");
    }
    let curve = String::from_utf8(files["training/learning-curve.svg"].clone()).unwrap();
    assert!(
        curve.starts_with("<svg ") && curve.contains("class=\"line\""),
        "{curve}"
    );
    // Where the images lie on this machine is not told.
    let place = text(folder);
    for (name, bytes) in &files {
        let found = bytes
            .windows(place.len())
            .any(|window| window == place.as_bytes());
        assert!(!found, "{name}");
    }
    let config = String::from_utf8(files["training/config.toml"].clone()).unwrap();
    assert!(config.contains("name = \"folder:images\""), "{config}");
    // What is published still loads.
    succeeded(run([
        "eval",
        &text(&out),
        "--data",
        &text(&folder.join("images")),
    ]));
}

#[test]
fn what_cannot_be_published_is_refused_and_nothing_is_written() {
    let (folder, scratch) = (workshop(), tempfile::tempdir().unwrap());
    let run_folder = text(&folder.join("run"));
    let foreign = scratch.path().join("foreign");
    std::fs::create_dir(&foreign).unwrap();
    std::fs::write(foreign.join("thesis.txt"), "dear").unwrap();
    let out = text(&foreign);
    let error = refused(["publish", &run_folder, "a/b", "--dry-run", "--out", &out]);
    assert!(
        error.contains("expected a new or empty folder, or that of an earlier dry run; it holds thesis.txt, which no dry run writes"),
        "{error}"
    );
    assert_eq!(names(&foreign), ["thesis.txt"]);

    let error = refused(["publish", &run_folder, "tiny", "--dry-run"]);
    assert!(error.contains("expected OWNER/NAME"), "{error}");
    let error = refused([
        "publish",
        &run_folder,
        "a/b",
        "--dry-run",
        "--license",
        "a: b",
    ]);
    assert!(error.contains("--license"), "{error}");
    let error = refused(["publish", &out, "a/b", "--dry-run"]);
    assert!(error.contains("config.toml"), "{error}");
    let error = refused(["pull", "a/../b"]);
    assert!(error.contains("repository `a/../b`"), "{error}");
    let error = refused(["predict", "hf://a/b@../../x", "image.png"]);
    assert!(error.contains("revision"), "{error}");
    let copy = copy_without_summary(&folder.join("run"), scratch.path());
    let summary = std::fs::read(folder.join("run/summary.json")).unwrap();
    let summary: Value = serde_json::from_slice(&summary).unwrap();
    for (field, value) in [
        ("/last/test/accuracy", Value::from(1.7)),
        ("/macs/compact", Value::from(7)),
        ("/params/full", Value::from(7)),
        ("/published_ops/full", Value::from(7)),
        ("/widths/0/kept", Value::from(3)),
    ] {
        let mut altered = summary.clone();
        *altered.pointer_mut(field).unwrap() = value;
        let file = copy.join("summary.json");
        std::fs::write(&file, altered.to_string()).unwrap();
        let name = field.trim_start_matches('/').replace('/', ".");
        let name = name.split(".0").next().unwrap();
        let start = format!("summary.json: {name}: expected ");
        let error = refused(["publish", &text(&copy), "a/b", "--dry-run"]);
        assert!(error.contains(&start), "{error}");
        // Alone there is nothing left to report; beside a sound run it is a marked row.
        let error = refused(["report", &text(&copy)]);
        assert!(error.contains(&start), "{error}");
        let report = succeeded(run(["report", &text(&copy), &run_folder])).stdout;
        let row = format!("| failed: {}: {name}: expected ", file.display());
        assert!(report.contains(&row), "{report}");
        std::fs::remove_file(file).unwrap();
    }
    let error = refused(["publish", &text(&copy), "a/b", "--dry-run"]);
    assert!(error.contains("the run is not finished"), "{error}");
    assert!(!folder.join("run/hub").exists() && !copy.join("hub").exists());
}

#[test]
fn a_dry_run_takes_no_place_where_something_else_lies() {
    let (folder, scratch) = (workshop(), tempfile::tempdir().unwrap());
    let run_folder = text(&folder.join("run"));
    let project = scratch.path().join("project");
    let out = text(&project);
    let publish = || ["publish", &run_folder, "a/b", "--dry-run", "--out", &out];
    let left_alone = |reason: &str| {
        let before = tree(&project);
        let error = refused(publish());
        assert!(error.contains(reason), "{error}");
        assert!(tree(&project) == before, "{reason}");
    };
    // What an export leaves is no dry run, and a repository in it is its owner's.
    succeeded(run([
        "export",
        &text(&folder.join("run/compact")),
        "--format",
        "pytorch",
        "--out",
        &out,
    ]));
    left_alone("it has no README.md");
    std::fs::create_dir(project.join(".git")).unwrap();
    std::fs::write(project.join(".git/HEAD"), "ref: refs/heads/main").unwrap();
    left_alone("it holds .git/, which no dry run writes");

    std::fs::remove_dir_all(&project).unwrap();
    succeeded(run(publish()));
    for foreign in ["notes.txt", "training/notes.txt"] {
        std::fs::write(project.join(foreign), "mine").unwrap();
        left_alone(&format!("it holds {foreign}, which no dry run writes"));
        std::fs::remove_file(project.join(foreign)).unwrap();
    }
    // What Python leaves beside the module that it has loaded is in nobody's way.
    let cache = project.join("__pycache__");
    std::fs::create_dir(&cache).unwrap();
    std::fs::write(cache.join("modeling_dcff.cpython-313.pyc"), "").unwrap();
    succeeded(run(publish()));
    assert!(!cache.exists());
}

#[test]
fn a_dense_stage_taken_over_is_not_told_by_its_place() {
    let (folder, scratch) = (workshop(), tempfile::tempdir().unwrap());
    let images = text(&folder.join("images"));
    let at = |name: &str| text(&scratch.path().join(name));
    let train = |out: &str, more: &[&str]| {
        let fixed = [
            "train",
            "--arch",
            "resnet20",
            "--rates",
            "0.5",
            "--pipeline",
            "prune",
            "--dense-epochs",
            "1",
            "--finetune-epochs",
            "1",
            "--batch-size",
            "24",
            "--hold-out",
            "0",
            "--data",
            &images,
            "--out",
            out,
        ];
        succeeded(run(fixed.iter().chain(more)))
    };
    train(&at("own"), &["--criterion", "l1-norm"]);
    let from = at("own");
    train(
        &at("taken"),
        &["--criterion", "l1-norm", "--dense-from", &from],
    );
    let publish = |name: &str| {
        let (from, to) = (at(name), at(&format!("hub-{name}")));
        succeeded(run(["publish", &from, "a/b", "--dry-run", "--out", &to]));
        tree(Path::new(&to))
    };
    let (own, taken) = (publish("own"), publish("taken"));
    let place = text(scratch.path());
    for (name, bytes) in &taken {
        for word in [&place, "dense_from"] {
            let found = bytes.windows(word.len()).any(|w| w == word.as_bytes());
            assert!(!found, "{name} holds {word}");
        }
    }
    // The same weights, and the same command to make them.
    for name in ["model.safetensors", "model.onnx", "training/config.toml"] {
        assert!(own[name] == taken[name], "{name}");
    }
    let card =
        |files: &BTreeMap<String, Vec<u8>>| String::from_utf8(files["README.md"].clone()).unwrap();
    let sentence = "without the dense stage, for which an earlier run took ";
    assert!(card(&taken).contains(sentence), "{}", card(&taken));
    assert!(!card(&own).contains(sentence), "{}", card(&own));
    let command = "dcff train --config training/config.toml --data PATH --out runs/b";
    assert!(card(&taken).contains(command), "{}", card(&taken));
}

#[test]
fn a_cached_network_is_that_of_the_revision_asked_for() {
    let (folder, scratch) = (workshop(), tempfile::tempdir().unwrap());
    let cached = scratch.path().join("models--user--net");
    let snapshot = cached.join("snapshots").join("c0ffee0".repeat(6));
    std::fs::create_dir_all(&snapshot).unwrap();
    for name in ["config.json", "model.safetensors"] {
        let from = folder.join("run/compact").join(name);
        std::fs::copy(from, snapshot.join(name)).unwrap();
    }
    std::fs::create_dir(cached.join("refs")).unwrap();
    std::fs::write(cached.join("refs/main"), "c0ffee0".repeat(6)).unwrap();
    let images = text(&folder.join("images"));
    let eval = |source: &str| {
        let mut command = dcff();
        command.env("HF_HUB_CACHE", scratch.path());
        command.env("HF_HUB_OFFLINE", "1");
        outcome(command.args(["eval", source, "--data", &images]))
    };
    for source in ["hf://user/net", "hf://user/net@c0ffee0c"] {
        succeeded(eval(source));
    }
    let other = eval("hf://user/net@v2");
    assert_eq!(other.code, Some(2), "{}", other.stderr);
    assert_eq!(other.stderr.lines().count(), 1, "{}", other.stderr);
    assert!(other.stderr.contains("v2"), "{}", other.stderr);
}

fn copy_without_summary(run: &Path, to: &Path) -> PathBuf {
    let copy = to.join("copy");
    for (name, bytes) in tree(run) {
        if name != "summary.json" {
            let path = copy.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
    }
    copy
}
