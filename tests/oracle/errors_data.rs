//! Refusals of what moves, draws or updates data; see [`super::errors`].

use super::errors::{Complaints, NORM, f32s, norm, refused, weights, words};
use gmmk::ops::adamw::{AdamWConfig, adamw};
use gmmk::ops::add;
use gmmk::ops::attention::attention;
use gmmk::ops::concat::{Axis, concat, reshape};
use gmmk::ops::conv2d::{self, conv2d};
use gmmk::ops::group_norm::group_norm;
use gmmk::ops::latent_tokens::LatentTokens;
use gmmk::ops::linear::{self, linear};
use gmmk::ops::mse::mse;
use gmmk::ops::norm_pool::norm_pool;
use gmmk::ops::q_sample::QSample;
use gmmk::ops::time_embedding::TimeEmbedding;
use gmmk::ops::timestep::Timestep;
use gmmk::ops::unpack::Unpack;
use gmmk::rng::Stream;
use gmmk::tape::backward::{Contribution, Resample};
use gmmk::tape::{DType, Tape, TapeError, TensorType, Var};

/// A tensor made by a node.
fn made(tape: &mut Tape, shape: &[usize]) -> Result<Var, TapeError> {
    let var = f32s(tape, shape);
    let resample = Resample::None;
    add::sum(
        tape,
        &[Contribution { var, resample }],
        &TensorType::f32(shape),
    )
}

#[test]
fn concatenations_refuse_wrong_operands() {
    let mut c = Complaints::default();
    let run = |axis: Axis, shapes: &[&[usize]], c: &mut Complaints| {
        refused(
            "concat",
            &format!("{axis:?} of {shapes:?}"),
            |t| {
                let parts = shapes
                    .iter()
                    .map(|s| made(t, s))
                    .collect::<Result<Vec<_>, _>>()?;
                concat(t, axis, &parts).map(drop)
            },
            c,
        );
    };
    run(Axis::Channels, &[&[2, 4, 4, 3], &[1, 4, 4, 3]], &mut c);
    run(Axis::Channels, &[&[2, 4, 4, 3], &[2, 4, 2, 3]], &mut c);
    run(Axis::Channels, &[&[2, 4, 4, 3], &[2, 16, 3]], &mut c);
    run(Axis::Rows, &[&[2, 4, 3], &[2, 4, 2]], &mut c);
    run(Axis::Rows, &[&[2, 4, 3], &[3, 4, 3]], &mut c);
    run(Axis::Rows, &[], &mut c);
    run(Axis::Channels, &[], &mut c);
}

#[test]
fn concatenations_refuse_what_cannot_move() {
    let mut c = Complaints::default();
    refused(
        "concat",
        "an input",
        |t| {
            let x = f32s(t, &[2, 4]);
            concat(t, Axis::Channels, &[x, x]).map(drop)
        },
        &mut c,
    );
    refused(
        "concat",
        "twice the same",
        |t| {
            let x = made(t, &[2, 4])?;
            concat(t, Axis::Channels, &[x, x]).map(drop)
        },
        &mut c,
    );
    refused(
        "concat",
        "a part of another",
        |t| {
            let (x, y, z) = (made(t, &[2, 4])?, made(t, &[2, 4])?, made(t, &[2, 4])?);
            concat(t, Axis::Channels, &[x, y])?;
            concat(t, Axis::Channels, &[y, z]).map(drop)
        },
        &mut c,
    );
    refused(
        "concat",
        "a reshaped tensor",
        |t| {
            let (x, y) = (made(t, &[2, 4])?, made(t, &[2, 4])?);
            reshape(t, x, &[2, 1, 4])?;
            concat(t, Axis::Channels, &[x, y]).map(drop)
        },
        &mut c,
    );
}

#[test]
fn reshapes_refuse_wrong_operands() {
    let mut c = Complaints::default();
    refused(
        "reshape",
        "a slice",
        |t| {
            let (x, y) = (made(t, &[2, 3, 4])?, made(t, &[2, 3, 4])?);
            concat(t, Axis::Channels, &[x, y])?;
            reshape(t, y, &[2, 12]).map(drop)
        },
        &mut c,
    );
    for shape in [&[2, 3][..], &[13], &[2, 2, 3, 2]] {
        refused(
            "reshape",
            "elements",
            |t| {
                let x = made(t, &[2, 3, 3])?;
                reshape(t, x, shape).map(drop)
            },
            &mut c,
        );
    }
    for shape in [&[][..], &[1, 1, 1, 1, 1]] {
        refused(
            "reshape",
            "axes",
            |t| {
                let x = made(t, &[1])?;
                reshape(t, x, shape).map(drop)
            },
            &mut c,
        );
    }
}

#[test]
fn draws_refuse_wrong_operands() {
    let mut c = Complaints::default();
    for (seed, numbers) in [([1], [3, 2]), ([2], [3, 1]), ([3], [3, 2]), ([2], [0, 2])] {
        refused(
            "timestep",
            "seed and numbers",
            |t| {
                let inputs = [words(t, &seed), words(t, &numbers)];
                t.push(Timestep { t_max: 10 }, &inputs).map(drop)
            },
            &mut c,
        );
        refused(
            "unpack",
            "seed and numbers",
            |t| {
                let x = t.input("x", TensorType::u8(&[3, 4, 4, 3]));
                let inputs = [x, words(t, &seed), words(t, &numbers)];
                t.push(Unpack { flip: true }, &inputs).map(drop)
            },
            &mut c,
        );
        refused(
            "latent_tokens",
            "seed and numbers",
            |t| {
                let x = t.input("x", TensorType::u8(&[3, 4]));
                let inputs = [x, words(t, &seed), words(t, &numbers)];
                t.push(tokens(5), &inputs).map(drop)
            },
            &mut c,
        );
        refused(
            "q_sample",
            "seed and numbers",
            |t| {
                let inputs = [
                    f32s(t, &[3, 4, 4, 3]),
                    words(t, &[3]),
                    words(t, &seed),
                    words(t, &numbers),
                ];
                t.push(
                    QSample {
                        coefficients: vec![[0.5; 2]],
                    },
                    &inputs,
                )
                .map(drop)
            },
            &mut c,
        );
    }
}

#[test]
fn draws_refuse_wrong_types() {
    let mut c = Complaints::default();
    refused(
        "timestep",
        "numbers as floats",
        |t| {
            let inputs = [words(t, &[2]), f32s(t, &[3, 2])];
            t.push(Timestep { t_max: 10 }, &inputs).map(drop)
        },
        &mut c,
    );
    for (shape, dtype) in [([2, 4, 4, 3], DType::U8), ([3, 4, 4, 3], DType::F32)] {
        refused(
            "unpack",
            "pictures",
            |t| {
                let x = t.input(
                    "x",
                    TensorType {
                        shape: shape.to_vec(),
                        dtype,
                    },
                );
                let inputs = [x, words(t, &[2]), words(t, &[3, 2])];
                t.push(Unpack { flip: true }, &inputs).map(drop)
            },
            &mut c,
        );
    }
    for (shape, dtype, width) in [
        ([2, 4], DType::U8, 5),
        ([3, 4], DType::U32, 5),
        ([3, 4], DType::U8, 0),
    ] {
        refused(
            "latent_tokens",
            "attributes",
            |t| {
                let x = t.input(
                    "x",
                    TensorType {
                        shape: shape.to_vec(),
                        dtype,
                    },
                );
                let inputs = [x, words(t, &[2]), words(t, &[3, 2])];
                t.push(tokens(width), &inputs).map(drop)
            },
            &mut c,
        );
    }
}

#[test]
fn time_steps_are_one_for_each_sample() {
    let mut c = Complaints::default();
    for (n, steps) in [(2, 3), (3, 2)] {
        refused(
            "q_sample",
            "samples",
            |t| {
                let inputs = [
                    f32s(t, &[n, 4, 4, 3]),
                    words(t, &[steps]),
                    words(t, &[2]),
                    words(t, &[3, 2]),
                ];
                t.push(
                    QSample {
                        coefficients: vec![[0.5; 2]],
                    },
                    &inputs,
                )
                .map(drop)
            },
            &mut c,
        );
    }
    for (dim, ty) in [
        (8, TensorType::f32(&[3])),
        (8, TensorType::u32(&[3, 1])),
        (0, TensorType::u32(&[3])),
    ] {
        refused(
            "time_embedding",
            "steps",
            |t| {
                let x = t.input("t", ty.clone());
                let op = TimeEmbedding {
                    dim,
                    flip_sin_to_cos: true,
                    freq_shift: 0.0,
                };
                t.push(op, &[x]).map(drop)
            },
            &mut c,
        );
    }
}

fn tokens(width: usize) -> LatentTokens {
    LatentTokens {
        width,
        stream: Stream::LatentFixed,
        means: vec![0.0],
        sigma: 1.0,
        code: 1.0,
    }
}

const OTHERS: [DType; 2] = [DType::U32, DType::U8];

fn other(tape: &mut Tape, dtype: DType, shape: &[usize]) -> Var {
    let shape = shape.to_vec();
    tape.input("x", TensorType { shape, dtype })
}

/// Words and bytes where floats belong.
#[test]
fn layers_refuse_words() {
    let mut c = Complaints::default();
    for dtype in OTHERS {
        let record = |t: &mut Tape| {
            let x = other(t, dtype, &[2, 4, 4, 6]);
            let weights = weights(t, &[5, 3, 3, 6], &[5]);
            conv2d(t, x, weights, conv2d::Extras::default()).map(drop)
        };
        refused("conv2d", "words", record, &mut c);
        let record = |t: &mut Tape| {
            let x = other(t, dtype, &[2, 6]);
            let weights = weights(t, &[5, 6], &[5]);
            linear(t, x, &[weights], linear::Extras::default()).map(drop)
        };
        refused("linear", "words", record, &mut c);
        let record = |t: &mut Tape| {
            let x = other(t, dtype, &[2, 4, 6]);
            attention(t, [x; 3], 3).map(drop)
        };
        refused("attention", "words", record, &mut c);
        let record = |t: &mut Tape| {
            let x = other(t, dtype, &[2, 4, 6]);
            group_norm(t, x, (2, 1e-5), [x, x], None).map(drop)
        };
        refused("group_norm_stats", "words", record, &mut c);
        let record = |t: &mut Tape| {
            let x = other(t, dtype, &[2, 4, 4, 6]);
            let norm = norm(t, 2, NORM);
            norm_pool(t, x, &norm).map(drop)
        };
        refused("norm_pool", "words", record, &mut c);
    }
}

#[test]
fn losses_sums_and_noise_refuse_words() {
    let mut c = Complaints::default();
    for dtype in OTHERS {
        let record = |t: &mut Tape| {
            let x = other(t, dtype, &[2, 4, 4, 6]);
            mse(t, x, x).map(drop)
        };
        refused("mse", "words", record, &mut c);
        let record = |t: &mut Tape| {
            let var = other(t, dtype, &[2, 4]);
            let resample = Resample::None;
            let part = Contribution { var, resample };
            add::sum(t, &[part], &TensorType::f32(&[2, 4])).map(drop)
        };
        refused("add", "words", record, &mut c);
        let record = |t: &mut Tape| {
            let x = other(t, dtype, &[3, 4, 4, 3]);
            let inputs = [x, words(t, &[3]), words(t, &[2]), words(t, &[3, 2])];
            let coefficients = vec![[0.5; 2]];
            t.push(QSample { coefficients }, &inputs).map(drop)
        };
        refused("q_sample", "words", record, &mut c);
    }
}

#[test]
fn the_optimizer_refuses_wrong_operands() {
    let mut c = Complaints::default();
    let config = AdamWConfig {
        betas: [0.9, 0.999],
        eps: 1e-8,
        weight_decay: 0.0,
        clip: None,
    };
    refused(
        "global_norm",
        "no weights",
        |t| {
            let rates = f32s(t, &[2]);
            adamw(t, 0, rates, config).map(drop)
        },
        &mut c,
    );
    for ty in [
        TensorType::f32(&[1]),
        TensorType::f32(&[2, 1]),
        TensorType::u32(&[2]),
    ] {
        refused(
            "adamw",
            "rates",
            |t| {
                let rates = t.input("rates", ty.clone());
                adamw(t, 10, rates, config).map(drop)
            },
            &mut c,
        );
    }
}
