//! `config.toml`: everything that decides a run's numbers.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::recipe::Recipe;
use crate::toml_file;

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
    /// The trained network whose answers are learned beside the labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distil: Option<Distil>,
}

/// A trained network whose answers are learned beside the labels.
///
/// ```text
/// L = cross-entropy + weight T² mean_n Σ_k p_t (log p_t - log p_s),   p = softmax(z / T)
/// ```
///
/// Hinton, Vinyals and Dean, *Distilling the Knowledge in a Neural Network*, 2015, <https://arxiv.org/abs/1503.02531>.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Distil {
    /// What its term is multiplied by.
    pub weight: f64,
    /// `T`, what logits are divided by.
    pub temperature: f64,
    /// The trained network.
    pub teacher: DenseFrom,
}

impl Distil {
    /// `teacher` with the usual weight and temperature.
    pub fn new(teacher: DenseFrom) -> Self {
        Self {
            weight: 1.0,
            temperature: 4.0,
            teacher,
        }
    }
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

    /// The share of a resized image that is kept for testing: 224 of 256 where training saw parts of images.
    pub fn crop_pct(self) -> Option<f64> {
        (self == Self::Imagenet).then_some(0.875)
    }
}

/// A method's table in `config.toml`.
pub type Settings = BTreeMap<String, Value>;

/// How the network becomes compact: a method's name and its table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MethodConfig {
    /// The method's name.
    pub name: String,
    /// Its settings.
    #[serde(flatten)]
    pub settings: Settings,
}

/// The setting that names the run whose dense network is taken over, in every method that has a dense stage.
pub const DENSE_FROM: &str = "dense_from";

/// The setting that names a trained network that teaches, in every method that has a teacher.
const TEACHER: &str = "teacher";

/// Another run, or folder with a trained network, that is read: its dense network is taken over, or it teaches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DenseFrom {
    /// The run's folder.
    pub run: PathBuf,
    /// SHA-256 of the weights.
    pub sha256: String,
}

impl MethodConfig {
    /// The method `name` with the table `settings`.
    ///
    /// # Errors
    /// When the settings are no table.
    pub fn new(name: &str, settings: impl Serialize) -> Result<Self> {
        let table = serde_json::to_value(settings).and_then(serde_json::from_value::<Settings>);
        Ok(Self {
            name: name.to_owned(),
            settings: table.map_err(|error| Error::setting("method", error.to_string()))?,
        })
    }

    /// The method `name` without settings.
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            settings: Settings::new(),
        }
    }

    /// The table as the settings of a method.
    ///
    /// # Errors
    /// The first setting that is unknown, or whose value is none.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T> {
        // By way of TOML, whose errors name the key.
        let table = toml::Table::try_from(&self.settings)
            .map_err(|error| Error::setting("method", error.to_string()))?;
        toml_file::of_table(table).map_err(|(keys, message)| {
            let keys = keys.map_or("method".to_owned(), |keys| format!("method.{keys}"));
            Error::setting(keys, message)
        })
    }

    /// The setting `key` as text, where it is one.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.settings.get(key).and_then(Value::as_str)
    }

    /// The run whose dense network is taken over.
    pub fn dense_from(&self) -> Option<DenseFrom> {
        let value = self.settings.get(DENSE_FROM)?;
        serde_json::from_value(value.clone()).ok()
    }

    /// The trained network that teaches.
    pub fn teacher(&self) -> Option<DenseFrom> {
        let value = self.settings.get(TEACHER)?;
        serde_json::from_value(value.clone()).ok()
    }

    /// Trains its own dense network.
    pub fn forget_dense_from(&mut self) {
        self.settings.remove(DENSE_FROM);
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
            distil: None,
        }
    }

    /// Checks every setting's range but the method's, which its plan checks.
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
        range("data.hold_out", self.data.hold_out, 0.0, 0.5)?;
        if let Some(distil) = &self.distil {
            range("distil.weight", distil.weight, 0.0, 1e6)?;
            range("distil.temperature", distil.temperature, 0.01, 1e6)?;
        }
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
    /// Where the images lay is no setting, nor where a teacher lay; neither is what they are called, once fingerprints say which they are.
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
        // Weights are told by their hash, wherever they lie.
        if let (Some(own), Some(others)) = (&self.distil, &mut other.distil)
            && own.teacher.sha256 == others.teacher.sha256
        {
            others.teacher.run.clone_from(&own.teacher.run);
        }
        if let (Some(own), Some(others)) = (self.method.teacher(), other.method.teacher())
            && own.sha256 == others.sha256
            && let Some(run) = self.method.settings.get(TEACHER)
        {
            other
                .method
                .settings
                .insert(TEACHER.to_owned(), run.clone());
        }
        let (Ok(a), Ok(b)) = (serde_json::to_value(self), serde_json::to_value(other)) else {
            return None;
        };
        first_difference("", &a, &b)
    }
}

/// The first entry in which two JSON values differ, as `path: expected A, got B`.
pub fn first_difference(
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
    use crate::precision::Precision;

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
            MethodConfig::named("dense"),
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
}
