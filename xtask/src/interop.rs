//! `cargo xtask interop`: what is exported and published, read by the programs that others use.
//!
//! Python's packages `torch`, `onnx`, `onnxruntime`, `safetensors` and `huggingface_hub` load networks that were trained a little and
//! must give our logits; the checks themselves are `tests/interop/check.py`.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{build, cargo, python, root, succeed, target};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Leave out publishing to a local server and fetching from it, which needs the Hub's client and some 200 crates
    #[arg(long)]
    no_hub: bool,
}

const NETWORKS: [&str; 4] = ["vgg16", "resnet56", "googlenet", "resnet50"];

pub(crate) fn run(args: &Args) -> Result<()> {
    let check = Check {
        python: python::with_packages("interop", &root().join("tests/interop/requirements.txt"))?,
    };
    let dcff = build(&[])?;
    let folder = target().join("interop");
    if folder.exists() {
        std::fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
    }
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    step("training four networks a little");
    let example = ["run", "--quiet", "--release", "--package", "dcff-cli"];
    succeed(
        cargo(example)
            .args(["--example", "interop", "--"])
            .arg(&folder),
    )?;
    for name in NETWORKS {
        step(name);
        let network = folder.join(name);
        for (form, fold) in [("plain", &[][..]), ("folded", &["--fold-bn"])] {
            for format in ["pytorch", "onnx"] {
                let mut export = Command::new(&dcff);
                export.arg("export").arg(network.join("artefact"));
                export.args(["--format", format]).args(fold);
                export.arg("--out").arg(network.join(form));
                succeed(export.stdout(Stdio::null()))?;
            }
        }
        check.run(["network".as_ref(), network.as_os_str()])?;
    }

    step("a stranger's path: train, publish, load");
    let run = folder.join("run");
    let train = [
        "train",
        "--arch",
        "resnet20",
        "--rates",
        "0.5",
        "--data",
        "synthetic",
        "--recipe",
        "quick",
        "--epochs",
        "2",
    ];
    succeed(Command::new(&dcff).args(train).arg("--out").arg(&run))?;
    succeed(
        Command::new(&dcff)
            .arg("publish")
            .arg(&run)
            .args(["someone/tiny", "--dry-run"]),
    )?;
    let hub = run.join("hub");
    check.run(["card".as_ref(), hub.as_os_str()])?;
    let images = predictions(&dcff, &check, &folder, &hub)?;
    if !args.no_hub {
        local_hub(&check, &folder, &run, &images)?;
    }
    step("all programs agree");
    Ok(())
}

/// Predictions of ours beside PyTorch's, on images of three sizes; returns the images.
fn predictions(dcff: &Path, check: &Check, folder: &Path, hub: &Path) -> Result<Vec<PathBuf>> {
    let images = folder.join("images");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&images)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    files.sort();
    let json = folder.join("predictions.json");
    std::fs::write(
        &json,
        predict(Command::new(dcff).arg("predict").arg(hub), &files)?,
    )?;
    let mut args = vec!["predict".into(), hub.to_owned(), json];
    args.extend(files.iter().cloned());
    check.run(args)?;
    Ok(files)
}

fn predict(command: &mut Command, images: &[PathBuf]) -> Result<Vec<u8>> {
    output(command.args(images).args(["--top", "10", "--json"]))
}

fn output(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "{command:?}: {}", output.status);
    Ok(output.stdout)
}

/// Publishes the run to a server on this machine, and fetches it with Python's client and with ours.
fn local_hub(check: &Check, folder: &Path, run: &Path, images: &[PathBuf]) -> Result<()> {
    const REPO: &str = "someone/tiny";
    step("publishing to a local server and fetching from it");
    let dcff = build(&["--features", "hub"])?;
    let server = ["run", "--quiet", "--release", "--package", "dcff-hub"];
    let mut server = cargo(server)
        .args(["--features", "client", "--example", "local_hub"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut endpoint = String::new();
    if let Some(stdout) = server.stdout.take() {
        BufReader::new(stdout).read_line(&mut endpoint)?;
    }
    let with_hub = |command: &mut Command| {
        command
            .env("HF_ENDPOINT", endpoint.trim())
            .env("HF_HOME", folder.join("hf-home"))
            // The server's own token; no account is involved.
            .env("HF_TOKEN", "hf_verysecretwriter");
    };
    let ours = || {
        let mut command = Command::new(&dcff);
        with_hub(&mut command);
        command
    };
    succeed(ours().arg("publish").arg(run).arg(REPO))?;
    let mut python = check.command();
    with_hub(&mut python);
    succeed(python.args(["hub", REPO]).arg(run.join("hub")))?;
    let pulled = String::from_utf8(output(ours().args(["pull", REPO]))?)?;
    for name in ["model.safetensors", "config.json"] {
        let same = std::fs::read(Path::new(pulled.trim()).join(name))?
            == std::fs::read(run.join("hub").join(name))?;
        ensure!(same, "dcff pull: {name} is not what was published");
    }
    let fetched = predict(ours().args(["predict", &format!("hf://{REPO}")]), images)?;
    let fetched: Value = serde_json::from_slice(&fetched)?;
    let local: Value = serde_json::from_slice(&std::fs::read(folder.join("predictions.json"))?)?;
    ensure!(
        fetched["images"] == local["images"],
        "dcff predict hf://{REPO}: other predictions"
    );
    // The server ends with its standard input.
    drop(server.stdin.take());
    server.wait()?;
    Ok(())
}

/// The checks' program.
struct Check {
    python: PathBuf,
}

impl Check {
    fn command(&self) -> Command {
        let mut command = Command::new(&self.python);
        command.arg(root().join("tests/interop/check.py"));
        command
    }

    fn run<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<()> {
        succeed(self.command().args(args))
    }
}

fn step(name: &str) {
    eprintln!("== {name}");
}
