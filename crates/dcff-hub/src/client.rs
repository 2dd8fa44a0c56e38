//! hf-hub's client as this crate uses it: retries, patience, and errors that are one line and hold no token.
//!
//! hf-hub itself repeats requests that failed to connect or got a 5xx or 429, with growing pauses. What it does not do is done
//! here: a transfer that breaks off in the middle is repeated, and one in which nothing moves any more is given up.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use hf_hub::{HFClientSync, HFError};

use crate::{Error, HubConfig, RepoId, RepoKind, Result};

/// Attempts at a transfer that broke off.
const ATTEMPTS: u32 = 4;
/// The pause after the first; it doubles.
const PAUSE: Duration = Duration::from_millis(250);
/// How often a running transfer is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// One repository, through one client.
pub(crate) struct Client {
    pub(crate) hub: HFClientSync,
    config: HubConfig,
    kind: RepoKind,
    repo: String,
}

/// Says that a transfer is alive.
#[derive(Clone)]
pub(crate) struct Pulse {
    start: Instant,
    /// Milliseconds from the start to the last sign of life.
    last: Arc<AtomicU64>,
}

impl Pulse {
    fn new() -> Self {
        Self {
            start: Instant::now(),
            last: Arc::default(),
        }
    }

    pub(crate) fn beat(&self) {
        self.last.store(self.elapsed(), Ordering::Relaxed);
    }

    fn silent(&self) -> Duration {
        Duration::from_millis(
            self.elapsed()
                .saturating_sub(self.last.load(Ordering::Relaxed)),
        )
    }

    fn elapsed(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }
}

impl Client {
    pub(crate) fn new(config: &HubConfig, kind: RepoKind, repo: &RepoId) -> Result<Self> {
        let mut builder = hf_hub::HFClient::builder()
            .endpoint(&config.endpoint)
            .cache_dir(&config.cache);
        if let Some(token) = &config.token {
            builder = builder.token(token.reveal());
        }
        let explain = |error: HFError| explain(config, kind, &repo.to_string(), "client", &error);
        Ok(Self {
            hub: builder.build_sync().map_err(explain)?,
            config: config.clone(),
            kind,
            repo: repo.to_string(),
        })
    }

    /// Does what `prepare` returns, once; `what` is named in errors.
    pub(crate) fn once<T: Send + 'static, F>(
        &self,
        what: &str,
        prepare: impl FnOnce(Pulse) -> F,
    ) -> Result<T>
    where
        F: FnOnce() -> std::result::Result<T, HFError> + Send + 'static,
    {
        let pulse = Pulse::new();
        self.watched(&pulse, Duration::ZERO, prepare(pulse.clone()))?
            .map_err(|error| self.explain(what, &error))
    }

    /// As [`Self::once`], with hf-hub's own error, and with so much more patience.
    pub(crate) fn raw<T: Send + 'static, F>(
        &self,
        more: Duration,
        prepare: impl FnOnce(Pulse) -> F,
    ) -> Result<std::result::Result<T, HFError>>
    where
        F: FnOnce() -> std::result::Result<T, HFError> + Send + 'static,
    {
        let pulse = Pulse::new();
        self.watched(&pulse, more, prepare(pulse.clone()))
    }

    /// Does what `prepare` returns, again where the transfer broke off.
    pub(crate) fn retry<T: Send + 'static, F>(
        &self,
        what: &str,
        mut prepare: impl FnMut(Pulse) -> F,
    ) -> Result<T>
    where
        F: FnOnce() -> std::result::Result<T, HFError> + Send + 'static,
    {
        let mut pause = PAUSE;
        for attempt in 1.. {
            match self.raw(Duration::ZERO, &mut prepare)? {
                Ok(value) => return Ok(value),
                // A connection that could not be made was tried again by hf-hub already.
                Err(HFError::Request { source, .. })
                    if attempt < ATTEMPTS && !source.is_connect() =>
                {
                    std::thread::sleep(pause);
                    pause *= 2;
                }
                Err(error) => return Err(self.explain(what, &error)),
            }
        }
        unreachable!("the last attempt returns")
    }

    /// Runs `work` on a thread of its own for as long as there are signs of life.
    fn watched<T: Send + 'static>(
        &self,
        pulse: &Pulse,
        more: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        let patience = self.config.timeout + more;
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            // Nobody listens any more where the transfer was given up.
            let _ = sender.send(work());
        });
        loop {
            match receiver.recv_timeout(LOOK) {
                Ok(result) => return Ok(result),
                Err(mpsc::RecvTimeoutError::Timeout) if pulse.silent() < patience => {}
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    return Err(Error::Stalled {
                        repo: self.repo.clone(),
                        endpoint: self.redacted(&self.config.endpoint),
                        seconds: patience.as_secs(),
                    });
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    return Err(self.refused("client", "the Hub's client failed".to_owned()));
                }
            }
        }
    }

    pub(crate) fn refused(&self, file: &str, detail: String) -> Error {
        Error::Refused {
            kind: self.kind,
            repo: self.repo.clone(),
            file: file.to_owned(),
            detail: self.redacted(&detail),
        }
    }

    pub(crate) fn explain(&self, what: &str, error: &HFError) -> Error {
        explain(&self.config, self.kind, &self.repo, what, error)
    }

    fn redacted(&self, text: &str) -> String {
        match &self.config.token {
            Some(token) => token.redact(text),
            None => text.to_owned(),
        }
    }
}

/// hf-hub's error as one line that says what to do and holds no token.
fn explain(config: &HubConfig, kind: RepoKind, repo: &str, file: &str, error: &HFError) -> Error {
    let hint = match (error, &config.token) {
        (HFError::AuthRequired { .. }, Some(_)) => "; is the token still valid?",
        (HFError::AuthRequired { .. }, None) => {
            "; set HF_TOKEN or run `hf auth login` for what is not public"
        }
        (HFError::Forbidden { .. }, _) => "; the token does not allow this",
        _ => "",
    };
    let detail = match error {
        // The chain's end says why (no such host, connection refused); the rest repeats the address.
        HFError::Request { source, .. } => innermost(source),
        HFError::Http { context }
        | HFError::Forbidden { context }
        | HFError::Conflict { context }
        | HFError::RateLimited { context, .. }
        | HFError::AuthRequired { context } => {
            let message = context.server_message.as_deref().unwrap_or_default();
            format!("the Hub answered {} {message}", context.status)
        }
        HFError::RepoNotFound { .. } => {
            "no such repository, or it is private and the token does not allow to see it".to_owned()
        }
        HFError::RevisionNotFound { revision, .. } => {
            format!("no such branch, tag or commit: {revision}")
        }
        HFError::EntryNotFound { .. } => "no such file in the repository".to_owned(),
        other => other.to_string(),
    };
    let first = detail.lines().next().unwrap_or_default().trim();
    let mut detail = format!("{first}{hint}");
    let mut endpoint = config.endpoint.clone();
    if let Some(token) = &config.token {
        detail = token.redact(&detail);
        endpoint = token.redact(&endpoint);
    }
    match error {
        HFError::Request { .. } => Error::NoNetwork {
            kind,
            repo: repo.to_owned(),
            endpoint,
            detail,
        },
        _ => Error::Refused {
            kind,
            repo: repo.to_owned(),
            file: file.to_owned(),
            detail,
        },
    }
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
