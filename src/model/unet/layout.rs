//! Which parameters the network has, and which part uses which.

use super::super::config::NetworkConfig;
use super::super::params::{Init, ParamTable};
use super::UNet;

/// Numbers of a weight and its bias in the parameter table.
pub(in super::super) type Pair = [usize; 2];

/// A residual block.
#[derive(Debug)]
pub(super) struct Res {
    pub(super) name: String,
    pub(super) norm1: Pair,
    pub(super) conv1: Pair,
    pub(super) time: Pair,
    pub(super) norm2: Pair,
    pub(super) conv2: Pair,
    pub(super) shortcut: Option<Pair>,
    pub(super) number: usize,
}

/// An attention block.
#[derive(Debug)]
pub(super) struct Att {
    pub(super) name: String,
    pub(super) norm: Pair,
    pub(super) qkv: [Pair; 3],
    pub(super) tokens: [Pair; 2],
    pub(super) out: Pair,
    pub(super) number: usize,
}

/// A level on the way down or up.
#[derive(Debug)]
pub(super) struct Level {
    pub(super) name: String,
    pub(super) layers: Vec<(Res, Option<Att>)>,
    pub(super) sampler: Option<Res>,
}

/// Collects parameters while the network is laid out.
struct Builder<'a> {
    config: &'a NetworkConfig,
    table: ParamTable,
    residuals: usize,
    attentions: usize,
    /// Widths of the skips not yet read.
    skips: Vec<usize>,
}

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

    /// The levels on the way down, and the width of the last.
    fn down(&mut self) -> (Vec<Level>, usize) {
        let config = self.config;
        let mut from = config.block_out_channels[0];
        self.skips.push(from);
        let mut levels = Vec::new();
        for (i, &width) in config.block_out_channels.iter().enumerate() {
            let name = format!("down_blocks.{i}");
            let mut layers = Vec::new();
            for r in 0..config.layers_per_block {
                layers.push(self.layer(&name, r, [from, width], config.attention[i]));
                from = width;
                self.skips.push(from);
            }
            let sampler = (i + 1 < config.levels()).then(|| {
                self.skips.push(from);
                self.res(format!("{name}.downsamplers.0"), from, from)
            });
            levels.push(Level {
                name,
                layers,
                sampler,
            });
        }
        (levels, from)
    }

    /// The levels on the way up, from a middle of width `from`; each layer reads one skip.
    fn up(&mut self, mut from: usize) -> Vec<Level> {
        let config = self.config;
        let mut levels = Vec::new();
        for (u, i) in (0..config.levels()).rev().enumerate() {
            let name = format!("up_blocks.{u}");
            let width = config.block_out_channels[i];
            let mut layers = Vec::new();
            for r in 0..=config.layers_per_block {
                let skip = self.skips.pop().unwrap_or_default();
                layers.push(self.layer(&name, r, [from + skip, width], config.attention[i]));
                from = width;
            }
            let sampler = (i > 0).then(|| self.res(format!("{name}.upsamplers.0"), from, from));
            levels.push(Level {
                name,
                layers,
                sampler,
            });
        }
        levels
    }
}

impl UNet {
    /// Lays out the network of `config`.
    pub fn new(config: NetworkConfig) -> Self {
        let c0 = config.block_out_channels[0];
        let mut b = Builder {
            config: &config,
            table: ParamTable::default(),
            residuals: 0,
            attentions: 0,
            skips: Vec::new(),
        };
        let conv_in = b.weights("conv_in", &[c0, config.in_channels, 3, 3], false);
        let embedding = config.embedding();
        let time = [
            b.weights("time_embedding.linear_1", &[embedding, c0], false),
            b.weights("time_embedding.linear_2", &[embedding, embedding], false),
        ];
        let projection = config
            .token_projection
            .map(|width| b.weights("class_embedding", &[embedding, width], false));
        let (down, from) = b.down();
        let mid = (
            b.res("mid_block.resnets.0".into(), from, from),
            b.att("mid_block.attentions.0".into(), from),
            b.res("mid_block.resnets.1".into(), from, from),
        );
        let up = b.up(from);
        let norm_out = b.norm("conv_norm_out", c0);
        let conv_out = b.weights("conv_out", &[config.out_channels, c0, 3, 3], true);
        Self {
            conv_in,
            time,
            projection,
            down,
            mid,
            up,
            norm_out,
            conv_out,
            classifier: None,
            convolutions: Default::default(),
            table: b.table,
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

    pub(super) fn residual_blocks(&self) -> impl Iterator<Item = &Res> {
        let levels = self.down.iter().chain(&self.up);
        levels
            .flat_map(|l| l.layers.iter().map(|layer| &layer.0).chain(&l.sampler))
            .chain([&self.mid.0, &self.mid.2])
    }

    pub(super) fn attention_blocks(&self) -> impl Iterator<Item = &Att> {
        let levels = self.down.iter().chain(&self.up);
        levels
            .flat_map(|l| l.layers.iter().filter_map(|layer| layer.1.as_ref()))
            .chain([&self.mid.1])
    }
}
