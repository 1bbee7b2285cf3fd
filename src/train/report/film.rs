//! The sample pages of a run: the latest, and how it came to be.

use std::fmt::Write;
use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use super::grouped;
use crate::data::picture;
use crate::report::files::{FileError, io_error};
use crate::report::html::png_address;
use crate::train::runs::Run;

/// Pages in the film, the latest not counted.
const PAGES: usize = 9;
/// Bytes of all pages together, as PNG files.
const BYTES: usize = 4 << 20;

/// The latest page and a film of those before.
pub(super) fn samples(run: &Run) -> Result<String, FileError> {
    let mut pages = list(&run.path.join("samples"))?;
    let Some((step, path)) = pages.pop() else {
        let every = run.config.sample_every;
        return Ok(format!(
            "<p class=\"soft\">The first page is drawn after {every}.</p>\n"
        ));
    };
    let latest = bounded(load(&path)?, BYTES / 2);
    let mut left = BYTES - latest.len();
    let mut out = String::from(
        "<p class=\"soft\">The same noise and the same attributes on every page; averaged weights.</p>\n",
    );
    figure(&mut out, "page", run, step, &latest);
    let film = choose(pages, PAGES);
    let share = left / film.len().max(1);
    let mut frames = String::new();
    for (step, path) in film {
        let png = bounded(load(&path)?, share.min(left));
        left -= png.len();
        figure(&mut frames, "frame", run, step, &png);
    }
    if !frames.is_empty() {
        let _ = writeln!(
            out,
            "<h3>How it came to be</h3>\n<div class=\"film\">\n{frames}</div>"
        );
    }
    Ok(out)
}

fn figure(out: &mut String, class: &str, run: &Run, step: u64, png: &[u8]) {
    let images = step.saturating_mul(run.config.batch);
    let _ = writeln!(
        out,
        "<figure class=\"{class}\"><img alt=\"samples at step {step}\" src=\"{}\"/><figcaption><p>step {}, {} images</p></figcaption></figure>",
        png_address(png),
        grouped(step),
        grouped(images)
    );
}

/// The pages by step.
fn list(dir: &Path) -> Result<Vec<(u64, PathBuf)>, FileError> {
    if !dir.is_dir() {
        return Ok(Vec::new());
    }
    let fail = io_error(dir, 0, "list the sample pages");
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned());
        let step = name
            .as_deref()
            .and_then(|n| n.strip_prefix("step-")?.strip_suffix(".png")?.parse().ok());
        found.extend(step.map(|step| (step, path)));
    }
    found.sort();
    Ok(found)
}

fn load(path: &Path) -> Result<Vec<u8>, FileError> {
    fs::read(path).map_err(io_error(path, 0, "read the sample page"))
}

/// At most `count` of `all`, evenly spread, the first and the last among them.
fn choose<T>(all: Vec<T>, count: usize) -> Vec<T> {
    let n = all.len();
    let wanted = |i: &usize| n <= count || (0..count).any(|j| j * (n - 1) / (count - 1) == *i);
    let numbered = all.into_iter().enumerate();
    numbered
        .filter(|(i, _)| wanted(i))
        .map(|(_, item)| item)
        .collect()
}

/// A PNG file of at most `bytes`: the one given, or a smaller picture of it. What is no PNG file, or
/// cannot be made so small, becomes a single pixel.
fn bounded(png: Vec<u8>, bytes: usize) -> Vec<u8> {
    if png.len() <= bytes && png.starts_with(b"\x89PNG") {
        return png;
    }
    let mut picture = picture::open(&png).unwrap_or_else(|_| image::DynamicImage::new_rgb8(1, 1));
    loop {
        let mut small = Vec::new();
        let written = picture.write_to(&mut Cursor::new(&mut small), image::ImageFormat::Png);
        let least = picture.width() <= 1 && picture.height() <= 1;
        if least || (written.is_ok() && small.len() <= bytes) {
            return small;
        }
        let half = |side: u32| (side / 2).max(1);
        picture = picture.thumbnail_exact(half(picture.width()), half(picture.height()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::picture::Picture;

    #[test]
    fn the_ends_of_the_film_are_always_there() {
        for n in 0..60 {
            let chosen = choose((0..n).collect(), PAGES);
            assert_eq!(chosen.len(), n.min(PAGES));
            assert_eq!(chosen.first(), (n > 0).then_some(&0));
            assert_eq!(chosen.last().copied(), n.checked_sub(1));
        }
    }

    #[test]
    fn pages_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let rgb: Vec<u8> = (0..3 * 200 * 100_u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
            .collect();
        let picture = Picture::from_rgb(200, 100, rgb).unwrap();
        let png = picture.save_png(&dir.path().join("a.png")).unwrap();
        assert_eq!(bounded(png.clone(), png.len()), png);
        let small = bounded(png.clone(), png.len() - 1);
        let read = image::load_from_memory(&small).unwrap();
        assert!(small.len() < png.len());
        assert_eq!((read.width(), read.height()), (100, 50));
        for bytes in [bounded(b"no picture".to_vec(), 1 << 20), bounded(png, 10)] {
            assert!(image::load_from_memory(&bytes).unwrap().width() >= 1);
        }
    }
}
