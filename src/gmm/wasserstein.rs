//! Wasserstein-1 distances on a line (paper section 2.4, Eq. 3-6).
//!
//! ```text
//! w1_exact   integral |G1 - G2| dx: the distance
//! w1_signed  | integral (G1 - G2) dx |, the paper's vector form: |mean(g1) - mean(g2)| on the whole
//!            line. Not a metric: 0 for any two mixtures with the same mean
//! w1_grid    sum_i (mu_{i+1} - mu_i) |cumsum(d)_i|: the means alone, an upper bound for one common s
//! ```
//!
//! `w1_signed <= w1_exact <= w1_grid` for a common s.

use rayon::prelude::*;

use super::distance::{DistanceError, MAX_SCAN, Pair, bisect};
use super::mixture::{Mixture, MixtureError, check_finite};
use super::normal;

/// |D| below this is zero in the scan for roots.
const ZERO: f64 = 1e-16;
/// Samples taken together by one task.
const CHUNK: usize = 8192;

impl Pair {
    /// `W1 = integral |D| = sum_k |A(x_{k+1}) - A(x_k)|` over the roots of D = G1 - G2 (Eq. 3-4), from
    /// min(mu - 12 s) to max(mu + 12 s), in units of x. Errors: components too narrow for their range.
    pub fn w1_exact(&self) -> Result<f64, DistanceError> {
        let roots = self.roots(|x| self.difference(x), ZERO)?;
        let [low, high] = self.range(12.0);
        let mut last = self.antiderivative(low);
        let mut sum = 0.0;
        for x in roots.into_iter().chain([high]) {
            let value = self.antiderivative(x);
            sum += (value - last).abs();
            last = value;
        }
        Ok(sum)
    }

    /// Eq. (5)-(6) on the whole line: `|sum_n d_n mu_n|`, the distance of the means. Not a metric.
    pub fn w1_signed(&self) -> f64 {
        let terms = self.d.iter().zip(&self.mu);
        terms.map(|(d, mu)| d * mu).sum::<f64>().abs()
    }

    /// Eq. (5)-(6) on M = `[a, b]`: `|sum_n d_n A_n|`, see [`cdf_integrals`]. Not a metric. Errors: no
    /// interval.
    pub fn w1_signed_on(&self, [a, b]: [f64; 2]) -> Result<f64, DistanceError> {
        let mu: Vec<f64> = self.mu.iter().map(|m| m + self.middle).collect();
        let integrals = cdf_integrals(&mu, &self.sigma, [a, b])?;
        let terms = self.d.iter().zip(integrals);
        Ok(terms.map(|(d, a)| d * a).sum::<f64>().abs())
    }

    /// `sum_i (mu_{i+1} - mu_i) |sum_{n <= i} d_n|`: the exact distance of the weights placed on the
    /// means.
    pub fn w1_grid(&self) -> f64 {
        let mut sum = 0.0;
        let steps = self.mu.windows(2).zip(&self.d).map(|(mu, d)| {
            sum += d;
            (mu[1] - mu[0]) * f64::abs(sum)
        });
        steps.sum()
    }

    /// [`w1_uniform`] of D on `[mu_0 - 8s, mu_{N-1} + 8s]` with step at most s/8: within 1e-4 of
    /// [`Self::w1_exact`], and the form a device computes. Errors as there.
    pub fn w1_fast(&self) -> Result<f64, DistanceError> {
        let (low, dx, count) = self.points(8.0, 8.0, MAX_SCAN)?;
        let points = (0..count).into_par_iter().with_min_len(512);
        let values: Vec<f64> = points
            .map(|i| self.difference(low + i as f64 * dx))
            .collect();
        Ok(w1_uniform(&values, dx))
    }
}

/// The integral of |v| over a uniform grid of step dx. A cell of one sign adds dx (a+b)/2, with a, b
/// the absolute values at its ends; one with a change of sign dx `[(a^2+b^2)/(2(a+b)) + (a+b)/6]`: the
/// chord through the root plus the Euler-Maclaurin end terms, without which the kink costs an order.
pub fn w1_uniform(values: &[f64], dx: f64) -> f64 {
    let cell = |v: &[f64]| {
        let (a, b) = (v[0].abs(), v[1].abs());
        // A root on a point belongs to one of its two cells: zero counts as positive.
        if (v[0] < 0.0) != (v[1] < 0.0) {
            (a * a + b * b) / (2.0 * (a + b)) + (a + b) / 6.0
        } else {
            0.5 * (a + b)
        }
    };
    dx * values.windows(2).map(cell).sum::<f64>()
}

/// A_n, the integral of Phi((x - mu_n)/s_n) over `[a, b]`: `s_n [z Phi(z) + phi0(z)]` between the ends;
/// `[N]`. Errors: no interval, lists of different lengths.
pub fn cdf_integrals(
    mu: &[f64],
    sigma: &[f64],
    [a, b]: [f64; 2],
) -> Result<Vec<f64>, DistanceError> {
    if !(a <= b && a.is_finite() && b.is_finite()) {
        return Err(DistanceError::Support { a, b });
    }
    if mu.len() != sigma.len() {
        let (found, expected) = (sigma.len(), mu.len());
        let what = "sigma";
        return Err(MixtureError::Length {
            what,
            found,
            expected,
        }
        .into());
    }
    let upto = |x: f64, m: f64, s: f64| s * normal::cdf_integral((x - m) / s);
    let both = mu.iter().zip(sigma);
    Ok(both.map(|(&m, &s)| upto(b, m, s) - upto(a, m, s)).collect())
}

/// W1 between a mixture on a line and samples `[M]` (equal weights, any order), in units of x: exact,
/// by the antiderivative of G between neighbouring samples and at most one root in each gap.
/// Errors: a mixture of more dimensions, no samples, NaN.
pub fn w1_samples(g: &Mixture, samples: &[f64]) -> Result<f64, DistanceError> {
    if g.dims() != 1 {
        let (left, right) = (g.dims(), 1);
        return Err(DistanceError::NotALine { left, right });
    }
    check_finite("x", samples)?;
    let mut x = samples.to_vec();
    x.par_sort_unstable_by(f64::total_cmp);
    let (Some(&first), Some(&last)) = (x.first(), x.last()) else {
        let (found, expected) = (0, 1);
        let what = "x";
        return Err(MixtureError::Length {
            what,
            found,
            expected,
        }
        .into());
    };
    let cumulative = Cumulative::new(g);
    let [low, high] = cumulative.range;
    let (low, high) = (low.min(first), high.max(last));
    // Below the samples G alone, above them 1 - G.
    let below = cumulative.integral(first) - cumulative.integral(low);
    let above = (high - last) - (cumulative.integral(high) - cumulative.integral(last));
    let count = x.len() as f64;
    let gaps = x.len() - 1;
    let parts: Vec<f64> = (0..gaps.div_ceil(CHUNK))
        .into_par_iter()
        .map(|task| {
            let gaps = task * CHUNK..gaps.min((task + 1) * CHUNK);
            let mut left = cumulative.values(x[gaps.start]);
            let gap = |i: usize| {
                let right = cumulative.values(x[i + 1]);
                let value = cumulative.gap([x[i], x[i + 1]], [left, right], (i + 1) as f64 / count);
                left = right;
                value
            };
            gaps.map(gap).sum()
        })
        .collect();
    Ok(below + parts.iter().sum::<f64>() + above)
}

/// G of one mixture with its antiderivative, components far away left out of the sums.
struct Cumulative {
    /// The mixture against nothing: D = G.
    pair: Pair,
    range: [f64; 2],
}

impl Cumulative {
    fn new(g: &Mixture) -> Self {
        let pair = Pair::alone(g);
        let range = pair.range(12.0).map(|x| x + pair.middle);
        Self { pair, range }
    }

    fn at(&self, x: f64) -> f64 {
        self.pair.difference(x - self.pair.middle)
    }

    fn integral(&self, x: f64) -> f64 {
        self.pair.antiderivative(x - self.pair.middle)
    }

    /// G and its antiderivative at x.
    fn values(&self, x: f64) -> [f64; 2] {
        self.pair.difference_and_integral(x - self.pair.middle)
    }

    /// The integral of |G - level| over `[a, b]`, from G and its antiderivative at both ends.
    fn gap(&self, [a, b]: [f64; 2], [left, right]: [[f64; 2]; 2], level: f64) -> f64 {
        if left[0] >= level || right[0] <= level {
            return (right[1] - left[1] - level * (b - a)).abs();
        }
        let root = bisect(|x| self.at(x) - level, a, b);
        let middle = self.integral(root);
        let below = middle - left[1] - level * (root - a);
        below.abs() + (right[1] - middle - level * (b - root)).abs()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gmm::expansion::{ExpansionSpec, Mode, expand};
    use crate::rng::{Philox, Stream};

    fn close(a: f64, b: f64, tol: f64) {
        assert!((a - b).abs() <= tol, "{a} {b}");
    }

    fn normals(count: u32, index: u64) -> Vec<f64> {
        let philox = Philox::new(9, Stream::Noise, index);
        (0..count / 4).flat_map(|b| philox.normals4(b)).collect()
    }

    fn expansions(x: &[f64], y: &[f64]) -> Pair {
        let both = x.iter().chain(y).copied();
        let (low, high) = both.fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(v), h.max(v)));
        let spec = ExpansionSpec {
            mode: Mode::OneStep,
            range: Some([low, high]),
            ..ExpansionSpec::default()
        };
        let [a, b] = [x, y].map(|x| expand(x, spec).unwrap().mixture);
        Pair::of(&a, &b).unwrap()
    }

    /// W1 of samples of equal number: the mean distance of the sorted values.
    fn sorted_distance(x: &[f64], y: &[f64]) -> f64 {
        let sorted = |x: &[f64]| {
            let mut x = x.to_vec();
            x.sort_by(f64::total_cmp);
            x
        };
        let (x, y) = (sorted(x), sorted(y));
        x.iter().zip(&y).map(|(x, y)| (x - y).abs()).sum::<f64>() / x.len() as f64
    }

    /// The table of section 3.2: the signed form misses everything but the mean.
    #[test]
    fn signed_is_no_distance() {
        let (x, y) = (normals(20_000, 0), normals(20_000, 1));
        let moved: Vec<f64> = y.iter().map(|y| y + 1.0).collect();
        let wide: Vec<f64> = y.iter().map(|y| 2.0 * y).collect();
        for (y, signed_fails) in [(&moved, false), (&wide, true)] {
            let pair = expansions(&x, y);
            let exact = pair.w1_exact().unwrap();
            close(exact, sorted_distance(&x, y), 0.02);
            assert!(pair.w1_signed() <= exact + 1e-12 && exact <= pair.w1_grid() + 1e-12);
            assert_eq!(pair.w1_signed() < 0.05, signed_fails);
            close(pair.w1_fast().unwrap() / exact, 1.0, 1e-4);
        }
    }

    #[test]
    fn two_normals_have_the_closed_forms() {
        let g = |mu, s| Mixture::common(&[1.0], &[mu], s).unwrap();
        let far = 1e4;
        let moved = Pair::of(&g(far, 1.0), &g(far + 2.0, 1.0)).unwrap();
        close(moved.w1_exact().unwrap(), 2.0, 1e-11);
        close(moved.w1_signed(), 2.0, 1e-11);
        let wider = Pair::of(&g(0.0, 1.0), &g(0.0, 3.0)).unwrap();
        // E|z| (3 - 1): quantiles differ by 2z.
        let want = 2.0 * (2.0 / std::f64::consts::PI).sqrt();
        close(wider.w1_exact().unwrap(), want, 1e-13);
        close(wider.w1_signed(), 0.0, 1e-15);
        close(wider.w1_fast().unwrap(), want, 1e-4);
        let same = Pair::of(&g(0.0, 1.0), &g(0.0, 1.0)).unwrap();
        assert_eq!(same.w1_exact().unwrap(), 0.0);
    }

    #[test]
    fn the_scan_agrees_with_a_fine_sum() {
        let mu = [-2.0, -1.0, 0.3, 2.0, 2.5];
        let (p, q) = ([0.3, 0.1, 0.2, 0.1, 0.3], [0.1, 0.4, 0.1, 0.3, 0.1]);
        let pair = Pair::new(&p, &q, &mu, &[0.2, 0.7, 0.3, 0.1, 1.0]).unwrap();
        let dx = 1e-4;
        let values = (-200_000..=200_000).map(|i| pair.difference(f64::from(i) * dx));
        let sum = values.map(f64::abs).sum::<f64>() * dx;
        close(pair.w1_exact().unwrap(), sum, 1e-8);
        let halves = [[-20.0, 0.25], [0.25, 20.0]].map(|half| pair.w1_signed_on(half).unwrap());
        assert!(halves[0] + halves[1] >= pair.w1_signed() - 1e-12);
        assert!(pair.w1_signed_on([1.0, 0.0]).is_err());
    }

    #[test]
    fn distance_to_samples_agrees_with_a_fine_sum() {
        let g = Mixture::new(&[0.4, 0.6], &[-1.0, 1.0], &[0.3, 0.8]).unwrap();
        let x = [-2.0, -0.5, 0.1, 0.1, 2.0, 9.0];
        let dx = 1e-4;
        let points: Vec<f64> = (-120_000..=120_000).map(|i| f64::from(i) * dx).collect();
        let cdf = g.cdf(&points).unwrap();
        let share = |p: f64| x.iter().filter(|&&x| x <= p).count() as f64 / x.len() as f64;
        let gaps = points.iter().zip(cdf).map(|(&p, g)| (share(p) - g).abs());
        close(w1_samples(&g, &x).unwrap(), gaps.sum::<f64>() * dx, 1e-3);
        // One sample at the mean: E|x - mean|.
        let one = Mixture::common(&[1.0], &[3.0], 2.0).unwrap();
        let want = 2.0 * (2.0 / std::f64::consts::PI).sqrt();
        close(w1_samples(&one, &[3.0]).unwrap(), want, 1e-13);
        assert!(w1_samples(&one, &[]).is_err() && w1_samples(&one, &[f64::NAN]).is_err());
    }
}
