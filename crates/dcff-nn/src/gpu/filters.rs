//! Filters in the order and type in which a GPU's convolutions read them, `[M, K_h, K_w, C_in]`.

use std::sync::Arc;

use candle_core::{DType, Result, Tensor};

use super::handle::Gpu;
use super::kernel::{FILTERS_IN, FILTERS_OUT, PERMUTE_OUT};
use super::maps::permute;
use super::memory::Block;
use super::parameters::{self, FILTERS, NUMBERS};
use super::sizes::{bytes, int, ints};
use crate::element::Precision;
use crate::filter_source::FilterSource;

/// Filters on a GPU, for maps of one precision.
#[derive(Clone)]
pub(crate) struct GpuFilters {
    block: Arc<Block>,
    precision: Precision,
}

impl std::fmt::Debug for GpuFilters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} filters on a GPU", self.precision)
    }
}

impl GpuFilters {
    pub(crate) fn address(&self) -> u64 {
        self.block.address()
    }

    pub(crate) fn precision(&self) -> Precision {
        self.precision
    }
}

/// See [`crate::Filters::prepare`], which has checked types and ranks.
pub(crate) fn prepare_filters(
    gpu: &Gpu,
    sources: &[FilterSource<'_>],
    precision: Precision,
) -> Result<Vec<GpuFilters>> {
    const OP: &str = "filters";
    let mut all = Vec::with_capacity(sources.len());
    for chunk in sources.chunks(FILTERS) {
        let mut filters = parameters::FiltersIn {
            from: [0; FILTERS],
            to: [0; FILTERS],
            rows: [0; FILTERS],
            scale: [0; FILTERS],
            length: [0; FILTERS],
            first: [0; FILTERS],
            channels: [0; FILTERS],
            taps: [0; FILTERS],
            count: int(chunk.len())?,
        };
        let mut blocks = 0u32;
        // They must outlive the launch.
        let mut held = Vec::new();
        for (i, source) in chunk.iter().enumerate() {
            let weight = source.weight.contiguous()?;
            let (c, channels, kh, kw) = weight.dims4()?;
            let m = source.rows.map_or(c, Tensor::elem_count);
            let length = m * channels * kh * kw;
            let block = gpu.block(length * bytes(precision))?;
            filters.from[i] = gpu.address(OP, "a weight", &weight, DType::F32)?;
            filters.to[i] = block.address();
            if let Some(rows) = source.rows {
                let rows = rows.contiguous()?;
                filters.rows[i] = gpu.address(OP, "rows", &rows, DType::U32)?;
                held.push(rows);
            }
            if let Some(scale) = source.scale {
                let scale = scale.contiguous()?;
                filters.scale[i] = gpu.numbers(OP, "a scale", &scale, &[m])?;
                held.push(scale);
            }
            let [length, channels, taps] = ints([length, channels, kh * kw])?;
            filters.length[i] = length.unsigned_abs();
            filters.channels[i] = channels;
            filters.taps[i] = taps;
            filters.first[i] = blocks;
            blocks += filters.length[i].div_ceil(NUMBERS as u32).max(1);
            held.push(weight);
            all.push(GpuFilters {
                block: Arc::new(block),
                precision,
            });
        }
        // SAFETY: weights, rows, scales and blocks have the sizes given; rows are below the number of filters, as candle's own
        // selection expects too.
        unsafe { gpu.launch(FILTERS_IN, precision, [blocks as usize, 1, 1], &filters) }?;
    }
    Ok(all)
}

/// The gradient of the weight of `source` from that of its filters, which lies at `from` in the order of the GPU.
pub(crate) fn source_gradient(
    gpu: &Gpu,
    source: &FilterSource<'_>,
    precision: Precision,
    from: u64,
) -> Result<Tensor> {
    let dims = source.weight.dims();
    let (gradient, to) = gpu.tensor(dims)?;
    let (channels, taps) = (dims[1], dims[2] * dims[3]);
    let Some(rows) = source.rows else {
        permute(
            gpu,
            PERMUTE_OUT,
            precision,
            from,
            to,
            [dims[0], channels, taps],
        )?;
        return Ok(gradient);
    };
    let rows = rows.contiguous()?;
    let [count, channels, taps] = ints([rows.elem_count(), channels, taps])?;
    let parameters = parameters::FiltersOut {
        from,
        to,
        rows: gpu.address("filters", "rows", &rows, DType::U32)?,
        count,
        channels,
        taps,
    };
    // SAFETY: a block for each filter of the source; the sizes are those of the gradients.
    unsafe { gpu.launch(FILTERS_OUT, precision, [dims[0], 1, 1], &parameters) }?;
    Ok(gradient)
}
