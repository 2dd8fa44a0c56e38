//! Pooling on a card.

use std::sync::Arc;

use candle_core::Result;

use super::kernel::{
    AVG_POOL, AVG_POOL_BACKWARD, GLOBAL_POOL, GLOBAL_POOL_BACKWARD, Kernel, MAX_POOL,
    MAX_POOL_BACKWARD,
};
use super::maps::{Dims, Maps};
use super::memory::Block;
use super::{Gpu, int, ints, parameters, take};
use crate::features::Features;
use crate::pool::PoolConfig;

/// Where maxima came from, a byte each, in the order of the output.
pub(crate) type Taps = Arc<Block>;

/// A window of one pixel, for kernels that use none.
const NO_WINDOW: PoolConfig = PoolConfig {
    kernel: 1,
    stride: 1,
    padding: 0,
};

/// Runs `kernel` from the maps of one side to new ones of dimensions `to_dims`; `large` and `small` are the
/// dimensions of the layer's input and output.
fn run(
    gpu: &Gpu,
    kernel: Kernel<parameters::Pool>,
    from: &Features,
    to_dims: Dims,
    (large, small): (Dims, Dims),
    cfg: PoolConfig,
    taps: u64,
) -> Result<Features> {
    let source = take(gpu, "pooling", from)?;
    let target = Maps::new(gpu, source.precision(), to_dims)?;
    let [n, c, h, w, oh, ow, window, stride] = ints([
        large.0, large.1, large.2, large.3, small.2, small.3, cfg.kernel, cfg.stride,
    ])?;
    let parameters = parameters::Pool {
        from: source.address(),
        to: target.address(),
        taps,
        n,
        h,
        w,
        c,
        oh,
        ow,
        kernel: window,
        stride,
        padding: int(cfg.padding)?,
    };
    let count = to_dims.0 * to_dims.1 * to_dims.2 * to_dims.3;
    // SAFETY: the sizes are those of the two maps; there are taps where the kernel uses them.
    unsafe { gpu.launch(kernel, source.precision(), gpu.grid(count), &parameters) }?;
    Ok(Features::from_gpu(target, to_dims))
}

/// See [`crate::max_pool2d`].
pub(crate) fn max_pool2d(
    gpu: &Gpu,
    x: &Features,
    cfg: PoolConfig,
    (oh, ow): (usize, usize),
) -> Result<(Features, Taps)> {
    let (n, c, _, _) = x.dims();
    let small = (n, c, oh, ow);
    let taps = gpu.block(n * c * oh * ow)?;
    let sides = (x.dims(), small);
    let y = run(gpu, MAX_POOL, x, small, sides, cfg, taps.address())?;
    Ok((y, Arc::new(taps)))
}

/// See [`crate::max_pool2d_backward`].
pub(crate) fn max_pool2d_backward(
    gpu: &Gpu,
    taps: &Taps,
    large: Dims,
    cfg: PoolConfig,
    dy: &Features,
) -> Result<Features> {
    let sides = (large, dy.dims());
    run(
        gpu,
        MAX_POOL_BACKWARD,
        dy,
        large,
        sides,
        cfg,
        taps.address(),
    )
}

/// See [`crate::avg_pool2d`].
pub(crate) fn avg_pool2d(
    gpu: &Gpu,
    x: &Features,
    cfg: PoolConfig,
    (oh, ow): (usize, usize),
) -> Result<Features> {
    let (n, c, _, _) = x.dims();
    let small = (n, c, oh, ow);
    run(gpu, AVG_POOL, x, small, (x.dims(), small), cfg, 0)
}

/// See [`crate::avg_pool2d_backward`].
pub(crate) fn avg_pool2d_backward(
    gpu: &Gpu,
    (h, w): (usize, usize),
    cfg: PoolConfig,
    dy: &Features,
) -> Result<Features> {
    let (n, c, _, _) = dy.dims();
    let large = (n, c, h, w);
    run(
        gpu,
        AVG_POOL_BACKWARD,
        dy,
        large,
        (large, dy.dims()),
        cfg,
        0,
    )
}

/// See [`crate::global_avg_pool`].
pub(crate) fn global_avg_pool(gpu: &Gpu, x: &Features) -> Result<Features> {
    let small = (x.batch(), x.channels(), 1, 1);
    run(gpu, GLOBAL_POOL, x, small, (x.dims(), small), NO_WINDOW, 0)
}

/// See [`crate::global_avg_pool_backward`].
pub(crate) fn global_avg_pool_backward(
    gpu: &Gpu,
    (h, w): (usize, usize),
    dy: &Features,
) -> Result<Features> {
    let large = (dy.batch(), dy.channels(), h, w);
    let sides = (large, dy.dims());
    run(gpu, GLOBAL_POOL_BACKWARD, dy, large, sides, NO_WINDOW, 0)
}
