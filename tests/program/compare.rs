//! `dcff compare` as a user runs it: validated first, resumable, a failed run is a row and not the end.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::SystemTime;

use dcff_tests::program::{dcff, json, run, succeeded, workshop};

/// A comparison of four runs: two criteria, two pipelines.
fn compare(images: &Path, out: &Path, more: &[&str]) -> Vec<String> {
    let mut args: Vec<String> = [
        "--threads",
        "1",
        "compare",
        "--arch",
        "resnet20",
        "--criteria",
        "l1-norm,random",
        "--keep",
        "select",
        "--temperature",
        "stretched,published",
        "--pipeline",
        "scratch,prune",
        "--no-estimate",
    ]
    .map(str::to_owned)
    .to_vec();
    args.extend([
        "--out".to_owned(),
        out.display().to_string(),
        "--".to_owned(),
    ]);
    args.extend(["--data".to_owned(), images.display().to_string()]);
    let train = [
        "--rates",
        "0.5",
        "--epochs",
        "4",
        "--batch-size",
        "10",
        "--lr",
        "0.02",
        "--schedule",
        "cosine",
        "--hold-out",
        "0",
    ];
    args.extend(train.iter().map(|a| (*a).to_owned()));
    args.extend(more.iter().map(|a| (*a).to_owned()));
    args
}

const RUNS: [&str; 4] = [
    "resnet20-scratch-l1-norm-select-seed1",
    "resnet20-scratch-random-select-seed1",
    "resnet20-prune-l1-norm-seed1",
    "resnet20-prune-random-seed1",
];

/// When each file of a run was written last.
fn written(folder: &Path) -> Vec<(PathBuf, SystemTime)> {
    let mut files: Vec<_> = [
        "config.toml",
        "metrics.jsonl",
        "summary.json",
        "compact/model.safetensors",
    ]
    .map(|name| folder.join(name))
    .into_iter()
    .map(|path| {
        let time = path.metadata().unwrap().modified().unwrap();
        (path, time)
    })
    .collect();
    files.sort();
    files
}

#[cfg(unix)]
#[test]
fn a_killed_comparison_goes_on_to_the_same_report() {
    let (dir, images) = workshop();
    let (whole, broken) = (dir.path().join("whole"), dir.path().join("broken"));
    let outcome = succeeded(run(compare(&images, &whole, &[])));
    assert!(
        outcome.stderr.contains("no temperature enters the scores"),
        "{}",
        outcome.stderr
    );
    for (name, reused) in RUNS.into_iter().zip([false, false, false, true]) {
        let summary = std::fs::read_to_string(whole.join(name).join("summary.json")).unwrap();
        assert_eq!(summary.contains("\"reused\": true"), reused, "{name}");
        assert!(
            whole.join(name).join("events.out.tfevents.dcff").exists(),
            "{name}"
        );
    }

    let mut child = dcff()
        .args(compare(&images, &broken, &[]))
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    // In the middle of the second run.
    let second = broken.join(RUNS[1]);
    while !second.join("metrics.jsonl").exists() {
        assert!(
            child.try_wait().unwrap().is_none(),
            "the comparison ended early"
        );
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(
        !second.join("summary.json").exists(),
        "the run was over before the kill"
    );
    let first = written(&broken.join(RUNS[0]));

    let resumed = succeeded(run(compare(&images, &broken, &[])));
    assert!(
        resumed.stderr.contains("1 of 4 runs are finished already"),
        "{}",
        resumed.stderr
    );
    assert!(
        resumed.stderr.contains(&format!("{}: continued", RUNS[1])),
        "{}",
        resumed.stderr
    );
    assert_eq!(
        first,
        written(&broken.join(RUNS[0])),
        "a finished run was touched"
    );
    for name in RUNS {
        // What the last run says of itself names the folder whose dense network it started from.
        let own = ["config.toml", "compact/model.safetensors"];
        let own = &own[..if name == RUNS[3] { 0 } else { 2 }];
        for file in ["metrics.jsonl", "selection.jsonl"].iter().chain(own) {
            let path = |out: &Path| out.join(name).join(file);
            let [a, b] = [&whole, &broken].map(|out| std::fs::read(path(out)).unwrap());
            assert!(a == b, "{name}/{file}");
        }
    }
    assert_eq!(report(&whole), report(&broken));
}

/// The files of the report without what is marked as times.
fn report(out: &Path) -> Vec<(String, String)> {
    let report = out.join("report");
    let mut names: Vec<String> = [
        "report.html",
        "report.md",
        "report.tex",
        "groups.csv",
        "runs.csv",
    ]
    .map(str::to_owned)
    .to_vec();
    for entry in std::fs::read_dir(report.join("figures")).unwrap() {
        names.push(format!("figures/{}", entry.unwrap().file_name().display()));
    }
    names.sort();
    assert!(names.len() > 10, "{names:?}");
    let read = |name: String| {
        let text = std::fs::read_to_string(report.join(&name)).unwrap();
        let text = match (text.find("<!-- times"), text.find("<!-- end of times -->")) {
            (Some(from), Some(to)) => format!("{}{}", &text[..from], &text[to..]),
            _ => text,
        };
        (name, text)
    };
    names.into_iter().map(read).collect()
}

#[test]
fn a_failed_run_is_a_row_and_not_the_end() {
    let (dir, images) = workshop();
    let out = dir.path().join("out");
    let file = dir.path().join("matrix.toml");
    let text = format!(
        "arch = [\"resnet20\"]\n[train]\ndata = {:?}\nrates = 0.5\nepochs = 2\nbatch-size = 12\nhold-out = 0\n\
         [[matrix]]\ncriteria = [\"random\"]\nlabel = \"hopeless\"\ntrain.weight-decay = 1e6\n\
         [[matrix]]\ncriteria = [\"random\"]\n",
        images.display().to_string()
    );
    std::fs::write(&file, text).unwrap();
    let outcome = run([
        "compare".as_ref(),
        file.as_os_str(),
        "--out".as_ref(),
        out.as_os_str(),
        "--jobs".as_ref(),
        "2".as_ref(),
    ]);
    assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
    // Both settings were measured beforehand.
    let estimates = outcome.stderr.matches(" for each of 1\n").count();
    assert_eq!(estimates, 2, "{}", outcome.stderr);
    let markdown = std::fs::read_to_string(out.join("report/report.md")).unwrap();
    assert!(markdown.contains("| failed: "), "{markdown}");
    assert!(markdown.contains("| 0 (1 failed) |"), "{markdown}");
    assert!(
        markdown.contains("1 finished runs and 1 that did not finish"),
        "{markdown}"
    );
}

#[test]
fn every_run_takes_images_of_the_size_asked_for() {
    let (dir, images) = workshop();
    let out = dir.path().join("out");
    let words = "compare --arch resnet20 --criteria l1-norm --keep select --no-estimate -- --rates 0.5 --epochs 1 --batch-size 12 \
                 --hold-out 0 --input-size 3,24,24";
    let mut args: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
    args.extend(["--data".to_owned(), images.display().to_string()]);
    args.splice(1..1, ["--out".to_owned(), out.display().to_string()]);
    succeeded(run(args));

    let run_folder = out.join("resnet20-l1-norm-select-seed1");
    let summary = json(&run_folder.join("summary.json"));
    let size = &summary["config"]["data"]["input_size"];
    assert_eq!(size, &serde_json::json!([3, 24, 24]));
    // Nine sixteenths of the multiply-accumulates at 32x32, but for the classifier, which has three classes here and ten there.
    let macs = |key: &str| summary["macs"][key].as_u64().unwrap();
    let at_32 = "flops --arch resnet20 --rates 0.5 --json";
    let at_32 = succeeded(run(at_32.split(' '))).stdout;
    let at_32: serde_json::Value = serde_json::from_str(&at_32).unwrap();
    assert_eq!(
        16 * (macs("full") - 64 * 3),
        9 * (at_32["full"]["ops"].as_u64().unwrap() - 64 * 10)
    );
    assert!(macs("compact") < macs("full"));
}

#[test]
fn refuses_before_anything_runs() {
    let (dir, images) = workshop();
    let out = dir.path().join("out");
    for (more, expected) in [
        (
            vec!["--momentum", "2"],
            "recipe.momentum: expected 0 to 1, got 2",
        ),
        (vec!["--seed", "2"], "--seed: set by the comparison itself"),
        (vec!["--rates", "1.0"], "--rates"),
    ] {
        let mut args = compare(&images, &out, &[]);
        if let Some(at) = args.iter().position(|a| a == more[0]) {
            args[at + 1] = more[1].to_owned();
        } else {
            args.extend(more.iter().map(|a| (*a).to_owned()));
        }
        let outcome = run(&args);
        assert_eq!(outcome.code, Some(2), "{}", outcome.stderr);
        assert!(outcome.stderr.contains(expected), "{}", outcome.stderr);
        assert_eq!(outcome.stderr.lines().count(), 1, "{}", outcome.stderr);
        assert!(!out.exists());
    }
    let missing = compare(&dir.path().join("nowhere"), &out, &[]);
    assert_eq!(run(&missing).code, Some(2));
    assert!(!out.exists());
}
