//! Line plots as PNG: `loss.png` of a run.

use tiny_skia::{Color, FillRule, Paint, PathBuilder, Pixmap, Rect, Stroke, Transform};

use super::picture::{GLYPH, Picture, PictureError, text_width, wrap};

const INK: [u8; 3] = [40, 42, 50];
const SOFT_INK: [u8; 3] = [105, 108, 120];
const GRID: [u8; 3] = [228, 230, 236];
/// Blue, orange, green, red, purple, brown: told apart in grey and by colour-blind readers.
const COLOURS: [[u8; 3]; 6] = [
    [31, 104, 180],
    [230, 120, 10],
    [30, 140, 70],
    [200, 45, 50],
    [125, 85, 180],
    [125, 80, 60],
];

/// One line of a plot.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// (x, y) in drawing order. Points that are not finite (or not positive on a logarithmic axis)
    /// interrupt the line.
    pub points: Vec<[f64; 2]>,
    /// A moving average over this many points on each side is drawn over the faint raw line; 0:
    /// the raw line only.
    pub smooth: usize,
}

/// A plot.
#[derive(Debug, Clone, PartialEq)]
pub struct Plot {
    /// Heading.
    pub title: String,
    /// Name of the horizontal axis.
    pub x_label: String,
    /// Name of the vertical axis.
    pub y_label: String,
    /// Logarithmic vertical axis.
    pub log_y: bool,
    /// Size in pixels, at least 320 x 200.
    pub size: [u32; 2],
    /// The lines.
    pub series: Vec<Series>,
}

impl Default for Plot {
    fn default() -> Self {
        Self {
            title: String::new(),
            x_label: String::new(),
            y_label: String::new(),
            log_y: false,
            size: [1000, 560],
            series: Vec::new(),
        }
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

/// One axis: values low..=high to 0..=1, and where its marks are.
struct Axis {
    low: f64,
    high: f64,
    log: bool,
    ticks: Vec<f64>,
}

impl Axis {
    fn new(values: impl Iterator<Item = f64>, log: bool, marks: usize) -> Self {
        let usable = values.filter(|v| v.is_finite() && (!log || *v > 0.0));
        let (mut low, mut high) = usable.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| {
            (l.min(v), h.max(v))
        });
        if low > high {
            (low, high) = if log { (0.1, 1.0) } else { (0.0, 1.0) };
        }
        if log {
            return Self::logarithmic(low, high);
        }
        if high - low <= 1e-12 * high.abs().max(low.abs()) {
            let half = if high == 0.0 { 0.5 } else { high.abs() * 0.05 };
            (low, high) = (low - half, high + half);
        }
        let step = nice_step((high - low) / marks as f64);
        let (low, high) = ((low / step).floor(), (high / step).ceil());
        let count = (high - low).clamp(1.0, 100.0) as usize;
        Self {
            low: low * step,
            high: high * step,
            log,
            ticks: (0..=count).map(|i| (low + i as f64) * step).collect(),
        }
    }

    /// Marks at 1, 2 and 5 times powers of ten, thinned to the powers when there are many.
    fn logarithmic(low: f64, high: f64) -> Self {
        let decades = |low: f64, high: f64| low.log10().floor() as i32..=high.log10().ceil() as i32;
        let mut ticks: Vec<f64> = decades(low, high)
            .flat_map(|d| [1.0, 2.0, 5.0].map(|m| m * 10_f64.powi(d)))
            .filter(|t| t.is_finite() && *t > 0.0)
            .collect();
        let start = ticks
            .iter()
            .rposition(|&t| t <= low * 1.000_001)
            .unwrap_or(0);
        let end = ticks.iter().position(|&t| t >= high * 0.999_999);
        let end = end
            .unwrap_or(ticks.len() - 1)
            .max((start + 1).min(ticks.len() - 1));
        ticks = ticks[start..=end].to_vec();
        let (low, high) = (ticks[0], ticks[ticks.len() - 1]);
        if ticks.len() > 8 {
            let every = decades(low, high).count().div_ceil(8) as i32;
            ticks = decades(low, high)
                .filter(|d| d.rem_euclid(every) == 0)
                .map(|d| 10_f64.powi(d))
                .filter(|t| (low..=high).contains(t))
                .collect();
        }
        Self {
            low,
            high,
            log: true,
            ticks,
        }
    }

    /// Share of the axis, 0 at its low end; `None` for a value that cannot be drawn.
    fn share(&self, v: f64) -> Option<f64> {
        let f = |v: f64| if self.log { v.ln() } else { v };
        let share = (f(v) - f(self.low)) / (f(self.high) - f(self.low));
        share.is_finite().then_some(share)
    }
}

/// The smallest of 1, 2, 2.5, 5 times a power of ten that is not below `raw`.
fn nice_step(raw: f64) -> f64 {
    let power = 10_f64.powf(raw.log10().floor());
    let found = [1.0, 2.0, 2.5, 5.0, 10.0]
        .into_iter()
        .find(|m| m * power >= raw * 0.999_999);
    found.unwrap_or(10.0) * power
}

/// A mark's text: `0.05`, `1500`, `20k`, `1.5M`, `3e-7`.
fn tick_text(value: f64, span: f64) -> String {
    let size = value.abs().max(span * 1e-3);
    let short = |v: f64, unit: &str| {
        let text = format!("{v:.3}");
        format!("{}{unit}", text.trim_end_matches('0').trim_end_matches('.'))
    };
    if value.abs() < span * 1e-9 {
        "0".to_owned()
    } else if !(1e-4..1e9).contains(&size) {
        let text = format!("{value:.2e}");
        let (digits, power) = text.split_once('e').unwrap_or((&text, "0"));
        let digits = digits.trim_end_matches('0').trim_end_matches('.');
        format!("{digits}e{power}")
    } else if size >= 1e6 && span >= 1e4 {
        short(value / 1e6, "M")
    } else if size >= 1e4 && span >= 1e2 {
        short(value / 1e3, "k")
    } else {
        let decimals = (3.0 - span.min(size).log10().floor()).clamp(0.0, 9.0) as usize;
        let text = format!("{value:.decimals$}");
        match text.contains('.') {
            true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
            false => text,
        }
    }
}

/// The plotting area in pixels and the axes over it.
struct Frame {
    left: f64,
    top: f64,
    width: f64,
    height: f64,
    x: Axis,
    y: Axis,
}

impl Frame {
    fn place(&self, [x, y]: [f64; 2]) -> Option<[f32; 2]> {
        let (x, y) = (self.x.share(x)?, self.y.share(y)?);
        // A smoothed or clipped value may lie a little outside; far outside is not drawn at all.
        let near = |share: &f64| (-0.01..=1.01).contains(share);
        let place = [
            (self.left + x * self.width) as f32,
            (self.top + (1.0 - y) * self.height) as f32,
        ];
        (near(&x) && near(&y)).then_some(place)
    }
}

impl Plot {
    /// Draws the plot. Errors: a size outside 320 x 200 to 2^28 pixels.
    pub fn render(&self) -> Result<Picture, PictureError> {
        let [width, height] = self.size;
        let too_small = PictureError::Size {
            width: width as usize,
            height: height as usize,
        };
        if width < 320 || height < 200 || u64::from(width) * u64::from(height) > 1 << 28 {
            return Err(too_small);
        }
        let Some(mut canvas) = Pixmap::new(width, height) else {
            return Err(too_small);
        };
        canvas.fill(Color::WHITE);
        let frame = self.frame();
        draw_grid(&mut canvas, &frame);
        for (series, colour) in self.series.iter().zip(COLOURS.iter().cycle()) {
            let smooth = moving_average(&series.points, series.smooth);
            if series.smooth > 0 {
                draw_line(&mut canvas, &frame, &series.points, *colour, 70, 1.0);
            }
            draw_line(&mut canvas, &frame, &smooth, *colour, 255, 2.0);
        }
        let rgb = canvas.pixels().iter();
        let rgb = rgb.flat_map(|p| [p.red(), p.green(), p.blue()]).collect();
        let mut picture = Picture::from_rgb(width as usize, height as usize, rgb)?;
        self.write_text(&mut picture, &frame);
        self.write_legend(&mut picture, &frame);
        Ok(picture)
    }

    fn frame(&self) -> Frame {
        let [width, height] = self.size.map(f64::from);
        let points = || self.series.iter().flat_map(|s| &s.points);
        let y = Axis::new(points().map(|p| p[1]), self.log_y, 6);
        let mut x = Axis::new(points().map(|p| p[0]), false, 8);
        // Horizontally the line fills the frame; marks past its ends are dropped.
        let used = points().map(|p| p[0]).filter(|x| x.is_finite());
        let (low, high) = used.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| {
            (l.min(v), h.max(v))
        });
        if low < high {
            let low = if low <= 0.02 * high && low >= 0.0 {
                0.0
            } else {
                low
            };
            (x.low, x.high) = (low, high);
            x.ticks.retain(|t| (low..=high).contains(t));
        }
        let longest = y
            .ticks
            .iter()
            .map(|&t| tick_text(t, y.high - y.low).len())
            .max();
        let left = (longest.unwrap_or(1) * GLYPH + 5 * GLYPH) as f64;
        let top = if self.title.is_empty() { 16.0 } else { 44.0 };
        let bottom = if self.x_label.is_empty() { 30.0 } else { 48.0 };
        Frame {
            left,
            top,
            width: width - left - 24.0,
            height: height - top - bottom,
            x,
            y,
        }
    }

    fn write_text(&self, picture: &mut Picture, frame: &Frame) {
        let (left, top) = (frame.left as usize, frame.top as usize);
        let (right, bottom) = (left + frame.width as usize, top + frame.height as usize);
        for &tick in &frame.x.ticks {
            let text = tick_text(tick, frame.x.high - frame.x.low);
            if let Some([x, _]) = frame.place([tick, frame.y.low]) {
                let x = (x as usize).saturating_sub(text_width(&text, 1) / 2);
                picture.text(&text, x, bottom + 9, 1, SOFT_INK);
            }
        }
        for &tick in &frame.y.ticks {
            let text = tick_text(tick, frame.y.high - frame.y.low);
            if let Some([_, y]) = frame.place([frame.x.low, tick]) {
                let x = left.saturating_sub(text_width(&text, 1) + 8);
                picture.text(
                    &text,
                    x,
                    (y as usize).saturating_sub(GLYPH / 2),
                    1,
                    SOFT_INK,
                );
            }
        }
        if let Some(title) = wrap(&self.title, (right - left) / (2 * GLYPH), 1).first() {
            picture.text(title, left, 14, 2, INK);
        }
        let centred = |low: usize, high: usize, text: &str| {
            low + (high - low).saturating_sub(text_width(text, 1)) / 2
        };
        for label in wrap(&self.x_label, (right - left) / GLYPH, 1) {
            let x = centred(left, right, &label);
            picture.text(&label, x, bottom + 28, 1, INK);
        }
        for label in wrap(&self.y_label, (bottom - top) / GLYPH, 1) {
            let y = centred(top, bottom, &label) + text_width(&label, 1);
            picture.text_upwards(&label, 8, y, 1, INK);
        }
    }

    fn write_legend(&self, picture: &mut Picture, frame: &Frame) {
        let named = self.series.iter().zip(COLOURS.iter().cycle());
        let named: Vec<_> = named.filter(|(s, _)| !s.name.is_empty()).collect();
        let columns = (frame.width as usize / 2) / GLYPH;
        let names: Vec<_> = named
            .iter()
            .map(|(s, colour)| (wrap(&s.name, columns, 1).concat(), **colour))
            .collect();
        let Some(widest) = names.iter().map(|(name, _)| text_width(name, 1)).max() else {
            return;
        };
        let (width, height) = (widest + 48, names.len() * 16 + 8);
        let x = (frame.left + frame.width) as usize - width - 8;
        let y = frame.top as usize + 8;
        picture.rectangle(x, y, width, height, GRID);
        picture.rectangle(x + 1, y + 1, width - 2, height - 2, [255; 3]);
        for (i, (name, colour)) in names.iter().enumerate() {
            let y = y + 8 + 16 * i;
            picture.rectangle(x + 8, y + 3, 24, 3, *colour);
            picture.text(name, x + 40, y, 1, INK);
        }
    }
}

fn paint([r, g, b]: [u8; 3], alpha: u8) -> Paint<'static> {
    let mut paint = Paint::default();
    paint.set_color_rgba8(r, g, b, alpha);
    paint.anti_alias = true;
    paint
}

fn draw_grid(canvas: &mut Pixmap, frame: &Frame) {
    let mut bar = |x: f64, y: f64, w: f64, h: f64, colour| {
        if let Some(rect) = Rect::from_xywh(x as f32, y as f32, w as f32, h as f32) {
            let path = PathBuilder::from_rect(rect);
            canvas.fill_path(
                &path,
                &paint(colour, 255),
                FillRule::Winding,
                Transform::identity(),
                None,
            );
        }
    };
    let (left, top) = (frame.left, frame.top);
    for share in frame.x.ticks.iter().filter_map(|&t| frame.x.share(t)) {
        bar(
            (left + share * frame.width).round(),
            top,
            1.0,
            frame.height,
            GRID,
        );
        bar(
            (left + share * frame.width).round(),
            top + frame.height,
            1.0,
            5.0,
            SOFT_INK,
        );
    }
    for share in frame.y.ticks.iter().filter_map(|&t| frame.y.share(t)) {
        let y = (top + (1.0 - share) * frame.height).round();
        bar(left, y, frame.width, 1.0, GRID);
        bar(left - 5.0, y, 5.0, 1.0, SOFT_INK);
    }
    bar(left, top, 1.0, frame.height, SOFT_INK);
    bar(
        left,
        (top + frame.height).round(),
        frame.width,
        1.0,
        SOFT_INK,
    );
}

fn draw_line(
    canvas: &mut Pixmap,
    frame: &Frame,
    points: &[[f64; 2]],
    colour: [u8; 3],
    alpha: u8,
    width: f32,
) {
    let mut path = PathBuilder::new();
    let mut dots = PathBuilder::new();
    let placed: Vec<_> = points.iter().map(|&p| frame.place(p)).collect();
    for (i, point) in placed.iter().enumerate() {
        let Some([x, y]) = *point else { continue };
        let neighbour =
            |j: Option<usize>| j.and_then(|j| placed.get(j)).is_some_and(Option::is_some);
        let joined = neighbour(i.checked_sub(1));
        if joined {
            path.line_to(x, y);
        } else {
            path.move_to(x, y);
        }
        // A point between two gaps would be invisible.
        if !joined && !neighbour(Some(i + 1)) {
            dots.push_circle(x, y, width + 1.0);
        }
    }
    let stroke = Stroke {
        width,
        line_join: tiny_skia::LineJoin::Round,
        line_cap: tiny_skia::LineCap::Round,
        ..Stroke::default()
    };
    if let Some(path) = path.finish() {
        canvas.stroke_path(
            &path,
            &paint(colour, alpha),
            &stroke,
            Transform::identity(),
            None,
        );
    }
    if let Some(dots) = dots.finish() {
        canvas.fill_path(
            &dots,
            &paint(colour, alpha),
            FillRule::Winding,
            Transform::identity(),
            None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(picture: &Picture, colour: [u8; 3]) -> usize {
        picture.rgb().chunks(3).filter(|p| *p == colour).count()
    }

    fn plot(points: Vec<[f64; 2]>, log_y: bool) -> Plot {
        Plot {
            title: "training loss".into(),
            x_label: "images".into(),
            y_label: "mean squared error".into(),
            log_y,
            series: vec![Series {
                name: "loss".into(),
                points,
                smooth: 0,
            }],
            ..Plot::default()
        }
    }

    #[test]
    fn any_data_can_be_drawn() {
        let nan = f64::NAN;
        for log in [false, true] {
            for points in [
                vec![],
                vec![[0.0, 1.0]],
                vec![[5.0, 5.0], [5.0, 5.0]],
                vec![[0.0, nan], [1.0, f64::INFINITY], [nan, 1.0]],
                vec![[0.0, -1.0], [1.0, 0.0], [2.0, 1e-300]],
                vec![[0.0, 1e300], [1.0, -1e300]],
                vec![[1e15, 1e-320], [1e15 + 1.0, 1e308]],
                vec![[0.0, f64::MAX], [1.0, f64::MIN]],
            ] {
                plot(points, log).render().unwrap();
            }
        }
        let mut small = plot(vec![], false);
        small.size = [10, 10];
        assert!(small.render().is_err());
    }

    #[test]
    fn a_line_and_a_lone_point_are_visible() {
        let line = plot(vec![[0.0, 1.0], [1.0, 2.0]], false).render().unwrap();
        let empty = plot(vec![], false).render().unwrap();
        let dot = plot(vec![[0.0, 1.0], [1.0, f64::NAN]], false)
            .render()
            .unwrap();
        let [line, empty, dot] = [line, empty, dot].map(|p| count(&p, COLOURS[0]));
        assert!(line > empty + 400 && dot > empty, "{line} {empty} {dot}");
    }

    #[test]
    fn marks_are_round_numbers() {
        let axis = Axis::new([0.013, 0.94].into_iter(), false, 6);
        assert_eq!((axis.low, axis.high), (0.0, 1.0));
        assert_eq!(axis.ticks.len(), 6);
        let log = Axis::new([0.013, 0.94].into_iter(), true, 6);
        let near = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| (a / b - 1.0).abs() < 1e-9);
        assert!(
            near(&log.ticks, &[0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]),
            "{:?}",
            log.ticks
        );
        let texts = [
            (0.05, 1.0),
            (20_000.0, 1e5),
            (1.5e6, 1e7),
            (0.0, 1.0),
            (1500.0, 3000.0),
            (3e-7, 1e-6),
        ];
        let texts = texts.map(|(v, span)| tick_text(v, span));
        assert_eq!(texts, ["0.05", "20k", "1.5M", "0", "1500", "3e-7"]);
    }

    #[test]
    fn averages_skip_gaps_and_shrink_at_the_ends() {
        let points = [[0.0, 1.0], [1.0, f64::NAN], [2.0, 3.0], [3.0, 8.0]];
        let mean = moving_average(&points, 1);
        assert_eq!(
            (mean[0], mean[2], mean[3]),
            ([0.0, 1.0], [2.0, 5.5], [3.0, 5.5])
        );
        assert!(mean[1][1].is_nan());
    }

    /// A plot to look at: `GMMK_LOOK=DIR cargo test look_at`.
    #[test]
    fn look_at_curves() {
        let Some(dir) = std::env::var_os("GMMK_LOOK").map(std::path::PathBuf::from) else {
            return;
        };
        let noisy = |scale: f64, seed: u64| -> Vec<[f64; 2]> {
            (1..=600)
                .map(|i| {
                    let noise = ((i * 7919 + seed * 31) * 2_654_435_761 % 1000) as f64 / 1000.0;
                    let x = i as f64 * 200.0;
                    [
                        x,
                        scale * (0.9 * (-x / 9000.0).exp() + 0.03) * (0.7 + 0.6 * noise),
                    ]
                })
                .collect()
        };
        for log_y in [false, true] {
            let mut plot = plot(noisy(1.0, 1), log_y);
            plot.series[0].smooth = 15;
            plot.series.push(Series {
                name: "held-out loss (EMA)".into(),
                points: noisy(1.5, 5).into_iter().step_by(40).collect(),
                smooth: 0,
            });
            let name = if log_y { "log.png" } else { "linear.png" };
            plot.render().unwrap().save_png(&dir.join(name)).unwrap();
        }
    }
}
