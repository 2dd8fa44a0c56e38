//! House rules that no compiler knows.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::circles;
use crate::run::root;

/// A rule: its name and the violations it finds.
type Rule = (&'static str, fn(&Tree) -> Vec<String>);

const RULES: [Rule; 7] = [
    ("every source file opens with a //! header", headers),
    (
        "every library crate's header says what it deliberately does not know",
        invariants,
    ),
    ("crates/README.md names every crate and no other", crate_map),
    (
        "no file of images or weights is kept in the repository",
        no_blobs,
    ),
    (
        "a crate that is published compiles in files of its own folder only",
        foreign_files,
    ),
    ("a report links no kernel", light_report),
    ("no circle of files within a crate", circles),
];

/// The files of the repository, read once.
struct Tree {
    root: PathBuf,
    files: Vec<PathBuf>,
}

pub(crate) fn run() -> Result<()> {
    let root = root();
    let mut files = Vec::new();
    for folder in ["crates", "xtask", "tests", "datasets"] {
        walk(&root.join(folder), &mut files)?;
    }
    let tree = Tree { root, files };
    let mut violations = Vec::new();
    for (name, rule) in RULES {
        violations.extend(
            rule(&tree)
                .into_iter()
                .map(|violation| format!("{violation}: {name}")),
        );
    }
    ensure!(violations.is_empty(), "{}", violations.join("\n       "));
    Ok(())
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            if path.file_name().is_none_or(|name| name != "target") {
                walk(&path, files)?;
            }
        } else {
            files.push(path);
        }
    }
    Ok(())
}

impl Tree {
    fn short(&self, path: &Path) -> String {
        path.strip_prefix(&self.root)
            .unwrap_or(path)
            .display()
            .to_string()
    }

    fn with_extension<'a>(&'a self, extensions: &'a [&str]) -> impl Iterator<Item = &'a PathBuf> {
        self.files.iter().filter(|path| {
            path.extension()
                .and_then(|e| e.to_str())
                .is_some_and(|e| extensions.contains(&e))
        })
    }

    fn crates(&self) -> Vec<String> {
        let manifests = self.files.iter().filter(|path| {
            path.ends_with("Cargo.toml") && path.starts_with(self.root.join("crates"))
        });
        manifests
            .filter_map(|path| Some(path.parent()?.file_name()?.to_str()?.to_owned()))
            .collect()
    }
}

fn headers(tree: &Tree) -> Vec<String> {
    let bare =
        |path: &&PathBuf| !fs::read_to_string(path).is_ok_and(|text| text.starts_with("//! "));
    tree.with_extension(&["rs"])
        .filter(bare)
        .map(|path| tree.short(path))
        .collect()
}

fn invariants(tree: &Tree) -> Vec<String> {
    let libraries = tree
        .files
        .iter()
        .filter(|path| path.ends_with("src/lib.rs") && path.starts_with(tree.root.join("crates")));
    let silent = |path: &&PathBuf| {
        let text = fs::read_to_string(path).unwrap_or_default();
        let header = text.lines().take_while(|line| line.starts_with("//!"));
        !header.into_iter().any(|line| line.contains("deliberately"))
    };
    libraries
        .filter(silent)
        .map(|path| tree.short(path))
        .collect()
}

fn crate_map(tree: &Tree) -> Vec<String> {
    let map = fs::read_to_string(tree.root.join("crates/README.md")).unwrap_or_default();
    let named: Vec<&str> = map
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .filter(|name| name.starts_with("dcff"))
        .collect();
    let crates = tree.crates();
    let missing = crates
        .iter()
        .filter(|name| !named.contains(&name.as_str()))
        .map(|name| format!("{name} is missing"));
    let unknown = named
        .iter()
        .filter(|name| !crates.iter().any(|known| known == *name))
        .map(|name| format!("{name} is no crate"));
    missing.chain(unknown).collect()
}

fn foreign_files(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for name in tree.crates() {
        let home = tree.root.join("crates").join(name);
        for file in tree
            .with_extension(&["rs"])
            .filter(|file| file.starts_with(home.join("src")))
        {
            let text = fs::read_to_string(file).unwrap_or_default();
            let included = text.split("include_str!(\"").skip(1);
            let paths = included.filter_map(|rest| rest.split('"').next());
            let depth = file
                .strip_prefix(&home)
                .map_or(0, |p| p.components().count());
            found.extend(
                paths
                    // From a file's folder to the crate's it takes a step less than the file is deep.
                    .filter(|path| path.matches("../").count() >= depth)
                    .map(|path| format!("{} includes {path}", tree.short(file))),
            );
        }
    }
    found
}

/// Circles between files of a crate.
fn circles(tree: &Tree) -> Vec<String> {
    let manifests = tree
        .files
        .iter()
        .filter(|path| path.ends_with("Cargo.toml"));
    let mut found = Vec::new();
    for folder in manifests.filter_map(|path| path.parent()) {
        let name = tree.short(folder);
        let circles = circles::circles(&circles::read(folder, &tree.files));
        found.extend(
            circles
                .into_iter()
                .map(|circle| format!("{name}/src: {circle}")),
        );
    }
    found
}

/// The crates that `dcff-report` links, by the manifests, must not hold the kernels or candle.
fn light_report(tree: &Tree) -> Vec<String> {
    let mut linked = vec!["dcff-report".to_owned()];
    let mut next = 0;
    while let Some(name) = linked.get(next).cloned() {
        next += 1;
        let manifest = tree.root.join("crates").join(&name).join("Cargo.toml");
        let manifest = fs::read_to_string(manifest).unwrap_or_default();
        for found in dependencies(&manifest) {
            if !linked.iter().any(|known| known == found) {
                linked.push(found.to_owned());
            }
        }
    }
    let heavy = |name: &&String| *name == "dcff-nn" || name.starts_with("candle");
    linked
        .iter()
        .filter(heavy)
        .map(|name| format!("dcff-report links {name}"))
        .collect()
}

/// The names in the section `[dependencies]` of a manifest.
fn dependencies(manifest: &str) -> Vec<&str> {
    let lines = manifest
        .lines()
        .skip_while(|line| line.trim() != "[dependencies]");
    let lines = lines.skip(1).take_while(|line| !line.starts_with('['));
    let names = lines.filter_map(|line| line.split(['.', ' ', '=']).next());
    names
        .filter(|name| !name.is_empty() && !name.starts_with('#'))
        .collect()
}

fn no_blobs(tree: &Tree) -> Vec<String> {
    tree.with_extension(&[
        "parquet",
        "bin",
        "safetensors",
        "png",
        "jpg",
        "jpeg",
        "gz",
        "pt",
        "pth",
        "onnx",
    ])
    .map(|path| tree.short(path))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_repository_keeps_the_rules() {
        run().unwrap();
    }

    #[test]
    fn reads_the_dependencies_of_a_manifest() {
        let manifest = "[package]\nname = \"a\"\n\n[dependencies]\n# Why.\ndcff-nn.workspace = true\nserde = \"1\"\n\n[dev-dependencies]\ncandle-nn.workspace = true\n";
        assert_eq!(dependencies(manifest), ["dcff-nn", "serde"]);
    }
}
