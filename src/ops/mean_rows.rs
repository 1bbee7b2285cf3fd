//! Mean over the positions of a picture: what an attribute classifier reads of the bottleneck.

use super::launch::{Columns, THREADS, channels_at_once};
use crate::device::call::Call;
use crate::device::cuda::{self, Args, Kernel, View};
use crate::device::vector;
use crate::tape::backward::Backward;
use crate::tape::{Mismatch, NodeIo, Op, Tape, TapeError, TensorType, Var};

/// Records the mean over all rows of each sample: `[n, h, w, c]` or `[n, t, c]` -> `[n, c]`.
///
/// # Errors
/// `x` has no positions: fewer than three axes.
pub fn mean_rows(tape: &mut Tape, x: Var) -> Result<Var, TapeError> {
    tape.push_one(MeanRows, &[x])
}

/// See [`mean_rows`].
#[derive(Debug)]
pub struct MeanRows;

fn kernel(entry: &'static str, x: View, y: View, vector: usize) -> Kernel {
    Kernel::new("mean_rows", entry)
        .define("TX", x.elem)
        .define("TY", y.elem)
        .define("VX", vector)
}

impl Op for MeanRows {
    fn name(&self) -> &'static str {
        "mean_rows"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Mismatch> {
        let x = inputs[0];
        if x.shape.len() < 3 {
            return Err(Mismatch::new("positions", "[n, h, w, c] or [n, t, c]", x));
        }
        Ok(vec![TensorType::f32(&[x.samples(), x.channels()])])
    }

    fn differentiable(&self) -> bool {
        true
    }

    fn vjp(&self, b: &mut Backward<'_>, node: &NodeIo) -> Result<(), TapeError> {
        let x = node.inputs[0];
        let Some(dy) = b.grad(node.outputs[0])? else {
            return Ok(());
        };
        if b.needs(x) {
            let like = b.tape.ty(x).clone();
            let dx = b.tape.push_one(MeanRowsBackward { like }, &[dy])?;
            b.add_plain(x, dx);
        }
        Ok(())
    }

    fn cpu(&self, call: &Call<'_>) {
        let x = call.input(0);
        let share = 1.0 / x.rows() as f32;
        call.pool()
            .run(&[call.output(0).split(1)], &mut [], |n, parts, _| {
                let mut y = parts.get(0);
                let y = y.row(0, 0);
                y.fill(0.0);
                for r in 0..x.rows() {
                    vector::add_scaled(x.row(n, r), 1.0, y);
                }
                y.iter_mut().for_each(|y| *y *= share);
            });
    }

    fn cuda(&self, call: &mut cuda::Call<'_>) -> Result<(), cuda::Unsupported> {
        let (x, y) = (call.input(0), call.output(0));
        let vector = channels_at_once(&[x]);
        let columns = Columns {
            blocks: 1,
            span: x.rows(),
            ..Columns::new([x.n(), x.rows(), x.c()], vector, call.device())
        };
        let args = Args::new().view(x).view(y).f32(1.0 / x.rows() as f32);
        call.launch(
            kernel("mean_rows", x, y, vector),
            columns.grid(x.n()),
            THREADS,
            columns.shared(),
            args.int(x.rows()).int(x.c()).int(columns.lanes),
        );
        Ok(())
    }
}

/// dx = dy / positions, at every position.
#[derive(Debug)]
pub struct MeanRowsBackward {
    like: TensorType,
}

impl Op for MeanRowsBackward {
    fn name(&self) -> &'static str {
        "mean_rows_backward"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Mismatch> {
        let want = TensorType::f32(&[self.like.samples(), self.like.channels()]);
        Mismatch::check("gradient", &want, inputs[0])?;
        Ok(vec![self.like.clone()])
    }

    fn cpu(&self, call: &Call<'_>) {
        let dy = call.input(0);
        let dx = call.output(0);
        let rows = dx.rows();
        let share = 1.0 / rows as f32;
        call.pool().run(&[dx.split(rows)], &mut [], |n, parts, _| {
            let mut dx = parts.get(0);
            for r in 0..rows {
                for (dx, dy) in dx.row(0, r).iter_mut().zip(dy.row(n, 0)) {
                    *dx = share * dy;
                }
            }
        });
    }

    fn cuda(&self, call: &mut cuda::Call<'_>) -> Result<(), cuda::Unsupported> {
        let (dy, dx) = (call.input(0), call.output(0));
        let vector = channels_at_once(&[dy, dx]);
        let (n, rows, c) = (dx.n(), dx.rows(), dx.c());
        let columns = Columns::new([n, rows, c], vector, call.device());
        let args = Args::new().view(dy).view(dx).f32(1.0 / rows as f32);
        let args = args.int(rows).int(c).int(columns.lanes);
        call.launch(
            kernel("mean_rows_backward", dx, dy, vector),
            columns.grid(n),
            THREADS,
            0,
            args.int(columns.blocks).int(columns.span),
        );
        Ok(())
    }
}
