//! The training step and the held-out measurement as recorded programs.

use super::config::RunConfig;
use crate::data::Batch;
use crate::device::pool::Pool;
use crate::diffusion::generate::Conditioning;
use crate::diffusion::schedule::Schedule;
use crate::gmm::latent::LatentKind;
use crate::model::UNet;
use crate::model::unet::{Inputs, Purpose};
use crate::ops::adamw::{AdamWConfig, adamw};
use crate::ops::add;
use crate::ops::mse::mse;
use crate::ops::q_sample::QSample;
use crate::ops::timestep::Timestep;
use crate::ops::unpack::Unpack;
use crate::rng::split;
use crate::tape::executable::{Executable, OutOfMemory, State};
use crate::tape::plan::Plan;
use crate::tape::{Arena, Tape, TapeError, TensorType, Var};
use std::sync::Arc;

/// A step cannot be recorded or planned.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// Operands that do not fit.
    #[error(transparent)]
    Tape(#[from] TapeError),
    /// Not enough memory.
    #[error(transparent)]
    Memory(#[from] OutOfMemory),
}

/// Inputs that both programs share.
struct Feed {
    images: Var,
    attributes: Var,
    rows: Var,
    samples: Var,
    seed: Var,
}

impl Feed {
    fn declare(tape: &mut Tape, net: &UNet, attributes: usize, batch: usize) -> Self {
        let config = net.config();
        let picture = [
            batch,
            config.sample_size,
            config.sample_size,
            config.in_channels,
        ];
        Self {
            images: tape.input("images", TensorType::u8(&picture)),
            attributes: tape.input("attributes", TensorType::u8(&[batch, attributes])),
            rows: tape.input("rows", TensorType::u32(&[batch, 2])),
            samples: tape.input("samples", TensorType::u32(&[batch, 2])),
            seed: tape.input("seed", TensorType::u32(&[2])),
        }
    }

    fn write(&self, exe: &mut Executable, batch: &Batch, latents: &[u64], seed: u64) {
        exe.write(self.images, &batch.images);
        exe.write(self.attributes, &batch.attributes);
        let words = |numbers: &mut dyn Iterator<Item = u64>| -> Vec<u32> {
            numbers.flat_map(split).collect()
        };
        exe.write(self.rows, &words(&mut latents.iter().copied()));
        let samples = batch.first_sample..batch.first_sample + batch.rows.len() as u64;
        exe.write(self.samples, &words(&mut samples.into_iter()));
        exe.write(self.seed, &split(seed));
    }
}

/// What a step computes, apart from the batch size.
#[derive(Clone)]
pub struct Recipe<'a> {
    /// The network.
    pub net: &'a UNet,
    /// The run's settings.
    pub config: &'a RunConfig,
    /// The noise schedule.
    pub schedule: &'a Schedule,
    /// How attributes become tokens.
    pub conditioning: &'a Conditioning,
}

/// Results of a step that the host reads.
#[derive(Clone, Copy, Debug)]
pub struct StepResult {
    /// Mean squared error of the predicted noise.
    pub loss: f32,
    /// Global norm of the gradient before clipping.
    pub grad_norm: f32,
    /// The update was made: the gradient was finite.
    pub updated: bool,
}

/// Variables of a recorded training step.
struct Recorded {
    feed: Feed,
    rates: Var,
    loss: Var,
    norm: Var,
}

/// Records pictures, noise, tokens and the network; returns the predicted and the true noise.
/// Without `t` the time steps are drawn.
fn predict(
    recipe: &Recipe<'_>,
    tape: &mut Tape,
    feed: &Feed,
    t: Option<Var>,
    purpose: Purpose,
) -> Result<[Var; 2], TapeError> {
    let Recipe {
        net,
        config,
        schedule,
        conditioning,
    } = recipe;
    let (seed, samples) = (feed.seed, feed.samples);
    let flip = config.flip && purpose == Purpose::Train;
    let x0 = tape.push_one(Unpack { flip }, &[feed.images, seed, samples])?;
    let t_max = schedule.t_max();
    let t = t.map_or_else(|| tape.push_one(Timestep { t_max }, &[seed, samples]), Ok)?;
    let table = &schedule.alpha_bar()[1..];
    let noise = QSample {
        coefficients: table
            .iter()
            .map(|ab| [ab.sqrt() as f32, (1.0 - ab).sqrt() as f32])
            .collect(),
    };
    let noisy = tape.push(noise, &[x0, t, seed, samples])?;
    let op = conditioning.op(net.config().cross_attention_dim, config.latent.stream());
    let inputs = Inputs {
        sample: noisy[0],
        timestep: t,
        tokens: tape.push_one(op, &[feed.attributes, seed, feed.rows])?,
    };
    Ok([net.record(tape, inputs, purpose)?.output, noisy[1]])
}

fn record(recipe: &Recipe<'_>, batch: usize) -> Result<(Tape, Recorded), TapeError> {
    let Recipe { net, config, .. } = recipe;
    let mut tape = Tape::new();
    let feed = Feed::declare(&mut tape, net, recipe.conditioning.attributes, batch);
    let rates = tape.input("rates", TensorType::f32(&[2]));
    let [output, noise] = predict(recipe, &mut tape, &feed, None, Purpose::Train)?;
    let [loss, _] = mse(&mut tape, output, noise)?;
    tape.backward(&[loss], add::sum)?;
    let optimizer = AdamWConfig {
        betas: config.betas,
        eps: config.eps,
        weight_decay: config.weight_decay,
        clip: Some(config.clip),
    };
    let norm = adamw(&mut tape, net.table().elements(), rates, optimizer)?;
    tape.keep(loss);
    tape.keep(norm);
    Ok((
        tape,
        Recorded {
            feed,
            rates,
            loss,
            norm,
        },
    ))
}

/// The memory plan of a training step, without allocating anything.
///
/// # Errors
/// Operands that do not fit.
pub fn plan(recipe: &Recipe<'_>, batch: usize, threads: usize) -> Result<Plan, TapeError> {
    Ok(Plan::new(&record(recipe, batch)?.0, threads))
}

/// A training step, ready to run.
pub struct TrainStep {
    exe: Executable,
    vars: Recorded,
    seed: u64,
    fresh: bool,
}

impl TrainStep {
    /// Records and plans the step for `batch` pictures.
    ///
    /// # Errors
    /// Operands that do not fit; not enough memory.
    pub fn new(recipe: &Recipe<'_>, batch: usize, pool: &Arc<Pool>) -> Result<Self, StepError> {
        let (tape, vars) = record(recipe, batch)?;
        let exe = Executable::new(tape, pool.clone())?;
        let fresh = recipe.config.latent == LatentKind::Fresh;
        Ok(Self {
            exe,
            vars,
            seed: recipe.config.seed,
            fresh,
        })
    }

    /// The program, for listings and profiles.
    pub fn executable(&self) -> &Executable {
        &self.exe
    }

    /// Puts a batch and the rates into the input slots.
    fn feed(&mut self, batch: &Batch, [lr, ema_decay]: [f64; 2]) {
        let fresh: Vec<u64>;
        let latents = if self.fresh {
            fresh = (batch.first_sample..).take(batch.rows.len()).collect();
            &fresh
        } else {
            &batch.rows
        };
        self.vars
            .feed
            .write(&mut self.exe, batch, latents, self.seed);
        self.exe
            .write(self.vars.rates, &[lr as f32, ema_decay as f32]);
    }

    /// Runs the step on `batch` with this learning rate and decay of the average.
    pub fn run(&mut self, state: &mut State, batch: &Batch, rates: [f64; 2]) -> StepResult {
        self.feed(batch, rates);
        self.exe.run(state, Arena::Params);
        let norm = self.exe.read(self.vars.norm);
        StepResult {
            loss: self.exe.read(self.vars.loss)[0],
            grad_norm: norm[0],
            updated: norm[1] != 0.0,
        }
    }

    /// [`TrainStep::run`], and the time of each node with its scope and op.
    pub fn run_timed(
        &mut self,
        state: &mut State,
        batch: &Batch,
        rates: [f64; 2],
    ) -> Vec<(String, &'static str, f64)> {
        self.feed(batch, rates);
        let times = self.exe.run_timed(state, Arena::Params);
        let nodes = self.exe.tape().nodes().iter().zip(times);
        nodes
            .map(|(n, time)| (n.scope.clone(), n.op.name(), time.as_secs_f64()))
            .collect()
    }
}

/// The loss on given pictures at given time steps: the held-out measurement.
pub struct LossProbe {
    exe: Executable,
    vars: ProbeVars,
    seed: u64,
    fresh: bool,
}

/// Variables of a recorded measurement.
struct ProbeVars {
    feed: Feed,
    t: Var,
    losses: Var,
}

fn record_probe(recipe: &Recipe<'_>, batch: usize) -> Result<(Tape, ProbeVars), TapeError> {
    let mut tape = Tape::new();
    let feed = Feed::declare(&mut tape, recipe.net, recipe.conditioning.attributes, batch);
    let t = tape.input("t", TensorType::u32(&[batch]));
    let [output, noise] = predict(recipe, &mut tape, &feed, Some(t), Purpose::Sample)?;
    let [_, losses] = mse(&mut tape, output, noise)?;
    tape.keep(losses);
    Ok((tape, ProbeVars { feed, t, losses }))
}

/// The memory plan of the held-out measurement, without allocating anything.
///
/// # Errors
/// Operands that do not fit.
pub fn probe_plan(recipe: &Recipe<'_>, batch: usize, threads: usize) -> Result<Plan, TapeError> {
    Ok(Plan::new(&record_probe(recipe, batch)?.0, threads))
}

impl LossProbe {
    /// Records and plans the measurement for `batch` pictures.
    ///
    /// # Errors
    /// Operands that do not fit; not enough memory.
    pub fn new(recipe: &Recipe<'_>, batch: usize, pool: &Arc<Pool>) -> Result<Self, StepError> {
        let (tape, vars) = record_probe(recipe, batch)?;
        let exe = Executable::new(tape, pool.clone())?;
        let fresh = recipe.config.latent == LatentKind::Fresh;
        let seed = recipe.config.seed;
        Ok(Self {
            exe,
            vars,
            seed,
            fresh,
        })
    }

    /// Loss of each picture of `batch` at the step indices `t` (t - 1), under `weights`.
    pub fn run(
        &mut self,
        (state, weights): (&mut State, Arena),
        batch: &Batch,
        t: &[u32],
    ) -> Vec<f32> {
        let fresh: Vec<u64> = (batch.first_sample..).take(batch.rows.len()).collect();
        let latents = if self.fresh { &fresh } else { &batch.rows };
        self.vars
            .feed
            .write(&mut self.exe, batch, latents, self.seed);
        self.exe.write(self.vars.t, t);
        self.exe.run(state, weights);
        self.exe.read(self.vars.losses)
    }
}
