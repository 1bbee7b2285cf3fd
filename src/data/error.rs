//! What can go wrong between a folder of pictures and a batch.

use std::io;
use std::path::{Path, PathBuf};

use super::foreign;
use super::picture::PictureError;

/// Every message names the file, the place in it, what was expected, what was found, what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried ("read", "write", ...).
        action: &'static str,
        /// File or folder.
        path: PathBuf,
        /// The system's own error.
        source: io::Error,
    },
    /// A folder lacks a data set or a part of it.
    #[error("{}: holds no {data_set}; looked for {looked_for}; found {found}. {hint}", folder.display())]
    NotFound {
        /// The folder looked in.
        folder: PathBuf,
        /// What it should hold.
        data_set: String,
        /// Names that would have done.
        looked_for: String,
        /// Names that are there.
        found: String,
        /// What to do.
        hint: &'static str,
    },
    /// A file is not of the kind it should be: a web page, a pointer, half a download.
    #[error("{}: expected {expected}, found {found}. {hint}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
        /// What to do.
        hint: String,
    },
    /// Hardly a row of a list of attributes has a picture.
    #[error(
        "{}: of the {rows} pictures named in {} only {found} are there; the list names {listed}, the folder holds {held}. \
         Give --data the folder that the names start from",
        folder.display(), list.display()
    )]
    FewPictures {
        /// The picture folder.
        folder: PathBuf,
        /// The list of attributes.
        list: PathBuf,
        /// All rows.
        rows: usize,
        /// Rows with a picture.
        found: usize,
        /// A name in the list without a picture.
        listed: String,
        /// A picture without a row.
        held: String,
    },
    /// A line of a text file is not what it should be.
    #[error("{}:{line}: expected {expected}, found {found}. {hint}", path.display())]
    Line {
        /// The text file.
        path: PathBuf,
        /// Line number, from 1.
        line: u64,
        /// What should stand there.
        expected: String,
        /// What stands there.
        found: String,
        /// What to do.
        hint: String,
    },
    /// Bytes of a binary file are not what they should be.
    #[error("{}: offset {offset}: expected {expected}, found {found}. {hint}", path.display())]
    Damaged {
        /// The binary file.
        path: PathBuf,
        /// Byte offset.
        offset: u64,
        /// What should stand there.
        expected: String,
        /// What stands there.
        found: String,
        /// What to do.
        hint: &'static str,
    },
    /// Too many rows of the attribute file have no picture: the folder is half unpacked.
    #[error(
        "{}: {missing} of the {rows} pictures named in {} are missing, the first is {first} (line {line}); \
         at most 1 % may be. Unpack img_align_celeba.zip completely, or take the missing rows out of the list",
        folder.display(), list.display()
    )]
    MissingPictures {
        /// The picture folder.
        folder: PathBuf,
        /// The attribute file.
        list: PathBuf,
        /// Rows without a picture.
        missing: u64,
        /// All rows.
        rows: u64,
        /// File name of the first missing picture.
        first: String,
        /// Its line in the attribute file.
        line: u64,
    },
    /// One picture cannot be decoded. A pack leaves it out and goes on.
    #[error("{}: {source}", path.display())]
    Picture {
        /// The picture file.
        path: PathBuf,
        /// Why.
        source: PictureError,
    },
    /// No picture of the source could be read.
    #[error(
        "{data_set}: none of the {total} pictures can be read; the first: {first}. Get the data set again"
    )]
    NothingLeft {
        /// Name of the data set.
        data_set: String,
        /// Pictures tried.
        total: usize,
        /// Name and reason of the first.
        first: String,
    },
    /// The disk filled up while packing; the unfinished file is gone again.
    #[error(
        "{}: the disk is full: the packed file needs {needed} bytes and only {written} could be written. \
         Free {} bytes, or set GMMK_CACHE to a folder on another disk", path.display(), needed - (*written).min(*needed)
    )]
    DiskFull {
        /// The file that was being written.
        path: PathBuf,
        /// Bytes of the whole file.
        needed: u64,
        /// Bytes that fitted.
        written: u64,
    },
    /// The system names no cache folder for this user.
    #[error(
        "no cache folder is known for this user: set GMMK_CACHE to a folder that can be written"
    )]
    NoCacheFolder,
    /// A number is out of range.
    #[error("{what}: expected {expected}, found {found}")]
    Argument {
        /// Which number.
        what: &'static str,
        /// Its range.
        expected: &'static str,
        /// Its value.
        found: u64,
    },
    /// All pictures are held out.
    #[error("{}: none of its {count} pictures is a training picture. Mark rows with 0 in the split file", path.display())]
    NoTrainingPictures {
        /// The packed file.
        path: PathBuf,
        /// Pictures in it.
        count: usize,
    },
    /// The loader's thread ended early.
    #[error(
        "the thread that loads batches stopped after {images_seen} images: {reason}. Resume the run"
    )]
    LoaderStopped {
        /// First sample number of the batch that did not come.
        images_seen: u64,
        /// What the thread said.
        reason: String,
    },
}

impl DataError {
    /// For `map_err`: wraps an I/O error with what was tried on which path.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }
}

/// `text` for a message: quoted, and cut where it is long.
pub(super) fn quoted(text: &str) -> String {
    const LONGEST: usize = 60;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("`{}...`", &text[..end]),
        None => format!("`{text}`"),
    }
}

/// What lies in `folder`, for a message: at most twelve names, sorted.
pub(super) fn listing(folder: &Path) -> String {
    const MOST: usize = 12;
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) => return format!("nothing ({error})"),
    };
    // A picture folder may hold 200,000 names: a thousand are enough to say what kind it is.
    let mut names: Vec<String> = entries
        .take(1000)
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .collect();
    names.sort();
    match names.len() {
        0 => "nothing (the folder is empty)".to_owned(),
        1..=MOST => remarked(folder, &names),
        _ => format!("{}, ... and more", remarked(folder, &names[..MOST])),
    }
}

/// Names, each with what is surely wrong with the file.
fn remarked(folder: &Path, names: &[String]) -> String {
    let named = names
        .iter()
        .map(|name| match foreign::remark(&folder.join(name)) {
            Some(what) => format!("{name} ({what})"),
            None => name.clone(),
        });
    named.collect::<Vec<_>>().join(", ")
}
