//! Fréchet distance between two sets of features: of the Gaussians with their means and covariances,
//!
//! ```text
//! d^2 = |m1 - m2|^2 + tr(C1 + C2 - 2 (C1^1/2 C2 C1^1/2)^1/2)
//! ```
//!
//! What it means depends on the features. Those here are of our own attribute network, so its numbers
//! are no FID and cannot be compared with any.

/// Rows of `dim` features, flattened.
#[derive(Clone, Copy, Debug)]
pub struct Features<'a> {
    /// rows x dim values.
    pub values: &'a [f64],
    /// Features of a row.
    pub dim: usize,
}

impl Features<'_> {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.values.len() / self.dim.max(1)
    }

    /// Row `i`.
    pub fn row(&self, i: usize) -> &[f64] {
        &self.values[i * self.dim..(i + 1) * self.dim]
    }
}

/// Mean and covariance (divided by rows - 1) of features.
#[derive(Clone, Debug)]
pub struct Gaussian {
    mean: Vec<f64>,
    covariance: Matrix,
}

impl Gaussian {
    /// Of the rows `rows` of `features`; a row may be named again and again.
    pub fn of(features: Features<'_>, rows: &[usize]) -> Self {
        let (dim, n) = (features.dim, rows.len() as f64);
        let mut mean = vec![0.0; dim];
        for &r in rows {
            for (m, x) in mean.iter_mut().zip(features.row(r)) {
                *m += x / n;
            }
        }
        let mut covariance = Matrix::zero(dim);
        let mut off = vec![0.0; dim];
        for &r in rows {
            for ((o, x), m) in off.iter_mut().zip(features.row(r)).zip(&mean) {
                *o = x - m;
            }
            for (i, a) in off.iter().enumerate() {
                let lower = &mut covariance.values[i * dim..=i * dim + i];
                for (c, b) in lower.iter_mut().zip(&off) {
                    *c += a * b / (n - 1.0);
                }
            }
        }
        for i in 0..dim {
            for j in 0..i {
                covariance.values[j * dim + i] = covariance.values[i * dim + j];
            }
        }
        Self { mean, covariance }
    }

    /// Of all rows.
    pub fn of_all(features: Features<'_>) -> Self {
        Self::of(features, &(0..features.rows()).collect::<Vec<_>>())
    }
}

/// A Gaussian that others are compared with.
#[derive(Clone, Debug)]
pub struct Reference {
    gaussian: Gaussian,
    root: Matrix,
}

impl Reference {
    /// Prepares the root of its covariance.
    pub fn new(gaussian: Gaussian) -> Self {
        let root = gaussian.covariance.root();
        Self { gaussian, root }
    }

    /// The squared Fréchet distance to `other`, 0 or above.
    pub fn distance(&self, other: &Gaussian) -> f64 {
        let own = &self.gaussian;
        let means = own.mean.iter().zip(&other.mean);
        let means: f64 = means.map(|(a, b)| (a - b).powi(2)).sum();
        let between = self.root.times(&other.covariance).times(&self.root);
        let (values, _) = between.eigen();
        // A root makes 1e-8 of a rounding error of 1e-16: what is zero but for rounding is zero.
        let largest = values.iter().copied().fold(0.0, f64::max);
        let noise = values.len() as f64 * f64::EPSILON * largest;
        let overlap: f64 = values
            .iter()
            .filter(|&&v| v > noise)
            .map(|v| v.sqrt())
            .sum();
        (means + own.covariance.trace() + other.covariance.trace() - 2.0 * overlap).max(0.0)
    }
}

/// A square matrix, row by row.
#[derive(Clone, Debug, PartialEq)]
struct Matrix {
    n: usize,
    values: Vec<f64>,
}

/// Sweeps of Jacobi rotations at the most; they converge quadratically, ten are plenty.
const SWEEPS: usize = 50;

impl Matrix {
    fn zero(n: usize) -> Self {
        Self {
            n,
            values: vec![0.0; n * n],
        }
    }

    fn trace(&self) -> f64 {
        (0..self.n).map(|i| self.values[i * self.n + i]).sum()
    }

    fn times(&self, other: &Self) -> Self {
        let n = self.n;
        let mut out = Self::zero(n);
        for (row, out) in self.values.chunks(n).zip(out.values.chunks_mut(n)) {
            for (a, b) in row.iter().zip(other.values.chunks(n)) {
                for (o, b) in out.iter_mut().zip(b) {
                    *o += a * b;
                }
            }
        }
        out
    }

    /// The symmetric root of a symmetric matrix without negative eigenvalues: V sqrt(D) V^T.
    fn root(&self) -> Self {
        let n = self.n;
        let (values, vectors) = self.eigen();
        let mut scaled = vectors.clone();
        for (value, row) in values.iter().zip(scaled.values.chunks_mut(n)) {
            let root = value.max(0.0).sqrt();
            row.iter_mut().for_each(|v| *v *= root);
        }
        let mut transposed = Self::zero(n);
        for i in 0..n {
            for j in 0..n {
                transposed.values[j * n + i] = vectors.values[i * n + j];
            }
        }
        transposed.times(&scaled)
    }

    /// Eigenvalues of a symmetric matrix, and its eigenvectors as rows: cyclic Jacobi rotations.
    fn eigen(&self) -> (Vec<f64>, Self) {
        let n = self.n;
        let mut a = self.clone();
        let mut vectors = Self::zero(n);
        for i in 0..n {
            vectors.values[i * n + i] = 1.0;
        }
        let scale: f64 = self.values.iter().map(|v| v * v).sum();
        for _ in 0..SWEEPS {
            let off: f64 = (0..n)
                .flat_map(|i| (0..i).map(move |j| (i, j)))
                .map(|(i, j)| a.values[i * n + j].powi(2))
                .sum();
            if off <= 1e-26 * scale {
                break;
            }
            for p in 0..n {
                for q in p + 1..n {
                    a.rotate(p, q, &mut vectors);
                }
            }
        }
        ((0..n).map(|i| a.values[i * n + i]).collect(), vectors)
    }

    /// The rotation in the plane (p, q) that makes element (p, q) zero.
    fn rotate(&mut self, p: usize, q: usize, vectors: &mut Self) {
        let n = self.n;
        let off = self.values[p * n + q];
        if off == 0.0 {
            return;
        }
        let half = (self.values[q * n + q] - self.values[p * n + p]) / (2.0 * off);
        let t = half.signum() / (half.abs() + half.hypot(1.0));
        let c = 1.0 / t.hypot(1.0);
        let s = t * c;
        let turn = |x: f64, y: f64| (c * x - s * y, s * x + c * y);
        for k in 0..n {
            let (x, y) = (self.values[k * n + p], self.values[k * n + q]);
            (self.values[k * n + p], self.values[k * n + q]) = turn(x, y);
        }
        for k in 0..n {
            let (x, y) = (self.values[p * n + k], self.values[q * n + k]);
            (self.values[p * n + k], self.values[q * n + k]) = turn(x, y);
            let (x, y) = (vectors.values[p * n + k], vectors.values[q * n + k]);
            (vectors.values[p * n + k], vectors.values[q * n + k]) = turn(x, y);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same formula as in the script that made the expected numbers.
    fn features(rows: usize, a: f64) -> Vec<f64> {
        let value = |e: usize| {
            let (i, j) = ((e / 6) as f64, (e % 6) as f64);
            (i * 1.3 * a + j * j * 0.7).sin() + 0.1 * j * (i * j * 0.37 + a).cos()
        };
        (0..rows * 6).map(value).collect()
    }

    fn gaussian(rows: usize, a: f64) -> Gaussian {
        let values = features(rows, a);
        Gaussian::of_all(Features {
            values: &values,
            dim: 6,
        })
    }

    /// Against mpmath with 50 digits; the second set has fewer rows than features. (scipy's sqrtm is off
    /// there by 5e-8.)
    #[test]
    fn distances_are_those_of_fifty_digits() {
        let reference = Reference::new(gaussian(40, 1.0));
        for (rows, expected) in [(30, 0.016_836_872_259_793_962), (4, 0.367_014_208_604_953)] {
            let got = reference.distance(&gaussian(rows, 1.7));
            assert!(
                (got / expected - 1.0).abs() < 1e-9,
                "{rows} rows: {got}, expected {expected}"
            );
        }
        assert!(reference.distance(&gaussian(40, 1.0)) < 1e-12);
    }

    /// Against scipy.linalg.sqrtm of the product of the covariances, the means apart too.
    #[test]
    fn distances_are_those_of_scipy() {
        let moved: Vec<f64> = features(50, 0.6).iter().map(|x| x + 0.25).collect();
        let moved = Gaussian::of_all(Features {
            values: &moved,
            dim: 6,
        });
        let got = Reference::new(gaussian(40, 1.0)).distance(&moved);
        assert!((got / 0.390_522_026_596_688_7 - 1.0).abs() < 1e-9, "{got}");
    }

    #[test]
    fn diagonal_gaussians_have_a_closed_form() {
        let of = |mean: [f64; 3], deviation: [f64; 3]| {
            let mut covariance = Matrix::zero(3);
            for (i, d) in deviation.iter().enumerate() {
                covariance.values[i * 3 + i] = d * d;
            }
            Gaussian {
                mean: mean.to_vec(),
                covariance,
            }
        };
        let a = of([0.0, 1.0, 2.0], [1.0, 0.5, 0.0]);
        let b = of([1.0, 1.0, 0.0], [3.0, 0.25, 0.0]);
        let expected = 1.0 + 4.0 + 2.0_f64.powi(2) + 0.25_f64.powi(2);
        assert!((Reference::new(a).distance(&b) - expected).abs() < 1e-12);
    }

    #[test]
    fn eigenvectors_are_orthonormal_and_make_the_matrix() {
        let covariance = gaussian(40, 1.0).covariance;
        let (values, vectors) = covariance.eigen();
        for i in 0..6 {
            for j in 0..6 {
                let dot: f64 = (0..6)
                    .map(|k| vectors.values[i * 6 + k] * vectors.values[j * 6 + k])
                    .sum();
                assert!((dot - f64::from(u8::from(i == j))).abs() < 1e-13);
                let back: f64 = (0..6)
                    .map(|k| values[k] * vectors.values[k * 6 + i] * vectors.values[k * 6 + j])
                    .sum();
                assert!((back - covariance.values[i * 6 + j]).abs() < 1e-13);
            }
        }
        let root = covariance.root();
        let square = root.times(&root);
        for (a, b) in square.values.iter().zip(&covariance.values) {
            assert!((a - b).abs() < 1e-13);
        }
    }
}
