//! One panel: axes, marks and labels in a picture of a given size.

use super::axis::Axis;
use super::canvas::Canvas;
use super::legend::Legend;
use super::{GRID, INK, PALETTE, Panel, SOFT_INK, Shape, colour};
use crate::report::picture::{Picture, PictureError};
use crate::report::text::Style;

const HEADING: Style = Style::new(15.5, INK).bold();
const LABEL: Style = Style::new(14.0, INK);
const TICK: Style = Style::new(13.0, SOFT_INK);
const TICK_LENGTH: usize = 5;
/// Lines a category's name may take.
const NAME_LINES: usize = 3;

type Ticks = Vec<(f64, Vec<String>)>;

/// The plotting area inside the panel, in pixels, and what stands beside it.
struct Frame {
    left: usize,
    top: usize,
    width: usize,
    height: usize,
    x: Axis,
    y: Axis,
    x_ticks: Ticks,
    y_ticks: Ticks,
}

pub(super) fn render(panel: &Panel, size: [usize; 2]) -> Result<Picture, PictureError> {
    let mut frame = Frame::new(panel, size);
    let legend = Legend::new(panel, frame.width)?;
    let (blank, mut drawn) = frame.plot(panel)?;
    let mut place = legend.as_ref().and_then(|l| l.free_place(&blank, &drawn));
    if let (Some(legend), None) = (&legend, place) {
        let above = legend.height_above();
        if above + 60 < frame.height {
            frame.top += above;
            frame.height -= above;
            drawn = frame.plot(panel)?.1;
        } else {
            // No room at all: better over the data than not there.
            place = Some([6, 6]);
        }
    }
    let mut picture = Picture::filled(size[0], size[1], [255; 3])?;
    picture.paste(&drawn, frame.left, frame.top, 1);
    frame.write(panel, &mut picture);
    match (&legend, place) {
        (Some(legend), Some([x, y])) => {
            legend.draw_box(&mut picture, [frame.left + x, frame.top + y]);
        }
        (Some(legend), None) => {
            let y = frame.top - legend.height_above();
            legend.draw_above(&mut picture, [frame.left, y]);
        }
        (None, _) => {}
    }
    Ok(picture)
}

/// Every (x, y) that the axes must show; NaN where a mark says nothing about an axis.
fn extent(panel: &Panel) -> Vec<[f64; 2]> {
    let nan = f64::NAN;
    let mut all = Vec::new();
    for mark in &panel.marks {
        match &mark.shape {
            Shape::Line(points) | Shape::Dashed(points) | Shape::Points { points, .. } => {
                all.extend(points.iter().filter(|p| p.iter().all(|v| v.is_finite())));
            }
            Shape::Band(points) => {
                let both = |&[x, low, high]: &[f64; 3]| [[x, low], [x, high]];
                all.extend(points.iter().flat_map(both));
            }
            Shape::Bars { points, width } => {
                let ends = |&[x, y]: &[f64; 2]| [[x - width / 2.0, y], [x + width / 2.0, 0.0]];
                all.extend(points.iter().flat_map(ends));
            }
            Shape::Level(y) => all.push([nan, *y]),
            Shape::Vertical(x) => all.push([*x, nan]),
        }
    }
    all
}

impl Frame {
    fn new(panel: &Panel, [width, height]: [usize; 2]) -> Self {
        let points = extent(panel);
        let [xs, ys] = [0, 1].map(|axis| points.iter().map(move |p| p[axis]));
        // Lines fill the width; discs and bars need air at the sides.
        let lines =
            |shape: &Shape| matches!(shape, Shape::Line(_) | Shape::Dashed(_) | Shape::Band(_));
        let side = if panel.marks.iter().any(|m| lines(&m.shape)) {
            0.0
        } else {
            0.05
        };
        let x_range = match panel.categories.len() {
            0 => panel.x_range,
            n => panel.x_range.or(Some([-0.6, n as f64 - 0.4])),
        };
        let x = Axis::new(x_range, xs, panel.log_x, side);
        let mut y = Axis::new(panel.y_range, ys.clone(), panel.log_y, 0.06);
        // Bars stand on the axis, and nothing that is never negative needs room below zero.
        let lowest = ys.filter(|y| y.is_finite()).fold(f64::INFINITY, f64::min);
        if panel.y_range.is_none() && !panel.log_y && lowest >= 0.0 && y.low < 0.0 {
            y.low = 0.0;
        }
        let top = match panel.title.is_empty() {
            true => TICK.line() / 2,
            false => HEADING.line() + 8,
        };
        let y_room = height.saturating_sub(top + 3 * TICK.line());
        let single = |(v, text): (f64, String)| (v, vec![text]);
        let y_ticks: Ticks = y
            .ticks((y_room / 42).clamp(2, 9))
            .into_iter()
            .map(single)
            .collect();
        let label = if panel.y_label.is_empty() {
            0
        } else {
            LABEL.line() + 6
        };
        let left = label + widest(&y_ticks) + TICK_LENGTH + 4;
        let width = width.saturating_sub(left + 24).max(1);
        let x_ticks = x_ticks(panel, &x, width);
        let lines = x_ticks.iter().map(|t| t.1.len()).max().unwrap_or(1);
        let label = if panel.x_label.is_empty() {
            0
        } else {
            LABEL.line() + 4
        };
        let below = TICK_LENGTH + 4 + lines * TICK.line() + label;
        Self {
            left,
            top,
            width,
            height: height.saturating_sub(top + below).max(1),
            x,
            y,
            x_ticks,
            y_ticks,
        }
    }

    /// The plotting area, empty and with the marks.
    fn plot(&self, panel: &Panel) -> Result<(Picture, Picture), PictureError> {
        let mut canvas = Canvas::new([self.width, self.height]);
        let shares = |axis: &Axis, ticks: &Ticks| -> Vec<f64> {
            ticks.iter().filter_map(|t| axis.share(t.0)).collect()
        };
        let xs = match panel.categories.is_empty() {
            true => shares(&self.x, &self.x_ticks),
            false => Vec::new(),
        };
        canvas.grid(&xs, &shares(&self.y, &self.y_ticks), GRID)?;
        let blank = canvas.picture()?;
        for mark in &panel.marks {
            let thin = (mark.colour / PALETTE.len()) % 2 == 1;
            canvas.shape(&mark.shape, [&self.x, &self.y], colour(mark.colour), thin)?;
        }
        Ok((blank, canvas.picture()?))
    }

    /// Axis lines, ticks, labels and heading.
    fn write(&self, panel: &Panel, picture: &mut Picture) {
        let (right, bottom) = (self.left + self.width, self.top + self.height);
        picture.rectangle(self.left, self.top, 1, self.height, SOFT_INK);
        picture.rectangle(self.left, bottom - 1, self.width, 1, SOFT_INK);
        let along = |share: f64, size: usize| (share * (size - 1) as f64).round() as usize;
        for (value, lines) in &self.x_ticks {
            let Some(share) = self.x.share(*value) else {
                continue;
            };
            let x = self.left + along(share.clamp(0.0, 1.0), self.width);
            if panel.categories.is_empty() {
                picture.rectangle(x, bottom, 1, TICK_LENGTH, SOFT_INK);
            }
            for (i, text) in lines.iter().enumerate() {
                let start = x.saturating_sub(TICK.width(text) / 2);
                picture.text(
                    text,
                    start,
                    bottom + TICK_LENGTH + 3 + i * TICK.line(),
                    TICK,
                );
            }
        }
        for (value, lines) in &self.y_ticks {
            let Some(share) = self.y.share(*value) else {
                continue;
            };
            let y = bottom - 1 - along(share.clamp(0.0, 1.0), self.height);
            picture.rectangle(self.left - TICK_LENGTH, y, TICK_LENGTH, 1, SOFT_INK);
            for text in lines {
                let x = self.left.saturating_sub(TICK_LENGTH + 4 + TICK.width(text));
                picture.text(text, x, y.saturating_sub(TICK.line() / 2), TICK);
            }
        }
        let heading = HEADING.wrap(&panel.title, right, 1).concat();
        picture.text(
            &heading,
            self.left.min(right - HEADING.width(&heading)),
            2,
            HEADING,
        );
        let centred =
            |low: usize, room: usize, text: &str| low + room.saturating_sub(LABEL.width(text)) / 2;
        let name = LABEL.wrap(&panel.x_label, self.width, 1).concat();
        let y = picture.height() - LABEL.line() - 1;
        picture.text(&name, centred(self.left, self.width, &name), y, LABEL);
        let name = LABEL.wrap(&panel.y_label, picture.height(), 1).concat();
        let start = centred(self.top, self.height, &name) + LABEL.width(&name);
        picture.text_upwards(&name, 1, start.min(picture.height()), LABEL);
    }
}

fn widest(ticks: &Ticks) -> usize {
    let texts = ticks.iter().flat_map(|t| &t.1);
    texts.map(|text| TICK.width(text)).max().unwrap_or(0)
}

/// As many ticks as have room, or the names of the categories.
fn x_ticks(panel: &Panel, x: &Axis, width: usize) -> Ticks {
    if !panel.categories.is_empty() {
        let room = (width as f64 / (x.high - x.low)) as usize;
        let named = panel.categories.iter().enumerate();
        return named
            .map(|(i, name)| {
                (
                    i as f64,
                    TICK.wrap(name, room.saturating_sub(6), NAME_LINES),
                )
            })
            .collect();
    }
    let fits = |ticks: &Ticks| {
        ticks.windows(2).all(|pair| {
            let [a, b] = [0, 1].map(|i| x.share(pair[i].0).unwrap_or(0.0) * width as f64);
            let [wa, wb] = [0, 1].map(|i| TICK.width(&pair[i].1.concat()) as f64);
            b - a > (wa + wb) / 2.0 + 10.0
        })
    };
    let single = |(v, text): (f64, String)| (v, vec![text]);
    let ticks = |most| -> Ticks { x.ticks(most).into_iter().map(single).collect() };
    let most = (width / 60).clamp(2, 12);
    let fitting = (2..=most).rev().map(ticks).find(fits);
    fitting.unwrap_or_default()
}
