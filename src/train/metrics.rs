//! `metrics.jsonl`: one line of JSON per logged step.
//!
//! `{"step":100,"images":1600,"seconds":12.5,"loss":0.31,...}`: the three first keys always, then
//! whatever was measured. Each line is in the file (not in a buffer) when [`MetricsWriter::append`]
//! returns. JSON has no NaN or infinity: such a value is `null` in the file and NaN when read.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::history::History;
use crate::report::files::{Appender, FileError, io_error, replace_file};

/// Why metrics could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The file system failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// A line that is no metrics line, with others after it.
    #[error("{}:{line}: {problem}; expected an object such as {{\"step\":1,\"images\":16,\"seconds\":0.5,\"loss\":0.9}}: repair or remove the line", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// A value whose name is taken.
    #[error(
        "metrics: `{0}` is given twice, or is one of step, images and seconds; expected a name of its own"
    )]
    Name(String),
}

/// One line.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MetricsRow {
    /// Steps taken when it was logged.
    pub step: u64,
    /// Images seen.
    pub images: u64,
    /// Seconds of training, earlier parts of the run included.
    pub seconds: f64,
    /// What was measured, by name, in order.
    pub values: Vec<(String, f64)>,
}

impl MetricsRow {
    /// The value of this name.
    pub fn get(&self, name: &str) -> Option<f64> {
        let found = self.values.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| *value)
    }

    fn to_line(&self) -> Result<String, MetricsError> {
        let mut line = Map::new();
        line.insert("step".into(), self.step.into());
        line.insert("images".into(), self.images.into());
        line.insert("seconds".into(), self.seconds.into());
        for (name, value) in &self.values {
            if line.insert(name.clone(), (*value).into()).is_some() {
                return Err(MetricsError::Name(name.clone()));
            }
        }
        Ok(format!("{}\n", Value::Object(line)))
    }

    fn parse(line: &str) -> Result<Self, String> {
        let line: Value = serde_json::from_str(line).map_err(|e| e.to_string())?;
        let Value::Object(members) = line else {
            return Err("not an object".into());
        };
        let mut row = Self::default();
        let whole = |key: &str| {
            let value = members.get(key).and_then(Value::as_u64);
            value.ok_or_else(|| format!("`{key}` is missing or no whole number"))
        };
        (row.step, row.images) = (whole("step")?, whole("images")?);
        for (key, value) in &members {
            let number = match value {
                Value::Null => f64::NAN,
                other => other
                    .as_f64()
                    .ok_or_else(|| format!("`{key}` is {other}, not a number"))?,
            };
            match key.as_str() {
                "step" | "images" => {}
                "seconds" => row.seconds = number,
                _ => row.values.push((key.clone(), number)),
            }
        }
        Ok(row)
    }
}

/// Reads a file; of a long run the rows are thinned out ([`History`]). A half-written last line (no line
/// end) is left out: a crash leaves one. Any other malformed line is an error with its number.
pub fn read(path: &Path) -> Result<Vec<MetricsRow>, MetricsError> {
    let mut history = History::default();
    scan(path, |row, _| {
        history.push(row);
        Ok(())
    })?;
    Ok(history.rows().cloned().collect())
}

/// Hands out rows and their lines as they stand in the file, one after the other.
fn scan(
    path: &Path,
    mut take: impl FnMut(MetricsRow, &[u8]) -> Result<(), MetricsError>,
) -> Result<(), MetricsError> {
    let fail = io_error(path, 0, "read the metrics");
    let mut file = BufReader::new(File::open(path).map_err(fail)?);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        file.read_until(b'\n', &mut line).map_err(fail)?;
        if !line.ends_with(b"\n") {
            break;
        }
        let row = MetricsRow::parse(&String::from_utf8_lossy(&line));
        let row = row.map_err(|problem| MetricsError::Line {
            path: path.to_path_buf(),
            line: number,
            problem,
        })?;
        take(row, &line)?;
    }
    Ok(())
}

/// Cuts the lines past `step`, and a half-written last line, atomically; the rows kept. A missing
/// file stays missing. Lines that are kept do not change by a byte.
pub fn cut(path: &Path, step: u64) -> Result<History, MetricsError> {
    let (mut history, mut kept) = (History::default(), 0);
    if !path.exists() {
        return Ok(history);
    }
    scan(path, |row, line| {
        if row.step <= step {
            kept += line.len() as u64;
            history.push(row);
        }
        Ok(())
    })?;
    let size = fs::metadata(path).map_err(io_error(path, 0, "read the metrics"))?;
    if size.len() != kept {
        replace_file(path, kept, |file| {
            let fail = io_error(path, kept, "write it");
            let mut out = BufWriter::new(file);
            scan(path, |row, line| match row.step <= step {
                true => Ok(out.write_all(line).map_err(fail)?),
                false => Ok(()),
            })?;
            Ok::<_, MetricsError>(out.flush().map_err(fail)?)
        })?;
    }
    Ok(history)
}

/// Appends lines.
#[derive(Debug)]
pub struct MetricsWriter(Appender);

impl MetricsWriter {
    /// A new file. Errors: there is one already.
    pub fn create(path: &Path) -> Result<Self, MetricsError> {
        Self::open(path, true)
    }

    /// Goes on after `step`: [`cut`]s the file (which may be missing) and appends to it. Also the lines kept.
    pub fn resume(path: &Path, step: u64) -> Result<(Self, History), MetricsError> {
        let history = cut(path, step)?;
        Ok((Self::open(path, false)?, history))
    }

    fn open(path: &Path, new: bool) -> Result<Self, MetricsError> {
        let fail = io_error(path, 0, "open the metrics for writing");
        Ok(Self(Appender::open(path, new).map_err(fail)?))
    }

    /// Writes one line; it is in the file, whole, when this returns.
    pub fn append(&mut self, row: &MetricsRow) -> Result<(), MetricsError> {
        Ok(self.0.append(row.to_line()?.as_bytes())?)
    }

    /// Forces what was written to the disk; called with every checkpoint.
    pub fn sync(&mut self) -> Result<(), MetricsError> {
        Ok(self.0.sync()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(step: u64) -> MetricsRow {
        MetricsRow {
            step,
            images: 16 * step,
            seconds: 0.1 * step as f64,
            values: vec![
                ("loss".into(), 1.0 / step as f64),
                ("norm".into(), f64::INFINITY),
            ],
        }
    }

    fn write(path: &Path, steps: impl Iterator<Item = u64>) {
        let mut writer = MetricsWriter::create(path).unwrap();
        steps.for_each(|step| writer.append(&row(step)).unwrap());
        writer.sync().unwrap();
    }

    #[test]
    fn lines_come_back_and_are_there_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let mut writer = MetricsWriter::create(&path).unwrap();
        for step in 1..=3 {
            writer.append(&row(step)).unwrap();
            let rows = read(&path).unwrap();
            let last = &rows[step as usize - 1];
            assert_eq!(
                (last.step, last.images, last.seconds),
                (step, 16 * step, 0.1 * step as f64)
            );
            assert_eq!(last.get("loss"), Some(1.0 / step as f64));
            assert!(last.get("norm").unwrap().is_nan() && last.get("x").is_none());
        }
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with(
            "{\"step\":1,\"images\":16,\"seconds\":0.1,\"loss\":1.0,\"norm\":null}\n"
        ));
        assert!(MetricsWriter::create(&path).is_err());
        for name in ["step", "loss"] {
            let mut twice = row(4);
            twice.values.push((name.into(), 0.0));
            assert!(matches!(writer.append(&twice), Err(MetricsError::Name(_))));
        }
    }

    /// Whatever a crash left of the last line, resuming gives the lines up to the checkpoint.
    #[test]
    fn resuming_cuts_at_the_checkpoint() {
        let dir = tempfile::tempdir().unwrap();
        let whole = dir.path().join("whole.jsonl");
        write(&whole, 1..=6);
        let bytes = fs::read(&whole).unwrap();
        let ends: Vec<usize> = (0..bytes.len()).filter(|&i| bytes[i] == b'\n').collect();
        let path = dir.path().join("cut.jsonl");
        for len in ends[3]..=bytes.len() {
            fs::write(&path, &bytes[..len]).unwrap();
            let (mut writer, _) = MetricsWriter::resume(&path, 4).unwrap();
            writer.append(&row(5)).unwrap();
            let steps: Vec<u64> = read(&path).unwrap().iter().map(|r| r.step).collect();
            let kept = if len == ends[3] {
                &[1, 2, 3, 5][..]
            } else {
                &[1, 2, 3, 4, 5]
            };
            assert_eq!(steps, kept, "{len}");
            assert_eq!(fs::read(&path).unwrap()[..ends[2]], bytes[..ends[2]]);
        }
        assert!(cut(&dir.path().join("none"), 3).unwrap().last().is_none());
        MetricsWriter::resume(&dir.path().join("new.jsonl"), 0).unwrap();
    }

    #[test]
    fn a_damaged_line_in_the_middle_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        write(&path, 1..=3);
        let good = fs::read_to_string(&path).unwrap();
        for bad in [
            "{\"step\":2,",
            "[1]",
            "{\"images\":3}",
            "{\"step\":2,\"images\":1,\"loss\":\"x\"}",
        ] {
            let mut lines: Vec<&str> = good.lines().collect();
            lines[1] = bad;
            fs::write(&path, lines.join("\n") + "\n").unwrap();
            for error in [read(&path).unwrap_err(), cut(&path, 9).unwrap_err()] {
                let message = error.to_string();
                assert!(message.contains("metrics.jsonl:2:"), "{message}");
            }
        }
    }
}
