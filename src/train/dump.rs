//! What a run leaves that gave up: `dump/step-N.json` and `dump/step-N.safetensors`.

use serde::Serialize;
use std::path::{Path, PathBuf};

use super::checkpoint::{self, CheckpointError, CheckpointInfo};
use super::tensors::StateTensors;
use crate::model::ParamTable;
use crate::report::files::{io_error, replace_with_bytes};
use crate::tape::Arena;
use crate::tape::state::State;

/// What was wrong, for people and programs.
#[derive(Debug, Serialize)]
pub struct Dump {
    /// The last step.
    pub step: u64,
    /// Images seen.
    pub images: u64,
    /// Steps in a row without a finite gradient.
    pub skipped_in_a_row: u64,
    /// The first tensor that was not finite, where it was found.
    pub first_not_finite: Option<String>,
    /// Row numbers of the last step's pictures in the data set.
    pub pictures: Vec<u64>,
    /// Every parameter.
    pub tensors: Vec<TensorHealth>,
}

/// A parameter and its gradient of the last step. JSON has no NaN: it is null.
#[derive(Debug, Serialize)]
pub struct TensorHealth {
    name: String,
    largest_weight: f32,
    weights_not_finite: usize,
    largest_gradient: f32,
    gradients_not_finite: usize,
}

/// Every parameter's health in a fetched state.
pub fn tensors(table: &ParamTable, state: &State) -> Vec<TensorHealth> {
    let health = |p: &crate::model::Param| {
        let of = |arena: Arena| {
            let values = &state.get::<f32>(arena)[p.offset..p.offset + p.len()];
            let finite = values.iter().filter(|v| v.is_finite());
            let largest = finite.fold(0.0_f32, |a, v| a.max(v.abs()));
            (largest, values.iter().filter(|v| !v.is_finite()).count())
        };
        let ((weight, bad_weights), (gradient, bad_gradients)) =
            (of(Arena::Params), of(Arena::Grads));
        TensorHealth {
            name: p.name.clone(),
            largest_weight: weight,
            weights_not_finite: bad_weights,
            largest_gradient: gradient,
            gradients_not_finite: bad_gradients,
        }
    };
    table.params().iter().map(health).collect()
}

impl Dump {
    /// Writes both files into `dir`; the JSON file's path.
    ///
    /// # Errors
    /// The file system's.
    pub fn write(
        &self,
        dir: &Path,
        tensors: &mut StateTensors<'_>,
        info: &CheckpointInfo,
    ) -> Result<PathBuf, CheckpointError> {
        std::fs::create_dir_all(dir).map_err(io_error(dir, 0, "create the folder"))?;
        let path = dir.join(format!("step-{:08}.json", self.step));
        let text = format!("{:#}\n", serde_json::json!(self));
        replace_with_bytes(&path, text.as_bytes())?;
        checkpoint::write_file(&path.with_extension("safetensors"), tensors, info)?;
        Ok(path)
    }
}
