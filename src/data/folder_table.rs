//! The attributes of own pictures: a CSV file with one row per picture.

use std::collections::HashMap;
use std::path::Path;

use super::DataError;
use super::celeba_lists::{AttributeTable, csv_records, is_csv, line_error, read_text};
use super::error::quoted;
use super::request::normalised;

/// Most attributes: each is a token that every pixel of the deeper maps attends to.
const MOST: usize = 1024;
const EXPECTED: &str = "0 or 1, -1 or 1, no or yes, false or true";

/// Reads a CSV file (`,`, `;` or tabs) of any attributes, or a list in the form of CelebA's.
pub(super) fn read(path: &Path) -> Result<AttributeTable, DataError> {
    let text = read_text(path)?;
    let first = text.lines().next().unwrap_or("");
    if !is_csv(path) && first.trim().parse::<u64>().is_ok() {
        return AttributeTable::parse(path, &text);
    }
    let count = |delimiter: &char| first.matches(*delimiter).count();
    let delimiter = [',', ';', '\t'].into_iter().rev().max_by_key(count);
    let mut records = csv_records(path, &text, delimiter.map_or(b',', |c| c as u8));
    let (line, header) = records
        .next()
        .unwrap_or_else(|| Ok((1, csv::StringRecord::new())))?;
    if header.iter().skip(1).any(|field| value(field).is_some()) {
        let expected = "a header with the names of the attributes";
        let found = quoted(&header.iter().collect::<Vec<_>>().join(","));
        return Err(line_error(path, line, expected, &found));
    }
    let mut rows = records.peekable();
    // The header may or may not name the column of files: the first row tells.
    let fields = match rows.peek() {
        Some(Ok((_, row))) => row.len(),
        Some(Err(_)) => header.len(),
        None => return Err(line_error(path, line, "rows of pictures", "only a header")),
    };
    let unnamed = usize::from(header.len() + 1 != fields);
    let names = header.iter().skip(unnamed).map(str::to_owned).collect();
    let mut table = AttributeTable::new(path, names, line)?;
    check_names(&table, line)?;
    let mut noes = vec![None; table.names.len()];
    for record in rows {
        let (line, record) = record?;
        push(&mut table, &mut noes, line, &record)?;
    }
    table.no_duplicates()?;
    Ok(table)
}

/// Names that can be asked for, each in one way.
fn check_names(table: &AttributeTable, line: u64) -> Result<(), DataError> {
    let bad = |expected: &str, found: &str| Err(line_error(&table.path, line, expected, found));
    if table.names.len() > MOST {
        let found = format!("{} attributes", table.names.len());
        return bad(&format!("at most {MOST} attributes"), &found);
    }
    let mut known: HashMap<String, &str> = HashMap::new();
    for name in &table.names {
        if name.starts_with('-') || name.contains(',') {
            return bad(
                "a name without a comma, and no minus in front",
                &quoted(name),
            );
        }
        if let Some(other) = known.insert(normalised(name), name) {
            let expected = "names that differ in more than capitals and spaces";
            return bad(expected, &format!("{} and {}", quoted(other), quoted(name)));
        }
    }
    Ok(())
}

/// What a field says, and how it says no.
fn value(field: &str) -> Option<(u8, Option<&'static str>)> {
    Some(match field.to_ascii_lowercase().as_str() {
        "1" | "+1" | "1.0" | "true" | "yes" => (1, None),
        "0" | "0.0" => (0, Some("0")),
        "-1" | "-1.0" => (0, Some("-1")),
        "false" | "no" => (0, None),
        _ => return None,
    })
}

fn push(
    table: &mut AttributeTable,
    noes: &mut [Option<(&'static str, u64)>],
    line: u64,
    record: &csv::StringRecord,
) -> Result<(), DataError> {
    let file = record.get(0).unwrap_or("");
    if file.is_empty() || record.len() != table.names.len() + 1 {
        let expected = format!("a file name and {} values", table.names.len());
        let count = record.len().saturating_sub(1);
        let found = format!("{} and {count} values", quoted(file));
        return Err(line_error(&table.path, line, &expected, &found));
    }
    for (k, field) in record.iter().skip(1).enumerate() {
        let wrong = |expected: &str, found: &str| {
            let expected = format!("{expected} for {} of {file}", table.names[k]);
            Err(line_error(&table.path, line, &expected, found))
        };
        let Some((value, no)) = value(field) else {
            let real = field.parse::<f64>().is_ok_and(f64::is_finite);
            let what = "a real number: choose a threshold and write 0 below and 1 above it";
            let found = quoted(field);
            return match real {
                true => wrong(EXPECTED, &format!("{found}, {what}")),
                false => wrong(EXPECTED, &found),
            };
        };
        if let Some(no) = no {
            // Where both stand, one of them may mean that nobody knows.
            let (first, at) = *noes[k].get_or_insert((no, line));
            if first != no {
                let expected = format!("{first} for no, as on line {at},");
                return wrong(&expected, &quoted(field));
            }
        }
        table.values.push(value);
    }
    table.files.push(file.to_owned());
    table.lines.push(line);
    Ok(())
}
