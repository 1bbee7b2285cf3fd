//! The U-Net of `diffusers.UNet2DConditionModel` in its "simple cross attention" form: residual
//! blocks with time scale-shift, attention to tokens and pixels in one softmax.

use super::config::NetworkConfig;
use super::params::{Init, ParamTable};
use crate::ops::attention::attention;
use crate::ops::concat::{Axis, concat, reshape};
use crate::ops::conv2d::{self, Residual, conv2d};
use crate::ops::group_norm::group_norm;
use crate::ops::linear::{self, Weights, linear};
use crate::ops::norm_pool::{norm_act, norm_pool};
use crate::ops::prologue::NormVars;
use crate::ops::time_embedding::TimeEmbedding;
use crate::tape::{Arena, Tape, TapeError, Var};

/// Numbers of a weight and its bias in the parameter table.
type Pair = [usize; 2];

/// A residual block.
#[derive(Debug)]
struct Res {
    name: String,
    norm1: Pair,
    conv1: Pair,
    time: Pair,
    norm2: Pair,
    conv2: Pair,
    shortcut: Option<Pair>,
    number: usize,
}

/// An attention block.
#[derive(Debug)]
struct Att {
    name: String,
    norm: Pair,
    qkv: [Pair; 3],
    tokens: [Pair; 2],
    out: Pair,
    number: usize,
}

/// A level on the way down or up.
#[derive(Debug)]
struct Level {
    name: String,
    layers: Vec<(Res, Option<Att>)>,
    sampler: Option<Res>,
}

/// The network: its parameters, and where each part finds its own.
#[derive(Debug)]
pub struct UNet {
    config: NetworkConfig,
    table: ParamTable,
    conv_in: Pair,
    time: [Pair; 2],
    projection: Option<Pair>,
    down: Vec<Level>,
    mid: (Res, Att, Res),
    up: Vec<Level>,
    norm_out: Pair,
    conv_out: Pair,
}

/// What the network reads.
#[derive(Clone, Copy, Debug)]
pub struct Inputs {
    /// Noisy pictures [n, s, s, in].
    pub sample: Var,
    /// Step indices t - 1, [n] (U32).
    pub timestep: Var,
    /// Conditioning tokens [n, l, width].
    pub tokens: Var,
}

/// What the network makes.
#[derive(Clone, Debug)]
pub struct Outputs {
    /// Predicted noise [n, s, s, out].
    pub output: Var,
    /// Output of the middle block, where an attribute classifier reads.
    pub bottleneck: Var,
    /// Outputs of the network's parts by diffusers' names, for comparisons.
    pub parts: Vec<(String, Var)>,
}

/// What a recording is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Predict noise.
    Sample,
    /// Parameters ask for gradients.
    Train,
    /// As `Train`, and the normalised input of the last convolution is a part of its own.
    Verify,
}

/// Collects parameters while the network is laid out.
struct Builder<'a> {
    config: &'a NetworkConfig,
    table: ParamTable,
    residuals: usize,
    attentions: usize,
}

/// Eps of the norms in attention, whatever the configuration says.
const ATTENTION_EPS: f64 = 1e-5;

impl Builder<'_> {
    /// Weight and bias, uniform in +-1/sqrt(fan in) or zero.
    fn weights(&mut self, name: &str, shape: &[usize], zero: bool) -> Pair {
        let fan_in: usize = shape[1..].iter().product();
        let init = if zero {
            Init::Constant(0.0)
        } else {
            Init::Uniform(1.0 / (fan_in as f32).sqrt())
        };
        [
            self.table.add(format!("{name}.weight"), shape, init),
            self.table.add(format!("{name}.bias"), &shape[..1], init),
        ]
    }

    fn norm(&mut self, name: &str, channels: usize) -> Pair {
        [
            self.table
                .add(format!("{name}.weight"), &[channels], Init::Constant(1.0)),
            self.table
                .add(format!("{name}.bias"), &[channels], Init::Constant(0.0)),
        ]
    }

    /// The last convolution starts at zero, so that the block starts as the identity (as in ADM).
    fn res(&mut self, name: String, from: usize, to: usize) -> Res {
        let embedding = self.config.embedding();
        let part = |part: &str| format!("{name}.{part}");
        self.residuals += 1;
        Res {
            norm1: self.norm(&part("norm1"), from),
            conv1: self.weights(&part("conv1"), &[to, from, 3, 3], false),
            time: self.weights(&part("time_emb_proj"), &[2 * to, embedding], false),
            norm2: self.norm(&part("norm2"), to),
            conv2: self.weights(&part("conv2"), &[to, to, 3, 3], true),
            shortcut: (from != to)
                .then(|| self.weights(&part("conv_shortcut"), &[to, from, 1, 1], false)),
            number: self.residuals - 1,
            name,
        }
    }

    fn att(&mut self, name: String, c: usize) -> Att {
        let width = self.config.cross_attention_dim;
        let part = |part: &str| format!("{name}.{part}");
        self.attentions += 1;
        Att {
            norm: self.norm(&part("group_norm"), c),
            qkv: ["to_q", "to_k", "to_v"].map(|p| self.weights(&part(p), &[c, c], false)),
            tokens: ["add_k_proj", "add_v_proj"]
                .map(|p| self.weights(&part(p), &[c, width], false)),
            out: self.weights(&part("to_out.0"), &[c, c], true),
            number: self.attentions - 1,
            name,
        }
    }

    fn layer(
        &mut self,
        name: &str,
        r: usize,
        [from, to]: [usize; 2],
        attends: bool,
    ) -> (Res, Option<Att>) {
        let res = self.res(format!("{name}.resnets.{r}"), from, to);
        (
            res,
            attends.then(|| self.att(format!("{name}.attentions.{r}"), to)),
        )
    }
}

impl UNet {
    /// Lays out the network of `config`.
    pub fn new(config: NetworkConfig) -> Self {
        let c = config.block_out_channels.clone();
        let (n, layers) = (c.len(), config.layers_per_block);
        let mut b = Builder {
            config: &config,
            table: ParamTable::default(),
            residuals: 0,
            attentions: 0,
        };
        let conv_in = b.weights("conv_in", &[c[0], config.in_channels, 3, 3], false);
        let embedding = config.embedding();
        let time = [
            b.weights("time_embedding.linear_1", &[embedding, c[0]], false),
            b.weights("time_embedding.linear_2", &[embedding, embedding], false),
        ];
        let projection = config
            .token_projection
            .map(|width| b.weights("class_embedding", &[embedding, width], false));
        let mut skips = vec![c[0]];
        let mut down = Vec::new();
        let mut from = c[0];
        for (i, &width) in c.iter().enumerate() {
            let name = format!("down_blocks.{i}");
            let mut level = Level {
                name: name.clone(),
                layers: Vec::new(),
                sampler: None,
            };
            for r in 0..layers {
                level
                    .layers
                    .push(b.layer(&name, r, [from, width], config.attention[i]));
                from = width;
                skips.push(from);
            }
            if i < n - 1 {
                level.sampler = Some(b.res(format!("{name}.downsamplers.0"), from, from));
                skips.push(from);
            }
            down.push(level);
        }
        let mid = (
            b.res("mid_block.resnets.0".into(), from, from),
            b.att("mid_block.attentions.0".into(), from),
            b.res("mid_block.resnets.1".into(), from, from),
        );
        let mut up = Vec::new();
        for (u, i) in (0..n).rev().enumerate() {
            let name = format!("up_blocks.{u}");
            let mut level = Level {
                name: name.clone(),
                layers: Vec::new(),
                sampler: None,
            };
            for r in 0..=layers {
                let skip = skips.pop().unwrap_or_default();
                level
                    .layers
                    .push(b.layer(&name, r, [from + skip, c[i]], config.attention[i]));
                from = c[i];
            }
            if i > 0 {
                level.sampler = Some(b.res(format!("{name}.upsamplers.0"), from, from));
            }
            up.push(level);
        }
        let norm_out = b.norm("conv_norm_out", c[0]);
        let conv_out = b.weights("conv_out", &[config.out_channels, c[0], 3, 3], true);
        let table = b.table;
        Self {
            conv_in,
            time,
            projection,
            down,
            mid,
            up,
            norm_out,
            conv_out,
            table,
            config,
        }
    }

    /// Its configuration.
    pub fn config(&self) -> &NetworkConfig {
        &self.config
    }

    /// Its parameters.
    pub fn table(&self) -> &ParamTable {
        &self.table
    }

    /// Records the network.
    ///
    /// # Errors
    /// Inputs that do not fit the configuration.
    pub fn record(
        &self,
        tape: &mut Tape,
        inputs: Inputs,
        purpose: Purpose,
    ) -> Result<Outputs, TapeError> {
        let params: Vec<Var> = self
            .table
            .params()
            .iter()
            .map(|p| {
                let var = tape.state(&p.name, p.ty(), Arena::Params, p.offset);
                if purpose != Purpose::Sample {
                    tape.want_grad(var);
                }
                var
            })
            .collect();
        let mut parts = Vec::new();
        let embedding = self.embedding(tape, &params, inputs, &mut parts)?;
        let mut pass = Pass {
            net: self,
            scale_shifts: self.project_time(tape, &params, embedding)?,
            token_rows: self.project_tokens(tape, &params, inputs.tokens)?,
            params,
            parts,
            purpose,
        };
        let (output, bottleneck) = pass.body(tape, inputs.sample)?;
        Ok(Outputs {
            output,
            bottleneck,
            parts: pass.parts,
        })
    }

    fn embedding(
        &self,
        tape: &mut Tape,
        params: &[Var],
        inputs: Inputs,
        parts: &mut Vec<(String, Var)>,
    ) -> Result<Var, TapeError> {
        let config = &self.config;
        tape.scope("time_embedding", |tape| {
            let op = TimeEmbedding {
                dim: config.block_out_channels[0],
                flip_sin_to_cos: config.flip_sin_to_cos,
                freq_shift: config.freq_shift as f32,
            };
            let sinusoid = tape.push_one(op, &[inputs.timestep])?;
            let hidden = linear(
                tape,
                sinusoid,
                &[weights(params, self.time[0])],
                Default::default(),
            )?[0];
            let silu = linear::Extras {
                silu: true,
                ..Default::default()
            };
            let embedding = linear(tape, hidden, &[weights(params, self.time[1])], silu)?[0];
            parts.push(("sinusoid".into(), sinusoid));
            parts.push(("time_embedding".into(), embedding));
            let Some(projection) = self.projection else {
                return Ok(embedding);
            };
            let (n, width) = (
                tape.ty(inputs.tokens).samples(),
                tape.ty(inputs.tokens).len(),
            );
            let flat = reshape(tape, inputs.tokens, &[n, width / n.max(1)])?;
            let extras = linear::Extras {
                residual: Some(embedding),
                ..Default::default()
            };
            Ok(linear(tape, flat, &[weights(params, projection)], extras)?[0])
        })
    }

    /// Scales and shifts of all residual blocks in one op: their input is the same.
    fn project_time(
        &self,
        tape: &mut Tape,
        params: &[Var],
        embedding: Var,
    ) -> Result<Vec<Var>, TapeError> {
        let mut sets: Vec<(usize, Pair)> =
            self.residual_blocks().map(|r| (r.number, r.time)).collect();
        sets.sort_unstable();
        let silu = linear::Extras {
            silu: true,
            ..Default::default()
        };
        tape.scope("time_emb_proj", |tape| {
            let mut out = Vec::new();
            for sets in sets.chunks(SETS) {
                let sets: Vec<Weights> = sets.iter().map(|s| weights(params, s.1)).collect();
                out.extend(linear(tape, embedding, &sets, silu)?);
            }
            Ok(out)
        })
    }

    /// Keys and values of the tokens for all attention blocks in one op.
    fn project_tokens(
        &self,
        tape: &mut Tape,
        params: &[Var],
        tokens: Var,
    ) -> Result<Vec<Var>, TapeError> {
        let mut sets: Vec<(usize, [Pair; 2])> = self
            .attention_blocks()
            .map(|a| (a.number, a.tokens))
            .collect();
        sets.sort_unstable();
        tape.scope("token_proj", |tape| {
            let mut out = Vec::new();
            for sets in sets.chunks(SETS / 2) {
                let sets: Vec<Weights> = sets
                    .iter()
                    .flat_map(|s| s.1.map(|pair| weights(params, pair)))
                    .collect();
                out.extend(linear(tape, tokens, &sets, Default::default())?);
            }
            Ok(out)
        })
    }

    fn residual_blocks(&self) -> impl Iterator<Item = &Res> {
        let levels = self.down.iter().chain(&self.up);
        levels
            .flat_map(|l| l.layers.iter().map(|layer| &layer.0).chain(&l.sampler))
            .chain([&self.mid.0, &self.mid.2])
    }

    fn attention_blocks(&self) -> impl Iterator<Item = &Att> {
        let levels = self.down.iter().chain(&self.up);
        levels
            .flat_map(|l| l.layers.iter().filter_map(|layer| layer.1.as_ref()))
            .chain([&self.mid.1])
    }
}

/// Layers that one linear op takes at the most.
const SETS: usize = 48;

fn weights(params: &[Var], [w, b]: Pair) -> Weights {
    Weights {
        w: params[w],
        b: params[b],
    }
}

/// Whether a residual block changes the resolution.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sampling {
    Same,
    Down,
    Up,
}

/// One recording.
struct Pass<'a> {
    net: &'a UNet,
    params: Vec<Var>,
    scale_shifts: Vec<Var>,
    token_rows: Vec<Var>,
    parts: Vec<(String, Var)>,
    purpose: Purpose,
}

impl Pass<'_> {
    fn weights(&self, pair: Pair) -> Weights {
        weights(&self.params, pair)
    }

    fn norm(
        &self,
        tape: &mut Tape,
        x: Var,
        eps: f64,
        pair: Pair,
        scale_shift: Option<Var>,
    ) -> Result<NormVars, TapeError> {
        let groups = self.net.config.norm_num_groups;
        group_norm(
            tape,
            x,
            (groups, eps),
            pair.map(|i| self.params[i]),
            scale_shift,
        )
    }

    fn body(&mut self, tape: &mut Tape, sample: Var) -> Result<(Var, Var), TapeError> {
        let net = self.net;
        let mut h = tape.scope("conv_in", |tape| {
            conv2d(tape, sample, self.weights(net.conv_in), Default::default())
        })?;
        self.parts.push(("conv_in".into(), h));
        let mut skips = vec![h];
        for level in &net.down {
            for (res, att) in &level.layers {
                h = self.layer(tape, h, res, att.as_ref())?;
                skips.push(h);
            }
            if let Some(sampler) = &level.sampler {
                h = self.res(tape, h, sampler, Sampling::Down)?;
                skips.push(h);
            }
            self.parts.push((level.name.clone(), h));
        }
        h = self.res(tape, h, &net.mid.0, Sampling::Same)?;
        self.parts.push((net.mid.0.name.clone(), h));
        h = self.att(tape, h, &net.mid.1)?;
        self.parts.push((net.mid.1.name.clone(), h));
        h = self.res(tape, h, &net.mid.2, Sampling::Same)?;
        self.parts.push(("mid_block".into(), h));
        let bottleneck = h;
        for level in &net.up {
            for (res, att) in &level.layers {
                if let Some(skip) = skips.pop() {
                    h = tape.scope(&res.name, |tape| concat(tape, Axis::Channels, &[h, skip]))?;
                }
                h = self.layer(tape, h, res, att.as_ref())?;
            }
            if let Some(sampler) = &level.sampler {
                h = self.res(tape, h, sampler, Sampling::Up)?;
            }
            self.parts.push((level.name.clone(), h));
        }
        let output = tape.scope("conv_out", |tape| {
            let norm = self.norm(tape, h, net.config.norm_eps, net.norm_out, None)?;
            if self.purpose == Purpose::Verify {
                let normalised = norm_act(tape, h, &norm, false)?;
                self.parts.push(("conv_norm_out".into(), normalised));
            }
            let extras = conv2d::Extras {
                norm: Some(&norm),
                silu: true,
                ..Default::default()
            };
            conv2d(tape, h, self.weights(net.conv_out), extras)
        })?;
        Ok((output, bottleneck))
    }

    fn layer(
        &self,
        tape: &mut Tape,
        h: Var,
        res: &Res,
        att: Option<&Att>,
    ) -> Result<Var, TapeError> {
        let h = self.res(tape, h, res, Sampling::Same)?;
        att.map_or(Ok(h), |att| self.att(tape, h, att))
    }

    fn res(
        &self,
        tape: &mut Tape,
        x: Var,
        res: &Res,
        sampling: Sampling,
    ) -> Result<Var, TapeError> {
        let eps = self.net.config.norm_eps;
        tape.scope(&res.name, |tape| {
            let norm1 = self.norm(tape, x, eps, res.norm1, None)?;
            let conv1 = self.weights(res.conv1);
            let active = conv2d::Extras {
                norm: Some(&norm1),
                silu: true,
                ..Default::default()
            };
            let (h, residual) = match sampling {
                Sampling::Down => {
                    let [act, pooled] = norm_pool(tape, x, &norm1)?;
                    (
                        conv2d(tape, act, conv1, Default::default())?,
                        Residual::Plain(pooled),
                    )
                }
                Sampling::Up => {
                    let extras = conv2d::Extras {
                        upsample: true,
                        ..active
                    };
                    (conv2d(tape, x, conv1, extras)?, Residual::Doubled(x))
                }
                Sampling::Same => {
                    let residual = match res.shortcut {
                        Some(pair) => Residual::Shortcut(x, self.weights(pair)),
                        None => Residual::Plain(x),
                    };
                    (conv2d(tape, x, conv1, active)?, residual)
                }
            };
            let norm2 = self.norm(tape, h, eps, res.norm2, Some(self.scale_shifts[res.number]))?;
            let extras = conv2d::Extras {
                norm: Some(&norm2),
                silu: true,
                upsample: false,
                residual: Some(residual),
            };
            conv2d(tape, h, self.weights(res.conv2), extras)
        })
    }

    fn att(&self, tape: &mut Tape, x: Var, att: &Att) -> Result<Var, TapeError> {
        tape.scope(&att.name, |tape| {
            let norm = self.norm(tape, x, ATTENTION_EPS, att.norm, None)?;
            let extras = linear::Extras {
                norm: Some(&norm),
                ..Default::default()
            };
            let qkv = linear(tape, x, &att.qkv.map(|pair| self.weights(pair)), extras)?;
            let rows = &self.token_rows[2 * att.number..];
            let keys = concat(tape, Axis::Rows, &[rows[0], qkv[1]])?;
            let values = concat(tape, Axis::Rows, &[rows[1], qkv[2]])?;
            let head_dim = self.net.config.attention_head_dim;
            let o = attention(tape, [qkv[0], keys, values], head_dim)?;
            let extras = linear::Extras {
                residual: Some(x),
                ..Default::default()
            };
            Ok(linear(tape, o, &[self.weights(att.out)], extras)?[0])
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::preset::{PRESETS, Preset};
    use crate::tape::TensorType;
    use crate::tape::plan::Plan;

    #[test]
    fn presets_have_the_published_number_of_weights() {
        let want = [
            (60_576_643, 328),
            (69_574_659, 330),
            (5_482_083, 328),
            (1_450_979, 272),
            (54_939, 176),
        ];
        for (preset, (count, tensors)) in PRESETS.iter().zip(want) {
            let net = UNet::new(preset.config());
            assert_eq!(
                (net.table().count(), net.table().params().len()),
                (count, tensors),
                "{}",
                preset.name
            );
        }
    }

    fn recorded(preset: &str, batch: usize) -> Tape {
        let net = UNet::new(Preset::find(preset).unwrap().config());
        let config = net.config().clone();
        let mut tape = Tape::new();
        let s = config.sample_size;
        let inputs = Inputs {
            sample: tape.input("sample", TensorType::f32(&[batch, s, s, 3])),
            timestep: tape.input("t", TensorType::u32(&[batch])),
            tokens: tape.input(
                "tokens",
                TensorType::f32(&[batch, 40, config.cross_attention_dim]),
            ),
        };
        let out = net.record(&mut tape, inputs, Purpose::Train).unwrap();
        tape.keep(out.output);
        tape
    }

    /// Operation counts published beside the configurations, in GFLOP for a batch of 16.
    #[test]
    fn forward_operations_match_the_published_counts() {
        for (preset, gflop) in [
            ("celeba64", 705.375),
            ("cifar32", 213.924),
            ("tiny", 11.073),
        ] {
            let plan = Plan::new(&recorded(preset, 16), 1);
            let got = plan.flops as f64 / 1e9;
            assert!(
                (got / gflop - 1.0).abs() < 1e-3,
                "{preset}: {got} GFLOP, published {gflop}"
            );
        }
    }

    #[test]
    fn the_listing_names_scopes_and_shapes() {
        let listing = format!("{:?}", recorded("nano", 2));
        assert!(listing.contains("down_blocks.1.attentions.0"), "{listing}");
        assert!(
            listing.contains("f32[2, 16, 16, 8] = conv2d(sample, conv_in.weight, conv_in.bias)"),
            "{listing}"
        );
    }

    #[test]
    fn wrong_inputs_name_the_scope() {
        let net = UNet::new(Preset::find("nano").unwrap().config());
        let mut tape = Tape::new();
        let inputs = Inputs {
            sample: tape.input("sample", TensorType::f32(&[2, 16, 16, 4])),
            timestep: tape.input("t", TensorType::u32(&[2])),
            tokens: tape.input("tokens", TensorType::f32(&[2, 40, 12])),
        };
        let error = net.record(&mut tape, inputs, Purpose::Sample).unwrap_err();
        assert_eq!(error.scope, "conv_in");
    }
}
