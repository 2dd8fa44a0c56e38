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
                let sum = sum_by::<S>(block.len(), |i| S::load(block.as_ptr().add(i)));
                let mean = S::sum(S::first(sum, self.lanes)) / count as f32;
                let about = S::splat(mean);
                let squares = sum_by::<S>(block.len(), |i| {
                    let d = S::sub(S::load(block.as_ptr().add(i)), about);
                    S::mul(d, d)
                });
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

/// Adds `term(0)`, `term(16)`, ... below `len` in four interleaved sums.
#[inline(always)]
unsafe fn sum_by<S: Simd>(len: usize, term: impl Fn(usize) -> S::V) -> S::V {
    unsafe {
        let mut acc = [S::splat(0.0); 4];
        let whole = len / (4 * LANES) * (4 * LANES);
        for i in (0..whole).step_by(4 * LANES) {
            for (j, acc) in acc.iter_mut().enumerate() {
                *acc = S::add(*acc, term(i + j * LANES));
            }
        }
        for i in (whole..len).step_by(LANES) {
            acc[0] = S::add(acc[0], term(i));
        }
        S::add(S::add(acc[0], acc[1]), S::add(acc[2], acc[3]))
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
            for i in (0..self.x.len()).step_by(LANES) {
                let centred = S::sub(S::load(self.x.as_ptr().add(i)), mean);
                let mut y = S::mul_add(centred, scale, shift);
                if let Some(residual) = self.residual {
                    y = S::add(y, S::load(residual.as_ptr().add(i)));
                }
                if relu {
                    y = S::relu(y);
                }
                S::store(self.y.as_mut_ptr().add(i), S::first(y, self.lanes));
            }
        }
    }
}

/// `Σ dz` and `Σ dz (x - mean)` for one channel of one group.
struct Sums<'a> {
    x: &'a [f32],
    y: &'a [f32],
    dy: &'a [f32],
    mean: f32,
    act: Activation,
}

/// `dy` where the activation lets it through.
#[inline(always)]
unsafe fn through<S: Simd>(relu: bool, y: *const f32, dy: *const f32) -> S::V {
    unsafe {
        let dy = S::load(dy);
        if relu {
            S::select_gt(S::load(y), S::splat(0.0), dy, S::splat(0.0))
        } else {
            dy
        }
    }
}

impl Kernel for Sums<'_> {
    type Output = (f64, f64);

    #[inline(always)]
    fn run<S: Simd>(self) -> (f64, f64) {
        let relu = self.act == Activation::Relu;
        let mut total = (0.0, 0.0);
        for start in (0..self.x.len()).step_by(BLOCK) {
            // SAFETY: all slices hold the same number of whole vectors. Unused lanes of `dy` are 0.
            unsafe {
                let mean = S::splat(self.mean);
                let zero = S::splat(0.0);
                let (mut plain, mut centred) = ([zero; 2], [zero; 2]);
                let end = (start + BLOCK).min(self.x.len());
                for (n, i) in (start..end).step_by(LANES).enumerate() {
                    let dz = through::<S>(relu, self.y.as_ptr().add(i), self.dy.as_ptr().add(i));
                    let d = S::sub(S::load(self.x.as_ptr().add(i)), mean);
                    plain[n % 2] = S::add(plain[n % 2], dz);
                    centred[n % 2] = S::mul_add(dz, d, centred[n % 2]);
                }
                total.0 += f64::from(S::sum(S::add(plain[0], plain[1])));
                total.1 += f64::from(S::sum(S::add(centred[0], centred[1])));
            }
        }
        total
    }
}

/// `dx = a dz - b (x - mean) - c` and the residual's `dz` for one channel of one group.
struct Backward<'a> {
    x: &'a [f32],
    y: &'a [f32],
    dy: &'a [f32],
    dx: &'a mut [f32],
    residual: Option<&'a mut [f32]>,
    mean: f32,
    a: f32,
    b: f32,
    c: f32,
    act: Activation,
    lanes: usize,
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self) {
        let relu = self.act == Activation::Relu;
        // SAFETY: all slices hold the same number of whole vectors.
        unsafe {
            let (mean, a) = (S::splat(self.mean), S::splat(self.a));
            let (b, c) = (S::splat(-self.b), S::splat(-self.c));
            for i in (0..self.x.len()).step_by(LANES) {
                let dz = through::<S>(relu, self.y.as_ptr().add(i), self.dy.as_ptr().add(i));
                let d = S::sub(S::load(self.x.as_ptr().add(i)), mean);
                let dx = S::mul_add(a, dz, S::mul_add(b, d, c));
                S::store(self.dx.as_mut_ptr().add(i), S::first(dx, self.lanes));
                if let Some(residual) = &mut self.residual {
                    S::store(residual.as_mut_ptr().add(i), dz);
                }
            }
        }
    }
}

/// Runs `task(g, c)` for every channel of every group.
fn planes(x: &Features, task: impl Fn(usize, usize) + Sync + Send) {
    let (groups, channels) = (x.groups(), x.channels());
    let parts = threads::parts(groups, channels);
    let size = channels.div_ceil(parts);
    threads::each(groups * parts, |i| {
        let (g, first) = (i / parts, i % parts * size);
        for c in first..(first + size).min(channels) {
            task(g, c);
        }
    });
}

/// `f(g, c)` for every channel of every group; per channel, the groups' results in order.
fn per_channel<T: Send + Copy>(
    x: &Features,
    f: impl Fn(usize, usize) -> T + Sync + Send,
    start: T,
    join: impl Fn(T, T) -> T,
) -> Vec<T> {
    let (groups, channels) = (x.groups(), x.channels());
    let parts = threads::parts(groups, channels);
    let size = channels.div_ceil(parts);
    let rows = threads::map(groups * parts, |i| {
        let (g, first) = (i / parts, i % parts * size);
        (first.min(channels)..(first + size).min(channels))
            .map(|c| f(g, c))
            .collect::<Vec<_>>()
    });
    let mut out = vec![start; channels];
    for (i, row) in rows.into_iter().enumerate() {
        let first = i % parts * size;
        for (out, value) in out.iter_mut().skip(first).zip(row) {
            *out = join(*out, value);
        }
    }
    out
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

/// Mean, scale and shift per channel.
type Affine = (Vec<f32>, Vec<f32>, Vec<f32>);

fn apply(
    x: &Features,
    (mean, scale, shift): &Affine,
    residual: Option<&Features>,
    act: Activation,
) -> Features {
    let isa = Isa::current();
    let mut y = Features::uninit(x.dims());
    let out = Out::new(y.cpu_mut());
    planes(x, |g, c| {
        isa.run(Apply {
            x: plane(x, g, c),
            residual: residual.map(|residual| plane(residual, g, c)),
            // SAFETY: `planes` visits every plane once.
            y: unsafe { plane_mut(&out, g, c, x.channels(), x.plane()) },
            mean: mean[c],
            scale: scale[c],
            shift: shift[c],
            act,
            lanes: x.lanes(g),
        });
    });
    y
}

fn inverse_deviation(var: f32, eps: f64) -> f64 {
    1.0 / (f64::from(var) + eps).sqrt()
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
    let moments = per_channel(
        x,
        |g, c| {
            isa.run(Measure {
                x: plane(x, g, c),
                lanes: x.lanes(g),
            })
        },
        Moments::default(),
        Moments::join,
    );
    let count = n * h * w;
    let mean: Vec<f32> = moments.iter().map(|m| m.mean as f32).collect();
    let var: Vec<f32> = moments
        .iter()
        .map(|m| (m.squares / count as f64) as f32)
        .collect();
    let scale = gamma
        .iter()
        .zip(&var)
        .map(|(&gamma, &var)| (f64::from(gamma) * inverse_deviation(var, eps)) as f32)
        .collect();
    let affine = (mean, scale, beta);
    let y = apply(x, &affine, residual, act);
    let statistics = BatchStatistics {
        mean: args::tensor(affine.0, &[c])?,
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
    let scale = gamma
        .iter()
        .zip(&var)
        .map(|(&gamma, &var)| (f64::from(gamma) * inverse_deviation(var, eps)) as f32)
        .collect();
    Ok(apply(x, &(mean, scale, beta), residual, act))
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
    let sums = per_channel(
        x,
        |g, c| {
            isa.run(Sums {
                x: plane(x, g, c),
                y: plane(y, g, c),
                dy: plane(dy, g, c),
                mean: mean[c],
                act,
            })
        },
        (0.0, 0.0),
        |a, b| (a.0 + b.0, a.1 + b.1),
    );
    let count = stats.count as f64;
    // a, b and c of dx = a dz - b (x - mean) - c.
    let factors: Vec<[f32; 3]> = (0..c)
        .map(|c| {
            let inverse = inverse_deviation(var[c], eps);
            let a = f64::from(gamma[c]) * inverse;
            let (plain, centred) = sums[c];
            [
                a as f32,
                (a * inverse * inverse * centred / count) as f32,
                (a * plain / count) as f32,
            ]
        })
        .collect();

    let mut dx = Features::uninit(x.dims());
    // Without an activation the residual's gradient is `dy` itself.
    let masked = has_residual && act != Activation::Identity;
    let mut dr = masked.then(|| Features::uninit(x.dims()));
    let out = Out::new(dx.cpu_mut());
    let out_residual = dr.as_mut().map(|dr| Out::new(dr.cpu_mut()));
    planes(x, |g, ch| {
        let [a, b, shift] = factors[ch];
        // SAFETY: `planes` visits every plane once.
        let (dx, residual) = unsafe {
            (
                plane_mut(&out, g, ch, c, x.plane()),
                out_residual
                    .as_ref()
                    .map(|out| plane_mut(out, g, ch, c, x.plane())),
            )
        };
        isa.run(Backward {
            x: plane(x, g, ch),
            y: plane(y, g, ch),
            dy: plane(dy, g, ch),
            dx,
            residual,
            mean: mean[ch],
            a,
            b,
            c: shift,
            act,
            lanes: x.lanes(g),
        });
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
