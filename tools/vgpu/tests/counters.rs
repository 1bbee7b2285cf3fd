//! Counters against numbers told by hand, SASS counts against what is known exactly, the report.

#![allow(clippy::unwrap_used)] // A test that meets an error should stop.

mod common;

use common::put32;
use vgpu::device::Device;
use vgpu::harness::compile;
use vgpu::machine::{Machine, Shape};
use vgpu::sass;
use vgpu::stats::Summary;

const SOURCE: &str = include_str!("kernels/counters.cu");

/// Runs a kernel on buffers of ones and sums up its counters.
fn run(source: &str, name: &str, shape: Shape, numbers: &[u64], with_sass: bool) -> Summary {
    let ptx = compile(source, "kernels.cu", "compute_80", &[]);
    let mut m = Machine::new(1 << 30);
    let module = m.load(&ptx).unwrap();
    if with_sass {
        module
            .sass
            .get_or_init(|| sass::analyse(&ptx, &module.target).unwrap());
    }
    let ones = vec![1f32; 1 << 18];
    let buffers = [
        put32(&mut m, &ones),
        put32(&mut m, &ones),
        put32(&mut m, &ones),
    ];
    let kernel = module.kernels[name].as_ref().unwrap();
    let pointers = kernel.params.iter().filter(|p| p.size == 8).count();
    let params = [&buffers[..pointers], numbers].concat();
    let done = m.call(&module, name, shape, &params).unwrap();
    assert!(
        done.error == 0 && done.findings.is_empty(),
        "{:?}",
        done.findings
    );
    Summary::new(
        kernel,
        &module,
        shape,
        &done.counts,
        &Device::named("a100").unwrap(),
    )
}

#[test]
fn sectors_and_bytes() {
    // 1000 floats by 128 threads: 32 warps in 8 blocks, 31 of them full and one of 8 lanes.
    let s = run(SOURCE, "copy", Shape::linear(8, 128), &[1000], false);
    assert_eq!(
        (s.loads.requests, s.loads.sectors, s.loads.bytes),
        (32, 125, 4000)
    );
    assert_eq!(
        (s.stores.requests, s.stores.sectors, s.stores.bytes),
        (32, 125, 4000)
    );
    assert_eq!((s.unique_read, s.unique_written), (4000, 4000));
    assert_eq!(s.classes["ld.global"], 32);
    let s = run(SOURCE, "copy4", Shape::linear(1, 32), &[32], false);
    assert_eq!(
        (s.loads.requests, s.loads.sectors, s.loads.bytes),
        (1, 16, 512)
    );
    for (stride, sectors) in [(0, 1), (1, 4), (2, 8), (8, 32), (100, 32)] {
        let s = run(SOURCE, "gather", Shape::linear(1, 32), &[stride], false);
        assert_eq!(
            (s.loads.sectors, s.loads.bytes),
            (sectors, 128),
            "stride {stride}"
        );
        assert_eq!(s.unique_read, 32 * sectors);
    }
}

#[test]
fn bank_conflicts() {
    // 33 stores of a full warp without conflict, then one load.
    for (stride, waves) in [(1, 1), (2, 2), (4, 4), (32, 32), (33, 1), (0, 1), (3, 1)] {
        let s = run(SOURCE, "banks", Shape::linear(1, 32), &[stride], false);
        assert_eq!(s.waves - s.classes["st.shared"], waves, "stride {stride}");
    }
}

#[test]
fn divergence_and_atomics() {
    let s = run(SOURCE, "votes", Shape::linear(2, 32), &[0], false);
    assert_eq!((s.atomics.requests, s.atomics.addresses), (2, 2));
    // Lanes leave the loop in four parts: three branches split each warp.
    assert!(s.lane_inst < 32 * s.inst);
    assert_eq!(s.divergent, 2 * 3);
}

/// Six blocks of many tell the counters and the time of all of them.
#[test]
fn a_sample_stands_for_the_grid() {
    let source = include_str!("kernels/conv.cu");
    let device = Device::named("a100").unwrap();
    let ptx = compile(source, "conv.cu", "compute_80", &[]);
    let run = |sample: u64| {
        let mut m = Machine::new(1 << 30);
        (m.options.sample, m.options.fast) = (sample, sample > 0);
        let module = m.load(&ptx).unwrap();
        // 8 images of 16x16x64 to 128 channels: 64 blocks.
        let [x, w, y] = [8 * 256 * 64 / 2, 128 * 9 * 64 / 2, 8 * 256 * 128]
            .map(|n| put32(&mut m, &vec![0f32; n]));
        let shape = Shape {
            grid: [32, 2, 1],
            ..Shape::linear(1, 128)
        };
        let done = m
            .call(&module, "conv", shape, &[y, x, w, 8, 16, 16, 64, 128])
            .unwrap();
        assert!(
            done.error == 0 && done.findings.is_empty(),
            "{:?}",
            done.findings
        );
        let kernel = module.kernels["conv"].as_ref().unwrap();
        Summary::new(kernel, &module, shape, &done.counts, &device)
    };
    let (all, part) = (run(0), run(6));
    let near = |a: f64, b: f64| assert!((a / b - 1.0).abs() < 0.03, "{a} instead of {b}");
    near(part.inst as f64, all.inst as f64);
    near(part.seconds, all.seconds);
    near(part.unique_read as f64, all.unique_read as f64);
    near(part.unique_written as f64, all.unique_written as f64);
    assert_eq!(part.mma_flop, all.mma_flop);
}

#[test]
fn tensor_operations_and_the_model() {
    let source = include_str!("kernels/conv.cu");
    // 2 images of 16x16x64 to 128 channels: 16 blocks of 4 warps, 18 steps of 2 x 8 mma.
    let shape = Shape {
        grid: [8, 2, 1],
        ..Shape::linear(1, 128)
    };
    let tools = sass::tool("ptxas").is_some() && sass::tool("nvdisasm").is_some();
    let s = run(source, "conv", shape, &[2, 16, 16, 64, 128], tools);
    assert_eq!(s.mma_ops, 16 * 4 * 18 * 16);
    assert_eq!(s.mma_flop, s.mma_ops * 4096);
    assert_eq!(s.classes["ldmatrix"], 16 * 4 * 18 * 2 * 5);
    // Rows of 80 bytes: ldmatrix has no conflicts, and cp.async writes whole wavefronts.
    assert_eq!(s.waves, s.ideal_waves);
    assert!(s.seconds > 0.0 && s.of_peak > 0.0 && s.of_peak < 1.0);
    let json = s.json();
    assert!(
        json.starts_with('{')
            && json.contains("\"modelled_limit\"")
            && json.contains("\"mma_ops\":18432")
    );
    if !tools {
        eprintln!("ptxas and nvdisasm are not found: SASS counts are not tested here");
        return;
    }
    assert_eq!(s.sass["HMMA"], s.mma_ops);
    assert_eq!(s.sass["LDSM"], s.classes["ldmatrix"]);
    assert_eq!(s.spills, Some(0));
    assert!(s.registers.unwrap() > 40 && s.resident > 0);
}
