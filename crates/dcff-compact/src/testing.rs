//! Small networks for this crate's tests.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use dcff_models::testing::trained;
use dcff_models::{Architecture, Mode, Views, by_name};

use crate::{Artefact, Preprocessing};

/// Narrow networks of three families, whose batch norms are not the identity. The first is a ResNet-20 whose second stage is
/// narrower than its first, and whose third is wider than its second.
pub(crate) fn networks() -> Vec<Artefact> {
    ["resnet20", "googlenet", "vgg16"]
        .iter()
        .map(|name| {
            let full = by_name(name).unwrap();
            let widths = full.spaces.iter().map(|space| match space.name.as_str() {
                "layer1" => 11,
                "layer2" => 6,
                "layer3" => 9,
                _ => 1 + space.width / 16,
            });
            let widths: Vec<usize> = widths.collect();
            artefact(&full.narrowed(&widths).unwrap())
        })
        .collect()
}

fn artefact(architecture: &Architecture) -> Artefact {
    let network = trained(architecture).unwrap();
    let preprocessing = Preprocessing {
        input_size: architecture.input,
        mean: vec![0.5; 3],
        std: vec![0.25; 3],
        interpolation: "bilinear".into(),
        crop_pct: 1.0,
        num_classes: 10,
        label_names: (0..10).map(|i| format!("class \"{i}\"")).collect(),
    };
    Artefact::new(&network, &Views::dense(), preprocessing, BTreeMap::new()).unwrap()
}

/// The logits of `batch` images of waves.
pub(crate) fn logits(artefact: &Artefact, batch: usize) -> Vec<f32> {
    let [c, h, w] = artefact.config.architecture.input;
    let pixels: Vec<f32> = (0..batch * c * h * w)
        .map(|i| (i as f32 * 0.37).sin() + (i as f32 * 0.011).cos())
        .collect();
    let images = Tensor::from_vec(pixels, (batch, c, h, w), &Device::Cpu).unwrap();
    let network = artefact.network(&Device::Cpu).unwrap();
    let (logits, _) = network
        .forward(&images, &Views::dense(), Mode::Eval)
        .unwrap();
    logits.flatten_all().unwrap().to_vec1().unwrap()
}

/// The largest difference, relative to the largest number of `a`.
pub(crate) fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let scale = a.iter().fold(0f32, |m, v| m.max(v.abs()));
    let worst = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    worst.fold(0f32, f32::max) / scale
}
