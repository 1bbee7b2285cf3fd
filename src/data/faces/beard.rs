//! What grows on chin, lip and cheeks.

use super::attributes::Attribute::*;
use super::canvas::{Canvas, Ink, Outline, Rgb};
use super::face::Face;

/// Every kind of beard asked for; a full one if there is a beard of no particular kind.
pub fn draw(face: &Face, canvas: &mut Canvas) {
    let kinds = [FiveOClockShadow, Goatee, Mustache, Sideburns];
    let full = !face.has(NoBeard) && !kinds.iter().any(|&k| face.has(k));
    canvas.clip(&face.head(if full || face.has(Goatee) { 1.4 } else { 0.2 }));
    if face.has(FiveOClockShadow) {
        stubble(face, canvas);
    }
    if full {
        canvas.fill(&jaw(face, 0.0), Ink::veil(face.dark_hair, 0.95));
    }
    if full || face.has(Sideburns) {
        sideburns(face, canvas);
    }
    if full || face.has(Goatee) {
        goatee(face, canvas);
    }
    if full || face.has(Mustache) {
        mustache(face, canvas);
    }
    canvas.unclip();
}

/// Cheeks below the mouth's corners, lip and chin; `up` units higher than a trimmed beard.
fn jaw(face: &Face, up: f32) -> Outline {
    let s = &face.shape;
    let mut points = Vec::new();
    for side in [-1.0, 1.0] {
        let mut half = [
            (50.0 + side * (s.head + 4.0), s.bottom + 8.0),
            (50.0 + side * (s.head + 4.0), s.eye_y + 8.0 - up),
            face.at(side * (s.head - 4.2), s.eye_y + 11.0 - up),
            face.at(side * (s.jaw - 3.5), s.mouth_y - 4.5 - up),
            face.at(side * 9.0, s.nose_y + 2.2),
        ];
        if side > 0.0 {
            half.reverse();
        }
        points.extend(half);
        if side < 0.0 {
            points.push(face.at(0.0, s.nose_y + 2.4));
        }
    }
    Outline::polygon(&points)
}

/// A grey veil.
fn stubble(face: &Face, canvas: &mut Canvas) {
    let grey = face.skin.mix(Rgb(0.20, 0.22, 0.26), 0.85);
    for (up, alpha) in [(2.2, 0.14), (1.0, 0.16), (0.0, 0.34)] {
        canvas.fill(&jaw(face, up), Ink::veil(grey, alpha));
    }
}

fn sideburns(face: &Face, canvas: &mut Canvas) {
    let s = &face.shape;
    for side in [-1.0, 1.0] {
        let patch = [
            face.at(side * (s.head + 3.0), 41.0),
            face.at(side * (s.head - 3.4), 41.0),
            face.at(side * (s.head - 4.6), s.eye_y + 9.0),
            face.at(side * (s.jaw - 5.2), s.mouth_y - 3.5),
            face.at(side * (s.jaw + 4.0), s.mouth_y - 1.0),
        ];
        canvas.fill(&Outline::polygon(&patch), Ink::veil(face.dark_hair, 0.97));
    }
}

fn goatee(face: &Face, canvas: &mut Canvas) {
    let s = &face.shape;
    let patch = [
        face.at(0.0, s.mouth_y + 4.0),
        face.at(5.0, s.mouth_y + 4.6),
        face.at(9.4, s.mouth_y + 3.2),
        face.at(8.6, s.bottom - 3.0),
        face.at(5.0, s.bottom + 2.0),
        face.at(0.0, s.bottom + 3.0),
        face.at(-5.0, s.bottom + 2.0),
        face.at(-8.6, s.bottom - 3.0),
        face.at(-9.4, s.mouth_y + 3.2),
        face.at(-5.0, s.mouth_y + 4.6),
    ];
    canvas.fill(&Outline::blob(&patch), Ink::veil(face.dark_hair, 0.97));
}

fn mustache(face: &Face, canvas: &mut Canvas) {
    let s = &face.shape;
    let high = s.nose_y + 1.6;
    let low = s.mouth_y - 0.6;
    let bar = [
        face.at(0.0, high + 0.8),
        face.at(3.5, high),
        face.at(8.5, low - 3.6),
        face.at(12.2, low + 2.6),
        face.at(8.0, low - 0.2),
        face.at(0.0, low - 0.8),
        face.at(-8.0, low - 0.2),
        face.at(-12.2, low + 2.6),
        face.at(-8.5, low - 3.6),
        face.at(-3.5, high),
    ];
    canvas.fill(&Outline::blob(&bar), Ink::veil(face.dark_hair, 0.98));
}
