//! A planned tape on the CPU: nodes one after another, each on all threads, without allocating.

use super::{DeviceError, OutOfMemory};
use crate::device::call::{Call, MAX_OUTPUTS, Operand};
use crate::device::memory::Buffer;
use crate::device::pool::Pool;
use crate::device::view::{Layout, Rows};
use crate::tape::plan::Plan;
use crate::tape::state::State;
use crate::tape::{ARENAS, Arena, Kind, Tape, Var};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Operands of a node, resolved.
struct Step {
    node: usize,
    inputs: Vec<Operand>,
    outputs: Vec<Operand>,
    workspaces: [Operand; 2],
}

/// Number of the activation arena in the list of buffers, after the state arenas.
const ACTIVATIONS: usize = ARENAS;

/// The activations, and where each node finds its operands.
pub(super) struct CpuEngine {
    arena: Buffer,
    steps: Vec<Step>,
    pool: Arc<Pool>,
}

impl CpuEngine {
    /// Allocates the activations that `plan` asks for.
    pub fn new(tape: &Tape, plan: &Plan, pool: Arc<Pool>) -> Result<Self, DeviceError> {
        let arena = Buffer::new(plan.peak_bytes).ok_or(OutOfMemory {
            what: "the step's activations",
            bytes: plan.peak_bytes,
        })?;
        let steps: Vec<Step> = (0..tape.nodes().len())
            .map(|node| resolve(tape, plan, node))
            .collect();
        for step in &steps {
            check(tape, plan, step);
        }
        Ok(Self { arena, steps, pool })
    }

    /// Runs every node; `report` hears how long each took.
    pub fn run(
        &mut self,
        tape: &Tape,
        state: &mut State,
        weights: Arena,
        report: impl FnMut(usize, Duration) + Send,
    ) {
        self.run_some(tape, state, weights, 0..self.steps.len(), report);
    }

    /// Runs node number `node` alone.
    pub fn run_node(&mut self, tape: &Tape, state: &mut State, node: usize) {
        self.run_some(tape, state, Arena::Params, node..node + 1, |_, _| ());
    }

    fn run_some(
        &mut self,
        tape: &Tape,
        state: &mut State,
        weights: Arena,
        nodes: std::ops::Range<usize>,
        mut report: impl FnMut(usize, Duration) + Send,
    ) {
        state.use_host();
        let mut buffers = Pointers([std::ptr::null_mut(); ARENAS + 1]);
        for (i, slot) in buffers.0[..ARENAS].iter_mut().enumerate() {
            *slot = state.host(i).map_or(std::ptr::null_mut(), Buffer::as_ptr);
        }
        buffers.0[Arena::Params as usize] = buffers.0[weights as usize];
        buffers.0[ACTIVATIONS] = self.arena.as_ptr();
        self.check_state(state, weights);
        let (steps, pool) = (&self.steps[nodes], &self.pool);
        let buffers = &buffers;
        pool.enter(|| {
            for step in steps {
                let start = Instant::now();
                let operands = [step.inputs.as_slice(), step.outputs.as_slice()];
                // SAFETY: `new` checked that operands lie in their buffers and outputs overlap
                // nothing; `check_state` that the state buffers are long enough; &mut self and
                // &mut state keep everybody else away; nodes run one after another.
                let call = unsafe { Call::new(pool, &buffers.0, operands, step.workspaces) };
                tape.nodes()[step.node].op.cpu(&call);
                report(step.node, start.elapsed());
            }
        });
    }

    /// Panics if the tape addresses more state than there is: the caller mixed two models.
    fn check_state(&self, state: &State, weights: Arena) {
        for step in &self.steps {
            for operand in step.inputs.iter().chain(&step.outputs) {
                if operand.buffer == ACTIVATIONS {
                    continue;
                }
                let params = operand.buffer == Arena::Params as usize;
                let arena = if params {
                    weights as usize
                } else {
                    operand.buffer
                };
                let bytes = state.host(arena).map_or(0, Buffer::bytes);
                assert!(
                    operand.layout.end() * operand.element <= bytes,
                    "state arena {arena} is too short"
                );
            }
        }
    }

    /// Copies `bytes` to byte `offset` of the activations.
    pub fn write(&mut self, offset: usize, bytes: &[u8]) {
        self.arena.as_mut_slice::<u8>()[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    /// Writes the numbers of the tensor with this layout whose root lies at byte `offset`.
    pub fn put(&mut self, offset: usize, layout: Layout, values: &[f32]) {
        let arena = &mut self.arena.as_mut_slice::<f32>()[offset / 4..];
        let [n, h, w, c] = layout.shape;
        for (row, values) in values.chunks_exact(c.max(1)).enumerate().take(n * h * w) {
            let (i, r) = (row / (h * w), row % (h * w));
            let at = layout.offset + i * layout.sample_stride + r * layout.ld;
            arena[at..at + c].copy_from_slice(values);
        }
    }

    /// The numbers of the tensor with this layout whose root lies at byte `offset`.
    pub fn read(&self, offset: usize, layout: Layout) -> Vec<f32> {
        // SAFETY: planned inside the arena; &self keeps writers away.
        let rows = unsafe { Rows::new(self.arena.as_ptr().add(offset).cast(), layout) };
        let mut out = Vec::with_capacity(rows.n() * rows.rows() * rows.cols());
        for n in 0..rows.n() {
            for r in 0..rows.rows() {
                out.extend_from_slice(rows.row(n, r));
            }
        }
        out
    }

    /// Fills the activations with NaN.
    pub fn poison(&mut self) {
        self.arena.as_mut_slice::<u32>().fill(f32::NAN.to_bits());
    }
}

struct Pointers([*mut u8; ARENAS + 1]);

// SAFETY: handed to the one worker that runs the nodes, while `run` holds both borrows.
unsafe impl Sync for Pointers {}

fn resolve(tape: &Tape, plan: &Plan, node: usize) -> Step {
    let operand = |&var: &Var| {
        let element = tape.ty(var).dtype.bytes();
        match *tape.kind(var) {
            Kind::State(arena, offset) => Operand {
                buffer: arena as usize,
                byte: offset * element,
                layout: tape.layout(var),
                element,
            },
            _ => Operand {
                buffer: ACTIVATIONS,
                byte: plan.offset(tape.root(var)).unwrap_or_default(),
                layout: tape.layout(var),
                element,
            },
        }
    };
    let workspace = |&(byte, length): &(usize, usize)| Operand {
        buffer: ACTIVATIONS,
        byte,
        layout: Layout::dense([1, 1, 1, length]),
        element: 4,
    };
    let [shared, scratch] = &plan.workspaces[node];
    Step {
        node,
        inputs: tape.nodes()[node].inputs.iter().map(operand).collect(),
        outputs: tape.nodes()[node].outputs.iter().map(operand).collect(),
        workspaces: [workspace(shared), workspace(scratch)],
    }
}

/// The promises of `Call::new`, checked once per node.
fn check(tape: &Tape, plan: &Plan, step: &Step) {
    let node = &tape.nodes()[step.node];
    let label = || format!("{} {}", node.scope, node.op.name());
    assert!(
        step.outputs.len() <= MAX_OUTPUTS,
        "{}: too many outputs",
        label()
    );
    let written: Vec<&Operand> = step.outputs.iter().chain(&step.workspaces).collect();
    for (i, a) in written.iter().enumerate() {
        if node.op.is_view() {
            break;
        }
        for b in written[i + 1..].iter().copied().chain(&step.inputs) {
            assert!(!a.overlaps(b), "{}: an output overlaps an operand", label());
        }
    }
    for o in written.into_iter().chain(&step.inputs) {
        if o.buffer == ACTIVATIONS {
            let end = o.byte + o.layout.end() * o.element;
            assert!(
                end <= plan.peak_bytes,
                "{}: an operand lies outside the arena",
                label()
            );
        }
    }
}
