//! The tape: a training step as a list of nodes, recorded once.
//!
//! A node is an op value with its inputs and outputs; backward, clipping, AdamW and the moving
//! average of the weights are nodes like any other. Nothing here computes: [`plan`] gives every
//! tensor a place, [`executable`] runs the nodes.

pub mod backward;
pub mod executable;
pub mod plan;
pub mod state;
pub mod types;

use crate::device::call::Call;
use crate::device::cuda;
use crate::device::view::Layout;
use backward::Backward;
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
pub use types::{DType, Mismatch, TapeError, TensorType};

/// A tensor on the tape: an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Var(u32);

impl Var {
    fn index(self) -> usize {
        self.0 as usize
    }

    /// Its number, which no other tensor of the tape has.
    pub(crate) fn id(self) -> u64 {
        u64::from(self.0)
    }
}

/// A flat buffer that outlives the step, one window per parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(usize)]
pub enum Arena {
    /// Weights (f32 master).
    Params,
    /// Their gradients.
    Grads,
    /// AdamW's first moments.
    AdamM,
    /// AdamW's second moments.
    AdamV,
    /// Moving average of the weights.
    Ema,
    /// Counters that the optimizer keeps (U32).
    Counters,
}

impl Arena {
    /// All of them.
    pub const ALL: [Self; ARENAS] = [
        Self::Params,
        Self::Grads,
        Self::AdamM,
        Self::AdamV,
        Self::Ema,
        Self::Counters,
    ];
}

/// Number of [`Arena`]s.
pub const ARENAS: usize = 6;

/// How a tensor comes to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Made by a node, dead after its last use.
    Temp,
    /// Made by a node and still there after the step.
    Result,
    /// Written by the host before the step.
    Input,
    /// A window of an arena; offset in elements.
    State(Arena, usize),
}

/// Where a tensor lies: in a buffer of its own, or inside another tensor's.
#[derive(Clone, Copy, Debug)]
struct Place {
    root: Var,
    layout: Layout,
}

struct VarInfo {
    ty: TensorType,
    kind: Kind,
    place: Place,
    /// Others see this tensor's memory by dense rows, so it cannot move into a wider buffer.
    pinned: bool,
    name: String,
    wants_grad: bool,
}

/// An op value with its operands.
pub struct Node {
    /// The op.
    pub op: Arc<dyn Op>,
    /// What it reads.
    pub inputs: Vec<Var>,
    /// What it writes.
    pub outputs: Vec<Var>,
    /// Where in the network it stands, such as "down_blocks.1.resnets.0".
    pub scope: String,
}

/// Scratch memory of an op, in f32 numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Workspace {
    /// Shared by all tasks.
    pub shared: usize,
    /// For each worker thread.
    pub per_thread: usize,
}

/// One kind of node: shape rule, gradient rule, cost, and how it runs.
pub trait Op: fmt::Debug + Send + Sync {
    /// Name in listings, errors and profiles.
    fn name(&self) -> &'static str;

    /// Types of the outputs.
    ///
    /// # Errors
    /// The inputs do not fit; found here, when the op is recorded.
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Mismatch>;

    /// Records the ops that turn the outputs' gradients into the inputs'. Called once, after every
    /// consumer of the outputs; by default the op has no gradient.
    ///
    /// # Errors
    /// A recorded op's inputs do not fit.
    fn vjp(&self, _backward: &mut Backward<'_>, _node: &NodeIo) -> Result<(), TapeError> {
        Ok(())
    }

    /// True if it also takes words or bytes; its shape rule checks which. All others take f32 only.
    fn takes_words(&self) -> bool {
        false
    }

    /// True if gradients flow through it.
    fn differentiable(&self) -> bool {
        false
    }

    /// True if the outputs are the inputs' own memory and running it does nothing.
    fn is_view(&self) -> bool {
        false
    }

    /// Scratch that [`Op::cpu`] needs for these operand types.
    fn workspace(&self, _inputs: &[&TensorType], _outputs: &[&TensorType]) -> Workspace {
        Workspace::default()
    }

    /// Products and sums of the convolutions, linear layers and attention products, as FLOPs.
    fn flops(&self, _inputs: &[&TensorType], _outputs: &[&TensorType]) -> u64 {
        0
    }

    /// Runs it on the CPU.
    fn cpu(&self, call: &Call<'_>);

    /// Says which kernels to launch on a CUDA device.
    ///
    /// # Errors
    /// It has no form for this device or precision.
    fn cuda(&self, _call: &mut cuda::Call<'_>) -> Result<(), cuda::Unsupported> {
        Err(cuda::Unsupported("there is no CUDA kernel for it".into()))
    }

    /// True if output `i` is stored as f32 even where maps are stored as bf16.
    fn exact(&self, _i: usize) -> bool {
        false
    }
}

/// Operands of a node, for gradient rules.
#[derive(Clone, Debug)]
pub struct NodeIo {
    /// What it reads.
    pub inputs: Vec<Var>,
    /// What it writes.
    pub outputs: Vec<Var>,
}

/// The list of nodes in execution order.
#[derive(Default)]
pub struct Tape {
    vars: Vec<VarInfo>,
    nodes: Vec<Node>,
    scope: Vec<String>,
    /// Windows of the gradient arena that are written already, by offset.
    written: HashSet<usize>,
}

impl Tape {
    /// An empty tape.
    pub fn new() -> Self {
        Self::default()
    }

    /// A tensor that the host writes before each step.
    pub fn input(&mut self, name: &str, ty: TensorType) -> Var {
        self.declare(name.to_string(), ty, Kind::Input)
    }

    /// The window of `arena` that starts at element `offset`.
    pub fn state(&mut self, name: &str, ty: TensorType, arena: Arena, offset: usize) -> Var {
        self.declare(name.to_string(), ty, Kind::State(arena, offset))
    }

    /// Asks for the gradient of `var`, an input or a window of the parameters.
    pub fn want_grad(&mut self, var: Var) {
        self.vars[var.index()].wants_grad = true;
    }

    /// Keeps `var` until the step is over, so that the host can read it.
    pub fn keep(&mut self, var: Var) {
        let root = self.vars[var.index()].place.root;
        if self.vars[root.index()].kind == Kind::Temp {
            self.vars[root.index()].kind = Kind::Result;
        }
    }

    /// Type of `var`.
    pub fn ty(&self, var: Var) -> &TensorType {
        &self.vars[var.index()].ty
    }

    /// Kind of `var`'s memory.
    pub fn kind(&self, var: Var) -> &Kind {
        let root = self.vars[var.index()].place.root;
        &self.vars[root.index()].kind
    }

    /// Name of `var`: an input's or a window's own, otherwise its scope and op.
    pub fn name(&self, var: Var) -> &str {
        &self.vars[var.index()].name
    }

    /// Nodes in execution order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Inputs, in the order they were declared.
    pub fn inputs(&self) -> impl Iterator<Item = Var> + '_ {
        self.all()
            .filter(|&v| *self.kind(v) == Kind::Input && self.root(v) == v)
    }

    /// Runs `record` with `name` added to the scope.
    ///
    /// # Errors
    /// Those of `record`.
    pub fn scope<T, E>(
        &mut self,
        name: &str,
        record: impl FnOnce(&mut Self) -> Result<T, E>,
    ) -> Result<T, E> {
        self.scope.push(name.to_string());
        let result = record(self);
        self.scope.pop();
        result
    }

    /// Records `op`; returns its outputs.
    ///
    /// # Errors
    /// The op refuses the inputs' types; the error names the scope.
    pub fn push(&mut self, op: impl Op + 'static, inputs: &[Var]) -> Result<Vec<Var>, TapeError> {
        let types: Vec<&TensorType> = inputs.iter().map(|&v| self.ty(v)).collect();
        let outputs = infer(&op, &types).map_err(|m| self.error(op.name(), m))?;
        let name = self.scope_name();
        let outputs = outputs
            .into_iter()
            .map(|ty| self.declare(format!("{name}/{}", op.name()), ty, Kind::Temp))
            .collect();
        Ok(self.push_into(op, inputs, outputs))
    }

    /// Records an op that writes existing tensors.
    pub fn push_into(
        &mut self,
        op: impl Op + 'static,
        inputs: &[Var],
        outputs: Vec<Var>,
    ) -> Vec<Var> {
        self.nodes.push(Node {
            op: Arc::new(op),
            inputs: inputs.to_vec(),
            outputs: outputs.clone(),
            scope: self.scope_name(),
        });
        outputs
    }

    /// [`Tape::push`] for an op with one output.
    ///
    /// # Errors
    /// As for [`Tape::push`].
    pub fn push_one(&mut self, op: impl Op + 'static, inputs: &[Var]) -> Result<Var, TapeError> {
        Ok(self.push(op, inputs)?[0])
    }

    /// The view of `var` as `ty`, `offset` elements in, with the given strides; no node.
    pub(crate) fn view(&mut self, var: Var, ty: TensorType, layout: Layout) -> Var {
        let root = self.vars[var.index()].place.root;
        let name = self.vars[var.index()].name.clone();
        let view = self.declare(name, ty, Kind::Temp);
        self.vars[view.index()].place = Place { root, layout };
        self.vars[root.index()].pinned = true;
        view
    }

    /// Moves `part` into `whole`, a tensor with a buffer of its own.
    ///
    /// # Errors
    /// `part` is not a temporary, or was placed or viewed before.
    pub(crate) fn place(&mut self, part: Var, whole: Var, layout: Layout) -> Result<(), Mismatch> {
        let info = &self.vars[part.index()];
        if info.kind != Kind::Temp || info.pinned || info.place.root != part {
            return Err(Mismatch::new(
                "a part of a concatenation",
                "a tensor made by a node, in no other buffer and with no view of it",
                &info.name,
            ));
        }
        let root = self.vars[whole.index()].place.root;
        self.vars[part.index()].place = Place { root, layout };
        self.vars[root.index()].pinned = true;
        Ok(())
    }

    /// A new temporary with a buffer of its own.
    pub(crate) fn temp(&mut self, ty: TensorType) -> Var {
        let name = self.scope_name();
        self.declare(name, ty, Kind::Temp)
    }

    /// The tensor whose buffer holds `var`.
    pub fn root(&self, var: Var) -> Var {
        self.vars[var.index()].place.root
    }

    /// Where `var` lies in its root's buffer.
    pub fn layout(&self, var: Var) -> Layout {
        self.vars[var.index()].place.layout
    }

    fn wants_grad(&self, var: Var) -> bool {
        self.vars[var.index()].wants_grad
    }

    fn all(&self) -> impl Iterator<Item = Var> + use<> {
        (0..self.vars.len() as u32).map(Var)
    }

    fn declare(&mut self, name: String, ty: TensorType, kind: Kind) -> Var {
        let var = Var(self.vars.len() as u32);
        let layout = Layout::dense(ty.nhwc());
        self.vars.push(VarInfo {
            ty,
            kind,
            place: Place { root: var, layout },
            pinned: false,
            name,
            wants_grad: false,
        });
        var
    }

    fn scope_name(&self) -> String {
        self.scope.join(".")
    }

    /// Adds op and scope to a shape rule's complaint.
    pub(crate) fn error(&self, op: &'static str, m: Mismatch) -> TapeError {
        TapeError {
            scope: self.scope_name(),
            op,
            what: m.what,
            expected: m.expected,
            found: m.found,
        }
    }

    fn label(&self, var: Var) -> String {
        let info = &self.vars[var.index()];
        match info.kind {
            Kind::State(..) | Kind::Input => info.name.clone(),
            Kind::Temp | Kind::Result => format!("%{}", var.0),
        }
    }
}

/// The op's shape rule, between checks that hold for all: tensors have elements, and their type.
fn infer(op: &impl Op, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Mismatch> {
    if inputs.is_empty() {
        return Err(Mismatch::new("operands", "at least one", 0));
    }
    for ty in inputs {
        ty.check()?;
        if !op.takes_words() {
            Mismatch::check("element type", DType::F32, ty.dtype)?;
        }
    }
    let outputs = op.infer(inputs)?;
    if outputs.is_empty() {
        return Err(Mismatch::new("results", "at least one", 0));
    }
    outputs.iter().try_for_each(TensorType::check)?;
    Ok(outputs)
}

impl fmt::Debug for Tape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, node) in self.nodes.iter().enumerate() {
            let outputs: Vec<String> = node
                .outputs
                .iter()
                .map(|&v| format!("{}: {:?}", self.label(v), self.ty(v)))
                .collect();
            let inputs: Vec<String> = node.inputs.iter().map(|&v| self.label(v)).collect();
            writeln!(
                f,
                "{i:4}  {:<34} {} = {}({})",
                node.scope,
                outputs.join(", "),
                node.op.name(),
                inputs.join(", ")
            )?;
        }
        Ok(())
    }
}
