//! The held-out measurement as a recorded program.

use super::{Feed, Recipe, StepError, Tokens, predict};
use crate::data::Batch;
use crate::device::Device;
use crate::model::unet::Purpose;
use crate::ops::mse::mse;
use crate::tape::executable::{DeviceError, Executable};
use crate::tape::plan::Plan;
use crate::tape::state::State;
use crate::tape::{Arena, Tape, TapeError, TensorType, Var};

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
    let feed = Feed::declare(&mut tape, recipe, batch, 0.0);
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
        let all = (batch, 0..batch.rows.len());
        self.vars
            .feed
            .write(&mut self.exe, all, tokens, self.seed)?;
        self.exe.write(self.vars.t, t)?;
        self.exe.run(state, weights)?;
        let logits = self.vars.logits.map(|logits| self.exe.read(logits));
        Ok(Measured {
            losses: self.exe.read(self.vars.losses)?,
            logits: logits.transpose()?,
        })
    }
}
