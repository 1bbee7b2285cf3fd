//! `scheduler_config.json`: the noise schedule in diffusers' terms.

use super::InterchangeError;
use super::error::wrong;
use super::folder::read_json;
use crate::diffusion::schedule::{Schedule, ScheduleSpec};
use serde_json::{Map, Value, json};
use std::path::Path;

/// Keys that decide what the network was trained for; the others choose how to sample.
const BINDING: [&str; 6] = [
    "num_train_timesteps",
    "beta_schedule",
    "beta_start",
    "beta_end",
    "trained_betas",
    "prediction_type",
];

/// The DDPMScheduler whose betas and variance are those of this program's `ddpm`, and whose choice of
/// steps is the one of [`crate::diffusion::sampler::SamplerPlan::new`].
pub(super) fn to_json(schedule: &Schedule) -> Value {
    let (first, last) = match schedule.spec() {
        ScheduleSpec::Constant { beta, .. } => (beta, beta),
        ScheduleSpec::Linear { first, last, .. } => (first, last),
    };
    json!({
        "_class_name": "DDPMScheduler",
        "num_train_timesteps": schedule.t_max(),
        "beta_schedule": "linear",
        "beta_start": first,
        "beta_end": last,
        "trained_betas": null,
        "prediction_type": "epsilon",
        "variance_type": "fixed_small",
        "clip_sample": true,
        "clip_sample_range": 1.0,
        "timestep_spacing": "trailing",
        "rescale_betas_zero_snr": false,
    })
}

/// Checks that a scheduler's file is of the run's schedule.
pub(super) fn check(path: &Path, schedule: &Schedule) -> Result<(), InterchangeError> {
    let found: Map<String, Value> = read_json(path, "a scheduler's configuration of diffusers")?;
    let ours = to_json(schedule);
    for key in BINDING {
        let (expected, found) = (&ours[key], found.get(key).unwrap_or(&Value::Null));
        let same = match (expected.as_f64(), found.as_f64()) {
            (Some(a), Some(b)) => (a - b).abs() <= 1e-9,
            _ => expected == found,
        };
        if !same {
            let expected = format!("{expected} (config.toml: {})", schedule.spec());
            return Err(wrong(path, key, expected, found.to_string()));
        }
    }
    Ok(())
}
