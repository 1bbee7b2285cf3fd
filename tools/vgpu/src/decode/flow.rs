//! Branches, calls, exits, barriers, collectives.

use super::kernel::{Builder, Symbol};
use super::op::Op;
use crate::count::Class;
use crate::exec::cx::NONE;
use crate::exec::{barrier, control, print};
use crate::ptx::parse::{Arg, Ins};
use crate::ptx::types::Ty;

/// Decodes an instruction of this file; `false` if it is none.
///
/// # Errors
///
/// Wrong operands or a form that does not exist.
pub fn decode<'a>(b: &mut Builder<'_, 'a>, op: &Op<'a>, ins: &Ins<'a>) -> Result<bool, String> {
    match op.base {
        "bra" => bra(b, ins),
        "brx" => brx(b, ins),
        "call" => call(b, ins),
        "ret" | "exit" => Ok(leave(b, op)),
        "trap" | "brkpt" => Ok(simple(b, control::trap, Class::Branch)),
        "nanosleep" => Ok(simple(b, control::sleep, Class::Other)),
        "pmevent" | "setmaxnreg" | "griddepcontrol" => {
            Ok(simple(b, control::nothing, Class::Other))
        }
        "bar" | "barrier" if op.has("warp") => warp_sync(b, ins),
        "bar" | "barrier" if !op.has("cluster") => bar(b, op, ins),
        "shfl" => shfl(b, op, ins),
        "vote" => vote(b, op, ins),
        "match" => match_lanes(b, op, ins),
        "redux" => redux(b, op, ins),
        "activemask" => {
            let mut inst = b.inst(barrier::activemask);
            (inst.d, inst.class) = (b.dst(&ins.args[0], Ty::B32)?, Class::Other);
            b.emit(inst);
            Ok(true)
        }
        "elect" => elect(b, ins),
        "ldmatrix" | "stmatrix" => super::matrix::transfer(b, op, ins),
        "mma" => super::matrix::mma(b, op, ins),
        _ => Ok(false),
    }
}

fn simple(b: &mut Builder<'_, '_>, run: crate::exec::cx::Run, class: Class) -> bool {
    let mut inst = b.inst(run);
    inst.class = class;
    b.emit(inst);
    true
}

fn bra<'a>(b: &mut Builder<'_, 'a>, ins: &Ins<'a>) -> Result<bool, String> {
    let Some(Arg::Name(name)) = ins.args.first() else {
        return Err("a label".to_owned());
    };
    let Some(Symbol::Label(label)) = b.find(name) else {
        return Err(format!("unknown label {name}"));
    };
    jump(b, label);
    Ok(true)
}

/// Emits a branch to a label.
pub fn jump(b: &mut Builder<'_, '_>, label: u32) {
    let mut inst = b.inst(control::bra);
    inst.class = Class::Branch;
    b.fixups.push((b.kernel.code.len(), label));
    b.emit(inst);
}

fn brx<'a>(b: &mut Builder<'_, 'a>, ins: &Ins<'a>) -> Result<bool, String> {
    let [index, Arg::Name(table)] = &ins.args[..] else {
        return Err("an index and a list of labels".to_owned());
    };
    let Some(Symbol::Table(table)) = b.find(table) else {
        return Err(format!("unknown list {table}"));
    };
    let names = b.tables[table as usize].clone();
    let mut labels = Vec::new();
    for name in &names {
        match b.find(name) {
            Some(Symbol::Label(label)) => labels.push(label),
            _ => return Err(format!("unknown label {name}")),
        }
    }
    let mut inst = b.inst(control::brx);
    inst.a = b.src(index, Ty::U32)?;
    inst.class = Class::Branch;
    let mut list = vec![labels.len() as u32];
    list.extend(&labels);
    inst.list = b.list(&list);
    b.list_fixups.extend(
        labels
            .iter()
            .enumerate()
            .map(|(n, label)| (inst.list as usize + 1 + n, *label)),
    );
    b.emit(inst);
    Ok(true)
}

/// `ret` in an inlined function goes to its end.
fn leave(b: &mut Builder<'_, '_>, op: &Op<'_>) -> bool {
    match b.returns.last() {
        Some(label) if op.base == "ret" => {
            let label = *label;
            jump(b, label);
            true
        }
        _ => simple(b, control::exit, Class::Branch),
    }
}

/// The names in `(a, b)`.
fn names<'a>(arg: &Arg<'a>) -> Vec<&'a str> {
    match arg {
        Arg::List(items) => items
            .iter()
            .filter_map(|a| {
                if let Arg::Name(name) = a {
                    Some(*name)
                } else {
                    None
                }
            })
            .collect(),
        _ => Vec::new(),
    }
}

/// Functions that the driver provides: `printf`, and what `assert` calls.
fn built_in(b: &mut Builder<'_, '_>, name: &str, params: &[&str]) -> Option<bool> {
    let run: crate::exec::cx::Run = match name {
        "vprintf" => print::vprintf,
        "__assertfail" => control::assert_fail,
        _ => return None,
    };
    let places = params.iter().take(2);
    let rows: Vec<u32> = places.map(|p| b.address(p).unwrap_or(0) as u32).collect();
    let mut inst = b.inst(run);
    inst.list = b.list(&rows);
    b.emit(inst);
    Some(true)
}

/// `call (ret), f, (params)`: the function's body in place, its parameters the caller's variables.
fn call<'a>(b: &mut Builder<'_, 'a>, ins: &Ins<'a>) -> Result<bool, String> {
    let args = &ins.args[..];
    let (rets, rest) = match args {
        [Arg::List(_), rest @ ..] => (names(&args[0]), rest),
        rest => (Vec::new(), rest),
    };
    let Some(Arg::Name(name)) = rest.first() else {
        return Err("a function's name".to_owned());
    };
    let params = rest.get(1).map(names).unwrap_or_default();
    if let Some(done) = built_in(b, name, &params) {
        return Ok(done);
    }
    let Some(func) = b.names.funcs.get(name).copied() else {
        return Err(format!("unknown function {name}"));
    };
    if b.inlining.contains(name) {
        return Err(format!("{name} calls itself: recursion is not supported"));
    }
    if params.len() != func.params.len() || rets.len() != func.rets.len() {
        return Err(format!(
            "{name} takes {} parameters and gives {} results",
            func.params.len(),
            func.rets.len()
        ));
    }
    let mut known = Vec::new();
    for (var, name) in func
        .params
        .iter()
        .chain(&func.rets)
        .zip(params.iter().chain(&rets))
    {
        let symbol = b.find(name).ok_or_else(|| format!("unknown name {name}"))?;
        known.push((var.name, symbol));
    }
    let end = b.label();
    b.returns.push(end);
    b.inlining.push(func.name);
    let (at, guard) = (b.at, b.guard);
    // A guarded call jumps over the body.
    if guard.0 != NONE {
        b.guard = (guard.0, !guard.1);
        jump(b, end);
        b.guard = (NONE, 0);
    }
    super::function(b, func, &known)?;
    (b.at, b.guard) = (at, guard);
    b.inlining.pop();
    b.returns.pop();
    b.place(end);
    Ok(true)
}

fn bar<'a>(b: &mut Builder<'_, 'a>, op: &Op<'a>, ins: &Ins<'a>) -> Result<bool, String> {
    let mut inst = b.inst(barrier::bar);
    inst.class = Class::Barrier;
    inst.b = NONE;
    let mut args = &ins.args[..];
    if op.has("red") {
        let [dst, rest @ .., p] = args else {
            return Err("a result, a barrier, a predicate".to_owned());
        };
        let (row, not) = b.pred_src(p)?;
        (inst.c, inst.imm) = (row, if not { barrier::imm::NOT } else { 0 });
        if op.has("popc") {
            inst.d = b.dst(dst, Ty::U32)?;
            inst.imm |= barrier::Reduce::Count as u64;
        } else {
            inst.d = b.pred(dst)?.0;
            inst.imm |= if op.has("and") {
                barrier::Reduce::And
            } else {
                barrier::Reduce::Or
            } as u64;
        }
        args = rest;
    }
    if op.has("arrive") {
        inst.imm |= barrier::imm::ARRIVE;
    }
    inst.a = match args.first() {
        Some(id) => b.src(id, Ty::U32)?,
        None => b.const32(0),
    };
    if let Some(count) = args.get(1) {
        inst.b = b.src(count, Ty::U32)?;
    }
    b.emit(inst);
    Ok(true)
}

fn warp_sync<'a>(b: &mut Builder<'_, 'a>, ins: &Ins<'a>) -> Result<bool, String> {
    let mut inst = b.inst(barrier::warp_sync);
    inst.a = b.src(ins.args.first().ok_or("a mask")?, Ty::U32)?;
    inst.class = Class::Barrier;
    b.emit(inst);
    Ok(true)
}

fn shfl<'a>(b: &mut Builder<'_, 'a>, op: &Op<'a>, ins: &Ins<'a>) -> Result<bool, String> {
    let mode = ["up", "down", "bfly", "idx"].iter().position(|m| op.has(m));
    let (Some(mode), true, [dst, value, lane, clamp, mask]) = (mode, op.has("sync"), &ins.args[..])
    else {
        return Ok(false);
    };
    let (dst, predicate) = match *dst {
        Arg::Pair(d, p) => (Arg::Name(d), b.pred(&Arg::Name(p))?.0),
        ref d => (d.clone(), NONE),
    };
    let mut inst = b.inst(barrier::shfl);
    let mut rows = Vec::new();
    for arg in [value, lane, clamp, mask] {
        rows.push(b.src(arg, Ty::B32)?);
    }
    rows.push(predicate);
    inst.list = b.list(&rows);
    (inst.d, inst.imm, inst.class) = (b.dst(&dst, Ty::B32)?, mode as u64, Class::Shuffle);
    b.emit(inst);
    Ok(true)
}

fn vote<'a>(b: &mut Builder<'_, 'a>, op: &Op<'a>, ins: &Ins<'a>) -> Result<bool, String> {
    let mode = ["all", "any", "uni", "ballot"]
        .iter()
        .position(|m| op.has(m));
    let (Some(mode), true, [dst, p, mask]) = (mode, op.has("sync"), &ins.args[..]) else {
        return Ok(false);
    };
    let (row, not) = b.pred_src(p)?;
    let mut inst = b.inst(barrier::vote);
    inst.a = row;
    inst.b = b.src(mask, Ty::B32)?;
    inst.d = if mode == 3 {
        b.dst(dst, Ty::B32)?
    } else {
        b.pred(dst)?.0
    };
    inst.imm = mode as u64 | if not { 8 } else { 0 };
    inst.class = Class::Shuffle;
    b.emit(inst);
    Ok(true)
}

fn match_lanes<'a>(b: &mut Builder<'_, 'a>, op: &Op<'a>, ins: &Ins<'a>) -> Result<bool, String> {
    let (Some(ty), [dst, value, mask]) = (op.ty(), &ins.args[..]) else {
        return Ok(false);
    };
    let mut inst = b.inst(barrier::match_lanes);
    inst.a = b.src(value, ty)?;
    inst.b = b.src(mask, Ty::B32)?;
    inst.imm = if ty.size() == 8 { 2 } else { 0 };
    inst.c = NONE;
    let dst = match *dst {
        Arg::Pair(d, p) => {
            inst.c = b.pred(&Arg::Name(p))?.0;
            Arg::Name(d)
        }
        ref d => d.clone(),
    };
    inst.imm |= u64::from(op.has("all"));
    inst.d = b.dst(&dst, Ty::B32)?;
    inst.class = Class::Shuffle;
    b.emit(inst);
    Ok(true)
}

fn redux<'a>(b: &mut Builder<'_, 'a>, op: &Op<'a>, ins: &Ins<'a>) -> Result<bool, String> {
    let mode = ["add", "and", "or", "xor", "min", "max"]
        .iter()
        .position(|m| op.has(m));
    let (Some(mode), Some(ty), [dst, value, mask]) = (mode, op.ty(), &ins.args[..]) else {
        return Ok(false);
    };
    if ty.size() != 4 || ty.float() {
        return Ok(false);
    }
    let mut inst = b.inst(barrier::redux);
    (inst.a, inst.b) = (b.src(value, ty)?, b.src(mask, Ty::B32)?);
    inst.d = b.dst(dst, ty)?;
    inst.imm = mode as u64 | if ty.signed() { 8 } else { 0 };
    inst.class = Class::Shuffle;
    b.emit(inst);
    Ok(true)
}

fn elect<'a>(b: &mut Builder<'_, 'a>, ins: &Ins<'a>) -> Result<bool, String> {
    let [Arg::Pair(d, p), mask] = &ins.args[..] else {
        return Ok(false);
    };
    let mut inst = b.inst(barrier::elect);
    inst.d = b.dst(&Arg::Name(d), Ty::B32)?;
    inst.c = b.pred(&Arg::Name(p))?.0;
    inst.b = b.src(mask, Ty::B32)?;
    inst.class = Class::Shuffle;
    b.emit(inst);
    Ok(true)
}
