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
mod depthwise;
mod direct;
pub(crate) mod epilogue;
pub(crate) mod kernel;
pub(crate) mod plan;
mod pointwise;
mod sizes;
pub(crate) mod transform;
pub(crate) mod winograd;
mod winograd_gradient;

use candle_core::{Result, Tensor};

use crate::activation::Activation;
use crate::args;
use crate::element::{Element, by_element};
use crate::elementwise;
use crate::features::{self, Features};
use crate::filters::Filters;
use crate::gpu;
use crate::threads;
pub use algorithm::Convolution;
use direct::{Shape, Weights};
use epilogue::Epilogue;
use plan::Plan;
pub use sizes::ConvConfig;
pub(crate) use sizes::Sizes;

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

/// The sizes of each of the groups.
fn shape(sizes: &Sizes, cfg: ConvConfig) -> Shape {
    Shape {
        groups: cfg.groups,
        from: sizes.c_in / cfg.groups,
        to: sizes.c_out / cfg.groups,
        kernel: sizes.kernel.0 * sizes.kernel.1,
    }
}

/// The Winograd transform to use, if any, where the source is padded by `padding`.
fn winograd_side(sizes: &Sizes, cfg: ConvConfig, padding: usize) -> Option<winograd::Side> {
    let fits = sizes.kernel == (3, 3) && cfg.stride == 1 && cfg.groups == 1 && padding <= 2;
    let allowed = fits && cfg.algorithm == Convolution::Fast;
    allowed.then(|| winograd::side(sizes.c_in, sizes.c_out, sizes.output))?
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
/// Shapes or precisions that do not fit together, or a tensor that is not `f32`.
pub fn conv2d(
    x: &Features,
    w: &Tensor,
    bias: Option<&Tensor>,
    cfg: ConvConfig,
) -> Result<Features> {
    conv2d_then(x, w, bias, cfg, None, Activation::Identity)
}

/// As [`conv2d`], with filters made ready before, for maps of `x`'s precision.
///
/// # Errors
///
/// Those of [`conv2d`], and filters of another device or precision.
pub fn conv2d_prepared(
    x: &Features,
    filters: &Filters,
    bias: Option<&Tensor>,
    cfg: ConvConfig,
) -> Result<Features> {
    convolve(x, filters, bias, cfg, None, Activation::Identity)
}

/// `act(conv2d(x) + residual)`, with a residual of the output's dimensions.
pub(crate) fn conv2d_then(
    x: &Features,
    w: &Tensor,
    bias: Option<&Tensor>,
    cfg: ConvConfig,
    residual: Option<&Features>,
    act: Activation,
) -> Result<Features> {
    // What does not fit is told before anything is done.
    Sizes::new(OP, (x.channels(), x.height(), x.width()), w.dims(), cfg)?;
    let filters = Filters::of(w, x.precision())?;
    convolve(x, &filters, bias, cfg, residual, act)
}

const OP: &str = "conv2d";

fn convolve(
    x: &Features,
    filters: &Filters,
    bias: Option<&Tensor>,
    cfg: ConvConfig,
    residual: Option<&Features>,
    act: Activation,
) -> Result<Features> {
    let sizes = Sizes::new(
        OP,
        (x.channels(), x.height(), x.width()),
        &filters.dims(),
        cfg,
    )?;
    if let Some(gpu) = x.gpu() {
        let w = filters.on_gpu(OP, x.precision())?;
        let y = gpu::conv2d(&gpu, x.maps(OP)?, w, bias, cfg, &sizes)?;
        let y = Features::from_gpu(y);
        return match residual {
            Some(residual) => elementwise::add(&y, residual, act),
            None => elementwise::activation(&y, act),
        };
    }
    let bias = bias
        .map(|bias| args::numbers(OP, "a bias", bias, &[sizes.c_out]))
        .transpose()?;
    if let Some(residual) = residual {
        let (oh, ow) = sizes.output;
        let expected = (x.batch(), sizes.c_out, oh, ow);
        args::same(OP, "a residual of dimensions", expected, residual.dims())?;
        features::precision(OP, &[x, residual])?;
    }
    args::with_any(OP, "a weight", filters.tensor(OP)?, |w| {
        by_element!(x.precision(), E => {
            let then = (residual, act);
            forward::<E>(x, w, bias.as_deref(), cfg, &sizes, then)
        })
    })?
}

fn forward<E: Element>(
    x: &Features,
    w: &[f32],
    bias: Option<&[f32]>,
    cfg: ConvConfig,
    sizes: &Sizes,
    (residual, act): (Option<&Features>, Activation),
) -> Result<Features> {
    let (oh, ow) = sizes.output;
    let mut y = Features::uninit((x.batch(), sizes.c_out, oh, ow), x.precision())?;
    if let Some(side) = winograd_side(sizes, cfg, cfg.padding) {
        let weight = |o: usize, c: usize| nine(&w[(o * sizes.c_in + c) * 9..]);
        let epilogue = Epilogue {
            bias: bias.into(),
            residual: residual.map(Features::cpu::<E>),
            clamp: act.clamp(),
        };
        winograd::convolve::<E>(x, &mut y, cfg.padding, side, epilogue, weight);
        return Ok(y);
    }
    if depthwise::is(sizes, cfg) {
        // Alone, the activation is done with it.
        let (clamp, act) = match residual {
            Some(_) => (None, act),
            None => (act.clamp(), Activation::Identity),
        };
        depthwise::forward::<E>(x, &mut y, w, bias, cfg, sizes, clamp);
        return elementwise::finish(y, residual, act);
    }
    let plan = Plan::forward(sizes.input, sizes.output, sizes.kernel, cfg);
    let shape = shape(sizes, cfg);
    let part = shape.to * shape.from * shape.kernel;
    let weights: Vec<_> = (0..cfg.groups)
        .map(|i| vec![Weights::Borrowed(&w[i * part..][..part])])
        .collect();
    if sizes.pointwise(cfg) {
        let phase = &plan.phases[0];
        let weights: Vec<_> = weights.iter().map(|part| &part[0]).collect();
        let pixels = (&phase.pixel_x[..], &phase.pixel_y[..]);
        pointwise::gather::<E>(x, &mut y, pixels, &shape, bias, &weights);
    } else {
        direct::gather::<E>(x, &mut y, &plan, &shape, bias, &weights);
    }
    elementwise::finish(y, residual, act)
}

/// What becomes of the gradient of a convolution's input. `true` computes it, `false` skips it.
#[derive(Clone, Debug)]
pub enum InputGradient {
    /// It is not computed: the first layer of a network has no use for it.
    Skip,
    /// It is computed.
    Compute,
    /// It is added to another gradient of the same maps, where they have several readers, before it is stored.
    AddTo(Features),
}

impl From<bool> for InputGradient {
    fn from(compute: bool) -> Self {
        if compute { Self::Compute } else { Self::Skip }
    }
}

/// Gradients of [`conv2d`] from the output's gradient `dy` `[N, C_out, H', W']`.
///
/// # Errors
///
/// Shapes or precisions that do not fit together, or a tensor that is not `f32`.
pub fn conv2d_backward(
    x: &Features,
    w: &Tensor,
    has_bias: bool,
    cfg: ConvConfig,
    dy: &Features,
    input: impl Into<InputGradient>,
) -> Result<ConvGrads> {
    // What does not fit is told before anything is done.
    Sizes::new(
        BACKWARD,
        (x.channels(), x.height(), x.width()),
        w.dims(),
        cfg,
    )?;
    let filters = Filters::of(w, x.precision())?;
    conv2d_backward_prepared(x, &filters, has_bias, cfg, dy, input)
}

const BACKWARD: &str = "conv2d_backward";

/// As [`conv2d_backward`], with the filters of the forward pass. The gradient of the weight is that of all filters they
/// were made of, 0 for those that were not used.
///
/// # Errors
///
/// Those of [`conv2d_backward`], and filters of another device or precision.
pub fn conv2d_backward_prepared(
    x: &Features,
    filters: &Filters,
    has_bias: bool,
    cfg: ConvConfig,
    dy: &Features,
    input: impl Into<InputGradient>,
) -> Result<ConvGrads> {
    const OP: &str = BACKWARD;
    let (need_input, sum) = match input.into() {
        InputGradient::Skip => (false, None),
        InputGradient::Compute => (true, None),
        InputGradient::AddTo(sum) => (true, Some(sum)),
    };
    let sizes = Sizes::new(
        OP,
        (x.channels(), x.height(), x.width()),
        &filters.dims(),
        cfg,
    )?;
    let (oh, ow) = sizes.output;
    args::same(
        OP,
        "a gradient of dimensions",
        (x.batch(), sizes.c_out, oh, ow),
        dy.dims(),
    )?;
    let precision = features::precision(OP, &[x, dy])?;
    if let Some(sum) = &sum {
        args::same(OP, "a second gradient of dimensions", x.dims(), sum.dims())?;
        features::precision(OP, &[x, sum])?;
    }
    if let Some(gpu) = x.gpu() {
        let w = need_input.then(|| filters.on_gpu(OP, precision));
        let (source, w) = (filters.parts(), w.transpose()?);
        let (x, dy) = (x.maps(OP)?, dy.maps(OP)?);
        let grads = gpu::conv2d_backward(&gpu, x, &source, w, has_bias, cfg, &sizes, dy)?;
        let input = grads.input.map(Features::from_gpu);
        return Ok(ConvGrads {
            input: match (sum, input) {
                (Some(sum), Some(input)) => Some(elementwise::accumulate(sum, &input)?),
                (_, input) => input,
            },
            weight: grads.weight,
            bias: grads.bias,
        });
    }
    by_element!(precision, E => {
        let gradient = |w: &[f32]| input_gradient::<E>(w, cfg, &sizes, dy, sum.as_ref());
        let input = need_input
            .then(|| args::with_any(OP, "a weight", filters.tensor(OP)?, gradient)?)
            .transpose()?;
        let bias = has_bias.then(|| direct::bias_gradient::<E>(dy));
        let weight = args::tensor(weight_gradient::<E>(x, cfg, &sizes, dy), &filters.dims())?;
        Ok(ConvGrads {
            input,
            weight: filters.parts().gradient(weight)?,
            bias: bias.map(|bias| args::tensor(bias, &[sizes.c_out])).transpose()?,
        })
    })
}

fn input_gradient<E: Element>(
    w: &[f32],
    cfg: ConvConfig,
    sizes: &Sizes,
    dy: &Features,
    sum: Option<&Features>,
) -> Result<Features> {
    let (h, width) = sizes.input;
    let mut dx = Features::uninit((dy.batch(), sizes.c_in, h, width), dy.precision())?;
    let turned = sizes.turned();
    // The convolution of dy with the turned kernel, padded by what reaches beyond it.
    let padding = 2usize.wrapping_sub(cfg.padding);
    if let Some(side) = winograd_side(&turned, cfg, padding) {
        let epilogue = Epilogue {
            residual: sum.map(Features::cpu::<E>),
            ..Epilogue::NOTHING
        };
        winograd::convolve::<E>(dy, &mut dx, padding, side, epilogue, |c, o| {
            let mut turned = nine(&w[(o * sizes.c_in + c) * 9..]);
            turned.reverse();
            turned
        });
        return Ok(dx);
    }
    if depthwise::is(sizes, cfg) {
        depthwise::input_gradient::<E>(dy, &mut dx, w, cfg, sizes, sum);
        return Ok(dx);
    }
    let plan = Plan::input_gradient(sizes.input, sizes.output, sizes.kernel, cfg);
    // The gradient flows the other way: from the outputs to the inputs.
    let shape = shape(&turned, cfg);
    let (outputs, inputs, kernel) = (shape.from, shape.to, shape.kernel);
    let weights: Vec<Vec<_>> = threads::map(cfg.groups, |part| {
        let w = &w[part * outputs * inputs * kernel..];
        let of_phase = |phase: &plan::Phase| {
            let mut turned = Vec::with_capacity(outputs * inputs * phase.taps.len());
            for c in 0..inputs {
                for o in 0..outputs {
                    let w = &w[(o * inputs + c) * kernel..][..kernel];
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
            dx.cpu_mut().fill(E::default());
        }
        let phase = &plan.phases[met];
        let weights: Vec<_> = weights.iter().map(|part| &part[met]).collect();
        let pixels = (&phase.pixel_x[..], &phase.pixel_y[..]);
        pointwise::gather::<E>(dy, &mut dx, pixels, &shape, None, &weights);
    } else {
        direct::gather::<E>(dy, &mut dx, &plan, &shape, None, &weights);
    }
    elementwise::finish(dx, sum, Activation::Identity)
}

fn weight_gradient<E: Element>(
    x: &Features,
    cfg: ConvConfig,
    sizes: &Sizes,
    dy: &Features,
) -> Vec<f32> {
    if let Some(side) = winograd_side(sizes, cfg, cfg.padding) {
        return winograd_gradient::weight_gradient::<E>(x, dy, cfg.padding, side);
    }
    if depthwise::is(sizes, cfg) {
        return depthwise::weight_gradient::<E>(x, dy, cfg, sizes);
    }
    let plan = Plan::forward(sizes.input, sizes.output, sizes.kernel, cfg);
    let shape = shape(sizes, cfg);
    if sizes.pointwise(cfg) {
        pointwise::weight_gradient::<E>(x, dy, &plan.phases[0].pixel_x, &shape)
    } else {
        direct::weight_gradient::<E>(x, dy, &plan, &shape)
    }
}
