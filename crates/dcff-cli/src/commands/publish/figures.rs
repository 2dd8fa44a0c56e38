//! The card's figures: accuracy per epoch, and how many channels of each space are left.

use dcff_report::svg::{Axis, Plot, Series, bars, lines};
use dcff_train::{Metrics, Summary};

/// The files that figures may have; not every run has the numbers for all.
pub(super) const FILES: [&str; 2] = [LEARNING_CURVE, KEPT_CHANNELS];
const LEARNING_CURVE: &str = "training/learning-curve.svg";
const KEPT_CHANNELS: &str = "training/kept-channels.svg";

/// A figure beside the card.
pub(super) struct Figure {
    /// Its file in the repository.
    pub(super) file: &'static str,
    /// What it shows, in a line.
    pub(super) caption: String,
    pub(super) plot: Plot,
}

/// What the run has the numbers for.
pub(super) fn draw(metrics: &[Metrics], summary: &Summary) -> Vec<Figure> {
    learning_curve(metrics)
        .into_iter()
        .chain(kept_channels(summary))
        .collect()
}

fn learning_curve(metrics: &[Metrics]) -> Option<Figure> {
    type Accuracy = fn(&Metrics) -> Option<f64>;
    let curves: [(&str, &str, Accuracy); 3] = [
        ("blue", "augmented training images", |row| {
            Some(row.train.accuracy)
        }),
        ("orange", "held-out training images", |row| {
            Some(row.validation?.accuracy)
        }),
        ("green", "test images", |row| Some(row.test?.accuracy)),
    ];
    let (mut series, mut legend) = (Vec::new(), Vec::new());
    for (index, (colour, images, accuracy)) in curves.into_iter().enumerate() {
        let points: Vec<(f64, f64)> = metrics
            .iter()
            .filter_map(|row| Some((row.epoch as f64, 100.0 * accuracy(row)?)))
            .collect();
        // One point is no curve: the figures of the last epoch stand in the table.
        if points.len() < 2 {
            continue;
        }
        legend.push(format!("{colour} on {images}"));
        series.push(Series {
            index,
            tip: images.to_owned(),
            points,
            band: Vec::new(),
        });
    }
    let plot = || {
        let (x, y) = (Axis::new("epoch"), Axis::new("accuracy, %"));
        lines("Accuracy per epoch", x, y, &series)
    };
    (!series.is_empty()).then(|| Figure {
        file: LEARNING_CURVE,
        caption: format!("Accuracy per epoch: {}", legend.join(", ")),
        plot: plot(),
    })
}

fn kept_channels(summary: &Summary) -> Option<Figure> {
    let rows: Vec<(String, u64, u64)> = summary
        .widths
        .iter()
        .map(|width| (width.space.clone(), width.kept as u64, width.of as u64))
        .collect();
    (!rows.is_empty()).then(|| Figure {
        file: KEPT_CHANNELS,
        caption: "Channels that are left, of those of the full network (grey)".to_owned(),
        plot: bars("Kept channels", 0, &rows),
    })
}
