//! What an op sees when it is put on a CUDA device: once, when a program is planned, it says which
//! kernels to launch on which memory. The launches are replayed ever after.

use super::boxes::Boxes;
use super::context::{Cuda, Limits};
use super::error::CudaError;
use super::kernel::{Args, Elem, Kernel, Launch, View};
use super::memory::DeviceBuffer;
use std::collections::HashMap;
use std::sync::Arc;

/// Number formats of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Precision {
    /// Everything f32, no tensor cores: the reference.
    F32,
    /// Stored as f32, products of tensor cores in tf32.
    Tf32,
    /// Activations stored as bf16, sums, statistics and weights in f32.
    Bf16,
}

impl Precision {
    /// Its name in options.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Tf32 => "tf32",
            Self::Bf16 => "bf16",
        }
    }
}

/// An op has no form for the device or the precision: what is missing.
#[derive(Clone, Debug)]
pub struct Unsupported(pub String);

/// Memory that a node asks for beyond its operands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// First node that uses it.
    pub first: usize,
    /// Last node that uses it.
    pub last: usize,
    /// Size.
    pub bytes: usize,
}

/// Name of memory that several nodes share: what it holds, and the operands it was made from.
type Shared = (&'static str, Vec<u64>);

/// What the nodes of a program have asked for so far.
///
/// Ops are asked twice: first with invented addresses, to learn what memory they want and which kernels
/// they launch; then, when everything has its place, for good.
pub struct Lowering {
    cuda: Arc<Cuda>,
    precision: Precision,
    node: usize,
    requests: Vec<Request>,
    shared: HashMap<Shared, usize>,
    /// Addresses of the requests, once they are placed.
    placed: Option<Vec<u64>>,
    next: usize,
    launches: Vec<(usize, Launch)>,
    tables: HashMap<Vec<u8>, DeviceBuffer>,
    error: Option<CudaError>,
}

/// Where memory seems to lie while nothing is placed.
const NOWHERE: u64 = 1 << 40;

impl Lowering {
    /// Nothing asked for yet.
    pub fn new(cuda: Arc<Cuda>, precision: Precision) -> Self {
        Self {
            cuda,
            precision,
            node: 0,
            requests: Vec::new(),
            shared: HashMap::new(),
            placed: None,
            next: 0,
            launches: Vec::new(),
            tables: HashMap::new(),
            error: None,
        }
    }

    /// What was asked for, in order.
    pub fn requests(&self) -> &[Request] {
        &self.requests
    }

    /// Begins again, with the requests at `addresses`.
    pub fn place(&mut self, addresses: Vec<u64>) {
        self.placed = Some(addresses);
        self.next = 0;
        self.shared.clear();
        self.launches.clear();
    }

    /// The call of node number `node` with these operands.
    pub fn call(&mut self, node: usize, operands: Operands) -> Call<'_> {
        self.node = node;
        Call {
            lowering: self,
            operands,
        }
    }

    /// The launches, each with its node.
    ///
    /// # Errors
    /// A table of constants found no memory.
    pub fn take_launches(&mut self) -> Result<Vec<(usize, Launch)>, CudaError> {
        match self.error.take() {
            Some(error) => Err(error),
            None => Ok(std::mem::take(&mut self.launches)),
        }
    }

    fn request(&mut self, bytes: usize) -> u64 {
        let i = self.next;
        self.next += 1;
        match &self.placed {
            Some(addresses) => addresses[i],
            None => {
                self.requests.push(Request {
                    first: self.node,
                    last: self.node,
                    bytes,
                });
                NOWHERE
            }
        }
    }
}

/// Operands of a node on the device.
#[derive(Clone, Debug, Default)]
pub struct Operands {
    /// Inputs, with numbers that tell equal tensors.
    pub inputs: Vec<(View, u64)>,
    /// Copies of the inputs in the working precision, where there are any.
    pub halves: Vec<Option<View>>,
    /// Outputs.
    pub outputs: Vec<View>,
    /// Copies of the outputs in the working precision, where there are any.
    pub half_outputs: Vec<Option<View>>,
}

/// One op on its way to the device.
pub struct Call<'a> {
    lowering: &'a mut Lowering,
    operands: Operands,
}

impl Call<'_> {
    /// Input `i`.
    pub fn input(&self, i: usize) -> View {
        self.operands.inputs[i].0
    }

    /// Input `i`, a parameter, in the working precision: its bf16 copy if there is one.
    pub fn weight(&self, i: usize) -> View {
        self.operands.halves[i].unwrap_or(self.operands.inputs[i].0)
    }

    /// Output `i`.
    pub fn output(&self, i: usize) -> View {
        self.operands.outputs[i]
    }

    /// The bf16 copy that goes with output `i`, parameters, if there is one.
    pub fn output_half(&self, i: usize) -> Option<View> {
        self.operands.half_outputs[i]
    }

    /// Number formats of the program.
    pub fn precision(&self) -> Precision {
        self.lowering.precision
    }

    /// What the device can hold and do at once.
    pub fn device(&self) -> Limits {
        *self.lowering.cuda.limits()
    }

    /// Address of `bytes` bytes of scratch memory, this node's alone; holds garbage.
    pub fn scratch(&mut self, bytes: usize) -> u64 {
        self.lowering.request(bytes)
    }

    /// Address of `bytes` bytes that later nodes find again by the same `name` and `inputs`, and whether this
    /// node is the first to ask and has to fill them.
    pub fn shared(&mut self, name: &'static str, inputs: &[usize], bytes: usize) -> (u64, bool) {
        let ids = inputs.iter().map(|&i| self.operands.inputs[i].1).collect();
        let lowering = &mut *self.lowering;
        let key = (name, ids);
        if let Some(&i) = lowering.shared.get(&key) {
            lowering.requests[i].last = lowering.node;
            let address = lowering.placed.as_ref().map_or(NOWHERE, |p| p[i]);
            return (address, false);
        }
        lowering.shared.insert(key, lowering.next);
        (lowering.request(bytes), true)
    }

    /// Address of constants, put on the device once.
    pub fn table<T: bytemuck::NoUninit>(&mut self, data: &[T]) -> u64 {
        let bytes: &[u8] = bytemuck::cast_slice(data);
        let lowering = &mut *self.lowering;
        if let Some(buffer) = lowering.tables.get(bytes) {
            return buffer.pointer();
        }
        let made = DeviceBuffer::new(&lowering.cuda, bytes.len(), "a table of constants");
        let filled = made.and_then(|b| b.upload(&lowering.cuda, 0, bytes).map(|()| b));
        match filled {
            Ok(buffer) => {
                let pointer = buffer.pointer();
                lowering.tables.insert(bytes.to_vec(), buffer);
                pointer
            }
            Err(error) => {
                lowering.error.get_or_insert(error);
                NOWHERE
            }
        }
    }

    /// The description of `boxes` that a kernel takes (a `TensorMap`), for [`Args::words`].
    pub fn tensor_map(&mut self, boxes: &Boxes) -> [u64; 16] {
        match self.lowering.cuda.tensor_map(boxes) {
            Ok(words) => words,
            Err(error) => {
                self.lowering.error.get_or_insert(error);
                [0; 16]
            }
        }
    }

    /// Adds a launch.
    pub fn launch(
        &mut self,
        kernel: Kernel,
        grid: [usize; 3],
        threads: usize,
        shared: usize,
        args: Args,
    ) {
        let launch = Launch {
            kernel,
            grid: grid.map(|x| x as u32),
            threads: threads as u32,
            shared,
            args,
        };
        self.lowering.launches.push((self.lowering.node, launch));
    }
}

/// Elements that a tensor is stored as: bf16 where the precision asks for it and the tensor is a map or
/// a sequence of vectors worth the saving; statistics, losses and pictures of few channels stay f32.
pub fn stored(precision: Precision, shape: &[usize], exact: bool) -> Elem {
    let wide = shape.len() >= 3 && shape.last().is_some_and(|&c| c >= 8);
    if precision == Precision::Bf16 && wide && !exact {
        Elem::Bf16
    } else {
        Elem::F32
    }
}
