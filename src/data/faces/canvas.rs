//! A square canvas of 100 x 100 units over tiny-skia: smooth outlines, inks, soft blobs, clipping.

use tiny_skia::{
    Color, FillRule, GradientStop, LineCap, LineJoin, LinearGradient, Mask, Paint, Path,
    PathBuilder, Pixmap, Point, Rect, Shader, SpreadMode, Stroke, Transform,
};

/// Side of the canvas in drawing units.
pub const SIDE: f32 = 100.0;

/// A colour, each channel in 0..=1.
#[derive(Clone, Copy, Debug)]
pub struct Rgb(pub f32, pub f32, pub f32);

impl Rgb {
    /// Hue (turns), saturation and value.
    pub fn hsv(hue: f32, saturation: f32, value: f32) -> Self {
        let channel = |offset: f32| {
            let k = (offset + hue * 6.0).rem_euclid(6.0);
            value * (1.0 - saturation * k.min(4.0 - k).clamp(0.0, 1.0))
        };
        Self(channel(5.0), channel(3.0), channel(1.0))
    }

    /// `t` of the way to `other`.
    pub fn mix(self, other: Self, t: f32) -> Self {
        let lerp = |a: f32, b: f32| a + (b - a) * t;
        Self(
            lerp(self.0, other.0),
            lerp(self.1, other.1),
            lerp(self.2, other.2),
        )
    }

    /// Multiplied by `k`: darker below 1, lighter above.
    pub fn shade(self, k: f32) -> Self {
        Self(self.0 * k, self.1 * k, self.2 * k)
    }

    fn color(self, alpha: f32) -> Color {
        let unit = |x: f32| x.clamp(0.0, 1.0);
        Color::from_rgba(unit(self.0), unit(self.1), unit(self.2), unit(alpha))
            .unwrap_or(Color::BLACK)
    }
}

/// What an outline is filled with.
pub struct Ink(Shader<'static>);

impl Ink {
    /// One opaque colour.
    pub fn flat(color: Rgb) -> Self {
        Self::veil(color, 1.0)
    }

    /// One colour with opacity.
    pub fn veil(color: Rgb, alpha: f32) -> Self {
        Self(Shader::SolidColor(color.color(alpha)))
    }

    /// A straight gradient between two points, colours with opacities.
    pub fn ramp(from: (f32, f32), a: (Rgb, f32), to: (f32, f32), b: (Rgb, f32)) -> Self {
        let stops = vec![
            GradientStop::new(0.0, a.0.color(a.1)),
            GradientStop::new(1.0, b.0.color(b.1)),
        ];
        let (from, to) = (Point::from(from), Point::from(to));
        let shader = LinearGradient::new(from, to, stops, SpreadMode::Pad, Transform::identity());
        shader.map_or_else(|| Self::veil(a.0, a.1), Self)
    }
}

/// A path in units; empty when its points do not span one.
#[derive(Clone)]
pub struct Outline(Option<Path>);

impl Outline {
    /// An upright ellipse.
    pub fn ellipse((x, y): (f32, f32), rx: f32, ry: f32) -> Self {
        let rect = Rect::from_ltrb(x - rx, y - ry, x + rx, y + ry);
        Self(rect.and_then(PathBuilder::from_oval))
    }

    /// Straight sides through `points`, closed.
    pub fn polygon(points: &[(f32, f32)]) -> Self {
        let mut path = PathBuilder::new();
        for (i, &(x, y)) in points.iter().enumerate() {
            if i == 0 {
                path.move_to(x, y);
            } else {
                path.line_to(x, y);
            }
        }
        path.close();
        Self(path.finish())
    }

    /// A closed smooth curve through `points` (Catmull-Rom).
    pub fn blob(points: &[(f32, f32)]) -> Self {
        let n = points.len() as isize;
        Self::spline(points, n, |i| i.rem_euclid(n))
    }

    /// An open smooth curve through `points`.
    pub fn curve(points: &[(f32, f32)]) -> Self {
        let n = points.len() as isize;
        Self::spline(points, n - 1, |i| i.clamp(0, n - 1))
    }

    /// Cubic segments through `points`; `index` brings a neighbour's number into range.
    fn spline(points: &[(f32, f32)], segments: isize, index: impl Fn(isize) -> isize) -> Self {
        if points.len() < 2 {
            return Self(None);
        }
        let at = |i: isize| points[index(i) as usize];
        let mut path = PathBuilder::new();
        path.move_to(points[0].0, points[0].1);
        for i in 0..segments {
            let (before, from, to, after) = (at(i - 1), at(i), at(i + 1), at(i + 2));
            path.cubic_to(
                from.0 + (to.0 - before.0) / 6.0,
                from.1 + (to.1 - before.1) / 6.0,
                to.0 - (after.0 - from.0) / 6.0,
                to.1 - (after.1 - from.1) / 6.0,
                to.0,
                to.1,
            );
        }
        if segments == points.len() as isize {
            path.close();
        }
        Self(path.finish())
    }
}

/// The picture being drawn.
pub struct Canvas {
    pixmap: Pixmap,
    scale: f32,
    place: Transform,
    clip: Option<Mask>,
}

impl Canvas {
    /// A black canvas of `side` x `side` pixels; `None` if that is no size for a picture.
    pub fn new(side: u32) -> Option<Self> {
        let scale = side as f32 / SIDE;
        Some(Self {
            pixmap: Pixmap::new(side, side)?,
            scale,
            place: Transform::from_scale(scale, scale),
            clip: None,
        })
    }

    /// From now on units are shifted by `shift`, then rotated by `roll` degrees and scaled about
    /// `centre`.
    pub fn pose(&mut self, centre: (f32, f32), shift: (f32, f32), roll: f32, zoom: f32) {
        self.place = Transform::from_scale(self.scale, self.scale)
            .pre_translate(shift.0, shift.1)
            .pre_rotate_at(roll, centre.0, centre.1)
            .pre_translate(centre.0, centre.1)
            .pre_scale(zoom, zoom)
            .pre_translate(-centre.0, -centre.1);
    }

    /// From now on only the inside of `outline` is drawn on.
    pub fn clip(&mut self, outline: &Outline) {
        let side = self.pixmap.width();
        self.clip = Mask::new(side, side);
        if let (Some(mask), Some(path)) = (&mut self.clip, &outline.0) {
            mask.fill_path(path, FillRule::Winding, true, self.place);
        }
    }

    /// From now on the whole canvas is drawn on.
    pub fn unclip(&mut self) {
        self.clip = None;
    }

    /// Fills the whole canvas.
    pub fn flood(&mut self, ink: Ink) {
        let far = SIDE * 4.0;
        self.fill(
            &Outline::polygon(&[(-far, -far), (far, -far), (far, far), (-far, far)]),
            ink,
        );
    }

    /// Fills `outline`.
    pub fn fill(&mut self, outline: &Outline, ink: Ink) {
        if let Some(path) = &outline.0 {
            let rule = FillRule::Winding;
            let mask = self.clip.as_ref();
            self.pixmap
                .fill_path(path, &paint(ink.0), rule, self.place, mask);
        }
    }

    /// Draws along `outline` with a round pen.
    pub fn stroke(&mut self, outline: &Outline, width: f32, ink: Ink) {
        if let Some(path) = &outline.0 {
            let stroke = Stroke {
                width,
                line_cap: LineCap::Round,
                line_join: LineJoin::Round,
                ..Stroke::default()
            };
            let mask = self.clip.as_ref();
            self.pixmap
                .stroke_path(path, &paint(ink.0), &stroke, self.place, mask);
        }
    }

    /// A soft upright ellipse: `alpha` in the middle, fading to nothing at its rim.
    pub fn glow(&mut self, (x, y): (f32, f32), rx: f32, ry: f32, color: Rgb, alpha: f32) {
        let Some(to_units) = self.place.invert() else {
            return;
        };
        let mut middle = Point::from_xy(x, y);
        self.place.map_point(&mut middle);
        let side = self.pixmap.width() as usize;
        let reach = rx.max(ry) * (self.place.sx.hypot(self.place.ky));
        let span = |at: f32| {
            (at - reach).max(0.0) as usize..((at + reach).max(0.0) as usize + 1).min(side)
        };
        let color = [color.0, color.1, color.2].map(|c| c.clamp(0.0, 1.0) * 255.0);
        let mask = self.clip.as_ref().map(Mask::data);
        let pixels = self.pixmap.data_mut();
        for row in span(middle.y) {
            for column in span(middle.x) {
                let mut at = Point::from_xy(column as f32 + 0.5, row as f32 + 0.5);
                to_units.map_point(&mut at);
                let (u, v) = ((at.x - x) / rx, (at.y - y) / ry);
                let inside = 1.0 - u * u - v * v;
                if inside <= 0.0 {
                    continue;
                }
                let place = row * side + column;
                let seen = mask.map_or(1.0, |m| f32::from(m[place]) / 255.0);
                let opacity = alpha * seen * inside * inside * (3.0 - 2.0 * inside);
                for (byte, c) in pixels[place * 4..].iter_mut().zip(color) {
                    let old = f32::from(*byte);
                    *byte = (old + (c - old) * opacity + 0.5) as u8;
                }
            }
        }
    }

    /// The pixels, RGB.
    pub fn into_rgb(self) -> Vec<u8> {
        let pixels = self.pixmap.pixels().iter();
        pixels
            .flat_map(|p| [p.red(), p.green(), p.blue()])
            .collect()
    }
}

fn paint(shader: Shader<'static>) -> Paint<'static> {
    Paint {
        shader,
        ..Paint::default()
    }
}

/// Averages blocks of `factor` x `factor` pixels of a square RGB picture with side
/// `size * factor`.
pub fn shrink(pixels: &[u8], size: usize, factor: usize) -> Vec<u8> {
    let row = size * factor * 3;
    let area = (factor * factor) as u32;
    let mut out = Vec::with_capacity(size * size * 3);
    for y in 0..size {
        for x in 0..size {
            for channel in 0..3 {
                let start = y * factor * row + x * factor * 3 + channel;
                let block = (0..factor * factor)
                    .map(|i| u32::from(pixels[start + i / factor * row + i % factor * 3]));
                out.push(((block.sum::<u32>() + area / 2) / area) as u8);
            }
        }
    }
    out
}

/// Blurs a square RGB picture: three box means of half-width `radius`, along rows, then columns.
pub fn blur(pixels: &mut [u8], side: usize, radius: usize) {
    for (line_step, pixel_step) in [(side * 3, 3), (3, side * 3)] {
        for line in 0..side {
            for channel in 0..3 {
                for _ in 0..3 {
                    box_mean(pixels, line * line_step + channel, pixel_step, side, radius);
                }
            }
        }
    }
}

/// Running mean over `n` bytes at `start`, `start + step`, ...; the ends are repeated.
fn box_mean(data: &mut [u8], start: usize, step: usize, n: usize, radius: usize) {
    let line: Vec<u32> = (0..n).map(|i| u32::from(data[start + i * step])).collect();
    let at = |i: isize| line[i.clamp(0, n as isize - 1) as usize];
    let radius = radius as isize;
    let width = (2 * radius + 1) as u32;
    let mut sum: u32 = (-radius..=radius).map(at).sum();
    for i in 0..n as isize {
        data[start + i as usize * step] = ((sum + width / 2) / width) as u8;
        sum = sum + at(i + radius + 1) - at(i - radius);
    }
}
