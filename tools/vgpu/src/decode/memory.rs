//! Loads, stores, atomics, fences, asynchronous copies.

use super::kernel::{Builder, Symbol};
use super::op::Op;
use crate::count::Class;
use crate::exec::access::{self, imm, space};
use crate::exec::cx::{Inst, NONE, Run};
use crate::exec::half::{BF16, F16, Round, bf16_to_f32, f16_to_f32, narrow};
use crate::exec::load::{self, Width};
use crate::exec::math::bits;
use crate::exec::ops::op1;
use crate::exec::{asynch, atom, control};
use crate::ptx::parse::{Arg, Ins};
use crate::ptx::types::{Space, Ty};

/// Decodes an instruction of this file; `false` if it is none.
///
/// # Errors
///
/// Wrong operands or a form that does not exist.
pub fn decode<'a>(b: &mut Builder<'_, 'a>, op: &Op<'a>, ins: &Ins<'a>) -> Result<bool, String> {
    match op.base {
        "ld" | "ldu" => load(b, op, ins),
        "st" => store(b, op, ins),
        "atom" | "red" => atomic(b, op, ins),
        "membar" | "fence" => {
            let mut inst = b.inst(atom::fence);
            inst.class = Class::Barrier;
            b.emit(inst);
            Ok(true)
        }
        "prefetch" | "prefetchu" | "discard" | "applypriority" => {
            let inst = b.inst(control::nothing);
            b.emit(inst);
            Ok(true)
        }
        "createpolicy" => {
            let mut inst = b.inst(op1(|a: u64| a));
            inst.d = b.dst(ins.args.first().ok_or("a result")?, Ty::B64)?;
            inst.a = b.const64(0);
            b.emit(inst);
            Ok(true)
        }
        "cp" if op.has("async") => copy(b, op, ins),
        _ => Ok(false),
    }
}

/// Fills in an instruction's address and returns the space it addresses.
pub fn address<'a>(
    b: &mut Builder<'_, 'a>,
    inst: &mut Inst,
    arg: &Arg<'a>,
    space: Space,
) -> Result<Space, String> {
    let Arg::Mem(base, offset) = *arg else {
        return Err(format!("{arg:?} is no address"));
    };
    let offset = i32::try_from(offset).map_err(|_| "an offset beyond 32 bits".to_owned())?;
    let mut found = space;
    inst.imm |= u64::from(offset as u32);
    match base.map(|name| (name, b.find(name))) {
        None => inst.a = b.const32(0),
        Some((_, Some(Symbol::R32(row)))) => inst.a = row,
        Some((_, Some(Symbol::R64(row)))) => {
            inst.a = row;
            inst.imm |= imm::WIDE;
        }
        Some((_, Some(Symbol::Var(own, address)))) => {
            if space != Space::Generic || own == Space::Global {
                // A call's parameters are local variables here.
                found = own;
            }
            inst.a = b.const64(address);
            inst.imm |= imm::WIDE;
        }
        Some((name, _)) => return Err(format!("unknown name {name}")),
    }
    inst.imm |= u64::from(access::code(found)) << imm::SPACE;
    Ok(found)
}

/// The width of an element, and whether the result needs a sign.
fn width(ty: Ty, signed: bool) -> Option<Width> {
    Some(match (ty.size(), signed && ty.signed()) {
        (1, false) => Width::U8,
        (1, true) => Width::I8,
        (2, false) => Width::U16,
        (2, true) => Width::I16,
        (4, _) => Width::U32,
        (8, _) => Width::U64,
        _ => return None,
    })
}

/// Space and element of a load or store.
fn form<'a>(op: &Op<'a>) -> Option<(Space, Ty, usize)> {
    let space = op
        .mods
        .iter()
        .find_map(|m| Space::named(m))
        .unwrap_or(Space::Generic);
    let n = if op.has("v2") {
        2
    } else if op.has("v4") {
        4
    } else if op.has("v8") {
        return None;
    } else {
        1
    };
    Some((space, op.ty()?, n))
}

/// The registers of `{a, b}` or `a`.
fn parts<'s, 'a>(arg: &'s Arg<'a>) -> &'s [Arg<'a>] {
    match arg {
        Arg::Vec(parts) => parts,
        one => std::slice::from_ref(one),
    }
}

fn load<'a>(b: &mut Builder<'_, 'a>, op: &Op<'a>, ins: &Ins<'a>) -> Result<bool, String> {
    let Some((space, ty, n)) = form(op) else {
        return Ok(false);
    };
    let [dst, src, ..] = &ins.args[..] else {
        return Err("two operands".to_owned());
    };
    let Some(width) = width(ty, true) else {
        return Ok(false);
    };
    let word = if ty.size() == 8 { Ty::B64 } else { Ty::B32 };
    let (mut rows, mut widen, mut narrow) = (Vec::new(), Vec::new(), false);
    for part in parts(dst) {
        if b.is_wide(part) && ty.size() < 8 {
            let row = b.rows32(1);
            widen.push((row, b.dst(part, Ty::B64)?));
            rows.push(row);
        } else {
            narrow |= b.is_narrow(part) && width == Width::I8;
            rows.push(b.dst(part, word)?);
        }
    }
    if rows.len() != n {
        return Err(format!("{} registers for {n} elements", rows.len()));
    }
    let mut inst = b.inst(control::nothing);
    let space = address(b, &mut inst, src, space)?;
    inst.imm |= if narrow { imm::NARROW } else { 0 } | past_l1(op);
    inst.class = load_class(space);
    let run = match (space, src) {
        (Space::Param, Arg::Mem(Some(name), offset))
            if matches!(b.find(name), Some(Symbol::Var(..))) =>
        {
            inst.imm = b.address(name).unwrap_or(0).wrapping_add(*offset as u64);
            load::param(width, n)
        }
        _ => load::load(width, n, space_code(space)),
    };
    let Some(run) = run else { return Ok(false) };
    if matches!(space, Space::Shared | Space::Generic) {
        b.shared_access(ty.size() * n as u32);
    }
    inst.run = run;
    inst.list = b.list(&rows);
    b.emit(inst);
    for (from, to) in widen {
        let mut inst = b.inst(if ty.signed() {
            op1(|a: u32| i64::from(a as i32) as u64)
        } else {
            op1(|a: u32| u64::from(a))
        });
        (inst.a, inst.d, inst.class) = (from, to, Class::Mov);
        b.emit(inst);
    }
    Ok(true)
}

/// The flag of loads that L1 does not serve.
fn past_l1(op: &Op<'_>) -> u64 {
    let passes = ["cg", "cv", "volatile", "relaxed", "acquire", "mmio"];
    if passes.iter().any(|m| op.has(m)) {
        imm::BYPASS
    } else {
        0
    }
}

fn load_class(space: Space) -> Class {
    match space {
        Space::Global => Class::LdGlobal,
        Space::Shared => Class::LdShared,
        Space::Local => Class::LdLocal,
        Space::Param => Class::LdParam,
        Space::Const => Class::LdConst,
        Space::Generic => Class::Generic,
    }
}

/// The code for generic code: global and shared have loops of their own.
fn space_code(space: Space) -> u8 {
    match access::code(space) {
        code @ (space::GLOBAL | space::SHARED) => code,
        _ => space::OTHER,
    }
}

fn store<'a>(b: &mut Builder<'_, 'a>, op: &Op<'a>, ins: &Ins<'a>) -> Result<bool, String> {
    let Some((space, ty, n)) = form(op) else {
        return Ok(false);
    };
    let [dst, src, ..] = &ins.args[..] else {
        return Err("two operands".to_owned());
    };
    let Some(width) = width(ty, false) else {
        return Ok(false);
    };
    let mut rows = Vec::new();
    for part in parts(src) {
        if b.is_wide(part) && ty.size() < 8 {
            let mut inst = b.inst(op1(|a: u64| a as u32));
            (inst.a, inst.d, inst.class) = (b.src(part, Ty::B64)?, b.rows32(1), Class::Mov);
            rows.push(inst.d);
            b.emit(inst);
        } else {
            let as_ty = if ty.size() < 4 && matches!(part, Arg::Name(_)) {
                Ty::B32
            } else {
                ty
            };
            rows.push(b.src(part, as_ty)?);
        }
    }
    let mut inst = b.inst(control::nothing);
    let space = address(b, &mut inst, dst, space)?;
    let Some(run) = load::store(width, n, space_code(space)) else {
        return Ok(false);
    };
    if rows.len() != n {
        return Err(format!("{} registers for {n} elements", rows.len()));
    }
    if matches!(space, Space::Shared | Space::Generic) {
        b.shared_access(ty.size() * n as u32);
    }
    inst.run = run;
    inst.list = b.list(&rows);
    inst.class = match space {
        Space::Global => Class::StGlobal,
        Space::Shared => Class::StShared,
        Space::Generic => Class::Generic,
        _ => Class::StLocal,
    };
    b.emit(inst);
    Ok(true)
}

fn atomic<'a>(b: &mut Builder<'_, 'a>, op: &Op<'a>, ins: &Ins<'a>) -> Result<bool, String> {
    let Some(ty) = op.ty() else { return Ok(false) };
    let space = op
        .mods
        .iter()
        .find_map(|m| Space::named(m))
        .unwrap_or(Space::Generic);
    let what = [
        "add", "min", "max", "and", "or", "xor", "exch", "cas", "inc", "dec",
    ]
    .iter()
    .find(|m| op.has(m));
    let Some(run) = what.and_then(|what| operation(what, ty)) else {
        return Ok(false);
    };
    let red = op.base == "red";
    let args = &ins.args[usize::from(!red)..];
    if args.len() < 2 {
        return Err("an address and a value".to_owned());
    }
    let mut inst = b.inst(run);
    inst.d = match &ins.args[0] {
        Arg::Name("_") => NONE,
        dst if !red => b.dst(dst, ty)?,
        _ => NONE,
    };
    let space = address(b, &mut inst, &args[0], space)?;
    if matches!(space, Space::Shared | Space::Generic) {
        b.shared_access(ty.size());
    }
    inst.b = b.src(&args[1], ty)?;
    inst.c = if op.has("cas") {
        b.src(args.get(2).ok_or("cas needs two values")?, ty)?
    } else {
        inst.b
    };
    inst.class = Class::Atomic;
    b.emit(inst);
    Ok(true)
}

/// f32 addition; denormals are flushed by neither space's hardware for `.add.f32` in global memory.
fn add_f32(a: u32, b: u32) -> u32 {
    bits(f32::from_bits(a) + f32::from_bits(b))
}

fn add_half(a: u32, b: u32, brain: bool) -> u32 {
    let (up, format): (fn(u32) -> f32, _) = if brain {
        (bf16_to_f32, BF16)
    } else {
        (f16_to_f32, F16)
    };
    narrow(
        f64::from(up(a & 0xffff)) + f64::from(up(b & 0xffff)),
        format,
        Round::Nearest,
    )
}

fn add_pair(a: u32, b: u32, brain: bool) -> u32 {
    add_half(a, b, brain) | add_half(a >> 16, b >> 16, brain) << 16
}

fn operation(what: &str, ty: Ty) -> Option<Run> {
    use Ty::{B32, B64, Bf16, Bf16x2, F16, F16x2, F32, F64, S32, S64, U32, U64};
    Some(match (what, ty) {
        ("add", U32 | S32) => atom::atom(|a: u32, b, _| a.wrapping_add(b)),
        ("add", U64 | S64) => atom::atom(|a: u64, b, _| a.wrapping_add(b)),
        ("add", F32) => atom::atom(|a: u32, b, _| add_f32(a, b)),
        ("add", F64) => atom::atom(|a: u64, b, _| {
            crate::exec::math::bits64(f64::from_bits(a) + f64::from_bits(b))
        }),
        ("add", F16) => atom::atom(|a: u16, b, _| add_half(a.into(), b.into(), false) as u16),
        ("add", Bf16) => atom::atom(|a: u16, b, _| add_half(a.into(), b.into(), true) as u16),
        ("add", F16x2) => atom::atom(|a: u32, b, _| add_pair(a, b, false)),
        ("add", Bf16x2) => atom::atom(|a: u32, b, _| add_pair(a, b, true)),
        ("min", U32) => atom::atom(|a: u32, b, _| a.min(b)),
        ("max", U32) => atom::atom(|a: u32, b, _| a.max(b)),
        ("min", S32) => atom::atom(|a: u32, b, _| (a as i32).min(b as i32) as u32),
        ("max", S32) => atom::atom(|a: u32, b, _| (a as i32).max(b as i32) as u32),
        ("min", U64) => atom::atom(|a: u64, b, _| a.min(b)),
        ("max", U64) => atom::atom(|a: u64, b, _| a.max(b)),
        ("min", S64) => atom::atom(|a: u64, b, _| (a as i64).min(b as i64) as u64),
        ("max", S64) => atom::atom(|a: u64, b, _| (a as i64).max(b as i64) as u64),
        ("and", B32) => atom::atom(|a: u32, b, _| a & b),
        ("or", B32) => atom::atom(|a: u32, b, _| a | b),
        ("xor", B32) => atom::atom(|a: u32, b, _| a ^ b),
        ("and", B64) => atom::atom(|a: u64, b, _| a & b),
        ("or", B64) => atom::atom(|a: u64, b, _| a | b),
        ("xor", B64) => atom::atom(|a: u64, b, _| a ^ b),
        ("exch", B32) => atom::atom(|_: u32, b, _| b),
        ("exch", B64) => atom::atom(|_: u64, b, _| b),
        ("cas", B32) => atom::atom(|a: u32, b, c| if a == b { c } else { a }),
        ("cas", B64) => atom::atom(|a: u64, b, c| if a == b { c } else { a }),
        ("cas", Ty::B16) => atom::atom(|a: u16, b, c| if a == b { c } else { a }),
        ("inc", U32) => atom::atom(|a: u32, b, _| if a >= b { 0 } else { a + 1 }),
        ("dec", U32) => atom::atom(|a: u32, b, _| if a == 0 || a > b { b } else { a - 1 }),
        _ => return None,
    })
}

fn copy<'a>(b: &mut Builder<'_, 'a>, op: &Op<'a>, ins: &Ins<'a>) -> Result<bool, String> {
    let mut inst = match op.full {
        "cp.async.commit_group" => b.inst(asynch::commit),
        "cp.async.wait_all" => b.inst(asynch::wait),
        "cp.async.wait_group" => b.inst(asynch::wait),
        _ if op.has("bulk") || op.has("mbarrier") => return Ok(false),
        _ => return copy_bytes(b, op, ins),
    };
    inst.class = Class::Async;
    inst.imm = match ins.args.first() {
        Some(Arg::Int(n)) => *n,
        _ => u64::MAX,
    };
    b.emit(inst);
    Ok(true)
}

/// `cp.async.cg.shared.global [dst], [src], 16 {, src-size | ignore-src}`.
fn copy_bytes<'a>(b: &mut Builder<'_, 'a>, op: &Op<'a>, ins: &Ins<'a>) -> Result<bool, String> {
    if !op
        .mods
        .iter()
        .any(|m| Space::named(m) == Some(Space::Shared))
    {
        return Ok(false);
    }
    let [dst, src, Arg::Int(bytes), rest @ ..] = &ins.args[..] else {
        return Err("two addresses and a size".to_owned());
    };
    if !matches!(*bytes, 4 | 8 | 16) || op.has("cg") && *bytes != 16 {
        return Err(format!("a copy of {bytes} bytes"));
    }
    let mut inst = b.inst(asynch::issue);
    address(b, &mut inst, dst, Space::Shared)?;
    inst.imm |= past_l1(op);
    let Arg::Mem(Some(base), offset) = src else {
        return Err(format!("{src:?} is no address"));
    };
    inst.b = b.src(&Arg::Name(base), Ty::U64)?;
    let offset = i32::try_from(*offset).map_err(|_| "an offset beyond 32 bits".to_owned())?;
    inst.list = b.list(&[offset as u32, *bytes as u32]);
    inst.c = NONE;
    for arg in rest {
        let is_pred = matches!(arg, Arg::Not(_))
            || matches!(arg, Arg::Name(n) if matches!(b.find(n), Some(Symbol::Pred(_))));
        if is_pred {
            let (row, not) = b.pred(arg)?;
            inst.d = row;
            inst.imm |= if not { imm::NARROW } else { 0 };
        } else if inst.c == NONE && !b.is_wide(arg) {
            // A cache policy, in 64 bits, has no effect here.
            inst.c = b.src(arg, Ty::U32)?;
        }
    }
    b.shared_access(*bytes as u32);
    inst.class = Class::Async;
    b.emit(inst);
    Ok(true)
}
