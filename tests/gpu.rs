//! Every op on a CUDA device against a float64 oracle: the same cases as on the CPU, on a real device
//! where there is one, else on the virtual GPU, which checks every access. Blocks and warps run in two
//! orders, and the bits must not change.
//!
//! Nearly every program needs kernels of its own, and compiling takes longer than running: of each test's programs
//! every third is taken, in f32 and, in turns, in tf32 or bf16. `GMMK_TEST_ALL=1` takes them all, in all three.

// An unwrap that fails is a test that fails.
#![allow(clippy::unwrap_used)]

mod oracle;

use gmmk::device::cuda::{Cuda, Precision};
use gmmk::device::{Device, Gpu};
use std::cell::{Cell, OnceCell};
use std::path::Path;
use std::sync::Arc;

thread_local! {
    /// Each test has a stream of its own.
    static CUDA: OnceCell<Arc<Cuda>> = const { OnceCell::new() };
    /// Number of this test's next program.
    static PROGRAM: Cell<usize> = const { Cell::new(0) };
}

/// Of so many programs one is taken.
const THIN: usize = 3;

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

/// Whether all programs are asked for.
fn all() -> bool {
    std::env::var_os("GMMK_TEST_ALL").is_some()
}

/// Whether this test's next program is one to run.
fn takes() -> bool {
    let number = PROGRAM.get();
    PROGRAM.set(number + 1);
    all() || number.is_multiple_of(THIN)
}

/// What `run` makes where products are tf32, or where maps are stored as bf16, with the unit roundoff.
fn on_rough_devices<T>(mut run: impl FnMut(Device) -> T) -> Vec<(String, f64, T)> {
    let formats = [(Precision::Tf32, -11), (Precision::Bf16, -8)];
    let taken = (PROGRAM.get() / THIN) % formats.len();
    let formats = formats.into_iter().enumerate();
    formats
        .filter(|(i, _)| all() || *i == taken)
        .map(|(_, (precision, exponent))| {
            let result = run(in_precision(precision));
            vgpu::harness::device().assert_clean();
            (precision.name().to_string(), 2_f64.powi(exponent), result)
        })
        .collect()
}

/// The device under test, in f32.
fn device(_case: usize) -> Device {
    in_precision(Precision::F32)
}

fn in_precision(precision: Precision) -> Device {
    let gpu = Gpu {
        cuda: cuda(),
        precision,
        graph: true,
        nvtx: None,
        progress: Arc::new(|_, _| ()),
    };
    Device {
        pool: oracle::pool(1),
        gpu: Some(gpu),
    }
}
