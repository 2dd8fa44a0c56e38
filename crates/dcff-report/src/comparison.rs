//! Differences between groups, paired over seeds.

use std::collections::BTreeSet;

use dcff_run::Summary;

use crate::group::{Group, PIPELINE, Section};
use crate::statistics::Sample;
use crate::table::signed;

/// The level of every interval.
pub(crate) const LEVEL: f64 = 0.95;

/// How much more accurate one group is than another, in percentage points after the last epoch.
#[derive(Clone, Debug)]
pub(crate) struct Difference {
    /// The group, by its place in the section.
    pub(crate) group: usize,
    /// What it is compared with.
    pub(crate) reference: usize,
    /// The differences of runs with the same seed.
    pub(crate) sample: Sample,
}

impl Difference {
    fn of(section: &Section<'_>, group: usize, reference: usize) -> Option<Self> {
        let (a, b) = (
            section.groups[group].accuracies(),
            section.groups[reference].accuracies(),
        );
        let paired: Vec<f64> = a
            .iter()
            .filter_map(|(seed, value)| Some(value - b.get(seed)?))
            .collect();
        Some(Self {
            group,
            reference,
            sample: Sample::of(&paired)?,
        })
    }

    /// Whether the interval at `level` excludes 0; `None` without an interval.
    pub(crate) fn excludes_zero(&self, level: f64) -> Option<bool> {
        let (low, high) = self.sample.interval(level)?;
        Some(low > 0.0 || high < 0.0)
    }

    /// `+1.25`.
    pub(crate) fn mean(&self) -> String {
        signed(self.sample.mean, 2)
    }

    /// `-0.48 to +4.48`, or `-` for a single pair.
    pub(crate) fn interval(&self) -> String {
        self.sample
            .interval(LEVEL)
            .map_or("-".into(), |(low, high)| {
                format!("{} to {}", signed(low, 2), signed(high, 2))
            })
    }
}

/// What is compared, for captions and sentences.
pub(crate) const ALIKE: &str = "the same widths, training images, recipe and pipeline";

/// Settings of the stages, which are the recipe's in a run that prunes.
const STAGES: [&str; 3] = [
    "method.dense_epochs",
    "method.steps",
    "method.finetune_learning_rate",
];

/// For every group its difference to `random`, where the section has one of [`ALIKE`].
///
/// Of several, that with the same keep mode and temperature, in this order of importance.
pub(crate) fn to_random(section: &Section<'_>) -> Vec<Option<Difference>> {
    let groups = &section.groups;
    let compare = |index: usize| {
        let group = &groups[index];
        if group.is_random() || group.effective(PIPELINE).is_none() {
            return None;
        }
        let same = |path: &str, other: &Group<'_>| group.effective(path) == other.effective(path);
        let reference = (0..groups.len())
            .filter(|&other| groups[other].is_random())
            .filter(|&other| {
                let other = &groups[other];
                same(PIPELINE, other)
                    && STAGES.iter().all(|path| same(path, other))
                    && same_recipe(group, other)
                    && same_widths(group, other)
            })
            .max_by_key(|&other| {
                let other_group = &groups[other];
                (
                    same("method.keep", other_group),
                    same("method.temperature", other_group),
                    // Of equals the first.
                    std::cmp::Reverse(other),
                )
            })?;
        Difference::of(section, index, reference)
    };
    (0..groups.len()).map(compare).collect()
}

/// Pairs of groups that differ in one setting other than the criterion: what changed, and by how much.
pub(crate) fn one_change(section: &Section<'_>) -> Vec<(String, Difference)> {
    const AXES: [(&str, &str); 3] = [
        ("method.temperature", "temperature"),
        ("method.keep", "keep mode"),
        (PIPELINE, "pipeline"),
    ];
    let groups = &section.groups;
    let mut found = Vec::new();
    for reference in 0..groups.len() {
        for group in 0..groups.len() {
            let (a, b) = (&groups[group], &groups[reference]);
            if group == reference || a.setting("method.criterion") != b.setting("method.criterion")
            {
                continue;
            }
            let changed: Vec<&(&str, &str)> = AXES
                .iter()
                .filter(|(path, _)| a.effective(path) != b.effective(path))
                .collect();
            // A change of keep mode or pipeline may take away the temperature's meaning.
            let named = match changed.as_slice() {
                [(_, one)] => one,
                [(_, "temperature"), (_, other)]
                    if a.effective("method.temperature").is_none()
                        || b.effective("method.temperature").is_none() =>
                {
                    other
                }
                _ => continue,
            };
            // One direction is enough; the later group against the earlier.
            if group < reference || !same_recipe(a, b) || !same_widths(a, b) {
                continue;
            }
            if let Some(difference) = Difference::of(section, group, reference) {
                found.push((
                    format!("{named}: {} against {}", a.label, b.label),
                    difference,
                ));
            }
        }
    }
    found
}

/// Whether two groups saw the same images for the same number of epochs under the same recipe.
fn same_recipe(a: &Group<'_>, b: &Group<'_>) -> bool {
    let of = |group: &Group<'_>| {
        let config = group.runs.first()?.config.as_ref()?;
        Some((
            config.recipe.clone(),
            config.data.train_fingerprint.clone(),
            config.data.augment,
            config.data.hold_out,
        ))
    };
    of(a) == of(b)
}

/// Whether two groups were asked for the same rates or budget, or came to the same widths.
fn same_widths(a: &Group<'_>, b: &Group<'_>) -> bool {
    let asked = |group: &Group<'_>| -> Vec<(String, String)> {
        let settings = group.runs.first().map(|run| &run.settings);
        let of_widths = |path: &str| path == "method.rates" || path.starts_with("method.budget");
        settings
            .into_iter()
            .flatten()
            .filter(|(path, _)| of_widths(path))
            .map(|(path, value)| (path.clone(), value.clone()))
            .collect()
    };
    let kept = |group: &Group<'_>| -> BTreeSet<Vec<usize>> {
        let widths = |summary: &Summary| summary.widths.iter().map(|w| w.kept).collect();
        group
            .finished()
            .map(|(.., summary)| widths(summary))
            .collect()
    };
    asked(a) == asked(b) || (kept(a).len() == 1 && kept(a) == kept(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{config, finished, seeds};
    use crate::group::sections;
    use crate::run::Status;

    #[test]
    fn differences_are_paired_over_seeds() {
        let dir = tempfile::tempdir().unwrap();
        let mut runs = seeds(
            dir.path(),
            "kl",
            "fuse",
            "stretched",
            &[50.0, 52.0, 54.0, 90.0],
        );
        // Seed 4 has no partner.
        runs.extend(seeds(
            dir.path(),
            "random",
            "fuse",
            "stretched",
            &[49.0, 50.0, 51.0],
        ));
        let sections = sections(&runs);
        let differences = to_random(&sections[0]);
        assert!(differences[1].is_none(), "random is compared with nothing");
        let difference = differences[0].clone().unwrap();
        assert_eq!((difference.reference, difference.sample.n), (1, 3));
        // 1, 2 and 3 points: t(2) = 4.3027, so 2 ± 4.3027 / sqrt 3.
        assert_eq!(
            (difference.mean().as_str(), difference.interval().as_str()),
            ("+2.00", "-0.48 to +4.48")
        );
        assert_eq!(difference.excludes_zero(LEVEL), Some(false));
        assert_eq!(difference.excludes_zero(0.9), Some(true));
    }

    #[test]
    fn the_reference_has_the_same_keep_mode() {
        let dir = tempfile::tempdir().unwrap();
        let mut runs = seeds(dir.path(), "random", "fuse", "stretched", &[40.0]);
        runs.extend(seeds(dir.path(), "random", "select", "stretched", &[41.0]));
        runs.extend(seeds(dir.path(), "l1-norm", "select", "published", &[43.0]));
        let sections = sections(&runs);
        let difference = to_random(&sections[0])[2].clone().unwrap();
        assert_eq!(
            (difference.reference, difference.mean().as_str()),
            (1, "+2.00")
        );
        assert_eq!(difference.interval(), "-", "one pair has no interval");
    }

    #[test]
    fn nothing_is_compared_with_a_random_of_other_widths_or_images() {
        let dir = tempfile::tempdir().unwrap();
        let run = |criterion: &str, rate: &str, kept: usize, images: &str, percent: f64| {
            let mut config = config(criterion, "fuse", "stretched", 1);
            config.data.train_fingerprint = images.into();
            let settings = &mut config.method.settings;
            settings.insert("rates".into(), rate.into());
            let mut run = finished(dir.path(), config, percent);
            if let Status::Finished(summary) = &mut run.status {
                summary.widths[0].kept = kept;
            }
            run
        };
        let kl = || run("kl", "0.2", 13, "a", 60.0);
        for (random, difference) in [
            (run("random", "0.9", 2, "a", 20.0), None),
            (run("random", "0.2", 13, "c", 20.0), None),
            (run("random", "0.2", 13, "a", 58.0), Some("+2.00")),
            // Asked for otherwise, and the same widths.
            (run("random", "[0.2]*9", 13, "a", 59.0), Some("+1.00")),
        ] {
            let runs = [random, kl()];
            let found = to_random(&sections(&runs)[0]).remove(1);
            assert_eq!(found.map(|d| d.mean()).as_deref(), difference);
        }
    }

    #[test]
    fn pairs_differ_in_one_setting() {
        let dir = tempfile::tempdir().unwrap();
        let mut runs = seeds(dir.path(), "kl", "fuse", "published", &[40.0, 41.0]);
        runs.extend(seeds(dir.path(), "kl", "fuse", "stretched", &[42.0, 44.0]));
        runs.extend(seeds(dir.path(), "l1-norm", "fuse", "stretched", &[42.0]));
        let sections = sections(&runs);
        let found = one_change(&sections[0]);
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].0.as_str(), found[0].1.mean().as_str()),
            (
                "temperature: kl, fuse, stretched(4) against kl, fuse, published",
                "+2.50"
            )
        );
    }
}
