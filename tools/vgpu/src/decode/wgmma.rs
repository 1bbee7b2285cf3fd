//! `wgmma`: products of a warpgroup.

use super::kernel::Builder;
use super::op::Op;
use crate::count::Class;
use crate::exec::wgmma;
use crate::ptx::parse::{Arg, Ins};
use crate::ptx::types::Ty;

/// Time of a product in sixteenths of what the device's table calls the rate of `mma.sync` (its `mma_share`, 0.62 of the
/// tensor cores' own on an H100).
const COST: u32 = 10;

/// Decodes an instruction of this file; `false` if it is none.
///
/// # Errors
///
/// Wrong operands.
pub fn decode<'a>(b: &mut Builder<'_, 'a>, op: &Op<'a>, ins: &Ins<'a>) -> Result<bool, String> {
    let mut inst = match op.full {
        "wgmma.fence.sync.aligned" => b.inst(wgmma::fence),
        "wgmma.commit_group.sync.aligned" => b.inst(wgmma::commit),
        "wgmma.wait_group.sync.aligned" => b.inst(wgmma::wait),
        _ => return product(b, op, ins),
    };
    inst.class = Class::Async;
    inst.imm = match ins.args.first() {
        Some(Arg::Int(n)) => *n,
        _ => 0,
    };
    b.emit(inst);
    Ok(true)
}

/// `wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {d..}, a, b, p, 1, 1, ta, tb`: both operands in shared memory.
fn product<'a>(b: &mut Builder<'_, 'a>, op: &Op<'a>, ins: &Ins<'a>) -> Result<bool, String> {
    let shape = op
        .mods
        .iter()
        .find_map(|m| m.strip_prefix("m64n")?.strip_suffix("k16"));
    let n = shape
        .and_then(|n| n.parse::<u32>().ok())
        .filter(|n| n % 8 == 0 && (8..=256).contains(n));
    let bf16 = op.full.ends_with(".f32.bf16.bf16");
    let (Some(n), true, true) = (
        n,
        bf16 || op.full.ends_with(".f32.f16.f16"),
        op.has("mma_async"),
    ) else {
        return Ok(false);
    };
    let [Arg::Vec(d), a, b_matrix, add, numbers @ ..] = &ins.args[..] else {
        return Err("sums, two matrices, a predicate".to_owned());
    };
    let [
        Arg::Int(scale_a),
        Arg::Int(scale_b),
        Arg::Int(ta),
        Arg::Int(tb),
    ] = numbers
    else {
        return Err("two signs, two transpositions".to_owned());
    };
    if d.len() != n as usize / 2 {
        return Err(format!("{} registers where {} are due", d.len(), n / 2));
    }
    let sign = |s: &u64| u32::from(*s as i64 == -1);
    let negative = sign(scale_a) ^ sign(scale_b);
    let flags = *ta as u32 | (*tb as u32) << 1 | negative << 2 | u32::from(bf16) << 3;
    let mut list = vec![n, flags];
    for d in d {
        list.push(b.dst(d, Ty::B32)?);
    }
    let mut inst = b.inst(wgmma::product);
    (inst.a, inst.c) = (b.src(a, Ty::B64)?, b.src(b_matrix, Ty::B64)?);
    let (row, not) = b.pred(add)?;
    if not {
        return Err("a predicate as it is".to_owned());
    }
    inst.d = row;
    (inst.list, inst.class) = (b.list(&list), Class::Tensor);
    // A warp's multiply-adds, and how dear they are.
    (inst.imm, inst.b) = (u64::from(16 * n * 16), COST);
    b.shared_access(16);
    b.emit(inst);
    Ok(true)
}
