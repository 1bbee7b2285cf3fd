//! `cp.async.bulk.tensor`.

use super::kernel::Builder;
use super::memory::address;
use super::op::Op;
use crate::count::Class;
use crate::exec::bulk;
use crate::ptx::parse::{Arg, Ins};
use crate::ptx::types::{Space, Ty};

/// `cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [dst], [map, {a, b, c, d}], [barrier]`;
/// `false` for its other forms.
///
/// # Errors
///
/// Wrong operands.
pub fn decode<'a>(b: &mut Builder<'_, 'a>, op: &Op<'a>, ins: &Ins<'a>) -> Result<bool, String> {
    const KNOWN: [&str; 8] = [
        "async",
        "bulk",
        "tensor",
        "shared::cluster",
        "shared::cta",
        "global",
        "tile",
        "mbarrier::complete_tx::bytes",
    ];
    let rank = (1..=5).find(|n| op.has(["1d", "2d", "3d", "4d", "5d"][n - 1]));
    let known = |m: &&str| KNOWN.contains(m) || m.len() == 2 && m.ends_with('d');
    let to_shared = op.mods.iter().position(|m| m.starts_with("shared"))
        < op.mods.iter().position(|m| *m == "global");
    let (Some(rank), true, true) = (rank, to_shared, op.mods.iter().all(known)) else {
        return Ok(false);
    };
    let [dst, Arg::Box(map, at), Arg::Mem(Some(barrier), 0)] = &ins.args[..] else {
        return Err("a target, a map with coordinates, a barrier".to_owned());
    };
    if at.len() != rank {
        return Err(format!("{} coordinates of {rank}", at.len()));
    }
    let mut inst = b.inst(bulk::copy);
    if address(b, &mut inst, dst, Space::Shared)? != Space::Shared {
        return Err("a target in shared memory".to_owned());
    }
    inst.b = b.src(&Arg::Name(map), Ty::U64)?;
    inst.c = b.src(&Arg::Name(barrier), Ty::U32)?;
    let mut list = vec![rank as u32];
    for at in at {
        list.push(b.src(at, Ty::B32)?);
    }
    b.shared_access(16);
    (inst.list, inst.class) = (b.list(&list), Class::Async);
    b.emit(inst);
    Ok(true)
}
