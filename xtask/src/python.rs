//! Python with the packages that comparisons need.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::{root, succeed};

/// Names a Python that has the packages already.
pub(crate) const PYTHON: &str = "DCFF_PYTHON";

/// The Python that `DCFF_PYTHON` names, or that of a virtual environment `target/NAME-venv` made for the purpose.
pub(crate) fn with_packages(name: &str, requirements: &Path) -> Result<PathBuf> {
    if let Some(python) = std::env::var_os(PYTHON) {
        return Ok(python.into());
    }
    let venv = root().join(format!("target/{name}-venv"));
    let python = match cfg!(windows) {
        true => venv.join("Scripts/python.exe"),
        false => venv.join("bin/python"),
    };
    // Written last, so an environment that was left half-made is completed.
    let done = venv.join("complete");
    if !done.exists() {
        eprintln!(
            "installing {} in {}",
            requirements.display(),
            venv.display()
        );
        let system = if cfg!(windows) { "python" } else { "python3" };
        succeed(Command::new(system).args(["-m", "venv"]).arg(&venv))?;
        let install = ["-m", "pip", "install", "--quiet", "--requirement"];
        succeed(Command::new(&python).args(install).arg(requirements))?;
        std::fs::write(&done, "")?;
    }
    Ok(python)
}
