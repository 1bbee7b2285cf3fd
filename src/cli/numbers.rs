//! Reading a column of numbers: text, CSV or .npy.

use super::terminal::warn;
use anyhow::{Context, Result, bail};
use std::path::Path;

/// A column of finite numbers, at least one. Errors name the file and the line.
pub fn read_numbers(path: &Path) -> Result<Vec<f64>> {
    let name = path.display();
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {name}"))?;
    let numbers = match bytes.strip_prefix(b"\x93NUMPY") {
        Some(rest) => parse_npy(rest),
        None => match std::str::from_utf8(&bytes) {
            Ok(text) => parse_text(text).map(|(header, numbers)| {
                if let Some(header) = header {
                    warn(&format!("{name}: `{header}` is taken for a header"));
                }
                numbers
            }),
            Err(_) => bail!("{name} is neither text (UTF-8) nor .npy"),
        },
    };
    let numbers = numbers.with_context(|| format!("{name}"))?;
    if numbers.is_empty() {
        bail!("{name} holds no numbers; expected one per line, or a 1-D .npy");
    }
    Ok(numbers)
}

/// The header, if there is one, and the numbers: one per line. Empty lines and what follows `#` are
/// passed over.
fn parse_text(text: &str) -> Result<(Option<String>, Vec<f64>)> {
    let (mut header, mut numbers) = (None, Vec::new());
    for (i, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let field = line.split('#').next().unwrap_or("").trim();
        let field = field.strip_suffix(',').unwrap_or(field).trim_end();
        if field.is_empty() {
            continue;
        }
        let short = || field.chars().take(40).collect::<String>();
        match field.parse::<f64>() {
            Ok(x) if x.is_finite() => numbers.push(x),
            Ok(_) => bail!("line {} is {}; expected a finite number", i + 1, short()),
            Err(_) if numbers.is_empty() && header.is_none() && is_header(field) => {
                header = Some(short());
            }
            Err(_) => bail!(
                "line {}: `{}` is not a number; expected one per line",
                i + 1,
                short()
            ),
        }
    }
    Ok((header, numbers))
}

/// The name of one column: it begins with a letter or a quote, and nothing separates it.
fn is_header(field: &str) -> bool {
    let name = field.trim_matches('"');
    name.starts_with(|c: char| c.is_alphabetic() || c == '_')
        && !name.contains([',', ';', '\t', '"'])
}

/// What follows the magic of a .npy: version, header length, header, numbers.
fn parse_npy(bytes: &[u8]) -> Result<Vec<f64>> {
    let cut = "the .npy ends inside its header";
    let major = *bytes.first().context(cut)?;
    let wide = if major == 1 { 2 } else { 4 };
    let length = bytes.get(2..2 + wide).context(cut)?;
    let length = length.iter().rev().fold(0, |n, &b| n << 8 | usize::from(b));
    let header = bytes
        .get(2 + wide..)
        .and_then(|b| b.get(..length))
        .context(cut)?;
    let header = String::from_utf8_lossy(header).replace(' ', "");
    let after = |key: &str| header.split_once(key).map_or("", |(_, rest)| rest);
    // The order of the axes (Fortran or C) makes no difference to one axis.
    let shape = after("'shape':(").split(')').next().unwrap_or("");
    let count: usize = match shape.trim_end_matches(',').parse() {
        Ok(count) if shape.ends_with(',') => count,
        _ => bail!("the .npy has shape ({shape}); expected one dimension: save x.ravel()"),
    };
    let descr = after("'descr':").split(",'").next().unwrap_or("");
    let descr = descr.trim_matches(['\'', ',', '}']);
    let (big, kind) = match descr.split_at_checked(1) {
        Some(("<", kind)) => (false, kind),
        Some((">", kind)) => (true, kind),
        _ => (false, descr),
    };
    let (size, number): (usize, fn([u8; 8]) -> f64) = match kind {
        "f8" => (8, f64::from_le_bytes),
        "f4" => (4, |b| f32::from_le_bytes(low(b)).into()),
        "i8" => (8, |b| i64::from_le_bytes(b) as f64),
        "i4" => (4, |b| i32::from_le_bytes(low(b)).into()),
        _ => bail!("the .npy has the type `{descr}`; expected f4, f8, i4 or i8"),
    };
    let data = &bytes[2 + wide + length..];
    if count.checked_mul(size) != Some(data.len()) {
        bail!(
            "the .npy has {} bytes of numbers; expected {count} x {size}",
            data.len()
        );
    }
    let read = |bytes: &[u8]| {
        let mut word = [0; 8];
        word[..size].copy_from_slice(bytes);
        if big {
            word[..size].reverse();
        }
        number(word)
    };
    let numbers: Vec<f64> = data.chunks_exact(size).map(read).collect();
    match numbers.iter().position(|x| !x.is_finite()) {
        Some(i) => bail!("x[{i}] is {}; expected a finite number", numbers[i]),
        None => Ok(numbers),
    }
}

/// The first four bytes.
fn low([a, b, c, d, ..]: [u8; 8]) -> [u8; 4] {
    [a, b, c, d]
}
