//! One person: attributes and identity turned into measures and colours that every part shares.

use super::attributes::Attribute::{self, *};
use super::canvas::{Outline, Rgb, SIDE};
use super::identity::Identity;

/// Middle of the face, around which the head is turned.
pub const CENTRE: (f32, f32) = (50.0, 50.0);

/// A person about to be drawn.
pub struct Face {
    attributes: [bool; 40],
    /// The chance part.
    pub own: Identity,
    /// Skin in plain light.
    pub skin: Rgb,
    /// Skin in shadow.
    pub shadow: Rgb,
    /// Hair of the head.
    pub hair: Rgb,
    /// Brows and beard: the hair, but always to be told from the skin.
    pub dark_hair: Rgb,
    /// Where things are.
    pub shape: Shape,
}

/// Measures in canvas units; widths are half-widths.
pub struct Shape {
    /// Top of the skull.
    pub top: f32,
    /// Widest part of the head.
    pub head: f32,
    /// Head at the height of the mouth.
    pub jaw: f32,
    /// Head just above the chin's tip.
    pub chin: f32,
    /// Lower end of the head.
    pub bottom: f32,
    /// Height of the eyes.
    pub eye_y: f32,
    /// Distance of an eye from the middle line.
    pub eye_x: f32,
    /// Lower end of the nose.
    pub nose_y: f32,
    /// Height of the mouth.
    pub mouth_y: f32,
}

impl Face {
    /// The person with `attributes` and the identity `own`.
    pub fn new(attributes: &[u8; 40], own: Identity) -> Self {
        let attributes = attributes.map(|a| a != 0);
        let has = |a: Attribute| attributes[a as usize];
        let skin = skin(&has, &own);
        let hair = hair(&has, &own);
        let limit = skin.shade(0.55);
        let dark_hair = if has(GrayHair) && !has(Bald) {
            Rgb(0.55, 0.55, 0.57)
        } else {
            hair.mix(Rgb(0.10, 0.06, 0.05), 0.55).darker_of(limit)
        };
        Self {
            attributes,
            own,
            skin,
            shadow: skin.mix(Rgb(0.25, 0.10, 0.08), 0.5),
            hair,
            dark_hair,
            shape: Shape::new(&has, &own),
        }
    }

    /// Whether the person has this attribute.
    pub fn has(&self, attribute: Attribute) -> bool {
        self.attributes[attribute as usize]
    }

    /// A point of the face, `x` from its middle line: where the head's turn puts it.
    pub fn at(&self, x: f32, y: f32) -> (f32, f32) {
        let yaw = self.yaw();
        (
            CENTRE.0 + x * (1.0 - 0.11 * yaw * x.signum()) + 3.4 * yaw,
            y,
        )
    }

    /// How far the head is turned to the right, -1..=1.
    pub fn yaw(&self) -> f32 {
        self.own.light[0] * if self.has(Attractive) { 0.8 } else { 1.0 }
    }

    /// A number of `own.uneven`, in units: beauty is even.
    pub fn uneven(&self, which: usize) -> f32 {
        self.own.uneven[which] * if self.has(Attractive) { 0.15 } else { 1.6 }
    }

    /// Side of the light: -1 left, 1 right.
    pub fn light_side(&self) -> f32 {
        self.own.light[1].signum()
    }

    /// The outline of the head, grown by `more` units.
    pub fn head(&self, more: f32) -> Outline {
        let s = &self.shape;
        let half = [
            (s.head * 0.60, s.top + 3.2),
            (s.head * 0.94, s.top + 15.0),
            (s.head, s.top + 29.0),
            (s.head * 0.97, s.eye_y + 9.0),
            (s.jaw, s.mouth_y - 3.0),
            (s.chin, s.bottom - 3.6),
        ];
        let middle = CENTRE.0 + 0.8 * self.yaw();
        let grown = |side: f32| {
            half.map(|(x, y)| {
                let down = (y - CENTRE.1) / 35.0;
                (middle + side * (x + more), y + more * down)
            })
        };
        let mut points = vec![(middle, s.top - more)];
        points.extend(grown(1.0));
        points.push((middle + 0.8 * self.yaw(), s.bottom + more));
        points.extend(grown(-1.0).into_iter().rev());
        Outline::blob(&points)
    }
}

impl Shape {
    fn new(has: &impl Fn(Attribute) -> bool, own: &Identity) -> Self {
        let when = |a: Attribute, amount: f32| if has(a) { amount } else { 0.0 };
        let [width, length, jaw, chin] = own.build;
        let [spacing, _, _, nose] = own.upper;
        let head = 23.8 + 0.8 * width + when(Male, 0.7) + when(Chubby, 2.4) - when(OvalFace, 2.2);
        let sag = if has(Young) { 0.0 } else { 0.8 };
        Self {
            top: 13.0,
            head,
            jaw: head - 5.6 + 0.8 * jaw + when(Male, 1.6) + when(Chubby, 3.4) + sag
                - when(OvalFace, 1.2),
            chin: 8.6 + chin + when(Male, 3.0) + when(Chubby, 4.0) - when(OvalFace, 0.8),
            bottom: 81.0 + length + when(Male, 0.8) + when(OvalFace, 2.8) - when(Chubby, 0.8),
            eye_y: 45.5,
            eye_x: 11.6 + 0.5 * spacing,
            nose_y: 60.5 + 0.8 * nose + when(BigNose, 1.6),
            mouth_y: 69.0 + 0.6 * own.lower[1] + when(OvalFace, 0.6),
        }
    }
}

impl Rgb {
    fn luma(self) -> f32 {
        0.3 * self.0 + 0.59 * self.1 + 0.11 * self.2
    }

    /// Shaded until no lighter than `limit`.
    fn darker_of(self, limit: Self) -> Self {
        self.shade((limit.luma() / self.luma().max(1e-3)).min(1.0))
    }
}

const TONES: [Rgb; 5] = [
    Rgb(0.93, 0.76, 0.63),
    Rgb(0.89, 0.68, 0.53),
    Rgb(0.79, 0.56, 0.40),
    Rgb(0.60, 0.40, 0.27),
    Rgb(0.44, 0.28, 0.19),
];

fn skin(has: &impl Fn(Attribute) -> bool, own: &Identity) -> Rgb {
    let [tone, warmth, ..] = own.tone;
    if has(PaleSkin) {
        return Rgb(0.98, 0.92, 0.89).mix(Rgb(0.96, 0.91, 0.86), warmth);
    }
    let place = tone.powf(1.6) * 3.999;
    let i = place as usize;
    let base = TONES[i].mix(TONES[i + 1], place - i as f32);
    let tinted = base.mix(Rgb(0.95, 0.55, 0.45), 0.07 * warmth);
    if has(Young) {
        tinted
    } else {
        tinted.mix(Rgb(0.66, 0.56, 0.50), 0.18)
    }
}

/// The mean of the colours asked for; copper if none is.
fn hair(has: &impl Fn(Attribute) -> bool, own: &Identity) -> Rgb {
    let tint = own.tone[3];
    let vary = |a: Rgb, b: Rgb| a.mix(b, tint);
    let colors = [
        (
            BlackHair,
            vary(Rgb(0.05, 0.05, 0.06), Rgb(0.10, 0.08, 0.08)),
        ),
        (
            BlondHair,
            vary(Rgb(0.93, 0.80, 0.45), Rgb(0.86, 0.68, 0.34)),
        ),
        (
            BrownHair,
            vary(Rgb(0.36, 0.21, 0.11), Rgb(0.46, 0.29, 0.16)),
        ),
        (GrayHair, vary(Rgb(0.70, 0.70, 0.73), Rgb(0.84, 0.84, 0.86))),
    ];
    let mut chosen = colors.iter().filter(|(a, _)| has(*a)).map(|(_, c)| *c);
    let Some(first) = chosen.next() else {
        let other = vary(Rgb(0.68, 0.30, 0.12), Rgb(0.50, 0.17, 0.10));
        return if has(Young) {
            other
        } else {
            other.mix(Rgb(0.6, 0.58, 0.57), 0.3)
        };
    };
    let (mut mean, mut n) = (first, 1.0);
    for color in chosen {
        n += 1.0;
        mean = mean.mix(color, 1.0 / n);
    }
    if has(Young) || has(GrayHair) {
        mean
    } else {
        mean.mix(Rgb(0.6, 0.6, 0.6), 0.18)
    }
}

/// The canvas's lower edge.
pub const FLOOR: f32 = SIDE + 6.0;
