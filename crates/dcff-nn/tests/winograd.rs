//! What Winograd's transforms cost in accuracy, stated and held.

mod common;

use common::*;
use dcff_nn::{ConvConfig, Convolution, Isa, conv2d, conv2d_backward};

/// Root mean square errors over the root mean square of the reference: output, input gradient and
/// weight gradient.
fn errors(channels: usize, size: usize, algorithm: Convolution) -> [f64; 3] {
    let mut random = Random(51);
    let s = Conv {
        n: 4,
        c_in: channels,
        c_out: channels,
        h: size,
        w: size,
        kh: 3,
        kw: 3,
        stride: 1,
        padding: 1,
        groups: 1,
    };
    let x = random.numbers(product(&s.x_dims()));
    let w = random.numbers(product(&s.w_dims()));
    let dy = random.numbers(product(&s.y_dims()));
    let mut y = vec![0f64; dy.len()];
    let (mut dx, mut dw) = (vec![0f64; x.len()], vec![0f64; w.len()]);
    s.terms(|i, j, k| {
        y[k] += f64::from(x[i]) * f64::from(w[j]);
        dx[i] += f64::from(w[j]) * f64::from(dy[k]);
        dw[j] += f64::from(x[i]) * f64::from(dy[k]);
    });
    let (xf, dyf) = (features(&x, s.x_dims()), features(&dy, s.y_dims()));
    let wt = tensor(&w, &s.w_dims());
    let cfg = ConvConfig {
        algorithm,
        ..s.cfg()
    };
    let got = conv2d(&xf, &wt, None, cfg).unwrap();
    let grads = conv2d_backward(&xf, &wt, false, cfg, &dyf, true).unwrap();
    [
        relative(&maps(&got), &y),
        relative(&maps(&grads.input.unwrap()), &dx),
        relative(&numbers(&grads.weight), &dw),
    ]
}

fn relative(got: &[f32], expected: &[f64]) -> f64 {
    let error: f64 = got
        .iter()
        .zip(expected)
        .map(|(&g, e)| (f64::from(g) - e).powi(2))
        .sum();
    (error / expected.iter().map(|e| e * e).sum::<f64>()).sqrt()
}

#[test]
fn transforms_keep_six_digits_and_direct_sums_more() {
    Isa::each(|isa| {
        // Tiles of 4 x 4 outputs, with and without a rest, and of 2 x 2 outputs.
        for (channels, size) in [(24, 8), (40, 7), (40, 2)] {
            for error in errors(channels, size, Convolution::Fast) {
                assert!(error < 1e-6, "{isa:?}: {error:e} for {channels} at {size}");
            }
        }
        let fast = errors(24, 8, Convolution::Fast);
        let direct = errors(24, 8, Convolution::Direct);
        for (direct, fast) in direct.into_iter().zip(fast) {
            assert!(direct < 3e-7, "{isa:?}: {direct:e} by direct sums");
            assert!(
                direct < fast,
                "{isa:?}: {direct:e} is no better than {fast:e}"
            );
        }
    });
}
