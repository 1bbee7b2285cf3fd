//! A planned tape with its memory: runs a step as often as asked, without allocating.

use super::plan::Plan;
use super::{ARENAS, Arena, Kind, Tape, Var};
use crate::device::call::{Call, MAX_OUTPUTS, Operand};
use crate::device::memory::Buffer;
use crate::device::pool::Pool;
use crate::device::view::{Layout, Rows};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// State that outlives steps: weights, gradients, moments, average, counters.
#[derive(Default)]
pub struct State {
    buffers: [Option<Buffer>; ARENAS],
}

/// The system has no memory left for a buffer.
#[derive(Debug, Clone, thiserror::Error)]
#[error("out of memory: {what} needs {bytes} bytes; use a smaller batch or preset")]
pub struct OutOfMemory {
    /// What the buffer is for.
    pub what: &'static str,
    /// Its size.
    pub bytes: usize,
}

impl State {
    /// Adds a zeroed buffer of `elements` 4-byte numbers.
    ///
    /// # Errors
    /// The system has no such memory.
    pub fn allocate(&mut self, arena: Arena, elements: usize) -> Result<(), OutOfMemory> {
        let bytes = elements * 4;
        let buffer = Buffer::new(bytes).ok_or(OutOfMemory {
            what: "the parameter arenas",
            bytes,
        })?;
        self.buffers[arena as usize] = Some(buffer);
        Ok(())
    }

    /// The numbers of `arena`; empty if it was never allocated.
    pub fn get<T: bytemuck::Pod>(&self, arena: Arena) -> &[T] {
        self.buffers[arena as usize]
            .as_ref()
            .map_or(&[], Buffer::as_slice)
    }

    /// The numbers of `arena`; empty if it was never allocated.
    pub fn get_mut<T: bytemuck::Pod>(&mut self, arena: Arena) -> &mut [T] {
        self.buffers[arena as usize]
            .as_mut()
            .map_or(&mut [], Buffer::as_mut_slice)
    }
}

/// Operands of a node, resolved.
struct Step {
    node: usize,
    inputs: Vec<Operand>,
    outputs: Vec<Operand>,
    workspaces: [Operand; 2],
}

/// A tape ready to run on the CPU.
pub struct Executable {
    tape: Tape,
    plan: Plan,
    arena: Buffer,
    steps: Vec<Step>,
    pool: Arc<Pool>,
}

/// Number of the activation arena in the list of buffers, after the state arenas.
const ACTIVATIONS: usize = ARENAS;

impl Executable {
    /// Plans `tape` and allocates its activations.
    ///
    /// # Errors
    /// The system has not enough memory.
    ///
    /// # Panics
    /// If the tape is malformed: an op writes what it reads, or has too many outputs.
    pub fn new(tape: Tape, pool: Arc<Pool>) -> Result<Self, OutOfMemory> {
        let plan = Plan::new(&tape, pool.threads());
        let what = "the step's activations";
        let arena = Buffer::new(plan.peak_bytes).ok_or(OutOfMemory {
            what,
            bytes: plan.peak_bytes,
        })?;
        let steps: Vec<Step> = (0..tape.nodes().len())
            .map(|node| resolve(&tape, &plan, node))
            .collect();
        for step in &steps {
            check(&tape, &plan, step);
        }
        Ok(Self {
            tape,
            plan,
            arena,
            steps,
            pool,
        })
    }

    /// The tape.
    pub fn tape(&self) -> &Tape {
        &self.tape
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The worker threads.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Runs every node once. `weights` says which arena the parameters are read from: the weights
    /// themselves, or their moving average.
    pub fn run(&mut self, state: &mut State, weights: Arena) {
        self.run_nodes(state, weights, |_, _| ());
    }

    /// [`Executable::run`], and the time each node took, in execution order.
    pub fn run_timed(&mut self, state: &mut State, weights: Arena) -> Vec<Duration> {
        let mut times = vec![Duration::ZERO; self.steps.len()];
        self.run_nodes(state, weights, |node, time| times[node] = time);
        times
    }

    fn run_nodes(
        &mut self,
        state: &mut State,
        weights: Arena,
        mut report: impl FnMut(usize, Duration) + Send,
    ) {
        let mut buffers = Pointers([std::ptr::null_mut(); ARENAS + 1]);
        for (slot, buffer) in buffers.0.iter_mut().zip(&state.buffers) {
            *slot = buffer.as_ref().map_or(std::ptr::null_mut(), Buffer::as_ptr);
        }
        buffers.0[Arena::Params as usize] = buffers.0[weights as usize];
        buffers.0[ACTIVATIONS] = self.arena.as_ptr();
        self.check_state(state, weights);
        let (tape, steps, pool) = (&self.tape, &self.steps, &self.pool);
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
                let bytes = state.buffers[arena].as_ref().map_or(0, Buffer::bytes);
                assert!(
                    operand.layout.end() * operand.element <= bytes,
                    "state arena {arena} is too short"
                );
            }
        }
    }

    /// Copies `data` into input `var`.
    ///
    /// # Panics
    /// If `var` is not an input of the tape or the sizes differ.
    pub fn write<T: bytemuck::Pod>(&mut self, var: Var, data: &[T]) {
        assert_eq!(
            *self.tape.kind(var),
            Kind::Input,
            "{} is not an input",
            self.tape.name(var)
        );
        let bytes: &[u8] = bytemuck::cast_slice(data);
        assert_eq!(
            bytes.len(),
            self.tape.ty(var).bytes(),
            "size of {}",
            self.tape.name(var)
        );
        if let Some(offset) = self.plan.offset(var) {
            self.arena.as_mut_slice::<u8>()[offset..offset + bytes.len()].copy_from_slice(bytes);
        }
    }

    /// The f32 numbers of `var` after a run, densely packed; `var` was kept or is an input.
    ///
    /// # Panics
    /// If the plan gave `var`'s memory to somebody else.
    pub fn read(&self, var: Var) -> Vec<f32> {
        let root = self.tape.root(var);
        assert!(
            matches!(self.tape.kind(root), Kind::Result | Kind::Input),
            "{} was not kept",
            self.tape.name(var)
        );
        let offset = self.plan.offset(root).unwrap_or_default();
        // SAFETY: planned inside the arena; &self keeps writers away.
        let rows = unsafe {
            Rows::new(
                self.arena.as_ptr().add(offset).cast(),
                self.tape.layout(var),
            )
        };
        let mut out = Vec::with_capacity(rows.n() * rows.rows() * rows.cols());
        for n in 0..rows.n() {
            for r in 0..rows.rows() {
                out.extend_from_slice(rows.row(n, r));
            }
        }
        out
    }

    /// Fills the activation arena with NaN: whatever reads before it writes shows.
    pub fn poison(&mut self) {
        self.arena.as_mut_slice::<u32>().fill(f32::NAN.to_bits());
    }
}

struct Pointers([*mut u8; ARENAS + 1]);

// SAFETY: handed to the one worker that runs the nodes, while `run_nodes` holds both borrows.
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
