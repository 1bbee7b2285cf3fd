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
use crate::ops::mse::mse;
use crate::ops::q_sample::QSample;
use crate::ops::timestep::Timestep;
use crate::ops::unpack::Unpack;
use crate::rng::split;
use crate::tape::executable::{DeviceError, Executable, NotFinite};
use crate::tape::plan::Plan;
use crate::tape::state::State;
use crate::tape::{Arena, Tape, TapeError, TensorType, Var};
use std::time::Duration;

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

    fn write(
        &self,
        exe: &mut Executable,
        batch: &Batch,
        tokens: Tokens<'_>,
        seed: u64,
    ) -> Result<(), DeviceError> {
        exe.write(self.images, &batch.images)?;
        exe.write(self.attributes, tokens.attributes)?;
        let words = |numbers: &mut dyn Iterator<Item = u64>| -> Vec<u32> {
            numbers.flat_map(split).collect()
        };
        exe.write(self.rows, &words(&mut tokens.latents.iter().copied()))?;
        let samples = batch.first_sample..batch.first_sample + batch.rows.len() as u64;
        exe.write(self.samples, &words(&mut samples.into_iter()))?;
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

/// Results of a step that the host reads.
#[derive(Clone, Copy, Debug, Default)]
pub struct StepResult {
    /// Mean squared error of the predicted noise.
    pub loss: f32,
    /// Loss of the attribute classifier, without its weight in the sum.
    pub classifier_loss: Option<f32>,
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
    classifier_loss: Option<Var>,
    norm: Var,
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
        tokens: tape.push_one(op, &[feed.attributes, seed, feed.rows])?,
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
    let feed = Feed::declare(&mut tape, net, recipe.conditioning.attributes, batch);
    let rates = tape.input("rates", TensorType::f32(&[2]));
    let predicted = predict(recipe, &mut tape, &feed, None, Purpose::Train)?;
    let [loss, _] = mse(&mut tape, predicted.network.output, predicted.noise)?;
    let mut losses = vec![loss];
    if let (Some(logits), Some(classifier)) = (predicted.logits, recipe.classifier) {
        let weight = config.classifier_weight;
        let labels = feed.attributes;
        let [loss, _] = tape.scope("classifier", |tape| {
            attribute_loss(tape, logits, labels, classifier.clone(), weight)
        })?;
        losses.push(loss);
    }
    tape.backward(&losses, add::sum)?;
    let optimizer = AdamWConfig {
        betas: config.betas,
        eps: config.eps,
        weight_decay: config.weight_decay,
        clip: Some(config.clip),
    };
    let norm = adamw(&mut tape, net.table().elements(), rates, optimizer)?;
    for &loss in &losses {
        tape.keep(loss);
    }
    tape.keep(norm);
    Ok((
        tape,
        Recorded {
            feed,
            rates,
            loss,
            classifier_loss: losses.get(1).copied(),
            norm,
        },
    ))
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
    fresh: bool,
    classifier_weight: f64,
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
            fresh,
            classifier_weight: recipe.config.classifier_weight,
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
        self.vars
            .feed
            .write(&mut self.exe, batch, tokens, self.seed)?;
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
        let mut results = vec![self.vars.loss, self.vars.norm];
        results.extend(self.vars.classifier_loss);
        self.exe.start(state, Arena::Params, &results)
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
        Ok(Some(StepResult {
            loss: results[0],
            classifier_loss: results
                .get(3)
                .map(|&loss| (f64::from(loss) / self.classifier_weight) as f32),
            grad_norm: results[1],
            updated: results[2] != 0.0,
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

    /// Runs a GPU's launches one by one on `batch`: the op, what was launched, the time it took.
    ///
    /// # Errors
    /// The device's.
    pub fn time_launches(
        &mut self,
        state: &mut State,
        batch: &Batch,
        rates: [f64; 2],
    ) -> Result<Vec<(&'static str, Launch, Duration)>, DeviceError> {
        self.feed(batch, rates)?;
        let launches = self.exe.time_launches(state, Arena::Params)?;
        let nodes = self.exe.tape().nodes();
        let named = launches.into_iter();
        Ok(named
            .map(|(node, launch, time)| (nodes[node].op.name(), launch, time))
            .collect())
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

/// Loss and classifier's logits on given pictures at given time steps: the held-out measurement.
pub struct LossProbe {
    exe: Executable,
    vars: ProbeVars,
    seed: u64,
}

/// What a measurement finds.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Mean squared error of each picture's noise, `[b]`.
    pub losses: Vec<f32>,
    /// Logits of the classifier, `[b, k]`.
    pub logits: Option<Vec<f32>>,
}

/// Variables of a recorded measurement.
struct ProbeVars {
    feed: Feed,
    t: Var,
    losses: Var,
    logits: Option<Var>,
}

fn record_probe(recipe: &Recipe<'_>, batch: usize) -> Result<(Tape, ProbeVars), TapeError> {
    let mut tape = Tape::new();
    let feed = Feed::declare(&mut tape, recipe.net, recipe.conditioning.attributes, batch);
    let t = tape.input("t", TensorType::u32(&[batch]));
    let predicted = predict(recipe, &mut tape, &feed, Some(t), Purpose::Sample)?;
    let [_, losses] = mse(&mut tape, predicted.network.output, predicted.noise)?;
    let logits = predicted.logits;
    for var in [losses].into_iter().chain(logits) {
        tape.keep(var);
    }
    Ok((
        tape,
        ProbeVars {
            feed,
            t,
            losses,
            logits,
        },
    ))
}

/// The memory plan of the held-out measurement, without allocating anything.
///
/// # Errors
/// Operands that do not fit.
pub fn probe_plan(recipe: &Recipe<'_>, batch: usize, device: &Device) -> Result<Plan, StepError> {
    Ok(Executable::plan_on(
        &record_probe(recipe, batch)?.0,
        device,
    )?)
}

impl LossProbe {
    /// Records and plans the measurement for `batch` pictures.
    ///
    /// # Errors
    /// Operands that do not fit; not enough memory.
    pub fn new(recipe: &Recipe<'_>, batch: usize, device: &Device) -> Result<Self, StepError> {
        let (tape, vars) = record_probe(recipe, batch)?;
        let exe = Executable::new(tape, device.clone())?;
        let seed = recipe.config.seed;
        Ok(Self { exe, vars, seed })
    }

    /// Measures the pictures of `batch` at the step indices `t` (t - 1) with these `tokens`, under
    /// `weights`.
    ///
    /// # Errors
    /// The device's.
    pub fn run(
        &mut self,
        (state, weights): (&mut State, Arena),
        batch: &Batch,
        tokens: Tokens<'_>,
        t: &[u32],
    ) -> Result<Measured, DeviceError> {
        self.vars
            .feed
            .write(&mut self.exe, batch, tokens, self.seed)?;
        self.exe.write(self.vars.t, t)?;
        self.exe.run(state, weights)?;
        let logits = self.vars.logits.map(|logits| self.exe.read(logits));
        Ok(Measured {
            losses: self.exe.read(self.vars.losses)?,
            logits: logits.transpose()?,
        })
    }
}
