//! `gpu_test`: what must hold on a GPU, in one command. It drives the `dcff` that lies beside it, and needs nothing of the repository,
//! so that both can be copied to a machine with a GPU.
//!
//! Parity of every operation with the CPU, speed beside PyTorch, and a slice of a full training run. Each part's results
//! go to `summary.json` as soon as they are there; a part that is done is not repeated, a training run goes on where the
//! last call left it.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use candle_core::{DType, Device, Tensor};
use clap::{Parser, ValueEnum};
use dcff_models::{Architecture, Mode, Network, Views};
use dcff_nn::{
    Activation, ConvConfig, DeviceChoice, DeviceSettings, Features, LossValue, PoolConfig,
    Precision, RepeatedStep, SgdConfig,
};
use dcff_train::methods::{FilterFusion, FilterFusionConfig, narrowed};
use dcff_train::{
    Context as Seeds, EpochStart, Group, Method, Optimizer, Recipe, cross_entropy_step,
};
use serde_json::{Map, Value, json};

/// The scripts travel with the program.
const SCRIPTS: [(&str, &str); 2] = [
    (
        "network.py",
        include_str!("../../../benches/pytorch/network.py"),
    ),
    (
        "train_cuda.py",
        include_str!("../../../benches/pytorch/train_cuda.py"),
    ),
];
const NETWORKS: [&str; 2] = ["vgg16", "resnet56"];
/// Steps timed together, so that the host may run ahead as in training.
const GROUP: usize = 20;
const WARM_UP: usize = 10;
/// Groups measured; their median is given.
const ROUNDS: usize = 7;
/// Seconds that an interrupted run has for its checkpoint.
const GRACE: u64 = 30;

/// Seeds weights, images and labels.
const SEED: u64 = 0;

/// What must hold on a GPU
#[derive(Parser, Debug)]
struct Args {
    /// Device: auto, cuda or cuda:N; auto takes the first GPU that works
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: String,
    /// Folder for summary.json, scripts and runs; what is done in it is not repeated
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// A Python with PyTorch for this GPU
    #[arg(long, value_name = "PYTHON")]
    pytorch: Option<PathBuf>,
    /// Parts to do
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "parity,same-seed,speed,train"
    )]
    parts: Vec<Part>,
    /// Images of the steps whose speed is measured
    #[arg(long, value_name = "N", default_value_t = 256)]
    batch_size: usize,
    /// Minutes of training in this call; 0 trains nothing
    #[arg(long, value_name = "N", default_value_t = 9)]
    minutes: u64,
    /// Precision of the training run, as for dcff train
    #[arg(long, value_name = "TYPE", default_value = "bf16")]
    precision: String,
    /// Data set of the training runs
    #[arg(long, value_name = "NAME", default_value = "cifar10")]
    data: String,
    /// Where data sets lie, as for dcff train
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// A part of the test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Every operation, and recorded steps, compared with the CPU and with steps that are not recorded
    Parity,
    /// A run twice, whose weights must be the same
    SameSeed,
    /// Images a second, beside PyTorch's
    Speed,
    /// Training runs with the published settings
    Train,
}

/// Name, bits of the arithmetic, and the largest error allowed relative to the root mean square.
const ARITHMETICS: [(&str, Precision, bool, f64); 3] = [
    ("f32", Precision::F32, false, 1e-4),
    ("tf32", Precision::F32, true, 1e-3),
    ("bf16", Precision::Bf16, false, 1e-2),
];

/// Those that the program has: TF32 is cuDNN's.
fn arithmetics() -> impl Iterator<Item = (&'static str, Precision, bool, f64)> {
    let has = |&(_, _, tf32, _): &(_, _, bool, _)| !tf32 || cfg!(feature = "cudnn");
    ARITHMETICS.into_iter().filter(has)
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> anyhow::Result<()> {
    let choice: DeviceChoice = args
        .device
        .parse()
        .map_err(|error| anyhow::anyhow!("--device: {error}"))?;
    let (device, _) = choice.open().context("--device")?;
    ensure!(!device.is_cpu(), "--device: expected a GPU, got the cpu");
    std::fs::create_dir_all(&args.out).with_context(|| args.out.display().to_string())?;
    let mut report = Report::open(&args.out)?;
    report.set("device", json!(dcff_nn::device_name(&device)?))?;
    let wanted = |part: Part| args.parts.contains(&part);
    if wanted(Part::Parity) && !report.has("parity") {
        eprintln!("== parity with the cpu");
        let parity = parity(&device)?;
        report.set("parity", parity)?;
    }
    if wanted(Part::Parity) && !report.has("recorded_steps") {
        eprintln!("== recorded steps");
        let recorded = recorded_steps(&device)?;
        report.set("recorded_steps", recorded)?;
    }
    if wanted(Part::SameSeed) && !report.has("same_seed_twice") {
        eprintln!("== the same seed twice");
        let twice = same_seed_twice(args)?;
        report.set("same_seed_twice", twice)?;
    }
    for arch in NETWORKS {
        for (name, precision, tf32, _) in arithmetics() {
            let key = format!("speed_{arch}_{name}");
            if !wanted(Part::Speed) || report.has(&key) {
                continue;
            }
            eprintln!("== speed of {arch}, {name}");
            let ours = speed(&device, arch, (precision, tf32), args.batch_size)?;
            let theirs = match &args.pytorch {
                Some(python) => pytorch(python, args, arch, name)?,
                None => json!("--pytorch was not given"),
            };
            report.set(
                &key,
                json!({ "dcff_images_per_s": ours, "pytorch": theirs }),
            )?;
        }
    }
    if wanted(Part::Train) && args.minutes > 0 {
        for arch in NETWORKS {
            let done = reproduce(args, arch, &mut report)?;
            if !done {
                eprintln!("time is over: the same command goes on with {arch}");
                break;
            }
        }
    }
    println!("{}", report.path.display());
    Ok(())
}

/// `summary.json`, written after every part.
struct Report {
    path: PathBuf,
    values: Map<String, Value>,
}

impl Report {
    fn open(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join("summary.json");
        let values = match std::fs::read(&path) {
            Ok(text) => {
                serde_json::from_slice(&text).with_context(|| path.display().to_string())?
            }
            Err(_) => Map::new(),
        };
        Ok(Self { path, values })
    }

    fn has(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    fn set(&mut self, key: &str, value: Value) -> anyhow::Result<()> {
        self.values.insert(key.to_owned(), value);
        let text = serde_json::to_vec_pretty(&self.values)?;
        std::fs::write(&self.path, &text).with_context(|| self.path.display().to_string())?;
        Ok(())
    }
}

/// Every operation on both devices; the largest error of each. What is expected is computed in single precision, also for
/// maps of less: otherwise both sides would round, and differ by more than either errs.
fn parity(device: &Device) -> anyhow::Result<Value> {
    let mut all = Map::new();
    let mut sound = true;
    let expected = operations(&Device::Cpu, Precision::F32)?;
    for (name, precision, tf32, bound) in arithmetics() {
        let settings = DeviceSettings {
            tf32,
            deterministic: false,
        };
        dcff_nn::configure(device, settings)?;
        let got = operations(device, precision)?;
        let mut errors = Map::new();
        for ((operation, got), (_, expected)) in got.iter().zip(&expected) {
            let error = relative_error(got, expected);
            let good = error <= bound;
            sound &= good;
            errors.insert(operation.clone(), json!({ "error": error, "within": good }));
        }
        all.insert(
            name.to_owned(),
            json!({ "bound": bound, "operations": errors }),
        );
    }
    all.insert("all_within".to_owned(), json!(sound));
    Ok(Value::Object(all))
}

/// The largest difference, relative to the number expected, or to the root mean square of all where that is larger.
fn relative_error(got: &[f32], expected: &[f32]) -> f64 {
    let square: f64 = expected.iter().map(|&e| f64::from(e).powi(2)).sum();
    let scale = (square / expected.len().max(1) as f64).sqrt().max(1e-6);
    got.iter()
        .zip(expected)
        .map(|(&g, &e)| (f64::from(g) - f64::from(e)).abs() / scale.max(f64::from(e.abs())))
        .fold(0.0, |a: f64, b| if b > a || b.is_nan() { b } else { a })
}

/// Every operation, forward and gradients, on the same numbers.
fn operations(device: &Device, precision: Precision) -> anyhow::Result<Vec<(String, Vec<f32>)>> {
    let mut all = Vec::new();
    let tensor = |seed: usize, dims: &[usize]| -> anyhow::Result<Tensor> {
        let count = dims.iter().product::<usize>();
        let values: Vec<f32> = (0..count)
            // Few enough bits for bfloat16, so that both sides start from the same numbers.
            .map(|i| (((i + seed) * 7919 % 251) as f32 - 125.0) / 64.0)
            .collect();
        Ok(Tensor::from_vec(values, dims, device)?)
    };
    let maps = |seed: usize, dims: &[usize]| -> anyhow::Result<Features> {
        Ok(Features::from_nchw(&tensor(seed, dims)?)?.to_precision(precision)?)
    };
    let numbers = |t: &Tensor| -> anyhow::Result<Vec<f32>> {
        Ok(t.to_device(&Device::Cpu)?.flatten_all()?.to_vec1()?)
    };
    // Batch, channels in and out, size, kernel, stride, padding, groups.
    for [n, c, o, h, k, stride, padding, groups] in [
        [64, 3, 32, 32, 3, 1, 1, 1],
        [64, 38, 76, 16, 3, 1, 1, 1],
        [32, 128, 128, 8, 3, 1, 1, 1],
        [32, 16, 32, 32, 3, 2, 1, 1],
        [32, 64, 96, 8, 1, 1, 0, 1],
        [16, 12, 24, 9, 5, 1, 2, 3],
    ] {
        let cfg = ConvConfig {
            stride,
            padding,
            groups,
            ..ConvConfig::default()
        };
        let out = (h + 2 * padding - k) / stride + 1;
        let (x, w) = (maps(1, &[n, c, h, h])?, tensor(2, &[o, c / groups, k, k])?);
        let (b, dy) = (tensor(3, &[o])?, maps(4, &[n, o, out, out])?);
        let y = dcff_nn::conv2d(&x, &w, Some(&b), cfg)?;
        let grads = dcff_nn::conv2d_backward(&x, &w, true, cfg, &dy, true)?;
        let name = format!("conv {c}->{o} {k}x{k} stride {stride} groups {groups}");
        all.push((name.clone(), numbers(&y.to_nchw()?)?));
        if let (Some(input), Some(bias)) = (&grads.input, &grads.bias) {
            all.push((format!("{name}: input"), numbers(&input.to_nchw()?)?));
            all.push((format!("{name}: bias"), numbers(bias)?));
        }
        all.push((format!("{name}: weight"), numbers(&grads.weight)?));
    }
    for [n, c, h] in [[64, 16, 32], [64, 38, 16], [64, 7, 9]] {
        let dims = [n, c, h, h];
        let (x, residual, dy) = (maps(5, &dims)?, maps(6, &dims)?, maps(7, &dims)?);
        let (gamma, beta) = (tensor(8, &[c])?, tensor(9, &[c])?);
        let relu = Activation::Relu;
        let (y, stats) = dcff_nn::batch_norm(&x, &gamma, &beta, 1e-5, Some(&residual), relu)?;
        // The mask is given, since rounding may turn a sign.
        let mask = maps(10, &dims)?;
        let grads = dcff_nn::batch_norm_backward(&x, &mask, &gamma, &stats, 1e-5, true, relu, &dy)?;
        let name = format!("batch norm {c} channels");
        all.push((name.clone(), numbers(&y.to_nchw()?)?));
        all.push((format!("{name}: variance"), numbers(&stats.var)?));
        all.push((format!("{name}: input"), numbers(&grads.input.to_nchw()?)?));
        all.push((format!("{name}: gamma"), numbers(&grads.gamma)?));
    }
    let dims = [32, 24, 16, 16];
    let (x, dy) = (maps(11, &dims)?, maps(12, &[32, 24, 8, 8])?);
    let cfg = PoolConfig {
        kernel: 2,
        stride: 2,
        padding: 0,
    };
    let (y, indices) = dcff_nn::max_pool2d(&x, cfg)?;
    let pools = [
        ("max pool", y),
        (
            "max pool: input",
            dcff_nn::max_pool2d_backward(&indices, &dy)?,
        ),
        ("average pool", dcff_nn::avg_pool2d(&x, cfg)?),
        (
            "average pool: input",
            dcff_nn::avg_pool2d_backward((16, 16), cfg, &dy)?,
        ),
        ("global pool", dcff_nn::global_avg_pool(&x)?),
        ("shortcut", dcff_nn::shortcut(&x, 2, 48)?),
        (
            "sum",
            dcff_nn::add(&x, &maps(13, &dims)?, Activation::Relu)?,
        ),
        ("channels side by side", dcff_nn::concat(&[&x, &x])?),
    ];
    for (name, maps) in pools {
        all.push((name.to_owned(), numbers(&maps.to_nchw()?)?));
    }
    let (logits, weight) = (tensor(14, &[256, 10])?, tensor(15, &[10, 64])?);
    let classes = Tensor::from_vec((0..256u32).map(|i| i % 10).collect(), 256, device)?;
    let loss = dcff_nn::cross_entropy(&logits, &classes, 0.1)?;
    all.push((
        "cross-entropy".to_owned(),
        vec![loss.value.read()?.mean as f32],
    ));
    all.push(("cross-entropy: logits".to_owned(), numbers(&loss.grad)?));
    let rows = tensor(16, &[256, 64])?;
    let grads = dcff_nn::linear_backward(&rows, &weight, &logits, true)?;
    all.push((
        "linear".to_owned(),
        numbers(&dcff_nn::linear(&rows, &weight, None)?)?,
    ));
    all.push(("linear: weight".to_owned(), numbers(&grads.weight)?));
    let (p, w) = (tensor(17, &[20, 64])?, tensor(18, &[64, 16, 3, 3])?);
    all.push(("P.W".to_owned(), numbers(&dcff_nn::mix(&p, &w)?)?));
    all.push((
        "filter distances".to_owned(),
        numbers(&dcff_nn::filter_distances(&w)?)?,
    ));
    let (param, velocity) = (tensor(19, &[5000])?, tensor(20, &[5000])?);
    let cfg = SgdConfig {
        lr: 0.1,
        momentum: 0.9,
        weight_decay: 5e-4,
        nesterov: true,
    };
    dcff_nn::sgd_step(&param, &velocity, &tensor(21, &[5000])?, &cfg)?;
    all.push(("gradient descent".to_owned(), numbers(&param)?));
    Ok(all)
}

/// The program, which lies beside this one.
fn dcff() -> anyhow::Result<PathBuf> {
    let name = format!("dcff{}", std::env::consts::EXE_SUFFIX);
    let program = std::env::current_exe()?.with_file_name(name);
    ensure!(
        program.exists(),
        "{}: expected the program there",
        program.display()
    );
    Ok(program)
}

/// A network at its published rates, which is trained by filter fusion.
struct Subject {
    method: FilterFusionConfig,
    full: Architecture,
    compact: Architecture,
}

impl Subject {
    /// The network as it trains, with the views of the first epoch of 300.
    fn fused(&self, device: &Device) -> anyhow::Result<(Network, Views)> {
        let network = Network::new(&self.full, &self.compact, SEED, device)?;
        let mut method = FilterFusion::new(self.method.clone(), &Seeds::seeded(SEED))?;
        let start = EpochStart {
            epoch: 0,
            epochs: 300,
            full: &self.full,
            network: &network,
            views: &Views::dense(),
            probe: None,
        };
        let views = method.epoch_start(&start)?.views;
        Ok((network, views))
    }
}

/// The network `arch` at its published rates.
fn published(arch: &str) -> anyhow::Result<Subject> {
    let full = dcff_models::by_name(arch)?;
    let rates = dcff_fusion::rates_for("published", arch)?;
    Ok(Subject {
        compact: narrowed(&full, &rates)?,
        method: FilterFusionConfig::new(rates),
        full,
    })
}

/// Images and labels for `subject`, of no meaning.
fn batch_of(subject: &Subject, size: usize, device: &Device) -> anyhow::Result<(Tensor, Tensor)> {
    let [c, h, w] = subject.full.input;
    let values = (0..size * c * h * w).map(|i| (i as f32 * 0.618_034).fract() * 3.4 - 1.7);
    let images = Tensor::from_iter(values, &Device::Cpu)?.reshape((size, c, h, w))?;
    let classes = subject.compact.shapes()?.classes();
    let labels = Tensor::from_iter((0..size).map(|i| (i % classes) as u32), &Device::Cpu)?;
    let (images, labels) = (images.to_device(device)?, labels.to_device(device)?);
    Ok((images, labels))
}

/// The weights after some steps that a GPU repeats from a record, against those after steps that are called.
fn recorded_steps(device: &Device) -> anyhow::Result<Value> {
    const BATCH: usize = 8;
    const STEPS: usize = 6;
    let subject = published("resnet56")?;
    dcff_nn::configure(
        device,
        DeviceSettings {
            tf32: false,
            deterministic: true,
        },
    )?;
    let (images, labels) = batch_of(&subject, BATCH, device)?;
    let mut weights = Vec::new();
    let mut repeated = RepeatedStep::default();
    for record in [false, true] {
        let (mut network, views) = subject.fused(device)?;
        let recipe = Recipe::published_cifar();
        let mut optimizer =
            Optimizer::new(&network, &[], Group::all(network.parameters(), &recipe))?;
        for i in 0..STEPS {
            // Every step has a batch and a rate of its own.
            let images = images.affine(1.0, i as f64 / 8.0)?;
            let rates = optimizer.begin(recipe.rate(0, 0, 1) / (i + 1) as f64);
            let mut step = |images: &Tensor, labels: &Tensor| -> anyhow::Result<LossValue> {
                let output = cross_entropy_step(&mut network, &views, images, labels, 0.0)?;
                optimizer.apply(&network, &output.gradients, &[])?;
                Ok(output.loss)
            };
            if record {
                repeated.run(&images, &labels, &rates, &mut step)?;
            } else {
                step(&images, &labels)?;
            }
        }
        let mut all = Vec::new();
        for i in 0..network.parameters().len() {
            let tensor = network.tensor(i).to_device(&Device::Cpu)?;
            all.extend(tensor.flatten_all()?.to_vec1::<f32>()?);
        }
        weights.push(all);
    }
    Ok(json!({
        "nodes": repeated.recorded(),
        "refused": repeated.refused(),
        "same_weights": weights[0] == weights[1],
    }))
}

/// Images per second of training steps, and how far fused and compact logits are apart.
fn speed(
    device: &Device,
    arch: &str,
    (precision, tf32): (Precision, bool),
    batch: usize,
) -> anyhow::Result<Value> {
    let subject = published(arch)?;
    let settings = DeviceSettings {
        tf32,
        deterministic: false,
    };
    dcff_nn::configure(device, settings)?;
    let (mut network, views) = subject.fused(device)?;
    network.set_precision(precision);
    let recipe = Recipe::published_cifar();
    let mut optimizer = Optimizer::new(&network, &[], Group::all(network.parameters(), &recipe))?;
    let rates = optimizer.begin(recipe.rate(0, 0, 1));
    let (images, labels) = batch_of(&subject, batch, device)?;
    let mut step = |images: &Tensor, labels: &Tensor| -> anyhow::Result<LossValue> {
        let output = cross_entropy_step(&mut network, &views, images, labels, 0.0)?;
        optimizer.apply(&network, &output.gradients, &[])?;
        Ok(output.loss)
    };
    // Every launch on its own, and then as in training: recorded and launched at once.
    let called = time_steps(device, || step(&images, &labels))?;
    let mut repeated = RepeatedStep::default();
    let repeated_time = time_steps(device, || {
        let (loss, _) = repeated.run(&images, &labels, &rates, &mut step)?;
        Ok(loss)
    })?;
    let recorded = json!({ "nodes": repeated.recorded(), "refused": repeated.refused() });
    drop(repeated);
    let (fused, _) = network.forward(&images, &views, Mode::Eval)?;
    let plain = network.collapse(&views)?;
    let (compact, _) = plain.forward(&images, &Views::dense(), Mode::Eval)?;
    let host = |t: &Tensor| -> anyhow::Result<Vec<f32>> {
        Ok(t.to_device(&Device::Cpu)?.flatten_all()?.to_vec1()?)
    };
    let median = repeated_time.step;
    let rate = (2
        * 3
        * batch as u64
        * dcff_flops::cost(
            &subject.compact,
            dcff_flops::Convention::Macs,
            dcff_flops::Form::Compact,
        )?
        .ops()) as f64
        / median;
    // Candle multiplies single precision as it is, whatever the convolutions do.
    let limit = (!tf32)
        .then(|| matmul_limit(device, precision, 32 * batch))
        .transpose()?;
    Ok(json!({
        "images_per_s": batch as f64 / median,
        "median_step_ms": 1e3 * median,
        "recorded": recorded,
        // Where it is nearly the whole step, the GPU waits for launches.
        "host_ms_per_step": 1e3 * repeated_time.host,
        "not_recorded": {
            "images_per_s": batch as f64 / called.step,
            "host_ms_per_step": 1e3 * called.host,
            "launches_per_step": called.launches,
        },
        "gflops": rate / 1e9,
        "matmul_limit_gflops": limit.map(|limit| limit / 1e9),
        "share_of_matmul_limit": limit.map(|limit| rate / limit),
        "fused_against_compact_logits": relative_error(&host(&fused)?, &host(&compact)?),
    }))
}

/// The middle of `times`; of an even number, the later of the two.
fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}

/// What steps take, in seconds: the whole of one, and what the processor does for it.
struct StepTime {
    step: f64,
    host: f64,
    launches: u64,
}

fn time_steps(
    device: &Device,
    mut step: impl FnMut() -> anyhow::Result<LossValue>,
) -> anyhow::Result<StepTime> {
    for _ in 0..WARM_UP {
        step()?;
    }
    let (mut times, mut host_times) = (Vec::new(), Vec::new());
    let before = dcff_nn::launches(device)?;
    for _ in 0..ROUNDS {
        dcff_nn::synchronize(device)?;
        let start = Instant::now();
        for _ in 0..GROUP {
            step()?;
        }
        host_times.push(start.elapsed().as_secs_f64() / GROUP as f64);
        dcff_nn::synchronize(device)?;
        times.push(start.elapsed().as_secs_f64() / GROUP as f64);
    }
    let launches = (dcff_nn::launches(device)? - before) / (ROUNDS * GROUP) as u64;
    let loss = step()?.read()?.mean;
    ensure!(loss.is_finite(), "the loss is {loss}");
    Ok(StepTime {
        step: median(&mut times),
        host: median(&mut host_times),
        launches,
    })
}

/// Operations per second of a large product of square matrices by candle (cuBLAS), two for each multiplication.
fn matmul_limit(device: &Device, precision: Precision, side: usize) -> anyhow::Result<f64> {
    let dtype = match precision {
        Precision::Bf16 => DType::BF16,
        _ => DType::F32,
    };
    let [a, b] = [(); 2].map(|()| Tensor::ones((side, side), dtype, device));
    let (a, b) = (a?, b?);
    let mut times = Vec::new();
    for _ in 0..WARM_UP + ROUNDS {
        dcff_nn::synchronize(device)?;
        let start = Instant::now();
        let _product = a.matmul(&b)?;
        dcff_nn::synchronize(device)?;
        times.push(start.elapsed().as_secs_f64());
    }
    Ok(2.0 * (side as f64).powi(3) / median(&mut times[WARM_UP..]))
}

/// `dcff train` on the GPU and with the data that `args` name.
fn train(args: &Args) -> anyhow::Result<Command> {
    let mut command = Command::new(dcff()?);
    command.args(["train", "--device", &args.device]);
    if let Some(data) = &args.data_dir {
        command.arg("--data-dir").arg(data);
    }
    Ok(command)
}

/// Trains a small network twice with `--deterministic`, and says whether the weights are the same to the byte.
fn same_seed_twice(args: &Args) -> anyhow::Result<Value> {
    const TRAIN: [&str; 9] = [
        "train",
        "--arch",
        "resnet20",
        "--rates",
        "0.5",
        "--epochs",
        "2",
        "--hold-out=0",
        "--deterministic",
    ];
    let mut weights = Vec::new();
    for name in ["first", "second"] {
        let folder = args.out.join("same-seed").join(name);
        // What an interrupted call left would be refused.
        if folder.exists() {
            std::fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
        }
        let output = train(args)?
            .args(&TRAIN[1..])
            .args(["--data", &args.data, "--out"])
            .arg(&folder)
            .output()?;
        if !output.status.success() {
            return Ok(json!({ "failed": String::from_utf8_lossy(&output.stderr).trim() }));
        }
        let file = folder.join("compact/model.safetensors");
        weights.push(std::fs::read(&file).with_context(|| file.display().to_string())?);
    }
    Ok(json!({ "command": TRAIN.join(" "), "same_bytes": weights[0] == weights[1] }))
}

/// PyTorch's lines for the same network and precision.
fn pytorch(python: &Path, args: &Args, arch: &str, precision: &str) -> anyhow::Result<Value> {
    let folder = args.out.join("pytorch");
    std::fs::create_dir_all(&folder)?;
    for (name, text) in SCRIPTS {
        std::fs::write(folder.join(name), text)?;
    }
    let description = Command::new(dcff()?)
        .args(["bench", "train", "--describe", "--arch", arch])
        .output()?;
    let file = folder.join(format!("{arch}.json"));
    std::fs::write(&file, description.stdout)?;
    let output = Command::new(python)
        .arg(folder.join("train_cuda.py"))
        .arg(&file)
        .args(["--precision", precision])
        .args(["--batch", &args.batch_size.to_string()])
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| python.display().to_string())?;
    let lines = String::from_utf8_lossy(&output.stdout);
    Ok(lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| json!(line)))
        .collect())
}

/// Trains at the published recipe for the minutes given, from where the last call stopped; whether it is done.
fn reproduce(args: &Args, arch: &str, report: &mut Report) -> anyhow::Result<bool> {
    let folder = args.out.join("runs").join(arch);
    let mut command = train(args)?;
    if folder.join(dcff_train::CONFIG).exists() {
        command.arg("--resume").arg(&folder);
    } else {
        command
            .args(["--arch", arch, "--rates", "published", "--data", &args.data])
            .args(["--precision", &args.precision])
            .arg("--out")
            .arg(&folder);
    }
    eprintln!("== training {arch} for at most {} minutes", args.minutes);
    let end = Instant::now() + Duration::from_secs(60 * args.minutes);
    let mut child = command.stdout(Stdio::null()).spawn()?;
    let mut asked = false;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if !asked && Instant::now() >= end {
            // The same as Ctrl-C: it writes a checkpoint and ends.
            Command::new("kill")
                .args(["-INT", &child.id().to_string()])
                .status()?;
            asked = true;
        }
        if Instant::now() >= end + Duration::from_secs(GRACE) {
            child.kill()?;
        }
        std::thread::sleep(Duration::from_millis(200));
    };
    let summary = folder.join(dcff_train::SUMMARY);
    let result = match std::fs::read(&summary) {
        Ok(text) => serde_json::from_slice(&text)?,
        Err(_) => {
            let metrics = std::fs::read_to_string(folder.join(dcff_train::METRICS));
            let metrics = metrics.unwrap_or_default();
            let last: Value = metrics
                .lines()
                .last()
                .and_then(|line| serde_json::from_str(line).ok())
                .unwrap_or(Value::Null);
            json!({ "unfinished": { "exit": status.to_string(), "last_epoch": last } })
        }
    };
    let done = summary.exists();
    report.set(&format!("run_{arch}"), result)?;
    Ok(done)
}
