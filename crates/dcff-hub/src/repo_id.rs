//! Names of repositories, checked before anything is asked of the Hub.

use std::fmt;
use std::str::FromStr;

use crate::{Error, Result};

/// What a repository holds; decides its address and its cache folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RepoKind {
    /// Weights.
    Model,
    /// Data.
    Dataset,
}

impl RepoKind {
    /// As it appears in addresses and cache folders: `models` or `datasets`.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Model => "models",
            Self::Dataset => "datasets",
        }
    }
}

/// `owner/name`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RepoId {
    owner: String,
    name: String,
}

impl RepoId {
    /// User or organisation.
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// Name within the owner's repositories.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for RepoId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.owner, self.name)
    }
}

impl FromStr for RepoId {
    type Err = Error;

    /// The Hub's rules: two parts of letters, digits, `-`, `_` and `.`; no `--` or `..`; neither part starts or ends with `-` or `.`;
    /// at most 96 characters each; the name does not end in `.git`.
    fn from_str(id: &str) -> Result<Self> {
        let refuse = |detail: String| Error::RepoId {
            id: id.to_owned(),
            detail,
        };
        let Some((owner, name)) = id.split_once('/') else {
            return Err(refuse("expected OWNER/NAME, got no `/`".to_owned()));
        };
        for (what, part) in [("owner", owner), ("name", name)] {
            if part.is_empty() || part.len() > 96 {
                let detail = format!("expected 1 to 96 characters of {what}, got {}", part.len());
                return Err(refuse(detail));
            }
            let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            if let Some(character) = part.chars().find(|&c| !allowed(c)) {
                let detail = format!(
                    "expected letters, digits, `-`, `_` or `.` in the {what}, got {character:?}"
                );
                return Err(refuse(detail));
            }
            let edge = |c: char| matches!(c, '-' | '.');
            if part.contains("--")
                || part.contains("..")
                || part.starts_with(edge)
                || part.ends_with(edge)
            {
                let detail =
                    format!("expected `-` and `.` singly and inside the {what}, got `{part}`");
                return Err(refuse(detail));
            }
        }
        if name.ends_with(".git") {
            return Err(refuse("expected a name without `.git`".to_owned()));
        }
        Ok(Self {
            owner: owner.to_owned(),
            name: name.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_names_round_trip() {
        for id in ["uoft-cs/cifar10", "a/b", "Org_1/model.v2-small"] {
            assert_eq!(id.parse::<RepoId>().unwrap().to_string(), id);
        }
    }

    #[test]
    fn bad_names_say_why() {
        let message = |id: &str| id.parse::<RepoId>().unwrap_err().to_string();
        assert_eq!(
            message("cifar10"),
            "repository `cifar10`: expected OWNER/NAME, got no `/`"
        );
        assert_eq!(
            message("/x"),
            "repository `/x`: expected 1 to 96 characters of owner, got 0"
        );
        assert_eq!(
            message("a/b/c"),
            "repository `a/b/c`: expected letters, digits, `-`, `_` or `.` in the name, got '/'"
        );
        for id in [
            "a/..", "../b", "a/b--c", "-a/b", "a/b.", "a/b.git", "a/b c", "a/\u{e9}",
        ] {
            assert!(id.parse::<RepoId>().is_err(), "{id}");
        }
        assert!(format!("a/{}", "x".repeat(97)).parse::<RepoId>().is_err());
    }
}
