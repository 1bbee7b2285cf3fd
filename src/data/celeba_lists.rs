//! The text files of CelebA: attributes per picture, and which split a picture belongs to.
//!
//! Both come as the official text files (columns padded with spaces, CR LF or LF, with or without a
//! last line end) and as the CSV files of the Kaggle copy.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::error::quoted;
use super::foreign;
use super::{DataError, Split};

/// Longest list: CelebA's has 26 MB.
const LARGEST_LIST: u64 = 1 << 30;

/// The attribute file, row by row.
#[derive(Debug)]
pub(super) struct AttributeTable {
    pub(super) path: PathBuf,
    /// Names of the K attributes.
    pub(super) names: Vec<String>,
    /// Picture file names, one per row.
    pub(super) files: Vec<String>,
    /// Line number of each row, from 1.
    pub(super) lines: Vec<u64>,
    /// 0 or 1, rows x K.
    pub(super) values: Vec<u8>,
}

impl AttributeTable {
    /// Parses `list_attr_celeba.txt` or `.csv`; `path` says which, and errors name it.
    pub(super) fn parse(path: &Path, text: &str) -> Result<Self, DataError> {
        let table = if is_csv(path) {
            Self::parse_csv(path, text)?
        } else {
            Self::parse_text(path, text)?
        };
        if table.files.is_empty() {
            let last = text.lines().count() as u64;
            return Err(line_error(
                path,
                last.max(1),
                "rows of pictures",
                "the end of the file",
            ));
        }
        table.no_duplicates()?;
        Ok(table)
    }

    /// Attributes of row `row`.
    pub(super) fn row(&self, row: usize) -> &[u8] {
        &self.values[row * self.names.len()..(row + 1) * self.names.len()]
    }

    pub(super) fn new(path: &Path, names: Vec<String>, line: u64) -> Result<Self, DataError> {
        if names.is_empty() {
            return Err(line_error(
                path,
                line,
                "a header with the names of the attributes",
                "no name",
            ));
        }
        for (k, name) in names.iter().enumerate() {
            if name.is_empty() || names[..k].contains(name) {
                let expected = "a header with different names of attributes";
                return Err(line_error(
                    path,
                    line,
                    expected,
                    &format!("{} as name {}", quoted(name), k + 1),
                ));
            }
        }
        Ok(Self {
            path: path.to_path_buf(),
            names,
            files: Vec::new(),
            lines: Vec::new(),
            values: Vec::new(),
        })
    }

    fn parse_text(path: &Path, text: &str) -> Result<Self, DataError> {
        let mut lines = (1_u64..).zip(text.lines());
        let (_, first) = lines.next().unwrap_or((1, ""));
        let declared: u64 = first.trim().parse().map_err(|_| {
            line_error(
                path,
                1,
                "the number of pictures, then a line with the names of the attributes",
                &quoted(first),
            )
        })?;
        let (_, header) = lines.next().unwrap_or((2, ""));
        let names = header.split_whitespace().map(str::to_owned).collect();
        let mut table = Self::new(path, names, 2)?;
        for (line, text) in lines {
            let mut fields = text.split_whitespace();
            if let Some(file) = fields.next() {
                table.push(line, file, fields, false)?;
            }
        }
        let found = table.files.len() as u64;
        if found != declared {
            let expected = format!("the number of rows that follow ({found})");
            return Err(line_error(
                path,
                1,
                &expected,
                &format!("the count {declared}"),
            ));
        }
        Ok(table)
    }

    fn parse_csv(path: &Path, text: &str) -> Result<Self, DataError> {
        let mut records = csv_records(path, text, b',');
        let (line, header) = records
            .next()
            .unwrap_or_else(|| Ok((1, csv::StringRecord::new())))?;
        let is_row = |name: &str| matches!(name, "1" | "-1" | "0");
        if header.iter().skip(1).any(is_row) {
            let expected = "a header (image_id, names of the attributes)";
            return Err(line_error(
                path,
                line,
                expected,
                &quoted(header.get(0).unwrap_or("")),
            ));
        }
        let names = header.iter().skip(1).map(str::to_owned).collect();
        let mut table = Self::new(path, names, line)?;
        for record in records {
            let (line, record) = record?;
            if let Some(file) = record.get(0) {
                table.push(line, file, record.iter().skip(1), true)?;
            }
        }
        Ok(table)
    }

    fn push<'a>(
        &mut self,
        line: u64,
        file: &str,
        fields: impl Iterator<Item = &'a str>,
        zero_allowed: bool,
    ) -> Result<(), DataError> {
        let before = self.values.len();
        let mut count = 0;
        for field in fields {
            let value = match field {
                "1" => 1,
                "-1" => 0,
                "0" if zero_allowed => 0,
                _ => return Err(self.bad_value(line, file, count, field, zero_allowed)),
            };
            self.values.push(value);
            count += 1;
        }
        if count != self.names.len() || file.is_empty() {
            self.values.truncate(before);
            let expected = format!("a file name and {} values", self.names.len());
            return Err(line_error(
                &self.path,
                line,
                &expected,
                &format!("{} and {count} values", quoted(file)),
            ));
        }
        self.files.push(file.to_owned());
        self.lines.push(line);
        Ok(())
    }

    fn bad_value(
        &self,
        line: u64,
        file: &str,
        column: usize,
        field: &str,
        zero_allowed: bool,
    ) -> DataError {
        let attribute = self
            .names
            .get(column)
            .map_or("a column without a name", String::as_str);
        let values = if zero_allowed {
            "1, 0 or -1"
        } else {
            "1 or -1"
        };
        let expected = format!("{values} for {attribute} of {file}");
        line_error(&self.path, line, &expected, &quoted(field))
    }

    pub(super) fn no_duplicates(&self) -> Result<(), DataError> {
        let mut first: HashMap<&str, u64> = HashMap::with_capacity(self.files.len());
        for (file, &line) in self.files.iter().zip(&self.lines) {
            if let Some(earlier) = first.insert(file, line) {
                let found = format!("{} again, first on line {earlier}", quoted(file));
                return Err(line_error(&self.path, line, "one row per picture", &found));
            }
        }
        Ok(())
    }
}

/// Parses `list_eval_partition.txt` or `.csv`: file name to split.
pub(super) fn parse_splits(path: &Path, text: &str) -> Result<HashMap<String, Split>, DataError> {
    let mut splits = HashMap::new();
    if is_csv(path) {
        for record in csv_records(path, text, b',') {
            let (line, record) = record?;
            let is_header = splits.is_empty()
                && record
                    .get(1)
                    .is_some_and(|code| code.parse::<i64>().is_err());
            if !is_header {
                push_split(path, &mut splits, line, record.iter())?;
            }
        }
    } else {
        for (line, text) in (1_u64..).zip(text.lines()) {
            if !text.trim().is_empty() {
                push_split(path, &mut splits, line, text.split_whitespace())?;
            }
        }
    }
    Ok(splits)
}

fn push_split<'a>(
    path: &Path,
    splits: &mut HashMap<String, Split>,
    line: u64,
    fields: impl Iterator<Item = &'a str>,
) -> Result<(), DataError> {
    let fields: Vec<&str> = fields.collect();
    let parsed = match fields[..] {
        [file, code] => code
            .parse()
            .ok()
            .and_then(Split::from_code)
            .map(|split| (file, split)),
        _ => None,
    };
    let Some((file, split)) = parsed else {
        let expected = "a file name and 0 (train), 1 (valid) or 2 (test)";
        return Err(line_error(path, line, expected, &quoted(&fields.join(" "))));
    };
    if splits.insert(file.to_owned(), split).is_some() {
        return Err(line_error(
            path,
            line,
            "one row per picture",
            &format!("{} again", quoted(file)),
        ));
    }
    Ok(())
}

pub(super) fn is_csv(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("csv"))
}

/// The records of a CSV file with their line numbers; records of any length, fields trimmed.
pub(super) fn csv_records<'a>(
    path: &'a Path,
    text: &'a str,
    delimiter: u8,
) -> impl Iterator<Item = Result<(u64, csv::StringRecord), DataError>> + 'a {
    csv::ReaderBuilder::new()
        .has_headers(false)
        .delimiter(delimiter)
        .flexible(true)
        .trim(csv::Trim::All)
        .from_reader(text.as_bytes())
        .into_records()
        .map(move |record| {
            let place = |position: Option<&csv::Position>| position.map_or(1, csv::Position::line);
            match record {
                Ok(record) => Ok((place(record.position()), record)),
                Err(error) => {
                    let line = place(error.position());
                    Err(line_error(
                        path,
                        line,
                        "comma-separated values",
                        &error.to_string(),
                    ))
                }
            }
        })
}

pub(super) fn read_text(path: &Path) -> Result<String, DataError> {
    to_text(path, foreign::read_file(path, LARGEST_LIST)?)
}

/// The text of a list that was read from `path`.
pub(super) fn to_text(path: &Path, bytes: Vec<u8>) -> Result<String, DataError> {
    if let Some(found) = foreign::kind(&bytes).filter(|_| !bytes.is_empty()) {
        return Err(DataError::Foreign {
            path: path.to_path_buf(),
            expected: "a list in text".to_owned(),
            found,
            hint: "Get the list again".to_owned(),
        });
    }
    let mut text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = 1 + error.as_bytes()[..at]
            .iter()
            .filter(|&&byte| byte == b'\n')
            .count() as u64;
        line_error(
            path,
            line,
            "text in UTF-8",
            &format!("byte {:#04x}", error.as_bytes()[at]),
        )
    })?;
    if text.starts_with('\u{feff}') {
        text.drain(..'\u{feff}'.len_utf8());
    }
    Ok(text)
}

pub(super) fn line_error(path: &Path, line: u64, expected: &str, found: &str) -> DataError {
    DataError::Line {
        path: path.to_path_buf(),
        line,
        expected: expected.to_owned(),
        found: found.to_owned(),
        hint: "Correct the file, or get it again".to_owned(),
    }
}
