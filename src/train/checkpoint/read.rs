//! Reading a checkpoint: mapped into memory and checked whole before anything is handed out.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::tensor::{Metadata, SafeTensorError};
use safetensors::{Dtype, SafeTensors};
use serde::de::DeserializeOwned;

use super::write::NO_HASH;
use super::{
    CheckpointError, CheckpointInfo, Counters, FORMAT_VERSION, Part, RunConfig, TensorSpec, rows,
};

/// An open checkpoint: sound, and mapped, so that its tensors cost memory only while they are read.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    map: Mmap,
    data_start: usize,
    tensors: Metadata,
    specs: Vec<TensorSpec>,
    parts: Vec<Part>,
    info: CheckpointInfo,
}

/// Builds the errors of one file.
#[derive(Clone, Copy)]
struct Refuse<'a>(&'a Path);

impl Refuse<'_> {
    fn damaged(
        self,
        place: impl Into<String>,
        found: impl Into<String>,
        expected: impl Into<String>,
    ) -> CheckpointError {
        CheckpointError::Damaged {
            path: self.0.to_path_buf(),
            place: place.into(),
            found: found.into(),
            expected: expected.into(),
        }
    }

    fn foreign(self, found: impl Into<String>, expected: &str) -> CheckpointError {
        CheckpointError::Foreign {
            path: self.0.to_path_buf(),
            found: found.into(),
            expected: expected.to_owned(),
        }
    }
}

impl Checkpoint {
    /// Opens and verifies a file: header, format, names, shapes and both checksums.
    ///
    /// Errors say which file and where, what was found, what was expected and what to do.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let unreadable = |source| CheckpointError::Read {
            path: path.to_path_buf(),
            source,
        };
        let file = File::open(path).map_err(unreadable)?;
        let refuse = Refuse(path);
        if file.metadata().map_err(unreadable)?.len() == 0 {
            return Err(refuse.damaged("byte 0", "an empty file", "a header of at least 8 bytes"));
        }
        // SAFETY: the map is read-only, and nothing changes a checkpoint in place: writers replace
        // it by renaming, which leaves the mapped file as it is.
        let map = unsafe { Mmap::map(&file) }.map_err(unreadable)?;
        let (header_len, tensors) =
            SafeTensors::read_metadata(&map).map_err(|e| header_error(refuse, &map, e))?;
        let data_start = 8 + header_len;
        let entries = tensors.metadata().clone().unwrap_or_default();
        check_format(refuse, &entries)?;
        check_hashes(refuse, &map, data_start, &entries)?;
        let parts: Vec<Part> = entry(refuse, &entries, "parts")?;
        let info = read_info(refuse, &entries)?;
        let specs = check_tensors(refuse, &tensors, &parts)?;
        Ok(Self {
            path: path.to_path_buf(),
            map,
            data_start,
            tensors,
            specs,
            parts,
            info,
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Configuration, counters, attributes and network.
    pub fn info(&self) -> &CheckpointInfo {
        &self.info
    }

    /// The weights' names and shapes in file order; every part has the same.
    pub fn specs(&self) -> &[TensorSpec] {
        &self.specs
    }

    /// Which copies it holds.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The copy to read for `part`: the weights themselves for an average that the file does not hold.
    pub fn held(&self, part: Part) -> Part {
        if part == Part::Ema && !self.parts.contains(&part) {
            return Part::Weight;
        }
        part
    }

    /// Checks that the tensors are those of a network: `expected` in any order, no fewer, no more.
    pub fn check_network(&self, expected: &[TensorSpec]) -> Result<(), CheckpointError> {
        let Some(differences) = differences(expected, &self.specs) else {
            return Ok(());
        };
        Err(CheckpointError::OtherNetwork {
            path: self.path.clone(),
            differences,
            expected: expected.len(),
            found: self.specs.len(),
        })
    }

    /// The values of a tensor, in the order of its shape; borrowed from the map.
    pub fn tensor(&self, part: Part, name: &str) -> Result<Cow<'_, [f32]>, CheckpointError> {
        let full = format!("{}{name}", part.prefix());
        let Some(info) = self.tensors.info(&full) else {
            return Err(CheckpointError::NoTensor {
                path: self.path.clone(),
                name: full,
                known: self.specs.len(),
            });
        };
        let (start, end) = info.data_offsets;
        let bytes = &self.map[self.data_start + start..self.data_start + end];
        if cfg!(target_endian = "little")
            && let Ok(values) = bytemuck::try_cast_slice(bytes)
        {
            return Ok(Cow::Borrowed(values));
        }
        let values = bytes.chunks_exact(4);
        let values = values.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        Ok(Cow::Owned(values.collect()))
    }
}

/// How `found` differs from the tensors `expected` of a network, in any order: the first three
/// differences and the number of others; `None` for no difference.
pub fn differences(expected: &[TensorSpec], found: &[TensorSpec]) -> Option<String> {
    let shapes = found.iter().map(|s| (s.name.as_str(), s.shape.as_slice()));
    let shapes: HashMap<&str, &[usize]> = shapes.collect();
    let mut differences = Vec::new();
    for spec in expected {
        match shapes.get(spec.name.as_str()) {
            None => differences.push(format!("`{}` {:?} is missing", spec.name, spec.shape)),
            Some(shape) if **shape != *spec.shape => differences.push(format!(
                "`{}` is {shape:?}, expected {:?}",
                spec.name, spec.shape
            )),
            Some(_) => {}
        }
    }
    let names: HashSet<_> = expected.iter().map(|s| &s.name).collect();
    for spec in found.iter().filter(|s| !names.contains(&s.name)) {
        differences.push(format!("`{}` {:?} is not expected", spec.name, spec.shape));
    }
    let more = differences.len().saturating_sub(3);
    differences.truncate(3);
    let mut text = differences.join(", ");
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    (!text.is_empty()).then_some(text)
}

fn header_error(refuse: Refuse, map: &[u8], error: SafeTensorError) -> CheckpointError {
    let size = format!("{} bytes", map.len());
    match error {
        SafeTensorError::HeaderTooSmall => {
            refuse.damaged("byte 0", size, "a header length of 8 bytes")
        }
        SafeTensorError::InvalidHeaderLength => refuse.damaged(
            "the header",
            format!("the file ends after {size}"),
            format!("a header of {} bytes", header_len(map)),
        ),
        SafeTensorError::MetadataIncompleteBuffer => refuse.damaged(
            "the end of the file",
            size,
            match expected_len(map) {
                Some(len) => format!("{len} bytes, as its header says"),
                None => "the length its header says".to_owned(),
            },
        ),
        SafeTensorError::HeaderTooLarge => refuse.foreign(
            format!(
                "it does not start as a safetensors file (header of {} bytes)",
                header_len(map)
            ),
            "a checkpoints/step-N.safetensors of a run",
        ),
        other => refuse.damaged("the header", other.to_string(), "a safetensors header"),
    }
}

fn header_len(map: &[u8]) -> u64 {
    let bytes = map.get(..8).and_then(|b| b.try_into().ok());
    bytes.map_or(0, u64::from_le_bytes)
}

fn expected_len(map: &[u8]) -> Option<u64> {
    let header = map.get(8..8 + usize::try_from(header_len(map)).ok()?)?;
    let header: serde_json::Value = serde_json::from_slice(header).ok()?;
    let ends = header.as_object()?.values();
    let end = ends
        .filter_map(|v| v.pointer("/data_offsets/1")?.as_u64())
        .max();
    end?.checked_add(8 + header_len(map))
}

fn check_format(refuse: Refuse, entries: &HashMap<String, String>) -> Result<(), CheckpointError> {
    let expected = "metadata `format` = gmmk: for a model of diffusers use `gmmk import`";
    match entries.get("format").map(String::as_str) {
        Some("gmmk") => {}
        Some(other) => return Err(refuse.foreign(format!("its format is `{other}`"), expected)),
        None => return Err(refuse.foreign("a safetensors file without a format", expected)),
    }
    match entries.get("format_version") {
        Some(version) if *version == FORMAT_VERSION.to_string() => Ok(()),
        version => Err(CheckpointError::Version {
            path: refuse.0.to_path_buf(),
            found: version.cloned().unwrap_or_else(|| "(none)".to_owned()),
            expected: FORMAT_VERSION,
        }),
    }
}

fn check_hashes(
    refuse: Refuse,
    map: &[u8],
    data_start: usize,
    entries: &HashMap<String, String>,
) -> Result<(), CheckpointError> {
    let stored = |key: &str| {
        let hash = entries.get(key).filter(|hash| hash.len() == NO_HASH.len());
        hash.ok_or_else(|| refuse.damaged(format!("metadata `{key}`"), "no hash", "64 hex digits"))
    };
    let compare = |place: String, found: blake3::Hash, expected: &str| {
        let found = found.to_hex();
        if found.as_str() == expected {
            return Ok(());
        }
        Err(refuse.damaged(
            place,
            format!("BLAKE3 {found}"),
            format!("BLAKE3 {expected}"),
        ))
    };
    let (own, data) = (stored("header_blake3")?, stored("blake3")?);
    let mut header = map[..data_start].to_vec();
    let key = br#""header_blake3":""#;
    let place = header.windows(key.len()).position(|w| w == key);
    if let Some(place) = place {
        let place = place + key.len();
        if let Some(hash) = header.get_mut(place..place + NO_HASH.len()) {
            hash.copy_from_slice(NO_HASH.as_bytes());
        }
    }
    compare(
        format!("the header (bytes 0 to {data_start})"),
        blake3::hash(&header),
        own,
    )?;
    let place = format!("the tensors (bytes {data_start} to {})", map.len());
    compare(place, blake3::hash(&map[data_start..]), data)
}

fn text<'a>(
    refuse: Refuse,
    entries: &'a HashMap<String, String>,
    key: &str,
) -> Result<&'a str, CheckpointError> {
    let found = entries.get(key).map(String::as_str);
    found.ok_or_else(|| refuse.damaged(format!("metadata `{key}`"), "nothing", "a value"))
}

fn entry<T: DeserializeOwned>(
    refuse: Refuse,
    entries: &HashMap<String, String>,
    key: &str,
) -> Result<T, CheckpointError> {
    serde_json::from_str(text(refuse, entries, key)?)
        .map_err(|e| refuse.damaged(format!("metadata `{key}`"), e.to_string(), "valid JSON"))
}

fn read_info(
    refuse: Refuse,
    entries: &HashMap<String, String>,
) -> Result<CheckpointInfo, CheckpointError> {
    let config = RunConfig::parse(text(refuse, entries, "config")?, refuse.0)
        .map_err(|e| refuse.damaged("metadata `config`", e.to_string(), "a run's configuration"))?;
    let counters: Counters = entry(refuse, entries, "counters")?;
    let attribute_names: Vec<String> = entry(refuse, entries, "attribute_names")?;
    let packed = text(refuse, entries, "attribute_rows")?;
    let attribute_rows = rows::decode(packed, attribute_names.len()).ok_or_else(|| {
        let expected = format!("rows of {} bits in hex", attribute_names.len());
        refuse.damaged("metadata `attribute_rows`", "other text", expected)
    })?;
    Ok(CheckpointInfo {
        config,
        counters,
        attribute_names,
        attribute_rows,
        network: entry(refuse, entries, "network")?,
    })
}

/// The weights in file order, once every part is known to have each of them with the same shape.
fn check_tensors(
    refuse: Refuse,
    tensors: &Metadata,
    parts: &[Part],
) -> Result<Vec<TensorSpec>, CheckpointError> {
    let all = tensors.tensors();
    let is_weight = |name: &str| !Part::ALL[1..].iter().any(|p| name.starts_with(p.prefix()));
    let mut weights: Vec<_> = all.iter().filter(|(name, _)| is_weight(name)).collect();
    weights.sort_by_key(|(_, info)| info.data_offsets);
    for (name, info) in &all {
        if info.dtype != Dtype::F32 {
            let found = format!("{:?}", info.dtype);
            return Err(refuse.damaged(format!("tensor `{name}`"), found, "F32"));
        }
    }
    for part in parts {
        for (name, weight) in &weights {
            let full = format!("{}{name}", part.prefix());
            let shape = all.get(&full).map(|info| &info.shape);
            if shape != Some(&weight.shape) {
                let found = shape.map_or("nothing".to_owned(), |s| format!("shape {s:?}"));
                let expected = format!("shape {:?}", weight.shape);
                return Err(refuse.damaged(format!("tensor `{full}`"), found, expected));
            }
        }
    }
    if all.len() != weights.len() * parts.len() {
        let expected = format!("{} x {}", parts.len(), weights.len());
        return Err(refuse.damaged("the list of tensors", all.len().to_string(), expected));
    }
    let spec = |(name, info): &(&String, &&safetensors::tensor::TensorInfo)| TensorSpec {
        name: (*name).clone(),
        shape: info.shape.clone(),
    };
    Ok(weights.iter().map(spec).collect())
}
