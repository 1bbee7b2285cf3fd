//! Linear layers and 1x1 convolutions: y_i = act(x) W_i^T + b_i (+ residual), for one or several
//! (W_i, b_i) that read the same input, through one prologue.

mod cuda;
mod dgrad;
mod wgrad;

pub use dgrad::LinearDgrad;
pub use wgrad::LinearWgrad;
pub(super) use wgrad::record as record_wgrad;

use super::prologue::{Loader, NormVars, Prologue, norm_operands};
use crate::device::call::Call;
use crate::device::cuda::Unsupported;
use crate::device::gemm::{self, Columns, Term};
use crate::device::pool::Parts;
use crate::device::view::{Rows, RowsMut, Span};
use crate::tape::backward::{Backward, Contribution, Resample};
use crate::tape::{Mismatch, NodeIo, Op, Tape, TapeError, TensorType, Var, Workspace};

/// Weight `[out, in]` and bias `[out]`.
#[derive(Clone, Copy, Debug)]
pub struct Weights {
    /// `[out, in]`, or `[out, 1, 1, in]` of a 1x1 convolution.
    pub w: Var,
    /// `[out]`.
    pub b: Var,
}

/// What a linear layer does beside the product.
#[derive(Clone, Copy, Debug, Default)]
pub struct Extras<'a> {
    /// Norm of the input.
    pub norm: Option<&'a NormVars>,
    /// SiLU of the (normalised) input.
    pub silu: bool,
    /// Added to the output; only with one set of weights.
    pub residual: Option<Var>,
}

/// Records linear layers that read the same `x` (`[.., in]`); returns one `[.., out_i]` for each.
///
/// # Errors
/// Shapes that do not fit.
pub fn linear(
    tape: &mut Tape,
    x: Var,
    sets: &[Weights],
    extras: Extras<'_>,
) -> Result<Vec<Var>, TapeError> {
    let mut inputs = vec![x];
    for set in sets {
        inputs.extend([set.w, set.b]);
    }
    inputs.extend(extras.norm.map(NormVars::operands).unwrap_or_default());
    inputs.extend(extras.residual);
    let op = Linear {
        sets: sets.len(),
        prologue: Prologue::new(extras.norm, extras.silu),
        residual: extras.residual.is_some(),
    };
    tape.push(op, &inputs)
}

/// See [`linear`]. Inputs: x, then w and b of each set, the norm's operands, the residual.
#[derive(Debug)]
pub struct Linear {
    sets: usize,
    prologue: Prologue,
    residual: bool,
}

/// Rows of a task: enough to reuse the packed weights, few enough for the cache.
pub(super) const ROWS: usize = 96;

impl Linear {
    fn first_norm(&self) -> usize {
        1 + 2 * self.sets
    }
}

impl Op for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Mismatch> {
        let x = inputs[0];
        let mut out = Vec::new();
        for set in inputs[1..self.first_norm()].chunks(2) {
            let [k, r, s, c] = set[0].nhwc();
            let (k, c) = if set[0].shape.len() == 2 {
                (set[0].shape[0], set[0].shape[1])
            } else {
                (k, c)
            };
            Mismatch::check("window of the weight", [1, 1], [r, s])?;
            Mismatch::check("input channels of the weight", x.channels(), c)?;
            Mismatch::check("bias", &[k][..], &set[1].shape[..])?;
            out.push(x.with_channels(k));
        }
        self.prologue.check(x, &inputs[self.first_norm()..])?;
        if self.residual {
            Mismatch::check("sets of weights beside a residual", 1, self.sets)?;
            let residual = inputs[self.first_norm() + self.prologue.operands()];
            Mismatch::check("residual", &out[0], residual)?;
        }
        Ok(out)
    }

    fn differentiable(&self) -> bool {
        true
    }

    fn vjp(&self, b: &mut Backward<'_>, node: &NodeIo) -> Result<(), TapeError> {
        let x = node.inputs[0];
        let norm = norm_operands(self.prologue, node, self.first_norm()).to_vec();
        let mut gradients = Vec::new();
        for (i, &y) in node.outputs.iter().enumerate() {
            let Some(dy) = b.grad(y)? else { continue };
            if self.residual {
                let residual = node.inputs[self.first_norm() + self.prologue.operands()];
                b.add_plain(residual, dy);
            }
            let [w, bias] = [node.inputs[1 + 2 * i], node.inputs[2 + 2 * i]];
            let prologue = self.prologue;
            wgrad::record(b, [x, dy], &norm, [w, bias], |modes| LinearWgrad {
                prologue,
                modes,
            })?;
            gradients.push((dy, w));
        }
        if gradients.is_empty() || (!b.needs(x) && norm.is_empty()) {
            return Ok(());
        }
        let dact = dgrad::record(b.tape, &gradients)?;
        let dact = Contribution {
            var: dact,
            resample: Resample::None,
        };
        self.prologue.backward(b, x, dact, &norm)
    }

    fn workspace(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Workspace {
        let c = inputs[0].channels();
        Workspace {
            shared: outputs
                .iter()
                .map(|y| gemm::packed_len(c, y.channels()))
                .sum(),
            per_thread: if self.prologue.is_identity() {
                0
            } else {
                (ROWS + 2) * c
            },
        }
    }

    fn flops(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> u64 {
        outputs
            .iter()
            .map(|y| 2 * (y.len() * inputs[0].channels()) as u64)
            .sum()
    }

    fn cpu(&self, call: &Call<'_>) {
        let mut loader = Loader::new(call, self.prologue, 0, self.first_norm());
        let c = loader.x.cols();
        let mut residual = self
            .residual
            .then(|| call.input(self.first_norm() + self.prologue.operands()));
        let mut outputs: Vec<RowsMut<'_>> = (0..self.sets).map(|i| call.output(i)).collect();
        // Without statistics per sample, the rows of all samples are one long list where they lie so.
        if let (None, Some(merged)) = (self.prologue.norm, loader.x.merged())
            && outputs.iter().all(RowsMut::can_merge)
            && residual.is_none_or(|r| r.merged().is_some())
        {
            loader.x = merged;
            residual = residual.and_then(|r| r.merged());
            outputs = outputs.into_iter().map(RowsMut::merged).collect();
        }
        let mut rest = call.shared();
        let mut sets = Vec::with_capacity(self.sets);
        for (i, y) in outputs.iter().enumerate() {
            let n = y.cols();
            let (packed, tail) = rest.split_at_mut(gemm::packed_len(c, n));
            rest = tail;
            let w = flat(call.input(1 + 2 * i));
            gemm::pack_blocks(call.pool(), packed, (w, &[0]), [c, n], [1, c]);
            sets.push((&*packed, call.input(2 + 2 * i).row(0, 0)));
        }
        let task = Forward {
            loader,
            residual,
            sets: &sets,
        };
        let splits: Vec<_> = outputs.into_iter().map(|y| y.split(ROWS)).collect();
        call.pool()
            .run(&splits, call.scratch(), |_, parts, scratch| {
                task.run(parts, scratch)
            });
    }

    fn cuda(&self, call: &mut crate::device::cuda::Call<'_>) -> Result<(), Unsupported> {
        self.launch(call)
    }
}

/// Records the way back through a linear layer without prologue: the gradients of `x`, weight and
/// bias from `dy`.
///
/// # Errors
/// Shapes that do not fit.
pub(super) fn backward_one(
    b: &mut Backward<'_>,
    x: Var,
    dy: Var,
    weights: [Var; 2],
) -> Result<(), TapeError> {
    wgrad::record(b, [x, dy], &[], weights, |modes| LinearWgrad {
        prologue: Prologue::default(),
        modes,
    })?;
    if b.needs(x) {
        let dx = dgrad::record(b.tape, &[(dy, weights[0])])?;
        b.add_plain(x, dx);
    }
    Ok(())
}

/// A weight as one slice; arenas hold weights densely.
pub(super) fn flat(w: Rows<'_>) -> &[f32] {
    w.flat().unwrap_or_default()
}

struct Forward<'a> {
    loader: Loader<'a>,
    residual: Option<Rows<'a>>,
    sets: &'a [(&'a [f32], &'a [f32])],
}

impl Forward<'_> {
    fn run(&self, parts: &mut Parts<'_>, scratch: &mut [f32]) {
        let (n, first) = parts.place(0);
        let rows = parts.get(0).rows();
        let c = self.loader.x.cols();
        let (a, stride) = read(&self.loader, [n, first, rows], scratch);
        for (i, &(packed, bias)) in self.sets.iter().enumerate() {
            let mut y = parts.get(i);
            let term = Term {
                a,
                a_stride: 1,
                a_batch: 0,
                b: Columns::Packed(packed),
                k: c,
                batch: 1,
            };
            gemm::multiply(
                rows,
                y.cols(),
                &[term],
                |_, r| r * stride,
                |r, j, sums| {
                    let range = j..j + sums.len();
                    let out = &mut y.row(0, r)[range.clone()];
                    for ((o, &s), &b) in out.iter_mut().zip(sums).zip(&bias[range.clone()]) {
                        *o = s + b;
                    }
                    if let Some(residual) = self.residual {
                        for (o, &x) in out.iter_mut().zip(&residual.row(n, first + r)[range]) {
                            *o += x;
                        }
                    }
                },
            );
        }
    }
}

/// Rows `first..first + rows` of sample `n` through the prologue, and their distance: where they lie
/// if the prologue is the identity, otherwise in `scratch`.
pub(super) fn read<'s>(
    loader: &Loader<'s>,
    [n, first, rows]: [usize; 3],
    scratch: &'s mut [f32],
) -> (Span<'s>, usize) {
    let c = loader.x.cols();
    if loader.is_identity() {
        return (loader.x.span(n, first), loader.x.ld());
    }
    let (table, act) = scratch.split_at_mut(loader.table_len());
    loader.table(n, table);
    loader.load(n, first, rows, table, act);
    (Span::from(&*act), c)
}
