//! `gmmk bench`.

mod ngmg;

use super::device::{Choice, PrecisionName, Wish};
use super::terminal::say;
use anyhow::Result;
use clap::{Args, Subcommand};
use gmmk::device::Device;
use gmmk::device::memory::peak_resident_bytes;
use gmmk::diffusion::generate::{Generator, Request};
use gmmk::diffusion::sampler::{Sampler, SamplerPlan};
use gmmk::tape::Arena;
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
    /// Where to compute: auto, cpu, cuda or cuda:N
    #[arg(long, default_value_t = Choice::Auto)]
    device: Choice,
    /// Number formats of a GPU [default: bf16, where there are tensor cores]
    #[arg(long, value_enum)]
    precision: Option<PrecisionName>,
    /// Launch a GPU's kernels one by one, not as a graph
    #[arg(long)]
    no_graph: bool,
    /// CPU threads; 0 is one per core
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=4096))]
    threads: u32,
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
        BenchCommand::Step(args) => (args, true),
        BenchCommand::Sample(args) => (args, false),
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
    let setup = Setup::new(config, if kind == DataKind::Cifar10 { 10 } else { 40 })?;
    let (device, name) = Wish {
        device: args.device,
        precision: args.precision.map(Into::into),
        no_graph: args.no_graph,
        threads: args.threads,
    }
    .open()?;
    let pool = device.pool.clone();
    let memory = setup.check_memory(&device)?;
    let (mut times, flops) = if training {
        (train(&setup, args, &device)?, memory.flops)
    } else {
        sample(&setup, args, &device)?
    };
    times.sort_by(f64::total_cmp);
    let median = times[times.len() / 2];
    let images_per_s = args.batch as f64 / median;
    let gflops = flops as f64 / median / 1e9;
    let rss = peak_resident_bytes().unwrap_or(0);
    if args.json {
        let line = json!({
            "what": if training { "step" } else { "sample" },
            "preset": args.preset, "batch": args.batch, "device": name, "threads": pool.threads(),
            "images_per_s": images_per_s, "ms_per_step": median * 1e3,
            "ms_fastest": times[0] * 1e3, "gflops": gflops, "peak_rss_bytes": rss,
        });
        say(&line.to_string());
    } else {
        say(&format!(
            "{} {}, batch {}, {name}: {images_per_s:.2} images/s, {:.1} ms per step (fastest {:.1}), {gflops:.1} GFLOP/s, peak {} MiB",
            args.preset,
            if training { "training" } else { "sampling" },
            args.batch,
            median * 1e3,
            times[0] * 1e3,
            rss >> 20
        ));
    }
    Ok(())
}

fn train(setup: &Setup, args: &BenchArgs, device: &Device) -> Result<Vec<f64>> {
    let batch = blank_batch(setup, args.batch as usize);
    let mut step = TrainStep::new(&setup.recipe(), args.batch as usize, device)?;
    let mut state = setup.allocate()?;
    setup
        .net
        .table()
        .initialise(0, state.get_mut(Arena::Params));
    let rates = [1e-4, 0.99];
    let times = measure(|| {
        step.run(&mut state, &batch, rates)?;
        Ok(())
    })?;
    if args.profile {
        let mut ops: BTreeMap<&str, (f64, usize)> = BTreeMap::new();
        for (_, op, seconds) in step.run_timed(&mut state, &batch, rates)? {
            let entry = ops.entry(op).or_default();
            *entry = (entry.0 + seconds, entry.1 + 1);
        }
        let total: f64 = ops.values().map(|o| o.0).sum();
        let mut ops: Vec<_> = ops.into_iter().collect();
        ops.sort_by(|a, b| b.1.0.total_cmp(&a.1.0));
        for (op, (seconds, count)) in ops {
            say(&format!(
                "{op:<20} {count:>4} nodes {:>9.2} ms {:>5.1} %",
                seconds * 1e3,
                100.0 * seconds / total
            ));
        }
    }
    Ok(times)
}

fn sample(setup: &Setup, args: &BenchArgs, device: &Device) -> Result<(Vec<f64>, u64)> {
    let mut state = setup.allocate()?;
    setup
        .net
        .table()
        .initialise(0, state.get_mut(Arena::Params));
    let mut generator =
        Generator::new(&setup.net, &setup.conditioning, args.batch as usize, device)?;
    let plan = SamplerPlan::along(
        &setup.schedule,
        Sampler::Ddim { eta: 0.0 },
        &[setup.schedule.t_max()],
        Some(1.0),
    )?;
    let attributes = vec![1; setup.conditioning.attributes];
    let requests: Vec<Request> = (0..args.batch)
        .map(|latent| Request {
            attributes: attributes.clone(),
            latent,
        })
        .collect();
    let flops = generator.flops();
    let times = measure(|| {
        generator.draw(
            (&mut state, Arena::Params),
            &plan,
            (0, 0),
            &requests,
            |_, _, _| true,
        )?;
        Ok(())
    })?;
    Ok((times, flops))
}

fn measure(mut step: impl FnMut() -> Result<()>) -> Result<Vec<f64>> {
    let mut times = Vec::with_capacity(STEPS);
    for i in 0..WARM_UP + STEPS {
        let start = Instant::now();
        step()?;
        if i >= WARM_UP {
            times.push(start.elapsed().as_secs_f64());
        }
    }
    Ok(times)
}
