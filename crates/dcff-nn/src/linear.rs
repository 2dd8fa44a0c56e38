//! The fully connected layer.
//!
//! ```text
//! y = x Wᵀ + b,   dx = dy W,   dW = dyᵀ x,   db = Σ_n dy
//! ```

use candle_core::{Result, Tensor, bail};

use crate::args;
use crate::gemm::{Matrix, product};
use crate::gpu::Gpu;

/// Gradients of a linear layer.
#[derive(Clone, Debug)]
pub struct LinearGrads {
    /// `[N, F]`, where it was asked for.
    pub input: Option<Tensor>,
    /// `[K, F]`.
    pub weight: Tensor,
    /// `[K]`.
    pub bias: Tensor,
}

fn sizes(op: &str, x: &Tensor, w: &Tensor) -> Result<(usize, usize, usize)> {
    let (Ok((n, f)), Ok((k, wf))) = (x.dims2(), w.dims2()) else {
        bail!(
            "{op}: expected an input [N, F] and a weight [K, F], got {:?} and {:?}",
            x.dims(),
            w.dims()
        );
    };
    if f != wf {
        bail!(
            "{op}: expected a weight for {f} features, got {:?}",
            w.dims()
        );
    }
    Ok((n, f, k))
}

/// `x Wᵀ + b` for `x` `[N, F]`, `w` `[K, F]` and `b` `[K]`, giving `[N, K]`.
///
/// # Errors
///
/// Shapes that do not fit together, or a tensor that is not `f32`.
pub fn linear(x: &Tensor, w: &Tensor, b: Option<&Tensor>) -> Result<Tensor> {
    const OP: &str = "linear";
    let (n, f, k) = sizes(OP, x, w)?;
    if Gpu::of(x.device())?.is_some() {
        let y = x.matmul(&w.t()?)?;
        return match b {
            Some(b) => y.broadcast_add(b),
            None => Ok(y),
        };
    }
    let mut y = args::with_any(OP, "an input", x, |x| {
        args::with_any(OP, "a weight", w, |w| {
            product(n, k, f, Matrix::new(x, f), Matrix::new(w, f).t())
        })
    })???;
    if let Some(b) = b {
        let b = args::numbers(OP, "a bias", b, &[k])?;
        for row in y.chunks_exact_mut(k.max(1)) {
            row.iter_mut().zip(&b).for_each(|(y, b)| *y += b);
        }
    }
    args::tensor(y, &[n, k])
}

/// Gradients of [`linear`] from the output's gradient `dy` `[N, K]`.
///
/// # Errors
///
/// Shapes that do not fit together, or a tensor that is not `f32`.
pub fn linear_backward(
    x: &Tensor,
    w: &Tensor,
    dy: &Tensor,
    need_input: bool,
) -> Result<LinearGrads> {
    const OP: &str = "linear_backward";
    let (n, f, k) = sizes(OP, x, w)?;
    if Gpu::of(x.device())?.is_some() {
        return Ok(LinearGrads {
            input: need_input.then(|| dy.matmul(w)).transpose()?,
            weight: dy.t()?.matmul(x)?,
            bias: dy.sum(0)?,
        });
    }
    args::with(OP, "a gradient", dy, &[n, k], |dy| {
        let input = if need_input {
            let dx = args::with_any(OP, "a weight", w, |w| {
                product(n, f, k, Matrix::new(dy, k), Matrix::new(w, f))
            })??;
            Some(args::tensor(dx, &[n, f])?)
        } else {
            None
        };
        let weight = args::with_any(OP, "an input", x, |x| {
            product(k, f, n, Matrix::new(dy, k).t(), Matrix::new(x, f))
        })??;
        let bias = (0..k)
            .map(|j| (0..n).map(|i| f64::from(dy[i * k + j])).sum::<f64>() as f32)
            .collect();
        Ok(LinearGrads {
            input,
            weight: args::tensor(weight, &[k, f])?,
            bias: args::tensor(bias, &[k])?,
        })
    })?
}
