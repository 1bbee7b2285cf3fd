//! Weight gradient of a 3x3 convolution:
//! `dw[k,r,s,c]` = sum_{n,p,q} `dy[n,p,q,k]` act(x)`[n,p+r-1,q+s-1,c]`, `db[k]` = sum `dy[..,k]`.

use super::plan::{self, Source, Wgrad, push};
use super::tile::{Area, Tiles};
use super::wgmma;
use super::winograd::{self, Algorithm, WgradLayout};
use crate::device::call::Call;
use crate::device::cuda;
use crate::device::gemm::{self, Columns, MAX_NR, Term};
use crate::device::vector;
use crate::device::view::{Rows, RowsMut};
use crate::ops::prologue::{Loader, Prologue};
use crate::tape::backward::Mode;
use crate::tape::{Mismatch, Op, TensorType, Workspace};

/// How the work is cut: `groups` partial sums over rows (in units of tasks' strips), each in tasks
/// of `height` output channels.
struct Cut {
    units: usize,
    groups: usize,
    height: usize,
}

/// Output channels of a task.
const HEIGHT: usize = 64;
/// Tasks worth having; a function of no machine, so that sums never depend on one.
const TASKS: usize = 8;

impl Cut {
    /// Cuts `units` stretches of rows and `channels` output channels into about [`TASKS`] tasks.
    fn new(units: usize, channels: usize) -> Self {
        let blocks = channels.div_ceil(HEIGHT);
        let height = channels.div_ceil(blocks);
        Self {
            units,
            groups: (TASKS / blocks).clamp(1, units.max(1)),
            height,
        }
    }

    /// Units of group `g`.
    fn range(&self, g: usize) -> std::ops::Range<usize> {
        self.units * g / self.groups..self.units * (g + 1) / self.groups
    }
}

/// dw `[k, 3, 3, c]` and db `[k]`. Inputs: x, dy, the norm's operands.
#[derive(Debug)]
pub struct Conv2dWgrad {
    pub(super) prologue: Prologue,
    pub(super) upsample: bool,
    pub(super) modes: [Mode; 2],
    pub(super) algorithm: Algorithm,
}

impl Op for Conv2dWgrad {
    fn name(&self) -> &'static str {
        "conv2d_wgrad"
    }

    fn infer(&self, _: &[&TensorType]) -> Result<Vec<TensorType>, Mismatch> {
        Ok(Vec::new())
    }

    fn workspace(&self, inputs: &[&TensorType], _: &[&TensorType]) -> Workspace {
        let (c, k) = (inputs[0].channels(), inputs[1].channels());
        if self.algorithm.is_winograd(inputs[1].nhwc(), c) {
            let layout = WgradLayout::new(inputs[1].nhwc(), c);
            return Workspace {
                shared: layout.shared_len(),
                per_thread: layout.scratch_len(),
            };
        }
        let tiles = Tiles::new(inputs[1].nhwc(), c);
        Workspace {
            shared: Cut::new(tiles.count(), k).groups * k * (9 * c + 1),
            per_thread: tiles.scratch_len() + 2 * c + MAX_NR,
        }
    }

    fn flops(&self, inputs: &[&TensorType], _: &[&TensorType]) -> u64 {
        2 * (inputs[1].len() * 9 * inputs[0].channels()) as u64
    }

    fn cpu(&self, call: &Call<'_>) {
        let loader = Loader::new(call, self.prologue, 0, 2);
        let dy = call.input(1);
        let (c, k) = (loader.x.cols(), dy.cols());
        if self.algorithm.is_winograd(dy.shape(), c) {
            let layout = WgradLayout::new(dy.shape(), c);
            winograd::wgrad(call, &loader, self.upsample, dy, &layout, self.modes);
            return;
        }
        let tiles = Tiles::new(dy.shape(), c);
        let cut = Cut::new(tiles.count(), k);
        let sums = call.shared();
        let split = RowsMut::of(sums, [cut.groups, 1, k, 9 * c + 1]).split(cut.height);
        call.pool()
            .run(&[split], call.scratch(), |_, parts, scratch| {
                let (group, first) = parts.place(0);
                let mut out = parts.get(0);
                for m in 0..out.rows() {
                    out.row(0, m).fill(0.0);
                }
                let (table, act) = scratch.split_at_mut(2 * c);
                for unit in cut.range(group) {
                    let (place, pixels) = tiles.task(unit);
                    let area = tiles.area(place, pixels);
                    area.fill(&loader, self.upsample, table, act);
                    add_products(&tiles, &area, dy, act, first, &mut out);
                    let [n, pictures, rows] = area.pictures();
                    let pixels = rows * tiles.width();
                    for n in n..n + pictures {
                        let place = [n, area.first_in_picture(), pixels];
                        add_columns(dy, place, first, &mut out);
                    }
                }
            });
        finish(call, sums, cut.groups, self.modes);
    }

    fn cuda(&self, call: &mut cuda::Call<'_>) -> Result<(), cuda::Unsupported> {
        let dy = call.input(1);
        let wgmma = wgmma::suits(call, self.prologue, call.input(0), &[Some(dy)])
            && (self.prologue.norm.is_some() || !self.upsample);
        let source = Source::new(call, self.prologue, 2, self.upsample, wgmma);
        let wgrad = Wgrad { source, dy };
        let parts = if wgmma {
            wgmma::parts(call, &wgrad)
        } else {
            wgrad.plan(&call.device(), call.precision())
        };
        let address = call.scratch(parts.scratch);
        let outputs = [call.output(0), call.output(1)];
        let add = self.modes.map(|mode| mode == Mode::Add);
        let sum = plan::reduce(address, parts.splits, outputs, add);
        let mut first = parts.launch;
        first.args = first.args.ptr(address);
        push(call, first);
        push(call, sum);
        Ok(())
    }
}

/// Pictures whose products are added up in registers before they join the sums in memory.
const PICTURES: usize = 8;

/// Adds the products of one task's pixels to `out`, rows `first..` of the weight gradient.
fn add_products(
    tiles: &Tiles,
    area: &Area,
    dy: Rows<'_>,
    act: &[f32],
    first: usize,
    out: &mut RowsMut<'_>,
) {
    let [n, pictures, rows] = area.pictures();
    let (w, pitch) = (tiles.width(), tiles.pitch());
    let c = pitch / (w + 2);
    for filter_row in 0..3 {
        for from in (0..pictures).step_by(PICTURES) {
            let count = PICTURES.min(pictures - from);
            let terms: [Term<'_>; PICTURES] = std::array::from_fn(|i| {
                let picture = from + i.min(count - 1);
                Term {
                    a: dy.span(n + picture, area.first_in_picture()),
                    a_stride: dy.ld(),
                    a_batch: w * dy.ld(),
                    b: Columns::InPlace {
                        data: &act[(picture * (rows + 2) + filter_row) * pitch..],
                        stride: c,
                        batch_stride: pitch,
                    },
                    k: w,
                    batch: rows,
                }
            });
            let height = out.rows();
            gemm::multiply(
                height,
                3 * c,
                &terms[..count],
                |_, m| first + m,
                |m, j, sums| {
                    let at = filter_row * 3 * c + j;
                    vector::add(sums, &mut out.row(0, m)[at..at + sums.len()]);
                },
            );
        }
    }
}

/// Adds the sums of dy's columns `first..`, over the given rows of a sample, to `out`'s last column.
fn add_columns(dy: Rows<'_>, [n, from, rows]: [usize; 3], first: usize, out: &mut RowsMut<'_>) {
    let (height, last) = (out.rows(), out.cols() - 1);
    let mut sums = [0.0; HEIGHT];
    for r in from..from + rows {
        vector::add(&dy.row(n, r)[first..first + height], &mut sums[..height]);
    }
    for (m, sum) in sums[..height].iter().enumerate() {
        out.row(0, m)[last] += sum;
    }
}

/// Adds the groups' partial sums in order and writes (or adds) them to outputs 0 and 1.
fn finish(call: &Call<'_>, sums: &[f32], groups: usize, modes: [Mode; 2]) {
    let (dw, db) = (call.output(0), call.output(1));
    let channels = db.cols();
    let width = sums.len() / (groups * channels);
    let partial = Rows::of(sums, [groups, 1, channels, width]);
    let (dw, db) = (dw.reshape(channels), db.reshape(channels));
    call.pool()
        .run(&[dw.split(16), db.split(16)], &mut [], |_, parts, _| {
            let (_, first) = parts.place(0);
            let [mut dw, mut db] = parts.many([0, 1]);
            for m in 0..dw.rows() {
                let (out, bias) = (dw.row(0, m), db.row(0, m));
                for (g, mode) in (0..groups).map(|g| (g, if g == 0 { modes[0] } else { Mode::Add }))
                {
                    let row = &partial.row(g, first + m)[..width - 1];
                    match mode {
                        Mode::Write => out.copy_from_slice(row),
                        Mode::Add => vector::add(row, out),
                    }
                }
                let sum: f32 = (0..groups)
                    .map(|g| partial.row(g, first + m)[width - 1])
                    .sum();
                bias[0] = if modes[1] == Mode::Write {
                    sum
                } else {
                    bias[0] + sum
                };
            }
        });
}
