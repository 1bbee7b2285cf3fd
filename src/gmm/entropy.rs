//! NGMG entropy: losses of a classifier of K attributes with their gradients (paper section 4.3.2,
//! Eq. 16-18, repaired).
//!
//! Logits z `[B, K]`, labels y `[B, K]` in `[0, 1]`, attributes at positions mu_j = j, p = sigmoid(z),
//! e = y - p, d+ = (e)^+, d- = (-e)^+, u = M d+, v = M d-. NGMG factors are **constants**: no gradient
//! flows through them. Every loss is a mean over B K:
//!
//! ```text
//!             loss term                                       gradient in z_j
//! bce         softplus(z) - y z                               -e
//! gated       w `[softplus(z) - y z]`,  w = floor + gain (M |e|)    -w e      M row-normalised, zero diagonal
//! split       (f + g u) y softplus(-z) + (f + g v)(1-y) softplus(z)
//!                                                             -(f + g u) y (1-p) + (f + g v)(1-y) p
//! two_sided   u softplus(-z) + v softplus(z)                  -u (1-p) + v p
//! literal     v ln p  (as printed; unbounded below)           v (1-p)
//! softmax     -w ln softmax(z), t = y/max(sum y, 1), w = M (t - softmax)^+
//!                                                             softmax_j sum w - w_j
//! softmax_ce  -t ln softmax(z)                                softmax_j sum t - t_j
//! ```
//!
//! `split` takes M row-normalised with the diagonal named (f = floor, g = gain); `two_sided`, `literal`
//! and `softmax` take M as named by norm and diagonal. Everything is safe for |z| of any finite size.

use std::fmt;
use std::str::FromStr;

use rayon::prelude::*;

use super::mixture::{MixtureError, check_finite};
use super::ngmg::{Diagonal, Kernel, KernelSpec, NgmgError, Norm, Reach};
use super::vector;

/// Tasks a large batch is cut into, and the numbers from which it is cut.
const TASKS: usize = 16;
const PARALLEL: usize = 1 << 14;
/// Lists of K numbers that a row needs.
const BUFFERS: usize = 7;

/// What is wrong with a loss or its inputs.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum EntropyError {
    /// The kernel cannot be made.
    #[error(transparent)]
    Kernel(#[from] NgmgError),
    /// No attributes.
    #[error("entropy: K is 0; expected at least one attribute")]
    NoAttributes,
    /// One attribute has no neighbours to take its weight from.
    #[error(
        "entropy: {variant} of one attribute; it has no neighbours: use bce, or gated with a floor above 0"
    )]
    OneAttribute {
        /// The loss.
        variant: Variant,
    },
    /// A floor or gain that is negative or no number.
    #[error("entropy: {name} is {value}; expected a finite number, 0 or above")]
    Factor {
        /// Which.
        name: &'static str,
        /// The value given.
        value: f64,
    },
    /// Lists of the wrong length.
    #[error(
        "entropy: {what} has {found} numbers; expected {expected}, a multiple of K = {k} above 0"
    )]
    Length {
        /// Which list.
        what: &'static str,
        /// Its length.
        found: usize,
        /// The length it should have.
        expected: usize,
        /// K.
        k: usize,
    },
    /// A logit that is not a number.
    #[error(
        "entropy: logit of row {row}, attribute {attribute} is {value}; expected a finite number"
    )]
    Logit {
        /// Row.
        row: usize,
        /// Attribute.
        attribute: usize,
        /// The value given.
        value: f64,
    },
    /// A label outside `[0, 1]`.
    #[error("entropy: label of row {row}, attribute {attribute} is {value}; expected 0 to 1")]
    Label {
        /// Row.
        row: usize,
        /// Attribute.
        attribute: usize,
        /// The value given.
        value: f64,
    },
    /// A name that is no loss.
    #[error(
        "entropy: loss `{name}`; expected gated, bce, split, two_sided, literal, softmax or softmax_ce"
    )]
    Name {
        /// The name given.
        name: String,
    },
}

/// Which loss; the formulas are at the top of this file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Variant {
    /// The default: the label in front, the neighbours' errors as weight.
    #[default]
    Gated,
    /// Binary cross-entropy.
    Bce,
    /// Deficits and surpluses weigh their own side.
    Split,
    /// Without the labels in front: stops at calibrated neighbours with p = 1/2.
    TwoSided,
    /// As printed in the paper: one-sided and unbounded.
    Literal,
    /// One-sided over a softmax.
    Softmax,
    /// Cross-entropy of a softmax with y / sum y.
    SoftmaxCe,
}

const NAMES: [(Variant, &str); 7] = [
    (Variant::Gated, "gated"),
    (Variant::Bce, "bce"),
    (Variant::Split, "split"),
    (Variant::TwoSided, "two_sided"),
    (Variant::Literal, "literal"),
    (Variant::Softmax, "softmax"),
    (Variant::SoftmaxCe, "softmax_ce"),
];

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = NAMES.iter().find(|(v, _)| v == self);
        f.write_str(name.map_or("", |(_, name)| name))
    }
}

impl FromStr for Variant {
    type Err = EntropyError;

    fn from_str(name: &str) -> Result<Self, EntropyError> {
        let found = NAMES.iter().find(|(_, known)| *known == name);
        found
            .map(|(v, _)| *v)
            .ok_or(EntropyError::Name { name: name.into() })
    }
}

/// A loss and its options.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EntropySpec {
    /// Which loss; gated.
    pub variant: Variant,
    /// Kernel width in attributes; 5.
    pub sigma: f64,
    /// kappa, for two_sided, literal and softmax; density.
    pub norm: Norm,
    /// The diagonal, for split, two_sided, literal and softmax; zero.
    pub diagonal: Diagonal,
    /// Constant part of the weight, for gated and split; 1.
    pub floor: f64,
    /// Factor of the neighbours' part, for gated and split; 1.
    pub gain: f64,
    /// How far the kernel is evaluated; all. Six sigma are off by 1e-8 of a weight and make large K cheap.
    pub reach: Reach,
}

impl Default for EntropySpec {
    fn default() -> Self {
        Self {
            variant: Variant::Gated,
            sigma: 5.0,
            norm: Norm::Density,
            diagonal: Diagonal::Zero,
            floor: 1.0,
            gain: 1.0,
            reach: Reach::All,
        }
    }
}

/// Row buffers of a loss: made once, used for every batch.
#[derive(Debug, Clone)]
pub struct Workspace {
    rows: Vec<f64>,
    k: usize,
}

/// A loss for K attributes, its kernel tabulated.
#[derive(Debug, Clone)]
pub struct EntropyLoss {
    spec: EntropySpec,
    k: usize,
    kernel: Option<Kernel>,
}

impl EntropyLoss {
    /// Errors: K = 0; K = 1 where the loss is made of neighbours alone; `sigma <= 0`; negative floor or
    /// gain.
    pub fn new(spec: EntropySpec, k: usize) -> Result<Self, EntropyError> {
        if k == 0 {
            return Err(EntropyError::NoAttributes);
        }
        for (name, value) in [("floor", spec.floor), ("gain", spec.gain)] {
            if !(value >= 0.0 && value.is_finite()) {
                return Err(EntropyError::Factor { name, value });
            }
        }
        if !(spec.sigma > 0.0 && spec.sigma.is_finite()) {
            let (name, value) = ("sigma", spec.sigma);
            return Err(NgmgError::NotPositive { name, value }.into());
        }
        let (norm, diagonal) = match spec.variant {
            Variant::Bce | Variant::SoftmaxCe => {
                return Ok(Self {
                    spec,
                    k,
                    kernel: None,
                });
            }
            Variant::Gated => (Norm::Row, Diagonal::Zero),
            Variant::Split => (Norm::Row, spec.diagonal),
            _ => (spec.norm, spec.diagonal),
        };
        if k == 1 {
            let variant = spec.variant;
            // With nobody beside it an attribute keeps its floor.
            return match variant {
                Variant::Gated if spec.floor > 0.0 => Ok(Self {
                    spec,
                    k,
                    kernel: None,
                }),
                _ => Err(EntropyError::OneAttribute { variant }),
            };
        }
        let kernel = KernelSpec {
            sigma: spec.sigma,
            norm,
            diagonal,
            reach: spec.reach,
        };
        let kernel = Some(Kernel::grid(k, kernel)?);
        Ok(Self { spec, k, kernel })
    }

    /// K.
    pub fn attributes(&self) -> usize {
        self.k
    }

    /// Which loss it is.
    pub fn spec(&self) -> &EntropySpec {
        &self.spec
    }

    /// M, where the loss has one.
    pub fn kernel(&self) -> Option<&Kernel> {
        self.kernel.as_ref()
    }

    /// Buffers for [`Self::evaluate`].
    pub fn workspace(&self) -> Workspace {
        Workspace {
            rows: vec![0.0; TASKS * BUFFERS * self.k],
            k: self.k,
        }
    }

    /// The loss of logits `[B, K]` against labels `[B, K]`, B of 1 or more; its gradient in the logits,
    /// 1/(B K) included, is written into `grad` `[B, K]`. Errors: other lengths, a workspace of another
    /// K, NaN or infinite logits, labels outside `[0, 1]`.
    pub fn evaluate(
        &self,
        logits: &[f64],
        labels: &[f64],
        grad: &mut [f64],
        workspace: &mut Workspace,
    ) -> Result<f64, EntropyError> {
        self.check(logits, labels, grad, workspace)?;
        let (k, rows) = (self.k, logits.len() / self.k);
        let scale = 1.0 / logits.len() as f64;
        // Cut by size alone, so that sums do not depend on the number of threads.
        let size = match logits.len() >= PARALLEL {
            true => rows.div_ceil(TASKS),
            false => rows,
        };
        let task = |((z, y), (grad, buffers)): Rows| {
            let rows = z.chunks(k).zip(y.chunks(k)).zip(grad.chunks_mut(k));
            rows.map(|((z, y), grad)| self.row((z, y), grad, buffers, scale, Kernel::product))
                .sum::<f64>()
        };
        let width = size * k;
        let buffers = workspace.rows.chunks_mut(BUFFERS * k);
        let outputs = grad.chunks_mut(width).zip(buffers);
        let tasks = logits.chunks(width).zip(labels.chunks(width)).zip(outputs);
        let mut sums = [0.0; TASKS];
        if size == rows {
            sums[0] = tasks.map(task).sum();
        } else {
            let tasks = sums.iter_mut().zip(tasks).par_bridge();
            tasks.for_each(|(sum, rows)| *sum = task(rows));
        }
        Ok(sums.iter().sum::<f64>() * scale)
    }

    fn check(
        &self,
        logits: &[f64],
        labels: &[f64],
        grad: &[f64],
        workspace: &Workspace,
    ) -> Result<(), EntropyError> {
        let k = self.k;
        let whole = logits.len().next_multiple_of(k).max(k);
        let lengths = [
            ("logits", logits.len(), whole),
            ("labels", labels.len(), logits.len()),
            ("grad", grad.len(), logits.len()),
            ("the workspace", workspace.k, k),
        ];
        if let Some(&(what, found, expected)) = lengths.iter().find(|(_, a, b)| a != b) {
            return Err(EntropyError::Length {
                what,
                found,
                expected,
                k,
            });
        }
        if let Err(MixtureError::NotFinite { index, value, .. }) = check_finite("logits", logits) {
            let (row, attribute) = (index / k, index % k);
            return Err(EntropyError::Logit {
                row,
                attribute,
                value,
            });
        }
        if let Some(index) = labels.iter().position(|y| !(0.0..=1.0).contains(y)) {
            let (row, attribute, value) = (index / k, index % k, labels[index]);
            return Err(EntropyError::Label {
                row,
                attribute,
                value,
            });
        }
        Ok(())
    }

    /// Numbers of the buffer that [`Self::row_serial`] needs.
    pub fn row_buffer(&self) -> usize {
        BUFFERS * self.k
    }

    /// One row on this thread alone, nothing allocated or checked: the sum of its K losses, not divided
    /// by B K, for logits and labels `[K]`. Its gradient times `scale` is written into `grad` `[K]`. For
    /// callers that spread the rows of a batch over threads; a logit that is not finite makes the loss
    /// and its gradient so.
    pub fn row_serial(
        &self,
        (z, y): (&[f64], &[f64]),
        grad: &mut [f64],
        buffer: &mut [f64],
        scale: f64,
    ) -> f64 {
        self.row((z, y), grad, buffer, scale, Kernel::product_serial)
    }

    /// One row: its sum of losses (not yet divided by B K) and its gradient.
    fn row(
        &self,
        (z, y): (&[f64], &[f64]),
        grad: &mut [f64],
        buffers: &mut [f64],
        scale: f64,
        product: fn(&Kernel, &[f64], &mut [f64]),
    ) -> f64 {
        let mut parts = buffers.chunks_mut(self.k);
        let [p, q, l, plus, minus, u, v] =
            std::array::from_fn(|_| parts.next().unwrap_or_default());
        let variant = self.spec.variant;
        if matches!(variant, Variant::Softmax | Variant::SoftmaxCe) {
            return self.softmax_row((z, y), grad, [plus, minus], scale, product);
        }
        vector::logistic(z, p, q, l);
        let fill = |out: &mut [f64], f: fn(f64) -> f64| {
            for (j, out) in out.iter_mut().enumerate() {
                *out = f(residual(y[j], p[j], q[j]));
            }
        };
        match variant {
            Variant::Gated => fill(plus, f64::abs),
            Variant::Literal => fill(plus, |e| (-e).max(0.0)),
            Variant::Split | Variant::TwoSided => {
                fill(plus, |e| e.max(0.0));
                fill(minus, |e| (-e).max(0.0));
            }
            _ => {}
        }
        if let Some(kernel) = &self.kernel {
            product(kernel, plus, u);
            if matches!(variant, Variant::Split | Variant::TwoSided) {
                product(kernel, minus, v);
            }
        } else {
            u.fill(0.0);
        }
        let row = Row {
            z,
            y,
            p,
            q,
            l,
            u,
            v,
        };
        row.finish(&self.spec, grad, scale)
    }

    fn softmax_row(
        &self,
        (z, y): (&[f64], &[f64]),
        grad: &mut [f64],
        [deficit, weight]: [&mut [f64]; 2],
        scale: f64,
        product: fn(&Kernel, &[f64], &mut [f64]),
    ) -> f64 {
        let top = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = z.iter().map(|z| (z - top).exp()).sum();
        let log_sum = top + sum.ln();
        let count = y.iter().sum::<f64>().max(1.0);
        match &self.kernel {
            Some(kernel) => {
                for ((d, z), y) in deficit.iter_mut().zip(z).zip(y) {
                    *d = (y / count - (z - log_sum).exp()).max(0.0);
                }
                product(kernel, deficit, weight);
            }
            None => weight.iter_mut().zip(y).for_each(|(w, y)| *w = y / count),
        }
        let total: f64 = weight.iter().sum();
        let mut loss = 0.0;
        for ((grad, z), w) in grad.iter_mut().zip(z).zip(weight) {
            loss -= *w * (z - log_sum);
            *grad = scale * ((z - log_sum).exp() * total - *w);
        }
        loss
    }
}

/// Logits and labels of some rows; their gradients and buffers.
type Rows<'a> = ((&'a [f64], &'a [f64]), (&'a mut [f64], &'a mut [f64]));

/// y - sigmoid(z), without cancellation.
fn residual(y: f64, p: f64, q: f64) -> f64 {
    y * q - (1.0 - y) * p
}

/// One row's logits and labels; p = sigmoid(z), q = sigmoid(-z), l = ln(1 + exp(-|z|)); u and v as at
/// the top of this file.
struct Row<'a> {
    z: &'a [f64],
    y: &'a [f64],
    p: &'a [f64],
    q: &'a [f64],
    l: &'a [f64],
    u: &'a [f64],
    v: &'a [f64],
}

impl Row<'_> {
    fn residual(&self, j: usize) -> f64 {
        residual(self.y[j], self.p[j], self.q[j])
    }

    /// softplus(z) and softplus(-z).
    fn softplus(&self, j: usize) -> [f64; 2] {
        [self.z[j], -self.z[j]].map(|z| z.max(0.0) + self.l[j])
    }

    /// softplus(z) - y z as y softplus(-z) + (1-y) softplus(z): no difference of large numbers.
    fn cross_entropy(&self, j: usize) -> f64 {
        let (z, y) = (self.z[j], self.y[j]);
        self.l[j] + y * (-z).max(0.0) + (1.0 - y) * z.max(0.0)
    }

    /// The sum of the losses; their gradient times `scale` is written into `grad`.
    fn finish(&self, spec: &EntropySpec, grad: &mut [f64], scale: f64) -> f64 {
        let [floor, gain] = [spec.floor, spec.gain];
        let (y, p, q, u, v) = (self.y, self.p, self.q, self.u, self.v);
        match spec.variant {
            Variant::Gated => sum_terms(grad, scale, |j| {
                let w = floor + gain * u[j];
                (w * self.cross_entropy(j), -w * self.residual(j))
            }),
            Variant::Split => sum_terms(grad, scale, |j| {
                let u = (floor + gain * u[j]) * y[j];
                let v = (floor + gain * v[j]) * (1.0 - y[j]);
                let [above, below] = self.softplus(j);
                (u * below + v * above, -u * q[j] + v * p[j])
            }),
            Variant::TwoSided => sum_terms(grad, scale, |j| {
                let [above, below] = self.softplus(j);
                (u[j] * below + v[j] * above, -u[j] * q[j] + v[j] * p[j])
            }),
            Variant::Literal => {
                sum_terms(grad, scale, |j| (-u[j] * self.softplus(j)[1], u[j] * q[j]))
            }
            _ => sum_terms(grad, scale, |j| (self.cross_entropy(j), -self.residual(j))),
        }
    }
}

/// Writes the slopes, scaled, and returns the sum of the terms, four side by side.
fn sum_terms(grad: &mut [f64], scale: f64, f: impl Fn(usize) -> (f64, f64)) -> f64 {
    let mut sums = [0.0; 4];
    for (j, grad) in grad.iter_mut().enumerate() {
        let (term, slope) = f(j);
        sums[j % 4] += term;
        *grad = scale * slope;
    }
    (sums[0] + sums[1]) + (sums[2] + sums[3])
}

#[cfg(test)]
mod tests;
