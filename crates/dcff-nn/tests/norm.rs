//! Batch norm against double precision, and its gradients against finite differences.

mod common;

use common::*;
use dcff_nn::{Activation, Features, Isa, batch_norm, batch_norm_backward, batch_norm_inference};

const EPS: f64 = 1e-5;

struct Case {
    dims: [usize; 4],
    x: Vec<f32>,
    gamma: Vec<f32>,
    beta: Vec<f32>,
    residual: Option<Vec<f32>>,
    act: Activation,
}

impl Case {
    fn new(dims: [usize; 4], residual: bool, act: Activation, random: &mut Random) -> Self {
        Self {
            dims,
            x: random.numbers(product(&dims)),
            gamma: random.numbers(dims[1]),
            beta: random.numbers(dims[1]),
            residual: residual.then(|| random.numbers(product(&dims))),
            act,
        }
    }

    fn channel(&self, i: usize) -> usize {
        i / (self.dims[2] * self.dims[3]) % self.dims[1]
    }

    /// Mean, biased variance and output.
    fn reference(
        &self,
        x: &[f64],
        gamma: &[f64],
        beta: &[f64],
        residual: &[f64],
    ) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
        let c = self.dims[1];
        let count = (x.len() / c) as f64;
        let (mut mean, mut var) = (vec![0.0; c], vec![0.0; c]);
        for (i, x) in x.iter().enumerate() {
            mean[self.channel(i)] += x / count;
        }
        for (i, x) in x.iter().enumerate() {
            var[self.channel(i)] += (x - mean[self.channel(i)]).powi(2) / count;
        }
        let y = (0..x.len())
            .map(|i| {
                let c = self.channel(i);
                let y = gamma[c] * (x[i] - mean[c]) / (var[c] + EPS).sqrt()
                    + beta[c]
                    + residual.get(i).copied().unwrap_or(0.0);
                match self.act {
                    Activation::Identity => y,
                    Activation::Relu => y.max(0.0),
                    Activation::Relu6 => y.clamp(0.0, 6.0),
                }
            })
            .collect();
        (mean, var, y)
    }
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

#[test]
fn agrees_with_double_precision_and_finite_differences() {
    let mut random = Random(11);
    for round in 0..40 {
        let dims = [
            random.pick(&[1, 5, 16, 17, 33]),
            1 + random.below(9),
            1 + random.below(7),
            1 + random.below(7),
        ];
        if dims[0] * dims[2] * dims[3] < 6 {
            continue;
        }
        let act = random.pick(&[Activation::Identity, Activation::Relu, Activation::Relu6]);
        let mut case = Case::new(dims, round % 3 == 0, act, &mut random);
        if act == Activation::Relu6 {
            // Both ends are met.
            case.gamma.iter_mut().for_each(|gamma| *gamma *= 8.0);
        }
        Isa::each(|_| check(&case, &mut Random(round)));
    }
}

fn check(case: &Case, random: &mut Random) {
    let c = case.dims[1];
    let (x, gamma, beta) = (wide(&case.x), wide(&case.gamma), wide(&case.beta));
    let residual = case.residual.as_deref().map(wide).unwrap_or_default();
    let (mean, var, y) = case.reference(&x, &gamma, &beta, &residual);

    let xf = features(&case.x, case.dims);
    let (gt, bt) = (tensor(&case.gamma, &[c]), tensor(&case.beta, &[c]));
    let rf = case.residual.as_ref().map(|r| features(r, case.dims));
    let (got, stats) = batch_norm(&xf, &gt, &bt, EPS, rf.as_ref(), case.act).unwrap();
    close("output", &maps(&got), &y, 1e-5);
    close("mean", &numbers(&stats.mean), &mean, 1e-5);
    close("variance", &numbers(&stats.var), &var, 1e-5);
    assert_eq!(stats.count, case.x.len() / c);

    let evaluated = batch_norm_inference(
        &xf,
        &gt,
        &bt,
        &stats.mean,
        &stats.var,
        EPS,
        rf.as_ref(),
        case.act,
    )
    .unwrap();
    assert_eq!(bits(&maps(&evaluated)), bits(&maps(&got)));

    // Central differences of Σ y dy in double precision; numbers are multiples of 1e-3, so a step
    // of 1e-6 rarely crosses the kink of ReLU, and where it does the number is left out.
    let dy = random.numbers(case.x.len());
    let dyf = features(&dy, case.dims);
    let grads =
        batch_norm_backward(&xf, &got, &gt, &stats, EPS, rf.is_some(), case.act, &dyf).unwrap();
    let objective = |x: &[f64], gamma: &[f64], beta: &[f64], residual: &[f64]| -> f64 {
        let y = case.reference(x, gamma, beta, residual).2;
        y.iter().zip(&dy).map(|(y, &dy)| y * f64::from(dy)).sum()
    };
    let step = 1e-6;
    let difference = |f: &dyn Fn(f64) -> f64| (f(step) - f(-step)) / (2.0 * step);
    let moved = |v: &[f64], i: usize, by: f64| {
        let mut v = v.to_vec();
        v[i] += by;
        v
    };
    let tolerance = 2e-4;
    let dgamma: Vec<f64> = (0..c)
        .map(|i| difference(&|d| objective(&x, &moved(&gamma, i, d), &beta, &residual)))
        .collect();
    close(
        "gamma's gradient",
        &numbers(&grads.gamma),
        &dgamma,
        tolerance,
    );
    let dbeta: Vec<f64> = (0..c)
        .map(|i| difference(&|d| objective(&x, &gamma, &moved(&beta, i, d), &residual)))
        .collect();
    close("beta's gradient", &numbers(&grads.beta), &dbeta, tolerance);
    let picked: Vec<usize> = (0..8).map(|_| random.below(x.len())).collect();
    let at = |values: Vec<f32>| picked.iter().map(|&i| values[i]).collect::<Vec<_>>();
    let dx: Vec<f64> = picked
        .iter()
        .map(|&i| difference(&|d| objective(&moved(&x, i, d), &gamma, &beta, &residual)))
        .collect();
    close("input's gradient", &at(maps(&grads.input)), &dx, tolerance);
    assert_eq!(grads.residual.is_some(), rf.is_some());
    if let Some(dr) = &grads.residual {
        let expected: Vec<f64> = picked
            .iter()
            .map(|&i| difference(&|d| objective(&x, &gamma, &beta, &moved(&residual, i, d))))
            .collect();
        close("residual's gradient", &at(maps(dr)), &expected, tolerance);
    }
}

#[test]
fn a_large_mean_leaves_the_variance() {
    Isa::each(|_| {
        let mut random = Random(5);
        let dims = [17, 2, 9, 9];
        let x: Vec<f32> = random
            .numbers(product(&dims))
            .iter()
            .map(|x| 1000.0 + x)
            .collect();
        let case = Case {
            x,
            ..Case::new(dims, false, Activation::Identity, &mut random)
        };
        let (_, var, _) =
            case.reference(&wide(&case.x), &wide(&case.gamma), &wide(&case.beta), &[]);
        let ones = tensor(&[1.0, 1.0], &[2]);
        let x = features(&case.x, dims);
        let (_, stats) = batch_norm(&x, &ones, &ones, EPS, None, Activation::Identity).unwrap();
        close("variance", &numbers(&stats.var), &var, 1e-4);
    });
}

#[test]
fn unused_lanes_stay_zero() {
    Isa::each(|_| {
        // The gradient of a convolution sums over all lanes: what batch norm leaves there would show.
        let mut random = Random(6);
        let dims = [3, 2, 2, 2];
        let x = features(&random.numbers(24), dims);
        let ones = tensor(&[1.0, 1.0], &[2]);
        let (y, stats) = batch_norm(&x, &ones, &ones, EPS, None, Activation::Identity).unwrap();
        let dy = features(&random.numbers(24), dims);
        let grads =
            batch_norm_backward(&x, &y, &ones, &stats, EPS, false, Activation::Identity, &dy)
                .unwrap();
        let sum = |x: &Features| {
            let cfg = dcff_nn::ConvConfig::default();
            let w = tensor(&[1.0; 4], &[2, 2, 1, 1]);
            let grads = dcff_nn::conv2d_backward(x, &w, true, cfg, x, false).unwrap();
            numbers(&grads.bias.unwrap())
        };
        let plain = |x: &Features| -> Vec<f32> {
            let values = maps(x);
            let of = |c| (0..24).filter(|i| i / 4 % 2 == c).map(|i| values[i]).sum();
            vec![of(0), of(1)]
        };
        for x in [&y, &grads.input] {
            for (got, expected) in sum(x).iter().zip(plain(x)) {
                assert!((got - expected).abs() < 1e-5, "{got} is not {expected}");
            }
        }
    });
}

#[test]
fn same_bits_for_any_number_of_threads() {
    Isa::each(|_| {
        let mut random = Random(8);
        let dims = [37, 13, 5, 5];
        let case = Case::new(dims, true, Activation::Relu, &mut random);
        let dy = features(&random.numbers(product(&dims)), dims);
        let x = features(&case.x, dims);
        let residual = features(case.residual.as_ref().unwrap(), dims);
        let (gamma, beta) = (tensor(&case.gamma, &[13]), tensor(&case.beta, &[13]));
        let results: Vec<_> = [1, 2, 5]
            .into_iter()
            .map(|threads| {
                in_pool(threads, || {
                    let (y, stats) =
                        batch_norm(&x, &gamma, &beta, EPS, Some(&residual), case.act).unwrap();
                    let grads =
                        batch_norm_backward(&x, &y, &gamma, &stats, EPS, true, case.act, &dy)
                            .unwrap();
                    [
                        bits(&maps(&y)),
                        bits(&numbers(&stats.mean)),
                        bits(&numbers(&stats.var)),
                        bits(&maps(&grads.input)),
                        bits(&numbers(&grads.gamma)),
                        bits(&numbers(&grads.beta)),
                        bits(&maps(&grads.residual.unwrap())),
                    ]
                })
            })
            .collect();
        assert!(results[0] == results[1] && results[0] == results[2]);
    });
}
