//! Dynamic-coded Filter Fusion, and training from scratch with any criterion in its place.
//!
//! At the start of every epoch all filters of a layer are scored, the best are kept, and the coefficients `P` of the
//! kept ones become the layer's view: `P.W` (fuse) or the kept filters themselves (select).
//! Lin et al., *Training Compact CNNs for Image Classification using Dynamic-coded Filter Fusion*,
//! <https://arxiv.org/abs/2107.06916>, algorithm 1.

use std::collections::BTreeMap;

use dcff_fusion::{Fuser, KeepMode, Memory, PUBLISHED, Rates, Reselect, TemperatureSchedule};
use dcff_models::{Architecture, View, Views};
use dcff_run::{Counted, Description, LayerSelection, MethodConfig, Published, Recipe, Summary};
use serde::{Deserialize, Serialize};

use super::widths::width_keys;
use super::widths::{self, narrowed};
use crate::collect::Collected;
use crate::entry::{Context, Entry, Given};
use crate::error::{Error, Result};
use crate::method::{Decision, EpochStart, Filters, Method, Plan, Saved};

/// Training images that criteria which read images see.
pub const EVIDENCE_IMAGES: usize = 256;

pub(super) fn evidence_images() -> usize {
    EVIDENCE_IMAGES
}

/// The settings of [`FilterFusion`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilterFusionConfig {
    /// The criterion's name.
    pub criterion: String,
    /// What becomes of the filters.
    pub keep: KeepMode,
    /// How the temperature rises.
    pub temperature: TemperatureSchedule,
    /// How much of each channel space goes.
    pub rates: Rates,
    /// How often the kept filters are chosen.
    #[serde(default)]
    pub reselect: Reselect,
    /// Training images for criteria that read feature maps.
    #[serde(default = "evidence_images")]
    pub evidence_images: usize,
}

impl FilterFusionConfig {
    /// Dynamic-coded Filter Fusion at `rates`, with every other setting at its default.
    pub fn new(rates: Rates) -> Self {
        Self {
            criterion: "kl".into(),
            keep: KeepMode::Fuse,
            temperature: TemperatureSchedule::Stretched {
                slope: TemperatureSchedule::DEFAULT_SLOPE,
            },
            rates,
            reselect: Reselect::EveryEpoch,
            evidence_images: EVIDENCE_IMAGES,
        }
    }
}

/// Scores filters at the start of every epoch and keeps the best.
pub struct FilterFusion {
    config: FilterFusionConfig,
    fuser: Fuser,
}

impl FilterFusion {
    /// The method with `config`; criteria that draw lots do so by the context's seed.
    ///
    /// # Errors
    /// When the criterion is unknown, or reads what a network that is compact from the start does not have.
    pub fn new(config: FilterFusionConfig, context: &Context) -> Result<Self> {
        let criterion = context.criterion(&config.criterion)?;
        if config.evidence_images == 0 && criterion.evidence().reads_images() {
            return Err(Error::setting(
                "method.evidence_images",
                "expected at least 1, got 0",
            ));
        }
        if !criterion.evidence().covers_unused_filters() {
            let message = format!(
                "{} reads batch norm or gradients, which a network that is compact from the start has only for kept \
                 filters: expected a criterion that reads weights or feature maps, or the method prune",
                config.criterion
            );
            return Err(Error::setting("method.criterion", message));
        }
        let fuser = Fuser::new(criterion, config.keep, context.seed);
        Ok(Self { config, fuser })
    }
}

impl Method for FilterFusion {
    fn plan(&self, full: &Architecture, recipe: &Recipe) -> Result<Plan> {
        let compact = narrowed(full, &self.config.rates)?;
        Ok(Plan::whole(compact, Filters::All, recipe))
    }

    fn describe(&self) -> Description {
        let c = &self.config;
        Description {
            label: format!("{}, {}, {}", c.criterion, c.keep.name(), c.temperature),
            pipeline: Some(Description::SCRATCH.to_owned()),
            sentence: format!(
                "It was trained from scratch, without a pretrained network, by Dynamic-coded Filter Fusion \
                 (criterion `{}`, keep `{}`, temperature `{}`)",
                c.criterion,
                c.keep.name(),
                c.temperature
            ),
            citation: Some(CITATION.to_owned()),
            published: Some(c.rates.to_string()),
        }
    }

    fn evidence_images(&self) -> usize {
        self.config.evidence_images
    }

    fn distils(&self) -> bool {
        true
    }

    fn repeats(&self) -> bool {
        true
    }

    fn epoch_start(&mut self, start: &EpochStart<'_>) -> Result<Decision> {
        let network = start.network;
        let temperature = self.config.temperature.at(start.epoch, start.epochs);
        let selects = start.epoch == 0 || self.config.reselect == Reselect::EveryEpoch;
        let mut collected = match selects {
            true => Collected::new(self.fuser.criterion(), network, start.views, start.probe)?,
            false => Collected::default(),
        };
        let mut views = Views::dense();
        let mut selection = Vec::new();
        let (mut entropies, mut overlaps, mut correlations) = (Vec::new(), Vec::new(), Vec::new());
        for (layer, conv) in network.compact().scored_convs() {
            let weight = format!("{}.weight", layer.name);
            let filters = network
                .get(&weight)
                .ok_or(dcff_models::Error::MissingParameter(weight))?;
            let kept = network.compact().width(&conv.space);
            let evidence = self.fuser.evidence(&layer.name, filters, temperature)?;
            let again = match selects {
                true => None,
                false => self.fuser.pass_again(&evidence)?,
            };
            let pass = match again {
                Some(pass) => pass,
                None => {
                    let evidence = collected.add_to(evidence, network)?;
                    self.fuser.pass_over(&evidence, kept)?
                }
            };
            let diagnostics = pass.diagnostics;
            entropies.push(diagnostics.entropy);
            overlaps.extend(diagnostics.overlap);
            correlations.extend(diagnostics.rank_correlation);
            selection.push(LayerSelection {
                layer: layer.name.clone(),
                temperature,
                entropy: diagnostics.entropy,
                overlap: diagnostics.overlap,
                rank_correlation: diagnostics.rank_correlation,
                kept: pass.coefficients.ids.clone(),
                scores: LayerSelection::narrowed(&pass.scores),
            });
            // Picking rows gives what a product with a one-hot matrix gives, for nothing.
            let view = if pass.coefficients.is_selection()? {
                View::select(&pass.coefficients.ids, filters.device())?
            } else {
                View::Mix(pass.coefficients.p)
            };
            views.insert(&layer.name, view);
        }
        let mut diagnostics = BTreeMap::from([("temperature".to_owned(), temperature)]);
        let mut mean = |name: &str, values: &[f64]| {
            if !values.is_empty() {
                diagnostics.insert(
                    name.to_owned(),
                    values.iter().sum::<f64>() / values.len() as f64,
                );
            }
        };
        mean("entropy", &entropies);
        mean("overlap", &overlaps);
        mean("rank_correlation", &correlations);
        Ok(Decision {
            views,
            diagnostics,
            selection,
            scoring_macs: collected.macs(),
            ..Decision::default()
        })
    }

    fn save(&self) -> Result<Saved> {
        Saved::values(self.fuser.memory())
    }

    fn load(&mut self, saved: &Saved) -> Result<()> {
        let memory: Memory = saved.read()?;
        self.fuser = self.fuser.clone().with_memory(memory);
        Ok(())
    }
}

const CITATION: &str = "@article{lin2023dcff,\n  \
title   = {Training Compact {CNN}s for Image Classification using Dynamic-coded Filter Fusion},\n  \
author  = {Lin, Mingbao and Ji, Rongrong and Chen, Bohong and Chao, Fei and Liu, Jianzhuang and Zeng, Wei and Tian, Yonghong and Tian, Qi},\n  \
journal = {IEEE Transactions on Pattern Analysis and Machine Intelligence},\n  \
year    = {2023},\n  \
note    = {arXiv:2107.06916}\n}\n";

/// The figures in print for the rates of a run.
pub(super) fn published(summary: &Summary) -> Option<Published> {
    let rates: Rates = summary.method().published?.parse().ok()?;
    let setting = PUBLISHED.iter().find(|setting| {
        setting.arch == summary.config.arch && setting.parsed_rates().is_ok_and(|r| r == rates)
    })?;
    Some(Published {
        name: setting.name.to_owned(),
        ops: setting.ops,
        ops_reduction: setting.ops_reduction,
        counted: Counted::Published,
        params: Some((setting.params, setting.params_reduction)),
        top1: setting.top1,
        note: "The published top-1 is the best epoch on the test set, after 300 epochs on all 50,000 training images.",
    })
}

/// Fusing the kept filters with all others, as published.
pub(super) struct Dcff;

impl Dcff {
    const NAME: &str = "dcff";
}

impl Entry for Dcff {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn aliases(&self) -> &'static [&'static str] {
        &[Description::SCRATCH]
    }

    fn about(&self) -> &'static str {
        "compact from the first step; kept filters are fused of all filters, anew in every epoch"
    }

    fn keys(&self) -> &'static [&'static str] {
        KEYS
    }

    fn configure(&self, given: &Given<'_>) -> Result<MethodConfig> {
        configure(given, KeepMode::Fuse)
    }

    fn complete(&self, config: &MethodConfig) -> Result<MethodConfig> {
        complete(config)
    }

    fn published(&self, summary: &Summary) -> Option<Published> {
        published(summary)
    }

    fn build(&self, config: &MethodConfig, context: &Context) -> Result<Box<dyn Method>> {
        build(config, context)
    }
}

/// The name of the method that keeps filters as they are, which shares settings and code with this one.
pub(super) const SELECT: &str = "select";

/// What the command line can say of this method and of selecting.
pub(super) const KEYS: &[&str] = width_keys![
    "criterion",
    "keep",
    "temperature",
    "reselect",
    "evidence_images",
];

/// The configuration that the command line asks for, `keep` where it says nothing of what becomes of the filters.
pub(super) fn configure(given: &Given<'_>, keep: KeepMode) -> Result<MethodConfig> {
    let rates = widths::uniform(given)?;
    let mut config = match given.own(&[Dcff::NAME, SELECT])? {
        Some(saved) => saved,
        None => {
            // Another method's settings that mean the same here.
            let mut config = FilterFusionConfig::new(widths::first(given, rates.as_ref())?);
            given.inherit("criterion", &mut config.criterion)?;
            given.inherit("temperature", &mut config.temperature)?;
            given.inherit("evidence_images", &mut config.evidence_images)?;
            config
        }
    };
    config.keep = keep;
    if let Some(rates) = rates {
        config.rates = rates;
    }
    if let Some(criterion) = given.criterion()? {
        config.criterion = criterion.name().to_owned();
    }
    given.set("keep", &mut config.keep)?;
    given.set("temperature", &mut config.temperature)?;
    given.set("reselect", &mut config.reselect)?;
    given.set("evidence_images", &mut config.evidence_images)?;
    named(&config)
}

/// The same configuration with every setting spelled out.
pub(super) fn complete(config: &MethodConfig) -> Result<MethodConfig> {
    named(&config.read()?)
}

pub(super) fn build(config: &MethodConfig, context: &Context) -> Result<Box<dyn Method>> {
    Ok(Box::new(FilterFusion::new(config.read()?, context)?))
}

/// The configuration under the name that says what becomes of the filters.
fn named(config: &FilterFusionConfig) -> Result<MethodConfig> {
    let name = match config.keep {
        KeepMode::Fuse => Dcff::NAME,
        KeepMode::Select => SELECT,
    };
    Ok(MethodConfig::new(name, config)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn method(rates: &str) -> FilterFusion {
        let config = FilterFusionConfig {
            criterion: "l1-norm".into(),
            ..FilterFusionConfig::new(rates.parse().unwrap())
        };
        FilterFusion::new(config, &Context::default()).unwrap()
    }

    fn compact(rates: &str, full: &Architecture) -> Result<Architecture> {
        let plan = method(rates).plan(full, &Recipe::quick(2))?;
        Ok(plan.compact.unwrap())
    }

    #[test]
    fn rates_become_widths_per_space() {
        let full = dcff_models::by_name("resnet20").unwrap();
        let compact = compact("[0.5]*3+[0.25]*3+[0.75]*3+[0.0]*2+[0.5]", &full).unwrap();
        assert_eq!(
            compact.widths(),
            [8, 8, 8, 24, 24, 24, 16, 16, 16, 16, 32, 32]
        );
    }

    #[test]
    fn refuses_rates_that_do_not_fit() {
        let full = dcff_models::by_name("vgg16").unwrap();
        let refused = |rates: &str| compact(rates, &full).unwrap_err().to_string();
        assert_eq!(
            refused("[0.5]*12"),
            "rates: vgg16 has 13 compression rates, one per channel space, got 12"
        );
        assert_eq!(
            refused("0.99"),
            "rates: features.0: rate 0.99 keeps 0 of 64 filters"
        );
    }

    #[test]
    fn an_unknown_criterion_is_refused_with_the_known_ones() {
        let config = FilterFusionConfig {
            criterion: "l7".into(),
            ..method("0.5").config
        };
        let message = FilterFusion::new(config, &Context::default())
            .err()
            .unwrap()
            .to_string();
        assert!(
            message.contains("l7") && message.contains("l1-norm"),
            "{message}"
        );
    }

    #[test]
    fn no_images_are_enough_for_a_criterion_that_sees_none() {
        let new = |criterion: &str| {
            let config = FilterFusionConfig {
                criterion: criterion.into(),
                evidence_images: 0,
                ..FilterFusionConfig::new("0.5".parse().unwrap())
            };
            FilterFusion::new(config, &Context::default()).map(drop)
        };
        new("l1-norm").unwrap();
        assert_eq!(
            new("hrank").unwrap_err().to_string(),
            "method.evidence_images: expected at least 1, got 0"
        );
    }

    #[test]
    fn a_criterion_that_knows_only_kept_filters_is_refused() {
        for criterion in ["bn-scale", "taylor-weight", "taylor-activation"] {
            let config = FilterFusionConfig {
                criterion: criterion.into(),
                ..method("0.5").config
            };
            let message = FilterFusion::new(config, &Context::default())
                .err()
                .unwrap()
                .to_string();
            assert!(
                message.starts_with(&format!("method.criterion: {criterion} reads"))
                    && message.ends_with("or the method prune"),
                "{message}"
            );
        }
    }

    #[test]
    fn settings_of_earlier_versions_are_read() {
        let text =
            "criterion = \"kl\"\nkeep = \"fuse\"\ntemperature = \"stretched\"\nrates = \"0.5\"\n";
        let config: FilterFusionConfig = toml::from_str(text).unwrap();
        assert_eq!(config, FilterFusionConfig::new("0.5".parse().unwrap()));
    }
}
