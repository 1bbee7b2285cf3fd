//! The weight gradient: windows and output gradients transformed, their products summed over tiles
//! point by point, the sums transformed back.
//!
//! The tiles come in chunks whose transforms stay in the shared cache. In memory they lie by *units*,
//! some bands each, so that a unit's transforms are one task's own stretch of memory; a sum over
//! tiles runs over the units' stretches. If there is only one chunk, its sums need not be kept: a
//! task transforms them back where they are made.

use super::grid::{Grid, PAD, Window};
use super::input::{Steps, gradients, windows};
use super::transform::{POINTS, WINDOW, filter_adjoint_square};
use crate::device::call::Call;
use crate::device::gemm::{self, Columns, Sums, Term, panel_width};
use crate::device::lanes::{Lanes, by_level};
use crate::device::vector;
use crate::device::view::{Rows, RowsMut, Span};
use crate::ops::prologue::Loader;
use crate::tape::backward::Mode;
use std::ops::Range;

/// Most tiles of a unit: enough for the products' inner loop.
const UNIT: usize = 16;
/// Numbers of a chunk's transforms (8 MiB).
const CHUNK: usize = 2 * 1024 * 1024;
/// Rows of the sums that one task computes.
const HEIGHT: usize = 96;
/// Filters that one task transforms back.
const FILTERS: usize = 8;
/// Filters and channels of sums that are transformed back where they are made.
const BLOCK: [usize; 2] = [24, 32];
/// Numbers between two points of a block.
const BLOCK_LEN: usize = BLOCK[0] * BLOCK[1] + PAD;

/// Layout of the shared scratch: sums of products `[point][k][c]`, sums of the gradients of all pixels
/// `[unit][k]`, the units of a chunk.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    grid: Grid,
    c: usize,
    k: usize,
    /// Tiles of a unit.
    tiles: usize,
    /// Units of a chunk.
    chunk: usize,
}

impl Layout {
    /// For an output's gradient of `shape` and an input of `c` channels.
    pub fn new(shape: [usize; 4], c: usize) -> Self {
        let grid = Grid::of(shape, c, (super::tiles(shape) / 4).clamp(1, UNIT));
        let mut layout = Self {
            grid,
            c,
            k: shape[3],
            tiles: grid.task_tiles(),
            chunk: 1,
        };
        layout.chunk = (CHUNK / layout.unit_len()).clamp(1, grid.tasks.count());
        layout
    }

    /// Numbers that all tasks share.
    pub fn shared_len(&self) -> usize {
        self.sums_len() + self.biases_len() + self.chunk * self.unit_len()
    }

    /// Numbers that each worker needs.
    pub fn scratch_len(&self) -> usize {
        let windows = (2 * self.c).next_multiple_of(PAD) + self.grid.window_len();
        windows.max(POINTS * BLOCK_LEN)
    }

    fn is_one_chunk(&self) -> bool {
        self.grid.tasks.count() <= self.chunk
    }

    fn sums_len(&self) -> usize {
        if self.is_one_chunk() {
            0
        } else {
            POINTS * self.point_len()
        }
    }

    fn point_len(&self) -> usize {
        self.k * self.c + PAD
    }

    fn biases_len(&self) -> usize {
        self.grid.tasks.count() * self.k
    }

    /// How a unit's transformed windows lie: panels of channels, each with all tiles.
    fn windows(&self) -> Steps {
        let panel = self.tiles * panel_width();
        Steps {
            point: self.c.div_ceil(panel_width()) * panel + PAD,
            tile: panel_width(),
            panel,
        }
    }

    /// How a unit's transformed gradients lie: tile by tile.
    fn gradients(&self) -> Steps {
        let tile = self.k + PAD;
        Steps {
            point: self.tiles * tile + PAD,
            tile,
            panel: panel_width(),
        }
    }

    /// Numbers of a unit's windows.
    fn windows_len(&self) -> usize {
        POINTS * self.windows().point
    }

    fn unit_len(&self) -> usize {
        self.windows_len() + POINTS * self.gradients().point
    }
}

/// Computes dw and db (outputs 0 and 1 of `call`) from the activated input and dy.
pub fn run(
    call: &Call<'_>,
    loader: &Loader<'_>,
    upsample: bool,
    dy: Rows<'_>,
    layout: &Layout,
    modes: [Mode; 2],
) {
    let shared = call.shared();
    let (sums, rest) = shared.split_at_mut(layout.sums_len());
    let (biases, units) = rest.split_at_mut(layout.biases_len());
    let scratch = call.scratch();
    let source = Source {
        layout,
        loader,
        upsample,
        dy,
    };
    let count = layout.grid.tasks.count();
    for first in (0..count).step_by(layout.chunk) {
        let here = layout.chunk.min(count - first);
        let split = [
            RowsMut::of(units, [1, 1, here, layout.unit_len()]).split(1),
            RowsMut::of(&mut biases[first * layout.k..], [1, 1, here, layout.k]).split(1),
        ];
        call.pool().run(&split, scratch, |unit, parts, scratch| {
            let [mut unit_out, mut bias] = parts.many([0, 1]);
            source.unit(first + unit, unit_out.row(0, 0), bias.row(0, 0), scratch);
        });
        let units = &units[..here * layout.unit_len()];
        if layout.is_one_chunk() {
            gradients_of(call, layout, units, modes[0], scratch);
        } else {
            products(call, layout, units, sums, first > 0);
        }
    }
    if !layout.is_one_chunk() {
        finish(call, layout, sums, modes[0]);
    }
    add_biases(call, layout.k, biases, modes[1]);
}

/// What the units are made from.
struct Source<'a> {
    layout: &'a Layout,
    loader: &'a Loader<'a>,
    upsample: bool,
    dy: Rows<'a>,
}

impl Source<'_> {
    /// The transforms of unit number `unit`, and the sums of its pixels' gradients.
    fn unit(&self, unit: usize, out: &mut [f32], bias: &mut [f32], scratch: &mut [f32]) {
        let layout = self.layout;
        let grid = &layout.grid;
        let (place, pixels) = grid.tasks.task(unit);
        let (table, rows) = scratch.split_at_mut((2 * layout.c).next_multiple_of(PAD));
        let mut window = Window::new(grid, self.loader, self.upsample, table, rows);
        let (columns, mut tile) = (grid.columns(), 0);
        bias.fill(0.0);
        if grid.bands(place, pixels).count() * columns < layout.tiles {
            // The tiles that the last unit lacks count as zero.
            out.fill(0.0);
        }
        let (windows_out, gradients_out) = out.split_at_mut(layout.windows_len());
        for band in grid.bands(place, pixels) {
            window.go(band);
            let steps = layout.windows();
            windows(
                grid,
                &window,
                layout.c,
                &mut windows_out[tile * steps.tile..],
                steps,
            );
            let steps = layout.gradients();
            let to = &mut gradients_out[tile * steps.tile..];
            gradients(grid, self.dy, band, to, steps);
            tile += columns;
        }
        let [h, w] = grid.size();
        let first = place.0 * h * w + place.1;
        for pixel in first..first + pixels {
            vector::add(self.dy.row(pixel / (h * w), pixel % (h * w)), bias);
        }
    }
}

/// Adds the products of a chunk's `units` to the sums (or, if they are the first, writes them).
fn products(call: &Call<'_>, layout: &Layout, units: &[f32], sums: &mut [f32], add: bool) {
    let (c, k) = (layout.c, layout.k);
    let by_point = RowsMut::of(sums, [1, 1, POINTS, layout.point_len()]).split(1);
    call.pool().run(&[by_point], &mut [], |p, parts, _| {
        let mut part = parts.get(0);
        let out = part.row(0, 0);
        for first in (0..k).step_by(HEIGHT) {
            let height = HEIGHT.min(k - first);
            for column in (0..c).step_by(panel_width()) {
                let sums = Sums {
                    out: &mut out[first * c + column..],
                    ld: c,
                    add,
                };
                layout.multiply(units, p, [first, height], column, sums);
            }
        }
    });
}

impl Layout {
    /// The products of `units` at point `p`: rows `first` and on, a panel of columns from `column` on.
    fn multiply(
        &self,
        units: &[f32],
        p: usize,
        [first, height]: [usize; 2],
        column: usize,
        sums: Sums<'_>,
    ) {
        let (from, to, stride) = (self.windows(), self.gradients(), self.unit_len());
        let gradients = self.windows_len() + p * to.point;
        let window = p * from.point + column / panel_width() * from.panel;
        let term = Term {
            a: Span::from(&units[gradients + first..]),
            a_stride: to.tile,
            a_batch: stride,
            b: Columns::InPlace {
                data: &units[window..],
                stride: from.tile,
                batch_stride: stride,
            },
            k: self.tiles,
            batch: units.len() / stride,
        };
        let width = panel_width().min(self.c - column);
        gemm::multiply_panel([height, width], &term, 1, sums);
    }
}

/// dw from the units of the only chunk, block by block.
fn gradients_of(call: &Call<'_>, layout: &Layout, units: &[f32], mode: Mode, scratch: &mut [f32]) {
    let (c, dw) = (layout.c, call.output(0).reshape(layout.k));
    let split = [dw.split(BLOCK[0])];
    call.pool().run(&split, scratch, |_, parts, sums| {
        let (_, first) = parts.place(0);
        let mut dw = parts.get(0);
        for column in (0..c).step_by(BLOCK[1]) {
            let width = BLOCK[1].min(c - column);
            for (p, sums) in sums.chunks_exact_mut(BLOCK_LEN).take(POINTS).enumerate() {
                for j in (0..width).step_by(panel_width()) {
                    let sums = Sums {
                        out: &mut sums[j..],
                        ld: BLOCK[1],
                        add: false,
                    };
                    layout.multiply(units, p, [first, dw.rows()], column + j, sums);
                }
            }
            for row in 0..dw.rows() {
                let from = (&sums[row * BLOCK[1]..], BLOCK_LEN);
                filter_of(from, dw.row(0, row), column..column + width, mode);
            }
        }
    });
}

/// Transforms the sums back into dw.
fn finish(call: &Call<'_>, layout: &Layout, sums: &[f32], mode: Mode) {
    let (c, dw) = (layout.c, call.output(0).reshape(layout.k));
    call.pool()
        .run(&[dw.split(FILTERS)], &mut [], |_, parts, _| {
            let (_, first) = parts.place(0);
            let mut dw = parts.get(0);
            for row in 0..dw.rows() {
                let from = (&sums[(first + row) * c..], layout.point_len());
                filter_of(from, dw.row(0, row), 0..c, mode);
            }
        });
}

/// Adds up db.
fn add_biases(call: &Call<'_>, k: usize, biases: &[f32], mode: Mode) {
    let mut db = call.output(1);
    let db = db.row(0, 0);
    if mode == Mode::Write {
        db.fill(0.0);
    }
    for unit in biases.chunks_exact(k) {
        vector::add(unit, db);
    }
}

/// Channels `channels` of one filter's gradient from its sums, `step` apart.
fn filter_of((sums, step): (&[f32], usize), dw: &mut [f32], channels: Range<usize>, mode: Mode) {
    let (c, width) = (dw.len() / 9, channels.len());
    assert!((POINTS - 1) * step + width <= sums.len() && channels.end <= c);
    let out = dw[channels.start..].as_mut_ptr();
    // SAFETY: the lengths were checked; channels are whole vectors.
    unsafe { taps(sums.as_ptr(), step, [width, c], mode == Mode::Add, out) };
}

by_level! {
    /// Nine taps of `width` channels at `out`, `c` apart, from the points at `from`, `step` apart.
    ///
    /// # Safety
    /// All that is addressed exists; `width` is a multiple of the vector's length.
    unsafe fn taps(from: *const f32, step: usize, widths: [usize; 2], add: bool, out: *mut f32) = taps_of
}

#[inline(always)]
unsafe fn taps_of<V: Lanes>(
    from: *const f32,
    step: usize,
    [width, c]: [usize; 2],
    add: bool,
    out: *mut f32,
) {
    for at in (0..width).step_by(V::N) {
        // SAFETY: promised by the caller.
        unsafe {
            let mut u = [[V::zero(); WINDOW]; WINDOW];
            for i in 0..WINDOW {
                for j in 0..WINDOW {
                    u[i][j] = V::load(from.add((i * WINDOW + j) * step + at));
                }
            }
            let g = filter_adjoint_square(&u);
            for r in 0..3 {
                for s in 0..3 {
                    let out = out.add((3 * r + s) * c + at);
                    let g = if add {
                        g[r][s].add(V::load(out))
                    } else {
                        g[r][s]
                    };
                    g.store(out);
                }
            }
        }
    }
}
