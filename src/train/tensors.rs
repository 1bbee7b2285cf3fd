//! Between the arenas and a checkpoint's named tensors.

use super::checkpoint::{Checkpoint, CheckpointError, Counters, Part, TensorSource, TensorSpec};
use crate::model::ParamTable;
use crate::tape::Arena;
use crate::tape::executable::DeviceError;
use crate::tape::state::State;

/// The arena of a checkpoint's part.
pub fn arena(part: Part) -> Arena {
    match part {
        Part::Weight => Arena::Params,
        Part::Ema => Arena::Ema,
        Part::AdamM => Arena::AdamM,
        Part::AdamV => Arena::AdamV,
    }
}

/// Names and shapes of a network's parameters.
pub fn specs(table: &ParamTable) -> Vec<TensorSpec> {
    let spec = |p: &crate::model::Param| TensorSpec {
        name: p.name.clone(),
        shape: p.shape.clone(),
    };
    table.params().iter().map(spec).collect()
}

/// The state as a checkpoint's source of tensors.
pub struct StateTensors<'a> {
    table: &'a ParamTable,
    specs: Vec<TensorSpec>,
    state: &'a State,
}

impl<'a> StateTensors<'a> {
    /// The tensors of `table` in `state`.
    pub fn new(table: &'a ParamTable, state: &'a State) -> Self {
        Self {
            table,
            specs: specs(table),
            state,
        }
    }
}

impl TensorSource for StateTensors<'_> {
    fn tensors(&self) -> &[TensorSpec] {
        &self.specs
    }

    fn read(
        &mut self,
        part: Part,
        index: usize,
        out: &mut [f32],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let values = self.table.params()[index].export(self.state.get(arena(part)));
        out.copy_from_slice(&values);
        Ok(())
    }
}

/// Copies `parts` of a checkpoint into the arenas of `state`. The weights of an imported model, which has
/// no average, are their own average.
///
/// # Errors
/// The checkpoint is of another network, or lacks a part.
pub fn restore(
    checkpoint: &Checkpoint,
    table: &ParamTable,
    state: &mut State,
    parts: &[Part],
) -> Result<(), CheckpointError> {
    checkpoint.check_network(&specs(table))?;
    for &part in parts {
        for param in table.params() {
            let values = checkpoint.tensor(checkpoint.held(part), &param.name)?;
            param.import(&values, state.get_mut(arena(part)));
        }
    }
    Ok(())
}

/// A state with `parts` of a checkpoint, and room for the weights. What the file says of itself is held against
/// what it holds before anything is allocated.
///
/// # Errors
/// As for [`restore`]; not enough memory.
pub fn load<E: From<CheckpointError> + From<DeviceError>>(
    checkpoint: &Checkpoint,
    table: &ParamTable,
    parts: &[Part],
) -> Result<State, E> {
    checkpoint.check_network(&specs(table))?;
    let mut state = State::default();
    let arenas = parts.iter().map(|&part| arena(part));
    for arena in arenas.chain([Arena::Params]) {
        state.allocate(arena, table.elements())?;
    }
    restore(checkpoint, table, &mut state, parts)?;
    Ok(state)
}

/// Puts the optimizer's counters into `state`.
pub fn restore_counters(counters: Counters, state: &mut State) {
    let words = [counters.adam_step as u32, counters.skipped as u32];
    state.get_mut::<u32>(Arena::Counters)[..2].copy_from_slice(&words);
}
