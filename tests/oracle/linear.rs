//! Linear layers and 1x1 convolutions, one or several with a common input.

use super::check::check;
use super::program::{Pre, Program, Step};
use super::rng::{Rng, seed};

/// A layer's form.
#[derive(Clone, Debug)]
struct Form {
    x: Vec<usize>,
    outputs: Vec<usize>,
    groups: usize,
    scale_shift: bool,
    silu: bool,
    residual: bool,
}

fn layers(form: &Form, seed: u64) -> Program {
    let mut p = Program::new(&format!("linear {form:?}"), seed);
    let (n, c) = (form.x[0], form.x[form.x.len() - 1]);
    let x = p.input(&form.x);
    let one_by_one = form.x.len() == 4;
    let sets: Vec<_> = form
        .outputs
        .iter()
        .map(|&k| p.weights(c, k, one_by_one))
        .collect();
    let norm = (form.groups > 0).then(|| p.norm(form.groups, c, form.scale_shift.then_some(n)));
    let residual = form.residual.then(|| {
        let shape = [&form.x[..form.x.len() - 1], &[form.outputs[0]]].concat();
        p.input(&shape)
    });
    let first = p.step(Step::Linear {
        x,
        sets,
        pre: Pre {
            norm,
            silu: form.silu,
        },
        residual,
    });
    p.outputs.extend(first..first + form.outputs.len());
    p
}

#[test]
fn linear_random_shapes() {
    for i in 0..40 {
        let number = seed(10_000 + i);
        let mut rng = Rng::new(number);
        let groups = rng.between(0, 2);
        let c = groups.max(1) * rng.between(4, 6);
        let n = rng.between(1, 4);
        let x = match rng.between(0, 2) {
            0 => vec![n, c],
            1 => vec![n, rng.between(1, 9), c],
            _ => vec![n, rng.between(1, 4), rng.between(1, 4), c],
        };
        let sets = rng.between(1, 4);
        let form = Form {
            x,
            outputs: (0..sets).map(|_| rng.between(1, 7)).collect(),
            groups,
            scale_shift: rng.between(0, 1) == 0,
            silu: rng.between(0, 1) == 0,
            residual: sets == 1 && rng.between(0, 1) == 0,
        };
        check(layers(&form, number));
    }
}

/// Around the micro-kernels' tiles (12 x 32, 6 x 16), one channel, one row.
#[test]
fn linear_around_the_tiles() {
    let sizes = [1, 5, 6, 7, 11, 12, 13, 15, 16, 17, 31, 32, 33, 65];
    for (i, &rows) in sizes.iter().enumerate() {
        let form = Form {
            x: vec![rows, sizes[(i * 5 + 2) % sizes.len()]],
            outputs: vec![
                sizes[(i * 3 + 1) % sizes.len()],
                sizes[(i * 9 + 4) % sizes.len()],
            ],
            groups: 0,
            scale_shift: false,
            silu: i % 2 == 0,
            residual: false,
        };
        check(layers(&form, seed(11_000 + i as u64)));
    }
}

/// More rows than a task (96) and than a stretch of the weight gradient (128), so that partial sums
/// meet; more outputs than one of its tasks (64).
#[test]
fn linear_large() {
    let forms = [
        (vec![3, 97, 16], vec![16, 16, 16], 4, false),
        (vec![2, 12, 24, 12], vec![70], 3, true),
        (vec![1, 1100, 5], vec![3], 0, true),
        (vec![130, 64], vec![129], 0, true),
        (vec![9, 129, 8], vec![9, 1], 0, false),
        (vec![5, 20, 12], vec![32, 32], 0, false),
        (vec![2, 300, 32], vec![200], 8, true),
        // Few rows: a GPU makes the sums in parts.
        (vec![6, 150], vec![130, 20, 70], 0, false),
        (vec![70, 257], vec![300], 0, true),
    ];
    for (i, (x, outputs, groups, residual)) in forms.into_iter().enumerate() {
        let form = Form {
            residual,
            x,
            outputs,
            groups,
            scale_shift: i % 2 == 1,
            silu: i % 3 == 0,
        };
        check(layers(&form, seed(12_000 + i as u64)));
    }
}

/// One weight in two layers: the second gradient adds to the first.
#[test]
fn linear_shared_weights() {
    let mut p = Program::new("linear shared weights", seed(13_000));
    let x = p.input(&[3, 5, 4]);
    let set = p.weights(4, 4, false);
    let norm = p.norm(2, 4, None);
    let pre = Pre {
        norm: Some(norm),
        silu: true,
    };
    let first = p.step(Step::Linear {
        x,
        sets: vec![set],
        pre,
        residual: None,
    });
    let second = p.step(Step::Linear {
        x: first,
        sets: vec![set, set],
        pre,
        residual: None,
    });
    p.outputs.extend([first, second, second + 1]);
    check(p);
}
