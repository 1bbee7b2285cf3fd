//! Half precision: conversions between f16, bf16 and f32/f64 with every rounding.

/// How a result that does not fit is rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Round {
    /// To nearest, ties to even.
    Nearest = 0,
    /// Towards zero.
    Zero = 1,
    /// Down.
    Down = 2,
    /// Up.
    Up = 3,
    /// To nearest, ties away from zero.
    Away = 4,
}

impl Round {
    /// From an instruction's immediate.
    #[inline(always)]
    pub fn of(code: u64) -> Round {
        match code & 7 {
            1 => Round::Zero,
            2 => Round::Down,
            3 => Round::Up,
            4 => Round::Away,
            _ => Round::Nearest,
        }
    }
}

/// A binary format narrower than f64: mantissa bits (without the hidden one) and exponent bits.
#[derive(Clone, Copy, Debug)]
pub struct Format {
    /// Bits after the point.
    pub mantissa: u32,
    /// Bits of the exponent.
    pub exponent: u32,
}

/// IEEE binary16.
pub const F16: Format = Format {
    mantissa: 10,
    exponent: 5,
};
/// bfloat16.
pub const BF16: Format = Format {
    mantissa: 7,
    exponent: 8,
};
/// IEEE binary32.
pub const F32: Format = Format {
    mantissa: 23,
    exponent: 8,
};
/// TensorFloat-32 with its 10 bits after the point.
pub const TF32: Format = Format {
    mantissa: 10,
    exponent: 8,
};

/// `x` rounded into a format; bits at the bottom of the result. NaN gives all ones but the sign.
pub fn narrow(x: f64, to: Format, round: Round) -> u32 {
    let sign = (x.to_bits() >> 63) as u32;
    let (m, e) = (to.mantissa, to.exponent);
    let top = sign << (m + e);
    if x.is_nan() {
        return (1 << (m + e)) - 1;
    }
    let infinity = ((1u32 << e) - 1) << m;
    if x.is_infinite() {
        return top | infinity;
    }
    let bias = (1i64 << (e - 1)) - 1;
    let bits = x.to_bits() & (u64::MAX >> 1);
    if bits == 0 {
        return top;
    }
    // value = significand * 2^(exponent - 52)
    let (significand, exponent) = if bits >> 52 == 0 {
        (bits, -1022)
    } else {
        (bits & ((1 << 52) - 1) | 1 << 52, (bits >> 52) as i64 - 1023)
    };
    let lowest = 1 - bias;
    let drop = 52 - i64::from(m) + (lowest - exponent).max(0);
    let (kept, rest, half) = if drop > 62 {
        (0, u64::from(significand != 0), 2)
    } else {
        (
            significand >> drop,
            significand & ((1 << drop) - 1),
            1u64 << (drop - 1),
        )
    };
    let up = match round {
        Round::Nearest => rest > half || rest == half && kept & 1 == 1,
        Round::Away => rest >= half,
        Round::Zero => false,
        Round::Down => rest != 0 && sign == 1,
        Round::Up => rest != 0 && sign == 0,
    };
    let kept = kept + u64::from(up);
    // The hidden bit, and a carry into it, add themselves to the exponent field.
    let field = if exponent < lowest {
        0
    } else {
        (exponent - lowest) as u64
    };
    let result = (field << m) + kept;
    if result >= u64::from(infinity) {
        let largest = infinity - 1;
        let saturates = match round {
            Round::Zero => true,
            Round::Down => sign == 0,
            Round::Up => sign == 1,
            _ => false,
        };
        return top | if saturates { largest } else { infinity };
    }
    top | result as u32
}

/// f16 bits to f32.
#[inline(always)]
pub fn f16_to_f32(h: u32) -> f32 {
    let (sign, e, m) = ((h & 0x8000) << 16, h >> 10 & 31, h & 0x3ff);
    let magnitude = match e {
        0 => (m as f32 * (1.0 / 16_777_216.0)).to_bits(),
        31 => 0x7f80_0000 | m << 13,
        _ => (e + 112) << 23 | m << 13,
    };
    f32::from_bits(sign | magnitude)
}

/// bf16 bits to f32.
#[inline(always)]
pub fn bf16_to_f32(h: u32) -> f32 {
    f32::from_bits(h << 16)
}

/// f32 to bf16, to nearest even; NaN becomes 0x7fff.
#[inline(always)]
pub fn f32_to_bf16(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    if bits & 0x7fff_ffff > 0x7f80_0000 {
        0x7fff
    } else {
        rounded
    }
}

/// f32 to f16, to nearest even; NaN becomes 0x7fff.
#[inline(always)]
pub fn f32_to_f16(x: f32) -> u32 {
    let bits = x.to_bits();
    let (sign, mag) = (bits >> 16 & 0x8000, bits & 0x7fff_ffff);
    if mag >= 0x4780_0000 {
        return if mag > 0x7f80_0000 {
            0x7fff
        } else {
            sign | 0x7c00
        };
    }
    let result = if mag < 0x3880_0000 {
        // Below the normal range the addition of 1/2 makes the hardware round at the last place of f16.
        (f32::from_bits(mag) + 0.5).to_bits() - 0x3f00_0000
    } else {
        (mag - 0x3800_0000 + 0xfff + (mag >> 13 & 1)) >> 13
    };
    sign | result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fast_conversions_agree_with_the_general_one() {
        let mut x = 0u32;
        loop {
            let v = f32::from_bits(x);
            assert_eq!(
                f32_to_bf16(v),
                narrow(f64::from(v), BF16, Round::Nearest),
                "{v:e}"
            );
            assert_eq!(
                f32_to_f16(v),
                narrow(f64::from(v), F16, Round::Nearest),
                "{v:e}"
            );
            let Some(next) = x.checked_add(2_047) else {
                break;
            };
            x = next;
        }
        for h in 0..=0xffffu32 {
            let v = f16_to_f32(h);
            if !v.is_nan() {
                assert_eq!(narrow(f64::from(v), F16, Round::Up), h);
            }
        }
    }

    #[test]
    fn directions() {
        assert_eq!(narrow(1.0 + 1e-9, F32, Round::Up), 0x3f80_0001);
        assert_eq!(narrow(-1.0 - 1e-9, F32, Round::Up), 0xbf80_0000);
        assert_eq!(narrow(-1.0 - 1e-9, F32, Round::Down), 0xbf80_0001);
        assert_eq!(narrow(1e300, F32, Round::Zero), 0x7f7f_ffff);
        assert_eq!(narrow(1e-320, F32, Round::Up), 1);
        assert_eq!(narrow(1.0 + 1.0 / 2048.0, F16, Round::Away), 0x3c01);
        assert_eq!(narrow(1.0 + 1.0 / 2048.0, F16, Round::Nearest), 0x3c00);
    }
}
