//! A planned tape on a CUDA device: launches made once, replayed as a graph.

use super::DeviceError;
use super::checked::Numbers;
use crate::device::Gpu;
use crate::device::cuda::{
    Args, CudaError, DeviceBuffer, Elem, Kernel, Launch, Lowering, Operands, Precision, Program,
    Returns, Staging, View, stored,
};
use crate::device::memory::align_up;
use crate::device::view::Layout;
use crate::tape::plan::{Interval, Plan};
use crate::tape::state::{DeviceState, State};
use crate::tape::{ARENAS, Arena, DType, Kind, Tape, Var};
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

/// Where memory seems to lie while the tape is planned: apart, and aligned like the real thing.
const NOWHERE: u64 = 1 << 41;

/// The activations on the device, and the program that works on them.
pub(super) struct GpuEngine {
    gpu: Gpu,
    arena: DeviceBuffer,
    staging: Staging,
    returns: Option<Returns>,
    /// Where each input begins in a staging slot.
    places: HashMap<Var, usize>,
    elems: HashMap<Var, Elem>,
    /// Byte offsets of the memory that ops asked for.
    requests: Vec<usize>,
    offsets: HashMap<Var, usize>,
    lowering: Lowering,
    /// One program for each arena that weights were read from, with the addresses it was made for.
    programs: Vec<(Arena, Bases, Program)>,
    changes_state: bool,
    /// The program that runs node by node.
    current: Option<usize>,
}

/// Addresses of everything a program works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bases {
    activations: u64,
    arenas: [u64; ARENAS],
    /// bf16 copy of the weights, 0 if there is none.
    half: u64,
}

/// A tape planned for a GPU before anything is there: what it takes.
pub(super) struct Draft {
    pub plan: Plan,
    elems: HashMap<Var, Elem>,
    /// Byte offsets of the memory that ops asked for.
    requests: Vec<usize>,
    lowering: Lowering,
    kernels: BTreeSet<Kernel>,
}

impl Draft {
    /// Asks every op what it wants, with invented addresses.
    pub fn new(tape: &Tape, gpu: &Gpu) -> Result<Self, CudaError> {
        let elems = elements(tape, gpu.precision);
        let mut lowering = Lowering::new(gpu.cuda.clone(), gpu.precision);
        let bytes_of = |var: Var| bytes_of(tape, &elems, var);
        let (first, _) = Plan::with(tape, bytes_of, &[]);
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
        let extras: Vec<Interval> = lowering
            .requests()
            .iter()
            .map(|r| Interval {
                start: r.first,
                end: r.last,
                bytes: r.bytes,
            })
            .collect();
        let (plan, requests) = Plan::with(tape, bytes_of, &extras);
        Ok(Self {
            plan,
            elems,
            requests,
            lowering,
            kernels: launches.into_iter().map(|l| l.1.kernel).collect(),
        })
    }
}

/// Bytes of the buffer of root `var` on the device.
fn bytes_of(tape: &Tape, elems: &HashMap<Var, Elem>, var: Var) -> usize {
    let elem = elems.get(&var).copied();
    tape.ty(var).len() * elem.map_or(tape.ty(var).dtype.bytes(), Elem::bytes)
}

impl GpuEngine {
    /// Plans `tape`, compiles its kernels and allocates its activations.
    pub fn new(tape: &Tape, gpu: Gpu) -> Result<(Self, Plan), DeviceError> {
        let Draft {
            plan,
            elems,
            requests,
            lowering,
            kernels,
        } = Draft::new(tape, &gpu)?;
        gpu.cuda.prepare(&kernels, &*gpu.progress)?;
        let arena = DeviceBuffer::new(&gpu.cuda, plan.peak_bytes, "the step's activations")?;
        let changes_state = tape
            .nodes()
            .iter()
            .any(|n| n.outputs.iter().any(|&v| is_state(tape, v)));
        let mut bytes = 0;
        let mut places = HashMap::new();
        for var in tape.inputs() {
            places.insert(var, bytes);
            bytes += align_up(bytes_of(tape, &elems, var));
        }
        let engine = Self {
            staging: Staging::new(&gpu.cuda, bytes)?,
            returns: None,
            places,
            offsets: offsets(tape, &plan),
            gpu,
            arena,
            elems,
            requests,
            lowering,
            programs: Vec::new(),
            changes_state,
            current: None,
        };
        Ok((engine, plan))
    }

    /// The program that reads weights from `weights`, and makes it if there is none.
    fn program(&mut self, tape: &Tape, weights: Arena, bases: Bases) -> Result<usize, DeviceError> {
        let found = self.programs.iter().position(|p| p.0 == weights);
        if let Some(i) = found {
            if self.programs[i].1 == bases {
                return Ok(i);
            }
            self.programs.remove(i);
        }
        let start = self.arena.pointer();
        let places = self.requests.iter().map(|&r| start + r as u64).collect();
        self.lowering.place(places);
        lower(&mut self.lowering, tape, &self.elems, &self.offsets, &bases)?;
        let launches = self.lowering.take_launches()?;
        let kernels: BTreeSet<Kernel> = launches.iter().map(|l| l.1.kernel.clone()).collect();
        self.gpu.cuda.prepare(&kernels, &*self.gpu.progress)?;
        let program = Program::new(self.gpu.cuda.clone(), launches);
        self.programs.push((weights, bases, program));
        Ok(self.programs.len() - 1)
    }

    /// Brings state to the device and finds the program; then `use_it` runs it.
    fn with_program(
        &mut self,
        tape: &Tape,
        state: &mut State,
        weights: Arena,
        use_it: impl FnOnce(&mut Program, &Gpu) -> Result<(), CudaError>,
    ) -> Result<(), DeviceError> {
        let half = self.gpu.precision == Precision::Bf16;
        let device = state.on_device(&self.gpu.cuda, half)?;
        check_state(tape, device, weights);
        let mut arenas: [u64; ARENAS] = std::array::from_fn(|i| device.arena(i).0);
        arenas[Arena::Params as usize] = arenas[weights as usize];
        let bases = Bases {
            activations: self.arena.pointer(),
            arenas,
            half: if half { device.half(weights).0 } else { 0 },
        };
        if half {
            self.refresh(device, weights)?;
        }
        let i = self.program(tape, weights, bases)?;
        self.staging.send(&self.arena)?;
        use_it(&mut self.programs[i].2, &self.gpu)?;
        if self.changes_state {
            // The optimizer writes the copy of the weights together with the weights.
            device.set_fresh(Arena::Ema, false);
            state.changed_on_device();
        }
        Ok(())
    }

    /// Makes the bf16 copy of `weights` anew if they have changed.
    fn refresh(&self, device: &mut DeviceState, weights: Arena) -> Result<(), CudaError> {
        let (half, fresh) = device.half(weights);
        let (whole, bytes) = device.arena(weights as usize);
        if fresh || bytes == 0 {
            return Ok(());
        }
        let launch = cast(whole, half, bytes / 4);
        let kernels = BTreeSet::from([launch.kernel.clone()]);
        self.gpu.cuda.prepare(&kernels, &|_, _| ())?;
        Program::new(self.gpu.cuda.clone(), vec![(0, launch)]).run(false)?;
        device.set_fresh(weights, true);
        Ok(())
    }

    pub fn run(
        &mut self,
        tape: &Tape,
        state: &mut State,
        weights: Arena,
    ) -> Result<(), DeviceError> {
        self.with_program(tape, state, weights, |program, gpu| match &gpu.nvtx {
            Some(nvtx) => program.run_marked(nvtx, |i| {
                let node = &tape.nodes()[i];
                format!("{} {}", node.scope, node.op.name())
            }),
            None => program.run(gpu.graph),
        })
    }

    pub fn run_clocked(
        &mut self,
        tape: &Tape,
        state: &mut State,
        weights: Arena,
    ) -> Result<Duration, DeviceError> {
        let mut time = Duration::ZERO;
        self.with_program(tape, state, weights, |program, gpu| {
            time = program.run_clocked(gpu.graph)?;
            Ok(())
        })?;
        Ok(time)
    }

    pub fn time_launches(
        &mut self,
        tape: &Tape,
        state: &mut State,
        weights: Arena,
    ) -> Result<Vec<(usize, Launch, Duration)>, DeviceError> {
        let mut out = Vec::new();
        self.with_program(tape, state, weights, |program, _| {
            let times = program.time_launches()?;
            let launches = program.launches().iter().zip(times);
            out.extend(launches.map(|((node, launch), time)| (*node, launch.clone(), time)));
            Ok(())
        })?;
        Ok(out)
    }

    pub fn run_timed(
        &mut self,
        tape: &Tape,
        state: &mut State,
        weights: Arena,
    ) -> Result<Vec<Duration>, DeviceError> {
        let mut times = Vec::new();
        let nodes = tape.nodes().len();
        self.with_program(tape, state, weights, |program, _| {
            times = program.run_timed(nodes)?;
            Ok(())
        })?;
        Ok(times)
    }

    pub fn write(
        &mut self,
        tape: &Tape,
        var: Var,
        offset: usize,
        bytes: &[u8],
    ) -> Result<(), DeviceError> {
        let Some(&place) = self.places.get(&var) else {
            return Ok(());
        };
        if self.elems.get(&tape.root(var)) == Some(&Elem::Bf16) {
            let halves: Vec<half::bf16> = bytemuck::pod_collect_to_vec::<u8, f32>(bytes)
                .into_iter()
                .map(half::bf16::from_f32)
                .collect();
            let bytes = bytemuck::cast_slice(&halves);
            self.staging.write(place, offset, bytes)?;
        } else {
            self.staging.write(place, offset, bytes)?;
        }
        Ok(())
    }

    pub fn read(&self, root: Var, offset: usize, layout: Layout) -> Result<Vec<f32>, DeviceError> {
        let cuda = &self.gpu.cuda;
        let end = layout.end();
        let whole: Vec<f32> = match self.elems.get(&root) {
            Some(Elem::Bf16) => {
                let mut halves = vec![half::bf16::ZERO; end];
                self.arena.download(cuda, offset, &mut halves)?;
                halves.into_iter().map(half::bf16::to_f32).collect()
            }
            _ => {
                let mut numbers = vec![0.0; end];
                self.arena.download(cuda, offset, &mut numbers)?;
                numbers
            }
        };
        let [n, h, w, c] = layout.shape;
        let mut out = Vec::with_capacity(layout.len());
        for i in 0..n {
            for r in 0..h * w {
                let at = layout.offset + i * layout.sample_stride + r * layout.ld;
                out.extend_from_slice(&whole[at..at + c]);
            }
        }
        Ok(out)
    }

    /// Queues the copy of `vars`, dense f32 tensors, to the host.
    pub fn fetch(&mut self, tape: &Tape, plan: &Plan, vars: &[Var]) -> Result<(), DeviceError> {
        if self.returns.is_none() {
            let piece = |&var: &Var| {
                let root = tape.root(var);
                assert_eq!(self.elems.get(&root), Some(&Elem::F32), "a result in f32");
                let layout = tape.layout(var);
                let offset = plan.offset(root).unwrap_or_default() + 4 * layout.offset;
                [offset, 4 * layout.len()]
            };
            let pieces = vars.iter().map(piece).collect();
            self.returns = Some(Returns::new(&self.gpu.cuda, pieces)?);
        }
        match &mut self.returns {
            Some(returns) => Ok(returns.fetch(&self.arena)?),
            None => Ok(()),
        }
    }

    /// What was fetched `age` runs before the last.
    pub fn fetched(&mut self, age: usize) -> Result<Vec<f32>, DeviceError> {
        match &mut self.returns {
            Some(returns) => Ok(bytemuck::pod_collect_to_vec(returns.get(age)?)),
            None => Ok(Vec::new()),
        }
    }

    /// Makes everything ready to run node by node: state on the device, inputs copied.
    pub fn begin_checked(
        &mut self,
        tape: &Tape,
        state: &mut State,
        weights: Arena,
    ) -> Result<(), DeviceError> {
        self.with_program(tape, state, weights, |_, _| Ok(()))?;
        self.current = self.programs.iter().position(|p| p.0 == weights);
        Ok(())
    }

    /// Runs node `node` of the program that [`GpuEngine::begin_checked`] made ready.
    pub fn run_node(&self, node: usize) -> Result<(), DeviceError> {
        if let Some(i) = self.current {
            self.programs[i].2.run_node(node)?;
        }
        Ok(())
    }

    /// The numbers of `var` now.
    pub fn numbers(
        &self,
        tape: &Tape,
        state: &State,
        weights: Arena,
        var: Var,
    ) -> Result<Numbers, DeviceError> {
        let layout = tape.layout(var);
        let float = tape.ty(var).dtype == DType::F32;
        if let Kind::State(arena, offset) = *tape.kind(var) {
            let arena = if arena == Arena::Params {
                weights
            } else {
                arena
            };
            let mut bytes = vec![0_u8; 4 * layout.len()];
            state.peek(arena, 4 * (offset + layout.offset), &mut bytes)?;
            return Ok(if float {
                Numbers::F32(bytemuck::pod_collect_to_vec(&bytes))
            } else {
                Numbers::Raw(bytes)
            });
        }
        let root = tape.root(var);
        let offset = self.offsets.get(&root).copied().unwrap_or_default();
        if float {
            return Ok(Numbers::F32(self.read(root, offset, layout)?));
        }
        let mut bytes = vec![0_u8; tape.ty(var).bytes()];
        self.arena.download(&self.gpu.cuda, offset, &mut bytes)?;
        Ok(Numbers::Raw(bytes))
    }

    pub fn poison(&mut self) -> Result<(), DeviceError> {
        Ok(self.arena.fill(&self.gpu.cuda, 0xff)?)
    }
}

/// The launch that copies `elements` weights to bf16.
fn cast(from: u64, to: u64, elements: usize) -> Launch {
    Launch {
        kernel: Kernel::new("cast", "cast_bf16"),
        grid: [elements.div_ceil(1024).min(4096) as u32, 1, 1],
        threads: 256,
        shared: 0,
        args: Args::new().ptr(from).ptr(to).u64(elements as u64),
    }
}

fn is_state(tape: &Tape, var: Var) -> bool {
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

fn offsets(tape: &Tape, plan: &Plan) -> HashMap<Var, usize> {
    let nodes = tape.nodes().iter();
    let vars = nodes.flat_map(|n| n.inputs.iter().chain(&n.outputs));
    vars.map(|&v| tape.root(v))
        .filter_map(|root| Some((root, plan.offset(root)?)))
        .collect()
}

/// Asks every op for its launches.
fn lower(
    lowering: &mut Lowering,
    tape: &Tape,
    elems: &HashMap<Var, Elem>,
    offsets: &HashMap<Var, usize>,
    bases: &Bases,
) -> Result<(), CudaError> {
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
        node.op
            .cuda(&mut lowering.call(i, operands))
            .map_err(|missing| CudaError::Unsupported {
                scope: node.scope.clone(),
                op: node.op.name().to_string(),
                what: missing.0,
            })?;
    }
    Ok(())
}

/// Panics if the tape addresses more state than there is: the caller mixed two models.
fn check_state(tape: &Tape, device: &DeviceState, weights: Arena) {
    let nodes = tape.nodes().iter();
    for &var in nodes.flat_map(|n| n.inputs.iter().chain(&n.outputs)) {
        if let Kind::State(arena, offset) = *tape.kind(var) {
            let arena = if arena == Arena::Params {
                weights
            } else {
                arena
            };
            let (_, bytes) = device.arena(arena as usize);
            let end = offset + tape.layout(var).end();
            assert!(end * 4 <= bytes, "state arena {arena:?} is too short");
        }
    }
}
