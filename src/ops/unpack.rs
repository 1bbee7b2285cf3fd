//! Pictures from bytes: x = u8 / 127.5 - 1, mirrored left to right for every other sample or so.

use super::launch::{THREADS, elements_at_once, per_sample};
use super::timestep::{check_draw, join};
use crate::device::call::Call;
use crate::device::cuda::{self, Args, Kernel};
use crate::rng::{Philox, Stream};
use crate::tape::{DType, Mismatch, Op, TensorType};

/// Picture `[n, h, w, c]` in `[-1, 1]`. Inputs: bytes of that shape, the seed `[2]`, the sample numbers
/// `[n, 2]`; a sample is mirrored if the top bit of word 0 of its flip stream is set.
#[derive(Debug)]
pub struct Unpack {
    /// Mirror at random; otherwise never.
    pub flip: bool,
}

impl Op for Unpack {
    fn name(&self) -> &'static str {
        "unpack"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Mismatch> {
        let n = check_draw(inputs[1], inputs[2])?;
        Mismatch::check("type of the pictures", DType::U8, inputs[0].dtype)?;
        Mismatch::check("samples", n, inputs[0].samples())?;
        Ok(vec![TensorType::f32(&inputs[0].shape)])
    }

    fn takes_words(&self) -> bool {
        true
    }

    fn cpu(&self, call: &Call<'_>) {
        let bytes = call.input_slice::<u8>(0);
        let seed = join(call.input_slice(1));
        let index = call.input_slice::<u32>(2);
        let x = call.output(0);
        let [_, h, w, c] = x.shape();
        call.pool().run(&[x.split(h * w)], &mut [], |n, parts, _| {
            let flip = self.flip
                && Philox::new(seed, Stream::Flip, join(&index[2 * n..])).block(0)[0] >> 31 == 1;
            let picture = &bytes[n * h * w * c..];
            let mut x = parts.get(0);
            for r in 0..h * w {
                let from = if flip { r / w * w + (w - 1 - r % w) } else { r };
                for (x, &byte) in x.row(0, r).iter_mut().zip(&picture[from * c..]) {
                    *x = f32::from(byte) / 127.5 - 1.0;
                }
            }
        });
    }

    fn cuda(&self, call: &mut cuda::Call<'_>) -> Result<(), cuda::Unsupported> {
        let (bytes, x) = (call.input(0), call.output(0));
        let [n, _, w, c] = x.shape;
        let vector = elements_at_once(&[x]);
        let args = Args::new().view(bytes).view(x);
        let args = args.ptr(call.input(1).pointer).ptr(call.input(2).pointer);
        let kernel = Kernel::new("unpack", "unpack")
            .define("TX", x.elem)
            .define("VX", vector)
            .flag("FLIP_ROWS", self.flip);
        call.launch(
            kernel,
            per_sample(x.rows() * c, vector, n),
            THREADS,
            0,
            args.int(n).int(x.rows()).int(w).int(c),
        );
        Ok(())
    }
}
