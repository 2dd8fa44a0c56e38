//! Project tasks: `cargo xtask reproduce|fixtures|bench|interop|check`.
//!
//! It builds and drives the `dcff` program for people and holds no logic that a user of the crates would miss.

mod bench;
mod check;
mod interop;
mod publish;
mod python;
mod reproduce;
mod tidy;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Project tasks")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Train compact networks and set the measured figures beside the published ones
    Reproduce(reproduce::Args),
    /// Check recorded reference numbers: every record of DIR/index.json, a line each
    Fixtures {
        /// Folder with an index.json
        dir: PathBuf,
    },
    /// Measure speed and memory, beside PyTorch where asked
    Bench(bench::Args),
    /// Load what is exported and published with PyTorch, onnxruntime and huggingface_hub
    Interop(interop::Args),
    /// Publish every finished run of a results folder, a repository each
    PublishAll(publish::Args),
    /// Everything but the tests: format, lints, documentation, house rules
    Check,
}

fn main() -> ExitCode {
    match run(Cli::parse().task) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(task: Task) -> Result<ExitCode> {
    match task {
        Task::Reproduce(args) => reproduce::run(&args),
        Task::Fixtures { dir } => {
            let dir = dir
                .canonicalize()
                .with_context(|| dir.display().to_string())?;
            let status = cargo([
                "run",
                "--quiet",
                "--release",
                "--package",
                "dcff-tests",
                "--bin",
                "fixtures",
                "--",
            ])
            .arg(dir)
            .status()?;
            Ok(ExitCode::from(
                status
                    .code()
                    .and_then(|code| u8::try_from(code).ok())
                    .unwrap_or(2),
            ))
        }
        Task::Bench(args) => bench::run(&args),
        Task::Interop(args) => interop::run(&args).map(|()| ExitCode::SUCCESS),
        Task::PublishAll(args) => publish::run(&args).map(|()| ExitCode::SUCCESS),
        Task::Check => check::run().map(|()| ExitCode::SUCCESS),
    }
}

/// The repository's root.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .map_or_else(|| PathBuf::from("."), Path::to_owned)
}

/// Cargo, in the repository's root.
fn cargo<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).args(args);
    command
}

/// Runs `command`; an error names it.
fn succeed(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("{:?}", command.get_program()))?;
    if !status.success() {
        bail!(
            "{} {}: {status}",
            command.get_program().to_string_lossy(),
            command
                .get_args()
                .map(|a| a.to_string_lossy())
                .collect::<Vec<_>>()
                .join(" ")
        );
    }
    Ok(())
}
