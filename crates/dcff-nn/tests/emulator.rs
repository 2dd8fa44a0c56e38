//! The kernels for GPUs, run on the processor, against the CPU's own: every operation, forward and gradients, maps in
//! single precision and in bfloat16.

#![cfg(feature = "emulator")]

mod common;

use candle_core::{Device, Result, Tensor};
use common::{Conv, Random, close, features, maps, numbers, product, tensor};
use dcff_nn::inference::{Channels, Conv as Prepared, Load, Maps};
use dcff_nn::{
    Activation, AdamConfig, Blend, Border, ByteImages, Change, ConvConfig, DeviceSettings,
    Features, FilterSource, Filters, PoolConfig, Precision, SgdConfig, emulator,
};

/// Runs `test` with both types of maps and the tolerance of each.
fn on_gpus(test: impl Fn(Precision, f64)) {
    for (precision, tolerance) in [(Precision::F32, 1e-5), (Precision::Bf16, 2e-2)] {
        match emulator::with(DeviceSettings::default(), || test(precision, tolerance)) {
            Ok(()) => {}
            // Building needs a C++ compiler, which not every machine has; a broken kernel is no excuse.
            Err(error) if error.to_string().contains("os error 2") => {
                eprintln!("skipped: {error}");
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// Maps of `precision`.
fn stored(data: &[f32], dims: [usize; 4], precision: Precision) -> Features {
    features(data, dims).to_precision(precision).unwrap()
}

/// What `f` gives on the CPU, on the thread of a GPU.
fn on_cpu<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    std::thread::scope(|scope| scope.spawn(f).join().unwrap())
}

/// Numbers that both types of maps can hold.
fn exact(random: &mut Random, n: usize) -> Vec<f32> {
    let rounded = |x: f32| f32::from_bits((x.to_bits() + 0x8000) & 0xffff_0000);
    random.numbers(n).into_iter().map(rounded).collect()
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

#[track_caller]
fn same(what: &str, got: &[f32], expected: &[f32], tolerance: f64) {
    close(what, got, &wide(expected), tolerance);
}

#[test]
fn maps_come_back_as_they_were() {
    on_gpus(|precision, _| {
        let mut random = Random(1);
        for dims in [[2, 3, 4, 5], [17, 1, 1, 1], [1, 33, 2, 2]] {
            let x = exact(&mut random, product(&dims));
            assert_eq!(maps(&stored(&x, dims, precision)), x);
            let rows = dcff_nn::flatten(&stored(&x, dims, precision)).unwrap();
            assert_eq!(numbers(&rows), x);
            let [n, c, h, w] = dims;
            let back = dcff_nn::unflatten(&rows, (n, c, h, w)).unwrap();
            assert_eq!(back.precision(), Precision::F32);
            assert_eq!(maps(&back), x);
        }
        let zeros = Features::zeros((2, 3, 1, 2), &Device::Cpu).unwrap();
        assert_eq!(maps(&zeros), [0.0; 12]);
        // Rounds to the nearest, ties to even; NaN and infinities stay.
        let odd = [
            1.0 + 1.0 / 256.0,
            1.0 + 3.0 / 256.0,
            f32::INFINITY,
            f32::NAN,
        ];
        let got = maps(&stored(&odd, [1, 4, 1, 1], precision));
        match precision {
            Precision::Bf16 => assert_eq!(got[..3], [1.0, 1.0 + 4.0 / 256.0, f32::INFINITY]),
            _ => assert_eq!(got[..3], odd[..3]),
        }
        assert!(got[3].is_nan());
    });
}

#[test]
fn convolutions_and_their_gradients() {
    let convs: Vec<Conv> = [
        // n, c_in, c_out, h, w, kh, kw, stride, padding, groups
        [3, 3, 16, 9, 9, 3, 3, 1, 1, 1],
        [2, 19, 35, 8, 6, 3, 3, 2, 1, 1],
        [2, 40, 70, 5, 5, 1, 1, 1, 0, 1],
        [2, 6, 8, 7, 7, 1, 1, 2, 0, 1],
        [1, 8, 12, 11, 9, 5, 5, 1, 2, 2],
        [1, 4, 4, 12, 12, 7, 7, 2, 3, 4],
        [5, 2, 3, 2, 2, 3, 3, 1, 1, 1],
        [1, 17, 5, 6, 3, 1, 3, 1, 0, 1],
    ]
    .map(
        |[n, c_in, c_out, h, w, kh, kw, stride, padding, groups]| Conv {
            n,
            c_in,
            c_out,
            h,
            w,
            kh,
            kw,
            stride,
            padding,
            groups,
        },
    )
    .into();
    on_gpus(|precision, tolerance| {
        let mut random = Random(2);
        for conv in &convs {
            let x = exact(&mut random, product(&conv.x_dims()));
            let w = exact(&mut random, product(&conv.w_dims()));
            let b = exact(&mut random, conv.c_out);
            let dy = exact(&mut random, product(&conv.y_dims()));
            let run = |bias: bool| -> Result<_> {
                let maps_x = stored(&x, conv.x_dims(), precision);
                let (w, b) = (tensor(&w, &conv.w_dims()), tensor(&b, &[conv.c_out]));
                let y = dcff_nn::conv2d(&maps_x, &w, bias.then_some(&b), conv.cfg())?;
                let dy = stored(&dy, conv.y_dims(), precision);
                let grads = dcff_nn::conv2d_backward(&maps_x, &w, bias, conv.cfg(), &dy, bias)?;
                Ok((
                    maps(&y),
                    grads.input.as_ref().map(maps),
                    numbers(&grads.weight),
                    grads.bias.as_ref().map(numbers),
                ))
            };
            for bias in [true, false] {
                let got = run(bias).unwrap();
                let expected = on_cpu(|| run(bias).unwrap());
                let what = |part: &str| format!("{part} of {conv:?}");
                same(&what("output"), &got.0, &expected.0, tolerance);
                assert_eq!(got.1.is_some(), bias);
                if let (Some(got), Some(expected)) = (&got.1, &expected.1) {
                    same(&what("input gradient"), got, expected, tolerance);
                }
                same(&what("weight gradient"), &got.2, &expected.2, 1e-5);
                if let (Some(got), Some(expected)) = (&got.3, &expected.3) {
                    same(&what("bias gradient"), got, expected, 1e-5);
                }
            }
        }
    });
}

#[test]
fn long_sums_of_weight_gradients_are_joined_from_parts() {
    on_gpus(|precision, _| {
        let conv = ConvConfig {
            padding: 1,
            ..ConvConfig::default()
        };
        let mut random = Random(3);
        let dims = [4, 3, 16, 16];
        let x = exact(&mut random, product(&dims));
        let dy = exact(&mut random, 4 * 5 * 16 * 16);
        let run = || {
            let w = tensor(&[0.0; 5 * 27], &[5, 3, 3, 3]);
            let (x, dy) = (
                stored(&x, dims, precision),
                stored(&dy, [4, 5, 16, 16], precision),
            );
            let grads = dcff_nn::conv2d_backward(&x, &w, false, conv, &dy, false).unwrap();
            numbers(&grads.weight)
        };
        same("weight gradient", &run(), &on_cpu(run), 1e-5);
        assert_eq!(common::bits(&run()), common::bits(&run()));
    });
}

#[test]
fn batch_norms_and_their_gradients() {
    on_gpus(|precision, tolerance| {
        let mut random = Random(4);
        for dims in [
            [4, 16, 7, 7],
            [3, 6, 5, 5],
            [2, 7, 3, 3],
            [1, 300, 2, 2],
            [40, 1, 9, 9],
            [9, 3, 1, 1],
        ] {
            let [n, c, h, w] = dims;
            let count = product(&dims);
            // A mean far from zero: squares must be taken about it.
            let x: Vec<f32> = exact(&mut random, count).iter().map(|x| x + 8.0).collect();
            let rounded = |x: f32| f32::from_bits((x.to_bits() + 0x8000) & 0xffff_0000);
            let x: Vec<f32> = x.into_iter().map(rounded).collect();
            let (residual, dy) = (exact(&mut random, count), exact(&mut random, count));
            let (gamma, beta) = (exact(&mut random, c), exact(&mut random, c));
            for (has_residual, act) in [
                (false, Activation::Relu),
                (true, Activation::Relu),
                (true, Activation::Relu6),
                (true, Activation::Identity),
            ] {
                // So large that both ends of a range are met.
                let y_given: Vec<f32> = exact(&mut random, count).iter().map(|y| 4.0 * y).collect();
                let gamma: Vec<f32> = match act {
                    Activation::Relu6 => gamma.iter().map(|gamma| 4.0 * gamma).collect(),
                    Activation::Identity | Activation::Relu => gamma.clone(),
                };
                let run = || -> Result<_> {
                    let maps_x = stored(&x, dims, precision);
                    let residual = has_residual.then(|| stored(&residual, dims, precision));
                    let (gamma, beta) = (tensor(&gamma, &[c]), tensor(&beta, &[c]));
                    let (y, stats) =
                        dcff_nn::batch_norm(&maps_x, &gamma, &beta, 1e-5, residual.as_ref(), act)?;
                    let inference = dcff_nn::batch_norm_inference(
                        &maps_x,
                        &gamma,
                        &beta,
                        &stats.mean,
                        &stats.var,
                        1e-5,
                        residual.as_ref(),
                        act,
                    )?;
                    // Rounding may turn a sign: both compare under the same mask.
                    let masked = stored(&y_given, dims, precision);
                    let grads = dcff_nn::batch_norm_backward(
                        &maps_x,
                        &masked,
                        &gamma,
                        &stats,
                        1e-5,
                        has_residual,
                        act,
                        &stored(&dy, dims, precision),
                    )?;
                    Ok([
                        ("output", maps(&y)),
                        ("output of inference", maps(&inference)),
                        ("mean", numbers(&stats.mean)),
                        ("variance", numbers(&stats.var)),
                        ("input gradient", maps(&grads.input)),
                        ("gamma's gradient", numbers(&grads.gamma)),
                        ("beta's gradient", numbers(&grads.beta)),
                        (
                            "residual's gradient",
                            grads.residual.as_ref().map_or(vec![], maps),
                        ),
                    ])
                };
                let got = run().unwrap();
                let expected = on_cpu(|| run().unwrap());
                for ((what, got), (_, expected)) in got.iter().zip(&expected) {
                    let what = format!("{what} of {n} {c} {h} {w}, {act:?}, {has_residual}");
                    let tolerance = if got.len() == c { 2e-5 } else { tolerance };
                    if !got.is_empty() || !expected.is_empty() {
                        same(&what, got, expected, tolerance.max(3e-5));
                    }
                }
            }
        }
    });
}

#[test]
fn pools_and_their_gradients() {
    on_gpus(|precision, tolerance| {
        let mut random = Random(5);
        let cfg = |kernel, stride, padding| PoolConfig {
            kernel,
            stride,
            padding,
        };
        for (dims, cfg) in [
            ([2, 5, 8, 8], cfg(2, 2, 0)),
            ([3, 4, 7, 9], cfg(3, 2, 1)),
            ([1, 3, 6, 6], cfg(3, 1, 1)),
            ([1, 2, 9, 9], cfg(5, 3, 2)),
        ] {
            let [n, c, h, w] = dims;
            // Few different numbers: equal maxima occur.
            let x: Vec<f32> = (0..product(&dims))
                .map(|_| random.below(4) as f32)
                .collect();
            let (oh, ow) = (
                (h + 2 * cfg.padding - cfg.kernel) / cfg.stride + 1,
                (w + 2 * cfg.padding - cfg.kernel) / cfg.stride + 1,
            );
            let small = [n, c, oh, ow];
            let dy = exact(&mut random, product(&small));
            let one = exact(&mut random, n * c);
            let run = || -> Result<_> {
                let (x, dy) = (stored(&x, dims, precision), stored(&dy, small, precision));
                let one = stored(&one, [n, c, 1, 1], precision);
                let (y, indices) = dcff_nn::max_pool2d(&x, cfg)?;
                Ok([
                    maps(&y),
                    maps(&dcff_nn::max_pool2d_backward(&indices, &dy)?),
                    maps(&dcff_nn::avg_pool2d(&x, cfg)?),
                    maps(&dcff_nn::avg_pool2d_backward((h, w), cfg, &dy)?),
                    maps(&dcff_nn::global_avg_pool(&x)?),
                    maps(&dcff_nn::global_avg_pool_backward((h, w), &one)?),
                ])
            };
            let (got, expected) = (run().unwrap(), on_cpu(|| run().unwrap()));
            for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
                same(&format!("part {i} of {cfg:?}"), got, expected, tolerance);
            }
        }
        let x = stored(&[1.0, f32::NAN, 3.0, 2.0], [1, 1, 2, 2], precision);
        let (y, _) = dcff_nn::max_pool2d(&x, cfg(2, 2, 0)).unwrap();
        assert!(maps(&y)[0].is_nan());
    });
}

#[test]
fn sums_activations_channels_and_shortcuts() {
    on_gpus(|precision, tolerance| {
        let mut random = Random(6);
        let (dims, other) = ([3, 5, 5, 4], [3, 2, 5, 4]);
        // So large that both ends of ReLU6's range are met.
        let mut large = || {
            exact(&mut random, product(&dims))
                .iter()
                .map(|x| 4.0 * x)
                .collect()
        };
        let [a, b]: [Vec<f32>; 2] = [large(), large()];
        let c = exact(&mut random, product(&other));
        let offsets = random.numbers(5 * 25);
        let run = || -> Result<_> {
            let (a, b, c) = (
                stored(&a, dims, precision),
                stored(&b, dims, precision),
                stored(&c, other, precision),
            );
            let mut all = Vec::new();
            for act in [Activation::Identity, Activation::Relu, Activation::Relu6] {
                all.push(maps(&dcff_nn::activation(&a, act)?));
                all.push(maps(&dcff_nn::activation_backward(&a, act, &b)?));
                all.push(maps(&dcff_nn::add(&a, &b, act)?));
            }
            let kept = a.clone();
            let sum = dcff_nn::accumulate(a, &b)?;
            all.push(maps(&sum));
            all.push(maps(&kept));
            // Now nobody else reads it.
            all.push(maps(&dcff_nn::accumulate(sum, &b)?));
            let joined = dcff_nn::concat(&[&kept, &c, &b])?;
            all.push(maps(&joined));
            for part in dcff_nn::split_channels(&joined, &[1, 8, 3])? {
                all.push(maps(&part));
            }
            for (stride, channels) in [(1, 5), (2, 10), (2, 9), (2, 2), (3, 5)] {
                let y = dcff_nn::shortcut(&kept, stride, channels)?;
                let dx = dcff_nn::shortcut_backward(kept.dims(), stride, &y)?;
                all.extend([maps(&y), maps(&dx)]);
            }
            let places = [1, 2, 5, 7, 8];
            let y = dcff_nn::scatter(&kept, &places, 9)?;
            all.extend([maps(&y), maps(&dcff_nn::scatter_backward(&places, &y)?)]);
            for border in [
                Border::default(),
                Border {
                    rows: [1, 2],
                    columns: [2, 1],
                },
                Border {
                    rows: [4, 0],
                    columns: [0, 4],
                },
            ] {
                let [rows, columns] = border.places();
                let o = tensor(&offsets[..5 * rows * columns], &[5, rows, columns]);
                all.push(maps(&dcff_nn::offset(&kept, &o, border)?));
                let gradient = dcff_nn::offset_backward(&kept, border)?;
                all.push(gradient.flatten_all()?.to_vec1()?);
            }
            Ok(all)
        };
        let (got, expected) = (run().unwrap(), on_cpu(|| run().unwrap()));
        assert_eq!(got.len(), expected.len());
        for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
            same(&format!("part {i}"), got, expected, tolerance);
        }
    });
}

#[test]
fn losses_and_their_gradients() {
    on_gpus(|_, _| {
        let mut random = Random(7);
        for (n, k, smoothing) in [(1, 2, 0.0), (300, 10, 0.1), (7, 1000, 0.0)] {
            let logits = random.numbers(n * k);
            let labels: Vec<u32> = (0..n).map(|_| random.below(k) as u32).collect();
            let run = || {
                let labels = Tensor::from_slice(&labels, n, &Device::Cpu).unwrap();
                let loss =
                    dcff_nn::cross_entropy(&tensor(&logits, &[n, k]), &labels, smoothing).unwrap();
                (loss.value.read().unwrap(), numbers(&loss.grad))
            };
            let (got, expected) = (run(), on_cpu(run));
            assert!((got.0.mean - expected.0.mean).abs() < 1e-9 * expected.0.mean.abs());
            assert_eq!(got.0.correct, expected.0.correct);
            same("gradient", &got.1, &expected.1, 1e-6);
        }
        let labels = Tensor::new(&[0u32], &Device::Cpu).unwrap();
        let loss = dcff_nn::cross_entropy(&tensor(&[f32::NAN, 1.0], &[1, 2]), &labels, 0.0);
        let loss = loss.unwrap().value;
        assert!(!loss.is_known());
        let loss = loss.read().unwrap();
        assert!(loss.mean.is_nan() && loss.correct == 0);
    });
}

#[test]
fn gradient_descent_and_running_statistics_over_many_tensors() {
    on_gpus(|_, _| {
        // More tensors than one launch takes, some longer than a block.
        let lengths: Vec<usize> = (0..203).map(|i| 1 + i * i % 5000).collect();
        let total: usize = lengths.iter().sum();
        let mut random = Random(8);
        let data: [Vec<f32>; 3] = std::array::from_fn(|_| random.numbers(total));
        for nesterov in [false, true] {
            let run = || -> Result<_> {
                let cut = |data: &[f32]| {
                    let mut at = 0;
                    lengths
                        .iter()
                        .map(|&length| {
                            at += length;
                            tensor(&data[at - length..at], &[length])
                        })
                        .collect::<Vec<_>>()
                };
                let [p, v, g] = [0, 1, 2].map(|i| cut(&data[i]));
                let triples: Vec<_> = (0..p.len()).map(|i| [&p[i], &v[i], &g[i]]).collect();
                let cfg = SgdConfig {
                    lr: 0.1,
                    momentum: 0.9,
                    weight_decay: 5e-4,
                    nesterov,
                };
                dcff_nn::sgd_steps(&triples, &cfg, 0)?;
                let blends: Vec<_> = (0..p.len())
                    .map(|i| Blend {
                        old: &p[i],
                        new: &g[i],
                        keep: 0.9,
                        add: 0.1 + i as f64,
                    })
                    .collect();
                let joined = |all: &[Tensor]| all.iter().flat_map(numbers).collect::<Vec<f32>>();
                let stepped = joined(&p);
                dcff_nn::blend(&blends)?;
                Ok([stepped, joined(&v), joined(&p)])
            };
            let (got, expected) = (run().unwrap(), on_cpu(|| run().unwrap()));
            for (got, expected) in got.iter().zip(&expected) {
                same("step", got, expected, 1e-6);
            }
        }
    });
}

#[test]
fn steps_of_adam_and_its_rates_in_cells() {
    on_gpus(|_, _| {
        // More tensors than one launch takes, some longer than a block.
        let lengths: Vec<usize> = (0..107).map(|i| 1 + i * i % 5000).collect();
        let mut random = Random(9);
        let data: Vec<[Vec<f32>; 2]> = lengths
            .iter()
            .map(|&length| [random.numbers(length), random.numbers(length)])
            .collect();
        let run = |kind: usize| -> Result<Vec<f32>> {
            let rows: Vec<[Tensor; 4]> = data
                .iter()
                .map(|[p, g]| {
                    let [p, g] = [p, g].map(|data| tensor(data, &[data.len()]));
                    Ok([p.clone(), p.zeros_like()?, p.zeros_like()?, g])
                })
                .collect::<Result<_>>()?;
            let (beta1, beta2, weight_decay) = (0.9, 0.99, 0.01);
            for step in 1..=3 {
                // Two groups with rates of their own, next to each other.
                for (group, rows) in rows.chunks(rows.len().div_ceil(2)).enumerate() {
                    let rows: Vec<[&Tensor; 4]> = rows.iter().map(|row| row.each_ref()).collect();
                    let lr = [0.01, 0.002][group];
                    if kind == 0 {
                        let cfg = AdamConfig {
                            lr,
                            beta1,
                            beta2,
                            eps: 1e-7,
                            weight_decay,
                            step,
                        };
                        dcff_nn::adamax_steps(&rows, &cfg, group)?;
                    } else {
                        let cfg = AdamConfig {
                            lr,
                            beta1,
                            beta2,
                            eps: 1e-8,
                            weight_decay,
                            step,
                        };
                        dcff_nn::adamw_steps(&rows, &cfg, 60 * group)?;
                    }
                }
            }
            Ok(rows
                .iter()
                .flat_map(|row| row[..3].iter().flat_map(numbers))
                .collect())
        };
        for kind in 0..2 {
            let (got, expected) = (run(kind).unwrap(), on_cpu(|| run(kind).unwrap()));
            same("step", &got, &expected, 1e-6);
        }
        let [p, v, g] = [0; 3].map(|_| tensor(&[1.0], &[1]));
        let cfg = SgdConfig {
            lr: 0.1,
            momentum: 0.9,
            weight_decay: 0.0,
            nesterov: false,
        };
        let error = dcff_nn::sgd_steps(&[[&p, &v, &g]], &cfg, 64)
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("expected rates in cells below 64, got 64 to 65"),
            "{error}"
        );
    });
}

#[test]
fn images_are_cropped_mirrored_and_normalised() {
    on_gpus(|_, _| {
        // Two images of two channels, two rows and three columns; a byte stands for itself.
        let pixels: Vec<u8> = (1..=24).collect();
        let tables = [
            std::array::from_fn(|byte| byte as f32),
            std::array::from_fn(|byte| -(byte as f32)),
        ];
        let images = ByteImages::new(&Device::Cpu, &pixels, [2, 2, 3], &tables)
            .unwrap()
            .unwrap();
        let change = |index, down, right, flip| Change {
            index,
            down,
            right,
            flip,
        };
        let changes = [
            change(1, 0, 0, false),
            change(0, 1, 0, false),
            change(0, 0, -2, false),
            change(0, 0, -2, true),
            change(0, 0, 99, true),
        ];
        let batch = images.batch(&changes).unwrap();
        assert_eq!(batch.dims(), [5, 2, 2, 3]);
        let got = numbers(&batch);
        let expected: [f32; 60] = [
            13., 14., 15., 16., 17., 18., -19., -20., -21., -22., -23., -24., //
            4., 5., 6., 0., 0., 0., -10., -11., -12., 0., 0., 0., //
            0., 0., 1., 0., 0., 4., 0., 0., -7., 0., 0., -10., //
            1., 0., 0., 4., 0., 0., -7., 0., 0., -10., 0., 0., //
            0., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0.,
        ];
        assert_eq!(got, expected);
        let message = images.batch(&[change(2, 0, 0, false)]).unwrap_err();
        assert!(message.to_string().contains("below 2, got 2"), "{message}");
    });
}

#[test]
fn a_prepared_convolution_adds_its_residual_on_a_gpu_too() {
    on_gpus(|precision, _| {
        if precision != Precision::F32 {
            return;
        }
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
        let mut random = Random(41);
        let mut draw = |dims: &[usize]| tensor(&random.numbers(product(dims)), dims);
        let (x, w, r) = (draw(&s.x_dims()), draw(&s.w_dims()), draw(&s.y_dims()));
        let of = |residual: Option<&Tensor>| {
            let (load, channels) = (Load::Sixteens, Channels::new(s.c_in));
            let conv = Prepared::new(&w, None, s.cfg(), &channels, (s.h, s.w), Activation::Relu);
            let maps = |t: &Tensor| Maps::from_nchw(t, load).unwrap();
            let y = conv
                .unwrap()
                .forward(&maps(&x), residual.map(maps).as_ref(), load);
            numbers(&y.unwrap().to_nchw().unwrap())
        };
        for residual in [None, Some(&r)] {
            same("prepared", &of(residual), &on_cpu(|| of(residual)), 1e-5);
        }
        assert_ne!(of(None), of(Some(&r)));
    });
}

#[test]
fn distances_between_filters_are_the_cpus_to_the_bit() {
    on_gpus(|_, _| {
        let mut random = Random(31);
        // Whole tiles and parts of them, fewer and more weights than a stretch, and no multiple of the partial sums.
        for (filters, length) in [(1, 1), (16, 32), (37, 13), (33, 75), (5, 200)] {
            let mut w = random.numbers(filters * length);
            if filters > 16 {
                // One unit in the last place away from its neighbour, in another tile.
                w.copy_within(0..length, 16 * length);
                w[16 * length] = f32::from_bits(w[0].to_bits() + 1);
            }
            let of = |w: &[f32]| {
                let w = tensor(w, &[filters, length]);
                numbers(&dcff_nn::filter_distances(&w).unwrap())
            };
            assert_eq!(of(&w), on_cpu(|| of(&w)), "{filters} x {length}");
            // A weight that is not finite shows on the diagonal.
            w[filters * length - 1] = f32::INFINITY;
            let odd = of(&w);
            assert!(odd[filters * filters - 1].is_nan());
            assert!((0..filters - 1).all(|j| odd[j * filters + j] == 0.0));
        }
    });
}

#[test]
fn maps_of_two_devices_do_not_mix() {
    on_gpus(|precision, _| {
        let here = stored(&[1.0], [1, 1, 1, 1], precision);
        let there = on_cpu(|| stored(&[1.0], [1, 1, 1, 1], precision));
        let message = dcff_nn::add(&here, &there, Activation::Identity).unwrap_err();
        assert!(message.to_string().contains("one device"), "{message}");
        let message = dcff_nn::accumulate(there, &here).unwrap_err();
        assert!(message.to_string().contains("one device"), "{message}");
    });
}

#[test]
fn filters_made_ready_for_many_layers_are_those_of_each() {
    on_gpus(|precision, tolerance| {
        let mut random = Random(11);
        // More layers than one launch takes, some with chosen filters, some of those scaled.
        let layers: Vec<_> = (0..100)
            .map(|i| {
                let dims = [5 + i % 4, 4 + i % 2, 1 + 2 * (i % 2), 3];
                (dims, exact(&mut random, product(&dims)), i % 3 != 0)
            })
            .collect();
        let (x, dy) = (
            exact(&mut random, 2 * 5 * 36),
            exact(&mut random, 2 * 2 * 36),
        );
        let run = || -> Result<Vec<Vec<f32>>> {
            let weights: Vec<_> = layers
                .iter()
                .map(|(dims, w, _)| Tensor::from_slice(w, &dims[..], &Device::Cpu))
                .collect::<Result<_>>()?;
            let rows = Tensor::new(&[4u32, 1], &Device::Cpu)?;
            let scale = Tensor::new(&[0.5f32, -2.0], &Device::Cpu)?;
            let sources: Vec<_> = weights
                .iter()
                .zip(&layers)
                .enumerate()
                .map(|(i, (weight, (_, _, chosen)))| FilterSource {
                    weight,
                    rows: chosen.then_some(&rows),
                    scale: (*chosen && i % 4 == 1).then_some(&scale),
                })
                .collect();
            let filters = Filters::prepare(&sources, precision)?;
            assert_eq!(filters.len(), layers.len());
            let mut all = Vec::new();
            for ((dims, _, chosen), filters) in layers.iter().zip(&filters) {
                if !chosen || dims[1] != 5 || dims[2] != 3 {
                    continue;
                }
                let cfg = ConvConfig {
                    padding: 1,
                    ..ConvConfig::default()
                };
                let x = stored(&x, [2, 5, 6, 6], precision);
                let y = dcff_nn::conv2d_prepared(&x, filters, None, cfg)?;
                let dy = stored(&dy, [2, 2, 6, 6], precision);
                let grads = dcff_nn::conv2d_backward_prepared(&x, filters, false, cfg, &dy, true)?;
                all.push(maps(&y));
                all.extend(grads.input.as_ref().map(maps));
                assert_eq!(grads.weight.dims(), dims);
                all.push(numbers(&grads.weight));
            }
            assert!(all.len() > 50);
            Ok(all)
        };
        let (got, expected) = (run().unwrap(), on_cpu(|| run().unwrap()));
        for (got, expected) in got.iter().zip(&expected) {
            same("prepared", got, expected, tolerance);
        }
    });
}
