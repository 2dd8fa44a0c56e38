//! Project tasks; `cargo xtask help` lists them.
//!
//! It builds and drives the `dcff` program for people and holds no logic that a user of the crates would miss.

mod arm;
mod bench;
mod check;
mod circles;
mod cuda;
mod interop;
mod publish;
mod python;
mod reproduce;
mod run;
mod stand_in;
mod tidy;
mod toolkit;

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

use run::{cargo, root, succeed};

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
    /// On a machine with a GPU: parity with the CPU, speed beside PyTorch, and a slice of a training run
    GpuTest {
        /// Flags of gpu_test (`--help` lists them); --out is results/gpu unless given
        #[arg(
            trailing_var_arg = true,
            allow_hyphen_values = true,
            value_name = "FLAGS"
        )]
        flags: Vec<String>,
    },
    /// Put a CUDA toolkit together from NVIDIA's packages on PyPI, where none is installed, and print its environment
    CudaToolkit {
        /// Folder for it, some 2 GB
        dir: PathBuf,
    },
    /// Run the kernels' tests on an emulated 64-bit Arm processor
    ArmTest,
    /// Run the tests that need a GPU with a stand-in for one on the processor
    CardTest,
    /// Everything but the tests: format, lints, documentation, house rules
    Check {
        /// Instead compile all CUDA kernels and build the program with an installed toolkit; needs no GPU
        #[arg(long)]
        cuda: bool,
    },
}

fn main() -> ExitCode {
    match carry_out(Cli::parse().task) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn carry_out(task: Task) -> Result<ExitCode> {
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
        Task::GpuTest { flags } => {
            let mut command = Command::new(cuda::gpu_test()?);
            command.current_dir(root()).args(&flags);
            if !flags.iter().any(|flag| flag.starts_with("--out")) {
                command.args(["--out", "results/gpu"]);
            }
            succeed(&mut command).map(|()| ExitCode::SUCCESS)
        }
        Task::CudaToolkit { dir } => toolkit::run(&dir).map(|()| ExitCode::SUCCESS),
        Task::ArmTest => arm::test().map(|()| ExitCode::SUCCESS),
        Task::CardTest => stand_in::test().map(|()| ExitCode::SUCCESS),
        Task::Check { cuda } => check::run(cuda).map(|()| ExitCode::SUCCESS),
    }
}
