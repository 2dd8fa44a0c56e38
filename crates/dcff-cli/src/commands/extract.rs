//! `dcff extract`.

use anyhow::{anyhow, bail, ensure};
use dcff_flops::Target;
use dcff_report::table::count;
use dcff_train::{Slice, Trainer};

use super::opened;
use crate::args::ExtractArgs;
use crate::ended::Ended;

/// The folder of a run for what is taken out of it.
const EXTRACTED: &str = "extracted";

pub(crate) fn run(args: &ExtractArgs) -> anyhow::Result<Ended> {
    // Before images are read.
    let target: Option<Target> = match &args.target {
        Some(text) => Some(text.parse().map_err(|error| anyhow!("--target: {error}"))?),
        None => None,
    };
    if let Some(out) = &args.out {
        ensure!(
            !out.exists(),
            "--out: {}: exists already; name a new folder",
            out.display()
        );
    }
    let trainer = opened::trainer(&args.opened)?;
    let slice = match (target, &args.config) {
        (Some(target), _) => within(&trainer, target)?,
        (None, Some(config)) => trainer.slice(config).map_err(|error| match error {
            dcff_train::Error::Setting { field, message } if field == "slice" => {
                anyhow!("--config: {message}")
            }
            other => other.into(),
        })?,
        (None, None) => bail!("expected --target or --config"),
    };
    let out = match &args.out {
        Some(out) => out.clone(),
        None => {
            let name = format!("{:.1}M", slice.macs as f64 / 1e6);
            let out = args.opened.run.join(EXTRACTED).join(name);
            ensure!(
                !out.exists(),
                "{}: exists already; name a new folder with --out",
                out.display()
            );
            out
        }
    };
    let extracted = trainer.extract(&slice, args.opened.recalibrate)?;
    if let Some(parent) = out.parent() {
        std::fs::create_dir_all(parent)
            .map_err(|error| anyhow!("{}: {error}", parent.display()))?;
    }
    extracted.artefact.save(&out)?;
    let architecture = &extracted.artefact.config.architecture;
    let params = dcff_flops::cost(
        architecture,
        dcff_flops::Convention::Macs,
        dcff_flops::Form::Compact,
    )?
    .params();
    println!(
        "{}: {}, {} multiply-accumulates, {} parameters; statistics of {} training images",
        out.display(),
        slice.config,
        count(slice.macs),
        count(params),
        count(extracted.images as u64)
    );
    Ok(Ended::Done)
}

/// The best known slice within `target`.
fn within(trainer: &Trainer, target: Target) -> anyhow::Result<Slice> {
    let slices = trainer.slices()?;
    let whole = slices.iter().map(|slice| slice.macs).max().unwrap_or(0);
    let found = Slice::within(&slices, target.of(whole));
    Ok(found
        .map_err(|message| anyhow!("--target: {message}"))?
        .clone())
}
