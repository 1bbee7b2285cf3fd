//! What a run begins with.

use super::TrainError;
use crate::tape::Arena;
use crate::tape::state::State;
use crate::train::checkpoint::{Checkpoint, Counters, Part};
use crate::train::setup::Setup;
use crate::train::tensors::{restore, restore_counters, specs};

/// What a run begins with.
pub enum Start {
    /// New weights.
    New,
    /// The averaged weights of another run, or of an imported model; all else is new.
    From(Checkpoint),
    /// A checkpoint of this run.
    Resume(Checkpoint),
}

impl Start {
    /// The state of a run that begins so.
    pub(super) fn state(&self, setup: &Setup) -> Result<(State, Counters), TrainError> {
        let table = setup.net.table();
        if let Self::From(checkpoint) | Self::Resume(checkpoint) = self {
            checkpoint.check_network(&specs(table))?;
        }
        let mut state = setup.allocate()?;
        let copy = |state: &mut State, [from, to]: [Arena; 2]| {
            let weights = state.get::<f32>(from).to_vec();
            state.get_mut::<f32>(to).copy_from_slice(&weights);
        };
        match self {
            Self::New => {
                table.initialise(setup.config.seed, state.get_mut(Arena::Params));
                copy(&mut state, [Arena::Params, Arena::Ema]);
            }
            Self::From(checkpoint) => {
                restore(checkpoint, table, &mut state, &[Part::Ema])?;
                copy(&mut state, [Arena::Ema, Arena::Params]);
            }
            Self::Resume(checkpoint) => {
                let counters = checkpoint.info().counters;
                restore(checkpoint, table, &mut state, &Part::ALL)?;
                restore_counters(counters, &mut state);
                return Ok((state, counters));
            }
        }
        Ok((state, Counters::default()))
    }
}
