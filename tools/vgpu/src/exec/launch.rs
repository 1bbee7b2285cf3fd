//! A launch: the grid's blocks in some order, on one or more workers.

use super::block::Worker;
use super::memory::Memory;
use crate::cache::Waves;
use crate::check::{Findings, lock};
use crate::count::Counts;
use crate::decode::ModuleText;
use crate::decode::kernel::Kernel;
use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// In which order blocks, warps and graph nodes run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Order {
    /// As numbered.
    #[default]
    Forward,
    /// Backwards.
    Reverse,
    /// Shuffled from a seed.
    Random(u64),
}

impl Order {
    /// The seed, or 0.
    pub fn seed(self) -> u64 {
        match self {
            Order::Random(seed) => seed,
            _ => 0,
        }
    }
}

/// The next number of a simple generator.
pub fn next(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *seed;
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// Shuffles in place.
pub fn shuffle<T>(items: &mut [T], seed: &mut u64) {
    for n in (1..items.len()).rev() {
        items.swap(n, (next(seed) % (n as u64 + 1)) as usize);
    }
}

/// How a launch is executed.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Options {
    pub order: Order,
    pub threads: usize,
    /// Bounds and alignment only.
    pub fast: bool,
    /// Shared memory that nobody wrote may be read.
    pub shared_unwritten: bool,
    /// So many blocks of a grid run, and counters are scaled to all of them; 0: all run.
    pub sample: u64,
    /// Look for races between blocks.
    pub race: bool,
    /// Look for the first NaN or infinity.
    pub nan: bool,
    /// Instructions that a warp may execute.
    pub max_inst: u64,
    /// Tensor cores cut products like real ones: this many terms at a time, 0 for exact sums in order of k.
    pub truncate: u32,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            order: Order::Forward,
            threads: 1,
            fast: false,
            shared_unwritten: false,
            sample: 0,
            race: false,
            nan: false,
            max_inst: 20_000_000_000,
            truncate: 0,
        }
    }
}

/// All that a launch needs.
pub struct Launch<'a> {
    /// The kernel.
    pub kernel: &'a Kernel,
    /// Its module's text.
    pub module: &'a ModuleText,
    /// Global memory.
    pub memory: &'a Memory,
    /// Parameters as the kernel lays them out.
    pub params: Vec<u8>,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Dynamic shared memory in bytes.
    pub dynamic: u32,
    /// All blocks are resident at once.
    pub cooperative: bool,
    /// How.
    pub options: Options,
    /// What was wrong.
    pub findings: Findings,
    /// The number, 1 to 255, that marks sectors touched by this launch.
    pub epoch: u8,
    /// The caches, where they are modelled.
    pub waves: Option<Mutex<Waves>>,
    /// Blocks that have published their stores, by the address of their atomics.
    pub published: Mutex<HashMap<u64, HashSet<u32>>>,
}

impl Launch<'_> {
    /// Threads of a block.
    pub fn threads(&self) -> u32 {
        self.block.iter().product()
    }

    /// Static and dynamic shared memory of a block.
    pub fn shared_bytes(&self) -> u32 {
        self.kernel.shared_bytes + self.dynamic
    }

    /// A text of the module's, by its address.
    pub fn text(&self, address: u64) -> String {
        let mut bytes = vec![0; 256];
        let Some(region) = self.memory.find(address) else {
            return String::new();
        };
        bytes.truncate((region.end - address).min(256) as usize);
        self.memory.read(address, &mut bytes);
        let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
        String::from_utf8_lossy(&bytes[..end]).into_owned()
    }

    /// Runs all blocks: the counters, and the CUDA error that ended the kernel, or 0.
    pub fn run(&self) -> (Counts, u32) {
        let blocks: u64 = self.grid.iter().map(|n| u64::from(*n)).product();
        if self.cooperative {
            return self.together(blocks);
        }
        let order = self.order(blocks);
        let (all, blocks) = (blocks, order.as_ref().map_or(blocks, |o| o.len() as u64));
        let threads = (self.options.threads as u64).min(blocks).max(1);
        let fault = AtomicU32::new(0);
        let total = Mutex::new(Counts::new(self.kernel));
        // Each thread has a stretch of the blocks of its own, since neighbours share cache lines; who is
        // done helps the others.
        // Caches want their waves complete, so all threads take from one stretch.
        let stretch = if self.waves.is_some() {
            blocks
        } else {
            blocks.div_ceil(threads)
        };
        let next: Vec<AtomicU64> = (0..threads).map(|t| AtomicU64::new(t * stretch)).collect();
        let work = |own: u64| {
            let mut worker = Worker::new(self);
            for t in (own..threads).chain(0..own) {
                let end = ((t + 1) * stretch).min(blocks);
                while blocks < all || fault.load(Ordering::Relaxed) == 0 {
                    let n = next[t as usize].fetch_add(1, Ordering::Relaxed);
                    if n >= end {
                        break;
                    }
                    worker.start(order.as_ref().map_or(n, |o| o[n as usize]));
                    // Of a sample that reads garbage, one block ends and the others go on.
                    if let Err(code) = worker.finish()
                        && fault.fetch_max(code, Ordering::Relaxed) == 0
                        && blocks == all
                    {
                        break;
                    }
                    worker.hand_over(n);
                }
            }
            if blocks < all {
                worker.note_buffers();
            }
            lock(&total).add(&worker.counts);
        };
        if threads == 1 {
            work(0);
        } else {
            let work = &work;
            std::thread::scope(|scope| {
                (0..threads).for_each(|t| drop(scope.spawn(move || work(t))));
            });
        }
        let mut counts = total
            .into_inner()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if blocks < all {
            counts.scale(blocks, all);
        }
        (counts, fault.into_inner())
    }

    /// The blocks to run, where they are not all of them as numbered.
    fn order(&self, blocks: u64) -> Option<Vec<u64>> {
        let sample = self.options.sample;
        if sample > 0 && sample < blocks {
            // Evenly, the first and the last among them.
            let steps = (sample - 1).max(1);
            return Some((0..sample).map(|n| n * (blocks - 1) / steps).collect());
        }
        match self.options.order {
            Order::Forward => None,
            Order::Reverse => Some((0..blocks).rev().collect()),
            Order::Random(mut seed) => {
                let mut order: Vec<u64> = (0..blocks).collect();
                shuffle(&mut order, &mut seed);
                Some(order)
            }
        }
    }

    /// All blocks at once, a round each in turn.
    fn together(&self, blocks: u64) -> (Counts, u32) {
        let mut workers: Vec<Worker<'_>> = (0..blocks)
            .map(|n| {
                let mut worker = Worker::new(self);
                worker.start(n);
                worker
            })
            .collect();
        let mut fault = 0;
        while fault == 0 && !workers.iter().all(Worker::done) {
            for worker in &mut workers {
                if !worker.done()
                    && let Err(code) = worker.round()
                {
                    fault = code;
                    break;
                }
            }
        }
        let mut total = Counts::new(self.kernel);
        for (n, worker) in workers.iter_mut().enumerate() {
            total.add(&worker.counts);
            worker.hand_over(n as u64);
        }
        total.blocks = blocks;
        (total, fault)
    }
}
