//! `summary.json`: the outcome of a run, complete enough for a table row.

use dcff_flops::{Convention, Network, cost};
use dcff_models::Architecture;
use serde::{Deserialize, Serialize};

use crate::config::RunConfig;
use crate::entry::Description;
use crate::error::{Error, Result};
use crate::evaluate::Score;
use crate::methods;
use crate::stage::StageCost;

/// The outcome of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The run's configuration.
    pub config: RunConfig,
    /// What the method says of itself; [`Summary::method`] knows it where earlier versions did not write it.
    #[serde(default)]
    pub method: Option<Description>,
    /// After the last epoch.
    pub last: Outcome,
    /// After the chosen epoch, whose weights are the artefact.
    pub chosen: Outcome,
    /// How the epoch was chosen: `validation`, `test` (as published) or `last`.
    pub chosen_by: String,
    /// Kept and all channels of each space.
    pub widths: Vec<Width>,
    /// Under the `macs` convention.
    pub macs: Cost,
    /// Under the `published` convention.
    pub published_ops: Cost,
    /// Trained parameters.
    pub params: Cost,
    /// Multiply-accumulates of the whole training, all stages and the collection of evidence included; 0 in the
    /// summaries of versions that did not count them. [`StageCost`] says what counts.
    #[serde(default)]
    pub training_macs: u64,
    /// The stages and what each cost.
    #[serde(default)]
    pub stages: Vec<StageCost>,
    /// Training images, held-out ones not counted.
    pub train_images: usize,
    /// Seconds spent in training, evaluation included, over all sittings.
    pub seconds: f64,
    /// Training images per second, the median of the epochs.
    pub images_per_second: f64,
    /// `cpu` and its vector instructions, on which the last bits of all numbers depend; or the card's name.
    pub device: String,
    /// Threads used on the CPU.
    pub threads: usize,
    /// The version of this library.
    pub dcff_version: String,
    /// The networks of a run that ends with several, beside the one that the figures above are of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub products: Vec<ProductSummary>,
}

/// One of several networks that a run ends with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProductSummary {
    /// The name of its folder in `products`.
    pub label: String,
    /// On the test images.
    pub test: Score,
    /// Under the `macs` convention.
    pub macs: Cost,
    /// Trained parameters.
    pub params: Cost,
}

impl Summary {
    /// What reports and cards say of the method.
    pub fn method(&self) -> Description {
        let written = self.method.clone();
        written.unwrap_or_else(|| methods::describe(&self.config.method))
    }

    /// The full network of the run, for the classes and the images of its compact form `artefact`.
    ///
    /// # Errors
    /// When this version does not know the network.
    pub fn full(&self, artefact: &dcff_compact::Config) -> Result<Architecture> {
        Ok(dcff_models::by_name(&self.config.arch)?
            .with_classes(artefact.pretrained_cfg.num_classes)
            .with_input(artefact.architecture.input))
    }

    /// Checks that the accuracies are shares.
    ///
    /// # Errors
    /// The first that is not, with what was expected and what came.
    pub fn check_accuracies(&self) -> Result<()> {
        for (name, outcome) in [("last", self.last), ("chosen", self.chosen)] {
            let scores = [
                ("test", Some(outcome.test)),
                ("validation", outcome.validation),
            ];
            for (images, score) in scores {
                let accuracy = score.map_or(0.0, |score| score.accuracy);
                if !(0.0..=1.0).contains(&accuracy) {
                    return Err(Error::setting(
                        format!("{name}.{images}.accuracy"),
                        format!("expected 0 to 1, got {accuracy}"),
                    ));
                }
            }
        }
        Ok(())
    }

    /// Checks that the widths and costs are those of the network `full` and its form `compact`.
    ///
    /// # Errors
    /// The first that is not, with what was expected and what came.
    pub fn check_costs(&self, full: &Architecture, compact: &Architecture) -> Result<()> {
        let Costs {
            widths,
            macs,
            published_ops: mut ops,
            params,
        } = costs(full, compact)?;
        let differs = |field: &str, expected: String, got: String| {
            let message = format!("expected {expected}, got {got}");
            Err(Error::setting(field, message))
        };
        if self.widths.len() != widths.len() {
            let counts = [&widths, &self.widths].map(|w| format!("{} spaces", w.len()));
            let [expected, got] = counts;
            return differs("widths", expected, got);
        }
        if let Some((a, b)) = widths.iter().zip(&self.widths).find(|(a, b)| a != b) {
            let [expected, got] = [a, b].map(|w| format!("{} of {} in {}", w.kept, w.of, w.space));
            return differs("widths", expected, got);
        }
        if full.widths() == compact.widths() && self.published_ops.compact != ops.compact {
            // Earlier versions counted the pooling in here that the counter sees in compact networks only.
            ops.compact = cost(compact, Convention::Published, Network::Compact)?.ops();
        }
        for (name, expected, got) in [
            ("macs", macs, self.macs),
            ("published_ops", ops, self.published_ops),
            ("params", params, self.params),
        ] {
            for (form, expected, got) in [
                ("full", expected.full, got.full),
                ("compact", expected.compact, got.compact),
            ] {
                if expected != got {
                    let field = format!("{name}.{form}");
                    return differs(&field, expected.to_string(), got.to_string());
                }
            }
        }
        Ok(())
    }
}

/// Accuracy after an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Counted from 1.
    pub epoch: usize,
    /// On the test images.
    pub test: Score,
    /// On the held-out training images, where there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<Score>,
}

/// The kept channels of a space.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Width {
    /// The space's name.
    pub space: String,
    /// Kept channels.
    pub kept: usize,
    /// All channels.
    pub of: usize,
}

/// A count in the full and in the compact network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// Before compression.
    pub full: u64,
    /// After compression.
    pub compact: u64,
}

/// Multiply-accumulates of `architecture` for one image.
pub(crate) fn macs(architecture: &Architecture) -> Result<u64> {
    Ok(cost(architecture, Convention::Macs, Network::Compact)?.ops())
}

/// The widths and costs of a network, full and compact.
pub(crate) struct Costs {
    pub(crate) widths: Vec<Width>,
    pub(crate) macs: Cost,
    pub(crate) published_ops: Cost,
    pub(crate) params: Cost,
}

/// The widths and costs of a pair of architectures.
pub(crate) fn costs(full: &Architecture, compact: &Architecture) -> Result<Costs> {
    let pairs = full.spaces.iter().zip(&compact.spaces);
    let widths = pairs
        .map(|(f, c)| Width {
            space: f.name.clone(),
            kept: c.width,
            of: f.width,
        })
        .collect();
    let pair = |[full, compact]: [u64; 2]| Cost { full, compact };
    let macs = dcff_flops::costs(full, compact, Convention::Macs)?;
    let published = dcff_flops::costs(full, compact, Convention::Published)?;
    Ok(Costs {
        widths,
        params: pair(macs.each_ref().map(|table| table.params())),
        macs: pair(macs.map(|table| table.ops())),
        published_ops: pair(published.map(|table| table.ops())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{DataConfig, MethodConfig};
    use crate::recipe::Recipe;

    fn summary(full: &Architecture, compact: &Architecture) -> Summary {
        let data = DataConfig {
            train_fingerprint: "a".into(),
            test_fingerprint: "b".into(),
            ..DataConfig::named("synthetic", 0.0)
        };
        let recipe = Recipe::quick(2);
        let outcome = Outcome {
            epoch: 2,
            test: Score::default(),
            validation: None,
        };
        let Costs {
            widths,
            macs,
            published_ops,
            params,
        } = costs(full, compact).unwrap();
        Summary {
            config: RunConfig::new("resnet20", 1, data, MethodConfig::named("dense"), recipe),
            method: None,
            last: outcome,
            chosen: outcome,
            chosen_by: "last".into(),
            widths,
            macs,
            published_ops,
            params,
            training_macs: 0,
            stages: Vec::new(),
            train_images: 10,
            seconds: 1.0,
            images_per_second: 1.0,
            device: "cpu".into(),
            threads: 1,
            dcff_version: "0.1.0".into(),
            products: Vec::new(),
        }
    }

    #[test]
    fn widths_and_costs_must_be_those_of_the_network() {
        let full = dcff_models::by_name("resnet20").unwrap();
        let mut widths = full.widths();
        widths[1] /= 2;
        let compact = full.narrowed(&widths).unwrap();
        let sound = summary(&full, &compact);
        sound.check_costs(&full, &compact).unwrap();
        let message = |altered: Summary| {
            let error = altered.check_costs(&full, &compact).unwrap_err();
            error.to_string()
        };
        let mut altered = sound.clone();
        altered.macs.compact = 7;
        let expected = sound.macs.compact;
        assert_eq!(
            message(altered),
            format!("macs.compact: expected {expected}, got 7")
        );
        let mut altered = sound.clone();
        altered.widths[1].kept = 1;
        let (space, of) = (&sound.widths[1].space, sound.widths[1].of);
        assert_eq!(
            message(altered),
            format!(
                "widths: expected {} of {of} in {space}, got 1 of {of} in {space}",
                widths[1]
            )
        );
    }

    #[test]
    fn a_dense_network_saves_nothing_and_earlier_counts_of_it_are_accepted() {
        let full = dcff_models::by_name("resnet20").unwrap();
        let mut dense = summary(&full, &full);
        assert_eq!(dense.published_ops.full, dense.published_ops.compact);
        dense.check_costs(&full, &full).unwrap();
        // With global pooling: 64 channels of 8x8 pixels.
        dense.published_ops.compact += 64 * (64 + 1);
        dense.check_costs(&full, &full).unwrap();
        dense.published_ops.compact += 1;
        assert!(dense.check_costs(&full, &full).is_err());
    }
}
