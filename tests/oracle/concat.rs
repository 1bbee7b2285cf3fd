//! Concatenation by placement and reshaping: every op reads and writes slices of wider buffers.

use super::check::check;
use super::program::{Id, Pre, Program, Residue, Step};
use super::rng::{Rng, seed};
use gmmk::ops::concat::Axis;

/// Ops that read a picture; those that keep its channels come first.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Reader {
    ConvPlain,
    ConvDoubled,
    LinearResidual,
    NormAct,
    NormPool,
    Conv,
    ConvShortcut,
    Linear,
}

const READERS: [Reader; 8] = [
    Reader::ConvPlain,
    Reader::ConvDoubled,
    Reader::LinearResidual,
    Reader::NormAct,
    Reader::NormPool,
    Reader::Conv,
    Reader::ConvShortcut,
    Reader::Linear,
];

/// Numbers of leaves that a reader does not have.
const NOBODY: [Id; 2] = [usize::MAX; 2];

/// Makes the leaves of a reader of [n, h, w, c]; the result makes the step for a value.
fn reader(p: &mut Program, reader: Reader, n: usize, c: usize) -> Box<dyn Fn(Id) -> Step> {
    use Reader::*;
    let groups = 1 + usize::from(c.is_multiple_of(2));
    let norm =
        (!matches!(reader, Linear | LinearResidual | Conv)).then(|| p.norm(groups, c, Some(n)));
    let k = c + if matches!(reader, Conv | ConvShortcut) {
        2
    } else {
        0
    };
    let convolves = matches!(reader, Conv | ConvPlain | ConvDoubled | ConvShortcut);
    let [w, b] = if convolves { p.filter(c, k) } else { NOBODY };
    let projects = matches!(reader, Linear | LinearResidual | ConvShortcut);
    let [v, a] = if projects {
        p.weights(c, k, true)
    } else {
        NOBODY
    };
    let second = (reader == Linear).then(|| p.weights(c, 3, true));
    Box::new(move |x| match (reader, norm) {
        (NormAct, Some(norm)) => Step::Norm {
            x,
            norm,
            silu: false,
        },
        (NormPool, Some(norm)) => Step::NormPool { x, norm },
        (Linear | LinearResidual, _) => Step::Linear {
            x,
            sets: [Some([v, a]), second].into_iter().flatten().collect(),
            pre: Pre::default(),
            residual: (reader == LinearResidual).then_some(x),
        },
        _ => Step::Conv {
            x,
            w,
            b,
            pre: Pre {
                norm,
                silu: norm.is_some(),
            },
            upsample: reader == ConvDoubled,
            residue: match reader {
                ConvPlain => Residue::Plain(x),
                ConvDoubled => Residue::Doubled(x),
                ConvShortcut => Residue::Shortcut {
                    from: x,
                    w: v,
                    b: a,
                },
                _ => Residue::None,
            },
        },
    })
}

/// Sizes: small pictures that share a task, one picture, several strips' worth of channels.
fn sizes(i: usize) -> [usize; 4] {
    [[3, 2, 4, 4], [2, 6, 2, 5], [40, 2, 2, 3], [1, 12, 14, 8]][i % 4]
}

/// Each op reads one half of a channel concatenation, and another op the whole.
#[test]
fn slices_as_inputs() {
    for (i, &kind) in READERS.iter().enumerate() {
        for half in 0..2 {
            let number = seed(40_000 + 2 * i as u64 + half as u64);
            let mut p = Program::new(&format!("{kind:?} of a slice, half {half}"), number);
            let [n, h, w, c] = sizes(i + half);
            let x = p.input(&[n, h, w, 3]);
            let other = 2 + i % 3;
            let into = [
                p.weights(3, [c, other][half], true),
                p.weights(3, [other, c][half], true),
            ];
            let make = reader(&mut p, kind, n, c);
            let whole_norm = p.norm(1, c + other, None);
            let parts = into.map(|set| p.project(x, set));
            let whole = p.step(Step::Concat {
                axis: Axis::Channels,
                parts: parts.to_vec(),
            });
            let y = p.step(make(parts[half]));
            p.step(Step::Norm {
                x: whole,
                norm: whole_norm,
                silu: true,
            });
            p.outputs.extend(y..p.shapes.len());
            p.outputs.push(whole);
            check(p);
        }
    }
}

/// Each op writes one part of a channel concatenation that a convolution reads, as a skip does.
#[test]
fn slices_as_outputs() {
    for (i, &kind) in READERS.iter().enumerate() {
        let number = seed(41_000 + i as u64);
        let mut p = Program::new(&format!("{kind:?} into a slice"), number);
        let [n, h, w, c] = sizes(i);
        let x = p.input(&[n, h, w, c]);
        let make = reader(&mut p, kind, n, c);
        let y_channels = c + 2 * usize::from(matches!(kind, Reader::Conv | Reader::ConvShortcut));
        let (up, down) = (kind == Reader::ConvDoubled, kind == Reader::NormPool);
        let scale = |s: usize| {
            if up {
                2 * s
            } else if down {
                s / 2
            } else {
                s
            }
        };
        let beside = p.input(&[n, scale(h), scale(w), 2]);
        let into = p.weights(2, 5, true);
        let total = y_channels + 5;
        let norm = p.norm(1, total, None);
        let [fw, fb] = p.filter(total, 4);
        let y = p.step(make(x));
        let z = p.project(beside, into);
        let parts = if i % 2 == 0 { vec![y, z] } else { vec![z, y] };
        let whole = p.step(Step::Concat {
            axis: Axis::Channels,
            parts,
        });
        let out = p.step(Step::Conv {
            x: whole,
            w: fw,
            b: fb,
            pre: Pre {
                norm: Some(norm),
                silu: true,
            },
            upsample: false,
            residue: Residue::None,
        });
        // The part has a reader of its own too.
        p.outputs.push(out);
        p.outputs.extend(y..z);
        check(p);
    }
}

/// Each op writes one part of a concatenation along rows, between two others, and its result is read
/// there too.
#[test]
fn row_ranges_as_outputs() {
    for (i, &kind) in READERS.iter().enumerate() {
        let number = seed(42_000 + i as u64);
        let mut p = Program::new(&format!("{kind:?} into a range of rows"), number);
        let [n, h, w, c] = sizes(i);
        let x = p.input(&[n, h, w, c]);
        let make = reader(&mut p, kind, n, c);
        let y_channels = c + 2 * usize::from(matches!(kind, Reader::Conv | Reader::ConvShortcut));
        let tokens = [p.input(&[n, 3, 4]), p.input(&[n, 1, 4])];
        let into = p.weights(4, y_channels, false);
        let second = p.weights(y_channels, 3, false);
        let y = p.step(make(x));
        let tokens = tokens.map(|t| p.project(t, into));
        let whole = p.step(Step::Concat {
            axis: Axis::Rows,
            parts: vec![tokens[0], y, tokens[1]],
        });
        let z = p.project(whole, second);
        p.outputs.push(z);
        p.outputs.extend(y..tokens[0]);
        check(p);
    }
}

/// Each op reads one part of a concatenation along rows.
#[test]
fn row_ranges_as_inputs() {
    for (i, &kind) in READERS.iter().enumerate() {
        let number = seed(43_000 + i as u64);
        let mut p = Program::new(&format!("{kind:?} of a range of rows"), number);
        let [n, h, w, c] = sizes(i);
        let x = p.input(&[n, h, w, 3]);
        let tokens = p.input(&[n, 3, 3]);
        let into = p.weights(3, c, true);
        let make = reader(&mut p, kind, n, c);
        let y = p.project(x, into);
        let t = p.project(tokens, into);
        let whole = p.step(Step::Concat {
            axis: Axis::Rows,
            parts: vec![t, y],
        });
        p.step(make(y));
        p.outputs.extend(whole..p.shapes.len());
        check(p);
    }
}

/// Attention with queries, keys and values in slices of one buffer, writing into another.
#[test]
fn attention_in_slices() {
    for i in 0..4 {
        let number = seed(44_000 + i);
        let mut rng = Rng::new(number);
        let mut p = Program::new("attention in slices", number);
        let (n, t, c) = (rng.between(1, 3), rng.between(2, 70), 2 * rng.between(1, 4));
        let x = p.input(&[n, t, 3]);
        let into: Vec<_> = (0..4).map(|_| p.weights(3, c, false)).collect();
        let parts: Vec<Id> = into.iter().map(|&set| p.project(x, set)).collect();
        let qkv = p.step(Step::Concat {
            axis: Axis::Channels,
            parts: parts[..3].to_vec(),
        });
        let o = p.step(Step::Attention {
            q: parts[0],
            k: parts[1],
            v: parts[2],
            head: c / 2,
        });
        let out = p.step(Step::Concat {
            axis: Axis::Channels,
            parts: vec![parts[3], o],
        });
        p.outputs.extend([out, qkv]);
        check(p);
    }
}

/// Pictures as sequences and back, tokens as one long row.
#[test]
fn reshapes() {
    let mut p = Program::new("reshape", seed(45_000));
    let x = p.input(&[2, 3, 4, 5]);
    let first = p.weights(5, 6, true);
    let second = p.weights(6, 5, false);
    let third = p.weights(60, 4, false);
    let y = p.project(x, first);
    let sequence = p.step(Step::Reshape {
        x: y,
        shape: vec![2, 12, 6],
    });
    let z = p.project(sequence, second);
    let row = p.step(Step::Reshape {
        x: z,
        shape: vec![2, 60],
    });
    let out = p.project(row, third);
    let picture = p.step(Step::Reshape {
        x: z,
        shape: vec![2, 3, 4, 5],
    });
    p.outputs.extend([out, picture, y]);
    check(p);
}

/// The gradient of a reshaped residual arrives as a slice of a concatenation's gradient.
#[test]
fn reshape_beside_a_concatenation() {
    let mut p = Program::new("reshape beside a concatenation", seed(46_000));
    let x = p.input(&[2, 3, 2, 4]);
    let t = p.input(&[2, 6, 3]);
    let into = [
        p.weights(4, 5, true),
        p.weights(3, 5, false),
        p.weights(3, 2, false),
    ];
    let y = p.project(x, into[0]);
    let residual = p.step(Step::Reshape {
        x: y,
        shape: vec![2, 6, 5],
    });
    let z = p.step(Step::Linear {
        x: t,
        sets: vec![into[1]],
        pre: Pre::default(),
        residual: Some(residual),
    });
    let other = p.project(t, into[2]);
    let whole = p.step(Step::Concat {
        axis: Axis::Channels,
        parts: vec![other, z],
    });
    p.outputs.push(whole);
    check(p);
}
