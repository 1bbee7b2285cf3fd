//! The output (or, with the filter turned, the input's gradient): windows transformed, products, tiles
//! transformed back, all of a task in the cache.

use super::filter::Filter;
use super::grid::{Grid, PAD, Window};
use super::input::{Steps, windows};
use super::transform::{POINTS, SIDE, WINDOW, output_square};
use crate::device::gemm::{self, Columns, Sums, Term, panel_width};
use crate::device::lanes::{Lanes, by_level};
use crate::device::view::{Rows, RowsMut, Span};
use crate::ops::prologue::Loader;
use crate::tape::backward::Resample;

/// What all tasks share.
pub struct Products<'a> {
    /// Tiles and tasks.
    pub grid: &'a Grid,
    /// The input.
    pub loader: Loader<'a>,
    /// The activated input is doubled.
    pub upsample: bool,
    /// Layout of the transformed filter.
    pub filter: Filter,
    /// The transformed filter.
    pub transformed: &'a [f32],
    /// Added to every pixel.
    pub bias: Option<&'a [f32]>,
    /// Added to the output, itself or (`OfPool`) doubled.
    pub residual: Option<(Rows<'a>, Resample)>,
    /// The output is summed over 2x2 pixels.
    pub halved: bool,
}

/// Numbers of scratch that a task needs, for an input of `c` channels.
pub fn scratch_len(grid: &Grid, c: usize) -> usize {
    let tiles = grid.task_tiles();
    let parts = [
        2 * c,
        grid.window_len(),
        POINTS * (tiles * c + PAD),
        POINTS * (tiles * panel_width() + PAD),
    ];
    let all: usize = parts.map(|part| part.next_multiple_of(PAD)).iter().sum();
    all.max(Filter::scratch_len())
}

impl Products<'_> {
    /// Computes the task at `place`, whose part of the output is `y`. The task has `pixels` pixels
    /// (before halving).
    pub fn run(
        &self,
        place: (usize, usize),
        pixels: usize,
        y: &mut RowsMut<'_>,
        scratch: &mut [f32],
    ) {
        let (grid, c) = (self.grid, self.loader.x.cols());
        let tiles = grid.bands(place, pixels).count() * grid.columns();
        let (table, rest) = scratch.split_at_mut((2 * c).next_multiple_of(PAD));
        let (rows, rest) = rest.split_at_mut(grid.window_len().next_multiple_of(PAD));
        let point = tiles * c + PAD;
        let (inputs, rest) = rest.split_at_mut(POINTS * point);
        let mut window = Window::new(grid, &self.loader, self.upsample, table, rows);
        for (number, band) in grid.bands(place, pixels).enumerate() {
            window.go(band);
            let steps = Steps {
                point,
                tile: c,
                panel: panel_width(),
            };
            let first = number * grid.columns() * c;
            windows(grid, &window, c, &mut inputs[first..], steps);
        }
        for panel in 0..y.cols().div_ceil(panel_width()) {
            self.multiply(panel, tiles, (inputs, point), rest);
            self.store(panel, tiles, place, pixels, rest, y);
        }
    }

    /// The products of all points with one panel of the filter.
    fn multiply(
        &self,
        panel: usize,
        tiles: usize,
        (inputs, point): (&[f32], usize),
        products: &mut [f32],
    ) {
        let (c, width) = (self.loader.x.cols(), self.filter.width(panel));
        let step = tiles * width + PAD;
        for p in 0..POINTS {
            let term = Term {
                a: Span::from(&inputs[p * point..(p + 1) * point]),
                a_stride: 1,
                a_batch: 0,
                b: Columns::InPlace {
                    data: self.filter.matrix(self.transformed, panel, p),
                    stride: width,
                    batch_stride: 0,
                },
                k: c,
                batch: 1,
            };
            let sums = Sums {
                out: &mut products[p * step..(p + 1) * step],
                ld: width,
                add: false,
            };
            gemm::multiply_panel([tiles, width], &term, c, sums);
        }
    }

    /// Transforms the products of one panel back and writes the output's columns.
    fn store(
        &self,
        panel: usize,
        tiles: usize,
        place: (usize, usize),
        pixels: usize,
        products: &[f32],
        y: &mut RowsMut<'_>,
    ) {
        let (grid, width) = (self.grid, self.filter.width(panel));
        let step = tiles * width + PAD;
        let first = panel * panel_width();
        let [h, w] = grid.size();
        let start = place.0 * h + place.1 / w;
        let bias = self.bias.map(|bias| &bias[first..first + width]);
        let mut tile = 0;
        for (n, band) in grid.bands(place, pixels) {
            for column in 0..grid.columns() {
                let mut to = Target::default();
                let [rows, cols] = grid.extent(band, column);
                for (i, j) in (0..rows).flat_map(|i| (0..cols).map(move |j| (i, j))) {
                    let (row, col) = (band * SIDE + i, column * SIDE + j);
                    let local = n * h + row - start;
                    let local = if self.halved {
                        local / 2 * (w / 2) + col / 2
                    } else {
                        local * w + col
                    };
                    to.out[i][j] = y.row(0, local)[first..first + width].as_mut_ptr();
                    if let Some((from, resample)) = self.residual {
                        let pixel = match resample {
                            Resample::None => row * w + col,
                            _ => row / 2 * (w / 2) + col / 2,
                        };
                        to.added[i][j] = from.row(n, pixel)[first..first + width].as_ptr();
                    }
                }
                let from = &products[tile * width..];
                assert!((POINTS - 1) * step + width <= from.len());
                let bias = bias.map_or(std::ptr::null(), <[f32]>::as_ptr);
                // SAFETY: rows and products have `width` numbers there, whole vectors.
                unsafe {
                    if self.halved {
                        store_halved(from.as_ptr(), step, width, &to);
                    } else {
                        store_tile(from.as_ptr(), step, width, bias, &to);
                    }
                }
                tile += 1;
            }
        }
    }
}

/// Where the pixels of a tile go, and what is added to them; null beyond the edge and where nothing is.
struct Target {
    out: [[*mut f32; SIDE]; SIDE],
    added: [[*const f32; SIDE]; SIDE],
}

impl Default for Target {
    fn default() -> Self {
        Self {
            out: [[std::ptr::null_mut(); SIDE]; SIDE],
            added: [[std::ptr::null(); SIDE]; SIDE],
        }
    }
}

/// The square of `WINDOW` x `WINDOW` products at `from`, `step` apart, transformed.
///
/// # Safety
/// All that is addressed exists.
#[inline(always)]
unsafe fn tile_of<V: Lanes>(from: *const f32, step: usize) -> [[V; SIDE]; SIDE] {
    // SAFETY: promised by the caller.
    unsafe {
        let mut m = [[V::zero(); WINDOW]; WINDOW];
        for i in 0..WINDOW {
            for j in 0..WINDOW {
                m[i][j] = V::load(from.add((i * WINDOW + j) * step));
            }
        }
        output_square(&m)
    }
}

by_level! {
    /// Writes `width` channels of a tile.
    ///
    /// # Safety
    /// All that is addressed exists; `width` is a multiple of the vector's length.
    unsafe fn store_tile(from: *const f32, step: usize, width: usize, bias: *const f32, to: &Target) = store_tile_of
}

#[inline(always)]
unsafe fn store_tile_of<V: Lanes>(
    from: *const f32,
    step: usize,
    width: usize,
    bias: *const f32,
    to: &Target,
) {
    for at in (0..width).step_by(V::N) {
        // SAFETY: promised by the caller.
        unsafe {
            let tile = tile_of::<V>(from.add(at), step);
            let bias = if bias.is_null() {
                V::zero()
            } else {
                V::load(bias.add(at))
            };
            for i in 0..SIDE {
                for j in 0..SIDE {
                    let (out, added) = (to.out[i][j], to.added[i][j]);
                    if out.is_null() {
                        continue;
                    }
                    let mut y = tile[i][j].add(bias);
                    if !added.is_null() {
                        y = y.add(V::load(added.add(at)));
                    }
                    y.store(out.add(at));
                }
            }
        }
    }
}

by_level! {
    /// Writes `width` channels of a tile, summed over 2x2 pixels.
    ///
    /// # Safety
    /// All that is addressed exists; `width` is a multiple of the vector's length.
    unsafe fn store_halved(from: *const f32, step: usize, width: usize, to: &Target) = store_halved_of
}

#[inline(always)]
unsafe fn store_halved_of<V: Lanes>(from: *const f32, step: usize, width: usize, to: &Target) {
    for at in (0..width).step_by(V::N) {
        // SAFETY: promised by the caller.
        unsafe {
            let tile = tile_of::<V>(from.add(at), step);
            for (i, j) in [(0, 0), (0, 2), (2, 0), (2, 2)] {
                let out = to.out[i][j];
                if !out.is_null() {
                    let upper = tile[i][j].add(tile[i][j + 1]);
                    let lower = tile[i + 1][j].add(tile[i + 1][j + 1]);
                    upper.add(lower).store(out.add(at));
                }
            }
        }
    }
}
