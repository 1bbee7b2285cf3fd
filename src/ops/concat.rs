//! Concatenation by placement, and reshaping: no data moves, the tape only says who lies where.

use super::add;
use crate::device::call::Call;
use crate::device::view::Layout;
use crate::tape::backward::{Backward, Contribution, Resample};
use crate::tape::{Mismatch, NodeIo, Op, Tape, TapeError, TensorType, Var};

/// Axis of a concatenation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    /// Channels: each part is a slice of wider pixels.
    Channels,
    /// Rows of each sample: each part is a range of rows.
    Rows,
}

/// The concatenation of `parts` along `axis`. The parts move into the whole's buffer, so each may be
/// part of one concatenation only. Along rows the whole is `[n, t, c]`.
///
/// # Errors
/// Samples, rows or channels that differ; a part that already lies in another buffer.
pub fn concat(tape: &mut Tape, axis: Axis, parts: &[Var]) -> Result<Var, TapeError> {
    let whole = tape.push_one(Concat { axis }, parts)?;
    let shape = tape.ty(whole).nhwc();
    let mut offset = 0;
    for &part in parts {
        let layout = slice(axis, shape, tape.ty(part), &mut offset);
        tape.place(part, whole, layout)
            .map_err(|m| tape.error("concat", m))?;
    }
    Ok(whole)
}

/// Layout of the next part of a whole of shape `[n, h, w, c]`; advances `offset` past it.
fn slice(axis: Axis, [_, h, w, c]: [usize; 4], part: &TensorType, offset: &mut usize) -> Layout {
    let layout = Layout {
        shape: part.nhwc(),
        offset: *offset,
        sample_stride: h * w * c,
        ld: c,
    };
    *offset += match axis {
        Axis::Channels => part.channels(),
        Axis::Rows => part.rows() * c,
    };
    layout
}

/// See [`concat()`].
#[derive(Debug)]
pub struct Concat {
    axis: Axis,
}

impl Op for Concat {
    fn name(&self) -> &'static str {
        "concat"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Mismatch> {
        let first = inputs[0];
        for part in inputs {
            Mismatch::check("samples", first.samples(), part.samples())?;
            match self.axis {
                Axis::Channels => {
                    let pixels = |t: &TensorType| t.shape[..t.shape.len() - 1].to_vec();
                    Mismatch::check("pixels", pixels(first), pixels(part))?;
                }
                Axis::Rows => Mismatch::check("channels", first.channels(), part.channels())?,
            }
        }
        Ok(vec![match self.axis {
            Axis::Channels => first.with_channels(inputs.iter().map(|t| t.channels()).sum()),
            Axis::Rows => {
                let rows = inputs.iter().map(|t| t.rows()).sum();
                TensorType::f32(&[first.samples(), rows, first.channels()])
            }
        }])
    }

    fn differentiable(&self) -> bool {
        true
    }

    fn vjp(&self, b: &mut Backward<'_>, node: &NodeIo) -> Result<(), TapeError> {
        let Some(whole) = b.grad(node.outputs[0])? else {
            return Ok(());
        };
        let shape = b.tape.ty(whole).nhwc();
        let mut offset = 0;
        for &part in &node.inputs {
            let ty = b.tape.ty(part).clone();
            let layout = slice(self.axis, shape, &ty, &mut offset);
            if b.needs(part) {
                let gradient = b.tape.view(whole, ty, layout);
                b.add_plain(part, gradient);
            }
        }
        Ok(())
    }

    fn is_view(&self) -> bool {
        true
    }

    fn cpu(&self, _call: &Call<'_>) {}
}

/// `var` with another shape of the same number of elements.
///
/// # Errors
/// The numbers of elements differ; `var` is a slice of a concatenation.
pub fn reshape(tape: &mut Tape, var: Var, shape: &[usize]) -> Result<Var, TapeError> {
    let ty = TensorType {
        shape: shape.to_vec(),
        dtype: tape.ty(var).dtype,
    };
    ty.check()
        .and_then(|()| Mismatch::check("elements", tape.ty(var).len(), ty.len()))
        .map_err(|m| tape.error("reshape", m))?;
    if !is_dense(tape, var) {
        let m = Mismatch::new(
            "a tensor to reshape",
            "no slice of a concatenation",
            tape.name(var),
        );
        return Err(tape.error("reshape", m));
    }
    let layout = Layout::dense(ty.nhwc());
    let view = tape.view(var, ty, layout);
    tape.push_into(Reshape, &[var], vec![view]);
    Ok(view)
}

/// True if `var` fills its buffer.
fn is_dense(tape: &Tape, var: Var) -> bool {
    tape.layout(var) == Layout::dense(tape.ty(var).nhwc())
}

/// See [`reshape`].
#[derive(Debug)]
pub struct Reshape;

impl Op for Reshape {
    fn name(&self) -> &'static str {
        "reshape"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Mismatch> {
        Ok(vec![inputs[0].clone()])
    }

    fn differentiable(&self) -> bool {
        true
    }

    fn vjp(&self, b: &mut Backward<'_>, node: &NodeIo) -> Result<(), TapeError> {
        if let Some(mut gradient) = b.grad(node.outputs[0])? {
            // A slice of a concatenation's gradient is copied out first.
            if !is_dense(b.tape, gradient) {
                let ty = b.tape.ty(gradient).clone();
                let part = Contribution {
                    var: gradient,
                    resample: Resample::None,
                };
                gradient = add::sum(b.tape, &[part], &ty)?;
            }
            let ty = b.tape.ty(node.inputs[0]).clone();
            let layout = Layout::dense(ty.nhwc());
            let view = b.tape.view(gradient, ty, layout);
            b.add_plain(node.inputs[0], view);
        }
        Ok(())
    }

    fn is_view(&self) -> bool {
        true
    }

    fn cpu(&self, _call: &Call<'_>) {}
}
