//! What lies in a folder of images and is not used: counted and named, so that nothing is left out silently.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Counts by kind, with the first example of each.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct LeftOut {
    root: PathBuf,
    kinds: BTreeMap<String, (usize, String)>,
}

impl LeftOut {
    pub(crate) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            kinds: BTreeMap::new(),
        }
    }

    /// Notes that `path` is left out as one of `kind`, a plural such as `hidden files`.
    pub(crate) fn add(&mut self, kind: impl Into<String>, path: &Path) {
        let inside = path.strip_prefix(&self.root).unwrap_or(path);
        let (count, _) = self
            .kinds
            .entry(kind.into())
            .or_insert_with(|| (0, inside.display().to_string()));
        *count += 1;
    }

    /// What is left out, in words; `none` where everything is used.
    pub(crate) fn summary(&self) -> String {
        if self.kinds.is_empty() {
            return "none".to_owned();
        }
        let parts: Vec<String> = self
            .kinds
            .iter()
            .map(|(kind, (count, first))| match count {
                1 => format!("{kind}: 1 ({first})"),
                _ => format!("{kind}: {count} ({first}, ...)"),
            })
            .collect();
        parts.join("; ")
    }

    /// One line, or none where everything is used.
    pub(crate) fn line(&self) -> Option<String> {
        let root = self.root.display();
        (!self.kinds.is_empty()).then(|| format!("{root}: left out: {}", self.summary()))
    }
}
