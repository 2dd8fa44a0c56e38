//! `dcff flops`.

use std::collections::HashMap;

use anyhow::{Context, ensure};
use dcff_flops::{Convention, CostTable, LayerCost, costs};
use dcff_report::table::{Align, Table, change, count};
use dcff_train::methods::narrowed;
use serde_json::{Value, json};

use super::method::rates_of;
use crate::args::{Allocation, FlopsArgs};
use crate::ended::Ended;

pub(crate) fn run(args: &FlopsArgs) -> anyhow::Result<Ended> {
    let (convention, ..) = *Convention::ALL
        .iter()
        .find(|(_, name, _)| *name == args.convention)
        .with_context(|| {
            let known = Convention::ALL.map(|(_, name, _)| name).join(" or ");
            format!("--convention: expected {known}, got '{}'", args.convention)
        })?;
    let mut full = dcff_models::by_name(&args.arch).context("--arch")?;
    if let Some(input) = args.input_size {
        full = full.with_input(input);
        let fits = full.shapes();
        fits.with_context(|| format!("--input-size: {} at {input:?}", args.arch))?;
    }
    ensure!(
        args.budget.allocation != Some(Allocation::Global),
        "--allocation global needs the scores of a trained network: expected uniform"
    );
    let rates = match rates_of(args.rates.as_deref(), &args.budget, &full)? {
        Some(rates) => rates,
        None => dcff_fusion::rates_for("published", &args.arch).context("--rates")?,
    };
    let compact = narrowed(&full, &rates)?;
    let tables = costs(&full, &compact, convention)?;
    if args.json {
        let total = |table: &CostTable| json!({ "ops": table.ops(), "params": table.params() });
        let layers: Vec<Value> = joined(&tables).map(|(name, kind, full, compact)| json!({ "name": name, "kind": kind, "full": side(full), "compact": side(compact) })).collect();
        let object = json!({
            "arch": args.arch,
            "rates": rates.to_string(),
            "convention": convention.name(),
            "full": total(&tables[0]),
            "compact": total(&tables[1]),
            "layers": layers,
        });
        println!("{object}");
    } else {
        print!("{}", layers(&tables));
        let [full, compact] = &tables;
        println!();
        for (name, a, b) in [
            ("operations", full.ops(), compact.ops()),
            ("parameters", full.params(), compact.params()),
        ] {
            println!(
                "{name}: {b} of {a} ({} of {}, {})",
                count(b),
                count(a),
                change(a, b, 2)
            );
        }
        println!("convention: {}, one image", convention.name());
    }
    Ok(Ended::Done)
}

type Joined<'a> = (
    &'a str,
    &'static str,
    Option<&'a LayerCost>,
    Option<&'a LayerCost>,
);

/// The layers of both tables side by side, in the order of computation; a layer may cost nothing in one of them.
fn joined([full, compact]: &[CostTable; 2]) -> impl Iterator<Item = Joined<'_>> {
    let index: HashMap<&str, &LayerCost> = full
        .layers
        .iter()
        .map(|layer| (layer.name.as_str(), layer))
        .collect();
    compact.layers.iter().map(move |layer| {
        (
            layer.name.as_str(),
            layer.kind,
            index.get(layer.name.as_str()).copied(),
            Some(layer),
        )
    })
}

fn side(layer: Option<&LayerCost>) -> Value {
    layer.map_or(
        Value::Null,
        |layer| json!({ "output": layer.output, "ops": layer.ops, "params": layer.params }),
    )
}

fn layers(tables: &[CostTable; 2]) -> String {
    let mut table = Table::new([
        ("layer", Align::Left),
        ("kind", Align::Left),
        ("full output", Align::Right),
        ("ops", Align::Right),
        ("params", Align::Right),
        ("compact output", Align::Right),
        ("ops", Align::Right),
        ("params", Align::Right),
    ]);
    for (name, kind, full, compact) in joined(tables) {
        let cells = |side: Option<&LayerCost>| match side {
            None => ["-".to_owned(), "-".to_owned(), "-".to_owned()],
            Some(layer) => [
                layer.output.map(|d| d.to_string()).join("x"),
                layer.ops.to_string(),
                layer.params.to_string(),
            ],
        };
        table.row(
            [name.to_owned(), kind.to_owned()]
                .into_iter()
                .chain(cells(full))
                .chain(cells(compact)),
        );
    }
    table.text()
}
