//! How a convolution is cut into tasks, and the zero-padded copy of the activated input that a task
//! works from.
//!
//! A task is a strip of rows of one picture, or several whole small pictures. In the padded copy,
//! pixels are side by side with one zero pixel at either end of a row, so the three taps of a filter
//! row are 3 C numbers in a run.

use crate::device::view::{RowsMut, Split};
use crate::ops::prologue::Loader;

/// Numbers that the padded copy of a task may take (192 KiB).
const SCRATCH: usize = 48 * 1024;
/// Pixels that make a task worth its packed weights.
const PIXELS: usize = 128;

/// Tasks of one convolution; a function of the shapes alone.
#[derive(Clone, Copy, Debug)]
pub struct Tiles {
    n: usize,
    h: usize,
    w: usize,
    c: usize,
    /// Rows of a strip; all of them if a task has several pictures.
    strip: usize,
    pictures: usize,
}

impl Tiles {
    /// Tasks for an output of `[n, h, w, _]` from an input (after doubling) of `c` channels.
    pub fn new([n, h, w, _]: [usize; 4], c: usize) -> Self {
        let pitch = (w + 2) * c;
        let fits = (SCRATCH / pitch).saturating_sub(2).clamp(1, h);
        // Strips of even height, so that doubled rows are never cut in half.
        let strips = h.div_ceil(if fits < h { (fits & !1).max(2) } else { h });
        let strip = h.div_ceil(strips).next_multiple_of(2).min(h);
        let wanted = PIXELS
            .div_ceil(h * w)
            .min(SCRATCH / (pitch * (h + 2)))
            .max(1);
        let pictures = if strip < h { 1 } else { wanted.min(n.max(1)) };
        Self::with([n, h, w, 0], c, [strip, pictures])
    }

    /// Tasks of `strip` rows of a picture, or of `pictures` whole ones.
    pub fn with([n, h, w, _]: [usize; 4], c: usize, [strip, pictures]: [usize; 2]) -> Self {
        Self {
            n,
            h,
            w,
            c,
            strip,
            pictures,
        }
    }

    /// Numbers between the starts of two rows of the padded copy.
    pub fn pitch(&self) -> usize {
        (self.w + 2) * self.c
    }

    /// Width of the output.
    pub fn width(&self) -> usize {
        self.w
    }

    /// Numbers of the padded copy.
    pub fn scratch_len(&self) -> usize {
        self.pictures * (self.strip + 2) * self.pitch()
    }

    /// Cuts `y`, the output or another tensor of its pixels.
    pub fn split<'a>(&self, y: RowsMut<'a>) -> Split<'a> {
        if self.pictures > 1 {
            y.merged().split(self.pictures * self.h * self.w)
        } else {
            y.split(self.strip * self.w)
        }
    }

    /// Cuts a tensor of half the height and width in the same number of tasks.
    pub fn split_halved<'a>(&self, x: RowsMut<'a>) -> Split<'a> {
        if self.pictures > 1 {
            x.merged().split(self.pictures * self.h * self.w / 4)
        } else {
            x.split(self.strip * self.w / 4)
        }
    }

    /// Number of tasks.
    pub fn count(&self) -> usize {
        if self.pictures > 1 {
            self.n.div_ceil(self.pictures)
        } else {
            self.n * self.h.div_ceil(self.strip)
        }
    }

    /// Number of pixels of task `task`, and the place that [`Split::place`] gives it.
    pub fn task(&self, task: usize) -> ((usize, usize), usize) {
        if self.pictures > 1 {
            let first = task * self.pictures;
            let pictures = self.pictures.min(self.n - first);
            ((0, first * self.h * self.w), pictures * self.h * self.w)
        } else {
            let per_picture = self.h.div_ceil(self.strip);
            let first = task % per_picture * self.strip;
            (
                (task / per_picture, first * self.w),
                self.strip.min(self.h - first) * self.w,
            )
        }
    }

    /// What the task at `place` with `pixels` output pixels covers.
    pub fn area(&self, (n, first): (usize, usize), pixels: usize) -> Area {
        let picture = self.h * self.w;
        if self.pictures > 1 {
            // Pictures that are not evenly spaced come one by one, each with its own number.
            Area {
                tiles: *self,
                n: n + first / picture,
                y: 0,
                rows: self.h,
                pictures: pixels / picture,
            }
        } else {
            Area {
                tiles: *self,
                n,
                y: first / self.w,
                rows: pixels / self.w,
                pictures: 1,
            }
        }
    }
}

/// The pixels of one task.
#[derive(Clone, Copy, Debug)]
pub struct Area {
    tiles: Tiles,
    n: usize,
    y: usize,
    rows: usize,
    pictures: usize,
}

impl Area {
    /// Fills `act` with the padded copy of the input pixels that this task reads. `table` is scratch
    /// for the prologue.
    pub fn fill(&self, loader: &Loader<'_>, upsample: bool, table: &mut [f32], act: &mut [f32]) {
        let pitch = self.tiles.pitch();
        for picture in 0..self.pictures {
            let n = self.n + picture;
            loader.table(n, table);
            let act = &mut act[picture * (self.rows + 2) * pitch..];
            for i in 0..self.rows + 2 {
                // Row i of the copy is row y + i - 1 of the picture.
                let Some(row) = (self.y + i)
                    .checked_sub(1)
                    .filter(|&row| row < self.tiles.h)
                else {
                    act[i * pitch..(i + 1) * pitch].fill(0.0);
                    continue;
                };
                // Odd rows double the row above, if that is in the copy.
                if upsample && i > 0 && row % 2 == 1 {
                    act.copy_within((i - 1) * pitch..i * pitch, i * pitch);
                    continue;
                }
                fill_line(
                    loader,
                    self.tiles.w,
                    (n, row, upsample),
                    table,
                    &mut act[i * pitch..(i + 1) * pitch],
                );
            }
        }
    }

    /// Where the 3x3 window of output pixel `r` starts in the padded copy.
    pub fn position(&self, r: usize) -> usize {
        let (w, pitch) = (self.tiles.w, self.tiles.pitch());
        let picture = r / (self.rows * w);
        let (row, column) = (r / w % self.rows, r % w);
        (picture * (self.rows + 2) + row) * pitch + column * self.tiles.c
    }

    /// Sample and pixel of output pixel `r`.
    pub fn pixel(&self, r: usize) -> (usize, usize) {
        let w = self.tiles.w;
        let picture = r / (self.rows * w);
        (self.n + picture, self.y * w + r % (self.rows * w))
    }

    /// Number of the first picture, how many there are, and rows of each.
    pub fn pictures(&self) -> [usize; 3] {
        [self.n, self.pictures, self.rows]
    }

    /// First pixel of the task within each of its pictures.
    pub fn first_in_picture(&self) -> usize {
        self.y * self.tiles.w
    }
}

/// Fills `line` with row `row` (after doubling) of picture `n`, `w` pixels wide, between two zero pixels.
pub fn fill_line(
    loader: &Loader<'_>,
    w: usize,
    (n, row, upsample): (usize, usize, bool),
    table: &[f32],
    line: &mut [f32],
) {
    let c = loader.x.cols();
    line[..c].fill(0.0);
    line[(w + 1) * c..].fill(0.0);
    if !upsample {
        loader.load(n, row * w, w, table, &mut line[c..]);
        return;
    }
    // The low row goes to the line's end and spreads to the left edge from there.
    let low = w / 2;
    loader.load(n, row / 2 * low, low, table, &mut line[(1 + low) * c..]);
    for q in 0..low {
        let from = (1 + low + q) * c;
        line.copy_within(from..from + c, (1 + 2 * q) * c);
        line.copy_within((1 + 2 * q) * c..(2 + 2 * q) * c, (2 + 2 * q) * c);
    }
}
