//! `gmmk sample`.

use super::check_out;
use super::drawing::{DrawingArgs, Model, changed, wanted};
use super::terminal::{counted, say};
use anyhow::{Result, bail};
use clap::Args;
use gmmk::diffusion::generate::Request;
use gmmk::diffusion::sampler::SamplerPlan;
use gmmk::report::grid::{Sheet, film_strip};
use gmmk::report::picture::Picture;
use gmmk::train::checkpoint::CheckpointInfo;
use gmmk::train::config::DataKind;
use std::path::{Path, PathBuf};

/// Options of `gmmk sample`.
#[derive(Args)]
#[command(allow_negative_numbers = true)]
pub struct SampleArgs {
    #[command(flatten)]
    drawing: DrawingArgs,
    /// Attributes on, or off with a minus: "Smiling,Young,-Male"; for CIFAR-10 one class
    #[arg(
        long,
        value_name = "LIST",
        default_value = "",
        allow_hyphen_values = true
    )]
    attributes: String,
    /// How strongly the listed attributes show: their difference to the opposite ones, S times
    #[arg(long, value_name = "S", default_value_t = 1.0)]
    strength: f32,
    /// A row of pictures on the way to these attributes, of the same noise and Z
    #[arg(
        long,
        value_name = "LIST",
        allow_hyphen_values = true,
        conflicts_with_all = ["strength", "trajectory"]
    )]
    to: Option<String>,
    /// Pictures of such a row, both ends included
    #[arg(long, value_name = "N", default_value_t = 7, requires = "to", value_parser = clap::value_parser!(u32).range(2..=64))]
    frames: u32,
    /// Number of pictures, or of rows with --to
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=4096))]
    count: u64,
    /// One Z for all pictures; only the noise differs
    #[arg(long)]
    fixed_z: bool,
    /// Write the picture's estimate along the steps too, as NAME-trajectory.png
    #[arg(long)]
    trajectory: bool,
    /// The sheet of pictures
    #[arg(long, value_name = "PNG")]
    out: PathBuf,
}

/// Columns of a trajectory, at the most.
const FRAMES: usize = 12;

/// Runs `gmmk sample`.
pub fn run(args: SampleArgs) -> Result<()> {
    check_out(&args.out)?;
    let checkpoint = args.drawing.open()?;
    let asked = wanted(checkpoint.info(), &args.attributes)?;
    let end = match &args.to {
        Some(list) => Some(wanted(checkpoint.info(), list)?),
        None => None,
    };
    let requests = requests(&args, checkpoint.info(), &asked)?;
    let mut model = args.drawing.load(&checkpoint)?;
    let plan = args.drawing.style.plan(&model.setup, None)?;
    match end {
        Some(end) => way(&args, &mut model, &plan, &requests, &end),
        None => page(&args, &mut model, &plan, &requests),
    }
}

/// A page of pictures, one per request.
fn page(
    args: &SampleArgs,
    model: &mut Model,
    plan: &SamplerPlan,
    requests: &[Request],
) -> Result<()> {
    let mut trajectory = Trajectory::new(plan.steps().len());
    let mut keep = |step: usize, x0: &[f32]| {
        if args.trajectory {
            trajectory.keep(step, x0);
        }
    };
    let pictures = model
        .drawing(requests, 1, plan)?
        .set(None, plan, requests, &mut keep)?;
    let size = model.setup.net.config().sample_size;
    let pictures = Picture::from_batch(&pictures, [requests.len(), size, size, 3])?;
    let mut sheet = Sheet::new(pictures.len().min(8), size);
    sheet.title = Some(title(args, model.info.counters.step, plan));
    sheet.render(&pictures)?.save_png(&args.out)?;
    say(&format!(
        "wrote {}: {}",
        args.out.display(),
        counted(pictures.len(), "picture")
    ));
    if args.trajectory {
        let path = beside(&args.out, "-trajectory");
        trajectory.write(plan, size, &path)?;
        say(&format!(
            "wrote {}: the estimate of the picture at {} steps",
            path.display(),
            trajectory.kept.len()
        ));
    }
    Ok(())
}

/// A row per request: pictures on the way to the attributes `end`.
fn way(
    args: &SampleArgs,
    model: &mut Model,
    plan: &SamplerPlan,
    requests: &[Request],
    end: &[Option<bool>],
) -> Result<()> {
    let (frames, size) = (args.frames as usize, model.setup.net.config().sample_size);
    let share = |frame: usize| frame as f32 / (frames - 1) as f32;
    let mut drawing = model.drawing(requests, frames, plan)?;
    let mut columns = Vec::new();
    for frame in 0..frames {
        let on_the_way = |from: &Request| {
            let own: Vec<u8> = from.conditions[0].levels.iter().map(|&a| a as u8).collect();
            let to = Request::new(&changed(&own, end), from.latent);
            from.towards(&to, share(frame))
        };
        let frame: Vec<Request> = requests.iter().map(on_the_way).collect();
        let pictures = drawing.set(None, plan, &frame, &mut |_, _| ())?;
        columns.push(Picture::from_batch(
            &pictures,
            [requests.len(), size, size, 3],
        )?);
    }
    let rows = 0..requests.len();
    let pictures: Vec<Picture> = rows
        .flat_map(|row| columns.iter().map(move |column| column[row].clone()))
        .collect();
    drop(drawing);
    let mut sheet = Sheet::new(frames, size);
    sheet.title = Some(title(args, model.info.counters.step, plan));
    sheet.column_captions = (0..frames).map(|f| format!("{:.2}", share(f))).collect();
    sheet.render(&pictures)?.save_png(&args.out)?;
    say(&format!(
        "wrote {}: {} of {frames} pictures",
        args.out.display(),
        counted(requests.len(), "row")
    ));
    Ok(())
}

fn title(args: &SampleArgs, step: u64, plan: &SamplerPlan) -> String {
    let mut wanted = match args.attributes.as_str() {
        "" => "attributes of training pictures".to_owned(),
        list => list.to_owned(),
    };
    if let Some(to) = &args.to {
        wanted = format!("{wanted} -> {to}");
    }
    for (name, value) in [
        ("strength", args.strength),
        ("guidance", args.drawing.style.guidance),
    ] {
        if value != 1.0 {
            wanted = format!("{wanted} | {name} {value}");
        }
    }
    format!(
        "{wanted} | {} {} steps | trained {step} steps",
        plan.sampler().name(),
        plan.steps().len()
    )
}

/// What the pictures are drawn from.
fn requests(
    args: &SampleArgs,
    info: &CheckpointInfo,
    asked: &[Option<bool>],
) -> Result<Vec<Request>> {
    let strength = args.strength;
    if !strength.is_finite() {
        bail!("--strength {strength}: expected a finite number; 1 changes nothing");
    }
    if strength != 1.0 && info.config.data == DataKind::Cifar10 {
        bail!(
            "--strength {strength}: the attributes are classes, which have no opposite; try --guidance"
        );
    }
    if strength != 1.0 && asked.iter().all(Option::is_none) {
        bail!("--strength {strength} without --attributes; expected a list of those to strengthen");
    }
    let opposite: Vec<_> = asked.iter().map(|a| a.map(|on| !on)).collect();
    let attributes = args.drawing.style.attributes(info, asked, args.count)?;
    let request = |(i, own): (u64, &Vec<u8>)| {
        let latent = if args.fixed_z { 0 } else { i };
        Request::new(own, latent).against(&changed(own, &opposite), strength)
    };
    Ok((0..).zip(&attributes).map(request).collect())
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
