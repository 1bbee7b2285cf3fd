//! The transforms of F(4x4, 3x3): 36 products stand for the 144 of a 4x4 tile of output pixels.
//!
//! For output tile Y, input window d (6x6) and filter g (3x3), per channel pair
//! (Winograd; Lavin and Gray, arXiv 1509.09308):
//!
//!   Y = A^T [ (G g G^T) (B^T d B) ] A
//!
//! with the interpolation points 0, +-1/sqrt(2), +-sqrt(2) and infinity, whose matrices are better
//! conditioned than those of 0, +-1, +-2. The weight gradient is the adjoint in g:
//! dg = G^T [ sum of (B^T d B) (A dY A^T) over tiles ] G.
//!
//! One-dimensional transforms are given here for vectors of channels; each square one is those of the
//! columns, then those of the rows.

use crate::device::lanes::Lanes;

/// Output pixels of a tile, along a side.
pub const SIDE: usize = 4;
/// Input pixels of a tile, along a side.
pub const WINDOW: usize = 6;
/// Points: products per tile and channel pair.
pub const POINTS: usize = WINDOW * WINDOW;

/// The points +-S and +-L beside 0 and infinity: S L = 1, S^2 + L^2 = 5/2.
const S: f32 = std::f32::consts::FRAC_1_SQRT_2;
const L: f32 = std::f32::consts::SQRT_2;

/// `even + odd` and `even - odd`: the values at a point and at its mirror.
///
/// # Safety
/// As for [`Lanes`].
#[inline(always)]
unsafe fn mirror<V: Lanes>(even: V, odd: V) -> [V; 2] {
    // SAFETY: promised by the caller.
    unsafe { [even.add(odd), even.sub(odd)] }
}

/// B^T d.
///
/// # Safety
/// As for [`Lanes`].
#[inline(always)]
pub unsafe fn input<V: Lanes>(d: [V; 6]) -> [V; 6] {
    // SAFETY: promised by the caller.
    unsafe {
        let middle = V::set(-2.5);
        let first = d[2].mul_add(middle, d[0]).add(d[4]);
        let last = d[3].mul_add(middle, d[1]).add(d[5]);
        let [s, minus_s] = mirror(
            d[2].mul_add(V::set(-2.0), d[4]),
            d[3].mul_add(V::set(S), d[1].mul(V::set(-L))),
        );
        let [l, minus_l] = mirror(
            d[2].mul_add(V::set(-0.5), d[4]),
            d[3].mul_add(V::set(L), d[1].mul(V::set(-S))),
        );
        [first, s, minus_s, l, minus_l, last]
    }
}

/// A^T m.
///
/// # Safety
/// As for [`Lanes`].
#[inline(always)]
pub unsafe fn output<V: Lanes>(m: [V; 6]) -> [V; 4] {
    // SAFETY: promised by the caller.
    unsafe {
        let [s, s_odd] = mirror(m[1], m[2]);
        let [l, l_odd] = mirror(m[3], m[4]);
        [
            m[0].add(s).add(l),
            s_odd.mul_add(V::set(S), l_odd.mul(V::set(L))),
            s.mul_add(V::set(0.5), l.mul(V::set(2.0))),
            s_odd.mul_add(V::set(0.5 * S), l_odd.mul_add(V::set(2.0 * L), m[5])),
        ]
    }
}

/// A y.
///
/// # Safety
/// As for [`Lanes`].
#[inline(always)]
pub unsafe fn output_adjoint<V: Lanes>(y: [V; 4]) -> [V; 6] {
    // SAFETY: promised by the caller.
    unsafe {
        let [s, minus_s] = mirror(
            y[2].mul_add(V::set(0.5), y[0]),
            y[3].mul_add(V::set(0.5 * S), y[1].mul(V::set(S))),
        );
        let [l, minus_l] = mirror(
            y[2].mul_add(V::set(2.0), y[0]),
            y[3].mul_add(V::set(2.0 * L), y[1].mul(V::set(L))),
        );
        [y[0], s, minus_s, l, minus_l, y[3]]
    }
}

/// G g.
///
/// # Safety
/// As for [`Lanes`].
#[inline(always)]
pub unsafe fn filter<V: Lanes>(g: [V; 3]) -> [V; 6] {
    // SAFETY: promised by the caller.
    unsafe {
        let [s, minus_s] = mirror(
            g[2].mul_add(V::set(-1.0 / 3.0), g[0].mul(V::set(-2.0 / 3.0))),
            g[1].mul(V::set(-2.0 / 3.0 * S)),
        );
        let [l, minus_l] = mirror(
            g[2].mul_add(V::set(1.0 / 3.0), g[0].mul(V::set(1.0 / 6.0))),
            g[1].mul(V::set(L / 6.0)),
        );
        [g[0], s, minus_s, l, minus_l, g[2]]
    }
}

/// G^T u.
///
/// # Safety
/// As for [`Lanes`].
#[inline(always)]
pub unsafe fn filter_adjoint<V: Lanes>(u: [V; 6]) -> [V; 3] {
    // SAFETY: promised by the caller.
    unsafe {
        let [s, s_odd] = mirror(u[1], u[2]);
        let [l, l_odd] = mirror(u[3], u[4]);
        [
            s.mul_add(V::set(-2.0 / 3.0), l.mul_add(V::set(1.0 / 6.0), u[0])),
            s_odd.mul_add(V::set(-2.0 / 3.0 * S), l_odd.mul(V::set(L / 6.0))),
            s.mul_add(V::set(-1.0 / 3.0), l.mul_add(V::set(1.0 / 3.0), u[5])),
        ]
    }
}

/// A one-dimensional transform on the columns of `x`, then on the rows of what comes out. Loops, not
/// iterators: a closure is compiled without the instruction set of the function around it.
macro_rules! square {
    ($name:ident: $line:ident, $from:literal -> $to:literal) => {
        /// The square transform of this name.
        ///
        /// # Safety
        /// As for [`Lanes`].
        #[inline(always)]
        pub unsafe fn $name<V: Lanes>(x: &[[V; $from]; $from]) -> [[V; $to]; $to] {
            // SAFETY: promised by the caller.
            unsafe {
                let zero = V::zero();
                let mut half = [[zero; $from]; $to];
                for j in 0..$from {
                    let mut column = [zero; $from];
                    for i in 0..$from {
                        column[i] = x[i][j];
                    }
                    let line = $line(column);
                    for i in 0..$to {
                        half[i][j] = line[i];
                    }
                }
                let mut out = [[zero; $to]; $to];
                for i in 0..$to {
                    out[i] = $line(half[i]);
                }
                out
            }
        }
    };
}
square!(input_square: input, 6 -> 6);
square!(output_square: output, 6 -> 4);
square!(output_adjoint_square: output_adjoint, 4 -> 6);
square!(filter_square: filter, 3 -> 6);
square!(filter_adjoint_square: filter_adjoint, 6 -> 3);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::lanes::Plain;
    use crate::rng::{Philox, Stream};

    fn noise<const N: usize>(index: u64) -> [f32; N] {
        let mut out = [0.0; N];
        Philox::new(4, Stream::Noise, index).fill_normals(&mut out);
        out
    }

    /// A vector transform on single numbers.
    fn line<const I: usize, const O: usize>(
        f: unsafe fn([Plain; I]) -> [Plain; O],
        x: [f32; I],
    ) -> [f64; O] {
        // SAFETY: the portable vector needs no instruction set.
        unsafe {
            f(x.map(|x| Plain::set(x))).map(|v| {
                let mut out = [0.0; 4];
                v.store(out.as_mut_ptr());
                f64::from(out[0])
            })
        }
    }

    #[test]
    fn a_line_is_a_correlation() {
        for case in 0..20 {
            let (d, g) = (noise::<6>(case), noise::<3>(100 + case));
            let products = line(filter, g).into_iter().zip(line(input, d));
            let products: Vec<f32> = products.map(|(u, v)| (u * v) as f32).collect();
            let y = line(output, products.try_into().unwrap());
            for (i, y) in y.into_iter().enumerate() {
                let want: f64 = (0..3).map(|r| f64::from(d[i + r]) * f64::from(g[r])).sum();
                assert!((y - want).abs() < 1e-5, "{i}: {y} instead of {want}");
            }
        }
    }

    #[test]
    fn adjoints_are_adjoint() {
        let dot =
            |x: &[f64], y: &[f32]| -> f64 { x.iter().zip(y).map(|(x, &y)| x * f64::from(y)).sum() };
        for case in 0..20 {
            let (m, y, g) = (
                noise::<6>(case),
                noise::<4>(100 + case),
                noise::<3>(200 + case),
            );
            let pairs = [
                (dot(&line(output, m), &y), dot(&line(output_adjoint, y), &m)),
                (dot(&line(filter, g), &m), dot(&line(filter_adjoint, m), &g)),
            ];
            for (a, b) in pairs {
                assert!((a - b).abs() < 1e-5, "{a} and {b}");
            }
        }
    }
}
