//! Eq. (15): W1 through the inverse of the NGMG kernel, and where it fails.
//!
//! The paper writes the signed distance of Eq. (5)-(6) as `|A M^-1 (M d)|`: an identity as long as M
//! can be inverted. With a zero diagonal M is singular at isolated sigma (n = 4: sigma/h = 1.583275;
//! n = 5: 2.474691; n = 6: 1.161566, 3.453122; n = 8: 1.013561, 2.008898, 5.666514). Nothing is built
//! on it; it is here to be tested.

use super::mixture::MixtureError;
use super::ngmg::{Kernel, NgmgError, Norm};

/// Largest kernel: the work grows as n^3.
const MAX_COMPONENTS: usize = 512;
/// Smallest ratio of eigenvalues at which the inverse keeps half of the digits.
const SINGULAR: f64 = 1e-6;
/// Sweeps of Jacobi rotations; ten are plenty for any symmetric matrix.
const SWEEPS: usize = 60;

/// Eigenvalues `[n]` of the kernel, unordered, by Jacobi rotations. Errors: a row-normalised kernel
/// (not symmetric), more than 512 components.
pub fn eigenvalues(kernel: &Kernel) -> Result<Vec<f64>, NgmgError> {
    let n = kernel.len();
    if n > MAX_COMPONENTS || kernel.spec().norm == Norm::Row {
        let (entries, limit) = (n * n, MAX_COMPONENTS * MAX_COMPONENTS);
        return Err(NgmgError::TooLarge { entries, limit });
    }
    let mut a = kernel.matrix()?;
    for _ in 0..SWEEPS {
        let off = |(i, v): (usize, &f64)| if i / n == i % n { 0.0 } else { v * v };
        let (off, all): (f64, f64) = (
            a.iter().enumerate().map(off).sum(),
            a.iter().map(|v| v * v).sum(),
        );
        if off <= 1e-34 * all {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                rotate(&mut a, n, p, q);
            }
        }
    }
    Ok((0..n).map(|i| a[i * n + i]).collect())
}

/// Makes `a[p]``[q]` zero.
fn rotate(a: &mut [f64], n: usize, p: usize, q: usize) {
    let apq = a[p * n + q];
    if apq == 0.0 {
        return;
    }
    let theta = (a[q * n + q] - a[p * n + p]) / (2.0 * apq);
    let t = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
    let c = 1.0 / (t * t + 1.0).sqrt();
    let s = t * c;
    for k in 0..n {
        let (x, y) = (a[k * n + p], a[k * n + q]);
        (a[k * n + p], a[k * n + q]) = (c * x - s * y, s * x + c * y);
    }
    for k in 0..n {
        let (x, y) = (a[p * n + k], a[q * n + k]);
        (a[p * n + k], a[q * n + k]) = (c * x - s * y, s * x + c * y);
    }
}

/// `|sum_n A_n (M^-1 M d)_n|` with A_n the integrals of the component distribution functions
/// ([`super::wasserstein::cdf_integrals`]) and d = pi1 - pi2: equal to `w1_signed` on the same support.
/// Errors: [`NgmgError::Singular`] at and near the sigma above, other lengths, as [`eigenvalues`].
pub fn w1_by_inverse(kernel: &Kernel, integrals: &[f64], d: &[f64]) -> Result<f64, NgmgError> {
    let n = kernel.len();
    if integrals.len() != n {
        let (found, what) = (integrals.len(), "A");
        return Err(MixtureError::Length {
            what,
            found,
            expected: n,
        }
        .into());
    }
    let sizes: Vec<f64> = eigenvalues(kernel)?.iter().map(|v| v.abs()).collect();
    let smallest = sizes.iter().copied().fold(f64::INFINITY, f64::min);
    let smallest = smallest / sizes.iter().copied().fold(0.0, f64::max);
    let sigma = kernel.spec().sigma;
    let singular = NgmgError::Singular { n, sigma, smallest };
    if smallest.is_nan() || smallest < SINGULAR {
        return Err(singular);
    }
    let mut pulled = vec![0.0; n];
    kernel.apply(d, &mut pulled)?;
    let solved = solve(kernel.matrix()?, pulled).ok_or(singular)?;
    let terms = solved.iter().zip(integrals);
    Ok(terms.map(|(d, a)| d * a).sum::<f64>().abs())
}

/// Gaussian elimination with row exchanges; `None` where a pivot is zero.
fn solve(mut a: Vec<f64>, mut b: Vec<f64>) -> Option<Vec<f64>> {
    let n = b.len();
    for column in 0..n {
        let size = |row: &usize| a[row * n + column].abs();
        let pivot = (column..n).max_by(|x, y| size(x).total_cmp(&size(y)))?;
        if a[pivot * n + column] == 0.0 {
            return None;
        }
        b.swap(column, pivot);
        for k in 0..n {
            a.swap(column * n + k, pivot * n + k);
        }
        for row in column + 1..n {
            let factor = a[row * n + column] / a[column * n + column];
            for k in column..n {
                a[row * n + k] -= factor * a[column * n + k];
            }
            b[row] -= factor * b[column];
        }
    }
    for row in (0..n).rev() {
        let known: f64 = (row + 1..n).map(|k| a[row * n + k] * b[k]).sum();
        b[row] = (b[row] - known) / a[row * n + row];
    }
    Some(b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gmm::distance::Pair;
    use crate::gmm::ngmg::KernelSpec;
    use crate::gmm::wasserstein::cdf_integrals;

    /// The sigma/h of section 4.1.
    const SINGULAR_AT: [(usize, &[f64]); 4] = [
        (4, &[1.583275]),
        (5, &[2.474691]),
        (6, &[1.161566, 3.453122]),
        (8, &[1.013561, 2.008898, 5.666514]),
    ];

    fn kernel(n: usize, sigma: f64) -> Kernel {
        let spec = KernelSpec {
            sigma,
            ..KernelSpec::default()
        };
        Kernel::grid(n, spec).unwrap()
    }

    fn weights(n: usize, seed: f64) -> Vec<f64> {
        let raw = (0..n).map(|i| 1.1 + (seed * (i + 1) as f64).sin());
        let raw: Vec<f64> = raw.collect();
        let sum: f64 = raw.iter().sum();
        raw.iter().map(|p| p / sum).collect()
    }

    #[test]
    fn the_identity_holds_away_from_singular_sigma() {
        for n in [2, 4, 5, 6, 8] {
            let mu: Vec<f64> = (0..n).map(|i| i as f64).collect();
            let (p, q) = (weights(n, 0.9), weights(n, 2.1));
            let pair = Pair::new(&p, &q, &mu, &vec![1.0; n]).unwrap();
            let support = [mu[0] - 1.0, mu[n - 1] + 0.5];
            let integrals = cdf_integrals(&mu, &vec![1.0; n], support).unwrap();
            let d: Vec<f64> = p.iter().zip(&q).map(|(p, q)| p - q).collect();
            let want = pair.w1_signed_on(support).unwrap();
            for sigma in [0.5, 0.8, 1.3] {
                let found = w1_by_inverse(&kernel(n, sigma), &integrals, &d).unwrap();
                assert!(
                    (found - want).abs() < 1e-9,
                    "n {n} sigma {sigma}: {found} {want}"
                );
            }
        }
    }

    #[test]
    fn singular_sigma_is_named() {
        for (n, sigmas) in SINGULAR_AT {
            for &sigma in sigmas {
                let d = vec![0.0; n];
                let error = w1_by_inverse(&kernel(n, sigma), &d, &d).unwrap_err();
                let text = error.to_string();
                assert!(matches!(error, NgmgError::Singular { .. }), "{text}");
                assert!(
                    text.contains(&format!("sigma {sigma} is singular")),
                    "{text}"
                );
            }
        }
    }

    #[test]
    fn eigenvalues_have_the_trace_and_the_norm() {
        for n in [2, 7, 30] {
            let kernel = kernel(n, 1.7);
            let values = eigenvalues(&kernel).unwrap();
            let matrix = kernel.matrix().unwrap();
            let square = |v: &[f64]| v.iter().map(|v| v * v).sum::<f64>();
            assert!(values.iter().sum::<f64>().abs() < 1e-13);
            assert!((square(&values) / square(&matrix) - 1.0).abs() < 1e-13);
        }
        let row = KernelSpec {
            norm: Norm::Row,
            ..KernelSpec::default()
        };
        assert!(eigenvalues(&Kernel::grid(4, row).unwrap()).is_err());
        assert!(w1_by_inverse(&kernel(4, 1.0), &[0.0; 3], &[0.0; 4]).is_err());
    }
}
