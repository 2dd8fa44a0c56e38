//! Python with the packages that comparisons need.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::run::{root, succeed};

/// Names a Python that has the packages already.
pub(crate) const PYTHON: &str = "DCFF_PYTHON";

/// Whose PyTorch an environment has.
#[derive(Clone, Copy)]
pub(crate) enum PyTorch {
    /// The distribution's where it is installed (`apt install python3-torch python3-venv`), else PyPI's: that for Linux brings
    /// gigabytes for GPUs.
    Any,
    /// PyPI's: to be faster than an old release would prove nothing.
    Current,
}

/// The Python that `DCFF_PYTHON` names, or that of a virtual environment `target/NAME-venv` made for the purpose.
pub(crate) fn with_packages(name: &str, requirements: &Path, torch: PyTorch) -> Result<PathBuf> {
    if let Some(python) = std::env::var_os(PYTHON) {
        return Ok(python.into());
    }
    let venv = root().join(format!("target/{name}-venv"));
    let python = match cfg!(windows) {
        true => venv.join("Scripts/python.exe"),
        false => venv.join("bin/python"),
    };
    let wanted = std::fs::read_to_string(requirements)
        .with_context(|| requirements.display().to_string())?;
    // Written last, so an environment that was left half-made, or made for other requirements, is completed.
    let done = venv.join("complete");
    if std::fs::read_to_string(&done).is_ok_and(|installed| installed == wanted) {
        return Ok(python);
    }
    eprintln!(
        "installing {} in {}",
        requirements.display(),
        venv.display()
    );
    let installed = match torch {
        PyTorch::Any => system_torch(),
        PyTorch::Current => None,
    };
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--requirement"])
        .arg(requirements);
    match installed {
        Some((system, numpy)) => {
            let more = ["-m", "venv", "--system-site-packages"];
            succeed(Command::new(system).args(more).arg(&venv))?;
            // A PyTorch works with the NumPy that it was built against.
            pip.arg(format!("numpy=={numpy}"));
        }
        None => {
            let system = if cfg!(windows) { "python" } else { "python3" };
            succeed(Command::new(system).args(["-m", "venv"]).arg(&venv))?;
        }
    }
    succeed(&mut pip)?;
    std::fs::write(&done, wanted).with_context(|| done.display().to_string())?;
    Ok(python)
}

/// A Python that has PyTorch without our doing, and the version of its NumPy.
fn system_torch() -> Option<(&'static OsStr, String)> {
    // A version manager's python3 may stand before the distribution's.
    ["python3", "/usr/bin/python3"]
        .into_iter()
        .find_map(|name| {
            let output = Command::new(name)
                .args(["-c", "import torch, numpy; print(numpy.__version__)"])
                .stderr(Stdio::null())
                .output()
                .ok()
                .filter(|output| output.status.success())?;
            let numpy = String::from_utf8(output.stdout).ok()?;
            Some((name.as_ref(), numpy.trim().to_owned()))
        })
}
