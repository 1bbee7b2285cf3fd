//! Integer and bit instructions.

use super::kernel::Builder;
use super::op::Op;
use crate::count::Class;
use crate::exec::cx::Run;
use crate::exec::ops::{op1, op2, op2i, op3, op3i, op4};
use crate::ptx::parse::Ins;
use crate::ptx::types::Ty;

/// Instantiates an expression for every integer type; `T` is the type, `W` one twice as wide.
macro_rules! each {
    ($ty:expr, $op:ident, |$($x:ident),+| $e:expr) => {
        match $ty {
            Ty::U16 | Ty::B16 => Some(each!(@ $op, u32, u16, u16, u32, |$($x),+| $e)),
            Ty::S16 => Some(each!(@ $op, u32, i16, u16, i32, |$($x),+| $e)),
            Ty::U32 | Ty::B32 => Some(each!(@ $op, u32, u32, u32, u64, |$($x),+| $e)),
            Ty::S32 => Some(each!(@ $op, u32, i32, u32, i64, |$($x),+| $e)),
            Ty::U64 | Ty::B64 => Some(each!(@ $op, u64, u64, u64, u128, |$($x),+| $e)),
            Ty::S64 => Some(each!(@ $op, u64, i64, u64, i128, |$($x),+| $e)),
            _ => None,
        }
    };
    (@ $op:ident, $lane:ty, $t:ty, $u:ty, $w:ty, |$($x:ident),+| $e:expr) => {
        $op(|$($x: $lane),+| {
            #[allow(dead_code)]
            type T = $t;
            #[allow(dead_code)]
            type W = $w;
            $(let $x = $x as T;)+
            let r: T = $e;
            r as $u as $lane
        })
    };
}

/// Decodes an integer instruction; `false` if it is none.
///
/// # Errors
///
/// Wrong operands or a form that does not exist.
pub fn decode<'a>(b: &mut Builder<'_, 'a>, op: &Op<'a>, ins: &Ins<'a>) -> Result<bool, String> {
    let Some(ty) = op.ty() else { return Ok(false) };
    if ty.float() && op.base != "copysign" || ty == Ty::Pred {
        return Ok(false);
    }
    let run = match op.base {
        "add" | "sub" if op.has("cc") || op.base.ends_with('c') => None,
        "add" if op.has("sat") => Some(op2(|a: u32, b: u32| {
            (a as i32).saturating_add(b as i32) as u32
        })),
        "sub" if op.has("sat") => Some(op2(|a: u32, b: u32| {
            (a as i32).saturating_sub(b as i32) as u32
        })),
        "add" => each!(ty, op2, |a, b| a.wrapping_add(b)),
        "sub" => each!(ty, op2, |a, b| a.wrapping_sub(b)),
        "div" | "rem" => divide(op.base == "div", ty),
        "min" => each!(ty, op2, |a, b| a.min(b)),
        "max" => each!(ty, op2, |a, b| a.max(b)),
        "abs" => each!(ty, op1, |a| if a < 0 as T {
            (0 as T).wrapping_sub(a)
        } else {
            a
        }),
        "neg" => each!(ty, op1, |a| (0 as T).wrapping_sub(a)),
        "and" => each!(ty, op2, |a, b| a & b),
        "or" => each!(ty, op2, |a, b| a | b),
        "xor" => each!(ty, op2, |a, b| a ^ b),
        "not" => each!(ty, op1, |a| !a),
        "cnot" => each!(ty, op1, |a| T::from(a == 0)),
        "sad" => return sad(b, ins, ty),
        "mul" | "mad" => return multiply(b, op, ins, ty),
        "mul24" | "mad24" => return multiply24(b, op, ins, ty),
        "shl" | "shr" => return shift(b, op, ins, ty),
        _ => return bits(b, op, ins, ty),
    };
    match run {
        Some(run) => b.plain(ins, run, ty, Class::Int, 0).map(|()| true),
        None => Ok(false),
    }
}

/// Quotient or remainder. By zero the ISA leaves it open; hardware gives all ones, and the dividend.
fn divide(quotient_wanted: bool, ty: Ty) -> Option<Run> {
    match (ty, quotient_wanted) {
        (Ty::U32, true) => Some(op2(
            |a: u32, b: u32| if b == 0 { !0 } else { quotient(a, b) },
        )),
        (Ty::U32, false) => Some(op2(|a: u32, b: u32| {
            if b == 0 {
                a
            } else {
                a.wrapping_sub(b.wrapping_mul(quotient(a, b)))
            }
        })),
        (Ty::S32, true) => Some(op2(
            |a: u32, b: u32| if b == 0 { !0 } else { signed_quotient(a, b) },
        )),
        (Ty::S32, false) => Some(op2(|a: u32, b: u32| {
            if b == 0 {
                a
            } else {
                a.wrapping_sub(b.wrapping_mul(signed_quotient(a, b)))
            }
        })),
        (_, true) => each!(ty, op2, |a, b| if b == 0 { !0 } else { a.wrapping_div(b) }),
        (_, false) => each!(ty, op2, |a, b| if b == 0 { a } else { a.wrapping_rem(b) }),
    }
}

/// a / b through f64, which vector units divide: exact, for the quotient's distance to the next integer is
/// at least 1/b, far more than a rounding.
#[inline(always)]
fn quotient(a: u32, b: u32) -> u32 {
    // An integer in the low bits of 2^52 is that integer more.
    let wide =
        |x: u32| f64::from_bits(0x4330_0000_0000_0000 | u64::from(x)) - 4_503_599_627_370_496.0;
    ((wide(a) / wide(b)).trunc() + 4_503_599_627_370_496.0).to_bits() as u32
}

/// As `quotient`, signed; the one overflow wraps.
#[inline(always)]
fn signed_quotient(a: u32, b: u32) -> u32 {
    let wide = |x: u32| f64::from(x as i32);
    ((wide(a) / wide(b)).trunc() + 6_755_399_441_055_744.0).to_bits() as u32
}

fn sad<'a>(b: &mut Builder<'_, 'a>, ins: &Ins<'a>, ty: Ty) -> Result<bool, String> {
    let run = each!(ty, op3, |a, b, c| (if a < b {
        b.wrapping_sub(a)
    } else {
        a.wrapping_sub(b)
    })
    .wrapping_add(c));
    let Some(run) = run else { return Ok(false) };
    b.plain(ins, run, ty, Class::Int, 0).map(|()| true)
}

fn multiply<'a>(
    b: &mut Builder<'_, 'a>,
    op: &Op<'a>,
    ins: &Ins<'a>,
    ty: Ty,
) -> Result<bool, String> {
    if op.has("wide") {
        return wide(b, op, ins, ty);
    }
    let high = op.has("hi");
    let run = match (op.base, high) {
        ("mul", false) => each!(ty, op2, |a, b| a.wrapping_mul(b)),
        ("mul", true) => each!(ty, op2, |a, b| ((W::from(a) * W::from(b)) >> T::BITS) as T),
        (_, false) => each!(ty, op3, |a, b, c| a.wrapping_mul(b).wrapping_add(c)),
        (_, true) => each!(ty, op3, |a, b, c| (((W::from(a) * W::from(b)) >> T::BITS)
            as T)
            .wrapping_add(c)),
    };
    let Some(run) = run else { return Ok(false) };
    b.plain(ins, run, ty, Class::Int, 0).map(|()| true)
}

fn wide<'a>(b: &mut Builder<'_, 'a>, op: &Op<'a>, ins: &Ins<'a>, ty: Ty) -> Result<bool, String> {
    let mad = op.base == "mad";
    let (run, to): (Run, Ty) = match (ty, mad) {
        (Ty::U16, false) => (op2(|a: u32, b: u32| a * b), Ty::U32),
        (Ty::S16, false) => (
            op2(|a: u32, b: u32| (i32::from(a as i16) * i32::from(b as i16)) as u32),
            Ty::S32,
        ),
        (Ty::U32, false) => (op2(|a: u32, b: u32| u64::from(a) * u64::from(b)), Ty::U64),
        (Ty::S32, false) => (
            op2(|a: u32, b: u32| (i64::from(a as i32) * i64::from(b as i32)) as u64),
            Ty::S64,
        ),
        (Ty::U16, true) => (
            op3(|a: u32, b: u32, c: u32| (a * b).wrapping_add(c)),
            Ty::U32,
        ),
        (Ty::S16, true) => (
            op3(|a: u32, b: u32, c: u32| {
                ((i32::from(a as i16) * i32::from(b as i16)) as u32).wrapping_add(c)
            }),
            Ty::S32,
        ),
        (Ty::U32, true) => (
            op3(|a: u32, b: u32, c: u64| (u64::from(a) * u64::from(b)).wrapping_add(c)),
            Ty::U64,
        ),
        (Ty::S32, true) => (
            op3(|a: u32, b: u32, c: u64| {
                ((i64::from(a as i32) * i64::from(b as i32)) as u64).wrapping_add(c)
            }),
            Ty::S64,
        ),
        _ => return Ok(false),
    };
    let types = [ty, ty, to];
    b.typed(
        ins,
        run,
        to,
        &types[..if mad { 3 } else { 2 }],
        Class::Int,
        0,
    )
    .map(|()| true)
}

fn multiply24<'a>(
    b: &mut Builder<'_, 'a>,
    op: &Op<'a>,
    ins: &Ins<'a>,
    ty: Ty,
) -> Result<bool, String> {
    fn product(a: u32, b: u32, code: u64) -> u32 {
        let (a, b) = if code & 1 == 1 {
            (
                i64::from((a << 8) as i32 >> 8),
                i64::from((b << 8) as i32 >> 8),
            )
        } else {
            (i64::from(a & 0xff_ffff), i64::from(b & 0xff_ffff))
        };
        (if code & 2 == 2 { (a * b) >> 16 } else { a * b }) as u32
    }
    let code = u64::from(ty.signed()) | if op.has("hi") { 2 } else { 0 };
    let run = if op.base == "mul24" {
        op2i(|a: u32, b: u32, code| product(a, b, code))
    } else {
        op3i(|a: u32, b: u32, c: u32, code| product(a, b, code).wrapping_add(c))
    };
    b.plain(ins, run, ty, Class::Int, code).map(|()| true)
}

/// Shifts by 32 bits of count; counts beyond the width shift everything out.
fn shift<'a>(b: &mut Builder<'_, 'a>, op: &Op<'a>, ins: &Ins<'a>, ty: Ty) -> Result<bool, String> {
    let run = match (op.base, ty.size(), ty.signed()) {
        ("shl", 2, _) => op2(|a: u32, n: u32| if n > 15 { 0 } else { a << n & 0xffff }),
        ("shl", 4, _) => op2(|a: u32, n: u32| if n > 31 { 0 } else { a << n }),
        ("shl", 8, _) => op2(|a: u64, n: u32| if n > 63 { 0 } else { a << n }),
        ("shr", 2, false) => op2(|a: u32, n: u32| if n > 15 { 0 } else { a >> n }),
        ("shr", 4, false) => op2(|a: u32, n: u32| if n > 31 { 0 } else { a >> n }),
        ("shr", 8, false) => op2(|a: u64, n: u32| if n > 63 { 0 } else { a >> n }),
        ("shr", 2, true) => op2(|a: u32, n: u32| u32::from((a as i16 >> n.min(15)) as u16)),
        ("shr", 4, true) => op2(|a: u32, n: u32| (a as i32 >> n.min(31)) as u32),
        ("shr", 8, true) => op2(|a: u64, n: u32| (a as i64 >> n.min(63)) as u64),
        _ => return Ok(false),
    };
    b.typed(ins, run, ty, &[ty, Ty::U32], Class::Int, 0)
        .map(|()| true)
}

fn bits<'a>(b: &mut Builder<'_, 'a>, op: &Op<'a>, ins: &Ins<'a>, ty: Ty) -> Result<bool, String> {
    use Ty::{B32, B64, F32, F64, S32, U32};
    let u = U32;
    let class = Class::Int;
    let done = match (op.base, ty) {
        ("popc", B32) => b.typed(ins, op1(|a: u32| a.count_ones()), u, &[ty], class, 0),
        ("popc", B64) => b.typed(ins, op1(|a: u64| a.count_ones()), u, &[ty], class, 0),
        ("clz", B32) => b.typed(ins, op1(|a: u32| a.leading_zeros()), u, &[ty], class, 0),
        ("clz", B64) => b.typed(ins, op1(|a: u64| a.leading_zeros()), u, &[ty], class, 0),
        ("brev", B32) => b.plain(ins, op1(|a: u32| a.reverse_bits()), ty, class, 0),
        ("brev", B64) => b.plain(ins, op1(|a: u64| a.reverse_bits()), ty, class, 0),
        ("bfind", _) => return find(b, op, ins, ty),
        ("bfe", _) => return extract(b, ins, ty),
        ("bfi", B32) => b.typed_list(
            ins,
            op4(|a: u32, b: u32, p, n| insert(u64::from(a), u64::from(b), p, n, 32) as u32),
            ty,
            &[B32, B32, U32, U32],
            class,
        ),
        ("bfi", B64) => b.typed_list(
            ins,
            op4(|a: u64, b: u64, p, n| insert(a, b, p, n, 64)),
            ty,
            &[B64, B64, U32, U32],
            class,
        ),
        ("lop3", B32) => return lop3(b, ins),
        ("prmt" | "shf", B32) => return across(b, op, ins),
        ("copysign", F32) => b.plain(
            ins,
            op2(|a: u32, b: u32| b & 0x7fff_ffff | a & 0x8000_0000),
            ty,
            class,
            0,
        ),
        ("copysign", F64) => b.plain(
            ins,
            op2(|a: u64, b: u64| b & (u64::MAX >> 1) | a & (1 << 63)),
            ty,
            class,
            0,
        ),
        ("dp4a", S32 | U32) | ("dp2a", S32 | U32) => return dot(b, op, ins),
        ("bmsk", B32) => {
            let code = u64::from(op.has("clamp"));
            b.typed(ins, op2i(mask_bits), ty, &[B32, B32], class, code)
        }
        ("szext", _) => {
            let code = u64::from(op.has("clamp")) | if ty == S32 { 2 } else { 0 };
            b.typed(ins, op2i(extend), ty, &[ty, U32], class, code)
        }
        _ => return Ok(false),
    };
    done.map(|()| true)
}

/// Two words into one: bytes chosen, or shifted as 64 bits.
fn across<'a>(b: &mut Builder<'_, 'a>, op: &Op<'a>, ins: &Ins<'a>) -> Result<bool, String> {
    let mut mode = 0;
    let run = match (op.base, op.has("l"), op.has("clamp")) {
        ("prmt", ..) => {
            let modes = ["f4e", "b4e", "rc8", "ecl", "ecr", "rc16"];
            mode = modes
                .iter()
                .position(|m| op.has(m))
                .map_or(0, |n| n as u64 + 1);
            op3i(permute)
        }
        (_, true, false) => op3(|a: u32, b: u32, n: u32| funnel(a, b, 32 - (n & 31))),
        (_, true, true) => op3(|a: u32, b: u32, n: u32| funnel(a, b, 32 - n.min(32))),
        (_, false, false) => op3(|a: u32, b: u32, n: u32| funnel(a, b, n & 31)),
        (_, false, true) => op3(|a: u32, b: u32, n: u32| funnel(a, b, n.min(32))),
    };
    let types = [Ty::B32, Ty::B32, Ty::U32];
    b.typed(ins, run, Ty::B32, &types, Class::Int, mode)
        .map(|()| true)
}

/// 64 bits `b:a` shifted right by up to 32.
fn funnel(a: u32, b: u32, n: u32) -> u32 {
    ((u64::from(b) << 32 | u64::from(a)) >> n) as u32
}

fn find<'a>(b: &mut Builder<'_, 'a>, op: &Op<'a>, ins: &Ins<'a>, ty: Ty) -> Result<bool, String> {
    let run = match (ty, op.has("shiftamt")) {
        (Ty::U32, false) => op1(|a: u32| if a == 0 { !0 } else { 31 - a.leading_zeros() }),
        (Ty::U32, true) => op1(|a: u32| if a == 0 { !0 } else { a.leading_zeros() }),
        (Ty::S32, false) => {
            op1(|a: u32| 31u32.wrapping_sub(((a as i32 >> 31) as u32 ^ a).leading_zeros()))
        }
        (Ty::S32, true) => op1(
            |a: u32| match ((a as i32 >> 31) as u32 ^ a).leading_zeros() {
                32 => !0,
                n => n,
            },
        ),
        (Ty::U64, false) => op1(|a: u64| if a == 0 { !0 } else { 63 - a.leading_zeros() }),
        (Ty::U64, true) => op1(|a: u64| if a == 0 { !0 } else { a.leading_zeros() }),
        (Ty::S64, false) => {
            op1(|a: u64| 63u32.wrapping_sub(((a as i64 >> 63) as u64 ^ a).leading_zeros()))
        }
        (Ty::S64, true) => op1(
            |a: u64| match ((a as i64 >> 63) as u64 ^ a).leading_zeros() {
                64 => !0,
                n => n,
            },
        ),
        _ => return Ok(false),
    };
    b.typed(ins, run, Ty::U32, &[ty], Class::Int, 0)
        .map(|()| true)
}

fn extract<'a>(b: &mut Builder<'_, 'a>, ins: &Ins<'a>, ty: Ty) -> Result<bool, String> {
    /// Bits `pos..pos+len` of a number of `width` bits; beyond its top stands its sign, or zero.
    fn field(a: u64, pos: u32, len: u32, width: u32, signed: bool) -> u64 {
        let (pos, len) = (pos & 0xff, len & 0xff);
        let value = if signed {
            (a as i64) << (64 - width) >> (64 - width)
        } else {
            a as i64
        };
        if len == 0 {
            return 0;
        }
        // The sign is bit min(pos + len - 1, width - 1).
        let top = (pos + len - 1).min(width - 1);
        let sign = signed && value >> top & 1 == 1;
        let mut out = if pos > top {
            0
        } else {
            (value as u64) << (63 - top) >> (63 - top) >> pos
        };
        let kept = if pos > top { 0 } else { top - pos + 1 };
        if sign && kept < 64 {
            out |= u64::MAX << kept;
        }
        out
    }
    let run = match ty {
        Ty::U32 => op3(|a: u32, p: u32, n: u32| field(u64::from(a), p, n, 32, false) as u32),
        Ty::S32 => op3(|a: u32, p: u32, n: u32| field(u64::from(a), p, n, 32, true) as u32),
        Ty::U64 => op3(|a: u64, p: u32, n: u32| field(a, p, n, 64, false)),
        Ty::S64 => op3(|a: u64, p: u32, n: u32| field(a, p, n, 64, true)),
        _ => return Ok(false),
    };
    b.typed(ins, run, ty, &[ty, Ty::U32, Ty::U32], Class::Int, 0)
        .map(|()| true)
}

fn insert(a: u64, b: u64, pos: u32, len: u32, width: u32) -> u64 {
    let (pos, len) = (pos & 0xff, len & 0xff);
    if pos >= width || len == 0 {
        return b;
    }
    let len = len.min(width - pos);
    let mask = (if len == 64 { u64::MAX } else { (1 << len) - 1 }) << pos;
    b & !mask | a << pos & mask
}

fn lop3<'a>(b: &mut Builder<'_, 'a>, ins: &Ins<'a>) -> Result<bool, String> {
    let Some(crate::ptx::parse::Arg::Int(table)) = ins.args.get(4) else {
        return Err("lop3 needs its table".to_owned());
    };
    let run = match table {
        0xc0 => op3i(|a: u32, b: u32, _: u32, _| a & b),
        0x96 => op3i(|a: u32, b: u32, c: u32, _| a ^ b ^ c),
        0xf8 => op3i(|a: u32, b: u32, c: u32, _| a | b & c),
        _ => op3i(|a: u32, b: u32, c: u32, table| {
            let mut r = 0;
            for n in 0..8 {
                let term = (if n & 4 != 0 { a } else { !a })
                    & (if n & 2 != 0 { b } else { !b })
                    & (if n & 1 != 0 { c } else { !c });
                r |= if table >> n & 1 == 1 { term } else { 0 };
            }
            r
        }),
    };
    let table = *table;
    let short = Ins {
        guard: ins.guard,
        op: ins.op,
        args: ins.args[..4].to_vec(),
    };
    b.typed(&short, run, Ty::B32, &[Ty::B32; 3], Class::Int, table)
        .map(|()| true)
}

fn permute(a: u32, b: u32, control: u32, mode: u64) -> u32 {
    let bytes = u64::from(b) << 32 | u64::from(a);
    let pick = |n: u32| (bytes >> (8 * n) & 0xff) as u32;
    let c = control & 3;
    let chosen: [u32; 4] = match mode {
        1 => [c, c + 1, c + 2, c + 3],
        2 => [c, (c + 7) & 7, (c + 6) & 7, (c + 5) & 7],
        3 => [c; 4],
        4 => [c, c.max(1), c.max(2), 3],
        5 => [0, c.min(1), c.min(2), c],
        6 => [(c & 1) * 2, (c & 1) * 2 + 1, (c & 1) * 2, (c & 1) * 2 + 1],
        _ => {
            let mut r = 0;
            for n in 0..4 {
                let s = control >> (4 * n) & 15;
                let byte = pick(s & 7);
                let byte = if s & 8 != 0 {
                    if byte & 0x80 != 0 { 0xff } else { 0 }
                } else {
                    byte
                };
                r |= byte << (8 * n);
            }
            return r;
        }
    };
    (0..4).fold(0, |r, n| r | pick(chosen[n]) << (8 * n))
}

fn dot<'a>(b: &mut Builder<'_, 'a>, op: &Op<'a>, ins: &Ins<'a>) -> Result<bool, String> {
    let signs: Vec<bool> = op
        .mods
        .iter()
        .filter_map(|m| Ty::named(m))
        .map(Ty::signed)
        .collect();
    let [sa, sb] = signs[..] else {
        return Err("needs two types".to_owned());
    };
    let code = u64::from(sa) | u64::from(sb) << 1 | if op.has("hi") { 4 } else { 0 };
    let run = if op.base == "dp4a" {
        op3i(|a: u32, b: u32, c: u32, code| {
            let byte = |x: u32, n: u32, s: bool| {
                if s {
                    i32::from((x >> (8 * n)) as i8)
                } else {
                    (x >> (8 * n) & 0xff) as i32
                }
            };
            (0..4).fold(c, |r, n| {
                r.wrapping_add((byte(a, n, code & 1 != 0) * byte(b, n, code & 2 != 0)) as u32)
            })
        })
    } else {
        op3i(|a: u32, b: u32, c: u32, code| {
            let half = |n: u32| {
                if code & 1 != 0 {
                    i32::from((a >> (16 * n)) as i16)
                } else {
                    (a >> (16 * n) & 0xffff) as i32
                }
            };
            let at = |n: u32| 8 * (n + if code & 4 != 0 { 2 } else { 0 });
            let byte = |n: u32| {
                if code & 2 != 0 {
                    i32::from((b >> at(n)) as i8)
                } else {
                    (b >> at(n) & 0xff) as i32
                }
            };
            (0..2).fold(c, |r, n| {
                r.wrapping_add(half(n).wrapping_mul(byte(n)) as u32)
            })
        })
    };
    b.plain(ins, run, Ty::B32, Class::Int, code).map(|()| true)
}

fn mask_bits(a: u32, n: u32, clamp: u64) -> u32 {
    let (a, n) = if clamp != 0 {
        (a.min(32), n.min(32))
    } else {
        (a & 31, n & 31)
    };
    if a >= 32 {
        0
    } else {
        ((((1u64 << n) - 1) << a) & 0xffff_ffff) as u32
    }
}

fn extend(a: u32, n: u32, code: u64) -> u32 {
    let n = if code & 1 != 0 { n.min(32) } else { n & 31 };
    if n == 0 {
        0
    } else if code & 2 != 0 {
        ((a << (32 - n)) as i32 >> (32 - n)) as u32
    } else {
        a << (32 - n) >> (32 - n)
    }
}
