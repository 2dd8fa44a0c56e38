//! What Winograd's transforms cost in accuracy, stated and held.

mod common;

use common::*;
use dcff_nn::{Isa, conv2d, conv2d_backward};

/// Root mean square error over root mean square of the reference, the largest of all passes.
///
/// 3x3 kernels of stride 1 go through the transforms; in the 3x4 kernel with a last column of
/// zeros, the same sums are added directly.
fn errors(channels: usize, size: usize, transformed: bool) -> f64 {
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
    let rms = |got: &[f32], expected: &[f64]| {
        let square = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>();
        let error = square(&mut got.iter().zip(expected).map(|(&g, e)| f64::from(g) - e));
        (error / square(&mut expected.iter().copied())).sqrt()
    };
    if transformed {
        let wt = tensor(&w, &s.w_dims());
        let got = conv2d(&xf, &wt, None, s.cfg()).unwrap();
        let grads = conv2d_backward(&xf, &wt, false, s.cfg(), &dyf, true).unwrap();
        return rms(&maps(&got), &y)
            .max(rms(&maps(&grads.input.unwrap()), &dx))
            .max(rms(&numbers(&grads.weight), &dw));
    }
    // One column more in the kernel and in the output, which is cut off again.
    let wide: Vec<f32> = w
        .chunks(3)
        .flat_map(|row| [row[0], row[1], row[2], 0.0])
        .collect();
    let padded = Conv {
        w: size + 1,
        ..s.clone()
    };
    let mut wide_x = vec![0f32; product(&padded.x_dims())];
    for (to, from) in wide_x.chunks_mut(size + 1).zip(x.chunks(size)) {
        to[..size].copy_from_slice(from);
    }
    let wt = tensor(&wide, &[channels, channels, 3, 4]);
    let got = conv2d(&features(&wide_x, padded.x_dims()), &wt, None, s.cfg()).unwrap();
    rms(&maps(&got), &y)
}

#[test]
fn transforms_keep_six_digits() {
    for isa in Isa::available() {
        isa.with(|| {
            // Tiles of 4 x 4 outputs, with and without a rest, and of 2 x 2 outputs.
            for (channels, size) in [(24, 8), (40, 7), (40, 2)] {
                let error = errors(channels, size, true);
                assert!(error < 1e-6, "{isa:?}: {error:e} for {channels} at {size}");
                assert!(
                    error > 0.0,
                    "{isa:?}: no rounding at all for {channels} at {size}"
                );
            }
            let direct = errors(24, 8, false);
            assert!(direct < 3e-7, "{isa:?}: {direct:e} without transforms");
        })
        .unwrap();
    }
}
