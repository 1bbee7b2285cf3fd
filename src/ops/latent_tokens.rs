//! Conditioning tokens: tok_k = A_k (c_k + Z_k), Z_k drawn from a Gaussian mixture (paper Eq. 8-9).
//! An attribute is off or on, 0 or 1; or, in sampling, anything between and beyond: a level.
//!
//! Nothing is stored: Z is a function of (seed, stream, number), the code c_k of the feature alone.

use super::launch::{THREADS, channels_at_once, per_sample};
use super::timestep::{check_draw, join};
use crate::device::call::Call;
use crate::device::cuda::{self, Args, Kernel};
use crate::rng::{self, CODE_SEED, Philox, Stream};
use crate::tape::{DType, Mismatch, Op, TensorType};

/// Tokens `[n, k, width]`. Inputs: attributes `[n, k]` (U8, 0 or 1; or F32, levels), the seed `[2]`, and the numbers `[n, 2]`
/// of the latents (picture's row, or sample number).
#[derive(Debug)]
pub struct LatentTokens {
    /// Elements of a token.
    pub width: usize,
    /// [`Stream::LatentFixed`] or [`Stream::LatentFresh`].
    pub stream: Stream,
    /// Means of the equally weighted components.
    pub means: Vec<f32>,
    /// Standard deviation of every component.
    pub sigma: f32,
    /// Factor gamma on the feature code; 0 leaves it out.
    pub code: f32,
}

impl LatentTokens {
    /// The token of one feature at this level.
    fn fill(&self, (seed, index): (u64, u64), feature: usize, level: f32, out: &mut [f32]) {
        if level == 0.0 {
            return out.fill(0.0);
        }
        let latent = Philox::new(seed, self.stream, index);
        let code = Philox::new(CODE_SEED, Stream::FeatureCode, feature as u64);
        let components = self.means.len() as u32;
        for (n, out) in out.iter_mut().enumerate() {
            let element = feature * self.width + n;
            let words = latent.block((element / 2) as u32);
            let lane = element % 2;
            let mean = self.means[rng::scale(words[lane], components) as usize];
            let normal = rng::box_muller_f32(words[2], words[3])[lane];
            let bit = code.block((n / 128) as u32)[n / 32 % 4] >> (n % 32) & 1;
            let sign = if bit == 1 { 1.0 } else { -1.0 };
            *out = level * (self.code * sign + (mean + self.sigma * normal));
        }
    }
}

impl Op for LatentTokens {
    fn name(&self) -> &'static str {
        "latent_tokens"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Mismatch> {
        let n = check_draw(inputs[1], inputs[2])?;
        let k = inputs[0].channels();
        if inputs[0].dtype != DType::F32 {
            Mismatch::check("attributes", &TensorType::u8(&[n, k]), inputs[0])?;
        }
        Mismatch::check("attributes", &[n, k][..], &inputs[0].shape[..])?;
        Ok(vec![TensorType::f32(&[n, k, self.width])])
    }

    fn takes_words(&self) -> bool {
        true
    }

    fn cpu(&self, call: &Call<'_>) {
        let levels: Vec<f32> = match call.input_element(0) {
            4 => call.input_slice(0).to_vec(),
            _ => call
                .input_slice::<u8>(0)
                .iter()
                .map(|&a| a.into())
                .collect(),
        };
        let seed = join(call.input_slice(1));
        let index = call.input_slice::<u32>(2);
        let tokens = call.output(0);
        let k = tokens.rows();
        call.pool().run(&[tokens.split(k)], &mut [], |n, parts, _| {
            let mut tokens = parts.get(0);
            for feature in 0..k {
                let draw = (seed, join(&index[2 * n..]));
                let level = levels[n * k + feature];
                self.fill(draw, feature, level, tokens.row(0, feature));
            }
        });
    }

    fn cuda(&self, call: &mut cuda::Call<'_>) -> Result<(), cuda::Unsupported> {
        let (attributes, tokens) = (call.input(0), call.output(0));
        let (n, k) = (tokens.n(), tokens.rows());
        let vector = channels_at_once(&[tokens]);
        let means = call.table(&self.means);
        let args = Args::new().view(attributes).view(tokens).ptr(means);
        let args = args.ptr(call.input(1).pointer).ptr(call.input(2).pointer);
        let args = args.int(self.means.len()).f32(self.sigma).f32(self.code);
        let kernel = Kernel::new("latent_tokens", "latent_tokens")
            .define("TA", attributes.elem)
            .define("TX", tokens.elem)
            .define("VX", vector)
            .define("STREAM", self.stream as u32);
        call.launch(
            kernel,
            per_sample(k * self.width, vector.max(2), n),
            THREADS,
            0,
            args.int(n).int(k).int(self.width),
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Case tokens/2x8 of the paper's reference vectors.
    #[test]
    fn tokens_match_the_reference() {
        let op = LatentTokens {
            width: 8,
            stream: Stream::LatentFixed,
            means: vec![-1.0, 0.0, 1.0],
            sigma: 0.2,
            code: 1.0,
        };
        let mut token = [0.0; 8];
        op.fill((11, 5), 0, 1.0, &mut token);
        let want = [
            -0.054878596127124646,
            1.1026630483198692,
            -0.31966744370312195,
            0.9266019705529893,
            -2.1887475631649695,
            0.6624014078813568,
            0.8766412132756839,
            -0.2540218472451621,
        ];
        for (got, want) in token.iter().zip(want) {
            assert!(
                (f64::from(*got) - want).abs() < 2e-6 + 1e-5 * want.abs(),
                "{got} {want}"
            );
        }
    }
}
