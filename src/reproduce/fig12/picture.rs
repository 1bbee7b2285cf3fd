//! The figure: errors as the networks learn, for chosen rates, for one equal rate, and in shares.

use super::study::{Chosen, EQUAL_RATE, Group};
use crate::report::figure::{Figure, Mark, Panel, Shape};

/// Draws the three comparisons. `source` says what was learnt; `marginals` is the error of a prediction
/// that knows only the attributes' frequencies.
pub fn draw(chosen: &[Chosen], source: &str, marginals: f64) -> Figure {
    let of = |group| chosen.iter().filter(move |c| c.entry.group == group);
    let seeds = chosen.first().map_or(0, |c| c.curves.len());
    let errors = "squared error per face over 40 attributes";
    Figure {
        title: "Fig. 12: NGMG entropy against binary cross-entropy".into(),
        caption: format!(
            "Data: {source}. Lines are means over {seeds} seeds on test examples, bands reach from the \
             lowest to the highest seed. Left: Adam; every loss has its own rate, chosen on validation \
             examples from the same grid. Middle: plain descent with one untuned rate ({EQUAL_RATE}) for \
             both losses, and dashed with chosen rates. With an unnormalised kernel and the same rate the \
             NGMG loss only takes larger steps: a step-size effect, gone once each rate is chosen. Right: \
             predictions that add up to 1 against y divided by its sum: other units, not to be compared \
             with the other panels. The grey line is a prediction of frequencies alone."
        ),
        columns: 3,
        panel_size: [430, 380],
        panels: vec![
            panel(
                "each rate chosen",
                errors,
                of(Group::Tuned),
                Some(marginals),
            ),
            panel(
                "one equal, untuned rate",
                errors,
                of(Group::EqualRate),
                Some(marginals),
            ),
            panel(
                "other units: shares",
                "squared error per face of shares",
                of(Group::Shares),
                None,
            ),
        ],
    }
}

fn panel<'a>(
    title: &str,
    y_label: &str,
    chosen: impl Iterator<Item = &'a Chosen>,
    marginals: Option<f64>,
) -> Panel {
    let mut marks = Vec::new();
    let mut lines = Vec::new();
    for (number, c) in chosen.enumerate() {
        let single = c.entry.rates.len() == 1;
        let dashed = c.entry.group == Group::EqualRate && !single;
        // A chosen rate has the colour of the equal one.
        let colour = if dashed { number - 2 } else { number };
        let band = c.band();
        if !dashed {
            let shape = Shape::Band(band.iter().map(|&(x, [_, l, h])| [x, l, h]).collect());
            let name = String::new();
            marks.push(Mark {
                name,
                colour,
                shape,
            });
        }
        let line = band.iter().map(|&(x, [mean, ..])| [x, mean]).collect();
        let shape = match dashed {
            true => Shape::Dashed(line),
            false => Shape::Line(line),
        };
        let name = c.entry.name.into();
        lines.push(Mark {
            name,
            colour,
            shape,
        });
    }
    marks.extend(lines);
    marks.extend(marginals.map(|level| Mark {
        name: "frequencies alone".into(),
        colour: 6,
        shape: Shape::Level(level),
    }));
    Panel {
        title: title.into(),
        x_label: "step".into(),
        y_label: y_label.into(),
        log_y: true,
        legend: true,
        marks,
        ..Panel::default()
    }
}
