//! `dcff bundle`.

use std::hint::black_box;
use std::time::Instant;

use anyhow::ensure;
use candle_core::Device;
use dcff_compact::Bundle;
use dcff_report::table::{Align, Table, count};

use super::opened;
use crate::args::BundleArgs;
use crate::ended::Ended;

/// The folder of a run for its bundle.
const BUNDLE: &str = "bundle";
/// Changes from one slice to another that are timed.
const CHANGES: usize = 10_001;

pub(crate) fn run(args: &BundleArgs) -> anyhow::Result<Ended> {
    let out = match &args.out {
        Some(out) => out.clone(),
        None => args.opened.run.join(BUNDLE),
    };
    ensure!(
        !out.exists(),
        "{}: exists already; name a new folder with --out",
        out.display()
    );
    let trainer = opened::trainer(&args.opened)?;
    let (bundle, images) = trainer.bundle(args.opened.recalibrate)?;
    bundle.save(&out)?;
    let mut table = Table::new([
        ("multiply-accumulates", Align::Right),
        ("slice", Align::Left),
        ("score", Align::Right),
    ]);
    for slice in bundle.slices() {
        let score = slice
            .score
            .map_or(String::new(), |score| format!("{score:.4}"));
        table.row([count(slice.macs), slice.config.clone(), score]);
    }
    print!("{}", table.text());
    println!(
        "{}: {} slices, each with statistics of {} training images; changing over takes {:.0} ns (median of {})",
        out.display(),
        bundle.slices().len(),
        count(images as u64),
        change(&bundle)?,
        count(CHANGES as u64)
    );
    Ok(Ended::Done)
}

/// Nanoseconds of a change from one slice to another.
fn change(bundle: &Bundle) -> anyhow::Result<f64> {
    let mut ready = bundle.open(&Device::Cpu)?;
    let costs: Vec<u64> = bundle.slices().iter().map(|slice| slice.macs).collect();
    let mut times: Vec<u128> = (0..CHANGES)
        .map(|i| {
            let macs = black_box(costs[i * 7 % costs.len()]);
            let start = Instant::now();
            black_box(ready.switch(macs));
            start.elapsed().as_nanos()
        })
        .collect();
    times.sort_unstable();
    Ok(times[CHANGES / 2] as f64)
}
