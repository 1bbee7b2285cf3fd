//! DPM-Solver++ 2M against diffusers' DPMSolverMultistepScheduler (`tools/reference-dpm.py`): every vector of
//! a walk with the exact denoiser of normal distributions.

use gmmk::diffusion::Real;
use gmmk::diffusion::sampler::{Sampler, SamplerPlan, SamplerStep};
use gmmk::diffusion::schedule::Schedule;
use serde::Deserialize;

#[derive(Deserialize)]
struct Document {
    means: Vec<f64>,
    deviations: Vec<f64>,
    cases: Vec<Case>,
    lu: Vec<Lu>,
}

/// A walk: `x[i]` is what step `t[i]` begins with, and the last one the end.
#[derive(Deserialize)]
struct Case {
    schedule: String,
    spacing: String,
    clip: bool,
    t: Vec<u32>,
    x: Vec<Vec<f64>>,
}

/// diffusers' own steps even in lambda.
#[derive(Deserialize)]
struct Lu {
    schedule: String,
    t: Vec<u32>,
    lambda: Vec<f64>,
}

fn document() -> Document {
    serde_json::from_str(include_str!("dpm.json")).expect("dpm.json is of this form")
}

fn schedule(text: &str) -> Schedule {
    Schedule::new(text.parse().expect("a schedule")).expect("a sound one")
}

fn lambda(schedule: &Schedule, t: u32) -> f64 {
    let ab = schedule.alpha_bar()[t as usize];
    (ab.sqrt() / (1.0 - ab).sqrt()).ln()
}

impl Case {
    fn clip(&self) -> Option<f64> {
        self.clip.then_some(1.0)
    }

    fn plan(&self, schedule: &Schedule, sampler: Sampler) -> SamplerPlan {
        let path: Vec<u32> = self.t.iter().rev().copied().collect();
        SamplerPlan::along(schedule, sampler, &path, self.clip()).expect("a path")
    }
}

/// Relative error that two ways of computing a step's coefficients may differ by, one unit in the last place
/// being `unit`. ab_t is a product of t factors; what an error of it does to sqrt(1 - ab_t) grows with ab / (1 -
/// ab), and what errors of lambda do to e^-h - 1 and to h / h_last with 1 / h.
fn coefficients(schedule: &Schedule, [last, t, to]: [Option<u32>; 3], unit: f64) -> f64 {
    let table = [last, t, to].into_iter().flatten();
    let table = table.map(|t| unit * (f64::from(t) * (1.0 + schedule.snr(t).unwrap_or(0.0)) + 8.0));
    let gaps = [(last, t), (t, to)].into_iter().filter_map(|(a, b)| {
        let (a, b) = a.zip(b.filter(|&b| b > 0))?;
        Some(1.0 / (lambda(schedule, b) - lambda(schedule, a)))
    });
    table.fold(0.0, f64::max) * (2.0 + gaps.sum::<f64>())
}

/// One element of a walk in `F`: its distance from `case` at every step, with the most that rounding explains.
/// `unit`: of the arithmetic; `tables`: of the coefficients.
fn walk<F: Real + Into<f64>>(
    (case, plan, schedule): (&Case, &SamplerPlan, &Schedule),
    (element, mean, variance): (usize, f64, f64),
    [unit, tables]: [f64; 2],
) -> Vec<[f64; 2]> {
    let wanted = |i: usize| case.x[i][element];
    let mut x = F::from_f64(wanted(0));
    let (mut last, mut before) = (F::from_f64(0.0), None);
    // Errors so far, of x and of the estimate before.
    let (mut error, mut error_last) = (unit * wanted(0).abs(), 0.0);
    let mut out = Vec::new();
    for (i, step) in plan.steps().iter().enumerate() {
        let SamplerStep { t, t_prev, .. } = *step;
        let ab = schedule.alpha_bar()[t as usize];
        let (signal, noise) = (ab.sqrt(), (1.0 - ab).sqrt());
        let at: f64 = x.into();
        let per = noise / (ab * variance + 1.0 - ab);
        let eps = F::from_f64(per * (at - signal * mean));
        let terms = |parts: [f64; 3]| parts.iter().map(|p| p.abs()).sum::<f64>();
        let part = 6.0 * unit + coefficients(schedule, [before, Some(t), Some(t_prev)], tables);
        // eps is a difference too.
        let eps_terms = per * (at.abs() + signal * mean.abs());
        let x0_terms = terms([step.x0_from_x * at, step.x0_from_eps * eps_terms, 0.0]);
        let slope = signal * variance / (ab * variance + 1.0 - ab);
        let error_x0 = slope * error + part * x0_terms;
        let (x0, prev) = step.element(case.clip(), x, eps, [F::from_f64(0.0), last]);
        let by = [step.prev_from_x0, step.prev_from_x, step.prev_from_last];
        let local = part * terms([by[0] * x0.into(), by[1] * at, by[2] * last.into()]);
        error = terms([by[0] * error_x0, by[1] * error, by[2] * error_last]) + local;
        (x, last, before, error_last) = (prev, x0, Some(t), error_x0);
        out.push([(x.into() - wanted(i + 1)).abs(), error]);
    }
    out
}

/// Both precisions of a case: all distances and bounds.
fn walks(document: &Document, case: &Case, sampler: Sampler) -> [Vec<[f64; 2]>; 2] {
    let schedule = schedule(&case.schedule);
    let plan = case.plan(&schedule, sampler);
    let mut out = [Vec::new(), Vec::new()];
    let data = document.means.iter().zip(&document.deviations).enumerate();
    for (element, (&mean, &deviation)) in data {
        let (what, of) = (
            (case, &plan, &schedule),
            (element, mean, deviation * deviation),
        );
        // Ours and theirs; our coefficients are f64 in both.
        let wide = f64::EPSILON;
        out[0].extend(walk::<f64>(what, of, [wide, wide]));
        out[1].extend(walk::<f32>(what, of, [f32::EPSILON.into(), wide]));
    }
    out
}

#[test]
fn dpm_walks_as_diffusers_does() {
    let document = document();
    assert_eq!(document.cases.len(), 16);
    for case in &document.cases {
        let name = format!(
            "{} {} {} {}",
            case.schedule,
            case.spacing,
            case.t.len(),
            case.clip
        );
        if case.spacing == "lambda" {
            let schedule = schedule(&case.schedule);
            let count = case.t.len() as u32;
            let plan = SamplerPlan::new(&schedule, Sampler::DpmSolver2M, count, case.clip());
            let t: Vec<u32> = plan.unwrap().steps().iter().map(|step| step.t).collect();
            assert_eq!(t, case.t, "{name}");
        }
        for (kind, walked) in
            ["f64", "f32"]
                .iter()
                .zip(walks(&document, case, Sampler::DpmSolver2M))
        {
            assert_eq!(walked.len(), 4 * case.t.len());
            let worst = |of: usize| walked.iter().map(|pair| pair[of]).fold(0.0, f64::max);
            println!(
                "{name} {kind}: {:.1e} apart, {:.1e} allowed",
                worst(0),
                worst(1)
            );
            for (i, [apart, most]) in walked.iter().enumerate() {
                assert!(
                    apart <= most,
                    "{name} {kind} number {i}: {apart:e}, not {most:e}"
                );
            }
        }
    }
}

/// The bounds tell DPM-Solver++ 2M from its relative of first order, which DDIM is, by every element of every
/// case in both precisions: the first step is the same, and between it and the last the walk leaves them far behind.
#[test]
fn the_bounds_tell_second_order_from_first() {
    let document = document();
    for case in &document.cases {
        for walked in walks(&document, case, Sampler::default()) {
            for element in walked.chunks_exact(case.t.len()) {
                let [apart, most] = element[0];
                assert!(apart <= most, "the first step: {apart:e}, not {most:e}");
                let middle = &element[1..case.t.len() - 1];
                let farthest = middle.iter().map(|[apart, most]| apart / most);
                let farthest = farthest.fold(0.0, f64::max);
                assert!(farthest > 10.0, "{} {middle:?}", case.schedule);
            }
        }
    }
}

/// diffusers' `use_lu_lambdas` asks for the same even steps. It takes lambda itself there, off the schedule's own,
/// and calls the network with the nearest t, twice with the same where steps are close. We take
/// the lambda of that t, and no t twice.
#[test]
fn steps_even_in_lambda_are_diffusers_where_those_differ() {
    let mut same = 0;
    for lu in document().lu {
        let schedule = schedule(&lu.schedule);
        let count = lu.t.len();
        let plan = SamplerPlan::new(&schedule, Sampler::DpmSolver2M, count as u32, None).unwrap();
        let t: Vec<u32> = plan.steps().iter().map(|step| step.t).collect();
        let off = |i: usize| (lambda(&schedule, lu.t[i]) - lu.lambda[i]).abs();
        let most = (0..count).map(off).fold(0.0, f64::max);
        assert!((1e-3..0.5).contains(&most), "{}: {most}", lu.schedule);
        if lu.t.windows(2).all(|pair| pair[0] > pair[1]) {
            assert_eq!(t, lu.t, "{} {count}", lu.schedule);
            same += 1;
        } else {
            assert_eq!((lu.schedule.as_str(), count), ("constant:0.06:100", 25));
            assert_eq!(lu.t[21..], [3, 2, 2, 1]);
            assert_eq!(t[21..], [4, 3, 2, 1]);
        }
    }
    assert_eq!(same, 3);
}
