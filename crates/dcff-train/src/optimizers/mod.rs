//! The optimisers: each is one file that implements [`Descent`], and one line of the list below.

use candle_core::Tensor;
use dcff_nn::AdamConfig;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Where a step of a group stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// The group's learning rate.
    pub lr: f64,
    /// The group's weight decay.
    pub decay: f64,
    /// Which step of the group this is, from 1.
    pub step: u64,
}

/// How an optimiser moves a group of parameters.
pub trait Descent {
    /// What it keeps for each parameter, a tensor of the parameter's shape for each name, 0 before the first step. In a
    /// checkpoint the tensor is called `NAME/PARAMETER`.
    fn slots(&self) -> &'static [&'static str];

    /// Whether [`Pace::step`] matters, so that checkpoints must remember it.
    fn counts(&self) -> bool;

    /// The numbers of a step that change with its pace: what a GPU reads anew in every launch of a recorded step.
    fn rates(&self, pace: &Pace) -> Vec<f64>;

    /// One step for all `rows`, each `[parameter, slots.., gradient]`, in one sweep that finds its rates in the device's cells
    /// from `cell` on.
    ///
    /// # Errors
    /// Those of the device.
    fn sweep(&self, rows: &[Vec<&Tensor>], pace: &Pace, cell: usize) -> Result<()>;

    /// Checks the settings.
    ///
    /// # Errors
    /// The first setting out of range.
    fn validate(&self) -> Result<()>;
}

/// Declares the modules and makes the list, the choice of one and its serde form of lines `"name" file Type`.
macro_rules! optimizers {
    ($($name:literal $file:ident $kind:ident,)*) => {
        $(mod $file;)*
        $(pub use $file::$kind;)*

        /// An optimiser with its settings; in a table, `name` says which.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "name")]
        #[non_exhaustive]
        pub enum Rule {
            $(
                #[doc = concat!("See [`", stringify!($kind), "`].")]
                #[serde(rename = $name)]
                $kind($kind),
            )*
        }

        impl Rule {
            /// All optimisers with their usual settings, by name.
            pub fn all() -> Vec<(&'static str, Self)> {
                vec![$(($name, Self::$kind($kind::default())),)*]
            }

            /// What it does.
            pub fn descent(&self) -> &dyn Descent {
                match self {
                    $(Self::$kind(rule) => rule,)*
                }
            }
        }

        $(
            impl From<$kind> for Rule {
                fn from(rule: $kind) -> Self {
                    Self::$kind(rule)
                }
            }
        )*
    };
}

optimizers! {
    "sgd" sgd Sgd,
    "adamax" adamax Adamax,
    "adamw" adamw AdamW,
}

/// Rows as sweeps of `K` tensors take them.
fn rows<'a, const K: usize>(rows: &[Vec<&'a Tensor>]) -> Result<Vec<[&'a Tensor; K]>> {
    let arrays = rows
        .iter()
        .map(|row| <[&Tensor; K]>::try_from(&row[..]).ok());
    arrays
        .collect::<Option<_>>()
        .ok_or_else(|| Error::setting("optimizer", format!("expected rows of {K} tensors")))
}

/// Fails unless `value` lies from `low` up to but not including `high`.
fn below(field: &str, value: f64, low: f64, high: f64) -> Result<()> {
    match (low..high).contains(&value) {
        true => Ok(()),
        false => Err(Error::setting(
            field,
            format!("expected {low} up to but not including {high}, got {value}"),
        )),
    }
}

/// What Adam's kin are told of a step.
fn adam(pace: &Pace, [beta1, beta2]: [f64; 2], eps: f64) -> AdamConfig {
    AdamConfig {
        lr: pace.lr,
        beta1,
        beta2,
        eps,
        weight_decay: pace.decay,
        step: pace.step,
    }
}

/// Checks what Adam's kin have in common.
fn validate_adam(beta1: f64, beta2: f64, eps: f64) -> Result<()> {
    below("optimizer.beta1", beta1, 0.0, 1.0)?;
    below("optimizer.beta2", beta2, 0.0, 1.0)?;
    match eps > 0.0 && eps.is_finite() {
        true => Ok(()),
        false => Err(Error::setting(
            "optimizer.eps",
            format!("expected more than 0, got {eps}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_defaults_make_a_table() {
        for (name, rule) in Rule::all() {
            let read: Rule = toml::from_str(&format!("name = \"{name}\"")).unwrap();
            assert_eq!(read, rule);
            rule.descent().validate().unwrap();
            let error = toml::from_str::<Rule>(&format!("name = \"{name}\"\nbeta3 = 1"));
            assert!(error.unwrap_err().message().contains("unknown field"));
        }
        let adamax: Rule = toml::from_str("name = \"adamax\"\neps = 1e-7").unwrap();
        let expected = Adamax {
            eps: 1e-7,
            ..Adamax::default()
        };
        assert_eq!(adamax, expected.into());
    }

    #[test]
    fn says_which_setting_is_out_of_range() {
        let refused = |table: &str| {
            let rule: Rule = toml::from_str(table).unwrap();
            rule.descent().validate().unwrap_err().to_string()
        };
        assert_eq!(
            refused("name = \"sgd\"\nmomentum = 1.5"),
            "optimizer.momentum: expected 0 to 1, got 1.5"
        );
        assert_eq!(
            refused("name = \"adamw\"\nbeta2 = 1.0"),
            "optimizer.beta2: expected 0 up to but not including 1, got 1"
        );
        assert_eq!(
            refused("name = \"adamax\"\neps = 0.0"),
            "optimizer.eps: expected more than 0, got 0"
        );
    }
}
