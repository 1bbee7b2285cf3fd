//! Expansion of samples on fixed Gaussian components: only the weights are learned (paper section 2.2).
//!
//! On a grid `mu_n = lo + n h`, `h = (hi - lo)/(N - 1)`, `s = r h`. With `phi_n(x) = phi(x; mu_n, s)`
//! over M samples x_d:
//!
//! ```text
//! one_step:  pi_n = l_n / sum_m l_m,  l_n = sum_d phi_n(x_d)               (the paper's five steps)
//! resp:      pi_n = mean_d `[ phi_n(x_d) / sum_m phi_m(x_d) ]`
//! em(k):     k times  pi_n <- mean_d `[ pi_n phi_n(x_d) / sum_m pi_m phi_m(x_d) ]`, from uniform pi
//! ```
//!
//! `one_step` smooths twice: the variance grows by 2 s^2. Sums are taken over chunks cut by the
//! number of samples and added in order, so threads do not change a bit.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use rayon::prelude::*;

use super::basis::{Axis, Basis};
use super::mixture::{Mixture, MixtureError, check_finite};
use super::vector;

/// Largest number of components.
pub const MAX_COMPONENTS: usize = 1_000_000;
/// `auto` takes one step where it widens the variance by no more than this share.
const AUTO_SHARE: f64 = 0.02;
/// EM steps of `auto`; more overfit.
const AUTO_EM: usize = 10;
/// Widths of a range whose squares are numbers.
const SPANS: RangeInclusive<f64> = 1e-150..=1e150;
/// Smallest grid spacing beside the ends of the grid: below it the means lose three digits.
const MIN_SPACING: f64 = 2e-13;
/// Below this sum of weighted ratios a sample's responsibilities are computed from logarithms.
const TINY_SUM: f64 = 1e-290;

/// What is wrong with an expansion's samples or options.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ExpansionError {
    /// No samples.
    #[error("expansion: no samples; expected at least one")]
    NoSamples,
    /// Samples that are no multiple of D, or bad numbers, or components no mixture can have.
    #[error(transparent)]
    Mixture(#[from] MixtureError),
    /// All samples equal along an axis and no range given.
    #[error(
        "expansion: the samples have one distinct value ({value}) along axis {axis}; expected two, or give lo and hi"
    )]
    OneValue {
        /// Which axis.
        axis: usize,
        /// The value.
        value: f64,
    },
    /// A number of components outside 2..=10^6.
    #[error("expansion: N is {n}; expected 2 to 1000000 components")]
    Components {
        /// N.
        n: usize,
    },
    /// A width that is not positive.
    #[error("expansion: r is {r}; expected a finite number above 0 (the width in grid spacings)")]
    Width {
        /// The value given.
        r: f64,
    },
    /// A range that is empty or not finite.
    #[error("expansion: the range of axis {axis} is {low} to {high}; expected finite lo < hi")]
    Range {
        /// Which axis.
        axis: usize,
        /// lo.
        low: f64,
        /// hi.
        high: f64,
    },
    /// A range whose square, or whose grid spacing beside its ends, f64 cannot hold.
    #[error(
        "expansion: the range of axis {axis} is {low:e} to {high:e}; expected it 1e-150 to 1e150 wide, and its grid spacing above 2e-13 of its ends: rescale or shift the numbers"
    )]
    Scale {
        /// Which axis.
        axis: usize,
        /// lo.
        low: f64,
        /// hi.
        high: f64,
    },
    /// More axes than a grid may have, or none.
    #[error("expansion: a grid of {dims} axes; expected 1 to 3: give centres instead")]
    GridAxes {
        /// Number of axes.
        dims: usize,
    },
    /// A name that is no mode.
    #[error("expansion: mode `{name}`; expected auto, one_step, resp or em:K with K of 1 or more")]
    Mode {
        /// The name given.
        name: String,
    },
}

/// Something about an expansion its owner should know.
#[derive(Debug, Clone, PartialEq)]
pub enum Warning {
    /// Components so narrow that the density ripples.
    Narrow {
        /// Width in grid spacings.
        r: f64,
    },
    /// Samples outside the given range: they count for the nearest components.
    Outside {
        /// How many samples.
        count: usize,
        /// Of how many.
        total: usize,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Narrow { r } => write!(
                f,
                "r = {r} is below 0.5: the density ripples (total variation to a smooth truth near 0.2)"
            ),
            Self::Outside { count, total } => {
                write!(f, "{count} of {total} samples lie outside the given range")
            }
        }
    }
}

/// How the weights are found; the formulas are at the top of this file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// `one_step` if 2 s^2 <= 0.02 Var(x) along every axis, else `em(10)`.
    #[default]
    Auto,
    /// The paper's five steps.
    OneStep,
    /// Mean responsibility from uniform weights.
    Resp,
    /// This many EM steps with fixed means and widths, at least 1.
    Em(usize),
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::OneStep => f.write_str("one_step"),
            Self::Resp => f.write_str("resp"),
            Self::Em(k) => write!(f, "em:{k}"),
        }
    }
}

impl FromStr for Mode {
    type Err = ExpansionError;

    fn from_str(name: &str) -> Result<Self, ExpansionError> {
        let steps = name.strip_prefix("em:").and_then(|k| k.parse().ok());
        match (name, steps) {
            ("auto", _) => Ok(Self::Auto),
            ("one_step", _) => Ok(Self::OneStep),
            ("resp", _) => Ok(Self::Resp),
            (_, Some(k)) if k > 0 => Ok(Self::Em(k)),
            _ => Err(ExpansionError::Mode { name: name.into() }),
        }
    }
}

/// Options of an expansion on a line.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ExpansionSpec {
    /// Number of components N, 2 to 10^6; 100.
    pub n: usize,
    /// Their standard deviation in grid spacings; 1.
    pub r: f64,
    /// How the weights are found; auto.
    pub mode: Mode,
    /// lo and hi of the grid; `None`: the smallest and largest sample.
    pub range: Option<[f64; 2]>,
}

impl Default for ExpansionSpec {
    fn default() -> Self {
        Self {
            n: 100,
            r: 1.0,
            mode: Mode::Auto,
            range: None,
        }
    }
}

/// The expansion of some samples.
#[derive(Debug, Clone, PartialEq)]
pub struct Expansion {
    /// The mixture found.
    pub mixture: Mixture,
    /// Components along each axis; `[N]` for centres.
    pub shape: Vec<usize>,
    /// Grid spacing h along each axis; empty for centres.
    pub spacing: Vec<f64>,
    /// The mode used: what `auto` chose.
    pub mode: Mode,
    /// What the owner should know.
    pub warnings: Vec<Warning>,
}

/// Expands samples `[M]` on a line. Errors: no samples, NaN, fewer than 2 distinct values without a
/// range, N outside 2..=10^6, `r <= 0`, an empty range.
pub fn expand(x: &[f64], spec: ExpansionSpec) -> Result<Expansion, ExpansionError> {
    let range = spec.range.map(|range| [range]);
    let ranges = range.as_ref().map(|range| &range[..]);
    expand_grid(x, &[spec.n], ranges, spec.r, spec.mode)
}

/// Expands samples `[M, D]` on a product grid of `shape` components (row-major, last axis fastest),
/// D = 1 to 3, over `ranges` `[D]` or the extent of the samples; s_d = r h_d. Errors as [`expand`].
pub fn expand_grid(
    x: &[f64],
    shape: &[usize],
    ranges: Option<&[[f64; 2]]>,
    r: f64,
    mode: Mode,
) -> Result<Expansion, ExpansionError> {
    let dims = shape.len();
    if !(1..=3).contains(&dims) || ranges.is_some_and(|given| given.len() != dims) {
        return Err(ExpansionError::GridAxes { dims });
    }
    check_samples(x, dims)?;
    let n = shape.iter().fold(1_usize, |a, &b| a.saturating_mul(b));
    let small = shape.iter().copied().find(|&n| n < 2);
    if let Some(n) = small.or((n > MAX_COMPONENTS).then_some(n)) {
        return Err(ExpansionError::Components { n });
    }
    if !(r > 0.0 && r.is_finite()) {
        return Err(ExpansionError::Width { r });
    }
    let ranges = find_ranges(x, shape, ranges)?;
    let axes = ranges.iter().zip(shape);
    let axes = axes.map(|(&range, &count)| Axis::new(range, count, r, dims));
    let axes: Vec<_> = axes.collect();
    let spacing = axes.iter().map(Axis::spacing).collect();
    let mut found = learn(x, &Basis::grid(axes), mode)?;
    let inside = |x: &[f64]| {
        x.iter()
            .zip(&ranges)
            .all(|(x, r)| (r[0]..=r[1]).contains(x))
    };
    let total = x.len() / dims;
    let count = x.par_chunks(dims).filter(|x| !inside(x)).count();
    if r < 0.5 {
        found.warnings.push(Warning::Narrow { r });
    }
    if count > 0 {
        found.warnings.push(Warning::Outside { count, total });
    }
    Ok(Expansion {
        shape: shape.to_vec(),
        spacing,
        ..found
    })
}

/// The range of every axis: as given, or the extent of the samples; one that f64 can compute with.
fn find_ranges(
    x: &[f64],
    shape: &[usize],
    given: Option<&[[f64; 2]]>,
) -> Result<Vec<[f64; 2]>, ExpansionError> {
    let extent = extent(x, shape.len());
    let ranges = match given {
        Some(given) => given.to_vec(),
        None => match extent.iter().position(|e| e[0] == e[1]) {
            None => extent,
            Some(axis) => {
                let value = extent[axis][0];
                return Err(ExpansionError::OneValue { axis, value });
            }
        },
    };
    for (axis, (&[low, high], n)) in ranges.iter().zip(shape).enumerate() {
        if !(low < high && low.is_finite() && high.is_finite()) {
            return Err(ExpansionError::Range { axis, low, high });
        }
        let (span, ends) = (high - low, low.abs().max(high.abs()));
        if !SPANS.contains(&span) || span / (n - 1) as f64 <= MIN_SPACING * ends {
            return Err(ExpansionError::Scale { axis, low, high });
        }
    }
    Ok(ranges)
}

/// Expands samples `[M, D]` on given centres `[N, D]` with standard deviations `[N, D]`, any D. Dense: the
/// work grows as M N D. Errors as [`expand`], and lists of different lengths.
pub fn expand_centres(
    x: &[f64],
    dims: usize,
    mu: &[f64],
    sigma: &[f64],
    mode: Mode,
) -> Result<Expansion, ExpansionError> {
    check_samples(x, dims)?;
    let n = mu.len() / dims;
    if !(2..=MAX_COMPONENTS).contains(&n) {
        return Err(ExpansionError::Components { n });
    }
    // A mixture of equal weights has the same means and widths: its checks are the ones needed.
    Mixture::diagonal(dims, &vec![1.0 / n as f64; n], mu, sigma)?;
    let basis = Basis::centres(dims, mu.to_vec(), sigma.to_vec());
    learn(x, &basis, mode)
}

fn check_samples(x: &[f64], dims: usize) -> Result<(), ExpansionError> {
    if dims == 0 {
        return Err(MixtureError::NoDimensions.into());
    }
    if x.is_empty() {
        return Err(ExpansionError::NoSamples);
    }
    if !x.len().is_multiple_of(dims) {
        let (found, expected) = (x.len(), x.len().next_multiple_of(dims));
        let what = "x";
        return Err(MixtureError::Length {
            what,
            found,
            expected,
        }
        .into());
    }
    Ok(check_finite("x", x)?)
}

/// Smallest and largest sample along each axis.
fn extent(x: &[f64], dims: usize) -> Vec<[f64; 2]> {
    let mut extent = vec![[f64::INFINITY, f64::NEG_INFINITY]; dims];
    for x in x.chunks(dims) {
        for (e, &x) in extent.iter_mut().zip(x) {
            *e = [e[0].min(x), e[1].max(x)];
        }
    }
    extent
}

fn learn(x: &[f64], basis: &Basis, mode: Mode) -> Result<Expansion, ExpansionError> {
    let mode = match mode {
        Mode::Auto => choose(x, basis),
        Mode::Em(0) => {
            return Err(ExpansionError::Mode {
                name: "em:0".into(),
            });
        }
        mode => mode,
    };
    let n = basis.len();
    let uniform = || vec![1.0 / n as f64; n];
    let pi = match mode {
        Mode::OneStep | Mode::Auto => one_step(x, basis),
        Mode::Resp => em_step(x, basis, &uniform()),
        Mode::Em(steps) => (0..steps).fold(uniform(), |pi, _| em_step(x, basis, &pi)),
    };
    Ok(Expansion {
        mixture: Mixture::diagonal(basis.dims, &pi, &basis.mu, &basis.sigma)?,
        shape: vec![n],
        spacing: Vec::new(),
        mode,
        warnings: Vec::new(),
    })
}

fn choose(x: &[f64], basis: &Basis) -> Mode {
    let count = (x.len() / basis.dims) as f64;
    let narrow = |d: usize| {
        let axis = || x.iter().skip(d).step_by(basis.dims);
        let mean = axis().map(|x| x / count).sum::<f64>();
        let variance = axis().map(|x| (x - mean).powi(2) / count).sum::<f64>();
        let widths = basis.sigma.iter().skip(d).step_by(basis.dims);
        let widest = widths.copied().fold(0.0, f64::max);
        2.0 * widest * widest <= AUTO_SHARE * variance
    };
    if (0..basis.dims).all(narrow) {
        Mode::OneStep
    } else {
        Mode::Em(AUTO_EM)
    }
}

/// Samples per task: at most 32 tasks, so that their sums fit into memory.
fn chunk(samples: usize) -> usize {
    samples.div_ceil(32).max(4096)
}

/// Sums `f(x, sums)` over the samples: chunks side by side, their sums added in order.
fn accumulate(
    x: &[f64],
    basis: &Basis,
    f: impl Fn(&[f64], &mut Scratch, &mut [f64]) + Sync,
) -> Vec<f64> {
    let chunks = x.par_chunks(chunk(x.len() / basis.dims) * basis.dims);
    let parts: Vec<_> = chunks
        .map(|chunk| {
            let mut sums = vec![0.0; basis.len()];
            let mut scratch = Scratch {
                windows: basis.scratch(),
                logs: Vec::new(),
            };
            for x in chunk.chunks(basis.dims) {
                f(x, &mut scratch, &mut sums);
            }
            sums
        })
        .collect();
    let mut total = vec![0.0; basis.len()];
    for part in parts {
        for (t, p) in total.iter_mut().zip(part) {
            *t += p;
        }
    }
    let sum: f64 = total.iter().sum();
    total.iter_mut().for_each(|t| *t /= sum);
    total
}

struct Scratch {
    windows: Vec<super::basis::Window>,
    logs: Vec<f64>,
}

/// `pi_n ~ sum_d phi_n(x_d)`, scaled by the best sample's density: samples far outside a given range
/// do not underflow together.
fn one_step(x: &[f64], basis: &Basis) -> Vec<f64> {
    let chunks = x.par_chunks(chunk(x.len() / basis.dims) * basis.dims);
    let tops = chunks.map(|chunk| {
        let mut windows = basis.scratch();
        let tops = chunk.chunks(basis.dims);
        let tops = tops.map(|x| basis.top(x, &mut windows));
        tops.fold(f64::NEG_INFINITY, f64::max)
    });
    let top = tops.reduce(|| f64::NEG_INFINITY, f64::max);
    accumulate(x, basis, |x, scratch, sums| {
        let scale = (basis.prepare(x, &mut scratch.windows) - top).exp();
        basis.runs(&scratch.windows, |start, factor, values| {
            vector::add_scaled(factor * scale, values, &mut sums[start..]);
        });
    })
}

fn em_step(x: &[f64], basis: &Basis, pi: &[f64]) -> Vec<f64> {
    accumulate(x, basis, |x, scratch, sums| {
        basis.prepare(x, &mut scratch.windows);
        let mut sum = 0.0;
        basis.runs(&scratch.windows, |start, factor, values| {
            sum += factor * vector::dot(values, &pi[start..start + values.len()]);
        });
        if sum < TINY_SUM {
            return responsibilities(x, basis, pi, &mut scratch.logs, sums);
        }
        basis.runs(&scratch.windows, |start, factor, values| {
            vector::add_products(factor / sum, &pi[start..], values, &mut sums[start..]);
        });
    })
}

/// Adds the responsibilities of one sample, from logarithms of all components.
fn responsibilities(x: &[f64], basis: &Basis, pi: &[f64], logs: &mut Vec<f64>, sums: &mut [f64]) {
    basis.logs(x, logs);
    for (log, p) in logs.iter_mut().zip(pi) {
        *log += p.ln();
    }
    let top = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = logs.iter().map(|log| (log - top).exp()).sum();
    for (sum, log) in sums.iter_mut().zip(logs) {
        *sum += (*log - top).exp() / total;
    }
}

#[cfg(test)]
mod tests;
