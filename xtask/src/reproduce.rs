//! `cargo xtask reproduce`: one command from images to a table.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use crate::run::{build, root, succeed};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to train on
    #[arg(value_enum)]
    data: Data,
    /// Networks of the published table, comma-separated; all four unless given
    #[arg(long, value_delimiter = ',')]
    arch: Vec<String>,
    /// Epochs instead of the recipe's
    #[arg(long)]
    epochs: Option<usize>,
    /// Number of seeds for each network; 1 unless given, 3 with --compare
    #[arg(long)]
    seeds: Option<u64>,
    /// 5,000 training and 1,000 test images, 15 epochs
    #[arg(long)]
    quick: bool,
    /// Compare criteria, keep modes, temperatures and pipelines instead: the matrix of xtask/compare-cifar10.toml; beside --method that
    /// of xtask/METHOD-cifar10-compare.toml
    #[arg(long)]
    compare: bool,
    /// The published rows of another method than Dynamic-coded Filter Fusion: those of xtask/METHOD-cifar10.toml, with --quick
    /// xtask/METHOD-cifar10-quick.toml
    #[arg(long)]
    method: Option<String>,
    /// Folder for runs and tables instead of results/DATE-NAME; an unfinished one of that name is continued
    #[arg(long)]
    out: Option<PathBuf>,
    /// Further arguments for every `dcff train`, after `--`
    #[arg(last = true)]
    train: Vec<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Data {
    /// Built in, no download
    Synthetic,
    /// The four CIFAR-10 rows of the published table
    Cifar10,
}

/// The CIFAR rows of the published table.
const TABLE: [&str; 4] = ["vgg16", "resnet56", "resnet110", "googlenet"];
/// The networks for images as small as these; a test compares the list with the crate that has them.
const ARCHS: [&str; 10] = [
    "vgg16",
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
    "resnet110",
    "googlenet",
    "densenet40",
    "mobilenet-v1-cifar",
    "mobilenet-v2-cifar",
];
/// A small network for the built-in data, where nothing is published.
const SYNTHETIC_ARCH: &str = "resnet20";
const SYNTHETIC_RATES: &str = "0.4";
const SYNTHETIC_EPOCHS: usize = 12;

/// One run of the table.
struct Row {
    arch: String,
    seed: u64,
    folder: PathBuf,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let data = match (args.data, args.quick) {
        (Data::Synthetic, _) => "synthetic",
        (Data::Cifar10, true) => "cifar10-subset",
        (Data::Cifar10, false) => "cifar10",
    };
    let archs = match (args.data, args.arch.is_empty()) {
        (_, false) => args.arch.clone(),
        (Data::Synthetic, true) => vec![SYNTHETIC_ARCH.to_owned()],
        (Data::Cifar10, true) => TABLE.map(str::to_owned).to_vec(),
    };
    let seeds = args.seeds.unwrap_or(1);
    ensure!(seeds > 0, "--seeds: expected at least 1, got 0");
    ensure!(
        !args.compare || matches!(args.data, Data::Cifar10),
        "--compare: expected cifar10, got synthetic"
    );
    ensure!(
        args.epochs != Some(0),
        "--epochs: expected at least 1, got 0"
    );
    for arch in &archs {
        ensure!(
            ARCHS.contains(&arch.as_str()),
            "--arch: expected one of {}, got '{arch}'",
            ARCHS.join(", ")
        );
    }
    let matrix = matrix(args)?;
    let dcff = build_for(data)?;
    let name = match (args.data, args.compare, args.quick) {
        (Data::Synthetic, ..) => "synthetic",
        (Data::Cifar10, false, true) => "cifar10-quick",
        (Data::Cifar10, false, false) => "cifar10",
        (Data::Cifar10, true, true) => "cifar10-quick-compare",
        (Data::Cifar10, true, false) => "cifar10-compare",
    };
    let name = match &args.method {
        Some(method) => format!("{name}-{method}"),
        None => name.to_owned(),
    };
    let out = match &args.out {
        Some(out) => std::path::absolute(out)?,
        None => results_folder(&name)?,
    };
    if let Some(matrix) = matrix {
        let code = compare(&dcff, args, (&matrix, data), &out)?;
        if args.compare || code != ExitCode::SUCCESS {
            return Ok(code);
        }
        return table(&dcff, &finished(&out)?, &out);
    }
    let row = |arch: &String, seed: u64| Row {
        arch: arch.clone(),
        seed,
        folder: out.join(format!("{arch}-seed{seed}")),
    };
    let rows: Vec<Row> = archs
        .iter()
        .flat_map(|arch| (1..=seeds).map(move |seed| row(arch, seed)))
        .collect();

    // The table says that this command made every figure in it: a run of another stays out.
    for row in &rows {
        let mut command = Command::new(&dcff);
        let arguments = train_arguments(args, data, row);
        command.args(arguments).arg("--out").arg(&row.folder);
        let status = command.arg("--check").status();
        let status = status.with_context(|| dcff.display().to_string())?;
        if !status.success() {
            return Ok(ExitCode::from(2));
        }
    }
    std::fs::create_dir_all(&out).with_context(|| out.display().to_string())?;
    if matches!(args.data, Data::Synthetic) {
        succeed(Command::new(&dcff).args(["data", data, "--linear"]))?;
    }
    estimate(&dcff, args, data, &rows)?;
    for row in &rows {
        if row.folder.join("summary.json").exists() {
            eprintln!("== {} seed {}: done", row.arch, row.seed);
            continue;
        }
        eprintln!(
            "== {} seed {}: {}",
            row.arch,
            row.seed,
            row.folder.display()
        );
        let mut command = Command::new(&dcff);
        if row.folder.join("config.toml").exists() {
            command.args(["train", "--resume"]).arg(&row.folder);
        } else {
            command
                .args(train_arguments(args, data, row))
                .arg("--out")
                .arg(&row.folder);
        }
        let status = command
            .status()
            .with_context(|| dcff.display().to_string())?;
        if !status.success() {
            if status.code() == Some(130) {
                eprintln!(
                    "interrupted; the same command continues in {}",
                    out.display()
                );
            }
            return Ok(ExitCode::from(
                status
                    .code()
                    .and_then(|code| u8::try_from(code).ok())
                    .unwrap_or(2),
            ));
        }
    }
    let folders: Vec<PathBuf> = rows.into_iter().map(|row| row.folder).collect();
    table(&dcff, &folders, &out)
}

/// The matrix of runs that the arguments ask for, where it is a file.
fn matrix(args: &Args) -> Result<Option<PathBuf>> {
    let folder = root().join("xtask");
    let Some(method) = &args.method else {
        return Ok(args.compare.then(|| folder.join("compare-cifar10.toml")));
    };
    ensure!(
        matches!(args.data, Data::Cifar10),
        "--method: expected cifar10, got synthetic"
    );
    let ending = match (args.compare, args.quick) {
        (true, _) => "-cifar10-compare.toml",
        (false, true) => "-cifar10-quick.toml",
        (false, false) => "-cifar10.toml",
    };
    let path = folder.join(format!("{method}{ending}"));
    if path.exists() {
        return Ok(Some(path));
    }
    let mut known: Vec<String> = std::fs::read_dir(&folder)
        .with_context(|| folder.display().to_string())?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter_map(|name| Some(name.strip_suffix(ending)?.to_owned()))
        .collect();
    known.sort();
    anyhow::bail!(
        "--method: expected one of {}, got '{method}'",
        known.join(", ")
    );
}

/// The folders of finished runs in `out`, by their names.
fn finished(out: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(out).with_context(|| out.display().to_string())?;
    let folders = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut folders: Vec<PathBuf> = folders
        .filter(|folder| folder.join("summary.json").exists())
        .collect();
    folders.sort();
    Ok(folders)
}

/// The table of runs beside what is published, in `out` and printed.
fn table(dcff: &Path, runs: &[PathBuf], out: &Path) -> Result<ExitCode> {
    let mut report = Command::new(dcff);
    report.arg("report").args(runs).arg("--out").arg(out);
    succeed(report.args(["--command", &typed()]))?;
    print!("{}", std::fs::read_to_string(out.join("table.md"))?);
    Ok(ExitCode::SUCCESS)
}

/// The runs of a `matrix`; they continue, and are estimated and reported, by themselves.
fn compare(
    dcff: &Path,
    args: &Args,
    (matrix, data): (&Path, &str),
    out: &Path,
) -> Result<ExitCode> {
    let mut command = Command::new(dcff);
    command.arg("compare").arg(matrix);
    command.arg("--out").arg(out).args(["--command", &typed()]);
    if !args.arch.is_empty() {
        command.args(["--arch", &args.arch.join(",")]);
    }
    if let Some(seeds) = args.seeds {
        command.args(["--seeds", &seeds.to_string()]);
    }
    command.args(["--", "--data", data]);
    let epochs = args.epochs.map(|epochs| epochs.to_string());
    let flags = [
        (
            "--recipe",
            Some(if args.quick { "quick" } else { "published" }),
        ),
        ("--hold-out", args.quick.then_some("0")),
        ("--epochs", epochs.as_deref()),
    ];
    for (flag, value) in flags {
        if let Some(value) = value.filter(|_| !typed_after(args, flag)) {
            command.args([flag, value]);
        }
    }
    let status = command
        .args(&args.train)
        .status()
        .with_context(|| dcff.display().to_string())?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(code.unwrap_or(2)))
}

/// Whether `flag` was typed after `--`, where it stands in place of a default.
fn typed_after(args: &Args, flag: &str) -> bool {
    args.train
        .iter()
        .any(|typed| typed == flag || typed.starts_with(&format!("{flag}=")))
}

fn train_arguments(args: &Args, data: &str, row: &Row) -> Vec<String> {
    let default_epochs = matches!(args.data, Data::Synthetic).then_some(SYNTHETIC_EPOCHS);
    let epochs = args
        .epochs
        .or(default_epochs)
        .map(|epochs| epochs.to_string());
    let seed = row.seed.to_string();
    let mut flags = vec![
        ("--arch", Some(row.arch.as_str())),
        ("--data", Some(data)),
        ("--seed", Some(&seed)),
        ("--epochs", epochs.as_deref()),
    ];
    match args.data {
        Data::Synthetic => flags.extend([
            ("--recipe", Some("quick")),
            ("--rates", Some(SYNTHETIC_RATES)),
            ("--hold-out", Some("0")),
        ]),
        Data::Cifar10 => flags.extend([
            (
                "--recipe",
                Some(if args.quick { "quick" } else { "published" }),
            ),
            ("--rates", Some("published")),
            ("--criterion", Some("kl-published")),
            ("--temperature", Some("published")),
        ]),
    }
    if args.quick {
        flags.push(("--hold-out", Some("0")));
    }
    let mut list = vec!["train".to_owned()];
    for (flag, value) in flags {
        if let Some(value) = value.filter(|_| !typed_after(args, flag)) {
            list.push(format!("{flag}={value}"));
        }
    }
    list.extend(args.train.iter().cloned());
    list
}

/// Measures a few steps of every run that has not begun, and says how long all of them will take.
fn estimate(dcff: &Path, args: &Args, data: &str, rows: &[Row]) -> Result<()> {
    let fresh: Vec<&Row> = rows
        .iter()
        .filter(|row| !row.folder.join("config.toml").exists())
        .collect();
    if fresh.len() < 2 {
        // A single run tells its own time after its first steps.
        return Ok(());
    }
    let mut total = 0.0;
    for row in rows.iter().filter(|row| row.seed == 1) {
        let runs = fresh.iter().filter(|other| other.arch == row.arch).count();
        if runs == 0 {
            continue;
        }
        let mut command = Command::new(dcff);
        let output = command
            .args(train_arguments(args, data, row))
            .arg("--estimate")
            .stderr(std::process::Stdio::inherit())
            .output()?;
        ensure!(output.status.success(), "{}: estimating failed", row.arch);
        let seconds: f64 = String::from_utf8_lossy(&output.stdout)
            .trim()
            .parse()
            .context("dcff train --estimate")?;
        eprintln!(
            "== {}: about {} for each of {runs} runs",
            row.arch,
            hours(seconds)
        );
        total += seconds * runs as f64;
    }
    eprintln!(
        "== all runs: about {}; interrupt and repeat the command at any time",
        hours(total)
    );
    Ok(())
}

fn hours(seconds: f64) -> String {
    let minutes = (seconds / 60.0).round() as u64;
    if minutes < 60 {
        format!("{minutes} min")
    } else {
        format!("{} h {:02} min", minutes / 60, minutes % 60)
    }
}

/// Builds the program, with the Hub's client only when the data is not there yet.
fn build_for(data: &str) -> Result<PathBuf> {
    let dcff = build(&[])?;
    let found = Command::new(&dcff)
        .args(["data", data, "--locate"])
        .output()
        .with_context(|| dcff.display().to_string())?;
    if !found.status.success() {
        eprintln!("== {data} is not on this machine: building with the Hub's client");
        return build(&["--features", "hub"]);
    }
    Ok(dcff)
}

/// `results/DATE-NAME`, or the newest unfinished folder of that name.
fn results_folder(name: &str) -> Result<PathBuf> {
    let results = root().join("results");
    let mut unfinished: Vec<PathBuf> = match std::fs::read_dir(&results) {
        Err(_) => Vec::new(),
        Ok(entries) => entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| {
                path.file_name()
                    .and_then(|n| n.to_str())
                    .is_some_and(|n| n.get(11..) == Some(name))
            })
            .filter(|path| {
                ["table.json", "report/table.json"]
                    .iter()
                    .all(|table| !path.join(table).exists())
            })
            .collect(),
    };
    unfinished.sort();
    if let Some(folder) = unfinished.pop() {
        eprintln!("== continuing {}", folder.display());
        return Ok(folder);
    }
    Ok(results.join(format!("{}-{name}", today()?)))
}

/// The day, UTC, as `YYYY-MM-DD`.
fn today() -> Result<String> {
    let days = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() / 86_400;
    let (year, month, day) = civil(days as i64);
    Ok(format!("{year:04}-{month:02}-{day:02}"))
}

/// The Gregorian date of a number of days since 1970-01-01 (Hinnant, *chrono-compatible low-level date algorithms*).
fn civil(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let (era, day_of_era) = (z.div_euclid(146_097), z.rem_euclid(146_097));
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (
        year,
        month,
        day_of_year - (153 * month_from_march + 2) / 5 + 1,
    )
}

/// The command as it was typed.
fn typed() -> String {
    let args: Vec<String> = std::env::args()
        .skip(1)
        .map(|a| {
            if a.contains(['[', ' ', '*', '(']) {
                format!("'{a}'")
            } else {
                a
            }
        })
        .collect();
    format!("cargo xtask {}", args.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_trained_is_refused_before_anything_is_built_or_made() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let args = |epochs, arch: &[&str]| Args {
            data: Data::Synthetic,
            arch: arch.iter().map(|&arch| arch.to_owned()).collect(),
            epochs,
            seeds: None,
            quick: false,
            compare: false,
            method: None,
            out: Some(out.clone()),
            train: Vec::new(),
        };
        for (args, expected) in [
            (args(Some(0), &[]), "--epochs: expected at least 1, got 0"),
            (
                args(None, &["resnet20", "resnet57"]),
                "--arch: expected one of vgg16, resnet20, resnet32, resnet44, resnet56, resnet110, googlenet, densenet40, mobilenet-v1-cifar, mobilenet-v2-cifar, got 'resnet57'",
            ),
        ] {
            assert_eq!(run(&args).unwrap_err().to_string(), expected);
        }
        assert!(!out.exists());
    }

    #[test]
    fn every_network_for_small_images_can_be_asked_for() {
        let small = |name: &&str| dcff_models::by_name(name).unwrap().input == [3, 32, 32];
        let known = dcff_models::ALL.iter().map(|entry| entry.name);
        assert_eq!(known.filter(small).collect::<Vec<_>>(), ARCHS);
    }

    #[test]
    fn days_become_dates() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(11_016), (2000, 2, 29));
        assert_eq!(civil(20_780), (2026, 11, 23));
    }
}
