//! Attributes as they are, or were asked for, against attributes as the classifier sees them.

use super::statistics::Estimate;
use serde::{Deserialize, Serialize};

/// One attribute counted over pictures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Pictures that have it.
    pub on: usize,
    /// Those of them in which it is seen.
    pub on_right: usize,
    /// Pictures that do not have it.
    pub off: usize,
    /// Those of them in which it is not seen.
    pub off_right: usize,
}

/// A share of none is no number.
fn share(part: usize, of: usize) -> Option<f64> {
    (of > 0).then(|| part as f64 / of as f64)
}

impl Tally {
    /// Counts a picture.
    pub fn add(&mut self, has: bool, seen: bool) {
        let right = usize::from(has == seen);
        if has {
            self.on += 1;
            self.on_right += right;
        } else {
            self.off += 1;
            self.off_right += right;
        }
    }

    /// Pictures.
    pub fn pictures(&self) -> usize {
        self.on + self.off
    }

    /// Share of the pictures in which it is seen as it is; 0 of no pictures.
    pub fn accuracy(&self) -> f64 {
        share(self.on_right + self.off_right, self.pictures()).unwrap_or(0.0)
    }

    /// What always naming the commoner value would score; 0 of no pictures.
    pub fn base(&self) -> f64 {
        share(self.on.max(self.off), self.pictures()).unwrap_or(0.0)
    }

    /// Share of the pictures that have it in which it is seen.
    pub fn on_share(&self) -> Option<f64> {
        share(self.on_right, self.on)
    }

    /// Share of the pictures that do not have it in which it is not seen.
    pub fn off_share(&self) -> Option<f64> {
        share(self.off_right, self.off)
    }

    /// Mean of both shares: a half where the attribute is not told at all, whatever its frequency.
    /// `None` where one value is in no picture.
    pub fn balanced(&self) -> Option<f64> {
        Some((self.on_share()? + self.off_share()?) / 2.0)
    }
}

/// Mean of [`Tally::balanced`] over the attributes that have it.
pub fn mean_balanced(tallies: &[Tally]) -> Option<f64> {
    let known: Vec<f64> = tallies.iter().filter_map(Tally::balanced).collect();
    (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
}

/// Attributes seen in pictures against those asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Agreement {
    /// Each attribute, K.
    pub attributes: Vec<Tally>,
    /// Share of a picture's attributes that are seen as asked for; the error is over pictures.
    pub share: Estimate,
    /// The same against the request of another picture: what is there without listening.
    pub unrelated: Estimate,
}

impl Agreement {
    /// Of pictures with the attributes `seen` that were asked to have `asked`, each pictures x `k`. The
    /// unrelated request is that of the picture half way round.
    pub fn new(seen: &[bool], asked: &[u8], k: usize) -> Self {
        let k = k.max(1);
        let pictures = seen.len() / k;
        let mut attributes = vec![Tally::default(); k];
        for (seen, asked) in seen.chunks(k).zip(asked.chunks(k)) {
            for ((tally, &seen), &asked) in attributes.iter_mut().zip(seen).zip(asked) {
                tally.add(asked == 1, seen);
            }
        }
        let agree = |shift: usize| {
            let share = |i: usize| {
                let other = (i + shift) % pictures;
                let pairs = seen[i * k..][..k].iter().zip(&asked[other * k..][..k]);
                pairs
                    .filter(|(seen, asked)| **seen == (**asked == 1))
                    .count() as f64
                    / k as f64
            };
            Estimate::of(&(0..pictures).map(share).collect::<Vec<_>>())
        };
        Self {
            attributes,
            share: agree(0),
            unrelated: agree(pictures.div_ceil(2)),
        }
    }

    /// Mean of [`Tally::balanced`]; `None` where no attribute has both values.
    pub fn balanced(&self) -> Option<f64> {
        mean_balanced(&self.attributes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_counted_by_value() {
        // Two attributes of four pictures: the first seen wherever asked for, the second never seen.
        let asked = [1, 1, 1, 0, 0, 1, 0, 0];
        let seen = [true, false, true, false, false, false, false, false];
        let agreement = Agreement::new(&seen, &asked, 2);
        let [first, second] = agreement.attributes[..] else {
            panic!("two attributes");
        };
        assert_eq!((first.accuracy(), first.balanced()), (1.0, Some(1.0)));
        assert_eq!((second.accuracy(), second.base()), (0.5, 0.5));
        assert_eq!(second.on_share(), Some(0.0));
        assert_eq!(second.off_share(), Some(1.0));
        assert_eq!(agreement.balanced(), Some(0.75));
        assert_eq!(agreement.share.mean, 0.75);
        // Pictures 0, 1 against requests 2, 3 and the other way round.
        assert_eq!(agreement.unrelated.mean, 0.25);
    }

    #[test]
    fn a_value_that_nobody_asks_for_has_no_share() {
        let agreement = Agreement::new(&[false, true], &[0, 0], 1);
        assert_eq!(agreement.attributes[0].on_share(), None);
        assert_eq!(agreement.balanced(), None);
        assert_eq!(agreement.share.mean, 0.5);
        assert_eq!(Tally::default().accuracy(), 0.0);
    }
}
