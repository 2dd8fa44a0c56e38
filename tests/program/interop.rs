//! `interop DIR`: compact networks that were trained a little, with the logits that other programs must give.
//!
//! For each network `DIR/NAME/artefact` is what `dcff train` would write, and `DIR/NAME/expected.safetensors` holds `images`
//! `[7, C, H, W]` and `logits` `[7, classes]`. Training is a few steps of the fused network at the published rates on
//! images of coloured waves, a wave for each class: enough that no batch norm is the identity. `DIR/images` holds a few pictures.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, ensure};
use candle_core::{Device, Tensor};
use dcff_compact::{Artefact, Preprocessing, file, tensors_to_bytes};
use dcff_models::{Architecture, Constants, Mode, Network, View, Views};
use dcff_train::methods::{FilterFusion, FilterFusionConfig, narrowed};
use dcff_train::{Context as Seeds, EpochStart, Method, Optimizer, Recipe, cross_entropy_step};

/// Network, rates, steps of training and images a step. ResNet-50's images are 49 times as large.
const NETWORKS: [(&str, &str, usize, usize); 5] = [
    ("vgg16", "published", 8, 32),
    ("resnet56", "published", 8, 32),
    ("googlenet", "published", 4, 16),
    ("resnet50", "resnet50-cos-75.1", 3, 8),
    ("mobilenet-v2-cifar", "0.4", 4, 16),
];
/// Networks that are trained whole and lose filters afterwards, what these contributed carried along: border maps, scattered channels
/// and blocks of which nothing is left.
const MASKED: [(&str, usize, usize); 5] = [
    ("resnet56", 8, 32),
    ("vgg16", 6, 32),
    ("googlenet", 4, 16),
    ("densenet40", 4, 16),
    ("mobilenet-v2-cifar", 4, 16),
];
/// Images whose logits are compared.
const IMAGES: usize = 7;
/// Seeds weights and images.
const SEED: u64 = 7;

fn main() -> ExitCode {
    let Some(dir) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("error: expected a folder to write to");
        return ExitCode::from(2);
    };
    for (name, rates, steps, batch) in NETWORKS {
        if let Err(error) = write(&dir.join(name), name, rates, steps, batch) {
            eprintln!("error: {name}: {error:#}");
            return ExitCode::from(2);
        }
    }
    for (name, steps, batch) in MASKED {
        let folder = dir.join(format!("{name}-masked"));
        if let Err(error) = write_masked(&folder, name, steps, batch) {
            eprintln!("error: {name}, masked: {error:#}");
            return ExitCode::from(2);
        }
    }
    if let Err(error) = write_images(&dir.join("images")) {
        eprintln!("error: {error:#}");
        return ExitCode::from(2);
    }
    ExitCode::SUCCESS
}

/// Images of three sizes and proportions.
fn write_images(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir)?;
    for (width, height) in [(32, 32), (96, 64), (20, 45)] {
        let image = image::RgbImage::from_fn(width, height, |x, y| {
            let level = |v: u32, of: u32| (255 * v / of) as u8;
            let checks = if (x * 6 / width + y * 4 / height).is_multiple_of(2) {
                200
            } else {
                40
            };
            image::Rgb([level(x, width), level(y, height), checks])
        });
        image.save(dir.join(format!("{width}x{height}.png")))?;
    }
    Ok(())
}

fn write(dir: &Path, name: &str, rates: &str, steps: usize, batch: usize) -> Result<()> {
    std::fs::create_dir_all(dir)?;
    let full = dcff_models::by_name(name)?;
    let rates = dcff_fusion::rates_for(rates, name)?;
    let compact = narrowed(&full, &rates)?;
    let classes = compact.shapes()?.classes();
    let mut network = Network::new(&full, &compact, SEED, &Device::Cpu)?;
    let mut method = FilterFusion::new(FilterFusionConfig::new(rates), &Seeds::seeded(SEED))?;
    let recipe = Recipe::quick(1);
    let mut optimizer = Optimizer::new(
        &network,
        &[],
        dcff_train::Group::all(network.parameters(), &recipe),
    )?;
    for step in 0..steps {
        let views = views_of(&mut method, step, steps, &full, &network)?;
        let (images, labels) = waves(batch, step * batch, classes, full.input)?;
        let output = cross_entropy_step(&mut network, &views, &images, &labels, 0.0)?;
        let loss = output.loss.read()?.mean;
        ensure!(loss.is_finite(), "the loss of step {step} is {loss}");
        optimizer.step(&network, &output.gradients, recipe.rate(0, step, steps))?;
    }
    let views = views_of(&mut method, steps - 1, steps, &full, &network)?;
    save(dir, &network, &views)?;
    println!("{name}: {steps} steps of {batch} images");
    Ok(())
}

/// A whole network, trained a little, without every third filter of its masked convolutions, and without the first one's altogether
/// where a shortcut leads past it.
fn write_masked(dir: &Path, name: &str, steps: usize, batch: usize) -> Result<()> {
    std::fs::create_dir_all(dir)?;
    let full = dcff_models::by_name(name)?;
    let (shapes, classes) = (full.shapes()?, full.shapes()?.classes());
    let mut network = Network::new(&full, &full, SEED, &Device::Cpu)?;
    let recipe = Recipe::quick(1);
    let groups = dcff_train::Group::all(network.parameters(), &recipe);
    let mut optimizer = Optimizer::new(&network, &[], groups)?;
    for step in 0..steps {
        let (images, labels) = waves(batch, step * batch, classes, full.input)?;
        let views = Views::dense();
        let output = cross_entropy_step(&mut network, &views, &images, &labels, 0.0)?;
        optimizer.step(&network, &output.gradients, recipe.rate(0, step, steps))?;
    }
    let mut kept = BTreeMap::new();
    for (index, at) in full.maskable()?.into_iter().enumerate() {
        let width = shapes.output(at).channels;
        let on: Vec<bool> = (0..width).map(|filter| (filter + index) % 3 != 0).collect();
        kept.insert(full.layers[at].name.clone(), on);
    }
    let first = kept.keys().next().cloned();
    if let Some(on) = first.as_ref().and_then(|layer| kept.get_mut(layer)) {
        let some = on.clone();
        on.fill(false);
        let counts = |kept: &BTreeMap<String, Vec<bool>>| {
            let count = |on: &Vec<bool>| on.iter().filter(|&&on| on).count() as u64;
            kept.iter()
                .map(|(layer, on)| (layer.clone(), count(on)))
                .collect()
        };
        if !full.is_connected(&counts(&kept))? {
            kept.extend(first.map(|layer| (layer, some)));
        }
    }
    let narrow = network.unmasked(&kept, Constants::Carried)?;
    // What is left computes what the network does whose other filters are 0.
    let masks = kept.iter().map(|(layer, on)| {
        let mask: Vec<f32> = on.iter().map(|&on| f32::from(u8::from(on))).collect();
        Ok((layer.clone(), View::Mask(Tensor::new(mask, &Device::Cpu)?)))
    });
    let masks: Views = masks.collect::<Result<_>>()?;
    let (images, _) = waves(IMAGES, 1000, classes, full.input)?;
    let (masked, _) = network.forward(&images, &masks, Mode::Eval)?;
    let (left, _) = narrow.forward(&images, &Views::dense(), Mode::Eval)?;
    let largest = |t: &Tensor| t.abs()?.max_all()?.to_scalar::<f32>();
    let (apart, size) = (largest(&(&masked - &left)?)?, largest(&masked)?);
    ensure!(
        apart <= 1e-5 * size,
        "what is left differs from the masked network by {apart:e} of {size:e}"
    );
    save(dir, &narrow, &Views::dense())?;
    println!("{name}, masked: {steps} steps of {batch} images");
    Ok(())
}

/// Writes the artefact of `network` and the logits that it must give.
fn save(dir: &Path, network: &Network, views: &Views) -> Result<()> {
    let input = network.compact().input;
    let classes = network.compact().shapes()?.classes();
    let preprocessing = Preprocessing {
        input_size: input,
        mean: vec![0.5; 3],
        std: vec![0.25; 3],
        interpolation: "bilinear".into(),
        crop_pct: 0.875,
        num_classes: classes,
        label_names: (0..classes).map(|i| format!("wave {i}")).collect(),
    };
    let made = BTreeMap::from([("made_by".to_owned(), "cargo xtask interop".into())]);
    let artefact = Artefact::new(network, views, preprocessing, made)?;
    artefact.save(&dir.join("artefact"))?;

    // The logits are those of the reloaded artefact: what anyone who has the files gets.
    let artefact = Artefact::load(&dir.join("artefact"))?;
    let (images, _) = waves(IMAGES, 1000, classes, input)?;
    let network = artefact.network(&Device::Cpu)?;
    let (logits, _) = network.forward(&images, &Views::dense(), Mode::Eval)?;
    let tensors = BTreeMap::from([("images".to_owned(), images), ("logits".to_owned(), logits)]);
    let bytes = tensors_to_bytes(&tensors, &BTreeMap::new())?;
    Ok(file::write(&dir.join("expected.safetensors"), &bytes)?)
}

/// The method's views of `network` at a step that stands for an epoch.
fn views_of(
    method: &mut dyn Method,
    epoch: usize,
    epochs: usize,
    full: &Architecture,
    network: &Network,
) -> Result<Views> {
    let start = EpochStart {
        epoch,
        epochs,
        full,
        network,
        views: &Views::dense(),
        probe: None,
    };
    Ok(method.epoch_start(&start)?.views)
}

/// Images `[N, C, H, W]` from number `first` on and their labels `[N]`: a wave whose direction and length tell the class, with a phase
/// and noise of its own.
fn waves(
    n: usize,
    first: usize,
    classes: usize,
    [c, h, w]: [usize; 3],
) -> Result<(Tensor, Tensor)> {
    let mut pixels = Vec::with_capacity(n * c * h * w);
    let label = |i: usize| (first + i) * 7 % classes;
    for i in 0..n {
        let angle = std::f32::consts::TAU * label(i) as f32 / classes as f32;
        let (dx, dy) = (angle.cos() * 20.0 / w as f32, angle.sin() * 20.0 / h as f32);
        let phase = (first + i) as f32 * 1.7;
        let mut noise = (first + i) as u64 + SEED;
        for channel in 0..c {
            for y in 0..h {
                for x in 0..w {
                    noise = noise
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1_442_695_040_888_963_407);
                    let wave = (x as f32 * dx + y as f32 * dy + phase + channel as f32).sin();
                    pixels.push(wave + (noise >> 40) as f32 / (1u64 << 23) as f32 - 1.0);
                }
            }
        }
    }
    let labels: Vec<u32> = (0..n).map(|i| label(i) as u32).collect();
    Ok((
        Tensor::from_vec(pixels, (n, c, h, w), &Device::Cpu)?,
        Tensor::from_vec(labels, n, &Device::Cpu)?,
    ))
}
