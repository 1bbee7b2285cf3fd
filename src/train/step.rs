//! The training step and the held-out measurement as recorded programs.

use super::config::RunConfig;
use crate::data::Batch;
use crate::device::Device;
use crate::device::cuda::Launch;
use crate::diffusion::generate::Conditioning;
use crate::diffusion::schedule::Schedule;
use crate::gmm::entropy::EntropyLoss;
use crate::gmm::latent::LatentKind;
use crate::model::UNet;
use crate::model::unet::{Inputs, Outputs, Purpose};
use crate::ops::adamw::{AdamWConfig, adamw};
use crate::ops::add;
use crate::ops::attribute_loss::attribute_loss;
use crate::ops::mse::weighted_mse;
use crate::ops::q_sample::QSample;
use crate::ops::timestep::Timestep;
use crate::ops::unpack::Unpack;
use crate::rng::{drops_tokens, split, timestep};
use crate::tape::executable::{DeviceError, Executable, NotFinite};
use crate::tape::plan::Plan;
use crate::tape::state::State;
use crate::tape::{Arena, Tape, TapeError, TensorType, Var};
use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

mod probe;

pub use probe::{LossProbe, Measured, probe_plan};

/// A step cannot be recorded or planned.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// Operands that do not fit.
    #[error(transparent)]
    Tape(#[from] TapeError),
    /// Not enough memory.
    #[error(transparent)]
    Memory(#[from] DeviceError),
}

/// Inputs that both programs share.
struct Feed {
    images: Var,
    attributes: Var,
    /// The attributes that the tokens are made of: those above, or, where tokens are dropped, an input
    /// of its own in which a sample without tokens has none.
    conditions: Var,
    rows: Var,
    samples: Var,
    seed: Var,
    token_dropout: f64,
}

impl Feed {
    /// Inputs for `batch` pictures, whose tokens are dropped with this probability.
    fn declare(tape: &mut Tape, recipe: &Recipe<'_>, batch: usize, token_dropout: f64) -> Self {
        let config = recipe.net.config();
        let picture = [
            batch,
            config.sample_size,
            config.sample_size,
            config.in_channels,
        ];
        let values = TensorType::u8(&[batch, recipe.conditioning.attributes]);
        let attributes = tape.input("attributes", values.clone());
        let conditions = match token_dropout > 0.0 {
            true => tape.input("conditions", values),
            false => attributes,
        };
        Self {
            images: tape.input("images", TensorType::u8(&picture)),
            attributes,
            conditions,
            rows: tape.input("rows", TensorType::u32(&[batch, 2])),
            samples: tape.input("samples", TensorType::u32(&[batch, 2])),
            seed: tape.input("seed", TensorType::u32(&[2])),
            token_dropout,
        }
    }

    /// Writes the pictures number `part` of `batch`.
    fn write(
        &self,
        exe: &mut Executable,
        (batch, part): (&Batch, Range<usize>),
        tokens: Tokens<'_>,
        seed: u64,
    ) -> Result<(), DeviceError> {
        let count = batch.rows.len();
        let of = |all: usize| part.start * all / count..part.end * all / count;
        exe.write(self.images, &batch.images[of(batch.images.len())])?;
        let attributes = &tokens.attributes[of(tokens.attributes.len())];
        exe.write(self.attributes, attributes)?;
        if self.conditions != self.attributes {
            let samples = batch.first_sample + part.start as u64..;
            let mut conditions = attributes.to_vec();
            for (row, sample) in conditions
                .chunks_mut(attributes.len() / part.len())
                .zip(samples)
            {
                if drops_tokens(seed, sample, self.token_dropout) {
                    row.fill(0);
                }
            }
            exe.write(self.conditions, &conditions)?;
        }
        let words = |numbers: &mut dyn Iterator<Item = u64>| -> Vec<u32> {
            numbers.flat_map(split).collect()
        };
        let latents = &tokens.latents[part.clone()];
        exe.write(self.rows, &words(&mut latents.iter().copied()))?;
        let mut samples = part.map(|i| batch.first_sample + i as u64);
        exe.write(self.samples, &words(&mut samples))?;
        exe.write(self.seed, &split(seed))
    }
}

/// What the conditioning tokens of a batch are made of.
#[derive(Clone, Copy, Debug)]
pub struct Tokens<'a> {
    /// Attributes `[b, k]`, 0 or 1.
    pub attributes: &'a [u8],
    /// Numbers of the latents, `[b]`: pictures' rows, or sample numbers where Z is fresh.
    pub latents: &'a [u64],
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
    /// Loss of the network's attribute classifier, if it has one.
    pub classifier: Option<&'a EntropyLoss>,
}

/// A kernel of a step on a GPU, and the time it took.
#[derive(Clone, Debug)]
pub struct TimedLaunch {
    /// Name of its node's op.
    pub op: &'static str,
    /// Shapes that the node reads.
    pub inputs: Vec<Vec<usize>>,
    /// Shapes that the node writes.
    pub outputs: Vec<Vec<usize>>,
    /// Kernel, grid and arguments.
    pub launch: Launch,
    /// On the device.
    pub time: Duration,
}

/// Results of a step that the host reads.
#[derive(Clone, Debug, Default)]
pub struct StepResult {
    /// Mean squared error of the predicted noise.
    pub loss: f32,
    /// The step index (t - 1) of each picture, and its mean squared error, `[b]`.
    pub losses: Vec<(u32, f32)>,
    /// Loss of the attribute classifier, without its weight in the sum.
    pub classifier_loss: Option<f32>,
    /// Global norm of the gradient before clipping.
    pub grad_norm: f32,
    /// The update was made: the gradient was finite.
    pub updated: bool,
}

/// Variables of a recorded training step.
struct Recorded {
    parts: Vec<Part>,
    rates: Var,
    norm: Var,
}

/// A micro-batch: its pictures in the batch, and what is recorded of it.
struct Part {
    pictures: Range<usize>,
    feed: Feed,
    loss: Var,
    /// Of each picture.
    losses: Var,
    classifier_loss: Option<Var>,
}

/// The pictures of each micro-batch of `batch`: as many of each as can be.
fn parts(batch: usize, count: u64) -> impl Iterator<Item = Range<usize>> {
    let count = (count as usize).clamp(1, batch.max(1));
    (0..count).map(move |i| batch * i / count..batch * (i + 1) / count)
}

/// A recorded prediction.
struct Prediction {
    network: Outputs,
    noise: Var,
    logits: Option<Var>,
}

/// Records pictures, noise, tokens, the network and its classifier. Without `t` the time steps are drawn.
fn predict(
    recipe: &Recipe<'_>,
    tape: &mut Tape,
    feed: &Feed,
    t: Option<Var>,
    purpose: Purpose,
) -> Result<Prediction, TapeError> {
    let Recipe {
        net,
        config,
        schedule,
        conditioning,
        ..
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
        tokens: tape.push_one(op, &[feed.conditions, seed, feed.rows])?,
    };
    let network = net.record(tape, inputs, purpose)?;
    Ok(Prediction {
        logits: net.classify(tape, &network, purpose)?,
        noise: noisy[1],
        network,
    })
}

fn record(recipe: &Recipe<'_>, batch: usize) -> Result<(Tape, Recorded), TapeError> {
    let Recipe { net, config, .. } = recipe;
    let mut tape = Tape::new();
    let rates = tape.input("rates", TensorType::f32(&[2]));
    let parts: Vec<Part> = parts(batch, config.micro_batches)
        .map(|pictures| record_part(recipe, &mut tape, pictures, batch))
        .collect::<Result<_, _>>()?;
    let optimizer = AdamWConfig {
        betas: config.betas,
        eps: config.eps,
        weight_decay: config.weight_decay,
        clip: Some(config.clip),
    };
    let norm = adamw(&mut tape, net.table().elements(), rates, optimizer)?;
    tape.keep(norm);
    Ok((tape, Recorded { parts, rates, norm }))
}

/// Records a micro-batch, forward and backward: its memory is free for the next, its gradients, by its
/// share of the batch, are added to those before.
fn record_part(
    recipe: &Recipe<'_>,
    tape: &mut Tape,
    pictures: Range<usize>,
    batch: usize,
) -> Result<Part, TapeError> {
    let share = pictures.len() as f64 / batch as f64;
    let feed = Feed::declare(tape, recipe, pictures.len(), recipe.config.token_dropout);
    let predicted = predict(recipe, tape, &feed, None, Purpose::Train)?;
    let (output, noise) = (predicted.network.output, predicted.noise);
    let [loss, each] = weighted_mse(tape, output, noise, share)?;
    let mut losses = vec![loss];
    if let (Some(logits), Some(classifier)) = (predicted.logits, recipe.classifier) {
        let weight = recipe.config.classifier_weight * share;
        let labels = feed.attributes;
        let [loss, _] = tape.scope("classifier", |tape| {
            attribute_loss(tape, logits, labels, classifier.clone(), weight)
        })?;
        losses.push(loss);
    }
    tape.backward(&losses, add::sum)?;
    for &loss in losses.iter().chain([&each]) {
        tape.keep(loss);
    }
    Ok(Part {
        pictures,
        feed,
        loss,
        losses: each,
        classifier_loss: losses.get(1).copied(),
    })
}

/// The memory plan of a training step, without allocating anything.
///
/// # Errors
/// Operands that do not fit.
pub fn plan(recipe: &Recipe<'_>, batch: usize, device: &Device) -> Result<Plan, StepError> {
    Ok(Executable::plan_on(&record(recipe, batch)?.0, device)?)
}

/// A training step, ready to run.
pub struct TrainStep {
    exe: Executable,
    vars: Recorded,
    seed: u64,
    t_max: u32,
    fresh: bool,
    classifier_weight: f64,
    /// First samples of the steps under way.
    samples: VecDeque<u64>,
}

impl TrainStep {
    /// Records and plans the step for `batch` pictures.
    ///
    /// # Errors
    /// Operands that do not fit; not enough memory.
    pub fn new(recipe: &Recipe<'_>, batch: usize, device: &Device) -> Result<Self, StepError> {
        let (tape, vars) = record(recipe, batch)?;
        let exe = Executable::new(tape, device.clone())?;
        let fresh = recipe.config.latent == LatentKind::Fresh;
        Ok(Self {
            exe,
            vars,
            seed: recipe.config.seed,
            t_max: recipe.schedule.t_max(),
            fresh,
            classifier_weight: recipe.config.classifier_weight,
            samples: VecDeque::new(),
        })
    }

    /// The program, for listings and profiles.
    pub fn executable(&self) -> &Executable {
        &self.exe
    }

    /// Puts a batch and the rates into the input slots.
    fn feed(&mut self, batch: &Batch, [lr, ema_decay]: [f64; 2]) -> Result<(), DeviceError> {
        let fresh: Vec<u64>;
        let latents = if self.fresh {
            fresh = (batch.first_sample..).take(batch.rows.len()).collect();
            &fresh
        } else {
            &batch.rows
        };
        let tokens = Tokens {
            attributes: &batch.attributes,
            latents,
        };
        for part in &self.vars.parts {
            let pictures = (batch, part.pictures.clone());
            part.feed
                .write(&mut self.exe, pictures, tokens, self.seed)?;
        }
        self.exe
            .write(self.vars.rates, &[lr as f32, ema_decay as f32])
    }

    /// Runs the step on `batch` with this learning rate and decay of the average, and waits for it.
    ///
    /// # Errors
    /// The device's.
    pub fn run(
        &mut self,
        state: &mut State,
        batch: &Batch,
        rates: [f64; 2],
    ) -> Result<StepResult, DeviceError> {
        self.start(state, batch, rates)?;
        let mut last = None;
        while let Some(result) = self.finish()? {
            last = Some(result);
        }
        Ok(last.unwrap_or_default())
    }

    /// Begins the step on `batch`; a GPU goes on by itself. At most two steps can be under way.
    ///
    /// # Errors
    /// The device's.
    pub fn start(
        &mut self,
        state: &mut State,
        batch: &Batch,
        rates: [f64; 2],
    ) -> Result<(), DeviceError> {
        self.feed(batch, rates)?;
        let parts = &self.vars.parts;
        let mut results = vec![self.vars.norm];
        results.extend(parts.iter().map(|part| part.loss));
        results.extend(parts.iter().filter_map(|part| part.classifier_loss));
        results.extend(parts.iter().map(|part| part.losses));
        self.exe.start(state, Arena::Params, &results)?;
        self.samples.push_back(batch.first_sample);
        Ok(())
    }

    /// Steps begun and not finished.
    pub fn under_way(&self) -> usize {
        self.exe.under_way()
    }

    /// Waits for the oldest step under way; `None` if there is none.
    ///
    /// # Errors
    /// The device's.
    pub fn finish(&mut self) -> Result<Option<StepResult>, DeviceError> {
        let Some(results) = self.exe.collect()? else {
            return Ok(None);
        };
        let (norm, losses) = results.split_at(2);
        let (losses, rest) = losses.split_at(self.vars.parts.len());
        let all: usize = self.vars.parts.iter().map(|part| part.pictures.len()).sum();
        let (classifier, each) = rest.split_at(rest.len() - all);
        let samples = self.samples.pop_front().unwrap_or_default()..;
        let steps = samples.map(|sample| timestep(self.seed, sample, self.t_max) - 1);
        let shares = self
            .vars
            .parts
            .iter()
            .map(|part| part.pictures.len() as f64 / all as f64);
        let loss: f64 = losses
            .iter()
            .zip(shares)
            .map(|(&loss, share)| f64::from(loss) * share)
            .sum();
        // The classifier's losses are recorded with their weight and share.
        let weighted: f64 = classifier.iter().map(|&loss| f64::from(loss)).sum();
        Ok(Some(StepResult {
            loss: loss as f32,
            losses: steps.zip(each.iter().copied()).collect(),
            classifier_loss: (!classifier.is_empty())
                .then(|| (weighted / self.classifier_weight) as f32),
            grad_norm: norm[0],
            updated: norm[1] != 0.0,
        }))
    }

    /// Runs the step on `batch` and waits: the seconds that the device took.
    ///
    /// # Errors
    /// The device's.
    pub fn run_clocked(
        &mut self,
        state: &mut State,
        batch: &Batch,
        rates: [f64; 2],
    ) -> Result<f64, DeviceError> {
        self.feed(batch, rates)?;
        Ok(self.exe.run_clocked(state, Arena::Params)?.as_secs_f64())
    }

    /// Runs a GPU's launches one by one on `batch`.
    ///
    /// # Errors
    /// The device's.
    pub fn time_launches(
        &mut self,
        state: &mut State,
        batch: &Batch,
        rates: [f64; 2],
    ) -> Result<Vec<TimedLaunch>, DeviceError> {
        self.feed(batch, rates)?;
        let launches = self.exe.time_launches(state, Arena::Params)?;
        let tape = self.exe.tape();
        let named = launches.into_iter().map(|(node, launch, time)| {
            let node = &tape.nodes()[node];
            let shapes = |vars: &[Var]| vars.iter().map(|&v| tape.ty(v).shape.clone()).collect();
            TimedLaunch {
                op: node.op.name(),
                inputs: shapes(&node.inputs),
                outputs: shapes(&node.outputs),
                launch,
                time,
            }
        });
        Ok(named.collect())
    }

    /// Looks for the first tensor that is not finite in the step on `batch`, without updating anything.
    ///
    /// # Errors
    /// The device's.
    pub fn first_not_finite(
        &mut self,
        state: &mut State,
        batch: &Batch,
        rates: [f64; 2],
    ) -> Result<Option<NotFinite>, DeviceError> {
        self.feed(batch, rates)?;
        self.exe.first_not_finite(state, Arena::Params)
    }

    /// [`TrainStep::run`], and the time of each node with its scope and op.
    ///
    /// # Errors
    /// The device's.
    pub fn run_timed(
        &mut self,
        state: &mut State,
        batch: &Batch,
        rates: [f64; 2],
    ) -> Result<Vec<(String, &'static str, f64)>, DeviceError> {
        self.feed(batch, rates)?;
        let times = self.exe.run_timed(state, Arena::Params)?;
        let nodes = self.exe.tape().nodes().iter().zip(times);
        Ok(nodes
            .map(|(n, time)| (n.scope.clone(), n.op.name(), time.as_secs_f64()))
            .collect())
    }
}

#[cfg(test)]
mod tests;
