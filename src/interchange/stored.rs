//! Reading weights that diffusers saved: one safetensors file, or several behind an index; plain, or a
//! variant such as `fp16`.

use super::InterchangeError;
use super::error::wrong;
use super::folder::{WEIGHTS, read_json, weight_files};
use crate::train::checkpoint::TensorSpec;
use half::{bf16, f16};
use memmap2::Mmap;
use safetensors::tensor::Metadata;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};

const EXPECTED: &str = "a safetensors file of weights";

/// A mapped safetensors file.
struct OneFile {
    path: PathBuf,
    map: Mmap,
    data_start: usize,
    header: Metadata,
}

impl OneFile {
    fn open(path: &Path) -> Result<Self, InterchangeError> {
        let unreadable = |source| InterchangeError::Read {
            path: path.to_path_buf(),
            source,
            expected: EXPECTED.into(),
        };
        let file = File::open(path).map_err(unreadable)?;
        if file.metadata().map_err(unreadable)?.len() < 8 {
            return Err(wrong(path, "byte 0", EXPECTED, "less than 8 bytes"));
        }
        // SAFETY: the map is read-only, and programs that save weights write new files; one that cuts
        // this very file short while it is read ends the program, as with every mapped file.
        let map = unsafe { Mmap::map(&file) }.map_err(unreadable)?;
        let (header_len, header) = SafeTensors::read_metadata(&map).map_err(|e| {
            let found = format!("{} bytes that are none: {e}", map.len());
            wrong(path, "the header", EXPECTED, found)
        })?;
        Ok(Self {
            path: path.to_path_buf(),
            map,
            data_start: 8 + header_len,
            header,
        })
    }
}

/// Tensors by name, in one file or in several.
pub(super) struct Stored {
    files: Vec<OneFile>,
    /// The file of each tensor.
    places: HashMap<String, usize>,
    path: PathBuf,
    variant: Option<String>,
}

/// What a file's name says of the weights in it.
struct Named {
    path: PathBuf,
    variant: Option<String>,
    /// The file is the index of several.
    is_index: bool,
}

impl Named {
    /// `diffusion_pytorch_model.safetensors`, its index, or one of both with a variant's name between two
    /// dots: where, has changed with diffusers' versions. None of the parts that an index names.
    fn parse(path: PathBuf) -> Option<Self> {
        let name = name_of(&path);
        let words: Vec<&str> = name
            .strip_prefix(WEIGHTS)?
            .strip_prefix('.')?
            .split('.')
            .collect();
        if words.iter().any(|word| is_part(word)) {
            return None;
        }
        let forms = [&["safetensors"][..], &["safetensors", "index", "json"]];
        let (variant, is_index) =
            forms
                .into_iter()
                .zip([false, true])
                .find_map(|(form, is_index)| {
                    if words == form {
                        return Some((None, is_index));
                    }
                    let is_form = |at: &usize| [&words[..*at], &words[at + 1..]].concat() == form;
                    let at = (0..words.len().saturating_sub(1)).find(is_form)?;
                    Some((Some(words[at].to_owned()), is_index))
                })?;
        Some(Self {
            path,
            variant,
            is_index,
        })
    }
}

/// Whether a file's name ends as that of one of several does: `-00001-of-00002`.
fn is_part(name: &str) -> bool {
    let digits = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
    name.rsplit_once("-of-").is_some_and(|(first, count)| {
        digits(count)
            && first
                .rsplit_once('-')
                .is_some_and(|(_, number)| digits(number))
    })
}

/// The index of weights in several files.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Stored {
    /// The weights in the folder of a U-Net: the variant asked for, else those without one, else the only one.
    pub(super) fn in_folder(
        folder: &Path,
        variant: Option<&str>,
    ) -> Result<Self, InterchangeError> {
        let files = weight_files(folder);
        let named: Vec<Named> = files.iter().cloned().filter_map(Named::parse).collect();
        let known: BTreeSet<Option<&str>> = named.iter().map(|n| n.variant.as_deref()).collect();
        let fail = |expected: String, found: Vec<String>| {
            let found = if found.is_empty() {
                "none".into()
            } else {
                found.join(", ")
            };
            Err(wrong(folder, "the weights", expected, found))
        };
        let names = || files.iter().map(|path| name_of(path)).collect();
        let chosen = match variant {
            Some(_) => variant,
            None if known.contains(&None) => None,
            None if known.len() > 1 => {
                let variants = known.into_iter().flatten().map(str::to_owned);
                let expected = "those without a variant, or one: choose it with --variant NAME";
                return fail(expected.into(), variants.collect());
            }
            None => known.into_iter().next().flatten(),
        };
        let mut of_it = named.iter().filter(|n| n.variant.as_deref() == chosen);
        match (of_it.next(), of_it.next()) {
            (Some(one), None) => {
                let mut stored = match one.is_index {
                    false => Self::one(&one.path)?,
                    true => Self::several(folder, &one.path)?,
                };
                stored.variant = chosen.map(str::to_owned);
                Ok(stored)
            }
            (Some(first), Some(second)) => {
                let both = format!(
                    "both {} and {}",
                    name_of(&first.path),
                    name_of(&second.path)
                );
                fail(
                    "one of them: remove the one that is out of date".into(),
                    vec![both],
                )
            }
            (None, _) => {
                let name = match variant {
                    Some(variant) => format!("{WEIGHTS}.{variant}.safetensors"),
                    None => format!("{WEIGHTS}.safetensors"),
                };
                let how = "save them with save_pretrained(.., safe_serialization=True)";
                fail(format!("{name}, or its index: {how}"), names())
            }
        }
    }

    /// The tensors of one file.
    pub(super) fn one(path: &Path) -> Result<Self, InterchangeError> {
        let file = OneFile::open(path)?;
        let names = file.header.tensors().into_keys();
        Ok(Self {
            places: names.map(|name| (name, 0)).collect(),
            files: vec![file],
            path: path.to_path_buf(),
            variant: None,
        })
    }

    fn several(folder: &Path, index: &Path) -> Result<Self, InterchangeError> {
        let map = read_json::<Index>(index, "an index with a weight_map")?.weight_map;
        let names: BTreeSet<&String> = map.values().collect();
        let mut files = Vec::new();
        let mut places = HashMap::new();
        for (number, name) in names.into_iter().enumerate() {
            // An index of somebody else's must not make this program read elsewhere.
            if Path::new(name)
                .file_name()
                .is_none_or(|f| f != name.as_str())
            {
                let found = format!("`{name}`");
                return Err(wrong(
                    index,
                    "weight_map",
                    "names of files beside it",
                    found,
                ));
            }
            let file = OneFile::open(&folder.join(name))?;
            for tensor in file.header.tensors().into_keys() {
                if map.get(&tensor) != Some(name) {
                    let found = map
                        .get(&tensor)
                        .map_or("nothing".into(), |f| format!("`{f}`"));
                    let place = format!("weight_map, tensor `{tensor}`");
                    return Err(wrong(
                        index,
                        place,
                        format!("`{name}`, which has it"),
                        found,
                    ));
                }
                places.insert(tensor, number);
            }
            files.push(file);
        }
        match map.iter().find(|(tensor, _)| !places.contains_key(*tensor)) {
            Some((tensor, file)) => {
                let place = format!("tensor `{tensor}`");
                let expected = format!("it, as {} says", name_of(index));
                Err(wrong(&folder.join(file), place, expected, "nothing"))
            }
            None => Ok(Self {
                files,
                places,
                path: index.to_path_buf(),
                variant: None,
            }),
        }
    }

    /// The variant that the files are of.
    pub(super) fn variant(&self) -> Option<&str> {
        self.variant.as_deref()
    }

    /// The file, or the index of several.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Names and shapes, in no order.
    pub(super) fn specs(&self) -> Vec<TensorSpec> {
        let all = self.files.iter().flat_map(|file| file.header.tensors());
        all.map(|(name, info)| TensorSpec {
            name,
            shape: info.shape.clone(),
        })
        .collect()
    }

    /// Number formats of the tensors, such as `F16`.
    ///
    /// # Errors
    /// One that is not read.
    pub(super) fn formats(&self) -> Result<Vec<String>, InterchangeError> {
        let mut found = BTreeSet::new();
        for file in &self.files {
            for (name, info) in file.header.tensors() {
                let format = format!("{:?}", info.dtype);
                if !matches!(info.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
                    let place = format!("tensor `{name}`");
                    return Err(wrong(&file.path, place, "F32, F16 or BF16", format));
                }
                found.insert(format);
            }
        }
        Ok(found.into_iter().collect())
    }

    /// The values of a tensor, which are finite, into `out`.
    pub(super) fn read(&self, name: &str, out: &mut [f32]) -> Result<(), InterchangeError> {
        let file = self.places.get(name).map(|&place| &self.files[place]);
        let found = file.and_then(|file| Some((file, file.header.info(name)?)));
        let Some((file, info)) = found else {
            return Err(wrong(
                &self.path,
                format!("tensor `{name}`"),
                "it",
                "nothing",
            ));
        };
        let (start, end) = info.data_offsets;
        let bytes = &file.map[file.data_start + start..file.data_start + end];
        let place = || format!("tensor `{name}`");
        let width = if info.dtype == Dtype::F32 { 4 } else { 2 };
        if bytes.len() != width * out.len() {
            let expected = format!("{} values", out.len());
            let found = format!("{} bytes of {:?}", bytes.len(), info.dtype);
            return Err(wrong(&file.path, place(), expected, found));
        }
        let number: fn(&[u8]) -> f32 = match info.dtype {
            Dtype::F16 => |b| f16::from_le_bytes([b[0], b[1]]).to_f32(),
            Dtype::BF16 => |b| bf16::from_le_bytes([b[0], b[1]]).to_f32(),
            _ => |b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
        };
        for (i, (out, bytes)) in out.iter_mut().zip(bytes.chunks_exact(width)).enumerate() {
            *out = number(bytes);
            if !out.is_finite() {
                let place = format!("tensor `{name}`, value {i}");
                return Err(wrong(&file.path, place, "a finite number", out.to_string()));
            }
        }
        Ok(())
    }
}

fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}
