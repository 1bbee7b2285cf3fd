//! Sum of tensors, each possibly resampled: where gradients meet that no other node folds in.

use super::launch::{THREADS, channels_at_once, per_sample};
use super::prologue::gather;
use crate::device::call::Call;
use crate::device::cuda::{self, Args, Kernel, View};
use crate::device::view::Rows;
use crate::tape::backward::{Contribution, Resample};
use crate::tape::{Mismatch, Op, Tape, TapeError, TensorType, Var};

/// Records the sum of `parts`, a tensor of type `ty`.
///
/// # Errors
/// A part whose size does not fit its resampling.
pub fn sum(tape: &mut Tape, parts: &[Contribution], ty: &TensorType) -> Result<Var, TapeError> {
    let vars: Vec<Var> = parts.iter().map(|p| p.var).collect();
    let op = Add {
        resample: parts.iter().map(|p| p.resample).collect(),
        ty: ty.clone(),
    };
    tape.push_one(op, &vars)
}

/// y = sum_i resample_i(x_i).
#[derive(Debug)]
pub struct Add {
    resample: Vec<Resample>,
    ty: TensorType,
}

impl Op for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Mismatch> {
        let [n, h, w, c] = self.ty.nhwc();
        for (x, resample) in inputs.iter().zip(&self.resample) {
            let [xn, xh, xw, xc] = x.nhwc();
            let (want, found) = match resample {
                Resample::None => ([h, w], [xh, xw]),
                Resample::OfPool => ([h, w], [2 * xh, 2 * xw]),
                Resample::OfUpsample => ([2 * h, 2 * w], [xh, xw]),
            };
            Mismatch::check("size of a summand", want, found)?;
            Mismatch::check("samples and channels of a summand", [n, c], [xn, xc])?;
        }
        Ok(vec![self.ty.clone()])
    }

    fn cpu(&self, call: &Call<'_>) {
        let parts: Vec<(Rows<'_>, Resample)> = self
            .resample
            .iter()
            .enumerate()
            .map(|(i, &r)| (call.input(i), r))
            .collect();
        let y = call.output(0);
        let width = y.shape()[2];
        call.pool().run(&[y.split(64)], &mut [], |_, tasks, _| {
            let (n, first) = tasks.place(0);
            let mut y = tasks.get(0);
            for r in 0..y.rows() {
                let out = y.row(0, r);
                out.fill(0.0);
                for &part in &parts {
                    gather(part, n, first + r, width, out);
                }
            }
        });
    }

    fn cuda(&self, call: &mut cuda::Call<'_>) -> Result<(), cuda::Unsupported> {
        let parts: Vec<(View, Resample)> = self
            .resample
            .iter()
            .enumerate()
            .map(|(i, &r)| (call.input(i), r))
            .collect();
        launch_sum(call, &parts, call.output(0));
        Ok(())
    }
}

/// Summands of one launch.
const AT_ONCE: usize = 5;

/// The kernels' number of a resampling (kernels/resample.cuh).
pub(super) fn number(resample: Resample) -> usize {
    match resample {
        Resample::None => 0,
        Resample::OfPool => 1,
        Resample::OfUpsample => 2,
    }
}

/// Launches y = sum of `parts`, one of them at least.
pub(super) fn launch_sum(call: &mut cuda::Call<'_>, parts: &[(View, Resample)], y: View) {
    let (now, later) = parts.split_at(parts.len().min(AT_ONCE));
    let mut views: Vec<View> = now.iter().map(|p| p.0).collect();
    views.push(y);
    let vector = channels_at_once(&views);
    let mut kernel = Kernel::new("add", "add")
        .define("TY", y.elem)
        .define("COUNT", now.len())
        .define("VX", vector);
    let mut args = Args::new();
    for i in 0..AT_ONCE {
        let (view, resample) = now.get(i).copied().unwrap_or((y, Resample::None));
        kernel = kernel
            .define(["T0", "T1", "T2", "T3", "T4"][i], view.elem)
            .define(["R0", "R1", "R2", "R3", "R4"][i], number(resample));
        args = args.view(view);
    }
    let args = args.view(y).int(y.n()).int(y.rows());
    let args = args.int(y.shape[2]).int(y.c());
    let grid = per_sample(y.rows() * y.c(), vector, y.n());
    call.launch(kernel, grid, THREADS, 0, args);
    if !later.is_empty() {
        let mut rest = vec![(y, Resample::None)];
        rest.extend(later);
        launch_sum(call, &rest, y);
    }
}
