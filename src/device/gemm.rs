//! Matrix products from a register micro-kernel.
//!
//! A micro-kernel computes a tile of MR x NR sums over a *batch of stretches*
//! (`sum_b sum_k A[i][b, k] B[b, k][j]`), as batch-reduce GEMM does (Georganas et al., 2020): a 3x3
//! convolution is three stretches (filter rows) of 3 C elements that lie side by side in NHWC, a
//! weight gradient one stretch per picture row, a linear layer a single one. A is read where it
//! lies, through one pointer per row; B is either packed in panels of NR columns or read where it
//! lies too.

use super::lanes::{Lanes, Plain};
use super::pool::Pool;
#[cfg(target_arch = "x86_64")]
use super::simd::Level;
use super::simd::level;
use super::transpose::transpose;
use super::view::{RowsMut, Span};

/// Largest tile of any kernel: rows.
pub const MAX_MR: usize = 12;
/// Largest tile of any kernel: columns.
pub const MAX_NR: usize = 32;

/// Sums of one tile, row by row, `MAX_NR` apart. Aligned for the widest vector.
#[repr(align(64))]
pub struct Tile([f32; MAX_MR * MAX_NR]);

impl Tile {
    fn row(&self, i: usize, n: usize) -> &[f32] {
        &self.0[i * MAX_NR..i * MAX_NR + n]
    }
}

/// What one kernel call reads: positions are elements from the operands' starts.
#[derive(Clone, Copy)]
struct Args {
    rows: [*const f32; MAX_MR],
    a_k: usize,
    a_batch: usize,
    b: *const f32,
    b_k: usize,
    b_batch: usize,
    k: usize,
    batch: usize,
    add: bool,
    out: *mut f32,
    out_ld: usize,
}

type Kernel = unsafe fn(&Args);

/// Kernels by number of vectors per row (1, 2) and rows, for one instruction set.
struct Family {
    lanes: usize,
    mr: usize,
    kernels: [[Kernel; MAX_MR]; 2],
}

impl Family {
    fn nr(&self) -> usize {
        2 * self.lanes
    }
}

fn family() -> &'static Family {
    match level() {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => &x86::AVX512,
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => &x86::AVX2,
        _ => &PORTABLE,
    }
}

/// The kernel: MR rows, NV vectors of columns, all sums in registers.
///
/// # Safety
/// Every position that `args` addresses is readable: rows `rows[..MR]`, and NV vectors of b; MR rows of
/// NV vectors can be written (and, if they are added to, read) at `out`.
#[inline(always)]
unsafe fn body<V: Lanes, const MR: usize, const NV: usize>(args: &Args) {
    // SAFETY: promised by the caller.
    unsafe {
        let mut sums = [[V::zero(); NV]; MR];
        let (out, ld) = (args.out, args.out_ld);
        if args.add {
            for (i, row) in sums.iter_mut().enumerate() {
                for (j, sum) in row.iter_mut().enumerate() {
                    *sum = V::load(out.add(i * ld + j * V::N));
                }
            }
        }
        let mut rows = [std::ptr::null(); MR];
        rows.copy_from_slice(&args.rows[..MR]);
        for batch in 0..args.batch {
            let mut b = args.b.add(batch * args.b_batch);
            let mut at = batch * args.a_batch;
            for _ in 0..args.k {
                let mut columns = [V::zero(); NV];
                for (j, column) in columns.iter_mut().enumerate() {
                    *column = V::load(b.add(j * V::N));
                }
                for (row, sums) in rows.iter().zip(&mut sums) {
                    let a = V::set(*row.add(at));
                    for (sum, &column) in sums.iter_mut().zip(&columns) {
                        *sum = a.mul_add(column, *sum);
                    }
                }
                b = b.add(args.b_k);
                at += args.a_k;
            }
        }
        for (i, row) in sums.iter().enumerate() {
            for (j, sum) in row.iter().enumerate() {
                sum.store(out.add(i * ld + j * V::N));
            }
        }
    }
}

/// Kernels of 1..=`$max` rows for one vector type; larger row counts are never asked for.
macro_rules! kernels {
    ($vector:ty, [$($feature:literal)?], $($mr:literal)*) => {{
        $(#[target_feature(enable = $feature)])?
        unsafe fn kernel<const MR: usize, const NV: usize>(args: &Args) {
            // SAFETY: promised by the caller.
            unsafe { body::<$vector, MR, NV>(args) }
        }
        let mut table: [[Kernel; MAX_MR]; 2] = [[kernel::<1, 1>; MAX_MR], [kernel::<1, 2>; MAX_MR]];
        $(
            table[0][$mr - 1] = kernel::<$mr, 1>;
            table[1][$mr - 1] = kernel::<$mr, 2>;
        )*
        table
    }};
}

static PORTABLE: Family = Family {
    lanes: 4,
    mr: 4,
    kernels: kernels!(Plain, [], 1 2 3 4),
};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Args, Family, Kernel, MAX_MR, body};
    use crate::device::lanes::{V8, V16};

    pub static AVX512: Family = Family {
        lanes: 16,
        mr: 12,
        kernels: kernels!(V16, ["avx512f"], 1 2 3 4 5 6 7 8 9 10 11 12),
    };
    pub static AVX2: Family = Family {
        lanes: 8,
        mr: 6,
        kernels: kernels!(V8, ["avx2,fma"], 1 2 3 4 5 6),
    };
}

/// Numbers that `k` rows of `n` columns take when packed: whole panels.
pub fn packed_len(k: usize, n: usize) -> usize {
    k * n.next_multiple_of(family().nr())
}

/// Where B lies.
#[derive(Clone, Copy)]
pub enum Columns<'a> {
    /// Panels made by [`pack`], each with all rows of all stretches.
    Packed(&'a [f32]),
    /// Row `k` of stretch `b` at `b * batch_stride + k * stride`. Up to [`MAX_NR`] - 1 elements past
    /// a row's end are read (and ignored), so the slice has that many to spare.
    InPlace {
        /// The elements.
        data: &'a [f32],
        /// Distance of rows.
        stride: usize,
        /// Distance of stretches.
        batch_stride: usize,
    },
}

/// One summand of a product: A (read in place), B, and the stretches they share.
#[derive(Clone, Copy)]
pub struct Term<'a> {
    /// A's elements; row i of the product starts at the position that the caller names for it.
    pub a: Span<'a>,
    /// Distance of A's elements along a stretch.
    pub a_stride: usize,
    /// Distance of A's stretches.
    pub a_batch: usize,
    /// B.
    pub b: Columns<'a>,
    /// Elements of a stretch.
    pub k: usize,
    /// Stretches.
    pub batch: usize,
}

/// Computes `m` x `n` sums of `terms`, tile by tile, and hands each tile row to
/// `store(row, first column, sums)`. `position(term, row)` is where row `row` of A starts in term
/// number `term`.
///
/// # Panics
/// If a term would read outside its operands.
pub fn multiply(
    m: usize,
    n: usize,
    terms: &[Term<'_>],
    position: impl Fn(usize, usize) -> usize,
    mut store: impl FnMut(usize, usize, &[f32]),
) {
    let family = family();
    let mut tile = Tile([0.0; MAX_MR * MAX_NR]);
    let steps = m.div_ceil(family.mr);
    let mut column = 0;
    while column < n {
        let width = family.nr().min(n - column);
        let vectors = width.div_ceil(family.lanes);
        let mut row = 0;
        for step in 0..steps {
            // Rows are dealt out evenly: 16 rows are 8 + 8, not 12 + 4.
            let height = (m - row).div_ceil(steps - step);
            for (number, term) in terms.iter().enumerate() {
                let mut args = term.args(column, vectors * family.lanes, height, |i| {
                    position(number, row + i)
                });
                args.add = number > 0;
                args.out = tile.0.as_mut_ptr();
                // SAFETY: `args` checked what is read; a tile holds MAX_MR x MAX_NR numbers; rows <= mr
                // have kernels.
                unsafe { family.kernels[vectors - 1][height - 1](&args) };
            }
            for i in 0..height {
                store(row + i, column, tile.row(i, width));
            }
            row += height;
        }
        column += width;
    }
}

/// Where [`multiply_panel`] writes.
pub struct Sums<'a> {
    /// Row i starts at `i * ld`.
    pub out: &'a mut [f32],
    /// Distance of rows.
    pub ld: usize,
    /// Whether the products join what is there.
    pub add: bool,
}

/// Computes `m` x `width` sums of `term` in place. Row i of A starts at `i * a_ld`; B is one panel of
/// `width` columns, a multiple of the vector's length and at most [`panel_width`].
///
/// # Panics
/// If a row would be read or written outside its operand.
pub fn multiply_panel([m, width]: [usize; 2], term: &Term<'_>, a_ld: usize, sums: Sums<'_>) {
    let family = family();
    let vectors = width / family.lanes;
    assert_eq!(
        width,
        vectors * family.lanes,
        "columns are no whole vectors"
    );
    if m == 0 {
        return;
    }
    assert!(
        (m - 1) * sums.ld + width <= sums.out.len(),
        "sums are written past the end"
    );
    // Checked once for all rows: the last one reads farthest.
    let mut args = term.args(0, width, 1, |_| (m - 1) * a_ld);
    args.add = sums.add;
    args.out_ld = sums.ld;
    let (first, steps) = (term.a.ptr(), m.div_ceil(family.mr));
    let mut row = 0;
    for step in 0..steps {
        let height = (m - row).div_ceil(steps - step);
        for (i, at) in args.rows[..height].iter_mut().enumerate() {
            *at = first.wrapping_add((row + i) * a_ld);
        }
        args.out = sums.out[row * sums.ld..].as_mut_ptr();
        // SAFETY: what is read and written was checked above; heights up to mr have kernels.
        unsafe { family.kernels[vectors - 1][height - 1](&args) };
        row += height;
    }
}

/// Columns of a panel.
pub fn panel_width() -> usize {
    family().nr()
}

impl Term<'_> {
    /// Pointers of one tile, after checking that all it reads is there.
    #[inline]
    fn args(
        &self,
        column: usize,
        width: usize,
        height: usize,
        position: impl Fn(usize) -> usize,
    ) -> Args {
        let total = self.k * self.batch;
        let reach = (self.k.max(1) - 1) * self.a_stride + (self.batch.max(1) - 1) * self.a_batch;
        let mut rows = [self.a.ptr(); MAX_MR];
        for (i, row) in rows[..height].iter_mut().enumerate() {
            let at = position(i);
            assert!(
                total == 0 || at + reach < self.a.len(),
                "A is read past its end"
            );
            *row = self.a.ptr().wrapping_add(at);
        }
        let (data, b_k, b_batch, first) = match self.b {
            Columns::Packed(data) => (data, width, self.k * width, total * column),
            Columns::InPlace {
                data,
                stride,
                batch_stride,
            } => (data, stride, batch_stride, column),
        };
        let last = first + (self.k.max(1) - 1) * b_k + (self.batch.max(1) - 1) * b_batch + width;
        assert!(total == 0 || last <= data.len(), "B is read past its end");
        Args {
            rows,
            a_k: self.a_stride,
            a_batch: self.a_batch,
            b: data.as_ptr().wrapping_add(first),
            b_k,
            b_batch,
            k: self.k,
            batch: self.batch,
            add: false,
            out: std::ptr::null_mut(),
            out_ld: MAX_NR,
        }
    }
}

/// Packs `k` rows by `width` columns into (part of) a panel; element (row, column) of B is
/// `source[row * strides[0] + column * strides[1]]`. Padding columns are zero.
fn pack_panel(panel: &mut [f32], source: &[f32], [k, width]: [usize; 2], strides: [usize; 2]) {
    let padded = width.next_multiple_of(family().lanes);
    if strides[1] == 1 {
        for (row, out) in panel.chunks_exact_mut(padded).take(k).enumerate() {
            out[..width].copy_from_slice(&source[row * strides[0]..row * strides[0] + width]);
            out[width..].fill(0.0);
        }
        return;
    }
    assert_eq!(strides[0], 1, "neither rows nor columns are in a run");
    transpose(source, panel, [width, k], [strides[1], padded]);
    if width < padded {
        for row in panel.chunks_exact_mut(padded).take(k) {
            row[width..].fill(0.0);
        }
    }
}

/// Packs all of a B of `k` rows and `n` columns into `packed`; element (row, column) of B is
/// `source[row * strides[0] + column * strides[1]]`.
pub fn pack(packed: &mut [f32], source: &[f32], [k, n]: [usize; 2], strides: [usize; 2]) {
    let nr = family().nr();
    for first in (0..n).step_by(nr) {
        let width = nr.min(n - first);
        pack_panel(
            &mut packed[k * first..],
            &source[first * strides[1]..],
            [k, width],
            strides,
        );
    }
}

/// [`pack`] for `rows` rows of `cols` elements given one by one: as a B with these rows, or
/// `transposed`, with these rows as its columns.
pub fn pack_rows<'a>(
    packed: &mut [f32],
    [rows, cols]: [usize; 2],
    transposed: bool,
    row: impl Fn(usize) -> &'a [f32],
) {
    let (nr, lanes) = (family().nr(), family().lanes);
    let (k, n) = if transposed {
        (cols, rows)
    } else {
        (rows, cols)
    };
    for first in (0..n).step_by(nr) {
        let width = nr.min(n - first);
        let padded = width.next_multiple_of(lanes);
        let panel = &mut packed[k * first..k * (first + padded)];
        if !transposed {
            for (r, out) in panel.chunks_exact_mut(padded).enumerate() {
                out[..width].copy_from_slice(&row(r)[first..first + width]);
                out[width..].fill(0.0);
            }
            continue;
        }
        if width < padded {
            panel.fill(0.0);
        }
        for j in 0..width {
            for (&x, out) in row(first + j)
                .iter()
                .zip(panel[j..].iter_mut().step_by(padded))
            {
                *out = x;
            }
        }
    }
}

/// [`pack`] for a B that is a stack of blocks of `k` rows each, one panel per task. `blocks` are the
/// positions in `source` where the blocks start.
pub fn pack_blocks(
    pool: &Pool,
    packed: &mut [f32],
    (source, blocks): (&[f32], &[usize]),
    [k, n]: [usize; 2],
    strides: [usize; 2],
) {
    let nr = family().nr();
    let panel = k * blocks.len() * nr;
    let panels = RowsMut::of(packed, [1, 1, n.div_ceil(nr), panel]).split(1);
    pool.run(&[panels], &mut [], |task, parts, _| {
        let first = task * nr;
        let width = nr.min(n - first);
        let padded = width.next_multiple_of(family().lanes);
        let mut part = parts.get(0);
        let panel = part.row(0, 0);
        for (&block, out) in blocks.iter().zip(panel.chunks_exact_mut(k * padded)) {
            pack_panel(
                out,
                &source[block + first * strides[1]..],
                [k, width],
                strides,
            );
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Philox, Stream};

    fn noise(n: usize, index: u64) -> Vec<f32> {
        let mut out = vec![0.0; n];
        Philox::new(9, Stream::Noise, index).fill_normals(&mut out);
        out
    }

    #[test]
    fn products_match_f64_for_odd_sizes() {
        for (case, &(m, n, k, batch)) in [
            (1, 1, 1, 1),
            (13, 33, 7, 3),
            (12, 32, 16, 1),
            (29, 70, 5, 2),
            (4, 3, 100, 1),
            (25, 16, 9, 4),
        ]
        .iter()
        .enumerate()
        {
            let total = k * batch;
            let a = noise(m * total, case as u64);
            let b = noise(total * n, 100 + case as u64);
            let mut packed = vec![f32::NAN; packed_len(total, n)];
            pack(&mut packed, &b, [total, n], [n, 1]);
            let transposed: Vec<f32> = (0..n * total)
                .map(|i| b[i % total * n + i / total])
                .collect();
            let mut packed2 = vec![f32::NAN; packed_len(total, n)];
            pack(&mut packed2, &transposed, [total, n], [1, total]);
            for (x, y) in packed.iter().zip(&packed2) {
                assert!(x.to_bits() == y.to_bits());
            }
            let mut in_place = b.clone();
            in_place.resize(b.len() + MAX_NR, f32::NAN);
            let columns = [
                Columns::Packed(&packed),
                Columns::InPlace {
                    data: &in_place,
                    stride: n,
                    batch_stride: n * k,
                },
            ];
            for b_form in columns {
                let term = Term {
                    a: a.as_slice().into(),
                    a_stride: 1,
                    a_batch: k,
                    b: b_form,
                    k,
                    batch,
                };
                let mut c = vec![0.0; m * n];
                // Twice the same term: the sum is doubled.
                multiply(
                    m,
                    n,
                    &[term, term],
                    |_, i| i * total,
                    |i, j, row| {
                        c[i * n + j..i * n + j + row.len()].copy_from_slice(row);
                    },
                );
                for i in 0..m {
                    for j in 0..n {
                        let want: f64 = (0..total)
                            .map(|p| f64::from(a[i * total + p]) * f64::from(b[p * n + j]))
                            .sum();
                        assert!(
                            (f64::from(c[i * n + j]) - 2.0 * want).abs() < 1e-4,
                            "{m} {n} {k}: {i} {j}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "A is read past its end")]
    fn reading_past_the_end_is_refused() {
        let (a, b) = (noise(10, 1), noise(1000, 2));
        let term = Term {
            a: a.as_slice().into(),
            a_stride: 1,
            a_batch: 0,
            b: Columns::Packed(&b),
            k: 6,
            batch: 1,
        };
        multiply(2, 1, &[term], |_, i| i * 5, |_, _, _| {});
    }
}
