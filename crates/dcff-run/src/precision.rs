//! What feature maps may be stored in.

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// What feature maps and their gradients are stored in during training; how that is computed is `dcff-nn`'s business.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Single precision: 24 significant bits.
    #[default]
    F32,
    /// bfloat16: 8 significant bits, the exponents of single precision.
    Bf16,
}

impl Precision {
    /// Every choice with the name users type.
    pub const ALL: [(Self, &'static str); 2] = [(Self::F32, "f32"), (Self::Bf16, "bf16")];
}

impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let named = Self::ALL.iter().find(|(precision, _)| precision == self);
        f.write_str(named.map_or("", |(_, name)| name))
    }
}

impl std::str::FromStr for Precision {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        let found = Self::ALL.iter().find(|(_, known)| *known == name);
        let found = found.map(|(precision, _)| *precision);
        found.ok_or_else(|| {
            let known = Self::ALL.map(|(_, name)| name).join(", ");
            Error::Name(format!("expected one of {known}, got '{name}'"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back() {
        for (precision, name) in Precision::ALL {
            assert_eq!(precision.to_string(), name);
            assert_eq!(name.parse::<Precision>().unwrap(), precision);
        }
        let message = "f16".parse::<Precision>().unwrap_err().to_string();
        assert_eq!(message, "expected one of f32, bf16, got 'f16'");
    }
}
