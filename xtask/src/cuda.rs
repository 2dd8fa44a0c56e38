//! CUDA code on machines without a GPU: types checked without a toolkit, kernels compiled with one.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::run::{cargo, root, succeed};

/// Takes the place of CUDA's compiler where only types are checked: it says a version and makes empty files.
const STAND_IN: &str = r#"#!/bin/sh
out= kind= source= folder=.
while [ $# -gt 0 ]; do
  case $1 in
    --version)
      printf 'nvcc: stands in for the CUDA compiler\n\n\nCuda compilation tools, release 13.0, V13.0.88\n'
      exit 0 ;;
    --ptx | -ptx) kind=ptx ;;
    --lib | -lib) kind=lib ;;
    -o) out=$2; shift ;;
    --output-directory | -odir) folder=$2; shift ;;
    *.cu) source=$1 ;;
  esac
  shift
done
if [ "$kind" = lib ]; then
  printf '!<arch>\n' > "$out"
elif [ -n "$out" ]; then
  : > "$out"
elif [ "$kind" = ptx ]; then
  : > "$folder/$(basename "$source" .cu).ptx"
fi
"#;

/// GPUs that kernels are compiled for: A100, H100, B200.
const ARCHITECTURES: [&str; 3] = ["sm_80", "sm_90", "sm_100"];

/// Lints the CUDA code without a toolkit.
pub(crate) fn lint() -> Result<()> {
    if !cfg!(unix) {
        eprintln!("skipped: the compiler's stand-in is a shell script");
        return Ok(());
    }
    let path = path_with_stand_in()?;
    for feature in ["cuda", "cudnn"] {
        // A folder of its own: nothing that is built here may end up in a program.
        let features = format!("dcff-cli/{feature},dcff-nn/{feature}");
        succeed(
            cargo([
                "clippy",
                "--quiet",
                "--package",
                "dcff-nn",
                "--package",
                "dcff-cli",
            ])
            .args(["--features", &features, "--", "--deny", "warnings"])
            .env("CARGO_TARGET_DIR", root().join("target/cuda-check"))
            .env("CUDA_COMPUTE_CAP", "90")
            .env("PATH", &path),
        )?;
    }
    Ok(())
}

/// `PATH` with the stand-in for CUDA's compiler first.
pub(crate) fn path_with_stand_in() -> Result<OsString> {
    let folder = root().join("target/stand-in");
    write_stand_in(&folder)?;
    let given = std::env::var_os("PATH").unwrap_or_default();
    Ok(std::env::join_paths(
        std::iter::once(folder).chain(std::env::split_paths(&given)),
    )?)
}

fn write_stand_in(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    let file = folder.join("nvcc");
    if std::fs::read_to_string(&file).is_ok_and(|text| text == STAND_IN) {
        return Ok(());
    }
    std::fs::write(&file, STAND_IN).with_context(|| file.display().to_string())?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// Compiles all kernels for all GPUs and builds the program with an installed toolkit; needs no GPU.
pub(crate) fn build() -> Result<PathBuf> {
    let kernels = root().join("crates/dcff-nn/src/gpu/kernels");
    let folder = root().join("target/kernels");
    std::fs::create_dir_all(&folder)?;
    let mut files = std::fs::read_dir(&kernels)?
        .map(|entry| Ok(entry?.path()))
        .collect::<std::io::Result<Vec<_>>>()?;
    files.retain(|file| file.extension().is_some_and(|is| is == "cu"));
    files.sort();
    files.insert(0, kernels.join("common.cuh"));
    let mut text = String::new();
    for file in files {
        text += &std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    }
    for (maps, define) in [("f32", ""), ("bf16", "#define MAPS_BF16 1\n")] {
        let source = folder.join(format!("dcff-{maps}.cu"));
        std::fs::write(&source, format!("{define}{text}"))?;
        for architecture in ARCHITECTURES {
            eprintln!("compiling kernels for {maps} maps, {architecture}");
            let status = Command::new("nvcc")
                .args(["--cubin", "--std=c++17", "-arch", architecture, "-o"])
                .arg(source.with_extension(format!("{architecture}.cubin")))
                .arg(&source)
                .status()
                .context("nvcc: install the CUDA toolkit 13.0 and put it on PATH")?;
            ensure!(status.success(), "nvcc: {status}");
        }
    }
    program()
}

/// The program with CUDA and cuDNN, built for release.
pub(crate) fn program() -> Result<PathBuf> {
    crate::run::build(&["--features", "cudnn"])
}

/// What must hold on a GPU: a program, with `dcff` beside it, both with CUDA and cuDNN.
pub(crate) fn gpu_test() -> Result<PathBuf> {
    let program = program()?;
    let features = ["--features", "dcff-tests/cudnn", "--bin", "gpu_test"];
    succeed(cargo(["build", "--release", "--package", "dcff-tests"]).args(features))?;
    Ok(program.with_file_name(format!("gpu_test{}", std::env::consts::EXE_SUFFIX)))
}
