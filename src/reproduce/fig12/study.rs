//! The losses in comparison: each with its own rate, chosen on validation examples from the same grid,
//! and with several seeds.

use super::examples::{ATTRIBUTES, Examples};
use super::perceptron::Rule;
use super::training::{Curve, Reading, Settings, train};
use crate::device::pool::PoolError;
use crate::gmm::entropy::{EntropyError, EntropySpec, Variant};
use crate::gmm::ngmg::{Diagonal, Norm, Reach};
use crate::reproduce::workers;

/// A study cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum StudyError {
    /// A loss.
    #[error(transparent)]
    Loss(#[from] EntropyError),
    /// The threads.
    #[error(transparent)]
    Pool(#[from] PoolError),
}

/// Which comparison an entry belongs to: entries of one are in the same units, with the same optimizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Adam, every rate chosen; squared error of probabilities.
    Tuned,
    /// Plain descent, one rate for all; and, for comparison, chosen ones.
    EqualRate,
    /// Adam, every rate chosen; squared error of shares.
    Shares,
}

/// A loss in a comparison.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The comparison.
    pub group: Group,
    /// Its name in figure and table.
    pub name: &'static str,
    /// The loss.
    pub spec: EntropySpec,
    /// How its outputs are compared with the labels.
    pub reading: Reading,
    /// How long and how the network learns.
    pub settings: Settings,
    /// Rates to choose from; a single one is no choice.
    pub rates: Vec<f64>,
}

/// An entry with the rate that was best on validation examples.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// What was run.
    pub entry: Entry,
    /// The rate.
    pub rate: f64,
    /// Errors as the networks learn, seed by seed.
    pub curves: Vec<Curve>,
}

impl Chosen {
    /// Test errors at the steps where the validation error is smallest, seed by seed.
    pub fn test_errors(&self) -> Vec<f64> {
        self.curves.iter().map(|c| c.best().1[1]).collect()
    }

    /// Whether there was a choice and it fell on the first or last rate: a wider grid may have done better.
    pub fn at_the_edge(&self) -> bool {
        let rates = &self.entry.rates;
        rates.len() > 1 && (rates.first() == Some(&self.rate) || rates.last() == Some(&self.rate))
    }

    /// Mean, lowest and highest test error over the seeds at every scored step.
    pub fn band(&self) -> Vec<(f64, [f64; 3])> {
        let Some(first) = self.curves.first() else {
            return Vec::new();
        };
        let n = self.curves.len() as f64;
        let steps = first.points.iter().enumerate();
        let at = |(i, point): (usize, &(usize, [f64; 2]))| {
            let errors = self.curves.iter().map(|c| c.points[i].1[1]);
            let low = errors.clone().fold(f64::INFINITY, f64::min);
            let high = errors.clone().fold(f64::NEG_INFINITY, f64::max);
            (point.0 as f64, [errors.sum::<f64>() / n, low, high])
        };
        steps.map(at).collect()
    }
}

/// Size of the study.
#[derive(Clone, Debug, PartialEq)]
pub struct Scope {
    /// Networks per loss and rate, with different initial weights and orders.
    pub seeds: u64,
    /// Width of the hidden layer.
    pub hidden: usize,
    /// Steps of Adam, 64 examples each.
    pub steps: usize,
    /// Steps of plain descent, 16 examples each.
    pub sgd_steps: usize,
    /// Rates of Adam.
    pub rates: Vec<f64>,
}

/// The one rate of plain descent, on the loss averaged over the attributes: small for all of them.
pub const EQUAL_RATE: f64 = 0.1;

const BCE: EntropySpec = EntropySpec {
    variant: Variant::Bce,
    sigma: 5.0,
    norm: Norm::Density,
    diagonal: Diagonal::Zero,
    floor: 1.0,
    gain: 1.0,
    reach: Reach::All,
};
const GATED: EntropySpec = EntropySpec {
    variant: Variant::Gated,
    ..BCE
};
/// Only the neighbours' errors.
const PURE: EntropySpec = EntropySpec {
    floor: 0.0,
    ..GATED
};
/// The kinder of its kernels: narrow, with the diagonal.
const TWO_SIDED: EntropySpec = EntropySpec {
    variant: Variant::TwoSided,
    sigma: 1.0,
    diagonal: Diagonal::Keep,
    ..BCE
};
const LITERAL: EntropySpec = EntropySpec {
    variant: Variant::Literal,
    ..BCE
};
const SOFTMAX: EntropySpec = EntropySpec {
    variant: Variant::Softmax,
    ..BCE
};
const SOFTMAX_CE: EntropySpec = EntropySpec {
    variant: Variant::SoftmaxCe,
    ..BCE
};

/// Largest row sum of the kernel of sigma 5 with height 1 and zero diagonal: what row-normalising divides
/// by.
fn row_sum() -> f64 {
    let middle = ATTRIBUTES / 2;
    (0..ATTRIBUTES)
        .filter(|&i| i != middle)
        .map(|i| (-(i as f64 - middle as f64).powi(2) / 50.0).exp())
        .sum()
}

impl Scope {
    /// Everything to run.
    pub fn entries(&self) -> Vec<Entry> {
        let mut entries = self.adam();
        entries.extend(self.descent());
        entries
    }

    /// Entries with Adam, each with a choice of rates.
    fn adam(&self) -> Vec<Entry> {
        use Reading::{Probabilities, Shares, Softmax};
        let settings = Settings {
            hidden: self.hidden,
            steps: self.steps,
            batch: 64,
            every: (self.steps / 24).max(1),
            rule: Rule::Adam,
        };
        let entry = |(group, name, spec, reading)| Entry {
            group,
            name,
            spec,
            reading,
            settings,
            rates: self.rates.clone(),
        };
        [
            (Group::Tuned, "bce", BCE, Probabilities),
            (Group::Tuned, "gated, floor 1", GATED, Probabilities),
            (Group::Tuned, "gated, floor 0", PURE, Probabilities),
            (Group::Tuned, "two_sided", TWO_SIDED, Probabilities),
            (Group::Tuned, "literal", LITERAL, Probabilities),
            (Group::Shares, "softmax", SOFTMAX, Softmax),
            (Group::Shares, "softmax cross-entropy", SOFTMAX_CE, Softmax),
            (Group::Shares, "bce, divided by its sum", BCE, Shares),
        ]
        .map(entry)
        .to_vec()
    }

    /// Entries with plain descent: one equal rate, and chosen ones.
    fn descent(&self) -> Vec<Entry> {
        let settings = Settings {
            hidden: self.hidden,
            steps: self.sgd_steps,
            batch: 16,
            every: (self.sgd_steps / 40).max(1),
            rule: Rule::Sgd,
        };
        // As printed the kernel is not normalised: its pull is this much stronger.
        let gain = row_sum();
        let unnormalised = EntropySpec { gain, ..PURE };
        let equal = EQUAL_RATE;
        let grid: Vec<f64> = (0..6).map(|i| equal * f64::from(1 << (2 * i))).collect();
        [
            ("bce, equal rate", BCE, vec![equal]),
            ("gated, floor 0, equal rate", unnormalised, vec![equal]),
            ("bce, chosen rate", BCE, grid.clone()),
            ("gated, floor 0, chosen rate", unnormalised, grid),
        ]
        .map(|(name, spec, rates)| Entry {
            group: Group::EqualRate,
            name,
            spec,
            reading: Reading::Probabilities,
            settings,
            rates,
        })
        .to_vec()
    }

    /// Runs every entry with every rate and seed on `threads` threads and keeps each entry's best rate.
    /// `done` hears how many of how many networks are trained.
    ///
    /// # Errors
    /// A loss that fails; threads that do not start.
    pub fn run(
        &self,
        examples: &Examples,
        seed: u64,
        threads: usize,
        mut done: impl FnMut(usize, usize),
    ) -> Result<Vec<Chosen>, StudyError> {
        let entries = self.entries();
        let mut trials = Vec::new();
        for entry in &entries {
            for &rate in &entry.rates {
                trials.extend((seed..seed + self.seeds).map(|seed| (entry, rate, seed)));
            }
        }
        let run = |number: usize, _: &_| {
            let (entry, rate, seed) = trials[number];
            let loss = (entry.spec, entry.reading);
            train(examples, loss, entry.settings, rate, seed)
        };
        let count = trials.len();
        let curves = workers::each(threads, count, run, |n| done(n, count))?;
        let curves = curves.into_iter().collect::<Result<Vec<_>, _>>()?;
        let mut groups = curves.chunks(self.seeds as usize);
        let chosen = entries.iter().filter_map(|entry| {
            let tried = entry.rates.iter().zip(groups.by_ref());
            let best = tried.min_by(|a, b| validation(a.1).total_cmp(&validation(b.1)))?;
            Some(Chosen {
                entry: entry.clone(),
                rate: *best.0,
                curves: best.1.to_vec(),
            })
        });
        Ok(chosen.collect())
    }
}

/// Mean over the seeds of the smallest validation error.
fn validation(curves: &[Curve]) -> f64 {
    curves.iter().map(|c| c.best().1[0]).sum::<f64>() / curves.len() as f64
}
