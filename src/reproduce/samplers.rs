//! Fig. 6's samplers on exact one-dimensional mixtures, without a model (paper Eq. 10, section 3.2).
//!
//! The best possible denoiser of a mixture is known in closed form; what a sampler gets wrong with it
//! is the sampler's own doing.

use std::time::Instant;

use rayon::prelude::*;
use serde_json::{Value, json};

use super::{Context, Finding, Report, ReproduceError, caption};
use crate::diffusion::sampler::{Sampler, SamplerPlan, Samples};
use crate::diffusion::schedule::{Schedule, ScheduleSpec};
use crate::gmm::mixture::Mixture;
use crate::gmm::wasserstein::w1_samples;
use crate::report::figure::{Figure, Mark, Panel, Shape};

const COUNT: usize = 20_000;
const CHUNK: usize = 500;
const SAMPLERS: [Sampler; 4] = [
    Sampler::Renoise,
    Sampler::Ddim { eta: 0.0 },
    Sampler::Ddpm,
    Sampler::DdpmLarge,
];

/// Modes of one deviation.
#[derive(Clone, Copy)]
struct Data {
    name: &'static str,
    weights: &'static [f64],
    modes: &'static [f64],
    sd: f64,
}

const NORMAL: Data = Data {
    name: "N(0, 0.5²)",
    weights: &[1.0],
    modes: &[0.0],
    sd: 0.5,
};
const TWO: Data = Data {
    name: "0.3 and 0.7 at ±0.6, sd 0.1",
    weights: &[0.3, 0.7],
    modes: &[-0.6, 0.6],
    sd: 0.1,
};
const FIVE: Data = Data {
    name: "5 modes, sd 0.05",
    weights: &[0.2; 5],
    modes: &[-0.8, -0.4, 0.0, 0.4, 0.8],
    sd: 0.05,
};
const SHORT: ScheduleSpec = ScheduleSpec::Linear {
    first: 1e-3,
    last: 0.2,
    t_max: 100,
};

/// One row: data, schedule, and the specification's (sd ratio, W1/sd) per sampler; NaN: not given.
struct Case {
    data: Data,
    schedule: ScheduleSpec,
    expected: [[f64; 2]; 4],
}

const fn constant(beta: f64) -> ScheduleSpec {
    ScheduleSpec::Constant { beta, t_max: 100 }
}

const N: f64 = f64::NAN;
const CASES: [Case; 8] = [
    Case {
        data: NORMAL,
        schedule: constant(0.06),
        expected: [
            [0.627, 0.297],
            [0.863, 0.108],
            [0.820, 0.147],
            [0.920, 0.068],
        ],
    },
    Case {
        data: NORMAL,
        schedule: SHORT,
        expected: [
            [0.670, 0.265],
            [0.968, 0.025],
            [0.934, 0.055],
            [1.012, 0.012],
        ],
    },
    Case {
        data: NORMAL,
        schedule: ScheduleSpec::CIFAR10,
        expected: [
            [0.703, 0.238],
            [0.993, 0.010],
            [0.988, 0.011],
            [0.997, 0.006],
        ],
    },
    Case {
        data: TWO,
        schedule: constant(0.06),
        expected: [
            [0.836, 0.239],
            [0.953, 0.086],
            [0.928, 0.105],
            [0.945, 0.081],
        ],
    },
    Case {
        data: FIVE,
        schedule: constant(0.06),
        expected: [
            [0.764, 0.228],
            [0.905, 0.128],
            [0.874, 0.140],
            [0.909, 0.122],
        ],
    },
    Case {
        data: FIVE,
        schedule: SHORT,
        expected: [
            [0.878, 0.130],
            [0.984, 0.018],
            [0.970, 0.035],
            [0.989, 0.022],
        ],
    },
    Case {
        data: FIVE,
        schedule: constant(0.02),
        expected: [[0.836, N], [0.985, N], [0.945, N], [0.960, N]],
    },
    Case {
        data: FIVE,
        schedule: constant(0.08),
        expected: [[0.739, N], [0.878, N], [0.846, N], [0.888, N]],
    },
];

impl Data {
    fn mixture(&self) -> Result<Mixture, ReproduceError> {
        Ok(Mixture::common(self.weights, self.modes, self.sd)?)
    }

    /// E[eps | x_t]: exact, as x_0 given x_t is a mixture again.
    fn noise(&self, x: f64, ab: f64) -> f64 {
        let (root, variance) = (ab.sqrt(), ab * self.sd * self.sd + 1.0 - ab);
        let exponent =
            |(&mu, &pi): (&f64, &f64)| pi.ln() - (x - root * mu).powi(2) / (2.0 * variance);
        let modes = || self.modes.iter().zip(self.weights);
        let top = modes().map(exponent).fold(f64::NEG_INFINITY, f64::max);
        let (mut sum, mut mean) = (0.0, 0.0);
        for mode in modes() {
            let weight = (exponent(mode) - top).exp();
            let inside = mode.0 + root * self.sd * self.sd / variance * (x - root * mode.0);
            (sum, mean) = (sum + weight, mean + weight * inside);
        }
        (x - root * mean / sum) / (1.0 - ab).sqrt()
    }
}

impl Case {
    /// sd of the samples / sd of the data, and W1 / sd.
    fn spread(&self, sampler: Sampler, seed: u64) -> Result<[f64; 2], ReproduceError> {
        let schedule = Schedule::new(self.schedule)?;
        let plan = SamplerPlan::new(&schedule, sampler, schedule.t_max(), None)?;
        let samples = Samples {
            seed,
            first: 0,
            elements: COUNT,
        };
        let mut x = vec![0.0_f32; COUNT];
        let mut noise = vec![0.0_f32; COUNT];
        plan.start(samples, &mut x)?;
        for (number, step) in plan.steps().iter().enumerate() {
            let ab = schedule.alpha_bar()[step.t as usize];
            let chunks = noise.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK));
            chunks.for_each(|(noise, x)| {
                for (noise, &x) in noise.iter_mut().zip(x) {
                    *noise = self.data.noise(f64::from(x), ab) as f32;
                }
            });
            plan.advance(number, samples, &mut x, &noise, None)?;
        }
        let x: Vec<f64> = x.into_iter().map(f64::from).collect();
        let mean = x.iter().sum::<f64>() / COUNT as f64;
        let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / COUNT as f64;
        let truth = self.data.mixture()?;
        let sd = truth.variance()[0].sqrt();
        Ok([variance.sqrt() / sd, w1_samples(&truth, &x)? / sd])
    }

    fn name(&self) -> String {
        let schedule = match self.schedule {
            ScheduleSpec::Constant { beta, .. } => format!("constant {beta}"),
            ScheduleSpec::Linear { t_max: 100, .. } => "linear".to_owned(),
            ScheduleSpec::Linear { t_max, .. } => format!("linear, T = {t_max}"),
        };
        format!("{}; {schedule}", self.data.name)
    }
}

type Row = [[f64; 2]; 4];

/// Samples every mixture by every sampler and draws `OUT/fig6-samplers.png`.
///
/// # Errors
/// The picture cannot be written.
pub fn run(context: &mut Context<'_>) -> Result<Report, ReproduceError> {
    let start = Instant::now();
    let mut rows: Vec<Row> = Vec::new();
    for (done, case) in CASES.iter().enumerate() {
        context
            .progress
            .at(done as u64, CASES.len() as u64, &case.name());
        let mut row = Row::default();
        for (cell, sampler) in row.iter_mut().zip(SAMPLERS) {
            *cell = context
                .device
                .pool
                .enter(|| case.spread(sampler, context.seed))?;
        }
        rows.push(row);
    }
    context
        .progress
        .at(CASES.len() as u64, CASES.len() as u64, "");
    let findings = findings(&rows);
    let picture = context.save_figure("fig6-samplers", &figure(&rows, caption(&findings)))?;
    Ok(Report {
        name: "fig6-samplers".into(),
        title: "Samplers with the exact denoiser: how much of the spread is left".into(),
        settings: json!({ "samples": COUNT, "clip": null, "steps": "all of the schedule" }),
        findings,
        numbers: numbers(&rows),
        pictures: vec![picture],
        seconds: start.elapsed().as_secs_f64(),
    })
}

fn findings(rows: &[Row]) -> Vec<Finding> {
    let ends = |values: &mut dyn Iterator<Item = f64>| {
        values.fold([f64::INFINITY, f64::NEG_INFINITY], |[l, h], v| {
            [l.min(v), h.max(v)]
        })
    };
    let [low, high] = ends(&mut rows.iter().map(|row| row[0][0]));
    let worst = rows
        .iter()
        .all(|row| row[1..].iter().all(|cell| cell[0] > row[0][0]));
    let long = rows[2][0][0].powi(2);
    let [constant, linear] = [rows[4][1][1], rows[5][1][1]];
    vec![
        Finding::new(
            "Renoising (Eq. 10) samples the distribution",
            low > 0.95,
            format!("it keeps only {low:.2} to {high:.2} of the standard deviation"),
        ),
        Finding::new(
            "Every other sampler keeps more of the spread than renoising, on every row",
            worst,
            format!(
                "ddim keeps {:.2} to {:.2}",
                ends(&mut rows.iter().map(|r| r[1][0]))[0],
                ends(&mut rows.iter().map(|r| r[1][0]))[1]
            ),
        ),
        Finding::new(
            "With many steps, renoising leaves about half of a normal's variance",
            (long - 0.5).abs() < 0.03,
            format!("{long:.3} of the variance with T = 1000"),
        ),
        Finding::new(
            "With as many steps, a linear schedule removes most of the constant schedule's loss",
            linear < 0.5 * constant,
            format!(
                "ddim, 5 modes: W1/sd {constant:.3} at constant 0.06, {linear:.3} at linear 0.001 to 0.2"
            ),
        ),
    ]
}

fn numbers(rows: &[Row]) -> Value {
    // JSON has no NaN: null.
    let cells = |row: &Row| {
        let named = SAMPLERS.iter().zip(row);
        let named = named.map(|(s, [ratio, w1])| {
            (
                s.name().to_owned(),
                json!({ "sd_ratio": ratio, "w1_per_sd": w1 }),
            )
        });
        Value::Object(named.collect())
    };
    let table = CASES.iter().zip(rows).map(|(case, row)| {
        json!({
            "data": case.data.name,
            "schedule": case.schedule.to_string(),
            "found": cells(row),
            "specification": cells(&case.expected),
        })
    });
    json!({ "table": table.collect::<Vec<_>>() })
}

fn figure(rows: &[Row], caption: String) -> Figure {
    let bars = |value: usize| -> Vec<Mark> {
        let named = SAMPLERS.iter().enumerate();
        let mark = |(i, sampler): (usize, &Sampler)| Mark {
            name: sampler.name().into(),
            colour: [1, 0, 2, 5][i],
            shape: Shape::Bars {
                points: rows
                    .iter()
                    .enumerate()
                    .map(|(r, row)| [r as f64 + 0.2 * (i as f64 - 1.5), row[i][value]])
                    .collect(),
                width: 0.19,
            },
        };
        named.map(mark).collect()
    };
    let panel = |title: &str, y_label: &str, marks| Panel {
        title: title.into(),
        y_label: y_label.into(),
        categories: CASES.iter().map(Case::name).collect(),
        legend: true,
        marks,
        ..Panel::default()
    };
    let mut ratio = bars(0);
    ratio.push(Mark {
        name: String::new(),
        colour: 7,
        shape: Shape::Level(1.0),
    });
    Figure {
        title: "Samplers with the exact denoiser of a mixture".into(),
        caption,
        columns: 1,
        panel_size: [1100, 330],
        panels: vec![
            panel(
                "Spread that is left (1: all of it)",
                "sd of samples / sd of data",
                ratio,
            ),
            panel("Distance to the data", "W1 / sd of data", bars(1)),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Another implementation's table, with other noise: 20,000 samples leave a ratio of standard
    /// deviations 0.5 %, W1/sd about 0.01.
    #[test]
    fn the_table_is_the_specifications() {
        // The row with T = 1000 takes as long as all others.
        for case in CASES.iter().filter(|c| c.schedule.t_max() == 100) {
            for (sampler, [ratio, w1]) in SAMPLERS.into_iter().zip(case.expected) {
                let found = case.spread(sampler, 0).unwrap();
                let what = format!(
                    "{} {sampler:?}: {found:?}, expected {ratio} {w1}",
                    case.name()
                );
                assert!((found[0] - ratio).abs() < 0.02, "{what}");
                assert!(w1.is_nan() || (found[1] - w1).abs() < 0.02, "{what}");
            }
        }
    }
}
