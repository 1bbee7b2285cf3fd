//! Gaussian mixtures with diagonal covariance: density, distribution function, moments, sampling.
//!
//! Paper section 2.1, Eq. (1): `g(x) = sum_n pi_n prod_d phi(x_d; mu_nd, s_nd)`, where
//! `phi(x; mu, s) = exp(-((x - mu)/s)^2 / 2) / (s sqrt(2 pi))`, `pi_n >= 0` and `sum pi_n = 1`.

use std::ops::Range;

use rand::{Rng, RngExt};
use rand_distr::StandardNormal;
use rayon::prelude::*;

use super::normal::{self, LN_SQRT_TAU, UNDERFLOW};
use super::vector;

/// Weights may miss a sum of one by this much; they are then divided by their sum.
pub const WEIGHT_TOLERANCE: f64 = 1e-6;

/// A sum of exponentials above which what underflowed beside it is nothing.
const ENOUGH: f64 = 1e-290;
/// Points evaluated by one task.
const CHUNK: usize = 1024;

/// What is wrong with a mixture or with the points given to it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum MixtureError {
    /// No components.
    #[error("mixture: no components; give at least one weight, mean and standard deviation")]
    Empty,
    /// No dimensions.
    #[error("mixture: 0 dimensions; expected at least 1")]
    NoDimensions,
    /// A list of the wrong length.
    #[error("mixture: {what} has {found} numbers; expected {expected}")]
    Length {
        /// Which list.
        what: &'static str,
        /// Its length.
        found: usize,
        /// The length it should have.
        expected: usize,
    },
    /// NaN or an infinity.
    #[error("mixture: {what}[{index}] is {value}; expected a finite number")]
    NotFinite {
        /// Which list.
        what: &'static str,
        /// Where in it.
        index: usize,
        /// The value given.
        value: f64,
    },
    /// A standard deviation that is not positive.
    #[error("mixture: sigma[{index}] is {sigma}; expected a finite number above 0")]
    Sigma {
        /// Where.
        index: usize,
        /// The value given.
        sigma: f64,
    },
    /// A negative weight.
    #[error("mixture: {what}[{index}] is {value}; expected 0 or above")]
    NegativeWeight {
        /// Which list.
        what: &'static str,
        /// Where in it.
        index: usize,
        /// The value given.
        value: f64,
    },
    /// Weights that do not add up to one.
    #[error("mixture: {what} adds up to {sum}; expected 1 within 1e-6: divide each by the sum")]
    WeightSum {
        /// Which list.
        what: &'static str,
        /// Its sum.
        sum: f64,
    },
}

/// `values` if all are finite.
pub(crate) fn check_finite(what: &'static str, values: &[f64]) -> Result<(), MixtureError> {
    match values.iter().position(|v| !v.is_finite()) {
        None => Ok(()),
        Some(index) => Err(MixtureError::NotFinite {
            what,
            index,
            value: values[index],
        }),
    }
}

/// The weights divided by their sum. Errors: none at all, NaN, negative, a sum off one by more
/// than [`WEIGHT_TOLERANCE`].
pub(crate) fn check_weights(what: &'static str, pi: &[f64]) -> Result<Vec<f64>, MixtureError> {
    if pi.is_empty() {
        return Err(MixtureError::Empty);
    }
    check_finite(what, pi)?;
    if let Some(index) = pi.iter().position(|&p| p < 0.0) {
        return Err(MixtureError::NegativeWeight {
            what,
            index,
            value: pi[index],
        });
    }
    let sum: f64 = pi.iter().sum();
    if (sum - 1.0).abs() > WEIGHT_TOLERANCE {
        return Err(MixtureError::WeightSum { what, sum });
    }
    Ok(pi.iter().map(|p| p / sum).collect())
}

/// A mixture of N Gaussians with diagonal covariance in D dimensions.
#[derive(Debug, Clone, PartialEq)]
pub struct Mixture {
    dims: usize,
    pi: Vec<f64>,
    mu: Vec<f64>,
    sigma: Vec<f64>,
    cumulative: Vec<f64>,
    /// The one standard deviation of a 1-D mixture with sorted means: far components can be skipped.
    common: Option<f64>,
}

impl Mixture {
    /// In one dimension: weights `[N]`, means `[N]`, standard deviations `[N]`.
    ///
    /// Errors: no components, lists of different lengths, NaN or infinities, `sigma <= 0`, negative
    /// weights, a sum of weights off one by more than 1e-6.
    pub fn new(pi: &[f64], mu: &[f64], sigma: &[f64]) -> Result<Self, MixtureError> {
        Self::diagonal(1, pi, mu, sigma)
    }

    /// In one dimension with one standard deviation for all components. Errors as [`Self::new`].
    pub fn common(pi: &[f64], mu: &[f64], sigma: f64) -> Result<Self, MixtureError> {
        Self::new(pi, mu, &vec![sigma; mu.len()])
    }

    /// In D dimensions: weights `[N]`, means `[N, D]`, standard deviations `[N, D]`. Errors as
    /// [`Self::new`], and `dims` of 0.
    pub fn diagonal(
        dims: usize,
        pi: &[f64],
        mu: &[f64],
        sigma: &[f64],
    ) -> Result<Self, MixtureError> {
        if dims == 0 {
            return Err(MixtureError::NoDimensions);
        }
        let pi = check_weights("pi", pi)?;
        let expected = pi.len() * dims;
        for (what, found) in [("mu", mu.len()), ("sigma", sigma.len())] {
            if found != expected {
                return Err(MixtureError::Length {
                    what,
                    found,
                    expected,
                });
            }
        }
        check_finite("mu", mu)?;
        if let Some(index) = sigma.iter().position(|&s| !(s > 0.0 && s.is_finite())) {
            let sigma = sigma[index];
            return Err(MixtureError::Sigma { index, sigma });
        }
        let sorted = mu.windows(2).all(|m| m[0] <= m[1]);
        let same = sigma.iter().all(|&s| s == sigma[0]);
        let mut sum = 0.0;
        let cumulative = pi.iter().map(|p| {
            sum += p;
            sum
        });
        Ok(Self {
            dims,
            cumulative: cumulative.collect(),
            pi,
            mu: mu.to_vec(),
            sigma: sigma.to_vec(),
            common: (dims == 1 && sorted && same).then(|| sigma[0]),
        })
    }

    /// Number of dimensions D.
    pub fn dims(&self) -> usize {
        self.dims
    }

    /// Weights `[N]`, which add up to one.
    pub fn pi(&self) -> &[f64] {
        &self.pi
    }

    /// Means `[N, D]`.
    pub fn mu(&self) -> &[f64] {
        &self.mu
    }

    /// Standard deviations `[N, D]`.
    pub fn sigma(&self) -> &[f64] {
        &self.sigma
    }

    /// Mean `[D]`: `sum pi mu`.
    pub fn mean(&self) -> Vec<f64> {
        let axis = |d: usize| self.components().map(move |(p, mu, _)| p * mu[d]).sum();
        (0..self.dims).map(axis).collect()
    }

    /// Variance `[D]` of each axis: `sum pi (mu - mean)^2 + sum pi s^2`.
    pub fn variance(&self) -> Vec<f64> {
        let axis = |(d, mean): (usize, f64)| {
            let terms = self.components();
            let terms = terms.map(move |(p, mu, s)| p * ((mu[d] - mean).powi(2) + s[d] * s[d]));
            terms.sum()
        };
        self.mean().into_iter().enumerate().map(axis).collect()
    }

    /// g at the points `[M, D]`; `[M]`. Errors: a length that is no multiple of D, NaN, infinities.
    pub fn density(&self, points: &[f64]) -> Result<Vec<f64>, MixtureError> {
        self.at_points(points, |x| self.log_density_at(x).exp())
    }

    /// ln g at the points `[M, D]` by log-sum-exp; `[M]`. Finite wherever (x - mu)^2 / s^2 is.
    /// Errors as [`Self::density`].
    pub fn log_density(&self, points: &[f64]) -> Result<Vec<f64>, MixtureError> {
        self.at_points(points, |x| self.log_density_at(x))
    }

    /// G at the points `[M, D]`: `sum pi_n prod_d Phi((x_d - mu_nd)/s_nd)`; `[M]`. Errors as
    /// [`Self::density`].
    pub fn cdf(&self, points: &[f64]) -> Result<Vec<f64>, MixtureError> {
        self.at_points(points, |x| {
            let terms = self.components().map(|(p, mu, s)| {
                let axes = x.iter().zip(mu).zip(s);
                p * axes
                    .map(|((x, m), s)| normal::cdf((x - m) / s))
                    .product::<f64>()
            });
            terms.sum()
        })
    }

    /// The mean of ln g over the points `[M, D]`, summed in a fixed order. Errors as
    /// [`Self::density`], and no points.
    pub fn mean_log_likelihood(&self, points: &[f64]) -> Result<f64, MixtureError> {
        let logs = self.log_density(points)?;
        if logs.is_empty() {
            return Err(MixtureError::Length {
                what: "x",
                found: 0,
                expected: self.dims,
            });
        }
        let sums: Vec<f64> = logs.chunks(CHUNK).map(|c| c.iter().sum()).collect();
        Ok(sums.iter().sum::<f64>() / logs.len() as f64)
    }

    /// `count` points `[count, D]`: a component by its weight, then mu + s z for each axis. Any `rand`
    /// generator serves, [`crate::rng::Philox::sequence`] among them.
    pub fn sample<R: Rng + ?Sized>(&self, rng: &mut R, count: usize) -> Vec<f64> {
        let mut out = Vec::with_capacity(count * self.dims);
        for _ in 0..count {
            let u: f64 = rng.random();
            // Rounding may leave the last cumulative weight below u; a weight of 0 is never drawn.
            let n = self.cumulative.partition_point(|&c| c <= u);
            let n = match self.pi.get(n) {
                Some(_) => n,
                None => self.pi.iter().rposition(|&p| p > 0.0).unwrap_or(0),
            };
            let axes = n * self.dims..(n + 1) * self.dims;
            for (mu, s) in self.mu[axes.clone()].iter().zip(&self.sigma[axes]) {
                let z: f64 = rng.sample(StandardNormal);
                out.push(mu + s * z);
            }
        }
        out
    }

    /// ln g at one point of D finite coordinates.
    pub(crate) fn log_density_at(&self, x: &[f64]) -> f64 {
        if let Some(sigma) = self.common
            && let Some(log) = self.near(x[0], sigma)
        {
            return log;
        }
        let term = |(p, mu, s): (f64, &[f64], &[f64])| {
            let axes = x.iter().zip(mu).zip(s);
            let log = |((x, m), s): ((&f64, &f64), &f64)| {
                let z = (x - m) / s;
                -0.5 * z * z - s.ln() - LN_SQRT_TAU
            };
            p.ln() + axes.map(log).sum::<f64>()
        };
        // Two passes over the components instead of a buffer of their terms.
        let used = || self.components().filter(|(p, ..)| *p > 0.0).map(term);
        let top = used().fold(f64::NEG_INFINITY, f64::max);
        top + used().map(|log| (log - top).exp()).sum::<f64>().ln()
    }

    /// ln g from the components within [`UNDERFLOW`] standard deviations. The rest adds less than
    /// exp(-708), so the answer stands where the sum is above [`ENOUGH`].
    fn near(&self, x: f64, sigma: f64) -> Option<f64> {
        let near = self.window(x, sigma);
        let sum = vector::sum_exp(x, sigma, &self.mu[near.clone()], &self.pi[near]);
        (sum > ENOUGH).then(|| sum.ln() - sigma.ln() - LN_SQRT_TAU)
    }

    /// The components within [`UNDERFLOW`] standard deviations of x.
    fn window(&self, x: f64, sigma: f64) -> Range<usize> {
        let reach = UNDERFLOW * sigma;
        let first = self.mu.partition_point(|&m| m < x - reach);
        first..self.mu.partition_point(|&m| m <= x + reach)
    }

    /// ln g and ln of another mixture at a point of a line; their exponentials are computed once
    /// where both have the same components.
    pub(super) fn log_densities_at(&self, other: &Self, x: f64) -> [f64; 2] {
        if let Some(sigma) = self.common
            && self.sigma == other.sigma
            && self.mu == other.mu
        {
            let near = self.window(x, sigma);
            let (mu, p, q) = (
                &self.mu[near.clone()],
                &self.pi[near.clone()],
                &other.pi[near],
            );
            let sums = vector::sum_exp_pair(x, sigma, mu, p, q);
            if sums.iter().all(|&sum| sum > ENOUGH) {
                return sums.map(|sum| sum.ln() - sigma.ln() - LN_SQRT_TAU);
            }
        }
        [self, other].map(|g| g.log_density_at(&[x]))
    }

    fn components(&self) -> impl Iterator<Item = (f64, &[f64], &[f64])> {
        let axes = self.mu.chunks(self.dims).zip(self.sigma.chunks(self.dims));
        self.pi.iter().zip(axes).map(|(&p, (mu, s))| (p, mu, s))
    }

    fn at_points(
        &self,
        points: &[f64],
        f: impl Fn(&[f64]) -> f64 + Sync,
    ) -> Result<Vec<f64>, MixtureError> {
        if !points.len().is_multiple_of(self.dims) {
            return Err(MixtureError::Length {
                what: "x",
                found: points.len(),
                expected: points.len().next_multiple_of(self.dims),
            });
        }
        check_finite("x", points)?;
        let mut out = vec![0.0; points.len() / self.dims];
        let tasks = out
            .par_chunks_mut(CHUNK)
            .zip(points.par_chunks(CHUNK * self.dims));
        tasks.for_each(|(out, points)| {
            for (out, x) in out.iter_mut().zip(points.chunks(self.dims)) {
                *out = f(x);
            }
        });
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Philox, Stream};

    fn close(a: f64, b: f64, tol: f64) {
        assert!((a - b).abs() <= tol * (1.0 + b.abs()), "{a} {b}");
    }

    #[test]
    fn density_integrates_to_the_distribution_function() {
        let g = Mixture::new(&[0.2, 0.5, 0.3], &[-1.0, 0.5, 2.0], &[0.4, 1.0, 0.2]).unwrap();
        let h = 1e-3;
        let points: Vec<f64> = (-8000..=8000).map(|i| f64::from(i) * h).collect();
        let (pdf, cdf) = (g.density(&points).unwrap(), g.cdf(&points).unwrap());
        let mut sum = 0.0;
        for i in 1..points.len() {
            sum += 0.5 * h * (pdf[i] + pdf[i - 1]);
            close(sum, cdf[i], 1e-6);
        }
    }

    #[test]
    fn far_out_the_logarithm_is_finite() {
        for sigma in [vec![0.5, 0.5], vec![0.5, 0.4]] {
            let g = Mixture::new(&[0.0, 1.0], &[-3.0, 1.0], &sigma).unwrap();
            for sd in [40.0, 1e3, 1e9] {
                let x = 1.0 + sd * sigma[1];
                let want = -0.5 * sd * sd - sigma[1].ln() - LN_SQRT_TAU;
                close(g.log_density(&[x]).unwrap()[0], want, 1e-12);
            }
        }
    }

    #[test]
    fn skipping_far_components_changes_nothing() {
        let n = 400;
        let mu: Vec<f64> = (0..n).map(f64::from).collect();
        let pi: Vec<f64> = mu.iter().map(|m| (-0.05 * m).exp()).collect();
        let sum: f64 = pi.iter().sum();
        let pi: Vec<f64> = pi.iter().map(|p| p / sum).collect();
        let fast = Mixture::common(&pi, &mu, 1.0).unwrap();
        let dense = Mixture {
            common: None,
            ..fast.clone()
        };
        let points: Vec<f64> = (-300..900).map(|i| f64::from(i) * 0.73).collect();
        let (a, b) = (fast.log_density(&points), dense.log_density(&points));
        for (a, b) in a.unwrap().into_iter().zip(b.unwrap()) {
            close(a, b, 1e-14);
        }
    }

    #[test]
    fn samples_have_the_moments() {
        let mu = [-1.0, 2.0, 3.0, 0.0];
        let g = Mixture::diagonal(2, &[0.25, 0.75], &mu, &[0.5, 1.0, 0.2, 2.0]).unwrap();
        let mut rng = Philox::new(1, Stream::Noise, 0).sequence();
        let (count, x) = (200_000, g.sample(&mut rng, 200_000));
        for d in 0..2 {
            let axis = || x.iter().skip(d).step_by(2);
            let mean = axis().sum::<f64>() / f64::from(count);
            let variance = axis().map(|x| (x - mean).powi(2)).sum::<f64>() / f64::from(count);
            close(mean, g.mean()[d], 0.02);
            close(variance, g.variance()[d], 0.02);
        }
        close(g.mean()[0], 2.0, 1e-15);
        close(
            g.variance()[0],
            0.25 * 9.0 + 0.75 + 0.25 * 0.25 + 0.75 * 0.04,
            1e-15,
        );
    }

    #[test]
    fn thread_count_does_not_change_a_bit() {
        let mu: Vec<f64> = (0..50).map(f64::from).collect();
        let g = Mixture::common(&[0.02; 50], &mu, 1.5).unwrap();
        let x: Vec<f64> = (0..20_000).map(|i| f64::from(i) * 0.003).collect();
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            pool.unwrap()
                .install(|| g.mean_log_likelihood(&x).unwrap().to_bits())
        };
        assert_eq!(run(1), run(3));
    }

    #[test]
    fn bad_input_is_refused_by_name() {
        let text = |r: Result<Mixture, MixtureError>| r.unwrap_err().to_string();
        assert!(text(Mixture::new(&[], &[], &[])).contains("no components"));
        assert!(text(Mixture::common(&[1.0], &[0.0], 0.0)).contains("sigma[0] is 0"));
        assert!(text(Mixture::common(&[1.0], &[f64::NAN], 1.0)).contains("mu[0] is NaN"));
        assert!(text(Mixture::common(&[0.5, 0.6], &[0.0, 1.0], 1.0)).contains("adds up to 1.1"));
        assert!(text(Mixture::common(&[1.5, -0.5], &[0.0, 1.0], 1.0)).contains("pi[1] is -0.5"));
        assert!(text(Mixture::common(&[1.0], &[0.0, 1.0], 1.0)).contains("mu has 2 numbers"));
        assert!(text(Mixture::diagonal(0, &[1.0], &[], &[])).contains("0 dimensions"));
        let g = Mixture::common(&[0.500_000_4, 0.5], &[0.0, 1.0], 1.0).unwrap();
        close(g.pi().iter().sum(), 1.0, 1e-15);
        assert!(g.density(&[f64::INFINITY]).is_err() && g.mean_log_likelihood(&[]).is_err());
        let plane = Mixture::diagonal(2, &[1.0], &[0.0; 2], &[1.0; 2]).unwrap();
        assert!(plane.density(&[0.0; 3]).is_err());
    }
}
