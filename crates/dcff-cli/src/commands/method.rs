//! From flags to the method of a run: pipeline, criterion, rates or a budget.

use anyhow::{Context, bail, ensure};
use dcff_flops::{Budget, BudgetError, Measure};
use dcff_fusion::Rates;
use dcff_models::Architecture;
use dcff_train::methods::{FilterFusionConfig, PruneConfig};
use dcff_train::{DenseFrom, MethodConfig, Recipe};

use super::train::set;
use crate::args::{Allocation, BudgetArgs, MethodArgs};

/// Trained compact from the first step.
const SCRATCH: &str = "scratch";
/// Trained dense, pruned, fine-tuned.
const PRUNE: &str = "prune";
/// What classical pruning scores by unless told otherwise.
const PRUNE_CRITERION: &str = "l1-norm";

/// The epochs of the run that the flags of its stages add up to, or `epochs`.
pub(crate) fn epochs(args: &MethodArgs, epochs: Option<usize>) -> anyhow::Result<Option<usize>> {
    let (Some(dense), Some(finetune)) = (args.dense_epochs, args.finetune_epochs) else {
        return Ok(epochs);
    };
    let sum = dense + finetune;
    if let Some(epochs) = epochs {
        ensure!(
            epochs == sum,
            "--epochs: expected {sum}, --dense-epochs and --finetune-epochs together, got {epochs}"
        );
    }
    Ok(Some(sum))
}

/// The method that the flags ask for; what they leave out is as `saved`, or the default.
pub(crate) fn method(
    args: &MethodArgs,
    full: &Architecture,
    recipe: &Recipe,
    saved: Option<&MethodConfig>,
) -> anyhow::Result<MethodConfig> {
    let given = args.flags();
    let pipeline = match (args.pipeline.as_deref(), saved) {
        (Some(SCRATCH), _) | (None, Some(MethodConfig::Dcff(_)) | None) => SCRATCH,
        (Some(PRUNE), _) | (None, Some(MethodConfig::Prune(_))) => PRUNE,
        (None, Some(MethodConfig::Dense)) => SCRATCH,
        (Some(other), _) => bail!("--pipeline: expected {SCRATCH} or {PRUNE}, got '{other}'"),
    };
    match (args.method.as_deref(), saved) {
        (Some("dense"), _) => {
            if let Some(flag) = given.first() {
                bail!("{flag} belongs to --method dcff, got --method dense");
            }
            return Ok(MethodConfig::Dense);
        }
        (None, Some(MethodConfig::Dense)) if given.is_empty() => return Ok(MethodConfig::Dense),
        (Some("dcff") | None, _) => {}
        (Some(other), _) => bail!("--method: expected dcff or dense, got '{other}'"),
    }
    if pipeline == PRUNE {
        return prune(args, full, recipe, saved).map(MethodConfig::Prune);
    }
    let foreign = args.prune_flags();
    if let Some(flag) = foreign.first() {
        bail!("{flag} belongs to --pipeline {PRUNE}");
    }
    ensure!(
        args.budget.allocation != Some(Allocation::Global),
        "--allocation global needs the scores of a trained network: expected --pipeline {PRUNE}"
    );
    let mut config = match saved {
        Some(MethodConfig::Dcff(saved)) => saved.clone(),
        Some(MethodConfig::Prune(saved)) => FilterFusionConfig {
            criterion: saved.criterion.clone(),
            temperature: saved.temperature,
            evidence_images: saved.evidence_images,
            ..FilterFusionConfig::new(saved.rates.clone())
        },
        _ => FilterFusionConfig::new(rates(args, full)?.map_or_else(|| published(full), Ok)?),
    };
    set(&mut config.rates, rates(args, full)?);
    set(&mut config.criterion, criterion(args)?);
    set(&mut config.keep, parsed(&args.keep, "--keep")?);
    set(
        &mut config.temperature,
        parsed(&args.temperature, "--temperature")?,
    );
    set(&mut config.reselect, parsed(&args.reselect, "--reselect")?);
    set(&mut config.evidence_images, args.evidence_images);
    Ok(MethodConfig::Dcff(config))
}

/// A method saved with the recipe `from` for a run under `to`: what followed from epochs and rate follows from the new
/// ones, what was chosen keeps its share of them.
pub(crate) fn in_proportion(saved: &MethodConfig, from: &Recipe, to: &Recipe) -> MethodConfig {
    let mut method = saved.clone();
    if let MethodConfig::Prune(prune) = &mut method {
        if from.epochs != to.epochs {
            let share = prune.dense_epochs * to.epochs / from.epochs.max(1);
            prune.dense_epochs = match prune.dense_epochs == from.epochs / 2 {
                true => to.epochs / 2,
                false => share.clamp(1, to.epochs.saturating_sub(1).max(1)),
            };
        }
        let usual = |recipe: &Recipe| PruneConfig::FINETUNE_SHARE * recipe.learning_rate;
        if prune.finetune_learning_rate == usual(from) {
            prune.finetune_learning_rate = usual(to);
        } else if from.learning_rate > 0.0 && from.learning_rate != to.learning_rate {
            prune.finetune_learning_rate *= to.learning_rate / from.learning_rate;
        }
    }
    method
}

fn prune(
    args: &MethodArgs,
    full: &Architecture,
    recipe: &Recipe,
    saved: Option<&MethodConfig>,
) -> anyhow::Result<PruneConfig> {
    if args.reselect.is_some() {
        bail!("--reselect belongs to --pipeline {SCRATCH}");
    }
    let mut config = match saved {
        Some(MethodConfig::Prune(saved)) => saved.clone(),
        Some(MethodConfig::Dcff(saved)) => PruneConfig {
            temperature: saved.temperature,
            evidence_images: saved.evidence_images,
            ..PruneConfig::new(&saved.criterion, saved.rates.clone(), recipe)?
        },
        _ => {
            let rates = rates(args, full)?.map_or_else(|| published(full), Ok)?;
            PruneConfig::new(PRUNE_CRITERION, rates, recipe)?
        }
    };
    if let Some(rates) = rates(args, full)? {
        config.rates = rates;
        config.budget = None;
    }
    if let Some(name) = criterion(args)? {
        config.scale_penalty = dcff_criteria::by_name(&name)?.scale_penalty();
        config.criterion = name;
    }
    set(&mut config.keep, parsed(&args.keep, "--keep")?);
    set(
        &mut config.temperature,
        parsed(&args.temperature, "--temperature")?,
    );
    set(&mut config.evidence_images, args.evidence_images);
    set(&mut config.scale_penalty, args.scale_penalty);
    set(&mut config.steps, args.prune_steps);
    set(&mut config.finetune_learning_rate, args.finetune_lr);
    match (args.dense_epochs, args.finetune_epochs) {
        (Some(dense), _) => config.dense_epochs = dense,
        (None, Some(finetune)) => {
            ensure!(
                finetune < recipe.epochs,
                "--finetune-epochs: expected fewer than the {} epochs of the run, got {finetune}",
                recipe.epochs
            );
            config.dense_epochs = recipe.epochs - finetune;
        }
        (None, None) => {}
    }
    if let Some(run) = &args.dense_from {
        config.dense_from = Some(DenseFrom::of(run).context("--dense-from")?);
    }
    if args.budget.allocation == Some(Allocation::Global) {
        config.budget = args.budget.budget()?.map(|(_, budget)| budget);
    }
    Ok(config)
}

fn parsed<T: std::str::FromStr>(
    text: &Option<String>,
    flag: &'static str,
) -> anyhow::Result<Option<T>>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    text.as_deref().map(str::parse).transpose().context(flag)
}

fn criterion(args: &MethodArgs) -> anyhow::Result<Option<String>> {
    let Some(name) = &args.criterion else {
        return Ok(None);
    };
    let found = dcff_criteria::by_name(name).context("--criterion")?;
    Ok(Some(found.name().to_owned()))
}

fn published(full: &Architecture) -> anyhow::Result<Rates> {
    dcff_fusion::rates_for("published", &full.name).context("--rates")
}

/// The rates that the flags ask for, if they do.
fn rates(args: &MethodArgs, full: &Architecture) -> anyhow::Result<Option<Rates>> {
    rates_of(args.rates.as_deref(), &args.budget, full)
}

/// Rates from `--rates` or from a budget, rounded where that is asked for.
pub(crate) fn rates_of(
    text: Option<&str>,
    budget: &BudgetArgs,
    full: &Architecture,
) -> anyhow::Result<Option<Rates>> {
    let widths = full.widths();
    if let Some((flag, found)) = budget.budget()? {
        ensure!(
            text.is_none(),
            "--rates: expected either rates or a target, got both"
        );
        let kept = found.uniform(full).context(flag)?;
        return Ok(Some(Rates::keeping(&kept, &widths)?));
    }
    budget.refuse_without_target(text.is_some())?;
    let Some(text) = text else {
        return Ok(None);
    };
    let rates = dcff_fusion::rates_for(text, &full.name).context("--rates")?;
    let (Some(step), Some(slots)) = (budget.round_to, rates.for_slots(widths.len())) else {
        return Ok(Some(rates));
    };
    let rounded: Vec<usize> = slots
        .iter()
        .zip(&widths)
        .map(|(rate, &width)| (rate.kept(width) / step * step).max(step).min(width))
        .collect();
    Ok(Some(Rates::keeping(&rounded, &widths)?))
}

impl BudgetArgs {
    /// The budget, if a target is given, and the target's flag.
    fn budget(&self) -> anyhow::Result<Option<(&'static str, Budget)>> {
        let (measure, target, flag) = match (&self.target_macs, &self.target_params) {
            (Some(target), _) => (Measure::Macs, target, "--target-macs"),
            (None, Some(target)) => (Measure::Params, target, "--target-params"),
            (None, None) => return Ok(None),
        };
        let mut budget = Budget::new(measure, target.parse().context(flag)?);
        set(&mut budget.min_keep, self.min_keep);
        set(&mut budget.round_to, self.round_to);
        match budget.validate() {
            // The flags are the fields' names.
            Err(BudgetError::Setting { field, message }) => {
                bail!("--{}: {message}", field.replace('_', "-"))
            }
            other => other?,
        }
        Ok(Some((flag, budget)))
    }

    /// Refuses flags that mean nothing without a target, and with `rates` or without.
    fn refuse_without_target(&self, rates: bool) -> anyhow::Result<()> {
        let beside = if rates { ", got --rates" } else { "" };
        let given = named([
            ("--min-keep", self.min_keep.is_some()),
            ("--allocation", self.allocation.is_some()),
        ]);
        if let Some(flag) = given.first() {
            bail!("{flag}: expected --target-macs or --target-params beside it{beside}");
        }
        ensure!(
            rates || self.round_to.is_none(),
            "--round-to: expected --rates, --target-macs or --target-params beside it"
        );
        ensure!(
            self.round_to != Some(0),
            "--round-to: expected at least 1, got 0"
        );
        Ok(())
    }
}

impl MethodArgs {
    /// The flags given that a dense run has no use for.
    fn flags(&self) -> Vec<&'static str> {
        let mut flags = named([
            ("--rates", self.rates.is_some()),
            ("--criterion", self.criterion.is_some()),
            ("--keep", self.keep.is_some()),
            ("--temperature", self.temperature.is_some()),
            ("--reselect", self.reselect.is_some()),
            ("--evidence-images", self.evidence_images.is_some()),
            ("--target-macs", self.budget.target_macs.is_some()),
            ("--target-params", self.budget.target_params.is_some()),
            ("--min-keep", self.budget.min_keep.is_some()),
            ("--round-to", self.budget.round_to.is_some()),
            ("--allocation", self.budget.allocation.is_some()),
            ("--pipeline", self.pipeline.is_some()),
        ]);
        flags.extend(self.prune_flags());
        flags
    }

    /// The flags given that only the pipeline `prune` has a use for.
    fn prune_flags(&self) -> Vec<&'static str> {
        named([
            ("--dense-epochs", self.dense_epochs.is_some()),
            ("--finetune-epochs", self.finetune_epochs.is_some()),
            ("--finetune-lr", self.finetune_lr.is_some()),
            ("--prune-steps", self.prune_steps.is_some()),
            ("--scale-penalty", self.scale_penalty.is_some()),
            ("--dense-from", self.dense_from.is_some()),
        ])
    }
}

fn named<const N: usize>(flags: [(&'static str, bool); N]) -> Vec<&'static str> {
    let given = flags.into_iter().filter(|(_, given)| *given);
    given.map(|(flag, _)| flag).collect()
}
