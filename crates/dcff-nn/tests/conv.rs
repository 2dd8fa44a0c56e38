//! Convolution against double precision: random shapes, every instruction set, any thread count.

mod common;

use common::*;
use dcff_nn::{InputGradient, Isa, accumulate, conv2d, conv2d_backward};

/// Of the root mean square of the result, for sums of up to some thousand terms.
const TOLERANCE: f64 = 2e-5;

fn check(s: &Conv, random: &mut Random) {
    let x = random.numbers(product(&s.x_dims()));
    let w = random.numbers(product(&s.w_dims()));
    let b = random.numbers(s.c_out);
    let dy = random.numbers(product(&s.y_dims()));
    let [_, _, oh, ow] = s.y_dims();
    let mut y: Vec<f64> = (0..dy.len())
        .map(|i| f64::from(b[i / (oh * ow) % s.c_out]))
        .collect();
    let (mut dx, mut dw) = (vec![0f64; x.len()], vec![0f64; w.len()]);
    s.terms(|i, j, k| {
        y[k] += f64::from(x[i]) * f64::from(w[j]);
        dx[i] += f64::from(w[j]) * f64::from(dy[k]);
        dw[j] += f64::from(x[i]) * f64::from(dy[k]);
    });
    let mut db = vec![0f64; s.c_out];
    for (i, dy) in dy.iter().enumerate() {
        db[i / (oh * ow) % s.c_out] += f64::from(*dy);
    }

    let (xf, wt) = (features(&x, s.x_dims()), tensor(&w, &s.w_dims()));
    let got = conv2d(&xf, &wt, Some(&tensor(&b, &[s.c_out])), s.cfg()).unwrap();
    let name = |what| format!("{what} of {s:?} with {:?}", Isa::current());
    close(&name("output"), &maps(&got), &y, TOLERANCE);
    let dyf = features(&dy, s.y_dims());
    let grads = conv2d_backward(&xf, &wt, true, s.cfg(), &dyf, true).unwrap();
    let dx_got = grads.input.unwrap();
    // Added to another gradient on the way, it is the same sum as afterwards.
    let other = features(&x, s.x_dims());
    let add_to = InputGradient::AddTo(other.clone());
    let summed = conv2d_backward(&xf, &wt, false, s.cfg(), &dyf, add_to).unwrap();
    assert_eq!(
        maps(&summed.input.unwrap()),
        maps(&accumulate(other, &dx_got).unwrap()),
        "{}",
        name("sum of input gradients")
    );
    close(&name("input gradient"), &maps(&dx_got), &dx, TOLERANCE);
    close(
        &name("weight gradient"),
        &numbers(&grads.weight),
        &dw,
        TOLERANCE,
    );
    close(
        &name("bias gradient"),
        &numbers(&grads.bias.unwrap()),
        &db,
        TOLERANCE,
    );
}

/// The reference's gradients, which use the same list of terms as its output, against central
/// differences of the output alone. A convolution is linear in both factors, so they are exact.
#[test]
fn the_reference_agrees_with_finite_differences() {
    let mut random = Random(2);
    for _ in 0..10 {
        let s = random_shape(&mut random);
        let wide = |values: Vec<f32>| values.into_iter().map(f64::from).collect::<Vec<f64>>();
        let x = wide(random.numbers(product(&s.x_dims())));
        let w = wide(random.numbers(product(&s.w_dims())));
        let dy = wide(random.numbers(product(&s.y_dims())));
        let objective = |x: &[f64], w: &[f64]| {
            let mut y = vec![0f64; dy.len()];
            s.terms(|i, j, k| y[k] += x[i] * w[j]);
            y.iter().zip(&dy).map(|(y, dy)| y * dy).sum::<f64>()
        };
        let (mut dx, mut dw) = (vec![0f64; x.len()], vec![0f64; w.len()]);
        s.terms(|i, j, k| {
            dx[i] += w[j] * dy[k];
            dw[j] += x[i] * dy[k];
        });
        let moved = |values: &[f64], at: usize, by: f64| {
            let mut values = values.to_vec();
            values[at] += by;
            values
        };
        let (i, j) = (random.below(x.len()), random.below(w.len()));
        let by_x = (objective(&moved(&x, i, 1.0), &w) - objective(&moved(&x, i, -1.0), &w)) / 2.0;
        let by_w = (objective(&x, &moved(&w, j, 1.0)) - objective(&x, &moved(&w, j, -1.0))) / 2.0;
        assert!((by_x - dx[i]).abs() < 1e-6 * (1.0 + dx[i].abs()), "{s:?}");
        assert!((by_w - dw[j]).abs() < 1e-6 * (1.0 + dw[j].abs()), "{s:?}");
    }
}

fn random_shape(random: &mut Random) -> Conv {
    loop {
        let (kh, kw) = if random.below(4) == 0 {
            (random.pick(&[1, 2, 3]), random.pick(&[1, 3, 5]))
        } else {
            let k = random.pick(&[1, 3, 3, 3, 5, 7]);
            (k, k)
        };
        let groups = random.pick(&[1, 1, 1, 2, 3]);
        let most = random.pick(&[3, 8, 24]);
        // Every fourth time each channel has a kernel of its own.
        let (groups, c_in, c_out) = match random.below(4) {
            0 => {
                let channels = 2 + random.below(most);
                (channels, channels, channels)
            }
            _ => (
                groups,
                groups * (1 + random.below(most)),
                groups * (1 + random.below(most)),
            ),
        };
        let s = Conv {
            n: random.pick(&[1, 5, 16, 17, 33]),
            c_in,
            c_out,
            h: 1 + random.below(10),
            w: 1 + random.below(10),
            kh,
            kw,
            stride: 1 + random.below(2),
            padding: random.below(4),
            groups,
        };
        let terms = product(&s.w_dims()) * s.n * s.h * s.w;
        if s.h + 2 * s.padding >= kh && s.w + 2 * s.padding >= kw && terms < 3_000_000 {
            return s;
        }
    }
}

#[test]
fn agrees_with_double_precision() {
    let mut random = Random(1);
    for round in 0..120 {
        let shape = random_shape(&mut random);
        Isa::each(|_| check(&shape, &mut Random(round)));
    }
}

#[test]
fn agrees_on_the_shapes_of_networks() {
    let shape = |n, c_in, c_out, h, k, stride, padding, groups| Conv {
        n,
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
    for shape in [
        shape(2, 3, 32, 16, 3, 1, 1, 1),
        shape(17, 67, 41, 8, 3, 1, 1, 1),
        shape(16, 67, 66, 4, 3, 1, 1, 1),
        shape(33, 20, 31, 2, 3, 1, 1, 1),
        shape(3, 16, 25, 16, 3, 2, 1, 1),
        shape(2, 33, 67, 7, 1, 1, 0, 1),
        shape(2, 33, 30, 8, 1, 2, 0, 1),
        shape(1, 3, 9, 23, 7, 2, 3, 1),
        shape(5, 24, 24, 9, 3, 1, 1, 24),
        shape(5, 24, 24, 9, 3, 2, 1, 24),
        shape(17, 6, 6, 1, 3, 1, 1, 1),
        shape(1, 1, 1, 1, 1, 1, 0, 1),
        shape(4, 5, 6, 13, 5, 1, 2, 1),
        shape(1, 2, 3, 9, 3, 3, 0, 1),
        shape(1, 2, 3, 8, 1, 3, 2, 1),
    ] {
        Isa::each(|_| check(&shape, &mut Random(7)));
    }
}

/// More channels than any cache holds at once: sums over them are made in several parts.
#[test]
fn agrees_with_hundreds_of_channels() {
    let mut random = Random(7);
    for (c_in, c_out, size, k) in [
        (512, 512, 2, 3),
        (256, 512, 4, 3),
        (513, 130, 3, 3),
        (130, 517, 2, 1),
        (520, 257, 3, 1),
    ] {
        let shape = Conv {
            n: 17,
            c_in,
            c_out,
            h: size,
            w: size,
            kh: k,
            kw: k,
            stride: 1,
            padding: k / 2,
            groups: 1,
        };
        Isa::each(|_| check(&shape, &mut random));
    }
}

#[test]
fn same_bits_for_any_number_of_threads() {
    Isa::each(|_| {
        let mut random = Random(3);
        for (c_in, c_out, h, k, stride, groups) in [
            (3, 33, 9, 3, 1, 1),
            (20, 17, 8, 3, 2, 1),
            (40, 30, 4, 1, 1, 1),
            (8, 8, 5, 3, 1, 8),
            (24, 40, 8, 3, 1, 1),
        ] {
            let s = Conv {
                n: 37,
                c_in,
                c_out,
                h,
                w: h,
                kh: k,
                kw: k,
                stride,
                padding: k / 2,
                groups,
            };
            let x = features(&random.numbers(product(&s.x_dims())), s.x_dims());
            let w = tensor(&random.numbers(product(&s.w_dims())), &s.w_dims());
            let dy = features(&random.numbers(product(&s.y_dims())), s.y_dims());
            let results: Vec<_> = [1, 2, 5]
                .into_iter()
                .map(|threads| {
                    in_pool(threads, || {
                        let y = conv2d(&x, &w, None, s.cfg()).unwrap();
                        let grads = conv2d_backward(&x, &w, true, s.cfg(), &dy, true).unwrap();
                        [
                            bits(&maps(&y)),
                            bits(&maps(&grads.input.unwrap())),
                            bits(&numbers(&grads.weight)),
                            bits(&numbers(&grads.bias.unwrap())),
                        ]
                    })
                })
                .collect();
            assert!(results[0] == results[1], "1 and 2 threads differ for {s:?}");
            assert!(results[0] == results[2], "1 and 5 threads differ for {s:?}");
        }
    });
}

#[test]
fn says_what_does_not_fit() {
    let x = features(&[0.0; 8], [1, 2, 2, 2]);
    let message = |w: &[usize], cfg| {
        conv2d(&x, &tensor(&vec![0.0; product(w)], w), None, cfg)
            .unwrap_err()
            .to_string()
    };
    let cfg = dcff_nn::ConvConfig::default();
    for (got, expected) in [
        (
            message(&[1, 3, 1, 1], cfg),
            "2 input channels in 1 groups, got [1, 3, 1, 1]",
        ),
        (
            message(&[1, 2, 3, 3], cfg),
            "fits the padded input of 2 x 2, got weight [1, 2, 3, 3]",
        ),
        (
            message(&[2], cfg),
            "[C_out, C_in / groups, K_h, K_w], got [2]",
        ),
        (
            message(&[1, 2, 1, 1], dcff_nn::ConvConfig { stride: 0, ..cfg }),
            "got 0 and 1",
        ),
    ] {
        assert!(got.contains(expected), "{got} does not contain {expected}");
    }
}
