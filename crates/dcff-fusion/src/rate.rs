//! The compression rate of a layer and the number of filters it leaves.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The share of a layer's filters that goes: at least 0 and below 1, checked once.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct CompressionRate(f64);

impl CompressionRate {
    /// A rate from a number.
    ///
    /// # Errors
    /// If it is not in `[0, 1)`.
    pub fn new(rate: f64) -> Result<Self> {
        if (0.0..1.0).contains(&rate) {
            // Adding 0 turns −0 into 0, so that equal rates print alike.
            Ok(Self(rate + 0.0))
        } else {
            Err(Error::Rate { rate })
        }
    }

    /// A rate at which exactly `kept` of `filters` filters stay.
    ///
    /// # Errors
    /// If `kept` is 0 or larger than `filters`.
    pub fn keeping(kept: usize, filters: usize) -> Result<Self> {
        let share = |kept: f64| Self::new(1.0 - kept / filters as f64);
        let exact = share(kept as f64)?;
        // Half a filter more is safe from the truncation, where the plain quotient falls victim to it.
        match exact.kept(filters) == kept {
            true => Ok(exact),
            false => share(kept as f64 + 0.5),
        }
    }

    /// The rate as a number in `[0, 1)`.
    pub fn get(self) -> f64 {
        self.0
    }

    /// How many of `filters` stay: `trunc(filters · (1 − rate))` in `f64`, as the published tables count.
    ///
    /// Truncation of the rounded product, not of the exact one: 320 filters at rate 0.9 keep 31, as
    /// `320 · (1 − 0.9)` is 31.999999999999993.
    /// May be 0, which [`select_top`](crate::select_top) refuses.
    pub fn kept(self, filters: usize) -> usize {
        (filters as f64 * (1.0 - self.0)) as usize
    }
}

impl fmt::Display for CompressionRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<f64> for CompressionRate {
    type Error = Error;

    fn try_from(rate: f64) -> Result<Self> {
        Self::new(rate)
    }
}

impl From<CompressionRate> for f64 {
    fn from(rate: CompressionRate) -> Self {
        rate.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_is_no_rate() {
        for rate in [1.0, -0.1, 2.0, f64::NAN, f64::INFINITY] {
            assert!(CompressionRate::new(rate).is_err(), "{rate}");
        }
        assert_eq!(
            CompressionRate::new(1.0).unwrap_err().to_string(),
            "expected a compression rate of at least 0 and below 1, got 1"
        );
        assert!(serde_json::from_str::<CompressionRate>("1.5").is_err());
    }

    #[test]
    fn finds_a_rate_for_every_width() {
        for filters in [1, 3, 16, 48, 160, 384, 512] {
            for kept in 1..=filters {
                let rate = CompressionRate::keeping(kept, filters).unwrap();
                assert_eq!(rate.kept(filters), kept, "{kept} of {filters}: {rate}");
            }
        }
        assert!(CompressionRate::keeping(0, 16).is_err());
        assert!(CompressionRate::keeping(17, 16).is_err());
    }

    #[test]
    fn truncates_as_the_published_tables_do() {
        let kept = |rate, filters| CompressionRate::new(rate).unwrap().kept(filters);
        assert_eq!(kept(0.0, 64), 64);
        assert_eq!(kept(0.5, 64), 32);
        assert_eq!(kept(0.4, 128), 76);
        assert_eq!(kept(0.35, 256), 166);
        assert_eq!(kept(0.85, 512), 76);
        // Here the exact product is a whole number and its rounded value is just below.
        assert_eq!(kept(0.8, 160), 31);
        assert_eq!(kept(0.9, 160), 15);
        assert_eq!(kept(0.9, 10), 0);
    }
}
