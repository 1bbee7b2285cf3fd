//! `gmmk bench ngmg`: the mixture mathematics, timed on inputs made from a formula, so that another
//! program can compute the same (`tools/bench-scipy` does).
//!
//! u(i, a) is the fraction of (i + 1) a, i = 0, 1, ...: the same number in every f64 program.

use super::super::terminal::say;
use anyhow::Result;
use clap::Args;
use gmmk::device::pool::Pool;
use gmmk::gmm::distance::Pair;
use gmmk::gmm::entropy::{EntropyLoss, EntropySpec};
use gmmk::gmm::expansion::{ExpansionSpec, Mode, expand};
use gmmk::gmm::ngmg::{Kernel, KernelSpec, Reach};
use serde_json::json;
use std::time::Instant;

/// What to measure.
#[derive(Args)]
pub struct NgmgArgs {
    /// CPU threads; 0 is one per core
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=4096))]
    threads: u32,
    /// Print one JSON object per line, with numbers of the result to compare
    #[arg(long)]
    json: bool,
}

/// Measured repetitions, of at least so many seconds each.
const REPETITIONS: usize = 7;
const SECONDS: f64 = 0.02;
/// Numbers of a result that are printed.
const SHOWN: usize = 100;
/// Samples and components of an expansion.
const SAMPLES: usize = 1_000_000;
const COMPONENTS: usize = 100;
/// Kernels end here, as everywhere that f64 rounding is the measure.
const REACH: Reach = Reach::Sigmas(9.0);
const GOLDEN: f64 = 0.618_033_988_749_894_9;
const ROOT_TWO: f64 = 0.414_213_562_373_095_1;
/// Centres of two pairs of bumps, as shares of the line.
const BUMPS: [[f64; 2]; 2] = [[0.3, 0.5], [0.5, 0.75]];

/// u(0, a), u(1, a), ...
fn fractions(a: f64, count: usize) -> Vec<f64> {
    (1..=count).map(|i| (i as f64 * a).fract()).collect()
}

/// Weights of two smooth bumps; `at` are their centres as shares of n.
fn weights(n: usize, at: [f64; 2]) -> Vec<f64> {
    let bump = |i: usize, at: f64| {
        let z = (i as f64 - at * n as f64) / (0.06 * n as f64);
        1.0 / (1.0 + z * z) / (1.0 + z * z)
    };
    let raw: Vec<f64> = (0..n)
        .map(|i| bump(i, at[0]) + 0.5 * bump(i, at[1]))
        .collect();
    let sum: f64 = raw.iter().sum();
    raw.iter().map(|p| p / sum).collect()
}

/// Prints one measurement after another.
struct Bench {
    threads: usize,
    json: bool,
}

impl Bench {
    /// Repeats `run`, which writes its result into a list of `size` numbers, and prints the median of
    /// its time; `count` things of `unit` are done each time.
    fn time(
        &self,
        [what, case]: [&str; 2],
        (count, unit): (usize, &str),
        size: usize,
        mut run: impl FnMut(&mut [f64]) -> Result<()>,
    ) -> Result<()> {
        let mut result = vec![0.0; size];
        let start = Instant::now();
        run(&mut result)?;
        let once = start.elapsed().as_secs_f64();
        let calls = (SECONDS / once.max(1e-9)).ceil().clamp(1.0, 1e6) as usize;
        let mut times = Vec::with_capacity(REPETITIONS);
        for _ in 0..REPETITIONS {
            let start = Instant::now();
            for _ in 0..calls {
                run(std::hint::black_box(&mut result))?;
            }
            times.push(start.elapsed().as_secs_f64() / calls as f64);
        }
        times.sort_by(f64::total_cmp);
        let median = times[REPETITIONS / 2];
        let rate = count as f64 / median;
        if self.json {
            let every = size.div_ceil(SHOWN);
            let values: Vec<f64> = result.into_iter().step_by(every).collect();
            let line = json!({
                "what": what, "case": case, "threads": self.threads, "ms": median * 1e3,
                "ms_fastest": times[0] * 1e3, "rate": rate, "unit": format!("{unit}/s"),
                "values": values,
            });
            say(&line.to_string());
        } else {
            say(&format!(
                "{what:<10} {case:<20} {:>12.4} ms (fastest {:.4}) {rate:>10.3e} {unit}/s",
                median * 1e3,
                times[0] * 1e3,
            ));
        }
        Ok(())
    }
}

/// Runs `gmmk bench ngmg`.
pub fn run(args: &NgmgArgs) -> Result<()> {
    let pool = Pool::new(args.threads as usize)?;
    let bench = Bench {
        threads: pool.threads(),
        json: args.json,
    };
    pool.enter(|| {
        operator(&bench)?;
        loss(&bench)?;
        expansion(&bench)?;
        distances(&bench)
    })
}

/// `M L(c, t)` on a uniform grid.
fn operator(bench: &Bench) -> Result<()> {
    for n in [40, 1000, 65_536] {
        let [c, t] = BUMPS.map(|at| weights(n, at));
        let l: Vec<f64> = c.iter().zip(&t).map(|(c, t)| (c - t).min(0.0)).collect();
        for sigma in [2.0, 5.0] {
            let spec = KernelSpec {
                sigma,
                reach: REACH,
                ..KernelSpec::default()
            };
            let kernel = Kernel::grid(n, spec)?;
            let case = format!("K {n}, sigma {sigma}");
            bench.time(["operator", &case], (n, "entries"), n, |out| {
                Ok(kernel.apply(&l, out)?)
            })?;
        }
    }
    Ok(())
}

/// The gated loss with its gradient: logits in -4..4, labels 0 and 1.
fn loss(bench: &Bench) -> Result<()> {
    for (batch, k) in [(256, 40), (1, 4096), (1, 65_536)] {
        let size = batch * k;
        let spec = EntropySpec {
            reach: REACH,
            ..EntropySpec::default()
        };
        let loss = EntropyLoss::new(spec, k)?;
        let logits: Vec<f64> = fractions(GOLDEN, size)
            .iter()
            .map(|u| 8.0 * u - 4.0)
            .collect();
        let labels: Vec<f64> = fractions(ROOT_TWO, size)
            .iter()
            .map(|v| (2.0 * v).floor())
            .collect();
        let mut workspace = loss.workspace();
        let case = format!("B {batch}, K {k}");
        bench.time(["gated", &case], (size, "logits"), size + 1, |out| {
            let (value, grad) = out.split_at_mut(1);
            value[0] = loss.evaluate(&logits, &labels, grad, &mut workspace)?;
            Ok(())
        })?;
    }
    Ok(())
}

/// Weights of samples u + 2 v^2.
fn expansion(bench: &Bench) -> Result<()> {
    let both = fractions(GOLDEN, SAMPLES)
        .into_iter()
        .zip(fractions(ROOT_TWO, SAMPLES));
    let x: Vec<f64> = both.map(|(u, v)| u + 2.0 * v * v).collect();
    for mode in [Mode::OneStep, Mode::Em(10)] {
        let spec = ExpansionSpec {
            n: COMPONENTS,
            mode,
            ..ExpansionSpec::default()
        };
        let case = mode.to_string();
        bench.time(
            ["expansion", &case],
            (SAMPLES, "samples"),
            COMPONENTS,
            |out| {
                out.copy_from_slice(expand(&x, spec)?.mixture.pi());
                Ok(())
            },
        )?;
    }
    Ok(())
}

/// Two expansions on the means 0, 1, ... with s = 1.
fn distances(bench: &Bench) -> Result<()> {
    let n = COMPONENTS;
    let [p, q] = BUMPS.map(|at| weights(n, at));
    let mu: Vec<f64> = (0..n).map(|i| i as f64).collect();
    let pair = Pair::new(&p, &q, &mu, &vec![1.0; n])?;
    type Distance = fn(&Pair) -> Result<f64, gmmk::gmm::distance::DistanceError>;
    let all: [(&str, Distance); 3] = [("w1", Pair::w1_exact), ("tv", Pair::tv), ("kl", Pair::kl)];
    for (name, distance) in all {
        let case = format!("N {n}");
        bench.time([name, &case], (1, "pairs"), 1, |out| {
            out[0] = distance(&pair)?;
            Ok(())
        })?;
    }
    Ok(())
}
