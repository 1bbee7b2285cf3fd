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
//! Random numbers: x_T of sample number i is stream `SamplerStart`, index i; the noise z of sampling
//! step j (0 = the first, at T) is stream `SamplerNoise`, index i 2^20 + j. Element e of a sample,
//! `(h W + w) C + c`, is normal e mod 4 of block e / 4 of either. So a sample does not depend on the
//! batch it was drawn in.

use std::fmt;
use std::str::FromStr;

use super::Real;
use super::schedule::Schedule;
use crate::rng::{Philox, Stream};

/// What is wrong with a sampler, its plan or a step.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SamplerError {
    /// A sampler that does not exist.
    #[error("sampler `{0}` does not exist; expected renoise, ddim, ddpm or ddpm_large")]
    Unknown(String),
    /// ddim's eta outside `[0, 1]`.
    #[error("sampler ddim: eta is {eta}; expected 0 (no noise) to 1 (as much as ddpm)")]
    Eta {
        /// The value given.
        eta: f64,
    },
    /// A clipping bound that is not positive.
    #[error("sampler: the clipping bound is {clip}; expected a finite number above 0, usually 1")]
    Clip {
        /// The value given.
        clip: f64,
    },
    /// Too few or too many sampling steps.
    #[error(
        "sampler: {steps} sampling steps of a schedule with T = {t_max}; expected 1 to {t_max}"
    )]
    Steps {
        /// Steps asked for.
        steps: u32,
        /// The schedule's T.
        t_max: u32,
    },
    /// A list of steps that is not a path to T.
    #[error(
        "sampler: step {position} of the list is t = {t} after {before}; expected strictly increasing t from 1 on, the last one T = {t_max}"
    )]
    Path {
        /// Place in the list, from 0.
        position: usize,
        /// The t found there.
        t: u32,
        /// The t before it (0 at the start).
        before: u32,
        /// The schedule's T.
        t_max: u32,
    },
    /// A step the plan does not have.
    #[error("sampler: step number {step}; expected 0 to {last}")]
    StepNumber {
        /// Asked for.
        step: usize,
        /// The last one.
        last: usize,
    },
    /// Buffers that do not belong together.
    #[error("sampler: {what} holds {found} numbers; expected {expected}")]
    Length {
        /// Which buffer.
        what: &'static str,
        /// Its length.
        found: usize,
        /// The length of x.
        expected: usize,
    },
    /// A batch that is not a whole number of samples.
    #[error(
        "sampler: x holds {found} numbers; expected a multiple of the {per_sample} of one sample"
    )]
    PartSample {
        /// Length of x.
        found: usize,
        /// Numbers per sample.
        per_sample: usize,
    },
    /// A sample number whose stream index does not fit.
    #[error("sampler: sample number {sample}; expected numbers below 2^44")]
    SampleNumber {
        /// The number.
        sample: u64,
    },
}

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
}

impl Sampler {
    /// Its name on the command line.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Renoise => "renoise",
            Self::Ddim { .. } => "ddim",
            Self::Ddpm => "ddpm",
            Self::DdpmLarge => "ddpm_large",
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
    /// x_prev per z; 0 where no noise is added, always so at the last step.
    pub prev_from_z: f64,
}

impl SamplerStep {
    fn new(sampler: Sampler, t: u32, ab: f64, t_prev: u32, ab_prev: f64) -> Self {
        let beta = 1.0 - ab / ab_prev;
        let posterior = (1.0 - ab_prev) / (1.0 - ab) * beta;
        let ancestral = |variance: f64| {
            (
                ab_prev.sqrt() * beta / (1.0 - ab),
                (1.0 - beta).sqrt() * (1.0 - ab_prev) / (1.0 - ab),
                variance.sqrt(),
            )
        };
        let (prev_from_x0, prev_from_x, prev_from_z) = match sampler {
            // ab_0 = 1: every sampler ends at its estimate of x_0, exactly and without noise.
            _ if t_prev == 0 => (1.0, 0.0, 0.0),
            Sampler::Renoise => (ab_prev.sqrt(), 0.0, (1.0 - ab_prev).sqrt()),
            Sampler::Ddim { eta } => {
                let s = eta * posterior.sqrt();
                // Rounding must not push the remaining variance below zero at eta = 1.
                let along = (1.0 - ab_prev - s * s).max(0.0).sqrt() / (1.0 - ab).sqrt();
                (ab_prev.sqrt() - along * ab.sqrt(), along, s)
            }
            Sampler::Ddpm => ancestral(posterior),
            Sampler::DdpmLarge => ancestral(beta),
        };
        Self {
            t,
            t_prev,
            x0_from_x: 1.0 / ab.sqrt(),
            x0_from_eps: -(1.0 - ab).sqrt() / ab.sqrt(),
            prev_from_x0,
            prev_from_x,
            prev_from_z,
        }
    }

    /// One element: (x_t, eps_hat, z) -> (x0, x_prev), x0 after clipping to `[-clip, clip]`. NaN stays
    /// NaN, so that a broken network is seen.
    #[inline]
    pub fn element<F: Real>(&self, clip: Option<f64>, x: F, eps_hat: F, z: F) -> (F, F) {
        Coefficients::new(self, clip).element(x, eps_hat, z)
    }
}

/// [`SamplerStep`] rounded once to the type of the data.
#[derive(Clone, Copy)]
struct Coefficients<F> {
    x0: [F; 2],
    prev: [F; 3],
    clip: Option<[F; 2]>,
}

impl<F: Real> Coefficients<F> {
    fn new(step: &SamplerStep, clip: Option<f64>) -> Self {
        Self {
            x0: [step.x0_from_x, step.x0_from_eps].map(F::from_f64),
            prev: [step.prev_from_x0, step.prev_from_x, step.prev_from_z].map(F::from_f64),
            clip: clip.map(|c| [F::from_f64(-c), F::from_f64(c)]),
        }
    }

    #[inline]
    fn element(&self, x: F, eps_hat: F, z: F) -> (F, F) {
        let mut x0 = self.x0[0] * x + self.x0[1] * eps_hat;
        if let Some([low, high]) = self.clip {
            if x0 < low {
                x0 = low;
            } else if x0 > high {
                x0 = high;
            }
        }
        (x0, self.prev[0] * x0 + self.prev[1] * x + self.prev[2] * z)
    }
}

impl Coefficients<f32> {
    /// One sample in place, four elements (one block of noise) at a time.
    fn sample(
        &self,
        noise: Option<Philox>,
        x: &mut [f32],
        eps_hat: &[f32],
        x0: Option<&mut [f32]>,
    ) {
        let mut x0 = x0.map(|x0| x0.iter_mut());
        for (block, (x, eps_hat)) in x.chunks_mut(4).zip(eps_hat.chunks(4)).enumerate() {
            let z = noise.map_or([0.0; 4], |noise| noise.normals4_f32(block as u32));
            for ((x, &eps_hat), z) in x.iter_mut().zip(eps_hat).zip(z) {
                let (estimate, prev) = self.element(*x, eps_hat, z);
                *x = prev;
                if let Some(out) = x0.as_mut().and_then(Iterator::next) {
                    *out = estimate;
                }
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
    /// `steps` of the schedule's T steps, evenly chosen and ending at T: t_i = round(i T / steps).
    /// `clip` is the bound of the x0 estimate (usually 1), `None` for no clipping.
    pub fn new(
        schedule: &Schedule,
        sampler: Sampler,
        steps: u32,
        clip: Option<f64>,
    ) -> Result<Self, SamplerError> {
        let t_max = schedule.t_max();
        if !(1..=t_max).contains(&steps) {
            return Err(SamplerError::Steps { steps, t_max });
        }
        let (n, t) = (u64::from(steps), u64::from(t_max));
        let path: Vec<u32> = (1..=n)
            .map(|i| ((2 * i * t + n) / (2 * n)) as u32)
            .collect();
        Self::along(schedule, sampler, &path, clip)
    }

    /// A plan along `path`: strictly increasing diffusion steps t, the first >= 1, the last T. They
    /// are walked from the last to the first.
    pub fn along(
        schedule: &Schedule,
        sampler: Sampler,
        path: &[u32],
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
        let t_max = schedule.t_max();
        let ab = schedule.alpha_bar();
        let mut steps = Vec::with_capacity(path.len());
        let mut before = 0;
        for (position, &t) in path.iter().enumerate() {
            let last = position + 1 == path.len();
            if t <= before || t > t_max || (last && t != t_max) {
                return Err(SamplerError::Path {
                    position,
                    t,
                    before,
                    t_max,
                });
            }
            steps.push(SamplerStep::new(
                sampler,
                t,
                ab[t as usize],
                before,
                ab[before as usize],
            ));
            before = t;
        }
        if steps.is_empty() {
            return Err(SamplerError::Steps { steps: 0, t_max });
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

    /// Takes step number `step` (0 = the first, at T) in place: `x` `[B,H,W,C]` holds x_t and then
    /// x_prev. `eps_hat` has x's shape, and so has `x0_out`, which gets the (clipped) estimate of
    /// x_0.
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
mod tests {
    use super::*;

    const ALL: [Sampler; 5] = [
        Sampler::Renoise,
        Sampler::Ddim { eta: 0.0 },
        Sampler::Ddim { eta: 1.0 },
        Sampler::Ddpm,
        Sampler::DdpmLarge,
    ];

    fn samples(seed: u64, first: u64, elements: usize) -> Samples {
        Samples {
            seed,
            first,
            elements,
        }
    }

    fn schedule(text: &str) -> Schedule {
        Schedule::new(text.parse().unwrap()).unwrap()
    }

    #[test]
    fn paths_are_even_and_end_at_t() {
        let schedule = schedule("linear:0.0001:0.02:1000");
        for n in [1, 2, 3, 7, 50, 333, 999, 1000] {
            let plan = SamplerPlan::new(&schedule, Sampler::Ddpm, n, None).unwrap();
            let steps = plan.steps();
            assert_eq!(steps.len(), n as usize);
            assert_eq!((steps[0].t, steps[steps.len() - 1].t_prev), (1000, 0));
            for pair in steps.windows(2) {
                assert_eq!(pair[0].t_prev, pair[1].t);
            }
            let gaps = steps.iter().map(|s| s.t - s.t_prev);
            let (low, high) = (gaps.clone().min().unwrap(), gaps.max().unwrap());
            assert!(low >= 1 && high - low <= 1, "{n}: {low}..{high}");
        }
    }

    /// With the exact denoiser of a point mass every sampler must land on the point, for any path.
    #[test]
    fn a_known_picture_is_found() {
        let schedule = schedule("constant:0.06:100");
        for sampler in ALL {
            for n in [1, 10, 100] {
                let plan = SamplerPlan::new(&schedule, sampler, n, Some(1.0)).unwrap();
                let target = [0.5_f32, -0.25, 0.125, 0.9, -1.0, 0.0];
                let mut x = vec![0.0; 12];
                plan.start(samples(1, 7, 6), &mut x).unwrap();
                for (i, step) in plan.steps().iter().enumerate() {
                    let ab = schedule.alpha_bar()[step.t as usize] as f32;
                    let eps: Vec<f32> = (0..12)
                        .map(|e| (x[e] - ab.sqrt() * target[e % 6]) / (1.0 - ab).sqrt())
                        .collect();
                    let mut x0 = vec![f32::NAN; 12];
                    plan.advance(i, samples(1, 7, 6), &mut x, &eps, Some(&mut x0))
                        .unwrap();
                    for e in 0..12 {
                        assert!((x0[e] - target[e % 6]).abs() < 1e-4, "{sampler} {i}");
                    }
                }
                for e in 0..12 {
                    assert!((x[e] - target[e % 6]).abs() < 1e-4, "{sampler} {n} {x:?}");
                }
            }
        }
    }

    #[test]
    fn a_sample_does_not_depend_on_its_batch() {
        let plan =
            SamplerPlan::new(&schedule("constant:0.06"), Sampler::Renoise, 20, Some(1.0)).unwrap();
        let eps: Vec<f32> = (0..21).map(|e| (e as f32).sin()).collect();
        let mut together = vec![0.0; 21];
        plan.start(samples(5, 3, 7), &mut together).unwrap();
        let alone: Vec<f32> = (0..3)
            .flat_map(|i| {
                let mut x = vec![0.0; 7];
                plan.start(samples(5, 3 + i, 7), &mut x).unwrap();
                let eps = &eps[i as usize * 7..][..7];
                plan.advance(2, samples(5, 3 + i, 7), &mut x, eps, None)
                    .unwrap();
                x
            })
            .collect();
        plan.advance(2, samples(5, 3, 7), &mut together, &eps, None)
            .unwrap();
        assert_eq!(together, alone);
    }

    #[test]
    fn nan_is_not_hidden_by_clipping() {
        let plan =
            SamplerPlan::new(&schedule("constant:0.06"), Sampler::Ddpm, 10, Some(1.0)).unwrap();
        let (x0, prev) = plan.steps()[0].element(Some(1.0), 0.1_f32, f32::NAN, 0.0);
        assert!(x0.is_nan() && prev.is_nan());
    }

    #[test]
    fn mistakes_are_refused() {
        let s = schedule("constant:0.06");
        let plan = |sampler, n, clip| SamplerPlan::new(&s, sampler, n, clip);
        for n in [0, 101] {
            assert!(matches!(
                plan(Sampler::Ddpm, n, None),
                Err(SamplerError::Steps { .. })
            ));
        }
        for eta in [-0.1, 1.1, f64::NAN] {
            assert!(matches!(
                plan(Sampler::Ddim { eta }, 10, None),
                Err(SamplerError::Eta { .. })
            ));
        }
        for clip in [0.0, -1.0, f64::NAN] {
            assert!(matches!(
                plan(Sampler::Ddpm, 10, Some(clip)),
                Err(SamplerError::Clip { .. })
            ));
        }
        for path in [&[][..], &[0, 100], &[5, 5, 100], &[1, 99], &[1, 101]] {
            assert!(SamplerPlan::along(&s, Sampler::Ddpm, path, None).is_err());
        }
        assert!("ddimm".parse::<Sampler>().is_err());
        let plan = plan(Sampler::Ddpm, 10, None).unwrap();
        let mut x = [0.0; 6];
        let mut go = |step, eps: &[f32], first, per| {
            plan.advance(step, samples(0, first, per), &mut x, eps, None)
                .unwrap_err()
        };
        let error = go(10, &[0.0; 6], 0, 6);
        assert!(matches!(error, SamplerError::StepNumber { .. }));
        assert!(matches!(
            go(0, &[0.0; 5], 0, 6),
            SamplerError::Length { .. }
        ));
        for elements in [4, 0] {
            let error = go(0, &[0.0; 6], 0, elements);
            assert!(matches!(error, SamplerError::PartSample { .. }));
        }
        assert!(matches!(
            go(0, &[0.0; 6], 1 << 44, 6),
            SamplerError::SampleNumber { .. }
        ));
    }
}
