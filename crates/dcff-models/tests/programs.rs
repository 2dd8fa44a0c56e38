//! Several programs over the same weights: leading parts, masks, losses in the middle of a network.

use std::collections::HashMap;

use candle_core::{Device, Tensor};
use dcff_models::testing::noise;
use dcff_models::{
    Architecture, Blend, Builder, Gradients, How, INPUT, Initialisation, LayerKind, Mode, Network,
    Offset, ParameterKind, Program, Scatter, Seeds, Trace, View, Views, Weights, by_name,
};
use dcff_nn::{Activation, Features, Isa, Precision};

fn numbers(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

/// Weights with scales, shifts and statistics that are not those of the start.
fn weights(architecture: &Architecture) -> Weights {
    let mut weights = Weights::new(architecture, architecture, 9, &Device::Cpu).unwrap();
    let mut state: HashMap<String, Tensor> = weights.state().unwrap().into_iter().collect();
    for (seed, parameter) in weights.parameters().iter().enumerate() {
        let (centre, spread) = match parameter.kind {
            ParameterKind::NormWeight => (1.0, 0.5),
            ParameterKind::NormBias | ParameterKind::RunningMean => (0.2, 0.3),
            ParameterKind::RunningVar => (1.0, 0.4),
            _ => continue,
        };
        let values = noise(parameter.shape[0], seed);
        let values: Vec<f32> = values.iter().map(|x| centre + spread * x).collect();
        let values = Tensor::new(values, &Device::Cpu).unwrap();
        state.insert(parameter.name.clone(), values);
    }
    weights.load(&state).unwrap();
    weights
}

fn images(batch: usize, input: [usize; 3], seed: usize) -> Tensor {
    let [c, h, w] = input;
    let count = batch * c * h * w;
    Tensor::from_vec(noise(count, seed), (batch, c, h, w), &Device::Cpu).unwrap()
}

fn labels(batch: usize, classes: usize) -> Tensor {
    let labels: Vec<u32> = (0..batch).map(|i| (i * 7 % classes) as u32).collect();
    Tensor::new(labels, &Device::Cpu).unwrap()
}

fn shares(architecture: &Architecture, share: f64) -> Architecture {
    let width = |w: &usize| ((*w as f64 * share) as usize).max(1);
    let widths: Vec<usize> = architecture.widths().iter().map(width).collect();
    architecture.narrowed(&widths).unwrap()
}

/// A training step of `program` without the optimiser's.
fn pass(
    program: &Program,
    weights: &mut Weights,
    views: &Views,
    images: &Tensor,
    gradients: &mut Gradients,
) -> Tensor {
    let how = How::from(Mode::Train);
    let trace = program.forward(weights, views, images, &how).unwrap();
    let logits = trace.logits().clone();
    let (batch, classes) = logits.dims2().unwrap();
    let loss = dcff_nn::cross_entropy(&logits, &labels(batch, classes), 0.0).unwrap();
    program
        .update_statistics(weights, &trace, Blend::Momentum)
        .unwrap();
    program
        .backward(weights, views, trace, loss.grad.into(), gradients)
        .unwrap();
    logits
}

/// The leading block of `tensor`, by hand.
fn block(tensor: &Tensor, shape: &[usize]) -> Vec<f32> {
    let values = numbers(tensor);
    let dims = tensor.dims();
    let count: usize = shape.iter().product();
    let at = |mut i: usize| {
        let mut place = 0;
        let mut stride: usize = dims.iter().product();
        let mut block: usize = count;
        for (d, s) in dims.iter().zip(shape) {
            stride /= d;
            block /= s;
            place += i / block * stride;
            i %= block;
        }
        values[place]
    };
    (0..count).map(at).collect()
}

/// How many numbers of `tensor` outside its leading block fail `holds(index)`.
fn outside(tensor: &Tensor, shape: &[usize], holds: impl Fn(usize) -> bool) -> usize {
    let dims = tensor.dims();
    let inside = |mut i: usize| {
        let mut stride: usize = dims.iter().product();
        dims.iter().zip(shape).all(|(d, s)| {
            stride /= d;
            let at = i / stride;
            i %= stride;
            at < *s
        })
    };
    let count: usize = dims.iter().product();
    (0..count).filter(|&i| !inside(i) && !holds(i)).count()
}

/// The plain narrow network whose tensors are the leading blocks of `weights`.
fn extracted(weights: &Weights, narrow: &Architecture) -> Network {
    let mut network = Network::new(narrow, narrow, 0, &Device::Cpu).unwrap();
    let state = network.parameters().iter().map(|parameter| {
        let wide = weights.get(&parameter.name).unwrap();
        let values = block(wide, &parameter.shape);
        let values = Tensor::from_vec(values, parameter.shape.as_slice(), &Device::Cpu).unwrap();
        (parameter.name.clone(), values)
    });
    let state: HashMap<_, _> = state.collect();
    network.load(&state).unwrap();
    network
}

fn largest(values: impl Iterator<Item = f32>) -> f32 {
    values.fold(0.0, |largest, value| largest.max(value.abs()))
}

fn close(what: &str, got: &[f32], expected: &[f32]) {
    assert_eq!(got.len(), expected.len(), "{what}");
    let size = largest(expected.iter().copied()).max(1e-3);
    let error = largest(got.iter().zip(expected).map(|(a, b)| a - b));
    assert!(error <= 1e-6 * size, "{what}: off by {error} of {size}");
}

#[test]
fn leading_parts_are_the_extracted_network() {
    Isa::each(|_| leading_parts());
}

fn leading_parts() {
    for (name, share, batch) in [
        ("resnet20", 0.5, 4),
        ("vgg16", 0.5, 3),
        ("resnet20", 0.75, 2),
    ] {
        let full = by_name(name).unwrap();
        let narrow = shares(&full, share);
        let mut weights = weights(&full);
        let before = weights.deep_copy().unwrap();
        let program = Program::new(&narrow, &weights).unwrap();
        let mut plain = extracted(&weights, &narrow);
        let (images, views) = (images(batch, full.input, 3), Views::dense());

        let how = How::from(Mode::Eval);
        let evaluated = program.forward(&weights, &views, &images, &how).unwrap();
        let (expected, _) = plain.forward(&images, &views, Mode::Eval).unwrap();
        close(name, &numbers(evaluated.logits()), &numbers(&expected));

        let mut gradients = Gradients::new(weights.parameters());
        let logits = pass(&program, &mut weights, &views, &images, &mut gradients);
        let (expected, trace) = plain.forward(&images, &views, Mode::Train).unwrap();
        close(name, &numbers(&logits), &numbers(&expected));
        let (batch, classes) = expected.dims2().unwrap();
        let loss = dcff_nn::cross_entropy(&expected, &labels(batch, classes), 0.0).unwrap();
        plain.update_statistics(&trace).unwrap();
        let expected = plain.backward(trace, &views, &loss.grad).unwrap();
        for (i, parameter) in plain.parameters().iter().enumerate() {
            let (what, shape) = (&parameter.name, &parameter.shape);
            let (now, was) = (weights.tensor(i), numbers(before.tensor(i)));
            if let Some(expected) = expected.get(i) {
                let gradient = gradients.get(i).unwrap();
                assert_eq!(gradient.dims(), weights.parameters()[i].shape, "{what}");
                close(what, &block(gradient, shape), &numbers(expected));
                let values = numbers(gradient);
                let zero = |i: usize| values[i].to_bits() == 0;
                assert_eq!(outside(gradient, shape, zero), 0, "{what}");
                assert_eq!(numbers(now), was, "{what}");
            } else {
                close(what, &block(now, shape), &numbers(plain.tensor(i)));
                assert_ne!(block(now, shape), was[..shape[0]], "{what} moves");
                let values = numbers(now);
                let same = |i: usize| values[i].to_bits() == was[i].to_bits();
                assert_eq!(outside(now, shape, same), 0, "{what}");
            }
        }
        // The same by the program's own means.
        let again = program.extract(&weights, &views).unwrap();
        for i in 0..plain.parameters().len() {
            close(name, &numbers(again.tensor(i)), &numbers(plain.tensor(i)));
        }
        assert_eq!(again.batches_tracked(), 1);
    }
}

#[test]
fn passes_add_their_gradients() {
    Isa::each(|_| passes());
}

fn passes() {
    let full = by_name("resnet20").unwrap();
    let weights = weights(&full);
    let images = images(3, full.input, 3);
    let programs: Vec<Program> = [1.0, 0.75, 0.5]
        .iter()
        .map(|&share| Program::new(&shares(&full, share), &weights).unwrap())
        .collect();
    let views = Views::dense();
    let run = |program: &Program, gradients: &mut Gradients| {
        let mut weights = weights.deep_copy().unwrap();
        pass(program, &mut weights, &views, &images, gradients);
    };
    // The narrow ones first, so that a full gradient joins a padded one as well.
    let mut all = Gradients::new(weights.parameters());
    programs.iter().rev().for_each(|p| run(p, &mut all));
    let alone: Vec<Gradients> = programs
        .iter()
        .map(|program| {
            let mut gradients = Gradients::new(weights.parameters());
            run(program, &mut gradients);
            gradients
        })
        .collect();
    for (i, parameter) in weights.parameters().iter().enumerate() {
        let Some(sum) = all.get(i) else {
            assert!(!parameter.kind.is_trained(), "{}", parameter.name);
            continue;
        };
        let of = |g: &Gradients| numbers(g.get(i).unwrap());
        let parts: Vec<Vec<f32>> = alone.iter().map(of).collect();
        let expected: Vec<f32> = (0..parts[0].len())
            .map(|j| parts.iter().map(|part| part[j]).sum())
            .collect();
        close(&parameter.name, &numbers(sum), &expected);
    }
}

#[test]
fn another_input_size_is_another_program() {
    let full = by_name("resnet20").unwrap();
    let weights = weights(&full);
    for (side, share) in [(24, 1.0), (40, 0.75)] {
        let narrow = shares(&full, share).with_input([3, side, side]);
        let program = Program::new(&narrow, &weights).unwrap();
        let images = images(2, narrow.input, 5);
        let (how, views) = (How::from(Mode::Eval), Views::dense());
        let trace = program.forward(&weights, &views, &images, &how).unwrap();
        let plain = extracted(&weights, &narrow);
        let (expected, _) = plain.forward(&images, &views, Mode::Eval).unwrap();
        close("logits", &numbers(trace.logits()), &numbers(&expected));
    }
}

/// A convolution, a residual block, a norm without activation, a linear layer.
fn tiny() -> Architecture {
    with_block(|_, x| x)
}

/// As [`tiny`], with a depthwise convolution, constants and channels put among many before the last convolution.
fn more_kinds() -> Architecture {
    with_block(|b, x| {
        let x = b.depthwise("apart", "stream", [3, 1, 1], &x);
        let x = b.norm("bn_apart", &x);
        let x = b.activation("relu6", Activation::Relu6, &x);
        let constants = Offset {
            rows: [1, 1],
            columns: [1, 1],
        };
        let x = b.layer("constants", LayerKind::Offset(constants), &[&x]);
        b.space("wide", 7);
        let places = Scatter {
            space: "wide".into(),
            channels: vec![0, 2, 3, 6],
        };
        b.layer("places", LayerKind::Scatter(places), &[&x])
    })
}

fn with_block(more: impl FnOnce(&mut Builder, String) -> String) -> Architecture {
    let mut b = Builder::new("tiny", [2, 6, 6], Initialisation::KaimingNormalFanIn);
    b.space("stream", 4);
    b.space("inner", 3);
    let x = b.conv("conv1", "stream", [3, 1, 1], false, INPUT);
    let x = b.norm("bn1", &x);
    let x = b.relu("relu1", &x);
    let y = b.conv("conv2", "inner", [3, 1, 1], true, &x);
    let y = b.norm("bn2", &y);
    let y = b.relu("relu2", &y);
    let y = b.conv("conv3", "stream", [1, 1, 0], false, &y);
    let y = b.norm("bn3", &y);
    let x = b.layer("add", LayerKind::Add, &[&y, &x]);
    let x = b.relu("relu3", &x);
    let x = more(&mut b, x);
    let x = b.conv("conv4", "inner", [3, 2, 1], true, &x);
    let x = b.norm("bn4", &x);
    let x = b.layer("pool", LayerKind::GlobalAvgPool, &[&x]);
    b.linear("fc", 3, &x);
    b.finish()
}

const BATCH: usize = 5;

/// Masks of all convolutions, one filter off.
fn masks() -> Vec<(&'static str, Vec<f32>)> {
    vec![
        ("conv1", vec![0.7, 1.2, 0.0, 0.9]),
        ("conv2", vec![0.5, 0.8, 1.1]),
        ("conv3", vec![1.0, 0.3, 0.6, 0.9]),
        ("conv4", vec![0.4, 1.3, 0.8]),
    ]
}

fn masked(masks: &[(&'static str, Vec<f32>)]) -> Views {
    let view = |m: &Vec<f32>| View::Mask(Tensor::new(m.clone(), &Device::Cpu).unwrap());
    let named = masks
        .iter()
        .map(|(layer, m)| ((*layer).to_owned(), view(m)));
    named.collect()
}

/// A loss at the logits and one at the outputs of two layers: `Σ c y` with fixed `c`.
fn loss(trace: &Trace, taps: &[usize]) -> (f64, Seeds) {
    let logits = trace.logits();
    let loss = dcff_nn::cross_entropy(logits, &labels(BATCH, 3), 0.0).unwrap();
    let mut seeds = Seeds::from(loss.grad);
    let mut sum = loss.value.read().unwrap().mean;
    for &tap in taps {
        let maps = trace.output(tap).unwrap().to_nchw().unwrap();
        let factors: Vec<f32> = noise(maps.elem_count(), tap)
            .iter()
            .map(|f| f / 8.0)
            .collect();
        let products = factors.iter().zip(numbers(&maps));
        sum += products
            .map(|(c, y)| f64::from(*c) * f64::from(y))
            .sum::<f64>();
        let factors = Tensor::from_vec(factors, maps.shape(), &Device::Cpu).unwrap();
        seeds
            .taps
            .push((tap, Features::from_nchw(&factors).unwrap()));
    }
    (sum, seeds)
}

#[test]
fn masks_and_taps_have_the_gradients_of_finite_differences() {
    Isa::each(|_| {
        masks_and_taps(&tiny());
        masks_and_taps(&more_kinds());
    });
}

fn masks_and_taps(architecture: &Architecture) {
    let weights = weights(architecture);
    let program = Program::new(architecture, &weights).unwrap();
    let images = images(BATCH, architecture.input, 1);
    let taps = ["relu1", "relu3"].map(|name| architecture.position(name).unwrap());
    let how = |mode: Mode| How {
        taps: &taps,
        ..How::from(mode)
    };
    let evaluate = |weights: &Weights, masks: &[(&'static str, Vec<f32>)]| {
        let views = masked(masks);
        let trace = program.forward(weights, &views, &images, &how(Mode::Eval));
        loss(&trace.unwrap(), &taps).0
    };
    let views = masked(&masks());
    let trace = program
        .forward(&weights, &views, &images, &how(Mode::Frozen))
        .unwrap();
    let (value, seeds) = loss(&trace, &taps);
    assert_eq!(
        value,
        evaluate(&weights, &masks()),
        "taps are kept in evaluation"
    );
    let mut gradients = Gradients::new(weights.parameters());
    let of_views = program
        .backward(&weights, &views, trace, seeds, &mut gradients)
        .unwrap();
    // Small, since units change sides; the sums of taps are in double precision.
    let step = 5e-4f32;
    let agree = |what: &str, slope: f64, difference: f64| {
        let measured = difference / (2.0 * f64::from(step));
        let allowed = 3e-3 + 0.02 * measured.abs();
        assert!(
            (slope - measured).abs() <= allowed,
            "{what}: {slope}, measured {measured}"
        );
    };
    let mut seen = 0;
    for (i, (layer, m)) in masks().iter().enumerate() {
        let gradient = numbers(of_views.get(layer).unwrap());
        assert_eq!(gradient.len(), m.len());
        for (c, slope) in gradient.iter().enumerate() {
            let moved = |by: f32| {
                let mut masks = masks();
                masks[i].1[c] += by;
                evaluate(&weights, &masks)
            };
            agree(
                &format!("{layer} mask {c}"),
                f64::from(*slope),
                moved(step) - moved(-step),
            );
            seen += usize::from(slope.abs() > 0.05);
        }
    }
    let all: usize = masks().iter().map(|(_, m)| m.len()).sum();
    assert!(2 * seen >= all, "half of the {all} masks matter, {seen} do");
    for (i, parameter) in weights.parameters().iter().enumerate() {
        let Some(gradient) = gradients.get(i).map(numbers) else {
            continue;
        };
        let direction = noise(gradient.len(), 7);
        let slope = gradient.iter().zip(&direction);
        let slope = slope.map(|(g, d)| f64::from(*g) * f64::from(*d)).sum();
        let moved = |by: f32| {
            let mut moved = weights.deep_copy().unwrap();
            let mut state: HashMap<_, _> = weights.state().unwrap().into_iter().collect();
            let values = numbers(weights.tensor(i));
            let values = values.iter().zip(&direction).map(|(x, d)| x + by * d);
            let values = Tensor::from_vec(values.collect(), &parameter.shape[..], &Device::Cpu);
            state.insert(parameter.name.clone(), values.unwrap());
            moved.load(&state).unwrap();
            evaluate(&moved, &masks())
        };
        agree(&parameter.name, slope, moved(step) - moved(-step));
    }
}

/// A sweep that starts at a tap only leaves what lies behind it without a gradient, and works in the precision of the pass.
#[test]
fn a_sweep_may_start_in_the_middle() {
    Isa::each(|_| starts());
}

fn starts() {
    let architecture = tiny();
    let weights = weights(&architecture);
    let program = Program::new(&architecture, &weights).unwrap();
    let images = images(BATCH, architecture.input, 1);
    let tap = architecture.position("relu1").unwrap();
    let run = |precision: Precision| {
        let how = How {
            precision,
            taps: &[tap],
            ..How::from(Mode::Train)
        };
        let views = Views::dense();
        let trace = program.forward(&weights, &views, &images, &how).unwrap();
        let (_, seeds) = loss(&trace, &[tap]);
        let seeds = Seeds {
            logits: None,
            taps: seeds.taps,
        };
        let mut gradients = Gradients::new(weights.parameters());
        program
            .backward(&weights, &views, trace, seeds, &mut gradients)
            .unwrap();
        gradients
    };
    let (single, half) = (run(Precision::F32), run(Precision::Bf16));
    let mut rounded = false;
    for (i, parameter) in weights.parameters().iter().enumerate() {
        let before = ["conv1.weight", "bn1.weight", "bn1.bias"].contains(&parameter.name.as_str());
        assert_eq!(single.get(i).is_some(), before, "{}", parameter.name);
        if before {
            let (a, b) = (
                numbers(single.get(i).unwrap()),
                numbers(half.get(i).unwrap()),
            );
            let size = largest(a.iter().copied());
            let error = largest(a.iter().zip(&b).map(|(a, b)| a - b));
            rounded |= error > 0.0;
            assert!(error < 0.05 * size, "{}: {error} of {size}", parameter.name);
        }
    }
    assert!(rounded, "the second sweep is of bfloat16");
}

#[test]
fn statistics_can_be_the_mean_over_batches() {
    let full = by_name("resnet20").unwrap();
    let mut weights = weights(&full);
    let narrow = shares(&full, 0.5);
    let program = Program::new(&narrow, &weights).unwrap();
    let (how, views) = (How::from(Mode::Train), Views::dense());
    // Of the first batch norm: mean and unbiased variance of each batch, from the maps themselves.
    let conv = full.position("conv1").unwrap();
    let mut sums = [vec![0f64; 8], vec![0f64; 8]];
    let untouched = numbers(weights.get("bn1.running_mean").unwrap())[8..].to_vec();
    for batch in 0..3 {
        let images = images(4, full.input, batch + 1);
        let trace = program.forward(&weights, &views, &images, &how).unwrap();
        let maps = trace.output(conv).unwrap().to_nchw().unwrap();
        let (n, c, h, w) = maps.dims4().unwrap();
        let (maps, count) = (numbers(&maps), n * h * w);
        for channel in 0..c {
            let of = |i: usize| f64::from(maps[(i / (h * w) * c + channel) * h * w + i % (h * w)]);
            let mean = (0..count).map(of).sum::<f64>() / count as f64;
            let squares: f64 = (0..count).map(|i| (of(i) - mean).powi(2)).sum();
            sums[0][channel] += mean / 3.0;
            sums[1][channel] += squares / (count - 1) as f64 / 3.0;
        }
        program
            .update_statistics(&mut weights, &trace, Blend::Off)
            .unwrap();
        assert_eq!(weights.batches_tracked(), batch as i64);
        program
            .update_statistics(&mut weights, &trace, Blend::Cumulative(batch as u64))
            .unwrap();
    }
    for (name, sums) in ["bn1.running_mean", "bn1.running_var"].iter().zip(&sums) {
        let got = numbers(weights.get(name).unwrap());
        for (got, expected) in got.iter().zip(sums) {
            let error = (f64::from(*got) - expected).abs();
            assert!(error < 1e-5, "{name}: {got}, expected {expected}");
        }
    }
    let mean = numbers(weights.get("bn1.running_mean").unwrap());
    assert_eq!(mean[8..], untouched);
}

#[test]
fn says_what_has_no_leading_part() {
    let refused = |architecture: &Architecture, weights: &Weights| {
        Program::new(architecture, weights).unwrap_err().to_string()
    };
    // Maps side by side: what is kept of the second part is not what stands first.
    let full = by_name("googlenet").unwrap();
    let wide = Weights::new(&full, &full, 1, &Device::Cpu).unwrap();
    assert!(Program::new(&full, &wide).is_ok());
    let text = refused(&shares(&full, 0.5), &wide);
    assert!(
        text.starts_with("b3.b1.0: reads 128 of 256 channels that lie side by side"),
        "{text}"
    );
    // A fused network is as narrow as its program, whatever lies side by side.
    let narrow = shares(&full, 0.5);
    let fused = Weights::new(&full, &narrow, 1, &Device::Cpu).unwrap();
    assert!(Program::new(&narrow, &fused).is_ok());

    let mut b = Builder::new("pixels", [2, 6, 6], Initialisation::Uniform);
    b.space("a", 4);
    let x = b.conv("conv", "a", [3, 1, 1], true, INPUT);
    b.linear("fc", 3, &x);
    let full = b.finish();
    let wide = Weights::new(&full, &full, 1, &Device::Cpu).unwrap();
    assert!(Program::new(&shares(&full, 0.5), &wide).is_ok());
    assert_eq!(
        refused(&full.clone().with_input([2, 8, 8]), &wide),
        "fc: expected maps of 6 x 6, as its weights are for, got 8 x 8"
    );
    assert_eq!(
        refused(&by_name("resnet20").unwrap(), &wide),
        "resnet20: expected the layers and input channels of the weights' architecture"
    );
    let other = Weights::new(&full, &shares(&full, 0.5), 1, &Device::Cpu).unwrap();
    let program = Program::new(&shares(&full, 0.5), &other).unwrap();
    let images = images(2, full.input, 1);
    let how = How::from(Mode::Eval);
    let error = program.forward(&wide, &Views::dense(), &images, &how);
    assert_eq!(
        error.unwrap_err().to_string(),
        "pixels: expected the weights that the program was compiled for"
    );
}

#[test]
fn says_what_cannot_be_tapped() {
    let architecture = tiny();
    let weights = weights(&architecture);
    let program = Program::new(&architecture, &weights).unwrap();
    let images = images(BATCH, architecture.input, 1);
    let tapped = |tap: usize| {
        let how = How {
            taps: &[tap],
            ..How::from(Mode::Eval)
        };
        let views = Views::dense();
        let trace = program.forward(&weights, &views, &images, &how);
        trace.map(drop).map_err(|error| error.to_string())
    };
    // Computed together with the activation behind it.
    let joined = architecture.position("bn1").unwrap();
    let text = tapped(joined).unwrap_err();
    assert!(
        text.starts_with("bn1: expected a layer with an output of its own"),
        "{text}"
    );
    assert_eq!(
        tapped(99).unwrap_err(),
        "tiny: expected a layer below 14, got 99"
    );
    assert!(tapped(joined + 1).is_ok());

    let how = How::from(Mode::Train);
    let views = Views::dense();
    let trace = program.forward(&weights, &views, &images, &how).unwrap();
    let zeros = Tensor::zeros((BATCH, 3, 6, 6), candle_core::DType::F32, &Device::Cpu).unwrap();
    let seeds = Seeds {
        logits: None,
        taps: vec![(joined + 1, Features::from_nchw(&zeros).unwrap())],
    };
    let mut gradients = Gradients::new(weights.parameters());
    let error = program.backward(&weights, &views, trace, seeds, &mut gradients);
    assert_eq!(
        error.unwrap_err().to_string(),
        "the gradient of relu1: expected shape [5, 4, 6, 6], got [5, 3, 6, 6]"
    );
}
