//! A plotting area: drawn with three times the pixels, then averaged, so that every edge is smooth.

use plotters::prelude::*;

use super::Shape;
use super::axis::Axis;
use crate::report::picture::{Picture, PictureError};

/// Drawn pixels per pixel and direction.
const FINE: usize = 3;

pub(super) struct Canvas {
    size: [usize; 2],
    rgb: Vec<u8>,
}

type Area<'a> = DrawingArea<BitMapBackend<'a>, plotters::coord::Shift>;
type Place = (i32, i32);

fn failed(error: impl std::fmt::Display) -> PictureError {
    PictureError::Plot(error.to_string())
}

impl Canvas {
    /// A white canvas that becomes `size` pixels.
    pub(super) fn new(size: [usize; 2]) -> Self {
        let [width, height] = size;
        let rgb = vec![255; 3 * width * height * FINE * FINE];
        Self { size, rgb }
    }

    fn draw(
        &mut self,
        f: impl FnOnce(&Area<'_>) -> Result<(), PictureError>,
    ) -> Result<(), PictureError> {
        let fine = self.size.map(|s| (s * FINE) as u32);
        let backend = BitMapBackend::with_buffer(&mut self.rgb, (fine[0], fine[1]));
        f(&backend.into_drawing_area())
    }

    /// Grid lines one pixel wide at the shares `xs` and `ys` of the canvas.
    pub(super) fn grid(
        &mut self,
        xs: &[f64],
        ys: &[f64],
        colour: [u8; 3],
    ) -> Result<(), PictureError> {
        let [width, height] = self.size;
        let span = |share: f64, size: usize| {
            let at = (share * (size - 1) as f64).round() as i32 * FINE as i32;
            (at, at + FINE as i32 - 1)
        };
        self.draw(|area| {
            let style = solid(colour).filled();
            let bar =
                |a: Place, b: Place| area.draw(&Rectangle::new([a, b], style)).map_err(failed);
            for &share in xs {
                let (left, right) = span(share, width);
                bar((left, 0), (right, (height * FINE) as i32 - 1))?;
            }
            for &share in ys {
                let (top, bottom) = span(1.0 - share, height);
                bar((0, top), ((width * FINE) as i32 - 1, bottom))?;
            }
            Ok(())
        })
    }

    /// Draws `shape` over the axes; `thin`: lines of one pixel instead of two.
    pub(super) fn shape(
        &mut self,
        shape: &Shape,
        [x, y]: [&Axis; 2],
        colour: [u8; 3],
        thin: bool,
    ) -> Result<(), PictureError> {
        let place = |[px, py]: [f64; 2]| Some([x.share(px)?, y.share(py)?]);
        let width = if thin { 1.0 } else { 2.0 };
        match shape {
            Shape::Line(points) => {
                let runs = runs(points.iter().map(|&p| place(p)));
                runs.iter()
                    .try_for_each(|run| self.line(run, colour, width))
            }
            Shape::Dashed(points) => {
                let runs = runs(points.iter().map(|&p| place(p)));
                runs.iter()
                    .try_for_each(|run| self.dashes(run, colour, width))
            }
            Shape::Points { points, radius } => {
                let inside = |p: &[f64; 2]| p.iter().all(|s| (0.0..=1.0).contains(s));
                let placed = points.iter().filter_map(|&p| place(p)).filter(inside);
                self.discs(placed, f64::from(*radius), colour)
            }
            Shape::Band(points) => {
                let placed = points
                    .iter()
                    .map(|&[px, low, high]| Some([x.share(px)?, y.share(low)?, y.share(high)?]));
                self.band(placed, colour)
            }
            Shape::Bars { points, width } => {
                let bars = points.iter().filter_map(|&[px, py]| {
                    let base = y.share(0.0).unwrap_or(0.0);
                    let [a, b] = [px - width / 2.0, px + width / 2.0];
                    Some([[x.share(a)?, base], [x.share(b)?, y.share(py)?]])
                });
                self.bars(bars, colour)
            }
            Shape::Level(level) => match y.share(*level).filter(|s| (0.0..=1.0).contains(s)) {
                Some(share) => self.line(&[[0.0, share], [1.0, share]], colour, 1.4),
                None => Ok(()),
            },
            Shape::Vertical(at) => match x.share(*at).filter(|s| (0.0..=1.0).contains(s)) {
                Some(share) => self.line(&[[share, 0.0], [share, 1.0]], colour, 1.4),
                None => Ok(()),
            },
        }
    }

    /// Shares of the canvas to fine pixels.
    fn places(&self) -> impl Fn([f64; 2]) -> Place + 'static {
        let [width, height] = self.size.map(|s| ((s.max(1) - 1) * FINE) as f64);
        let middle = (FINE / 2) as f64;
        move |[x, y]| {
            let at = |share: f64, size: f64| (share * size + middle).round() as i32;
            (at(x, width), at(1.0 - y, height))
        }
    }

    fn line(&mut self, run: &[[f64; 2]], colour: [u8; 3], width: f64) -> Result<(), PictureError> {
        let place = self.places();
        let mut placed: Vec<Place> = run.iter().map(|&p| place(p)).collect();
        placed.dedup();
        let fine = (width * FINE as f64).round();
        // A lone point would be invisible at a line's width.
        let radius = if placed.len() == 1 { fine } else { fine / 2.0 };
        self.draw(|area| {
            let style = solid(colour);
            for &at in &placed {
                let joint = Circle::new(at, radius as i32, style.filled());
                area.draw(&joint).map_err(failed)?;
            }
            for ends in placed.windows(2) {
                let piece = PathElement::new(ends.to_vec(), style.stroke_width(fine as u32));
                area.draw(&piece).map_err(failed)?;
            }
            Ok(())
        })
    }

    fn dashes(
        &mut self,
        run: &[[f64; 2]],
        colour: [u8; 3],
        width: f64,
    ) -> Result<(), PictureError> {
        let place = self.places();
        let mut placed: Vec<Place> = run.iter().map(|&p| place(p)).collect();
        placed.dedup();
        let style = solid(colour).stroke_width((width * FINE as f64).round() as u32);
        self.draw(|area| {
            let [dash, space] = [7 * FINE as i32, 5 * FINE as i32];
            let dashes = plotters::element::DashedPathElement::new(placed, dash, space, style);
            area.draw(&dashes).map_err(failed)
        })
    }

    fn discs(
        &mut self,
        centres: impl Iterator<Item = [f64; 2]>,
        radius: f64,
        colour: [u8; 3],
    ) -> Result<(), PictureError> {
        let place = self.places();
        let radius = (radius * FINE as f64 + 1.0) as i32;
        self.draw(|area| {
            for centre in centres {
                let disc = Circle::new(place(centre), radius, solid(colour).filled());
                area.draw(&disc).map_err(failed)?;
            }
            Ok(())
        })
    }

    /// Areas between (x, low) and (x, high), cut at gaps and to the canvas.
    fn band(
        &mut self,
        points: impl Iterator<Item = Option<[f64; 3]>>,
        colour: [u8; 3],
    ) -> Result<(), PictureError> {
        let place = self.places();
        let points: Vec<_> = points.collect();
        let cut = |v: f64| v.clamp(0.0, 1.0);
        self.draw(|area| {
            for run in points.split(Option::is_none) {
                let run: Vec<[f64; 3]> = run.iter().flatten().copied().collect();
                let low = run.iter().map(|&[x, low, _]| place([cut(x), cut(low)]));
                let high = run
                    .iter()
                    .rev()
                    .map(|&[x, _, high]| place([cut(x), cut(high)]));
                let outline: Vec<Place> = low.chain(high).collect();
                if run.len() > 1 {
                    let [r, g, b] = colour;
                    let area_style = RGBColor(r, g, b).mix(0.25).filled();
                    area.draw(&Polygon::new(outline, area_style))
                        .map_err(failed)?;
                }
            }
            Ok(())
        })
    }

    fn bars(
        &mut self,
        bars: impl Iterator<Item = [[f64; 2]; 2]>,
        colour: [u8; 3],
    ) -> Result<(), PictureError> {
        let place = self.places();
        let cut = |corner: [f64; 2]| corner.map(|v| v.clamp(0.0, 1.0));
        self.draw(|area| {
            for bar in bars {
                let [a, b] = bar.map(|corner| place(cut(corner)));
                let corners = [(a.0.min(b.0), a.1.min(b.1)), (a.0.max(b.0), a.1.max(b.1))];
                let bar = Rectangle::new(corners, solid(colour).filled());
                area.draw(&bar).map_err(failed)?;
            }
            Ok(())
        })
    }

    /// The picture: every pixel the mean of its fine pixels.
    pub(super) fn picture(&self) -> Result<Picture, PictureError> {
        let [width, height] = self.size;
        let row = 3 * width * FINE;
        let mut rgb = Vec::with_capacity(3 * width * height);
        for y in 0..height {
            for x in 0..width {
                for c in 0..3 {
                    let fine = (0..FINE * FINE).map(|i| {
                        let (dy, dx) = (i / FINE, i % FINE);
                        u32::from(self.rgb[(y * FINE + dy) * row + 3 * (x * FINE + dx) + c])
                    });
                    let count = (FINE * FINE) as u32;
                    rgb.push(((fine.sum::<u32>() + count / 2) / count) as u8);
                }
            }
        }
        Picture::from_rgb(width, height, rgb)
    }
}

fn solid([r, g, b]: [u8; 3]) -> ShapeStyle {
    ShapeStyle::from(RGBColor(r, g, b))
}

/// The pieces of a line that lie inside the unit square, cut at its border and at gaps. A lone point
/// is a piece of its own.
fn runs(points: impl Iterator<Item = Option<[f64; 2]>>) -> Vec<Vec<[f64; 2]>> {
    let points: Vec<_> = points.collect();
    let mut runs: Vec<Vec<[f64; 2]>> = Vec::new();
    for (i, point) in points.iter().enumerate() {
        let Some(to) = *point else { continue };
        let from = i.checked_sub(1).and_then(|i| points[i]);
        let next = points.get(i + 1).copied().flatten();
        match from {
            Some(from) => {
                if let Some([a, b]) = clip(from, to) {
                    match runs.last_mut() {
                        Some(run) if run.last() == Some(&a) && a == from => run.push(b),
                        _ => runs.push(vec![a, b]),
                    }
                }
            }
            None if next.is_none() && to.iter().all(|s| (0.0..=1.0).contains(s)) => {
                runs.push(vec![to]);
            }
            None => {}
        }
    }
    runs
}

/// The part of a segment inside the unit square (Liang and Barsky).
fn clip(a: [f64; 2], b: [f64; 2]) -> Option<[[f64; 2]; 2]> {
    let (mut enter, mut leave) = (0.0_f64, 1.0_f64);
    for axis in 0..2 {
        let d = b[axis] - a[axis];
        if d == 0.0 {
            if !(0.0..=1.0).contains(&a[axis]) {
                return None;
            }
            continue;
        }
        let [low, high] = [(0.0 - a[axis]) / d, (1.0 - a[axis]) / d];
        enter = enter.max(low.min(high));
        leave = leave.min(low.max(high));
    }
    let at = |t: f64| match t {
        0.0 => a,
        1.0 => b,
        t => [a[0] + t * (b[0] - a[0]), a[1] + t * (b[1] - a[1])],
    };
    (enter <= leave).then(|| [at(enter), at(leave)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_cut_at_the_border() {
        let inside = clip([0.2, 0.2], [0.4, 0.9]);
        assert_eq!(inside, Some([[0.2, 0.2], [0.4, 0.9]]));
        assert_eq!(
            clip([-1.0, 0.5], [1.0, 0.5]),
            Some([[0.0, 0.5], [1.0, 0.5]])
        );
        assert_eq!(clip([-1.0, 2.0], [2.0, 2.0]), None);
        assert_eq!(clip([-0.5, 0.9], [0.5, 1.9]), None);
        let across = clip([-1.0, -1.0], [2.0, 2.0]).unwrap();
        assert!(
            across
                .iter()
                .flatten()
                .all(|v| v.abs() < 1e-12 || (v - 1.0).abs() < 1e-12)
        );
    }

    #[test]
    fn gaps_and_the_border_interrupt_lines() {
        let line = [
            Some([0.1, 0.1]),
            Some([0.2, 0.2]),
            None,
            Some([0.5, 0.5]),
            None,
            Some([0.6, 0.5]),
            Some([0.6, 1.5]),
            Some([0.8, 0.5]),
        ];
        let runs = runs(line.into_iter());
        let ends: Vec<_> = runs
            .iter()
            .map(|run| (run[0], run[run.len() - 1]))
            .collect();
        assert_eq!(ends[0], ([0.1, 0.1], [0.2, 0.2]));
        assert_eq!(ends[1], ([0.5, 0.5], [0.5, 0.5]));
        assert_eq!(ends[2], ([0.6, 0.5], [0.6, 1.0]));
        assert!((ends[3].0[0] - 0.7).abs() < 1e-12 && ends[3].1 == [0.8, 0.5]);
        assert_eq!(ends.len(), 4);
    }
}
