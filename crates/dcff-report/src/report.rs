//! The report: sections of comparable runs, and their files.

use std::fmt::Write;
use std::path::Path;

use crate::comparison::{ALIKE, Difference, one_change, to_random};
use crate::contents::{Chapter, Contents, TIMES_BEGIN, TIMES_END};
use crate::figures::draw;
use crate::group::{Section, sections};
use crate::published::PublishedTable;
use crate::run::{Run, Status};
use crate::statistics::Sample;
use crate::table::{Align, Table, change, count, duration, fixed};
use crate::text::percent;
use crate::{Error, Result, html, reading};

/// What to show.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The layer that is shown from inside; the first scored one unless given.
    pub layer: Option<String>,
    /// The command that made the runs.
    pub command: Option<String>,
}

/// Runs, ready to be written up.
#[derive(Debug)]
pub struct Report {
    runs: Vec<Run>,
    options: Options,
}

impl Report {
    /// A report on `runs`.
    ///
    /// # Errors
    /// When no run has finished, or none has the layer that is asked for.
    pub fn new(runs: Vec<Run>, options: Options) -> Result<Self> {
        if !runs.iter().any(|run| run.summary().is_some()) {
            let failure = runs.iter().find_map(|run| match &run.status {
                Status::Failed(failure) => Some(failure.clone()),
                _ => None,
            });
            return Err(Error::Nothing {
                runs: runs.len(),
                failure,
            });
        }
        if let Some(layer) = &options.layer {
            let mut known: Vec<String> = Vec::new();
            for run in &runs {
                for scored in run.scored_layers().unwrap_or_default() {
                    if !known.contains(&scored.name) {
                        known.push(scored.name);
                    }
                }
            }
            if !known.contains(layer) {
                return Err(Error::UnknownLayer {
                    layer: layer.clone(),
                    known: known.join(", "),
                });
            }
        }
        Ok(Self { runs, options })
    }

    /// The report as Markdown, with figures that are found in `figures/`.
    pub fn markdown(&self) -> String {
        markdown(&self.contents())
    }

    /// Writes `report.html`, `report.md`, `report.tex`, `groups.csv`, `runs.csv`, `times.csv`, `table.md`, `table.json` and
    /// `figures/` to the folder `out`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self, out: &Path) -> Result<()> {
        let contents = self.contents();
        std::fs::create_dir_all(out).map_err(|error| Error::file(out, error))?;
        let file = |name: &str, text: &str| dcff_file::write(&out.join(name), text.as_bytes());
        dcff_file::write_folder::<Error>(&out.join("figures"), |folder| {
            for chapter in &contents.chapters {
                for figure in &chapter.figures.drawn {
                    let name = format!("{}-{}.svg", chapter.id, figure.id);
                    dcff_file::write(&folder.join(name), figure.plot.standalone().as_bytes())?;
                }
            }
            Ok(())
        })?;
        let published = PublishedTable::new(&self.runs, self.options.command.as_deref());
        let json = serde_json::to_string_pretty(&published.json())
            .map_err(|error| Error::file(&out.join("table.json"), error))?;
        file("groups.csv", &self.groups_csv())?;
        file("runs.csv", &self.runs_csv())?;
        file("times.csv", &times(&self.runs).csv())?;
        file("report.tex", &latex(&contents))?;
        file("report.md", &markdown(&contents))?;
        file("report.html", &html::page(&contents))?;
        file("table.md", &published.markdown())?;
        // Last: a folder with table.json is complete.
        file("table.json", &format!("{json}\n"))?;
        Ok(())
    }

    fn contents(&self) -> Contents {
        let found = sections(&self.runs);
        let mut chapters = Vec::new();
        for section in &found {
            // The same network on other files of the same name is another section.
            let number = chapters
                .iter()
                .filter(|c: &&Chapter| c.title == title(section))
                .count();
            let suffix = if number > 0 {
                format!("-{}", number + 1)
            } else {
                String::new()
            };
            let data: String = data_name(section)
                .chars()
                .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
                .collect();
            chapters.push(Chapter {
                title: title(section),
                id: format!("{}-{}{suffix}", section.arch, data.trim_matches('-')),
                reading: reading::read(section),
                tables: tables(section),
                groups: section
                    .groups
                    .iter()
                    .map(|group| group.label.clone())
                    .collect(),
                figures: draw(section, self.options.layer.as_deref()),
            });
        }
        let finished = self
            .runs
            .iter()
            .filter(|run| run.summary().is_some())
            .count();
        let title = match self.runs.len() - finished {
            0 => format!("Report on {finished} runs"),
            rest => format!("Report on {finished} finished runs and {rest} that did not finish"),
        };
        Contents {
            title,
            notes: self.notes(),
            chapters,
            runs: (
                "Every run, and the command that repeats it".into(),
                self.run_table(),
            ),
            times: (
                "Times, on the machine that made the runs".into(),
                times(&self.runs),
            ),
        }
    }

    /// What a reader must know before comparing.
    fn notes(&self) -> Vec<String> {
        let mut notes: Vec<String> = Vec::new();
        let mut add = |note: String| {
            if !notes.contains(&note) {
                notes.push(note);
            }
        };
        if let Some(command) = &self.options.command {
            add(format!("Made by `{command}`."));
        }
        for summary in self.runs.iter().filter_map(Run::summary) {
            let data = &summary.config.data;
            add(format!(
                "Data: {}, {} training images, test set with SHA-256 {}; figures on other files are not comparable.",
                data.name, summary.train_images, data.test_fingerprint
            ));
            if summary.config.recipe.select_on_test {
                add("Epochs chosen by 'test' were chosen on the test images, as in the paper: such a figure is no estimate for new images.".into());
            }
        }
        add("Accuracy is top-1 on the test images: 'last' after the last epoch, 'chosen' at the epoch chosen by what stands in brackets.".into());
        add("± is the sample deviation over seeds. A difference is the mean of the differences of runs with the same seed, after the last epoch, in percentage points; its 95 % interval is Student's t over these pairs.".into());
        add("Multiply-accumulates are those of convolutions and linear layers for one image, counted as integers.".into());
        notes
    }

    fn run_table(&self) -> Table {
        let mut table = Table::new([
            ("run", Align::Left),
            ("seed", Align::Right),
            ("status", Align::Left),
            ("last %", Align::Right),
            ("chosen %", Align::Right),
            ("command", Align::Left),
        ]);
        for run in &self.runs {
            let accuracy = |which: fn(&dcff_run::Summary) -> f64| {
                run.summary().map_or("-".into(), |s| percent(which(s)))
            };
            table.row([
                run.name.clone(),
                run.seed().map_or("-".into(), |seed| seed.to_string()),
                status(run),
                accuracy(|s| s.last.test.accuracy),
                accuracy(|s| s.chosen.test.accuracy),
                run.config.as_ref().map_or("-".into(), |_| run.command()),
            ]);
        }
        table
    }

    fn runs_csv(&self) -> String {
        let names = [
            "run",
            "arch",
            "data",
            "criterion",
            "pipeline",
            "keep",
            "temperature",
            "seed",
            "epochs",
            "status",
            "last",
            "chosen",
            "chosen_by",
            "chosen_epoch",
            "macs",
            "macs_full",
            "params",
            "params_full",
            "training_macs",
        ];
        let mut table = Table::new(names.map(|name| (name, Align::Left)));
        for run in &self.runs {
            let config = run.config.as_ref();
            let setting = |path: &str| run.setting(path).unwrap_or_default().to_owned();
            let of = |value: fn(&dcff_run::Summary) -> String| {
                run.summary().map_or(String::new(), value)
            };
            table.row([
                run.name.clone(),
                config.map_or(String::new(), |c| c.arch.clone()),
                config.map_or(String::new(), |c| c.data.name.clone()),
                setting("method.criterion"),
                run.pipeline().unwrap_or_default().to_owned(),
                setting("method.keep"),
                setting("method.temperature"),
                run.seed().map_or(String::new(), |seed| seed.to_string()),
                config.map_or(String::new(), |c| c.recipe.epochs.to_string()),
                status(run),
                of(|s| s.last.test.accuracy.to_string()),
                of(|s| s.chosen.test.accuracy.to_string()),
                of(|s| s.chosen_by.clone()),
                of(|s| s.chosen.epoch.to_string()),
                of(|s| s.macs.compact.to_string()),
                of(|s| s.macs.full.to_string()),
                of(|s| s.params.compact.to_string()),
                of(|s| s.params.full.to_string()),
                run.training_macs
                    .map_or(String::new(), |macs| macs.to_string()),
            ]);
        }
        table.csv()
    }

    fn groups_csv(&self) -> String {
        let names = [
            "arch",
            "data",
            "group",
            "n",
            "last_mean",
            "last_deviation",
            "chosen_mean",
            "chosen_deviation",
            "reference",
            "difference",
            "interval_low",
            "interval_high",
            "pairs",
            "macs",
            "params",
            "training_macs",
        ];
        let mut table = Table::new(names.map(|name| (name, Align::Left)));
        let number = |value: Option<f64>| value.map_or(String::new(), |v| fixed(v, 4));
        for section in &sections(&self.runs) {
            let differences = to_random(section);
            for (group, difference) in section.groups.iter().zip(&differences) {
                let last = group.sample(|s| 100.0 * s.last.test.accuracy);
                let chosen = group.sample(|s| 100.0 * s.chosen.test.accuracy);
                let interval = difference
                    .as_ref()
                    .and_then(|d| d.sample.interval(crate::comparison::LEVEL));
                let reference = difference
                    .as_ref()
                    .map(|d| section.groups[d.reference].label.clone());
                table.row([
                    section.arch.clone(),
                    section.data.clone(),
                    group.label.clone(),
                    group.finished().count().to_string(),
                    number(last.map(|s| s.mean)),
                    number(last.and_then(|s| s.deviation)),
                    number(chosen.map(|s| s.mean)),
                    number(chosen.and_then(|s| s.deviation)),
                    reference.unwrap_or_default(),
                    number(difference.as_ref().map(|d| d.sample.mean)),
                    number(interval.map(|i| i.0)),
                    number(interval.map(|i| i.1)),
                    difference
                        .as_ref()
                        .map_or(String::new(), |d| d.sample.n.to_string()),
                    group
                        .cost(|s| s.macs)
                        .map_or(String::new(), |c| c.compact.to_string()),
                    group
                        .cost(|s| s.params)
                        .map_or(String::new(), |c| c.compact.to_string()),
                    group
                        .training_macs()
                        .map_or(String::new(), |macs| format!("{macs:.0}")),
                ]);
            }
        }
        table.csv()
    }
}

/// The data set's name, or the last part of its folder's.
fn data_name<'a>(section: &'a Section<'_>) -> &'a str {
    let name = section.data.trim_end_matches('/');
    name.rsplit('/').next().unwrap_or(name)
}

fn title(section: &Section<'_>) -> String {
    format!("{} on {}", section.arch, data_name(section))
}

fn status(run: &Run) -> String {
    match &run.status {
        Status::Finished(_) => "finished".into(),
        Status::Unfinished => format!("unfinished, {} epochs done", run.metrics.len()),
        Status::Failed(error) => format!("failed: {error}"),
    }
}

fn tables(section: &Section<'_>) -> Vec<(String, Table)> {
    let mut table = Table::new([
        ("method", Align::Left),
        ("n", Align::Right),
        ("last %", Align::Right),
        ("chosen %", Align::Right),
        ("to random, points", Align::Right),
        ("95 % interval", Align::Right),
        ("pairs", Align::Right),
        ("MACs", Align::Right),
        ("parameters", Align::Right),
        ("MACs of all training", Align::Right),
    ]);
    let differences = to_random(section);
    let text = |sample: Option<Sample>| sample.map_or("-".into(), |s| s.to_string());
    // Only what is not as one would expect: another keep mode or temperature.
    let mut references: Vec<String> = Vec::new();
    for (group, difference) in section.groups.iter().zip(&differences) {
        let cell = |of: &dyn Fn(&Difference) -> String| difference.as_ref().map_or("-".into(), of);
        if let Some(d) = difference {
            let reference = &section.groups[d.reference];
            let differs = |path: &str| group.effective(path) != reference.effective(path);
            // Under select only some criteria read a temperature, and random is none of them.
            let temperature = reference.effective("method.temperature").is_some()
                && differs("method.temperature");
            if differs("method.keep") || temperature {
                references.push(format!("{} to {}", group.label, reference.label));
            }
        }
        let by = group.finished().map(|(.., s)| s.chosen_by.clone()).next();
        let chosen = group.sample(|s| 100.0 * s.chosen.test.accuracy);
        table.row([
            group.label.clone(),
            group.count(),
            text(group.sample(|s| 100.0 * s.last.test.accuracy)),
            match (chosen, by) {
                (Some(sample), Some(by)) => format!("{sample} ({by})"),
                _ => "-".into(),
            },
            cell(&|d| d.mean()),
            cell(&|d| d.interval()),
            cell(&|d| d.sample.n.to_string()),
            reduced(group.cost(|s| s.macs)),
            reduced(group.cost(|s| s.params)),
            group
                .training_macs()
                .map_or("-".into(), |macs| count(macs as u64)),
        ]);
    }
    let mut caption = format!("{}: accuracy and cost; ", title(section));
    if differences.iter().all(Option::is_none) {
        let _ = write!(caption, "there is no random of {ALIKE} to compare with");
    } else {
        let _ = write!(
            caption,
            "differences are to random of {ALIKE}, and of the same keep mode and temperature"
        );
    }
    if !references.is_empty() {
        let _ = write!(caption, ", but for {}", references.join("; "));
    }
    let mut tables = vec![(caption, table)];
    let changes = one_change(section);
    if !changes.is_empty() {
        let mut table = Table::new([
            ("one setting changed", Align::Left),
            ("points", Align::Right),
            ("95 % interval", Align::Right),
            ("pairs", Align::Right),
        ]);
        for (what, difference) in &changes {
            table.row([
                what.clone(),
                difference.mean(),
                difference.interval(),
                difference.sample.n.to_string(),
            ]);
        }
        tables.push((
            format!(
                "{}: pairs of groups that differ in one setting",
                title(section)
            ),
            table,
        ));
    }
    tables.extend(products(section));
    tables
}

/// The networks of runs that end with several.
fn products(section: &Section<'_>) -> Option<(String, Table)> {
    let mut table = Table::new([
        ("run", Align::Left),
        ("network", Align::Left),
        ("test %", Align::Right),
        ("MACs", Align::Right),
        ("parameters", Align::Right),
    ]);
    let mut found = false;
    for (_, run, summary) in section.groups.iter().flat_map(|group| group.finished()) {
        for product in &summary.products {
            found = true;
            table.row([
                run.name.clone(),
                product.label.clone(),
                percent(product.test.accuracy),
                reduced(Some(product.macs)),
                reduced(Some(product.params)),
            ]);
        }
    }
    let caption = format!(
        "{}: the networks that a run ends with beside the one that stands for it",
        title(section)
    );
    found.then_some((caption, table))
}

fn reduced(cost: Option<dcff_run::Cost>) -> String {
    cost.map_or("-".into(), |cost| {
        format!(
            "{} ({})",
            count(cost.compact),
            change(cost.full, cost.compact, 1)
        )
    })
}

fn times(runs: &[Run]) -> Table {
    let mut table = Table::new([
        ("run", Align::Left),
        ("seconds", Align::Right),
        ("time", Align::Right),
        ("images/s", Align::Right),
        ("device", Align::Left),
        ("threads", Align::Right),
        ("version", Align::Left),
    ]);
    for run in runs {
        if let Some(s) = run.summary() {
            table.row([
                run.name.clone(),
                format!("{:.1}", s.seconds),
                duration(s.seconds),
                format!("{:.0}", s.images_per_second),
                s.device.clone(),
                s.threads.to_string(),
                s.dcff_version.clone(),
            ]);
        }
    }
    table
}

fn markdown(contents: &Contents) -> String {
    let mut text = format!("# {}\n\n", contents.title);
    for note in &contents.notes {
        let _ = writeln!(text, "{note}");
    }
    for chapter in &contents.chapters {
        let _ = writeln!(text, "\n## {}\n", chapter.title);
        for sentence in &chapter.reading {
            let _ = writeln!(text, "- {sentence}");
        }
        for (caption, table) in &chapter.tables {
            let _ = write!(text, "\n{}\n{caption}.\n", table.markdown());
        }
        for figure in &chapter.figures.drawn {
            let _ = write!(
                text,
                "\n![{0}](figures/{1}-{2}.svg)\n\n**{0}.** {3}\n",
                figure.title, chapter.id, figure.id, figure.caption
            );
        }
        for sentence in &chapter.figures.missing {
            let _ = write!(text, "\n{sentence}\n");
        }
    }
    let _ = write!(text, "\n## Runs\n\n{}\n", contents.runs.1.markdown());
    let _ = write!(
        text,
        "{TIMES_BEGIN}\n\n## Times\n\n{}\n{TIMES_END}\n",
        contents.times.1.markdown()
    );
    text
}

fn latex(contents: &Contents) -> String {
    let mut text = String::new();
    for note in &contents.notes {
        let _ = writeln!(text, "% {note}");
    }
    for chapter in &contents.chapters {
        for (caption, table) in &chapter.tables {
            text.push('\n');
            text.push_str(&table.latex(caption));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{KNOWN, seeds};

    fn report(root: &Path) -> Report {
        let mut runs = seeds(root, "kl", "fuse", "stretched", &[50.0, 52.0]);
        runs.extend(seeds(root, "random", "fuse", "stretched", &[49.0, 50.0]));
        let failed = root.join("failed");
        std::fs::create_dir(&failed).unwrap();
        std::fs::write(failed.join(crate::ERROR), "the loss is <NaN>\n").unwrap();
        runs.push(Run::read(&failed, KNOWN).unwrap());
        Report::new(runs, Options::default()).unwrap()
    }

    #[test]
    fn the_page_asks_nobody_for_anything() {
        let dir = tempfile::tempdir().unwrap();
        let page = html::page(&report(dir.path()).contents());
        for request in ["src=", "href=\"http", "url(", "@import", "fetch("] {
            assert!(!page.contains(request), "{request}");
        }
        assert!(page.contains("default-src &#39;none&#39;") || page.contains("default-src 'none'"));
        assert!(page.contains("failed: the loss is &lt;NaN&gt;"));
        assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
    }

    #[test]
    fn networks_for_several_budgets_are_a_table_and_a_curve() {
        let dir = tempfile::tempdir().unwrap();
        let mut runs = seeds(dir.path(), "kl", "fuse", "stretched", &[50.0]);
        let chapter = |runs: &[Run]| {
            let report = Report::new(runs.to_vec(), Options::default()).unwrap();
            report.contents().chapters.remove(0)
        };
        let drawn = |chapter: &Chapter| {
            let mut figures = chapter.figures.drawn.iter();
            figures.any(|figure| figure.id == "accuracy-budget")
        };
        assert!(!drawn(&chapter(&runs)));
        let Status::Finished(summary) = &mut runs[0].status else {
            panic!("a finished run");
        };
        let product = |(label, compact, accuracy): (&str, u64, f64)| dcff_run::ProductSummary {
            label: label.to_owned(),
            test: dcff_run::Score {
                loss: 1.0,
                accuracy,
            },
            macs: dcff_run::Cost { full: 200, compact },
            params: dcff_run::Cost { full: 200, compact },
        };
        summary.products = [("low", 20, 0.3), ("middle", 60, 0.45)].map(product).into();
        let chapter = chapter(&runs);
        assert!(drawn(&chapter));
        let (caption, table) = chapter.tables.last().unwrap();
        assert!(
            caption.contains("the networks that a run ends with"),
            "{caption}"
        );
        assert!(
            table.markdown().contains("| middle | 45.00 | 60 ("),
            "{}",
            table.markdown()
        );
    }

    #[test]
    fn every_format_has_the_same_numbers() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        report(dir.path()).write(&out).unwrap();
        let read = |name: &str| std::fs::read_to_string(out.join(name)).unwrap();
        let row = "| kl, fuse, stretched(4) | 2 | 51.00 ± 1.41 | 51.00 ± 1.41 (last) | +1.50 | -4.85 to +7.85 | 2 |";
        assert!(read("report.md").contains(row), "{}", read("report.md"));
        assert!(read("report.html").contains("<td class=\"n\">-4.85 to +7.85</td>"));
        assert!(
            read("report.tex").contains("51.00 $\\pm$ 1.41 & 51.00 $\\pm$ 1.41 (last) & +1.50")
        );
        let group = read("groups.csv");
        assert!(group.contains("51.0000,1.4142,51.0000,1.4142"), "{group}");
        assert!(
            group.contains(",1.5000,-4.8531,7.8531,2,100,100,3000"),
            "{group}"
        );
        assert_eq!(read("runs.csv").lines().count(), 6);
        assert!(read("runs.csv").contains("failed: the loss is <NaN>"));
        assert!(out.join("figures/resnet20-synthetic-entropy.svg").exists());
    }

    fn runs_of_one(root: &Path) -> Run {
        std::fs::create_dir_all(root).unwrap();
        seeds(root, "kl", "fuse", "stretched", &[50.0]).remove(0)
    }

    #[test]
    fn the_caption_says_what_is_compared_with_random() {
        let dir = tempfile::tempdir().unwrap();
        let text = report(dir.path()).markdown();
        assert!(
            text.contains("differences are to random of the same widths, training images, recipe and pipeline, and of the same keep mode and temperature.\n"),
            "{text}"
        );
        let alone = vec![runs_of_one(&dir.path().join("alone"))];
        let text = Report::new(alone, Options::default()).unwrap().markdown();
        assert!(
            text.contains("there is no random of the same widths, training images, recipe and pipeline to compare with.\n"),
            "{text}"
        );
    }

    #[test]
    fn a_run_that_cannot_be_read_is_a_marked_row() {
        let dir = tempfile::tempdir().unwrap();
        let runs = seeds(dir.path(), "kl", "fuse", "stretched", &[50.0, 52.0]);
        let metrics = runs[0].folder.join(dcff_run::METRICS);
        std::fs::write(&metrics, "{").unwrap();
        let checkpoint = runs[1].folder.join(dcff_run::CHECKPOINT);
        std::fs::create_dir(&checkpoint).unwrap();
        std::fs::write(checkpoint.join("state.json"), "{").unwrap();
        let runs = runs
            .iter()
            .map(|run| Run::read_or_mark(&run.folder, KNOWN).unwrap())
            .collect();
        let text = Report::new(runs, Options::default()).unwrap().markdown();
        assert!(
            text.contains("Report on 1 finished runs and 1 that did not finish"),
            "{text}"
        );
        let row = format!("| failed: {}: line 1: ", metrics.display());
        assert!(text.contains(&row), "{text}");
        assert!(
            text.contains("| kl, fuse, stretched(4) | 1 (1 failed) | 52.00 |"),
            "{text}"
        );
    }

    #[test]
    fn refuses_an_unknown_layer_and_no_runs() {
        let dir = tempfile::tempdir().unwrap();
        let Report { runs, .. } = report(dir.path());
        let options = Options {
            layer: Some("conv99".into()),
            command: None,
        };
        let message = Report::new(runs, options).unwrap_err().to_string();
        assert!(
            message.starts_with("layer conv99: no run has it; known: conv1, "),
            "{message}"
        );
        assert!(Report::new(Vec::new(), Options::default()).is_err());
        let folder = &runs_of_one(dir.path()).folder;
        std::fs::write(folder.join(dcff_run::SUMMARY), "{}").unwrap();
        let damaged = Run::read_or_mark(folder, KNOWN).unwrap();
        let message = Report::new(vec![damaged], Options::default()).unwrap_err();
        let start = format!(
            "expected at least one finished run, got none of 1; {}",
            folder.join(dcff_run::SUMMARY).display()
        );
        assert!(message.to_string().starts_with(&start), "{message}");
    }
}
