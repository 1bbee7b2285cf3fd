//! CUDA services: the device, its compiler, memory, launches and graphs. Knows no op and no tape.

mod boxes;
mod cache;
mod call;
mod context;
mod error;
mod kernel;
mod memory;
mod nvrtc;
mod nvtx;
mod program;
mod staging;

pub use boxes::Boxes;
pub use cache::Cache;
pub use call::{Call, Lowering, Operands, Precision, Request, Unsupported, stored};
pub use context::{Cuda, Limits, architecture, probe};
pub use error::CudaError;
pub use kernel::{Args, Elem, Kernel, Launch, View};
pub use memory::DeviceBuffer;
pub use nvrtc::{ADVICE, Image, Nvrtc, Source};
pub use nvtx::Nvtx;
pub use program::Program;
pub use staging::{Returns, Staging};
