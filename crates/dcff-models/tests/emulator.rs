//! Whole networks on an emulated GPU against the CPU: logits, gradients and running statistics of a training pass.

#![cfg(feature = "emulator")]

use candle_core::{Device, Tensor};
use dcff_models::{Architecture, Mode, Network, View, Views};
use dcff_nn::{DeviceSettings, Precision, emulator};

/// What a training pass computes, by name.
type Results = Vec<(String, Vec<f32>)>;

fn numbers(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

/// Half of the filters of every scored convolution, mixed.
fn narrowed(full: &Architecture) -> (Architecture, Views) {
    let widths: Vec<_> = full.widths().iter().map(|w| w.div_ceil(2)).collect();
    let compact = full.narrowed(&widths).unwrap();
    let mut views = Views::dense();
    let spaces = full.spaces.iter().zip(&compact.spaces);
    for (layer, conv) in compact.scored_convs() {
        let space = spaces.clone().find(|(space, _)| space.name == conv.space);
        let (all, kept) = space.map(|(a, b)| (a.width, b.width)).unwrap();
        let p: Vec<f32> = (0..kept * all)
            .map(|i| {
                if i / all == i % all {
                    0.9
                } else {
                    0.1 / all as f32
                }
            })
            .collect();
        let p = Tensor::from_vec(p, (kept, all), &Device::Cpu).unwrap();
        views.insert(&layer.name, View::Mix(p));
    }
    (compact, views)
}

fn training_pass(name: &str, precision: Precision, batch: usize) -> Results {
    let full = dcff_models::by_name(name).unwrap();
    let (compact, views) = narrowed(&full);
    let mut network = Network::new(&full, &compact, 3, &Device::Cpu).unwrap();
    network.set_precision(precision);
    let [c, h, w] = compact.input;
    let pixels: Vec<f32> = (0..batch * c * h * w)
        .map(|i| ((i * 7919 % 1013) as f32 - 506.0) / 300.0)
        .collect();
    let images = Tensor::from_vec(pixels, (batch, c, h, w), &Device::Cpu).unwrap();
    let labels = Tensor::from_vec((0..batch as u32).collect(), batch, &Device::Cpu).unwrap();
    let (logits, trace) = network.forward(&images, &views, Mode::Train).unwrap();
    let loss = dcff_nn::cross_entropy(&logits, &labels, 0.1).unwrap();
    network.update_statistics(&trace).unwrap();
    let gradients = network.backward(trace, &views, &loss.grad).unwrap();
    let mut results = vec![
        (
            "loss".to_owned(),
            vec![loss.value.read().unwrap().mean as f32],
        ),
        ("logits".to_owned(), numbers(&logits)),
    ];
    for (i, parameter) in network.parameters().iter().enumerate() {
        let values = match gradients.get(i) {
            Some(gradient) => gradient,
            None => network.tensor(i),
        };
        results.push((parameter.name.clone(), numbers(values)));
    }
    let (logits, _) = network.forward(&images, &views, Mode::Eval).unwrap();
    results.push(("logits in evaluation".to_owned(), numbers(&logits)));
    results
}

/// Distance of two vectors over the length of the second.
fn distance(got: &[f32], expected: &[f32]) -> f64 {
    let square = |x: f64| x * x;
    let difference: f64 = got
        .iter()
        .zip(expected)
        .map(|(&g, &e)| square(f64::from(g) - f64::from(e)))
        .sum();
    let length: f64 = expected.iter().map(|&e| square(f64::from(e))).sum();
    (difference / length.max(1e-12)).sqrt()
}

/// The pass on the emulated GPU, or none where there is no C++ compiler.
fn on_a_gpu(name: &str, precision: Precision, batch: usize) -> Option<Results> {
    match emulator::with(DeviceSettings::default(), || {
        training_pass(name, precision, batch)
    }) {
        Ok(results) => Some(results),
        Err(error) if error.to_string().contains("os error 2") => {
            eprintln!("skipped: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

const NAME: &str = "resnet20";
const BATCH: usize = 4;

#[test]
fn a_residual_network_trains_on_a_gpu_as_on_the_cpu() {
    let expected = training_pass(NAME, Precision::F32, BATCH);
    let Some(got) = on_a_gpu(NAME, Precision::F32, BATCH) else {
        return;
    };
    assert_eq!(got.len(), expected.len());
    for ((what, got), (_, expected)) in got.iter().zip(&expected) {
        // A bias before a batch norm has no gradient but rounding.
        if expected.iter().all(|e| e.abs() < 1e-5) {
            continue;
        }
        let distance = distance(got, expected);
        assert!(distance < 1e-3, "{what} is off by {distance:e}");
    }
}

/// Rounding turns the gradients of a deep network far, on either device, and single tensors by chance; on the whole the GPU
/// may not turn them further than the CPU does.
#[test]
fn bfloat16_costs_on_a_gpu_what_it_costs_on_the_cpu() {
    let exact = training_pass(NAME, Precision::F32, BATCH);
    let cpu = training_pass(NAME, Precision::Bf16, BATCH);
    let Some(gpu) = on_a_gpu(NAME, Precision::Bf16, BATCH) else {
        return;
    };
    let mean = |results: &Results| {
        let pairs = results.iter().zip(&exact);
        let distances: Vec<f64> = pairs
            .filter(|(_, (_, exact))| exact.iter().any(|e| e.abs() >= 1e-5))
            .map(|((_, got), (_, exact))| distance(got, exact))
            .collect();
        distances.iter().sum::<f64>() / distances.len() as f64
    };
    let (gpu, cpu) = (mean(&gpu), mean(&cpu));
    assert!(
        gpu < 1.3 * cpu,
        "off by {gpu:e} on the mean of all tensors, on the cpu by {cpu:e}"
    );
}

/// Narrow networks wait for launches rather than for arithmetic, so a pass may not have many: a training pass and one of
/// evaluation took 295 for 19 convolutions when this was written.
#[test]
fn a_convolution_with_its_batch_norm_takes_few_launches() {
    let launches = || {
        training_pass(NAME, Precision::F32, 1);
        dcff_nn::launches(&Device::Cpu).unwrap()
    };
    match emulator::with(DeviceSettings::default(), launches) {
        Ok(launches) => assert!((150..=310).contains(&launches), "{launches}"),
        Err(error) if error.to_string().contains("os error 2") => eprintln!("skipped: {error}"),
        Err(error) => panic!("{error}"),
    }
    assert_eq!(dcff_nn::launches(&Device::Cpu).unwrap(), 0);
}
