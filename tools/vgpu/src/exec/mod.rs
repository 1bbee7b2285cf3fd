//! The machine: warps of 32 lanes that execute decoded instructions, in blocks, in grids.

pub mod access;
pub mod asynch;
pub mod atom;
pub mod barrier;
pub mod block;
pub mod bulk;
pub mod control;
pub mod cx;
pub mod eight;
pub mod global;
pub mod half;
pub mod launch;
pub mod load;
pub mod math;
pub mod mbarrier;
pub mod memory;
pub mod nan;
pub mod ops;
pub mod print;
pub mod race;
pub mod shared;
pub mod tensor;
pub mod warp;
pub mod wgmma;
pub mod whole;
pub mod wmma;
