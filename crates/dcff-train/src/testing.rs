//! The contract that every method keeps: one suite, run over the methods of this crate and open to those of others.
//!
//! 1. *Identity*: told to keep everything, the first epoch's views change no logit, in training and in evaluation. A method that
//!    mixes filters is excused: what it keeps is new also where it keeps all.
//! 2. *Compact is in place*: the artefact, read back, gives the logits that the trained network gives through the views it is
//!    evaluated with, to 1e-5.
//! 3. *Cost*: the summary's multiply-accumulates are those of the artefact.
//! 4. *Audit*: after the run every trained parameter of the network has moved.
//! 5. *Resume*: interrupted in its second, third and fourth epoch and continued, a run ends with the same bytes; so it does with any number of threads.
//! 6. *Budget*: keeping less never costs more, and no channel space is left empty.
//!
//! Everything is tiny: a ResNet-20 on 40 images of 8x8 pixels, 4 epochs.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::{Device, Tensor};
use dcff_compact::Artefact;
use dcff_data::{Augmentation, Dataset, Normalisation, Splits};
use dcff_models::{Architecture, Mode, Network, View, Views};
use dcff_run::{
    Augment, COMPACT, DataConfig, METRICS, MethodConfig, Recipe, RunConfig, RunFolder, Summary,
};

use crate::costs::macs;
use crate::data::Data;
use crate::error::Result;
use crate::event::Event;
use crate::method::{EpochStart, Method};
use crate::trainer::{Ending, Trainer};

const SIDE: usize = 8;
const CLASSES: u32 = 4;
const BATCH: usize = 8;
const IMAGES: usize = 40;
const EPOCHS: usize = 4;
const SEED: u64 = 5;

/// A method that keeps the given share of each layer's filters, 1 for all, and how it stands in `config.toml`. A method that
/// cannot be told so ignores the share.
pub type Make<'a> = dyn Fn(f64) -> Result<(MethodConfig, Box<dyn Method>)> + Sync + 'a;

/// Runs the suite in the folder `scratch`, which is filled with runs.
///
/// # Errors
/// Those of the method.
///
/// # Panics
/// When the method breaks the contract, with the number of the clause.
pub fn conformance(make: &Make<'_>, scratch: &Path) -> Result<()> {
    let full = dcff_models::by_name("resnet20")?
        .with_classes(CLASSES as usize)
        .with_input([3, SIDE, SIDE]);
    identity(make, &full)?;
    budget(make, &full)?;

    let whole = Run::of(make, &full, &scratch.join("whole"), 1, &[])?;
    whole.compact_is_in_place(&full)?;
    let resumed = Run::of(make, &full, &scratch.join("resumed"), 1, &[7, 12, 18])?;
    let threads = Run::of(make, &full, &scratch.join("threads"), 2, &[])?;
    for (other, how) in [(resumed, "interrupted"), (threads, "with two threads")] {
        for file in [METRICS, "compact/model.safetensors"] {
            let [a, b] = [&whole, &other].map(|run| read(&run.folder.join(file)));
            assert!(a == b, "5: {file} of a run {how} is another");
        }
    }
    Ok(())
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn recipe() -> Recipe {
    Recipe {
        batch_size: BATCH,
        ..Recipe::quick(EPOCHS)
    }
}

/// Images whose class is a brightness, under a pattern.
fn images(name: &str, count: usize) -> Result<Dataset> {
    let size = 3 * SIDE * SIDE;
    let labels: Vec<u32> = (0..count as u32).map(|i| i % CLASSES).collect();
    let pixel = |i: usize| (i * i % 61) as u8 + 60 * (i / size % CLASSES as usize) as u8;
    let pixels = (0..count * size).map(pixel).collect();
    let classes = (0..CLASSES).map(|class| class.to_string()).collect();
    Ok(Dataset::new(
        name,
        [3, SIDE, SIDE],
        classes,
        labels,
        pixels,
    )?)
}

fn data() -> Result<Data> {
    let normalisation = Normalisation {
        mean: vec![0.4; 3],
        std: vec![0.2; 3],
    };
    let splits = Splits::new(images("train", IMAGES)?, images("test", 10)?)?;
    Ok(Data::new(splits, normalisation, Augmentation::NONE))
}

fn batch() -> Result<Tensor> {
    let count = 6 * 3 * SIDE * SIDE;
    let values: Vec<f32> = (0..count).map(|i| (i as f32 * 0.7).sin()).collect();
    Ok(Tensor::from_vec(values, (6, 3, SIDE, SIDE), &Device::Cpu)?)
}

fn logits(network: &Network, views: &Views, mode: Mode) -> Result<Vec<f32>> {
    let (logits, _) = network.forward(&batch()?, views, mode)?;
    Ok(logits.flatten_all()?.to_vec1()?)
}

fn difference(a: &[f32], b: &[f32]) -> f32 {
    let pairs = a.iter().zip(b);
    pairs.fold(0.0, |most: f32, (a, b)| most.max((a - b).abs()))
}

fn identity(make: &Make<'_>, full: &Architecture) -> Result<()> {
    let (_, mut method) = make(1.0)?;
    let plan = method.plan(full, &recipe())?;
    if plan.first_widths != full.widths() {
        return Ok(());
    }
    let network = Network::new(full, full, SEED, &Device::Cpu)?;
    let start = EpochStart {
        epoch: 0,
        epochs: EPOCHS,
        full,
        network: &network,
        views: &Views::dense(),
        probe: None,
    };
    let views = method.epoch_start(&start)?.views;
    if views.iter().any(|(_, view)| matches!(view, View::Mix(_))) {
        return Ok(());
    }
    for mode in [Mode::Train, Mode::Eval] {
        let plain = logits(&network, &Views::dense(), mode)?;
        let seen = logits(&network, &views, mode)?;
        let apart = difference(&plain, &seen);
        assert!(apart == 0.0, "1: {mode:?}: logits differ by {apart}");
    }
    Ok(())
}

fn budget(make: &Make<'_>, full: &Architecture) -> Result<()> {
    let mut before = u64::MAX;
    for keep in [1.0, 0.75, 0.5, 0.25] {
        let (_, method) = make(keep)?;
        let Some(compact) = method.plan(full, &recipe())?.compact else {
            return Ok(());
        };
        let cost = macs(&compact)?;
        assert!(
            cost <= before,
            "6: keeping {keep} costs {cost}, more {before}"
        );
        assert!(compact.widths().iter().all(|&width| width > 0), "6: {keep}");
        before = cost;
    }
    Ok(())
}

/// A finished run of the method at half its filters.
struct Run {
    folder: std::path::PathBuf,
    summary: Summary,
    /// What the last sitting's network gives through the views that it is evaluated with.
    in_place: Vec<f32>,
    /// Trained parameters that are as they were.
    unmoved: Vec<String>,
}

impl Run {
    fn of(
        make: &Make<'_>,
        full: &Architecture,
        path: &Path,
        threads: usize,
        stop_after: &[usize],
    ) -> Result<Self> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        let pool = pool.unwrap_or_else(|error| panic!("{error}"));
        pool.install(|| Self::trained(make, full, path, stop_after))
    }

    fn trained(
        make: &Make<'_>,
        full: &Architecture,
        path: &Path,
        stop_after: &[usize],
    ) -> Result<Self> {
        let data = data()?;
        let source = DataConfig {
            augment: Augment::None,
            ..data.config("tiny", 0.0)
        };
        let config = RunConfig::new("resnet20", SEED, source, make(0.5)?.0, recipe());
        let folder = RunFolder::create(path, &config)?;
        let (mut steps, stop) = (0, AtomicBool::new(false));
        let mut first = None;
        loop {
            let (folder, config) = (folder.clone(), config.clone());
            let builder = Trainer::builder(folder.clone(), config, full, &data, &Device::Cpu);
            let mut trainer = builder.method(make(0.5)?.1).build()?;
            if first.is_none() {
                first = Some(weights(trainer.network())?);
            }
            let mut observer = |event: &Event<'_>| {
                if let Event::Step { .. } = event {
                    steps += 1;
                    stop.store(stop_after.contains(&steps), Ordering::Relaxed);
                }
            };
            let ending = trainer.run(&mut observer, &stop)?;
            stop.store(false, Ordering::Relaxed);
            if let Ending::Finished(summary) = ending {
                let views = trainer.evaluation_views()?;
                let after = weights(trainer.network())?;
                let before = first.unwrap_or_default();
                let unmoved = before.into_iter().filter(|row| after.contains(row));
                return Ok(Self {
                    folder: path.to_owned(),
                    summary: *summary,
                    in_place: match trainer.recalibrated()? {
                        Some(plain) => logits(&plain, &Views::dense(), Mode::Eval)?,
                        None => logits(trainer.network(), &views, Mode::Eval)?,
                    },
                    unmoved: unmoved.map(|(name, _)| name).collect(),
                });
            }
        }
    }

    fn compact_is_in_place(&self, full: &Architecture) -> Result<()> {
        let artefact = Artefact::load(&self.folder.join(COMPACT))?;
        let plain = artefact.network(&Device::Cpu)?;
        let read_back = logits(&plain, &Views::dense(), Mode::Eval)?;
        let apart = difference(&self.in_place, &read_back);
        assert!(apart <= 1e-5, "2: logits differ by {apart}");
        let size = read_back.iter().fold(0f32, |most, v| most.max(v.abs()));
        assert!(size > 1e-3, "2: all logits are 0");
        let cost = macs(plain.compact())?;
        assert_eq!(self.summary.macs.compact, cost, "3");
        assert_eq!(self.summary.macs.full, macs(full)?, "3");
        assert!(self.unmoved.is_empty(), "4: {:?}", self.unmoved);
        Ok(())
    }
}

/// The trained parameters of `network`.
fn weights(network: &Network) -> Result<Vec<(String, Vec<f32>)>> {
    let mut all = Vec::new();
    for (i, parameter) in network.parameters().iter().enumerate() {
        if parameter.kind.is_trained() {
            let values = network.tensor(i).flatten_all()?.to_vec1()?;
            all.push((parameter.name.clone(), values));
        }
    }
    Ok(all)
}
