//! The temperature of the softmax over filter distances, per epoch.
//!
//! ```text
//! T(e) = A / (1 + exp(−k · e)) + T_s − A/2,      A = 2 (T_e − T_s) (1 + exp(−k · E)) / (1 − exp(−k · E))
//! ```
//!
//! with `e` counted from 0, `E` epochs in the run, `T_s = 1` and `T_e = 10⁴`: the right half of a sigmoid from `T(0) = T_s`
//! to `T(E) = T_e`.
//! Lin et al., *Training Compact CNNs for Image Classification using Dynamic-coded Filter Fusion*, TPAMI 2023,
//! <https://arxiv.org/abs/2107.06916>, equation 9 (there for `t = 1/T`).
//!
//! The authors' program takes `k = 1` per epoch whatever `E` is, so the temperature is above 9,000 from the third epoch on.
//! [`TemperatureSchedule::Stretched`] takes `k` per run instead.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// `T_s`, the temperature of the first epoch.
const START: f64 = 1.0;

/// `T_e`, the temperature at the end of the run.
const END: f64 = 1e4;

/// `k` of the published schedule, per epoch.
const PUBLISHED_SLOPE: f64 = 1.0;

/// How the temperature rises over a run.
///
/// Written and read as text: `published`, `stretched`, `stretched(2.5)`, `fixed(100)`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[non_exhaustive]
pub enum TemperatureSchedule {
    /// `k = 1` per epoch: 1, 4621.7, 7615.9, 9051.6, … for every number of epochs.
    Published,
    /// `k = slope / E`, the same curve over every run.
    Stretched {
        /// `k · E`: near 0 the temperature rises in a straight line, and the larger it is, the earlier it saturates.
        ///
        /// With the default of 4 it reaches 48 % of its final value after a quarter of the run, 79 % after half and 94 %
        /// after three quarters: it is still rising in the last epoch, and most in the first ones.
        slope: f64,
    },
    /// The same temperature in every epoch.
    Fixed {
        /// `T`, at least 0.
        temperature: f64,
    },
}

impl TemperatureSchedule {
    /// The default of [`TemperatureSchedule::Stretched`]'s slope, per run.
    pub const DEFAULT_SLOPE: f64 = 4.0;

    /// Every schedule: how it is written, and a line for the help text.
    pub const ALL: &'static [(&'static str, &'static str)] = &[
        (
            "published",
            "the authors' curve, 1 to 10,000, above 9,000 from the third epoch on",
        ),
        (
            "stretched",
            "the same curve over the whole run; stretched(K) sets its slope per run, 4 by default",
        ),
        ("fixed(T)", "the temperature T in every epoch"),
    ];

    /// The stretched schedule with a slope per run.
    ///
    /// # Errors
    /// If the slope is not within 0.001 and 1,000.
    pub fn stretched(slope: f64) -> Result<Self> {
        // Below, the formula's two large terms cancel; above, the second epoch is the last that differs.
        if (1e-3..=1e3).contains(&slope) {
            Ok(Self::Stretched { slope })
        } else {
            Err(schedule_error(format!(
                "expected a slope of 0.001 to 1000 per run, got {slope}"
            )))
        }
    }

    /// The same temperature in every epoch.
    ///
    /// # Errors
    /// If it is negative or not finite.
    pub fn fixed(temperature: f64) -> Result<Self> {
        if temperature.is_finite() && temperature >= 0.0 {
            Ok(Self::Fixed { temperature })
        } else {
            Err(schedule_error(format!(
                "expected a finite temperature of at least 0, got {temperature}"
            )))
        }
    }

    /// The temperature `T` of `epoch`, counted from 0, in a run of `epochs`.
    ///
    /// An epoch beyond the run has the final temperature, and a run of 0 epochs counts as one of 1.
    pub fn at(self, epoch: usize, epochs: usize) -> f64 {
        let run = epochs.max(1) as f64;
        let epoch = (epoch as f64).min(run);
        match self {
            Self::Published => rising(epoch, run, PUBLISHED_SLOPE),
            Self::Stretched { slope } => rising(epoch, run, slope / run),
            Self::Fixed { temperature } => temperature,
        }
    }
}

/// The module's equation, term by term; exponents are never positive, so nothing overflows.
fn rising(epoch: f64, epochs: f64, slope: f64) -> f64 {
    let last = (-slope * epochs).exp();
    let height = 2.0 * (END - START) * (1.0 + last) / (1.0 - last);
    height / (1.0 + (-slope * epoch).exp()) + START - height / 2.0
}

fn schedule_error(message: String) -> Error {
    Error::Schedule { message }
}

impl fmt::Display for TemperatureSchedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Published => f.write_str("published"),
            Self::Stretched { slope } => write!(f, "stretched({slope})"),
            Self::Fixed { temperature } => write!(f, "fixed({temperature})"),
        }
    }
}

impl FromStr for TemperatureSchedule {
    type Err = Error;

    /// # Errors
    /// If the name is unknown (the message lists the known ones) or the number in parentheses is missing or out of range.
    fn from_str(text: &str) -> Result<Self> {
        let text = text.trim();
        let (name, argument) = match text.strip_suffix(')').and_then(|text| text.split_once('(')) {
            Some((name, argument)) => (name.trim_end(), Some(argument.trim())),
            None => (text, None),
        };
        let number = |argument: &str| {
            argument.parse::<f64>().map_err(|_| {
                schedule_error(format!("expected a number in '{text}', got '{argument}'"))
            })
        };
        match (name, argument) {
            ("published", None) => Ok(Self::Published),
            ("stretched", None) => Self::stretched(Self::DEFAULT_SLOPE),
            ("stretched", Some(argument)) => Self::stretched(number(argument)?),
            ("fixed", Some(argument)) => Self::fixed(number(argument)?),
            _ => {
                let known: Vec<_> = Self::ALL.iter().map(|(name, _)| *name).collect();
                Err(Error::Unknown {
                    what: "temperature schedule",
                    name: text.to_owned(),
                    known: known.join(", "),
                })
            }
        }
    }
}

impl TryFrom<String> for TemperatureSchedule {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<TemperatureSchedule> for String {
    fn from(schedule: TemperatureSchedule) -> Self {
        schedule.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_values_of_300_epochs() {
        let expected = [
            (0, 1.0),
            (1, 4621.71),
            (3, 9051.58),
            (5, 9866.16),
            (50, 10_000.0),
            (299, 10_000.0),
        ];
        for (epoch, expected) in expected {
            let temperature = TemperatureSchedule::Published.at(epoch, 300);
            assert!(
                (temperature - expected).abs() < 0.005,
                "epoch {epoch}: {temperature}"
            );
        }
    }

    #[test]
    fn published_values_of_short_runs() {
        // Printed by the authors' program for 4 and 10 epochs.
        let run_of_4 = [1.0, 4794.129938335827, 7900.338279100675, 9389.29715585858];
        for (epoch, expected) in run_of_4.into_iter().enumerate() {
            let temperature = TemperatureSchedule::Published.at(epoch, 4);
            assert!(
                (temperature / expected - 1.0).abs() < 1e-12,
                "epoch {epoch}: {temperature}"
            );
        }
        let temperature = TemperatureSchedule::Published.at(5, 10);
        assert!((temperature / 9867.052162697539 - 1.0).abs() < 1e-12);
    }

    #[test]
    fn every_schedule_is_finite_and_rises_for_every_run() {
        let schedules = [
            TemperatureSchedule::Published,
            TemperatureSchedule::stretched(1e-3).unwrap(),
            TemperatureSchedule::stretched(4.0).unwrap(),
            TemperatureSchedule::stretched(1e3).unwrap(),
        ];
        for schedule in schedules {
            for epochs in [0, 1, 2, 3, 300, 100_000] {
                assert!(
                    (schedule.at(0, epochs) - 1.0).abs() < 1e-6,
                    "{schedule}, {epochs} epochs"
                );
                let end = schedule.at(epochs.max(1), epochs);
                assert!(
                    (end - 1e4).abs() < 1e-5,
                    "{schedule}, {epochs} epochs: {end}"
                );
                assert_eq!(schedule.at(usize::MAX, epochs), end);
                let mut last = 0.0;
                for epoch in 0..=epochs.min(400) {
                    let temperature = schedule.at(epoch, epochs);
                    assert!(
                        temperature.is_finite() && temperature >= last,
                        "{schedule}: {temperature}"
                    );
                    last = temperature;
                }
            }
        }
    }

    #[test]
    fn stretched_is_the_same_curve_for_every_run() {
        let schedule: TemperatureSchedule = "stretched".parse().unwrap();
        // tanh(1/2), tanh(1) and tanh(3/2) over tanh(2): the documented shares.
        for (quarter, share) in [(1, 0.4794), (2, 0.7900), (3, 0.9389)] {
            for epochs in [4, 40, 400] {
                let temperature = schedule.at(quarter * epochs / 4, epochs);
                assert!(
                    (temperature / 1e4 - share).abs() < 1e-3,
                    "{quarter}/4 of {epochs}: {temperature}"
                );
            }
        }
    }

    #[test]
    fn text_round_trips() {
        for text in [
            "published",
            "stretched(4)",
            "stretched(2.5)",
            "fixed(0)",
            "fixed(0.1)",
        ] {
            let schedule: TemperatureSchedule = text.parse().unwrap();
            assert_eq!(schedule.to_string(), text);
            let json = serde_json::to_string(&schedule).unwrap();
            assert_eq!(
                serde_json::from_str::<TemperatureSchedule>(&json).unwrap(),
                schedule
            );
        }
        assert_eq!(
            " stretched ( 2 ) ".parse::<TemperatureSchedule>().unwrap(),
            TemperatureSchedule::Stretched { slope: 2.0 }
        );
    }

    #[test]
    fn refuses_with_a_reason() {
        let refused = |text: &str| text.parse::<TemperatureSchedule>().unwrap_err().to_string();
        assert_eq!(
            refused("linear"),
            "unknown temperature schedule 'linear'; known: published, stretched, fixed(T)"
        );
        assert_eq!(
            refused("fixed(hot)"),
            "temperature schedule: expected a number in 'fixed(hot)', got 'hot'"
        );
        assert_eq!(
            refused("fixed(-1)"),
            "temperature schedule: expected a finite temperature of at least 0, got -1"
        );
        assert_eq!(
            refused("stretched(0)"),
            "temperature schedule: expected a slope of 0.001 to 1000 per run, got 0"
        );
        assert!(refused("fixed(nan)").contains("finite"));
        for text in ["fixed", "published(3)", "", "(", ")", "fixed()"] {
            assert!(text.parse::<TemperatureSchedule>().is_err(), "{text}");
        }
    }
}
