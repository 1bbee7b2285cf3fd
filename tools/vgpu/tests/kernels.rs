//! Whole kernels against f64 on the host, in every order of blocks and warps, on one thread and two.

#![allow(clippy::unwrap_used)] // A test that meets an error should stop.

mod common;

use common::{bf16, floats, noise, put16, put32, wide};
use vgpu::exec::launch::{Options, Order};
use vgpu::harness::compile;
use vgpu::machine::{Machine, Outcome, Shape};

const SOURCE: &str = include_str!("kernels/conv.cu");

struct Conv {
    batch: usize,
    size: usize,
    channels: usize,
    outputs: usize,
}

impl Conv {
    fn run(&self, ptx: &str, options: Options) -> (Vec<f32>, Outcome) {
        let pixels = self.batch * self.size * self.size;
        let mut m = Machine::new(1 << 30);
        m.options = options;
        let module = m.load(ptx).unwrap();
        let (x, w) = self.data();
        let (dx, dw) = (put16(&mut m, &x), put16(&mut m, &w));
        let y = m.memory.alloc((pixels * self.outputs * 4) as u64).unwrap();
        let shape = Shape {
            grid: [pixels.div_ceil(64) as u32, (self.outputs / 64) as u32, 1],
            ..Shape::linear(1, 128)
        };
        let sizes = [
            self.batch,
            self.size,
            self.size,
            self.channels,
            self.outputs,
        ]
        .map(|v| v as u64);
        let outcome = m
            .call(&module, "conv", shape, &[&[y, dx, dw], &sizes[..]].concat())
            .unwrap();
        assert!(
            outcome.findings.is_empty() && outcome.error == 0,
            "{:?}",
            outcome.findings
        );
        (floats(&m, y, pixels * self.outputs), outcome)
    }

    fn data(&self) -> (Vec<u16>, Vec<u16>) {
        let pixels = self.batch * self.size * self.size;
        (
            bf16(&noise(1, pixels * self.channels)),
            bf16(&noise(2, self.outputs * 9 * self.channels)),
        )
    }

    /// One output in f64, and the sum of its terms' sizes.
    fn exact(&self, x: &[u16], w: &[u16], p: usize, o: usize) -> (f64, f64) {
        let (s, c) = (self.size as i64, self.channels);
        let (n, row, column) = (p as i64 / (s * s), p as i64 / s % s, p as i64 % s);
        let (mut sum, mut size) = (0.0, 0.0);
        for tap in 0..9 {
            let (r, q) = (row + tap / 3 - 1, column + tap % 3 - 1);
            if r < 0 || q < 0 || r >= s || q >= s {
                continue;
            }
            for k in 0..c {
                let v = wide(x[((n * s + r) * s + q) as usize * c + k])
                    * wide(w[(o * 9 + tap as usize) * c + k]);
                sum += v;
                size += v.abs();
            }
        }
        (sum, size)
    }
}

#[test]
fn a_convolution_is_right_in_every_order() {
    let ptx = compile(SOURCE, "conv.cu", "compute_80", &[]);
    // 5 x 5 pixels: borders and a last block that is not full.
    let conv = Conv {
        batch: 3,
        size: 5,
        channels: 64,
        outputs: 64,
    };
    let (x, w) = conv.data();
    let (y, outcome) = conv.run(&ptx, Options::default());
    for (i, got) in y.iter().enumerate() {
        let (want, size) = conv.exact(&x, &w, i / 64, i % 64);
        assert!(
            (f64::from(*got) - want).abs() <= 1e-6 * size,
            "{i}: {got}, expected {want}"
        );
    }
    let mma: u64 = 2 * (64 / 8) * 4 * 18 * 2;
    let counted: u64 = outcome
        .counts
        .lines
        .iter()
        .zip(0..)
        .map(|(l, _)| l.runs)
        .sum();
    assert!(counted > mma);
    for order in [Order::Reverse, Order::Random(3), Order::Random(4)] {
        for threads in [1, 2] {
            let (z, _) = conv.run(
                &ptx,
                Options {
                    order,
                    threads,
                    ..Options::default()
                },
            );
            assert!(
                y.iter().zip(&z).all(|(a, b)| a.to_bits() == b.to_bits()),
                "{order:?}, {threads} threads"
            );
        }
    }
    // As real tensor cores cut: close, but not the same.
    let (z, _) = conv.run(
        &ptx,
        Options {
            truncate: 8,
            ..Options::default()
        },
    );
    let far = y
        .iter()
        .zip(&z)
        .map(|(a, b)| (a - b).abs())
        .fold(0f32, f32::max);
    assert!(far > 0.0 && far < 1e-4, "{far}");
}

#[test]
fn group_norm_is_right() {
    let ptx = compile(SOURCE, "conv.cu", "compute_80", &[]);
    let (images, pixels, channels, groups) = (2, 49, 24, 4);
    let mut m = Machine::new(1 << 30);
    let module = m.load(&ptx).unwrap();
    let x = noise(5, images * pixels * channels);
    let (scale, shift) = (noise(6, channels), noise(7, channels));
    let (dx, ds, dt) = (
        put32(&mut m, &x),
        put32(&mut m, &scale),
        put32(&mut m, &shift),
    );
    let y = m.memory.alloc((x.len() * 4) as u64).unwrap();
    let sizes = [pixels, channels, groups].map(|v| v as u64);
    let outcome = m
        .call(
            &module,
            "group_norm",
            Shape::linear((images * groups) as u32, 256),
            &[&[y, dx, ds, dt], &sizes[..]].concat(),
        )
        .unwrap();
    assert!(
        outcome.findings.is_empty() && outcome.error == 0,
        "{:?}",
        outcome.findings
    );
    let got = floats(&m, y, x.len());
    let w = channels / groups;
    for image in 0..images {
        for g in 0..groups {
            let index = |p: usize, c: usize| (image * pixels + p) * channels + g * w + c;
            let all: Vec<f64> = (0..pixels)
                .flat_map(|p| (0..w).map(move |c| (p, c)))
                .map(|(p, c)| x[index(p, c)].into())
                .collect();
            let mean = all.iter().sum::<f64>() / all.len() as f64;
            let var = all.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / all.len() as f64;
            for (p, c) in (0..pixels).flat_map(|p| (0..w).map(move |c| (p, c))) {
                let v = (f64::from(x[index(p, c)]) - mean) / (var + 1e-5).sqrt()
                    * f64::from(scale[g * w + c])
                    + f64::from(shift[g * w + c]);
                let want = v / (1.0 + (-v).exp());
                assert!((f64::from(got[index(p, c)]) - want).abs() < 2e-6, "{want}");
            }
        }
    }
}
