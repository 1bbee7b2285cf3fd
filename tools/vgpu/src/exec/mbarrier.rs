//! `mbarrier`: barriers in shared memory that count arrivals, also of asynchronous copies.
//!
//! A phase ends when its expected arrivals have come; the next one begins at once. Whoever arrives hands on what
//! it knows of the other warps' accesses; whoever waits with success learns it. The object's 64 bits are ours:
//! programs may only copy them as the state that `arrive` returns.

use super::access::addresses;
use super::asynch::Pending;
use super::block::BlockState;
use super::control;
use super::cx::{Cx, Flow, Inst, NONE, lanes};
use super::global::Use;
use super::memory::{SHARED_BASE, WINDOW};
use super::shared;
use crate::check::Kind;

/// The largest count of arrivals.
const MOST: u32 = (1 << 20) - 1;
/// Waits in vain, with no arrival between, after which nobody will come.
const PATIENCE: u32 = 1 << 16;

/// One barrier.
#[derive(Debug, Default)]
pub struct Mbarrier {
    expected: u32,
    pending: u32,
    /// Bytes that were announced and have not come; below zero, what came before its announcement.
    bytes: i64,
    phase: u32,
    /// What this phase's arrivals know, and what all earlier ones knew.
    arriving: Vec<u32>,
    known: Vec<u32>,
    /// Copies whose arrival is due: they land when somebody waits.
    due: Vec<Due>,
}

/// Copies of a warp.
#[derive(Debug)]
struct Due {
    warp: usize,
    copies: Vec<Pending>,
    /// What it does to the barrier: an arrival, or so many bytes.
    bytes: Option<u32>,
}

impl Mbarrier {
    fn new(count: u32) -> Mbarrier {
        Mbarrier {
            expected: count,
            pending: count,
            ..Mbarrier::default()
        }
    }

    /// The state that `arrive` returns: phase, then pending count.
    fn state(&self) -> u64 {
        u64::from(self.phase) << 32 | u64::from(self.pending)
    }

    fn arrive(&mut self, count: u32, clocks: &[u32]) {
        self.pending -= count;
        self.settle(clocks);
    }

    fn complete(&mut self, bytes: u32, clocks: &[u32]) {
        self.bytes -= i64::from(bytes);
        self.settle(clocks);
    }

    /// Ends the phase if nothing is outstanding.
    fn settle(&mut self, clocks: &[u32]) {
        join(&mut self.arriving, clocks);
        if self.pending == 0 && self.bytes == 0 {
            let arrived = std::mem::take(&mut self.arriving);
            join(&mut self.known, &arrived);
            self.phase = self.phase.wrapping_add(1);
            self.pending = self.expected;
        }
    }
}

fn join(mine: &mut Vec<u32>, theirs: &[u32]) {
    mine.resize(mine.len().max(theirs.len()), 0);
    for (m, t) in mine.iter_mut().zip(theirs) {
        *m = (*m).max(*t);
    }
}

/// Offsets into shared memory; generic addresses are those of its window.
fn places(cx: &Cx<'_>, i: &Inst) -> [u64; 32] {
    addresses(cx, i).map(|a| {
        let offset = a.wrapping_sub(SHARED_BASE);
        if offset < WINDOW { offset } else { a }
    })
}

/// The count of an instruction's row `b` for a lane (`NONE`: one).
fn count(cx: &Cx<'_>, i: &Inst, lane: usize) -> u32 {
    if i.b == NONE {
        1
    } else {
        cx.get::<u32>(i.b)[lane]
    }
}

/// One lane's barrier, checked as an atomic access of its 8 bytes. `None` after a finding that ends the kernel.
fn object(cx: &mut Cx<'_>, address: u64, lane: usize) -> Result<u32, Flow> {
    let at = shared::bounds(cx, address, 8, lane, Use::Atomic)?;
    if !cx.block.mbarriers.contains_key(&(at as u32)) {
        let text = format!("no barrier was initialised at shared byte {at}");
        cx.find(Kind::Mbarrier, lane, text);
        return Err(cx.die(719));
    }
    shared::lane(cx, at, 8, lane as u32, Use::Atomic);
    Ok(at as u32)
}

/// `mbarrier.init [a], b`.
///
/// # Safety
///
/// The rows exist.
pub unsafe fn init(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Flow {
    let addr = places(cx, i);
    for l in lanes(m) {
        let at = match shared::bounds(cx, addr[l], 8, l, Use::Write) {
            Ok(at) => at,
            Err(flow) => return flow,
        };
        let n = count(cx, i, l);
        let wrong = if n == 0 || n > MOST {
            Some(format!("a barrier for {n} arrivals: expected 1 to {MOST}"))
        } else {
            let old = cx.block.mbarriers.get(&(at as u32));
            old.map(|_| format!("the barrier at shared byte {at} is initialised a second time"))
        };
        if let Some(text) = wrong {
            cx.find(Kind::Mbarrier, l, text);
            return cx.die(719);
        }
        shared::lane(cx, at, 8, l as u32, Use::Write);
        cx.judge_rewrites(0);
        cx.block.mbarriers.insert(at as u32, Mbarrier::new(n));
    }
    Flow::Next
}

/// `mbarrier.inval [a]`.
///
/// # Safety
///
/// The rows exist.
pub unsafe fn inval(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Flow {
    let addr = places(cx, i);
    for l in lanes(m) {
        match object(cx, addr[l], l) {
            Ok(at) => cx.block.mbarriers.remove(&at),
            Err(flow) => return flow,
        };
        // The bytes are free for other use, and hold nothing.
        cx.block.valid[addr[l] as usize..addr[l] as usize + 8].fill(0);
    }
    let w = cx.warp.index as usize;
    cx.block.watch.tick(w);
    Flow::Next
}

/// Bits of `arrive`'s list entry.
pub mod how {
    /// The phase must not end with it.
    pub const NO_COMPLETE: u32 = 1;
    /// Later phases expect fewer arrivals.
    pub const DROP: u32 = 2;
}

/// `mbarrier.arrive{_drop}{.noComplete} d, [a], b`; `list[0]` says how, row `c` announces bytes (`expect_tx`).
///
/// # Safety
///
/// The rows exist.
pub unsafe fn arrive(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Flow {
    let (addr, how) = (places(cx, i), cx.item(i, 0));
    let w = cx.warp.index as usize;
    let mut states = [0; 32];
    for l in lanes(m) {
        let at = match object(cx, addr[l], l) {
            Ok(at) => at,
            Err(flow) => return flow,
        };
        let n = count(cx, i, l);
        let announced = match i.c {
            NONE => 0,
            row => i64::from(cx.get::<u32>(row)[l]),
        };
        let clocks = cx.block.watch.clocks(w);
        let Some(barrier) = cx.block.mbarriers.get_mut(&at) else {
            continue;
        };
        let pending = barrier.pending;
        let wrong = if n == 0 || n > pending {
            Some(format!("{n} arrivals where {pending} are pending"))
        } else if how & how::NO_COMPLETE != 0 && n == pending {
            Some(format!(
                "arrive.noComplete ends the phase: {pending} arrivals were pending"
            ))
        } else {
            None
        };
        if let Some(text) = wrong {
            cx.find(Kind::Mbarrier, l, format!("{text} (shared byte {at})"));
            return cx.die(719);
        }
        states[l] = barrier.state();
        barrier.bytes += announced;
        if how & how::DROP != 0 {
            barrier.expected -= n;
        }
        barrier.arrive(n, &clocks);
    }
    cx.block.waits = 0;
    cx.block.watch.tick(w);
    if i.d != NONE {
        cx.put(i.d, &states, m);
    }
    Flow::Next
}

/// `mbarrier.expect_tx [a], c`.
///
/// # Safety
///
/// The rows exist.
pub unsafe fn expect(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Flow {
    let addr = places(cx, i);
    for l in lanes(m) {
        let at = match object(cx, addr[l], l) {
            Ok(at) => at,
            Err(flow) => return flow,
        };
        let bytes = cx.get::<u32>(i.c)[l];
        if let Some(barrier) = cx.block.mbarriers.get_mut(&at) {
            barrier.bytes += i64::from(bytes);
        }
    }
    Flow::Next
}

/// `mbarrier.test_wait` and `try_wait` with a state in row `b`, or (`list[0]` 1) a parity: predicate `d`. A warp
/// that waits in vain gives way.
///
/// # Safety
///
/// The rows exist.
pub unsafe fn wait(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Flow {
    let (addr, parity) = (places(cx, i), cx.item(i, 0) == 1);
    let w = cx.warp.index as usize;
    let mut done = 0;
    for l in lanes(m) {
        let at = match object(cx, addr[l], l) {
            Ok(at) => at,
            Err(flow) => return flow,
        };
        land_due(cx, at);
        let Some(barrier) = cx.block.mbarriers.get(&at) else {
            continue;
        };
        let over = if parity {
            barrier.phase & 1 != cx.get::<u32>(i.b)[l] & 1
        } else {
            barrier.phase != (cx.get::<u64>(i.b)[l] >> 32) as u32
        };
        if over {
            done |= 1 << l;
            cx.block.watch.learn(w, &barrier.known);
        }
    }
    cx.put_pred(i.d, done, m);
    if done != 0 {
        cx.block.watch.tick(w);
    }
    if done == m {
        return Flow::Next;
    }
    cx.block.waits += 1;
    if cx.block.waits > PATIENCE {
        let text = format!("{PATIENCE} waits for an mbarrier, and nobody has arrived");
        cx.find(Kind::Deadlock, m.trailing_zeros() as usize, text);
        return cx.die(719);
    }
    // SAFETY: it has no operands.
    unsafe { control::sleep(cx, i, m) }
}

/// `mbarrier.pending_count d, a`.
pub fn pending_count(state: u64) -> u32 {
    state as u32
}

/// `cp.async.mbarrier.arrive{.noinc} [a]`: an arrival when the lane's copies so far have landed. `list[0]` 1: it
/// counts among those expected.
///
/// # Safety
///
/// The rows exist.
pub unsafe fn copies(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Flow {
    let (addr, noinc) = (places(cx, i), cx.item(i, 0) == 1);
    let w = cx.warp.index as usize;
    for l in lanes(m) {
        let at = match object(cx, addr[l], l) {
            Ok(at) => at,
            Err(flow) => return flow,
        };
        let due = cx.warp.copies.take(l);
        let Some(barrier) = cx.block.mbarriers.get_mut(&at) else {
            continue;
        };
        barrier.pending += u32::from(!noinc);
        if barrier.pending > MOST {
            let text = format!("more than {MOST} pending arrivals");
            cx.find(Kind::Mbarrier, l, text);
            return cx.die(719);
        }
        barrier.due.push(Due {
            warp: w,
            copies: due,
            bytes: None,
        });
    }
    cx.block.waits = 0;
    Flow::Next
}

/// A bulk copy is on its way to the barrier at a lane's address.
///
/// # Errors
///
/// There is no barrier.
pub fn bulk(
    cx: &mut Cx<'_>,
    (address, lane): (u64, usize),
    copies: Vec<Pending>,
    bytes: u32,
) -> Result<(), Flow> {
    let at = object(cx, address, lane)?;
    let warp = cx.warp.index as usize;
    if let Some(barrier) = cx.block.mbarriers.get_mut(&at) {
        barrier.due.push(Due {
            warp,
            copies,
            bytes: Some(bytes),
        });
    }
    cx.block.waits = 0;
    Ok(())
}

/// Copies that a barrier waits for land, and arrive.
fn land_due(cx: &mut Cx<'_>, at: u32) {
    let due = match cx.block.mbarriers.get_mut(&at) {
        Some(barrier) => std::mem::take(&mut barrier.due),
        None => return,
    };
    for Due {
        warp: w,
        copies,
        bytes,
    } in due
    {
        copies.iter().for_each(|c| c.land(cx, w, c.mask()));
        let clocks = cx.block.watch.clocks(w);
        if let Some(barrier) = cx.block.mbarriers.get_mut(&at) {
            match bytes {
                Some(bytes) => barrier.complete(bytes, &clocks),
                None => barrier.arrive(1, &clocks),
            }
        }
        cx.block.waits = 0;
        cx.block.watch.tick(w);
    }
}

impl BlockState {
    /// A warp's lanes wait for all their copies: those that barriers wait for land, too. They arrive later.
    pub fn copies_due(&mut self, warp: usize, mask: u32) -> Vec<Pending> {
        let mut found = Vec::new();
        let due = self.mbarriers.values_mut().flat_map(|b| &mut b.due);
        // Bulk copies are in no group.
        for due in due.filter(|d| d.warp == warp && d.bytes.is_none()) {
            for copy in &mut due.copies {
                found.extend(copy.split(mask));
            }
            due.copies.retain(|c| c.mask() != 0);
        }
        found
    }
}
