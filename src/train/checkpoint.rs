//! Checkpoints: one safetensors file per save, and the folder that keeps them.
//!
//! ```text
//! checkpoints/step-00001000.safetensors    NAME, ema.NAME, adam_m.NAME, adam_v.NAME: F32, with
//!                                          diffusers' names and shapes (OIHW)
//! checkpoints/latest                       the newest one's file name
//! ```
//!
//! The file's metadata: `format` ("gmmk"), `format_version`, `parts`, `counters` (JSON), `config`
//! (the run's config.toml), `network` (JSON), `attribute_names` (JSON), `attribute_rows` (hex bits),
//! `blake3` of all tensor bytes in file order, and `header_blake3` of the header itself with zeros
//! in that hash's place; so no byte of the file can change unseen.
//!
//! Every file is written under a temporary name, synced and renamed: a crash leaves the old state or
//! the new one.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::config::RunConfig;
use crate::report::files::{io_error, remove_leftovers, replace_with_bytes};

pub use error::CheckpointError;
pub use read::{Checkpoint, differences};
pub use write::write_file;

mod error;
mod read;
mod rows;
#[cfg(test)]
mod tests;
mod write;

/// Version of the file format; a reader refuses others.
pub const FORMAT_VERSION: u32 = 1;
/// Most attribute rows that a checkpoint keeps.
pub const MAX_ROWS: usize = 1000;
/// Newest checkpoints that [`prune`] keeps besides milestones.
pub const KEEP_NEWEST: usize = 3;
/// Every so many saves one is kept for ever.
pub const MILESTONE: u64 = 10;

/// Name and shape of one tensor, as diffusers has them (convolutions OIHW).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Such as `down_blocks.0.resnets.0.conv1.weight`.
    pub name: String,
    /// Such as `[128, 128, 3, 3]`; empty for a scalar.
    pub shape: Vec<usize>,
}

impl TensorSpec {
    /// Number of values.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it holds no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The four copies of every tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// The weights themselves.
    Weight,
    /// Their moving average.
    Ema,
    /// AdamW's first moment.
    AdamM,
    /// AdamW's second moment.
    AdamV,
}

impl Part {
    /// All, in file order.
    pub const ALL: [Self; 4] = [Self::Weight, Self::Ema, Self::AdamM, Self::AdamV];

    /// What is put before a tensor's name: nothing, `ema.`, `adam_m.` or `adam_v.`.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Weight => "",
            Self::Ema => "ema.",
            Self::AdamM => "adam_m.",
            Self::AdamV => "adam_v.",
        }
    }
}

/// Where the values of a checkpoint come from: asked for one tensor at a time, so that a large
/// model never has a second copy of everything in memory.
pub trait TensorSource {
    /// Names and shapes, in the order of the file.
    fn tensors(&self) -> &[TensorSpec];

    /// Which copies there are, `Weight` among them. (An imported model has no optimizer state.)
    fn parts(&self) -> &[Part] {
        &Part::ALL
    }

    /// Writes tensor number `index` of `part` to `out`, in the order of its shape.
    fn read(
        &mut self,
        part: Part,
        index: usize,
        out: &mut [f32],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>>;
}

/// How far a run has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Steps taken, skipped ones included.
    pub step: u64,
    /// Images seen.
    pub images_seen: u64,
    /// Updates by AdamW; a skipped step is none.
    pub adam_step: u64,
    /// Steps skipped because the gradient was not finite.
    pub skipped: u64,
}

/// What a checkpoint says besides its tensors.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckpointInfo {
    /// The run's configuration.
    pub config: RunConfig,
    /// How far it has come.
    pub counters: Counters,
    /// Names of the K attributes.
    pub attribute_names: Vec<String>,
    /// Up to [`MAX_ROWS`] training rows of K values 0 or 1, for `gmmk sample --attributes`.
    pub attribute_rows: Vec<Vec<u8>>,
    /// The network's configuration, diffusers' config.json.
    pub network: serde_json::Value,
}

/// File name of the checkpoint of `step`: `step-00001000.safetensors`.
pub fn file_name(step: u64) -> String {
    format!("step-{step:08}.safetensors")
}

fn step_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("step-")?.strip_suffix(".safetensors")?;
    let step = digits.parse().ok()?;
    (file_name(step) == name).then_some(step)
}

/// Saves a checkpoint of step `info.counters.step` into `dir` and points `latest` at it; the path.
pub fn save(
    dir: &Path,
    source: &mut dyn TensorSource,
    info: &CheckpointInfo,
) -> Result<PathBuf, CheckpointError> {
    let name = file_name(info.counters.step);
    let path = dir.join(&name);
    write_file(&path, source, info)?;
    replace_with_bytes(&dir.join("latest"), format!("{name}\n").as_bytes())?;
    Ok(path)
}

/// The checkpoints of a folder by step, oldest first. A missing folder has none.
pub fn list(dir: &Path) -> Result<Vec<(u64, PathBuf)>, CheckpointError> {
    if !dir.exists() {
        return Ok(Vec::new());
    }
    let fail = io_error(dir, 0, "list the checkpoints");
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        if let Some(step) = step_of(&entry.file_name().to_string_lossy()) {
            found.push((step, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

/// A checkpoint that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The file.
    pub path: PathBuf,
    /// What a person should know about the choice, if anything.
    pub note: Option<String>,
}

/// The checkpoint meant by `path`: a file, a run's folder or its `checkpoints`.
///
/// In a folder `latest` decides. Where it is missing, or names a file that is not there, the newest
/// valid checkpoint is taken, and the note says so. Errors: nothing there, or nothing valid.
pub fn resolve(path: &Path) -> Result<Resolved, CheckpointError> {
    if path.is_file() {
        return Ok(Resolved {
            path: path.to_path_buf(),
            note: None,
        });
    }
    let inner = path.join("checkpoints");
    let dir = if inner.is_dir() {
        inner.as_path()
    } else {
        path
    };
    let pointer = fs::read_to_string(dir.join("latest")).ok();
    let named = pointer.as_deref().map(str::trim);
    if let Some(name) = named
        && step_of(name).is_some()
        && dir.join(name).is_file()
    {
        return Ok(Resolved {
            path: dir.join(name),
            note: None,
        });
    }
    let mut refused = Vec::new();
    for (_, file) in list(dir)?.into_iter().rev() {
        match Checkpoint::open(&file) {
            Ok(_) => {
                let why = match named {
                    None => "is missing".to_owned(),
                    Some(name) => format!("names `{name}`, which is not there"),
                };
                let latest = dir.join("latest");
                let mut note = format!(
                    "{} {why}: taking the newest valid checkpoint, {}",
                    latest.display(),
                    file.display()
                );
                for error in &refused {
                    note.push_str(&format!("; refused: {error}"));
                }
                return Ok(Resolved {
                    path: file,
                    note: Some(note),
                });
            }
            Err(error) => refused.push(error.to_string()),
        }
    }
    Err(CheckpointError::NoneFound {
        path: path.to_path_buf(),
        refused,
    })
}

/// Removes old checkpoints of `dir`, keeping the newest [`KEEP_NEWEST`], the one that `latest` names
/// and milestones: steps that are multiples of [`MILESTONE`] x `save_every` (in steps; 0 keeps no
/// milestones). The paths removed.
pub fn prune(dir: &Path, save_every: u64) -> Result<Vec<PathBuf>, CheckpointError> {
    let found = list(dir)?;
    let latest = fs::read_to_string(dir.join("latest")).unwrap_or_default();
    let period = save_every.saturating_mul(MILESTONE);
    let old = found.len().saturating_sub(KEEP_NEWEST);
    let mut removed = Vec::new();
    for (step, path) in found.into_iter().take(old) {
        let milestone = period > 0 && step > 0 && step.is_multiple_of(period);
        if milestone || file_name(step) == latest.trim() {
            continue;
        }
        fs::remove_file(&path).map_err(io_error(&path, 0, "remove the old checkpoint"))?;
        removed.push(path);
    }
    Ok(removed)
}

/// Removes what a crash left half-written in `dir`; for a resuming run that owns the folder.
pub fn clean(dir: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    Ok(remove_leftovers(dir)?)
}
