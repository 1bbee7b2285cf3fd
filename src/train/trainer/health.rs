//! Gradients that are not finite: where it began, and what is left when a run gives up.

use super::{Observer, TrainError, Trainer};
use crate::data::{Batch, Loader};
use crate::train::dump::{self, Dump};
use crate::train::tensors::StateTensors;

impl Trainer<'_> {
    /// Looks into a step whose gradient was not finite, and gives up after too many in a row.
    pub(super) fn check_health(&mut self, observer: &mut dyn Observer) -> Result<(), TrainError> {
        let limit = self.setup.config.max_skipped;
        if self.suspect.is_none() && self.skipped_in_a_row < limit {
            return Ok(());
        }
        self.settle(observer)?;
        // The last step's gradients, before another look at an earlier one writes over them.
        let given_up = self.skipped_in_a_row >= limit;
        let tensors = match given_up {
            true => {
                self.state.fetch()?;
                dump::tensors(self.setup.net.table(), &self.state)
            }
            false => Vec::new(),
        };
        if let Some(step) = self.suspect.take() {
            let batch = self.batch_of(step)?;
            let rates = self.setup.config.rates(batch.first_sample);
            self.fault = self.step.first_not_finite(&mut self.state, &batch, rates)?;
            observer.note(&match &self.fault {
                Some(fault) => format!("note: it begins in {fault}"),
                None => {
                    format!("note: with the weights as they are now, all of step {step} is finite")
                }
            });
        }
        match given_up {
            true => Err(self.give_up(tensors)?),
            false => Ok(()),
        }
    }

    /// The pictures of a step that was taken: a function of the seed.
    fn batch_of(&self, step: u64) -> Result<Batch, TrainError> {
        let config = &self.setup.config;
        let first = (step - 1) * config.batch;
        let size = config.batch as usize;
        let mut loader = Loader::new(self.data.clone(), size, config.seed, first)?;
        Ok(loader.next()?.clone())
    }

    /// Leaves a dump; the error that ends the run.
    fn give_up(&mut self, tensors: Vec<dump::TensorHealth>) -> Result<TrainError, TrainError> {
        let (step, count) = (self.counters.step, self.skipped_in_a_row);
        let dump = Dump {
            step,
            images: self.counters.images_seen,
            skipped_in_a_row: count,
            first_not_finite: self.fault.as_ref().map(ToString::to_string),
            pictures: self.batch_of(step)?.rows,
            tensors,
        };
        self.state.fetch()?;
        let mut source = StateTensors::new(self.setup.net.table(), &self.state);
        let written = dump.write(&self.run.dump(), &mut source, &self.info());
        Ok(TrainError::Diverged {
            count,
            step,
            fault: self
                .fault
                .as_ref()
                .map_or(String::new(), |fault| format!("; it began in {fault}")),
            dump: match written {
                Ok(path) => format!("the state is in {}", path.display()),
                Err(error) => format!("there is no dump: {error}"),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::device::Device;
    use crate::device::pool::Pool;
    use crate::tape::Arena;
    use crate::tape::state::State;
    use crate::train::config::{DataKind, RunConfig};
    use crate::train::setup::Setup;
    use crate::train::step::TrainStep;
    use crate::train::trial::blank_batch;
    use std::sync::Arc;

    const LASTING: [Arena; 5] = [
        Arena::Params,
        Arena::AdamM,
        Arena::AdamV,
        Arena::Ema,
        Arena::Counters,
    ];

    fn bits(state: &State) -> Vec<Vec<u32>> {
        LASTING
            .iter()
            .map(|&arena| state.get::<u32>(arena).to_vec())
            .collect()
    }

    /// Weights of one tensor at a time that overflow are found at the op that uses them, and the step
    /// itself agrees that it cannot be taken.
    #[test]
    fn the_first_bad_tensor_is_named() {
        let setup = Setup::new(RunConfig::new(DataKind::Faces, "nano"), 40).unwrap();
        let device: Device = Arc::new(Pool::new(1).unwrap()).into();
        let mut step = TrainStep::new(&setup.recipe(), 2, &device).unwrap();
        let batch = blank_batch(&setup, 2);
        let mut state = setup.allocate().unwrap();
        setup
            .net
            .table()
            .initialise(0, state.get_mut(Arena::Params));
        let before = bits(&state);
        let found = step
            .first_not_finite(&mut state, &batch, [1e-3, 0.5])
            .unwrap();
        assert_eq!(found, None);
        assert!(bits(&state) == before, "looking changes nothing that lasts");
        let convolutions = setup
            .net
            .table()
            .params()
            .iter()
            .filter(|p| p.shape.len() == 4);
        let mut seen = 0;
        for param in convolutions {
            let window = param.offset..param.offset + param.len();
            let good = state.get::<f32>(Arena::Params)[window.clone()].to_vec();
            let mut fill = |value: f32| {
                state.get_mut::<f32>(Arena::Params)[window.clone()].fill(value);
                let before = bits(&state);
                let found = step
                    .first_not_finite(&mut state, &batch, [1e-3, 0.5])
                    .unwrap()
                    .unwrap();
                assert!(bits(&state) == before);
                found
            };
            let overflow = fill(f32::MAX);
            assert!(
                overflow.count > 0
                    && overflow.count <= overflow.len
                    && !overflow.first.1.is_finite()
            );
            assert!(overflow.tensor.starts_with("output"), "{overflow}");
            assert!(
                param.name.starts_with(&overflow.scope),
                "{} was blown up, {overflow}",
                param.name
            );
            let nan = fill(f32::NAN);
            assert_eq!(
                (nan.tensor, nan.count),
                (format!("state {}", param.name), param.len())
            );
            assert!(!step.run(&mut state, &batch, [1e-3, 0.5]).unwrap().updated);
            state.get_mut::<f32>(Arena::Params)[window].copy_from_slice(&good);
            seen += 1;
        }
        assert!(seen > 5);
        assert!(
            step.run(&mut state, &batch, [1e-3, 0.5]).unwrap().updated,
            "all is well again"
        );
    }

    #[test]
    fn the_automatic_batch_fits() {
        let device: Device = Arc::new(Pool::new(1).unwrap()).into();
        let setup = Setup::new(RunConfig::new(DataKind::Faces, "nano"), 40).unwrap();
        let total = |batch: u64| setup.memory(batch as usize, &device).unwrap().total();
        let limits = [16, 64].map(total);
        for (available, batch) in [
            (limits[0], 16),
            (limits[0] - 1, 8),
            (limits[1], 64),
            (usize::MAX, 256),
            (0, 1),
        ] {
            assert_eq!(
                setup.largest_power_of_two(&device, available).unwrap(),
                batch
            );
        }
    }
}
