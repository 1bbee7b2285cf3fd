//! Algorithm 1: moving weights to a target by NGMG (paper section 4.2).
//!
//! ```text
//! one-sided   c <- c + eta M (t - c)^+                                       then c <- c / sum c
//! balanced    c <- (c + eta `[(1 - lambda) M + lambda I]` (t - c))^+           then c <- c / sum c
//! ```
//!
//! The paper's `while L > eps` is read as TV(c, t) > eps. With its zero diagonal the one-sided form
//! never converges: M has negative eigenvalues, TV falls, turns and rises; with the diagonal kept it
//! converges, at best as 1/k, where the target is smoother than sigma. The balanced form converges to
//! any target: the error shrinks by 1 - lambda per step.

use std::fmt;

use super::mixture::MixtureError;
use super::ngmg::{Diagonal, Kernel, KernelSpec, NgmgError, Norm, Reach, check_pair};

/// To the rounding of f64, at the cost of a window.
const REACH: Reach = Reach::Sigmas(9.0);
/// A run of `Stable` stops when TV fell by less than this share ...
const STALL: f64 = 1e-6;
/// ... in this many steps.
const STALL_STEPS: usize = 50;
/// Narrowest kernel of `Anneal`, and its width's factor per step.
const ANNEAL: [f64; 2] = [0.2, 0.97];

/// One of the updates above.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Update {
    /// Adds near deficits; only the normalisation takes away.
    OneSided,
    /// Adds near deficits and takes away near surpluses.
    Balanced {
        /// Share of the identity, 0 to 1.
        lambda: f64,
    },
}

/// Repeats one update with one kernel.
#[derive(Debug, Clone)]
pub struct Stepper<'a> {
    kernel: &'a Kernel,
    update: Update,
    eta: f64,
    error: Vec<f64>,
    pulled: Vec<f64>,
}

impl<'a> Stepper<'a> {
    /// Errors: `eta <= 0`, lambda outside `[0, 1]`.
    pub fn new(kernel: &'a Kernel, update: Update, eta: f64) -> Result<Self, NgmgError> {
        if !(eta > 0.0 && eta.is_finite()) {
            let name = "eta";
            return Err(NgmgError::NotPositive { name, value: eta });
        }
        if let Update::Balanced { lambda } = update {
            share("lambda", lambda)?;
        }
        Ok(Self {
            kernel,
            update,
            eta,
            error: vec![0.0; kernel.len()],
            pulled: vec![0.0; kernel.len()],
        })
    }

    /// One update of `current` `[n]` towards `target` `[n]`; TV after it. Errors: other lengths, a step so
    /// large that nothing is left.
    pub fn step(&mut self, current: &mut [f64], target: &[f64]) -> Result<f64, NgmgError> {
        let expected = self.kernel.len();
        for (what, found) in [("current", current.len()), ("target", target.len())] {
            if found != expected {
                return Err(MixtureError::Length {
                    what,
                    found,
                    expected,
                }
                .into());
            }
        }
        let floor = match self.update {
            Update::OneSided => 0.0,
            Update::Balanced { .. } => f64::NEG_INFINITY,
        };
        for ((e, c), t) in self.error.iter_mut().zip(&*current).zip(target) {
            *e = (t - c).max(floor);
        }
        self.kernel.product(&self.error, &mut self.pulled);
        let [own, far] = match self.update {
            Update::OneSided => [0.0, self.eta],
            Update::Balanced { lambda } => [self.eta * lambda, self.eta * (1.0 - lambda)],
        };
        for ((c, e), p) in current.iter_mut().zip(&self.error).zip(&self.pulled) {
            *c = (*c + own * e + far * p).max(0.0);
        }
        let sum: f64 = current.iter().sum();
        if !(sum > 0.0 && sum.is_finite()) {
            return Err(NgmgError::NothingLeft { eta: self.eta });
        }
        current.iter_mut().for_each(|c| *c /= sum);
        Ok(total_variation(current, target))
    }
}

fn total_variation(c: &[f64], t: &[f64]) -> f64 {
    0.5 * c.iter().zip(t).map(|(c, t)| (c - t).abs()).sum::<f64>()
}

fn share(name: &'static str, value: f64) -> Result<(), NgmgError> {
    if (0.0..=1.0).contains(&value) {
        return Ok(());
    }
    Err(NgmgError::Share { name, value })
}

/// Which kernel and update.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Rule {
    /// Density kernel, zero diagonal, one-sided: as printed. No guarantee.
    Paper,
    /// The same with the diagonal kept; stops when TV stalls.
    Stable,
    /// Both signs with a mass-normalised kernel, diagonal kept: converges to any target.
    #[default]
    Balanced,
    /// `Stable` with sigma_k = max(0.2, sigma 0.97^k): any target, as 1/k.
    Anneal,
}

/// Options of Algorithm 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Algorithm1 {
    /// Kernel and update.
    pub rule: Rule,
    /// Kernel width in units of the positions; 2.
    pub sigma: f64,
    /// Step size; 1.
    pub eta: f64,
    /// Share of the identity in `Balanced`; 0.3.
    pub lambda: f64,
    /// Stops at this TV; 1e-6.
    pub eps: f64,
    /// Stops after so many steps; `Paper` 10, `Balanced` 200, the others 1000.
    pub max_steps: usize,
    /// Width r of the expansion in grid spacings, where known: `Stable` warns when sigma is larger.
    pub expansion_r: Option<f64>,
}

impl Default for Algorithm1 {
    fn default() -> Self {
        Self::with(Rule::default())
    }
}

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// TV reached eps.
    Converged,
    /// max_steps were made.
    MaxSteps,
    /// TV no longer fell: the target is rougher than sigma.
    Stalled,
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Converged => "reached eps",
            Self::MaxSteps => "made max_steps steps",
            Self::Stalled => "stalled: the target is rougher than sigma; reduce sigma",
        })
    }
}

/// What a run found.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// The best weights seen `[n]`.
    pub weights: Vec<f64>,
    /// After how many steps they were seen.
    pub best_step: usize,
    /// TV at the start and after every step `[steps + 1]`.
    pub tv: Vec<f64>,
    /// Why it ended.
    pub stop: Stop,
    /// sigma is wider than the expansion's components: `Stable` may stall.
    pub wide: bool,
}

impl Algorithm1 {
    /// The defaults of a rule.
    pub fn with(rule: Rule) -> Self {
        Self {
            rule,
            sigma: 2.0,
            eta: 1.0,
            lambda: 0.3,
            eps: 1e-6,
            max_steps: match rule {
                Rule::Paper => 10,
                Rule::Balanced => 200,
                Rule::Stable | Rule::Anneal => 1000,
            },
            expansion_r: None,
        }
    }

    /// Moves `current` `[n]` to `target` `[n]` over rising positions mu `[n]`; mu_i = i gives eta the same
    /// meaning on every grid. The best iterate is returned, with its step. Errors: fewer than 2
    /// components, lists of different lengths, or not weights, options out of range.
    pub fn run(&self, mu: &[f64], current: &[f64], target: &[f64]) -> Result<Run, NgmgError> {
        share("eps", self.eps)?;
        let (mut current, target) = check_pair(current, target)?;
        let (mut kernel, update) = self.first_step(mu)?;
        // A step checks the lengths, but no step may be made.
        Stepper::new(&kernel, update, self.eta)?.step(&mut current.clone(), &target)?;
        let mut run = Run {
            best_step: 0,
            tv: vec![total_variation(&current, &target)],
            stop: Stop::MaxSteps,
            wide: self.rule == Rule::Stable && self.expansion_r.is_some_and(|r| self.sigma > r),
            weights: current.clone(),
        };
        for k in 0..=self.max_steps {
            if run.tv[k] <= self.eps {
                run.stop = Stop::Converged;
            } else if self.stalled(&run.tv) {
                run.stop = Stop::Stalled;
            }
            if run.stop != Stop::MaxSteps || k == self.max_steps {
                break;
            }
            if self.rule == Rule::Anneal && k > 0 {
                let [narrowest, factor] = ANNEAL;
                let sigma = (self.sigma * factor.powf(k as f64)).max(narrowest.min(self.sigma));
                if sigma != kernel.spec().sigma {
                    kernel = self.kernel(mu, sigma)?;
                }
            }
            let tv = Stepper::new(&kernel, update, self.eta)?.step(&mut current, &target)?;
            run.tv.push(tv);
            if tv < run.tv[run.best_step] {
                run.best_step = k + 1;
                run.weights.copy_from_slice(&current);
            }
        }
        Ok(run)
    }

    /// Kernel and update of the first step, and but for `Anneal` of all: for a caller that needs every
    /// iterate. Errors as [`Algorithm1::run`].
    pub fn first_step(&self, mu: &[f64]) -> Result<(Kernel, Update), NgmgError> {
        let update = match self.rule {
            Rule::Balanced => Update::Balanced {
                lambda: self.lambda,
            },
            _ => Update::OneSided,
        };
        Ok((self.kernel(mu, self.sigma)?, update))
    }

    fn kernel(&self, mu: &[f64], sigma: f64) -> Result<Kernel, NgmgError> {
        let (norm, diagonal) = match self.rule {
            Rule::Paper => (Norm::Density, Diagonal::Zero),
            Rule::Stable | Rule::Anneal => (Norm::Density, Diagonal::Keep),
            Rule::Balanced => (Norm::Mass, Diagonal::Keep),
        };
        let spec = KernelSpec {
            sigma,
            norm,
            diagonal,
            reach: REACH,
        };
        Kernel::line(mu, spec)
    }

    fn stalled(&self, tv: &[f64]) -> bool {
        let Some(before) = tv.len().checked_sub(STALL_STEPS + 1) else {
            return false;
        };
        let best = |tv: &[f64]| tv.iter().copied().fold(f64::INFINITY, f64::min);
        let (then, now) = (best(&tv[..=before]), best(&tv[before + 1..]));
        self.rule == Rule::Stable && now > then * (1.0 - STALL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normalised(raw: impl Iterator<Item = f64>) -> Vec<f64> {
        let raw: Vec<f64> = raw.collect();
        let sum: f64 = raw.iter().sum();
        raw.iter().map(|p| p / sum).collect()
    }

    fn bump(n: usize, centre: f64, width: f64) -> impl Iterator<Item = f64> {
        (0..n).map(move |i| (-0.5 * ((i as f64 - centre) / width).powi(2)).exp())
    }

    fn positions(n: usize) -> Vec<f64> {
        (0..n).map(|i| i as f64).collect()
    }

    fn run(rule: Rule, sigma: f64, max_steps: usize, c: &[f64], t: &[f64]) -> Run {
        let options = Algorithm1 {
            sigma,
            max_steps,
            ..Algorithm1::with(rule)
        };
        options.run(&positions(c.len()), c, t).unwrap()
    }

    fn rough(n: usize, seed: f64) -> Vec<f64> {
        normalised((0..n).map(|i| (seed * (i as f64 + 1.0).powi(2)).sin().powi(2)))
    }

    /// Section 4.2, 1: TV falls, turns and rises; the best iterate is what is returned.
    #[test]
    fn the_paper_rule_turns_back_up() {
        let c = normalised(bump(100, 30.0, 5.0));
        let t = normalised(
            bump(100, 50.0, 5.0)
                .zip(bump(100, 75.0, 5.0))
                .map(|(a, b)| a + b),
        );
        let found = run(Rule::Paper, 2.0, 2000, &c, &t);
        let last = found.tv[2000];
        let best = found.tv[found.best_step];
        assert!(best < 0.1 && last > 2.0 * best, "{best} {last}");
        let gap = total_variation(&found.weights, &t);
        assert!((gap - best).abs() < 1e-15 && found.stop == Stop::MaxSteps);
        // n = 2 by hand: all weight on the wrong side.
        let found = run(Rule::Paper, 1.0, 50, &[0.5, 0.5], &[1.0, 0.0]);
        assert!(found.best_step == 0 && found.tv[50] > 0.9);
    }

    #[test]
    fn stable_converges_to_smooth_targets_as_one_over_k() {
        let c = normalised((0..60).map(|i| if i < 20 { 1.0 } else { 0.0 }));
        let t = normalised(bump(60, 40.0, 4.0).enumerate().map(
            |(i, v)| {
                if i < 20 { 0.0 } else { v }
            },
        ));
        let found = run(Rule::Stable, 1.0, 100, &c, &t);
        assert!((found.tv[10] - 1.0 / 11.0).abs() < 0.02, "{}", found.tv[10]);
        assert!(
            (found.tv[100] - 1.0 / 101.0).abs() < 0.005,
            "{}",
            found.tv[100]
        );
        let rough = run(Rule::Stable, 4.0, 100_000, &c, &rough(60, 0.37));
        assert_eq!(rough.stop, Stop::Stalled);
        let wide = Algorithm1 {
            expansion_r: Some(1.0),
            ..Algorithm1::with(Rule::Stable)
        };
        assert!(wide.run(&positions(60), &c, &t).unwrap().wide);
    }

    #[test]
    fn balanced_converges_to_any_target() {
        for n in [2, 3, 10, 60] {
            let start = rough(n, 0.11);
            let mut lone = vec![0.0; n];
            lone[n / 2] = 1.0;
            for sigma in [0.3, 1.0, 2.0, 8.0] {
                for target in [rough(n, 0.73), rough(n, 2.9), lone.clone()] {
                    let found = run(Rule::Balanced, sigma, 200, &start, &target);
                    assert!(
                        found.tv.len() <= 60,
                        "n {n} sigma {sigma}: {}",
                        found.tv.len()
                    );
                    assert_eq!(found.stop, Stop::Converged);
                    assert!(found.tv.windows(2).all(|tv| tv[1] <= tv[0] + 1e-12));
                }
            }
        }
    }

    #[test]
    fn anneal_reaches_rough_targets() {
        let (c, t) = (normalised(bump(60, 30.0, 20.0)), rough(60, 0.37));
        let stable = run(Rule::Stable, 3.0, 3000, &c, &t);
        let anneal = run(Rule::Anneal, 3.0, 3000, &c, &t);
        let [stable, anneal] = [stable, anneal].map(|run| run.tv[run.best_step]);
        assert!(anneal < 2e-3 && stable > 0.02, "{anneal} {stable}");
    }

    #[test]
    fn bad_input_is_refused_by_name() {
        let good = Algorithm1::default();
        let half = [0.5, 0.5];
        let text = |options: Algorithm1, mu: &[f64], c: &[f64], t: &[f64]| {
            options.run(mu, c, t).unwrap_err().to_string()
        };
        let two = positions(2);
        assert!(text(good, &[0.0], &[1.0], &[1.0]).contains("1 components"));
        assert!(text(good, &positions(3), &half, &half).contains("expected 3"));
        assert!(text(good, &two, &half, &[0.5, 0.6]).contains("target adds up"));
        let eta = Algorithm1 { eta: 0.0, ..good };
        assert!(text(eta, &two, &half, &half).contains("eta is 0"));
        let lambda = Algorithm1 {
            lambda: 1.5,
            ..good
        };
        assert!(text(lambda, &two, &half, &half).contains("lambda is 1.5"));
        let done = good.run(&two, &half, &half).unwrap();
        assert_eq!(
            (done.stop, done.tv.len(), done.best_step),
            (Stop::Converged, 1, 0)
        );
    }
}
