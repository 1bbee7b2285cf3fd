//! A run's configuration: `config.toml`, everything needed to start the run again.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use toml::de::DeTable;

pub use self::error::{ConfigError, Difference};
use super::classifier::ClassifierKind;
use super::length::Length;
use super::rate::RateSchedule;
use crate::diffusion::schedule::{Schedule, ScheduleSpec};
use crate::gmm::latent::LatentKind;
use crate::report::files::replace_with_bytes;

mod error;

/// Where the pictures come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DataKind {
    /// CelebA, or an own folder in its form.
    Celeba,
    /// CIFAR-10.
    Cifar10,
    /// The built-in procedural faces.
    Faces,
    /// Own pictures with a table of attributes.
    Folder,
}

impl DataKind {
    /// The schedule that belongs to the data set.
    pub fn schedule(self) -> ScheduleSpec {
        match self {
            Self::Celeba | Self::Faces | Self::Folder => ScheduleSpec::CELEBA,
            Self::Cifar10 => ScheduleSpec::CIFAR10,
        }
    }
}

impl fmt::Display for DataKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Celeba => "celeba",
            Self::Cifar10 => "cifar10",
            Self::Faces => "faces",
            Self::Folder => "folder",
        })
    }
}

/// Whether tokens carry the fixed code of their feature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FeatureCode {
    /// tok_k = A_k (c_k + Z_k).
    On,
    /// tok_k = A_k Z_k, the paper as printed.
    None,
}

impl FeatureCode {
    /// gamma, the code's scale.
    pub fn scale(self) -> f64 {
        match self {
            Self::On => 1.0,
            Self::None => 0.0,
        }
    }
}

/// Everything that decides what a run computes, and how it is run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// Version of the program that started the run: a record, not a choice.
    pub program: String,
    /// The data set.
    pub data: DataKind,
    /// Its folder, where one was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_path: Option<PathBuf>,
    /// The attributes of own pictures, where their file was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attributes: Option<PathBuf>,
    /// The checkpoint whose weights the run began with, where they were not new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<PathBuf>,
    /// Name of the network's preset; with `network` given, a name for people.
    pub preset: String,
    /// The noise schedule, such as `constant:0.06:100`.
    pub schedule: ScheduleSpec,
    /// Total length of the run.
    pub steps: Length,
    /// Images per optimizer step.
    pub batch: u64,
    /// Parts of a step's images that go through the network one after the other: less memory, the same
    /// step up to rounding.
    pub micro_batches: u64,
    /// AdamW's learning rate.
    pub lr: f64,
    /// Images (or steps) over which the learning rate rises from 0; may be 0.
    pub warmup: Length,
    /// What the learning rate does after that.
    pub lr_schedule: RateSchedule,
    /// AdamW's decay rates of the first and second moment.
    pub betas: [f64; 2],
    /// AdamW's epsilon.
    pub eps: f64,
    /// AdamW's decoupled weight decay, on every tensor.
    pub weight_decay: f64,
    /// Bound of the gradient's global norm.
    pub clip: f64,
    /// Steps in a row without a finite gradient before the run gives up.
    pub max_skipped: u64,
    /// Half-life of the weights' moving average (EMA).
    pub ema_half_life: Length,
    /// The half-life is at most this share of the images seen, so that early weights are forgotten.
    pub ema_ramp: f64,
    /// Seed of everything random. (As text above 2^63, which TOML numbers do not reach.)
    #[serde(serialize_with = "write_seed", deserialize_with = "read_seed")]
    pub seed: u64,
    /// Law and ownership of Z.
    pub latent: LatentKind,
    /// Whether tokens carry their feature's code.
    pub feature_code: FeatureCode,
    /// Share of training samples that see null tokens (all zero) instead of their own; above 0 the
    /// network also learns to go without attributes, which guidance needs.
    #[serde(default)]
    pub token_dropout: f64,
    /// Mirror training pictures at random.
    pub flip: bool,
    /// Loss of the attribute classifier at the bottleneck.
    pub classifier: ClassifierKind,
    /// lambda of total = MSE + lambda * classifier's loss; without meaning where there is none.
    pub classifier_weight: f64,
    /// Constant part of an attribute's weight in the ngmg loss; 0 leaves the neighbours' part alone.
    pub ngmg_floor: f64,
    /// A page of samples every so often.
    pub sample_every: Length,
    /// A checkpoint every so often (and at the end).
    pub save_every: Length,
    /// CPU threads; 0: one per core.
    pub threads: u32,
    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    pub device: String,
    /// Number formats of a GPU: `auto` (its best), `f32`, `tf32` or `bf16`.
    #[serde(default = "auto")]
    pub precision: String,
    /// Convolutions on a CPU as the sums they are, not by Winograd's algorithm.
    #[serde(default)]
    pub exact: bool,
    /// A network that is no preset, in the keys of the network's config.json (a JSON null is left
    /// out: see [`network_table`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<toml::Table>,
}

/// Every key of the file, in its order.
const KEYS: [&str; 35] = [
    "program",
    "data",
    "data_path",
    "attributes",
    "from",
    "preset",
    "schedule",
    "steps",
    "batch",
    "micro_batches",
    "lr",
    "warmup",
    "lr_schedule",
    "betas",
    "eps",
    "weight_decay",
    "clip",
    "max_skipped",
    "ema_half_life",
    "ema_ramp",
    "seed",
    "latent",
    "feature_code",
    "token_dropout",
    "flip",
    "classifier",
    "classifier_weight",
    "ngmg_floor",
    "sample_every",
    "save_every",
    "threads",
    "device",
    "precision",
    "exact",
    "network",
];

/// Keys that may differ when a run is resumed. `program` is not compared: a newer program may go on
/// with an older run, and it is a record, not a wish.
const FREE_KEYS: [&str; 8] = [
    "program",
    "steps",
    "max_skipped",
    "micro_batches",
    "device",
    "threads",
    "sample_every",
    "save_every",
];

fn write_seed<S: Serializer>(seed: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    match i64::try_from(*seed) {
        Ok(small) => serializer.serialize_i64(small),
        Err(_) => serializer.serialize_str(&seed.to_string()),
    }
}

fn read_seed<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a whole number, 0 or above")]
    enum Form {
        Number(u64),
        Text(String),
    }
    match Form::deserialize(deserializer)? {
        Form::Number(seed) => Ok(seed),
        Form::Text(text) => text.parse().map_err(|_| {
            serde::de::Error::custom(format!(
                "found \"{text}\"; expected a whole number below 2^64"
            ))
        }),
    }
}

/// EMA decay of one update: 0.5^(batch / min(half_life, ramp * images_seen)), where `images_seen`
/// counts the images before this update; 0 for the first one (the average is then the weights).
/// `batch`, `half_life` and `images_seen` are in images.
pub fn ema_decay(images_seen: u64, batch: u64, half_life: u64, ramp: f64) -> f64 {
    let half_life = (half_life as f64).min(ramp * images_seen as f64);
    if half_life <= 0.0 {
        return 0.0;
    }
    0.5_f64.powf(batch as f64 / half_life)
}

/// A network's config.json as a TOML table. Members that are null are left out (TOML has no null,
/// and to the network's reader a missing key is the same). Errors: not an object, null in a list.
pub fn network_table(network: &serde_json::Value) -> Result<toml::Table, ConfigError> {
    fn value(json: &serde_json::Value) -> Result<serde_json::Value, ConfigError> {
        use serde_json::Value;
        Ok(match json {
            Value::Array(list) => Value::Array(list.iter().map(value).collect::<Result<_, _>>()?),
            Value::Object(map) => {
                let members = map.iter().filter(|(_, v)| !v.is_null());
                let members = members.map(|(k, v)| Ok::<_, ConfigError>((k.clone(), value(v)?)));
                Value::Object(members.collect::<Result<_, _>>()?)
            }
            Value::Null => {
                return Err(ConfigError::Encode(
                    "the network's configuration has null in a list; expected a number or a name"
                        .into(),
                ));
            }
            other => other.clone(),
        })
    }
    toml::Table::try_from(value(network)?).map_err(|e| ConfigError::Encode(e.to_string()))
}

impl RunConfig {
    /// The defaults for a data set and a preset: the paper's length and batch, the data set's
    /// schedule, this program's version.
    pub fn new(data: DataKind, preset: &str) -> Self {
        Self {
            program: env!("CARGO_PKG_VERSION").to_owned(),
            data,
            data_path: None,
            attributes: None,
            from: None,
            preset: preset.to_owned(),
            schedule: data.schedule(),
            steps: Length::Steps(400_000),
            batch: 16,
            micro_batches: 1,
            lr: 1e-4,
            warmup: Length::Steps(0),
            lr_schedule: RateSchedule::Constant,
            betas: [0.9, 0.999],
            eps: 1e-8,
            weight_decay: 0.01,
            clip: 1.0,
            max_skipped: 100,
            ema_half_life: Length::Images(110_000),
            ema_ramp: 0.05,
            seed: 0,
            latent: LatentKind::Fixed,
            feature_code: FeatureCode::On,
            token_dropout: 0.0,
            flip: true,
            classifier: ClassifierKind::None,
            classifier_weight: 0.1,
            ngmg_floor: 1.0,
            sample_every: Length::Steps(1000),
            save_every: Length::Steps(1000),
            threads: 0,
            device: auto(),
            precision: auto(),
            exact: false,
            network: None,
        }
    }

    /// Takes over what weights trained as `other` says are good for: the network, what it is told, and the
    /// noise that it takes away.
    pub fn suit(&mut self, other: &Self) {
        self.preset = other.preset.clone();
        self.network = other.network.clone();
        self.schedule = other.schedule;
        self.latent = other.latent;
        self.feature_code = other.feature_code;
        self.token_dropout = other.token_dropout;
        self.classifier = other.classifier;
        self.classifier_weight = other.classifier_weight;
        self.ngmg_floor = other.ngmg_floor;
    }

    /// [`ema_decay`] of this run.
    pub fn ema_decay(&self, images_seen: u64) -> f64 {
        let half_life = self.ema_half_life.images(self.batch);
        ema_decay(images_seen, self.batch, half_life, self.ema_ramp)
    }

    /// Learning rate of the step after `images_seen` images.
    pub fn lr_at(&self, images_seen: u64) -> f64 {
        let total = self.steps.images(self.batch);
        let warmup = self.warmup.images(self.batch);
        let schedule = self.lr_schedule;
        self.lr * schedule.share(images_seen, self.batch, warmup, total)
    }

    /// Learning rate and decay of the average of the step after `images_seen` images.
    pub fn rates(&self, images_seen: u64) -> [f64; 2] {
        [self.lr_at(images_seen), self.ema_decay(images_seen)]
    }

    /// The run's length in optimizer steps.
    pub fn total_steps(&self) -> u64 {
        self.steps.steps(self.batch)
    }

    /// Checks every value that has a range. The error names the key, the value and the range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.validate_numbers()?;
        if !is_device(&self.device) {
            let found = format!("`{}`", self.device);
            return fail("device", &found, "auto, cpu, cuda or cuda:N");
        }
        if !PRECISIONS.contains(&self.precision.as_str()) {
            let found = format!("`{}`", self.precision);
            return fail("precision", &found, &PRECISIONS.join(", "));
        }
        if self.preset.is_empty() {
            return fail("preset", &"empty", "a preset's name");
        }
        match Schedule::new(self.schedule) {
            Ok(_) => Ok(()),
            Err(e) => fail("schedule", &self.schedule, &e.to_string()),
        }
    }

    fn validate_numbers(&self) -> Result<(), ConfigError> {
        for (key, x) in [
            ("lr", self.lr),
            ("eps", self.eps),
            ("clip", self.clip),
            ("ema_ramp", self.ema_ramp),
            ("classifier_weight", self.classifier_weight),
        ] {
            if !(x.is_finite() && x > 0.0) {
                return fail(key, &x, "a finite number above 0");
            }
        }
        if let Some(beta) = self.betas.iter().find(|b| !(0.0..1.0).contains(*b)) {
            return fail("betas", beta, "two numbers from 0 to below 1");
        }
        for (key, x) in [
            ("weight_decay", self.weight_decay),
            ("ngmg_floor", self.ngmg_floor),
        ] {
            if !(x.is_finite() && x >= 0.0) {
                return fail(key, &x, "a finite number, 0 or above");
            }
        }
        if !(0.0..1.0).contains(&self.token_dropout) {
            return fail("token_dropout", &self.token_dropout, "0 to below 1");
        }
        if !(1..=1 << 20).contains(&self.batch) {
            return fail("batch", &self.batch, "1 to 1048576 images");
        }
        if !(1..=self.batch).contains(&self.micro_batches) {
            return fail(
                "micro_batches",
                &self.micro_batches,
                "1 to the images of a step",
            );
        }
        if self.max_skipped == 0 {
            return fail("max_skipped", &0, "at least 1 step");
        }
        for (key, length) in [
            ("steps", self.steps),
            ("ema_half_life", self.ema_half_life),
            ("sample_every", self.sample_every),
            ("save_every", self.save_every),
        ] {
            if length.is_zero() {
                return fail(key, &length, "at least 1 step or image");
            }
        }
        Ok(())
    }

    /// Reads a configuration file; keys that are not in it get their defaults, `data` must be.
    ///
    /// Errors name the file, the line, the key, what was found and what was expected; an unknown
    /// key is refused with the nearest known one.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_path_buf(),
            source,
        })?;
        Self::parse(&text, path)
    }

    /// [`RunConfig::load`] on text; `origin` is the file to name in errors.
    pub fn parse(text: &str, origin: &Path) -> Result<Self, ConfigError> {
        let line = |at: usize| 1 + text.bytes().take(at).filter(|&b| b == b'\n').count();
        let syntax = |e: toml::de::Error| ConfigError::Syntax {
            path: origin.to_path_buf(),
            line: line(e.span().map_or(0, |s| s.start)),
            message: e.message().to_owned(),
        };
        let spanned = DeTable::parse(text).map_err(syntax)?;
        let mut lines = Vec::new();
        for key in spanned.get_ref().keys() {
            lines.push((key.get_ref().to_string(), line(key.span().start)));
        }
        if let Some((key, line)) = lines.iter().find(|(key, _)| !KEYS.contains(&key.as_str())) {
            return Err(ConfigError::UnknownKey {
                path: origin.to_path_buf(),
                line: *line,
                key: key.clone(),
                hint: hint(key),
            });
        }
        let found: toml::Table = text.parse().map_err(syntax)?;
        let bad = |key: &str, message: String| ConfigError::Value {
            path: origin.to_path_buf(),
            line: lines.iter().find(|(k, _)| k == key).map_or(1, |l| l.1),
            key: key.to_owned(),
            message,
        };
        let data = found.get("data").ok_or_else(|| ConfigError::Missing {
            path: origin.to_path_buf(),
            key: "data",
            expected: "data = \"celeba\", \"cifar10\", \"faces\" or \"folder\"",
        })?;
        let data: DataKind = data
            .clone()
            .try_into()
            .map_err(|e: toml::de::Error| bad("data", e.message().to_owned()))?;
        let mut config = Self::new(data, "tiny");
        // One key at a time, so that an error is known to be this key's.
        for (key, value) in found {
            let mut table = config.table()?;
            table.insert(key.clone(), value);
            config = table
                .try_into()
                .map_err(|e: toml::de::Error| bad(&key, error::plain(e.message())))?;
        }
        match config.validate() {
            Err(ConfigError::Invalid {
                key,
                found,
                expected,
            }) => Err(bad(key, format!("found {found}; expected {expected}"))),
            other => other.map(|()| config),
        }
    }

    /// Every key and its value.
    pub fn table(&self) -> Result<toml::Table, ConfigError> {
        toml::Table::try_from(self).map_err(|e| ConfigError::Encode(e.to_string()))
    }

    /// The file's text: every key, defaults written out.
    pub fn to_toml(&self) -> Result<String, ConfigError> {
        self.validate()?;
        let text = toml::to_string(self).map_err(|e| ConfigError::Encode(e.to_string()))?;
        Ok(format!(
            "# Everything needed to start this run again.\n{text}"
        ))
    }

    /// Writes the file atomically.
    pub fn save(&self, path: &Path) -> Result<(), ConfigError> {
        Ok(replace_with_bytes(path, self.to_toml()?.as_bytes())?)
    }
}

fn fail(key: &'static str, found: &dyn fmt::Display, expected: &str) -> Result<(), ConfigError> {
    Err(ConfigError::Invalid {
        key,
        found: found.to_string(),
        expected: expected.to_owned(),
    })
}

/// What `precision` may be.
const PRECISIONS: [&str; 4] = ["auto", "f32", "tf32", "bf16"];

fn auto() -> String {
    "auto".to_owned()
}

/// Whether a device has this name, on any machine.
fn is_device(name: &str) -> bool {
    let number = name.strip_prefix("cuda:").map(str::parse::<u32>);
    matches!(name, "auto" | "cpu" | "cuda") || matches!(number, Some(Ok(_)))
}

fn hint(key: &str) -> String {
    let lower = key.to_lowercase().replace('-', "_");
    let near = KEYS
        .iter()
        .map(|k| (strsim::damerau_levenshtein(&lower, k), k))
        .min()
        .filter(|(distance, k)| *distance <= 2.max(k.len() / 3));
    match near {
        Some((_, near)) => format!("did you mean `{near}`?"),
        None => format!("expected one of {}", KEYS.join(", ")),
    }
}

/// Every key whose values differ, with both.
pub fn differences(saved: &RunConfig, wanted: &RunConfig) -> Result<Vec<Difference>, ConfigError> {
    let (saved, wanted) = (saved.table()?, wanted.table()?);
    let show = |value: Option<&toml::Value>| value.map_or("(none)".to_owned(), |v| v.to_string());
    let differing = KEYS
        .iter()
        .filter(|key| saved.get(**key) != wanted.get(**key));
    let difference = |key: &&str| Difference {
        key: (*key).to_owned(),
        saved: show(saved.get(*key)),
        wanted: show(wanted.get(*key)),
    };
    Ok(differing.map(difference).collect())
}

/// Whether the run `saved` may be resumed as `wanted`: only its length (where the rate does not fall
/// towards it), patience, micro-batches, device, threads and how often it samples and saves may differ. The error lists every other key with both values.
pub fn resume_difference(saved: &RunConfig, wanted: &RunConfig) -> Result<(), ConfigError> {
    let mut differences = differences(saved, wanted)?;
    // A falling rate is a function of the whole length.
    let bound = saved.lr_schedule == RateSchedule::Cosine;
    differences.retain(|d| !FREE_KEYS.contains(&d.key.as_str()) || (bound && d.key == "steps"));
    if differences.is_empty() {
        return Ok(());
    }
    Err(ConfigError::ResumeDiffers(differences))
}

#[cfg(test)]
mod tests;
