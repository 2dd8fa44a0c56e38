//! The images of a run.

use std::sync::Arc;

use dcff_data::{Augmentation, Dataset, Normalisation, Splits};
use dcff_models::Architecture;
use dcff_run::{Augment, DataConfig, RunConfig};

use crate::error::{Error, Result};
use crate::seed::{Purpose, derive_seed};

/// The augmentation for data whose standard one is `standard`.
pub fn augmentation(choice: Augment, standard: Augmentation) -> Augmentation {
    match choice {
        Augment::Standard => standard,
        Augment::Crop => Augmentation {
            flip: false,
            ..standard
        },
        Augment::Flip => Augmentation { pad: 0, ..standard },
        Augment::Imagenet => Augmentation::IMAGENET,
        Augment::None => Augmentation::NONE,
    }
}

/// What a run trains on: images and how they become the network's input.
#[derive(Clone, Debug)]
pub struct Data {
    /// Training images.
    pub train: Arc<Dataset>,
    /// Test images.
    pub test: Arc<Dataset>,
    /// Mean and deviation of each channel.
    pub normalisation: Normalisation,
    /// What is done to training images when the configuration asks for augmentation.
    pub augmentation: Augmentation,
}

impl Data {
    /// The images of `splits`, which become the network's input by `normalisation`.
    pub fn new(splits: Splits, normalisation: Normalisation, augmentation: Augmentation) -> Self {
        Self {
            train: Arc::new(splits.train),
            test: Arc::new(splits.test),
            normalisation,
            augmentation,
        }
    }

    /// What `config.toml` says of these images, called `name`, with the share `hold_out` of the training images held out and the
    /// standard augmentation.
    pub fn config(&self, name: impl Into<String>, hold_out: f64) -> DataConfig {
        DataConfig {
            train_fingerprint: self.train.fingerprint().to_owned(),
            test_fingerprint: self.test.fingerprint().to_owned(),
            ..DataConfig::named(name, hold_out)
        }
    }

    /// Checks that these images are those of `config` and fit the network `full`.
    ///
    /// # Errors
    /// When their hashes, size or number of classes differ, or holding out leaves nothing to train on or to validate.
    pub fn check(&self, config: &RunConfig, full: &Architecture) -> Result<()> {
        let check = |field: &str, dataset: &Dataset, expected: &str| {
            if dataset.fingerprint() != expected {
                let message = format!(
                    "expected the images with SHA-256 {expected}, got {}: this is another copy of the data",
                    dataset.fingerprint()
                );
                return Err(Error::setting(field, message));
            }
            Ok(())
        };
        check(
            "data.train_fingerprint",
            &self.train,
            &config.data.train_fingerprint,
        )?;
        check(
            "data.test_fingerprint",
            &self.test,
            &config.data.test_fingerprint,
        )?;
        let shape = self.train.shape();
        if shape != full.input {
            let message = format!(
                "{} expects images of {:?} (channels, height, width), got {shape:?}",
                config.arch, full.input
            );
            return Err(Error::setting("data.name", message));
        }
        let (logits, classes) = (full.shapes()?.classes(), self.train.classes().len());
        if logits != classes {
            return Err(Error::setting(
                "data.name",
                format!("{} has {logits} classes, the data {classes}", config.arch),
            ));
        }
        self.held_out(config).map(|_| ())
    }

    /// The positions of training and validation images that `config` asks for, the latter none without a hold-out.
    pub(crate) fn held_out(&self, config: &RunConfig) -> Result<(Vec<usize>, Vec<usize>)> {
        let train = &self.train;
        match config.data.hold_out {
            fraction if fraction > 0.0 => {
                let seed = derive_seed(config.seed, Purpose::HoldOut, 0);
                train
                    .hold_out_indices(fraction, seed)
                    .map_err(|error| Error::setting("data.hold_out", error.to_string()))
            }
            _ => Ok(((0..train.len()).collect(), Vec::new())),
        }
    }
}
