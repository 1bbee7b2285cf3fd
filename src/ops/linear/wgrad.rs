//! Weight gradient of a linear layer: dW = dy^T act(x), db = column sums of dy.

use super::read;
use crate::device::call::Call;
use crate::device::cuda;
use crate::device::gemm::{self, Columns, MAX_NR, Term};
use crate::device::vector;
use crate::device::view::{Rows, RowsMut};
use crate::ops::prologue::{Loader, Prologue};
use crate::tape::backward::{Backward, Mode};
use crate::tape::{Mismatch, Op, TapeError, TensorType, Var, Workspace};

/// Records the gradients of weight and bias into the gradient arena, by the op that `make` builds.
pub(in crate::ops) fn record<O: Op + 'static>(
    b: &mut Backward<'_>,
    [x, dy]: [Var; 2],
    norm: &[Var],
    [w, bias]: [Var; 2],
    make: impl FnOnce([Mode; 2]) -> O,
) -> Result<(), TapeError> {
    let (dw, dw_mode) = b.param_grad(w)?;
    let (db, db_mode) = b.param_grad(bias)?;
    let mut inputs = vec![x, dy];
    inputs.extend(norm);
    b.tape
        .push_into(make([dw_mode, db_mode]), &inputs, vec![dw, db]);
    Ok(())
}

/// dW `[out, in]` and db `[out]` from x `[.., in]` and dy `[.., out]`. Inputs: x, dy, the norm's operands.
#[derive(Debug)]
pub struct LinearWgrad {
    pub(super) prologue: Prologue,
    pub(super) modes: [Mode; 2],
}

/// How the work is cut: `groups` partial sums over rows (in units of [`BLOCK`] rows), each in tasks
/// of `height` output channels.
pub(in crate::ops) struct Cut {
    pub units: usize,
    pub groups: usize,
    pub height: usize,
}

/// Rows that are activated at a time.
const BLOCK: usize = 128;
/// Output channels of a task.
const HEIGHT: usize = 64;
/// Tasks worth having; a function of no machine, so that sums never depend on one.
const TASKS: usize = 8;

impl Cut {
    /// Cuts `units` stretches of rows and `channels` output channels into about [`TASKS`] tasks.
    pub fn new(units: usize, channels: usize) -> Self {
        let blocks = channels.div_ceil(HEIGHT);
        let height = channels.div_ceil(blocks);
        Self {
            units,
            groups: (TASKS / blocks).clamp(1, units.max(1)),
            height,
        }
    }

    /// Units of group `g`.
    pub fn range(&self, g: usize) -> std::ops::Range<usize> {
        self.units * g / self.groups..self.units * (g + 1) / self.groups
    }
}

impl LinearWgrad {
    fn cut(x: &TensorType, channels: usize) -> Cut {
        Cut::new(x.samples() * x.rows().div_ceil(BLOCK), channels)
    }
}

impl Op for LinearWgrad {
    fn name(&self) -> &'static str {
        "linear_wgrad"
    }

    fn infer(&self, _: &[&TensorType]) -> Result<Vec<TensorType>, Mismatch> {
        Ok(Vec::new())
    }

    fn workspace(&self, inputs: &[&TensorType], _: &[&TensorType]) -> Workspace {
        let (c, k) = (inputs[0].channels(), inputs[1].channels());
        Workspace {
            shared: Self::cut(inputs[0], k).groups * k * (c + 1),
            per_thread: (BLOCK + 2) * c + MAX_NR,
        }
    }

    fn flops(&self, inputs: &[&TensorType], _: &[&TensorType]) -> u64 {
        2 * (inputs[1].len() * inputs[0].channels()) as u64
    }

    fn cpu(&self, call: &Call<'_>) {
        let loader = Loader::new(call, self.prologue, 0, 2);
        let dy = call.input(1);
        let (c, k) = (loader.x.cols(), dy.cols());
        let per_sample = loader.x.rows().div_ceil(BLOCK);
        let cut = Cut::new(loader.x.n() * per_sample, k);
        let sums = call.shared();
        let split = RowsMut::of(sums, [cut.groups, 1, k, c + 1]).split(cut.height);
        call.pool()
            .run(&[split], call.scratch(), |_, parts, scratch| {
                let (group, first) = parts.place(0);
                let mut out = parts.get(0);
                for m in 0..out.rows() {
                    out.row(0, m).fill(0.0);
                }
                for unit in cut.range(group) {
                    let (n, from) = (unit / per_sample, unit % per_sample * BLOCK);
                    let rows = BLOCK.min(loader.x.rows() - from);
                    block(&loader, dy, [n, from, rows], first, &mut out, scratch);
                }
            });
        finish(call, sums, cut.groups, self.modes);
    }

    fn cuda(&self, call: &mut cuda::Call<'_>) -> Result<(), cuda::Unsupported> {
        self.launch(call)
    }
}

/// Adds the products of one stretch of rows to `out`, whose last column is the bias gradient.
fn block(
    loader: &Loader<'_>,
    dy: Rows<'_>,
    [n, from, rows]: [usize; 3],
    first: usize,
    out: &mut RowsMut<'_>,
    scratch: &mut [f32],
) {
    let c = loader.x.cols();
    let height = out.rows();
    if loader.is_identity() {
        // The product reads whole vectors past a row's end, so it needs rows with room behind them.
        let (table, act) = scratch.split_at_mut(2 * c);
        loader.load(n, from, rows, table, act);
    } else {
        let _activated = read(loader, [n, from, rows], scratch);
    }
    let act = &scratch[2 * c..];
    let term = Term {
        a: dy.span(n, from),
        a_stride: dy.ld(),
        a_batch: 0,
        b: Columns::InPlace {
            data: act,
            stride: c,
            batch_stride: 0,
        },
        k: rows,
        batch: 1,
    };
    gemm::multiply(
        height,
        c,
        &[term],
        |_, m| first + m,
        |m, j, sums| {
            vector::add(sums, &mut out.row(0, m)[j..j + sums.len()]);
        },
    );
    add_columns(dy, [n, from, rows], first, out);
}

/// Adds the sums of dy's columns `first..`, over the given rows of a sample, to `out`'s last column.
pub(in crate::ops) fn add_columns(
    dy: Rows<'_>,
    [n, from, rows]: [usize; 3],
    first: usize,
    out: &mut RowsMut<'_>,
) {
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
pub(in crate::ops) fn finish(call: &Call<'_>, sums: &[f32], groups: usize, modes: [Mode; 2]) {
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
