//! From a configuration and a data set to everything a run is made of.

use super::config::RunConfig;
use super::step::{Recipe, StepError, plan, probe_plan};
use crate::data::Packed;
use crate::device::Device;
use crate::device::cuda::Precision;
use crate::device::memory::available_bytes;
use crate::diffusion::generate::{Conditioning, GenerateError, Generator};
use crate::diffusion::schedule::{Schedule, ScheduleError};
use crate::gmm::entropy::{EntropyError, EntropyLoss};
use crate::model::preset::{PRESETS, Preset};
use crate::model::{ConfigError, NetworkConfig, UNet};
use crate::ops::adamw::COUNTERS;
use crate::ops::conv2d::Algorithm;
use crate::report::files::human_bytes;
use crate::tape::executable::DeviceError;
use crate::tape::state::State;
use crate::tape::{Arena, TapeError};

/// A run cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// No such preset.
    #[error("there is no preset `{name}`; expected one of {known}{hint}")]
    Preset {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
        /// The nearest name.
        hint: String,
    },
    /// The network's configuration is wrong.
    #[error(transparent)]
    Network(#[from] ConfigError),
    /// The schedule is wrong.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// The classifier's loss cannot be.
    #[error("the classifier of {attributes} attributes: {source}")]
    Classifier {
        /// Attributes of the data.
        attributes: usize,
        /// Why.
        source: EntropyError,
    },
    /// The network does not fit the data.
    #[error("the network does not fit the data: {what}: expected {expected}, found {found}")]
    Data {
        /// What does not fit.
        what: &'static str,
        /// What the data has.
        expected: usize,
        /// What the network has.
        found: usize,
    },
    /// Operands that do not fit.
    #[error(transparent)]
    Tape(#[from] TapeError),
    /// A step that cannot be planned.
    #[error(transparent)]
    Step(#[from] StepError),
    /// Sampling that cannot be planned.
    #[error(transparent)]
    Generate(#[from] GenerateError),
    /// The device's complaint.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// More memory than there is.
    #[error(
        "batch {batch} of this network needs {needed}, but only {available} of memory are free; {advice}"
    )]
    Memory {
        /// The batch asked for.
        batch: usize,
        /// What it needs.
        needed: String,
        /// What there is.
        available: String,
        /// What would fit.
        advice: String,
    },
}

/// The network of a run: its preset's, or its own.
///
/// # Errors
/// An unknown preset, or a configuration that this network cannot have.
pub fn network(config: &RunConfig) -> Result<NetworkConfig, SetupError> {
    if let Some(table) = &config.network {
        let value = serde_json::to_value(table).unwrap_or_default();
        return Ok(NetworkConfig::from_json(&value)?);
    }
    preset(&config.preset).map(Preset::config)
}

/// The preset called `name`.
///
/// # Errors
/// There is none; the message names the nearest.
pub fn preset(name: &str) -> Result<&'static Preset, SetupError> {
    Preset::find(name).ok_or_else(|| {
        let names = PRESETS.iter().map(|p| p.name);
        let near = names
            .clone()
            .max_by(|a, b| strsim::jaro(a, name).total_cmp(&strsim::jaro(b, name)));
        let near = near.filter(|n| strsim::jaro(n, name) > 0.7);
        SetupError::Preset {
            name: name.into(),
            known: names.collect::<Vec<_>>().join(", "),
            hint: near
                .map(|n| format!("; did you mean `{n}`?"))
                .unwrap_or_default(),
        }
    })
}

/// Everything that a run computes with, before memory is allocated.
pub struct Setup {
    /// The run's settings.
    pub config: RunConfig,
    /// The network.
    pub net: UNet,
    /// The noise schedule.
    pub schedule: Schedule,
    /// How attributes become tokens.
    pub conditioning: Conditioning,
    /// Loss of the network's attribute classifier, if it has one.
    pub classifier: Option<EntropyLoss>,
}

/// Pictures of a sample page that are drawn at a time, in a run with this batch.
pub fn page_batch(batch: usize) -> usize {
    batch.min(12)
}

/// The largest batch that `--batch auto` chooses.
pub const AUTO_BATCH: usize = 256;

/// Free memory of what trains: the GPU's, or the host's where the system says.
fn free_memory(device: &Device) -> Result<Option<usize>, DeviceError> {
    Ok(match &device.gpu {
        Some(gpu) => Some(gpu.cuda.memory().map_err(DeviceError::from)?.0),
        None => available_bytes().map(|b| b as usize),
    })
}

/// Memory of a run in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Weights, gradients, moments and average.
    pub parameters: usize,
    /// Activations and scratch of a training step.
    pub step: usize,
    /// The least the step's plan could have been.
    pub step_bound: usize,
    /// What the step would take if no two tensors shared memory.
    pub step_separate: usize,
    /// Activations of the sample pages and of the held-out measurement.
    pub measuring: usize,
    /// FLOPs of a training step.
    pub flops: u64,
}

impl Memory {
    /// All of it.
    pub fn total(&self) -> usize {
        self.parameters + self.step + self.measuring
    }
}

impl Setup {
    /// Sets up a run of `config` for pictures with `attributes` attributes.
    ///
    /// # Errors
    /// See [`SetupError`].
    pub fn new(config: RunConfig, attributes: usize) -> Result<Self, SetupError> {
        let classifier = config
            .classifier
            .loss(config.ngmg_floor, attributes)
            .map_err(|source| SetupError::Classifier { attributes, source })?;
        let network = network(&config)?;
        let net = match classifier {
            Some(_) => UNet::with_classifier(network, attributes),
            None => UNet::new(network),
        };
        let net = net.with_convolutions(if config.exact {
            Algorithm::Direct
        } else {
            Algorithm::Fastest
        });
        let shape = net.config();
        for (what, found) in [
            ("input channels", shape.in_channels),
            ("output channels", shape.out_channels),
        ] {
            if found != 3 {
                return Err(SetupError::Data {
                    what,
                    expected: 3,
                    found,
                });
            }
        }
        if let Some(found) = shape.token_projection {
            let expected = attributes * shape.cross_attention_dim;
            if found != expected {
                let what =
                    "projection_class_embeddings_input_dim (attributes x cross_attention_dim)";
                return Err(SetupError::Data {
                    what,
                    expected,
                    found,
                });
            }
        }
        let conditioning = Conditioning {
            attributes,
            mixture: config.latent.mixture(),
            code: config.feature_code.scale(),
        };
        let schedule = Schedule::new(config.schedule)?;
        Ok(Self {
            config,
            net,
            schedule,
            conditioning,
            classifier,
        })
    }

    /// Sets up a run on a packed data set.
    ///
    /// # Errors
    /// See [`SetupError`].
    pub fn for_data(config: RunConfig, data: &Packed) -> Result<Self, SetupError> {
        Self::new(config, data.attribute_names().len())
    }

    /// What a training step computes.
    pub fn recipe(&self) -> Recipe<'_> {
        Recipe {
            net: &self.net,
            config: &self.config,
            schedule: &self.schedule,
            conditioning: &self.conditioning,
            classifier: self.classifier.as_ref(),
        }
    }

    /// Memory of training with `batch` pictures on `device`.
    ///
    /// # Errors
    /// Operands that do not fit; an op that the device cannot run.
    pub fn memory(&self, batch: usize, device: &Device) -> Result<Memory, SetupError> {
        let plan = plan(&self.recipe(), batch, device)?;
        let part = batch.div_ceil(self.config.micro_batches as usize);
        let half = device
            .gpu
            .as_ref()
            .is_some_and(|gpu| gpu.precision == Precision::Bf16);
        // The five arenas and, where weights are used as bf16, copies of the weights and their average.
        let bytes = if half { 5 * 4 + 2 * 2 } else { 5 * 4 };
        Ok(Memory {
            parameters: bytes * self.net.table().elements(),
            step: plan.peak_bytes,
            step_bound: plan.bound_bytes,
            step_separate: plan.separate_bytes,
            measuring: probe_plan(&self.recipe(), part, device)?.peak_bytes
                + Generator::plan(&self.net, &self.conditioning, page_batch(batch), device)?
                    .peak_bytes,
            flops: plan.flops,
        })
    }

    /// Checks that training fits into memory.
    ///
    /// # Errors
    /// [`SetupError::Memory`], with the largest batch that would fit.
    pub fn check_memory(&self, device: &Device) -> Result<Memory, SetupError> {
        let batch = self.config.batch as usize;
        let memory = self.memory(batch, device)?;
        let Some(available) = free_memory(device)? else {
            return Ok(memory);
        };
        if memory.total() <= available {
            return Ok(memory);
        }
        let (mut fits, mut too_much) = (0, batch);
        while too_much - fits > 1 {
            let middle = fits.midpoint(too_much);
            if self.memory(middle, device)?.total() <= available {
                fits = middle;
            } else {
                too_much = middle;
            }
        }
        Err(SetupError::Memory {
            batch,
            needed: human_bytes(memory.total() as u64),
            available: human_bytes(available as u64),
            advice: match fits {
                0 => "not even batch 1 fits: choose a smaller preset".into(),
                n => format!("the largest batch that fits is {n} (--batch {n})"),
            },
        })
    }

    /// The batch of `--batch auto`: the largest power of two, up to [`AUTO_BATCH`], whose plan takes at
    /// most four fifths of the free memory; 1 where not even that does.
    ///
    /// # Errors
    /// Operands that do not fit; the device's.
    pub fn auto_batch(&self, device: &Device) -> Result<u64, SetupError> {
        let available = free_memory(device)?.map_or(usize::MAX, |free| free / 5 * 4);
        self.largest_power_of_two(device, available)
    }

    /// The largest power of two, up to [`AUTO_BATCH`], whose plan takes at most `available` bytes, or 1.
    pub(super) fn largest_power_of_two(
        &self,
        device: &Device,
        available: usize,
    ) -> Result<u64, SetupError> {
        let mut batch = AUTO_BATCH;
        while batch > 1 && self.memory(batch, device)?.total() > available {
            batch /= 2;
        }
        Ok(batch as u64)
    }

    /// State for training, zeroed.
    ///
    /// # Errors
    /// The system has no such memory.
    pub fn allocate(&self) -> Result<State, DeviceError> {
        let mut state = State::default();
        for arena in [
            Arena::Params,
            Arena::Grads,
            Arena::AdamM,
            Arena::AdamV,
            Arena::Ema,
        ] {
            state.allocate(arena, self.net.table().elements())?;
        }
        state.allocate(Arena::Counters, COUNTERS)?;
        Ok(state)
    }
}
