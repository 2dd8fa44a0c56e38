//! What a criterion may look at: the evidence of one layer.
//!
//! Evidence that costs something is computed on first use and shared: the distances between filters serve the score and
//! the fusion coefficients of one pass.
//! Evidence that only some criteria need (batch-norm scales, gradients, what was seen in feature maps) is an optional
//! field with a `with_…` method; asking for what was not given is an error.

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
    /// Scale and shift of the batch norm behind the convolution.
    Scale,
    /// Weights, scale and shift, and the gradients of the mean loss over images with respect to them.
    Gradients,
    /// The feature maps of images after normalisation and activation, through [`Criterion::observe`](crate::Criterion::observe).
    FeatureMaps,
}

impl Evidence {
    /// Whether images are shown to the network for it.
    pub fn reads_images(self) -> bool {
        matches!(self, Self::Gradients | Self::FeatureMaps)
    }

    /// Whether a network that keeps all filters but computes only some of them has this evidence about every filter.
    ///
    /// Batch norm and the loss know only the filters that are computed.
    pub fn covers_unused_filters(self) -> bool {
        !matches!(self, Self::Scale | Self::Gradients)
    }
}

/// Scale and shift of the batch norm behind a convolution, or the gradients of both.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NormEvidence {
    /// `γ`, `[C_out]`.
    pub scale: Vec<f32>,
    /// `β`, `[C_out]`.
    pub shift: Vec<f32>,
}

/// Gradients of the mean loss over images.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GradientEvidence {
    /// Of the filters, `[C_out, C_in · K_h · K_w]` row-major.
    pub filters: Vec<f32>,
    /// Of the batch norm's scale and shift.
    pub norm: NormEvidence,
}

/// The evidence about one convolution.
#[derive(Debug)]
pub struct LayerEvidence<'a> {
    name: &'a str,
    filters: &'a Tensor,
    count: usize,
    temperature: f64,
    seed: u64,
    norm: Option<NormEvidence>,
    gradients: Option<GradientEvidence>,
    observed: Option<Vec<f64>>,
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
            norm: None,
            gradients: None,
            observed: None,
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

    /// The same evidence with the batch norm behind the convolution.
    ///
    /// # Errors
    /// If there is not one scale and one shift per filter.
    pub fn with_norm(mut self, norm: NormEvidence) -> Result<Self> {
        self.check("batch norm's scales", self.count, norm.scale.len())?;
        self.check("batch norm's shifts", self.count, norm.shift.len())?;
        self.norm = Some(norm);
        Ok(self)
    }

    /// The same evidence with gradients.
    ///
    /// # Errors
    /// If there is not one gradient per weight, scale and shift.
    pub fn with_gradients(mut self, gradients: GradientEvidence) -> Result<Self> {
        let weights = self.filters.elem_count();
        self.check("weight gradients", weights, gradients.filters.len())?;
        self.check("scale gradients", self.count, gradients.norm.scale.len())?;
        self.check("shift gradients", self.count, gradients.norm.shift.len())?;
        self.gradients = Some(gradients);
        Ok(self)
    }

    /// The same evidence with what the criterion observed in feature maps, see [`Observed::mean`](crate::Observed::mean).
    ///
    /// # Errors
    /// If there is not one number per filter.
    pub fn with_observed(mut self, observed: Vec<f64>) -> Result<Self> {
        self.check("feature-map observations", self.count, observed.len())?;
        self.observed = Some(observed);
        Ok(self)
    }

    fn check(&self, what: &'static str, expected: usize, got: usize) -> Result<()> {
        if expected == got {
            return Ok(());
        }
        Err(Error::EvidenceLength {
            layer: self.name.to_owned(),
            what,
            expected,
            got,
        })
    }

    fn given<'e, T>(&self, what: &'static str, evidence: &'e Option<T>) -> Result<&'e T> {
        evidence.as_ref().ok_or_else(|| Error::MissingEvidence {
            layer: self.name.to_owned(),
            what,
        })
    }

    /// Scale and shift of the batch norm behind the convolution.
    ///
    /// # Errors
    /// If they were not given.
    pub fn norm(&self) -> Result<&NormEvidence> {
        self.given("the batch norm's scale", &self.norm)
    }

    /// Gradients of the mean loss.
    ///
    /// # Errors
    /// If they were not given.
    pub fn gradients(&self) -> Result<&GradientEvidence> {
        self.given("gradients", &self.gradients)
    }

    /// The mean over images of what the criterion observed, one number per filter.
    ///
    /// # Errors
    /// If it was not given.
    pub fn observed(&self) -> Result<&[f64]> {
        self.given("feature maps", &self.observed)
            .map(Vec::as_slice)
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
        let similarity = Similarity::new(&self.filters.to_dtype(DType::F32)?, self.temperature)?;
        // A filter is at no distance from itself, unless a weight of it is not finite.
        if let Some(filter) = (0..self.count).find(|&j| similarity.distance_row(j)[j] != 0.0) {
            return Err(Error::NonFiniteWeight {
                layer: self.name.to_owned(),
                filter,
            });
        }
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
    fn says_what_is_missing_and_what_does_not_fit() {
        let filters = filters((2, 1, 1, 1));
        let evidence = || LayerEvidence::new("conv1", &filters, 1.0).unwrap();
        assert_eq!(
            evidence().norm().unwrap_err().to_string(),
            "conv1: expected the batch norm's scale as evidence, got none"
        );
        assert!(evidence().gradients().is_err() && evidence().observed().is_err());
        assert_eq!(
            evidence().with_observed(vec![0.0]).unwrap_err().to_string(),
            "conv1: expected 2 numbers of feature-map observations, got 1"
        );
        assert!(evidence().with_norm(NormEvidence::default()).is_err());
        assert!(
            evidence()
                .with_gradients(GradientEvidence::default())
                .is_err()
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
