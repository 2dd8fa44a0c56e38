//! `cargo xtask check`: what must hold before a commit, besides the tests.

use anyhow::Result;

use crate::run::{cargo, succeed};
use crate::{cuda, tidy};

pub(crate) fn run(with_toolkit: bool) -> Result<()> {
    if with_toolkit {
        step("CUDA: kernels and program");
        let program = cuda::build()?;
        step(&format!("built {}", program.display()));
        return Ok(());
    }
    step("format");
    succeed(&mut cargo(["fmt", "--all", "--check"]))?;
    step("house rules");
    tidy::run()?;
    step("lints");
    succeed(&mut cargo([
        "clippy",
        "--workspace",
        "--all-targets",
        "--quiet",
        "--",
        "--deny",
        "warnings",
    ]))?;
    step("lints of the CUDA code");
    cuda::lint()?;
    step("documentation");
    succeed(
        cargo(["doc", "--workspace", "--no-deps", "--quiet"])
            .env("RUSTDOCFLAGS", "--deny warnings"),
    )?;
    step("all checks passed");
    Ok(())
}

fn step(name: &str) {
    eprintln!("== {name}");
}
