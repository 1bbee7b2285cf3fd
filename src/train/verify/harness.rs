//! The network's training step on a reference's batch.

use super::{Reference, Tensors, VerifyError};
use crate::device::pool::Pool;
use crate::model::unet::{Inputs, Outputs, Purpose};
use crate::model::{NetworkConfig, UNet};
use crate::ops::adamw::{AdamWConfig, adamw};
use crate::ops::{add, mse::mse};
use crate::tape::executable::Executable;
use crate::tape::{Tape, TensorType, Var};
use std::sync::Arc;

/// The network's step on the reference's batch.
pub(super) struct Harness {
    pub(super) net: UNet,
    pub(super) exe: Executable,
    pub(super) outputs: Outputs,
    pub(super) loss: Var,
    pub(super) rates: Var,
    pub(super) input_grads: [Var; 2],
}

/// NCHW to NHWC, or back with `back`; other ranks stay.
pub(super) fn permute(values: &[f32], shape: &[usize], back: bool) -> Vec<f32> {
    let [n, c, h, w] = *shape else {
        return values.to_vec();
    };
    let mut out = vec![0.0; values.len()];
    for i in 0..n {
        for channel in 0..c {
            for p in 0..h * w {
                let (nchw, nhwc) = ((i * c + channel) * h * w + p, (i * h * w + p) * c + channel);
                let (to, from) = if back { (nchw, nhwc) } else { (nhwc, nchw) };
                out[to] = values[from];
            }
        }
    }
    out
}

/// The batch of a reference, in this program's layout.
struct Case {
    sample: Vec<f32>,
    target: Vec<f32>,
    tokens: Vec<f32>,
    steps: Vec<u32>,
    /// Samples, and tokens of each.
    counts: [usize; 2],
}

impl Case {
    fn read(
        reference: &Reference,
        io: &Tensors,
        config: &NetworkConfig,
    ) -> Result<Self, VerifyError> {
        let s = config.sample_size;
        let n = io.get(reference, "sample")?.0.first().copied();
        let n = n.unwrap_or_default();
        let l = io
            .get(reference, "encoder_hidden_states")?
            .0
            .get(1)
            .copied();
        let l = l.unwrap_or_default();
        let values = |name: &str, want: &[usize]| -> Result<Vec<f32>, VerifyError> {
            let (shape, values) = io.get(reference, name)?;
            if shape != want {
                let (want, found) = (format!("shape {want:?}"), format!("{shape:?}"));
                return Err(reference.wrong(io.file, name, want, found));
            }
            Ok(permute(values, shape, false))
        };
        let steps = values("timesteps", &[n])?;
        Ok(Self {
            sample: values("sample", &[n, config.in_channels, s, s])?,
            target: values("target", &[n, config.out_channels, s, s])?,
            tokens: values("encoder_hidden_states", &[n, l, config.cross_attention_dim])?,
            steps: steps.iter().map(|&t| t as u32).collect(),
            counts: [n, l],
        })
    }
}

impl Harness {
    pub(super) fn new(
        reference: &Reference,
        io: &Tensors,
        optimizer: AdamWConfig,
        pool: &Arc<Pool>,
    ) -> Result<Self, VerifyError> {
        let config = NetworkConfig::from_json(&reference.json("config.json")?)?;
        let case = Case::read(reference, io, &config)?;
        let net = UNet::new(config.clone());
        let (s, [n, l]) = (config.sample_size, case.counts);
        let picture = |channels: usize| TensorType::f32(&[n, s, s, channels]);
        let mut tape = Tape::new();
        let inputs = Inputs {
            sample: tape.input("sample", picture(config.in_channels)),
            timestep: tape.input("timesteps", TensorType::u32(&[n])),
            tokens: tape.input(
                "tokens",
                TensorType::f32(&[n, l, config.cross_attention_dim]),
            ),
        };
        let target = tape.input("target", picture(config.out_channels));
        let rates = tape.input("rates", TensorType::f32(&[2]));
        tape.want_grad(inputs.sample);
        tape.want_grad(inputs.tokens);
        let outputs = net.record(&mut tape, inputs, Purpose::Verify)?;
        let [loss, _] = mse(&mut tape, outputs.output, target)?;
        let parts = outputs.parts.iter().map(|part| &part.1);
        for &var in parts.chain([&outputs.output, &loss]) {
            tape.keep(var);
        }
        let grads = tape.backward(&[loss], add::sum)?;
        adamw(&mut tape, net.table().elements(), rates, optimizer)?;
        let mut exe = Executable::new(tape, pool.clone())?;
        exe.poison();
        exe.write(inputs.sample, &case.sample);
        exe.write(inputs.tokens, &case.tokens);
        exe.write(inputs.timestep, &case.steps);
        exe.write(target, &case.target);
        Ok(Self {
            input_grads: [inputs.sample, inputs.tokens].map(|v| grads[&v]),
            net,
            exe,
            outputs,
            loss,
            rates,
        })
    }
}
