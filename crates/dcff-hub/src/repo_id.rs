//! Names of repositories, checked before anything is asked of the Hub.

use std::fmt;
use std::str::FromStr;

use crate::{Error, Result};

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

/// `owner/name` at a branch, tag or commit.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RepoRevision {
    /// The repository.
    pub repo: RepoId,
    /// Branch, tag or commit; `main` unless given.
    pub revision: String,
}

impl fmt::Display for RepoRevision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.repo, self.revision)
    }
}

impl FromStr for RepoRevision {
    type Err = Error;

    /// `OWNER/NAME` or `OWNER/NAME@REVISION`.
    fn from_str(text: &str) -> Result<Self> {
        let (repo, revision) = text.split_once('@').unwrap_or((text, "main"));
        check_revision(revision)?;
        Ok(Self {
            repo: repo.parse()?,
            revision: revision.to_owned(),
        })
    }
}

/// Refuses what git would not take as the name of a branch, and so everything that could leave the cache's folder.
///
/// # Errors
/// [`Error::Revision`] with what was expected and what came.
pub fn check_revision(revision: &str) -> Result<()> {
    let refuse = |detail: String| {
        Err(Error::Revision {
            revision: revision.to_owned(),
            detail,
        })
    };
    if revision.is_empty() || revision.len() > 255 {
        return refuse(format!(
            "expected 1 to 255 characters, got {}",
            revision.len()
        ));
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    if let Some(character) = revision.chars().find(|&c| !allowed(c)) {
        return refuse(format!(
            "expected letters, digits, `-`, `_`, `.` or `/`, got {character:?}"
        ));
    }
    let bad = |part: &str| part.is_empty() || part.starts_with(['.', '-']) || part.ends_with('.');
    if revision.contains("..") || revision.split('/').any(bad) {
        return refuse("expected the name of a branch or tag, or a commit".to_owned());
    }
    Ok(())
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
    fn revisions_stay_inside_the_cache() {
        let parsed = |text: &str| text.parse::<RepoRevision>().map(|r| r.to_string());
        assert_eq!(parsed("a/b").unwrap(), "a/b@main");
        for good in ["a/b@v1.0", "a/b@refs/pr/3", "a/b@0123abcd"] {
            assert_eq!(parsed(good).unwrap(), good);
        }
        for bad in [
            "a/b@",
            "a/b@..",
            "a/b@../x",
            "a/b@x/../y",
            "a/b@/etc",
            "a/b@x//y",
            "a/b@x y",
            "a/b@-x",
            "a/b@x@y",
            "../b@x",
        ] {
            assert!(parsed(bad).is_err(), "{bad}");
        }
        assert_eq!(
            parsed("a/b@x y").unwrap_err().to_string(),
            "revision `x y`: expected letters, digits, `-`, `_`, `.` or `/`, got ' '"
        );
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
