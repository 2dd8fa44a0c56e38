//! Fused filters: every row of `P` mixes all filters of `W` into one.
//!
//! ```text
//! Ŵ = P W  [M, ...],   dW = Pᵀ dŴ  [C, ...]
//! ```
//!
//! Lin et al., *Training Compact CNNs for Image Classification using Dynamic-coded Filter Fusion*,
//! TPAMI 2023, <https://arxiv.org/abs/2107.06916>, equation 4.

use candle_core::{Result, Tensor, bail};

use crate::args;
use crate::gemm::{Matrix, product};
use crate::gpu::Gpu;

fn rows(op: &str, p: &Tensor, w: &Tensor, transposed: bool) -> Result<(usize, usize, usize)> {
    let Ok((m, c)) = p.dims2() else {
        bail!(
            "{op}: expected coefficients of shape [M, C], got {:?}",
            p.dims()
        );
    };
    let filters = if transposed { m } else { c };
    match w.dims() {
        [first, rest @ ..] if *first == filters => Ok((m, c, args::count(op, rest)?)),
        dims => bail!("{op}: expected {filters} filters for coefficients [{m}, {c}], got {dims:?}"),
    }
}

fn with_rows(w: &Tensor, rows: usize) -> Vec<usize> {
    let mut dims = w.dims().to_vec();
    dims[0] = rows;
    dims
}

/// `P W` for coefficients `p` `[M, C]` and filters `w` `[C, ...]`, giving `[M, ...]`.
///
/// # Errors
///
/// Shapes that do not fit together, or a tensor that is not `f32`.
pub fn mix(p: &Tensor, w: &Tensor) -> Result<Tensor> {
    const OP: &str = "mix";
    let (m, c, rest) = rows(OP, p, w, false)?;
    if Gpu::of(w.device())?.is_some() {
        let filters = w.reshape((w.dim(0)?, rest))?;
        return p.matmul(&filters)?.reshape(with_rows(w, m));
    }
    let mixed = args::with_any(OP, "coefficients", p, |p| {
        args::with_any(OP, "filters", w, |w| {
            product(m, rest, c, Matrix::new(p, c), Matrix::new(w, rest))
        })
    })???;
    args::tensor(mixed, &with_rows(w, m))
}

/// The gradient of [`mix`] with respect to the filters: `Pᵀ dŴ` for `dw` `[M, ...]`.
///
/// # Errors
///
/// Shapes that do not fit together, or a tensor that is not `f32`.
pub fn mix_backward(p: &Tensor, dw: &Tensor) -> Result<Tensor> {
    const OP: &str = "mix_backward";
    let (m, c, rest) = rows(OP, p, dw, true)?;
    if Gpu::of(dw.device())?.is_some() {
        let gradient = dw.reshape((dw.dim(0)?, rest))?;
        return p.t()?.matmul(&gradient)?.reshape(with_rows(dw, c));
    }
    let gradient = args::with_any(OP, "coefficients", p, |p| {
        args::with_any(OP, "a gradient", dw, |dw| {
            product(c, rest, m, Matrix::new(p, c).t(), Matrix::new(dw, rest))
        })
    })???;
    args::tensor(gradient, &with_rows(dw, c))
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn mixes_filters_and_spreads_their_gradient() -> Result<()> {
        let p = Tensor::new(&[[1f32, 2.0, 0.0]], &Device::Cpu)?;
        let w = Tensor::new(&[[1f32, 2.0], [10.0, 20.0], [5.0, 5.0]], &Device::Cpu)?
            .reshape((3, 2, 1, 1))?;
        let mixed = mix(&p, &w)?;
        assert_eq!(mixed.dims(), [1, 2, 1, 1]);
        assert_eq!(mixed.flatten_all()?.to_vec1::<f32>()?, [21.0, 42.0]);
        let dw = mix_backward(&p, &mixed)?;
        assert_eq!(dw.dims(), [3, 2, 1, 1]);
        assert_eq!(
            dw.flatten_all()?.to_vec1::<f32>()?,
            [21.0, 42.0, 42.0, 84.0, 0.0, 0.0]
        );
        Ok(())
    }

    #[test]
    fn says_what_does_not_fit() -> Result<()> {
        let p = Tensor::zeros((2, 3), candle_core::DType::F32, &Device::Cpu)?;
        let message = mix(&p, &p).unwrap_err().to_string();
        assert!(
            message.contains("3 filters") && message.contains("[2, 3]"),
            "{message}"
        );
        Ok(())
    }
}
