//! Eyes, what lies above and below them, and brows.

use super::attributes::Attribute::*;
use super::canvas::{Canvas, Ink, Outline, Rgb};
use super::face::Face;
use super::scene::pick;

const LASH: Rgb = Rgb(0.07, 0.04, 0.04);

/// One eye: its middle, half-width and half-height.
struct Eye {
    side: f32,
    x: f32,
    y: f32,
    w: f32,
    h: f32,
}

impl Eye {
    fn new(face: &Face, side: f32) -> Self {
        let grow = 1.0 + 0.06 * face.own.upper[1] + if face.has(Attractive) { 0.12 } else { 0.0 };
        let (x, y) = face.at(side * face.shape.eye_x, face.shape.eye_y);
        let h = if face.has(NarrowEyes) { 1.3 } else { 3.6 };
        Self {
            side,
            x,
            y: y + side * 0.5 * face.uneven(3),
            w: 6.4 * grow,
            h: h * grow * if face.has(Smiling) { 0.92 } else { 1.0 },
        }
    }

    /// A point of the eye: `u` from -1 at the nose to 1 outside, `v` down, in half-heights.
    fn at(&self, u: f32, v: f32) -> (f32, f32) {
        (
            self.x + self.side * u * self.w,
            self.y + v * self.h - 0.5 * u,
        )
    }
}

/// Both eyes and brows.
pub fn draw(face: &Face, canvas: &mut Canvas) {
    for side in [-1.0, 1.0] {
        let eye = Eye::new(face, side);
        socket(face, &eye, canvas);
        if face.has(HeavyMakeup) {
            eyeshadow(face, &eye, canvas);
        }
        if face.has(BagsUnderEyes) {
            bag(face, &eye, canvas);
        }
        ball(face, &eye, canvas);
        lids(face, &eye, canvas);
        brow(face, &eye, canvas);
    }
}

fn socket(face: &Face, eye: &Eye, canvas: &mut Canvas) {
    canvas.glow(
        (eye.x - eye.side * 1.5, eye.y - 2.0),
        9.0,
        6.5,
        face.shadow,
        0.38,
    );
}

fn eyeshadow(face: &Face, eye: &Eye, canvas: &mut Canvas) {
    let colors = [
        Rgb(0.42, 0.16, 0.48),
        Rgb(0.16, 0.24, 0.52),
        Rgb(0.36, 0.16, 0.14),
    ];
    let color = colors[pick(face.own.makeup[1], colors.len())];
    let (x, y) = eye.at(0.12, 0.0);
    canvas.glow((x, y - 2.2), 9.2, 5.6, color, 0.95);
}

fn bag(face: &Face, eye: &Eye, canvas: &mut Canvas) {
    let y = eye.y + eye.h;
    let color = face.shadow.mix(Rgb(0.22, 0.10, 0.22), 0.45);
    canvas.glow((eye.x, y + 2.2), 7.4, 4.2, color, 0.75);
    let rim = [
        (eye.x - 6.0, y + 2.2),
        (eye.x - 2.5, y + 4.6),
        (eye.x + 2.5, y + 4.6),
        (eye.x + 6.0, y + 2.2),
    ];
    canvas.stroke(&Outline::curve(&rim), 1.2, Ink::veil(color, 0.85));
}

fn ball(face: &Face, eye: &Eye, canvas: &mut Canvas) {
    let almond = [
        eye.at(-1.0, 0.25),
        eye.at(-0.45, -0.85),
        eye.at(0.15, -1.0),
        eye.at(0.65, -0.65),
        eye.at(1.0, 0.0),
        eye.at(0.5, 0.8),
        eye.at(-0.4, 0.85),
    ];
    canvas.fill(&Outline::blob(&almond), Ink::flat(Rgb(0.96, 0.95, 0.94)));
    let irises = [
        Rgb(0.25, 0.14, 0.08),
        Rgb(0.33, 0.20, 0.10),
        Rgb(0.20, 0.38, 0.58),
        Rgb(0.22, 0.42, 0.28),
    ];
    let iris = irises[pick(face.own.tone[2], irises.len())];
    let centre = (eye.x + 0.9 * face.yaw(), eye.y - 0.1 * eye.h);
    let ry = eye.h.min(3.0);
    canvas.fill(&Outline::ellipse(centre, 2.9, ry), Ink::flat(iris));
    canvas.fill(&Outline::ellipse(centre, 1.5, ry.min(1.5)), Ink::flat(LASH));
    let glint = (centre.0 + 0.9 * face.light_side(), centre.1 - 0.3 * eye.h);
    canvas.fill(
        &Outline::ellipse(glint, 0.75, 0.75_f32.min(ry)),
        Ink::flat(Rgb(1.0, 1.0, 1.0)),
    );
}

fn lids(face: &Face, eye: &Eye, canvas: &mut Canvas) {
    let wing = if face.has(HeavyMakeup) { 1.22 } else { 1.02 };
    let upper = [
        eye.at(-1.03, 0.3),
        eye.at(-0.45, -0.9),
        eye.at(0.15, -1.05),
        eye.at(0.65, -0.7),
        eye.at(wing, -0.15 - 2.0 * (wing - 1.0)),
    ];
    let width = match (face.has(HeavyMakeup), face.has(Male)) {
        (true, _) => 2.3,
        (_, true) => 1.1,
        _ => 1.5,
    };
    canvas.stroke(&Outline::curve(&upper), width, Ink::flat(LASH));
    let lower = [
        eye.at(-0.9, 0.5),
        eye.at(-0.4, 0.9),
        eye.at(0.5, 0.85),
        eye.at(1.0, 0.1),
    ];
    canvas.stroke(
        &Outline::curve(&lower),
        0.7,
        Ink::veil(LASH, if face.has(HeavyMakeup) { 0.9 } else { 0.45 }),
    );
    if !face.has(Young) || face.has(NarrowEyes) {
        let fold = [eye.at(-0.9, -0.9), eye.at(0.1, -1.9), eye.at(1.1, -0.4)];
        canvas.stroke(&Outline::curve(&fold), 0.8, Ink::veil(face.shadow, 0.7));
    }
}

/// A tapering arch; bushy brows are thick, arched ones high.
fn brow(face: &Face, eye: &Eye, canvas: &mut Canvas) {
    let thick = match (face.has(BushyEyebrows), face.has(Male)) {
        (true, _) => 2.5,
        (_, true) => 1.25,
        _ => 1.05,
    };
    let arch = if face.has(ArchedEyebrows) { 4.4 } else { 0.9 };
    let male = if face.has(Male) { 0.9 } else { 0.0 };
    let y = face.shape.eye_y - 7.0 + male - 0.6 * face.own.upper[2]
        + 0.6 * eye.side * face.uneven(0)
        - if face.has(ArchedEyebrows) { 0.2 } else { 0.0 };
    let at = |u: f32, lift: f32| (eye.x + eye.side * u, y - lift);
    let brow = [
        at(-6.8, 0.1 - 0.5 * thick),
        at(-1.0, arch * 0.6 + thick),
        at(2.6, arch + thick * 0.9),
        at(8.2, -0.6 - 0.2 * arch),
        at(2.6, arch - thick * 0.7),
        at(-1.0, arch * 0.6 - thick),
        at(-6.8, -0.5 - thick),
    ];
    let brow = if face.has(BushyEyebrows) {
        [
            at(-7.6, 2.6),
            brow[1],
            brow[2],
            at(8.8, -1.0),
            brow[4],
            brow[5],
            at(-7.6, -2.0),
        ]
    } else {
        brow
    };
    canvas.fill(&Outline::blob(&brow), Ink::veil(face.dark_hair, 0.95));
}
