//! Batch norm, the sum with a residual, and the activation, in one pass over memory each way.
//!
//! ```text
//! μ[c] = mean x,   σ²[c] = mean (x - μ)²                      over batch, height and width
//! y    = act(γ (x - μ) / √(σ² + ε) + β + residual)
//! dz   = dy where y lies strictly inside the range of act, else 0       (all of dy without one)
//! dβ   = Σ dz,   dγ = Σ dz (x - μ) / √(σ² + ε)
//! dx   = γ / √(σ² + ε) (dz - dβ / M - (x - μ) / √(σ² + ε) dγ / M),   M = N H W
//! ```
//!
//! Ioffe and Szegedy, *Batch Normalization*, ICML 2015, <https://arxiv.org/abs/1502.03167>.
//!
//! The variance that normalises is the biased one; a running variance conventionally averages
//! `var · M / (M - 1)`, which is the caller's to do. Means and sums of squares about the mean are
//! taken over blocks of at most 1024 pixels in single precision and combined in double (Chan, Golub
//! and LeVeque, *Updating formulae*, 1979), so a large mean does not eat the variance. They are those
//! of the numbers that `x` stores, so with bfloat16 forward and backward see the same ones.

mod kernels;

use candle_core::{CpuStorage, InplaceOp2, Layout, Result, Tensor};

use crate::activation::{Activation, Clamp};
use crate::args;
use crate::cpu::Isa;
use crate::element::{Element, by_element};
use crate::features::{self, Features};
use crate::gpu::{self, Gpu};
use crate::threads::{self, Out};
use kernels::{Apply, Backward, Measure, Moments, Sums};

/// What a batch norm measured on its batch.
#[derive(Clone, Debug)]
pub struct BatchStatistics {
    /// Mean per channel, `[C]`.
    pub mean: Tensor,
    /// Biased variance per channel, `[C]`.
    pub var: Tensor,
    /// Numbers that each is taken over, `N H W`.
    pub count: usize,
}

/// Gradients of a batch norm.
#[derive(Clone, Debug)]
pub struct NormGrads {
    /// `[N, C, H, W]`.
    pub input: Features,
    /// `[C]`.
    pub gamma: Tensor,
    /// `[C]`.
    pub beta: Tensor,
    /// `[N, C, H, W]`, where there is a residual.
    pub residual: Option<Features>,
}

/// Runs `first(g, c)` for every group of a channel, then `second(c, sum)` with the results joined in
/// the order of the groups, then `third(g, c, &result)` for every group.
///
/// A channel of all groups often stays in the second-level cache between the first and the third
/// step, so channels are worked off one by one; with too few channels to keep the threads busy,
/// the groups are spread over them instead, with the same result.
fn by_channel<T: Copy + Send + Sync, R: Send + Sync>(
    x: &Features,
    first: impl Fn(usize, usize) -> T + Sync + Send,
    start: T,
    join: impl Fn(T, T) -> T + Sync + Send,
    second: impl Fn(usize, T) -> R + Sync + Send,
    third: impl Fn(usize, usize, &R) + Sync + Send,
) -> Vec<R> {
    let (groups, channels) = (x.groups(), x.channels());
    if channels >= 2 * rayon::current_num_threads() || rayon::current_num_threads() == 1 {
        return threads::map(channels, |c| {
            let sum = (0..groups).fold(start, |sum, g| join(sum, first(g, c)));
            let result = second(c, sum);
            // Backwards: the groups read last are the likeliest to be at hand.
            (0..groups).rev().for_each(|g| third(g, c, &result));
            result
        });
    }
    let parts = threads::map(groups * channels, |i| first(i / channels, i % channels));
    let results: Vec<R> = (0..channels)
        .map(|c| {
            second(
                c,
                (0..groups).fold(start, |sum, g| join(sum, parts[g * channels + c])),
            )
        })
        .collect();
    threads::each(groups * channels, |i| {
        third(i / channels, i % channels, &results[i % channels]);
    });
    results
}

/// One channel of one group.
fn plane<E: Element>(x: &Features, g: usize, c: usize) -> &[E] {
    &x.cpu()[g * x.group_len() + c * x.plane()..][..x.plane()]
}

/// One channel of one group, for writing by one task.
#[expect(clippy::mut_from_ref, reason = "tasks write disjoint planes")]
unsafe fn plane_mut<E: Element>(
    out: &Out<E>,
    g: usize,
    c: usize,
    channels: usize,
    len: usize,
) -> &mut [E] {
    // SAFETY: the plane lies within the maps, and the caller's task alone writes it.
    unsafe { std::slice::from_raw_parts_mut(out.at((g * channels + c) * len), len) }
}

fn inverse_deviation(var: f32, eps: f64) -> f64 {
    1.0 / (f64::from(var) + eps).sqrt()
}

/// `γ / √(σ² + ε)`.
fn scale(gamma: f32, var: f32, eps: f64) -> f32 {
    (f64::from(gamma) * inverse_deviation(var, eps)) as f32
}

fn check_residual(op: &str, x: &Features, residual: Option<&Features>) -> Result<()> {
    residual.map_or(Ok(()), |residual| {
        args::same(op, "a residual of dimensions", x.dims(), residual.dims())?;
        features::precision(op, &[x, residual]).map(drop)
    })
}

/// `y = act(bn(x) + residual)` with the statistics of the batch itself, which it returns too.
///
/// `x`, `residual` and `y` are `[N, C, H, W]`; `gamma` and `beta` are `[C]`.
///
/// # Errors
///
/// Shapes or precisions that do not fit together, or a tensor that is not `f32`.
pub fn batch_norm(
    x: &Features,
    gamma: &Tensor,
    beta: &Tensor,
    eps: f64,
    residual: Option<&Features>,
    act: Activation,
) -> Result<(Features, BatchStatistics)> {
    const OP: &str = "batch_norm";
    let (n, c, h, w) = x.dims();
    check_residual(OP, x, residual)?;
    if let Some(gpu) = x.gpu() {
        let residual = residual.map(|residual| residual.maps(OP)).transpose()?;
        let (y, [mean, var]) = gpu::batch_norm(&gpu, x.maps(OP)?, gamma, beta, eps, residual, act)?;
        let count = n * h * w;
        return Ok((Features::from_gpu(y), BatchStatistics { mean, var, count }));
    }
    let gamma = args::numbers(OP, "gamma", gamma, &[c])?;
    let beta = args::numbers(OP, "beta", beta, &[c])?;
    let count = n * h * w;
    let mut y = Features::uninit(x.dims(), x.precision())?;
    let (mean, var) = by_element!(x.precision(), E => {
        forward::<E>(x, &gamma, &beta, eps, residual, act, &mut y)
    })
    .into_iter()
    .unzip();
    let statistics = BatchStatistics {
        mean: args::tensor(mean, &[c])?,
        var: args::tensor(var, &[c])?,
        count,
    };
    Ok((y, statistics))
}

/// Writes `y` and returns mean and variance per channel.
fn forward<E: Element>(
    x: &Features,
    gamma: &[f32],
    beta: &[f32],
    eps: f64,
    residual: Option<&Features>,
    act: Activation,
    y: &mut Features,
) -> Vec<(f32, f32)> {
    let isa = Isa::current();
    let stream = x.streams();
    let count = x.batch() * x.height() * x.width();
    let out = Out::new(y.cpu_mut::<E>());
    by_channel(
        x,
        |g, c| {
            isa.run(Measure::<E> {
                x: plane(x, g, c),
                lanes: x.lanes(g),
            })
        },
        Moments::default(),
        Moments::join,
        |_, moments| (moments.mean as f32, (moments.squares / count as f64) as f32),
        |g, c, &(mean, var)| {
            isa.run(Apply {
                x: plane(x, g, c),
                residual: residual.map(|residual| plane(residual, g, c)),
                // SAFETY: every plane is visited once.
                y: unsafe { plane_mut(&out, g, c, x.channels(), x.plane()) },
                mean,
                scale: scale(gamma[c], var, eps),
                shift: beta[c],
                clamp: act.clamp(),
                lanes: x.lanes(g),
                stream,
            });
        },
    )
}

/// `y = act(bn(x) + residual)` with given `mean` and `var` `[C]`, as in evaluation.
///
/// # Errors
///
/// Shapes or precisions that do not fit together, or a tensor that is not `f32`.
#[expect(clippy::too_many_arguments, reason = "a batch norm has this many")]
pub fn batch_norm_inference(
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
    check_residual(OP, x, residual)?;
    if let Some(gpu) = x.gpu() {
        let (x, residual) = (x.maps(OP)?, residual.map(|r| r.maps(OP)).transpose()?);
        let y = gpu::batch_norm_inference(&gpu, x, gamma, beta, [mean, var], eps, residual, act)?;
        return Ok(Features::from_gpu(y));
    }
    let gamma = args::numbers(OP, "gamma", gamma, &[c])?;
    let beta = args::numbers(OP, "beta", beta, &[c])?;
    let mean = args::numbers(OP, "mean", mean, &[c])?;
    let var = args::numbers(OP, "var", var, &[c])?;
    let mut y = Features::uninit(x.dims(), x.precision())?;
    by_element!(x.precision(), E => {
        let out = Out::new(y.cpu_mut::<E>());
        let (isa, stream, channels) = (Isa::current(), x.streams(), x.channels());
        threads::each(x.groups() * channels, |i| {
            let (g, c) = (i / channels, i % channels);
            isa.run(Apply {
                x: plane(x, g, c),
                residual: residual.map(|residual| plane(residual, g, c)),
                // SAFETY: every plane is visited once.
                y: unsafe { plane_mut(&out, g, c, channels, x.plane()) },
                mean: mean[c],
                scale: scale(gamma[c], var[c], eps),
                shift: beta[c],
                clamp: act.clamp(),
                lanes: x.lanes(g),
                stream,
            });
        });
    });
    Ok(y)
}

/// Gradients of [`batch_norm`] from its input `x`, its output `y`, what it measured, and `dy`.
///
/// # Errors
///
/// Shapes or precisions that do not fit together, or a tensor that is not `f32`.
#[expect(clippy::too_many_arguments, reason = "a batch norm has this many")]
pub fn batch_norm_backward(
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
    let (n, c, h, w) = x.dims();
    args::same(OP, "an output of dimensions", x.dims(), y.dims())?;
    args::same(OP, "a gradient of dimensions", x.dims(), dy.dims())?;
    args::same(OP, "statistics of a count", n * h * w, stats.count)?;
    let precision = features::precision(OP, &[x, y, dy])?;
    if let Some(gpu) = x.gpu() {
        let (maps, measured) = (
            [x.maps(OP)?, y.maps(OP)?, dy.maps(OP)?],
            [&stats.mean, &stats.var],
        );
        let grads = gpu::batch_norm_backward(&gpu, maps, gamma, measured, eps, has_residual, act)?;
        return Ok(NormGrads {
            input: Features::from_gpu(grads.input),
            gamma: grads.gamma,
            beta: grads.beta,
            // Without an activation the residual's gradient is `dy` itself.
            residual: match grads.masked {
                Some(dz) => Some(Features::from_gpu(dz)),
                None => has_residual.then(|| dy.clone()),
            },
        });
    }
    let gamma = args::numbers(OP, "gamma", gamma, &[c])?;
    let mean = args::numbers(OP, "the mean", &stats.mean, &[c])?;
    let var = args::numbers(OP, "the variance", &stats.var, &[c])?;
    let masked = act.clamp().is_some();
    let mut dx = Features::uninit(x.dims(), precision)?;
    // Without an activation the residual's gradient is `dy` itself.
    let mut dr = (has_residual && masked)
        .then(|| Features::uninit(x.dims(), precision))
        .transpose()?;
    let factors = |ch: usize, (plain, centred): (f64, f64)| {
        let inverse = inverse_deviation(var[ch], eps);
        let (a, count) = (f64::from(gamma[ch]) * inverse, stats.count as f64);
        [
            a as f32,
            (a * inverse * inverse * centred / count) as f32,
            (a * plain / count) as f32,
        ]
    };
    let output = act.clamp().map(|clamp| (y, clamp));
    let sums = by_element!(precision, E => {
        backward::<E>(x, output, dy, &mean, factors, &mut dx, dr.as_mut())
    });
    let d_gamma = sums
        .iter()
        .zip(&var)
        .map(|(&(_, centred), &var)| (centred * inverse_deviation(var, eps)) as f32)
        .collect();
    let d_beta = sums.iter().map(|&(plain, _)| plain as f32).collect();
    Ok(NormGrads {
        input: dx,
        gamma: args::tensor(d_gamma, &[c])?,
        beta: args::tensor(d_beta, &[c])?,
        residual: if has_residual && !masked {
            Some(dy.clone())
        } else {
            dr
        },
    })
}

/// Writes `dx` and `dr`, the residual's gradient, and returns `Σ dz` and `Σ dz (x - mean)` per
/// channel. `y` is given where it masks the gradient; `factors` are `a`, `b` and `c` of
/// [`Backward`] from the channel and its sums.
fn backward<E: Element>(
    x: &Features,
    y: Option<(&Features, Clamp)>,
    dy: &Features,
    mean: &[f32],
    factors: impl Fn(usize, (f64, f64)) -> [f32; 3] + Sync + Send,
    dx: &mut Features,
    dr: Option<&mut Features>,
) -> Vec<(f64, f64)> {
    let isa = Isa::current();
    let (stream, c) = (x.streams(), x.channels());
    let out = Out::new(dx.cpu_mut::<E>());
    let out_residual = dr.map(|dr| Out::new(dr.cpu_mut::<E>()));
    // SAFETY: every plane is visited once.
    let dx_plane = |g, ch| unsafe { plane_mut(&out, g, ch, c, x.plane()) };
    let dr_plane = |g, ch| {
        out_residual
            .as_ref()
            // SAFETY: likewise.
            .map(|out| unsafe { plane_mut(out, g, ch, c, x.plane()) })
    };
    let y_plane = |g, ch| y.map(|(y, clamp)| (plane(y, g, ch), clamp));
    by_channel(
        x,
        |g, ch| {
            isa.run(Sums::<E> {
                x: plane(x, g, ch),
                dy: plane(dy, g, ch),
                mean: mean[ch],
                y: y_plane(g, ch),
            })
        },
        (0.0, 0.0),
        |a, b| (a.0 + b.0, a.1 + b.1),
        |_, sums| sums,
        |g, ch, &sums| {
            let [a, b, c] = factors(ch, sums);
            isa.run(Backward {
                x: plane(x, g, ch),
                dy: plane(dy, g, ch),
                y: y_plane(g, ch),
                dx: dx_plane(g, ch),
                dz: dr_plane(g, ch),
                mean: mean[ch],
                a,
                b,
                c,
                lanes: x.lanes(g),
                stream,
            });
        },
    )
}

/// A running statistic to be moved towards a new value: `keep old + add new`.
#[derive(Clone, Copy, Debug)]
pub struct Blend<'a> {
    /// What it was.
    pub old: &'a Tensor,
    /// What was measured, of the same shape.
    pub new: &'a Tensor,
    /// The weight of the old value.
    pub keep: f64,
    /// The weight of the new value.
    pub add: f64,
}

/// Moves any number of statistics in place, on GPUs in as few launches as possible.
///
/// # Errors
///
/// Different shapes, or those of the device.
pub fn blend(blends: &[Blend<'_>]) -> Result<()> {
    for Blend { old, new, .. } in blends {
        args::same(BLEND, "a new value of shape", old.dims(), new.dims())?;
    }
    if let Some(first) = blends.first()
        && let Some(gpu) = Gpu::of(first.old.device())?
    {
        let pairs: Vec<_> = blends.iter().map(|blend| [blend.old, blend.new]).collect();
        let weights: Vec<_> = blends.iter().map(|blend| [blend.keep, blend.add]).collect();
        return gpu::blend(&gpu, &pairs, &weights);
    }
    let blend = |b: &Blend<'_>| b.old.inplace_op2(b.new, &Move(b.keep as f32, b.add as f32));
    blends.iter().try_for_each(blend)
}

const BLEND: &str = "blend";

/// `keep old + add new`, written over the old value.
struct Move(f32, f32);

impl InplaceOp2 for Move {
    fn name(&self) -> &'static str {
        BLEND
    }

    fn cpu_fwd(
        &self,
        old: &mut CpuStorage,
        old_layout: &Layout,
        new: &CpuStorage,
        new_layout: &Layout,
    ) -> Result<()> {
        let Self(keep, add) = self;
        let old = args::slice_mut(BLEND, "old value", old, old_layout)?;
        let new = args::slice(BLEND, "new value", new, new_layout)?;
        for (old, new) in old.iter_mut().zip(new) {
            *old = keep * *old + add * new;
        }
        Ok(())
    }
}
