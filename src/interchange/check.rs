//! `check.safetensors`: an input, and the noise that this program predicts for it. Whoever opens the
//! folder can see whether they compute the same.

use super::InterchangeError;
use super::weights::write_tensors;
use crate::device::pool::Pool;
use crate::gmm::latent::LatentDraw;
use crate::model::unet::{Inputs, Purpose};
use crate::rng::{Philox, Stream};
use crate::tape::executable::Executable;
use crate::tape::state::State;
use crate::tape::{Arena, Tape, TensorType};
use crate::train::checkpoint::TensorSpec;
use crate::train::setup::Setup;
use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

/// Pictures of the input.
const BATCH: usize = 2;

/// What the network reads and predicts; pictures as `[n, s, s, c]`.
struct Example {
    sample: Vec<f32>,
    timesteps: [u32; BATCH],
    tokens: Vec<f32>,
    noise: Vec<f32>,
}

/// Writes the file for the weights in arena `weights` of `state`, computed in f32 on the processor.
pub(super) fn write(
    path: &Path,
    setup: &Setup,
    rows: &[Vec<u8>],
    (state, weights): (&mut State, Arena),
    pool: &Arc<Pool>,
) -> Result<(), InterchangeError> {
    let example = predict(setup, rows, (state, weights), pool)?;
    let config = setup.net.config();
    let (s, k, width) = (
        config.sample_size,
        setup.conditioning.attributes,
        config.cross_attention_dim,
    );
    let picture = vec![BATCH, 3, s, s];
    let timesteps = example.timesteps.map(|t| t as f32).to_vec();
    let tensors = [
        ("sample", picture.clone(), planes(&example.sample, s)),
        ("timestep", vec![BATCH], timesteps),
        (
            "encoder_hidden_states",
            vec![BATCH, k, width],
            example.tokens,
        ),
        ("noise", picture, planes(&example.noise, s)),
    ];
    let spec = |(name, shape, _): &(&str, Vec<usize>, _)| TensorSpec {
        name: (*name).to_owned(),
        shape: shape.clone(),
    };
    let specs: Vec<TensorSpec> = tensors.iter().map(spec).collect();
    write_tensors(path, &specs, |i| Ok(Cow::Borrowed(&tensors[i].2)))
}

/// The network's prediction for noise with the tokens of the first training rows, early and late.
fn predict(
    setup: &Setup,
    rows: &[Vec<u8>],
    (state, weights): (&mut State, Arena),
    pool: &Arc<Pool>,
) -> Result<Example, InterchangeError> {
    let (config, conditioning) = (setup.net.config(), &setup.conditioning);
    let (s, k, width) = (
        config.sample_size,
        conditioning.attributes,
        config.cross_attention_dim,
    );
    let t_max = setup.schedule.t_max();
    let timesteps = [t_max / 4, (3 * u64::from(t_max) / 4) as u32];
    let mut sample = vec![0.0; BATCH * s * s * 3];
    let mut tokens = Vec::new();
    let all_on = vec![1; k];
    for (i, x) in sample.chunks_exact_mut(s * s * 3).enumerate() {
        Philox::new(0, Stream::SamplerStart, i as u64).fill_normals(x);
        let draw = LatentDraw {
            seed: 0,
            stream: Stream::LatentFresh,
            index: i as u64,
        };
        let row = rows.get(i).unwrap_or(&all_on);
        let mut own = vec![0.0; k * width];
        let (mixture, code) = (&conditioning.mixture, conditioning.code);
        mixture.fill_tokens(draw, row, width, code, &mut own)?;
        tokens.extend(own.iter().map(|&t| t as f32));
    }
    let mut tape = Tape::new();
    let inputs = Inputs {
        sample: tape.input("sample", TensorType::f32(&[BATCH, s, s, 3])),
        timestep: tape.input("timestep", TensorType::u32(&[BATCH])),
        tokens: tape.input("tokens", TensorType::f32(&[BATCH, k, width])),
    };
    let output = setup.net.record(&mut tape, inputs, Purpose::Sample)?.output;
    tape.keep(output);
    let mut exe = Executable::new(tape, pool.clone())?;
    exe.write(inputs.sample, &sample)?;
    exe.write(inputs.timestep, &timesteps)?;
    exe.write(inputs.tokens, &tokens)?;
    exe.run(state, weights)?;
    Ok(Example {
        noise: exe.read(output)?,
        sample,
        timesteps,
        tokens,
    })
}

/// Pictures `[n, s, s, 3]` as `[n, 3, s, s]`.
fn planes(pictures: &[f32], s: usize) -> Vec<f32> {
    let picture = |x: &[f32]| -> Vec<f32> {
        let plane = |c: usize| x.iter().skip(c).step_by(3).copied();
        (0..3).flat_map(plane).collect()
    };
    pictures.chunks_exact(s * s * 3).flat_map(picture).collect()
}
