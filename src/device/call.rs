//! What an op sees when it runs on the CPU: threads, inputs, outputs and scratch memory.

use super::pool::Pool;
use super::view::{Layout, Rows, RowsMut};
use std::cell::Cell;

/// Where one input or output lies: a buffer's number, and the layout inside it.
#[derive(Clone, Copy, Debug)]
pub struct Operand {
    /// Index into the step's list of buffers.
    pub buffer: usize,
    /// First byte of the tensor's root.
    pub byte: usize,
    /// Elements relative to `byte`.
    pub layout: Layout,
    /// Bytes per element.
    pub element: usize,
}

impl Operand {
    /// True if an element may belong to both.
    pub fn overlaps(&self, other: &Operand) -> bool {
        if self.buffer != other.buffer {
            return false;
        }
        let range = |o: &Operand| {
            let start = o.byte + o.layout.offset * o.element;
            (start, o.byte + o.layout.end() * o.element)
        };
        let (a, b) = (range(self), range(other));
        if a.1 <= b.0 || b.1 <= a.0 {
            return false;
        }
        !(self.byte == other.byte && apart(&self.layout, &other.layout))
    }
}

/// True for two slices of one buffer that share neither a column nor a row of a sample.
fn apart(a: &Layout, b: &Layout) -> bool {
    let column = |l: &Layout| (l.offset % l.ld, l.offset % l.ld + l.shape[3]);
    let (ca, cb) = (column(a), column(b));
    let columns = a.ld == b.ld && (ca.1 <= cb.0 || cb.1 <= ca.0) && ca.1.max(cb.1) <= a.ld;
    let row = |l: &Layout| {
        let start = l.offset % l.sample_stride;
        (start, start + (l.rows() - 1) * l.ld + l.shape[3])
    };
    let (ra, rb) = (row(a), row(b));
    let rows = a.sample_stride == b.sample_stride
        && (ra.1 <= rb.0 || rb.1 <= ra.0)
        && ra.1.max(rb.1) <= a.sample_stride;
    columns || rows
}

/// One run of an op.
pub struct Call<'a> {
    pool: &'a Pool,
    buffers: &'a [*mut u8],
    inputs: &'a [Operand],
    outputs: &'a [Operand],
    shared: Operand,
    scratch: Operand,
    taken: Cell<u64>,
}

/// Bit numbers of the two workspace parts in `taken`.
const SHARED: usize = 62;
const SCRATCH: usize = 63;

/// Outputs that an op may have.
pub const MAX_OUTPUTS: usize = 62;

impl<'a> Call<'a> {
    /// A call with the given operands.
    ///
    /// # Safety
    /// Every operand lies inside its buffer; outputs, `shared` and `scratch` overlap neither each
    /// other nor an input; for 'a nothing else uses the buffers; at most [`MAX_OUTPUTS`] outputs.
    pub unsafe fn new(
        pool: &'a Pool,
        buffers: &'a [*mut u8],
        [inputs, outputs]: [&'a [Operand]; 2],
        [shared, scratch]: [Operand; 2],
    ) -> Self {
        Self {
            pool,
            buffers,
            inputs,
            outputs,
            shared,
            scratch,
            taken: Cell::new(0),
        }
    }

    /// The worker threads.
    pub fn pool(&self) -> &'a Pool {
        self.pool
    }

    /// Input `i` as f32 rows.
    pub fn input(&self, i: usize) -> Rows<'a> {
        let operand = &self.inputs[i];
        assert_eq!(operand.element, 4, "input {i} is not f32");
        // SAFETY: `new` promised that it lies in its buffer and that no output overlaps it.
        unsafe { Rows::new(self.pointer(operand).cast(), operand.layout) }
    }

    /// Bytes of an element of input `i`.
    pub fn input_element(&self, i: usize) -> usize {
        self.inputs[i].element
    }

    /// Input `i` as a dense slice of bytes or words.
    ///
    /// # Panics
    /// If the type's size is not the element's, or the tensor is a slice of a wider one.
    pub fn input_slice<T: bytemuck::Pod>(&self, i: usize) -> &'a [T] {
        let operand = &self.inputs[i];
        let layout = operand.layout;
        assert_eq!(operand.element, size_of::<T>(), "input {i}: element size");
        assert_eq!(
            layout.end() - layout.offset,
            layout.len(),
            "input {i} is not dense"
        );
        // SAFETY: as in `input`; dense; tensors start at multiples of their element size.
        unsafe {
            std::slice::from_raw_parts(
                self.pointer(operand).cast::<T>().add(layout.offset),
                layout.len(),
            )
        }
    }

    /// Output `i` as f32 rows. Each output can be taken once.
    pub fn output(&self, i: usize) -> RowsMut<'a> {
        let operand = &self.outputs[i];
        assert_eq!(operand.element, 4, "output {i} is not f32");
        self.take(i);
        // SAFETY: `new` promised that nothing overlaps it; `take` that this is the only view.
        unsafe { RowsMut::new(self.pointer(operand).cast(), operand.layout) }
    }

    /// Output `i` as a dense slice. Each output can be taken once.
    ///
    /// # Panics
    /// As for [`Call::input_slice`].
    pub fn output_slice<T: bytemuck::Pod>(&self, i: usize) -> &'a mut [T] {
        let operand = &self.outputs[i];
        self.take(i);
        self.slice_mut(operand)
    }

    /// The planned scratch memory that all tasks share. Can be taken once; holds garbage.
    pub fn shared(&self) -> &'a mut [f32] {
        self.take(SHARED);
        self.slice_mut(&self.shared)
    }

    /// The planned scratch memory of the workers, for [`Pool::run`]. Can be taken once; holds garbage.
    pub fn scratch(&self) -> &'a mut [f32] {
        self.take(SCRATCH);
        self.slice_mut(&self.scratch)
    }

    fn slice_mut<T: bytemuck::Pod>(&self, operand: &Operand) -> &'a mut [T] {
        let layout = operand.layout;
        assert_eq!(operand.element, size_of::<T>(), "element size");
        assert_eq!(layout.end() - layout.offset, layout.len(), "not dense");
        // SAFETY: as in `output`; dense.
        unsafe {
            std::slice::from_raw_parts_mut(
                self.pointer(operand).cast::<T>().add(layout.offset),
                layout.len(),
            )
        }
    }

    fn take(&self, bit: usize) {
        assert!(bit <= SCRATCH, "too many outputs");
        assert_eq!(self.taken.get() >> bit & 1, 0, "output {bit} taken twice");
        self.taken.set(self.taken.get() | 1 << bit);
    }

    fn pointer(&self, operand: &Operand) -> *mut u8 {
        self.buffers[operand.buffer].wrapping_add(operand.byte)
    }
}
