//! Prepared networks give the logits of the networks they were made from.

use std::collections::HashMap;

use candle_core::{Device, Tensor};
use dcff_models::{
    Architecture, Builder, Conv, Groups, INPUT, InferenceNetwork, Initialisation, LayerKind, Mode,
    Network, Offset, ParameterKind, Scatter, View, Views,
};
use dcff_nn::{Activation, Isa};

/// Numbers in -1 to 1 that depend on nothing but their indices.
fn numbers(count: usize, seed: usize) -> Vec<f32> {
    (0..count)
        .map(|i| (((i + 977 * seed) as f32 * 0.618_034).fract() * 2.0 - 1.0) * 0.9)
        .collect()
}

fn images(input: [usize; 3], n: usize) -> Tensor {
    let [c, h, w] = input;
    let values = numbers(n * c * h * w, 5)
        .iter()
        .map(|x| 1.7 * x)
        .collect::<Vec<_>>();
    Tensor::from_vec(values, (n, c, h, w), &Device::Cpu).unwrap()
}

/// A network called `name` with the share `part` of its channels.
fn network(name: &str, part: f64) -> Network {
    let full = dcff_models::by_name(name).unwrap();
    let widths: Vec<usize> = full
        .widths()
        .iter()
        .map(|&width| ((width as f64 * part) as usize).max(1))
        .collect();
    trained(&full.narrowed(&widths).unwrap())
}

/// A network with statistics as after training: means and shifts of both signs, variances from 0.5 to 1.5.
fn trained(compact: &Architecture) -> Network {
    let mut network = Network::new(compact, compact, 3, &Device::Cpu).unwrap();
    let mut state: HashMap<String, Tensor> = network.state().unwrap().into_iter().collect();
    for (i, parameter) in network.parameters().iter().enumerate() {
        let values = |scale: f64, shift: f64| {
            let values = numbers(parameter.shape[0], i).into_iter();
            let values: Vec<f32> = values
                .map(|x| (f64::from(x) * scale + shift) as f32)
                .collect();
            Tensor::new(values, &Device::Cpu).unwrap()
        };
        let new = match parameter.kind {
            ParameterKind::RunningMean | ParameterKind::NormBias => values(0.3, 0.0),
            ParameterKind::RunningVar => values(0.5, 1.0),
            ParameterKind::NormWeight => values(0.3, 0.9),
            _ => continue,
        };
        state.insert(parameter.name.clone(), new);
    }
    network.load(&state).unwrap();
    network
}

fn vector(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

#[track_caller]
fn close(what: &str, got: &Tensor, expected: &Tensor, tolerance: f32) {
    assert_eq!(got.dims(), expected.dims(), "{what}");
    let (got, expected) = (vector(got), vector(expected));
    let size = expected.iter().fold(0f32, |a, x| a.max(x.abs()));
    assert!(size > 1e-3, "{what}: logits of {size} show nothing");
    for (got, expected) in got.iter().zip(&expected) {
        let error = (got - expected).abs() / size;
        assert!(
            error <= tolerance,
            "{what}: {got} instead of {expected}, {error:e} of the largest"
        );
    }
}

#[test]
fn every_network_gives_the_same_logits() {
    for entry in dcff_models::ALL {
        // These take large images: a slim one is quick enough.
        let (part, batches): (f64, &[usize]) = match entry.name {
            "resnet18" | "resnet50" => (0.12, &[1, 9]),
            _ => (0.6, &[1, 7, 16, 33]),
        };
        let network = network(entry.name, part);
        let prepared = InferenceNetwork::new(&network, &Views::dense()).unwrap();
        for &n in batches {
            let images = images(network.compact().input, n);
            Isa::each(|_| {
                let (expected, _) = network
                    .forward(&images, &Views::dense(), Mode::Eval)
                    .unwrap();
                let got = prepared.forward(&images).unwrap();
                close(&format!("{} of {n}", entry.name), &got, &expected, 1e-4);
            });
        }
    }
}

/// What few networks have: sums of two convolutions, a norm behind a pool, grouped and depthwise convolutions, maps side by
/// side inside others, images that a pool reads, channels put back among many, constants.
#[test]
fn other_wirings_give_the_same_logits() {
    Isa::each(|_| {
        let mut b = Builder::new("knot", [3, 9, 7], Initialisation::Uniform);
        let widths = [
            ("a", 20),
            ("b", 6),
            ("c", 18),
            ("d", 18),
            ("e", 5),
            ("f", 12),
        ];
        for (space, width) in widths {
            b.space(space, width);
        }
        let small = b.max_pool("small", [3, 1, 1], INPUT);
        let small = b.norm("norm", &small);
        let x = b.conv("a", "a", [3, 1, 1], true, &small);
        let x = b.relu("relu_a", &x);
        let y = b.conv("b", "b", [1, 1, 0], false, &x);
        let inner = b.layer("inner", LayerKind::Concat, &[&y, &small]);
        let x = b.layer("outer", LayerKind::Concat, &[&inner, &x, INPUT]);
        let left = b.conv("c", "c", [3, 1, 1], true, &x);
        let right = b.conv("d", "d", [5, 1, 2], true, &x);
        let x = b.layer("sum", LayerKind::Add, &[&left, &right]);
        let x = b.relu("relu_sum", &x);
        let grouped = |space: &str, groups: usize| {
            LayerKind::Conv(Conv {
                space: space.into(),
                kernel: 3,
                stride: 2,
                padding: 1,
                groups: Groups::Fixed(groups),
                bias: true,
                scored: true,
            })
        };
        let y = b.layer("f", grouped("f", 6), &[&x]);
        let y = b.norm("norm_f", &y);
        let z = b.conv("e", "e", [1, 2, 0], false, &x);
        let x = b.layer("both", LayerKind::Concat, &[&z, &y]);
        // What removed channels leave behind: constants at the border, few channels in a wide stream.
        let offset =
            |rows: [usize; 2], columns: [usize; 2]| LayerKind::Offset(Offset { rows, columns });
        let x = b.layer("constants", offset([1, 1], [1, 2]), &[&x]);
        b.space("stream", 40);
        let channels = (0..17).map(|i| 2 * i + i / 9).collect();
        let places = LayerKind::Scatter(Scatter {
            space: "stream".into(),
            channels,
        });
        let x = b.layer("places", places, &[&x]);
        let x = b.depthwise("apart", "stream", [3, 1, 1], &x);
        let y = b.norm("norm_apart", &x);
        let y = b.layer("shift", offset([0, 0], [0, 0]), &[&y]);
        let x = b.layer("stream_sum", LayerKind::Add, &[&y, &x]);
        let x = b.activation("relu6", Activation::Relu6, &x);
        b.linear("fc", 4, &x);
        let network = trained(&b.finish());
        let prepared = InferenceNetwork::new(&network, &Views::dense()).unwrap();
        for n in [1, 3, 18] {
            let images = images([3, 9, 7], n);
            let (expected, _) = network
                .forward(&images, &Views::dense(), Mode::Eval)
                .unwrap();
            close(
                &format!("{n}"),
                &prepared.forward(&images).unwrap(),
                &expected,
                1e-4,
            );
        }
    });
}

#[test]
fn it_sees_through_views_and_keeps_its_weights() {
    Isa::each(|_| {
        let full = dcff_models::by_name("resnet20").unwrap();
        let widths: Vec<usize> = full.widths().iter().map(|width| width / 2).collect();
        let compact = full.narrowed(&widths).unwrap();
        let mut network = Network::new(&full, &compact, 1, &Device::Cpu).unwrap();
        let mut views = Views::dense();
        for (layer, conv) in full.scored_convs() {
            let width = compact.space(&conv.space).unwrap().width;
            let ids: Vec<usize> = (0..width).map(|i| 2 * i).collect();
            views.insert(&layer.name, View::select(&ids, &Device::Cpu).unwrap());
        }
        let images = images(full.input, 2);
        let (expected, _) = network.forward(&images, &views, Mode::Eval).unwrap();
        let prepared = InferenceNetwork::new(&network, &views).unwrap();
        let zeros: HashMap<String, Tensor> = network
            .state()
            .unwrap()
            .into_iter()
            .map(|(name, t)| (name, t.zeros_like().unwrap()))
            .collect();
        network.load(&zeros).unwrap();
        close(
            "fused",
            &prepared.forward(&images).unwrap(),
            &expected,
            1e-4,
        );
    });
}

#[test]
fn it_says_what_size_of_images_it_takes() {
    let prepared = InferenceNetwork::new(&network("resnet20", 0.3), &Views::dense()).unwrap();
    let message = prepared
        .forward(&images([3, 16, 16], 1))
        .unwrap_err()
        .to_string();
    assert_eq!(
        message,
        "images: expected shape [3, 32, 32], got [3, 16, 16]"
    );
    let none = Tensor::zeros((0, 3, 32, 32), candle_core::DType::F32, &Device::Cpu).unwrap();
    let message = prepared.forward(&none).unwrap_err().to_string();
    assert!(message.contains("at least one image"), "{message}");
}
