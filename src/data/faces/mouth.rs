//! Nose and mouth.

use super::attributes::Attribute::*;
use super::canvas::{Canvas, Ink, Outline, Rgb};
use super::face::Face;
use super::scene::pick;

/// Bridge, tip and nostrils.
pub fn nose(face: &Face, canvas: &mut Canvas) {
    let s = &face.shape;
    let big = face.has(BigNose);
    let wide = 4.3 + 0.4 * face.own.lower[3] + if big { 3.4 } else { 0.0 }
        - if face.has(PointyNose) { 1.4 } else { 0.0 };
    let lean = 1.6 * face.yaw() + 0.5 * face.uneven(2);
    let at = |x: f32, y: f32| {
        let (px, py) = face.at(x, y);
        let forward = ((y - s.eye_y) / (s.nose_y - s.eye_y)).clamp(0.0, 1.2);
        (px + lean * forward, py)
    };
    let side = -face.light_side();
    let bridge = [
        at(side * 2.6, s.eye_y - 4.0),
        at(side * 2.2, s.eye_y + 4.0),
        at(side * wide * 0.8, s.nose_y - 3.5),
    ];
    canvas.stroke(
        &Outline::curve(&bridge),
        if big { 2.2 } else { 1.6 },
        Ink::veil(face.shadow, 0.5),
    );
    if big {
        canvas.glow(
            at(0.0, s.nose_y - 2.2),
            wide + 2.2,
            6.0,
            face.skin.mix(Rgb(0.75, 0.25, 0.2), 0.35),
            0.8,
        );
        canvas.glow(at(0.0, s.nose_y - 3.2), 3.6, 3.0, Rgb(1.0, 0.95, 0.9), 0.5);
    }
    let shine = Outline::curve(&[at(-side * 0.6, s.eye_y), at(-side * 0.6, s.nose_y - 4.0)]);
    canvas.stroke(
        &shine,
        1.8,
        Ink::veil(face.skin.mix(Rgb(1.0, 1.0, 0.95), 0.6), 0.4),
    );
    tip(face, canvas, wide, &at);
    for nostril in [-1.0, 1.0] {
        let r = if big { 2.0 } else { 1.0 };
        let hole = Outline::ellipse(at(nostril * wide * 0.5, s.nose_y - 0.2), r, r * 0.7);
        canvas.fill(&hole, Ink::veil(face.shadow.shade(0.5), 0.85));
    }
}

/// The end of a nose of half-width `wide`; `at` places its points.
fn tip(face: &Face, canvas: &mut Canvas, wide: f32, at: &dyn Fn(f32, f32) -> (f32, f32)) {
    let (s, big) = (&face.shape, face.has(BigNose));
    if face.has(PointyNose) {
        let tip = [
            at(-wide - 0.4, s.nose_y - 2.2),
            at(0.0, s.nose_y + 2.4),
            at(wide + 0.4, s.nose_y - 2.2),
            at(0.0, s.nose_y - 0.4),
        ];
        canvas.fill(
            &Outline::polygon(&tip),
            Ink::veil(face.shadow.shade(0.8), 0.85),
        );
        canvas.glow(at(0.0, s.nose_y - 1.8), 2.2, 2.6, Rgb(1.0, 1.0, 0.95), 0.75);
    } else {
        let base = [
            at(-wide, s.nose_y - 2.6),
            at(-wide, s.nose_y - 0.4),
            at(-wide * 0.4, s.nose_y + 0.2),
            at(0.0, s.nose_y + 1.0),
            at(wide * 0.4, s.nose_y + 0.2),
            at(wide, s.nose_y - 0.4),
            at(wide, s.nose_y - 2.6),
        ];
        canvas.stroke(
            &Outline::curve(&base),
            if big { 2.2 } else { 1.0 },
            Ink::veil(face.shadow.shade(0.85), 0.75),
        );
    }
}

/// The lines of a mouth over its width: u from -1 to 1, heights downwards.
struct Mouth<'a> {
    face: &'a Face,
    wide: f32,
    bend: f32,
    gape: f32,
    upper: f32,
    lower: f32,
}

impl<'a> Mouth<'a> {
    fn new(face: &'a Face) -> Self {
        let when = |yes: bool, amount: f32| if yes { amount } else { 0.0 };
        let (smile, open) = (face.has(Smiling), face.has(MouthSlightlyOpen));
        let full = when(face.has(BigLips), 1.8)
            + when(face.has(WearingLipstick), 0.7)
            + 0.25 * face.own.lower[2]
            - when(face.has(Male), 0.4)
            - when(!face.has(Young), 0.2)
            - when(smile, 0.2);
        Self {
            face,
            wide: 9.2 + 0.5 * face.own.lower[0] + when(smile, 4.0) + when(face.has(BigLips), 0.6)
                - when(open && !smile, 0.8),
            bend: if smile { 4.4 } else { -0.3 },
            gape: when(open, if smile { 5.6 } else { 5.4 }),
            upper: 1.7 + full,
            lower: 2.2 + 1.3 * full,
        }
    }

    /// A point at `u`, `drop` below the line of the closed mouth.
    fn at(&self, u: f32, drop: f32) -> (f32, f32) {
        let line = self.bend * (0.5 - 1.5 * u * u);
        let tilt = 0.3 * self.face.uneven(1) * u;
        self.face
            .at(u * self.wide, self.face.shape.mouth_y + line + tilt + drop)
    }

    /// The line at fixed fractions of the width; `drop(u)` below the closed mouth.
    fn line(&self, drop: impl Fn(f32) -> f32) -> Vec<(f32, f32)> {
        [-1.0, -0.75, -0.45, -0.2, 0.0, 0.2, 0.45, 0.75, 1.0]
            .map(|u| self.at(u, drop(u)))
            .to_vec()
    }

    fn roof(&self, u: f32) -> f32 {
        -0.3 * self.gape * (1.0 - u * u)
    }

    fn floor(&self, u: f32) -> f32 {
        0.7 * self.gape * (1.0 - u * u)
    }

    /// The area between two lines.
    fn between(&self, over: impl Fn(f32) -> f32, under: impl Fn(f32) -> f32) -> Outline {
        let mut points = self.line(over);
        points.extend(self.line(under).into_iter().rev());
        Outline::blob(&points)
    }
}

/// Lips, and between them teeth if open.
pub fn mouth(face: &Face, canvas: &mut Canvas) {
    let m = Mouth::new(face);
    let color = lip_color(face);
    let bow = |u: f32| (1.0 - u * u).max(0.0).sqrt() * (1.0 - 0.3 * (-30.0 * u * u).exp());
    let belly = |u: f32| (1.0 - u * u).max(0.0).powf(0.7);
    let upper = m.between(|u| m.roof(u) - m.upper * bow(u), |u| m.roof(u));
    let lower = m.between(|u| m.floor(u), |u| m.floor(u) + m.lower * belly(u));
    let below = m.at(0.0, m.floor(0.0) + m.lower + 1.4);
    canvas.glow(below, 7.0, 2.4, face.shadow, 0.4);
    if m.gape > 0.0 {
        canvas.fill(
            &m.between(|u| m.roof(u), |u| m.floor(u)),
            Ink::flat(Rgb(0.24, 0.03, 0.05)),
        );
        let bite = if face.has(Smiling) { 0.7 } else { 0.3 };
        let teeth = m.between(
            |u| m.roof(u) * 0.95,
            |u| m.roof(u) + bite * (m.floor(u) - m.roof(u)),
        );
        canvas.fill(&teeth, Ink::flat(Rgb(0.98, 0.97, 0.94)));
    }
    canvas.fill(&upper, Ink::flat(color.shade(0.88)));
    canvas.fill(&lower, Ink::flat(color));
    canvas.glow(
        m.at(0.0, m.floor(0.0) + 0.5 * m.lower),
        4.5,
        0.5 * m.lower,
        Rgb(1.0, 0.85, 0.85),
        0.35,
    );
    if m.gape == 0.0 {
        let parting = Outline::curve(&m.line(|_| 0.0));
        canvas.stroke(&parting, 1.25, Ink::flat(color.shade(0.34)));
    }
    if face.has(Smiling) {
        for u in [-1.0, 1.0] {
            canvas.glow(m.at(u * 1.1, -0.3), 2.2, 2.8, face.shadow, 0.6);
        }
    }
}

/// Bold red with lipstick; a touch of it with make-up alone; else near the skin.
fn lip_color(face: &Face) -> Rgb {
    let bare = face.skin.mix(
        Rgb(0.66, 0.24, 0.24),
        if face.has(Male) { 0.36 } else { 0.46 },
    );
    let reds = [
        Rgb(0.88, 0.03, 0.10),
        Rgb(0.76, 0.01, 0.15),
        Rgb(0.86, 0.08, 0.30),
    ];
    let red = reds[pick(face.own.makeup[0], reds.len())];
    match (face.has(WearingLipstick), face.has(HeavyMakeup)) {
        (true, _) => red,
        (_, true) => bare.mix(red, 0.45),
        _ => bare,
    }
}
