//! The start of a run, or of another sitting.

use std::collections::BTreeMap;

use candle_core::Device;
use dcff_compact::Preprocessing;
use dcff_criteria::Criterion;
use dcff_data::{Augmentation, Loader, LoaderOptions};
use dcff_models::{Architecture, Network, Views};
use dcff_nn::{Convolution, RepeatedStep};
use dcff_run::{CHECKPOINT, RunConfig, RunFolder, StageCost};

use super::Trainer;
use crate::checkpoint::{CHOSEN, Checkpoint, NETWORK, OpenEpoch, Position, State};
use crate::collect::Probe;
use crate::costs::macs;
use crate::data::{Data, augmentation};
use crate::dense::{self, DenseStage};
use crate::distillation::Teacher;
use crate::entry::Context;
use crate::error::{Error, Result};
use crate::evaluate::Tally;
use crate::method::{Method, Plan, Setup};
use crate::methods;
use crate::on_gpu::on_device;
use crate::optimizer::Optimizer;
use crate::recipe::{configure, stored};
use crate::seed::{Purpose, derive_seed};
use crate::stage::DENSE;

/// What a [`Trainer`] is made of.
pub struct Builder<'a> {
    folder: RunFolder,
    config: RunConfig,
    full: &'a Architecture,
    data: &'a Data,
    device: &'a Device,
    method: Option<Box<dyn Method>>,
    criterion: Option<&'static dyn Criterion>,
}

impl Trainer {
    /// A trainer of the network `full` on `data`, tied to `folder`, by the method that `config` names.
    pub fn builder<'a>(
        folder: RunFolder,
        config: RunConfig,
        full: &'a Architecture,
        data: &'a Data,
        device: &'a Device,
    ) -> Builder<'a> {
        Builder {
            folder,
            config,
            full,
            data,
            device,
            method: None,
            criterion: None,
        }
    }
}

impl Builder<'_> {
    /// Trains by `method`, whatever `config.method` names: what stands there is the record of its settings.
    #[must_use]
    pub fn method(mut self, method: Box<dyn Method>) -> Self {
        self.method = Some(method);
        self
    }

    /// Scores filters by `criterion`, where `config.method` names it as its criterion.
    #[must_use]
    pub fn criterion(mut self, criterion: &'static dyn Criterion) -> Self {
        self.criterion = Some(criterion);
        self
    }

    /// Prepares the run, continuing from its checkpoint where there is one.
    ///
    /// # Errors
    /// When the configuration does not fit the architecture or the data, the checkpoint is damaged or lost, or another
    /// program trains in the folder.
    pub fn build(self) -> Result<Trainer> {
        let Self {
            folder,
            config,
            full,
            data,
            device,
            method,
            criterion,
        } = self;
        config.validate()?;
        data.check(&config, full)?;
        let lock = folder.lock()?;
        configure(&config.recipe, device)?;
        let seed = derive_seed(config.seed, Purpose::Method, 0);
        let mut method = match method {
            Some(method) => method,
            None => methods::build(&config.method, &Context { seed, criterion })?,
        };
        methods::can_be_taught(&*method, &config)?;
        let plan = method.plan(full, &config.recipe)?;
        let checkpoint = Checkpoint::load(&folder.join(CHECKPOINT), &config)?;

        dcff_file::sweep(folder.path())?;

        let (kept, held_out) = data.held_out(&config)?;
        let options = |augmentation: Augmentation, drop_last: bool| LoaderOptions {
            batch_size: config.recipe.batch_size,
            augmentation,
            normalisation: data.normalisation.clone(),
            drop_last,
        };
        let augmentation = augmentation(config.data.augment, data.augmentation);
        let probe = match method.evidence_images() {
            0 => None,
            images => Some(Probe::new(
                data.train.clone(),
                kept.clone(),
                images,
                config.recipe.batch_size,
                data.normalisation.clone(),
                config.seed,
            )?),
        };
        let train = Loader::over(data.train.clone(), kept, options(augmentation, false))?;
        let validation = match held_out.is_empty() {
            true => None,
            false => Some(Loader::over(
                data.train.clone(),
                held_out,
                options(Augmentation::NONE, false),
            )?),
        };
        let (train, validation) = on_device(train, validation, device)?;
        let test = Loader::new(data.test.clone(), options(Augmentation::NONE, false))?;
        let (test, _) = on_device(test, None, device)?;

        let fit = data.test.fit();
        let preprocessing = Preprocessing {
            input_size: full.input,
            mean: data.normalisation.mean.clone(),
            std: data.normalisation.std.clone(),
            interpolation: fit.interpolation,
            crop_pct: fit.crop_pct,
            num_classes: data.train.classes().len(),
            label_names: data.train.classes().to_vec(),
        };
        let mut views = Views::dense();
        let mut chosen = BTreeMap::new();
        let setup = |network| Setup {
            full,
            network,
            recipe: &config.recipe,
            seed,
        };
        let weights_seed = derive_seed(config.seed, Purpose::Weights, 0);
        let (state, mut network, optimizer) = match checkpoint {
            Some(mut checkpoint) => {
                checkpoint.check_steps(&folder.join(CHECKPOINT), train.batches())?;
                if checkpoint.state.widths.is_empty() {
                    checkpoint.state.widths.clone_from(&plan.first_widths);
                }
                let state = &checkpoint.state;
                let mut network = state.network(plan.filters, full, weights_seed, device)?;
                network.load(&checkpoint.section(NETWORK))?;
                method.setup(&setup(&network))?;
                method.load(&checkpoint.saved())?;
                // What was saved is of the stage of the last step; the next epoch may begin another.
                let last = match checkpoint.state.position {
                    Position { epoch, step: 0 } => epoch.saturating_sub(1),
                    Position { epoch, .. } => epoch,
                };
                let mut optimizer = optimizer(&*method, &network, &plan, last)?;
                optimizer.load(&network, |name| checkpoint.tensor(name))?;
                views = checkpoint.views(device)?;
                chosen = checkpoint.section(CHOSEN).into_iter().collect();
                (checkpoint.state, network, optimizer)
            }
            None => {
                let mut state = State {
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
                    widths: plan.first_widths.clone(),
                    stages: Vec::new(),
                    tensors_sha256: String::new(),
                    layout: 0,
                    untold: 0,
                };
                let mut network = state.network(plan.filters, full, weights_seed, device)?;
                method.setup(&setup(&network))?;
                if let Some(from) = &plan.dense_from {
                    let stage = plan.stages.iter().find(|stage| stage.name == DENSE);
                    let wanted = DenseStage::of(&config, stage)?;
                    let images = train.images() as u64;
                    let dense = dense::load(from, &wanted, &network)?;
                    network.load(&dense.tensors)?;
                    state.position.epoch = wanted.recipe.epochs;
                    state.untold = match dense.metrics_known {
                        true => 0,
                        false => wanted.recipe.epochs,
                    };
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
                let optimizer = optimizer(&*method, &network, &plan, state.position.epoch)?;
                (state, network, optimizer)
            }
        };
        network.set_precision(stored(config.recipe.precision));
        network.set_convolution(match config.recipe.direct_convolution {
            true => Convolution::Direct,
            false => Convolution::Fast,
        });
        let teacher = match &config.distil {
            Some(distil) => Some(Teacher::new(distil, full, data.train.classes(), &network)?),
            None => None,
        };
        Ok(Trainer {
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
            plan,
            views,
            state,
            chosen,
            repeated: RepeatedStep::default(),
            teacher,
        })
    }
}

/// The optimiser of `network` and the method's own variables before its first step in `epoch`.
pub(super) fn optimizer(
    method: &dyn Method,
    network: &Network,
    plan: &Plan,
    epoch: usize,
) -> Result<Optimizer> {
    let stages = plan.stages.iter();
    // A finished run is in none; its optimiser makes no step.
    let stage = stages
        .rev()
        .find(|stage| stage.epochs.start <= epoch)
        .ok_or_else(|| Error::setting("recipe.epochs", "the method has no stages"))?;
    let own = method.variables();
    let named: Vec<_> = own.iter().map(|(name, var)| (name.as_str(), var)).collect();
    let groups = method.groups(network.parameters(), stage);
    Optimizer::new(network, &named, groups)
}
