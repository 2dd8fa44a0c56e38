//! Settings that all Hub tools share, read from the variables that all of them use.
//!
//! Hugging Face, *Environment variables*, <https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables>.

use std::fmt;
use std::path::PathBuf;

/// A secret: shown as `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Wraps a token; `None` if there is nothing but white space.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        (!text.is_empty()).then(|| Self(text.to_owned()))
    }

    /// The secret itself, for the request header only.
    #[cfg(feature = "client")]
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }

    /// `text` with every occurrence of the secret blotted out.
    pub fn redact(&self, text: &str) -> String {
        text.replace(&self.0, "***")
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Where the Hub and its cache are, and whether the network may be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubConfig {
    /// Address of the Hub, without a slash at the end.
    pub endpoint: String,
    /// The cache that all Hub tools share.
    pub cache: PathBuf,
    /// For private repositories.
    pub token: Option<Token>,
    /// Use the cache only.
    pub offline: bool,
}

impl HubConfig {
    /// Settings from variables; `variable` looks one up (an empty value counts as unset).
    ///
    /// * endpoint: `HF_ENDPOINT`, else `https://huggingface.co`;
    /// * cache: `HF_HUB_CACHE`, else `HUGGINGFACE_HUB_CACHE`, else `hub` in `HF_HOME`, else in `XDG_CACHE_HOME/huggingface`, else in
    ///   `HOME/.cache/huggingface`;
    /// * token: `HF_TOKEN` (a token that `hf auth login` stored is found by the client itself);
    /// * offline: `HF_HUB_OFFLINE` is `1`, `on`, `yes` or `true`.
    pub fn from_env_map(variable: impl Fn(&str) -> Option<String>) -> Self {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let folder = |name: &str| variable(name).map(PathBuf::from);
        let home = || {
            folder("HF_HOME").unwrap_or_else(|| {
                folder("XDG_CACHE_HOME")
                    .or_else(|| {
                        Some(
                            folder("HOME")
                                .or_else(|| folder("USERPROFILE"))?
                                .join(".cache"),
                        )
                    })
                    .unwrap_or_else(|| PathBuf::from(".cache"))
                    .join("huggingface")
            })
        };
        let offline = variable("HF_HUB_OFFLINE")
            .unwrap_or_default()
            .to_lowercase();
        Self {
            endpoint: variable("HF_ENDPOINT")
                .unwrap_or_else(|| "https://huggingface.co".to_owned())
                .trim_end_matches('/')
                .to_owned(),
            cache: folder("HF_HUB_CACHE")
                .or_else(|| folder("HUGGINGFACE_HUB_CACHE"))
                .unwrap_or_else(|| home().join("hub")),
            token: variable("HF_TOKEN").as_deref().and_then(Token::new),
            offline: matches!(offline.as_str(), "1" | "on" | "yes" | "true"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(variables: &[(&str, &str)]) -> HubConfig {
        HubConfig::from_env_map(|name| {
            let found = variables.iter().find(|(n, _)| *n == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_cache_folder_follows_the_usual_order() {
        let mut variables = vec![("HOME", "/home/u")];
        for (variable, value, cache) in [
            ("XDG_CACHE_HOME", "/xdg", "/xdg/huggingface/hub"),
            ("HF_HOME", "/hf", "/hf/hub"),
            ("HUGGINGFACE_HUB_CACHE", "/old", "/old"),
            ("HF_HUB_CACHE", "/new", "/new"),
        ] {
            variables.push((variable, value));
            assert_eq!(config(&variables).cache, PathBuf::from(cache));
        }
        assert_eq!(
            config(&[("HOME", "/home/u")]).cache,
            PathBuf::from("/home/u/.cache/huggingface/hub")
        );
        assert_eq!(
            config(&[("HF_HOME", ""), ("HOME", "/u")]).cache,
            PathBuf::from("/u/.cache/huggingface/hub")
        );
    }

    #[test]
    fn endpoint_and_offline() {
        assert_eq!(config(&[]).endpoint, "https://huggingface.co");
        assert_eq!(
            config(&[("HF_ENDPOINT", "http://localhost:1/")]).endpoint,
            "http://localhost:1"
        );
        for (value, offline) in [
            ("1", true),
            ("TRUE", true),
            ("yes", true),
            ("0", false),
            ("", false),
        ] {
            assert_eq!(
                config(&[("HF_HUB_OFFLINE", value)]).offline,
                offline,
                "{value}"
            );
        }
    }

    #[test]
    fn a_token_is_never_shown() {
        let config = config(&[("HF_TOKEN", " hf_secret\n")]);
        assert!(!format!("{config:?}").contains("secret"));
        let token = config.token.unwrap();
        assert_eq!(
            token.redact("key=hf_secret; again hf_secret"),
            "key=***; again ***"
        );
        assert_eq!(Token::new(" \n"), None);
    }
}
