//! Figure 7's question on one data set: do overlapping features draw better pictures than disjoint
//! classes? The paper's comparison changes data, resolution, schedule and latent at once; here only the
//! conditioning differs, and N is scaled so that the active latent has about the same size.

use super::data::Data;
use super::judge;
use super::trained::{Model, Training};
use super::{Context, Finding, Report, ReproduceError, Scale, Verdict, groups};
use crate::diffusion::generate::{Latents, Request};
use crate::diffusion::sampler::Sampler;
use crate::evaluate::classifier::AttributeClassifier;
use crate::evaluate::frechet::{Features, Gaussian, Reference};
use crate::evaluate::statistics::Estimate;
use crate::report::figure::{Figure, Mark, Panel, Shape};
use crate::report::grid::Sheet;
use crate::report::picture::Picture;
use crate::rng::{Philox, Stream};
use crate::tape::executable::DeviceError;
use crate::train::config::{RunConfig, network_table};
use crate::train::setup;
use serde_json::json;

/// How much is trained and drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Each of the three models.
    pub training: Training,
    /// Steps of the training of the network whose features are compared.
    pub judge: u64,
    /// Pictures drawn from each model.
    pub pictures: usize,
    /// Real pictures that they are compared with, at the most.
    pub real: usize,
    /// Sampling steps; all T if none.
    pub steps: Option<u32>,
}

impl Settings {
    /// The settings of a scale.
    pub fn of(scale: Scale) -> Self {
        match scale {
            Scale::Quick => Self {
                // Three models: only the smallest network makes them in minutes.
                training: Training {
                    preset: "nano",
                    steps: 2000,
                    ..Training::features(scale)
                },
                judge: judge::steps(scale),
                pictures: 256,
                real: 4000,
                steps: Some(50),
            },
            Scale::Full => Self {
                training: Training::features(scale),
                judge: judge::steps(scale),
                pictures: 4096,
                real: 20_000,
                steps: None,
            },
        }
    }
}

/// Clusters of attribute vectors, and attributes whose patterns are classes.
const CLUSTERS: usize = 10;
const PATTERN: usize = 8;
/// Resamplings that tell the spread of a distance.
const RESAMPLINGS: u64 = 100;
/// Pictures of each model on the sheet.
const SHOWN: usize = 10;

/// One way of conditioning, and what came of it.
struct Arm {
    about: String,
    model: String,
    width: usize,
    active: f64,
    weights: usize,
    distance: Estimate,
    shown: Vec<Picture>,
}

/// Runs the control.
///
/// # Errors
/// See [`ReproduceError`].
pub fn run(context: &mut Context<'_>, settings: &Settings) -> Result<Report, ReproduceError> {
    let size = settings.training.size()?;
    let faces = Data::faces(context, size)?;
    let mut judge = judge::judge(&faces, settings.judge, context)?;
    let seed = context.seed;
    let clusters = Data::regrouped(context, size, "k-means of the attributes", |rows, names| {
        groups::clusters(rows, names, CLUSTERS, seed)
    })?;
    let about = format!("pattern of the {PATTERN} commonest attributes");
    let patterns = Data::regrouped(context, size, &about, |rows, names| {
        groups::patterns(rows, names, PATTERN)
    })?;
    let active = mean_active(&faces);
    let compared = Compared::new(&faces, &mut judge, settings)?;
    let sets = [
        ("attributes", &faces, 1.0),
        ("clusters", &clusters, active),
        ("patterns", &patterns, active),
    ];
    let mut arms = Vec::new();
    for (name, data, factor) in sets {
        arms.push(arm(
            name, data, factor, &compared, &mut judge, settings, context,
        )?);
    }
    let quality = judge::quality(&judge);
    let findings = findings(&arms, &compared, &quality);
    let file = context.save_figure("fig7-control", &figure(&arms, &compared, &findings))?;
    let sheet = context.save_picture("fig7-control-pictures", &sheet(&arms, size)?)?;
    Ok(Report {
        name: "fig7-control".into(),
        title: format!("Features or classes, on one data set ({})", faces.about),
        settings: json!({
            "steps": settings.training.steps,
            "batch": settings.training.batch,
            "preset": settings.training.preset,
            "pictures": settings.pictures,
            "real_pictures": compared.real,
            "sampler": "ddpm",
            "sampling_steps": settings.steps,
            "attributes_per_picture": active,
            "width": "N, the network's cross_attention_dim, is scaled; its token projections grow with it and nothing else does",
        }),
        findings,
        numbers: json!({
            "distance_of_real_held_out_pictures": compared.floor.json(),
            "conditioning": arms.iter().map(|a| json!({
                "by": a.about,
                "model": a.model,
                "n": a.width,
                "active_latent": a.active,
                "weights": a.weights,
                "frechet_distance": a.distance.json(),
            })).collect::<Vec<_>>(),
        }),
        pictures: vec![file, sheet],
        seconds: 0.0,
    })
}

/// Attributes that a picture has, on average.
fn mean_active(data: &Data) -> f64 {
    let packed = &data.packed;
    let ones = |i: usize| {
        packed
            .attributes(i)
            .iter()
            .map(|&a| f64::from(a))
            .sum::<f64>()
    };
    (0..packed.len()).map(ones).sum::<f64>() / packed.len() as f64
}

/// What drawn pictures are compared with.
struct Compared {
    reference: Reference,
    /// Distance of as many real held-out pictures as there are.
    floor: Estimate,
    real: usize,
    held_out: usize,
}

impl Compared {
    fn new(
        faces: &Data,
        judge: &mut AttributeClassifier,
        settings: &Settings,
    ) -> Result<Self, DeviceError> {
        let packed = &faces.packed;
        let dim = judge.features();
        let mut look = |indices: &[u32], most: usize| -> Result<Vec<f64>, DeviceError> {
            let count = indices.len().min(most);
            let picture = |i: usize| packed.image(indices[i * indices.len() / count] as usize);
            let bytes: Vec<u8> = (0..count).flat_map(picture).copied().collect();
            Ok(judge.look(&bytes)?.features)
        };
        let train = look(packed.train_indices(), settings.real)?;
        let held_out = look(packed.held_out_indices(), settings.pictures)?;
        let real = Features {
            values: &train,
            dim,
        };
        let other = Features {
            values: &held_out,
            dim,
        };
        let reference = Reference::new(Gaussian::of_all(real));
        Ok(Self {
            floor: distance(&reference, other, 0),
            real: real.rows(),
            held_out: other.rows(),
            reference,
        })
    }
}

/// The distance of `features` to the reference; its error is the deviation over resamplings of the rows.
fn distance(reference: &Reference, features: Features<'_>, seed: u64) -> Estimate {
    let n = features.rows();
    let resampled = |number: u64| {
        let draws = Philox::new(seed, Stream::SampleRow, number);
        let rows: Vec<usize> = (0..n)
            .map(|i| draws.below(2 + i as u32, n as u32) as usize)
            .collect();
        reference.distance(&Gaussian::of(features, &rows))
    };
    let values: Vec<f64> = (0..RESAMPLINGS).map(resampled).collect();
    Estimate {
        mean: reference.distance(&Gaussian::of_all(features)),
        // Estimate::of gives the error of the resamplings' mean; their deviation is wanted.
        error: Estimate::of(&values).error * (RESAMPLINGS as f64).sqrt(),
    }
}

/// Trains and draws with one conditioning; N is the preset's times `factor`.
fn arm(
    name: &str,
    data: &Data,
    factor: f64,
    compared: &Compared,
    judge: &mut AttributeClassifier,
    settings: &Settings,
    context: &mut Context<'_>,
) -> Result<Arm, ReproduceError> {
    let mut config = settings.training.config(data, context.seed);
    widen(&mut config, factor)?;
    let run = format!("{name}-{}", settings.training.preset);
    let mut model = Model::train(&run, config, data, context)?;
    // Early in a run ancestral sampling is the cleanest, for all three alike.
    let plan = model.plan(Sampler::Ddpm, settings.steps)?;
    let requests: Vec<Request> = (0..settings.pictures)
        .map(|i| {
            let picture = model.training_picture(i, settings.pictures);
            Request::new(model.data.attributes(picture), i as u64)
        })
        .collect();
    let drawn = model.draw(Latents::Fresh, &plan, (0, &requests), context)?;
    let features = judge.look_at_samples(&drawn.data)?.features;
    let features = Features {
        values: &features,
        dim: judge.features(),
    };
    let shown = SHOWN.min(drawn.len());
    let size = drawn.size;
    let some = &drawn.data[..shown * drawn.elements()];
    let width = model.setup.net.config().cross_attention_dim;
    Ok(Arm {
        about: match name {
            "attributes" => format!("{} attributes", data.packed.attribute_names().len()),
            other => format!("{} {other}", data.packed.attribute_names().len()),
        },
        model: model.title(),
        width,
        active: width as f64 * mean_active(data),
        weights: model.setup.net.table().count(),
        distance: distance(&compared.reference, features, context.seed),
        shown: Picture::from_batch(some, [shown, size, size, 3])?,
    })
}

/// Scales N, the length of a latent vector.
fn widen(config: &mut RunConfig, factor: f64) -> Result<(), ReproduceError> {
    let mut network = setup::network(config)?;
    let wide = (network.cross_attention_dim as f64 * factor).round() as usize;
    if wide != network.cross_attention_dim {
        network.cross_attention_dim = wide;
        config.network = Some(network_table(&network.to_json())?);
    }
    Ok(())
}

fn findings(arms: &[Arm], compared: &Compared, quality: &str) -> Vec<Finding> {
    let against = |other: &Arm| Finding {
        claim: format!(
            "conditioning by {} draws nearer to the real pictures than by {}",
            arms[0].about, other.about
        ),
        verdict: Verdict::from(arms[0].distance.minus(other.distance).below(0.0)),
        evidence: format!(
            "Frechet distance in our own attribute network's features: {} by {} (N = {}), {} by {} (N = {}); {} for {} real held-out pictures; errors are over resamplings of the drawn pictures, one training each; {quality}",
            arms[0].distance,
            arms[0].about,
            arms[0].width,
            other.distance,
            other.about,
            other.width,
            compared.floor,
            compared.held_out
        ),
    };
    arms[1..].iter().map(against).collect()
}

fn sheet(arms: &[Arm], size: usize) -> Result<Picture, ReproduceError> {
    let columns = arms[0].shown.len();
    let mut sheet = Sheet::new(columns, size);
    sheet.title =
        Some("The same pictures' attributes and noise, three ways of conditioning".into());
    sheet.row_captions = arms.iter().map(|a| a.about.clone()).collect();
    let pictures: Vec<Picture> = arms.iter().flat_map(|a| a.shown.clone()).collect();
    Ok(sheet.render(&pictures)?)
}

fn figure(arms: &[Arm], compared: &Compared, findings: &[Finding]) -> Figure {
    let bars = arms
        .iter()
        .zip(0..)
        .map(|(a, i)| [f64::from(i), a.distance.mean]);
    let mut marks = vec![Mark {
        name: String::new(),
        colour: 0,
        shape: Shape::Bars {
            points: bars.collect(),
            width: 0.6,
        },
    }];
    for (a, i) in arms.iter().zip(0..) {
        let x = f64::from(i);
        let ends = [-2.0, 2.0].map(|s| [x, a.distance.mean + s * a.distance.error]);
        marks.push(Mark {
            name: String::new(),
            colour: 7,
            shape: Shape::Line(ends.to_vec()),
        });
    }
    marks.push(Mark {
        name: format!("{} real held-out pictures", compared.held_out),
        colour: 2,
        shape: Shape::Level(compared.floor.mean),
    });
    let told = findings
        .iter()
        .map(|f| format!("{}: {}.", f.claim, f.verdict));
    Figure {
        title: "Features or classes, on one data set".into(),
        caption: format!(
            "Frechet distance in the features of our own attribute network (no FID) between drawn and real pictures; less is better. Lines: two standard deviations over resamplings of the drawn pictures; training was done once each. N = {} gives active latents of {} numbers. {}",
            arms.iter()
                .map(|a| a.width.to_string())
                .collect::<Vec<_>>()
                .join(", "),
            arms.iter()
                .map(|a| format!("{:.0}", a.active))
                .collect::<Vec<_>>()
                .join(", "),
            told.collect::<Vec<_>>().join(" ")
        ),
        columns: 1,
        panel_size: [680, 420],
        panels: vec![Panel {
            y_label: "Frechet distance (own features)".into(),
            legend: true,
            categories: arms.iter().map(|a| a.about.clone()).collect(),
            marks,
            ..Panel::default()
        }],
    }
}
