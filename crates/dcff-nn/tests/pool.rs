//! Pooling and the shortcut against plain references.

mod common;

use common::*;
use dcff_nn::{
    Isa, PoolConfig, avg_pool2d, avg_pool2d_backward, global_avg_pool, global_avg_pool_backward,
    max_pool2d, max_pool2d_backward, shortcut, shortcut_backward,
};

/// Calls `f(output index, input index)` for every pixel of every window, in row-major order.
fn windows(dims: [usize; 4], cfg: PoolConfig, mut f: impl FnMut(usize, usize)) -> [usize; 4] {
    let [n, c, h, w] = dims;
    let size = |h| (h + 2 * cfg.padding - cfg.kernel) / cfg.stride + 1;
    let (oh, ow) = (size(h), size(w));
    for plane in 0..n * c {
        for i in 0..oh {
            for j in 0..ow {
                for u in 0..cfg.kernel {
                    for v in 0..cfg.kernel {
                        let y = (i * cfg.stride + u).wrapping_sub(cfg.padding);
                        let x = (j * cfg.stride + v).wrapping_sub(cfg.padding);
                        if y < h && x < w {
                            f((plane * oh + i) * ow + j, (plane * h + y) * w + x);
                        }
                    }
                }
            }
        }
    }
    [n, c, oh, ow]
}

fn random_pool(random: &mut Random) -> ([usize; 4], PoolConfig) {
    let kernel = random.pick(&[1, 2, 2, 3, 3, 5]);
    let cfg = PoolConfig {
        kernel,
        stride: 1 + random.below(3),
        padding: random.below(kernel / 2 + 1),
    };
    let dims = [
        random.pick(&[1, 5, 16, 17, 33]),
        1 + random.below(5),
        kernel + random.below(7),
        kernel + random.below(7),
    ];
    (dims, cfg)
}

#[test]
fn max_pooling_gives_the_first_maximum_everything() {
    let mut random = Random(21);
    for _ in 0..60 {
        let (dims, cfg) = random_pool(&mut random);
        // Few different values: many ties.
        let x: Vec<f32> = (0..product(&dims))
            .map(|_| random.below(4) as f32 - 2.0)
            .collect();
        let mut best: Vec<Option<usize>> = Vec::new();
        let out = windows(dims, cfg, |o, i| {
            best.resize(best.len().max(o + 1), None);
            if best[o].is_none_or(|b| x[i] > x[b]) {
                best[o] = Some(i);
            }
        });
        let best: Vec<usize> = best.into_iter().flatten().collect();
        let dy = random.numbers(best.len());
        let mut dx = vec![0f64; x.len()];
        for (&i, &dy) in best.iter().zip(&dy) {
            dx[i] += f64::from(dy);
        }
        Isa::each(|_| {
            let (y, indices) = max_pool2d(&features(&x, dims), cfg).unwrap();
            let expected: Vec<f32> = best.iter().map(|&i| x[i]).collect();
            assert_eq!(maps(&y), expected, "{dims:?} {cfg:?}");
            let got = max_pool2d_backward(&indices, &features(&dy, out)).unwrap();
            close("gradient", &maps(&got), &dx, 1e-6);
        });
    }
}

#[test]
fn max_pooling_keeps_nan_and_infinity() {
    Isa::each(|_| {
        let cfg = PoolConfig {
            kernel: 2,
            stride: 2,
            padding: 0,
        };
        let x = [
            f32::NEG_INFINITY,
            f32::NEG_INFINITY,
            f32::NEG_INFINITY,
            f32::NEG_INFINITY,
        ];
        let (y, indices) = max_pool2d(&features(&x, [1, 1, 2, 2]), cfg).unwrap();
        assert_eq!(maps(&y), [f32::NEG_INFINITY]);
        let dx = max_pool2d_backward(&indices, &features(&[1.0], [1, 1, 1, 1])).unwrap();
        assert_eq!(maps(&dx), [1.0, 0.0, 0.0, 0.0]);
        let (y, _) = max_pool2d(&features(&[1.0, f32::NAN, 3.0, 2.0], [1, 1, 2, 2]), cfg).unwrap();
        assert!(maps(&y)[0].is_nan());
    });
}

#[test]
fn average_pooling_counts_padding() {
    let mut random = Random(22);
    for _ in 0..60 {
        let (dims, cfg) = random_pool(&mut random);
        let x = random.numbers(product(&dims));
        let share = 1.0 / (cfg.kernel * cfg.kernel) as f64;
        let mut y: Vec<f64> = Vec::new();
        let out = windows(dims, cfg, |o, i| {
            y.resize(y.len().max(o + 1), 0.0);
            y[o] += f64::from(x[i]) * share;
        });
        let dy = random.numbers(y.len());
        let mut dx = vec![0f64; x.len()];
        windows(dims, cfg, |o, i| dx[i] += f64::from(dy[o]) * share);
        Isa::each(|_| {
            close(
                "output",
                &maps(&avg_pool2d(&features(&x, dims), cfg).unwrap()),
                &y,
                1e-6,
            );
            let got = avg_pool2d_backward((dims[2], dims[3]), cfg, &features(&dy, out)).unwrap();
            close("gradient", &maps(&got), &dx, 1e-6);
        });
    }
}

#[test]
fn global_pooling_is_the_mean() {
    Isa::each(|_| {
        let x = features(&[1.0, 2.0, 3.0, 6.0, 0.0, 0.0, 0.0, 4.0], [1, 2, 2, 2]);
        assert_eq!(maps(&global_avg_pool(&x).unwrap()), [3.0, 1.0]);
        let dx = global_avg_pool_backward((2, 2), &features(&[4.0, 8.0], [1, 2, 1, 1])).unwrap();
        assert_eq!(maps(&dx), [1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0]);
    });
}

#[test]
fn refuses_windows_that_do_not_fit() {
    let x = features(&[0.0; 4], [1, 1, 2, 2]);
    for (kernel, stride, padding) in [(0, 1, 0), (3, 1, 0), (2, 0, 0), (2, 1, 2), (16, 1, 8)] {
        let cfg = PoolConfig {
            kernel,
            stride,
            padding,
        };
        assert!(max_pool2d(&x, cfg).is_err(), "{cfg:?}");
        assert!(avg_pool2d(&x, cfg).is_err(), "{cfg:?}");
    }
}

/// ```python
/// x = torch.arange(18.).reshape(1, 2, 3, 3)
/// F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, d // 2, d - d // 2))   # d = out - 2
/// ```
#[test]
fn the_shortcut_pads_channels_on_both_sides() {
    Isa::each(|_| {
        let x = features(&(0..18).map(|i| i as f32).collect::<Vec<_>>(), [1, 2, 3, 3]);
        let (first, second) = ([0.0, 2.0, 6.0, 8.0], [9.0, 11.0, 15.0, 17.0]);
        let zero = [0.0; 4];
        for (out, expected) in [
            (2, vec![first, second]),
            // d = 3: one before, two after.
            (5, vec![zero, first, second, zero, zero]),
            // d = -1: floor(-1 / 2) = -1 crops the first.
            (1, vec![second]),
        ] {
            let y = shortcut(&x, 2, out).unwrap();
            assert_eq!(maps(&y), expected.concat(), "{out} channels");
            let dx = shortcut_backward(x.dims(), 2, &y).unwrap();
            let kept = |c: &[f32; 4]| if expected.contains(c) { *c } else { zero };
            let spread = |c: [f32; 4]| [c[0], 0.0, c[1], 0.0, 0.0, 0.0, c[2], 0.0, c[3]];
            assert_eq!(
                maps(&dx),
                [spread(kept(&first)), spread(kept(&second))].concat()
            );
        }
    });
}
