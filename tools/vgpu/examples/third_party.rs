//! Kernels of llm.c and unet.cu, whose sources are not part of this repository, against f64 on the host.
//!
//!     git clone https://github.com/karpathy/llm.c && git clone https://github.com/clu0/unet.cu
//!     nvcc -ptx -arch=sm_80 -Illm.c/llmc llm.c/train_gpt2_fp32.cu -o DIR/llmc.ptx
//!     nvcc -ptx -arch=sm_80 unet.cu/dev/groupnorm.cu -o DIR/groupnorm.ptx     # and conv2d_k3.cu
//!     GMMK_THIRD_PARTY=DIR cargo run --release -p vgpu --example third_party
//!
//! Every kernel that is there is run with all checks; the largest error is printed, and the first finding: one is
//! due, llm.c's `softmax_autoregressive_backward_kernel` writes `block_acc` again while other warps still read it.

use std::collections::BTreeMap;
use vgpu::decode::Loaded;
use vgpu::machine::{Machine, Shape};

type Done = Result<f64, String>;

/// A kernel on its machine, and the buffers it was given.
struct Bench {
    m: Machine,
    module: Loaded,
    findings: Vec<String>,
}

impl Bench {
    /// Random numbers between -1 and 1 from a seed, in f32, and their buffer.
    fn noise(&mut self, seed: u64, n: usize) -> (u64, Vec<f64>) {
        let mut s = seed;
        let mut next = || vgpu::exec::launch::next(&mut s) >> 40;
        let v: Vec<f32> = (0..n)
            .map(|_| next() as f32 / (1 << 23) as f32 - 1.0)
            .collect();
        let wide = v.iter().map(|x| f64::from(*x)).collect();
        (self.put(&v), wide)
    }

    fn put(&mut self, v: &[f32]) -> u64 {
        self.bytes(v.iter().flat_map(|x| x.to_le_bytes()).collect())
    }

    fn whole(&mut self, v: &[i32]) -> u64 {
        self.bytes(v.iter().flat_map(|x| x.to_le_bytes()).collect())
    }

    fn bytes(&mut self, v: Vec<u8>) -> u64 {
        self.m.upload(&v).unwrap_or(0)
    }

    /// A buffer that nobody has written.
    fn room(&mut self, n: usize) -> u64 {
        self.m.memory.alloc(4 * n as u64).unwrap_or(0)
    }

    fn get(&self, at: u64, n: usize) -> Vec<f64> {
        let words = self.m.download(at, 4 * n);
        let one = |c: &[u8]| f64::from(f32::from_le_bytes([c[0], c[1], c[2], c[3]]));
        words.chunks_exact(4).map(one).collect()
    }

    /// Launches the kernel whose (mangled) name holds `name`.
    fn run(
        &mut self,
        name: &str,
        grid: [u32; 2],
        threads: u32,
        dynamic: u32,
        params: &[u64],
    ) -> Result<(), String> {
        let names = || self.module.kernels.keys();
        let exact = names().find(|k| *k == name);
        let full = exact.or_else(|| names().find(|k| k.contains(name)));
        let full = full.ok_or_else(|| format!("no kernel {name}"))?.clone();
        let shape = Shape {
            grid: [grid[0], grid[1], 1],
            dynamic,
            ..Shape::linear(1, threads)
        };
        let done = self.m.call(&self.module, &full, shape, params)?;
        let found = done.findings.iter().map(ToString::to_string);
        self.findings.extend(found);
        match done.error {
            0 => Ok(()),
            code => Err(format!("error {code}: {}", self.findings.join("\n"))),
        }
    }
}

/// The largest difference relative to the largest expected value.
fn error(got: &[f64], want: &[f64]) -> Done {
    let size = want.iter().fold(1e-30, |s: f64, w| s.max(w.abs()));
    let differences = got.iter().zip(want).map(|(g, w)| (g - w).abs());
    let worst = differences.fold(0.0, |s: f64, d| if d.is_nan() { d } else { s.max(d) });
    if got.len() == want.len() {
        Ok(worst / size)
    } else {
        Err("another number of results".to_owned())
    }
}

fn f(x: f32) -> u64 {
    u64::from(x.to_bits())
}

/// Mean and 1 / standard deviation.
fn moments(x: &[f64]) -> (f64, f64) {
    let n = x.len() as f64;
    let mean = x.iter().sum::<f64>() / n;
    let var = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
    (mean, 1.0 / (var + 1e-5).sqrt())
}

const B: usize = 2;
const T: usize = 20;
const C: usize = 96;

fn encoder(b: &mut Bench) -> Done {
    let ids: Vec<i32> = (0..B * T).map(|i| (7 * i % 11) as i32).collect();
    let inp = b.whole(&ids);
    let (wte, te) = b.noise(1, 11 * C);
    let (wpe, pe) = b.noise(2, T * C);
    let out = b.room(B * T * C);
    let numbers = [B as u64, T as u64, C as u64];
    let params = [&[out, inp, wte, wpe], &numbers[..]].concat();
    b.run("encoder_forward_kernel3", [2, 1], 512, 0, &params)?;
    let at = |i: usize| te[ids[i / C] as usize * C + i % C] + pe[i / C % T * C + i % C];
    let forward = error(
        &b.get(out, B * T * C),
        &(0..B * T * C).map(at).collect::<Vec<_>>(),
    )?;
    let (dout, d) = b.noise(3, B * T * C);
    let (dwte, dwpe) = (b.put(&vec![0.0; 11 * C]), b.put(&vec![0.0; T * C]));
    let params = [&[dwte, dwpe, dout, inp], &numbers[..]].concat();
    b.run("encoder_backward_kernel", [15, 1], 256, 0, &params)?;
    let mut want = vec![0.0; 11 * C];
    (0..B * T * C).for_each(|i| want[ids[i / C] as usize * C + i % C] += d[i]);
    Ok(forward.max(error(&b.get(dwte, 11 * C), &want)?))
}

fn layernorm(b: &mut Bench) -> Done {
    let n = B * T;
    let (x, xs) = b.noise(1, n * C);
    let ((w, ws), (bias, bs)) = (b.noise(2, C), b.noise(3, C));
    let (out, mean, rstd) = (b.room(n * C), b.room(n), b.room(n));
    let params = [out, mean, rstd, x, w, bias, n as u64, C as u64];
    b.run("layernorm_forward_kernel3", [3, 1], 512, 0, &params)?;
    let norm = |i: usize| {
        let (m, r) = moments(&xs[i / C * C..i / C * C + C]);
        (xs[i] - m) * r
    };
    let want: Vec<f64> = (0..n * C)
        .map(|i| norm(i) * ws[i % C] + bs[i % C])
        .collect();
    let forward = error(&b.get(out, n * C), &want)?;
    // Backward: the sums over a row, then dx; weights' and biases' gradients over all rows.
    let (dout, ds) = b.noise(4, n * C);
    let zero = |b: &mut Bench, n: usize| b.put(&vec![0.0; n]);
    let (dx, dw, db) = (zero(b, n * C), zero(b, C), zero(b, C));
    let numbers = [B as u64, T as u64, C as u64];
    let params = [&[dx, dw, db, dout, x, w, mean, rstd], &numbers[..]].concat();
    b.run(
        "layernorm_backward_kernel2",
        [n as u32 / 8, 1],
        256,
        8 * C as u32,
        &params,
    )?;
    let (mut wdx, mut wdw) = (vec![0.0; n * C], vec![0.0; C]);
    for row in 0..n {
        let at = row * C;
        let (_, r) = moments(&xs[at..at + C]);
        let g = |i: usize| ws[i] * ds[at + i];
        let (s, t) = (0..C).fold((0.0, 0.0), |(s, t), i| (s + g(i), t + g(i) * norm(at + i)));
        for i in 0..C {
            wdx[at + i] = (g(i) - s / C as f64 - norm(at + i) * t / C as f64) * r;
            wdw[i] += norm(at + i) * ds[at + i];
        }
    }
    let backward = error(&b.get(dx, n * C), &wdx)?.max(error(&b.get(dw, C), &wdw)?);
    Ok(forward.max(backward))
}

fn softmax(b: &mut Bench) -> Done {
    let (n, scale) = (3, 0.25f32);
    let (x, xs) = b.noise(1, n * T * T);
    let out = b.put(&vec![0.0; n * T * T]);
    let blocks = (n * T).div_ceil(8) as u32;
    b.run(
        "softmax_forward_kernel5",
        [blocks, 1],
        256,
        0,
        &[out, f(scale), x, n as u64, T as u64],
    )?;
    let mut want = vec![0.0; n * T * T];
    for row in 0..n * T {
        let e: Vec<f64> = (0..=row % T)
            .map(|i| (xs[row * T + i] * f64::from(scale)).exp())
            .collect();
        let total: f64 = e.iter().sum();
        (0..e.len()).for_each(|i| want[row * T + i] = e[i] / total);
    }
    let forward = error(&b.get(out, n * T * T), &want)?;
    let (datt, ds) = b.noise(2, n * T * T);
    let dx = b.put(&vec![0.0; n * T * T]);
    let params = [dx, datt, out, 1, T as u64, C as u64, f(scale)];
    b.run(
        "softmax_autoregressive_backward_kernel",
        [T as u32 / 4, n as u32],
        256,
        0,
        &params,
    )?;
    let mut back = vec![0.0; n * T * T];
    for row in 0..n * T {
        let at = row * T;
        let dot: f64 = (0..=row % T).map(|i| want[at + i] * ds[at + i]).sum();
        (0..=row % T)
            .for_each(|i| back[at + i] = f64::from(scale) * want[at + i] * (ds[at + i] - dot));
    }
    Ok(forward.max(error(&b.get(dx, n * T * T), &back)?))
}

fn gelu(b: &mut Bench) -> Done {
    let n = 1000;
    let (x, xs) = b.noise(1, n);
    let (dout, ds) = b.noise(2, n);
    let (out, dx) = (b.room(n), b.room(n));
    b.run("gelu_forward_kernel", [8, 1], 128, 0, &[out, x, n as u64])?;
    b.run(
        "gelu_backward_kernel",
        [8, 1],
        128,
        0,
        &[dx, x, dout, n as u64],
    )?;
    let k = (2.0 / std::f64::consts::PI).sqrt();
    let t = |v: f64| (k * (v + 0.044715 * v.powi(3))).tanh();
    let forward: Vec<f64> = xs.iter().map(|v| 0.5 * v * (1.0 + t(*v))).collect();
    let slope = |v: f64| {
        0.5 * (1.0 + t(v)) + 0.5 * v * (1.0 - t(v).powi(2)) * k * (1.0 + 3.0 * 0.044715 * v * v)
    };
    let backward: Vec<f64> = xs.iter().zip(&ds).map(|(v, d)| slope(*v) * d).collect();
    Ok(error(&b.get(out, n), &forward)?.max(error(&b.get(dx, n), &backward)?))
}

fn permute(b: &mut Bench) -> Done {
    let (n, nh, d) = (T, 3, 32);
    let total = B * nh * n * d;
    let (x, xs) = b.noise(1, 3 * total);
    let [q, k, v, back] = [0; 4].map(|_| b.room(total));
    let numbers = [B as u64, n as u64, nh as u64, d as u64];
    let blocks = total.div_ceil(256) as u32;
    let params = [&[q, k, v, x], &numbers[..]].concat();
    // Mangled names begin with their length: `unpermute_kernel` holds `permute_kernel`, too.
    let plain = b.module.kernels.contains_key("permute_kernel");
    let name = if plain {
        "permute_kernel"
    } else {
        "14permute_kernel"
    };
    if plain {
        b.module.kernels.remove("unpermute_kernel_unused");
    }
    b.run(name, [blocks, 1], 256, 0, &params)?;
    let want = |which: usize| -> Vec<f64> {
        let at = |i: usize| {
            let (bb, h, t, e) = (i / (nh * n * d), i / (n * d) % nh, i / d % n, i % d);
            xs[((bb * n + t) * 3 + which) * nh * d + h * d + e]
        };
        (0..total).map(at).collect()
    };
    let params = [&[k, back], &numbers[..]].concat();
    b.run("unpermute_kernel", [blocks, 1], 256, 0, &params)?;
    let ks = want(1);
    let put_back = |i: usize| {
        let (bb, t, h, e) = (i / (n * nh * d), i / (nh * d) % n, i / d % nh, i % d);
        ks[((bb * nh + h) * n + t) * d + e]
    };
    let put_back: Vec<f64> = (0..total).map(put_back).collect();
    let first = error(&b.get(q, total), &want(0))?.max(error(&b.get(v, total), &want(2))?);
    Ok(first.max(error(&b.get(back, total), &put_back)?))
}

fn optimiser(b: &mut Bench) -> Done {
    let n = 500;
    let ((p, ps), (g, gs), (m, ms)) = (b.noise(1, n), b.noise(2, n), b.noise(3, n));
    let vs = b.noise(4, n).1;
    let squares: Vec<f32> = vs.iter().map(|x| x.abs() as f32).collect();
    let second = b.put(&squares);
    let (lr, b1, b2, c1, c2, eps, wd) = (0.1f32, 0.9f32, 0.99f32, 0.2f32, 0.1f32, 1e-6f32, 0.01f32);
    let params = [
        &[p, g, m, second, n as u64],
        &[lr, b1, b2, c1, c2, eps, wd].map(f)[..],
    ]
    .concat();
    b.run("adamw_kernel2", [2, 1], 256, 0, &params)?;
    let w = f64::from;
    let want = |i: usize| {
        let m1 = w(b1) * ms[i] + (1.0 - w(b1)) * gs[i];
        let v1 = w(b2) * w(squares[i]) + (1.0 - w(b2)) * gs[i] * gs[i];
        ps[i] - w(lr) * (m1 / w(c1) / ((v1 / w(c2)).sqrt() + w(eps)) + w(wd) * ps[i])
    };
    error(&b.get(p, n), &(0..n).map(want).collect::<Vec<_>>())
}

fn bias_gradient(b: &mut Bench) -> Done {
    let (dout, ds) = b.noise(1, B * T * C);
    let (db, old) = b.noise(2, C);
    let params = [db, dout, B as u64, T as u64, C as u64];
    b.run(
        "matmul_backward_bias_kernel4",
        [C as u32 / 32, 1],
        128,
        512,
        &params,
    )?;
    let want: Vec<f64> = (0..C)
        .map(|c| old[c] + (0..B * T).map(|r| ds[r * C + c]).sum::<f64>())
        .collect();
    error(&b.get(db, C), &want)
}

fn classifier(b: &mut Bench) -> Done {
    let (rows, v, p) = (B * 4, 500, 512);
    let (logits, ls) = b.noise(1, rows * p);
    let ids: Vec<i32> = (0..rows).map(|i| (37 * i % v) as i32).collect();
    let targets = b.whole(&ids);
    let (losses, probs) = (b.room(rows), b.put(&vec![0.0; rows * p]));
    let params = [
        logits, losses, probs, 0, targets, B as u64, 4, v as u64, p as u64,
    ];
    b.run(
        "fused_classifier_kernel3",
        [rows as u32, 1],
        256,
        0,
        &params,
    )?;
    let (mut loss, mut grad) = (Vec::new(), ls.clone());
    for r in 0..rows {
        let total: f64 = ls[r * p..r * p + v].iter().map(|x| x.exp()).sum();
        let target = ids[r] as usize;
        loss.push(-(ls[r * p + target].exp() / total).ln());
        for i in 0..v {
            let hit = if i == target { 1.0 } else { 0.0 };
            grad[r * p + i] = (ls[r * p + i].exp() / total - hit) / rows as f64;
        }
    }
    Ok(error(&b.get(losses, rows), &loss)?.max(error(&b.get(logits, rows * p), &grad)?))
}

fn groupnorm(b: &mut Bench) -> Done {
    let (c, groups, image) = (64, 16, 64);
    let size = c / groups;
    let n = B * c * image;
    let (x, xs) = b.noise(1, n);
    let ((w, ws), (bias, bs)) = (b.noise(2, c), b.noise(3, c));
    let blocks = (B * groups) as u32;
    let (out, mean, rstd) = (b.room(n), b.room(B * groups), b.room(B * groups));
    let numbers = [B, c, image, size, groups].map(|n| n as u64);
    let params = [&[x, w, bias, out, mean, rstd], &numbers[..]].concat();
    b.run("groupnorm_forward_kernel", [blocks, 1], 256, 0, &params)?;
    let per = size * image;
    let norm = |i: usize| {
        let (m, r) = moments(&xs[i / per * per..i / per * per + per]);
        (xs[i] - m) * r
    };
    let norms: Vec<f64> = (0..n).map(norm).collect();
    let channel = |i: usize| i / image % c;
    let want: Vec<f64> = (0..n)
        .map(|i| norms[i] * ws[channel(i)] + bs[channel(i)])
        .collect();
    let forward = error(&b.get(out, n), &want)?;
    let (dout, ds) = b.noise(4, n);
    let (dx, dw, db) = (b.room(n), b.put(&vec![0.0; c]), b.put(&vec![0.0; c]));
    let params = [&[dout, x, mean, rstd, w, dx, dw, db], &numbers[..]].concat();
    b.run("groupnorm_backward_kernel", [blocks, 1], 256, 0, &params)?;
    let (mut wdx, mut wdw) = (vec![0.0; n], vec![0.0; c]);
    for g in 0..B * groups {
        let (_, r) = moments(&xs[g * per..(g + 1) * per]);
        let d = |i: usize| ws[channel(i)] * ds[i];
        let all = g * per..(g + 1) * per;
        let s: f64 = all.clone().map(d).sum::<f64>() / per as f64;
        let t: f64 = all.clone().map(|i| d(i) * norms[i]).sum::<f64>() / per as f64;
        for i in all {
            wdx[i] = (d(i) - s - norms[i] * t) * r;
            wdw[channel(i)] += ds[i] * norms[i];
        }
    }
    Ok(forward
        .max(error(&b.get(dx, n), &wdx)?)
        .max(error(&b.get(dw, c), &wdw)?))
}

fn convolution(b: &mut Bench) -> Done {
    let (c, o, h, w) = (16, 32, 16, 16);
    let (x, xs) = b.noise(1, B * c * h * w);
    let (weight, ws) = b.noise(2, o * c * 9);
    let (bias, bs) = b.noise(3, o);
    let out = b.put(&vec![0.0; B * o * h * w]);
    let numbers = [B, c, o, h, w].map(|n| n as u64);
    let params = [&[x, weight, bias, out], &numbers[..]].concat();
    // A block has 32 channels by 64 pixels, a thread 4 by 2 of them.
    let grid = [(B * h * w / 64) as u32, 1];
    b.run(
        "conv2d_k3_forward_kernel1ILi32ELi64ELi8ELi4ELi2E",
        grid,
        256,
        0,
        &params,
    )?;
    let at = |i: usize| {
        let (bb, oo, y, z) = (i / (o * h * w), i / (h * w) % o, i / w % h, i % w);
        let mut sum = bs[oo];
        for (k, weights) in ws[oo * c * 9..(oo + 1) * c * 9].chunks(9).enumerate() {
            for (tap, weight) in weights.iter().enumerate() {
                let (yy, zz) = (y + tap / 3, z + tap % 3);
                if (1..=h).contains(&yy) && (1..=w).contains(&zz) {
                    sum += weight * xs[((bb * c + k) * h + yy - 1) * w + zz - 1];
                }
            }
        }
        sum
    };
    let want: Vec<f64> = (0..B * o * h * w).map(at).collect();
    error(&b.get(out, B * o * h * w), &want)
}

type Case = (&'static str, &'static str, fn(&mut Bench) -> Done);

const CASES: [Case; 10] = [
    (
        "encoder_forward_kernel3",
        "encoder, there and back",
        encoder,
    ),
    (
        "layernorm_forward_kernel3",
        "layer norm, there and back",
        layernorm,
    ),
    (
        "softmax_forward_kernel5",
        "causal softmax, there and back",
        softmax,
    ),
    ("gelu_forward_kernel", "GELU, there and back", gelu),
    ("unpermute_kernel", "permutations of heads", permute),
    ("adamw_kernel2", "AdamW", optimiser),
    (
        "matmul_backward_bias_kernel4",
        "bias gradient",
        bias_gradient,
    ),
    ("fused_classifier_kernel3", "fused classifier", classifier),
    (
        "groupnorm_forward_kernel",
        "group norm, there and back",
        groupnorm,
    ),
    ("conv2d_k3_forward_kernel1", "3x3 convolution", convolution),
];

fn main() {
    let Ok(folder) = std::env::var("GMMK_THIRD_PARTY") else {
        println!(
            "not there: GMMK_THIRD_PARTY names a folder of PTX; examples/third_party.rs says how to make it"
        );
        return;
    };
    let mut files: Vec<_> = match std::fs::read_dir(&folder) {
        Ok(dir) => dir.filter_map(|e| e.ok().map(|e| e.path())).collect(),
        Err(e) => return println!("not there: {folder}: {e}"),
    };
    files.sort();
    let mut texts = BTreeMap::new();
    for path in files
        .iter()
        .filter(|p| p.extension().is_some_and(|e| e == "ptx"))
    {
        match std::fs::read_to_string(path) {
            Ok(text) => drop(texts.insert(path.clone(), text)),
            Err(e) => println!("{}: {e}", path.display()),
        }
    }
    let mut failed = 0;
    for (kernel, what, run) in CASES {
        let Some((path, text)) = texts.iter().find(|(_, t)| t.contains(kernel)) else {
            println!("not there  {what} ({kernel})");
            continue;
        };
        let mut m = Machine::new(1 << 30);
        let file = path.file_name().map(|n| n.to_string_lossy().into_owned());
        let bench = m.load(text).map(|module| Bench {
            m,
            module,
            findings: Vec::new(),
        });
        let (result, findings) = match bench {
            Ok(mut bench) => (run(&mut bench), bench.findings),
            Err(e) => (Err(e), Vec::new()),
        };
        let (word, text) = match result {
            Ok(error) if error < 1e-5 => ("ok", format!("largest error {error:.1e}")),
            Ok(error) => ("WRONG", format!("largest error {error:.1e}")),
            Err(e) => (
                "FAILED",
                format!("{e} ({kernel} in {})", file.unwrap_or_default()),
            ),
        };
        failed += u32::from(word != "ok");
        println!("{word:<10} {what}: {text}");
        if let Some(first) = findings.first() {
            println!("           {} findings, the first: {first}", findings.len());
        }
    }
    if failed > 0 {
        std::process::exit(1);
    }
}
