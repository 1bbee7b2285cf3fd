//! What is drawn, and how: the options that `gmmk sample` and `gmmk export --images` share.

use super::terminal::warn;
use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use gmmk::data::{Candidates, parse_request};
use gmmk::diffusion::generate::Request;
use gmmk::diffusion::sampler::{Sampler, SamplerPlan};
use gmmk::diffusion::schedule::Schedule;
use gmmk::tape::state::State;
use gmmk::train::checkpoint::{self, Checkpoint, CheckpointInfo, Part};
use gmmk::train::config::DataKind;
use gmmk::train::setup::Setup;
use gmmk::train::tensors::{arena, restore};
use std::path::Path;

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
    /// Steps, at most the T of training [default: T, at most 250]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    steps: Option<u32>,
    /// Noise added by ddim, 0 to 1
    #[arg(long, default_value_t = 0.0)]
    eta: f64,
}

impl SamplerArgs {
    /// The sampler, and its steps for a network of `schedule`.
    pub fn choose(&self, schedule: &Schedule) -> (Sampler, u32) {
        let sampler = match self.sampler {
            SamplerName::Renoise => Sampler::Renoise,
            SamplerName::Ddim => Sampler::Ddim { eta: self.eta },
            SamplerName::Ddpm => Sampler::Ddpm,
            SamplerName::DdpmLarge => Sampler::DdpmLarge,
        };
        (sampler, self.steps.unwrap_or(schedule.t_max().min(250)))
    }
}

/// The options.
#[derive(Args)]
pub struct DrawingArgs {
    /// Attributes on, or off with a minus: "Smiling,Young,-Male"; for CIFAR-10 one class
    #[arg(
        long,
        value_name = "LIST",
        default_value = "",
        allow_hyphen_values = true
    )]
    pub attributes: String,
    /// What the attributes that are not listed are
    #[arg(long, value_enum, default_value_t = Others::Sample)]
    others: Others,
    /// Seed of noise, Z and the other attributes
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    #[command(flatten)]
    sampler: SamplerArgs,
    /// One Z for all pictures; only the noise differs
    #[arg(long)]
    fixed_z: bool,
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
    let mut state = State::default();
    for arena in [arena(Part::Weight), arena(part)] {
        state.allocate(arena, setup.net.table().elements())?;
    }
    restore(checkpoint, setup.net.table(), &mut state, &[part])?;
    Ok(state)
}

impl DrawingArgs {
    /// The attributes and latents of `count` pictures.
    pub fn requests(&self, info: &CheckpointInfo, count: u64) -> Result<Vec<Request>> {
        let names = &info.attribute_names;
        let one_hot = info.config.data == DataKind::Cifar10;
        let request = if self.attributes.trim().is_empty() {
            vec![None; names.len()]
        } else {
            parse_request(&self.attributes, names, one_hot)?
        };
        let latent = |i: u64| if self.fixed_z { 0 } else { i };
        if self.others == Others::None {
            let attributes: Vec<u8> = request.iter().map(|a| u8::from(*a == Some(true))).collect();
            return Ok((0..count)
                .map(|i| Request {
                    attributes: attributes.clone(),
                    latent: latent(i),
                })
                .collect());
        }
        let rows: Vec<u8> = info.attribute_rows.concat();
        let candidates =
            Candidates::new(&request, &rows).context("the checkpoint's training rows")?;
        if !candidates.agree() {
            let (most, of) = candidates.agreement();
            warn(&format!(
                "note: no kept training row has all {of} attributes asked for; taking {} rows with {most} of them and setting the rest",
                candidates.count()
            ));
        }
        let pick = |i| Request {
            attributes: candidates.pick(self.seed, i).attributes,
            latent: latent(i),
        };
        Ok((0..count).map(pick).collect())
    }

    /// The sampler's steps.
    pub fn plan(&self, setup: &Setup) -> Result<SamplerPlan> {
        let (sampler, steps) = self.sampler.choose(&setup.schedule);
        Ok(SamplerPlan::new(
            &setup.schedule,
            sampler,
            steps,
            Some(1.0),
        )?)
    }
}
