//! Writes packed files, and finds those written before.

use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::packed::{
    ALIGNMENT, Header, MAGIC, Origin, PREFIX, Packed, Sections, VERSION, damaged, header_hash,
};
use super::{DataError, LeftOut, Source};
use crate::report::files::free_bytes;

/// Pictures that may be decoded at once, in bytes: with as many that are written meanwhile it bounds the memory that
/// packing takes.
const CHUNK_BYTES: usize = 32 << 20;
const CHUNK_PICTURES: usize = 1024;
/// Largest picture: 8192 pixels a side make 192 MiB.
const LARGEST_SIZE: u32 = 8192;
/// How many of the rows left out the header names, and how long a reason it keeps of each.
const LEFT_OUT_NAMED: usize = 20;
const REASON_LENGTH: usize = 200;
/// Room in the header for those names: it is written last, when they are known.
const LEFT_OUT_ROOM: usize = 16 << 10;
const CHANNELS: u32 = 3;
const EXTENSION: &str = "gmmkdata";
const LOCK: &str = ".lock";

/// What packing is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Another process packs into the same folder; its result may do.
    Waiting,
    /// Pictures are decoded and written.
    Packing {
        /// Pictures done.
        done: usize,
        /// Pictures of the source.
        total: usize,
        /// Rows left out so far.
        left_out: usize,
    },
    /// The written file is read back and compared with its checksum.
    Verifying,
}

/// The folder of packed files: `$GMMK_CACHE/packed`, else `gmmk/packed` in the user's cache folder.
///
/// # Errors
/// [`DataError::NoCacheFolder`] when neither is known.
pub fn default_cache_dir() -> Result<PathBuf, DataError> {
    let own = std::env::var_os("GMMK_CACHE")
        .filter(|value| !value.is_empty())
        .map(PathBuf::from);
    own.or_else(|| Some(dirs::cache_dir()?.join("gmmk")))
        .map(|folder| folder.join("packed"))
        .ok_or(DataError::NoCacheFolder)
}

/// The packed file of `source` at `size` pixels a side in `cache_dir`, there or not.
pub fn cache_file(source: &dyn Source, size: u32, cache_dir: &Path) -> PathBuf {
    let mut hasher = blake3::Hasher::new();
    hasher.update(source.fingerprint().as_bytes());
    hasher.update(&size.to_le_bytes());
    hasher.update(&VERSION.to_le_bytes());
    let name = hasher.finalize().to_hex();
    cache_dir.join(format!("{}.{EXTENSION}", &name[..32]))
}

/// Opens the packed file of `source` at `size` x `size` pixels, packing it first where it is not
/// there, its source has changed, or it is damaged. [`Packed::origin`] tells which.
///
/// Pictures that cannot be decoded are left out and named in the file. Packing decodes on all threads
/// of the current rayon pool, holds at most about 64 MiB of pictures in memory, and either completes
/// the file or leaves nothing. `progress` is called on this thread.
///
/// # Errors
/// [`DataError::NothingLeft`] when no picture can be read, [`DataError::DiskFull`],
/// [`DataError::Io`], [`DataError::Argument`] for a size of 0 or above 8192.
pub fn open_or_pack(
    source: &dyn Source,
    size: u32,
    cache_dir: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<Packed, DataError> {
    if !(1..=LARGEST_SIZE).contains(&size) {
        return Err(DataError::Argument {
            what: "picture size in pixels",
            expected: "1 to 8192",
            found: size.into(),
        });
    }
    let path = cache_file(source, size, cache_dir);
    if let Some(Ok(packed)) = open_existing(&path, source)? {
        return Ok(packed);
    }
    std::fs::create_dir_all(cache_dir)
        .map_err(DataError::io("create the cache folder", cache_dir))?;
    let lock = lock(cache_dir, progress)?;
    // Whoever held the lock may have packed this very file.
    let origin = match open_existing(&path, source)? {
        Some(Ok(packed)) => return Ok(packed),
        Some(Err(error)) => Origin::Rebuilt {
            reason: error.to_string(),
        },
        None => Origin::Packed,
    };
    if lock.is_some() {
        remove_leftovers(cache_dir)?;
    }
    write_file(source, size, &path, progress)?;
    progress(Progress::Verifying);
    let packed = Packed::open(&path)?;
    packed.verify()?;
    Ok(packed.with_origin(origin))
}

/// The packed file if there is one: open, or what is wrong with it. An error of the system is final.
fn open_existing(
    path: &Path,
    source: &dyn Source,
) -> Result<Option<Result<Packed, DataError>>, DataError> {
    match Packed::open(path) {
        Ok(packed) => {
            let (expected, found) = (source.fingerprint().to_hex(), &packed.header().fingerprint);
            if found != expected.as_str() {
                let expected = format!("pictures of the source {expected}");
                return Ok(Some(Err(damaged(path, PREFIX as u64, &expected, found))));
            }
            Ok(Some(Ok(packed)))
        }
        Err(DataError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(None),
        Err(error @ DataError::Damaged { .. }) => Ok(Some(Err(error))),
        Err(error) => Err(error),
    }
}

/// Makes packing into a folder exclusive. None on a file system without locks: two processes that
/// pack the same set there both write it, and the later rename wins with the same content.
fn lock(cache_dir: &Path, progress: &mut dyn FnMut(Progress)) -> Result<Option<File>, DataError> {
    let path = cache_dir.join(LOCK);
    let file = File::create(&path).map_err(DataError::io(
        "write to the cache folder (or set GMMK_CACHE)",
        &path,
    ))?;
    let locked = match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            progress(Progress::Waiting);
            file.lock()
        }
        Err(TryLockError::Error(error)) => Err(error),
    };
    match locked {
        Ok(()) => Ok(Some(file)),
        Err(error) if error.kind() == ErrorKind::Unsupported => Ok(None),
        Err(error) => Err(DataError::io("lock", &path)(error)),
    }
}

/// Removes what crashed packs left. Only under the lock: no live pack has a temporary file then.
fn remove_leftovers(cache_dir: &Path) -> Result<(), DataError> {
    let entries = std::fs::read_dir(cache_dir).map_err(DataError::io("list", cache_dir))?;
    for entry in entries {
        let path = entry.map_err(DataError::io("list", cache_dir))?.path();
        let name = path.file_name().map(|name| name.to_string_lossy());
        if name
            .is_some_and(|name| name.ends_with(".tmp") && name.contains(&format!(".{EXTENSION}.")))
        {
            std::fs::remove_file(&path).map_err(DataError::io("remove the leftover", &path))?;
        }
    }
    Ok(())
}

/// A file that is removed unless it is renamed.
struct Temporary(Option<PathBuf>);

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(path) = self.0.take() {
            // Nothing better can be done with an error here; the next pack tries again.
            let _ = std::fs::remove_file(path);
        }
    }
}

fn write_file(
    source: &dyn Source,
    size: u32,
    path: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), DataError> {
    let temporary_path = path.with_extension(format!("{EXTENSION}.{}.tmp", std::process::id()));
    let mut temporary = Temporary(Some(temporary_path.clone()));
    let mut file =
        File::create(&temporary_path).map_err(DataError::io("create", &temporary_path))?;
    let needed = write_packed(source, size, &mut file, path, progress)?;
    let synced = file.sync_all();
    drop(file);
    synced
        .and_then(|()| std::fs::rename(&temporary_path, path))
        .map_err(|error| write_error(error, path, needed, needed))?;
    temporary.0 = None;
    sync_folder(path);
    Ok(())
}

/// Makes the rename last. Where folders cannot be synced the file is whole anyway, or absent.
fn sync_folder(path: &Path) {
    if let Some(folder) = path.parent().and_then(|folder| File::open(folder).ok()) {
        let _ = folder.sync_all();
    }
}

fn write_error(error: io::Error, path: &Path, needed: u64, written: u64) -> DataError {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            DataError::DiskFull {
                path: path.to_path_buf(),
                needed,
                written,
            }
        }
        _ => DataError::io("write", path)(error),
    }
}

/// The content on its way to the file: counts, hashes, and names the error.
struct Content<'a, W> {
    out: &'a mut W,
    path: &'a Path,
    hasher: blake3::Hasher,
    at: u64,
    needed: u64,
}

impl<W: Write + Seek> Content<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), DataError> {
        self.hasher.update(bytes);
        self.write_unhashed(bytes)
    }

    fn write_unhashed(&mut self, bytes: &[u8]) -> Result<(), DataError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let written = match self.out.write(rest) {
                Ok(0) => Err(ErrorKind::WriteZero.into()),
                Err(error) if error.kind() == ErrorKind::Interrupted => Ok(0),
                written => written,
            };
            let written =
                written.map_err(|error| write_error(error, self.path, self.needed, self.at))?;
            self.at += written as u64;
            rest = &rest[written..];
        }
        Ok(())
    }

    /// Zeros up to the next section.
    fn align(&mut self) -> Result<(), DataError> {
        let padding = self.at.next_multiple_of(ALIGNMENT) - self.at;
        self.write(&[0; ALIGNMENT as usize][..padding as usize])
    }
}

/// What is known of the pictures that were written.
#[derive(Default)]
struct Kept {
    attributes: Vec<u8>,
    rows: Vec<u8>,
    splits: Vec<u8>,
    left_out: Vec<LeftOut>,
}

/// Writes the packed file to `out`; returns its length.
fn write_packed<W: Write + Seek + Send>(
    source: &dyn Source,
    size: u32,
    out: &mut W,
    path: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<u64, DataError> {
    let mut header = Header {
        data_set: source.name().to_owned(),
        fingerprint: source.fingerprint().to_hex().to_string(),
        count: source.len() as u64,
        height: size,
        width: size,
        channels: CHANNELS,
        one_hot: source.one_hot(),
        attribute_names: source.attribute_names().to_vec(),
        splits: [source.len() as u64; 3],
        left_out_count: source.len() as u64,
        left_out: Vec::new(),
    };
    let room = to_json(&header, path)?.len() + LEFT_OUT_ROOM;
    let start = ((PREFIX + room) as u64).next_multiple_of(ALIGNMENT);
    let needed = Sections::new(&header, start).map_or(u64::MAX, |sections| sections.splits.end);
    if let Some(free) = free_bytes(path).filter(|&free| free < needed) {
        return Err(write_error(
            ErrorKind::StorageFull.into(),
            path,
            needed,
            free,
        ));
    }
    let mut content = Content {
        out,
        path,
        hasher: blake3::Hasher::new(),
        at: 0,
        needed,
    };
    content.write_unhashed(&vec![0; start as usize])?;
    let mut kept = write_pictures(source, size, &mut content, progress)?;
    for section in [&kept.attributes, &kept.rows, &kept.splits] {
        content.align()?;
        content.write(section)?;
    }
    header.count = kept.splits.len() as u64;
    header.splits =
        [0, 1, 2].map(|code| kept.splits.iter().filter(|&&split| split == code).count() as u64);
    header.left_out_count = kept.left_out.len() as u64;
    kept.left_out.sort_by_key(|left_out| left_out.row);
    kept.left_out.truncate(LEFT_OUT_NAMED);
    header.left_out = kept.left_out;
    let (length, hash) = (content.at, content.hasher.finalize());
    let bytes = header_bytes(header, start, length, hash, path)?;
    let failed = |error| write_error(error, path, needed, length);
    out.seek(SeekFrom::Start(0)).map_err(failed)?;
    out.write_all(&bytes).map_err(failed)?;
    out.flush().map_err(failed)?;
    Ok(length)
}

/// Decodes chunk after chunk, and writes the pictures of each in order while the next is decoded.
fn write_pictures<W: Write + Seek + Send>(
    source: &dyn Source,
    size: u32,
    content: &mut Content<'_, W>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Kept, DataError> {
    let picture = CHANNELS as usize * size as usize * size as usize;
    let chunk = (CHUNK_BYTES / picture).clamp(1, CHUNK_PICTURES);
    let (total, k) = (source.len(), source.attribute_names().len());
    let mut kept = Kept {
        left_out: source.left_out().to_vec(),
        ..Kept::default()
    };
    let report = |done, kept: &Kept, progress: &mut dyn FnMut(Progress)| {
        let left_out = kept.left_out.len();
        progress(Progress::Packing {
            done,
            total,
            left_out,
        });
    };
    report(0, &kept, progress);
    let mut decoded = (0, Vec::new());
    for start in (0..total + chunk).step_by(chunk) {
        let end = (start + chunk).min(total);
        let pictures = (start.min(total)..end).into_par_iter();
        let decode = || pictures.map(|i| read_checked(source, i, size, k)).collect();
        let write = || write_chunk(source, decoded, content, &mut kept);
        // No processor waits for the disk, or for the hash.
        let (next, written) = rayon::join(decode, write);
        written?;
        decoded = (start, next);
        report(start.min(total), &kept, progress);
    }
    if kept.splits.is_empty() {
        let first = kept.left_out.first();
        return Err(DataError::NothingLeft {
            data_set: source.name().to_owned(),
            total,
            first: first.map_or("there is none".to_owned(), |left| {
                format!("{}: {}", left.name, left.reason)
            }),
        });
    }
    Ok(kept)
}

/// A picture, or why it is left out.
type Decoded = Result<Vec<u8>, String>;

/// Writes the pictures from number `start` on.
fn write_chunk<W: Write + Seek>(
    source: &dyn Source,
    (start, pictures): (usize, Vec<Decoded>),
    content: &mut Content<'_, W>,
    kept: &mut Kept,
) -> Result<(), DataError> {
    for (i, picture) in (start..).zip(pictures) {
        let record = source.record(i);
        match picture {
            Ok(picture) => {
                content.write(&picture)?;
                kept.attributes.extend_from_slice(&record.attributes);
                kept.rows.extend_from_slice(&record.row.to_le_bytes());
                kept.splits.push(record.split as u8);
            }
            Err(reason) => kept.left_out.push(LeftOut {
                name: source.picture_name(i),
                row: record.row,
                reason: reason.chars().take(REASON_LENGTH).collect(),
            }),
        }
    }
    Ok(())
}

/// Picture `i`, or why it is left out.
fn read_checked(source: &dyn Source, i: usize, size: u32, k: usize) -> Decoded {
    let picture = source.read(i, size).map_err(|error| match error {
        // The name is kept beside the reason.
        DataError::Picture { source, .. } => source.to_string(),
        error => error.to_string(),
    })?;
    let expected = CHANNELS as usize * size as usize * size as usize;
    let attributes = source.record(i).attributes;
    if picture.len() != expected
        || attributes.len() != k
        || attributes.iter().any(|&value| value > 1)
    {
        return Err(format!(
            "expected {expected} bytes and {k} attributes of 0 or 1, found {} bytes and {} attributes",
            picture.len(),
            attributes.len()
        ));
    }
    Ok(picture)
}

/// Everything in front of the content; drops names of rows left out until it fits.
fn header_bytes(
    mut header: Header,
    start: u64,
    length: u64,
    content: blake3::Hash,
    path: &Path,
) -> Result<Vec<u8>, DataError> {
    let mut json = to_json(&header, path)?;
    while PREFIX + json.len() > start as usize && header.left_out.pop().is_some() {
        json = to_json(&header, path)?;
    }
    let mut bytes = Vec::with_capacity(start as usize);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&(json.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&start.to_le_bytes());
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(content.as_bytes());
    bytes.extend_from_slice(&[0; 32]);
    bytes.extend_from_slice(&json);
    bytes.resize(start as usize, 0);
    let hash = header_hash(&bytes);
    bytes[64..PREFIX].copy_from_slice(hash.as_bytes());
    Ok(bytes)
}

fn to_json(header: &Header, path: &Path) -> Result<Vec<u8>, DataError> {
    serde_json::to_vec(header)
        .map_err(|error| DataError::io("write the header of", path)(error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Record, Split};

    struct Flat(Vec<String>);

    impl Source for Flat {
        fn name(&self) -> &str {
            "flat"
        }
        fn attribute_names(&self) -> &[String] {
            &self.0
        }
        fn len(&self) -> usize {
            50
        }
        fn record(&self, i: usize) -> Record {
            Record {
                row: i as u64,
                attributes: vec![1],
                split: Split::Train,
            }
        }
        fn picture_name(&self, i: usize) -> String {
            i.to_string()
        }
        fn fingerprint(&self) -> blake3::Hash {
            blake3::hash(b"flat")
        }
        fn read(&self, i: usize, size: u32) -> Result<Vec<u8>, DataError> {
            Ok(vec![i as u8; 3 * (size * size) as usize])
        }
    }

    /// A disk with room for so many bytes.
    struct Small(io::Cursor<Vec<u8>>, usize);

    impl Write for Small {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            match self.1 - self.0.position() as usize {
                0 => Err(ErrorKind::StorageFull.into()),
                room => self.0.write(&bytes[..room.min(bytes.len())]),
            }
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Seek for Small {
        fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
            self.0.seek(to)
        }
    }

    fn pack(disk: &mut (impl Write + Seek + Send)) -> Result<u64, DataError> {
        let source = Flat(vec!["a".to_owned()]);
        write_packed(&source, 32, disk, Path::new("x.gmmkdata"), &mut |_| {})
    }

    #[test]
    fn a_full_disk_is_told_with_bytes() {
        let length = pack(&mut io::Cursor::new(Vec::new())).unwrap();
        for room in [0, 100, 30_000, length - 1] {
            let error = pack(&mut Small(io::Cursor::default(), room as usize)).unwrap_err();
            let DataError::DiskFull {
                needed, written, ..
            } = error
            else {
                panic!("{error}");
            };
            assert_eq!((needed, written), (length, room));
            let text = error.to_string();
            assert!(
                text.contains(&(length - room).to_string()) && text.contains("GMMK_CACHE"),
                "{text}"
            );
        }
        let mut disk = Small(io::Cursor::default(), length as usize);
        assert_eq!(pack(&mut disk).unwrap(), length);
        assert_eq!(disk.0.get_ref().len() as u64, length);
    }
}
