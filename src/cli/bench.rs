//! `gmmk bench`.

mod data;
mod kernels;
mod ngmg;

use super::device::{DeviceArgs, Wish};
use super::terminal::say;
use anyhow::Result;
use clap::{Args, Subcommand};
use gmmk::device::memory::peak_resident_bytes;
use gmmk::device::{Device, Gpu};
use gmmk::diffusion::generate::{Generator, Request};
use gmmk::diffusion::sampler::{Sampler, SamplerPlan};
use gmmk::tape::Arena;
use gmmk::tape::state::State;
use gmmk::train::config::{DataKind, RunConfig};
use gmmk::train::setup::{Setup, preset};
use gmmk::train::step::TrainStep;
use gmmk::train::trial::blank_batch;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Instant;

/// `gmmk bench ...`
#[derive(Subcommand)]
pub enum BenchCommand {
    /// Training steps: forward, backward, AdamW and the weights' average
    Step(BenchArgs),
    /// Sampling steps: one prediction of the noise each
    Sample(BenchArgs),
    /// The kernels of a training step on a GPU, each by its own time
    Kernels(BenchArgs),
    /// Pictures: reading and packing, and handing out batches
    Data(data::DataArgs),
    /// Mixture mathematics: NGMG, its loss, expansions, distances
    Ngmg(ngmg::NgmgArgs),
}

/// What to measure.
#[derive(Args)]
#[command(allow_negative_numbers = true)]
pub struct BenchArgs {
    /// The network
    #[arg(long, default_value = "tiny")]
    preset: String,
    /// Pictures per step
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=1 << 16))]
    batch: u64,
    #[command(flatten)]
    device: DeviceArgs,
    /// Name the network's parts for NVIDIA's profilers: `nsys profile gmmk bench step --nvtx`
    #[arg(long)]
    nvtx: bool,
    /// Convolutions on a CPU as the sums they are, not by Winograd's algorithm
    #[arg(long)]
    exact: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Show where a training step's time goes, by op
    #[arg(long)]
    profile: bool,
}

/// Steps before and during the measurement.
const WARM_UP: usize = 2;
const STEPS: usize = 10;

/// Runs `gmmk bench`.
pub fn run(command: BenchCommand) -> Result<()> {
    let (args, training) = match &command {
        BenchCommand::Step(args) | BenchCommand::Kernels(args) => (args, true),
        BenchCommand::Sample(args) => (args, false),
        BenchCommand::Data(args) => return data::run(args),
        BenchCommand::Ngmg(args) => return ngmg::run(args),
    };
    preset(&args.preset)?;
    let kind = if args.preset == "cifar32" {
        DataKind::Cifar10
    } else {
        DataKind::Celeba
    };
    let mut config = RunConfig::new(kind, &args.preset);
    config.batch = args.batch;
    config.exact = args.exact;
    let setup = Setup::new(config, if kind == DataKind::Cifar10 { 10 } else { 40 })?;
    let wish = Wish {
        nvtx: args.nvtx,
        ..args.device.wish()
    };
    let (device, name) = wish.open()?;
    let memory = setup.check_memory(&device)?;
    if matches!(command, BenchCommand::Kernels(_)) {
        return kernels::run(args, &setup, &device, &name);
    }
    let bench = Bench {
        args,
        setup: &setup,
        device: &device,
    };
    let (measured, flops) = if training {
        (bench.train()?, memory.flops)
    } else {
        bench.sample()?
    };
    let what = if training { "step" } else { "sample" };
    bench.report(what, &name, &measured, flops);
    Ok(())
}

/// What a benchmark found, in seconds.
struct Measured {
    /// A step's time on the device, each time, shortest first.
    device: Vec<f64>,
    /// A step's time with all that the host does, on average; steps follow each other without waiting.
    wall: f64,
    /// Memory in use of a GPU.
    used: Option<usize>,
}

struct Bench<'a> {
    args: &'a BenchArgs,
    setup: &'a Setup,
    device: &'a Device,
}

impl Bench<'_> {
    fn report(&self, what: &str, name: &str, measured: &Measured, flops: u64) {
        let args = self.args;
        let times = &measured.device;
        let median = times[times.len() / 2];
        let images_per_s = args.batch as f64 / median;
        let gflops = flops as f64 / median / 1e9;
        let rss = peak_resident_bytes().unwrap_or(0);
        let peak = self.device.gpu.as_ref().and_then(Gpu::peak_flops);
        let share = peak.map(|peak| flops as f64 / median / peak);
        if args.json {
            let line = json!({
                "what": what, "preset": args.preset, "batch": args.batch, "device": name,
                "threads": self.device.pool.threads(), "images_per_s": images_per_s,
                "ms_per_step": median * 1e3, "ms_fastest": times[0] * 1e3,
                "wall_images_per_s": args.batch as f64 / measured.wall, "gflops": gflops,
                "share_of_peak": share, "peak_rss_bytes": rss, "device_bytes": measured.used,
            });
            say(&line.to_string());
            return;
        }
        let share = share.map(|s| format!(" ({:.1} % of the nominal peak)", 100.0 * s));
        say(&format!(
            "{} {what}, batch {}, {name}: {images_per_s:.2} images/s, {:.2} ms per step (fastest {:.2}), {gflops:.1} GFLOP/s{}, {} MiB",
            args.preset,
            args.batch,
            median * 1e3,
            times[0] * 1e3,
            share.unwrap_or_default(),
            measured.used.unwrap_or(rss as usize) >> 20
        ));
    }

    fn train(&self) -> Result<Measured> {
        let (setup, args) = (self.setup, self.args);
        let batch = blank_batch(setup, args.batch as usize);
        let mut step = TrainStep::new(&setup.recipe(), args.batch as usize, self.device)?;
        let mut state = initial(setup)?;
        let rates = [1e-4, 0.99];
        let device = measure(|| Ok(step.run_clocked(&mut state, &batch, rates)?))?;
        let start = Instant::now();
        for _ in 0..STEPS {
            step.start(&mut state, &batch, rates)?;
            if step.under_way() > 1 {
                step.finish()?;
            }
        }
        while step.finish()?.is_some() {}
        let wall = start.elapsed().as_secs_f64() / STEPS as f64;
        if args.profile {
            profile(step.run_timed(&mut state, &batch, rates)?);
        }
        let used = self.used();
        Ok(Measured { device, wall, used })
    }

    fn used(&self) -> Option<usize> {
        self.device.gpu.as_ref().and_then(Gpu::used)
    }

    fn sample(&self) -> Result<(Measured, u64)> {
        let (setup, args) = (self.setup, self.args);
        let mut state = initial(setup)?;
        let (net, batch) = (&setup.net, args.batch as usize);
        let mut generator = Generator::new(net, &setup.conditioning, batch, self.device)?;
        let sampler = Sampler::Ddim { eta: 0.0 };
        let steps = [setup.schedule.t_max()];
        let plan = SamplerPlan::along(&setup.schedule, sampler, &steps, Some(1.0))?;
        let attributes = vec![1; setup.conditioning.attributes];
        let requests: Vec<Request> = (0..args.batch)
            .map(|latent| Request::new(&attributes, latent))
            .collect();
        let draw = |state: &mut State, generator: &mut Generator| {
            let weights = (state, Arena::Params);
            generator.draw(weights, &plan, (0, 0), &requests, |_, _, _| true)
        };
        // Fills the inputs.
        draw(&mut state, &mut generator)?;
        let device = measure(|| Ok(generator.clock(&mut state, Arena::Params)?))?;
        let start = Instant::now();
        for _ in 0..STEPS {
            draw(&mut state, &mut generator)?;
        }
        let wall = start.elapsed().as_secs_f64() / STEPS as f64;
        let used = self.used();
        Ok((Measured { device, wall, used }, generator.flops()))
    }
}

/// New weights.
fn initial(setup: &Setup) -> Result<State> {
    let mut state = setup.allocate()?;
    let table = setup.net.table();
    table.initialise(0, state.get_mut(Arena::Params));
    Ok(state)
}

/// Nodes that a profile lists.
const LONGEST: usize = 20;

/// Prints where a step's time went: by op, then the longest nodes.
fn profile(mut nodes: Vec<(String, &'static str, f64)>) {
    let mut ops: BTreeMap<&str, (f64, usize)> = BTreeMap::new();
    for (_, op, seconds) in &nodes {
        let entry = ops.entry(op).or_default();
        *entry = (entry.0 + seconds, entry.1 + 1);
    }
    let total: f64 = ops.values().map(|o| o.0).sum();
    let mut ops: Vec<_> = ops.into_iter().collect();
    ops.sort_by(|a, b| b.1.0.total_cmp(&a.1.0));
    for (op, (seconds, count)) in ops {
        say(&format!(
            "{op:<20} {count:>4} nodes {:>9.3} ms {:>5.1} %",
            seconds * 1e3,
            100.0 * seconds / total
        ));
    }
    nodes.sort_by(|a, b| b.2.total_cmp(&a.2));
    say("the longest nodes:");
    for (scope, op, seconds) in nodes.iter().take(LONGEST) {
        say(&format!(
            "{op:<20} {scope:<30} {:>9.3} ms {:>5.1} %",
            seconds * 1e3,
            100.0 * seconds / total
        ));
    }
}

/// Times that `step` reports, without the first, shortest first.
fn measure(mut step: impl FnMut() -> Result<f64>) -> Result<Vec<f64>> {
    let mut times = Vec::with_capacity(STEPS);
    for i in 0..WARM_UP + STEPS {
        let seconds = step()?;
        if i >= WARM_UP {
            times.push(seconds);
        }
    }
    times.sort_by(f64::total_cmp);
    Ok(times)
}
