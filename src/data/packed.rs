//! The packed file: every picture of a data set decoded, memory-mapped.
//!
//! Little-endian, sections start at multiples of 64 bytes:
//!
//! | offset | bytes | what |
//! | --- | --- | --- |
//! | 0 | 8 | magic `GMMKDATA` |
//! | 8 | 4 | format version |
//! | 12 | 4 | length of the JSON header |
//! | 16 | 8 | offset of the content |
//! | 24 | 8 | length of the file |
//! | 32 | 32 | BLAKE3 of the content (everything from its offset to the end of the file) |
//! | 64 | 32 | BLAKE3 of bytes 0..64 and of those from 96 to the content |
//! | 96 | | JSON header, then zeros up to the content |
//! | content | n h w c | pictures, u8, NHWC |
//! | | n K | attributes, u8 0 or 1 |
//! | | 8 n | row numbers, u64 |
//! | | n | splits, u8 |

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{DataError, LeftOut, Split};

pub(super) const MAGIC: &[u8; 8] = b"GMMKDATA";
pub(super) const VERSION: u32 = 1;
/// Length of the fixed part in front of the JSON header.
pub(super) const PREFIX: usize = 96;
pub(super) const ALIGNMENT: u64 = 64;
/// Files below this are verified completely at every start: it takes a few milliseconds.
const ALWAYS_VERIFIED: u64 = 64 << 20;

const HINT: &str = "Delete it; it will be packed again from the data set";

/// The JSON header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    pub(super) data_set: String,
    pub(super) fingerprint: String,
    pub(super) count: u64,
    pub(super) height: u32,
    pub(super) width: u32,
    pub(super) channels: u32,
    pub(super) one_hot: bool,
    pub(super) attribute_names: Vec<String>,
    /// Pictures per split: train, held out, test.
    pub(super) splits: [u64; 3],
    pub(super) left_out_count: u64,
    /// The first of those left out.
    pub(super) left_out: Vec<LeftOut>,
}

/// Byte ranges of the sections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sections {
    pub(super) pictures: Range<u64>,
    pub(super) attributes: Range<u64>,
    pub(super) rows: Range<u64>,
    pub(super) splits: Range<u64>,
}

impl Sections {
    /// Sections of a file with this header; None when the lengths do not fit in 64 bits.
    pub(super) fn new(header: &Header, content: u64) -> Option<Self> {
        let picture = u64::from(header.height)
            .checked_mul(u64::from(header.width))?
            .checked_mul(u64::from(header.channels))?;
        let section = |start: u64, size: u64| {
            let start = start.checked_next_multiple_of(ALIGNMENT)?;
            let end = start.checked_add(header.count.checked_mul(size)?)?;
            Some(start..end)
        };
        let pictures = section(content, picture)?;
        let attributes = section(pictures.end, header.attribute_names.len() as u64)?;
        let rows = section(attributes.end, 8)?;
        let splits = section(rows.end, 1)?;
        Some(Self {
            pictures,
            attributes,
            rows,
            splits,
        })
    }
}

/// How a packed file came to be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It was there already and its source has not changed.
    Reused,
    /// It was packed now.
    Packed,
    /// What was there was damaged, so it was packed anew.
    Rebuilt {
        /// What was wrong with the old file.
        reason: String,
    },
}

/// An open packed file. Cheap to share between threads in an `Arc`.
#[derive(Debug)]
pub struct Packed {
    path: PathBuf,
    map: Mmap,
    header: Header,
    content: Range<usize>,
    pictures: Range<usize>,
    attributes: Range<usize>,
    rows: Range<usize>,
    picture_len: usize,
    train: Vec<u32>,
    held_out: Vec<u32>,
    test: Vec<u32>,
    origin: Origin,
}

/// What `gmmk data info` shows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PackedInfo {
    /// Name of the data set.
    pub data_set: String,
    /// The packed file.
    pub path: PathBuf,
    /// Its length in bytes.
    pub bytes: u64,
    /// Pictures.
    pub count: usize,
    /// Pictures to learn from.
    pub train: usize,
    /// Pictures held out.
    pub held_out: usize,
    /// Pictures of the makers' test set.
    pub test: usize,
    /// Pixels a side.
    pub size: u32,
    /// Each attribute and how many of all `count` pictures have it.
    pub attribute_counts: Vec<(String, u64)>,
    /// Rows left out.
    pub left_out_count: u64,
    /// The first of them, with reasons.
    pub left_out: Vec<LeftOut>,
    /// Mean of each channel over the training pictures, as a fraction of 255; 0 where there are none.
    pub mean: Vec<f64>,
    /// Standard deviation of each channel over the training pictures, as a fraction of 255.
    pub std: Vec<f64>,
}

impl Packed {
    /// Opens a packed file. Header and sizes are always verified, the content where the file is
    /// smaller than 64 MiB; [`Packed::verify`] checks the content of a larger one.
    ///
    /// # Errors
    /// [`DataError::Damaged`] for a damaged or foreign file, [`DataError::Io`].
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let length = std::fs::metadata(path)
            .map_err(DataError::io("look at", path))?
            .len();
        if length < PREFIX as u64 {
            let expected = format!("at least {PREFIX} bytes of header");
            return Err(damaged(path, length, &expected, &format!("{length} bytes")));
        }
        let map = map_file(path)?;
        let (header, content) = read_header(path, &map)?;
        let sections = check_sizes(path, &header, content, map.len())?;
        let native = |range: &Range<u64>| range.start as usize..range.end as usize;
        let mut packed = Self {
            path: path.to_path_buf(),
            content: content as usize..map.len(),
            pictures: native(&sections.pictures),
            attributes: native(&sections.attributes),
            rows: native(&sections.rows),
            picture_len: header.height as usize * header.width as usize * header.channels as usize,
            map,
            header,
            train: Vec::new(),
            held_out: Vec::new(),
            test: Vec::new(),
            origin: Origin::Reused,
        };
        if length < ALWAYS_VERIFIED {
            packed.verify()?;
        }
        packed.read_splits(native(&sections.splits))?;
        packed.check_attributes()?;
        Ok(packed)
    }

    /// Compares the content with its checksum.
    ///
    /// # Errors
    /// [`DataError::Damaged`] when they differ.
    pub fn verify(&self) -> Result<(), DataError> {
        let found = blake3::hash(&self.map[self.content.clone()]);
        let expected = read_hash(&self.map, 32);
        if found == expected {
            return Ok(());
        }
        let expected = format!("content with checksum {}", expected.to_hex());
        Err(damaged(
            &self.path,
            self.content.start as u64,
            &expected,
            &format!("checksum {}", found.to_hex()),
        ))
    }

    fn read_splits(&mut self, section: Range<usize>) -> Result<(), DataError> {
        for (i, &code) in self.map[section.clone()].iter().enumerate() {
            let indices = match Split::from_code(code) {
                Some(Split::Train) => &mut self.train,
                Some(Split::HeldOut) => &mut self.held_out,
                Some(Split::Test) => &mut self.test,
                None => {
                    let offset = (section.start + i) as u64;
                    return Err(damaged(
                        &self.path,
                        offset,
                        "a split of 0, 1 or 2",
                        &code.to_string(),
                    ));
                }
            };
            indices.push(i as u32);
        }
        Ok(())
    }

    /// A checksum says that the file is as it was written, not by whom.
    fn check_attributes(&self) -> Result<(), DataError> {
        let values = &self.map[self.attributes.clone()];
        match values.iter().position(|&value| value > 1) {
            Some(i) => {
                let offset = (self.attributes.start + i) as u64;
                let found = values[i].to_string();
                Err(damaged(
                    &self.path,
                    offset,
                    "an attribute of 0 or 1",
                    &found,
                ))
            }
            None => Ok(()),
        }
    }

    pub(super) fn with_origin(mut self, origin: Origin) -> Self {
        self.origin = origin;
        self
    }

    pub(super) fn header(&self) -> &Header {
        &self.header
    }

    /// Whether the file was reused, packed now or rebuilt.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Name of the data set.
    pub fn data_set(&self) -> &str {
        &self.header.data_set
    }

    /// Number of pictures, all splits together.
    pub fn len(&self) -> usize {
        self.header.count as usize
    }

    /// Whether there is no picture; a file that opens has at least one.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Width and height of the pictures in pixels.
    pub fn size(&self) -> u32 {
        self.header.width
    }

    /// Channels of the pictures.
    pub fn channels(&self) -> u32 {
        self.header.channels
    }

    /// Names of the K attributes.
    pub fn attribute_names(&self) -> &[String] {
        &self.header.attribute_names
    }

    /// Whether the attributes are classes, of which a picture has exactly one.
    pub fn one_hot(&self) -> bool {
        self.header.one_hot
    }

    /// Picture `i`: height x width x channels bytes, rows of RGB pixels.
    ///
    /// # Panics
    /// When `i` is not below [`Packed::len`], as indexing a slice does.
    pub fn image(&self, i: usize) -> &[u8] {
        &self.map[self.pictures.clone()][i * self.picture_len..(i + 1) * self.picture_len]
    }

    /// The K attributes of picture `i`, each 0 or 1.
    ///
    /// # Panics
    /// When `i` is not below [`Packed::len`].
    pub fn attributes(&self, i: usize) -> &[u8] {
        let k = self.header.attribute_names.len();
        &self.map[self.attributes.clone()][i * k..(i + 1) * k]
    }

    /// Row number of picture `i` in the data set as its makers list it, counting rows left out: the
    /// index of its latent Z.
    ///
    /// # Panics
    /// When `i` is not below [`Packed::len`].
    pub fn row(&self, i: usize) -> u64 {
        let bytes = &self.map[self.rows.clone()][8 * i..8 * (i + 1)];
        bytes
            .iter()
            .rev()
            .fold(0, |row, &byte| row << 8 | u64::from(byte))
    }

    /// Pictures to learn from, ascending.
    pub fn train_indices(&self) -> &[u32] {
        &self.train
    }

    /// Pictures held out, ascending.
    pub fn held_out_indices(&self) -> &[u32] {
        &self.held_out
    }

    /// Pictures of the makers' test set, ascending.
    pub fn test_indices(&self) -> &[u32] {
        &self.test
    }

    /// Rows left out: how many, and the first of them with reasons.
    pub fn left_out(&self) -> (u64, &[LeftOut]) {
        (self.header.left_out_count, &self.header.left_out)
    }

    /// Counts and channel statistics; reads the whole file.
    pub fn info(&self) -> PackedInfo {
        let mut counts = vec![0_u64; self.header.attribute_names.len()];
        for i in 0..self.len() {
            for (count, &value) in counts.iter_mut().zip(self.attributes(i)) {
                *count += u64::from(value);
            }
        }
        let (mean, std) = self.channel_statistics();
        PackedInfo {
            data_set: self.header.data_set.clone(),
            path: self.path.clone(),
            bytes: self.map.len() as u64,
            count: self.len(),
            train: self.train.len(),
            held_out: self.held_out.len(),
            test: self.test.len(),
            size: self.size(),
            attribute_counts: self
                .header
                .attribute_names
                .iter()
                .cloned()
                .zip(counts)
                .collect(),
            left_out_count: self.header.left_out_count,
            left_out: self.header.left_out.clone(),
            mean,
            std,
        }
    }

    /// Mean and standard deviation per channel over the training pictures, as fractions of 255.
    fn channel_statistics(&self) -> (Vec<f64>, Vec<f64>) {
        let channels = self.header.channels as usize;
        let zero = || vec![(0_u64, 0_u64); channels];
        // Sums of integers: the same whatever the threads do.
        let sums = self
            .train
            .par_iter()
            .fold(zero, |mut sums, &i| {
                for pixel in self.image(i as usize).chunks_exact(channels) {
                    for (sum, &value) in sums.iter_mut().zip(pixel) {
                        sum.0 += u64::from(value);
                        sum.1 += u64::from(value) * u64::from(value);
                    }
                }
                sums
            })
            .reduce(zero, |a, b| {
                a.iter()
                    .zip(b)
                    .map(|(a, b)| (a.0 + b.0, a.1 + b.1))
                    .collect()
            });
        let pixels = (self.train.len() * self.picture_len / channels).max(1) as f64;
        sums.iter()
            .map(|&(sum, squares)| {
                let mean = sum as f64 / pixels;
                let variance = squares as f64 / pixels - mean * mean;
                (mean / 255.0, variance.max(0.0).sqrt() / 255.0)
            })
            .unzip()
    }
}

/// Maps a file for reading.
pub(super) fn map_file(path: &Path) -> Result<Mmap, DataError> {
    let file = File::open(path).map_err(DataError::io("open", path))?;
    // SAFETY: the map is read only. Packed files are written under a temporary name and renamed, never
    // changed in place; like every program that maps its data, this one asks users not to cut a data
    // file short while it trains.
    unsafe { Mmap::map(&file) }.map_err(DataError::io("map", path))
}

/// Hash of the fixed fields and the JSON header, leaving out the hash itself.
pub(super) fn header_hash(bytes: &[u8]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&bytes[..64]).update(&bytes[PREFIX..]);
    hasher.finalize()
}

fn read_header(path: &Path, bytes: &[u8]) -> Result<(Header, u64), DataError> {
    let bad =
        |offset: u64, expected: &str, found: &str| Err(damaged(path, offset, expected, found));
    if &bytes[..8] != MAGIC {
        let found = String::from_utf8_lossy(&bytes[..8]);
        return bad(
            0,
            "the mark `GMMKDATA` of a packed file",
            &format!("{found:?}"),
        );
    }
    let version = read_number(bytes, 8, 4);
    if version != u64::from(VERSION) {
        return bad(
            8,
            &format!("format version {VERSION}"),
            &format!("version {version}"),
        );
    }
    let length = read_number(bytes, 24, 8);
    if length != bytes.len() as u64 {
        let expected = format!("a file of {length} bytes");
        return bad(24, &expected, &format!("{} bytes", bytes.len()));
    }
    let (json, content) = (read_number(bytes, 12, 4), read_number(bytes, 16, 8));
    if content > length || !content.is_multiple_of(ALIGNMENT) || PREFIX as u64 + json > content {
        let expected = format!("an offset of the content behind {json} bytes of header");
        return bad(16, &expected, &content.to_string());
    }
    let (expected, found) = (
        read_hash(bytes, 64),
        header_hash(&bytes[..content as usize]),
    );
    if expected != found {
        let expected = format!("a header with checksum {}", expected.to_hex());
        return bad(64, &expected, &format!("checksum {}", found.to_hex()));
    }
    let json = &bytes[PREFIX..PREFIX + json as usize];
    match serde_json::from_slice(json) {
        Ok(header) => Ok((header, content)),
        Err(error) => bad(
            PREFIX as u64 + error.column() as u64,
            "a JSON header",
            &error.to_string(),
        ),
    }
}

fn check_sizes(
    path: &Path,
    header: &Header,
    content: u64,
    length: usize,
) -> Result<Sections, DataError> {
    let bad = |expected: &str, found: &str| Err(damaged(path, PREFIX as u64, expected, found));
    let shape = [header.height, header.width, header.channels];
    if header.height != header.width || shape.contains(&0) {
        return bad(
            "square pictures",
            &format!("height, width and channels {shape:?}"),
        );
    }
    if header.count == 0 || header.count > u64::from(u32::MAX) {
        return bad("1 to 4294967295 pictures", &header.count.to_string());
    }
    match Sections::new(header, content) {
        Some(sections) if sections.splits.end == length as u64 => Ok(sections),
        sections => {
            let needed = sections.map_or("more than 2^64".to_owned(), |s| s.splits.end.to_string());
            bad(
                &format!("{needed} bytes for {} pictures", header.count),
                &format!("{length} bytes"),
            )
        }
    }
}

/// Little-endian number of `size` bytes at `offset`.
fn read_number(bytes: &[u8], offset: usize, size: usize) -> u64 {
    bytes[offset..offset + size]
        .iter()
        .rev()
        .fold(0, |number, &byte| number << 8 | u64::from(byte))
}

fn read_hash(bytes: &[u8], offset: usize) -> blake3::Hash {
    let mut hash = [0; 32];
    hash.copy_from_slice(&bytes[offset..offset + 32]);
    blake3::Hash::from_bytes(hash)
}

pub(super) fn damaged(path: &Path, offset: u64, expected: &str, found: &str) -> DataError {
    DataError::Damaged {
        path: path.to_path_buf(),
        offset,
        expected: expected.to_owned(),
        found: found.to_owned(),
        hint: HINT,
    }
}
