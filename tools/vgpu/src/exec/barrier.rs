//! Barriers of a block and collectives of a warp.

use super::block::BlockState;
use super::cx::{Cx, FULL, Flow, Inst, NONE, Run, Stop, lanes};
use super::warp::Warp;
use crate::check::Kind;

/// How a `bar.red` combines its predicates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Reduce {
    None = 0,
    Count = 1,
    And = 2,
    Or = 3,
}

/// A warp that waits at a barrier.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    warp: usize,
    mask: u32,
    reduce: Reduce,
    /// Row of the result.
    row: u32,
}

/// One of a block's sixteen barriers.
#[derive(Debug, Default)]
pub struct Barrier {
    threads: u32,
    /// Threads expected; 0: all of the block.
    expected: u32,
    waiting: Vec<Waiting>,
    clocks: Vec<u32>,
    count: u32,
    all: bool,
    any: bool,
}

/// Immediate of a barrier instruction: the reduction in bits 0-1.
pub mod imm {
    /// Arrive without waiting.
    pub const ARRIVE: u64 = 4;
    /// The predicate is negated.
    pub const NOT: u64 = 8;
}

/// `bar`: row `a` the barrier, row `b` the threads (`NONE`: all), `c` a predicate, `d` the result.
///
/// # Safety
///
/// The rows exist.
pub unsafe fn bar(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Flow {
    if !cx.gather(cx.warp.live) {
        return Flow::Jump;
    }
    let lane = m.trailing_zeros() as usize;
    if !whole(cx, m) {
        return cx.die(719);
    }
    let id = cx.get::<u32>(i.a)[lane];
    if id > 15 {
        cx.find(Kind::Barrier, lane, format!("barrier {id} of 16"));
        return cx.die(719);
    }
    let expected = if i.b == NONE {
        0
    } else {
        cx.get::<u32>(i.b)[lane]
    };
    let reduce = [Reduce::None, Reduce::Count, Reduce::And, Reduce::Or][(i.imm & 3) as usize];
    let w = cx.warp.index as usize;
    let barrier = &mut cx.block.barriers[id as usize];
    if barrier.threads > 0 && barrier.expected != expected {
        let text = format!(
            "barrier {id} expects {expected} threads here, {} where others wait (0: all)",
            barrier.expected
        );
        cx.find(Kind::Barrier, lane, text);
        return cx.die(719);
    }
    barrier.arrive(expected, &cx.block.watch.clocks(w));
    cx.block.watch.tick(w);
    if reduce != Reduce::None {
        let p = cx.get_pred(i.c) ^ if i.imm & imm::NOT != 0 { FULL } else { 0 };
        let barrier = &mut cx.block.barriers[id as usize];
        barrier.count += (p & m).count_ones();
        barrier.all &= p & m == m;
        barrier.any |= p & m != 0;
    }
    cx.pc += 1;
    if i.imm & imm::ARRIVE != 0 {
        return Flow::Jump;
    }
    cx.block.barriers[id as usize].waiting.push(Waiting {
        warp: w,
        mask: m,
        reduce,
        row: i.d,
    });
    cx.warp.waiting = true;
    cx.stop = Stop::Barrier;
    Flow::Stop
}

/// Whether the whole warp is at the barrier; findings if not. Lanes that have left are only that.
fn whole(cx: &mut Cx<'_>, m: u32) -> bool {
    let lane = m.trailing_zeros() as usize;
    if cx.forced || m != cx.mask {
        let rest = cx.warp.live & !m;
        let lines: Vec<String> = cx.warp.others.iter().map(|f| cx.place(f.pc)).collect();
        let text = format!(
            "lanes {m:#010x} are here, lanes {rest:#010x} are not (they wait at {})",
            lines.join(", ")
        );
        cx.find(Kind::Barrier, lane, text);
        return false;
    }
    if cx.warp.live != cx.warp.first {
        let gone = cx.warp.first & !cx.warp.live;
        let text = format!("lanes {gone:#010x} of the warp have left the kernel");
        cx.find(Kind::Barrier, lane, text);
    }
    true
}

impl Barrier {
    fn arrive(&mut self, expected: u32, clocks: &[u32]) {
        if self.threads == 0 {
            (self.expected, self.count, self.all, self.any) = (expected, 0, true, false);
            self.clocks = clocks.to_vec();
        }
        self.threads += 32;
        for (mine, theirs) in self.clocks.iter_mut().zip(clocks) {
            *mine = (*mine).max(*theirs);
        }
    }

    /// Whether a warp waits here.
    pub fn holds(&self, warp: usize) -> bool {
        self.waiting.iter().any(|w| w.warp == warp)
    }
}

/// Opens every barrier that is complete. `true` if one was.
pub fn release(block: &mut BlockState, warps: &mut [Warp]) -> bool {
    let alive = warps.iter().filter(|w| !w.done).count() as u32 * 32;
    let mut opened = false;
    for barrier in &mut block.barriers {
        let expected = if barrier.expected == 0 {
            alive
        } else {
            barrier.expected
        };
        if barrier.threads == 0 || barrier.threads < expected {
            continue;
        }
        opened = true;
        let clocks = std::mem::take(&mut barrier.clocks);
        for w in std::mem::take(&mut barrier.waiting) {
            let warp = &mut warps[w.warp];
            warp.waiting = false;
            block.watch.learn(w.warp, &clocks);
            match w.reduce {
                Reduce::None => {}
                Reduce::Count => {
                    let row = &mut warp.r32[w.row as usize];
                    lanes(w.mask).for_each(|l| row[l] = barrier.count);
                }
                Reduce::And | Reduce::Or => {
                    let value = if w.reduce == Reduce::And {
                        barrier.all
                    } else {
                        barrier.any
                    };
                    let p = &mut warp.pred[w.row as usize];
                    *p = if value { *p | w.mask } else { *p & !w.mask };
                }
            }
        }
        barrier.threads = 0;
    }
    opened
}

impl Cx<'_> {
    /// A line of the kernel in words.
    pub fn place(&self, pc: u32) -> String {
        let Some(source) = self.kernel.source.get(pc as usize) else {
            return "the end".to_owned();
        };
        if source.line > 0 {
            format!("line {}", source.line)
        } else {
            format!("PTX line {}", source.ptx)
        }
    }

    /// Gets the lanes of a collective together. `None`: not yet. Lanes that do not come are a finding.
    pub fn members(&mut self, members: u32, m: u32) -> Option<u32> {
        if members & !self.mask & self.warp.live != 0 && !self.gather(members) {
            return None;
        }
        let lane = m.trailing_zeros() as usize;
        let missing = members & !m;
        if missing != 0 {
            let gone = missing & !self.warp.live;
            let text = format!(
                "member mask {members:#010x}, but lanes {missing:#010x} are not here ({gone:#010x} have left)"
            );
            self.find(Kind::Collective, lane, text);
        } else if m & !members != 0 {
            self.find(
                Kind::Collective,
                lane,
                format!(
                    "lanes {:#010x} are not in their own member mask {members:#010x}",
                    m & !members
                ),
            );
        }
        Some(members & m)
    }

    fn mask_of(&self, row: u32, m: u32) -> u32 {
        self.get::<u32>(row)[m.trailing_zeros() as usize & 31]
    }
}

/// Runs a collective for each group of lanes that name the same members in `row`.
fn by_mask(cx: &mut Cx<'_>, i: &Inst, m: u32, row: u32, run: Run) -> Flow {
    let masks = cx.get::<u32>(row);
    let group = |left: u32| {
        let members = masks[left.trailing_zeros() as usize];
        lanes(left)
            .filter(|l| masks[*l] == members)
            .fold(0, |s, l| s | 1 << l)
    };
    // All must be there before the first group's results overwrite what another one reads.
    let all = lanes(m).fold(0, |s, l| s | masks[l]);
    if group(m) != m && !cx.gather(all) {
        return Flow::Jump;
    }
    let mut left = m;
    while left != 0 {
        let same = group(left);
        // SAFETY: the caller's rows.
        let flow = unsafe { run(cx, i, same) };
        if flow != Flow::Next {
            return flow;
        }
        left &= !same;
    }
    Flow::Next
}

/// `bar.warp.sync`: row `a` the mask.
///
/// # Safety
///
/// The row exists.
pub unsafe fn warp_sync(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Flow {
    let members = cx.mask_of(i.a, m);
    if cx.members(members, m).is_none() {
        return Flow::Jump;
    }
    let w = cx.warp.index as usize;
    cx.block.watch.tick(w);
    Flow::Next
}

/// `shfl.sync`: `imm` the mode, list: value, lane, clamp, mask, predicate row (`NONE`).
///
/// # Safety
///
/// The rows exist.
pub unsafe fn shfl(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Flow {
    by_mask(cx, i, m, cx.item(i, 3), shfl_group)
}

unsafe fn shfl_group(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Flow {
    let members = cx.mask_of(cx.item(i, 3), m);
    let Some(active) = cx.members(members, m) else {
        return Flow::Jump;
    };
    let (value, b, c) = (
        cx.get::<u32>(cx.item(i, 0)),
        cx.get::<u32>(cx.item(i, 1)),
        cx.get::<u32>(cx.item(i, 2)),
    );
    let (mut d, mut p, mut foreign) = (value, 0, None);
    for l in 0..32u32 {
        let (bval, cval, seg) = (
            b[l as usize] & 31,
            c[l as usize] & 31,
            c[l as usize] >> 8 & 31,
        );
        let max = (l & seg) | (cval & !seg);
        let min = l & seg;
        let (j, inside) = match i.imm {
            0 => (l.wrapping_sub(bval), l as i32 - bval as i32 >= max as i32),
            1 => (l + bval, l + bval <= max),
            2 => (l ^ bval, (l ^ bval) <= max),
            _ => (min | (bval & !seg), (min | (bval & !seg)) <= max),
        };
        if inside {
            p |= 1 << l;
            d[l as usize] = value[(j & 31) as usize];
            if m >> l & 1 == 1 && active >> (j & 31) & 1 == 0 {
                foreign = Some((l, j & 31));
            }
        }
    }
    if let Some((l, j)) = foreign {
        cx.find(
            Kind::Collective,
            l as usize,
            format!("shfl reads lane {j}, which is not taking part (mask {active:#010x})"),
        );
    }
    cx.put(i.d, &d, m);
    let predicate = cx.item(i, 4);
    cx.put_pred(predicate, p, m);
    Flow::Next
}

/// `vote.sync`: `imm` 0 all, 1 any, 2 uni (into predicate `d`), 3 ballot (into row `d`); `a` the
/// predicate, negated by bit 3; `b` the mask.
///
/// # Safety
///
/// The rows exist.
pub unsafe fn vote(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Flow {
    by_mask(cx, i, m, i.b, vote_group)
}

unsafe fn vote_group(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Flow {
    let members = cx.mask_of(i.b, m);
    let Some(active) = cx.members(members, m) else {
        return Flow::Jump;
    };
    let p = (cx.get_pred(i.a) ^ if i.imm & 8 != 0 { FULL } else { 0 }) & active;
    match i.imm & 7 {
        3 => cx.put(i.d, &[p; 32], m),
        mode => {
            let yes = match mode {
                0 => p == active,
                1 => p != 0,
                _ => p == active || p == 0,
            };
            cx.put_pred(i.d, if yes { FULL } else { 0 }, m);
        }
    }
    Flow::Next
}

/// `match.any.sync` (`imm` 0) and `match.all.sync` (1, predicate `c`); 64-bit values with bit 1 set.
///
/// # Safety
///
/// The rows exist.
pub unsafe fn match_lanes(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Flow {
    by_mask(cx, i, m, i.b, match_lanes_group)
}

unsafe fn match_lanes_group(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Flow {
    let members = cx.mask_of(i.b, m);
    let Some(active) = cx.members(members, m) else {
        return Flow::Jump;
    };
    let v: [u64; 32] = if i.imm & 2 != 0 {
        cx.get::<u64>(i.a)
    } else {
        cx.get::<u32>(i.a).map(u64::from)
    };
    let mut d = [0; 32];
    for l in lanes(active) {
        d[l] = lanes(active)
            .filter(|k| v[*k] == v[l])
            .fold(0, |s, k| s | 1 << k);
    }
    if i.imm & 1 == 1 {
        let all = lanes(active).all(|l| d[l] == active);
        cx.put(i.d, &[if all { active } else { 0 }; 32], m);
        cx.put_pred(i.c, if all { FULL } else { 0 }, m);
    } else {
        cx.put(i.d, &d, m);
    }
    Flow::Next
}

/// `redux.sync`: `imm` 0 add, 1 and, 2 or, 3 xor, 4 min, 5 max; bit 3: signed. `a` value, `b` mask.
///
/// # Safety
///
/// The rows exist.
pub unsafe fn redux(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Flow {
    by_mask(cx, i, m, i.b, redux_group)
}

unsafe fn redux_group(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Flow {
    let members = cx.mask_of(i.b, m);
    let Some(active) = cx.members(members, m) else {
        return Flow::Jump;
    };
    let v = cx.get::<u32>(i.a);
    let signed = i.imm & 8 != 0;
    let result = lanes(active).map(|l| v[l]).reduce(|a, b| match i.imm & 7 {
        0 => a.wrapping_add(b),
        1 => a & b,
        2 => a | b,
        3 => a ^ b,
        4 if signed => (a as i32).min(b as i32) as u32,
        4 => a.min(b),
        _ if signed => (a as i32).max(b as i32) as u32,
        _ => a.max(b),
    });
    cx.put(i.d, &[result.unwrap_or(0); 32], m);
    Flow::Next
}

/// `activemask`, and `elect.sync` with its predicate in `c`.
///
/// # Safety
///
/// The rows exist.
pub unsafe fn activemask(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Flow {
    cx.put(i.d, &[cx.mask; 32], m);
    Flow::Next
}

/// `elect.sync d|p, mask`: the lowest member.
///
/// # Safety
///
/// The rows exist.
pub unsafe fn elect(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Flow {
    by_mask(cx, i, m, i.b, elect_group)
}

unsafe fn elect_group(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Flow {
    let members = cx.mask_of(i.b, m);
    let Some(active) = cx.members(members, m) else {
        return Flow::Jump;
    };
    let leader = active.trailing_zeros();
    cx.put(i.d, &[leader; 32], m);
    cx.put_pred(i.c, 1 << (leader & 31), m);
    Flow::Next
}
