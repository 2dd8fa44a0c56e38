//! The narrow network of a masked one computes the same; plain slicing does not.

use std::collections::{BTreeMap, HashMap};

use candle_core::{Device, Tensor};
use dcff_models::testing::{largest, logits, noise, trained};
use dcff_models::{Architecture, Constants, Network, by_name};

/// Filters that are on, about `share` of them, without structure; of the layers in `none` no one.
fn choose(architecture: &Architecture, share: f32, none: &[&str]) -> BTreeMap<String, Vec<bool>> {
    let shapes = architecture.shapes().unwrap();
    let masked = architecture.maskable().unwrap().into_iter();
    masked
        .map(|at| {
            let name = architecture.layers[at].name.clone();
            let width = shapes.output(at).channels;
            let mut on: Vec<bool> = noise(width, at)
                .iter()
                .map(|x| x / 2.0 + 0.5 < share)
                .collect();
            on[0] = true;
            if none.contains(&name.as_str()) {
                on.fill(false);
            }
            (name, on)
        })
        .collect()
}

/// `network` with the filters that are off 0.
fn masked(network: &Network, kept: &BTreeMap<String, Vec<bool>>) -> Network {
    let mut state: HashMap<String, Tensor> = network.state().unwrap().into_iter().collect();
    for (name, on) in kept {
        let weight = state.get_mut(&format!("{name}.weight")).unwrap();
        let mask: Vec<f32> = on.iter().map(|&on| f32::from(u8::from(on))).collect();
        let mask = Tensor::new(mask, &Device::Cpu).unwrap();
        *weight = weight
            .broadcast_mul(&mask.reshape((on.len(), 1, 1, 1)).unwrap())
            .unwrap();
    }
    let mut off = network.deep_copy().unwrap();
    off.load(&state).unwrap();
    off
}

/// The largest difference of the logits of the two, in units of the largest logit.
fn apart(a: &Network, b: &Network) -> f32 {
    let (a, b) = (logits(a).unwrap(), logits(b).unwrap());
    let size = largest(b.iter().copied());
    assert!(size > 0.0);
    largest(a.iter().zip(&b).map(|(a, b)| a - b)) / size
}

#[test]
fn the_narrow_network_computes_what_the_masked_one_does() {
    for (name, input, none) in [
        ("resnet20", [3, 32, 32], vec![]),
        (
            "resnet20",
            [3, 17, 12],
            vec!["layer1.1.conv1", "layer2.0.conv2", "layer3.0.conv1"],
        ),
        ("vgg16", [3, 32, 32], vec![]),
        ("googlenet", [3, 32, 32], vec!["a3.b2.0", "b4.b1.0"]),
        (
            "mobilenet-v2-cifar",
            [3, 32, 32],
            vec!["features.3.conv.0.0", "features.5.conv.2"],
        ),
        ("mobilenet-v1-cifar", [3, 32, 32], vec![]),
        (
            "densenet40",
            [3, 32, 32],
            vec!["dense1.3.conv1", "dense3.11.conv1"],
        ),
        ("resnet18", [3, 224, 224], vec!["layer2.0.conv1"]),
        (
            "resnet50",
            [3, 224, 224],
            vec!["layer2.1.conv2", "layer3.0.conv3"],
        ),
    ] {
        let architecture = by_name(name).unwrap().with_input(input);
        let network = trained(&architecture).unwrap();
        let kept = choose(&architecture, 0.5, &none);
        let off = masked(&network, &kept);
        let narrow = network.unmasked(&kept, Constants::Carried).unwrap();
        let difference = apart(&narrow, &off);
        assert!(difference <= 2e-5, "{name}: {difference}");
        let sliced = network.unmasked(&kept, Constants::Dropped).unwrap();
        let difference = apart(&sliced, &off);
        assert!(
            difference > 1e-3,
            "{name}: plain slicing differs by {difference} only"
        );
        let params = |network: &Network| {
            let tensors = network.parameters().iter();
            tensors
                .map(|p| p.shape.iter().product::<usize>())
                .sum::<usize>()
        };
        assert!(params(&narrow) < 3 * params(&network) / 4, "{name}");
    }
}

#[test]
fn a_network_whose_filters_are_all_on_is_itself() {
    let architecture = by_name("resnet20").unwrap();
    let network = trained(&architecture).unwrap();
    let kept = choose(&architecture, 2.0, &[]);
    let same = network.unmasked(&kept, Constants::Carried).unwrap();
    assert_eq!(same.compact(), &architecture);
    assert_eq!(logits(&same).unwrap(), logits(&network).unwrap());
}

#[test]
fn a_block_of_which_nothing_is_left_is_its_shortcut() {
    let architecture = by_name("resnet20").unwrap();
    let network = trained(&architecture).unwrap();
    let kept = choose(&architecture, 2.0, &["layer1.1.conv2"]);
    let narrow = network.unmasked(&kept, Constants::Carried).unwrap();
    let layers: Vec<&str> = narrow
        .compact()
        .layers
        .iter()
        .map(|layer| layer.name.as_str())
        .filter(|name| name.starts_with("layer1.1."))
        .collect();
    assert_eq!(layers, ["layer1.1.add", "layer1.1.relu2"]);
    assert!(apart(&narrow, &masked(&network, &kept)) <= 2e-5);
}

#[test]
fn a_chain_that_is_cut_is_refused() {
    let architecture = by_name("vgg16").unwrap();
    let network = trained(&architecture).unwrap();
    let kept = choose(&architecture, 0.5, &["features.7"]);
    let error = network.unmasked(&kept, Constants::Carried).unwrap_err();
    assert_eq!(
        error.to_string(),
        "vgg16: no filters are left on any way from the images to the logits"
    );
    let counts = |kept: &BTreeMap<String, Vec<bool>>| -> BTreeMap<String, u64> {
        let count = |on: &Vec<bool>| on.iter().filter(|&&on| on).count() as u64;
        kept.iter()
            .map(|(name, on)| (name.clone(), count(on)))
            .collect()
    };
    assert!(!architecture.is_connected(&counts(&kept)).unwrap());
    let resnet = by_name("resnet20").unwrap();
    let kept = choose(&resnet, 0.5, &["layer1.0.conv1", "layer3.2.conv2"]);
    assert!(resnet.is_connected(&counts(&kept)).unwrap());
    let unknown = BTreeMap::from([("layer9".to_owned(), vec![true])]);
    let error = network.unmasked(&unknown, Constants::Carried).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("layer9: expected a convolution"),
        "{error}"
    );
}
