//! Kullback-Leibler importance as the authors' program computes it.
//!
//! ```text
//! I[j] = Σ_k 1/C_out · Σ_i P[j, i] · ln(P[j, i] / (P[k, i] + ε)),      ε = 1e-7
//! ```
//!
//! Lin et al., *Training Compact CNNs for Image Classification using Dynamic-coded Filter Fusion*, TPAMI 2023,
//! <https://arxiv.org/abs/2107.06916>, in the form of their code, <https://github.com/lmbxmu/DCFF> at c665052.
//!
//! It differs from the paper's equation 7 (which is `kl`) by the mean over `C_out` and by an epsilon in one place only.
//! `P` is rounded to `f32` as theirs is: where an entry underflows to 0 (`D · T` above about 104), `0 · ln 0` is NaN here
//! as it is there, and [`NonFinite::KeepLast`] then keeps the layer's last finite scores, silently in their case.
//! With their temperatures that is every epoch but the first.
//!
//! They build a `C_out³` tensor; splitting the logarithm gives the same sum from the column sums of `ln(P + ε)`:
//!
//! ```text
//! I[j] = Σ_i P[j, i] · ln P[j, i] − 1/C_out · Σ_i P[j, i] · Σ_k ln(P[k, i] + ε)
//! ```

use rayon::prelude::*;

use crate::{Criterion, Evidence, LayerEvidence, NonFinite, Result};

/// The authors' epsilon, added to the second proxy only.
const EPSILON: f64 = 1e-7;

/// Columns per task: wide enough to read whole cache lines.
const COLUMNS: usize = 64;

/// Reads the weights and the temperature.
pub(crate) struct KlPublished;

impl Criterion for KlPublished {
    fn name(&self) -> &'static str {
        "kl-published"
    }

    fn about(&self) -> &'static str {
        "the authors' code: mean instead of sum, an epsilon, and the last finite scores where it gives NaN"
    }

    fn source(&self) -> &'static str {
        "Lin et al., Training Compact CNNs for Image Classification using Dynamic-coded Filter Fusion, TPAMI 2023, \
         https://arxiv.org/abs/2107.06916; https://github.com/lmbxmu/DCFF at c665052"
    }

    fn evidence(&self) -> Evidence {
        Evidence::Weights
    }

    fn reads_temperature(&self) -> bool {
        true
    }

    fn non_finite(&self) -> NonFinite {
        NonFinite::KeepLast
    }

    fn score(&self, layer: &LayerEvidence<'_>) -> Result<Vec<f64>> {
        let similarity = layer.similarity()?;
        Ok(score_of_proxies(
            similarity.proxies(),
            similarity.filters(),
            EPSILON,
        ))
    }
}

/// The published score of `proxies`, `[filters, filters]` row-major, with its epsilon as a parameter.
///
/// The sums run in `f64`, in an order that does not depend on the number of threads.
pub(crate) fn score_of_proxies<P: Copy + Into<f64> + Sync>(
    proxies: &[P],
    filters: usize,
    epsilon: f64,
) -> Vec<f64> {
    let mut columns = vec![0.0_f64; filters];
    columns
        .par_chunks_mut(COLUMNS)
        .enumerate()
        .for_each(|(chunk, sums)| {
            let start = chunk * COLUMNS;
            for row in proxies.chunks_exact(filters) {
                for (sum, &proxy) in sums.iter_mut().zip(&row[start..]) {
                    *sum += (proxy.into() + epsilon).ln();
                }
            }
        });
    let count = filters as f64;
    proxies
        .par_chunks(filters)
        .map(|row| {
            let own: f64 = row
                .iter()
                .map(|&proxy| proxy.into() * proxy.into().ln())
                .sum();
            let crossed: f64 = row
                .iter()
                .zip(&columns)
                .map(|(&proxy, sum)| proxy.into() * sum)
                .sum();
            own - crossed / count
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;
    use crate::testing::{check, drawn_filters};

    #[test]
    fn two_filters_by_hand() {
        // Proxies (3/4, 1/4) and (1/4, 3/4): the term of a filter with itself is not quite zero, because of epsilon.
        let own = 0.75 * (0.75 / (0.75 + 1e-7_f64)).ln() + 0.25 * (0.25 / (0.25 + 1e-7_f64)).ln();
        let other = 0.75 * (0.75 / (0.25 + 1e-7_f64)).ln() + 0.25 * (0.25 / (0.75 + 1e-7_f64)).ln();
        let expected = (own + other) / 2.0;
        check(&KlPublished, [[0.0], [3.0_f32.ln()]], [expected, expected]);
    }

    #[test]
    fn equals_the_formula_term_by_term() {
        let filters = drawn_filters(70, 1.0, 1);
        let evidence = LayerEvidence::new("layer", &filters, 3.0).unwrap();
        let similarity = evidence.similarity().unwrap();
        for (j, score) in KlPublished
            .score(&evidence)
            .unwrap()
            .into_iter()
            .enumerate()
        {
            let mut expected = 0.0;
            for k in 0..70 {
                for (&p, &q) in similarity.proxy_row(j).iter().zip(similarity.proxy_row(k)) {
                    expected += f64::from(p) * (f64::from(p) / (f64::from(q) + 1e-7)).ln() / 70.0;
                }
            }
            assert!(
                (score - expected).abs() < 1e-12,
                "filter {j}: {score} and {expected}"
            );
        }
    }

    #[test]
    fn is_nan_exactly_where_a_proxy_underflows() {
        // The first two are near each other and far from the third: D·T is 1 between them, 200 and 201 to it.
        let near = Tensor::new(&[0.0_f32, 1.0, 100.0], &Device::Cpu)
            .unwrap()
            .reshape((3, 1, 1, 1))
            .unwrap();
        let at = |temperature| {
            let evidence = LayerEvidence::new("layer", &near, temperature).unwrap();
            KlPublished.score(&evidence).unwrap()
        };
        assert!(at(1.0).iter().all(|score| score.is_finite()));
        assert!(at(2.0).iter().all(|score| score.is_nan()));
    }
}
