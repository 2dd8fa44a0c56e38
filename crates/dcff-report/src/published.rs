//! Finished runs beside the figures published for the same setting: `table.md` and `table.json`.

use std::collections::BTreeMap;

use dcff_run::{Cost, Counted, Published, Registry, Summary};
use serde_json::{Value, json};

use crate::run::Run;
use crate::statistics::Sample;
use crate::table::{Align, Table, change, count, duration};
use crate::text::percent;

/// Finished runs, a row each, beside the published figures.
#[derive(Debug)]
pub struct PublishedTable<'a> {
    runs: Vec<Row<'a>>,
    command: Option<&'a str>,
}

/// A run's name, its outcome and the figures in print for its setting.
type Row<'a> = (&'a str, &'a Summary, Option<Published>);

impl<'a> PublishedTable<'a> {
    /// The table of those of `runs` that have finished, made by `command`.
    pub fn new(runs: &'a [Run], command: Option<&'a str>) -> Self {
        let finished = |run: &'a Run| {
            let summary = run.summary()?;
            Some((run.name.as_str(), summary, run.published()))
        };
        Self {
            runs: runs.iter().filter_map(finished).collect(),
            command,
        }
    }

    /// The table of one outcome, that of the run `name`.
    pub fn of_summary(
        name: &'a str,
        summary: &'a Summary,
        known: &dyn Registry,
        command: Option<&'a str>,
    ) -> Self {
        Self {
            runs: vec![(name, summary, known.published(summary))],
            command,
        }
    }

    /// As Markdown, with times.
    pub fn markdown(&self) -> String {
        markdown(&self.runs, self.command)
    }

    /// Everything in it as a JSON object.
    pub fn json(&self) -> Value {
        json(&self.runs, self.command)
    }
}

fn reduced(cost: Cost) -> String {
    format!(
        "{} ({})",
        count(cost.compact),
        change(cost.full, cost.compact, 2)
    )
}

/// A cost in print, and how much of the full network's is saved, in percent.
fn saved((cost, reduction): (f64, f64)) -> String {
    format!("{} (-{reduction:.2} %)", count(cost as u64))
}

fn markdown(runs: &[Row<'_>], command: Option<&str>) -> String {
    let mut table = Table::new([
        ("network", Align::Left),
        ("method", Align::Left),
        ("seed", Align::Right),
        ("epochs", Align::Right),
        ("top-1 last %", Align::Right),
        ("top-1 chosen % (by)", Align::Right),
        ("published top-1 %", Align::Right),
        ("ops, `published` convention", Align::Right),
        ("in print", Align::Right),
        ("MACs", Align::Right),
        ("in print", Align::Right),
        ("params", Align::Right),
        ("in print", Align::Right),
        ("time", Align::Right),
        ("images/s", Align::Right),
    ]);
    for (_, s, paper) in runs {
        let print = |f: fn(&Published) -> String| paper.as_ref().map_or("-".into(), f);
        let ops = |counted: Counted| match paper {
            Some(p) if p.counted == counted => saved((p.ops, p.ops_reduction)),
            _ => "-".into(),
        };
        table.row([
            s.config.arch.clone(),
            s.method().label,
            s.config.seed.to_string(),
            s.config.recipe.epochs.to_string(),
            percent(s.last.test.accuracy),
            format!(
                "{} ({}, epoch {})",
                percent(s.chosen.test.accuracy),
                s.chosen_by,
                s.chosen.epoch
            ),
            print(|p| format!("{:.2}", p.top1)),
            reduced(s.published_ops),
            ops(Counted::Published),
            reduced(s.macs),
            ops(Counted::Macs),
            reduced(s.params),
            print(|p| p.params.map_or("-".into(), saved)),
            duration(s.seconds),
            format!("{:.0}", s.images_per_second),
        ]);
    }
    let mut text = format!("# Measured beside published\n\n{}\n", table.markdown());
    if let Some(command) = command {
        text.push_str(&format!("Made by `{command}`.\n"));
    }
    for line in notes(runs) {
        text.push_str(&format!("{line}\n"));
    }
    text.push_str("\n## Means over seeds\n\n");
    text.push_str(&means(runs).markdown());
    text.push_str("\n## Kept widths\n\n");
    for (folder, s, _) in runs {
        let widths: Vec<_> = s
            .widths
            .iter()
            .map(|w| format!("{}/{}", w.kept, w.of))
            .collect();
        text.push_str(&format!(
            "- {} seed {} (`{folder}`): {}\n",
            s.config.arch,
            s.config.seed,
            widths.join(" ")
        ));
    }
    text
}

/// What a reader must know before comparing.
fn notes(runs: &[Row<'_>]) -> Vec<String> {
    let mut notes: Vec<String> = Vec::new();
    let mut add = |note: String| {
        if !notes.contains(&note) {
            notes.push(note);
        }
    };
    for (_, s, paper) in runs {
        let data = &s.config.data;
        add(format!(
            "Data: {}, {} training images, test set with SHA-256 {}; figures on other files are not comparable.",
            data.name, s.train_images, data.test_fingerprint
        ));
        add(format!(
            "Device: {} with {} threads, dcff {}.",
            s.device, s.threads, s.dcff_version
        ));
        if s.config.recipe.select_on_test {
            add("Epochs chosen by 'test' were chosen on the test images, as in the paper: such a figure is no estimate for new images.".into());
        }
        if let Some(paper) = paper {
            add(paper.note.to_owned());
        }
    }
    notes
}

fn means(runs: &[Row<'_>]) -> Table {
    let mut groups: BTreeMap<(String, String, usize), Vec<&Summary>> = BTreeMap::new();
    for (_, s, _) in runs {
        groups
            .entry((
                s.config.arch.clone(),
                s.method().label,
                s.config.recipe.epochs,
            ))
            .or_default()
            .push(s);
    }
    let mut table = Table::new([
        ("network", Align::Left),
        ("method", Align::Left),
        ("epochs", Align::Right),
        ("n", Align::Right),
        ("top-1 last %, mean ± deviation", Align::Right),
        ("top-1 chosen %, mean ± deviation", Align::Right),
    ]);
    for ((arch, method, epochs), group) in groups {
        let spread = |f: fn(&Summary) -> f64| {
            let values: Vec<f64> = group.iter().map(|s| 100.0 * f(s)).collect();
            Sample::of(&values).map_or("-".into(), |sample| sample.to_string())
        };
        table.row([
            arch,
            method,
            epochs.to_string(),
            group.len().to_string(),
            spread(|s| s.last.test.accuracy),
            spread(|s| s.chosen.test.accuracy),
        ]);
    }
    table
}

fn json(runs: &[Row<'_>], command: Option<&str>) -> Value {
    let rows: Vec<Value> = runs
        .iter()
        .map(|(folder, summary, paper)| {
            let paper = paper.as_ref().map(|p| {
                json!({ "name": p.name, "top1": p.top1, "ops": p.ops, "ops_reduction": p.ops_reduction, "params": p.params.map(|p| p.0), "params_reduction": p.params.map(|p| p.1) })
            });
            json!({ "run": folder, "summary": summary, "published": paper })
        })
        .collect();
    json!({ "command": command, "rows": rows })
}
