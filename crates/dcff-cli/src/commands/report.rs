//! `dcff report`: finished runs beside the published figures. It reads run folders and nothing else.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use dcff_flops::reduction_percent;
use dcff_fusion::{PUBLISHED, PublishedSetting};
use dcff_train::methods::FilterFusionConfig;
use dcff_train::{Cost, MethodConfig, RunFolder, Summary};
use serde_json::{Value, json};

use crate::Ended;
use crate::args::ReportArgs;
use crate::table::{Align, Table, count, duration};

pub(crate) fn run(args: &ReportArgs) -> anyhow::Result<Ended> {
    match &args.out {
        None => print!("{}", markdown(&read(&args.runs)?, args.command.as_deref())),
        Some(out) => write(&args.runs, out, args.command.as_deref())?,
    }
    Ok(Ended::Done)
}

fn read(folders: &[PathBuf]) -> anyhow::Result<Vec<(String, Summary)>> {
    let mut runs = Vec::new();
    for path in folders {
        let (folder, _) = RunFolder::open(path)?;
        let summary = folder
            .summary()?
            .with_context(|| format!("{}: the run is not finished", path.display()))?;
        runs.push((path.display().to_string(), summary));
    }
    ensure!(!runs.is_empty(), "expected at least one run");
    Ok(runs)
}

/// Writes the report of the runs in `folders` to the folder `out`.
pub(crate) fn write(folders: &[PathBuf], out: &Path, command: Option<&str>) -> anyhow::Result<()> {
    let runs = read(folders)?;
    let markdown = markdown(&runs, command);
    std::fs::create_dir_all(out).with_context(|| out.display().to_string())?;
    let object = serde_json::to_string_pretty(&json(&runs, command))?;
    dcff_compact::file::write(&out.join("table.json"), format!("{object}\n").as_bytes())?;
    dcff_compact::file::write(&out.join("table.md"), markdown.as_bytes())?;
    println!("{}", out.join("table.md").display());
    Ok(())
}

/// The published setting whose rates a run used.
fn published(summary: &Summary) -> Option<&'static PublishedSetting> {
    let MethodConfig::Dcff(FilterFusionConfig { rates, .. }) = &summary.config.method else {
        return None;
    };
    PUBLISHED.iter().find(|setting| {
        setting.arch == summary.config.arch && setting.parsed_rates().is_ok_and(|r| r == *rates)
    })
}

fn method(summary: &Summary) -> String {
    match &summary.config.method {
        MethodConfig::Dense => "dense".into(),
        MethodConfig::Dcff(c) => format!("{}, {}, {}", c.criterion, c.keep.name(), c.temperature),
    }
}

fn percent(share: f64) -> String {
    format!("{:.2}", 100.0 * share)
}

fn reduced(cost: Cost) -> String {
    format!(
        "{} (-{:.2} %)",
        count(cost.compact),
        reduction_percent(cost.full, cost.compact)
    )
}

pub(super) fn markdown(runs: &[(String, Summary)], command: Option<&str>) -> String {
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
        ("params", Align::Right),
        ("in print", Align::Right),
        ("time", Align::Right),
        ("images/s", Align::Right),
    ]);
    for (_, s) in runs {
        let paper = published(s);
        let print = |f: fn(&PublishedSetting) -> String| paper.map_or("-".into(), f);
        table.row([
            s.config.arch.clone(),
            method(s),
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
            print(|p| format!("{} (-{:.2} %)", count(p.ops as u64), p.ops_reduction)),
            reduced(s.macs),
            reduced(s.params),
            print(|p| format!("{} (-{:.2} %)", count(p.params as u64), p.params_reduction)),
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
    for (folder, s) in runs {
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
fn notes(runs: &[(String, Summary)]) -> Vec<String> {
    let mut notes: Vec<String> = Vec::new();
    let mut add = |note: String| {
        if !notes.contains(&note) {
            notes.push(note);
        }
    };
    for (_, s) in runs {
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
    }
    add("The published top-1 is the best epoch on the test set, after 300 epochs on all 50,000 training images.".into());
    notes
}

fn means(runs: &[(String, Summary)]) -> Table {
    let mut groups: BTreeMap<(String, String, usize), Vec<&Summary>> = BTreeMap::new();
    for (_, s) in runs {
        groups
            .entry((s.config.arch.clone(), method(s), s.config.recipe.epochs))
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
            mean_and_deviation(&values)
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

/// The mean and, from two values on, the sample deviation.
fn mean_and_deviation(values: &[f64]) -> String {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    if values.len() < 2 {
        return format!("{mean:.2}");
    }
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0);
    format!("{mean:.2} ± {:.2}", variance.sqrt())
}

fn json(runs: &[(String, Summary)], command: Option<&str>) -> Value {
    let rows: Vec<Value> = runs
        .iter()
        .map(|(folder, summary)| {
            let paper = published(summary).map(|p| {
                json!({ "name": p.name, "top1": p.top1, "ops": p.ops, "ops_reduction": p.ops_reduction, "params": p.params, "params_reduction": p.params_reduction })
            });
            json!({ "run": folder, "summary": summary, "published": paper })
        })
        .collect();
    json!({ "command": command, "rows": rows })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deviations_are_of_the_sample() {
        assert_eq!(mean_and_deviation(&[1.0]), "1.00");
        assert_eq!(mean_and_deviation(&[1.0, 3.0]), "2.00 ± 1.41");
    }
}
