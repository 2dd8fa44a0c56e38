//! Batch norm on a card: two launches each way.

use candle_core::{Result, Tensor, bail};

use super::kernel::{NORM_APPLY, NORM_BACKWARD, NORM_MEASURE, NORM_SCALE, NORM_SUMS};
use super::maps::Maps;
use super::{COUNTERS, Gpu, THREADS, int, parameters, take};
use crate::activation::{Activation, Clamp};
use crate::features::Features;
use crate::norm::{BatchStatistics, NormGrads};

/// Rows that a thread of a reduction reads at least, if there are that many.
const ROWS_PER_THREAD: usize = 8;

fn rows(x: &Features) -> Result<parameters::Rows> {
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
    let most = (2 * gpu.0.machine.processors()).div_ceil(tiles);
    Ok([tiles, parts.clamp(1, most), 1])
}

/// Blocks of a kernel whose threads keep their channels: at least one thread for each of them.
fn kept(gpu: &Gpu, rows: &parameters::Rows) -> [usize; 3] {
    let groups = (rows.channels / rows.vector) as usize;
    let [blocks, ..] = gpu.grid((rows.rows as usize * groups).div_ceil(2));
    [blocks.max(groups.div_ceil(THREADS as usize)), 1, 1]
}

struct Given<'a> {
    x: &'a Features,
    residual: Option<&'a Features>,
    beta: &'a Tensor,
    act: Activation,
}

/// `act(scale (x - mean) + beta + residual)`.
fn apply(gpu: &Gpu, op: &str, given: &Given<'_>, mean: u64, scale: u64) -> Result<Features> {
    let x = take(gpu, op, given.x)?;
    let residual = given.residual.map(|r| take(gpu, op, r)).transpose()?;
    let y = Maps::new(gpu, x.precision(), given.x.dims())?;
    let rows = rows(given.x)?;
    let beta = given.beta.contiguous()?;
    let Clamp { low, high } = given.act.clamp().unwrap_or(Clamp::ALL);
    let parameters = parameters::Apply {
        x: x.address(),
        residual: residual.as_ref().map_or(0, Maps::address),
        y: y.address(),
        mean,
        scale,
        beta: gpu.numbers(op, "beta", &beta, &[given.x.channels()])?,
        rows,
        low,
        high,
    };
    // SAFETY: all maps have the dimensions of x, which the caller checked, and all vectors its channels.
    unsafe { gpu.launch(NORM_APPLY, x.precision(), kept(gpu, &rows), &parameters) }?;
    Ok(Features::from_gpu(y, given.x.dims()))
}

/// See [`crate::batch_norm`].
pub(crate) fn batch_norm(
    gpu: &Gpu,
    x: &Features,
    gamma: &Tensor,
    beta: &Tensor,
    eps: f64,
    residual: Option<&Features>,
    act: Activation,
) -> Result<(Features, BatchStatistics)> {
    const OP: &str = "batch_norm";
    let (n, c, h, w) = x.dims();
    let maps = take(gpu, OP, x)?;
    let rows = rows(x)?;
    let grid = reduction(gpu, &rows)?;
    let gamma = gamma.contiguous()?;
    let [(mean, mean_at), (var, var_at)] = gpu.two_tensors(c)?;
    let scale = gpu.block(c * size_of::<f32>())?;
    let parts = gpu.block(grid[1] * c * 2 * size_of::<f32>())?;
    let parameters = parameters::Measure {
        x: maps.address(),
        gamma: gpu.numbers(OP, "gamma", &gamma, &[c])?,
        parts: parts.address(),
        counter: gpu.0.counters,
        mean: mean_at,
        var: var_at,
        scale: scale.address(),
        eps,
        rows,
    };
    // SAFETY: vectors have c numbers, parts two for each channel and row of the grid.
    unsafe { gpu.launch(NORM_MEASURE, maps.precision(), grid, &parameters) }?;
    let given = Given {
        x,
        residual,
        beta,
        act,
    };
    let y = apply(gpu, OP, &given, mean_at, scale.address())?;
    let count = n * h * w;
    Ok((y, BatchStatistics { mean, var, count }))
}

/// See [`crate::batch_norm_inference`].
#[expect(clippy::too_many_arguments, reason = "a batch norm has this many")]
pub(crate) fn batch_norm_inference(
    gpu: &Gpu,
    x: &Features,
    gamma: &Tensor,
    beta: &Tensor,
    mean: &Tensor,
    var: &Tensor,
    eps: f64,
    residual: Option<&Features>,
    act: Activation,
) -> Result<Features> {
    const OP: &str = "batch_norm_inference";
    let c = x.channels();
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

/// See [`crate::batch_norm_backward`].
#[expect(clippy::too_many_arguments, reason = "a batch norm has this many")]
pub(crate) fn batch_norm_backward(
    gpu: &Gpu,
    x: &Features,
    y: &Features,
    gamma: &Tensor,
    stats: &BatchStatistics,
    eps: f64,
    has_residual: bool,
    act: Activation,
    dy: &Features,
) -> Result<NormGrads> {
    const OP: &str = "batch_norm_backward";
    let c = x.channels();
    let clamp = act.clamp();
    let masked = clamp.is_some();
    let Clamp { low, high } = clamp.unwrap_or(Clamp::ALL);
    let (x_maps, dy_maps) = (take(gpu, OP, x)?, take(gpu, OP, dy)?);
    let y_maps = masked.then(|| take(gpu, OP, y)).transpose()?;
    let y_at = y_maps.as_ref().map_or(0, Maps::address);
    let precision = x_maps.precision();
    let rows = rows(x)?;
    let grid = reduction(gpu, &rows)?;
    let (gamma, mean, var) = (
        gamma.contiguous()?,
        stats.mean.contiguous()?,
        stats.var.contiguous()?,
    );
    let mean = gpu.numbers(OP, "the mean", &mean, &[c])?;
    let [(d_gamma, d_gamma_at), (d_beta, d_beta_at)] = gpu.two_tensors(c)?;
    let factors = gpu.block(3 * c * size_of::<f32>())?;
    let parts = gpu.block(grid[1] * c * 2 * size_of::<f32>())?;
    let sums = parameters::Sums {
        x: x_maps.address(),
        y: y_at,
        dy: dy_maps.address(),
        gamma: gpu.numbers(OP, "gamma", &gamma, &[c])?,
        mean,
        var: gpu.numbers(OP, "the variance", &var, &[c])?,
        parts: parts.address(),
        counter: gpu.0.counters,
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
        x: x_maps.address(),
        y: y_at,
        dy: dy_maps.address(),
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
        input: Features::from_gpu(dx, x.dims()),
        gamma: d_gamma,
        beta: d_beta,
        residual: match dz {
            Some(dz) => Some(Features::from_gpu(dz, x.dims())),
            None => has_residual.then(|| dy.clone()),
        },
    })
}

/// Sums of `dy` over pixels, `[C]`: the gradient of a bias.
pub(super) fn bias_gradient(gpu: &Gpu, dy: &Features) -> Result<Tensor> {
    let maps = take(gpu, "conv2d_backward", dy)?;
    let c = dy.channels();
    let rows = rows(dy)?;
    let grid = reduction(gpu, &rows)?;
    let (sum, at) = gpu.tensor(&[c])?;
    let parts = gpu.block(grid[1] * c * 2 * size_of::<f32>())?;
    let parameters = parameters::Sums {
        x: 0,
        y: 0,
        dy: maps.address(),
        gamma: 0,
        mean: 0,
        var: 0,
        parts: parts.address(),
        counter: gpu.0.counters,
        d_gamma: 0,
        d_beta: at,
        factors: 0,
        eps: 0.0,
        rows,
        low: 0.0,
        high: 0.0,
    };
    // SAFETY: without x, only dy, parts and d_beta are touched.
    unsafe { gpu.launch(NORM_SUMS, maps.precision(), grid, &parameters) }?;
    Ok(sum)
}
