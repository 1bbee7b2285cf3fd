//! A block: its warps take turns until all have left.

use super::barrier::{Barrier, release};
use super::cx::{Cx, FULL, Stop};
use super::global::Region;
use super::launch::{Launch, Order};
use super::mbarrier::Mbarrier;
use super::race::{Rewrite, Watch};
use super::warp::{Warp, fill_specials};
use crate::cache::Trace;
use crate::check::{Kind, Location};
use crate::count::{Class, Counts};
use std::collections::{BTreeMap, HashSet};

/// What the warps of a block share.
#[derive(Debug, Default)]
pub struct BlockState {
    /// `%ctaid`.
    pub id: [u32; 3],
    /// Its number in the grid.
    pub index: u64,
    /// Shared memory.
    pub shared: Vec<u8>,
    /// 1 where written.
    pub valid: Vec<u8>,
    /// Races.
    pub watch: Watch,
    /// Named barriers.
    pub barriers: [Barrier; 16],
    /// The error that ended the kernel, or 0.
    pub fault: u32,
    /// Stores over another warp's, unordered: nothing is wrong if they store the same value.
    pub rewrites: Vec<Rewrite>,
    /// Barriers in shared memory, by their offset.
    pub mbarriers: BTreeMap<u32, Mbarrier>,
    /// Waits for them in vain since the last arrival.
    pub waits: u32,
    /// Requests to global memory, where caches are modelled.
    pub trace: Trace,
    /// Nothing was stored to global memory since the last fence.
    pub fenced: bool,
    /// Blocks whose earlier stores are ordered before what this one does now.
    pub acquired: HashSet<u32>,
}

impl BlockState {
    /// After atomics: what the block wrote before its fence is published at these addresses, and what others
    /// published there is ordered before.
    pub fn order_by_atomic(&mut self, launch: &Launch<'_>, addr: &[u64; 32], m: u32) {
        if !launch.options.race {
            return;
        }
        let mut published = crate::check::lock(&launch.published);
        for l in super::cx::lanes(m) {
            let set = published.entry(addr[l]).or_default();
            self.acquired.extend(set.iter());
            if self.fenced {
                set.insert((self.index & 0x7f_ffff) as u32 + 1);
                set.extend(self.acquired.iter());
            }
        }
    }
}

/// A worker: one block's state at a time, its registers kept from block to block.
pub struct Worker<'a> {
    launch: &'a Launch<'a>,
    warps: Vec<Warp>,
    state: BlockState,
    /// Counters.
    pub counts: Counts,
    regions: Vec<Region>,
    seed: u64,
}

impl<'a> Worker<'a> {
    /// A worker for a launch.
    pub fn new(launch: &'a Launch<'a>) -> Worker<'a> {
        let threads = launch.threads();
        let warps = (0..threads.div_ceil(32))
            .map(|_| Warp::new(launch.kernel))
            .collect();
        Worker {
            launch,
            warps,
            state: BlockState::default(),
            counts: Counts::new(launch.kernel),
            regions: vec![Region::EMPTY; launch.kernel.code.len() + 1],
            seed: 0,
        }
    }

    /// Prepares block number `index`.
    pub fn start(&mut self, index: u64) {
        let launch = self.launch;
        let [x, y, _] = launch.grid.map(u64::from);
        self.state.id = [
            (index % x) as u32,
            (index / x % y) as u32,
            (index / (x * y)) as u32,
        ];
        self.state.index = index;
        let bytes = launch.shared_bytes() as usize;
        self.state.shared.clear();
        self.state.shared.resize(bytes, super::memory::POISON);
        self.state.valid.clear();
        self.state.valid.resize(bytes, 0);
        self.state
            .watch
            .reset(bytes, self.warps.len(), launch.kernel.granule);
        self.state.barriers = Default::default();
        (self.state.fault, self.state.fenced) = (0, true);
        self.state.acquired.clear();
        self.state.mbarriers.clear();
        self.state.waits = 0;
        let threads = launch.threads();
        let shared = (launch.dynamic, launch.shared_bytes());
        for (n, warp) in self.warps.iter_mut().enumerate() {
            let rest = threads - 32 * n as u32;
            warp.start(n as u32, if rest >= 32 { FULL } else { (1 << rest) - 1 });
            fill_specials(
                warp,
                launch.kernel,
                self.state.id,
                launch.block,
                launch.grid,
                shared,
            );
        }
        self.seed = launch.options.order.seed() ^ index.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    /// Whether every warp has left.
    pub fn done(&self) -> bool {
        self.warps.iter().all(|w| w.done)
    }

    /// The order of warps in one round.
    fn order(&mut self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.warps.len()).collect();
        match self.launch.options.order {
            Order::Forward => {}
            Order::Reverse => order.reverse(),
            Order::Random(_) => super::launch::shuffle(&mut order, &mut self.seed),
        }
        order
    }

    /// One turn for every warp that can run. `Ok(true)` if one did.
    ///
    /// # Errors
    ///
    /// The CUDA error that ended the kernel.
    pub fn round(&mut self) -> Result<bool, u32> {
        let mut moved = false;
        for n in self.order() {
            if self.warps[n].done || self.warps[n].waiting {
                continue;
            }
            moved = true;
            if self.turn(n) == Stop::Fault {
                return Err(self.state.fault);
            }
        }
        let opened = release(&mut self.state, &mut self.warps);
        if self.launch.waves.is_some() {
            self.state.trace.merge();
        }
        if !moved && !opened && !self.done() {
            self.deadlock();
            return Err(719);
        }
        Ok(moved || opened)
    }

    fn turn(&mut self, n: usize) -> Stop {
        let mut warp = std::mem::take(&mut self.warps[n]);
        let (pc, mask) = (warp.pc, warp.mask);
        let mut cx = Cx {
            r32: warp.r32.as_mut_ptr(),
            r64: warp.r64.as_mut_ptr(),
            pred: warp.pred.as_mut_ptr(),
            kernel: self.launch.kernel,
            launch: self.launch,
            warp: &mut warp,
            block: &mut self.state,
            counts: &mut self.counts,
            regions: &mut self.regions,
            pc,
            mask,
            limit: 0,
            stop: Stop::Done,
            patience: 0,
            forced: false,
        };
        let stop = cx.run();
        self.warps[n] = warp;
        stop
    }

    /// Notes the sizes of the buffers that the kernel touches: no sample can touch more than them.
    pub fn note_buffers(&mut self) {
        let mut seen = [HashSet::new(), HashSet::new()];
        for (inst, region) in self.launch.kernel.code.iter().zip(&self.regions) {
            let which = match inst.class {
                Class::StGlobal => [false, true],
                Class::Atomic => [true, true],
                _ => [true, false],
            };
            for (n, counted) in which.into_iter().enumerate() {
                if counted && region.end > 0 && seen[n].insert(region.base) {
                    self.counts.buffers[n] += (region.end - region.base).div_ceil(32);
                }
            }
        }
    }

    /// Hands the block's requests to the caches; `position` is its place in the order of blocks.
    pub fn hand_over(&mut self, position: u64) {
        if let Some(waves) = &self.launch.waves {
            let trace = std::mem::take(&mut self.state.trace);
            crate::check::lock(waves).add(position, trace);
        }
    }

    /// Runs the block to its end.
    ///
    /// # Errors
    ///
    /// The CUDA error that ended the kernel.
    pub fn finish(&mut self) -> Result<(), u32> {
        while !self.done() {
            self.round()?;
        }
        let steps = self.warps.iter().map(|w| w.steps).sum();
        self.counts.longest_block = self.counts.longest_block.max(steps);
        self.counts.blocks += 1;
        Ok(())
    }

    /// Warps wait at barriers that nobody will complete.
    fn deadlock(&mut self) {
        let kernel = self.launch.kernel;
        let mut places = Vec::new();
        let mut first = None;
        for (n, warp) in self.warps.iter().enumerate().filter(|(_, w)| !w.done) {
            let source = kernel.source[warp.pc.saturating_sub(1) as usize];
            let id = self
                .state
                .barriers
                .iter()
                .position(|b| b.holds(n))
                .unwrap_or(16);
            places.push(format!(
                "warp {n} at barrier {id}, line {} (PTX {})",
                source.line, source.ptx
            ));
            first.get_or_insert((n as u32, warp.pc.saturating_sub(1), source));
        }
        let left = self.warps.iter().filter(|w| w.done).count();
        if let Some((warp, pc, source)) = first {
            let text = format!("{}; {left} warps have left", places.join("; "));
            let at = Location {
                pc,
                source,
                block: self.state.id,
                warp,
                lane: 0,
            };
            self.launch
                .findings
                .add(Kind::Deadlock, at, self.launch, text);
        }
    }
}
