//! `dcff bench train --layers`: where a step's time goes.

use std::collections::BTreeMap;

use dcff_flops::{Convention, Form};
use dcff_models::{Architecture, LayerKind, Pass, Profile};
use dcff_report::table::{Align, Table};
use serde_json::json;

use super::speed::Speed;

/// The time of some steps, by what it went into.
pub(super) struct Step<'a> {
    pub(super) compact: &'a Architecture,
    pub(super) profile: &'a Profile,
    /// Of all steps together, in seconds.
    pub(super) total: f64,
    /// Of that, SGD's.
    pub(super) sgd: f64,
    pub(super) steps: usize,
    pub(super) batch: usize,
    pub(super) speed: Speed,
}

/// A layer, or what is not in a layer.
struct Row {
    name: String,
    kind: &'static str,
    maps: String,
    /// Milliseconds a step: forward, backward, fusion.
    ms: [f64; 3],
    /// Nominal operations a step, forward and backward.
    operations: f64,
}

impl Row {
    fn all(&self) -> f64 {
        self.ms.iter().sum()
    }

    /// Operations per second without fusion, which is not among the nominal ones.
    fn rate(&self) -> f64 {
        self.operations / (self.ms[0] + self.ms[1]) * 1e3
    }
}

impl Step<'_> {
    pub(super) fn print(&self, as_json: bool) -> anyhow::Result<()> {
        let (layers, rest) = (self.layers()?, self.rest());
        let whole = 1e3 * self.total / self.steps as f64;
        if as_json {
            for row in layers.iter().chain(&rest) {
                let [forward, backward, fusion] = row.ms;
                println!(
                    "{}",
                    json!({
                        "program": "dcff",
                        "task": "layers",
                        "layer": row.name,
                        "kind": row.kind,
                        "forward_ms": forward,
                        "backward_ms": backward,
                        "fusion_ms": fusion,
                        "share": row.all() / whole,
                        "gflops": (row.operations > 0.0).then(|| row.rate() / 1e9),
                        "share_of_gemm_limit": (row.operations > 0.0).then(|| self.speed.share(row.rate())),
                    })
                );
            }
            return Ok(());
        }
        let mut kinds: BTreeMap<&str, Row> = BTreeMap::new();
        for row in &layers {
            let sum = kinds.entry(row.kind).or_insert_with(|| Row {
                name: format!("all {}", row.kind),
                kind: row.kind,
                maps: String::new(),
                ms: [0.0; 3],
                operations: 0.0,
            });
            for (sum, ms) in sum.ms.iter_mut().zip(row.ms) {
                *sum += ms;
            }
            sum.operations += row.operations;
        }
        let mut table = Table::new([
            ("layer", Align::Left),
            ("maps", Align::Left),
            ("forward ms", Align::Right),
            ("backward ms", Align::Right),
            ("fusion ms", Align::Right),
            ("share", Align::Right),
            ("GF/s", Align::Right),
            ("of limit", Align::Right),
        ]);
        for row in layers.iter().chain(kinds.values()).chain(&rest) {
            let ms = |i: usize| match row.ms[i] {
                0.0 => String::new(),
                ms => format!("{ms:.2}"),
            };
            let rate = |text: String| {
                if row.operations > 0.0 {
                    text
                } else {
                    String::new()
                }
            };
            table.row([
                row.name.clone(),
                row.maps.clone(),
                ms(0),
                ms(1),
                ms(2),
                format!("{:.1} %", 100.0 * row.all() / whole),
                rate(format!("{:.0}", row.rate() / 1e9)),
                rate(format!("{:.0} %", 100.0 * self.speed.share(row.rate()))),
            ]);
        }
        print!("{}", table.text());
        Ok(())
    }

    fn layers(&self) -> anyhow::Result<Vec<Row>> {
        let costs = dcff_flops::cost(self.compact, Convention::Macs, Form::Compact)?;
        let shapes = self.compact.shapes()?;
        let mut rows = Vec::new();
        for (i, layer) in self.compact.layers.iter().enumerate() {
            let ms = [Pass::Forward, Pass::Backward, Pass::Fusion]
                .map(|pass| 1e3 * self.profile.seconds(i, pass) / self.steps as f64);
            if ms == [0.0; 3] {
                continue;
            }
            let (kind, multiplies) = match layer.kind {
                LayerKind::Conv(_) => ("convolutions", true),
                LayerKind::Linear(_) => ("linear layers", true),
                LayerKind::Norm(_) => ("batch norms", false),
                LayerKind::MaxPool(_) | LayerKind::AvgPool(_) | LayerKind::GlobalAvgPool => {
                    ("pools", false)
                }
                _ => ("others", false),
            };
            let macs = costs
                .layers
                .iter()
                .find(|cost| multiplies && cost.name == layer.name)
                .map_or(0, |cost| cost.ops);
            // Output, gradient of the weights and, but for the images, gradient of the input.
            let passes = if i == 0 { 2 } else { 3 };
            let output = shapes.output(i);
            rows.push(Row {
                name: layer.name.clone(),
                kind,
                maps: format!("{}x{}x{}", output.channels, output.height, output.width),
                ms,
                operations: (2 * passes * macs * self.batch as u64) as f64,
            });
        }
        Ok(rows)
    }

    /// SGD, and what is left: images laid out, sums of gradients, loss, statistics.
    fn rest(&self) -> [Row; 2] {
        let layers: f64 = (0..self.compact.layers.len())
            .flat_map(|i| {
                [Pass::Forward, Pass::Backward, Pass::Fusion]
                    .map(|pass| self.profile.seconds(i, pass))
            })
            .sum();
        [
            ("SGD", self.sgd),
            ("loss, sums and layout", self.total - self.sgd - layers),
        ]
        .map(|(name, seconds)| Row {
            name: name.to_owned(),
            kind: "none",
            maps: String::new(),
            ms: [0.0, 1e3 * seconds / self.steps as f64, 0.0],
            operations: 0.0,
        })
    }
}
