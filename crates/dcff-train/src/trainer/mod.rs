//! The loop.

mod epoch;
mod extract;
mod finish;
mod recalibrate;
mod setup;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use candle_core::Tensor;
use dcff_data::Loader;
use dcff_file::FolderLock;
use dcff_models::{Architecture, Network, Views};
use dcff_nn::RepeatedStep;

use dcff_run::{CHECKPOINT, RunConfig, RunFolder, SELECTION, Summary, selection};
pub use extract::Extracted;
pub use setup::Builder;

use crate::checkpoint::{
    CHOSEN, Checkpoint, METHOD, NETWORK, Position, State, tensor_name, view_tensors,
};
use crate::clock::Clock;
use crate::collect::Probe;
use crate::costs::macs;
use crate::distillation::Teacher;
use crate::error::{Error, Place, Result};
use crate::event::{Event, Observer};
use crate::method::{Decision, EpochStart, Method, Plan};
use crate::optimizer::Optimizer;
use crate::stage::Stage;
use crate::step::Progress;
use crate::tensorboard::EventFile;

/// How [`Trainer::run`] ended.
#[derive(Debug)]
pub enum Ending {
    /// All epochs are done and the artefact is written.
    Finished(Box<Summary>),
    /// It was asked to stop; the checkpoint holds everything.
    Interrupted(Position),
}

/// One run: a network, its optimiser, a method and data, tied to a folder.
pub struct Trainer {
    config: RunConfig,
    folder: RunFolder,
    /// Keeps others from training in the folder.
    _lock: Arc<FolderLock>,
    full: Architecture,
    network: Network,
    optimizer: Optimizer,
    method: Box<dyn Method>,
    train: Loader,
    validation: Option<Loader>,
    test: Loader,
    probe: Option<Probe>,
    plan: Plan,
    views: Views,
    state: State,
    /// The compact tensors of the best epoch so far.
    chosen: BTreeMap<String, Tensor>,
    repeated: RepeatedStep,
    teacher: Option<Teacher>,
}

impl Trainer {
    /// The stage of `epoch`.
    fn stage(&self, epoch: usize) -> Result<Stage> {
        let found = self.plan.stages.iter().find(|s| s.epochs.contains(&epoch));
        found.cloned().ok_or_else(|| {
            let message = format!("epoch {} belongs to no stage of the method", epoch + 1);
            Error::setting("recipe.epochs", message)
        })
    }

    /// What the method says at the start of the current epoch.
    fn ask(&mut self) -> Result<Decision> {
        self.method.epoch_start(&EpochStart {
            epoch: self.state.position.epoch,
            epochs: self.config.recipe.epochs,
            full: &self.full,
            network: &self.network,
            views: &self.views,
            probe: self.probe.as_ref(),
        })
    }

    /// The network as it stands.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// The views that the network is evaluated and collapsed with.
    ///
    /// # Errors
    /// Those of the method.
    pub fn evaluation_views(&self) -> Result<Views> {
        let own = self.method.evaluation()?;
        Ok(own.unwrap_or_else(|| self.views.clone()))
    }

    /// Where the run stands.
    pub fn position(&self) -> Position {
        self.state.position
    }

    /// Trains until the end, or until `stop` is set: then after the step under way a checkpoint is written.
    ///
    /// # Errors
    /// [`Error::Diverged`] when the loss is not finite (the last checkpoint stays), and those of data, device and files.
    pub fn run(&mut self, observer: &mut dyn Observer, stop: &AtomicBool) -> Result<Ending> {
        let epochs = self.config.recipe.epochs;
        let steps = self.train.batches();
        // An epoch's row is written before its first step.
        let Position { epoch, step } = self.state.position;
        let begun = epoch + usize::from(step > 0);
        selection::rewind(&self.folder.join(SELECTION), begun)?;
        EventFile::open(&self.folder, &self.state.metrics, &self.state.timing)?;
        if !self.state.metrics.is_empty() {
            // The program may have ended between the checkpoint and the tables.
            self.folder
                .write_tables(&self.state.metrics, &self.state.timing)?;
        }
        let Position { epoch, step } = self.state.position;
        observer.event(&Event::Started {
            epoch,
            step,
            epochs,
            steps,
            images: self.train.images(),
        });
        let foreword = self.method.foreword();
        if (epoch, step) == (0, 0) && !foreword.is_empty() {
            observer.event(&Event::Foreword(&foreword));
        }
        let mut clock = Clock::new(self.state.seconds);
        while self.state.position.epoch < epochs {
            if stop.load(Ordering::Relaxed) || !self.epoch(observer, stop, &mut clock)? {
                self.state.seconds = clock.seconds();
                self.save()?;
                return Ok(Ending::Interrupted(self.state.position));
            }
        }
        self.finish(&clock)
            .map(|summary| Ending::Finished(Box::new(summary)))
    }

    /// Seconds that the rest of the run will take, measured on `steps` steps; nothing is written.
    ///
    /// # Errors
    /// Those of data and device.
    pub fn estimate(mut self, steps: usize) -> Result<f64> {
        let recipe = self.config.recipe.clone();
        let (first, all) = (
            self.state.position.epoch.min(recipe.epochs),
            self.train.batches(),
        );
        let start = Instant::now();
        self.views = self.ask()?.views;
        let overhead = start.elapsed().as_secs_f64();
        // The first step warms caches and buffers up and is not counted.
        let mut step_seconds = self.timed(steps.min(all.saturating_sub(1)).max(1), 1)?;
        step_seconds.sort_by(f64::total_cmp);
        let step = step_seconds
            .get(step_seconds.len() / 2)
            .copied()
            .unwrap_or(0.0);
        // Evaluation is about a third of a training step's work; it is small enough not to be measured.
        let evaluated = self
            .validation
            .as_ref()
            .map_or(0, |loader| loader.batches());
        // Epochs of stages with other widths take time in proportion to their operations.
        let now = macs(self.network.compact())? as f64;
        let compact = match &self.plan.compact {
            Some(compact) => macs(compact)? as f64,
            None => now,
        };
        // Stage by stage, however many epochs there are.
        let stages = self.plan.stages.iter();
        let epochs: f64 = stages
            .map(|stage| {
                let left = stage
                    .epochs
                    .end
                    .saturating_sub(stage.epochs.start.max(first));
                left as f64 * if stage.compact { compact / now } else { 1.0 }
            })
            .sum();
        Ok(epochs * (overhead + step * (all as f64 + evaluated as f64 / 3.0)))
    }

    /// Seconds of each of `steps` steps as the run begins, after `warm_up` that are not counted and without the time that batches took;
    /// nothing is written.
    ///
    /// # Errors
    /// Those of data and device.
    pub fn step_seconds(mut self, steps: usize, warm_up: usize) -> Result<Vec<f64>> {
        self.views = self.ask()?.views;
        self.timed(steps, warm_up)
    }

    fn timed(&mut self, steps: usize, warm_up: usize) -> Result<Vec<f64>> {
        let (recipe, all) = (self.config.recipe.clone(), self.train.batches());
        let at = Progress {
            epochs: recipe.epochs,
            steps: all,
            ..Progress::default()
        };
        let mut seconds = Vec::with_capacity(steps);
        let mut left = steps + warm_up;
        while left > 0 {
            let batches: Vec<_> = self.train.epoch(Some(0), 0).take(left).collect();
            left -= batches.len().min(left);
            for batch in batches {
                let (batch, start) = (batch?, Instant::now());
                self.step(&batch, recipe.rate(0, 0, all), at)?;
                dcff_nn::synchronize(self.network.device())?;
                seconds.push(start.elapsed().as_secs_f64());
            }
        }
        Ok(seconds.split_off(warm_up))
    }

    fn save(&mut self) -> Result<()> {
        let saved = self.method.save()?;
        self.state.method = saved.values;
        let mut tensors = BTreeMap::new();
        for (name, tensor) in &saved.tensors {
            tensors.insert(tensor_name(METHOD, name), tensor.clone());
        }
        for (name, tensor) in self.network.state()? {
            tensors.insert(tensor_name(NETWORK, &name), tensor);
        }
        tensors.extend(self.optimizer.state(&self.network)?);
        for (name, tensor) in &self.chosen {
            tensors.insert(tensor_name(CHOSEN, name), tensor.clone());
        }
        tensors.extend(view_tensors(&self.views)?);
        Checkpoint::save(&self.folder.join(CHECKPOINT), self.state.clone(), &tensors)
    }

    fn diverged(&self, what: &str, loss: f64, epoch: usize, place: Place) -> Error {
        let kept = if self.folder.join(CHECKPOINT).exists() {
            format!("the checkpoint in {} is kept", self.folder.path().display())
        } else {
            "there is no checkpoint yet".to_owned()
        };
        Error::Diverged {
            what: what.to_owned(),
            loss,
            epoch: epoch + 1,
            place,
            kept,
        }
    }
}
