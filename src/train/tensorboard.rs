//! TensorBoard's event files, scalars and pictures: `events.out.tfevents.*`.
//!
//! A file is a sequence of TFRecords: length (u64, little-endian), masked CRC-32C of the length,
//! data, masked CRC-32C of the data. The data is a protobuf message, encoded here by hand:
//!
//! ```text
//! Event      { 1: double wall_time, 2: int64 step,
//!              3: string file_version | 5: Summary summary | 7: SessionLog session_log }
//! Summary    { 1: repeated Value value }
//! Value      { 1: string tag, 2: float simple_value | 4: Image image }
//! Image      { 1: int32 height, 2: int32 width, 3: int32 channels, 4: bytes encoded (a PNG file) }
//! SessionLog { 1: enum status }, START = 1
//! ```

use std::io;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::report::files::{Appender, FileError, io_error};

/// Writes one event file.
#[derive(Debug)]
pub struct EventWriter(Appender);

impl EventWriter {
    /// The first file of a run, in `dir`, which must exist.
    pub fn create(dir: &Path) -> Result<Self, FileError> {
        let mut writer = Self::open(dir)?;
        writer.write(&version_event(now()))?;
        Ok(writer)
    }

    /// The next file of a run that goes on after `step`. Earlier files are left alone, since
    /// TensorBoard reads all of them as one run; a restart is recorded, so that it forgets what they
    /// hold past `step`.
    pub fn resume(dir: &Path, step: u64) -> Result<Self, FileError> {
        let mut writer = Self::create(dir)?;
        writer.write(&restart_event(now(), step + 1))?;
        Ok(writer)
    }

    fn open(dir: &Path) -> Result<Self, FileError> {
        let (seconds, pid) = (now() as u64, std::process::id());
        let mut attempt = 0;
        // TensorBoard orders the files by name: the time first, then who wrote it.
        loop {
            let name = format!("events.out.tfevents.{seconds:010}.gmmk.{pid}.{attempt}");
            let path = dir.join(name);
            match Appender::open(&path, true) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists && attempt < 1000 => {
                    attempt += 1
                }
                opened => {
                    let fail = io_error(&path, 0, "create the event file");
                    return Ok(Self(opened.map_err(fail)?));
                }
            }
        }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes scalars (tag, value) of one step; they are in the file when this returns.
    pub fn scalars<'a>(
        &mut self,
        step: u64,
        values: impl IntoIterator<Item = (&'a str, f64)>,
    ) -> Result<(), FileError> {
        self.write(&scalar_event(now(), step, values))
    }

    /// Writes a picture of `[width, height]` RGB pixels, a PNG file's bytes, under `tag`.
    pub fn picture(
        &mut self,
        step: u64,
        tag: &str,
        size: [usize; 2],
        png: &[u8],
    ) -> Result<(), FileError> {
        self.write(&picture_event(now(), step, tag, size, png))
    }

    fn write(&mut self, event: &[u8]) -> Result<(), FileError> {
        self.0.append(&record(event))
    }
}

/// Seconds since 1970; 0 on a clock before it.
fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0.0, |d| d.as_secs_f64())
}

/// CRC-32C, rotated and offset, so that a checksum of data that hold checksums is still a good one.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data)
        .rotate_right(15)
        .wrapping_add(0xa282_ead8)
}

fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut out = Vec::with_capacity(data.len() + 16);
    out.extend(length);
    out.extend(masked_crc(&length).to_le_bytes());
    out.extend(data);
    out.extend(masked_crc(data).to_le_bytes());
    out
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A field's number and wire type: 0 varint, 1 eight bytes, 2 length-delimited, 5 four bytes.
fn key(out: &mut Vec<u8>, field: u64, wire: u64) {
    varint(out, field << 3 | wire);
}

fn bytes_field(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    key(out, field, 2);
    varint(out, bytes.len() as u64);
    out.extend(bytes);
}

fn event(wall_time: f64) -> Vec<u8> {
    let mut out = Vec::new();
    key(&mut out, 1, 1);
    out.extend(wall_time.to_le_bytes());
    out
}

fn version_event(wall_time: f64) -> Vec<u8> {
    let mut out = event(wall_time);
    bytes_field(&mut out, 3, b"brain.Event:2");
    out
}

/// TensorBoard drops what earlier files have at `step` and later.
fn restart_event(wall_time: f64, step: u64) -> Vec<u8> {
    let mut out = event(wall_time);
    key(&mut out, 2, 0);
    varint(&mut out, step);
    // SessionLog with status START.
    bytes_field(&mut out, 7, &[1 << 3, 1]);
    out
}

fn scalar_event<'a>(
    wall_time: f64,
    step: u64,
    values: impl IntoIterator<Item = (&'a str, f64)>,
) -> Vec<u8> {
    let mut summary = Vec::new();
    for (tag, value) in values {
        let mut entry = Vec::new();
        bytes_field(&mut entry, 1, tag.as_bytes());
        key(&mut entry, 2, 5);
        entry.extend((value as f32).to_le_bytes());
        bytes_field(&mut summary, 1, &entry);
    }
    summary_event(wall_time, step, &summary)
}

fn picture_event(
    wall_time: f64,
    step: u64,
    tag: &str,
    [width, height]: [usize; 2],
    png: &[u8],
) -> Vec<u8> {
    let mut image = Vec::with_capacity(png.len() + 32);
    for (field, value) in [(1, height), (2, width), (3, 3)] {
        key(&mut image, field, 0);
        varint(&mut image, value as u64);
    }
    bytes_field(&mut image, 4, png);
    let mut entry = Vec::new();
    bytes_field(&mut entry, 1, tag.as_bytes());
    bytes_field(&mut entry, 4, &image);
    let mut summary = Vec::new();
    bytes_field(&mut summary, 1, &entry);
    summary_event(wall_time, step, &summary)
}

fn summary_event(wall_time: f64, step: u64, summary: &[u8]) -> Vec<u8> {
    let mut out = event(wall_time);
    key(&mut out, 2, 0);
    varint(&mut out, step);
    bytes_field(&mut out, 5, summary);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CRC-32C bit by bit, from its polynomial: independent of the crate.
    fn slow_crc(data: &[u8]) -> u32 {
        !data.iter().fold(!0_u32, |crc, &byte| {
            (0..8).fold(crc ^ u32::from(byte), |crc, _| {
                (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 }
            })
        })
    }

    fn unmask(masked: &[u8]) -> u32 {
        let masked = u32::from_le_bytes(masked.try_into().unwrap());
        masked.wrapping_sub(0xa282_ead8).rotate_left(15)
    }

    fn frames(mut bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        while !bytes.is_empty() {
            let len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            assert_eq!(unmask(&bytes[8..12]), slow_crc(&bytes[..8]));
            let data = &bytes[12..12 + len];
            assert_eq!(unmask(&bytes[12 + len..16 + len]), slow_crc(data));
            out.push(data.to_vec());
            bytes = &bytes[16 + len..];
        }
        out
    }

    #[derive(Debug, PartialEq)]
    enum Field {
        Number(u64),
        Bytes(Vec<u8>),
    }

    fn read_varint(bytes: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in 0.. {
            let byte = bytes[0];
            *bytes = &bytes[1..];
            value |= u64::from(byte & 0x7f) << (7 * shift);
            if byte < 0x80 {
                break;
            }
        }
        value
    }

    /// Any protobuf message as (field, value); fixed widths as their bits.
    fn fields(mut bytes: &[u8]) -> Vec<(u64, Field)> {
        let mut out = Vec::new();
        while !bytes.is_empty() {
            let key = read_varint(&mut bytes);
            let mut take = |n: usize| {
                let (head, tail) = bytes.split_at(n);
                bytes = tail;
                head.to_vec()
            };
            let field = match key & 7 {
                1 => Field::Number(u64::from_le_bytes(take(8).try_into().unwrap())),
                5 => Field::Number(u32::from_le_bytes(take(4).try_into().unwrap()).into()),
                0 => Field::Number(read_varint(&mut bytes)),
                2 => {
                    let n = read_varint(&mut bytes) as usize;
                    let (head, tail) = bytes.split_at(n);
                    bytes = tail;
                    Field::Bytes(head.to_vec())
                }
                wire => panic!("wire type {wire}"),
            };
            out.push((key >> 3, field));
        }
        out
    }

    #[test]
    fn an_independent_decoder_reads_the_file() {
        assert_eq!(
            slow_crc(b"123456789"),
            0xe306_9283,
            "the published check value"
        );
        let dir = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::create(dir.path()).unwrap();
        let long = "x".repeat(300);
        writer.scalars(0, [("loss", 0.5)]).unwrap();
        writer
            .scalars(u64::from(u32::MAX) + 7, [("loss", f64::NAN), (&long, -2.0)])
            .unwrap();
        let frames = frames(&std::fs::read(writer.path()).unwrap());
        assert_eq!(frames.len(), 3);
        let version = fields(&frames[0]);
        assert_eq!(version[1], (3, Field::Bytes(b"brain.Event:2".to_vec())));
        let Field::Number(time) = version[0].1 else {
            panic!()
        };
        assert!(f64::from_bits(time) > 1.6e9);
        let second = fields(&frames[2]);
        assert_eq!(second[1], (2, Field::Number(u64::from(u32::MAX) + 7)));
        let (5, Field::Bytes(summary)) = &second[2] else {
            panic!()
        };
        let values: Vec<_> = fields(summary)
            .into_iter()
            .map(|(_, value)| match value {
                Field::Bytes(value) => fields(&value),
                other => panic!("{other:?}"),
            })
            .collect();
        let bits = |x: f32| Field::Number(u64::from(x.to_bits()));
        assert_eq!(
            values[1],
            [(1, Field::Bytes(long.into_bytes())), (2, bits(-2.0))]
        );
        let Field::Number(nan) = values[0][1].1 else {
            panic!()
        };
        assert!(f32::from_bits(nan as u32).is_nan());
    }

    #[test]
    fn every_part_of_a_run_has_its_own_file() {
        let dir = tempfile::tempdir().unwrap();
        let first = EventWriter::create(dir.path()).unwrap();
        let second = EventWriter::resume(dir.path(), 299).unwrap();
        assert_ne!(first.path(), second.path());
        let frames = frames(&std::fs::read(second.path()).unwrap());
        let restart = fields(&frames[1]);
        assert_eq!(restart[1], (2, Field::Number(300)));
        assert_eq!(restart[2], (7, Field::Bytes(vec![8, 1])));
        let missing = EventWriter::create(&dir.path().join("none")).unwrap_err();
        assert!(
            missing.to_string().contains("events.out.tfevents"),
            "{missing}"
        );
    }

    #[test]
    fn pictures_carry_their_size_and_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::create(dir.path()).unwrap();
        let png: Vec<u8> = (0..=255).cycle().take(700).collect();
        writer.picture(9, "samples", [300, 20], &png).unwrap();
        let frames = frames(&std::fs::read(writer.path()).unwrap());
        let event = fields(&frames[1]);
        assert_eq!(event[1], (2, Field::Number(9)));
        let inner = |field: &(u64, Field)| match field {
            (_, Field::Bytes(bytes)) => fields(bytes),
            other => panic!("{other:?}"),
        };
        let value = inner(&inner(&event[2])[0]);
        assert_eq!(value[0], (1, Field::Bytes(b"samples".to_vec())));
        assert_eq!(value[1].0, 4);
        let image = inner(&value[1]);
        let number = |field, value| (field, Field::Number(value));
        assert_eq!(image[..3], [number(1, 20), number(2, 300), number(3, 3)]);
        assert_eq!(image[3], (4, Field::Bytes(png)));
    }
}
