//! The layers as candle custom operations, for networks trained with candle's autograd.
//!
//! Inputs and outputs are plain tensors `[N, C, H, W]`; every call converts to [`Features`] and
//! back, which the functions in the crate's root do without.
//!
//! ```
//! use candle_core::{Device, Tensor, Var};
//! use dcff_nn::{ConvConfig, tape};
//!
//! let x = Tensor::ones((1, 1, 3, 3), candle_core::DType::F32, &Device::Cpu)?;
//! let w = Var::ones((1, 1, 3, 3), candle_core::DType::F32, &Device::Cpu)?;
//! let y = tape::conv2d(&x, w.as_tensor(), None, ConvConfig::default())?;
//! let grads = y.sum_all()?.backward()?;
//! assert_eq!(grads.get(&w).unwrap().sum_all()?.to_scalar::<f32>()?, 9.0);
//! # Ok::<(), candle_core::Error>(())
//! ```

use std::sync::{Arc, OnceLock};

use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, Device, Layout, Result, Shape, Tensor, bail,
};

use crate::{
    Activation, BatchStatistics, ConvConfig, ConvGrads, Features, MaxIndices, NormGrads, PoolConfig,
};

/// A copy of what candle hands an operation.
fn plain(op: &str, storage: &CpuStorage, layout: &Layout) -> Result<Tensor> {
    let (CpuStorage::F32(data), Some((start, end))) = (storage, layout.contiguous_offsets()) else {
        bail!("{op}: expected contiguous inputs of type f32");
    };
    Tensor::from_slice(&data[start..end], layout.shape(), &Device::Cpu)
}

/// What candle wants back from an operation.
fn output(t: &Tensor) -> Result<(CpuStorage, Shape)> {
    let data = t.flatten_all()?.to_vec1::<f32>()?;
    Ok((CpuStorage::F32(data), t.shape().clone()))
}

/// What a forward pass keeps for its backward pass.
fn kept<'a, T>(op: &str, slot: &'a OnceLock<T>) -> Result<&'a T> {
    match slot.get() {
        Some(value) => Ok(value),
        None => bail!("{op}: expected a forward pass before the backward pass"),
    }
}

struct Conv {
    cfg: ConvConfig,
    x: OnceLock<Features>,
}

impl Conv {
    const NAME: &'static str = "conv2d";

    fn forward(&self, x: &Tensor, w: &Tensor, b: Option<&Tensor>) -> Result<(CpuStorage, Shape)> {
        let x = Features::from_nchw(x)?;
        let y = crate::conv2d(&x, w, b, self.cfg)?;
        self.x.get_or_init(|| x);
        output(&y.to_nchw()?)
    }

    fn backward(&self, x: &Tensor, w: &Tensor, has_bias: bool, dy: &Tensor) -> Result<ConvGrads> {
        let need_input = x.track_op();
        let x = kept(Self::NAME, &self.x)?;
        let dy = Features::from_nchw(dy)?;
        crate::conv2d_backward(x, w, has_bias, self.cfg, &dy, need_input)
    }
}

fn nchw(x: Option<Features>) -> Result<Option<Tensor>> {
    x.map(|x| x.to_nchw()).transpose()
}

impl CustomOp2 for Conv {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        w: &CpuStorage,
        wl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.forward(&plain(Self::NAME, x, xl)?, &plain(Self::NAME, w, wl)?, None)
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grads = self.backward(x, w, false, dy)?;
        let weight = w.track_op().then_some(grads.weight);
        Ok((nchw(grads.input)?, weight))
    }
}

impl CustomOp3 for Conv {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        w: &CpuStorage,
        wl: &Layout,
        b: &CpuStorage,
        bl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, w) = (plain(Self::NAME, x, xl)?, plain(Self::NAME, w, wl)?);
        self.forward(&x, &w, Some(&plain(Self::NAME, b, bl)?))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _b: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grads = self.backward(x, w, true, dy)?;
        Ok((nchw(grads.input)?, Some(grads.weight), grads.bias))
    }
}

/// [`crate::conv2d`] of `x` `[N, C_in, H, W]`, with gradients.
///
/// # Errors
///
/// Those of [`crate::conv2d`].
pub fn conv2d(x: &Tensor, w: &Tensor, bias: Option<&Tensor>, cfg: ConvConfig) -> Result<Tensor> {
    let op = Conv {
        cfg,
        x: OnceLock::new(),
    };
    let (x, w) = (x.contiguous()?, w.contiguous()?);
    match bias {
        Some(bias) => x.apply_op3(&w, &bias.contiguous()?, op),
        None => x.apply_op2(&w, op),
    }
}

struct Norm {
    eps: f64,
    act: Activation,
    kept: Arc<OnceLock<(Features, Features, BatchStatistics)>>,
}

impl Norm {
    const NAME: &'static str = "batch_norm";

    fn forward(
        &self,
        x: &Tensor,
        gamma_beta: &Tensor,
        residual: Option<&Tensor>,
    ) -> Result<(CpuStorage, Shape)> {
        let x = Features::from_nchw(x)?;
        let residual = residual.map(Features::from_nchw).transpose()?;
        let (gamma, beta) = (gamma_beta.get(0)?, gamma_beta.get(1)?);
        let (y, stats) =
            crate::batch_norm(&x, &gamma, &beta, self.eps, residual.as_ref(), self.act)?;
        let result = output(&y.to_nchw()?)?;
        self.kept.get_or_init(|| (x, y, stats));
        Ok(result)
    }

    fn backward(&self, gamma_beta: &Tensor, has_residual: bool, dy: &Tensor) -> Result<NormGrads> {
        let (x, y, stats) = kept(Self::NAME, &self.kept)?;
        let dy = Features::from_nchw(dy)?;
        let gamma = gamma_beta.detach().get(0)?;
        crate::batch_norm_backward(x, y, &gamma, stats, self.eps, has_residual, self.act, &dy)
    }
}

impl CustomOp2 for Norm {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        gb: &CpuStorage,
        gbl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.forward(
            &plain(Self::NAME, x, xl)?,
            &plain(Self::NAME, gb, gbl)?,
            None,
        )
    }

    fn bwd(
        &self,
        _x: &Tensor,
        gamma_beta: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grads = self.backward(gamma_beta, false, dy)?;
        let stacked = Tensor::stack(&[grads.gamma, grads.beta], 0)?;
        Ok((Some(grads.input.to_nchw()?), Some(stacked)))
    }
}

impl CustomOp3 for Norm {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        gb: &CpuStorage,
        gbl: &Layout,
        r: &CpuStorage,
        rl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, gb) = (plain(Self::NAME, x, xl)?, plain(Self::NAME, gb, gbl)?);
        self.forward(&x, &gb, Some(&plain(Self::NAME, r, rl)?))
    }

    fn bwd(
        &self,
        _x: &Tensor,
        gamma_beta: &Tensor,
        _r: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grads = self.backward(gamma_beta, true, dy)?;
        let stacked = Tensor::stack(&[grads.gamma, grads.beta], 0)?;
        Ok((
            Some(grads.input.to_nchw()?),
            Some(stacked),
            nchw(grads.residual)?,
        ))
    }
}

/// [`crate::batch_norm`] of `x` `[N, C, H, W]`, with gradients.
///
/// # Errors
///
/// Those of [`crate::batch_norm`].
pub fn batch_norm(
    x: &Tensor,
    gamma: &Tensor,
    beta: &Tensor,
    eps: f64,
    residual: Option<&Tensor>,
    act: Activation,
) -> Result<(Tensor, BatchStatistics)> {
    let slot = Arc::new(OnceLock::new());
    let op = Norm {
        eps,
        act,
        kept: Arc::clone(&slot),
    };
    // An operation has at most three inputs.
    let gamma_beta = Tensor::stack(&[gamma, beta], 0)?;
    let x = x.contiguous()?;
    let y = match residual {
        Some(residual) => x.apply_op3(&gamma_beta, &residual.contiguous()?, op)?,
        None => x.apply_op2(&gamma_beta, op)?,
    };
    let stats = kept(Norm::NAME, &slot)?.2.clone();
    Ok((y, stats))
}

struct MaxPool {
    cfg: PoolConfig,
    indices: OnceLock<MaxIndices>,
}

impl CustomOp1 for MaxPool {
    fn name(&self) -> &'static str {
        "max_pool2d"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = Features::from_nchw(&plain(self.name(), x, layout)?)?;
        let (y, indices) = crate::max_pool2d(&x, self.cfg)?;
        self.indices.get_or_init(|| indices);
        output(&y.to_nchw()?)
    }

    fn bwd(&self, _x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let indices = kept(self.name(), &self.indices)?;
        let dx = crate::max_pool2d_backward(indices, &Features::from_nchw(dy)?)?;
        Ok(Some(dx.to_nchw()?))
    }
}

/// [`crate::max_pool2d`] of `x` `[N, C, H, W]`, with gradients.
///
/// # Errors
///
/// Those of [`crate::max_pool2d`].
pub fn max_pool2d(x: &Tensor, cfg: PoolConfig) -> Result<Tensor> {
    x.contiguous()?.apply_op1(MaxPool {
        cfg,
        indices: OnceLock::new(),
    })
}

struct AvgPool(PoolConfig);

impl CustomOp1 for AvgPool {
    fn name(&self) -> &'static str {
        "avg_pool2d"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = Features::from_nchw(&plain(self.name(), x, layout)?)?;
        output(&crate::avg_pool2d(&x, self.0)?.to_nchw()?)
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let (_, _, h, w) = x.dims4()?;
        let dx = crate::avg_pool2d_backward((h, w), self.0, &Features::from_nchw(dy)?)?;
        Ok(Some(dx.to_nchw()?))
    }
}

/// [`crate::avg_pool2d`] of `x` `[N, C, H, W]`, with gradients.
///
/// # Errors
///
/// Those of [`crate::avg_pool2d`].
pub fn avg_pool2d(x: &Tensor, cfg: PoolConfig) -> Result<Tensor> {
    x.contiguous()?.apply_op1(AvgPool(cfg))
}

struct Linear;

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        w: &CpuStorage,
        wl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, w) = (plain("linear", x, xl)?, plain("linear", w, wl)?);
        output(&crate::linear(&x, &w, None)?)
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grads = crate::linear_backward(x, w, dy, x.track_op())?;
        Ok((grads.input, Some(grads.weight)))
    }
}

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        w: &CpuStorage,
        wl: &Layout,
        b: &CpuStorage,
        bl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, w) = (plain("linear", x, xl)?, plain("linear", w, wl)?);
        output(&crate::linear(&x, &w, Some(&plain("linear", b, bl)?))?)
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _b: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grads = crate::linear_backward(x, w, dy, x.track_op())?;
        Ok((grads.input, Some(grads.weight), Some(grads.bias)))
    }
}

/// [`crate::linear`] of `x` `[N, F]`, with gradients.
///
/// # Errors
///
/// Those of [`crate::linear`].
pub fn linear(x: &Tensor, w: &Tensor, b: Option<&Tensor>) -> Result<Tensor> {
    let (x, w) = (x.contiguous()?, w.contiguous()?);
    match b {
        Some(b) => x.apply_op3(&w, &b.contiguous()?, Linear),
        None => x.apply_op2(&w, Linear),
    }
}

struct CrossEntropy {
    labels: Tensor,
    smoothing: f64,
    grad: OnceLock<Tensor>,
}

impl CustomOp1 for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn cpu_fwd(&self, logits: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let logits = plain(self.name(), logits, layout)?;
        let loss = crate::cross_entropy(&logits, &self.labels, self.smoothing)?;
        self.grad.get_or_init(|| loss.grad);
        Ok((
            CpuStorage::F32(vec![loss.value.read()?.mean as f32]),
            Shape::from(()),
        ))
    }

    fn bwd(&self, _logits: &Tensor, _loss: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(kept(self.name(), &self.grad)?.broadcast_mul(dy)?))
    }
}

/// The loss of [`crate::cross_entropy`] as a scalar tensor, with gradients.
///
/// # Errors
///
/// Those of [`crate::cross_entropy`].
pub fn cross_entropy(logits: &Tensor, labels: &Tensor, smoothing: f64) -> Result<Tensor> {
    logits.contiguous()?.apply_op1(CrossEntropy {
        labels: labels.detach(),
        smoothing,
        grad: OnceLock::new(),
    })
}
