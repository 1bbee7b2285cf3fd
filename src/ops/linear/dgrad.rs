//! Input gradient of linear layers that share their input: dx = sum_i dy_i W_i.

use super::{ROWS, flat};
use crate::device::call::Call;
use crate::device::cuda;
use crate::device::gemm::{self, Columns, Term};
use crate::device::view::Rows;
use crate::tape::{Mismatch, Op, Tape, TapeError, TensorType, Var, Workspace};

/// Records the gradient of the layers' common (activated) input.
pub(super) fn record(tape: &mut Tape, sets: &[(Var, Var)]) -> Result<Var, TapeError> {
    let mut inputs: Vec<Var> = sets.iter().map(|s| s.0).collect();
    inputs.extend(sets.iter().map(|s| s.1));
    tape.push_one(LinearDgrad { sets: sets.len() }, &inputs)
}

/// dx `[.., in]` from dy_i `[.., out_i]` and W_i `[out_i, in]`. Inputs: all dy, then all W.
#[derive(Debug)]
pub struct LinearDgrad {
    /// Number of layers.
    pub sets: usize,
}

impl Op for LinearDgrad {
    fn name(&self) -> &'static str {
        "linear_dgrad"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Mismatch> {
        let c = inputs[self.sets].channels();
        for (dy, w) in inputs[..self.sets].iter().zip(&inputs[self.sets..]) {
            Mismatch::check("weight", dy.channels() * c, w.len())?;
        }
        Ok(vec![inputs[0].with_channels(c)])
    }

    fn workspace(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Workspace {
        let c = outputs[0].channels();
        Workspace {
            shared: inputs[..self.sets]
                .iter()
                .map(|dy| gemm::packed_len(dy.channels(), c))
                .sum(),
            per_thread: 0,
        }
    }

    fn flops(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> u64 {
        inputs[..self.sets]
            .iter()
            .map(|dy| 2 * (dy.len() * outputs[0].channels()) as u64)
            .sum()
    }

    fn cpu(&self, call: &Call<'_>) {
        let mut dys: Vec<Rows<'_>> = (0..self.sets).map(|i| call.input(i)).collect();
        let mut dx = call.output(0);
        if dx.can_merge() && dys.iter().all(|dy| dy.merged().is_some()) {
            dx = dx.merged();
            dys = dys.iter().filter_map(Rows::merged).collect();
        }
        let c = dx.cols();
        let mut rest = call.shared();
        let mut packs: Vec<&[f32]> = Vec::with_capacity(self.sets);
        for (i, dy) in dys.iter().enumerate() {
            let (packed, tail) = rest.split_at_mut(gemm::packed_len(dy.cols(), c));
            rest = tail;
            let w = flat(call.input(self.sets + i));
            gemm::pack_blocks(call.pool(), packed, (w, &[0]), [dy.cols(), c], [c, 1]);
            packs.push(packed);
        }
        call.pool().run(&[dx.split(ROWS)], &mut [], |_, parts, _| {
            let (n, first) = parts.place(0);
            let mut dx = parts.get(0);
            let mut total = false;
            // One layer after the other, in index order: their number is not bounded, a tile's terms are.
            for (dy, packed) in dys.iter().zip(&packs) {
                let b = Columns::Packed(packed);
                let a = dy.span(n, first);
                let term = Term {
                    a,
                    a_stride: 1,
                    a_batch: 0,
                    b,
                    k: dy.cols(),
                    batch: 1,
                };
                gemm::multiply(
                    dx.rows(),
                    c,
                    &[term],
                    |_, r| r * dy.ld(),
                    |r, j, sums| {
                        let out = &mut dx.row(0, r)[j..j + sums.len()];
                        if total {
                            out.iter_mut().zip(sums).for_each(|(o, &s)| *o += s);
                        } else {
                            out.copy_from_slice(sums);
                        }
                    },
                );
                total = true;
            }
        });
    }

    fn cuda(&self, call: &mut cuda::Call<'_>) -> Result<(), cuda::Unsupported> {
        self.launch(call)
    }
}
