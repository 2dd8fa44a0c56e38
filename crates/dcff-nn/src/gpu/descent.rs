//! Optimisers on a card: a step over all parameters in as few launches as possible.

use candle_core::{Result, Tensor};

use super::Gpu;
use super::kernel::{ADAMAX, ADAMW, Kernel, SGD};
use super::parameters;
use super::train::{over_rows, over_tensors};
use crate::adamax::AdamaxConfig;
use crate::adamw::AdamWConfig;
use crate::sgd::SgdConfig;

/// See [`crate::sgd_steps`]: triples of parameter, velocity and gradient.
pub(crate) fn sgd(gpu: &Gpu, triples: &[[&Tensor; 3]], cfg: &SgdConfig, cell: usize) -> Result<()> {
    let gradients = contiguous(triples)?;
    let rate = gpu.cells(cell, &cfg.rates())?;
    over_tensors(
        gpu,
        "sgd_step",
        || SGD,
        &with_gradients(triples, &gradients),
        |tensors, _| parameters::Sgd {
            tensors,
            rate,
            momentum: cfg.momentum as f32,
            decay: cfg.weight_decay as f32,
            nesterov: i32::from(cfg.nesterov),
        },
    )
}

/// See [`crate::adamax_steps`].
pub(crate) fn adamax(
    gpu: &Gpu,
    rows: &[[&Tensor; 4]],
    cfg: &AdamaxConfig,
    cell: usize,
) -> Result<()> {
    let numbers = AdamNumbers {
        take: (1.0 - cfg.beta1) as f32,
        keep: cfg.beta2 as f32,
        add: 0.0,
        eps: cfg.eps as f32,
        decay: cfg.weight_decay as f32,
    };
    let rates = gpu.cells(cell, &cfg.rates())?;
    adam(gpu, "adamax_steps", || ADAMAX, rows, rates, numbers)
}

/// See [`crate::adamw_steps`].
pub(crate) fn adamw(
    gpu: &Gpu,
    rows: &[[&Tensor; 4]],
    cfg: &AdamWConfig,
    cell: usize,
) -> Result<()> {
    let numbers = AdamNumbers {
        take: (1.0 - cfg.beta1) as f32,
        keep: cfg.beta2 as f32,
        add: (1.0 - cfg.beta2) as f32,
        eps: cfg.eps as f32,
        // It is among the rates.
        decay: 0.0,
    };
    let rates = gpu.cells(cell, &cfg.rates())?;
    adam(gpu, "adamw_steps", || ADAMW, rows, rates, numbers)
}

/// What both of Adam's kin take.
#[derive(Clone, Copy)]
struct AdamNumbers {
    take: f32,
    keep: f32,
    add: f32,
    eps: f32,
    decay: f32,
}

fn adam(
    gpu: &Gpu,
    op: &str,
    kernel: fn() -> Kernel<parameters::Adam>,
    rows: &[[&Tensor; 4]],
    rates: u64,
    numbers: AdamNumbers,
) -> Result<()> {
    let AdamNumbers {
        take,
        keep,
        add,
        eps,
        decay,
    } = numbers;
    let gradients = contiguous(rows)?;
    // The order of the kernels' structure: the gradient is its third.
    let rows: Vec<[&Tensor; 4]> = with_gradients(rows, &gradients)
        .into_iter()
        .map(|[parameter, mean, other, gradient]| [parameter, mean, gradient, other])
        .collect();
    over_rows(gpu, op, kernel, &rows, |tensors, d, _| parameters::Adam {
        tensors,
        d,
        rates,
        take,
        keep,
        add,
        eps,
        decay,
    })
}

/// The gradients, which are last, in the order of their numbers.
fn contiguous<const K: usize>(rows: &[[&Tensor; K]]) -> Result<Vec<Tensor>> {
    rows.iter().map(|row| row[K - 1].contiguous()).collect()
}

/// `rows` with other gradients.
fn with_gradients<'a, const K: usize>(
    rows: &[[&'a Tensor; K]],
    gradients: &'a [Tensor],
) -> Vec<[&'a Tensor; K]> {
    let pairs = rows.iter().zip(gradients);
    pairs
        .map(|(row, gradient)| {
            let mut row = *row;
            row[K - 1] = gradient;
            row
        })
        .collect()
}
