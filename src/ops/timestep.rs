//! Time steps of training: t = 1 + ((x0 T) >> 32), drawn per sample.

use super::launch::THREADS;
use crate::device::call::Call;
use crate::device::cuda::{self, Args, Kernel};
use crate::rng;
use crate::tape::{DType, Mismatch, Op, TensorType};

/// Index t - 1 of each sample (`[n]` of 0..T, U32) from the seed (`[2]`, low and high word) and the
/// sample numbers (`[n, 2]`).
#[derive(Debug)]
pub struct Timestep {
    /// Number of diffusion steps T.
    pub t_max: u32,
}

/// Checks the seed and the sample numbers, the operands of every op that draws.
pub(super) fn check_draw(seed: &TensorType, index: &TensorType) -> Result<usize, Mismatch> {
    Mismatch::check("seed", &TensorType::u32(&[2]), seed)?;
    let n = index.shape.first().copied().unwrap_or(0);
    Mismatch::check("sample numbers", &TensorType::u32(&[n, 2]), index)?;
    Ok(n)
}

/// The 64-bit number that two words make.
pub(super) fn join(words: &[u32]) -> u64 {
    u64::from(words[0]) | u64::from(words[1]) << 32
}

impl Op for Timestep {
    fn name(&self) -> &'static str {
        "timestep"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Mismatch> {
        let n = check_draw(inputs[0], inputs[1])?;
        Ok(vec![TensorType {
            shape: vec![n],
            dtype: DType::U32,
        }])
    }

    fn takes_words(&self) -> bool {
        true
    }

    fn cpu(&self, call: &Call<'_>) {
        let seed = join(call.input_slice(0));
        let index = call.input_slice::<u32>(1).chunks_exact(2);
        for (t, index) in call.output_slice::<u32>(0).iter_mut().zip(index) {
            *t = rng::timestep(seed, join(index), self.t_max) - 1;
        }
    }

    fn cuda(&self, call: &mut cuda::Call<'_>) -> Result<(), cuda::Unsupported> {
        let (seed, index, t) = (call.input(0), call.input(1), call.output(0));
        let args = Args::new().ptr(seed.pointer).ptr(index.pointer);
        let args = args.ptr(t.pointer).u32(self.t_max).int(t.len());
        let grid = [t.len().div_ceil(THREADS), 1, 1];
        let kernel = Kernel::new("timestep", "timestep");
        call.launch(kernel, grid, THREADS, 0, args);
        Ok(())
    }
}
