//! Ears, head, and the light on them: cheeks, wrinkles, chins.

use super::attributes::Attribute::*;
use super::canvas::{Canvas, Ink, Outline, Rgb};
use super::face::Face;

/// Ears, chins and the head itself with its shading.
pub fn draw(face: &Face, canvas: &mut Canvas) {
    ears(face, canvas);
    if face.has(DoubleChin) {
        second_chin(face, canvas);
    }
    let head = face.head(0.0);
    canvas.fill(&head, Ink::flat(face.skin));
    canvas.clip(&head);
    light(face, canvas);
    cheeks(face, canvas);
    if !face.has(Young) {
        wrinkles(face, canvas);
    }
    if face.has(DoubleChin) {
        chin_crease(face, canvas);
    }
    canvas.unclip();
}

fn ears(face: &Face, canvas: &mut Canvas) {
    let s = &face.shape;
    for side in [-1.0, 1.0] {
        let x = 50.0 + side * (s.head + 0.6) - 1.2 * face.yaw();
        let ear = Outline::ellipse((x, s.eye_y + 5.0), 3.4, 6.6);
        canvas.fill(&ear, Ink::flat(face.skin.mix(face.shadow, 0.25)));
        canvas.glow((x, s.eye_y + 5.0), 2.4, 4.6, face.shadow, 0.7);
    }
}

/// Light from one side, shadow on the other; age and pallor change how soft it is.
fn light(face: &Face, canvas: &mut Canvas) {
    let [_, _, hardness, warmth] = face.own.light;
    let side = face.light_side();
    let soft = if face.has(Attractive) { 0.75 } else { 1.0 };
    let bright = Rgb(1.0, 0.98, 0.95).mix(Rgb(1.0, 0.88, 0.70), warmth);
    let dark = (0.22 + 0.3 * hardness) * soft * if face.has(PaleSkin) { 0.6 } else { 1.0 };
    let reach = face.shape.head;
    canvas.flood(Ink::ramp(
        (50.0, 44.0),
        (face.shadow, 0.0),
        (50.0 - side * reach * 1.05, 58.0),
        (face.shadow, dark * 1.5),
    ));
    canvas.glow(
        (50.0 + side * 9.0, 32.0),
        22.0,
        20.0,
        bright,
        0.22 + 0.12 * hardness,
    );
    let under = face.shape.bottom;
    canvas.glow((50.0, under + 4.0), 26.0, 12.0, face.shadow, 0.55);
}

fn cheeks(face: &Face, canvas: &mut Canvas) {
    let s = &face.shape;
    for side in [-1.0, 1.0] {
        let apple = face.at(side * 14.0, s.eye_y + 13.0);
        if face.has(Smiling) || face.has(Chubby) {
            canvas.glow(
                (apple.0, apple.1 - 1.0),
                7.5,
                5.5,
                face.skin.mix(Rgb(1.0, 0.9, 0.8), 0.5),
                0.45,
            );
        }
        if face.has(HighCheekbones) {
            let bone = face.at(side * 16.0, s.eye_y + 10.0);
            let hollow = Outline::curve(&[
                face.at(side * 21.5, s.eye_y + 14.5),
                face.at(side * 17.0, s.eye_y + 18.5),
                face.at(side * 13.5, s.eye_y + 23.0),
            ]);
            canvas.glow(
                bone,
                7.5,
                4.2,
                face.skin.mix(Rgb(1.0, 0.97, 0.90), 0.6),
                0.75,
            );
            canvas.stroke(&hollow, 4.4, Ink::veil(face.shadow, 0.22));
            canvas.stroke(&hollow, 2.0, Ink::veil(face.shadow, 0.3));
        }
        if face.has(RosyCheeks) {
            canvas.glow(apple, 8.5, 6.5, Rgb(0.93, 0.18, 0.26), 0.75);
        } else if face.has(HeavyMakeup) {
            canvas.glow(apple, 8.0, 5.0, Rgb(0.85, 0.30, 0.36), 0.32);
        }
    }
}

/// Lines of the forehead, from nose to mouth, beside the eyes; hollow cheeks.
fn wrinkles(face: &Face, canvas: &mut Canvas) {
    let s = &face.shape;
    let line = face.shadow.mix(Rgb(0.2, 0.08, 0.06), 0.25);
    for (y, wide) in [(29.5, 11.0), (33.8, 12.5)] {
        let crease = [
            face.at(-wide, y + 0.8),
            face.at(-wide * 0.4, y - 0.6),
            face.at(0.0, y),
            face.at(wide * 0.4, y - 0.6),
            face.at(wide, y + 0.8),
        ];
        canvas.stroke(&Outline::curve(&crease), 1.1, Ink::veil(line, 0.6));
    }
    for side in [-1.0, 1.0] {
        let fold = [
            face.at(side * 6.0, s.nose_y - 1.5),
            face.at(side * 10.5, s.nose_y + 4.0),
            face.at(side * 12.8, s.mouth_y + 2.0),
        ];
        canvas.stroke(&Outline::curve(&fold), 1.5, Ink::veil(line, 0.65));
        let jowl = face.at(side * 13.0, s.mouth_y + 7.0);
        canvas.glow(jowl, 4.5, 4.5, face.shadow, 0.4);
        for (from, to) in [(-0.5, -2.8), (0.8, 1.2), (2.0, 5.0)] {
            let foot = [
                face.at(side * 19.0, s.eye_y + from),
                face.at(side * 22.6, s.eye_y + to),
            ];
            canvas.stroke(&Outline::curve(&foot), 0.7, Ink::veil(line, 0.6));
        }
    }
}

/// A roll of skin below the chin.
fn second_chin(face: &Face, canvas: &mut Canvas) {
    let s = &face.shape;
    let roll = Outline::ellipse(
        (50.0 + 1.5 * face.yaw(), s.bottom - 3.0),
        s.jaw * 0.95,
        10.0,
    );
    let (light, dark) = (
        face.skin.mix(face.shadow, 0.15),
        face.skin.mix(face.shadow, 0.75),
    );
    canvas.fill(
        &roll,
        Ink::ramp(
            (50.0, s.bottom),
            (light, 1.0),
            (50.0, s.bottom + 7.5),
            (dark, 1.0),
        ),
    );
}

fn chin_crease(face: &Face, canvas: &mut Canvas) {
    let s = &face.shape;
    let y = s.bottom - 1.2;
    let crease = [
        face.at(-s.chin - 5.0, y - 6.5),
        face.at(-s.chin * 0.6, y - 0.8),
        face.at(0.0, y),
        face.at(s.chin * 0.6, y - 0.8),
        face.at(s.chin + 5.0, y - 6.5),
    ];
    canvas.stroke(&Outline::curve(&crease), 1.9, Ink::veil(face.shadow, 0.85));
}
