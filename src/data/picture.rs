//! From the bytes of a picture file to a small square of RGB bytes.

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageReader};
use std::io::Cursor;

use super::foreign;

/// Side of the square crop as a fraction of the width of an aligned CelebA face: 148 of 178 pixels.
pub const CROP: (u64, u64) = (148, 178);

/// Most pixels that a byte of a file can stand for: one bit each, packed 1032 to 1, is all that PNG can do,
/// and JPEG does less. The first million are free.
const MOST_PIXELS: (u64, u64) = (1 << 20, 10_000);

/// Why a picture is bad.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PictureError {
    /// A JPEG file stops before its end-of-image marker.
    #[error(
        "truncated: expected an end-of-image marker, found the end of the file after {bytes} bytes"
    )]
    Truncated {
        /// Bytes in the file.
        bytes: usize,
    },
    /// A file that is too short for what it says.
    #[error("says that it has {width}x{height} pixels, more than its {bytes} bytes can hold")]
    Hollow {
        /// Pixels per row.
        width: u32,
        /// Rows.
        height: u32,
        /// Bytes in the file.
        bytes: usize,
    },
    /// Another file under a picture's name.
    #[error("is {0}, not a JPEG or PNG picture")]
    Foreign(String),
    /// The picture cannot be got out of its zip.
    #[error("cannot be unpacked: {0}")]
    Entry(String),
    /// The decoder gave up.
    #[error("cannot be decoded: {0}")]
    Decode(#[from] image::ImageError),
    /// The buffer does not hold the picture it should.
    #[error("a picture of {width}x{height} RGB pixels has {expected} bytes, found {found}")]
    Buffer {
        /// Pixels per row.
        width: u32,
        /// Rows.
        height: u32,
        /// Bytes of such a picture.
        expected: u64,
        /// Bytes given.
        found: u64,
    },
    /// The picture cannot be resized.
    #[error("cannot be resized from {from}x{from} to {to}x{to} pixels: {reason}")]
    Resize {
        /// Side before.
        from: u32,
        /// Side wanted.
        to: u32,
        /// What the resizer says.
        reason: String,
    },
}

/// A square cut out of a picture, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crop {
    /// Column of its left edge.
    pub x: u32,
    /// Row of its upper edge.
    pub y: u32,
    /// Width and height.
    pub side: u32,
}

/// The face crop of a picture: side = round(148/178 width), at most the height; offsets
/// floor((width - side) / 2) and floor((height - side) / 2).
///
/// A fraction of the width rather than a number of pixels, so that copies of CelebA at other sizes
/// show the same part of the face: 178x218 gives 148 at (15, 35), 89x109 gives 74 at (7, 17).
pub fn face_crop(width: u32, height: u32) -> Crop {
    let (part, whole) = CROP;
    let rounded = (2 * part * u64::from(width) + whole) / (2 * whole);
    let side = u32::try_from(rounded)
        .unwrap_or(u32::MAX)
        .min(width)
        .min(height);
    Crop {
        x: (width - side) / 2,
        y: (height - side) / 2,
        side,
    }
}

/// The largest square in the middle of a picture.
pub fn middle_crop(width: u32, height: u32) -> Crop {
    let side = width.min(height);
    Crop {
        x: (width - side) / 2,
        y: (height - side) / 2,
        side,
    }
}

/// Decodes a JPEG or PNG file, crops the face and resizes it: `size * size * 3` bytes of RGB.
///
/// # Errors
/// [`PictureError`] when the file is truncated, damaged or of another format.
pub fn decode_face(file: &[u8], size: u32) -> Result<Vec<u8>, PictureError> {
    decode(file, size, face_crop)
}

/// Decodes a JPEG or PNG file for a network of `size` pixels. Of a picture that is not square the middle
/// is taken: the face crop where the pictures are CelebA's (`faces`), else the largest square.
///
/// # Errors
/// As for [`decode_face`].
pub fn decode_picture(file: &[u8], size: u32, faces: bool) -> Result<Vec<u8>, PictureError> {
    decode(file, size, |width, height| {
        if faces && width != height {
            return face_crop(width, height);
        }
        let side = width.min(height);
        Crop {
            x: (width - side) / 2,
            y: (height - side) / 2,
            side,
        }
    })
}

/// Decodes a JPEG or PNG file, turns it upright as its camera noted, takes the square that `crop`
/// chooses and resizes it: `size * size * 3` bytes of RGB.
///
/// # Errors
/// [`PictureError`] when the file is truncated, damaged or of another format.
pub fn decode(
    file: &[u8],
    size: u32,
    crop: impl Fn(u32, u32) -> Crop,
) -> Result<Vec<u8>, PictureError> {
    let picture = open(file)?.into_rgb8();
    let (width, height) = picture.dimensions();
    let Crop { x, y, side } = crop(width, height);
    let row = 3 * side as usize;
    let mut square = Vec::with_capacity(row * side as usize);
    for y in y..y + side {
        let start = 3 * (y as usize * width as usize + x as usize);
        square.extend_from_slice(&picture.as_raw()[start..start + row]);
    }
    resize_square(square, side, size)
}

/// Decodes a JPEG or PNG file and turns it upright as its camera noted.
///
/// # Errors
/// As for [`decode`].
pub fn open(file: &[u8]) -> Result<DynamicImage, PictureError> {
    // The JPEG decoder fills what is missing with grey and reports success.
    if file.starts_with(&[0xFF, 0xD8]) && !jpeg_has_end(file) {
        return Err(PictureError::Truncated { bytes: file.len() });
    }
    let is_known = file.starts_with(&[0xFF, 0xD8]) || file.starts_with(b"\x89PNG");
    if let Some(kind) = foreign::kind(file).filter(|_| !is_known) {
        return Err(PictureError::Foreign(kind));
    }
    // The reader's usual limits: it refuses a picture of more than 512 MiB before it allocates.
    let mut decoder = ImageReader::new(Cursor::new(file))
        .with_guessed_format()
        .map_err(image::ImageError::IoError)?
        .into_decoder()?;
    check_pixels(decoder.dimensions(), file.len())?;
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut picture = DynamicImage::from_decoder(decoder)?;
    picture.apply_orientation(orientation);
    Ok(picture)
}

/// Refuses a picture that says more of its size than its file can hold, before that size is allocated.
fn check_pixels((width, height): (u32, u32), bytes: usize) -> Result<(), PictureError> {
    let (free, each) = MOST_PIXELS;
    let most = free.saturating_add(each.saturating_mul(bytes as u64));
    if u64::from(width) * u64::from(height) > most {
        return Err(PictureError::Hollow {
            width,
            height,
            bytes,
        });
    }
    Ok(())
}

/// Resizes a square of RGB bytes from `from` to `to` pixels a side; unchanged where they are equal.
///
/// Catmull-Rom convolution with the filter widened by the scale when shrinking, which is what Pillow
/// calls BICUBIC: every source pixel has its say (no aliasing), sharper than a triangle and with far
/// less ringing round hard edges than Lanczos. The same filter interpolates when enlarging.
///
/// # Errors
/// [`PictureError::Buffer`] when `rgb` has another length; [`PictureError::Resize`] for a side of 0.
pub fn resize_square(rgb: Vec<u8>, from: u32, to: u32) -> Result<Vec<u8>, PictureError> {
    let expected = 3 * u64::from(from) * u64::from(from);
    if rgb.len() as u64 != expected {
        return Err(PictureError::Buffer {
            width: from,
            height: from,
            expected,
            found: rgb.len() as u64,
        });
    }
    if from == to {
        return Ok(rgb);
    }
    let bad = |reason: String| PictureError::Resize { from, to, reason };
    if from == 0 || to == 0 {
        return Err(bad("a side of 0 pixels".to_owned()));
    }
    let source =
        ImageRef::new(from, from, &rgb, PixelType::U8x3).map_err(|error| bad(error.to_string()))?;
    let mut target = Image::new(to, to, PixelType::U8x3);
    let options = ResizeOptions::new()
        .resize_alg(ResizeAlg::Convolution(FilterType::CatmullRom))
        .use_alpha(false);
    Resizer::new()
        .resize(&source, &mut target, &options)
        .map_err(|error| bad(error.to_string()))?;
    Ok(target.into_vec())
}

/// Whether the end-of-image marker is there, skipping segments by their length: the thumbnail inside
/// an EXIF segment has an end marker of its own, and a whole file may have bytes behind its end.
fn jpeg_has_end(file: &[u8]) -> bool {
    let mut at = 2;
    loop {
        let Some(skip) = file
            .get(at..)
            .and_then(|rest| rest.iter().position(|&byte| byte == 0xFF))
        else {
            return false;
        };
        at += skip;
        while file.get(at) == Some(&0xFF) {
            at += 1;
        }
        match file.get(at) {
            None => return false,
            Some(0xD9) => return true,
            // A stuffed zero, a restart marker or another marker without a segment.
            Some(0x00 | 0x01 | 0xD0..=0xD8) => at += 1,
            Some(_) => match file.get(at + 1..at + 3) {
                Some(length) => at += 1 + usize::from(u16::from_be_bytes([length[0], length[1]])),
                None => return false,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crop_of_official_and_half_size() {
        let crop = |x, y, side| Crop { x, y, side };
        assert_eq!(face_crop(178, 218), crop(15, 35, 148));
        assert_eq!(face_crop(89, 109), crop(7, 17, 74));
        assert_eq!(face_crop(1, 1), crop(0, 0, 1));
        assert_eq!(face_crop(200, 100), crop(50, 0, 100));
        assert_eq!(face_crop(u32::MAX, 3), crop((u32::MAX - 3) / 2, 0, 3));
    }

    #[test]
    fn a_fine_checkerboard_shrinks_to_grey() {
        let side = 128_u32;
        let board: Vec<u8> = (0..side * side)
            .flat_map(|i| {
                [if (i % side + i / side).is_multiple_of(2) {
                    0
                } else {
                    255
                }; 3]
            })
            .collect();
        let small = resize_square(board, side, 32).unwrap();
        assert_eq!(small.len(), 32 * 32 * 3);
        // Nearest or plain bilinear sampling would give black and white, or moire.
        assert!(small.iter().all(|&value| (125..=130).contains(&value)));
    }

    #[test]
    fn enlarging_keeps_a_flat_colour_and_the_channel_order() {
        let flat: Vec<u8> = std::iter::repeat_n([200, 100, 7], 16).flatten().collect();
        let large = resize_square(flat, 4, 9).unwrap();
        assert!(large.chunks(3).all(|pixel| pixel == [200, 100, 7]));
    }

    #[test]
    fn odd_buffers_and_sides_are_errors() {
        assert!(resize_square(vec![0; 5], 2, 4).is_err());
        assert!(resize_square(vec![0; 12], 2, 0).is_err());
        assert!(resize_square(vec![], 0, 4).is_err());
    }

    #[test]
    fn end_marker_of_a_thumbnail_does_not_count() {
        let thumbnail = [0xFF, 0xE1, 0x00, 0x06, 0xFF, 0xD9, 0x00, 0x00];
        let mut file = vec![0xFF, 0xD8];
        file.extend(thumbnail);
        file.extend([0xFF, 0xDA, 0x00, 0x02, 0x12, 0xFF, 0x00, 0x34, 0xFF, 0xD0]);
        assert!(!jpeg_has_end(&file));
        file.extend([0xFF, 0xFF, 0xD9, 0x00]);
        assert!(jpeg_has_end(&file));
        for end in 0..file.len() - 1 {
            assert!(!jpeg_has_end(&file[..end]), "{end}");
        }
    }
}
