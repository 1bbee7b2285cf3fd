//! A planned tape with its memory on a device: runs a step as often as asked, without allocating.

mod checked;
mod cpu;
mod finite;
mod gpu;

pub use checked::NodeError;
pub use finite::NotFinite;

use super::plan::Plan;
use super::state::State;
use super::{Arena, Kind, Tape, Var};
use crate::device::Device;
use crate::device::cuda::{CudaError, Launch};
use crate::device::pool::Pool;
use cpu::CpuEngine;
use gpu::GpuEngine;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The system has no memory left for a buffer.
#[derive(Debug, Clone, thiserror::Error)]
#[error("out of memory: {what} needs {bytes} bytes; use a smaller batch or preset")]
pub struct OutOfMemory {
    /// What the buffer is for.
    pub what: &'static str,
    /// Its size.
    pub bytes: usize,
}

/// A device cannot run a program, or failed at it. The CPU has too little memory at worst.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The host's memory is too small.
    #[error(transparent)]
    Memory(#[from] OutOfMemory),
    /// The GPU's complaint.
    #[error(transparent)]
    Cuda(#[from] CudaError),
}

enum Engine {
    Cpu(CpuEngine),
    Gpu(Box<GpuEngine>),
}

/// A tape ready to run.
pub struct Executable {
    tape: Tape,
    plan: Plan,
    engine: Engine,
    pool: Arc<Pool>,
    /// Results of the CPU's runs that were not collected yet; empty lists on a GPU.
    started: VecDeque<Vec<f32>>,
}

impl Executable {
    /// Plans `tape` for `device` and allocates its activations there.
    ///
    /// # Errors
    /// Not enough memory; a GPU that cannot run an op.
    ///
    /// # Panics
    /// If the tape is malformed: an op writes what it reads, or has too many outputs.
    pub fn new(tape: Tape, device: impl Into<Device>) -> Result<Self, DeviceError> {
        let Device { pool, gpu } = device.into();
        let (plan, engine) = match gpu {
            None => {
                let plan = Plan::new(&tape, pool.threads());
                let engine = CpuEngine::new(&tape, &plan, pool.clone())?;
                (plan, Engine::Cpu(engine))
            }
            Some(gpu) => {
                let (engine, plan) = GpuEngine::new(&tape, gpu)?;
                (plan, Engine::Gpu(Box::new(engine)))
            }
        };
        Ok(Self {
            tape,
            plan,
            engine,
            pool,
            started: VecDeque::new(),
        })
    }

    /// The plan of `tape` on `device`, without allocating or compiling anything.
    ///
    /// # Errors
    /// A GPU that cannot run an op.
    pub fn plan_on(tape: &Tape, device: &Device) -> Result<Plan, DeviceError> {
        match &device.gpu {
            None => Ok(Plan::new(tape, device.pool.threads())),
            Some(gpu) => Ok(gpu::Draft::new(tape, gpu)?.plan),
        }
    }

    /// The tape.
    pub fn tape(&self) -> &Tape {
        &self.tape
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The worker threads of the host.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Runs every node once. `weights` says which arena the parameters are read from: the weights
    /// themselves, or their moving average. A GPU may still be at work when this returns.
    ///
    /// # Errors
    /// The GPU's.
    pub fn run(&mut self, state: &mut State, weights: Arena) -> Result<(), DeviceError> {
        match &mut self.engine {
            Engine::Cpu(cpu) => {
                cpu.run(&self.tape, state, weights, |_, _| ());
                Ok(())
            }
            Engine::Gpu(gpu) => gpu.run(&self.tape, state, weights),
        }
    }

    /// [`Executable::run`], and waits: the time the device took, without what the host did before and after.
    ///
    /// # Errors
    /// The GPU's.
    pub fn run_clocked(
        &mut self,
        state: &mut State,
        weights: Arena,
    ) -> Result<Duration, DeviceError> {
        match &mut self.engine {
            Engine::Cpu(cpu) => {
                let start = Instant::now();
                cpu.run(&self.tape, state, weights, |_, _| ());
                Ok(start.elapsed())
            }
            Engine::Gpu(gpu) => gpu.run_clocked(&self.tape, state, weights),
        }
    }

    /// Runs every launch of a GPU once, and waits: its node's number, what was launched, the time it took.
    /// Nothing on the CPU.
    ///
    /// # Errors
    /// The GPU's.
    pub fn time_launches(
        &mut self,
        state: &mut State,
        weights: Arena,
    ) -> Result<Vec<(usize, Launch, Duration)>, DeviceError> {
        match &mut self.engine {
            Engine::Cpu(_) => Ok(Vec::new()),
            Engine::Gpu(gpu) => gpu.time_launches(&self.tape, state, weights),
        }
    }

    /// [`Executable::run`], and the time each node took, in execution order.
    ///
    /// # Errors
    /// The GPU's.
    pub fn run_timed(
        &mut self,
        state: &mut State,
        weights: Arena,
    ) -> Result<Vec<Duration>, DeviceError> {
        match &mut self.engine {
            Engine::Cpu(cpu) => {
                let mut times = vec![Duration::ZERO; self.tape.nodes().len()];
                cpu.run(&self.tape, state, weights, |node, time| times[node] = time);
                Ok(times)
            }
            Engine::Gpu(gpu) => gpu.run_timed(&self.tape, state, weights),
        }
    }

    /// Copies `data` into input `var`.
    ///
    /// # Errors
    /// The GPU's.
    ///
    /// # Panics
    /// If `var` is not an input of the tape or the sizes differ.
    pub fn write<T: bytemuck::Pod>(&mut self, var: Var, data: &[T]) -> Result<(), DeviceError> {
        let name = self.tape.name(var);
        assert_eq!(*self.tape.kind(var), Kind::Input, "{name} is not an input");
        let bytes: &[u8] = bytemuck::cast_slice(data);
        assert_eq!(bytes.len(), self.tape.ty(var).bytes(), "size of {name}");
        let Some(offset) = self.plan.offset(var) else {
            return Ok(());
        };
        match &mut self.engine {
            Engine::Cpu(cpu) => {
                cpu.write(offset, bytes);
                Ok(())
            }
            Engine::Gpu(gpu) => gpu.write(&self.tape, var, offset, bytes),
        }
    }

    /// The f32 numbers of `var` after a run, densely packed; `var` was kept or is an input.
    ///
    /// # Errors
    /// The GPU's, also of work that it was given before.
    ///
    /// # Panics
    /// If the plan gave `var`'s memory to somebody else.
    pub fn read(&self, var: Var) -> Result<Vec<f32>, DeviceError> {
        let root = self.tape.root(var);
        assert!(
            matches!(self.tape.kind(root), Kind::Result | Kind::Input),
            "{} was not kept",
            self.tape.name(var)
        );
        let offset = self.plan.offset(root).unwrap_or_default();
        let layout = self.tape.layout(var);
        match &self.engine {
            Engine::Cpu(cpu) => Ok(cpu.read(offset, layout)),
            Engine::Gpu(gpu) => gpu.read(root, offset, layout),
        }
    }

    /// Runs every node once, as [`Executable::run`] does, and keeps the results `vars` for
    /// [`Executable::collect`], which need not wait for them now. `vars` is the same at every call.
    ///
    /// # Errors
    /// The GPU's.
    pub fn start(
        &mut self,
        state: &mut State,
        weights: Arena,
        vars: &[Var],
    ) -> Result<(), DeviceError> {
        assert!(self.started.len() < 2, "two steps are under way already");
        self.run(state, weights)?;
        let results = match &mut self.engine {
            Engine::Cpu(_) => {
                let read = vars.iter().map(|&v| self.read(v));
                read.collect::<Result<Vec<_>, _>>()?.concat()
            }
            Engine::Gpu(gpu) => {
                gpu.fetch(&self.tape, &self.plan, vars)?;
                Vec::new()
            }
        };
        self.started.push_back(results);
        Ok(())
    }

    /// Number of runs started whose results were not collected: at most two.
    pub fn under_way(&self) -> usize {
        self.started.len()
    }

    /// The results of the oldest run that was started, one after the other; `None` if there is none.
    ///
    /// # Errors
    /// The GPU's.
    pub fn collect(&mut self) -> Result<Option<Vec<f32>>, DeviceError> {
        let Some(results) = self.started.pop_front() else {
            return Ok(None);
        };
        match &mut self.engine {
            Engine::Cpu(_) => Ok(Some(results)),
            Engine::Gpu(gpu) => Ok(Some(gpu.fetched(self.started.len())?)),
        }
    }

    /// Fills the activation arena with NaN: whatever reads before it writes shows.
    ///
    /// # Errors
    /// The GPU's.
    pub fn poison(&mut self) -> Result<(), DeviceError> {
        match &mut self.engine {
            Engine::Cpu(cpu) => {
                cpu.poison();
                Ok(())
            }
            Engine::Gpu(gpu) => gpu.poison(),
        }
    }
}
