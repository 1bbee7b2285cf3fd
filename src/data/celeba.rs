//! CelebA as its makers (or Kaggle, or torchvision) lay it out: aligned faces and a list of attributes.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::celeba_lists::{AttributeTable, line_error, parse_splits, read_text, to_text};
use super::error::{listing, quoted};
use super::picture::{self, CROP};
use super::source::{Fingerprint, Stamp};
use super::store::{Archive, Store, is_picture};
use super::{DataError, LeftOut, Record, Source, Split};

pub(super) const HINT: &str = "Get img_align_celeba.zip (Align&Cropped Images, 1.4 GB), list_attr_celeba.txt and \
                    list_eval_partition.txt from https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html, or the copy on \
                    Kaggle (jessicali9530/celeba-dataset), into one folder, and give it with --data; the zip may stay packed";

/// Share of the training rows that is held out where the split file names no valid rows: 2 %.
const HELD_OUT_PERCENT: usize = 2;
const HELD_OUT_MOST: usize = 1000;

/// The aligned faces of CelebA with their attributes.
#[derive(Debug)]
pub struct Celeba {
    pictures: Store,
    table: AttributeTable,
    entries: Vec<Entry>,
    left_out: Vec<LeftOut>,
    fingerprint: blake3::Hash,
}

/// A row whose picture file is there.
#[derive(Debug)]
struct Entry {
    row: usize,
    /// Name in the picture folder or the zip; the list may say .jpg where the folder has .png.
    file: String,
    stamp: Stamp,
    split: Split,
}

/// Where the parts of CelebA lie below a folder.
struct Layout {
    /// A folder or a zip.
    pictures: Option<PathBuf>,
    attributes: Option<PathBuf>,
    splits: Option<PathBuf>,
}

impl Layout {
    const PICTURES: [&str; 8] = [
        "img_align_celeba",
        "img_align_celeba/img_align_celeba",
        "Img/img_align_celeba",
        "Img/img_align_celeba/img_align_celeba",
        "img_align_celeba_png",
        "img_align_celeba_png/img_align_celeba_png",
        "Img/img_align_celeba_png",
        "Img/img_align_celeba_png/img_align_celeba_png",
    ];

    /// The makers' zip, and what Kaggle calls its own.
    const ZIPS: [&str; 5] = [
        "img_align_celeba.zip",
        "Img/img_align_celeba.zip",
        "celeba.zip",
        "celeba-dataset.zip",
        "archive.zip",
    ];

    /// The parts in a folder; beside a zip where `place` is one.
    fn find(place: &Path) -> Self {
        let given = place.is_file().then(|| place.to_path_buf());
        let mut folders = vec![place.to_path_buf()];
        if given.is_some() {
            let near = place.parent().map(Path::to_path_buf).unwrap_or_default();
            // The makers keep lists in a folder beside that of the zip.
            folders = vec![near.clone(), near.join("..")];
        }
        let list = |stem: &str, official: &str| {
            let names = ["txt", "csv"].map(|extension| format!("{stem}.{extension}"));
            let places = names
                .iter()
                .flat_map(|name| [name.clone(), format!("{official}/{name}")]);
            let places: Vec<String> = places.collect();
            folders
                .iter()
                .flat_map(|folder| places.iter().map(|name| folder.join(name)))
                .find(|path| path.is_file())
        };
        let unpacked = Self::PICTURES
            .iter()
            .map(|name| place.join(name))
            .find(|path| holds_pictures(path));
        let zipped = || {
            Self::ZIPS
                .iter()
                .map(|name| place.join(name))
                .find(|path| path.is_file())
        };
        Self {
            pictures: given.or(unpacked).or_else(zipped),
            attributes: list("list_attr_celeba", "Anno"),
            splits: list("list_eval_partition", "Eval"),
        }
    }
}

impl Celeba {
    /// Names of which at least one lies in a folder that holds CelebA.
    pub(super) const LOOKED_FOR: &str = "img_align_celeba/ (also in Img/) with jpg or png files or img_align_celeba.zip, \
                                         list_attr_celeba.txt or .csv (also in Anno/)";

    /// Whether `folder` holds CelebA or a part of it; [`Celeba::open`] says which part is missing.
    pub fn is_in(folder: &Path) -> bool {
        let layout = Layout::find(folder);
        layout.pictures.is_some() || layout.attributes.is_some()
    }

    /// Reads the lists of `folder` and looks at every picture file, without decoding any.
    ///
    /// Pictures that are missing are left out; [`Source::left_out`] names them.
    ///
    /// # Errors
    /// [`DataError::NotFound`] for a missing part, [`DataError::Line`] for a line of a list that is
    /// wrong, [`DataError::MissingPictures`] when more than 1 % of the pictures are missing.
    pub fn open(folder: &Path) -> Result<Self, DataError> {
        let layout = Layout::find(folder);
        fn part<T>(folder: &Path, part: Option<T>, data_set: &str) -> Result<T, DataError> {
            part.ok_or_else(|| DataError::NotFound {
                folder: folder.to_path_buf(),
                data_set: data_set.to_owned(),
                looked_for: Celeba::LOOKED_FOR.to_owned(),
                found: listing(folder),
                hint: HINT,
            })
        }
        let pictures = layout
            .pictures
            .map(|path| Store::open(&path, HINT))
            .transpose()?;
        let list = |outside: Option<PathBuf>, stem: &str| match (outside, &pictures) {
            (Some(path), _) => read_text(&path).map(|text| Some((path, text))),
            (None, Some(Store::Zip(zip))) => list_in(zip, stem),
            (None, _) => Ok(None),
        };
        let attributes = list(layout.attributes, "list_attr_celeba")?;
        let splits = list(layout.splits, "list_eval_partition")?;
        let (path, text) = part(folder, attributes, "attribute list of CelebA")?;
        let pictures = part(folder, pictures, "picture folder of CelebA")?;
        let table = AttributeTable::parse(&path, &text)?;
        let splits = splits
            .map(|(path, text)| parse_splits(&path, &text).map(|splits| (path, splits)))
            .transpose()?;
        let (mut entries, left_out) = find_pictures(&table, &pictures)?;
        match splits {
            Some((path, splits)) => assign_splits(&table, &mut entries, &path, &splits)?,
            None => hold_out_last(&mut entries),
        }
        let fingerprint = fingerprint(&table, &entries);
        Ok(Self {
            pictures,
            table,
            entries,
            left_out,
            fingerprint,
        })
    }
}

impl Source for Celeba {
    fn name(&self) -> &str {
        "celeba"
    }

    fn attribute_names(&self) -> &[String] {
        &self.table.names
    }

    fn len(&self) -> usize {
        self.entries.len()
    }

    fn record(&self, i: usize) -> Record {
        let entry = &self.entries[i];
        Record {
            row: entry.row as u64,
            attributes: self.table.row(entry.row).to_vec(),
            split: entry.split,
        }
    }

    fn picture_name(&self, i: usize) -> String {
        self.entries[i].file.clone()
    }

    fn left_out(&self) -> &[LeftOut] {
        &self.left_out
    }

    fn fingerprint(&self) -> blake3::Hash {
        self.fingerprint
    }

    fn file(&self, i: usize) -> Option<Result<Vec<u8>, DataError>> {
        Some(self.pictures.read(&self.entries[i].file))
    }

    fn read(&self, i: usize, size: u32) -> Result<Vec<u8>, DataError> {
        let file = &self.entries[i].file;
        let bytes = self.pictures.read(file)?;
        picture::decode_face(&bytes, size).map_err(|source| DataError::Picture {
            path: self.pictures.path().join(file),
            source,
        })
    }
}

/// A list that lies in the zip with the pictures, as in Kaggle's: where, and its text.
fn list_in(zip: &Archive, stem: &str) -> Result<Option<(PathBuf, String)>, DataError> {
    let names = ["csv", "txt"].map(|extension| format!("{stem}.{extension}"));
    let Some(name) = names.iter().find_map(|name| zip.find_file(name)) else {
        return Ok(None);
    };
    let path = zip.path().join(name);
    let text = to_text(&path, zip.read(name)?)?;
    Ok(Some((path, text)))
}

fn holds_pictures(folder: &Path) -> bool {
    std::fs::read_dir(folder).is_ok_and(|mut entries| {
        entries.any(|entry| entry.is_ok_and(|e| is_picture(&e.file_name().to_string_lossy())))
    })
}

/// Looks for the picture of every row.
fn find_pictures(
    table: &AttributeTable,
    pictures: &Store,
) -> Result<(Vec<Entry>, Vec<LeftOut>), DataError> {
    let below = match pictures {
        Store::Folder(_) => String::new(),
        Store::Zip(archive) => archive.picture_folder(),
    };
    let found = table
        .files
        .par_iter()
        .map(|file| find_picture(pictures, &below, file))
        .collect::<Result<Vec<_>, _>>()?;
    let (mut entries, mut left_out) = (Vec::with_capacity(found.len()), Vec::new());
    for (row, found) in found.into_iter().enumerate() {
        match found {
            Some((file, stamp)) => entries.push(Entry {
                row,
                file,
                stamp,
                split: Split::Train,
            }),
            None => left_out.push(LeftOut {
                name: table.files[row].clone(),
                row: row as u64,
                reason: "the picture file is missing".to_owned(),
            }),
        }
    }
    match left_out.first() {
        Some(first) if 100 * left_out.len() > table.files.len() => {
            Err(DataError::MissingPictures {
                folder: pictures.path().to_path_buf(),
                list: table.path.clone(),
                missing: left_out.len() as u64,
                rows: table.files.len() as u64,
                first: first.name.clone(),
                line: table.lines[first.row as usize],
            })
        }
        _ => Ok((entries, left_out)),
    }
}

/// The file of a row under its listed name, or else with another extension (the png edition of
/// CelebA comes with the list of the jpg edition).
fn find_picture(
    pictures: &Store,
    below: &str,
    listed: &str,
) -> Result<Option<(String, Stamp)>, DataError> {
    let others =
        ["png", "jpg", "jpeg"].map(|extension| Path::new(listed).with_extension(extension));
    for name in std::iter::once(PathBuf::from(listed)).chain(others) {
        let name = format!("{below}{}", name.to_string_lossy());
        if let Some(stamp) = pictures.look(&name)? {
            return Ok(Some((name, stamp)));
        }
    }
    Ok(None)
}

fn assign_splits(
    table: &AttributeTable,
    entries: &mut [Entry],
    path: &Path,
    splits: &HashMap<String, Split>,
) -> Result<(), DataError> {
    for entry in entries.iter_mut() {
        let listed = &table.files[entry.row];
        // Guessing here could train on a test picture.
        entry.split = *splits.get(listed).ok_or_else(|| {
            let expected = format!("a row that {} has too", path.display());
            line_error(
                &table.path,
                table.lines[entry.row],
                &expected,
                &quoted(listed),
            )
        })?;
    }
    if !entries.iter().any(|entry| entry.split == Split::HeldOut) {
        hold_out_last(entries);
    }
    Ok(())
}

/// Holds out the last training rows: 2 % of them, at most 1,000, at least 1 where there are two.
fn hold_out_last(entries: &mut [Entry]) {
    let train = entries
        .iter()
        .filter(|entry| entry.split == Split::Train)
        .count();
    let least = usize::from(train >= 2);
    let count = (train * HELD_OUT_PERCENT / 100).clamp(least, HELD_OUT_MOST);
    let last = entries
        .iter_mut()
        .rev()
        .filter(|entry| entry.split == Split::Train);
    for entry in last.take(count) {
        entry.split = Split::HeldOut;
    }
}

fn fingerprint(table: &AttributeTable, entries: &[Entry]) -> blake3::Hash {
    let mut hash = Fingerprint::default();
    hash.bytes(b"celeba").number(CROP.0).number(CROP.1);
    hash.number(table.names.len() as u64);
    for name in &table.names {
        hash.bytes(name.as_bytes());
    }
    hash.number(table.files.len() as u64)
        .number(entries.len() as u64);
    for entry in entries {
        hash.number(entry.row as u64).number(entry.split as u64);
        hash.bytes(entry.file.as_bytes())
            .stamp(entry.stamp)
            .bytes(table.row(entry.row));
    }
    hash.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_of_the_held_out_set() {
        let held_out = |rows| {
            let mut entries: Vec<Entry> = (0..rows)
                .map(|row| Entry {
                    row,
                    file: String::new(),
                    stamp: Stamp {
                        size: 0,
                        changed: 0,
                    },
                    split: if row % 4 == 3 {
                        Split::Test
                    } else {
                        Split::Train
                    },
                })
                .collect();
            hold_out_last(&mut entries);
            entries
                .iter()
                .filter(|entry| entry.split == Split::HeldOut)
                .count()
        };
        assert_eq!([held_out(1), held_out(2), held_out(8)], [0, 1, 1]);
        assert_eq!([held_out(400), held_out(200_000)], [6, 1000]);
    }
}
