//! `gmmk bench kernels`: every kernel of a training step on a GPU, by its own device time.

use super::super::terminal::say;
use super::{BenchArgs, initial};
use anyhow::{Result, bail};
use gmmk::device::Device;
use gmmk::train::setup::Setup;
use gmmk::train::step::{TimedLaunch, TrainStep};
use gmmk::train::trial::blank_batch;
use serde_json::json;
use std::collections::BTreeMap;

/// Equal launches of a step.
struct Kind {
    /// The first of them, and its place among all launches.
    first: (usize, TimedLaunch),
    /// Seconds of each, of all measured steps.
    times: Vec<f64>,
    count: usize,
}

/// Steps that are measured, after one that is not.
const STEPS: usize = 3;

/// Runs `gmmk bench kernels`: a line for each distinct launch, what takes longest first.
pub(super) fn run(args: &BenchArgs, setup: &Setup, device: &Device, name: &str) -> Result<()> {
    if device.gpu.is_none() {
        bail!("`bench kernels` times a GPU's kernels, and this is {name}; choose --device cuda");
    }
    let batch = blank_batch(setup, args.batch as usize);
    let mut step = TrainStep::new(&setup.recipe(), args.batch as usize, device)?;
    let mut state = initial(setup)?;
    let mut kinds: BTreeMap<String, Kind> = BTreeMap::new();
    for round in 0..=STEPS {
        let launches = step.time_launches(&mut state, &batch, [1e-4, 0.99])?;
        for (at, timed) in launches.into_iter().enumerate() {
            if round == 0 {
                continue;
            }
            let (launch, time) = (&timed.launch, timed.time.as_secs_f64());
            let shapes = (&timed.inputs, &timed.outputs);
            let key = format!("{:?} {:?} {shapes:?}", launch.kernel, launch.grid);
            let kind = kinds.entry(key).or_insert_with(|| Kind {
                first: (at, timed),
                times: Vec::new(),
                count: 0,
            });
            kind.times.push(time);
            kind.count += 1;
        }
    }
    let mut kinds: Vec<Kind> = kinds.into_values().collect();
    for kind in &mut kinds {
        kind.times.sort_by(f64::total_cmp);
        kind.count /= STEPS;
    }
    kinds.sort_by(|a, b| b.total().total_cmp(&a.total()));
    let total: f64 = kinds.iter().map(Kind::total).sum();
    for kind in &kinds {
        kind.print(args, name, total);
    }
    let launches: usize = kinds.iter().map(|k| k.count).sum();
    if !args.json {
        say(&format!(
            "{name}: {launches} launches of {} kinds, {:.3} ms",
            kinds.len(),
            total * 1e3
        ));
    }
    Ok(())
}

impl Kind {
    /// Seconds of one launch: the median.
    fn median(&self) -> f64 {
        self.times[self.times.len() / 2]
    }

    /// Seconds of a step.
    fn total(&self) -> f64 {
        self.median() * self.count as f64
    }

    fn print(&self, args: &BenchArgs, name: &str, total: f64) {
        let (at, timed) = &self.first;
        let launch = &timed.launch;
        let (kernel, grid) = (&launch.kernel, launch.grid);
        let (us, share) = (self.median() * 1e6, self.total() / total);
        if args.json {
            let defines: BTreeMap<_, _> = kernel.defines.iter().cloned().collect();
            let line = json!({
                "what": "kernel", "device": name, "preset": args.preset, "batch": args.batch,
                "op": timed.op, "inputs": timed.inputs, "outputs": timed.outputs,
                "file": kernel.file, "entry": kernel.entry, "defines": defines, "grid": grid,
                "threads": launch.threads, "shared": launch.shared,
                "first": at, "count": self.count, "us": us, "share": share,
            });
            say(&line.to_string());
        } else {
            say(&format!(
                "{:>5.1} % {:>3} x {us:>9.2} us  {grid:?} x {}  {kernel:?}",
                100.0 * share,
                self.count,
                launch.threads
            ));
        }
    }
}
