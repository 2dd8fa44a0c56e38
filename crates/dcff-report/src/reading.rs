//! What the numbers say, in words, with what they cannot say.

use crate::comparison::{ALIKE, Difference, LEVEL, one_change, to_random};
use crate::group::Section;
use crate::text::listed;

/// Sentences about a section.
pub(crate) fn read(section: &Section<'_>) -> Vec<String> {
    let mut text = Vec::new();
    let label = |index: usize| section.groups[index].label.as_str();
    let differences: Vec<Difference> = to_random(section).into_iter().flatten().collect();
    if differences.is_empty() {
        text.push(if section.groups.iter().any(|group| group.is_random()) {
            format!("No group shares a finished seed with a random of {ALIKE}, so nothing is compared with chance.")
        } else {
            "There are no runs with the criterion random, so nothing is compared with chance."
                .to_owned()
        });
    } else {
        against_random(&differences, &label, &mut text);
    }
    changes(section, &mut text);
    if let Some((best, sample)) = section
        .groups
        .iter()
        .filter_map(|group| Some((group, group.sample(|s| 100.0 * s.last.test.accuracy)?)))
        .max_by(|(_, a), (_, b)| a.mean.total_cmp(&b.mean))
        .filter(|_| section.groups.len() > 1)
    {
        text.push(format!(
            "The highest mean after the last epoch is that of {}, {:.2} %. It is the largest of {} means, so part of its lead is luck.",
            best.label,
            sample.mean,
            section.groups.len()
        ));
    }
    text.push(
        "All runs are tested on the same images: the intervals show how seeds differ, not how another test set would."
            .to_owned(),
    );
    text
}

fn against_random<'a>(
    differences: &[Difference],
    label: &impl Fn(usize) -> &'a str,
    text: &mut Vec<String>,
) {
    let with_interval: Vec<&Difference> = differences
        .iter()
        .filter(|difference| difference.excludes_zero(LEVEL).is_some())
        .collect();
    let k = with_interval.len();
    if k == 0 {
        text.push(
            "Every comparison with random rests on one seed: there is no telling a difference from chance.".to_owned(),
        );
        return;
    }
    let at = |level: f64, above: bool| -> Vec<String> {
        with_interval
            .iter()
            .filter(|d| d.excludes_zero(level) == Some(true) && (d.sample.mean > 0.0) == above)
            .map(|d| {
                format!(
                    "{} ({} points, {}, n = {})",
                    label(d.group),
                    d.mean(),
                    d.interval(),
                    d.sample.n
                )
            })
            .collect()
    };
    let (better, worse) = (at(LEVEL, true), at(LEVEL, false));
    match (better.is_empty(), worse.is_empty()) {
        (true, true) => text.push(format!(
            "Nothing is told from random: {} of the difference to it.",
            match k {
                1 => "the only interval includes 0, that".to_owned(),
                _ => format!("0 lies in all {k} intervals"),
            }
        )),
        (true, false) => {
            text.push("Nothing is better than random by an interval that excludes 0.".to_owned())
        }
        (false, _) => text.push(format!(
            "Better than random, with an interval that excludes 0: {}.",
            listed(&better)
        )),
    }
    if !worse.is_empty() {
        text.push(format!(
            "Worse than random, with an interval that excludes 0: {}.",
            listed(&worse)
        ));
    }
    if k > 1 {
        let by_chance = (1.0 - LEVEL) * k as f64;
        let mut sentence = format!(
            "Of {k} such intervals {by_chance:.2} exclude 0 on average even if every criterion were as good as chance."
        );
        if !(better.is_empty() && worse.is_empty()) {
            let level = 1.0 - (1.0 - LEVEL) / k as f64;
            let kept = [at(level, true), at(level, false)].concat().len();
            sentence.push_str(&match kept {
                0 => format!(
                    " At the level that allows for it (Bonferroni, {:.2} %), none does.",
                    100.0 * level
                ),
                1 => format!(
                    " At the level that allows for it (Bonferroni, {:.2} %), one still does.",
                    100.0 * level
                ),
                n => format!(
                    " At the level that allows for it (Bonferroni, {:.2} %), {n} still do.",
                    100.0 * level
                ),
            });
        }
        text.push(sentence);
    }
    let widest = with_interval
        .iter()
        .filter_map(|d| d.sample.half_width(LEVEL))
        .fold(0.0, f64::max);
    let fewest = with_interval.iter().map(|d| d.sample.n).min().unwrap_or(0);
    if fewest < 5 {
        text.push(format!(
            "With {fewest} seeds an interval is up to ±{widest:.2} points wide: a smaller difference can be there without being seen."
        ));
    }
}

fn changes(section: &Section<'_>, text: &mut Vec<String>) {
    let found = one_change(section);
    let told: Vec<String> = found
        .iter()
        .filter(|(_, difference)| difference.excludes_zero(LEVEL) == Some(true))
        .map(|(what, difference)| {
            format!(
                "{what}, {} points ({})",
                difference.mean(),
                difference.interval()
            )
        })
        .collect();
    let tested = found
        .iter()
        .filter(|(_, difference)| difference.excludes_zero(LEVEL).is_some())
        .count();
    if tested == 0 {
        return;
    }
    if told.is_empty() {
        text.push(format!(
            "Of {tested} pairs of groups that differ in one setting (temperature, keep mode or pipeline), none differs by an interval that excludes 0."
        ));
    } else {
        text.push(format!(
            "Of {tested} pairs of groups that differ in one setting (temperature, keep mode or pipeline), these differ by an interval that excludes 0: {}.",
            told.join("; ")
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::seeds;
    use crate::group::sections;

    #[test]
    fn says_what_is_told_from_random_and_what_chance_does() {
        let dir = tempfile::tempdir().unwrap();
        let mut runs = seeds(
            dir.path(),
            "random",
            "select",
            "stretched",
            &[50.0, 51.0, 52.0],
        );
        runs.extend(seeds(
            dir.path(),
            "l1-norm",
            "select",
            "stretched",
            &[60.0, 61.1, 61.9],
        ));
        runs.extend(seeds(
            dir.path(),
            "fpgm",
            "select",
            "stretched",
            &[40.0, 51.0, 60.0],
        ));
        let text = read(&sections(&runs)[0]).join("\n");
        // 10, 10.1 and 9.9 points: 10 ± 4.3027 · 0.1 / sqrt 3.
        assert!(
            text.contains("Better than random, with an interval that excludes 0: l1-norm, select (+10.00 points, +9.75 to +10.25, n = 3)."),
            "{text}"
        );
        assert!(
            text.contains("Of 2 such intervals 0.10 exclude 0 on average"),
            "{text}"
        );
        assert!(
            text.contains("(Bonferroni, 97.50 %), one still does."),
            "{text}"
        );
        assert!(!text.contains("Worse"), "{text}");
    }

    #[test]
    fn says_so_when_there_is_nothing_to_tell() {
        let dir = tempfile::tempdir().unwrap();
        let runs = seeds(dir.path(), "kl", "fuse", "stretched", &[50.0]);
        let text = read(&sections(&runs)[0]).join("\n");
        assert!(
            text.starts_with("There are no runs with the criterion random"),
            "{text}"
        );
        let mut runs = seeds(dir.path(), "kl", "fuse", "stretched", &[50.0]);
        runs.extend(seeds(dir.path(), "random", "fuse", "stretched", &[40.0]));
        let text = read(&sections(&runs)[0]).join("\n");
        assert!(
            text.starts_with("Every comparison with random rests on one seed"),
            "{text}"
        );
    }
}
