//! Distances between filters on a GPU.

use candle_core::{Result, Tensor};

use super::handle::Gpu;
use super::kernel::FILTER_DISTANCES;
use super::parameters;
use super::sizes::ints;
use crate::element::Precision;

/// Filters of one side of the pairs that a block takes, as in the kernel's text.
const PAIRS: usize = 16;

/// See [`crate::filter_distances`].
pub(crate) fn filter_distances(
    gpu: &Gpu,
    op: &str,
    w: &Tensor,
    filters: usize,
    length: usize,
) -> Result<Tensor> {
    let w = w.contiguous()?;
    let (distances, d) = gpu.tensor(&[filters, filters])?;
    let [count, weights] = ints([filters, length])?;
    let parameters = parameters::Distances {
        w: gpu.numbers(op, "filters", &w, w.dims())?,
        d,
        filters: count,
        length: weights,
    };
    let blocks = filters.div_ceil(PAIRS);
    // SAFETY: the tensors have the sizes given.
    unsafe {
        gpu.launch(
            FILTER_DISTANCES,
            Precision::F32,
            [blocks, blocks, 1],
            &parameters,
        )
    }?;
    Ok(distances)
}
