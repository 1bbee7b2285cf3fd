//! Clipping by the global norm, AdamW with decoupled decay, and the moving average of the weights:
//! one pass over the flat arenas, skipped as a whole when a gradient is not finite.

use super::launch::THREADS;
use crate::device::call::Call;
use crate::device::cuda::{self, Args, Kernel};
use crate::device::vector;
use crate::device::view::RowsMut;
use crate::tape::{Arena, Mismatch, Op, Tape, TapeError, TensorType, Var, Workspace};

/// Constants of the optimizer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWConfig {
    /// Decay of the first and second moments.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Weights shrink by rate * decay per step.
    pub weight_decay: f64,
    /// Gradients are scaled down to this global norm; `None` leaves them.
    pub clip: Option<f64>,
}

/// Words of [`Arena::Counters`]: updates made, updates skipped.
pub const COUNTERS: usize = 2;

/// Records the update of `elements` weights. `rates` is an input of two numbers: the learning rate
/// and the decay of the moving average. Returns `[global norm, clip factor]` (`[2]`); the factor is 0
/// when the update was skipped.
///
/// # Errors
/// Shapes that do not fit.
pub fn adamw(
    tape: &mut Tape,
    elements: usize,
    rates: Var,
    config: AdamWConfig,
) -> Result<Var, TapeError> {
    Mismatch::check("rates", &TensorType::f32(&[2]), tape.ty(rates))
        .map_err(|m| tape.error("adamw", m))?;
    let flat = TensorType::f32(&[elements]);
    let [grads, params, m, v, ema] = [
        ("grads", Arena::Grads),
        ("params", Arena::Params),
        ("adam_m", Arena::AdamM),
        ("adam_v", Arena::AdamV),
        ("ema", Arena::Ema),
    ]
    .map(|(name, arena)| tape.state(name, flat.clone(), arena, 0));
    let counters = tape.state("counters", TensorType::u32(&[COUNTERS]), Arena::Counters, 0);
    let norm = tape.push_one(GlobalNorm { clip: config.clip }, &[grads])?;
    tape.push_into(
        AdamW { config },
        &[grads, norm, rates],
        vec![params, m, v, ema, counters],
    );
    Ok(norm)
}

/// Elements of a task; partial sums are added in task order.
const CHUNK: usize = 1 << 15;

fn kernel(entry: &'static str, copy: bool) -> Kernel {
    Kernel::new("adamw", entry).flag("COPY", copy)
}

/// Blocks that walk over `elements`, four at a time.
fn blocks(elements: usize, call: &cuda::Call<'_>) -> usize {
    let most = 16 * call.device().sms;
    elements.div_ceil(4 * THREADS).clamp(1, most)
}

/// `[norm of all gradients, factor that clips them (0 if the norm is not finite)]`.
#[derive(Debug)]
pub struct GlobalNorm {
    clip: Option<f64>,
}

impl Op for GlobalNorm {
    fn name(&self) -> &'static str {
        "global_norm"
    }

    fn infer(&self, _: &[&TensorType]) -> Result<Vec<TensorType>, Mismatch> {
        Ok(vec![TensorType::f32(&[2])])
    }

    fn workspace(&self, inputs: &[&TensorType], _: &[&TensorType]) -> Workspace {
        // Partial sums are f64: two numbers each.
        Workspace {
            shared: 2 * inputs[0].len().div_ceil(CHUNK),
            per_thread: 0,
        }
    }

    fn cpu(&self, call: &Call<'_>) {
        let grads = call.input_slice::<f32>(0);
        let sums = call.shared();
        let split = RowsMut::of(sums, [1, 1, grads.len().div_ceil(CHUNK), 2]).split(1);
        call.pool().run(&[split], &mut [], |task, parts, _| {
            let chunk = &grads[task * CHUNK..grads.len().min((task + 1) * CHUNK)];
            let sum = vector::sum_of_squares(chunk).to_bits();
            let words = [
                f32::from_bits(sum as u32),
                f32::from_bits((sum >> 32) as u32),
            ];
            parts.get(0).row(0, 0).copy_from_slice(&words);
        });
        let total: f64 = sums
            .chunks_exact(2)
            .map(|w| f64::from_bits(u64::from(w[0].to_bits()) | u64::from(w[1].to_bits()) << 32))
            .sum();
        let norm = total.sqrt();
        let factor = match self.clip {
            _ if !norm.is_finite() => 0.0,
            Some(clip) if norm > clip => clip / norm,
            _ => 1.0,
        };
        call.output_slice::<f32>(0)
            .copy_from_slice(&[norm as f32, factor as f32]);
    }

    fn cuda(&self, call: &mut cuda::Call<'_>) -> Result<(), cuda::Unsupported> {
        let (grads, out) = (call.input(0), call.output(0));
        let blocks = blocks(grads.len(), call);
        let part = call.scratch(8 * blocks);
        let count = grads.len() as u64;
        let args = Args::new().ptr(grads.pointer).ptr(part).u64(count);
        call.launch(
            kernel("global_norm", false),
            [blocks, 1, 1],
            THREADS,
            0,
            args,
        );
        let args = Args::new().ptr(part).int(blocks);
        let args = args.f64(self.clip.unwrap_or(-1.0)).ptr(out.pointer);
        call.launch(
            kernel("global_norm_finish", false),
            [1; 3],
            THREADS,
            0,
            args,
        );
        Ok(())
    }
}

/// w <- w (1 - lr wd) - lr (m / (1 - b1^k)) / (sqrt(v / (1 - b2^k)) + eps), and the average. Inputs:
/// gradients, `[norm, factor]`, `[rate, average's decay]`. Outputs (updated): w, m, v, average, counters.
#[derive(Debug)]
pub struct AdamW {
    config: AdamWConfig,
}

impl Op for AdamW {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn infer(&self, _: &[&TensorType]) -> Result<Vec<TensorType>, Mismatch> {
        Ok(Vec::new())
    }

    fn cpu(&self, call: &Call<'_>) {
        let grads = call.input_slice::<f32>(0);
        let clip = call.input_slice::<f32>(1)[1];
        let rates = call.input_slice::<f32>(2);
        let counters = call.output_slice::<u32>(4);
        if clip == 0.0 {
            counters[1] += 1;
            return;
        }
        counters[0] += 1;
        let k = f64::from(counters[0]);
        let [beta1, beta2] = self.config.betas;
        let step = vector::AdamW {
            clip,
            lr: rates[0],
            beta1: beta1 as f32,
            beta2: beta2 as f32,
            fresh1: (1.0 - beta1) as f32,
            fresh2: (1.0 - beta2) as f32,
            eps: self.config.eps as f32,
            weight_decay: self.config.weight_decay as f32,
            correct1: (1.0 / (1.0 - beta1.powf(k))) as f32,
            correct2: (1.0 / (1.0 - beta2.powf(k)).sqrt()) as f32,
            ema_decay: rates[1],
        };
        // As rows of one element, so that tasks are ranges of elements.
        let outputs = [0, 1, 2, 3].map(|i| {
            let flat = call.output(i);
            let len = flat.cols();
            flat.reshape(len).split(CHUNK)
        });
        call.pool().run(&outputs, &mut [], |_, parts, _| {
            let (_, first) = parts.place(0);
            let [mut w, mut m, mut v, mut ema] = parts.many([0, 1, 2, 3]);
            let len = w.rows();
            let flat = [&mut w, &mut m, &mut v, &mut ema].map(|x| x.flat().unwrap_or_default());
            let [w, m, v, ema] = flat;
            vector::adamw(step, &grads[first..first + len], w, m, v, ema);
        });
    }

    fn cuda(&self, call: &mut cuda::Call<'_>) -> Result<(), cuda::Unsupported> {
        let [grads, norm, rates] = [0, 1, 2].map(|i| call.input(i));
        let [w, m, v, ema, counters] = [0, 1, 2, 3, 4].map(|i| call.output(i).pointer);
        let copy = call.output_half(0);
        let [beta1, beta2] = self.config.betas;
        let corrections = call.scratch(8);
        let args = Args::new().ptr(norm.pointer).ptr(counters);
        let args = args.ptr(corrections).f64(beta1).f64(beta2);
        call.launch(kernel("adamw_begin", false), [1; 3], 1, 0, args);
        let args = Args::new().ptr(grads.pointer).ptr(norm.pointer);
        let args = args.ptr(rates.pointer).ptr(corrections);
        let args = args.ptr(w).ptr(m).ptr(v).ptr(ema);
        let args = args.ptr(copy.map_or(0, |view| view.pointer));
        let args = args.f32(beta1 as f32).f32((1.0 - beta1) as f32);
        let args = args.f32(beta2 as f32).f32((1.0 - beta2) as f32);
        let args = args.f32(self.config.eps as f32);
        let args = args.f32(self.config.weight_decay as f32);
        let grid = [blocks(grads.len(), call), 1, 1];
        let args = args.u64(grads.len() as u64);
        call.launch(kernel("adamw", copy.is_some()), grid, THREADS, 0, args);
        Ok(())
    }
}
