//! `gmmk export`: a model for diffusers, or pictures for programs that measure them.

use super::device::DeviceArgs;
use super::drawing::{self, StyleArgs, wanted};
use super::terminal::{Progress, counted, say, stop_flag};
use anyhow::{Result, bail};
use clap::{ArgGroup, Args, ValueEnum};
use gmmk::device::pool::Pool;
use gmmk::diffusion::generate::{Generator, Request};
use gmmk::interchange::{self, ImageFacts, ImageFolder, MOST_PICTURES};
use gmmk::report::picture::Picture;
use gmmk::train::checkpoint::{Checkpoint, CheckpointInfo, Part};
use gmmk::train::setup::Setup;
use gmmk::train::tensors::arena;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Weights {
    /// Their moving average
    Ema,
    /// As the last step left them
    Raw,
}

impl From<Weights> for Part {
    fn from(weights: Weights) -> Self {
        match weights {
            Weights::Ema => Self::Ema,
            Weights::Raw => Self::Weight,
        }
    }
}

/// Options of `gmmk export`.
#[derive(Args)]
#[command(
    allow_negative_numbers = true,
    group = ArgGroup::new("what").required(true).args(["diffusers", "images"])
)]
pub struct ExportArgs {
    /// A checkpoint, or a run's folder (its newest checkpoint)
    #[arg(long, value_name = "FILE|RUN")]
    checkpoint: PathBuf,
    /// Write a folder that diffusers opens, with a program that draws pictures from it
    #[arg(
        long,
        value_name = "DIR",
        conflicts_with_all = [
            "count", "batch", "attributes", "fixed_z", "others", "seed", "sampler", "steps", "eta", "guidance", "DeviceArgs"
        ]
    )]
    diffusers: Option<PathBuf>,
    /// Draw pictures into a folder, and list their attributes in attributes.csv
    #[arg(long, value_name = "DIR", requires = "count")]
    images: Option<PathBuf>,
    /// Which copy of the weights
    #[arg(long, value_enum, default_value_t = Weights::Ema)]
    weights: Weights,
    /// Write into a folder that holds other files
    #[arg(long)]
    force: bool,
    /// Number of pictures
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=MOST_PICTURES))]
    count: Option<u64>,
    /// Pictures drawn at a time
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch: u32,
    /// Attributes on, or off with a minus: "Smiling,Young,-Male"; for CIFAR-10 one class
    #[arg(
        long,
        value_name = "LIST",
        default_value = "",
        allow_hyphen_values = true
    )]
    attributes: String,
    /// One Z for all pictures; only the noise differs
    #[arg(long)]
    fixed_z: bool,
    #[command(flatten)]
    style: StyleArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Runs `gmmk export`.
pub fn run(args: ExportArgs) -> Result<()> {
    let checkpoint = drawing::open(&args.checkpoint)?;
    match (&args.diffusers, &args.images, args.count) {
        (Some(folder), ..) => model(&args, &checkpoint, folder),
        (None, Some(folder), Some(count)) => images(&args, &checkpoint, folder, count),
        _ => bail!("expected --diffusers DIR, or --images DIR --count N"),
    }
}

fn model(args: &ExportArgs, checkpoint: &Checkpoint, folder: &Path) -> Result<()> {
    let pool = Arc::new(Pool::new(0)?);
    let part = args.weights.into();
    let exported = interchange::export(checkpoint, part, folder, args.force, &pool)?;
    let shown = folder.display();
    say(&format!(
        "wrote {shown}: {} numbers in {} ({} weights); try: python {shown}/sample.py --check",
        exported.parameters,
        counted(exported.tensors, "tensor"),
        exported.weights
    ));
    Ok(())
}

/// What is drawn: the attributes asked for, guided as the options say.
fn requests(args: &ExportArgs, info: &CheckpointInfo, count: u64) -> Result<Vec<Request>> {
    let asked = wanted(info, &args.attributes)?;
    let attributes = args.style.attributes(info, &asked, count)?;
    let request = |(attributes, i): (&Vec<u8>, u64)| {
        let latent = if args.fixed_z { 0 } else { i };
        Request::new(attributes, latent).guided(args.style.guidance)
    };
    Ok(attributes.iter().zip(0..).map(request).collect())
}

fn images(args: &ExportArgs, checkpoint: &Checkpoint, folder: &Path, count: u64) -> Result<()> {
    let info = checkpoint.info();
    args.style.check(info, &args.checkpoint)?;
    let requests = requests(args, info, count)?;
    let setup = Setup::new(info.config.clone(), info.attribute_names.len())?;
    let plan = args.style.plan(&setup, None)?;
    let part = Part::from(args.weights);
    let (device, _) = args.device.wish().open()?;
    let mut state = drawing::weights(checkpoint, &setup, part)?;
    let batch = requests.len().min(args.batch as usize);
    let conditions = requests.first().map_or(1, |r| r.conditions.len());
    let shape = [batch, conditions];
    let mut generator = Generator::mixing(&setup.net, &setup.conditioning, shape, &device)?;
    let facts = ImageFacts {
        step: info.counters.step,
        images_seen: info.counters.images_seen,
        weights: interchange::label(checkpoint, part),
        attributes: args.attributes.clone(),
        sampler: plan.sampler().to_string(),
        steps: plan.steps().len(),
        seed: args.style.seed,
        count: requests.len(),
    };
    let names = &info.attribute_names;
    let out = ImageFolder::create(folder, names, &requests, &facts, args.force)?;
    let stop = stop_flag("stopping; the pictures drawn so far stay");
    let mut progress = Progress::new("drawing", count, Duration::from_secs(15));
    let size = setup.net.config().sample_size;
    for (number, some) in requests.chunks(batch).enumerate() {
        let first = number * batch;
        let numbers = (args.style.seed, first as u64);
        let go_on = |_: usize, _: &[f32], _: usize| !stop.load(Ordering::Relaxed);
        let drawn = generator.draw((&mut state, arena(part)), &plan, numbers, some, go_on)?;
        let pictures = Picture::from_batch(&drawn, [some.len(), size, size, 3])?;
        for (i, picture) in pictures.iter().enumerate() {
            out.save(first + i, picture)?;
        }
        progress.update((first + some.len()) as u64, count, || "pictures".into());
    }
    progress.finish();
    say(&format!(
        "wrote {}: {} and attributes.csv",
        folder.display(),
        counted(requests.len(), "picture")
    ));
    Ok(())
}
