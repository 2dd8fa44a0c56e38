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
    /// Half a cosine from the full rate to 0 over the run, `(1 + cos(pi * t)) / 2` at the share `t` of it, step by
    /// step (Loshchilov and Hutter, ICLR 2017, <https://arxiv.org/abs/1608.03983>, without restarts).
    #[serde(deserialize_with = "nothing_else")]
    Cosine,
}

impl Schedule {
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
            Self::Cosine => {
                0.5 * (1.0 + (std::f64::consts::PI * done / epochs.max(1) as f64).cos())
            }
        };
        let ramp = if epoch < warmup {
            (done + 1.0 / steps as f64) / warmup as f64
        } else {
            1.0
        };
        base * ramp.min(1.0)
    }

    /// The same schedule for a run of `to` epochs instead of `from`: milestones move in proportion, those that fall on the
    /// first epoch are dropped, and of several that fall on one epoch one stays.
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
            other => other.clone(),
        }
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// When milestones do not ascend or `gamma` is not in 0..=1.
    pub fn validate(&self) -> Result<()> {
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
        let at = |epoch, step| Schedule::Cosine.factor(epoch, 10, step, 4, 0);
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
        assert_eq!(Schedule::Cosine.scaled(300, 7), Schedule::Cosine);
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
