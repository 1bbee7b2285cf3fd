//! How fast the interpreter is, in CPU time of one core: `cargo run -p vgpu --example speed`.

use std::time::Instant;
use vgpu::exec::launch::Options;
use vgpu::harness::compile;
use vgpu::machine::{Machine, Shape};

/// CPU seconds of this thread.
fn cpu() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ')
        .next()
        .and_then(|n| n.parse::<f64>().ok())
        .unwrap_or(0.0)
        * 1e-9
}

fn buffer(m: &mut Machine, bytes: usize) -> u64 {
    m.upload(&vec![0x3du8; bytes]).expect("room")
}

/// Seconds of a call: CPU time, or wall time.
fn timed(wall_time: bool, work: impl FnOnce()) -> f64 {
    let (start, wall) = (cpu(), Instant::now());
    work();
    if wall_time {
        wall.elapsed().as_secs_f64()
    } else {
        cpu() - start
    }
}

fn convolution(m: &mut Machine, ptx: &str, wall: bool) -> f64 {
    let module = m.load(ptx).expect("PTX");
    let (x, w) = (buffer(m, 4 * 256 * 64 * 2), buffer(m, 128 * 9 * 64 * 2));
    let y = buffer(m, 4 * 256 * 128 * 4);
    let shape = Shape {
        grid: [16, 2, 1],
        ..Shape::linear(1, 128)
    };
    let params = [y, x, w, 4, 16, 16, 64, 128];
    let used = timed(wall, || {
        drop(m.call(&module, "conv", shape, &params).expect("conv"))
    });
    2.0 * 4.0 * 256.0 * 128.0 * 9.0 * 64.0 / used * 1e-9
}

fn group_norm(m: &mut Machine, ptx: &str, wall: bool) -> f64 {
    let module = m.load(ptx).expect("PTX");
    let (x, s) = (buffer(m, 4 * 4096 * 64 * 4), buffer(m, 256));
    let y = buffer(m, 4 * 4096 * 64 * 4);
    let mut lanes = 0;
    let used = timed(wall, || {
        let shape = Shape::linear(32, 256);
        let done = m
            .call(&module, "group_norm", shape, &[y, x, s, s, 4096, 64, 8])
            .expect("group_norm");
        lanes = done.counts.lines.iter().map(|l| l.lanes).sum::<u64>();
    });
    lanes as f64 / used * 1e-9
}

fn main() {
    let source = include_str!("../tests/kernels/conv.cu");
    let ptx = compile(source, "conv.cu", "compute_80", &[]);
    for (name, fast, threads, wall) in [
        ("all checks, CPU time", false, 1, false),
        ("bounds only, CPU time", true, 1, false),
        ("all checks, one thread, wall time", false, 1, true),
        ("all checks, two threads, wall time", false, 2, true),
    ] {
        let mut m = Machine::new(1 << 32);
        m.options = Options {
            fast,
            threads,
            ..Options::default()
        };
        let best = |f: &mut dyn FnMut() -> f64| (0..5).map(|_| f()).fold(0.0, f64::max);
        let conv = best(&mut || convolution(&mut m, &ptx, wall));
        println!("bf16 convolution, {name}: {conv:.2} GFLOP/s");
        let norm = best(&mut || group_norm(&mut m, &ptx, wall));
        println!("group norm, {name}: {norm:.2} G lane instructions/s");
    }
}
