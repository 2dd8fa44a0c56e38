//! What a convolution's filters are made of.

use candle_core::{Result, Tensor};

/// What a convolution's filters are made of.
#[derive(Clone, Copy, Debug)]
pub struct FilterSource<'a> {
    /// `[C, C_in / groups, K_h, K_w]`, `f32`.
    pub weight: &'a Tensor,
    /// Which of them are used, `[M]` (`u32`, each at most once); `None`: all.
    pub rows: Option<&'a Tensor>,
    /// What each used filter is multiplied by, `[M]` (`f32`); `None`: 1.
    pub scale: Option<&'a Tensor>,
}

impl<'a> From<&'a Tensor> for FilterSource<'a> {
    fn from(weight: &'a Tensor) -> Self {
        Self {
            weight,
            rows: None,
            scale: None,
        }
    }
}

impl FilterSource<'_> {
    /// The gradient of the weight, as if it had not been scaled, from that of the filters, `[M, ...]`: zeros for those that are
    /// not used.
    pub(crate) fn gradient(&self, gradient: Tensor) -> Result<Tensor> {
        match self.rows {
            None => Ok(gradient),
            Some(rows) => self.weight.zeros_like()?.index_add(rows, &gradient, 0),
        }
    }
}
