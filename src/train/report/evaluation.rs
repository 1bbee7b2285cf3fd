//! Charts of what was evaluated along with a run.

use super::{chart, line, scaled};
use crate::report::html::Chart;
use crate::train::runs::Run;

/// Charts of attributes, likeness and near copies; empty where nothing was evaluated.
pub fn charts(run: &Run) -> [Chart; 4] {
    let percent = |name: &str| scaled(run, &format!("eval/{name}"), 100.0);
    let plain = |name: &str| scaled(run, &format!("eval/{name}"), 1.0);
    let agreement = Chart {
        series: vec![
            line("as asked for", "c0", percent("agreement")),
            line(
                "as asked for another picture",
                "c1",
                percent("agreement_unrelated"),
            ),
            line(
                "the classifier on real pictures",
                "c2",
                percent("judge_accuracy"),
            ),
        ],
        ..chart(
            "Attributes in drawn pictures",
            "per cent seen by the attribute classifier",
        )
    };
    let overlap = Chart {
        series: vec![
            line("precision", "c0", plain("precision")),
            line("recall", "c1", plain("recall")),
            line("coverage", "c2", plain("coverage")),
        ],
        ..chart(
            "Precision, recall and coverage",
            "in gmmk classifier features, against held-out pictures",
        )
    };
    let frechet = Chart {
        log_y: true,
        series: vec![line("drawn", "c0", plain("frechet_gmmk_features"))],
        ..chart(
            "Fr\u{e9}chet distance in gmmk classifier features",
            "drawn to held-out pictures; no FID",
        )
    };
    let copies = Chart {
        series: vec![line("drawn", "c0", percent("near_copies"))],
        ..chart(
            "Near copies of training pictures",
            "per cent nearer than 99 % of held-out pictures: 1 where they do not differ",
        )
    };
    [agreement, frechet, overlap, copies]
}
