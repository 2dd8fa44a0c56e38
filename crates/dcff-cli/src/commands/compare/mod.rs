//! `dcff compare`: a matrix of settings, a run folder for each, a report of all.

mod matrix;
mod queue;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use dcff_flops::{Convention, Form, cost};
use dcff_models::Architecture;
use dcff_report::table::duration;
use dcff_train::{DENSE, SUMMARY, full_network, methods};

use self::matrix::{Plan, Run};
use self::queue::{Queue, QueueEnd};
use crate::args::CompareArgs;
use crate::commands::{report, train};
use crate::data;
use crate::ended::Ended;

/// The report's folder in the comparison's.
const REPORT: &str = "report";

pub(crate) fn run(args: &CompareArgs) -> anyhow::Result<Ended> {
    let plan = Plan::new(args)?;
    let cores = rayon::current_num_threads();
    ensure!(
        (1..=256).contains(&args.jobs),
        "--jobs: expected 1 to 256, got {}",
        args.jobs
    );
    for run in &plan.runs {
        train::check_folder(&args.out.join(&run.name), &run.config)?;
    }
    for note in &plan.notes {
        eprintln!("{note}");
    }
    if args.list {
        for run in &plan.runs {
            println!("{}", run.name);
        }
        return Ok(Ended::Done);
    }
    let mut found: Vec<&str> = Vec::new();
    for run in &plan.runs {
        let name = run.config.data.name.as_str();
        if !found.contains(&name) {
            data::locate(name, &run.args.data_dir, true)?;
            found.push(name);
        }
    }
    std::fs::create_dir_all(&args.out).with_context(|| args.out.display().to_string())?;
    let queue = Queue {
        out: &args.out,
        jobs: args.jobs,
        threads: (cores / args.jobs).max(1),
        stop: train::stop_on_signal()?,
    };
    let after = dense_stages(&plan.runs);
    let seconds = if args.no_estimate {
        vec![None; plan.runs.len()]
    } else {
        estimate(&plan.runs, &after, &queue)?
    };
    let failed = match queue.work(&plan.runs, &seconds, &after)? {
        QueueEnd::Through { failed } => failed,
        QueueEnd::Interrupted => {
            eprintln!("interrupted; the same command continues");
            return Ok(Ended::Interrupted);
        }
    };
    let folders: Vec<PathBuf> = plan
        .runs
        .iter()
        .map(|run| args.out.join(&run.name))
        .collect();
    let options = dcff_report::Options {
        command: args.command.clone().or_else(|| Some(typed())),
        layer: None,
    };
    if failed < folders.len() {
        report::write(&folders, &args.out.join(REPORT), options)?;
    }
    Ok(if failed > 0 {
        Ended::Partly
    } else {
        Ended::Done
    })
}

/// For each run the one that trains its dense stage, where an earlier run has the same.
fn dense_stages(runs: &[Run]) -> Vec<Option<usize>> {
    let stage = |run: &Run| {
        let config = &run.config;
        let full = full_network(config).ok()?;
        let plan = methods::plan(config, &full).ok()?;
        let stage = plan.stages.into_iter().next()?;
        // A run of one stage has none to share.
        (stage.name == DENSE && !stage.compact).then(|| {
            let data = (config.arch.clone(), config.seed, config.data.clone());
            (data, (stage.recipe, stage.settings))
        })
    };
    let stages: Vec<_> = runs.iter().map(stage).collect();
    (0..runs.len())
        .map(|index| {
            let first = stages.iter().position(|other| *other == stages[index])?;
            (stages[index].is_some() && first < index).then_some(first)
        })
        .collect()
}

/// The share of a run's multiply-accumulates that is left where its dense stage is taken over.
fn share_after_dense(run: &Run) -> anyhow::Result<f64> {
    let full = full_network(&run.config)?;
    let plan = methods::plan(&run.config, &full)?;
    let (Some(stage), Some(compact)) = (
        plan.stages.first().filter(|stage| stage.name == DENSE),
        &plan.compact,
    ) else {
        return Ok(1.0);
    };
    let macs = |network: &Architecture| -> anyhow::Result<f64> {
        Ok(cost(network, Convention::Macs, Form::Compact)?.ops() as f64)
    };
    let dense = stage.epochs.len() as f64 * macs(&full)?;
    let epochs = run.config.recipe.epochs - stage.epochs.end;
    let finetune = epochs as f64 * macs(compact)?;
    Ok(finetune / (dense + finetune))
}

/// This command as it was typed, but for the folder of results: a report does not depend on where it is made.
fn typed() -> String {
    shown(std::env::args().skip(1))
}

/// `argument`, or what follows its `=`, without the folders above where it is an absolute path: those are nobody's business.
fn without_place(argument: &str) -> String {
    let (before, value) = match argument.split_once('=') {
        Some((flag, value)) => (format!("{flag}="), value),
        None => (String::new(), argument),
    };
    let path = Path::new(value.trim_start_matches("folder:"));
    match path.file_name() {
        Some(name) if path.is_absolute() => format!("{before}{}", name.display()),
        _ => argument.to_owned(),
    }
}

fn shown(arguments: impl IntoIterator<Item = String>) -> String {
    let mut text = "dcff".to_owned();
    let mut folder = false;
    for argument in arguments {
        text.push(' ');
        if folder {
            text.push_str("OUT");
        } else if argument.starts_with("--out=") {
            text.push_str("--out=OUT");
        } else if argument.contains(char::is_whitespace) {
            text.push_str(&format!("'{}'", without_place(&argument)));
        } else {
            text.push_str(&without_place(&argument));
        }
        folder = !folder && argument == "--out";
    }
    text
}

/// Measures a few steps of every group of runs, and says how long all of them will take.
fn estimate(
    runs: &[Run],
    after: &[Option<usize>],
    queue: &Queue<'_>,
) -> anyhow::Result<Vec<Option<f64>>> {
    let open: Vec<&Run> = runs
        .iter()
        .filter(|run| !queue.out.join(&run.name).join(SUMMARY).exists())
        .collect();
    let mut groups: BTreeMap<&str, Option<f64>> = BTreeMap::new();
    for run in &open {
        if groups.contains_key(run.group.as_str()) {
            continue;
        }
        let mut child = Command::new(std::env::current_exe()?)
            .args(&run.arguments)
            .args([
                "--estimate",
                "--threads",
                &queue.threads.to_string(),
                "--end-with-parent",
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("starting dcff train --estimate")?;
        // Held open until it has ended: it ends with its input.
        let input = child.stdin.take();
        let output = child.wait_with_output()?;
        drop(input);
        if queue.stop.load(std::sync::atomic::Ordering::Relaxed) {
            break;
        }
        // A run that cannot be measured fails in its turn, as a row of the report.
        let seconds: Option<f64> = String::from_utf8_lossy(&output.stdout).trim().parse().ok();
        groups.insert(&run.group, seconds.filter(|_| output.status.success()));
    }
    let of = |run: &Run| groups.get(run.group.as_str()).copied().flatten();
    let mut seconds = Vec::with_capacity(runs.len());
    for (run, after) in runs.iter().zip(after) {
        let share = match after {
            Some(_) => share_after_dense(run)?,
            None => 1.0,
        };
        seconds.push(of(run).map(|seconds| seconds * share));
    }
    for (group, seconds) in &groups {
        let count = open.iter().filter(|run| run.group == **group).count();
        match seconds {
            Some(seconds) => eprintln!("{group}: about {} for each of {count}", duration(*seconds)),
            None => eprintln!("{group}: cannot be estimated"),
        }
    }
    let done = |run: &Run| queue.out.join(&run.name).join(SUMMARY).exists();
    let left = runs.iter().zip(&seconds).filter(|(run, _)| !done(run));
    let total: f64 = left.filter_map(|(_, seconds)| *seconds).sum();
    eprintln!(
        "{} runs to do, about {} in all; interrupt and repeat the command at any time",
        open.len(),
        duration(total / queue.jobs as f64)
    );
    Ok(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_names_the_command_but_not_its_folder() {
        for (typed, expected) in [
            (
                "compare|a.toml|--out|/some/where|--jobs|2",
                "dcff compare a.toml --out OUT --jobs 2",
            ),
            (
                "compare|--out=x|a b.toml",
                "dcff compare --out=OUT 'a b.toml'",
            ),
            (
                "compare|a.toml|--|--data|/home/me/my cats|--dense-from=/home/me/run",
                "dcff compare a.toml -- --data 'my cats' --dense-from=run",
            ),
        ] {
            assert_eq!(shown(typed.split('|').map(str::to_owned)), expected);
        }
    }
}
