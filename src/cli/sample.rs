//! `gmmk sample`.

use super::check_out;
use super::device::DeviceArgs;
use super::drawing::{self, DrawingArgs};
use super::terminal::{Progress, counted, say, stop_flag};
use anyhow::Result;
use clap::Args;
use gmmk::diffusion::generate::{Generator, Request};
use gmmk::diffusion::sampler::SamplerPlan;
use gmmk::report::grid::{Sheet, film_strip};
use gmmk::report::picture::Picture;
use gmmk::tape::Arena;
use gmmk::tape::state::State;
use gmmk::train::checkpoint::Part;
use gmmk::train::setup::Setup;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Options of `gmmk sample`.
#[derive(Args)]
#[command(allow_negative_numbers = true)]
pub struct SampleArgs {
    /// A checkpoint, or a run's folder (its newest checkpoint)
    #[arg(long, value_name = "FILE|RUN")]
    checkpoint: PathBuf,
    /// Number of pictures
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=4096))]
    count: u64,
    #[command(flatten)]
    drawing: DrawingArgs,
    /// Write the picture's estimate along the steps too, as NAME-trajectory.png
    #[arg(long)]
    trajectory: bool,
    /// The sheet of pictures
    #[arg(long, value_name = "PNG")]
    out: PathBuf,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Pictures drawn at a time.
const BATCH: usize = 16;
/// Columns of a trajectory, at the most.
const FRAMES: usize = 12;

/// Runs `gmmk sample`.
pub fn run(args: SampleArgs) -> Result<()> {
    check_out(&args.out)?;
    let checkpoint = drawing::open(&args.checkpoint)?;
    let info = checkpoint.info();
    let requests = args.drawing.requests(info, args.count)?;
    let setup = Setup::new(info.config.clone(), info.attribute_names.len())?;
    let plan = args.drawing.plan(&setup)?;
    let (device, _) = args.device.wish().open()?;
    let mut state = drawing::weights(&checkpoint, &setup, Part::Ema)?;
    let batch = requests.len().min(BATCH);
    let mut generator = Generator::new(&setup.net, &setup.conditioning, batch, &device)?;
    let mut trajectory = Trajectory::new(plan.steps().len());
    let mut keep = |step: usize, x0: &[f32]| {
        if args.trajectory {
            trajectory.keep(step, x0);
        }
    };
    let pictures = draw(
        &mut generator,
        &mut state,
        &plan,
        args.drawing.seed,
        &requests,
        &mut keep,
    )?;
    let size = setup.net.config().sample_size;
    let pictures = Picture::from_batch(&pictures, [requests.len(), size, size, 3])?;
    let mut sheet = Sheet::new(pictures.len().min(8), size);
    sheet.title = Some(title(&args, info.counters.step, &plan));
    sheet.render(&pictures)?.save_png(&args.out)?;
    say(&format!(
        "wrote {}: {}",
        args.out.display(),
        counted(pictures.len(), "picture")
    ));
    if args.trajectory {
        let path = beside(&args.out, "-trajectory");
        trajectory.write(&plan, size, &path)?;
        say(&format!(
            "wrote {}: the estimate of the picture at {} steps",
            path.display(),
            trajectory.kept.len()
        ));
    }
    Ok(())
}

/// Draws the pictures of `requests` with the averaged weights, showing how far it is; `keep` gets
/// the estimates of the first batch along the steps.
fn draw(
    generator: &mut Generator,
    state: &mut State,
    plan: &SamplerPlan,
    seed: u64,
    requests: &[Request],
    keep: &mut dyn FnMut(usize, &[f32]),
) -> Result<Vec<f32>> {
    let stop = stop_flag("stopping; no picture is written");
    let batches = requests.len().div_ceil(requests.len().clamp(1, BATCH)) as u64;
    let total = plan.steps().len() as u64 * batches;
    let mut progress = Progress::new("sampling", total, Duration::from_secs(15));
    let mut done = 0;
    let seen = |step: usize, x0: &[f32], first: usize| {
        done += 1;
        progress.update(done, total, || "steps".into());
        if first == 0 {
            keep(step, x0);
        }
        !stop.load(Ordering::Relaxed)
    };
    let pictures = generator.draw((state, Arena::Ema), plan, (seed, 0), requests, seen);
    progress.finish();
    Ok(pictures?)
}

fn title(args: &SampleArgs, step: u64, plan: &SamplerPlan) -> String {
    let wanted = match args.drawing.attributes.as_str() {
        "" => "attributes of training pictures",
        list => list,
    };
    format!(
        "{wanted} | {} {} steps | trained {step} steps",
        plan.sampler().name(),
        plan.steps().len()
    )
}

/// `name-suffix.png` for `name.png`.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let stem = path
        .file_stem()
        .map_or_else(Default::default, |s| s.to_string_lossy());
    path.with_file_name(format!("{stem}{suffix}.png"))
}

/// Estimates of the first pictures at some of the steps.
struct Trajectory {
    steps: usize,
    kept: Vec<(usize, Vec<f32>)>,
}

impl Trajectory {
    fn new(steps: usize) -> Self {
        Self {
            steps,
            kept: Vec::new(),
        }
    }

    fn keep(&mut self, step: usize, x0: &[f32]) {
        let frames = FRAMES.min(self.steps);
        let chosen = |i: usize| {
            if frames == 1 {
                0
            } else {
                i * (self.steps - 1) / (frames - 1)
            }
        };
        if (0..frames).any(|i| chosen(i) == step) {
            self.kept.push((step, x0.to_vec()));
        }
    }

    fn write(&self, plan: &SamplerPlan, size: usize, path: &Path) -> Result<()> {
        let elements = size * size * 3;
        let rows = (self.kept.first().map_or(0, |k| k.1.len()) / elements.max(1)).min(8);
        let mut pictures = Vec::new();
        for row in 0..rows {
            let mut strip = Vec::new();
            for (_, x0) in &self.kept {
                let range = row * elements..(row + 1) * elements;
                strip.extend(Picture::from_batch(&x0[range], [1, size, size, 3])?);
            }
            pictures.push(strip);
        }
        let captions: Vec<String> = self
            .kept
            .iter()
            .map(|(s, _)| format!("t={}", plan.steps()[*s].t))
            .collect();
        film_strip(&pictures, &captions, None)?.save_png(path)?;
        Ok(())
    }
}
