//! The output (or, with the filter turned, the input's gradient) in one of two orders.
//!
//! Many tiles: the filter is transformed once; a task transforms its windows, multiplies, and transforms
//! its tiles back, all in its cache. Few tiles: [`few`], where a task has some results of all tiles.

use super::few::Few;
use super::filter::{Filter, Weight};
use super::grid::{Grid, PAD, Window};
use super::input::{Steps, windows};
use super::output::Output;
use super::transform::POINTS;
use crate::device::call::Call;
use crate::device::gemm::{self, Columns, Sums, Term, panel_width};
use crate::device::view::{RowsMut, Span};
use crate::ops::prologue::Loader;
use crate::tape::Workspace;

/// Fewest tiles that come in tasks of their own.
const MANY: usize = 128;

/// A convolution.
pub struct Forward<'a> {
    /// The input.
    pub loader: Loader<'a>,
    /// The activated input is doubled.
    pub upsample: bool,
    /// The filter.
    pub weight: Weight<'a>,
    /// What becomes of the products.
    pub output: Output<'a>,
}

/// Memory for an output (before halving) of `shape` from an input of `c` channels.
pub fn workspace(shape: [usize; 4], c: usize) -> Workspace {
    if is_few(shape) {
        return Few::new(shape, c).workspace();
    }
    Workspace {
        shared: Filter::new(c, shape[3]).len(),
        per_thread: scratch_len(&Grid::new(shape, c), c),
    }
}

fn is_few(shape: [usize; 4]) -> bool {
    super::tiles(shape) < MANY
}

impl Forward<'_> {
    /// Computes `y`, which has `shape` before halving, in `shared`; then `after(place, rows)` for the
    /// rows of each task.
    pub fn run(
        &self,
        call: &Call<'_>,
        (mut y, shape): (RowsMut<'_>, [usize; 4]),
        shared: &mut [f32],
        after: impl Fn((usize, usize), &mut RowsMut<'_>) + Sync,
    ) {
        let c = self.loader.x.cols();
        let grid = Grid::new(shape, c);
        let few = is_few(shape);
        let (filter, scratch) = (Filter::new(c, shape[3]), call.scratch());
        if few {
            Few::new(shape, c).run(self, call.pool(), y.again(), [shared, scratch]);
        } else {
            filter.transform(call.pool(), shared, self.weight, scratch);
        }
        let many = Many {
            conv: self,
            grid: &grid,
            filter,
            transformed: shared,
        };
        let split = if self.output.halved {
            grid.tasks.split_halved(y)
        } else {
            grid.tasks.split(y)
        };
        call.pool()
            .run(&[split], scratch, |number, parts, scratch| {
                let (place, pixels) = grid.tasks.task(number);
                let mut y = parts.get(0);
                if !few {
                    many.task(place, pixels, &mut y, scratch);
                }
                after(place, &mut y);
            });
    }
}

/// Numbers of scratch that a task needs, for an input of `c` channels.
fn scratch_len(grid: &Grid, c: usize) -> usize {
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

/// What the tasks of many tiles share.
struct Many<'a> {
    conv: &'a Forward<'a>,
    grid: &'a Grid,
    filter: Filter,
    transformed: &'a [f32],
}

impl Many<'_> {
    /// Computes the task at `place`, whose part of the output is `y`. The task has `pixels` pixels
    /// (before halving).
    fn task(&self, place: (usize, usize), pixels: usize, y: &mut RowsMut<'_>, scratch: &mut [f32]) {
        let (grid, conv, c) = (self.grid, self.conv, self.conv.loader.x.cols());
        let tiles = grid.bands(place, pixels).count() * grid.columns();
        let (table, rest) = scratch.split_at_mut((2 * c).next_multiple_of(PAD));
        let (rows, rest) = rest.split_at_mut(grid.window_len().next_multiple_of(PAD));
        let point = tiles * c + PAD;
        let (inputs, rest) = rest.split_at_mut(POINTS * point);
        let mut window = Window::new(grid, &conv.loader, conv.upsample, table, rows);
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
            self.store(panel, tiles, (place, pixels), rest, y);
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
        let (c, width) = (self.conv.loader.x.cols(), self.filter.width(panel));
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
        (place, pixels): ((usize, usize), usize),
        products: &[f32],
        y: &mut RowsMut<'_>,
    ) {
        let (grid, output, width) = (self.grid, &self.conv.output, self.filter.width(panel));
        let step = tiles * width + PAD;
        let channels = panel * panel_width()..panel * panel_width() + width;
        let [h, w] = grid.size();
        let picture = output.pixels(h * w);
        let start = place.0 * picture + output.pixels(place.1);
        let mut tile = 0;
        for (n, band) in grid.bands(place, pixels) {
            for column in 0..grid.columns() {
                let from = (&products[tile * width..], step);
                let place = ((n, band), column);
                output.tile(grid, place, channels.clone(), from, |pixel| {
                    let row = y.row(0, n * picture + pixel - start);
                    row[channels.clone()].as_mut_ptr()
                });
                tile += 1;
            }
        }
    }
}
