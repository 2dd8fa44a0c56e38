//! TOML files that users write: an error is one line that names the file and the key.

use std::path::Path;

use anyhow::Context;
use serde::de::DeserializeOwned;

/// Reads the TOML file at `path`.
///
/// # Errors
/// The file, then the key whose value is none, or the line that is no TOML.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> anyhow::Result<T> {
    let shown = || path.display().to_string();
    let text = std::fs::read_to_string(path).with_context(shown)?;
    parse(&text).with_context(shown)
}

/// Reads TOML.
///
/// # Errors
/// As [`read`], without the file.
pub(crate) fn parse<T: DeserializeOwned>(text: &str) -> anyhow::Result<T> {
    let table: toml::Table = toml::from_str(text).map_err(|error| {
        let before = error.span().map_or("", |span| &text[..span.start]);
        let line = 1 + before.matches('\n').count();
        anyhow::anyhow!("line {line}: {}", error.message())
    })?;
    // By way of a table: an error of what is read from the text knows its place in the text instead of its keys.
    table.try_into().map_err(|error: toml::de::Error| {
        let shown = error.to_string();
        let keys = shown.lines().find_map(|line| line.strip_prefix("in `"));
        match keys.and_then(|keys| keys.strip_suffix('`')) {
            Some(keys) => anyhow::anyhow!("{keys}: {}", error.message()),
            None => anyhow::anyhow!("{}", error.message()),
        }
    })
}

#[cfg(test)]
mod tests {
    use dcff_train::RunConfig;

    use super::*;

    #[test]
    fn errors_name_the_key_or_the_line() {
        for (text, expected) in [
            ("version = 1\narch = [", "line 2: "),
            ("version = \"one\"", "version: invalid type: string \"one\""),
            (
                "version = 1\narch = \"vgg16\"\nseed = 1\n[recipe]\nepochs = \"x\"",
                "recipe.epochs: invalid type: string \"x\", expected usize",
            ),
            ("version = 1", "missing field `arch`"),
            ("version = 1\ncolour = 2", "unknown field `colour`"),
        ] {
            let error = parse::<RunConfig>(text).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{text}: {error}");
        }
    }
}
