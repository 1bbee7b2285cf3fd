//! A diffusion model of the toy: a perceptron that sees the noisy point, the time and the latent Z of
//! its condition, trained and sampled with the program's schedules, latents and samplers.

use super::toy::{Condition, Verdict, judge, point};
use crate::device::pool::Pool;
use crate::diffusion::sampler::{Sampler, SamplerError, SamplerPlan, Samples};
use crate::diffusion::schedule::{Schedule, ScheduleError, ScheduleSpec};
use crate::gmm::latent::{LatentDraw, LatentError, LatentKind};
use crate::reproduce::mlp::{Learner, Mlp, MlpError};
use crate::rng::{Philox, Stream, timestep};
use std::f32::consts::PI;
use std::sync::Arc;

/// Numbers of a latent per feature.
const LATENT: usize = 4;
/// Sines and cosines of the time, at these many frequencies.
const FREQUENCIES: usize = 4;
/// Numbers before the latent: the point and the time.
const HEAD: usize = 2 + 2 * FREQUENCIES;
/// Width of the hidden layers.
const HIDDEN: usize = 96;
/// The network and how it learns, in words.
pub const NETWORK: &str = "perceptron 3 x 96, SiLU; the time as 8 sines and cosines, Z as 4 numbers per feature; Adam, 4e-3 falling to 0";
/// Adam's rate at the start; it falls linearly to 0.
const RATE: f32 = 4e-3;
/// The noise schedule.
pub const SCHEDULE: ScheduleSpec = ScheduleSpec::Linear {
    first: 1e-3,
    last: 0.2,
    t_max: 100,
};

/// A model cannot be trained or sampled.
#[derive(Debug, thiserror::Error)]
pub enum ToyError {
    /// The perceptron.
    #[error(transparent)]
    Mlp(#[from] MlpError),
    /// The schedule.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// The sampler.
    #[error(transparent)]
    Sampler(#[from] SamplerError),
    /// The latents.
    #[error(transparent)]
    Latent(#[from] LatentError),
}

/// One model: what it is told, and how long it learns.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Recipe {
    /// What the network is told.
    pub condition: Condition,
    /// Whether every point owns its Z or gets a new one at every visit.
    pub latent: LatentKind,
    /// Everything that is left to chance follows from it.
    pub seed: u64,
    /// Points of the data set.
    pub points: usize,
    /// Steps of Adam.
    pub steps: usize,
    /// Points per step.
    pub batch: usize,
    /// Samples to draw.
    pub samples: usize,
}

/// What a model did.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Mean loss of the last tenth of the steps.
    pub loss: f64,
    /// The samples and how they were judged.
    pub samples: Vec<([f32; 2], Verdict)>,
}

impl Outcome {
    /// Share of the samples with this verdict.
    pub fn share(&self, verdict: Verdict) -> f64 {
        let count = self.samples.iter().filter(|(_, v)| *v == verdict).count();
        count as f64 / self.samples.len().max(1) as f64
    }
}

impl Recipe {
    /// Trains the model and draws samples, each with the condition of a random point of the data set
    /// and a Z of its own.
    ///
    /// # Errors
    /// Settings that do not fit; not enough memory.
    pub fn run(&self, pool: &Arc<Pool>) -> Result<Outcome, ToyError> {
        let schedule = Schedule::new(SCHEDULE)?;
        let width = HEAD + LATENT * self.condition.attributes(0).len();
        let mlp = Mlp::new(&[width, HIDDEN, HIDDEN, HIDDEN, 2]);
        let mut learner = Learner::new(&mlp, self.batch, self.seed, pool)?;
        let loss = self.train(&mut learner, &schedule, width)?;
        let samples = self.sample(learner, &schedule, width)?;
        Ok(Outcome { loss, samples })
    }

    fn train(
        &self,
        learner: &mut Learner,
        schedule: &Schedule,
        width: usize,
    ) -> Result<f64, ToyError> {
        let mut x = vec![0.0; self.batch * width];
        let mut target = vec![0.0; self.batch * 2];
        let last = self.steps - self.steps / 10 - 1;
        let mut losses = Vec::new();
        for step in 0..self.steps {
            let slots = x.chunks_mut(width).zip(target.chunks_mut(2));
            for (number, (row, noise)) in ((step * self.batch) as u64..).zip(slots) {
                let which = Philox::new(self.seed, Stream::Shuffle, number);
                let which = u64::from(which.below(0, self.points as u32));
                let (x0, blob) = point(self.seed, which);
                let t = timestep(self.seed, number, schedule.t_max());
                Philox::new(self.seed, Stream::Noise, number).fill_normals(noise);
                schedule.q_sample(t, &x0, noise, &mut row[..2])?;
                fill_time(t, schedule.t_max(), &mut row[2..HEAD]);
                let owner = match self.latent {
                    LatentKind::Fresh => number,
                    _ => which,
                };
                self.fill_latent(self.latent.stream(), owner, blob, &mut row[HEAD..])?;
            }
            let rate = RATE * (1.0 - step as f32 / self.steps as f32);
            let loss = learner.step(&x, &target, rate)?;
            if step >= last {
                losses.push(f64::from(loss));
            }
        }
        Ok(losses.iter().sum::<f64>() / losses.len() as f64)
    }

    fn sample(
        &self,
        learner: Learner,
        schedule: &Schedule,
        width: usize,
    ) -> Result<Vec<([f32; 2], Verdict)>, ToyError> {
        let n = self.samples;
        let mut predictor = learner.predictor(n)?;
        let plan = SamplerPlan::new(schedule, Sampler::default(), schedule.t_max(), Some(1.0))?;
        let samples = Samples {
            seed: self.seed,
            first: 0,
            elements: 2,
        };
        let mut x = vec![0.0; 2 * n];
        plan.start(samples, &mut x)?;
        let mut rows = vec![0.0; n * width];
        let mut blobs = Vec::with_capacity(n);
        for (number, row) in (0..n as u64).zip(rows.chunks_mut(width)) {
            let lender = Philox::new(self.seed, Stream::SampleRow, number);
            let (_, blob) = point(self.seed, lender.below(0, self.points as u32).into());
            // Training's fresh latents have the numbers below 2^32.
            let latent = 1 << 32 | number;
            self.fill_latent(Stream::LatentFresh, latent, blob, &mut row[HEAD..])?;
            blobs.push(blob);
        }
        for (i, step) in plan.steps().iter().enumerate() {
            for (row, x) in rows.chunks_mut(width).zip(x.chunks(2)) {
                row[..2].copy_from_slice(x);
                fill_time(step.t, schedule.t_max(), &mut row[2..HEAD]);
            }
            let noise = predictor.predict(&rows)?;
            plan.advance(i, samples, &mut x, &noise, None)?;
        }
        let judged = x.chunks(2).zip(blobs).map(|(x, blob)| {
            let x = [x[0], x[1]];
            (x, judge(self.condition, blob, x))
        });
        Ok(judged.collect())
    }

    /// Z of the attributes of `blob`, flattened: position tells which feature is which, so there is no
    /// feature code.
    fn fill_latent(
        &self,
        stream: Stream,
        index: u64,
        blob: usize,
        out: &mut [f32],
    ) -> Result<(), LatentError> {
        if out.is_empty() {
            return Ok(());
        }
        let draw = LatentDraw {
            seed: self.seed,
            stream,
            index,
        };
        let mut z = vec![0.0; out.len()];
        let attributes = self.condition.attributes(blob);
        self.latent
            .mixture()
            .fill(draw, &attributes, LATENT, &mut z)?;
        for (out, z) in out.iter_mut().zip(z) {
            *out = z as f32;
        }
        Ok(())
    }
}

/// Sines and cosines of t / T at 1/2, 1, 2.. turns.
fn fill_time(t: u32, t_max: u32, out: &mut [f32]) {
    let share = t as f32 / t_max as f32;
    for (j, pair) in out.chunks_mut(2).enumerate() {
        let (sin, cos) = (PI * share * (1 << j) as f32).sin_cos();
        pair.copy_from_slice(&[sin, cos]);
    }
}
