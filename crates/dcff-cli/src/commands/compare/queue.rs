//! The queue of a comparison: each run is a child process of this program, in a folder of its own.
//!
//! The log of a run is locked for as long as any process writes to it. A child ends when its parent does; should one
//! still be at work when the comparison is started again, its run is not started a second time beside it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use dcff_report::ERROR;
use dcff_report::table::duration;
use dcff_run::MAX_TABLE_BYTES;
use dcff_train::{CONFIG, DENSE, METRICS, SUMMARY};

use super::matrix::Run;

/// How often the children are looked after.
const TICK: Duration = Duration::from_millis(50);
/// How often a line about a run under way may come.
const LINE: Duration = Duration::from_secs(30);
/// Bytes of a log that are looked through for an error.
const MAX_LOG: u64 = 1 << 20;
/// How long children may take to write a checkpoint after an interruption.
const GRACE: Duration = Duration::from_secs(60);

/// Where the runs go and with how many processes.
pub(super) struct Queue<'a> {
    /// The folder of the comparison.
    pub(super) out: &'a Path,
    /// Child processes at a time.
    pub(super) jobs: usize,
    /// Threads of each.
    pub(super) threads: usize,
    /// Set when the user asks to stop.
    pub(super) stop: Arc<AtomicBool>,
}

/// What became of a run.
enum State {
    /// Not begun in this sitting.
    Waiting,
    /// Another process holds its log.
    Elsewhere,
    /// Under way.
    Running(Running),
    /// Finished, in this sitting or before.
    Done,
    /// It failed.
    Failed,
}

struct Running {
    child: Child,
    log: PathBuf,
    /// Where this sitting's part of the log begins.
    from: u64,
    epoch: usize,
    line: Instant,
}

struct Job<'a> {
    run: &'a Run,
    folder: PathBuf,
    /// The job whose dense stage this one starts from.
    after: Option<usize>,
    /// Expected seconds from the first epoch to the last.
    seconds: Option<f64>,
    state: State,
}

/// How the queue ended.
pub(super) enum QueueEnd {
    /// Every run is finished or has failed.
    Through {
        /// How many failed.
        failed: usize,
    },
    /// It was asked to stop.
    Interrupted,
}

impl Queue<'_> {
    /// Carries out `runs`. `seconds` is what each is expected to take; `after` the run whose dense stage each starts from.
    pub(super) fn work(
        &self,
        runs: &[Run],
        seconds: &[Option<f64>],
        after: &[Option<usize>],
    ) -> anyhow::Result<QueueEnd> {
        let mut jobs: Vec<Job<'_>> = runs
            .iter()
            .zip(seconds)
            .zip(after)
            .map(|((run, &seconds), &after)| {
                let folder = self.out.join(&run.name);
                let state = if folder.join(SUMMARY).exists() {
                    State::Done
                } else {
                    State::Waiting
                };
                Job {
                    run,
                    folder,
                    after,
                    seconds,
                    state,
                }
            })
            .collect();
        let done = jobs
            .iter()
            .filter(|job| matches!(job.state, State::Done))
            .count();
        if done > 0 {
            eprintln!(
                "{done} of {} runs are finished already and stay as they are",
                jobs.len()
            );
        }
        let start = Instant::now();
        let mut stopping: Option<Instant> = None;
        loop {
            for index in 0..jobs.len() {
                self.look_after(&mut jobs, index)?;
            }
            if self.stop.load(Ordering::Relaxed) {
                // A terminal interrupts the children too; others are ended. Either way they can be continued.
                let since = *stopping.get_or_insert_with(Instant::now);
                if running(&jobs) == 0 {
                    return Ok(QueueEnd::Interrupted);
                }
                if since.elapsed() > GRACE {
                    for job in &mut jobs {
                        if let State::Running(running) = &mut job.state {
                            let _ = running.child.kill();
                        }
                    }
                }
            } else {
                for index in 0..jobs.len() {
                    if running(&jobs) < self.jobs && ready(&jobs, index) {
                        self.start(&mut jobs, index)?;
                    }
                }
            }
            let open = |job: &Job<'_>| !matches!(job.state, State::Done | State::Failed);
            if !jobs.iter().any(open) {
                let failed = jobs
                    .iter()
                    .filter(|job| matches!(job.state, State::Failed))
                    .count();
                eprintln!(
                    "{} runs finished, {failed} failed, {} in this sitting",
                    jobs.len() - failed,
                    duration(start.elapsed().as_secs_f64())
                );
                return Ok(QueueEnd::Through { failed });
            }
            std::thread::sleep(TICK);
        }
    }

    /// Begins or continues a run.
    fn start(&self, jobs: &mut [Job<'_>], index: usize) -> anyhow::Result<()> {
        let (total, left) = (jobs.len(), self.seconds_left(jobs));
        // Where that run failed before it had a dense network, each trains its own.
        let dense = jobs[index].after.map(|after| jobs[after].folder.clone());
        let dense = dense.filter(|folder| folder.join(DENSE).exists());
        let job = &mut jobs[index];
        let name = &job.run.name;
        let logs = self.out.join("logs");
        let path = logs.join(format!("{name}.log"));
        std::fs::create_dir_all(&logs).with_context(|| logs.display().to_string())?;
        let mut log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| path.display().to_string())?;
        match log.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                if !matches!(job.state, State::Elsewhere) {
                    eprintln!("{name}: another process is at work on it; waiting for its end");
                    job.state = State::Elsewhere;
                }
                return Ok(());
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| path.display().to_string());
            }
        }
        if job.folder.join(SUMMARY).exists() {
            // The other process has finished it.
            job.state = State::Done;
            return Ok(());
        }
        tidy(&job.folder)?;
        let continued = job.folder.join(CONFIG).exists();
        let mut command = Command::new(std::env::current_exe()?);
        if continued {
            command.args(["train", "--resume"]).arg(&job.folder);
            if let Some(dir) = &job.run.args.data_dir.data_dir {
                command.arg("--data-dir").arg(dir);
            }
        } else {
            command
                .args(&job.run.arguments)
                .arg("--out")
                .arg(&job.folder);
            if let Some(dense) = dense {
                command.arg("--dense-from").arg(dense);
            }
        }
        command.args(["--threads", &self.threads.to_string(), "--end-with-parent"]);
        let from = log.seek(SeekFrom::End(0))?;
        let child = command
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("starting dcff train")?;
        eprintln!(
            "[{}/{total}] {name}: {}{left}",
            index + 1,
            if continued { "continued" } else { "started" },
        );
        job.state = State::Running(Running {
            child,
            log: path,
            from,
            epoch: 0,
            line: Instant::now(),
        });
        Ok(())
    }

    /// Notices what a child has done.
    fn look_after(&self, jobs: &mut [Job<'_>], index: usize) -> anyhow::Result<()> {
        let total = jobs.len();
        let State::Running(running) = &mut jobs[index].state else {
            return Ok(());
        };
        let Some(status) = running.child.try_wait()? else {
            if running.line.elapsed() >= LINE {
                running.line = Instant::now();
                running.epoch = epochs_done(&jobs[index].folder);
                let epoch = running.epoch;
                let (left, run) = (self.seconds_left(jobs), jobs[index].run);
                eprintln!(
                    "[{}/{total}] {}: {epoch} of {} epochs done{left}",
                    index + 1,
                    run.name,
                    run.config.recipe.epochs
                );
            }
            return Ok(());
        };
        let (log, from) = (running.log.clone(), running.from);
        let job = &mut jobs[index];
        let name = &job.run.name;
        if status.success() && job.folder.join(SUMMARY).exists() {
            job.state = State::Done;
            eprintln!(
                "[{}/{total}] {name}: finished{}",
                index + 1,
                self.seconds_left(jobs)
            );
        } else if status.code() == Some(130) || self.stop.load(Ordering::Relaxed) {
            // Interrupted, by a signal that is meant for the comparison too.
            self.stop.store(true, Ordering::Relaxed);
            job.state = State::Waiting;
        } else {
            let message = last_error(&log, from).unwrap_or_else(|| status.to_string());
            self.fail(job, index, total, &message)?;
        }
        Ok(())
    }

    fn fail(
        &self,
        job: &mut Job<'_>,
        index: usize,
        total: usize,
        message: &str,
    ) -> anyhow::Result<()> {
        eprintln!(
            "[{}/{total}] {}: failed: {message}",
            index + 1,
            job.run.name
        );
        std::fs::create_dir_all(&job.folder).with_context(|| job.folder.display().to_string())?;
        dcff_file::write(&job.folder.join(ERROR), format!("{message}\n").as_bytes())?;
        job.state = State::Failed;
        Ok(())
    }

    /// `, about 3 min left over all`, where the time of every open run is known.
    fn seconds_left(&self, jobs: &[Job<'_>]) -> String {
        let mut total = 0.0;
        for job in jobs {
            let share = match &job.state {
                State::Done | State::Failed => continue,
                _ => {
                    let done = epochs_done(&job.folder) as f64;
                    1.0 - done / job.run.config.recipe.epochs.max(1) as f64
                }
            };
            match job.seconds {
                Some(seconds) => total += seconds * share.max(0.0),
                None => return String::new(),
            }
        }
        format!(
            "; about {} left over all",
            duration(total / self.jobs as f64)
        )
    }
}

/// Whether a run can begin: it waits for nobody, or the run it waits for has ended.
fn ready(jobs: &[Job<'_>], index: usize) -> bool {
    let ended = |after: usize| matches!(jobs[after].state, State::Done | State::Failed);
    matches!(jobs[index].state, State::Waiting | State::Elsewhere)
        && jobs[index].after.is_none_or(ended)
}

fn running(jobs: &[Job<'_>]) -> usize {
    jobs.iter()
        .filter(|job| matches!(job.state, State::Running(_)))
        .count()
}

/// Takes away what a failure left, so that the run can begin.
fn tidy(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join(ERROR);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| path.display().to_string())
        }
        _ => Ok(()),
    }
}

/// Epochs in the run's table; 0 where it has none yet.
fn epochs_done(folder: &Path) -> usize {
    let table = dcff_file::read_if_any(&folder.join(METRICS), MAX_TABLE_BYTES);
    let table = table.ok().flatten().unwrap_or_default();
    table.iter().filter(|&&byte| byte == b'\n').count()
}

/// The last error line of the log from byte `from` on.
fn last_error(log: &Path, from: u64) -> Option<String> {
    let mut file = File::open(log).ok()?;
    // The end of a long log is enough.
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(from.max(length.saturating_sub(MAX_LOG))))
        .ok()?;
    let mut bytes = Vec::new();
    file.take(MAX_LOG).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let line = text
        .lines()
        .rev()
        .find(|line| line.starts_with("error: "))?;
    Some(line.trim_start_matches("error: ").to_owned())
}
