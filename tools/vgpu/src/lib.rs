//! A CUDA driver that needs no GPU: it executes PTX, checks every access, counts what a profiler would count.
//!
//! Linked as `libcuda.so`, it runs unmodified programs; as a crate it offers the parts.

// Lanes are numbers: one loop variable indexes many rows.
#![allow(clippy::needless_range_loop)]

pub mod api;
pub mod cache;
pub mod check;
pub mod config;
pub mod count;
pub mod decode;
pub mod device;
pub mod driver;
pub mod exec;
pub mod harness;
pub mod machine;
pub mod model;
pub mod nvrtc;
pub mod ptx;
pub mod sass;
pub mod stats;
pub mod stream;
pub mod tensor_map;
