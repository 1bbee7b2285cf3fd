//! Mean squared error with its gradient: the loss of the noise prediction.

use super::launch::{THREADS, elements_at_once, per_sample};
use crate::device::call::Call;
use crate::device::cuda::{self, Args, Kernel, View};
use crate::device::view::RowsMut;
use crate::tape::backward::Backward;
use crate::tape::{Mismatch, NodeIo, Op, Tape, TapeError, TensorType, Var, Workspace};

/// Records mean((y - target)^2) over all elements (`[1]`) and the mean of each sample (`[n]`).
///
/// # Errors
/// Shapes that differ.
pub fn mse(tape: &mut Tape, y: Var, target: Var) -> Result<[Var; 2], TapeError> {
    weighted_mse(tape, y, target, 1.0)
}

/// [`mse`], whose gradient is multiplied by `weight`; the values recorded are not.
///
/// # Errors
/// Shapes that differ.
pub fn weighted_mse(
    tape: &mut Tape,
    y: Var,
    target: Var,
    weight: f64,
) -> Result<[Var; 2], TapeError> {
    let out = tape.push(Mse { weight }, &[y, target])?;
    Ok([out[0], out[1]])
}

/// See [`weighted_mse`].
#[derive(Debug)]
pub struct Mse {
    weight: f64,
}

/// Vectors that a thread of the kernel adds up (`ITEMS` in kernels/mse.cu).
const ITEMS: usize = 8;

fn kernel(entry: &'static str, [y, target]: [View; 2], dy: View, vector: usize) -> Kernel {
    Kernel::new("mse", entry)
        .define("TY", y.elem)
        .define("TT", target.elem)
        .define("TD", dy.elem)
        .define("VX", vector)
}

impl Op for Mse {
    fn name(&self) -> &'static str {
        "mse"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Mismatch> {
        Mismatch::check("target", inputs[0], inputs[1])?;
        Ok(vec![
            TensorType::f32(&[1]),
            TensorType::f32(&[inputs[0].samples(), 1]),
        ])
    }

    fn differentiable(&self) -> bool {
        true
    }

    fn vjp(&self, b: &mut Backward<'_>, node: &NodeIo) -> Result<(), TapeError> {
        if b.needs(node.inputs[0]) {
            let backward = MseBackward {
                weight: self.weight,
            };
            let gradient = b.tape.push_one(backward, &node.inputs)?;
            b.add_plain(node.inputs[0], gradient);
        }
        Ok(())
    }

    fn workspace(&self, inputs: &[&TensorType], _: &[&TensorType]) -> Workspace {
        Workspace {
            shared: inputs[0].samples(),
            per_thread: 0,
        }
    }

    fn cpu(&self, call: &Call<'_>) {
        let (y, target) = (call.input(0), call.input(1));
        let samples = call.output_slice::<f32>(1);
        let count = (y.rows() * y.cols()) as f64;
        let split = RowsMut::of(samples, [y.n(), 1, 1, 1]).split(1);
        call.pool().run(&[split], &mut [], |n, parts, _| {
            let mut sum = 0.0;
            for r in 0..y.rows() {
                for (y, t) in y.row(n, r).iter().zip(target.row(n, r)) {
                    sum += f64::from(y - t) * f64::from(y - t);
                }
            }
            parts.get(0).row(0, 0)[0] = (sum / count) as f32;
        });
        let sum: f64 = samples.iter().map(|&s| f64::from(s)).sum();
        call.output_slice::<f32>(0)[0] = (sum / y.n() as f64) as f32;
    }

    fn cuda(&self, call: &mut cuda::Call<'_>) -> Result<(), cuda::Unsupported> {
        let [y, target] = [call.input(0), call.input(1)];
        let vector = elements_at_once(&[y, target]);
        let (n, count) = (y.n(), y.rows() * y.c());
        let grid = per_sample(count, vector * ITEMS, n);
        let part = call.scratch(8 * n * grid[0]);
        let args = Args::new().view(y).view(target).ptr(part);
        let args = args.int(n).int(y.rows()).int(y.c());
        call.launch(
            kernel("mse", [y, target], y, vector),
            grid,
            THREADS,
            0,
            args,
        );
        let (loss, samples) = (call.output(0), call.output(1));
        let args = Args::new().ptr(part).view(samples).ptr(loss.pointer);
        let args = args.int(n).int(grid[0]).int(count);
        let finish = kernel("mse_finish", [y, target], y, vector);
        call.launch(finish, [1; 3], THREADS, 0, args);
        Ok(())
    }
}

/// dy = 2 weight (y - target) / elements.
#[derive(Debug)]
pub struct MseBackward {
    weight: f64,
}

impl Op for MseBackward {
    fn name(&self) -> &'static str {
        "mse_backward"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Mismatch> {
        Ok(vec![inputs[0].clone()])
    }

    fn cpu(&self, call: &Call<'_>) {
        let (y, target) = (call.input(0), call.input(1));
        let factor = (2.0 * self.weight / (y.n() * y.rows() * y.cols()) as f64) as f32;
        call.pool()
            .run(&[call.output(0).split(256)], &mut [], |_, parts, _| {
                let (n, first) = parts.place(0);
                let mut dy = parts.get(0);
                for r in 0..dy.rows() {
                    let (y, target) = (y.row(n, first + r), target.row(n, first + r));
                    for (d, (y, t)) in dy.row(0, r).iter_mut().zip(y.iter().zip(target)) {
                        *d = factor * (y - t);
                    }
                }
            });
    }

    fn cuda(&self, call: &mut cuda::Call<'_>) -> Result<(), cuda::Unsupported> {
        let [y, target, dy] = [call.input(0), call.input(1), call.output(0)];
        let vector = elements_at_once(&[y, target, dy]);
        let grid = per_sample(y.rows() * y.c(), vector, y.n());
        let args = Args::new().view(y).view(target).view(dy);
        let args = args.f32((2.0 * self.weight / y.len() as f64) as f32);
        let args = args.int(y.n()).int(y.rows()).int(y.c());
        let kernel = kernel("mse_backward", [y, target], dy, vector);
        call.launch(kernel, grid, THREADS, 0, args);
        Ok(())
    }
}
