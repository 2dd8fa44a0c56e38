//! How a method is named, set and described: what the program and its reports know of it.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

use dcff_criteria::Criterion;
use dcff_models::Architecture;
use dcff_run::{DenseFrom, MethodConfig, Published, Recipe, Summary};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::dense::dense_of;
use crate::error::{Error, Result};
use crate::method::Method;

/// A method that the program knows by its name.
pub trait Entry: Sync {
    /// The name on the command line and in `config.toml`.
    fn name(&self) -> &'static str;

    /// Names that it had in earlier versions.
    fn aliases(&self) -> &'static [&'static str] {
        &[]
    }

    /// What it does, in a line.
    fn about(&self) -> &'static str;

    /// What [`Entry::configure`] reads of [`Given::typed`].
    fn keys(&self) -> &'static [&'static str];

    /// The configuration that the command line asks for.
    ///
    /// # Errors
    /// The first value that is none, by its flag.
    fn configure(&self, given: &Given<'_>) -> Result<MethodConfig>;

    /// The configuration with every setting spelled out, as this version writes it.
    ///
    /// # Errors
    /// The first setting that is unknown, or whose value is none.
    fn complete(&self, config: &MethodConfig) -> Result<MethodConfig>;

    /// The figures in print for the setting of a finished run of the method.
    fn published(&self, summary: &Summary) -> Option<Published> {
        let _ = summary;
        None
    }

    /// The method.
    ///
    /// # Errors
    /// When a setting is out of its range.
    fn build(&self, config: &MethodConfig, context: &Context) -> Result<Box<dyn Method>>;

    /// `config` of a run under the recipe `from` for a run under `to`: what followed from epochs and rate follows from the
    /// new ones, what was chosen keeps its share of them.
    ///
    /// # Errors
    /// As [`Entry::complete`].
    fn in_proportion(
        &self,
        config: &MethodConfig,
        from: &Recipe,
        to: &Recipe,
    ) -> Result<MethodConfig> {
        let _ = (from, to);
        Ok(config.clone())
    }
}

/// What a method is built with beside its settings.
#[derive(Clone, Copy, Default)]
pub struct Context {
    /// For methods and criteria that draw lots.
    pub seed: u64,
    /// Scores filters in place of the criterion that the settings name.
    pub criterion: Option<&'static dyn Criterion>,
}

impl Context {
    /// A context for the run seeded with `seed`.
    pub fn seeded(seed: u64) -> Self {
        Self {
            seed,
            criterion: None,
        }
    }

    /// The criterion called `name`, or the one in its place.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn criterion(&self, name: &str) -> Result<&'static dyn Criterion> {
        match self.criterion {
            Some(criterion) if criterion.name() == name => Ok(criterion),
            _ => Ok(dcff_criteria::by_name(name)?),
        }
    }
}

/// A value as it was typed.
#[derive(Clone, Debug)]
pub struct Typed {
    /// The flag, for messages.
    pub flag: String,
    /// The value.
    pub value: Value,
}

/// What a configuration is made of.
#[derive(Clone, Copy, Debug)]
pub struct Given<'a> {
    /// The network before any compression.
    pub full: &'a Architecture,
    /// How the run is trained.
    pub recipe: &'a Recipe,
    /// The configuration that is changed, of this method or another.
    pub saved: Option<&'a MethodConfig>,
    /// What the command line says, by key.
    pub typed: &'a BTreeMap<String, Typed>,
}

impl Given<'_> {
    /// What was typed for `key`.
    pub fn get(&self, key: &str) -> Option<&Typed> {
        self.typed.get(key)
    }

    /// The saved settings, where they are of a method with one of these `names`.
    ///
    /// # Errors
    /// When a saved setting is none.
    pub fn own<T: DeserializeOwned>(&self, names: &[&str]) -> Result<Option<T>> {
        match self.saved {
            Some(saved) if names.contains(&saved.name.as_str()) => Ok(Some(saved.read()?)),
            _ => Ok(None),
        }
    }

    /// Takes over into `field` what another method's saved settings have under `key`.
    ///
    /// # Errors
    /// When a saved setting is none.
    pub fn inherit<T: DeserializeOwned>(&self, key: &str, field: &mut T) -> Result<()> {
        if let Some(value) = self.inherited(key)? {
            *field = value;
        }
        Ok(())
    }

    /// What another method's saved settings have under `key`.
    ///
    /// # Errors
    /// When it is none.
    pub fn inherited<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        let value = self.saved.and_then(|saved| saved.settings.get(key));
        value
            .map(|value| serde_json::from_value(value.clone()))
            .transpose()
            .map_err(|error| Error::setting(format!("method.{key}"), error.to_string()))
    }

    /// The trained network that was typed for `key`: a run, or a folder.
    ///
    /// # Errors
    /// When there is none.
    pub fn network(&self, key: &str) -> Result<Option<DenseFrom>> {
        let (Some(typed), Some(run)) = (self.get(key), self.parse::<String>(key)?) else {
            return Ok(None);
        };
        let found = dense_of(run.as_ref());
        found
            .map(Some)
            .map_err(|error| Error::setting(typed.flag.as_str(), error.to_string()))
    }

    /// What was typed for `key`, read from its text.
    ///
    /// # Errors
    /// When it is no `T`.
    pub fn parse<T: FromStr<Err: Display>>(&self, key: &str) -> Result<Option<T>> {
        let Some(typed) = self.get(key) else {
            return Ok(None);
        };
        let text = match &typed.value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let parsed = text.parse();
        parsed
            .map(Some)
            .map_err(|error: T::Err| Error::setting(&typed.flag, error.to_string()))
    }

    /// Replaces `field` by what was typed for `key`, if anything.
    ///
    /// # Errors
    /// When it is no `T`.
    pub fn set<T: FromStr<Err: Display>>(&self, key: &str, field: &mut T) -> Result<()> {
        if let Some(value) = self.parse(key)? {
            *field = value;
        }
        Ok(())
    }

    /// The criterion that was typed, by the name that it is known by.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn criterion(&self) -> Result<Option<&'static dyn Criterion>> {
        let Some(name) = self.parse::<String>("criterion")? else {
            return Ok(None);
        };
        let found = dcff_criteria::by_name(&name);
        found
            .map(Some)
            .map_err(|error| Error::setting("--criterion", error.to_string()))
    }
}
