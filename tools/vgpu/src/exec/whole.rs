//! `mma.sync` on integers, bits and f64. Fragments as those of floats: element `n` of A's register `i` lies in
//! row `g + 8 (i mod rows/8)`, column `P (t + 4 (i div rows/8)) + n` for `P` elements in a register.

use super::cx::{Cx, FULL, Flow, Inst, Lane, Run};
use super::ops::{Body, pick};
use std::marker::PhantomData;

/// Flags in the instruction's `a`.
pub mod flag {
    /// A is signed.
    pub const A: u32 = 1;
    /// B is signed.
    pub const B: u32 = 2;
    /// Sums stop at the ends of their range.
    pub const SATURATE: u32 = 4;
    /// Bits are combined by `xor`, not `and`.
    pub const XOR: u32 = 8;
}

/// An element of the product: integers in 32-bit registers, doubles in 64-bit ones.
trait Element: Copy + Default + 'static {
    /// The register.
    type Reg: Lane;
    /// Elements of A and B in a register.
    const PACK: usize;
    /// Element `n` of A's or B's register.
    fn at(reg: Self::Reg, n: usize, signed: bool) -> Self;
    /// An element of C.
    fn sum(reg: Self::Reg) -> Self;
    /// `c` and the products of a row and a column.
    fn dot(a: &[Self], b: &[Self], c: Self, flags: u32) -> Self;
    /// An element of D.
    fn bits(self) -> Self::Reg;
}

/// Integers of `BITS` bits.
#[derive(Clone, Copy, Default)]
struct Int<const BITS: usize>(i32);

impl<const BITS: usize> Element for Int<BITS> {
    type Reg = u32;
    const PACK: usize = 32 / BITS;

    #[inline(always)]
    fn at(reg: u32, n: usize, signed: bool) -> Self {
        let top = reg << (32 - BITS * (n + 1));
        Int(if signed {
            top as i32 >> (32 - BITS)
        } else {
            (top >> (32 - BITS)) as i32
        })
    }

    #[inline(always)]
    fn sum(reg: u32) -> Self {
        Int(reg as i32)
    }

    #[inline(always)]
    fn dot(a: &[Self], b: &[Self], c: Self, flags: u32) -> Self {
        // At most 256 products of 16 bits: they fit.
        let sum: i32 = if flags & flag::XOR != 0 {
            a.iter().zip(b).map(|(a, b)| a.0 ^ b.0).sum()
        } else {
            a.iter().zip(b).map(|(a, b)| a.0 * b.0).sum()
        };
        Int(if flags & flag::SATURATE != 0 {
            c.0.saturating_add(sum)
        } else {
            c.0.wrapping_add(sum)
        })
    }

    #[inline(always)]
    fn bits(self) -> u32 {
        self.0 as u32
    }
}

impl Element for f64 {
    type Reg = u64;
    const PACK: usize = 1;

    fn at(reg: u64, _: usize, _: bool) -> f64 {
        f64::from_bits(reg)
    }

    fn sum(reg: u64) -> f64 {
        f64::from_bits(reg)
    }

    #[inline(always)]
    fn dot(a: &[f64], b: &[f64], c: f64, _: u32) -> f64 {
        a.iter().zip(b).fold(c, |c, (a, b)| a.mul_add(*b, c))
    }

    fn bits(self) -> u64 {
        super::math::bits64(self)
    }
}

/// `mma` with `M` rows and a depth of `K`. List: D, A, B, C.
struct Product<E, const M: usize, const K: usize>(PhantomData<E>);

impl<E: Element, const M: usize, const K: usize> Body for Product<E, M, K> {
    #[inline(always)]
    unsafe fn run(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Flow {
        if m != FULL && cx.members(FULL, m).is_none() {
            return Flow::Jump;
        }
        let [nd, na, nb, _] = sizes(M, K, E::PACK).map(|n| n as u32);
        let mut a = [[E::default(); K]; M];
        for part in 0..na {
            let v = cx.get::<E::Reg>(cx.item(i, nd + part));
            let signed = i.a & flag::A != 0;
            let (down, right) = (part as usize % (M / 8), part as usize / (M / 8));
            for l in 0..32 {
                for n in 0..E::PACK {
                    let column = E::PACK * (l % 4 + 4 * right) + n;
                    a[8 * down + l / 4][column] = E::at(v[l], n, signed);
                }
            }
        }
        let mut b = [[E::default(); K]; 8];
        for part in 0..nb {
            let v = cx.get::<E::Reg>(cx.item(i, nd + na + part));
            let signed = i.a & flag::B != 0;
            for l in 0..32 {
                for n in 0..E::PACK {
                    let k = E::PACK * (l % 4 + 4 * part as usize) + n;
                    b[l / 4][k] = E::at(v[l], n, signed);
                }
            }
        }
        let mut d = [[E::Reg::default(); 32]; 4];
        for part in 0..nd as usize {
            let v = cx.get::<E::Reg>(cx.item(i, nd + na + nb + part as u32));
            for l in 0..32 {
                let (r, c) = (8 * (part / 2) + l / 4, 2 * (l % 4) + part % 2);
                d[part][l] = E::dot(&a[r], &b[c], E::sum(v[l]), i.a).bits();
            }
        }
        for part in 0..nd {
            cx.put(cx.item(i, part), &d[part as usize], m);
        }
        Flow::Next
    }
}

/// Registers of D, A, B, C.
fn sizes(rows: usize, k: usize, pack: usize) -> [usize; 4] {
    let c = 2 * rows / 8;
    [c, rows / 8 * k / (4 * pack), k / (4 * pack), c]
}

/// The `mma` for an element's width in bits, rows and depth; with the registers of D, A, B, C.
pub fn mma(bits: u32, rows: u32, k: u32) -> Option<(Run, [usize; 4])> {
    let run = match (bits, rows, k) {
        (8, 8, 16) => pick::<Product<Int<8>, 8, 16>>(),
        (8, 16, 16) => pick::<Product<Int<8>, 16, 16>>(),
        (8, 16, 32) => pick::<Product<Int<8>, 16, 32>>(),
        (4, 8, 32) => pick::<Product<Int<4>, 8, 32>>(),
        (4, 16, 32) => pick::<Product<Int<4>, 16, 32>>(),
        (4, 16, 64) => pick::<Product<Int<4>, 16, 64>>(),
        (1, 8, 128) => pick::<Product<Int<1>, 8, 128>>(),
        (1, 16, 128) => pick::<Product<Int<1>, 16, 128>>(),
        (1, 16, 256) => pick::<Product<Int<1>, 16, 256>>(),
        (64, 8, 4) => pick::<Product<f64, 8, 4>>(),
        (64, 16, 4) => pick::<Product<f64, 16, 4>>(),
        (64, 16, 8) => pick::<Product<f64, 16, 8>>(),
        (64, 16, 16) => pick::<Product<f64, 16, 16>>(),
        _ => return None,
    };
    let pack = if bits == 64 { 1 } else { 32 / bits as usize };
    Some((run, sizes(rows as usize, k as usize, pack)))
}
