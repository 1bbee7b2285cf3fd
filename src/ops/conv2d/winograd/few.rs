//! The output from few tiles: the filter, larger than all that is computed from it, passes by once.
//!
//! All windows are transformed first, in units of some tiles. A task then has some results of all
//! tiles: it transforms its filters block by block in its cache, each block to be multiplied by
//! every tile before the next, and transforms the sums back.
//!
//! Read per task: the filters (36 / 9 as many numbers in cache) and all windows' transforms.

use super::filter::{Filter, Weight};
use super::forward::Forward;
use super::grid::{Grid, PAD, Window};
use super::input::{Steps, windows};
use super::transform::POINTS;
use crate::device::gemm::{self, Columns, Sums, Term, panel_width};
use crate::device::pool::Pool;
use crate::device::view::{RowsMut, Span};
use crate::tape::Workspace;

/// Results of a task: a panel of the widest micro-kernel.
const WIDTH: usize = 32;
/// Channels of a block of filters, whose transforms take 288 KiB.
const ROWS: usize = 64;
/// Tiles of a unit.
const UNIT: usize = 12;

/// Layout of the shared scratch: units of transformed windows, `[unit][point][tile][channel]`.
#[derive(Clone, Copy, Debug)]
pub struct Few {
    grid: Grid,
    /// All tiles.
    tiles: usize,
    /// Input channels.
    c: usize,
}

impl Few {
    /// For an output of `shape` from an input of `c` channels.
    pub fn new(shape: [usize; 4], c: usize) -> Self {
        let tiles = super::tiles(shape);
        Self {
            grid: Grid::of(shape, c, (tiles / 2).clamp(1, UNIT)),
            tiles,
            c,
        }
    }

    /// Memory that it needs.
    pub fn workspace(&self) -> Workspace {
        let windows = self.table_len() + self.grid.window_len();
        let products =
            Filter::scratch_len() + Filter::new(ROWS, WIDTH).len() + POINTS * self.products();
        Workspace {
            shared: self.grid.tasks.count() * self.unit_len(),
            per_thread: windows.max(products),
        }
    }

    fn table_len(&self) -> usize {
        (2 * self.c).next_multiple_of(PAD)
    }

    /// Numbers between a unit's points.
    fn point(&self) -> usize {
        self.grid.task_tiles() * self.c + PAD
    }

    fn unit_len(&self) -> usize {
        POINTS * self.point()
    }

    /// Numbers between the products of two points.
    fn products(&self) -> usize {
        self.tiles * WIDTH + PAD
    }

    /// Computes `y`.
    pub fn run(
        &self,
        conv: &Forward<'_>,
        pool: &Pool,
        y: RowsMut<'_>,
        [shared, scratch]: [&mut [f32]; 2],
    ) {
        let units = self.grid.tasks.count();
        let split = RowsMut::of(shared, [1, 1, units, self.unit_len()]).split(1);
        pool.run(&[split], scratch, |unit, parts, scratch| {
            self.unit(conv, unit, parts.get(0).row(0, 0), scratch);
        });
        let windows = &*shared;
        let split = y.split_columns(WIDTH);
        pool.run(&[split], scratch, |task, parts, scratch| {
            let mut y = parts.get(0);
            let products = self.multiply(conv.weight, (task * WIDTH, y.cols()), windows, scratch);
            self.store(conv, task * WIDTH, products, &mut y);
        });
    }

    /// Transforms the windows of a unit.
    fn unit(&self, conv: &Forward<'_>, unit: usize, out: &mut [f32], scratch: &mut [f32]) {
        let (place, pixels) = self.grid.tasks.task(unit);
        let (table, rows) = scratch.split_at_mut(self.table_len());
        let mut window = Window::new(&self.grid, &conv.loader, conv.upsample, table, rows);
        let steps = Steps {
            point: self.point(),
            tile: self.c,
            panel: panel_width(),
        };
        for (number, band) in self.grid.bands(place, pixels).enumerate() {
            window.go(band);
            let first = number * self.grid.columns() * self.c;
            windows(&self.grid, &window, self.c, &mut out[first..], steps);
        }
    }

    /// The products of all tiles for results `first..first + width`: `[point][tile][WIDTH]`.
    fn multiply<'s>(
        &self,
        weight: Weight<'_>,
        (first, width): (usize, usize),
        windows: &[f32],
        scratch: &'s mut [f32],
    ) -> &'s [f32] {
        let (gathered, rest) = scratch.split_at_mut(Filter::scratch_len());
        let (filters, products) = rest.split_at_mut(Filter::new(ROWS, WIDTH).len());
        for channel in (0..self.c).step_by(ROWS) {
            let rows = ROWS.min(self.c - channel);
            let block = Filter::new(rows, width);
            let filters = &mut filters[..block.len()];
            block.block(filters, weight, [channel, first], gathered);
            for p in 0..POINTS {
                let products = &mut products[p * self.products()..(p + 1) * self.products()];
                let windows = &windows[p * self.point() + channel..];
                self.add_products((&block, filters, p), windows, products, channel > 0);
            }
        }
        products
    }

    /// Adds to (or writes) the products of one point with one block of filters.
    fn add_products(
        &self,
        (block, filters, p): (&Filter, &[f32], usize),
        windows: &[f32],
        products: &mut [f32],
        add: bool,
    ) {
        let mut first = 0;
        for unit in 0..self.grid.tasks.count() {
            // The last unit of a picture may be smaller.
            let (place, pixels) = self.grid.tasks.task(unit);
            let tiles = self.grid.bands(place, pixels).count() * self.grid.columns();
            for panel in 0..block.panels() {
                let width = block.width(panel);
                let term = Term {
                    a: Span::from(&windows[unit * self.unit_len()..]),
                    a_stride: 1,
                    a_batch: 0,
                    b: Columns::InPlace {
                        data: block.matrix(filters, panel, p),
                        stride: width,
                        batch_stride: 0,
                    },
                    k: block.rows(),
                    batch: 1,
                };
                let sums = Sums {
                    out: &mut products[first * WIDTH + panel * panel_width()..],
                    ld: WIDTH,
                    add,
                };
                gemm::multiply_panel([tiles, width], &term, self.c, sums);
            }
            first += tiles;
        }
    }

    /// Transforms the products back and writes columns `first..` of the output.
    fn store(&self, conv: &Forward<'_>, first: usize, products: &[f32], y: &mut RowsMut<'_>) {
        let (grid, channels) = (&self.grid, first..first + y.cols());
        let mut tile = 0;
        for task in 0..grid.tasks.count() {
            let (place, pixels) = grid.tasks.task(task);
            for band in grid.bands(place, pixels) {
                for column in 0..grid.columns() {
                    let from = (&products[tile * WIDTH..], self.products());
                    let place = (band, column);
                    conv.output
                        .tile(grid, place, channels.clone(), from, |pixel| {
                            y.row(band.0, pixel).as_mut_ptr()
                        });
                    tile += 1;
                }
            }
        }
    }
}
