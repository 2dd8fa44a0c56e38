//! The settings of the method.

use dcff_flops::{Counting, MaskedCost, Target};
use dcff_models::Architecture;
use dcff_run::{Cosine, DenseFrom, GeometricWarmup, Recipe, Schedule};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The settings of [`Kdfs`](super::Kdfs). Those that are not said are the ones of the program of KDFS for images of this size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KdfsConfig {
    /// The cost that the sampled network is pulled to: a share of the whole network's, or a number.
    pub target_macs: Target,
    /// How that cost is counted.
    pub cost: Counting,
    /// What a share is a share of, unless the network's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_macs: Option<u64>,
    /// Epochs of the dense stage, in which the teacher is trained; 0 beside a `teacher`.
    pub dense_epochs: usize,
    /// Epochs of fine-tuning; what is left of the run is the search.
    pub finetune_epochs: usize,
    /// The temperature of the masks before the first epoch of the search,
    pub temperature_start: f64,
    /// and in its last epoch.
    pub temperature_end: f64,
    /// What logits are divided by where they are distilled.
    pub distillation_temperature: f64,
    /// The weight of distillation.
    pub distillation: f64,
    /// The weight of the reconstruction of the teacher's maps.
    pub reconstruction: f64,
    /// The weight of the squared distance of the sampled cost from its target.
    pub cost_weight: f64,
    /// The layers whose maps are reconstructed, each by a 1x1 convolution.
    pub taps: Vec<String>,
    /// The learning rate of the search: geometric warm-up, then half a cosine, epoch by epoch.
    pub search_learning_rate: f64,
    /// Weight decay in the search; logits of masks have none.
    pub search_weight_decay: f64,
    /// Epochs of warm-up in the search.
    pub search_warmup_epochs: usize,
    /// The rate that the warm-up starts from.
    pub search_warmup_start: f64,
    /// The rate that the search ends with.
    pub search_floor: f64,
    /// As in the search.
    pub finetune_learning_rate: f64,
    /// As in the search.
    pub finetune_weight_decay: f64,
    /// As in the search.
    pub finetune_warmup_epochs: usize,
    /// As in the search.
    pub finetune_warmup_start: f64,
    /// As in the search.
    pub finetune_floor: f64,
    /// Whether the first epoch of a stage runs at the full rate before its warm-up, as in the program of KDFS.
    pub first_epoch_full_rate: bool,
    /// What the student's weights are at the start of the search.
    #[serde(default)]
    pub start: Start,
    /// What stands for every filter after the search.
    pub land: Landing,
    /// How the compact network is made.
    pub export: Export,
    /// The trained network that teaches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teacher: Option<DenseFrom>,
    /// The run whose dense network is taken over in place of the dense stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dense_from: Option<DenseFrom>,
}

/// What the student's weights are at the start of the search.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// Drawn anew, as published.
    #[default]
    Drawn,
    /// Those of the teacher: for searches that are too short to train a network from the beginning.
    Teacher,
}

/// What stands for every filter after the search.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Landing {
    /// The likelier choice, as published: the network may cost more or less than the target.
    Likeliest,
    /// The filters that are most likely on, as many as meet the target.
    Exactly,
}

/// How the compact network is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Export {
    /// The constants of filters that are off are carried along: it computes what the masked network does.
    Exact,
    /// They are cut off, and the statistics of batch norm are collected anew: smaller, and another function.
    Slice,
}

/// A choice as it is typed.
fn chosen<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, serde_json::Error> {
    serde_json::from_value(text.into())
}

impl std::str::FromStr for Landing {
    type Err = serde_json::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        chosen(text)
    }
}

impl std::str::FromStr for Export {
    type Err = serde_json::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        chosen(text)
    }
}

/// Images wider than this are those of ImageNet.
const SMALL: usize = 64;

impl KdfsConfig {
    /// The settings of the program of KDFS for a run of `full` of so many epochs of `dense`, search and fine-tuning: those for
    /// CIFAR, or for images of more than 64 pixels those for ImageNet.
    ///
    /// # Errors
    /// When the architecture is unsound.
    pub fn new(full: &Architecture, [dense, search, finetune]: [usize; 3]) -> Result<Self> {
        let small = full.input[1].max(full.input[2]) <= SMALL;
        // Rates and decay of both stages, and their shares of warm-up.
        let ([rate, start, decay], [tune, tune_start], shares) = match small {
            true => ([1e-2, 1e-4, 1e-4], [1e-4, 1e-6], [(20, 350), (10, 50)]),
            false => ([4e-3, 4e-5, 2e-5], [4e-6, 4e-8], [(10, 250), (5, 20)]),
        };
        let [warmup, tune_warmup] = [(search, shares[0]), (finetune, shares[1])]
            .map(|(epochs, (part, of))| epochs * part / of);
        let taps = super::taps::published(full)?;
        let name = |&at: &usize| full.layers[at].name.clone();
        Ok(Self {
            target_macs: Target::Share(0.5),
            cost: Counting::True,
            base_macs: None,
            dense_epochs: dense,
            finetune_epochs: finetune,
            temperature_start: 1.0,
            temperature_end: 0.1,
            distillation_temperature: 3.0,
            distillation: 0.05,
            reconstruction: 1000.0,
            cost_weight: 10_000.0,
            taps: taps.iter().map(name).collect(),
            search_learning_rate: rate,
            search_weight_decay: decay,
            search_warmup_epochs: warmup,
            search_warmup_start: start,
            search_floor: start,
            finetune_learning_rate: tune,
            finetune_weight_decay: decay,
            finetune_warmup_epochs: tune_warmup,
            finetune_warmup_start: tune_start,
            finetune_floor: tune_start,
            first_epoch_full_rate: true,
            start: Start::Drawn,
            land: Landing::Likeliest,
            export: Export::Exact,
            teacher: None,
            dense_from: None,
        })
    }

    /// Epochs of the search in a run of `epochs`.
    pub fn search_epochs(&self, epochs: usize) -> usize {
        epochs.saturating_sub(self.dense_epochs + self.finetune_epochs)
    }

    /// What a share of the cost is a share of, and the share that is aimed at.
    pub(super) fn aim(&self, cost: &MaskedCost) -> (f64, f64) {
        let base = self.base_macs.map_or(cost.base(), |base| base as f64);
        let share = match self.target_macs {
            Target::Share(share) => share,
            Target::Absolute(macs) => macs as f64 / base,
        };
        (base, share)
    }

    /// How the search is trained in a run of `epochs`.
    pub(super) fn search(&self, recipe: &Recipe) -> Recipe {
        let epochs = self.search_epochs(recipe.epochs);
        let (rate, decay) = (self.search_learning_rate, self.search_weight_decay);
        let schedule = self.schedule(
            rate,
            self.search_warmup_epochs,
            self.search_warmup_start,
            self.search_floor,
        );
        stage(recipe, epochs, rate, decay, schedule)
    }

    /// How the network is fine-tuned.
    pub(super) fn finetune(&self, recipe: &Recipe) -> Recipe {
        let (rate, decay) = (self.finetune_learning_rate, self.finetune_weight_decay);
        let (warmup, start) = (self.finetune_warmup_epochs, self.finetune_warmup_start);
        let schedule = self.schedule(rate, warmup, start, self.finetune_floor);
        stage(recipe, self.finetune_epochs, rate, decay, schedule)
    }

    fn schedule(&self, rate: f64, warmup: usize, start: f64, floor: f64) -> Schedule {
        Schedule::Cosine(Cosine {
            floor: floor / rate,
            by_epoch: true,
            warmup: (warmup > 0).then_some(GeometricWarmup {
                epochs: warmup,
                start: start / rate,
                first_epoch_full_rate: self.first_epoch_full_rate,
            }),
        })
    }

    /// Checks the settings for a run of `full` of `epochs` epochs, which may have a teacher that they do not name.
    pub(super) fn validate(&self, full: &Architecture, epochs: usize, taught: bool) -> Result<()> {
        let check = |holds: bool, field: &str, message: String| match holds {
            true => Ok(()),
            false => Err(Error::setting(format!("method.{field}"), message)),
        };
        let fail = |field: &str, message: String| check(false, field, message);
        match (&self.teacher, &self.dense_from, self.dense_epochs) {
            (Some(_), Some(_), _) => {
                fail("dense_from", "expected no dense stage beside a teacher".into())?;
            }
            (Some(_), None, 1..) => {
                let got = self.dense_epochs;
                fail("dense_epochs", format!("expected 0 beside a teacher, got {got}"))?;
            }
            (None, _, 0) if !taught => fail(
                "teacher",
                "expected a trained network (--teacher), or epochs to train one in (--dense-epochs)".into(),
            )?,
            _ => {}
        }
        check(
            self.finetune_epochs >= 1,
            "finetune_epochs",
            "expected at least 1, got 0".into(),
        )?;
        if self.search_epochs(epochs) < 1 {
            let least = self.dense_epochs + self.finetune_epochs + 1;
            let message = format!(
                "expected at least {least}, {} of them dense, 1 of search and {} of fine-tuning, got {epochs}",
                self.dense_epochs, self.finetune_epochs
            );
            return Err(Error::setting("recipe.epochs", message));
        }
        for (field, value) in [
            ("temperature_start", self.temperature_start),
            ("temperature_end", self.temperature_end),
            ("distillation_temperature", self.distillation_temperature),
            ("search_learning_rate", self.search_learning_rate),
            ("finetune_learning_rate", self.finetune_learning_rate),
        ] {
            let holds = value > 0.0 && value <= 1e6;
            check(
                holds,
                field,
                format!("expected more than 0 and up to 1000000, got {value}"),
            )?;
        }
        for (field, value) in [
            ("distillation", self.distillation),
            ("reconstruction", self.reconstruction),
            ("cost_weight", self.cost_weight),
            ("search_weight_decay", self.search_weight_decay),
            ("finetune_weight_decay", self.finetune_weight_decay),
        ] {
            let holds = (0.0..=1e12).contains(&value);
            check(holds, field, format!("expected 0 or more, got {value}"))?;
        }
        for (rate, fields) in [
            (
                self.search_learning_rate,
                [
                    ("search_warmup_start", self.search_warmup_start),
                    ("search_floor", self.search_floor),
                ],
            ),
            (
                self.finetune_learning_rate,
                [
                    ("finetune_warmup_start", self.finetune_warmup_start),
                    ("finetune_floor", self.finetune_floor),
                ],
            ),
        ] {
            for (field, value) in fields {
                let holds =
                    (0.0..=rate).contains(&value) && (value > 0.0 || field.ends_with("floor"));
                check(
                    holds,
                    field,
                    format!("expected up to the stage's rate of {rate}, got {value}"),
                )?;
            }
        }
        let ends = full.outputs()?;
        for tap in &self.taps {
            let found = full.position(tap);
            check(
                found.is_some(),
                "taps",
                format!("{} has no layer '{tap}'", full.name),
            )?;
            check(
                found.is_some_and(|at| ends.contains(&at)),
                "taps",
                format!(
                    "expected a layer with an output of its own, and {tap} is computed together with the one behind it"
                ),
            )?;
        }
        self.validate_target(&MaskedCost::new(full, self.cost)?)
    }

    fn validate_target(&self, cost: &MaskedCost) -> Result<()> {
        let fail =
            |field: &str, message: String| Err(Error::setting(format!("method.{field}"), message));
        if cost.layers().is_empty() {
            return fail(
                "name",
                "the network has no filters that can be masked".into(),
            );
        }
        if self.base_macs == Some(0) {
            return fail("base_macs", "expected at least 1, got 0".into());
        }
        let (base, share) = self.aim(cost);
        if !(share > 0.0 && share <= 1.0) {
            return fail(
                "target_macs",
                format!(
                    "expected more than 0 and at most the whole network's {base}, got {}",
                    self.target_macs
                ),
            );
        }
        let least = cost.at(&vec![0; cost.widths().len()]) as f64 / base;
        if share <= least {
            return fail(
                "target_macs",
                format!(
                    "expected more than the {:.1}% of the layers that are not masked, got {}",
                    100.0 * least,
                    self.target_macs
                ),
            );
        }
        Ok(())
    }
}

fn stage(recipe: &Recipe, epochs: usize, rate: f64, decay: f64, schedule: Schedule) -> Recipe {
    Recipe {
        epochs,
        learning_rate: rate,
        weight_decay: decay,
        warmup_epochs: 0,
        schedule,
        ..recipe.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settings_are_the_published_ones() {
        let resnet = dcff_models::by_name("resnet56").unwrap();
        let config = KdfsConfig::new(&resnet, [0, 350, 50]).unwrap();
        let recipe = Recipe {
            epochs: 400,
            ..Recipe::published_cifar()
        };
        let search = config.search(&recipe);
        let rate = |epoch: usize| search.rate(epoch - 1, 0, 196);
        // As the program prints them, but the first, which it trains with.
        for (epoch, expected) in [
            (1, 1e-2),
            (2, 1.2589e-4),
            (3, 1.5849e-4),
            (20, 7.9433e-3),
            (21, 1e-2),
            (22, 9.999_78e-3),
            (100, 8.664_84e-3),
            (350, 1.002_24e-4),
        ] {
            assert!(
                (rate(epoch) / expected - 1.0).abs() < 1e-4,
                "{epoch}: {}",
                rate(epoch)
            );
        }
        let tune = config.finetune(&recipe);
        let rate = |epoch: usize| tune.rate(epoch - 1, 0, 196);
        for (epoch, expected) in [(1, 1e-4), (2, 1.585e-6), (11, 1e-4), (50, 1.15e-6)] {
            assert!(
                (rate(epoch) / expected - 1.0).abs() < 1e-2,
                "{epoch}: {}",
                rate(epoch)
            );
        }
        let large =
            KdfsConfig::new(&dcff_models::by_name("resnet50").unwrap(), [0, 250, 20]).unwrap();
        assert_eq!(
            (
                large.search_learning_rate,
                large.search_warmup_epochs,
                large.finetune_warmup_epochs
            ),
            (4e-3, 10, 5)
        );
    }

    #[test]
    fn refuses_what_cannot_be_reached() {
        let full = dcff_models::by_name("resnet56").unwrap();
        let refused = |change: fn(&mut KdfsConfig)| {
            let mut config = KdfsConfig::new(&full, [2, 5, 1]).unwrap();
            config.validate(&full, 8, false).unwrap();
            change(&mut config);
            config.validate(&full, 8, false).unwrap_err().to_string()
        };
        assert_eq!(
            refused(|c| c.target_macs = "200000000".parse().unwrap()),
            "method.target_macs: expected more than 0 and at most the whole network's 125485696, got 200000000"
        );
        assert_eq!(
            refused(|c| c.target_macs = "0.2%".parse().unwrap()),
            "method.target_macs: expected more than the 0.4% of the layers that are not masked, got 0.2%"
        );
        assert_eq!(
            refused(|c| c.taps = vec!["layer9".into()]),
            "method.taps: resnet56 has no layer 'layer9'"
        );
        assert!(refused(|c| c.taps = vec!["layer1.0.bn1".into()]).contains("an output of its own"));
        assert_eq!(
            refused(|c| c.dense_epochs = 0),
            "method.teacher: expected a trained network (--teacher), or epochs to train one in (--dense-epochs)"
        );
        assert_eq!(
            refused(|c| c.finetune_epochs = 6),
            "recipe.epochs: expected at least 9, 2 of them dense, 1 of search and 6 of fine-tuning, got 8"
        );
    }
}
