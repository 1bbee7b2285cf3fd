//! `ldmatrix`, `stmatrix` and `mma.sync`.

use super::access::addresses;
use super::cx::{Cx, FULL, Flow, Inst, Run, lanes};
use super::global::Use;
use super::half::{bf16_to_f32, f16_to_f32, f32_to_f16};
use super::math;
use super::ops::{Body, pick};
use super::shared;
use std::marker::PhantomData;

/// Bit of a matrix instruction's immediate: transposed.
pub const TRANS: u64 = 1 << 40;

/// `ldmatrix`: row `a` and the offset give rows of matrices, `b` their number; results in the list.
///
/// # Safety
///
/// The rows exist.
pub unsafe fn ldmatrix(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Flow {
    let Some(_) = cx.members(FULL, m) else {
        return Flow::Jump;
    };
    let addr = addresses(cx, i);
    let mut rows = [[0u16; 8]; 32];
    let count = 8 * i.b as usize;
    let ordinary = shared::rows(cx, &addr[..count]);
    for l in 0..count {
        if !ordinary {
            match shared::bounds(cx, addr[l], 16, l, Use::Read) {
                Ok(at) => shared::lane(cx, at, 16, super::race::WARP, Use::Read),
                Err(flow) => return flow,
            }
        }
        // SAFETY: 16 bytes within bounds.
        rows[l] = unsafe {
            cx.block
                .shared
                .as_ptr()
                .add(addr[l] as usize)
                .cast::<[u16; 8]>()
                .read_unaligned()
        };
    }
    count_rows(cx, &addr, i.b);
    for n in 0..i.b as usize {
        let matrix = &rows[8 * n..8 * n + 8];
        let mut d = [0u32; 32];
        for (l, out) in d.iter_mut().enumerate() {
            let (g, t) = (l / 4, 2 * (l % 4));
            let (low, high) = if i.imm & TRANS != 0 {
                (matrix[t][g], matrix[t + 1][g])
            } else {
                (matrix[g][t], matrix[g][t + 1])
            };
            *out = u32::from(low) | u32::from(high) << 16;
        }
        let row = cx.item(i, n as u32);
        cx.put(row, &d, m);
    }
    Flow::Next
}

/// Wavefronts: eight rows of 16 bytes at a time.
fn count_rows(cx: &mut Cx<'_>, addr: &[u64; 32], matrices: u32) {
    let mut waves = 0;
    for n in 0..matrices as usize {
        let rows = &addr[8 * n..8 * n + 8];
        // Eight different rows fill all banks exactly once when no two start in the same four.
        let seen = rows.iter().fold(0u32, |s, a| s | 1 << (a >> 4 & 7));
        waves += if seen == 0xff {
            1
        } else {
            u64::from(shared::conflicts(rows.iter().map(|a| *a as u32), 16))
        };
    }
    let line = &mut cx.counts.lines[cx.pc as usize];
    line.shared += 1;
    line.waves += waves;
    line.ideal += u64::from(matrices);
}

/// `stmatrix`: the reverse of `ldmatrix`.
///
/// # Safety
///
/// The rows exist.
pub unsafe fn stmatrix(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Flow {
    let Some(_) = cx.members(FULL, m) else {
        return Flow::Jump;
    };
    let addr = addresses(cx, i);
    for n in 0..i.b as usize {
        let v = cx.get::<u32>(cx.item(i, n as u32));
        for r in 0..8 {
            let l = 8 * n + r;
            let at = match shared::bounds(cx, addr[l], 16, l, Use::Write) {
                Ok(at) => at,
                Err(flow) => return flow,
            };
            shared::lane(cx, at, 16, l as u32, Use::Write);
            cx.judge_rewrites(0);
            for c in 0..8 {
                let half = if i.imm & TRANS != 0 {
                    v[4 * c + r / 2] >> (16 * (r % 2))
                } else {
                    v[4 * r + c / 2] >> (16 * (c % 2))
                };
                cx.block.shared[at + 2 * c..at + 2 * c + 2]
                    .copy_from_slice(&(half as u16).to_le_bytes());
            }
        }
    }
    count_rows(cx, &addr, i.b);
    Flow::Next
}

/// The elements of A and B.
pub trait Format: 'static {
    /// Elements in a register.
    const PACK: usize;
    /// Element `n` of a register.
    fn at(r: u32, n: usize) -> f32;
}

/// bf16 pairs.
pub struct Brain;
/// f16 pairs.
pub struct Ieee;
/// e4m3, four in a register.
pub struct E4m3;
/// e5m2, four in a register.
pub struct E5m2;
/// TF32 singles.
pub struct Tensor32;

impl Format for Brain {
    const PACK: usize = 2;
    #[inline(always)]
    fn at(r: u32, n: usize) -> f32 {
        bf16_to_f32(r >> (16 * n) & 0xffff)
    }
}

impl Format for Ieee {
    const PACK: usize = 2;
    #[inline(always)]
    fn at(r: u32, n: usize) -> f32 {
        f16_to_f32(r >> (16 * n) & 0xffff)
    }
}

impl Format for E4m3 {
    const PACK: usize = 4;
    #[inline(always)]
    fn at(r: u32, n: usize) -> f32 {
        super::eight::e4m3_to_f32(r >> (8 * n))
    }
}

impl Format for E5m2 {
    const PACK: usize = 4;
    #[inline(always)]
    fn at(r: u32, n: usize) -> f32 {
        super::eight::e5m2_to_f32(r >> (8 * n))
    }
}

impl Format for Tensor32 {
    const PACK: usize = 1;
    #[inline(always)]
    fn at(r: u32, _: usize) -> f32 {
        f32::from_bits(r & 0xffff_e000)
    }
}

/// `mma.sync` m16n8, K deep, A of `F` and B of `G`, C and D in f32 or (`H`) f16. List: D, A, B, C.
struct Mma<F, G, const K: usize, const H: bool>(PhantomData<(F, G)>);

impl<F: Format, G: Format, const K: usize, const H: bool> Mma<F, G, K, H> {
    /// Columns of A that one register holds.
    const STEP: usize = 4 * F::PACK;

    #[inline(always)]
    fn a(cx: &Cx<'_>, i: &Inst, from: u32) -> [[f32; K]; 16] {
        let mut a = [[0.0; K]; 16];
        for part in 0..2 * K / Self::STEP {
            let v = cx.get::<u32>(cx.item(i, from + part as u32));
            let (top, left) = (8 * (part % 2), Self::STEP * (part / 2));
            for g in 0..8 {
                for t in 0..4 {
                    for n in 0..F::PACK {
                        a[top + g][left + t * F::PACK + n] = F::at(v[4 * g + t], n);
                    }
                }
            }
        }
        a
    }

    #[inline(always)]
    fn b(cx: &Cx<'_>, i: &Inst, from: u32) -> [[f32; 8]; K] {
        let mut b = [[0.0; 8]; K];
        for part in 0..K / Self::STEP {
            let v = cx.get::<u32>(cx.item(i, from + part as u32));
            for t in 0..4 {
                for n in 0..F::PACK {
                    for g in 0..8 {
                        b[Self::STEP * part + t * F::PACK + n][g] = G::at(v[4 * g + t], n);
                    }
                }
            }
        }
        b
    }

    #[inline(always)]
    fn c(cx: &Cx<'_>, i: &Inst, from: u32) -> [[f32; 8]; 16] {
        let mut c = [[0.0; 8]; 16];
        for half in 0..2 {
            let (low, high): ([f32; 32], [f32; 32]) = if H {
                let v = cx.get::<u32>(cx.item(i, from + half));
                (
                    v.map(|x| f16_to_f32(x & 0xffff)),
                    v.map(|x| f16_to_f32(x >> 16)),
                )
            } else {
                let v = cx.get::<u32>(cx.item(i, from + 2 * half));
                let w = cx.get::<u32>(cx.item(i, from + 2 * half + 1));
                (v.map(f32::from_bits), w.map(f32::from_bits))
            };
            for g in 0..8 {
                for t in 0..4 {
                    c[8 * half as usize + g][2 * t] = low[4 * g + t];
                    c[8 * half as usize + g][2 * t + 1] = high[4 * g + t];
                }
            }
        }
        c
    }

    #[inline(always)]
    fn write(cx: &mut Cx<'_>, i: &Inst, d: &[[f32; 8]; 16], m: u32) {
        for half in 0..2 {
            let (mut low, mut high) = ([0u32; 32], [0u32; 32]);
            for g in 0..8 {
                for t in 0..4 {
                    low[4 * g + t] = math::bits(d[8 * half + g][2 * t]);
                    high[4 * g + t] = math::bits(d[8 * half + g][2 * t + 1]);
                }
            }
            if H {
                let mut v = [0; 32];
                for l in 0..32 {
                    v[l] = f32_to_f16(f32::from_bits(low[l]))
                        | f32_to_f16(f32::from_bits(high[l])) << 16;
                }
                let row = cx.item(i, half as u32);
                cx.put(row, &v, m);
            } else {
                let (r, s) = (cx.item(i, 2 * half as u32), cx.item(i, 2 * half as u32 + 1));
                cx.put(r, &low, m);
                cx.put(s, &high, m);
            }
        }
    }
}

impl<F: Format, G: Format, const K: usize, const H: bool> Body for Mma<F, G, K, H> {
    #[inline(always)]
    unsafe fn run(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Flow {
        if m != FULL && cx.members(FULL, m).is_none() {
            return Flow::Jump;
        }
        let outs = if H { 2 } else { 4 };
        let (na, nb) = ((2 * K / Self::STEP) as u32, (K / Self::STEP) as u32);
        let a = Self::a(cx, i, outs);
        let b = Self::b(cx, i, outs + na);
        let mut c = Self::c(cx, i, outs + na + nb);
        if cx.launch.options.truncate > 0 {
            truncated::<K>(&a, &b, &mut c, cx.launch.options.truncate as usize);
        } else {
            for rows in (0..16).step_by(4) {
                let mut acc = [c[rows], c[rows + 1], c[rows + 2], c[rows + 3]];
                for k in 0..K {
                    for r in 0..4 {
                        for n in 0..8 {
                            acc[r][n] = a[rows + r][k].mul_add(b[k][n], acc[r][n]);
                        }
                    }
                }
                c[rows..rows + 4].copy_from_slice(&acc);
            }
        }
        Self::write(cx, i, &c, m);
        if cx.launch.options.nan {
            find_nan(cx, &a, &b, &c);
        }
        Flow::Next
    }
}

/// Sums as tensor cores are known to: groups of products and the accumulator aligned to their largest
/// term, cut below its 24th bit (and two more), then added.
#[inline(never)]
fn truncated<const K: usize>(
    a: &[[f32; K]; 16],
    b: &[[f32; 8]; K],
    c: &mut [[f32; 8]; 16],
    group: usize,
) {
    for r in 0..16 {
        for n in 0..8 {
            let mut sum = f64::from(c[r][n]);
            for from in (0..K).step_by(group) {
                let terms: Vec<f64> = (from..(from + group).min(K))
                    .map(|k| f64::from(a[r][k]) * f64::from(b[k][n]))
                    .collect();
                let largest = terms.iter().fold(sum.abs(), |x, t| x.max(t.abs()));
                if largest == 0.0 || !largest.is_finite() {
                    sum += terms.iter().sum::<f64>();
                    continue;
                }
                let unit = f64::from_bits((largest.to_bits() >> 52 << 52) - (25 << 52));
                let cut = |x: f64| (x / unit).trunc() * unit;
                sum = terms.iter().fold(cut(sum), |s, t| s + cut(*t));
                sum = f64::from(f32::from_bits(super::half::narrow(
                    sum,
                    super::half::F32,
                    super::half::Round::Zero,
                )));
            }
            c[r][n] = sum as f32;
        }
    }
}

#[cold]
#[inline(never)]
fn find_nan<const K: usize>(
    cx: &mut Cx<'_>,
    a: &[[f32; K]; 16],
    b: &[[f32; 8]; K],
    c: &[[f32; 8]; 16],
) {
    for l in lanes(FULL) {
        let (g, t) = (l / 4, 2 * (l % 4));
        for (r, n) in [(g, t), (g, t + 1), (g + 8, t), (g + 8, t + 1)] {
            let finite = a[r].iter().all(|x| x.is_finite()) && b.iter().all(|x| x[n].is_finite());
            if !c[r][n].is_finite()
                && finite
                && cx.launch.findings.lacks(crate::check::Kind::NonFinite)
            {
                cx.find(
                    crate::check::Kind::NonFinite,
                    l,
                    format!("the first one: element ({r}, {n}) of D is {}", c[r][n]),
                );
            }
        }
    }
}

/// The `mma` for A's and B's element types, depth, and f16 accumulators; with the registers of D, A, B, C.
pub fn mma(a: &str, b: &str, k: u32, half: bool) -> Option<(Run, [usize; 4])> {
    let run = match (a, b, k, half) {
        ("bf16", "bf16", 16, false) => pick::<Mma<Brain, Brain, 16, false>>(),
        ("bf16", "bf16", 8, false) => pick::<Mma<Brain, Brain, 8, false>>(),
        ("f16", "f16", 16, false) => pick::<Mma<Ieee, Ieee, 16, false>>(),
        ("f16", "f16", 8, false) => pick::<Mma<Ieee, Ieee, 8, false>>(),
        ("f16", "f16", 16, true) => pick::<Mma<Ieee, Ieee, 16, true>>(),
        ("f16", "f16", 8, true) => pick::<Mma<Ieee, Ieee, 8, true>>(),
        ("tf32", "tf32", 8, false) => pick::<Mma<Tensor32, Tensor32, 8, false>>(),
        ("tf32", "tf32", 4, false) => pick::<Mma<Tensor32, Tensor32, 4, false>>(),
        ("e4m3", "e4m3", 32, false) => pick::<Mma<E4m3, E4m3, 32, false>>(),
        ("e4m3", "e5m2", 32, false) => pick::<Mma<E4m3, E5m2, 32, false>>(),
        ("e5m2", "e4m3", 32, false) => pick::<Mma<E5m2, E4m3, 32, false>>(),
        ("e5m2", "e5m2", 32, false) => pick::<Mma<E5m2, E5m2, 32, false>>(),
        ("e4m3", "e4m3", 32, true) => pick::<Mma<E4m3, E4m3, 32, true>>(),
        ("e5m2", "e5m2", 32, true) => pick::<Mma<E5m2, E5m2, 32, true>>(),
        ("e4m3", "e4m3", 16, false) => pick::<Mma<E4m3, E4m3, 16, false>>(),
        ("e5m2", "e5m2", 16, false) => pick::<Mma<E5m2, E5m2, 16, false>>(),
        _ => return None,
    };
    let step = match a {
        "tf32" => 4,
        "e4m3" | "e5m2" => 16,
        _ => 8,
    };
    let c = if half { 2 } else { 4 };
    Some((run, [c, 2 * k as usize / step, k as usize / step, c]))
}
