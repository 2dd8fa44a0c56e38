//! From a matrix of settings to the list of runs: every combination once, each checked before anything starts.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, bail, ensure};
use dcff_fusion::KeepMode;
use dcff_train::methods::{self, METHODS};
use dcff_train::{RunConfig, toml_file};
use serde::Deserialize;

use crate::args::{Cli, Command, CompareArgs, TrainArgs, complaint};
use crate::commands::train;

/// The flags of `dcff train` that the comparison sets itself.
const OWN: [&str; 13] = [
    "--config",
    "--arch",
    "--criterion",
    "--keep",
    "--temperature",
    "--method",
    "--pipeline",
    "--dense-from",
    "--seed",
    "--out",
    "--resume",
    "--estimate",
    "--threads",
];

/// One run of the matrix.
#[derive(Debug)]
pub(crate) struct Run {
    /// The folder's name, made of the settings.
    pub(crate) name: String,
    /// The arguments of `dcff train` but for the folder.
    pub(crate) arguments: Vec<String>,
    /// The same, read.
    pub(crate) args: Box<TrainArgs>,
    /// What they mean; the data's fingerprints are still empty.
    pub(crate) config: RunConfig,
    /// All settings but the seed, readable: runs of one group take about the same time.
    pub(crate) group: String,
}

/// The runs, and what was left out and why.
#[derive(Debug)]
pub(crate) struct Plan {
    /// In the order in which they start: all settings of the first seed come first.
    pub(crate) runs: Vec<Run>,
    /// A sentence for each combination that another run already stands for.
    pub(crate) notes: Vec<String>,
}

/// The matrix as a file has it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    arch: Vec<String>,
    #[serde(default)]
    seeds: Option<Seeds>,
    #[serde(default)]
    train: Flags,
    #[serde(default)]
    matrix: Vec<Block>,
}

/// One product of settings.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Block {
    /// Tells runs apart that differ only in `train`; part of the folder's name.
    #[serde(default)]
    label: Option<String>,
    #[serde(default)]
    arch: Vec<String>,
    /// Empty where no method of the block scores filters by one.
    #[serde(default)]
    criteria: Vec<String>,
    #[serde(default)]
    keep: Vec<String>,
    #[serde(default)]
    temperature: Vec<String>,
    #[serde(default, alias = "pipeline")]
    method: Vec<String>,
    #[serde(default)]
    train: Flags,
}

/// A number of seeds, or the seeds.
#[derive(Clone, Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "expected a number of seeds or a list of seeds, whole numbers from 0 on"
)]
enum Seeds {
    Count(u64),
    These(Vec<u64>),
}

/// Flags of `dcff train` without their dashes, and their values.
type Flags = BTreeMap<String, toml::Value>;

impl Plan {
    /// The plan of a file, of flags, or of a file some of whose settings are replaced by flags.
    ///
    /// # Errors
    /// The first combination that `dcff train` would refuse, and why.
    pub(crate) fn new(args: &CompareArgs) -> anyhow::Result<Self> {
        let mut file = match &args.file {
            Some(path) => read(path)?,
            None => File {
                matrix: vec![Block {
                    criteria: args.criteria.clone(),
                    keep: args.keep.clone(),
                    temperature: args.temperature.clone(),
                    method: args.method.clone(),
                    ..Block::default()
                }],
                ..File::default()
            },
        };
        if !args.arch.is_empty() {
            file.arch.clone_from(&args.arch);
            file.matrix.iter_mut().for_each(|block| block.arch.clear());
        }
        if let Some(seeds) = &args.seeds {
            file.seeds = Some(seeds.parse().context("--seeds")?);
        }
        plan(&file, &args.train).with_context(|| {
            args.file
                .as_ref()
                .map_or("compare".into(), |path| path.display().to_string())
        })
    }
}

impl std::str::FromStr for Seeds {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let number = |text: &str| {
            text.trim().parse::<u64>().map_err(|_| {
                anyhow::anyhow!("expected a number or a list of numbers, got '{text}'")
            })
        };
        match text.contains(',') {
            false => Ok(Self::Count(number(text)?)),
            true => Ok(Self::These(
                text.split(',').map(number).collect::<anyhow::Result<_>>()?,
            )),
        }
    }
}

fn read(path: &Path) -> anyhow::Result<File> {
    let file: File = toml_file::read(path)?;
    ensure!(
        !file.matrix.is_empty(),
        "{}: expected at least one [[matrix]]",
        path.display()
    );
    Ok(file)
}

fn plan(file: &File, typed: &[String]) -> anyhow::Result<Plan> {
    for flag in typed {
        let flag = flag.split('=').next().unwrap_or(flag);
        ensure!(
            !OWN.contains(&flag),
            "{flag}: set by the comparison itself; it cannot stand after --"
        );
    }
    let seeds = match file.seeds.clone().unwrap_or(Seeds::Count(1)) {
        Seeds::Count(count) => {
            ensure!(
                (1..=1000).contains(&count),
                "seeds: expected 1 to 1000, got {count}"
            );
            (1..=count).collect()
        }
        Seeds::These(list) => list,
    };
    ensure!(!seeds.is_empty(), "seeds: expected at least one");
    let mut runs: Vec<Run> = Vec::new();
    let mut notes = Vec::new();
    let mut seen = BTreeSet::new();
    for &seed in &seeds {
        for block in &file.matrix {
            let archs = match block.arch.is_empty() {
                true => &file.arch,
                false => &block.arch,
            };
            ensure!(!archs.is_empty(), "arch: expected at least one network");
            let mut flags = file.train.clone();
            flags.extend(block.train.clone());
            let flags = arguments(&flags, typed)?;
            for choice in product(block, archs)? {
                let run = choice.run(block.label.as_deref(), &flags, seed)?;
                match runs.iter().find(|other| other.name == run.name) {
                    None => runs.push(run),
                    Some(other) if other.config != run.config => bail!(
                        "two runs of different settings would be called {}: give one [[matrix]] a label",
                        run.name
                    ),
                    Some(_) => {
                        let note = choice.note();
                        if seen.insert(note.clone()) {
                            notes.push(note);
                        }
                    }
                }
            }
        }
    }
    Ok(Plan { runs, notes })
}

/// Values of a table as arguments; what was typed stands in place of the table's.
fn arguments(table: &Flags, typed: &[String]) -> anyhow::Result<Vec<String>> {
    let mut list = Vec::new();
    for (key, value) in table {
        let flag = format!("--{key}");
        ensure!(
            !OWN.contains(&flag.as_str()),
            "train.{key}: set by the comparison itself"
        );
        if typed
            .iter()
            .any(|t| *t == flag || t.starts_with(&format!("{flag}=")))
        {
            continue;
        }
        let scalar = |value: &toml::Value| match value {
            toml::Value::String(text) => Ok(text.clone()),
            toml::Value::Integer(number) => Ok(number.to_string()),
            toml::Value::Float(number) => Ok(number.to_string()),
            other => bail!(
                "train.{key}: expected text or a number, got {}",
                other.type_str()
            ),
        };
        match value {
            toml::Value::Boolean(false) => list.push(format!("{flag}=false")),
            toml::Value::Boolean(true) => list.push(flag),
            toml::Value::Array(values) => {
                let values: Vec<String> = values.iter().map(scalar).collect::<Result<_, _>>()?;
                list.extend([flag, values.join(",")]);
            }
            value => list.extend([flag, scalar(value)?]),
        }
    }
    list.extend(typed.iter().cloned());
    Ok(list)
}

/// One choice along every axis; an empty axis leaves the choice to `dcff train`.
#[derive(Clone, Debug)]
struct Choice<'a> {
    arch: &'a str,
    /// None of a method that scores no filters by one.
    criterion: Option<&'a str>,
    keep: Option<&'a str>,
    temperature: Option<&'a str>,
    method: Option<&'a str>,
}

/// Every choice of a block. Criteria, what becomes of filters and temperatures are choices for methods that read them.
fn product<'a>(block: &'a Block, archs: &'a [String]) -> anyhow::Result<Vec<Choice<'a>>> {
    fn axis(values: &[String]) -> Vec<Option<&str>> {
        match values.is_empty() {
            true => vec![None],
            false => values.iter().map(|value| Some(value.as_str())).collect(),
        }
    }
    let mut choices = Vec::new();
    for arch in archs {
        for method in axis(&block.method) {
            let entry = match method {
                Some(name) => methods::by_name(name).context("method")?,
                None => METHODS[0],
            };
            let of = |key: &str, values: &'a [String]| match entry.keys().contains(&key) {
                true => axis(values),
                false => vec![None],
            };
            let criteria = of("criterion", &block.criteria);
            ensure!(
                !entry.keys().contains(&"criterion") || criteria != [None],
                "criteria: expected at least one"
            );
            for criterion in criteria {
                for keep in of("keep", &block.keep) {
                    for temperature in of("temperature", &block.temperature) {
                        choices.push(Choice {
                            arch,
                            criterion,
                            keep,
                            temperature,
                            method,
                        });
                    }
                }
            }
        }
    }
    Ok(choices)
}

impl Choice<'_> {
    /// The run, without the settings that cannot change it.
    fn run(&self, label: Option<&str>, flags: &[String], seed: u64) -> anyhow::Result<Run> {
        // Every value is checked, also one that is then left out.
        let criterion = self.criterion.map(dcff_criteria::by_name);
        let criterion = criterion.transpose().context("criteria")?;
        let scores_read = criterion.is_some_and(|criterion| criterion.reads_temperature());
        let keep: Option<KeepMode> = self.keep.map(str::parse).transpose().context("keep")?;
        if let Some(temperature) = self.temperature {
            temperature
                .parse::<dcff_fusion::TemperatureSchedule>()
                .context("temperature")?;
        }
        let usual = self.usual(flags)?;
        let fuses = keep.unwrap_or(usual) == KeepMode::Fuse;
        let temperature = self.temperature.filter(|_| fuses || scores_read);
        let mut arguments = vec!["train".to_owned()];
        let seed_text = seed.to_string();
        let axes = [
            ("--arch", Some(self.arch)),
            ("--criterion", self.criterion),
            ("--keep", keep.map(KeepMode::name)),
            ("--temperature", temperature),
            ("--method", self.method),
            ("--seed", Some(seed_text.as_str())),
        ];
        for (flag, value) in axes {
            if let Some(value) = value {
                arguments.extend([flag.to_owned(), value.to_owned()]);
            }
        }
        arguments.extend(flags.iter().cloned());
        let args = parse(&arguments)?;
        let config = train::plan(&args)?;
        let mut parts = vec![self.arch.to_owned()];
        parts.extend(self.method.map(str::to_owned));
        parts.extend(self.criterion.map(str::to_owned));
        let method = &config.method;
        if let Some(kept) = method.text("keep")
            && (kept != KeepMode::Select.name() || usual == KeepMode::Fuse)
        {
            parts.push(kept.to_owned());
        }
        if let Some(schedule) = method.text("temperature").filter(|_| fuses || scores_read) {
            parts.push(schedule.replace('(', "-").replace(')', ""));
        }
        parts.extend(label.map(str::to_owned));
        let group = parts.join("-");
        let name = format!("{group}-seed{seed}");
        ensure!(
            name.chars()
                .all(|c| c.is_ascii_alphanumeric() || "-._".contains(c)),
            "label: expected letters, digits, '-', '.' and '_', got '{}'",
            label.unwrap_or_default()
        );
        Ok(Run {
            name,
            arguments,
            args,
            config,
            group,
        })
    }

    /// What becomes of the filters unless told: of a method that says nothing of it, they are fused.
    fn usual(&self, flags: &[String]) -> anyhow::Result<KeepMode> {
        let mut arguments = vec!["train".to_owned()];
        let axes = [
            ("--arch", Some(self.arch)),
            ("--criterion", self.criterion),
            ("--method", self.method),
        ];
        for (flag, value) in axes {
            if let Some(value) = value {
                arguments.extend([flag.to_owned(), value.to_owned()]);
            }
        }
        arguments.extend(flags.iter().cloned());
        let config = train::plan(&*parse(&arguments)?)?;
        let keep = config.method.text("keep").map(str::parse).transpose()?;
        Ok(keep.unwrap_or(KeepMode::Fuse))
    }

    /// Why this combination is no run of its own.
    fn note(&self) -> String {
        let which = [Some(self.arch), self.method, self.criterion, self.keep];
        let which = which.into_iter().flatten().collect::<Vec<_>>().join(", ");
        match self.temperature {
            Some(_) => {
                format!("{which}: no temperature enters the scores or the weights; run once")
            }
            None => format!("{which}: given twice; run once"),
        }
    }
}

/// Reads arguments as `dcff train` itself would.
fn parse(arguments: &[String]) -> anyhow::Result<Box<TrainArgs>> {
    let line = std::iter::once("dcff".to_owned())
        .chain(arguments.iter().cloned())
        // Where a run goes is decided later.
        .chain(["--out".to_owned(), "-".to_owned()]);
    match Cli::read(line) {
        Ok(Cli {
            command: Command::Train(args),
            ..
        }) => Ok(args),
        Ok(_) => bail!("expected arguments of dcff train"),
        Err(error) => bail!(complaint(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str, typed: &[&str]) -> anyhow::Result<Plan> {
        let typed: Vec<String> = typed.iter().map(|t| (*t).to_owned()).collect();
        plan(&toml::from_str(text).unwrap(), &typed)
    }

    fn names(plan: &Plan) -> Vec<&str> {
        plan.runs.iter().map(|run| run.name.as_str()).collect()
    }

    const TRAIN: &str = "[train]\ndata = \"synthetic\"\nrates = 0.5\nepochs = 4\nrecipe = \"quick\"\nnesterov = true\n";

    #[test]
    fn the_first_seed_comes_first_and_what_cannot_differ_runs_once() {
        let plan = of(
            &format!(
                "arch = [\"resnet20\"]\nseeds = 2\n{TRAIN}\n[[matrix]]\ncriteria = [\"kl\", \"l1-norm\"]\n\
                 keep = [\"fuse\", \"select\"]\ntemperature = [\"published\", \"fixed(2)\"]"
            ),
            &[],
        )
        .unwrap();
        let first = [
            "resnet20-kl-fuse-published-seed1",
            "resnet20-kl-fuse-fixed-2-seed1",
            "resnet20-kl-select-published-seed1",
            "resnet20-kl-select-fixed-2-seed1",
            "resnet20-l1-norm-fuse-published-seed1",
            "resnet20-l1-norm-fuse-fixed-2-seed1",
            // Under select, the L1 norm reads no temperature.
            "resnet20-l1-norm-select-seed1",
        ];
        assert_eq!(names(&plan)[..7], first);
        assert_eq!(plan.runs.len(), 14);
        assert_eq!(
            plan.notes,
            [
                "resnet20, l1-norm, select: no temperature enters the scores or the weights; run once"
            ]
        );
        assert_eq!(plan.runs[0].config.recipe.epochs, 4);
        assert!(plan.runs[0].config.recipe.nesterov);
        assert_eq!(plan.runs[13].config.seed, 2);
    }

    #[test]
    fn the_matrices_of_this_repository_are_sound() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../xtask");
        let mut found = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if !name.contains("cifar10") {
                continue;
            }
            for recipe in ["quick", "published"] {
                let typed = ["--data", "cifar10-subset", "--recipe", recipe].map(str::to_owned);
                plan(&read(&path).unwrap(), &typed).unwrap_or_else(|e| panic!("{name}: {e:#}"));
            }
            found += 1;
        }
        assert!(found >= 4, "{found} matrices");
    }

    #[test]
    fn a_method_without_a_criterion_runs_once() {
        let matrix =
            "[[matrix]]\nmethod = [\"kdfs\", \"prune\"]\ncriteria = [\"l1-norm\", \"random\"]\n";
        let text = format!("arch = [\"resnet20\"]\n{TRAIN}\n{matrix}")
            .replace("rates = 0.5", "target-macs = \"50%\"");
        let plan = of(&text, &[]).unwrap();
        let expected = [
            "resnet20-kdfs-seed1",
            "resnet20-prune-l1-norm-seed1",
            "resnet20-prune-random-seed1",
        ];
        assert_eq!(names(&plan), expected);
        // The older word, and no criterion where none is read.
        let alone = text
            .replace("method", "pipeline")
            .replace(", \"prune\"", "")
            .replace("criteria = [\"l1-norm\", \"random\"]\n", "");
        assert_eq!(names(&of(&alone, &[]).unwrap()), expected[..1]);
    }

    #[test]
    fn what_is_typed_stands_in_place_of_the_file() {
        let text = format!("arch = [\"resnet20\"]\n{TRAIN}\n[[matrix]]\ncriteria = [\"kl\"]");
        let plan = of(&text, &["--epochs", "7", "--nesterov=false"]).unwrap();
        let recipe = &plan.runs[0].config.recipe;
        assert_eq!((recipe.epochs, recipe.nesterov), (7, false));
        let off = text.replace("nesterov = true", "nesterov = false");
        assert!(!of(&off, &[]).unwrap().runs[0].config.recipe.nesterov);
    }

    #[test]
    fn refuses_any_bad_combination_before_the_first_run() {
        let text = |matrix: &str| format!("arch = [\"resnet20\"]\n{TRAIN}\n[[matrix]]\n{matrix}");
        let refused =
            |matrix: &str, typed: &[&str]| format!("{:#}", of(&text(matrix), typed).unwrap_err());
        for (matrix, typed, expected) in [
            (
                "criteria = [\"kl\", \"l7\"]",
                vec![],
                "unknown criterion 'l7'",
            ),
            ("criteria = []", vec![], "criteria: expected at least one"),
            (
                "criteria = [\"kl\"]\nkeep = [\"some\"]",
                vec![],
                "unknown keep mode 'some'",
            ),
            (
                // Also where no temperature is read.
                "criteria = [\"l1-norm\"]\nkeep = [\"select\"]\ntemperature = [\"hot\"]",
                vec![],
                "unknown temperature schedule 'hot'",
            ),
            ("criteria = [\"kl\"]\narch = [\"vgg17\"]", vec![], "vgg17"),
            (
                "criteria = [\"kl\"]",
                vec!["--seed=3"],
                "--seed: set by the comparison",
            ),
            (
                "criteria = [\"kl\"]",
                vec!["--momentum", "3"],
                "recipe.momentum",
            ),
            ("criteria = [\"kl\"]", vec!["--wrong"], "'--wrong'"),
            // The queue shares the threads among the runs.
            (
                "criteria = [\"kl\"]",
                vec!["--threads=1"],
                "--threads: set by the comparison",
            ),
            (
                "criteria = [\"kl\"]\ntrain.threads = 1",
                vec![],
                "train.threads: set by the comparison",
            ),
            (
                "criteria = [\"kl\"]\ntrain.allocation = \"some\"",
                vec![],
                "'some' for '--allocation <NAME>' [possible values: uniform, global]",
            ),
            (
                "criteria = [\"kl\"]\n[[matrix]]\ncriteria = [\"kl\"]\ntrain.epochs = 9",
                vec![],
                "give one [[matrix]] a label",
            ),
        ] {
            let message = refused(matrix, &typed);
            assert!(message.contains(expected), "{matrix}: {message}");
        }
    }

    #[test]
    fn a_value_of_the_wrong_kind_is_named() {
        let matrix = "[[matrix]]\ncriteria = [\"kl\"]";
        for (text, expected) in [
            (
                "arch = \"resnet20\"",
                "arch: invalid type: string \"resnet20\", expected a sequence",
            ),
            (
                "seeds = [-1]",
                "seeds: expected a number of seeds or a list of seeds, whole numbers from 0 on",
            ),
            ("[train", "line 1: "),
        ] {
            let text = format!("{text}\n{matrix}");
            let error = toml_file::parse::<File>(&text).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn seeds_are_counted_or_listed() {
        let text = format!("arch = [\"resnet20\"]\n{TRAIN}\n[[matrix]]\ncriteria = [\"kl\"]");
        let seeds = |seeds: &str| {
            let mut file: File = toml::from_str(&text).unwrap();
            file.seeds = Some(seeds.parse().unwrap());
            let plan = plan(&file, &[]).unwrap();
            plan.runs
                .iter()
                .map(|run| run.config.seed)
                .collect::<Vec<_>>()
        };
        assert_eq!(seeds("3"), [1, 2, 3]);
        assert_eq!(seeds("5, 2"), [5, 2]);
        assert!("few".parse::<Seeds>().is_err());
    }
}
