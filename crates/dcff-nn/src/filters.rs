//! The filters of a network's convolutions, made ready for a step all at once.
//!
//! A GPU reads them in another order and, where maps are bfloat16, in another type than they are trained in; a pruned
//! layer takes only some of them, a masked one scales them. One launch does that for all layers, forward and backward passes share the result, and
//! the gradient of the filters comes back in the order and number of those that are trained.

use candle_core::{DType, Result, Tensor, bail};

use crate::element::Precision;
use crate::filter_source::FilterSource;
use crate::gpu::{self, Gpu};

/// The filters of one convolution, as it reads them. The source must not change while they are used.
#[derive(Clone, Debug)]
pub struct Filters {
    source: Tensor,
    rows: Option<Tensor>,
    read: Read,
}

/// What is read.
#[derive(Clone, Debug)]
enum Read {
    /// `[M, C_in / groups, K_h, K_w]`.
    Tensor(Tensor),
    OnGpu(gpu::GpuFilters),
}

impl Filters {
    /// Makes the filters of `sources` ready for maps of `precision`, on a GPU in as few launches as possible.
    ///
    /// # Errors
    ///
    /// Weights that are not `f32` or have other than four dimensions, rows that are not `u32`, sources on different
    /// devices.
    pub fn prepare(sources: &[FilterSource<'_>], precision: Precision) -> Result<Vec<Self>> {
        const OP: &str = "filters";
        for FilterSource {
            weight,
            rows,
            scale,
        } in sources
        {
            if weight.dtype() != DType::F32 || weight.rank() != 4 {
                bail!(
                    "{OP}: expected weights [C, C_in, K_h, K_w] of type f32, got {:?} of type {}",
                    weight.dims(),
                    weight.dtype().as_str()
                );
            }
            if let Some(rows) = rows
                && (rows.dtype() != DType::U32 || rows.rank() != 1)
            {
                bail!(
                    "{OP}: expected rows [M] of type u32, got {:?} of type {}",
                    rows.dims(),
                    rows.dtype().as_str()
                );
            }
            if let Some(scale) = scale {
                let used = match rows {
                    Some(rows) => rows.elem_count(),
                    None => weight.dim(0)?,
                };
                if scale.dtype() != DType::F32 || scale.dims() != [used] {
                    bail!(
                        "{OP}: expected a scale [{used}] of type f32, got {:?} of type {}",
                        scale.dims(),
                        scale.dtype().as_str()
                    );
                }
            }
        }
        let gpu = match sources.first() {
            Some(first) => Gpu::of(first.weight.device())?,
            None => None,
        };
        let read: Vec<Read> = match &gpu {
            Some(gpu) => gpu::prepare_filters(gpu, sources, precision)?
                .into_iter()
                .map(Read::OnGpu)
                .collect(),
            None => sources
                .iter()
                .map(|source| read_on_cpu(source).map(Read::Tensor))
                .collect::<Result<_>>()?,
        };
        Ok(sources
            .iter()
            .zip(read)
            .map(|(source, read)| Self {
                source: source.weight.clone(),
                rows: source.rows.cloned(),
                read,
            })
            .collect())
    }

    /// Those of one convolution.
    pub(crate) fn of(weight: &Tensor, precision: Precision) -> Result<Self> {
        match Self::prepare(&[weight.into()], precision)?.pop() {
            Some(filters) => Ok(filters),
            None => bail!("filters: expected one"),
        }
    }

    /// `[M, C_in / groups, K_h, K_w]`.
    pub fn dims(&self) -> Vec<usize> {
        let mut dims = self.source.dims().to_vec();
        if let Some(rows) = &self.rows {
            dims[0] = rows.elem_count();
        }
        dims
    }

    /// Their numbers, where the processor computes.
    pub(crate) fn tensor(&self, op: &str) -> Result<&Tensor> {
        match &self.read {
            Read::Tensor(t) => Ok(t),
            Read::OnGpu(_) => bail!("{op}: expected filters on the cpu, got some on a GPU"),
        }
    }

    /// Their numbers on a GPU, for maps of `precision`.
    pub(crate) fn on_gpu(&self, op: &str, precision: Precision) -> Result<&gpu::GpuFilters> {
        match &self.read {
            Read::OnGpu(filters) if filters.precision() == precision => Ok(filters),
            Read::OnGpu(filters) => bail!(
                "{op}: expected filters for {precision} maps, got some for {}",
                filters.precision()
            ),
            Read::Tensor(_) => bail!("{op}: expected filters on a GPU, got some on the cpu"),
        }
    }

    /// What they were made of, `[C, C_in / groups, K_h, K_w]`.
    pub fn source(&self) -> &Tensor {
        &self.source
    }

    /// What they were made of and which of it they are, without a scale.
    pub(crate) fn parts(&self) -> FilterSource<'_> {
        FilterSource {
            weight: &self.source,
            rows: self.rows.as_ref(),
            scale: None,
        }
    }
}

fn read_on_cpu(source: &FilterSource<'_>) -> Result<Tensor> {
    let used = match source.rows {
        Some(rows) => source.weight.index_select(rows, 0)?,
        None => source.weight.clone(),
    };
    match source.scale {
        Some(scale) => used.broadcast_mul(&scale.reshape(((), 1, 1, 1))?),
        None => Ok(used),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn chosen_filters_are_read_in_their_order_and_the_others_get_no_gradient() -> Result<()> {
        let w = Tensor::new(&[[1f32, 2.0], [3.0, 4.0], [5.0, 6.0]], &Device::Cpu)?;
        let w = w.reshape((3, 2, 1, 1))?;
        let rows = Tensor::new(&[2u32, 0], &Device::Cpu)?;
        let source = FilterSource {
            weight: &w,
            rows: Some(&rows),
            scale: None,
        };
        let scale = Tensor::new(&[2f32, -1.0], &Device::Cpu)?;
        let scaled = FilterSource {
            scale: Some(&scale),
            ..source
        };
        let all = Filters::prepare(&[source, (&w).into(), scaled], Precision::F32)?;
        let numbers = |t: &Tensor| t.flatten_all()?.to_vec1::<f32>();
        assert_eq!(all[0].dims(), [2, 2, 1, 1]);
        assert_eq!(numbers(all[0].tensor("test")?)?, [5.0, 6.0, 1.0, 2.0]);
        assert_eq!(numbers(all[1].tensor("test")?)?, numbers(&w)?);
        assert_eq!(numbers(all[2].tensor("test")?)?, [10.0, 12.0, -1.0, -2.0]);
        let gradient = Tensor::new(&[[10f32, 20.0], [30.0, 40.0]], &Device::Cpu)?;
        let gradient = gradient.reshape((2, 2, 1, 1))?;
        let back = all[0].parts().gradient(gradient)?;
        assert_eq!(numbers(&back)?, [30.0, 40.0, 0.0, 0.0, 10.0, 20.0]);
        Ok(())
    }

    #[test]
    fn says_what_does_not_fit() -> Result<()> {
        let w = Tensor::zeros((3, 2), DType::F32, &Device::Cpu)?;
        let message = |source| {
            let refused = Filters::prepare(&[source], Precision::F32);
            refused.unwrap_err().to_string()
        };
        assert!(message((&w).into()).contains("[3, 2]"));
        let w = w.reshape((3, 2, 1, 1))?;
        let source = FilterSource {
            weight: &w,
            rows: Some(&w),
            scale: None,
        };
        assert!(message(source).contains("rows [M] of type u32"));
        let two = Tensor::zeros(2, DType::F32, &Device::Cpu)?;
        let source = FilterSource {
            scale: Some(&two),
            ..(&w).into()
        };
        assert!(message(source).contains("expected a scale [3] of type f32, got [2]"));
        Ok(())
    }
}
