//! `cargo xtask publish-all`: a repository on the Hub for every row of a reproduced table.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::run::{build, succeed};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Folder that `cargo xtask reproduce` wrote: its finished runs are published
    results: PathBuf,
    /// User or organisation on the Hub
    #[arg(long, default_value = "dcff")]
    owner: String,
    /// Write the repositories to RESULTS/hub instead; uses no network and needs no account
    #[arg(long)]
    dry_run: bool,
    /// Further arguments for every `dcff publish`, after `--`
    #[arg(last = true)]
    publish: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let runs = finished(&args.results)?;
    ensure!(
        !runs.is_empty(),
        "{}: expected folders of finished runs, got none",
        args.results.display()
    );
    let hub: &[&str] = match args.dry_run {
        true => &[],
        false => &["--features", "hub"],
    };
    let dcff = build(hub)?;
    for run in &runs {
        let name = repository(run);
        let mut publish = Command::new(&dcff);
        publish
            .arg("publish")
            .arg(run)
            .arg(format!("{}/{name}", args.owner));
        if args.dry_run {
            let out = args.results.join("hub").join(&name);
            publish.arg("--dry-run").arg("--out").arg(out);
        }
        succeed(publish.args(&args.publish))?;
    }
    Ok(())
}

/// The run folders in `results` that have a summary, by name.
fn finished(results: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(results).with_context(|| results.display().to_string())?;
    let mut runs = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.join("summary.json").is_file() {
            runs.push(path);
        }
    }
    runs.sort();
    Ok(runs)
}

/// The repository of a run: `dcff-` and the folder's name, with `-` for what the Hub does not take in names.
fn repository(run: &Path) -> String {
    let name = run.file_name().unwrap_or_default().to_string_lossy();
    let mut repository = String::from("dcff");
    for part in name.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
        if !part.is_empty() {
            repository.push('-');
            repository.push_str(part);
        }
    }
    repository
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_the_hub_takes() {
        let name = |run: &str| repository(Path::new(run));
        assert_eq!(name("results/2026-11-23/vgg16-seed1"), "dcff-vgg16-seed1");
        assert_eq!(name("a..b--c d"), "dcff-a-b-c-d");
    }

    #[test]
    fn only_finished_runs_are_found() {
        let results = std::env::temp_dir().join(format!("dcff-publish-{}", std::process::id()));
        for (run, file) in [
            ("b", "summary.json"),
            ("a", "summary.json"),
            ("c", "config.toml"),
        ] {
            std::fs::create_dir_all(results.join(run)).unwrap();
            std::fs::write(results.join(run).join(file), "{}").unwrap();
        }
        let found = finished(&results).unwrap();
        std::fs::remove_dir_all(&results).unwrap();
        assert_eq!(found, ["a", "b"].map(|run| results.join(run)));
    }
}
