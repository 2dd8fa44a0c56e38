//! The methods: each is one file that implements [`Method`] and its [`Entry`], and a line in [`METHODS`].

mod dcff;
mod dense;
pub mod kdfs;
mod prune;
pub mod pss_net;
mod select;
mod widths;

use dcff_models::Architecture;
use dcff_run::{Description, MethodConfig, Recipe, RunConfig};

use crate::entry::{Context, Entry, Given};
use crate::error::{Error, Result};
use crate::method::{Method, Plan};

pub use dcff::{EVIDENCE_IMAGES, FilterFusion, FilterFusionConfig};
pub use dense::Dense;
pub use kdfs::{Kdfs, KdfsConfig};
pub use prune::{Prune, PruneConfig};
use select::Select;
pub use widths::{narrowed, uniform};

/// Every method that the program knows by its name; the first is the one unless told otherwise.
pub static METHODS: &[&dyn Entry] = &[
    &dcff::Dcff,
    &Select,
    &prune::Pruning,
    &kdfs::Entrance,
    &pss_net::Entrance,
    &dense::Entrance,
];

/// The method called `name`, now or in an earlier version.
///
/// # Errors
/// When there is none of that name.
pub fn by_name(name: &str) -> Result<&'static dyn Entry> {
    let known = |entry: &&&dyn Entry| entry.name() == name || entry.aliases().contains(&name);
    METHODS.iter().find(known).copied().ok_or_else(|| {
        let known: Vec<&str> = METHODS.iter().map(|entry| entry.name()).collect();
        Error::UnknownMethod {
            name: name.to_owned(),
            known: any_of(&known),
        }
    })
}

/// `a, b or c`.
fn any_of(names: &[&str]) -> String {
    match names {
        [all @ .., last] if !all.is_empty() => format!("{} or {last}", all.join(", ")),
        names => names.join(""),
    }
}

/// The method of `config`.
///
/// # Errors
/// When the program knows none of that name, or a setting is out of its range.
pub fn build(config: &MethodConfig, context: &Context) -> Result<Box<dyn Method>> {
    let entry =
        by_name(&config.name).map_err(|error| Error::setting("method.name", error.to_string()))?;
    entry.build(config, context)
}

/// The configuration that `given` asks for of the method `name`.
///
/// # Errors
/// A flag that the method has no use for, with those that have, and values that are none.
pub fn configure(name: &str, given: &Given<'_>) -> Result<MethodConfig> {
    let entry = by_name(name)?;
    for (key, typed) in given.typed {
        if !entry.keys().contains(&key.as_str()) {
            let of = METHODS.iter().filter(|e| e.keys().contains(&key.as_str()));
            let of: Vec<&str> = of.map(|entry| entry.name()).collect();
            let message = format!(
                "belongs to --method {}, got --method {}",
                any_of(&of),
                entry.name()
            );
            return Err(Error::setting(&typed.flag, message));
        }
    }
    entry.configure(given)
}

/// `config` with every setting of its method spelled out, under the name that the method has now.
///
/// # Errors
/// The first setting that is unknown, or whose value is none. A method that the program does not know stays as it is.
pub fn complete(mut config: RunConfig) -> Result<RunConfig> {
    if let Ok(entry) = by_name(&config.method.name) {
        config.method = entry.complete(&config.method)?;
    }
    Ok(config)
}

/// The settings of a run under the recipe `from` for a run under `to` ([`Entry::in_proportion`]).
///
/// # Errors
/// When the program knows no method of that name.
pub fn in_proportion(config: &MethodConfig, from: &Recipe, to: &Recipe) -> Result<MethodConfig> {
    by_name(&config.name)?.in_proportion(config, from, to)
}

/// What the method of `config` plans for a run of `full`.
///
/// # Errors
/// As [`build`], and when its settings do not fit the network or the recipe.
pub fn plan(config: &RunConfig, full: &Architecture) -> Result<Plan> {
    let context = Context::seeded(config.seed);
    build(&config.method, &context)?.plan(full, &config.recipe)
}

/// Checks what the settings of `config` name elsewhere, for a run of `full` on images of `classes`; [`Method::check`].
///
/// # Errors
/// As [`build`], and when something is missing or does not fit.
pub fn check(config: &RunConfig, full: &Architecture, classes: &[String]) -> Result<()> {
    let method = build(&config.method, &Context::seeded(config.seed))?;
    can_be_taught(&*method, config)?;
    method.check(full)?;
    let distil = config.distil.as_ref().map(|distil| distil.teacher.clone());
    for teacher in config.method.teacher().iter().chain(&distil) {
        crate::dense::teacher(teacher, full, classes)?;
    }
    Ok(())
}

/// Refuses a teacher beside a method whose steps know none.
pub(crate) fn can_be_taught(method: &dyn Method, config: &RunConfig) -> Result<()> {
    if config.distil.is_none() || method.distils() {
        return Ok(());
    }
    let message = format!(
        "the steps of the method {} are its own, and take no teacher from outside",
        config.method.name
    );
    Err(Error::setting("distil", message))
}

/// What reports and model cards say of the method; no more than its name where the program does not know it.
pub fn describe(config: &MethodConfig) -> Description {
    match build(config, &Context::default()) {
        Ok(method) => method.describe(),
        Err(_) => Description {
            label: config.name.clone(),
            pipeline: Some(config.name.clone()),
            sentence: format!("It was trained by the method `{}`", config.name),
            ..Description::default()
        },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::entry::Typed;
    use crate::testing;
    use dcff_run::Settings;

    fn completed(name: &str, settings: &[(&str, &str)]) -> Result<MethodConfig> {
        let settings: Settings = settings
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).into()))
            .collect();
        by_name(name)?.complete(&MethodConfig {
            name: name.to_owned(),
            settings,
        })
    }

    #[test]
    fn no_key_is_passed_over() {
        let rates = ("rates", "0.5");
        let fused = [
            rates,
            ("criterion", "kl"),
            ("keep", "fuse"),
            ("temperature", "stretched"),
        ];
        assert_eq!(completed("dcff", &fused).unwrap().name, "dcff");
        assert_eq!(completed("dense", &[]).unwrap().name, "dense");
        for (name, settings) in [("dense", &[][..]), ("dcff", &fused), ("select", &fused)] {
            let more = [settings, &[("temprature", "1")]].concat();
            let message = completed(name, &more).unwrap_err().to_string();
            assert!(message.contains("unknown field `temprature`"), "{message}");
        }
        let wrong = [&fused[..], &[("evidence_images", "many")]].concat();
        let message = completed("dcff", &wrong).unwrap_err().to_string();
        assert!(message.starts_with("method.evidence_images: "), "{message}");
    }

    #[test]
    fn what_earlier_versions_called_dcff_is_named_by_what_becomes_of_the_filters() {
        let settings = [
            ("rates", "0.5"),
            ("criterion", "l1-norm"),
            ("keep", "select"),
            ("temperature", "stretched"),
        ];
        let config = completed("dcff", &settings).unwrap();
        assert_eq!(config.name, "select");
        assert_eq!(config.settings["reselect"], "every-epoch");
        assert_eq!(
            by_name("select").unwrap().complete(&config).unwrap(),
            config
        );
    }

    #[test]
    fn names_and_keys_are_unlike() {
        let mut names: Vec<&str> = METHODS
            .iter()
            .flat_map(|m| [&[m.name()], m.aliases()].concat())
            .collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
        assert_eq!(
            by_name("l1").err().unwrap().to_string(),
            "expected dcff, select, prune, kdfs, pss-net or dense, got 'l1'"
        );
    }

    #[test]
    fn every_method_keeps_the_contract() {
        let full = dcff_models::by_name("resnet20").unwrap();
        for entry in METHODS {
            let recipe = Recipe::quick(4);
            let make = |keep: f64| {
                let rates = Typed {
                    flag: "--rates".to_owned(),
                    value: (1.0 - keep).into(),
                };
                let mut typed = BTreeMap::from([("rates".to_owned(), rates)]);
                typed.retain(|key, _| entry.keys().contains(&key.as_str()));
                let given = Given {
                    full: &full,
                    recipe: &recipe,
                    saved: None,
                    typed: &typed,
                };
                let config = configure(entry.name(), &given)?;
                let method = build(&config, &Context::seeded(1))?;
                Ok((config, method))
            };
            let scratch = tempfile::tempdir().unwrap();
            testing::conformance(&make, scratch.path()).unwrap();
        }
    }
}
