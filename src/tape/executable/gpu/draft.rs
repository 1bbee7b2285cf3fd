//! A tape on its way to a GPU: what its tensors are stored as, where they lie, what every op launches.

use crate::device::Gpu;
use crate::device::cuda::{
    Access, CudaError, Elem, Kernel, Lowering, Operands, Precision, Request, View, stored,
};
use crate::tape::branch::Branch;
use crate::tape::plan::{Interval, Plan};
use crate::tape::{ARENAS, Arena, DType, Kind, Tape, Var};
use std::collections::{BTreeSet, HashMap};

/// Where memory seems to lie while the tape is planned: apart, and aligned like the real thing.
const NOWHERE: u64 = 1 << 41;

/// Nodes that weights' gradients may lag behind, if the memory that then stays longer is at most this share
/// of what there was without: the first that is.
const LAGS: [usize; 8] = [usize::MAX, 256, 128, 64, 32, 16, 8, 0];
const SHARE: usize = 8;

/// Addresses of everything a program works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bases {
    pub activations: u64,
    pub arenas: [u64; ARENAS],
    /// bf16 copy of the weights, 0 if there is none.
    pub half: u64,
}

/// A tape planned for a GPU before anything is there: what it takes.
pub struct Draft {
    pub plan: Plan,
    pub(super) elems: HashMap<Var, Elem>,
    /// Byte offsets of the memory that ops asked for.
    pub(super) requests: Vec<usize>,
    pub(super) lowering: Lowering,
    pub(super) kernels: BTreeSet<Kernel>,
    pub(super) branch: Branch,
}

impl Draft {
    /// Asks every op what it wants, with invented addresses.
    pub fn new(tape: &Tape, gpu: &Gpu) -> Result<Self, CudaError> {
        let elems = elements(tape, gpu.precision);
        let beside = match gpu.branch {
            true => Branch::new(tape, 0).beside,
            false => Branch::none(tape).beside,
        };
        let mut lowering = Lowering::new(gpu.cuda.clone(), gpu.precision, beside);
        let bytes_of = |var: Var| bytes_of(tape, &elems, var);
        let (first, _) = Plan::with(tape, bytes_of, |i| i, &[]);
        let bases = Bases {
            activations: NOWHERE,
            arenas: std::array::from_fn(|i| (NOWHERE << 1) + ((i as u64) << 36)),
            half: match gpu.precision {
                Precision::Bf16 => NOWHERE << 2,
                _ => 0,
            },
        };
        lower(&mut lowering, tape, &elems, &offsets(tape, &first), &bases)?;
        let launches = lowering.take_launches()?;
        let (branch, plan, requests) = settle(tape, bytes_of, lowering.requests(), gpu.branch);
        Ok(Self {
            plan,
            elems,
            requests,
            lowering,
            kernels: launches.into_iter().map(|l| l.1.kernel).collect(),
            branch,
        })
    }
}

/// Plans with as much lag as memory allows; none, unless `lags`.
fn settle(
    tape: &Tape,
    bytes_of: impl Fn(Var) -> usize + Copy,
    requests: &[Request],
    lags: bool,
) -> (Branch, Plan, Vec<usize>) {
    let plan = |branch: Branch| {
        let (plan, places) = place(tape, bytes_of, requests, &branch);
        (branch, plan, places)
    };
    let in_order = plan(Branch::none(tape));
    let most = in_order.1.peak_bytes + in_order.1.peak_bytes / SHARE;
    let lags = LAGS.iter().filter(|_| lags);
    lags.map(|&lag| plan(Branch::new(tape, lag)))
        .find(|p| p.1.peak_bytes <= most)
        .unwrap_or(in_order)
}

/// Plans tensors and requests: the plan, and the requests' byte offsets.
fn place(
    tape: &Tape,
    bytes_of: impl Fn(Var) -> usize,
    requests: &[Request],
    branch: &Branch,
) -> (Plan, Vec<usize>) {
    let until = |i: usize| branch.until[i];
    // Nodes of the second stream follow each other: one place is enough for what each needs alone.
    let alone = |r: &Request| matches!(r.users[..], [user] if branch.beside[user]);
    let lagging = || requests.iter().filter(|r| alone(r));
    let common = Interval {
        start: lagging().map(|r| r.users[0]).min().unwrap_or(0),
        end: lagging().map(|r| until(r.users[0])).max().unwrap_or(0),
        bytes: lagging().map(|r| r.bytes).max().unwrap_or(0),
    };
    let own = requests.iter().filter(|r| !alone(r)).map(|r| Interval {
        start: r.users[0],
        end: r.users.iter().map(|&u| until(u)).max().unwrap_or(0),
        bytes: r.bytes,
    });
    let extras: Vec<Interval> = std::iter::once(common).chain(own).collect();
    let (plan, offsets) = Plan::with(tape, bytes_of, until, &extras);
    let mut own = offsets[1..].iter();
    let places = requests.iter().map(|r| match alone(r) {
        true => offsets[0],
        false => own.next().copied().unwrap_or_default(),
    });
    (plan, places.collect())
}

/// Bytes of the buffer of root `var` on the device.
pub(super) fn bytes_of(tape: &Tape, elems: &HashMap<Var, Elem>, var: Var) -> usize {
    let elem = elems.get(&var).copied();
    tape.ty(var).len() * elem.map_or(tape.ty(var).dtype.bytes(), Elem::bytes)
}

pub(super) fn is_state(tape: &Tape, var: Var) -> bool {
    matches!(tape.kind(var), Kind::State(..))
}

/// What every f32 buffer is stored as: a function of its shape, and of the op that makes it.
fn elements(tape: &Tape, precision: Precision) -> HashMap<Var, Elem> {
    let mut exact: HashMap<Var, bool> = HashMap::new();
    let mut roots: BTreeSet<Var> = BTreeSet::new();
    for node in tape.nodes() {
        for (i, &output) in node.outputs.iter().enumerate() {
            if tape.root(output) == output {
                exact.insert(output, node.op.exact(i));
            }
        }
        let operands = node.inputs.iter().chain(&node.outputs);
        roots.extend(operands.map(|&v| tape.root(v)));
    }
    roots
        .into_iter()
        .map(|root| {
            let ty = tape.ty(root);
            let elem = match ty.dtype {
                DType::U8 => Elem::U8,
                DType::U32 => Elem::U32,
                DType::F32 if is_state(tape, root) => Elem::F32,
                DType::F32 => {
                    let exact = exact.get(&root).copied().unwrap_or(false);
                    stored(precision, &ty.shape, exact)
                }
            };
            (root, elem)
        })
        .collect()
}

pub(super) fn offsets(tape: &Tape, plan: &Plan) -> HashMap<Var, usize> {
    let nodes = tape.nodes().iter();
    let vars = nodes.flat_map(|n| n.inputs.iter().chain(&n.outputs));
    vars.map(|&v| tape.root(v))
        .filter_map(|root| Some((root, plan.offset(root)?)))
        .collect()
}

/// Asks every op for its launches; what each node reads and writes, but for the memory it asks for.
pub(super) fn lower(
    lowering: &mut Lowering,
    tape: &Tape,
    elems: &HashMap<Var, Elem>,
    offsets: &HashMap<Var, usize>,
    bases: &Bases,
) -> Result<Vec<Vec<Access>>, CudaError> {
    let view = |var: Var| {
        let root = tape.root(var);
        let elem = elems.get(&root).copied().unwrap_or(Elem::F32);
        let layout = tape.layout(var);
        let start = match *tape.kind(var) {
            Kind::State(arena, offset) => bases.arenas[arena as usize] + (offset * 4) as u64,
            _ => bases.activations + offsets.get(&root).copied().unwrap_or_default() as u64,
        };
        View {
            pointer: start + (layout.offset * elem.bytes()) as u64,
            elem,
            shape: layout.shape,
            ld: layout.ld,
            sample: layout.sample_stride,
        }
    };
    let half = |var: Var| match *tape.kind(var) {
        Kind::State(Arena::Params, offset) if bases.half != 0 => Some(View {
            pointer: bases.half + ((offset + tape.layout(var).offset) * 2) as u64,
            elem: Elem::Bf16,
            ..view(var)
        }),
        _ => None,
    };
    let mut accesses = vec![Vec::new(); tape.nodes().len()];
    for (i, node) in tape.nodes().iter().enumerate() {
        if node.op.is_view() {
            continue;
        }
        let operands = Operands {
            inputs: node.inputs.iter().map(|&v| (view(v), v.id())).collect(),
            halves: node.inputs.iter().map(|&v| half(v)).collect(),
            outputs: node.outputs.iter().map(|&v| view(v)).collect(),
            half_outputs: node.outputs.iter().map(|&v| half(v)).collect(),
        };
        accesses[i] = accesses_of(&operands);
        node.op
            .cuda(&mut lowering.call(i, operands))
            .map_err(|missing| CudaError::Unsupported {
                scope: node.scope.clone(),
                op: node.op.name().to_string(),
                what: missing.0,
            })?;
    }
    Ok(accesses)
}

/// What an op does with its operands.
fn accesses_of(operands: &Operands) -> Vec<Access> {
    let inputs = operands.inputs.iter().map(|i| &i.0);
    let read = inputs.chain(operands.halves.iter().flatten());
    let written = operands.outputs.iter();
    let written = written.chain(operands.half_outputs.iter().flatten());
    let read = read.map(|v| Access::view(v, false));
    read.chain(written.map(|v| Access::view(v, true))).collect()
}
