//! `cp.async.bulk.tensor`: a thread has a box of a tensor copied to shared memory. Its bytes are read at once and land
//! when somebody waits for the barrier that they arrive at.

use super::access::addresses;
use super::asynch::Pending;
use super::cx::{Cx, Flow, Inst, lanes};
use super::global::{self, Plan, Use};
use super::mbarrier;
use super::memory::{PARAM_BASE, SHARED_BASE, WINDOW};
use crate::check::Kind;
use crate::tensor_map::TensorMap;

/// Bytes that move at once.
const CHUNK: u64 = 16;

/// Row `a` and the offset give the target, row `b` the map's address, row `c` the barrier; the list has the number of
/// coordinates and their rows, innermost first.
///
/// # Safety
///
/// The rows exist.
pub unsafe fn copy(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Flow {
    let (to, maps) = (addresses(cx, i), cx.get::<u64>(i.b));
    let (barriers, rank) = (cx.get::<u32>(i.c), cx.item(i, 0) as usize);
    for l in lanes(m) {
        let mut at = [0; 5];
        for (n, at) in at.iter_mut().enumerate().take(rank) {
            *at = i64::from(cx.get::<u32>(cx.item(i, 1 + n as u32))[l] as i32);
        }
        let moved = map(cx, maps[l], rank, l)
            .and_then(|map| boxed(cx, &map, at, offset(to[l]), l).map(|copies| (map, copies)))
            .and_then(|(map, copies)| {
                let barrier = (u64::from(barriers[l]), l);
                mbarrier::bulk(cx, barrier, copies, map.bytes() as u32)
            });
        if let Err(flow) = moved {
            return flow;
        }
    }
    Flow::Next
}

/// An address of shared memory as an offset.
fn offset(address: u64) -> u64 {
    let inside = address.wrapping_sub(SHARED_BASE);
    if inside < WINDOW { inside } else { address }
}

/// The map at a generic address: one of the parameters.
fn map(cx: &mut Cx<'_>, address: u64, rank: usize, lane: usize) -> Result<TensorMap, Flow> {
    let at = address.wrapping_sub(PARAM_BASE) as usize;
    let found = cx.launch.params.get(at..).and_then(|p| p.get(..128));
    let wrong = match found.and_then(TensorMap::read) {
        _ if !address.is_multiple_of(64) => {
            format!("a tensor map at {address:#x}, no multiple of 64")
        }
        Some(map) if map.rank == rank => return Ok(map),
        Some(map) => format!("a copy of {rank} dimensions with a map of {}", map.rank),
        None => format!("no tensor map among the parameters at {address:#x}"),
    };
    cx.find(Kind::Other, lane, wrong);
    Err(cx.die(715))
}

/// The box at these coordinates, on its way to offset `to` of shared memory.
fn boxed(
    cx: &mut Cx<'_>,
    map: &TensorMap,
    at: [i64; 5],
    to: u64,
    lane: usize,
) -> Result<Vec<Pending>, Flow> {
    if at[0] * map.element as i64 % CHUNK as i64 != 0 {
        let text = format!(
            "a box that begins {} bytes into a row: whole sixteens are supported",
            at[0]
        );
        cx.find(Kind::Other, lane, text);
        return Err(cx.die(719));
    }
    let row = map.element * u64::from(map.boxes[0]);
    let unit = if map.swizzled { 1024 } else { 128 };
    if !to.is_multiple_of(unit) {
        let text = format!("a bulk copy to shared offset {to:#x}, no multiple of {unit}");
        cx.find(Kind::Misaligned, lane, text);
        return Err(cx.die(716));
    }
    let chunks = map.bytes() / CHUNK;
    let mut copies = Vec::new();
    for first in (0..chunks).step_by(32) {
        let mask = u32::MAX >> (32 - (chunks - first).min(32));
        let (mut from, mut target, mut inside) = ([0; 32], [0; 32], [0; 32]);
        for l in lanes(mask) {
            let byte = (first + l as u64) * CHUNK;
            target[l] = swizzle(map, to + byte);
            (from[l], inside[l]) = source(map, at, byte / row, byte % row);
        }
        let mut copy = Pending::new(mask, CHUNK as u32);
        read(cx, &mut copy, &from, &inside)?;
        copy.claim(cx, &target, mask)?;
        copies.push(copy);
    }
    Ok(copies)
}

fn swizzle(map: &TensorMap, p: u64) -> u64 {
    if map.swizzled {
        p ^ (p >> 7 & 7) << 4
    } else {
        p
    }
}

/// Where a chunk of row `row` of the box comes from, and how many of its bytes lie inside of the tensor.
fn source(map: &TensorMap, at: [i64; 5], row: u64, byte: u64) -> (u64, u64) {
    let (mut rest, mut address, mut inside) = (row, map.base, true);
    for n in 1..map.rank {
        let size = u64::from(map.boxes[n]);
        let place = at[n] + (rest % size) as i64;
        rest /= size;
        inside &= (0..map.sizes[n] as i64).contains(&place);
        address = address.wrapping_add((place as u64).wrapping_mul(map.strides[n - 1]));
    }
    let first = at[0] * map.element as i64 + byte as i64;
    let end = (map.sizes[0] * map.element) as i64;
    let bytes = if first < 0 {
        0
    } else {
        (end - first).clamp(0, CHUNK as i64)
    };
    let count = if inside { bytes as u64 } else { 0 };
    (address.wrapping_add(first as u64), count)
}

/// Reads what lies inside; the rest is zeros.
fn read(
    cx: &mut Cx<'_>,
    copy: &mut Pending,
    from: &[u64; 32],
    inside: &[u64; 32],
) -> Result<(), Flow> {
    let whole = (0..32).fold(0, |m, l| m | u32::from(inside[l] == CHUNK) << l);
    let mut take = |cx: &mut Cx<'_>, from: &[u64; 32], mask: u32, at: usize, bytes: u32| {
        let plan = global::access(cx, from, mask, bytes, Use::Read)?;
        for l in lanes(mask) {
            let p: *const u8 = match plan {
                Plan::Run(first) => first.wrapping_add(l * bytes as usize),
                Plan::Lanes(hosts) => hosts[l],
            };
            // SAFETY: the plan's bytes are there.
            let bytes = unsafe { std::slice::from_raw_parts(p, bytes as usize) };
            copy.bytes(l)[at..at + bytes.len()].copy_from_slice(bytes);
        }
        Ok(())
    };
    if whole != 0 {
        take(cx, from, whole, 0, CHUNK as u32)?;
    }
    for l in (0..32).filter(|l| (1..CHUNK).contains(&inside[*l])) {
        for n in 0..inside[l] {
            take(cx, &from.map(|a| a + n), 1 << l, n as usize, 1)?;
        }
    }
    Ok(())
}
