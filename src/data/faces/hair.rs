//! Hair of the head: the mass behind it, the locks over the shoulders, the cap with its hairline.

use super::attributes::Attribute::*;
use super::canvas::{Canvas, Ink, Outline, Rgb};
use super::face::{FLOOR, Face};
use std::f32::consts::{PI, TAU};

/// How far the hair hangs down.
#[derive(Clone, Copy, PartialEq)]
enum Length {
    None,
    Short,
    Bob,
    Long,
}

/// The outer surface of the hair.
struct Mane<'a> {
    face: &'a Face,
    length: Length,
    volume: f32,
    waves: f32,
}

/// Middle of the dome that covers the skull.
const DOME_Y: f32 = 38.0;

impl<'a> Mane<'a> {
    fn new(face: &'a Face) -> Self {
        let (straight, wavy) = (face.has(StraightHair), face.has(WavyHair));
        let length = match (face.has(Bald), face.has(Male)) {
            (true, _) => Length::None,
            (_, true) => Length::Short,
            _ if straight || wavy => Length::Long,
            _ => Length::Bob,
        };
        let base = if length == Length::Short { 2.2 } else { 5.0 };
        let flat = if straight && !wavy { -0.8 } else { 0.0 };
        Self {
            face,
            length,
            volume: base + flat + 1.2 * face.own.hair[2] + if wavy { 2.0 } else { 0.0 },
            waves: if wavy { 1.0 } else { 0.0 },
        }
    }

    /// Right or left (`side`) outer edge at height `y` below the dome.
    fn edge(&self, side: f32, y: f32) -> (f32, f32) {
        let down = (y - DOME_Y) / 50.0;
        let flare = match self.length {
            Length::Long if self.waves > 0.0 => 4.5 * down,
            Length::Long => 1.5 * down,
            Length::Bob => 3.5 * (down * 4.0).sin(),
            _ => -1.6 * down * 4.0,
        };
        let wave = self.waves
            * 2.3
            * (TAU * (y / 15.0 + self.face.own.hair[1])).sin()
            * (down * 5.0).clamp(0.0, 1.0);
        (
            50.0 + side * (self.face.shape.head + self.volume + flare + wave)
                - 1.2 * self.face.yaw(),
            y,
        )
    }

    /// The edge from the left at height `y` over the top to the right.
    fn dome(&self, y: f32) -> Vec<(f32, f32)> {
        let s = &self.face.shape;
        let rx = s.head + self.volume;
        let ry = DOME_Y - s.top + 1.5 + 0.8 * self.volume;
        let steps = ((y - DOME_Y) / 3.5).max(0.0) as usize;
        let heights = |i: usize| DOME_Y + (y - DOME_Y) * i as f32 / steps.max(1) as f32;
        let mut points: Vec<_> = (1..=steps)
            .rev()
            .map(|i| self.edge(-1.0, heights(i)))
            .collect();
        for i in 0..=24 {
            let angle = PI * i as f32 / 24.0;
            let bump = 1.0
                + self.waves
                    * 0.055
                    * (angle * 9.0 + TAU * self.face.own.hair[1]).sin()
                    * angle.sin();
            points.push((
                50.0 - rx * bump * angle.cos() - 1.2 * self.face.yaw(),
                DOME_Y - ry * bump * angle.sin().max(0.0).powf(0.85),
            ));
        }
        points.extend((1..=steps).map(|i| self.edge(1.0, heights(i))));
        points
    }

    fn ink(&self) -> Ink {
        let hair = self.face.hair;
        Ink::ramp(
            (50.0, 8.0),
            (hair.shade(1.12), 1.0),
            (50.0, 95.0),
            (hair.shade(0.78), 1.0),
        )
    }

    fn strand(&self, light: bool) -> Ink {
        let hair = self.face.hair;
        if light {
            Ink::veil(hair.mix(Rgb(1.0, 0.95, 0.88), 0.38), 0.55)
        } else {
            Ink::veil(hair.shade(0.55), 0.55)
        }
    }
}

/// The mass of hair behind the head and neck.
pub fn back(face: &Face, canvas: &mut Canvas) {
    let mane = Mane::new(face);
    let end = match mane.length {
        Length::None | Length::Short => return,
        Length::Bob => 71.0 + 5.0 * face.own.hair[3],
        Length::Long => 92.0,
    };
    let mut points = mane.dome(end);
    points.push((62.0, end + 3.0));
    points.push((38.0, end + 3.0));
    canvas.fill(
        &Outline::blob(&points),
        Ink::ramp(
            (50.0, 10.0),
            (face.hair, 1.0),
            (50.0, 90.0),
            (face.hair.shade(0.62), 1.0),
        ),
    );
}

/// Long hair falling over the shoulders on both sides.
pub fn locks(face: &Face, canvas: &mut Canvas) {
    let mane = Mane::new(face);
    if mane.length != Length::Long {
        return;
    }
    let heights: Vec<f32> = (0..16)
        .map(|i| 50.0 + (FLOOR + 4.0 - 50.0) * i as f32 / 15.0)
        .collect();
    for side in [-1.0, 1.0] {
        let across = |part: f32, y: f32| {
            let (outer, _) = mane.edge(side, y);
            let inner = 50.0 + side * (15.5 + (70.0 - y).max(0.0) * 0.3);
            let wave = mane.waves * 1.6 * (TAU * (y / 15.0 + face.own.hair[1])).sin();
            (
                inner + (outer - inner) * part + side * wave * (1.0 - part),
                y,
            )
        };
        let mut points: Vec<_> = heights.iter().map(|&y| across(1.0, y)).collect();
        points.extend(heights.iter().rev().map(|&y| across(0.0, y)));
        canvas.fill(&Outline::blob(&points), mane.ink());
        for (part, light) in [(0.25, false), (0.5, true), (0.75, false)] {
            let strand: Vec<_> = heights.iter().map(|&y| across(part, y)).collect();
            canvas.stroke(
                &Outline::curve(&strand),
                if face.has(WavyHair) { 1.5 } else { 1.1 },
                mane.strand(light),
            );
        }
    }
}

/// The cap of hair over forehead and temples, or a bare shining skull.
pub fn front(face: &Face, canvas: &mut Canvas) {
    let mane = Mane::new(face);
    if mane.length == Length::None {
        let x = 50.0 + 7.0 * face.light_side();
        canvas.glow((x, 19.5), 10.0, 6.0, Rgb(1.0, 1.0, 0.98), 0.8);
        return;
    }
    let reach = if mane.length == Length::Short {
        49.0
    } else {
        60.0
    };
    let mut points = mane.dome(reach);
    let top = points.clone();
    points.extend(hairline(face, reach).into_iter().rev());
    let cap = Outline::blob(&points);
    canvas.fill(&cap, mane.ink());
    if face.has(Bangs) {
        bangs(face, &mane, canvas);
    }
    canvas.clip(&cap);
    strands(&mane, &top, canvas);
    canvas.glow(
        (50.0 + 11.0 * face.light_side(), 15.0),
        17.0,
        8.0,
        face.hair.mix(Rgb(1.0, 0.96, 0.9), 0.6),
        0.55,
    );
    canvas.unclip();
}

/// Where the forehead begins, from the left to the right temple.
fn hairline(face: &Face, reach: f32) -> Vec<(f32, f32)> {
    let s = &face.shape;
    let part = (face.own.hair[0] - 0.5) * 14.0;
    let (centre, corner, temple) = if face.has(RecedingHairline) {
        (18.5, 13.5, 27.0)
    } else if face.has(Male) {
        (24.0, 24.5, 31.5)
    } else {
        (20.5, 25.5, 34.0)
    };
    let swept = if face.has(Male) && face.has(StraightHair) && !face.has(RecedingHairline) {
        6.0
    } else {
        0.0
    };
    let side = if face.has(Male) { 1.2 } else { 2.2 };
    let sweep = (part * 99.0).signum();
    let half = |k: f32| {
        [
            face.at(k * (s.head - side), reach),
            face.at(k * (s.head - side - 0.8), 42.0),
            face.at(k * s.head * 0.86, temple),
            face.at(k * s.head * 0.52, corner + 0.5 * swept * (1.0 + k * sweep)),
        ]
    };
    let mut line = half(-1.0).to_vec();
    line.push(face.at(part, centre));
    line.extend(half(1.0).into_iter().rev());
    line
}

/// A fringe down to the brows.
fn bangs(face: &Face, mane: &Mane, canvas: &mut Canvas) {
    let s = &face.shape;
    let low = 38.5;
    let dip = if face.has(WavyHair) { 2.4 } else { 1.0 };
    let mut points = vec![
        (50.0 - s.head * 0.72, 17.0),
        (50.0, s.top - 1.0),
        (50.0 + s.head * 0.72, 17.0),
    ];
    for i in 0..=8 {
        let u = 1.0 - i as f32 / 4.0;
        let scallop = if i % 2 == 0 { 0.0 } else { dip };
        points.push(face.at(u * (s.head - 0.8), low - scallop + 3.0 * u * u));
    }
    canvas.fill(&Outline::blob(&points), mane.ink());
    for i in -3..=3 {
        let u = i as f32 / 3.6;
        let strand = [
            (50.0 + u * 9.0, 12.0),
            face.at(u * 15.0, 24.0),
            face.at(u * 19.0, low - 2.0),
        ];
        canvas.stroke(&Outline::curve(&strand), 1.2, mane.strand(i % 2 == 0));
    }
}

/// Strands from the parting to the hair's edge; wavy ones swing.
fn strands(mane: &Mane, edge: &[(f32, f32)], canvas: &mut Canvas) {
    let face = mane.face;
    let root = (50.0 + (face.own.hair[0] - 0.5) * 14.0, face.shape.top - 2.0);
    for i in 0..8 {
        let end = edge[(edge.len() - 1) * (2 * i + 1) / 16];
        let points: Vec<_> = (0..=8)
            .map(|k| {
                let t = k as f32 / 8.0;
                let swing = mane.waves * 2.2 * (t * 14.0 + i as f32).sin() * t;
                let (x, y) = (
                    root.0 + (end.0 - root.0) * t.sqrt(),
                    root.1 + (end.1 - root.1) * t,
                );
                (x + swing, y + 3.5 - 3.5 * t + swing * 0.5)
            })
            .collect();
        let width = if mane.waves > 0.0 { 1.6 } else { 1.0 };
        canvas.stroke(&Outline::curve(&points), width, mane.strand(i % 2 == 0));
    }
}
