//! Products of a warpgroup, bulk copies of boxes and barriers that count bytes, against plain loops.

#![allow(clippy::unwrap_used)] // A test that meets an error should stop.

mod common;

use common::{bf16, floats, noise, put16, wide};
use vgpu::check::Kind;
use vgpu::decode::Loaded;
use vgpu::exec::launch::{Options, Order};
use vgpu::harness::compile;
use vgpu::machine::{Machine, Outcome, Shape};
use vgpu::tensor_map::TensorMap;

fn load(m: &mut Machine) -> Loaded {
    let source = include_str!("kernels/hopper.cu");
    m.load(&compile(source, "hopper.cu", "compute_90a", &[]))
        .unwrap()
}

#[test]
fn products_of_a_warpgroup() {
    let mut m = Machine::new(1 << 24);
    let module = load(&mut m);
    let (a, b) = (bf16(&noise(1, 64 * 64)), bf16(&noise(2, 64 * 64)));
    let (da, db) = (put16(&mut m, &a), put16(&mut m, &b));
    for (name, ta, tb) in [
        ("product_00", false, false),
        ("product_01", false, true),
        ("product_10", true, false),
        ("product_11", true, true),
    ] {
        for skip in [0, 16, 32] {
            let d = m.memory.alloc(4 * 64 * 64).unwrap();
            let args = [da, db, d, skip];
            let outcome = m.call(&module, name, Shape::linear(1, 128), &args).unwrap();
            assert!(
                outcome.findings.is_empty(),
                "{name}: {:?}",
                outcome.findings
            );
            let got = floats(&m, d, 64 * 64);
            let at = |x: &[u16], transposed: bool, row: usize, k: usize| {
                wide(
                    x[if transposed {
                        k * 64 + row
                    } else {
                        row * 64 + k
                    }],
                )
            };
            for (i, got) in got.iter().enumerate() {
                let steps = skip as usize..skip as usize + 32;
                let terms = steps.map(|k| at(&a, ta, i / 64, k) * at(&b, tb, i % 64, k));
                let want: f64 = terms.sum();
                assert!(
                    (f64::from(*got) - want).abs() < 1e-5,
                    "{name}, {skip}: element {i}: {got}, not {want}"
                );
            }
        }
    }
}

#[test]
fn sums_are_there_after_a_wait_only() {
    let mut m = Machine::new(1 << 24);
    let module = load(&mut m);
    let a = put16(&mut m, &bf16(&noise(1, 64 * 64)));
    let d = m.memory.alloc(4 * 64 * 64).unwrap();
    m.call(&module, "no_wait", Shape::linear(1, 128), &[a, a, d, 0])
        .unwrap();
    assert!(floats(&m, d, 64 * 64).iter().all(|x| *x == -1.0));
}

/// A tensor [5][4][72] inside of rows of 80.
fn tensor(m: &mut Machine) -> (Vec<u16>, TensorMap) {
    let data: Vec<u16> = (1..=5 * 4 * 80).collect();
    let map = TensorMap {
        base: put16(m, &data),
        rank: 3,
        element: 2,
        sizes: [72, 4, 5, 0, 0],
        strides: [160, 640, 0, 0],
        boxes: [64, 3, 2, 0, 0],
        swizzled: true,
    };
    (data, map)
}

fn boxes(m: &mut Machine, name: &str, map: &TensorMap, at: [i32; 3]) -> (Vec<u16>, Outcome) {
    let module = load(m);
    let kernel = module.kernels[name].as_ref().unwrap();
    let y = m.memory.alloc(2 * 768).unwrap();
    let mut params: Vec<u8> = map.words().iter().flat_map(|w| w.to_le_bytes()).collect();
    params.extend(y.to_le_bytes());
    params.extend(at.iter().flat_map(|x| x.to_le_bytes()));
    params.resize(kernel.param_bytes as usize, 0);
    let outcome = m.launch(&module, kernel, Shape::linear(1, 128), &params);
    let words = m.download(y, 2 * 768);
    let y = words
        .chunks_exact(2)
        .map(|c| u16::from_le_bytes([c[0], c[1]]));
    (y.collect(), outcome)
}

#[test]
fn boxes_of_a_tensor_and_zeros_around_it() {
    for order in [Order::Forward, Order::Reverse, Order::Random(3)] {
        let mut m = Machine::new(1 << 24);
        m.options = Options {
            order,
            ..Options::default()
        };
        let (data, map) = tensor(&mut m);
        for at in [
            [0, 0, 0],
            [8, 1, 3],
            [16, -1, -1],
            [64, 3, 4],
            [-8, -2, 1],
            [0, 9, 0],
        ] {
            let (got, outcome) = boxes(&mut m, "boxes_good", &map, at);
            assert!(
                outcome.findings.is_empty() && outcome.error == 0,
                "{at:?}: {:?}",
                outcome.findings
            );
            for (i, got) in got.iter().enumerate() {
                let place = [
                    at[0] + i as i32 % 64,
                    at[1] + i as i32 / 64 % 3,
                    at[2] + i as i32 / 192 % 2 + i as i32 / 384,
                ];
                let inside = place
                    .iter()
                    .zip([72, 4, 5])
                    .all(|(p, n)| (0..n).contains(p));
                let [c, b, a] = place;
                let want = if inside {
                    data[(a * 320 + b * 80 + c) as usize]
                } else {
                    0
                };
                assert_eq!(*got, want, "{at:?}: element {i}, place {place:?}");
            }
        }
    }
}

#[test]
fn bulk_copies_are_watched() {
    for (name, kind) in [
        ("boxes_early", Kind::InFlight),
        ("boxes_long", Kind::Deadlock),
        ("boxes_refill", Kind::SharedRace),
    ] {
        for order in [Order::Forward, Order::Reverse] {
            let mut m = Machine::new(1 << 24);
            m.options = Options {
                order,
                ..Options::default()
            };
            let (_, map) = tensor(&mut m);
            let (_, outcome) = boxes(&mut m, name, &map, [0, 0, 0]);
            let kinds: Vec<Kind> = outcome.findings.iter().map(|f| f.kind).collect();
            let early = [Kind::Uninitialised, Kind::InFlight];
            let found = kinds.contains(&kind)
                || kind == Kind::InFlight && kinds.iter().any(|k| early.contains(k));
            assert!(found, "{name} ({order:?}): {kinds:?} instead of {kind:?}");
        }
    }
}
