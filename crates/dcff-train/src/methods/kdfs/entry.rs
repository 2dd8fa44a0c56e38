//! The method by its name, and how the command line sets it.

use dcff_run::{MethodConfig, Published, Recipe, Summary};

use super::method::Kdfs;
use super::published::published;
use super::settings::KdfsConfig;
use crate::entry::{Context, Entry, Given};
use crate::error::Result;
use crate::method::Method;

/// How many of `epochs` are dense, search and fine-tuning, from those that are given: half of a run without a teacher is dense, and
/// an eighth of the rest fine-tuning, as 50 are of the published 400.
fn divided(epochs: usize, teacher: bool, given: [Option<usize>; 3]) -> [usize; 3] {
    let [dense, search, finetune] = given;
    let dense = match (dense, search, finetune) {
        (Some(dense), ..) => dense,
        (None, ..) if teacher => 0,
        (None, Some(search), Some(finetune)) => epochs.saturating_sub(search + finetune),
        (None, ..) => (epochs / 2).max(1),
    };
    let rest = epochs.saturating_sub(dense);
    let finetune = match (search, finetune) {
        (_, Some(finetune)) => finetune,
        (Some(search), None) => rest.saturating_sub(search),
        (None, None) => (rest / 8).max(1),
    };
    [dense, rest.saturating_sub(finetune), finetune]
}

/// KDFS.
pub(in crate::methods) struct Entrance;

impl Entry for Entrance {
    fn name(&self) -> &'static str {
        Kdfs::NAME
    }

    fn about(&self) -> &'static str {
        "a teacher guides masks of filters that are drawn and learned towards a cost, and the rest is fine-tuned"
    }

    fn keys(&self) -> &'static [&'static str] {
        &[
            "target_macs",
            "teacher",
            "dense_from",
            "dense_epochs",
            "search_epochs",
            "finetune_epochs",
            "finetune_learning_rate",
            "land",
            "export",
        ]
    }

    fn configure(&self, given: &Given<'_>) -> Result<MethodConfig> {
        let (teacher, dense_from) = (given.network("teacher")?, given.network("dense_from")?);
        let epochs =
            ["dense_epochs", "search_epochs", "finetune_epochs"].map(|key| given.parse(key));
        let [dense, search, finetune] = epochs;
        let typed: [Option<usize>; 3] = [dense?, search?, finetune?];
        let saved: Option<KdfsConfig> = given.own(&[Kdfs::NAME])?;
        let total = given.recipe.epochs;
        let mut config = match saved {
            Some(saved) if typed == [None; 3] && teacher.is_none() => saved,
            saved => {
                let taught =
                    teacher.is_some() || saved.as_ref().is_some_and(|s| s.teacher.is_some());
                let parts = divided(total, taught, typed);
                let fresh = KdfsConfig::new(given.full, parts)?;
                match saved {
                    None => fresh,
                    Some(saved) => KdfsConfig {
                        dense_epochs: fresh.dense_epochs,
                        finetune_epochs: fresh.finetune_epochs,
                        search_warmup_epochs: fresh.search_warmup_epochs,
                        finetune_warmup_epochs: fresh.finetune_warmup_epochs,
                        ..saved
                    },
                }
            }
        };
        given.set("target_macs", &mut config.target_macs)?;
        given.set("finetune_learning_rate", &mut config.finetune_learning_rate)?;
        given.set("land", &mut config.land)?;
        given.set("export", &mut config.export)?;
        if teacher.is_some() {
            config.teacher = teacher;
        }
        if dense_from.is_some() {
            config.dense_from = dense_from;
        }
        Ok(MethodConfig::new(Kdfs::NAME, config)?)
    }

    fn complete(&self, config: &MethodConfig) -> Result<MethodConfig> {
        Ok(MethodConfig::new(Kdfs::NAME, config.read::<KdfsConfig>()?)?)
    }

    fn published(&self, summary: &Summary) -> Option<Published> {
        let config = summary.config.method.read().ok()?;
        published(summary, &config)
    }

    fn build(&self, config: &MethodConfig, _: &Context) -> Result<Box<dyn Method>> {
        Ok(Box::new(Kdfs::new(config.read()?)))
    }

    fn in_proportion(
        &self,
        config: &MethodConfig,
        from: &Recipe,
        to: &Recipe,
    ) -> Result<MethodConfig> {
        let mut kdfs: KdfsConfig = config.read()?;
        if from.epochs != to.epochs {
            let scaled = |epochs: usize| epochs * to.epochs / from.epochs.max(1);
            let at_least = |epochs: usize| scaled(epochs).max(usize::from(epochs > 0));
            kdfs.dense_epochs = at_least(kdfs.dense_epochs);
            kdfs.finetune_epochs = at_least(kdfs.finetune_epochs);
            kdfs.search_warmup_epochs = scaled(kdfs.search_warmup_epochs);
            kdfs.finetune_warmup_epochs = scaled(kdfs.finetune_warmup_epochs);
        }
        Ok(MethodConfig::new(Kdfs::NAME, kdfs)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_are_divided_as_published_unless_said_otherwise() {
        assert_eq!(divided(400, true, [None; 3]), [0, 350, 50]);
        assert_eq!(divided(4, false, [None; 3]), [2, 1, 1]);
        assert_eq!(divided(20, false, [None, Some(10), Some(4)]), [6, 10, 4]);
        assert_eq!(divided(20, true, [None, Some(12), None]), [0, 12, 8]);
        assert_eq!(divided(20, false, [Some(5), None, Some(5)]), [5, 10, 5]);
    }
}
