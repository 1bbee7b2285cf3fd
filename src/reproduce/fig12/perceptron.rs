//! A perceptron of one hidden layer in f64 with its gradient: z = W2 tanh(W1 x + b1) + b2.
//!
//! Examples are columns, so that logits `[K, B]` in memory are the rows `[B, K]` that the losses take.

use crate::rng::{self, Philox, Stream};
use nalgebra::{DMatrix, DVector};

/// A matrix of numbers, one example per column.
pub type Columns = DMatrix<f64>;

/// W1 `[H, D]`, b1 `[H, 1]`, W2 `[K, H]`, b2 `[K, 1]`: the weights, or anything of their shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Weights(pub [Columns; 4]);

impl Weights {
    /// Initial weights, uniform in +- 1/sqrt(inputs of the layer): a function of the seed.
    pub fn new([inputs, hidden, outputs]: [usize; 3], seed: u64) -> Self {
        let draw = |tensor: u64, [rows, columns]: [usize; 2], fan_in: usize| {
            let philox = Philox::new(seed, Stream::Init, tensor);
            let bound = 1.0 / (fan_in as f64).sqrt();
            let values = (0..rows * columns).map(|i| {
                let word = philox.block((i / 4) as u32)[i % 4];
                bound * (2.0 * f64::from(rng::uniform(word)) - 1.0)
            });
            Columns::from_iterator(rows, columns, values)
        };
        Self([
            draw(0, [hidden, inputs], inputs),
            draw(1, [hidden, 1], inputs),
            draw(2, [outputs, hidden], hidden),
            draw(3, [outputs, 1], hidden),
        ])
    }

    /// Zeros of the same shapes.
    pub fn zeros_like(&self) -> Self {
        Self(
            self.0
                .each_ref()
                .map(|m| Columns::zeros(m.nrows(), m.ncols())),
        )
    }

    /// Hidden activations `[H, B]` and logits `[K, B]` of the examples `x` `[D, B]`.
    pub fn forward(&self, x: &Columns) -> [Columns; 2] {
        let [w1, b1, w2, b2] = &self.0;
        let mut hidden = layer(w1, b1, x);
        hidden.apply(|v| *v = v.tanh());
        let logits = layer(w2, b2, &hidden);
        [hidden, logits]
    }

    /// The gradient of a loss in the weights, from its gradient `dz` `[K, B]` in the logits.
    pub fn backward(&self, x: &Columns, hidden: &Columns, dz: &Columns) -> Self {
        let mut inner = self.0[2].transpose() * dz;
        inner.zip_apply(hidden, |d, h| *d *= 1.0 - h * h);
        Self([
            &inner * x.transpose(),
            column(inner.column_sum()),
            dz * hidden.transpose(),
            column(dz.column_sum()),
        ])
    }
}

fn column(v: DVector<f64>) -> Columns {
    let rows = v.nrows();
    v.reshape_generic(nalgebra::Dyn(rows), nalgebra::Dyn(1))
}

fn layer(w: &Columns, b: &Columns, x: &Columns) -> Columns {
    let mut y = w * x;
    for mut column in y.column_iter_mut() {
        column += b.column(0);
    }
    y
}

/// How weights follow gradients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Adam with betas 0.9 and 0.999, eps 1e-8.
    Adam,
    /// Plain gradient descent.
    Sgd,
}

/// An optimizer with its moments.
pub struct Optimizer {
    rule: Rule,
    rate: f64,
    moments: [Weights; 2],
    steps: i32,
}

impl Optimizer {
    /// An optimizer of `weights`.
    pub fn new(rule: Rule, rate: f64, weights: &Weights) -> Self {
        let moments = [weights.zeros_like(), weights.zeros_like()];
        Self {
            rule,
            rate,
            moments,
            steps: 0,
        }
    }

    /// One step.
    pub fn step(&mut self, weights: &mut Weights, gradient: &Weights) {
        self.steps += 1;
        let (rate, k) = (self.rate, self.steps);
        let [m, v] = &mut self.moments;
        let tensors = weights.0.iter_mut().zip(&gradient.0);
        for ((w, g), (m, v)) in tensors.zip(m.0.iter_mut().zip(&mut v.0)) {
            if self.rule == Rule::Sgd {
                w.zip_apply(g, |w, g| *w -= rate * g);
                continue;
            }
            m.zip_apply(g, |m, g| *m += 0.1 * (g - *m));
            v.zip_apply(g, |v, g| *v += 0.001 * (g * g - *v));
            let fresh = [1.0 - 0.9_f64.powi(k), 1.0 - 0.999_f64.powi(k)];
            w.zip_zip_apply(m, v, |w, m, v| {
                *w -= rate * (m / fresh[0]) / ((v / fresh[1]).sqrt() + 1e-8);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(rows: usize, columns: usize, step: f64) -> Columns {
        Columns::from_fn(rows, columns, |i, j| {
            (step * (i * columns + j + 1) as f64).sin()
        })
    }

    /// Central differences of sum(c * logits^3), whose gradient in the logits is 3 c logits^2.
    #[test]
    fn gradient_is_that_of_finite_differences() {
        let mut weights = Weights::new([3, 5, 2], 4);
        let (x, c) = (wave(3, 7, 0.7), wave(2, 7, 1.3));
        let loss = |w: &Weights| {
            let [_, z] = w.forward(&x);
            z.zip_fold(&c, 0.0, |sum, z, c| sum + c * z.powi(3))
        };
        let [hidden, z] = weights.forward(&x);
        let dz = z.zip_map(&c, |z, c| 3.0 * c * z * z);
        let gradient = weights.backward(&x, &hidden, &dz);
        for tensor in 0..4 {
            for i in 0..weights.0[tensor].len() {
                let start = weights.0[tensor][i];
                let mut at = |value| {
                    weights.0[tensor][i] = value;
                    loss(&weights)
                };
                let slope = (at(start + 1e-5) - at(start - 1e-5)) / 2e-5;
                at(start);
                let got = gradient.0[tensor][i];
                let bound = 1e-7 * (1.0 + slope.abs());
                assert!((got - slope).abs() < bound, "{tensor}.{i}: {got} {slope}");
            }
        }
    }

    /// Two steps of Adam and of descent on one weight, by hand.
    #[test]
    fn optimizers_follow_their_formulas() {
        let one = |value: f64| Weights([0; 4].map(|_| Columns::from_element(1, 1, value)));
        let mut w = one(1.0);
        let mut sgd = Optimizer::new(Rule::Sgd, 0.5, &w);
        sgd.step(&mut w, &one(0.4));
        sgd.step(&mut w, &one(-0.2));
        assert!((w.0[2][0] - 0.9).abs() < 1e-15);
        let mut w = one(1.0);
        let mut adam = Optimizer::new(Rule::Adam, 0.5, &w);
        adam.step(&mut w, &one(0.4));
        assert!((w.0[0][0] - 0.5).abs() < 1e-7);
        adam.step(&mut w, &one(-0.2));
        let (m, v) = (0.9 * 0.04 - 0.02, 0.999 * 0.00016 + 0.00004);
        let want = 0.5 - 0.5 * (m / 0.19) / ((v / 0.001999_f64).sqrt() + 1e-8);
        assert!((w.0[0][0] - want).abs() < 1e-7, "{} {want}", w.0[0][0]);
    }
}
