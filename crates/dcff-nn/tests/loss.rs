//! Cross-entropy and the linear layer against double precision and finite differences.

mod common;

use candle_core::{Device, Tensor};
use common::*;
use dcff_nn::{Isa, cross_entropy, linear, linear_backward};

fn reference(z: &[f64], labels: &[u32], smoothing: f64) -> f64 {
    let (n, k) = (labels.len(), z.len() / labels.len());
    let mut loss = 0.0;
    for (z, &label) in z.chunks(k).zip(labels) {
        let sum: f64 = z.iter().map(|z| z.exp()).sum();
        for (i, z) in z.iter().enumerate() {
            let hard = if i == label as usize { 1.0 } else { 0.0 };
            let target = (1.0 - smoothing) * hard + smoothing / k as f64;
            loss -= target * (z - sum.ln()) / n as f64;
        }
    }
    loss
}

fn labels(of: &[u32]) -> Tensor {
    Tensor::new(of, &Device::Cpu).unwrap()
}

#[test]
fn cross_entropy_agrees_with_its_definition() {
    Isa::each(|_| {
        let mut random = Random(31);
        for (n, k) in [(1, 1), (3, 2), (17, 10)] {
            for smoothing in [0.0, 0.1] {
                let z = random.numbers(n * k);
                let y: Vec<u32> = (0..n).map(|_| random.below(k) as u32).collect();
                let loss = cross_entropy(&tensor(&z, &[n, k]), &labels(&y), smoothing).unwrap();
                let z: Vec<f64> = z.iter().map(|&z| f64::from(z)).collect();
                assert!(
                    (loss.value.read().unwrap().mean - reference(&z, &y, smoothing)).abs() < 1e-9
                );
                let grad: Vec<f64> = (0..z.len())
                    .map(|i| {
                        let at = |d: f64| {
                            let mut z = z.clone();
                            z[i] += d;
                            reference(&z, &y, smoothing)
                        };
                        (at(1e-5) - at(-1e-5)) / 2e-5
                    })
                    .collect();
                close("gradient", &numbers(&loss.grad), &grad, 1e-5);
            }
        }
    });
}

#[test]
fn cross_entropy_counts_right_answers_and_survives_extremes() {
    Isa::each(|_| {
        let z = tensor(&[1.0, 1.0, 0.0, 2.0, 1000.0, -1000.0], &[3, 2]);
        // Row 0 ties (the first wins), row 1 is wrong, row 2 is right.
        let loss = cross_entropy(&z, &labels(&[0, 0, 0]), 0.0).unwrap();
        assert!(loss.value.is_known());
        let loss = loss.value.read().unwrap();
        assert_eq!(loss.correct, 2);
        assert!((loss.mean - (2f64.ln() + 2.0 + (1.0 + (-2f64).exp()).ln()) / 3.0).abs() < 1e-9);
        let nan = cross_entropy(&tensor(&[f32::NAN, 0.0], &[1, 2]), &labels(&[0]), 0.0).unwrap();
        let nan = nan.value.read().unwrap();
        assert!(nan.mean.is_nan());
        assert_eq!(nan.correct, 0);
    });
}

#[test]
fn cross_entropy_says_what_does_not_fit() {
    let z = tensor(&[0.0; 4], &[2, 2]);
    for (y, smoothing, expected) in [
        (labels(&[0, 2]), 0.0, "labels below 2, got 2"),
        (labels(&[0]), 0.0, "expected 2 labels"),
        (labels(&[0, 1]), 1.5, "smoothing from 0 to 1, got 1.5"),
    ] {
        let message = cross_entropy(&z, &y, smoothing).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn linear_agrees_with_double_precision() {
    Isa::each(|_| {
        let mut random = Random(32);
        for (n, f, k) in [(1, 1, 1), (5, 7, 3), (33, 76, 10), (16, 300, 100)] {
            let (x, w, b) = (
                random.numbers(n * f),
                random.numbers(k * f),
                random.numbers(k),
            );
            let dy = random.numbers(n * k);
            let (mut y, mut dx, mut dw, mut db) = (
                vec![0f64; n * k],
                vec![0f64; n * f],
                vec![0f64; k * f],
                vec![0f64; k],
            );
            for i in 0..n {
                for j in 0..k {
                    let g = f64::from(dy[i * k + j]);
                    y[i * k + j] += f64::from(b[j]);
                    db[j] += g;
                    for l in 0..f {
                        y[i * k + j] += f64::from(x[i * f + l]) * f64::from(w[j * f + l]);
                        dx[i * f + l] += g * f64::from(w[j * f + l]);
                        dw[j * f + l] += g * f64::from(x[i * f + l]);
                    }
                }
            }
            let (x, w) = (tensor(&x, &[n, f]), tensor(&w, &[k, f]));
            let got = linear(&x, &w, Some(&tensor(&b, &[k]))).unwrap();
            close("output", &numbers(&got), &y, 1e-5);
            let grads = linear_backward(&x, &w, &tensor(&dy, &[n, k]), true).unwrap();
            close("input gradient", &numbers(&grads.input.unwrap()), &dx, 1e-5);
            close("weight gradient", &numbers(&grads.weight), &dw, 1e-5);
            close("bias gradient", &numbers(&grads.bias), &db, 1e-5);
        }
    });
}
