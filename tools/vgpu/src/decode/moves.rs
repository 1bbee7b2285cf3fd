//! Moves, comparisons, selections, address conversions, arithmetic with carry.

use super::compare;
use super::kernel::{Builder, Symbol};
use super::op::Op;
use crate::count::Class;
use crate::exec::control;
use crate::exec::cx::Run;
use crate::exec::memory::{LOCAL_BASE, PARAM_BASE, SHARED_BASE, WINDOW};
use crate::exec::nan::Floats;
use crate::exec::ops::{cmp, op1, op1i, op2, op4, select};
use crate::ptx::parse::{Arg, Ins};
use crate::ptx::types::{Space, Ty};

/// Decodes an instruction of this file; `false` if it is none.
///
/// # Errors
///
/// Wrong operands or a form that does not exist.
pub fn decode<'a>(b: &mut Builder<'_, 'a>, op: &Op<'a>, ins: &Ins<'a>) -> Result<bool, String> {
    match op.base {
        "mov" => mov(b, op, ins),
        "selp" => selp(b, op, ins),
        "setp" => compare::setp(b, op, ins),
        "set" => compare::set(b, op, ins),
        "slct" => compare::slct(b, op, ins),
        "testp" => compare::testp(b, op, ins),
        "cvta" => cvta(b, op, ins),
        "isspacep" => isspacep(b, op, ins),
        "add" | "addc" | "sub" | "subc" | "mad" | "madc"
            if op.has("cc") || op.base.ends_with('c') =>
        {
            carry(b, op, ins)
        }
        "and" | "or" | "xor" | "not" if op.ty() == Some(Ty::Pred) => logic(b, op, ins),
        _ => Ok(false),
    }
}

fn mov<'a>(b: &mut Builder<'_, 'a>, op: &Op<'a>, ins: &Ins<'a>) -> Result<bool, String> {
    let (Some(ty), [dst, src]) = (op.ty(), &ins.args[..]) else {
        return Ok(false);
    };
    match (dst, src) {
        (Arg::Vec(parts), _) => return unpack(b, parts, src, ty),
        (_, Arg::Vec(parts)) => return join(b, dst, parts, ty),
        _ => {}
    }
    if ty == Ty::Pred {
        let (row, not) = b.pred_src(src)?;
        let mut inst = b.inst(control::mov_pred);
        (inst.d, inst.a, inst.imm) = (b.pred(dst)?.0, row, u64::from(not));
        inst.class = Class::Pred;
        b.emit(inst);
        return Ok(true);
    }
    if let Arg::Name(
        name @ ("%clock" | "%clock64" | "%clock_hi" | "%globaltimer" | "%globaltimer_lo"),
    ) = src
    {
        let mut inst = b.inst(if ty.size() == 8 {
            control::clock64
        } else {
            control::clock
        });
        inst.d = b.dst(dst, ty)?;
        inst.imm = u64::from(*name == "%clock_hi") * 32;
        inst.class = Class::Mov;
        b.emit(inst);
        return Ok(true);
    }
    let run = if ty.size() == 8 {
        op1(|a: u64| a)
    } else {
        op1(|a: u32| a)
    };
    b.plain(ins, run, ty, Class::Mov, 0).map(|()| true)
}

/// `mov {a, b}, d`.
fn unpack<'a>(
    b: &mut Builder<'_, 'a>,
    parts: &[Arg<'a>],
    src: &Arg<'a>,
    ty: Ty,
) -> Result<bool, String> {
    let width = 8 * ty.size() / parts.len() as u32;
    let whole = b.src(src, if b.is_wide(src) { Ty::B64 } else { Ty::B32 })?;
    // A part may be the register that is taken apart.
    let scratch = b.rows64(1);
    let mut copy = b.inst(if b.is_wide(src) {
        op1(|a: u64| a)
    } else {
        op1(|a: u32| u64::from(a))
    });
    (copy.d, copy.a, copy.class) = (scratch, whole, Class::Mov);
    let in_place = !parts.contains(src) && b.is_wide(src);
    if !in_place {
        b.emit(copy);
    }
    for (n, part) in parts.iter().enumerate() {
        if *part == Arg::Name("_") {
            continue;
        }
        let shift = u64::from(width) * n as u64;
        let run: Run = match width {
            8 => op1i(|a: u64, s| (a >> s & 0xff) as u32),
            16 => op1i(|a: u64, s| (a >> s & 0xffff) as u32),
            32 => op1i(|a: u64, s| (a >> s) as u32),
            _ => return Err(format!("parts of {width} bits")),
        };
        let mut inst = b.inst(run);
        inst.d = b.dst(part, Ty::B32)?;
        (inst.a, inst.imm, inst.class) =
            (if in_place { whole } else { scratch }, shift, Class::Mov);
        b.emit(inst);
    }
    Ok(true)
}

/// `mov d, {a, b}`.
fn join<'a>(
    b: &mut Builder<'_, 'a>,
    dst: &Arg<'a>,
    parts: &[Arg<'a>],
    ty: Ty,
) -> Result<bool, String> {
    let part = match 8 * ty.size() / parts.len() as u32 {
        8 => Ty::B8,
        16 => Ty::B16,
        32 => Ty::B32,
        width => return Err(format!("parts of {width} bits")),
    };
    let mut rows = Vec::new();
    for arg in parts {
        rows.push(b.src(arg, part)?);
    }
    let mut inst = match (ty.size(), rows.len()) {
        (4, 2) => b.inst(op2(|a: u32, b: u32| a & 0xffff | b << 16)),
        (8, 2) => b.inst(op2(|a: u32, b: u32| u64::from(b) << 32 | u64::from(a))),
        (2, 2) => b.inst(op2(|a: u32, b: u32| a & 0xff | (b & 0xff) << 8)),
        (8, 4) => b.inst(op4(|a: u32, b: u32, c: u32, d: u32| {
            u64::from(a & 0xffff | b << 16) | u64::from(c & 0xffff | d << 16) << 32
        })),
        (4, 4) => b.inst(op4(|a: u32, b: u32, c: u32, d: u32| {
            a & 0xff | (b & 0xff) << 8 | (c & 0xff) << 16 | d << 24
        })),
        (size, n) => return Err(format!("{n} parts of {size} bytes")),
    };
    if rows.len() == 2 {
        (inst.a, inst.b) = (rows[0], rows[1]);
    } else {
        inst.list = b.list(&rows);
    }
    inst.d = b.dst(dst, ty)?;
    inst.class = Class::Mov;
    b.emit(inst);
    Ok(true)
}

fn selp<'a>(b: &mut Builder<'_, 'a>, op: &Op<'a>, ins: &Ins<'a>) -> Result<bool, String> {
    let (Some(ty), [dst, x, y, p]) = (op.ty(), &ins.args[..]) else {
        return Ok(false);
    };
    let (row, not) = b.pred_src(p)?;
    let mut inst = b.inst(if ty.size() == 8 {
        select::<u64>()
    } else {
        select::<u32>()
    });
    (inst.a, inst.b, inst.c) = (b.src(x, ty)?, b.src(y, ty)?, row);
    inst.d = b.dst(dst, ty)?;
    inst.imm = if not { u64::from(u32::MAX) } else { 0 };
    inst.class = Class::Mov;
    b.emit(inst);
    Ok(true)
}

/// Where a space's window lies among generic addresses.
pub fn base(space: Space) -> u64 {
    match space {
        Space::Shared => SHARED_BASE,
        Space::Local => LOCAL_BASE,
        Space::Param => PARAM_BASE,
        _ => 0,
    }
}

fn cvta<'a>(b: &mut Builder<'_, 'a>, op: &Op<'a>, ins: &Ins<'a>) -> Result<bool, String> {
    let Some(space) = op.mods.iter().find_map(|m| Space::named(m)) else {
        return Ok(false);
    };
    let Some(ty) = op.ty() else { return Ok(false) };
    let base = if op.has("to") {
        base(space).wrapping_neg()
    } else {
        base(space)
    };
    let run = if ty.size() == 8 {
        op1i(|a: u64, base| a.wrapping_add(base))
    } else {
        return Ok(false);
    };
    // An entry function's parameter that a call has inlined lies elsewhere: its own symbol says where.
    let base = match &ins.args[1..] {
        [Arg::Name(name)] => match b.find(name) {
            Some(Symbol::Var(own, _)) if own != space => self::base(own),
            _ => base,
        },
        _ => base,
    };
    b.plain(ins, run, ty, Class::Mov, base).map(|()| true)
}

fn isspacep<'a>(b: &mut Builder<'_, 'a>, op: &Op<'a>, ins: &Ins<'a>) -> Result<bool, String> {
    let (Some(space), [dst, x]) = (op.mods.first().and_then(|m| Space::named(m)), &ins.args[..])
    else {
        return Ok(false);
    };
    let run = match space {
        Space::Shared => cmp(|a: u64, _| a.wrapping_sub(SHARED_BASE) < WINDOW),
        Space::Local => cmp(|a: u64, _| a.wrapping_sub(LOCAL_BASE) < WINDOW),
        Space::Param => cmp(|a: u64, _| a.wrapping_sub(PARAM_BASE) < WINDOW),
        Space::Global => cmp(|a: u64, _| !(SHARED_BASE..PARAM_BASE + WINDOW).contains(&a)),
        _ => return Ok(false),
    };
    let mut inst = b.inst(run);
    inst.a = b.src(x, Ty::U64)?;
    (inst.b, inst.d) = (inst.a, b.pred(dst)?.0);
    inst.class = Class::Pred;
    b.emit(inst);
    Ok(true)
}

/// `and.pred` and its kin.
fn logic<'a>(b: &mut Builder<'_, 'a>, op: &Op<'a>, ins: &Ins<'a>) -> Result<bool, String> {
    let mut inst = b.inst(match op.base {
        "and" => control::and_pred,
        "or" => control::or_pred,
        "xor" => control::xor_pred,
        _ => control::mov_pred,
    });
    let (x, not_x) = b.pred_src(ins.args.get(1).ok_or("two operands")?)?;
    inst.imm = u64::from(not_x);
    inst.a = x;
    match ins.args.get(2) {
        Some(y) => {
            let (y, not_y) = b.pred_src(y)?;
            (inst.b, inst.imm) = (y, inst.imm | u64::from(not_y) << 1);
        }
        None => inst.imm ^= 1,
    }
    inst.d = b.pred(&ins.args[0])?.0;
    inst.class = Class::Pred;
    b.emit(inst);
    Ok(true)
}

/// Arithmetic that reads or writes the carry: a predicate row of its own holds it.
fn carry<'a>(b: &mut Builder<'_, 'a>, op: &Op<'a>, ins: &Ins<'a>) -> Result<bool, String> {
    let Some(ty) = op.ty() else { return Ok(false) };
    let row = match b.find("%CC") {
        Some(Symbol::Pred(row)) => row,
        _ => {
            let row = b.kernel.preds;
            b.kernel.preds += 1;
            b.scopes[0].define("%CC", Symbol::Pred(row));
            row
        }
    };
    let mad = op.base.starts_with("mad");
    let count = if mad { 3 } else { 2 };
    if ins.args.len() != count + 1 {
        return Err(format!("{} operands", count + 1));
    }
    let mut rows = vec![row];
    for arg in &ins.args[1..] {
        rows.push(b.src(arg, ty)?);
    }
    let mut inst = b.inst(if ty.size() == 8 {
        control::carry::<u64>
    } else {
        control::carry::<u32>
    });
    inst.d = b.dst(&ins.args[0], ty)?;
    inst.list = b.list(&rows);
    inst.imm = control::CarryOp {
        subtract: op.base.starts_with("sub"),
        reads: op.base.ends_with('c'),
        writes: op.has("cc"),
        multiply: mad,
        high: op.has("hi"),
        signed: ty.signed(),
    }
    .pack();
    inst.class = Class::Int;
    inst.floats = Floats::default();
    b.emit(inst);
    Ok(true)
}
