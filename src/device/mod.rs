//! Device services: memory, views of it, threads, micro-kernels. Knows no op and no tape.

pub mod call;
pub mod cuda;
pub mod gemm;
pub mod lanes;
pub mod memory;
pub mod peak;
pub mod pool;
pub mod simd;
pub mod transpose;
pub mod vector;
pub mod view;

use cuda::{Cuda, Nvtx, Precision};
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

impl Device {
    /// What it is, in a few words: `CPU, 2 threads, AVX-512`, `NVIDIA H100 80GB HBM3, bf16`.
    pub fn describe(&self) -> String {
        match &self.gpu {
            Some(gpu) => {
                let how = if gpu.graph { "" } else { ", without graphs" };
                format!("{}, {}{how}", gpu.cuda.name(), gpu.precision.name())
            }
            None => {
                let threads = self.pool.threads();
                let s = if threads == 1 { "" } else { "s" };
                format!("CPU, {threads} thread{s}, {}", simd::level().name())
            }
        }
    }
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
    /// Names of the network's parts around their launches, for profilers; then nothing is a graph.
    pub nvtx: Option<Arc<Nvtx>>,
    /// Hears how many of how many kernels are compiled.
    pub progress: Arc<dyn Fn(usize, usize) + Send + Sync>,
}

impl Gpu {
    /// Bytes of the device's memory that are in use, by everybody; `None` if the driver does not say.
    pub fn used(&self) -> Option<usize> {
        let (free, total) = self.cuda.memory().ok()?;
        Some(total - free)
    }

    /// FLOP/s of dense products at the nominal clock, sums in f32; `None` for devices that we know too
    /// little of. Products per clock and multiprocessor: NVIDIA's white papers of the generations.
    pub fn peak_flops(&self) -> Option<f64> {
        let limits = self.cuda.limits();
        let geforce = self.cuda.name().contains("RTX");
        // bf16; tf32 has half of it.
        let products = match limits.capability {
            80 => 1024.0,
            86 | 89 | 120 if geforce => 256.0,
            86 | 89 => 512.0,
            90 => 2048.0,
            _ => return None,
        };
        let lanes = if limits.capability == 80 { 64.0 } else { 128.0 };
        let products = match self.precision {
            Precision::F32 => lanes,
            Precision::Tf32 => products / 2.0,
            Precision::Bf16 => products,
        };
        Some(2.0 * products * limits.sms as f64 * limits.clock)
    }
}

impl From<Arc<Pool>> for Device {
    fn from(pool: Arc<Pool>) -> Self {
        Self { pool, gpu: None }
    }
}
