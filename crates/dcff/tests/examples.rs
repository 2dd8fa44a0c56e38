//! The examples do what they say: each is run as it stands.

#[path = "../examples/candle_nn_model.rs"]
mod candle_nn_model;
#[path = "../examples/own_criterion.rs"]
mod own_criterion;
#[path = "../examples/own_method.rs"]
mod own_method;
#[path = "../examples/train_score_fuse_export.rs"]
mod train_score_fuse_export;

use candle_core::{Device, Tensor};
use dcff::models::{Mode, Network, Views};
use dcff::train::{Method, MethodConfig, Progress, Recipe, Setup, Step, testing};
use own_method::SoftMasks;

#[test]
fn the_filters_of_a_candle_nn_model_are_fused() {
    candle_nn_model::main().unwrap();
}

#[test]
fn a_criterion_of_ones_own_is_trained_with() {
    own_criterion::main().unwrap();
}

#[test]
fn a_run_ends_in_an_onnx_file() {
    train_score_fuse_export::main().unwrap();
}

#[test]
fn a_method_of_ones_own_is_trained_with() {
    own_method::main().unwrap();
}

/// Resumed to the byte, compact as in place, with any number of threads.
#[test]
fn a_method_of_ones_own_keeps_the_contract() {
    let scratch = tempfile::tempdir().unwrap();
    let make = |_| -> dcff::train::Result<(MethodConfig, Box<dyn Method>)> {
        Ok((
            MethodConfig::named("soft-masks"),
            Box::new(SoftMasks::default()),
        ))
    };
    testing::conformance(&make, scratch.path()).unwrap();
}

/// With running statistics: in training mode batch norm undoes what a mask does.
#[test]
fn the_gradient_of_a_mask_is_that_of_finite_differences() {
    let full = dcff::models::by_name("resnet20").unwrap();
    let full = full.with_classes(4).with_input([3, 8, 8]);
    let device = Device::Cpu;
    let mut network = Network::new(&full, &full, 3, &device).unwrap();
    let values: Vec<f32> = (0..8 * 192).map(|i| (i as f32 * 0.7).sin()).collect();
    let images = Tensor::from_vec(values, (8, 3, 8, 8), &device).unwrap();
    let labels = Tensor::new(&[0u32, 1, 2, 3, 0, 1, 2, 3], &device).unwrap();
    let mut method = SoftMasks::default();
    method.mode = Mode::Frozen;
    method
        .setup(&Setup {
            full: &full,
            network: &network,
            recipe: &Recipe::quick(1),
            seed: 0,
        })
        .unwrap();
    let views = Views::dense();
    let mut step = |method: &mut SoftMasks| {
        let batch = (&images, &labels);
        let mut step = Step::new(&mut network, &views, batch, 0.0, Progress::default(), 0);
        let loss = method.step(&mut step).unwrap().read().unwrap().mean;
        (loss, step.into_gradients().own)
    };
    // Behind the tap, so that only cross-entropy reaches it, which is the loss that a step tells; less the pull.
    let name = "layer3.2.conv2";
    let gradient = (&step(&mut method).1[name] - 1e-3).unwrap();
    let variables = method.variables();
    let (_, mask) = variables.iter().find(|(n, _)| n == name).unwrap();
    let norm = gradient.sqr().unwrap().sum_all().unwrap();
    let norm = f64::from(norm.to_scalar::<f32>().unwrap()).sqrt();
    let length = 1e-2 / norm;
    let start = mask.as_detached_tensor().copy().unwrap();
    let mut at = |sign: f64| {
        let moved = (&start + (&gradient * (sign * length)).unwrap()).unwrap();
        mask.set(&moved).unwrap();
        step(&mut method).0
    };
    let slope = (at(1.0) - at(-1.0)) / (2.0 * length) / (norm * norm);
    assert!((slope - 1.0).abs() < 0.02, "{slope}");
}
