//! Accesses to shared memory: bounds, alignment, initialisation, races, bank conflicts.

use super::cx::{Cx, Flow, lanes};
use super::global::{Plan, Use, consecutive};
use crate::check::Kind;
use crate::count::distinct;

/// Checks an access of `bytes` bytes per lane at offsets into shared memory.
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
    let size = cx.block.shared.len() as u64;
    let len = u64::from(bytes) * 32;
    if consecutive(addr, m, bytes)
        && first & u64::from(bytes - 1) == 0
        && first < size
        && first + len <= size
    {
        let line = &mut cx.counts.lines[cx.pc as usize];
        let waves = u64::from(bytes.div_ceil(4));
        line.shared += 1;
        line.waves += waves;
        line.ideal += waves;
        let host = cx.block.shared.as_mut_ptr().wrapping_add(first as usize);
        run(cx, first as u32, bytes, how);
        return Ok(Plan::Run(host));
    }
    each(cx, addr, m, bytes, how)
}

/// A consecutive access within bounds.
#[inline(always)]
fn run(cx: &mut Cx<'_>, first: u32, bytes: u32, how: Use) {
    if cx.launch.options.fast {
        return;
    }
    let valid = &mut cx.block.valid[first as usize..(first + 32 * bytes) as usize];
    if how == Use::Write {
        valid.fill(1);
    } else if !valid.iter().fold(true, |all, v| all & (*v == 1)) {
        uninitialised(cx, first, bytes);
    }
    let w = cx.warp.index as usize;
    let watch = &mut cx.block.watch;
    let shift = watch.shift;
    let (mut wrong, mut second) = (None, Vec::new());
    let (mut at, mut lane) = (first, 0);
    while lane < 32 {
        let (from, to) = (
            (at >> shift) as usize,
            ((at + bytes - 1) >> shift) as usize + 1,
        );
        let found = match how {
            Use::Read => watch.read(w, lane, from, to),
            _ => watch.write(w, lane, from, to, how, None),
        };
        if how == Use::Atomic {
            watch.mark_atomic(w, from, to);
        }
        if let Some(found) = found {
            if how == Use::Write {
                second.push((found, lane, at));
            } else {
                wrong = wrong.or(Some((found, lane, at)));
            }
        }
        at += bytes;
        lane += 1;
    }
    if let Some((wrong, lane, at)) = wrong {
        cx.shared_wrong(wrong, lane as usize, at, verb(how));
    }
    for (wrong, lane, at) in second {
        cx.store_wrong(wrong, lane as usize, at);
    }
}

fn verb(how: Use) -> &'static str {
    match how {
        Use::Read => "read",
        Use::Write => "write",
        Use::Atomic => "atomic access",
    }
}

#[cold]
#[inline(never)]
fn uninitialised(cx: &mut Cx<'_>, first: u32, bytes: u32) {
    for l in 0..32 {
        let at = (first + l * bytes) as usize;
        if cx.block.valid[at..at + bytes as usize].contains(&0) {
            cx.block.valid[at..at + bytes as usize].fill(1);
            // What a copy will bring is the in-flight check's business.
            let shift = cx.block.watch.shift;
            let last = (at + bytes as usize - 1) >> shift;
            if !cx.block.watch.in_flight(at >> shift, last + 1)
                && !cx.launch.options.shared_unwritten
            {
                cx.find(
                    Kind::Uninitialised,
                    l as usize,
                    format!("{bytes} bytes of shared memory at offset {at}"),
                );
            }
        }
    }
}

/// Whether a lane's access lies within bounds and is aligned; a finding if not.
///
/// # Errors
///
/// The flow that ends the kernel.
pub fn bounds(cx: &mut Cx<'_>, a: u64, bytes: u32, lane: usize, how: Use) -> Result<usize, Flow> {
    let size = cx.block.shared.len() as u64;
    if a & u64::from(bytes - 1) != 0 {
        cx.find(
            Kind::Misaligned,
            lane,
            format!("shared offset {a:#x} of {bytes} bytes"),
        );
        return Err(cx.die(716));
    }
    if a >= size || a + u64::from(bytes) > size {
        cx.find(
            Kind::OutOfBounds,
            lane,
            format!(
                "{} of {bytes} bytes at offset {a} of {size} bytes of shared memory",
                verb(how)
            ),
        );
        return Err(cx.die(700));
    }
    Ok(a as usize)
}

/// One lane's checks beyond bounds.
pub fn lane(cx: &mut Cx<'_>, at: usize, bytes: u32, code: u32, how: Use) {
    if cx.launch.options.fast {
        return;
    }
    let lane = (code & 31) as usize;
    let w = cx.warp.index as usize;
    let shift = cx.block.watch.shift;
    let (from, to) = (at >> shift, ((at + bytes as usize - 1) >> shift) + 1);
    let valid = &mut cx.block.valid[at..at + bytes as usize];
    if how == Use::Write {
        valid.fill(1);
    } else if valid.contains(&0) {
        valid.fill(1);
        if !cx.block.watch.in_flight(from, to) && !cx.launch.options.shared_unwritten {
            cx.find(
                Kind::Uninitialised,
                lane,
                format!("{bytes} bytes of shared memory at offset {at}"),
            );
        }
    }
    let watch = &mut cx.block.watch;
    let wrong = match how {
        Use::Read => watch.read(w, code, from, to),
        _ => watch.write(w, code, from, to, how, None),
    };
    if how == Use::Atomic {
        watch.mark_atomic(w, from, to);
    }
    match wrong {
        Some(wrong) if how == Use::Write => cx.store_wrong(wrong, lane, at as u32),
        Some(wrong) => cx.shared_wrong(wrong, lane, at as u32, verb(how)),
        None => {}
    }
}

/// Reads rows of 16 bytes for a whole warp (`ldmatrix`): the common case of `bounds` and `lane`, at once.
/// `false` if anything is out of the ordinary, before anything was noted.
#[inline(always)]
pub fn rows(cx: &mut Cx<'_>, addr: &[u64]) -> bool {
    let size = cx.block.shared.len() as u64;
    let mut bad = false;
    for a in addr {
        bad |= a & 15 != 0 || a + 16 > size;
    }
    if bad || cx.launch.options.fast {
        return !bad;
    }
    let mut all = u128::MAX;
    for a in addr {
        // SAFETY: within bounds, as was just checked.
        all &= unsafe {
            cx.block
                .valid
                .as_ptr()
                .add(*a as usize)
                .cast::<u128>()
                .read_unaligned()
        };
    }
    let ones = u128::from_ne_bytes([1; 16]);
    all & ones == ones && cx.block.watch.read_rows(cx.warp.index as usize, addr)
}

#[inline(never)]
fn each(cx: &mut Cx<'_>, addr: &[u64; 32], m: u32, bytes: u32, how: Use) -> Result<Plan, Flow> {
    let mut host = [std::ptr::null_mut(); 32];
    for l in lanes(m) {
        let at = bounds(cx, addr[l], bytes, l, how)?;
        // Lanes that store to one address at once are no race in time: their values are compared instead.
        if how != Use::Write
            || !addr[..l]
                .iter()
                .zip(0..)
                .any(|(a, k)| *a == addr[l] && m >> k & 1 == 1)
        {
            lane(cx, at, bytes, l as u32, how);
        }
        host[l] = cx.block.shared.as_mut_ptr().wrapping_add(at);
    }
    let waves = banks(cx, addr, m, bytes);
    let line = &mut cx.counts.lines[cx.pc as usize];
    line.shared += 1;
    line.waves += u64::from(waves);
    line.ideal += u64::from(ideal(m, bytes));
    Ok(Plan::Lanes(host))
}

/// Wavefronts if no two words shared a bank.
fn ideal(m: u32, bytes: u32) -> u32 {
    let group = group(bytes);
    (0..32 / group)
        .filter(|p| m >> (p * group) & (u32::MAX >> (32 - group)) != 0)
        .count() as u32
}

/// Lanes that are served together: 32 of up to 4 bytes, 16 of 8, 8 of 16.
fn group(bytes: u32) -> u32 {
    match bytes {
        16.. => 8,
        8 => 16,
        _ => 32,
    }
}

/// Wavefronts of an access: per phase the largest number of distinct words in one bank.
fn banks(cx: &mut Cx<'_>, addr: &[u64; 32], m: u32, bytes: u32) -> u32 {
    let first = addr[m.trailing_zeros() as usize & 31];
    let mut delta = [0u32; 32];
    for l in 0..32 {
        delta[l] = if m >> l & 1 == 1 {
            addr[l].wrapping_sub(first) as u32
        } else {
            0
        };
    }
    let key = (m, first as u32 & 127);
    let pattern = &cx.counts.patterns[cx.pc as usize];
    if pattern.key == key && pattern.delta == delta {
        return pattern.value;
    }
    let group = group(bytes);
    let mut waves = 0;
    for phase in 0..32 / group {
        let part = m & (u32::MAX >> (32 - group)) << (phase * group);
        waves += conflicts(lanes(part).map(|l| addr[l] as u32), bytes);
    }
    let pattern = &mut cx.counts.patterns[cx.pc as usize];
    (pattern.key, pattern.delta, pattern.value) = (key, delta, waves);
    waves
}

/// The largest number of distinct words in one bank.
pub fn conflicts(addresses: impl Iterator<Item = u32>, bytes: u32) -> u32 {
    let mut words: Vec<Vec<u32>> = vec![Vec::new(); 32];
    for a in addresses {
        for word in a / 4..=(a + bytes - 1) / 4 {
            words[(word & 31) as usize].push(word);
        }
    }
    words.iter_mut().map(|w| distinct(w)).max().unwrap_or(0)
}
