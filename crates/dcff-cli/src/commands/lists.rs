//! `dcff criteria`: what can be chosen from, as the crates list it.

use dcff_fusion::{KeepMode, TemperatureSchedule};
use dcff_report::table::{Align, Table};
use serde_json::json;

use crate::args::ListArgs;
use crate::ended::Ended;

pub(crate) fn criteria(args: &ListArgs) -> anyhow::Result<Ended> {
    let criteria = dcff_criteria::ALL;
    if args.json {
        let rows = criteria
            .iter()
            .map(|c| json!({ "name": c.name(), "about": c.about(), "source": c.source() }));
        println!("{}", json!({ "criteria": rows.collect::<Vec<_>>() }));
        return Ok(Ended::Done);
    }
    let mut table = Table::new([
        ("criterion", Align::Left),
        ("what it measures", Align::Left),
        ("source", Align::Left),
    ]);
    criteria.iter().for_each(|c| {
        table.row([
            c.name().to_owned(),
            c.about().to_owned(),
            c.source().to_owned(),
        ])
    });
    print!("{}", table.text());
    let mut table = Table::new([("keep mode", Align::Left), ("", Align::Left)]);
    KeepMode::ALL
        .iter()
        .for_each(|mode| table.row([mode.name().to_owned(), mode.about().to_owned()]));
    print!("\n{}", table.text());
    let mut table = Table::new([("temperature", Align::Left), ("", Align::Left)]);
    TemperatureSchedule::ALL
        .iter()
        .for_each(|(name, about)| table.row([(*name).to_owned(), (*about).to_owned()]));
    print!("\n{}", table.text());
    Ok(Ended::Done)
}
