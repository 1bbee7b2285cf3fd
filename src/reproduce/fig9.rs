//! Fig. 9: does a classifier at the bottleneck, trained along, lower the denoising loss? Runs without
//! one, with the NGMG entropy and with binary cross-entropy, from the same seeds: the same first
//! weights, batches, time steps and noise.

use serde_json::{Value, json};

use super::data::Data;
use super::seeds::{Difference, mean_and_deviation};
use super::trained::{Model, Training};
use super::{Context, Finding, Report, ReproduceError, Scale, Verdict, caption};
use crate::evaluate::statistics::Estimate;
use crate::report::figure::{Figure, Mark, Panel, Shape, moving_average};
use crate::train::classifier::ClassifierKind;
use crate::train::metrics::MetricsRow;

/// The losses compared; the first is what the others are held against.
const LOSSES: [ClassifierKind; 3] = [
    ClassifierKind::None,
    ClassifierKind::Ngmg,
    ClassifierKind::Bce,
];
/// Blocks that the last tenth of a run is cut into.
const BLOCKS: usize = 10;

/// How the runs are made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// One run.
    pub training: Training,
    /// Runs of each loss.
    pub seeds: u64,
    /// Steps of the mean that the curves show.
    pub smooth: u64,
}

impl Settings {
    /// Quick: the smallest network, minutes on two cores. Full: the paper's network and length.
    pub fn of(scale: Scale) -> Self {
        let training = Training::features(scale);
        match scale {
            Scale::Quick => Self {
                training: Training {
                    preset: "nano",
                    steps: 2000,
                    ..training
                },
                seeds: 3,
                smooth: 100,
            },
            Scale::Full => Self {
                training: Training {
                    steps: 200_000,
                    ..training
                },
                seeds: 3,
                smooth: 1000,
            },
        }
    }
}

/// One run's lines of metrics.
struct Run {
    loss: ClassifierKind,
    rows: Vec<MetricsRow>,
}

/// Trains what is not trained yet, and compares.
///
/// # Errors
/// See [`ReproduceError`].
pub fn run(context: &mut Context<'_>, settings: &Settings) -> Result<Report, ReproduceError> {
    let training = settings.training;
    let data = Data::faces(context, training.size()?)?;
    let mut seeds = Vec::new();
    for seed in 0..settings.seeds {
        let mut runs = Vec::new();
        for loss in LOSSES {
            let mut config = training.config(&data, context.seed + seed);
            config.classifier = loss;
            let name = format!("fig9-{}-{loss}-{}", training.preset, config.seed);
            let rows = Model::train(&name, config, &data, context)?.metrics;
            runs.push(Run { loss, rows });
        }
        seeds.push(runs);
    }
    let findings = findings(&seeds);
    let mut report = Report {
        name: "fig9".into(),
        title: "Training loss with and without a classifier at the bottleneck".into(),
        settings: json!({
            "data": data.about,
            "preset": training.preset,
            "steps": training.steps,
            "batch": training.batch,
            "lr": training.lr,
            "seeds": settings.seeds,
            "classifier_weight": training.config(&data, 0).classifier_weight,
        }),
        numbers: numbers(&seeds),
        findings,
        ..Report::default()
    };
    let figure = draw(settings, &data.about, &seeds, &report.findings);
    report.pictures = vec![context.save_figure("fig9", &figure)?];
    Ok(report)
}

/// Denoising loss of the lines of the last tenth.
fn tail(run: &Run) -> Vec<f64> {
    let losses: Vec<f64> = run.rows.iter().filter_map(|row| row.get("loss")).collect();
    let from = losses.len() - losses.len().div_ceil(BLOCKS).min(losses.len());
    losses[from..].to_vec()
}

/// Mean over the last tenth, with a standard error over blocks of it.
fn level(values: &[f64]) -> Estimate {
    let size = values.len().div_ceil(BLOCKS).max(1);
    let means = values
        .chunks(size)
        .map(|b| b.iter().sum::<f64>() / b.len() as f64);
    let blocks = Estimate::of(&means.collect::<Vec<_>>());
    Estimate {
        mean: values.iter().sum::<f64>() / values.len().max(1) as f64,
        error: blocks.error,
    }
}

/// Run's loss minus that of `from`, line by line over the last tenth: the same batches and noise, so
/// most of the variation is shared and gone.
fn difference(run: &Run, from: &Run) -> Estimate {
    let pairs = tail(run).into_iter().zip(tail(from));
    level(&pairs.map(|(a, b)| a - b).collect::<Vec<_>>())
}

/// Deviation of a line from the line before, over the last tenth: how restless the loss is, whatever
/// its slope.
fn restlessness(run: &Run) -> f64 {
    let tail = tail(run);
    let steps = tail.windows(2).map(|w| (w[1] - w[0]).powi(2));
    (steps.sum::<f64>() / (2.0 * (tail.len().max(2) - 1) as f64)).sqrt()
}

/// First step at which the smoothed loss is as low as `level`.
fn reaches(run: &Run, level: f64) -> Option<u64> {
    let points = points(run);
    let smooth = moving_average(&points, BLOCKS);
    smooth.iter().find(|p| p[1] <= level).map(|p| p[0] as u64)
}

/// (step, loss).
fn points(run: &Run) -> Vec<[f64; 2]> {
    let point = |row: &MetricsRow| row.get("loss").map(|loss| [row.step as f64, loss]);
    run.rows.iter().filter_map(point).collect()
}

/// Over the seeds: mean of `value`, its standard error over the seeds.
fn over_seeds(seeds: &[Vec<Run>], value: impl Fn(&[Run]) -> f64) -> Estimate {
    Estimate::of(&seeds.iter().map(|runs| value(runs)).collect::<Vec<_>>())
}

/// A value of the last held-out measurement, over the seeds.
fn last(seeds: &[Vec<Run>], loss: usize, key: &str) -> Estimate {
    over_seeds(seeds, |runs| {
        let rows = runs[loss].rows.iter().rev();
        rows.filter_map(|row| row.get(key))
            .next()
            .unwrap_or(f64::NAN)
    })
}

/// In per cent of `base`, with its 95 % interval.
fn relative(change: Difference, base: f64) -> String {
    format!(
        "{:+.2} % (95 %: +- {:.2})",
        100.0 * change.mean / base,
        100.0 * change.half_width / base
    )
}

fn findings(seeds: &[Vec<Run>]) -> Vec<Finding> {
    let each = |value: &dyn Fn(&[Run]) -> f64| -> Vec<f64> {
        seeds.iter().map(|runs| value(runs)).collect()
    };
    let none = vec![0.0; seeds.len()];
    let change = |a: usize, b: usize| {
        Difference::of(&each(&|runs| difference(&runs[a], &runs[b]).mean), &none)
    };
    let base = over_seeds(seeds, |runs| level(&tail(&runs[0])).mean).mean;
    let lower = |claim: &str, change: Difference| Finding {
        claim: claim.into(),
        verdict: below_zero(change),
        evidence: format!(
            "last tenth of {} seeds: {} of the loss without, {base:.5}",
            seeds.len(),
            relative(change, base)
        ),
    };
    let rest = [0, 1, 2].map(|i| each(&|runs| restlessness(&runs[i])));
    let [own, other, follows] = [
        "classifier_sse",
        "classifier_sse_other_tokens",
        "classifier_follows_tokens",
    ]
    .map(|key| last(seeds, 1, key));
    vec![
        lower(
            "the NGMG classifier lowers the denoising loss",
            change(1, 0),
        ),
        lower("the BCE classifier lowers the denoising loss", change(2, 0)),
        lower("NGMG lowers it more than BCE", change(1, 2)),
        Finding {
            claim: "training is calmer with NGMG".into(),
            verdict: below_zero(Difference::of(&rest[1], &rest[0])),
            evidence: format!(
                "from line to line the loss moves by {:.5} without, {:.5} with NGMG, {:.5} with BCE",
                mean(&rest[0]),
                mean(&rest[1]),
                mean(&rest[2])
            ),
        },
        Finding {
            claim: "the NGMG classifier reads the picture and not the tokens".into(),
            verdict: Verdict::from(follows.below(0.5)),
            evidence: format!(
                "held out, squared error per picture {:.2} with its own tokens, {:.2} with another's; where they disagree it follows the tokens in {:.0} %",
                own.mean,
                other.mean,
                100.0 * follows.mean
            ),
        },
    ]
}

/// Is the difference below zero, beyond its 95 % interval?
fn below_zero(difference: Difference) -> Verdict {
    let sign = difference.sign();
    Verdict::from((sign != 0).then_some(sign < 0))
}

fn mean(values: &[f64]) -> f64 {
    mean_and_deviation(values)[0]
}

fn numbers(seeds: &[Vec<Run>]) -> Value {
    let run = |runs: &[Run], i: usize| {
        let run = &runs[i];
        let base = level(&tail(&runs[0]));
        let last = |key: &str| run.rows.iter().rev().find_map(|row| row.get(key));
        json!({
            "loss": run.loss.to_string(),
            "last_tenth": level(&tail(run)).json(),
            "minus_none": difference(run, &runs[0]).json(),
            "line_to_line_deviation": restlessness(run),
            "step_at_the_final_level_of_none": reaches(run, base.mean),
            "held_out_loss": last("held_out_loss"),
            "classifier_loss": last("classifier_loss"),
            "classifier_sse": last("classifier_sse"),
            "classifier_sse_other_tokens": last("classifier_sse_other_tokens"),
            "classifier_follows_tokens": last("classifier_follows_tokens"),
            "curve": points(run),
        })
    };
    let all = seeds.iter().map(|runs| {
        let runs: Vec<Value> = (0..runs.len()).map(|i| run(runs, i)).collect();
        Value::from(runs)
    });
    Value::from(all.collect::<Vec<_>>())
}

fn name(loss: ClassifierKind) -> &'static str {
    match loss {
        ClassifierKind::None => "no classifier",
        ClassifierKind::Ngmg => "NGMG",
        ClassifierKind::Bce => "BCE",
    }
}

/// Smoothed curves with the range over the seeds, and the differences to the runs without.
fn draw(settings: &Settings, about: &str, seeds: &[Vec<Run>], findings: &[Finding]) -> Figure {
    let half = (settings.smooth / 10 / 2).max(1) as usize; // A line of metrics every ten steps.
    let mut curves = Panel {
        title: "denoising loss".into(),
        x_label: "step".into(),
        y_label: "mean squared error of the noise".into(),
        log_y: true,
        legend: true,
        ..Panel::default()
    };
    let mut apart = Panel {
        title: "difference to the run without, same seed".into(),
        x_label: "step".into(),
        y_label: "per cent of the loss without a classifier".into(),
        legend: true,
        marks: vec![Mark {
            name: String::new(),
            colour: 0,
            shape: Shape::Level(0.0),
        }],
        ..Panel::default()
    };
    for (i, loss) in LOSSES.into_iter().enumerate() {
        let smooth: Vec<_> = seeds
            .iter()
            .map(|r| moving_average(&points(&r[i]), half))
            .collect();
        band(&mut curves, name(loss), i, &smooth);
        if i == 0 {
            continue;
        }
        let relative = seeds.iter().map(|runs| {
            let (own, none) = (points(&runs[i]), points(&runs[0]));
            let base = moving_average(&none, half);
            let pairs = own.iter().zip(&none).map(|(a, b)| [a[0], a[1] - b[1]]);
            let apart = moving_average(&pairs.collect::<Vec<_>>(), half);
            let pairs = apart.iter().zip(&base);
            pairs.map(|(d, b)| [d[0], 100.0 * d[1] / b[1]]).collect()
        });
        band(&mut apart, name(loss), i, &relative.collect::<Vec<_>>());
    }
    Figure {
        title: "Fig. 9: training loss with and without a classifier at the bottleneck".into(),
        caption: format!(
            "{} on {about}, {} steps of {}, {} seeds: mean over {} steps, and the range over the seeds.\n{}",
            settings.training.preset,
            settings.training.steps,
            settings.training.batch,
            settings.seeds,
            settings.smooth,
            caption(findings)
        ),
        columns: 2,
        panel_size: [640, 460],
        panels: vec![curves, apart],
    }
}

/// Mean and range of the curves of all seeds.
fn band(panel: &mut Panel, name: &str, colour: usize, curves: &[Vec<[f64; 2]>]) {
    let length = curves.iter().map(Vec::len).min().unwrap_or(0);
    let at = |i: usize| curves.iter().map(move |c| c[i][1]);
    let x = |i: usize| curves[0][i][0];
    let mean = |i: usize| at(i).sum::<f64>() / curves.len() as f64;
    let low = |i: usize| at(i).fold(f64::INFINITY, f64::min);
    let high = |i: usize| at(i).fold(f64::NEG_INFINITY, f64::max);
    let range = (0..length).map(|i| [x(i), low(i), high(i)]).collect();
    let line = (0..length).map(|i| [x(i), mean(i)]).collect();
    panel.marks.push(Mark {
        name: String::new(),
        colour,
        shape: Shape::Band(range),
    });
    panel.marks.push(Mark {
        name: name.into(),
        colour,
        shape: Shape::Line(line),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run whose loss falls to `end` with a shared wobble.
    fn run(loss: ClassifierKind, end: f64) -> Run {
        let row = |i: u64| MetricsRow {
            step: 10 * i,
            values: vec![(
                "loss".into(),
                end + 0.5 * (-(i as f64) / 20.0).exp() + 0.01 * (i as f64 * 1.7).sin(),
            )],
            ..MetricsRow::default()
        };
        Run {
            loss,
            rows: (1..=200).map(row).collect(),
        }
    }

    #[test]
    fn the_shared_wobble_cancels() {
        let (none, ngmg) = (
            run(ClassifierKind::None, 0.10),
            run(ClassifierKind::Ngmg, 0.09),
        );
        assert_eq!(tail(&none).len(), 20);
        let d = difference(&ngmg, &none);
        assert!((d.mean + 0.01).abs() < 1e-12 && d.error < 1e-12, "{d:?}");
        assert!(level(&tail(&none)).error > 1e-4);
        assert_eq!(d.below(0.0), Some(true));
        // The lower curve is at the other's final level before the other is.
        let target = level(&tail(&none)).mean;
        let (first, second) = (reaches(&ngmg, target), reaches(&none, target));
        assert!(first.unwrap() < second.unwrap_or(u64::MAX));
        assert!((restlessness(&none) - restlessness(&ngmg)).abs() < 1e-9);
    }
}
