//! Float arithmetic on bits: canonical NaN, flushing of denormals, directed rounding, approximations.

use super::half::{F32, Round, narrow};

/// NVIDIA's NaN: every arithmetic result that is none of the operands' business.
pub const NAN32: u32 = 0x7fff_ffff;

/// Flags in a float instruction's immediate, beside the rounding in the low three bits.
pub mod flag {
    /// Denormals are zero.
    pub const FTZ: u64 = 8;
    /// The result is clamped into [0, 1].
    pub const SAT: u64 = 16;
    /// `max`/`min` give NaN where an operand is NaN.
    pub const NAN: u64 = 32;
    /// A negative result becomes zero.
    pub const RELU: u64 = 64;
}

/// Denormals become zeros of their sign.
#[inline(always)]
pub fn flush(x: u32) -> u32 {
    if x & 0x7f80_0000 == 0 {
        x & 0x8000_0000
    } else {
        x
    }
}

/// A float's bits, NaN made canonical.
#[inline(always)]
pub fn bits(x: f32) -> u32 {
    if x.is_nan() { NAN32 } else { x.to_bits() }
}

/// A double's bits, NaN made canonical.
#[inline(always)]
pub fn bits64(x: f64) -> u64 {
    if x.is_nan() {
        0x7fff_ffff_ffff_ffff
    } else {
        x.to_bits()
    }
}

/// Clamps into [0, 1]; NaN becomes 0.
#[inline(always)]
pub fn sat(x: f32) -> f32 {
    if x > 0.0 {
        if x < 1.0 { x } else { 1.0 }
    } else {
        0.0
    }
}

/// As `sat`, for doubles.
#[inline(always)]
pub fn sat64(x: f64) -> f64 {
    if x > 0.0 {
        if x < 1.0 { x } else { 1.0 }
    } else {
        0.0
    }
}

/// `x` with its last bit set if something was cut off: a later rounding to fewer bits is then exact.
#[inline(always)]
fn odd(x: f64, rest: f64) -> f64 {
    if rest == 0.0 || !x.is_finite() || x.to_bits() & 1 == 1 {
        return x;
    }
    // Step towards the rest; from an even last bit either way lands on an odd one.
    let towards_larger = (rest > 0.0) == (x > 0.0) || x == 0.0;
    let bits = if towards_larger {
        x.to_bits() + 1
    } else {
        x.to_bits() - 1
    };
    f64::from_bits(bits)
}

/// a + b rounded to odd.
#[inline(always)]
pub fn add_odd(a: f64, b: f64) -> f64 {
    let s = a + b;
    let bb = s - a;
    odd(s, (a - (s - bb)) + (b - bb))
}

/// a * b + c rounded to odd, where a * b is exact in f64.
#[inline(always)]
pub fn fma_odd(a: f64, b: f64, c: f64) -> f64 {
    add_odd(a * b, c)
}

/// a / b rounded to odd.
#[inline(always)]
pub fn div_odd(a: f64, b: f64) -> f64 {
    let q = a / b;
    if !q.is_finite() || q == 0.0 {
        return q;
    }
    let rest = (-q).mul_add(b, a);
    odd(q, if b < 0.0 { -rest } else { rest })
}

/// The square root rounded to odd.
#[inline(always)]
pub fn sqrt_odd(a: f64) -> f64 {
    let q = a.sqrt();
    odd(q, (-q).mul_add(q, a))
}

/// Rounds to f32 as asked, with the flags of the immediate.
#[inline(always)]
pub fn to_f32(x: f64, imm: u64) -> u32 {
    let mut r = narrow(x, F32, Round::of(imm));
    if imm & flag::FTZ != 0 {
        r = flush(r);
    }
    if imm & flag::SAT != 0 {
        r = sat(f32::from_bits(r)).to_bits();
    }
    r
}

/// a + b as asked. An exact zero of unlike terms is negative when rounding down.
#[inline(always)]
pub fn sum(a: f32, b: f32, imm: u64) -> u32 {
    exact_sum(a.into(), b.into(), imm)
}

#[inline(always)]
fn exact_sum(a: f64, b: f64, imm: u64) -> u32 {
    let s = add_odd(a, b);
    let unlike = a.is_sign_negative() != b.is_sign_negative();
    let minus = s == 0.0 && unlike && Round::of(imm) == Round::Down;
    to_f32(if minus { -0.0 } else { s }, imm)
}

/// a * b as asked: f64 holds the product.
#[inline(always)]
pub fn product(a: f32, b: f32, imm: u64) -> u32 {
    to_f32(f64::from(a) * f64::from(b), imm)
}

/// a * b + c as asked, rounded once.
#[inline(always)]
pub fn product_sum(a: f32, b: f32, c: f32, imm: u64) -> u32 {
    exact_sum(f64::from(a) * f64::from(b), c.into(), imm)
}

/// The bits of an operand, flushed if asked.
#[inline(always)]
pub fn operand(x: u32, imm: u64) -> f32 {
    f32::from_bits(if imm & flag::FTZ != 0 { flush(x) } else { x })
}

/// 2^x in f64, good to about 1e-15 for |x| < 1000: exact for integers.
#[inline(always)]
pub fn exp2(x: f64) -> f64 {
    let clamped = x.clamp(-1000.0, 1000.0);
    // Adding 1.5 * 2^52 rounds to an integer, which then stands in the low bits.
    let shifted = clamped + 6_755_399_441_055_744.0;
    let n = shifted - 6_755_399_441_055_744.0;
    let r = (clamped - n) * std::f64::consts::LN_2;
    let mut p = 1.0 / 6_227_020_800.0;
    for c in [
        479_001_600.0,
        39_916_800.0,
        3_628_800.0,
        362_880.0,
        40_320.0,
        5_040.0,
        720.0,
        120.0,
        24.0,
        6.0,
        2.0,
        1.0,
        1.0,
    ] {
        p = p * r + 1.0 / c;
    }
    let scale = f64::from_bits(shifted.to_bits().wrapping_add(1023) << 52);
    if x.is_nan() { x } else { p * scale }
}

/// The base-2 logarithm in f64, good to about 1e-15; the usual values outside x > 0.
#[inline(always)]
pub fn log2(x: f64) -> f64 {
    let b = x.to_bits();
    let shift = (b & ((1 << 52) - 1)) > 0x6_a09e_667f_3bcd;
    // An integer below 2^52 in the low bits of 2^52.
    let e = f64::from_bits(0x4330_0000_0000_0000 | (b >> 52)) - (4_503_599_627_370_496.0 + 1023.0)
        + if shift { 1.0 } else { 0.0 };
    let m = f64::from_bits(b & ((1 << 52) - 1) | if shift { 1022 << 52 } else { 1023 << 52 });
    let s = (m - 1.0) / (m + 1.0);
    let z = s * s;
    let mut p = 1.0 / 23.0;
    for c in [21.0, 19.0, 17.0, 15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0, 1.0] {
        p = p * z + 1.0 / c;
    }
    let value = e + 2.0 * s * p * std::f64::consts::LOG2_E;
    if x > 0.0 && x < f64::INFINITY {
        value
    } else if x == 0.0 {
        f64::NEG_INFINITY
    } else if x > 0.0 {
        x
    } else {
        f64::NAN
    }
}

/// The f32 result of an approximation computed in f64.
#[inline(always)]
pub fn approx(x: f64, imm: u64) -> u32 {
    let r = bits(x as f32);
    if imm & flag::FTZ != 0 { flush(r) } else { r }
}

/// `min` (or `max`) of f32 by PTX's rules: -0 < +0, a NaN loses unless `.NaN`.
#[inline(always)]
pub fn extreme(a: f32, b: f32, max: bool, imm: u64) -> u32 {
    if a.is_nan() || b.is_nan() {
        return if imm & flag::NAN != 0 || a.is_nan() && b.is_nan() {
            NAN32
        } else if a.is_nan() {
            b.to_bits()
        } else {
            a.to_bits()
        };
    }
    let less = if a == b {
        a.is_sign_negative() && !b.is_sign_negative()
    } else {
        a < b
    };
    if less == max {
        b.to_bits()
    } else {
        a.to_bits()
    }
}

/// As `extreme`, for doubles.
#[inline(always)]
pub fn extreme64(a: f64, b: f64, max: bool) -> u64 {
    if a.is_nan() || b.is_nan() {
        return bits64(if a.is_nan() { b } else { a });
    }
    let less = if a == b {
        a.is_sign_negative() && !b.is_sign_negative()
    } else {
        a < b
    };
    if less == max {
        b.to_bits()
    } else {
        a.to_bits()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithms_and_powers() {
        let mut x = -140.0;
        while x < 140.0 {
            assert!((exp2(x) / x.exp2() - 1.0).abs() < 4e-15, "{x}");
            let y = x.exp2();
            assert!((log2(y) - y.log2()).abs() < 4e-15 * (1.0 + x.abs()), "{x}");
            x += 0.010_7;
        }
        assert_eq!(exp2(-3.0), 0.125);
        assert!(exp2(f64::NAN).is_nan() && log2(-1.0).is_nan());
        assert_eq!(
            (log2(0.0), log2(f64::INFINITY)),
            (f64::NEG_INFINITY, f64::INFINITY)
        );
    }

    #[test]
    fn rounding_to_odd_keeps_the_direction() {
        assert_eq!(to_f32(add_odd(1.0, 1e-30), Round::Up as u64), 0x3f80_0001);
        assert_eq!(
            to_f32(add_odd(1.0, -1e-30), Round::Zero as u64),
            0x3f7f_ffff
        );
        assert_eq!(to_f32(div_odd(1.0, 3.0), Round::Down as u64), 0x3eaa_aaaa);
        assert_eq!(to_f32(div_odd(1.0, 3.0), Round::Up as u64), 0x3eaa_aaab);
        assert_eq!(to_f32(sqrt_odd(2.0), Round::Up as u64), 0x3fb5_04f4);
    }
}
