//! A step with maps of bfloat16 against the same step in single precision, operation by operation.
//!
//! How far rounding turns a whole network's gradient says little: a channel whose deviation is small beside its mean,
//! or a unit close to zero, makes two sums that differ in their last bit end up far apart, on one processor and not on
//! another. So both sides read the same numbers before every operation, those that bfloat16 stored, and what an
//! operation stores must be what it computes in single precision, rounded once. Then nothing is rounded on the way,
//! and nothing is left in single precision that should not be.

use candle_core::{Device, Tensor};
use dcff_nn::{Convolution, Features, Isa, Precision};

use super::{Program, join};
use crate::layers::Sweep;
use crate::testing::noise;
use crate::trace::{How, Saved, Trace, ViewGradients};
use crate::view::{View, Views};
use crate::weights::Weights;

/// A program over given weights and views, run in both precisions.
struct Pair<'a> {
    program: &'a Program,
    weights: &'a Weights,
    views: &'a Views,
    name: String,
}

/// A training pass that stores `precision`.
fn how(precision: Precision) -> How<'static> {
    How {
        precision,
        ..How::default()
    }
}

/// The numbers of `stored` as single precision.
fn widened(stored: &Features) -> Features {
    stored.to_precision(Precision::F32).unwrap()
}

fn bits(maps: &Features) -> Vec<u32> {
    let numbers = maps.to_nchw().unwrap().flatten_all().unwrap();
    let numbers = numbers.to_vec1::<f32>().unwrap().into_iter();
    numbers.map(f32::to_bits).collect()
}

impl Pair<'_> {
    #[track_caller]
    fn rounded_once(&self, what: &str, layer: usize, stored: &Features, computed: &Features) {
        assert_eq!(computed.precision(), Precision::F32);
        let expected = computed.to_precision(stored.precision()).unwrap();
        let (got, expected) = (bits(stored), bits(&expected));
        let differ = got.iter().zip(&expected).filter(|(a, b)| a != b).count();
        let layer = &self.program.architecture.layers[layer].name;
        assert!(
            differ == 0 && got.len() == expected.len(),
            "{}: {what} of {layer}: {differ} of {} numbers are not those of single precision, rounded once",
            self.name,
            got.len()
        );
    }

    /// Checks a training pass and its gradients.
    fn check(&self, images: &Tensor, labels: &Tensor) {
        let program = self.program;
        let image = Features::from_nchw(images).unwrap();
        let image = image.to_precision(Precision::Bf16).unwrap();
        let trace = |image: Features| Trace {
            image,
            values: vec![None; program.architecture.layers.len()],
            saved: Vec::new(),
            logits: images.clone(),
            profile: None,
            convolution: Convolution::default(),
        };
        let (mut half, mut wide) = (trace(image.clone()), trace(widened(&image)));
        let hows = [Precision::Bf16, Precision::F32].map(how);
        let [mut half_filters, mut wide_filters] =
            hows.map(|how| program.prepare(self.weights, self.views, &how).unwrap());
        let mut stored = 0;
        for (i, step) in program.steps.iter().enumerate() {
            let forward = |how: &How<'_>, trace: &Trace, filters| {
                let pass = program.step_forward(step, self.weights, trace, filters, how);
                pass.unwrap()
            };
            let (y, saved) = forward(&hows[0], &half, half_filters[i].take());
            let (computed, saved_wide) = forward(&hows[1], &wide, wide_filters[i].take());
            self.rounded_once("output", step.layer, &y, &computed);
            stored += usize::from(y.precision() == Precision::Bf16);
            wide.values[step.output] = Some(widened(&y));
            half.values[step.output] = Some(y);
            half.saved.push(saved);
            wide.saved.push(saved_wide);
        }
        // All but the logits.
        assert_eq!(stored, program.steps.len() - 1, "{}", self.name);
        self.check_backward(half, wide, labels);
    }

    fn check_backward(&self, mut half: Trace, mut wide: Trace, labels: &Tensor) {
        let steps = &self.program.steps;
        let last = steps.last().unwrap().output;
        let logits = dcff_nn::flatten(half.value(Some(last)).unwrap()).unwrap();
        let loss = dcff_nn::cross_entropy(&logits, labels, 0.0).unwrap();
        let (n, k) = logits.dims2().unwrap();
        let sweep = || Sweep {
            views: self.views,
            convolution: Convolution::default(),
            profile: None,
            parameters: Vec::new(),
            of_views: ViewGradients::default(),
        };
        let (mut of_half, mut of_wide) = (sweep(), sweep());
        let mut pending: Vec<Option<Features>> = vec![None; half.values.len()];
        pending[last] = Some(dcff_nn::unflatten(&loss.grad, (n, k, 1, 1)).unwrap());
        for (i, step) in steps.iter().enumerate().rev() {
            let gradient = pending[step.output].take().unwrap();
            let backward = |trace: &mut Trace, dy: Features, sweep: &mut Sweep<'_>| {
                let saved = std::mem::replace(&mut trace.saved[i], Saved::Nothing);
                let pass =
                    self.program
                        .step_backward(step, trace, saved, (dy, None), self.weights, sweep);
                pass.unwrap()
            };
            let dy = widened(&gradient);
            let inputs = backward(&mut half, gradient, &mut of_half);
            let computed = backward(&mut wide, dy, &mut of_wide);
            for (position, (dx, computed)) in inputs.into_iter().zip(computed).enumerate() {
                let (Some(dx), Some(computed)) = (dx, computed) else {
                    continue;
                };
                assert_eq!(dx.precision(), Precision::Bf16, "{}", self.name);
                self.rounded_once("input gradient", step.layer, &dx, &computed);
                if let Some(input) = step.inputs[position] {
                    join(&mut pending[input], dx).unwrap();
                }
            }
        }
        // Sums over the batch are never rounded.
        let numbers = |g: &Tensor| g.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for ((index, got), (_, expected)) in of_half.parameters.iter().zip(&of_wide.parameters) {
            let (got, expected) = (numbers(got), numbers(expected));
            let norm = |of: &mut dyn Iterator<Item = f32>| -> f64 {
                of.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt()
            };
            let off = norm(&mut got.iter().zip(&expected).map(|(a, b)| a - b));
            let size = norm(&mut expected.iter().copied());
            assert!(
                off <= 1e-5 * size,
                "{}: the gradient of {} is off by {off:e} of {size:e}",
                self.name,
                self.program.parameters[*index].name
            );
        }
    }
}

/// Every second layer mixes its filters, the others select.
fn views(full: &crate::Architecture, compact: &crate::Architecture) -> Views {
    let of = |(i, (layer, conv)): (usize, (&crate::Layer, &crate::Conv))| {
        let (all, kept) = (full.width(&conv.space), compact.width(&conv.space));
        let view = if i % 2 == 0 {
            let p = noise(kept * all, i).into_iter().map(|p| p / all as f32);
            let mut p: Vec<f32> = p.collect();
            (0..kept).for_each(|row| p[row * all + row] += 0.5);
            View::Mix(Tensor::from_vec(p, (kept, all), &Device::Cpu).unwrap())
        } else {
            View::select(&(all - kept..all).collect::<Vec<_>>(), &Device::Cpu).unwrap()
        };
        (layer.name.clone(), view)
    };
    compact.scored_convs().enumerate().map(of).collect()
}

#[test]
fn a_step_of_bfloat16_rounds_what_it_stores_once_and_nothing_else() {
    for name in ["vgg16", "resnet20", "googlenet"] {
        let full = crate::by_name(name).unwrap();
        let half_as_wide: Vec<usize> = full.widths().iter().map(|w| w.div_ceil(2)).collect();
        let compact = full.narrowed(&half_as_wide).unwrap();
        let views = views(&full, &compact);
        let weights = Weights::new(&full, &compact, 3, &Device::Cpu).unwrap();
        let program = Program::new(&compact, &weights).unwrap();
        let n = 5;
        let images = Tensor::from_vec(noise(n * 3 * 1024, 1), (n, 3, 32, 32), &Device::Cpu);
        let labels = Tensor::new((0..n as u32).collect::<Vec<_>>(), &Device::Cpu).unwrap();
        Isa::each(|isa| {
            let pair = Pair {
                program: &program,
                weights: &weights,
                views: &views,
                name: format!("{name} with {isa:?}"),
            };
            pair.check(images.as_ref().unwrap(), &labels);
        });
    }
}
