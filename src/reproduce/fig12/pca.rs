//! Principal components of many wide columns by randomised subspace iteration.

use super::perceptron::Columns;
use crate::rng::{Philox, Stream};
use nalgebra::SymmetricEigen;

/// Directions carried beside those asked for: they make the last ones converge.
const SPARE: usize = 16;
/// Passes over the data; the error of a component falls by its share of the variance squared, each time.
const PASSES: usize = 5;

/// The first principal components of some examples.
#[derive(Clone, Debug)]
pub struct Pca {
    mean: Columns,
    components: Columns,
}

impl Pca {
    /// The first `k` components of the examples `x` `[D, n]`, k at most D and n. The start is a function
    /// of the seed.
    pub fn new(x: &Columns, k: usize, seed: u64) -> Self {
        let (d, n) = x.shape();
        let k = k.min(d).min(n);
        let mean = Columns::from_column_slice(d, 1, x.column_mean().as_slice());
        let x = centred(x, &mean);
        let transposed = x.transpose();
        let width = (k + SPARE).min(d).min(n);
        let normal = |i: usize, j: usize| {
            let philox = Philox::new(seed, Stream::Init, j as u64);
            philox.normals4((i / 4) as u32)[i % 4]
        };
        let mut basis = Columns::from_fn(d, width, normal).qr().q();
        for _ in 0..PASSES {
            basis = (&x * (&transposed * &basis)).qr().q();
        }
        // Inside the subspace the components are the eigenvectors of a small matrix.
        let scores = &transposed * &basis;
        let eigen = SymmetricEigen::new(scores.transpose() * &scores);
        let mut order: Vec<usize> = (0..width).collect();
        order.sort_by(|&a, &b| eigen.eigenvalues[b].total_cmp(&eigen.eigenvalues[a]));
        let components = basis * eigen.eigenvectors.select_columns(&order[..k]);
        Self { mean, components }
    }

    /// Scores `[k, n]` of the examples `x` `[D, n]`.
    pub fn scores(&self, x: &Columns) -> Columns {
        self.components.transpose() * centred(x, &self.mean)
    }
}

fn centred(x: &Columns, mean: &Columns) -> Columns {
    let mut x = x.clone();
    for mut column in x.column_iter_mut() {
        column -= mean.column(0);
    }
    x
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against the eigenvectors of the whole covariance matrix, by another algorithm.
    #[test]
    fn components_are_the_covariance_s_eigenvectors() {
        let (d, n, k) = (40, 300, 6);
        let x = Columns::from_fn(d, n, |i, j| {
            let philox = Philox::new(3, Stream::Reproduction, j as u64);
            let [a, b, c, noise] = philox.normals4(i as u32);
            let shared = Philox::new(4, Stream::Reproduction, j as u64).normals4(0);
            let tilt = |f: f64| (f * i as f64).cos();
            let parts = 5.0 * shared[0] * tilt(0.2) + 3.0 * shared[1] * tilt(0.5);
            parts + 2.0 * shared[2] * tilt(0.9) + 0.3 * (a + b + c + noise) + 7.0
        });
        let pca = Pca::new(&x, k, 1);
        let centred = centred(&x, &pca.mean);
        let eigen = SymmetricEigen::new(&centred * centred.transpose());
        let mut order: Vec<usize> = (0..d).collect();
        order.sort_by(|&a, &b| eigen.eigenvalues[b].total_cmp(&eigen.eigenvalues[a]));
        for (c, &o) in order[..3].iter().enumerate() {
            let along = pca.components.column(c).dot(&eigen.eigenvectors.column(o));
            assert!((along.abs() - 1.0).abs() < 1e-6, "component {c}: {along}");
        }
        let scores = pca.scores(&x);
        for (c, &o) in order[..3].iter().enumerate() {
            let got = scores.row(c).norm_squared();
            let want = eigen.eigenvalues[o];
            assert!((got / want - 1.0).abs() < 1e-8, "{got} {want}");
        }
    }
}
