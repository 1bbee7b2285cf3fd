//! The fixed components of an expansion and their values at a sample.
//!
//! On a grid `phi_n(x)` is needed near x only. With z_0 the distance to the nearest component in
//! standard deviations and k steps of 1/r further on, `phi_k / phi_0 = exp(u k / r) exp(-k^2 / 2r^2)`,
//! u = z_0: one exponential, a running product and a table. A value k steps out carries a relative
//! rounding error of about 2k 1e-16.

use super::vector;

/// In one dimension components are left out where the ratio is below the smallest f64: nothing is
/// lost to rounding.
const CUT_LINE: f64 = 38.7;
/// On product grids the ratio is left out below exp(-72): a weight is off by less than 1e-30.
const CUT_PRODUCT: f64 = 12.0;
/// Below this r the running product could overflow; the few components are computed one by one.
const DIRECT_R: f64 = 0.2;

/// One axis of a uniform grid.
#[derive(Debug, Clone)]
pub(super) struct Axis {
    low: f64,
    spacing: f64,
    r: f64,
    count: usize,
    /// exp(-k^2 / 2r^2) for k = 0, 1, ...
    table: Vec<f64>,
}

impl Axis {
    pub(super) fn new([low, high]: [f64; 2], count: usize, r: f64, dims: usize) -> Self {
        let cut = if dims == 1 { CUT_LINE } else { CUT_PRODUCT };
        // A sample up to half a step off its nearest component needs one more on the far side.
        let reach = ((cut * r).ceil() + 1.0).min(count as f64) as usize;
        let table = (0..=reach).map(|k| (-0.5 * (k as f64 / r).powi(2)).exp());
        Self {
            low,
            spacing: (high - low) / (count - 1) as f64,
            r,
            count,
            table: table.collect(),
        }
    }

    pub(super) fn spacing(&self) -> f64 {
        self.spacing
    }

    pub(super) fn sigma(&self) -> f64 {
        self.r * self.spacing
    }

    pub(super) fn mu(&self, n: usize) -> f64 {
        self.low + n as f64 * self.spacing
    }

    /// The component nearest to x, and how far x lies above it in standard deviations.
    fn nearest(&self, x: f64) -> (usize, f64) {
        let place = ((x - self.low) / self.spacing).round();
        // A float too large for usize saturates; NaN cannot occur, the samples are finite.
        let nearest = (place.max(0.0) as usize).min(self.count - 1);
        (nearest, (x - self.mu(nearest)) / self.sigma())
    }

    fn fill(&self, x: f64, window: &mut Window) -> f64 {
        let (nearest, u) = self.nearest(x);
        let reach = self.table.len() - 1;
        let below = reach.min(nearest);
        let above = reach.min(self.count - 1 - nearest);
        window.start = nearest - below;
        window.values.clear();
        window.values.resize(below + above + 1, 1.0);
        let (left, right) = window.values.split_at_mut(below);
        self.side(u, &mut right[1..]);
        self.side(-u, left);
        left.reverse();
        -0.5 * u * u
    }

    /// Ratios 1, 2, ... steps away, on the side where a positive u is nearer.
    fn side(&self, u: f64, out: &mut [f64]) {
        if self.r < DIRECT_R {
            for (k, out) in out.iter_mut().enumerate() {
                let step = (k + 1) as f64 / self.r;
                *out = (step * (u - 0.5 * step)).exp();
            }
            return;
        }
        vector::powers((u / self.r).exp(), &self.table[1..], out);
    }
}

/// Values of neighbouring components from `start`, relative to the largest.
#[derive(Debug, Clone, Default)]
pub(super) struct Window {
    start: usize,
    values: Vec<f64>,
}

/// N components in D dimensions: a product grid (row-major, last axis fastest) or any centres.
#[derive(Debug, Clone)]
pub(super) struct Basis {
    pub(super) dims: usize,
    /// `[N, D]`.
    pub(super) mu: Vec<f64>,
    /// `[N, D]`.
    pub(super) sigma: Vec<f64>,
    /// Empty for centres.
    axes: Vec<Axis>,
}

impl Basis {
    pub(super) fn grid(axes: Vec<Axis>) -> Self {
        let (mut mu, mut sigma) = (Vec::new(), Vec::new());
        let count: usize = axes.iter().map(|a| a.count).product();
        for n in 0..count {
            let mut rest = count;
            for axis in &axes {
                rest /= axis.count;
                mu.push(axis.mu(n / rest % axis.count));
                sigma.push(axis.sigma());
            }
        }
        Self {
            dims: axes.len(),
            mu,
            sigma,
            axes,
        }
    }

    pub(super) fn centres(dims: usize, mu: Vec<f64>, sigma: Vec<f64>) -> Self {
        Self {
            dims,
            mu,
            sigma,
            axes: Vec::new(),
        }
    }

    /// N.
    pub(super) fn len(&self) -> usize {
        self.mu.len() / self.dims
    }

    /// Windows for [`Self::prepare`].
    pub(super) fn scratch(&self) -> Vec<Window> {
        vec![Window::default(); self.axes.len().max(1)]
    }

    /// Fills the windows with the component densities at x, relative to exp of the number returned
    /// (up to a factor common to all samples).
    pub(super) fn prepare(&self, x: &[f64], windows: &mut [Window]) -> f64 {
        if !self.axes.is_empty() {
            let axes = self.axes.iter().zip(x).zip(windows);
            return axes.map(|((axis, &x), window)| axis.fill(x, window)).sum();
        }
        let window = &mut windows[0];
        window.start = 0;
        self.logs(x, &mut window.values);
        let top = window.values.iter().copied();
        let top = top.fold(f64::NEG_INFINITY, f64::max);
        for value in &mut window.values {
            *value = (*value - top).exp();
        }
        top
    }

    /// What [`Self::prepare`] returns, alone.
    pub(super) fn top(&self, x: &[f64], windows: &mut [Window]) -> f64 {
        if self.axes.is_empty() {
            return self.prepare(x, windows);
        }
        let axes = self.axes.iter().zip(x);
        axes.map(|(axis, &x)| -0.5 * axis.nearest(x).1.powi(2))
            .sum()
    }

    /// ln phi_n(x) without the factor (2 pi)^(-D/2), for every n.
    pub(super) fn logs(&self, x: &[f64], out: &mut Vec<f64>) {
        let components = self.mu.chunks(self.dims).zip(self.sigma.chunks(self.dims));
        out.clear();
        out.extend(components.map(|(mu, sigma)| {
            let axes = x.iter().zip(mu).zip(sigma);
            let log = |((x, m), s): ((&f64, &f64), &f64)| {
                let z = (x - m) / s;
                -0.5 * z * z - s.ln()
            };
            axes.map(log).sum::<f64>()
        }));
    }

    /// Runs of neighbouring components: the number of the first, a factor, and the values to
    /// multiply with it.
    pub(super) fn runs(&self, windows: &[Window], mut f: impl FnMut(usize, f64, &[f64])) {
        match windows {
            [a] => f(a.start, 1.0, &a.values),
            [a, b] => self.plane(0, 1.0, [a, b], &mut f),
            [a, b, c] => {
                let stride = self.axes[1].count * self.axes[2].count;
                for (i, &factor) in a.values.iter().enumerate() {
                    self.plane((a.start + i) * stride, factor, [b, c], &mut f);
                }
            }
            _ => {}
        }
    }

    fn plane(
        &self,
        first: usize,
        factor: f64,
        [a, b]: [&Window; 2],
        f: &mut impl FnMut(usize, f64, &[f64]),
    ) {
        let stride = self.axes[self.dims - 1].count;
        for (i, value) in a.values.iter().enumerate() {
            let start = first + (a.start + i) * stride + b.start;
            f(start, factor * value, &b.values);
        }
    }
}
