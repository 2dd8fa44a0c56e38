//! Importance criteria for the filters of a convolution.
//!
//! A [`Criterion`] scores the filters of one layer, and does nothing else: a high score means "keep".
//! How many filters stay, and whether the others are dropped or fused into them, is decided in `dcff-fusion`, so every
//! criterion works with every keep mode.
//!
//! This crate deliberately knows no networks, no rates, no files and no data.
//!
//! # Adding a criterion
//! One file with a unit struct that implements [`Criterion`], and one entry in [`ALL`].
//! It then has a command-line name, a help line and the conformance suite of [`testing`].
//!
//! # Example
//! ```
//! use candle_core::{Device, Tensor};
//! use dcff_criteria::{LayerEvidence, by_name};
//!
//! // Four filters of one weight each; the last is unlike the others.
//! let filters = Tensor::new(&[0.0f32, 0.1, 0.2, 5.0], &Device::Cpu)?.reshape((4, 1, 1, 1))?;
//! let evidence = LayerEvidence::new("conv1", &filters, 1.0)?;
//! let scores = by_name("kl")?.score(&evidence)?;
//! assert!(scores[3] > scores[0]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod bn_scale;
mod chip;
mod criterion;
mod error;
mod evidence;
mod fpgm;
mod hrank;
mod kl;
mod kl_published;
mod l1_norm;
mod l2_norm;
mod maps;
mod observed;
mod random;
mod similarity;
mod symmetric;
mod taylor_activation;
mod taylor_weight;
pub mod testing;

pub use criterion::{Criterion, NonFinite};
pub use error::{Error, Result};
pub use evidence::{Evidence, GradientEvidence, LayerEvidence, NormEvidence};
pub use maps::Maps;
pub use observed::Observed;
pub use similarity::Similarity;

/// Every criterion, in the order of the help text.
pub static ALL: &[&dyn Criterion] = &[
    &kl::Kl,
    &kl_published::KlPublished,
    &l1_norm::L1Norm,
    &l2_norm::L2Norm,
    &fpgm::Fpgm,
    &bn_scale::BnScale,
    &taylor_weight::TaylorWeight,
    &taylor_activation::TaylorActivation,
    &hrank::Hrank,
    &chip::Chip,
    &random::Random,
];

/// The criterion called `name`.
///
/// # Errors
/// If there is none; the message lists the known names.
pub fn by_name(name: &str) -> Result<&'static dyn Criterion> {
    ALL.iter()
        .copied()
        .find(|criterion| criterion.name() == name)
        .ok_or_else(|| {
            let known: Vec<_> = ALL.iter().map(|criterion| criterion.name()).collect();
            Error::UnknownCriterion {
                name: name.to_owned(),
                known: known.join(", "),
            }
        })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    #[test]
    fn every_criterion_conforms() {
        for criterion in ALL {
            testing::conformance(*criterion);
        }
    }

    #[test]
    fn names_are_unique() {
        let names: BTreeSet<_> = ALL.iter().map(|criterion| criterion.name()).collect();
        assert_eq!(names.len(), ALL.len());
    }

    #[test]
    fn finds_by_name_and_lists_the_known_names() {
        assert_eq!(by_name("l1-norm").unwrap().name(), "l1-norm");
        assert_eq!(
            by_name("l2").unwrap_err().to_string(),
            "unknown criterion 'l2'; known: kl, kl-published, l1-norm, l2-norm, fpgm, bn-scale, taylor-weight, \
             taylor-activation, hrank, chip, random"
        );
    }

    #[test]
    fn every_file_that_defines_a_criterion_is_listed_under_its_name() {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut defined = BTreeSet::new();
        for entry in std::fs::read_dir(source).unwrap() {
            let path = entry.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            // At the start of a line only: this string and doc examples are no definitions.
            if text
                .lines()
                .any(|line| line.starts_with("impl Criterion for "))
            {
                defined.insert(
                    path.file_stem()
                        .unwrap()
                        .to_str()
                        .unwrap()
                        .replace('_', "-"),
                );
            }
        }
        let listed: BTreeSet<_> = ALL
            .iter()
            .map(|criterion| criterion.name().to_owned())
            .collect();
        assert_eq!(defined, listed);
    }
}
