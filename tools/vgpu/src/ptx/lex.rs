//! Tokens of PTX text.

/// One token and the line (from 1) it stands in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Token<'a> {
    /// What it is.
    pub kind: Kind<'a>,
    /// Its line, counted from 1.
    pub line: u32,
}

/// Kinds of token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind<'a> {
    /// A name, opcode or directive with all its dots: `ld.global.u32`, `%tid.x`, `.reg`.
    Word(&'a str),
    /// An integer literal, as 64 bits.
    Int(u64),
    /// `0fXXXXXXXX`.
    F32(u32),
    /// `0dXXXXXXXXXXXXXXXX` or a decimal fraction.
    F64(u64),
    /// Text between quotes.
    Str(&'a str),
    /// Any other character.
    Punct(u8),
}

fn word_char(c: u8) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, b'_' | b'$' | b'%' | b'.')
}

/// The tokens of `text`, comments left out.
///
/// # Errors
///
/// A character or a number that PTX does not have, with its line.
pub fn tokens(text: &str) -> Result<Vec<Token<'_>>, String> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len() / 4);
    let (mut at, mut line) = (0, 1u32);
    while at < bytes.len() {
        let c = bytes[at];
        let start = at;
        at += 1;
        let kind = match c {
            b'\n' => {
                line += 1;
                continue;
            }
            b' ' | b'\t' | b'\r' | 0 => continue,
            b'/' if bytes.get(at) == Some(&b'/') => {
                at += bytes[at..]
                    .iter()
                    .position(|&c| c == b'\n')
                    .unwrap_or(bytes.len() - at);
                continue;
            }
            b'/' if bytes.get(at) == Some(&b'*') => {
                at = text[at..].find("*/").map_or(bytes.len(), |n| at + n + 2);
                line += count_lines(&bytes[start..at]);
                continue;
            }
            b'"' => {
                let len = text[at..]
                    .find('"')
                    .ok_or(format!("line {line}: a string without an end"))?;
                at += len + 1;
                Kind::Str(&text[start + 1..at - 1])
            }
            _ if c.is_ascii_digit() => {
                at = end_of_number(bytes, start);
                let digits = &text[start..at];
                number(digits).ok_or_else(|| format!("line {line}: no number: {digits}"))?
            }
            _ if word_char(c) => {
                at = end_of_word(bytes, start);
                Kind::Word(&text[start..at])
            }
            _ if c.is_ascii_punctuation() => Kind::Punct(c),
            _ => return Err(format!("line {line}: unexpected byte {c:#04x}")),
        };
        out.push(Token { kind, line });
    }
    Ok(out)
}

fn count_lines(bytes: &[u8]) -> u32 {
    bytes.iter().filter(|&&c| c == b'\n').count() as u32
}

/// A word goes on through `::` (as in `L2::128B`, `shared::cta`), but not through a label's colon.
fn end_of_word(bytes: &[u8], mut at: usize) -> usize {
    while at < bytes.len() {
        if word_char(bytes[at]) {
            at += 1;
        } else if bytes[at] == b':'
            && bytes.get(at + 1) == Some(&b':')
            && bytes.get(at + 2).is_some_and(|&c| word_char(c))
        {
            at += 2;
        } else {
            break;
        }
    }
    at
}

fn end_of_number(bytes: &[u8], mut at: usize) -> usize {
    while at < bytes.len() && (bytes[at].is_ascii_alphanumeric() || bytes[at] == b'.') {
        at += 1;
        let exponent =
            matches!(bytes[at - 1], b'e' | b'E') && matches!(bytes.get(at), Some(b'-' | b'+'));
        let hex = at >= 2 && bytes[at - 2].is_ascii_alphanumeric();
        if exponent
            && hex
            && bytes.get(at + 1).is_some_and(u8::is_ascii_digit)
            && !looks_hex(bytes, at)
        {
            at += 1;
        }
    }
    at
}

/// Whether the number that ends before `at` began with `0x`, `0f` or `0d`.
fn looks_hex(bytes: &[u8], at: usize) -> bool {
    let mut start = at;
    while start > 0 && bytes[start - 1].is_ascii_alphanumeric() {
        start -= 1;
    }
    matches!(
        bytes.get(start..start + 2),
        Some([b'0', b'x' | b'X' | b'f' | b'F' | b'd' | b'D'])
    )
}

fn number(text: &str) -> Option<Kind<'_>> {
    let prefix = text.get(..2).unwrap_or("").to_ascii_lowercase();
    let rest = text.get(2..).unwrap_or("");
    let plain = |t: &str, radix| {
        u64::from_str_radix(t.trim_end_matches(['U', 'u']), radix)
            .ok()
            .map(Kind::Int)
    };
    match prefix.as_str() {
        "0x" => plain(rest, 16),
        "0f" if rest.len() == 8 => u32::from_str_radix(rest, 16).ok().map(Kind::F32),
        "0d" if rest.len() == 16 => u64::from_str_radix(rest, 16).ok().map(Kind::F64),
        "0b" => plain(rest, 2),
        _ if text.contains('.') || text.contains(['e', 'E']) => {
            text.parse::<f64>().ok().map(|v| Kind::F64(v.to_bits()))
        }
        _ if text.len() > 1 && text.starts_with('0') => plain(&text[1..], 8),
        _ => plain(text, 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_numbers_and_labels() {
        let kinds: Vec<Kind> = tokens(
            "$L_1: ld.global.L2::128B.u32 %r1, [%rd2+-4]; // x\n0f3F800000 1.5e-3 0x1Fu 017",
        )
        .unwrap()
        .iter()
        .map(|t| t.kind)
        .collect();
        use Kind::*;
        let want = [
            Word("$L_1"),
            Punct(b':'),
            Word("ld.global.L2::128B.u32"),
            Word("%r1"),
            Punct(b','),
            Punct(b'['),
            Word("%rd2"),
            Punct(b'+'),
            Punct(b'-'),
            Int(4),
            Punct(b']'),
            Punct(b';'),
            F32(0x3F80_0000),
            F64(1.5e-3f64.to_bits()),
            Int(31),
            Int(15),
        ];
        assert_eq!(kinds, want);
    }
}
