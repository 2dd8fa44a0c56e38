//! Progress of a run: a bar on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use dcff_train::{Event, Observer};
use indicatif::{ProgressBar, ProgressStyle};

use dcff_report::table::duration;

/// How often a plain line may come within an epoch.
const PLAIN_INTERVAL: Duration = Duration::from_secs(30);

/// Shows events on standard error.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    epochs: usize,
    steps: usize,
    step_in_sitting: usize,
    last_line: Instant,
}

/// The step after which the time of the whole run is told.
const ESTIMATE_AFTER: usize = 10;

impl Progress {
    pub(crate) fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(0);
            let style =
                ProgressStyle::with_template("{prefix} {wide_bar:.cyan/blue} {pos}/{len} {msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        Self {
            bar,
            epochs: 0,
            steps: 0,
            step_in_sitting: 0,
            last_line: Instant::now(),
        }
    }

    fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => eprintln!("{text}"),
        }
    }
}

impl Observer for Progress {
    fn event(&mut self, event: &Event<'_>) {
        match event {
            Event::Started {
                epoch,
                step,
                epochs,
                steps,
                images,
            } => {
                (self.epochs, self.steps) = (*epochs, *steps);
                let from = if (*epoch, *step) == (0, 0) {
                    String::new()
                } else {
                    format!(", from epoch {} step {}", epoch + 1, step + 1)
                };
                self.line(&format!(
                    "training: {epochs} epochs of {images} images{from}"
                ));
                if let Some(bar) = &self.bar {
                    bar.set_length(*steps as u64);
                }
            }
            Event::Foreword(lines) => lines.iter().for_each(|line| self.line(line)),
            Event::Step {
                epoch,
                step,
                loss,
                accuracy,
                images_per_second,
                seconds_left,
                ..
            } => {
                self.step_in_sitting += 1;
                let left = duration(*seconds_left);
                let state = format!(
                    "loss {loss:.4}  acc {:5.2} %  {images_per_second:.0} images/s  {left} left",
                    100.0 * accuracy
                );
                if self.step_in_sitting == ESTIMATE_AFTER {
                    self.line(&format!(
                        "estimated from {ESTIMATE_AFTER} steps: {left} to the end"
                    ));
                }
                if let Some(bar) = &self.bar {
                    bar.set_prefix(format!("epoch {}/{}", epoch + 1, self.epochs));
                    bar.set_position(*step as u64);
                    bar.set_message(state);
                } else if self.last_line.elapsed() >= PLAIN_INTERVAL {
                    self.last_line = Instant::now();
                    self.line(&format!(
                        "epoch {}/{} step {step}/{}  {state}",
                        epoch + 1,
                        self.epochs,
                        self.steps
                    ));
                }
            }
            Event::Epoch {
                metrics,
                timing,
                epochs,
                best,
            } => {
                self.last_line = Instant::now();
                let score = |name: &str, score: Option<dcff_train::Score>| {
                    score.map_or(String::new(), |s| {
                        format!("  {name} {:.4} {:5.2} %", s.loss, 100.0 * s.accuracy)
                    })
                };
                self.line(&format!(
                    "epoch {}/{epochs}{}{}{}{}  {:.0} images/s{}",
                    metrics.epoch,
                    metrics
                        .stage
                        .as_deref()
                        .map_or(String::new(), |stage| format!("  {stage}")),
                    score("train", Some(metrics.train)),
                    score("validation", metrics.validation),
                    score("test", metrics.test),
                    timing.images_per_second,
                    if *best { "  best" } else { "" },
                ));
            }
            _ => {}
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
