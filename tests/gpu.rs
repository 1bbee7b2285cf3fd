//! Every op on a CUDA device against a float64 oracle: the same cases as on the CPU, on a real device
//! where there is one, else on the virtual GPU, which checks every access. Blocks and warps run in two
//! orders, and the bits must not change.

// An unwrap that fails is a test that fails.
#![allow(clippy::unwrap_used)]

mod oracle;

use gmmk::device::cuda::{Cuda, Precision};
use gmmk::device::{Device, Gpu};
use std::cell::OnceCell;
use std::path::Path;
use std::sync::Arc;

thread_local! {
    /// Each test has a stream of its own.
    static CUDA: OnceCell<Arc<Cuda>> = const { OnceCell::new() };
}

/// The device under test.
fn cuda() -> Arc<Cuda> {
    vgpu::harness::device();
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernels");
    let open = || Cuda::open(0, Some(&cache)).unwrap_or_else(|e| panic!("{e}"));
    CUDA.with(|cuda| cuda.get_or_init(open).clone())
}

/// What `run` makes with blocks and warps in two orders.
fn on_devices<T>(mut run: impl FnMut(Device) -> T) -> Vec<(String, T)> {
    let test = vgpu::harness::device();
    let results = ["forward", "random:7"].map(|order| {
        test.set("order", order);
        let result = run(device(0));
        test.set("order", "forward");
        test.assert_clean();
        (order.to_string(), result)
    });
    results.into_iter().collect()
}

/// The device under test.
fn device(_case: usize) -> Device {
    let gpu = Gpu {
        cuda: cuda(),
        precision: Precision::F32,
        graph: true,
        progress: Arc::new(|_, _| ()),
    };
    Device {
        pool: oracle::pool(1),
        gpu: Some(gpu),
    }
}
