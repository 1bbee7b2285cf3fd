//! The negative Gaussian mixture gradient of a batch of weights: NGMG(c, t) = M min(c - t, 0) (paper
//! Eq. 13; [`crate::gmm::ngmg`] has the conventions). On a uniform grid the kernel matrix has 2 R + 1
//! different entries and is never stored; off it, it is stored as far as it reaches.

use super::launch::{MOST_BLOCKS, THREADS, Window, window_threads};
use crate::device::call::Call;
use crate::device::cuda::{self, Args};
use crate::gmm::ngmg::{Kernel, KernelSpec, NgmgError, Reach};
use crate::tape::{Mismatch, Op, Tape, TapeError, TensorType, Var, Workspace};

/// Up to so many components the kernel is evaluated whole; beyond, six sigma far (1.5e-8 of an entry).
const DENSE: usize = 128;

/// M of `n` components at mu_j = j.
///
/// # Errors
/// Fewer than two components; a sigma that is not positive; a row of zeros that should be normalised.
pub fn grid_kernel(n: usize, mut spec: KernelSpec) -> Result<Kernel, NgmgError> {
    if n > DENSE {
        spec.reach = Reach::Sigmas(6.0);
    }
    Kernel::grid(n, spec)
}

/// Records NGMG of `current` against `target`, both `[b, n]` with rows that are weights: `[b, n]`, from
/// minus the kernel's largest entry to 0. It has no gradient of its own: it is one.
///
/// # Errors
/// Shapes that do not fit each other or the kernel.
pub fn ngmg(tape: &mut Tape, current: Var, target: Var, kernel: Kernel) -> Result<Var, TapeError> {
    tape.push_one(Ngmg { kernel }, &[current, target])
}

/// See [`ngmg`].
#[derive(Debug)]
pub struct Ngmg {
    kernel: Kernel,
}

impl Op for Ngmg {
    fn name(&self) -> &'static str {
        "ngmg"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Mismatch> {
        let want = TensorType::f32(&[inputs[0].samples(), self.kernel.len()]);
        Mismatch::check("current weights", &want, inputs[0])?;
        Mismatch::check("target weights", &want, inputs[1])?;
        Ok(vec![want])
    }

    fn workspace(&self, _: &[&TensorType], _: &[&TensorType]) -> Workspace {
        Workspace {
            shared: 0,
            // L and M L in f64, with room to start at a multiple of eight bytes.
            per_thread: (4 * self.kernel.len() + 2).next_multiple_of(16),
        }
    }

    fn cpu(&self, call: &Call<'_>) {
        let (current, target) = (call.input(0), call.input(1));
        call.pool().run(
            &[call.output(0).split(1)],
            call.scratch(),
            |b, parts, scratch| {
                let (_, numbers, _) = bytemuck::pod_align_to_mut::<f32, f64>(scratch);
                let (deficit, rest) = numbers.split_at_mut(self.kernel.len());
                let product = &mut rest[..self.kernel.len()];
                let pairs = current.row(b, 0).iter().zip(target.row(b, 0));
                for (d, (&c, &t)) in deficit.iter_mut().zip(pairs) {
                    *d = (f64::from(c) - f64::from(t)).min(0.0);
                }
                self.kernel.product_serial(deficit, product);
                for (out, g) in parts.get(0).row(0, 0).iter_mut().zip(&*product) {
                    *out = *g as f32;
                }
            },
        );
    }

    fn cuda(&self, call: &mut cuda::Call<'_>) -> Result<(), cuda::Unsupported> {
        if self.kernel.taps().is_some() {
            self.on_the_grid(call)
        } else {
            self.off_the_grid(call);
            Ok(())
        }
    }
}

/// Rows of the matrix that a block makes, and samples that it makes at once: `kernels/ngmg.cu`.
const ROWS: usize = THREADS / 32;
const SAMPLES: usize = 4;

impl Ngmg {
    fn entry(call: &cuda::Call<'_>, entry: &'static str, threads: usize) -> cuda::Kernel {
        cuda::Kernel::new("ngmg", entry)
            .define("TC", call.input(0).elem)
            .define("TT", call.input(1).elem)
            .define("TO", call.output(0).elem)
            .define("THREADS", threads)
            .define("SAMPLES", SAMPLES)
    }

    fn on_the_grid(&self, call: &mut cuda::Call<'_>) -> Result<(), cuda::Unsupported> {
        let (current, target, out) = (call.input(0), call.input(1), call.output(0));
        let (b, n) = (out.n(), out.c());
        let window = Window::new(call, &self.kernel)?;
        let threads = window_threads(n);
        let args = Args::new().view(current).view(target);
        let args = args.ptr(window.taps).ptr(window.scales).view(out);
        let args = args.u32(window.per_row.into()).int(window.radius);
        let kernel = Self::entry(call, "ngmg", threads);
        let grid = [n.div_ceil(4 * threads), b.min(MOST_BLOCKS), 1];
        call.launch(kernel, grid, threads, 0, args.int(b).int(n));
        Ok(())
    }

    /// Every row's entries in f32, with its first column and the place where they start. What is far below
    /// one in a row may be all that it has, so each is a share of its row's largest.
    fn off_the_grid(&self, call: &mut cuda::Call<'_>) {
        let (current, target, out) = (call.input(0), call.input(1), call.output(0));
        let (b, n) = (out.n(), out.c());
        let (mut entries, mut scales): (Vec<f32>, Vec<f64>) = Default::default();
        let mut rows: Vec<u32> = Vec::with_capacity(2 * n + 2);
        for j in 0..n {
            let (first, values) = self.kernel.row(j);
            let largest = values.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
            rows.extend([first as u32, entries.len() as u32]);
            entries.extend(values.iter().map(|&v| (v / largest) as f32));
            scales.push(self.kernel.scale(j) * largest);
        }
        rows.extend([0, entries.len() as u32]);
        let (entries, rows) = (call.table(&entries), call.table(&rows));
        let args = Args::new().view(current).view(target);
        let args = args.ptr(entries).ptr(rows).ptr(call.table(&scales));
        let args = args.view(out);
        let kernel = Self::entry(call, "ngmg_rows", THREADS);
        let samples = b.div_ceil(SAMPLES).min(MOST_BLOCKS);
        let grid = [n.div_ceil(ROWS), samples, 1];
        call.launch(kernel, grid, THREADS, 0, args.int(b).int(n));
    }
}
