//! The standard normal distribution in f64.

use std::f64::consts::{FRAC_1_SQRT_2, TAU};

/// ln sqrt(2 pi).
pub const LN_SQRT_TAU: f64 = 0.918_938_533_204_672_7;

/// Beyond this |z| the density exp(-z^2/2) is below the smallest f64.
pub const UNDERFLOW: f64 = 38.7;

/// Chebyshev coefficients of ln(erfc(x) exp(x^2) / t) in 2t - 1, t = 2 / (2 + x), 0 < t <= 1. The
/// first one left out is below 6e-20.
pub(super) const ERFC: [f64; 28] = [
    -1.302_653_719_781_709_4,
    0.641_969_792_356_490_3,
    0.019_476_473_204_185_836,
    -0.009_561_514_786_808_632,
    -0.000_946_595_344_482_036_9,
    0.000_366_839_497_852_761_45,
    4.252_332_480_690_777e-5,
    -2.027_857_811_253_424e-5,
    -1.624_290_004_647_025_5e-6,
    1.303_655_835_580_520_2e-6,
    1.562_644_172_206_614_3e-8,
    -8.523_809_591_492_655e-8,
    6.529_054_439_098_852e-9,
    5.059_343_495_551_469e-9,
    -9.913_641_564_930_33e-10,
    -2.273_651_222_931_836e-10,
    9.646_791_102_015_527e-11,
    2.394_038_083_039_114_7e-12,
    -6.886_027_526_497_553e-12,
    8.944_879_273_090_726e-13,
    3.130_921_399_342_958e-13,
    -1.127_082_236_136_725_2e-13,
    3.810_905_255_189_232e-16,
    7.106_097_613_609_237e-15,
    -1.523_028_201_457_104_3e-15,
    -9.457_494_571_291_234e-17,
    1.210_237_189_224_279e-16,
    -2.816_663_087_747_177e-17,
];

/// phi0(z) = exp(-z^2 / 2) / sqrt(2 pi).
#[inline]
pub fn density(z: f64) -> f64 {
    (-0.5 * z * z).exp() / TAU.sqrt()
}

/// Phi(z), the integral of phi0 up to z. The lower tail keeps its relative accuracy: Phi(-30) is
/// right to 1e-13 of itself.
#[inline]
pub fn cdf(z: f64) -> f64 {
    let tail = 0.5 * erfc_positive(z.abs() * FRAC_1_SQRT_2);
    if z < 0.0 { tail } else { 1.0 - tail }
}

/// z Phi(z) + phi0(z): the antiderivative of Phi that vanishes at minus infinity.
#[inline]
pub fn cdf_integral(z: f64) -> f64 {
    z * cdf(z) + density(z)
}

/// 1 - erf(x) for x >= 0, by Clenshaw's recurrence.
fn erfc_positive(x: f64) -> f64 {
    let t = 2.0 / (2.0 + x);
    let twice = 2.0 * (2.0 * t - 1.0);
    let (mut b1, mut b2) = (0.0, 0.0);
    for &c in ERFC[1..].iter().rev() {
        (b1, b2) = (twice * b1 - b2 + c, b1);
    }
    t * (-x * x + 0.5 * (ERFC[0] + twice * b1) - b2).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values to 20 digits from an arbitrary-precision library.
    #[test]
    fn known_values() {
        let known = [
            (0.0, 0.5),
            (1.0, 0.841_344_746_068_542_9),
            (-1.0, 0.158_655_253_931_457_05),
            (-3.0, 0.001_349_898_031_630_094_5),
            (-8.0, 6.220_960_574_271_784e-16),
            (-10.0, 7.619_853_024_160_525e-24),
            (-30.0, 4.906_713_927_148_187e-198),
        ];
        for (z, want) in known {
            assert!((cdf(z) / want - 1.0).abs() < 2e-13, "{z}: {}", cdf(z));
        }
        assert_eq!((cdf(40.0), cdf(-60.0)), (1.0, 0.0));
    }

    #[test]
    fn derivative_and_integral_agree() {
        for i in -80..=80 {
            let (z, h) = (f64::from(i) * 0.1, 1e-4);
            let slope = (cdf(z + h) - cdf(z - h)) / (2.0 * h);
            assert!((slope - density(z)).abs() < 2e-9, "{z}");
            let slope = (cdf_integral(z + h) - cdf_integral(z - h)) / (2.0 * h);
            assert!((slope - cdf(z)).abs() < 2e-9, "{z}");
        }
    }
}
