//! Noise schedules: beta_t, alpha-bar_t and signal-to-noise ratio in f64 (paper section 3.2).
//!
//! t = 1..=T; alpha-bar_t (`ab_t`) = prod over s <= t of (1 - beta_s), ab_0 = 1. The network is
//! called with the index t - 1.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Real;

/// The longest schedule: a sampler's step number has 20 bits in its random stream's index.
pub const MAX_T: u32 = 1 << 20;

/// At least this much of x_0 must be left at T, or dividing by it means nothing in f32.
const SMALLEST_ALPHA_BAR: f64 = 1e-30;

/// What is wrong with a schedule.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ScheduleError {
    /// Text of another form.
    #[error(
        "schedule `{text}`: {problem}; expected constant:B[:T] or linear:B0:B1[:T], such as constant:0.06:100"
    )]
    Form {
        /// The text given.
        text: String,
        /// What was found in it.
        problem: String,
    },
    /// A beta that is not a variance fraction.
    #[error("schedule: {name} is {beta}; expected a number above 0 and below 1")]
    Beta {
        /// Which of the spec's numbers.
        name: &'static str,
        /// The value given.
        beta: f64,
    },
    /// No step at all, or too many.
    #[error("schedule: T is {t_max}; expected 1 to {MAX_T} diffusion steps")]
    Steps {
        /// The value given.
        t_max: u64,
    },
    /// Nothing of x_0 is left long before T.
    #[error(
        "schedule {spec}: alpha-bar at T = {t_max} is {alpha_bar:e}; expected at least 1e-30: lower beta or T"
    )]
    Vanishes {
        /// The schedule.
        spec: ScheduleSpec,
        /// T.
        t_max: u32,
        /// alpha-bar_T.
        alpha_bar: f64,
    },
    /// A step outside the schedule.
    #[error("schedule: t is {t}; expected {first} to {t_max}")]
    Step {
        /// The step asked for.
        t: u32,
        /// The first that is allowed.
        first: u32,
        /// T.
        t_max: u32,
    },
    /// Buffers that do not belong together.
    #[error(
        "q_sample: x_0, eps and x_t hold {x0}, {eps} and {out} numbers; expected equal lengths"
    )]
    Lengths {
        /// Length of x_0.
        x0: usize,
        /// Length of eps.
        eps: usize,
        /// Length of x_t.
        out: usize,
    },
}

/// A schedule as a person writes it: `constant:B[:T]` (T 100) or `linear:B0:B1[:T]` (T 1000).
/// Displayed with T always written out; serde uses the same text.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ScheduleSpec {
    /// beta_t = `beta`.
    Constant {
        /// The value of every beta, in (0, 1).
        beta: f64,
        /// T.
        t_max: u32,
    },
    /// beta_t = `first` + (`last` - `first`)(t - 1)/(T - 1), both ends included.
    Linear {
        /// beta_1, in (0, 1).
        first: f64,
        /// beta_T, in (0, 1).
        last: f64,
        /// T.
        t_max: u32,
    },
}

impl ScheduleSpec {
    /// The paper's CelebA schedule, `constant:0.06:100`; also for procedural faces.
    pub const CELEBA: Self = Self::Constant {
        beta: 0.06,
        t_max: 100,
    };
    /// The paper's CIFAR-10 schedule, `linear:0.0001:0.02:1000`.
    pub const CIFAR10: Self = Self::Linear {
        first: 1e-4,
        last: 0.02,
        t_max: 1000,
    };

    /// T, the number of diffusion steps.
    pub fn t_max(&self) -> u32 {
        match self {
            Self::Constant { t_max, .. } | Self::Linear { t_max, .. } => *t_max,
        }
    }

    fn check(self) -> Result<Self, ScheduleError> {
        let (betas, t_max) = match self {
            Self::Constant { beta, t_max } => ([("beta", beta), ("beta", beta)], t_max),
            Self::Linear { first, last, t_max } => {
                ([("the first beta", first), ("the last beta", last)], t_max)
            }
        };
        for (name, beta) in betas {
            if !(beta > 0.0 && beta < 1.0) {
                return Err(ScheduleError::Beta { name, beta });
            }
        }
        if !(1..=MAX_T).contains(&t_max) {
            return Err(ScheduleError::Steps {
                t_max: t_max.into(),
            });
        }
        Ok(self)
    }

    fn beta(&self, t: u32) -> f64 {
        match *self {
            Self::Constant { beta, .. } => beta,
            Self::Linear {
                first, t_max: 1, ..
            } => first,
            Self::Linear { first, last, t_max } => {
                first + (last - first) * f64::from(t - 1) / f64::from(t_max - 1)
            }
        }
    }
}

impl fmt::Display for ScheduleSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Constant { beta, t_max } => write!(f, "constant:{beta}:{t_max}"),
            Self::Linear { first, last, t_max } => write!(f, "linear:{first}:{last}:{t_max}"),
        }
    }
}

impl FromStr for ScheduleSpec {
    type Err = ScheduleError;

    fn from_str(text: &str) -> Result<Self, ScheduleError> {
        let fail = |problem: String| ScheduleError::Form {
            text: text.to_owned(),
            problem,
        };
        let number = |part: &str| {
            part.parse::<f64>()
                .map_err(|_| fail(format!("`{part}` is not a number")))
        };
        let steps = |part: Option<&&str>, default: u32| match part {
            None => Ok(default),
            Some(part) => match part.parse::<u64>() {
                Ok(t) => u32::try_from(t).map_err(|_| ScheduleError::Steps { t_max: t }),
                Err(_) => Err(fail(format!("`{part}` is not a whole number of steps"))),
            },
        };
        let parts: Vec<&str> = text.split(':').collect();
        match parts[..] {
            ["constant", beta] | ["constant", beta, _] => Self::Constant {
                beta: number(beta)?,
                t_max: steps(parts.get(2), 100)?,
            },
            ["linear", first, last] | ["linear", first, last, _] => Self::Linear {
                first: number(first)?,
                last: number(last)?,
                t_max: steps(parts.get(3), 1000)?,
            },
            ["constant" | "linear", ..] => {
                return Err(fail(format!("found {} numbers", parts.len() - 1)));
            }
            _ => return Err(fail(format!("`{}` is not a kind of schedule", parts[0]))),
        }
        .check()
    }
}

impl TryFrom<String> for ScheduleSpec {
    type Error = ScheduleError;

    fn try_from(text: String) -> Result<Self, ScheduleError> {
        text.parse()
    }
}

impl From<ScheduleSpec> for String {
    fn from(spec: ScheduleSpec) -> Self {
        spec.to_string()
    }
}

/// A schedule's tables, indexed by t = 0..=T.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    spec: ScheduleSpec,
    beta: Vec<f64>,
    alpha_bar: Vec<f64>,
}

impl Schedule {
    /// Computes the tables. Errors: beta outside (0, 1), T = 0 or too large, alpha-bar_T below 1e-30.
    pub fn new(spec: ScheduleSpec) -> Result<Self, ScheduleError> {
        let spec = spec.check()?;
        let t_max = spec.t_max();
        let mut beta = Vec::with_capacity(t_max as usize + 1);
        let mut alpha_bar = Vec::with_capacity(t_max as usize + 1);
        let mut product = 1.0;
        beta.push(0.0);
        alpha_bar.push(product);
        for t in 1..=t_max {
            let b = spec.beta(t);
            product *= 1.0 - b;
            beta.push(b);
            alpha_bar.push(product);
        }
        if product < SMALLEST_ALPHA_BAR {
            return Err(ScheduleError::Vanishes {
                spec,
                t_max,
                alpha_bar: product,
            });
        }
        Ok(Self {
            spec,
            beta,
            alpha_bar,
        })
    }

    /// What it was made from.
    pub fn spec(&self) -> ScheduleSpec {
        self.spec
    }

    /// T.
    pub fn t_max(&self) -> u32 {
        self.spec.t_max()
    }

    /// beta_t for t = 0..=T; beta_0 = 0.
    pub fn beta(&self) -> &[f64] {
        &self.beta
    }

    /// ab_t for t = 0..=T; ab_0 = 1.
    pub fn alpha_bar(&self) -> &[f64] {
        &self.alpha_bar
    }

    /// Signal-to-noise ratio ab_t / (1 - ab_t), not in dB; `None` at t = 0 (infinite) and past T.
    pub fn snr(&self, t: u32) -> Option<f64> {
        let ab = *self.alpha_bar.get(t as usize)?;
        (t > 0).then(|| ab / (1.0 - ab))
    }

    /// `x_t = sqrt(ab_t) x_0 + sqrt(1 - ab_t) eps`, elementwise; t in 0..=T.
    pub fn q_sample<F: Real>(
        &self,
        t: u32,
        x0: &[F],
        eps: &[F],
        x_t: &mut [F],
    ) -> Result<(), ScheduleError> {
        let Some(&ab) = self.alpha_bar.get(t as usize) else {
            return Err(ScheduleError::Step {
                t,
                first: 0,
                t_max: self.t_max(),
            });
        };
        if x0.len() != eps.len() || x0.len() != x_t.len() {
            return Err(ScheduleError::Lengths {
                x0: x0.len(),
                eps: eps.len(),
                out: x_t.len(),
            });
        }
        let (signal, noise) = (F::from_f64(ab.sqrt()), F::from_f64((1.0 - ab).sqrt()));
        for ((out, &x), &e) in x_t.iter_mut().zip(x0).zip(eps) {
            *out = signal * x + noise * e;
        }
        Ok(())
    }

    /// What a person should know about this schedule, if anything: samples start from pure noise,
    /// training at T should too.
    pub fn warning(&self) -> Option<String> {
        let left = self.alpha_bar.last()?.sqrt();
        (left > 0.1).then(|| {
            format!(
                "schedule {}: sqrt(alpha-bar_T) = {left:.3}, so {:.0} % of the picture is left at T, \
                 but samples start from pure noise; raise beta or T until it is below 0.1",
                self.spec,
                100.0 * left
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_goes_there_and_back() {
        for (text, full) in [
            ("constant:0.06", "constant:0.06:100"),
            ("constant:0.02:50", "constant:0.02:50"),
            ("linear:0.0001:0.02", "linear:0.0001:0.02:1000"),
            ("linear:1e-3:0.2:100", "linear:0.001:0.2:100"),
        ] {
            let spec: ScheduleSpec = text.parse().unwrap();
            assert_eq!(spec.to_string(), full);
            assert_eq!(full.parse::<ScheduleSpec>().unwrap(), spec);
        }
        assert_eq!(
            "constant:.06".parse::<ScheduleSpec>().unwrap(),
            ScheduleSpec::CELEBA
        );
        assert_eq!(
            "linear:1e-4:2e-2".parse::<ScheduleSpec>().unwrap(),
            ScheduleSpec::CIFAR10
        );
    }

    #[test]
    fn mistakes_are_refused() {
        let parse = |text: &str| text.parse::<ScheduleSpec>().unwrap_err();
        for text in [
            "",
            "cosine",
            "constant",
            "constant:x",
            "linear:0.1",
            "constant:0.1:1:2",
            "constant:0.1:1.5",
            "constant:0.1:-1",
        ] {
            assert!(
                matches!(parse(text), ScheduleError::Form { .. }),
                "{text}: {}",
                parse(text)
            );
        }
        for text in [
            "constant:0",
            "constant:1",
            "constant:-0.1",
            "constant:NaN",
            "linear:0.1:1",
            "linear:0:0.1",
        ] {
            assert!(matches!(parse(text), ScheduleError::Beta { .. }), "{text}");
        }
        for text in [
            "constant:0.1:0",
            "constant:0.1:1048577",
            "constant:0.1:99999999999",
        ] {
            assert!(matches!(parse(text), ScheduleError::Steps { .. }), "{text}");
        }
        let vanishing = Schedule::new("constant:0.9:100".parse().unwrap());
        assert!(matches!(vanishing, Err(ScheduleError::Vanishes { .. })));
    }

    #[test]
    fn warns_when_a_picture_is_left_at_t() {
        let warn = |text: &str| Schedule::new(text.parse().unwrap()).unwrap().warning();
        assert!(warn("constant:0.04").unwrap().contains("0.130"));
        assert!(warn("constant:0.06").is_none());
        assert!(
            warn("linear:0.3:0.3:1").is_some(),
            "T = 1 must not divide by 0"
        );
    }
}
