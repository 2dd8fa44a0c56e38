//! Eigenvalues of small symmetric matrices: what the ranks and nuclear norms of feature maps come down to.
//!
//! Householder's reduction to a tridiagonal matrix, then QL steps with implicit shifts.
//! Golub and Van Loan, *Matrix Computations*, 4th edition, sections 8.3.1 and 8.3.3 (there as QR).
//!
//! Candle has no decomposition, and a linear-algebra crate would be the largest dependency of this one for two functions.

/// Whether eigenvectors are wanted, which cost several times the eigenvalues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vectors {
    Yes,
    No,
}

/// Eigenvalues, ascending, and where wanted their unit vectors, one row each, `[n, n]`.
#[derive(Clone, Debug)]
pub(crate) struct Eigen {
    pub(crate) values: Vec<f64>,
    pub(crate) vectors: Vec<f64>,
}

/// More steps per eigenvalue than any matrix takes; a bound for those of NaN.
const MAX_STEPS: usize = 100;

/// Decomposes the symmetric matrix `a`, `[n, n]` row-major.
pub(crate) fn eigen(mut a: Vec<f64>, n: usize, wanted: Vectors) -> Eigen {
    let mut vectors = match wanted {
        Vectors::Yes => identity(n),
        Vectors::No => Vec::new(),
    };
    let (mut diagonal, mut beside) = tridiagonal(&mut a, n, &mut vectors);
    ql(&mut diagonal, &mut beside, &mut vectors);
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&i, &j| diagonal[i].total_cmp(&diagonal[j]));
    let sorted = |i: &usize| vectors.get(i * n..(i + 1) * n).unwrap_or_default();
    Eigen {
        values: order.iter().map(|&i| diagonal[i]).collect(),
        vectors: order.iter().flat_map(sorted).copied().collect(),
    }
}

fn identity(n: usize) -> Vec<f64> {
    let mut matrix = vec![0.0; n * n];
    (0..n).for_each(|i| matrix[i * n + i] = 1.0);
    matrix
}

/// Reflects `a` to tridiagonal form and returns its diagonal and the entries beside it; the rows of `vectors` become the
/// basis in which it has that form.
fn tridiagonal(a: &mut [f64], n: usize, vectors: &mut [f64]) -> (Vec<f64>, Vec<f64>) {
    let mut beside = vec![0.0; n];
    let mut v = vec![0.0; n];
    let mut p = vec![0.0; n];
    for k in 0..n.saturating_sub(1) {
        // v reflects column k below the diagonal onto its first entry.
        for i in k + 1..n {
            v[i] = a[i * n + k];
        }
        let length = v[k + 1..].iter().map(|x| x * x).sum::<f64>().sqrt();
        if length == 0.0 || k + 2 == n {
            beside[k] = v[k + 1];
            continue;
        }
        let alpha = -length.copysign(v[k + 1]);
        beside[k] = alpha;
        v[k + 1] -= alpha;
        let beta = 2.0 / v[k + 1..].iter().map(|x| x * x).sum::<f64>();
        // A ← A − v·wᵀ − w·vᵀ with w = p − (β/2 · v·p) · v and p = β · A·v.
        for i in k + 1..n {
            let products = a[i * n + k + 1..][..n - k - 1].iter().zip(&v[k + 1..]);
            p[i] = beta * products.map(|(x, y)| x * y).sum::<f64>();
        }
        let half = 0.5 * beta * dot(&v[k + 1..], &p[k + 1..]);
        for i in k + 1..n {
            p[i] -= half * v[i];
        }
        for i in k + 1..n {
            let (vi, pi) = (v[i], p[i]);
            let row = a[i * n + k + 1..][..n - k - 1].iter_mut();
            for ((x, vj), pj) in row.zip(&v[k + 1..]).zip(&p[k + 1..]) {
                *x -= vi * pj + pi * vj;
            }
        }
        if !vectors.is_empty() {
            let mut projection = vec![0.0; n];
            for i in k + 1..n {
                let row = &vectors[i * n..][..n];
                projection
                    .iter_mut()
                    .zip(row)
                    .for_each(|(s, x)| *s += v[i] * x);
            }
            for i in k + 1..n {
                let row = vectors[i * n..][..n].iter_mut();
                row.zip(&projection)
                    .for_each(|(x, s)| *x -= beta * v[i] * s);
            }
        }
    }
    ((0..n).map(|i| a[i * n + i]).collect(), beside)
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

/// Makes the tridiagonal matrix diagonal, turning the rows of `vectors` along.
fn ql(d: &mut [f64], e: &mut [f64], vectors: &mut [f64]) {
    let n = d.len();
    let size = (0..n).fold(0.0, |size: f64, i| size.max(d[i].abs() + e[i].abs()));
    // What lies beside the diagonal below this is lost in the rounding of the matrix's entries anyway.
    let negligible = f64::EPSILON * size;
    for l in 0..n {
        for _ in 0..MAX_STEPS {
            let Some(m) = (l..n).find(|&m| m + 1 == n || e[m].abs() <= negligible) else {
                break;
            };
            if m == l {
                break;
            }
            let half = (d[l + 1] - d[l]) / (2.0 * e[l]);
            let mut g = d[m] - d[l] + e[l] / (half + half.hypot(1.0).copysign(half));
            let (mut s, mut c, mut shift) = (1.0, 1.0, 0.0);
            let mut split = false;
            for i in (l..m).rev() {
                let (f, b) = (s * e[i], c * e[i]);
                let r = f.hypot(g);
                e[i + 1] = r;
                if r == 0.0 {
                    d[i + 1] -= shift;
                    e[m] = 0.0;
                    split = true;
                    break;
                }
                (s, c) = (f / r, g / r);
                g = d[i + 1] - shift;
                let r = (d[i] - g) * s + 2.0 * c * b;
                shift = s * r;
                d[i + 1] = g + shift;
                g = c * r - b;
                if !vectors.is_empty() {
                    let (upper, lower) = vectors[i * n..].split_at_mut(n);
                    for (x, y) in upper.iter_mut().zip(&mut lower[..n]) {
                        (*x, *y) = (c * *x - s * *y, s * *x + c * *y);
                    }
                }
            }
            if !split {
                d[l] -= shift;
                e[l] = g;
                e[m] = 0.0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Entries without structure, symmetric.
    fn matrix(n: usize) -> Vec<f64> {
        let mut a = vec![0.0; n * n];
        for i in 0..n {
            for j in 0..=i {
                let value = ((i * 31 + j * 17) as f64 * 0.73).sin();
                a[i * n + j] = value;
                a[j * n + i] = value;
            }
        }
        a
    }

    #[test]
    fn vectors_and_values_give_the_matrix_back() {
        for n in [1, 2, 3, 4, 17, 60] {
            let a = matrix(n);
            let Eigen { values, vectors } = eigen(a.clone(), n, Vectors::Yes);
            assert!(values.windows(2).all(|pair| pair[0] <= pair[1]));
            for i in 0..n {
                for j in 0..n {
                    let terms = (0..n).map(|k| values[k] * vectors[k * n + i] * vectors[k * n + j]);
                    let (back, expected) = (terms.sum::<f64>(), a[i * n + j]);
                    assert!(
                        (back - expected).abs() < 1e-13 * n as f64,
                        "{n}: {back}, {expected}"
                    );
                }
            }
            let alone = eigen(a, n, Vectors::No).values;
            assert!(
                alone
                    .iter()
                    .zip(&values)
                    .all(|(a, b)| (a - b).abs() < 1e-13)
            );
        }
    }

    #[test]
    fn by_hand() {
        let values = |a: &[f64], n| eigen(a.to_vec(), n, Vectors::No).values;
        assert_eq!(values(&[0.0; 9], 3), [0.0; 3]);
        assert_eq!(values(&[], 0), [0.0; 0]);
        let [low, high] = values(&[2.0, 1.0, 1.0, 2.0], 2)[..] else {
            panic!("two values")
        };
        assert!((low - 1.0).abs() < 1e-15 && (high - 3.0).abs() < 1e-15);
        // The path of three points: 0 and ±√2.
        let path = values(&[0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0], 3);
        let root = 2.0_f64.sqrt();
        for (value, expected) in path.iter().zip([-root, 0.0, root]) {
            assert!((value - expected).abs() < 1e-15, "{path:?}");
        }
    }

    #[test]
    fn a_matrix_of_nan_ends() {
        assert_eq!(eigen(vec![f64::NAN; 16], 4, Vectors::Yes).values.len(), 4);
    }
}
