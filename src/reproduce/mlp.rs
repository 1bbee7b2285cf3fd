//! A multilayer perceptron for toy problems, recorded on the tape: linear layers with SiLU between
//! them, mean squared error, Adam.

use crate::device::pool::Pool;
use crate::model::params::{Init, ParamTable};
use crate::ops::adamw::{AdamWConfig, COUNTERS, adamw};
use crate::ops::add;
use crate::ops::linear::{Extras, Weights, linear};
use crate::ops::mse::mse;
use crate::tape::executable::{DeviceError, Executable};
use crate::tape::state::State;
use crate::tape::{Arena, Tape, TapeError, TensorType, Var};
use std::sync::Arc;

/// A perceptron cannot be recorded or planned.
#[derive(Debug, thiserror::Error)]
pub enum MlpError {
    /// Layers that do not fit.
    #[error(transparent)]
    Tape(#[from] TapeError),
    /// Not enough memory.
    #[error(transparent)]
    Memory(#[from] DeviceError),
}

/// The layers, and where their weights lie.
#[derive(Clone, Debug)]
pub struct Mlp {
    widths: Vec<usize>,
    table: ParamTable,
}

impl Mlp {
    /// Layers between `widths` (input, hidden.., output). Weights start uniform with variance 2 / inputs of
    /// the layer (He), which keeps activations from shrinking from layer to layer; biases start at 0.
    pub fn new(widths: &[usize]) -> Self {
        let mut table = ParamTable::default();
        for (layer, pair) in widths.windows(2).enumerate() {
            let bound = Init::Uniform((6.0 / pair[0] as f32).sqrt());
            table.add(format!("{layer}.weight"), &[pair[1], pair[0]], bound);
            table.add(format!("{layer}.bias"), &[pair[1]], Init::Constant(0.0));
        }
        let widths = widths.to_vec();
        Self { widths, table }
    }

    /// Numbers per row of the input and of the output.
    pub fn ends(&self) -> [usize; 2] {
        let last = self.widths.len() - 1;
        [self.widths[0], self.widths[last]]
    }

    fn record(&self, tape: &mut Tape, x: Var, train: bool) -> Result<Var, TapeError> {
        let vars: Vec<Var> = self
            .table
            .params()
            .iter()
            .map(|p| {
                let var = tape.state(&p.name, p.ty(), Arena::Params, p.offset);
                if train {
                    tape.want_grad(var);
                }
                var
            })
            .collect();
        let mut y = x;
        for (layer, pair) in vars.chunks(2).enumerate() {
            let weights = Weights {
                w: pair[0],
                b: pair[1],
            };
            let extras = Extras {
                silu: layer > 0,
                ..Extras::default()
            };
            y = linear(tape, y, &[weights], extras)?[0];
        }
        Ok(y)
    }
}

/// A perceptron that learns: one step of Adam on a batch.
pub struct Learner {
    mlp: Mlp,
    exe: Executable,
    state: State,
    x: Var,
    target: Var,
    rates: Var,
    loss: Var,
}

impl Learner {
    /// Records the step for `batch` rows; the initial weights are a function of `seed`.
    ///
    /// # Errors
    /// Layers that do not fit; not enough memory.
    pub fn new(mlp: &Mlp, batch: usize, seed: u64, pool: &Arc<Pool>) -> Result<Self, MlpError> {
        let [width, outputs] = mlp.ends();
        let mut tape = Tape::new();
        let x = tape.input("x", TensorType::f32(&[batch, width]));
        let target = tape.input("target", TensorType::f32(&[batch, outputs]));
        let rates = tape.input("rates", TensorType::f32(&[2]));
        let y = mlp.record(&mut tape, x, true)?;
        let [loss, _] = mse(&mut tape, y, target)?;
        tape.backward(&[loss], add::sum)?;
        let adam = AdamWConfig {
            betas: [0.9, 0.999],
            eps: 1e-8,
            weight_decay: 0.0,
            clip: None,
        };
        adamw(&mut tape, mlp.table.elements(), rates, adam)?;
        tape.keep(loss);
        Ok(Self {
            mlp: mlp.clone(),
            exe: Executable::new(tape, pool.clone())?,
            state: initial_state(&mlp.table, seed)?,
            x,
            target,
            rates,
            loss,
        })
    }

    /// One step with learning rate `rate`: `x` is `[batch, inputs]`, `target` `[batch, outputs]`. Returns
    /// the mean squared error before the step.
    ///
    /// # Errors
    /// The device's.
    ///
    /// # Panics
    /// If the sizes differ.
    pub fn step(&mut self, x: &[f32], target: &[f32], rate: f32) -> Result<f32, MlpError> {
        self.exe.write(self.x, x)?;
        self.exe.write(self.target, target)?;
        // The moving average is not used here.
        self.exe.write(self.rates, &[rate, 0.0])?;
        self.exe.run(&mut self.state, Arena::Params)?;
        Ok(self.exe.read(self.loss)?[0])
    }

    /// The network with the weights it has now, for `batch` rows at a time.
    ///
    /// # Errors
    /// Not enough memory.
    pub fn predictor(self, batch: usize) -> Result<Predictor, MlpError> {
        let mut tape = Tape::new();
        let x = tape.input("x", TensorType::f32(&[batch, self.mlp.ends()[0]]));
        let y = self.mlp.record(&mut tape, x, false)?;
        tape.keep(y);
        Ok(Predictor {
            exe: Executable::new(tape, self.exe.pool().clone())?,
            state: self.state,
            x,
            y,
        })
    }
}

fn initial_state(table: &ParamTable, seed: u64) -> Result<State, DeviceError> {
    let mut state = State::default();
    for arena in [
        Arena::Params,
        Arena::Grads,
        Arena::AdamM,
        Arena::AdamV,
        Arena::Ema,
    ] {
        state.allocate(arena, table.elements())?;
    }
    state.allocate(Arena::Counters, COUNTERS)?;
    table.initialise(seed, state.get_mut(Arena::Params));
    Ok(state)
}

/// A trained perceptron.
pub struct Predictor {
    exe: Executable,
    state: State,
    x: Var,
    y: Var,
}

impl Predictor {
    /// Outputs `[batch, outputs]` of the rows `x` `[batch, inputs]`.
    ///
    /// # Errors
    /// The device's.
    ///
    /// # Panics
    /// If the sizes differ.
    pub fn predict(&mut self, x: &[f32]) -> Result<Vec<f32>, MlpError> {
        self.exe.write(self.x, x)?;
        self.exe.run(&mut self.state, Arena::Params)?;
        Ok(self.exe.read(self.y)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The layers written out: what the tape should compute.
    fn by_hand(mlp: &Mlp, weights: &[f32], row: &[f32]) -> Vec<f64> {
        let mut y: Vec<f64> = row.iter().map(|&x| f64::from(x)).collect();
        for (layer, pair) in mlp.table.params().chunks(2).enumerate() {
            if layer > 0 {
                y.iter_mut().for_each(|v| *v /= 1.0 + (-*v).exp());
            }
            let at = |offset: usize| f64::from(weights[offset]);
            y = (0..pair[1].len())
                .map(|i| {
                    let products = y.iter().enumerate();
                    let sum: f64 = products
                        .map(|(j, v)| v * at(pair[0].offset + i * y.len() + j))
                        .sum();
                    sum + at(pair[1].offset + i)
                })
                .collect();
        }
        y
    }

    #[test]
    fn outputs_are_those_of_the_layers_written_out() {
        let mlp = Mlp::new(&[3, 7, 5, 2]);
        let pool = Arc::new(Pool::new(1).unwrap());
        let learner = Learner::new(&mlp, 4, 9, &pool).unwrap();
        let weights = learner.state.get::<f32>(Arena::Params).to_vec();
        let x: Vec<f32> = (0..12).map(|i| (i as f32 * 0.7).sin()).collect();
        let y = learner.predictor(4).unwrap().predict(&x).unwrap();
        for (row, y) in x.chunks(3).zip(y.chunks(2)) {
            for (want, &got) in by_hand(&mlp, &weights, row).iter().zip(y) {
                assert!((want - f64::from(got)).abs() < 1e-5, "{want} {got}");
            }
        }
    }

    #[test]
    fn a_smooth_function_is_learnt() {
        let mlp = Mlp::new(&[1, 32, 32, 1]);
        let pool = Arc::new(Pool::new(1).unwrap());
        let mut learner = Learner::new(&mlp, 64, 3, &pool).unwrap();
        let x: Vec<f32> = (0..64).map(|i| i as f32 / 32.0 - 1.0).collect();
        let y: Vec<f32> = x.iter().map(|x| (3.0 * x).sin()).collect();
        let first = learner.step(&x, &y, 3e-3).unwrap();
        for _ in 0..600 {
            learner.step(&x, &y, 3e-3).unwrap();
        }
        let last = learner.step(&x, &y, 0.0).unwrap();
        assert!(first > 0.2 && last < 2e-3, "{first} -> {last}");
    }
}
