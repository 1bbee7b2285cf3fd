//! Norm + activation + 2x2 mean, and the 2x2 mean of the raw input: the entry of a residual block
//! that halves. Without pooling it is the plain norm + activation (for tests and references).

use super::launch::{Columns, THREADS, channels_at_once};
use super::prologue::{Loader, NormArgs, NormVars, Prologue, norm_operands};
use crate::device::call::Call;
use crate::device::cuda::{self, Args, Kernel};
use crate::device::vector;
use crate::device::view::Rows;
use crate::tape::backward::{Backward, Contribution, Resample};
use crate::tape::{Mismatch, NodeIo, Op, Tape, TapeError, TensorType, Var, Workspace};

/// Records mean2x2(SiLU(GN(x))) and mean2x2(x), both `[n, h / 2, w / 2, c]`.
///
/// # Errors
/// Shapes that do not fit; an odd height or width.
pub fn norm_pool(tape: &mut Tape, x: Var, norm: &NormVars) -> Result<[Var; 2], TapeError> {
    let mut inputs = vec![x];
    inputs.extend(norm.operands());
    let op = NormPool {
        prologue: Prologue::new(Some(norm), true),
        pool: true,
    };
    let out = tape.push(op, &inputs)?;
    Ok([out[0], out[1]])
}

/// Records GN(x), or SiLU(GN(x)), as a tensor of its own.
///
/// # Errors
/// Shapes that do not fit.
pub fn norm_act(tape: &mut Tape, x: Var, norm: &NormVars, silu: bool) -> Result<Var, TapeError> {
    let mut inputs = vec![x];
    inputs.extend(norm.operands());
    tape.push_one(
        NormPool {
            prologue: Prologue::new(Some(norm), silu),
            pool: false,
        },
        &inputs,
    )
}

/// See [`norm_pool`] and [`norm_act`].
#[derive(Debug)]
pub struct NormPool {
    prologue: Prologue,
    pool: bool,
}

impl Op for NormPool {
    fn name(&self) -> &'static str {
        if self.pool { "norm_pool" } else { "norm_act" }
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Mismatch> {
        self.prologue.check(inputs[0], &inputs[1..])?;
        if !self.pool {
            return Ok(vec![inputs[0].clone()]);
        }
        let [n, h, w, c] = inputs[0].nhwc();
        if h % 2 != 0 || w % 2 != 0 {
            return Err(Mismatch::new(
                "size to be halved",
                "even height and width",
                [h, w],
            ));
        }
        let half = TensorType::f32(&[n, h / 2, w / 2, c]);
        Ok(vec![half.clone(), half])
    }

    fn differentiable(&self) -> bool {
        true
    }

    fn vjp(&self, b: &mut Backward<'_>, node: &NodeIo) -> Result<(), TapeError> {
        let resample = if self.pool {
            Resample::OfPool
        } else {
            Resample::None
        };
        let x = node.inputs[0];
        if let Some(&raw) = node.outputs.get(1)
            && let Some(var) = b.grad(raw)?
        {
            b.add(x, Contribution { var, resample });
        }
        let Some(var) = b.grad(node.outputs[0])? else {
            return Ok(());
        };
        let norm = norm_operands(self.prologue, node, 1).to_vec();
        self.prologue
            .backward(b, x, Contribution { var, resample }, &norm)
    }

    fn workspace(&self, inputs: &[&TensorType], _: &[&TensorType]) -> Workspace {
        let [_, _, w, c] = inputs[0].nhwc();
        Workspace {
            shared: 0,
            per_thread: (2 * w + 2) * c,
        }
    }

    fn cpu(&self, call: &Call<'_>) {
        let loader = Loader::new(call, self.prologue, 0, 1);
        let [_, _, w, c] = loader.x.shape();
        let y = call.output(0);
        if !self.pool {
            call.pool()
                .run(&[y.split(w)], call.scratch(), |_, parts, scratch| {
                    let (n, first) = parts.place(0);
                    let (table, act) = scratch.split_at_mut(2 * c);
                    loader.table(n, table);
                    loader.load(n, first, w, table, act);
                    let mut y = parts.get(0);
                    for (r, row) in act.chunks_exact(c).take(w).enumerate() {
                        y.row(0, r).copy_from_slice(row);
                    }
                });
            return;
        }
        let outputs = [y.split(w / 2), call.output(1).split(w / 2)];
        call.pool()
            .run(&outputs, call.scratch(), |_, parts, scratch| {
                let (n, first) = parts.place(0);
                let (table, act) = scratch.split_at_mut(2 * c);
                loader.table(n, table);
                // Output row p reads input rows 2p and 2p + 1.
                let top = first / (w / 2) * 2 * w;
                loader.load(n, top, 2 * w, table, act);
                let act = Rows::of(act, [1, 2, w, c]);
                let mut y = parts.get(0);
                for q in 0..w / 2 {
                    mean2x2(
                        y.row(0, q),
                        [2 * q, 2 * q + 1, w + 2 * q, w + 2 * q + 1].map(|r| act.row(0, r)),
                    );
                }
                let mut raw = parts.get(1);
                for q in 0..w / 2 {
                    let at = top + 2 * q;
                    mean2x2(
                        raw.row(0, q),
                        [at, at + 1, at + w, at + w + 1].map(|r| loader.x.row(n, r)),
                    );
                }
            });
    }

    fn cuda(&self, call: &mut cuda::Call<'_>) -> Result<(), cuda::Unsupported> {
        let x = call.input(0);
        let y = call.output(0);
        let raw = if self.pool { call.output(1) } else { y };
        let vector = channels_at_once(&[x, y, raw]);
        let columns = Columns::new([y.n(), y.rows(), y.c()], vector, call.device());
        let norm = NormArgs::new(call, self.prologue.norm, 1, x.c());
        let kernel = Kernel::new("norm_pool", self.name())
            .define("TX", x.elem)
            .define("TY", y.elem)
            .define("TR", raw.elem)
            .define("VX", vector)
            .flag("SILU", self.prologue.silu);
        let mut args = norm.args(Args::new().view(x)).view(y);
        if self.pool {
            args = args.view(raw);
        }
        args = args.int(y.rows()).int(x.shape[2]);
        call.launch(
            norm.define(kernel, vector),
            columns.grid(y.n()),
            THREADS,
            0,
            args.int(columns.lanes)
                .int(columns.blocks)
                .int(columns.span),
        );
        Ok(())
    }
}

fn mean2x2(out: &mut [f32], pixels: [&[f32]; 4]) {
    out.fill(0.0);
    for pixel in pixels {
        vector::add_scaled(pixel, 0.25, out);
    }
}
