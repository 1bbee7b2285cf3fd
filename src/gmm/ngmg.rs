//! The negative Gaussian mixture gradient (paper section 4, Eq. 11-14).
//!
//! For current weights c and target weights t of the same components:
//!
//! ```text
//! L(c, t)_i  = min(c_i - t_i, 0) <= 0                                Eq. (11); sum_i L_i = -TV(c, t)
//! M_ji       = kappa exp(-|mu_j - mu_i|^2 / (2 sigma^2)), M_ii = 0 unless the diagonal is kept
//! NGMG(c, t) = M L <= 0                                              Eq. (13)
//! -max_ij M_ij <= NGMG_j <= 0
//! ```
//!
//! The minus sign of Eq. (14) contradicts Eq. (13), the bounds and Algorithm 1, and is dropped.

use std::f64::consts::TAU;

use rayon::prelude::*;

use super::mixture::{MixtureError, check_finite, check_weights};
use super::vector::{self, BLOCK};

/// Entries a kernel off a uniform grid may store.
const MAX_ENTRIES: usize = 1 << 26;
/// Rows of one task, and the products below which one thread is faster.
const CHUNK: usize = 2048;
const SERIAL: usize = 1 << 17;
/// Beyond this many sigma exp(-x^2/2) is exactly 0 in f64: nothing is left out.
const VANISHED: f64 = 38.7;

/// What is wrong with a kernel or the weights given to it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum NgmgError {
    /// Weights or positions that are no numbers, or of the wrong length.
    #[error(transparent)]
    Input(#[from] MixtureError),
    /// Fewer than two components.
    #[error("ngmg: {n} components; expected at least 2: one alone has no neighbour to pull")]
    TooFew {
        /// Their number.
        n: usize,
    },
    /// A width that is not positive.
    #[error("ngmg: {name} is {value}; expected a finite number above 0")]
    NotPositive {
        /// sigma, eta or the reach.
        name: &'static str,
        /// The value given.
        value: f64,
    },
    /// lambda or eps out of range.
    #[error("ngmg: {name} is {value}; expected a number from 0 to 1")]
    Share {
        /// Which option.
        name: &'static str,
        /// The value given.
        value: f64,
    },
    /// A row whose entries add up to zero.
    #[error(
        "ngmg: the entries of row {row} add up to 0: sigma {sigma} is too small for the distance to its neighbours"
    )]
    Isolated {
        /// Which row.
        row: usize,
        /// The kernel's width.
        sigma: f64,
    },
    /// A reach with positions that do not rise.
    #[error(
        "ngmg: a kernel of limited reach needs positions on a line in rising order; position {index} is not above the one before"
    )]
    NotSorted {
        /// Which position.
        index: usize,
    },
    /// Too many entries to store.
    #[error(
        "ngmg: {entries} kernel entries to store; expected at most {limit}: use a uniform grid or a limited reach"
    )]
    TooLarge {
        /// Entries needed.
        entries: usize,
        /// Entries allowed.
        limit: usize,
    },
    /// All weight was removed by one step.
    #[error("ngmg: the step removed all weight; use a smaller eta than {eta}")]
    NothingLeft {
        /// The step size.
        eta: f64,
    },
    /// A kernel that has no usable inverse.
    #[error(
        "ngmg: the kernel of {n} components at sigma {sigma} is singular: its smallest eigenvalue is {smallest:e} of its largest"
    )]
    Singular {
        /// Number of components.
        n: usize,
        /// Width.
        sigma: f64,
        /// Smallest absolute eigenvalue divided by the largest.
        smallest: f64,
    },
}

/// kappa, the factor in front of the exponential. Sums are taken after the diagonal is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Norm {
    /// 1/(sigma sqrt(2 pi))^D, the paper's density: row sums near 1 where positions are one apart.
    #[default]
    Density,
    /// 1.
    Unit,
    /// 1 / the largest row sum.
    Mass,
    /// Each row divided by its own sum; not symmetric.
    Row,
}

/// M_ii.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Diagonal {
    /// 0 (the paper).
    #[default]
    Zero,
    /// kappa.
    Keep,
}

/// How far the kernel is evaluated.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Reach {
    /// All entries.
    #[default]
    All,
    /// Entries within this many sigma; each left out is below exp(-reach^2/2) of kappa: 1.5e-8 at 6,
    /// the rounding of f64 (2.6e-18) at 9.
    Sigmas(f64),
}

/// A kernel's shape.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KernelSpec {
    /// Width, in units of the positions; 2.
    pub sigma: f64,
    /// kappa.
    pub norm: Norm,
    /// The diagonal.
    pub diagonal: Diagonal,
    /// How far it is evaluated.
    pub reach: Reach,
}

impl Default for KernelSpec {
    fn default() -> Self {
        Self {
            sigma: 2.0,
            norm: Norm::Density,
            diagonal: Diagonal::Zero,
            reach: Reach::All,
        }
    }
}

/// exp(-d^2 / 2 sigma^2), before kappa.
#[derive(Debug, Clone)]
enum Entries {
    /// Uniform grid: the values at distances -R..=R, with [`BLOCK`] zeros on either side.
    Toeplitz { padded: Vec<f64> },
    /// Each row's first column, where its values start, and all values.
    Rows {
        first: Vec<usize>,
        start: Vec<usize>,
        values: Vec<f64>,
    },
}

/// M of n components. On a uniform grid only the 2R + 1 different entries are stored.
#[derive(Debug, Clone)]
pub struct Kernel {
    n: usize,
    spec: KernelSpec,
    entries: Entries,
    /// kappa: one number, or one for each row.
    scale: Vec<f64>,
}

impl Kernel {
    /// Positions mu_i = i, i < n: the default, in units of the grid spacing. Errors: n < 2,
    /// `sigma <= 0`, a row of zeros that should be normalised.
    pub fn grid(n: usize, spec: KernelSpec) -> Result<Self, NgmgError> {
        check_spec(n, spec)?;
        Self::toeplitz(n, 1.0, spec)
    }

    /// Positions mu `[n]` on a line. Errors as [`Self::grid`], NaN, and positions that do not rise
    /// where the reach is limited.
    pub fn line(mu: &[f64], spec: KernelSpec) -> Result<Self, NgmgError> {
        check_spec(mu.len(), spec)?;
        check_finite("mu", mu)?;
        if let Some(h) = uniform_step(mu) {
            return Self::toeplitz(mu.len(), h, spec);
        }
        let Reach::Sigmas(reach) = spec.reach else {
            return Self::points(mu, 1, spec);
        };
        if let Some(i) = mu.windows(2).position(|m| m[0] >= m[1]) {
            return Err(NgmgError::NotSorted { index: i + 1 });
        }
        let reach = reach * spec.sigma;
        let columns = |j: usize| {
            let first = mu.partition_point(|&m| m < mu[j] - reach);
            first..mu.partition_point(|&m| m <= mu[j] + reach)
        };
        Self::rows(mu.len(), 1, spec, columns, |j, i| (mu[j] - mu[i]).powi(2))
    }

    /// Positions mu `[n, D]`: squared Euclidean distance, density kappa to the power D. All entries are
    /// stored. Errors as [`Self::grid`], a limited reach, more than 2^26 entries.
    pub fn points(mu: &[f64], dims: usize, spec: KernelSpec) -> Result<Self, NgmgError> {
        if dims == 0 {
            return Err(MixtureError::NoDimensions.into());
        }
        let n = mu.len() / dims;
        check_spec(n, spec)?;
        check_finite("mu", mu)?;
        if mu.len() != n * dims {
            let (found, expected) = (mu.len(), n * dims);
            let what = "mu";
            return Err(MixtureError::Length {
                what,
                found,
                expected,
            }
            .into());
        }
        if spec.reach != Reach::All {
            return Err(NgmgError::NotSorted { index: 0 });
        }
        let at = |i: usize| &mu[i * dims..(i + 1) * dims];
        let square = |j: usize, i: usize| {
            let axes = at(j).iter().zip(at(i));
            axes.map(|(a, b)| (a - b).powi(2)).sum()
        };
        Self::rows(n, dims, spec, |_| 0..n, square)
    }

    fn toeplitz(n: usize, h: f64, spec: KernelSpec) -> Result<Self, NgmgError> {
        let sigma = spec.sigma / h;
        let reach = match spec.reach {
            Reach::All => VANISHED,
            Reach::Sigmas(reach) => reach,
        };
        let radius = ((reach * sigma).ceil().min(n as f64) as usize).min(n - 1);
        let tap = |i: usize| {
            let distance = i.abs_diff(radius);
            if distance == 0 && spec.diagonal == Diagonal::Zero {
                return 0.0;
            }
            (-0.5 * (distance as f64 / sigma).powi(2)).exp()
        };
        let mut padded = vec![0.0; BLOCK];
        padded.extend((0..=2 * radius).map(tap));
        padded.extend([0.0; BLOCK]);
        Self::scaled(n, 1, spec, Entries::Toeplitz { padded })
    }

    fn rows(
        n: usize,
        dims: usize,
        spec: KernelSpec,
        columns: impl Fn(usize) -> std::ops::Range<usize> + Sync,
        square: impl Fn(usize, usize) -> f64 + Sync,
    ) -> Result<Self, NgmgError> {
        let (mut first, mut start) = (Vec::with_capacity(n), vec![0]);
        let mut entries = 0_usize;
        for columns in (0..n).map(&columns) {
            first.push(columns.start);
            entries += columns.len();
            start.push(entries);
        }
        let limit = MAX_ENTRIES;
        if entries > limit {
            return Err(NgmgError::TooLarge { entries, limit });
        }
        let mut values = Vec::with_capacity(entries);
        for j in 0..n {
            values.extend(columns(j).map(|i| {
                if i == j && spec.diagonal == Diagonal::Zero {
                    return 0.0;
                }
                (-0.5 * square(j, i) / (spec.sigma * spec.sigma)).exp()
            }));
        }
        Self::scaled(
            n,
            dims,
            spec,
            Entries::Rows {
                first,
                start,
                values,
            },
        )
    }

    fn scaled(
        n: usize,
        dims: usize,
        spec: KernelSpec,
        entries: Entries,
    ) -> Result<Self, NgmgError> {
        let mut kernel = Self {
            n,
            spec,
            entries,
            scale: vec![1.0],
        };
        let sigma = spec.sigma;
        kernel.scale = match spec.norm {
            Norm::Unit => vec![1.0],
            Norm::Density => vec![(sigma * TAU.sqrt()).powi(-(dims as i32))],
            Norm::Mass | Norm::Row => {
                let sums: Vec<f64> = (0..n).map(|j| kernel.row(j).1.iter().sum()).collect();
                let largest = sums.iter().copied().fold(0.0, f64::max);
                let (row, needed) = match spec.norm {
                    Norm::Mass => (0, largest > 0.0),
                    _ => match sums.iter().position(|&s| s <= 0.0) {
                        Some(row) => (row, false),
                        None => (0, true),
                    },
                };
                if !needed {
                    return Err(NgmgError::Isolated { row, sigma });
                }
                match spec.norm {
                    Norm::Mass => vec![1.0 / largest],
                    _ => sums.iter().map(|s| 1.0 / s).collect(),
                }
            }
        };
        Ok(kernel)
    }

    /// Number of components.
    pub fn len(&self) -> usize {
        self.n
    }

    /// Never: a kernel has at least two components.
    pub fn is_empty(&self) -> bool {
        self.n == 0
    }

    /// What it was made of.
    pub fn spec(&self) -> KernelSpec {
        self.spec
    }

    /// On a uniform grid: the entries at distances 0..=R before kappa, and kappa (one number, or one for each
    /// row). `None` off it.
    pub fn taps(&self) -> Option<(&[f64], &[f64])> {
        let Entries::Toeplitz { padded } = &self.entries else {
            return None;
        };
        let taps = &padded[BLOCK..padded.len() - BLOCK];
        Some((&taps[taps.len() / 2..], &self.scale))
    }

    /// First column of row j and its entries before kappa.
    pub fn row(&self, j: usize) -> (usize, &[f64]) {
        match &self.entries {
            Entries::Toeplitz { padded } => {
                let taps = &padded[BLOCK..padded.len() - BLOCK];
                let radius = taps.len() / 2;
                let (below, above) = (radius.min(j), radius.min(self.n - 1 - j));
                (j - below, &taps[radius - below..=radius + above])
            }
            Entries::Rows {
                first,
                start,
                values,
            } => (first[j], &values[start[j]..start[j + 1]]),
        }
    }

    /// kappa of row j.
    pub fn scale(&self, j: usize) -> f64 {
        self.scale[j.min(self.scale.len() - 1)]
    }

    /// `out = M v`, both `[n]`. Errors: other lengths.
    pub fn apply(&self, v: &[f64], out: &mut [f64]) -> Result<(), NgmgError> {
        for (what, found) in [("v", v.len()), ("out", out.len())] {
            if found != self.n {
                let expected = self.n;
                return Err(MixtureError::Length {
                    what,
                    found,
                    expected,
                }
                .into());
            }
        }
        self.product(v, out);
        Ok(())
    }

    /// [`Self::apply`] for lengths known to be right. Every row is one sum in a fixed order.
    pub(super) fn product(&self, v: &[f64], out: &mut [f64]) {
        if self.n * self.row(self.n / 2).1.len() <= SERIAL {
            return self.rows_of(0, v, out);
        }
        let size = CHUNK.min(self.n.div_ceil(16).next_multiple_of(BLOCK));
        let chunks = out.par_chunks_mut(size).enumerate();
        chunks.for_each(|(c, out)| self.rows_of(c * size, v, out));
    }

    /// `out = M v` on this thread alone, for callers that spread rows of a batch over threads. `v` and
    /// `out` are `[n]`.
    pub fn product_serial(&self, v: &[f64], out: &mut [f64]) {
        self.rows_of(0, v, out);
    }

    /// Elements `first..` of M v.
    fn rows_of(&self, first: usize, v: &[f64], out: &mut [f64]) {
        if let Entries::Toeplitz { padded } = &self.entries {
            let common = self.scale.len() == 1;
            let scale = if common { self.scale[0] } else { 1.0 };
            vector::convolve(scale, padded, v, first, out);
            if !common {
                let rows = out.iter_mut().zip(&self.scale[first..]);
                rows.for_each(|(out, scale)| *out *= scale);
            }
            return;
        }
        for (j, out) in (first..).zip(out) {
            let (start, values) = self.row(j);
            let sum = vector::dot(values, &v[start..start + values.len()]);
            *out = self.scale(j) * sum;
        }
    }

    /// M as rows `[n, n]`. Errors: more than 2^26 entries.
    pub fn matrix(&self) -> Result<Vec<f64>, NgmgError> {
        let (entries, limit) = (self.n.saturating_mul(self.n), MAX_ENTRIES);
        if entries > limit {
            return Err(NgmgError::TooLarge { entries, limit });
        }
        let mut matrix = vec![0.0; entries];
        for (j, out) in matrix.chunks_mut(self.n).enumerate() {
            let (start, values) = self.row(j);
            for (out, value) in out[start..].iter_mut().zip(values) {
                *out = self.scale(j) * value;
            }
        }
        Ok(matrix)
    }

    /// The bounds of every NGMG_j: minus the largest entry of M, reached by a single deficit of 1;
    /// and 0.
    pub fn bounds(&self) -> [f64; 2] {
        let row = |j: usize| {
            let values = self.row(j).1.iter().copied();
            self.scale(j) * values.fold(0.0, f64::max)
        };
        [-(0..self.n).map(row).fold(0.0, f64::max), 0.0]
    }
}

fn check_spec(n: usize, spec: KernelSpec) -> Result<(), NgmgError> {
    if n < 2 {
        return Err(NgmgError::TooFew { n });
    }
    let reach = match spec.reach {
        Reach::All => 1.0,
        Reach::Sigmas(reach) => reach,
    };
    for (name, value) in [("sigma", spec.sigma), ("the reach", reach)] {
        if !(value > 0.0 && value.is_finite()) {
            return Err(NgmgError::NotPositive { name, value });
        }
    }
    Ok(())
}

/// The spacing of positions that are a uniform grid to the last bits.
fn uniform_step(mu: &[f64]) -> Option<f64> {
    let last = mu.len() - 1;
    let h = (mu[last] - mu[0]) / last as f64;
    let size = mu[0].abs().max(mu[last].abs());
    let off = |(i, m): (usize, &f64)| (m - (mu[0] + i as f64 * h)).abs();
    let uniform = mu
        .iter()
        .enumerate()
        .all(|m| off(m) <= 4.0 * f64::EPSILON * size);
    (h > 0.0 && h > 1e-6 * size && uniform).then_some(h)
}

/// `L(c, t)_i = min(c_i - t_i, 0)`, Eq. (11); `[n]`. Errors: lists of different lengths, or not weights.
pub fn negative_part(current: &[f64], target: &[f64]) -> Result<Vec<f64>, NgmgError> {
    let (current, target) = check_pair(current, target)?;
    let both = current.iter().zip(&target);
    Ok(both.map(|(c, t)| (c - t).min(0.0)).collect())
}

/// `NGMG(c, t) = M L(c, t)`, Eq. (13); `[n]`. Errors as [`negative_part`], and weights that are not as
/// many as the kernel's components.
pub fn ngmg(kernel: &Kernel, current: &[f64], target: &[f64]) -> Result<Vec<f64>, NgmgError> {
    let l = negative_part(current, target)?;
    let mut out = vec![0.0; kernel.len()];
    kernel.apply(&l, &mut out)?;
    Ok(out)
}

pub(super) fn check_pair(
    current: &[f64],
    target: &[f64],
) -> Result<(Vec<f64>, Vec<f64>), NgmgError> {
    if current.len() != target.len() {
        let (found, expected) = (target.len(), current.len());
        let what = "target";
        return Err(MixtureError::Length {
            what,
            found,
            expected,
        }
        .into());
    }
    let current = check_weights("current", current)?;
    Ok((current, check_weights("target", target)?))
}

#[cfg(test)]
mod tests;
