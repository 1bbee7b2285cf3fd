//! Things worn: hat, eyeglasses, earrings, necklace.

use super::attributes::Attribute::*;
use super::canvas::{Canvas, Ink, Outline, Rgb};
use super::face::Face;
use super::scene::pick;

const WHITE: Rgb = Rgb(1.0, 1.0, 1.0);
const GOLD: Rgb = Rgb(1.0, 0.82, 0.20);
const SILVER: Rgb = Rgb(0.93, 0.95, 0.98);
const OUTLINE: Rgb = Rgb(0.20, 0.13, 0.05);

/// A bold woollen cap or a hat with a brim.
pub fn hat(face: &Face, canvas: &mut Canvas) {
    if !face.has(WearingHat) {
        return;
    }
    let [_, _, hue, kind] = face.own.clothes;
    let hues = [0.0, 0.08, 0.14, 0.36, 0.5, 0.6, 0.78];
    let color = Rgb::hsv(hues[pick(hue, hues.len())], 0.85, 0.82);
    let lit = 50.0 + 22.0 * face.light_side();
    let dome = |wide: f32, top: f32, low: f32| {
        Outline::blob(&[
            (50.0 - wide, low),
            (50.0 - wide * 0.98, low - 11.0),
            (50.0 - wide * 0.66, top + 3.0),
            (50.0, top),
            (50.0 + wide * 0.66, top + 3.0),
            (50.0 + wide * 0.98, low - 11.0),
            (50.0 + wide, low),
            (50.0, low + 1.5),
        ])
    };
    let shade = |c: Rgb| {
        Ink::ramp(
            (lit, 10.0),
            (c.shade(1.12), 1.0),
            (100.0 - lit, 24.0),
            (c.shade(0.7), 1.0),
        )
    };
    let wide = face.shape.head + 5.5;
    if kind < 0.5 {
        canvas.fill(&dome(wide, 2.0, 31.0), shade(color));
        let band = [
            (50.0 - wide - 1.0, 22.5),
            (50.0, 20.5),
            (50.0 + wide + 1.0, 22.5),
            (50.0 + wide + 1.0, 33.0),
            (50.0, 31.0),
            (50.0 - wide - 1.0, 33.0),
        ];
        canvas.fill(&Outline::polygon(&band), shade(color.mix(WHITE, 0.35)));
    } else {
        canvas.fill(&dome(wide - 3.5, 1.5, 27.0), shade(color));
        canvas.fill(
            &Outline::polygon(&[
                (50.0 - wide + 3.5, 19.5),
                (50.0 + wide - 3.5, 19.5),
                (50.0 + wide - 3.0, 26.0),
                (50.0 - wide + 3.0, 26.0),
            ]),
            Ink::flat(color.shade(0.35)),
        );
        canvas.fill(
            &Outline::ellipse((50.0, 28.5), wide + 13.0, 5.2),
            shade(color.shade(0.92)),
        );
        canvas.glow((50.0, 35.0), wide - 3.0, 4.5, Rgb(0.1, 0.04, 0.04), 0.5);
    }
}

/// Dark, heavy frames.
pub fn eyeglasses(face: &Face, canvas: &mut Canvas) {
    if !face.has(Eyeglasses) {
        return;
    }
    let s = &face.shape;
    let frame = [Rgb(0.04, 0.04, 0.05), Rgb(0.16, 0.06, 0.03)][pick(face.own.jewels[3], 2)];
    let y = s.eye_y + 0.8;
    let square = face.own.jewels[3] * 7.0 % 1.0 < 0.5;
    for side in [-1.0, 1.0] {
        let (x, _) = face.at(side * (s.eye_x + 0.2), y);
        let lens = if square {
            let (w, h) = (8.8, 6.0);
            Outline::blob(&[
                (x - w, y - h * 0.8),
                (x - w * 0.5, y - h),
                (x + w * 0.5, y - h),
                (x + w, y - h * 0.8),
                (x + w * 0.9, y + h * 0.6),
                (x + w * 0.4, y + h),
                (x - w * 0.4, y + h),
                (x - w * 0.9, y + h * 0.6),
            ])
        } else {
            Outline::ellipse((x, y), 8.6, 7.4)
        };
        canvas.fill(&lens, Ink::veil(WHITE, 0.16));
        canvas.stroke(&lens, 2.5, Ink::flat(frame));
        let arm = [
            (x + side * 8.8, y - 3.0),
            (50.0 + side * (s.head + 0.5), y - 2.0),
        ];
        canvas.stroke(&Outline::curve(&arm), 2.2, Ink::flat(frame));
    }
    let bridge = [
        face.at(-3.4, y - 1.5),
        face.at(0.0, y - 3.2),
        face.at(3.4, y - 1.5),
    ];
    canvas.stroke(&Outline::curve(&bridge), 2.2, Ink::flat(frame));
}

/// Large drops or hoops of gold or silver.
pub fn earrings(face: &Face, canvas: &mut Canvas) {
    if !face.has(WearingEarrings) {
        return;
    }
    let s = &face.shape;
    let kind = pick(face.own.jewels[0], 4);
    let metal = [GOLD, SILVER][kind % 2];
    for side in [-1.0, 1.0] {
        let x = 50.0 + side * (s.head + 1.4) - 1.2 * face.yaw();
        let y = s.eye_y + 12.5;
        if kind < 2 {
            let drop = [
                (x, y - 1.0),
                (x + 3.0, y + 5.6),
                (x, y + 9.4),
                (x - 3.0, y + 5.6),
            ];
            canvas.stroke(&Outline::blob(&drop), 1.6, Ink::flat(OUTLINE));
            canvas.fill(&Outline::blob(&drop), Ink::flat(metal));
            canvas.fill(
                &Outline::ellipse((x - 0.7, y + 4.6), 1.0, 1.6),
                Ink::flat(WHITE),
            );
        } else {
            let hoop = Outline::ellipse((x, y + 4.6), 4.0, 5.0);
            canvas.stroke(&hoop, 3.4, Ink::flat(OUTLINE));
            canvas.stroke(&hoop, 2.2, Ink::flat(metal));
        }
    }
}

/// A chain with a pendant, or pearls.
pub fn necklace(face: &Face, canvas: &mut Canvas) {
    if !face.has(WearingNecklace) {
        return;
    }
    let y = face.shape.bottom;
    let kind = pick(face.own.jewels[1], 3);
    let metal = [GOLD, SILVER, Rgb(0.99, 0.96, 0.92)][kind];
    let points: Vec<_> = (-6..=6)
        .map(|i| {
            let u = i as f32 / 6.0;
            (50.0 + 14.5 * u, y + 4.5 + 9.0 * (1.0 - u * u))
        })
        .collect();
    let chain = Outline::curve(&points);
    canvas.stroke(&chain, 3.0, Ink::veil(OUTLINE, 0.8));
    canvas.stroke(&chain, 1.8, Ink::flat(metal));
    if kind == 2 {
        for point in &points {
            canvas.fill(&Outline::ellipse(*point, 1.6, 1.6), Ink::flat(metal));
        }
    } else {
        canvas.fill(
            &Outline::ellipse((50.0, y + 15.5), 3.0, 3.2),
            Ink::flat(OUTLINE),
        );
        canvas.fill(
            &Outline::ellipse((50.0, y + 15.5), 2.3, 2.5),
            Ink::flat(metal),
        );
    }
}
