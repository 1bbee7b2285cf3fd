//! Divergences between weights and between mixtures: KL, JS, total variation (paper sections 2.3-2.4).
//!
//! On weights p, q of the same components: `kl = sum p ln(p/q)` with 0 ln 0 = 0 and +inf where
//! `q_i = 0 < p_i`; `js = (KL(p||m) + KL(q||m))/2`, m = (p+q)/2, at most ln 2; `tv = sum |p-q| / 2`.
//! On densities over a line: KL and JS by the trapezoid rule, which converges faster than any power
//! of the step on analytic integrands that decay; TV exactly, between the roots of g1 - g2. In more
//! dimensions no closed form is claimed: Monte Carlo with a standard error. Distances of Wasserstein
//! type are in [`super::wasserstein`].

use rayon::prelude::*;

use super::mixture::{Mixture, MixtureError, check_weights};
use super::vector;
use crate::rng::{Philox, Stream};

/// Beyond this many standard deviations a component's distribution function is 0 or 1 within 1e-18.
const REACH: f64 = 9.0;
/// Values one scan for roots may hold in memory.
pub(super) const MAX_SCAN: f64 = (1 << 24) as f64;
/// Points one integral may take.
const MAX_INTEGRAL: f64 = (1_u64 << 28) as f64;
/// Points integrated, or samples drawn, by one task.
const CHUNK: usize = 4096;

/// What is wrong with a pair of distributions.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum DistanceError {
    /// Weights, means or widths no mixture can have.
    #[error(transparent)]
    Mixture(#[from] MixtureError),
    /// Mixtures of more than one dimension where a line is needed.
    #[error("distance: mixtures of {left} and {right} dimensions; expected 1 and 1")]
    NotALine {
        /// Dimensions of the first.
        left: usize,
        /// Dimensions of the second.
        right: usize,
    },
    /// Mixtures of different dimensions, or none to draw.
    #[error(
        "distance: mixtures of {left} and {right} dimensions, {samples} samples; expected the same and at least 2 samples"
    )]
    MonteCarlo {
        /// Dimensions of the first.
        left: usize,
        /// Dimensions of the second.
        right: usize,
        /// Samples asked for.
        samples: usize,
    },
    /// A support that is no interval.
    #[error("distance: the support is {a} to {b}; expected finite a <= b")]
    Support {
        /// Left end.
        a: f64,
        /// Right end.
        b: f64,
    },
    /// The narrowest component is too narrow for the range.
    #[error(
        "distance: {points:.0} points at the step of the narrowest component; expected at most {limit:.0}: use wider or fewer components"
    )]
    TooFine {
        /// Points needed.
        points: f64,
        /// Points allowed.
        limit: f64,
    },
}

/// `sum p ln(p/q)`, natural logarithm; +inf if q_i = 0 < p_i. Errors: lists that are empty, of
/// different lengths, not weights, or off a sum of one by more than 1e-6.
pub fn kl(p: &[f64], q: &[f64]) -> Result<f64, DistanceError> {
    let (p, q) = weights(p, q)?;
    Ok(sum_kl(&p, &q))
}

/// `(KL(p||m) + KL(q||m)) / 2`, m = (p+q)/2: between 0 and ln 2. Errors as [`kl`].
pub fn js(p: &[f64], q: &[f64]) -> Result<f64, DistanceError> {
    let (p, q) = weights(p, q)?;
    let m: Vec<f64> = p.iter().zip(&q).map(|(p, q)| 0.5 * (p + q)).collect();
    Ok(0.5 * (sum_kl(&p, &m) + sum_kl(&q, &m)))
}

/// `sum |p - q| / 2`: between 0 and 1. Errors as [`kl`].
pub fn tv(p: &[f64], q: &[f64]) -> Result<f64, DistanceError> {
    let (p, q) = weights(p, q)?;
    Ok(0.5 * p.iter().zip(&q).map(|(p, q)| (p - q).abs()).sum::<f64>())
}

fn weights(p: &[f64], q: &[f64]) -> Result<(Vec<f64>, Vec<f64>), DistanceError> {
    if p.len() != q.len() {
        let (found, expected) = (q.len(), p.len());
        let what = "q";
        return Err(MixtureError::Length {
            what,
            found,
            expected,
        }
        .into());
    }
    Ok((check_weights("p", p)?, check_weights("q", q)?))
}

fn sum_kl(p: &[f64], q: &[f64]) -> f64 {
    let used = p.iter().zip(q).filter(|(p, _)| **p > 0.0);
    // Rounding can leave a sum a little below zero; the divergence never is.
    used.map(|(p, q)| p * (p / q).ln()).sum::<f64>().max(0.0)
}

/// Two mixtures on a line, with `D = G1 - G2 = sum_n d_n Phi((x - mu_n)/s_n)` over their components:
/// those they share (d = pi1 - pi2), or all of both.
#[derive(Debug, Clone)]
pub struct Pair {
    left: Mixture,
    right: Mixture,
    /// Components by rising mean; means count from `middle`, which keeps the sums below small.
    pub(super) d: Vec<f64>,
    pub(super) mu: Vec<f64>,
    pub(super) sigma: Vec<f64>,
    pub(super) middle: f64,
    pub(super) narrow: f64,
    pub(super) wide: f64,
    /// Sums of d and of d mu over the components before n.
    before: Vec<[f64; 2]>,
}

impl Pair {
    /// Weights `[N]` and `[N]` on common means `[N]` and standard deviations `[N]`. Errors as
    /// [`Mixture::new`].
    pub fn new(pi1: &[f64], pi2: &[f64], mu: &[f64], sigma: &[f64]) -> Result<Self, DistanceError> {
        Self::of(
            &Mixture::new(pi1, mu, sigma)?,
            &Mixture::new(pi2, mu, sigma)?,
        )
    }

    /// Any two mixtures on a line. Errors: more than one dimension.
    pub fn of(left: &Mixture, right: &Mixture) -> Result<Self, DistanceError> {
        let (l, r) = (left.dims(), right.dims());
        if (l, r) != (1, 1) {
            return Err(DistanceError::NotALine { left: l, right: r });
        }
        let mut parts: Vec<[f64; 3]> = Vec::new();
        if left.mu() == right.mu() && left.sigma() == right.sigma() {
            let both = components(left).into_iter().zip(right.pi());
            parts.extend(both.map(|([mu, s, p], q)| [mu, s, p - q]));
        } else {
            parts.extend(components(left));
            parts.extend(components(right).into_iter().map(|[mu, s, p]| [mu, s, -p]));
        }
        Ok(Self::sorted(left, right, parts))
    }

    /// One mixture against nothing: D = G. Divergences have no meaning here.
    pub(super) fn alone(g: &Mixture) -> Self {
        Self::sorted(g, g, components(g))
    }

    /// From components (mean, standard deviation, weight) in any order.
    fn sorted(left: &Mixture, right: &Mixture, mut parts: Vec<[f64; 3]>) -> Self {
        parts.sort_by(|a, b| a[0].total_cmp(&b[0]));
        let middle = 0.5 * parts[0][0] + 0.5 * parts[parts.len() - 1][0];
        let column = |i: usize| parts.iter().map(move |part| part[i]);
        let mut sums = [0.0; 2];
        let mut before = vec![sums];
        for [mu, _, d] in &parts {
            sums = [sums[0] + d, sums[1] + d * (mu - middle)];
            before.push(sums);
        }
        Self {
            left: left.clone(),
            right: right.clone(),
            mu: column(0).map(|mu| mu - middle).collect(),
            sigma: column(1).collect(),
            d: column(2).collect(),
            middle,
            narrow: column(1).fold(f64::INFINITY, f64::min),
            wide: column(1).fold(0.0, f64::max),
            before,
        }
    }

    /// `KL(g1 || g2)`, by the trapezoid rule over all means +- 14 s with step s/64. Always finite:
    /// every component has full support. Errors: components too narrow for their range.
    pub fn kl(&self) -> Result<f64, DistanceError> {
        let sum = self.integrate(|p, q| p.exp() * (p - q))?;
        Ok(sum.max(0.0))
    }

    /// `JS(g1, g2)`, between 0 and ln 2. Method and errors as [`Self::kl`].
    pub fn js(&self) -> Result<f64, DistanceError> {
        let sum = self.integrate(|p, q| {
            let top = p.max(q);
            let (a, b) = ((p - top).exp(), (q - top).exp());
            let m = (0.5 * (a + b)).ln();
            // exp(p) (p - m) is 0 where exp(p) is, however far p is below.
            let term = |share: f64, log: f64| {
                if share > 0.0 {
                    share * (log - top - m)
                } else {
                    0.0
                }
            };
            0.5 * top.exp() * (term(a, p) + term(b, q))
        })?;
        Ok(sum.max(0.0))
    }

    /// `TV(g1, g2) = 1/2 sum_k |D(x_{k+1}) - D(x_k)|` over the roots x_k of g1 - g2, with
    /// `D(-inf) = D(inf) = 0`: between 0 and 1. Errors: components too narrow for their range.
    pub fn tv(&self) -> Result<f64, DistanceError> {
        let zero = 1e-16 / self.narrow;
        let roots = self.roots(|x| self.density_difference(x), zero)?;
        let (mut sum, mut last) = (0.0, 0.0);
        for value in roots.into_iter().map(|x| self.difference(x)).chain([0.0]) {
            sum += f64::abs(value - last);
            last = value;
        }
        Ok(0.5 * sum)
    }

    /// D at x counted from `middle`; components out of [`REACH`] count as 0 or 1.
    pub(super) fn difference(&self, x: f64) -> f64 {
        let (first, last) = self.window(x);
        let near = first..last;
        let (d, mu, sigma) = (
            &self.d[near.clone()],
            &self.mu[near.clone()],
            &self.sigma[near],
        );
        self.before[first][0] + vector::sum_cdf(x, d, mu, sigma)
    }

    /// `A(x) = sum_n d_n s_n (z Phi(z) + phi0(z))`, the antiderivative of D, at x counted from `middle`.
    pub(super) fn antiderivative(&self, x: f64) -> f64 {
        self.difference_and_integral(x)[1]
    }

    /// D and A at x counted from `middle`, for little more than one of them.
    pub(super) fn difference_and_integral(&self, x: f64) -> [f64; 2] {
        let (first, last) = self.window(x);
        let [d, moment] = self.before[first];
        let near = first..last;
        let (near_d, mu, sigma) = (
            &self.d[near.clone()],
            &self.mu[near.clone()],
            &self.sigma[near],
        );
        let [difference, integral] = vector::sum_cdf_integral(x, near_d, mu, sigma);
        [d + difference, x * d - moment + integral]
    }

    fn density_difference(&self, x: f64) -> f64 {
        let (first, last) = self.window(x);
        let near = first..last;
        vector::sum_density(
            x,
            &self.d[near.clone()],
            &self.mu[near.clone()],
            &self.sigma[near],
        )
    }

    fn window(&self, x: f64) -> (usize, usize) {
        let reach = REACH * self.wide;
        let first = self.mu.partition_point(|&m| m < x - reach);
        (first, self.mu.partition_point(|&m| m <= x + reach))
    }

    /// First and last mean, `sd` of the widest component further out, counted from `middle`.
    pub(super) fn range(&self, sd: f64) -> [f64; 2] {
        let margin = sd * self.wide;
        [self.mu[0] - margin, self.mu[self.mu.len() - 1] + margin]
    }

    /// Points over the means +- `sd` of the widest component, at most 1/`per_sd` of the narrowest
    /// apart: the first (counted from `middle`), the step, their number.
    pub(super) fn points(
        &self,
        sd: f64,
        per_sd: f64,
        limit: f64,
    ) -> Result<(f64, f64, usize), DistanceError> {
        let [low, high] = self.range(sd);
        let points = ((high - low) / (self.narrow / per_sd)).ceil() + 1.0;
        if points.is_nan() || points > limit {
            return Err(DistanceError::TooFine { points, limit });
        }
        Ok((low, (high - low) / (points - 1.0), points as usize))
    }

    /// Where f changes its sign: a scan over the means +- 12 s with step s/16, |f| below `zero`
    /// passed over, then bisection to the last bit.
    pub(super) fn roots(
        &self,
        f: impl Fn(f64) -> f64 + Sync,
        zero: f64,
    ) -> Result<Vec<f64>, DistanceError> {
        let (low, step, count) = self.points(12.0, 16.0, MAX_SCAN)?;
        let at = |i: usize| low + i as f64 * step;
        let values: Vec<f64> = (0..count)
            .into_par_iter()
            .with_min_len(CHUNK / 8)
            .map(|i| f(at(i)))
            .collect();
        let mut roots = Vec::new();
        let mut last: Option<usize> = None;
        for (i, value) in values.iter().enumerate() {
            if value.abs() < zero {
                continue;
            }
            if let Some(before) = last
                && values[before].signum() != value.signum()
            {
                roots.push(bisect(&f, at(before), at(i)));
            }
            last = Some(i);
        }
        Ok(roots)
    }

    /// The integral of f(ln g1, ln g2) over the line.
    fn integrate(&self, f: impl Fn(f64, f64) -> f64 + Sync) -> Result<f64, DistanceError> {
        let (low, step, count) = self.points(14.0, 64.0, MAX_INTEGRAL)?;
        let value = |i: usize| {
            let x = self.middle + (low + i as f64 * step);
            let [p, q] = self.left.log_densities_at(&self.right, x);
            let value = f(p, q);
            if i == 0 || i + 1 == count {
                0.5 * value
            } else {
                value
            }
        };
        let sums: Vec<f64> = (0..count.div_ceil(CHUNK))
            .into_par_iter()
            .map(|c| (c * CHUNK..count.min((c + 1) * CHUNK)).map(value).sum())
            .collect();
        Ok(step * sums.iter().sum::<f64>())
    }
}

fn components(g: &Mixture) -> Vec<[f64; 3]> {
    let axes = g.mu().iter().zip(g.sigma()).zip(g.pi());
    axes.map(|((&mu, &s), &p)| [mu, s, p]).collect()
}

/// The root of f between a and b, where it has opposite signs.
pub(super) fn bisect(f: impl Fn(f64) -> f64, mut a: f64, mut b: f64) -> f64 {
    let sign = f(a).signum();
    loop {
        let middle = 0.5 * a + 0.5 * b;
        if middle <= a || middle >= b {
            return middle;
        }
        if f(middle).signum() == sign {
            a = middle;
        } else {
            b = middle;
        }
    }
}

/// A Monte Carlo mean and its standard error.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The mean.
    pub value: f64,
    /// Its standard error.
    pub standard_error: f64,
}

impl Estimate {
    /// From the sums of the values and of their squares over `n` independent draws.
    fn new([sum, square]: [f64; 2], n: f64) -> Self {
        let mean = sum / n;
        let variance = (square / n - mean * mean).max(0.0) * n / (n - 1.0);
        Self {
            value: mean,
            standard_error: (variance / n).sqrt(),
        }
    }
}

/// KL, JS and TV of two mixtures in any number of dimensions, from samples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MonteCarlo {
    /// `KL(g1 || g2) = E_1[ln g1 - ln g2]`.
    pub kl: Estimate,
    /// `JS = (E_1[ln g1 - ln m] + E_2[ln g2 - ln m]) / 2`, m = (g1 + g2)/2.
    pub js: Estimate,
    /// `TV = E_1[(1 - g2/g1)^+]`.
    pub tv: Estimate,
}

/// Estimates from `samples` pairs of draws, one of each mixture: a function of the seed alone.
/// Errors: different dimensions, fewer than 2 samples.
pub fn monte_carlo(
    g1: &Mixture,
    g2: &Mixture,
    samples: usize,
    seed: u64,
) -> Result<MonteCarlo, DistanceError> {
    let (left, right) = (g1.dims(), g2.dims());
    if left != right || samples < 2 {
        return Err(DistanceError::MonteCarlo {
            left,
            right,
            samples,
        });
    }
    let tasks = (0..samples.div_ceil(CHUNK)).into_par_iter();
    let parts: Vec<[[f64; 2]; 3]> = tasks
        .map(|task| {
            let mut rng = Philox::new(seed, Stream::Noise, task as u64).sequence();
            let count = CHUNK.min(samples - task * CHUNK);
            let (x, y) = (g1.sample(&mut rng, count), g2.sample(&mut rng, count));
            let mut sums = [[0.0; 2]; 3];
            for (x, y) in x.chunks(left).zip(y.chunks(left)) {
                let (p, q) = (g1.log_density_at(x), g2.log_density_at(x));
                let half = |a: f64, b: f64| -(0.5 * (1.0 + (b - a).exp())).ln();
                let other = half(g2.log_density_at(y), g1.log_density_at(y));
                let values = [
                    p - q,
                    0.5 * (half(p, q) + other),
                    (1.0 - (q - p).exp()).max(0.0),
                ];
                for (sum, value) in sums.iter_mut().zip(values) {
                    *sum = [sum[0] + value, sum[1] + value * value];
                }
            }
            sums
        })
        .collect();
    let total = |i: usize| {
        let add = |a: [f64; 2], b: &[[f64; 2]; 3]| [a[0] + b[i][0], a[1] + b[i][1]];
        Estimate::new(parts.iter().fold([0.0; 2], add), samples as f64)
    };
    Ok(MonteCarlo {
        kl: total(0),
        js: total(1),
        tv: total(2),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gmm::normal;
    use std::f64::consts::LN_2;

    fn normal_pair(gap: f64, scale: f64) -> Pair {
        let left = Mixture::common(&[1.0], &[5.0], 1.0).unwrap();
        let right = Mixture::common(&[1.0], &[5.0 + gap], scale).unwrap();
        Pair::of(&left, &right).unwrap()
    }

    fn close(a: f64, b: f64, tol: f64) {
        assert!((a - b).abs() <= tol, "{a} {b}");
    }

    #[test]
    fn two_normals_have_the_closed_forms() {
        let pair = normal_pair(1.5, 1.0);
        close(pair.kl().unwrap(), 1.125, 1e-12);
        close(pair.tv().unwrap(), 2.0 * normal::cdf(0.75) - 1.0, 1e-14);
        let wider = normal_pair(0.5, 2.0);
        close(wider.kl().unwrap(), LN_2 + 1.25 / 8.0 - 0.5, 1e-12);
        close(normal_pair(0.0, 1.0).kl().unwrap(), 0.0, 1e-15);
        close(normal_pair(0.0, 1.0).tv().unwrap(), 0.0, 1e-15);
        let far = normal_pair(80.0, 1.0);
        close(far.kl().unwrap(), 3200.0, 1e-8);
        close(far.js().unwrap(), LN_2, 1e-12);
        close(far.tv().unwrap(), 1.0, 1e-14);
    }

    #[test]
    fn weights_have_the_edge_cases() {
        assert_eq!(kl(&[0.5, 0.5], &[1.0, 0.0]).unwrap(), f64::INFINITY);
        close(kl(&[1.0, 0.0], &[0.5, 0.5]).unwrap(), LN_2, 1e-15);
        close(js(&[1.0, 0.0], &[0.0, 1.0]).unwrap(), LN_2, 1e-15);
        assert_eq!(tv(&[1.0, 0.0], &[0.0, 1.0]).unwrap(), 1.0);
        for (p, q) in [
            (vec![0.5, 0.5], vec![1.0]),
            (vec![], vec![]),
            (vec![0.5, 0.4], vec![0.5, 0.5]),
            (vec![0.5, f64::NAN], vec![0.5, 0.5]),
            (vec![1.5, -0.5], vec![0.5, 0.5]),
        ] {
            assert!(kl(&p, &q).is_err() && js(&p, &q).is_err() && tv(&p, &q).is_err());
        }
    }

    #[test]
    fn monte_carlo_agrees_with_the_integrals() {
        let g1 = Mixture::common(&[0.3, 0.7], &[-1.0, 1.0], 0.6).unwrap();
        let g2 = Mixture::common(&[0.6, 0.4], &[-1.0, 1.5], 0.8).unwrap();
        let pair = Pair::of(&g1, &g2).unwrap();
        let found = monte_carlo(&g1, &g2, 100_000, 7).unwrap();
        for (estimate, exact) in [
            (found.kl, pair.kl().unwrap()),
            (found.js, pair.js().unwrap()),
            (found.tv, pair.tv().unwrap()),
        ] {
            close(estimate.value, exact, 4.0 * estimate.standard_error);
            assert!(estimate.standard_error < 0.01);
        }
        let plane = Mixture::diagonal(2, &[1.0], &[0.0; 2], &[1.0; 2]).unwrap();
        let moved = Mixture::diagonal(2, &[1.0], &[1.0, 0.0], &[1.0; 2]).unwrap();
        let found = monte_carlo(&plane, &moved, 50_000, 1).unwrap();
        close(found.kl.value, 0.5, 4.0 * found.kl.standard_error);
        assert!(monte_carlo(&plane, &g1, 100, 1).is_err() && Pair::of(&plane, &moved).is_err());
        assert!(monte_carlo(&g1, &g2, 1, 1).is_err());
    }

    #[test]
    fn a_component_far_too_narrow_is_refused() {
        let pair = Pair::new(&[0.5, 0.5], &[0.4, 0.6], &[0.0, 1.0], &[1e-9, 1.0]).unwrap();
        assert!(matches!(pair.tv(), Err(DistanceError::TooFine { .. })));
        assert!(matches!(pair.kl(), Err(DistanceError::TooFine { .. })));
    }
}
