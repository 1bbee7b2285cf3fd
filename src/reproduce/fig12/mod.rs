//! Figure 12: NGMG entropy against binary cross-entropy as losses of a classifier of 40 attributes. Every
//! loss gets the same network, the same seeds and the same choice of rates; none is handicapped.

mod examples;
mod pca;
mod perceptron;
mod picture;
mod study;
mod training;

pub use study::StudyError;

use super::seeds::{Difference, mean_and_deviation};
use super::{Context, Finding, Report, ReproduceError, Scale, Verdict};
use examples::{ATTRIBUTES, Examples};
use serde_json::{Value, json};
use study::{Chosen, EQUAL_RATE, Group, Scope};

/// The same experiment in numpy, float64: name, error on real faces, error on synthetic attributes.
const NUMPY: [(&str, f64, f64); 8] = [
    ("bce", 3.989, 3.8257),
    ("gated, floor 1", 3.988, 3.8261),
    ("gated, floor 0", 4.003, 3.8312),
    ("two_sided", 5.88, 5.89),
    ("literal", 7.4, 9.06),
    ("softmax", 0.1200, 0.1241),
    ("softmax cross-entropy", 0.0755, 0.0575),
    ("bce, divided by its sum", 0.0698, 0.0566),
];

/// Trains every loss, draws `fig12.png`, and reports the errors: on CelebA where it is found, otherwise on
/// synthetic attributes.
///
/// # Errors
/// The data cannot be read; the picture cannot be written.
pub fn run(context: &mut Context<'_>) -> Result<Report, ReproduceError> {
    let real = examples::find_celeba(context.data.as_deref())?;
    let quick = context.scale == Scale::Quick;
    let scope = Scope {
        seeds: if quick { 3 } else { 5 },
        hidden: 64,
        steps: if real.is_some() { 1200 } else { 1500 },
        sgd_steps: 400,
        rates: vec![3e-4, 1e-3, 3e-3, 1e-2, 3e-2],
    };
    let examples = match &real {
        Some(packed) => {
            context.progress.say("principal components of the faces");
            let most = if quick {
                [20_000, 2000, 4000]
            } else {
                [usize::MAX; 3]
            };
            examples::celeba(packed, most, context.seed)
        }
        None => {
            context
                .progress
                .say("no CelebA in --data, $GMMK_DATA or ./data: synthetic attributes");
            examples::synthetic(context.seed, [20_000, 2000, 4000])
        }
    };
    report(context, &scope, &examples)
}

fn report(
    context: &mut Context<'_>,
    scope: &Scope,
    examples: &Examples,
) -> Result<Report, ReproduceError> {
    let (seed, threads) = (context.seed, context.device.pool.threads());
    let progress = &mut *context.progress;
    let chosen = scope.run(examples, seed, threads, |done, all| {
        progress.at(done as u64, all as u64, "classifiers");
    })?;
    let marginals = examples.of_marginals();
    let figure = picture::draw(&chosen, &examples.source, marginals);
    let picture = context.save_figure("fig12", &figure)?;
    Ok(Report {
        name: "fig12".into(),
        title: "NGMG entropy against binary cross-entropy".into(),
        settings: json!({
            "data": examples.source,
            "examples": {
                "train": examples.train.len(),
                "validation": examples.validation.len(),
                "test": examples.test.len(),
            },
            "seeds": scope.seeds,
            "hidden": scope.hidden,
            "adam": { "steps": scope.steps, "batch": 64, "rates": scope.rates },
            "descent": { "steps": scope.sgd_steps, "batch": 16, "equal_rate": EQUAL_RATE },
            "chosen_by": "smallest mean validation error over the seeds: rate, and step of each network",
        }),
        findings: findings(&chosen),
        numbers: numbers(&chosen, examples, marginals),
        pictures: vec![picture],
        ..Report::default()
    })
}

fn find<'a>(chosen: &'a [Chosen], name: &str) -> Option<&'a Chosen> {
    chosen.iter().find(|c| c.entry.name == name)
}

fn findings(chosen: &[Chosen]) -> Vec<Finding> {
    let tuned = "every rate chosen on validation data";
    let comparisons = [
        ("gated, floor 1", "bce", format!("NGMG entropy (gated, floor 1) beats BCE, {tuned}")),
        ("gated, floor 0", "bce", format!("NGMG entropy (gated, floor 0) beats BCE, {tuned}")),
        ("two_sided", "bce", format!("NGMG entropy (two-sided) beats BCE, {tuned}")),
        ("literal", "bce", format!("NGMG entropy as printed beats BCE, {tuned}")),
        (
            "softmax",
            "softmax cross-entropy",
            format!("NGMG entropy of a softmax beats its cross-entropy, in shares, {tuned}"),
        ),
        (
            "gated, floor 0, equal rate",
            "bce, equal rate",
            "With one equal untuned rate of plain descent the unnormalised NGMG loss is ahead of BCE".into(),
        ),
        (
            "gated, floor 0, chosen rate",
            "bce, chosen rate",
            "It is still ahead in plain descent when each rate is chosen".into(),
        ),
    ];
    let finding = |(ours, theirs, claim): (&str, &str, String)| {
        let [a, b] = [find(chosen, ours)?, find(chosen, theirs)?];
        let difference = Difference::of(&a.test_errors(), &b.test_errors());
        let (verdict, words) = match difference.sign() {
            -1 => (Verdict::Holds, "lower"),
            1 => (Verdict::Fails, "higher"),
            _ => (Verdict::Unclear, "a tie within the spread of the seeds"),
        };
        Some(Finding {
            claim,
            verdict,
            evidence: format!(
                "squared error {} against {}: {:+.4} +- {:.4} (paired over {} seeds, standard error {:.4}, 95 % \
                 interval), {words}.{}",
                spread(a),
                spread(b),
                difference.mean,
                difference.half_width,
                a.curves.len(),
                difference.error,
                match ours {
                    "gated, floor 0, equal rate" =>
                        " A step-size effect: its gradient is several times larger at the same rate.",
                    _ => "",
                },
            ),
        })
    };
    comparisons.into_iter().filter_map(finding).collect()
}

/// "3.8257 +- 0.0029": mean and deviation of the test errors.
fn spread(chosen: &Chosen) -> String {
    let [mean, deviation] = mean_and_deviation(&chosen.test_errors());
    format!("{mean:.4} +- {deviation:.4}")
}

fn numbers(chosen: &[Chosen], examples: &Examples, marginals: f64) -> Value {
    let real = examples.bayes.is_none();
    let rows: Vec<Value> = chosen.iter().map(|c| row(chosen, c, real)).collect();
    json!({
        "losses": rows,
        "error_of_marginals": marginals,
        "error_of_true_probabilities": examples.bayes,
        "numpy": if real {
            "the same experiment in numpy, float64, on 8,002 CelebA faces, test persons disjoint"
        } else {
            "the same experiment in numpy, float64, with other loadings: error of the true probabilities 3.794"
        },
    })
}

fn row(chosen: &[Chosen], c: &Chosen, real: bool) -> Value {
    let errors = c.test_errors();
    let [mean, deviation] = mean_and_deviation(&errors);
    let (comparison, rival) = match c.entry.group {
        Group::Tuned => ("each rate chosen", "bce"),
        Group::Shares => ("shares", "softmax cross-entropy"),
        Group::EqualRate if c.entry.rates.len() == 1 => ("equal rate", "bce, equal rate"),
        Group::EqualRate => ("plain descent, each rate chosen", "bce, chosen rate"),
    };
    let against = find(chosen, rival).filter(|rival| rival.entry.name != c.entry.name);
    let against = against.map(|rival| {
        let d = Difference::of(&errors, &rival.test_errors());
        json!({
            "loss": rival.entry.name,
            "difference": d.mean,
            "standard_error": d.error,
            "half_width_95": d.half_width,
        })
    });
    let ends: Vec<f64> = c.curves.iter().map(|c| c.end().1[1]).collect();
    // Descent's rates are those of the loss summed over the attributes.
    let per = match c.entry.group {
        Group::EqualRate => ATTRIBUTES as f64,
        _ => 1.0,
    };
    let numpy = NUMPY.iter().find(|(name, ..)| *name == c.entry.name);
    let numpy = numpy.map(|&(_, on_faces, synthetic)| if real { on_faces } else { synthetic });
    json!({
        "comparison": comparison,
        "loss": c.entry.name,
        "rate": c.rate / per,
        "rate_at_the_edge_of_the_grid": c.at_the_edge(),
        "test_error": mean,
        "deviation": deviation,
        "test_error_by_seed": errors,
        "stopped_at_step": c.curves.iter().map(|c| c.best().0).collect::<Vec<_>>(),
        "test_error_at_the_end": mean_and_deviation(&ends)[0],
        "against": against,
        "numpy": numpy,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::pool::Pool;
    use crate::reproduce::Progress;
    use std::sync::Arc;

    struct Silent;

    impl Progress for Silent {
        fn say(&mut self, _: &str) {}
        fn at(&mut self, _: u64, _: u64, _: &str) {}
    }

    #[test]
    fn every_loss_is_reported_and_threads_change_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let scope = Scope {
            seeds: 2,
            hidden: 8,
            steps: 30,
            sgd_steps: 20,
            rates: vec![3e-3, 3e-2],
        };
        let examples = examples::synthetic(1, [400, 100, 100]);
        let [one, three] = [1, 3].map(|threads| {
            let mut silent = Silent;
            let mut context = Context {
                out: folder.path().to_path_buf(),
                scale: Scale::Quick,
                seed: 3,
                device: Arc::new(Pool::new(threads).unwrap()).into(),
                data: None,
                progress: &mut silent,
            };
            report(&mut context, &scope, &examples).unwrap()
        });
        assert_eq!(one.numbers, three.numbers);
        assert_eq!(one.findings, three.findings);
        assert_eq!(one.findings.len(), 7);
        assert_eq!(one.numbers["losses"].as_array().unwrap().len(), 12);
        assert!(folder.path().join(&one.pictures[0]).exists());
    }
}
