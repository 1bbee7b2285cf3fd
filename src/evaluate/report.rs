//! An evaluation in a table, in numbers and on a page.

use super::agreement::{Tally, mean_balanced};
use super::evaluator::{Evaluation, Evaluator, Likeness};
use super::neighbours::{Compared, Nearest, mirrored};
use super::statistics::Estimate;
use crate::report::grid::Sheet;
use crate::report::html::{escape, page, png_address, table};
use crate::report::picture::{Picture, PictureError};
use crate::train::report::significant;
use serde_json::{Map, Value, json};
use std::fmt::Write;

/// The name of the distance: it depends on the network, and no two networks' are comparable.
pub const FRECHET: &str = "Fréchet distance in gmmk classifier features";
/// Pairs of a drawn picture and a training picture on a sheet, and in a row of it.
const PAIRS: [usize; 2] = [24, 4];

/// What was measured, and of what.
pub struct EvaluationReport<'a> {
    /// The measuring.
    pub evaluator: &'a Evaluator,
    /// What came of it.
    pub evaluation: &'a Evaluation,
    /// Steps that the network was trained.
    pub step: u64,
    /// The network in words, such as "tiny on faces".
    pub network: String,
    /// The files of network and classifier, as they were named.
    pub files: [String; 2],
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

fn number(value: f64) -> String {
    significant(value, 4)
}

fn optional(share: Option<f64>) -> String {
    share.map_or("-".to_owned(), percent)
}

fn row(what: &str, drawn: String, real: String) -> [String; 3] {
    [what.to_owned(), drawn, real]
}

/// The values of a line of metrics: name and value.
pub fn metrics(evaluator: &Evaluator, evaluation: &Evaluation) -> Vec<(String, f64)> {
    let Evaluation {
        agreement,
        likeness,
        distance,
        relative,
        ..
    } = evaluation;
    let overlap = likeness.overlap;
    let mut values = vec![
        ("agreement", agreement.share.mean),
        ("agreement_unrelated", agreement.unrelated.mean),
        (
            "judge_accuracy",
            evaluator.judge().held_out().mean_accuracy(),
        ),
        ("frechet_gmmk_features", likeness.frechet),
        ("precision", overlap.precision),
        ("recall", overlap.recall),
        ("density", overlap.density),
        ("coverage", overlap.coverage),
        ("nearest_median", distance.drawn[2]),
        ("nearer_than_held_out", distance.nearer),
        ("relative_nearer_than_held_out", relative.nearer),
        ("near_copies", relative.near_copies),
    ];
    values.extend(agreement.balanced().map(|b| ("agreement_balanced", b)));
    let named = |(name, value): (&str, f64)| (format!("eval/{name}"), value);
    values.into_iter().map(named).collect()
}

impl EvaluationReport<'_> {
    /// Rows of what, of the drawn pictures, of real ones.
    pub fn rows(&self) -> Vec<[String; 3]> {
        let mut rows = self.loss_rows();
        rows.extend(self.attribute_rows());
        let (drawn, real) = (self.evaluation.likeness, self.evaluator.real().likeness);
        rows.extend(LIKENESS.map(|(name, of)| row(name, number(of(&drawn)), number(of(&real)))));
        let compared = [
            (
                "distance to the nearest training picture, median",
                &self.evaluation.distance,
            ),
            (
                "  over that to the tenth nearest, median",
                &self.evaluation.relative,
            ),
        ];
        for (name, compared) in compared {
            let medians = [compared.drawn, compared.held_out].map(|q| number(q[2]));
            let [drawn, real] = medians;
            let nearer = [compared.nearer, 0.5].map(percent);
            let copies = [compared.near_copies, 0.01].map(percent);
            rows.push(row(name, drawn, real));
            for (name, [drawn, fair]) in [
                ("    nearer than a held-out picture", nearer),
                ("    nearer than 99 % of them", copies),
            ] {
                rows.push(row(name, drawn, fair));
            }
        }
        rows
    }

    fn loss_rows(&self) -> Vec<[String; 3]> {
        let Some(loss) = &self.evaluation.loss else {
            return Vec::new();
        };
        let one = |what: &str, loss: f64| row(what, number(loss), String::new());
        let levels = loss.levels.iter().map(|(level, loss)| {
            let what = format!("  at t = {} to {}", level.first, level.last);
            one(&what, *loss)
        });
        let mut rows = vec![one("loss on held-out pictures", loss.loss)];
        rows.extend(levels);
        rows
    }

    fn attribute_rows(&self) -> [[String; 3]; 3] {
        let held_out = self.evaluator.judge().held_out();
        let agreement = &self.evaluation.agreement;
        let share = |e: Estimate| format!("{:.1} +- {:.1} %", 100.0 * e.mean, 100.0 * e.error);
        [
            row(
                "attributes seen as asked for",
                share(agreement.share),
                percent(held_out.mean_accuracy()),
            ),
            row(
                "  as asked for another picture",
                share(agreement.unrelated),
                String::new(),
            ),
            row(
                "  on and off counted alike",
                optional(agreement.balanced()),
                optional(mean_balanced(&held_out.attributes)),
            ),
        ]
    }

    /// What the second column of numbers is.
    pub fn legend(&self) -> String {
        let real = self.evaluator.real();
        let judge = self.evaluator.judge();
        format!(
            "Real pictures: {} training pictures in the drawn ones' place, both compared with {} held-out pictures; for attributes, what the classifier names right of {} held-out pictures; for distances, the held-out pictures (root mean square, values from -1 to 1). The features are the {} numbers that our own attribute classifier's last layer reads: the Fréchet distance is no FID and cannot be compared with one.",
            real.training,
            real.held_out,
            judge.held_out().pictures,
            judge.features()
        )
    }

    /// What was drawn, in a line.
    pub fn title(&self) -> String {
        let settings = self.evaluator.settings();
        format!(
            "{}, trained {} steps: {} pictures, {} {} steps, seed {}",
            self.network,
            self.step,
            settings.count,
            settings.sampler.name(),
            settings.steps,
            settings.seed
        )
    }

    /// All numbers.
    pub fn json(&self) -> Value {
        let Evaluation {
            loss,
            agreement,
            likeness,
            distance,
            relative,
            nearest,
            ..
        } = self.evaluation;
        let (settings, real) = (self.evaluator.settings(), self.evaluator.real());
        let judge = self.evaluator.judge().held_out();
        json!({
            "checkpoint": self.files[0],
            "network": self.network,
            "step": self.step,
            "count": settings.count,
            "seed": settings.seed,
            "sampler": settings.sampler.name(),
            "steps": settings.steps,
            "judge": {
                "file": self.files[1],
                "held_out_pictures": judge.pictures,
                "accuracy": judge.mean_accuracy(),
                "commoner_value": judge.mean_base(),
                "balanced_accuracy": mean_balanced(&judge.attributes),
            },
            "held_out_loss": loss.as_ref().map(|m| {
                let name = "held_out_loss";
                let levels = m.levels.iter().map(|(level, loss)| (level.metric(name), json!(loss)));
                let mut all = Map::from_iter([(name.to_owned(), json!(m.loss))]);
                all.extend(levels);
                all
            }),
            "agreement": {
                "share": agreement.share.json(),
                "unrelated_request": agreement.unrelated.json(),
                "balanced": agreement.balanced(),
                "attributes": self.attributes_json(),
            },
            "features": {
                "held_out_pictures": real.held_out,
                "training_pictures": real.training,
                "drawn": likeness_json(likeness),
                "training": likeness_json(&real.likeness),
            },
            "nearest_training_picture": {
                "distance": compared_json(distance),
                "relative_to_tenth": compared_json(relative),
                "of_each": nearest.iter().map(nearest_json).collect::<Vec<_>>(),
            },
        })
    }

    fn attributes(&self) -> impl Iterator<Item = (&String, &Tally, &Tally)> {
        let names = self.evaluator.data().attribute_names().iter();
        let drawn = self.evaluation.agreement.attributes.iter();
        let judge = self.evaluator.judge().held_out().attributes.iter();
        names
            .zip(drawn)
            .zip(judge)
            .map(|((name, drawn), judge)| (name, drawn, judge))
    }

    fn attributes_json(&self) -> Value {
        let one = |(name, drawn, judge): (&String, &Tally, &Tally)| {
            let tally = |t: &Tally| {
                json!({
                    "accuracy": t.accuracy(),
                    "commoner_value": t.base(),
                    "on": t.on,
                    "on_right": t.on_share(),
                    "off": t.off,
                    "off_right": t.off_share(),
                })
            };
            json!({ "attribute": name, "drawn": tally(drawn), "judge_on_held_out": tally(judge) })
        };
        self.attributes().map(one).collect()
    }

    /// Sheets of pairs, a drawn picture at the left and the nearest training picture at its right, with
    /// their names: the first pictures, and those that are most like copies.
    ///
    /// # Errors
    /// The sheet cannot be drawn.
    pub fn sheets(&self) -> Result<[(&'static str, Picture); 2], PictureError> {
        let nearest = &self.evaluation.nearest;
        let mut copies: Vec<usize> = (0..nearest.len()).collect();
        copies.sort_by(|&a, &b| nearest[a].relative.total_cmp(&nearest[b].relative));
        let first = self.sheet("the first pictures", (0..nearest.len()).collect())?;
        let copies = self.sheet("the nearest to a copy", copies)?;
        Ok([("samples", first), ("nearest", copies)])
    }

    fn sheet(&self, what: &str, mut which: Vec<usize>) -> Result<Picture, PictureError> {
        which.truncate(PAIRS[0]);
        let data = self.evaluator.data();
        let size = data.size() as usize;
        let mut pictures = Vec::new();
        for i in which {
            let drawn = &self.evaluation.pictures[3 * size * size * i..][..3 * size * size];
            let Nearest {
                picture,
                mirrored: turned,
                ..
            } = self.evaluation.nearest[i];
            let near = data.image(picture);
            let near = match turned {
                true => mirrored(near, size),
                false => near.to_vec(),
            };
            pictures.push(Picture::from_rgb(size, size, drawn.to_vec())?);
            pictures.push(Picture::from_rgb(size, size, near)?);
        }
        let mut sheet = Sheet::new(2 * PAIRS[1], size);
        sheet.title = Some(format!("{}: {what}", self.title()));
        let captions = ["drawn", "nearest in training"].map(String::from);
        sheet.column_captions = captions
            .iter()
            .cycle()
            .take(2 * PAIRS[1])
            .cloned()
            .collect();
        sheet.render(&pictures)
    }

    /// The page; `sheets` are the PNG files of [`EvaluationReport::sheets`].
    pub fn html(&self, sheets: &[Vec<u8>]) -> String {
        let mut body = format!(
            "<header>\n<h1>Evaluation</h1>\n<p>{}</p>\n</header>\n<section>\n<h2>Numbers</h2>\n",
            escape(&self.title())
        );
        let rows = self.rows().into_iter().map(Vec::from);
        body.push_str(&table("eval", &["", "drawn", "real pictures"], rows));
        let _ = write!(
            body,
            "<p class=\"soft\">{}</p>\n</section>\n",
            escape(&self.legend())
        );
        body.push_str("<section>\n<h2>Beside the nearest training picture</h2>\n");
        for sheet in sheets {
            let address = png_address(sheet);
            let _ = writeln!(
                body,
                "<div class=\"page\"><img src=\"{address}\" alt=\"drawn pictures, each beside the nearest training picture\"/></div>"
            );
        }
        body.push_str("</section>\n<section>\n<h2>Attributes</h2>\n");
        let row = |(name, drawn, judge): (&String, &Tally, &Tally)| {
            vec![
                name.clone(),
                percent(drawn.accuracy()),
                percent(judge.accuracy()),
                format!("{} ({})", optional(drawn.on_share()), drawn.on),
                optional(judge.on_share()),
                format!("{} ({})", optional(drawn.off_share()), drawn.off),
                optional(judge.off_share()),
                percent(judge.base()),
            ]
        };
        body.push_str(&table("eval", &ATTRIBUTE_HEAD, self.attributes().map(row)));
        body.push_str("<p class=\"soft\">Share of drawn pictures in which the classifier sees the attribute as it was asked for, and the share of held-out pictures in which it names it right: no denoiser can be told to be better than that. In brackets: pictures asked.</p>\n</section>\n");
        page(&format!("Evaluation of {}", self.network), &body)
    }
}

const ATTRIBUTE_HEAD: [&str; 8] = [
    "",
    "drawn",
    "classifier on real",
    "asked for on",
    "classifier",
    "asked for off",
    "classifier",
    "commoner value",
];

/// Rows of likeness.
type Of = fn(&Likeness) -> f64;
const LIKENESS: [(&str, Of); 5] = [
    (FRECHET, |l| l.frechet),
    ("  precision", |l| l.overlap.precision),
    ("  recall", |l| l.overlap.recall),
    ("  density", |l| l.overlap.density),
    ("  coverage", |l| l.overlap.coverage),
];

fn likeness_json(likeness: &Likeness) -> Value {
    json!({
        "frechet_distance_in_gmmk_classifier_features": likeness.frechet,
        "precision": likeness.overlap.precision,
        "recall": likeness.overlap.recall,
        "density": likeness.overlap.density,
        "coverage": likeness.overlap.coverage,
    })
}

fn compared_json(compared: &Compared) -> Value {
    json!({
        "quantiles": ["min", "5 %", "median", "95 %", "max"],
        "drawn": compared.drawn,
        "held_out": compared.held_out,
        "nearer_than_held_out": compared.nearer,
        "nearer_than_99_percent_of_held_out": compared.near_copies,
    })
}

fn nearest_json(nearest: &Nearest) -> Value {
    json!({
        "picture": nearest.picture,
        "mirrored": nearest.mirrored,
        "distance": nearest.distance,
        "relative": nearest.relative,
    })
}
