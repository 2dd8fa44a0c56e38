//! Learning rates as pure functions of the progress of a run.

use serde::{Deserialize, Deserializer, Serialize};

use crate::error::{Error, Result};

/// How the learning rate falls.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Schedule {
    /// It stays.
    #[serde(deserialize_with = "nothing_else")]
    Constant,
    /// It is multiplied by `gamma` at the start of each epoch in `milestones`, counted from 0.
    MultiStep {
        /// Epochs, ascending.
        milestones: Vec<usize>,
        /// The factor.
        gamma: f64,
    },
    /// It falls along half a cosine.
    Cosine(Cosine),
}

/// Half a cosine from the full rate to the floor over the run, `(1 + cos(pi * t)) / 2` at the share `t` of it (Loshchilov
/// and Hutter, ICLR 2017, <https://arxiv.org/abs/1608.03983>, without restarts).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cosine {
    /// Where it ends, as a share of the full rate.
    #[serde(skip_serializing_if = "is_default")]
    pub floor: f64,
    /// Whether the rate stays for an epoch; otherwise it falls from step to step.
    #[serde(skip_serializing_if = "is_default")]
    pub by_epoch: bool,
    /// What comes before: the cosine then takes the rest of the run.
    #[serde(skip_serializing_if = "is_default")]
    pub warmup: Option<GeometricWarmup>,
}

/// A rise by equal factors.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GeometricWarmup {
    /// How long it takes.
    pub epochs: usize,
    /// The rate that it starts from, as a share of the full rate.
    pub start: f64,
    /// Whether the first epoch runs at the full rate all the same. The program of KDFS does so: its schedule takes the warm-up
    /// up after the first epoch.
    #[serde(default)]
    pub first_epoch_full_rate: bool,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// The value at the share `done` of the way from `from` to `to`, by equal factors: `from * (to / from)^done`.
pub fn geometric(from: f64, to: f64, done: f64) -> f64 {
    from * (to / from).powf(done)
}

impl Cosine {
    /// The factor when `done` epochs of `epochs` are behind, all steps counted.
    fn factor(&self, done: f64, epochs: usize) -> f64 {
        let done = if self.by_epoch { done.floor() } else { done };
        let mut before = 0;
        if let Some(warmup) = self.warmup {
            if warmup.first_epoch_full_rate && done < 1.0 {
                return 1.0;
            }
            if done < warmup.epochs as f64 {
                return geometric(warmup.start, 1.0, done / warmup.epochs as f64);
            }
            before = warmup.epochs;
        }
        let share = (done - before as f64) / epochs.saturating_sub(before).max(1) as f64;
        let half = 0.5 * (1.0 + (std::f64::consts::PI * share).cos());
        self.floor + (1.0 - self.floor) * half
    }
}

impl Schedule {
    /// Half a cosine from the full rate to 0, step by step.
    pub fn cosine() -> Self {
        Self::Cosine(Cosine::default())
    }

    /// The factor on the learning rate at `step` of `steps` in `epoch` of `epochs`, with a linear warm-up over the
    /// first `warmup` epochs that starts at one step's share instead of 0.
    pub fn factor(
        &self,
        epoch: usize,
        epochs: usize,
        step: usize,
        steps: usize,
        warmup: usize,
    ) -> f64 {
        let steps = steps.max(1);
        let done = epoch as f64 + step as f64 / steps as f64;
        let base = match self {
            Self::Constant => 1.0,
            Self::MultiStep { milestones, gamma } => {
                gamma.powi(milestones.iter().filter(|&&m| m <= epoch).count() as i32)
            }
            Self::Cosine(cosine) => cosine.factor(done, epochs),
        };
        let ramp = if epoch < warmup {
            (done + 1.0 / steps as f64) / warmup as f64
        } else {
            1.0
        };
        base * ramp.min(1.0)
    }

    /// The same schedule for a run of `to` epochs instead of `from`: milestones and the end of a warm-up move in proportion, those
    /// that fall on the first epoch are dropped, and of several that fall on one epoch one stays.
    pub fn scaled(&self, from: usize, to: usize) -> Self {
        match self {
            Self::MultiStep { milestones, gamma } => {
                let mut moved: Vec<usize> =
                    milestones.iter().map(|m| m * to / from.max(1)).collect();
                moved.retain(|&milestone| milestone > 0);
                moved.dedup();
                Self::MultiStep {
                    milestones: moved,
                    gamma: *gamma,
                }
            }
            Self::Cosine(cosine) => Self::Cosine(Cosine {
                warmup: cosine.warmup.and_then(|warmup| {
                    let epochs = warmup.epochs * to / from.max(1);
                    (epochs > 0).then_some(GeometricWarmup { epochs, ..warmup })
                }),
                ..*cosine
            }),
            Self::Constant => Self::Constant,
        }
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// When milestones do not ascend, `gamma` or a floor is not in 0..=1, or a warm-up has no rate to start from.
    pub fn validate(&self) -> Result<()> {
        if let Self::Cosine(cosine) = self {
            if !(0.0..=1.0).contains(&cosine.floor) {
                return Err(Error::setting(
                    "recipe.schedule.floor",
                    format!("expected 0 to 1, got {}", cosine.floor),
                ));
            }
            if let Some(GeometricWarmup { start, .. }) = cosine.warmup
                && !(start > 0.0 && start <= 1.0)
            {
                return Err(Error::setting(
                    "recipe.schedule.warmup.start",
                    format!("expected more than 0 and up to 1, got {start}"),
                ));
            }
        }
        if let Self::MultiStep { milestones, gamma } = self {
            if !(0.0..=1.0).contains(gamma) {
                return Err(Error::setting(
                    "recipe.schedule.gamma",
                    format!("expected 0 to 1, got {gamma}"),
                ));
            }
            if !milestones.windows(2).all(|pair| pair[0] < pair[1]) {
                return Err(Error::setting(
                    "recipe.schedule.milestones",
                    format!("expected ascending epochs, got {milestones:?}"),
                ));
            }
        }
        Ok(())
    }
}

/// Reads a choice that has no settings: `deny_unknown_fields` does not reach a variant without any.
fn nothing_else<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(), D::Error> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Nothing {}
    Nothing::deserialize(deserializer).map(|Nothing {}| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multi_step_falls_at_its_milestones() {
        let schedule = Schedule::MultiStep {
            milestones: vec![150, 225],
            gamma: 0.1,
        };
        let at = |epoch| schedule.factor(epoch, 300, 3, 10, 0);
        assert_eq!([at(0), at(149), at(150), at(224)], [1.0, 1.0, 0.1, 0.1]);
        assert!((at(225) - 0.01).abs() < 1e-15 && (at(299) - 0.01).abs() < 1e-15);
    }

    #[test]
    fn cosine_starts_full_is_half_in_the_middle_and_ends_near_zero() {
        let at = |epoch, step| Schedule::cosine().factor(epoch, 10, step, 4, 0);
        assert_eq!(at(0, 0), 1.0);
        assert!((at(5, 0) - 0.5).abs() < 1e-15);
        // The last of 40 steps: (1 + cos(39 pi / 40)) / 2.
        assert!((at(9, 3) - 0.001_541_333_133_436_018).abs() < 1e-12);
    }

    #[test]
    fn warm_up_rises_by_equal_steps_to_the_full_rate() {
        let at = |epoch, step| Schedule::Constant.factor(epoch, 10, step, 2, 2);
        assert_eq!(
            [at(0, 0), at(0, 1), at(1, 0), at(1, 1), at(2, 0)],
            [0.25, 0.5, 0.75, 1.0, 1.0]
        );
    }

    #[test]
    fn milestones_move_with_the_length_of_the_run() {
        let schedule = |milestones: &[usize]| Schedule::MultiStep {
            milestones: milestones.to_vec(),
            gamma: 0.1,
        };
        assert_eq!(schedule(&[150, 225]).scaled(300, 100), schedule(&[50, 75]));
        assert_eq!(
            schedule(&[150, 225]).scaled(300, 300),
            schedule(&[150, 225])
        );
        assert_eq!(schedule(&[150, 225]).scaled(300, 2), schedule(&[1]));
        assert_eq!(schedule(&[150, 225]).scaled(300, 1), schedule(&[]));
        assert_eq!(Schedule::cosine().scaled(300, 7), Schedule::cosine());
    }

    /// By hand: four epochs of warm-up from a hundredth, then a cosine to a tenth over four epochs.
    #[test]
    fn a_geometric_warm_up_comes_before_the_cosine() {
        let schedule = |first_epoch_full_rate| {
            Schedule::Cosine(Cosine {
                floor: 0.1,
                by_epoch: true,
                warmup: Some(GeometricWarmup {
                    epochs: 4,
                    start: 0.01,
                    first_epoch_full_rate,
                }),
            })
        };
        let at = |full, epoch| schedule(full).factor(epoch, 8, 3, 5, 0);
        let close = |got: f64, expected: f64| {
            assert!((got - expected).abs() < 1e-15, "{got} is not {expected}");
        };
        close(at(false, 0), 0.01);
        close(at(true, 0), 1.0);
        for full in [false, true] {
            close(at(full, 2), 0.1);
            close(at(full, 4), 1.0);
            close(at(full, 6), 0.55);
            close(at(full, 7), 0.1 + 0.9 * (0.5 - 0.5f64.sqrt() / 2.0));
        }
        // Half as many epochs have half the warm-up.
        let halved = schedule(false).scaled(8, 4);
        close(halved.factor(1, 4, 0, 5, 0), 0.1);
        close(halved.factor(3, 4, 0, 5, 0), 0.55);
    }

    #[test]
    fn a_cosine_to_zero_by_steps_needs_no_key() {
        let text = toml::to_string(&Schedule::cosine()).unwrap();
        assert_eq!(text, "kind = \"cosine\"\n");
        let full: Schedule = toml::from_str(
            "kind = \"cosine\"\nfloor = 0.01\nby_epoch = true\nwarmup = { epochs = 20, start = 0.01 }",
        )
        .unwrap();
        let again: Schedule = toml::from_str(&toml::to_string(&full).unwrap()).unwrap();
        assert_eq!(again, full);
        let wrong = "kind = \"cosine\"\nwarmup = { epochs = 2, start = 0.0 }";
        let wrong: Schedule = toml::from_str(wrong).unwrap();
        assert_eq!(
            wrong.validate().unwrap_err().to_string(),
            "recipe.schedule.warmup.start: expected more than 0 and up to 1, got 0"
        );
    }

    #[test]
    fn refuses_milestones_out_of_order() {
        let schedule = Schedule::MultiStep {
            milestones: vec![225, 150],
            gamma: 0.1,
        };
        assert_eq!(
            schedule.validate().unwrap_err().to_string(),
            "recipe.schedule.milestones: expected ascending epochs, got [225, 150]"
        );
    }
}
