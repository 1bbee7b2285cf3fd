//! Device services: memory, views of it, threads, micro-kernels. Knows no op and no tape.

pub mod call;
pub mod cuda;
pub mod gemm;
pub mod memory;
pub mod pool;
pub mod simd;
pub mod vector;
pub mod view;

use cuda::{Cuda, Precision};
use pool::Pool;
use std::sync::Arc;

/// Where programs run: the host's worker threads, and the GPU beside them if one is used.
#[derive(Clone)]
pub struct Device {
    /// The host's worker threads.
    pub pool: Arc<Pool>,
    /// The GPU.
    pub gpu: Option<Gpu>,
}

/// A GPU, and how it is used.
#[derive(Clone)]
pub struct Gpu {
    /// The device.
    pub cuda: Arc<Cuda>,
    /// Number formats.
    pub precision: Precision,
    /// Replay programs as CUDA graphs.
    pub graph: bool,
    /// Hears how many of how many kernels are compiled.
    pub progress: Arc<dyn Fn(usize, usize) + Send + Sync>,
}

impl From<Arc<Pool>> for Device {
    fn from(pool: Arc<Pool>) -> Self {
        Self { pool, gpu: None }
    }
}
