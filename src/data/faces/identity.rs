//! What one picture has of its own, whatever its attributes: pose, light, build, colours.

use crate::rng::{Philox, Stream, uniform};

/// The chance part of a picture. Numbers are uniform in -1..=1 if signed, in 0..=1 if not.
///
/// Each field is four words of one block of `Philox(seed, Faces, index)`: `pose` of block 16 and
/// so on in order. (Blocks 0 to 11 choose the attributes.)
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// Signed: shift right, shift down, roll, zoom.
    pub pose: [f32; 4],
    /// Signed: yaw, side the light comes from; unsigned: how hard it is, how warm.
    pub light: [f32; 4],
    /// Unsigned: skin tone, skin warmth, iris colour, hair tint.
    pub tone: [f32; 4],
    /// Signed: head width, head length, jaw width, chin width.
    pub build: [f32; 4],
    /// Signed: eye spacing, eye size, brow height, nose length.
    pub upper: [f32; 4],
    /// Signed: mouth width, mouth height, lip fullness, nose width.
    pub lower: [f32; 4],
    /// Signed: how the brows, the mouth, the nose and the eyes differ from symmetry.
    pub uneven: [f32; 4],
    /// Unsigned: hues of the background's two ends, its colourfulness, its brightness.
    pub backdrop: [f32; 4],
    /// Unsigned: direction of the background's gradient, place (x, y) and brightness of a blob.
    pub blob: [f32; 4],
    /// Unsigned: hue and brightness of the clothes, hue of the hat, its kind.
    pub clothes: [f32; 4],
    /// Unsigned: where the hair is parted, phase of its waves, its volume, its length.
    pub hair: [f32; 4],
    /// Unsigned: kinds of earrings, necklace, necktie, eyeglasses.
    pub jewels: [f32; 4],
    /// Unsigned: hues of the lipstick and the eyeshadow; two to spare.
    pub makeup: [f32; 4],
}

impl Identity {
    /// The identity of picture `index`.
    pub fn new(seed: u64, index: u64) -> Self {
        let philox = Philox::new(seed, Stream::Faces, index);
        let unsigned = |block: u32| philox.block(block).map(uniform);
        let signed = |block: u32| unsigned(block).map(|x| 2.0 * x - 1.0);
        let [yaw, side, _, _] = signed(17);
        let [_, _, hardness, warmth] = unsigned(17);
        Self {
            pose: signed(16),
            light: [yaw, side, hardness, warmth],
            tone: unsigned(18),
            build: signed(19),
            upper: signed(20),
            lower: signed(21),
            uneven: signed(22),
            backdrop: unsigned(23),
            blob: unsigned(24),
            clothes: unsigned(25),
            hair: unsigned(26),
            jewels: unsigned(27),
            makeup: unsigned(28),
        }
    }
}
