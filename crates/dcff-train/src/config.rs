//! `config.toml`: everything that decides a run's numbers.

use candle_core::Device;
use dcff_data::Augmentation;
use dcff_models::{Architecture, Initialisation, Parameter};
use dcff_nn::{DeviceSettings, Precision};
use serde::{Deserialize, Deserializer, Serialize};

use crate::dense::DenseFrom;
use crate::methods::{Dense, FilterFusion, FilterFusionConfig, Prune, PruneConfig};
use crate::optimizers::Sgd;
use crate::schedule::Schedule;
use crate::{Error, Group, Method, Result};

/// The layout of `config.toml` this version writes.
const VERSION: u32 = 1;

/// A run's complete configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// The layout of this file.
    pub version: u32,
    /// The network's name.
    pub arch: String,
    /// Seeds everything: weights, order, augmentation, the method.
    pub seed: u64,
    /// What is trained on.
    pub data: DataConfig,
    /// How the network becomes compact.
    pub method: MethodConfig,
    /// How it is trained.
    pub recipe: Recipe,
}

/// What is trained on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// The data set's name or folder.
    pub name: String,
    /// SHA-256 of the training set, so that another copy of the data is noticed.
    pub train_fingerprint: String,
    /// SHA-256 of the test set.
    pub test_fingerprint: String,
    /// The share of the training images held out to choose the best epoch, 0 to 0.5; 0 chooses the last epoch.
    pub hold_out: f64,
    /// What is done to training images at random.
    pub augment: Augment,
}

/// What is done to training images at random.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Augment {
    /// What the data set's manifest says: for 32x32 images padding by 4, a random crop and a random flip.
    Standard,
    /// A random flip.
    Flip,
    /// Nothing.
    None,
}

impl Augment {
    /// Every choice with the name users type.
    pub const ALL: [(Self, &'static str); 3] = [
        (Self::Standard, "standard"),
        (Self::Flip, "flip"),
        (Self::None, "none"),
    ];

    /// The augmentation for data whose standard one is `standard`.
    pub fn of(self, standard: Augmentation) -> Augmentation {
        match self {
            Self::Standard => standard,
            Self::Flip => Augmentation { pad: 0, ..standard },
            Self::None => Augmentation::NONE,
        }
    }
}

/// How the network becomes compact.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case")]
pub enum MethodConfig {
    /// Not at all.
    #[serde(deserialize_with = "nothing_else")]
    Dense,
    /// Filters are scored every epoch and fused or selected.
    Dcff(FilterFusionConfig),
    /// A dense network is trained, pruned and fine-tuned.
    Prune(PruneConfig),
}

/// Reads a choice that has no settings: `deny_unknown_fields` does not reach a variant without any.
pub(crate) fn nothing_else<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(), D::Error> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Nothing {}
    Nothing::deserialize(deserializer).map(|Nothing {}| ())
}

impl MethodConfig {
    /// Training images that the method's criterion sees, where it reads images.
    pub fn evidence_images(&self) -> usize {
        match self {
            Self::Dense => 0,
            Self::Dcff(config) => config.evidence_images,
            Self::Prune(config) => config.evidence_images,
        }
    }

    /// The dense network of another run that this one starts from.
    pub fn dense_from(&self) -> Option<&DenseFrom> {
        match self {
            Self::Prune(config) => config.dense_from.as_ref(),
            Self::Dense | Self::Dcff(_) => None,
        }
    }

    /// The method, for a run seeded with `seed`.
    ///
    /// # Errors
    /// When a name in the configuration is unknown.
    pub fn build(&self, seed: u64) -> Result<Box<dyn Method>> {
        Ok(match self {
            Self::Dense => Box::new(Dense),
            Self::Dcff(config) => Box::new(FilterFusion::new(config.clone(), seed)?),
            Self::Prune(config) => Box::new(Prune::new(config.clone(), seed)?),
        })
    }

    /// The compact architecture of `full`.
    ///
    /// # Errors
    /// When the rates do not fit the architecture.
    pub fn compact(&self, full: &Architecture) -> Result<Architecture> {
        self.build(0)?.compact(full)
    }
}

/// How a network is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Passes over the training images.
    pub epochs: usize,
    /// Images per step.
    pub batch_size: usize,
    /// Before the schedule.
    pub learning_rate: f64,
    /// Of stochastic gradient descent.
    pub momentum: f64,
    /// Added to the gradients of all parameters.
    pub weight_decay: f64,
    /// Whether Nesterov's form of momentum is used.
    pub nesterov: bool,
    /// The share of the label's probability spread over all classes.
    pub label_smoothing: f64,
    /// Epochs of linear warm-up.
    pub warmup_epochs: usize,
    /// Whether the best epoch is chosen on the test images, as the paper does. Such a figure is not an estimate of
    /// accuracy on new images; reports say so.
    pub select_on_test: bool,
    /// Whether convolutions are plain sums of products, without Winograd's transforms: slower, rounding as elsewhere.
    #[serde(default)]
    pub direct_convolution: bool,
    /// What feature maps and their gradients are stored in during training. Weights, statistics, sums and every
    /// evaluation are single precision.
    #[serde(default)]
    pub precision: Precision,
    /// Whether a card may multiply the `f32` maps of convolutions in TensorFloat-32.
    #[serde(default)]
    pub tf32: bool,
    /// Whether a card must give the same bits every time; the CPU does anyway.
    #[serde(default)]
    pub deterministic: bool,
    /// How the learning rate falls.
    pub schedule: Schedule,
}

impl Recipe {
    /// The published CIFAR recipe: 300 epochs, batches of 256, rate 0.1 divided by 10 at epochs 150 and 225,
    /// momentum 0.9, weight decay 5e-4 (arXiv 2107.06916, section 4.1).
    pub fn published_cifar() -> Self {
        Self {
            epochs: 300,
            batch_size: 256,
            learning_rate: 0.1,
            momentum: 0.9,
            weight_decay: 5e-4,
            nesterov: false,
            label_smoothing: 0.0,
            warmup_epochs: 0,
            select_on_test: false,
            direct_convolution: false,
            precision: Precision::F32,
            tf32: false,
            deterministic: false,
            schedule: Schedule::MultiStep {
                milestones: vec![150, 225],
                gamma: 0.1,
            },
        }
    }

    /// A short recipe: batches of 128, rate 0.05 falling by half a cosine.
    pub fn quick(epochs: usize) -> Self {
        Self {
            epochs,
            batch_size: 128,
            learning_rate: 0.05,
            schedule: Schedule::cosine(),
            ..Self::published_cifar()
        }
    }

    /// [`Recipe::quick`] with a rate that suits the filters that `full` starts with.
    ///
    /// Behind batch norm a step turns a filter by the rate over its squared length. PyTorch's default filters have a sixth
    /// of the squared length of He's: at 0.05 the dense VGG-16 loses its first epochs, at 0.01 it learns from the first.
    pub fn quick_for(full: &Architecture, epochs: usize) -> Self {
        let quick = Self::quick(epochs);
        let learning_rate = match full.initialisation {
            Initialisation::Uniform => 0.01,
            _ => quick.learning_rate,
        };
        Self {
            learning_rate,
            ..quick
        }
    }

    /// The same recipe for a stage of `epochs` epochs at `learning_rate`: the schedule runs over the stage.
    pub fn for_stage(&self, epochs: usize, learning_rate: f64) -> Self {
        Self {
            epochs,
            learning_rate,
            schedule: self.schedule.scaled(self.epochs, epochs),
            ..self.clone()
        }
    }

    /// Has `device` compute as this recipe says.
    ///
    /// # Errors
    /// When the device cannot.
    pub fn configure(&self, device: &Device) -> Result<()> {
        let settings = DeviceSettings {
            tf32: self.tf32,
            deterministic: self.deterministic,
        };
        dcff_nn::configure(device, settings)
            .map_err(|error| Error::setting("recipe.tf32", crate::error::first_line(&error)))
    }

    /// The learning rate at `step` of `steps` in `epoch`.
    pub fn rate(&self, epoch: usize, step: usize, steps: usize) -> f64 {
        self.learning_rate
            * self
                .schedule
                .factor(epoch, self.epochs, step, steps, self.warmup_epochs)
    }

    /// A network's parameters in one group: weight decay reaches all of them, batch norm's included, as in the published
    /// recipe.
    pub fn groups(&self, parameters: &[Parameter]) -> Vec<Group> {
        let rule = Sgd {
            momentum: self.momentum,
            nesterov: self.nesterov,
        };
        vec![Group::whole(parameters, rule, self.weight_decay)]
    }
}

impl RunConfig {
    /// A configuration in this version's layout.
    pub fn new(
        arch: impl Into<String>,
        seed: u64,
        data: DataConfig,
        method: MethodConfig,
        recipe: Recipe,
    ) -> Self {
        Self {
            version: VERSION,
            arch: arch.into(),
            seed,
            data,
            method,
            recipe,
        }
    }

    /// Checks every setting's range.
    ///
    /// # Errors
    /// The first setting out of range, with what was expected and what came.
    pub fn validate(&self) -> Result<()> {
        let range = |field: &str, value: f64, low: f64, high: f64| {
            if (low..=high).contains(&value) {
                Ok(())
            } else {
                Err(Error::setting(
                    field,
                    format!("expected {low} to {high}, got {value}"),
                ))
            }
        };
        let positive = |field: &str, value: usize| {
            if value > 0 {
                Ok(())
            } else {
                Err(Error::setting(field, "expected at least 1, got 0"))
            }
        };
        if self.version != VERSION {
            return Err(Error::setting(
                "version",
                format!("expected {VERSION}, got {}", self.version),
            ));
        }
        let recipe = &self.recipe;
        positive("recipe.epochs", recipe.epochs)?;
        positive("recipe.batch_size", recipe.batch_size)?;
        range("recipe.learning_rate", recipe.learning_rate, 0.0, 1e6)?;
        range("recipe.momentum", recipe.momentum, 0.0, 1.0)?;
        range("recipe.weight_decay", recipe.weight_decay, 0.0, 1e6)?;
        range("recipe.label_smoothing", recipe.label_smoothing, 0.0, 1.0)?;
        if let MethodConfig::Prune(prune) = &self.method {
            prune.validate(recipe.epochs)?;
        }
        if self.method != MethodConfig::Dense {
            positive("method.evidence_images", self.method.evidence_images())?;
        }
        range("data.hold_out", self.data.hold_out, 0.0, 0.5)?;
        // config.toml keeps integers in 64 signed bits.
        if i64::try_from(self.seed).is_err() {
            return Err(Error::setting(
                "seed",
                format!("expected 0 to {}, got {}", i64::MAX, self.seed),
            ));
        }
        recipe.schedule.validate()
    }

    /// The first setting in which `other` differs, as `field: expected A, got B`.
    pub fn difference(&self, other: &Self) -> Option<String> {
        let (Ok(a), Ok(b)) = (serde_json::to_value(self), serde_json::to_value(other)) else {
            return None;
        };
        first_difference("", &a, &b)
    }
}

pub(crate) fn first_difference(
    path: &str,
    a: &serde_json::Value,
    b: &serde_json::Value,
) -> Option<String> {
    use serde_json::Value;
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            let keys: std::collections::BTreeSet<_> = x.keys().chain(y.keys()).collect();
            keys.into_iter().find_map(|key| {
                let path = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                first_difference(
                    &path,
                    x.get(key).unwrap_or(&Value::Null),
                    y.get(key).unwrap_or(&Value::Null),
                )
            })
        }
        _ if a == b => None,
        _ => Some(format!("{path}: expected {a}, got {b}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> RunConfig {
        let data = DataConfig {
            name: "synthetic".into(),
            train_fingerprint: "a".into(),
            test_fingerprint: "b".into(),
            hold_out: 0.1,
            augment: Augment::Standard,
        };
        RunConfig::new(
            "vgg16",
            1,
            data,
            MethodConfig::Dense,
            Recipe::published_cifar(),
        )
    }

    #[test]
    fn survives_toml() {
        let text = toml::to_string(&config()).unwrap();
        assert_eq!(toml::from_str::<RunConfig>(&text).unwrap(), config());
        assert!(text.contains("kind = \"multi-step\""), "{text}");
        assert!(text.contains("precision = \"f32\""), "{text}");
    }

    #[test]
    fn no_key_is_passed_over() {
        let dcff = FilterFusionConfig::new("0.5".parse().unwrap());
        for (method, name) in [
            (MethodConfig::Dense, "dense"),
            (MethodConfig::Dcff(dcff), "dcff"),
        ] {
            for schedule in ["cosine", "constant"] {
                let mut config = config();
                config.method = method.clone();
                config.recipe.schedule = match schedule {
                    "cosine" => Schedule::cosine(),
                    _ => Schedule::Constant,
                };
                let text = toml::to_string(&config).unwrap();
                assert_eq!(toml::from_str::<RunConfig>(&text).unwrap(), config);
                for (line, key) in [
                    (format!("name = \"{name}\"\n"), "temprature"),
                    (format!("kind = \"{schedule}\"\n"), "gamma"),
                ] {
                    assert!(text.contains(&line), "{text}");
                    let more = text.replace(&line, &format!("{line}{key} = 1\n"));
                    let error = toml::from_str::<RunConfig>(&more).unwrap_err();
                    let message = error.message();
                    assert!(
                        message.contains(&format!("unknown field `{key}`")),
                        "{message}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_recipe_without_a_precision_is_of_single_precision() {
        let mut bf16 = config();
        bf16.recipe.precision = Precision::Bf16;
        let text = toml::to_string(&bf16).unwrap();
        assert_eq!(toml::from_str::<RunConfig>(&text).unwrap(), bf16);
        let text = text.replace("precision = \"bf16\"\n", "");
        assert_eq!(toml::from_str::<RunConfig>(&text).unwrap(), config());
        assert_eq!(
            bf16.difference(&config()).unwrap(),
            "recipe.precision: expected \"bf16\", got \"f32\""
        );
    }

    #[test]
    fn names_the_setting_that_differs() {
        let mut other = config();
        assert_eq!(config().difference(&other), None);
        other.recipe.learning_rate = 0.2;
        assert_eq!(
            config().difference(&other).unwrap(),
            "recipe.learning_rate: expected 0.1, got 0.2"
        );
    }

    #[test]
    fn names_the_setting_out_of_range() {
        let mut bad = config();
        bad.recipe.momentum = 1.5;
        assert_eq!(
            bad.validate().unwrap_err().to_string(),
            "recipe.momentum: expected 0 to 1, got 1.5"
        );
        let mut bad = config();
        bad.recipe.learning_rate = f64::NAN;
        assert!(
            bad.validate()
                .unwrap_err()
                .to_string()
                .starts_with("recipe.learning_rate: expected")
        );
        let mut bad = config();
        bad.recipe.batch_size = 0;
        assert_eq!(
            bad.validate().unwrap_err().to_string(),
            "recipe.batch_size: expected at least 1, got 0"
        );
    }

    #[test]
    fn the_quick_rate_suits_the_first_filters() {
        let rate = |name| Recipe::quick_for(&dcff_models::by_name(name).unwrap(), 15).learning_rate;
        let rates = ["vgg16", "googlenet", "resnet20", "resnet50"].map(rate);
        assert_eq!(rates, [0.01, 0.01, 0.05, 0.05]);
    }
}
