//! A constant added to maps, and few channels put among many, on a GPU.

use candle_core::{Result, Tensor};

use super::kernel::{OFFSET, OFFSET_BACKWARD};
use super::maps::{Maps, copy_channels};
use super::{Gpu, ints, parameters, take};
use crate::features::Features;
use crate::offset::Border;
use crate::scatter::runs;

fn parameters_of(
    x: &Maps,
    (n, c, h, w): (usize, usize, usize, usize),
    border: Border,
) -> Result<parameters::Offset> {
    let [n, h, w, c, top, bottom, left, right] = ints([
        n,
        h,
        w,
        c,
        border.rows[0],
        border.rows[1],
        border.columns[0],
        border.columns[1],
    ])?;
    Ok(parameters::Offset {
        x: x.address(),
        o: 0,
        y: 0,
        n,
        h,
        w,
        c,
        top,
        bottom,
        left,
        right,
    })
}

/// See [`crate::offset`].
pub(crate) fn offset(gpu: &Gpu, x: &Features, o: &Tensor, border: Border) -> Result<Features> {
    let from = take(gpu, "offset", x)?;
    let o = o.contiguous()?;
    let y = Maps::new(gpu, from.precision(), x.dims())?;
    let parameters = parameters::Offset {
        o: gpu.numbers("offset", "an offset", &o, o.dims())?,
        y: y.address(),
        ..parameters_of(&from, x.dims(), border)?
    };
    let (n, c, h, w) = x.dims();
    // SAFETY: both maps have these sizes, and the offset was checked to be of them and the border.
    unsafe {
        gpu.launch(
            OFFSET,
            from.precision(),
            gpu.grid(n * c * h * w),
            &parameters,
        )
    }?;
    Ok(Features::from_gpu(y, x.dims()))
}

/// See [`crate::offset_backward`].
pub(crate) fn offset_backward(gpu: &Gpu, dy: &Features, border: Border) -> Result<Tensor> {
    let from = take(gpu, "offset_backward", dy)?;
    let [rows, columns] = border.places();
    let (sums, address) = gpu.tensor(&[dy.channels(), rows, columns])?;
    let parameters = parameters::Offset {
        o: address,
        ..parameters_of(&from, dy.dims(), border)?
    };
    let grid = gpu.grid(dy.channels() * rows * columns);
    // SAFETY: the map has these sizes, the tensor those of its channels and the border.
    unsafe { gpu.launch(OFFSET_BACKWARD, from.precision(), grid, &parameters) }?;
    Ok(sums)
}

/// See [`crate::scatter`]; one launch for every run of neighbouring places.
pub(crate) fn scatter(
    gpu: &Gpu,
    x: &Features,
    channels: &[usize],
    width: usize,
) -> Result<Features> {
    let from = take(gpu, "scatter", x)?;
    let (n, c, h, w) = x.dims();
    let dims = (n, width, h, w);
    let y = Maps::zeros(gpu, from.precision(), dims)?;
    for (first, place, count) in runs(channels) {
        copy_channels(gpu, (&from, c, first), (&y, width, place), n * h * w, count)?;
    }
    Ok(Features::from_gpu(y, dims))
}

/// See [`crate::scatter_backward`].
pub(crate) fn scatter_backward(gpu: &Gpu, channels: &[usize], dy: &Features) -> Result<Features> {
    let from = take(gpu, "scatter_backward", dy)?;
    let (n, width, h, w) = dy.dims();
    let dims = (n, channels.len(), h, w);
    let dx = Maps::new(gpu, from.precision(), dims)?;
    for (first, place, count) in runs(channels) {
        let (to, from) = ((&dx, channels.len(), first), (&from, width, place));
        copy_channels(gpu, from, to, n * h * w, count)?;
    }
    Ok(Features::from_gpu(dx, dims))
}
