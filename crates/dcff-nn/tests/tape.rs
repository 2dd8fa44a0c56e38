//! The custom operations give candle's autograd the gradients of the plain functions.

mod common;

use candle_core::{Device, Result, Tensor, Var};
use common::*;
use dcff_nn::{Activation, ConvConfig, Isa, PoolConfig, tape};

/// conv, norm, pools and linear in a row, as a function of its parameters.
fn network(x: &Tensor, p: &[Tensor]) -> Result<Tensor> {
    let cfg = ConvConfig {
        padding: 1,
        ..Default::default()
    };
    let pool = PoolConfig {
        kernel: 2,
        stride: 2,
        padding: 0,
    };
    let y = tape::conv2d(x, &p[0], Some(&p[1]), cfg)?;
    let (y, stats) = tape::batch_norm(&y, &p[2], &p[3], 1e-5, None, Activation::Relu)?;
    assert_eq!(stats.count, 5 * 36);
    let y = tape::max_pool2d(&y, pool)?;
    let z = tape::conv2d(&y, &p[4], None, cfg)?;
    let (y, _) = tape::batch_norm(&z, &p[2], &p[3], 1e-5, Some(&y), Activation::Identity)?;
    let y = tape::avg_pool2d(&y, PoolConfig { kernel: 3, ..pool })?.flatten_from(1)?;
    let y = tape::linear(&y, &p[5], Some(&p[6]))?;
    let labels = Tensor::new(&[0u32, 1, 2, 0, 1], &Device::Cpu)?;
    tape::cross_entropy(&y, &labels, 0.1)
}

#[test]
fn gradients_follow_the_loss() {
    Isa::each(|_| follow_the_loss().unwrap());
}

fn follow_the_loss() -> Result<()> {
    let mut random = Random(41);
    let x = tensor(&random.numbers(5 * 2 * 36), &[5, 2, 6, 6]);
    let shapes: [&[usize]; 7] = [
        &[4, 2, 3, 3],
        &[4],
        &[4],
        &[4],
        &[4, 4, 3, 3],
        &[3, 4],
        &[3],
    ];
    let vars: Vec<Var> = shapes
        .iter()
        .map(|dims| Var::from_tensor(&tensor(&random.numbers(product(dims)), dims)))
        .collect::<Result<_>>()?;
    let tensors: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
    let grads = network(&x, &tensors)?.backward()?;
    // Along one random direction in all parameters, the loss changes as the gradients say.
    let directions: Vec<Tensor> = shapes
        .iter()
        .map(|dims| tensor(&random.numbers(product(dims)), dims))
        .collect();
    let mut slope = 0f64;
    for (var, direction) in vars.iter().zip(&directions) {
        let grad = grads.get(var).expect("a gradient for every parameter");
        slope += f64::from((grad * direction)?.sum_all()?.to_scalar::<f32>()?);
    }
    let at = |step: f64| -> Result<f64> {
        let moved: Vec<Tensor> = tensors
            .iter()
            .zip(&directions)
            .map(|(p, d)| p.detach() + (d * step)?)
            .collect::<Result<_>>()?;
        Ok(f64::from(network(&x, &moved)?.to_scalar::<f32>()?))
    };
    let step = 2e-3;
    let difference = (at(step)? - at(-step)?) / (2.0 * step);
    assert!(
        (slope - difference).abs() < 0.02 * (1.0 + slope.abs()),
        "gradients say {slope}, differences {difference}"
    );
    Ok(())
}

#[test]
fn an_input_that_tracks_gets_its_gradient() -> Result<()> {
    let x = Var::ones((1, 1, 2, 2), candle_core::DType::F32, &Device::Cpu)?;
    let w = tensor(&[3.0], &[1, 1, 1, 1]);
    let y = tape::conv2d(x.as_tensor(), &w, None, ConvConfig::default())?;
    let grads = y.sum_all()?.backward()?;
    assert_eq!(numbers(grads.get(&x).unwrap()), [3.0; 4]);
    Ok(())
}
