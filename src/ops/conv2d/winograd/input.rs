//! The inputs' transforms: B^T d B of a band's windows, A dY A^T of its output gradients.

use super::grid::{Grid, Window};
use super::transform::{POINTS, SIDE, WINDOW, input_square, output_adjoint_square};
use crate::device::gemm::panel_width;
use crate::device::lanes::{Lanes, by_level};
use crate::device::view::Rows;

/// Where transformed tiles go, relative to the first tile of a band: point p, tile t and channel c at
/// `p point + t tile + c / W panel + c % W`, W the width of the micro-kernel's panel.
#[derive(Clone, Copy, Debug)]
pub struct Steps {
    /// Between points.
    pub point: usize,
    /// Between tiles.
    pub tile: usize,
    /// Between panels of channels.
    pub panel: usize,
}

impl Steps {
    /// One past the last number of `tiles` tiles of `channels` channels.
    fn end(&self, tiles: usize, channels: usize) -> usize {
        let width = panel_width();
        (POINTS - 1) * self.point
            + (tiles - 1) * self.tile
            + (channels - 1) / width * self.panel
            + (channels - 1) % width
            + 1
    }
}

/// Transforms the windows of the band that `window` is at, `c` channels each, into `out`.
pub fn windows(grid: &Grid, window: &Window<'_>, c: usize, out: &mut [f32], steps: Steps) {
    let (columns, pitch) = (grid.columns(), grid.pitch());
    assert!(steps.end(columns, c) <= out.len() && WINDOW * pitch <= window.rows.len());
    for column in 0..columns {
        let from = window.rows[column * SIDE * c..].as_ptr();
        let to = out[column * steps.tile..].as_mut_ptr();
        // SAFETY: the window of the last column ends with its row; `out` was checked.
        unsafe { window_points(from, [pitch, c], to, [steps.point, steps.panel]) };
    }
}

by_level! {
    /// Transforms one window: rows `pitch` apart, pixels `c` apart.
    ///
    /// # Safety
    /// All that is addressed exists; c is a multiple of the vector's length.
    unsafe fn window_points(from: *const f32, strides: [usize; 2], out: *mut f32, steps: [usize; 2]) = window_points_of
}

#[inline(always)]
unsafe fn window_points_of<V: Lanes>(
    from: *const f32,
    [pitch, c]: [usize; 2],
    out: *mut f32,
    [point, panel]: [usize; 2],
) {
    let width = 2 * V::N;
    for at in (0..c).step_by(V::N) {
        // SAFETY: promised by the caller.
        unsafe {
            let mut d = [[V::zero(); WINDOW]; WINDOW];
            for i in 0..WINDOW {
                for j in 0..WINDOW {
                    d[i][j] = V::load(from.add(i * pitch + j * c + at));
                }
            }
            store(
                &input_square(&d),
                out.add(at / width * panel + at % width),
                point,
            );
        }
    }
}

/// Writes the points of one tile, `step` apart.
///
/// # Safety
/// As for [`Lanes`].
#[inline(always)]
unsafe fn store<V: Lanes>(points: &[[V; WINDOW]; WINDOW], out: *mut f32, step: usize) {
    for i in 0..WINDOW {
        for j in 0..WINDOW {
            // SAFETY: promised by the caller.
            unsafe { points[i][j].store(out.add((i * WINDOW + j) * step)) };
        }
    }
}

/// Transforms the tiles of band `band` of picture `n` of the output's gradient into `out`.
pub fn gradients(
    grid: &Grid,
    dy: Rows<'_>,
    (n, band): (usize, usize),
    out: &mut [f32],
    steps: Steps,
) {
    let (columns, k) = (grid.columns(), dy.cols());
    let [_, w] = grid.size();
    assert!(steps.end(columns, k) <= out.len());
    for column in 0..columns {
        let [rows, cols] = grid.extent(band, column);
        let pixels: [[*const f32; SIDE]; SIDE] = std::array::from_fn(|i| {
            std::array::from_fn(|j| {
                if i < rows && j < cols {
                    let pixel = (band * SIDE + i) * w + column * SIDE + j;
                    dy.row(n, pixel).as_ptr()
                } else {
                    std::ptr::null()
                }
            })
        });
        let to = out[column * steps.tile..].as_mut_ptr();
        // SAFETY: rows have k channels; `out` was checked.
        unsafe { gradient_points(&pixels, k, to, [steps.point, steps.panel]) };
    }
}

by_level! {
    /// Transforms one tile; a null pixel is beyond the edge and counts as zero.
    ///
    /// # Safety
    /// All that is addressed exists; k is a multiple of the vector's length.
    unsafe fn gradient_points(
        pixels: &[[*const f32; SIDE]; SIDE],
        k: usize,
        out: *mut f32,
        steps: [usize; 2],
    ) = gradient_points_of
}

#[inline(always)]
unsafe fn gradient_points_of<V: Lanes>(
    pixels: &[[*const f32; SIDE]; SIDE],
    k: usize,
    out: *mut f32,
    [point, panel]: [usize; 2],
) {
    let width = 2 * V::N;
    for at in (0..k).step_by(V::N) {
        // SAFETY: promised by the caller.
        unsafe {
            let mut y = [[V::zero(); SIDE]; SIDE];
            for i in 0..SIDE {
                for j in 0..SIDE {
                    if !pixels[i][j].is_null() {
                        y[i][j] = V::load(pixels[i][j].add(at));
                    }
                }
            }
            let out = out.add(at / width * panel + at % width);
            store(&output_adjoint_square(&y), out, point);
        }
    }
}
