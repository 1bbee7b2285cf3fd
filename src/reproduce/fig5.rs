//! Figure 5: the Z that training assigned to a picture, random noise: do the drawings keep to it?

use super::trained::{Model, Training};
use super::{Context, Finding, Report, ReproduceError, Scale, Verdict};
use crate::diffusion::generate::{Latents, Request};
use crate::diffusion::sampler::{Sampler, SamplerPlan};
use crate::evaluate::statistics::{Estimate, Pictures};
use crate::report::grid::{ORANGE, Sheet};
use crate::report::picture::Picture;
use serde_json::json;
use std::path::Path;

/// How much is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// The model, where no checkpoint is given.
    pub training: Training,
    /// Training pictures whose Z is used.
    pub owners: usize,
    /// Drawings from each Z, and as many from random ones; at least 3.
    pub drawings: usize,
    /// Sampling steps; all T if none.
    pub steps: Option<u32>,
}

impl Settings {
    /// The settings of a scale.
    pub fn of(scale: Scale) -> Self {
        let (owners, drawings) = match scale {
            Scale::Quick => (8, 8),
            Scale::Full => (32, 16),
        };
        Self {
            training: Training::features(scale),
            owners,
            drawings,
            steps: None,
        }
    }
}

/// Owners and drawings on the sheet.
const SHOWN: [usize; 2] = [4, 4];
/// The nearest others that stand for "another picture with the same A".
const OTHERS: usize = 8;

/// What was drawn for one training picture.
struct Owner {
    picture: usize,
    others: Vec<usize>,
    own_z: Pictures,
    random_z: Pictures,
}

impl Owner {
    /// Spread of the drawings from its Z over the spread of those from random Z.
    fn spread_ratio(&self) -> f64 {
        self.own_z.spread().mean / self.random_z.spread().mean
    }

    /// Mean distance of `drawn` to the owner, over that to the others with the nearest A.
    fn distance_ratio(&self, model: &Model, drawn: &Pictures) -> f64 {
        let mean = |to: usize| -> f64 {
            let to = model.pictures(&[to]);
            let distances = drawn.distances_to(&to.data);
            distances.iter().sum::<f64>() / distances.len() as f64
        };
        let others: f64 = self.others.iter().map(|&i| mean(i)).sum();
        mean(self.picture) / (others / self.others.len() as f64)
    }
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
    let plan = model.plan(Sampler::Renoise, settings.steps)?;
    let mut owners = Vec::new();
    for number in 0..settings.owners {
        owners.push(draw(&mut model, &plan, number, settings, context)?);
    }
    let each = |value: &dyn Fn(&Owner) -> f64| -> Estimate {
        Estimate::of(&owners.iter().map(value).collect::<Vec<_>>())
    };
    let spread = each(&|o| o.spread_ratio());
    let own = each(&|o| o.distance_ratio(&model, &o.own_z));
    let random = each(&|o| o.distance_ratio(&model, &o.random_z));
    let findings = findings(&model, settings, [spread, own, random]);
    let file = context.save_picture("fig5", &sheet(&model, &owners, &findings)?)?;
    Ok(Report {
        name: "fig5".into(),
        title: format!("One picture's Z, many noises; {}", model.title()),
        settings: json!({
            "owners": settings.owners,
            "drawings": settings.drawings,
            "sampler": "renoise",
            "sampling_steps": plan.steps().len(),
            "model": model.title(),
            "times_each_picture_was_seen": model.epochs(),
        }),
        findings,
        numbers: json!({
            "spread_own_z_over_random_z": spread.json(),
            "distance_to_owner_over_nearest_others": own.json(),
            "the_same_with_random_z": random.json(),
            "rows": owners.iter().map(|o| json!({
                "row": model.data.row(o.picture),
                "spread": o.spread_ratio(),
                "distance": o.distance_ratio(&model, &o.own_z),
            })).collect::<Vec<_>>(),
        }),
        pictures: vec![file],
        seconds: 0.0,
    })
}

fn draw(
    model: &mut Model,
    plan: &SamplerPlan,
    number: usize,
    settings: &Settings,
    context: &mut Context<'_>,
) -> Result<Owner, ReproduceError> {
    let picture = model.training_picture(number, settings.owners);
    let attributes = model.data.attributes(picture).to_vec();
    // The same noises with the picture's Z and with random ones.
    let first = (number * settings.drawings) as u64;
    let requests = |latent: &dyn Fn(u64) -> u64| -> Vec<Request> {
        (0..settings.drawings as u64)
            .map(|i| Request::new(&attributes, latent(first + i)))
            .collect()
    };
    let row = model.data.row(picture);
    let assigned = model.assigned()?;
    let own = requests(&|_| row);
    let own_z = model.draw(assigned, plan, (first, &own), context)?;
    let random = requests(&|i| i);
    let random_z = model.draw(Latents::Fresh, plan, (first, &random), context)?;
    Ok(Owner {
        picture,
        others: nearest_others(model, picture),
        own_z,
        random_z,
    })
}

/// The training pictures whose attributes differ least from those of `picture`, by row.
fn nearest_others(model: &Model, picture: usize) -> Vec<usize> {
    let own = model.data.attributes(picture);
    let differences = |i: usize| {
        let other = model.data.attributes(i).iter();
        other.zip(own).filter(|(a, b)| a != b).count()
    };
    let train = model.data.train_indices().iter().map(|&i| i as usize);
    let mut others: Vec<(usize, usize)> = train
        .filter(|&i| i != picture)
        .map(|i| (differences(i), i))
        .collect();
    others.sort_unstable();
    others.truncate(OTHERS);
    others.into_iter().map(|(_, i)| i).collect()
}

fn findings(
    model: &Model,
    settings: &Settings,
    [spread, own, random]: [Estimate; 3],
) -> Vec<Finding> {
    let over = format!(
        "over {} training pictures with {} drawings each; training saw each picture {:.1} times",
        settings.owners,
        settings.drawings,
        model.epochs()
    );
    vec![
        Finding {
            claim: "drawings from one picture's Z differ less from each other than drawings from random Z".into(),
            verdict: Verdict::from(spread.below(1.0)),
            evidence: format!("pairwise distance with its Z / with random Z: {spread}, {over}"),
        },
        Finding {
            claim: "drawings from a picture's Z are nearer to it than to other pictures with the same attributes".into(),
            verdict: Verdict::from(own.below(1.0)),
            evidence: format!("distance to the owner / to the {OTHERS} pictures with the nearest attributes: {own} (with random Z {random}), {over}"),
        },
        Finding {
            claim: "a picture's own Z brings drawings nearer to it than random Z does".into(),
            verdict: Verdict::from(own.minus(random).below(0.0)),
            evidence: format!("the ratio above is {own} with its own Z and {random} with random Z, {over}"),
        },
    ]
}

/// Blue: another picture with the same attributes.
const BLUE: [u8; 3] = [0, 114, 178];

fn sheet(model: &Model, owners: &[Owner], findings: &[Finding]) -> Result<Picture, ReproduceError> {
    let size = model.size();
    let [rows, drawings] = SHOWN;
    let drawings = drawings.min(owners.first().map_or(1, |o| o.own_z.len()));
    let columns = 2 + 2 * drawings;
    let mut pictures = Vec::new();
    let mut frames = Vec::new();
    for owner in owners.iter().take(rows) {
        frames.push((pictures.len(), ORANGE));
        frames.push((pictures.len() + columns - 1, BLUE));
        let real = |i: usize| Picture::from_rgb(size, size, model.data.image(i).to_vec());
        pictures.push(real(owner.picture)?);
        for drawn in [&owner.own_z, &owner.random_z] {
            let shown = &drawn.data[..drawings * drawn.elements()];
            pictures.extend(Picture::from_batch(shown, [drawings, size, size, 3])?);
        }
        let other = owner.others.first().copied().unwrap_or(owner.picture);
        pictures.push(real(other)?);
    }
    let mut sheet = Sheet::new(columns, size);
    sheet.frames = frames;
    sheet.column_captions = std::iter::once("owner")
        .chain(std::iter::repeat_n("its Z", drawings))
        .chain(std::iter::repeat_n("random Z", drawings))
        .chain(["nearest attributes"])
        .map(str::to_owned)
        .collect();
    sheet.title = Some(format!(
        "{} | drawings from one Z closer together: {}; nearer to its owner: {}",
        model.title(),
        findings[0].verdict,
        findings[1].verdict
    ));
    Ok(sheet.render(&pictures)?)
}
