//! Figures: panels of lines, points, bands and bars over axes, with a title and a caption.

pub(super) mod axis;
mod canvas;
mod legend;
mod panel;

use super::picture::{Picture, PictureError};
use super::text::Style;

const INK: [u8; 3] = [40, 42, 50];
const SOFT_INK: [u8; 3] = [90, 93, 104];
const GRID: [u8; 3] = [230, 232, 238];
const TITLE: Style = Style::new(21.0, INK).bold();
const CAPTION: Style = Style::new(15.0, INK);
const MARGIN: usize = 18;
const GAP: usize = 18;

/// Colours that colour-blind readers tell apart (Okabe and Ito's, without the yellow): blue,
/// vermillion, green, purple, orange, sky blue, grey, black.
const PALETTE: [[u8; 3]; 8] = [
    [0, 114, 178],
    [213, 94, 0],
    [0, 158, 115],
    [184, 94, 150],
    [230, 159, 0],
    [86, 180, 233],
    [130, 133, 142],
    INK,
];

/// The pale tint of palette colour `colour`, for what stands behind: a raw line under its average.
pub const fn pale(colour: usize) -> usize {
    PALETTE.len() + colour % PALETTE.len()
}

/// Palette colour `index`: the colours, then their tints, then from the start.
fn colour(index: usize) -> [u8; 3] {
    let full = PALETTE[index % PALETTE.len()];
    match (index / PALETTE.len()) % 2 {
        0 => full,
        _ => full.map(|v| (255 - (255 - u16::from(v)) / 3) as u8),
    }
}

/// Several panels under one title.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Figure {
    /// Heading; wrapped.
    pub title: String,
    /// What is seen, in plain words; below the panels, every line of it wrapped.
    pub caption: String,
    /// Panels per row, at least 1.
    pub columns: usize,
    /// Width and height of a panel with its labels in pixels, at least 240 x 180.
    pub panel_size: [u32; 2],
    /// The panels, row by row.
    pub panels: Vec<Panel>,
}

/// One pair of axes and what is drawn over them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Panel {
    /// Heading.
    pub title: String,
    /// Name and unit of the horizontal axis.
    pub x_label: String,
    /// Name and unit of the vertical axis.
    pub y_label: String,
    /// Logarithmic horizontal axis.
    pub log_x: bool,
    /// Logarithmic vertical axis.
    pub log_y: bool,
    /// Ends of the horizontal axis; `None`: from the data.
    pub x_range: Option<[f64; 2]>,
    /// Ends of the vertical axis; `None`: from the data.
    pub y_range: Option<[f64; 2]>,
    /// Names at x = 0, 1, 2, .. in place of numbers, for bars.
    pub categories: Vec<String>,
    /// Names the marks, where they cover nothing.
    pub legend: bool,
    /// What is drawn, in order.
    pub marks: Vec<Mark>,
}

/// One thing drawn over the axes.
#[derive(Debug, Clone, PartialEq)]
pub struct Mark {
    /// Its name in the legend; empty: not in the legend.
    pub name: String,
    /// Number of its colour in the palette; see also [`pale`].
    pub colour: usize,
    /// What it is.
    pub shape: Shape,
}

/// What a mark looks like. Values that are not finite (or not positive on a logarithmic axis)
/// interrupt lines and bands and leave out points and bars.
#[derive(Debug, Clone, PartialEq)]
pub enum Shape {
    /// Points (x, y) joined by a line.
    Line(Vec<[f64; 2]>),
    /// Points (x, y) joined by dashes.
    Dashed(Vec<[f64; 2]>),
    /// Discs at (x, y).
    Points {
        /// Their centres.
        points: Vec<[f64; 2]>,
        /// Their radius in pixels.
        radius: u32,
    },
    /// A translucent area between (x, low) and (x, high): `[x, low, high]`.
    Band(Vec<[f64; 3]>),
    /// Bars from 0 (or from the end of a logarithmic axis) to y around x.
    Bars {
        /// (x, y) of every bar.
        points: Vec<[f64; 2]>,
        /// Their width in units of x.
        width: f64,
    },
    /// A horizontal line at y.
    Level(f64),
    /// A vertical line at x.
    Vertical(f64),
}

impl Mark {
    /// A line.
    pub fn line(name: impl Into<String>, colour: usize, points: Vec<[f64; 2]>) -> Self {
        Self {
            name: name.into(),
            colour,
            shape: Shape::Line(points),
        }
    }
}

impl Figure {
    /// A figure of one panel, of `size` pixels without the margins.
    pub fn single(panel: Panel, size: [u32; 2]) -> Self {
        Self {
            columns: 1,
            panel_size: size,
            panels: vec![panel],
            ..Self::default()
        }
    }

    /// Draws the figure.
    ///
    /// # Errors
    /// No panels, no columns, panels smaller than 240 x 180, more than 2^28 pixels in all.
    pub fn render(&self) -> Result<Picture, PictureError> {
        let [width, height] = self.panel_size.map(|s| s as usize);
        if width < 240 || height < 180 {
            return Err(PictureError::Size { width, height });
        }
        if self.panels.is_empty() || self.columns == 0 {
            return Err(PictureError::Sheet(
                "a figure without panels or columns; expected at least one of each",
            ));
        }
        let columns = self.columns.min(self.panels.len());
        let rows = self.panels.len().div_ceil(columns);
        let inner = columns
            .saturating_mul(width.saturating_add(GAP))
            .saturating_sub(GAP);
        let title = TITLE.wrap(&self.title, inner, 4);
        let caption = self.caption.lines();
        let caption: Vec<String> = caption
            .flat_map(|line| CAPTION.wrap(line, inner, 12))
            .collect();
        let block = |lines: &[String], style: Style| match lines.len() {
            0 => 0,
            n => n * style.line() + MARGIN / 2,
        };
        let top = MARGIN + block(&title, TITLE);
        let below = top.saturating_add(rows.saturating_mul(height.saturating_add(GAP)));
        let whole = [
            inner.saturating_add(2 * MARGIN),
            below.saturating_add(block(&caption, CAPTION) + MARGIN - GAP / 2),
        ];
        let mut picture = Picture::filled(whole[0], whole[1], [255; 3])?;
        let mut write = |lines: &[String], top: usize, style: Style| {
            for (i, line) in lines.iter().enumerate() {
                picture.text(line, MARGIN, top + i * style.line(), style);
            }
        };
        write(&title, MARGIN, TITLE);
        write(&caption, below, CAPTION);
        for (i, panel) in self.panels.iter().enumerate() {
            let drawn = panel::render(panel, [width, height])?;
            let (row, column) = (i / columns, i % columns);
            let x = MARGIN + column * (width + GAP);
            picture.paste(&drawn, x, top + row * (height + GAP), 1);
        }
        Ok(picture)
    }
}

/// Means of up to 2 `half` + 1 neighbours, fewer at the ends. Points that are not finite are left
/// out of the means and stay gaps.
pub fn moving_average(points: &[[f64; 2]], half: usize) -> Vec<[f64; 2]> {
    let finite = |y: f64| if y.is_finite() { (y, 1.0) } else { (0.0, 0.0) };
    let mut sums = vec![(0.0, 0.0)];
    for &[_, y] in points {
        let ((sum, n), last) = (finite(y), sums[sums.len() - 1]);
        sums.push((last.0 + sum, last.1 + n));
    }
    let mean = |i: usize, y: f64| {
        let (a, b) = (
            sums[i.saturating_sub(half)],
            sums[i.saturating_add(half).saturating_add(1).min(points.len())],
        );
        if y.is_finite() {
            (b.0 - a.0) / (b.1 - a.1)
        } else {
            f64::NAN
        }
    };
    let all = points.iter().enumerate();
    all.map(|(i, &[x, y])| [x, mean(i, y)]).collect()
}

#[cfg(test)]
mod tests;
