//! The folder of a run: where each file lies, who may write to it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::checkpoint;
use crate::report::files::{FileError, io_error, remove_leftovers};

/// Why a run's folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RunDirError {
    /// The file system failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The folder of a new run holds something.
    #[error("{}: the folder exists and is not empty; expected a new one: choose another --name or --out, or continue it with --resume", path.display())]
    Exists {
        /// The folder.
        path: PathBuf,
    },
    /// The folder of a run to resume is none.
    #[error("{}: no run to resume: found no config.toml; expected the folder of an earlier run", path.display())]
    NotARun {
        /// The folder.
        path: PathBuf,
    },
    /// Another process trains in it.
    #[error("{}: another process{holder} is writing to this run; expected to be alone: wait for it or stop it", path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
        /// Which one, in words; empty where that is unknown.
        holder: String,
    },
}

/// An open run folder. It is locked against other writers until it is dropped (also by a crash).
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    _lock: File,
}

impl RunDir {
    /// The folder of a new run, with `checkpoints` and `samples` in it. Errors: it holds files.
    pub fn create(path: &Path) -> Result<Self, RunDirError> {
        fs::create_dir_all(path).map_err(io_error(path, 0, "create the run's folder"))?;
        refuse_used(path)?;
        let run = Self::with(path, lock(path)?)?;
        remove_leftovers(path)?;
        Ok(run)
    }

    /// Whether [`RunDir::create`] would succeed now; leaves nothing behind. For asking before long
    /// work. Errors: the folder holds files, or cannot be made or written to.
    pub fn check_new(path: &Path) -> Result<(), RunDirError> {
        if path.exists() {
            refuse_used(path)?;
        }
        let mut existing = path;
        while !existing.exists() {
            existing = match existing.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent,
                _ => Path::new("."),
            };
        }
        let probe = existing.join(format!(".gmmk.{}.tmp", std::process::id()));
        let fail = io_error(path, 0, "create the run's folder");
        fs::create_dir(&probe).map_err(fail)?;
        Ok(fs::remove_dir(&probe).map_err(fail)?)
    }

    /// The folder of a run to resume; removes the temporary files that a crash left in it.
    pub fn resume(path: &Path) -> Result<Self, RunDirError> {
        if !path.join("config.toml").is_file() {
            return Err(RunDirError::NotARun {
                path: path.to_path_buf(),
            });
        }
        let run = Self::with(path, lock(path)?)?;
        for folder in [run.path.clone(), run.checkpoints(), run.samples()] {
            remove_leftovers(&folder)?;
        }
        Ok(run)
    }

    fn with(path: &Path, lock: File) -> Result<Self, RunDirError> {
        let run = Self {
            path: path.to_path_buf(),
            _lock: lock,
        };
        for folder in [run.checkpoints(), run.samples()] {
            fs::create_dir_all(&folder).map_err(io_error(&folder, 0, "create the folder"))?;
        }
        Ok(run)
    }

    /// The folder itself; TensorBoard's files lie in it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `config.toml`.
    pub fn config(&self) -> PathBuf {
        self.path.join("config.toml")
    }

    /// `metrics.jsonl`.
    pub fn metrics(&self) -> PathBuf {
        self.path.join("metrics.jsonl")
    }

    /// `machine.json`.
    pub fn machine(&self) -> PathBuf {
        self.path.join("machine.json")
    }

    /// `loss.png`.
    pub fn loss_plot(&self) -> PathBuf {
        self.path.join("loss.png")
    }

    /// `report.html`.
    pub fn report(&self) -> PathBuf {
        self.path.join("report.html")
    }

    /// `checkpoints/`.
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
    }

    /// `checkpoints/step-00001000.safetensors`.
    pub fn checkpoint(&self, step: u64) -> PathBuf {
        self.checkpoints().join(checkpoint::file_name(step))
    }

    /// `dump/`: what a run leaves that gave up.
    pub fn dump(&self) -> PathBuf {
        self.path.join("dump")
    }

    /// `samples/`.
    pub fn samples(&self) -> PathBuf {
        self.path.join("samples")
    }

    /// `samples/step-00001000.png`.
    pub fn sample_page(&self, step: u64) -> PathBuf {
        self.samples().join(format!("step-{step:08}.png"))
    }
}

const LOCK: &str = ".lock";

/// How often, and how long in between, a lock is asked for: [`is_locked`] holds it for an instant.
const LOCK_TRIES: u32 = 5;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// Whether a process trains in the run's folder `path`.
pub fn is_locked(path: &Path) -> bool {
    let lock = File::open(path.join(LOCK));
    lock.is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

/// Refuses a folder that holds anything but what a run leaves that was killed while it began.
fn refuse_used(path: &Path) -> Result<(), RunDirError> {
    let fail = io_error(path, 0, "list the run's folder");
    for entry in fs::read_dir(path).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_empty =
            || fs::read_dir(entry.path()).is_ok_and(|mut entries| entries.next().is_none());
        let begun = match &*name {
            LOCK => true,
            "checkpoints" | "samples" => is_empty(),
            _ => name.starts_with(".config.toml."),
        };
        if !begun {
            return Err(RunDirError::Exists {
                path: path.to_path_buf(),
            });
        }
    }
    Ok(())
}

/// The system releases the lock with the process, however that ends; the file stays, with the number of the
/// process that had it last.
fn lock(path: &Path) -> Result<File, RunDirError> {
    let file = path.join(LOCK);
    let fail = io_error(&file, 0, "lock the run's folder");
    let mut options = OpenOptions::new();
    // Not cut short: the number in it is the holder's until the lock is ours.
    options.read(true).write(true).create(true).truncate(false);
    let mut lock = options.open(&file).map_err(fail)?;
    let mut found = lock.try_lock();
    for _ in 1..LOCK_TRIES {
        if matches!(found, Err(TryLockError::WouldBlock)) {
            std::thread::sleep(LOCK_PAUSE);
            found = lock.try_lock();
        }
    }
    match found {
        Ok(()) => {
            let written = lock
                .set_len(0)
                .and_then(|()| write!(lock, "{:>10}", std::process::id()));
            written.map_err(fail)?;
            Ok(lock)
        }
        Err(TryLockError::WouldBlock) => Err(RunDirError::Locked {
            path: path.to_path_buf(),
            holder: holder(&mut lock),
        }),
        // Some network file systems have no locks: train without one.
        Err(TryLockError::Error(e)) if e.kind() == io::ErrorKind::Unsupported => Ok(lock),
        Err(TryLockError::Error(e)) => Err(fail(e).into()),
    }
}

/// Who holds the lock, as its file says; nothing where that is no number of a process.
fn holder(lock: &mut File) -> String {
    let mut number = String::new();
    let read = lock.take(20).read_to_string(&mut number);
    match number.trim_start().parse::<u32>() {
        Ok(number) if read.is_ok() => format!(" (process {number})"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_created_once_and_resumed_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("runs/a");
        let not_yet = RunDir::resume(&path).unwrap_err();
        assert!(matches!(not_yet, RunDirError::NotARun { .. }));
        let run = RunDir::create(&path).unwrap();
        assert!(run.samples().is_dir() && run.checkpoints().is_dir());
        assert!(
            run.checkpoint(7)
                .ends_with("checkpoints/step-00000007.safetensors")
        );
        assert!(run.sample_page(7).ends_with("samples/step-00000007.png"));
        fs::write(run.config(), "").unwrap();
        let second = RunDir::resume(&path).unwrap_err();
        assert!(matches!(second, RunDirError::Locked { .. }), "{second}");
        let holder = format!("another process (process {})", std::process::id());
        assert!(second.to_string().contains(&holder), "{second}");
        assert!(is_locked(&path));
        drop(run);
        assert!(!is_locked(&path) && !is_locked(dir.path()));
        let again = RunDir::create(&path).unwrap_err().to_string();
        assert!(again.contains("--resume"), "{again}");
        let leftover = path.join("checkpoints/.step-00000001.safetensors.12.tmp");
        fs::write(&leftover, "half").unwrap();
        RunDir::resume(&path).unwrap();
        assert!(!leftover.exists());
    }

    #[test]
    fn a_run_killed_while_it_began_is_no_obstacle() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        drop(RunDir::create(&path).unwrap());
        let half = path.join(".config.toml.12.tmp");
        fs::write(&half, "data").unwrap();
        RunDir::check_new(&path).unwrap();
        drop(RunDir::create(&path).unwrap());
        assert!(!half.exists());
        fs::write(path.join("samples/mine.png"), "x").unwrap();
        assert!(RunDir::check_new(&path).is_err());
        RunDir::check_new(&dir.path().join("b/c")).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_folder_with_other_things_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis.tex"), "x").unwrap();
        let refused = RunDir::create(dir.path()).unwrap_err();
        assert!(matches!(refused, RunDirError::Exists { .. }), "{refused}");
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            1,
            "nothing may be left in it"
        );
    }
}
