//! Means with standard errors, and distances between pictures.

use serde_json::{Value, json};
use std::fmt;

/// A mean and its standard error.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Its standard error; NaN where there is no second value to tell.
    pub error: f64,
}

impl Estimate {
    /// Mean and standard error of independent values.
    pub fn of(values: &[f64]) -> Self {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
        Self {
            mean,
            error: (squares / (n - 1.0) / n).sqrt(),
        }
    }

    /// self / other for independent estimates, its error to first order.
    pub fn over(self, other: Self) -> Self {
        let mean = self.mean / other.mean;
        let relative = (self.error / self.mean).hypot(other.error / other.mean);
        Self {
            mean,
            error: mean.abs() * relative,
        }
    }

    /// self - other for independent estimates.
    pub fn minus(self, other: Self) -> Self {
        Self {
            mean: self.mean - other.mean,
            error: self.error.hypot(other.error),
        }
    }

    /// Is it below `bound`, given an error of two standard errors?
    pub fn below(self, bound: f64) -> Option<bool> {
        if self.mean + 2.0 * self.error < bound {
            Some(true)
        } else if self.mean - 2.0 * self.error > bound {
            Some(false)
        } else {
            None
        }
    }

    /// For a report's numbers.
    pub fn json(self) -> Value {
        json!({ "mean": self.mean, "standard_error": self.error })
    }
}

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.4} +- {:.4}", self.mean, self.error)
    }
}

/// Pictures `[n, size, size, 3]` in `[-1, 1]`, flattened.
#[derive(Clone, Debug, PartialEq)]
pub struct Pictures {
    /// All values.
    pub data: Vec<f32>,
    /// Height and width.
    pub size: usize,
}

impl Pictures {
    /// From bytes, x = u8 / 127.5 - 1.
    pub fn from_bytes<'a>(pictures: impl IntoIterator<Item = &'a [u8]>, size: usize) -> Self {
        let bytes = pictures.into_iter().flatten();
        Self {
            data: bytes.map(|&b| f32::from(b) / 127.5 - 1.0).collect(),
            size,
        }
    }

    /// Values of one picture.
    pub fn elements(&self) -> usize {
        3 * self.size * self.size
    }

    /// Number of pictures.
    pub fn len(&self) -> usize {
        self.data.len() / self.elements().max(1)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// Picture `i`.
    pub fn get(&self, i: usize) -> &[f32] {
        &self.data[i * self.elements()..(i + 1) * self.elements()]
    }

    /// Root mean square difference of two pictures `[size, size, 3]`, or of one and the other's mirror
    /// image where that is less: a Z owns a picture and its mirror image alike.
    pub fn distance(a: &[f32], b: &[f32], size: usize) -> f64 {
        let (mut plain, mut mirrored) = (0.0, 0.0);
        for (row, other) in a.chunks(3 * size).zip(b.chunks(3 * size)) {
            for (x, pixel) in row.chunks(3).enumerate() {
                let mirror = &other[3 * (size - 1 - x)..][..3];
                for (c, &value) in pixel.iter().enumerate() {
                    plain += f64::from(value - other[3 * x + c]).powi(2);
                    mirrored += f64::from(value - mirror[c]).powi(2);
                }
            }
        }
        (f64::min(plain, mirrored) / a.len().max(1) as f64).sqrt()
    }

    /// Distance of each picture to `other`.
    pub fn distances_to(&self, other: &[f32]) -> Vec<f64> {
        let distance = |i| Self::distance(self.get(i), other, self.size);
        (0..self.len()).map(distance).collect()
    }

    /// Mean distance between two of the pictures; its standard error by leaving one picture out at a
    /// time, since the pairs are not independent. At least three pictures.
    pub fn spread(&self) -> Estimate {
        let n = self.len();
        let mut sums = vec![0.0; n];
        for i in 0..n {
            for j in 0..i {
                let d = Self::distance(self.get(i), self.get(j), self.size);
                sums[i] += d;
                sums[j] += d;
            }
        }
        let total = sums.iter().sum::<f64>() / 2.0;
        let pairs = |n: usize| (n * n.saturating_sub(1) / 2) as f64;
        let left_out = sums.iter().map(|sum| (total - sum) / pairs(n - 1));
        let left_out = Estimate::of(&left_out.collect::<Vec<_>>());
        Estimate {
            mean: total / pairs(n),
            // The jackknife: sqrt((n-1)/n sum (m_i - m)^2) = (n - 1) times the error of their mean.
            error: left_out.error * (n as f64 - 1.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Philox, Stream};

    #[test]
    fn standard_errors_are_those_of_the_textbook() {
        let e = Estimate::of(&[1.0, 2.0, 3.0, 6.0]);
        assert_eq!(e.mean, 3.0);
        // Variance (4 + 1 + 0 + 9) / 3, over 4 values.
        assert!((e.error - (14.0_f64 / 12.0).sqrt()).abs() < 1e-15);
        let ratio = e.over(Estimate {
            mean: 6.0,
            error: 0.0,
        });
        assert!((ratio.mean - 0.5).abs() < 1e-15 && (ratio.error - e.error / 6.0).abs() < 1e-15);
        assert_eq!(e.below(6.0), Some(true));
        assert_eq!(e.below(0.5), Some(false));
        assert_eq!(e.below(3.5), None);
        assert_eq!(
            Estimate::of(&[1.0]).below(2.0),
            None,
            "one value tells nothing"
        );
    }

    #[test]
    fn a_picture_is_its_mirror_image() {
        let size = 4;
        let a: Vec<f32> = (0..48).map(|e| (e * 7 % 11) as f32 / 11.0).collect();
        let mirror: Vec<f32> = (0..48)
            .map(|e| a[e / 12 * 12 + (3 - e % 12 / 3) * 3 + e % 3])
            .collect();
        assert_eq!(Pictures::distance(&a, &mirror, size), 0.0);
        assert!(a != mirror);
        let shifted: Vec<f32> = a.iter().map(|v| v + 0.5).collect();
        assert!((Pictures::distance(&shifted, &mirror, size) - 0.5).abs() < 1e-6);
    }

    /// The jackknife of a mean over pairs: against the spread over many independent sets.
    #[test]
    fn the_error_of_a_spread_is_that_between_sets() {
        let sets = 400;
        let spreads: Vec<Estimate> = (0..sets)
            .map(|set| {
                let mut data = vec![0.0; 12 * 12];
                Philox::new(5, Stream::Noise, set).fill_normals(&mut data);
                Pictures { data, size: 2 }.spread()
            })
            .collect();
        let means: Vec<f64> = spreads.iter().map(|s| s.mean).collect();
        let truth = Estimate::of(&means).error * f64::from(sets as u32).sqrt();
        let said = Estimate::of(&spreads.iter().map(|s| s.error).collect::<Vec<_>>());
        assert!(
            (said.mean / truth - 1.0).abs() < 0.15,
            "jackknife {said}, between sets {truth}"
        );
    }
}
