//! The list of known datasets, read from the manifests in this crate's `datasets/`: each fact about a dataset is written there and nowhere else.
//!
//! A new dataset is one manifest in that folder, one line in [`MANIFESTS`], and, if its files have a layout of their own, an entry in
//! `locate`.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use crate::{Augmentation, Error, Normalisation, Result};

/// In the order in which help texts list them.
const MANIFESTS: &[&str] = &[
    include_str!("../datasets/cifar10.toml"),
    include_str!("../datasets/cifar10-subset.toml"),
    include_str!("../datasets/synthetic.toml"),
];

/// What is known about a dataset before (or, for a folder of images, after) its files are read.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DatasetInfo {
    /// What a user types.
    pub name: String,
    /// One line for help texts.
    pub about: String,
    /// `[C, H, W]` of every image.
    pub shape: [usize; 3],
    /// Class names in label order.
    pub classes: Vec<String>,
    /// Images to train on.
    pub train_images: usize,
    /// Images to test on.
    pub test_images: usize,
    /// Where it comes from: a page, or a folder.
    pub source: String,
    /// Under which terms.
    pub licence: String,
    /// With which figures a result on it may be compared.
    pub comparable: String,
    /// Mean and deviation per channel.
    pub normalisation: Normalisation,
    /// What training does to images unless told otherwise.
    pub augmentation: Augmentation,
    /// The dataset this one is a part of, if any.
    pub subset_of: Option<String>,
    /// Where the Hub keeps it, if it does.
    pub hub: Option<HubFiles>,
    /// Version and seed of the generator, for built-in data.
    pub generator: Option<Generator>,
    /// What [`crate::Dataset::fingerprint`] must give, where that does not depend on the image encoding.
    pub fingerprints: Option<Fingerprints>,
}

/// A dataset repository of the Hugging Face Hub.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HubFiles {
    /// `owner/name`.
    pub repo: String,
    /// Branch, tag or commit.
    pub revision: String,
    /// The files of the dataset.
    pub files: Vec<HubFile>,
}

/// One file of a Hub repository.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HubFile {
    /// Path inside the repository.
    pub path: String,
    /// Size in bytes, if known for certain.
    #[serde(default)]
    pub size: Option<u64>,
    /// SHA-256 in hex, if known for certain.
    #[serde(default)]
    pub sha256: Option<String>,
}

/// How built-in data is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Generator {
    /// Raised whenever the same seed gives other pixels.
    pub version: u32,
    /// The default seed.
    pub seed: u64,
}

/// SHA-256 of the two sets, see [`crate::Dataset::fingerprint`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fingerprints {
    /// Of the training set.
    pub train: String,
    /// Of the test set.
    pub test: String,
}

/// A manifest as written: a subset leaves out what it shares with the whole.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    name: String,
    about: String,
    subset_of: Option<String>,
    shape: Option<[usize; 3]>,
    classes: Option<Vec<String>>,
    train_images: usize,
    test_images: usize,
    source: Option<String>,
    licence: Option<String>,
    comparable: String,
    normalisation: Option<Normalisation>,
    augmentation: Option<Augmentation>,
    hub: Option<HubFiles>,
    generator: Option<Generator>,
    fingerprints: Option<Fingerprints>,
}

impl Manifest {
    fn complete(self, earlier: &[DatasetInfo]) -> std::result::Result<DatasetInfo, String> {
        let whole = match &self.subset_of {
            Some(name) => Some(
                earlier
                    .iter()
                    .find(|info| &info.name == name)
                    .ok_or_else(|| format!("{}: `{name}` is not listed before it", self.name))?,
            ),
            None => None,
        };
        let missing = |field: &str| format!("{}: {field} is missing", self.name);
        Ok(DatasetInfo {
            shape: self
                .shape
                .or(whole.map(|w| w.shape))
                .ok_or_else(|| missing("shape"))?,
            classes: self
                .classes
                .or_else(|| whole.map(|w| w.classes.clone()))
                .ok_or_else(|| missing("classes"))?,
            source: self
                .source
                .or_else(|| whole.map(|w| w.source.clone()))
                .ok_or_else(|| missing("source"))?,
            licence: self
                .licence
                .or_else(|| whole.map(|w| w.licence.clone()))
                .ok_or_else(|| missing("licence"))?,
            normalisation: self
                .normalisation
                .or_else(|| whole.map(|w| w.normalisation.clone()))
                .ok_or_else(|| missing("normalisation"))?,
            augmentation: self
                .augmentation
                .or(whole.map(|w| w.augmentation))
                .ok_or_else(|| missing("augmentation"))?,
            hub: self.hub.or_else(|| whole.and_then(|w| w.hub.clone())),
            name: self.name,
            about: self.about,
            train_images: self.train_images,
            test_images: self.test_images,
            comparable: self.comparable,
            subset_of: self.subset_of,
            generator: self.generator,
            fingerprints: self.fingerprints,
        })
    }
}

/// All known datasets, in the order of the help texts.
pub fn known() -> &'static [DatasetInfo] {
    static KNOWN: LazyLock<Vec<DatasetInfo>> = LazyLock::new(|| {
        let mut list = Vec::new();
        for text in MANIFESTS {
            // The texts are compiled in and a test parses them, so this cannot fail in a program that was built.
            let manifest: Manifest = toml::from_str(text).expect("manifest in datasets/");
            let info = manifest.complete(&list).expect("manifest in datasets/");
            list.push(info);
        }
        list
    });
    &KNOWN
}

/// The names of all known datasets, comma-separated.
pub fn known_names() -> String {
    let names: Vec<&str> = known().iter().map(|info| info.name.as_str()).collect();
    names.join(", ")
}

/// The entry called `name`.
///
/// # Errors
/// If there is none; the message lists the known names.
pub fn find(name: &str) -> Result<&'static DatasetInfo> {
    known()
        .iter()
        .find(|info| info.name == name)
        .ok_or_else(|| Error::UnknownDataset {
            name: name.to_owned(),
            known: known_names(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_parse_and_fit_together() {
        for info in known() {
            let channels = info.shape[0];
            assert!(info.normalisation.tables(channels).is_ok(), "{}", info.name);
            assert!(!info.classes.is_empty() && info.train_images > 0 && info.test_images > 0);
            assert!(!info.about.contains('\n') && !info.about.ends_with('.'));
        }
        assert_eq!(known_names(), "cifar10, cifar10-subset, synthetic");
    }

    #[test]
    fn every_manifest_in_the_folder_is_listed() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../datasets");
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter_map(|file| file.strip_suffix(".toml").map(str::to_owned))
            .collect();
        files.sort();
        let mut names: Vec<&str> = known().iter().map(|info| info.name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(files, names);
    }

    #[test]
    fn a_subset_inherits_from_the_whole() {
        let (whole, subset) = (find("cifar10").unwrap(), find("cifar10-subset").unwrap());
        assert_eq!(subset.classes[3], "cat");
        assert_eq!(subset.normalisation, whole.normalisation);
        assert_eq!(subset.hub, whole.hub);
        assert_eq!((subset.train_images, whole.train_images), (5_000, 50_000));
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        assert_eq!(
            find("cifar11").unwrap_err().to_string(),
            "unknown dataset `cifar11`: known are cifar10, cifar10-subset, synthetic, `folder:PATH`, or a path to a folder"
        );
    }
}
