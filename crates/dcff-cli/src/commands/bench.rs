//! `dcff bench`: speed and memory of whole networks on images of noise.
//!
//! Speed does not depend on what the images show, so no data set is read. Times are wall-clock medians of single steps
//! after a few that are not counted.

mod layers;
mod speed;

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, ensure};
use candle_core::{Device, Tensor};
use dcff_data::{Augmentation, Dataset, Normalisation, Splits};
use dcff_flops::Convention;
use dcff_models::{Architecture, InferenceNetwork, Network, Profile, Views};
use dcff_report::table::{Align, Table};
use dcff_train::methods::{self, FilterFusion, FilterFusionConfig, narrowed};
use dcff_train::{
    Context as Seeds, Data, EpochStart, Group, Method, Optimizer, Precision, Recipe, RunConfig,
    RunFolder, Trainer, cross_entropy_step, stored,
};
use serde_json::json;

use crate::args::{
    BenchArgs, BenchInferArgs, BenchNetwork, BenchStepArgs, BenchTask, BenchTrainArgs,
};
use crate::commands::method;
use crate::ended::Ended;
use speed::Speed;

/// Steps before the clock starts: the first takes its memory from the system, the second finds all of it waiting.
const WARM_UP: usize = 2;
/// Seeds weights, images and labels.
const SEED: u64 = 0;
/// Epochs of the run whose first epoch is measured; it only sets the temperature.
const EPOCHS: usize = 300;

pub(crate) fn run(args: &BenchArgs) -> anyhow::Result<Ended> {
    match &args.task {
        BenchTask::Train(args) => train(args),
        BenchTask::Infer(args) => infer(args),
        BenchTask::Step(args) => step(args),
    }?;
    Ok(Ended::Done)
}

/// The method and both architectures that the arguments ask for.
struct Subject {
    method: FilterFusionConfig,
    full: Architecture,
    compact: Architecture,
}

impl Subject {
    fn new(args: &BenchNetwork) -> anyhow::Result<Self> {
        let full = dcff_models::by_name(&args.arch).context("--arch")?;
        let rates = dcff_fusion::rates_for(&args.rates, &args.arch).context("--rates")?;
        let compact = narrowed(&full, &rates)?;
        Ok(Self {
            method: FilterFusionConfig::new(rates),
            full,
            compact,
        })
    }

    /// The network as it trains, with the views of an epoch.
    fn fused(&self, device: &Device) -> anyhow::Result<(Network, Views)> {
        let network = Network::new(&self.full, &self.compact, SEED, device)?;
        let mut method = FilterFusion::new(self.method.clone(), &Seeds::seeded(SEED))?;
        let start = EpochStart {
            epoch: 0,
            epochs: EPOCHS,
            full: &self.full,
            network: &network,
            views: &Views::dense(),
            probe: None,
        };
        let views = method.epoch_start(&start)?.views;
        Ok((network, views))
    }
}

/// What was measured of one network at one batch size.
struct Measured {
    label: &'static str,
    batch: usize,
    seconds: f64,
    macs: u64,
}

impl Measured {
    fn images_per_second(&self) -> f64 {
        self.batch as f64 / self.seconds
    }

    /// Nominal operations per second: what fast convolution saves counts as done.
    fn rate(&self) -> f64 {
        2.0 * self.macs as f64 / self.seconds
    }
}

fn train(args: &BenchTrainArgs) -> anyhow::Result<()> {
    let subject = Subject::new(&args.network)?;
    if args.describe {
        println!(
            "{}",
            json!({ "full": subject.full, "compact": subject.compact })
        );
        return Ok(());
    }
    check("--batch", args.batch)?;
    check("--rounds", args.rounds)?;
    let precision: Precision = args.precision.parse().context("--precision")?;
    let (mut network, views) = subject.fused(&Device::Cpu)?;
    network.set_precision(stored(precision));
    let recipe = Recipe::published_cifar();
    let mut optimizer = Optimizer::new(&network, &[], Group::all(network.parameters(), &recipe))?;
    let rate = recipe.rate(0, 0, 1);
    let images = noise(args.batch, subject.full.input)?;
    let labels = labels(args.batch, subject.compact.shapes()?.classes())?;
    let profile = args.layers.then(Arc::<Profile>::default);
    network.set_profile(profile.clone());
    let mut times = Vec::with_capacity(args.rounds);
    let mut sgd_seconds = 0.0;
    for step in 0..WARM_UP + args.rounds {
        if let (WARM_UP, Some(profile)) = (step, &profile) {
            profile.reset();
            sgd_seconds = 0.0;
        }
        let start = Instant::now();
        dcff_nn::awake(&Device::Cpu, || {
            let output = cross_entropy_step(&mut network, &views, &images, &labels, 0.0)?;
            let loss = output.loss.read()?.mean;
            ensure!(loss.is_finite(), "the loss of step {step} is {loss}");
            let start = Instant::now();
            optimizer.step(&network, &output.gradients, rate)?;
            sgd_seconds += start.elapsed().as_secs_f64();
            anyhow::Ok(())
        })?;
        if step >= WARM_UP {
            times.push(start.elapsed().as_secs_f64());
        }
    }
    if let Some(profile) = &profile {
        return layers::Step {
            compact: &subject.compact,
            profile,
            total: times.iter().sum(),
            sgd: sgd_seconds,
            steps: times.len(),
            batch: args.batch,
            speed: Speed::measured(),
        }
        .print(args.network.json);
    }
    let measured = Measured {
        label: "compact",
        batch: args.batch,
        seconds: median(&mut times),
        // Forward, gradient of the input, gradient of the weights.
        macs: 3 * args.batch as u64 * macs(&subject.compact)?,
    };
    print("train", &args.network, precision, &[measured]);
    Ok(())
}

/// A run on images of noise, of which nothing but the time of its first steps is kept.
fn step(args: &BenchStepArgs) -> anyhow::Result<()> {
    check("--batch", args.batch)?;
    check("--rounds", args.rounds)?;
    let full = dcff_models::by_name(&args.arch).context("--arch")?;
    let input = args.input_size.unwrap_or(full.input);
    let full = full.with_input(input);
    let classes = full.shapes().context("--input-size")?.classes();
    let recipe = Recipe {
        batch_size: args.batch,
        ..Recipe::published_cifar()
    };
    let method = method::method(&args.method, &full, &recipe, None)?;
    let data = noise_data(args.batch, input, classes)?;
    let source = data.config("noise", 0.0);
    let config = RunConfig::new(args.arch.as_str(), SEED, source, method, recipe);
    methods::check(&config, &full, data.train.classes())?;
    let scratch = tempfile::tempdir()?;
    let folder = RunFolder::create(&scratch.path().join("run"), &config)?;
    let trainer = Trainer::builder(folder, config.clone(), &full, &data, &Device::Cpu).build()?;
    let mut times = trainer.step_seconds(args.rounds, WARM_UP)?;
    let (seconds, peak) = (median(&mut times), peak_mib());
    let images_per_second = args.batch as f64 / seconds;
    let threads = rayon::current_num_threads();
    if args.json {
        println!(
            "{}",
            json!({
                "program": "dcff",
                "task": "step",
                "arch": args.arch,
                "method": config.method.name,
                "input_size": input,
                "threads": threads,
                "batch": args.batch,
                "images_per_s": images_per_second,
                "median_step_ms": 1e3 * seconds,
                "peak_rss_mib": peak,
            })
        );
        return Ok(());
    }
    println!(
        "{}, {}, {input:?}, {threads} threads, batch {}: {images_per_second:.1} images/s, {:.2} ms a step, {} MiB at most",
        args.arch,
        config.method.name,
        args.batch,
        1e3 * seconds,
        peak.map_or_else(|| "-".to_owned(), |mib| format!("{mib:.0}")),
    );
    Ok(())
}

/// A data set of noise, two batches for training.
fn noise_data(batch: usize, input: [usize; 3], classes: usize) -> anyhow::Result<Data> {
    let names: Vec<String> = (0..classes).map(|i| format!("class {i}")).collect();
    let images = |name: &str, count: usize| {
        let labels = (0..count).map(|i| (i % classes) as u32).collect();
        let values = noise(count, input)?.flatten_all()?.to_vec1::<f32>()?;
        let pixels = values.iter().map(|x| (x * 70.0 + 128.0) as u8).collect();
        anyhow::Ok(Dataset::new(name, input, names.clone(), labels, pixels)?)
    };
    let normalisation = Normalisation {
        mean: vec![0.5; input[0]],
        std: vec![0.25; input[0]],
    };
    let splits = Splits::new(images("train", 2 * batch)?, images("test", 1)?)?;
    Ok(Data::new(splits, normalisation, Augmentation::NONE))
}

fn infer(args: &BenchInferArgs) -> anyhow::Result<()> {
    let subject = Subject::new(&args.network)?;
    check("--rounds", args.rounds)?;
    let (network, views) = subject.fused(&Device::Cpu)?;
    let compact = InferenceNetwork::new(&network, &views)?;
    drop(network);
    let dense = Network::new(&subject.full, &subject.full, SEED, &Device::Cpu)?;
    let dense = InferenceNetwork::new(&dense, &Views::dense())?;
    let mut all = Vec::new();
    for &batch in &args.batch {
        check("--batch", batch)?;
        let images = noise(batch, subject.full.input)?;
        // Small batches are over soon: more of them fit the same time.
        let rounds = args.rounds * (64 / batch).max(1);
        // The two take turns, so that a busy moment of the machine meets both.
        let mut times = [Vec::new(), Vec::new()];
        for round in 0..WARM_UP + rounds {
            for (network, times) in [&compact, &dense].into_iter().zip(&mut times) {
                let start = Instant::now();
                network.forward(&images)?;
                if round >= WARM_UP {
                    times.push(start.elapsed().as_secs_f64());
                }
            }
        }
        let networks = [("compact", &subject.compact), ("dense", &subject.full)];
        for ((label, architecture), times) in networks.into_iter().zip(&mut times) {
            all.push(Measured {
                label,
                batch,
                seconds: median(times),
                macs: batch as u64 * macs(architecture)?,
            });
        }
    }
    print("infer", &args.network, Precision::F32, &all);
    Ok(())
}

fn print(task: &str, network: &BenchNetwork, precision: Precision, all: &[Measured]) {
    let (peak, speed) = (peak_mib(), Speed::measured());
    let threads = speed.threads;
    if network.json {
        for one in all {
            println!(
                "{}",
                json!({
                    "program": "dcff",
                    "task": task,
                    "arch": network.arch,
                    "rates": network.rates,
                    "network": one.label,
                    "threads": threads,
                    "batch": one.batch,
                    "precision": precision,
                    "images_per_s": one.images_per_second(),
                    "median_step_ms": 1e3 * one.seconds,
                    "peak_rss_mib": peak,
                    "gflops": one.rate() / 1e9,
                    "gemm_limit_gflops": speed.limit / 1e9,
                    "share_of_gemm_limit": speed.share(one.rate()),
                })
            );
        }
        return;
    }
    let mut table = Table::new([
        ("network", Align::Left),
        ("threads", Align::Right),
        ("batch", Align::Right),
        ("maps", Align::Left),
        ("images/s", Align::Right),
        ("ms a step", Align::Right),
        ("GF/s", Align::Right),
        ("of limit", Align::Right),
        ("peak MiB", Align::Right),
    ]);
    for one in all {
        table.row([
            format!("{} {}", network.arch, one.label),
            threads.to_string(),
            one.batch.to_string(),
            precision.to_string(),
            format!("{:.1}", one.images_per_second()),
            format!("{:.2}", 1e3 * one.seconds),
            format!("{:.0}", one.rate() / 1e9),
            format!("{:.0} %", 100.0 * speed.share(one.rate())),
            peak.map_or_else(|| "-".to_owned(), |mib| format!("{mib:.0}")),
        ]);
    }
    print!("{}", table.text());
}

fn check(flag: &str, value: usize) -> anyhow::Result<()> {
    ensure!(
        (1..=1 << 16).contains(&value),
        "{flag}: expected 1 to {}, got {value}",
        1 << 16
    );
    Ok(())
}

/// Multiply-accumulates of one image's forward pass.
fn macs(architecture: &Architecture) -> anyhow::Result<u64> {
    Ok(dcff_flops::cost(architecture, Convention::Macs, dcff_flops::Form::Compact)?.ops())
}

/// The middle of `times`; of an even number, the later of the two.
fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Images `[N, C, H, W]` of noise, uniform in -1.7 to 1.7, which has mean 0 and deviation 1.
fn noise(batch: usize, [c, h, w]: [usize; 3]) -> anyhow::Result<Tensor> {
    let mut state = SEED;
    let values: Vec<f32> = (0..batch * c * h * w)
        .map(|_| {
            // Knuth's linear congruential generator; its upper bits are even enough for noise.
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            ((state >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * 3f32.sqrt()
        })
        .collect();
    Ok(Tensor::from_vec(values, (batch, c, h, w), &Device::Cpu)?)
}

/// Labels `[N]` that take all classes in turn.
fn labels(batch: usize, classes: usize) -> anyhow::Result<Tensor> {
    let labels: Vec<u32> = (0..batch).map(|i| (i % classes) as u32).collect();
    Ok(Tensor::from_vec(labels, batch, &Device::Cpu)?)
}

/// The most memory that this process ever had resident, in MiB; only Linux says.
fn peak_mib() -> Option<f64> {
    parse_peak(&std::fs::read_to_string("/proc/self/status").ok()?)
}

fn parse_peak(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_peak_from_the_kernels_text() {
        let status = "VmPeak:\t  9000 kB\nVmHWM:\t    2560 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!(parse_peak(status), Some(2.5));
        assert_eq!(parse_peak("Name:\tdcff\n"), None);
    }

    #[test]
    fn takes_the_middle() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&mut [4.0, 1.0, 3.0, 2.0]), 3.0);
    }

    #[test]
    fn noise_is_centred_and_has_deviation_one() {
        let x = noise(8, [3, 32, 32]).unwrap();
        let x = x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let mean = x.iter().sum::<f32>() / x.len() as f32;
        let var = x.iter().map(|v| v * v).sum::<f32>() / x.len() as f32;
        assert!(
            mean.abs() < 0.02 && (var - 1.0).abs() < 0.02,
            "{mean} {var}"
        );
    }
}
