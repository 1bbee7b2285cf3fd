//! Pages that need nothing but themselves: one HTML file with its style, pictures and charts inside.
//!
//! The text is also well-formed XML (after the doctype), so that programs can read it.

use std::fmt::Write;

pub use chart::{Chart, Series};

mod chart;

const STYLE: &str = include_str!("html/page.css");
/// Read-outs under the pointer; everything is readable without it.
const SCRIPT: &str = include_str!("html/hover.js");

/// A page with this title and body, complete.
pub fn page(title: &str, body: &str) -> String {
    let title = escape(title);
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
         <meta name=\"color-scheme\" content=\"light dark\"/>\n<title>{title}</title>\n\
         <style>\n{STYLE}</style>\n</head>\n<body>\n{body}<script>\n{SCRIPT}</script>\n</body>\n</html>\n"
    )
}

/// Text as it stands in HTML, in an attribute too.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            // XML has no other control characters, not even escaped.
            c if c.is_control() && !matches!(c, '\n' | '\t') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// A PNG file's bytes as an address.
pub fn png_address(png: &[u8]) -> String {
    format!("data:image/png;base64,{}", base64(png))
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |i: usize| u32::from(chunk.get(i).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            out.push(if digit > chunk.len() {
                '='
            } else {
                DIGITS[(bits >> (18 - 6 * digit) & 63) as usize] as char
            });
        }
    }
    out
}

/// A table whose first cell in every row is its heading; `head` may be empty.
pub fn table(class: &str, head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut out = format!("<div class=\"scroll\"><table class=\"{class}\">\n");
    if !head.is_empty() {
        let cells: String = head
            .iter()
            .map(|c| format!("<th scope=\"col\">{}</th>", escape(c)))
            .collect();
        let _ = writeln!(out, "<thead><tr>{cells}</tr></thead>");
    }
    out.push_str("<tbody>\n");
    for row in rows {
        out.push_str("<tr>");
        for (i, cell) in row.iter().map(|c| escape(c)).enumerate() {
            let _ = match i {
                0 => write!(out, "<th scope=\"row\">{cell}</th>"),
                _ => write!(out, "<td>{cell}</td>"),
            };
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody></table></div>\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4648's own vectors, and all bytes.
    #[test]
    fn base64_is_the_standards() {
        for (text, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(text.as_bytes()), coded);
        }
        assert_eq!(base64(&[0xff, 0xef, 0xbe, 0xfb]), "/++++w==");
    }

    #[test]
    fn hostile_text_stays_text() {
        let name = "</title><script>\"x\" & \u{1b}[0m";
        let page = page(name, &table("t", &[name], [vec![name.into(), name.into()]]));
        assert_eq!(page.matches("<script>").count(), 1, "only the page's own");
        let xml = page.split_once('\n').unwrap().1;
        let parsed = roxmltree::Document::parse(xml).unwrap();
        let read: Vec<_> = parsed
            .descendants()
            .filter(|n| n.has_tag_name("th"))
            .collect();
        assert_eq!(read.len(), 2);
        assert_eq!(read[0].text(), Some("</title><script>\"x\" & \u{fffd}[0m"));
    }
}
