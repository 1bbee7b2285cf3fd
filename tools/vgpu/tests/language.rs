//! What compilers make of calls, local arrays, constants, dynamic shared memory, switches, locks.

#![allow(clippy::unwrap_used)] // A test that meets an error should stop.

mod common;

use common::{floats, noise, put32};
use vgpu::harness::compile;
use vgpu::machine::{Machine, Shape};

/// Runs a kernel `(out, in, n)` on 32-bit words; its output and `in` afterwards.
fn run(name: &str, shape: Shape, out: &[u32], input: &[u32], n: u64) -> (Vec<u32>, Vec<u32>) {
    let ptx = compile(
        include_str!("kernels/language.cu"),
        "language.cu",
        "compute_80",
        &[],
    );
    let mut m = Machine::new(1 << 30);
    let module = m.load(&ptx).unwrap();
    let bits = |v: &[u32]| v.iter().map(|x| f32::from_bits(*x)).collect::<Vec<f32>>();
    let (o, i) = (put32(&mut m, &bits(out)), put32(&mut m, &bits(input)));
    let done = m.call(&module, name, shape, &[o, i, n]).unwrap();
    let texts: Vec<String> = done.findings.iter().map(ToString::to_string).collect();
    assert!(
        done.error == 0 && texts.is_empty(),
        "{name}: error {}: {}",
        done.error,
        texts.join("\n")
    );
    let words = |at, len| floats(&m, at, len).iter().map(|x| x.to_bits()).collect();
    (words(o, out.len()), words(i, input.len()))
}

fn words(n: usize) -> Vec<u32> {
    noise(3, n)
        .iter()
        .map(|x| x.to_bits().wrapping_mul(2_654_435_761))
        .collect()
}

#[test]
fn calls_and_constants() {
    let x = noise(1, 100);
    let bits: Vec<u32> = x.iter().map(|v| v.to_bits()).collect();
    let (out, _) = run("calls", Shape::linear(2, 64), &[0; 100], &bits, 100);
    for (i, got) in out.iter().enumerate() {
        let mut sum = 0f32;
        for k in 0..i % 5 {
            let low = x[i] * k as f32;
            let high = if k > 2 { x[i] + k as f32 } else { -x[i] };
            sum += low - high;
        }
        let want = sum + [1.5, 2.5, -3.0, 4.0][i & 3];
        assert!((f32::from_bits(*got) - want).abs() < 1e-5, "{i}");
    }
}

#[test]
fn local_arrays() {
    let x = words(16);
    let (out, _) = run("local_array", Shape::linear(2, 64), &[0; 128], &x, 5);
    for (i, got) in out.iter().enumerate() {
        let mut a: Vec<u32> = (0..16).map(|k| k * i as u32).collect();
        for v in &x {
            a[*v as usize & 15] = a[*v as usize & 15].wrapping_add(a[*v as usize >> 4 & 15]);
        }
        assert_eq!(*got, a[i & 15] ^ a[5], "{i}");
    }
}

#[test]
fn dynamic_shared_memory() {
    let x: Vec<u32> = (0..64).map(|i| (i as f32).to_bits()).collect();
    let (out, _) = run(
        "dynamic_shared",
        Shape {
            dynamic: 256,
            ..Shape::linear(1, 64)
        },
        &[0; 64],
        &x,
        64,
    );
    assert!(
        out.iter()
            .enumerate()
            .all(|(i, v)| f32::from_bits(*v) == 64.0 - i as f32)
    );
}

#[test]
fn switches() {
    let x = words(256);
    let (out, _) = run("switches", Shape::linear(4, 64), &[0; 256], &x, 0);
    for (got, v) in out.iter().zip(&x) {
        let v = *v;
        let want = match v % 9 {
            0 => v.wrapping_mul(3).wrapping_add(1),
            1 => v ^ 0x55,
            2 => (v >> 3) + 11,
            3 => v.wrapping_add(11),
            4 => !v,
            5 => v / 7,
            6 => v % 13,
            7 => v.count_ones(),
            _ => v.leading_zeros(),
        };
        assert_eq!(*got, want, "{v:#x}");
    }
}

#[test]
fn lanes_that_spin_for_each_other_make_progress() {
    let (out, mutex) = run("lock", Shape::linear(2, 64), &[0], &[0], 2);
    assert_eq!((out[0], mutex[0]), (2 * 2 * 64, 0));
}

#[test]
fn blocks_of_a_cooperative_launch_wait_for_each_other() {
    let shape = Shape {
        cooperative: true,
        ..Shape::linear(4, 64)
    };
    let (out, arrived) = run("grid_barrier", shape, &[0; 256], &[0], 3);
    assert!(out.iter().all(|v| *v == 3) && arrived[0] == 12);
}

#[test]
fn variables_of_the_module() {
    let (mut out, _) = run("globals", Shape::linear(2, 32), &[0; 64], &[0], 0);
    out.sort_unstable();
    assert!(out.iter().enumerate().all(|(i, v)| *v == 7 + i as u32));
}
