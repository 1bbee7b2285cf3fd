//! Text on pictures: DejaVu Sans, smoothed.

use std::sync::LazyLock;

use ab_glyph::{Font, FontRef, GlyphId, PxScale, ScaleFont};

use super::picture::Picture;

static REGULAR: LazyLock<Option<FontRef<'static>>> =
    LazyLock::new(|| FontRef::try_from_slice(dejavu::sans::regular()).ok());
static BOLD: LazyLock<Option<FontRef<'static>>> =
    LazyLock::new(|| FontRef::try_from_slice(dejavu::sans::bold()).ok());

/// How text is set.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Style {
    /// Height of the em square in pixels.
    pub size: f32,
    /// The bold face.
    pub bold: bool,
    /// Its colour.
    pub colour: [u8; 3],
}

impl Style {
    /// Regular text.
    pub const fn new(size: f32, colour: [u8; 3]) -> Self {
        Self {
            size,
            bold: false,
            colour,
        }
    }

    /// The same in bold.
    pub const fn bold(mut self) -> Self {
        self.bold = true;
        self
    }

    /// Distance between the tops of two lines, in pixels.
    pub fn line(&self) -> usize {
        (self.size * 1.3).ceil() as usize
    }

    fn font(&self) -> Option<&'static FontRef<'static>> {
        if self.bold {
            BOLD.as_ref()
        } else {
            REGULAR.as_ref()
        }
    }

    /// Width of `text` in pixels, rounded up.
    pub fn width(&self, text: &str) -> usize {
        self.set(text).map_or(0, |line| line.end.ceil() as usize)
    }

    /// Where every glyph of `text` stands.
    fn set(&self, text: &str) -> Option<Line> {
        let font = self.font()?;
        let per_em = font.height_unscaled() / font.units_per_em()?;
        let scale = PxScale::from(self.size * per_em);
        let scaled = font.as_scaled(scale);
        let (mut at, mut before) = (0.0, None);
        let mut glyphs = Vec::new();
        for c in text.chars() {
            let id = match font.glyph_id(c) {
                GlyphId(0) => font.glyph_id('?'),
                known => known,
            };
            if let Some(before) = before.replace(id) {
                at += scaled.kern(before, id);
            }
            glyphs.push(id.with_scale_and_position(scale, ab_glyph::point(at, scaled.ascent())));
            at += scaled.h_advance(id);
        }
        Some(Line { glyphs, end: at })
    }

    /// Calls `ink` with (x, y, coverage) of every pixel that `text` touches, its top left at 0, 0.
    fn trace(&self, text: &str, mut ink: impl FnMut(i64, i64, f32)) {
        let (Some(font), Some(line)) = (self.font(), self.set(text)) else {
            return;
        };
        for glyph in line.glyphs {
            if let Some(outline) = font.outline_glyph(glyph) {
                let corner = outline.px_bounds().min;
                let (left, top) = (corner.x as i64, corner.y as i64);
                outline.draw(|x, y, cover| ink(left + i64::from(x), top + i64::from(y), cover));
            }
        }
    }

    /// `text` in at most `lines` lines of at most `width` pixels, broken at blanks where possible;
    /// what is left over is cut and marked by an ellipsis.
    pub fn wrap(&self, text: &str, width: usize, lines: usize) -> Vec<String> {
        let mut rest = text.trim();
        let mut out = Vec::new();
        while !rest.is_empty() && out.len() < lines && width > 0 {
            if self.width(rest) <= width {
                out.push(rest.to_owned());
                break;
            }
            if out.len() + 1 == lines {
                let kept = self.fitting(rest, width.saturating_sub(self.width("\u{2026}")));
                out.push(format!("{}\u{2026}", rest[..kept].trim_end()));
                break;
            }
            // At least one character a line, or it would never end.
            let one = rest.chars().next().map_or(0, char::len_utf8);
            let most = self.fitting(rest, width).max(one);
            let blank = rest[most..]
                .starts_with(char::is_whitespace)
                .then_some(most);
            let blank = blank.or_else(|| rest[..most].rfind(char::is_whitespace));
            let end = blank.filter(|&at| at > 0).unwrap_or(most);
            out.push(rest[..end].trim_end().to_owned());
            rest = rest[end..].trim_start();
        }
        out
    }

    /// Bytes of the longest start of `text` that is at most `width` pixels wide.
    fn fitting(&self, text: &str, width: usize) -> usize {
        let ends: Vec<usize> = text
            .char_indices()
            .map(|(at, c)| at + c.len_utf8())
            .collect();
        match ends.partition_point(|&end| self.width(&text[..end]) <= width) {
            0 => 0,
            n => ends[n - 1],
        }
    }
}

struct Line {
    glyphs: Vec<ab_glyph::Glyph>,
    end: f32,
}

impl Picture {
    /// Writes `text` with its top left corner at (x, y). What does not fit is clipped. Characters
    /// that the font lacks are drawn as `?`.
    pub fn text(&mut self, text: &str, x: usize, y: usize, style: Style) {
        let (x, y) = (x as i64, y as i64);
        style.trace(text, |dx, dy, cover| {
            self.blend(x + dx, y + dy, style.colour, cover);
        });
    }

    /// [`Picture::text`] read from bottom to top, its start (the left end of the text's top edge
    /// turned to the left) at (x, y): for a vertical axis.
    pub fn text_upwards(&mut self, text: &str, x: usize, y: usize, style: Style) {
        let (x, y) = (x as i64, y as i64);
        style.trace(text, |dx, dy, cover| {
            self.blend(x + dy, y - dx, style.colour, cover);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INK: Style = Style::new(14.0, [0; 3]);

    /// The columns and rows that hold ink: [left, right, top, bottom].
    fn extent(picture: &Picture) -> Option<[usize; 4]> {
        let mut found: Option<[usize; 4]> = None;
        for y in 0..picture.height() {
            for x in 0..picture.width() {
                if picture.pixel(x, y) != Some([255; 3]) {
                    let [l, r, t, b] = found.unwrap_or([x, x, y, y]);
                    found = Some([l.min(x), r.max(x), t.min(y), b.max(y)]);
                }
            }
        }
        found
    }

    #[test]
    fn text_lies_where_it_was_put_and_is_as_wide_as_it_says() {
        let mut picture = Picture::filled(200, 60, [255; 3]).unwrap();
        picture.text("Hamburg", 20, 10, INK);
        let [left, right, top, bottom] = extent(&picture).unwrap();
        assert!((20..24).contains(&left) && (10..14).contains(&top));
        let end = 20 + INK.width("Hamburg");
        assert!((end - 3..end).contains(&right), "{right} {end}");
        assert!(bottom < 10 + INK.line());
        // Dark strokes and smooth edges.
        let values = picture.rgb();
        assert!(values.iter().any(|&v| v < 40) && values.iter().any(|v| (80..200).contains(v)));
    }

    #[test]
    fn upwards_is_the_same_text_turned() {
        let mut flat = Picture::filled(100, 100, [255; 3]).unwrap();
        flat.text("Axis", 10, 20, INK);
        let mut turned = Picture::filled(100, 100, [255; 3]).unwrap();
        turned.text_upwards("Axis", 20, 90, INK);
        for y in 0..100 {
            for x in 10..100 {
                assert_eq!(flat.pixel(x, y), turned.pixel(y, 100 - x));
            }
        }
    }

    #[test]
    fn unknown_characters_and_clipping() {
        let drawn = |text: &str| {
            let mut picture = Picture::filled(30, 20, [255; 3]).unwrap();
            picture.text(text, 1, 1, INK);
            picture
        };
        assert_eq!(drawn("\u{4e2d}"), drawn("?"));
        assert_ne!(drawn("\u{3c3}"), drawn("?"), "Greek is there");
        assert!(extent(&drawn("far too long for it")).unwrap()[1] == 29);
        let mut small = Picture::filled(3, 3, [255; 3]).unwrap();
        small.text_upwards("clipped", 100, 2, INK);
        assert_eq!(extent(&small), None);
    }

    #[test]
    fn long_lines_wrap_then_clip() {
        let wide = |text: &str| INK.width(text);
        assert_eq!(INK.wrap("a bcd ef", wide("a bcd"), 2), ["a bcd", "ef"]);
        assert_eq!(INK.wrap("abcdefgh", wide("abc"), 9).concat(), "abcdefgh");
        let cut = INK.wrap("one two three", wide("one two thr"), 1);
        assert!(cut[0].starts_with("one two") && cut[0].ends_with('\u{2026}'));
        for line in INK.wrap("some words that go on and on and on", 60, 4) {
            assert!(wide(&line) <= 60, "{line}");
        }
        assert!(INK.wrap("abc", 0, 3).is_empty() && INK.wrap("  ", 30, 3).is_empty());
        assert_eq!(INK.wrap("abc", 1, 9).len(), 3, "a character a line");
    }
}
