//! The end of a run: compact networks, and what they cost.

use std::collections::BTreeMap;

use dcff_compact::Artefact;
use dcff_models::{Network, Views};
use dcff_run::{CHECKPOINT, COMPACT, Outcome, PRODUCTS, ProductSummary, Summary};

use super::Trainer;
use crate::clock::Clock;
use crate::costs::{Costs, costs};
use crate::error::{Error, Result};
use crate::evaluate::{evaluate, evaluate_at};
use crate::method::End;
use crate::places::forget_places;

impl Trainer {
    /// Writes the artefact and the summary.
    pub(super) fn finish(&mut self, clock: &Clock) -> Result<Summary> {
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
        let computed = self.network.compact();
        let mut plain = Network::new(computed, computed, 0, self.network.device())?;
        plain.set_convolution(self.network.convolution());
        plain.load(&self.chosen.clone().into_iter().collect())?;
        let products = self.method.finish(End {
            network: &self.network,
            views: &self.views,
            chosen: plain,
        })?;
        let mut products = products.into_iter().map(|mut product| {
            if let Some(batches) = product.recalibration {
                self.recalibrate(&mut product.network, batches)?;
            }
            Ok::<_, Error>(product)
        });
        let first = products
            .next()
            .ok_or_else(|| Error::setting("method", "it ends with no network"))??;
        let plain = first.network;
        let test = if best.epoch == last.epoch && first.as_chosen {
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
        let Costs {
            widths,
            macs,
            published_ops,
            params,
            constants,
        } = costs(&self.full, plain.compact())?;
        let mut rates: Vec<f64> = self
            .state
            .timing
            .iter()
            .map(|timing| timing.images_per_second)
            .collect();
        rates.sort_by(f64::total_cmp);
        let device = dcff_nn::device_name(self.network.device())?;
        let mut summary = Summary {
            config: self.config.clone(),
            method: Some(self.method.describe()),
            last,
            chosen,
            chosen_by: chosen_by.into(),
            widths,
            macs,
            published_ops,
            params,
            constants,
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
            products: Vec::new(),
        };
        for product in products {
            let product = product?;
            let parent = self.folder.join(PRODUCTS);
            std::fs::create_dir_all(&parent).map_err(|error| Error::file(&parent, error))?;
            let costs = costs(&self.full, product.network.compact())?;
            let row = ProductSummary {
                test: evaluate_at(&product.network, &self.test)?,
                label: product.label,
                macs: costs.macs,
                params: costs.params,
            };
            let folder = parent.join(&row.label);
            let mut provenance = provenance(&summary);
            let value = serde_json::to_value(&row).map_err(|error| Error::file(&folder, error))?;
            provenance.insert("product".to_owned(), value);
            self.artefact(&product.network, provenance)?.save(&folder)?;
            summary.products.push(row);
        }
        let artefact = self.artefact(&plain, provenance(&summary))?;
        artefact.save(&self.folder.join(COMPACT))?;
        self.folder.write_summary(&summary)?;
        Ok(summary)
    }

    /// The plain network `plain` as it is written.
    pub(super) fn artefact(
        &self,
        plain: &Network,
        provenance: BTreeMap<String, serde_json::Value>,
    ) -> Result<Artefact> {
        let mut preprocessing = self.state.preprocessing.clone();
        preprocessing.input_size = plain.compact().input;
        Ok(Artefact::new(
            plain,
            &Views::dense(),
            preprocessing,
            provenance,
        )?)
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
