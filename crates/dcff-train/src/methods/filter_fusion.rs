//! Dynamic-coded Filter Fusion, and training from scratch with any criterion in its place.
//!
//! At the start of every epoch all filters of a layer are scored, the best are kept, and the coefficients `P` of the
//! kept ones become the layer's view: `P.W` (fuse) or the kept filters themselves (select).
//! Lin et al., *Training Compact CNNs for Image Classification using Dynamic-coded Filter Fusion*,
//! <https://arxiv.org/abs/2107.06916>, algorithm 1.

use std::collections::BTreeMap;

use dcff_criteria::by_name;
use dcff_fusion::{Fuser, KeepMode, Memory, Rates, TemperatureSchedule};
use dcff_models::{Architecture, Network, View, Views};
use serde::{Deserialize, Serialize};

use crate::{EpochViews, Error, Method, Result};

/// The settings of [`FilterFusion`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FilterFusionConfig {
    /// The criterion's name.
    pub criterion: String,
    /// What becomes of the filters.
    pub keep: KeepMode,
    /// How the temperature rises.
    pub temperature: TemperatureSchedule,
    /// How much of each channel space goes.
    pub rates: Rates,
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
    /// When the criterion is unknown.
    pub fn new(config: FilterFusionConfig, seed: u64) -> Result<Self> {
        let fuser = Fuser::new(by_name(&config.criterion)?, config.keep, seed);
        Ok(Self { config, fuser })
    }
}

impl Method for FilterFusion {
    fn compact(&self, full: &Architecture) -> Result<Architecture> {
        let spaces = &full.spaces;
        let rates = self.config.rates.for_slots(spaces.len()).ok_or_else(|| {
            let got = match &self.config.rates {
                Rates::List(list) => list.len(),
                Rates::Uniform(_) => 1,
            };
            Error::setting(
                "rates",
                format!(
                    "{} has {} compression rates, one per channel space, got {got}",
                    full.name,
                    spaces.len()
                ),
            )
        })?;
        let mut widths = Vec::with_capacity(spaces.len());
        for (space, rate) in spaces.iter().zip(rates) {
            match rate.kept(space.width) {
                0 => {
                    return Err(Error::setting(
                        "rates",
                        format!(
                            "{}: rate {rate} keeps 0 of {} filters",
                            space.name, space.width
                        ),
                    ));
                }
                kept => widths.push(kept),
            }
        }
        Ok(full.narrowed(&widths)?)
    }

    fn epoch_start(
        &mut self,
        epoch: usize,
        epochs: usize,
        network: &Network,
    ) -> Result<EpochViews> {
        let temperature = self.config.temperature.at(epoch, epochs);
        let mut views = Views::dense();
        let (mut entropies, mut overlaps) = (Vec::new(), Vec::new());
        for (layer, conv) in network.compact().scored_convs() {
            let weight = format!("{}.weight", layer.name);
            let filters = network
                .get(&weight)
                .ok_or(dcff_models::Error::MissingParameter(weight))?;
            let kept = network
                .compact()
                .space(&conv.space)
                .map_or(0, |space| space.width);
            let pass = self.fuser.pass(&layer.name, filters, kept, temperature)?;
            entropies.push(pass.diagnostics.entropy);
            overlaps.extend(pass.diagnostics.overlap);
            let view = match self.config.keep {
                KeepMode::Select => View::select(&pass.coefficients.ids, filters.device())?,
                _ => View::Mix(pass.coefficients.p),
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
        Ok(EpochViews { views, diagnostics })
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
            keep: KeepMode::Fuse,
            temperature: TemperatureSchedule::Published,
            rates: rates.parse().unwrap(),
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
}
