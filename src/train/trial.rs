//! A few training steps on empty pictures: how long a run will take.

use super::setup::Setup;
use super::step::{StepError, TrainStep, plan};
use crate::data::Batch;
use crate::device::Device;
use crate::tape::Arena;
use std::time::{Duration, Instant};

/// FLOPs of a trial step of about a second.
const TRIAL: u64 = 100_000_000_000;
/// Trial steps at the most, the first of them not counted; and how long they may take.
const STEPS: usize = 5;
const PATIENCE: Duration = Duration::from_secs(3);

/// Seconds of training per picture, and the pictures in the trial step that tell.
///
/// # Errors
/// The step does not fit the configuration or the memory.
pub fn seconds_per_picture(setup: &Setup, device: &Device) -> Result<(usize, f64), StepError> {
    let batch = setup.config.batch;
    let flops = plan(&setup.recipe(), batch as usize, device)?.flops;
    let pictures = (TRIAL / (flops / batch).max(1)).clamp(1, batch) as usize;
    let mut step = TrainStep::new(&setup.recipe(), pictures, device)?;
    let mut state = setup.allocate()?;
    setup
        .net
        .table()
        .initialise(0, state.get_mut(Arena::Params));
    let blank = blank_batch(setup, pictures);
    let mut best = f64::INFINITY;
    let begin = Instant::now();
    for i in 0..STEPS {
        let start = Instant::now();
        step.run(&mut state, &blank, [0.0, 0.0])?;
        if i > 0 {
            best = best.min(start.elapsed().as_secs_f64());
        }
        if i > 0 && begin.elapsed() > PATIENCE {
            break;
        }
    }
    Ok((pictures, best / pictures as f64))
}

/// A batch of grey pictures with every third attribute.
pub fn blank_batch(setup: &Setup, batch: usize) -> Batch {
    let size = setup.net.config().sample_size;
    let attributes = setup.conditioning.attributes;
    Batch {
        images: (0..batch * size * size * 3)
            .map(|i| (i % 251) as u8)
            .collect(),
        attributes: (0..batch * attributes)
            .map(|i| u8::from(i % 3 == 0))
            .collect(),
        rows: (0..batch as u64).collect(),
        first_sample: 0,
    }
}
