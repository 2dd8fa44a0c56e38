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

use crate::python;
use crate::run::{build, cargo, root, succeed};

/// Memory layouts of PyTorch; the faster one is what we are compared with.
const LAYOUTS: [&str; 2] = ["nchw", "channels-last"];

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
    Infer(NetworkArgs),
    /// Where the time of a training step goes, layer by layer
    Layers(LayersArgs),
    /// The benchmarks of a crate, or of all crates
    Kernels {
        /// For example dcff-nn
        package: Option<String>,
    },
}

#[derive(clap::Args)]
struct TrainArgs {
    #[command(flatten)]
    network: NetworkArgs,
    /// What feature maps are stored in, comma-separated: f32, bf16 (PyTorch: autocast). All take turns
    #[arg(
        long,
        value_name = "TYPES",
        value_delimiter = ',',
        default_value = "f32"
    )]
    precision: Vec<String>,
}

#[derive(clap::Args)]
struct LayersArgs {
    /// Network
    #[arg(long, value_name = "NAME", default_value = "vgg16")]
    arch: String,
    /// For dcff bench train: --rates, --batch, --threads, --precision, --rounds, --json
    #[arg(last = true)]
    more: Vec<String>,
}

#[derive(clap::Args)]
struct NetworkArgs {
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
    /// Images per step, comma-separated; 256 unless given, and 1 for infer
    #[arg(long, value_name = "N", value_delimiter = ',')]
    batch: Vec<usize>,
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
    /// With --against-pytorch and infer, measure torch.compile as well; compiling takes minutes a turn
    #[arg(long)]
    torch_compile: bool,
    /// One JSON object a line instead of text
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    match &args.what {
        What::Train(args) => networks("train", &args.network, &[256], &args.precision),
        What::Infer(args) => networks("infer", args, &[1, 256], &[]),
        What::Layers(args) => succeed(
            Command::new(build(&[])?)
                .args(["bench", "train", "--layers", "--arch", &args.arch])
                .args(&args.more),
        ),
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

/// Measures every network with every number of threads and images; `precisions` take turns where the task has them.
fn networks(
    task: &str,
    args: &NetworkArgs,
    batches: &[usize],
    precisions: &[String],
) -> Result<()> {
    let positive = [args.rounds, args.steps];
    let mut given = positive.iter().chain(&args.threads).chain(&args.batch);
    ensure!(
        given.all(|&n| n > 0),
        "--batch, --threads, --rounds and --steps: expected at least 1, got 0"
    );
    let dcff = build(&[])?;
    let python = args.against_pytorch.then(python).transpose()?;
    let threads = match args.threads.as_slice() {
        [] => vec![std::thread::available_parallelism()?.get()],
        given => given.to_vec(),
    };
    let batches = match args.batch.as_slice() {
        [] => batches,
        given => given,
    };
    for arch in &args.arch {
        for &threads in &threads {
            for &batch in batches {
                let subject = Subject {
                    task,
                    arch,
                    threads,
                    batch,
                    precisions,
                };
                let runs = take_turns(&subject, args, (&dcff, python.as_deref()))?;
                let over_dense = over_dense(&runs)?;
                for (network, seen) in &runs {
                    let over_dense = over_dense.filter(|_| network == COMPACT);
                    summarise(args.json, arch, network, (threads, batch), seen, over_dense)?;
                }
            }
        }
    }
    Ok(())
}

/// How many times the dense network's images per second our compact one has, where both were measured.
fn over_dense(runs: &BTreeMap<String, Seen>) -> Result<Option<f64>> {
    let images = |network| -> Result<Option<f64>> {
        let ours = runs.get(network).and_then(|seen: &Seen| seen.get(OURS));
        ours.map(|runs| Ok(Figures::of(runs)?.images)).transpose()
    };
    Ok(images(COMPACT)?
        .zip(images(DENSE)?)
        .map(|(compact, dense)| compact / dense))
}

/// The lines that each program printed, a line for every turn.
type Seen = BTreeMap<String, Vec<Value>>;

/// What all programs measure.
struct Subject<'a> {
    task: &'a str,
    arch: &'a str,
    threads: usize,
    batch: usize,
    precisions: &'a [String],
}

/// Has both programs measure in turn; the lines by network (compact, dense; with its precision unless that is f32) and
/// program.
fn take_turns(
    subject: &Subject<'_>,
    args: &NetworkArgs,
    (dcff, python): (&Path, Option<&Path>),
) -> Result<BTreeMap<String, Seen>> {
    let &Subject {
        task,
        arch,
        threads,
        batch,
        precisions,
    } = subject;
    let [threads, batch, steps] = [threads, batch, args.steps].map(|n| n.to_string());
    // One turn without the flag where the task has no precisions.
    let flags: Vec<Vec<&str>> = match precisions {
        [] => vec![Vec::new()],
        given => given.iter().map(|p| vec!["--precision", p]).collect(),
    };
    let ours = |task: &str| {
        let mut command = Command::new(dcff);
        command.args(["bench", task, "--arch", arch, "--rates", &args.rates]);
        command.args(["--threads", &threads]);
        command
    };
    let description = root().join(format!("target/bench/{arch}.json"));
    if python.is_some() {
        let text = output(ours("train").arg("--describe"))?;
        std::fs::create_dir_all(root().join("target/bench"))?;
        std::fs::write(&description, text).with_context(|| description.display().to_string())?;
    }
    let measure = ["--threads", &threads, "--batch", &batch, "--rounds", &steps];
    let mut runs: BTreeMap<String, Seen> = BTreeMap::new();
    for round in 1..=args.rounds {
        eprintln!(
            "== {arch}, {threads} threads, batch {batch}: round {round} of {}",
            args.rounds
        );
        let mut lines = Vec::new();
        for flags in &flags {
            let mut command = ours(task);
            command.args(&measure[2..]).args(flags).arg("--json");
            lines.extend(json_lines(&mut command)?);
            for layout in LAYOUTS {
                let Some(python) = python else { continue };
                let mut command = Command::new(python);
                command
                    .arg(root().join(format!("benches/pytorch/{task}.py")))
                    .arg(&description)
                    .args(measure)
                    .args(["--layout", layout])
                    .args(flags)
                    .args((args.torch_compile && task == "infer").then_some("--compile"))
                    .env("PYTHONDONTWRITEBYTECODE", "1")
                    .env("OMP_NUM_THREADS", &threads);
                lines.extend(json_lines(&mut command)?);
            }
        }
        for line in lines {
            let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
            let program = [text("program"), text("layout"), text("mode")].join(" ");
            let network = match text("precision").as_str() {
                "" | "f32" => text("network"),
                precision => format!("{} {precision}", text("network")),
            };
            let seen = runs.entry(network).or_default();
            seen.entry(program.trim().to_owned())
                .or_default()
                .push(line);
        }
    }
    Ok(runs)
}

/// Prints the medians over the turns.
fn summarise(
    as_json: bool,
    arch: &str,
    network: &str,
    (threads, batch): (usize, usize),
    seen: &Seen,
    over_dense: Option<f64>,
) -> Result<()> {
    // By the alphabet, ours is the first.
    let figures: BTreeMap<&str, Figures> = seen
        .iter()
        .map(|(program, runs)| Ok((program.as_str(), Figures::of(runs)?)))
        .collect::<Result<_>>()?;
    let ours = figures.get(OURS).context("dcff bench printed nothing")?;
    if as_json {
        print_json(seen, ours, &figures, over_dense);
    } else {
        if let Some(ratio) = over_dense {
            println!("{ratio:.2} times the images/s of our dense network");
        }
        print_text(
            &format!("{arch} {network}"),
            (threads, batch),
            ours,
            &figures,
        );
    }
    Ok(())
}

/// The program of our own figures; PyTorch's have names that go on with layout and mode.
const OURS: &str = "dcff";
/// The networks of the task infer, as both sides call them.
const COMPACT: &str = "compact";
const DENSE: &str = "dense";

/// Medians over the turns of one program.
struct Figures {
    images: f64,
    ms: f64,
    /// Nominal GF/s and the limit of plain multiplication, which ours alone says.
    gflops: Option<(f64, f64)>,
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
            gflops: median("gflops").zip(median("gemm_limit_gflops")),
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

/// PyTorch at its fastest.
fn best<'a>(figures: &'a BTreeMap<&str, Figures>) -> Option<(&'a str, &'a Figures)> {
    figures
        .iter()
        .filter(|(program, _)| **program != OURS)
        .max_by(|(_, a), (_, b)| a.images.total_cmp(&b.images))
        .map(|(&program, figure)| (program, figure))
}

fn print_json(
    seen: &Seen,
    ours: &Figures,
    figures: &BTreeMap<&str, Figures>,
    over_dense: Option<f64>,
) {
    for (&program, figure) in figures {
        // What was run is the same in every turn; the figures are medians over them.
        let mut line = seen[program][0].clone();
        line["images_per_s"] = figure.images.into();
        line["median_step_ms"] = figure.ms.into();
        line["peak_rss_mib"] = figure.peak.into();
        if let (OURS, Some(ratio)) = (program, over_dense) {
            line["ratio_over_dense"] = ratio.into();
        }
        // Our line compares with PyTorch at its fastest, each of PyTorch's with itself.
        let other = match program {
            OURS => best(figures),
            _ => Some((program, figure)),
        };
        if let Some((against, other)) = other {
            let [whole, net] = other.memory(ours);
            line["against"] = against.into();
            line["ratio"] = (ours.images / other.images).into();
            line["memory_ratio"] = whole.into();
            line["memory_ratio_without_import"] = net.into();
        }
        println!("{line}");
    }
}

fn print_text(
    network: &str,
    (threads, batch): (usize, usize),
    ours: &Figures,
    figures: &BTreeMap<&str, Figures>,
) {
    if let Some((against, other)) = best(figures) {
        let times = |ratio: Option<f64>| ratio.map_or("-".to_owned(), |r| format!("{r:.2}"));
        let [whole, net] = other.memory(ours).map(times);
        println!(
            "{:.2} times the images/s of {against}; {whole} of its peak memory, {net} of it without what its import takes",
            ours.images / other.images
        );
    }
    println!(
        "{network:<27} {:>7} {:>6} {:>10} {:>11} {:>7} {:>9} {:>10}",
        "threads", "batch", "images/s", "ms a step", "GF/s", "of limit", "peak MiB"
    );
    for (program, figure) in figures {
        let peak = figure
            .peak
            .map_or("-".to_owned(), |mib| format!("{mib:.0}"));
        // Both sides compute the same network.
        let [rate, share] = match ours.gflops {
            Some((gflops, limit)) => {
                let rate = gflops / ours.images * figure.images;
                [
                    format!("{rate:.0}"),
                    format!("{:.0} %", 100.0 * rate / limit),
                ]
            }
            None => ["-", "-"].map(str::to_owned),
        };
        println!(
            "{program:<27} {threads:>7} {batch:>6} {:>10.1} {:>11.2} {rate:>7} {share:>9} {peak:>10}",
            figure.images, figure.ms
        );
    }
}

/// A Python with PyTorch: the one that is named, or a virtual environment made for the purpose.
fn python() -> Result<PathBuf> {
    let requirements = root().join("benches/pytorch/requirements.txt");
    python::with_packages("pytorch", &requirements, python::PyTorch::Current)
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

fn json_lines(command: &mut Command) -> Result<Vec<Value>> {
    let text = output(command)?;
    let parse = |line: &str| {
        serde_json::from_str(line)
            .with_context(|| format!("{}: {line}", command.get_program().display()))
    };
    text.lines().map(parse).collect()
}
