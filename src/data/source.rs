//! What every data set offers to the packer.

use serde::{Deserialize, Serialize};

use super::DataError;

/// What a picture may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum Split {
    /// The model learns from it.
    Train = 0,
    /// Measures the model while it trains; never learnt from.
    HeldOut = 1,
    /// The makers' test set: packed, but neither learnt from nor held out.
    Test = 2,
}

impl Split {
    /// The split written as 0, 1 or 2, as in `list_eval_partition.txt` and in the packed file.
    pub fn from_code(code: u8) -> Option<Self> {
        [Self::Train, Self::HeldOut, Self::Test]
            .into_iter()
            .find(|&split| split as u8 == code)
    }
}

/// What is known of a picture without decoding it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Row number in the data set as its makers list it, from 0. Rows that are left out keep their
    /// number, so that a picture keeps its latent Z when another one goes missing.
    pub row: u64,
    /// One 0 or 1 per attribute.
    pub attributes: Vec<u8>,
    /// What the picture may be used for.
    pub split: Split,
}

/// A row whose picture is not in the pack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// File name of the picture.
    pub name: String,
    /// Its row number.
    pub row: u64,
    /// Why it was left out.
    pub reason: String,
}

/// A data set: `len` pictures with attributes, each read (or rendered) on demand.
///
/// Pictures are numbered 0..len; the packer reads them from many threads at once.
pub trait Source: Sync {
    /// Short name of the data set: "celeba", "cifar10", "faces".
    fn name(&self) -> &str;

    /// Names of the K attributes.
    fn attribute_names(&self) -> &[String];

    /// Whether exactly one attribute of a picture is 1 (the attributes are classes).
    fn one_hot(&self) -> bool {
        false
    }

    /// Number of pictures.
    fn len(&self) -> usize;

    /// Whether there is no picture.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Row number, attributes and split of picture `i`, `i < len`. Rows grow with `i`.
    fn record(&self, i: usize) -> Record;

    /// What messages call picture `i`: a file name, usually.
    fn picture_name(&self, i: usize) -> String;

    /// Rows that were left out before anything was decoded.
    fn left_out(&self) -> &[LeftOut] {
        &[]
    }

    /// Names of pictures that lie there without a row; they are not used.
    fn unlisted(&self) -> &[String] {
        &[]
    }

    /// Changes when any picture, attribute or split may have changed, or the way of cropping.
    /// Must be cheap: it is taken at every start to find out whether a packed file still fits.
    fn fingerprint(&self) -> blake3::Hash;

    /// The bytes of picture `i`'s file; `None` where it is none of its own.
    fn file(&self, i: usize) -> Option<Result<Vec<u8>, DataError>> {
        let _ = i;
        None
    }

    /// Picture `i` as `size * size * 3` bytes, rows of RGB pixels.
    ///
    /// # Errors
    /// [`DataError::Picture`] or [`DataError::Io`] when it cannot be decoded or read.
    fn read(&self, i: usize, size: u32) -> Result<Vec<u8>, DataError>;
}

/// Hashes fields so that no two lists of fields give the same bytes.
#[derive(Default)]
pub(super) struct Fingerprint(blake3::Hasher);

impl Fingerprint {
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
        self
    }

    pub(super) fn number(&mut self, number: u64) -> &mut Self {
        self.0.update(&number.to_le_bytes());
        self
    }

    /// Size and time of change of a file.
    pub(super) fn stamp(&mut self, stamp: Stamp) -> &mut Self {
        self.0.update(&stamp.size.to_le_bytes());
        self.0.update(&stamp.changed.to_le_bytes());
        self
    }

    pub(super) fn finish(&self) -> blake3::Hash {
        self.0.finalize()
    }
}

/// Size and time of change of a file; a changed file gets another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stamp {
    /// Bytes.
    pub(super) size: u64,
    /// Nanoseconds since 1970; 0 where the file system keeps no times.
    pub(super) changed: i128,
}

impl Stamp {
    pub(super) fn of(metadata: &std::fs::Metadata) -> Self {
        let changed = metadata.modified().map_or(0, |time| {
            match time.duration_since(std::time::UNIX_EPOCH) {
                Ok(after) => after.as_nanos() as i128,
                Err(before) => -(before.duration().as_nanos() as i128),
            }
        });
        Self {
            size: metadata.len(),
            changed,
        }
    }
}
