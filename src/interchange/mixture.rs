//! `mixture.json`: everything between a list of attributes and the network's tokens.

use super::InterchangeError;
use super::error::wrong;
use super::folder::read_json;
use crate::gmm::latent::feature_code;
use crate::train::checkpoint::{CheckpointInfo, Counters, MAX_ROWS};
use crate::train::config::DataKind;
use crate::train::setup::Setup;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// What the file says it is.
pub(super) const FORMAT: &str = "gmmk-mixture";
/// Version of the file.
const VERSION: u32 = 1;
const EXPECTED: &str = "the mixture.json that `gmmk export --diffusers` writes";
/// Above the rounding of a decimal number, below any other law.
const TOLERANCE: f64 = 1e-9;

/// The file: token_k = A_k (code_scale code_k + z_k), where every number of z_k is drawn from
/// sum_m weights_m N(means_m, sigma^2), independently.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MixtureFile {
    /// "gmmk-mixture".
    pub format: String,
    /// 1.
    pub version: u32,
    /// The formula, for people.
    #[serde(default)]
    pub about: String,
    /// Names of the K attributes.
    pub attributes: Vec<String>,
    /// Whether the attributes are classes: exactly one is on.
    pub classes: bool,
    /// Numbers of a token, N.
    pub width: usize,
    /// Weights of the components.
    pub weights: Vec<f64>,
    /// Their means.
    pub means: Vec<f64>,
    /// Their common standard deviation.
    pub sigma: f64,
    /// Factor on the codes; 0 leaves them out.
    pub code_scale: f64,
    /// The code of each attribute: N signs, `+` is 1 and `-` is -1.
    pub codes: Vec<String>,
    /// Attributes of training pictures: K digits, 0 or 1.
    pub rows: Vec<String>,
    /// How the weights came to be.
    pub run: RunFacts,
}

/// How the weights came to be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunFacts {
    /// `ema` (the moving average of the weights), `raw` (the last step's) or `imported`.
    pub weights: String,
    /// How far the run had come.
    pub counters: Counters,
}

const ABOUT: &str = "token_k = A_k (code_scale code_k + z_k); every number of z_k is drawn from the mixture sum_m weights_m N(means_m, sigma^2); the network reads the K tokens as encoder_hidden_states";

impl MixtureFile {
    /// What a checkpoint says of a run that was set up as `setup`.
    pub fn new(info: &CheckpointInfo, setup: &Setup, weights: &str) -> Self {
        let mixture = &setup.conditioning.mixture;
        let width = setup.net.config().cross_attention_dim;
        let sign = |k: usize, n: usize| {
            if feature_code(k as u64, n) > 0.0 {
                '+'
            } else {
                '-'
            }
        };
        let digits = |row: &Vec<u8>| {
            row.iter()
                .map(|&a| if a == 1 { '1' } else { '0' })
                .collect()
        };
        Self {
            format: FORMAT.into(),
            version: VERSION,
            about: ABOUT.into(),
            attributes: info.attribute_names.clone(),
            classes: info.config.data == DataKind::Cifar10,
            width,
            weights: mixture.weights(),
            means: mixture.mu().to_vec(),
            sigma: mixture.sigma(),
            code_scale: setup.conditioning.code,
            codes: (0..info.attribute_names.len())
                .map(|k| (0..width).map(|n| sign(k, n)).collect())
                .collect(),
            rows: info.attribute_rows.iter().map(digits).collect(),
            run: RunFacts {
                weights: weights.into(),
                counters: info.counters,
            },
        }
    }

    /// Reads the file. What only a run's configuration can tell is checked by [`MixtureFile::check`].
    ///
    /// # Errors
    /// The file cannot be read, or is no such file.
    pub fn read(path: &Path) -> Result<Self, InterchangeError> {
        let value: serde_json::Value = read_json(path, EXPECTED)?;
        let found = (&value["format"], &value["version"]);
        if found.0 != FORMAT || found.1 != VERSION {
            let found = format!("format {} version {}", found.0, found.1);
            let expected = format!("format \"{FORMAT}\" version {VERSION}");
            return Err(wrong(path, "format and version", expected, found));
        }
        let file: Self = serde_json::from_value(value)
            .map_err(|e| wrong(path, "JSON", EXPECTED, e.to_string()))?;
        let names = &file.attributes;
        for (k, name) in names.iter().enumerate() {
            if name.is_empty() || names[..k].contains(name) {
                let found = format!("`{name}` as name {}", k + 1);
                return Err(wrong(path, "attributes", "different names", found));
            }
        }
        if names.is_empty() {
            return Err(wrong(path, "attributes", "at least one name", "none"));
        }
        if file.rows.len() > MAX_ROWS {
            let (expected, found) = (format!("at most {MAX_ROWS}"), file.rows.len().to_string());
            return Err(wrong(path, "rows", expected, found));
        }
        Ok(file)
    }

    /// The training rows as numbers 0 and 1.
    ///
    /// # Errors
    /// A row that is not K digits 0 or 1; `path` is the file to name.
    pub fn attribute_rows(&self, path: &Path) -> Result<Vec<Vec<u8>>, InterchangeError> {
        let k = self.attributes.len();
        let row = |(i, text): (usize, &String)| {
            let digits: Vec<u8> = text.bytes().map(|b| b.wrapping_sub(b'0')).collect();
            if digits.len() != k || digits.iter().any(|&d| d > 1) {
                let place = format!("rows, number {i}");
                return Err(wrong(
                    path,
                    place,
                    format!("{k} digits 0 or 1"),
                    quoted(text),
                ));
            }
            Ok(digits)
        };
        self.rows.iter().enumerate().map(row).collect()
    }

    /// Checks that the file says what `ours`, made of the run's configuration, says: a checkpoint cannot
    /// hold another law of the tokens.
    ///
    /// # Errors
    /// The first difference; `path` is the file to name.
    pub fn check(&self, ours: &Self, path: &Path) -> Result<(), InterchangeError> {
        let differs = |place: &str, expected: String, found: String| {
            let expected = format!("{expected}, as config.toml and unet/config.json have it");
            Err(wrong(path, place, expected, found))
        };
        let numbers = |f: &Self| {
            let mut all = vec![f.sigma, f.code_scale];
            all.extend(f.weights.iter().chain(&f.means));
            all
        };
        let near = |(a, b): (&f64, &f64)| (a - b).abs() <= TOLERANCE;
        let law = |f: &Self| {
            format!(
                "weights {:?}, means {:?}, sigma {}, code_scale {}",
                f.weights, f.means, f.sigma, f.code_scale
            )
        };
        if self.classes != ours.classes {
            return differs(
                "classes",
                ours.classes.to_string(),
                self.classes.to_string(),
            );
        }
        if self.width != ours.width {
            return differs("width", ours.width.to_string(), self.width.to_string());
        }
        if self.weights.len() != ours.weights.len()
            || self.means.len() != ours.means.len()
            || !numbers(self).iter().zip(&numbers(ours)).all(near)
        {
            return differs("the mixture", law(ours), law(self));
        }
        if self.codes.len() != ours.codes.len() {
            let count = |f: &Self| format!("{} codes", f.codes.len());
            return differs("codes", count(ours), count(self));
        }
        let mut codes = self.codes.iter().zip(&ours.codes).enumerate();
        match codes.find(|(_, (a, b))| a != b) {
            Some((k, (found, expected))) => differs(
                &format!("codes, number {k}"),
                quoted(expected),
                quoted(found),
            ),
            None => Ok(()),
        }
    }
}

/// The beginning of a text, in quotes.
fn quoted(text: &str) -> String {
    let beginning: String = text.chars().take(60).collect();
    let more = if beginning.len() < text.len() {
        ".."
    } else {
        ""
    };
    format!("`{beginning}{more}`")
}
