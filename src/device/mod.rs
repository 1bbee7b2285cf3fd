//! Device services: memory, views of it, threads, micro-kernels. Knows no op and no tape.

pub mod call;
pub mod gemm;
pub mod memory;
pub mod pool;
pub mod simd;
pub mod vector;
pub mod view;
