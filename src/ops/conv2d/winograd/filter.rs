//! The filter's transform: G g G^T for every channel pair, packed for the products.

use super::grid::PAD;
use super::transform::{POINTS, WINDOW, filter_square};
use crate::device::gemm::panel_width;
use crate::device::lanes::{Lanes, by_level};
use crate::device::pool::Pool;
use crate::device::transpose::transpose;
use crate::device::view::RowsMut;
use std::ops::Range;

/// How a transformed filter lies in memory: `[panel][point][row][column]`, rows being the channels
/// that products are summed over, columns those of the result, in panels of the micro-kernel's width.
#[derive(Clone, Copy, Debug)]
pub struct Filter {
    rows: usize,
    columns: usize,
}

/// Which way a filter `[k, 3, 3, c]` is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Sums over c, results in k.
    Forward,
    /// Turned by 180 degrees; sums over k, results in c.
    Gradient,
}

/// A weight, and how it is used.
#[derive(Clone, Copy)]
pub struct Weight<'a> {
    /// `[k, 3, 3, c]`.
    pub w: &'a [f32],
    /// Its input channels.
    pub c: usize,
    /// Which way.
    pub how: Use,
}

/// Rows that are gathered at a time.
const ROWS: usize = 16;

impl Filter {
    /// A filter with sums over `rows` channels and results in `columns`.
    pub fn new(rows: usize, columns: usize) -> Self {
        Self { rows, columns }
    }

    /// Numbers that it takes.
    pub fn len(&self) -> usize {
        self.panels() * self.panel_len()
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Panels of columns.
    pub fn panels(&self) -> usize {
        self.columns.div_ceil(panel_width())
    }

    fn point_len(&self) -> usize {
        self.rows * panel_width() + PAD
    }

    fn panel_len(&self) -> usize {
        POINTS * self.point_len()
    }

    /// Columns of panel `panel`.
    pub fn width(&self, panel: usize) -> usize {
        panel_width().min(self.columns - panel * panel_width())
    }

    /// The matrix of panel `panel` and point `point` in `data`.
    pub fn matrix<'d>(&self, data: &'d [f32], panel: usize, point: usize) -> &'d [f32] {
        let start = panel * self.panel_len() + point * self.point_len();
        &data[start..start + self.rows * self.width(panel)]
    }

    /// Transforms all of `weight` into `out`, a panel per task. `scratch` holds
    /// [`Filter::scratch_len`] numbers for each worker.
    pub fn transform(&self, pool: &Pool, out: &mut [f32], weight: Weight<'_>, scratch: &mut [f32]) {
        let split = RowsMut::of(out, [1, 1, self.panels(), self.panel_len()]).split(1);
        pool.run(&[split], scratch, |panel, parts, scratch| {
            let mut part = parts.get(0);
            let width = self.width(panel);
            let first = [0, panel * panel_width()];
            self.panel(part.row(0, 0), weight, first, width, scratch);
        });
    }

    /// Transforms the block of `weight` whose first row and column are `first` into `out`.
    pub fn block(
        &self,
        out: &mut [f32],
        weight: Weight<'_>,
        first: [usize; 2],
        scratch: &mut [f32],
    ) {
        for (panel, out) in out.chunks_mut(self.panel_len()).enumerate() {
            let first = [first[0], first[1] + panel * panel_width()];
            self.panel(out, weight, first, self.width(panel), scratch);
        }
    }

    /// One panel of `width` columns.
    fn panel(
        &self,
        out: &mut [f32],
        weight: Weight<'_>,
        [row, column]: [usize; 2],
        width: usize,
        scratch: &mut [f32],
    ) {
        for first in (0..self.rows).step_by(ROWS) {
            let rows = first..(first + ROWS).min(self.rows);
            match weight.how {
                Use::Forward => self.forward(out, weight, [row, column], (rows, width), scratch),
                Use::Gradient => self.gradient(out, weight, [row, column], (rows, width)),
            }
        }
    }

    /// Numbers of scratch for each worker.
    pub fn scratch_len() -> usize {
        9 * ROWS * panel_width()
    }

    /// Rows of one panel; results lie a filter apart in `w`, so they are gathered first.
    fn forward(
        &self,
        out: &mut [f32],
        Weight { w, c, .. }: Weight<'_>,
        [row, column]: [usize; 2],
        (rows, width): (Range<usize>, usize),
        taps: &mut [f32],
    ) {
        for tap in 0..9 {
            let from = &w[(column * 9 + tap) * c + row + rows.start..];
            let to = &mut taps[tap * ROWS * width..];
            transpose(from, to, [width, rows.len()], [9 * c, width]);
        }
        for (i, row) in rows.enumerate() {
            let taps: [&[f32]; 9] =
                std::array::from_fn(|tap| &taps[(tap * ROWS + i) * width..][..width]);
            self.row(out, row, &taps);
        }
    }

    /// Rows of one panel; results lie side by side in `w`.
    fn gradient(
        &self,
        out: &mut [f32],
        Weight { w, c, .. }: Weight<'_>,
        [first, column]: [usize; 2],
        (rows, width): (Range<usize>, usize),
    ) {
        for row in rows {
            let taps: [&[f32]; 9] = std::array::from_fn(|tap| {
                let from = ((first + row) * 9 + 8 - tap) * c + column;
                &w[from..from + width]
            });
            self.row(out, row, &taps);
        }
    }

    /// One row of all points of a panel from its nine taps.
    fn row(&self, out: &mut [f32], row: usize, taps: &[&[f32]; 9]) {
        let width = taps[0].len();
        let out = &mut out[row * width..];
        assert!(taps.iter().all(|tap| tap.len() == width));
        assert!((POINTS - 1) * self.point_len() + width <= out.len());
        // SAFETY: the lengths were checked; widths are whole vectors.
        unsafe { points(taps, self.point_len(), out.as_mut_ptr()) }
    }
}

by_level! {
    /// Transforms vectors of nine taps each; point p goes to `out + p step`.
    ///
    /// # Safety
    /// `taps` are of one length, a multiple of the vector's; all that is addressed exists.
    unsafe fn points(taps: &[&[f32]; 9], step: usize, out: *mut f32) = points_of
}

#[inline(always)]
unsafe fn points_of<V: Lanes>(taps: &[&[f32]; 9], step: usize, out: *mut f32) {
    for at in (0..taps[0].len()).step_by(V::N) {
        // SAFETY: promised by the caller.
        unsafe {
            let mut g = [[V::zero(); 3]; 3];
            for r in 0..3 {
                for s in 0..3 {
                    g[r][s] = V::load(taps[3 * r + s].as_ptr().add(at));
                }
            }
            let u = filter_square(&g);
            for i in 0..WINDOW {
                for j in 0..WINDOW {
                    u[i][j].store(out.add((i * WINDOW + j) * step + at));
                }
            }
        }
    }
}
