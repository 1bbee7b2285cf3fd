//! Losses of K attributes' logits: binary cross-entropy, and the NGMG entropy in its forms (paper
//! Eq. 16-18, repaired; the formulas stand in [`crate::gmm::entropy`]). One pass makes the loss and its
//! exact gradient; the NGMG factors are constants.

use super::launch::{MOST_BLOCKS, Window, window_threads};
use crate::device::call::Call;
use crate::device::cuda::{self, Args, Kernel};
use crate::device::view::RowsMut;
use crate::gmm::entropy::{EntropyError, EntropyLoss, EntropySpec, Variant};
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

    fn cuda(&self, call: &mut cuda::Call<'_>) -> Result<(), cuda::Unsupported> {
        let window = match self.loss.kernel() {
            Some(kernel) => Some(Window::new(call, kernel)?),
            None => None,
        };
        let (n, k) = (call.input(0).n(), call.input(0).c());
        let tiles = k.div_ceil(4 * window_threads(k));
        let part = call.scratch(8 * n * tiles);
        let launch = Launches {
            op: self,
            window,
            n,
            k,
            tiles,
            part,
        };
        match self.loss.spec().variant {
            Variant::Softmax | Variant::SoftmaxCe => launch.softmax(call),
            _ => launch.logistic(call),
        }
        launch.finish(call);
        Ok(())
    }
}

/// The launches of one loss (kernels/attribute_loss.cu).
struct Launches<'a> {
    op: &'a AttributeLoss,
    window: Option<Window>,
    n: usize,
    k: usize,
    /// Blocks of a sample.
    tiles: usize,
    /// The loss's sum over each of them.
    part: u64,
}

impl Launches<'_> {
    fn launch(&self, call: &mut cuda::Call<'_>, entry: &'static str, grid: [usize; 3], args: Args) {
        let variant = match self.op.loss.spec().variant {
            Variant::Gated => 0,
            Variant::Bce => 1,
            Variant::Split => 2,
            Variant::TwoSided => 3,
            Variant::Literal => 4,
            Variant::Softmax => 5,
            Variant::SoftmaxCe => 6,
        };
        let threads = window_threads(self.k);
        let kernel = Kernel::new("attribute_loss", entry)
            .define("TZ", call.input(0).elem)
            .define("TD", call.output(2).elem)
            .define("THREADS", threads)
            .define("VARIANT", variant)
            .flag("WINDOW", self.window.is_some());
        call.launch(kernel, grid, threads, 0, args);
    }

    fn grid(&self) -> [usize; 3] {
        [self.tiles, self.n.min(MOST_BLOCKS), 1]
    }

    /// Weight and 1 / (n k): the factor on a term's slope.
    fn scale(&self) -> f64 {
        self.op.weight / (self.n * self.k) as f64
    }

    fn window(&self, args: Args) -> Args {
        let none = Window {
            taps: 0,
            scales: 0,
            per_row: false,
            radius: 0,
        };
        let window = self.window.unwrap_or(none);
        args.ptr(window.taps)
            .ptr(window.scales)
            .int(window.radius)
            .u32(window.per_row.into())
    }

    fn logistic(&self, call: &mut cuda::Call<'_>) {
        let spec = self.op.loss.spec();
        let args = Args::new().view(call.input(0)).view(call.input(1));
        let args = self.window(args).view(call.output(2)).ptr(self.part);
        let args = args.f64(spec.floor).f64(spec.gain);
        let args = args.f64(self.scale()).int(self.n).int(self.k);
        self.launch(call, "attribute_loss", self.grid(), args);
    }

    fn softmax(&self, call: &mut cuda::Call<'_>) {
        let (logits, attributes) = (call.input(0), call.input(1));
        let (n, k) = (self.n, self.k);
        let (rows, weight) = (call.scratch(24 * n), call.scratch(4 * n * k));
        let totals = call.scratch(8 * n * self.tiles);
        let args = Args::new().view(logits).view(attributes).ptr(rows);
        let args = args.int(n).int(k);
        let grid = [n.min(MOST_BLOCKS), 1, 1];
        self.launch(call, "attribute_softmax_rows", grid, args);
        let args = Args::new().view(logits).view(attributes).ptr(rows);
        let args = self.window(args).ptr(weight).ptr(totals).ptr(self.part);
        let args = args.int(n).int(k);
        self.launch(call, "attribute_softmax", self.grid(), args);
        let args = Args::new().view(logits).ptr(rows).ptr(weight).ptr(totals);
        let args = args.view(call.output(2)).f64(self.scale());
        let args = args.int(n).int(k);
        self.launch(call, "attribute_softmax_grad", self.grid(), args);
    }

    /// Each sample's loss and their mean.
    fn finish(&self, call: &mut cuda::Call<'_>) {
        let (loss, samples) = (call.output(0), call.output(1));
        let args = Args::new().ptr(self.part).view(samples);
        let args = args.ptr(loss.pointer).f64(self.op.weight);
        let args = args.int(self.n).int(self.tiles).int(self.k);
        self.launch(call, "attribute_loss_finish", [1; 3], args);
    }
}
