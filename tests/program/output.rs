//! Output that nobody reads or that a full disk does not take: it stops no work, and is no panic.
#![cfg(target_os = "linux")]

use std::fs::{File, OpenOptions};
use std::io::PipeWriter;
use std::path::Path;
use std::process::{Command, Stdio};

use dcff_tests::program::{Outcome, dcff, outcome, write_images};

/// A pipe whose reader has gone.
fn closed() -> PipeWriter {
    let (_, writer) = std::io::pipe().unwrap();
    writer
}

/// A disk without space.
fn full() -> File {
    OpenOptions::new().write(true).open("/dev/full").unwrap()
}

/// What is left to be seen of `command`, whose output goes elsewhere.
fn ended(command: &mut Command, stdout: impl Into<Stdio>, stderr: impl Into<Stdio>) -> Outcome {
    let child = command.stdout(stdout).stderr(stderr).spawn().unwrap();
    let output = child.wait_with_output().unwrap();
    Outcome {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

#[test]
fn a_list_ends_quietly_when_its_reader_has_gone() {
    for args in [
        &["criteria"][..],
        &["criteria", "--json"],
        &["data"],
        &["flops", "--arch", "vgg16"],
        &["flops", "--arch", "vgg16", "--json"],
        &["--help"],
        &["--version"],
    ] {
        let said = ended(dcff().args(args), closed(), Stdio::piped());
        assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""), "{args:?}");
    }
}

#[test]
fn a_full_disk_is_one_line_and_exit_code_2() {
    for args in [&["criteria"][..], &["data", "--json"], &["--help"]] {
        let said = ended(dcff().args(args), full(), Stdio::piped());
        assert_eq!(said.code, Some(2), "{args:?}: {}", said.stderr);
        assert_eq!(
            said.stderr, "error: standard output: No space left on device (os error 28)\n",
            "{args:?}"
        );
    }
    // The first error is the one to tell.
    let said = ended(
        dcff().args(["flops", "--arch", "vgg17"]),
        full(),
        Stdio::piped(),
    );
    assert_eq!(said.code, Some(2));
    assert!(said.stderr.contains("vgg17"), "{}", said.stderr);
    assert_eq!(said.stderr.lines().count(), 1, "{}", said.stderr);
    // Without standard error there is nobody to tell.
    let said = ended(&mut dcff(), Stdio::piped(), closed());
    assert_eq!(said.code, Some(2));
    let wrong = ended(dcff().arg("--wrong"), closed(), full());
    assert_eq!(wrong.code, Some(2));
}

#[test]
fn a_run_is_trained_to_its_end_whoever_looks() {
    let dir = tempfile::tempdir().unwrap();
    let images = dir.path().join("images");
    write_images(&images, 4, 2);
    let train = |out: &Path| {
        let mut command = dcff();
        command.args(["train", "--arch", "resnet20", "--rates", "0.9"]);
        command.args(["--epochs", "2", "--batch-size", "6", "--hold-out", "0"]);
        command.arg("--data").arg(&images).arg("--out").arg(out);
        command
    };
    let saved = |out: &Path| std::fs::read(out.join("compact/model.safetensors")).unwrap();

    let seen = dir.path().join("seen");
    assert_eq!(outcome(&mut train(&seen)).code, Some(0));
    let out = dir.path().join("closed");
    let said = ended(&mut train(&out), closed(), closed());
    assert_eq!(said.code, Some(0));
    assert!(out.join("summary.json").exists());
    assert!(saved(&out) == saved(&seen));

    let out = dir.path().join("full");
    let said = ended(&mut train(&out), full(), Stdio::piped());
    assert_eq!(said.code, Some(2), "{}", said.stderr);
    assert!(saved(&out) == saved(&seen));
    let last = said.stderr.lines().last().unwrap();
    assert!(last.starts_with("error: standard output: "), "{last}");
    let out = dir.path().join("full-too");
    let said = ended(&mut train(&out), Stdio::piped(), full());
    assert_eq!(said.code, Some(0));
    assert!(said.stdout.contains("test accuracy:"), "{}", said.stdout);
}
