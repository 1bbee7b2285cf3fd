//! A program node by node until a number is not finite: where did it begin?

use super::checked::{Numbers, take};
use super::{DeviceError, Engine, Executable};
use crate::tape::state::State;
use crate::tape::{Arena, Kind, Tape, Var};
use std::fmt;

/// The first tensor of a program that holds NaN or infinity.
#[derive(Clone, Debug, PartialEq)]
pub struct NotFinite {
    /// Where in the network.
    pub scope: String,
    /// Name of the op that made it, or that read it if it is a state tensor.
    pub op: &'static str,
    /// Name of the state tensor, or number of the output.
    pub tensor: String,
    /// Values that are not finite.
    pub count: usize,
    /// All values.
    pub len: usize,
    /// The first of them: its number in the dense tensor, and the value.
    pub first: (usize, f32),
}

impl fmt::Display for NotFinite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (at, value) = self.first;
        write!(
            f,
            "{} {}, {}: {} of {} values, the first {value} at {at}",
            self.scope, self.op, self.tensor, self.count, self.len
        )
    }
}

impl Executable {
    /// Runs the nodes one by one up to the first that makes, or is given by the state, a number that is
    /// not finite; `None` if there is none. Of the state only gradients are written: the program is left
    /// before it updates anything else. For looking into a step, not for speed.
    ///
    /// # Errors
    /// The device's.
    pub fn first_not_finite(
        &mut self,
        state: &mut State,
        weights: Arena,
    ) -> Result<Option<NotFinite>, DeviceError> {
        if let Engine::Gpu(gpu) = &mut self.engine {
            gpu.begin_checked(&self.tape, state, weights)?;
        }
        for i in 0..self.tape.nodes().len() {
            let (inputs, outputs) = (
                self.tape.nodes()[i].inputs.clone(),
                self.tape.nodes()[i].outputs.clone(),
            );
            if outputs.iter().any(|&var| updates(&self.tape, var)) {
                break;
            }
            if self.tape.nodes()[i].op.is_view() {
                continue;
            }
            for &var in inputs.iter().filter(|&&var| is_state(&self.tape, var)) {
                let name = format!("state {}", self.tape.name(var));
                if let Some(found) = self.look(state, weights, i, var, name)? {
                    return Ok(Some(found));
                }
            }
            match &mut self.engine {
                Engine::Cpu(cpu) => cpu.run_node(&self.tape, state, i),
                Engine::Gpu(gpu) => gpu.run_node(i)?,
            }
            for (number, &var) in outputs.iter().enumerate() {
                let name = match is_state(&self.tape, var) {
                    true => format!("gradient {}", self.tape.name(var)),
                    false => format!("output {number}"),
                };
                if let Some(found) = self.look(state, weights, i, var, name)? {
                    return Ok(Some(found));
                }
            }
        }
        Ok(None)
    }

    /// What is not finite in `var`, which node number `node` made or reads.
    fn look(
        &self,
        state: &State,
        weights: Arena,
        node: usize,
        var: Var,
        tensor: String,
    ) -> Result<Option<NotFinite>, DeviceError> {
        let numbers = match &self.engine {
            Engine::Cpu(cpu) => take(&self.tape, &self.plan, cpu, state, var),
            Engine::Gpu(gpu) => gpu.numbers(&self.tape, state, weights, var)?,
        };
        let Numbers::F32(values) = numbers else {
            return Ok(None);
        };
        let Some(at) = values.iter().position(|v| !v.is_finite()) else {
            return Ok(None);
        };
        let node = &self.tape.nodes()[node];
        Ok(Some(NotFinite {
            scope: node.scope.clone(),
            op: node.op.name(),
            tensor,
            count: values.iter().filter(|v| !v.is_finite()).count(),
            len: values.len(),
            first: (at, values[at]),
        }))
    }
}

fn is_state(tape: &Tape, var: Var) -> bool {
    matches!(tape.kind(var), Kind::State(..))
}

/// Whether a node that writes `var` changes more than gradients.
fn updates(tape: &Tape, var: Var) -> bool {
    matches!(tape.kind(var), Kind::State(arena, _) if *arena != Arena::Grads)
}
