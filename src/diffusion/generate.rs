//! Draws pictures: the network inside the sampler's loop.

pub use super::request::Request;
use super::sampler::{SamplerError, SamplerPlan, Samples};
use crate::device::Device;
use crate::gmm::latent::LatentMixture;
use crate::model::UNet;
use crate::model::unet::{Inputs, Purpose};
use crate::ops::latent_tokens::LatentTokens;
use crate::rng::{Stream, split};
use crate::tape::executable::{DeviceError, Executable};
use crate::tape::plan::Plan;
use crate::tape::state::State;
use crate::tape::{Arena, Tape, TapeError, TensorType, Var};

/// A picture cannot be drawn.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// The network does not take these inputs.
    #[error(transparent)]
    Tape(#[from] TapeError),
    /// Not enough memory.
    #[error(transparent)]
    Memory(#[from] DeviceError),
    /// The sampler's settings do not fit.
    #[error(transparent)]
    Sampler(#[from] SamplerError),
    /// Requests that this generator was not made for.
    #[error("picture {picture}: {what}: expected {expected}, found {found}")]
    Request {
        /// Number of its request.
        picture: usize,
        /// What does not fit.
        what: &'static str,
        /// What the generator takes.
        expected: usize,
        /// What the request has.
        found: usize,
    },
    /// The caller asked to stop.
    #[error("stopped while drawing samples")]
    Stopped,
}

/// How attributes become tokens.
#[derive(Clone, Debug)]
pub struct Conditioning {
    /// Number of attributes K.
    pub attributes: usize,
    /// The mixture that Z is drawn from.
    pub mixture: LatentMixture,
    /// Factor on the feature codes; 0 leaves them out.
    pub code: f64,
}

impl Conditioning {
    /// The op that makes tokens of `width` elements from the numbers of `stream`.
    pub fn op(&self, width: usize, stream: Stream) -> LatentTokens {
        LatentTokens {
            width,
            stream,
            means: self.mixture.mu().iter().map(|&m| m as f32).collect(),
            sigma: self.mixture.sigma() as f32,
            code: self.code as f32,
        }
    }
}

/// Which Z the requests' numbers mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Latents {
    /// Fresh ones, numbered under the seed of the drawing.
    Fresh,
    /// Those that a run assigned to its training pictures, numbered by the pictures' rows.
    Assigned {
        /// The run's seed.
        seed: u64,
    },
}

impl Latents {
    fn stream(self) -> Stream {
        match self {
            Self::Fresh => Stream::LatentFresh,
            Self::Assigned { .. } => Stream::LatentFixed,
        }
    }

    /// The seed of Z in a drawing with this seed.
    fn seed(self, drawing: u64) -> u64 {
        match self {
            Self::Fresh => drawing,
            Self::Assigned { seed } => seed,
        }
    }
}

/// A network that predicts noise for a batch, again and again.
pub struct Generator {
    exe: Executable,
    vars: Recorded,
    shape: [usize; 4],
    attributes: usize,
    /// Predictions that are mixed to one; the batch holds the first of all pictures, then the second.
    conditions: usize,
    latents: Latents,
}

/// Variables of a recorded prediction.
struct Recorded {
    sample: Var,
    timestep: Var,
    attributes: Var,
    latents: Var,
    seed: Var,
    output: Var,
}

fn record(
    net: &UNet,
    conditioning: &Conditioning,
    stream: Stream,
    shape: [usize; 4],
) -> Result<(Tape, Recorded), TapeError> {
    let (batch, k) = (shape[0], conditioning.attributes);
    let mut tape = Tape::new();
    let sample = tape.input("sample", TensorType::f32(&shape));
    let timestep = tape.input("timestep", TensorType::u32(&[batch]));
    let attributes = tape.input("attributes", TensorType::f32(&[batch, k]));
    let latents = tape.input("latents", TensorType::u32(&[batch, 2]));
    let seed = tape.input("seed", TensorType::u32(&[2]));
    let op = conditioning.op(net.config().cross_attention_dim, stream);
    let tokens = tape.push_one(op, &[attributes, seed, latents])?;
    let inputs = Inputs {
        sample,
        timestep,
        tokens,
    };
    let output = net.record(&mut tape, inputs, Purpose::Sample)?.output;
    tape.keep(output);
    let vars = Recorded {
        sample,
        timestep,
        attributes,
        latents,
        seed,
        output,
    };
    Ok((tape, vars))
}

impl Generator {
    /// A generator of `batch` pictures at a time, from fresh latents, each of one prediction.
    ///
    /// # Errors
    /// The configuration and the conditioning do not fit each other; not enough memory.
    pub fn new(
        net: &UNet,
        conditioning: &Conditioning,
        batch: usize,
        device: &Device,
    ) -> Result<Self, GenerateError> {
        Self::with_latents(net, conditioning, Latents::Fresh, batch, device)
    }

    /// [`Generator::new`] for requests whose predictions are mixed of `conditions` each: one pass of
    /// `conditions` times `batch`.
    ///
    /// # Errors
    /// As for [`Generator::new`].
    pub fn mixing(
        net: &UNet,
        conditioning: &Conditioning,
        [batch, conditions]: [usize; 2],
        device: &Device,
    ) -> Result<Self, GenerateError> {
        let latents = Latents::Fresh;
        let shape = Self::shape(net, batch * conditions);
        let made = Self::with_latents(net, conditioning, latents, shape[0], device)?;
        Ok(Self { conditions, ..made })
    }

    /// [`Generator::new`] from these latents.
    ///
    /// # Errors
    /// As for [`Generator::new`].
    pub fn with_latents(
        net: &UNet,
        conditioning: &Conditioning,
        latents: Latents,
        batch: usize,
        device: &Device,
    ) -> Result<Self, GenerateError> {
        let shape = Self::shape(net, batch);
        let (tape, vars) = record(net, conditioning, latents.stream(), shape)?;
        let exe = Executable::new(tape, device.clone())?;
        Ok(Self {
            exe,
            vars,
            shape,
            attributes: conditioning.attributes,
            conditions: 1,
            latents,
        })
    }

    fn shape(net: &UNet, batch: usize) -> [usize; 4] {
        let config = net.config();
        [
            batch,
            config.sample_size,
            config.sample_size,
            config.in_channels,
        ]
    }

    /// The memory plan of a generator of `batch` pictures, without allocating anything.
    ///
    /// # Errors
    /// The configuration and the conditioning do not fit each other.
    pub fn plan(
        net: &UNet,
        conditioning: &Conditioning,
        batch: usize,
        device: &Device,
    ) -> Result<Plan, GenerateError> {
        let (tape, _) = record(
            net,
            conditioning,
            Stream::LatentFresh,
            Self::shape(net, batch),
        )?;
        Ok(Executable::plan_on(&tape, device)?)
    }

    /// Seconds that the device takes for one prediction under `weights`, of whatever the inputs hold.
    ///
    /// # Errors
    /// The device's.
    pub fn clock(&mut self, state: &mut State, weights: Arena) -> Result<f64, DeviceError> {
        Ok(self.exe.run_clocked(state, weights)?.as_secs_f64())
    }

    /// FLOPs of one prediction.
    pub fn flops(&self) -> u64 {
        self.exe.plan().flops
    }

    /// Pictures at a time.
    pub fn batch(&self) -> usize {
        self.shape[0] / self.conditions
    }

    /// Draws one picture per request, in `[-1, 1]`, `[requests, s, s, c]` flattened. Sample i starts from
    /// the noise of sample number `first + i`. `watch` sees every step: (step, x0 estimates of the
    /// pictures of this batch, number of its first picture); when it returns false, drawing stops.
    ///
    /// # Errors
    /// Settings that do not fit; [`GenerateError::Stopped`].
    pub fn draw(
        &mut self,
        weights: (&mut State, Arena),
        plan: &SamplerPlan,
        numbers: (u64, u64),
        requests: &[Request],
        watch: impl FnMut(usize, &[f32], usize) -> bool,
    ) -> Result<Vec<f32>, GenerateError> {
        self.draw_from(None, weights, plan, numbers, requests, watch)
    }

    /// [`Generator::draw`] from the pictures `from`, one per request, noised up to the plan's first step
    /// by the noise that the sample would start from; `None`: from that noise alone.
    ///
    /// # Errors
    /// As for [`Generator::draw`].
    pub fn draw_from(
        &mut self,
        from: Option<&[f32]>,
        (state, weights): (&mut State, Arena),
        plan: &SamplerPlan,
        (seed, first): (u64, u64),
        requests: &[Request],
        mut watch: impl FnMut(usize, &[f32], usize) -> bool,
    ) -> Result<Vec<f32>, GenerateError> {
        self.check(requests)?;
        let batch = self.batch();
        let elements = self.shape[1..].iter().product();
        let mut out = Vec::with_capacity(requests.len() * elements);
        let mut x = vec![0.0; batch * elements];
        let mut x0 = x.clone();
        for (number, chunk) in requests.chunks(batch).enumerate() {
            let start = number * batch;
            let samples = Samples {
                seed,
                first: first + start as u64,
                elements,
            };
            let filled = chunk.len() * elements;
            plan.start(samples, &mut x)?;
            if let Some(from) = from {
                let from = from.get(start * elements..).unwrap_or_default();
                let from = &from[..filled.min(from.len())];
                plan.start_from(samples, from, &mut x[..filled])?;
            }
            self.condition(seed, chunk)?;
            for (i, step) in plan.steps().iter().enumerate() {
                let t = vec![step.t - 1; self.shape[0]];
                self.exe.write(self.vars.timestep, &t)?;
                let eps = self.predict((state, weights), chunk, &x)?;
                plan.advance(i, samples, &mut x, &eps, Some(&mut x0))?;
                if !watch(i, &x0[..filled], start) {
                    return Err(GenerateError::Stopped);
                }
            }
            out.extend_from_slice(&x[..filled]);
        }
        Ok(out)
    }

    /// Every request must be a mix of as many predictions as the generator makes.
    fn check(&self, requests: &[Request]) -> Result<(), GenerateError> {
        for (picture, request) in requests.iter().enumerate() {
            let levels = request.conditions.iter().map(|c| c.levels.len());
            let wrong = levels.clone().find(|&found| found != self.attributes);
            let conditions = request.conditions.len();
            for (what, expected, found) in [
                ("predictions of its mix", self.conditions, conditions),
                (
                    "attributes",
                    self.attributes,
                    wrong.unwrap_or(self.attributes),
                ),
            ] {
                if expected != found {
                    return Err(GenerateError::Request {
                        picture,
                        what,
                        expected,
                        found,
                    });
                }
            }
        }
        Ok(())
    }

    /// The noise in `x`, `[batch, ...]`, predicted as the requests say; the pictures beyond them are not
    /// looked at.
    fn predict(
        &mut self,
        (state, weights): (&mut State, Arena),
        requests: &[Request],
        x: &[f32],
    ) -> Result<Vec<f32>, GenerateError> {
        self.exe
            .write(self.vars.sample, &x.repeat(self.conditions))?;
        self.exe.run(state, weights)?;
        let mut eps = self.exe.read(self.vars.output)?;
        if self.conditions == 1 {
            return Ok(eps);
        }
        let (mixed, others) = eps.split_at_mut(x.len());
        let elements = x.len() / self.batch();
        for (i, request) in requests.iter().enumerate() {
            let own = i * elements..(i + 1) * elements;
            let weights: Vec<f32> = request.conditions.iter().map(|c| c.weight).collect();
            for (e, mixed) in own.clone().zip(&mut mixed[own]) {
                let more = others[e..].iter().step_by(x.len());
                let more: f32 = more.zip(&weights[1..]).map(|(eps, w)| w * eps).sum();
                *mixed = weights[0] * *mixed + more;
            }
        }
        eps.truncate(x.len());
        Ok(eps)
    }

    /// Writes levels and latent numbers; a short last chunk repeats its first request.
    fn condition(&mut self, seed: u64, requests: &[Request]) -> Result<(), DeviceError> {
        let batch = self.batch();
        let rows = (0..self.conditions).flat_map(|c| (0..batch).map(move |i| (c, i)));
        let rows = rows.map(|(c, i)| (c, requests.get(i).unwrap_or(&requests[0])));
        let (mut levels, mut latents) = (Vec::new(), Vec::new());
        for (c, request) in rows {
            levels.extend_from_slice(&request.conditions[c].levels);
            latents.extend(split(request.latent));
        }
        self.exe.write(self.vars.attributes, &levels)?;
        self.exe.write(self.vars.latents, &latents)?;
        self.exe
            .write(self.vars.seed, &split(self.latents.seed(seed)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::sampler::Sampler;
    use super::super::schedule::{Schedule, ScheduleSpec};
    use super::*;
    use crate::device::pool::Pool;
    use crate::gmm::latent::{LatentDraw, LatentKind};
    use crate::model::preset::Preset;
    use std::sync::Arc;

    /// Two pictures of one sampling step, from tokens of the generator's own or from tokens of the
    /// f64 oracle.
    #[test]
    fn requests_name_fresh_or_assigned_latents() {
        let net = UNet::new(Preset::find("nano").unwrap().config());
        let conditioning = Conditioning {
            attributes: 3,
            mixture: LatentKind::Fixed.mixture(),
            code: 1.0,
        };
        let mut state = State::default();
        state
            .allocate(Arena::Params, net.table().elements())
            .unwrap();
        net.table().initialise(1, state.get_mut(Arena::Params));
        let schedule = Schedule::new(ScheduleSpec::CELEBA).unwrap();
        let plan = SamplerPlan::new(&schedule, Sampler::default(), 1, None).unwrap();
        let pool = Device::from(Arc::new(Pool::new(1).unwrap()));
        let requests = [5, 1 << 33].map(|latent| Request::new(&[1, 0, 1], latent));
        let (run_seed, drawing) = (7, 3);
        for (latents, stream, seed) in [
            (Latents::Fresh, Stream::LatentFresh, drawing),
            (
                Latents::Assigned { seed: run_seed },
                Stream::LatentFixed,
                run_seed,
            ),
        ] {
            let mut generator =
                Generator::with_latents(&net, &conditioning, latents, 2, &pool).unwrap();
            let weights = (&mut state, Arena::Params);
            let drawn = generator.draw(weights, &plan, (drawing, 0), &requests, |_, _, _| true);
            let drawn = drawn.unwrap();
            let mut tokens = Vec::new();
            for request in &requests {
                let mut own = vec![0.0; 3 * 12];
                let draw = LatentDraw {
                    seed,
                    stream,
                    index: request.latent,
                };
                conditioning
                    .mixture
                    .fill_tokens(draw, &[1, 0, 1], 12, 1.0, &mut own)
                    .unwrap();
                tokens.extend(own.iter().map(|&t| t as f32));
            }
            let expected = one_step(&net, &mut state, &plan, drawing, &tokens);
            for (a, b) in drawn.iter().zip(&expected) {
                assert!((a - b).abs() < 1e-3, "{latents:?}: {a} against {b}");
            }
            let apart = drawn.iter().zip(&drawn[drawn.len() / 2..]);
            assert!(apart.clone().any(|(a, b)| (a - b).abs() > 1e-2));
        }
    }

    /// A mix is the weighted sum of its predictions, each as it would be alone; of weight 1 it is the
    /// plain picture bit for bit.
    #[test]
    fn guided_pictures_are_mixes() {
        let net = UNet::new(Preset::find("nano").unwrap().config());
        let conditioning = Conditioning {
            attributes: 3,
            mixture: LatentKind::Fixed.mixture(),
            code: 1.0,
        };
        let mut state = State::default();
        let elements = net.table().elements();
        state.allocate(Arena::Params, elements).unwrap();
        let params: &mut [f32] = state.get_mut(Arena::Params);
        net.table().initialise(1, params);
        // A new network's last layer is zero.
        for (i, p) in params.iter_mut().enumerate().filter(|(_, p)| **p == 0.0) {
            *p = 0.02 * (i as f32).sin();
        }
        let schedule = Schedule::new(ScheduleSpec::CELEBA).unwrap();
        let plan = SamplerPlan::new(&schedule, Sampler::default(), 1, None).unwrap();
        let pool = Device::from(Arc::new(Pool::new(1).unwrap()));
        let mut draw = |requests: &[Request]| {
            let shape = [2, requests[0].conditions.len()];
            let mut generator = Generator::mixing(&net, &conditioning, shape, &pool).unwrap();
            let weights = (&mut state, Arena::Params);
            generator.draw(weights, &plan, (3, 0), requests, |_, _, _| true)
        };
        let own = [7, 8, 9].map(|latent| Request::new(&[1, 0, 1], latent));
        let null = [7, 8, 9].map(|latent| Request::new(&[0; 3], latent));
        let [a, b] = [draw(&own).unwrap(), draw(&null).unwrap()];
        let guided = |w: f32| own.clone().map(|request| request.guided(w));
        assert_eq!(draw(&guided(1.0)).unwrap(), a);
        assert_eq!(draw(&guided(0.0)).unwrap(), b);
        // One step is linear in the noise.
        let mixed = draw(&guided(2.5)).unwrap();
        assert!(a.iter().zip(&b).any(|(a, b)| (a - b).abs() > 1e-2));
        for ((m, a), b) in mixed.iter().zip(&a).zip(&b) {
            let expected = b + 2.5 * (a - b);
            assert!(
                (m - expected).abs() < 1e-3 * (1.0 + expected.abs()),
                "{m} {expected}"
            );
        }
        // Both ends of a way are its requests' pictures.
        let end = [7, 8, 9].map(|latent| Request::new(&[0, 1, 1], latent));
        let way = |share| [0, 1, 2].map(|i| own[i].towards(&end[i], share));
        assert_eq!(draw(&way(0.0)).unwrap(), a);
        assert_eq!(draw(&way(1.0)).unwrap(), draw(&end).unwrap());
        let two = own[0].clone().guided(2.0);
        assert!(matches!(
            draw(&[own[0].clone(), two]),
            Err(GenerateError::Request { picture: 1, .. })
        ));
    }

    fn one_step(
        net: &UNet,
        state: &mut State,
        plan: &SamplerPlan,
        seed: u64,
        tokens: &[f32],
    ) -> Vec<f32> {
        let mut tape = Tape::new();
        let inputs = Inputs {
            sample: tape.input("sample", TensorType::f32(&[2, 16, 16, 3])),
            timestep: tape.input("timestep", TensorType::u32(&[2])),
            tokens: tape.input("tokens", TensorType::f32(&[2, 3, 12])),
        };
        let output = net
            .record(&mut tape, inputs, Purpose::Sample)
            .unwrap()
            .output;
        tape.keep(output);
        let mut exe = Executable::new(tape, Arc::new(Pool::new(1).unwrap())).unwrap();
        let samples = Samples {
            seed,
            first: 0,
            elements: 16 * 16 * 3,
        };
        let mut x = vec![0.0; 2 * samples.elements];
        plan.start(samples, &mut x).unwrap();
        exe.write(inputs.sample, &x).unwrap();
        exe.write(inputs.timestep, &[plan.steps()[0].t - 1; 2])
            .unwrap();
        exe.write(inputs.tokens, tokens).unwrap();
        exe.run(state, Arena::Params).unwrap();
        let eps = exe.read(output).unwrap();
        plan.advance(0, samples, &mut x, &eps, None).unwrap();
        x
    }
}
