//! Feature maps stored as bfloat16 against the same operations in single precision.
//!
//! Inputs are rounded first, so both sides start from the same numbers and compute the same way; an
//! operation then rounds what it stores once. Rounding to nearest moves a number by at most 2^-9 of
//! itself; [`BOUND`] allows twice that, for a sum whose last bits differ.

mod common;

use candle_core::Tensor;
use common::*;
use dcff_nn::{
    Activation, BatchStatistics, Features, Isa, NormGrads, PoolConfig, Precision, accumulate,
    activation, activation_backward, add, avg_pool2d, avg_pool2d_backward, batch_norm,
    batch_norm_backward, batch_norm_inference, concat, conv2d, conv2d_backward, flatten,
    global_avg_pool, global_avg_pool_backward, max_pool2d, max_pool2d_backward, shortcut,
    shortcut_backward, split_channels,
};

/// Of the number itself.
const BOUND: f64 = 1.0 / 256.0;
/// Of the root mean square, for numbers near zero in which sums of rounded terms cancel, and where
/// single precision adds in another order. Smaller than rounding to bfloat16 by far.
const SINGLE: f64 = 2e-5;

fn bf16(x: &Features) -> Features {
    x.to_precision(Precision::Bf16).unwrap()
}

/// Random maps in both precisions, the same numbers.
fn pair(random: &mut Random, dims: [usize; 4]) -> (Features, Features) {
    let half = bf16(&features(&random.numbers(product(&dims)), dims));
    (half.to_precision(Precision::F32).unwrap(), half)
}

#[track_caller]
fn within(what: &str, got: &[f32], expected: &[f32]) {
    assert_eq!(got.len(), expected.len());
    let square: f64 = expected.iter().map(|&e| f64::from(e).powi(2)).sum();
    let scale = (square / expected.len() as f64).sqrt();
    for (i, (&got, &expected)) in got.iter().zip(expected).enumerate() {
        let error = f64::from(got - expected).abs();
        let allowed = BOUND * f64::from(expected).abs() + SINGLE * scale;
        assert!(
            error <= allowed,
            "{what}: {got} for {expected} at {i} with {:?}",
            Isa::current()
        );
    }
}

#[track_caller]
fn stored(what: &str, got: &Features, expected: &Features) {
    assert_eq!(got.precision(), Precision::Bf16, "{what}");
    assert_eq!(expected.precision(), Precision::F32, "{what}");
    within(what, &maps(got), &maps(expected));
}

#[track_caller]
fn summed(what: &str, got: &Tensor, expected: &Tensor) {
    let expected: Vec<f64> = numbers(expected).into_iter().map(f64::from).collect();
    close(what, &numbers(got), &expected, SINGLE);
}

#[test]
fn keeps_every_number_that_it_can_hold() {
    let x = features(&[1.0, -0.5, 3.0, 1.0 / 3.0], [1, 1, 2, 2]);
    let half = bf16(&x);
    assert_eq!(maps(&half), [1.0, -0.5, 3.0, 171.0 / 512.0]);
    assert_eq!(
        maps(&half.to_precision(Precision::F32).unwrap()),
        maps(&half)
    );
    assert_eq!(numbers(&flatten(&half).unwrap()), maps(&half));
}

fn convolution(s: &Conv, random: &mut Random) {
    let (x, x_half) = pair(random, s.x_dims());
    let (dy, dy_half) = pair(random, s.y_dims());
    let w = tensor(&random.numbers(product(&s.w_dims())), &s.w_dims());
    let b = tensor(&random.numbers(s.c_out), &[s.c_out]);
    let name = |what: &str| format!("{what} of {s:?}");
    let y = conv2d(&x, &w, Some(&b), s.cfg()).unwrap();
    let y_half = conv2d(&x_half, &w, Some(&b), s.cfg()).unwrap();
    stored(&name("output"), &y_half, &y);
    let expected = conv2d_backward(&x, &w, true, s.cfg(), &dy, true).unwrap();
    let got = conv2d_backward(&x_half, &w, true, s.cfg(), &dy_half, true).unwrap();
    let (dx, dx_half) = (expected.input.unwrap(), got.input.unwrap());
    stored(&name("input gradient"), &dx_half, &dx);
    // Sums over the batch are not rounded.
    summed(&name("weight gradient"), &got.weight, &expected.weight);
    let (db, db_half) = (expected.bias.unwrap(), got.bias.unwrap());
    summed(&name("bias gradient"), &db_half, &db);
}

#[test]
fn convolutions_round_once() {
    Isa::each(|_| {
        let mut random = Random(81);
        // Channels in and out, size, kernel, stride, padding, groups: Winograd's transforms of both
        // sizes, direct sums over several blocks of channels, with and without a stride, products.
        for (c_in, c_out, h, k, stride, padding, groups) in [
            (24, 20, 8, 3, 1, 1, 1),
            (24, 20, 7, 3, 1, 0, 1),
            (40, 30, 2, 3, 1, 1, 1),
            (3, 5, 9, 3, 1, 1, 1),
            (40, 7, 9, 3, 2, 1, 1),
            (3, 4, 17, 7, 2, 3, 1),
            (6, 4, 6, 2, 1, 0, 1),
            (70, 9, 5, 1, 1, 0, 1),
            (9, 70, 6, 1, 2, 0, 1),
            (8, 8, 5, 3, 1, 1, 8),
            (9, 9, 8, 3, 2, 1, 9),
            (6, 4, 5, 1, 1, 0, 2),
        ] {
            let s = Conv {
                n: 18,
                c_in,
                c_out,
                h,
                w: h,
                kh: k,
                kw: k,
                stride,
                padding,
                groups,
            };
            convolution(&s, &mut random);
        }
    });
}

/// A convolution's gradients against central differences of the loss `Σ y dy` with `y` of single
/// precision: it is linear in both factors, so that a step of one is exact but for rounding.
#[test]
fn gradients_agree_with_finite_differences() {
    Isa::each(|_| {
        let s = Conv {
            n: 3,
            c_in: 4,
            c_out: 5,
            h: 6,
            w: 6,
            kh: 3,
            kw: 3,
            stride: 1,
            padding: 1,
            groups: 1,
        };
        let mut random = Random(82);
        let (x, x_half) = pair(&mut random, s.x_dims());
        let (dy, dy_half) = pair(&mut random, s.y_dims());
        let w = random.numbers(product(&s.w_dims()));
        let grads = {
            let w = tensor(&w, &s.w_dims());
            conv2d_backward(&x_half, &w, false, s.cfg(), &dy_half, true).unwrap()
        };
        let (x, dy) = (maps(&x), maps(&dy));
        let loss = |x: &[f32], w: &[f32]| {
            let mut y = vec![0f64; dy.len()];
            s.terms(|i, j, k| y[k] += f64::from(x[i]) * f64::from(w[j]));
            y.iter()
                .zip(&dy)
                .map(|(y, &dy)| y * f64::from(dy))
                .sum::<f64>()
        };
        let differences = |of: &[f32], loss: &dyn Fn(&[f32]) -> f64| {
            let one = |i: usize| {
                let shifted = |by: f32| {
                    let mut of = of.to_vec();
                    of[i] += by;
                    loss(&of)
                };
                ((shifted(1.0) - shifted(-1.0)) / 2.0) as f32
            };
            (0..of.len()).map(one).collect::<Vec<_>>()
        };
        let dx = differences(&x, &|x| loss(x, &w));
        within("input gradient", &maps(&grads.input.unwrap()), &dx);
        let dw = differences(&w, &|w| loss(&x, w));
        within("weight gradient", &numbers(&grads.weight), &dw);
    });
}

#[test]
fn batch_norm_measures_what_is_stored() {
    Isa::each(|_| {
        let mut random = Random(83);
        for (dims, has_residual, act) in [
            ([18, 3, 5, 7], true, Activation::Relu),
            ([33, 2, 4, 4], false, Activation::Relu),
            ([5, 4, 3, 3], true, Activation::Identity),
        ] {
            let (x, x_half) = pair(&mut random, dims);
            let (r, r_half) = pair(&mut random, dims);
            let (dy, dy_half) = pair(&mut random, dims);
            let gamma = tensor(&random.numbers(dims[1]), &dims[1..2]);
            let beta = tensor(&random.numbers(dims[1]), &dims[1..2]);
            let forward = |x: &Features, r: &Features| {
                batch_norm(x, &gamma, &beta, 1e-5, has_residual.then_some(r), act).unwrap()
            };
            let (y, stats) = forward(&x, &r);
            let (y_half, stats_half) = forward(&x_half, &r_half);
            stored("output", &y_half, &y);
            // The same numbers in the same order: the same statistics.
            assert_eq!(numbers(&stats_half.mean), numbers(&stats.mean));
            assert_eq!(numbers(&stats_half.var), numbers(&stats.var));
            let infer = |x: &Features, r: &Features| {
                let BatchStatistics { mean, var, .. } = &stats;
                let r = has_residual.then_some(r);
                batch_norm_inference(x, &gamma, &beta, mean, var, 1e-5, r, act).unwrap()
            };
            stored("inference", &infer(&x_half, &r_half), &infer(&x, &r));

            // Masks of the same output, so that no rounding turns a small number to zero.
            let y = y_half.to_precision(Precision::F32).unwrap();
            let backward = |x: &Features, y: &Features, dy: &Features| -> NormGrads {
                batch_norm_backward(x, y, &gamma, &stats, 1e-5, has_residual, act, dy).unwrap()
            };
            let expected = backward(&x, &y, &dy);
            let got = backward(&x_half, &y_half, &dy_half);
            stored("input gradient", &got.input, &expected.input);
            summed("gradient of gamma", &got.gamma, &expected.gamma);
            summed("gradient of beta", &got.beta, &expected.beta);
            if has_residual {
                let (got, expected) = (got.residual.unwrap(), expected.residual.unwrap());
                assert_eq!(maps(&got), maps(&expected));
            }
        }
    });
}

#[test]
fn pooling_rounds_once() {
    Isa::each(|_| {
        let mut random = Random(84);
        // Windows side by side, and windows that overlap, whose gradients add up.
        for (kernel, stride, padding) in [(2, 2, 0), (3, 2, 1), (3, 1, 1)] {
            let cfg = PoolConfig {
                kernel,
                stride,
                padding,
            };
            let (x, x_half) = pair(&mut random, [18, 3, 6, 6]);
            let ((y, indices), (y_half, indices_half)) = (
                max_pool2d(&x, cfg).unwrap(),
                max_pool2d(&x_half, cfg).unwrap(),
            );
            assert_eq!(maps(&y_half), maps(&y));
            let (n, c, h, w) = y.dims();
            let (dy, dy_half) = pair(&mut random, [n, c, h, w]);
            stored(
                "max",
                &max_pool2d_backward(&indices_half, &dy_half).unwrap(),
                &max_pool2d_backward(&indices, &dy).unwrap(),
            );
            stored(
                "average",
                &avg_pool2d(&x_half, cfg).unwrap(),
                &avg_pool2d(&x, cfg).unwrap(),
            );
            stored(
                "average's gradient",
                &avg_pool2d_backward((6, 6), cfg, &dy_half).unwrap(),
                &avg_pool2d_backward((6, 6), cfg, &dy).unwrap(),
            );
        }
        let (x, x_half) = pair(&mut random, [18, 3, 5, 7]);
        let (y, y_half) = (
            global_avg_pool(&x).unwrap(),
            global_avg_pool(&x_half).unwrap(),
        );
        stored("mean", &y_half, &y);
        let (dy, dy_half) = pair(&mut random, [18, 3, 1, 1]);
        stored(
            "mean's gradient",
            &global_avg_pool_backward((5, 7), &dy_half).unwrap(),
            &global_avg_pool_backward((5, 7), &dy).unwrap(),
        );
    });
}

#[test]
fn what_only_moves_numbers_keeps_them() {
    Isa::each(|_| {
        let mut random = Random(85);
        let (x, x_half) = pair(&mut random, [18, 5, 3, 5]);
        let (y, y_half) = pair(&mut random, [18, 5, 3, 5]);
        let relu = Activation::Relu;
        let same = |got: Features, expected: Features| {
            assert_eq!(got.precision(), Precision::Bf16);
            assert_eq!(maps(&got), maps(&expected));
        };
        same(
            activation(&x_half, relu).unwrap(),
            activation(&x, relu).unwrap(),
        );
        same(
            activation_backward(&y_half, relu, &x_half).unwrap(),
            activation_backward(&y, relu, &x).unwrap(),
        );
        same(
            concat(&[&x_half, &y_half]).unwrap(),
            concat(&[&x, &y]).unwrap(),
        );
        let cut = |x: &Features| split_channels(x, &[2, 3]).unwrap().pop().unwrap();
        same(cut(&x_half), cut(&x));
        let short = |x: &Features| shortcut(x, 2, 8).unwrap();
        same(short(&x_half), short(&x));
        let back = |x: &Features| shortcut_backward(x.dims(), 2, &short(x)).unwrap();
        same(back(&x_half), back(&x));
        for act in [Activation::Identity, relu] {
            stored(
                "sum",
                &add(&x_half, &y_half, act).unwrap(),
                &add(&x, &y, act).unwrap(),
            );
        }
        stored(
            "accumulated",
            &accumulate(x_half.clone(), &y_half).unwrap(),
            &accumulate(x, &y).unwrap(),
        );
        // Written in place, the same bits.
        let own = accumulate(
            x_half
                .to_precision(Precision::F32)
                .unwrap()
                .to_precision(Precision::Bf16)
                .unwrap(),
            &y_half,
        );
        assert_eq!(
            maps(&own.unwrap()),
            maps(&accumulate(x_half, &y_half).unwrap())
        );
    });
}

/// What each thread and each instruction set must agree on.
fn everything(x: &Features, other: &Features) -> Vec<Vec<u32>> {
    let relu = Activation::Relu;
    let cfg = PoolConfig {
        kernel: 3,
        stride: 2,
        padding: 1,
    };
    let (max, indices) = max_pool2d(x, cfg).unwrap();
    [
        add(x, other, relu).unwrap(),
        accumulate(x.clone(), other).unwrap(),
        activation_backward(other, relu, x).unwrap(),
        avg_pool2d(x, cfg).unwrap(),
        max_pool2d_backward(&indices, &max).unwrap(),
        shortcut(x, 2, 12).unwrap(),
        global_avg_pool(x).unwrap(),
        x.to_precision(Precision::F32)
            .unwrap()
            .to_precision(Precision::Bf16)
            .unwrap(),
    ]
    .iter()
    .map(|map| bits(&maps(map)))
    .collect()
}

#[test]
fn same_bits_for_any_number_of_threads_and_on_every_processor() {
    let mut random = Random(86);
    let dims = [37, 9, 6, 6];
    let (_, x) = pair(&mut random, dims);
    let (_, other) = pair(&mut random, dims);
    let gamma = tensor(&random.numbers(9), &[9]);
    let w = tensor(&random.numbers(12 * 9 * 9), &[12, 9, 3, 3]);
    let stem = tensor(&random.numbers(2 * 9 * 9), &[2, 9, 3, 3]);
    let one = tensor(&random.numbers(12 * 9), &[12, 9, 1, 1]);
    // Sums of products follow the registers' width, so only the number of threads leaves them alone.
    let run = || {
        let mut all = everything(&x, &other);
        let (y, stats) =
            batch_norm(&x, &gamma, &gamma, 1e-5, Some(&other), Activation::Relu).unwrap();
        let grads =
            batch_norm_backward(&x, &y, &gamma, &stats, 1e-5, true, Activation::Relu, &other);
        let grads = grads.unwrap();
        let mut maps_of = vec![y, grads.input, grads.residual.unwrap()];
        all.push(bits(&numbers(&grads.gamma)));
        for (w, stride, padding) in [(&w, 1, 1), (&w, 2, 1), (&stem, 1, 0), (&one, 1, 0)] {
            let cfg = dcff_nn::ConvConfig {
                stride,
                padding,
                ..Default::default()
            };
            let y = conv2d(&x, w, None, cfg).unwrap();
            let grads = conv2d_backward(&x, w, true, cfg, &y, true).unwrap();
            all.push(bits(&numbers(&grads.weight)));
            all.push(bits(&numbers(&grads.bias.unwrap())));
            maps_of.extend([y, grads.input.unwrap()]);
        }
        all.extend(maps_of.iter().map(|map| bits(&maps(map))));
        all
    };
    let first = everything(&x, &other);
    Isa::each(|isa| {
        let alone = in_pool(1, run);
        assert!(alone == in_pool(2, run), "1 and 2 threads differ");
        assert!(alone == in_pool(5, run), "1 and 5 threads differ");
        let here = everything(&x, &other);
        assert!(
            here == first,
            "{isa:?} differs from {:?}",
            Isa::available()[0]
        );
    });
}

#[test]
fn nan_and_infinity_show() {
    Isa::each(|_| {
        let x = bf16(&features(
            &[f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -1.0],
            [1, 4, 1, 1],
        ));
        let y = maps(&activation(&x, Activation::Relu).unwrap());
        assert!(y[0].is_nan());
        assert_eq!(y[1..], [f32::INFINITY, 0.0, 0.0]);
    });
}

#[test]
fn says_which_precisions_met() {
    let x = features(&[0.0; 4], [1, 1, 2, 2]);
    let message = add(&x, &bf16(&x), Activation::Identity)
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("add: expected maps of one precision, got f32 and bf16"),
        "{message}"
    );
    let w = tensor(&[1.0], &[1, 1, 1, 1]);
    let mixed = conv2d_backward(&bf16(&x), &w, false, Default::default(), &x, true);
    assert!(mixed.unwrap_err().to_string().contains("got bf16 and f32"));
    assert!(concat(&[&x, &bf16(&x)]).is_err());
    let gamma = tensor(&[1.0], &[1]);
    let residual = Some(&x);
    assert!(
        batch_norm(
            &bf16(&x),
            &gamma,
            &gamma,
            1e-5,
            residual,
            Activation::Identity
        )
        .is_err()
    );
}
