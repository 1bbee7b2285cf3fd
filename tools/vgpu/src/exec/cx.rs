//! What an instruction sees while it runs: its warp's registers, its block, the launch.

use super::block::BlockState;
use super::global::Region;
use super::launch::Launch;
use super::warp::Warp;
use crate::count::Counts;
use crate::decode::kernel::Kernel;

/// A mask with every lane in it.
pub const FULL: u32 = u32::MAX;

/// No register: the operand is absent.
pub const NONE: u32 = u32::MAX;

/// What the warp does after an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Goes on with the next instruction.
    Next,
    /// Goes on at `cx.pc`, which the instruction has set.
    Jump,
    /// Stops for the reason in `cx.stop`.
    Stop,
}

/// Why a warp stopped running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// All its lanes have left.
    Done,
    /// It waits at a barrier.
    Barrier,
    /// It gave way after many backward branches.
    Yield,
    /// The kernel is at an end with an error.
    Fault,
}

/// Executes one instruction for the lanes of a mask.
pub type Run = unsafe fn(&mut Cx<'_>, &Inst, u32) -> Flow;

/// A decoded instruction. Operands are rows of the register files; what a field means is the
/// business of the function that executes it.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Inst {
    pub run: Run,
    pub d: u32,
    pub a: u32,
    pub b: u32,
    pub c: u32,
    /// Start of the operand list in the kernel's `lists`, where there is one.
    pub list: u32,
    pub imm: u64,
    /// The predicate's row, or `NONE`.
    pub guard: u32,
    /// `FULL` where the predicate is negated.
    pub flip: u32,
    pub class: crate::count::Class,
    /// Which operands and result are floating point, for the hunt for the first NaN.
    pub floats: super::nan::Floats,
}

/// The running warp's context.
pub struct Cx<'a> {
    /// 32-bit register rows, constants and special registers among them.
    pub r32: *mut [u32; 32],
    /// 64-bit register rows.
    pub r64: *mut [u64; 32],
    /// Predicates, a lane a bit.
    pub pred: *mut u32,
    /// The kernel.
    pub kernel: &'a Kernel,
    /// What is the same for the whole launch.
    pub launch: &'a Launch<'a>,
    /// The warp.
    pub warp: &'a mut Warp,
    /// The block.
    pub block: &'a mut BlockState,
    /// Counters of this worker.
    pub counts: &'a mut Counts,
    /// The region of global memory that each instruction found last.
    pub regions: &'a mut [Region],
    /// The instruction's number.
    pub pc: u32,
    /// The running fragment's lanes.
    pub mask: u32,
    /// The lowest waiting fragment's pc: there the running one stops.
    pub limit: u32,
    /// Why the warp stopped.
    pub stop: Stop,
    /// Backward branches left before the warp gives way.
    pub patience: u32,
    /// Nobody else can make progress: a collective goes on with the lanes it has.
    pub forced: bool,
}

/// A lane's register: 32 or 64 bits.
pub trait Lane: Copy + Default + PartialEq + 'static {
    /// The row with this number.
    fn row(cx: &Cx<'_>, row: u32) -> *mut [Self; 32];
}

impl Lane for u32 {
    #[inline(always)]
    fn row(cx: &Cx<'_>, row: u32) -> *mut [u32; 32] {
        // SAFETY: decoding gives only rows that every warp's file has.
        unsafe { cx.r32.add(row as usize) }
    }
}

impl Lane for u64 {
    #[inline(always)]
    fn row(cx: &Cx<'_>, row: u32) -> *mut [u64; 32] {
        // SAFETY: as above.
        unsafe { cx.r64.add(row as usize) }
    }
}

impl<'a> Cx<'a> {
    /// A copy of a row.
    #[inline(always)]
    pub fn get<L: Lane>(&self, row: u32) -> [L; 32] {
        // SAFETY: the row exists and nothing else borrows the file.
        unsafe { *L::row(self, row) }
    }

    /// Writes the lanes of a mask.
    #[inline(always)]
    pub fn put<L: Lane>(&mut self, row: u32, values: &[L; 32], mask: u32) {
        // SAFETY: the row exists and nothing else borrows the file.
        let out = unsafe { &mut *L::row(self, row) };
        if mask == FULL {
            *out = *values;
        } else {
            for l in 0..32 {
                out[l] = if mask >> l & 1 == 1 {
                    values[l]
                } else {
                    out[l]
                };
            }
        }
    }

    /// A predicate's lanes.
    #[inline(always)]
    pub fn get_pred(&self, row: u32) -> u32 {
        // SAFETY: the row exists.
        unsafe { *self.pred.add(row as usize) }
    }

    /// Writes a predicate's lanes of a mask; `NONE` is a sink.
    #[inline(always)]
    pub fn put_pred(&mut self, row: u32, value: u32, mask: u32) {
        if row != NONE {
            // SAFETY: the row exists.
            let p = unsafe { &mut *self.pred.add(row as usize) };
            *p = *p & !mask | value & mask;
        }
    }

    /// Operand `n` of an instruction's list.
    #[inline(always)]
    pub fn item(&self, inst: &Inst, n: u32) -> u32 {
        self.kernel.lists[(inst.list + n) as usize]
    }
}

/// The lanes of a mask, lowest first.
#[inline(always)]
pub fn lanes(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        (mask != 0).then(|| {
            let l = mask.trailing_zeros() as usize;
            mask &= mask - 1;
            l
        })
    })
}
