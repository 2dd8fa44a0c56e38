//! Means, deviations and Student's t intervals.
//!
//! ```text
//! m = Σ x / n,      s = sqrt(Σ (x − m)² / (n − 1)),      m ± t(n − 1) · s / sqrt(n)
//! ```
//!
//! The distribution of t for whole degrees of freedom is that of Abramowitz and Stegun, *Handbook of Mathematical
//! Functions*, 26.7.3 and 26.7.4, which are finite sums; its quantiles are found by bisection.

use std::f64::consts::PI;

/// The mean of a sample and how its values spread.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// The number of values, at least 1.
    pub n: usize,
    /// The mean.
    pub mean: f64,
    /// The sample deviation, from two values on.
    pub deviation: Option<f64>,
}

impl Sample {
    /// The sample of `values`; `None` when there are none.
    pub fn of(values: &[f64]) -> Option<Self> {
        if values.is_empty() {
            return None;
        }
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        Some(Self {
            n: values.len(),
            mean,
            deviation: (values.len() > 1).then(|| (squares / (n - 1.0)).sqrt()),
        })
    }

    /// Half the width of the interval that covers the true mean with probability `level` if the values are normally
    /// distributed; `None` for fewer than two values.
    pub fn half_width(&self, level: f64) -> Option<f64> {
        let deviation = self.deviation?;
        Some(t_quantile(level, self.n - 1) * deviation / (self.n as f64).sqrt())
    }

    /// The interval, as [`Sample::half_width`] has it.
    pub fn interval(&self, level: f64) -> Option<(f64, f64)> {
        let half = self.half_width(level)?;
        Some((self.mean - half, self.mean + half))
    }
}

impl std::fmt::Display for Sample {
    /// `46.60 ± 2.12`, or the value alone.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.deviation {
            Some(deviation) => write!(f, "{:.2} ± {deviation:.2}", self.mean),
            None => write!(f, "{:.2}", self.mean),
        }
    }
}

/// The probability that |T| is at most `t`, with `df` degrees of freedom (at least 1).
pub fn t_within(t: f64, df: usize) -> f64 {
    let theta = (t / (df as f64).sqrt()).atan();
    let (sin, cos) = theta.sin_cos();
    // The sum 1 + (a/b) cos² + (a (a+2))/(b (b+2)) cos⁴ + … up to the power that 26.7.3 and 26.7.4 end with.
    let series = |first: usize, terms: usize| {
        let (mut term, mut sum) = (1.0, 1.0);
        for k in 1..terms {
            let a = (2 * k + first - 2) as f64;
            term *= a / (a + 1.0) * cos * cos;
            sum += term;
        }
        sum
    };
    match (df, df % 2) {
        (1, _) => 2.0 * theta / PI,
        (_, 1) => 2.0 / PI * (theta + sin * cos * series(2, (df - 1) / 2)),
        _ => sin * series(1, df / 2),
    }
}

/// The `t` within which |T| lies with probability `level` (0 to 1), with `df` degrees of freedom (at least 1).
pub fn t_quantile(level: f64, df: usize) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    while t_within(high, df) < level && high < 1e12 {
        high *= 2.0;
    }
    for _ in 0..200 {
        let middle = 0.5 * (low + high);
        if t_within(middle, df) < level {
            low = middle;
        } else {
            high = middle;
        }
    }
    0.5 * (low + high)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_tables() {
        // Two-sided 95 % and 99 % points as printed in tables of the distribution.
        for (df, at_95, at_99) in [
            (1, 12.7062, 63.6567),
            (2, 4.3027, 9.9248),
            (3, 3.1824, 5.8409),
            (4, 2.7764, 4.6041),
            (5, 2.5706, 4.0321),
            (10, 2.2281, 3.1693),
            (29, 2.0452, 2.7564),
            (100, 1.9840, 2.6259),
        ] {
            assert!(
                (t_quantile(0.95, df) - at_95).abs() < 6e-5,
                "{df}: {}",
                t_quantile(0.95, df)
            );
            assert!(
                (t_quantile(0.99, df) - at_99).abs() < 6e-5,
                "{df}: {}",
                t_quantile(0.99, df)
            );
        }
    }

    #[test]
    fn an_interval_by_hand() {
        // Differences 1, 2, 3: mean 2, deviation 1, 4.3027 / sqrt 3 = 2.4842.
        let sample = Sample::of(&[1.0, 2.0, 3.0]).unwrap();
        assert_eq!(
            (sample.n, sample.mean, sample.deviation),
            (3, 2.0, Some(1.0))
        );
        let (low, high) = sample.interval(0.95).unwrap();
        assert!(
            (low + 0.4842).abs() < 1e-4 && (high - 4.4842).abs() < 1e-4,
            "{low} {high}"
        );
    }

    #[test]
    fn one_value_has_no_interval() {
        let sample = Sample::of(&[5.0]).unwrap();
        assert_eq!((sample.deviation, sample.interval(0.95)), (None, None));
        assert_eq!(Sample::of(&[]), None);
        assert_eq!(sample.to_string(), "5.00");
        assert_eq!(Sample::of(&[1.0, 3.0]).unwrap().to_string(), "2.00 ± 1.41");
    }
}
