//! The built-in dataset: ten classes of drawn shapes and textures, 32x32 in colour, deterministic from a seed.
//!
//! Every image has its own random stream, so drawing is parallel and the pixels do not depend on the number of threads; training and
//! test images come from different streams. Drawing uses only arithmetic and square roots, which IEEE 754 fixes to the bit, so every
//! platform draws the same pixels; the manifest keeps their fingerprints.
//!
//! Position, size, aspect, rotation, colours, lighting, clutter in front and behind and noise are random and drawn the same way for
//! every class: only the form tells the class. [`crate::linear_baseline`] measures how much of it a linear model sees.

mod canvas;
mod forms;

use rayon::prelude::*;

use crate::manifest::find;
use crate::random::Stream;
use crate::{Dataset, Error, Result, Splits};

use canvas::{CHANNELS, SIDE};
use forms::FORMS;

/// How much to draw, and from which seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SyntheticConfig {
    /// Training images.
    pub train: usize,
    /// Test images.
    pub test: usize,
    /// The same seed draws the same images; image `i` does not depend on how many there are.
    pub seed: u64,
}

impl Default for SyntheticConfig {
    /// Sizes and seed of the manifest: 5,000 and 1,000 images.
    fn default() -> Self {
        let info = find("synthetic").expect("a compiled-in manifest");
        Self {
            train: info.train_images,
            test: info.test_images,
            seed: info.generator.map_or(0, |generator| generator.seed),
        }
    }
}

/// Draws both sets, `[N, 3, 32, 32]`; classes take turns, so each set is balanced.
///
/// # Errors
/// If a size is 0.
pub fn synthetic(config: &SyntheticConfig) -> Result<Splits> {
    Splits::new(
        draw("synthetic train", config.train, config.seed, 0)?,
        draw("synthetic test", config.test, config.seed, 1)?,
    )
}

/// Draws `count` images from the streams of one split.
fn draw(name: &str, count: usize, seed: u64, split: u64) -> Result<Dataset> {
    const LEN: usize = CHANNELS * SIDE * SIDE;
    let too_many = || Error::invalid(name, format!("{count} images do not fit into memory"));
    let mut pixels = vec![0; count.checked_mul(LEN).ok_or_else(too_many)?];
    pixels
        .par_chunks_exact_mut(LEN)
        .enumerate()
        .for_each(|(index, out)| {
            let mut stream = Stream::indexed(seed, split << 40 | index as u64);
            canvas::draw(FORMS[index % FORMS.len()].1, &mut stream, out);
        });
    let labels = (0..count)
        .map(|index| (index % FORMS.len()) as u32)
        .collect();
    let classes = FORMS.iter().map(|(name, _)| (*name).to_owned()).collect();
    Dataset::new(name, [CHANNELS, SIDE, SIDE], classes, labels, pixels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_sets_have_the_fingerprints_of_the_manifest() {
        let info = find("synthetic").unwrap();
        let splits = synthetic(&SyntheticConfig::default()).unwrap();
        let expected = info.fingerprints.as_ref().unwrap();
        let got = (splits.train.fingerprint(), splits.test.fingerprint());
        // If drawing changed on purpose: raise `generator.version` in datasets/synthetic.toml and write these there.
        assert_eq!(got, (expected.train.as_str(), expected.test.as_str()));
        assert_eq!(splits.train.classes(), info.classes);
        assert_eq!(splits.train.shape(), info.shape);
    }

    #[test]
    fn the_manifest_normalises_to_about_mean_0_and_deviation_1() {
        let info = find("synthetic").unwrap();
        let splits = synthetic(&SyntheticConfig::default()).unwrap();
        let measured = crate::Normalisation::of(&splits.train);
        for channel in 0..3 {
            assert!(
                (measured.mean[channel] - info.normalisation.mean[channel]).abs() < 0.02,
                "{measured:?}"
            );
            assert!(
                (measured.std[channel] - info.normalisation.std[channel]).abs() < 0.02,
                "{measured:?}"
            );
        }
    }

    #[test]
    fn pixels_depend_on_neither_threads_nor_the_number_of_images() {
        let config = |train| SyntheticConfig {
            train,
            test: 10,
            seed: 5,
        };
        let pool = |threads| {
            rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap()
        };
        let many = pool(3).install(|| synthetic(&config(40))).unwrap();
        let few = pool(1).install(|| synthetic(&config(20))).unwrap();
        assert_eq!(
            few.train.pixels(),
            &many.train.pixels()[..few.train.pixels().len()]
        );
        assert_eq!(few.test.pixels(), many.test.pixels());
        // Different streams: the first test image is not the first training image.
        assert_ne!(few.train.image(0), few.test.image(0));
        let other = synthetic(&SyntheticConfig {
            seed: 6,
            ..config(20)
        })
        .unwrap();
        assert_ne!(few.train.image(0), other.train.image(0));
    }

    #[test]
    fn colour_does_not_tell_the_class() {
        // Images of one pixel, the mean colour. The foreground is mostly the brighter part and the forms' areas differ a little,
        // so this is not exactly chance (10 %); the classes' own colours would give far more.
        let mean_colours = |set: &Dataset| {
            let means = set.pixels().chunks(SIDE * SIDE).map(|plane| {
                let sum: u32 = plane.iter().map(|&pixel| u32::from(pixel)).sum();
                (sum / (SIDE * SIDE) as u32) as u8
            });
            let (labels, classes) = (set.labels().to_vec(), set.classes().to_vec());
            Dataset::new("means", [CHANNELS, 1, 1], classes, labels, means.collect()).unwrap()
        };
        let splits = synthetic(&SyntheticConfig {
            train: 2_000,
            test: 1_000,
            seed: 1,
        })
        .unwrap();
        let means = Splits::new(mean_colours(&splits.train), mean_colours(&splits.test)).unwrap();
        let accuracy = crate::linear_baseline(&means);
        assert!(accuracy < 0.15, "{accuracy}");
    }

    #[test]
    fn no_images_is_an_error() {
        let config = SyntheticConfig {
            train: 0,
            ..Default::default()
        };
        assert_eq!(
            synthetic(&config).unwrap_err().to_string(),
            "synthetic train: expected at least 1 image, got 0"
        );
    }
}
