//! The network's training step on a reference's batch.

use super::{Reference, Tensors, VerifyError};
use crate::device::Device;
use crate::gmm::entropy::{EntropyLoss, EntropySpec, Variant};
use crate::model::unet::{Inputs, Outputs, Purpose};
use crate::model::{NetworkConfig, UNet};
use crate::ops::adamw::{AdamWConfig, adamw};
use crate::ops::attribute_loss::{attribute_loss, entropy_loss};
use crate::ops::conv2d::Algorithm;
use crate::ops::{add, mse::mse};
use crate::tape::executable::{DeviceError, Executable};
use crate::tape::{Tape, TapeError, TensorType, Var};

/// The network's step on the reference's batch.
pub(super) struct Harness {
    pub(super) net: UNet,
    pub(super) exe: Executable,
    pub(super) outputs: Outputs,
    pub(super) loss: Var,
    pub(super) classifier: Option<Head>,
    pub(super) rates: Var,
    pub(super) input_grads: [Var; 2],
}

/// The classifier's part of the step.
pub(super) struct Head {
    pub(super) logits: Var,
    /// The loss, times its weight.
    pub(super) loss: Var,
    pub(super) weight: f64,
    labels: Var,
}

/// What a reference says of its classifier.
struct HeadSpec {
    loss: EntropyLoss,
    weight: f64,
    attributes: Vec<u8>,
}

impl HeadSpec {
    /// Reads it; `None` if the network has no classifier. Each picture has `k` attributes.
    fn read(
        reference: &Reference,
        io: &Tensors,
        [n, k]: [usize; 2],
    ) -> Result<Option<Self>, VerifyError> {
        let file = "meta.json";
        let meta = reference.json(file)?;
        let spec = &meta["classifier"];
        if spec.is_null() {
            return Ok(None);
        }
        let number = |key: &str| {
            let what = format!("classifier.{key}");
            let wrong = || reference.wrong(file, &what, "a number", &spec[key]);
            spec[key].as_f64().ok_or_else(wrong)
        };
        let mut entropy = EntropySpec::default();
        match spec["loss"].as_str() {
            Some("bce") => entropy.variant = Variant::Bce,
            Some("ngmg") => {
                entropy.floor = number("floor")?;
                entropy.gain = number("gain")?;
                entropy.sigma = number("sigma")?;
            }
            _ => {
                let found = &spec["loss"];
                return Err(reference.wrong(file, "classifier.loss", "bce or ngmg", found));
            }
        }
        let loss = entropy_loss(entropy, k)
            .map_err(|e| reference.wrong(file, "classifier", "a loss of these attributes", e))?;
        let (shape, values) = io.get(reference, "attributes")?;
        if shape != [n, k] || values.iter().any(|&a| a != 0.0 && a != 1.0) {
            let want = format!("zeros and ones of shape [{n}, {k}]");
            return Err(reference.wrong(io.file, "attributes", want, format!("shape {shape:?}")));
        }
        Ok(Some(Self {
            loss,
            weight: number("weight")?,
            attributes: values.iter().map(|&a| a as u8).collect(),
        }))
    }

    fn record(&self, tape: &mut Tape, logits: Var) -> Result<Head, TapeError> {
        let labels = tape.input("attributes", TensorType::u8(&tape.ty(logits).shape.clone()));
        let loss = self.loss.clone();
        let [loss, _] = attribute_loss(tape, logits, labels, loss, self.weight)?;
        Ok(Head {
            logits,
            loss,
            weight: self.weight,
            labels,
        })
    }
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

    fn write(&self, exe: &mut Executable, inputs: Inputs, target: Var) -> Result<(), DeviceError> {
        exe.write(inputs.sample, &self.sample)?;
        exe.write(inputs.tokens, &self.tokens)?;
        exe.write(inputs.timestep, &self.steps)?;
        exe.write(target, &self.target)
    }
}

impl Harness {
    pub(super) fn new(
        reference: &Reference,
        io: &Tensors,
        optimizer: AdamWConfig,
        (device, algorithm): (&Device, Algorithm),
    ) -> Result<Self, VerifyError> {
        let config = NetworkConfig::from_json(&reference.json("config.json")?)?;
        let case = Case::read(reference, io, &config)?;
        let (s, [n, l]) = (config.sample_size, case.counts);
        let head = HeadSpec::read(reference, io, [n, l])?;
        let net = match head {
            Some(_) => UNet::with_classifier(config.clone(), l),
            None => UNet::new(config.clone()),
        }
        .with_convolutions(algorithm);
        let picture = |channels: usize| TensorType::f32(&[n, s, s, channels]);
        let tokens = TensorType::f32(&[n, l, config.cross_attention_dim]);
        let mut tape = Tape::new();
        let inputs = Inputs {
            sample: tape.input("sample", picture(config.in_channels)),
            timestep: tape.input("timesteps", TensorType::u32(&[n])),
            tokens: tape.input("tokens", tokens),
        };
        let target = tape.input("target", picture(config.out_channels));
        let rates = tape.input("rates", TensorType::f32(&[2]));
        tape.want_grad(inputs.sample);
        tape.want_grad(inputs.tokens);
        let outputs = net.record(&mut tape, inputs, Purpose::Verify)?;
        let [loss, _] = mse(&mut tape, outputs.output, target)?;
        let logits = net.classify(&mut tape, &outputs, Purpose::Verify)?;
        let classifier = match (logits, &head) {
            (Some(logits), Some(head)) => Some(head.record(&mut tape, logits)?),
            _ => None,
        };
        let losses: Vec<Var> = [loss]
            .into_iter()
            .chain(classifier.as_ref().map(|c| c.loss))
            .collect();
        let parts = outputs.parts.iter().map(|part| &part.1);
        let logits = classifier.as_ref().map(|c| &c.logits);
        let kept = parts.chain([&outputs.output]).chain(&losses).chain(logits);
        kept.for_each(|&var| tape.keep(var));
        let grads = tape.backward(&losses, add::sum)?;
        adamw(&mut tape, net.table().elements(), rates, optimizer)?;
        let mut exe = Executable::new(tape, device.clone())?;
        exe.poison()?;
        case.write(&mut exe, inputs, target)?;
        if let (Some(head), Some(recorded)) = (&head, &classifier) {
            exe.write(recorded.labels, &head.attributes)?;
        }
        Ok(Self {
            input_grads: [inputs.sample, inputs.tokens].map(|v| grads[&v]),
            net,
            exe,
            outputs,
            loss,
            classifier,
            rates,
        })
    }
}
