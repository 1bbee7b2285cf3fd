//! Every op of a training step on the CPU, forward and backward, at the shapes of the presets.
//!
//! ```text
//! cargo bench --bench ops                                  # all, on every processor
//! cargo bench --bench ops -- conv --threads 1              # those whose names contain "conv"
//! cargo bench --bench ops -- conv --algorithm direct
//! ```
//!
//! Prints the machine's measured limits, then for each op the median time, GFLOP/s of the direct
//! algorithm with the share of the limit (Winograd's may pass 100 %), and GB/s of the operands.

use anyhow::{Result, bail};
use clap::Parser;
use gmmk::device::peak::{fma_flops, read_bandwidth};
use gmmk::device::pool::Pool;
use gmmk::device::{Device, simd};
use gmmk::ops::add;
use gmmk::ops::attention::attention;
use gmmk::ops::conv2d::{self, Algorithm, conv2d};
use gmmk::ops::group_norm::group_norm;
use gmmk::ops::linear::{self, Weights, linear};
use gmmk::ops::mse::mse;
use gmmk::tape::executable::Executable;
use gmmk::tape::state::State;
use gmmk::tape::{Arena, Tape, TapeError, TensorType, Var};
use std::sync::Arc;

/// What to measure.
#[derive(Parser)]
struct Args {
    /// Only cases whose names contain this
    filter: Option<String>,
    /// Worker threads (0: one per processor)
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// How convolutions are computed: fastest, direct, winograd
    #[arg(long, default_value = "fastest")]
    algorithm: String,
    /// Timed runs
    #[arg(long, default_value_t = 15)]
    runs: usize,
    /// What `cargo bench` adds
    #[arg(long, hide = true)]
    bench: bool,
}

/// A convolution with norm and SiLU before it, as in a residual block.
struct Conv {
    n: usize,
    side: usize,
    c: usize,
    k: usize,
    upsample: bool,
}

const CONVOLUTIONS: [Conv; 16] = [
    conv(4, 64, 128, 128),
    conv(4, 64, 256, 128),
    conv(4, 32, 256, 256),
    conv(4, 32, 512, 256),
    conv(4, 16, 256, 256),
    conv(4, 16, 512, 256),
    conv(4, 8, 512, 512),
    conv(4, 8, 1024, 512),
    conv(16, 32, 128, 128),
    conv(16, 16, 256, 256),
    conv(16, 8, 384, 384),
    conv(16, 4, 512, 512),
    conv(16, 32, 32, 32),
    conv(16, 16, 64, 64),
    conv(16, 8, 64, 64),
    Conv {
        upsample: true,
        ..conv(4, 32, 256, 256)
    },
];

const fn conv(n: usize, side: usize, c: usize, k: usize) -> Conv {
    Conv {
        n,
        side,
        c,
        k,
        upsample: false,
    }
}

/// Rows of all samples, input and output channels of linear layers.
const LINEARS: [[usize; 3]; 3] = [[1024, 256, 256], [256, 512, 512], [1024, 64, 64]];
/// Samples, queries, tokens beside them, channels, channels of a head.
const ATTENTIONS: [[usize; 5]; 3] = [
    [4, 256, 40, 256, 64],
    [16, 256, 10, 256, 64],
    [16, 256, 40, 64, 32],
];

/// Draws on a tape: parameters follow each other in the arenas.
struct Case {
    tape: Tape,
    elements: usize,
}

impl Case {
    fn new() -> Self {
        Self {
            tape: Tape::new(),
            elements: 0,
        }
    }

    fn param(&mut self, shape: &[usize]) -> Var {
        let (ty, at) = (TensorType::f32(shape), self.elements);
        self.elements += ty.len().next_multiple_of(64);
        let var = self.tape.state("weight", ty, Arena::Params, at);
        self.tape.want_grad(var);
        var
    }

    fn input(&mut self, shape: &[usize]) -> Var {
        let var = self.tape.input("input", TensorType::f32(shape));
        self.tape.want_grad(var);
        var
    }

    fn weights(&mut self, shape: &[usize]) -> Weights {
        Weights {
            w: self.param(shape),
            b: self.param(&shape[..1]),
        }
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    let algorithm = match args.algorithm.as_str() {
        "fastest" => Algorithm::Fastest,
        "direct" => Algorithm::Direct,
        "winograd" => Algorithm::Winograd,
        other => bail!("--algorithm: expected fastest, direct or winograd, found {other:?}"),
    };
    let pool = Arc::new(Pool::new(args.threads)?);
    let peak = fma_flops(&pool);
    println!(
        "{} threads, {}: {:.0} GFLOP/s of multiply-adds, {:.1} GB/s read from memory",
        pool.threads(),
        simd::level().name(),
        peak / 1e9,
        read_bandwidth(&pool).unwrap_or(0.0) / 1e9
    );
    let bench = Bench { args, pool, peak };
    for conv in &CONVOLUTIONS {
        bench.convolution(conv, algorithm)?;
    }
    for sizes in LINEARS {
        bench.linear(sizes)?;
    }
    for sizes in ATTENTIONS {
        bench.attention(sizes)?;
    }
    Ok(())
}

struct Bench {
    args: Args,
    pool: Arc<Pool>,
    peak: f64,
}

impl Bench {
    fn convolution(&self, conv: &Conv, algorithm: Algorithm) -> Result<()> {
        let &Conv { n, side, c, k, .. } = conv;
        let up = if conv.upsample { ", doubled" } else { "" };
        let name = format!("conv {n} x {side} x {side}, {c} -> {k}{up}");
        self.case(&name, |case| {
            let x = case.input(&[n, side, side, c]);
            let affine = [case.param(&[c]), case.param(&[c])];
            let weights = case.weights(&[k, 3, 3, c]);
            let norm = group_norm(&mut case.tape, x, (c / 4, 1e-5), affine, None)?;
            let extras = conv2d::Extras {
                norm: Some(&norm),
                silu: true,
                upsample: conv.upsample,
                residual: None,
                algorithm,
            };
            conv2d(&mut case.tape, x, weights, extras)
        })
    }

    fn linear(&self, [rows, c, k]: [usize; 3]) -> Result<()> {
        self.case(&format!("linear {rows}, {c} -> {k}"), |case| {
            let x = case.input(&[rows, c]);
            let weights = case.weights(&[k, c]);
            Ok(linear(&mut case.tape, x, &[weights], linear::Extras::default())?[0])
        })
    }

    fn attention(&self, [n, rows, tokens, c, head]: [usize; 5]) -> Result<()> {
        let name = format!("attention {n} x {rows} + {tokens}, {c} in heads of {head}");
        self.case(&name, |case| {
            let q = case.input(&[n, rows, c]);
            let [k, v] = [0, 1].map(|_| case.input(&[n, rows + tokens, c]));
            attention(&mut case.tape, [q, k, v], head)
        })
    }

    /// Records, runs and reports one op with its way back.
    fn case(
        &self,
        name: &str,
        record: impl FnOnce(&mut Case) -> Result<Var, TapeError>,
    ) -> Result<()> {
        if let Some(filter) = &self.args.filter
            && !name.contains(filter.as_str())
        {
            return Ok(());
        }
        let mut case = Case::new();
        let y = record(&mut case)?;
        let target = case.tape.ty(y).clone();
        let target = case.tape.input("target", target);
        let [loss, _] = mse(&mut case.tape, y, target)?;
        case.tape.keep(loss);
        case.tape.backward(&[loss], add::sum)?;
        let inputs: Vec<Var> = case.tape.inputs().collect();
        let sizes: Vec<usize> = inputs.iter().map(|&v| case.tape.ty(v).len()).collect();
        let device = Device {
            pool: self.pool.clone(),
            gpu: None,
        };
        let mut executable = Executable::new(case.tape, device)?;
        let mut state = State::default();
        for arena in [Arena::Params, Arena::Grads] {
            state.allocate(arena, case.elements)?;
        }
        fill(state.get_mut(Arena::Params), 0.05);
        for (&var, len) in inputs.iter().zip(sizes) {
            let mut values = vec![0.0; len];
            fill(&mut values, 1.0);
            executable.write(var, &values)?;
        }
        let mut times: Vec<Vec<f64>> = Vec::new();
        for _ in 0..self.args.runs + 2 {
            let nodes = executable.run_timed(&mut state, Arena::Params)?;
            times.push(nodes.iter().map(std::time::Duration::as_secs_f64).collect());
        }
        self.report(name, &executable, &times[2..]);
        Ok(())
    }

    fn report(&self, name: &str, executable: &Executable, times: &[Vec<f64>]) {
        println!("\n{name}");
        let tape = executable.tape();
        for (i, node) in tape.nodes().iter().enumerate() {
            let mut samples: Vec<f64> = times.iter().map(|t| t[i]).collect();
            samples.sort_by(f64::total_cmp);
            let median = samples[samples.len() / 2];
            if median < 2e-6 {
                continue;
            }
            let types = |vars: &[Var]| vars.iter().map(|&v| tape.ty(v)).collect::<Vec<_>>();
            let (inputs, outputs) = (types(&node.inputs), types(&node.outputs));
            let flops = node.op.flops(&inputs, &outputs) as f64;
            let bytes: usize = inputs.iter().chain(&outputs).map(|t| t.bytes()).sum();
            println!(
                "  {:<20} {:>9.3} ms {:>8.1} GFLOP/s {:>6.1} % {:>7.1} GB/s",
                node.op.name(),
                1e3 * median,
                flops / median / 1e9,
                100.0 * flops / median / self.peak,
                bytes as f64 / median / 1e9
            );
        }
    }
}

/// Small numbers without a pattern.
fn fill(out: &mut [f32], scale: f32) {
    let mut word = 1_u32;
    for x in out {
        word = word.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *x = scale * (word as f32 / u32::MAX as f32 - 0.5);
    }
}
