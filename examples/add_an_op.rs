//! An op of your own, outside the crate: forward, gradient, and a check by finite differences.
//!
//! ```text
//! cargo run --release --example add_an_op
//! ```
//!
//! The op is y = sin(w x), the activation of networks for waves and pictures (Sitzmann et al. 2020). An op is a
//! type that implements [`Op`]: shapes, gradient, CPU code. What it has no CUDA code for runs on the CPU only, and
//! a GPU says so. (A kernel of its own has to be a file of the crate: see "An op" in docs/tape.md.)

use anyhow::{Result, ensure};
use gmmk::device::call::Call;
use gmmk::device::pool::Pool;
use gmmk::ops::add;
use gmmk::ops::mse::mse;
use gmmk::tape::backward::Backward;
use gmmk::tape::executable::Executable;
use gmmk::tape::state::State;
use gmmk::tape::{Arena, Mismatch, NodeIo, Op, Tape, TapeError, TensorType, Var};
use std::sync::Arc;

/// Records y = sin(`w` x), of x's shape.
fn sine(tape: &mut Tape, x: Var, w: f32) -> Result<Var, TapeError> {
    tape.push_one(Sine { w }, &[x])
}

/// See [`sine`].
#[derive(Debug)]
struct Sine {
    w: f32,
}

/// Rows that a thread takes at a time.
const ROWS: usize = 64;

impl Op for Sine {
    fn name(&self) -> &'static str {
        "sine"
    }

    /// The shape rule, asked while recording. Any f32 tensor will do; what does not fit is a `Mismatch`.
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Mismatch> {
        Mismatch::check("number of operands", 1, inputs.len())?;
        Ok(vec![inputs[0].clone()])
    }

    fn differentiable(&self) -> bool {
        true
    }

    /// The gradient rule records more nodes: dx = dy w cos(w x).
    fn vjp(&self, b: &mut Backward<'_>, node: &NodeIo) -> Result<(), TapeError> {
        let [x, y] = [node.inputs[0], node.outputs[0]];
        let Some(dy) = b.grad(y)? else {
            return Ok(()); // Nothing that has a gradient reads y.
        };
        if b.needs(x) {
            let dx = b.tape.push_one(SineBackward { w: self.w }, &[x, dy])?;
            b.add_plain(x, dx);
        }
        Ok(())
    }

    /// The output is cut into tasks by rows; threads take them in any order, so each writes its own part only.
    /// A tensor may be a slice of a wider one: rows are whole, their distance is not their length.
    fn cpu(&self, call: &Call<'_>) {
        let x = call.input(0);
        let tasks = [call.output(0).split(ROWS)];
        call.pool().run(&tasks, &mut [], |_, parts, _| {
            let (sample, first) = parts.place(0);
            let mut y = parts.get(0);
            for row in 0..y.rows() {
                let x = x.row(sample, first + row);
                for (y, x) in y.row(0, row).iter_mut().zip(x) {
                    *y = (self.w * x).sin();
                }
            }
        });
    }
}

/// dx = dy w cos(w x), of x and dy.
#[derive(Debug)]
struct SineBackward {
    w: f32,
}

impl Op for SineBackward {
    fn name(&self) -> &'static str {
        "sine_backward"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Mismatch> {
        Mismatch::check("number of operands", 2, inputs.len())?;
        Mismatch::check("gradient", inputs[0], inputs[1])?;
        Ok(vec![inputs[0].clone()])
    }

    fn cpu(&self, call: &Call<'_>) {
        let (x, dy) = (call.input(0), call.input(1));
        let tasks = [call.output(0).split(ROWS)];
        call.pool().run(&tasks, &mut [], |_, parts, _| {
            let (sample, first) = parts.place(0);
            let mut dx = parts.get(0);
            for row in 0..dx.rows() {
                let operands = x.row(sample, first + row).iter();
                let operands = operands.zip(dy.row(sample, first + row));
                for (dx, (x, dy)) in dx.row(0, row).iter_mut().zip(operands) {
                    *dx = dy * self.w * (self.w * x).cos();
                }
            }
        });
    }
}

/// mean((sin(w x) - target)^2) and its gradient by x.
struct Program {
    exe: Executable,
    x: Var,
    loss: Var,
    gradient: Var,
}

impl Program {
    fn new(shape: &[usize], target: &[f32]) -> Result<Self> {
        let mut tape = Tape::new();
        let x = tape.input("x", TensorType::f32(shape));
        let wanted = tape.input("target", TensorType::f32(shape));
        tape.want_grad(x);
        let y = sine(&mut tape, x, 3.0)?;
        let [loss, _each] = mse(&mut tape, y, wanted)?;
        let gradient = tape.backward(&[loss], add::sum)?[&x];
        tape.keep(loss);
        tape.keep(gradient);
        println!("{tape:?}");
        let mut exe = Executable::new(tape, Arc::new(Pool::new(2)?))?;
        exe.write(wanted, target)?;
        let program = Self {
            exe,
            x,
            loss,
            gradient,
        };
        Ok(program)
    }

    /// Loss and gradient at `x`.
    fn run(&mut self, x: &[f32]) -> Result<(f32, Vec<f32>)> {
        self.exe.write(self.x, x)?;
        // There are no weights: the state is empty.
        self.exe.run(&mut State::default(), Arena::Params)?;
        Ok((self.exe.read(self.loss)?[0], self.exe.read(self.gradient)?))
    }
}

fn main() -> Result<()> {
    let shape = [2, 3, 4]; // Two samples of three rows of four numbers.
    let wave = |scale: f32| -> Vec<f32> { (0..24).map(|i| (scale * i as f32).sin()).collect() };
    let (x, target) = (wave(0.7), wave(1.3));
    let mut program = Program::new(&shape, &target)?;
    let (loss, gradient) = program.run(&x)?;

    // Forward: the same, written out.
    let errors = x.iter().zip(&target).map(|(x, t)| (3.0 * x).sin() - t);
    let by_hand = errors.map(|e| e * e).sum::<f32>() / x.len() as f32;
    println!("loss {loss:.6}, written out {by_hand:.6}");
    ensure!((loss - by_hand).abs() < 1e-6, "{loss}, not {by_hand}");

    // Backward: move one number of x by h to both sides and look at the loss.
    let h = 1e-2;
    let mut worst = 0.0_f32;
    for i in 0..x.len() {
        let mut at = |shift: f32| -> Result<f32> {
            let mut moved = x.clone();
            moved[i] += shift;
            Ok(program.run(&moved)?.0)
        };
        let difference = (at(h)? - at(-h)?) / (2.0 * h);
        worst = worst.max((gradient[i] - difference).abs());
    }
    let largest = gradient.iter().fold(0.0_f32, |most, g| most.max(g.abs()));
    println!("gradient up to {largest:.4}, finite differences within {worst:.6}");
    ensure!(
        worst < 2e-3 * largest,
        "the gradient differs by {worst} of {largest}"
    );
    Ok(())
}

#[test]
fn gradients_are_finite_differences() {
    main().unwrap();
}
