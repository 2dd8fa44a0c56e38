//! Runs that differ only in their seed, and the sections in which groups may be compared.

use std::collections::{BTreeMap, BTreeSet};

use dcff_run::{Cost, Description, Summary};

use crate::run::{Run, Status};
use crate::statistics::Sample;

/// Settings that name a method; all others are the same for all groups of a fair comparison.
const METHOD: [&str; 4] = [
    "method.name",
    "method.criterion",
    "method.keep",
    "method.temperature",
];

/// Stands for the pipeline among the settings' paths.
pub(crate) const PIPELINE: &str = "pipeline";

/// Runs that differ only in their seed.
#[derive(Debug)]
pub(crate) struct Group<'a> {
    /// The method in words, with the settings that tell it from another group of the same method.
    pub(crate) label: String,
    /// In the order of their seeds; of two runs with one seed the first that has finished is kept.
    pub(crate) runs: Vec<&'a Run>,
}

/// The groups of one network and one data set.
#[derive(Debug)]
pub(crate) struct Section<'a> {
    /// The network.
    pub(crate) arch: String,
    /// The data set.
    pub(crate) data: String,
    /// In the order of their first runs.
    pub(crate) groups: Vec<Group<'a>>,
}

impl<'a> Group<'a> {
    /// The finished runs' outcomes with their seeds.
    pub(crate) fn finished(&self) -> impl Iterator<Item = (u64, &'a Run, &'a Summary)> {
        self.runs
            .iter()
            .filter_map(|&run| Some((run.seed()?, run, run.summary()?)))
    }

    /// Accuracy after the last epoch in percent, by seed.
    pub(crate) fn accuracies(&self) -> BTreeMap<u64, f64> {
        self.finished()
            .map(|(seed, _, summary)| (seed, 100.0 * summary.last.test.accuracy))
            .collect()
    }

    /// A quantity over the finished runs.
    pub(crate) fn sample(&self, quantity: impl Fn(&Summary) -> f64) -> Option<Sample> {
        let values: Vec<f64> = self
            .finished()
            .map(|(_, _, summary)| quantity(summary))
            .collect();
        Sample::of(&values)
    }

    /// A cost, which all runs of a group share; the first run's where widths come from scores.
    pub(crate) fn cost(&self, cost: impl Fn(&Summary) -> Cost) -> Option<Cost> {
        self.finished().map(|(_, _, summary)| cost(summary)).next()
    }

    /// The mean number of multiply-accumulates of the whole training.
    pub(crate) fn training_macs(&self) -> Option<f64> {
        let macs: Option<Vec<f64>> = self
            .finished()
            .map(|(_, run, _)| run.training_macs.map(|macs| macs as f64))
            .collect();
        Sample::of(&macs?).map(|sample| sample.mean)
    }

    /// `n`, with the runs that did not finish.
    pub(crate) fn count(&self) -> String {
        let finished = self.finished().count();
        let failed = self
            .runs
            .iter()
            .filter(|run| matches!(run.status, Status::Failed(_)))
            .count();
        let open = self.runs.len() - finished - failed;
        let mut notes = Vec::new();
        if failed > 0 {
            notes.push(format!("{failed} failed"));
        }
        if open > 0 {
            notes.push(format!("{open} unfinished"));
        }
        match notes.is_empty() {
            true => finished.to_string(),
            false => format!("{finished} ({})", notes.join(", ")),
        }
    }

    /// A setting, which all runs of the group share.
    pub(crate) fn setting(&self, path: &str) -> Option<&'a str> {
        self.runs.first().and_then(|run| run.setting(path))
    }

    /// Whether filters are kept by lot.
    pub(crate) fn is_random(&self) -> bool {
        self.setting("method.criterion") == Some("random")
    }

    /// Whether the temperature can change anything: it enters fused weights, and the scores of some criteria.
    fn reads_temperature(&self) -> bool {
        let criterion = self.setting("method.criterion").unwrap_or_default();
        self.setting("method.keep") == Some("fuse")
            || self
                .runs
                .first()
                .is_some_and(|run| run.known.reads_temperature(criterion))
    }

    /// The method's setting at `path`, where it can change anything.
    pub(crate) fn effective(&self, path: &str) -> Option<&'a str> {
        match path {
            "method.temperature" if !self.reads_temperature() => None,
            PIPELINE => self.runs.first().and_then(|run| run.pipeline()),
            _ => self.setting(path),
        }
    }

    fn method(&self) -> String {
        let run = self.runs.first();
        let taught = self.setting("distil.weight").map(|_| "distilled");
        if let Some(run) = run.filter(|run| run.setting("method.criterion").is_none()) {
            let parts = [Some(run.method.label.as_str()), taught];
            return parts.into_iter().flatten().collect::<Vec<_>>().join(", ");
        }
        let parts = [
            self.effective("method.criterion"),
            self.effective(PIPELINE)
                .filter(|&name| name != Description::SCRATCH),
            self.effective("method.keep"),
            self.effective("method.temperature"),
            taught,
        ];
        parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}

/// Sorts runs into sections and groups; runs without a configuration are in none.
pub(crate) fn sections(runs: &[Run]) -> Vec<Section<'_>> {
    let mut sections: Vec<(String, Section<'_>, Vec<String>)> = Vec::new();
    for run in runs {
        let Some(config) = &run.config else { continue };
        let place = format!("{} {}", config.arch, config.data.test_fingerprint);
        let at = sections
            .iter()
            .position(|(known, ..)| *known == place)
            .unwrap_or_else(|| {
                let section = Section {
                    arch: config.arch.clone(),
                    data: config.data.name.clone(),
                    groups: Vec::new(),
                };
                sections.push((place, section, Vec::new()));
                sections.len() - 1
            });
        let (_, section, keys) = &mut sections[at];
        let key = key(run);
        match keys.iter().position(|known| *known == key) {
            Some(index) => section.groups[index].runs.push(run),
            None => {
                keys.push(key);
                section.groups.push(Group {
                    label: String::new(),
                    runs: vec![run],
                });
            }
        }
    }
    sections
        .into_iter()
        .map(|(_, mut section, _)| {
            for group in &mut section.groups {
                // Of two with one seed, one that has finished.
                group
                    .runs
                    .sort_by_key(|run| (run.seed(), run.summary().is_none()));
                group.runs.dedup_by_key(|run| run.seed());
            }
            label(&mut section.groups);
            section
        })
        .collect()
}

/// The settings that make a group: all but the seed and where shared dense weights came from.
fn key(run: &Run) -> String {
    run.settings
        .iter()
        .filter(|(path, _)| *path != "seed" && !path.contains("dense_from"))
        .map(|(path, value)| format!("{path}={value};"))
        .collect()
}

/// Names groups by their method, and groups of one method by what else differs.
fn label(groups: &mut [Group<'_>]) {
    let methods: Vec<String> = groups.iter().map(Group::method).collect();
    for index in 0..groups.len() {
        let alike: Vec<usize> = (0..groups.len())
            .filter(|&other| methods[other] == methods[index])
            .collect();
        let mut label = methods[index].clone();
        if alike.len() > 1 {
            let paths: BTreeSet<&str> = alike
                .iter()
                .flat_map(|&other| groups[other].runs[0].settings.keys())
                .map(String::as_str)
                .filter(|path| {
                    *path != "seed" && !METHOD.contains(path) && !path.contains("dense_from")
                })
                // A teacher is told by its folder.
                .filter(|path| !path.ends_with("teacher.sha256"))
                .filter(|path| {
                    let value = groups[index].setting(path);
                    alike
                        .iter()
                        .any(|&other| groups[other].setting(path) != value)
                })
                .collect();
            for path in paths {
                let mut name = path.rsplit('.').next().unwrap_or(path);
                let mut value = groups[index].setting(path).unwrap_or("-");
                if path.ends_with("teacher.run") {
                    name = "teacher";
                    value = value.rsplit(['/', '\\']).next().unwrap_or(value);
                }
                let short: String = value.chars().take(24).collect();
                let dots = if short.len() < value.len() { "…" } else { "" };
                label.push_str(&format!(", {name} {short}{dots}"));
            }
        }
        groups[index].label = label;
    }
}

#[cfg(test)]
mod tests {
    use dcff_run::{DenseFrom, Distil};

    use super::*;
    use crate::fixtures::{config, finished, seeds};

    #[test]
    fn groups_of_one_method_are_told_apart_by_what_differs() {
        let dir = tempfile::tempdir().unwrap();
        let mut runs = seeds(dir.path(), "l1-norm", "select", "stretched", &[1.0, 2.0]);
        let mut longer = config("l1-norm", "select", "stretched", 1);
        longer.recipe.epochs = 9;
        runs.push(finished(dir.path(), longer, 3.0));
        let sections = sections(&runs);
        let labels: Vec<&str> = sections[0]
            .groups
            .iter()
            .map(|g| g.label.as_str())
            .collect();
        // No temperature: neither the L1 norm nor a selection reads it.
        assert_eq!(
            labels,
            ["l1-norm, select, epochs 2", "l1-norm, select, epochs 9"]
        );
        assert_eq!(sections[0].groups[0].count(), "2");
        assert_eq!(sections[0].groups[0].training_macs(), Some(3_000.0));
    }

    #[test]
    fn a_distilled_run_says_so_and_a_teacher_is_told_by_its_folder() {
        let dir = tempfile::tempdir().unwrap();
        let teacher = |folder: &str| {
            Some(Distil::new(DenseFrom {
                run: folder.into(),
                sha256: folder.repeat(9),
            }))
        };
        let mut runs = Vec::new();
        for distil in [None, teacher("runs/a"), teacher("runs/b")] {
            let mut config = config("l1-norm", "select", "stretched", 1);
            config.distil = distil;
            runs.push(finished(dir.path(), config, 1.0));
        }
        let sections = sections(&runs);
        let labels = sections[0].groups.iter().map(|g| g.label.as_str());
        assert_eq!(
            labels.collect::<Vec<_>>(),
            [
                "l1-norm, select",
                "l1-norm, select, distilled, teacher a",
                "l1-norm, select, distilled, teacher b"
            ]
        );
    }

    #[test]
    fn other_images_are_another_section() {
        let dir = tempfile::tempdir().unwrap();
        let mut other = config("kl", "fuse", "stretched", 1);
        other.data.test_fingerprint = "c".into();
        let mut runs = seeds(dir.path(), "kl", "fuse", "stretched", &[1.0]);
        runs.push(finished(dir.path(), other, 2.0));
        assert_eq!(sections(&runs).len(), 2);
    }
}
