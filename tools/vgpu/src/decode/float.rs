//! Floating-point instructions.

use super::kernel::Builder;
use super::op::Op;
use crate::count::Class;
use crate::exec::cx::Run;
use crate::exec::half::{
    BF16, F16, Format, Round, bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16, narrow,
};
use crate::exec::math::*;
use crate::exec::ops::{op1, op1i, op2, op2i, op3, op3i};
use crate::ptx::parse::Ins;
use crate::ptx::types::Ty;

/// Decodes a floating-point instruction; `false` if it is none.
///
/// # Errors
///
/// Wrong operands or a form that does not exist.
pub fn decode<'a>(b: &mut Builder<'_, 'a>, op: &Op<'a>, ins: &Ins<'a>) -> Result<bool, String> {
    let Some(ty) = op.ty() else { return Ok(false) };
    let imm = op.float_flags();
    let found = match ty {
        Ty::F32 => f32_op(op, imm),
        Ty::F64 => f64_op(op, imm),
        Ty::F16 | Ty::Bf16 | Ty::F16x2 | Ty::Bf16x2 => half_op(op, ty, imm),
        _ => None,
    };
    let Some((run, class)) = found else {
        return Ok(false);
    };
    b.plain(ins, run, ty, class, imm).map(|()| true)
}

/// Whether an instruction rounds to nearest and has no flags at all.
fn simple(imm: u64) -> bool {
    imm == 0
}

/// The common arithmetic: to nearest, with or without flushing.
fn f32_nearest(op: &Op<'_>, imm: u64) -> Option<Run> {
    Some(match op.base {
        "add" if simple(imm) => op2(|a: u32, b: u32| bits(f32::from_bits(a) + f32::from_bits(b))),
        "sub" if simple(imm) => op2(|a: u32, b: u32| bits(f32::from_bits(a) - f32::from_bits(b))),
        "mul" if simple(imm) => op2(|a: u32, b: u32| bits(f32::from_bits(a) * f32::from_bits(b))),
        "fma" | "mad" if simple(imm) => op3(|a: u32, b: u32, c: u32| {
            bits(f32::from_bits(a).mul_add(f32::from_bits(b), f32::from_bits(c)))
        }),
        "add" if imm == flag::FTZ => {
            op2(|a: u32, b: u32| flush(bits(f32::from_bits(flush(a)) + f32::from_bits(flush(b)))))
        }
        "sub" if imm == flag::FTZ => {
            op2(|a: u32, b: u32| flush(bits(f32::from_bits(flush(a)) - f32::from_bits(flush(b)))))
        }
        "mul" if imm == flag::FTZ => {
            op2(|a: u32, b: u32| flush(bits(f32::from_bits(flush(a)) * f32::from_bits(flush(b)))))
        }
        "fma" | "mad" if imm == flag::FTZ => op3(|a: u32, b: u32, c: u32| {
            flush(bits(
                f32::from_bits(flush(a))
                    .mul_add(f32::from_bits(flush(b)), f32::from_bits(flush(c))),
            ))
        }),
        _ => return None,
    })
}

fn f32_op(op: &Op<'_>, imm: u64) -> Option<(Run, Class)> {
    if let Some(run) = f32_nearest(op, imm) {
        return Some((run, Class::Fp32));
    }
    let run = match op.base {
        "add" => op2i(|a: u32, b: u32, m| sum(operand(a, m), operand(b, m), m)),
        "sub" => op2i(|a: u32, b: u32, m| sum(operand(a, m), -operand(b, m), m)),
        "mul" => op2i(|a: u32, b: u32, m| product(operand(a, m), operand(b, m), m)),
        "fma" | "mad" => op3i(|a: u32, b: u32, c: u32, m| {
            product_sum(operand(a, m), operand(b, m), operand(c, m), m)
        }),
        "abs" => op1i(|a: u32, m| if m & flag::FTZ != 0 { flush(a) } else { a } & 0x7fff_ffff),
        "neg" => op1i(|a: u32, m| if m & flag::FTZ != 0 { flush(a) } else { a } ^ 0x8000_0000),
        "min" => op2i(|a: u32, b: u32, m| extreme(operand(a, m), operand(b, m), false, m)),
        "max" => op2i(|a: u32, b: u32, m| extreme(operand(a, m), operand(b, m), true, m)),
        _ => {
            return f32_function(op, imm).map(|run| {
                (
                    run,
                    if op.base == "div" {
                        Class::Fp32
                    } else {
                        Class::Sfu
                    },
                )
            });
        }
    };
    Some((run, Class::Fp32))
}

fn f32_function(op: &Op<'_>, imm: u64) -> Option<Run> {
    let approximate = op.has("approx") || op.has("full");
    Some(match op.base {
        "div" if approximate => {
            op2i(|a: u32, b: u32, m| approx(f64::from(operand(a, m)) / f64::from(operand(b, m)), m))
        }
        "div" if simple(imm) => op2(|a: u32, b: u32| bits(f32::from_bits(a) / f32::from_bits(b))),
        "div" => {
            op2i(|a: u32, b: u32, m| to_f32(div_odd(operand(a, m).into(), operand(b, m).into()), m))
        }
        "rcp" if approximate => op1i(|a: u32, m| approx(1.0 / f64::from(operand(a, m)), m)),
        "rcp" => op1i(|a: u32, m| to_f32(div_odd(1.0, operand(a, m).into()), m)),
        "sqrt" if approximate => op1i(|a: u32, m| approx(f64::from(operand(a, m)).sqrt(), m)),
        "sqrt" => op1i(|a: u32, m| to_f32(sqrt_odd(operand(a, m).into()), m)),
        "rsqrt" => op1i(|a: u32, m| approx(1.0 / f64::from(operand(a, m)).sqrt(), m)),
        "ex2" => op1i(|a: u32, m| approx(exp2(operand(a, m).into()), m)),
        "lg2" => op1i(|a: u32, m| approx(log2(operand(a, m).into()), m)),
        "sin" => op1i(|a: u32, m| approx(f64::from(operand(a, m)).sin(), m)),
        "cos" => op1i(|a: u32, m| approx(f64::from(operand(a, m)).cos(), m)),
        "tanh" => op1i(|a: u32, m| approx(f64::from(operand(a, m)).tanh(), m)),
        _ => return None,
    })
}

fn f64_op(op: &Op<'_>, imm: u64) -> Option<(Run, Class)> {
    let f = simple(imm & 7);
    let run = match op.base {
        "add" if f => op2(|a: u64, b: u64| bits64(f64::from_bits(a) + f64::from_bits(b))),
        "sub" if f => op2(|a: u64, b: u64| bits64(f64::from_bits(a) - f64::from_bits(b))),
        "mul" if f => op2(|a: u64, b: u64| bits64(f64::from_bits(a) * f64::from_bits(b))),
        "fma" | "mad" if f => op3(|a: u64, b: u64, c: u64| {
            bits64(f64::from_bits(a).mul_add(f64::from_bits(b), f64::from_bits(c)))
        }),
        "div" if f => op2(|a: u64, b: u64| bits64(f64::from_bits(a) / f64::from_bits(b))),
        "sqrt" if f => op1(|a: u64| bits64(f64::from_bits(a).sqrt())),
        "rcp" if f => op1(|a: u64| bits64(1.0 / f64::from_bits(a))),
        // The approximation keeps 20 bits and clears the low word.
        "rsqrt" => op1(|a: u64| bits64(1.0 / f64::from_bits(a).sqrt())),
        "abs" => op1(|a: u64| a & (u64::MAX >> 1)),
        "neg" => op1(|a: u64| a ^ 1 << 63),
        "min" => op2(|a: u64, b: u64| extreme64(f64::from_bits(a), f64::from_bits(b), false)),
        "max" => op2(|a: u64, b: u64| extreme64(f64::from_bits(a), f64::from_bits(b), true)),
        _ => return None,
    };
    Some((run, Class::Fp64))
}

/// How a half type is widened and narrowed.
trait Half: Copy + 'static {
    const FORMAT: Format;
    fn up(x: u32) -> f32;
    fn down(x: f32) -> u32;
}

#[derive(Clone, Copy)]
struct Ieee;
#[derive(Clone, Copy)]
struct Brain;

impl Half for Ieee {
    const FORMAT: Format = F16;
    #[inline(always)]
    fn up(x: u32) -> f32 {
        f16_to_f32(x & 0xffff)
    }
    #[inline(always)]
    fn down(x: f32) -> u32 {
        f32_to_f16(x)
    }
}

impl Half for Brain {
    const FORMAT: Format = BF16;
    #[inline(always)]
    fn up(x: u32) -> f32 {
        bf16_to_f32(x & 0xffff)
    }
    #[inline(always)]
    fn down(x: f32) -> u32 {
        f32_to_bf16(x)
    }
}

/// A denormal f16 becomes zero.
#[inline(always)]
fn flush_half<H: Half>(h: u32, m: u64) -> u32 {
    let exponent = ((1 << H::FORMAT.exponent) - 1) << H::FORMAT.mantissa;
    if m & flag::FTZ != 0 && h & exponent == 0 {
        h & 0x8000
    } else {
        h
    }
}

#[inline(always)]
fn input<H: Half>(h: u32, m: u64) -> f32 {
    H::up(flush_half::<H>(h & 0xffff, m))
}

#[inline(always)]
fn output<H: Half>(h: u32, m: u64) -> u32 {
    let mut h = flush_half::<H>(h, m);
    if m & flag::SAT != 0 {
        h = H::down(sat(H::up(h)));
    }
    if m & flag::RELU != 0 {
        let v = H::up(h);
        h = if v.is_nan() {
            0x7fff
        } else if v > 0.0 {
            h
        } else {
            0
        };
    }
    h
}

#[inline(always)]
fn half_fma<H: Half>(a: u32, b: u32, c: u32, m: u64) -> u32 {
    let r = fma_odd(
        input::<H>(a, m).into(),
        input::<H>(b, m).into(),
        input::<H>(c, m).into(),
    );
    output::<H>(narrow(r, H::FORMAT, Round::Nearest), m)
}

#[inline(always)]
fn half_extreme<H: Half>(a: u32, b: u32, max: bool, m: u64) -> u32 {
    let r = extreme(input::<H>(a, m), input::<H>(b, m), max, m);
    let v = f32::from_bits(r);
    let h = if v.is_nan() { 0x7fff } else { H::down(v) };
    if m & flag::RELU != 0 {
        output::<H>(h, flag::RELU)
    } else {
        h
    }
}

fn half_op(op: &Op<'_>, ty: Ty, imm: u64) -> Option<(Run, Class)> {
    let found = match ty {
        Ty::F16 => one::<Ieee>(op, imm),
        Ty::Bf16 => one::<Brain>(op, imm),
        Ty::F16x2 => two::<Ieee>(op),
        _ => two::<Brain>(op),
    };
    found.map(|run| {
        (
            run,
            if matches!(op.base, "ex2" | "tanh") {
                Class::Sfu
            } else {
                Class::Fp16
            },
        )
    })
}

fn one<H: Half>(op: &Op<'_>, _imm: u64) -> Option<Run> {
    Some(match op.base {
        "add" => {
            op2i(|a: u32, b: u32, m| output::<H>(H::down(input::<H>(a, m) + input::<H>(b, m)), m))
        }
        "sub" => {
            op2i(|a: u32, b: u32, m| output::<H>(H::down(input::<H>(a, m) - input::<H>(b, m)), m))
        }
        "mul" => {
            op2i(|a: u32, b: u32, m| output::<H>(H::down(input::<H>(a, m) * input::<H>(b, m)), m))
        }
        "fma" => op3i(|a: u32, b: u32, c: u32, m| half_fma::<H>(a, b, c, m)),
        "abs" => op1i(|a: u32, m| flush_half::<H>(a, m) & 0x7fff),
        "neg" => op1i(|a: u32, m| flush_half::<H>(a, m) ^ 0x8000),
        "min" => op2i(|a: u32, b: u32, m| half_extreme::<H>(a, b, false, m)),
        "max" => op2i(|a: u32, b: u32, m| half_extreme::<H>(a, b, true, m)),
        "ex2" => op1i(|a: u32, m| {
            output::<H>(
                narrow(exp2(input::<H>(a, m).into()), H::FORMAT, Round::Nearest),
                m,
            )
        }),
        "tanh" => op1(|a: u32| narrow(f64::from(H::up(a)).tanh(), H::FORMAT, Round::Nearest)),
        _ => return None,
    })
}

/// The same for both halves of a pair.
fn two<H: Half>(op: &Op<'_>) -> Option<Run> {
    #[inline(always)]
    fn pair(f: impl Fn(u32) -> u32) -> u32 {
        f(0) & 0xffff | f(16) << 16
    }
    Some(match op.base {
        "add" => op2i(|a: u32, b: u32, m| {
            pair(|s| output::<H>(H::down(input::<H>(a >> s, m) + input::<H>(b >> s, m)), m))
        }),
        "sub" => op2i(|a: u32, b: u32, m| {
            pair(|s| output::<H>(H::down(input::<H>(a >> s, m) - input::<H>(b >> s, m)), m))
        }),
        "mul" => op2i(|a: u32, b: u32, m| {
            pair(|s| output::<H>(H::down(input::<H>(a >> s, m) * input::<H>(b >> s, m)), m))
        }),
        "fma" => {
            op3i(|a: u32, b: u32, c: u32, m| pair(|s| half_fma::<H>(a >> s, b >> s, c >> s, m)))
        }
        "abs" => op1i(|a: u32, m| pair(|s| flush_half::<H>(a >> s & 0xffff, m) & 0x7fff)),
        "neg" => op1i(|a: u32, m| pair(|s| flush_half::<H>(a >> s & 0xffff, m) ^ 0x8000)),
        "min" => op2i(|a: u32, b: u32, m| pair(|s| half_extreme::<H>(a >> s, b >> s, false, m))),
        "max" => op2i(|a: u32, b: u32, m| pair(|s| half_extreme::<H>(a >> s, b >> s, true, m))),
        "ex2" => op1i(|a: u32, m| {
            pair(|s| {
                output::<H>(
                    narrow(
                        exp2(input::<H>(a >> s, m).into()),
                        H::FORMAT,
                        Round::Nearest,
                    ),
                    m,
                )
            })
        }),
        "tanh" => op1(|a: u32| {
            pair(|s| narrow(f64::from(H::up(a >> s)).tanh(), H::FORMAT, Round::Nearest))
        }),
        _ => return None,
    })
}
