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
