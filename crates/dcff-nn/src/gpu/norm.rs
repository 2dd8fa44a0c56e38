//! Batch norm on a GPU: two launches each way.

use candle_core::{Result, Tensor, bail};

use super::handle::{COUNTERS, Gpu, THREADS};
use super::kernel::{NORM_APPLY, NORM_BACKWARD, NORM_MEASURE, NORM_SCALE, NORM_SUMS};
use super::maps::Maps;
use super::parameters;
use super::sizes::int;
use crate::activation::{Activation, Clamp};

/// Rows that a thread of a reduction reads at least, if there are that many.
const ROWS_PER_THREAD: usize = 8;

fn rows(x: &Maps) -> Result<parameters::Rows> {
    let (n, c, h, w) = x.dims();
    let vector = [4, 2, 1].into_iter().find(|v| c % v == 0).unwrap_or(1);
    let lanes = (c / vector).next_power_of_two().min(32);
    Ok(parameters::Rows {
        rows: (n * h * w) as i64,
        channels: int(c)?,
        vector: int(vector)?,
        lanes: int(lanes)?,
    })
}

/// Tiles of channels and parts of rows of a reduction.
fn reduction(gpu: &Gpu, rows: &parameters::Rows) -> Result<[usize; 3]> {
    let tiles = (rows.channels as usize).div_ceil((rows.lanes * rows.vector) as usize);
    if tiles > COUNTERS {
        bail!(
            "expected at most {} channels, got {}",
            COUNTERS * 32,
            rows.channels
        );
    }
    let at_once = THREADS as usize / rows.lanes as usize * ROWS_PER_THREAD;
    let parts = (rows.rows as usize).div_ceil(at_once);
    let most = (2 * gpu.machine().processors()).div_ceil(tiles);
    Ok([tiles, parts.clamp(1, most), 1])
}

/// Blocks of a kernel whose threads keep their channels: at least one thread for each of them.
fn kept(gpu: &Gpu, rows: &parameters::Rows) -> [usize; 3] {
    let groups = (rows.channels / rows.vector) as usize;
    let [blocks, ..] = gpu.grid((rows.rows as usize * groups).div_ceil(2));
    [blocks.max(groups.div_ceil(THREADS as usize)), 1, 1]
}

struct Given<'a> {
    x: &'a Maps,
    residual: Option<&'a Maps>,
    beta: &'a Tensor,
    act: Activation,
}

/// `act(scale (x - mean) + beta + residual)`.
fn apply(gpu: &Gpu, op: &str, given: &Given<'_>, mean: u64, scale: u64) -> Result<Maps> {
    let x = given.x;
    let y = Maps::new(gpu, x.precision(), x.dims())?;
    let rows = rows(x)?;
    let beta = given.beta.contiguous()?;
    let Clamp { low, high } = given.act.clamp().unwrap_or(Clamp::ALL);
    let parameters = parameters::Apply {
        x: x.address(),
        residual: given.residual.map_or(0, Maps::address),
        y: y.address(),
        mean,
        scale,
        beta: gpu.numbers(op, "beta", &beta, &[x.dims().1])?,
        rows,
        low,
        high,
    };
    // SAFETY: all maps have the dimensions of x, which the caller checked, and all vectors its channels.
    unsafe { gpu.launch(NORM_APPLY, x.precision(), kept(gpu, &rows), &parameters) }?;
    Ok(y)
}

/// See [`crate::batch_norm`]: the output, mean and variance.
pub(crate) fn batch_norm(
    gpu: &Gpu,
    x: &Maps,
    gamma: &Tensor,
    beta: &Tensor,
    eps: f64,
    residual: Option<&Maps>,
    act: Activation,
) -> Result<(Maps, [Tensor; 2])> {
    const OP: &str = "batch_norm";
    let c = x.dims().1;
    let rows = rows(x)?;
    let grid = reduction(gpu, &rows)?;
    let gamma = gamma.contiguous()?;
    let [(mean, mean_at), (var, var_at)] = gpu.two_tensors(c)?;
    let scale = gpu.block(c * size_of::<f32>())?;
    let parts = gpu.block(grid[1] * c * 2 * size_of::<f32>())?;
    let parameters = parameters::Measure {
        x: x.address(),
        gamma: gpu.numbers(OP, "gamma", &gamma, &[c])?,
        parts: parts.address(),
        counter: gpu.counters(),
        mean: mean_at,
        var: var_at,
        scale: scale.address(),
        eps,
        rows,
    };
    // SAFETY: vectors have c numbers, parts two for each channel and row of the grid.
    unsafe { gpu.launch(NORM_MEASURE, x.precision(), grid, &parameters) }?;
    let given = Given {
        x,
        residual,
        beta,
        act,
    };
    let y = apply(gpu, OP, &given, mean_at, scale.address())?;
    Ok((y, [mean, var]))
}

/// See [`crate::batch_norm_inference`].
#[expect(clippy::too_many_arguments, reason = "a batch norm has this many")]
pub(crate) fn batch_norm_inference(
    gpu: &Gpu,
    x: &Maps,
    gamma: &Tensor,
    beta: &Tensor,
    [mean, var]: [&Tensor; 2],
    eps: f64,
    residual: Option<&Maps>,
    act: Activation,
) -> Result<Maps> {
    const OP: &str = "batch_norm_inference";
    let c = x.dims().1;
    let (gamma, mean, var) = (gamma.contiguous()?, mean.contiguous()?, var.contiguous()?);
    let scale = gpu.block(c * size_of::<f32>())?;
    let parameters = parameters::Scale {
        gamma: gpu.numbers(OP, "gamma", &gamma, &[c])?,
        var: gpu.numbers(OP, "var", &var, &[c])?,
        scale: scale.address(),
        eps,
        channels: int(c)?,
    };
    // SAFETY: all have c numbers.
    unsafe { gpu.launch(NORM_SCALE, x.precision(), gpu.grid(c), &parameters) }?;
    let mean = gpu.numbers(OP, "mean", &mean, &[c])?;
    let given = Given {
        x,
        residual,
        beta,
        act,
    };
    apply(gpu, OP, &given, mean, scale.address())
}

/// Gradients of a batch norm.
pub(crate) struct NormGrads {
    pub(crate) input: Maps,
    pub(crate) gamma: Tensor,
    pub(crate) beta: Tensor,
    /// That of the residual, where there is one and an activation masks it.
    pub(crate) masked: Option<Maps>,
}

/// See [`crate::batch_norm_backward`]; `mean` and `var` are those of the batch.
pub(crate) fn batch_norm_backward(
    gpu: &Gpu,
    [x, y, dy]: [&Maps; 3],
    gamma: &Tensor,
    [mean, var]: [&Tensor; 2],
    eps: f64,
    has_residual: bool,
    act: Activation,
) -> Result<NormGrads> {
    const OP: &str = "batch_norm_backward";
    let c = x.dims().1;
    let clamp = act.clamp();
    let masked = clamp.is_some();
    let Clamp { low, high } = clamp.unwrap_or(Clamp::ALL);
    let y_at = if masked { y.address() } else { 0 };
    let precision = x.precision();
    let rows = rows(x)?;
    let grid = reduction(gpu, &rows)?;
    let (gamma, mean, var) = (gamma.contiguous()?, mean.contiguous()?, var.contiguous()?);
    let mean = gpu.numbers(OP, "the mean", &mean, &[c])?;
    let [(d_gamma, d_gamma_at), (d_beta, d_beta_at)] = gpu.two_tensors(c)?;
    let factors = gpu.block(3 * c * size_of::<f32>())?;
    let parts = gpu.block(grid[1] * c * 2 * size_of::<f32>())?;
    let sums = parameters::Sums {
        x: x.address(),
        y: y_at,
        dy: dy.address(),
        gamma: gpu.numbers(OP, "gamma", &gamma, &[c])?,
        mean,
        var: gpu.numbers(OP, "the variance", &var, &[c])?,
        parts: parts.address(),
        counter: gpu.counters(),
        d_gamma: d_gamma_at,
        d_beta: d_beta_at,
        factors: factors.address(),
        eps,
        rows,
        low,
        high,
    };
    // SAFETY: maps have the dimensions of x, vectors c numbers, parts two for each channel and row of the grid.
    unsafe { gpu.launch(NORM_SUMS, precision, grid, &sums) }?;
    let dx = Maps::new(gpu, precision, x.dims())?;
    // Without an activation the residual's gradient is `dy` itself.
    let dz = (has_residual && masked)
        .then(|| Maps::new(gpu, precision, x.dims()))
        .transpose()?;
    let parameters = parameters::Backward {
        x: x.address(),
        y: y_at,
        dy: dy.address(),
        dx: dx.address(),
        dz: dz.as_ref().map_or(0, Maps::address),
        mean,
        factors: factors.address(),
        rows,
        low,
        high,
    };
    // SAFETY: as above.
    unsafe { gpu.launch(NORM_BACKWARD, precision, kept(gpu, &rows), &parameters) }?;
    Ok(NormGrads {
        input: dx,
        gamma: d_gamma,
        beta: d_beta,
        masked: dz,
    })
}

/// Sums of `dy` over pixels, `[C]`: the gradient of a bias.
pub(super) fn bias_gradient(gpu: &Gpu, dy: &Maps) -> Result<Tensor> {
    let c = dy.dims().1;
    let rows = rows(dy)?;
    let grid = reduction(gpu, &rows)?;
    let (sum, at) = gpu.tensor(&[c])?;
    let parts = gpu.block(grid[1] * c * 2 * size_of::<f32>())?;
    let parameters = parameters::Sums {
        x: 0,
        y: 0,
        dy: dy.address(),
        gamma: 0,
        mean: 0,
        var: 0,
        parts: parts.address(),
        counter: gpu.counters(),
        d_gamma: 0,
        d_beta: at,
        factors: 0,
        eps: 0.0,
        rows,
        low: 0.0,
        high: 0.0,
    };
    // SAFETY: without x, only dy, parts and d_beta are touched.
    unsafe { gpu.launch(NORM_SUMS, dy.precision(), grid, &parameters) }?;
    Ok(sum)
}
