//! Publishing to a local server and fetching from it, with everything that may go wrong on the way.
#![cfg(feature = "client")]

#[allow(dead_code)]
mod server;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dcff_hub::{
    Error, HubConfig, PublishOptions, Published, RemoteFile, RepoKind, RepoRevision, Result, Token,
    download, publish,
};
use server::{Fault, READER, Server, Tree, WRITER};

const REPO: &str = "someone/tiny";

/// A small tree with a file of every kind that matters: text, large by its name, in a folder, empty.
fn files() -> Tree {
    let weights: Vec<u8> = (0..60_000u32).map(|i| (i * i % 251) as u8).collect();
    [
        ("README.md", b"---\nlicense: mit\n---\n# tiny\n".to_vec()),
        ("config.json", br#"{ "model_type": "dcff" }"#.to_vec()),
        ("model.safetensors", weights),
        ("model.onnx", b"\x08\x07".to_vec()),
        ("training/metrics.jsonl", Vec::new()),
    ]
    .map(|(path, bytes)| (path.to_owned(), bytes))
    .into()
}

fn config(server: &Server, token: Option<&str>, cache: &Path) -> HubConfig {
    HubConfig {
        endpoint: server.endpoint.clone(),
        cache: cache.to_owned(),
        token: token.and_then(Token::new),
        token_path: None,
        offline: false,
        timeout: Duration::from_secs(20),
    }
}

fn options() -> PublishOptions {
    PublishOptions {
        revision: "main".into(),
        private: false,
        create_pr: false,
        message: "Upload a network".into(),
    }
}

fn upload(
    server: &Server,
    token: Option<&str>,
    files: &Tree,
    options: &PublishOptions,
) -> Result<Published> {
    let cache = tempfile::tempdir().unwrap();
    let config = config(server, token, cache.path());
    publish(&config, &REPO.parse()?, files, options, Arc::new(|_, _| {}))
}

fn send(server: &Server) -> Result<Published> {
    upload(server, Some(WRITER), &files(), &options())
}

/// The one line of an error, which must hold no token.
fn line<T: std::fmt::Debug>(result: Result<T>) -> String {
    let error = result.unwrap_err();
    let text = error.to_string();
    for shown in [&text, &format!("{error:?}")] {
        assert!(!shown.contains("verysecret"), "{shown}");
    }
    assert!(!text.contains('\n'), "{text}");
    text
}

/// What is at `revision`, without what the Hub itself put there.
fn arrived(server: &Server, revision: &str) -> Tree {
    let mut tree = server.tree(REPO, revision).unwrap();
    tree.remove(".gitattributes");
    tree
}

#[test]
fn the_whole_tree_arrives_in_one_commit_and_only_once() {
    let server = Server::start();
    let published = send(&server).unwrap();
    assert!(published.created);
    assert_eq!(published.url, format!("{}/{REPO}", server.endpoint));
    assert_eq!(published.uploaded.len(), 5);
    assert!(arrived(&server, "main") == files());
    assert_eq!(server.commits(REPO), 2);
    assert!(!server.is_private(REPO));

    // The same again changes nothing, one changed file sends one file.
    let again = send(&server).unwrap();
    assert_eq!((again.created, again.uploaded), (false, Vec::new()));
    assert_eq!(server.commits(REPO), 2);
    let mut changed = files();
    changed.insert("model.onnx".into(), b"other".to_vec());
    let third = upload(&server, Some(WRITER), &changed, &options()).unwrap();
    assert_eq!(third.uploaded, ["model.onnx"]);
    assert!(arrived(&server, "main") == changed);
}

#[test]
fn branches_are_made_and_pull_requests_leave_them_alone() {
    let server = Server::start();
    let on = |revision: &str, create_pr| PublishOptions {
        revision: revision.into(),
        create_pr,
        private: true,
        ..options()
    };
    let branch = upload(&server, Some(WRITER), &files(), &on("v1", false)).unwrap();
    assert_eq!(branch.url, format!("{}/{REPO}/tree/v1", server.endpoint));
    assert!(server.is_private(REPO));
    assert!(arrived(&server, "v1") == files() && arrived(&server, "main").is_empty());

    let request = upload(&server, Some(WRITER), &files(), &on("main", true)).unwrap();
    assert_eq!(
        request.url,
        format!("{}/{REPO}/discussions/1", server.endpoint)
    );
    assert!(arrived(&server, "refs/pr/1") == files() && arrived(&server, "main").is_empty());
    let bad = upload(&server, Some(WRITER), &files(), &on("../v1", false));
    assert!(line(bad).starts_with("revision `../v1`: expected"));
}

#[test]
fn uploads_outlast_what_passes() {
    let faults = [
        ("GET", "/api/models/", Fault::Status(500, "down"), 2),
        ("POST", "/api/repos/create", Fault::Status(503, "busy"), 1),
        ("POST", "/preupload/", Fault::Status(429, "slowly"), 1),
        ("POST", "/preupload/", Fault::LoseAnswer, 1),
        ("POST", "/objects/batch", Fault::Status(502, "gateway"), 1),
        ("POST", "/commit/", Fault::Status(500, "down"), 2),
        ("POST", "/commit/", Fault::DropAfter(10_000), 2),
        // The commit is there, its answer was lost: the repetition finds that out.
        ("POST", "/commit/", Fault::LoseAnswer, 1),
        (
            "POST",
            "/commit/",
            Fault::Wait(Duration::from_millis(300)),
            1,
        ),
    ];
    for (method, path, fault, times) in faults {
        let server = Server::start();
        server.plan(method, path, fault.clone(), times);
        let published = send(&server).unwrap_or_else(|error| panic!("{fault:?}: {error}"));
        assert_eq!(published.uploaded.len(), 5, "{fault:?}");
        assert!(arrived(&server, "main") == files(), "{fault:?}");
        assert_eq!(server.commits(REPO), 2, "{fault:?}");
    }
}

#[test]
fn what_lasts_is_one_line_and_leaves_no_trace() {
    let forbidden = Fault::Status(403, "no space left in your account");
    let cases = [
        (
            "POST",
            "/commit/",
            Fault::Status(500, "down"),
            "500 Internal Server Error down",
        ),
        (
            "POST",
            "/commit/",
            Fault::DropAfter(10_000),
            "no connection to",
        ),
        (
            "POST",
            "/commit/",
            forbidden,
            "the token does not allow this",
        ),
        (
            "POST",
            "/commit/",
            Fault::Status(404, "gone"),
            "no such repository",
        ),
        ("POST", "/commit/", Fault::Status(413, "too large"), "413"),
        (
            "POST",
            "/preupload/",
            Fault::Status(400, "bad file name"),
            "400 Bad Request bad file name",
        ),
    ];
    for (method, path, fault, expected) in cases {
        let server = Server::start();
        server.put(REPO, false, &[("README.md", b"old")]);
        server.plan(method, path, fault.clone(), usize::MAX);
        let text = line(send(&server));
        assert!(
            text.starts_with("someone/tiny: ") && text.contains(expected),
            "{fault:?}: {text}"
        );
        assert_eq!(server.commits(REPO), 2, "{fault:?}");
        assert_eq!(
            server.tree(REPO, "main").unwrap()["README.md"],
            b"old",
            "{fault:?}"
        );
    }
}

#[test]
fn tokens_are_needed_checked_and_never_shown() {
    let server = Server::start();
    let text = line(upload(&server, None, &files(), &options()));
    assert_eq!(
        text,
        "someone/tiny: no token: set HF_TOKEN, or run `hf auth login`"
    );
    assert!(server.seen().is_empty());
    let text = line(upload(&server, Some(READER), &files(), &options()));
    assert!(
        text.contains("403") && text.contains("the token does not allow this"),
        "{text}"
    );
    let wrong = Some("hf_verysecretbutwrong");
    let text = line(upload(&server, wrong, &files(), &options()));
    assert!(
        text.contains("401") && text.contains("is the token still valid?"),
        "{text}"
    );
    assert_eq!(server.commits(REPO), 0);
    // A server that repeats the token does not make us do so.
    server.plan(
        "POST",
        "/api/repos/create",
        Fault::Status(400, "bad: hf_verysecretwriter"),
        1,
    );
    let text = line(send(&server));
    assert!(text.contains("bad: ***"), "{text}");

    let offline = HubConfig {
        offline: true,
        ..config(&server, Some(WRITER), Path::new("."))
    };
    let result = publish(
        &offline,
        &REPO.parse().unwrap(),
        &files(),
        &options(),
        Arc::new(|_, _| {}),
    );
    assert_eq!(
        line(result),
        "someone/tiny: HF_HUB_OFFLINE is set; unset it to publish"
    );
}

#[test]
fn someone_elses_change_is_not_overwritten() {
    let server = Server::start();
    server.put(REPO, false, &[("README.md", b"old")]);
    server.plan("POST", "/commit/", Fault::Intrude("README.md", "theirs"), 1);
    let result = send(&server);
    assert!(matches!(result, Err(Error::Conflict { .. })), "{result:?}");
    assert!(line(result).contains("nothing was committed; run the command again"));
    let tree = arrived(&server, "main");
    assert_eq!(tree.len(), 1);
    assert_eq!(tree["README.md"], b"theirs");
    send(&server).unwrap();
    assert!(arrived(&server, "main") == files());
    // The Hub's other answer to a conflict.
    server.plan(
        "POST",
        "/commit/",
        Fault::Status(409, "conflict"),
        usize::MAX,
    );
    let mut more = files();
    more.insert("README.md".into(), b"newer".to_vec());
    let result = upload(&server, Some(WRITER), &more, &options());
    assert!(matches!(result, Err(Error::Conflict { .. })), "{result:?}");
}

#[test]
fn a_server_that_falls_silent_is_given_up() {
    let server = Server::start();
    server.plan(
        "GET",
        "/api/models/",
        Fault::Wait(Duration::from_secs(30)),
        1,
    );
    let cache = tempfile::tempdir().unwrap();
    let impatient = HubConfig {
        timeout: Duration::from_secs(1),
        ..config(&server, Some(WRITER), cache.path())
    };
    let result = publish(
        &impatient,
        &REPO.parse().unwrap(),
        &files(),
        &options(),
        Arc::new(|_, _| {}),
    );
    assert!(line(result).ends_with(" for 1 seconds"));
    server.put(REPO, false, &[("model.safetensors", b"weights")]);
    server.plan("GET", "/resolve/", Fault::Wait(Duration::from_secs(30)), 1);
    let text = line(fetch_files(&impatient, REPO, &["model.safetensors"], None));
    assert!(text.contains("no answer from http://127.0.0.1"), "{text}");
}

fn fetch(config: &HubConfig, source: &str) -> Result<PathBuf> {
    fetch_files(config, source, &["README.md", "model.safetensors"], None)
}

fn fetch_files(
    config: &HubConfig,
    source: &str,
    paths: &[&str],
    max_size: Option<u64>,
) -> Result<PathBuf> {
    let source: RepoRevision = source.parse()?;
    let file = |path: &&str| RemoteFile {
        path: (*path).to_owned(),
        max_size,
        ..RemoteFile::default()
    };
    let files: Vec<RemoteFile> = paths.iter().map(file).collect();
    let (kind, progress) = (RepoKind::Model, Arc::new(|_: &_| {}));
    download(
        config,
        kind,
        &source.repo,
        &source.revision,
        &files,
        progress,
    )
}

#[test]
fn what_was_published_is_fetched_and_cached() {
    let (server, cache) = (Server::start(), tempfile::tempdir().unwrap());
    send(&server).unwrap();
    let config = config(&server, None, cache.path());
    let paths: Vec<String> = files().into_keys().collect();
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    let folder = fetch_files(&config, REPO, &paths, Some(1 << 20)).unwrap();
    for (path, bytes) in files() {
        assert!(
            std::fs::read(folder.join(&path)).unwrap() == bytes,
            "{path}"
        );
    }
    let gets = || server.seen().iter().filter(|s| s.method == "GET").count();
    let before = gets();
    assert_eq!(fetch(&config, "someone/tiny@main").unwrap(), folder);
    assert_eq!(gets(), before);
    let offline = HubConfig {
        offline: true,
        ..config
    };
    assert_eq!(fetch(&offline, REPO).unwrap(), folder);
    assert!(line(fetch(&offline, "someone/other")).contains("HF_HUB_OFFLINE is set"));
}

#[test]
fn downloads_outlast_what_passes() {
    let faults = [
        ("GET", "/resolve/", Fault::Truncate(100), 2),
        ("GET", "/resolve/", Fault::LoseAnswer, 1),
        ("HEAD", "/resolve/", Fault::Status(500, "down"), 2),
        ("GET", "/resolve/", Fault::Status(503, "busy"), 1),
    ];
    for (method, path, fault, times) in faults {
        let (server, cache) = (Server::start(), tempfile::tempdir().unwrap());
        send(&server).unwrap();
        server.plan(method, path, fault.clone(), times);
        let config = config(&server, None, cache.path());
        let folder = fetch(&config, REPO).unwrap_or_else(|error| panic!("{fault:?}: {error}"));
        let bytes = std::fs::read(folder.join("model.safetensors")).unwrap();
        assert!(bytes == files()["model.safetensors"], "{fault:?}");
    }
}

#[test]
fn damaged_downloads_leave_nothing_in_the_cache() {
    let cases = [
        (Fault::Corrupt, "expected"),
        // hf-hub takes the text of an error for the file's content.
        (Fault::Status(403, "denied"), "expected"),
        (Fault::Truncate(5), "no connection"),
    ];
    for (fault, expected) in cases {
        for path in ["README.md", "model.safetensors"] {
            let (server, cache) = (Server::start(), tempfile::tempdir().unwrap());
            send(&server).unwrap();
            server.plan("GET", "/resolve/", fault.clone(), 10);
            let config = config(&server, Some(READER), cache.path());
            let text = line(fetch_files(&config, REPO, &[path], None));
            assert!(text.contains(expected), "{fault:?}: {text}");
            let offline = HubConfig {
                offline: true,
                ..config.clone()
            };
            assert!(
                fetch_files(&offline, REPO, &[path], None).is_err(),
                "{fault:?}"
            );
            // The server is well again: so is the cache.
            let well = Server::start();
            send(&well).unwrap();
            let config = HubConfig {
                endpoint: well.endpoint.clone(),
                ..config
            };
            let folder = fetch_files(&config, REPO, &[path], None).unwrap();
            assert!(
                std::fs::read(folder.join(path)).unwrap() == files()[path],
                "{fault:?}"
            );
        }
    }
}

#[test]
fn the_token_does_not_follow_to_another_host() {
    let (server, other, cache) = (
        Server::start(),
        Server::start(),
        tempfile::tempdir().unwrap(),
    );
    send(&server).unwrap();
    send(&other).unwrap();
    let before = other.seen().len();
    server.plan(
        "GET",
        "/resolve/",
        Fault::Redirect(other.endpoint.clone()),
        10,
    );
    let config = config(&server, Some(READER), cache.path());
    fetch(&config, REPO).unwrap();
    let followed = other.seen().split_off(before);
    assert_eq!(followed.len(), 2);
    assert!(
        followed.iter().all(|seen| seen.authorization.is_none()),
        "{followed:?}"
    );
    let own = server.seen();
    assert!(
        own.iter()
            .any(|seen| seen.authorization == Some(format!("Bearer {READER}")))
    );
}

#[test]
fn what_is_not_there_not_public_or_too_large_is_one_line() {
    let (server, cache) = (Server::start(), tempfile::tempdir().unwrap());
    server.put(
        REPO,
        true,
        &[
            ("README.md", b"# private"),
            ("model.safetensors", &[7; 1000]),
        ],
    );
    let [nobody, reader] = [None, Some(READER)].map(|token| config(&server, token, cache.path()));
    let text = line(fetch(&nobody, REPO));
    assert!(
        text.contains("set HF_TOKEN or run `hf auth login`"),
        "{text}"
    );
    assert!(line(fetch(&reader, "someone/other")).contains("no such"));
    assert!(line(fetch(&reader, "someone/tiny@v9")).contains("no such"));
    let text = line(fetch_files(&reader, REPO, &["model.onnx"], None));
    assert!(
        text.contains("model.onnx: no such file in the repository"),
        "{text}"
    );
    let text = line(fetch_files(
        &reader,
        REPO,
        &["README.md", "model.safetensors"],
        Some(999),
    ));
    assert!(
        text.contains("model.safetensors: expected at most 999 bytes, got 1000"),
        "{text}"
    );
    assert!(fetch(&reader, REPO).is_ok());
}
