//! Runs of a few nodes without gradients, for ops that no program has.

use super::compare::same_bits;
use crate::on_devices;
use gmmk::tape::executable::Executable;
use gmmk::tape::state::State;
use gmmk::tape::{Arena, Tape, Var};

/// What the host writes into an input.
#[derive(Clone)]
pub enum Data {
    F32(Vec<f32>),
    U32(Vec<u32>),
    U8(Vec<u8>),
}

/// A recorded tape: inputs with their values, and what is read back.
pub struct Recorded {
    pub inputs: Vec<(Var, Data)>,
    pub outputs: Vec<Var>,
}

/// Runs what `record` records twice on every device over poisoned memory; all results must
/// have the same bits. Words come back as the floats that have their bits.
pub fn outputs(record: impl Fn(&mut Tape) -> Recorded) -> Vec<Vec<f32>> {
    let mut runs: Vec<Vec<Vec<f32>>> = Vec::new();
    on_devices(|device| {
        let mut tape = Tape::new();
        let recorded = record(&mut tape);
        for &output in &recorded.outputs {
            tape.keep(output);
        }
        let mut executable = Executable::new(tape, device).unwrap();
        for _ in 0..2 {
            executable.poison().unwrap();
            for (var, data) in &recorded.inputs {
                match data {
                    Data::F32(data) => executable.write(*var, data).unwrap(),
                    Data::U32(data) => executable.write(*var, data).unwrap(),
                    Data::U8(data) => executable.write(*var, data).unwrap(),
                }
            }
            executable
                .run(&mut State::default(), Arena::Params)
                .unwrap();
            runs.push(
                recorded
                    .outputs
                    .iter()
                    .map(|&o| executable.read(o).unwrap())
                    .collect(),
            );
        }
    });
    for (i, run) in runs.iter().enumerate() {
        for (a, b) in runs[0].iter().zip(run) {
            same_bits(a, b).unwrap_or_else(|e| panic!("run {i}: {e}"));
        }
    }
    runs.swap_remove(0)
}
