//! The program of checks, and what it is shown.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use serde_json::Value;

use crate::run::{root, succeed, target};

/// A program that was built.
pub(super) fn built(name: &str) -> PathBuf {
    let file = format!("{name}{}", std::env::consts::EXE_SUFFIX);
    target().join("release").join(file)
}

/// Flags of `dcff predict`.
pub(super) const TOP_JSON: [&str; 3] = ["--top", "10", "--json"];

/// What the program predicts for some images.
pub(super) struct Predictions {
    pub(super) images: Vec<PathBuf>,
    pub(super) json: Value,
}

/// The checks' program.
pub(super) struct Check {
    pub(super) python: PathBuf,
}

impl Check {
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(&self.python);
        command.arg(root().join("tests/interop/check.py"));
        command
    }

    pub(super) fn run<S: AsRef<std::ffi::OsStr>>(
        &self,
        args: impl IntoIterator<Item = S>,
    ) -> Result<()> {
        succeed(self.command().args(args))
    }
}
