//! TOML files that users write: an error is one line that names the file and the key.

use std::path::Path;

use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

/// Larger than any table of settings.
const MAX_BYTES: u64 = 16 << 20;

/// Reads the TOML file at `path`.
///
/// # Errors
/// The file, then the key whose value is none, or the line that is no TOML.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = dcff_file::read_text(path, MAX_BYTES)?;
    parse(&text).map_err(|message| Error::file(path, message))
}

/// Reads TOML.
///
/// # Errors
/// As [`read`], without the file.
pub fn parse<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let table: toml::Table = toml::from_str(text).map_err(|error| {
        let before = error.span().map_or("", |span| &text[..span.start]);
        let line = 1 + before.matches('\n').count();
        format!("line {line}: {}", error.message())
    })?;
    of_table(table).map_err(|(keys, message)| match keys {
        Some(keys) => format!("{keys}: {message}"),
        None => message,
    })
}

/// Reads a table. By way of a table, since an error of what is read from the text knows its place in the text instead of its
/// keys.
///
/// # Errors
/// The key whose value is none, where it is known, and what was expected.
pub fn of_table<T: DeserializeOwned>(table: toml::Table) -> Result<T, (Option<String>, String)> {
    table.try_into().map_err(|error: toml::de::Error| {
        let shown = error.to_string();
        let keys = shown.lines().find_map(|line| line.strip_prefix("in `"));
        let keys = keys.and_then(|keys| keys.strip_suffix('`'));
        (keys.map(str::to_owned), error.message().to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RunConfig;

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
            let error = parse::<RunConfig>(text).unwrap_err();
            assert!(error.starts_with(expected), "{text}: {error}");
        }
    }
}
