//! Procedural faces: people who do not exist, drawn from the forty attributes of CelebA.
//!
//! They stand in where no photographs are at hand. [`sample_attributes`] says what a person has,
//! [`render`] draws the person. Both are pure functions of their arguments: everything left to
//! chance comes from the blocks of [`Philox(seed, Faces, index)`](crate::rng::Philox), 0 to 11 for
//! the attributes and 16 to 28 for pose, light, build and colours ([`identity::Identity`]), so the
//! same index is the same person in the same light whatever attributes are asked for.

mod accessories;
mod attributes;
mod beard;
mod canvas;
mod eyes;
mod face;
mod hair;
mod head;
pub mod identity;
mod mouth;
mod scene;

pub use attributes::{Attribute, loadings, marginal, sample_attributes, scores};

use canvas::Canvas;
use face::{CENTRE, Face};
use identity::Identity;

/// Draws person `index` with `attributes` (0 or not): RGB, row after row, `size` x `size` x 3.
///
/// Every vector of attributes can be drawn, sensible or not. Small pictures are drawn larger and
/// averaged down.
pub fn render(seed: u64, index: u64, attributes: &[u8; 40], size: u32) -> Vec<u8> {
    let face = Face::new(attributes, Identity::new(seed, index));
    let factor = oversampling(size);
    let Some(mut canvas) = Canvas::new(size * factor) else {
        return Vec::new();
    };
    paint(&face, &mut canvas);
    let pixels = canvas.into_rgb();
    let (size, factor) = (size as usize, factor as usize);
    let mut picture = canvas::shrink(&pixels, size, factor);
    if face.has(Attribute::Blurry) {
        canvas::blur(&mut picture, size, size.div_ceil(40));
    }
    picture
}

/// How many times larger than `size` to draw.
fn oversampling(size: u32) -> u32 {
    match size {
        0..=24 => 4,
        25..=40 => 3,
        41..=160 => 2,
        _ => 1,
    }
}

/// The parts of the picture, from the back to the front.
fn paint(face: &Face, canvas: &mut Canvas) {
    scene::background(face, canvas);
    let [right, down, roll, zoom] = face.own.pose;
    let shift = (2.5 * right, 1.3 * down);
    let zoom = 1.065 + 0.045 * zoom;
    canvas.pose((CENTRE.0, 72.0), shift, 8.0 * roll, zoom);
    hair::back(face, canvas);
    canvas.pose((CENTRE.0, 95.0), shift, 0.15 * 8.0 * roll, zoom);
    scene::neck(face, canvas);
    scene::clothes(face, canvas);
    accessories::necklace(face, canvas);
    canvas.pose((CENTRE.0, 72.0), shift, 8.0 * roll, zoom);
    hair::locks(face, canvas);
    head::draw(face, canvas);
    eyes::draw(face, canvas);
    mouth::nose(face, canvas);
    beard::draw(face, canvas);
    mouth::mouth(face, canvas);
    hair::front(face, canvas);
    accessories::eyeglasses(face, canvas);
    accessories::hat(face, canvas);
    accessories::earrings(face, canvas);
}
