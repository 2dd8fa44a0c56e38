//! Max, average and global average pooling.
//!
//! ```text
//! max: y[i, j] = max_{u,v < k} x[i s - p + u, j s - p + v]            over the pixels inside the map
//! avg: y[i, j] = 1/k² Σ_{u,v < k} x[i s - p + u, j s - p + v]         zeros outside the map count
//! ```
//!
//! Both as in PyTorch: of equal maxima the first in row-major order receives the whole gradient,
//! NaN wins, and an average divides by `k²` also where its window leaves the map.

mod config;
mod kernels;

use std::sync::Arc;

use candle_core::{Result, bail};

use crate::args;
use crate::buffer::Buffer;
use crate::cpu::Isa;
use crate::element::{Element, Precision, by_element, through_f32};
use crate::features::Features;
use crate::gpu;
use crate::threads::{self, Out};
pub use config::PoolConfig;
use kernels::{Average, AverageBackward, Map, Max, MaxBackward, Mean, Spread};

/// Which pixel of each window was the maximum.
#[derive(Clone)]
pub struct MaxIndices {
    dims: (usize, usize, usize, usize),
    output: (usize, usize),
    cfg: PoolConfig,
    taps: Taps,
}

/// Row times kernel plus column within the window, a byte each, in the layout of the output.
#[derive(Clone)]
enum Taps {
    Cpu(Arc<Buffer<u8>>),
    Gpu(gpu::Taps),
}

impl std::fmt::Debug for MaxIndices {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MaxIndices")
            .field("dims", &self.dims)
            .field("output", &self.output)
            .field("cfg", &self.cfg)
            .finish_non_exhaustive()
    }
}

/// Height and width of a pooled map.
fn output(op: &str, (h, w): (usize, usize), cfg: PoolConfig) -> Result<(usize, usize)> {
    let PoolConfig {
        kernel,
        stride,
        padding,
    } = cfg;
    let strides = 1..=args::LONGEST_STEP;
    if kernel == 0 || kernel > 15 || !strides.contains(&stride) || padding > kernel / 2 {
        bail!(
            "{op}: expected a kernel of 1 to 15, a stride of {} to {} and padding of at most half \
             the kernel, got {kernel}, {stride} and {padding}",
            strides.start(),
            strides.end()
        );
    }
    args::count(op, &[h, w])?;
    let (h, w) = (h + 2 * padding, w + 2 * padding);
    if h < kernel || w < kernel {
        bail!("{op}: expected a map of at least {kernel} pixels, got {h} x {w} with padding");
    }
    Ok(((h - kernel) / stride + 1, (w - kernel) / stride + 1))
}

/// Calls `task(source plane, target plane, index of the plane)` for all channels of all groups.
fn planes<E: Element>(
    source: &Features,
    target: &mut Features,
    task: impl Fn(&[E], &mut [E], usize) + Sync + Send,
) {
    let (from_len, to_len) = (source.plane(), target.plane());
    let channels = source.channels();
    let to = Out::new(target.cpu_mut::<E>());
    let parts = threads::parts(source.groups(), channels);
    let size = channels.div_ceil(parts);
    threads::each(source.groups() * parts, |i| {
        let (g, first) = (i / parts, i % parts * size);
        for c in first..(first + size).min(channels) {
            let plane = g * channels + c;
            // SAFETY: every plane is visited once.
            let to = unsafe { std::slice::from_raw_parts_mut(to.at(plane * to_len), to_len) };
            task(
                &source.cpu::<E>()[plane * from_len..][..from_len],
                to,
                plane,
            );
        }
    });
}

/// Max pooling of `x` `[N, C, H, W]`: the maxima `[N, C, H', W']` with
/// `H' = (H + 2 padding - kernel) / stride + 1`, and where they came from.
///
/// # Errors
///
/// A window that does not fit the map.
pub fn max_pool2d(x: &Features, cfg: PoolConfig) -> Result<(Features, MaxIndices)> {
    let (n, c, h, w) = x.dims();
    let (oh, ow) = output("max_pool2d", (h, w), cfg)?;
    if let Some(gpu) = x.gpu() {
        let (y, taps) = gpu::max_pool2d(&gpu, x.maps("max_pool2d")?, cfg, (oh, ow))?;
        let y = Features::from_gpu(y);
        let indices = MaxIndices {
            dims: x.dims(),
            output: (oh, ow),
            cfg,
            taps: Taps::Gpu(taps),
        };
        return Ok((y, indices));
    }
    let mut y = Features::uninit((n, c, oh, ow), x.precision())?;
    let mut taps = Buffer::try_new(y.groups() * y.group_len())
        .ok_or_else(|| candle_core::Error::msg("max_pool2d: no memory for the maxima's places"))?;
    let (bytes, plane_len) = (Out::new(&mut taps), y.plane());
    let isa = Isa::current();
    let map = Map {
        input: (h, w),
        output: (oh, ow),
        cfg,
    };
    by_element!(x.precision(), E => planes::<E>(x, &mut y, |x, y, plane| {
        isa.run(Max::<E, true> {
            map,
            x,
            y,
            // SAFETY: as many bytes as numbers of `y`; every plane is visited once.
            taps: unsafe { bytes.at(plane * plane_len) },
        });
    }));
    let indices = MaxIndices {
        dims: x.dims(),
        output: (oh, ow),
        cfg,
        taps: Taps::Cpu(Arc::new(taps)),
    };
    Ok((y, indices))
}

/// [`max_pool2d`] of `f32` maps, without keeping where the maxima came from.
pub(crate) fn maxima(x: &Features, cfg: PoolConfig) -> Result<Features> {
    let (n, c, h, w) = x.dims();
    let (oh, ow) = output("max_pool2d", (h, w), cfg)?;
    let mut y = Features::uninit((n, c, oh, ow), Precision::F32)?;
    let isa = Isa::current();
    let map = Map {
        input: (h, w),
        output: (oh, ow),
        cfg,
    };
    planes::<f32>(x, &mut y, |x, y, _| {
        isa.run(Max::<f32, false> {
            map,
            x,
            y,
            taps: std::ptr::null_mut(),
        });
    });
    Ok(y)
}

/// The gradient of [`max_pool2d`] with respect to its input, from `dy` `[N, C, H', W']`.
///
/// # Errors
///
/// Other dimensions than those of the output.
pub fn max_pool2d_backward(indices: &MaxIndices, dy: &Features) -> Result<Features> {
    const OP: &str = "max_pool2d_backward";
    let (n, c, h, w) = indices.dims;
    let (oh, ow) = indices.output;
    args::same(OP, "a gradient of dimensions", (n, c, oh, ow), dy.dims())?;
    let all = match (&indices.taps, dy.gpu()) {
        (Taps::Cpu(taps), None) => taps,
        (Taps::Gpu(taps), Some(gpu)) => {
            let (dims, dy) = (indices.dims, dy.maps(OP)?);
            let dx = gpu::max_pool2d_backward(&gpu, taps, dims, indices.cfg, dy)?;
            return Ok(Features::from_gpu(dx));
        }
        _ => bail!("{OP}: expected a gradient on the device of the maxima"),
    };
    let isa = Isa::current();
    let map = Map {
        input: (h, w),
        output: (oh, ow),
        cfg: indices.cfg,
    };
    let mut dx = Features::uninit(indices.dims, dy.precision())?;
    let stream = dx.streams();
    by_element!(dy.precision(), E => planes::<E>(dy, &mut dx, |dy, dx, plane| {
        let taps = all[plane * dy.len()..].as_ptr();
        if map.tiles() {
            isa.run(MaxBackward { map, taps, dy, dx, stream });
        } else {
            through_f32(isa, dx, |dx| isa.run(MaxBackward { map, taps, dy, dx, stream }));
        }
    }));
    Ok(dx)
}

/// Average pooling of `x` `[N, C, H, W]`, giving `[N, C, H', W']` with
/// `H' = (H + 2 padding - kernel) / stride + 1`; padding counts as zeros.
///
/// # Errors
///
/// A window that does not fit the map.
pub fn avg_pool2d(x: &Features, cfg: PoolConfig) -> Result<Features> {
    let (n, c, h, w) = x.dims();
    let output = output("avg_pool2d", (h, w), cfg)?;
    if let Some(gpu) = x.gpu() {
        let y = gpu::avg_pool2d(&gpu, x.maps("avg_pool2d")?, cfg, output)?;
        return Ok(Features::from_gpu(y));
    }
    average(x, cfg, output, n, c, (h, w))
}

fn average(
    x: &Features,
    cfg: PoolConfig,
    output: (usize, usize),
    n: usize,
    c: usize,
    input: (usize, usize),
) -> Result<Features> {
    let isa = Isa::current();
    let map = Map { input, output, cfg };
    let mut y = Features::uninit((n, c, output.0, output.1), x.precision())?;
    by_element!(x.precision(), E => {
        planes::<E>(x, &mut y, |x, y, _| isa.run(Average { map, x, y }));
    });
    Ok(y)
}

/// The gradient of [`avg_pool2d`] with respect to its input of height and width `input`.
///
/// # Errors
///
/// A window that does not fit, or other dimensions than those of the output.
pub fn avg_pool2d_backward(
    input: (usize, usize),
    cfg: PoolConfig,
    dy: &Features,
) -> Result<Features> {
    const OP: &str = "avg_pool2d_backward";
    let (n, c, oh, ow) = dy.dims();
    let output = output(OP, input, cfg)?;
    args::same(OP, "a gradient of height and width", output, (oh, ow))?;
    Features::count((n, c, input.0, input.1))?;
    if let Some(gpu) = dy.gpu() {
        let dx = gpu::avg_pool2d_backward(&gpu, input, cfg, dy.maps(OP)?)?;
        return Ok(Features::from_gpu(dx));
    }
    let isa = Isa::current();
    let map = Map { input, output, cfg };
    let mut dx = Features::uninit((n, c, input.0, input.1), dy.precision())?;
    by_element!(dy.precision(), E => {
        planes::<E>(dy, &mut dx, |dy, dx, _| {
            through_f32(isa, dx, |dx| isa.run(AverageBackward { map, dy, dx }));
        });
    });
    Ok(dx)
}

/// The mean of every map: `[N, C, H, W]` to `[N, C, 1, 1]`.
///
/// # Errors
///
/// Those of the device; none on the CPU.
pub fn global_avg_pool(x: &Features) -> Result<Features> {
    if let Some(gpu) = x.gpu() {
        return gpu::global_avg_pool(&gpu, x.maps("global_avg_pool")?).map(Features::from_gpu);
    }
    let isa = Isa::current();
    let mut y = Features::uninit((x.batch(), x.channels(), 1, 1), x.precision())?;
    by_element!(x.precision(), E => planes::<E>(x, &mut y, |x, y, _| isa.run(Mean { x, y })));
    Ok(y)
}

/// The gradient of [`global_avg_pool`] with respect to its input of height and width `input`.
///
/// # Errors
///
/// A gradient of more than one pixel, or an empty input.
pub fn global_avg_pool_backward(input: (usize, usize), dy: &Features) -> Result<Features> {
    const OP: &str = "global_avg_pool_backward";
    args::same(
        OP,
        "a gradient of height and width",
        (1, 1),
        (dy.height(), dy.width()),
    )?;
    if input.0 == 0 || input.1 == 0 {
        bail!(
            "{OP}: expected an input with pixels, got {} x {}",
            input.0,
            input.1
        );
    }
    Features::count((dy.batch(), dy.channels(), input.0, input.1))?;
    if let Some(gpu) = dy.gpu() {
        let dx = gpu::global_avg_pool_backward(&gpu, input, dy.maps(OP)?)?;
        return Ok(Features::from_gpu(dx));
    }
    let isa = Isa::current();
    let dims = (dy.batch(), dy.channels(), input.0, input.1);
    let mut dx = Features::uninit(dims, dy.precision())?;
    by_element!(dy.precision(), E => {
        planes::<E>(dy, &mut dx, |dy, dx, _| isa.run(Spread { dy, dx }));
    });
    Ok(dx)
}
