//! The kernels on a processor that this machine may not have: 64-bit Arm, whose NEON code an emulator runs.

use std::process::{Command, Stdio};

use anyhow::{Result, ensure};

use crate::run::{cargo, succeed};

const TARGET: &str = "aarch64-unknown-linux-gnu";
const LINKER: &str = "aarch64-linux-gnu-gcc";
const EMULATOR: &str = "qemu-aarch64";

/// Builds the tests of `dcff-nn` for Arm and runs them, emulated unless this is such a machine.
pub(crate) fn test() -> Result<()> {
    let mut tests = cargo(["test", "--release", "--package", "dcff-nn"]);
    if !cfg!(target_arch = "aarch64") {
        for program in [LINKER, EMULATOR] {
            ensure!(
                runs(program),
                "{program}: expected the program, got none; on Debian: apt install qemu-user gcc-aarch64-linux-gnu \
                 libc6-dev-arm64-cross; rustup target add {TARGET}"
            );
        }
        tests
            .args(["--target", TARGET])
            .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", LINKER)
            .env(
                "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER",
                format!("{EMULATOR} -L /usr/aarch64-linux-gnu"),
            );
    }
    succeed(&mut tests)
}

fn runs(program: &str) -> bool {
    let mut command = Command::new(program);
    command.arg("--version").stdout(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
