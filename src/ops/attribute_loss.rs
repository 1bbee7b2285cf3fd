//! Losses of K attributes' logits: binary cross-entropy, and the NGMG entropy in its forms (paper
//! Eq. 16-18, repaired; the formulas stand in [`crate::gmm::entropy`]). One pass makes the loss and its
//! exact gradient; the NGMG factors are constants.

use crate::device::call::Call;
use crate::device::view::RowsMut;
use crate::gmm::entropy::{EntropyError, EntropyLoss, EntropySpec};
use crate::gmm::ngmg::Reach;
use crate::tape::backward::Backward;
use crate::tape::{DType, Mismatch, NodeIo, Op, Tape, TapeError, TensorType, Var, Workspace};

/// Up to so many attributes the kernel is evaluated whole; beyond, six sigma far, where a weight is off
/// by less than 1.5e-8 and the work is O(K).
const DENSE: usize = 128;

/// The loss of K attributes, times a factor.
///
/// # Errors
/// No attributes; one attribute where the loss is made of neighbours alone; a sigma, floor or gain out
/// of range.
pub fn entropy_loss(mut spec: EntropySpec, k: usize) -> Result<EntropyLoss, EntropyError> {
    if k > DENSE {
        spec.reach = Reach::Sigmas(6.0);
    }
    EntropyLoss::new(spec, k)
}

/// Records `weight` times the loss of `logits` `[n, k]` against `attributes` `[n, k]` (U8, 0 or 1):
/// the mean over all n k elements (`[1]`) and of each sample (`[n, 1]`).
///
/// # Errors
/// Shapes that do not fit.
pub fn attribute_loss(
    tape: &mut Tape,
    logits: Var,
    attributes: Var,
    loss: EntropyLoss,
    weight: f64,
) -> Result<[Var; 2], TapeError> {
    let out = tape.push(AttributeLoss { loss, weight }, &[logits, attributes])?;
    Ok([out[0], out[1]])
}

/// See [`attribute_loss`]. Outputs: the loss, each sample's, and the gradient in the logits `[n, k]`.
#[derive(Debug)]
pub struct AttributeLoss {
    loss: EntropyLoss,
    weight: f64,
}

impl AttributeLoss {
    /// f64 numbers of one task: logits, labels, gradient, and the loss's own.
    fn numbers(&self) -> usize {
        3 * self.loss.attributes() + self.loss.row_buffer()
    }
}

impl Op for AttributeLoss {
    fn name(&self) -> &'static str {
        "attribute_loss"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Mismatch> {
        let [n, k] = [inputs[0].samples(), self.loss.attributes()];
        Mismatch::check("logits", &TensorType::f32(&[n, k]), inputs[0])?;
        Mismatch::check("type of the attributes", DType::U8, inputs[1].dtype)?;
        Mismatch::check("attributes", &TensorType::u8(&[n, k]), inputs[1])?;
        Ok(vec![
            TensorType::f32(&[1]),
            TensorType::f32(&[n, 1]),
            inputs[0].clone(),
        ])
    }

    fn takes_words(&self) -> bool {
        true
    }

    fn differentiable(&self) -> bool {
        true
    }

    fn vjp(&self, b: &mut Backward<'_>, node: &NodeIo) -> Result<(), TapeError> {
        b.add_plain(node.inputs[0], node.outputs[2]);
        Ok(())
    }

    fn workspace(&self, _: &[&TensorType], _: &[&TensorType]) -> Workspace {
        Workspace {
            shared: 0,
            // In f32 numbers, with room to start at a multiple of eight bytes.
            per_thread: (2 * self.numbers() + 2).next_multiple_of(16),
        }
    }

    fn cpu(&self, call: &Call<'_>) {
        let logits = call.input(0);
        let attributes = call.input_slice::<u8>(1);
        let samples = call.output_slice::<f32>(1);
        let (n, k) = (logits.n(), logits.cols());
        let scale = self.weight / (n * k) as f64;
        let outputs = [
            RowsMut::of(samples, [n, 1, 1, 1]).split(1),
            call.output(2).split(1),
        ];
        call.pool()
            .run(&outputs, call.scratch(), |n, parts, scratch| {
                let (_, numbers, _) = bytemuck::pod_align_to_mut::<f32, f64>(scratch);
                let (z, rest) = numbers.split_at_mut(k);
                let (y, rest) = rest.split_at_mut(k);
                let (grad, buffer) = rest.split_at_mut(k);
                for (z, &logit) in z.iter_mut().zip(logits.row(n, 0)) {
                    *z = f64::from(logit);
                }
                for (y, &label) in y.iter_mut().zip(&attributes[n * k..]) {
                    *y = f64::from(label);
                }
                let buffer = &mut buffer[..self.loss.row_buffer()];
                let sum = self.loss.row_serial((z, y), grad, buffer, scale);
                parts.get(0).row(0, 0)[0] = (self.weight * sum / k as f64) as f32;
                for (out, grad) in parts.get(1).row(0, 0).iter_mut().zip(&*grad) {
                    *out = *grad as f32;
                }
            });
        let sum: f64 = samples.iter().map(|&s| f64::from(s)).sum();
        call.output_slice::<f32>(0)[0] = (sum / n as f64) as f32;
    }
}
