//! Kernels that Triton and CUTLASS made, against f64 on the host. The scripts in `fixtures/` made the PTX.

#![allow(clippy::unwrap_used)] // A test that meets an error should stop.

mod common;

use common::{bf16, floats, noise, put16, put32, wide};
use std::io::Read;
use std::path::Path;
use vgpu::decode::Loaded;
use vgpu::machine::{Machine, Outcome, Shape};

fn fixture(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name);
    let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    if !name.ends_with(".gz") {
        return String::from_utf8(bytes).unwrap();
    }
    let mut text = String::new();
    flate2::read::GzDecoder::new(&bytes[..])
        .read_to_string(&mut text)
        .unwrap();
    text
}

/// The number behind a word in the first line.
fn head(text: &str, word: &str) -> u32 {
    let rest = text
        .lines()
        .next()
        .unwrap()
        .split(&format!("{word} "))
        .nth(1)
        .unwrap();
    rest.split(|c: char| !c.is_ascii_digit())
        .next()
        .unwrap()
        .parse()
        .unwrap()
}

struct Kernel {
    m: Machine,
    module: Loaded,
    name: String,
    shape: Shape,
}

impl Kernel {
    fn new(text: &str) -> Kernel {
        let mut m = Machine::new(1 << 30);
        let module = m.load(text).unwrap();
        assert_eq!(module.kernels.len(), 1);
        let name = module.kernels.keys().next().unwrap().clone();
        let shape = Shape {
            dynamic: head(text, "shared"),
            ..Shape::linear(1, 128)
        };
        Kernel {
            m,
            module,
            name,
            shape,
        }
    }

    /// Launches with two more null pointers, as Triton's kernels take them.
    fn run(&mut self, grid: [u32; 3], params: &[u64]) -> Outcome {
        let shape = Shape { grid, ..self.shape };
        let done = self
            .m
            .call(&self.module, &self.name, shape, params)
            .unwrap();
        let texts: Vec<String> = done.findings.iter().map(ToString::to_string).collect();
        assert!(
            done.error == 0 && texts.is_empty(),
            "{}: error {}: {}",
            self.name,
            done.error,
            texts.join("\n")
        );
        done
    }
}

/// Both specialisations: sizes that 16 divides, and others.
fn both(name: &str, test: impl Fn(&mut Kernel, bool)) {
    for divisible in [false, true] {
        let text = fixture(&format!(
            "triton_{name}{}.ptx",
            if divisible { "_16" } else { "" }
        ));
        test(&mut Kernel::new(&text), divisible);
    }
}

fn close(got: f32, want: f64, bound: f64, what: &str) {
    assert!(
        (f64::from(got) - want).abs() <= bound,
        "{what}: {got}, expected {want} within {bound:e}"
    );
}

#[test]
fn triton_matmul() {
    both("matmul", |k, divisible| {
        let (m, n, depth) = if divisible {
            (96, 80, 112)
        } else {
            (70, 53, 45)
        };
        let (a, b) = (bf16(&noise(1, m * depth)), bf16(&noise(2, depth * n)));
        let (da, db) = (put16(&mut k.m, &a), put16(&mut k.m, &b));
        let c = k.m.memory.alloc((m * n * 4) as u64).unwrap();
        k.run(
            [m.div_ceil(64) as u32, n.div_ceil(64) as u32, 1],
            &[da, db, c, m as u64, n as u64, depth as u64, 0, 0],
        );
        for (i, got) in floats(&k.m, c, m * n).iter().enumerate() {
            let terms = (0..depth).map(|d| wide(a[i / n * depth + d]) * wide(b[d * n + i % n]));
            let size: f64 = terms.clone().map(f64::abs).sum();
            close(*got, terms.sum(), 1e-6 * size, "matmul");
        }
    });
}

#[test]
fn triton_softmax() {
    both("softmax", |k, divisible| {
        let (rows, columns) = (5, if divisible { 208 } else { 201 });
        let x: Vec<f32> = noise(3, rows * columns).iter().map(|v| 8.0 * v).collect();
        let dx = put32(&mut k.m, &x);
        let out = k.m.memory.alloc((x.len() * 4) as u64).unwrap();
        k.run([rows as u32, 1, 1], &[out, dx, columns as u64, 0, 0]);
        for (got, row) in floats(&k.m, out, x.len())
            .chunks(columns)
            .zip(x.chunks(columns))
        {
            let total: f64 = row.iter().map(|v| f64::from(*v).exp()).sum();
            for (g, v) in got.iter().zip(row) {
                let want = f64::from(*v).exp() / total;
                close(*g, want, 2e-6 * want, "softmax");
            }
        }
    });
}

#[test]
fn triton_layer_norm() {
    both("layer_norm", |k, divisible| {
        let (rows, columns) = (4, if divisible { 192 } else { 187 });
        let x = bf16(&noise(4, rows * columns));
        let (w, b) = (noise(5, columns), noise(6, columns));
        let (dx, dw, db) = (
            put16(&mut k.m, &x),
            put32(&mut k.m, &w),
            put32(&mut k.m, &b),
        );
        let out = k.m.memory.alloc((x.len() * 4) as u64).unwrap();
        k.run(
            [rows as u32, 1, 1],
            &[out, dx, dw, db, columns as u64, 0, 0],
        );
        for (got, row) in floats(&k.m, out, x.len())
            .chunks(columns)
            .zip(x.chunks(columns))
        {
            let v: Vec<f64> = row.iter().map(|h| wide(*h)).collect();
            let mean = v.iter().sum::<f64>() / v.len() as f64;
            let var = v.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / v.len() as f64;
            for (i, g) in got.iter().enumerate() {
                let want = (v[i] - mean) / (var + 1e-5).sqrt() * f64::from(w[i]) + f64::from(b[i]);
                close(*g, want, 3e-6, "layer norm");
            }
        }
    });
}

#[test]
fn triton_attention() {
    both("attention", |k, divisible| {
        let (heads, length, d) = (2, if divisible { 112 } else { 101 }, 32);
        let n = heads * length * d;
        let [q, key, v] = [7, 8, 9].map(|seed| bf16(&noise(seed, n)));
        let [dq, dk, dv] = [&q, &key, &v].map(|x| put16(&mut k.m, x));
        let out = k.m.memory.alloc((n * 4) as u64).unwrap();
        let scale = 0.7f32;
        let params = [
            out,
            dq,
            dk,
            dv,
            length as u64,
            u64::from(scale.to_bits()),
            0,
            0,
        ];
        k.run([length.div_ceil(64) as u32, heads as u32, 1], &params);
        let got = floats(&k.m, out, n);
        for row in 0..heads * length {
            let first = row / length * length;
            let score = |c: usize| -> f64 {
                let dot: f64 = (0..d)
                    .map(|i| wide(q[row * d + i]) * wide(key[(first + c) * d + i]))
                    .sum();
                dot * f64::from(scale)
            };
            let p: Vec<f64> = (0..length).map(|c| score(c).exp()).collect();
            let total: f64 = p.iter().sum();
            for i in 0..d {
                let terms = (0..length).map(|c| p[c] / total * wide(v[(first + c) * d + i]));
                let size: f64 = terms.clone().map(f64::abs).sum();
                // The weights are rounded to bf16: half a unit in the last of 8 bits.
                close(got[row * d + i], terms.sum(), size / 256.0, "attention");
            }
        }
    });
}

#[test]
fn triton_atomics() {
    both("histogram", |k, _| {
        let n = 1000;
        let x: Vec<u32> = noise(10, n)
            .iter()
            .map(|v| ((v + 1.0) * 8.0) as u32)
            .collect();
        let dx =
            k.m.upload(&x.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>())
                .unwrap();
        let out = put32(&mut k.m, &[0.0; 16]);
        k.run([n.div_ceil(128) as u32, 1, 1], &[out, dx, n as u64, 0, 0]);
        for (bin, got) in floats(&k.m, out, 16).iter().enumerate() {
            assert_eq!(*got, x.iter().filter(|v| **v == bin as u32).count() as f32);
        }
    });
}

/// Philox 4x32 with ten rounds, from Salmon et al., SC11.
fn philox(mut c: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let (a, b) = (u64::from(c[0]) * 0xD251_1F53, u64::from(c[2]) * 0xCD9E_8D57);
        c = [
            (b >> 32) as u32 ^ c[1] ^ key[0],
            b as u32,
            (a >> 32) as u32 ^ c[3] ^ key[1],
            a as u32,
        ];
        key = [
            key[0].wrapping_add(0x9E37_79B9),
            key[1].wrapping_add(0xBB67_AE85),
        ];
    }
    c
}

#[test]
fn triton_philox() {
    both("random", |k, _| {
        let (n, seed) = (500, 1234u32);
        let out = k.m.memory.alloc(4 * n).unwrap();
        k.run([n.div_ceil(128) as u32, 1, 1], &[out, seed.into(), n, 0, 0]);
        for (i, got) in floats(&k.m, out, n as usize).iter().enumerate() {
            let x = philox([i as u32, 0, 0, 0], [seed, 0])[0] as i32;
            let want = if x < 0 { -x - 1 } else { x } as f32 * 4.656_612_7e-10;
            assert_eq!(got.to_bits(), want.to_bits(), "{i}");
        }
    });
}

/// CUTLASS's kernel of one direction on 2 images of 9x9x32 and 64 filters of 3x3; the result.
fn cutlass(direction: &str, a: &[u16], b: &[u16], outputs: usize) -> Vec<f32> {
    let text = fixture(&format!("cutlass_{direction}.ptx.gz"));
    let first = text.lines().next().unwrap();
    let numbers: Vec<u32> = first
        .split("grid ")
        .nth(1)
        .unwrap()
        .split([' ', ','])
        .take(3)
        .map(|n| n.parse().unwrap())
        .collect();
    let hex = first.split("params ").nth(1).unwrap();
    let mut bytes: Vec<u8> = (0..hex.len() / 2)
        .map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap())
        .collect();
    let mut k = Kernel::new(&text);
    let (da, db) = (put16(&mut k.m, a), put16(&mut k.m, b));
    let d = k.m.memory.alloc((outputs * 4) as u64).unwrap();
    let mut patched = 0;
    for at in (0..bytes.len() - 7).step_by(8) {
        let value = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        for (mark, address) in [
            (0x1111_1111_1111_0000, da),
            (0x2222_2222_2222_0000, db),
            (0x3333_3333_3333_0000, d),
        ] {
            if value == mark {
                bytes[at..at + 8].copy_from_slice(&address.to_le_bytes());
                patched += 1;
            }
        }
    }
    assert!(patched >= 3, "{patched} pointers");
    let kernel = k.module.kernels[&k.name].as_ref().unwrap();
    assert_eq!(kernel.param_bytes as usize, bytes.len());
    let shape = Shape {
        grid: [numbers[0], numbers[1], numbers[2]],
        block: [head(&text, "threads"), 1, 1],
        ..k.shape
    };
    let done = k.m.launch(&k.module, kernel, shape, &bytes);
    let texts: Vec<String> = done.findings.iter().map(ToString::to_string).collect();
    assert!(
        done.error == 0 && texts.is_empty(),
        "{direction}: error {}: {}",
        done.error,
        texts.join("\n")
    );
    floats(&k.m, d, outputs)
}

const C: usize = 32;
const K: usize = 64;
const S: i64 = 9;

/// All (image, output pixel, tap, input pixel) of the convolution.
fn taps(mut f: impl FnMut(usize, usize, usize)) {
    for n in 0..2 {
        for (y, x, tap) in
            (0..S).flat_map(|y| (0..S).flat_map(move |x| (0..9).map(move |t| (y, x, t))))
        {
            let (r, c) = (y + tap / 3 - 1, x + tap % 3 - 1);
            if (0..S).contains(&r) && (0..S).contains(&c) {
                f(
                    ((n * S + y) * S + x) as usize,
                    tap as usize,
                    ((n * S + r) * S + c) as usize,
                );
            }
        }
    }
}

fn compare(what: &str, got: &[f32], want: &[f64], size: &[f64]) {
    let worst = got
        .iter()
        .zip(want)
        .zip(size)
        .map(|((g, w), s)| (f64::from(*g) - w).abs() / s.max(1e-30))
        .fold(0.0, f64::max);
    println!("CUTLASS {what}: worst error {worst:.1e} of the terms' sum");
    assert!(worst < 1e-6, "{what}: {worst:e}");
}

#[test]
fn cutlass_fprop() {
    let (x, w) = (bf16(&noise(11, 162 * C)), bf16(&noise(12, K * 9 * C)));
    let (mut want, mut size) = (vec![0.0; 162 * K], vec![0.0; 162 * K]);
    taps(|out, tap, from| {
        for (k, c) in (0..K).flat_map(|k| (0..C).map(move |c| (k, c))) {
            let v = wide(x[from * C + c]) * wide(w[(k * 9 + tap) * C + c]);
            want[out * K + k] += v;
            size[out * K + k] += v.abs();
        }
    });
    compare("fprop", &cutlass("fprop", &x, &w, want.len()), &want, &size);
}

#[test]
fn cutlass_dgrad() {
    let (dy, w) = (bf16(&noise(13, 162 * K)), bf16(&noise(14, K * 9 * C)));
    let (mut want, mut size) = (vec![0.0; 162 * C], vec![0.0; 162 * C]);
    taps(|out, tap, from| {
        for (k, c) in (0..K).flat_map(|k| (0..C).map(move |c| (k, c))) {
            let v = wide(dy[out * K + k]) * wide(w[(k * 9 + tap) * C + c]);
            want[from * C + c] += v;
            size[from * C + c] += v.abs();
        }
    });
    compare(
        "dgrad",
        &cutlass("dgrad", &dy, &w, want.len()),
        &want,
        &size,
    );
}

#[test]
fn cutlass_wgrad() {
    let (dy, x) = (bf16(&noise(15, 162 * K)), bf16(&noise(16, 162 * C)));
    let (mut want, mut size) = (vec![0.0; K * 9 * C], vec![0.0; K * 9 * C]);
    taps(|out, tap, from| {
        for (k, c) in (0..K).flat_map(|k| (0..C).map(move |c| (k, c))) {
            let v = wide(dy[out * K + k]) * wide(x[from * C + c]);
            want[(k * 9 + tap) * C + c] += v;
            size[(k * 9 + tap) * C + c] += v.abs();
        }
    });
    compare(
        "wgrad",
        &cutlass("wgrad", &dy, &x, want.len()),
        &want,
        &size,
    );
}
