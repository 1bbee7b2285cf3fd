//! Own pictures: a folder (or a zip) of jpg and png files, and a table of their attributes.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::celeba_lists::{AttributeTable, line_error};
use super::error::{listing, quoted};
use super::source::{Fingerprint, Stamp};
use super::store::{Store, is_picture};
use super::{DataError, LeftOut, Record, Source, Split, folder_table, picture};

const HINT: &str = "Give --data a folder (or a zip) of jpg and png pictures";
/// Of so many pictures one is held out, where that is no more than HELD_OUT_MOST.
const HELD_OUT_OF: usize = 50;
const HELD_OUT_MOST: usize = 1000;

/// Pictures of any size with any attributes; the largest square in the middle is used.
#[derive(Debug)]
pub struct PictureFolder {
    store: Store,
    table: AttributeTable,
    entries: Vec<Entry>,
    left_out: Vec<LeftOut>,
    unlisted: Vec<String>,
    fingerprint: blake3::Hash,
}

#[derive(Debug)]
struct Entry {
    row: usize,
    file: String,
    stamp: Stamp,
    split: Split,
}

impl PictureFolder {
    /// Reads the table and looks for the picture of every row, in sub-folders too, without decoding
    /// any. Without `attributes` the table is the only CSV file of the folder.
    ///
    /// Rows without a picture are left out ([`Source::left_out`]), pictures without a row are not
    /// used ([`Source::unlisted`]). One picture of fifty is held out, at even distances, so that a
    /// table sorted by a person or a class gives pictures of all.
    ///
    /// # Errors
    /// [`DataError::Line`] for a line of the table that is wrong, [`DataError::FewPictures`] when
    /// fewer than half of its rows have a picture, [`DataError::NotFound`], [`DataError::Foreign`].
    pub fn open(data: &Path, attributes: Option<&Path>) -> Result<Self, DataError> {
        if !data.exists() {
            return Err(not_found(data, "pictures", "a folder or a zip"));
        }
        let store = Store::open(data, HINT)?;
        let path = match attributes {
            Some(path) => path.to_path_buf(),
            None => only_table(data)?,
        };
        let table = folder_table::read(&path)?;
        let files = store.files()?;
        let pictures: Vec<(String, Stamp)> = files
            .into_iter()
            .filter(|file| is_picture(&file.0))
            .collect();
        if pictures.is_empty() {
            return Err(not_found(data, "picture", "jpg or png files"));
        }
        let (mut entries, left_out) = match_rows(&table, &pictures)?;
        let used: HashSet<&str> = entries.iter().map(|entry| entry.file.as_str()).collect();
        let unlisted: Vec<String> = pictures
            .iter()
            .filter(|file| !used.contains(file.0.as_str()))
            .map(|file| file.0.clone())
            .collect();
        if 2 * entries.len() < table.files.len() || entries.is_empty() {
            let name = |name: Option<&String>| name.map_or("no other".to_owned(), |n| quoted(n));
            return Err(DataError::FewPictures {
                folder: data.to_path_buf(),
                list: path,
                rows: table.files.len(),
                found: entries.len(),
                listed: name(left_out.first().map(|bad| &bad.name)),
                held: name(unlisted.first().or(pictures.first().map(|file| &file.0))),
            });
        }
        hold_out(&mut entries);
        let fingerprint = fingerprint(&table, &entries);
        Ok(Self {
            store,
            table,
            entries,
            left_out,
            unlisted,
            fingerprint,
        })
    }
}

fn not_found(folder: &Path, data_set: &str, looked_for: &str) -> DataError {
    DataError::NotFound {
        folder: folder.to_path_buf(),
        data_set: data_set.to_owned(),
        looked_for: looked_for.to_owned(),
        found: listing(folder),
        hint: HINT,
    }
}

/// The only CSV file that lies in the folder.
fn only_table(folder: &Path) -> Result<PathBuf, DataError> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut tables: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| super::celeba_lists::is_csv(path) && path.is_file())
        .collect();
    tables.sort();
    match &tables[..] {
        [one] => Ok(one.clone()),
        others => Err(DataError::Foreign {
            path: folder.to_path_buf(),
            expected: "one CSV file with the attributes".to_owned(),
            found: match others {
                [] => "none".to_owned(),
                [first, second, ..] => format!("{} and {}", first.display(), second.display()),
                [_] => String::new(),
            },
            hint: "Name it: --attributes FILE".to_owned(),
        }),
    }
}

/// Where a picture is found by the name that the table gives it.
struct Names<'a> {
    paths: HashMap<&'a str, usize>,
    /// Pictures by their name without folders.
    files: HashMap<&'a str, Vec<usize>>,
}

impl<'a> Names<'a> {
    fn new(pictures: &'a [(String, Stamp)]) -> Self {
        let mut names = Self {
            paths: HashMap::new(),
            files: HashMap::new(),
        };
        for (i, (path, _)) in pictures.iter().enumerate() {
            names.paths.insert(path, i);
            let file = path.rsplit('/').next().unwrap_or(path);
            names.files.entry(file).or_default().push(i);
        }
        names
    }

    /// Pictures that a row may mean: its path, or its name in any folder; the extension may be
    /// missing or another.
    fn of(&self, listed: &str) -> Vec<usize> {
        let listed = listed.replace('\\', "/");
        let listed = listed.trim_start_matches("./");
        let stem = match is_picture(listed) {
            true => listed.rsplit_once('.').map_or(listed, |(stem, _)| stem),
            false => listed,
        };
        let others = ["jpg", "png", "jpeg", "JPG", "PNG", "JPEG"];
        let others = others.iter().map(|extension| format!("{stem}.{extension}"));
        let mut elsewhere = Vec::new();
        for name in std::iter::once(listed.to_owned()).chain(others) {
            if let Some(&i) = self.paths.get(name.as_str()) {
                return vec![i];
            }
            if elsewhere.is_empty() && !name.contains('/') {
                elsewhere = self.files.get(name.as_str()).cloned().unwrap_or_default();
            }
        }
        elsewhere
    }
}

fn match_rows(
    table: &AttributeTable,
    pictures: &[(String, Stamp)],
) -> Result<(Vec<Entry>, Vec<LeftOut>), DataError> {
    let names = Names::new(pictures);
    let (mut entries, mut left_out) = (Vec::new(), Vec::new());
    let mut taken: HashMap<usize, usize> = HashMap::new();
    for (row, listed) in table.files.iter().enumerate() {
        let line = table.lines[row];
        match names.of(listed)[..] {
            [] => left_out.push(LeftOut {
                name: listed.clone(),
                row: row as u64,
                reason: "the picture file is missing".to_owned(),
            }),
            [i] => {
                let (file, stamp) = &pictures[i];
                if let Some(earlier) = taken.insert(i, row) {
                    let found = format!(
                        "{} again, which line {} means too",
                        quoted(file),
                        table.lines[earlier]
                    );
                    return Err(line_error(&table.path, line, "one row per picture", &found));
                }
                entries.push(Entry {
                    row,
                    file: file.clone(),
                    stamp: *stamp,
                    split: Split::Train,
                });
            }
            [first, second, ..] => {
                let expected = "a name with its folder";
                let found = format!(
                    "{}, which may be {} or {}",
                    quoted(listed),
                    pictures[first].0,
                    pictures[second].0
                );
                return Err(line_error(&table.path, line, expected, &found));
            }
        }
    }
    Ok((entries, left_out))
}

fn hold_out(entries: &mut [Entry]) {
    let every = HELD_OUT_OF.max(entries.len().div_ceil(HELD_OUT_MOST));
    let last = entries.len() - 1;
    if (1..every).contains(&last) {
        entries[last].split = Split::HeldOut;
    }
    for entry in entries.iter_mut().skip(every - 1).step_by(every) {
        entry.split = Split::HeldOut;
    }
}

fn fingerprint(table: &AttributeTable, entries: &[Entry]) -> blake3::Hash {
    let mut hash = Fingerprint::default();
    hash.bytes(b"folder").number(table.names.len() as u64);
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

impl Source for PictureFolder {
    fn name(&self) -> &str {
        "folder"
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

    fn unlisted(&self) -> &[String] {
        &self.unlisted
    }

    fn fingerprint(&self) -> blake3::Hash {
        self.fingerprint
    }

    fn file(&self, i: usize) -> Option<Result<Vec<u8>, DataError>> {
        Some(self.store.read(&self.entries[i].file))
    }

    fn read(&self, i: usize, size: u32) -> Result<Vec<u8>, DataError> {
        let file = &self.entries[i].file;
        let bytes = self.store.read(file)?;
        picture::decode(&bytes, size, picture::middle_crop).map_err(|source| DataError::Picture {
            path: self.store.path().join(file),
            source,
        })
    }
}
