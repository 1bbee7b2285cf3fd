//! A warp: its registers, and the fragments into which branches have split it.

use super::cx::{Cx, FULL, Flow, Stop, lanes};
use super::nan;
use crate::decode::kernel::Kernel;

/// Backward branches of one fragment while others wait, before it gives way.
const PATIENCE: u32 = 10_000;

/// Registers that the machine fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    Laneid,
    Warpid,
    Nwarpid,
    Smid,
    Nsmid,
    Gridid,
    MaskEq,
    MaskLe,
    MaskLt,
    MaskGe,
    MaskGt,
    DynamicShared,
    TotalShared,
    /// A cluster of one block: ids are zero, counts are one.
    Zero,
    One,
}

impl Special {
    /// The special register with this name.
    pub fn named(name: &str) -> Option<Special> {
        use Special::*;
        let axis = match name.rsplit('.').next() {
            Some("y") => 1,
            Some("z") => 2,
            _ => 0,
        };
        Some(match name.split('.').next()? {
            "%tid" => Tid(axis),
            "%ntid" => Ntid(axis),
            "%ctaid" => Ctaid(axis),
            "%nctaid" => Nctaid(axis),
            "%laneid" => Laneid,
            "%warpid" => Warpid,
            "%nwarpid" => Nwarpid,
            "%smid" => Smid,
            "%nsmid" => Nsmid,
            "%gridid" => Gridid,
            "%lanemask_eq" => MaskEq,
            "%lanemask_le" => MaskLe,
            "%lanemask_lt" => MaskLt,
            "%lanemask_ge" => MaskGe,
            "%lanemask_gt" => MaskGt,
            "%dynamic_smem_size" => DynamicShared,
            "%total_smem_size" => TotalShared,
            "%cluster_ctaid" | "%cluster_ctarank" | "%clusterid" => Zero,
            "%cluster_nctaid" | "%cluster_nctarank" | "%nclusterid" => One,
            _ => return None,
        })
    }
}

/// Lanes that wait at a place of their own.
#[derive(Clone, Copy, Debug)]
pub struct Fragment {
    /// Where.
    pub pc: u32,
    /// Which.
    pub mask: u32,
    /// They wait for other lanes to arrive at `pc`.
    pub waits: bool,
}

/// A warp of one block.
#[derive(Debug, Default)]
pub struct Warp {
    /// Its number in the block.
    pub index: u32,
    /// 32-bit rows.
    pub r32: Vec<[u32; 32]>,
    /// 64-bit rows.
    pub r64: Vec<[u64; 32]>,
    /// Predicates.
    pub pred: Vec<u32>,
    /// Local memory, lane after lane.
    pub local: Vec<u8>,
    /// Lanes that the block started with.
    pub first: u32,
    /// Lanes that have not left.
    pub live: u32,
    /// Where the running fragment goes on.
    pub pc: u32,
    /// The running fragment's lanes.
    pub mask: u32,
    /// Fragments that do not run.
    pub others: Vec<Fragment>,
    /// After a rotation: where the fragment that now runs has to look around.
    pub resume: Option<u32>,
    /// Instructions so far in this block.
    pub steps: u64,
    /// Copies on their way into shared memory.
    pub copies: super::asynch::Copies,
    /// Products of its warpgroup under way.
    pub products: super::wgmma::Products,
    /// It has left.
    pub done: bool,
    /// It waits at a barrier.
    pub waiting: bool,
}

impl Warp {
    /// Registers for a kernel, constants filled in.
    pub fn new(kernel: &Kernel) -> Warp {
        let mut warp = Warp {
            r32: vec![[0; 32]; kernel.rows32 as usize + 1],
            r64: vec![[0; 32]; kernel.rows64 as usize + 1],
            pred: vec![0; kernel.preds as usize + 1],
            local: vec![0; 32 * kernel.local_bytes as usize],
            ..Warp::default()
        };
        for &(row, value) in &kernel.init32 {
            warp.r32[row as usize] = [value; 32];
        }
        for &(row, value) in &kernel.init64 {
            warp.r64[row as usize] = [value; 32];
        }
        warp
    }

    /// Starts the warp at the kernel's first instruction with these lanes.
    pub fn start(&mut self, index: u32, live: u32) {
        self.index = index;
        self.first = live;
        (self.live, self.mask, self.pc) = (live, live, 0);
        (self.steps, self.done, self.waiting) = (0, live == 0, false);
        self.resume = None;
        self.others.clear();
        self.copies.clear();
        self.products.clear();
    }
}

impl Cx<'_> {
    /// The lowest pc at which the running fragment has to look around.
    fn look_at(&self) -> u32 {
        let others = &self.warp.others;
        if others.iter().any(|f| f.waits) {
            return 0;
        }
        others.iter().map(|f| f.pc).min().unwrap_or(u32::MAX)
    }

    /// Puts aside lanes that go on at `pc`.
    pub fn split(&mut self, pc: u32, mask: u32, waits: bool) {
        self.warp.others.push(Fragment { pc, mask, waits });
        self.limit = self.look_at();
    }

    /// Meets fragments at this pc; gives way to a lower one. `false` when no fragment can run.
    #[cold]
    #[inline(never)]
    fn reconverge(&mut self) -> bool {
        loop {
            if self.mask == 0 {
                let pick = self
                    .warp
                    .others
                    .iter()
                    .enumerate()
                    .filter(|(_, f)| !f.waits)
                    .min_by_key(|(_, f)| f.pc);
                let Some((n, _)) = pick else { return false };
                let f = self.warp.others.swap_remove(n);
                (self.pc, self.mask) = (f.pc, f.mask);
            }
            let pc = self.pc;
            while let Some(n) = self.warp.others.iter().position(|f| f.pc == pc) {
                self.mask |= self.warp.others.swap_remove(n).mask;
            }
            let lower = self
                .warp
                .others
                .iter()
                .enumerate()
                .filter(|(_, f)| !f.waits && f.pc < pc)
                .min_by_key(|(_, f)| f.pc);
            let Some((n, _)) = lower else {
                self.limit = self.look_at();
                if self.limit == pc {
                    self.limit = pc + 1;
                }
                return true;
            };
            let f = self.warp.others.swap_remove(n);
            self.warp.others.push(Fragment {
                pc,
                mask: self.mask,
                waits: false,
            });
            (self.pc, self.mask) = (f.pc, f.mask);
        }
    }

    /// Lets the highest waiting fragment run for a while: a spin lock's owner may be among them.
    #[cold]
    #[inline(never)]
    pub fn rotate(&mut self) {
        self.patience = PATIENCE;
        let pick = self.warp.others.iter().position(|f| !f.waits);
        if let Some(n) = pick {
            let f = self.warp.others.remove(n);
            self.warp.others.push(Fragment {
                pc: self.pc,
                mask: self.mask,
                waits: false,
            });
            (self.pc, self.mask) = (f.pc, f.mask);
            // It runs undisturbed until its own patience is at an end, or it meets the others' pc.
            let above = self
                .warp
                .others
                .iter()
                .map(|f| f.pc)
                .filter(|pc| *pc > self.pc)
                .min();
            self.warp.resume = Some(above.unwrap_or(u32::MAX));
        }
    }

    /// The running fragment waits at `pc` until the rest of `members` is there. `true` if it may go on.
    pub fn gather(&mut self, members: u32) -> bool {
        let missing = members & self.warp.live & !self.mask;
        if missing == 0 || self.forced {
            return true;
        }
        let (pc, mask) = (self.pc, self.mask);
        self.mask = 0;
        self.warp.others.push(Fragment {
            pc,
            mask,
            waits: true,
        });
        self.limit = 0;
        false
    }

    /// Lanes leave for good.
    pub fn leave(&mut self, mask: u32) {
        self.warp.live &= !mask;
        self.mask &= !mask;
        self.limit = 0;
    }

    /// Runs until the warp stops.
    pub fn run(&mut self) -> Stop {
        self.limit = self.warp.resume.take().unwrap_or_else(|| self.look_at());
        self.patience = PATIENCE;
        let stop = if self.launch.options.nan {
            self.steps::<true>()
        } else {
            self.steps::<false>()
        };
        (self.warp.pc, self.warp.mask) = (self.pc, self.mask);
        stop
    }

    /// All fragments wait for lanes that will not come: the lowest goes on without them.
    #[cold]
    fn force(&mut self) -> Stop {
        if self.warp.live == 0 {
            self.warp.done = true;
            return Stop::Done;
        }
        let Some(n) = (0..self.warp.others.len()).min_by_key(|n| self.warp.others[*n].pc) else {
            self.warp.done = true;
            return Stop::Done;
        };
        let f = self.warp.others.swap_remove(n);
        (self.pc, self.mask) = (f.pc, f.mask);
        self.forced = true;
        self.limit = self.pc + 1;
        Stop::Yield
    }

    fn steps<const NAN: bool>(&mut self) -> Stop {
        let code = self.kernel.code.as_slice();
        loop {
            if self.pc >= self.limit && !self.forced && !self.reconverge() {
                if self.force() == Stop::Done {
                    return Stop::Done;
                }
                continue;
            }
            let Some(inst) = code.get(self.pc as usize) else {
                self.leave(self.mask);
                continue;
            };
            let mut m = self.mask;
            if inst.guard != super::cx::NONE {
                m &= self.get_pred(inst.guard) ^ inst.flip;
            }
            let count = &mut self.counts.lines[self.pc as usize];
            count.runs += 1;
            count.lanes += u64::from(m.count_ones());
            self.warp.steps += 1;
            if m == 0 {
                self.pc += 1;
                continue;
            }
            let before = if NAN { nan::before(self, inst, m) } else { 0 };
            // SAFETY: decoding gave the instruction rows that this warp has.
            let flow = unsafe { (inst.run)(self, inst, m) };
            match flow {
                Flow::Next => {
                    if NAN {
                        nan::after(self, inst, m, before);
                    }
                    self.forced = false;
                    self.pc += 1;
                }
                Flow::Jump => {}
                Flow::Stop => return self.stop,
            }
        }
    }
}

/// Fills the rows of special registers for one warp of a block.
pub fn fill_specials(
    warp: &mut Warp,
    kernel: &Kernel,
    block: [u32; 3],
    dims: [u32; 3],
    grid: [u32; 3],
    shared: (u32, u32),
) {
    let first = warp.index * 32;
    let tid = |axis: u8, l: u32| {
        let n = first + l;
        match axis {
            0 => n % dims[0],
            1 => n / dims[0] % dims[1],
            _ => n / (dims[0] * dims[1]),
        }
    };
    let warps = (dims[0] * dims[1] * dims[2]).div_ceil(32);
    let linear = block[0] + grid[0] * (block[1] + grid[1] * block[2]);
    let value = |special: Special, l: u32| match special {
        Special::Tid(axis) => tid(axis, l),
        Special::Ntid(axis) => dims[axis as usize],
        Special::Ctaid(axis) => block[axis as usize],
        Special::Nctaid(axis) => grid[axis as usize],
        Special::Laneid => l,
        Special::Warpid => warp.index,
        Special::Nwarpid => warps,
        Special::Smid => linear % 16,
        Special::Nsmid => 16,
        Special::Gridid => 1,
        Special::MaskEq => 1 << l,
        Special::MaskLe => FULL >> (31 - l),
        Special::MaskLt => (1 << l) - 1,
        Special::MaskGe => FULL << l,
        Special::MaskGt => !(FULL >> (31 - l)),
        Special::DynamicShared => shared.0,
        Special::TotalShared => shared.1,
        Special::Zero => 0,
        Special::One => 1,
    };
    for &(row, special) in &kernel.specials {
        let mut values = [0; 32];
        for l in lanes(FULL) {
            values[l] = value(special, l as u32);
        }
        warp.r32[row as usize] = values;
    }
    for &(row, special) in &kernel.specials64 {
        let mut values = [0; 32];
        for l in lanes(FULL) {
            values[l] = u64::from(value(special, l as u32));
        }
        warp.r64[row as usize] = values;
    }
}
