//! Elementwise loops, compiled for each instruction set.

use super::simd::multiversion;

/// exp(x) to about 1 ulp (Cephes' polynomial, without branches so that loops vectorise);
/// saturates below -87.3 to a value near 1.2e-38 and above 88.3.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to the nearest integer and leaves it in the low mantissa bits.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.3, 88.3);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let k = shifted - ROUND;
    let r = x - k * 0.693_359_4 - k * -2.121_944_4e-4;
    let mut p = 1.987_569_2e-4;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 5.0e-1;
    let e = p * (r * r) + r + 1.0;
    let power = shifted
        .to_bits()
        .wrapping_sub(ROUND.to_bits())
        .wrapping_add(127)
        << 23;
    e * f32::from_bits(power)
}

/// 1 / (1 + exp(-x)).
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// x sigmoid(x).
#[inline(always)]
pub fn silu_one(x: f32) -> f32 {
    x * sigmoid(x)
}

/// Derivative of SiLU: sigmoid(x) (1 + x (1 - sigmoid(x))).
#[inline(always)]
pub fn silu_slope(x: f32) -> f32 {
    let s = sigmoid(x);
    s * (1.0 + x * (1.0 - s))
}

multiversion! {
    /// d *= SiLU'(a x + b), per channel.
    pub fn mul_silu_slope(x: &[f32], a: &[f32], b: &[f32], d: &mut [f32]) {
        for ((d, &x), (&a, &b)) in d.iter_mut().zip(x).zip(a.iter().zip(b)) {
            *d *= silu_slope(a * x + b);
        }
    }
}

multiversion! {
    /// sum += x.
    pub fn add(x: &[f32], sum: &mut [f32]) {
        for (s, &x) in sum.iter_mut().zip(x) {
            *s += x;
        }
    }
}

multiversion! {
    /// sum += scale x.
    pub fn add_scaled(x: &[f32], scale: f32, sum: &mut [f32]) {
        for (s, &x) in sum.iter_mut().zip(x) {
            *s += scale * x;
        }
    }
}

multiversion! {
    /// sum += (x - m)^2, per channel.
    pub fn add_square_deviation(x: &[f32], m: &[f32], sum: &mut [f32]) {
        for ((s, &x), &m) in sum.iter_mut().zip(x).zip(m) {
            *s += (x - m) * (x - m);
        }
    }
}

multiversion! {
    /// p += d and q += d (x - mean) rstd, per channel.
    pub fn add_norm_sums(d: &[f32], x: &[f32], mean: &[f32], rstd: &[f32], p: &mut [f32], q: &mut [f32]) {
        let n = d.len();
        let (x, mean, rstd, p, q) = (&x[..n], &mean[..n], &rstd[..n], &mut p[..n], &mut q[..n]);
        for i in 0..n {
            p[i] += d[i];
            q[i] += d[i] * ((x[i] - mean[i]) * rstd[i]);
        }
    }
}

multiversion! {
    /// d = e d - m1 - (x - mean) rstd m2, per channel.
    pub fn norm_apply(d: &mut [f32], x: &[f32], mean: &[f32], rstd: &[f32], e: &[f32], m1: &[f32], m2: &[f32]) {
        let n = d.len();
        let (x, mean, rstd) = (&x[..n], &mean[..n], &rstd[..n]);
        let (e, m1, m2) = (&e[..n], &m1[..n], &m2[..n]);
        for i in 0..n {
            d[i] = e[i] * d[i] - m1[i] - (x[i] - mean[i]) * rstd[i] * m2[i];
        }
    }
}

multiversion! {
    /// Sum of products in 32 lanes, lanes added in order.
    pub fn dot(x: &[f32], y: &[f32]) -> f32 {
        let mut lanes = [0.0_f32; 32];
        let (xs, ys) = (x.chunks_exact(32), y.chunks_exact(32));
        let tail: f32 = xs.remainder().iter().zip(ys.remainder()).map(|(x, y)| x * y).sum();
        for (x, y) in xs.zip(ys) {
            for i in 0..32 {
                lanes[i] += x[i] * y[i];
            }
        }
        lanes.iter().sum::<f32>() + tail
    }
}

multiversion! {
    /// Squared distance of two vectors, in 32 lanes, lanes added in order.
    pub fn square_distance(x: &[f32], y: &[f32]) -> f32 {
        let mut lanes = [0.0_f32; 32];
        let (xs, ys) = (x.chunks_exact(32), y.chunks_exact(32));
        let rest = xs.remainder().iter().zip(ys.remainder());
        let tail: f32 = rest.map(|(x, y)| (x - y) * (x - y)).sum();
        for (x, y) in xs.zip(ys) {
            for i in 0..32 {
                let d = x[i] - y[i];
                lanes[i] += d * d;
            }
        }
        lanes.iter().sum::<f32>() + tail
    }
}

multiversion! {
    /// Squared distance of two rows of bytes, exact.
    pub fn square_distance_bytes(x: &[u8], y: &[u8]) -> u64 {
        // 255^2 x 65536 is below 2^32.
        let parts = x.chunks(1 << 16).zip(y.chunks(1 << 16));
        parts.map(|(x, y)| {
            let square = |(&x, &y): (&u8, &u8)| u32::from(x.abs_diff(y)).pow(2);
            u64::from(x.iter().zip(y).map(square).sum::<u32>())
        }).sum()
    }
}

multiversion! {
    /// Softmax numerators in place: row = exp(scale row - max(scale row)); returns (max, sum).
    pub fn softmax_exp(row: &mut [f32], scale: f32) -> (f32, f32) {
        let mut lanes = [f32::NEG_INFINITY; 32];
        let mut chunks = row.chunks_exact(32);
        for chunk in &mut chunks {
            for i in 0..32 {
                lanes[i] = if chunk[i] > lanes[i] { chunk[i] } else { lanes[i] };
            }
        }
        let lanes_max = lanes.iter().fold(f32::NEG_INFINITY, |m, &x| m.max(x));
        let top = chunks.remainder().iter().fold(lanes_max, |m, &x| m.max(x));
        let mut sums = [0.0_f32; 32];
        let mut tail = 0.0;
        let mut chunks = row.chunks_exact_mut(32);
        for chunk in &mut chunks {
            for i in 0..32 {
                chunk[i] = exp(scale * (chunk[i] - top));
                sums[i] += chunk[i];
            }
        }
        for x in chunks.into_remainder() {
            *x = exp(scale * (*x - top));
            tail += *x;
        }
        (scale * top, sums.iter().sum::<f32>() + tail)
    }
}

multiversion! {
    /// row = exp(scale row - lse): the softmax rebuilt from its log-sum-exp.
    pub fn softmax_rebuild(row: &mut [f32], scale: f32, lse: f32) {
        for x in row {
            *x = exp(scale * *x - lse);
        }
    }
}

multiversion! {
    /// ds = p (dp - d) scale, elementwise, into `dp`.
    pub fn softmax_backward(p: &[f32], dp: &mut [f32], d: f32, scale: f32) {
        for (dp, &p) in dp.iter_mut().zip(p) {
            *dp = p * (*dp - d) * scale;
        }
    }
}

multiversion! {
    /// row *= scale.
    pub fn scale(row: &mut [f32], by: f32) {
        for x in row {
            *x *= by;
        }
    }
}

multiversion! {
    /// Sum of squares in f64, 16 lanes added in order.
    pub fn sum_of_squares(x: &[f32]) -> f64 {
        let mut lanes = [0.0_f64; 16];
        let chunks = x.chunks_exact(16);
        let tail: f64 = chunks.remainder().iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        for chunk in chunks {
            for i in 0..16 {
                lanes[i] += f64::from(chunk[i]) * f64::from(chunk[i]);
            }
        }
        lanes.iter().sum::<f64>() + tail
    }
}

/// Numbers of one AdamW step that are the same for all weights.
#[derive(Clone, Copy, Debug)]
pub struct AdamW {
    /// Factor on the gradient (clipping).
    pub clip: f32,
    /// Learning rate.
    pub lr: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// 1 - beta1, rounded once: the difference of the rounded beta1 would be off by more.
    pub fresh1: f32,
    /// 1 - beta2, likewise.
    pub fresh2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Weights shrink by `lr * weight_decay`.
    pub weight_decay: f32,
    /// 1 / (1 - beta1^k).
    pub correct1: f32,
    /// 1 / sqrt(1 - beta2^k).
    pub correct2: f32,
    /// Decay of the average of the weights.
    pub ema_decay: f32,
}

multiversion! {
    /// One AdamW step with decoupled decay, and the weights' moving average.
    pub fn adamw(k: AdamW, g: &[f32], w: &mut [f32], m: &mut [f32], v: &mut [f32], ema: &mut [f32]) {
        let n = g.len();
        let (w, m, v, ema) = (&mut w[..n], &mut m[..n], &mut v[..n], &mut ema[..n]);
        for i in 0..n {
            let g = g[i] * k.clip;
            m[i] = k.beta1 * m[i] + k.fresh1 * g;
            v[i] = k.beta2 * v[i] + k.fresh2 * (g * g);
            let step = (m[i] * k.correct1) / (v[i].sqrt() * k.correct2 + k.eps);
            w[i] = w[i] * (1.0 - k.lr * k.weight_decay) - k.lr * step;
            ema[i] = k.ema_decay * ema[i] + (1.0 - k.ema_decay) * w[i];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_ulps() {
        for i in -8700..8800 {
            let x = i as f32 * 0.01;
            let (got, want) = (f64::from(exp(x)), f64::from(x).exp());
            assert!(
                (got / want - 1.0).abs() < 2.4e-7,
                "exp({x}) = {got}, not {want}"
            );
        }
        assert!(exp(-1e9) < 1.3e-38 && exp(1e9) > 2e38 && exp(0.0) == 1.0);
    }

    #[test]
    fn squared_distances_are_exact_for_bytes() {
        for n in [0, 1, 31, 64, 100, 70_000] {
            let byte = |i: usize, by: usize| (i * by % 256) as u8;
            let x: Vec<u8> = (0..n).map(|i| byte(i, 7919)).collect();
            let y: Vec<u8> = (0..n).map(|i| byte(i, 104_729)).collect();
            let pairs = x.iter().zip(&y);
            let squares = pairs.map(|(&x, &y)| (i64::from(x) - i64::from(y)).pow(2) as u64);
            let expected: u64 = squares.sum();
            assert_eq!(square_distance_bytes(&x, &y), expected);
            let [x, y] = [x, y].map(|v| v.into_iter().map(f32::from).collect::<Vec<f32>>());
            let found = f64::from(square_distance(&x, &y));
            assert!((found - expected as f64).abs() <= 1e-6 * expected as f64);
        }
        assert_eq!(
            square_distance_bytes(&[255; 70_000], &[0; 70_000]),
            70_000 * 65_025
        );
    }

    #[test]
    fn softmax_of_far_values_is_finite() {
        for n in [1, 31, 32, 33, 100] {
            let mut row: Vec<f32> = (0..n).map(|i| 1e4 * (i % 7) as f32).collect();
            let (max, sum) = softmax_exp(&mut row, 0.5);
            assert!(
                sum >= 1.0 && max.is_finite() && row.iter().all(|x| x.is_finite()),
                "{n}"
            );
        }
    }
}
