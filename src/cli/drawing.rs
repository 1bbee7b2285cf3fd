//! What the commands that draw with a checkpoint have in common: its options, the loaded model, and the
//! attributes and steps that are asked for.

use super::device::DeviceArgs;
use super::terminal::{Progress, stop_flag, warn};
use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use gmmk::data::{Candidates, parse_request};
use gmmk::device::Device;
use gmmk::diffusion::generate::{Generator, Request};
use gmmk::diffusion::sampler::{Sampler, SamplerPlan};
use gmmk::tape::Arena;
use gmmk::tape::state::State;
use gmmk::train::checkpoint::{self, Checkpoint, CheckpointInfo, Part};
use gmmk::train::config::DataKind;
use gmmk::train::setup::Setup;
use gmmk::train::tensors::load;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum SamplerName {
    /// Estimate the picture and noise it up again (the paper's Eq. 10)
    Renoise,
    /// Denoising diffusion implicit model
    Ddim,
    /// Ancestral sampling, posterior variance
    Ddpm,
    /// Ancestral sampling, variance beta
    #[value(name = "ddpm_large")]
    DdpmLarge,
    /// DPM-Solver++ of second order; good in about 20 steps
    #[value(name = "dpm++2m")]
    DpmSolver2M,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Others {
    /// From a training picture that agrees with the list
    Sample,
    /// All off
    None,
}

/// How noise becomes a picture.
#[derive(Args)]
pub struct SamplerArgs {
    /// How noise becomes a picture
    #[arg(long, value_enum, default_value_t = SamplerName::Ddim)]
    sampler: SamplerName,
    /// Steps, at most the T of training [default: T, at most 250; 20 of dpm++2m]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    steps: Option<u32>,
    /// Noise added by ddim, 0 to 1
    #[arg(long, default_value_t = 0.0)]
    eta: f64,
}

impl SamplerArgs {
    /// The sampler, and its steps from step `start` on.
    pub fn choose(&self, start: u32) -> (Sampler, u32) {
        let (sampler, most) = match self.sampler {
            SamplerName::Renoise => (Sampler::Renoise, 250),
            SamplerName::Ddim => (Sampler::Ddim { eta: self.eta }, 250),
            SamplerName::Ddpm => (Sampler::Ddpm, 250),
            SamplerName::DdpmLarge => (Sampler::DdpmLarge, 250),
            SamplerName::DpmSolver2M => (Sampler::DpmSolver2M, 20),
        };
        (sampler, self.steps.unwrap_or(start.min(most)))
    }
}

/// What is drawn, and how, whatever it is drawn with.
#[derive(Args)]
pub struct StyleArgs {
    /// What the attributes that are not listed are
    #[arg(long, value_enum, default_value_t = Others::Sample)]
    others: Others,
    /// Seed of noise, Z and the other attributes
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    #[command(flatten)]
    sampler: SamplerArgs,
    /// Guidance W: eps = eps_null + W (eps - eps_null); needs training with --token-dropout
    #[arg(long, value_name = "W", default_value_t = 1.0)]
    pub guidance: f32,
}

/// Options of every command that draws with a checkpoint.
#[derive(Args)]
pub struct DrawingArgs {
    /// A checkpoint, or a run's folder (its newest checkpoint)
    #[arg(long, value_name = "FILE|RUN")]
    checkpoint: PathBuf,
    /// What is drawn, and how.
    #[command(flatten)]
    pub style: StyleArgs,
    /// Convolutions on a CPU as the sums they are, not by Winograd's algorithm
    #[arg(long)]
    exact: bool,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Pictures drawn at a time.
pub const BATCH: usize = 16;

/// A checkpoint, ready to draw with.
pub struct Model {
    /// What the checkpoint says of itself.
    pub info: CheckpointInfo,
    /// Its network, schedule and conditioning.
    pub setup: Setup,
    state: State,
    device: Device,
    guidance: f32,
    seed: u64,
}

/// The checkpoint meant by `path`; a note about the choice is shown.
pub fn open(path: &Path) -> Result<Checkpoint> {
    let found = checkpoint::resolve(path)?;
    if let Some(note) = &found.note {
        warn(&format!("note: {note}"));
    }
    Ok(Checkpoint::open(&found.path)?)
}

/// State with the weights of one part of a checkpoint.
pub fn weights(checkpoint: &Checkpoint, setup: &Setup, part: Part) -> Result<State> {
    load(checkpoint, setup.net.table(), &[part])
}

impl DrawingArgs {
    /// The checkpoint, after what the options say has been checked against it.
    pub fn open(&self) -> Result<Checkpoint> {
        let checkpoint = open(&self.checkpoint)?;
        self.style.check(checkpoint.info(), &self.checkpoint)?;
        Ok(checkpoint)
    }

    /// Loads the averaged weights of `checkpoint`.
    pub fn load(&self, checkpoint: &Checkpoint) -> Result<Model> {
        let mut info = checkpoint.info().clone();
        info.config.exact |= self.exact;
        let setup = Setup::new(info.config.clone(), info.attribute_names.len())?;
        let (device, _) = self.device.wish().open()?;
        let state = weights(checkpoint, &setup, Part::Ema)?;
        Ok(Model {
            info,
            setup,
            state,
            device,
            guidance: self.style.guidance,
            seed: self.style.seed,
        })
    }
}

impl StyleArgs {
    /// Refuses guidance by a checkpoint, found at `path`, that has not learnt to go without attributes.
    pub fn check(&self, info: &CheckpointInfo, path: &Path) -> Result<()> {
        let weight = self.guidance;
        if !weight.is_finite() {
            bail!("--guidance {weight}: expected a finite number, usually 1 to 5");
        }
        if weight != 1.0 && info.config.token_dropout == 0.0 {
            bail!(
                "--guidance {weight}: {} was trained without token dropout (token_dropout = 0), so it has never seen null tokens; expected a run of `gmmk train --token-dropout 0.1`",
                path.display()
            );
        }
        Ok(())
    }

    /// The steps from `start` (T where there is none) to a picture.
    pub fn plan(&self, setup: &Setup, start: Option<u32>) -> Result<SamplerPlan> {
        let start = start.unwrap_or(setup.schedule.t_max());
        let (sampler, steps) = self.sampler.choose(start);
        let steps = (start, steps);
        Ok(SamplerPlan::from_step(
            &setup.schedule,
            sampler,
            steps,
            Some(1.0),
        )?)
    }
}

/// What a list of attributes asks for: one entry per name of the checkpoint.
pub fn wanted(info: &CheckpointInfo, list: &str) -> Result<Vec<Option<bool>>> {
    let names = &info.attribute_names;
    if list.trim().is_empty() {
        return Ok(vec![None; names.len()]);
    }
    let one_hot = info.config.data == DataKind::Cifar10;
    Ok(parse_request(list, names, one_hot)?)
}

/// `attributes` with what is wanted on top.
pub fn changed(attributes: &[u8], wanted: &[Option<bool>]) -> Vec<u8> {
    let pairs = attributes.iter().zip(wanted);
    pairs.map(|(&a, w)| w.map_or(a, u8::from)).collect()
}

impl StyleArgs {
    /// The attributes of `count` pictures: what is wanted, and the others as `--others` says.
    pub fn attributes(
        &self,
        info: &CheckpointInfo,
        wanted: &[Option<bool>],
        count: u64,
    ) -> Result<Vec<Vec<u8>>> {
        if self.others == Others::None {
            let one = changed(&vec![0; wanted.len()], wanted);
            return Ok(vec![one; count as usize]);
        }
        let rows: Vec<u8> = info.attribute_rows.concat();
        let candidates =
            Candidates::new(wanted, &rows).context("the checkpoint's training rows")?;
        if !candidates.agree() {
            let (most, of) = candidates.agreement();
            warn(&format!(
                "note: no kept training row has all {of} attributes asked for; taking {} rows with {most} of them and setting the rest",
                candidates.count()
            ));
        }
        let pick = |i| candidates.pick(self.seed, i).attributes;
        Ok((0..count).map(pick).collect())
    }
}

/// Draws set after set of pictures and shows how far it is.
pub struct Drawing<'a> {
    model: &'a mut Model,
    generator: Generator,
    progress: Progress,
    stop: Arc<AtomicBool>,
    done: u64,
    total: u64,
}

impl Model {
    /// A drawing of `sets` sets of pictures like `requests`, guided as the options say, by `plan`.
    pub fn drawing(
        &mut self,
        requests: &[Request],
        sets: usize,
        plan: &SamplerPlan,
    ) -> Result<Drawing<'_>> {
        let batch = requests.len().clamp(1, BATCH);
        let one = requests.first().cloned().map(|r| r.guided(self.guidance));
        let conditions = one.map_or(1, |request| request.conditions.len());
        let Setup {
            net, conditioning, ..
        } = &self.setup;
        let generator = Generator::mixing(net, conditioning, [batch, conditions], &self.device)?;
        let batches = requests.len().div_ceil(batch) * sets;
        let total = (plan.steps().len() * batches) as u64;
        Ok(Drawing {
            generator,
            progress: Progress::new("sampling", total, Duration::from_secs(15)),
            stop: stop_flag("stopping; no picture is written"),
            done: 0,
            total,
            model: self,
        })
    }
}

impl Drawing<'_> {
    /// Draws a set, from the noise of samples 0 on, or from the pictures `from` noised by it; `keep`
    /// gets the estimates of the first batch along the steps.
    pub fn set(
        &mut self,
        from: Option<&[f32]>,
        plan: &SamplerPlan,
        requests: &[Request],
        keep: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<Vec<f32>> {
        let guided = |r: &Request| r.clone().guided(self.model.guidance);
        let requests: Vec<Request> = requests.iter().map(guided).collect();
        let seen = |step: usize, x0: &[f32], first: usize| {
            self.done += 1;
            self.progress
                .update(self.done, self.total, || "steps".into());
            if first == 0 {
                keep(step, x0);
            }
            !self.stop.load(Ordering::Relaxed)
        };
        let numbers = (self.model.seed, 0);
        let weights = (&mut self.model.state, Arena::Ema);
        let drawn = self
            .generator
            .draw_from(from, weights, plan, numbers, &requests, seen);
        if drawn.is_err() || self.done == self.total {
            self.progress.finish();
        }
        Ok(drawn?)
    }
}
