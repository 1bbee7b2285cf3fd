//! Figure 2 and Eq. 7 as a defect rate: do overlapping features leave fewer samples outside the support
//! than classes do? As printed the argument compares cardinalities of continua, which are all equal; what
//! can be tested is P(sample outside the support | condition), with classes that tell as much as the
//! features as a control.

mod diffusion;
mod picture;
mod study;
mod toy;

pub use diffusion::ToyError;

use super::seeds::mean_and_deviation;
use super::{Context, Finding, Report, ReproduceError, Scale, Verdict, workers};
use crate::gmm::latent::LatentKind;
use diffusion::{Outcome, SCHEDULE};
use serde_json::{Value, json};
use study::{Comparison, NUMPY, Settings, Study};
use toy::Condition;

const FEATURES: [Condition; 2] = [Condition::Feat4, Condition::Feat8];
const LATENTS: [LatentKind; 2] = [LatentKind::Fixed, LatentKind::Fresh];

/// Trains a small diffusion model for every condition, kind of latent and seed, draws `fig2.png`, and
/// reports the defect rates.
///
/// # Errors
/// Not enough memory; the picture cannot be written.
pub fn run(context: &mut Context<'_>) -> Result<Report, ReproduceError> {
    let settings = Settings {
        seeds: match context.scale {
            Scale::Quick => 2,
            Scale::Full => 8,
        },
        points: 2000,
        steps: 3000,
        batch: 256,
        samples: 4000,
    };
    report(context, settings)
}

fn report(context: &mut Context<'_>, settings: Settings) -> Result<Report, ReproduceError> {
    let recipes = settings.recipes(context.seed);
    let (threads, count) = (context.device.pool.threads(), recipes.len());
    let progress = &mut *context.progress;
    let outcomes = workers::each(
        threads,
        count,
        |number, pool| recipes[number].run(pool),
        |done| progress.at(done as u64, count as u64, "toy models"),
    )?;
    let outcomes = outcomes.into_iter().collect::<Result<Vec<_>, ToyError>>()?;
    let runs = recipes.into_iter().zip(outcomes).collect();
    let study = Study { runs };
    let picture = context.save_figure("fig2", &picture::draw(&study))?;
    Ok(Report {
        name: "fig2".into(),
        title: "Sets as conditions: share of samples outside the support".into(),
        settings: json!({
            "blobs": toy::BLOBS,
            "defect_beyond": toy::REACH,
            "seeds": settings.seeds,
            "points": settings.points,
            "steps": settings.steps,
            "batch": settings.batch,
            "samples": settings.samples,
            "network": diffusion::NETWORK,
            "schedule": SCHEDULE.to_string(),
            "sampler": "ddim",
        }),
        findings: findings(&study),
        numbers: numbers(&study),
        pictures: vec![picture],
        ..Report::default()
    })
}

fn findings(study: &Study) -> Vec<Finding> {
    let finding = |claim: &str, classes: Condition, meaning: [&str; 2]| {
        let comparison = study.compare(&FEATURES, classes);
        let verdict = verdict(comparison);
        let [holds, fails] = meaning;
        let means = match verdict {
            Verdict::Holds => holds,
            Verdict::Fails => fails,
            Verdict::Unclear => "No clear difference.",
        };
        let Comparison { pairs, fewer, more } = comparison;
        Finding {
            claim: claim.into(),
            verdict,
            evidence: format!(
                "{}; {}. Of {pairs} pairs of models with the same seed and kind of latent the features have \
                 fewer defects in {fewer}, more in {more} (beyond two standard errors of the samples). {means}",
                rates(study, classes),
                FEATURES.map(|f| rates(study, f)).join(", "),
            ),
        }
    };
    vec![
        finding(
            "Conditions of overlapping features leave fewer defects than coarse classes",
            Condition::Class4,
            [
                "But the features also tell more about a point than these classes do.",
                "Overlap does not help here.",
            ],
        ),
        finding(
            "Conditions of overlapping features leave fewer defects than disjoint classes that tell as much",
            Condition::Class16,
            [
                "Overlap itself helps here.",
                "What matters in this toy is how much the condition tells, not whether its sets overlap: \
                 the paper's explanation of Eq. 7 does not hold.",
            ],
        ),
    ]
}

/// Decided when at least nine of ten pairs agree.
fn verdict(comparison: Comparison) -> Verdict {
    let Comparison { pairs, fewer, more } = comparison;
    if 10 * fewer >= 9 * pairs {
        Verdict::Holds
    } else if 10 * more >= 9 * pairs {
        Verdict::Fails
    } else {
        Verdict::Unclear
    }
}

/// "class4 63.1 % / 61.0 %" with fixed and with fresh Z.
fn rates(study: &Study, condition: Condition) -> String {
    let rates = LATENTS.map(|latent| {
        let [mean, _] = mean_and_deviation(&study.defects(condition, latent));
        format!("{:.1} %", 100.0 * mean)
    });
    format!(
        "{} {} (fixed / fresh Z)",
        condition.name(),
        rates.join(" / ")
    )
}

fn numbers(study: &Study) -> Value {
    let percent = |share: f64| (1e4 * share).round() / 1e2;
    let mut rows = Vec::new();
    for (condition, fixed, fresh, loss) in NUMPY {
        for (latent, numpy) in LATENTS.into_iter().zip([fixed, fresh]) {
            let outcomes = study.of(condition, latent);
            let defects = study.defects(condition, latent);
            let [mean, deviation] = mean_and_deviation(&defects);
            let of = |value: fn(&Outcome) -> f64| {
                let values: Vec<f64> = outcomes.iter().map(|o| value(o)).collect();
                mean_and_deviation(&values)[0]
            };
            rows.push(json!({
                "condition": condition.name(),
                "latent": latent.to_string(),
                "defects_percent": percent(mean),
                "deviation_percent": percent(deviation),
                "defects_percent_by_seed": defects.iter().map(|&d| percent(d)).collect::<Vec<_>>(),
                "wrong_blob_percent": percent(of(|o| o.share(toy::Verdict::WrongBlob))),
                "training_loss": of(|o| o.loss),
                "numpy_defects_percent": numpy,
                "numpy_training_loss": (latent == LatentKind::Fixed).then_some(loss),
            }));
        }
    }
    json!({
        "models": rows,
        "numpy": "the same experiment in numpy, float64, two seeds",
        "note": "without a condition there is no latent: its two rows are the same models",
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

    fn tiny(threads: usize, folder: &std::path::Path) -> Report {
        let settings = Settings {
            seeds: 1,
            points: 200,
            steps: 40,
            batch: 32,
            samples: 50,
        };
        let mut silent = Silent;
        let mut context = Context {
            out: folder.to_path_buf(),
            scale: Scale::Quick,
            seed: 3,
            device: Arc::new(Pool::new(threads).unwrap()).into(),
            data: None,
            progress: &mut silent,
        };
        report(&mut context, settings).unwrap()
    }

    #[test]
    fn numbers_are_functions_of_the_seed_not_of_threads() {
        let folder = tempfile::tempdir().unwrap();
        let [one, three] = [1, 3].map(|threads| tiny(threads, folder.path()));
        assert_eq!(one.numbers, three.numbers);
        assert_eq!(one.findings, three.findings);
        assert_eq!(one.numbers["models"].as_array().unwrap().len(), 10);
        assert!(folder.path().join(&one.pictures[0]).exists());
    }

    #[test]
    fn verdicts_need_nine_of_ten_pairs() {
        let of = |fewer, more| {
            verdict(Comparison {
                pairs: 10,
                fewer,
                more,
            })
        };
        assert_eq!(of(9, 1), Verdict::Holds);
        assert_eq!(of(0, 10), Verdict::Fails);
        assert_eq!(of(8, 2), Verdict::Unclear);
    }
}
