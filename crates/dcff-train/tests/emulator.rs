//! A whole run on an emulated GPU, whose losses are read some steps late, against the same run on the CPU.

#![cfg(feature = "emulator")]

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::Device;
use dcff_data::{Augmentation, Dataset, Normalisation, Splits};
use dcff_models::{Architecture, Builder, INPUT, Initialisation, LayerKind};
use dcff_nn::{DeviceSettings, emulator};
use dcff_train::{
    Augment, Data, DataConfig, Ending, Error, Event, MethodConfig, Place, Recipe, RunConfig,
    RunFolder, Summary, Trainer,
};

const BATCH: usize = 2;
/// Steps of an epoch: more than one stretch of unread losses, and no whole number of them.
const STEPS: usize = 37;
const EPOCHS: usize = 2;

fn architecture() -> Architecture {
    let mut b = Builder::new("tiny", [3, 6, 6], Initialisation::KaimingNormalFanIn);
    b.space("conv", 6);
    let x = b.conv("conv", "conv", [3, 1, 1], true, INPUT);
    let x = b.norm("norm", &x);
    let x = b.relu("relu", &x);
    let x = b.layer("pool", LayerKind::GlobalAvgPool, &[&x]);
    b.linear("fc", 2, &x);
    b.finish()
}

/// Dark and light images with a pattern over them.
fn images(name: &str, count: usize) -> Dataset {
    let labels: Vec<u32> = (0..count as u32).map(|i| i % 2).collect();
    let pixel = |i: usize| (i * i % 101) as u8 + 60 * (i / 108 % 2) as u8;
    let pixels = (0..count * 108).map(pixel).collect();
    let classes = ["dark", "light"].map(str::to_owned).into();
    Dataset::new(name, [3, 6, 6], classes, labels, pixels).unwrap()
}

fn data() -> Data {
    let normalisation = Normalisation {
        mean: vec![0.4; 3],
        std: vec![0.2; 3],
    };
    let splits = Splits::new(images("train", BATCH * STEPS), images("test", 7)).unwrap();
    Data::new(splits, normalisation, Augmentation::NONE)
}

fn config(data: &Data, learning_rate: f64) -> RunConfig {
    let source = DataConfig {
        augment: Augment::None,
        ..data.config("tiny", 0.0)
    };
    let recipe = Recipe {
        batch_size: BATCH,
        learning_rate,
        ..Recipe::quick(EPOCHS)
    };
    RunConfig::new("tiny", 5, source, MethodConfig::named("dense"), recipe)
}

/// Runs, interrupted after `stop_after` steps and resumed if there are so many; also the steps that were reported.
fn run(
    folder: &Path,
    learning_rate: f64,
    stop_after: usize,
) -> dcff_train::Result<(Summary, Vec<usize>)> {
    let data = data();
    let config = config(&data, learning_rate);
    let folder = RunFolder::create(folder, &config)?;
    let (mut seen, stop) = (Vec::new(), AtomicBool::new(false));
    loop {
        let (folder, config) = (folder.clone(), config.clone());
        let full = architecture();
        let builder = Trainer::builder(folder, config, &full, &data, &Device::Cpu);
        let mut trainer = builder.build()?;
        let mut observer = |event: &Event<'_>| {
            if let Event::Step { step, .. } = event {
                seen.push(*step);
                stop.store(seen.len() == stop_after, Ordering::Relaxed);
            }
        };
        if let Ending::Finished(summary) = trainer.run(&mut observer, &stop)? {
            return Ok((*summary, seen));
        }
        stop.store(false, Ordering::Relaxed);
    }
}

fn accuracies(summary: &Summary) -> [f64; 2] {
    [summary.last.test.accuracy, summary.last.test.loss]
}

#[test]
fn a_run_reads_its_losses_late_and_loses_none() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = |name: &str| scratch.path().join(name);
    let on_cpu = run(&folder("cpu"), 0.02, usize::MAX).unwrap();
    let on_gpu = emulator::with(DeviceSettings::default(), || {
        let whole = run(&folder("whole"), 0.02, usize::MAX).unwrap();
        let resumed = run(&folder("resumed"), 0.02, STEPS + 20).unwrap();
        let text = |name: &str| std::fs::read(folder(name).join("metrics.jsonl")).unwrap();
        assert_eq!(text("whole"), text("resumed"));
        let weights = |name: &str| std::fs::read(folder(name).join("compact/model.safetensors"));
        assert_eq!(weights("whole").unwrap(), weights("resumed").unwrap());
        assert_eq!(whole.1, resumed.1);
        let diverged = run(&folder("diverged"), 1e6, usize::MAX);
        (whole, diverged.unwrap_err())
    });
    let (whole, diverged) = match on_gpu {
        Ok(results) => results,
        Err(error) if error.to_string().contains("os error 2") => {
            eprintln!("skipped: {error}");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    let steps: Vec<usize> = (1..=STEPS).chain(1..=STEPS).collect();
    assert_eq!(whole.1, steps);
    assert_eq!(on_cpu.1, steps);
    for (got, expected) in accuracies(&whole.0).iter().zip(accuracies(&on_cpu.0)) {
        assert!((got - expected).abs() < 1e-3, "{got} for {expected}");
    }
    // The step whose loss it was, not the one at which it was read. Numbers overflow where they do on the CPU, but for
    // rounding.
    let cpu = run(&folder("diverged on the cpu"), 1e6, usize::MAX).unwrap_err();
    let step = |error: &Error| match error {
        Error::Diverged {
            epoch: 1,
            place: Place::Step(step),
            ..
        } => *step,
        other => panic!("{other}"),
    };
    let (got, expected) = (step(&diverged), step(&cpu));
    assert!(got.abs_diff(expected) <= 1, "{got} for {expected}");
    assert!(expected < 15, "{expected}");
}
