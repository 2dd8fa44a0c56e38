//! Against a server of a few lines on the loopback interface that speaks as much of the Hub's protocol as a download needs:
//! `HEAD` and `GET /datasets/OWNER/NAME/resolve/REVISION/PATH` with `ETag`, `X-Repo-Commit` and `Content-Length`.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Mutex;

use sha2::{Digest, Sha256};

use super::*;
use crate::Token;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const SECRET: &str = "hf_verysecret";

/// What the server keeps: path inside the repository, ETag, bytes.
type Shelf = Vec<(&'static str, String, &'static [u8])>;

struct Hub {
    endpoint: String,
    /// Request lines and authorisation headers, as received.
    requests: Arc<Mutex<Vec<String>>>,
}

impl Hub {
    /// Serves until the test process ends.
    fn serve(shelf: Shelf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let log = requests.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                answer(stream.unwrap(), &shelf, &log);
            }
        });
        Self { endpoint, requests }
    }

    fn gets(&self) -> usize {
        let requests = self.requests.lock().unwrap();
        requests
            .iter()
            .filter(|request| request.starts_with("GET"))
            .count()
    }
}

fn answer(mut stream: TcpStream, shelf: &Shelf, log: &Mutex<Vec<String>>) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let request = lines.next().unwrap().unwrap();
    let headers: Vec<String> = lines
        .map_while(|line| line.ok().filter(|line| !line.is_empty()))
        .collect();
    log.lock().unwrap().push(request.clone());
    log.lock().unwrap().extend(
        headers
            .into_iter()
            .filter(|header| header.to_lowercase().starts_with("authorization:")),
    );
    let mut words = request.split(' ');
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let prefix = "/datasets/owner/name/resolve/main/";
    let found = shelf
        .iter()
        .find(|(file, ..)| path.strip_prefix(prefix) == Some(file));
    let (status, etag, body) = match found {
        Some((_, etag, bytes)) => ("200 OK", etag.as_str(), *bytes),
        None => ("404 Not Found", "none", &b"no such file"[..]),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nETag: \"{etag}\"\r\nX-Repo-Commit: {COMMIT}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    if method == "GET" {
        // The client may hang up early; that is its affair.
        let _ = stream.write_all(body);
    }
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn shelf() -> Shelf {
    vec![
        (
            "plain_text/train.parquet",
            hex(b"training images"),
            b"training images",
        ),
        (
            "plain_text/test.parquet",
            hex(b"test images"),
            b"test images",
        ),
        (
            "plain_text/damaged.parquet",
            hex(b"what was meant"),
            b"what came",
        ),
    ]
}

fn config(endpoint: &str, cache: &Path) -> HubConfig {
    HubConfig {
        endpoint: endpoint.to_owned(),
        cache: cache.to_owned(),
        token: Token::new(SECRET),
        token_path: None,
        offline: false,
        // hf-hub's own pauses between attempts take some seconds.
        timeout: std::time::Duration::from_secs(60),
    }
}

fn remote(path: &str) -> RemoteFile {
    RemoteFile {
        path: format!("plain_text/{path}.parquet"),
        ..RemoteFile::default()
    }
}

fn fetch(config: &HubConfig, files: &[RemoteFile]) -> Result<PathBuf> {
    download(
        config,
        RepoKind::Dataset,
        &"owner/name".parse()?,
        "main",
        files,
        Arc::new(|_| {}),
    )
}

fn message(config: &HubConfig, files: &[RemoteFile]) -> String {
    let message = fetch(config, files).unwrap_err().to_string();
    assert!(!message.contains('\n'), "{message}");
    assert!(!message.contains(SECRET), "{message}");
    message
}

#[test]
fn files_arrive_in_the_shared_cache_once() {
    let (hub, cache) = (Hub::serve(shelf()), tempfile::tempdir().unwrap());
    let config = config(&hub.endpoint, cache.path());
    let files = [remote("train"), remote("test")];
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let progress = Arc::new(move |p: &DownloadProgress| log.lock().unwrap().push(p.clone()));
    let repo = "owner/name".parse().unwrap();
    let snapshot = download(&config, RepoKind::Dataset, &repo, "main", &files, progress).unwrap();

    let expected = cache
        .path()
        .join("datasets--owner--name/snapshots")
        .join(COMMIT);
    assert_eq!(snapshot, expected);
    assert_eq!(
        std::fs::read(snapshot.join("plain_text/train.parquet")).unwrap(),
        b"training images"
    );
    assert_eq!(
        std::fs::read(snapshot.join("plain_text/test.parquet")).unwrap(),
        b"test images"
    );
    assert!(seen.lock().unwrap().contains(&DownloadProgress {
        file: "plain_text/train.parquet".to_owned(),
        bytes: 15,
        total: 15,
    }));
    // The token goes to the server and nowhere else.
    let authorisation = format!("authorization: bearer {SECRET}");
    assert!(
        hub.requests
            .lock()
            .unwrap()
            .iter()
            .any(|line| line.to_lowercase() == authorisation)
    );

    let before = hub.gets();
    assert_eq!(fetch(&config, &files).unwrap(), expected);
    assert_eq!(hub.gets(), before);
    // The other tools' layout: what was downloaded is found without a client, and offline.
    let paths = ["plain_text/train.parquet", "plain_text/test.parquet"];
    let cached = cached_snapshot(
        &config,
        RepoKind::Dataset,
        &"owner/name".parse().unwrap(),
        "main",
        &paths,
    );
    assert_eq!(cached, Some(expected.clone()));
    let offline = HubConfig {
        offline: true,
        ..config
    };
    assert_eq!(fetch(&offline, &files).unwrap(), expected);
}

#[test]
fn bytes_that_differ_from_the_hubs_own_checksum_are_refused_and_removed() {
    let (hub, cache) = (Hub::serve(shelf()), tempfile::tempdir().unwrap());
    let config = config(&hub.endpoint, cache.path());
    for _ in 0..2 {
        // Twice: the damaged file must not be taken from the cache.
        let message = message(&config, &[remote("damaged")]);
        let (expected, got) = (hex(b"what was meant"), hex(b"what came"));
        assert!(
            message.contains(&format!("expected sha256 {expected}, got {got}")),
            "{message}"
        );
    }
    assert_eq!(hub.gets(), 2);
}

#[test]
fn bytes_that_differ_from_the_manifest_are_refused() {
    let (hub, cache) = (Hub::serve(shelf()), tempfile::tempdir().unwrap());
    let config = config(&hub.endpoint, cache.path());
    let short = RemoteFile {
        size: Some(16),
        ..remote("train")
    };
    assert!(message(&config, &[short]).contains("expected size 16, got 15"));
    let other = RemoteFile {
        sha256: Some("ab".repeat(32)),
        ..remote("train")
    };
    assert!(
        message(&config, &[other]).contains(&format!("expected sha256 {}, got", "ab".repeat(32)))
    );
    let right = RemoteFile {
        size: Some(15),
        sha256: Some(hex(b"training images")),
        ..remote("train")
    };
    assert!(fetch(&config, &[right]).is_ok());
}

#[test]
fn a_missing_file_no_network_and_offline_are_one_line_each() {
    let (hub, cache) = (Hub::serve(shelf()), tempfile::tempdir().unwrap());
    let online = config(&hub.endpoint, cache.path());
    let missing = message(&online, &[remote("absent")]);
    assert!(
        missing.starts_with("owner/name: plain_text/absent.parquet: "),
        "{missing}"
    );

    // A port that was free a moment ago: the connection is refused at once.
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let unreachable = config(&format!("http://127.0.0.1:{port}"), cache.path());
    let message_unreachable = message(&unreachable, &[remote("train")]);
    assert!(
        message_unreachable.starts_with(&format!(
            "owner/name: no connection to http://127.0.0.1:{port} ("
        )),
        "{message_unreachable}"
    );
    assert!(
        message_unreachable
            .ends_with("; or use local files with `--data-dir DIR` or DCFF_DATA_DIR")
    );

    let offline = HubConfig {
        offline: true,
        ..online
    };
    assert_eq!(
        message(&offline, &[remote("train")]),
        format!(
            "owner/name: HF_HUB_OFFLINE is set and plain_text/train.parquet is not in {}; \
             unset it; or use local files with `--data-dir DIR` or DCFF_DATA_DIR",
            cache.path().display()
        )
    );
}

#[test]
fn offline_a_model_is_not_taken_from_another_revision() {
    let cache = tempfile::tempdir().unwrap();
    let config = HubConfig {
        offline: true,
        ..config("http://127.0.0.1:9", cache.path())
    };
    let repo = "owner/name".parse().unwrap();
    let folder = crate::repo_folder(&config, RepoKind::Model, &repo);
    let snapshot = folder.join("snapshots").join("1".repeat(40));
    for (path, text) in [
        (snapshot.join("config.json"), "{}".to_owned()),
        (folder.join("refs/main"), "1".repeat(40)),
    ] {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let file = RemoteFile {
        path: "config.json".to_owned(),
        ..RemoteFile::default()
    };
    let fetch = |revision: &str| {
        let (kind, files) = (RepoKind::Model, [file.clone()]);
        download(&config, kind, &repo, revision, &files, Arc::new(|_| ()))
    };
    assert_eq!(fetch("main").unwrap(), snapshot);
    assert_eq!(
        fetch("v1.0").unwrap_err().to_string(),
        format!(
            "owner/name: HF_HUB_OFFLINE is set and config.json of revision v1.0 is not in {}; unset it",
            cache.path().display()
        )
    );
}
