//! The learning rate along a run, in images: the batch size does not change it.

use std::f64::consts::PI;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What the learning rate does after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RateSchedule {
    /// It stays.
    #[default]
    Constant,
    /// It falls to zero at the end of the run along half a cosine.
    Cosine,
}

impl RateSchedule {
    /// Share of the full rate of a step of `batch` images after `seen`: a straight rise over `warmup`
    /// images, then the schedule to `total` images. All steps of a run have a share above 0.
    pub fn share(self, seen: u64, batch: u64, warmup: u64, total: u64) -> f64 {
        // The step's last image counts: the first step is not lost to a rate of 0.
        let rise = (seen.saturating_add(batch) as f64 / warmup.max(1) as f64).min(1.0);
        let fall = match self {
            Self::Constant => 1.0,
            Self::Cosine => {
                let left = total.saturating_sub(warmup).max(1) as f64;
                let done = (seen.saturating_sub(warmup) as f64 / left).min(1.0);
                0.5 * (1.0 + (PI * done).cos())
            }
        };
        rise * fall
    }
}

impl fmt::Display for RateSchedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Constant => "constant",
            Self::Cosine => "cosine",
        })
    }
}

impl FromStr for RateSchedule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "constant" => Ok(Self::Constant),
            "cosine" => Ok(Self::Cosine),
            _ => Err(format!("`{text}`: expected constant or cosine")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_rise_stay_and_fall() {
        let constant = |seen| RateSchedule::Constant.share(seen, 10, 100, 1000);
        assert_eq!(
            [0, 40, 90, 100, 990].map(constant),
            [0.1, 0.5, 1.0, 1.0, 1.0]
        );
        let cosine = |seen| RateSchedule::Cosine.share(seen, 10, 100, 1000);
        for (seen, share) in [
            (0, 0.1),
            (90, 1.0),
            (100, 1.0),
            (325, 0.5 + 0.5_f64.sqrt() / 2.0),
            (550, 0.5),
            (1000, 0.0),
        ] {
            assert!(
                (cosine(seen) - share).abs() < 1e-12,
                "{seen}: {}",
                cosine(seen)
            );
        }
        assert!(cosine(990) > 0.0);
        for schedule in [RateSchedule::Constant, RateSchedule::Cosine] {
            assert_eq!(schedule.share(0, 16, 0, 160), 1.0, "no warm-up");
            assert_eq!(schedule.to_string().parse(), Ok(schedule));
            // A warm-up that is longer than the run, and numbers without bounds.
            assert!((0..10).all(|i| schedule.share(16 * i, 16, 1000, 160) > 0.0));
            assert!(
                schedule
                    .share(u64::MAX, u64::MAX, u64::MAX, u64::MAX)
                    .is_finite()
            );
        }
    }

    /// Four steps of 4 images rise as one of 16 does.
    #[test]
    fn the_batch_size_does_not_change_the_rate() {
        for schedule in [RateSchedule::Constant, RateSchedule::Cosine] {
            for seen in (0..1600).step_by(16) {
                let large = schedule.share(seen, 16, 320, 1600);
                let small = schedule.share(seen + 12, 4, 320, 1600);
                assert!((large - small).abs() < 0.02, "{seen}: {large} {small}");
            }
        }
    }
}
