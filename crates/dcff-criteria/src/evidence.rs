//! What a criterion may look at: the evidence of one layer.
//!
//! Evidence that costs something is computed on first use and shared: the distances between filters serve the score and
//! the fusion coefficients of one pass.
//! Evidence that only some criteria need (batch-norm scales, gradients, feature maps) belongs here as an optional field
//! with a `with_…` method, not in a second trait.

use std::sync::OnceLock;

use candle_core::{DType, Tensor};

use crate::similarity::Similarity;
use crate::{Error, Result};

/// The kind of evidence a criterion needs, so that a caller collects no more than that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Evidence {
    /// Nothing but the number of filters.
    None,
    /// The filters themselves, and the temperature.
    Weights,
}

/// The evidence about one convolution.
#[derive(Debug)]
pub struct LayerEvidence<'a> {
    name: &'a str,
    filters: &'a Tensor,
    count: usize,
    temperature: f64,
    seed: u64,
    similarity: OnceLock<Similarity>,
}

impl<'a> LayerEvidence<'a> {
    /// Evidence about the layer `name` with the filters `[C_out, C_in, K_h, K_w]` at `temperature` (at least 0).
    ///
    /// # Errors
    /// If the filters have another rank or no weights, or the temperature is negative or not finite.
    pub fn new(name: &'a str, filters: &'a Tensor, temperature: f64) -> Result<Self> {
        let &[count, ..] = filters.dims() else {
            return Err(shape_error(name, filters));
        };
        if filters.rank() != 4 || filters.elem_count() == 0 {
            return Err(shape_error(name, filters));
        }
        if !temperature.is_finite() || temperature < 0.0 {
            return Err(Error::Temperature {
                layer: name.to_owned(),
                temperature,
            });
        }
        Ok(Self {
            name,
            filters,
            count,
            temperature,
            seed: 0,
            similarity: OnceLock::new(),
        })
    }

    /// The same evidence with a seed for criteria that draw (0 if not given).
    ///
    /// Keep it constant over a run: a criterion that draws then keeps the same filters in every epoch.
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// The layer's name, used in messages and to draw differently in each layer.
    pub fn name(&self) -> &str {
        self.name
    }

    /// All filters, `[C_out, C_in, K_h, K_w]`.
    pub fn filters(&self) -> &Tensor {
        self.filters
    }

    /// `C_out`, at least 1.
    pub fn filter_count(&self) -> usize {
        self.count
    }

    /// The temperature `T` of the softmax over distances; larger is sharper.
    pub fn temperature(&self) -> f64 {
        self.temperature
    }

    /// The seed for criteria that draw.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The filters as `C_out` rows of `C_in · K_h · K_w` weights, one after another, on the host.
    ///
    /// # Errors
    /// If the tensor cannot be read as `f32`.
    pub fn rows(&self) -> Result<Vec<f32>> {
        let flat = self.filters.to_dtype(DType::F32)?.flatten_all()?;
        Ok(flat.to_vec1()?)
    }

    /// Distances and proxies of the filters, computed on the first call.
    ///
    /// # Errors
    /// If a weight is not finite or the filters cannot be read.
    pub fn similarity(&self) -> Result<&Similarity> {
        if let Some(similarity) = self.similarity.get() {
            return Ok(similarity);
        }
        let rows = self.rows()?;
        let length = rows.len() / self.count;
        if let Some(bad) = rows.iter().position(|weight| !weight.is_finite()) {
            return Err(Error::NonFiniteWeight {
                layer: self.name.to_owned(),
                filter: bad / length,
            });
        }
        let similarity = Similarity::new(&rows, self.count, self.temperature);
        Ok(self.similarity.get_or_init(|| similarity))
    }
}

fn shape_error(name: &str, filters: &Tensor) -> Error {
    Error::FilterShape {
        layer: name.to_owned(),
        shape: filters.dims().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn filters(shape: (usize, usize, usize, usize)) -> Tensor {
        Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap()
    }

    #[test]
    fn refuses_what_are_not_filters() {
        let flat = Tensor::zeros((4, 9), DType::F32, &Device::Cpu).unwrap();
        let error = LayerEvidence::new("conv1", &flat, 1.0).unwrap_err();
        assert_eq!(
            error.to_string(),
            "conv1: expected filters [C_out, C_in, K_h, K_w], got a tensor of shape [4, 9]"
        );
        assert!(LayerEvidence::new("conv1", &filters((0, 3, 3, 3)), 1.0).is_err());
    }

    #[test]
    fn refuses_a_temperature_that_is_no_temperature() {
        let filters = filters((2, 1, 1, 1));
        for temperature in [-1.0, f64::NAN, f64::INFINITY] {
            let error = LayerEvidence::new("conv1", &filters, temperature).unwrap_err();
            assert!(
                error
                    .to_string()
                    .starts_with("conv1: expected a finite temperature")
            );
        }
        assert!(LayerEvidence::new("conv1", &filters, 0.0).is_ok());
    }

    #[test]
    fn names_the_filter_with_a_non_finite_weight() {
        let mut weights = vec![0.5_f32; 3 * 4];
        weights[9] = f32::NAN;
        let filters = Tensor::from_vec(weights, (3, 1, 2, 2), &Device::Cpu).unwrap();
        let evidence = LayerEvidence::new("layer1.0.conv2", &filters, 1.0).unwrap();
        assert_eq!(
            evidence.similarity().unwrap_err().to_string(),
            "layer1.0.conv2: filter 2 holds a non-finite weight"
        );
    }

    #[test]
    fn shares_one_similarity() {
        let filters = filters((2, 1, 1, 1));
        let evidence = LayerEvidence::new("conv1", &filters, 1.0).unwrap();
        assert!(std::ptr::eq(
            evidence.similarity().unwrap(),
            evidence.similarity().unwrap()
        ));
    }
}
