//! Publishing with the built program to a Hub on this machine, and fetching from it with Python's client and with ours.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::check::{Check, Predictions, TOP_JSON, built};

/// As in the README.
const REPO: &str = "me/tiny";
/// The server's own token; no account is involved.
const TOKEN: &str = "hf_verysecretwriter";
/// Tokens that do not allow to publish, and the server's answer.
const REFUSED: [(&str, &str); 2] = [
    ("hf_verysecretreader", "403"),
    ("hf_verysecretstale", "401"),
];
/// What no token may be told by: a part of all of them.
const SECRET: &str = "verysecret";

/// The server of dcff-hub's tests; it ends with its standard input.
struct Server {
    child: Child,
    endpoint: String,
    /// The clients' cache.
    home: PathBuf,
}

impl Server {
    fn start(home: PathBuf) -> Result<Self> {
        let mut child = Command::new(built("examples/local_hub"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut endpoint = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut endpoint)?;
        }
        Ok(Self {
            child,
            endpoint: endpoint.trim().to_owned(),
            home,
        })
    }

    fn known_to<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command
            .env("HF_ENDPOINT", &self.endpoint)
            .env("HF_HOME", &self.home)
            .env("HF_TOKEN", TOKEN)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// Publishes `run`, whose dry run is the folder `tree`, and fetches it again.
pub(super) fn publish_and_fetch(
    dcff: &Path,
    check: &Check,
    folder: &Path,
    run: &Path,
    tree: &Path,
    local: &Predictions,
) -> Result<()> {
    let server = Server::start(folder.join("hf-home"))?;
    let ours = |args: &[&str]| -> Result<String> {
        let mut command = Command::new(dcff);
        said(server.known_to(command.args(args)))
    };
    let run = run.to_str().context("the path of the run")?;
    for (token, status) in REFUSED {
        let mut command = Command::new(dcff);
        server.known_to(command.args(["publish", run, REPO]));
        let (output, stderr) = discreet(command.env("HF_TOKEN", token))?;
        ensure!(
            output.status.code() == Some(2)
                && stderr.lines().count() == 1
                && stderr.contains(status),
            "dcff publish: expected one line with {status}, got {stderr}"
        );
        print!("{stderr}");
    }
    let first = ours(&["publish", run, REPO])?;
    ensure!(
        first.contains(&format!("{}/{REPO}", server.endpoint)),
        "dcff publish: expected the repository's address, got {first}"
    );
    let again = ours(&["publish", run, REPO])?;
    ensure!(
        again.contains("all files are there already"),
        "dcff publish: expected nothing to do the second time, got {again}"
    );

    let mut python = check.command();
    python.args(["hub", REPO]).arg(tree);
    print!("{}", said(server.known_to(&mut python))?);

    let source = format!("hf://{REPO}");
    let pulled = ours(&["pull", REPO])?;
    for name in ["model.safetensors", "config.json"] {
        let same =
            std::fs::read(Path::new(pulled.trim()).join(name))? == std::fs::read(tree.join(name))?;
        ensure!(same, "dcff pull: {name} is not what was published");
    }
    let mut fetched = Command::new(dcff);
    fetched.arg("predict").arg(&source).args(&local.images);
    let fetched = said(server.known_to(fetched.args(TOP_JSON)))?;
    let fetched: Value = serde_json::from_str(&fetched)?;
    ensure!(
        fetched["images"] == local.json["images"],
        "dcff predict {source}: other predictions"
    );
    let score = |artefact: &str| -> Result<Value> {
        let args = ["eval", artefact, "--data", "synthetic", "--json"];
        let mut score: Value = serde_json::from_str(&ours(&args)?)?;
        score["artefact"] = Value::Null;
        Ok(score)
    };
    let expected = score(run)?;
    ensure!(
        score(&source)? == expected,
        "dcff eval {source}: other figures"
    );
    println!("{REPO}: dcff publish, pull, predict and eval agree with the files: {expected}");
    Ok(())
}

/// What `command`, which must succeed, says on standard output.
fn said(command: &mut Command) -> Result<String> {
    let (output, stderr) = discreet(command)?;
    eprint!("{stderr}");
    let args: Vec<_> = command.get_args().collect();
    ensure!(
        output.status.success(),
        "{:?} {args:?}: {}",
        command.get_program(),
        output.status
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// What `command` ends with, and what it says on standard error; on neither stream may it tell a token.
fn discreet(command: &mut Command) -> Result<(Output, String)> {
    let output = command.output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let stderr = text(&output.stderr);
    ensure!(
        !text(&output.stdout).contains(SECRET) && !stderr.contains(SECRET),
        "{:?} shows the token",
        command.get_program()
    );
    Ok((output, stderr))
}
