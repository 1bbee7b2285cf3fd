//! A program on a GPU, node by node beside the CPU's ops: where do they part?

use super::cpu::CpuEngine;
use super::{DeviceError, Engine, Executable};
use crate::tape::plan::Plan;
use crate::tape::state::State;
use crate::tape::{ARENAS, Arena, DType, Kind, Tape, Var};

/// How far one output of a node on the GPU is from what the CPU's op makes of the same inputs.
#[derive(Clone, Debug)]
pub struct NodeError {
    /// Where in the network.
    pub scope: String,
    /// Name of the op.
    pub op: &'static str,
    /// Number of the output.
    pub output: usize,
    /// Length of the difference, in lengths of the CPU's result.
    pub relative: f64,
    /// The element that is furthest off: its number in the dense tensor, the CPU's value, the GPU's.
    pub worst: (usize, f32, f32),
}

/// Numbers of a tensor, dense.
#[derive(Clone, Debug)]
pub(super) enum Numbers {
    F32(Vec<f32>),
    Raw(Vec<u8>),
}

impl Executable {
    /// Runs every node once on the GPU, and on the CPU from the same inputs; the distance of each output of
    /// each node, in execution order. On the CPU there is nothing to compare: it runs the program.
    ///
    /// # Errors
    /// The device's; not enough memory on the host.
    pub fn run_checked(
        &mut self,
        state: &mut State,
        weights: Arena,
    ) -> Result<Vec<NodeError>, DeviceError> {
        let Engine::Gpu(gpu) = &mut self.engine else {
            self.run(state, weights)?;
            return Ok(Vec::new());
        };
        let tape = &self.tape;
        let plan = Plan::new(tape, self.pool.threads());
        let mut cpu = CpuEngine::new(tape, &plan, self.pool.clone())?;
        let mut shadow = shadow(tape)?;
        let mut errors = Vec::new();
        gpu.begin_checked(tape, state, weights)?;
        for (i, node) in tape.nodes().iter().enumerate() {
            if node.op.is_view() {
                continue;
            }
            // What a node adds to is an input too.
            for &var in node.inputs.iter().chain(&node.outputs) {
                let input = node.inputs.contains(&var);
                if input || matches!(tape.kind(var), Kind::State(..)) {
                    let numbers = gpu.numbers(tape, state, weights, var)?;
                    put(tape, &plan, &mut cpu, &mut shadow, var, &numbers);
                }
            }
            cpu.run_node(tape, &mut shadow, i);
            gpu.run_node(i)?;
            for (output, &var) in node.outputs.iter().enumerate() {
                let got = gpu.numbers(tape, state, weights, var)?;
                let want = take(tape, &plan, &cpu, &shadow, var);
                if let (Numbers::F32(got), Numbers::F32(want)) = (&got, &want) {
                    let (relative, worst) = distance(got, want);
                    errors.push(NodeError {
                        scope: node.scope.clone(),
                        op: node.op.name(),
                        output,
                        relative,
                        worst,
                    });
                }
            }
        }
        Ok(errors)
    }
}

/// Host arenas large enough for everything that `tape` addresses.
fn shadow(tape: &Tape) -> Result<State, DeviceError> {
    let mut sizes = [0; ARENAS];
    let nodes = tape.nodes().iter();
    for &var in nodes.flat_map(|n| n.inputs.iter().chain(&n.outputs)) {
        if let Kind::State(arena, offset) = *tape.kind(var) {
            let size = &mut sizes[arena as usize];
            *size = (*size).max(offset + tape.layout(var).end());
        }
    }
    let mut state = State::default();
    for arena in Arena::ALL {
        if sizes[arena as usize] > 0 {
            state.allocate(arena, sizes[arena as usize])?;
        }
    }
    Ok(state)
}

fn put(
    tape: &Tape,
    plan: &Plan,
    cpu: &mut CpuEngine,
    shadow: &mut State,
    var: Var,
    numbers: &Numbers,
) {
    let layout = tape.layout(var);
    match (*tape.kind(var), numbers) {
        (Kind::State(arena, offset), Numbers::F32(values)) => {
            let at = offset + layout.offset;
            shadow.get_mut::<f32>(arena)[at..at + values.len()].copy_from_slice(values);
        }
        (Kind::State(arena, offset), Numbers::Raw(bytes)) => {
            let at = 4 * (offset + layout.offset);
            shadow.get_mut::<u8>(arena)[at..at + bytes.len()].copy_from_slice(bytes);
        }
        (_, numbers) => {
            let offset = plan.offset(tape.root(var)).unwrap_or_default();
            match numbers {
                Numbers::F32(values) => cpu.put(offset, layout, values),
                Numbers::Raw(bytes) => cpu.write(offset, bytes),
            }
        }
    }
}

pub(super) fn take(tape: &Tape, plan: &Plan, cpu: &CpuEngine, shadow: &State, var: Var) -> Numbers {
    if tape.ty(var).dtype != DType::F32 {
        return Numbers::Raw(Vec::new());
    }
    let layout = tape.layout(var);
    Numbers::F32(match *tape.kind(var) {
        Kind::State(arena, offset) => {
            let at = offset + layout.offset;
            shadow.get::<f32>(arena)[at..at + layout.len()].to_vec()
        }
        _ => {
            let offset = plan.offset(tape.root(var)).unwrap_or_default();
            cpu.read(offset, layout)
        }
    })
}

/// Relative length of the difference, and the element that is furthest off. Values that neither side can
/// give a number count as equal.
fn distance(got: &[f32], want: &[f32]) -> (f64, (usize, f32, f32)) {
    let (mut difference, mut length) = (0.0, 0.0);
    let mut worst = (0, 0.0, 0.0);
    let mut largest = -1.0;
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        let same = g.to_bits() == w.to_bits() || (g.is_nan() && w.is_nan());
        let d = if same {
            0.0
        } else {
            (f64::from(g) - f64::from(w)).abs()
        };
        difference += d * d;
        length += f64::from(w) * f64::from(w);
        if d.is_nan() || d > largest {
            largest = if d.is_nan() { f64::INFINITY } else { d };
            worst = (i, w, g);
        }
    }
    let relative = if difference == 0.0 {
        0.0
    } else {
        (difference / length.max(f64::MIN_POSITIVE)).sqrt()
    };
    (relative, worst)
}
