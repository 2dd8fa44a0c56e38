//! The figures of a section: which runs, what is drawn, how it was made.

use std::collections::BTreeMap;

use dcff_run::{LayerSelection, ScoredLayer, Summary};

use crate::cells::Cells;
use crate::group::{Group, Section};
use crate::run::Run;
use crate::statistics::Sample;
use crate::svg::{Axis, Mark, Plot, Series, bars, lines, map, marks};
use crate::table::{count, fixed};
use crate::text::percent;

/// A plot and the words around it.
#[derive(Debug)]
pub(crate) struct Figure {
    /// The file's name without its ending, unique in a section.
    pub(crate) id: String,
    /// What it shows.
    pub(crate) title: String,
    /// How it was made.
    pub(crate) caption: String,
    /// Whether it is one of many of a kind, which are shown small.
    pub(crate) small: bool,
    pub(crate) plot: Plot,
}

/// What could be drawn, and a sentence for what could not.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub(crate) drawn: Vec<Figure>,
    pub(crate) missing: Vec<String>,
}

impl Figures {
    fn add(&mut self, id: &str, title: &str, caption: String, plot: Plot) {
        self.drawn.push(Figure {
            id: id.to_owned(),
            title: title.to_owned(),
            caption,
            small: id.starts_with("kept-") || id.starts_with("p-"),
            plot,
        });
    }
}

/// Draws everything that the runs of `section` have the numbers for; `layer` is the one shown from inside.
pub(crate) fn draw(section: &Section<'_>, layer: Option<&str>) -> Figures {
    let mut figures = Figures::default();
    costs(section, &mut figures);
    budgets(section, &mut figures);
    curves(section, &mut figures);
    widths(section, &mut figures);
    dynamics(section, &mut figures);
    searches(section, &mut figures);
    inside(section, layer, &mut figures);
    figures
}

fn costs(section: &Section<'_>, figures: &mut Figures) {
    let how = "A disc is the mean of a group after the last epoch with its sample deviation, a ring a run; groups of the same cost stand side by side.";
    let plot = |name: &str, axis: &str, cost: &dyn Fn(&Run, &Summary) -> Option<f64>| {
        let mut all = Vec::new();
        // Groups of one cost stand side by side.
        let at = |group: &Group<'_>| {
            let (_, run, summary) = group.finished().next()?;
            Some(cost(run, summary)? as u64)
        };
        let places: Vec<Option<u64>> = section.groups.iter().map(at).collect();
        for (index, group) in section.groups.iter().enumerate() {
            let same = |place: &&Option<u64>| place.is_some() && **place == places[index];
            let all_there = places.iter().filter(same).count() as f64;
            let before = places[..index].iter().filter(same).count() as f64;
            let alone = places
                .iter()
                .flatten()
                .all(|place| Some(*place) == places[index]);
            let room = if alone { 280.0 } else { 50.0 };
            let step = f64::min(18.0, room / all_there.max(1.0));
            let aside = (before - 0.5 * (all_there - 1.0)) * step;
            let points: Vec<(&Run, f64, f64)> = group
                .finished()
                .filter_map(|(_, run, s)| Some((run, cost(run, s)?, 100.0 * s.last.test.accuracy)))
                .collect();
            for &(run, x, y) in &points {
                all.push(Mark {
                    index,
                    tip: format!(
                        "{}: {y:.2} % at {}; {}",
                        run.name,
                        count(x as u64),
                        run.command()
                    ),
                    x,
                    y,
                    deviation: None,
                    small: true,
                    aside,
                });
            }
            let accuracies: Vec<f64> = points.iter().map(|point| point.2).collect();
            let Some(sample) = Sample::of(&accuracies) else {
                continue;
            };
            let x = points.iter().map(|point| point.1).sum::<f64>() / points.len() as f64;
            all.push(Mark {
                index,
                tip: format!(
                    "{}: {:.2} %{} at {}, n = {}",
                    group.label,
                    sample.mean,
                    sample
                        .deviation
                        .map_or(String::new(), |d| format!(" ± {d:.2}")),
                    count(x as u64),
                    sample.n
                ),
                x,
                y: sample.mean,
                deviation: sample.deviation,
                small: false,
                aside,
            });
        }
        // Discs lie on top.
        all.sort_by_key(|mark| !mark.small);
        let x = Axis {
            counts: true,
            ..Axis::new(axis)
        };
        (!all.is_empty()).then(|| marks(name, x, Axis::new("test accuracy, %"), &all))
    };
    let title = "Accuracy and the compact network's cost";
    if let Some(plot) = plot(title, "multiply-accumulates per image", &|_, s| {
        Some(s.macs.compact as f64)
    }) {
        let caption = format!(
            "{how} Test accuracy against multiply-accumulates per image, from summary.json."
        );
        figures.add("accuracy-macs", title, caption, plot);
    }
    let title = "Accuracy and the cost of all training";
    let counted = |run: &Run, _: &Summary| run.training_macs.map(|macs| macs as f64);
    match plot(title, "multiply-accumulates of all training", &counted) {
        Some(plot) => {
            let caption = format!(
                "{how} The cost counts every image trained on three times its forward pass, dense stages included, from summary.json."
            );
            figures.add("accuracy-training", title, caption, plot);
        }
        None => figures
            .missing
            .push("Accuracy against the cost of training is left out: no run counted it.".into()),
    }
}

/// The mean over a group's runs of a quantity per epoch, with the sample deviation around it.
fn curve(
    index: usize,
    group: &Group<'_>,
    values: &dyn Fn(&Run) -> Vec<(usize, f64)>,
) -> Option<Series> {
    let mut epochs: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    for run in &group.runs {
        for (epoch, value) in values(run) {
            epochs.entry(epoch).or_default().push(value);
        }
    }
    let mut series = Series {
        index,
        tip: String::new(),
        points: Vec::new(),
        band: Vec::new(),
    };
    for (epoch, values) in epochs {
        let sample = Sample::of(&values)?;
        let x = epoch as f64;
        series.points.push((x, sample.mean));
        if let Some(d) = sample.deviation {
            series.band.push((x, sample.mean - d, sample.mean + d));
        }
    }
    let &(epoch, last) = series.points.last()?;
    let runs: Vec<&str> = group.runs.iter().map(|run| run.name.as_str()).collect();
    series.tip = format!(
        "{}: {} at epoch {epoch}; {}",
        group.label,
        fixed(last, 3),
        runs.join(", ")
    );
    Some(series)
}

fn line_plot(
    section: &Section<'_>,
    title: &str,
    axis: Axis<'_>,
    values: &dyn Fn(&Run) -> Vec<(usize, f64)>,
) -> Option<Plot> {
    let groups = section.groups.iter().enumerate();
    let series: Vec<Series> = groups
        .filter_map(|(i, group)| curve(i, group, values))
        .collect();
    (!series.is_empty()).then(|| lines(title, Axis::new("epoch"), axis, &series))
}

const BAND: &str = "A line is the mean over seeds, its band the mean ± the sample deviation.";

/// Runs that end with several networks: what each costs, and what it sees.
fn budgets(section: &Section<'_>, figures: &mut Figures) {
    let mut series = Vec::new();
    for (index, group) in section.groups.iter().enumerate() {
        for (seed, run, summary) in group.finished().filter(|(.., s)| s.products.len() > 1) {
            let products = summary.products.iter();
            let all = products.map(|product| (product.macs.compact, product.test.accuracy));
            let mut all: Vec<_> = all.collect();
            all.push((summary.macs.compact, summary.chosen.test.accuracy));
            all.sort_by_key(|point| point.0);
            series.push(Series {
                index,
                tip: format!("{}, seed {seed}: {}", group.label, run.name),
                points: all
                    .into_iter()
                    .map(|(macs, accuracy)| (macs as f64, 100.0 * accuracy))
                    .collect(),
                band: Vec::new(),
            });
        }
    }
    if series.is_empty() {
        return;
    }
    let title = "Accuracy for every budget";
    let x = Axis {
        counts: true,
        ..Axis::new("multiply-accumulates per image")
    };
    let plot = lines(title, x, Axis::new("test accuracy, %"), &series);
    let caption = "A line is a run, and its points are the networks that it ends with: test accuracy against multiply-accumulates per image, from summary.json.";
    figures.add("accuracy-budget", title, caption.to_owned(), plot);
}

fn curves(section: &Section<'_>, figures: &mut Figures) {
    let rows = || {
        section
            .groups
            .iter()
            .flat_map(|group| &group.runs)
            .flat_map(|run| &run.metrics)
    };
    let (what, on): (&str, &str) = if rows().any(|row| row.validation.is_some()) {
        ("validation accuracy", "on the held-out training images")
    } else if 2 * rows().filter(|row| row.test.is_some()).count() > rows().count() {
        // Otherwise the test images were looked at at the ends of stages only.
        ("test accuracy", "on the test images")
    } else {
        (
            "training accuracy",
            "on the augmented training images as they were seen; the test images are looked at after the last epoch of a stage only",
        )
    };
    let values = |run: &Run| {
        run.metrics
            .iter()
            .filter_map(|row| {
                let score = match what {
                    "validation accuracy" => row.validation?,
                    "test accuracy" => row.test?,
                    _ => row.train,
                };
                Some((row.epoch, 100.0 * score.accuracy))
            })
            .collect()
    };
    let (title, axis) = ("Learning curves", format!("{what}, %"));
    if let Some(plot) = line_plot(section, title, Axis::new(&axis), &values) {
        let caption = format!("{BAND} Accuracy {on}, from metrics.jsonl.");
        figures.add("learning-curves", title, caption, plot);
    }
}

fn widths(section: &Section<'_>, figures: &mut Figures) {
    // Rows, the first group that has them, and the labels of all that do.
    type Shown<'a> = (Vec<(String, u64, u64)>, usize, Vec<&'a str>);
    let mut shown: Vec<Shown<'_>> = Vec::new();
    for (index, group) in section.groups.iter().enumerate() {
        let Some((_, _, summary)) = group.finished().next() else {
            continue;
        };
        let rows: Vec<(String, u64, u64)> = summary
            .widths
            .iter()
            .map(|width| (width.space.clone(), width.kept as u64, width.of as u64))
            .collect();
        match shown.iter_mut().find(|(known, ..)| *known == rows) {
            Some((.., labels)) => labels.push(&group.label),
            None => shown.push((rows, index, vec![&group.label])),
        }
    }
    let alone = shown.len() == 1;
    for (number, (rows, index, labels)) in shown.into_iter().enumerate() {
        let (id, of) = match alone {
            true => ("widths".to_owned(), "all groups".to_owned()),
            false => (format!("widths-{}", number + 1), labels.join("; ")),
        };
        let title = "Kept channels of each space";
        let caption = format!("Of {of}; the grey bar is the full width, from summary.json.");
        let plot = bars(title, index, &rows);
        figures.add(&id, title, caption, plot);
    }
}

/// The mean over layers of what a row of `selection.jsonl` says of each.
fn of_layers(run: &Run, value: &dyn Fn(&LayerSelection) -> Option<f64>) -> Vec<(usize, f64)> {
    run.selection
        .iter()
        .filter_map(|row| {
            let values: Vec<f64> = row.layers.iter().filter_map(value).collect();
            Some((row.epoch, Sample::of(&values)?.mean))
        })
        .collect()
}

/// What the method said of itself in `metrics.jsonl`.
fn of_method(run: &Run, name: &str) -> Vec<(usize, f64)> {
    run.metrics
        .iter()
        .filter_map(|row| Some((row.epoch, *row.method.get(name)?)))
        .collect()
}

fn dynamics(section: &Section<'_>, figures: &mut Figures) {
    type Value = fn(&LayerSelection) -> Option<f64>;
    let quantities: [(&str, &str, &str, Value, &str); 4] = [
        (
            "temperature",
            "Temperature",
            "temperature, log scale",
            |l| Some(l.temperature),
            "A larger temperature makes a kept filter more itself and less an average.",
        ),
        (
            "entropy",
            "Entropy of P",
            "entropy of a row of P, nats",
            |l| Some(l.entropy),
            "0 where every kept filter is itself; ln of the number of filters where it is the plain average of all.",
        ),
        (
            "overlap",
            "Overlap of the kept filters with the last epoch's",
            "share kept again",
            |l| l.overlap,
            "1 where nothing is exchanged: the selection is then not dynamic.",
        ),
        (
            "rank_correlation",
            "Rank correlation of the scores with the last epoch's",
            "Spearman's coefficient",
            |l| l.rank_correlation,
            "1 where the order of all filters stays.",
        ),
    ];
    for (name, title, axis, of_layer, meaning) in quantities {
        let values = |run: &Run| {
            // Fused or not, the temperature of a run that never reads it says nothing; it is drawn as it was recorded.
            let recorded = of_layers(run, &of_layer);
            match recorded.is_empty() {
                true => of_method(run, name),
                false => recorded,
            }
        };
        let axis = Axis {
            logarithmic: name == "temperature",
            ..Axis::new(axis)
        };
        match line_plot(section, title, axis, &values) {
            Some(plot) => {
                let caption = format!(
                    "{meaning} {BAND} Each epoch is the mean over the scored layers, from selection.jsonl and metrics.jsonl."
                );
                figures.add(&name.replace('_', "-"), title, caption, plot);
            }
            None => figures
                .missing
                .push(format!("{title}: left out, no run recorded it.")),
        }
    }
}

/// What methods that search say of their search, where a run recorded it.
fn searches(section: &Section<'_>, figures: &mut Figures) {
    let quantities = [
        (
            "macs_sampled",
            "Cost of the sampled network",
            "share of the whole network's cost",
            "The mean over an epoch's steps, each with filters drawn anew; this is what is pulled to the target.",
        ),
        (
            "macs_likeliest",
            "Cost of the likeliest network",
            "share of the whole network's cost",
            "With the likelier choice for every filter, which is what is evaluated and fine-tuned; it may stay beside the target.",
        ),
        (
            "loss_cross_entropy",
            "Cross-entropy in the search",
            "nats",
            "The part of the loss that labels give.",
        ),
        (
            "loss_distillation",
            "Distillation in the search",
            "weighted loss",
            "The part of the loss that the teacher's logits give.",
        ),
        (
            "loss_reconstruction",
            "Reconstruction in the search",
            "weighted loss",
            "The part of the loss that the teacher's maps give.",
        ),
        (
            "loss_cost",
            "Cost term in the search",
            "weighted loss",
            "The squared distance of the sampled cost from its target.",
        ),
    ];
    for (name, title, axis, meaning) in quantities {
        let values = |run: &Run| of_method(run, name);
        if let Some(plot) = line_plot(section, title, Axis::new(axis), &values) {
            let caption = format!("{meaning} {BAND} From metrics.jsonl.");
            figures.add(&name.replace('_', "-"), title, caption, plot);
        }
    }
}

/// One layer of the first run of each group: which filters were kept when, and `P` as it stands.
fn inside(section: &Section<'_>, layer: Option<&str>, figures: &mut Figures) {
    let first = section.groups.iter().find_map(|group| group.runs.first());
    let known = first
        .and_then(|run| run.scored_layers())
        .unwrap_or_default();
    // A report of several networks shows the layer asked for where there is one of that name.
    let asked = known
        .iter()
        .find(|known| Some(known.name.as_str()) == layer);
    let Some(ScoredLayer {
        name: layer,
        filters,
    }) = asked.or_else(|| known.first())
    else {
        return;
    };
    for (index, group) in section.groups.iter().enumerate() {
        let Some(run) = group.runs.first() else {
            continue;
        };
        if let Some(cells) = kept_by_epoch(run, layer, *filters) {
            let title = format!("Kept filters of {layer}: {}", group.label);
            let caption = format!(
                "A row is an epoch, a column a filter, dark where it was kept; `{}`, from selection.jsonl.",
                run.name
            );
            let plot = map(&title, "epoch", "filter", &[], &cells);
            figures.add(&format!("kept-{}", index + 1), &title, caption, plot);
        }
        let p = run.coefficients(layer).unwrap_or_else(|error| {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or("unknown");
            let what = format!("P of {layer}: {}: left out, {line}.", group.label);
            figures.missing.push(what);
            None
        });
        if let Some(p) = p {
            let title = format!("P of {layer}: {}", group.label);
            let largest = p.iter().flatten().copied().fold(0.0, f32::max);
            let caption = format!(
                "A row is a kept filter, a column a filter it is made of; darkness grows with the square root of the weight, \
                 the largest is {} %; `{}`, from the last checkpoint.",
                percent(f64::from(largest)),
                run.name
            );
            let plot = map(&title, "kept filter", "filter", &[], &Cells::new(&p));
            figures.add(&format!("p-{}", index + 1), &title, caption, plot);
        }
    }
}

fn kept_by_epoch(run: &Run, layer: &str, filters: usize) -> Option<Cells> {
    let rows: Vec<&LayerSelection> = run
        .selection
        .iter()
        .filter_map(|row| row.layers.iter().find(|found| found.layer == layer))
        .collect();
    if rows.is_empty() {
        return None;
    }
    let cells: Vec<Vec<f32>> = rows
        .iter()
        .map(|row| {
            let mut cells = vec![0.0; filters];
            for &id in &row.kept {
                if let Some(cell) = cells.get_mut(id) {
                    *cell = 1.0;
                }
            }
            cells
        })
        .collect();
    Some(Cells::new(&cells))
}
