//! A run opened again with its images, to take networks out of it.

use anyhow::ensure;
use dcff_train::{CHECKPOINT, Data, Known, RunFolder, Trainer};

use super::train;
use crate::args::OpenedArgs;
use crate::data;

/// The run as its checkpoint has it.
pub(crate) fn trainer(args: &OpenedArgs) -> anyhow::Result<Trainer> {
    ensure!(
        args.recalibrate != Some(0),
        "--recalibrate: expected at least 1 batch, got 0"
    );
    let (folder, config) = RunFolder::open(&args.run, &Known)?;
    let path = folder.join(CHECKPOINT);
    ensure!(path.exists(), "{}: no checkpoint yet", path.display());
    let device = args.device.open()?;
    let native = dcff_models::by_name(&config.arch)?;
    let place = match &args.data {
        Some(place) => place.clone(),
        None => train::place(&config, Some(&args.run))?,
    };
    let loaded = data::load(
        &place,
        &args.data_dir,
        &train::wanted(&config, &native, false),
    )?;
    let full = native
        .with_classes(loaded.info.classes.len())
        .with_input(loaded.splits.train.shape());
    let data = Data::new(
        loaded.splits,
        loaded.info.normalisation,
        loaded.info.augmentation,
    );
    Ok(Trainer::builder(folder, config, &full, &data, &device).build()?)
}
