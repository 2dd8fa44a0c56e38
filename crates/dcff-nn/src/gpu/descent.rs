//! Optimisers on a GPU: a step over all parameters in as few launches as possible.

use candle_core::{Result, Tensor};

use super::handle::Gpu;
use super::kernel::{ADAMAX, ADAMW, Kernel, SGD};
use super::parameters;
use super::train::{over_rows, over_tensors};

/// What a step of SGD takes beside its rate.
#[derive(Clone, Copy)]
pub(crate) struct SgdNumbers {
    pub(crate) momentum: f32,
    pub(crate) decay: f32,
    pub(crate) nesterov: bool,
}

/// See [`crate::sgd_steps`]: triples of parameter, velocity and gradient.
pub(crate) fn sgd(
    gpu: &Gpu,
    triples: &[[&Tensor; 3]],
    numbers: SgdNumbers,
    rates: &[f64],
    cell: usize,
) -> Result<()> {
    let gradients = contiguous(triples)?;
    let rate = gpu.cells(cell, rates)?;
    over_tensors(
        gpu,
        "sgd_step",
        || SGD,
        &with_gradients(triples, &gradients),
        |tensors, _| parameters::Sgd {
            tensors,
            rate,
            momentum: numbers.momentum,
            decay: numbers.decay,
            nesterov: i32::from(numbers.nesterov),
        },
    )
}

/// See [`crate::adamax_steps`].
pub(crate) fn adamax(
    gpu: &Gpu,
    rows: &[[&Tensor; 4]],
    numbers: AdamNumbers,
    rates: &[f64],
    cell: usize,
) -> Result<()> {
    let rates = gpu.cells(cell, rates)?;
    adam(gpu, "adamax_steps", || ADAMAX, rows, rates, numbers)
}

/// See [`crate::adamw_steps`].
pub(crate) fn adamw(
    gpu: &Gpu,
    rows: &[[&Tensor; 4]],
    numbers: AdamNumbers,
    rates: &[f64],
    cell: usize,
) -> Result<()> {
    let rates = gpu.cells(cell, rates)?;
    adam(gpu, "adamw_steps", || ADAMW, rows, rates, numbers)
}

/// What both of Adam's kin take beside their rates.
#[derive(Clone, Copy)]
pub(crate) struct AdamNumbers {
    pub(crate) take: f32,
    pub(crate) keep: f32,
    pub(crate) add: f32,
    pub(crate) eps: f32,
    pub(crate) decay: f32,
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
