//! Figures 4 and 13 to 16: pictures with the attributes asked for, from random Z and random noise,
//! beside real pictures that have them.

use super::data::Data;
use super::judge::{self, agreement};
use super::trained::{Model, Training};
use super::{Context, Finding, Report, ReproduceError, Scale, Verdict};
use crate::data::{Candidates, Packed, parse_request};
use crate::diffusion::generate::{Latents, Request};
use crate::diffusion::sampler::Sampler;
use crate::evaluate::statistics::{Estimate, Pictures};
use crate::report::grid::Sheet;
use crate::report::picture::Picture;
use serde_json::json;
use std::path::Path;

/// What is asked for where nobody asks.
const DEFAULT: &str = "Smiling,Blond_Hair,-Male,-Eyeglasses,-Wearing_Hat";

/// How much is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// The model, where no checkpoint is given.
    pub training: Training,
    /// Steps of the judge's training.
    pub judge: u64,
    /// Pictures whose attributes are counted, for each request and sampler.
    pub pictures: usize,
    /// Pictures of one A whose distances are measured.
    pub spread: usize,
    /// Sampling steps; all T if none.
    pub steps: Option<u32>,
}

impl Settings {
    /// The settings of a scale.
    pub fn of(scale: Scale) -> Self {
        let (pictures, spread) = match scale {
            Scale::Quick => (64, 24),
            Scale::Full => (256, 48),
        };
        Self {
            training: Training::features(scale),
            judge: judge::steps(scale),
            pictures,
            spread,
            steps: None,
        }
    }
}

/// Pictures per row of the sheet.
const COLUMNS: usize = 8;
/// Samples are numbered from here for what is counted.
const COUNTED: u64 = 1 << 20;

/// Reproduces the figure for the attributes `list`.
///
/// # Errors
/// See [`ReproduceError`].
pub fn run(
    context: &mut Context<'_>,
    settings: &Settings,
    checkpoint: Option<&Path>,
    list: Option<&str>,
) -> Result<Report, ReproduceError> {
    let mut model = Model::features(checkpoint, settings.training, context)?;
    let names = model.data.attribute_names().to_vec();
    let default = default_list(&names, model.data.one_hot());
    let list = list.unwrap_or(&default);
    let request = parse_request(list, &names, model.data.one_hot())?;
    let data = data_of(&model);
    let mut judge = judge::judge(&data, settings.judge, context)?;
    let wanted = Wanted::new(&model.data, &request)?;
    let drawn = Drawn::draw(&mut model, &wanted, settings, context)?;
    let real = real_pictures(&model.data, &request);
    let seen = Agreements {
        renoise: agreement(&mut judge, &drawn.renoise, &request)?,
        ddim: agreement(&mut judge, &drawn.ddim, &request)?,
        mismatched: agreement(&mut judge, &drawn.mismatched, &request)?,
        real: agreement(&mut judge, &model.pictures(&real), &request)?,
    };
    let file = context.save_picture("fig4", &sheet(&model, list, &drawn, &real)?)?;
    let spreads = [drawn.random_z.spread(), drawn.one_z.spread()];
    let asked: Vec<usize> = (0..names.len()).filter(|&k| request[k].is_some()).collect();
    Ok(Report {
        name: "fig4".into(),
        title: format!("Pictures with {list}; {}", model.title()),
        settings: json!({
            "attributes": list,
            "pictures": settings.pictures,
            "sampling_steps": settings.steps.unwrap_or(model.setup.schedule.t_max()),
            "model": model.title(),
            "rows_that_agree": wanted.agreeing,
        }),
        findings: findings(&seen, spreads, &judge::quality(&judge), real.len()),
        numbers: json!({
            "agreement": {
                "renoise": seen.renoise.json(),
                "ddim": seen.ddim.json(),
                "mismatched_request": seen.mismatched.json(),
                "real_held_out": seen.real.json(),
                "real_pictures": real.len(),
            },
            "pairwise_distance": {
                "random_z": spreads[0].json(),
                "one_z": spreads[1].json(),
            },
            "classifier": judge::quality_json(&judge, &names, &asked),
        }),
        pictures: vec![file],
        seconds: 0.0,
    })
}

/// What a model was trained on.
fn data_of(model: &Model) -> Data {
    let config = &model.setup.config;
    Data {
        kind: config.data,
        path: config.data_path.clone(),
        attributes: config.attributes.clone(),
        packed: model.data.clone(),
        about: model.about.clone(),
    }
}

/// As much of [`DEFAULT`] as the data knows; the first attribute, or class, where it knows nothing.
fn default_list(names: &[String], one_hot: bool) -> String {
    let known = |item: &&str| parse_request(item, names, false).is_ok();
    let items: Vec<&str> = DEFAULT.split(',').filter(known).collect();
    if one_hot || items.is_empty() {
        return names.first().cloned().unwrap_or_default();
    }
    items.join(",")
}

/// The opposite of a request: every asked attribute turned round, or the next class.
fn opposite(request: &[Option<bool>], one_hot: bool) -> Vec<Option<bool>> {
    let mut turned = request.to_vec();
    if one_hot {
        turned.rotate_right(1);
    } else {
        for asked in turned.iter_mut().flatten() {
            *asked = !*asked;
        }
    }
    turned
}

/// The attributes that are drawn: as asked, and for the opposite request.
struct Wanted {
    matched: Vec<Vec<u8>>,
    mismatched: Vec<Vec<u8>>,
    agreeing: usize,
}

/// Rows that lend their other attributes, at the most.
const ROWS: usize = 1000;

impl Wanted {
    fn new(data: &Packed, request: &[Option<bool>]) -> Result<Self, ReproduceError> {
        let indices = data.train_indices();
        let count = indices.len().min(ROWS);
        let rows: Vec<u8> = (0..count)
            .flat_map(|i| data.attributes(indices[i * indices.len() / count] as usize))
            .copied()
            .collect();
        let pick = |request: &[Option<bool>]| -> Result<(Vec<Vec<u8>>, usize), ReproduceError> {
            let candidates = Candidates::new(request, &rows)?;
            let rows = (0..ROWS as u64).map(|i| candidates.pick(0, i).attributes);
            let agreeing = if candidates.agree() {
                candidates.count()
            } else {
                0
            };
            Ok((rows.collect(), agreeing))
        };
        let opposite = opposite(request, data.one_hot());
        let (matched, agreeing) = pick(request)?;
        Ok(Self {
            matched,
            mismatched: pick(&opposite)?.0,
            agreeing,
        })
    }
}

/// All pictures of the figure.
struct Drawn {
    /// One A, a fresh Z each.
    random_z: Pictures,
    /// The same A, one fresh Z.
    one_z: Pictures,
    renoise: Pictures,
    ddim: Pictures,
    mismatched: Pictures,
}

impl Drawn {
    fn draw(
        model: &mut Model,
        wanted: &Wanted,
        settings: &Settings,
        context: &mut Context<'_>,
    ) -> Result<Self, ReproduceError> {
        let renoise = model.plan(Sampler::Renoise, settings.steps)?;
        let ddim = model.plan(Sampler::default(), settings.steps)?;
        let one_a = |latent: &dyn Fn(u64) -> u64| -> Vec<Request> {
            (0..settings.spread as u64)
                .map(|i| Request::new(&wanted.matched[0], latent(i)))
                .collect()
        };
        let many = |rows: &[Vec<u8>]| -> Vec<Request> {
            (0..settings.pictures)
                .map(|i| Request::new(&rows[i % rows.len()], COUNTED + i as u64))
                .collect()
        };
        let mut draw = |plan, first, requests: Vec<Request>| {
            model.draw(Latents::Fresh, plan, (first, &requests), context)
        };
        Ok(Self {
            random_z: draw(&renoise, 0, one_a(&|i| i))?,
            one_z: draw(&renoise, 0, one_a(&|_| 0))?,
            renoise: draw(&renoise, COUNTED, many(&wanted.matched))?,
            ddim: draw(&ddim, COUNTED, many(&wanted.matched))?,
            mismatched: draw(&renoise, COUNTED, many(&wanted.mismatched))?,
        })
    }
}

/// Held-out pictures that have all attributes asked for.
fn real_pictures(data: &Packed, request: &[Option<bool>]) -> Vec<usize> {
    let fits = |&i: &usize| {
        let row = data.attributes(i).iter();
        let mut row = row.zip(request);
        row.all(|(&has, asked)| asked.is_none_or(|asked| asked == (has == 1)))
    };
    let held_out = data.held_out_indices().iter().map(|&i| i as usize);
    held_out.filter(fits).collect()
}

struct Agreements {
    renoise: Estimate,
    ddim: Estimate,
    mismatched: Estimate,
    real: Estimate,
}

fn findings(
    seen: &Agreements,
    [random_z, one_z]: [Estimate; 2],
    quality: &str,
    real: usize,
) -> Vec<Finding> {
    let percent = |e: Estimate| format!("{:.1} +- {:.1} %", 100.0 * e.mean, 100.0 * e.error);
    let gap = seen.mismatched.minus(seen.renoise);
    let short = seen.real.minus(seen.renoise);
    let ratio = one_z.over(random_z);
    vec![
        Finding {
            claim: "pictures have the attributes asked for more often than pictures drawn for the opposite request".into(),
            verdict: Verdict::from(gap.below(0.0)),
            evidence: format!(
                "requested attributes seen by a separately trained network: {} (renoise), {} (ddim); in pictures drawn for the opposite {}; {quality}",
                percent(seen.renoise),
                percent(seen.ddim),
                percent(seen.mismatched)
            ),
        },
        Finding {
            claim: "the attributes are seen in them about as often as in real pictures that have them (at most 5 points less)".into(),
            verdict: Verdict::from(short.below(0.05)),
            evidence: match real {
                0 | 1 => format!("{real} real held-out pictures have them: too few to compare with"),
                _ => format!(
                    "{} in drawn pictures, {} in {real} real held-out pictures",
                    percent(seen.renoise),
                    percent(seen.real)
                ),
            },
        },
        Finding {
            claim: "with one A, random Z spread pictures more than one Z does (Fig. 4 against Fig. 5)".into(),
            verdict: Verdict::from(ratio.below(1.0)),
            evidence: format!(
                "mean distance between two pictures: {random_z} with random Z, {one_z} with one Z; ratio {ratio}"
            ),
        },
    ]
}

fn sheet(
    model: &Model,
    list: &str,
    drawn: &Drawn,
    real: &[usize],
) -> Result<Picture, ReproduceError> {
    let size = model.size();
    let mut pictures = Vec::new();
    let mut captions = Vec::new();
    let rows = [
        (&drawn.random_z, "one A, random Z renoise"),
        (&drawn.renoise, "other attributes vary: renoise"),
        (&drawn.ddim, "other attributes vary: ddim"),
    ];
    for (drawn, caption) in rows {
        let shown = drawn.len().min(COLUMNS);
        let shown = &drawn.data[..shown * drawn.elements()];
        let count = shown.len() / drawn.elements();
        pictures.extend(Picture::from_batch(shown, [count, size, size, 3])?);
        while !pictures.len().is_multiple_of(COLUMNS) {
            pictures.push(Picture::filled(size, size, [255; 3])?);
        }
        captions.push(caption.to_owned());
    }
    for &i in real.iter().take(COLUMNS) {
        pictures.push(Picture::from_rgb(size, size, model.data.image(i).to_vec())?);
    }
    if !real.is_empty() {
        captions.push("real, held out".into());
    }
    let mut sheet = Sheet::new(COLUMNS, size);
    sheet.title = Some(format!("{list} | {}", model.title()));
    sheet.row_captions = captions;
    Ok(sheet.render(&pictures)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_fits_the_data() {
        let names = |list: &str| -> Vec<String> { list.split(' ').map(str::to_owned).collect() };
        let some = names("Bald Smiling Male");
        assert_eq!(default_list(&some, false), "Smiling,-Male");
        assert_eq!(default_list(&names("cat dog"), true), "cat");
        assert_eq!(default_list(&names("tall"), false), "tall");
        let (yes, no) = (Some(true), Some(false));
        assert_eq!(opposite(&[yes, None, no], false), [no, None, yes]);
        assert_eq!(opposite(&[yes, no, no], true), [no, yes, no]);
    }
}
