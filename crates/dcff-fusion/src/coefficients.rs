//! The matrix that makes a compact layer's kernels of all filters.
//!
//! ```text
//! Ŵ = P · W        [M, C_in, K_h, K_w] = [M, C_out] · [C_out, C_in, K_h, K_w],      b̂ = P · b
//! ```
//!
//! Lin et al., *Training Compact CNNs for Image Classification using Dynamic-coded Filter Fusion*, TPAMI 2023,
//! <https://arxiv.org/abs/2107.06916>, equation 8.
//! The coefficients are constant during an epoch: no gradient flows into them, and through them it reaches every filter.

use candle_core::{DType, Device, Tensor};
use dcff_criteria::Similarity;

use crate::Result;

/// Beside a row's sum of 1 a proxy below this, 2⁻⁶⁴, is lost in rounding many times over. Yet products with it are
/// subnormal numbers, which take processors a hundred cycles each: whole training steps then take four times as long.
pub const NEGLIGIBLE: f32 = 1.0 / (1u128 << 64) as f32;

/// Fusion coefficients `P [M, C_out]` of one layer, a row per kept filter.
#[derive(Clone, Debug)]
pub struct Coefficients {
    /// The kept filters, `M` in all; row `m` of `p` belongs to filter `ids[m]`.
    pub ids: Vec<usize>,
    /// `[M, C_out]`, `f32`; each row sums to 1.
    pub p: Tensor,
}

impl Coefficients {
    /// The rows of the proxies at `ids`; proxies below [`NEGLIGIBLE`] count as 0.
    ///
    /// # Errors
    /// If the tensor cannot be made on `device`.
    ///
    /// # Panics
    /// If an id is not below `C_out`.
    pub fn fuse(ids: Vec<usize>, similarity: &Similarity, device: &Device) -> Result<Self> {
        let rows: Vec<f32> = ids
            .iter()
            .flat_map(|&id| similarity.proxy_row(id))
            .map(|&proxy| if proxy < NEGLIGIBLE { 0.0 } else { proxy })
            .collect();
        let p = Tensor::from_vec(rows, (ids.len(), similarity.filters()), device)?;
        Ok(Self { ids, p })
    }

    /// One-hot rows: each kept filter is itself. `filters` is `C_out`.
    ///
    /// # Errors
    /// If the tensor cannot be made on `device`.
    ///
    /// # Panics
    /// If an id is not below `filters`.
    pub fn select(ids: Vec<usize>, filters: usize, device: &Device) -> Result<Self> {
        let mut rows = vec![0.0_f32; ids.len() * filters];
        for (row, &id) in rows.chunks_exact_mut(filters).zip(&ids) {
            row[id] = 1.0;
        }
        let p = Tensor::from_vec(rows, (ids.len(), filters), device)?;
        Ok(Self { ids, p })
    }

    /// Whether every kept filter is exactly itself, so that `P · W` picks rows: so it is at high temperatures, where all other
    /// proxies underflow to 0.
    ///
    /// # Errors
    /// If the coefficients cannot be read.
    pub fn is_selection(&self) -> Result<bool> {
        let rows: Vec<Vec<f32>> = self.p.to_vec2()?;
        Ok(rows.iter().zip(&self.ids).all(|(row, &id)| {
            let itself = |(i, &p): (usize, &f32)| p == if i == id { 1.0 } else { 0.0 };
            row.iter().enumerate().all(itself)
        }))
    }

    /// `P · W` for parameters `[C_out, …]` of the layer, filters or biases: `[M, …]`.
    ///
    /// # Errors
    /// If the first dimension of `parameters` is not `C_out`.
    pub fn fused(&self, parameters: &Tensor) -> Result<Tensor> {
        let mut shape = parameters.dims().to_vec();
        let rows = parameters.reshape((shape.first().copied().unwrap_or(1), ()))?;
        if let Some(first) = shape.first_mut() {
            *first = self.ids.len();
        }
        Ok(self.p.matmul(&rows)?.reshape(shape)?)
    }

    /// Mean entropy of the rows in nats: 0 where every kept filter is itself, `ln C_out` where all filters count alike.
    ///
    /// # Errors
    /// If the coefficients cannot be read.
    pub fn mean_entropy(&self) -> Result<f64> {
        let rows: Vec<Vec<f32>> = self.p.to_dtype(DType::F32)?.to_vec2()?;
        let total: f64 = rows
            .iter()
            .flatten()
            .filter(|&&p| p > 0.0)
            .map(|&p| -f64::from(p) * f64::from(p).ln())
            .sum();
        Ok(total / rows.len().max(1) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filters() -> Tensor {
        // Three filters [1, 1, 2]: at temperature 0 all count alike.
        Tensor::new(&[3.0_f32, 0.0, 0.0, 6.0, 0.0, 0.0], &Device::Cpu)
            .unwrap()
            .reshape((3, 1, 1, 2))
            .unwrap()
    }

    fn flat(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn select_is_indexing() {
        let coefficients = Coefficients::select(vec![0, 2], 3, &Device::Cpu).unwrap();
        assert_eq!(flat(&coefficients.p), [1.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
        let fused = coefficients.fused(&filters()).unwrap();
        assert_eq!(fused.dims(), [2, 1, 1, 2]);
        assert_eq!(flat(&fused), [3.0, 0.0, 0.0, 0.0]);
        let biases = Tensor::new(&[1.0_f32, 2.0, 3.0], &Device::Cpu).unwrap();
        assert_eq!(flat(&coefficients.fused(&biases).unwrap()), [1.0, 3.0]);
        assert_eq!(coefficients.mean_entropy().unwrap(), 0.0);
        assert!(coefficients.is_selection().unwrap());
    }

    #[test]
    fn fuse_takes_the_rows_of_the_kept_filters() {
        let alike = Similarity::new(&filters(), 0.0).unwrap();
        let coefficients = Coefficients::fuse(vec![1], &alike, &Device::Cpu).unwrap();
        assert_eq!(flat(&coefficients.fused(&filters()).unwrap()), [1.0, 2.0]);
        assert!((coefficients.mean_entropy().unwrap() - 3.0_f64.ln()).abs() < 1e-7);
        assert!(!coefficients.is_selection().unwrap());
        // The smallest distance, 3, times 15, leaves less of the others than rounding sees: e⁻⁴⁵ is 3e-20.
        let sharper = Similarity::new(&filters(), 15.0).unwrap();
        assert!(
            sharper
                .proxy_row(0)
                .iter()
                .any(|p| (1e-20..1e-19).contains(p))
        );
        let coefficients = Coefficients::fuse(vec![0, 2], &sharper, &Device::Cpu).unwrap();
        assert!(coefficients.is_selection().unwrap());
        // Distances of 3 to 7, times 1000, leave exactly nothing of the others.
        let sharp = Similarity::new(&filters(), 1000.0).unwrap();
        let coefficients = Coefficients::fuse(vec![0, 2], &sharp, &Device::Cpu).unwrap();
        assert!(coefficients.is_selection().unwrap());

        let apart = Similarity::new(&filters(), 0.5).unwrap();
        let coefficients = Coefficients::fuse(vec![0, 2], &apart, &Device::Cpu).unwrap();
        assert_eq!(flat(&coefficients.p)[..3], *apart.proxy_row(0));
        assert_eq!(flat(&coefficients.p)[3..], *apart.proxy_row(2));
    }

    #[test]
    fn refuses_other_parameters() {
        let coefficients = Coefficients::select(vec![0], 2, &Device::Cpu).unwrap();
        assert!(coefficients.fused(&filters()).is_err());
        assert!(
            coefficients
                .fused(&Tensor::new(1.0_f32, &Device::Cpu).unwrap())
                .is_err()
        );
    }
}
