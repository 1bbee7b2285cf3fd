//! Writing a checkpoint: one pass over the tensors, the hashes put into the header afterwards.

use std::collections::HashSet;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

use serde_json::{Map, Value, json};

use super::{CheckpointError, CheckpointInfo, FORMAT_VERSION, MAX_ROWS, Part, TensorSource, rows};
use crate::report::files::{io_error, replace_file};

/// As long as a BLAKE3 hash in hex; stands in for it until it is known.
pub(super) const NO_HASH: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Writes a checkpoint to `path`, atomically. Besides the header it holds one tensor in memory.
///
/// Errors: names that collide or bear a part's prefix, attribute rows that do not fit their names,
/// a source that fails, a full disk (with the bytes needed; the temporary file is removed).
pub fn write_file(
    path: &Path,
    source: &mut dyn TensorSource,
    info: &CheckpointInfo,
) -> Result<(), CheckpointError> {
    check_tensors(path, source)?;
    let metadata = metadata(path, source.parts(), info)?;
    let needed = header(path, source, &metadata, NO_HASH, NO_HASH)?.len() + data_len(source);
    replace_file(path, needed as u64, |file| {
        write_to(file, path, source, &metadata)
    })
}

fn data_len(source: &dyn TensorSource) -> usize {
    let values: usize = source.tensors().iter().map(super::TensorSpec::len).sum();
    4 * values * source.parts().len()
}

/// The file's bytes into `file`, which is empty and stands at its start.
pub(super) fn write_to(
    file: &mut (impl Write + Seek),
    path: &Path,
    source: &mut dyn TensorSource,
    metadata: &Map<String, Value>,
) -> Result<(), CheckpointError> {
    let empty = header(path, source, metadata, NO_HASH, NO_HASH)?;
    let needed = (empty.len() + data_len(source)) as u64;
    let fail = io_error(path, needed, "write the checkpoint");
    let mut out = BufWriter::with_capacity(1 << 20, file);
    out.write_all(&empty).map_err(fail)?;
    let mut hash = blake3::Hasher::new();
    let mut values = Vec::new();
    for part in source.parts().to_vec() {
        for index in 0..source.tensors().len() {
            values.clear();
            values.resize(source.tensors()[index].len(), 0.0_f32);
            if let Err(error) = source.read(part, index, &mut values) {
                return Err(CheckpointError::Source {
                    path: path.to_path_buf(),
                    name: format!("{}{}", part.prefix(), source.tensors()[index].name),
                    source: error,
                });
            }
            to_little_endian(&mut values);
            let bytes: &[u8] = bytemuck::cast_slice(&values);
            hash.update(bytes);
            out.write_all(bytes).map_err(fail)?;
        }
    }
    let data_hash = hash.finalize().to_hex();
    let unsigned = header(path, source, metadata, &data_hash, NO_HASH)?;
    let own_hash = blake3::hash(&unsigned).to_hex();
    let signed = header(path, source, metadata, &data_hash, &own_hash)?;
    out.flush().map_err(fail)?;
    out.seek(SeekFrom::Start(0)).map_err(fail)?;
    out.write_all(&signed).map_err(fail)?;
    Ok(out.flush().map_err(fail)?)
}

/// safetensors is little-endian; swaps the bytes on machines that are not.
fn to_little_endian(values: &mut [f32]) {
    if cfg!(target_endian = "big") {
        for value in values {
            *value = f32::from_bits(value.to_bits().to_le());
        }
    }
}

fn check_tensors(path: &Path, source: &dyn TensorSource) -> Result<(), CheckpointError> {
    let unsavable = |what: &str, found: &str, expected: &str| {
        Err(CheckpointError::Unsavable {
            path: path.to_path_buf(),
            what: what.to_owned(),
            found: found.to_owned(),
            expected: expected.to_owned(),
        })
    };
    let parts = source.parts();
    let unique = (1..parts.len()).all(|i| !parts[..i].contains(&parts[i]));
    if !parts.contains(&Part::Weight) || !unique {
        let found = format!("{parts:?}");
        return unsavable("the list of parts", &found, "Weight and others, each once");
    }
    let mut seen = HashSet::new();
    for tensor in source.tensors() {
        let name = tensor.name.as_str();
        let prefixed = Part::ALL[1..].iter().any(|p| name.starts_with(p.prefix()));
        if prefixed || name.is_empty() || name == "__metadata__" || !seen.insert(name) {
            let expected = "a name of its own, without the prefixes ema., adam_m. and adam_v.";
            return unsavable("a tensor's name", &format!("`{name}`"), expected);
        }
    }
    Ok(())
}

fn metadata(
    path: &Path,
    parts: &[Part],
    info: &CheckpointInfo,
) -> Result<Map<String, Value>, CheckpointError> {
    let unsavable = |[what, found, expected]: [String; 3]| CheckpointError::Unsavable {
        path: path.to_path_buf(),
        what,
        found,
        expected,
    };
    let rows = rows::encode(&info.attribute_rows, info.attribute_names.len(), MAX_ROWS);
    let config = info.config.to_toml().map_err(|e| {
        let expected = "a valid configuration".to_owned();
        unsavable(["the configuration".into(), e.to_string(), expected])
    })?;
    let mut metadata = Map::new();
    let mut put = |key: &str, value: String| metadata.insert(key.to_owned(), Value::String(value));
    // The hashes come first: the reader finds their places in the text.
    put("blake3", NO_HASH.to_owned());
    put("header_blake3", NO_HASH.to_owned());
    put("format", "gmmk".to_owned());
    put("format_version", FORMAT_VERSION.to_string());
    put("parts", json!(parts).to_string());
    put("counters", json!(info.counters).to_string());
    put("config", config);
    put("network", info.network.to_string());
    put("attribute_names", json!(info.attribute_names).to_string());
    put("attribute_rows", rows.map_err(unsavable)?);
    Ok(metadata)
}

/// Length and JSON of the header, padded so that the tensors start at a multiple of 8.
fn header(
    path: &Path,
    source: &dyn TensorSource,
    metadata: &Map<String, Value>,
    data_hash: &str,
    own_hash: &str,
) -> Result<Vec<u8>, CheckpointError> {
    let mut metadata = metadata.clone();
    for (key, hash) in [("blake3", data_hash), ("header_blake3", own_hash)] {
        if let Some(value) = metadata.get_mut(key) {
            *value = hash.into();
        }
    }
    let mut members = Map::new();
    members.insert("__metadata__".into(), Value::Object(metadata));
    let mut offset = 0;
    for part in source.parts() {
        for tensor in source.tensors() {
            let end = offset + 4 * tensor.len();
            let entry =
                json!({"dtype": "F32", "shape": tensor.shape, "data_offsets": [offset, end]});
            members.insert(format!("{}{}", part.prefix(), tensor.name), entry);
            offset = end;
        }
    }
    let mut text = Value::Object(members).to_string();
    text.extend(std::iter::repeat_n(
        ' ',
        text.len().next_multiple_of(8) - text.len(),
    ));
    if text.len() > 100_000_000 {
        return Err(CheckpointError::Unsavable {
            path: path.to_path_buf(),
            what: "the header".into(),
            found: format!("{} bytes", text.len()),
            expected: "at most 100 MB, safetensors' limit".into(),
        });
    }
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text.into_bytes());
    Ok(bytes)
}
