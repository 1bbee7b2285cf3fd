use super::*;
use crate::rng::{Philox, Stream};

fn normals(count: u32, index: u64) -> Vec<f64> {
    let philox = Philox::new(3, Stream::Noise, index);
    (0..count / 4).flat_map(|b| philox.normals4(b)).collect()
}

fn spec(n: usize, r: f64, mode: Mode) -> ExpansionSpec {
    ExpansionSpec {
        n,
        r,
        mode,
        range: None,
    }
}

fn largest_difference(a: &Expansion, b: &Expansion) -> f64 {
    let pairs = a.mixture.pi().iter().zip(b.mixture.pi());
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

#[test]
fn windows_agree_with_the_dense_form() {
    let x = normals(2000, 0);
    for r in [0.05, 0.19, 0.21, 0.5, 1.0, 3.0, 40.0] {
        for mode in [Mode::OneStep, Mode::Resp, Mode::Em(7)] {
            let given = ExpansionSpec {
                range: Some([-1.5, 2.0]),
                ..spec(60, r, mode)
            };
            let fast = expand(&x, given).unwrap();
            let (mu, sigma) = (fast.mixture.mu(), fast.mixture.sigma());
            let dense = expand_centres(&x, 1, mu, sigma, mode).unwrap();
            let off = largest_difference(&fast, &dense);
            assert!(off < 1e-12, "r {r} {mode}: {off:e}");
        }
    }
}

#[test]
fn product_grids_agree_with_the_dense_form() {
    let x = normals(1200, 1);
    for shape in [vec![20, 13], vec![7, 9, 5]] {
        for mode in [Mode::OneStep, Mode::Em(3)] {
            let fast = expand_grid(&x, &shape, None, 1.0, mode).unwrap();
            let (mu, sigma) = (fast.mixture.mu(), fast.mixture.sigma());
            let dense = expand_centres(&x, shape.len(), mu, sigma, mode).unwrap();
            assert!(largest_difference(&fast, &dense) < 1e-13);
            assert_eq!(fast.shape, shape);
        }
    }
}

/// Section 2.2: the variance grows by 2 s^2; em(10) takes most of it back.
#[test]
fn one_step_smooths_twice() {
    let x = normals(5000, 2);
    let mean = x.iter().sum::<f64>() / 5000.0;
    let truth = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 5000.0;
    let one = expand(&x, spec(20, 1.0, Mode::OneStep)).unwrap();
    let em = expand(&x, spec(20, 1.0, Mode::Em(10))).unwrap();
    let s = one.mixture.sigma()[0];
    let variance = one.mixture.variance()[0];
    assert!((variance - truth - 2.0 * s * s).abs() < 0.01, "{variance}");
    assert!((em.mixture.variance()[0] - truth).abs() < 0.05);
}

#[test]
fn auto_compares_the_width_with_the_variance() {
    let x = normals(2000, 4);
    let chosen = |n| expand(&x, spec(n, 1.0, Mode::Auto)).unwrap().mode;
    assert_eq!((chosen(10), chosen(200)), (Mode::Em(10), Mode::OneStep));
}

#[test]
fn samples_far_outside_a_given_range_count_for_its_edge() {
    let x = [1e3, 1e3 + 1.0, 2e3];
    for mode in [Mode::OneStep, Mode::Resp, Mode::Em(20)] {
        let given = ExpansionSpec {
            range: Some([0.0, 1.0]),
            ..spec(11, 1.0, mode)
        };
        let found = expand(&x, given).unwrap();
        assert!(found.mixture.pi()[10] > 0.999, "{mode}");
        let outside = Warning::Outside { count: 3, total: 3 };
        assert_eq!(found.warnings, [outside]);
    }
}

/// A component that dies out leaves its samples to logarithms, not to 0/0.
#[test]
fn vanishing_weights_stay_finite() {
    let basis = Basis::centres(1, vec![0.0, 1.0], vec![0.01, 0.01]);
    let pi = em_step(&[0.0, 1.0], &basis, &[1e-300, 1.0]);
    assert!((pi[0] - 0.5).abs() < 1e-9, "{pi:?}");
    let far = em_step(&[0.0], &basis, &[0.0, 1.0]);
    assert_eq!(far, [0.0, 1.0]);
}

#[test]
fn thread_count_does_not_change_a_bit() {
    let x = normals(40_000, 5);
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.unwrap()
            .install(|| expand(&x, spec(50, 1.0, Mode::Em(2))).unwrap())
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn bad_input_is_refused_by_name() {
    let text = |x: &[f64], s| expand(x, s).unwrap_err().to_string();
    let good = spec(10, 1.0, Mode::Auto);
    assert!(text(&[], good).contains("no samples"));
    assert!(text(&[2.5, 2.5], good).contains("one distinct value (2.5)"));
    assert!(text(&[1.0, f64::NAN], good).contains("x[1] is NaN"));
    assert!(text(&[1.0, 2.0], spec(1, 1.0, Mode::Auto)).contains("N is 1"));
    assert!(text(&[1.0, 2.0], spec(10, 0.0, Mode::Auto)).contains("r is 0"));
    assert!(text(&[1.0, 2.0], spec(10, 1.0, Mode::Em(0))).contains("em:0"));
    let range = |range| ExpansionSpec {
        range: Some(range),
        ..good
    };
    assert!(text(&[1.0], range([1.0, 1.0])).contains("1 to 1"));
    for far in [
        [-1e300, 1e300],
        [f64::MIN, f64::MAX],
        [0.0, 5e-324],
        [1e16, 1e16 + 2.0],
    ] {
        assert!(text(&far, good).contains("rescale or shift"), "{far:?}");
    }
    for scale in [1e-140, 1.0, 1e140] {
        let x: Vec<f64> = (0..50).map(|i| scale * f64::from(i * i)).collect();
        let found = expand(&x, spec(10, 1.0, Mode::Auto)).unwrap();
        assert_eq!(found.mode, Mode::Em(10));
        assert!((found.mixture.mean()[0] / scale - 808.5).abs() < 30.0);
    }
    assert!(expand(&[1.0], range([0.0, 1.0])).is_ok());
    let narrow = expand(&[1.0, 2.0], spec(10, 0.4, Mode::Auto)).unwrap();
    assert_eq!(narrow.warnings, [Warning::Narrow { r: 0.4 }]);
    for name in ["em", "em:0", "em:-1", "best"] {
        assert!(name.parse::<Mode>().is_err());
    }
    assert_eq!("em:12".parse::<Mode>().unwrap().to_string(), "em:12");
    assert!(expand_grid(&[0.0; 8], &[2; 4], None, 1.0, Mode::Auto).is_err());
}
