//! Writing tensors as a safetensors file that PyTorch's programs read.

use super::InterchangeError;
use crate::report::files::{io_error, replace_file};
use crate::train::checkpoint::TensorSpec;
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// Writes `tensors` as F32 to `path`, atomically; `read` gives the values of one by its number, so that
/// one at a time is in memory.
pub(super) fn write_tensors<'a>(
    path: &Path,
    tensors: &[TensorSpec],
    mut read: impl FnMut(usize) -> Result<Cow<'a, [f32]>, InterchangeError>,
) -> Result<(), InterchangeError> {
    let header = header(tensors);
    let values: usize = tensors.iter().map(TensorSpec::len).sum();
    let needed = (header.len() + 4 * values) as u64;
    replace_file(path, needed, |file: &mut File| {
        let fail = io_error(path, needed, "write the tensors");
        let mut out = BufWriter::with_capacity(1 << 20, file);
        out.write_all(&header).map_err(fail)?;
        let mut bytes = Vec::new();
        for index in 0..tensors.len() {
            for some in read(index)?.chunks(1 << 16) {
                bytes.clear();
                bytes.extend(some.iter().flat_map(|v| v.to_le_bytes()));
                out.write_all(&bytes).map_err(fail)?;
            }
        }
        Ok(out.flush().map_err(fail)?)
    })
}

/// Length and JSON of the header, padded so that the tensors start at a multiple of 8.
fn header(tensors: &[TensorSpec]) -> Vec<u8> {
    let mut members = Map::new();
    // Without this diffusers does not read the file.
    members.insert("__metadata__".into(), json!({"format": "pt"}));
    let mut offset = 0;
    for tensor in tensors {
        let end = offset + 4 * tensor.len();
        let entry = json!({"dtype": "F32", "shape": tensor.shape, "data_offsets": [offset, end]});
        members.insert(tensor.name.clone(), entry);
        offset = end;
    }
    let mut text = Value::Object(members).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text);
    bytes
}
