//! Attribute rows as text: each row's bits, the first attribute lowest, in bytes of two hex digits;
//! rows separated by commas.

/// `rows` of `width` values 0 or 1. Errors, in words: (what, found, expected).
pub(super) fn encode(rows: &[Vec<u8>], width: usize, most: usize) -> Result<String, [String; 3]> {
    if rows.len() > most {
        return Err([
            "the number of attribute rows".into(),
            rows.len().to_string(),
            format!("at most {most}"),
        ]);
    }
    let mut text = String::new();
    for (i, row) in rows.iter().enumerate() {
        if row.len() != width || row.iter().any(|&v| v > 1) {
            return Err([
                format!("attribute row {i}"),
                format!("{row:?}"),
                format!("{width} values, 0 or 1"),
            ]);
        }
        if i > 0 {
            text.push(',');
        }
        for bits in row.chunks(8) {
            let byte = bits.iter().rev().fold(0, |byte, &bit| byte << 1 | bit);
            text.push_str(&format!("{byte:02x}"));
        }
    }
    Ok(text)
}

/// The inverse of [`encode`]; `None` for text that it cannot have written.
pub(super) fn decode(text: &str, width: usize) -> Option<Vec<Vec<u8>>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    let row = |hex: &str| -> Option<Vec<u8>> {
        if !hex.bytes().all(|b| b.is_ascii_hexdigit()) || hex.len() != 2 * width.div_ceil(8) {
            return None;
        }
        let bytes: Option<Vec<u8>> = (0..hex.len())
            .step_by(2)
            .map(|i| u8::from_str_radix(&hex[i..i + 2], 16).ok())
            .collect();
        let bytes = bytes?;
        let bit = |i: usize| bytes[i / 8] >> (i % 8) & 1;
        let spare = (width..8 * bytes.len()).any(|i| bit(i) == 1);
        (!spare).then(|| (0..width).map(bit).collect())
    };
    text.split(',').map(row).collect()
}
