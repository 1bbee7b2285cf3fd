//! Compiled kernels on disk: one file each, named by a hash of everything that went into it.

use super::nvrtc::Image;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// The folder is kept below this size; what was used least recently goes first.
const LIMIT: u64 = 512 << 20;

/// What a process that died left half written is removed after this time. The folder has no lock: a file
/// that is younger may be another process's at work.
const ABANDONED: Duration = Duration::from_secs(3600);

/// First bytes of a file.
const MAGIC: &[u8; 8] = b"gmmkKRN1";

/// The folder.
#[derive(Clone, Debug)]
pub struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// Files live in `folder`, made when the first is written.
    pub fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_path_buf(),
        }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Number of files and their size in bytes.
    pub fn size(&self) -> (usize, u64) {
        let files = self.files();
        (files.len(), files.iter().map(|f| f.1).sum())
    }

    fn path(&self, key: &str) -> PathBuf {
        self.folder.join(format!("{key}.kernel"))
    }

    /// What was stored under `key`; `None` if nothing was, or if the file is damaged.
    pub fn get(&self, key: &str) -> Option<Image> {
        let path = self.path(key);
        let image = decode(&fs::read(&path).ok()?)?;
        // Its age is that of its last use. A read-only folder keeps its times.
        if let Ok(file) = fs::File::open(&path) {
            let _ = file.set_modified(SystemTime::now());
        }
        Some(image)
    }

    /// Stores `image` under `key`, whole or not at all. A folder that cannot be written costs time, not
    /// correctness, so failure is no error.
    pub fn put(&self, key: &str, image: &Image) {
        let temporary = self
            .folder
            .join(format!(".{key}.{}.tmp", std::process::id()));
        let written = fs::create_dir_all(&self.folder)
            .and_then(|()| fs::write(&temporary, encode(image)))
            .and_then(|()| fs::rename(&temporary, self.path(key)));
        match written {
            Ok(()) => self.shrink(),
            Err(_) => _ = fs::remove_file(temporary),
        }
    }

    fn files(&self) -> Vec<(PathBuf, u64, SystemTime)> {
        self.files_called("kernel")
    }

    /// Files with this extension: path, bytes, time of change.
    fn files_called(&self, extension: &str) -> Vec<(PathBuf, u64, SystemTime)> {
        fs::read_dir(&self.folder)
            .into_iter()
            .flatten()
            .flatten()
            .filter(|e| e.path().extension().is_some_and(|x| x == extension))
            .filter_map(|e| {
                let meta = e.metadata().ok()?;
                Some((e.path(), meta.len(), meta.modified().ok()?))
            })
            .collect()
    }

    fn shrink(&self) {
        for (path, _, changed) in self.files_called("tmp") {
            if changed.elapsed().is_ok_and(|age| age >= ABANDONED) {
                // What cannot be removed now can be the next time.
                let _ = fs::remove_file(path);
            }
        }
        let mut files = self.files();
        let mut total: u64 = files.iter().map(|f| f.1).sum();
        files.sort_by_key(|f| f.2);
        for (path, bytes, _) in files {
            if total <= LIMIT {
                break;
            }
            if fs::remove_file(path).is_ok() {
                total -= bytes;
            }
        }
    }
}

/// Magic, hash of the rest, length of the machine code, machine code, PTX.
fn encode(image: &Image) -> Vec<u8> {
    let mut body = (image.cubin.len() as u64).to_le_bytes().to_vec();
    body.extend(&image.cubin);
    body.extend(&image.ptx);
    let mut out = MAGIC.to_vec();
    out.extend(blake3::hash(&body).as_bytes());
    out.extend(body);
    out
}

fn decode(bytes: &[u8]) -> Option<Image> {
    let rest = bytes.strip_prefix(MAGIC)?;
    let (hash, body) = rest.split_at_checked(32)?;
    if blake3::hash(body).as_bytes() != hash {
        return None;
    }
    let (length, code) = body.split_at_checked(8)?;
    let length = u64::from_le_bytes(length.try_into().ok()?);
    let (cubin, ptx) = code.split_at_checked(usize::try_from(length).ok()?)?;
    Some(Image {
        cubin: cubin.to_vec(),
        ptx: ptx.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> Image {
        Image {
            cubin: (0..200).collect(),
            ptx: b".version 8.0\0".to_vec(),
        }
    }

    #[test]
    fn what_was_stored_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(&folder.path().join("kernels"));
        assert_eq!(cache.get("a"), None);
        cache.put("a", &image());
        assert_eq!(cache.get("a"), Some(image()));
        assert_eq!(cache.get("b"), None);
        assert_eq!(cache.size().0, 1);
    }

    #[test]
    fn damaged_entries_are_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path());
        cache.put("a", &image());
        let path = cache.path("a");
        let whole = fs::read(&path).unwrap();
        for i in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[i] ^= 0x10;
            fs::write(&path, &damaged).unwrap();
            assert_eq!(cache.get("a"), None, "byte {i}");
            fs::write(&path, &whole[..i]).unwrap();
            assert_eq!(cache.get("a"), None, "length {i}");
        }
        cache.put("a", &image());
        assert_eq!(cache.get("a"), Some(image()));
    }

    #[test]
    fn what_a_dead_process_left_goes_after_a_while() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path());
        let half = folder.path().join(".b.kernel.4194304.tmp");
        let file = fs::File::create(&half).unwrap();
        cache.put("a", &image());
        assert!(half.exists(), "it may be another's at work");
        file.set_modified(SystemTime::now() - 2 * ABANDONED)
            .unwrap();
        cache.put("c", &image());
        assert!(!half.exists());
        assert_eq!(cache.size().0, 2);
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_no_error() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "x").unwrap();
        let cache = Cache::new(&file);
        cache.put("a", &image());
        assert_eq!(cache.get("a"), None);
    }
}
