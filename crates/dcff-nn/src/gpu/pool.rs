//! Pooling on a GPU.

use std::sync::Arc;

use candle_core::Result;

use super::handle::Gpu;
use super::kernel::{
    AVG_POOL, AVG_POOL_BACKWARD, GLOBAL_POOL, GLOBAL_POOL_BACKWARD, Kernel, MAX_POOL,
    MAX_POOL_BACKWARD,
};
use super::maps::{Dims, Maps};
use super::memory::Block;
use super::parameters;
use super::sizes::{int, ints};
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
    from: &Maps,
    to_dims: Dims,
    (large, small): (Dims, Dims),
    cfg: PoolConfig,
    taps: u64,
) -> Result<Maps> {
    let target = Maps::new(gpu, from.precision(), to_dims)?;
    let [n, c, h, w, oh, ow, window, stride] = ints([
        large.0, large.1, large.2, large.3, small.2, small.3, cfg.kernel, cfg.stride,
    ])?;
    let parameters = parameters::Pool {
        from: from.address(),
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
    unsafe { gpu.launch(kernel, from.precision(), gpu.grid(count), &parameters) }?;
    Ok(target)
}

/// See [`crate::max_pool2d`].
pub(crate) fn max_pool2d(
    gpu: &Gpu,
    x: &Maps,
    cfg: PoolConfig,
    (oh, ow): (usize, usize),
) -> Result<(Maps, Taps)> {
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
    dy: &Maps,
) -> Result<Maps> {
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
    x: &Maps,
    cfg: PoolConfig,
    (oh, ow): (usize, usize),
) -> Result<Maps> {
    let (n, c, _, _) = x.dims();
    let small = (n, c, oh, ow);
    run(gpu, AVG_POOL, x, small, (x.dims(), small), cfg, 0)
}

/// See [`crate::avg_pool2d_backward`].
pub(crate) fn avg_pool2d_backward(
    gpu: &Gpu,
    (h, w): (usize, usize),
    cfg: PoolConfig,
    dy: &Maps,
) -> Result<Maps> {
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
pub(crate) fn global_avg_pool(gpu: &Gpu, x: &Maps) -> Result<Maps> {
    let small = (x.dims().0, x.dims().1, 1, 1);
    run(gpu, GLOBAL_POOL, x, small, (x.dims(), small), NO_WINDOW, 0)
}

/// See [`crate::global_avg_pool_backward`].
pub(crate) fn global_avg_pool_backward(
    gpu: &Gpu,
    (h, w): (usize, usize),
    dy: &Maps,
) -> Result<Maps> {
    let large = (dy.dims().0, dy.dims().1, h, w);
    let sides = (large, dy.dims());
    run(gpu, GLOBAL_POOL_BACKWARD, dy, large, sides, NO_WINDOW, 0)
}
