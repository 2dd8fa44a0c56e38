//! `dcff compact`.

use anyhow::{Context, ensure};
use candle_core::Device;
use dcff_train::{CHECKPOINT, Checkpoint, Known, RunFolder, full_network};

use crate::args::CompactArgs;
use crate::ended::Ended;

pub(crate) fn run(args: &CompactArgs) -> anyhow::Result<Ended> {
    ensure!(
        !args.out.exists(),
        "{}: exists already; name a new folder",
        args.out.display()
    );
    let (folder, config) = RunFolder::open(&args.run, &Known)?;
    let path = folder.join(CHECKPOINT);
    let checkpoint = Checkpoint::load(&path, &config)?
        .with_context(|| format!("{}: no checkpoint yet", path.display()))?;
    let position = checkpoint.position();
    let artefact = checkpoint.collapse(&full_network(&config)?, &Device::Cpu)?;
    artefact.save(&args.out)?;
    println!(
        "{}: the compact network after {} epochs and {} steps",
        args.out.display(),
        position.epoch,
        position.step
    );
    Ok(Ended::Done)
}
