//! Every form of every instruction, one lane a time, against formulas written from the ISA's text.
//!
//! A form's kernel loads its operands from three arrays of 64-bit words, executes the instruction and
//! stores the result; the operands run over all combinations of edge values. The formulas here share no
//! code with the interpreter: integers go through `i128`, floats through `f64` and exact comparison.

#![allow(clippy::unwrap_used)] // A test that meets an error should stop.
// Tables of formulas; rows by number of lane.
#![allow(
    clippy::type_complexity,
    clippy::needless_range_loop,
    clippy::precedence
)]

mod branches;
mod convert;
mod exact;
mod floats;
mod halves;
mod integers;
mod lanes;
mod mbarrier;
mod memory;
mod products;
mod run;
mod warps;
mod wmma;
mod words;
