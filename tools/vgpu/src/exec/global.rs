//! Accesses to global memory: bounds, alignment, initialisation, sectors.

use super::cx::{Cx, FULL, Flow, lanes};
pub use super::memory::Region;
use crate::check::Kind;
use crate::count::distinct;
use std::sync::atomic::{AtomicU8, Ordering};

/// What is done with the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Use {
    Read,
    Write,
    Atomic,
}

/// Host addresses of an access that has passed every check.
#[allow(clippy::large_enum_variant)]
pub enum Plan {
    /// All lanes, one behind the other, from here.
    Run(*mut u8),
    /// Each lane by itself; null for those that are not active.
    Lanes([*mut u8; 32]),
}

/// Whether all lanes are active and their addresses follow one another.
#[inline(always)]
pub fn consecutive(addr: &[u64; 32], m: u32, bytes: u32) -> bool {
    let mut off = 0;
    for l in 0..32 {
        off |= addr[l].wrapping_sub(addr[0]) ^ (l as u64 * u64::from(bytes));
    }
    m == FULL && off == 0
}

/// Checks an access of `bytes` bytes per lane and finds its host addresses.
///
/// # Errors
///
/// The flow that ends the kernel, after a finding.
#[inline(always)]
pub fn access(
    cx: &mut Cx<'_>,
    addr: &[u64; 32],
    m: u32,
    bytes: u32,
    how: Use,
) -> Result<Plan, Flow> {
    let first = addr[0];
    if consecutive(addr, m, bytes) && first & u64::from(bytes - 1) == 0 {
        let len = u64::from(bytes) * 32;
        let mut region = cx.regions[cx.pc as usize];
        if first < region.base || first + len > region.end {
            match cx.launch.memory.range(first, len) {
                Some(found) => {
                    cx.regions[cx.pc as usize] = found;
                    region = found;
                }
                None => return each(cx, addr, m, bytes, how),
            }
        }
        run(cx, &region, first, len, how);
        return Ok(Plan::Run(region.host(first)));
    }
    if let Some(at) = ordinary(cx, addr, m, bytes, how) {
        count(cx, addr, m, bytes, how);
        return Ok(Plan::Lanes(at));
    }
    each(cx, addr, m, bytes, how)
}

/// A consecutive access that lies in one region.
#[inline(always)]
fn run(cx: &mut Cx<'_>, region: &Region, first: u64, len: u64, how: Use) {
    let sectors = (first + len - 1) / 32 - first / 32 + 1;
    let line = &mut cx.counts.lines[cx.pc as usize];
    line.requests += 1;
    line.sectors += sectors;
    line.bytes += len;
    if cx.launch.waves.is_some() {
        let from = first / 32;
        // 32 lanes of at most 16 bytes.
        let all: [u64; 17] = std::array::from_fn(|n| from + n as u64);
        note(cx, &all[..sectors as usize], how);
    }
    if cx.launch.options.fast {
        if how != Use::Read {
            written(region, first, len);
        }
        if cx.launch.options.sample == 0 {
            return;
        }
    }
    let offset = first - region.base;
    for s in offset / 32..=(offset + len - 1) / 32 {
        touch(cx, region, s, how);
    }
    if cx.launch.options.fast {
        return;
    }
    if how == Use::Write {
        written(region, first, len);
    } else if !initialised(region, first, len) {
        uninitialised(cx, region, first, len as u32 / 32, 32);
    }
    if !region.races.is_null() {
        for l in 0..32 {
            super::race::global(
                cx,
                region,
                first + l * (len / 32),
                (len / 32) as u32,
                l as usize,
                how,
            );
        }
    }
}

#[inline(always)]
fn written(region: &Region, first: u64, len: u64) {
    // SAFETY: the range lies in the region. Blocks on other threads write the same value.
    unsafe {
        std::ptr::write_bytes(
            region.valid.add((first - region.base) as usize),
            1,
            len as usize,
        )
    };
}

#[inline(always)]
fn initialised(region: &Region, first: u64, len: u64) -> bool {
    let at = region.valid.wrapping_add((first - region.base) as usize);
    let mut all = u64::MAX;
    let words = len / 8;
    for n in 0..words as usize {
        // SAFETY: the range lies in the region.
        all &= unsafe { at.add(8 * n).cast::<u64>().read_unaligned() };
    }
    for n in 8 * words..len {
        // SAFETY: as above.
        all &= unsafe { u64::from(*at.add(n as usize)) } | !0xff;
    }
    all & 0x0101_0101_0101_0101 == 0x0101_0101_0101_0101
}

/// Counts a sector at its first use in this launch.
#[inline(always)]
fn touch(cx: &mut Cx<'_>, region: &Region, sector: u64, how: Use) {
    let epoch = cx.launch.epoch;
    let mark = |n: usize, count: &mut u64| {
        // SAFETY: two bytes were allocated for every sector of the buffer.
        let cell = unsafe { AtomicU8::from_ptr(region.touched.add(sector as usize * 2 + n)) };
        if cell.load(Ordering::Relaxed) != epoch && cell.swap(epoch, Ordering::Relaxed) != epoch {
            *count += 1;
        }
    };
    if how != Use::Write {
        mark(0, &mut cx.counts.read_sectors);
    }
    if how != Use::Read {
        mark(1, &mut cx.counts.written_sectors);
    }
}

#[cold]
#[inline(never)]
fn uninitialised(cx: &mut Cx<'_>, region: &Region, first: u64, bytes: u32, count: u32) {
    for l in 0..count {
        let at = first + u64::from(l * bytes);
        if !initialised(region, at, u64::from(bytes)) {
            let text = format!(
                "{bytes} bytes at {at:#x}, offset {} of the {} bytes of buffer {:#x}",
                at - region.base,
                region.end - region.base,
                region.base
            );
            cx.find(Kind::Uninitialised, l as usize, text);
            // Once: what is made from it would be found again and again.
            written(region, at, u64::from(bytes));
        }
    }
}

/// The shadow of one lane's bytes.
#[inline(always)]
fn valid_lane(at: *const u8, bytes: u32) -> bool {
    // SAFETY: the bytes lie in the region, as their addresses were checked.
    unsafe {
        match bytes {
            4 => at.cast::<u32>().read_unaligned() == 0x0101_0101,
            16 => at.cast::<u128>().read_unaligned() == u128::from_ne_bytes([1; 16]),
            8 => at.cast::<u64>().read_unaligned() == 0x0101_0101_0101_0101,
            2 => at.cast::<u16>().read_unaligned() == 0x0101,
            _ => (0..bytes as usize).all(|n| *at.add(n) == 1),
        }
    }
}

/// Marks one lane's bytes as written.
#[inline(always)]
fn set_lane(at: *mut u8, bytes: u32) {
    // SAFETY: as above.
    unsafe {
        match bytes {
            4 => at.cast::<u32>().write_unaligned(0x0101_0101),
            16 => at
                .cast::<u128>()
                .write_unaligned(u128::from_ne_bytes([1; 16])),
            8 => at.cast::<u64>().write_unaligned(0x0101_0101_0101_0101),
            2 => at.cast::<u16>().write_unaligned(0x0101),
            _ => std::ptr::write_bytes(at, 1, bytes as usize),
        }
    }
}

/// All lanes in one region, aligned and written before: nothing to say. `None` if a closer look is due.
#[inline(always)]
fn ordinary(
    cx: &mut Cx<'_>,
    addr: &[u64; 32],
    m: u32,
    bytes: u32,
    how: Use,
) -> Option<[*mut u8; 32]> {
    let first = addr[m.trailing_zeros() as usize & 31];
    let mut region = cx.regions[cx.pc as usize];
    if first < region.base || first >= region.end {
        region = cx.launch.memory.find(first)?;
        cx.regions[cx.pc as usize] = region;
    }
    // The largest offset at which an access still fits; lanes that are off stand where the first one does.
    let most = (region.end - region.base).checked_sub(u64::from(bytes))?;
    let (mut at, mut bits, mut outside) = ([std::ptr::null_mut(); 32], 0, false);
    let mut offsets = [0u64; 32];
    for l in 0..32 {
        let a = if m >> l & 1 == 1 { addr[l] } else { first };
        bits |= a;
        offsets[l] = a.wrapping_sub(region.base);
        outside |= offsets[l] > most;
        at[l] = region.data.wrapping_add(offsets[l] as usize);
    }
    if outside || bits & u64::from(bytes - 1) != 0 || !region.races.is_null() {
        return None;
    }
    let fast = cx.launch.options.fast;
    let shadow = |offset: u64| region.valid.wrapping_add(offset as usize);
    let mut valid = true;
    if how == Use::Write {
        offsets.iter().for_each(|o| set_lane(shadow(*o), bytes));
    } else if !fast {
        for o in offsets {
            valid &= valid_lane(shadow(o), bytes);
        }
    }
    let mut last = u64::MAX;
    for o in offsets {
        if o / 32 != last && (!fast || cx.launch.options.sample > 0) {
            last = o / 32;
            touch(cx, &region, last, how);
        }
    }
    valid.then_some(at)
}

/// Lane by lane.
#[inline(never)]
fn each(cx: &mut Cx<'_>, addr: &[u64; 32], m: u32, bytes: u32, how: Use) -> Result<Plan, Flow> {
    let mut at = [std::ptr::null_mut(); 32];
    let mut region = cx.regions[cx.pc as usize];
    let fast = cx.launch.options.fast;
    for l in lanes(m) {
        let a = addr[l];
        if a & u64::from(bytes - 1) != 0 {
            cx.find(
                Kind::Misaligned,
                l,
                format!("address {a:#x} of {bytes} bytes"),
            );
            return Err(cx.die(716));
        }
        if a < region.base
            || a.wrapping_add(u64::from(bytes)) > region.end
            || a.wrapping_add(u64::from(bytes)) < a
        {
            region = match cx.launch.memory.find(a) {
                Some(found) if a + u64::from(bytes) <= found.end => found,
                _ => return Err(outside(cx, a, bytes, l, how)),
            };
        }
        at[l] = region.host(a);
        if fast {
            if how != Use::Read {
                written(&region, a, u64::from(bytes));
            }
            if cx.launch.options.sample > 0 {
                touch(cx, &region, (a - region.base) / 32, how);
            }
            continue;
        }
        touch(cx, &region, (a - region.base) / 32, how);
        if how == Use::Write {
            written(&region, a, u64::from(bytes));
        } else if !initialised(&region, a, u64::from(bytes)) {
            uninitialised_lane(cx, &region, a, bytes, l);
        }
        if !region.races.is_null() {
            super::race::global(cx, &region, a, bytes, l, how);
        }
    }
    cx.regions[cx.pc as usize] = region;
    count(cx, addr, m, bytes, how);
    Ok(Plan::Lanes(at))
}

#[cold]
fn uninitialised_lane(cx: &mut Cx<'_>, region: &Region, a: u64, bytes: u32, lane: usize) {
    let text = format!(
        "{bytes} bytes at {a:#x}, offset {} of the {} bytes of buffer {:#x}",
        a - region.base,
        region.end - region.base,
        region.base
    );
    cx.find(Kind::Uninitialised, lane, text);
    written(region, a, u64::from(bytes));
}

/// Notes a request for the caches.
#[cold]
#[inline(never)]
fn note(cx: &mut Cx<'_>, sectors: &[u64], how: Use) {
    let bypass = cx.kernel.code[cx.pc as usize].imm & super::access::imm::BYPASS != 0;
    let warp = cx.warp.index as usize;
    cx.block.trace.request(warp, sectors, how, bypass);
}

/// Notes a request whose lanes are scattered: each sector once.
#[cold]
#[inline(never)]
fn note_lanes(cx: &mut Cx<'_>, addr: &[u64; 32], m: u32, how: Use) {
    let (mut sectors, mut n) = ([0; 32], 0);
    for l in lanes(m) {
        let sector = addr[l] / 32;
        if !sectors[..n].contains(&sector) {
            sectors[n] = sector;
            n += 1;
        }
    }
    note(cx, &sectors[..n], how);
}

/// The request's sectors, from the last pattern where it repeats.
#[inline(always)]
fn count(cx: &mut Cx<'_>, addr: &[u64; 32], m: u32, bytes: u32, how: Use) {
    if cx.launch.waves.is_some() {
        note_lanes(cx, addr, m, how);
    }
    let first = addr[m.trailing_zeros() as usize & 31];
    let mut delta = [0u32; 32];
    for l in 0..32 {
        delta[l] = if m >> l & 1 == 1 {
            addr[l].wrapping_sub(first) as u32
        } else {
            0
        };
    }
    let key = (m, first as u32 & 31);
    let pattern = &mut cx.counts.patterns[cx.pc as usize];
    if pattern.key != key || pattern.delta != delta {
        let mut sectors = [0u32; 32];
        let mut n = 0;
        for l in lanes(m) {
            sectors[n] = (addr[l] / 32) as u32;
            n += 1;
        }
        (pattern.key, pattern.delta) = (key, delta);
        pattern.value = distinct(&mut sectors[..n]);
    }
    let line = &mut cx.counts.lines[cx.pc as usize];
    line.requests += 1;
    line.sectors += u64::from(pattern.value);
    line.bytes += u64::from(bytes * m.count_ones());
}

#[cold]
fn outside(cx: &mut Cx<'_>, address: u64, bytes: u32, lane: usize, how: Use) -> Flow {
    let place = cx.launch.memory.describe(address);
    let kind = if place.contains("freed") {
        Kind::UseAfterFree
    } else {
        Kind::OutOfBounds
    };
    let what = match how {
        Use::Read => "read",
        Use::Write => "write",
        Use::Atomic => "atomic access",
    };
    cx.find(
        kind,
        lane,
        format!("{what} of {bytes} bytes at {address:#x}, {place}"),
    );
    cx.die(700)
}
