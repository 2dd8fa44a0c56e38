//! A constant added to maps, and few channels put among many, on a GPU.

use candle_core::{Result, Tensor};

use super::handle::Gpu;
use super::kernel::{OFFSET, OFFSET_BACKWARD};
use super::maps::{Maps, copy_channels};
use super::parameters;
use super::sizes::ints;

/// Rows at the top and at the bottom, and columns at the left and at the right, that have numbers of their own.
type Edges = [[usize; 2]; 2];

fn parameters_of(x: &Maps, edges: Edges) -> Result<parameters::Offset> {
    let ((n, c, h, w), [rows, columns]) = (x.dims(), edges);
    let [n, h, w, c, top, bottom, left, right] =
        ints([n, h, w, c, rows[0], rows[1], columns[0], columns[1]])?;
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
pub(crate) fn offset(gpu: &Gpu, x: &Maps, o: &Tensor, edges: Edges) -> Result<Maps> {
    let o = o.contiguous()?;
    let y = Maps::new(gpu, x.precision(), x.dims())?;
    let parameters = parameters::Offset {
        o: gpu.numbers("offset", "an offset", &o, o.dims())?,
        y: y.address(),
        ..parameters_of(x, edges)?
    };
    // SAFETY: both maps have these sizes, and the offset was checked to be of them and the border.
    unsafe { gpu.launch(OFFSET, x.precision(), gpu.grid(x.count()), &parameters) }?;
    Ok(y)
}

/// See [`crate::offset_backward`]; the sums are of `rows` and `columns` for each channel.
pub(crate) fn offset_backward(
    gpu: &Gpu,
    dy: &Maps,
    edges: Edges,
    [rows, columns]: [usize; 2],
) -> Result<Tensor> {
    let channels = dy.dims().1;
    let (sums, address) = gpu.tensor(&[channels, rows, columns])?;
    let parameters = parameters::Offset {
        o: address,
        ..parameters_of(dy, edges)?
    };
    let grid = gpu.grid(channels * rows * columns);
    // SAFETY: the map has these sizes, the tensor those of its channels and the border.
    unsafe { gpu.launch(OFFSET_BACKWARD, dy.precision(), grid, &parameters) }?;
    Ok(sums)
}

/// Neighbouring channels that stay neighbours: the first one's position in the narrow map, in the wide one, and how many.
type Run = (usize, usize, usize);

/// See [`crate::scatter`]; one launch for every run.
pub(crate) fn scatter(gpu: &Gpu, x: &Maps, runs: &[Run], width: usize) -> Result<Maps> {
    let (n, c, h, w) = x.dims();
    let y = Maps::zeros(gpu, x.precision(), (n, width, h, w))?;
    for &(first, place, count) in runs {
        copy_channels(gpu, (x, c, first), (&y, width, place), n * h * w, count)?;
    }
    Ok(y)
}

/// See [`crate::scatter_backward`].
pub(crate) fn scatter_backward(
    gpu: &Gpu,
    runs: &[Run],
    channels: usize,
    dy: &Maps,
) -> Result<Maps> {
    let (n, width, h, w) = dy.dims();
    let dx = Maps::new(gpu, dy.precision(), (n, channels, h, w))?;
    for &(first, place, count) in runs {
        let (to, from) = ((&dx, channels, first), (dy, width, place));
        copy_channels(gpu, from, to, n * h * w, count)?;
    }
    Ok(dx)
}
