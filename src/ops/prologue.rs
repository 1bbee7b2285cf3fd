//! What a convolution or linear layer does to its input while reading it, and the way back.
//!
//! act = SiLU(GN(x) (1 + scale) + shift), each part optional, so that nothing normalised or
//! activated is ever stored. With mean mu and inverse deviation rho of the group,
//! a = rho gamma (1 + s) and b = (beta - mu rho gamma)(1 + s) + t:  act = SiLU(a x + b).

mod gpu;

pub(super) use gpu::{NormArgs, activated, table};

use crate::device::call::Call;
use crate::device::cuda;
use crate::device::pool::Parts;
use crate::device::simd::multiversion;
use crate::device::vector::{self, silu_one};
use crate::device::view::{Rows, RowsMut};
use crate::tape::backward::{Backward, Contribution, Mode, Resample};
use crate::tape::{Mismatch, NodeIo, Op, TapeError, TensorType, Var, Workspace};

/// Group norm of a prologue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Norm {
    /// Groups of consecutive channels.
    pub groups: usize,
    /// A scale and a shift per sample and channel follow (`[B, 2 C]`: scales, then shifts).
    pub scale_shift: bool,
}

/// What happens to the input on its way in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prologue {
    /// Group norm; its operands are statistics `[B, 2 G]`, gamma `[C]`, beta `[C]` and, if asked for,
    /// scale and shift.
    pub norm: Option<Norm>,
    /// SiLU afterwards.
    pub silu: bool,
}

/// Operands of a norm, as the model hands them to an op.
#[derive(Clone, Copy, Debug)]
pub struct NormVars {
    /// Groups of consecutive channels.
    pub groups: usize,
    /// Means, then inverse deviations, `[B, 2 G]`.
    pub stats: Var,
    /// `[C]`.
    pub gamma: Var,
    /// `[C]`.
    pub beta: Var,
    /// Scales, then shifts, `[B, 2 C]`.
    pub scale_shift: Option<Var>,
}

impl NormVars {
    /// The norm without its operands.
    pub fn norm(&self) -> Norm {
        Norm {
            groups: self.groups,
            scale_shift: self.scale_shift.is_some(),
        }
    }

    /// The operands in the order that ops take them.
    pub fn operands(&self) -> Vec<Var> {
        let mut out = vec![self.stats, self.gamma, self.beta];
        out.extend(self.scale_shift);
        out
    }
}

impl Prologue {
    /// SiLU of an optional norm.
    pub fn new(norm: Option<&NormVars>, silu: bool) -> Self {
        Self {
            norm: norm.map(NormVars::norm),
            silu,
        }
    }

    /// True if the input is taken as it is.
    pub fn is_identity(&self) -> bool {
        self.norm.is_none() && !self.silu
    }

    /// Number of operands it adds to an op.
    pub fn operands(&self) -> usize {
        self.norm.map_or(0, |n| 3 + usize::from(n.scale_shift))
    }

    /// Checks the operands of the norm of `x`.
    ///
    /// # Errors
    /// A shape that does not fit.
    pub fn check(&self, x: &TensorType, operands: &[&TensorType]) -> Result<(), Mismatch> {
        let Some(norm) = self.norm else { return Ok(()) };
        let (n, c) = (x.samples(), x.channels());
        if norm.groups == 0 || !c.is_multiple_of(norm.groups) {
            let want = format!("a multiple of {} groups", norm.groups);
            return Err(Mismatch::new("channels of the norm", want, c));
        }
        Mismatch::check(
            "statistics",
            &[n, 2 * norm.groups][..],
            &operands[0].shape[..],
        )?;
        Mismatch::check("gamma", &[c][..], &operands[1].shape[..])?;
        Mismatch::check("beta", &[c][..], &operands[2].shape[..])?;
        if norm.scale_shift {
            Mismatch::check("scale and shift", &[n, 2 * c][..], &operands[3].shape[..])?;
        }
        Ok(())
    }

    /// Records the way back: from the gradient of the activated input to those of `x` and of the
    /// norm's operands (`norm`, in the order of [`NormVars::operands`]). What `x` already received
    /// is folded in.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn backward(
        self,
        b: &mut Backward<'_>,
        x: Var,
        dact: Contribution,
        norm: &[Var],
    ) -> Result<(), TapeError> {
        if self.is_identity() {
            b.add(x, dact);
            return Ok(());
        }
        if !b.needs(x) && self.norm.is_none() {
            return Ok(());
        }
        let residuals = b.take(x);
        let mut inputs = vec![dact.var, x];
        inputs.extend(norm);
        inputs.extend(residuals.iter().map(|r| r.var));
        let mut op = PrologueBackward {
            prologue: self,
            dact: dact.resample,
            residuals: residuals.iter().map(|r| r.resample).collect(),
            modes: [Mode::Write; 2],
        };
        let dx = b.tape.temp(TensorType::f32(&b.tape.ty(x).shape.clone()));
        let mut outputs = vec![dx];
        if self.norm.is_some() {
            for (mode, &param) in op.modes.iter_mut().zip(&norm[1..3]) {
                let (window, how) = b.param_grad(param)?;
                *mode = how;
                outputs.push(window);
            }
        }
        if let Some(&p) = norm.get(3) {
            let dp = b.tape.temp(TensorType::f32(&b.tape.ty(p).shape.clone()));
            outputs.push(dp);
            b.add_plain(p, dp);
        }
        b.tape.push_into(op, &inputs, outputs);
        b.add_plain(x, dx);
        Ok(())
    }
}

/// Reads rows of an op's input through its prologue.
#[derive(Clone, Copy)]
pub struct Loader<'a> {
    /// The stored tensor.
    pub x: Rows<'a>,
    prologue: Prologue,
    norm: Option<NormRows<'a>>,
}

#[derive(Clone, Copy)]
struct NormRows<'a> {
    stats: Rows<'a>,
    gamma: &'a [f32],
    beta: &'a [f32],
    scale_shift: Option<Rows<'a>>,
}

impl<'a> Loader<'a> {
    /// Input `x` of `call`, with the norm's operands from input `first` on.
    pub fn new(call: &Call<'a>, prologue: Prologue, x: usize, first: usize) -> Self {
        let norm = prologue.norm.map(|norm| NormRows {
            stats: call.input(first),
            gamma: call.input(first + 1).row(0, 0),
            beta: call.input(first + 2).row(0, 0),
            scale_shift: norm.scale_shift.then(|| call.input(first + 3)),
        });
        Self {
            x: call.input(x),
            prologue,
            norm,
        }
    }

    /// True if rows are read as they lie.
    pub fn is_identity(&self) -> bool {
        self.prologue.is_identity()
    }

    /// Numbers that [`Loader::table`] fills.
    pub fn table_len(&self) -> usize {
        2 * self.x.cols()
    }

    /// Fills `table` with a, then b, of sample `n`.
    pub fn table(&self, n: usize, table: &mut [f32]) {
        let c = self.x.cols();
        let (a, b) = table[..2 * c].split_at_mut(c);
        let Some(norm) = self.norm else {
            a.fill(1.0);
            b.fill(0.0);
            return;
        };
        let stats = norm.stats.row(n, 0);
        let groups = stats.len() / 2;
        let width = c / groups;
        for i in 0..c {
            let (mean, rstd) = (stats[i / width], stats[groups + i / width]);
            a[i] = rstd * norm.gamma[i];
            b[i] = norm.beta[i] - mean * a[i];
        }
        if let Some(p) = norm.scale_shift {
            let (scale, shift) = p.row(n, 0).split_at(c);
            for i in 0..c {
                a[i] *= 1.0 + scale[i];
                b[i] = b[i] * (1.0 + scale[i]) + shift[i];
            }
        }
    }

    /// Writes activated rows `first..first + count` of sample `n` to `out`, side by side.
    pub fn load(&self, n: usize, first: usize, count: usize, table: &[f32], out: &mut [f32]) {
        let (a, b) = table.split_at(self.x.cols());
        match (self.prologue.norm.is_some(), self.prologue.silu) {
            (false, false) => copy_rows(self.x, [n, first, count], out),
            (false, true) => silu_rows(self.x, [n, first, count], out),
            (true, false) => affine_rows(self.x, [n, first, count], a, b, out),
            (true, true) => affine_silu_rows(self.x, [n, first, count], a, b, out),
        }
    }
}

fn copy_rows(x: Rows<'_>, [n, first, count]: [usize; 3], out: &mut [f32]) {
    for (r, out) in (first..first + count).zip(out.chunks_exact_mut(x.cols())) {
        out.copy_from_slice(x.row(n, r));
    }
}

multiversion! {
    /// out = SiLU(x).
    pub fn silu_rows(x: Rows<'_>, at: [usize; 3], out: &mut [f32]) {
        let [n, first, count] = at;
        for (r, out) in (first..first + count).zip(out.chunks_exact_mut(x.cols())) {
            for (o, &x) in out.iter_mut().zip(x.row(n, r)) {
                *o = silu_one(x);
            }
        }
    }
}

multiversion! {
    /// out = a x + b.
    pub fn affine_rows(x: Rows<'_>, at: [usize; 3], a: &[f32], b: &[f32], out: &mut [f32]) {
        let [n, first, count] = at;
        for (r, out) in (first..first + count).zip(out.chunks_exact_mut(x.cols())) {
            for ((o, &x), (&a, &b)) in out.iter_mut().zip(x.row(n, r)).zip(a.iter().zip(b)) {
                *o = a * x + b;
            }
        }
    }
}

multiversion! {
    /// out = SiLU(a x + b).
    pub fn affine_silu_rows(x: Rows<'_>, at: [usize; 3], a: &[f32], b: &[f32], out: &mut [f32]) {
        let [n, first, count] = at;
        for (r, out) in (first..first + count).zip(out.chunks_exact_mut(x.cols())) {
            for ((o, &x), (&a, &b)) in out.iter_mut().zip(x.row(n, r)).zip(a.iter().zip(b)) {
                *o = silu_one(a * x + b);
            }
        }
    }
}

/// Gradient of a [`Prologue`]. With u = a x + b, du = dact SiLU'(u), xhat = (x - mu) rho,
/// P = sum du, Q = sum du xhat over a sample's pixels, e = gamma (1 + s), and M1, M2 the means of
/// e P, e Q over the group:
///
///   dx = rho (e du - M1 - xhat M2) + residual gradients
///   ds = gamma Q + beta P,  dt = P,  dgamma = sum_n (1 + s) Q,  dbeta = sum_n (1 + s) P
///
/// Inputs: dact, x, the norm's operands, residual gradients. Outputs: dx and, with a norm, dgamma,
/// dbeta and d(scale, shift).
#[derive(Clone, Debug)]
pub struct PrologueBackward {
    prologue: Prologue,
    dact: Resample,
    residuals: Vec<Resample>,
    modes: [Mode; 2],
}

/// Pixels whose sums are kept in one set of f32 accumulators before they are added to the total.
const BLOCK: usize = 64;

impl Op for PrologueBackward {
    fn name(&self) -> &'static str {
        "prologue_backward"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Mismatch> {
        Ok(vec![inputs[1].clone()])
    }

    fn workspace(&self, inputs: &[&TensorType], _: &[&TensorType]) -> Workspace {
        let (n, c) = (inputs[1].samples(), inputs[1].channels());
        Workspace {
            shared: n * 2 * c,
            per_thread: 12 * c,
        }
    }

    fn cpu(&self, call: &Call<'_>) {
        let first_residual = 2 + self.prologue.operands();
        let loader = Loader::new(call, self.prologue, 1, 2);
        let (n, c) = (loader.x.n(), loader.x.cols());
        let residuals: Vec<(Rows<'_>, Resample)> = self
            .residuals
            .iter()
            .enumerate()
            .map(|(i, &r)| (call.input(first_residual + i), r))
            .collect();
        let dx = call.output(0);
        let [_, h, w, _] = dx.shape();
        let pass = Pass {
            loader,
            dact: (call.input(0), self.dact),
            residuals: &residuals,
            width: w,
        };
        let sums = call.shared();
        let mut outputs = vec![
            dx.split(h * w),
            RowsMut::of(sums, [n, 1, 1, 2 * c]).split(1),
        ];
        let scale_shift = self.prologue.norm.is_some_and(|norm| norm.scale_shift);
        if scale_shift {
            outputs.push(call.output(3).split(1));
        }
        call.pool()
            .run(&outputs, call.scratch(), |n, parts, scratch| {
                pass.sample(n, parts, scratch, scale_shift);
            });
        drop(outputs);
        if let Some(norm) = loader.norm {
            for (i, mode) in self.modes.iter().enumerate() {
                // dgamma from Q, dbeta from P.
                let column = (1 - i) * c;
                sum_samples(sums, norm.scale_shift, column, call.output(1 + i), *mode);
            }
        }
    }

    fn cuda(&self, call: &mut cuda::Call<'_>) -> Result<(), cuda::Unsupported> {
        self.launch(call);
        Ok(())
    }
}

/// out (+)= sum over samples of (1 + scale) `sums[.., column..]`.
fn sum_samples(
    sums: &[f32],
    scale: Option<Rows<'_>>,
    column: usize,
    mut out: RowsMut<'_>,
    mode: Mode,
) {
    let out = out.row(0, 0);
    let c = out.len();
    if mode == Mode::Write {
        out.fill(0.0);
    }
    for (n, sums) in sums.chunks_exact(2 * c).enumerate() {
        let sums = &sums[column..column + c];
        match scale {
            Some(p) => {
                for ((o, &x), &s) in out.iter_mut().zip(sums).zip(&p.row(n, 0)[..c]) {
                    *o += (1.0 + s) * x;
                }
            }
            None => vector::add(sums, out),
        }
    }
}

struct Pass<'a> {
    loader: Loader<'a>,
    dact: (Rows<'a>, Resample),
    residuals: &'a [(Rows<'a>, Resample)],
    width: usize,
}

impl Pass<'_> {
    /// The gradient of sample `n`: outputs dx, the sums P and Q and, if asked for, d(scale, shift).
    fn sample(&self, n: usize, parts: &mut Parts<'_>, scratch: &mut [f32], scale_shift: bool) {
        let c = self.loader.x.cols();
        let (table, rest) = scratch.split_at_mut(2 * c);
        let (means, rest) = rest.split_at_mut(2 * c);
        let (block, coefficients) = rest[..5 * c].split_at_mut(2 * c);
        self.loader.table(n, table);
        self.spread(n, means);
        let [mut dx, mut sums] = parts.many([0, 1]);
        let sums = sums.row(0, 0);
        self.pre_activation(n, (table, means), &mut dx, (block, sums));
        if self.loader.norm.is_some() {
            self.coefficients(n, means, sums, dx.rows(), coefficients);
            let (e, m) = coefficients.split_at(c);
            let (m1, m2) = m.split_at(c);
            let (mean, rstd) = means.split_at(c);
            for r in 0..dx.rows() {
                vector::norm_apply(dx.row(0, r), self.loader.x.row(n, r), mean, rstd, e, m1, m2);
            }
        }
        for r in 0..dx.rows() {
            for &residual in self.residuals {
                gather(residual, n, r, self.width, dx.row(0, r));
            }
        }
        if let (true, Some(norm)) = (scale_shift, self.loader.norm) {
            let [mut sums, mut out] = parts.many([1, 2]);
            let (p, q) = sums.row(0, 0).split_at(c);
            let (ds, dt) = out.row(0, 0).split_at_mut(c);
            dt.copy_from_slice(p);
            for i in 0..c {
                ds[i] = norm.gamma[i] * q[i] + norm.beta[i] * p[i];
            }
        }
    }

    /// du into `du`, and P and Q into `sums`, by way of `block`.
    fn pre_activation(
        &self,
        n: usize,
        (table, means): (&[f32], &[f32]),
        du: &mut RowsMut<'_>,
        (block, sums): (&mut [f32], &mut [f32]),
    ) {
        let c = self.loader.x.cols();
        let rows = du.rows();
        sums.fill(0.0);
        for first in (0..rows).step_by(BLOCK) {
            block.fill(0.0);
            for r in first..rows.min(first + BLOCK) {
                let out = du.row(0, r);
                out.fill(0.0);
                gather(self.dact, n, r, self.width, out);
                let x = self.loader.x.row(n, r);
                if self.loader.prologue.silu {
                    vector::mul_silu_slope(x, &table[..c], &table[c..], out);
                }
                if self.loader.norm.is_some() {
                    let (p, q) = block.split_at_mut(c);
                    vector::add_norm_sums(out, x, &means[..c], &means[c..], p, q);
                }
            }
            vector::add(block, sums);
        }
    }

    /// Mean and inverse deviation per channel.
    fn spread(&self, n: usize, means: &mut [f32]) {
        let Some(norm) = self.loader.norm else { return };
        let c = self.loader.x.cols();
        let stats = norm.stats.row(n, 0);
        let groups = stats.len() / 2;
        for i in 0..c {
            means[i] = stats[i / (c / groups)];
            means[c + i] = stats[groups + i / (c / groups)];
        }
    }

    /// rho e, rho M1 and rho M2 per channel.
    fn coefficients(&self, n: usize, means: &[f32], sums: &[f32], rows: usize, out: &mut [f32]) {
        let Some(norm) = self.loader.norm else { return };
        let c = self.loader.x.cols();
        let groups = norm.stats.cols() / 2;
        let width = c / groups;
        let scale = |i: usize| norm.scale_shift.map_or(1.0, |p| 1.0 + p.row(n, 0)[i]);
        let count = (rows * width) as f64;
        for group in 0..groups {
            let channels = group * width..(group + 1) * width;
            let mean = |offset: usize| {
                let sum: f64 = channels
                    .clone()
                    .map(|i| f64::from(norm.gamma[i] * scale(i)) * f64::from(sums[offset + i]))
                    .sum();
                (sum / count) as f32
            };
            let (m1, m2) = (mean(0), mean(c));
            for i in channels.clone() {
                let rstd = means[c + i];
                out[i] = rstd * norm.gamma[i] * scale(i);
                out[c + i] = rstd * m1;
                out[2 * c + i] = rstd * m2;
            }
        }
    }
}

/// out += row `r` of a tensor whose gradient was resampled; `width` is the width of `out`'s tensor.
pub fn gather(
    (from, resample): (Rows<'_>, Resample),
    n: usize,
    r: usize,
    width: usize,
    out: &mut [f32],
) {
    let (y, x) = (r / width, r % width);
    match resample {
        Resample::None => vector::add(from.row(n, r), out),
        Resample::OfPool => {
            vector::add_scaled(from.row(n, y / 2 * (width / 2) + x / 2), 0.25, out);
        }
        Resample::OfUpsample => {
            for (dy, dx) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                vector::add(from.row(n, (2 * y + dy) * 2 * width + 2 * x + dx), out);
            }
        }
    }
}

/// Operands of a node's norm, if its prologue has one, from input `first` on.
pub fn norm_operands(prologue: Prologue, node: &NodeIo, first: usize) -> &[Var] {
    &node.inputs[first..first + prologue.operands()]
}
