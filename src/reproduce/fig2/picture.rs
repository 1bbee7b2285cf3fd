//! The figure: samples of every condition, bars of defects and losses.

use super::study::Study;
use super::toy::{BLOBS, Condition, Verdict, centre, point};
use crate::gmm::latent::LatentKind;
use crate::report::figure::{Figure, Mark, Panel, Shape};
use crate::reproduce::seeds::mean_and_deviation;

const GOOD: usize = 0;
const BAD: usize = 1;
const WRONG: usize = 3;
const CENTRE: usize = 7;
const LATENTS: [(LatentKind, &str, usize, f64); 2] = [
    (LatentKind::Fixed, "every point owns its Z", 2, -0.2),
    (LatentKind::Fresh, "a new Z at every visit", 5, 0.2),
];

/// Draws the study; the scatter shows the models of the first seed with fixed Z.
pub fn draw(study: &Study) -> Figure {
    let mut panels = vec![training_data(study)];
    panels.extend(Condition::ALL.map(|condition| scatter(study, condition)));
    panels.push(bars(
        study,
        "samples in no blob, %",
        |study, condition, latent| {
            let defects = study.defects(condition, latent);
            defects.iter().map(|share| 100.0 * share).collect()
        },
    ));
    panels.push(bars(study, "training loss", |study, condition, latent| {
        let outcomes = study.of(condition, latent);
        outcomes.iter().map(|o| o.loss).collect()
    }));
    let seeds = study.of(Condition::None, LatentKind::Fixed).len();
    Figure {
        title: "Fig. 2: sets as conditions, measured by the samples outside the support".into(),
        caption: format!(
            "Sixteen blobs; the network is told nothing (none), the quadrant (class4), two bits of the \
             column and two of the row (feat4), column and row one-hot (feat8), or the blob one-hot \
             (class16). Features are overlapping sets; classes are disjoint, and class16 tells as much as \
             either kind of features. Defects (vermillion) are samples farther than 4 deviations from every \
             centre; blue samples lie in a blob that the condition allows, purple ones in another. Black: \
             centres. Scatter: first seed, every point owns its Z. Bars: means over {seeds} seeds; dots: single \
             seeds."
        ),
        columns: 4,
        panel_size: [330, 330],
        panels,
    }
}

fn square(title: String, marks: Vec<Mark>) -> Panel {
    Panel {
        title,
        x_range: Some([-1.1, 1.1]),
        y_range: Some([-1.1, 1.1]),
        marks,
        ..Panel::default()
    }
}

fn dots(name: &str, colour: usize, radius: u32, points: Vec<[f64; 2]>) -> Mark {
    Mark {
        name: name.into(),
        colour,
        shape: Shape::Points { points, radius },
    }
}

fn centres() -> Mark {
    let points = (0..BLOBS).map(|blob| centre(blob).map(f64::from));
    dots("centre", CENTRE, 3, points.collect())
}

fn training_data(study: &Study) -> Panel {
    let Some((recipe, _)) = study.runs.first() else {
        return Panel::default();
    };
    let points = (0..recipe.points as u64).map(|i| point(recipe.seed, i).0.map(f64::from));
    let marks = vec![dots("point", GOOD, 1, points.collect()), centres()];
    square(format!("{} training points", recipe.points), marks)
}

fn scatter(study: &Study, condition: Condition) -> Panel {
    let outcomes = study.of(condition, LatentKind::Fixed);
    let Some(outcome) = outcomes.first() else {
        return Panel::default();
    };
    let kinds = [
        (Verdict::Right, "in an allowed blob", GOOD),
        (Verdict::WrongBlob, "in another blob", WRONG),
        (Verdict::Defect, "defect", BAD),
    ];
    let mut marks: Vec<Mark> = kinds
        .into_iter()
        .map(|(verdict, name, colour)| {
            let found = outcome.samples.iter().filter(|(_, v)| *v == verdict);
            let points = found.map(|(x, _)| x.map(f64::from)).collect();
            dots(name, colour, 1, points)
        })
        .collect();
    marks.push(centres());
    let share = 100.0 * outcome.share(Verdict::Defect);
    square(format!("{}: {share:.1} % defects", condition.name()), marks)
}

fn bars(
    study: &Study,
    y_label: &str,
    values: impl Fn(&Study, Condition, LatentKind) -> Vec<f64>,
) -> Panel {
    let mut marks = Vec::new();
    let mut singles = Vec::new();
    for (latent, name, colour, shift) in LATENTS {
        let mut points = Vec::new();
        for (place, condition) in Condition::ALL.into_iter().enumerate() {
            let values = values(study, condition, latent);
            let x = place as f64 + shift;
            points.push([x, mean_and_deviation(&values)[0]]);
            singles.extend(values.into_iter().map(|value| [x, value]));
        }
        marks.push(Mark {
            name: name.into(),
            colour,
            shape: Shape::Bars {
                points,
                width: 0.36,
            },
        });
    }
    marks.push(dots("", CENTRE, 2, singles));
    Panel {
        title: y_label.into(),
        categories: Condition::ALL.map(|c| c.name().to_owned()).to_vec(),
        legend: true,
        marks,
        ..Panel::default()
    }
}
