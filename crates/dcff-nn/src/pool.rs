//! Max, average and global average pooling.
//!
//! ```text
//! max: y[i, j] = max_{u,v < k} x[i s - p + u, j s - p + v]            over the pixels inside the map
//! avg: y[i, j] = 1/k² Σ_{u,v < k} x[i s - p + u, j s - p + v]         zeros outside the map count
//! ```
//!
//! Both as in PyTorch: of equal maxima the first in row-major order receives the whole gradient,
//! NaN wins, and an average divides by `k²` also where its window leaves the map.

use std::sync::Arc;

use candle_core::{Result, bail};

use crate::args;
use crate::buffer::Buffer;
use crate::cpu::{Isa, Kernel, Simd};
use crate::features::{Features, LANES};
use crate::threads::{self, Out};

/// A pooling window, the same in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PoolConfig {
    /// Side of the window in pixels, 1 to 15.
    pub kernel: usize,
    /// Pixels from one window to the next, at least 1.
    pub stride: usize,
    /// Pixels around the map that windows may cover, at most half the kernel.
    pub padding: usize,
}

/// Which pixel of each window was the maximum.
#[derive(Clone)]
pub struct MaxIndices {
    dims: (usize, usize, usize, usize),
    output: (usize, usize),
    cfg: PoolConfig,
    /// Row times kernel plus column within the window, a byte each, in the layout of the output.
    taps: Arc<Buffer>,
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
    if kernel == 0 || kernel > 15 || stride == 0 || padding > kernel / 2 {
        bail!(
            "{op}: expected a kernel of 1 to 15, a stride of at least 1 and padding of at most half \
             the kernel, got {kernel}, {stride} and {padding}"
        );
    }
    if h + 2 * padding < kernel || w + 2 * padding < kernel {
        bail!("{op}: expected a map of at least {kernel} pixels with padding, got {h} x {w}");
    }
    Ok((
        (h + 2 * padding - kernel) / stride + 1,
        (w + 2 * padding - kernel) / stride + 1,
    ))
}

/// The taps of the window at output `i` that lie inside the map, and the pixel of tap 0.
#[inline(always)]
fn window(i: usize, size: usize, cfg: PoolConfig) -> (isize, usize, usize) {
    let start = (i * cfg.stride) as isize - cfg.padding as isize;
    let first = (-start).max(0) as usize;
    let last = (size as isize - start).min(cfg.kernel as isize) as usize;
    (start, first, last)
}

#[derive(Clone, Copy)]
struct Map {
    input: (usize, usize),
    output: (usize, usize),
    cfg: PoolConfig,
}

impl Map {
    /// Whether windows lie side by side and cover the map exactly.
    fn tiles(&self) -> bool {
        let PoolConfig {
            kernel,
            stride,
            padding,
        } = self.cfg;
        kernel == stride
            && padding == 0
            && self.output.0 * kernel == self.input.0
            && self.output.1 * kernel == self.input.1
    }
}

struct Max<'a> {
    map: Map,
    x: &'a [f32],
    y: &'a mut [f32],
    taps: *mut u8,
}

impl Kernel for Max<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let (h, w) = self.map.input;
        let cfg = self.map.cfg;
        // SAFETY: windows are clipped to the map; `taps` holds as many numbers as `y`.
        unsafe {
            for oy in 0..self.map.output.0 {
                let (y, y_first, y_last) = window(oy, h, cfg);
                for ox in 0..self.map.output.1 {
                    let (x, x_first, x_last) = window(ox, w, cfg);
                    let mut best = S::splat(f32::NEG_INFINITY);
                    let mut tap = S::splat((y_first * cfg.kernel + x_first) as f32);
                    for ky in y_first..y_last {
                        let row = (y + ky as isize) as usize * w;
                        for kx in x_first..x_last {
                            let at = (row + (x + kx as isize) as usize) * LANES;
                            let v = S::load(self.x.as_ptr().add(at));
                            let here = S::splat((ky * cfg.kernel + kx) as f32);
                            tap = S::select_gt(v, best, here, S::select_nan(v, here, tap));
                            best = S::select_gt(v, best, v, S::select_nan(v, v, best));
                        }
                    }
                    let at = (oy * self.map.output.1 + ox) * LANES;
                    S::store(self.y.as_mut_ptr().add(at), best);
                    S::store_bytes(self.taps.add(at), tap);
                }
            }
        }
    }
}

struct MaxBackward<'a> {
    map: Map,
    taps: *const u8,
    dy: &'a [f32],
    dx: &'a mut [f32],
    stream: bool,
}

impl Kernel for MaxBackward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let (h, w) = self.map.input;
        let cfg = self.map.cfg;
        let dx = self.dx.as_mut_ptr();
        let tiles = self.map.tiles();
        if !tiles {
            self.dx.fill(0.0);
        }
        // SAFETY: windows are clipped to the map; `taps` holds as many bytes as `dy` numbers.
        unsafe {
            let zero = S::splat(0.0);
            for oy in 0..self.map.output.0 {
                let (y, y_first, y_last) = window(oy, h, cfg);
                for ox in 0..self.map.output.1 {
                    let (x, x_first, x_last) = window(ox, w, cfg);
                    let at = (oy * self.map.output.1 + ox) * LANES;
                    let tap = S::load_bytes(self.taps.add(at));
                    let g = S::load(self.dy.as_ptr().add(at));
                    for ky in y_first..y_last {
                        let row = (y + ky as isize) as usize * w;
                        for kx in x_first..x_last {
                            let here = S::splat((ky * cfg.kernel + kx) as f32);
                            let g = S::select_eq(tap, here, g, zero);
                            let to = dx.add((row + (x + kx as isize) as usize) * LANES);
                            if tiles {
                                S::put(to, g, self.stream);
                            } else {
                                S::store(to, S::add(S::load(to), g));
                            }
                        }
                    }
                }
            }
            S::fence();
        }
    }
}

struct Average<'a> {
    map: Map,
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for Average<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let (h, w) = self.map.input;
        let cfg = self.map.cfg;
        // SAFETY: windows are clipped to the map.
        unsafe {
            let share = S::splat(1.0 / (cfg.kernel * cfg.kernel) as f32);
            for oy in 0..self.map.output.0 {
                let (y, y_first, y_last) = window(oy, h, cfg);
                for ox in 0..self.map.output.1 {
                    let (x, x_first, x_last) = window(ox, w, cfg);
                    let mut sum = S::splat(0.0);
                    for ky in y_first..y_last {
                        let row = (y + ky as isize) as usize * w;
                        for kx in x_first..x_last {
                            let at = (row + (x + kx as isize) as usize) * LANES;
                            sum = S::add(sum, S::load(self.x.as_ptr().add(at)));
                        }
                    }
                    let at = (oy * self.map.output.1 + ox) * LANES;
                    S::store(self.y.as_mut_ptr().add(at), S::mul(sum, share));
                }
            }
        }
    }
}

struct AverageBackward<'a> {
    map: Map,
    dy: &'a [f32],
    dx: &'a mut [f32],
}

impl Kernel for AverageBackward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        self.dx.fill(0.0);
        let (h, w) = self.map.input;
        let cfg = self.map.cfg;
        let dx = self.dx.as_mut_ptr();
        // SAFETY: windows are clipped to the map.
        unsafe {
            let share = S::splat(1.0 / (cfg.kernel * cfg.kernel) as f32);
            for oy in 0..self.map.output.0 {
                let (y, y_first, y_last) = window(oy, h, cfg);
                for ox in 0..self.map.output.1 {
                    let (x, x_first, x_last) = window(ox, w, cfg);
                    let at = (oy * self.map.output.1 + ox) * LANES;
                    let g = S::mul(S::load(self.dy.as_ptr().add(at)), share);
                    for ky in y_first..y_last {
                        let row = (y + ky as isize) as usize * w;
                        for kx in x_first..x_last {
                            let to = dx.add((row + (x + kx as isize) as usize) * LANES);
                            S::store(to, S::add(S::load(to), g));
                        }
                    }
                }
            }
        }
    }
}

/// Calls `task(source plane, target plane, index of the plane)` for all channels of all groups.
fn planes(
    source: &Features,
    target: &mut Features,
    task: impl Fn(&[f32], &mut [f32], usize) + Sync + Send,
) {
    let (from_len, to_len) = (source.plane(), target.plane());
    let channels = source.channels();
    let to = Out::new(target.cpu_mut());
    let parts = threads::parts(source.groups(), channels);
    let size = channels.div_ceil(parts);
    threads::each(source.groups() * parts, |i| {
        let (g, first) = (i / parts, i % parts * size);
        for c in first..(first + size).min(channels) {
            let plane = g * channels + c;
            // SAFETY: every plane is visited once.
            let to = unsafe { std::slice::from_raw_parts_mut(to.at(plane * to_len), to_len) };
            task(&source.cpu()[plane * from_len..][..from_len], to, plane);
        }
    });
}

/// An address that tasks share; each writes its own part.
struct Bytes(*mut u8);

// SAFETY: used for disjoint planes only.
unsafe impl Send for Bytes {}
unsafe impl Sync for Bytes {}

impl Bytes {
    unsafe fn at(&self, offset: usize) -> *mut u8 {
        unsafe { self.0.add(offset) }
    }
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
    let mut y = Features::uninit((n, c, oh, ow));
    let mut taps = Buffer::new(y.cpu().len() / size_of::<f32>());
    let bytes = Bytes(taps.as_mut_ptr().cast());
    let (isa, plane_len) = (Isa::current(), y.plane());
    let map = Map {
        input: (h, w),
        output: (oh, ow),
        cfg,
    };
    planes(x, &mut y, |x, y, plane| {
        isa.run(Max {
            map,
            x,
            y,
            // SAFETY: as many bytes as numbers of `y`; every plane is visited once.
            taps: unsafe { bytes.at(plane * plane_len) },
        });
    });
    let indices = MaxIndices {
        dims: x.dims(),
        output: (oh, ow),
        cfg,
        taps: Arc::new(taps),
    };
    Ok((y, indices))
}

/// The gradient of [`max_pool2d`] with respect to its input, from `dy` `[N, C, H', W']`.
///
/// # Errors
///
/// Other dimensions than those of the output.
pub fn max_pool2d_backward(indices: &MaxIndices, dy: &Features) -> Result<Features> {
    let (n, c, h, w) = indices.dims;
    let (oh, ow) = indices.output;
    args::same(
        "max_pool2d_backward",
        "a gradient of dimensions",
        (n, c, oh, ow),
        dy.dims(),
    )?;
    let isa = Isa::current();
    let map = Map {
        input: (h, w),
        output: (oh, ow),
        cfg: indices.cfg,
    };
    let mut dx = Features::uninit(indices.dims);
    let stream = dx.streams();
    let taps: &[f32] = &indices.taps;
    planes(dy, &mut dx, |dy, dx, plane| {
        isa.run(MaxBackward {
            map,
            // SAFETY: as many bytes as `dy` has numbers.
            taps: unsafe { taps.as_ptr().cast::<u8>().add(plane * dy.len()) },
            dy,
            dx,
            stream,
        });
    });
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
    Ok(average(x, cfg, output, n, c, (h, w)))
}

fn average(
    x: &Features,
    cfg: PoolConfig,
    output: (usize, usize),
    n: usize,
    c: usize,
    input: (usize, usize),
) -> Features {
    let isa = Isa::current();
    let map = Map { input, output, cfg };
    let mut y = Features::uninit((n, c, output.0, output.1));
    planes(x, &mut y, |x, y, _| isa.run(Average { map, x, y }));
    y
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
    let isa = Isa::current();
    let map = Map { input, output, cfg };
    let mut dx = Features::uninit((n, c, input.0, input.1));
    planes(dy, &mut dx, |dy, dx, _| {
        isa.run(AverageBackward { map, dy, dx })
    });
    Ok(dx)
}

struct Mean<'a> {
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for Mean<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        // SAFETY: whole vectors.
        unsafe {
            let mut sum = S::splat(0.0);
            for v in self.x.chunks_exact(LANES) {
                sum = S::add(sum, S::load(v.as_ptr()));
            }
            let share = S::splat(1.0 / (self.x.len() / LANES) as f32);
            S::store(self.y.as_mut_ptr(), S::mul(sum, share));
        }
    }
}

struct Spread<'a> {
    dy: &'a [f32],
    dx: &'a mut [f32],
}

impl Kernel for Spread<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        // SAFETY: whole vectors.
        unsafe {
            let share = S::splat(1.0 / (self.dx.len() / LANES) as f32);
            let g = S::mul(S::load(self.dy.as_ptr()), share);
            for v in self.dx.chunks_exact_mut(LANES) {
                S::store(v.as_mut_ptr(), g);
            }
        }
    }
}

/// The mean of every map: `[N, C, H, W]` to `[N, C, 1, 1]`.
///
/// # Errors
///
/// None on the CPU.
pub fn global_avg_pool(x: &Features) -> Result<Features> {
    let isa = Isa::current();
    let mut y = Features::uninit((x.batch(), x.channels(), 1, 1));
    planes(x, &mut y, |x, y, _| isa.run(Mean { x, y }));
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
    if input.0 * input.1 == 0 {
        bail!(
            "{OP}: expected an input with pixels, got {} x {}",
            input.0,
            input.1
        );
    }
    let isa = Isa::current();
    let mut dx = Features::uninit((dy.batch(), dy.channels(), input.0, input.1));
    planes(dy, &mut dx, |dy, dx, _| isa.run(Spread { dy, dx }));
    Ok(dx)
}
