//! Fused and compact networks agree, for every architecture, after real training steps.

use candle_core::{Device, Tensor};
use dcff_compact::{Artefact, Preprocessing};
use dcff_models::{Architecture, Mode, Network, Views};
use dcff_nn::{Isa, Precision};
use dcff_train::{
    Context, EpochStart, Group, MethodConfig, Optimizer, Recipe, cross_entropy_step, methods,
};

/// Images and labels that depend on nothing but their indices.
fn batch(architecture: &Architecture, n: usize) -> (Tensor, Tensor) {
    let [c, h, w] = architecture.input;
    let value = |i: usize| (i as f32 * 0.618_034).fract() * 2.0 - 1.0 + (i as f32 * 0.001).sin();
    let images = Tensor::from_vec(
        (0..n * c * h * w).map(value).collect::<Vec<_>>(),
        (n, c, h, w),
        &Device::Cpu,
    )
    .unwrap();
    let classes = architecture.shapes().unwrap().classes() as u32;
    let labels = Tensor::new(
        (0..n as u32).map(|i| i * 7 % classes).collect::<Vec<_>>(),
        &Device::Cpu,
    )
    .unwrap();
    (images, labels)
}

fn optimizer(network: &Network, recipe: &Recipe) -> Optimizer {
    Optimizer::new(network, &[], Group::all(network.parameters(), recipe)).unwrap()
}

fn check(name: &str, n: usize) {
    let mut full = dcff_models::by_name(name).unwrap();
    if full.input[1] == 224 {
        // So that the test stays quick.
        full = full.with_classes(16);
    }
    let toml = "name = \"dcff\"\ncriterion = \"kl\"\nkeep = \"fuse\"\ntemperature = \"fixed(30)\"\nrates = \"0.4\"\n";
    let config: MethodConfig = toml::from_str(toml).unwrap();
    let mut method = methods::build(&config, &Context::seeded(1)).unwrap();
    let plan = method.plan(&full, &Recipe::quick(2)).unwrap();
    let compact = plan.compact.unwrap();
    let mut network = Network::new(&full, &compact, 3, &Device::Cpu).unwrap();
    let recipe = Recipe::quick(2);
    let mut optimizer = optimizer(&network, &recipe);
    let (images, labels) = batch(&full, n);
    let mut views = Views::dense();
    for epoch in 0..2 {
        let start = EpochStart {
            epoch,
            epochs: 2,
            full: &full,
            network: &network,
            views: &views,
            probe: None,
        };
        views = method.epoch_start(&start).unwrap().views;
        let output = cross_entropy_step(&mut network, &views, &images, &labels, 0.0).unwrap();
        assert!(output.loss.read().unwrap().mean.is_finite());
        optimizer
            .step(&network, &output.gradients, recipe.rate(0, 0, 1))
            .unwrap();
    }
    // The statistics of two images are too few for a gradient to be compared, and these are large.
    if n > 2 {
        bf16_follows(name, &network, &views, &images, &labels);
    }

    let classes = full.shapes().unwrap().classes();
    let channels = full.input[0];
    let preprocessing = Preprocessing {
        input_size: full.input,
        mean: vec![0.5; channels],
        std: vec![0.25; channels],
        interpolation: "bilinear".into(),
        crop_pct: 1.0,
        num_classes: classes,
        label_names: (0..classes).map(|i| i.to_string()).collect(),
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("compact");
    Artefact::new(&network, &views, preprocessing, Default::default())
        .unwrap()
        .save(&path)
        .unwrap();
    let plain = Artefact::load(&path)
        .unwrap()
        .network(&Device::Cpu)
        .unwrap();
    assert_eq!(plain.compact(), &compact);

    let (fused, _) = network.forward(&images, &views, Mode::Eval).unwrap();
    let (reloaded, _) = plain.forward(&images, &Views::dense(), Mode::Eval).unwrap();
    let size = fused
        .abs()
        .unwrap()
        .max_all()
        .unwrap()
        .to_scalar::<f32>()
        .unwrap();
    let difference = (fused - reloaded)
        .unwrap()
        .abs()
        .unwrap()
        .max_all()
        .unwrap()
        .to_scalar::<f32>()
        .unwrap();
    assert!(
        difference <= 1e-5,
        "{name}: logits of up to {size} differ by {difference}"
    );
    assert!(size > 1e-3, "{name}: the logits are all but zero");
}

/// A step with maps of bfloat16 has nearly the loss of one in single precision and gradients for the same parameters, all
/// finite. That what is stored is rounded once and nothing else is, the tests of dcff-models show operation by
/// operation; how far that turns the gradient of all layers together is chance: with six images, a batch norm whose
/// channel hardly varies turns it twice as far with one order of summation as with another.
fn bf16_follows(name: &str, network: &Network, views: &Views, images: &Tensor, labels: &Tensor) {
    let step = |network: &Network| {
        let mut network = network.deep_copy().unwrap();
        let output = cross_entropy_step(&mut network, views, images, labels, 0.0).unwrap();
        let gradients = output.gradients;
        let finite = |i: usize| {
            let g = gradients.get(i)?.sqr().unwrap().sum_all().unwrap();
            Some(g.to_scalar::<f32>().unwrap().is_finite())
        };
        let finite: Vec<_> = (0..network.parameters().len()).map(finite).collect();
        (output.loss.read().unwrap().mean, finite)
    };
    let (loss, finite) = step(network);
    let mut half = network.deep_copy().unwrap();
    half.set_precision(Precision::Bf16);
    let (half_loss, half_finite) = step(&half);
    assert!(half_loss != loss, "{name}: nothing was stored as bfloat16");
    assert!(
        (half_loss - loss).abs() < 0.02 * loss,
        "{name}: loss {half_loss} for {loss}"
    );
    assert!(!finite.contains(&Some(false)), "{name}");
    assert_eq!(half_finite, finite, "{name}");

    // Evaluation is of single precision whatever the setting.
    let logits = |network: &Network| {
        let (logits, _) = network.forward(images, views, Mode::Eval).unwrap();
        logits.to_vec2::<f32>().unwrap()
    };
    assert_eq!(logits(&half), logits(network), "{name}");
}

macro_rules! architectures {
    ($($test:ident: $name:literal, $images:literal;)*) => {
        $(#[test] fn $test() {
            // Plain code is slow: as few images as batch norm can do with.
            Isa::each(|isa| check($name, if isa == Isa::Portable { 2 } else { $images }));
        })*

        #[test]
        fn no_architecture_is_left_out() {
            let tested = [$($name),*];
            assert!(dcff_models::ALL.iter().all(|entry| tested.contains(&entry.name)));
        }
    };
}

architectures! {
    vgg16: "vgg16", 6;
    resnet20: "resnet20", 6;
    resnet32: "resnet32", 6;
    resnet44: "resnet44", 6;
    resnet56: "resnet56", 6;
    resnet110: "resnet110", 6;
    googlenet: "googlenet", 6;
    densenet40: "densenet40", 6;
    resnet18: "resnet18", 2;
    resnet50: "resnet50", 2;
    mobilenet_v1: "mobilenet-v1", 2;
    mobilenet_v1_cifar: "mobilenet-v1-cifar", 6;
    mobilenet_v2: "mobilenet-v2", 2;
    mobilenet_v2_cifar: "mobilenet-v2-cifar", 6;
}

/// What is chosen in the middle of a run must not move with the run, whose steps change parameters in place.
#[test]
fn a_collapsed_network_stays_as_it_was() {
    let full = dcff_models::by_name("resnet20").unwrap();
    let mut network = Network::new(&full, &full, 3, &Device::Cpu).unwrap();
    let views = Views::dense();
    let (images, labels) = batch(&full, 4);
    let plain = network.collapse(&views).unwrap();
    let logits = |network: &Network| {
        let (logits, _) = network.forward(&images, &views, Mode::Eval).unwrap();
        logits.flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    let before = logits(&plain);
    let output = cross_entropy_step(&mut network, &views, &images, &labels, 0.0).unwrap();
    let recipe = Recipe::quick(2);
    optimizer(&network, &recipe)
        .step(&network, &output.gradients, recipe.rate(0, 0, 1))
        .unwrap();
    assert_eq!(logits(&plain), before);
    assert_ne!(logits(&network), before);
}

/// A copy must not train along: its tensors have memory of their own, running statistics included.
#[test]
fn a_deep_copy_stays_as_it_was() {
    let full = dcff_models::by_name("resnet20").unwrap();
    let mut network = Network::new(&full, &full, 3, &Device::Cpu).unwrap();
    let copy = network.deep_copy().unwrap();
    let numbers = |network: &Network| -> Vec<Vec<f32>> {
        let flat = |i: usize| network.tensor(i).flatten_all().unwrap().to_vec1().unwrap();
        (0..network.parameters().len()).map(flat).collect()
    };
    let before = numbers(&copy);
    assert_eq!(numbers(&network), before);
    let (images, labels) = batch(&full, 4);
    let views = Views::dense();
    let output = cross_entropy_step(&mut network, &views, &images, &labels, 0.0).unwrap();
    let mut optimizer = optimizer(&network, &Recipe::quick(2));
    optimizer
        .step(&network, &output.gradients, Recipe::quick(2).rate(0, 0, 1))
        .unwrap();
    assert_eq!(numbers(&copy), before);
    assert_eq!(copy.batches_tracked(), 0);
    let after = numbers(&network);
    let same = after.iter().zip(&before).filter(|(a, b)| a == b).count();
    assert_eq!(same, 0, "every tensor of the trained network moves");
}
