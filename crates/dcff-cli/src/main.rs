//! The `dcff` program: arguments, wiring, printing. Mathematics lives in the crates it composes.
//!
//! Results go to standard output, progress and messages to standard error. Bad input ends with one line and exit
//! code 2, a comparison some of whose runs failed and predictions some of whose images cannot be read with 1, an interruption with 130.

// Printing must not panic: `out` has macros of the same names.
#![deny(clippy::print_stdout, clippy::print_stderr)]

#[macro_use]
mod out;

mod args;
mod artefact;
mod commands;
mod data;
mod ended;
mod hub;
mod progress;
mod text;

use std::process::ExitCode;

use args::{Cli, Command};
use ended::Ended;

fn main() -> ExitCode {
    report_full_files();
    let ended = match Cli::read(std::env::args_os()) {
        Ok(cli) => run(cli),
        Err(error) if args::is_help(&error) => {
            out::keep(error.print());
            if error.use_stderr() {
                return ExitCode::from(2);
            }
            Ok(Ended::Done)
        }
        Err(error) => Err(anyhow::anyhow!(args::complaint(&error))),
    };
    match ended.and_then(|ended| out::end().map(|()| ended)) {
        Ok(Ended::Done) => ExitCode::SUCCESS,
        Ok(Ended::Partly) => ExitCode::from(1),
        Ok(Ended::Interrupted) => ExitCode::from(130),
        Err(error) => {
            eprintln!("error: {}", text::complaint(&error));
            ExitCode::from(2)
        }
    }
}

/// A file that may grow no further (`ulimit -f`) is an error like a full disk; without this, a signal ends the program.
fn report_full_files() {
    #[cfg(unix)]
    #[expect(
        unsafe_code,
        reason = "std and ctrlc know no way to ignore this signal"
    )]
    // SAFETY: no other thread runs yet, and no handler is installed.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}

fn run(cli: Cli) -> anyhow::Result<Ended> {
    if let Some(threads) = cli.threads {
        anyhow::ensure!(
            (1..=1024).contains(&threads),
            "--threads: expected 1 to 1024, got {threads}"
        );
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build_global()?;
    }
    if cli.end_with_parent {
        // Files appear whole or not at all, so the end may come at any time.
        std::thread::spawn(|| {
            let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            std::process::exit(130);
        });
    }
    // On one of the pool's own threads: work is then split where it arises, and no thread sleeps and is woken for every
    // layer.
    rayon::scope(|_| dispatch(cli.command))
}

fn dispatch(command: Command) -> anyhow::Result<Ended> {
    match command {
        Command::Train(args) => commands::train::run(&args),
        Command::Compare(args) => commands::compare::run(&args),
        Command::Eval(args) => commands::eval::run(&args),
        Command::Compact(args) => commands::compact::run(&args),
        Command::Extract(args) => commands::extract::run(&args),
        Command::Bundle(args) => commands::bundle::run(&args),
        Command::Flops(args) => commands::flops::run(&args),
        Command::Report(args) => commands::report::run(&args),
        Command::Criteria(args) => commands::lists::criteria(&args),
        Command::Data(args) => commands::data::run(&args),
        Command::Bench(args) => commands::bench::run(&args),
        Command::Predict(args) => commands::predict::run(&args),
        Command::Export(args) => commands::export::run(&args),
        Command::Publish(args) => commands::publish::run(&args),
        Command::Pull(args) => commands::pull::run(&args),
    }
}
