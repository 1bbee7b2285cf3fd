//! Whole kernels through the model of L1 and L2: traffic against numbers told by hand.

#![allow(clippy::unwrap_used)] // A test that meets an error should stop.

mod common;

use common::put32;
use vgpu::cache::{Levels, Traffic};
use vgpu::decode::Loaded;
use vgpu::device::Device;
use vgpu::harness::compile;
use vgpu::machine::{Machine, Shape};
use vgpu::stats::Summary;

const SOURCE: &str = r#"
extern "C" __global__ void copy(float *y, const float *x) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    y[i] = x[i];
}
// Each warp reads its 4 sectors twice.
extern "C" __global__ void twice(float *y, const float *x) {
    int i = blockIdx.x * blockDim.x + threadIdx.x, j = i ^ 1;
    float a, b;
    asm volatile("ld.global.f32 %0, [%1];" : "=f"(a) : "l"(x + i));
    asm volatile("ld.global.f32 %0, [%1];" : "=f"(b) : "l"(x + j));
    y[i] = a + b;
}
// The same, past L1.
extern "C" __global__ void twice_cg(float *y, const float *x) {
    int i = blockIdx.x * blockDim.x + threadIdx.x, j = i ^ 1;
    float a, b;
    asm volatile("ld.global.cg.f32 %0, [%1];" : "=f"(a) : "l"(x + i));
    asm volatile("ld.global.cg.f32 %0, [%1];" : "=f"(b) : "l"(x + j));
    y[i] = a + b;
}
// All blocks count in one word.
extern "C" __global__ void count(float *y, const float *x) { atomicAdd(y, 1.0f); }
"#;

struct Bench {
    m: Machine,
    module: Loaded,
    buffers: [u64; 2],
}

impl Bench {
    /// 64 Ki floats in each of two buffers: 256 KiB, 8192 sectors.
    fn new(levels: Levels) -> Bench {
        let mut m = Machine::new(1 << 30);
        m.caches = Some(levels);
        let module = m
            .load(&compile(SOURCE, "caches.cu", "compute_80", &[]))
            .unwrap();
        let data = vec![1f32; 1 << 16];
        let buffers = [put32(&mut m, &data), put32(&mut m, &data)];
        Bench { m, module, buffers }
    }

    /// One launch of 256 blocks of 256 threads.
    fn run(&mut self, name: &str) -> Traffic {
        let shape = Shape::linear(256, 256);
        let done = self
            .m
            .call(&self.module, name, shape, &self.buffers)
            .unwrap();
        assert!(done.error == 0 && done.findings.is_empty());
        done.counts.traffic.unwrap()
    }
}

fn levels(l2_bytes: u64) -> Levels {
    Levels {
        sms: 8,
        resident: 4,
        l1_bytes: 32 << 10,
        l2_bytes,
    }
}

#[test]
fn l2_keeps_what_the_last_launch_used() {
    let mut b = Bench::new(levels(4 << 20));
    // Cold: x comes from DRAM, y is written and stays in L2.
    let cold = b.run("copy");
    assert_eq!((cold.l1_hits, cold.l2, cold.l2_hits), (0, 16_384, 0));
    assert_eq!((cold.dram_read, cold.dram_written), (8192, 0));
    // Warm: everything is there.
    let warm = b.run("copy");
    assert_eq!(
        (warm.l2, warm.l2_hits, warm.dram_bytes()),
        (16_384, 16_384, 0)
    );
}

#[test]
fn what_does_not_fit_comes_from_dram_each_time() {
    // An L2 of 32 KiB: at each launch all of x is read, and y is written but for what stays.
    let mut b = Bench::new(levels(32 << 10));
    b.run("copy");
    let again = b.run("copy");
    assert_eq!((again.l2_hits, again.dram_read), (0, 8192));
    assert!((8192 - 1024..=8192 + 1024).contains(&again.dram_written));
}

#[test]
fn the_second_load_hits_l1_or_passes_it_by() {
    let mut b = Bench::new(levels(4 << 20));
    let t = b.run("twice");
    assert_eq!((t.l1_hits, t.l2, t.dram_read), (8192, 16_384, 8192));
    let mut b = Bench::new(levels(4 << 20));
    let t = b.run("twice_cg");
    assert_eq!((t.l1_hits, t.l2, t.l2_hits), (0, 24_576, 8192));
    // Atomics of every warp on one sector: only the first misses.
    let t = Bench::new(levels(4 << 20)).run("count");
    assert_eq!((t.l2, t.l2_hits, t.dram_read), (2048, 2047, 1));
}

#[test]
fn threads_do_not_change_the_traffic() {
    let run = |threads: usize| {
        let mut b = Bench::new(levels(128 << 10));
        b.m.options.threads = threads;
        (b.run("twice"), b.run("copy"))
    };
    assert_eq!(run(1), run(2));
}

/// A copy that fits into L2 is modelled faster the second time, and no longer limited by DRAM.
#[test]
fn the_model_knows_what_l2_holds() {
    let device = Device::named("rtx4090").unwrap();
    let shape = Shape::linear(256, 256);
    let mut b = Bench::new(device.levels(256, 32, 0));
    let mut seconds = Vec::new();
    for _ in 0..2 {
        let done = b.m.call(&b.module, "copy", shape, &b.buffers).unwrap();
        let kernel = b.module.kernels["copy"].as_ref().unwrap();
        let s = Summary::new(kernel, &b.module, shape, &done.counts, &device);
        assert!(s.json().contains("\"l2_sect\":16384"));
        seconds.push(s.seconds);
    }
    assert!(seconds[1] < seconds[0], "{seconds:?}");
}
