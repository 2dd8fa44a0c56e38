//! A Hub of a few hundred lines on the loopback interface: repositories, preupload, LFS batch and upload, commits, refs,
//! resolve, and whatever can go wrong on the way.
//!
//! Hugging Face, *Hub API endpoints*, <https://huggingface.co/docs/hub/api>; the answers are those that hf-hub and
//! huggingface_hub read. Everything is kept in memory.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::{Value, json};
use sha1::Sha1;
use sha2::{Digest, Sha256};

/// The token that may write.
pub(crate) const WRITER: &str = "hf_verysecretwriter";
/// A token that may only read.
pub(crate) const READER: &str = "hf_verysecretreader";

/// Paths and bytes of one state of a repository.
pub(crate) type Tree = BTreeMap<String, Vec<u8>>;

/// What goes wrong with a request.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// An answer with this status and message instead of the real one.
    Status(u16, &'static str),
    /// The connection is closed after so many bytes of the request's body.
    DropAfter(usize),
    /// The request is carried out, but the answer never comes.
    LoseAnswer,
    /// Nothing happens for so long.
    Wait(Duration),
    /// The body breaks off after so many bytes.
    Truncate(usize),
    /// The first byte of the body is another one.
    Corrupt,
    /// The body is somewhere else: at this address, which goes before the path.
    Redirect(String),
    /// Someone else commits this file to `main` first.
    Intrude(&'static str, &'static str),
}

/// A fault for requests of a method whose path contains a text, so many times.
#[derive(Clone, Debug)]
struct Planned {
    method: &'static str,
    path: &'static str,
    fault: Fault,
    times: usize,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) authorization: Option<String>,
}

#[derive(Default)]
struct Repo {
    private: bool,
    /// By commit.
    trees: BTreeMap<String, Tree>,
    /// Branches and pull requests.
    refs: BTreeMap<String, String>,
}

#[derive(Default)]
struct State {
    repos: BTreeMap<String, Repo>,
    /// Uploaded by means of the LFS batch, by SHA-256.
    objects: BTreeMap<String, Vec<u8>>,
    faults: Vec<Planned>,
    seen: Vec<Seen>,
    commits: usize,
}

/// The server; it runs until the process ends.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) endpoint: String,
    state: Arc<Mutex<State>>,
}

struct Request {
    method: String,
    /// Without the query.
    path: String,
    query: String,
    authorization: Option<String>,
    body: Vec<u8>,
}

struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.into(),
        }
    }

    fn json(value: &Value) -> Self {
        Self::new(200, value.to_string()).with("Content-Type", "application/json")
    }

    fn error(status: u16, code: &str, message: &str) -> Self {
        Self::new(status, json!({ "error": message }).to_string())
            .with("X-Error-Code", code)
            .with("X-Error-Message", message)
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

impl Server {
    /// Starts on a free port.
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self {
            endpoint: format!("http://{}", listener.local_addr().unwrap()),
            state: Arc::default(),
        };
        let of_thread = server.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = of_thread.clone();
                // A client that hangs up is no trouble of ours.
                std::thread::spawn(move || server.serve(stream));
            }
        });
        server
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The next `times` requests of `method` whose path contains `path` go wrong.
    pub(crate) fn plan(
        &self,
        method: &'static str,
        path: &'static str,
        fault: Fault,
        times: usize,
    ) {
        self.state().faults.push(Planned {
            method,
            path,
            fault,
            times,
        });
    }

    /// All requests so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.state().seen.clone()
    }

    /// The files of `repo` at a branch, commit or pull request.
    pub(crate) fn tree(&self, repo: &str, revision: &str) -> Option<Tree> {
        let state = self.state();
        let repo = state.repos.get(repo)?;
        repo.trees.get(repo.resolve(revision)?).cloned()
    }

    /// The number of commits of `repo`, the first one included.
    pub(crate) fn commits(&self, repo: &str) -> usize {
        self.state()
            .repos
            .get(repo)
            .map_or(0, |repo| repo.trees.len())
    }

    /// Whether `repo` is private.
    pub(crate) fn is_private(&self, repo: &str) -> bool {
        self.state()
            .repos
            .get(repo)
            .is_some_and(|repo| repo.private)
    }

    /// Makes `repo` hold `files` on `main`.
    pub(crate) fn put(&self, repo: &str, private: bool, files: &[(&str, &[u8])]) {
        let mut state = self.state();
        state.create(repo, private);
        let files = files
            .iter()
            .map(|(path, bytes)| ((*path).to_owned(), bytes.to_vec()));
        let tree: Tree = files.collect();
        state.commit(repo, "main", tree);
    }

    fn serve(&self, mut stream: TcpStream) -> Option<()> {
        let mut reader = BufReader::new(stream.try_clone().ok()?);
        let mut first = String::new();
        reader.read_line(&mut first).ok()?;
        let mut words = first.split_whitespace().map(str::to_owned);
        let (method, target) = (words.next()?, words.next()?);
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let (mut length, mut authorization) = (0, None);
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let Some((name, value)) = line.trim_end().split_once(':') else {
                break;
            };
            match name.to_lowercase().as_str() {
                "content-length" => length = value.trim().parse().ok()?,
                "authorization" => authorization = Some(value.trim().to_owned()),
                _ => {}
            }
        }
        let mut request = Request {
            method,
            path: decoded(path),
            query: query.to_owned(),
            authorization,
            body: Vec::new(),
        };
        let fault = self.note(&request);
        if let Some(Fault::DropAfter(bytes)) = fault {
            let mut some = vec![0; bytes.min(length)];
            reader.read_exact(&mut some).ok()?;
            return None;
        }
        request.body = vec![0; length];
        reader.read_exact(&mut request.body).ok()?;
        match &fault {
            Some(Fault::Wait(time)) => std::thread::sleep(*time),
            Some(Fault::Intrude(path, text)) => self.intrude(&request, path, text),
            _ => {}
        }
        let mut answer = match &fault {
            Some(Fault::Status(status, message)) => Answer::error(*status, "", message),
            Some(Fault::Redirect(to)) => {
                Answer::new(302, "").with("Location", format!("{to}{}", request.path))
            }
            _ => self.answer(&request),
        };
        let mut sent = answer.body.len();
        match fault {
            Some(Fault::LoseAnswer) => return None,
            Some(Fault::Truncate(bytes)) => sent = sent.min(bytes),
            Some(Fault::Corrupt) => {
                if let Some(first) = answer.body.first_mut() {
                    *first ^= 0xff;
                }
            }
            _ => {}
        }
        let mut head = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", answer.status);
        head.push_str(&format!("Content-Length: {}\r\n", answer.body.len()));
        for (name, value) in &answer.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes()).ok()?;
        if request.method != "HEAD" {
            stream.write_all(&answer.body[..sent]).ok()?;
        }
        Some(())
    }

    /// Writes the request down and takes the first fault that is planned for it.
    fn note(&self, request: &Request) -> Option<Fault> {
        let mut state = self.state();
        state.seen.push(Seen {
            method: request.method.clone(),
            path: request.path.clone(),
            authorization: request.authorization.clone(),
        });
        let planned = state.faults.iter_mut().find(|planned| {
            planned.times > 0
                && planned.method == request.method
                && request.path.contains(planned.path)
        })?;
        planned.times -= 1;
        Some(planned.fault.clone())
    }

    fn intrude(&self, request: &Request, path: &str, text: &str) {
        let mut state = self.state();
        let repo = request
            .path
            .split('/')
            .skip(3)
            .take(2)
            .collect::<Vec<_>>()
            .join("/");
        let repository = &state.repos[&repo];
        let mut tree = repository.trees[&repository.refs["main"]].clone();
        tree.insert(path.to_owned(), text.as_bytes().to_vec());
        state.commit(&repo, "main", tree);
    }

    fn answer(&self, request: &Request) -> Answer {
        let mut state = self.state();
        let parts: Vec<&str> = request
            .path
            .trim_start_matches('/')
            .splitn(5, '/')
            .collect();
        let token = request
            .authorization
            .as_deref()
            .and_then(|value| value.strip_prefix("Bearer "));
        if token.is_some_and(|token| token != WRITER && token != READER) {
            return Answer::error(401, "", "Invalid credentials in Authorization header");
        }
        // Reading with a body, and uploads to an address that only the LFS batch tells, are no writing.
        let open = ["/paths-info/", "/api/validate-yaml"];
        let writes = request.method == "POST" && !open.iter().any(|p| request.path.contains(p));
        match token {
            None if writes => return Answer::error(401, "", "Invalid username or password."),
            Some(READER) if writes => {
                return Answer::error(403, "", "You don't have the rights to write here");
            }
            _ => {}
        }
        let anonymous = token.is_none();
        match (request.method.as_str(), parts.as_slice()) {
            ("POST", ["api", "repos", "create"]) => state.create_answer(request, &self.endpoint),
            ("POST", ["api", "validate-yaml"]) => {
                Answer::json(&json!({ "errors": [], "warnings": [] }))
            }
            ("PUT", ["lfs", oid]) => {
                if hex(&Sha256::digest(&request.body)) != *oid {
                    return Answer::error(400, "", "the bytes are not those of the name");
                }
                state
                    .objects
                    .insert((*oid).to_owned(), request.body.clone());
                Answer::new(200, "")
            }
            ("POST", [owner, name, "info", "lfs", ..]) if name.ends_with(".git") => {
                let _ = owner;
                self.batch(request)
            }
            (_, ["api", "models", owner, name, rest @ ..]) => {
                let rest = rest.first().copied().unwrap_or_default();
                state.api(
                    request,
                    &format!("{owner}/{name}"),
                    rest,
                    anonymous,
                    &self.endpoint,
                )
            }
            ("GET" | "HEAD", [owner, name, "resolve", revision, path]) => {
                state.file(&format!("{owner}/{name}"), revision, path, anonymous)
            }
            _ => Answer::error(404, "", "no such address"),
        }
    }

    fn batch(&self, request: &Request) -> Answer {
        let asked: Value = serde_json::from_slice(&request.body).unwrap();
        let objects: Vec<Value> = asked["objects"]
            .as_array()
            .unwrap()
            .iter()
            .map(|object| {
                let href = format!("{}/lfs/{}", self.endpoint, object["oid"].as_str().unwrap());
                json!({ "oid": object["oid"], "size": object["size"], "actions": { "upload": { "href": href } } })
            })
            .collect();
        Answer::json(&json!({ "transfer": "basic", "objects": objects }))
    }
}

impl Repo {
    fn resolve<'a>(&'a self, revision: &'a str) -> Option<&'a str> {
        match self.refs.get(revision) {
            Some(commit) => Some(commit),
            None => self.trees.contains_key(revision).then_some(revision),
        }
    }
}

impl State {
    fn create(&mut self, repo: &str, private: bool) {
        self.repos.insert(
            repo.to_owned(),
            Repo {
                private,
                ..Repo::default()
            },
        );
        let attributes = b"*.safetensors filter=lfs\n*.onnx filter=lfs\n".to_vec();
        self.commit(
            repo,
            "main",
            Tree::from([(".gitattributes".to_owned(), attributes)]),
        );
    }

    fn commit(&mut self, repo: &str, reference: &str, tree: Tree) -> String {
        self.commits += 1;
        let commit = hex(&Sha1::digest(self.commits.to_le_bytes()));
        let repo = self.repos.get_mut(repo).unwrap();
        repo.trees.insert(commit.clone(), tree);
        repo.refs.insert(reference.to_owned(), commit.clone());
        commit
    }

    fn create_answer(&mut self, request: &Request, endpoint: &str) -> Answer {
        let asked: Value = serde_json::from_slice(&request.body).unwrap();
        let text = |key: &str| asked[key].as_str().unwrap_or_default().to_owned();
        let repo = format!("{}/{}", text("organization"), text("name"));
        if self.repos.contains_key(&repo) {
            return Answer::error(409, "", "You already created this model repo");
        }
        self.create(&repo, asked["private"].as_bool().unwrap_or_default());
        Answer::json(&json!({ "url": format!("{endpoint}/{repo}"), "name": repo }))
    }

    /// The tree of a repository at a revision and its commit, or the refusal.
    fn at<'a>(
        &'a self,
        repo: &str,
        revision: &'a str,
        anonymous: bool,
    ) -> Result<(&'a Tree, &'a str), Answer> {
        let missing = |code, what: &str| Answer::error(404, code, what);
        let found = self.repos.get(repo);
        let found = found.ok_or_else(|| missing("RepoNotFound", "Repository not found"))?;
        if found.private && anonymous {
            return Err(Answer::error(
                401,
                "RepoNotFound",
                "Invalid username or password.",
            ));
        }
        let commit = found
            .resolve(revision)
            .ok_or_else(|| missing("RevisionNotFound", "Invalid rev id"))?;
        Ok((&found.trees[commit], commit))
    }

    fn file(&self, repo: &str, revision: &str, path: &str, anonymous: bool) -> Answer {
        let (tree, commit) = match self.at(repo, revision, anonymous) {
            Ok(found) => found,
            Err(refusal) => return refusal,
        };
        match tree.get(path) {
            None => {
                Answer::error(404, "EntryNotFound", "Entry not found").with("X-Repo-Commit", commit)
            }
            Some(bytes) => {
                let [sha256, git] = names(bytes);
                let etag = if is_large(path) { sha256 } else { git };
                Answer::new(200, bytes.clone())
                    .with("X-Repo-Commit", commit)
                    .with("ETag", format!("\"{etag}\""))
            }
        }
    }

    fn api(
        &mut self,
        request: &Request,
        repo: &str,
        rest: &str,
        anonymous: bool,
        endpoint: &str,
    ) -> Answer {
        let (task, revision) = rest.split_once('/').unwrap_or((rest, "main"));
        let nothing = Tree::new();
        let (tree, commit) = match self.at(repo, revision, anonymous) {
            // The branch that is to be made does not exist yet.
            Err(refusal) if task != "branch" || refusal.status != 404 => return refusal,
            Err(_) => (&nothing, ""),
            Ok((tree, commit)) => (tree, commit),
        };
        match (request.method.as_str(), task) {
            ("GET", "" | "revision") => {
                let siblings: Vec<Value> = tree
                    .keys()
                    .map(|path| json!({ "rfilename": path }))
                    .collect();
                Answer::json(&json!({
                    "_id": "0", "id": repo, "modelId": repo, "sha": commit, "siblings": siblings,
                    "private": self.repos[repo].private, "tags": [], "downloads": 0, "likes": 0,
                }))
            }
            ("GET", "tree") => Answer::json(
                &tree
                    .iter()
                    .map(|(path, bytes)| entry(path, bytes))
                    .collect(),
            ),
            ("POST", "paths-info") => {
                let asked: Value = serde_json::from_slice(&request.body).unwrap();
                let asked: Vec<&str> = asked["paths"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .filter_map(Value::as_str)
                    .collect();
                let found = tree
                    .iter()
                    .filter(|(path, _)| asked.contains(&path.as_str()));
                Answer::json(&found.map(|(path, bytes)| entry(path, bytes)).collect())
            }
            ("POST", "preupload") => {
                let asked: Value = serde_json::from_slice(&request.body).unwrap();
                let files: Vec<Value> = asked["files"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|file| {
                        let mode = if is_large(file["path"].as_str().unwrap()) {
                            "lfs"
                        } else {
                            "regular"
                        };
                        json!({ "path": file["path"], "uploadMode": mode, "shouldIgnore": false })
                    })
                    .collect();
                Answer::json(&json!({ "files": files }))
            }
            ("POST", "branch") => {
                let asked: Value = serde_json::from_slice(&request.body).unwrap();
                let from = asked["startingPoint"].as_str().unwrap_or("main").to_owned();
                let repo = self.repos.get_mut(repo).unwrap();
                let commit = repo.resolve(&from).unwrap().to_owned();
                repo.refs.insert(revision.to_owned(), commit);
                Answer::new(201, "")
            }
            ("POST", "commit") => {
                let (tree, commit) = (tree.clone(), commit.to_owned());
                self.commit_answer(request, repo, revision, tree, &commit, endpoint)
            }
            _ => Answer::error(404, "", "no such address"),
        }
    }

    /// Carries out a commit in lines of JSON: a header, then a file each.
    fn commit_answer(
        &mut self,
        request: &Request,
        repo: &str,
        branch: &str,
        mut tree: Tree,
        head: &str,
        endpoint: &str,
    ) -> Answer {
        for line in request
            .body
            .split(|&b| b == b'\n')
            .filter(|line| !line.is_empty())
        {
            let line: Value = serde_json::from_slice(line).unwrap();
            let value = &line["value"];
            let path = value["path"].as_str().unwrap_or_default().to_owned();
            match line["key"].as_str().unwrap() {
                "header" => {
                    if value["parentCommit"]
                        .as_str()
                        .is_some_and(|parent| parent != head)
                    {
                        let message = "A commit has happened since. Please refresh and try again.";
                        return Answer::error(412, "", message);
                    }
                }
                "file" => {
                    tree.insert(path, base64(value["content"].as_str().unwrap()));
                }
                "lfsFile" => {
                    let oid = value["oid"].as_str().unwrap();
                    let Some(bytes) = self.objects.get(oid) else {
                        return Answer::error(400, "", "an object that was not uploaded");
                    };
                    tree.insert(path, bytes.clone());
                }
                "deletedFile" => {
                    tree.remove(&path);
                }
                other => return Answer::error(400, "", &format!("unknown key {other}")),
            }
        }
        let reference = if request.query.contains("create_pr=1") {
            "refs/pr/1"
        } else {
            branch
        };
        let commit = self.commit(repo, reference, tree);
        let mut answer = json!({ "commitOid": commit, "commitUrl": format!("{endpoint}/{repo}/commit/{commit}"), "success": true });
        if reference != branch {
            answer["pullRequestUrl"] = format!("{endpoint}/{repo}/discussions/1").into();
            answer["prUrl"] = answer["pullRequestUrl"].clone();
        }
        Answer::json(&answer)
    }
}

/// Large files, as `.gitattributes` would tell.
fn is_large(path: &str) -> bool {
    path.ends_with(".safetensors") || path.ends_with(".onnx")
}

fn entry(path: &str, bytes: &[u8]) -> Value {
    let [sha256, git] = names(bytes);
    let mut entry = json!({ "type": "file", "path": path, "size": bytes.len(), "oid": git });
    if is_large(path) {
        entry["oid"] = hex(&Sha1::digest(path)).into();
        entry["lfs"] =
            json!({ "oid": sha256, "sha256": sha256, "size": bytes.len(), "pointerSize": 134 });
    }
    entry
}

/// SHA-256 and git's name.
fn names(bytes: &[u8]) -> [String; 2] {
    let mut git = format!("blob {}\0", bytes.len()).into_bytes();
    git.extend(bytes);
    [hex(&Sha256::digest(bytes)), hex(&Sha1::digest(git))]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `%2F` and the like as what they stand for.
fn decoded(path: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = path.as_bytes();
    while let [first, tail @ ..] = rest {
        let code = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match (first, code.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8(bytes).unwrap()
}

fn base64(text: &str) -> Vec<u8> {
    let value = |c: u8| match c {
        b'A'..=b'Z' => u32::from(c - b'A'),
        b'a'..=b'z' => u32::from(c - b'a') + 26,
        b'0'..=b'9' => u32::from(c - b'0') + 52,
        b'+' => 62,
        _ => 63,
    };
    let digits: Vec<u8> = text.bytes().filter(|&c| c != b'=').collect();
    let mut bytes = Vec::with_capacity(digits.len() * 3 / 4);
    for group in digits.chunks(4) {
        let word = group.iter().fold(0, |word, &c| word << 6 | value(c)) << (6 * (4 - group.len()));
        bytes.extend(&word.to_be_bytes()[1..group.len()]);
    }
    bytes
}
