//! Losses by noise level: equal parts of the time steps.

/// Noise levels that are told apart.
const LEVELS: usize = 5;

/// A noise level: the time steps from `first` to `last`, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// Its first step.
    pub first: u32,
    /// Its last step.
    pub last: u32,
}

impl Level {
    /// Level number `index` of [`LEVELS`] over `t_max` steps; empty where there are fewer steps than levels.
    fn new(index: usize, t_max: u32) -> Self {
        let end = |index: usize| (u64::from(t_max) * index as u64).div_ceil(LEVELS as u64) as u32;
        Self {
            first: end(index) + 1,
            last: end(index + 1),
        }
    }

    /// The level of the step index `t` (t - 1).
    fn of(t: u32, t_max: u32) -> usize {
        (u64::from(t) * LEVELS as u64 / u64::from(t_max)) as usize
    }

    /// The name of `loss` at this level in a line of metrics: `held_out_loss/t1-20`.
    pub fn metric(self, loss: &str) -> String {
        format!("{loss}/t{}-{}", self.first, self.last)
    }

    /// The level that [`Level::metric`] named so.
    pub fn parse(loss: &str, metric: &str) -> Option<Self> {
        let steps = metric.strip_prefix(loss)?.strip_prefix("/t")?;
        let (first, last) = steps.split_once('-')?;
        Some(Self {
            first: first.parse().ok()?,
            last: last.parse().ok()?,
        })
    }
}

/// Samples' losses, summed by noise level.
#[derive(Clone, Debug)]
pub struct Levels {
    t_max: u32,
    sums: [(f64, u64); LEVELS],
}

impl Levels {
    /// No samples, of a schedule of `t_max` steps.
    pub fn new(t_max: u32) -> Self {
        let sums = [(0.0, 0); LEVELS];
        Self { t_max, sums }
    }

    /// Counts in the loss of a sample at the step index `t` (t - 1).
    ///
    /// # Panics
    /// If `t` is not below `t_max`.
    pub fn add(&mut self, t: u32, loss: f32) {
        let (sum, count) = &mut self.sums[Level::of(t, self.t_max)];
        *sum += f64::from(loss);
        *count += 1;
    }

    /// The mean over all samples; 0 if there are none.
    pub fn mean(&self) -> f64 {
        let add = |a: (f64, u64), b: &(f64, u64)| (a.0 + b.0, a.1 + b.1);
        let (sum, count) = self.sums.iter().fold((0.0, 0), add);
        sum / count.max(1) as f64
    }

    /// The mean of each level; levels that no sample has are left out.
    pub fn means(&self) -> Vec<(Level, f64)> {
        let levels = self.sums.iter().enumerate().filter(|(_, s)| s.1 > 0);
        levels
            .map(|(i, (sum, count))| (Level::new(i, self.t_max), sum / *count as f64))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_is_in_the_level_that_names_it() {
        for t_max in (1..=40).chain([100, 1000, 4001]) {
            for t in 0..t_max {
                let level = Level::new(Level::of(t, t_max), t_max);
                assert!(
                    (level.first..=level.last).contains(&(t + 1)),
                    "{t} of {t_max}: {level:?}"
                );
                assert_eq!(Level::parse("loss", &level.metric("loss")), Some(level));
            }
        }
        let named: Vec<_> = (0..LEVELS)
            .map(|i| Level::new(i, 100).metric("held_out_loss"))
            .collect();
        assert_eq!(named[0], "held_out_loss/t1-20");
        assert_eq!(named[4], "held_out_loss/t81-100");
        assert_eq!(Level::parse("loss", &named[0]), None);
        assert_eq!(Level::parse("held_out_loss", "held_out_loss"), None);
    }

    #[test]
    fn means_are_those_of_the_samples() {
        let mut levels = Levels::new(100);
        assert_eq!((levels.mean(), levels.means().len()), (0.0, 0));
        for (t, loss) in [(0, 4.0), (19, 2.0), (20, 1.0), (99, 0.5)] {
            levels.add(t, loss);
        }
        let means: Vec<_> = levels.means().iter().map(|(l, m)| (l.first, *m)).collect();
        assert_eq!(means, [(1, 3.0), (21, 1.0), (81, 0.5)]);
        assert_eq!(levels.mean(), 7.5 / 4.0);
    }
}
