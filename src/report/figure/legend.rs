//! The names of a panel's marks: inside the plotting area where that covers nothing, else above it.

use super::axis::Axis;
use super::canvas::Canvas;
use super::{INK, Panel, Shape, colour};
use crate::report::picture::{Picture, PictureError};
use crate::report::text::Style;

const TEXT: Style = Style::new(13.0, INK);
const SAMPLE: usize = 28;
const SPACE: usize = 8;

/// A legend: its rows of entries.
pub(super) struct Legend {
    entries: Vec<(String, Picture)>,
    room: usize,
}

impl Legend {
    /// The legend of `panel`, whose plotting area is `room` pixels wide; `None`: nothing to name.
    pub(super) fn new(panel: &Panel, room: usize) -> Result<Option<Self>, PictureError> {
        let named = panel
            .marks
            .iter()
            .filter(|m| panel.legend && !m.name.is_empty());
        let entry = |mark: &super::Mark| {
            let name = TEXT.wrap(&mark.name, room.saturating_sub(SAMPLE + 3 * SPACE), 1);
            Ok((name.concat(), sample(&mark.shape, mark.colour)?))
        };
        let entries: Vec<_> = named.map(entry).collect::<Result<_, PictureError>>()?;
        Ok((!entries.is_empty()).then_some(Self { entries, room }))
    }

    /// Width and height as a box of one entry per row.
    fn size(&self) -> [usize; 2] {
        let widest = self.entries.iter().map(|(name, _)| TEXT.width(name)).max();
        [
            widest.unwrap_or(0) + SAMPLE + 3 * SPACE,
            self.entries.len() * TEXT.line() + SPACE,
        ]
    }

    /// Where the box covers nothing of `drawn` that is not on the empty plotting area `blank`.
    pub(super) fn free_place(&self, blank: &Picture, drawn: &Picture) -> Option<[usize; 2]> {
        let [width, height] = self.size();
        let margin = 6;
        let right = drawn.width().checked_sub(width + margin)?;
        let bottom = drawn.height().checked_sub(height + margin)?;
        if right < margin || bottom < margin {
            return None;
        }
        let [middle_x, middle_y] = [(margin + right) / 2, (margin + bottom) / 2];
        let free = |&[x, y]: &[usize; 2]| {
            // A little air around the box.
            let air = 4;
            (y.saturating_sub(air)..y + height + air).all(|row| {
                (x.saturating_sub(air)..x + width + air)
                    .all(|column| blank.pixel(column, row) == drawn.pixel(column, row))
            })
        };
        let corners = [
            [right, margin],
            [margin, margin],
            [right, bottom],
            [margin, bottom],
        ];
        let edges = [
            [middle_x, margin],
            [right, middle_y],
            [margin, middle_y],
            [middle_x, bottom],
        ];
        corners.into_iter().chain(edges).find(free)
    }

    /// Draws the box at (x, y).
    pub(super) fn draw_box(&self, picture: &mut Picture, [x, y]: [usize; 2]) {
        let [width, height] = self.size();
        picture.rectangle(x, y, width, height, [255; 3]);
        for (i, entry) in self.entries.iter().enumerate() {
            let at = [x + SPACE, y + SPACE / 2 + i * TEXT.line()];
            self.draw_entry(picture, entry, at);
        }
    }

    fn draw_entry(
        &self,
        picture: &mut Picture,
        (name, sample): &(String, Picture),
        [x, y]: [usize; 2],
    ) {
        picture.paste(sample, x, y, 1);
        picture.text(name, x + SAMPLE + SPACE, y, TEXT);
    }

    /// Where every entry goes when they run along lines above the plotting area.
    fn flow(&self) -> Vec<[usize; 2]> {
        let (mut x, mut line) = (0, 0);
        let place = |(name, _): &(String, Picture)| {
            let width = SAMPLE + SPACE + TEXT.width(name) + 2 * SPACE;
            if x > 0 && x + width > self.room {
                (x, line) = (0, line + 1);
            }
            let at = [x, line * TEXT.line()];
            x += width;
            at
        };
        self.entries.iter().map(place).collect()
    }

    /// Height of the lines above the plotting area.
    pub(super) fn height_above(&self) -> usize {
        self.flow()
            .last()
            .map_or(0, |at| at[1] + TEXT.line() + SPACE)
    }

    /// Draws the lines with their top left at (x, y).
    pub(super) fn draw_above(&self, picture: &mut Picture, [x, y]: [usize; 2]) {
        for (entry, at) in self.entries.iter().zip(self.flow()) {
            self.draw_entry(picture, entry, [x + at[0], y + at[1]]);
        }
    }
}

/// What a mark looks like, small.
fn sample(shape: &Shape, index: usize) -> Result<Picture, PictureError> {
    let unit = || Axis::new(Some([0.0, 1.0]), std::iter::empty(), false, 0.0);
    let level = vec![[0.0, 0.5], [1.0, 0.5]];
    let shown = match shape {
        Shape::Line(_) => Shape::Line(level),
        Shape::Level(_) => Shape::Level(0.5),
        Shape::Vertical(_) => Shape::Vertical(0.5),
        Shape::Dashed(_) => Shape::Dashed(level),
        Shape::Points { radius, .. } => Shape::Points {
            points: vec![[0.5, 0.5]],
            radius: (*radius).max(3),
        },
        Shape::Band(_) => Shape::Band(vec![[0.0, 0.2, 0.8], [1.0, 0.2, 0.8]]),
        Shape::Bars { .. } => Shape::Bars {
            points: vec![[0.5, 0.8]],
            width: 0.6,
        },
    };
    let mut canvas = Canvas::new([SAMPLE, TEXT.line()]);
    canvas.shape(&shown, [&unit(), &unit()], colour(index), false)?;
    canvas.picture()
}
