//! How the network is recorded on a tape.

use super::layout::{Att, Pair, Res};
use super::{Inputs, Outputs, Purpose, UNet};
use crate::ops::attention::attention;
use crate::ops::concat::{Axis, concat, reshape};
use crate::ops::conv2d::{self, Residual, conv2d};
use crate::ops::group_norm::group_norm;
use crate::ops::linear::{self, Weights, linear};
use crate::ops::norm_pool::{norm_act, norm_pool};
use crate::ops::prologue::NormVars;
use crate::ops::time_embedding::TimeEmbedding;
use crate::tape::{Arena, Tape, TapeError, Var};

/// Eps of the norms in attention, whatever the configuration says.
const ATTENTION_EPS: f64 = 1e-5;

impl UNet {
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
        // The classifier's parameters come last; `classify` declares them.
        let own = self.classifier.map_or(usize::MAX, |pair| pair[0]);
        let params = self.table.params().iter().take(own);
        let params: Vec<Var> = params
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
            conv2d(tape, sample, self.weights(net.conv_in), self.plain())
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
                ..self.plain()
            };
            conv2d(tape, h, self.weights(net.conv_out), extras)
        })?;
        Ok((output, bottleneck))
    }

    /// A convolution of the input as it is.
    fn plain(&self) -> conv2d::Extras<'static> {
        conv2d::Extras {
            algorithm: self.net.convolutions,
            ..Default::default()
        }
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
                ..self.plain()
            };
            let (h, residual) = match sampling {
                Sampling::Down => {
                    let [act, pooled] = norm_pool(tape, x, &norm1)?;
                    (
                        conv2d(tape, act, conv1, self.plain())?,
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
                residual: Some(residual),
                ..self.plain()
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
