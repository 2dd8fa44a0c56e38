//! Convolution: forward, input gradient, weight gradient and bias gradient.
//!
//! ```text
//! y[n, o, i, j]  = b[o] + Σ_{c,u,v} w[o, c, u, v] x[n, c, i s - p + u, j s - p + v]
//! dx[n, c, k, l] = Σ_{o,u,v} w[o, c, u, v] dy[n, o, (k + p - u) / s, (l + p - v) / s]
//! dw[o, c, u, v] = Σ_{n,i,j} dy[n, o, i, j] x[n, c, i s - p + u, j s - p + v]
//! db[o]          = Σ_{n,i,j} dy[n, o, i, j]
//! ```
//!
//! with terms outside a map, and fractional indices, left out. As everywhere in deep learning this
//! is a cross-correlation: the kernel is not flipped.

mod algorithm;
mod direct;
pub(crate) mod kernel;
mod plan;
mod pointwise;
mod transform;
mod winograd;
mod winograd_gradient;

use candle_core::{Result, Tensor, bail};

use crate::args;
use crate::features::Features;
use crate::threads;
pub use algorithm::Convolution;
use direct::{Shape, Weights};
use plan::Plan;

/// Stride, padding and groups of a convolution, the same in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConvConfig {
    /// Pixels from one output's window to the next, at least 1.
    pub stride: usize,
    /// Pixels of zeros around the input.
    pub padding: usize,
    /// Independent parts that the channels are divided into; 1 is an ordinary convolution.
    pub groups: usize,
}

impl Default for ConvConfig {
    /// Stride 1, no padding, one group.
    fn default() -> Self {
        Self {
            stride: 1,
            padding: 0,
            groups: 1,
        }
    }
}

/// Gradients of a convolution.
#[derive(Clone, Debug)]
pub struct ConvGrads {
    /// `[N, C_in, H, W]`, where it was asked for.
    pub input: Option<Features>,
    /// `[C_out, C_in / groups, K_h, K_w]`.
    pub weight: Tensor,
    /// `[C_out]`, where there is a bias.
    pub bias: Option<Tensor>,
}

/// The sizes of one convolution, checked.
struct Sizes {
    c_in: usize,
    c_out: usize,
    input: (usize, usize),
    output: (usize, usize),
    kernel: (usize, usize),
}

impl Sizes {
    fn new(op: &str, x: &Features, w: &Tensor, cfg: ConvConfig) -> Result<Self> {
        let (_, c_in, h, width) = x.dims();
        let Ok((c_out, depth, kh, kw)) = w.dims4() else {
            bail!(
                "{op}: expected a weight of shape [C_out, C_in / groups, K_h, K_w], got {:?}",
                w.dims()
            );
        };
        let ConvConfig {
            stride,
            padding,
            groups,
        } = cfg;
        if stride == 0 || groups == 0 {
            bail!("{op}: expected a stride and groups of at least 1, got {stride} and {groups}");
        }
        if c_in % groups != 0 || c_out % groups != 0 || c_in / groups != depth {
            bail!(
                "{op}: expected a weight for {c_in} input channels in {groups} groups, got {:?}",
                w.dims()
            );
        }
        let padded = (h + 2 * padding, width + 2 * padding);
        if c_out == 0 || kh == 0 || kw == 0 || kh > padded.0 || kw > padded.1 {
            bail!(
                "{op}: expected a kernel that fits the padded input of {} x {}, got weight {:?}",
                padded.0,
                padded.1,
                w.dims()
            );
        }
        Ok(Self {
            c_in,
            c_out,
            input: (h, width),
            output: ((padded.0 - kh) / stride + 1, (padded.1 - kw) / stride + 1),
            kernel: (kh, kw),
        })
    }

    /// Whether every output pixel meets one input pixel.
    fn pointwise(&self, cfg: ConvConfig) -> bool {
        self.kernel == (1, 1) && cfg.padding == 0
    }

    /// The sizes of the input gradient, which is the convolution of the output's.
    fn turned(&self) -> Self {
        Self {
            c_in: self.c_out,
            c_out: self.c_in,
            input: self.output,
            output: self.input,
            kernel: self.kernel,
        }
    }

    /// The Winograd transform to use, if any, where the source is padded by `padding`.
    fn winograd(&self, cfg: ConvConfig, padding: usize) -> Option<winograd::Side> {
        let fits = self.kernel == (3, 3) && cfg.stride == 1 && cfg.groups == 1 && padding <= 2;
        let allowed = fits && Convolution::current() == Convolution::Fast;
        allowed.then(|| winograd::side(self.c_in, self.c_out, self.output))?
    }
}

/// A 3x3 kernel.
fn nine(w: &[f32]) -> [f32; 9] {
    std::array::from_fn(|i| w[i])
}

/// Convolution of `x` `[N, C_in, H, W]` with `w` `[C_out, C_in / groups, K_h, K_w]` and a bias
/// `[C_out]`, giving `[N, C_out, H', W']` with `H' = (H + 2 padding - K_h) / stride + 1`.
///
/// # Errors
///
/// Shapes that do not fit together, or a tensor that is not `f32`.
pub fn conv2d(
    x: &Features,
    w: &Tensor,
    bias: Option<&Tensor>,
    cfg: ConvConfig,
) -> Result<Features> {
    const OP: &str = "conv2d";
    let sizes = Sizes::new(OP, x, w, cfg)?;
    let bias = bias
        .map(|bias| args::numbers(OP, "a bias", bias, &[sizes.c_out]))
        .transpose()?;
    args::with_any(OP, "a weight", w, |w| {
        let plan = Plan::forward(sizes.input, sizes.output, sizes.kernel, cfg);
        let shape = Shape {
            groups: cfg.groups,
            from: sizes.c_in / cfg.groups,
            to: sizes.c_out / cfg.groups,
            kernel: sizes.kernel.0 * sizes.kernel.1,
        };
        let (oh, ow) = sizes.output;
        let mut y = Features::uninit((x.batch(), sizes.c_out, oh, ow));
        if let Some(side) = sizes.winograd(cfg, cfg.padding) {
            let weight = |o: usize, c: usize| nine(&w[(o * sizes.c_in + c) * 9..]);
            winograd::convolve(x, &mut y, cfg.padding, side, bias.as_deref(), weight);
            return y;
        }
        let part = shape.to * shape.from * shape.kernel;
        let weights: Vec<_> = (0..cfg.groups)
            .map(|i| vec![Weights::Borrowed(&w[i * part..][..part])])
            .collect();
        if sizes.pointwise(cfg) {
            let phase = &plan.phases[0];
            let weights: Vec<_> = weights.iter().map(|part| &part[0]).collect();
            let pixels = (&phase.pixel_x[..], &phase.pixel_y[..]);
            pointwise::gather(x, &mut y, pixels, &shape, bias.as_deref(), &weights);
        } else {
            direct::gather(x, &mut y, &plan, &shape, bias.as_deref(), &weights);
        }
        y
    })
}

/// Gradients of [`conv2d`] from the output's gradient `dy` `[N, C_out, H', W']`.
///
/// The input's is left out unless `need_input`: the first layer of a network has no use for it.
///
/// # Errors
///
/// Shapes that do not fit together, or a tensor that is not `f32`.
pub fn conv2d_backward(
    x: &Features,
    w: &Tensor,
    has_bias: bool,
    cfg: ConvConfig,
    dy: &Features,
    need_input: bool,
) -> Result<ConvGrads> {
    const OP: &str = "conv2d_backward";
    let sizes = Sizes::new(OP, x, w, cfg)?;
    let (oh, ow) = sizes.output;
    args::same(
        OP,
        "a gradient of dimensions",
        (x.batch(), sizes.c_out, oh, ow),
        dy.dims(),
    )?;
    let (from, to) = (sizes.c_in / cfg.groups, sizes.c_out / cfg.groups);
    let kernel = sizes.kernel.0 * sizes.kernel.1;

    let input = if need_input {
        Some(args::with_any(OP, "a weight", w, |w| {
            let plan = Plan::input_gradient(sizes.input, sizes.output, sizes.kernel, cfg);
            // The gradient flows the other way: from the outputs to the inputs.
            let shape = Shape {
                groups: cfg.groups,
                from: to,
                to: from,
                kernel,
            };
            let mut dx = Features::uninit(x.dims());
            // The convolution of dy with the turned kernel, padded by what reaches beyond it.
            let padding = 2usize.wrapping_sub(cfg.padding);
            if let Some(side) = sizes.turned().winograd(cfg, padding) {
                winograd::convolve(dy, &mut dx, padding, side, None, |c, o| {
                    let mut turned = nine(&w[(o * sizes.c_in + c) * 9..]);
                    turned.reverse();
                    turned
                });
                return dx;
            }
            let weights: Vec<Vec<_>> = threads::map(cfg.groups, |part| {
                let w = &w[part * to * from * kernel..];
                let of_phase = |phase: &plan::Phase| {
                    let mut turned = Vec::with_capacity(to * from * phase.taps.len());
                    for c in 0..from {
                        for o in 0..to {
                            let w = &w[(o * from + c) * kernel..][..kernel];
                            turned.extend(phase.taps.iter().map(|&(_, tap)| w[tap]));
                        }
                    }
                    Weights::Owned(turned)
                };
                plan.phases.iter().map(of_phase).collect()
            });
            let met = plan.phases.iter().position(|phase| !phase.taps.is_empty());
            if let (true, Some(met)) = (sizes.pointwise(cfg), met) {
                // With a stride, most pixels meet no output.
                if plan.phases.len() > 1 {
                    dx.cpu_mut().fill(0.0);
                }
                let phase = &plan.phases[met];
                let weights: Vec<_> = weights.iter().map(|part| &part[met]).collect();
                let pixels = (&phase.pixel_x[..], &phase.pixel_y[..]);
                pointwise::gather(dy, &mut dx, pixels, &shape, None, &weights);
            } else {
                direct::gather(dy, &mut dx, &plan, &shape, None, &weights);
            }
            dx
        })?)
    } else {
        None
    };
    let weight = match sizes.winograd(cfg, cfg.padding) {
        Some(side) => winograd_gradient::weight_gradient(x, dy, cfg.padding, side),
        None => {
            let plan = Plan::forward(sizes.input, sizes.output, sizes.kernel, cfg);
            let shape = Shape {
                groups: cfg.groups,
                from,
                to,
                kernel,
            };
            if sizes.pointwise(cfg) {
                pointwise::weight_gradient(x, dy, &plan.phases[0].pixel_x, &shape)
            } else {
                direct::weight_gradient(x, dy, &plan, &shape)
            }
        }
    };
    Ok(ConvGrads {
        input,
        weight: args::tensor(weight, w.dims())?,
        bias: has_bias
            .then(|| args::tensor(direct::bias_gradient(dy), &[sizes.c_out]))
            .transpose()?,
    })
}
