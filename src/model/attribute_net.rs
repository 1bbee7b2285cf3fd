//! A small convolutional network that names a picture's attributes. It is no part of the denoiser: it
//! measures what a denoiser has drawn, and is trained on real pictures alone.

use super::params::{Init, ParamTable};
use crate::ops::conv2d::{self, Residual, conv2d};
use crate::ops::group_norm::group_norm;
use crate::ops::linear::{self, Weights, linear};
use crate::ops::mean_rows::mean_rows;
use crate::ops::norm_pool::{norm_act, norm_pool};
use crate::ops::prologue::NormVars;
use crate::tape::{Arena, Tape, TapeError, Var};

/// Channels of the first convolution.
const STEM: usize = 16;
/// Channels of the halvings; the last is repeated where a picture is halved more often.
const CHANNELS: [usize; 3] = [32, 64, 64];
/// Pictures are halved down to this size, as far as their size is even.
const LAST_SIZE: usize = 4;
/// Groups of the norms, and their epsilon.
const GROUPS: (usize, f64) = (8, 1e-5);

/// Numbers of a weight and its bias (or a norm's gamma and beta) in the table.
type Pair = [usize; 2];

/// A halving: norm, SiLU and 2x2 mean, then two convolutions around a shortcut.
#[derive(Debug)]
struct Stage {
    name: String,
    norm1: Pair,
    conv1: Pair,
    norm2: Pair,
    conv2: Pair,
    shortcut: Pair,
}

/// The network: 3x3 convolution, halvings, mean over positions, linear to K logits.
#[derive(Debug)]
pub struct AttributeNet {
    size: usize,
    attributes: usize,
    table: ParamTable,
    stem: Pair,
    stages: Vec<Stage>,
    norm: Pair,
    classifier: Pair,
}

/// What the network makes of a batch.
#[derive(Clone, Copy, Debug)]
pub struct AttributeOutputs {
    /// Logits `[n, K]`.
    pub logits: Var,
    /// What the last layer reads `[n, C]`: a picture's features.
    pub features: Var,
}

impl AttributeNet {
    /// A network for pictures `[n, size, size, 3]` with `attributes` attributes.
    pub fn new(size: usize, attributes: usize) -> Self {
        let mut table = ParamTable::default();
        let stem = weights(&mut table, "conv_in", &[STEM, 3, 3, 3]);
        let (mut stages, mut from, mut side) = (Vec::new(), STEM, size);
        while side.is_multiple_of(2) && side > LAST_SIZE {
            let to = CHANNELS[stages.len().min(CHANNELS.len() - 1)];
            let name = format!("stages.{}", stages.len());
            stages.push(Stage {
                norm1: norm(&mut table, &format!("{name}.norm1"), from),
                conv1: weights(&mut table, &format!("{name}.conv1"), &[to, from, 3, 3]),
                norm2: norm(&mut table, &format!("{name}.norm2"), to),
                conv2: weights(&mut table, &format!("{name}.conv2"), &[to, to, 3, 3]),
                shortcut: weights(&mut table, &format!("{name}.shortcut"), &[to, from, 1, 1]),
                name,
            });
            (from, side) = (to, side / 2);
        }
        let norm = norm(&mut table, "norm_out", from);
        let classifier = [
            table.add(
                "classifier.weight".into(),
                &[attributes, from],
                Init::Constant(0.0),
            ),
            table.add("classifier.bias".into(), &[attributes], Init::Constant(0.0)),
        ];
        Self {
            size,
            attributes,
            table,
            stem,
            stages,
            norm,
            classifier,
        }
    }

    /// Height and width of the pictures.
    pub fn size(&self) -> usize {
        self.size
    }

    /// K.
    pub fn attributes(&self) -> usize {
        self.attributes
    }

    /// The parameters.
    pub fn table(&self) -> &ParamTable {
        &self.table
    }

    /// Records the network on pictures in `[-1, 1]`; with `train` the parameters ask for gradients.
    ///
    /// # Errors
    /// Pictures of another size.
    pub fn record(
        &self,
        tape: &mut Tape,
        pictures: Var,
        train: bool,
    ) -> Result<AttributeOutputs, TapeError> {
        let mut params = Vec::new();
        for p in self.table.params() {
            let var = tape.state(&p.name, p.ty(), Arena::Params, p.offset);
            if train {
                tape.want_grad(var);
            }
            params.push(var);
        }
        let pair = |p: Pair| Weights {
            w: params[p[0]],
            b: params[p[1]],
        };
        let mut h = tape.scope("conv_in", |tape| {
            conv2d(tape, pictures, pair(self.stem), Default::default())
        })?;
        for stage in &self.stages {
            h = tape.scope(&stage.name, |tape| {
                let norm1 = norm_vars(tape, h, &params, stage.norm1)?;
                let [active, raw] = norm_pool(tape, h, &norm1)?;
                let h = conv2d(tape, active, pair(stage.conv1), Default::default())?;
                let norm2 = norm_vars(tape, h, &params, stage.norm2)?;
                let extras = conv2d::Extras {
                    norm: Some(&norm2),
                    silu: true,
                    residual: Some(Residual::Shortcut(raw, pair(stage.shortcut))),
                    ..Default::default()
                };
                conv2d(tape, h, pair(stage.conv2), extras)
            })?;
        }
        tape.scope("classifier", |tape| {
            let norm = norm_vars(tape, h, &params, self.norm)?;
            let active = norm_act(tape, h, &norm, true)?;
            let features = mean_rows(tape, active)?;
            let extras = linear::Extras::default();
            let logits = linear(tape, features, &[pair(self.classifier)], extras)?[0];
            Ok(AttributeOutputs { logits, features })
        })
    }
}

/// A weight and its bias, uniform in +-1/sqrt(fan in).
fn weights(table: &mut ParamTable, name: &str, shape: &[usize]) -> Pair {
    let fan_in: usize = shape[1..].iter().product();
    let init = Init::Uniform(1.0 / (fan_in as f32).sqrt());
    [
        table.add(format!("{name}.weight"), shape, init),
        table.add(format!("{name}.bias"), &shape[..1], init),
    ]
}

/// A norm's gamma and beta.
fn norm(table: &mut ParamTable, name: &str, channels: usize) -> Pair {
    [
        table.add(format!("{name}.weight"), &[channels], Init::Constant(1.0)),
        table.add(format!("{name}.bias"), &[channels], Init::Constant(0.0)),
    ]
}

fn norm_vars(tape: &mut Tape, x: Var, params: &[Var], pair: Pair) -> Result<NormVars, TapeError> {
    group_norm(tape, x, GROUPS, pair.map(|i| params[i]), None)
}
