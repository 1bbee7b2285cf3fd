//! Figure 7: training pictures drawn again from the Z that training assigned to them, by a model of
//! overlapping features and by a model of disjoint classes.

use super::data::Data;
use super::trained::{Model, Training};
use super::{Context, Finding, Report, ReproduceError, Scale, Verdict};
use crate::diffusion::generate::{Latents, Request};
use crate::diffusion::sampler::{Sampler, SamplerPlan};
use crate::evaluate::statistics::{Estimate, Pictures};
use crate::report::figure::{Figure, Mark, Panel, Shape, pale};
use crate::report::grid::{ORANGE, Sheet};
use crate::report::picture::Picture;
use serde_json::{Value, json};
use std::path::Path;

/// How much is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// The features' model, where no checkpoint is given.
    pub features: Training,
    /// The classes' model.
    pub classes: Training,
    /// Training pictures that are drawn again.
    pub pictures: usize,
    /// Drawings of each with its own Z, and as many with fresh ones.
    pub drawings: usize,
    /// Sampling steps at the most; all T if none.
    pub steps: Option<u32>,
}

impl Settings {
    /// The settings of a scale.
    pub fn of(scale: Scale) -> Self {
        let (pictures, drawings, steps) = match scale {
            Scale::Quick => (12, 4, Some(100)),
            Scale::Full => (64, 5, None),
        };
        Self {
            features: Training::features(scale),
            classes: Training::classes(scale),
            pictures,
            drawings,
            steps,
        }
    }
}

/// Pictures of each model on the sheet.
const SHOWN: usize = 4;
/// Sampling steps are numbered below 2^20 a picture; the models' noises need not differ.
const FIRST: u64 = 0;

/// What one model made of its training pictures.
struct Again {
    title: String,
    about: &'static str,
    originals: Vec<usize>,
    own: Vec<Pictures>,
    fresh: Vec<Pictures>,
    own_error: Estimate,
    fresh_error: Estimate,
    ratio: Estimate,
    epochs: f64,
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
    let mut features = Model::features(checkpoint, settings.features, context)?;
    let data = Data::classes(context, settings.classes.size()?)?;
    let config = settings.classes.config(&data, context.seed);
    let name = format!("classes-{}", settings.classes.preset);
    let mut classes = Model::train(&name, config, &data, context)?;
    let again = [
        draw(&mut features, "overlapping features", settings, context)?,
        draw(&mut classes, "disjoint classes", settings, context)?,
    ];
    let findings = findings(&again);
    let models = [&features, &classes];
    let sheets = [
        context.save_picture("fig7-features", &sheet(&features, &again[0])?)?,
        context.save_picture("fig7-classes", &sheet(&classes, &again[1])?)?,
        context.save_figure("fig7", &figure(models, &again, &findings))?,
    ];
    let numbers = |again: &Again, model: &Model| -> Value {
        json!({
            "model": again.title,
            "mse_own_z": again.own_error.json(),
            "mse_fresh_z": again.fresh_error.json(),
            "ratio": again.ratio.json(),
            "final_loss": final_loss(model),
            "times_each_picture_was_seen": again.epochs,
        })
    };
    Ok(Report {
        name: "fig7".into(),
        title: "Training pictures drawn again from their own Z".into(),
        settings: json!({
            "pictures": settings.pictures,
            "drawings": settings.drawings,
            "sampler": "renoise",
            "sampling_steps_at_most": settings.steps,
        }),
        findings,
        numbers: json!({
            "features": numbers(&again[0], &features),
            "classes": numbers(&again[1], &classes),
        }),
        pictures: sheets.to_vec(),
        seconds: 0.0,
    })
}

fn draw(
    model: &mut Model,
    about: &'static str,
    settings: &Settings,
    context: &mut Context<'_>,
) -> Result<Again, ReproduceError> {
    let plan = model.plan(Sampler::Renoise, settings.steps)?;
    let count = settings.pictures;
    let originals: Vec<usize> = (0..count)
        .map(|i| model.training_picture(i, count))
        .collect();
    let assigned = model.assigned()?;
    let own = set(
        model,
        assigned,
        &plan,
        &originals,
        settings.drawings,
        context,
    )?;
    let fresh = set(
        model,
        Latents::Fresh,
        &plan,
        &originals,
        settings.drawings,
        context,
    )?;
    let errors = |drawn: &[Pictures]| -> Vec<f64> {
        let error = |(drawn, &original): (&Pictures, &usize)| {
            let original = model.pictures(&[original]);
            let squares = drawn.distances_to(&original.data).into_iter();
            squares.map(|d| d * d).sum::<f64>() / drawn.len() as f64
        };
        drawn.iter().zip(&originals).map(error).collect()
    };
    let (own_errors, fresh_errors) = (errors(&own), errors(&fresh));
    let ratios: Vec<f64> = own_errors
        .iter()
        .zip(&fresh_errors)
        .map(|(own, fresh)| own / fresh)
        .collect();
    Ok(Again {
        title: model.title(),
        about,
        own_error: Estimate::of(&own_errors),
        fresh_error: Estimate::of(&fresh_errors),
        ratio: Estimate::of(&ratios),
        epochs: model.epochs(),
        originals,
        own,
        fresh,
    })
}

/// Drawings of each original, its own A, with latents of this kind and noises that do not depend on it.
fn set(
    model: &mut Model,
    latents: Latents,
    plan: &SamplerPlan,
    originals: &[usize],
    drawings: usize,
    context: &mut Context<'_>,
) -> Result<Vec<Pictures>, ReproduceError> {
    let mut requests = Vec::new();
    for &original in originals {
        for _ in 0..drawings {
            let latent = match latents {
                Latents::Fresh => requests.len() as u64,
                Latents::Assigned { .. } => model.data.row(original),
            };
            requests.push(Request::new(model.data.attributes(original), latent));
        }
    }
    let all = model.draw(latents, plan, (FIRST, &requests), context)?;
    let each = all.data.chunks(drawings * all.elements());
    Ok(each
        .map(|data| Pictures {
            data: data.to_vec(),
            size: all.size,
        })
        .collect())
}

fn findings(again: &[Again; 2]) -> Vec<Finding> {
    let mut findings: Vec<Finding> = again
        .iter()
        .map(|a| Finding {
            claim: format!(
                "{}: training pictures come back from their own Z (error below that with a fresh Z of the same A)",
                a.about
            ),
            verdict: Verdict::from(a.ratio.below(1.0)),
            evidence: format!(
                "mean squared error (mirror images count as the same) {} with its own Z, {} with fresh Z; ratio {} over {} pictures; {}, each picture seen {:.1} times",
                a.own_error,
                a.fresh_error,
                a.ratio,
                a.originals.len(),
                a.title,
                a.epochs
            ),
        })
        .collect();
    let [features, classes] = again;
    findings.push(Finding {
        claim: "features bring pictures back better than classes".into(),
        verdict: Verdict::from(features.ratio.minus(classes.ratio).below(0.0)),
        evidence: format!(
            "ratio of the errors {} with features, {} with classes; the two differ in data, length of training and size of the active latent too: fig7 --control is the fair comparison",
            features.ratio, classes.ratio
        ),
    });
    findings
}

fn sheet(model: &Model, again: &Again) -> Result<Picture, ReproduceError> {
    let size = model.size();
    let drawings = again.own.first().map_or(0, Pictures::len);
    let columns = 1 + 2 * drawings;
    let mut pictures = Vec::new();
    let mut frames = Vec::new();
    for (number, &original) in again.originals.iter().take(SHOWN).enumerate() {
        frames.push((pictures.len(), ORANGE));
        let bytes = model.data.image(original).to_vec();
        pictures.push(Picture::from_rgb(size, size, bytes)?);
        for drawn in [&again.own[number], &again.fresh[number]] {
            pictures.extend(Picture::from_batch(&drawn.data, [drawings, size, size, 3])?);
        }
    }
    let mut sheet = Sheet::new(columns, size);
    sheet.frames = frames;
    sheet.column_captions = std::iter::once("original")
        .chain(std::iter::repeat_n("own Z", drawings))
        .chain(std::iter::repeat_n("fresh Z", drawings))
        .map(str::to_owned)
        .collect();
    sheet.title = Some(format!(
        "{}: {} | error with own Z / with fresh Z {}",
        again.about, again.title, again.ratio
    ));
    Ok(sheet.render(&pictures)?)
}

/// Mean loss of the last tenth of the run, where its metrics are known.
fn final_loss(model: &Model) -> Value {
    let losses: Vec<f64> = model
        .metrics
        .iter()
        .filter_map(|row| row.get("loss"))
        .collect();
    let last = &losses[losses.len() - losses.len().div_ceil(10).min(losses.len())..];
    if last.len() < 2 {
        return Value::Null;
    }
    Estimate::of(last).json()
}

fn figure(models: [&Model; 2], again: &[Again; 2], findings: &[Finding]) -> Figure {
    let told = findings
        .iter()
        .map(|f| format!("{}: {}.", f.claim, f.verdict));
    Figure {
        title: "Training pictures drawn again from their own Z".into(),
        caption: told.collect::<Vec<_>>().join(" "),
        columns: 2,
        panel_size: [560, 400],
        panels: vec![errors(again), losses(models, again)],
    }
}

fn errors(again: &[Again; 2]) -> Panel {
    let bars = |value: &dyn Fn(&Again) -> Estimate, shift: f64, name: &str, colour| Mark {
        name: name.into(),
        colour,
        shape: Shape::Bars {
            points: (0..)
                .zip(again)
                .map(|(i, a)| [f64::from(i) + shift, value(a).mean])
                .collect(),
            width: 0.35,
        },
    };
    Panel {
        title: "Error to the original".into(),
        y_label: "mean squared error".into(),
        legend: true,
        categories: again.iter().map(|a| a.about.to_owned()).collect(),
        marks: vec![
            bars(&|a| a.own_error, -0.18, "own Z", 4),
            bars(&|a| a.fresh_error, 0.18, "fresh Z", 6),
        ],
        ..Panel::default()
    }
}

fn losses(models: [&Model; 2], again: &[Again; 2]) -> Panel {
    let mut marks = Vec::new();
    for (colour, (model, again)) in models.iter().zip(again).enumerate() {
        let points: Vec<[f64; 2]> = model
            .metrics
            .iter()
            .filter_map(|row| Some([row.images as f64 / 1000.0, row.get("loss")?]))
            .collect();
        let smooth = smoothed(&points);
        marks.push(Mark {
            name: String::new(),
            colour: pale(colour),
            shape: Shape::Line(points),
        });
        marks.push(Mark {
            name: again.about.into(),
            colour,
            shape: Shape::Line(smooth),
        });
    }
    Panel {
        title: "Training".into(),
        x_label: "thousand images".into(),
        y_label: "noise prediction error".into(),
        log_y: true,
        legend: true,
        marks,
        ..Panel::default()
    }
}

/// Running mean over about a thirtieth of the points.
fn smoothed(points: &[[f64; 2]]) -> Vec<[f64; 2]> {
    let half = points.len() / 60;
    let mean = |i: usize| {
        let window = &points[i.saturating_sub(half)..(i + half + 1).min(points.len())];
        window.iter().map(|p| p[1]).sum::<f64>() / window.len() as f64
    };
    (0..points.len()).map(|i| [points[i][0], mean(i)]).collect()
}
