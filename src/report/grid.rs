//! Picture sheets: a grid of pictures of one size with padding, captions and a title.

use super::picture::{Picture, PictureError};
use super::text::Style;

const PAPER: [u8; 3] = [255; 3];
const TITLE: Style = Style::new(17.0, [34, 34, 40]).bold();
const CAPTION: Style = Style::new(14.0, [70, 72, 82]);
/// Of captions over pictures that are too narrow for two words.
const SMALL_CAPTION: Style = Style::new(12.0, CAPTION.colour);
/// Blank pixels between text and pictures.
const GAP: usize = 5;
/// Lines a caption of a column may take; more is cut.
const CAPTION_LINES: usize = 3;
const MAX_PADDING: usize = 1024;
/// Widest caption of a row in pixels; more is wrapped, then cut.
const ROW_WIDTH: usize = 150;

/// A sheet's layout. Pictures fill it row by row from the top left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sheet {
    /// Pictures per row; at least 1.
    pub columns: usize,
    /// Every pixel becomes a square of this side (nearest neighbour, so that pixels stay visible).
    pub scale: usize,
    /// Blank pixels between pictures and around the sheet.
    pub padding: usize,
    /// A heading; wrapped to the sheet's width, at most three lines.
    pub title: Option<String>,
    /// Captions at the left of the rows, from the top; may be fewer than rows.
    pub row_captions: Vec<String>,
    /// Captions above the columns, from the left; may be fewer than columns.
    pub column_captions: Vec<String>,
    /// Coloured frames: (picture number, RGB). Drawn in the padding.
    pub frames: Vec<(usize, [u8; 3])>,
}

/// The orange frame that marks an original among its reconstructions (paper Fig. 7).
pub const ORANGE: [u8; 3] = [240, 130, 20];

/// The factor at which pictures of `width` pixels are about 96 wide on a sheet: 32 -> 3, 64 -> 2,
/// 16 -> 6, at least 1.
pub fn comfortable_scale(width: usize) -> usize {
    (96.0 / width.max(1) as f64).round().clamp(1.0, 12.0) as usize
}

/// Where things lie on a sheet, in pixels.
struct Layout {
    cell: [usize; 2],
    left: usize,
    top: usize,
    size: [usize; 2],
    text: Style,
    title: Vec<String>,
    columns: Vec<Vec<String>>,
}

impl Sheet {
    /// A sheet of `columns` pictures of `width` pixels per row, without text.
    pub fn new(columns: usize, width: usize) -> Self {
        Self {
            columns,
            scale: comfortable_scale(width),
            padding: 4,
            title: None,
            row_captions: Vec::new(),
            column_captions: Vec::new(),
            frames: Vec::new(),
        }
    }

    /// Draws `pictures`, all of one size. Errors: no pictures, no columns, scale 0, mixed sizes, a
    /// sheet of more than 2^28 pixels.
    pub fn render(&self, pictures: &[Picture]) -> Result<Picture, PictureError> {
        let first = self.check(pictures)?;
        let rows = pictures.len().div_ceil(self.columns);
        let layout = self.layout(first, rows, pictures.len().min(self.columns));
        let mut sheet = Picture::filled(layout.size[0], layout.size[1], PAPER)?;
        self.write_captions(&mut sheet, &layout, rows, first.height() * self.scale);
        let place = |number: usize| {
            let (row, column) = (number / self.columns, number % self.columns);
            [
                layout.left + column * layout.cell[0],
                layout.top + row * layout.cell[1],
            ]
        };
        for &(number, colour) in self.frames.iter().filter(|f| f.0 < pictures.len()) {
            let [x, y] = place(number);
            // Half of the padding, so that neighbouring frames do not touch.
            let border = self.padding.div_ceil(2);
            let [w, h] = [first.width(), first.height()].map(|s| s * self.scale + 2 * border);
            let [x, y] = [x, y].map(|at| at.saturating_sub(border));
            sheet.rectangle(x, y, w, h, colour);
        }
        for (number, picture) in pictures.iter().enumerate() {
            let [x, y] = place(number);
            sheet.paste(picture, x, y, self.scale);
        }
        Ok(sheet)
    }

    fn check<'a>(&self, pictures: &'a [Picture]) -> Result<&'a Picture, PictureError> {
        let Some(first) = pictures.first() else {
            return Err(PictureError::Sheet("no pictures; expected at least one"));
        };
        if self.columns == 0 || self.scale == 0 {
            return Err(PictureError::Sheet(
                "columns or scale is 0; expected at least 1",
            ));
        }
        if self.padding > MAX_PADDING {
            return Err(PictureError::Sheet(
                "padding is too large; expected at most 1024 pixels",
            ));
        }
        let same = |p: &Picture| (p.width(), p.height()) == (first.width(), first.height());
        match pictures.iter().position(|p| !same(p)) {
            None => Ok(first),
            Some(number) => Err(PictureError::Mixed {
                number,
                width: pictures[number].width(),
                height: pictures[number].height(),
                expected_width: first.width(),
                expected_height: first.height(),
            }),
        }
    }

    fn layout(&self, first: &Picture, rows: usize, columns: usize) -> Layout {
        let [w, h] = [first.width(), first.height()].map(|s| s.saturating_mul(self.scale));
        let cell = [w, h].map(|s| s.saturating_add(self.padding));
        let text = if w >= 90 { CAPTION } else { SMALL_CAPTION };
        let captions = self.column_captions.iter().take(columns);
        let captions: Vec<Vec<String>> = captions
            .map(|c| text.wrap(c, cell[0], CAPTION_LINES))
            .collect();
        let rows_text = self.row_captions.iter().take(rows);
        let lines = rows_text.flat_map(|c| text.wrap(c, ROW_WIDTH, usize::MAX));
        let widest = lines.map(|line| text.width(&line)).max();
        let left = self.padding + widest.map_or(0, |n| n + 2 * GAP);
        let width = left.saturating_add(cell[0].saturating_mul(columns));
        // One picture under a long title is no reason to cut the title to its width.
        let title = self.title.as_deref().unwrap_or_default();
        let width = width.max(TITLE.width(title).min(320) + 2 * self.padding);
        let title = TITLE.wrap(title, width - 2 * self.padding, 3);
        let caption_lines = captions.iter().map(Vec::len).max().unwrap_or(0);
        let gap = |lines: usize, style: Style| match lines {
            0 => 0,
            _ => lines * style.line() + GAP,
        };
        let top = self.padding + gap(title.len(), TITLE) + gap(caption_lines, text);
        Layout {
            cell,
            left,
            top,
            size: [width, top.saturating_add(cell[1].saturating_mul(rows))],
            text,
            title,
            columns: captions,
        }
    }

    fn write_captions(&self, sheet: &mut Picture, layout: &Layout, rows: usize, height: usize) {
        let (text, line) = (layout.text, layout.text.line());
        let inner = |cell: usize| cell - self.padding;
        for (i, words) in layout.title.iter().enumerate() {
            sheet.text(words, self.padding, self.padding + i * TITLE.line(), TITLE);
        }
        for (column, lines) in layout.columns.iter().enumerate() {
            for (i, words) in lines.iter().enumerate() {
                // Bottom-aligned: the caption belongs to the picture below it.
                let up = (lines.len() - i) * line + GAP / 2;
                let room = inner(layout.cell[0]).saturating_sub(text.width(words));
                let x = layout.left + column * layout.cell[0] + room / 2;
                sheet.text(words, x, layout.top.saturating_sub(up), text);
            }
        }
        for (row, caption) in self.row_captions.iter().take(rows).enumerate() {
            let lines = text.wrap(caption, ROW_WIDTH, (height / line).max(1));
            let above = height.saturating_sub(lines.len() * line) / 2;
            for (i, words) in lines.iter().enumerate() {
                let y = layout.top + row * layout.cell[1] + above + i * line;
                sheet.text(words, self.padding, y, text);
            }
        }
    }
}

/// A film strip: rows = samples, columns = the steps of a trajectory. `rows[i]` are the pictures of
/// sample i, as many as `steps` has captions.
pub fn film_strip(
    rows: &[Vec<Picture>],
    steps: &[String],
    title: Option<&str>,
) -> Result<Picture, PictureError> {
    let width = rows
        .first()
        .and_then(|r| r.first())
        .map_or(1, Picture::width);
    if rows.iter().any(|row| row.len() != steps.len()) {
        return Err(PictureError::Sheet(
            "rows of a film strip differ in length; expected one picture per step caption",
        ));
    }
    let mut sheet = Sheet::new(steps.len(), width);
    sheet.padding = 2;
    sheet.title = title.map(str::to_owned);
    sheet.column_captions = steps.to_vec();
    sheet.render(&rows.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pictures(n: usize, w: usize, h: usize) -> Vec<Picture> {
        (0..n)
            .map(|i| Picture::filled(w, h, [i as u8 + 1, 0, 0]).unwrap())
            .collect()
    }

    #[test]
    fn plain_grid_has_every_picture_in_its_place() {
        let mut sheet = Sheet::new(3, 4);
        (sheet.scale, sheet.padding) = (2, 5);
        let out = sheet.render(&pictures(5, 4, 3)).unwrap();
        assert_eq!((out.width(), out.height()), (5 + 3 * 13, 5 + 2 * 11));
        for i in 0..5 {
            let (x, y) = (5 + i % 3 * 13, 5 + i / 3 * 11);
            for (dx, dy) in [(0, 0), (7, 5)] {
                assert_eq!(out.pixel(x + dx, y + dy), Some([i as u8 + 1, 0, 0]));
            }
            for (x, y) in [(x - 1, y), (x + 8, y), (x, y - 1), (x, y + 6)] {
                assert_eq!(out.pixel(x, y), Some(PAPER));
            }
        }
        assert_eq!(
            out.pixel(5 + 26, 5 + 11),
            Some(PAPER),
            "the sixth place is empty"
        );
    }

    #[test]
    fn captions_and_frames_do_not_cover_pictures() {
        let mut sheet = Sheet::new(2, 32);
        sheet.title =
            Some("a title much longer than the sheet is wide, so that it must wrap".into());
        sheet.row_captions = vec!["own Z".into(), "a very long caption of a row indeed".into()];
        sheet.column_captions = vec!["original".into(), "reconstruction number one".into()];
        sheet.frames = vec![(0, ORANGE), (99, ORANGE)];
        let out = sheet.render(&pictures(4, 32, 32)).unwrap();
        for i in 0..4 {
            let pixels = out.rgb().chunks(3).filter(|p| *p == [i + 1, 0, 0]);
            assert_eq!(pixels.count(), 96 * 96);
        }
        let orange = out.rgb().chunks(3).filter(|p| *p == ORANGE).count();
        assert_eq!(orange, 100 * 100 - 96 * 96);
    }

    #[test]
    fn mistakes_are_refused() {
        assert!(Sheet::new(2, 4).render(&[]).is_err());
        assert!(Sheet::new(0, 4).render(&pictures(1, 4, 4)).is_err());
        let mut mixed = pictures(1, 4, 4);
        mixed.extend(pictures(1, 4, 5));
        assert!(matches!(
            Sheet::new(2, 4).render(&mixed),
            Err(PictureError::Mixed { number: 1, .. })
        ));
        let mut huge = Sheet::new(1, 4);
        huge.scale = usize::MAX;
        assert!(matches!(
            huge.render(&pictures(1, 4, 4)),
            Err(PictureError::Size { .. })
        ));
        let mut loose = Sheet::new(1, 4);
        loose.padding = usize::MAX;
        assert!(loose.render(&pictures(1, 4, 4)).is_err());
        let ragged = [pictures(2, 4, 4), pictures(1, 4, 4)];
        assert!(film_strip(&ragged, &["1".into(), "2".into()], None).is_err());
        assert!(film_strip(&[], &[], None).is_err());
    }

    /// Sheets to look at: `GMMK_LOOK=DIR cargo test look_at`.
    #[test]
    fn look_at_sheets() {
        let Some(dir) = std::env::var_os("GMMK_LOOK").map(std::path::PathBuf::from) else {
            return;
        };
        let face = |i: usize, noise: f32| {
            let data: Vec<f32> = (0..32 * 32 * 3)
                .map(|e| {
                    let (x, y, c) = (e / 3 % 32, e / 96, e % 3);
                    let d = ((x as f32 - 16.0).powi(2) + (y as f32 - 16.0).powi(2)).sqrt();
                    let n = ((e * 7919 + i * 104_729) % 1000) as f32 / 500.0 - 1.0;
                    (1.0 - noise) * ((d / 6.0 + (i + c) as f32).cos()) + noise * n
                })
                .collect();
            Picture::from_batch(&data, [1, 32, 32, 3])
                .unwrap()
                .remove(0)
        };
        let mut sheet = Sheet::new(4, 32);
        sheet.title = Some("step 1000, EMA: fixed noise and attributes; \u{3b1} = 0.5".into());
        sheet.row_captions = vec![
            "Smiling, Young".into(),
            "Male, Bushy_Eyebrows, Pointy_Nose".into(),
        ];
        sheet.column_captions = ["original", "own Z", "fresh Z", "another's very own Z"]
            .map(String::from)
            .to_vec();
        sheet.frames = vec![(0, ORANGE), (4, ORANGE)];
        let all: Vec<_> = (0..8).map(|i| face(i, 0.1)).collect();
        sheet
            .render(&all)
            .unwrap()
            .save_png(&dir.join("sheet.png"))
            .unwrap();
        let rows: Vec<Vec<_>> = (0..3)
            .map(|i| (0..8).map(|j| face(i, 1.0 - j as f32 / 7.0)).collect())
            .collect();
        let steps: Vec<String> = (0..8).map(|j| format!("t = {}", 100 - j * 14)).collect();
        let strip = film_strip(&rows, &steps, Some("x0 along the trajectory"));
        strip.unwrap().save_png(&dir.join("strip.png")).unwrap();
    }
}
