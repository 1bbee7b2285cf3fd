//! `mbarrier`, and the arrivals of asynchronous copies.

use super::kernel::Builder;
use super::memory::address;
use super::op::Op;
use crate::count::Class;
use crate::exec::cx::NONE;
use crate::exec::mbarrier::{self, how};
use crate::exec::ops::op1;
use crate::ptx::parse::{Arg, Ins};
use crate::ptx::types::{Space, Ty};

/// Decodes an instruction of this file; `false` if it is none.
///
/// # Errors
///
/// Wrong operands or a form that does not exist.
pub fn decode<'a>(b: &mut Builder<'_, 'a>, op: &Op<'a>, ins: &Ins<'a>) -> Result<bool, String> {
    match op.base {
        "cp" if op.has("async") && op.has("mbarrier") => copies(b, op, ins),
        "mbarrier" if op.has("init") || op.has("inval") => begin(b, op, ins),
        "mbarrier" if op.has("complete_tx") => Ok(false),
        "mbarrier" if op.has("expect_tx") && !op.has("arrive") => expect(b, ins),
        "mbarrier" if op.has("arrive") || op.has("arrive_drop") => arrive(b, op, ins),
        "mbarrier" if op.has("test_wait") || op.has("try_wait") => wait(b, op, ins),
        "mbarrier" if op.has("pending_count") => {
            let [dst, state] = &ins.args[..] else {
                return Err("a result and a state".to_owned());
            };
            let mut inst = b.inst(op1(mbarrier::pending_count));
            (inst.d, inst.a) = (b.dst(dst, Ty::B32)?, b.src(state, Ty::B64)?);
            inst.class = Class::Barrier;
            b.emit(inst);
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// Emits an instruction on the barrier at `place`.
fn emit<'a>(
    b: &mut Builder<'_, 'a>,
    mut inst: crate::exec::cx::Inst,
    place: &Arg<'a>,
    list: &[u32],
) -> Result<bool, String> {
    // A generic address is one of the shared window.
    if address(b, &mut inst, place, Space::Shared)? != Space::Shared {
        return Err("an address in shared memory".to_owned());
    }
    b.shared_access(8);
    inst.class = Class::Barrier;
    inst.list = b.list(list);
    b.emit(inst);
    Ok(true)
}

fn begin<'a>(b: &mut Builder<'_, 'a>, op: &Op<'a>, ins: &Ins<'a>) -> Result<bool, String> {
    let (place, run): (_, crate::exec::cx::Run) = match (&ins.args[..], op.has("init")) {
        ([place, _], true) => (place, mbarrier::init),
        ([place], false) => (place, mbarrier::inval),
        _ => return Err("an address, and a count for init".to_owned()),
    };
    let mut inst = b.inst(run);
    if let Some(count) = ins.args.get(1) {
        inst.b = b.src(count, Ty::U32)?;
    }
    emit(b, inst, place, &[0])
}

fn arrive<'a>(b: &mut Builder<'_, 'a>, op: &Op<'a>, ins: &Ins<'a>) -> Result<bool, String> {
    let (dst, place, count) = match &ins.args[..] {
        [place @ Arg::Mem(..)] => (None, place, None),
        [place @ Arg::Mem(..), count] => (None, place, Some(count)),
        [dst, place] => (Some(dst), place, None),
        [dst, place, count] => (Some(dst), place, Some(count)),
        _ => return Err("a state, an address, a count".to_owned()),
    };
    let mut inst = b.inst(mbarrier::arrive);
    inst.d = match dst {
        None | Some(Arg::Name("_")) => NONE,
        Some(dst) => b.dst(dst, Ty::B64)?,
    };
    let count = match count {
        Some(count) => b.src(count, Ty::U32)?,
        None => NONE,
    };
    // With expect_tx the number is one of bytes.
    (inst.b, inst.c) = if op.has("expect_tx") {
        (NONE, count)
    } else {
        (count, NONE)
    };
    let flags = if op.has("noComplete") {
        how::NO_COMPLETE
    } else {
        0
    } | if op.has("arrive_drop") { how::DROP } else { 0 };
    emit(b, inst, place, &[flags])
}

fn expect<'a>(b: &mut Builder<'_, 'a>, ins: &Ins<'a>) -> Result<bool, String> {
    let [place, bytes] = &ins.args[..] else {
        return Err("an address and a number of bytes".to_owned());
    };
    let mut inst = b.inst(mbarrier::expect);
    inst.c = b.src(bytes, Ty::U32)?;
    emit(b, inst, place, &[0])
}

fn wait<'a>(b: &mut Builder<'_, 'a>, op: &Op<'a>, ins: &Ins<'a>) -> Result<bool, String> {
    // A hint how long to wait may follow.
    let [dst, place, phase, ..] = &ins.args[..] else {
        return Err("a predicate, an address, a state or parity".to_owned());
    };
    let parity = op.has("parity");
    let mut inst = b.inst(mbarrier::wait);
    inst.d = b.pred(dst)?.0;
    inst.b = b.src(phase, if parity { Ty::U32 } else { Ty::B64 })?;
    emit(b, inst, place, &[u32::from(parity)])
}

fn copies<'a>(b: &mut Builder<'_, 'a>, op: &Op<'a>, ins: &Ins<'a>) -> Result<bool, String> {
    let [place] = &ins.args[..] else {
        return Err("an address".to_owned());
    };
    let inst = b.inst(mbarrier::copies);
    emit(b, inst, place, &[u32::from(op.has("noinc"))])
}
