//! `cp.async`: bytes are read at once and land at the wait that covers them.

use super::access::{addresses, imm};
use super::cx::{Cx, FULL, Flow, Inst, NONE, lanes};
use super::global::{self, Plan, Use};
use super::race::IN_FLIGHT;
use super::shared;

/// One instruction's copies.
#[derive(Clone, Debug)]
pub struct Pending {
    /// Lanes whose bytes have not landed.
    mask: u32,
    to: [u32; 32],
    bytes: u32,
    data: [u8; 512],
    /// Each lane's group: how many it had committed at issue.
    group: [u32; 32],
}

/// A warp's copies on their way.
#[derive(Debug, Default)]
pub struct Copies {
    pending: Vec<Pending>,
    commits: [u32; 32],
}

impl Pending {
    /// Lanes whose bytes have not landed.
    pub fn mask(&self) -> u32 {
        self.mask
    }

    /// Takes lanes out, as copies of their own.
    pub fn split(&mut self, mask: u32) -> Option<Pending> {
        let mask = self.mask & mask;
        self.mask &= !mask;
        (mask != 0).then(|| Pending {
            mask,
            ..self.clone()
        })
    }

    /// A warp's bytes land for these lanes.
    pub fn land(&self, cx: &mut Cx<'_>, w: usize, mask: u32) {
        let bytes = self.bytes as usize;
        let shift = cx.block.watch.shift;
        for l in lanes(mask) {
            let at = self.to[l] as usize;
            cx.block.shared[at..at + bytes].copy_from_slice(&self.data[l * bytes..(l + 1) * bytes]);
            cx.block.valid[at..at + bytes].fill(1);
            if !cx.launch.options.fast {
                cx.block
                    .watch
                    .land(w, l as u32, at >> shift, ((at + bytes - 1) >> shift) + 1);
            }
        }
    }
}

impl Copies {
    /// Takes out a lane's copies, committed or not.
    pub fn take(&mut self, lane: usize) -> Vec<Pending> {
        let taken = self.pending.iter_mut().filter_map(|c| c.split(1 << lane));
        let taken = taken.collect();
        self.pending.retain(|c| c.mask != 0);
        taken
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.pending.clear();
        self.commits = [0; 32];
    }
}

/// `cp.async`: row `a` and the offset give the target, row `b` the source (offset in `list[0]`), row `c` the
/// bytes that are read (`NONE`: all); `d` is the predicate to ignore the source. `list[1]` is the size.
///
/// # Safety
///
/// The rows exist.
pub unsafe fn issue(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Flow {
    let to = addresses(cx, i);
    let (offset, bytes) = (i64::from(cx.item(i, 0) as i32) as u64, cx.item(i, 1));
    let from = cx.get::<u64>(i.b).map(|a| a.wrapping_add(offset));
    let sizes = if i.c == NONE {
        [bytes; 32]
    } else {
        cx.get::<u32>(i.c)
    };
    let ignored = if i.d == NONE {
        0
    } else {
        cx.get_pred(i.d) ^ if i.imm & imm::NARROW != 0 { FULL } else { 0 }
    };
    let (mut whole, mut partial) = (0, 0);
    for l in lanes(m & !ignored) {
        whole |= u32::from(sizes[l] >= bytes) << l;
        partial |= u32::from(sizes[l] > 0 && sizes[l] < bytes) << l;
    }
    let mut copy = Pending {
        group: cx.warp.copies.commits,
        ..Pending::new(m, bytes)
    };
    if whole != 0 {
        match global::access(cx, &from, whole, bytes, Use::Read) {
            // SAFETY: the plan's bytes are there.
            Ok(Plan::Run(at)) => unsafe {
                std::ptr::copy_nonoverlapping(at, copy.data.as_mut_ptr(), 32 * bytes as usize);
            },
            Ok(Plan::Lanes(at)) => {
                for l in lanes(whole) {
                    // SAFETY: as above.
                    unsafe {
                        std::ptr::copy_nonoverlapping(
                            at[l],
                            copy.data.as_mut_ptr().add(l * bytes as usize),
                            bytes as usize,
                        )
                    };
                }
            }
            Err(flow) => return flow,
        }
    }
    for l in lanes(partial) {
        for n in 0..sizes[l] as usize {
            let byte = from.map(|a| a + n as u64);
            match global::access(cx, &byte, 1 << l, 1, Use::Read) {
                // SAFETY: as above.
                Ok(Plan::Lanes(at)) => copy.data[l * bytes as usize + n] = unsafe { *at[l] },
                Ok(Plan::Run(_)) => {}
                Err(flow) => return flow,
            }
        }
    }
    target(cx, &to, m, copy)
}

/// Claims the target's bytes and queues the copy.
fn target(cx: &mut Cx<'_>, to: &[u64; 32], m: u32, mut copy: Pending) -> Flow {
    if let Err(flow) = copy.claim(cx, to, m) {
        return flow;
    }
    cx.warp.copies.pending.push(copy);
    Flow::Next
}

impl Pending {
    /// Nothing for these lanes, `bytes` bytes each, in no group.
    pub fn new(mask: u32, bytes: u32) -> Pending {
        Pending {
            mask,
            to: [0; 32],
            bytes,
            data: [0; 512],
            group: [0; 32],
        }
    }

    /// A lane's bytes.
    pub fn bytes(&mut self, lane: usize) -> &mut [u8] {
        let n = self.bytes as usize;
        &mut self.data[lane * n..(lane + 1) * n]
    }

    /// Claims the target's bytes.
    ///
    /// # Errors
    ///
    /// They do not exist.
    pub fn claim(&mut self, cx: &mut Cx<'_>, to: &[u64; 32], m: u32) -> Result<(), Flow> {
        let copy = self;
        let w = cx.warp.index as usize;
        let bytes = copy.bytes;
        for l in lanes(m) {
            let at = shared::bounds(cx, to[l], bytes, l, Use::Write)?;
            copy.to[l] = at as u32;
            if cx.launch.options.fast {
                continue;
            }
            let shift = cx.block.watch.shift;
            let (first, end) = (at >> shift, ((at + bytes as usize - 1) >> shift) + 1);
            if let Some(wrong) =
                cx.block
                    .watch
                    .write(w, l as u32, first, end, Use::Write, Some(IN_FLIGHT))
            {
                cx.shared_wrong(wrong, l, at as u32, "asynchronous write");
            }
        }
        let line = &mut cx.counts.lines[cx.pc as usize];
        line.shared += 1;
        let waves = u64::from((m.count_ones() * bytes).div_ceil(128));
        line.waves += waves;
        line.ideal += waves;
        Ok(())
    }
}

/// `cp.async.commit_group`.
///
/// # Safety
///
/// None beyond the context's.
pub unsafe fn commit(cx: &mut Cx<'_>, _: &Inst, m: u32) -> Flow {
    for l in lanes(m) {
        cx.warp.copies.commits[l] += 1;
    }
    Flow::Next
}

/// `cp.async.wait_group imm`; all ones wait for everything, committed or not.
///
/// # Safety
///
/// None beyond the context's.
pub unsafe fn wait(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Flow {
    let all = i.imm == u64::MAX;
    let w = cx.warp.index as usize;
    if !cx.block.mbarriers.is_empty() && (all || i.imm == 0) {
        for copy in cx.block.copies_due(w, m) {
            copy.land(cx, w, copy.mask);
        }
    }
    let mut copies = std::mem::take(&mut cx.warp.copies);
    for copy in &mut copies.pending {
        let mut landing = 0;
        for l in lanes(copy.mask & m) {
            landing |=
                u32::from(all || u64::from(copy.group[l]) + i.imm < u64::from(copies.commits[l]))
                    << l;
        }
        copy.land(cx, w, landing);
        copy.mask &= !landing;
    }
    copies.pending.retain(|c| c.mask != 0);
    cx.warp.copies = copies;
    Flow::Next
}
