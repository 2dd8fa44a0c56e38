//! Batch norm, the sum with a residual, and the activation, in one pass over memory each way.
//!
//! ```text
//! μ[c] = mean x,   σ²[c] = mean (x - μ)²                      over batch, height and width
//! y    = act(γ (x - μ) / √(σ² + ε) + β + residual)
//! dz   = dy where y > 0, else 0                                (ReLU; all of dy otherwise)
//! dβ   = Σ dz,   dγ = Σ dz (x - μ) / √(σ² + ε)
//! dx   = γ / √(σ² + ε) (dz - dβ / M - (x - μ) / √(σ² + ε) dγ / M),   M = N H W
//! ```
//!
//! Ioffe and Szegedy, *Batch Normalization*, ICML 2015, <https://arxiv.org/abs/1502.03167>.
//!
//! The variance that normalises is the biased one; a running variance conventionally averages
//! `var · M / (M - 1)`, which is the caller's to do. Means and sums of squares about the mean are
//! taken over blocks of at most 1024 pixels in single precision and combined in double (Chan, Golub
//! and LeVeque, *Updating formulae*, 1979), so a large mean does not eat the variance.

use candle_core::{Result, Tensor};

use crate::args;
use crate::cpu::{Isa, Kernel, Simd};
use crate::elementwise::Activation;
use crate::features::{Features, LANES};
use crate::threads::{self, Out};

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

/// Numbers of a block whose sums are kept in single precision.
const BLOCK: usize = 1024 * LANES;

/// Count, mean and sum of squares about the mean.
#[derive(Clone, Copy, Default)]
struct Moments {
    count: f64,
    mean: f64,
    squares: f64,
}

impl Moments {
    fn join(self, other: Self) -> Self {
        let count = self.count + other.count;
        if count == 0.0 {
            return self;
        }
        let delta = other.mean - self.mean;
        Self {
            count,
            mean: self.mean + delta * other.count / count,
            squares: self.squares
                + other.squares
                + delta * delta * self.count * other.count / count,
        }
    }
}

/// The moments of one channel of one group.
struct Measure<'a> {
    x: &'a [f32],
    lanes: usize,
}

impl Kernel for Measure<'_> {
    type Output = Moments;

    #[inline(always)]
    fn run<S: Simd>(self) -> Moments {
        let mut total = Moments::default();
        for block in self.x.chunks(BLOCK) {
            let count = (block.len() / LANES * self.lanes) as f64;
            // SAFETY: blocks hold whole vectors.
            unsafe {
                let sum = deviations::<S, 1>(block, S::splat(0.0));
                let mean = S::sum(S::first(sum, self.lanes)) / count as f32;
                let squares = deviations::<S, 2>(block, S::splat(mean));
                total = total.join(Moments {
                    count,
                    mean: f64::from(mean),
                    squares: f64::from(S::sum(S::first(squares, self.lanes))),
                });
            }
        }
        total
    }
}

/// `Σ (x - about)`, or with `POWER` 2 `Σ (x - about)²`, in eight interleaved sums.
#[inline(always)]
unsafe fn deviations<S: Simd, const POWER: u8>(x: &[f32], about: S::V) -> S::V {
    unsafe {
        let mut acc = [S::splat(0.0); 8];
        let whole = x.len() / (8 * LANES) * (8 * LANES);
        for i in (0..whole).step_by(8 * LANES) {
            for (j, acc) in acc.iter_mut().enumerate() {
                let d = S::sub(S::load(x.as_ptr().add(i + j * LANES)), about);
                *acc = if POWER == 1 {
                    S::add(*acc, d)
                } else {
                    S::mul_add(d, d, *acc)
                };
            }
        }
        for i in (whole..x.len()).step_by(LANES) {
            let d = S::sub(S::load(x.as_ptr().add(i)), about);
            acc[0] = if POWER == 1 {
                S::add(acc[0], d)
            } else {
                S::mul_add(d, d, acc[0])
            };
        }
        for step in [4, 2, 1] {
            for i in 0..step {
                acc[i] = S::add(acc[i], acc[i + step]);
            }
        }
        acc[0]
    }
}

/// `y = act(scale (x - mean) + shift + residual)` for one channel of one group.
struct Apply<'a> {
    x: &'a [f32],
    residual: Option<&'a [f32]>,
    y: &'a mut [f32],
    mean: f32,
    scale: f32,
    shift: f32,
    act: Activation,
    lanes: usize,
    stream: bool,
}

impl Kernel for Apply<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        // SAFETY: all slices hold the same number of whole vectors.
        unsafe {
            let (mean, scale, shift) = (
                S::splat(self.mean),
                S::splat(self.scale),
                S::splat(self.shift),
            );
            let relu = self.act == Activation::Relu;
            let y_to = self.y.as_mut_ptr();
            for i in (0..self.x.len()).step_by(LANES) {
                let centred = S::sub(S::load(self.x.as_ptr().add(i)), mean);
                let mut y = S::mul_add(centred, scale, shift);
                if let Some(residual) = self.residual {
                    y = S::add(y, S::load(residual.as_ptr().add(i)));
                }
                if relu {
                    y = S::relu(y);
                }
                S::put(y_to.add(i), S::first(y, self.lanes), self.stream);
            }
            S::fence();
        }
    }
}

/// `Σ dz` and `Σ dz (x - mean)` for one channel of one group.
struct Sums<'a> {
    x: &'a [f32],
    dy: &'a [f32],
    /// The output, where only positive outputs let the gradient through.
    y: Option<&'a [f32]>,
    mean: f32,
}

/// `dy`, or if there is a `y`, `dy` where it is positive.
#[inline(always)]
unsafe fn through<S: Simd>(y: Option<&[f32]>, dy: *const f32, at: usize) -> S::V {
    unsafe {
        let dz = S::load(dy.add(at));
        match y {
            Some(y) => {
                let zero = S::splat(0.0);
                S::select_gt(S::load(y.as_ptr().add(at)), zero, dz, zero)
            }
            None => dz,
        }
    }
}

impl Kernel for Sums<'_> {
    type Output = (f64, f64);

    #[inline(always)]
    fn run<S: Simd>(self) -> (f64, f64) {
        let mut total = (0.0, 0.0);
        // SAFETY: all slices hold the same number of whole vectors. Unused lanes of `dy` are 0.
        unsafe {
            let (x, dy) = (self.x.as_ptr(), self.dy.as_ptr());
            let mean = S::splat(self.mean);
            let zero = S::splat(0.0);
            for start in (0..self.x.len()).step_by(BLOCK) {
                let (mut plain, mut centred) = ([zero; 4], [zero; 4]);
                let end = (start + BLOCK).min(self.x.len());
                let whole = start + (end - start) / (4 * LANES) * (4 * LANES);
                for i in (start..whole).step_by(4 * LANES) {
                    for j in 0..4 {
                        let at = i + j * LANES;
                        let d = S::sub(S::load(x.add(at)), mean);
                        let dz = through::<S>(self.y, dy, at);
                        plain[j] = S::add(plain[j], dz);
                        centred[j] = S::mul_add(dz, d, centred[j]);
                    }
                }
                for at in (whole..end).step_by(LANES) {
                    let d = S::sub(S::load(x.add(at)), mean);
                    let dz = through::<S>(self.y, dy, at);
                    plain[0] = S::add(plain[0], dz);
                    centred[0] = S::mul_add(dz, d, centred[0]);
                }
                let plain = S::add(S::add(plain[0], plain[1]), S::add(plain[2], plain[3]));
                let pairs = (
                    S::add(centred[0], centred[1]),
                    S::add(centred[2], centred[3]),
                );
                total.0 += f64::from(S::sum(plain));
                total.1 += f64::from(S::sum(S::add(pairs.0, pairs.1)));
            }
        }
        total
    }
}

/// `dx = a dz - b (x - mean) - c` for one channel of one group; also `dz`, for a residual.
struct Backward<'a> {
    x: &'a [f32],
    dy: &'a [f32],
    y: Option<&'a [f32]>,
    dx: &'a mut [f32],
    dz: Option<&'a mut [f32]>,
    mean: f32,
    a: f32,
    b: f32,
    c: f32,
    lanes: usize,
    stream: bool,
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self) {
        // SAFETY: all slices hold the same number of whole vectors.
        unsafe {
            let (mean, a) = (S::splat(self.mean), S::splat(self.a));
            let (b, c) = (S::splat(-self.b), S::splat(-self.c));
            let (x, dy, to) = (self.x.as_ptr(), self.dy.as_ptr(), self.dx.as_mut_ptr());
            let dz_to = self.dz.as_mut().map(|dz| dz.as_mut_ptr());
            for i in (0..self.x.len()).step_by(LANES) {
                let d = S::sub(S::load(x.add(i)), mean);
                let dz = through::<S>(self.y, dy, i);
                let dx = S::mul_add(a, dz, S::mul_add(b, d, c));
                S::put(to.add(i), S::first(dx, self.lanes), self.stream);
                if let Some(to) = dz_to {
                    S::put(to.add(i), dz, self.stream);
                }
            }
            S::fence();
        }
    }
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
fn plane(x: &Features, g: usize, c: usize) -> &[f32] {
    &x.cpu()[g * x.group_len() + c * x.plane()..][..x.plane()]
}

/// One channel of one group, for writing by one task.
#[expect(clippy::mut_from_ref, reason = "tasks write disjoint planes")]
unsafe fn plane_mut(out: &Out, g: usize, c: usize, channels: usize, len: usize) -> &mut [f32] {
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
        args::same(op, "a residual of dimensions", x.dims(), residual.dims())
    })
}

/// `y = act(bn(x) + residual)` with the statistics of the batch itself, which it returns too.
///
/// `x`, `residual` and `y` are `[N, C, H, W]`; `gamma` and `beta` are `[C]`.
///
/// # Errors
///
/// Shapes that do not fit together, or a tensor that is not `f32`.
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
    let gamma = args::numbers(OP, "gamma", gamma, &[c])?;
    let beta = args::numbers(OP, "beta", beta, &[c])?;
    check_residual(OP, x, residual)?;
    let isa = Isa::current();
    let stream = x.streams();
    let count = n * h * w;
    let mut y = Features::uninit(x.dims());
    let out = Out::new(y.cpu_mut());
    let measured = by_channel(
        x,
        |g, c| {
            isa.run(Measure {
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
                act,
                lanes: x.lanes(g),
                stream,
            });
        },
    );
    let (mean, var) = measured.into_iter().unzip();
    let statistics = BatchStatistics {
        mean: args::tensor(mean, &[c])?,
        var: args::tensor(var, &[c])?,
        count,
    };
    Ok((y, statistics))
}

/// `y = act(bn(x) + residual)` with given `mean` and `var` `[C]`, as in evaluation.
///
/// # Errors
///
/// Shapes that do not fit together, or a tensor that is not `f32`.
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
    let gamma = args::numbers(OP, "gamma", gamma, &[c])?;
    let beta = args::numbers(OP, "beta", beta, &[c])?;
    let mean = args::numbers(OP, "mean", mean, &[c])?;
    let var = args::numbers(OP, "var", var, &[c])?;
    check_residual(OP, x, residual)?;
    let isa = Isa::current();
    let stream = x.streams();
    let (groups, channels) = (x.groups(), x.channels());
    let mut y = Features::uninit(x.dims());
    let out = Out::new(y.cpu_mut());
    threads::each(groups * channels, |i| {
        let (g, c) = (i / channels, i % channels);
        isa.run(Apply {
            x: plane(x, g, c),
            residual: residual.map(|residual| plane(residual, g, c)),
            // SAFETY: every plane is visited once.
            y: unsafe { plane_mut(&out, g, c, channels, x.plane()) },
            mean: mean[c],
            scale: scale(gamma[c], var[c], eps),
            shift: beta[c],
            act,
            lanes: x.lanes(g),
            stream,
        });
    });
    Ok(y)
}

/// Gradients of [`batch_norm`] from its input `x`, its output `y`, what it measured, and `dy`.
///
/// # Errors
///
/// Shapes that do not fit together, or a tensor that is not `f32`.
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
    let gamma = args::numbers(OP, "gamma", gamma, &[c])?;
    let mean = args::numbers(OP, "the mean", &stats.mean, &[c])?;
    let var = args::numbers(OP, "the variance", &stats.var, &[c])?;
    args::same(OP, "an output of dimensions", x.dims(), y.dims())?;
    args::same(OP, "a gradient of dimensions", x.dims(), dy.dims())?;
    args::same(OP, "statistics of a count", n * h * w, stats.count)?;
    let isa = Isa::current();
    let stream = x.streams();
    let count = stats.count as f64;
    let masked = act != Activation::Identity;
    let mut dx = Features::uninit(x.dims());
    // Without an activation the residual's gradient is `dy` itself.
    let mut dr = (has_residual && masked).then(|| Features::uninit(x.dims()));
    let out = Out::new(dx.cpu_mut());
    let out_residual = dr.as_mut().map(|dr| Out::new(dr.cpu_mut()));
    // SAFETY (of both): every plane is visited once.
    let dx_plane = |g, ch| unsafe { plane_mut(&out, g, ch, c, x.plane()) };
    let dr_plane = |g, ch| {
        out_residual
            .as_ref()
            .map(|out| unsafe { plane_mut(out, g, ch, c, x.plane()) })
    };
    let y_plane = |g, ch| masked.then(|| plane(y, g, ch));
    let sums = by_channel(
        x,
        |g, ch| {
            isa.run(Sums {
                x: plane(x, g, ch),
                dy: plane(dy, g, ch),
                mean: mean[ch],
                y: y_plane(g, ch),
            })
        },
        (0.0, 0.0),
        |a, b| (a.0 + b.0, a.1 + b.1),
        |_, sums| sums,
        |g, ch, &(plain, centred)| {
            let inverse = inverse_deviation(var[ch], eps);
            let a = f64::from(gamma[ch]) * inverse;
            isa.run(Backward {
                x: plane(x, g, ch),
                dy: plane(dy, g, ch),
                y: y_plane(g, ch),
                dx: dx_plane(g, ch),
                dz: dr_plane(g, ch),
                mean: mean[ch],
                a: a as f32,
                b: (a * inverse * inverse * centred / count) as f32,
                c: (a * plain / count) as f32,
                lanes: x.lanes(g),
                stream,
            });
        },
    );
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
