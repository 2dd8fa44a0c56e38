//! A fused convolution for models that are written with candle's own layers.

use candle_core::{Module, Tensor};

use crate::{Coefficients, Result};

/// A convolution whose kernels are `P.W`: all filters stay, `M` of them are computed, and candle's tape carries the gradient to
/// every one.
#[derive(Clone, Debug)]
pub struct FusedConv2d {
    weight: Tensor,
    bias: Option<Tensor>,
    coefficients: Coefficients,
    padding: usize,
    stride: usize,
}

impl FusedConv2d {
    /// The convolution with the filters `weight` `[C_out, C_in, K, K]` and the bias `[C_out]`, of which the rows of
    /// `coefficients` are computed.
    ///
    /// # Errors
    /// When the coefficients are not of so many filters.
    pub fn new(
        weight: Tensor,
        bias: Option<Tensor>,
        coefficients: Coefficients,
        padding: usize,
        stride: usize,
    ) -> Result<Self> {
        coefficients.fused(&weight)?;
        Ok(Self {
            weight,
            bias,
            coefficients,
            padding,
            stride,
        })
    }

    /// The coefficients.
    pub fn coefficients(&self) -> &Coefficients {
        &self.coefficients
    }
}

impl Module for FusedConv2d {
    /// `[N, C_in, H, W]` to `[N, M, H', W']`.
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let fused = |t: &Tensor| {
            let rows = self.coefficients.p.matmul(&t.flatten_from(1)?)?;
            let mut shape = t.dims().to_vec();
            shape[0] = rows.dim(0)?;
            rows.reshape(shape)
        };
        let y = x.conv2d(&fused(&self.weight)?, self.padding, self.stride, 1, 1)?;
        match &self.bias {
            None => Ok(y),
            Some(bias) => {
                let bias = fused(&bias.unsqueeze(1)?)?;
                y.broadcast_add(&bias.reshape((1, (), 1, 1))?)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    #[test]
    fn a_mix_of_two_filters_and_its_gradient() {
        let device = Device::Cpu;
        // Two filters of 1x1 on one channel, mixed by a quarter and three quarters.
        let weight = Var::new(&[[[[4f32]]], [[[8f32]]]], &device).unwrap();
        let bias = Tensor::new(&[1f32, 2.0], &device).unwrap();
        let coefficients = Coefficients {
            ids: vec![0],
            p: Tensor::new(&[[0.25f32, 0.75]], &device).unwrap(),
        };
        let conv =
            FusedConv2d::new(weight.as_tensor().clone(), Some(bias), coefficients, 0, 1).unwrap();
        let x = Tensor::new(&[[[[1f32, 2.0]]]], &device).unwrap();
        let y = conv.forward(&x).unwrap();
        // 0.25 * 4 + 0.75 * 8 = 7, and 0.25 * 1 + 0.75 * 2 = 1.75.
        assert_eq!(
            y.flatten_all().unwrap().to_vec1::<f32>().unwrap(),
            [8.75, 15.75]
        );
        let gradients = y.sum_all().unwrap().backward().unwrap();
        let gradient = gradients.get(&weight).unwrap().flatten_all().unwrap();
        assert_eq!(gradient.to_vec1::<f32>().unwrap(), [0.75, 2.25]);
    }
}
