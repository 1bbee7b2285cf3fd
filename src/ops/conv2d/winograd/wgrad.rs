//! The weight gradient: windows and output gradients transformed, their products summed over tiles
//! point by point, the sums transformed back.
//!
//! The tiles come in chunks whose transforms stay in the shared cache. In memory they lie by *units*,
//! some bands each, so that a unit's transforms are one task's own stretch of memory; a sum over
//! tiles runs over the units' stretches.

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

/// Tiles of a unit: enough for the products' inner loop.
const UNIT: usize = 16;
/// Numbers of a chunk's transforms (8 MiB).
const CHUNK: usize = 2 * 1024 * 1024;
/// Rows of the sums that one task computes.
const HEIGHT: usize = 96;
/// Filters that one task transforms back.
const FILTERS: usize = 8;

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
        let grid = Grid::of(shape, c, UNIT);
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
        (2 * self.c).next_multiple_of(PAD) + self.grid.window_len()
    }

    fn sums_len(&self) -> usize {
        POINTS * self.point_len()
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
    let count = layout.grid.tasks.count();
    for first in (0..count).step_by(layout.chunk) {
        let here = layout.chunk.min(count - first);
        let source = Source {
            layout,
            loader,
            upsample,
            dy,
        };
        let split = [
            RowsMut::of(units, [1, 1, here, layout.unit_len()]).split(1),
            RowsMut::of(&mut biases[first * layout.k..], [1, 1, here, layout.k]).split(1),
        ];
        call.pool().run(&split, scratch, |unit, parts, scratch| {
            let [mut unit_out, mut bias] = parts.many([0, 1]);
            source.unit(first + unit, unit_out.row(0, 0), bias.row(0, 0), scratch);
        });
        products(
            call,
            layout,
            &units[..here * layout.unit_len()],
            sums,
            first > 0,
        );
    }
    finish(call, layout, sums, biases, modes);
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
    let stride = layout.unit_len();
    let by_point = RowsMut::of(sums, [1, 1, POINTS, layout.point_len()]).split(1);
    call.pool().run(&[by_point], &mut [], |p, parts, _| {
        let mut part = parts.get(0);
        let out = part.row(0, 0);
        let (from, to) = (layout.windows(), layout.gradients());
        let gradients = layout.windows_len() + p * to.point;
        for first in (0..k).step_by(HEIGHT) {
            let height = HEIGHT.min(k - first);
            for column in (0..c).step_by(panel_width()) {
                let width = panel_width().min(c - column);
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
                    k: layout.tiles,
                    batch: units.len() / stride,
                };
                let sums = Sums {
                    out: &mut out[first * c + column..],
                    ld: c,
                    add,
                };
                gemm::multiply_panel([height, width], &term, 1, sums);
            }
        }
    });
}

/// Transforms the sums back into dw, and adds up db.
fn finish(call: &Call<'_>, layout: &Layout, sums: &[f32], biases: &[f32], modes: [Mode; 2]) {
    let k = layout.k;
    let (dw, mut db) = (call.output(0).reshape(k), call.output(1));
    let db = db.row(0, 0);
    if modes[1] == Mode::Write {
        db.fill(0.0);
    }
    for unit in biases.chunks_exact(k) {
        vector::add(unit, db);
    }
    let add = modes[0] == Mode::Add;
    call.pool()
        .run(&[dw.split(FILTERS)], &mut [], |_, parts, _| {
            let (_, first) = parts.place(0);
            let mut dw = parts.get(0);
            for row in 0..dw.rows() {
                let out = dw.row(0, row);
                let from = &sums[(first + row) * layout.c..];
                let step = layout.point_len();
                assert!((POINTS - 1) * step + layout.c <= from.len() && out.len() == 9 * layout.c);
                // SAFETY: the lengths were checked; channels are whole vectors.
                unsafe { taps(from.as_ptr(), step, layout.c, add, out.as_mut_ptr()) };
            }
        });
}

by_level! {
    /// Nine taps of `c` channels at `out` from the points at `from`, `step` apart.
    ///
    /// # Safety
    /// All that is addressed exists; `c` is a multiple of the vector's length.
    unsafe fn taps(from: *const f32, step: usize, c: usize, add: bool, out: *mut f32) = taps_of
}

#[inline(always)]
unsafe fn taps_of<V: Lanes>(from: *const f32, step: usize, c: usize, add: bool, out: *mut f32) {
    for at in (0..c).step_by(V::N) {
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
