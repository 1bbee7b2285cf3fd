//! Whether drawn pictures lie among the real ones, and real ones among the drawn: precision and recall
//! (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020), in a space of features.
//!
//! A set's manifold is estimated by the balls around its points that reach to the k-th neighbour.

use super::frechet::Features;

/// Neighbours that reach out a ball: for precision and recall, and for density and coverage, as in the
/// papers.
pub const NEIGHBOURS: [usize; 2] = [3, 5];

/// Two sets compared.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Overlap {
    /// Share of the drawn points in a ball of a real one: how many look real.
    pub precision: f64,
    /// Share of the real points in a ball of a drawn one: how much of the data can be drawn.
    pub recall: f64,
    /// Balls of real points that a drawn point lies in, over k: 1 where the sets do not differ; it can
    /// be more.
    pub density: f64,
    /// Share of the real points with a drawn one in their ball.
    pub coverage: f64,
}

/// A set's points and their balls.
#[derive(Clone, Debug)]
pub struct Manifold {
    values: Vec<f64>,
    dim: usize,
    /// Squared radii of each point's balls, for each of [`NEIGHBOURS`].
    radii: Vec<[f64; 2]>,
}

impl Manifold {
    /// Of these points; where there are too few, the farthest takes the k-th neighbour's place.
    pub fn new(features: Features<'_>) -> Self {
        let n = features.rows();
        let radii = |i: usize| {
            let others = (0..n).filter(|&j| j != i);
            let mut squares: Vec<f64> = others
                .map(|j| square(features.row(i), features.row(j)))
                .collect();
            squares.sort_by(f64::total_cmp);
            NEIGHBOURS.map(|k| {
                let at = k.min(squares.len()).wrapping_sub(1);
                squares.get(at).copied().unwrap_or(0.0)
            })
        };
        Self {
            radii: (0..n).map(radii).collect(),
            values: features.values.to_vec(),
            dim: features.dim,
        }
    }

    fn features(&self) -> Features<'_> {
        Features {
            values: &self.values,
            dim: self.dim,
        }
    }

    /// Compares the `drawn` points with these, the real ones. Both have points of the same dimension.
    pub fn overlap(&self, drawn: &Self) -> Overlap {
        let (real_points, drawn_points) = (self.features(), drawn.features());
        let mut covered = vec![false; self.radii.len()];
        let mut recalled = vec![false; self.radii.len()];
        let (mut precise, mut inside) = (0, 0);
        for (j, own) in drawn.radii.iter().enumerate() {
            let mut among = false;
            for (i, radii) in self.radii.iter().enumerate() {
                let d = square(real_points.row(i), drawn_points.row(j));
                among |= d <= radii[0];
                inside += usize::from(d <= radii[1]);
                covered[i] |= d <= radii[1];
                recalled[i] |= d <= own[0];
            }
            precise += usize::from(among);
        }
        let share = |part: usize, of: usize| part as f64 / of.max(1) as f64;
        let count = |set: &[bool]| share(set.iter().filter(|&&s| s).count(), set.len());
        let drawn = drawn.radii.len();
        Overlap {
            precision: share(precise, drawn),
            recall: count(&recalled),
            density: share(inside, drawn * NEIGHBOURS[1]),
            coverage: count(&covered),
        }
    }
}

/// Squared distance.
fn square(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same formula as in the script that made the expected numbers.
    fn points(rows: usize, a: f64, shift: f64) -> Manifold {
        let value = |e: usize| {
            let (i, j) = ((e / 4) as f64, (e % 4) as f64);
            (i * 1.3 * a + j * j * 0.7).sin() + 0.1 * j * (i * j * 0.37 + a).cos() + shift
        };
        Manifold::new(Features {
            values: &(0..rows * 4).map(value).collect::<Vec<_>>(),
            dim: 4,
        })
    }

    #[test]
    fn the_same_set_is_all_inside() {
        let set = points(40, 1.0, 0.0);
        let overlap = set.overlap(&set);
        assert_eq!(
            [overlap.precision, overlap.recall, overlap.coverage],
            [1.0; 3]
        );
        // Each point lies in its own ball and in those of others: five others' at least on average.
        assert!(overlap.density > 1.0);
    }

    #[test]
    fn sets_apart_have_nothing_in_common() {
        let overlap = points(30, 1.0, 0.0).overlap(&points(30, 1.0, 50.0));
        let none = Overlap {
            precision: 0.0,
            recall: 0.0,
            density: 0.0,
            coverage: 0.0,
        };
        assert_eq!(overlap, none);
    }

    /// Against the papers' formulas in numpy.
    #[test]
    fn overlaps_are_those_of_numpy() {
        let real = points(40, 1.0, 0.0);
        for (drawn, expected) in [
            (points(60, 1.7, 0.1), [0.95, 0.925, 0.973_333_333_333, 1.0]),
            (points(25, 0.6, 0.3), [0.64, 0.85, 0.576, 0.65]),
        ] {
            let found = real.overlap(&drawn);
            let found = [found.precision, found.recall, found.density, found.coverage];
            for (found, expected) in found.into_iter().zip(expected) {
                assert!((found - expected).abs() < 1e-9, "{found}: {expected}");
            }
        }
    }

    /// One good picture again and again is precise and recalls nothing.
    #[test]
    fn a_collapsed_set_is_precise_without_recall() {
        let real = points(40, 1.0, 0.0);
        let one = real.values[..4].repeat(40);
        let drawn = Manifold::new(Features {
            values: &one,
            dim: 4,
        });
        let overlap = real.overlap(&drawn);
        assert_eq!(overlap.precision, 1.0);
        assert_eq!(overlap.recall, 1.0 / 40.0, "the picture itself");
        assert!(overlap.coverage < 0.5);
    }
}
