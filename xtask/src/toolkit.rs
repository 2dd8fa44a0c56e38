//! A CUDA toolkit out of NVIDIA's packages on PyPI, for machines on which none can be installed.
//!
//! The packages hold all that a build needs but for two things, which are made here: library names without a version, which
//! linkers look for, and a `libcuda` to link with, which belongs to the driver and exists only where a GPU is.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::run::succeed;

/// What `pip` is asked for; the release is the one that the program is built and linked for.
const PACKAGES: [&str; 2] = [
    "cuda-toolkit[nvcc,crt,nvvm,cudart,cccl,cublas,curand,nvrtc]==13.0.2",
    "nvidia-cudnn-cu13==9.19.0.56",
];

/// Folders with libraries, below the packages' common one.
const LIBRARIES: [&str; 2] = ["cu13/lib", "cudnn/lib"];

/// Makes a toolkit in `folder` and prints what to put into the environment.
#[cfg(unix)]
pub(crate) fn run(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let folder = folder.canonicalize()?;
    let venv = folder.join("venv");
    if !venv.join("bin/pip").exists() {
        succeed(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
    }
    succeed(
        Command::new(venv.join("bin/pip"))
            .args(["install", "--quiet"])
            .args(PACKAGES),
    )?;
    let packages = packages(&venv)?;
    let cuda = folder.join("cuda");
    let stubs = cuda.join("lib/stubs");
    fs::create_dir_all(&stubs)?;
    for part in ["bin", "nvvm", "include"] {
        link(&packages.join("cu13").join(part), &cuda.join(part))?;
    }
    link(Path::new("lib"), &cuda.join("lib64"))?;
    for libraries in LIBRARIES {
        for entry in fs::read_dir(packages.join(libraries))? {
            let file = entry?.path();
            let Some(name) = file.file_name().and_then(|name| name.to_str()) else {
                continue;
            };
            if !name.contains(".so") && !name.ends_with(".a") {
                continue;
            }
            link(&file, &cuda.join("lib").join(name))?;
            if let Some(plain) = without_version(name) {
                link(Path::new(name), &cuda.join("lib").join(plain))?;
            }
        }
    }
    stub(&cuda.join("include"), &stubs)?;
    println!("export CUDA_HOME={}", cuda.display());
    println!("export PATH={}:$PATH", cuda.join("bin").display());
    Ok(())
}

#[cfg(not(unix))]
pub(crate) fn run(_: &Path) -> Result<()> {
    anyhow::bail!("the packages are put together for Unix only: install the CUDA toolkit 13.0")
}

/// The folder `site-packages/nvidia` of a virtual environment.
fn packages(venv: &Path) -> Result<PathBuf> {
    for entry in fs::read_dir(venv.join("lib"))? {
        let folder = entry?.path().join("site-packages/nvidia");
        if folder.join("cu13").is_dir() {
            return Ok(folder);
        }
    }
    anyhow::bail!("{}: pip left no CUDA packages there", venv.display())
}

/// `libcublas.so` for `libcublas.so.13`; variants of a library (`.alt.`) are not what a plain name means.
fn without_version(name: &str) -> Option<String> {
    let (library, version) = name.split_once(".so.")?;
    let plain = !library.contains(".alt") && !version.contains("alt");
    plain.then(|| format!("{library}.so"))
}

/// Puts a link in the place of whatever is at `from`.
#[cfg(unix)]
fn link(to: &Path, from: &Path) -> Result<()> {
    if from.symlink_metadata().is_ok() {
        fs::remove_file(from).with_context(|| from.display().to_string())?;
    }
    std::os::unix::fs::symlink(to, from).with_context(|| from.display().to_string())
}

/// A library with the names of the driver's functions, to link with; called, every one of them fails.
fn stub(include: &Path, folder: &Path) -> Result<()> {
    let header = include.join("cuda.h");
    let output = Command::new("cc")
        .args(["-E", "-P", "-x", "c"])
        .arg(&header)
        .stderr(Stdio::inherit())
        .output()
        .context("cc")?;
    ensure!(
        output.status.success(),
        "cc -E {}: {}",
        header.display(),
        output.status
    );
    let names = driver_functions(&String::from_utf8_lossy(&output.stdout));
    ensure!(
        names.len() > 100,
        "{}: expected the driver's functions, found {}",
        header.display(),
        names.len()
    );
    let mut source = String::new();
    for name in names {
        // CUDA_ERROR_STUB_LIBRARY.
        writeln!(source, "int {name}(void) {{ return 34; }}")?;
    }
    let file = folder.join("libcuda.c");
    fs::write(&file, source).with_context(|| file.display().to_string())?;
    succeed(
        Command::new("cc")
            .args(["-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o"])
            .arg(folder.join("libcuda.so"))
            .arg(&file),
    )
}

/// Names that a preprocessed header declares as `CUresult cuName(`.
fn driver_functions(text: &str) -> BTreeSet<String> {
    let name = |rest: &str| -> Option<String> {
        let rest = rest.trim_start();
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_')?;
        let (name, after) = rest.split_at(end);
        let declared = name.starts_with("cu") && after.trim_start().starts_with('(');
        declared.then(|| name.to_owned())
    };
    text.split("CUresult").skip(1).filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_functions_that_a_header_declares() {
        let text = "typedef enum cudaError_enum { CUDA_SUCCESS = 0 } CUresult;\n\
                    CUresult cuInit(unsigned int Flags);\nCUresult\n  cuMemAlloc_v2 (int *p);\n\
                    typedef CUresult ( *callback)(int); CUresult status;";
        let names: Vec<_> = driver_functions(text).into_iter().collect();
        assert_eq!(names, ["cuInit", "cuMemAlloc_v2"]);
    }

    #[test]
    fn names_lose_their_version() {
        assert_eq!(
            without_version("libcublas.so.13").as_deref(),
            Some("libcublas.so")
        );
        for name in ["libnvrtc.alt.so.13", "libcublas.so", "libcudart_static.a"] {
            assert_eq!(without_version(name), None, "{name}");
        }
    }
}
