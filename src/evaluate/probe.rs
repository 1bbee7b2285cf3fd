//! The evaluation along with a run.

use super::evaluator::{EvaluateError, Evaluator};
use super::report::metrics;
use crate::diffusion::generate::GenerateError;
use crate::tape::Arena;
use crate::tape::state::State;
use crate::train::trainer::{Probe, ProbeError};
use std::sync::atomic::{AtomicBool, Ordering};

/// Evaluates a run's averaged weights every so many steps.
pub struct Periodic {
    evaluator: Evaluator,
    every: u64,
}

impl Periodic {
    /// `evaluator` every so many steps.
    pub fn new(evaluator: Evaluator, every: u64) -> Self {
        Self { evaluator, every }
    }
}

impl Probe for Periodic {
    fn every(&self) -> u64 {
        self.every
    }

    fn measure(
        &mut self,
        state: &mut State,
        stop: &AtomicBool,
    ) -> Result<Vec<(String, f64)>, ProbeError> {
        let go_on = || !stop.load(Ordering::Relaxed);
        match self.evaluator.measure((state, Arena::Ema), go_on) {
            Ok(evaluation) => Ok(metrics(&self.evaluator, &evaluation)),
            Err(EvaluateError::Generate(GenerateError::Stopped)) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }
}
