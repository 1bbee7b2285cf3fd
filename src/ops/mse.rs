//! Mean squared error with its gradient: the loss of the noise prediction.

use crate::device::call::Call;
use crate::device::view::RowsMut;
use crate::tape::backward::Backward;
use crate::tape::{Mismatch, NodeIo, Op, Tape, TapeError, TensorType, Var, Workspace};

/// Records mean((y - target)^2) over all elements (`[1]`) and the mean of each sample (`[n]`).
///
/// # Errors
/// Shapes that differ.
pub fn mse(tape: &mut Tape, y: Var, target: Var) -> Result<[Var; 2], TapeError> {
    let out = tape.push(Mse, &[y, target])?;
    Ok([out[0], out[1]])
}

/// See [`mse`].
#[derive(Debug)]
pub struct Mse;

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
            let gradient = b.tape.push_one(MseBackward, &node.inputs)?;
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
}

/// dy = 2 (y - target) / elements.
#[derive(Debug)]
pub struct MseBackward;

impl Op for MseBackward {
    fn name(&self) -> &'static str {
        "mse_backward"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Mismatch> {
        Ok(vec![inputs[0].clone()])
    }

    fn cpu(&self, call: &Call<'_>) {
        let (y, target) = (call.input(0), call.input(1));
        let factor = (2.0 / (y.n() * y.rows() * y.cols()) as f64) as f32;
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
}
