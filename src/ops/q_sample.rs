//! The forward process: eps drawn by Philox, x_t = sqrt(ab_t) x_0 + sqrt(1 - ab_t) eps.

use super::timestep::{check_draw, join};
use crate::device::call::Call;
use crate::rng::{Philox, Stream};
use crate::tape::{DType, Mismatch, Op, TensorType};

/// x_t and eps, both of the shape of x_0. Inputs: x_0 [n, h, w, c], t - 1 [n] (U32), the seed [2]
/// and the sample numbers [n, 2]. Element (h W + w) C + c of eps is normal number that of the
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
        let (n, len) = (x0.n(), x0.rows() * x0.cols());
        let outputs = [0, 1].map(|i| call.output(i).reshape(n).split(1));
        call.pool().run(&outputs, &mut [], |_, parts, _| {
            let (_, n) = parts.place(0);
            let [a, b] = self.coefficients[t[n] as usize];
            let [mut xt, mut eps] = parts.many([0, 1]);
            let (xt, eps) = (xt.row(0, 0), eps.row(0, 0));
            debug_assert_eq!(eps.len(), len);
            Philox::new(seed, Stream::Noise, join(&index[2 * n..])).fill_normals(eps);
            for r in 0..x0.rows() {
                let range = r * x0.cols()..(r + 1) * x0.cols();
                let pixels = xt[range.clone()].iter_mut().zip(&eps[range]);
                for ((x, &e), &x0) in pixels.zip(x0.row(n, r)) {
                    *x = a * x0 + b * e;
                }
            }
        });
    }
}
