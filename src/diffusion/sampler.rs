//! Samplers: from x_T ~ N(0, I) to a picture, given the network's noise estimate (paper Eq. 10 and
//! its section 3.2). One step is, for every sampler,
//!
//! ```text
//! x0     = (x_t - sqrt(1 - ab_t) eps_hat) / sqrt(ab_t), clipped to `[-c, c]`
//! x_prev = a x0 + b x_t + s z,   z ~ N(0, I)
//! ```
//!
//! with coefficients that only the sampler and the step decide; they are computed in f64. Noise that
//! was re-estimated after clipping, `(x_t - sqrt(ab_t) x0) / sqrt(1 - ab_t)`, is inside a and b.
//!
//! `dpm++2m` (DPM-Solver++ of second order in data prediction, two steps; Lu et al. 2022) adds a term
//! `l x0_last`, the estimate of the step before. With lambda = ln(sqrt(ab) / sqrt(1 - ab)), h from this
//! step's lambda to the next one's and h_last the same of the step before, r = h_last / h,
//!
//! ```text
//! d      = (1 + 1 / (2 r)) x0 - 1 / (2 r) x0_last,   d = x0 at the first step
//! x_prev = sqrt(1 - ab_prev) / sqrt(1 - ab_t) x_t - sqrt(ab_prev) (e^-h - 1) d
//! ```
//!
//! Its steps are even in lambda. The last one, from t = 1 to the picture, has h infinite and is x0: of
//! lower order, as it is for every sampler.
//!
//! Random numbers: x_T of sample number i is stream `SamplerStart`, index i; the noise z of sampling
//! step j (0 = the first, at T) is stream `SamplerNoise`, index i 2^20 + j. Element e of a sample,
//! `(h W + w) C + c`, is normal e mod 4 of block e / 4 of either. So a sample does not depend on the
//! batch it was drawn in.

use std::fmt;
use std::str::FromStr;

use super::Real;
use super::schedule::Schedule;
use crate::rng::{Philox, Stream};

pub use self::error::SamplerError;

mod error;

/// How x_{t-1} is made of x_t and the estimate of x_0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Sampler {
    /// The paper's Eq. (10): noise the estimate of x_0 up again, with fresh noise.
    Renoise,
    /// DDIM; eta = 0 draws no noise, eta = 1 as much as ddpm.
    Ddim {
        /// Share of ddpm's noise, 0..=1.
        eta: f64,
    },
    /// The ancestral sampler with the posterior's variance.
    Ddpm,
    /// The ancestral sampler with variance beta_t.
    DdpmLarge,
    /// DPM-Solver++ 2M: two steps, second order; good pictures in about 20 steps.
    DpmSolver2M,
}

impl Sampler {
    /// Its name on the command line.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Renoise => "renoise",
            Self::Ddim { .. } => "ddim",
            Self::Ddpm => "ddpm",
            Self::DdpmLarge => "ddpm_large",
            Self::DpmSolver2M => "dpm++2m",
        }
    }
}

impl Default for Sampler {
    fn default() -> Self {
        Self::Ddim { eta: 0.0 }
    }
}

impl fmt::Display for Sampler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ddim { eta } if *eta != 0.0 => write!(f, "ddim (eta {eta})"),
            _ => f.write_str(self.name()),
        }
    }
}

impl FromStr for Sampler {
    type Err = SamplerError;

    /// The sampler of this name; ddim with eta 0.
    fn from_str(text: &str) -> Result<Self, SamplerError> {
        match text {
            "renoise" => Ok(Self::Renoise),
            "ddim" => Ok(Self::Ddim { eta: 0.0 }),
            "ddpm" => Ok(Self::Ddpm),
            "ddpm_large" => Ok(Self::DdpmLarge),
            "dpm++2m" => Ok(Self::DpmSolver2M),
            _ => Err(SamplerError::Unknown(text.to_owned())),
        }
    }
}

/// One step of a plan and its coefficients.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SamplerStep {
    /// Diffusion step of the input, 1..=T. The network is called with `t - 1`.
    pub t: u32,
    /// Diffusion step of the output, 0 at the last step.
    pub t_prev: u32,
    /// x0 per x_t: 1 / sqrt(ab_t).
    pub x0_from_x: f64,
    /// x0 per eps_hat: -sqrt(1 - ab_t) / sqrt(ab_t).
    pub x0_from_eps: f64,
    /// x_prev per (clipped) x0.
    pub prev_from_x0: f64,
    /// x_prev per x_t.
    pub prev_from_x: f64,
    /// x_prev per (clipped) x0 of the step before; 0 but for dpm++2m.
    pub prev_from_last: f64,
    /// x_prev per z; 0 where no noise is added, always so at the last step.
    pub prev_from_z: f64,
}

/// ln(sqrt(ab) / sqrt(1 - ab)), half the logarithm of the signal-to-noise ratio.
fn lambda(ab: f64) -> f64 {
    0.5 * (ab.ln() - (-ab).ln_1p())
}

impl SamplerStep {
    /// The step from `t` to `t_prev`; `last` is the ab of the step that was taken before it.
    fn new(
        sampler: Sampler,
        (t, ab): (u32, f64),
        (t_prev, ab_prev): (u32, f64),
        last: Option<f64>,
    ) -> Self {
        let beta = 1.0 - ab / ab_prev;
        let posterior = (1.0 - ab_prev) / (1.0 - ab) * beta;
        let ancestral = |variance: f64| {
            let from_x0 = ab_prev.sqrt() * beta / (1.0 - ab);
            let from_x = (1.0 - beta).sqrt() * (1.0 - ab_prev) / (1.0 - ab);
            [from_x0, from_x, 0.0, variance.sqrt()]
        };
        let [prev_from_x0, prev_from_x, prev_from_last, prev_from_z] = match sampler {
            // ab_0 = 1: every sampler ends at its estimate of x_0, exactly and without noise.
            _ if t_prev == 0 => [1.0, 0.0, 0.0, 0.0],
            Sampler::Renoise => [ab_prev.sqrt(), 0.0, 0.0, (1.0 - ab_prev).sqrt()],
            Sampler::Ddim { eta } => {
                let s = eta * posterior.sqrt();
                // Rounding must not push the remaining variance below zero at eta = 1.
                let along = (1.0 - ab_prev - s * s).max(0.0).sqrt() / (1.0 - ab).sqrt();
                [ab_prev.sqrt() - along * ab.sqrt(), along, 0.0, s]
            }
            Sampler::Ddpm => ancestral(posterior),
            Sampler::DdpmLarge => ancestral(beta),
            Sampler::DpmSolver2M => {
                let h = lambda(ab_prev) - lambda(ab);
                let from_d = -ab_prev.sqrt() * (-h).exp_m1();
                // 1 / (2 r), 0 without a step before.
                let share = last.map_or(0.0, |last| h / (2.0 * (lambda(ab) - lambda(last))));
                let along = (1.0 - ab_prev).sqrt() / (1.0 - ab).sqrt();
                [from_d * (1.0 + share), along, -from_d * share, 0.0]
            }
        };
        Self {
            t,
            t_prev,
            x0_from_x: 1.0 / ab.sqrt(),
            x0_from_eps: -(1.0 - ab).sqrt() / ab.sqrt(),
            prev_from_x0,
            prev_from_x,
            prev_from_last,
            prev_from_z,
        }
    }

    /// One element: (x_t, eps_hat, z) -> (x0, x_prev), x0 after clipping to `[-clip, clip]`; `last` is
    /// the x0 of the step before, which only dpm++2m looks at. NaN stays NaN, so that a broken network
    /// is seen.
    #[inline]
    pub fn element<F: Real>(
        &self,
        clip: Option<f64>,
        x: F,
        eps_hat: F,
        [z, last]: [F; 2],
    ) -> (F, F) {
        Coefficients::new(self, clip).element(x, eps_hat, [z, last])
    }
}

/// [`SamplerStep`] rounded once to the type of the data.
#[derive(Clone, Copy)]
struct Coefficients<F> {
    x0: [F; 2],
    prev: [F; 3],
    last: Option<F>,
    clip: Option<[F; 2]>,
}

impl<F: Real> Coefficients<F> {
    fn new(step: &SamplerStep, clip: Option<f64>) -> Self {
        Self {
            x0: [step.x0_from_x, step.x0_from_eps].map(F::from_f64),
            prev: [step.prev_from_x0, step.prev_from_x, step.prev_from_z].map(F::from_f64),
            last: (step.prev_from_last != 0.0).then(|| F::from_f64(step.prev_from_last)),
            clip: clip.map(|c| [F::from_f64(-c), F::from_f64(c)]),
        }
    }

    #[inline]
    fn element(&self, x: F, eps_hat: F, [z, last]: [F; 2]) -> (F, F) {
        let mut x0 = self.x0[0] * x + self.x0[1] * eps_hat;
        if let Some([low, high]) = self.clip {
            if x0 < low {
                x0 = low;
            } else if x0 > high {
                x0 = high;
            }
        }
        let prev = self.prev[0] * x0 + self.prev[1] * x + self.prev[2] * z;
        (x0, self.last.map_or(prev, |by| prev + by * last))
    }
}

impl Coefficients<f32> {
    /// One sample in place, four elements (one block of noise) at a time. `x0` holds the estimate of
    /// the step before, and then this one's.
    fn sample(
        &self,
        noise: Option<Philox>,
        x: &mut [f32],
        eps_hat: &[f32],
        x0: Option<&mut [f32]>,
    ) {
        let mut x0 = x0.map(|x0| x0.iter_mut());
        let mut unused = 0.0;
        for (block, (x, eps_hat)) in x.chunks_mut(4).zip(eps_hat.chunks(4)).enumerate() {
            let z = noise.map_or([0.0; 4], |noise| noise.normals4_f32(block as u32));
            for ((x, &eps_hat), z) in x.iter_mut().zip(eps_hat).zip(z) {
                let x0 = x0.as_mut().and_then(Iterator::next);
                let x0 = x0.unwrap_or(&mut unused);
                (*x0, *x) = self.element(*x, eps_hat, [z, *x0]);
            }
        }
    }
}

/// The steps of a sampling run, from T down to the picture.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplerPlan {
    sampler: Sampler,
    clip: Option<f64>,
    steps: Vec<SamplerStep>,
}

impl SamplerPlan {
    /// `steps` of the schedule's T steps, ending at T: evenly chosen, t_i = round(i T / steps), or, for
    /// dpm++2m, even in lambda from T to 1. `clip` is the bound of the x0 estimate (usually 1), `None` for
    /// no clipping.
    pub fn new(
        schedule: &Schedule,
        sampler: Sampler,
        steps: u32,
        clip: Option<f64>,
    ) -> Result<Self, SamplerError> {
        Self::from_step(schedule, sampler, (schedule.t_max(), steps), clip)
    }

    /// [`SamplerPlan::new`] for the last part of the way: `steps` of the steps 1 to `start`, for a
    /// picture that was noised up to `start`.
    pub fn from_step(
        schedule: &Schedule,
        sampler: Sampler,
        (start, steps): (u32, u32),
        clip: Option<f64>,
    ) -> Result<Self, SamplerError> {
        let t_max = schedule.t_max();
        if !(1..=t_max).contains(&start) {
            return Err(SamplerError::Start { start, t_max });
        }
        if !(1..=start).contains(&steps) {
            let t_max = start;
            return Err(SamplerError::Steps { steps, t_max });
        }
        let path = match sampler {
            Sampler::DpmSolver2M => even_in_lambda(schedule, start, steps),
            _ => {
                let (n, t) = (u64::from(steps), u64::from(start));
                let even = (1..=n).map(|i| ((2 * i * t + n) / (2 * n)) as u32);
                even.collect()
            }
        };
        Self::walk(schedule, sampler, (&path, start), clip)
    }

    /// A plan along `path`: strictly increasing diffusion steps t, the first >= 1, the last T. They
    /// are walked from the last to the first.
    pub fn along(
        schedule: &Schedule,
        sampler: Sampler,
        path: &[u32],
        clip: Option<f64>,
    ) -> Result<Self, SamplerError> {
        Self::walk(schedule, sampler, (path, schedule.t_max()), clip)
    }

    fn walk(
        schedule: &Schedule,
        sampler: Sampler,
        (path, end): (&[u32], u32),
        clip: Option<f64>,
    ) -> Result<Self, SamplerError> {
        if let Sampler::Ddim { eta } = sampler
            && !(0.0..=1.0).contains(&eta)
        {
            return Err(SamplerError::Eta { eta });
        }
        if let Some(clip) = clip
            && !(clip.is_finite() && clip > 0.0)
        {
            return Err(SamplerError::Clip { clip });
        }
        let ab = schedule.alpha_bar();
        let mut steps = Vec::with_capacity(path.len());
        let mut before = 0;
        for (position, &t) in path.iter().enumerate() {
            let last = position + 1 == path.len();
            if t <= before || t > end || (last && t != end) {
                return Err(SamplerError::Path {
                    position,
                    t,
                    before,
                    end,
                });
            }
            let to = (before, ab[before as usize]);
            let earlier = path.get(position + 1).and_then(|&t| ab.get(t as usize));
            let from = (t, ab[t as usize]);
            steps.push(SamplerStep::new(sampler, from, to, earlier.copied()));
            before = t;
        }
        if steps.is_empty() {
            return Err(SamplerError::Steps {
                steps: 0,
                t_max: end,
            });
        }
        steps.reverse();
        Ok(Self {
            sampler,
            clip,
            steps,
        })
    }

    /// The sampler it was made for.
    pub fn sampler(&self) -> Sampler {
        self.sampler
    }

    /// The steps in the order in which they are taken: the first has t = T, the last t_prev = 0.
    pub fn steps(&self) -> &[SamplerStep] {
        &self.steps
    }

    /// Fills `x` `[B,H,W,C]` with x_T ~ N(0, I) of the samples.
    pub fn start(&self, samples: Samples, x: &mut [f32]) -> Result<(), SamplerError> {
        samples.check(x.len())?;
        for (number, x) in (samples.first..).zip(x.chunks_exact_mut(samples.elements)) {
            Philox::new(samples.seed, Stream::SamplerStart, number).fill_normals(x);
        }
        Ok(())
    }

    /// Fills `x` with the pictures `x0` `[B,H,W,C]` noised up to the plan's first step, by the noise that
    /// [`SamplerPlan::start`] would begin with: the samples of one number share it.
    pub fn start_from(
        &self,
        samples: Samples,
        x0: &[f32],
        x: &mut [f32],
    ) -> Result<(), SamplerError> {
        same_length("x0", x0.len(), x.len())?;
        self.start(samples, x)?;
        let step = &self.steps[0];
        let (signal, noise) = (1.0 / step.x0_from_x, -step.x0_from_eps / step.x0_from_x);
        for (x, &x0) in x.iter_mut().zip(x0) {
            *x = signal as f32 * x0 + noise as f32 * *x;
        }
        Ok(())
    }

    /// Takes step number `step` (0 = the first, at T) in place: `x` `[B,H,W,C]` holds x_t and then
    /// x_prev. `eps_hat` has x's shape, and so has `x0_out`, which gets the (clipped) estimate of
    /// x_0; dpm++2m needs it, as it finds there the estimate of the step before.
    pub fn advance(
        &self,
        step: usize,
        samples: Samples,
        x: &mut [f32],
        eps_hat: &[f32],
        mut x0_out: Option<&mut [f32]>,
    ) -> Result<(), SamplerError> {
        let Some(coefficients) = self.steps.get(step) else {
            let last = self.steps.len() - 1;
            return Err(SamplerError::StepNumber { step, last });
        };
        samples.check(x.len())?;
        same_length("eps_hat", eps_hat.len(), x.len())?;
        if let Some(x0) = &x0_out {
            same_length("x0_out", x0.len(), x.len())?;
        }
        if x0_out.is_none() && coefficients.prev_from_last != 0.0 {
            return Err(SamplerError::History { step });
        }
        let noisy = coefficients.prev_from_z != 0.0;
        let coefficients = Coefficients::<f32>::new(coefficients, self.clip);
        let n = samples.elements;
        let batch = x.chunks_exact_mut(n).zip(eps_hat.chunks_exact(n));
        for (i, (x, eps_hat)) in batch.enumerate() {
            let noise = noisy.then(|| {
                let index = (samples.first + i as u64) << 20 | step as u64;
                Philox::new(samples.seed, Stream::SamplerNoise, index)
            });
            let x0 = x0_out.as_deref_mut().map(|x0| &mut x0[i * n..(i + 1) * n]);
            coefficients.sample(noise, x, eps_hat, x0);
        }
        Ok(())
    }
}

/// `steps` different steps of 1..=start, the nearest to even distances of lambda from start to 1.
fn even_in_lambda(schedule: &Schedule, start: u32, steps: u32) -> Vec<u32> {
    let at = |t: u32| lambda(schedule.alpha_bar()[t as usize]);
    let (noisiest, cleanest) = (at(start), at(1));
    let mut path: Vec<u32> = Vec::with_capacity(steps as usize);
    for i in 0..steps {
        let share = f64::from(i) / f64::from((steps - 1).max(1));
        let wanted = cleanest + share * (noisiest - cleanest);
        // lambda falls with t: the first t below it, or the one before where that is nearer.
        let mut t = 1 + schedule.alpha_bar()[1..].partition_point(|&ab| lambda(ab) > wanted) as u32;
        if t > 1 && (t > start || at(t - 1) - wanted < wanted - at(t)) {
            t -= 1;
        }
        // Room for those that follow.
        let lowest = path.last().map_or(1, |&t| t + 1);
        path.push(t.clamp(lowest, start - (steps - 1 - i)));
    }
    if let Some(last) = path.last_mut() {
        *last = start;
    }
    path
}

/// Which samples a buffer `[B,H,W,C]` holds: their random numbers follow from this alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Samples {
    /// Seed of the sampling run.
    pub seed: u64,
    /// Number of the buffer's first sample; the others follow it. Numbers are below 2^44.
    pub first: u64,
    /// Numbers per sample, H W C.
    pub elements: usize,
}

impl Samples {
    fn check(self, len: usize) -> Result<(), SamplerError> {
        if self.elements == 0 || !len.is_multiple_of(self.elements) {
            return Err(SamplerError::PartSample {
                found: len,
                per_sample: self.elements,
            });
        }
        match self.first.checked_add((len / self.elements) as u64) {
            Some(end) if end <= 1 << 44 => Ok(()),
            _ => Err(SamplerError::SampleNumber { sample: self.first }),
        }
    }
}

fn same_length(what: &'static str, found: usize, expected: usize) -> Result<(), SamplerError> {
    if found == expected {
        return Ok(());
    }
    Err(SamplerError::Length {
        what,
        found,
        expected,
    })
}

#[cfg(test)]
mod tests;
