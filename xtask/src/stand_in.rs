//! The program on a stand-in for a GPU: everything but the GPU itself is what users run, where there is no GPU.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::cuda;
use crate::run::{cargo, root, succeed};

/// NVIDIA's libraries, played by the processor.
const DRIVER: &str = include_str!("stand_in/driver.cpp");
/// The libraries that the program is linked with.
const LIBRARIES: [&str; 7] = [
    "cuda", "cudart", "cublas", "cublasLt", "cudnn", "curand", "nvrtc",
];

/// Builds the program with CUDA and cuDNN against the stand-in, replays the reference records and runs the tests that need
/// a GPU.
pub(crate) fn test() -> Result<()> {
    if !cfg!(target_os = "linux") {
        eprintln!("skipped: the stand-in takes the place of Linux libraries");
        return Ok(());
    }
    let target = root().join("target/card");
    let toolkit = target.join("toolkit");
    let libraries = toolkit.join("lib");
    build_driver(&libraries)?;
    let cache = target.join("kernels");
    std::fs::create_dir_all(&cache)?;
    let path = cuda::path_with_stand_in()?;
    let on_gpu = |command: &mut Command| {
        command
            // Candle's kernels come out empty: the stand-in has its own.
            .env("PATH", &path)
            .env("CUDA_HOME", &toolkit)
            .env("CUDA_PATH", &toolkit)
            .env("CUDA_COMPUTE_CAP", "90")
            .env("CARGO_TARGET_DIR", &target)
            .env("CARGO_PROFILE_DEV_DEBUG", "0")
            // The stand-in takes most of the time anyway, and this builds in less than half of it.
            .env("CARGO_PROFILE_DEV_OPT_LEVEL", "0")
            .env("LD_LIBRARY_PATH", &libraries)
            .env(
                "GPU_HOST",
                root().join("crates/dcff-nn/src/gpu/kernels/host.cuh"),
            )
            .env("GPU_CACHE", &cache);
        succeed(command)
    };
    // The same packages and features each time, so that candle is built once.
    let build = |task: &str, what: &[&str]| {
        let mut command = cargo([task, "--package", "dcff-cli", "--package", "dcff-tests"]);
        command
            .args(["--features", "dcff-cli/cudnn,dcff-tests/cudnn"])
            .args(what);
        on_gpu(&mut command)
    };
    build("build", &["--bins"])?;
    match std::env::var_os("DCFF_FIXTURES_DIR") {
        Some(folder) => {
            let records = Path::new(&folder).join("dcff");
            let mut replay = Command::new(target.join("debug/fixtures"));
            on_gpu(replay.arg(records).arg("cuda:0"))?;
        }
        None => eprintln!("skipped: DCFF_FIXTURES_DIR names no reference records"),
    }
    build("test", &["--test", "gpu"])
}

/// Compiles the stand-in once for all libraries, so that they share what they know.
fn build_driver(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    let (source, library) = (folder.join("driver.cpp"), folder.join("libcard.so"));
    let built = std::fs::read_to_string(&source).is_ok_and(|text| text == DRIVER);
    if !built || !library.exists() {
        std::fs::write(&source, DRIVER)?;
        let status = Command::new("c++")
            .args([
                "-std=c++17",
                "-O2",
                "-fPIC",
                "-shared",
                "-Wall",
                "-Wextra",
                "-o",
            ])
            .args([&library, &source])
            .arg("-ldl")
            .status()
            .context("c++")?;
        ensure!(status.success(), "c++: {status}");
    }
    for name in LIBRARIES {
        let link = folder.join(format!("lib{name}.so"));
        #[cfg(unix)]
        if !link.exists() {
            std::os::unix::fs::symlink("libcard.so", &link)
                .with_context(|| link.display().to_string())?;
        }
    }
    Ok(())
}
