//! One network trained with one loss, scored on validation and test examples as it learns.

use super::examples::{Examples, Part};
use super::perceptron::{Columns, Optimizer, Rule, Weights};
use crate::data::ShuffledOrder;
use crate::gmm::entropy::{EntropyError, EntropyLoss, EntropySpec};

/// What is compared with the labels, and in which units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Probabilities sigmoid(z) with y.
    Probabilities,
    /// Shares softmax(z) with y / max(sum y, 1).
    Softmax,
    /// Probabilities divided by their sum with y / max(sum y, 1).
    Shares,
}

impl Reading {
    /// Squared error summed over the attributes, mean over the examples; `z` and `y` are `[K, n]`.
    pub fn error(self, z: &Columns, y: &Columns) -> f64 {
        let of_one = |(z, y): (_, _)| self.example(z, y);
        z.column_iter()
            .zip(y.column_iter())
            .map(of_one)
            .sum::<f64>()
            / z.ncols() as f64
    }

    fn example(self, z: nalgebra::DVectorView<'_, f64>, y: nalgebra::DVectorView<'_, f64>) -> f64 {
        let top = z.max();
        let p = z.map(|z| match self {
            Self::Softmax => (z - top).exp(),
            _ => 1.0 / (1.0 + (-z).exp()),
        });
        let [of_p, of_y] = match self {
            Self::Probabilities => [1.0, 1.0],
            _ => [p.sum().max(1e-300), y.sum().max(1.0)],
        };
        p.zip_fold(&y, 0.0, |sum, p, y| sum + (p / of_p - y / of_y).powi(2))
    }
}

/// How long and how fast a network learns.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Width of the hidden layer.
    pub hidden: usize,
    /// Steps.
    pub steps: usize,
    /// Examples per step.
    pub batch: usize,
    /// Scored every so many steps, at the start and at the end.
    pub every: usize,
    /// The optimizer.
    pub rule: Rule,
}

/// Errors of a network as it learns.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    /// Steps taken, error on validation examples, error on test examples.
    pub points: Vec<(usize, [f64; 2])>,
}

impl Curve {
    /// The point where the validation error is smallest.
    pub fn best(&self) -> (usize, [f64; 2]) {
        let smaller = |a: &&(usize, [f64; 2]), b: &&(usize, [f64; 2])| a.1[0].total_cmp(&b.1[0]);
        let best = self.points.iter().min_by(smaller);
        best.copied().unwrap_or((0, [f64::INFINITY; 2]))
    }

    /// The last point.
    pub fn end(&self) -> (usize, [f64; 2]) {
        let last = self.points.last();
        last.copied().unwrap_or((0, [f64::INFINITY; 2]))
    }
}

/// Trains a network from the initial weights and in the order of `seed`.
///
/// # Errors
/// A loss that does not fit the attributes; logits that are no longer numbers.
pub fn train(
    examples: &Examples,
    (spec, reading): (EntropySpec, Reading),
    settings: Settings,
    rate: f64,
    seed: u64,
) -> Result<Curve, EntropyError> {
    let Part { x, y } = &examples.train;
    let loss = EntropyLoss::new(spec, y.nrows())?;
    let mut workspace = loss.workspace();
    let mut weights = Weights::new([x.nrows(), settings.hidden, y.nrows()], seed);
    let mut optimizer = Optimizer::new(settings.rule, rate, &weights);
    let mut order = ShuffledOrder::new(seed, examples.train.len());
    let mut dz = Columns::zeros(y.nrows(), settings.batch);
    let mut points = Vec::new();
    let score = |weights: &Weights| {
        [&examples.validation, &examples.test].map(|part| {
            let [_, z] = weights.forward(&part.x);
            reading.error(&z, &part.y)
        })
    };
    for step in 0..settings.steps {
        if step % settings.every == 0 {
            points.push((step, score(&weights)));
        }
        let first = (step * settings.batch) as u64;
        let which: Vec<usize> = (first..first + settings.batch as u64)
            .filter_map(|sample| order.at(sample).map(|i| i as usize))
            .collect();
        let batch = examples.train.select(&which);
        let [hidden, z] = weights.forward(&batch.x);
        let labels = batch.y.as_slice();
        loss.evaluate(z.as_slice(), labels, dz.as_mut_slice(), &mut workspace)?;
        let gradient = weights.backward(&batch.x, &hidden, &dz);
        optimizer.step(&mut weights, &gradient);
    }
    points.push((settings.steps, score(&weights)));
    Ok(Curve { points })
}

#[cfg(test)]
mod tests {
    use super::super::examples::synthetic;
    use super::*;

    #[test]
    fn errors_are_in_the_units_they_say() {
        let z = Columns::from_column_slice(3, 1, &[0.0, 2.0_f64.ln(), -30.0]);
        let y = Columns::from_column_slice(3, 1, &[1.0, 1.0, 0.0]);
        let close = |reading: Reading, want: f64| {
            let got = reading.error(&z, &y);
            assert!((got - want).abs() < 1e-9, "{reading:?}: {got} {want}");
        };
        close(Reading::Probabilities, 0.25 + 1.0 / 9.0);
        close(Reading::Softmax, 2.0 / 36.0);
        // 1/2 and 2/3 of 7/6 against halves.
        let (a, b) = (3.0 / 7.0 - 0.5, 4.0 / 7.0 - 0.5);
        close(Reading::Shares, a * a + b * b);
    }

    #[test]
    fn bce_learns_most_of_what_can_be_known() {
        let examples = synthetic(3, [4000, 500, 500]);
        let settings = Settings {
            hidden: 16,
            steps: 300,
            batch: 64,
            every: 100,
            rule: Rule::Adam,
        };
        let spec = EntropySpec {
            variant: crate::gmm::entropy::Variant::Bce,
            ..EntropySpec::default()
        };
        let run = || train(&examples, (spec, Reading::Probabilities), settings, 0.02, 1).unwrap();
        let curve = run();
        let (steps, [_, test]) = curve.best();
        let [bayes, marginals] = [examples.bayes.unwrap(), examples.of_marginals()];
        let share = (marginals - test) / (marginals - bayes);
        assert!((0.75..1.05).contains(&share), "{share} at {steps}");
        assert_eq!(curve, run());
    }
}
