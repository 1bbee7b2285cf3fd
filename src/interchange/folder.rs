//! Files and folders of an export: read with a bound, claimed before they are written to.

use super::InterchangeError;
use super::error::wrong;
use crate::report::files::{io_error, is_temporary_of, remove_leftovers};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The mixture, and the mark of a model's folder.
pub(super) const MIXTURE: &str = "mixture.json";
/// The run's configuration.
pub(super) const CONFIG: &str = "config.toml";
/// The network's configuration, in a U-Net's folder.
pub(super) const NETWORK: &str = "config.json";
/// The schedule.
pub(super) const SCHEDULER: &str = "scheduler/scheduler_config.json";
/// The attribute classifier.
pub(super) const CLASSIFIER: &str = "classifier.safetensors";
/// How diffusers begins the names of files of weights.
pub(super) const WEIGHTS: &str = "diffusion_pytorch_model";

/// A text file of at most this many bytes is read: more is no configuration.
const MOST_BYTES: u64 = 64 << 20;

/// The text of a file that should be `expected`.
pub(super) fn read_text(path: &Path, expected: &str) -> Result<String, InterchangeError> {
    let unreadable = |source| InterchangeError::Read {
        path: path.to_path_buf(),
        source,
        expected: expected.to_owned(),
    };
    let mut text = String::new();
    let file = fs::File::open(path).map_err(unreadable)?;
    file.take(MOST_BYTES + 1)
        .read_to_string(&mut text)
        .map_err(unreadable)?;
    if text.len() as u64 > MOST_BYTES {
        let found = format!("more than {MOST_BYTES} bytes");
        return Err(wrong(path, "the file", expected, found));
    }
    Ok(text)
}

/// A JSON file that should be `expected`.
pub(super) fn read_json<T: DeserializeOwned>(
    path: &Path,
    expected: &str,
) -> Result<T, InterchangeError> {
    let text = read_text(path, expected)?;
    serde_json::from_str(&text).map_err(|e| wrong(path, "JSON", expected, e.to_string()))
}

/// JSON as it is written to a file.
pub(super) fn pretty(value: &impl serde::Serialize) -> String {
    format!("{:#}\n", serde_json::json!(value))
}

/// Makes `folder`, or takes one that is empty or whose file `mark` has this `format`; with `force` any.
/// `option` is the one that writes such a folder. The mark's contents, where there is one of ours.
pub(super) fn claim(
    folder: &Path,
    mark: &str,
    format: &str,
    option: &'static str,
    force: bool,
) -> Result<Option<Value>, InterchangeError> {
    fs::create_dir_all(folder).map_err(io_error(folder, 0, "create the folder"))?;
    let text = fs::read_to_string(folder.join(mark)).unwrap_or_default();
    let ours = serde_json::from_str(&text).ok();
    let ours = ours.filter(|value: &Value| value["format"] == format);
    if ours.is_none()
        && !force
        && let Some(found) = occupant(folder, mark)?
    {
        return Err(InterchangeError::Occupied {
            path: folder.to_path_buf(),
            option,
            found: format!("`{found}`"),
        });
    }
    if ours.is_some() || !force {
        remove_leftovers(folder)?;
    }
    Ok(ours)
}

/// Something in `folder` that is not what an export leaves that died before it wrote its `mark`: empty
/// folders, and the mark's temporary file.
fn occupant(folder: &Path, mark: &str) -> Result<Option<String>, InterchangeError> {
    let fail = io_error(folder, 0, "list the folder");
    for entry in fs::read_dir(folder).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_empty = fs::read_dir(entry.path()).is_ok_and(|mut inner| inner.next().is_none());
        if !is_empty && !is_temporary_of(&name, mark) {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// Removes a file, if it is there.
pub(super) fn remove(path: &Path) -> Result<(), InterchangeError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(io_error(path, 0, "remove the old file")(e).into())
        }
        _ => Ok(()),
    }
}

/// Files of `folder` whose names begin with [`WEIGHTS`], sorted; a missing folder has none.
pub(super) fn weight_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let named = |path: &PathBuf| {
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned());
        name.is_some_and(|n| n.starts_with(WEIGHTS)) && path.is_file()
    };
    let mut found: Vec<PathBuf> = entries.map(|e| e.path()).filter(named).collect();
    found.sort();
    found
}
