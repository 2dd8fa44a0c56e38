//! Prepared layers against double precision: random shapes, every instruction set, any thread count.

mod common;

use candle_core::Tensor;
use common::*;
use dcff_nn::inference::{Channels, Conv as Prepared, Load, Maps, concat, in_chunks};
use dcff_nn::{Activation, Isa};

/// Of the root mean square of the result, for sums of up to some thousand terms.
const TOLERANCE: f64 = 2e-5;

fn maps_of(data: &[f32], dims: [usize; 4], load: Load) -> Maps {
    Maps::from_nchw(&tensor(data, &dims), load).unwrap()
}

fn out(maps: &Maps) -> Vec<f32> {
    numbers(&maps.to_nchw().unwrap())
}

fn prepare(s: &Conv, w: &[f32], b: &[f32], channels: &Channels, act: Activation) -> Prepared {
    let (w, b) = (tensor(w, &s.w_dims()), tensor(b, &[s.c_out]));
    Prepared::new(&w, Some(&b), s.cfg(), channels, (s.h, s.w), act).unwrap()
}

/// `act(conv(x, w) + b + r)` in double precision.
fn reference(
    s: &Conv,
    x: &[f32],
    w: &[f32],
    b: &[f32],
    r: Option<&[f32]>,
    act: Activation,
) -> Vec<f64> {
    let [_, _, oh, ow] = s.y_dims();
    let mut y: Vec<f64> = (0..product(&s.y_dims()))
        .map(|i| f64::from(b[i / (oh * ow) % s.c_out]) + r.map_or(0.0, |r| f64::from(r[i])))
        .collect();
    s.terms(|i, j, k| y[k] += f64::from(x[i]) * f64::from(w[j]));
    y.iter_mut().for_each(|y| {
        *y = match act {
            Activation::Identity => *y,
            Activation::Relu => y.max(0.0),
            Activation::Relu6 => y.clamp(0.0, 6.0),
        }
    });
    y
}

fn check(s: &Conv, random: &mut Random) {
    let x = random.numbers(product(&s.x_dims()));
    let w = random.numbers(product(&s.w_dims()));
    let b = random.numbers(s.c_out);
    let r = random.numbers(product(&s.y_dims()));
    let residual = (random.below(2) == 0).then_some(&r[..]);
    // As many draws as before: the sizes that follow stay.
    let act = match (random.below(2), s.c_out % 2) {
        (0, 0) => Activation::Relu6,
        (0, _) => Activation::Relu,
        _ => Activation::Identity,
    };
    let expected = reference(s, &x, &w, &b, residual, act);
    // Rounding is that of the sums; a range leaves less to compare it with.
    let sums = reference(s, &x, &w, &b, residual, Activation::Relu);
    let square = |y: &[f64]| y.iter().map(|y| y * y).sum::<f64>();
    let tolerance = match act {
        Activation::Relu6 => {
            TOLERANCE
                * (square(&sums) / square(&expected).max(1e-9))
                    .sqrt()
                    .max(1.0)
        }
        Activation::Identity | Activation::Relu => TOLERANCE,
    };
    let conv = prepare(s, &w, &b, &Channels::new(s.c_in), act);
    for load in [Load::Few, Load::Several, Load::Sixteens] {
        let residual = residual.map(|r| maps_of(r, s.y_dims(), load));
        let y = conv.forward(&maps_of(&x, s.x_dims(), load), residual.as_ref(), load);
        let name = format!("{s:?} {load:?} with {:?}", Isa::current());
        close(&name, &out(&y.unwrap()), &expected, tolerance);
    }
}

fn random_shape(random: &mut Random) -> Conv {
    loop {
        let k = random.pick(&[1, 1, 3, 3, 3, 5, 7]);
        let (kh, kw) = if random.below(5) == 0 {
            (k, random.pick(&[1, 2, 3]))
        } else {
            (k, k)
        };
        let groups = random.pick(&[1, 1, 1, 1, 2, 3, 20, 37]);
        let most = match groups {
            1 => random.pick(&[3, 16, 67]),
            20 | 37 => 1 + random.below(2),
            _ => random.pick(&[3, 20]),
        };
        let s = Conv {
            n: 1 + random.below(17),
            c_in: groups * (1 + random.below(most)),
            c_out: groups * (1 + random.below(most)),
            h: 1 + random.below(13),
            w: 1 + random.below(13),
            kh,
            kw,
            stride: random.pick(&[1, 1, 2, 3]),
            padding: random.below(4),
            groups,
        };
        let terms = product(&s.w_dims()) * s.n * s.h * s.w;
        if s.h + 2 * s.padding >= kh && s.w + 2 * s.padding >= kw && terms < 2_000_000 {
            return s;
        }
    }
}

#[test]
fn convolutions_of_random_shapes() {
    Isa::each(|_| {
        let mut random = Random(5);
        for _ in 0..150 {
            let s = random_shape(&mut random);
            check(&s, &mut random);
        }
    });
}

/// Maps as large as those that Winograd's transforms are for, cut at their edges.
#[test]
fn convolutions_of_large_maps() {
    let mut random = Random(6);
    for (c_in, c_out, size, n) in [
        (67, 49, 17, 1),
        (16, 20, 32, 2),
        (40, 33, 8, 9),
        (33, 96, 4, 16),
    ] {
        for padding in [0, 1, 2] {
            let s = Conv {
                n,
                c_in,
                c_out,
                h: size,
                w: size + 1,
                kh: 3,
                kw: 3,
                stride: 1,
                padding,
                groups: 1,
            };
            Isa::each(|_| check(&s, &mut random));
        }
    }
}

#[test]
fn reads_maps_side_by_side() {
    Isa::each(|_| {
        let mut random = Random(7);
        for kernel in [1, 3] {
            let s = Conv {
                n: 2,
                c_in: 3 + 18 + 1,
                c_out: 21,
                h: 9,
                w: 8,
                kh: kernel,
                kw: kernel,
                stride: 1,
                padding: kernel / 2,
                groups: 1,
            };
            let x = tensor(&random.numbers(product(&s.x_dims())), &s.x_dims());
            let w = random.numbers(product(&s.w_dims()));
            let b = random.numbers(s.c_out);
            let parts: Vec<Maps> = [(0, 3), (3, 18), (21, 1)]
                .iter()
                .map(|&(first, count)| {
                    Maps::from_nchw(&x.narrow(1, first, count).unwrap(), Load::Few).unwrap()
                })
                .collect();
            let joined = concat(&parts.iter().collect::<Vec<_>>()).unwrap();
            let channels = Channels::joined([3, 18, 1].map(Channels::new).iter());
            let conv = prepare(&s, &w, &b, &channels, Activation::Identity);
            let y = conv.forward(&joined, None, Load::Few).unwrap();
            let expected = reference(&s, &numbers(&x), &w, &b, None, Activation::Identity);
            close("joined maps", &out(&y), &expected, TOLERANCE);
            // A residual whose channels lie otherwise, and an input that does.
            let twice = concat(&[&y]).unwrap();
            assert!(conv.forward(&joined, Some(&twice), Load::Few).is_ok());
            let message = conv.forward(&Maps::from_nchw(&x, Load::Few).unwrap(), None, Load::Few);
            assert!(message.unwrap_err().to_string().contains("channels"));
        }
    });
}

/// A network of two convolutions, with shapes that threads share in every way.
#[test]
fn bits_do_not_depend_on_threads_or_chunks() {
    Isa::each(|_| {
        let mut random = Random(8);
        let first = Conv {
            n: 1,
            c_in: 3,
            c_out: 70,
            h: 32,
            w: 32,
            kh: 3,
            kw: 3,
            stride: 1,
            padding: 1,
            groups: 1,
        };
        let second = Conv {
            c_in: 70,
            c_out: 100,
            stride: 2,
            ..first.clone()
        };
        let third = Conv {
            c_in: 100,
            c_out: 100,
            h: 16,
            w: 16,
            stride: 1,
            ..first.clone()
        };
        let mut channels = Channels::new(3);
        let layers: Vec<Prepared> = [&first, &second, &third]
            .map(|s| {
                let (w, b) = (
                    random.numbers(product(&s.w_dims())),
                    random.numbers(s.c_out),
                );
                let conv = prepare(s, &w, &b, &channels, Activation::Relu);
                channels = conv.channels();
                conv
            })
            .into();
        let run = |images: &Tensor| {
            let rows = in_chunks(images, |images, load| {
                let mut x = Maps::from_nchw(images, load)?;
                for layer in &layers {
                    x = layer.forward(&x, None, load)?;
                }
                x.to_nchw()?.flatten_from(1)
            });
            bits(&numbers(&rows.unwrap()))
        };
        let row = 100 * 16 * 16;
        for n in [1, 2, 7, 33] {
            let images = tensor(&random.numbers(n * 3 * 1024), &[n, 3, 32, 32]);
            let alone = in_pool(1, || run(&images));
            for threads in [2, 5] {
                assert!(
                    in_pool(threads, || run(&images)) == alone,
                    "{n} images, {threads} threads"
                );
            }
            // An image's numbers are its own: its neighbours in the batch do not matter.
            if n < 8 {
                let last = images.narrow(0, n - 1, 1).unwrap().contiguous().unwrap();
                assert!(
                    in_pool(1, || run(&last)) == alone[(n - 1) * row..],
                    "{n} images"
                );
            }
        }
    });
}

#[test]
fn says_what_it_expected() {
    let s = Conv {
        n: 1,
        c_in: 3,
        c_out: 2,
        h: 4,
        w: 4,
        kh: 3,
        kw: 3,
        stride: 1,
        padding: 0,
        groups: 1,
    };
    let (w, b) = (tensor(&[0.0; 54], &s.w_dims()), tensor(&[0.0; 3], &[3]));
    let new = |bias, channels| {
        Prepared::new(
            &w,
            bias,
            s.cfg(),
            &Channels::new(channels),
            (4, 4),
            Activation::Relu,
        )
    };
    assert!(new(Some(&b), 3).unwrap_err().to_string().contains("[2]"));
    assert!(
        new(None, 4)
            .unwrap_err()
            .to_string()
            .contains("4 input channels")
    );
    let conv = new(None, 3).unwrap();
    let x = maps_of(&[0.0; 48], [1, 3, 4, 4], Load::Few);
    let wrong = maps_of(&[0.0; 75], [1, 3, 5, 5], Load::Few);
    let message = conv
        .forward(&wrong, None, Load::Few)
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("(1, 3, 4, 4)") && message.contains("(1, 3, 5, 5)"),
        "{message}"
    );
    let message = conv
        .forward(&x, Some(&x), Load::Few)
        .unwrap_err()
        .to_string();
    assert!(message.contains("residual"), "{message}");
    let empty = Tensor::zeros(
        (0, 3, 4, 4),
        candle_core::DType::F32,
        &candle_core::Device::Cpu,
    )
    .unwrap();
    assert!(
        in_chunks(&empty, |x, _| Ok(x.clone()))
            .unwrap_err()
            .to_string()
            .contains("at least one image")
    );
    assert!(Maps::from_nchw(&empty, Load::Few).is_err());
}
