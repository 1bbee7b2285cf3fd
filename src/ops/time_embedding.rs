//! Sinusoidal embedding of the time step, as diffusers computes it in f32.

use super::launch::{THREADS, per_sample};
use crate::device::call::Call;
use crate::device::cuda::{self, Args, Kernel};
use crate::tape::{Mismatch, Op, TensorType};

/// `[n, dim]` from step indices `[n]` (U32): with h = dim / 2 and
/// freq_j = exp(-ln(10000) j / (h - freq_shift)), the cosines then the sines of t freq_j
/// (`flip_sin_to_cos`), or the sines then the cosines; an odd `dim` ends in a zero.
#[derive(Debug)]
pub struct TimeEmbedding {
    /// Width of the embedding.
    pub dim: usize,
    /// Cosines first.
    pub flip_sin_to_cos: bool,
    /// Subtracted from h in the exponent.
    pub freq_shift: f32,
}

impl TimeEmbedding {
    fn frequencies(&self) -> Vec<f32> {
        let half = self.dim / 2;
        let rate = -(10_000.0_f32.ln());
        (0..half)
            .map(|j| (rate * j as f32 / (half as f32 - self.freq_shift)).exp())
            .collect()
    }
}

impl Op for TimeEmbedding {
    fn name(&self) -> &'static str {
        "time_embedding"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Mismatch> {
        let n = inputs[0].len();
        Mismatch::check("time steps", &TensorType::u32(&[n]), inputs[0])?;
        Ok(vec![TensorType::f32(&[n, self.dim])])
    }

    fn takes_words(&self) -> bool {
        true
    }

    fn cpu(&self, call: &Call<'_>) {
        let t = call.input_slice::<u32>(0);
        let half = self.dim / 2;
        let frequencies = self.frequencies();
        let mut out = call.output(0);
        for (n, &t) in t.iter().enumerate() {
            let row = out.row(n, 0);
            row.fill(0.0);
            for (j, &frequency) in frequencies.iter().enumerate() {
                let (sin, cos) = (t as f32 * frequency).sin_cos();
                let (first, second) = if self.flip_sin_to_cos {
                    (cos, sin)
                } else {
                    (sin, cos)
                };
                row[j] = first;
                row[half + j] = second;
            }
        }
    }

    fn cuda(&self, call: &mut cuda::Call<'_>) -> Result<(), cuda::Unsupported> {
        let (t, out) = (call.input(0), call.output(0));
        let frequencies = call.table(&self.frequencies());
        let args = Args::new().ptr(t.pointer).ptr(frequencies).view(out);
        let kernel = Kernel::new("time_embedding", "time_embedding")
            .define("TX", out.elem)
            .flag("COS_FIRST", self.flip_sin_to_cos);
        call.launch(
            kernel,
            per_sample(self.dim / 2 + 1, 1, t.len()),
            THREADS,
            0,
            args.int(t.len()).int(self.dim),
        );
        Ok(())
    }
}
