//! An RGB picture in memory: conversion from the network's range, text, PNG.

use std::path::Path;

use image::ImageEncoder;

use super::files::{FileError, replace_with_bytes};

/// More pixels than this are a mistake, not a picture.
const MAX_PIXELS: usize = 1 << 28;

/// Why a picture could not be made or written.
#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    /// A buffer that does not match its size.
    #[error("picture: {found} values; expected {expected} ({what})")]
    Length {
        /// Values found.
        found: usize,
        /// Values expected.
        expected: usize,
        /// The shape, in words.
        what: String,
    },
    /// A number of channels that is not a colour or a grey value.
    #[error("picture: {channels} channels; expected 1 (grey) or 3 (RGB)")]
    Channels {
        /// Channels found.
        channels: usize,
    },
    /// A picture of no or of absurdly many pixels.
    #[error("picture: {width} x {height} pixels; expected at least 1 and at most 2^28 in all")]
    Size {
        /// Width.
        width: usize,
        /// Height.
        height: usize,
    },
    /// Pictures of one sheet that differ in size.
    #[error(
        "sheet: picture {number} is {width} x {height} pixels; expected {expected_width} x {expected_height}, as the first"
    )]
    Mixed {
        /// Which picture, from 0.
        number: usize,
        /// Its width.
        width: usize,
        /// Its height.
        height: usize,
        /// Width of the first.
        expected_width: usize,
        /// Height of the first.
        expected_height: usize,
    },
    /// A sheet without pictures, columns or size.
    #[error("sheet: {0}")]
    Sheet(&'static str),
    /// The plotting library failed.
    #[error("figure: cannot draw: {0}")]
    Plot(String),
    /// The encoder failed.
    #[error("{path}: cannot encode PNG: {source}")]
    Encode {
        /// The file that was to be written.
        path: String,
        /// What the encoder said.
        source: image::ImageError,
    },
    /// The file could not be written.
    #[error(transparent)]
    File(#[from] FileError),
}

/// RGB, 8 bits per channel, rows from the top.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    width: usize,
    height: usize,
    rgb: Vec<u8>,
}

/// One value of the network's range `[-1, 1]` as a byte: round(127.5 (x + 1)), clamped to 0..=255.
/// NaN becomes 0, so that a broken sample is black and not an error in the middle of a run.
pub fn to_byte(x: f32) -> u8 {
    // A float cast saturates and maps NaN to 0.
    (127.5 * (x + 1.0)).round() as u8
}

impl Picture {
    /// A picture of one colour. Errors: no pixels, or more than 2^28.
    pub fn filled(width: usize, height: usize, colour: [u8; 3]) -> Result<Self, PictureError> {
        match width.checked_mul(height) {
            Some(pixels) if (1..=MAX_PIXELS).contains(&pixels) => Ok(Self {
                width,
                height,
                rgb: colour.repeat(pixels),
            }),
            _ => Err(PictureError::Size { width, height }),
        }
    }

    /// A picture from RGB bytes `[height, width, 3]`.
    pub fn from_rgb(width: usize, height: usize, rgb: Vec<u8>) -> Result<Self, PictureError> {
        let expected = Self::filled(width, height, [0; 3])?.rgb.len();
        if rgb.len() != expected {
            return Err(PictureError::Length {
                found: rgb.len(),
                expected,
                what: format!("{height} x {width} x 3"),
            });
        }
        Ok(Self { width, height, rgb })
    }

    /// The B pictures of a batch `data` `[B, H, W, C]` in `[-1, 1]`, C = 1 (grey) or 3; see [`to_byte`].
    pub fn from_batch(data: &[f32], [b, h, w, c]: [usize; 4]) -> Result<Vec<Self>, PictureError> {
        if c != 1 && c != 3 {
            return Err(PictureError::Channels { channels: c });
        }
        let expected = [h, w, c].iter().try_fold(b, |a, &x| a.checked_mul(x));
        if expected != Some(data.len()) {
            return Err(PictureError::Length {
                found: data.len(),
                expected: expected.unwrap_or(usize::MAX),
                what: format!("{b} x {h} x {w} x {c}"),
            });
        }
        Self::filled(w, h, [0; 3])?;
        Ok(data
            .chunks_exact(h * w * c)
            .map(|sample| Self {
                width: w,
                height: h,
                rgb: match c {
                    1 => sample.iter().flat_map(|&x| [to_byte(x); 3]).collect(),
                    _ => sample.iter().map(|&x| to_byte(x)).collect(),
                },
            })
            .collect())
    }

    /// Width in pixels.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Height in pixels.
    pub fn height(&self) -> usize {
        self.height
    }

    /// The bytes `[height, width, 3]`.
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }

    /// Colour at (x, y); `None` outside.
    pub fn pixel(&self, x: usize, y: usize) -> Option<[u8; 3]> {
        if x >= self.width || y >= self.height {
            return None;
        }
        let at = 3 * (y * self.width + x);
        Some([self.rgb[at], self.rgb[at + 1], self.rgb[at + 2]])
    }

    /// Fills the rectangle at (x, y), clipped to the picture.
    pub fn rectangle(&mut self, x: usize, y: usize, width: usize, height: usize, colour: [u8; 3]) {
        let (x0, x1) = (x.min(self.width), x.saturating_add(width).min(self.width));
        let (y0, y1) = (
            y.min(self.height),
            y.saturating_add(height).min(self.height),
        );
        for y in y0..y1 {
            let row = &mut self.rgb[3 * (y * self.width + x0)..3 * (y * self.width + x1)];
            for pixel in row.chunks_exact_mut(3) {
                pixel.copy_from_slice(&colour);
            }
        }
    }

    /// Copies `other`, every pixel as a square of `scale`, to (x, y), clipped to this picture.
    pub fn paste(&mut self, other: &Picture, x: usize, y: usize, scale: usize) {
        for (row, line) in other.rgb.chunks_exact(3 * other.width).enumerate() {
            for (column, pixel) in line.chunks_exact(3).enumerate() {
                let colour = [pixel[0], pixel[1], pixel[2]];
                self.rectangle(x + column * scale, y + row * scale, scale, scale, colour);
            }
        }
    }

    /// Mixes `colour` into the pixel at (x, y) by `share` in 0..=1; outside: nothing.
    pub fn blend(&mut self, x: i64, y: i64, colour: [u8; 3], share: f32) {
        let inside = |at: i64, size: usize| usize::try_from(at).ok().filter(|&at| at < size);
        if let (Some(x), Some(y)) = (inside(x, self.width), inside(y, self.height)) {
            let at = 3 * (y * self.width + x);
            for (value, colour) in self.rgb[at..at + 3].iter_mut().zip(colour) {
                let (old, new) = (f32::from(*value), f32::from(colour));
                *value = (old + (new - old) * share.clamp(0.0, 1.0)).round() as u8;
            }
        }
    }

    /// The picture as a PNG file, replaced atomically; the file's bytes.
    pub fn save_png(&self, path: &Path) -> Result<Vec<u8>, PictureError> {
        let mut bytes = Vec::new();
        let (width, height) = (self.width as u32, self.height as u32);
        image::codecs::png::PngEncoder::new(&mut bytes)
            .write_image(&self.rgb, width, height, image::ExtendedColorType::Rgb8)
            .map_err(|source| PictureError::Encode {
                path: path.display().to_string(),
                source,
            })?;
        replace_with_bytes(path, &bytes)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_follow_the_formula() {
        for byte in 0..=255_u8 {
            assert_eq!(to_byte(f32::from(byte) / 127.5 - 1.0), byte);
        }
        assert_eq!(
            [-7.0, 7.0, f32::NAN, f32::INFINITY].map(to_byte),
            [0, 255, 0, 255]
        );
    }

    #[test]
    fn batches_of_grey_and_colour() {
        let data = [-1.0, 0.0, 1.0, -1.0, 1.0, 0.2];
        let colour = Picture::from_batch(&data, [1, 2, 1, 3]).unwrap();
        assert_eq!(colour[0].pixel(0, 0), Some([0, 128, 255]));
        let grey = Picture::from_batch(&data, [2, 1, 3, 1]).unwrap();
        assert_eq!(grey[1].pixel(1, 0), Some([255; 3]));
        assert!(Picture::from_batch(&data, [1, 3, 1, 2]).is_err());
        assert!(Picture::from_batch(&data, [1, 3, 2, 3]).is_err());
        assert!(Picture::from_batch(&[], [3, 0, 0, 3]).is_err());
        assert!(Picture::from_rgb(2, 2, vec![0; 11]).is_err());
        assert!(Picture::filled(1 << 20, 1 << 20, [0; 3]).is_err());
    }

    #[test]
    fn blending_mixes_and_clips() {
        let mut picture = Picture::filled(2, 1, [0, 100, 200]).unwrap();
        picture.blend(1, 0, [100, 0, 200], 0.25);
        picture.blend(2, 0, [9; 3], 1.0);
        picture.blend(-1, 0, [9; 3], 1.0);
        assert_eq!(picture.rgb(), [0, 100, 200, 25, 75, 200]);
    }

    #[test]
    fn png_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.png");
        let mut picture = Picture::filled(5, 3, [1, 2, 3]).unwrap();
        picture.rectangle(1, 1, 9, 1, [200, 0, 9]);
        picture.save_png(&path).unwrap();
        let back = image::open(&path).unwrap().into_rgb8();
        assert_eq!((back.width(), back.height()), (5, 3));
        assert_eq!(back.as_raw(), picture.rgb());
        assert!(picture.save_png(&dir.path().join("no/a.png")).is_err());
    }
}
