//! Floats of eight bits: e4m3 (no infinities, largest 448) and e5m2.

use super::half::{Format, Round, f16_to_f32, narrow};

/// e4m3 as f32.
#[inline(always)]
pub fn e4m3_to_f32(x: u32) -> f32 {
    let (sign, magnitude) = ((x >> 7 & 1) << 31, x & 0x7f);
    let value = if magnitude == 0x7f {
        f32::NAN
    } else if magnitude >> 3 == 0 {
        magnitude as f32 * (1.0 / 512.0)
    } else {
        // The exponent's bias is 7 here and 127 there.
        f32::from_bits((magnitude << 20) + (120 << 23))
    };
    f32::from_bits(value.to_bits() | sign)
}

/// e5m2 as f32: the upper half of an f16.
#[inline(always)]
pub fn e5m2_to_f32(x: u32) -> f32 {
    f16_to_f32(x << 8 & 0xff00)
}

/// To the nearest e4m3 or (`wide`) e5m2; what is too large, infinities too, becomes the largest.
pub fn from_f32(x: f32, wide: bool, relu: bool) -> u32 {
    if x.is_nan() {
        return 0x7f;
    }
    let x = if relu { x.max(0.0) } else { x };
    let sign = u32::from(x.is_sign_negative()) << 7;
    let (mantissa, largest, scale) = if wide {
        (2, 0x7b, 1.0)
    } else {
        // Five exponent bits have a bias of 15: eight more than four.
        (3, 0x7e, 1.0 / 256.0)
    };
    let to = Format {
        mantissa,
        exponent: 5,
    };
    sign | narrow(f64::from(x.abs()) * scale, to, Round::Nearest).min(largest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_the_standard() {
        for (bits, value) in [
            (0x7e, 448.0),
            (0x08, 0.015625),
            (0x01, 0.001953125),
            (0x38, 1.0),
            (0xb9, -1.125),
            (0, 0.0),
        ] {
            assert_eq!(e4m3_to_f32(bits), value);
            assert_eq!(from_f32(value, false, false), bits);
        }
        for (bits, value) in [(0x7b, 57_344.0), (0x3c, 1.0), (0x01, 2f32.powi(-16))] {
            assert_eq!(e5m2_to_f32(bits), value);
            assert_eq!(from_f32(value, true, false), bits);
        }
        assert!(e4m3_to_f32(0x7f).is_nan() && from_f32(f32::NAN, false, false) == 0x7f);
        assert_eq!(from_f32(1e9, false, false), 0x7e);
        assert_eq!(from_f32(f32::NEG_INFINITY, true, false), 0xfb);
        assert_eq!(from_f32(-3.0, true, true), 0);
        // Halfway between 1 and 1.125: to the even one.
        assert_eq!(from_f32(1.0625, false, false), 0x38);
    }

    #[test]
    fn every_value_survives() {
        for bits in (0..256).filter(|b| b & 0x7f != 0x7f) {
            assert_eq!(from_f32(e4m3_to_f32(bits), false, false), bits);
            if bits & 0x7c != 0x7c {
                assert_eq!(from_f32(e5m2_to_f32(bits), true, false), bits);
            }
        }
    }
}
