//! The mathematics of the ops in float64: plain loops, one function per formula of the network's
//! description, nothing shared with the code under test.

use std::cell::Cell;

/// A dense tensor; pictures are [n, h, w, c], the last axis is contiguous.
#[derive(Clone, Debug)]
pub struct Tensor {
    pub shape: Vec<usize>,
    pub data: Vec<f64>,
}

thread_local! {
    static WORK: Cell<u64> = const { Cell::new(0) };
}

/// Multiply-adds of this thread so far: lets a test choose how many finite differences it can afford.
pub fn work() -> u64 {
    WORK.get()
}

fn spend(amount: usize) {
    WORK.set(WORK.get() + amount as u64);
}

impl Tensor {
    pub fn zeros(shape: &[usize]) -> Self {
        Self {
            shape: shape.to_vec(),
            data: vec![0.0; shape.iter().product()],
        }
    }

    pub fn from_f32(shape: &[usize], values: &[f32]) -> Self {
        assert_eq!(shape.iter().product::<usize>(), values.len());
        Self {
            shape: shape.to_vec(),
            data: values.iter().map(|&x| f64::from(x)).collect(),
        }
    }

    /// Samples, height, width, channels; a sequence [n, t, c] is one picture row of t pixels.
    pub fn nhwc(&self) -> [usize; 4] {
        match self.shape[..] {
            [c] => [1, 1, 1, c],
            [n, c] => [n, 1, 1, c],
            [n, t, c] => [n, 1, t, c],
            [n, h, w, c] => [n, h, w, c],
            _ => panic!("no tensor has {} axes", self.shape.len()),
        }
    }

    pub fn at(&self, n: usize, y: usize, x: usize, c: usize) -> f64 {
        let [_, h, w, channels] = self.nhwc();
        self.data[((n * h + y) * w + x) * channels + c]
    }

    pub fn set(&mut self, n: usize, y: usize, x: usize, c: usize, value: f64) {
        let [_, h, w, channels] = self.nhwc();
        self.data[((n * h + y) * w + x) * channels + c] = value;
    }

    /// The tensor whose element (n, y, x, c) is `value(n, y, x, c)`.
    pub fn build(shape: &[usize], value: impl Fn(usize, usize, usize, usize) -> f64) -> Self {
        let mut out = Self::zeros(shape);
        let [n, h, w, c] = out.nhwc();
        for i in 0..n {
            for y in 0..h {
                for x in 0..w {
                    for k in 0..c {
                        out.set(i, y, x, k, value(i, y, x, k));
                    }
                }
            }
        }
        spend(out.data.len());
        out
    }

    pub fn with_channels(&self, channels: usize) -> Vec<usize> {
        let mut shape = self.shape.clone();
        *shape.last_mut().unwrap() = channels;
        shape
    }
}

pub fn silu(x: &Tensor) -> Tensor {
    let data = x.data.iter().map(|&x| x / (1.0 + (-x).exp())).collect();
    spend(8 * x.data.len());
    Tensor {
        shape: x.shape.clone(),
        data,
    }
}

/// Means, then 1 / sqrt(biased variance + eps), per sample and group: [n, 2 groups].
pub fn group_statistics(x: &Tensor, groups: usize, eps: f64) -> Tensor {
    let [n, h, w, c] = x.nhwc();
    let width = c / groups;
    let count = (h * w * width) as f64;
    let mut out = Tensor::zeros(&[n, 2 * groups]);
    for i in 0..n {
        for g in 0..groups {
            let mut values = Vec::new();
            for y in 0..h {
                for q in 0..w {
                    for k in g * width..(g + 1) * width {
                        values.push(x.at(i, y, q, k));
                    }
                }
            }
            let mean = values.iter().sum::<f64>() / count;
            let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / count;
            out.data[i * 2 * groups + g] = mean;
            out.data[i * 2 * groups + groups + g] = 1.0 / (variance + eps).sqrt();
        }
    }
    spend(2 * x.data.len());
    out
}

/// GN(x) gamma + beta, then (1 + scale) and shift per sample and channel from [n, 2 c].
pub fn group_norm(
    x: &Tensor,
    (groups, eps): (usize, f64),
    [gamma, beta]: [&Tensor; 2],
    scale_shift: Option<&Tensor>,
) -> Tensor {
    let c = x.nhwc()[3];
    let width = c / groups;
    let statistics = group_statistics(x, groups, eps);
    Tensor::build(&x.shape, |n, y, q, k| {
        let mean = statistics.data[n * 2 * groups + k / width];
        let inverse_deviation = statistics.data[n * 2 * groups + groups + k / width];
        let normal = (x.at(n, y, q, k) - mean) * inverse_deviation;
        let affine = normal * gamma.data[k] + beta.data[k];
        match scale_shift {
            None => affine,
            Some(p) => affine * (1.0 + p.data[n * 2 * c + k]) + p.data[n * 2 * c + c + k],
        }
    })
}

/// Nearest neighbour, twice the height and width.
pub fn double(x: &Tensor) -> Tensor {
    let [n, h, w, c] = x.nhwc();
    Tensor::build(&[n, 2 * h, 2 * w, c], |i, y, q, k| x.at(i, y / 2, q / 2, k))
}

/// Means of 2x2 pixels.
pub fn halve(x: &Tensor) -> Tensor {
    let [n, h, w, c] = x.nhwc();
    Tensor::build(&[n, h / 2, w / 2, c], |i, y, q, k| {
        let top = x.at(i, 2 * y, 2 * q, k) + x.at(i, 2 * y, 2 * q + 1, k);
        let bottom = x.at(i, 2 * y + 1, 2 * q, k) + x.at(i, 2 * y + 1, 2 * q + 1, k);
        (top + bottom) / 4.0
    })
}

/// Cross-correlation with [k, 3, 3, c], zero padding 1, stride 1, plus bias.
pub fn conv3x3(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Tensor {
    let [n, h, w, c] = x.nhwc();
    let k = bias.data.len();
    spend(n * h * w * k * 9 * c);
    Tensor::build(&[n, h, w, k], |i, y, q, f| {
        let mut sum = bias.data[f];
        for r in 0..3 {
            for s in 0..3 {
                // Pixel (y + r - 1, q + s - 1), if it is inside.
                if y + r < 1 || y + r > h || q + s < 1 || q + s > w {
                    continue;
                }
                let pixel = ((i * h + y + r - 1) * w + q + s - 1) * c;
                let filter = ((f * 3 + r) * 3 + s) * c;
                for ch in 0..c {
                    sum += x.data[pixel + ch] * weight.data[filter + ch];
                }
            }
        }
        sum
    })
}

/// x W^T + b over the last axis; W is [out, in] or [out, 1, 1, in].
pub fn linear(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Tensor {
    let [_, h, w, c] = x.nhwc();
    let k = bias.data.len();
    spend(x.data.len() * k);
    Tensor::build(&x.with_channels(k), |i, y, q, f| {
        let row = ((i * h + y) * w + q) * c;
        let products = (0..c).map(|ch| x.data[row + ch] * weight.data[f * c + ch]);
        bias.data[f] + products.sum::<f64>()
    })
}

/// Per head of `d` channels: softmax(q k^T / sqrt(d)) v; q has any shape, k and v are [n, s, c].
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, d: usize) -> Tensor {
    let [n, h, w, c] = q.nhwc();
    let s = k.shape[1];
    let mut out = Tensor::zeros(&q.shape);
    spend(2 * q.data.len() * s + 8 * n * h * w * c / d * s);
    for i in 0..n {
        for p in 0..h * w {
            for head in 0..c / d {
                let channels = head * d..(head + 1) * d;
                let query = &q.data[(i * h * w + p) * c..][channels.clone()];
                let of =
                    |t: &Tensor, j: usize| t.data[(i * s + j) * c..][channels.clone()].to_vec();
                let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
                let scores: Vec<f64> = (0..s)
                    .map(|j| dot(query, &of(k, j)) / (d as f64).sqrt())
                    .collect();
                let most = scores.iter().fold(f64::NEG_INFINITY, |m, &x| m.max(x));
                let weights: Vec<f64> = scores.iter().map(|x| (x - most).exp()).collect();
                let total: f64 = weights.iter().sum();
                for (j, weight) in weights.iter().enumerate() {
                    for (e, value) in of(v, j).iter().enumerate() {
                        out.data[(i * h * w + p) * c + head * d + e] += weight / total * value;
                    }
                }
            }
        }
    }
    out
}

pub fn add(a: &Tensor, b: &Tensor) -> Tensor {
    assert_eq!(a.shape, b.shape);
    let data = a.data.iter().zip(&b.data).map(|(a, b)| a + b).collect();
    Tensor {
        shape: a.shape.clone(),
        data,
    }
}

/// Side by side along the last axis.
pub fn concat_channels(parts: &[&Tensor]) -> Tensor {
    let channels = parts.iter().map(|p| p.nhwc()[3]).sum();
    Tensor::build(&parts[0].with_channels(channels), |n, y, x, mut c| {
        for part in parts {
            let width = part.nhwc()[3];
            if c < width {
                return part.at(n, y, x, c);
            }
            c -= width;
        }
        unreachable!()
    })
}

/// One after the other within each sample: [n, sum of rows, c].
pub fn concat_rows(parts: &[&Tensor]) -> Tensor {
    let [n, _, _, c] = parts[0].nhwc();
    let rows = |p: &Tensor| p.nhwc()[1] * p.nhwc()[2];
    let total: usize = parts.iter().map(|p| rows(p)).sum();
    let mut data = Vec::new();
    for i in 0..n {
        for part in parts {
            let len = rows(part) * c;
            data.extend_from_slice(&part.data[i * len..(i + 1) * len]);
        }
    }
    Tensor {
        shape: vec![n, total, c],
        data,
    }
}

/// Mean of squared differences.
pub fn mse(y: &Tensor, target: &Tensor) -> f64 {
    let squares = y
        .data
        .iter()
        .zip(&target.data)
        .map(|(y, t)| (y - t).powi(2));
    squares.sum::<f64>() / y.data.len() as f64
}
