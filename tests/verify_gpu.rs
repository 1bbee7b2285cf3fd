//! The whole network on a CUDA device: against reference folders made with PyTorch in f64, and node by node
//! against the CPU's ops in each precision. On a real device where there is one, else on the virtual GPU,
//! which checks every access.

// An unwrap that fails is a test that fails.
#![allow(clippy::unwrap_used)]

use gmmk::device::cuda::{Cuda, Precision};
use gmmk::device::pool::Pool;
use gmmk::device::{Device, Gpu};
use gmmk::ops::conv2d::Algorithm;
use gmmk::train::verify::{Reference, verify, verify_nodes};
use std::path::Path;
use std::sync::Arc;

/// The device under test.
fn device(precision: Precision) -> Device {
    vgpu::harness::device();
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernels");
    let cuda = Cuda::open(0, Some(&cache)).unwrap_or_else(|e| panic!("{e}"));
    Device {
        pool: Arc::new(Pool::new(2).unwrap()),
        gpu: Some(Gpu {
            cuda,
            precision,
            graph: true,
            nvtx: None,
            progress: Arc::new(|_, _| ()),
        }),
    }
}

fn reference(name: &str) -> Reference {
    // Where the test runs, which need not be where it was built.
    let root = std::env::var("CARGO_MANIFEST_DIR");
    let root = root.unwrap_or_else(|_| env!("CARGO_MANIFEST_DIR").to_string());
    let folder = Path::new(&root).join("tests/reference");
    Reference::load(&folder.join(name)).unwrap()
}

/// Every comparison of a reference passes, in f32 within the CPU's limits.
fn is_met(name: &str, precision: Precision) {
    let report = verify(&reference(name), &device(precision), Algorithm::Direct).unwrap();
    vgpu::harness::device().assert_clean();
    let mut bad: Vec<_> = report.checks.iter().filter(|c| !c.passed()).collect();
    bad.sort_by(|a, b| (b.error / b.limit).total_cmp(&(a.error / a.limit)));
    let worst = report.checks.iter().map(|c| c.error / c.limit);
    println!(
        "{name} in {}: {} checks, worst at {:.2} of its limit",
        precision.name(),
        report.checks.len(),
        worst.fold(0.0, f64::max)
    );
    assert!(
        bad.is_empty(),
        "{name} in {}: {} of {} checks failed, {:#?}",
        precision.name(),
        bad.len(),
        report.checks.len(),
        &bad[..bad.len().min(8)]
    );
    assert!(report.checks.len() > 100);
}

/// In f32 all references; in the others one with a preset's sizes, and one with odd ones and a classifier.
macro_rules! references {
    ($($test:ident: $name:literal in $precision:ident;)*) => {$(
        #[test]
        fn $test() {
            is_met($name, Precision::$precision);
        }
    )*};
}

references! {
    f32_nano: "unet_nano" in F32;
    f32_nano_with_projections: "unet_nano_proj" in F32;
    f32_odd_sizes: "unet_odd" in F32;
    f32_odd_sizes_with_a_classifier: "unet_odd_ngmg" in F32;
    f32_odd_sizes_with_projections: "unet_odd_proj" in F32;
    tf32_nano: "unet_nano" in Tf32;
    tf32_odd_sizes_with_a_classifier: "unet_odd_ngmg" in Tf32;
    bf16_nano: "unet_nano" in Bf16;
    bf16_odd_sizes_with_a_classifier: "unet_odd_ngmg" in Bf16;
}

/// Every node of a step, given the same inputs, makes what the CPU's op makes.
fn nodes_agree(name: &str, precision: Precision, limit: f64) {
    let errors = verify_nodes(&reference(name), &device(precision)).unwrap();
    vgpu::harness::device().assert_clean();
    let mut worst = errors.iter().collect::<Vec<_>>();
    worst.sort_by(|a, b| b.relative.total_cmp(&a.relative));
    for error in &worst[..worst.len().min(5)] {
        println!(
            "{} {} output {}: {:.2e}, element {:?}",
            error.scope, error.op, error.output, error.relative, error.worst
        );
    }
    let off = |e: &&gmmk::tape::executable::NodeError| e.relative.is_nan() || e.relative > limit;
    let bad = errors.iter().filter(off).count();
    assert!(
        bad == 0,
        "{name}: {bad} of {} outputs are off",
        errors.len()
    );
    assert!(errors.len() > 100);
}

#[test]
fn nodes_agree_in_f32() {
    nodes_agree("unet_odd_ngmg", Precision::F32, 1e-5);
}

/// tf32 has 11 bits; sums of products lose some of them.
#[test]
fn nodes_agree_in_tf32() {
    nodes_agree("unet_nano", Precision::Tf32, 3e-3);
}

/// bf16 has 8 bits.
#[test]
fn nodes_agree_in_bf16() {
    nodes_agree("unet_nano", Precision::Bf16, 2e-2);
}
