//! Settings that all Hub tools share, read from the variables that all of them use.
//!
//! Hugging Face, *Environment variables*, <https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables>.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

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

/// How long is waited unless the environment says otherwise.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Where the Hub and its cache are, and whether the network may be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubConfig {
    /// Address of the Hub, without a slash at the end.
    pub endpoint: String,
    /// The cache that all Hub tools share.
    pub cache: PathBuf,
    /// For private repositories and for publishing.
    pub token: Option<Token>,
    /// Where `hf auth login` stores a token; `None` where stored ones are not to be used.
    pub token_path: Option<PathBuf>,
    /// Use the cache only.
    pub offline: bool,
    /// How long no byte may move before a transfer is given up.
    pub timeout: Duration,
}

impl HubConfig {
    /// Settings from variables; `variable` looks one up (an empty value counts as unset).
    ///
    /// * endpoint: `HF_ENDPOINT`, else `https://huggingface.co`;
    /// * cache: `HF_HUB_CACHE`, else `HUGGINGFACE_HUB_CACHE`, else `hub` in `HF_HOME`, else in `XDG_CACHE_HOME/huggingface`, else in
    ///   `HOME/.cache/huggingface`;
    /// * token: `HF_TOKEN`;
    /// * token_path: `HF_TOKEN_PATH`, else `token` beside the cache's `hub`; none if `HF_HUB_DISABLE_IMPLICIT_TOKEN` is set;
    /// * offline: `HF_HUB_OFFLINE` is `1`, `on`, `yes` or `true`;
    /// * timeout: `HF_HUB_DOWNLOAD_TIMEOUT` in seconds, else 60.
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
        let is_set = |name: &str| {
            let value = variable(name).unwrap_or_default().to_lowercase();
            matches!(value.as_str(), "1" | "on" | "yes" | "true")
        };
        Self {
            endpoint: variable("HF_ENDPOINT")
                .unwrap_or_else(|| "https://huggingface.co".to_owned())
                .trim_end_matches('/')
                .to_owned(),
            cache: folder("HF_HUB_CACHE")
                .or_else(|| folder("HUGGINGFACE_HUB_CACHE"))
                .unwrap_or_else(|| home().join("hub")),
            token: variable("HF_TOKEN").as_deref().and_then(Token::new),
            token_path: (!is_set("HF_HUB_DISABLE_IMPLICIT_TOKEN"))
                .then(|| folder("HF_TOKEN_PATH").unwrap_or_else(|| home().join("token"))),
            offline: is_set("HF_HUB_OFFLINE"),
            timeout: variable("HF_HUB_DOWNLOAD_TIMEOUT")
                .and_then(|seconds| seconds.parse().ok())
                .filter(|&seconds| seconds > 0)
                .map_or(TIMEOUT, Duration::from_secs),
        }
    }

    /// With the token that is stored at `token_path`, where none was given otherwise and there is one.
    pub fn with_stored_token(mut self) -> Self {
        if self.token.is_none()
            && let Some(path) = &self.token_path
            && let Ok(text) = std::fs::read_to_string(path)
        {
            self.token = Token::new(&text);
        }
        self
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
    fn a_stored_token_is_used_where_none_is_given() {
        let home = tempfile::tempdir().unwrap();
        let (stored, other) = (home.path().join("token"), home.path().join("other"));
        std::fs::write(&stored, "hf_stored\n").unwrap();
        std::fs::write(&other, "hf_other").unwrap();
        let (home, other) = (home.path().to_str().unwrap(), other.to_str().unwrap());
        let token = |variables: &[(&str, &str)]| config(variables).with_stored_token().token;
        assert_eq!(token(&[("HF_HOME", home)]), Token::new("hf_stored"));
        let given = [("HF_HOME", home), ("HF_TOKEN_PATH", other)];
        assert_eq!(token(&given), Token::new("hf_other"));
        let given = [("HF_HOME", home), ("HF_TOKEN", "hf_given")];
        assert_eq!(token(&given), Token::new("hf_given"));
        let given = [("HF_HOME", home), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")];
        assert_eq!(token(&given), None);
        assert_eq!(token(&[("HF_HOME", "/no/such/folder")]), None);
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
