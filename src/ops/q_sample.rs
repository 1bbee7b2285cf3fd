//! The forward process: eps drawn by Philox, x_t = sqrt(ab_t) x_0 + sqrt(1 - ab_t) eps.

use super::timestep::{check_draw, join};
use crate::device::call::Call;
use crate::rng::{Philox, Stream};
use crate::tape::{DType, Mismatch, Op, TensorType};

/// x_t and eps, both of the shape of x_0. Inputs: x_0 `[n, h, w, c]`, t - 1 `[n]` (U32), the seed `[2]`
/// and the sample numbers `[n, 2]`. Element (h W + w) C + c of eps is normal number that of the
/// sample's noise stream.
#[derive(Debug)]
pub struct QSample {
    /// sqrt(ab_t) and sqrt(1 - ab_t) for t = 1..=T.
    pub coefficients: Vec<[f32; 2]>,
}

impl Op for QSample {
    fn name(&self) -> &'static str {
        "q_sample"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Mismatch> {
        let n = check_draw(inputs[2], inputs[3])?;
        Mismatch::check("type of the pictures", DType::F32, inputs[0].dtype)?;
        Mismatch::check("samples", n, inputs[0].samples())?;
        Mismatch::check("time steps", &TensorType::u32(&[n]), inputs[1])?;
        Ok(vec![inputs[0].clone(); 2])
    }

    fn takes_words(&self) -> bool {
        true
    }

    fn cpu(&self, call: &Call<'_>) {
        let x0 = call.input(0);
        let t = call.input_slice::<u32>(1);
        let seed = join(call.input_slice(2));
        let index = call.input_slice::<u32>(3);
        let rows = x0.rows();
        let outputs = [0, 1].map(|i| call.output(i).split(rows));
        call.pool().run(&outputs, &mut [], |n, parts, _| {
            let [a, b] = self.coefficients[t[n] as usize];
            let [mut xt, mut eps] = parts.many([0, 1]);
            let philox = Philox::new(seed, Stream::Noise, join(&index[2 * n..]));
            // Rows may lie apart, and blocks of four normals go on from row to row.
            let mut normals = [0.0; 4];
            let mut element = 0;
            for r in 0..rows {
                let pixels = xt.row(0, r).iter_mut().zip(eps.row(0, r));
                for ((x, e), &x0) in pixels.zip(x0.row(n, r)) {
                    if element % 4 == 0 {
                        normals = philox.normals4_f32(element / 4);
                    }
                    *e = normals[(element % 4) as usize];
                    *x = a * x0 + b * *e;
                    element += 1;
                }
            }
        });
    }
}
