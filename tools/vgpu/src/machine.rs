//! A device without its driver: memory, modules, launches.

use crate::cache::{Cache, Levels, Waves, l2};
use crate::check::Finding;
use crate::count::Counts;
use crate::decode::kernel::Kernel;
use crate::decode::{Loaded, load};
use crate::exec::launch::{Launch, Options};
use crate::exec::memory::Memory;
use std::sync::{Mutex, PoisonError};

/// What a launch is asked to do.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Dynamic shared memory in bytes.
    pub dynamic: u32,
    /// All blocks are resident at once.
    pub cooperative: bool,
}

impl Shape {
    /// A grid of one dimension.
    pub fn linear(blocks: u32, threads: u32) -> Shape {
        Shape {
            grid: [blocks, 1, 1],
            block: [threads, 1, 1],
            dynamic: 0,
            cooperative: false,
        }
    }
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// Counters.
    pub counts: Counts,
    /// What was wrong.
    pub findings: Vec<Finding>,
    /// The CUDA error that ended the kernel, or 0.
    pub error: u32,
}

/// A device's memory and its launches.
#[derive(Debug)]
pub struct Machine {
    /// Global memory.
    pub memory: Memory,
    /// How launches are executed.
    pub options: Options,
    /// The next launch's caches; `None`: they are not modelled.
    pub caches: Option<Levels>,
    /// L2 as the last launch left it, and its bytes.
    l2: Option<(u64, Cache)>,
    epoch: u8,
}

impl Machine {
    /// A device with `total` bytes.
    pub fn new(total: u64) -> Machine {
        Machine {
            memory: Memory::new(total),
            options: Options::default(),
            caches: None,
            l2: None,
            epoch: 0,
        }
    }

    /// Loads PTX.
    ///
    /// # Errors
    ///
    /// Text that is no PTX.
    pub fn load(&mut self, ptx: &str) -> Result<Loaded, String> {
        load(ptx, &mut self.memory)
    }

    /// Launches a kernel with the bytes of its parameters.
    pub fn launch(
        &mut self,
        module: &Loaded,
        kernel: &Kernel,
        shape: Shape,
        params: &[u8],
    ) -> Outcome {
        self.epoch = self.epoch.wrapping_add(1);
        if self.epoch == 0 {
            self.memory.forget_touches();
            self.epoch = 1;
        }
        let blocks = shape.grid.iter().map(|n| u64::from(*n)).product();
        let launch = Launch {
            kernel,
            module: &module.text,
            memory: &self.memory,
            params: params.to_vec(),
            grid: shape.grid,
            block: shape.block,
            dynamic: shape.dynamic,
            cooperative: shape.cooperative,
            options: self.options,
            findings: Default::default(),
            epoch: self.epoch,
            published: Default::default(),
            waves: self.caches.map(|levels| {
                let kept = self
                    .l2
                    .take()
                    .filter(|(bytes, _)| *bytes == levels.l2_bytes);
                let cache = kept.map_or_else(|| l2(levels.l2_bytes), |(_, cache)| cache);
                Mutex::new(Waves::new(levels, cache, blocks))
            }),
        };
        let (mut counts, error) = launch.run();
        let findings = launch.findings.take();
        if let (Some(waves), Some(levels)) = (launch.waves, self.caches) {
            let waves = waves.into_inner().unwrap_or_else(PoisonError::into_inner);
            let (traffic, cache) = waves.finish();
            counts.traffic = Some(traffic);
            self.l2 = Some((levels.l2_bytes, cache));
        }
        Outcome {
            counts,
            findings,
            error,
        }
    }

    /// Launches a kernel by name with 64-bit parameters.
    ///
    /// # Errors
    ///
    /// No such kernel, or one that cannot be decoded.
    pub fn call(
        &mut self,
        module: &Loaded,
        name: &str,
        shape: Shape,
        params: &[u64],
    ) -> Result<Outcome, String> {
        let kernel = module
            .kernels
            .get(name)
            .ok_or_else(|| format!("no kernel {name}"))?
            .as_ref()
            .map_err(Clone::clone)?;
        let mut bytes = vec![0; kernel.param_bytes as usize];
        for (p, value) in kernel.params.iter().zip(params) {
            let (at, len) = (p.offset as usize, (p.size as usize).min(8));
            bytes[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
        }
        Ok(self.launch(module, kernel, shape, &bytes))
    }

    /// A buffer with these bytes.
    ///
    /// # Errors
    ///
    /// No room.
    pub fn upload(&mut self, bytes: &[u8]) -> Result<u64, String> {
        let at = self.memory.alloc(bytes.len() as u64).ok_or("no room")?;
        self.memory.write(at, bytes);
        Ok(at)
    }

    /// A buffer's bytes.
    pub fn download(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read(at, &mut bytes);
        bytes
    }
}
