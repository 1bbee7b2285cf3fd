//! The toy: sixteen blobs in the plane, and what a condition tells about a blob.

use crate::rng::{Philox, Stream};

/// Blobs along each axis.
const SIDE: usize = 4;
/// Number of blobs.
pub const BLOBS: usize = SIDE * SIDE;
/// Distance of neighbouring centres.
const SPACING: f32 = 0.5;
/// Standard deviation of a blob.
const DEVIATION: f32 = 0.04;
/// A sample farther than this from every centre is a defect.
pub const REACH: f32 = 4.0 * DEVIATION;

/// Centre of a blob; the grid is centred on the origin.
pub fn centre(blob: usize) -> [f32; 2] {
    let place = |i: usize| SPACING * (i as f32 - (SIDE - 1) as f32 / 2.0);
    [place(blob % SIDE), place(blob / SIDE)]
}

/// What the network is told about a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Nothing.
    None,
    /// The quadrant, one-hot: disjoint and coarse.
    Class4,
    /// Both bits of the column and both of the row: overlapping; together they name the blob.
    Feat4,
    /// The column one-hot and the row one-hot: overlapping; together they name the blob.
    Feat8,
    /// The blob, one-hot: disjoint, and as informative as the features.
    Class16,
}

impl Condition {
    /// All of them, in the order of the figure.
    pub const ALL: [Self; 5] = [
        Self::None,
        Self::Class4,
        Self::Feat4,
        Self::Feat8,
        Self::Class16,
    ];

    /// Its name in figures and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Class4 => "class4",
            Self::Feat4 => "feat4",
            Self::Feat8 => "feat8",
            Self::Class16 => "class16",
        }
    }

    /// The attributes A of a point of `blob`, 0 or 1.
    pub fn attributes(self, blob: usize) -> Vec<u8> {
        let (column, row) = (blob % SIDE, blob / SIDE);
        let one_hot = |n: usize, which: usize| (0..n).map(move |i| u8::from(i == which));
        match self {
            Self::None => Vec::new(),
            Self::Class4 => one_hot(4, row / 2 * 2 + column / 2).collect(),
            Self::Feat4 => [column >> 1, column & 1, row >> 1, row & 1]
                .map(|bit| bit as u8)
                .to_vec(),
            Self::Feat8 => one_hot(SIDE, column).chain(one_hot(SIDE, row)).collect(),
            Self::Class16 => one_hot(BLOBS, blob).collect(),
        }
    }
}

/// Point number `index` of the data set of `seed`, and its blob.
pub fn point(seed: u64, index: u64) -> ([f32; 2], usize) {
    let philox = Philox::new(seed, Stream::Reproduction, index);
    let blob = philox.below(0, BLOBS as u32) as usize;
    let normals = philox.normals4_f32(1);
    let [x, y] = centre(blob);
    let xy = [x + DEVIATION * normals[0], y + DEVIATION * normals[1]];
    (xy, blob)
}

/// Where a sample lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// In a blob that the condition allows.
    Right,
    /// In a blob, but in one that the condition rules out.
    WrongBlob,
    /// In no blob.
    Defect,
}

/// Judges `sample`, which was asked for with the attributes of `blob`. Blobs do not overlap: their
/// reach is less than half their distance.
pub fn judge(condition: Condition, blob: usize, sample: [f32; 2]) -> Verdict {
    let near = (0..BLOBS).find(|&other| {
        let [x, y] = centre(other);
        (sample[0] - x).hypot(sample[1] - y) <= REACH
    });
    match near {
        None => Verdict::Defect,
        Some(other) if condition.attributes(other) == condition.attributes(blob) => Verdict::Right,
        Some(_) => Verdict::WrongBlob,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn conditions_tell_as_much_as_they_say() {
        for (condition, patterns) in Condition::ALL.into_iter().zip([1, 4, 16, 16, 16]) {
            let all: Vec<Vec<u8>> = (0..BLOBS).map(|b| condition.attributes(b)).collect();
            let distinct: HashSet<_> = all.iter().collect();
            assert_eq!(distinct.len(), patterns, "{condition:?}");
            let disjoint = all.iter().all(|a| a.iter().sum::<u8>() <= 1);
            let overlapping = matches!(condition, Condition::Feat4 | Condition::Feat8);
            assert_eq!(disjoint, !overlapping, "{condition:?}");
        }
    }

    #[test]
    fn blobs_have_their_centres_and_deviation() {
        let n = 20_000;
        let (mut count, mut square) = ([0; BLOBS], 0.0);
        for index in 0..n {
            let ([x, y], blob) = point(7, index);
            let [a, b] = centre(blob);
            count[blob] += 1;
            square += f64::from((x - a).powi(2) + (y - b).powi(2));
        }
        let deviation = (square / (2.0 * n as f64)).sqrt();
        assert!((deviation / 0.04 - 1.0).abs() < 0.02, "{deviation}");
        assert!(count.iter().all(|c| (1100..1400).contains(c)), "{count:?}");
        assert_eq!((centre(0), centre(15)), ([-0.75, -0.75], [0.75, 0.75]));
    }

    #[test]
    fn a_sample_is_judged_by_the_nearest_blob() {
        let [x, y] = centre(5);
        let judged = |condition, dx| judge(condition, 5, [x + dx, y]);
        assert_eq!(judged(Condition::Class16, 0.15), Verdict::Right);
        assert_eq!(judged(Condition::Class16, 0.17), Verdict::Defect);
        assert_eq!(judged(Condition::Class16, 0.45), Verdict::WrongBlob);
        assert_eq!(judged(Condition::None, 0.45), Verdict::Right);
        // Blob 4 is in the quadrant of blob 5, blob 6 is not.
        assert_eq!(judged(Condition::Class4, -0.5), Verdict::Right);
        assert_eq!(judged(Condition::Class4, 0.5), Verdict::WrongBlob);
    }
}
