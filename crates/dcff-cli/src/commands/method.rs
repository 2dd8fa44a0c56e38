//! From flags to the method of a run.

use std::collections::BTreeMap;

use anyhow::{Context, bail, ensure};
use dcff_models::Architecture;
use dcff_train::methods::{self, METHODS};
use dcff_train::{Given, MethodConfig, Recipe, Typed};
use serde_json::Value;

use crate::args::{BudgetArgs, MethodArgs};

/// The epochs of the run that the flags of its stages add up to, or `epochs`.
pub(crate) fn epochs(args: &MethodArgs, epochs: Option<usize>) -> anyhow::Result<Option<usize>> {
    let (dense, finetune) = (args.dense_epochs, args.finetune_epochs);
    let (parts, flags) = match (dense, args.search_epochs, finetune) {
        (Some(dense), Some(search), Some(finetune)) => (
            vec![dense, search, finetune],
            "--dense-epochs, --search-epochs and --finetune-epochs",
        ),
        // A teacher stands in for the dense stage.
        (None, Some(search), Some(finetune)) if args.teacher.is_some() => (
            vec![search, finetune],
            "--search-epochs and --finetune-epochs",
        ),
        (Some(dense), None, Some(finetune)) if !searches(args) => (
            vec![dense, finetune],
            "--dense-epochs and --finetune-epochs",
        ),
        _ => return Ok(epochs),
    };
    let sum = parts.iter().sum();
    if let Some(epochs) = epochs {
        ensure!(
            epochs == sum,
            "--epochs: expected {sum}, {flags} together, got {epochs}"
        );
    }
    Ok(Some(sum))
}

/// Whether the method that is named has a stage of search.
fn searches(args: &MethodArgs) -> bool {
    let named = args.method.as_deref().map(methods::by_name);
    matches!(named, Some(Ok(entry)) if entry.keys().contains(&"search_epochs"))
}

/// The method that the flags ask for; what they leave out is as `saved`, or the default.
pub(crate) fn method(
    args: &MethodArgs,
    full: &Architecture,
    recipe: &Recipe,
    saved: Option<&MethodConfig>,
) -> anyhow::Result<MethodConfig> {
    let name = match (&args.method, &args.pipeline, saved) {
        (Some(_), Some(_), _) => bail!("--pipeline: an older spelling of --method, got both"),
        (Some(name), ..) => methods::by_name(name).context("--method")?.name(),
        (_, Some(name), _) => methods::by_name(name).context("--pipeline")?.name(),
        (None, None, Some(saved)) => &saved.name,
        (None, None, None) => METHODS[0].name(),
    };
    let typed = args.typed();
    let given = Given {
        full,
        recipe,
        saved,
        typed: &typed,
    };
    let mut config = methods::configure(name, &given)?;
    if !args.set.is_empty() {
        for pair in &args.set {
            let (key, value) = pair
                .split_once('=')
                .with_context(|| format!("--set: expected KEY=VALUE, got '{pair}'"))?;
            config
                .settings
                .insert(key.trim().to_owned(), value_of(value));
        }
        config = methods::by_name(&config.name)?
            .complete(&config)
            .context("--set")?;
    }
    Ok(config)
}

/// A value of TOML, or the text as it is.
fn value_of(text: &str) -> Value {
    let text = text.trim();
    let table: Option<toml::Table> = toml::from_str(&format!("value = {text}")).ok();
    let value = table.and_then(|mut table| table.remove("value"));
    value
        .and_then(|value| serde_json::to_value(value).ok())
        .unwrap_or_else(|| Value::String(text.to_owned()))
}

/// The rates that flags outside `dcff train` ask for.
pub(crate) fn rates_of(
    text: Option<&str>,
    budget: &BudgetArgs,
    full: &Architecture,
) -> anyhow::Result<Option<dcff_fusion::Rates>> {
    let mut typed = budget.typed();
    typed.extend(text.map(|text| entry("--rates", text.into())));
    let given = Given {
        full,
        recipe: &Recipe::published_cifar(),
        saved: None,
        typed: &typed,
    };
    Ok(methods::uniform(&given)?)
}

/// A flag's value under the key that methods know it by.
fn entry(flag: &str, value: Value) -> (String, Typed) {
    let key = match flag {
        "--finetune-lr" => "finetune_learning_rate".to_owned(),
        "--prune-steps" => "steps".to_owned(),
        flag => flag.trim_start_matches('-').replace('-', "_"),
    };
    let flag = flag.to_owned();
    (key, Typed { flag, value })
}

/// Those of the values that were given.
fn given<const N: usize>(flags: [(&str, Option<Value>); N]) -> BTreeMap<String, Typed> {
    let given = flags.into_iter();
    given
        .filter_map(|(flag, value)| Some(entry(flag, value?)))
        .collect()
}

fn text(value: &Option<String>) -> Option<Value> {
    value.as_deref().map(Value::from)
}

impl BudgetArgs {
    fn typed(&self) -> BTreeMap<String, Typed> {
        given([
            ("--target-macs", text(&self.target_macs)),
            ("--target-params", text(&self.target_params)),
            ("--min-keep", self.min_keep.map(Value::from)),
            ("--round-to", self.round_to.map(Value::from)),
            ("--allocation", self.allocation.map(|a| a.name().into())),
        ])
    }
}

impl MethodArgs {
    /// What was typed of the method's settings, by the keys that methods know.
    pub(super) fn typed(&self) -> BTreeMap<String, Typed> {
        let mut typed = given([
            ("--rates", text(&self.rates)),
            ("--criterion", text(&self.criterion)),
            ("--keep", text(&self.keep)),
            ("--temperature", text(&self.temperature)),
            ("--reselect", text(&self.reselect)),
            ("--evidence-images", self.evidence_images.map(Value::from)),
            ("--dense-epochs", self.dense_epochs.map(Value::from)),
            ("--search-epochs", self.search_epochs.map(Value::from)),
            ("--land", text(&self.land)),
            ("--export", text(&self.export)),
            ("--finetune-epochs", self.finetune_epochs.map(Value::from)),
            ("--finetune-lr", self.finetune_lr.map(Value::from)),
            ("--prune-steps", self.prune_steps.map(Value::from)),
            ("--scale-penalty", self.scale_penalty.map(Value::from)),
            (
                "--teacher",
                self.teacher
                    .as_ref()
                    .map(|run| Value::from(run.to_string_lossy())),
            ),
            (
                "--dense-from",
                self.dense_from
                    .as_ref()
                    .map(|run| Value::from(run.to_string_lossy())),
            ),
        ]);
        typed.extend(self.budget.typed());
        typed
    }
}
