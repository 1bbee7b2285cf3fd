//! What a program computes, in f64.

use super::program::{EPS, Id, NormIds, Pre, Program, Residue, Step};
use super::reference::{self as f64s, Tensor};
use gmmk::ops::concat::Axis;

/// All values of `program` for the given leaves.
pub fn evaluate(program: &Program, leaves: &[Tensor]) -> Vec<Tensor> {
    let mut values = leaves.to_vec();
    for step in &program.steps {
        let outputs = run(step, &values);
        values.extend(outputs);
    }
    values
}

fn norm(values: &[Tensor], x: &Tensor, norm: NormIds) -> Tensor {
    let operands = [&values[norm.gamma], &values[norm.beta]];
    let scale_shift = norm.scale_shift.map(|id| &values[id]);
    f64s::group_norm(x, (norm.groups, EPS), operands, scale_shift)
}

fn prologue(values: &[Tensor], x: Id, pre: Pre) -> Tensor {
    let mut x = values[x].clone();
    if let Some(ids) = pre.norm {
        x = norm(values, &x, ids);
    }
    if pre.silu { f64s::silu(&x) } else { x }
}

fn convolution(step: &Step, values: &[Tensor]) -> Tensor {
    let Step::Conv {
        x,
        w,
        b,
        pre,
        upsample,
        residue,
    } = step
    else {
        unreachable!()
    };
    let of = |id: &Id| &values[*id];
    let mut x = prologue(values, *x, *pre);
    if *upsample {
        x = f64s::double(&x);
    }
    let y = f64s::conv3x3(&x, of(w), of(b));
    match residue {
        Residue::None => y,
        Residue::Plain(r) => f64s::add(&y, of(r)),
        Residue::Doubled(r) => f64s::add(&y, &f64s::double(of(r))),
        Residue::Shortcut { from, w, b } => f64s::add(&y, &f64s::linear(of(from), of(w), of(b))),
    }
}

fn run(step: &Step, values: &[Tensor]) -> Vec<Tensor> {
    let of = |id: &Id| &values[*id];
    match step {
        Step::Conv { .. } => vec![convolution(step, values)],
        Step::Linear {
            x,
            sets,
            pre,
            residual,
        } => {
            let x = prologue(values, *x, *pre);
            let product = |[w, b]: &[Id; 2]| f64s::linear(&x, of(w), of(b));
            let plus = |y: Tensor| match residual {
                Some(r) => f64s::add(&y, of(r)),
                None => y,
            };
            sets.iter().map(|set| plus(product(set))).collect()
        }
        Step::Norm { x, norm, silu } => {
            let pre = Pre {
                norm: Some(*norm),
                silu: *silu,
            };
            vec![prologue(values, *x, pre)]
        }
        Step::NormPool { x, norm } => {
            let pre = Pre {
                norm: Some(*norm),
                silu: true,
            };
            let activated = prologue(values, *x, pre);
            vec![f64s::halve(&activated), f64s::halve(of(x))]
        }
        Step::Attention { q, k, v, head } => vec![f64s::attention(of(q), of(k), of(v), *head)],
        Step::Concat { axis, parts } => {
            let parts: Vec<&Tensor> = parts.iter().map(of).collect();
            vec![match axis {
                Axis::Channels => f64s::concat_channels(&parts),
                Axis::Rows => f64s::concat_rows(&parts),
            }]
        }
        Step::Reshape { x, shape } => vec![Tensor {
            shape: shape.clone(),
            data: of(x).data.clone(),
        }],
    }
}
