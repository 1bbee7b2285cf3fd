//! Norms: statistics, stand-alone norm + activation, norm + 2x2 mean.

use super::check::check;
use super::compare::{ROUNDOFF, close};
use super::program::{EPS, Program, Step};
use super::reference::{self, Tensor};
use super::rng::{Rng, seed};
use crate::on_devices;
use gmmk::ops::group_norm::group_norm;
use gmmk::tape::executable::Executable;
use gmmk::tape::state::State;
use gmmk::tape::{Arena, Tape, TensorType};

#[test]
fn norm_act_random_shapes() {
    for i in 0..24 {
        let number = seed(30_000 + i);
        let mut rng = Rng::new(number);
        let groups = rng.between(1, 4);
        let c = groups * rng.between(4, 6);
        let n = rng.between(1, 3);
        let shape = match rng.between(0, 2) {
            0 => vec![n, c],
            1 => vec![n, rng.between(1, 7), c],
            _ => vec![n, rng.between(1, 5), rng.between(1, 5), c],
        };
        let silu = rng.between(0, 1) == 0;
        let scale_shift = (rng.between(0, 1) == 0).then_some(n);
        let mut p = Program::new(&format!("norm_act {shape:?} / {groups}"), number);
        let x = p.input(&shape);
        let norm = p.norm(groups, c, scale_shift);
        let y = p.step(Step::Norm { x, norm, silu });
        p.outputs.push(y);
        check(p);
    }
}

#[test]
fn norm_pool_random_shapes() {
    for i in 0..24 {
        let number = seed(31_000 + i);
        let mut rng = Rng::new(number);
        let groups = rng.between(1, 3);
        let c = groups * rng.between(1, 4);
        let n = rng.between(1, 3);
        let shape = [n, 2 * rng.between(1, 4), 2 * rng.between(1, 4), c];
        let scale_shift = (i % 2 == 0).then_some(n);
        let mut p = Program::new(&format!("norm_pool {shape:?} / {groups}"), number);
        let x = p.input(&shape);
        let norm = p.norm(groups, c, scale_shift);
        let y = p.step(Step::NormPool { x, norm });
        // Both outputs, the activated alone, the raw one beside another reader of x.
        match i % 3 {
            0 => p.outputs.extend([y, y + 1]),
            1 => p.outputs.push(y),
            _ => {
                let z = p.step(Step::Norm {
                    x,
                    norm,
                    silu: true,
                });
                p.outputs.extend([y, y + 1, z]);
            }
        }
        check(p);
    }
}

/// More rows than one block of f32 sums, and sizes of a real network.
#[test]
fn norm_large() {
    for (i, &(shape, groups)) in [
        ([2, 16, 16, 32], 8),
        ([1, 13, 17, 12], 4),
        ([3, 8, 8, 96], 32),
        ([1, 64, 2, 3], 3),
    ]
    .iter()
    .enumerate()
    {
        let mut p = Program::new(
            &format!("norm {shape:?} / {groups}"),
            seed(32_000 + i as u64),
        );
        let x = p.input(&shape);
        let norm = p.norm(groups, shape[3], Some(shape[0]));
        let y = if i % 2 == 0 {
            p.step(Step::NormPool { x, norm })
        } else {
            p.step(Step::Norm {
                x,
                norm,
                silu: true,
            })
        };
        p.outputs.push(y);
        check(p);
    }
}

/// A group of one number is its own mean: the output is beta (or its activation), the gradient zero.
#[test]
fn norm_of_single_numbers() {
    for (i, &(shape, groups)) in [([3, 1, 1, 5], 5), ([1, 1, 1, 1], 1)].iter().enumerate() {
        let mut p = Program::new(
            &format!("norm of single numbers {i}"),
            seed(33_000 + i as u64),
        );
        let x = p.input(&shape);
        let norm = p.norm(groups, shape[3], Some(shape[0]));
        let y = p.step(Step::Norm {
            x,
            norm,
            silu: true,
        });
        p.outputs.push(y);
        // rho = 1 / sqrt(eps) = 316 times gradients of order 1 cancel.
        p.floor = 316.0;
        check(p);
    }
}

/// Mean 100, deviation 1: the input's own rounding moves it by 100 roundoffs of the deviation, and
/// so do the mean's and the product rho x before beta - mean rho is added.
#[test]
fn norm_of_large_means() {
    for (i, &(shape, groups)) in [([2, 4, 4, 6], 3), ([1, 24, 24, 8], 2)].iter().enumerate() {
        let mut p = Program::new(&format!("norm of mean 100, {i}"), seed(34_000 + i as u64));
        let x = p.input_around(&shape, 100.0, 1.0);
        let norm = p.norm(groups, shape[3], Some(shape[0]));
        let y = p.step(Step::Norm {
            x,
            norm,
            silu: true,
        });
        p.outputs.push(y);
        // Where a correct rounding costs 16 roundoffs there are 100, in mean and product, with signs.
        p.slack = 25.0;
        check(p);
    }
}

/// Statistics of `x` over `groups`, from the op.
fn statistics(x: &Tensor, values: &[f32], groups: usize) -> Vec<f32> {
    let runs = on_devices(|device| {
        let mut tape = Tape::new();
        let var = tape.input("x", TensorType::f32(&x.shape));
        let norm = group_norm(&mut tape, var, (groups, EPS), [var, var], None).unwrap();
        tape.keep(norm.stats);
        let mut executable = Executable::new(tape, device).unwrap();
        executable.poison().unwrap();
        executable.write(var, values).unwrap();
        executable
            .run(&mut State::default(), Arena::Params)
            .unwrap();
        executable.read(norm.stats).unwrap()
    });
    for (name, run) in &runs[1..] {
        super::compare::same_bits(&runs[0].1, run).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    runs[0].1.clone()
}

#[test]
fn group_norm_statistics() {
    let cases = [
        ([2, 5, 7, 6], 3, 0.0, 1.0),
        ([1, 1, 1, 8], 2, 0.0, 1.0),
        ([2, 64, 64, 4], 2, 100.0, 1.0),
        ([1, 64, 64, 6], 1, -1000.0, 1.0),
        ([3, 3, 3, 4], 4, 1.0, 1e-3),
        ([1, 65, 1, 1], 1, 5.0, 0.0),
        // Groups that several blocks of a GPU see: by pixels, by channels, both.
        ([2, 40, 48, 24], 3, 3.0, 1.0),
        ([2, 5, 7, 264], 1, 3.0, 1.0),
        ([2, 3, 11, 70], 2, -3.0, 1.0),
        ([1, 31, 33, 132], 2, 3.0, 1.0),
    ];
    for (i, &(shape, groups, mean, deviation)) in cases.iter().enumerate() {
        let number = seed(35_000 + i as u64);
        let values = Rng::new(number).normals(shape.iter().product(), mean, deviation);
        let x = Tensor::from_f32(&shape, &values);
        let got = statistics(&x, &values, groups);
        let want = reference::group_statistics(&x, groups, EPS);
        for (got, want) in got.chunks(2 * groups).zip(want.data.chunks(2 * groups)) {
            let (got, want) = (got.split_at(groups), want.split_at(groups));
            // Blocks of 64 rows, then their sums: at most 64 + rows / 64 additions one after the
            // other, each off by half a unit of a sum that grows evenly.
            let additions = 64.0 + (shape[1] * shape[2]) as f64 / 64.0;
            let limit = additions.sqrt() * ROUNDOFF;
            let d = close(got.0, want.0, limit, 0.05 * deviation)
                .unwrap_or_else(|e| panic!("means, case {i}, seed {number}: {e}"));
            // Twice the error of a deviation, whose mean is off by d.relative mean: second order,
            // so only its square and the roundoff of x - mean count.
            let shifted = d.relative * mean / f64::max(deviation, 1e-3);
            let limit = 8.0 * additions.sqrt() * ROUNDOFF + shifted * shifted;
            let d2 = close(got.1, want.1, limit, 0.0)
                .unwrap_or_else(|e| panic!("deviations, case {i}, seed {number}: {e}"));
            println!(
                "group_norm statistics {i}: means {:.1e}, deviations {:.1e}",
                d.relative, d2.relative
            );
        }
    }
}
