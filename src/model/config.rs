//! Configuration of the U-Net: the keys of diffusers' `UNet2DConditionModel` that may vary.

use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// The network's shape. Written and read as diffusers' `config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct NetworkConfig {
    /// Height and width of the picture; a multiple of 2^(levels - 1).
    pub sample_size: usize,
    /// Channels of the picture.
    pub in_channels: usize,
    /// Channels of the predicted noise.
    pub out_channels: usize,
    /// Which levels have attention, widest resolution first.
    pub attention: Vec<bool>,
    /// Channels of each level.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks per level on the way down; one more on the way up.
    pub layers_per_block: usize,
    /// Channels of one attention head.
    pub attention_head_dim: usize,
    /// Elements of a conditioning token.
    pub cross_attention_dim: usize,
    /// Groups of every group norm.
    pub norm_num_groups: usize,
    /// Added to the variance in the residual blocks and at the output (attention always has 1e-5).
    pub norm_eps: f64,
    /// Width of the time embedding; `None` is four times the first level's.
    pub time_embedding_dim: Option<usize>,
    /// Cosines before sines.
    pub flip_sin_to_cos: bool,
    /// Subtracted from the number of frequencies in their exponent.
    pub freq_shift: f64,
    /// Tokens times their elements, if the flattened tokens are added to the time embedding.
    pub token_projection: Option<usize>,
}

/// A configuration that this network cannot have.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not JSON.
    #[error("{} is not JSON: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A key's value is not what this network computes.
    #[error("network configuration: {key}: expected {expected}, found {found}")]
    Key {
        /// The key.
        key: String,
        /// What is allowed.
        expected: String,
        /// What is there.
        found: String,
    },
}

fn wrong(key: &str, expected: impl ToString, found: impl ToString) -> ConfigError {
    ConfigError::Key {
        key: key.into(),
        expected: expected.to_string(),
        found: found.to_string(),
    }
}

/// Keys whose one allowed value diffusers does not assume when they are missing.
const REQUIRED: [(&str, &str); 2] = [
    ("mid_block_type", "UNetMidBlock2DSimpleCrossAttn"),
    ("resnet_time_scale_shift", "scale_shift"),
];

/// Keys whose one allowed value is diffusers' default.
fn constants() -> Value {
    json!({
        "center_input_sample": false, "mid_block_scale_factor": 1, "dropout": 0, "act_fn": "silu",
        "only_cross_attention": false, "resnet_skip_time_act": false, "resnet_out_scale_factor": 1,
        "time_embedding_type": "positional", "conv_in_kernel": 3, "conv_out_kernel": 3,
        "transformer_layers_per_block": 1, "addition_embed_type_num_heads": 64,
        "downsample_padding": 1, "attention_type": "default",
    })
}

/// Bounds beyond which no network of the family is trained: a stranger's file must not say how much is planned.
const WIDEST: usize = 1 << 20;
const LARGEST: usize = 8192;
const DEEPEST: usize = 64;

const DOWN: [&str; 2] = ["ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"];
const UP: [&str; 2] = ["ResnetUpsampleBlock2D", "SimpleCrossAttnUpBlock2D"];

impl NetworkConfig {
    /// Reads a `config.json`.
    ///
    /// # Errors
    /// The file cannot be read or says something that this network does not compute.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.into(),
            source,
        })?;
        let value = serde_json::from_str(&text).map_err(|source| ConfigError::Json {
            path: path.into(),
            source,
        })?;
        Self::from_json(&value)
    }

    /// Reads the keys of a `config.json`.
    ///
    /// # Errors
    /// As for [`NetworkConfig::load`].
    pub fn from_json(value: &Value) -> Result<Self, ConfigError> {
        let keys = value
            .as_object()
            .ok_or_else(|| wrong("(all)", "a JSON object", value))?;
        let reader = Reader { keys };
        reader.check_constants()?;
        let channels = reader.list("block_out_channels")?;
        let config = Self {
            sample_size: reader.integer("sample_size", None)?,
            in_channels: reader.integer("in_channels", Some(4))?,
            out_channels: reader.integer("out_channels", Some(4))?,
            attention: reader.attention(channels.len())?,
            block_out_channels: channels,
            layers_per_block: reader.integer("layers_per_block", Some(2))?,
            attention_head_dim: reader.integer("attention_head_dim", Some(8))?,
            cross_attention_dim: reader.integer("cross_attention_dim", Some(1280))?,
            norm_num_groups: reader.integer("norm_num_groups", Some(32))?,
            norm_eps: reader.number("norm_eps", 1e-5)?,
            time_embedding_dim: match keys.get("time_embedding_dim") {
                None | Some(Value::Null) => None,
                Some(_) => Some(reader.integer("time_embedding_dim", None)?),
            },
            flip_sin_to_cos: match keys.get("flip_sin_to_cos") {
                None => true,
                Some(v) => v
                    .as_bool()
                    .ok_or_else(|| wrong("flip_sin_to_cos", "true or false", v))?,
            },
            freq_shift: reader.number("freq_shift", 0.0)?,
            token_projection: reader.projection()?,
        };
        config.validate()?;
        Ok(config)
    }

    /// The `config.json` that diffusers reads.
    pub fn to_json(&self) -> Value {
        let types = |names: [&'static str; 2], reverse: bool| -> Vec<&str> {
            let mut out: Vec<&str> = self
                .attention
                .iter()
                .map(|&a| names[usize::from(a)])
                .collect();
            if reverse {
                out.reverse();
            }
            out
        };
        let mut out = json!({
            "_class_name": "UNet2DConditionModel",
            "sample_size": self.sample_size,
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "down_block_types": types(DOWN, false),
            "up_block_types": types(UP, true),
            "block_out_channels": self.block_out_channels,
            "layers_per_block": self.layers_per_block,
            "attention_head_dim": self.attention_head_dim,
            "cross_attention_dim": self.cross_attention_dim,
            "norm_num_groups": self.norm_num_groups,
            "norm_eps": self.norm_eps,
            "time_embedding_dim": self.time_embedding_dim,
            "flip_sin_to_cos": self.flip_sin_to_cos,
            "freq_shift": self.freq_shift,
        });
        if let Some(keys) = out.as_object_mut() {
            for (key, value) in REQUIRED {
                keys.insert(key.into(), value.into());
            }
            if let Value::Object(constants) = constants() {
                keys.extend(constants.into_iter().take(10));
            }
            if let Some(width) = self.token_projection {
                keys.insert("class_embed_type".into(), "simple_projection".into());
                keys.insert("projection_class_embeddings_input_dim".into(), width.into());
            }
        }
        out
    }

    /// Number of levels.
    pub fn levels(&self) -> usize {
        self.block_out_channels.len()
    }

    /// Width of the time embedding.
    pub fn embedding(&self) -> usize {
        self.time_embedding_dim
            .unwrap_or(4 * self.block_out_channels[0])
    }

    /// Checks the numbers that have a bound, the first level's channels first: they decide on the embedding.
    fn validate_sizes(&self) -> Result<(), ConfigError> {
        let first = ("block_out_channels", self.block_out_channels[0], WIDEST);
        for (key, value, most) in [
            first,
            ("sample_size", self.sample_size, LARGEST),
            ("in_channels", self.in_channels, WIDEST),
            ("out_channels", self.out_channels, WIDEST),
            ("layers_per_block", self.layers_per_block, DEEPEST),
            ("attention_head_dim", self.attention_head_dim, WIDEST),
            ("cross_attention_dim", self.cross_attention_dim, WIDEST),
            ("norm_num_groups", self.norm_num_groups, WIDEST),
        ] {
            if value == 0 || value > most {
                return Err(wrong(key, format!("1 to {most}"), value));
            }
        }
        let embedding = self.embedding();
        if embedding == 0 || embedding > 4 * WIDEST {
            let want = format!("1 to {}", 4 * WIDEST);
            return Err(wrong("time_embedding_dim", want, embedding));
        }
        Ok(())
    }

    fn validate(&self) -> Result<(), ConfigError> {
        let n = self.levels();
        if n == 0 || n > 16 {
            return Err(wrong("block_out_channels", "1 to 16 levels", n));
        }
        let factor = 1 << (n - 1);
        if !self.sample_size.is_multiple_of(factor) {
            let want = format!("a multiple of {factor} (it is halved {} times)", n - 1);
            return Err(wrong("sample_size", want, self.sample_size));
        }
        self.validate_sizes()?;
        if !(self.norm_eps > 0.0 && self.norm_eps < 1.0) {
            return Err(wrong("norm_eps", "between 0 and 1", self.norm_eps));
        }
        let half = (self.block_out_channels[0] / 2) as f64;
        if half - self.freq_shift <= 0.0 {
            let want = format!("less than {half}, half of the first level's channels");
            return Err(wrong("freq_shift", want, self.freq_shift));
        }
        for (i, &c) in self.block_out_channels.iter().enumerate() {
            let attends = self.attention[i] || i == n - 1;
            let unit = if attends { self.attention_head_dim } else { 1 };
            if c == 0
                || c > WIDEST
                || !c.is_multiple_of(self.norm_num_groups)
                || !c.is_multiple_of(unit)
            {
                let want = format!(
                    "multiples of {} groups{}",
                    self.norm_num_groups,
                    if attends {
                        format!(" and of heads of {unit} (level {i} has attention)")
                    } else {
                        String::new()
                    }
                );
                return Err(wrong("block_out_channels", want, c));
            }
        }
        Ok(())
    }
}

struct Reader<'a> {
    keys: &'a Map<String, Value>,
}

impl Reader<'_> {
    fn integer(&self, key: &str, default: Option<usize>) -> Result<usize, ConfigError> {
        match (self.keys.get(key), default) {
            (None, Some(default)) => Ok(default),
            (None, None) => Err(wrong(key, "a whole number", "nothing")),
            (Some(v), _) => {
                let n = v.as_u64().or_else(|| {
                    v.as_f64()
                        .filter(|x| x.fract() == 0.0 && *x >= 0.0)
                        .map(|x| x as u64)
                });
                n.map(|n| n as usize)
                    .ok_or_else(|| wrong(key, "a whole number", v))
            }
        }
    }

    fn number(&self, key: &str, default: f64) -> Result<f64, ConfigError> {
        match self.keys.get(key) {
            None => Ok(default),
            Some(v) => v.as_f64().ok_or_else(|| wrong(key, "a number", v)),
        }
    }

    fn list(&self, key: &str) -> Result<Vec<usize>, ConfigError> {
        let value = self.keys.get(key).unwrap_or(&Value::Null);
        let items = value
            .as_array()
            .ok_or_else(|| wrong(key, "a list of whole numbers", value))?;
        items
            .iter()
            .map(|v| {
                v.as_u64()
                    .map(|n| n as usize)
                    .ok_or_else(|| wrong(key, "whole numbers", v))
            })
            .collect()
    }

    fn attention(&self, levels: usize) -> Result<Vec<bool>, ConfigError> {
        let read = |key: &str, names: [&str; 2]| -> Result<Vec<bool>, ConfigError> {
            let value = self.keys.get(key).unwrap_or(&Value::Null);
            let items = value
                .as_array()
                .ok_or_else(|| wrong(key, "a list of block types", value))?;
            if items.len() != levels {
                return Err(wrong(
                    key,
                    format!("{levels} entries, one per level"),
                    items.len(),
                ));
            }
            items
                .iter()
                .map(|v| {
                    let place = names.iter().position(|n| v.as_str() == Some(n));
                    place
                        .map(|p| p == 1)
                        .ok_or_else(|| wrong(key, format!("{} or {}", names[0], names[1]), v))
                })
                .collect()
        };
        let down = read("down_block_types", DOWN)?;
        let mut up = read("up_block_types", UP)?;
        up.reverse();
        if down != up {
            return Err(wrong(
                "up_block_types",
                "attention in the same levels as on the way down",
                format!("{up:?}"),
            ));
        }
        Ok(down)
    }

    fn projection(&self) -> Result<Option<usize>, ConfigError> {
        match self.keys.get("class_embed_type") {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(s)) if s == "simple_projection" => self
                .integer("projection_class_embeddings_input_dim", None)
                .map(Some),
            Some(v) => Err(wrong("class_embed_type", "null or simple_projection", v)),
        }
    }

    /// Refuses a file that asks for something this network does not compute.
    fn check_constants(&self) -> Result<(), ConfigError> {
        for (key, want) in REQUIRED {
            let found = self.keys.get(key).unwrap_or(&Value::Null);
            if found.as_str() != Some(want) {
                return Err(wrong(key, want, found));
            }
        }
        let constants = constants();
        for (key, value) in self.keys {
            if key.starts_with('_')
                || VARYING.contains(&key.as_str())
                || REQUIRED.iter().any(|r| r.0 == key)
            {
                continue;
            }
            let want = constants.get(key).unwrap_or(&Value::Null);
            let same = match (want.as_f64(), value.as_f64()) {
                (Some(a), Some(b)) => a == b,
                _ => want == value || (want.is_null() && value == &Value::Bool(false)),
            };
            if !same {
                let want = if want.is_null() {
                    "null or false".into()
                } else {
                    want.to_string()
                };
                return Err(wrong(key, want, value));
            }
        }
        Ok(())
    }
}

/// Keys that [`NetworkConfig::from_json`] reads one by one.
const VARYING: [&str; 16] = [
    "sample_size",
    "in_channels",
    "out_channels",
    "down_block_types",
    "up_block_types",
    "block_out_channels",
    "layers_per_block",
    "attention_head_dim",
    "cross_attention_dim",
    "norm_num_groups",
    "norm_eps",
    "time_embedding_dim",
    "flip_sin_to_cos",
    "freq_shift",
    "class_embed_type",
    "projection_class_embeddings_input_dim",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::preset::PRESETS;

    #[test]
    fn configurations_survive_json() {
        for preset in &PRESETS {
            let config = preset.config();
            assert_eq!(NetworkConfig::from_json(&config.to_json()).unwrap(), config);
        }
    }

    #[test]
    fn what_the_network_does_not_compute_is_refused() {
        let good = PRESETS[0].config().to_json();
        for (key, value) in [
            ("act_fn", json!("gelu")),
            ("dropout", json!(0.1)),
            ("resnet_time_scale_shift", json!("default")),
            ("attention_head_dim", json!([8, 16])),
            ("layers_per_block", json!([1, 2])),
            ("sample_size", json!(62)),
            ("norm_num_groups", json!(7)),
            ("encoder_hid_dim", json!(3)),
            ("up_block_types", json!(["ResnetUpsampleBlock2D"])),
            ("time_embedding_type", json!("fourier")),
            ("dual_cross_attention", json!(true)),
        ] {
            let mut bad = good.clone();
            bad[key] = value;
            let error = NetworkConfig::from_json(&bad).unwrap_err().to_string();
            assert!(
                error.contains(key) || error.contains("groups"),
                "{key}: {error}"
            );
        }
        let mut extra = good;
        extra["encoder_hid_dim"] = Value::Null;
        extra["use_linear_projection"] = json!(false);
        assert!(NetworkConfig::from_json(&extra).is_ok());
    }
}
