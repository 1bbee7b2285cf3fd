//! How far a right implementation may be from the reference.

use super::harness::Harness;
use crate::device::Device;
use crate::device::cuda::Precision;

/// Bounds on the errors of one run.
pub(super) struct Limits {
    /// Of an activation, as a relative length.
    pub forward: f64,
    /// Of one tensor's gradient. The reference may allow more: see [`Limits::peer`].
    pub gradient: f64,
    /// Where the reference tells how far PyTorch is, and what of that holds in this precision; a right
    /// implementation may be off twice as far (gradients that nearly cancel).
    pub peer: (&'static str, f64),
    /// Of all gradients together.
    pub gradients: f64,
    /// Of the loss before the first step, and before later ones. Adam's first step moves a weight whose
    /// gradient is near zero either way.
    pub losses: [f64; 2],
    /// Share of the averaged weights that may be off by more than 1e-6 after three steps; `None` where all
    /// may.
    pub share: Option<f64>,
    /// Of an averaged weight after three steps.
    pub average: f64,
}

impl Limits {
    /// Those of f32: measured on right implementations, with room (see the reference's README).
    const F32: Self = Self {
        forward: 1e-5,
        gradient: 5e-5,
        peer: ("torch_float32_relative_error", 1.0),
        gradients: 5e-5,
        losses: [1e-5, 1e-4],
        share: Some(1e-3),
        average: 3e-4,
    };

    /// Those of `device`.
    ///
    /// Rounding with unit roundoff u is off by u / sqrt(3) on average. A layer rounds the two operands of its
    /// products and their result, which makes u; such errors are independent from layer to layer and grow
    /// with the root of their number D: u sqrt(D) forward. The way back passes each layer twice more, and a
    /// tensor whose gradient nearly cancels doubles it.
    pub fn of(h: &Harness, device: &Device, [lr, decay]: [f32; 2]) -> Self {
        let roundoff = match device.gpu.as_ref().map(|gpu| gpu.precision) {
            None | Some(Precision::F32) => return Self::F32,
            Some(Precision::Tf32) => 2_f64.powi(-11),
            Some(Precision::Bf16) => 2_f64.powi(-8),
        };
        let products = ["conv2d", "linear", "attention"];
        let nodes = h.exe.tape().nodes().iter();
        let depth = nodes.filter(|n| products.contains(&n.op.name())).count() as f64;
        let forward = roundoff * depth.sqrt();
        let gradients = roundoff * (3.0 * depth).sqrt();
        // Adam's first steps are about lr long whatever the gradient, so a gradient near zero may send a weight
        // the other way: 2, 4, then 6 rates apart, and the average follows each with 1 - decay.
        let apart = f64::from(lr) * (1.0 - f64::from(decay)) * (2.0 + 4.0 + 6.0);
        Self {
            forward,
            gradient: 2.0 * gradients,
            // PyTorch has no tf32 on a CPU: its bf16 errors, in proportion to the roundoff.
            peer: ("torch_bfloat16_relative_error", roundoff / 2_f64.powi(-8)),
            gradients,
            losses: [forward; 2],
            share: None,
            average: 1.5 * apart,
        }
    }
}
