//! HRank: the mean rank of a channel's feature maps.
//!
//! ```text
//! s[j] = mean over images of rank(A[j]),      A[j] the H×W map of channel j after normalisation and activation
//! ```
//!
//! Lin et al., *HRank: Filter Pruning using High-Rank Feature Map*, CVPR 2020, <https://arxiv.org/abs/2002.10179>,
//! equation 4; 500 images are customary.
//!
//! The rank is the number of singular values above `max(H, W) · 2⁻²³` times the largest, the tolerance of
//! `torch.linalg.matrix_rank` for `f32`.
//! The singular values are the roots of the eigenvalues of the smaller Gram matrix, formed in `f64`: its rounding
//! (some 1e-15 of the largest eigenvalue) lies far below the squared tolerance (at least 1e-13 of it).

use crate::symmetric::{Vectors, eigen};
use crate::{Criterion, Evidence, LayerEvidence, Maps, Result};

/// Reads feature maps.
pub(crate) struct Hrank;

impl Criterion for Hrank {
    fn name(&self) -> &'static str {
        "hrank"
    }

    fn about(&self) -> &'static str {
        "mean rank of the channel's feature maps over images"
    }

    fn source(&self) -> &'static str {
        "Lin et al., HRank: Filter Pruning using High-Rank Feature Map, CVPR 2020, https://arxiv.org/abs/2002.10179"
    }

    fn evidence(&self) -> Evidence {
        Evidence::FeatureMaps
    }

    fn scale_degree(&self) -> Option<i32> {
        Some(0)
    }

    fn observe(&self, maps: &Maps<'_>) -> Vec<f64> {
        let [_, height, width] = maps.dims();
        maps.channels()
            .map(|map| rank(map, height, width) as f64)
            .collect()
    }

    fn score(&self, layer: &LayerEvidence<'_>) -> Result<Vec<f64>> {
        Ok(layer.observed()?.to_vec())
    }
}

/// The numerical rank of a map of `height` rows of `width` pixels.
fn rank(map: &[f32], height: usize, width: usize) -> usize {
    let n = height.min(width);
    // Entry (row, column) of the map with its shorter side as rows.
    let at = |i: usize, k: usize| {
        f64::from(if height <= width {
            map[i * width + k]
        } else {
            map[k * width + i]
        })
    };
    let mut gram = vec![0.0; n * n];
    for i in 0..n {
        for j in 0..=i {
            let dot = (0..height.max(width)).map(|k| at(i, k) * at(j, k)).sum();
            gram[i * n + j] = dot;
            gram[j * n + i] = dot;
        }
    }
    let values = eigen(gram, n, Vectors::No).values;
    let largest = values.iter().fold(0.0, |a: f64, &b| a.max(b));
    let tolerance = height.max(width) as f64 * f64::from(f32::EPSILON);
    let threshold = tolerance * tolerance * largest;
    values.iter().filter(|&&value| value > threshold).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Observed;

    #[test]
    fn equals_torch() {
        // m = torch.zeros(2, 3, 4, 4); r = torch.arange(16.).reshape(4, 4)
        // m[0, 0] = torch.eye(4); m[0, 1] = torch.outer(torch.arange(4.), torch.ones(4)); m[0, 2] = r
        // m[1, 0] = torch.ones(4, 4); m[1, 2] = r ** 2
        // torch.linalg.matrix_rank(m) is [[4, 1, 2], [1, 0, 3]]
        let mut maps = vec![0.0_f32; 2 * 3 * 16];
        for pixel in 0..16 {
            let (row, column) = (pixel / 4, pixel % 4);
            maps[pixel] = if row == column { 1.0 } else { 0.0 };
            maps[16 + pixel] = row as f32;
            maps[32 + pixel] = pixel as f32;
            maps[48 + pixel] = 1.0;
            maps[80 + pixel] = (pixel * pixel) as f32;
        }
        let mut observed = Observed::new(3);
        observed.add(&Hrank, &maps, [2, 3, 4, 4]).unwrap();
        assert_eq!(observed.mean(), [2.5, 0.5, 2.5]);
    }

    #[test]
    fn maps_that_are_not_square_have_the_rank_of_their_shorter_side() {
        let map: Vec<f32> = (0..12).map(|i| ((i * i) as f32 * 0.7).sin()).collect();
        assert_eq!(rank(&map, 3, 4), 3);
        assert_eq!(rank(&map, 4, 3), 3);
        assert_eq!(rank(&map, 1, 12), 1);
        assert_eq!(rank(&[0.0; 12], 2, 6), 0);
    }

    #[test]
    fn noise_below_the_tolerance_adds_no_rank() {
        let with_noise = |size: f32| {
            let pixel = |i: usize| 1.0 + if i == 5 { size } else { 0.0 };
            rank(&(0..64).map(pixel).collect::<Vec<f32>>(), 8, 8)
        };
        // The second singular value is about the noise, the first 8: 1.5e-8 and 1.2e-4 of it, against 8 · 1.2e-7.
        assert_eq!(with_noise(1.2e-7), 1);
        assert_eq!(with_noise(1e-3), 2);
    }
}
