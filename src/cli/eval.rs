//! `gmmk eval`.

use super::data;
use super::device::DeviceArgs;
use super::drawing::SamplerArgs;
use super::terminal::{Progress, columns, duration, say, stop_flag, warn};
use anyhow::{Context, Result, bail};
use clap::Args;
use gmmk::data::Packed;
use gmmk::device::Device;
use gmmk::diffusion::sampler::Sampler;
use gmmk::evaluate::classifier::AttributeClassifier;
use gmmk::evaluate::evaluator::{Evaluation, Evaluator, Settings};
use gmmk::evaluate::probe::Periodic;
use gmmk::evaluate::report::EvaluationReport;
use gmmk::report::files::replace_with_bytes;
use gmmk::tape::Arena;
use gmmk::tape::state::State;
use gmmk::train::checkpoint::{self, Checkpoint, Part};
use gmmk::train::config::{DataKind, RunConfig};
use gmmk::train::length::Length;
use gmmk::train::setup::Setup;
use gmmk::train::tensors::load;
use gmmk::train::trainer::Probe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Options of `gmmk eval`.
#[derive(Args)]
#[command(allow_negative_numbers = true)]
pub struct EvalArgs {
    /// A checkpoint, or a run's folder (its newest checkpoint)
    #[arg(long, value_name = "FILE|RUN")]
    checkpoint: PathBuf,
    /// Folder of the data set [default: the run's]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The attribute classifier, written by `gmmk train-classifier`
    #[arg(long, value_name = "FILE")]
    judge: PathBuf,
    /// Pictures to draw
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u64).range(16..=100_000))]
    count: u64,
    /// Seed of noise and Z
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    sampler: SamplerArgs,
    /// Folder for eval.json, eval.html and pictures; made if it is not there
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Options of an evaluation along with a run.
#[derive(Args)]
pub struct EvalEvery {
    /// Evaluate the averaged weights every so often, into metrics.jsonl (give it again with --resume)
    #[arg(long, value_name = "N", requires = "judge", conflicts_with = "dry_run")]
    eval_every: Option<Length>,
    /// The attribute classifier of --eval-every, written by `gmmk train-classifier`
    #[arg(long, value_name = "FILE", requires = "eval_every")]
    judge: Option<PathBuf>,
    /// Pictures that --eval-every draws, in 50 steps each [default: 200]
    #[arg(long, value_name = "N", requires = "eval_every", value_parser = clap::value_parser!(u64).range(16..=100_000))]
    eval_count: Option<u64>,
}

/// Steps of the sampler along with a run, as on its pages of samples.
const STEPS: u32 = 50;

impl EvalEvery {
    /// Prepares what was asked for, if anything.
    pub fn prepare(
        &self,
        setup: &Setup,
        data: &Arc<Packed>,
        device: &Device,
    ) -> Result<Option<Box<dyn Probe>>> {
        let (Some(every), Some(judge)) = (self.eval_every, &self.judge) else {
            return Ok(None);
        };
        let config = &setup.config;
        let every = every.steps(config.batch);
        if every == 0 {
            bail!("--eval-every: no step at all; expected at least one");
        }
        let settings = Settings {
            count: self.eval_count.unwrap_or(200) as usize,
            seed: config.seed,
            // Early in a run ancestral sampling is the cleanest.
            sampler: Sampler::Ddpm,
            steps: setup.schedule.t_max().min(STEPS),
            batch: BATCH,
            loss: false,
        };
        let judge = open_judge(judge, device)?;
        let evaluator = Evaluator::new(setup, data.clone(), judge, settings, device)?;
        Ok(Some(Box::new(Periodic::new(evaluator, every))))
    }
}

/// Pictures drawn at a time.
const BATCH: usize = 16;

/// Runs `gmmk eval`.
pub fn run(args: &EvalArgs) -> Result<()> {
    check_folder(&args.out)?;
    let found = checkpoint::resolve(&args.checkpoint)?;
    if let Some(note) = &found.note {
        warn(&format!("note: {note}"));
    }
    let checkpoint = Checkpoint::open(&found.path)?;
    let info = checkpoint.info();
    let (device, _) = args.device.wish().open()?;
    let judge = open_judge(&args.judge, &device)?;
    let setup = Setup::new(info.config.clone(), info.attribute_names.len())?;
    let packed = open_data(
        &info.config,
        args.data.as_deref(),
        setup.net.config().sample_size,
    )?;
    if info.attribute_names != packed.attribute_names() {
        bail!(
            "{} was trained on other attributes than {} has; expected the data set that it began with",
            found.path.display(),
            packed.data_set()
        );
    }
    let mut state = load::<anyhow::Error>(&checkpoint, setup.net.table(), &[Part::Ema])?;
    let (sampler, steps) = args.sampler.choose(setup.schedule.t_max());
    let settings = Settings {
        count: args.count as usize,
        seed: args.seed,
        sampler,
        steps,
        batch: BATCH,
        loss: true,
    };
    let start = Instant::now();
    let mut evaluator = Evaluator::new(&setup, Arc::new(packed), judge, settings, &device)?;
    let looked = start.elapsed();
    let evaluation = measure(&mut evaluator, &mut state)?;
    let report = EvaluationReport {
        evaluator: &evaluator,
        evaluation: &evaluation,
        step: info.counters.step,
        network: format!("{} on {}", info.config.preset, info.config.data),
        files: [&found.path, &args.judge].map(|path| path.display().to_string()),
    };
    write(&report, &args.out)?;
    warn(&format!(
        "took {}: {} of them for the real pictures",
        duration(start.elapsed().as_secs_f64()),
        duration(looked.as_secs_f64())
    ));
    Ok(())
}

/// Refuses a folder that cannot be written to, before the work and not after it.
fn check_folder(folder: &Path) -> Result<()> {
    let shown = folder.display();
    std::fs::create_dir_all(folder)
        .with_context(|| format!("--out {shown}: expected a folder, or a place for one"))?;
    super::check_file(&folder.join("eval.json"), "a folder", "eval")
}

/// The classifier in `path`.
pub fn open_judge(path: &Path, device: &Device) -> Result<AttributeClassifier> {
    AttributeClassifier::open(path, device).with_context(|| format!("--judge {}", path.display()))
}

/// The data set that a run of `config` was trained on.
fn open_data(config: &RunConfig, folder: Option<&Path>, size: usize) -> Result<Packed> {
    let own = match config.data {
        DataKind::Faces => None,
        _ => config.data_path.as_deref(),
    };
    let attributes = config.attributes.as_deref();
    data::open(config.data, folder.or(own), attributes, size as u32)
}

/// Draws and measures, showing how far it is.
fn measure(evaluator: &mut Evaluator, state: &mut State) -> Result<Evaluation> {
    let stop = stop_flag("stopping; nothing is written");
    let total = evaluator.predictions();
    let mut progress = Progress::new("sampling", total, Duration::from_secs(15));
    let mut done = 0;
    let evaluation = evaluator.measure((state, Arena::Ema), || {
        done += 1;
        progress.update(done, total, || "steps".into());
        !stop.load(Ordering::Relaxed)
    });
    progress.finish();
    Ok(evaluation?)
}

/// Prints the table and writes eval.json, the sheets and eval.html.
fn write(report: &EvaluationReport<'_>, folder: &Path) -> Result<()> {
    say(&report.title());
    let head = ["", "drawn", "real pictures"].map(str::to_owned).to_vec();
    let rows = report.rows().into_iter().map(Vec::from);
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
    say(&columns(&rows));
    say(&report.legend());
    let json = serde_json::to_string_pretty(&report.json())?;
    replace_with_bytes(&folder.join("eval.json"), format!("{json}\n").as_bytes())?;
    let mut sheets = Vec::new();
    for (name, sheet) in report.sheets()? {
        sheets.push(sheet.save_png(&folder.join(format!("{name}.png")))?);
    }
    replace_with_bytes(&folder.join("eval.html"), report.html(&sheets).as_bytes())?;
    say(&format!(
        "wrote eval.json, eval.html, samples.png and nearest.png in {}",
        folder.display()
    ));
    Ok(())
}
