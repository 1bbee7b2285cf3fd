//! CIFAR-10 in its official binary files.

use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::error::listing;
use super::foreign::{kind_of, read_file};
use super::packed::map_file;
use super::picture;
use super::source::{Fingerprint, Stamp};
use super::{DataError, Record, Source, Split};

const SIDE: u32 = 32;
const PLANE: usize = 32 * 32;
/// A label byte and three colour planes.
const RECORD: usize = 1 + 3 * PLANE;
const CLASSES: usize = 10;

const META: &str = "batches.meta.txt";
const FILES: [(&str, Split); 6] = [
    ("data_batch_1.bin", Split::Train),
    ("data_batch_2.bin", Split::Train),
    ("data_batch_3.bin", Split::Train),
    ("data_batch_4.bin", Split::Train),
    ("data_batch_5.bin", Split::Train),
    ("test_batch.bin", Split::HeldOut),
];

pub(super) const HINT: &str = "Get https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz (the binary version, not the Python \
                               one), unpack it (tar xzf), and give the folder with --data";

/// CIFAR-10: ten classes of 32x32 pictures. The test batch is held out.
#[derive(Debug)]
pub struct Cifar10 {
    files: Vec<BatchFile>,
    classes: Vec<String>,
    fingerprint: blake3::Hash,
}

#[derive(Debug)]
struct BatchFile {
    path: PathBuf,
    name: &'static str,
    split: Split,
    bytes: Mmap,
    /// Number of the file's first record in the data set.
    first: usize,
}

impl Cifar10 {
    /// Names that lie in a folder that holds CIFAR-10.
    pub(super) const LOOKED_FOR: &str = "data_batch_1.bin to data_batch_5.bin, test_batch.bin and batches.meta.txt (also in cifar-10-batches-bin/)";

    /// Whether `folder`, or `cifar-10-batches-bin` in it, holds CIFAR-10 or a part of it.
    pub fn is_in(folder: &Path) -> bool {
        batches_folder(folder).is_some()
    }

    /// Maps the six batch files of `folder` (or of `cifar-10-batches-bin` in it) and checks sizes
    /// and labels. The number of records comes from the size of each file.
    ///
    /// # Errors
    /// [`DataError::NotFound`] for a missing file, [`DataError::Damaged`] for a size that is no
    /// multiple of 3,073 bytes or a label above 9, [`DataError::Line`] for a bad list of class names.
    pub fn open(folder: &Path) -> Result<Self, DataError> {
        if folder.is_file() {
            return Err(foreign(folder, "a folder with CIFAR-10's binary files"));
        }
        let folder = batches_folder(folder).unwrap_or_else(|| folder.to_path_buf());
        let classes = read_classes(&folder)?;
        let mut files = Vec::with_capacity(FILES.len());
        let (mut first, mut hash) = (0, Fingerprint::default());
        hash.bytes(b"cifar10");
        for name in &classes {
            hash.bytes(name.as_bytes());
        }
        for (name, split) in FILES {
            let file = open_batch(&folder, name, split, first)?;
            first += file.records();
            let metadata =
                std::fs::metadata(&file.path).map_err(DataError::io("look at", &file.path))?;
            hash.bytes(name.as_bytes()).stamp(Stamp::of(&metadata));
            hash.bytes(&file.labels().collect::<Vec<u8>>());
            files.push(file);
        }
        Ok(Self {
            files,
            classes,
            fingerprint: hash.finish(),
        })
    }

    /// The file that holds picture `i` and the record's number in it.
    fn find(&self, i: usize) -> (&BatchFile, usize) {
        let after = self.files.partition_point(|file| file.first <= i);
        let file = &self.files[after - 1];
        (file, i - file.first)
    }
}

impl BatchFile {
    fn records(&self) -> usize {
        self.bytes.len() / RECORD
    }

    fn labels(&self) -> impl Iterator<Item = u8> {
        self.bytes.iter().step_by(RECORD).copied()
    }

    fn record(&self, i: usize) -> &[u8] {
        &self.bytes[i * RECORD..(i + 1) * RECORD]
    }
}

impl Source for Cifar10 {
    fn name(&self) -> &str {
        "cifar10"
    }

    fn attribute_names(&self) -> &[String] {
        &self.classes
    }

    fn one_hot(&self) -> bool {
        true
    }

    fn len(&self) -> usize {
        self.files.iter().map(BatchFile::records).sum()
    }

    fn record(&self, i: usize) -> Record {
        let (file, record) = self.find(i);
        let label = usize::from(file.record(record)[0]);
        Record {
            row: i as u64,
            attributes: (0..CLASSES).map(|class| u8::from(class == label)).collect(),
            split: file.split,
        }
    }

    fn picture_name(&self, i: usize) -> String {
        let (file, record) = self.find(i);
        format!("{} record {record}", file.name)
    }

    fn fingerprint(&self) -> blake3::Hash {
        self.fingerprint
    }

    fn read(&self, i: usize, size: u32) -> Result<Vec<u8>, DataError> {
        let (file, record) = self.find(i);
        let planes = &file.record(record)[1..];
        let rgb = (0..PLANE)
            .flat_map(|pixel| {
                [
                    planes[pixel],
                    planes[PLANE + pixel],
                    planes[2 * PLANE + pixel],
                ]
            })
            .collect();
        picture::resize_square(rgb, SIDE, size).map_err(|source| DataError::Picture {
            path: file.path.clone(),
            source,
        })
    }
}

fn batches_folder(folder: &Path) -> Option<PathBuf> {
    [folder.to_path_buf(), folder.join("cifar-10-batches-bin")]
        .into_iter()
        .find(|folder| FILES.iter().any(|(name, _)| folder.join(name).is_file()))
}

fn open_batch(
    folder: &Path,
    name: &'static str,
    split: Split,
    first: usize,
) -> Result<BatchFile, DataError> {
    let path = folder.join(name);
    if !path.is_file() {
        return Err(missing(folder, name));
    }
    let damaged = |offset: usize, expected: String, found: String| DataError::Damaged {
        path: path.clone(),
        offset: offset as u64,
        expected,
        found,
        hint: HINT,
    };
    let size = std::fs::metadata(&path)
        .map_err(DataError::io("look at", &path))?
        .len() as usize;
    if size == 0 || !size.is_multiple_of(RECORD) {
        if kind_of(&path).is_some_and(|kind| !kind.starts_with("an empty")) {
            return Err(foreign(&path, "records of CIFAR-10"));
        }
        let whole = size / RECORD * RECORD;
        let expected = format!("records of {RECORD} bytes up to the end of the file");
        let found = format!(
            "{size} bytes, {} too many for {} records",
            size - whole,
            size / RECORD
        );
        return Err(damaged(whole, expected, found));
    }
    let file = BatchFile {
        bytes: map_file(&path)?,
        name,
        split,
        first,
        path: path.clone(),
    };
    let wrong = (0..)
        .zip(file.labels())
        .find(|&(_, label)| usize::from(label) >= CLASSES);
    match wrong {
        Some((record, label)) => Err(damaged(
            record * RECORD,
            format!("a label from 0 to 9 for record {record}"),
            format!("label {label}"),
        )),
        None => Ok(file),
    }
}

/// Another file than it should be.
fn foreign(path: &Path, expected: &str) -> DataError {
    DataError::Foreign {
        path: path.to_path_buf(),
        expected: expected.to_owned(),
        found: kind_of(path).unwrap_or_else(|| "a file of another kind".to_owned()),
        hint: HINT.to_owned(),
    }
}

fn read_classes(folder: &Path) -> Result<Vec<String>, DataError> {
    let path = folder.join(META);
    if !path.is_file() {
        return Err(missing(folder, META));
    }
    let bytes = read_file(&path, 1 << 20)?;
    let text = String::from_utf8_lossy(&bytes);
    let names: Vec<String> = text
        .lines()
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect();
    if names.len() != CLASSES {
        return Err(DataError::Line {
            path,
            line: names.len().min(CLASSES + 1) as u64,
            expected: format!("{CLASSES} class names, one a line"),
            found: format!("{} names", names.len()),
            hint: HINT.to_owned(),
        });
    }
    Ok(names)
}

fn missing(folder: &Path, name: &str) -> DataError {
    DataError::NotFound {
        folder: folder.to_path_buf(),
        data_set: format!("{name} of CIFAR-10"),
        looked_for: Cifar10::LOOKED_FOR.to_owned(),
        found: listing(folder),
        hint: HINT,
    }
}
