//! Behind and below the head: background, neck, clothes.

use super::attributes::Attribute::*;
use super::canvas::{Canvas, Ink, Outline, Rgb};
use super::face::{FLOOR, Face};

const INK: Rgb = Rgb(0.06, 0.06, 0.09);
const WHITE: Rgb = Rgb(0.97, 0.97, 0.98);

/// A smooth gradient of two related hues, a soft blob; a halo of light behind beauty.
pub fn background(face: &Face, canvas: &mut Canvas) {
    let [hue, other, colour, value] = face.own.backdrop;
    let [direction, x, y, brightness] = face.own.blob;
    let shades = 0.28 + 0.5 * value;
    let near = Rgb::hsv(hue, 0.15 + 0.45 * colour, shades + 0.16);
    let far = Rgb::hsv(hue + 0.3 * (other - 0.5), 0.2 + 0.5 * colour, shades - 0.12);
    let (sin, cos) = (direction * std::f32::consts::TAU).sin_cos();
    let end = |sign: f32| (50.0 + sign * 55.0 * cos, 50.0 + sign * 55.0 * sin);
    canvas.flood(Ink::ramp(end(-1.0), (near, 1.0), end(1.0), (far, 1.0)));
    let spot = if brightness > 0.5 {
        near.mix(WHITE, 0.5)
    } else {
        far.shade(0.5)
    };
    canvas.glow((100.0 * x, 80.0 * y), 42.0, 36.0, spot, 0.5);
    if face.has(Attractive) {
        canvas.glow(
            (50.0, 40.0),
            56.0,
            54.0,
            near.mix(Rgb(1.0, 0.96, 0.86), 0.75),
            0.6,
        );
    }
}

/// Neck and chest, with the shadow of the chin.
pub fn neck(face: &Face, canvas: &mut Canvas) {
    let thick = face.shape.jaw * if face.has(Male) { 0.74 } else { 0.62 };
    let bottom = face.shape.bottom;
    let neck = Outline::blob(&[
        (50.0 - thick, 55.0),
        (50.0 + thick, 55.0),
        (50.0 + thick, bottom + 3.0),
        (50.0 + thick + 5.0, bottom + 9.0),
        (50.0 + thick + 22.0, bottom + 17.0),
        (50.0, FLOOR + 16.0),
        (50.0 - thick - 22.0, bottom + 17.0),
        (50.0 - thick - 5.0, bottom + 9.0),
        (50.0 - thick, bottom + 3.0),
    ]);
    let (dark, light) = (
        face.skin.mix(face.shadow, 0.7),
        face.skin.mix(face.shadow, 0.12),
    );
    canvas.fill(
        &neck,
        Ink::ramp(
            (50.0, bottom - 2.0),
            (dark, 1.0),
            (50.0, bottom + 13.0),
            (light, 1.0),
        ),
    );
}

/// Shirt, dress or suit with its neckline, and the necktie.
pub fn clothes(face: &Face, canvas: &mut Canvas) {
    let [hue, value, ..] = face.own.clothes;
    let cloth = if face.has(WearingNecktie) {
        Rgb::hsv(0.62, 0.3, 0.14 + 0.12 * value)
    } else {
        Rgb::hsv(hue, 0.55, 0.22 + 0.6 * value)
    };
    let broad = if face.has(Male) { 3.0 } else { -1.0 } + if face.has(Chubby) { 4.0 } else { 0.0 };
    let y = face.shape.bottom;
    let (open, deep) = match (face.has(WearingNecktie), face.has(Male)) {
        (true, _) => (12.0, 22.0),
        (false, true) => (15.0, 12.5),
        (false, false) => (19.0, 18.0),
    };
    let side = |s: f32| {
        [
            (50.0 + s * open, y + 5.5),
            (50.0 + s * (open + 12.0), y + 9.5),
            (50.0 + s * (44.0 + broad), y + 15.0),
            (50.0 + s * (53.0 + broad), FLOOR + 8.0),
        ]
    };
    let mut points = vec![
        (50.0 - open * 0.6, y + deep * 0.8),
        (50.0, y + deep),
        (50.0 + open * 0.6, y + deep * 0.8),
    ];
    points.extend(side(1.0));
    points.extend(side(-1.0).into_iter().rev());
    if face.has(WearingNecktie) {
        shirt(y, canvas);
    }
    canvas.fill(
        &Outline::blob(&points),
        Ink::ramp(
            (50.0, y + 4.0),
            (cloth.shade(1.15), 1.0),
            (50.0, FLOOR),
            (cloth.shade(0.8), 1.0),
        ),
    );
    if face.has(WearingNecktie) {
        tie(face, y, canvas);
    }
}

/// A white shirt and its collar.
fn shirt(y: f32, canvas: &mut Canvas) {
    let shirt = [
        (37.0, y + 4.0),
        (50.0, y + 9.0),
        (63.0, y + 4.0),
        (66.0, FLOOR),
        (34.0, FLOOR),
    ];
    canvas.fill(&Outline::polygon(&shirt), Ink::flat(WHITE));
}

fn tie(face: &Face, y: f32, canvas: &mut Canvas) {
    let hues = [0.0, 0.6, 0.35, 0.12, 0.8];
    let color = Rgb::hsv(hues[pick(face.own.jewels[2], hues.len())], 0.85, 0.75);
    let collar = |s: f32| {
        Outline::polygon(&[
            (50.0 + s * 13.5, y + 2.5),
            (50.0 + s * 2.0, y + 7.0),
            (50.0 + s * 8.5, y + 13.0),
            (50.0 + s * 15.0, y + 7.5),
        ])
    };
    for side in [-1.0, 1.0] {
        canvas.fill(&collar(side), Ink::flat(WHITE));
        canvas.stroke(&collar(side), 0.6, Ink::veil(INK, 0.35));
    }
    let blade = [
        (47.0, y + 10.0),
        (53.0, y + 10.0),
        (56.0, FLOOR),
        (44.0, FLOOR),
    ];
    let knot = [
        (45.3, y + 5.6),
        (54.7, y + 5.6),
        (53.0, y + 11.0),
        (47.0, y + 11.0),
    ];
    canvas.fill(&Outline::polygon(&blade), Ink::flat(color));
    canvas.fill(&Outline::polygon(&knot), Ink::flat(color.shade(0.75)));
}

/// One of `n` kinds, from a number in 0..=1.
pub fn pick(chance: f32, n: usize) -> usize {
    ((chance * n as f32) as usize).min(n.saturating_sub(1))
}
