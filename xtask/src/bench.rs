//! `cargo xtask bench`: speed and memory, beside PyTorch where it is asked for.
//!
//! `dcff bench` and the scripts of `benches/pytorch` measure; this file has them take turns and sets their figures side
//! by side. A busy machine slows whatever runs at the moment, so figures of one run of this command belong together.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, ensure};
use clap::Subcommand;
use serde_json::Value;

use crate::{cargo, root, succeed};

/// Memory layouts of PyTorch; the faster one is what we are compared with.
const LAYOUTS: [&str; 2] = ["nchw", "channels-last"];
/// A Python that has PyTorch, instead of a virtual environment of ours.
const PYTHON: &str = "DCFF_PYTHON";

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Whole training steps of the compact network
    Train(TrainArgs),
    /// Forward passes of the compact and the dense network
    Infer {
        /// Arguments of `dcff bench infer`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Convolutions, batch norm and pooling of VGG-16 and ResNet-56, layer by layer
    Layers,
    /// The benchmarks of a crate, or of all crates
    Kernels {
        /// For example dcff-nn
        package: Option<String>,
    },
}

#[derive(clap::Args)]
struct TrainArgs {
    /// Networks, comma-separated
    #[arg(
        long,
        value_name = "NAMES",
        value_delimiter = ',',
        default_value = "vgg16"
    )]
    arch: Vec<String>,
    /// Compression rates, as for dcff train
    #[arg(long, default_value = "published")]
    rates: String,
    /// Images per step
    #[arg(long, value_name = "N", default_value_t = 256)]
    batch: usize,
    /// Threads, comma-separated; all cores unless given
    #[arg(long, value_name = "N", value_delimiter = ',')]
    threads: Vec<usize>,
    /// Turns that each program takes; medians are given
    #[arg(long, value_name = "N", default_value_t = 3)]
    rounds: usize,
    /// Steps measured in each turn
    #[arg(long, value_name = "N", default_value_t = 5)]
    steps: usize,
    /// Let PyTorch take turns on the same network; a virtual environment is made unless DCFF_PYTHON names a Python
    #[arg(long)]
    against_pytorch: bool,
    /// One JSON object a line instead of text
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    match &args.what {
        What::Train(args) => train(args),
        What::Infer { args } => succeed(Command::new(build()?).args(["bench", "infer"]).args(args)),
        What::Layers => succeed(&mut cargo([
            "bench",
            "--package",
            "dcff-nn",
            "--bench",
            "layers",
        ])),
        What::Kernels { package } => {
            let mut command = cargo(["bench"]);
            match package {
                Some(package) => command.args(["--package", package]),
                None => command.arg("--workspace"),
            };
            succeed(&mut command)
        }
    }
    .map(|()| ExitCode::SUCCESS)
}

fn train(args: &TrainArgs) -> Result<()> {
    let positive = [args.batch, args.rounds, args.steps];
    ensure!(
        positive.iter().chain(&args.threads).all(|&n| n > 0),
        "--batch, --threads, --rounds and --steps: expected at least 1, got 0"
    );
    let dcff = build()?;
    let python = args.against_pytorch.then(python).transpose()?;
    let threads = match args.threads.as_slice() {
        [] => vec![std::thread::available_parallelism()?.get()],
        given => given.to_vec(),
    };
    for arch in &args.arch {
        for &threads in &threads {
            one(args, &dcff, python.as_deref(), arch, threads)?;
        }
    }
    Ok(())
}

/// Measures one network with one number of threads.
fn one(
    args: &TrainArgs,
    dcff: &Path,
    python: Option<&Path>,
    arch: &str,
    threads: usize,
) -> Result<()> {
    let numbers = [threads, args.batch, args.steps].map(|n| n.to_string());
    let [threads, batch, steps] = &numbers;
    let ours = || {
        let mut command = Command::new(dcff);
        command.args(["bench", "train", "--arch", arch, "--rates", &args.rates]);
        command.args(["--threads", threads]);
        command
    };
    let description = root().join(format!("target/bench/{arch}.json"));
    if python.is_some() {
        let text = output(ours().arg("--describe"))?;
        std::fs::create_dir_all(root().join("target/bench"))?;
        std::fs::write(&description, text).with_context(|| description.display().to_string())?;
    }
    let mut seen: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for round in 1..=args.rounds {
        eprintln!(
            "== {arch}, {threads} threads: round {round} of {}",
            args.rounds
        );
        let mut command = ours();
        command.args(["--batch", batch, "--rounds", steps, "--json"]);
        seen.entry(OURS).or_default().push(json(&mut command)?);
        let Some(python) = python else { continue };
        for layout in LAYOUTS {
            let mut command = Command::new(python);
            command
                .arg(root().join("benches/pytorch/train.py"))
                .arg(&description)
                .args(["--threads", threads, "--batch", batch])
                .args(["--rounds", steps, "--layout", layout])
                .env("OMP_NUM_THREADS", threads);
            seen.entry(layout).or_default().push(json(&mut command)?);
        }
    }
    let figures: BTreeMap<&str, Figures> = seen
        .iter()
        .map(|(&program, runs)| Ok((program, Figures::of(runs)?)))
        .collect::<Result<_>>()?;
    if args.json {
        print_json(&seen, &figures);
    } else {
        print_text(arch, &numbers, &figures);
    }
    Ok(())
}

/// The key of our own figures; PyTorch's stand under their layouts.
const OURS: &str = "dcff";

/// Medians over the turns of one program.
struct Figures {
    images: f64,
    ms: f64,
    /// The most memory resident, and how much of it the program took before it had a network; `None` where unknown.
    peak: Option<f64>,
    idle: Option<f64>,
}

impl Figures {
    fn of(runs: &[Value]) -> Result<Self> {
        let median = |key: &str| {
            let mut values: Vec<f64> = runs.iter().filter_map(|run| run[key].as_f64()).collect();
            values.sort_by(f64::total_cmp);
            values.get(values.len() / 2).copied()
        };
        let needed = |key: &str| median(key).with_context(|| format!("no {key} was measured"));
        Ok(Self {
            images: needed("images_per_s")?,
            ms: needed("median_step_ms")?,
            peak: median("peak_rss_mib"),
            idle: median("import_rss_mib"),
        })
    }

    /// Our peak over this program's: as the system counts it, and without what it takes before it has a network.
    fn memory(&self, ours: &Self) -> [Option<f64>; 2] {
        let whole = ours.peak.zip(self.peak).map(|(a, b)| a / b);
        let idle = self.idle.zip(self.peak).map(|(idle, peak)| peak - idle);
        [whole, ours.peak.zip(idle).map(|(a, b)| a / b)]
    }
}

/// Ours first.
fn in_order<'a>(
    figures: &'a BTreeMap<&str, Figures>,
) -> impl Iterator<Item = (&'static str, &'a Figures)> {
    std::iter::once(OURS)
        .chain(LAYOUTS)
        .filter_map(|program| Some((program, figures.get(program)?)))
}

/// PyTorch's faster layout.
fn best<'a>(figures: &'a BTreeMap<&str, Figures>) -> Option<(&'static str, &'a Figures)> {
    LAYOUTS
        .into_iter()
        .filter_map(|layout| Some((layout, figures.get(layout)?)))
        .max_by(|(_, a), (_, b)| a.images.total_cmp(&b.images))
}

fn print_json(seen: &BTreeMap<&str, Vec<Value>>, figures: &BTreeMap<&str, Figures>) {
    let ours = &figures[OURS];
    for (program, figure) in in_order(figures) {
        // What was run is the same in every turn; the figures are medians over them.
        let mut line = seen[program][0].clone();
        line["images_per_s"] = figure.images.into();
        line["median_step_ms"] = figure.ms.into();
        line["peak_rss_mib"] = figure.peak.into();
        // Our line compares with PyTorch's faster layout, each of PyTorch's with itself.
        let other = match program {
            OURS => best(figures),
            _ => Some((program, figure)),
        };
        if let Some((layout, other)) = other {
            let [whole, net] = other.memory(ours);
            line["against"] = format!("pytorch {layout}").into();
            line["ratio"] = (ours.images / other.images).into();
            line["memory_ratio"] = whole.into();
            line["memory_ratio_without_import"] = net.into();
        }
        println!("{line}");
    }
}

fn print_text(arch: &str, [threads, batch, _]: &[String; 3], figures: &BTreeMap<&str, Figures>) {
    let ours = &figures[OURS];
    if let Some((layout, other)) = best(figures) {
        let times = |ratio: Option<f64>| ratio.map_or("-".to_owned(), |r| format!("{r:.2}"));
        let [whole, net] = other.memory(ours).map(times);
        println!(
            "{:.2} times PyTorch's images/s ({layout}); {whole} of its peak memory, {net} of it without what the import takes",
            ours.images / other.images
        );
    }
    println!(
        "{:<22} {:>7} {:>6} {:>10} {:>11} {:>10}",
        arch, "threads", "batch", "images/s", "ms a step", "peak MiB"
    );
    for (program, figure) in in_order(figures) {
        let label = match program {
            OURS => OURS.to_owned(),
            layout => format!("pytorch {layout}"),
        };
        let peak = figure
            .peak
            .map_or("-".to_owned(), |mib| format!("{mib:.0}"));
        println!(
            "{label:<22} {threads:>7} {batch:>6} {:>10.1} {:>11.1} {peak:>10}",
            figure.images, figure.ms
        );
    }
}

/// The program, built for release.
fn build() -> Result<PathBuf> {
    succeed(&mut cargo(["build", "--release", "--package", "dcff-cli"]))?;
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    Ok(target
        .join("release")
        .join(format!("dcff{}", std::env::consts::EXE_SUFFIX)))
}

/// A Python with PyTorch: the one that is named, or a virtual environment made for the purpose.
fn python() -> Result<PathBuf> {
    if let Some(python) = std::env::var_os(PYTHON) {
        return Ok(python.into());
    }
    let venv = root().join("target/pytorch-venv");
    let python = match cfg!(windows) {
        true => venv.join("Scripts/python.exe"),
        false => venv.join("bin/python"),
    };
    // Written last, so an environment that was left half-made is completed.
    let done = venv.join("complete");
    if !done.exists() {
        eprintln!("installing PyTorch in {}", venv.display());
        let system = if cfg!(windows) { "python" } else { "python3" };
        succeed(Command::new(system).args(["-m", "venv"]).arg(&venv))?;
        succeed(
            Command::new(&python)
                .args(["-m", "pip", "install", "--quiet", "--requirement"])
                .arg(root().join("benches/pytorch/requirements.txt")),
        )?;
        std::fs::write(&done, "")?;
    }
    Ok(python)
}

fn output(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| name.clone())?;
    ensure!(output.status.success(), "{name}: {}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}

fn json(command: &mut Command) -> Result<Value> {
    let text = output(command)?;
    serde_json::from_str(&text)
        .with_context(|| format!("{}: {}", command.get_program().display(), text.trim()))
}
