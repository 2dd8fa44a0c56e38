//! Spearman's rank correlation: whether a criterion orders filters as it did before.
//!
//! ```text
//! ρ = Σ (r[j] − r̄)(q[j] − q̄) / (Σ (r[j] − r̄)² · Σ (q[j] − q̄)²)^½
//! ```
//!
//! with the ranks `r` and `q` of the two lists, equal values sharing the mean of their ranks.
//! Spearman, *The Proof and Measurement of Association between Two Things*, American Journal of Psychology 15, 1904.

/// The rank correlation of two lists of one length, -1 to 1; `None` where the lengths differ or all values of a list are
/// equal.
pub fn rank_correlation(a: &[f64], b: &[f64]) -> Option<f64> {
    if a.len() != b.len() {
        return None;
    }
    let (r, q) = (ranks(a), ranks(b));
    let mean = (a.len() as f64 + 1.0) / 2.0;
    let product = |x: &[f64], y: &[f64]| -> f64 {
        x.iter().zip(y).map(|(x, y)| (x - mean) * (y - mean)).sum()
    };
    let spread = (product(&r, &r) * product(&q, &q)).sqrt();
    (spread > 0.0).then(|| product(&r, &q) / spread)
}

/// Ranks from 1; equal values share the mean of theirs.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&i, &j| values[i].total_cmp(&values[j]));
    let mut ranks = vec![0.0; values.len()];
    let mut done = 0;
    for ties in order.chunk_by(|&i, &j| values[i] == values[j]) {
        let rank = done as f64 + (ties.len() as f64 + 1.0) / 2.0;
        ties.iter().for_each(|&i| ranks[i] = rank);
        done += ties.len();
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        assert_eq!(
            rank_correlation(&[1.0, 2.0, 9.0], &[10.0, 20.0, 30.0]),
            Some(1.0)
        );
        assert_eq!(
            rank_correlation(&[1.0, 2.0, 9.0], &[3.0, 2.0, 1.0]),
            Some(-1.0)
        );
        assert_eq!(rank_correlation(&[1.0, 1.0], &[1.0, 2.0]), None);
        assert_eq!(rank_correlation(&[1.0], &[1.0, 2.0]), None);
        assert_eq!(rank_correlation(&[], &[]), None);
    }

    #[test]
    fn ties_share_their_mean_rank() {
        assert_eq!(ranks(&[3.0, 1.0, 3.0, 2.0]), [3.5, 1.0, 3.5, 2.0]);
        // Ranks 3.5 1 3.5 2 and 4 1 3 2: the products sum to 4.5, the squares to 4.5 and 5.
        let correlation = rank_correlation(&[3.0, 1.0, 3.0, 2.0], &[9.0, 1.0, 8.0, 2.0]).unwrap();
        assert!((correlation - 4.5 / 22.5_f64.sqrt()).abs() < 1e-15);
    }
}
