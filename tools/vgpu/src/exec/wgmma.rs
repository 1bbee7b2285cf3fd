//! `wgmma`: a warpgroup multiplies matrices in shared memory. Each warp makes its own 16 rows of the 64, at once; the sums
//! stay aside until a wait covers their group, so that who does not wait sees the old ones.
//!
//! Operands with the swizzle of 128 bytes only: rows of 128 bytes in eights, 16-byte chunk i of the row at p at
//! p + 16 (i ^ p / 128 % 8).

use super::cx::{Cx, FULL, Flow, Inst, NONE};
use super::global::Use;
use super::half::{bf16_to_f32, f16_to_f32};
use super::{race, shared};
use crate::check::Kind;

/// Depth of a product.
const K: usize = 16;

/// Sums that no wait has covered.
#[derive(Debug)]
struct Sums {
    group: u64,
    rows: Vec<u32>,
    values: Vec<[u32; 32]>,
}

/// A warp's products under way.
#[derive(Debug, Default)]
pub struct Products {
    committed: u64,
    sums: Vec<Sums>,
}

impl Products {
    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Products::default();
    }
}

/// `wgmma.fence`: all lanes come; nothing to do.
///
/// # Safety
///
/// None beyond the context's.
pub unsafe fn fence(cx: &mut Cx<'_>, _: &Inst, m: u32) -> Flow {
    match cx.members(FULL, m) {
        Some(_) => Flow::Next,
        None => Flow::Jump,
    }
}

/// `wgmma.commit_group`.
///
/// # Safety
///
/// None beyond the context's.
pub unsafe fn commit(cx: &mut Cx<'_>, _: &Inst, m: u32) -> Flow {
    if cx.members(FULL, m).is_none() {
        return Flow::Jump;
    }
    cx.warp.products.committed += 1;
    Flow::Next
}

/// `wgmma.wait_group imm`: the sums of all but the last `imm` groups are there.
///
/// # Safety
///
/// None beyond the context's.
pub unsafe fn wait(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Flow {
    if cx.members(FULL, m).is_none() {
        return Flow::Jump;
    }
    let done = cx.warp.products.committed.saturating_sub(i.imm);
    let all = std::mem::take(&mut cx.warp.products.sums);
    let (ready, rest): (Vec<_>, Vec<_>) = all.into_iter().partition(|s| s.group < done);
    cx.warp.products.sums = rest;
    for sums in ready {
        for (row, values) in sums.rows.iter().zip(&sums.values) {
            cx.put(*row, values, FULL);
        }
    }
    Flow::Next
}

/// A matrix in shared memory, as its descriptor says.
struct Matrix {
    start: u64,
    leading: u64,
    stride: u64,
    transposed: bool,
}

impl Matrix {
    fn new(cx: &mut Cx<'_>, word: u64, transposed: bool) -> Result<Self, Flow> {
        let bytes = |at: u32| (word >> at & 0x3fff) << 4;
        if word >> 62 != 1 || word >> 49 & 7 != 0 {
            let text = format!(
                "matrix descriptor {word:#x}: only the swizzle of 128 bytes without offset is supported"
            );
            cx.find(Kind::Other, 0, text);
            return Err(cx.die(719));
        }
        Ok(Self {
            start: bytes(0),
            leading: bytes(16),
            stride: bytes(32),
            transposed,
        })
    }

    /// Where chunk `i` of eight elements lies: of row `line` along K, or, transposed, of step `line` of K.
    fn chunk(&self, line: usize, i: usize) -> u64 {
        let (line, i) = (line as u64, i as u64);
        let across = if self.transposed {
            i / 8 * self.leading
        } else {
            0
        };
        let p = self.start + line / 8 * self.stride + line % 8 * 128 + across + i % 8 * 16;
        p ^ (p >> 7 & 7) << 4
    }

    /// Rows `first..first + count` of it, K deep.
    fn rows(
        &self,
        cx: &mut Cx<'_>,
        first: usize,
        count: usize,
        bf16: bool,
    ) -> Result<Vec<[f32; K]>, Flow> {
        let (lines, chunks, skip) = match self.transposed {
            true => (0..K, first / 8..(first + count) / 8, first),
            false => (first..first + count, 0..K / 8, 0),
        };
        let mut out = vec![[0.0; K]; count];
        let places: Vec<(usize, usize)> = lines
            .flat_map(|l| chunks.clone().map(move |c| (l, c)))
            .collect();
        for group in places.chunks(32) {
            let addresses: Vec<u64> = group.iter().map(|(l, c)| self.chunk(*l, *c)).collect();
            check(cx, &addresses)?;
            for ((line, chunk), at) in group.iter().zip(&addresses) {
                let bytes = &cx.block.shared[*at as usize..*at as usize + 16];
                for (e, pair) in bytes.chunks_exact(2).enumerate() {
                    let bits = u32::from(u16::from_le_bytes([pair[0], pair[1]]));
                    let value = if bf16 {
                        bf16_to_f32(bits)
                    } else {
                        f16_to_f32(bits)
                    };
                    let along = chunk * 8 + e;
                    match self.transposed {
                        true => out[along - skip][*line] = value,
                        false => out[line - first][along] = value,
                    }
                }
            }
        }
        Ok(out)
    }
}

/// Bounds, and what else is checked when shared memory is read.
fn check(cx: &mut Cx<'_>, addresses: &[u64]) -> Result<(), Flow> {
    if !shared::rows(cx, addresses) {
        for (l, a) in addresses.iter().enumerate() {
            let at = shared::bounds(cx, *a, 16, l, Use::Read)?;
            shared::lane(cx, at, 16, race::WARP, Use::Read);
        }
    }
    Ok(())
}

/// `wgmma.mma_async`: rows `a` and `c` hold the descriptors, `d` the predicate that adds; the list is n, flags (A and B
/// transposed, negative, bf16), the sums' rows.
///
/// # Safety
///
/// The rows exist.
pub unsafe fn product(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Flow {
    if cx.members(FULL, m).is_none() {
        return Flow::Jump;
    }
    match multiply(cx, i) {
        Ok(()) => Flow::Next,
        Err(flow) => flow,
    }
}

fn multiply(cx: &mut Cx<'_>, i: &Inst) -> Result<(), Flow> {
    let (n, flags) = (cx.item(i, 0) as usize, cx.item(i, 1));
    let uniform = |values: [u64; 32]| values.iter().all(|v| *v == values[0]).then_some(values[0]);
    let (Some(a), Some(b)) = (uniform(cx.get(i.a)), uniform(cx.get(i.c))) else {
        cx.find(
            Kind::Collective,
            0,
            "lanes with different matrices".to_owned(),
        );
        return Err(cx.die(719));
    };
    let add = i.d == NONE || cx.get_pred(i.d) & 1 == 1;
    let (a, b) = (
        Matrix::new(cx, a, flags & 1 == 1)?,
        Matrix::new(cx, b, flags >> 1 & 1 == 1)?,
    );
    let bf16 = flags >> 3 & 1 == 1;
    let a = a.rows(cx, 16 * (cx.warp.index as usize % 4), 16, bf16)?;
    let b = b.rows(cx, 0, n, bf16)?;
    let sign = if flags >> 2 & 1 == 1 { -1.0 } else { 1.0 };
    let rows: Vec<u32> = (0..n / 2).map(|r| cx.item(i, 2 + r as u32)).collect();
    let mut values = before(cx, &rows);
    for (r, out) in values.iter_mut().enumerate() {
        for (l, sum) in out.iter_mut().enumerate() {
            let (row, column) = (l / 4 + r % 4 / 2 * 8, r / 4 * 8 + 2 * (l % 4) + r % 2);
            let start = if add { f32::from_bits(*sum) } else { 0.0 };
            let terms = a[row].iter().zip(&b[column]);
            *sum = terms
                .fold(start, |s, (x, y)| (sign * x).mul_add(*y, s))
                .to_bits();
        }
    }
    let group = cx.warp.products.committed;
    let sums = &mut cx.warp.products.sums;
    sums.retain(|s| s.group != group || s.rows != rows);
    sums.push(Sums {
        group,
        rows,
        values,
    });
    count(cx, n);
    Ok(())
}

/// The sums so far: those of the last product with these registers, if it is under way.
fn before(cx: &Cx<'_>, rows: &[u32]) -> Vec<[u32; 32]> {
    let under_way = cx.warp.products.sums.iter().rev().find(|s| s.rows == rows);
    match under_way {
        Some(sums) => sums.values.clone(),
        None => rows.iter().map(|r| cx.get(*r)).collect(),
    }
}

/// Operands pass once for the warpgroup: a quarter of B's rows for each warp.
fn count(cx: &mut Cx<'_>, n: usize) {
    let waves = ((16 + n / 4) * 2 * K / 128) as u64;
    let line = &mut cx.counts.lines[cx.pc as usize];
    line.shared += 1;
    line.waves += waves;
    line.ideal += waves;
}
