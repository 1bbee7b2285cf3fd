use super::*;

fn spec(variant: Variant) -> EntropySpec {
    EntropySpec {
        variant,
        floor: 0.3,
        ..EntropySpec::default()
    }
}

fn variants() -> impl Iterator<Item = Variant> {
    NAMES.iter().map(|(v, _)| *v)
}

fn batch(rows: usize, k: usize) -> (Vec<f64>, Vec<f64>) {
    let index = 0..rows * k;
    let z = index.clone().map(|i| 3.0 * (i as f64 * 1.37).sin());
    (
        z.collect(),
        index.map(|i| (i * 7 % 5) as f64 / 4.0).collect(),
    )
}

fn evaluate(spec: EntropySpec, k: usize, z: &[f64], y: &[f64]) -> (f64, Vec<f64>) {
    let loss = EntropyLoss::new(spec, k).unwrap();
    let mut grad = vec![f64::NAN; z.len()];
    let value = loss.evaluate(z, y, &mut grad, &mut loss.workspace());
    (value.unwrap(), grad)
}

/// Finite differences of the two losses without frozen weights; `tests/reference.rs` has the others.
#[test]
fn gradients_without_weights_are_exact() {
    let (z, y) = batch(3, 7);
    for variant in [Variant::Bce, Variant::SoftmaxCe] {
        let (_, grad) = evaluate(spec(variant), 7, &z, &y);
        for i in 0..z.len() {
            let h = 1e-5;
            let moved = |h: f64| {
                let mut z = z.clone();
                z[i] += h;
                evaluate(spec(variant), 7, &z, &y).0
            };
            let slope = (moved(h) - moved(-h)) / (2.0 * h);
            assert!((slope - grad[i]).abs() < 1e-9, "{variant} {i}");
        }
    }
}

#[test]
fn any_finite_logit_is_safe() {
    let z = [0.0, 100.0, -100.0, 750.0, -750.0, 1e300, -1e300, 1e-300];
    for y in [[0.0; 8], [1.0; 8], [0.5; 8]] {
        for variant in variants() {
            let (loss, grad) = evaluate(spec(variant), 8, &z, &y);
            assert!(!loss.is_nan(), "{variant} {loss}");
            assert!(grad.iter().all(|g| g.is_finite()), "{variant} {grad:?}");
        }
    }
}

#[test]
fn gated_with_no_gain_is_bce_and_one_attribute_keeps_its_floor() {
    let (z, y) = batch(4, 6);
    let plain = EntropySpec {
        gain: 0.0,
        ..EntropySpec::default()
    };
    let (a, b) = (
        evaluate(plain, 6, &z, &y),
        evaluate(spec(Variant::Bce), 6, &z, &y),
    );
    assert!((a.0 - b.0).abs() < 1e-15);
    let one = evaluate(spec(Variant::Gated), 1, &z, &y);
    let bce = evaluate(spec(Variant::Bce), 1, &z, &y);
    assert!((one.0 - 0.3 * bce.0).abs() < 1e-15);
}

#[test]
fn a_window_agrees_with_the_dense_form() {
    let k = 600;
    let (z, y) = batch(2, k);
    for variant in variants() {
        let dense = evaluate(spec(variant), k, &z, &y);
        for (reach, tol) in [(6.0, 1e-7), (9.0, 1e-13)] {
            let near = EntropySpec {
                reach: Reach::Sigmas(reach),
                ..spec(variant)
            };
            let near = evaluate(near, k, &z, &y);
            assert!((near.0 - dense.0).abs() <= tol * dense.0.abs(), "{variant}");
            let size = dense.1.iter().fold(0.0, |a: f64, b| a.max(b.abs()));
            let pairs = near.1.iter().zip(&dense.1);
            assert!(pairs.into_iter().all(|(a, b)| (a - b).abs() <= tol * size));
        }
    }
}

/// A batch cut into tasks gives the rows of small batches, and the same bits for any threads.
#[test]
fn large_batches_agree_with_small_ones() {
    let (rows, k) = (999, 40);
    let (z, y) = batch(rows, k);
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.unwrap()
            .install(|| evaluate(EntropySpec::default(), k, &z, &y))
    };
    let (loss, grad) = run(1);
    assert_eq!((loss, &grad), (run(3).0, &run(3).1));
    let mut sum = 0.0;
    for (i, (z, y)) in z.chunks(k).zip(y.chunks(k)).enumerate() {
        let (loss, small) = evaluate(EntropySpec::default(), k, z, y);
        sum += loss;
        for (a, b) in small.iter().zip(&grad[i * k..]) {
            assert!((a / rows as f64 - b).abs() < 1e-18);
        }
    }
    assert!((sum / rows as f64 - loss).abs() < 1e-13);
}

#[test]
fn bad_input_is_refused_by_name() {
    let new = |s: EntropySpec, k| EntropyLoss::new(s, k).map(|_| ()).unwrap_err().to_string();
    let good = EntropySpec::default();
    assert!(new(good, 0).contains("K is 0"));
    assert!(new(EntropySpec { sigma: 0.0, ..good }, 5).contains("sigma is 0"));
    assert!(
        new(
            EntropySpec {
                floor: -1.0,
                ..good
            },
            5
        )
        .contains("floor is -1")
    );
    assert!(new(EntropySpec { floor: 0.0, ..good }, 1).contains("no neighbours"));
    assert!(new(spec(Variant::TwoSided), 1).contains("two_sided of one attribute"));
    let loss = EntropyLoss::new(good, 3).unwrap();
    let mut space = loss.workspace();
    let mut text = |z: &[f64], y: &[f64]| {
        let mut grad = vec![0.0; z.len()];
        let found = loss.evaluate(z, y, &mut grad, &mut space);
        found.unwrap_err().to_string()
    };
    assert!(text(&[], &[]).contains("logits has 0"));
    assert!(text(&[0.0; 4], &[0.0; 4]).contains("logits has 4"));
    assert!(text(&[0.0; 6], &[0.0; 3]).contains("labels has 3"));
    let nan = [0.0, 0.0, 0.0, 0.0, f64::NAN, 0.0];
    assert!(text(&nan, &[0.0; 6]).contains("row 1, attribute 1 is NaN"));
    assert!(text(&[0.0; 3], &[0.0, 1.0, 1.2]).contains("row 0, attribute 2 is 1.2"));
    assert!("focal".parse::<Variant>().is_err());
    for variant in variants() {
        assert_eq!(variant.to_string().parse::<Variant>().unwrap(), variant);
    }
}
