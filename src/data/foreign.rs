//! What a file is that is not what its name says: a refused download leaves a web page behind.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::DataError;
use super::error::quoted;

/// Bytes that are enough to tell; a web page's title stands among them.
const HEAD: u64 = 16 << 10;

/// Beginnings of files and what they are.
const KINDS: [(&[u8], &str); 7] = [
    (
        b"version https://git-lfs",
        "a Git LFS pointer instead of the file (git lfs pull gets it)",
    ),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "a gzip archive (tar xzf unpacks it)"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive (7z x unpacks it)"),
    (b"Rar!", "a rar archive"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"\x89PNG", "a PNG picture"),
];

/// What a file that begins with `head` is, where that can be told.
pub(super) fn kind(head: &[u8]) -> Option<String> {
    if head.is_empty() {
        return Some("an empty file".to_owned());
    }
    if head.len() >= 16 && head.iter().all(|&byte| byte == 0) {
        return Some("zeros: room for a download that never came".to_owned());
    }
    if let Some((_, what)) = KINDS.iter().find(|(start, _)| head.starts_with(start)) {
        return Some((*what).to_owned());
    }
    if head.get(257..262) == Some(b"ustar") {
        return Some("a tar archive (tar xf unpacks it)".to_owned());
    }
    web_page(head)
}

/// A web page, with its title and whether it speaks of a quota.
fn web_page(head: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(&head[..head.len().min(HEAD as usize)]).to_lowercase();
    let start = text.trim_start_matches(|c: char| c.is_whitespace() || c == '\u{feff}');
    if !["<!doctype html", "<html", "<head", "<!-- "]
        .iter()
        .any(|tag| start.starts_with(tag))
    {
        return None;
    }
    let title = text
        .split_once("<title>")
        .and_then(|(_, rest)| rest.split_once("</title>"));
    let title = title.map_or(String::new(), |(title, _)| {
        format!(" titled {}", quoted(title.trim()))
    });
    let quota = if text.contains("quota") {
        " (the server's download quota was used up)"
    } else {
        ""
    };
    Some(format!("a web page{title} instead of the file{quota}"))
}

/// The beginning of a file; none of a pipe or a device, which could wait for ever.
pub(super) fn head_of(path: &Path) -> Option<Vec<u8>> {
    if !path.is_file() {
        return None;
    }
    let mut head = Vec::new();
    File::open(path)
        .ok()?
        .take(HEAD)
        .read_to_end(&mut head)
        .ok()?;
    Some(head)
}

/// [`kind`] of the file at `path`.
pub(super) fn kind_of(path: &Path) -> Option<String> {
    kind(&head_of(path)?)
}

/// What a listing says behind a name: only what is surely wrong with such a file.
pub(super) fn remark(path: &Path) -> Option<String> {
    let head = head_of(path)?;
    let wrong = head.is_empty()
        || head.starts_with(KINDS[0].0)
        || web_page(&head).is_some()
        || head.iter().all(|&byte| byte == 0);
    wrong.then(|| kind(&head))?
}

/// Reads a plain file of at most `most` bytes.
///
/// # Errors
/// [`DataError::Foreign`] for a pipe, a device or a larger file, [`DataError::Io`].
pub(super) fn read_file(path: &Path, most: u64) -> Result<Vec<u8>, DataError> {
    let foreign = |found: String| DataError::Foreign {
        path: path.to_path_buf(),
        expected: format!("a file of at most {most} bytes"),
        found,
        hint: "Put the right file there".to_owned(),
    };
    let metadata = std::fs::metadata(path).map_err(DataError::io("read", path))?;
    if !metadata.is_file() {
        return Err(foreign("no plain file".to_owned()));
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(DataError::io("read", path))?;
    // One byte more tells a file that grew, or has no length, from one that fits.
    file.take(most + 1)
        .read_to_end(&mut bytes)
        .map_err(DataError::io("read", path))?;
    if bytes.len() as u64 > most {
        return Err(foreign(format!("{} bytes or more", most + 1)));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_by_their_first_bytes() {
        for (head, part) in [
            (&b""[..], "an empty file"),
            (&[0; 64], "zeros"),
            (b"PK\x03\x04rest", "a zip"),
            (b"\x1f\x8b\x08", "a gzip"),
            (
                b"version https://git-lfs.github.com/spec/v1\noid",
                "Git LFS pointer",
            ),
            (
                b"\n <!DOCTYPE html><html><title>Google Drive - Quota exceeded</title>",
                "titled `google drive - quota exceeded` instead of the file (the server's download quota",
            ),
            (b"<html><body>404", "a web page instead"),
        ] {
            let found = kind(head).unwrap();
            assert!(found.contains(part), "{found}");
        }
        assert_eq!(kind(b"000001.jpg 1 -1"), None);
    }
}
