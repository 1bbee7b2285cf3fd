//! Compares this build with a reference folder: outputs, every gradient, AdamW and the average.
//!
//! A folder holds `config.json`, `weights`, `io`, `grads`, `adamw_step1` and `ema_step3` as
//! safetensors, and `meta.json` with loss and hyperparameters; `tools/reference.py` makes one.

mod harness;
mod limits;

use crate::device::Device;
use crate::model::{ConfigError, UNet};
use crate::ops::adamw::{AdamWConfig, COUNTERS, adamw};
use crate::ops::conv2d::Algorithm;
use crate::tape::executable::{DeviceError, Executable, NodeError};
use crate::tape::state::State;
use crate::tape::{Arena, Tape, TapeError, TensorType};
use harness::{Harness, permute};
use limits::Limits;
use safetensors::{Dtype, SafeTensors};
use serde::Serialize;
use serde_json::Value;
use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// A reference that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("{file}: {what}: expected {expected}, found {found}")]
    Content {
        /// The file.
        file: String,
        /// Where in it.
        what: String,
        /// What should be there.
        expected: String,
        /// What is there.
        found: String,
    },
    /// The configuration is not this network's.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The inputs do not fit the network.
    #[error(transparent)]
    Tape(#[from] TapeError),
    /// Not enough memory.
    #[error(transparent)]
    Memory(#[from] DeviceError),
}

/// The files of a reference.
pub struct Reference {
    name: String,
    files: HashMap<&'static str, Cow<'static, [u8]>>,
}

const FILES: [&str; 7] = [
    "config.json",
    "meta.json",
    "weights.safetensors",
    "io.safetensors",
    "grads.safetensors",
    "adamw_step1.safetensors",
    "ema_step3.safetensors",
];

macro_rules! embedded {
    ($($name:literal)*) => {
        [$(($name, include_bytes!(concat!("../../tests/reference/unet_nano/", $name)).as_slice())),*]
    };
}

/// One comparison: `error` must not exceed `limit`.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// What was compared.
    pub name: String,
    /// How the error is measured.
    pub measure: &'static str,
    /// The error found.
    pub error: f64,
    /// The largest allowed.
    pub limit: f64,
}

impl Check {
    /// True if the error is within the limit; NaN is not.
    pub fn passed(&self) -> bool {
        self.error <= self.limit
    }
}

/// All comparisons with one reference.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The reference.
    pub reference: String,
    /// Weights of the network.
    pub parameters: usize,
    /// The comparisons.
    pub checks: Vec<Check>,
}

impl Report {
    /// True if all comparisons passed.
    pub fn passed(&self) -> bool {
        self.checks.iter().all(Check::passed)
    }
}

impl Reference {
    /// Reads a reference folder.
    ///
    /// # Errors
    /// A file is missing or unreadable.
    pub fn load(dir: &Path) -> Result<Self, VerifyError> {
        let mut files = HashMap::new();
        for name in FILES {
            let path = dir.join(name);
            let bytes =
                std::fs::read(&path).map_err(|source| VerifyError::Read { path, source })?;
            files.insert(name, Cow::Owned(bytes));
        }
        Ok(Self {
            name: dir.display().to_string(),
            files,
        })
    }

    /// The reference that is part of the program: preset nano.
    pub fn builtin() -> Self {
        let files = embedded!("config.json" "meta.json" "weights.safetensors" "io.safetensors"
            "grads.safetensors" "adamw_step1.safetensors" "ema_step3.safetensors");
        let files = files
            .into_iter()
            .map(|(name, bytes)| (name, Cow::Borrowed(bytes)))
            .collect();
        Self {
            name: "built-in nano".into(),
            files,
        }
    }

    fn bytes(&self, file: &'static str) -> &[u8] {
        self.files.get(file).map_or(&[], |bytes| bytes)
    }

    fn label(&self, file: &str) -> String {
        format!("{}/{file}", self.name)
    }

    fn wrong(
        &self,
        file: &str,
        what: &str,
        expected: impl ToString,
        found: impl ToString,
    ) -> VerifyError {
        VerifyError::Content {
            file: self.label(file),
            what: what.into(),
            expected: expected.to_string(),
            found: found.to_string(),
        }
    }

    fn json(&self, file: &'static str) -> Result<Value, VerifyError> {
        serde_json::from_slice(self.bytes(file)).map_err(|e| self.wrong(file, "syntax", "JSON", e))
    }

    fn tensors(&self, file: &'static str) -> Result<Tensors, VerifyError> {
        let parsed = SafeTensors::deserialize(self.bytes(file))
            .map_err(|e| self.wrong(file, "header", "a safetensors file", e))?;
        let mut tensors = HashMap::new();
        for (name, view) in parsed.tensors() {
            let values = match view.dtype() {
                Dtype::F32 => bytemuck::pod_collect_to_vec::<u8, f32>(view.data()),
                Dtype::I64 => view
                    .data()
                    .chunks_exact(8)
                    .map(|b| i64::from_le_bytes(b.try_into().unwrap_or_default()) as f32)
                    .collect(),
                other => return Err(self.wrong(file, &name, "F32 or I64", format!("{other:?}"))),
            };
            tensors.insert(name, (view.shape().to_vec(), values));
        }
        Ok(Tensors { file, tensors })
    }
}

/// Tensors of one file by name: shape and values.
struct Tensors {
    file: &'static str,
    tensors: HashMap<String, (Vec<usize>, Vec<f32>)>,
}

impl Tensors {
    fn get(&self, reference: &Reference, name: &str) -> Result<(&[usize], &[f32]), VerifyError> {
        let found = self.tensors.get(name);
        found
            .map(|(shape, values)| (shape.as_slice(), values.as_slice()))
            .ok_or_else(|| reference.wrong(self.file, name, "a tensor", "none"))
    }

    /// Fills an arena from tensors named as the network's parameters.
    fn arena(&self, reference: &Reference, net: &UNet) -> Result<Vec<f32>, VerifyError> {
        let mut arena = vec![0.0; net.table().elements()];
        for param in net.table().params() {
            let (shape, values) = self.get(reference, &param.name)?;
            if shape != param.shape {
                let (want, found) = (format!("shape {:?}", param.shape), format!("{shape:?}"));
                return Err(reference.wrong(self.file, &param.name, want, found));
            }
            param.import(values, &mut arena);
        }
        Ok(arena)
    }

    fn refuse_extra(&self, reference: &Reference, net: &UNet) -> Result<(), VerifyError> {
        let extra = self
            .tensors
            .keys()
            .find(|name| net.table().find(name).is_none());
        extra.map_or(Ok(()), |name| {
            Err(reference.wrong(self.file, name, "no such tensor in this network", "one"))
        })
    }
}

/// Relative L2 distance.
fn relative(got: &[f32], want: &[f32]) -> f64 {
    if got.len() != want.len() {
        return f64::INFINITY;
    }
    let square = |x: f64| x * x;
    let error: f64 = got
        .iter()
        .zip(want)
        .map(|(g, w)| square(f64::from(*g) - f64::from(*w)))
        .sum();
    let norm: f64 = want.iter().map(|w| square(f64::from(*w))).sum();
    (error / norm.max(1e-60)).sqrt()
}

/// Largest absolute distance.
fn worst(got: &[f32], want: &[f32]) -> f64 {
    let pairs = got.iter().zip(want);
    let error = pairs.fold(0.0_f64, |m, (g, w)| {
        let e = (f64::from(*g) - f64::from(*w)).abs();
        if e.is_nan() { f64::INFINITY } else { m.max(e) }
    });
    if got.len() == want.len() {
        error
    } else {
        f64::INFINITY
    }
}

const RELATIVE: &str = "relative L2";
const ABSOLUTE: &str = "largest absolute";

/// Runs all comparisons with `reference` on `device`, a CPU's convolutions by `algorithm`.
///
/// # Errors
/// The reference is incomplete or not of this network.
pub fn verify(
    reference: &Reference,
    device: &Device,
    algorithm: Algorithm,
) -> Result<Report, VerifyError> {
    let meta = reference.json("meta.json")?;
    let number = |keys: &[&str]| -> Result<f64, VerifyError> {
        let value = keys.iter().fold(&meta, |v, key| &v[*key]);
        value
            .as_f64()
            .ok_or_else(|| reference.wrong("meta.json", &keys.join("."), "a number", value))
    };
    let optimizer = AdamWConfig {
        betas: [number(&["adamw", "beta1"])?, number(&["adamw", "beta2"])?],
        eps: number(&["adamw", "eps"])?,
        weight_decay: number(&["adamw", "weight_decay"])?,
        clip: None,
    };
    let rates = [
        number(&["adamw", "lr"])? as f32,
        number(&["adamw", "ema_decay"])? as f32,
    ];
    let io = reference.tensors("io.safetensors")?;
    let weights = reference.tensors("weights.safetensors")?;
    let mut h = Harness::new(reference, &io, optimizer, (device, algorithm))?;
    weights.refuse_extra(reference, &h.net)?;
    let limits = Limits::of(&h, device, rates);
    let initial = weights.arena(reference, &h.net)?;
    let mut state = fresh_state(&initial)?;
    h.exe.write(h.rates, &rates)?;
    let (mut losses, mut classifier_losses, mut checks) = (vec![], vec![], vec![]);
    for step in 0..3 {
        h.exe.run(&mut state, Arena::Params)?;
        state.fetch()?;
        losses.push(f64::from(h.exe.read(h.loss)?[0]));
        if let Some(head) = &h.classifier {
            classifier_losses.push(f64::from(h.exe.read(head.loss)?[0]) / head.weight);
        }
        if step == 0 {
            check_forward(reference, &h, &io, &limits, &mut checks)?;
            check_gradients(reference, &h, (&meta, &limits), &state, &mut checks)?;
        }
    }
    check_losses("loss", &losses, (&meta, &limits), &mut checks);
    let name = "classifier_loss";
    check_losses(name, &classifier_losses, (&meta, &limits), &mut checks);
    check_average(reference, &h.net, (&state, &limits), &mut checks)?;
    check_optimizer(
        reference,
        &h.net,
        (&initial, optimizer, rates),
        device,
        &mut checks,
    )?;
    Ok(Report {
        reference: reference.name.clone(),
        parameters: h.net.table().count(),
        checks,
    })
}

/// Runs the reference's step on a GPU node by node, each beside the CPU's op on the same inputs.
///
/// # Errors
/// The reference is incomplete or not of this network; the device's.
pub fn verify_nodes(reference: &Reference, device: &Device) -> Result<Vec<NodeError>, VerifyError> {
    let io = reference.tensors("io.safetensors")?;
    let weights = reference.tensors("weights.safetensors")?;
    let optimizer = AdamWConfig {
        betas: [0.9, 0.999],
        eps: 1e-8,
        weight_decay: 0.01,
        clip: None,
    };
    let mut h = Harness::new(reference, &io, optimizer, (device, Algorithm::Direct))?;
    let mut state = fresh_state(&weights.arena(reference, &h.net)?)?;
    h.exe.write(h.rates, &[1e-3_f32, 0.99])?;
    Ok(h.exe.run_checked(&mut state, Arena::Params)?)
}

/// State with the given weights, which the average starts from.
fn fresh_state(weights: &[f32]) -> Result<State, DeviceError> {
    let mut state = State::default();
    for arena in [
        Arena::Params,
        Arena::Grads,
        Arena::AdamM,
        Arena::AdamV,
        Arena::Ema,
    ] {
        state.allocate(arena, weights.len())?;
    }
    state.allocate(Arena::Counters, COUNTERS)?;
    for arena in [Arena::Params, Arena::Ema] {
        state.get_mut::<f32>(arena)[..weights.len()].copy_from_slice(weights);
    }
    Ok(state)
}

fn check_forward(
    reference: &Reference,
    h: &Harness,
    io: &Tensors,
    limits: &Limits,
    checks: &mut Vec<Check>,
) -> Result<(), VerifyError> {
    let (shape, want) = io.get(reference, "output")?;
    let got = permute(&h.exe.read(h.outputs.output)?, shape, true);
    let error = relative(&got, want);
    checks.push(Check {
        name: "output".into(),
        measure: RELATIVE,
        error,
        limit: limits.forward,
    });
    let logits = h
        .classifier
        .as_ref()
        .map(|c| ("classifier".to_string(), c.logits));
    for (part, var) in h.outputs.parts.iter().chain(&logits) {
        let name = format!("after.{part}");
        let Some((shape, want)) = io.tensors.get(&name) else {
            continue;
        };
        let got = permute(&h.exe.read(*var)?, shape, true);
        checks.push(match part.as_str() {
            // Sine and cosine of large f32 angles: absolute (see the network's specification).
            "sinusoid" => Check {
                name,
                measure: ABSOLUTE,
                error: worst(&got, want),
                limit: 1e-4,
            },
            _ => Check {
                name,
                measure: RELATIVE,
                error: relative(&got, want),
                limit: limits.forward,
            },
        });
    }
    Ok(())
}

/// Limit of one tensor's gradient: the precision's, or twice the error of PyTorch in the same
/// precision where the reference says that this is more (gradients that nearly cancel).
fn check_gradients(
    reference: &Reference,
    h: &Harness,
    (meta, limits): (&Value, &Limits),
    state: &State,
    checks: &mut Vec<Check>,
) -> Result<(), VerifyError> {
    let (peer, share) = (&meta[limits.peer.0], limits.peer.1);
    let limit = f64::max(
        limits.gradient,
        2.0 * share * peer["worst_grad_tensor"].as_f64().unwrap_or(0.0),
    );
    let want = reference.tensors("grads.safetensors")?;
    let (mut all_got, mut all_want) = (Vec::new(), Vec::new());
    let mut compare = |name: &str, got: Vec<f32>, want: &[f32]| {
        let error = relative(&got, want);
        checks.push(Check {
            name: format!("d {name}"),
            measure: RELATIVE,
            error,
            limit,
        });
        all_got.extend(got);
        all_want.extend_from_slice(want);
    };
    for param in h.net.table().params() {
        let (_, want) = want.get(reference, &param.name)?;
        compare(&param.name, param.export(state.get(Arena::Grads)), want);
    }
    for (name, var) in ["input.sample", "input.encoder_hidden_states"]
        .into_iter()
        .zip(h.input_grads)
    {
        let (shape, want) = want.get(reference, name)?;
        compare(name, permute(&h.exe.read(var)?, shape, true), want);
    }
    let error = relative(&all_got, &all_want);
    checks.push(Check {
        name: "all gradients together".into(),
        measure: RELATIVE,
        error,
        limit: limits.gradients,
    });
    Ok(())
}

fn check_losses(
    name: &str,
    losses: &[f64],
    (meta, limits): (&Value, &Limits),
    checks: &mut Vec<Check>,
) {
    let before = &meta[format!("{name}_before_each_of_3_steps")];
    for (i, &loss) in losses.iter().enumerate() {
        let Some(want) = before[i].as_f64() else {
            continue;
        };
        let error = (loss / want - 1.0).abs();
        let limit = limits.losses[i.min(1)];
        checks.push(Check {
            name: format!("{} before step {}", name.replace('_', " "), i + 1),
            measure: "relative",
            error,
            limit,
        });
    }
}

/// The average after three whole steps: nearly all elements to 1e-6 in f32, every one to its limit.
fn check_average(
    reference: &Reference,
    net: &UNet,
    (state, limits): (&State, &Limits),
    checks: &mut Vec<Check>,
) -> Result<(), VerifyError> {
    let want = reference.tensors("ema_step3.safetensors")?;
    let (mut total, mut beyond, mut largest) = (0_usize, 0_usize, 0.0_f64);
    for param in net.table().params() {
        let got = param.export(state.get(Arena::Ema));
        let (_, want) = want.get(reference, &param.name)?;
        largest = largest.max(worst(&got, want));
        total += got.len();
        beyond += got
            .iter()
            .zip(want)
            .filter(|(g, w)| (*g - *w).abs() > 1e-6 || g.is_nan())
            .count();
    }
    let share = beyond as f64 / total.max(1) as f64;
    let measure = "share of elements off by over 1e-6";
    checks.extend(limits.share.map(|limit| Check {
        name: "average after step 3".into(),
        measure,
        error: share,
        limit,
    }));
    checks.push(Check {
        name: "average after step 3".into(),
        measure: ABSOLUTE,
        error: largest,
        limit: limits.average,
    });
    Ok(())
}

/// One AdamW step on the stored gradients.
fn check_optimizer(
    reference: &Reference,
    net: &UNet,
    (initial, config, rates): (&[f32], AdamWConfig, [f32; 2]),
    device: &Device,
    checks: &mut Vec<Check>,
) -> Result<(), VerifyError> {
    let mut tape = Tape::new();
    let var = tape.input("rates", TensorType::f32(&[2]));
    adamw(&mut tape, net.table().elements(), var, config)?;
    let mut exe = Executable::new(tape, device.clone())?;
    exe.write(var, &rates)?;
    let mut state = fresh_state(initial)?;
    let grads = reference
        .tensors("grads.safetensors")?
        .arena(reference, net)?;
    state.get_mut::<f32>(Arena::Grads)[..grads.len()].copy_from_slice(&grads);
    exe.run(&mut state, Arena::Params)?;
    state.fetch()?;
    let want = reference.tensors("adamw_step1.safetensors")?;
    for param in net.table().params() {
        let got = param.export(state.get(Arena::Params));
        let (_, want) = want.get(reference, &param.name)?;
        let name = format!("AdamW step 1 {}", param.name);
        checks.push(Check {
            name,
            measure: ABSOLUTE,
            error: worst(&got, want),
            limit: 1e-6,
        });
    }
    Ok(())
}
