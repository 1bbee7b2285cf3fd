//! Where picture files lie: in a folder, or in a zip that is read without unpacking.

use std::collections::HashMap;
use std::io::{Cursor, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;
use walkdir::WalkDir;
use zip::ZipArchive;

use super::DataError;
use super::foreign;
use super::packed::map_file;
use super::picture::PictureError;
use super::source::Stamp;

/// Largest picture file; a zip's entry that says or unpacks to more is not unpacked further.
const LARGEST_PICTURE: u64 = 256 << 20;
/// Sub-folders in sub-folders that are looked into.
const DEEPEST: usize = 32;

/// A folder, or a zip.
#[derive(Debug)]
pub(super) enum Store {
    Folder(PathBuf),
    Zip(Archive),
}

/// A mapped zip. Clones share the map and the table of contents, so that every thread reads with a
/// clone of its own and none waits.
#[derive(Debug)]
pub(super) struct Archive {
    path: PathBuf,
    zip: ZipArchive<Cursor<Map>>,
    /// Files by their name, `/` between folders.
    files: HashMap<String, usize>,
}

#[derive(Clone, Debug)]
struct Map(Arc<Mmap>);

impl AsRef<[u8]> for Map {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Whether a file of this name is a picture by its extension.
pub(super) fn is_picture(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|e| {
        ["jpg", "jpeg", "png"]
            .iter()
            .any(|known| e.eq_ignore_ascii_case(known))
    })
}

/// Whether a person put the file there, not a system its notes.
fn is_visible(name: &str) -> bool {
    !name
        .split('/')
        .any(|part| part.starts_with('.') || part == "__MACOSX")
}

impl Store {
    /// The folder or the zip at `path`; `hint` says where to get a better one.
    pub(super) fn open(path: &Path, hint: &str) -> Result<Self, DataError> {
        if path.is_dir() {
            return Ok(Self::Folder(path.to_path_buf()));
        }
        Archive::open(path, hint).map(Self::Zip)
    }

    /// The folder or the zip itself.
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Folder(path) => path,
            Self::Zip(archive) => &archive.path,
        }
    }

    /// Size and change of a file; `None` where there is no such file.
    pub(super) fn look(&self, name: &str) -> Result<Option<Stamp>, DataError> {
        match self {
            Self::Folder(folder) => {
                let path = folder.join(name);
                match std::fs::metadata(&path) {
                    Ok(metadata) => Ok(metadata.is_file().then(|| Stamp::of(&metadata))),
                    Err(error)
                        if matches!(
                            error.kind(),
                            ErrorKind::NotFound | ErrorKind::NotADirectory
                        ) =>
                    {
                        Ok(None)
                    }
                    Err(error) => Err(DataError::io("look at", &path)(error)),
                }
            }
            Self::Zip(archive) => Ok(archive.files.get(name).and_then(|&i| archive.stamp(i))),
        }
    }

    /// Names of all files, sorted, and their stamps.
    pub(super) fn files(&self) -> Result<Vec<(String, Stamp)>, DataError> {
        let mut files = match self {
            Self::Folder(folder) => walk(folder)?,
            Self::Zip(archive) => archive
                .files
                .iter()
                .filter_map(|(name, &i)| Some((name.clone(), archive.stamp(i)?)))
                .collect(),
        };
        files.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(files)
    }

    /// The bytes of a picture file.
    pub(super) fn read(&self, name: &str) -> Result<Vec<u8>, DataError> {
        match self {
            Self::Folder(folder) => foreign::read_file(&folder.join(name), LARGEST_PICTURE),
            Self::Zip(archive) => archive.read(name),
        }
    }
}

/// Files below `folder`, linked ones too; a link back to where one came from is left.
fn walk(folder: &Path) -> Result<Vec<(String, Stamp)>, DataError> {
    let mut files = Vec::new();
    for entry in WalkDir::new(folder).follow_links(true).max_depth(DEEPEST) {
        let entry = match entry {
            Ok(entry) => entry,
            // A link in a circle, or to what is no more.
            Err(error) if error.loop_ancestor().is_some() => continue,
            Err(error)
                if error
                    .io_error()
                    .is_some_and(|e| e.kind() == ErrorKind::NotFound) =>
            {
                continue;
            }
            Err(error) => {
                let path = error.path().unwrap_or(folder).to_path_buf();
                return Err(DataError::io("list", &path)(error.into()));
            }
        };
        let Ok(below) = entry.path().strip_prefix(folder) else {
            continue;
        };
        let parts: Vec<_> = below.iter().map(|part| part.to_string_lossy()).collect();
        let name = parts.join("/");
        if entry.file_type().is_file() && is_visible(&name) {
            let metadata = entry
                .metadata()
                .map_err(|error| DataError::io("look at", entry.path())(error.into()))?;
            files.push((name, Stamp::of(&metadata)));
        }
    }
    Ok(files)
}

impl Archive {
    fn open(path: &Path, hint: &str) -> Result<Self, DataError> {
        let foreign = |found: String| DataError::Foreign {
            path: path.to_path_buf(),
            expected: "a zip with jpg or png pictures".to_owned(),
            found,
            hint: hint.to_owned(),
        };
        let Some(head) = foreign::head_of(path) else {
            return Err(foreign("no file that can be read".to_owned()));
        };
        if !head.starts_with(b"PK") {
            let kind = foreign::kind(&head).unwrap_or_else(|| "a file of another kind".to_owned());
            return Err(foreign(kind));
        }
        let map = map_file(path)?;
        let bytes = map.len();
        let zip = ZipArchive::new(Cursor::new(Map(Arc::new(map)))).map_err(|error| {
            foreign(format!(
                "{bytes} bytes of a zip without its table of contents, as of a download that was cut short ({error})"
            ))
        })?;
        let mut files = HashMap::new();
        for i in 0..zip.len() {
            let Ok(entry) = zip.by_index_data(i) else {
                continue;
            };
            let Ok(name) = entry.name() else { continue };
            let name = name.replace('\\', "/");
            if entry.is_file() && is_visible(&name) {
                files.insert(name, i);
            }
        }
        let archive = Self {
            path: path.to_path_buf(),
            zip,
            files,
        };
        if !archive.files.keys().any(|name| is_picture(name)) {
            return Err(foreign(archive.contents()));
        }
        Ok(archive)
    }

    /// What a zip without pictures holds.
    fn contents(&self) -> String {
        let mut names: Vec<&str> = self.files.keys().map(String::as_str).collect();
        names.sort_unstable();
        let count = names.len();
        names.truncate(5);
        match (count, names.iter().find(|name| name.ends_with(".zip"))) {
            (0, _) => "an empty zip".to_owned(),
            (_, Some(inner)) => {
                format!("a zip of zips: unpack it once, and take {inner} that is in it")
            }
            _ => format!("{count} files without a picture: {}", names.join(", ")),
        }
    }

    fn stamp(&self, i: usize) -> Option<Stamp> {
        let entry = self.zip.by_index_data(i).ok()?;
        Some(Stamp {
            size: entry.size(),
            changed: entry.crc32().into(),
        })
    }

    /// The bytes of one file of the zip.
    pub(super) fn read(&self, name: &str) -> Result<Vec<u8>, DataError> {
        let bad = |reason: String| DataError::Picture {
            path: self.path.join(name),
            source: PictureError::Entry(reason),
        };
        let &i = self
            .files
            .get(name)
            .ok_or_else(|| bad("it is not there".to_owned()))?;
        let mut zip = self.zip.clone();
        let entry = zip.by_index(i).map_err(|error| bad(error.to_string()))?;
        if entry.size() > LARGEST_PICTURE {
            return Err(bad(format!(
                "it says that it unpacks to {} bytes; at most {LARGEST_PICTURE} are read",
                entry.size()
            )));
        }
        // What it says of its size is checked, not trusted: nothing is allocated by it.
        let mut bytes = Vec::new();
        entry
            .take(LARGEST_PICTURE + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| bad(error.to_string()))?;
        if bytes.len() as u64 > LARGEST_PICTURE {
            return Err(bad(format!(
                "it unpacks to more than {LARGEST_PICTURE} bytes"
            )));
        }
        Ok(bytes)
    }

    /// The zip itself.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The folder of the zip with the most pictures, with a `/` behind it; empty for the top.
    pub(super) fn picture_folder(&self) -> String {
        let mut counts: HashMap<&str, usize> = HashMap::new();
        for name in self.files.keys().filter(|name| is_picture(name)) {
            let folder = name.rfind('/').map_or("", |end| &name[..=end]);
            *counts.entry(folder).or_default() += 1;
        }
        let most = counts
            .into_iter()
            .max_by(|a, b| a.1.cmp(&b.1).then(b.0.cmp(a.0)));
        most.map_or(String::new(), |(folder, _)| folder.to_owned())
    }

    /// The file of this name in any folder of the zip.
    pub(super) fn find_file(&self, file: &str) -> Option<&str> {
        let mut found: Vec<&str> = self
            .files
            .keys()
            .map(String::as_str)
            .filter(|name| name.rsplit('/').next() == Some(file))
            .collect();
        found.sort_unstable();
        found.first().copied()
    }
}
