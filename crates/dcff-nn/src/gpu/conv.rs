//! Convolution on a GPU: by cuDNN where the program has it, else products of matrices gathered on the way, by kernels
//! of our own.

use candle_core::{Result, Tensor};

use super::filters::{GpuFilters, source_gradient};
use super::handle::Gpu;
use super::kernel::{
    ADD_BIAS, CONV_FORWARD_16, CONV_FORWARD_32, CONV_FORWARD_64, CONV_INPUT_16, CONV_INPUT_32,
    CONV_INPUT_64, CONV_WEIGHT_16, CONV_WEIGHT_32, CONV_WEIGHT_64, CONV_WEIGHT_JOIN, Kernel,
};
use super::maps::{Dims, Maps};
use super::norm::bias_gradient;
use super::parameters;
use super::sizes::{bytes, int, ints};
use crate::conv::{ConvConfig, Sizes};
use crate::filter_source::FilterSource;

/// Rows of a block's tile.
const ROWS: usize = 64;
/// Pixels that a part of a weight gradient sums at least, if there are that many.
const PIXELS: usize = 256;

/// The kernel for so many columns, and how many columns its blocks have.
fn by_columns(
    columns: usize,
    kernels: [Kernel<parameters::Conv>; 3],
) -> (Kernel<parameters::Conv>, usize) {
    let [narrow, middle, wide] = kernels;
    match columns {
        0..=16 => (narrow, 16),
        17..=32 => (middle, 32),
        _ => (wide, 64),
    }
}

/// What cuDNN is asked for: addresses of x, of the weight and of y, or of their gradients.
#[cfg_attr(
    not(feature = "cudnn"),
    expect(dead_code, reason = "without cuDNN nobody reads the addresses")
)]
enum Asked {
    Forward { x: u64, w: u64, y: u64 },
    Input { w: u64, dy: u64, dx: u64 },
    Weight { x: u64, dy: u64, dw: u64 },
}

/// Has cuDNN compute; `false` where there is none, or it cannot.
#[cfg(feature = "cudnn")]
fn by_cudnn(gpu: &Gpu, x: &Maps, sizes: &Sizes, cfg: ConvConfig, asked: Asked) -> Result<bool> {
    use super::cuda::cudnn::{Key, Pass, Places, run};
    let settings = gpu.settings();
    let key = Key {
        batch: x.dims().0,
        sizes: *sizes,
        cfg,
        precision: x.precision(),
        tf32: settings.tf32,
        deterministic: settings.deterministic,
    };
    let (pass, x, w, y) = match asked {
        Asked::Forward { x, w, y } => (Pass::Forward, x, w, y),
        Asked::Input { w, dy, dx } => (Pass::Input, dx, w, dy),
        Asked::Weight { x, dy, dw } => (Pass::Weight, x, dw, dy),
    };
    // SAFETY: the callers' maps and weights have the sizes given.
    unsafe { run(gpu, &key, pass, Places { x, w, y }) }
}

#[cfg(not(feature = "cudnn"))]
fn by_cudnn(_: &Gpu, _: &Maps, _: &Sizes, _: ConvConfig, _: Asked) -> Result<bool> {
    Ok(false)
}

/// The sizes, without addresses.
fn shape(x: &Maps, sizes: &Sizes, cfg: ConvConfig) -> Result<parameters::Conv> {
    let [n, h, wide, c, x_channels, oh, ow, o] = ints([
        x.dims().0,
        sizes.input.0,
        sizes.input.1,
        sizes.c_in / cfg.groups,
        sizes.c_in,
        sizes.output.0,
        sizes.output.1,
        sizes.c_out / cfg.groups,
    ])?;
    let [y_channels, kh, kw, stride, padding, groups] = ints([
        sizes.c_out,
        sizes.kernel.0,
        sizes.kernel.1,
        cfg.stride,
        cfg.padding,
        cfg.groups,
    ])?;
    Ok(parameters::Conv {
        x: 0,
        w: 0,
        y: 0,
        bias: 0,
        n,
        h,
        wide,
        c,
        x_channels,
        oh,
        ow,
        o,
        y_channels,
        kh,
        kw,
        stride,
        padding,
        groups,
        splits: 1,
    })
}

/// See [`crate::conv2d`].
pub(crate) fn conv2d(
    gpu: &Gpu,
    x: &Maps,
    w: &GpuFilters,
    bias: Option<&Tensor>,
    cfg: ConvConfig,
    sizes: &Sizes,
) -> Result<Maps> {
    const OP: &str = "conv2d";
    let bias = bias.map(Tensor::contiguous).transpose()?;
    let bias_at = match &bias {
        Some(bias) => gpu.numbers(OP, "a bias", bias, &[sizes.c_out])?,
        None => 0,
    };
    let dims = (x.dims().0, sizes.c_out, sizes.output.0, sizes.output.1);
    let y = Maps::new(gpu, x.precision(), dims)?;
    let asked = Asked::Forward {
        x: x.address(),
        w: w.address(),
        y: y.address(),
    };
    if by_cudnn(gpu, x, sizes, cfg, asked)? {
        if bias.is_some() {
            add_bias(gpu, &y, bias_at, dims)?;
        }
        return Ok(y);
    }
    let parameters = parameters::Conv {
        x: x.address(),
        w: w.address(),
        y: y.address(),
        bias: bias_at,
        ..shape(x, sizes, cfg)?
    };
    let columns = sizes.c_out / cfg.groups;
    let kernels = [CONV_FORWARD_16, CONV_FORWARD_32, CONV_FORWARD_64];
    let (kernel, width) = by_columns(columns, kernels);
    let pixels = dims.0 * dims.2 * dims.3;
    let grid = [pixels.div_ceil(ROWS), columns.div_ceil(width), cfg.groups];
    // SAFETY: the maps, weights and bias have the sizes given.
    unsafe { gpu.launch(kernel, x.precision(), grid, &parameters) }?;
    Ok(y)
}

/// `y += bias`.
fn add_bias(gpu: &Gpu, y: &Maps, bias: u64, (n, c, h, w): Dims) -> Result<()> {
    let count = n * c * h * w;
    let parameters = parameters::AddBias {
        y: y.address(),
        bias,
        count: count as i64,
        channels: int(c)?,
    };
    // SAFETY: the maps have these dimensions, the bias a number for each channel.
    unsafe { gpu.launch(ADD_BIAS, y.precision(), gpu.grid(count), &parameters) }
}

fn input_gradient(
    gpu: &Gpu,
    x: &Maps,
    w: &GpuFilters,
    cfg: ConvConfig,
    sizes: &Sizes,
    dy: &Maps,
) -> Result<Maps> {
    let dx = Maps::new(gpu, dy.precision(), x.dims())?;
    let asked = Asked::Input {
        w: w.address(),
        dy: dy.address(),
        dx: dx.address(),
    };
    if by_cudnn(gpu, x, sizes, cfg, asked)? {
        return Ok(dx);
    }
    let parameters = parameters::Conv {
        x: dy.address(),
        w: w.address(),
        y: dx.address(),
        ..shape(x, sizes, cfg)?
    };
    let columns = sizes.c_in / cfg.groups;
    let (kernel, width) = by_columns(columns, [CONV_INPUT_16, CONV_INPUT_32, CONV_INPUT_64]);
    let pixels = x.dims().0 * sizes.input.0 * sizes.input.1;
    let grid = [pixels.div_ceil(ROWS), columns.div_ceil(width), cfg.groups];
    // SAFETY: the maps and weights have the sizes given.
    unsafe { gpu.launch(kernel, dy.precision(), grid, &parameters) }?;
    Ok(dx)
}

/// The gradient of the weight of `source`.
fn weight_gradient(
    gpu: &Gpu,
    x: &Maps,
    source: &FilterSource<'_>,
    cfg: ConvConfig,
    sizes: &Sizes,
    dy: &Maps,
) -> Result<Tensor> {
    let taps = sizes.kernel.0 * sizes.kernel.1;
    let (from, to) = (sizes.c_in / cfg.groups, sizes.c_out / cfg.groups);
    let columns = taps * from;
    if cfg!(feature = "cudnn") {
        let block = gpu.block(sizes.c_out * columns * bytes(x.precision()))?;
        let asked = Asked::Weight {
            x: x.address(),
            dy: dy.address(),
            dw: block.address(),
        };
        if by_cudnn(gpu, x, sizes, cfg, asked)? {
            return source_gradient(gpu, source, x.precision(), block.address());
        }
    }
    let (kh, kw) = sizes.kernel;
    let (dw, at) = gpu.tensor(&[sizes.c_out, from, kh, kw])?;
    let (kernel, width) = by_columns(columns, [CONV_WEIGHT_16, CONV_WEIGHT_32, CONV_WEIGHT_64]);
    let (rows, across) = (to.div_ceil(ROWS), columns.div_ceil(width));
    let pixels = x.dims().0 * sizes.output.0 * sizes.output.1;
    // Enough parts to keep the GPU busy, each of a reasonable length.
    let wanted = (4 * gpu.machine().processors()).div_ceil(rows * across * cfg.groups);
    let splits = wanted.clamp(1, pixels.div_ceil(PIXELS));
    let parts = gpu.block(splits * sizes.c_out * columns * size_of::<f32>())?;
    let parameters = parameters::Conv {
        x: x.address(),
        w: dy.address(),
        y: parts.address(),
        splits: int(splits)?,
        ..shape(x, sizes, cfg)?
    };
    let grid = [rows, across, cfg.groups * splits];
    // SAFETY: the maps have the sizes given; every part has as many numbers as the weight.
    unsafe { gpu.launch(kernel, x.precision(), grid, &parameters) }?;
    let join = parameters::Join {
        parts: parts.address(),
        dw: at,
        o: sizes.c_out as i64,
        c: from as i64,
        taps: taps as i64,
        splits: parameters.splits,
    };
    let grid = gpu.grid(sizes.c_out * columns);
    // SAFETY: as above.
    unsafe { gpu.launch(CONV_WEIGHT_JOIN, x.precision(), grid, &join) }?;
    source.gradient(dw)
}

/// Gradients of a convolution: of its input where it was asked for, of the weight, and of a bias where there is one.
pub(crate) struct ConvGrads {
    pub(crate) input: Option<Maps>,
    pub(crate) weight: Tensor,
    pub(crate) bias: Option<Tensor>,
}

/// See [`crate::conv2d_backward`]; `w` are the filters of `source` where the gradient of the input is asked for.
#[expect(clippy::too_many_arguments, reason = "a convolution has this many")]
pub(crate) fn conv2d_backward(
    gpu: &Gpu,
    x: &Maps,
    source: &FilterSource<'_>,
    w: Option<&GpuFilters>,
    has_bias: bool,
    cfg: ConvConfig,
    sizes: &Sizes,
    dy: &Maps,
) -> Result<ConvGrads> {
    Ok(ConvGrads {
        input: w
            .map(|w| input_gradient(gpu, x, w, cfg, sizes, dy))
            .transpose()?,
        weight: weight_gradient(gpu, x, source, cfg, sizes, dy)?,
        bias: has_bias.then(|| bias_gradient(gpu, dy)).transpose()?,
    })
}
