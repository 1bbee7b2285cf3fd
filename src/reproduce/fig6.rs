//! Figure 6: one Z; the estimate of the picture along the sampling steps.

use super::trained::{Model, Training};
use super::{Context, Finding, Report, ReproduceError, Scale, Verdict};
use crate::diffusion::generate::{Latents, Request};
use crate::diffusion::sampler::Sampler;
use crate::evaluate::statistics::{Estimate, Pictures};
use crate::report::figure::{Figure, Mark, Panel, Shape};
use crate::report::grid::Sheet;
use crate::report::picture::Picture;
use serde_json::json;
use std::path::Path;

/// How much is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// The model, where no checkpoint is given.
    pub training: Training,
    /// Pictures whose estimates are followed; at least 3.
    pub pictures: usize,
    /// Sampling steps; all T if none.
    pub steps: Option<u32>,
}

impl Settings {
    /// The settings of a scale.
    pub fn of(scale: Scale) -> Self {
        Self {
            training: Training::features(scale),
            pictures: match scale {
                Scale::Quick => 16,
                Scale::Full => 64,
            },
            steps: None,
        }
    }
}

/// The paper's steps: 1 to 10, 50 to 60, 80 to 100 by twos, of 100.
const ROWS: [(f64, f64, usize); 3] = [(0.01, 0.10, 10), (0.50, 0.60, 11), (0.80, 1.00, 11)];
/// Pictures per row.
const COLUMNS: usize = 11;
/// Training pictures whose distances are the unit.
const UNIT: usize = 48;
/// From here on (of all steps) the estimate should be at its end, within this share of the distance
/// between two training pictures.
const LATE: (f64, f64) = (0.8, 0.05);

/// The estimates of all pictures at all steps under one sampler.
struct Course {
    sampler: Sampler,
    /// Step by step, the pictures.
    estimates: Vec<Pictures>,
    /// Distance of each step's estimates to the last ones, over that between two training pictures.
    distances: Vec<Estimate>,
}

/// Reproduces the figure.
///
/// # Errors
/// See [`ReproduceError`].
pub fn run(
    context: &mut Context<'_>,
    settings: &Settings,
    checkpoint: Option<&Path>,
) -> Result<Report, ReproduceError> {
    let mut model = Model::features(checkpoint, settings.training, context)?;
    let requests = requests(&model, settings.pictures);
    let unit = unit(&model);
    let samplers = [Sampler::Renoise, Sampler::default()];
    let mut paths = Vec::new();
    for sampler in samplers {
        paths.push(follow(
            &mut model,
            sampler,
            &requests,
            (settings.steps, unit.mean),
            context,
        )?);
    }
    let findings: Vec<Finding> = paths.iter().flat_map(findings).collect();
    let strip = context.save_picture("fig6", &sheet(&model, &paths)?)?;
    let curve = context.save_figure("fig6-distance", &curve(&model, &paths, &findings))?;
    let numbers = |path: &Course| {
        json!({
            "sampler": path.sampler.name(),
            "distance_to_end": path.distances.iter().map(|d| d.mean).collect::<Vec<_>>(),
            "standard_error": path.distances.iter().map(|d| d.error).collect::<Vec<_>>(),
        })
    };
    Ok(Report {
        name: "fig6".into(),
        title: format!("The estimate along the steps; {}", model.title()),
        settings: json!({
            "pictures": settings.pictures,
            "sampling_steps": paths[0].estimates.len(),
            "model": model.title(),
            "unit": { "mean_distance_between_training_pictures": unit.json() },
        }),
        findings,
        numbers: json!(paths.iter().map(numbers).collect::<Vec<_>>()),
        pictures: vec![strip, curve],
        seconds: 0.0,
    })
}

/// One A and one Z for all; only the noise differs.
fn requests(model: &Model, count: usize) -> Vec<Request> {
    let one = Request::new(model.data.attributes(model.training_picture(0, 1)), 0);
    vec![one; count]
}

/// Mean distance between two training pictures: what distances are measured in.
fn unit(model: &Model) -> Estimate {
    let some: Vec<usize> = (0..UNIT).map(|i| model.training_picture(i, UNIT)).collect();
    model.pictures(&some).spread()
}

fn follow(
    model: &mut Model,
    sampler: Sampler,
    requests: &[Request],
    (steps, unit): (Option<u32>, f64),
    context: &mut Context<'_>,
) -> Result<Course, ReproduceError> {
    let plan = model.plan(sampler, steps)?;
    let size = model.size();
    let empty = Pictures {
        data: Vec::new(),
        size,
    };
    let mut estimates = vec![empty; plan.steps().len()];
    let mut keep = |step: usize, x0: &[f32], _: usize| estimates[step].data.extend_from_slice(x0);
    model.draw_watched(Latents::Fresh, &plan, (0, requests), context, &mut keep)?;
    let Some(last) = estimates.last().cloned() else {
        return Err(ReproduceError::Missing {
            what: "sampling steps",
        });
    };
    let distances = estimates
        .iter()
        .map(|step| {
            // The end of the same path: here a mirror image is another picture.
            let each = (0..step.len()).map(|i| rms(step.get(i), last.get(i)) / unit);
            Estimate::of(&each.collect::<Vec<_>>())
        })
        .collect();
    Ok(Course {
        sampler,
        estimates,
        distances,
    })
}

/// Root mean square difference.
fn rms(a: &[f32], b: &[f32]) -> f64 {
    let squares: f64 = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    (squares / a.len().max(1) as f64).sqrt()
}

/// Step number (from 0) at a share of `total` steps.
fn at(share: f64, total: usize) -> usize {
    ((share * total as f64).round() as usize).clamp(1, total) - 1
}

fn findings(path: &Course) -> Vec<Finding> {
    let (name, total) = (path.sampler.name(), path.distances.len());
    let mean = |from: f64, to: f64| {
        let part = &path.distances[at(from, total)..=at(to, total)];
        Estimate {
            mean: part.iter().map(|d| d.mean).sum::<f64>() / part.len() as f64,
            error: part.iter().map(|d| d.error).sum::<f64>() / part.len() as f64,
        }
    };
    let parts = ROWS.map(|(from, to, _)| mean(from, to));
    let falls = [parts[1].minus(parts[0]), parts[2].minus(parts[1])].map(|d| d.below(0.0));
    let falls = match falls {
        [Some(true), Some(true)] => Some(true),
        [Some(false), _] | [_, Some(false)] => Some(false),
        _ => None,
    };
    let late = path.distances[at(LATE.0, total)];
    vec![
        Finding {
            claim: format!("{name}: the estimate comes nearer to its end from part to part"),
            verdict: Verdict::from(falls),
            evidence: format!(
                "distance to the last estimate, as a share of that between two training pictures: {} in the first tenth of the steps, {} in the middle, {} in the last fifth",
                parts[0], parts[1], parts[2]
            ),
        },
        Finding {
            claim: format!(
                "{name}: from 80 % of the steps on the estimate is within {:.0} % of its end",
                100.0 * LATE.1
            ),
            verdict: Verdict::from(late.below(LATE.1)),
            evidence: format!(
                "at step {} of {total} the distance to the end is {late} of the distance between two training pictures",
                at(LATE.0, total) + 1
            ),
        },
    ]
}

fn sheet(model: &Model, paths: &[Course]) -> Result<Picture, ReproduceError> {
    let size = model.size();
    let mut pictures = Vec::new();
    let mut captions = Vec::new();
    for path in paths {
        let total = path.estimates.len();
        for (from, to, count) in ROWS {
            let share = |i: usize| from + (to - from) * i as f64 / (count - 1) as f64;
            let steps: Vec<usize> = (0..count).map(|i| at(share(i), total)).collect();
            for &step in &steps {
                let picture = path.estimates[step].get(0);
                pictures.extend(Picture::from_batch(picture, [1, size, size, 3])?);
            }
            while !pictures.len().is_multiple_of(COLUMNS) {
                pictures.push(Picture::filled(size, size, [255; 3])?);
            }
            captions.push(format!(
                "{} s = {} to {}",
                path.sampler.name(),
                steps[0] + 1,
                steps[count - 1] + 1
            ));
        }
    }
    let mut sheet = Sheet::new(COLUMNS, size);
    sheet.title = Some(format!(
        "One Z, one noise: the estimate at step s | {}",
        model.title()
    ));
    sheet.row_captions = captions;
    Ok(sheet.render(&pictures)?)
}

fn curve(model: &Model, paths: &[Course], findings: &[Finding]) -> Figure {
    let mut marks = Vec::new();
    for (colour, path) in paths.iter().enumerate() {
        let points = || path.distances.iter().enumerate();
        let band = points().map(|(s, d)| {
            let x = (s + 1) as f64;
            [x, d.mean - 2.0 * d.error, d.mean + 2.0 * d.error]
        });
        marks.push(Mark {
            name: String::new(),
            colour,
            shape: Shape::Band(band.collect()),
        });
        marks.push(Mark {
            name: path.sampler.name().into(),
            colour,
            shape: Shape::Line(points().map(|(s, d)| [(s + 1) as f64, d.mean]).collect()),
        });
    }
    marks.push(Mark {
        name: format!(
            "{:.0} % (the claim from 80 % of the steps on)",
            100.0 * LATE.1
        ),
        colour: 6,
        shape: Shape::Level(LATE.1),
    });
    let told = findings
        .iter()
        .map(|f| format!("{}: {}.", f.claim, f.verdict));
    Figure {
        title: "How fast the estimate finds its end".into(),
        caption: format!(
            "One Z, {} noises; {}. Bands: two standard errors over noises. {}",
            paths.first().map_or(0, |p| p.estimates[0].len()),
            model.title(),
            told.collect::<Vec<_>>().join(" ")
        ),
        columns: 1,
        panel_size: [760, 420],
        panels: vec![Panel {
            x_label: "sampling step s".into(),
            y_label: "distance to the end (1: two training pictures)".into(),
            legend: true,
            marks,
            ..Panel::default()
        }],
    }
}
