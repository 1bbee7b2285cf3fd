//! How a convolution is cut into tiles, and tiles into tasks.
//!
//! Tiles of 4x4 output pixels cover each picture; a *band* is a picture's row of tiles. A task is some
//! bands of one picture, or several whole small pictures.

use super::transform::{POINTS, SIDE, WINDOW};
use crate::ops::conv2d::tile::{Tiles, fill_line};
use crate::ops::prologue::Loader;

/// Numbers between a matrix's length and the next one's start: matrices of a power of two of numbers
/// would all begin in the same sets of the cache.
pub const PAD: usize = 16;

/// Numbers that the transformed inputs of a task may take (half a MiB: half of a core's L2 today).
const SCRATCH: usize = 192 * 1024;
/// Tiles that are worth the transformed filter's way through the cache.
const TILES: usize = 48;

/// Tasks of one convolution; a function of the shapes alone.
#[derive(Clone, Copy, Debug)]
pub struct Grid {
    /// The tasks in terms of output pixels.
    pub tasks: Tiles,
    h: usize,
    w: usize,
    c: usize,
    /// Bands of a task.
    bands: usize,
}

impl Grid {
    /// Tasks for an output of `[n, h, w, _]` from an input (after doubling) of `c` channels.
    pub fn new(shape: [usize; 4], c: usize) -> Self {
        let wanted = (SCRATCH / (POINTS * c)).clamp(1, TILES);
        Self::of(shape, c, wanted)
    }

    /// Tasks of about `wanted` tiles.
    pub fn of([n, h, w, k]: [usize; 4], c: usize, wanted: usize) -> Self {
        let (rows, columns) = (h.div_ceil(SIDE), w.div_ceil(SIDE));
        let fits = (wanted / columns).max(1);
        // As even as can be.
        let (bands, pictures) = if fits < rows {
            (rows.div_ceil(rows.div_ceil(fits)), 1)
        } else {
            let n = n.max(1);
            (rows, n.div_ceil(n.div_ceil(fits / rows)))
        };
        Self {
            tasks: Tiles::with([n, h, w, k], c, [(bands * SIDE).min(h), pictures]),
            h,
            w,
            c,
            bands: bands * pictures,
        }
    }

    /// Tiles side by side.
    pub fn columns(&self) -> usize {
        self.w.div_ceil(SIDE)
    }

    /// Tiles of the largest task.
    pub fn task_tiles(&self) -> usize {
        self.bands * self.columns()
    }

    /// Bands of the task at `place` with `pixels` output pixels: picture, and number within it.
    pub fn bands(
        &self,
        (n, first): (usize, usize),
        pixels: usize,
    ) -> impl Iterator<Item = (usize, usize)> + use<> {
        let (per_picture, picture) = (self.h.div_ceil(SIDE), self.h * self.w);
        let rows = pixels % picture / self.w;
        let start = (n + first / picture) * per_picture + first % picture / self.w / SIDE;
        let count = pixels / picture * per_picture + rows.div_ceil(SIDE);
        (start..start + count).map(move |band| (band / per_picture, band % per_picture))
    }

    /// Output rows and columns that tile `column` of band `band` has.
    pub fn extent(&self, band: usize, column: usize) -> [usize; 2] {
        [
            SIDE.min(self.h - SIDE * band),
            SIDE.min(self.w - SIDE * column),
        ]
    }

    /// Height and width of the output.
    pub fn size(&self) -> [usize; 2] {
        [self.h, self.w]
    }

    /// Numbers of a [`Window`].
    pub fn window_len(&self) -> usize {
        WINDOW * self.pitch()
    }

    /// Numbers between two pixel rows of a window.
    pub fn pitch(&self) -> usize {
        (SIDE * self.columns() + 2) * self.c
    }
}

/// The zero-padded copy of the activated input that one band reads: six rows of pixels.
pub struct Window<'a> {
    grid: &'a Grid,
    loader: &'a Loader<'a>,
    upsample: bool,
    table: &'a mut [f32],
    /// The rows.
    pub rows: &'a mut [f32],
    /// The band that they belong to.
    at: Option<(usize, usize)>,
}

impl<'a> Window<'a> {
    /// A window in `rows`, with scratch for the prologue.
    pub fn new(
        grid: &'a Grid,
        loader: &'a Loader<'a>,
        upsample: bool,
        table: &'a mut [f32],
        rows: &'a mut [f32],
    ) -> Self {
        Self {
            grid,
            loader,
            upsample,
            table,
            rows,
            at: None,
        }
    }

    /// Moves to a band. The next one of a picture shares two rows with the last.
    pub fn go(&mut self, (n, band): (usize, usize)) {
        let pitch = self.grid.pitch();
        if self.at.is_none_or(|at| at.0 != n) {
            self.loader.table(n, self.table);
        }
        let follows = band > 0 && self.at == Some((n, band - 1));
        if follows {
            self.rows.copy_within(SIDE * pitch.., 0);
        }
        self.at = Some((n, band));
        for i in if follows { WINDOW - SIDE } else { 0 }..WINDOW {
            self.fill(n, band * SIDE + i, i);
        }
    }

    /// Fills row `i` with row `below - 1` of picture `n`.
    fn fill(&mut self, n: usize, below: usize, i: usize) {
        let (grid, pitch) = (self.grid, self.grid.pitch());
        let Some(row) = below.checked_sub(1).filter(|&row| row < grid.h) else {
            self.rows[i * pitch..(i + 1) * pitch].fill(0.0);
            return;
        };
        // Odd rows double the row above, if that is here.
        if self.upsample && i > 0 && row % 2 == 1 {
            self.rows.copy_within((i - 1) * pitch..i * pitch, i * pitch);
            return;
        }
        let line = &mut self.rows[i * pitch..(i + 1) * pitch];
        let (line, beyond) = line.split_at_mut((grid.w + 2) * grid.c);
        beyond.fill(0.0);
        fill_line(
            self.loader,
            grid.w,
            (n, row, self.upsample),
            self.table,
            line,
        );
    }
}
