//! The built `dcff`, and small data to feed it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use image::{Rgb, RgbImage};
use serde_json::Value;

/// The program, as cargo built it before these tests: they are tests of `dcff-cli`.
///
/// # Panics
/// When it is not there.
pub fn dcff() -> Command {
    alone(Command::new(program()))
}

/// The program with so many KiB of address space at most, where the system can limit it (Linux).
///
/// # Panics
/// When it is not there.
pub fn dcff_within(kib: u64) -> Command {
    if !cfg!(target_os = "linux") {
        return dcff();
    }
    let mut command = Command::new("sh");
    let script = format!("ulimit -v {kib} && exec \"$0\" \"$@\"");
    command.arg("-c").arg(script).arg(program());
    // Every thread reserves addresses of its own.
    command.args(["--threads", "1"]);
    alone(command)
}

fn program() -> PathBuf {
    beside("dcff")
}

/// The program `name` of this workspace, as cargo built it: `dcff` comes with its tests, any other must have been built before.
///
/// # Panics
/// When it is not there.
pub fn beside(name: &str) -> PathBuf {
    // A test's own executable stands in target/PROFILE/deps.
    let own = std::env::current_exe().expect("own path");
    let profile = own.parent().and_then(Path::parent).expect("target folder");
    let program = profile.join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    assert!(
        program.exists(),
        "expected the program at {}",
        program.display()
    );
    program
}

fn alone(mut command: Command) -> Command {
    // Whatever this machine has must not change what the tests see.
    for variable in [
        "DCFF_DATA_DIR",
        "HF_HOME",
        "HF_HUB_CACHE",
        "HF_TOKEN",
        "HF_ENDPOINT",
    ] {
        command.env_remove(variable);
    }
    command.env("HOME", std::env::temp_dir().join("dcff-tests-have-no-home"));
    command
}

/// What a command printed and its exit code.
#[derive(Debug)]
pub struct Outcome {
    /// The exit code; `None` after a signal.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// The JSON in the file `path`.
///
/// # Panics
/// When there is none.
pub fn json(path: &Path) -> Value {
    serde_json::from_slice(&read(path)).expect("JSON")
}

/// The lines of `path`, each of them JSON.
///
/// # Panics
/// When they are not.
pub fn rows(path: &Path) -> Vec<Value> {
    let text = String::from_utf8(read(path)).expect("text");
    let rows = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line of JSON"));
    rows.collect()
}

/// What the file `path` holds.
///
/// # Panics
/// When it cannot be read.
pub fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The arguments of a short `dcff train` of ResNet-20 on `images`, written to `out`. A flag of `more` stands in place of the usual one.
pub fn short_run(images: &Path, out: &Path, more: &[&str]) -> Vec<String> {
    const USUAL: [[&str; 2]; 5] = [
        ["--arch", "resnet20"],
        ["--batch-size", "12"],
        ["--lr", "0.02"],
        ["--schedule", "cosine"],
        ["--hold-out", "0"],
    ];
    let mut args = vec!["train".to_owned()];
    let usual = USUAL.iter().filter(|[flag, _]| !more.contains(flag));
    args.extend(usual.flatten().map(|&word| word.to_owned()));
    for (flag, path) in [("--data", images), ("--out", out)] {
        args.extend([flag.to_owned(), path.display().to_string()]);
    }
    args.extend(more.iter().map(|&word| word.to_owned()));
    args
}

/// What `dcff eval --json` tells of `network` on the test images of `images`.
///
/// # Panics
/// When it fails.
pub fn evaluated(network: &Path, images: &Path, more: &[&str]) -> Value {
    let [network, images] = [network, images].map(|path| path.display().to_string());
    let args = [&["eval", &network, "--data", &images, "--json"], more].concat();
    serde_json::from_str(&succeeded(run(args)).stdout).expect("JSON")
}

/// The one line with which a command refuses what was typed.
///
/// # Panics
/// When it ended otherwise.
pub fn refused(outcome: Outcome) -> String {
    assert_eq!(outcome.code, Some(2), "{}", outcome.stderr);
    assert_eq!(outcome.stderr.lines().count(), 1, "{}", outcome.stderr);
    outcome.stderr
}

/// Fails unless each of `files` is the same, byte by byte, in the folders `a` and `b`.
///
/// # Panics
/// When one differs, or is not there.
pub fn same_files(a: &Path, b: &Path, files: &[&str]) {
    for file in files {
        assert!(read(&a.join(file)) == read(&b.join(file)), "{file} differs");
    }
}

/// Runs `dcff` with `args`.
///
/// # Panics
/// When it cannot be started.
pub fn run<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> Outcome {
    outcome(dcff().args(args))
}

/// Runs `command`.
///
/// # Panics
/// When it cannot be started.
pub fn outcome(command: &mut Command) -> Outcome {
    let output = command.output().expect("dcff");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Outcome {
        code: output.status.code(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

/// `outcome`, which must be a success.
///
/// # Panics
/// When it is not, with what the program said.
pub fn succeeded(outcome: Outcome) -> Outcome {
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    outcome
}

/// Starts `dcff train` with `args` in the run folder `out`, waits for its first checkpoint and ends it with `signal`; its
/// exit code, `None` where the signal ended it.
///
/// # Panics
/// When it ends too early or too late.
pub fn ended_after_a_checkpoint(
    signal: &str,
    args: impl IntoIterator<Item = String>,
    out: &Path,
) -> Option<i32> {
    let mut child = dcff()
        .args(args)
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("dcff");
    while !out.join("timing.jsonl").exists() {
        assert!(
            child.try_wait().expect("dcff").is_none(),
            "the run ended before its first checkpoint"
        );
        std::thread::yield_now();
    }
    let killed = Command::new("kill")
        .args([signal, &child.id().to_string()])
        .status()
        .expect("kill");
    assert!(killed.success());
    let status = child.wait().expect("dcff");
    assert!(
        !out.join("summary.json").exists(),
        "the run was over before it was ended"
    );
    status.code()
}

/// Copies a folder and all that is below it.
///
/// # Panics
/// When a file cannot be read or written.
pub fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("folder");
    for entry in std::fs::read_dir(from).expect("folder") {
        let path = entry.expect("entry").path();
        let target = to.join(path.file_name().expect("name"));
        if path.is_dir() {
            copy_folder(&path, &target);
        } else {
            std::fs::copy(&path, &target).expect("file");
        }
    }
}

/// A folder with a small data set in `images`.
///
/// # Panics
/// When a file cannot be written.
pub fn workshop() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("folder");
    let images = dir.path().join("images");
    write_images(&images, 16, 8);
    (dir, images)
}

/// Writes a data set of three classes as folders of 32x32 PNG files: stripes across, stripes down and checks, in
/// colours that do not tell them apart.
///
/// # Panics
/// When a file cannot be written.
pub fn write_images(root: &Path, train_per_class: u32, test_per_class: u32) {
    for (split, count, offset) in [
        ("train", train_per_class, 0),
        ("test", test_per_class, 1000),
    ] {
        for (class, name) in ["across", "checks", "down"].iter().enumerate() {
            let folder = root.join(split).join(name);
            std::fs::create_dir_all(&folder).expect("folder");
            for i in 0..count {
                let k = i + offset;
                let (shift, hue) = (k * 7 % 13, (k * 53 % 200) as u8);
                let image = RgbImage::from_fn(32, 32, |x, y| {
                    let bar = |v: u32| ((v + shift) / 4).is_multiple_of(2);
                    let on = match class {
                        0 => bar(y),
                        1 => bar(x) ^ bar(y),
                        _ => bar(x),
                    };
                    let noise = ((x * 31 + y * 17 + k * 101) % 23) as u8;
                    if on {
                        Rgb([hue, 200 - hue / 2, 30 + noise])
                    } else {
                        Rgb([noise, hue / 2, 220 - hue])
                    }
                });
                image
                    .save(folder.join(format!("{i:03}.png")))
                    .expect("image");
            }
        }
    }
}
