//! Attention: heads, odd numbers of tokens, blocks of queries, keys and values put together from
//! tokens and pixels.

use super::check::check;
use super::program::{Program, Step};
use super::rng::{Rng, seed};
use gmmk::ops::concat::Axis;

fn plain(q: &[usize], tokens: usize, head: usize, number: u64) -> Program {
    let mut p = Program::new(
        &format!("attention {q:?} to {tokens}, heads of {head}"),
        number,
    );
    let c = q[q.len() - 1];
    let ids = [
        p.input(q),
        p.input(&[q[0], tokens, c]),
        p.input(&[q[0], tokens, c]),
    ];
    let o = p.step(Step::Attention {
        q: ids[0],
        k: ids[1],
        v: ids[2],
        head,
    });
    p.outputs.push(o);
    p
}

#[test]
fn attention_random_shapes() {
    for i in 0..24 {
        let number = seed(20_000 + i);
        let mut rng = Rng::new(number);
        let head = rng.between(1, 5);
        let c = head * rng.between(1, 3);
        let n = rng.between(1, 3);
        let q = if rng.between(0, 1) == 0 {
            vec![n, rng.between(1, 9), c]
        } else {
            vec![n, rng.between(1, 3), rng.between(1, 3), c]
        };
        // With one key the softmax is constant.
        check(plain(&q, rng.between(2, 9), head, number));
    }
}

/// Queries around a block (64), keys around the vector lanes, heads around the tiles.
#[test]
fn attention_blocks() {
    let sizes = [
        (63, 33, 4, 1),
        (64, 31, 3, 2),
        (65, 7, 8, 3),
        (129, 45, 16, 2),
        (1, 41, 33, 1),
        (200, 101, 5, 4),
        (13, 64, 32, 2),
    ];
    for (i, &(rows, tokens, head, heads)) in sizes.iter().enumerate() {
        let q = [1 + i % 2, rows, head * heads];
        check(plain(&q, tokens, head, seed(21_000 + i as u64)));
    }
}

/// With one key everybody gets its value, and queries and keys have no gradient.
#[test]
fn attention_one_token() {
    let mut p = plain(&[2, 5, 6], 1, 3, seed(22_000));
    // dS = p (dP - D) cancels: what is left is rounding of dP, some 1e-2 here.
    p.floor = 1e-2;
    check(p);
}

/// Scores up to some +-50: the softmax is nearly one-hot and its logarithm is large.
#[test]
fn attention_sharp() {
    let mut p = Program::new("attention sharp", seed(23_000));
    let q = p.input_around(&[2, 20, 8], 0.0, 8.0);
    let k = p.input_around(&[2, 15, 8], 0.0, 2.0);
    let v = p.input(&[2, 15, 8]);
    let o = p.step(Step::Attention { q, k, v, head: 8 });
    p.outputs.push(o);
    // exp(score - lse) of |lse| = 50 has a relative error of 50 roundoffs.
    p.slack = 4.0;
    check(p);
}

/// As in the network: tokens first, then pixels, projected into one buffer each.
#[test]
fn attention_to_tokens_and_pixels() {
    for (i, &(n, h, w, tokens, head, heads)) in [
        (2, 3, 3, 5, 4, 2),
        (1, 1, 1, 2, 6, 1),
        (3, 9, 8, 7, 4, 1),
        (1, 5, 13, 40, 8, 2),
    ]
    .iter()
    .enumerate()
    {
        let mut p = Program::new(&format!("attention block {i}"), seed(24_000 + i as u64));
        let c = head * heads;
        let x = p.input(&[n, h, w, c]);
        let tok = p.input(&[n, tokens, 6]);
        let qkv: Vec<_> = (0..3).map(|_| p.weights(c, c, false)).collect();
        let added: Vec<_> = (0..2).map(|_| p.weights(6, c, false)).collect();
        let out = p.weights(c, c, false);
        let pre = super::program::Pre {
            norm: Some(p.norm(1, c, None)),
            silu: false,
        };
        let q = p.step(Step::Linear {
            x,
            sets: qkv,
            pre,
            residual: None,
        });
        let kt = p.step(Step::Linear {
            x: tok,
            sets: added,
            pre: super::program::Pre::default(),
            residual: None,
        });
        let [k, v] = [1, 2].map(|j| {
            p.step(Step::Concat {
                axis: Axis::Rows,
                parts: vec![kt + j - 1, q + j],
            })
        });
        let o = p.step(Step::Attention { q, k, v, head });
        let y = p.step(Step::Linear {
            x: o,
            sets: vec![out],
            pre: super::program::Pre::default(),
            residual: Some(x),
        });
        p.outputs.push(y);
        check(p);
    }
}
