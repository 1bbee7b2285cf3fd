//! Draws pictures: the network inside the sampler's loop.

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

/// What one picture is drawn from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Attributes, 0 or 1.
    pub attributes: Vec<u8>,
    /// Number of its Z: of a fresh one, or the row of the picture that owns it; see [`Latents`].
    pub latent: u64,
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
    let attributes = tape.input("attributes", TensorType::u8(&[batch, k]));
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
    /// A generator of `batch` pictures at a time, from fresh latents.
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
        self.shape[0]
    }

    /// Draws one picture per request, in `[-1, 1]`, `[requests, s, s, c]` flattened. Sample i starts from
    /// the noise of sample number `first + i`. `watch` sees every step: (step, x0 estimates of the
    /// pictures of this batch, number of its first picture); when it returns false, drawing stops.
    ///
    /// # Errors
    /// Settings that do not fit; [`GenerateError::Stopped`].
    pub fn draw(
        &mut self,
        (state, weights): (&mut State, Arena),
        plan: &SamplerPlan,
        (seed, first): (u64, u64),
        requests: &[Request],
        mut watch: impl FnMut(usize, &[f32], usize) -> bool,
    ) -> Result<Vec<f32>, GenerateError> {
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
            plan.start(samples, &mut x)?;
            self.condition(seed, chunk)?;
            for (i, step) in plan.steps().iter().enumerate() {
                self.exe.write(self.vars.sample, &x)?;
                self.exe
                    .write(self.vars.timestep, &vec![step.t - 1; batch])?;
                self.exe.run(state, weights)?;
                let eps = self.exe.read(self.vars.output)?;
                plan.advance(i, samples, &mut x, &eps, Some(&mut x0))?;
                if !watch(i, &x0[..chunk.len() * elements], start) {
                    return Err(GenerateError::Stopped);
                }
            }
            out.extend_from_slice(&x[..chunk.len() * elements]);
        }
        Ok(out)
    }

    /// Writes attributes and latent numbers; a short last chunk repeats its first request.
    fn condition(&mut self, seed: u64, requests: &[Request]) -> Result<(), DeviceError> {
        let request = |i: usize| requests.get(i).unwrap_or(&requests[0]);
        let attributes: Vec<u8> = (0..self.batch())
            .flat_map(|i| request(i).attributes.iter().copied())
            .collect();
        let latents: Vec<u32> = (0..self.batch())
            .flat_map(|i| split(request(i).latent))
            .collect();
        self.exe.write(self.vars.attributes, &attributes)?;
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
        let requests = [5, 1 << 33].map(|latent| Request {
            attributes: vec![1, 0, 1],
            latent,
        });
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
                    .fill_tokens(draw, &request.attributes, 12, 1.0, &mut own)
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
