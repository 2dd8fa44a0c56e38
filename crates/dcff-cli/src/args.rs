//! The command line. Names that users choose from come from the crates' lists, never from here.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::Context;
use clap::error::ErrorKind;
use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use dcff_fusion::{KeepMode, Reselect, TemperatureSchedule};

/// Trains compact convolutional networks, compares the methods that make them, and hands the narrow network over.
#[derive(Debug, Parser)]
#[command(name = "dcff", version, about, long_about = None)]
pub(crate) struct Cli {
    /// Threads on the CPU; all cores unless given. Results do not depend on it
    #[arg(long, global = true, value_name = "N")]
    pub(crate) threads: Option<usize>,
    /// End when the other end of standard input is closed: a child does not outlive its parent
    #[arg(long, global = true, hide = true)]
    pub(crate) end_with_parent: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Cli {
    /// Reads a command line, the program's name first.
    ///
    /// # Errors
    /// What clap says, or the help that was asked for.
    pub(crate) fn read<S: Into<OsString>>(
        line: impl IntoIterator<Item = S>,
    ) -> Result<Self, clap::Error> {
        let line: Vec<OsString> = line.into_iter().map(Into::into).collect();
        let mut command = with_negative_numbers(Self::command());
        let matches = command.try_get_matches_from_mut(&line);
        let mut matches = matches.map_err(|error| match error.kind() {
            ErrorKind::InvalidUtf8 => clap::Error::raw(error.kind(), not_text(&line)),
            _ => error,
        })?;
        Self::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command))
    }
}

/// Takes a negative number behind a flag for its value, and not for a flag that does not exist.
fn with_negative_numbers(command: clap::Command) -> clap::Command {
    command
        .mut_args(|arg| match arg.get_action() {
            ArgAction::Set | ArgAction::Append if !arg.is_positional() => {
                arg.allow_negative_numbers(true)
            }
            _ => arg,
        })
        .mut_subcommands(with_negative_numbers)
}

/// Names the arguments that are no text, and the flags before them: clap does not.
fn not_text(line: &[OsString]) -> String {
    let pairs = line.windows(2).filter(|pair| pair[1].to_str().is_none());
    let shown: Vec<String> = pairs
        .map(
            |pair| match pair[0].to_str().filter(|flag| flag.starts_with('-')) {
                Some(flag) => format!("{flag} '{}'", pair[1].display()),
                None => format!("'{}'", pair[1].display()),
            },
        )
        .collect();
    format!("expected arguments in UTF-8, got {}", shown.join(", "))
}

/// Whether this is the help or the version, asked for or shown for want of a command.
pub(crate) fn is_help(error: &clap::Error) -> bool {
    !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
}

/// What is wrong with a command line, with clap's tips and without the usage that follows.
pub(crate) fn complaint(error: &clap::Error) -> String {
    let text = error.to_string();
    let parts = text.trim_start_matches("error: ").split("\n\n");
    let parts = parts.map(str::trim).filter(|part| {
        !part.is_empty() && !part.starts_with("Usage:") && !part.starts_with("For more information")
    });
    crate::text::one_line(&parts.collect::<Vec<_>>().join("; "))
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Train a network and write its compact weights
    Train(Box<TrainArgs>),
    /// Train every combination of criteria, keep modes, temperatures and seeds, and report
    Compare(CompareArgs),
    /// Loss and accuracy of a compact network
    Eval(EvalArgs),
    /// Write the compact network of a run as it stands at its checkpoint
    Compact(CompactArgs),
    /// Take a slice out of a run that trains many, as a network of its own
    Extract(ExtractArgs),
    /// Write a run's network once, with all that its slices need to stand in for each other
    Bundle(BundleArgs),
    /// Count operations and parameters, full and compact, layer by layer
    Flops(FlopsArgs),
    /// Compare runs: tables with intervals, figures, words; as a page, Markdown, CSV and LaTeX
    Report(ReportArgs),
    /// List the pruning criteria, keep modes and temperature schedules
    Criteria(ListArgs),
    /// List the data sets, or describe one
    Data(DataArgs),
    /// Measure speed and memory on images of noise
    Bench(BenchArgs),
    /// What a compact network sees in images: the most probable classes
    Predict(PredictArgs),
    /// Write a compact network for PyTorch or as an ONNX file
    Export(ExportArgs),
    /// Put a finished run's compact network on the Hugging Face Hub, with its model card
    Publish(PublishArgs),
    /// Fetch a compact network from the Hugging Face Hub into the cache
    Pull(PullArgs),
}

/// Three numbers of a size, channels first.
pub(crate) fn input_size(text: &str) -> Result<[usize; 3], String> {
    let expected = || format!("expected channels, height and width such as 3,64,64, got '{text}'");
    let sides: Result<Vec<usize>, _> = text.split([',', 'x']).map(|n| n.trim().parse()).collect();
    let sides = sides.map_err(|_| expected())?;
    let size: [usize; 3] = sides.try_into().map_err(|_| expected())?;
    dcff_data::Fit::whole(size)
        .check()
        .map_err(|error| error.to_string())?;
    Ok(size)
}

/// Where images are looked for.
#[derive(Args, Clone, Debug)]
pub(crate) struct DataDir {
    /// Folder with data sets; looked in before DCFF_DATA_DIR, the Hub's cache and a download
    #[arg(help_heading = "Data", long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
}

/// Where to compute.
#[derive(Args, Clone, Debug)]
pub(crate) struct DeviceArgs {
    /// Device: auto, cpu, cuda or cuda:N; auto takes the first GPU that works, or the CPU
    #[arg(
        help_heading = "Run",
        long,
        value_name = "DEVICE",
        default_value = "auto"
    )]
    pub(crate) device: String,
}

impl DeviceArgs {
    /// Opens the device; says in a line why there is no GPU where one was to be expected.
    pub(crate) fn open(&self) -> anyhow::Result<candle_core::Device> {
        let choice: dcff_nn::DeviceChoice = self
            .device
            .parse()
            .map_err(|message: String| anyhow::anyhow!("--device: {message}"))?;
        let (device, note) = choice.open().context("--device")?;
        if let Some(note) = note {
            eprintln!("computing on the cpu: {note}");
        }
        Ok(device)
    }
}

/// How a network becomes compact.
#[derive(Args, Debug)]
pub(crate) struct MethodArgs {
    /// Compression rates: 'published', a published setting's name, one number, or a list such as '[0.5]*2+[0.4]*2'
    #[arg(help_heading = "Method", long, value_name = "RATES")]
    pub(crate) rates: Option<String>,
    #[command(flatten)]
    pub(crate) budget: BudgetArgs,
    #[arg(help_heading = "Method", long, value_name = "NAME", help = choices("Pruning criterion", dcff_criteria::ALL.iter().map(|criterion| criterion.name())))]
    pub(crate) criterion: Option<String>,
    #[arg(help_heading = "Method", long, value_name = "MODE", help = choices("What becomes of the filters", KeepMode::ALL.iter().map(|mode| mode.name())))]
    pub(crate) keep: Option<String>,
    #[arg(help_heading = "Method", long, value_name = "SCHEDULE", help = choices("Temperature schedule", TemperatureSchedule::ALL.iter().map(|(name, _)| *name)))]
    pub(crate) temperature: Option<String>,
    #[arg(help_heading = "Method", long, value_name = "WHEN", help = choices("How often the kept filters are chosen in a run that is compact from the start", Reselect::ALL.iter().map(|choice| choice.name())))]
    pub(crate) reselect: Option<String>,
    /// Training images that criteria which read images see: 256 unless given
    #[arg(help_heading = "Method", long, value_name = "N")]
    pub(crate) evidence_images: Option<usize>,
    #[arg(help_heading = "Method", long, value_name = "NAME", help = methods_help())]
    pub(crate) method: Option<String>,
    /// The older spelling of --method: scratch or prune
    #[arg(help_heading = "Method", long, value_name = "NAME", hide = true)]
    pub(crate) pipeline: Option<String>,
    /// Further settings of the method, under their names in config.toml
    #[arg(help_heading = "Method", long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Epochs in which all filters are trained first: half of --epochs unless given; none beside --teacher
    #[arg(help_heading = "Method", long, value_name = "N")]
    pub(crate) dense_epochs: Option<usize>,
    /// Epochs of the search for the filters that stay: what the other stages leave of --epochs
    #[arg(help_heading = "Method", long, value_name = "N")]
    pub(crate) search_epochs: Option<usize>,
    /// Epochs after pruning: the rest of --epochs unless given, or after a search an eighth of it
    #[arg(help_heading = "Method", long, value_name = "N")]
    pub(crate) finetune_epochs: Option<usize>,
    /// Learning rate after pruning, before the schedule: a tenth of --lr unless given
    #[arg(help_heading = "Method", long, value_name = "RATE")]
    pub(crate) finetune_lr: Option<f64>,
    /// Prunings, spread evenly over the epochs of fine-tuning: 1 unless given
    #[arg(help_heading = "Method", long, value_name = "K")]
    pub(crate) prune_steps: Option<usize>,
    /// Weight of the L1 penalty on batch norm's scales before pruning: 1e-4 for bn-scale, otherwise 0
    #[arg(help_heading = "Method", long, value_name = "W")]
    pub(crate) scale_penalty: Option<f64>,
    /// What stands after a search: 'likeliest', the likelier choice for every filter, or 'exactly', as many filters as meet the target
    #[arg(help_heading = "Method", long, value_name = "HOW")]
    pub(crate) land: Option<String>,
    /// How a searched network is made compact: 'exact', the constants of removed filters carried along, or 'slice', cut off and batch norm's
    /// statistics collected anew
    #[arg(help_heading = "Method", long, value_name = "HOW")]
    pub(crate) export: Option<String>,
    /// The trained network that teaches: a run, or a folder with config.json and model.safetensors, of the same network and classes
    #[arg(help_heading = "Method", long, value_name = "FOLDER")]
    pub(crate) teacher: Option<PathBuf>,
    /// Take the dense network over instead of training it: from a run, whose dense stage must be the same, or from a folder with
    /// config.json and model.safetensors of the whole network, however it was trained
    #[arg(help_heading = "Method", long, value_name = "FOLDER")]
    pub(crate) dense_from: Option<PathBuf>,
}

/// A budget instead of rates.
#[derive(Args, Debug)]
pub(crate) struct BudgetArgs {
    /// Multiply-accumulates that may be left: '25%' of the full network's, or a number such as 30M; what a search aims at, 50% unless
    /// given
    #[arg(help_heading = "Method", long, value_name = "TARGET", conflicts_with_all = ["rates", "target_params"])]
    pub(crate) target_macs: Option<String>,
    /// Parameters that may be left: '10%' of the full network's, or a number
    #[arg(
        help_heading = "Method",
        long,
        value_name = "TARGET",
        conflicts_with = "rates"
    )]
    pub(crate) target_params: Option<String>,
    /// Share of each layer's filters that stays whatever the target: 0.1 unless given
    #[arg(help_heading = "Method", long, value_name = "SHARE")]
    pub(crate) min_keep: Option<f64>,
    /// Widths become multiples of this
    #[arg(help_heading = "Method", long, value_name = "N")]
    pub(crate) round_to: Option<usize>,
    /// 'uniform' shrinks all layers alike, for every criterion; 'global' sets one threshold on the scores of all layers
    #[arg(
        help_heading = "Method",
        long,
        value_name = "NAME",
        hide_possible_values = true
    )]
    pub(crate) allocation: Option<Allocation>,
}

/// The methods, each with what it does.
fn methods_help() -> String {
    let all = dcff_train::methods::METHODS.iter();
    let all: Vec<String> = all
        .map(|method| format!("'{}': {}", method.name(), method.about()))
        .collect();
    format!("How the network becomes compact. {}", all.join("; "))
}

impl Allocation {
    /// As it is typed.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Global => "global",
        }
    }
}

/// How a target is shared among the layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Allocation {
    /// By one rate.
    Uniform,
    /// By one threshold on the scores, which needs a trained network.
    Global,
}

#[derive(Args, Debug)]
pub(crate) struct TrainArgs {
    #[arg(help_heading = "Network", long, value_name = "NAME", help = choices("Network", dcff_models::ALL.iter().map(|entry| entry.name)))]
    pub(crate) arch: Option<String>,
    #[command(flatten)]
    pub(crate) method: MethodArgs,
    #[arg(help_heading = "Data", long, value_name = "NAME", help = choices("Data set, or a folder of images: train/CLASS and test/CLASS (or val, valid, validation), or CLASS alone, of which a fifth is kept for testing", dcff_data::known().iter().map(|info| info.name.as_str())))]
    pub(crate) data: Option<String>,
    #[command(flatten)]
    pub(crate) data_dir: DataDir,
    /// Channels, height and width of the network's input, such as 3,64,64: images are resized in their proportions and cut to it.
    /// Unless given, that of images which all have one size of at most twice the network's own, otherwise the network's own
    #[arg(help_heading = "Network", long, value_name = "C,H,W", value_parser = input_size)]
    pub(crate) input_size: Option<[usize; 3]>,
    /// Leave out images that cannot be read; the run's config.toml says how many
    #[arg(help_heading = "Data", long)]
    pub(crate) skip_bad: bool,
    /// Defaults for everything below: 'published' (SGD 0.1, steps at 1/2 and 3/4, batches of 256, 300 epochs) or 'quick' (SGD 0.05, for VGG and GoogLeNet 0.01, cosine, batches of 128, 15 epochs)
    #[arg(help_heading = "Recipe", long, value_name = "NAME")]
    pub(crate) recipe: Option<String>,
    /// Passes over the training images. With --resume, more than the run has: it is trained on, the rate being that of a run of so
    /// many epochs from where it stands: cosine falls to 0 at the new end, and is higher than it was at the old one; the
    /// milestones of multi-step stay; temperatures are stretched; a dense stage keeps its epochs
    #[arg(help_heading = "Recipe", long, value_name = "N")]
    pub(crate) epochs: Option<usize>,
    /// Images per step
    #[arg(help_heading = "Recipe", long, value_name = "N")]
    pub(crate) batch_size: Option<usize>,
    /// Learning rate before the schedule
    #[arg(help_heading = "Recipe", long, value_name = "RATE")]
    pub(crate) lr: Option<f64>,
    /// How the learning rate falls: multi-step, cosine or constant
    #[arg(help_heading = "Recipe", long, value_name = "KIND")]
    pub(crate) schedule: Option<String>,
    /// Epochs at which the rate is multiplied by --gamma, for multi-step
    #[arg(
        help_heading = "Recipe",
        long,
        value_name = "EPOCHS",
        value_delimiter = ','
    )]
    pub(crate) milestones: Option<Vec<usize>>,
    /// The factor of multi-step
    #[arg(help_heading = "Recipe", long, value_name = "FACTOR")]
    pub(crate) gamma: Option<f64>,
    /// Epochs of linear warm-up
    #[arg(help_heading = "Recipe", long, value_name = "N")]
    pub(crate) warmup_epochs: Option<usize>,
    /// Momentum of stochastic gradient descent
    #[arg(help_heading = "Recipe", long, value_name = "M")]
    pub(crate) momentum: Option<f64>,
    /// Use Nesterov's form of momentum
    #[arg(help_heading = "Recipe", long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) nesterov: Option<bool>,
    /// Weight decay, on all parameters
    #[arg(help_heading = "Recipe", long, value_name = "W")]
    pub(crate) weight_decay: Option<f64>,
    /// Label smoothing, 0 to 1
    #[arg(help_heading = "Recipe", long, value_name = "S")]
    pub(crate) label_smoothing: Option<f64>,
    /// Share of the training images held out to choose the best epoch; 0 takes the last epoch
    #[arg(help_heading = "Data", long, value_name = "SHARE")]
    pub(crate) hold_out: Option<f64>,
    /// Choose the best epoch on the test images, as the paper does; reports say so
    #[arg(help_heading = "Recipe", long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) select_on_test: Option<bool>,
    /// Learn the answers of this trained network beside the labels: a run, or a folder with config.json and model.safetensors, of the
    /// same images and classes, whatever its layers
    #[arg(help_heading = "Recipe", long, value_name = "FOLDER")]
    pub(crate) distil: Option<PathBuf>,
    /// The weight of what --distil teaches, beside cross-entropy: 1 unless given
    #[arg(help_heading = "Recipe", long, value_name = "W")]
    pub(crate) distil_weight: Option<f64>,
    /// What logits are divided by before they are compared with those of --distil: 4 unless given
    #[arg(help_heading = "Recipe", long, value_name = "T")]
    pub(crate) distil_temperature: Option<f64>,
    #[arg(help_heading = "Data", long, value_name = "KIND", help = choices("Random changes of training images", dcff_train::Augment::ALL.iter().map(|(_, name)| *name)))]
    pub(crate) augment: Option<String>,
    /// Convolve without Winograd's transforms: slower, with the rounding of an ordinary convolution
    #[arg(help_heading = "Recipe", long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) direct_convolution: Option<bool>,
    #[arg(help_heading = "Recipe", long, value_name = "TYPE", help = choices("What feature maps are stored in while training (weights, sums and evaluation are f32)", dcff_train::Precision::ALL.iter().map(|(_, name)| *name).chain(["tf32 (f32, on GPUs with shorter factors of convolutions)"])))]
    pub(crate) precision: Option<String>,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
    /// Have a GPU give the same bits every time; the CPU does anyway
    #[arg(help_heading = "Run", long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) deterministic: Option<bool>,
    /// Seeds everything that is random
    #[arg(help_heading = "Run", long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// Start from the config.toml of another run; flags change it. Milestones and the dense stage move with --epochs, the
    /// rate of fine-tuning with --lr; --method keeps criterion, rates and temperature
    #[arg(
        help_heading = "Run",
        long,
        value_name = "FILE",
        conflicts_with = "resume"
    )]
    pub(crate) config: Option<PathBuf>,
    /// Folder of the run; must be new or empty
    #[arg(help_heading = "Run", long, value_name = "DIR", conflicts_with = "resume", required_unless_present_any = ["resume", "estimate"])]
    pub(crate) out: Option<PathBuf>,
    /// Continue the run in this folder, from anywhere; --data says where its images are now, --epochs trains a finished run on
    #[arg(help_heading = "Run", long, value_name = "DIR")]
    pub(crate) resume: Option<PathBuf>,
    /// Only measure a few steps and print how many seconds the run would take
    #[arg(help_heading = "Run", long, conflicts_with_all = ["out", "resume"])]
    pub(crate) estimate: bool,
    /// Only check that the flags make a run, and that the run in --out, if there is one, has their settings
    #[arg(long, hide = true, requires = "out", conflicts_with = "resume")]
    pub(crate) check: bool,
}

/// Exit code 1 when a run failed; the others are then still carried out and reported.
#[derive(Args, Debug)]
pub(crate) struct CompareArgs {
    /// TOML file with the matrix: `arch`, `seeds`, `[train]` (flags of dcff train) and one or more `[[matrix]]` with
    /// `method`, `criteria`, `keep`, `temperature`
    #[arg(conflicts_with_all = ["criteria", "keep", "temperature", "method"])]
    pub(crate) file: Option<PathBuf>,
    #[arg(long, value_name = "NAMES", value_delimiter = ',', help = choices("Networks", dcff_models::ALL.iter().map(|entry| entry.name)))]
    pub(crate) arch: Vec<String>,
    #[arg(long, value_name = "NAMES", value_delimiter = ',', required_unless_present_any = ["file", "method"], help = choices("Pruning criteria, for the methods that score filters by one", dcff_criteria::ALL.iter().map(|criterion| criterion.name())))]
    pub(crate) criteria: Vec<String>,
    #[arg(long, value_name = "MODES", value_delimiter = ',', help = choices("What becomes of the filters", KeepMode::ALL.iter().map(|mode| mode.name())))]
    pub(crate) keep: Vec<String>,
    #[arg(long, value_name = "SCHEDULES", value_delimiter = ',', help = choices("Temperature schedules", TemperatureSchedule::ALL.iter().map(|(name, _)| *name)))]
    pub(crate) temperature: Vec<String>,
    /// Methods, as for train
    #[arg(long, alias = "pipeline", value_name = "NAMES", value_delimiter = ',')]
    pub(crate) method: Vec<String>,
    /// Number of seeds, or the seeds: '3' is '1,2,3'
    #[arg(long, value_name = "SEEDS")]
    pub(crate) seeds: Option<String>,
    /// Folder of the run folders and the report; what is finished in it stays, what was interrupted goes on
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Runs at a time; they share the threads
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) jobs: usize,
    /// Do not measure a few steps of every setting before starting
    #[arg(long)]
    pub(crate) no_estimate: bool,
    /// Only print the names of the runs
    #[arg(long)]
    pub(crate) list: bool,
    /// The command that was typed, for the report
    #[arg(long, value_name = "TEXT", hide = true)]
    pub(crate) command: Option<String>,
    /// Further arguments for every `dcff train`
    #[arg(last = true, value_name = "TRAIN FLAGS")]
    pub(crate) train: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct EvalArgs {
    /// A folder with model.safetensors and config.json, a run's folder, or `hf://USER/NAME[@REVISION]`
    pub(crate) artefact: PathBuf,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
    /// Data set whose test images are used, or a folder of images; it needs no training images
    #[arg(long, value_name = "NAME")]
    pub(crate) data: String,
    #[command(flatten)]
    pub(crate) data_dir: DataDir,
    /// Channels, height and width of the network's input instead of those that it was trained with
    #[arg(long, value_name = "C,H,W", value_parser = input_size)]
    pub(crate) input_size: Option<[usize; 3]>,
    /// Leave out images that cannot be read
    #[arg(long)]
    pub(crate) skip_bad: bool,
    /// Of a bundle the costliest slice within so many multiply-accumulates: a number, such as 200M, or '50%' of the whole network's
    #[arg(long, value_name = "TARGET")]
    pub(crate) budget: Option<String>,
    /// Images per batch
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub(crate) batch_size: usize,
    /// One JSON object instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct CompactArgs {
    /// A run's folder
    pub(crate) run: PathBuf,
    /// Folder to write model.safetensors and config.json to
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
}

/// A run that networks are taken out of, and the images that their statistics are measured on.
#[derive(Args, Debug)]
pub(crate) struct OpenedArgs {
    /// Folder of a run whose slices are networks; its checkpoint is read
    pub(crate) run: PathBuf,
    /// Where the run's images are now; where they were unless given
    #[arg(long, value_name = "NAME")]
    pub(crate) data: Option<String>,
    #[command(flatten)]
    pub(crate) data_dir: DataDir,
    /// Training batches over which batch norm's statistics are measured for each network; as many as in the run unless given
    #[arg(long, value_name = "BATCHES")]
    pub(crate) recalibrate: Option<usize>,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
}

#[derive(Args, Debug)]
pub(crate) struct ExtractArgs {
    #[command(flatten)]
    pub(crate) opened: OpenedArgs,
    /// Multiply-accumulates that the network may cost: a number, such as 200M, or '50%' of the whole network's. The best known slice within
    /// it is taken
    #[arg(
        long,
        value_name = "TARGET",
        conflicts_with = "config",
        required_unless_present = "config"
    )]
    pub(crate) target: Option<String>,
    /// One slice, in the words of the run's method: for pss-net the side of the images and the widths, such as 160:24,48,96
    #[arg(long, value_name = "SLICE")]
    pub(crate) config: Option<String>,
    /// Folder to write model.safetensors and config.json to; RUN/extracted/COST unless given
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct BundleArgs {
    #[command(flatten)]
    pub(crate) opened: OpenedArgs,
    /// Folder to write to; RUN/bundle unless given
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct FlopsArgs {
    #[arg(long, value_name = "NAME", help = choices("Network", dcff_models::ALL.iter().map(|entry| entry.name)))]
    pub(crate) arch: String,
    /// Compression rates, as for train: 'published' unless given
    #[arg(long, value_name = "RATES")]
    pub(crate) rates: Option<String>,
    #[command(flatten)]
    pub(crate) budget: BudgetArgs,
    /// Channels, height and width of the input; the network's own unless given
    #[arg(long, value_name = "C,H,W", value_parser = input_size)]
    pub(crate) input_size: Option<[usize; 3]>,
    #[arg(long, value_name = "NAME", default_value = "macs", help = choices("What counts as an operation", dcff_flops::Convention::ALL.iter().map(|(_, name, _)| *name)))]
    pub(crate) convention: String,
    /// One JSON object instead of a table
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct ReportArgs {
    /// Folders of runs; those that failed or are unfinished become marked rows
    #[arg(required = true, value_name = "RUN")]
    pub(crate) runs: Vec<PathBuf>,
    /// Folder to write report.html, report.md, report.tex, CSV files and figures to, and the runs beside the published
    /// figures as table.md and table.json; without it the Markdown is printed
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// The layer shown from inside: its kept filters and its P; the first scored one unless given
    #[arg(long, value_name = "NAME")]
    pub(crate) layer: Option<String>,
    /// The command that made the runs, for the table's foot
    #[arg(long, value_name = "TEXT")]
    pub(crate) command: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    /// JSON instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct DataArgs {
    /// Data set to look for and describe; all known ones are listed without it
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) data_dir: DataDir,
    /// Channels, height and width that images are brought to
    #[arg(long, value_name = "C,H,W", value_parser = input_size, requires = "name")]
    pub(crate) input_size: Option<[usize; 3]>,
    /// Leave out images that cannot be read
    #[arg(long, requires = "name")]
    pub(crate) skip_bad: bool,
    /// Only look for it and say where it is
    #[arg(long, requires = "name", conflicts_with = "linear")]
    pub(crate) locate: bool,
    /// Also train a linear model on the pixels and print its accuracy
    #[arg(long, requires = "name")]
    pub(crate) linear: bool,
    /// JSON instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    pub(crate) task: BenchTask,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BenchTask {
    /// Whole training steps of the compact network: forward, loss, backward, fusion and SGD
    Train(BenchTrainArgs),
    /// Forward passes of the finished compact network and of the dense one
    Infer(BenchInferArgs),
    /// Steps of any method as a run of it begins: all passes, losses and optimisers; of a search beside its --teacher
    Step(Box<BenchStepArgs>),
}

#[derive(Args, Debug)]
pub(crate) struct BenchStepArgs {
    #[arg(long, value_name = "NAME", default_value = "resnet56", help = choices("Network", dcff_models::ALL.iter().map(|entry| entry.name)))]
    pub(crate) arch: String,
    #[command(flatten)]
    pub(crate) method: MethodArgs,
    /// Channels, height and width of the images, unless the network's own
    #[arg(long, value_name = "C,H,W", value_parser = input_size)]
    pub(crate) input_size: Option<[usize; 3]>,
    /// Images per step
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub(crate) batch: usize,
    /// Steps measured; their median is given
    #[arg(long, value_name = "N", default_value_t = 7)]
    pub(crate) rounds: usize,
    /// One JSON object instead of a line
    #[arg(long)]
    pub(crate) json: bool,
}

/// The network that is measured.
#[derive(Args, Debug)]
pub(crate) struct BenchNetwork {
    #[arg(long, value_name = "NAME", default_value = "vgg16", help = choices("Network", dcff_models::ALL.iter().map(|entry| entry.name)))]
    pub(crate) arch: String,
    /// Compression rates, as for train
    #[arg(long, value_name = "RATES", default_value = "published")]
    pub(crate) rates: String,
    /// One JSON object a line instead of a table
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct BenchTrainArgs {
    #[command(flatten)]
    pub(crate) network: BenchNetwork,
    /// Images per step
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub(crate) batch: usize,
    #[arg(long, value_name = "TYPE", default_value = "f32", help = choices("What feature maps are stored in", dcff_train::Precision::ALL.iter().map(|(_, name)| *name)))]
    pub(crate) precision: String,
    /// Steps measured; their median is given
    #[arg(long, value_name = "N", default_value_t = 7)]
    pub(crate) rounds: usize,
    /// Show where the time goes instead, layer by layer: means over the steps measured
    #[arg(long)]
    pub(crate) layers: bool,
    /// Only print the full and the compact architecture, for other programs to build the same network
    #[arg(long)]
    pub(crate) describe: bool,
}

#[derive(Args, Debug)]
pub(crate) struct BenchInferArgs {
    #[command(flatten)]
    pub(crate) network: BenchNetwork,
    /// Images per pass, comma-separated
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1, 256])]
    pub(crate) batch: Vec<usize>,
    /// Passes measured, more of small batches; their median is given
    #[arg(long, value_name = "N", default_value_t = 7)]
    pub(crate) rounds: usize,
}

#[derive(Args, Debug)]
pub(crate) struct PredictArgs {
    /// A folder with model.safetensors and config.json, a run's folder, or `hf://USER/NAME[@REVISION]`
    pub(crate) artefact: PathBuf,
    /// Image files of any size: PNG, JPEG, WebP, BMP, GIF, TIFF or PNM. Exit code 1 when some cannot be read
    #[arg(required = true, value_name = "IMAGE")]
    pub(crate) images: Vec<PathBuf>,
    /// Of a bundle the costliest slice within so many multiply-accumulates: a number, such as 200M, or '50%' of the whole network's
    #[arg(long, value_name = "TARGET")]
    pub(crate) budget: Option<String>,
    /// Classes to show of each image
    #[arg(long, value_name = "K", default_value_t = 5)]
    pub(crate) top: usize,
    /// One JSON object instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

/// The forms that `export` writes.
pub(crate) const EXPORT_FORMATS: [&str; 2] = ["pytorch", "onnx"];

#[derive(Args, Debug)]
pub(crate) struct ExportArgs {
    /// A folder with model.safetensors and config.json, a run's folder, or `hf://USER/NAME[@REVISION]`
    pub(crate) artefact: PathBuf,
    #[arg(long, value_name = "FORMAT", help = choices("Form to write", EXPORT_FORMATS.into_iter()))]
    pub(crate) format: String,
    /// Fold batch norm into the convolutions
    #[arg(long)]
    pub(crate) fold_bn: bool,
    /// Folder to write to; beside the weights unless given
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct PublishArgs {
    /// Folder of a finished run
    pub(crate) run: PathBuf,
    /// Repository on the Hub: USER/NAME or ORGANISATION/NAME
    #[arg(value_name = "USER/NAME")]
    pub(crate) repo: String,
    /// Write what would be uploaded to a folder and list it; uses no network and needs no account
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Folder for --dry-run; RUN/hub unless given
    #[arg(long, value_name = "DIR", requires = "dry_run")]
    pub(crate) out: Option<PathBuf>,
    /// Licence of the weights, as the Hub abbreviates it
    #[arg(long, value_name = "ID", default_value = "mit")]
    pub(crate) license: String,
    /// Measure the latency on this machine first, and keep it in the run's folder for the model card
    #[arg(long)]
    pub(crate) measure: bool,
    /// Make the repository private, where it does not exist yet
    #[arg(long)]
    pub(crate) private: bool,
    /// Branch to upload to; made where it does not exist
    #[arg(long, value_name = "BRANCH", default_value = "main")]
    pub(crate) revision: String,
    /// Propose the upload as a pull request
    #[arg(long)]
    pub(crate) create_pr: bool,
}

#[derive(Args, Debug)]
pub(crate) struct PullArgs {
    /// USER/NAME or USER/NAME@REVISION; hf:// in front of it is accepted
    #[arg(value_name = "USER/NAME[@REVISION]")]
    pub(crate) source: String,
}

fn choices<'a>(what: &str, names: impl Iterator<Item = &'a str>) -> String {
    format!("{what}: {}", names.collect::<Vec<_>>().join(", "))
}
