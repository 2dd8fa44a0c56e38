//! The published settings: an architecture's rates and the figures printed for them.
//!
//! Lin et al., *Training Compact CNNs for Image Classification using Dynamic-coded Filter Fusion*, TPAMI 2023,
//! <https://arxiv.org/abs/2107.06916>, tables 1 and 3, with the rates of their repository,
//! <https://github.com/lmbxmu/DCFF> at c665052, character for character.
//!
//! "Operations" are counted as published: multiply-accumulates of convolutions with their bias additions, plus batch norm and
//! pooling; `dcff-flops` states the rules.
//! The paper's MobileNet-V2 (140 M operations, 2.62 M parameters, 68.60 %) is not here: its rates were not published.

use crate::{Error, Rates, Result};

/// One row of the published tables.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PublishedSetting {
    /// The name on the command line.
    pub name: &'static str,
    /// The architecture's name.
    pub arch: &'static str,
    /// The authors' list expression.
    pub rates: &'static str,
    /// Operations of the compact network, published convention, as printed (for instance 72.77 M).
    pub ops: f64,
    /// Operations saved, in percent of the full network's.
    pub ops_reduction: f64,
    /// Parameters of the compact network, as printed.
    pub params: f64,
    /// Parameters saved, in percent of the full network's.
    pub params_reduction: f64,
    /// Top-1 accuracy on the test set, in percent: the best epoch's, as chosen on that set.
    pub top1: f64,
}

/// Every published setting.
///
/// VGG-16's parameters are 1.06 M (−92.80 %) in print and 1.07 M (−92.73 %) by the authors' own count.
/// The abstract of the paper pairs 75.60 % with the saving of `resnet50-step-63.8`; the table gives 74.21 % there.
pub static PUBLISHED: &[PublishedSetting] = &[
    PublishedSetting {
        name: "vgg16",
        arch: "vgg16",
        rates: "[0.5]*2+[0.4]*2+[0.35]*3+[0.85]*6",
        ops: 72.77e6,
        ops_reduction: 76.83,
        params: 1.06e6,
        params_reduction: 92.80,
        top1: 93.47,
    },
    PublishedSetting {
        name: "resnet56",
        arch: "resnet56",
        rates: "[0.7]*2+[0.5]*3+[0.3]*2+[0.4]+[0.8]+ [0.7]*2+[0.8]*4+[0.4]+[0.2]*2+[0.7]+[0.3]+[0.8]+[0.4]*2+[0.7]+\
                [0.3]+[0.4]+[0.8]+ [0.0]*3",
        ops: 55.84e6,
        ops_reduction: 55.88,
        params: 0.38e6,
        params_reduction: 54.95,
        top1: 93.26,
    },
    PublishedSetting {
        name: "resnet110",
        arch: "resnet110",
        rates: "[0.2]+[0.0]+[0.2]+[0.3]+[0.7]*2+[0.1]+[0.3]*2+[0.4]+[0.7]*2+[0.5]+[0.1]+[0.3]+[0.0]+[0.6]+[0.0]+[0.2]+\
                [0.5]+[0.0]+[0.7]*2+[0.5]+[0.7]*2+[0.4]*2+[0.0]+[0.3]+[0.1]+[0.5]+[0.1]*3+[0.7]+ [0.1]*2+[0.3]*5+[0.5]+\
                [0.7]+[0.2]+[0.4]+[0.7]*5+[0.5]+[0.1]+ [0.6]+[0.2]+[0.5]",
        ops: 85.30e6,
        ops_reduction: 66.55,
        params: 0.56e6,
        params_reduction: 67.86,
        top1: 93.80,
    },
    PublishedSetting {
        name: "googlenet",
        arch: "googlenet",
        rates: "[0.0]*2+[0.8]+[0.0]+[0.8]*2+[0.0]*2+ ([0.0]+[0.9]+[0.0]+[0.9]*2+[0.0]*2)*3+ \
                ([0.0]+[0.8]+[0.0]+[0.8]*2+[0.0]*2)*3+ ([0.0]+[0.9]+[0.0]+[0.9]*2+[0.0]*2)*2",
        ops: 457.22e6,
        ops_reduction: 70.11,
        params: 2.08e6,
        params_reduction: 66.28,
        top1: 94.92,
    },
    PublishedSetting {
        name: "resnet50-step-76.7",
        arch: "resnet50",
        rates: "[0.0]+[0.8]*10+[0.7]*6+[0.6]*10+[0.4]*6+[0.3]*4",
        ops: 0.96e9,
        ops_reduction: 76.70,
        params: 7.40e6,
        params_reduction: 71.03,
        top1: 71.54,
    },
    PublishedSetting {
        name: "resnet50-step-63.8",
        arch: "resnet50",
        rates: "[0.0]+[0.6]*10+[0.5]*6+[0.5]*10+[0.4]*6+[0.2]*4",
        ops: 1.49e9,
        ops_reduction: 63.75,
        params: 10.58e6,
        params_reduction: 58.60,
        top1: 74.21,
    },
    PublishedSetting {
        name: "resnet50-step-45.3",
        arch: "resnet50",
        rates: "[0.0]+[0.35]*10+[0.3]*6+[0.4]*10+[0.3]*6+[0.1]*4",
        ops: 2.25e9,
        ops_reduction: 45.30,
        params: 15.16e6,
        params_reduction: 40.67,
        top1: 75.18,
    },
    PublishedSetting {
        name: "resnet50-cos-63.0",
        arch: "resnet50",
        rates: "[0.0]+([0.5]*10+[0.5]*6)*2+[0.25]*3+[0.0]",
        ops: 1.52e9,
        ops_reduction: 62.96,
        params: 11.05e6,
        params_reduction: 56.77,
        top1: 75.60,
    },
    PublishedSetting {
        name: "resnet50-cos-66.4",
        arch: "resnet50",
        rates: "[0.0]+([0.7]*7+[0.45]*9)*2+[0.24]*3+[0.0]",
        ops: 1.38e9,
        ops_reduction: 66.41,
        params: 11.81e6,
        params_reduction: 53.77,
        top1: 74.85,
    },
    PublishedSetting {
        name: "resnet50-cos-75.1",
        arch: "resnet50",
        rates: "[0.0]+([0.43]*7+[0.73]*9)*2+[0.45]*3+[0.0]",
        ops: 1.02e9,
        ops_reduction: 75.11,
        params: 6.56e6,
        params_reduction: 74.33,
        top1: 73.81,
    },
];

/// What stands for an architecture's only published setting.
const ONLY: &str = "published";

impl PublishedSetting {
    /// The setting called `name`.
    pub fn by_name(name: &str) -> Option<&'static Self> {
        PUBLISHED.iter().find(|setting| setting.name == name)
    }

    /// The settings of the architecture `arch`, in the order of [`PUBLISHED`].
    pub fn of_arch(arch: &str) -> impl Iterator<Item = &'static Self> {
        PUBLISHED.iter().filter(move |setting| setting.arch == arch)
    }

    /// The published setting that `text` names for `arch`: `published`, or a setting's name; `None` if `text` is something
    /// else (a list expression).
    ///
    /// # Errors
    /// If `published` stands for no setting of `arch` or for several, or the named setting is of another architecture.
    pub fn named(text: &str, arch: &str) -> Result<Option<&'static Self>> {
        let text = text.trim();
        if text == ONLY {
            let settings: Vec<_> = Self::of_arch(arch).collect();
            return match settings[..] {
                [setting] => Ok(Some(setting)),
                [] => Err(setting_error(format!("no published rates for {arch}"))),
                _ => {
                    let names: Vec<_> = settings.iter().map(|setting| setting.name).collect();
                    Err(setting_error(format!(
                        "{arch} has {} published settings, name one: {}",
                        names.len(),
                        names.join(", ")
                    )))
                }
            };
        }
        match Self::by_name(text) {
            Some(setting) if setting.arch != arch => Err(setting_error(format!(
                "the published setting {text} is for {}, not for {arch}",
                setting.arch
            ))),
            found => Ok(found),
        }
    }

    /// The rates, parsed.
    ///
    /// # Errors
    /// None for the settings of [`PUBLISHED`].
    pub fn parsed_rates(&self) -> Result<Rates> {
        self.rates.parse()
    }
}

/// The rates that `text` means for the architecture `arch`: `published`, the name of a published setting, a number or a
/// list expression.
///
/// # Errors
/// As [`PublishedSetting::named`]; for an unknown name a message that lists the settings of `arch`; or the error of the
/// list expression.
pub fn rates_for(text: &str, arch: &str) -> Result<Rates> {
    if let Some(setting) = PublishedSetting::named(text, arch)? {
        return setting.parsed_rates();
    }
    // A word is a misspelt name rather than a broken list.
    if text.trim_start().starts_with(|c: char| c.is_alphabetic()) {
        let known: Vec<_> = [ONLY]
            .into_iter()
            .chain(PublishedSetting::of_arch(arch).map(|setting| setting.name))
            .collect();
        return Err(Error::Unknown {
            what: "rates",
            name: text.trim().to_owned(),
            known: format!(
                "{}, a number, or a list such as [0.5]*2+[0.4]*3",
                known.join(", ")
            ),
        });
    }
    text.parse()
}

fn setting_error(message: String) -> Error {
    Error::Setting { message }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_setting_parses_and_has_its_own_name() {
        let names: BTreeSet<_> = PUBLISHED.iter().map(|setting| setting.name).collect();
        assert_eq!(names.len(), PUBLISHED.len());
        for setting in PUBLISHED {
            let slots = match setting.arch {
                "vgg16" => 13,
                "resnet56" => 30,
                "resnet110" => 57,
                "googlenet" => 64,
                _ => 37,
            };
            let rates = setting.parsed_rates().unwrap();
            assert!(
                rates.for_slots(slots).is_some(),
                "{}: {rates}",
                setting.name
            );
        }
    }

    #[test]
    fn finds_rates_by_name_or_expression() {
        let vgg16 = rates_for("published", "vgg16").unwrap();
        assert_eq!(vgg16.to_string(), "[0.5]*2+[0.4]*2+[0.35]*3+[0.85]*6");
        assert_eq!(rates_for("vgg16", "vgg16").unwrap(), vgg16);
        assert_eq!(rates_for(PUBLISHED[0].rates, "vgg16").unwrap(), vgg16);
        assert_eq!(rates_for("0.5", "vgg16").unwrap().to_string(), "0.5");
        assert_eq!(
            rates_for("resnet50-cos-63.0", "resnet50")
                .unwrap()
                .to_string(),
            "[0]+[0.5]*32+[0.25]*3+[0]"
        );
    }

    #[test]
    fn refuses_with_the_settings_there_are() {
        let refused = |text: &str, arch: &str| rates_for(text, arch).unwrap_err().to_string();
        assert_eq!(
            refused("published", "resnet20"),
            "no published rates for resnet20"
        );
        assert!(
            refused("published", "resnet50")
                .starts_with("resnet50 has 6 published settings, name one: resnet50-step")
        );
        assert_eq!(
            refused("vgg16", "resnet56"),
            "the published setting vgg16 is for vgg16, not for resnet56"
        );
        assert_eq!(
            refused("publisched", "vgg16"),
            "unknown rates 'publisched'; known: published, vgg16, a number, or a list such as [0.5]*2+[0.4]*3"
        );
        assert!(refused("[0.5", "vgg16").starts_with("rates, column 5"));
    }
}
