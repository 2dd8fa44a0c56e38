//! What a criterion sees in feature maps, averaged over images.
//!
//! ```text
//! o[j] = 1/N · Σ_n observe(A[n])[j],      A[n] the maps [C, H, W] of image n
//! ```
//!
//! Maps are many times larger than anything else here (VGG-16's first layer over 500 images: 125 MiB), so none is kept:
//! each batch is reduced to one number per channel as it comes.

use rayon::prelude::*;

use crate::maps::Maps;
use crate::{Criterion, Error, Result};

/// The mean of [`Criterion::observe`] over images, one number per filter.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    sums: Vec<f64>,
    images: usize,
}

impl Observed {
    /// Nothing seen yet, for a layer with `filters` filters.
    pub fn new(filters: usize) -> Self {
        Self {
            sums: vec![0.0; filters],
            images: 0,
        }
    }

    /// Shows `criterion` the maps of a batch, `[N, C, H, W]` row-major. Images are added in their order, so the sum does
    /// not depend on the number of threads.
    ///
    /// # Errors
    /// When the dimensions do not fit the maps or the filters.
    pub fn add(
        &mut self,
        criterion: &dyn Criterion,
        maps: &[f32],
        [images, channels, height, width]: [usize; 4],
    ) -> Result<()> {
        let length = channels * height * width;
        if channels != self.sums.len() || length == 0 || maps.len() != images * length {
            return Err(Error::Maps {
                filters: self.sums.len(),
                numbers: maps.len(),
                dims: vec![images, channels, height, width],
            });
        }
        let seen: Vec<Vec<f64>> = maps
            .par_chunks_exact(length)
            .map(|values| {
                let dims = [channels, height, width];
                criterion.observe(&Maps { values, dims })
            })
            .collect();
        for image in seen {
            self.sums.iter_mut().zip(image).for_each(|(s, x)| *s += x);
        }
        self.images += images;
        Ok(())
    }

    /// Images seen.
    pub fn images(&self) -> usize {
        self.images
    }

    /// The mean per filter; zeros when no image was seen.
    pub fn mean(&self) -> Vec<f64> {
        let images = self.images.max(1) as f64;
        self.sums.iter().map(|sum| sum / images).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_maps_of_another_layer() {
        let hrank = crate::by_name("hrank").unwrap();
        let error = Observed::new(3).add(hrank, &[0.0; 16], [1, 4, 2, 2]);
        assert_eq!(
            error.unwrap_err().to_string(),
            "expected maps [N, 3, H, W], got 16 numbers as [1, 4, 2, 2]"
        );
        assert!(
            Observed::new(4)
                .add(hrank, &[0.0; 15], [1, 4, 2, 2])
                .is_err()
        );
    }
}
