//! Weight gradient of a linear layer: dW = dy^T act(x), db = column sums of dy.
//!
//! Rows come in chunks that stay in the shared cache. Of a chunk, act(x) and dy are copied into *blocks*
//! of some rows, each cut into panels of columns, so that what the micro-kernel reads lies in a run; then
//! a task adds the products of all blocks to its rows of dW.

use crate::device::call::Call;
use crate::device::cuda;
use crate::device::gemm::{self, Columns, Term};
use crate::device::pool::Parts;
use crate::device::vector;
use crate::device::view::{Rows, RowsMut, Span};
use crate::ops::prologue::{Loader, Prologue};
use crate::tape::backward::{Backward, Mode};
use crate::tape::{Mismatch, Op, TapeError, TensorType, Var, Workspace};
use std::ops::Range;

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

/// Rows of a block.
const BLOCK: usize = 128;
/// Numbers of a chunk's blocks (4 MiB).
const CHUNK: usize = 1024 * 1024;
/// Most output channels of a task.
const HEIGHT: usize = 24;
/// Tasks worth having; a function of no machine, so that sums never depend on one.
const TASKS: usize = 8;

/// Layout of the shared scratch: blocks, each with panels of act(x) (`[c / W][row][W]`, W the width of the
/// micro-kernel) and of dy (`[k / height][row][height]`).
#[derive(Clone, Copy)]
struct Layout {
    c: usize,
    k: usize,
    /// Output channels of a task.
    height: usize,
    /// Rows of a block.
    rows: usize,
    /// Rows of all samples.
    all: usize,
    /// Blocks of a chunk.
    chunk: usize,
}

impl Layout {
    /// For the shapes of x and dy.
    fn new([[n, h, w, c], [.., k]]: [[usize; 4]; 2]) -> Self {
        let all = n * h * w;
        let blocks = all.div_ceil(BLOCK).max(1);
        let mut layout = Self {
            c,
            k,
            height: k.div_ceil(TASKS).next_multiple_of(12).min(HEIGHT),
            rows: all.div_ceil(blocks),
            all,
            chunk: 1,
        };
        layout.chunk = (CHUNK / layout.block_len().max(1)).clamp(1, blocks);
        layout
    }

    fn act_len(&self) -> usize {
        gemm::packed_len(self.rows, self.c)
    }

    fn block_len(&self) -> usize {
        self.act_len() + self.rows * self.k.next_multiple_of(self.height)
    }

    /// Rows of block `block`.
    fn range(&self, block: usize) -> Range<usize> {
        block * self.rows..((block + 1) * self.rows).min(self.all)
    }
}

impl Layout {
    /// Copies `rows` of act(x) and dy into `out`.
    fn fill(
        &self,
        loader: &Loader<'_>,
        dy: Rows<'_>,
        rows: Range<usize>,
        out: &mut [f32],
        scratch: &mut [f32],
    ) {
        let (c, per_sample) = (self.c, dy.rows());
        let (table, act) = scratch.split_at_mut(2 * c);
        let (first, count) = (rows.start, rows.len());
        let mut row = first;
        while row < rows.end {
            let (n, r) = (row / per_sample, row % per_sample);
            let here = (per_sample - r).min(rows.end - row);
            loader.table(n, table);
            loader.load(n, r, here, table, &mut act[(row - first) * c..][..here * c]);
            row += here;
        }
        let (packed, rest) = out.split_at_mut(self.act_len());
        gemm::pack_rows(packed, [count, c], false, |r| &act[r * c..][..c]);
        for (r, row) in rows.enumerate() {
            let row = dy.row(row / per_sample, row % per_sample);
            for (panel, from) in row.chunks(self.height).enumerate() {
                let to = &mut rest[(panel * self.rows + r) * self.height..];
                to[..from.len()].copy_from_slice(from);
            }
        }
    }

    /// The products of a block of `rows` rows, and the sums of dy, for task number `task`.
    fn multiply(
        &self,
        block: &[f32],
        rows: usize,
        task: usize,
        parts: &mut Parts<'_>,
        modes: [Mode; 2],
    ) {
        let [mut dw, mut db] = parts.many([0, 1]);
        let (act, rest) = block.split_at(self.act_len());
        let dy = &rest[task * self.rows * self.height..][..rows * self.height];
        let term = Term {
            a: Span::from(dy),
            a_stride: self.height,
            a_batch: 0,
            b: Columns::Packed(act),
            k: rows,
            batch: 1,
        };
        let height = dw.rows();
        gemm::multiply(
            height,
            self.c,
            &[term],
            |_, m| m,
            |m, j, sums| {
                put(sums, &mut dw.row(0, m)[j..j + sums.len()], modes[0]);
            },
        );
        let mut sums = [0.0; HEIGHT];
        for row in dy.chunks_exact(self.height) {
            vector::add(&row[..height], &mut sums[..height]);
        }
        for (m, &sum) in sums[..height].iter().enumerate() {
            put(&[sum], db.row(0, m), modes[1]);
        }
    }
}

/// Writes `from` to `to`, or adds it.
fn put(from: &[f32], to: &mut [f32], mode: Mode) {
    match mode {
        Mode::Write => to.copy_from_slice(from),
        Mode::Add => vector::add(from, to),
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
        let layout = Layout::new([inputs[0], inputs[1]].map(TensorType::nhwc));
        Workspace {
            shared: layout.chunk * layout.block_len(),
            per_thread: (layout.rows + 2) * layout.c,
        }
    }

    fn flops(&self, inputs: &[&TensorType], _: &[&TensorType]) -> u64 {
        2 * (inputs[1].len() * inputs[0].channels()) as u64
    }

    fn cpu(&self, call: &Call<'_>) {
        let loader = Loader::new(call, self.prologue, 0, 2);
        let dy = call.input(1);
        let layout = Layout::new([loader.x, dy].map(|x| x.shape()));
        let (blocks, scratch) = (call.shared(), call.scratch());
        let (mut dw, mut db) = (
            call.output(0).reshape(layout.k),
            call.output(1).reshape(layout.k),
        );
        let mut modes = self.modes;
        for first in (0..layout.all).step_by(layout.chunk * layout.rows) {
            let first = first / layout.rows;
            let here = layout.chunk.min(layout.all.div_ceil(layout.rows) - first);
            let split = RowsMut::of(blocks, [1, 1, here, layout.block_len()]).split(1);
            call.pool().run(&[split], scratch, |block, parts, scratch| {
                let rows = layout.range(first + block);
                layout.fill(&loader, dy, rows, parts.get(0).row(0, 0), scratch);
            });
            let splits = [&mut dw, &mut db].map(|out| out.again().split(layout.height));
            call.pool().run(&splits, &mut [], |task, parts, _| {
                for block in 0..here {
                    let rows = layout.range(first + block).len();
                    let modes = if block > 0 { [Mode::Add; 2] } else { modes };
                    let block = &blocks[block * layout.block_len()..][..layout.block_len()];
                    layout.multiply(block, rows, task, parts, modes);
                }
            });
            modes = [Mode::Add; 2];
        }
    }

    fn cuda(&self, call: &mut cuda::Call<'_>) -> Result<(), cuda::Unsupported> {
        self.launch(call)
    }
}
