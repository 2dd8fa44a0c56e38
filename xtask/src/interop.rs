//! `cargo xtask interop`: what is exported and published, read by the programs that others use.
//!
//! Python's packages `torch`, `onnx`, `onnxruntime`, `safetensors` and `huggingface_hub` load networks that were trained a little and
//! must give our logits; the checks themselves are `tests/interop/check.py`.

mod check;
mod hub;
mod stranger;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::python;
use check::{Check, Predictions, TOP_JSON, built};

use crate::run::{cargo, root, succeed, target};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Leave out publishing to a local server and fetching from it, which needs the Hub's client and some 170 crates
    #[arg(long)]
    no_hub: bool,
}

const NETWORKS: [&str; 10] = [
    "vgg16",
    "resnet56",
    "googlenet",
    "resnet50",
    "mobilenet-v2-cifar",
    // Without filters that were masked, what these contributed carried along.
    "resnet56-masked",
    "vgg16-masked",
    "googlenet-masked",
    "densenet40-masked",
    "mobilenet-v2-cifar-masked",
];

pub(crate) fn run(args: &Args) -> Result<()> {
    let mut steps = Steps(None);
    steps.begin("Python and its packages");
    let requirements = root().join("tests/interop/requirements.txt");
    let check = Check {
        python: python::with_packages("interop", &requirements, python::PyTorch::Any)?,
    };
    check.run(["versions"])?;
    steps.begin("building the programs");
    build(!args.no_hub)?;
    let dcff = built("dcff");
    let folder = target().join("interop");
    if folder.exists() {
        std::fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
    }
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    steps.begin("training ten networks a little");
    succeed(Command::new(built("examples/interop")).arg(&folder))?;
    for name in NETWORKS {
        steps.begin(name);
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

    steps.begin("a stranger's path: the README's commands");
    let stranger = folder.join("stranger");
    stranger::follow(&dcff, &check.python, &stranger)?;
    let (run, tree) = (stranger.join("runs/tiny"), stranger.join("tiny"));
    check.run(["card".as_ref(), tree.as_os_str()])?;
    let predictions = predictions(&dcff, &check, &folder, &tree)?;
    if !args.no_hub {
        steps.begin("publishing to a local server and fetching from it");
        hub::publish_and_fetch(&dcff, &check, &folder, &run, &tree, &predictions)?;
    }
    steps.begin("all programs agree");
    Ok(())
}

/// Builds everything that is run here, at once: the Hub's client would be built anew for every choice of packages, whose features
/// cargo unites.
fn build(hub: bool) -> Result<()> {
    let mut build = cargo(["build", "--release", "--package", "dcff-cli"]);
    build.args(["--bin", "dcff", "--example", "interop"]);
    if hub {
        build.args(["--package", "dcff-hub", "--example", "local_hub"]);
        build.args(["--features", "dcff-hub/client,dcff-cli/hub"]);
    }
    succeed(&mut build)
}

/// Predictions of ours beside PyTorch's, on images of three sizes.
fn predictions(dcff: &Path, check: &Check, folder: &Path, artefact: &Path) -> Result<Predictions> {
    let mut images: Vec<PathBuf> = std::fs::read_dir(folder.join("images"))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    images.sort();
    let file = folder.join("predictions.json");
    let mut predict = Command::new(dcff);
    predict.arg("predict").arg(artefact);
    let output = predict.args(&images).args(TOP_JSON);
    let output = output.stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "dcff predict: {}", output.status);
    let text = String::from_utf8(output.stdout)?;
    std::fs::write(&file, &text)?;
    let mut args = vec!["predict".into(), artefact.to_owned(), file];
    args.extend(images.iter().cloned());
    check.run(args)?;
    let json = serde_json::from_str(&text)?;
    Ok(Predictions { images, json })
}

/// Tells what is being done, and how long the step before took.
struct Steps(Option<Instant>);

impl Steps {
    fn begin(&mut self, name: &str) {
        let now = Instant::now();
        if let Some(before) = self.0.replace(now) {
            eprintln!("   {:.1} s", (now - before).as_secs_f64());
        }
        eprintln!("== {name}");
    }
}
