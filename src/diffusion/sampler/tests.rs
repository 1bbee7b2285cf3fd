use super::*;

const ALL: [Sampler; 6] = [
    Sampler::Renoise,
    Sampler::Ddim { eta: 0.0 },
    Sampler::Ddim { eta: 1.0 },
    Sampler::Ddpm,
    Sampler::DdpmLarge,
    Sampler::DpmSolver2M,
];

fn samples(seed: u64, first: u64, elements: usize) -> Samples {
    Samples {
        seed,
        first,
        elements,
    }
}

fn schedule(text: &str) -> Schedule {
    Schedule::new(text.parse().unwrap()).unwrap()
}

#[test]
fn paths_are_even_and_end_at_t() {
    let schedule = schedule("linear:0.0001:0.02:1000");
    for n in [1, 2, 3, 7, 50, 333, 999, 1000] {
        let plan = SamplerPlan::new(&schedule, Sampler::Ddpm, n, None).unwrap();
        let steps = plan.steps();
        assert_eq!(steps.len(), n as usize);
        assert_eq!((steps[0].t, steps[steps.len() - 1].t_prev), (1000, 0));
        for pair in steps.windows(2) {
            assert_eq!(pair[0].t_prev, pair[1].t);
        }
        let gaps = steps.iter().map(|s| s.t - s.t_prev);
        let (low, high) = (gaps.clone().min().unwrap(), gaps.max().unwrap());
        assert!(low >= 1 && high - low <= 1, "{n}: {low}..{high}");
    }
}

/// With the exact denoiser of a point mass every sampler must land on the point, for any path.
#[test]
fn a_known_picture_is_found() {
    let schedule = schedule("constant:0.06:100");
    for sampler in ALL {
        for n in [1, 10, 100] {
            let plan = SamplerPlan::new(&schedule, sampler, n, Some(1.0)).unwrap();
            let target = [0.5_f32, -0.25, 0.125, 0.9, -1.0, 0.0];
            let mut x = vec![0.0; 12];
            plan.start(samples(1, 7, 6), &mut x).unwrap();
            let mut x0 = vec![f32::NAN; 12];
            for (i, step) in plan.steps().iter().enumerate() {
                let ab = schedule.alpha_bar()[step.t as usize] as f32;
                let eps: Vec<f32> = (0..12)
                    .map(|e| (x[e] - ab.sqrt() * target[e % 6]) / (1.0 - ab).sqrt())
                    .collect();
                plan.advance(i, samples(1, 7, 6), &mut x, &eps, Some(&mut x0))
                    .unwrap();
                for e in 0..12 {
                    assert!((x0[e] - target[e % 6]).abs() < 1e-4, "{sampler} {i}");
                }
            }
            for e in 0..12 {
                assert!((x[e] - target[e % 6]).abs() < 1e-4, "{sampler} {n} {x:?}");
            }
        }
    }
}

#[test]
fn a_sample_does_not_depend_on_its_batch() {
    let plan =
        SamplerPlan::new(&schedule("constant:0.06"), Sampler::Renoise, 20, Some(1.0)).unwrap();
    let eps: Vec<f32> = (0..21).map(|e| (e as f32).sin()).collect();
    let mut together = vec![0.0; 21];
    plan.start(samples(5, 3, 7), &mut together).unwrap();
    let alone: Vec<f32> = (0..3)
        .flat_map(|i| {
            let mut x = vec![0.0; 7];
            plan.start(samples(5, 3 + i, 7), &mut x).unwrap();
            let eps = &eps[i as usize * 7..][..7];
            plan.advance(2, samples(5, 3 + i, 7), &mut x, eps, None)
                .unwrap();
            x
        })
        .collect();
    plan.advance(2, samples(5, 3, 7), &mut together, &eps, None)
        .unwrap();
    assert_eq!(together, alone);
}

#[test]
fn nan_is_not_hidden_by_clipping() {
    let plan = SamplerPlan::new(&schedule("constant:0.06"), Sampler::Ddpm, 10, Some(1.0)).unwrap();
    let (x0, prev) = plan.steps()[0].element(Some(1.0), 0.1_f32, f32::NAN, [0.0; 2]);
    assert!(x0.is_nan() && prev.is_nan());
}

#[test]
fn mistakes_are_refused() {
    let s = schedule("constant:0.06");
    let plan = |sampler, n, clip| SamplerPlan::new(&s, sampler, n, clip);
    for n in [0, 101] {
        assert!(matches!(
            plan(Sampler::Ddpm, n, None),
            Err(SamplerError::Steps { .. })
        ));
    }
    for eta in [-0.1, 1.1, f64::NAN] {
        assert!(matches!(
            plan(Sampler::Ddim { eta }, 10, None),
            Err(SamplerError::Eta { .. })
        ));
    }
    for clip in [0.0, -1.0, f64::NAN] {
        assert!(matches!(
            plan(Sampler::Ddpm, 10, Some(clip)),
            Err(SamplerError::Clip { .. })
        ));
    }
    for path in [&[][..], &[0, 100], &[5, 5, 100], &[1, 99], &[1, 101]] {
        assert!(SamplerPlan::along(&s, Sampler::Ddpm, path, None).is_err());
    }
    assert!("ddimm".parse::<Sampler>().is_err());
    let plan = plan(Sampler::Ddpm, 10, None).unwrap();
    let mut x = [0.0; 6];
    let mut go = |step, eps: &[f32], first, per| {
        plan.advance(step, samples(0, first, per), &mut x, eps, None)
            .unwrap_err()
    };
    let error = go(10, &[0.0; 6], 0, 6);
    assert!(matches!(error, SamplerError::StepNumber { .. }));
    assert!(matches!(
        go(0, &[0.0; 5], 0, 6),
        SamplerError::Length { .. }
    ));
    for elements in [4, 0] {
        let error = go(0, &[0.0; 6], 0, elements);
        assert!(matches!(error, SamplerError::PartSample { .. }));
    }
    assert!(matches!(
        go(0, &[0.0; 6], 1 << 44, 6),
        SamplerError::SampleNumber { .. }
    ));
}

/// Steps of dpm++2m end at t = 1 and at T, whatever their number, and are even in lambda where the
/// schedule has the steps for it.
#[test]
fn dpm_steps_are_even_in_lambda() {
    let schedule = schedule("linear:0.0001:0.02:1000");
    let at = |t: u32| lambda(schedule.alpha_bar()[t as usize]);
    for n in [1, 2, 3, 20, 500, 1000] {
        let plan = SamplerPlan::new(&schedule, Sampler::DpmSolver2M, n, None).unwrap();
        assert_eq!(plan.steps().len(), n as usize);
        assert_eq!(plan.steps()[0].t, 1000);
        let last = plan.steps()[n as usize - 1];
        assert_eq!(
            (last.t_prev, last.prev_from_last),
            (0, 0.0),
            "of lower order"
        );
        assert!(last.t == 1 || n == 1);
        if n == 20 {
            let even = (at(1) - at(1000)) / 19.0;
            for step in &plan.steps()[..14] {
                let h = at(step.t_prev) - at(step.t);
                assert!((h / even - 1.0).abs() < 0.1, "{} {h} {even}", step.t);
            }
        }
    }
}

/// x at t = 1 for data N(m, s^2) in f64, from x_T = sqrt(ab) m + sqrt(ab s^2 + 1 - ab) at one deviation.
/// Along the exact solution of the probability flow the deviation stays one.
fn gaussian_error(sampler: Sampler, n: u32) -> f64 {
    let schedule = schedule("linear:0.000001:0.0002:100000");
    let ab = schedule.alpha_bar();
    let (m, s) = (0.3_f64, 0.5_f64);
    let exact = |t: u32| {
        let ab = ab[t as usize];
        ab.sqrt() * m + (ab * s * s + 1.0 - ab).sqrt()
    };
    let path = even_in_lambda(&schedule, 100_000, n);
    let plan = SamplerPlan::along(&schedule, sampler, &path, None).unwrap();
    let (mut x, mut last) = (exact(100_000), 0.0);
    for step in &plan.steps()[..n as usize - 1] {
        let ab = ab[step.t as usize];
        let x0 = m + ab.sqrt() * s * s / (ab * s * s + 1.0 - ab) * (x - ab.sqrt() * m);
        let eps = (x - ab.sqrt() * x0) / (1.0 - ab).sqrt();
        (last, x) = step.element(None, x, eps, [0.0, last]);
    }
    (x - exact(1)).abs()
}

#[test]
fn dpm_is_of_second_order() {
    let order = |sampler| {
        let [coarse, fine] = [32, 128].map(|n| gaussian_error(sampler, n + 1));
        (coarse / fine).log2() / 2.0
    };
    let [first, second] = [Sampler::default(), Sampler::DpmSolver2M].map(order);
    assert!((first - 1.0).abs() < 0.1, "ddim: order {first}");
    assert!((second - 2.0).abs() < 0.25, "dpm++2m: order {second}");
    assert!(
        gaussian_error(Sampler::DpmSolver2M, 20) < 0.5 * gaussian_error(Sampler::default(), 20)
    );
}

/// The formulas of Lu et al. (Algorithm 2 of arXiv:2211.01095), written again.
#[test]
fn dpm_matches_its_formulas() {
    let schedule = schedule("constant:0.06:100");
    let plan = SamplerPlan::new(&schedule, Sampler::DpmSolver2M, 12, Some(1.0)).unwrap();
    let parts = |t: u32| {
        let ab = schedule.alpha_bar()[t as usize];
        let (alpha, sigma) = (ab.sqrt(), (1.0 - ab).sqrt());
        (alpha, sigma, (alpha / sigma).ln())
    };
    let (mut x, mut last, mut by_hand) = (0.7_f64, f64::NAN, 0.7_f64);
    let mut earlier: Option<(f64, f64)> = None;
    for (i, step) in plan.steps().iter().enumerate() {
        let eps = (1.3 * i as f64).sin();
        let (alpha, sigma, lambda) = parts(step.t);
        let x0 = ((by_hand - sigma * eps) / alpha).clamp(-1.0, 1.0);
        by_hand = if step.t_prev == 0 {
            x0
        } else {
            let (alpha_to, sigma_to, lambda_to) = parts(step.t_prev);
            let h = lambda_to - lambda;
            let d = earlier.map_or(x0, |(x0_last, lambda_last)| {
                let r = (lambda - lambda_last) / h;
                (1.0 + 0.5 / r) * x0 - 0.5 / r * x0_last
            });
            sigma_to / sigma * by_hand - alpha_to * ((-h).exp() - 1.0) * d
        };
        earlier = Some((x0, lambda));
        (last, x) = step.element(Some(1.0), x, eps, [0.0, last]);
        assert!((x - by_hand).abs() < 1e-12, "step {i}: {x} {by_hand}");
    }
}

/// Without the estimate of the step before there is no second step.
#[test]
fn dpm_needs_its_history() {
    let plan =
        SamplerPlan::new(&schedule("constant:0.06"), Sampler::DpmSolver2M, 10, None).unwrap();
    let mut x = [0.5; 6];
    plan.advance(0, samples(0, 0, 6), &mut x, &[0.1; 6], None)
        .unwrap();
    let error = plan.advance(1, samples(0, 0, 6), &mut x, &[0.1; 6], None);
    assert!(matches!(error, Err(SamplerError::History { step: 1 })));
}
