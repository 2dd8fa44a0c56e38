//! `config.toml`: everything that decides a run's numbers.

use std::collections::BTreeMap;
use std::path::PathBuf;

use candle_core::Device;
use dcff_data::Augmentation;
use dcff_models::{Architecture, Initialisation};
use dcff_nn::{DeviceSettings, Precision, SgdConfig};
use serde::{Deserialize, Deserializer, Serialize};

use crate::dense::DenseFrom;
use crate::methods::{Dense, FilterFusion, FilterFusionConfig, Prune, PruneConfig};
use crate::schedule::Schedule;
use crate::{Error, Method, Result};

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
    /// Channels, height and width that the images were brought to, where these are not the network's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_size: Option<[usize; 3]>,
    /// Images left out since they could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped: Option<usize>,
    /// Where a folder of images lay: a hint for those who resume, no setting. The fingerprints say which images they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
}

impl DataConfig {
    /// The data set `name` whose fingerprints are not known yet, with standard augmentation.
    pub fn named(name: impl Into<String>, hold_out: f64) -> Self {
        Self {
            name: name.into(),
            train_fingerprint: String::new(),
            test_fingerprint: String::new(),
            hold_out,
            augment: Augment::Standard,
            input_size: None,
            skipped: None,
            path: None,
        }
    }

    /// As it may be told to others: a folder of images is called by its name, its place is nobody's business.
    pub fn without_place(&self) -> Self {
        Self {
            name: without_place(&self.name),
            path: None,
            ..self.clone()
        }
    }
}

/// The name of a data set that is a folder, without the folders above it.
fn without_place(name: &str) -> String {
    if dcff_data::find(name).is_ok() {
        return name.to_owned();
    }
    let last = name.rsplit(['/', '\\']).find(|part| !part.is_empty());
    let last = last.unwrap_or(name).trim_start_matches("folder:");
    format!("folder:{last}")
}

/// Takes out of what an artefact says of its making what only means something on the machine where it was made: where images
/// lay, and which run a dense stage was taken over from (training it gives the same bits).
pub fn forget_places(provenance: &mut BTreeMap<String, serde_json::Value>) {
    for entry in provenance.values_mut() {
        if let Some(data) = entry.get_mut("data").and_then(|data| data.as_object_mut()) {
            data.remove("path");
            if let Some(serde_json::Value::String(name)) = data.get_mut("name") {
                *name = without_place(name);
            }
        }
        if let Some(method) = entry.get_mut("method").and_then(|m| m.as_object_mut()) {
            method.remove("dense_from");
        }
    }
}

/// What is done to training images at random.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Augment {
    /// What the data set's manifest says: for 32x32 images padding by 4, a random crop and a random flip.
    Standard,
    /// Padding and a random crop: for digits and signs, which mirrored are others.
    Crop,
    /// A random flip.
    Flip,
    /// A random part of the whole image, of 8 to 100 % of its area, resized to the network's size, and a random flip; tested on the
    /// middle of the image resized to 8/7 of the network's size.
    Imagenet,
    /// Nothing.
    None,
}

impl Augment {
    /// Every choice with the name users type.
    pub const ALL: [(Self, &'static str); 5] = [
        (Self::Standard, "standard"),
        (Self::Crop, "crop"),
        (Self::Flip, "flip"),
        (Self::Imagenet, "imagenet"),
        (Self::None, "none"),
    ];

    /// The augmentation for data whose standard one is `standard`.
    pub fn of(self, standard: Augmentation) -> Augmentation {
        match self {
            Self::Standard => standard,
            Self::Crop => Augmentation {
                flip: false,
                ..standard
            },
            Self::Flip => Augmentation { pad: 0, ..standard },
            Self::Imagenet => Augmentation::IMAGENET,
            Self::None => Augmentation::NONE,
        }
    }

    /// The share of a resized image that is kept for testing: 224 of 256 where training saw parts of images.
    pub fn crop_pct(self) -> Option<f64> {
        (self == Self::Imagenet).then_some(0.875)
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
            schedule: Schedule::Cosine,
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

    /// The optimiser's settings at `step` of `steps` in `epoch`.
    pub fn sgd(&self, epoch: usize, step: usize, steps: usize) -> SgdConfig {
        SgdConfig {
            lr: self.learning_rate
                * self
                    .schedule
                    .factor(epoch, self.epochs, step, steps, self.warmup_epochs),
            momentum: self.momentum,
            weight_decay: self.weight_decay,
            nesterov: self.nesterov,
        }
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
    ///
    /// Where the images lay is no setting; neither is what they are called, once fingerprints say which they are.
    pub fn difference(&self, other: &Self) -> Option<String> {
        let mut other = other.clone();
        let known = |data: &DataConfig| {
            let prints = [&data.train_fingerprint, &data.test_fingerprint];
            prints.map(String::clone)
        };
        let prints = known(&self.data);
        if prints == known(&other.data) && prints.iter().all(|print| !print.is_empty()) {
            other.data.name.clone_from(&self.data.name);
        }
        other.data.path.clone_from(&self.data.path);
        let (Ok(a), Ok(b)) = (serde_json::to_value(self), serde_json::to_value(other)) else {
            return None;
        };
        first_difference("", &a, &b)
    }

    /// The whole network of this configuration, before anything is pruned, for images of its size.
    ///
    /// # Errors
    /// When its name is unknown.
    pub fn full(&self) -> Result<Architecture> {
        let full = dcff_models::by_name(&self.arch)?;
        Ok(match self.data.input_size {
            Some(input) => full.with_input(input),
            None => full,
        })
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
            train_fingerprint: "a".into(),
            test_fingerprint: "b".into(),
            ..DataConfig::named("synthetic", 0.1)
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
                    "cosine" => Schedule::Cosine,
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
    fn a_place_is_no_setting_and_a_name_none_beside_fingerprints() {
        let mut moved = config();
        moved.data.name = "elsewhere/pictures".into();
        moved.data.path = Some("/elsewhere/pictures".into());
        assert_eq!(config().difference(&moved), None);
        moved.data.train_fingerprint.clear();
        let mut unknown = config();
        unknown.data.train_fingerprint.clear();
        assert_eq!(
            unknown.difference(&moved).unwrap(),
            "data.name: expected \"synthetic\", got \"elsewhere/pictures\""
        );
    }

    #[test]
    fn places_are_not_told() {
        for (name, told) in [
            ("cifar10", "cifar10"),
            ("/home/me/cats", "folder:cats"),
            ("folder:C:\\me\\cats\\", "folder:cats"),
        ] {
            let mut config = config();
            config.data.name = name.into();
            config.data.path = Some("/home/me/cats".into());
            assert_eq!(config.data.without_place().name, told);
            assert_eq!(config.data.without_place().path, None);
            let value = serde_json::to_value(&config).unwrap();
            let mut provenance = BTreeMap::from([("config".to_owned(), value)]);
            forget_places(&mut provenance);
            let data = &provenance["config"]["data"];
            assert_eq!(data["name"], told);
            assert!(data.get("path").is_none(), "{data}");
        }
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
