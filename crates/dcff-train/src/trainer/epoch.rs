//! An epoch: the method decides, batches are trained on, the network is evaluated.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use candle_core::Tensor;
use dcff_compact::Artefact;
use dcff_data::Batch;
use dcff_models::{Network, Views};
use dcff_nn::LossValue;
use dcff_run::{Metrics, Outcome, SELECTION, SelectionRow, StageCost, Timing, selection};

use super::{Trainer, setup};
use crate::checkpoint::{Best, OpenEpoch, Position};
use crate::clock::Clock;
use crate::costs::macs;
use crate::dense::DenseStage;
use crate::distillation::Teacher;
use crate::error::{Error, Place, Result};
use crate::evaluate::{Tally, evaluate};
use crate::event::{Event, Observer};
use crate::seed::{Purpose, derive_seed};
use crate::stage::{DENSE, Stage};
use crate::step::{Progress, Step};
use crate::tensorboard::EventFile;

/// What is not finite when a run diverges.
const LOSS: &str = "the loss";

/// Steps launched on a GPU before their losses are read: reading waits for all of them, and the GPU then waits for
/// the next launch.
const STEPS_AHEAD: usize = 16;

impl Trainer {
    /// Starts the current epoch: takes over what the method decides.
    fn start_epoch(&mut self, stage: &Stage) -> Result<()> {
        let epoch = self.state.position.epoch;
        let start = self.ask()?;
        self.state.diagnostics = start.diagnostics;
        // What a GPU recorded stays good while all convolutions use the filters that they used.
        if start.network.is_some() || !self.views.selects_as(&start.views)? {
            self.repeated.reset();
            self.views = start.views;
        }
        self.state.tally = Tally::default();
        if let Some(network) = start.network {
            self.optimizer = setup::optimizer(&*self.method, &network, &self.plan, epoch)?;
            self.state.widths = network.compact().widths();
            self.network = network;
        }
        if !start.selection.is_empty() {
            let row = SelectionRow {
                epoch: self.state.position.epoch + 1,
                layers: start.selection,
            };
            selection::append(&self.folder.join(SELECTION), &row)?;
        }
        self.stage_cost(stage).scoring_macs += start.scoring_macs;
        Ok(())
    }

    /// The row of `stage` in the table of costs.
    fn stage_cost(&mut self, stage: &Stage) -> &mut StageCost {
        let rows = &mut self.state.stages;
        let found = rows.iter().position(|row| row.stage == stage.name);
        let row = found.unwrap_or_else(|| {
            rows.push(StageCost {
                stage: stage.name.to_owned(),
                ..StageCost::default()
            });
            rows.len() - 1
        });
        &mut rows[row]
    }

    /// The method's passes over one batch, on the network's device, and the optimizer's step.
    pub(super) fn step(&mut self, batch: &Batch, rate: f64, at: Progress) -> Result<LossValue> {
        let device = self.network.device().clone();
        let images = batch.images.to_device(&device)?;
        let smoothing = self.config.recipe.label_smoothing;
        let seed = derive_seed(self.config.seed, Purpose::Method, 0);
        let batches = self.network.batches_tracked();
        let rates = self.optimizer.begin(rate);
        let variables = self.method.variables();
        let Self {
            repeated,
            method,
            network,
            views,
            optimizer,
            teacher,
            ..
        } = self;
        // What a teacher tells is read on the processor.
        let repeats = method.repeats() && teacher.is_none();
        let mut step = |images: &Tensor, labels: &Tensor| {
            let step = Step::new(network, views, (images, labels), smoothing, at, seed);
            let mut step = step.taught_by(teacher.as_ref());
            let loss = method.step(&mut step)?;
            let gradients = step.into_gradients();
            let own: Vec<_> = variables
                .iter()
                .map(|(name, _)| gradients.own.get(name).cloned())
                .collect();
            optimizer.apply(network, &gradients.network, &own)?;
            Ok(loss)
        };
        let loss = dcff_nn::awake(&device, || match repeats {
            true => repeated
                .run(&images, &batch.labels, &rates, step)
                .map(|(loss, _)| loss),
            false => step(&images, &batch.labels.to_device(&device)?),
        })
        .map_err(|error| match device.is_cpu() {
            true => error,
            false => Error::Gpu {
                images: batch.labels.elem_count(),
                precision: self.config.recipe.precision,
                device: dcff_nn::device_name(&device).unwrap_or_default(),
                error: Box::new(error),
            },
        })?;
        // However often the step was called.
        self.network.set_batches_tracked(batches + 1);
        Ok(loss)
    }

    /// Counts a step of the current epoch that is done, and tells `observer`.
    fn stepped(
        &mut self,
        step: usize,
        loss: &LossValue,
        images: usize,
        observer: &mut dyn Observer,
        clock: &mut Clock,
    ) -> Result<()> {
        let epoch = self.state.position.epoch;
        let loss = loss.read()?;
        if !loss.mean.is_finite() {
            return Err(self.diverged(LOSS, loss.mean, epoch, Place::Step(step + 1)));
        }
        self.state.tally.add(loss, images);
        self.state.position.step = step + 1;
        let score = self.state.tally.score();
        let epochs = self.config.recipe.epochs - epoch;
        observer.event(&Event::Step {
            epoch,
            step: step + 1,
            images,
            loss: score.loss,
            accuracy: score.accuracy,
            images_per_second: clock.images_per_second(),
            seconds_left: clock.seconds_left(
                epochs * self.train.images(),
                self.state.tally.images,
                epochs,
            ),
        });
        Ok(())
    }

    /// Trains the rest of the current epoch; `false` when it was asked to stop.
    pub(super) fn epoch(
        &mut self,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
        clock: &mut Clock,
    ) -> Result<bool> {
        let Position { epoch, step: first } = self.state.position;
        let (epochs, steps) = (self.config.recipe.epochs, self.train.batches());
        let stage = self.stage(epoch)?;
        let stage_ends = epoch + 1 == stage.epochs.end;
        let method_start = Instant::now();
        if first == 0 {
            self.start_epoch(&stage)?;
        }
        self.state.open.method_seconds += method_start.elapsed().as_secs_f64();
        let groups = self.method.groups(self.network.parameters(), &stage);
        if self.optimizer.regroup(&self.network, groups)? {
            self.repeated.reset();
        }
        let mut train_start = Instant::now();
        let order = derive_seed(self.config.seed, Purpose::Order, epoch as u64);
        let augment = derive_seed(self.config.seed, Purpose::Augmentation, epoch as u64);
        let mut learning_rate = 0.0;
        let mut unread = Vec::with_capacity(STEPS_AHEAD);
        for (step, batch) in self.train.epoch(Some(order), augment).enumerate() {
            let batch = batch?;
            if step < first {
                // Making batches anew that were trained on before is not training.
                train_start = Instant::now();
                continue;
            }
            learning_rate = stage.recipe.rate(epoch - stage.schedule_from, step, steps);
            let at = Progress {
                epoch,
                epochs,
                step,
                steps,
            };
            let loss = match self.step(&batch, learning_rate, at) {
                Err(Error::Term { term, value }) => {
                    let what = format!("{LOSS}'s term {term}");
                    return Err(self.diverged(&what, value, epoch, Place::Step(step + 1)));
                }
                other => other?,
            };
            // Only between two steps of an epoch: its start and its end are never half done.
            let may_stop = step + 1 < steps;
            let wait = may_stop && !loss.is_known() && !stop.load(Ordering::Relaxed);
            unread.push((step, loss, batch.labels.elem_count()));
            if wait && unread.len() < STEPS_AHEAD {
                continue;
            }
            // A GPU is done with all of them when the first can be read.
            clock.trained(unread.iter().map(|(_, _, count)| count).sum());
            for (step, loss, count) in unread.drain(..) {
                self.stepped(step, &loss, count, observer, clock)?;
            }
            if may_stop && stop.load(Ordering::Relaxed) {
                self.state.open.train_seconds += train_start.elapsed().as_secs_f64();
                return Ok(false);
            }
        }
        self.repeated.make_room();
        let OpenEpoch {
            method_seconds,
            train_seconds,
        } = std::mem::take(&mut self.state.open);
        let train_seconds = train_seconds + train_start.elapsed().as_secs_f64();
        let end = self.method.epoch_end()?;
        self.state.diagnostics.extend(end.diagnostics);
        self.stage_cost(&stage).scoring_macs += end.macs;
        let evaluation_start = Instant::now();
        let views = &self.evaluation_views()?;
        let recalibrated = self.recalibrated()?;
        let (network, views) = match &recalibrated {
            Some(plain) => (plain, &Views::dense()),
            None => (&self.network, views),
        };
        let mut metrics = Metrics {
            epoch: epoch + 1,
            stage: (self.plan.stages.len() > 1).then(|| stage.name.to_owned()),
            learning_rate,
            train: self.state.tally.score(),
            validation: self
                .validation
                .as_ref()
                .map(|loader| evaluate(network, views, loader))
                .transpose()?,
            test: None,
            method: self.state.diagnostics.clone(),
        };
        if self.config.recipe.select_on_test || stage_ends {
            let test = evaluate(network, views, &self.test)?;
            self.state.last = Some(Outcome {
                epoch: epoch + 1,
                test,
                validation: metrics.validation,
            });
            metrics.test = Some(test);
        }
        for (what, score) in [("validation", metrics.validation), ("test", metrics.test)] {
            if let Some(score) = score.filter(|score| !score.loss.is_finite()) {
                return Err(self.diverged(LOSS, score.loss, epoch, Place::Images(what)));
            }
        }
        let best = stage.compact && self.choose(&metrics, recalibrated)?;
        let evaluation_seconds = evaluation_start.elapsed().as_secs_f64();
        clock.evaluated(evaluation_seconds + method_seconds);
        let timing = Timing {
            epoch: epoch + 1,
            images_per_second: self.state.tally.images as f64 / train_seconds.max(1e-9),
            method_seconds,
            train_seconds,
            evaluation_seconds,
        };
        self.state.position = Position {
            epoch: epoch + 1,
            step: 0,
        };
        self.state.seconds = clock.seconds();
        let told = self.teacher.as_ref().map_or(0, Teacher::macs);
        let spent = (3 * macs(self.network.compact())? + told) * self.train.images() as u64;
        let cost = self.stage_cost(&stage);
        cost.epochs += 1;
        cost.training_macs += spent;
        cost.seconds += method_seconds + train_seconds + evaluation_seconds;
        if stage_ends && stage.name == DENSE {
            self.write_dense(&stage)?;
        }
        self.state.metrics.push(metrics.clone());
        self.state.timing.push(timing.clone());
        self.save()?;
        self.folder
            .write_tables(&self.state.metrics, &self.state.timing)?;
        EventFile::of(&self.folder).append(&metrics, &timing)?;
        observer.event(&Event::Epoch {
            metrics: &metrics,
            timing: &timing,
            epochs,
            best,
        });
        Ok(true)
    }

    /// Writes the network at the end of its dense stage, for other runs to start from.
    fn write_dense(&self, stage: &Stage) -> Result<()> {
        let stage = DenseStage::of(&self.config, Some(stage))?;
        let artefact = Artefact::new(
            &self.network,
            &self.views,
            self.state.preprocessing.clone(),
            stage.provenance()?,
        )?;
        Ok(artefact.save(&self.folder.join(DENSE))?)
    }

    /// Remembers the compact weights when this epoch is the best so far; a tie goes to the earlier epoch.
    fn choose(&mut self, metrics: &Metrics, recalibrated: Option<Network>) -> Result<bool> {
        let by = if self.config.recipe.select_on_test {
            metrics.test
        } else {
            metrics.validation
        };
        let better = match (by, &self.state.best) {
            (Some(score), Some(best)) => score.accuracy > best.accuracy,
            (Some(_), None) => true,
            // Nothing to choose by: the last epoch is the chosen one.
            (None, _) => metrics.epoch == self.config.recipe.epochs,
        };
        if better {
            let accuracy = by.map_or(0.0, |score| score.accuracy);
            self.state.best = Some(Best {
                epoch: metrics.epoch,
                accuracy,
                validation: metrics.validation,
            });
            let plain = match recalibrated {
                Some(plain) => plain,
                None => self.network.collapse(&self.evaluation_views()?)?,
            };
            self.chosen = plain.state()?;
        }
        Ok(better)
    }
}
