//! Convolution by Winograd's minimal filtering, F(4x4, 3x3): a quarter of the direct algorithm's
//! multiplications, on the CPU.

#![allow(clippy::needless_range_loop)] // loops are what the compiler unrolls into registers

mod few;
mod filter;
mod forward;
mod grid;
mod input;
mod output;
mod transform;
mod wgrad;

pub(super) use filter::{Use, Weight};
pub(super) use forward::{Forward, workspace};
pub(super) use output::Output;
pub(super) use wgrad::{Layout as WgradLayout, run as wgrad};

/// How the CPU computes convolutions. GPUs always take the sums as they are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// What is expected to be fastest for the shape.
    #[default]
    Fastest,
    /// The sum as it is written (`--exact`).
    Direct,
    /// Winograd F(4x4, 3x3) wherever the channels fit its vectors.
    Winograd,
}

/// Channels come in whole vectors of every instruction set.
const CHANNELS: usize = 16;
/// Fewest tiles for which the filter's transform pays.
const TILES: usize = 4;

impl Algorithm {
    /// True if Winograd's algorithm computes an output of `shape` (`[n, h, w, k]`) from `c` channels.
    pub(super) fn is_winograd(self, [n, h, w, k]: [usize; 4], c: usize) -> bool {
        let fits =
            c.is_multiple_of(CHANNELS) && k.is_multiple_of(CHANNELS) && c * k * n * h * w > 0;
        let tiles = tiles([n, h, w, k]);
        match self {
            Algorithm::Direct => false,
            Algorithm::Winograd => fits,
            // A tile may stand for few pixels: 36 products of its 9 each.
            Algorithm::Fastest => fits && tiles >= TILES && 9 * n * h * w >= 2 * 36 * tiles,
        }
    }
}

/// Tiles of an output of `[n, h, w, _]`.
fn tiles([n, h, w, _]: [usize; 4]) -> usize {
    n * h.div_ceil(transform::SIDE) * w.div_ceil(transform::SIDE)
}
