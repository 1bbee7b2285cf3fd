//! The forward process: eps drawn by Philox, x_t = sqrt(ab_t) x_0 + sqrt(1 - ab_t) eps.

use super::launch::{THREADS, elements_at_once, per_sample};
use super::timestep::{check_draw, join};
use crate::device::call::Call;
use crate::device::cuda::{self, Args, Kernel};
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

    fn cuda(&self, call: &mut cuda::Call<'_>) -> Result<(), cuda::Unsupported> {
        let (x0, xt, eps) = (call.input(0), call.output(0), call.output(1));
        // A block of the generator makes four numbers: fewer at once are stored one by one.
        let vector = match elements_at_once(&[x0, xt, eps]) {
            1..4 => 1,
            more => more,
        };
        let table = call.table(&self.coefficients);
        let args = Args::new().view(x0).ptr(call.input(1).pointer).ptr(table);
        let args = args.view(xt).view(eps);
        let args = args.ptr(call.input(2).pointer).ptr(call.input(3).pointer);
        let kernel = Kernel::new("q_sample", "q_sample")
            .define("TX0", x0.elem)
            .define("TX", xt.elem)
            .define("TE", eps.elem)
            .define("VX", vector);
        call.launch(
            kernel,
            per_sample(x0.rows() * x0.c(), vector.max(4), x0.n()),
            THREADS,
            0,
            args.int(x0.n()).int(x0.rows()).int(x0.c()),
        );
        Ok(())
    }

    fn exact(&self, i: usize) -> bool {
        // The noise is the target of the loss.
        i == 1
    }
}
