//! The way back: a tile's products transformed into pixels of the output.

use super::grid::Grid;
use super::transform::{POINTS, SIDE, WINDOW, output_square};
use crate::device::lanes::{Lanes, by_level};
use crate::device::view::Rows;
use crate::tape::backward::Resample;
use std::ops::Range;

/// What becomes of the products.
#[derive(Clone, Copy)]
pub struct Output<'a> {
    /// Added to every pixel.
    pub bias: Option<&'a [f32]>,
    /// Added to the output, itself or (`OfPool`) doubled.
    pub residual: Option<(Rows<'a>, Resample)>,
    /// The output is summed over 2x2 pixels.
    pub halved: bool,
}

impl Output<'_> {
    /// Pixels of the output that a run of `pixels` pixels becomes.
    pub fn pixels(&self, pixels: usize) -> usize {
        if self.halved { pixels / 4 } else { pixels }
    }

    /// Writes channels `channels` of tile `column` of `band` (picture and number) from the products
    /// at `from`, `step` apart. `pixel(i)` is where those channels of pixel i of the picture go.
    pub fn tile(
        &self,
        grid: &Grid,
        ((n, band), column): ((usize, usize), usize),
        channels: Range<usize>,
        (from, step): (&[f32], usize),
        mut pixel: impl FnMut(usize) -> *mut f32,
    ) {
        let (mut to, [_, w]) = (Target::default(), grid.size());
        let [rows, cols] = grid.extent(band, column);
        for (i, j) in (0..rows).flat_map(|i| (0..cols).map(move |j| (i, j))) {
            let (row, col) = (band * SIDE + i, column * SIDE + j);
            let (whole, half) = (row * w + col, row / 2 * (w / 2) + col / 2);
            to.out[i][j] = pixel(if self.halved { half } else { whole });
            if let Some((from, resample)) = self.residual {
                let pixel = match resample {
                    Resample::None => whole,
                    _ => half,
                };
                to.added[i][j] = from.row(n, pixel)[channels.clone()].as_ptr();
            }
        }
        let width = channels.len();
        assert!((POINTS - 1) * step + width <= from.len());
        let bias = self.bias.map(|bias| &bias[channels]);
        let bias = bias.map_or(std::ptr::null(), <[f32]>::as_ptr);
        // SAFETY: pixels and products have `width` numbers there, whole vectors.
        unsafe {
            if self.halved {
                store_halved(from.as_ptr(), step, width, &to);
            } else {
                store_tile(from.as_ptr(), step, width, bias, &to);
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
