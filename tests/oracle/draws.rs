//! Ops that draw random numbers, against the formulas of their counters written again in integers
//! and f64; and the sinusoids of the time steps.

use super::compare::{ROUNDOFF, same_bits};
use super::direct::{Data, Recorded, outputs};
use super::rng::{Rng, seed};
use gmmk::ops::concat::{Axis, concat};
use gmmk::ops::latent_tokens::LatentTokens;
use gmmk::ops::q_sample::QSample;
use gmmk::ops::time_embedding::TimeEmbedding;
use gmmk::ops::timestep::Timestep;
use gmmk::ops::unpack::Unpack;
use gmmk::rng::Stream;
use gmmk::tape::TensorType;

/// Philox4x32 with ten rounds: words of (block, stream, index) under a seed.
fn philox(seed: u64, stream: u64, index: u64, block: u64) -> [u64; 4] {
    const LOW: u64 = 0xffff_ffff;
    let mut counter = [block & LOW, stream, index & LOW, index >> 32];
    let mut key = [seed & LOW, seed >> 32];
    for _ in 0..10 {
        let products = [counter[0] * 0xD251_1F53, counter[2] * 0xCD9E_8D57];
        counter = [
            products[1] >> 32 ^ counter[1] ^ key[0],
            products[1] & LOW,
            products[0] >> 32 ^ counter[3] ^ key[1],
            products[0] & LOW,
        ];
        key = [(key[0] + 0x9E37_79B9) & LOW, (key[1] + 0xBB67_AE85) & LOW];
    }
    counter
}

/// Box-Muller on two words: lane 0 is the cosine.
fn normal(a: u64, b: u64, lane: usize) -> f64 {
    let u1 = ((a >> 8) + 1) as f64 / 16_777_216.0;
    let angle = std::f64::consts::TAU * (b >> 8) as f64 / 16_777_216.0;
    let radius = (-2.0 * u1.ln()).sqrt();
    radius * if lane == 0 { angle.cos() } else { angle.sin() }
}

/// Error of a normal made in f32: the angle, up to 2 pi, is off by 2^-22 or so from its rounding and
/// that of 2 pi; the radius is at most 5.8. Then a few roundoffs of the number itself.
fn normal_limit(value: f64) -> f64 {
    5.8 * 6.0 * ROUNDOFF + 6.0 * ROUNDOFF * value.abs()
}

const SEEDS: [u64; 3] = [0, 11, 0xfeed_0123_4567_89ab];

/// Sample numbers with high words.
fn numbers(rng: &mut Rng, n: usize) -> Vec<u64> {
    (0..n)
        .map(|i| if i % 2 == 0 { i as u64 } else { rng.word() })
        .collect()
}

fn words(numbers: &[u64]) -> Data {
    Data::U32(
        numbers
            .iter()
            .flat_map(|&x| [x as u32, (x >> 32) as u32])
            .collect(),
    )
}

#[test]
fn philox_has_the_published_words() {
    // Random123's known answers: counter words (block, stream, index low, index high).
    assert_eq!(
        philox(0, 0, 0, 0),
        [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]
    );
    let words = philox(
        0x299f31d0_a4093822,
        0x85a308d3,
        0x03707344_13198a2e,
        0x243f6a88,
    );
    assert_eq!(words, [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]);
}

#[test]
fn timesteps() {
    for key in SEEDS {
        for t_max in [1, 2, 100, 1000, u32::MAX] {
            let index = numbers(&mut Rng::new(seed(60_000)), 37);
            let got = outputs(|tape| {
                let seed = tape.input("seed", TensorType::u32(&[2]));
                let numbers = tape.input("numbers", TensorType::u32(&[37, 2]));
                let t = tape.push_one(Timestep { t_max }, &[seed, numbers]).unwrap();
                Recorded {
                    inputs: vec![(seed, words(&[key])), (numbers, words(&index))],
                    outputs: vec![t],
                }
            });
            for (got, &i) in got[0].iter().zip(&index) {
                let want = (philox(key, 3, i, 0)[0] * u64::from(t_max)) >> 32;
                assert_eq!(u64::from(got.to_bits()), want, "seed {key}, sample {i}");
            }
        }
    }
}

#[test]
fn unpacked_pictures() {
    let shapes = [[1, 1, 1, 1], [5, 3, 7, 3], [40, 4, 5, 1], [3, 9, 2, 4]];
    for (case, &[n, h, w, c]) in shapes.iter().enumerate() {
        for flip in [false, true] {
            let mut rng = Rng::new(seed(61_000 + case as u64));
            let bytes: Vec<u8> = (0..n * h * w * c).map(|_| rng.word() as u8).collect();
            let index = numbers(&mut rng, n);
            let key = SEEDS[case % 3];
            let got = outputs(|tape| {
                let pictures = tape.input("pictures", TensorType::u8(&[n, h, w, c]));
                let seed = tape.input("seed", TensorType::u32(&[2]));
                let numbers = tape.input("numbers", TensorType::u32(&[n, 2]));
                let x = tape
                    .push_one(Unpack { flip }, &[pictures, seed, numbers])
                    .unwrap();
                Recorded {
                    inputs: vec![
                        (pictures, Data::U8(bytes.clone())),
                        (seed, words(&[key])),
                        (numbers, words(&index)),
                    ],
                    outputs: vec![x],
                }
            });
            for (at, &got) in got[0].iter().enumerate() {
                let [i, y, x, ch] = [at / (h * w * c), at / (w * c) % h, at / c % w, at % c];
                let mirrored = flip && philox(key, 5, index[i], 0)[0] >= 1 << 31;
                let x = if mirrored { w - 1 - x } else { x };
                let want = f64::from(bytes[((i * h + y) * w + x) * c + ch]) / 127.5 - 1.0;
                // The quotient, below 2, and the difference are rounded once each.
                assert!(
                    (f64::from(got) - want).abs() <= 2.0 * ROUNDOFF,
                    "{case}: element {at}"
                );
            }
        }
    }
}

#[test]
fn forward_process() {
    for (case, &shape) in [[1, 1, 1, 1], [3, 5, 7, 3], [2, 4, 4, 4], [9, 3, 1, 2]]
        .iter()
        .enumerate()
    {
        let mut rng = Rng::new(seed(62_000 + case as u64));
        let count: usize = shape.iter().product();
        let (n, len) = (shape[0], count / shape[0]);
        let x0 = rng.normals(count, 0.0, 0.5);
        let coefficients: Vec<[f32; 2]> = (1..=100)
            .map(|t| 0.94_f64.powi(t))
            .map(|ab| [ab.sqrt() as f32, (1.0 - ab).sqrt() as f32])
            .collect();
        let t: Vec<u32> = (0..n).map(|i| [0, 99, 42][i % 3]).collect();
        let index = numbers(&mut rng, n);
        let key = SEEDS[case % 3];
        let got = outputs(|tape| {
            let picture = tape.input("x0", TensorType::f32(&shape));
            let steps = tape.input("t", TensorType::u32(&[n]));
            let seed = tape.input("seed", TensorType::u32(&[2]));
            let numbers = tape.input("numbers", TensorType::u32(&[n, 2]));
            let op = QSample {
                coefficients: coefficients.clone(),
            };
            let out = tape.push(op, &[picture, steps, seed, numbers]).unwrap();
            Recorded {
                inputs: vec![
                    (picture, Data::F32(x0.clone())),
                    (steps, Data::U32(t.clone())),
                    (seed, words(&[key])),
                    (numbers, words(&index)),
                ],
                outputs: out,
            }
        });
        for at in 0..count {
            let (i, e) = (at / len, at % len);
            let x = philox(key, 2, index[i], e as u64 / 4);
            let eps = normal(x[e % 4 / 2 * 2], x[e % 4 / 2 * 2 + 1], e % 2);
            let [a, b] = coefficients[t[i] as usize].map(f64::from);
            let xt = a * f64::from(x0[at]) + b * eps;
            let limit = normal_limit(eps) + 2.0 * ROUNDOFF * xt.abs();
            assert!((f64::from(got[1][at]) - eps).abs() <= limit, "eps {at}");
            assert!((f64::from(got[0][at]) - xt).abs() <= limit, "x_t {at}");
        }
    }
}

/// The mixture of a case of [`conditioning_tokens`].
struct Mixture {
    stream: Stream,
    means: Vec<f32>,
    sigma: f32,
    code: f32,
}

impl Mixture {
    /// Element `e` of `width` of an active token, and how far f32 may be from it.
    fn token(&self, key: u64, index: u64, feature: usize, [e, width]: [usize; 2]) -> [f64; 2] {
        let flat = feature * width + e;
        let stream = u64::from(self.stream == Stream::LatentFresh);
        let x = philox(key, stream, index, flat as u64 / 2);
        let component = (x[flat % 2] * self.means.len() as u64) >> 32;
        let mean = f64::from(self.means[component as usize]);
        let eps = normal(x[2], x[3], flat % 2);
        let bits = philox(0x676d_6d6b, 4, feature as u64, e as u64 / 128)[e / 32 % 4];
        let sign = if bits >> (e % 32) & 1 == 1 { 1.0 } else { -1.0 };
        let sigma = f64::from(self.sigma);
        let limit = sigma * normal_limit(eps) + 8.0 * ROUNDOFF * (2.0 + mean.abs());
        [f64::from(self.code) * sign + mean + sigma * eps, limit]
    }
}

/// Tokens [n, k, width] of the op.
fn tokens(
    mixture: &Mixture,
    attributes: &[u8],
    [n, k, width]: [usize; 3],
    key: u64,
    index: &[u64],
) -> Vec<f32> {
    let got = outputs(|tape| {
        let a = tape.input("attributes", TensorType::u8(&[n, k]));
        let seed = tape.input("seed", TensorType::u32(&[2]));
        let numbers = tape.input("numbers", TensorType::u32(&[n, 2]));
        let op = LatentTokens {
            width,
            stream: mixture.stream,
            means: mixture.means.clone(),
            sigma: mixture.sigma,
            code: mixture.code,
        };
        let out = tape.push_one(op, &[a, seed, numbers]).unwrap();
        Recorded {
            inputs: vec![
                (a, Data::U8(attributes.to_vec())),
                (seed, words(&[key])),
                (numbers, words(index)),
            ],
            outputs: vec![out],
        }
    });
    got.concat()
}

#[test]
fn conditioning_tokens() {
    use Stream::{LatentFixed, LatentFresh};
    let cases = [
        ([3, 5, 7], LatentFixed, vec![-1.0, 0.0, 1.0], 0.2, 1.0),
        ([2, 40, 12], LatentFresh, vec![-1.0, 0.0, 1.0], 0.2, 0.0),
        ([1, 1, 1], LatentFixed, vec![0.0], 0.84, 1.0),
        (
            [2, 3, 300],
            LatentFresh,
            vec![-2.0, -1.0, 0.5, 3.0],
            0.1,
            0.5,
        ),
    ];
    for (case, (shape, stream, means, sigma, code)) in cases.into_iter().enumerate() {
        let mixture = Mixture {
            stream,
            means,
            sigma,
            code,
        };
        let [n, k, width] = shape;
        let mut rng = Rng::new(seed(63_000 + case as u64));
        let active = (0..n * k).map(|i| i == 0 || rng.between(0, 2) > 0);
        let attributes: Vec<u8> = active.map(u8::from).collect();
        let index = numbers(&mut rng, n);
        let key = SEEDS[case % 3];
        let got = tokens(&mixture, &attributes, shape, key, &index);
        for (at, &got) in got.iter().enumerate() {
            let (i, feature, e) = (at / (k * width), at / width % k, at % width);
            if attributes[i * k + feature] == 0 {
                assert_eq!(got.to_bits(), 0, "an inactive token is zero");
                continue;
            }
            let [want, limit] = mixture.token(key, index[i], feature, [e, width]);
            let error = (f64::from(got) - want).abs();
            assert!(error <= limit, "{case}: {at}: {got}, not {want}");
        }
    }
}

#[test]
fn time_embeddings() {
    for (dim, cosines_first, shift) in [
        (1, true, 0.0),
        (2, true, 0.0),
        (9, true, 0.0),
        (32, false, 1.0),
        (128, true, 0.0),
        (7, false, 0.5),
    ] {
        let t: Vec<u32> = vec![0, 1, 7, 50, 99, 500, 999];
        let n = t.len();
        let got = outputs(|tape| {
            let steps = tape.input("t", TensorType::u32(&[n]));
            let op = TimeEmbedding {
                dim,
                flip_sin_to_cos: cosines_first,
                freq_shift: shift,
            };
            let out = tape.push_one(op, &[steps]).unwrap();
            Recorded {
                inputs: vec![(steps, Data::U32(t.clone()))],
                outputs: vec![out],
            }
        });
        let half = dim / 2;
        for (row, &t) in got[0].chunks(dim).zip(&t) {
            for (j, &got) in row.iter().enumerate().take(2 * half) {
                let exponent =
                    -(10_000_f64.ln()) * (j % half) as f64 / (half as f64 - f64::from(shift));
                let angle = f64::from(t) * exponent.exp();
                let cosine = (j < half) == cosines_first;
                let want = if cosine { angle.cos() } else { angle.sin() };
                // The exponent is rounded three times, which moves its exponential by as many of
                // its roundoffs; then exponential and product.
                let limit = angle * ROUNDOFF * (4.0 + 4.0 * exponent.abs()) + 2.0 * ROUNDOFF;
                let error = (f64::from(got) - want).abs();
                assert!(
                    error <= limit,
                    "{dim}: t {t}, column {j}: {got}, not {want}"
                );
            }
            assert!(
                dim % 2 == 0 || row[dim - 1] == 0.0,
                "an odd width ends in a zero"
            );
        }
    }
}

/// Pictures, noise and embeddings made in slices of wider buffers are those made alone.
#[test]
fn draws_into_slices() {
    let (n, shape) = (3, [3, 2, 3, 3]);
    let x0 = Rng::new(seed(64_000)).normals(54, 0.0, 1.0);
    let bytes: Vec<u8> = (0..54).map(|i| 4 * i).collect();
    let run = |sliced: bool| {
        outputs(|tape| {
            let steps = tape.input("t", TensorType::u32(&[n]));
            let key = tape.input("seed", TensorType::u32(&[2]));
            let numbers = tape.input("numbers", TensorType::u32(&[n, 2]));
            let picture = tape.input("x0", TensorType::f32(&shape));
            let packed = tape.input("packed", TensorType::u8(&shape));
            let noise = QSample {
                coefficients: vec![[0.9, 0.1], [0.5, 0.7]],
            };
            let noisy = tape.push(noise, &[picture, steps, key, numbers]).unwrap();
            let unpacked = tape
                .push_one(Unpack { flip: true }, &[packed, key, numbers])
                .unwrap();
            let [first, second] = [5, 8].map(|dim| {
                let op = TimeEmbedding {
                    dim,
                    flip_sin_to_cos: true,
                    freq_shift: 0.0,
                };
                tape.push_one(op, &[steps]).unwrap()
            });
            if sliced {
                concat(tape, Axis::Channels, &[noisy[1], unpacked, noisy[0]]).unwrap();
                concat(tape, Axis::Channels, &[first, second]).unwrap();
            }
            Recorded {
                inputs: vec![
                    (steps, Data::U32(vec![0, 1, 0])),
                    (key, words(&SEEDS[2..])),
                    (numbers, words(&[0, 1, 1 << 40])),
                    (picture, Data::F32(x0.clone())),
                    (packed, Data::U8(bytes.clone())),
                ],
                outputs: vec![noisy[0], noisy[1], unpacked, first, second],
            }
        })
    };
    for (alone, sliced) in run(false).iter().zip(&run(true)) {
        same_bits(alone, sliced).unwrap();
    }
}
