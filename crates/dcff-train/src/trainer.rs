//! The loop.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use candle_core::{Device, Tensor};
use dcff_compact::{Artefact, Preprocessing};
use dcff_data::{Augmentation, Batch, Dataset, Loader, LoaderOptions, Normalisation, Splits};
use dcff_models::{Architecture, Network, Views};
use dcff_nn::{Convolution, LossValue, RepeatedStep, SgdConfig};

use crate::checkpoint::{
    Best, CHECKPOINT, CHOSEN, Checkpoint, NETWORK, OpenEpoch, Position, State, VELOCITY,
    tensor_name, view_tensors,
};
use crate::collect::Probe;
use crate::dense::DenseStage;
use crate::evaluate::{Tally, evaluate};
use crate::on_card::on_device;
use crate::seed::{Purpose, derive_seed};
use crate::selection::{self, SELECTION, SelectionRow};
use crate::stage::{DENSE, Stage, StageCost};
use crate::summary::{Outcome, Summary, costs, macs};
use crate::tensorboard::EventFile;
use crate::{
    EpochStart, EpochViews, Error, Event, Method, Metrics, Observer, Place, Result, RunConfig,
    RunFolder, Sgd, Timing, forget_places,
};

/// The artefact's folder in a run folder.
pub const COMPACT: &str = "compact";

/// Steps launched on a card before their losses are read: reading waits for all of them, and the card then waits for
/// the next launch.
const STEPS_AHEAD: usize = 16;

/// What a run trains on: images and how they become the network's input.
#[derive(Clone, Debug)]
pub struct Data {
    /// Training and test images.
    pub splits: Splits,
    /// Mean and deviation of each channel.
    pub normalisation: Normalisation,
    /// What is done to training images when the configuration asks for augmentation.
    pub augmentation: Augmentation,
}

impl Data {
    /// Checks that these images are those of `config` and fit the network `full`.
    ///
    /// # Errors
    /// When their hashes, size or number of classes differ, or holding out leaves nothing to train on or to validate.
    pub fn check(&self, config: &RunConfig, full: &Architecture) -> Result<()> {
        let check = |field: &str, dataset: &Dataset, expected: &str| {
            if dataset.fingerprint() != expected {
                let message = format!(
                    "expected the images with SHA-256 {expected}, got {}: this is another copy of the data",
                    dataset.fingerprint()
                );
                return Err(Error::setting(field, message));
            }
            Ok(())
        };
        check(
            "data.train_fingerprint",
            &self.splits.train,
            &config.data.train_fingerprint,
        )?;
        check(
            "data.test_fingerprint",
            &self.splits.test,
            &config.data.test_fingerprint,
        )?;
        let shape = self.splits.train.shape();
        if shape != full.input {
            let message = format!(
                "{} expects images of {:?} (channels, height, width), got {shape:?}",
                config.arch, full.input
            );
            return Err(Error::setting("data.name", message));
        }
        let (logits, classes) = (full.shapes()?.classes(), self.splits.train.classes().len());
        if logits != classes {
            return Err(Error::setting(
                "data.name",
                format!("{} has {logits} classes, the data {classes}", config.arch),
            ));
        }
        self.held_out(config).map(|_| ())
    }

    /// The positions of training and validation images that `config` asks for, the latter none without a hold-out.
    fn held_out(&self, config: &RunConfig) -> Result<(Vec<usize>, Vec<usize>)> {
        let train = &self.splits.train;
        match config.data.hold_out {
            fraction if fraction > 0.0 => {
                let seed = derive_seed(config.seed, Purpose::HoldOut, 0);
                train
                    .hold_out_indices(fraction, seed)
                    .map_err(|error| Error::setting("data.hold_out", error.to_string()))
            }
            _ => Ok(((0..train.len()).collect(), Vec::new())),
        }
    }
}

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
    _lock: File,
    full: Architecture,
    network: Network,
    optimizer: Sgd,
    method: Box<dyn Method>,
    train: Loader,
    validation: Option<Loader>,
    test: Loader,
    probe: Option<Probe>,
    stages: Vec<Stage>,
    views: Views,
    state: State,
    /// The compact tensors of the best epoch so far.
    chosen: BTreeMap<String, Tensor>,
    repeated: RepeatedStep,
    /// What the steps before this one descended with.
    descent: Option<SgdConfig>,
}

impl Trainer {
    /// Prepares the run of `folder`, continuing from its checkpoint where there is one.
    ///
    /// # Errors
    /// When the configuration does not fit the architecture or the data, the checkpoint is damaged or lost, or another
    /// program trains in the folder.
    pub fn new(
        folder: RunFolder,
        config: RunConfig,
        full: &Architecture,
        data: &Data,
        device: &Device,
    ) -> Result<Self> {
        config.validate()?;
        data.check(&config, full)?;
        let lock = folder.lock()?;
        config.recipe.configure(device)?;
        let mut method = config
            .method
            .build(derive_seed(config.seed, Purpose::Method, 0))?;
        let first_widths = method.first_widths(full)?;
        let stages = method.stages(&config.recipe);
        let checkpoint = Checkpoint::load(&folder.join(CHECKPOINT), &config)?;

        dcff_compact::file::sweep(folder.path())?;

        let train_set = Arc::new(data.splits.train.clone());
        let (kept, held_out) = data.held_out(&config)?;
        let options = |augmentation: Augmentation, drop_last: bool| LoaderOptions {
            batch_size: config.recipe.batch_size,
            augmentation,
            normalisation: data.normalisation.clone(),
            drop_last,
        };
        let augmentation = config.data.augment.of(data.augmentation);
        let probe = match config.method.evidence_images() {
            0 => None,
            images => Some(Probe::new(
                train_set.clone(),
                kept.clone(),
                images,
                config.recipe.batch_size,
                data.normalisation.clone(),
                config.seed,
            )?),
        };
        let train = Loader::over(train_set.clone(), kept, options(augmentation, false))?;
        let validation = match held_out.is_empty() {
            true => None,
            false => Some(Loader::over(
                train_set,
                held_out,
                options(Augmentation::NONE, false),
            )?),
        };
        let (train, validation) = on_device(train, validation, device)?;
        let test = Loader::new(
            Arc::new(data.splits.test.clone()),
            options(Augmentation::NONE, false),
        )?;
        let (test, _) = on_device(test, None, device)?;

        let fit = data.splits.test.fit();
        let preprocessing = Preprocessing {
            input_size: full.input,
            mean: data.normalisation.mean.clone(),
            std: data.normalisation.std.clone(),
            interpolation: fit.interpolation,
            crop_pct: fit.crop_pct,
            num_classes: data.splits.train.classes().len(),
            label_names: data.splits.train.classes().to_vec(),
        };
        let mut views = Views::dense();
        let mut chosen = BTreeMap::new();
        let weights_seed = derive_seed(config.seed, Purpose::Weights, 0);
        let (state, mut network, optimizer) = match checkpoint {
            Some(checkpoint) => {
                let mut network = checkpoint
                    .state
                    .network(&*method, full, weights_seed, device)?;
                network.load(&checkpoint.section(NETWORK))?;
                let mut optimizer = Sgd::new(&network)?;
                let velocities = checkpoint.section(VELOCITY);
                optimizer.load(&network, |name| velocities.get(name).cloned())?;
                method.load(&checkpoint.state.method)?;
                views = checkpoint.views(device)?;
                chosen = checkpoint.section(CHOSEN).into_iter().collect();
                (checkpoint.state, network, optimizer)
            }
            None => {
                let state = State {
                    config: config.clone(),
                    position: Position::default(),
                    tally: Tally::default(),
                    method: serde_json::Value::Null,
                    diagnostics: BTreeMap::new(),
                    best: None,
                    metrics: Vec::new(),
                    timing: Vec::new(),
                    last: None,
                    seconds: 0.0,
                    open: OpenEpoch::default(),
                    preprocessing,
                    widths: Some(first_widths),
                    stages: Vec::new(),
                    tensors_sha256: String::new(),
                };
                let mut network = state.network(&*method, full, weights_seed, device)?;
                let mut state = state;
                if let Some(from) = config.method.dense_from() {
                    let stage = stages.iter().find(|stage| stage.name == DENSE);
                    let wanted = DenseStage::of(&config, stage)?;
                    let images = train.images() as u64;
                    let dense = from.load(&wanted, &network)?;
                    network.load(&dense.tensors)?;
                    state.position.epoch = wanted.recipe.epochs;
                    state.metrics = dense.metrics;
                    state.timing = dense.timing;
                    state.stages.push(StageCost {
                        stage: DENSE.to_owned(),
                        epochs: wanted.recipe.epochs,
                        // What weights from elsewhere cost is not known.
                        training_macs: match dense.metrics_known {
                            true => 3 * macs(full)? * images * wanted.recipe.epochs as u64,
                            false => 0,
                        },
                        scoring_macs: 0,
                        seconds: dense.seconds,
                        reused: true,
                    });
                }
                folder.check_rows(state.metrics.len())?;
                let optimizer = Sgd::new(&network)?;
                (state, network, optimizer)
            }
        };
        network.set_precision(config.recipe.precision);
        network.set_convolution(match config.recipe.direct_convolution {
            true => Convolution::Direct,
            false => Convolution::Fast,
        });
        Ok(Self {
            config,
            folder,
            _lock: lock,
            full: full.clone(),
            network,
            optimizer,
            method,
            train,
            validation,
            test,
            probe,
            stages,
            views,
            state,
            chosen,
            repeated: RepeatedStep::default(),
            descent: None,
        })
    }

    /// The stage of `epoch`.
    fn stage(&self, epoch: usize) -> Result<Stage> {
        let found = self.stages.iter().find(|s| s.epochs.contains(&epoch));
        found.cloned().ok_or_else(|| {
            let message = format!("epoch {} belongs to no stage of the method", epoch + 1);
            Error::setting("recipe.epochs", message)
        })
    }

    /// What the method says at the start of the current epoch.
    fn ask(&mut self) -> Result<EpochViews> {
        self.method.epoch_start(&EpochStart {
            epoch: self.state.position.epoch,
            epochs: self.config.recipe.epochs,
            full: &self.full,
            network: &self.network,
            views: &self.views,
            probe: self.probe.as_ref(),
        })
    }

    /// Starts the current epoch: takes over what the method decides.
    fn start_epoch(&mut self, stage: &Stage) -> Result<()> {
        let start = self.ask()?;
        self.state.diagnostics = start.diagnostics;
        // What a card recorded stays good while all convolutions use the filters that they used.
        if start.network.is_some() || !self.views.selects_as(&start.views)? {
            self.repeated.reset();
            self.views = start.views;
        }
        self.state.tally = Tally::default();
        if let Some(network) = start.network {
            self.optimizer = Sgd::new(&network)?;
            self.state.widths = Some(network.compact().widths());
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

    /// The network as it stands.
    pub fn network(&self) -> &Network {
        &self.network
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
        selection::rewind(&self.folder.join(SELECTION), self.state.position)?;
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
        let mut clock = Clock::new(&self.state);
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
        let mut step_seconds = Vec::new();
        // The first step warms caches and buffers up and is not counted.
        for batch in self.train.epoch(Some(0), 0).take(steps + 1) {
            let (batch, start) = (batch?, Instant::now());
            self.step(&batch, &recipe.sgd(0, 0, all))?;
            dcff_nn::synchronize(self.network.device())?;
            step_seconds.push(start.elapsed().as_secs_f64());
        }
        if step_seconds.len() > 1 {
            step_seconds.remove(0);
        }
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
        let compact = macs(&self.method.compact(&self.full)?)? as f64;
        let epochs: f64 = (first..recipe.epochs)
            .map(
                |epoch| match self.stages.iter().find(|s| s.epochs.contains(&epoch)) {
                    Some(stage) if stage.compact => compact / now,
                    _ => 1.0,
                },
            )
            .sum();
        Ok(epochs * (overhead + step * (all as f64 + evaluated as f64 / 3.0)))
    }

    /// The method's passes over one batch, on the network's device, and the optimizer's step.
    fn step(&mut self, batch: &Batch, sgd: &SgdConfig) -> Result<LossValue> {
        let device = self.network.device().clone();
        let images = batch.images.to_device(&device)?;
        let smoothing = self.config.recipe.label_smoothing;
        let batches = self.network.batches_tracked();
        // Of these only the rate may change between steps that are repeated.
        let descent = SgdConfig { lr: 0.0, ..*sgd };
        if self.descent != Some(descent) {
            self.repeated.reset();
            self.descent = Some(descent);
        }
        let Self {
            repeated,
            method,
            network,
            views,
            optimizer,
            ..
        } = self;
        let repeats = method.repeats();
        let mut step = |images: &Tensor, labels: &Tensor| {
            let output = method.step(network, views, images, labels, smoothing)?;
            optimizer.step(network, &output.gradients, sgd)?;
            Ok(output.loss)
        };
        let loss = dcff_nn::awake(&device, || match repeats {
            true => repeated
                .run(&images, &batch.labels, sgd.lr, step)
                .map(|(loss, _)| loss),
            false => step(&images, &batch.labels.to_device(&device)?),
        })
        .map_err(|error| match device.is_cpu() {
            true => error,
            false => Error::Card {
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
            return Err(self.diverged(loss.mean, epoch, Place::Step(step + 1)));
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
    fn epoch(
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
            let sgd = stage.recipe.sgd(epoch - stage.schedule_from, step, steps);
            learning_rate = sgd.lr;
            let loss = self.step(&batch, &sgd)?;
            // Only between two steps of an epoch: its start and its end are never half done.
            let may_stop = step + 1 < steps;
            let wait = may_stop && !loss.is_known() && !stop.load(Ordering::Relaxed);
            unread.push((step, loss, batch.labels.elem_count()));
            if wait && unread.len() < STEPS_AHEAD {
                continue;
            }
            // A card is done with all of them when the first can be read.
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
        let evaluation_start = Instant::now();
        let mut metrics = Metrics {
            epoch: epoch + 1,
            stage: (self.stages.len() > 1).then(|| stage.name.to_owned()),
            learning_rate,
            train: self.state.tally.score(),
            validation: self
                .validation
                .as_ref()
                .map(|loader| evaluate(&self.network, &self.views, loader))
                .transpose()?,
            test: None,
            method: self.state.diagnostics.clone(),
        };
        if self.config.recipe.select_on_test || stage_ends {
            let test = evaluate(&self.network, &self.views, &self.test)?;
            self.state.last = Some(Outcome {
                epoch: epoch + 1,
                test,
                validation: metrics.validation,
            });
            metrics.test = Some(test);
        }
        for (what, score) in [("validation", metrics.validation), ("test", metrics.test)] {
            if let Some(score) = score.filter(|score| !score.loss.is_finite()) {
                return Err(self.diverged(score.loss, epoch, Place::Images(what)));
            }
        }
        let best = stage.compact && self.choose(&metrics)?;
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
        let spent = 3 * macs(self.network.compact())? * self.train.images() as u64;
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
    fn choose(&mut self, metrics: &Metrics) -> Result<bool> {
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
            self.chosen = self.network.collapse(&self.views)?.state()?;
        }
        Ok(better)
    }

    /// Writes the artefact and the summary.
    fn finish(&mut self, clock: &Clock) -> Result<Summary> {
        let lost = |what: &str| {
            Error::file(
                &self.folder.join(CHECKPOINT),
                format!("damaged: {what} is missing"),
            )
        };
        let best = self
            .state
            .best
            .clone()
            .ok_or_else(|| lost("the chosen epoch"))?;
        let last = self
            .state
            .last
            .ok_or_else(|| lost("the last epoch's accuracy"))?;
        let compact = self.network.compact().clone();
        let full = self.full.clone();
        let mut plain = Network::new(&compact, &compact, 0, self.network.device())?;
        plain.set_convolution(self.network.convolution());
        plain.load(&self.chosen.clone().into_iter().collect())?;
        let test = if best.epoch == last.epoch {
            last.test
        } else {
            evaluate(&plain, &Views::dense(), &self.test)?
        };
        let chosen = Outcome {
            epoch: best.epoch,
            test,
            validation: best.validation,
        };
        let chosen_by = match (self.config.recipe.select_on_test, &self.validation) {
            (true, _) => "test",
            (false, Some(_)) => "validation",
            (false, None) => "last",
        };
        let (widths, macs, published_ops, params) = costs(&full, &compact)?;
        let mut rates: Vec<f64> = self
            .state
            .timing
            .iter()
            .map(|timing| timing.images_per_second)
            .collect();
        rates.sort_by(f64::total_cmp);
        let device = dcff_nn::device_name(self.network.device())?;
        let summary = Summary {
            config: self.config.clone(),
            last,
            chosen,
            chosen_by: chosen_by.into(),
            widths,
            macs,
            published_ops,
            params,
            training_macs: self
                .state
                .stages
                .iter()
                .map(|stage| stage.training_macs + stage.scoring_macs)
                .sum(),
            stages: self.state.stages.clone(),
            train_images: self.train.images(),
            seconds: clock.seconds(),
            images_per_second: rates.get(rates.len() / 2).copied().unwrap_or(0.0),
            device,
            threads: rayon::current_num_threads(),
            dcff_version: env!("CARGO_PKG_VERSION").into(),
        };
        let artefact = Artefact::new(
            &plain,
            &Views::dense(),
            self.state.preprocessing.clone(),
            provenance(&summary),
        )?;
        artefact.save(&self.folder.join(COMPACT))?;
        self.folder.write_summary(&summary)?;
        Ok(summary)
    }

    fn save(&mut self) -> Result<()> {
        self.state.method = self.method.save();
        let mut tensors = BTreeMap::new();
        for (name, tensor) in self.network.state()? {
            tensors.insert(tensor_name(NETWORK, &name), tensor);
        }
        for (name, tensor) in self.optimizer.state(&self.network) {
            tensors.insert(tensor_name(VELOCITY, name), tensor.clone());
        }
        for (name, tensor) in &self.chosen {
            tensors.insert(tensor_name(CHOSEN, name), tensor.clone());
        }
        tensors.extend(view_tensors(&self.views)?);
        Checkpoint::save(&self.folder.join(CHECKPOINT), self.state.clone(), &tensors)
    }

    fn diverged(&self, loss: f64, epoch: usize, place: Place) -> Error {
        let kept = if self.folder.join(CHECKPOINT).exists() {
            format!("the checkpoint in {} is kept", self.folder.path().display())
        } else {
            "there is no checkpoint yet".to_owned()
        };
        Error::Diverged {
            loss,
            epoch: epoch + 1,
            place,
            kept,
        }
    }
}

/// What the artefact says of its making: only what a rerun of the configuration repeats exactly.
fn provenance(summary: &Summary) -> BTreeMap<String, serde_json::Value> {
    let mut provenance = BTreeMap::new();
    let mut add = |key: &str, value: serde_json::Result<serde_json::Value>| {
        if let Ok(value) = value {
            provenance.insert(key.to_owned(), value);
        }
    };
    add("config", serde_json::to_value(&summary.config));
    add("chosen_by", serde_json::to_value(&summary.chosen_by));
    add("chosen", serde_json::to_value(summary.chosen));
    add("last", serde_json::to_value(summary.last));
    add("macs", serde_json::to_value(summary.macs));
    add("published_ops", serde_json::to_value(summary.published_ops));
    add("params", serde_json::to_value(summary.params));
    forget_places(&mut provenance);
    provenance
}

/// Time spent and expected.
struct Clock {
    start: Instant,
    /// Seconds of earlier sittings.
    before: f64,
    images: usize,
    /// Seconds outside training, per epoch of this sitting.
    overhead: Vec<f64>,
}

impl Clock {
    fn new(state: &State) -> Self {
        Self {
            start: Instant::now(),
            before: state.seconds,
            images: 0,
            overhead: Vec::new(),
        }
    }

    fn trained(&mut self, images: usize) {
        self.images += images;
    }

    fn evaluated(&mut self, seconds: f64) {
        self.overhead.push(seconds);
    }

    fn seconds(&self) -> f64 {
        self.before + self.start.elapsed().as_secs_f64()
    }

    fn training_seconds(&self) -> f64 {
        self.start.elapsed().as_secs_f64() - self.overhead.iter().sum::<f64>()
    }

    fn images_per_second(&self) -> f64 {
        self.images as f64 / self.training_seconds().max(1e-9)
    }

    /// Seconds for the rest: `images` from this epoch's start on, of which `done` are done, and `epochs` evaluations.
    fn seconds_left(&self, images: usize, done: usize, epochs: usize) -> f64 {
        let overhead = self.overhead.iter().sum::<f64>() / self.overhead.len().max(1) as f64;
        images.saturating_sub(done) as f64 / self.images_per_second().max(1e-9)
            + overhead * epochs as f64
    }
}
