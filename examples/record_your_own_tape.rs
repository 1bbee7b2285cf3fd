//! A network of your own on the tape: recorded once, differentiated, trained on the CPU.
//!
//! ```text
//! cargo run --release --example record_your_own_tape
//! ```
//!
//! The network is a perceptron, 1 -> 32 -> 32 -> 1, and learns y = sin(3x) on [-1, 1]. Everything that
//! `gmmk train` does with a U-Net happens here too, in the same order: weights, recording, gradients,
//! optimizer, plan, replay.

use anyhow::{Result, ensure};
use gmmk::device::pool::Pool;
use gmmk::model::params::{Init, ParamTable};
use gmmk::ops::adamw::{AdamWConfig, COUNTERS, adamw};
use gmmk::ops::add;
use gmmk::ops::linear::{Extras, Weights, linear};
use gmmk::ops::mse::mse;
use gmmk::tape::executable::Executable;
use gmmk::tape::state::State;
use gmmk::tape::{Arena, Tape, TapeError, TensorType, Var};
use std::sync::Arc;

/// Points that the network sees at every step.
const BATCH: usize = 64;
/// Numbers that a layer reads and the next one reads.
const WIDTHS: [usize; 4] = [1, 32, 32, 1];
const STEPS: usize = 400;

/// First: the weights are windows into one flat array. The table says where each begins, and how it starts.
fn weights() -> ParamTable {
    let mut table = ParamTable::default();
    for (layer, pair) in WIDTHS.windows(2).enumerate() {
        let [inputs, outputs] = [pair[0], pair[1]];
        let he = Init::Uniform((6.0 / inputs as f32).sqrt());
        table.add(format!("{layer}.weight"), &[outputs, inputs], he);
        table.add(format!("{layer}.bias"), &[outputs], Init::Constant(0.0));
    }
    table
}

/// Second: recording computes nothing: each call adds a node and checks shapes. `x` is `[BATCH, 1]`, and so is
/// what comes out. SiLU belongs to the layer that reads, so what it makes is never stored.
fn network(tape: &mut Tape, table: &ParamTable, x: Var) -> Result<Var, TapeError> {
    let mut y = x;
    for (layer, pair) in table.params().chunks(2).enumerate() {
        let [w, b] = [&pair[0], &pair[1]].map(|param| {
            let window = tape.state(&param.name, param.ty(), Arena::Params, param.offset);
            tape.want_grad(window);
            window
        });
        let extras = Extras {
            silu: layer > 0,
            ..Extras::default()
        };
        y = tape.scope(&format!("layer{layer}"), |tape| {
            linear(tape, y, &[Weights { w, b }], extras)
        })?[0];
    }
    Ok(y)
}

/// Weights, gradients, AdamW's moments and the moving average: flat arrays of one size.
fn state(table: &ParamTable) -> Result<State> {
    let mut state = State::default();
    for arena in Arena::ALL {
        let elements = match arena {
            Arena::Counters => COUNTERS,
            _ => table.elements(),
        };
        state.allocate(arena, elements)?;
    }
    table.initialise(7, state.get_mut(Arena::Params)); // A function of the seed 7.
    Ok(state)
}

fn main() -> Result<()> {
    let table = weights();
    let mut tape = Tape::new();
    let x = tape.input("x", TensorType::f32(&[BATCH, 1]));
    let target = tape.input("target", TensorType::f32(&[BATCH, 1]));
    let rates = tape.input("rates", TensorType::f32(&[2]));
    let y = network(&mut tape, &table, x)?;
    let [loss, _each] = mse(&mut tape, y, target)?;

    // Third: the gradient is more nodes, appended in reverse order. Those of the weights are written into
    // Arena::Grads, at the weights' own places.
    tape.backward(&[loss], add::sum)?;

    // Fourth: so is the optimizer. It returns the gradient's norm.
    let adam = AdamWConfig {
        betas: [0.9, 0.999],
        eps: 1e-8,
        weight_decay: 0.0,
        clip: Some(1.0),
    };
    let norm = adamw(&mut tape, table.elements(), rates, adam)?;

    // What the host wants to read after a step is kept; everything else shares its memory.
    tape.keep(loss);
    tape.keep(norm);
    println!("The step, a node a line:\n\n{tape:?}");

    // Fifth: planning gives every tensor a place. From here on nothing is allocated.
    let mut exe = Executable::new(tape, Arc::new(Pool::new(1)?))?;
    println!("{} bytes of activations\n", exe.plan().peak_bytes);

    // Sixth: replay.
    let mut state = state(&table)?;
    let points: Vec<f32> = (0..BATCH).map(|i| i as f32 / 32.0 - 1.0).collect();
    let sines: Vec<f32> = points.iter().map(|x| (3.0 * x).sin()).collect();
    exe.write(x, &points)?;
    exe.write(target, &sines)?;
    exe.write(rates, &[3e-3_f32, 0.99])?; // Learning rate; decay of the average of the weights.
    let mut losses = Vec::new();
    for step in 0..=STEPS {
        exe.run(&mut state, Arena::Params)?;
        losses.push(exe.read(loss)?[0]);
        if step % 50 == 0 {
            let norm = exe.read(norm)?[0];
            println!(
                "step {step:3}: loss {:.6}, gradient {norm:.4}",
                losses[step]
            );
        }
    }
    let [first, last] = [losses[0], losses[STEPS]];
    ensure!(
        last < first / 100.0,
        "the loss went from {first} to {last}; expected less than a hundredth"
    );
    Ok(())
}

#[test]
fn it_learns() {
    main().unwrap();
}
