//! Who touched what since when: vector clocks over the warps of a block for shared memory, and the
//! last writer and reader among blocks for global memory.
//!
//! Shared memory is watched in granules, the smallest access that the kernel makes. A warp's clock
//! ticks when it passes a barrier or synchronises its lanes; at a barrier all who pass it learn each
//! other's clocks. An access is in order when the other's clock at the time is one that this warp knows.

use super::cx::{Cx, lanes};
use super::global::Use;
use super::memory::Region;
use crate::check::Kind;
use std::sync::atomic::{AtomicU64, Ordering};

const CLOCK_BITS: u32 = 22;
const CLOCK_MASK: u32 = (1 << CLOCK_BITS) - 1;
/// A granule into which an asynchronous copy is on its way.
pub const IN_FLIGHT: u32 = u32::MAX;
/// Lane code of a granule read by several lanes.
const MANY: u32 = 32;
/// Lane code of an atomic access.
const ATOMIC: u32 = 63;

/// What is known of a block's shared memory.
#[derive(Debug, Default)]
pub struct Watch {
    /// log2 of the granule.
    pub shift: u32,
    granules: usize,
    warps: usize,
    /// Per granule the last writer: warp, lane, clock.
    writes: Vec<u32>,
    /// Per warp and granule the last read: clock and lane.
    reads: Vec<u32>,
    /// Clock of each warp that each warp knows; the diagonal is its own.
    seen: Vec<u32>,
    /// Per warp the smallest of them.
    floor: Vec<u32>,
}

/// What is wrong with an access, with the other's warp and lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Wrong {
    InFlight,
    AfterWrite(u32, u32),
    AfterRead(u32, u32),
}

impl Watch {
    /// For a block of `warps` warps with `bytes` bytes.
    pub fn reset(&mut self, bytes: usize, warps: usize, shift: u32) {
        self.shift = shift;
        self.granules = bytes.div_ceil(1 << shift);
        self.warps = warps;
        self.writes.clear();
        self.writes.resize(self.granules, 0);
        self.reads.clear();
        self.reads.resize(self.granules * warps, 0);
        self.seen.clear();
        self.seen.resize(warps * warps, 0);
        for w in 0..warps {
            self.seen[w * warps + w] = 1;
        }
        self.floor.clear();
        self.floor.resize(warps, 0);
    }

    fn refloor(&mut self, w: usize) {
        let n = self.warps;
        self.floor[w] = (0..n)
            .filter(|v| *v != w)
            .map(|v| self.seen[w * n + v])
            .min()
            .unwrap_or(0);
    }

    /// A warp synchronises its lanes.
    pub fn tick(&mut self, w: usize) {
        let n = self.warps;
        self.seen[w * n + w] += 1;
        if self.seen[w * n + w] >= CLOCK_MASK - 1 {
            self.writes.fill(0);
            self.reads.fill(0);
            self.seen.fill(0);
            (0..n).for_each(|v| self.seen[v * n + v] = 1);
            self.floor.fill(0);
        }
    }

    /// The clocks that a warp knows, to be handed on.
    pub fn clocks(&self, w: usize) -> Vec<u32> {
        self.seen[w * self.warps..(w + 1) * self.warps].to_vec()
    }

    /// A warp learns clocks.
    pub fn learn(&mut self, w: usize, clocks: &[u32]) {
        for (mine, theirs) in self.seen[w * self.warps..].iter_mut().zip(clocks) {
            *mine = (*mine).max(*theirs);
        }
        self.refloor(w);
    }

    /// Whether the last writer of a granule is ordered before this access.
    #[inline(always)]
    fn write_before(&self, w: usize, lane: u32, e: u32, atomic: bool) -> Option<Wrong> {
        let t = e & CLOCK_MASK;
        let (v, l) = (e >> 27, e >> CLOCK_BITS & 31);
        if e == IN_FLIGHT {
            return Some(Wrong::InFlight);
        }
        if v as usize == w {
            let unordered = t == self.seen[w * self.warps + w] && l != lane && !atomic;
            return unordered.then_some(Wrong::AfterWrite(v, l));
        }
        (t > self.seen[w * self.warps + v as usize]).then_some(Wrong::AfterWrite(v, l))
    }

    /// A lane (or, with `MANY`, the warp) reads granules `from..to`.
    #[inline(always)]
    pub fn read(&mut self, w: usize, lane: u32, from: usize, to: usize) -> Option<Wrong> {
        let clock = self.seen[w * self.warps + w];
        let mut wrong = None;
        for g in from..to {
            let e = self.writes[g];
            if e & CLOCK_MASK > self.floor[w]
                && let Some(found) = self.write_before(w, lane, e, false)
            {
                wrong = Some(found);
            }
            let r = &mut self.reads[w * self.granules + g];
            let mine = clock << 6 | lane;
            *r = if *r >> 6 == clock && *r != mine {
                clock << 6 | MANY
            } else {
                mine
            };
        }
        wrong
    }

    /// A warp reads rows of 16 bytes. `false`, and nothing noted, if the writes before them need a closer look.
    #[inline(always)]
    pub fn read_rows(&mut self, w: usize, addr: &[u64]) -> bool {
        let (floor, own) = (self.floor[w], self.seen[w * self.warps + w]);
        let per_row = 16usize >> self.shift;
        let mut bad = false;
        for a in addr {
            let first = *a as usize >> self.shift;
            for e in &self.writes[first..first + per_row] {
                // Other warps' writes must lie below the floor, this warp's before its last synchronisation.
                let (clock, mine) = (e & CLOCK_MASK, (e >> 27) as usize == w && *e != IN_FLIGHT);
                bad |= clock > floor && !(mine && clock < own);
            }
        }
        if !bad {
            for a in addr {
                let first = w * self.granules + (*a as usize >> self.shift);
                self.reads[first..first + per_row].fill(own << 6 | MANY);
            }
        }
        !bad
    }

    /// A lane writes granules `from..to`; `entry` overrides what is noted, as for copies in flight.
    #[inline(always)]
    pub fn write(
        &mut self,
        w: usize,
        lane: u32,
        from: usize,
        to: usize,
        how: Use,
        note: Option<u32>,
    ) -> Option<Wrong> {
        let clock = self.seen[w * self.warps + w];
        let mut wrong = None;
        let atomic = how == Use::Atomic;
        for g in from..to {
            let e = self.writes[g];
            if e & CLOCK_MASK > self.floor[w] && !(atomic && self.is_atomic(g)) {
                wrong = wrong.or(self.write_before(w, lane, e, atomic));
            }
            for v in 0..self.warps {
                let r = self.reads[v * self.granules + g];
                if r >> 6 > self.seen[w * self.warps + v]
                    || v == w && r >> 6 == clock && r & 63 != lane
                {
                    let l = r & 63;
                    if !(atomic && l == ATOMIC) {
                        wrong = wrong.or(Some(Wrong::AfterRead(v as u32, l)));
                    }
                }
            }
            self.writes[g] = note.unwrap_or((w as u32) << 27 | (lane & 31) << CLOCK_BITS | clock);
        }
        wrong
    }

    /// Marks granules as read and written atomically: other atomics do not conflict with them.
    pub fn mark_atomic(&mut self, w: usize, from: usize, to: usize) {
        // It is noted as a read by a lane that does not exist.
        let clock = self.seen[w * self.warps + w];
        for g in from..to {
            self.reads[w * self.granules + g] = clock << 6 | ATOMIC;
        }
    }

    /// Whether the last write to a granule was atomic.
    fn is_atomic(&self, g: usize) -> bool {
        let e = self.writes[g];
        let v = (e >> 27) as usize;
        v < self.warps && self.reads[v * self.granules + g] == (e & CLOCK_MASK) << 6 | ATOMIC
    }

    /// Whether a copy into granules `from..to` is on its way.
    pub fn in_flight(&self, from: usize, to: usize) -> bool {
        self.writes[from..to].contains(&IN_FLIGHT)
    }

    /// A copy has landed: from now on it is a lane's write.
    pub fn land(&mut self, w: usize, lane: u32, from: usize, to: usize) {
        let entry = (w as u32) << 27 | (lane & 31) << CLOCK_BITS | self.seen[w * self.warps + w];
        self.writes[from..to].fill(entry);
    }
}

/// Lane code of an access by several lanes at once.
pub const WARP: u32 = MANY;

/// One access of a lane to global memory, with races between blocks in mind.
pub fn global(cx: &mut Cx<'_>, region: &Region, address: u64, bytes: u32, lane: usize, how: Use) {
    let block = (cx.block.index & 0x7f_ffff) as u32 + 1;
    let mine = u32::from(cx.launch.epoch) << 24 | block;
    let atomic = 1u32 << 23;
    let many = 0x7f_ffffu32;
    let mut other = None;
    for n in 0..u64::from(bytes) {
        // SAFETY: eight bytes were allocated for every byte of the buffer.
        let cell =
            unsafe { AtomicU64::from_ptr(region.races.add((address - region.base + n) as usize)) };
        let old = cell.load(Ordering::Relaxed);
        let (w, r) = (old as u32, (old >> 32) as u32);
        let current = |e: u32| e >> 24 == u32::from(cx.launch.epoch);
        let who = |e: u32| e & many;
        let foreign =
            |e: u32| current(e) && who(e) != block && !cx.block.acquired.contains(&who(e));
        let both_atomic = |e: u32| how == Use::Atomic && e & atomic != 0;
        let (mut nw, mut nr) = (w, r);
        if foreign(w) && !both_atomic(w) {
            other = Some((who(w), "written"));
        }
        if how == Use::Read {
            nr = if current(r) && who(r) != block {
                u32::from(cx.launch.epoch) << 24 | many
            } else {
                mine
            };
        } else {
            if foreign(r) && how == Use::Write {
                other = Some((who(r), "read"));
            }
            nw = mine | if how == Use::Atomic { atomic } else { 0 };
        }
        cell.store(u64::from(nr) << 32 | u64::from(nw), Ordering::Relaxed);
    }
    if how == Use::Write {
        cx.block.fenced = false;
    }
    if let Some((who, what)) = other {
        let verb = if how == Use::Read { "reads" } else { "writes" };
        let by = if who == many {
            "several blocks".to_owned()
        } else {
            format!("block number {}", who - 1)
        };
        let text = format!(
            "{verb} {bytes} bytes at {address:#x} (offset {}), {what} by {by} in the same launch",
            address - region.base
        );
        cx.find(Kind::GlobalRace, lane, text);
    }
}

/// A store over another warp's.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Rewrite {
    pub lane: usize,
    pub offset: u32,
    pub wrong: Wrong,
}

impl Cx<'_> {
    /// Records what is wrong with a store to shared memory; whether a second store is wrong depends on its value.
    #[cold]
    pub fn store_wrong(&mut self, wrong: Wrong, lane: usize, offset: u32) {
        if matches!(wrong, Wrong::AfterWrite(..)) {
            self.block.rewrites.push(Rewrite {
                lane,
                offset,
                wrong,
            });
        } else {
            self.shared_wrong(wrong, lane, offset, "write");
        }
    }

    /// Drops the second stores whose lanes are in `same`, and reports the others.
    #[cold]
    #[inline(never)]
    pub fn judge_rewrites(&mut self, same: u32) {
        for r in std::mem::take(&mut self.block.rewrites) {
            if same >> r.lane & 1 == 0 {
                self.shared_wrong(r.wrong, r.lane, r.offset, "write");
            }
        }
    }

    /// Records what is wrong with an access to shared memory.
    #[cold]
    pub fn shared_wrong(&mut self, wrong: Wrong, lane: usize, offset: u32, what: &str) {
        let (kind, text) = match wrong {
            Wrong::InFlight => (
                Kind::InFlight,
                format!("{what} of shared byte {offset}, into which cp.async still copies"),
            ),
            Wrong::AfterWrite(w, l) => (
                Kind::SharedRace,
                format!(
                    "{what} of shared byte {offset}, which warp {w} lane {l} has written with no synchronisation between"
                ),
            ),
            Wrong::AfterRead(w, l) => {
                let lane = if l < 32 {
                    format!("lane {l}")
                } else {
                    "several lanes".to_owned()
                };
                (
                    Kind::SharedRace,
                    format!(
                        "{what} of shared byte {offset}, which warp {w} {lane} read with no synchronisation between"
                    ),
                )
            }
        };
        self.find(kind, lane, text);
    }

    /// Two lanes that stored different values to one address in one instruction.
    #[inline(never)]
    pub fn same_address(&mut self, addr: &[u64; 32], m: u32, bad: u32) {
        let lane = bad.trailing_zeros() as usize;
        let other = lanes(m & !(1 << lane))
            .find(|l| addr[*l] == addr[lane])
            .unwrap_or(lane);
        self.find(
            Kind::SameAddress,
            lane,
            format!("lanes {lane} and {other} at {:#x}", addr[lane]),
        );
    }
}
