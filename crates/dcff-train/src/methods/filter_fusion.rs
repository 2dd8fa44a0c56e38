//! Dynamic-coded Filter Fusion, and training from scratch with any criterion in its place.
//!
//! At the start of every epoch all filters of a layer are scored, the best are kept, and the coefficients `P` of the
//! kept ones become the layer's view: `P.W` (fuse) or the kept filters themselves (select).
//! Lin et al., *Training Compact CNNs for Image Classification using Dynamic-coded Filter Fusion*,
//! <https://arxiv.org/abs/2107.06916>, algorithm 1.

use std::collections::BTreeMap;

use dcff_criteria::by_name;
use dcff_fusion::{Fuser, KeepMode, Memory, Rates, Reselect, TemperatureSchedule};
use dcff_models::{Architecture, View, Views};
use serde::{Deserialize, Serialize};

use super::narrowed_by_rates;
use crate::collect::Collected;
use crate::selection::LayerSelection;
use crate::{EpochStart, EpochViews, Error, Method, Result};

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
    /// The method with `config`; `seed` is for criteria that draw lots.
    ///
    /// # Errors
    /// When the criterion is unknown, or reads what a network that is compact from the start does not have.
    pub fn new(config: FilterFusionConfig, seed: u64) -> Result<Self> {
        let criterion = by_name(&config.criterion)?;
        if !criterion.evidence().covers_unused_filters() {
            let message = format!(
                "{} reads batch norm or gradients, which a network that is compact from the start has only for kept \
                 filters: expected a criterion that reads weights or feature maps, or the pipeline prune",
                config.criterion
            );
            return Err(Error::setting("method.criterion", message));
        }
        let fuser = Fuser::new(criterion, config.keep, seed);
        Ok(Self { config, fuser })
    }
}

impl Method for FilterFusion {
    fn compact(&self, full: &Architecture) -> Result<Architecture> {
        narrowed_by_rates(full, &self.config.rates)
    }

    fn keeps(&self, full: &Architecture, _: &[usize]) -> Result<Architecture> {
        Ok(full.clone())
    }

    fn repeats(&self) -> bool {
        true
    }

    fn epoch_start(&mut self, start: &EpochStart<'_>) -> Result<EpochViews> {
        let network = start.network;
        let temperature = self.config.temperature.at(start.epoch, start.epochs);
        let selects = start.epoch == 0 || self.config.reselect == Reselect::EveryEpoch;
        let mut collected = match selects {
            true => Collected::new(self.fuser.criterion(), start)?,
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
        Ok(EpochViews {
            views,
            diagnostics,
            selection,
            scoring_macs: collected.macs(),
            ..EpochViews::default()
        })
    }

    fn save(&self) -> serde_json::Value {
        serde_json::to_value(self.fuser.memory()).unwrap_or_default()
    }

    fn load(&mut self, state: &serde_json::Value) -> Result<()> {
        let memory: Memory = serde_json::from_value(state.clone())
            .map_err(|error| Error::setting("checkpoint: method", error.to_string()))?;
        self.fuser = self.fuser.clone().with_memory(memory);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn method(rates: &str) -> FilterFusion {
        let config = FilterFusionConfig {
            criterion: "l1-norm".into(),
            ..FilterFusionConfig::new(rates.parse().unwrap())
        };
        FilterFusion::new(config, 0).unwrap()
    }

    #[test]
    fn rates_become_widths_per_space() {
        let full = dcff_models::by_name("resnet20").unwrap();
        let compact = method("[0.5]*3+[0.25]*3+[0.75]*3+[0.0]*2+[0.5]")
            .compact(&full)
            .unwrap();
        assert_eq!(
            compact.widths(),
            [8, 8, 8, 24, 24, 24, 16, 16, 16, 16, 32, 32]
        );
    }

    #[test]
    fn refuses_rates_that_do_not_fit() {
        let full = dcff_models::by_name("vgg16").unwrap();
        let refused = |rates: &str| method(rates).compact(&full).unwrap_err().to_string();
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
        let message = FilterFusion::new(config, 0).err().unwrap().to_string();
        assert!(
            message.contains("l7") && message.contains("l1-norm"),
            "{message}"
        );
    }

    #[test]
    fn a_criterion_that_knows_only_kept_filters_is_refused() {
        for criterion in ["bn-scale", "taylor-weight", "taylor-activation"] {
            let config = FilterFusionConfig {
                criterion: criterion.into(),
                ..method("0.5").config
            };
            let message = FilterFusion::new(config, 0).err().unwrap().to_string();
            assert!(
                message.starts_with(&format!("method.criterion: {criterion} reads"))
                    && message.ends_with("or the pipeline prune"),
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
