//! Wrong operands are refused when an op is recorded, with an error that names the scope; nothing
//! panics and nothing wrong reaches the plan.

use gmmk::ops::add;
use gmmk::ops::attention::attention;
use gmmk::ops::conv2d::{self, Residual, conv2d};
use gmmk::ops::group_norm::group_norm;
use gmmk::ops::linear::{self, Weights, linear};
use gmmk::ops::mse::mse;
use gmmk::ops::norm_pool::{norm_act, norm_pool};
use gmmk::ops::prologue::NormVars;
use gmmk::tape::backward::{Contribution, Resample};
use gmmk::tape::{Arena, Tape, TapeError, TensorType, Var};
use std::panic::{AssertUnwindSafe, catch_unwind};

const SCOPE: &str = "down_blocks.1.resnets.0";

/// What was not refused; a test ends by looking that there is nothing.
#[derive(Default)]
pub struct Complaints(Vec<String>);

impl Drop for Complaints {
    fn drop(&mut self) {
        assert!(
            std::thread::panicking() || self.0.is_empty(),
            "{:#?}",
            self.0
        );
    }
}

/// Records in a scope; complains unless that is refused with an error naming scope and op.
pub fn refused(
    op: &str,
    what: &str,
    record: impl Fn(&mut Tape) -> Result<(), TapeError>,
    complaints: &mut Complaints,
) {
    let scoped = || Tape::new().scope("down_blocks.1", |tape| tape.scope("resnets.0", &record));
    let complaint = match catch_unwind(AssertUnwindSafe(scoped)) {
        Err(_) => "panicked".to_string(),
        Ok(Ok(())) => "was accepted".to_string(),
        Ok(Err(e)) => {
            let text = e.to_string();
            let named = e.scope == SCOPE && text.starts_with(SCOPE) && text.contains(op);
            if named {
                return;
            } else {
                format!("said {text:?}")
            }
        }
    };
    complaints.0.push(format!("{op}, {what}: {complaint}"));
}

pub fn f32s(tape: &mut Tape, shape: &[usize]) -> Var {
    tape.input("x", TensorType::f32(shape))
}

pub fn words(tape: &mut Tape, shape: &[usize]) -> Var {
    tape.input("words", TensorType::u32(shape))
}

pub fn weights(tape: &mut Tape, w: &[usize], b: &[usize]) -> Weights {
    let mut state = |shape| tape.state("weight", TensorType::f32(shape), Arena::Params, 0);
    Weights {
        w: state(w),
        b: state(b),
    }
}

/// Norm operands with these shapes of statistics, gamma, beta, scale and shift.
pub fn norm(tape: &mut Tape, groups: usize, shapes: [&[usize]; 4]) -> NormVars {
    let [stats, gamma, beta, scale_shift] = shapes.map(|s| f32s(tape, s));
    NormVars {
        groups,
        stats,
        gamma,
        beta,
        scale_shift: Some(scale_shift),
    }
}

pub const NORM: [&[usize]; 4] = [&[2, 4], &[6], &[6], &[2, 12]];

/// Norms of [2, 4, 4, 6] in 2 groups that are wrong in one place each.
fn wrong_norms() -> Vec<(usize, [&'static [usize]; 4])> {
    let mut out: Vec<(usize, [&[usize]; 4])> = vec![(0, NORM), (4, NORM), (3, NORM)];
    let wrong: [&[&[usize]]; 4] = [
        &[&[2, 6], &[1, 4], &[2, 2, 2], &[8]],
        &[&[5], &[7], &[1, 6]],
        &[&[5], &[12]],
        &[&[2, 6], &[1, 12], &[2, 24], &[24]],
    ];
    for (place, shapes) in wrong.iter().enumerate() {
        for shape in *shapes {
            let mut norm = NORM;
            norm[place] = shape;
            out.push((2, norm));
        }
    }
    out
}

#[test]
fn norms_refuse_wrong_operands() {
    let mut c = Complaints::default();
    for (groups, shapes) in wrong_norms() {
        let what = format!("{groups} groups, {shapes:?}");
        let run = |op: &str,
                   record: &dyn Fn(&mut Tape, Var, &NormVars) -> Result<(), TapeError>,
                   c: &mut Complaints| {
            refused(
                op,
                &what,
                |tape| {
                    let x = f32s(tape, &[2, 4, 4, 6]);
                    let norm = norm(tape, groups, shapes);
                    record(tape, x, &norm)
                },
                c,
            );
        };
        run("norm_pool", &|t, x, n| norm_pool(t, x, n).map(drop), &mut c);
        run(
            "norm_act",
            &|t, x, n| norm_act(t, x, n, true).map(drop),
            &mut c,
        );
        run(
            "conv2d",
            &|t, x, n| {
                let weights = weights(t, &[5, 3, 3, 6], &[5]);
                conv2d(
                    t,
                    x,
                    weights,
                    conv2d::Extras {
                        norm: Some(n),
                        ..Default::default()
                    },
                )
                .map(drop)
            },
            &mut c,
        );
        run(
            "linear",
            &|t, x, n| {
                let weights = weights(t, &[5, 6], &[5]);
                linear(
                    t,
                    x,
                    &[weights],
                    linear::Extras {
                        norm: Some(n),
                        ..Default::default()
                    },
                )
                .map(drop)
            },
            &mut c,
        );
    }
}

#[test]
fn norms_refuse_odd_sizes_and_groups() {
    let mut c = Complaints::default();
    for shape in [[2, 3, 4, 6], [2, 4, 3, 6], [2, 1, 1, 6]] {
        refused(
            "norm_pool",
            "odd size",
            |t| {
                let x = f32s(t, &shape);
                let norm = norm(t, 2, NORM);
                norm_pool(t, x, &norm).map(drop)
            },
            &mut c,
        );
    }
    for groups in [0, 4, 7] {
        refused(
            "group_norm_stats",
            "groups",
            |t| {
                let x = f32s(t, &[2, 4, 4, 6]);
                group_norm(t, x, (groups, 1e-5), [x, x], None).map(drop)
            },
            &mut c,
        );
    }
}

#[test]
fn conv2d_refuses_wrong_operands() {
    let mut c = Complaints::default();
    let run = |what: &str, x: &[usize], w: &[usize], b: &[usize], c: &mut Complaints| {
        refused(
            "conv2d",
            what,
            |t| {
                let x = f32s(t, x);
                let weights = weights(t, w, b);
                conv2d(t, x, weights, conv2d::Extras::default()).map(drop)
            },
            c,
        );
    };
    run("axes", &[2, 16, 6], &[5, 3, 3, 6], &[5], &mut c);
    run("axes", &[2, 6], &[5, 3, 3, 6], &[5], &mut c);
    run("empty shape", &[], &[5, 3, 3, 6], &[5], &mut c);
    run("five axes", &[1, 2, 4, 4, 6], &[5, 3, 3, 6], &[5], &mut c);
    run("channels", &[2, 4, 4, 7], &[5, 3, 3, 6], &[5], &mut c);
    run("window", &[2, 4, 4, 6], &[5, 1, 1, 6], &[5], &mut c);
    run("layout", &[2, 4, 4, 6], &[5, 6, 3, 3], &[5], &mut c);
    run("flat weight", &[2, 4, 4, 6], &[5, 54], &[5], &mut c);
    run("no weight", &[2, 4, 4, 6], &[], &[5], &mut c);
    run("bias", &[2, 4, 4, 6], &[5, 3, 3, 6], &[6], &mut c);
    run("bias axes", &[2, 4, 4, 6], &[5, 3, 3, 6], &[1, 5], &mut c);
    run("no picture", &[0, 4, 4, 6], &[5, 3, 3, 6], &[5], &mut c);
    run("no rows", &[2, 0, 4, 6], &[5, 3, 3, 6], &[5], &mut c);
    run("no columns", &[2, 4, 0, 6], &[5, 3, 3, 6], &[5], &mut c);
    run("no channels", &[2, 4, 4, 0], &[5, 3, 3, 0], &[5], &mut c);
    run("no outputs", &[2, 4, 4, 6], &[0, 3, 3, 6], &[0], &mut c);
}

#[test]
fn conv2d_refuses_wrong_residuals() {
    let mut c = Complaints::default();
    type Wrong<'a> = (&'a str, [usize; 4], &'a [usize], u8);
    let residuals: [Wrong<'_>; 9] = [
        ("plain size", [2, 4, 4, 6], &[2, 4, 5, 5], 0),
        ("plain channels", [2, 4, 4, 6], &[2, 4, 4, 6], 0),
        ("plain axes", [2, 4, 4, 6], &[2, 16, 5], 0),
        ("doubled size", [2, 4, 4, 6], &[2, 4, 4, 5], 1),
        ("doubled to an odd height", [2, 5, 4, 6], &[2, 2, 2, 5], 1),
        ("doubled to an odd width", [2, 4, 5, 6], &[2, 2, 2, 5], 1),
        ("doubled channels", [2, 4, 4, 6], &[2, 2, 2, 6], 1),
        ("shortcut size", [2, 4, 4, 6], &[2, 4, 5, 7], 2),
        ("shortcut channels", [2, 4, 4, 6], &[2, 4, 4, 8], 2),
    ];
    for (what, x, residual, kind) in residuals {
        refused(
            "conv2d",
            what,
            |t| {
                let (x, r) = (f32s(t, &x), f32s(t, residual));
                let main = weights(t, &[5, 3, 3, 6], &[5]);
                let shortcut = weights(t, &[5, 1, 1, 7], &[5]);
                let residual = match kind {
                    0 => Residual::Plain(r),
                    1 => Residual::Doubled(r),
                    _ => Residual::Shortcut(r, shortcut),
                };
                let extras = conv2d::Extras {
                    residual: Some(residual),
                    ..Default::default()
                };
                conv2d(t, x, main, extras).map(drop)
            },
            &mut c,
        );
    }
}

#[test]
fn conv2d_refuses_wrong_shortcuts() {
    let mut c = Complaints::default();
    for (w, b) in [
        ([5, 3, 3, 6], [5]),
        ([4, 1, 1, 6], [4]),
        ([5, 1, 1, 6], [4]),
    ] {
        refused(
            "conv2d",
            "shortcut weights",
            |t| {
                let x = f32s(t, &[2, 4, 4, 6]);
                let (main, shortcut) = (weights(t, &[5, 3, 3, 6], &[5]), weights(t, &w, &b));
                let residual = Some(Residual::Shortcut(x, shortcut));
                conv2d(
                    t,
                    x,
                    main,
                    conv2d::Extras {
                        residual,
                        ..Default::default()
                    },
                )
                .map(drop)
            },
            &mut c,
        );
    }
}

/// Shapes of weight and bias.
type Set<'a> = (&'a [usize], &'a [usize]);

fn layer(
    what: &str,
    x: &[usize],
    sets: &[Set<'_>],
    residual: Option<&[usize]>,
    c: &mut Complaints,
) {
    let record = |t: &mut Tape| {
        let x = f32s(t, x);
        let sets: Vec<Weights> = sets.iter().map(|(w, b)| weights(t, w, b)).collect();
        let residual = residual.map(|r| f32s(t, r));
        let extras = linear::Extras {
            residual,
            ..Default::default()
        };
        linear(t, x, &sets, extras).map(drop)
    };
    refused("linear", what, record, c);
}

#[test]
fn linear_refuses_wrong_operands() {
    const GOOD: Set<'static> = (&[5, 6], &[5]);
    let mut c = Complaints::default();
    layer("channels", &[2, 7], &[GOOD], None, &mut c);
    layer("transposed", &[2, 6], &[(&[6, 5], &[5])], None, &mut c);
    layer(
        "window",
        &[2, 4, 4, 6],
        &[(&[5, 3, 3, 6], &[5])],
        None,
        &mut c,
    );
    layer("bias", &[2, 6], &[(&[5, 6], &[6])], None, &mut c);
    layer("bias axes", &[2, 6], &[(&[5, 6], &[5, 1])], None, &mut c);
    layer(
        "second layer",
        &[2, 6],
        &[GOOD, (&[5, 7], &[5])],
        None,
        &mut c,
    );
    layer("residual", &[2, 3, 6], &[GOOD], Some(&[2, 3, 6]), &mut c);
    layer("residual axes", &[2, 3, 6], &[GOOD], Some(&[6, 5]), &mut c);
    layer(
        "residual of two",
        &[2, 6],
        &[GOOD, GOOD],
        Some(&[2, 5]),
        &mut c,
    );
    layer("empty", &[0, 6], &[GOOD], None, &mut c);
    layer("no channels", &[2, 0], &[(&[5, 0], &[5])], None, &mut c);
    layer("no shape", &[], &[GOOD], None, &mut c);
    layer("no layer", &[2, 6], &[], None, &mut c);
    layer(
        "no layer but a residual",
        &[2, 6],
        &[],
        Some(&[2, 6]),
        &mut c,
    );
}

#[test]
fn attention_refuses_wrong_operands() {
    let mut c = Complaints::default();
    let run = |q: &[usize], k: &[usize], v: &[usize], head: usize, c: &mut Complaints| {
        let what = format!("{q:?} {k:?} {v:?} heads of {head}");
        refused(
            "attention",
            &what,
            |t| {
                let qkv = [q, k, v].map(|s| f32s(t, s));
                attention(t, qkv, head).map(drop)
            },
            c,
        );
    };
    run(&[2, 5, 6], &[2, 7, 6], &[2, 7, 6], 0, &mut c);
    run(&[2, 5, 6], &[2, 7, 6], &[2, 7, 6], 4, &mut c);
    run(&[2, 5, 6], &[1, 7, 6], &[1, 7, 6], 3, &mut c);
    run(&[2, 5, 6], &[2, 7, 5], &[2, 7, 5], 3, &mut c);
    run(&[2, 5, 6], &[2, 7, 6], &[2, 8, 6], 3, &mut c);
    run(&[2, 5, 6], &[14, 6], &[14, 6], 3, &mut c);
    run(&[2, 5, 6], &[2, 7, 1, 6], &[2, 7, 1, 6], 3, &mut c);
    run(&[2, 5, 6], &[2, 0, 6], &[2, 0, 6], 3, &mut c);
    run(&[2, 0, 6], &[2, 3, 6], &[2, 3, 6], 3, &mut c);
    run(&[2, 5, 0], &[2, 3, 0], &[2, 3, 0], 3, &mut c);
}

#[test]
fn losses_and_sums_refuse_wrong_operands() {
    let mut c = Complaints::default();
    for (y, target) in [
        ([2, 3], [2, 4]),
        ([2, 3], [3, 2]),
        ([0, 3], [0, 3]),
        ([2, 0], [2, 0]),
    ] {
        refused(
            "mse",
            "shapes",
            |t| {
                let (y, target) = (f32s(t, &y), f32s(t, &target));
                mse(t, y, target).map(drop)
            },
            &mut c,
        );
    }
    let adds: [(&[usize], Resample, &[usize]); 8] = [
        (&[2, 4, 4, 3], Resample::None, &[2, 4, 4, 2]),
        (&[2, 4, 4, 3], Resample::None, &[2, 4, 2, 3]),
        (&[2, 4, 4, 3], Resample::OfPool, &[2, 4, 4, 3]),
        (&[2, 5, 4, 3], Resample::OfPool, &[2, 2, 2, 3]),
        (&[2, 4, 5, 3], Resample::OfPool, &[2, 2, 2, 3]),
        (&[2, 4, 4, 3], Resample::OfUpsample, &[2, 4, 4, 3]),
        (&[2, 4, 4, 3], Resample::OfUpsample, &[2, 2, 2, 3]),
        (&[2, 4, 4, 3], Resample::OfUpsample, &[2, 9, 8, 3]),
    ];
    for (y, resample, x) in adds {
        refused(
            "add",
            &format!("{resample:?} of {x:?} for {y:?}"),
            |t| {
                let var = f32s(t, x);
                add::sum(t, &[Contribution { var, resample }], &TensorType::f32(y)).map(drop)
            },
            &mut c,
        );
    }
}
