//! Comparisons.

use super::kernel::Builder;
use super::op::Op;
use crate::count::Class;
use crate::exec::cx::{Lane, NONE, Run};
use crate::exec::half::{bf16_to_f32, f16_to_f32};
use crate::exec::math::flush;
use crate::exec::ops::{cmp, compare, op1, op2, select};
use crate::ptx::parse::{Arg, Ins};
use crate::ptx::types::Ty;

/// What a register's bits mean to a comparison.
trait Value: 'static {
    /// The register.
    type Row: Lane;
    /// The value.
    type V: PartialOrd + Copy;
    /// From the register's bits.
    fn of(row: Self::Row) -> Self::V;
}

macro_rules! value {
    ($name:ident, $row:ty, $v:ty, |$x:ident| $e:expr) => {
        struct $name;

        impl Value for $name {
            type Row = $row;
            type V = $v;
            #[inline(always)]
            fn of($x: $row) -> $v {
                $e
            }
        }
    };
}

value!(Unsigned, u32, u32, |x| x);
value!(Short, u32, i16, |x| x as i16);
value!(Signed, u32, i32, |x| x as i32);
value!(Unsigned64, u64, u64, |x| x);
value!(Signed64, u64, i64, |x| x as i64);
value!(Single, u32, f32, |x| f32::from_bits(x));
value!(Flushed, u32, f32, |x| f32::from_bits(flush(x)));
value!(Double, u64, f64, |x| f64::from_bits(x));
value!(Half, u32, f32, |x| f16_to_f32(x & 0xffff));
value!(Brain, u32, f32, |x| bf16_to_f32(x & 0xffff));

/// Comparisons that are false where a NaN is compared (for integers: all there are).
fn ordered<T: Value>(name: &str) -> Option<Run> {
    Some(match name {
        "eq" => cmp(|a: T::Row, b| T::of(a) == T::of(b)),
        "ne" => cmp(|a: T::Row, b| T::of(a) < T::of(b) || T::of(a) > T::of(b)),
        "lt" | "lo" => cmp(|a: T::Row, b| T::of(a) < T::of(b)),
        "le" | "ls" => cmp(|a: T::Row, b| T::of(a) <= T::of(b)),
        "gt" | "hi" => cmp(|a: T::Row, b| T::of(a) > T::of(b)),
        "ge" | "hs" => cmp(|a: T::Row, b| T::of(a) >= T::of(b)),
        _ => return None,
    })
}

/// Those of floats: ordered, or true where a NaN is compared.
#[allow(clippy::neg_cmp_op_on_partial_ord, clippy::eq_op)]
fn float<T: Value>(name: &str) -> Option<Run> {
    Some(match name {
        "equ" => cmp(|a: T::Row, b| !(T::of(a) < T::of(b) || T::of(a) > T::of(b))),
        "neu" => cmp(|a: T::Row, b| T::of(a) != T::of(b)),
        "ltu" => cmp(|a: T::Row, b| !(T::of(a) >= T::of(b))),
        "leu" => cmp(|a: T::Row, b| !(T::of(a) > T::of(b))),
        "gtu" => cmp(|a: T::Row, b| !(T::of(a) <= T::of(b))),
        "geu" => cmp(|a: T::Row, b| !(T::of(a) < T::of(b))),
        // Only a NaN differs from itself.
        "num" => cmp(|a: T::Row, b| T::of(a) == T::of(a) && T::of(b) == T::of(b)),
        "nan" => cmp(|a: T::Row, b| T::of(a) != T::of(a) || T::of(b) != T::of(b)),
        _ => return ordered::<T>(name),
    })
}

/// The comparison of two values of a type.
fn comparison(ty: Ty, name: &str, ftz: bool) -> Option<Run> {
    match ty {
        Ty::U16 | Ty::B16 | Ty::U32 | Ty::B32 => ordered::<Unsigned>(name),
        Ty::S16 => ordered::<Short>(name),
        Ty::S32 => ordered::<Signed>(name),
        Ty::U64 | Ty::B64 => ordered::<Unsigned64>(name),
        Ty::S64 => ordered::<Signed64>(name),
        Ty::F32 if ftz => float::<Flushed>(name),
        Ty::F32 => float::<Single>(name),
        Ty::F64 => float::<Double>(name),
        Ty::F16 => float::<Half>(name),
        Ty::Bf16 => float::<Brain>(name),
        _ => None,
    }
}

/// Emits the comparison into predicate rows `p` and `q`.
fn compare_into<'a>(
    b: &mut Builder<'_, 'a>,
    op: &Op<'a>,
    ty: Ty,
    args: &[Arg<'a>],
    p: u32,
    q: u32,
) -> Result<bool, String> {
    if let Some(half) = half_of(ty) {
        return compare_halves(b, op, half, args, [p, q]);
    }
    let rows = [b.src(&args[0], ty)?, b.src(&args[1], ty)?];
    compare_rows(b, op, ty, rows, args.get(2), [p, q])
}

/// The type of a pair's halves.
fn half_of(ty: Ty) -> Option<Ty> {
    match ty {
        Ty::F16x2 => Some(Ty::F16),
        Ty::Bf16x2 => Some(Ty::Bf16),
        _ => None,
    }
}

/// Compares pairs: the lower halves into the first predicate, the upper ones into the second.
fn compare_halves<'a>(
    b: &mut Builder<'_, 'a>,
    op: &Op<'a>,
    half: Ty,
    args: &[Arg<'a>],
    predicates: [u32; 2],
) -> Result<bool, String> {
    let pairs = [b.src(&args[0], Ty::B32)?, b.src(&args[1], Ty::B32)?];
    for (upper, p) in predicates.into_iter().enumerate() {
        let mut rows = [0; 2];
        for (row, pair) in rows.iter_mut().zip(pairs) {
            let mut inst = b.inst(if upper == 1 {
                op1(|x: u32| x >> 16)
            } else {
                op1(|x: u32| x & 0xffff)
            });
            *row = b.rows32(1);
            (inst.a, inst.d, inst.class) = (pair, *row, Class::Mov);
            b.emit(inst);
        }
        if !compare_rows(b, op, half, rows, args.get(2), [p, NONE])? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Emits the comparison of two rows.
fn compare_rows<'a>(
    b: &mut Builder<'_, 'a>,
    op: &Op<'a>,
    ty: Ty,
    rows: [u32; 2],
    combined: Option<&Arg<'a>>,
    [p, q]: [u32; 2],
) -> Result<bool, String> {
    let Some(run) = op
        .mods
        .first()
        .and_then(|name| comparison(ty, name, op.has("ftz")))
    else {
        return Ok(false);
    };
    let mut imm = op.mods.iter().find_map(|m| match *m {
        "and" => Some(1),
        "or" => Some(2),
        "xor" => Some(3),
        _ => None,
    });
    let mut third = 0;
    if let (Some(code), Some(arg)) = (&mut imm, combined) {
        let (row, not) = b.pred_src(arg)?;
        third = row;
        *code |= if not { compare::NOT } else { 0 };
    }
    let mut inst = b.inst(run);
    (inst.a, inst.b, inst.c) = (rows[0], rows[1], third);
    (inst.d, inst.list, inst.imm) = (p, q, imm.unwrap_or(0));
    inst.class = Class::Pred;
    b.emit(inst);
    Ok(true)
}

/// `setp`.
///
/// # Errors
///
/// Wrong operands.
pub fn setp<'a>(b: &mut Builder<'_, 'a>, op: &Op<'a>, ins: &Ins<'a>) -> Result<bool, String> {
    let Some(ty) = op.ty() else { return Ok(false) };
    if ins.args.len() < 3 {
        return Err("three operands or four".to_owned());
    }
    let (p, q) = match ins.args[0] {
        Arg::Pair(p, q) => (b.pred(&Arg::Name(p))?.0, b.pred(&Arg::Name(q))?.0),
        ref p => (b.pred(p)?.0, NONE),
    };
    compare_into(b, op, ty, &ins.args[1..], p, q)
}

/// `set.lt.u32.f32 d, a, b`: all ones, or 1.0, where true.
///
/// # Errors
///
/// Wrong operands.
pub fn set<'a>(b: &mut Builder<'_, 'a>, op: &Op<'a>, ins: &Ins<'a>) -> Result<bool, String> {
    let types = op.types();
    let [to, from] = types[..] else {
        return Ok(false);
    };
    if ins.args.len() < 3 {
        return Err("three operands or four".to_owned());
    }
    let p = b.kernel.preds;
    b.kernel.preds += 2;
    let pair = half_of(from).is_some();
    let q = if pair { p + 1 } else { NONE };
    if !compare_into(b, op, from, &ins.args[1..], p, q)? {
        return Ok(false);
    }
    let yes = match to {
        Ty::F32 => 0x3f80_0000,
        Ty::F16 => 0x3c00,
        Ty::Bf16 => 0x3f80,
        Ty::F16x2 => 0x3c00,
        Ty::Bf16x2 => 0x3f80,
        Ty::U16 | Ty::S16 => 0xffff,
        _ => u32::MAX,
    };
    let mut inst = b.inst(select::<u32>());
    (inst.a, inst.b, inst.c) = (b.const32(yes), b.const32(0), p);
    inst.d = b.dst(&ins.args[0], to)?;
    inst.class = Class::Pred;
    if !pair {
        b.emit(inst);
        return Ok(true);
    }
    // The halves' results, one above the other; as whole numbers they are all ones.
    let yes = if half_of(to).is_some() { yes } else { 0xffff };
    let (low, high) = (b.rows32(1), b.rows32(1));
    let result = inst.d;
    (inst.a, inst.d) = (b.const32(yes), low);
    b.emit(inst);
    (inst.a, inst.c, inst.d) = (b.const32(yes << 16), q, high);
    b.emit(inst);
    let mut join = b.inst(op2(|x: u32, y: u32| x | y));
    (join.a, join.b, join.d, join.class) = (low, high, result, Class::Pred);
    b.emit(join);
    Ok(true)
}

/// `slct`: by the sign of the third operand.
///
/// # Errors
///
/// Wrong operands.
pub fn slct<'a>(b: &mut Builder<'_, 'a>, op: &Op<'a>, ins: &Ins<'a>) -> Result<bool, String> {
    let types = op.types();
    let [ty, by] = types[..] else {
        return Ok(false);
    };
    let [dst, x, y, c] = &ins.args[..] else {
        return Err("four operands".to_owned());
    };
    let p = b.kernel.preds;
    b.kernel.preds += 1;
    let Some(run) = comparison(by, "ge", op.has("ftz")) else {
        return Ok(false);
    };
    let mut inst = b.inst(run);
    (inst.a, inst.b, inst.d) = (b.src(c, by)?, b.src(&Arg::Int(0), by)?, p);
    inst.class = Class::Pred;
    b.emit(inst);
    let mut inst = b.inst(if ty.size() == 8 {
        select::<u64>()
    } else {
        select::<u32>()
    });
    (inst.a, inst.b, inst.c) = (b.src(x, ty)?, b.src(y, ty)?, p);
    inst.d = b.dst(dst, ty)?;
    inst.class = Class::Mov;
    b.emit(inst);
    Ok(true)
}

/// `testp`: the class of a float.
///
/// # Errors
///
/// Wrong operands.
pub fn testp<'a>(b: &mut Builder<'_, 'a>, op: &Op<'a>, ins: &Ins<'a>) -> Result<bool, String> {
    macro_rules! test {
        ($lane:ty, $f:ty) => {
            match *op.mods.first().unwrap_or(&"") {
                "finite" => cmp(|a: $lane, _| <$f>::from_bits(a).is_finite()),
                "infinite" => cmp(|a: $lane, _| <$f>::from_bits(a).is_infinite()),
                "number" => cmp(|a: $lane, _| !<$f>::from_bits(a).is_nan()),
                "notanumber" => cmp(|a: $lane, _| <$f>::from_bits(a).is_nan()),
                // Zero counts as normal here, as the ISA says.
                "normal" => cmp(|a: $lane, _| {
                    let x = <$f>::from_bits(a);
                    x.is_normal() || x == 0.0
                }),
                "subnormal" => cmp(|a: $lane, _| <$f>::from_bits(a).is_subnormal()),
                _ => return Ok(false),
            }
        };
    }
    let (Some(ty), [dst, x]) = (op.ty(), &ins.args[..]) else {
        return Ok(false);
    };
    let run = match ty {
        Ty::F32 => test!(u32, f32),
        Ty::F64 => test!(u64, f64),
        _ => return Ok(false),
    };
    let mut inst = b.inst(run);
    inst.a = b.src(x, ty)?;
    (inst.b, inst.d) = (inst.a, b.pred(dst)?.0);
    inst.class = Class::Pred;
    b.emit(inst);
    Ok(true)
}
