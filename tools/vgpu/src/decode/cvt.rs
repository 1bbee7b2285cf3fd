//! Conversions.

use super::kernel::Builder;
use super::op::Op;
use crate::count::Class;
use crate::exec::cx::Run;
use crate::exec::eight::{e4m3_to_f32, e5m2_to_f32, from_f32};
use crate::exec::half::{
    BF16, F16, F32, Round, TF32, bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16, narrow,
};
use crate::exec::math::{bits, bits64, flag, flush, sat64};
use crate::exec::ops::{op1, op1i, op2i};
use crate::ptx::parse::Ins;
use crate::ptx::types::Ty;

/// A conversion's immediate: flags in the low byte, then rounding to integers, target and source.
#[derive(Clone, Copy)]
struct How {
    flags: u64,
    integral: bool,
    to: Ty,
    from: Ty,
}

const TYPES: [Ty; 13] = [
    Ty::U8,
    Ty::U16,
    Ty::U32,
    Ty::U64,
    Ty::S8,
    Ty::S16,
    Ty::S32,
    Ty::S64,
    Ty::F16,
    Ty::Bf16,
    Ty::F32,
    Ty::F64,
    Ty::Tf32,
];

impl How {
    fn pack(self) -> Option<u64> {
        let code = |ty: Ty| {
            TYPES
                .iter()
                .position(|t| *t == if ty.float() { ty } else { int_of(ty) })
                .map(|n| n as u64)
        };
        Some(
            self.flags
                | u64::from(self.integral) << 8
                | code(self.to)? << 16
                | code(self.from)? << 24,
        )
    }

    fn unpack(imm: u64) -> How {
        let ty = |n: u64| TYPES[(n & 0xff) as usize % TYPES.len()];
        How {
            flags: imm & 0xff,
            integral: imm >> 8 & 1 == 1,
            to: ty(imm >> 16),
            from: ty(imm >> 24),
        }
    }
}

/// A bit type counts as unsigned.
fn int_of(ty: Ty) -> Ty {
    if ty.signed() { ty } else { ty.bits() }
}

/// Decodes `cvt`; `false` if it is none.
///
/// # Errors
///
/// Wrong operands or types that do not convert.
pub fn decode<'a>(b: &mut Builder<'_, 'a>, op: &Op<'a>, ins: &Ins<'a>) -> Result<bool, String> {
    if op.base != "cvt" {
        return Ok(false);
    }
    if op.has("e4m3x2") || op.has("e5m2x2") {
        return eight(b, op, ins);
    }
    let types = op.types();
    let [to, from] = types[..] else {
        return Ok(false);
    };
    let flags = op.float_flags();
    if ins.args.len() == 3 {
        return pack(b, ins, to, from, flags);
    }
    let [dst, src] = &ins.args[..] else {
        return Err("two operands".to_owned());
    };
    // Registers may be wider than the types.
    let wide_dst = b.is_wide(dst);
    let wide_src = b.is_wide(src) || from.size() == 8;
    let run = if wide_dst == (to.size() == 8) && wide_src == (from.size() == 8) {
        fast(to, from, flags, op)
    } else {
        None
    };
    let integral = op
        .mods
        .iter()
        .any(|m| matches!(*m, "rni" | "rzi" | "rmi" | "rpi"));
    let Some(imm) = (How {
        flags,
        integral,
        to,
        from,
    })
    .pack() else {
        return Ok(false);
    };
    let run = run.unwrap_or_else(|| any(wide_dst, wide_src));
    let mut inst = b.inst(run);
    // A constant has its own type, a register its width.
    let source = if b.is_wide(src) { Ty::B64 } else { from };
    inst.a = b.src(src, source)?;
    inst.d = b.dst(dst, if wide_dst { Ty::B64 } else { Ty::B32 })?;
    (inst.class, inst.imm) = (Class::Cvt, imm);
    inst.floats = crate::exec::nan::Floats::of(to, &[from]);
    b.emit(inst);
    if to == Ty::S8 && b.is_narrow(dst) {
        let mut mask = b.inst(op1(|a: u32| a & 0xffff));
        (mask.a, mask.d, mask.class) = (inst.d, inst.d, Class::Cvt);
        b.emit(mask);
    }
    Ok(true)
}

/// The conversion of anything, between registers of these widths.
fn any(wide_dst: bool, wide_src: bool) -> Run {
    match (wide_dst, wide_src) {
        (false, false) => op1i(|a: u32, m| convert(u64::from(a), m) as u32),
        (false, true) => op1i(|a: u64, m| convert(a, m) as u32),
        (true, false) => op1i(|a: u32, m| convert(u64::from(a), m)),
        (true, true) => op1i(convert),
    }
}

/// Conversions that occur in inner loops, as vector loops.
fn fast(to: Ty, from: Ty, flags: u64, op: &Op<'_>) -> Option<Run> {
    use Ty::{B64, Bf16, F16, F32, S32, S64, U16, U32, U64};
    if flags & !flag::FTZ != 0 {
        return match (to, from, flags & !flag::FTZ) {
            (S32, F32, 1) if op.has("rzi") => Some(op1i(|a: u32, m| to_i32(a, m))),
            _ => None,
        };
    }
    let nearest = op.has("rn");
    Some(match (to, from) {
        (U64, U32) => op1(|a: u32| u64::from(a)),
        (S64, S32) => op1(|a: u32| i64::from(a as i32) as u64),
        (U32 | S32, U64 | S64 | B64) => op1(|a: u64| a as u32),
        (U16, U32) => op1(|a: u32| a & 0xffff),
        (U32 | S32, U16) => op1(|a: u32| a),
        (Bf16, F32) if nearest => op1i(|a: u32, m| {
            f32_to_bf16(f32::from_bits(if m & flag::FTZ != 0 {
                flush(a)
            } else {
                a
            }))
        }),
        (F16, F32) if nearest => op1i(|a: u32, m| {
            f32_to_f16(f32::from_bits(if m & flag::FTZ != 0 {
                flush(a)
            } else {
                a
            }))
        }),
        (F32, Bf16) => op1(|a: u32| bits(bf16_to_f32(a))),
        (F32, F16) => op1(|a: u32| bits(f16_to_f32(a))),
        (F32, S32) if nearest => op1(|a: u32| (a as i32 as f32).to_bits()),
        (F32, U32) if nearest => op1(|a: u32| (a as f32).to_bits()),
        _ => return None,
    })
}

/// f32 to s32 towards zero, saturating, NaN to 0: what `as` does.
#[inline(always)]
fn to_i32(a: u32, m: u64) -> u32 {
    f32::from_bits(if m & flag::FTZ != 0 { flush(a) } else { a }) as i32 as u32
}

/// Bits of an eight-bit conversion's immediate: e5m2, relu.
const WIDE: u64 = 1;
const RELU: u64 = 2;

/// `cvt.rn.satfinite.e4m3x2.f32 d, high, low`, the same from f16x2, and back to f16x2.
fn eight<'a>(b: &mut Builder<'_, 'a>, op: &Op<'a>, ins: &Ins<'a>) -> Result<bool, String> {
    let (narrows, halves) = (op.has("satfinite"), op.has("f16x2"));
    let run: Run = match (narrows, halves, ins.args.len()) {
        (true, false, 3) => op2i(|a: u32, b: u32, m| {
            let to = |x: u32| from_f32(f32::from_bits(x), m & WIDE != 0, m & RELU != 0);
            to(a) << 8 | to(b)
        }),
        (true, true, 2) => op1i(|a: u32, m| {
            let to = |x: u32| from_f32(f16_to_f32(x & 0xffff), m & WIDE != 0, m & RELU != 0);
            to(a >> 16) << 8 | to(a)
        }),
        (false, true, 2) => op1i(|a: u32, m| {
            let up = |x: u32| {
                let v = if m & WIDE != 0 {
                    e5m2_to_f32(x)
                } else {
                    e4m3_to_f32(x)
                };
                let v = if m & RELU != 0 && v < 0.0 { 0.0 } else { v };
                f32_to_f16(v)
            };
            up(a >> 8) << 16 | up(a)
        }),
        _ => return Ok(false),
    };
    let mut inst = b.inst(run);
    let (from, to) = match (narrows, halves) {
        (true, false) => (Ty::F32, Ty::B16),
        (true, true) => (Ty::B32, Ty::B16),
        _ => (Ty::B16, Ty::B32),
    };
    inst.d = b.dst(&ins.args[0], to)?;
    inst.a = b.src(&ins.args[1], from)?;
    inst.b = match ins.args.get(2) {
        Some(low) => b.src(low, from)?,
        None => inst.a,
    };
    inst.imm = if op.has("e5m2x2") { WIDE } else { 0 } | if op.has("relu") { RELU } else { 0 };
    inst.class = Class::Cvt;
    b.emit(inst);
    Ok(true)
}

/// `cvt.rn.bf16x2.f32 d, high, low` and its kin.
fn pack<'a>(
    b: &mut Builder<'_, 'a>,
    ins: &Ins<'a>,
    to: Ty,
    from: Ty,
    flags: u64,
) -> Result<bool, String> {
    fn half(x: u32, m: u64, format: crate::exec::half::Format) -> u32 {
        let x = f32::from_bits(x);
        let x = if m & flag::RELU != 0 && x <= 0.0 {
            0.0
        } else {
            x
        };
        narrow(x.into(), format, Round::of(m))
    }
    let run = match (to, from, flags) {
        (Ty::Bf16x2, Ty::F32, 0) => op2i(|a: u32, b: u32, _| {
            f32_to_bf16(f32::from_bits(a)) << 16 | f32_to_bf16(f32::from_bits(b))
        }),
        (Ty::F16x2, Ty::F32, 0) => op2i(|a: u32, b: u32, _| {
            f32_to_f16(f32::from_bits(a)) << 16 | f32_to_f16(f32::from_bits(b))
        }),
        (Ty::Bf16x2, Ty::F32, _) => {
            op2i(|a: u32, b: u32, m| half(a, m, BF16) << 16 | half(b, m, BF16))
        }
        (Ty::F16x2, Ty::F32, _) => {
            op2i(|a: u32, b: u32, m| half(a, m, F16) << 16 | half(b, m, F16))
        }
        _ => return Ok(false),
    };
    b.typed(ins, run, to, &[from, from], Class::Cvt, flags)
        .map(|()| true)
}

/// Any conversion of one value. The result fills a 64-bit register by its type's sign.
fn convert(a: u64, imm: u64) -> u64 {
    let how = How::unpack(imm);
    match (how.from.float(), how.to.float()) {
        (false, false) => int_to_int(a, how),
        (false, true) => int_to_float(integer(a, how.from), how),
        (true, false) => float_to_int(float(a, how), how),
        (true, true) => float_to_float(float(a, how), how),
    }
}

/// A source's value as an integer.
fn integer(a: u64, ty: Ty) -> i128 {
    match ty {
        Ty::U8 => i128::from(a as u8),
        Ty::U16 => i128::from(a as u16),
        Ty::U32 => i128::from(a as u32),
        Ty::S8 => i128::from(a as i8),
        Ty::S16 => i128::from(a as i16),
        Ty::S32 => i128::from(a as i32),
        Ty::S64 => i128::from(a as i64),
        _ => i128::from(a),
    }
}

fn range(ty: Ty) -> (i128, i128) {
    let width = 8 * ty.size();
    if ty.signed() {
        (-(1i128 << (width - 1)), (1i128 << (width - 1)) - 1)
    } else {
        (0, (1i128 << width) - 1)
    }
}

fn int_to_int(a: u64, how: How) -> u64 {
    let mut v = integer(a, how.from);
    if how.flags & flag::SAT != 0 {
        let (low, high) = range(how.to);
        v = v.clamp(low, high);
    }
    register(v, how.to)
}

/// An integer cut to its type; a 16-bit register keeps only its own bits, wider ones the sign.
fn register(v: i128, ty: Ty) -> u64 {
    match ty {
        Ty::S16 => u64::from(v as i16 as u16),
        _ => integer(v as u64, ty) as u64,
    }
}

fn int_to_float(v: i128, how: How) -> u64 {
    let round = Round::of(how.flags);
    let r = match how.to {
        // f64 cannot hold every 64-bit integer: round to odd first.
        Ty::F64 => return int_to_f64(v, round).to_bits(),
        Ty::F32 => narrow(odd_of(v), F32, round),
        Ty::F16 => narrow(odd_of(v), F16, round),
        _ => narrow(odd_of(v), BF16, round),
    };
    u64::from(if how.flags & flag::SAT != 0 {
        saturated(r, how.to)
    } else {
        r
    })
}

fn saturated(r: u32, ty: Ty) -> u32 {
    let v = match ty {
        Ty::F32 => f64::from(f32::from_bits(r)),
        Ty::F16 => f64::from(f16_to_f32(r)),
        _ => f64::from(bf16_to_f32(r)),
    };
    let format = match ty {
        Ty::F32 => F32,
        Ty::F16 => F16,
        _ => BF16,
    };
    narrow(sat64(v), format, Round::Nearest)
}

/// An integer as a double rounded to odd.
fn odd_of(v: i128) -> f64 {
    let near = v as f64;
    let back = near as i128;
    if back == v || near.to_bits() & 1 == 1 {
        return near;
    }
    let larger = (v > back) == (v > 0);
    f64::from_bits(if larger {
        near.to_bits() + 1
    } else {
        near.to_bits() - 1
    })
}

fn int_to_f64(v: i128, round: Round) -> f64 {
    let near = v as f64;
    let back = near as i128;
    let (up, down) = (near.next_up(), near.next_down());
    match round {
        Round::Zero if back.abs() > v.abs() => {
            if v > 0 {
                down
            } else {
                up
            }
        }
        Round::Down if back > v => down,
        Round::Up if back < v => up,
        _ => near,
    }
}

/// A source's value as a double.
fn float(a: u64, how: How) -> f64 {
    let f32_in = |a: u64| {
        if how.flags & flag::FTZ != 0 {
            flush(a as u32)
        } else {
            a as u32
        }
    };
    match how.from {
        Ty::F64 => f64::from_bits(a),
        Ty::F32 => f64::from(f32::from_bits(f32_in(a))),
        Ty::F16 => f64::from(f16_to_f32(a as u32 & 0xffff)),
        _ => f64::from(bf16_to_f32(a as u32 & 0xffff)),
    }
}

/// Rounds to an integral value.
fn integral(x: f64, round: Round) -> f64 {
    match round {
        Round::Zero => x.trunc(),
        Round::Down => x.floor(),
        Round::Up => x.ceil(),
        _ => x.round_ties_even(),
    }
}

/// Saturates; NaN gives 0, or the top bit where source or target has 64 bits.
fn float_to_int(x: f64, how: How) -> u64 {
    if x.is_nan() {
        return if how.to.size() == 8 || how.from == Ty::F64 {
            1 << (8 * how.to.size() - 1)
        } else {
            0
        };
    }
    let x = integral(x, Round::of(how.flags));
    let (low, high) = range(how.to);
    let v = if x >= high as f64 {
        high
    } else if x <= low as f64 {
        low
    } else {
        x as i128
    };
    register(v, how.to)
}

fn float_to_float(x: f64, how: How) -> u64 {
    let round = Round::of(how.flags);
    let x = if how.integral { integral(x, round) } else { x };
    let x = if how.flags & flag::SAT != 0 {
        sat64(x)
    } else {
        x
    };
    let x = if how.flags & flag::RELU != 0 && !x.is_nan() && x <= 0.0 {
        0.0
    } else {
        x
    };
    let round = if how.integral { Round::Nearest } else { round };
    match how.to {
        Ty::F64 => bits64(x),
        Ty::F32 => {
            let r = narrow(x, F32, round);
            u64::from(if how.flags & flag::FTZ != 0 {
                flush(r)
            } else {
                r
            })
        }
        Ty::F16 => u64::from(narrow(x, F16, round)),
        Ty::Tf32 => {
            let r = narrow(x, TF32, round);
            u64::from(if x.is_nan() { 0x7fff_ffff } else { r << 13 })
        }
        _ => u64::from(narrow(x, BF16, round)),
    }
}
