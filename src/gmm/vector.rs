//! Sums over many components, eight side by side, compiled for each instruction set. Products and
//! sums are rounded one by one, never fused: every set gives the same bits.

use std::f64::consts::{FRAC_1_SQRT_2, LN_2, LOG2_E, TAU};

use super::normal::ERFC;
use crate::device::simd::multiversion;

/// Components side by side.
const LANES: usize = 8;
/// Outputs of a convolution side by side.
pub const BLOCK: usize = 32;

/// exp(x) to 2 ulps without branches; 0 below -708, exp(709) above 709.
#[inline(always)]
fn exp(x: f64) -> f64 {
    // Adding 1.5 * 2^52 rounds to the nearest integer and leaves it in the low mantissa bits.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    /// ln 2 with its last 21 bits cut, so that its multiples are exact; and the rest.
    const HIGH: f64 = 0.693_147_180_369_123_8;
    const LOW: f64 = 1.908_214_929_270_587_7e-10;
    /// 1/n!, n = 13 down to 2: what is left out is below 5e-18 on |r| <= ln 2 / 2.
    const TAYLOR: [f64; 12] = [
        1.0 / 6_227_020_800.0,
        1.0 / 479_001_600.0,
        1.0 / 39_916_800.0,
        1.0 / 3_628_800.0,
        1.0 / 362_880.0,
        1.0 / 40_320.0,
        1.0 / 5_040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
    ];
    let inside = x.clamp(-708.0, 709.0);
    let shifted = inside * LOG2_E + ROUND;
    let k = shifted - ROUND;
    let r = (inside - k * HIGH) - k * LOW;
    let mut p = TAYLOR[0];
    for c in &TAYLOR[1..] {
        p = p * r + c;
    }
    let power = (shifted.to_bits())
        .wrapping_sub(ROUND.to_bits())
        .wrapping_add(1023)
        << 52;
    let value = (1.0 + (r + p * (r * r))) * f64::from_bits(power);
    if x < -708.0 { 0.0 } else { value }
}

/// ln(1 + s) for 0 <= s <= 1, as in fdlibm, without branches.
#[inline(always)]
fn ln_1p(s: f64) -> f64 {
    const L: [f64; 7] = [
        1.479_819_860_511_658_6e-1,
        1.531_383_769_920_937_3e-1,
        1.818_357_216_161_805e-1,
        2.222_219_843_214_978_4e-1,
        2.857_142_874_366_239e-1,
        3.999_999_999_940_942e-1,
        6.666_666_666_666_735e-1,
    ];
    let u = 1.0 + s;
    // What rounding took from 1 + s.
    let lost = (s - (u - 1.0)) / u;
    let half = u > std::f64::consts::SQRT_2;
    let f = if half { 0.5 * u - 1.0 } else { u - 1.0 };
    let ratio = f / (2.0 + f);
    let z = ratio * ratio;
    let mut p = L[0];
    for c in &L[1..] {
        p = p * z + c;
    }
    let square = 0.5 * f * f;
    let part = (f - (square - ratio * (square + z * p))) + lost;
    if half { LN_2 + part } else { part }
}

/// Phi(z), as [`super::normal::cdf`].
#[inline(always)]
fn cdf(z: [f64; LANES]) -> [f64; LANES] {
    let (mut t, mut twice) = ([0.0; LANES], [0.0; LANES]);
    for i in 0..LANES {
        t[i] = 2.0 / (2.0 + z[i].abs() * FRAC_1_SQRT_2);
        twice[i] = 2.0 * (2.0 * t[i] - 1.0);
    }
    let (mut b1, mut b2) = ([0.0; LANES], [0.0; LANES]);
    for &c in ERFC[1..].iter().rev() {
        for i in 0..LANES {
            let b = twice[i] * b1[i] + (c - b2[i]);
            (b1[i], b2[i]) = (b, b1[i]);
        }
    }
    let mut out = [0.0; LANES];
    for i in 0..LANES {
        let log = -0.5 * z[i] * z[i] + (0.5 * (ERFC[0] + twice[i] * b1[i]) - b2[i]);
        let tail = 0.5 * (t[i] * exp(log));
        out[i] = if z[i] < 0.0 { tail } else { 1.0 - tail };
    }
    out
}

/// Eight numbers from `from` on, `fill` past the end.
#[inline(always)]
fn lanes(values: &[f64], from: usize, fill: f64) -> [f64; LANES] {
    let mut out = [fill; LANES];
    if let Some(whole) = values.get(from..from + LANES) {
        out.copy_from_slice(whole);
    } else {
        for (out, value) in out.iter_mut().zip(&values[from..]) {
            *out = *value;
        }
    }
    out
}

/// (x - mu_n)/s_n of eight components; 0 past the end.
#[inline(always)]
fn places(x: f64, mu: &[f64], sigma: &[f64], from: usize) -> [f64; LANES] {
    let (mut z, s) = (lanes(mu, from, x), lanes(sigma, from, 1.0));
    for i in 0..LANES {
        z[i] = (x - z[i]) / s[i];
    }
    z
}

#[inline(always)]
fn total(sums: [f64; LANES]) -> f64 {
    let [a, b, c, d, e, f, g, h] = sums;
    ((a + b) + (c + d)) + ((e + f) + (g + h))
}

/// `sum_n p_n exp(-((x - mu_n)/s)^2 / 2)` for each list of weights.
#[inline(always)]
fn exponentials<const N: usize>(x: f64, s: f64, mu: &[f64], p: [&[f64]; N]) -> [f64; N] {
    let mut sums = [[0.0; LANES]; N];
    for from in (0..mu.len()).step_by(LANES) {
        let mut value = lanes(mu, from, x);
        for v in &mut value {
            let z = (x - *v) / s;
            *v = exp(-0.5 * z * z);
        }
        for (sums, p) in sums.iter_mut().zip(p) {
            let p = lanes(p, from, 0.0);
            for i in 0..LANES {
                sums[i] += p[i] * value[i];
            }
        }
    }
    sums.map(total)
}

multiversion! {
    /// `sum_n p_n exp(-((x - mu_n)/s)^2 / 2)`; all lists `[N]`.
    pub fn sum_exp(x: f64, s: f64, mu: &[f64], p: &[f64]) -> f64 {
        exponentials(x, s, mu, [p])[0]
    }
}

multiversion! {
    /// [`sum_exp`] for two lists of weights of the same components.
    pub fn sum_exp_pair(x: f64, s: f64, mu: &[f64], p: &[f64], q: &[f64]) -> [f64; 2] {
        exponentials(x, s, mu, [p, q])
    }
}

multiversion! {
    /// `sum_n d_n phi(x; mu_n, s_n)`; all lists `[N]`.
    pub fn sum_density(x: f64, d: &[f64], mu: &[f64], sigma: &[f64]) -> f64 {
        let mut sums = [0.0; LANES];
        for from in (0..mu.len()).step_by(LANES) {
            let z = places(x, mu, sigma, from);
            let (d, s) = (lanes(d, from, 0.0), lanes(sigma, from, 1.0));
            for i in 0..LANES {
                sums[i] += d[i] / s[i] * exp(-0.5 * z[i] * z[i]);
            }
        }
        total(sums) / TAU.sqrt()
    }
}

multiversion! {
    /// `sum_n d_n Phi((x - mu_n)/s_n)`; all lists `[N]`.
    pub fn sum_cdf(x: f64, d: &[f64], mu: &[f64], sigma: &[f64]) -> f64 {
        let mut sums = [0.0; LANES];
        for from in (0..mu.len()).step_by(LANES) {
            let value = cdf(places(x, mu, sigma, from));
            let d = lanes(d, from, 0.0);
            for i in 0..LANES {
                sums[i] += d[i] * value[i];
            }
        }
        total(sums)
    }
}

multiversion! {
    /// [`sum_cdf`] and its antiderivative `sum_n d_n s_n (z Phi(z) + phi0(z))`.
    pub fn sum_cdf_integral(x: f64, d: &[f64], mu: &[f64], sigma: &[f64]) -> [f64; 2] {
        let mut sums = [[0.0; LANES]; 2];
        for from in (0..mu.len()).step_by(LANES) {
            let z = places(x, mu, sigma, from);
            let value = cdf(z);
            let (d, s) = (lanes(d, from, 0.0), lanes(sigma, from, 1.0));
            for i in 0..LANES {
                let density = exp(-0.5 * z[i] * z[i]) * (1.0 / TAU.sqrt());
                sums[0][i] += d[i] * value[i];
                sums[1][i] += d[i] * s[i] * (z[i] * value[i] + density);
            }
        }
        sums.map(total)
    }
}

multiversion! {
    /// p = sigmoid(z), q = sigmoid(-z), l = ln(1 + exp(-|z|)); all lists as long as z.
    pub fn logistic(z: &[f64], p: &mut [f64], q: &mut [f64], l: &mut [f64]) {
        let n = z.len();
        let (p, q, l) = (&mut p[..n], &mut q[..n], &mut l[..n]);
        for i in 0..n {
            let small = exp(-z[i].abs());
            let above = 1.0 / (1.0 + small);
            let below = small * above;
            let positive = z[i] >= 0.0;
            p[i] = if positive { above } else { below };
            q[i] = if positive { below } else { above };
            l[i] = ln_1p(small);
        }
    }
}

multiversion! {
    /// `out_k = one^(k+1) table_k`: a product for each of eight lanes, none waiting for another.
    pub fn powers(one: f64, table: &[f64], out: &mut [f64]) {
        let two = one * one;
        let four = two * two;
        let eight = four * four;
        let mut power = [one, two, two * one, four, four * one, four * two, four * (two * one), eight];
        let table = &table[..out.len()];
        let mut out = out.chunks_exact_mut(LANES);
        let mut table = table.chunks_exact(LANES);
        for (out, table) in (&mut out).zip(&mut table) {
            for i in 0..LANES {
                out[i] = power[i] * table[i];
                power[i] *= eight;
            }
        }
        let rest = out.into_remainder().iter_mut().zip(table.remainder());
        for ((out, table), power) in rest.zip(power) {
            *out = power * table;
        }
    }
}

multiversion! {
    /// Sum of products, eight sums side by side.
    pub fn dot(a: &[f64], b: &[f64]) -> f64 {
        let b = &b[..a.len()];
        let mut sums = [0.0; LANES];
        let (wide, other) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
        let rest = wide.remainder().iter().zip(other.remainder());
        let tail: f64 = rest.map(|(a, b)| a * b).sum();
        for (a, b) in wide.zip(other) {
            for i in 0..LANES {
                sums[i] += a[i] * b[i];
            }
        }
        total(sums) + tail
    }
}

multiversion! {
    /// sum += factor x.
    pub fn add_scaled(factor: f64, x: &[f64], sum: &mut [f64]) {
        for (sum, x) in sum.iter_mut().zip(x) {
            *sum += factor * x;
        }
    }
}

multiversion! {
    /// sum += factor p x.
    pub fn add_products(factor: f64, p: &[f64], x: &[f64], sum: &mut [f64]) {
        for ((sum, x), p) in sum.iter_mut().zip(x).zip(p) {
            *sum += factor * p * x;
        }
    }
}

multiversion! {
    /// `out_j = scale sum_i m_(j-i) v_i` for the outputs j of `first..first + out.len()`. `padded`
    /// holds the 2R + 1 taps m_-R..=m_R between [`BLOCK`] zeros on either side, m symmetric. The terms
    /// of an output are added by rising i, wherever its block begins.
    pub fn convolve(scale: f64, padded: &[f64], v: &[f64], first: usize, out: &mut [f64]) {
        let radius = (padded.len() - 2 * BLOCK) / 2;
        let taps = &padded[BLOCK..=BLOCK + 2 * radius];
        for (block, out) in out.chunks_mut(BLOCK).enumerate() {
            let j = first + block * BLOCK;
            let mut sums = [0.0; BLOCK];
            if j >= radius && j + BLOCK + radius <= v.len() {
                let near = &v[j - radius..j + BLOCK + radius];
                for (tap, near) in taps.iter().zip(near.windows(BLOCK)) {
                    for k in 0..BLOCK {
                        sums[k] += tap * near[k];
                    }
                }
            } else {
                let (begin, end) = (j.saturating_sub(radius), (j + BLOCK + radius).min(v.len()));
                for (i, v) in (begin..end).zip(&v[begin..end]) {
                    // Entry k is m at distance j + k - i; past R on either side it is a zero.
                    let start = BLOCK + radius + j - i;
                    let row = &padded[start..start + BLOCK];
                    for k in 0..BLOCK {
                        sums[k] += v * row[k];
                    }
                }
            }
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = scale * sum;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gmm::normal;

    #[test]
    fn exp_and_ln_1p_are_within_ulps() {
        for i in -70_790..70_890 {
            let x = f64::from(i) * 0.01 + 1e-3;
            let want = x.exp();
            assert!((exp(x) / want - 1.0).abs() < 5e-16, "exp({x})");
        }
        for i in 0..=100_000 {
            let s = f64::from(i) * 1e-5;
            assert!((ln_1p(s) - s.ln_1p()).abs() <= 3e-16 * s.ln_1p(), "{s}");
        }
        assert_eq!((exp(-1e300), exp(0.0), exp(-708.5)), (0.0, 1.0, 0.0));
        assert!(exp(1e300).is_finite());
        for s in [0.0, 1e-300, 1e-17] {
            assert_eq!(ln_1p(s), s);
        }
    }

    #[test]
    fn sums_agree_with_one_by_one() {
        for n in [1, 7, 8, 9, 24, 31] {
            let list = |a: f64| (0..n).map(move |i| (a * (i + 1) as f64).sin());
            let mu: Vec<f64> = list(0.7).map(|m| 5.0 * m).collect();
            let d: Vec<f64> = list(1.3).collect();
            let sigma: Vec<f64> = list(2.1).map(|s| 1.5 + s).collect();
            for x in [-40.0, -3.0, 0.1, 7.0] {
                let each = |f: &dyn Fn(f64, usize) -> f64| -> f64 {
                    (0..n).map(|i| d[i] * f((x - mu[i]) / sigma[i], i)).sum()
                };
                let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-13 * (1.0 + b.abs()));
                let cdf = each(&|z, _| normal::cdf(z));
                let integral = each(&|z, i| sigma[i] * normal::cdf_integral(z));
                near(sum_cdf(x, &d, &mu, &sigma), cdf);
                near(sum_cdf_integral(x, &d, &mu, &sigma)[0], cdf);
                near(sum_cdf_integral(x, &d, &mu, &sigma)[1], integral);
                let density = each(&|z, i| normal::density(z) / sigma[i]);
                near(sum_density(x, &d, &mu, &sigma), density);
                let one = |p: &[f64]| -> f64 {
                    let terms = p.iter().zip(&mu);
                    terms
                        .map(|(p, m)| p * (-0.5 * ((x - m) / 0.9).powi(2)).exp())
                        .sum()
                };
                near(sum_exp(x, 0.9, &mu, &d), one(&d));
                let pair = sum_exp_pair(x, 0.9, &mu, &d, &sigma);
                near(pair[0], one(&d));
                near(pair[1], one(&sigma));
            }
        }
    }

    /// Inner blocks, blocks at an edge and kernels wider than the data give the same sums.
    #[test]
    fn convolution_agrees_with_its_definition() {
        for (n, radius) in [(2, 1), (40, 39), (40, 3), (200, 5), (200, 90), (129, 128)] {
            let tap = |d: usize| 1.0 / (1 + d * d) as f64;
            let mut padded = vec![0.0; 2 * (radius + BLOCK) + 1];
            for i in 0..=2 * radius {
                padded[BLOCK + i] = tap(i.abs_diff(radius));
            }
            let v: Vec<f64> = (0..n).map(|i| (i as f64 * 0.37).sin()).collect();
            for first in [0, n / 3] {
                let mut out = vec![f64::NAN; n - first];
                convolve(2.0, &padded, &v, first, &mut out);
                for (j, out) in (first..).zip(out) {
                    let near = (0..n).filter(|i| i.abs_diff(j) <= radius);
                    let want: f64 = near.map(|i| tap(i.abs_diff(j)) * v[i]).sum();
                    assert!((out - 2.0 * want).abs() < 1e-13, "{n} {radius} {j}");
                }
            }
        }
    }
}
