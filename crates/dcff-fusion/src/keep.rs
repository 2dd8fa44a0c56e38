//! Which filters stay, and what becomes of the others.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// What a kept filter of the compact layer is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeepMode {
    /// Of all filters, weighted by their similarity to the kept one: Dynamic-coded Filter Fusion.
    #[default]
    Fuse,
    /// Of itself alone, the others go: classical pruning.
    Select,
}

impl KeepMode {
    /// Every mode, in the order of the help text.
    pub const ALL: &'static [Self] = &[Self::Fuse, Self::Select];

    /// The name on the command line and in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fuse => "fuse",
            Self::Select => "select",
        }
    }

    /// One line for the help text.
    pub fn about(self) -> &'static str {
        match self {
            Self::Fuse => "a kept filter is the average of all, weighted by similarity to it",
            Self::Select => "a kept filter is itself; the others go",
        }
    }
}

impl fmt::Display for KeepMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for KeepMode {
    type Err = Error;

    /// # Errors
    /// If the name is unknown; the message lists the known ones.
    fn from_str(name: &str) -> Result<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|mode| mode.name() == name)
            .ok_or_else(|| {
                let known: Vec<_> = Self::ALL.iter().map(|mode| mode.name()).collect();
                Error::Unknown {
                    what: "keep mode",
                    name: name.to_owned(),
                    known: known.join(", "),
                }
            })
    }
}

/// How often the kept filters are chosen while a network is trained compact from the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reselect {
    /// At the start of every epoch.
    #[default]
    EveryEpoch,
    /// Before the first epoch; fused coefficients still follow the weights and the temperature.
    Once,
}

impl Reselect {
    /// Every choice, in the order of the help text.
    pub const ALL: &'static [Self] = &[Self::EveryEpoch, Self::Once];

    /// The name on the command line and in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::EveryEpoch => "every-epoch",
            Self::Once => "once",
        }
    }
}

impl fmt::Display for Reselect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Reselect {
    type Err = Error;

    /// # Errors
    /// If the name is unknown; the message lists the known ones.
    fn from_str(name: &str) -> Result<Self> {
        let found = Self::ALL.iter().find(|choice| choice.name() == name);
        found.copied().ok_or_else(|| Error::Unknown {
            what: "choice of when to select",
            name: name.to_owned(),
            known: Self::ALL
                .iter()
                .map(|choice| choice.name())
                .collect::<Vec<_>>()
                .join(", "),
        })
    }
}

/// The ids of the `kept` highest scores, ascending; of equal scores the lower id wins.
///
/// `layer` and `criterion` are for the messages, `filters` is the layer's `C_out`.
///
/// # Errors
/// If there is not one finite score per filter, or `kept` is 0 or above `filters`.
pub fn select_top(
    layer: &str,
    criterion: &str,
    scores: &[f64],
    filters: usize,
    kept: usize,
) -> Result<Vec<usize>> {
    if scores.len() != filters {
        return Err(Error::ScoreCount {
            layer: layer.to_owned(),
            criterion: criterion.to_owned(),
            scores: scores.len(),
            filters,
        });
    }
    if let Some(filter) = scores.iter().position(|score| !score.is_finite()) {
        return Err(Error::NonFiniteScore {
            layer: layer.to_owned(),
            criterion: criterion.to_owned(),
            filter,
            keeps_last: false,
        });
    }
    if kept == 0 || kept > filters {
        return Err(Error::KeptCount {
            layer: layer.to_owned(),
            kept,
            filters,
        });
    }
    let mut ids: Vec<usize> = (0..filters).collect();
    // Stable, so equal scores stay in the order of their ids; adding 0 makes −0 equal to 0.
    ids.sort_by(|&a, &b| (scores[b] + 0.0).total_cmp(&(scores[a] + 0.0)));
    ids.truncate(kept);
    ids.sort_unstable();
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn top(scores: &[f64], kept: usize) -> Result<Vec<usize>> {
        select_top("features.3", "l1-norm", scores, 5, kept)
    }

    #[test]
    fn keeps_the_highest_in_ascending_order() {
        assert_eq!(top(&[0.1, 0.5, -2.0, 0.3, 0.4], 3).unwrap(), [1, 3, 4]);
        assert_eq!(
            top(&[0.1, 0.5, -2.0, 0.3, 0.4], 5).unwrap(),
            [0, 1, 2, 3, 4]
        );
    }

    #[test]
    fn lower_id_wins_a_tie() {
        assert_eq!(top(&[1.0, 2.0, 1.0, 1.0, 1.0], 2).unwrap(), [0, 1]);
        assert_eq!(top(&[-0.0, 0.0, 0.0, -0.0, 0.0], 2).unwrap(), [0, 1]);
    }

    #[test]
    fn refuses_naming_the_layer() {
        let refused = |scores: &[f64], kept| top(scores, kept).unwrap_err().to_string();
        assert_eq!(
            refused(&[0.0, 1.0, f64::NAN, 0.0, f64::INFINITY], 2),
            "features.3: l1-norm returned a non-finite score for filter 2"
        );
        assert_eq!(
            refused(&[0.0; 4], 2),
            "features.3: l1-norm returned 4 scores for 5 filters"
        );
        assert_eq!(refused(&[0.0; 5], 0), "features.3: keeps 0 of 5 filters");
        assert_eq!(refused(&[0.0; 5], 6), "features.3: keeps 6 of 5 filters");
    }

    #[test]
    fn names_round_trip() {
        for &mode in KeepMode::ALL {
            assert_eq!(mode.name().parse::<KeepMode>().unwrap(), mode);
            assert_eq!(serde_json::to_string(&mode).unwrap(), format!("\"{mode}\""));
        }
        for &choice in Reselect::ALL {
            assert_eq!(choice.name().parse::<Reselect>().unwrap(), choice);
            assert_eq!(
                serde_json::to_string(&choice).unwrap(),
                format!("\"{choice}\"")
            );
        }
        assert_eq!(
            "never".parse::<Reselect>().unwrap_err().to_string(),
            "unknown choice of when to select 'never'; known: every-epoch, once"
        );
        assert_eq!(
            "drop".parse::<KeepMode>().unwrap_err().to_string(),
            "unknown keep mode 'drop'; known: fuse, select"
        );
    }
}
