//! Files that are whole or not there: written to a temporary name, synced, renamed.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

/// Why a file could not be replaced.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The disk (or quota) is full.
    #[error("{}: no space left on the device; {needed} needed{free}: free some space, or choose another folder; what was there before is unchanged", path.display())]
    NoSpace {
        /// The file that was to be written.
        path: PathBuf,
        /// How much it takes, in words.
        needed: String,
        /// How much there is, and in which folder, in words; empty where that is unknown.
        free: String,
    },
    /// The file is there, but not for certain after the power fails.
    #[error("{}: the new file is there, but cannot be made to outlast a power failure: {source}", path.display())]
    Unsynced {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Any other failure.
    #[error("{}: cannot {action}: {source}; what was there before is unchanged", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// `bytes` as a person reads it: `1.2 GiB`.
pub fn human_bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "bytes";
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    if unit == "bytes" {
        format!("{bytes} bytes")
    } else {
        format!("{value:.1} {unit}")
    }
}

/// Seconds as people say them.
pub fn human_duration(seconds: f64) -> String {
    let s = seconds.max(0.0);
    match s {
        s if s < 1.0 => format!("{:.0} ms", s * 1000.0),
        s if s < 90.0 => format!("{s:.1} s"),
        s if s < 5400.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.1} h", s / 3600.0),
        s => format!("{:.1} days", s / 86_400.0),
    }
}

/// Replaces `path` by what `write` puts into a temporary file in the same folder: written, synced,
/// renamed, and the folder synced. At any instant, a crash leaves the old file or the new one.
///
/// `needed` is the size the caller expects (0: unknown): where there is less space nothing is begun.
/// Errors leave the old file and no temporary one. `write` may seek.
pub fn replace_file<E: From<FileError>>(
    path: &Path,
    needed: u64,
    write: impl FnOnce(&mut File) -> Result<(), E>,
) -> Result<(), E> {
    check_space(path, needed)?;
    let temporary = Temporary::new(path)?;
    let fail = |action| io_error(path, needed, action);
    let mut file = OpenOptions::new()
        .write(true)
        .read(true)
        .create(true)
        .truncate(true)
        .open(&temporary.0)
        .map_err(fail("create a temporary file beside it"))?;
    write(&mut file)?;
    file.sync_all().map_err(fail("write it to the disk"))?;
    drop(file);
    fs::rename(&temporary.0, path).map_err(fail("give it its name"))?;
    std::mem::forget(temporary);
    let unsynced = |source| FileError::Unsynced {
        path: path.to_path_buf(),
        source,
    };
    Ok(sync_folder(path).map_err(unsynced)?)
}

/// [`replace_file`] with bytes that are at hand.
pub fn replace_with_bytes(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let needed = bytes.len() as u64;
    replace_file(path, needed, |file| {
        io::Write::write_all(file, bytes).map_err(io_error(path, needed, "write it"))
    })
}

/// Turns an [`io::Error`] about `path` into a [`FileError`] that knows a full disk.
pub fn io_error(
    path: &Path,
    needed: u64,
    action: &'static str,
) -> impl Fn(io::Error) -> FileError + Copy {
    move |source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            no_space(path, needed, free_bytes(path))
        }
        _ => FileError::Io {
            path: path.to_path_buf(),
            action,
            source,
        },
    }
}

/// The folder of the file `path`.
fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Refuses to begin a file of `needed` bytes at `path` where there is less room.
///
/// # Errors
/// [`FileError::NoSpace`]. A file system that does not say how much it has refuses nothing.
pub fn check_space(path: &Path, needed: u64) -> Result<(), FileError> {
    match free_bytes(path).filter(|&free| free < needed) {
        Some(free) => Err(no_space(path, needed, Some(free))),
        None => Ok(()),
    }
}

/// Bytes that can be written beside `path`, whose folders need not be there yet; `None` where the file
/// system does not say.
pub fn free_bytes(path: &Path) -> Option<u64> {
    let existing = folder_of(path).ancestors().find(|folder| folder.exists());
    let space = fs4::statvfs(existing.unwrap_or(Path::new("."))).ok()?;
    (space.total_space() > 0).then(|| space.available_space())
}

fn no_space(path: &Path, needed: u64, free: Option<u64>) -> FileError {
    let words = |bytes: u64| format!("{} ({bytes} bytes)", human_bytes(bytes));
    let free = free.map(|free| format!(", {} free in {}", words(free), folder_of(path).display()));
    FileError::NoSpace {
        path: path.to_path_buf(),
        needed: if needed == 0 {
            "more".to_owned()
        } else {
            words(needed)
        },
        free: free.unwrap_or_default(),
    }
}

/// Appends to a file of records in one call to the system, so that another process sees a record
/// whole or not at all; what a full disk cut off is taken back, so that later records stay readable.
#[derive(Debug)]
pub struct Appender {
    path: PathBuf,
    file: File,
    length: u64,
}

impl Appender {
    /// Opens `path`; `new`: it must not exist yet, otherwise it is created where it is missing.
    pub fn open(path: &Path, new: bool) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.append(true).create(true).create_new(new);
        let file = options.open(path)?;
        Ok(Self {
            path: path.to_path_buf(),
            length: file.metadata()?.len(),
            file,
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends `record`. On an error the file is as it was.
    pub fn append(&mut self, record: &[u8]) -> Result<(), FileError> {
        let needed = record.len() as u64;
        if let Err(error) = io::Write::write_all(&mut self.file, record) {
            // If even this fails, the reader's own checks find the broken record.
            let _ = self.file.set_len(self.length);
            return Err(io_error(&self.path, needed, "append to it")(error));
        }
        self.length += needed;
        Ok(())
    }

    /// Forces what was appended to the disk.
    pub fn sync(&mut self) -> Result<(), FileError> {
        let fail = io_error(&self.path, 0, "write it to the disk");
        self.file.sync_data().map_err(fail)
    }
}

/// A temporary file, removed unless it was renamed.
struct Temporary(PathBuf);

impl Temporary {
    /// `.NAME.PID.tmp` beside `path`: the process number keeps two programs apart, and the form
    /// lets [`remove_leftovers`] find what a crash left.
    fn new(path: &Path) -> Result<Self, FileError> {
        let Some(name) = path.file_name() else {
            return Err(FileError::Io {
                path: path.to_path_buf(),
                action: "write to a path without a file name",
                source: io::ErrorKind::InvalidInput.into(),
            });
        };
        let name = format!(".{}.{}.tmp", name.to_string_lossy(), std::process::id());
        Ok(Self(path.with_file_name(name)))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Best effort on the way out of an error that is reported already.
        let _ = fs::remove_file(&self.0);
    }
}

/// A rename is durable only once the folder is.
#[cfg(unix)]
fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(folder_of(path))?.sync_all()
}

#[cfg(not(unix))]
fn sync_folder(_path: &Path) -> io::Result<()> {
    Ok(())
}

/// Removes the temporary files (`.NAME.PID.tmp`) that a crash left in `folder`, and returns their
/// paths. Only for a folder that no other process is writing to. A missing folder holds none.
pub fn remove_leftovers(folder: &Path) -> Result<Vec<PathBuf>, FileError> {
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(io_error(folder, 0, "list the folder"))?,
    };
    let mut removed = Vec::new();
    for entry in entries {
        let entry = entry.map_err(io_error(folder, 0, "list the folder"))?;
        let path = entry.path();
        if is_temporary(&entry.file_name().to_string_lossy()) && path.is_file() {
            fs::remove_file(&path).map_err(io_error(&path, 0, "remove the leftover"))?;
            removed.push(path);
        }
    }
    removed.sort();
    Ok(removed)
}

/// Whether the file `name` is what a crash leaves that was about to replace the file `of`.
pub fn is_temporary_of(name: &str, of: &str) -> bool {
    replaced_by(name) == Some(of)
}

fn is_temporary(name: &str) -> bool {
    replaced_by(name).is_some_and(|name| !name.is_empty())
}

/// The file that a temporary one was to replace: `NAME` of `.NAME.PID.tmp`.
fn replaced_by(name: &str) -> Option<&str> {
    let inner = name.strip_prefix('.')?.strip_suffix(".tmp")?;
    let (name, pid) = inner.rsplit_once('.')?;
    pid.parse::<u32>().is_ok().then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        replace_with_bytes(&path, b"old").unwrap();
        let failed: Result<(), FileError> = replace_file(&path, 5, |file| {
            file.write_all(b"half").unwrap();
            Err(io_error(&path, 5, "write it")(io::Error::other("broken")))
        });
        assert!(failed.unwrap_err().to_string().contains("broken"));
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(dir.path()), ["a.txt"]);
        replace_with_bytes(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(dir.path()), ["a.txt"]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_named_with_the_bytes_needed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.bin");
        let failed: Result<(), FileError> = replace_file(&path, 3 << 30, |_| {
            let mut full = OpenOptions::new().write(true).open("/dev/full").unwrap();
            full.write_all(&[0; 64])
                .map_err(io_error(&path, 3 << 30, "write it"))
        });
        let message = failed.unwrap_err().to_string();
        assert!(
            message.contains("3.0 GiB") && message.contains("a.bin"),
            "{message}"
        );
        assert!(names(dir.path()).is_empty());
    }

    #[test]
    fn records_are_appended_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        for (new, text) in [(true, "ab"), (false, "abcd")] {
            let mut log = Appender::open(&path, new).unwrap();
            log.append(&text.as_bytes()[text.len() - 2..]).unwrap();
            log.sync().unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        assert!(Appender::open(&path, true).is_err());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_record_that_does_not_fit_is_an_error() {
        let mut log = Appender::open(Path::new("/dev/full"), false).unwrap();
        let error = log.append(b"abc").unwrap_err();
        assert!(matches!(error, FileError::NoSpace { .. }), "{error}");
        assert_eq!(log.length, 0);
    }

    #[test]
    fn leftovers_are_recognised() {
        let dir = tempfile::tempdir().unwrap();
        for name in [".a.png.12.tmp", ".b.x.tmp", "c.12.tmp", ".d.tmp", "e"] {
            fs::write(dir.path().join(name), b"x").unwrap();
        }
        let removed = remove_leftovers(dir.path()).unwrap();
        assert_eq!(removed, [dir.path().join(".a.png.12.tmp")]);
        assert_eq!(names(dir.path()).len(), 4);
        assert!(
            remove_leftovers(&dir.path().join("none"))
                .unwrap()
                .is_empty()
        );
    }

    /// Nothing is begun that cannot be ended, and what was there stays.
    #[test]
    fn space_is_asked_for_before_a_file_is_begun() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        replace_with_bytes(&path, b"old").unwrap();
        let write = |_: &mut File| -> Result<(), FileError> { panic!("it was begun") };
        let error = replace_file(&path, 1 << 60, write).unwrap_err();
        assert!(matches!(error, FileError::NoSpace { .. }));
        let (message, folder) = (error.to_string(), dir.path().display());
        let free = free_bytes(&path).unwrap();
        assert!(
            message.contains("(1152921504606846976 bytes) needed"),
            "{message}"
        );
        assert!(
            message.contains(&format!(" bytes) free in {folder}")),
            "{message}"
        );
        let told = message
            .split('(')
            .nth(2)
            .unwrap()
            .split(' ')
            .next()
            .unwrap();
        let told: u64 = told.parse().unwrap();
        assert!(told.abs_diff(free) < 1 << 30, "{told} and {free}");
        assert_eq!(
            (names(dir.path()), fs::read(&path).unwrap()),
            (vec!["a".to_owned()], b"old".to_vec())
        );
    }

    #[test]
    fn a_missing_folder_is_an_error_with_its_name() {
        let error = replace_with_bytes(Path::new("/nonexistent/x"), b"").unwrap_err();
        assert!(error.to_string().contains("/nonexistent/x"), "{error}");
        assert!(replace_with_bytes(Path::new("/"), b"").is_err());
    }
}
